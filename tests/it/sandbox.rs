//! A sandboxed server stays in its sandbox; outside of one the same attempts succeed.
//!
//! It stands apart because the same script runs twice, and the run without a sandbox is what makes
//! the other one a proof: an attempt that fails by itself shows nothing.

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::{Value, json};

use chillgate_tests::script::interop;
use chillgate_tests::server::toml_list;
use chillgate_tests::wait::seconds;
use chillgate_tests::{Gate, until};

use tempfile::TempDir;

use crate::{MOCK, mock};

const ESCAPE: &str = include_str!("sandbox/escape.py");

/// What Python and the mock server need that is no system folder.
fn readable() -> String {
    toml_list(&[Path::new(MOCK).parent().unwrap().to_str().unwrap()])
}

/// A folder with things to get at, and one in it that the sandbox leaves open.
fn place() -> TempDir {
    let place = tempfile::tempdir().unwrap();
    let at = |name: &str| place.path().join(name);
    std::fs::create_dir(at("own")).unwrap();
    for (file, text) in FILES {
        std::fs::write(at(file), text).unwrap();
    }
    place
}

const FILES: [(&str, &str); 3] = [("secret", "planted"), ("cut", "whole"), ("remove", "there")];

async fn started(sandbox: &str) -> Gate {
    Gate::with(&mock("a").table(sandbox)).start().await
}

/// Every attempt and how it went.
async fn attempts(gate: &Gate, place: &Path) -> BTreeMap<String, String> {
    let _listening = std::os::unix::net::UnixListener::bind(place.join("listening")).unwrap();
    let folder = place.to_str().unwrap();
    let (pid, port) = (gate.pid().to_string(), gate.health().port().to_string());
    let words = ["/usr/bin/python3", "-c", ESCAPE, folder, &pid, &port];
    let host = gate.host().open().await;
    let reply = host.call("run", json!({"command": words})).await;
    let run: Value = serde_json::from_str(reply.tool_text()).unwrap();
    assert_eq!(run["code"], 0, "{run}");
    serde_json::from_str(run["out"].as_str().unwrap()).unwrap()
}

fn is_refused(how: &str) -> bool {
    // Landlock refuses links and renames from outside as if it were another file system.
    matches!(how, "EPERM" | "EACCES" | "EXDEV")
}

#[tokio::test]
async fn no_attempt_gets_out_and_all_do_without_a_sandbox() {
    let read = readable();
    let inside = place();
    let own = inside.path().join("own").display().to_string();
    let sandbox = format!("sandbox = {{ read = {read}, write = [\"{own}\"], network = \"none\" }}");
    let guarded = started(&sandbox).await;
    let results = attempts(&guarded, inside.path()).await;
    let out: Vec<_> = results.iter().filter(|(_, how)| !is_refused(how)).collect();
    assert!(out.is_empty(), "these got out: {out:?}");
    assert!(results.len() >= 20);
    for (file, text) in FILES {
        let now = std::fs::read_to_string(inside.path().join(file)).unwrap();
        assert_eq!(now, text);
    }
    let line = guarded
        .log()
        .into_iter()
        .find(|line| line.contains("within limits"));
    let line = line.expect("what was given is in the log");
    assert!(
        line.contains("landlock") && line.contains("seccomp"),
        "{line}"
    );

    let open = started("").await;
    let results = attempts(&open, place().path()).await;
    let refused: Vec<_> = results.iter().filter(|(_, how)| is_refused(how)).collect();
    assert!(
        refused.is_empty(),
        "the control cannot do these itself: {refused:?}"
    );
}

#[tokio::test]
async fn a_process_namespace_hides_the_gate_as_well() {
    let read = readable();
    let sandbox = format!("sandbox = {{ read = {read}, pid-namespace = true }}");
    let gate = started(&sandbox).await;
    let host = gate.host().open().await;
    assert_eq!(host.call("pid", json!({})).await.tool_text(), "2");
    let reply = host.call("crash", json!({})).await;
    let said = reply.answer().to_string();
    assert!(said.contains("signal 6"), "{said}");
    until("the next server", seconds(10), async || {
        let reply = host.call("echo", json!({"message": "back"})).await;
        reply.code().is_none().then_some(())
    })
    .await;
}

#[tokio::test]
async fn only_the_ports_named_can_be_connected_to() {
    let read = readable();
    let probe = "import socket, sys\ntry:\n socket.create_connection(('127.0.0.1', int(sys.argv[1])))\n print('in')\nexcept PermissionError: print('out')";
    for (ports, wanted) in [("[1]", "out\n"), ("[@PORT@]", "in\n")] {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port().to_string();
        let ports = ports.replace("@PORT@", &port);
        let sandbox = format!("sandbox = {{ read = {read}, network = {ports} }}");
        let gate = started(&sandbox).await;
        let host = gate.host().open().await;
        let words = ["/usr/bin/python3", "-c", probe, &port];
        let reply = host.call("run", json!({"command": words})).await;
        let run: Value = serde_json::from_str(reply.tool_text()).unwrap();
        assert_eq!(run["out"], wanted, "{run}");
    }
}

