//! File runbooks, from outside: what is read and written, and that nothing beyond a root is.
//!
//! It stands apart because the oracle is the disk: a secret beside the root that no answer may
//! hold, and whose bytes must be the same at the end.

use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::fs::{CWD, FileType, Mode, mknodat};
use serde_json::{Value, json};

use chillgate_tests::wait::{seconds, within};
use chillgate_tests::{Gate, Host};

const SECRET: &str = "what nobody may read";

/// A root with a few things in it, and a secret beside it.
async fn gate() -> (Gate, Host) {
    let tables = r#"
[server.ops]
builtin = "ops"

[[runbook]]
name = "app"
type = "file"
description = "The settings of the app"
roots = ["@DIR@/data"]
write = true
max-size = "4KiB"

[[runbook]]
name = "logs"
type = "file"
description = "Its logs"
roots = ["@DIR@/data/logs", "/dev"]
"#;
    let gate = Gate::with(tables).start().await;
    let base = gate.folder();
    for folder in ["data/sub", "data/logs", "data-evil", "outside"] {
        std::fs::create_dir_all(base.join(folder)).unwrap();
    }
    for (file, text) in [
        ("data/a.conf", "a = 1\n"),
        ("data/sub/b.conf", "b = 2\n"),
        ("data-evil/secret", SECRET),
        ("outside/secret", SECRET),
        ("secret", SECRET),
        ("data/large", &"x".repeat(4097)),
    ] {
        std::fs::write(base.join(file), text).unwrap();
    }
    std::fs::write(base.join("data/binary"), [0xff, 0xfe, 0]).unwrap();
    for (to, link) in [
        ("../secret", "data/up"),
        ("../outside", "data/out"),
        ("sub", "data/in"),
        ("sub/b.conf", "data/b"),
        ("loop", "data/loop"),
        ("/proc/self/root", "data/root"),
        ("/proc/self/environ", "data/environ"),
    ] {
        symlink(to, base.join(link)).unwrap();
    }
    symlink(base.join("secret"), base.join("data/absolute")).unwrap();
    symlink(base.join("data/a.conf"), base.join("data/absolute-in")).unwrap();
    mknodat(
        CWD,
        base.join("data/pipe"),
        FileType::Fifo,
        Mode::from_raw_mode(0o666),
        0,
    )
    .unwrap();
    mknodat(
        CWD,
        base.join("data/socket"),
        FileType::Socket,
        Mode::from_raw_mode(0o666),
        0,
    )
    .unwrap();
    let host = gate.host().open().await;
    (gate, host)
}

fn untouched(base: &Path) {
    for file in ["secret", "outside/secret", "data-evil/secret"] {
        assert_eq!(
            std::fs::read_to_string(base.join(file)).unwrap(),
            SECRET,
            "{file}"
        );
    }
    for folder in ["outside", "data-evil"] {
        assert_eq!(
            std::fs::read_dir(base.join(folder)).unwrap().count(),
            1,
            "{folder}"
        );
    }
}

#[tokio::test]
async fn files_are_read_listed_and_written_with_their_hashes() {
    let (gate, host) = gate().await;
    let base = gate.folder();
    let file = base.join("data/a.conf");
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o4640)).unwrap();
    let read = host.call("app_read", json!({"path": "a.conf"})).await;
    let said = read.result()["structuredContent"].clone();
    assert_eq!(said["text"], "a = 1\n");
    let hash = said["sha256"].as_str().unwrap().to_owned();
    assert_eq!(
        hash,
        "cb78bd8a17f7b751fe0d4663366dcbc257204033ef7ddd64b1f2969573b5b2e2"
    );
    // Links that stay inside are followed, whole paths are taken.
    for path in ["b", "in/b.conf", "sub/b.conf", "./sub/./b.conf"] {
        let read = host.call("app_read", json!({"path": path})).await;
        assert_eq!(
            read.result()["structuredContent"]["text"],
            "b = 2\n",
            "{path}"
        );
    }
    let whole = base.join("data/sub/b.conf").display().to_string();
    let read = host.call("app_read", json!({"path": whole})).await;
    assert_eq!(read.result()["structuredContent"]["text"], "b = 2\n");

    let listed = host.call("app_list", json!({})).await;
    let entries = listed.result()["structuredContent"]["entries"]
        .as_array()
        .unwrap()
        .clone();
    let kind = |name: &str| {
        let found = entries.iter().find(|entry| entry["name"] == name);
        found.map_or(Value::Null, |entry| entry["kind"].clone())
    };
    for (name, is) in [
        ("a.conf", "file"),
        ("sub", "folder"),
        ("up", "link"),
        ("pipe", "other"),
    ] {
        assert_eq!(kind(name), is, "{name}");
    }

    let put = |content: &str, expect: Value| {
        let mut arguments = json!({"path": "a.conf", "content": content});
        if !expect.is_null() {
            arguments["expect"] = expect;
        }
        host.call("app_write", arguments)
    };
    let wrote = put("a = 2\n", json!(hash)).await;
    let said = wrote.result()["structuredContent"].clone();
    assert_eq!(said["before_sha256"], hash, "{}", wrote.answer());
    assert_eq!(std::fs::read_to_string(&file).unwrap(), "a = 2\n");
    // What it allowed stays, but not that it runs as its owner.
    assert_eq!(
        file.metadata().unwrap().permissions().mode() & 0o7777,
        0o640
    );
    // The file is not the one that was read any more.
    let stale = put("a = 3\n", json!(hash)).await;
    assert_eq!(stale.result()["isError"], true);
    assert!(
        stale.tool_text().contains("has changed"),
        "{}",
        stale.tool_text()
    );
    let absent = put("a = 3\n", json!("absent")).await;
    assert_eq!(absent.result()["isError"], true);
    assert_eq!(std::fs::read_to_string(&file).unwrap(), "a = 2\n");
    let new = json!({"path": "sub/new", "content": "n", "expect": "absent"});
    let new = host.call("app_write", new).await;
    assert_eq!(
        new.result()["structuredContent"]["before_sha256"],
        Value::Null
    );
    assert_eq!(
        std::fs::read_to_string(base.join("data/sub/new")).unwrap(),
        "n"
    );
    assert_eq!(put("a = 4\n", Value::Null).await.result()["isError"], false);
    let left: Vec<PathBuf> = std::fs::read_dir(base.join("data"))
        .unwrap()
        .map(|e| e.unwrap().path())
        .collect();
    assert!(
        !left
            .iter()
            .any(|path| path.display().to_string().contains(".chillgate-")),
        "{left:?}"
    );
    // The other runbook reads only.
    let tools = host.tools().await;
    assert!(tools.contains(&"logs_read".to_owned()) && !tools.contains(&"logs_write".to_owned()));
    let denied = json!({"path": "x", "content": "x"});
    assert_eq!(host.call("logs_write", denied).await.code(), Some(-32602));
}