#[tokio::test]
async fn npx_and_node_work_in_a_sandbox() {
    let everything = [
        "npx",
        "-y",
        "@modelcontextprotocol/server-everything",
        "stdio",
    ];
    let from = interop().join("ts").display().to_string();
    let table = format!(
        "[server.npx]\ncommand = {}\ncwd = \"{from}\"\nenv = {{ npm_config_cache = \"@DIR@/npm\" }}\n\
         sandbox = {{ write = [\"@DIR@\", \"/tmp\"] }}\n",
        toml_list(&everything)
    );
    let gate = Gate::with(&table).start().await;
    let host = gate.host().open().await;
    let reply = host.call("echo", json!({"message": "from inside"})).await;
    assert!(
        reply.tool_text().contains("from inside"),
        "{:#?}",
        gate.log()
    );
}

#[tokio::test]
async fn a_sandbox_that_cannot_be_had_whole_is_no_start() {
    let sandbox = "sandbox = { read = [\"/nowhere/at/all\"] }";
    let gate = started(sandbox).await;
    let host = gate.host().open().await;
    let reply = host.call("echo", json!({})).await;
    let said = reply.answer().to_string();
    assert!(
        said.contains("/nowhere/at/all") && said.contains("sandbox.read"),
        "{said}"
    );
}

const TEMPORARY: &str = "
import json, os, sys, tempfile
def attempt(work):
    try: work()
    except OSError as error: return os.strerror(error.errno)
    return 'done'
own = os.environ['TMPDIR']
print(json.dumps({
    'own': own, 'TMP': os.environ['TMP'], 'TEMP': os.environ['TEMP'],
    'mode': oct(os.stat(own).st_mode & 0o777), 'used': tempfile.gettempdir(),
    'write': attempt(lambda: open(own + '/file', 'w').write('x')),
    'read planted': attempt(lambda: open(sys.argv[1]).read()),
    'change planted': attempt(lambda: open(sys.argv[1], 'a').write('x')),
    'list': attempt(lambda: os.listdir('/tmp')),
    'make': attempt(lambda: os.mkdir('/tmp/chillgate-test-' + str(os.getpid()))),
}))";

/// What a server with these tables sees of temporary folders.
async fn temporary(tables: &str, planted: &Path) -> (Gate, Value) {
    let gate = Gate::with(tables).start().await;
    let host = gate.host().open().await;
    let words = [
        "/usr/bin/python3",
        "-c",
        TEMPORARY,
        planted.to_str().unwrap(),
    ];
    let reply = host.call("run", json!({"command": words})).await;
    let run: Value = serde_json::from_str(reply.tool_text()).unwrap();
    assert_eq!(run["code"], 0, "{run}");
    let seen = serde_json::from_str(run["out"].as_str().unwrap()).unwrap();
    (gate, seen)
}

#[tokio::test]
async fn what_others_keep_in_tmp_is_closed_and_an_own_folder_is_open() {
    let planted = tempfile::NamedTempFile::new_in("/tmp").unwrap();
    let state = tempfile::tempdir().unwrap();
    let read = readable();
    let folder = format!("[state]\nfolder = \"{}\"\n", state.path().display());
    let boxed = folder.clone() + &mock("a").table(&format!("sandbox = {{ read = {read} }}"));
    let (gate, seen) = temporary(&boxed, planted.path()).await;
    let own = Path::new(seen["own"].as_str().unwrap());
    assert_eq!(
        own.parent(),
        Some(state.path().join("tmp").as_path()),
        "{seen}"
    );
    for variable in ["TMP", "TEMP", "used"] {
        assert_eq!(seen[variable], seen["own"], "{seen}");
    }
    assert_eq!(seen["mode"], "0o700", "{seen}");
    assert_eq!(seen["write"], "done", "{seen}");
    for closed in ["read planted", "change planted", "list", "make"] {
        assert_eq!(seen[closed], "Permission denied", "{closed}: {seen}");
    }
    let given = gate
        .log()
        .into_iter()
        .find(|line| line.contains("within limits"));
    assert!(given.unwrap().contains("own temporary folder"));

    // Without a state folder there is one as well, and named folders are open besides it.
    let write = format!("sandbox = {{ read = {read}, write = [\"/tmp\"] }}");
    let (gate, seen) = temporary(&mock("a").table(&write), planted.path()).await;
    for open in ["write", "read planted", "change planted", "list"] {
        assert_eq!(seen[open], "done", "{open}: {seen}");
    }
    let own = seen["own"].as_str().unwrap().to_owned();
    assert!(
        own.contains("/chillgate-") && Path::new(&own).exists(),
        "{own}"
    );
    drop(gate.stop().await);
    assert!(!Path::new(&own).exists(), "{own}");
    for entry in std::fs::read_dir("/tmp").unwrap().flatten() {
        if entry
            .file_name()
            .to_string_lossy()
            .starts_with("chillgate-test-")
        {
            let _ = std::fs::remove_dir(entry.path());
        }
    }
}

#[tokio::test]
async fn a_temporary_folder_that_the_user_names_is_kept() {
    let named = tempfile::tempdir().unwrap();
    let planted = named.path().join("planted");
    std::fs::write(&planted, "").unwrap();
    let of = named.path().display();
    let read = readable();
    let tables = mock("a").table(&format!(
        "env = {{ TMPDIR = \"{of}\", TMP = \"-\", TEMP = \"-\" }}\nsandbox = {{ read = {read} }}"
    ));
    let (gate, seen) = temporary(&tables, &planted).await;
    assert_eq!(seen["own"], named.path().to_str().unwrap(), "{seen}");
    assert_eq!(
        (&seen["write"], &seen["TMP"]),
        (&json!("done"), &json!("-")),
        "{seen}"
    );
    drop(gate.stop().await);
    assert!(planted.exists(), "it is the user's");
}