#[tokio::test]
async fn no_path_leads_out_of_a_root_or_into_something_else_than_a_file() {
    let (gate, host) = gate().await;
    let base = gate.folder().to_owned();
    let at = |path: &str| base.join(path).display().to_string();
    let long = "a/".repeat(3000);
    let name = "n".repeat(300);
    let paths = [
        String::new(),
        "..".into(),
        "../secret".into(),
        "sub/../../secret".into(),
        "./../secret".into(),
        "sub/..".into(),
        ".../../secret".into(),
        "/".into(),
        "/etc/passwd".into(),
        "//etc/passwd".into(),
        "/proc/self/environ".into(),
        "/proc/self/root/etc/passwd".into(),
        at("secret"),
        at("data-evil/secret"),
        at("data/../secret"),
        at("data//a.conf"),
        at("dat"),
        at("outside/secret"),
        at("data-evil"),
        format!("/{}", at("data/a.conf")),
        "%2e%2e/secret".into(),
        "..%2fsecret".into(),
        "%2e%2e%2fsecret".into(),
        "..\\secret".into(),
        "\u{2024}\u{2024}/secret".into(),
        "․․/secret".into(),
        "．．/secret".into(),
        "a.conf\0".into(),
        "a.conf\0../secret".into(),
        "a.conf\n".into(),
        "\u{1b}a.conf".into(),
        "up".into(),
        "out/secret".into(),
        "out".into(),
        "absolute".into(),
        "absolute-in".into(),
        "root/etc/passwd".into(),
        "environ".into(),
        "loop".into(),
        "pipe".into(),
        "socket".into(),
        "a.conf/x".into(),
        "sub/b.conf/..".into(),
        "~".into(),
        "~/secret".into(),
        "$HOME/secret".into(),
        "file:///etc/passwd".into(),
        "nowhere".into(),
        "sub".into(),
        ".".into(),
        "large".into(),
        "binary".into(),
        long,
        name,
        "a//b".into(),
        "*".into(),
    ];
    assert!(paths.len() >= 40);
    for path in &paths {
        let read = host.call("app_read", json!({"path": path}));
        let read = within(path, seconds(10), read).await;
        assert_eq!(
            read.result()["isError"],
            true,
            "{path:?}: {}",
            read.answer()
        );
        assert!(!read.answer().to_string().contains(SECRET), "{path:?}");
    }
    let written = ["nowhere", "name", "*", "~", "binary", "large", "a.conf\n"];
    for path in paths
        .iter()
        .filter(|path| !written.contains(&path.as_str()))
    {
        // What would be a new name in the root is one: `..%2fsecret` has no meaning of its own.
        let is_new_name = ["..%2fsecret", "%2e%2e%2fsecret", "..\\secret"].contains(&path.as_str());
        if is_new_name {
            continue;
        }
        let wrote = host.call("app_write", json!({"path": path, "content": "mine"}));
        let wrote = within(path, seconds(10), wrote).await;
        assert_eq!(
            wrote.result()["isError"],
            true,
            "{path:?}: {}",
            wrote.answer()
        );
    }
    for path in [
        "..",
        "/",
        "out",
        "up",
        "/etc",
        &at("data-evil"),
        "root",
        "root/etc",
        "a.conf",
        "pipe",
        "%2e%2e",
    ] {
        let listed = host.call("app_list", json!({"path": path})).await;
        assert_eq!(
            listed.result()["isError"],
            true,
            "{path:?}: {}",
            listed.answer()
        );
    }
    for path in [
        "/dev/null",
        "/dev/zero",
        "/dev/random",
        "/dev/fd/0",
        "/dev/stdin",
        "a.conf",
    ] {
        let read = host.call("logs_read", json!({"path": path}));
        let read = within(path, seconds(10), read).await;
        assert_eq!(
            read.result()["isError"],
            true,
            "{path:?}: {}",
            read.answer()
        );
    }
    for arguments in [
        json!({}),
        json!({"path": 1}),
        json!({"path": ["a.conf"]}),
        json!({"path": "a.conf", "root": "/"}),
        json!({"path": "a.conf", "content": "x", "mode": "0777"}),
        json!({"path": "a.conf", "content": 1}),
        json!({"path": "a.conf", "content": "x".repeat(4097)}),
        json!({"path": "a.conf"}),
        json!({"path": "a.conf", "content": "x", "expect": "none"}),
    ] {
        let wrote = host.call("app_write", arguments.clone()).await;
        assert_eq!(
            wrote.result()["isError"],
            true,
            "{arguments}: {}",
            wrote.answer()
        );
    }
    assert_eq!(
        std::fs::read_to_string(base.join("data/a.conf")).unwrap(),
        "a = 1\n"
    );
    untouched(&base);
}

/// Says that it is over, also when a test fails.
struct Over<'a>(&'a AtomicBool);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_folder_that_is_swapped_for_a_link_meanwhile_leads_nowhere() {
    let (gate, host) = gate().await;
    let base = gate.folder().to_owned();
    let data = base.join("data");
    std::fs::create_dir(data.join("real")).unwrap();
    std::fs::write(data.join("real/secret"), "inside").unwrap();
    symlink("../outside", data.join("fake")).unwrap();
    let stop = AtomicBool::new(false);
    let (mut inside, mut refused) = (0, 0);
    std::thread::scope(|scope| {
        let swapping = scope.spawn(|| {
            // `here` is by turns the folder and the link.
            let here = data.join("here");
            while !stop.load(Ordering::Relaxed) {
                for real in ["real", "fake"] {
                    let _ = std::fs::rename(data.join(real), &here);
                    let _ = std::fs::rename(&here, data.join(real));
                }
            }
        });
        let over = Over(&stop);
        let asking = async {
            for turn in 0..400 {
                let reply = if turn % 4 == 3 {
                    let arguments = json!({"path": "here/mine", "content": "mine"});
                    host.call("app_write", arguments).await
                } else {
                    host.call("app_read", json!({"path": "here/secret"})).await
                };
                let text = reply.answer().to_string();
                assert!(!text.contains(SECRET), "{text}");
                if text.contains("inside") {
                    inside += 1;
                } else {
                    refused += 1;
                }
            }
        };
        tokio::task::block_in_place(|| tokio::runtime::Handle::current().block_on(asking));
        drop(over);
        swapping.join().unwrap();
    });
    assert!(
        inside > 0 && refused > 0,
        "no race was run: {inside} {refused}"
    );
    untouched(&base);
}
