//! What went wrong with a server is recognised, remembered, and looked at before the next start.
//!
//! It stands apart because a memory is only seen across processes: real servers that really fail,
//! gates one after another and side by side over one folder, and kills at any moment.

use std::collections::BTreeMap;
use std::net::TcpListener;
use std::path::Path;
use std::process::Stdio;

use chillgate_tests::gate::{Builder, bare, ended, serve};
use chillgate_tests::http::{get, request};
use chillgate_tests::process::free_port;
use chillgate_tests::server::toml_list;
use chillgate_tests::wait::{long, seconds, within};
use chillgate_tests::{Gate, modern, until};
use serde_json::{Value, json};

use crate::MOCK;

/// A gate that remembers in this folder.
pub(crate) fn gate(tables: &str, folder: &Path) -> Builder {
    Gate::with(&format!(
        "[state]\nfolder = \"{}\"\n{tables}",
        folder.display()
    ))
}

/// `chillgate incidents --json --all` over a folder, each by its server.
pub(crate) async fn listed(folder: &Path) -> BTreeMap<String, Value> {
    let all = incidents(folder, &["--json", "--all"]).await;
    let all: Vec<Value> = serde_json::from_str(&all).unwrap_or_else(|_| panic!("no JSON: {all}"));
    all.into_iter()
        .map(|it| (it["server"].as_str().unwrap().to_owned(), it))
        .collect()
}

pub(crate) async fn incidents(folder: &Path, args: &[&str]) -> String {
    let mut list = bare();
    list.arg("incidents")
        .args(args)
        .env("CHILLGATE__STATE__FOLDER", folder);
    let output = within("the list", seconds(10), list.output())
        .await
        .unwrap();
    let (out, err) = (output.stdout, String::from_utf8_lossy(&output.stderr));
    assert_eq!(output.status.code(), Some(0), "{err}");
    String::from_utf8(out).unwrap()
}

/// The entry of a server in `/readyz`.
pub(crate) async fn ready(gate: &Gate, server: &str) -> Value {
    let answer = get(gate.health(), "/readyz").await;
    let all: Value = serde_json::from_str(&answer.text()).unwrap();
    let servers = all["servers"].as_array().unwrap();
    let found = servers.iter().find(|it| it["name"] == server);
    found.unwrap_or_else(|| panic!("{server}: {all}")).clone()
}

/// The fields of the first log line of this text about this server.
pub(crate) fn logged(gate: &Gate, text: &str, server: &str) -> Option<Value> {
    let lines = gate.log();
    let lines = lines.iter().filter(|line| line.contains(text));
    let mut lines = lines.filter_map(|line| serde_json::from_str::<Value>(line).ok());
    lines.find(|line| {
        line.to_string()
            .contains(&format!("\"server\":\"{server}\""))
    })
}

/// What each of these servers fails with, really; the remedy it must meet.
fn broken(taken: u16, closed: u16) -> Vec<(&'static str, Vec<String>, &'static str, &'static str)> {
    let words = |words: &[&str]| words.iter().map(|it| (*it).to_owned()).collect::<Vec<_>>();
    let python = |script: &str| words(&["python3", "-c", script]);
    let node = |script: &str| words(&["node", "-e", script]);
    vec![
        (
            "absent",
            words(&["no-such-program-here"]),
            "missing-binary",
            "",
        ),
        ("plain", words(&["@DIR@/plain.sh"]), "not-executable", ""),
        (
            "variable",
            python("import os; os.environ['NO_SUCH_API_KEY']"),
            "missing-variable",
            "",
        ),
        (
            "port",
            node(&format!(
                "require('http').createServer().listen({taken}, '127.0.0.1')"
            )),
            "port-in-use",
            "",
        ),
        (
            "denied",
            python(
                "import os\ntry: os.setuid(65534)\nexcept PermissionError: pass\nopen('/etc/shadow')",
            ),
            "permission-denied",
            "",
        ),
        (
            "memory",
            words(&[
                "node",
                "--max-old-space-size=16",
                "-e",
                "const a = []; for (;;) a.push(new Array(1e5).fill(Math.random()))",
            ]),
            "out-of-memory",
            "",
        ),
        (
            "cache",
            words(&["npm", "ci", "--offline", "--cache", "@DIR@/cache"]),
            "package-cache",
            "cwd = \"@DIR@\"",
        ),
        (
            "banner",
            words(&["sh", "-c", "echo Listening; exec sleep 1000"]),
            "not-mcp",
            "start-timeout = \"1s\"",
        ),
        ("echo", words(&["cat"]), "repeats", "era = \"legacy\""),
        (
            "silence",
            words(&["sleep", "1000"]),
            "silent",
            "start-timeout = \"1s\"",
        ),
        (
            "version",
            node("require('node:no-such-builtin')"),
            "node-version",
            "",
        ),
        (
            "module",
            python("import no_such_module_here"),
            "python-module",
            "",
        ),
        (
            "refused",
            node(&format!("require('net').connect({closed}, '127.0.0.1')")),
            "network-refused",
            "",
        ),
        (
            "disk",
            python("open('/dev/full', 'w').write('x' * 100000)"),
            "disk-full",
            "",
        ),
        (
            "crash",
            words(&["sh", "-c", "kill -SEGV $$"]),
            "crashed",
            "",
        ),
    ]
}

/// A lock file that wants another package than the one that lies there, and a script that may not be run.
fn broken_cache(folder: &Path) {
    let wrong = format!("sha512-{}==", "A".repeat(86));
    let lock = json!({
        "name": "a", "version": "1.0.0", "lockfileVersion": 3,
        "packages": {
            "": {"name": "a", "version": "1.0.0", "dependencies": {"dep": "file:dep.tgz"}},
            "node_modules/dep": {"version": "1.0.0", "resolved": "file:dep.tgz", "integrity": wrong}
        }
    });
    let package = json!({"name": "a", "version": "1.0.0", "dependencies": {"dep": "file:dep.tgz"}});
    for (name, text) in [
        ("package.json", package.to_string()),
        ("package-lock.json", lock.to_string()),
        ("dep.tgz", "no archive at all".to_owned()),
        ("plain.sh", "#!/bin/sh\n".to_owned()),
    ] {
        std::fs::write(folder.join(name), text).unwrap();
    }
}

#[tokio::test]
async fn real_failures_are_recognised_told_with_their_remedy_and_remembered() {
    let folder = tempfile::tempdir().unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = listener.local_addr().unwrap().port();
    let broken = broken(taken, free_port());
    let table = |(name, command, _, more): &(&str, Vec<String>, &str, &str)| {
        let command = toml_list(command);
        format!("[server.{name}]\ncommand = {command}\n{more}\n")
    };
    let tables = broken.iter().map(table).collect::<Vec<_>>().concat();
    let work = tempfile::tempdir().unwrap();
    broken_cache(work.path());
    let tables = tables.replace("@DIR@", &work.path().display().to_string());
    for round in 1..=2_u64 {
        let gate = gate(&tables, folder.path()).start().await;
        if round == 2 {
            // Before any host: what the folder remembers has been looked at.
            for (name, _, remedy, _) in &broken {
                let found = until("a finding", seconds(5), async || {
                    logged(&gate, "made the server fail before", name)
                })
                .await;
                assert_eq!(found_field(&found, "remedy"), *remedy, "{name}: {found}");
                let scrape = gate.scrape().await;
                let count = scrape.sum("chillgate_preflight_findings", &[("server", name)]);
                assert!(count >= 1.0, "{name}");
                let entry = ready(&gate, name).await;
                assert_eq!(entry["preflight"][0]["remedy"], *remedy, "{entry}");
            }
        }
        let host = gate.host().open().await;
        for (name, _, remedy, _) in &broken {
            let known = until(name, seconds(40), async || {
                let reply = host.call(&format!("{name}__x"), json!({})).await;
                let error = reply.answer()["error"].clone();
                assert_eq!(error["data"]["server"], *name, "{error}");
                let known = error["data"]["incident"].clone();
                (!known.is_null()).then_some((known, error))
            })
            .await;
            let (known, error) = known;
            assert_eq!(known["remedy"]["id"], *remedy, "{name}: {error}");
            assert_eq!(known["count"], round, "{name}: {error}");
            assert!(known["firstSeen"].as_str() <= known["lastSeen"].as_str());
            let entry = ready(&gate, name).await;
            let state = entry["state"].as_str().unwrap();
            assert!(
                ["down", "crash-loop", "held-back"].contains(&state),
                "{name}: {entry}"
            );
            assert_eq!(entry["incident"]["id"], known["id"], "{name}: {entry}");
            assert_eq!(entry["remedy"], known["remedy"]["text"], "{name}: {entry}");
            {
                let said = error["message"].as_str().unwrap();
                let since = if round == 1 {
                    "what to do: "
                } else {
                    "(2 times): "
                };
                assert!(said.contains(since), "{name}: {said}");
                let line = logged(&gate, "The server did not start.", name).unwrap();
                assert_eq!(found_field(&line, "remedy"), *remedy, "{name}: {line}");
            }
            let counted = gate.scrape().await.sum(
                "chillgate_incidents_total",
                &[("server", name), ("cause", remedy)],
            );
            assert!(counted >= 1.0, "{name}");
        }
        drop(gate.stop().await);
        let listed = listed(folder.path()).await;
        for (name, _, remedy, _) in &broken {
            let one = &listed[*name];
            assert_eq!(one["remedy"]["id"], *remedy, "{one}");
            assert_eq!(
                (&one["count"], &one["resolved"]),
                (&json!(round), &json!(false)),
                "{one}"
            );
        }
        assert_eq!(listed.len(), broken.len());
    }
    let text = incidents(folder.path(), &["--server", "port"]).await;
    assert!(
        text.contains("port  2 times at start, exit code 1"),
        "{text}"
    );
    assert!(
        text.contains(&taken.to_string()) && !text.contains("absent"),
        "{text}"
    );
}

pub(crate) fn found_field<'a>(line: &'a Value, key: &str) -> &'a str {
    let at = line.get(key).or_else(|| line.get("fields")?.get(key));
    at.and_then(Value::as_str).unwrap_or_default()
}

#[tokio::test]
async fn a_remedy_that_worked_is_credited() {
    let folder = tempfile::tempdir().unwrap();
    let program = folder.path().join("server");
    let table = format!("[server.late]\ncommand = [\"{}\"]\n", program.display());
    let first = gate(&table, folder.path()).start().await;
    let host = first.host().open().await;
    let error = host.call("echo", json!({})).await;
    assert_eq!(
        error.answer()["error"]["data"]["incident"]["remedy"]["id"],
        "missing-file"
    );
    drop(first.stop().await);
    std::os::unix::fs::symlink(MOCK, &program).unwrap();
    let second = gate(&table, folder.path()).start().await;
    let host = second.host().open().await;
    host.call("echo", json!({"message": "up"})).await.result();
    assert_eq!(ready(&second, "late").await["preflight"], Value::Null);
    drop(second.stop().await);
    let one = listed(folder.path()).await.remove("late").unwrap();
    assert_eq!(one["resolved"], true, "{one}");
    assert_eq!(
        (&one["remedy"]["worked"], &one["worked"]),
        (&json!(1), &json!(1)),
        "{one}"
    );
    let changed = one["recovery"]["changed"].to_string();
    assert!(changed.contains("the program"), "{changed}");
    let id = one["id"].as_str().unwrap();
    assert_eq!(incidents(folder.path(), &[]).await, "");
    incidents(folder.path(), &["--forget", id]).await;
    assert_eq!(listed(folder.path()).await.len(), 0);
}

/// The table of a server that has a port for as long as it runs.
fn holding(port: u16, flags: &str) -> String {
    let script = format!(
        "import os, socket, sys\n\
         it = socket.socket()\n\
         it.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)\n\
         try: it.bind(('127.0.0.1', {port}))\n\
         except OSError: sys.exit('Error: listen EADDRINUSE: address already in use 127.0.0.1:{port}')\n\
         it.listen()\n\
         it.set_inheritable(True)\n\
         os.execv('{MOCK}', ['{MOCK}'] + '{flags}'.split())"
    );
    format!("[server.a]\nisolation = \"shared\"\ncommand = [\"python3\", \"-c\", {script:?}]\n")
}

/// The era of such a server is found out by one process after the other.
#[tokio::test]
async fn a_server_that_takes_a_port_is_not_started_on_top_of_itself() {
    for flags in ["", "--ignore-eof", "--eras modern --ignore-eof"] {
        let folder = tempfile::tempdir().unwrap();
        let gate = gate(&holding(free_port(), flags), folder.path());
        let gate = gate.start().await;
        let old = async {
            let host = gate.host().open().await;
            host.call("echo", json!({"message": "old"})).await
        };
        let call = json!({"name": "echo", "arguments": {"message": "new"}});
        let call = modern::message(&json!(1), "tools/call", call);
        let new = async {
            request(
                gate.front(),
                "POST",
                "/mcp",
                &modern::fields(&call),
                call.to_string(),
            )
            .await
        };
        let (old, new) = within("both", seconds(20), async { tokio::join!(old, new) }).await;
        assert_eq!(old.tool_text(), "old", "{flags}");
        assert!(
            new.text().contains(r#""text":"new""#),
            "{flags}: {}",
            new.text()
        );
        let failed = logged(&gate, "EADDRINUSE", "a");
        assert_eq!(failed, None, "{flags}");
        drop(gate.stop().await);
        assert_eq!(
            incidents(folder.path(), &["--all", "--json"]).await.trim(),
            "[]",
            "{flags}"
        );
    }
}

#[tokio::test]
async fn a_port_that_was_freed_for_the_server_that_has_it_now_is_a_remedy() {
    let folder = tempfile::tempdir().unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = listener.local_addr().unwrap().port();
    let table = holding(taken, "");
    let gate = gate(&table, folder.path()).start().await;
    let host = gate.host().open().await;
    let error = host.call("echo", json!({})).await;
    let remedy = &error.answer()["error"]["data"]["incident"]["remedy"]["id"];
    assert_eq!(remedy, "port-in-use");
    drop(listener);
    until("the server", seconds(15), async || {
        let reply = host.call("echo", json!({"message": "up"})).await;
        reply.answer()["result"].is_object().then_some(())
    })
    .await;
    drop(gate.stop().await);
    let one = listed(folder.path()).await.remove("a").unwrap();
    assert_eq!(
        one["recovery"]["changed"],
        json!(["what `port` looks at"]),
        "{one}"
    );
    assert_eq!(
        (&one["worked"], &one["passed"]),
        (&json!(1), &json!(0)),
        "{one}"
    );
}

#[tokio::test]
async fn a_server_that_ends_in_service_is_recognised_and_its_secrets_are_not_kept() {
    let folder = tempfile::tempdir().unwrap();
    let ends = format!("{MOCK} --name a; echo \"lost the session of $KEY_OF_MINE\" >&2; exit 3");
    let table = format!(
        "[[remedy]]\nname = \"ask-kim\"\nsays = \"ask Kim about {{1}}\"\n\
         match = {{ server = \"a\", phase = \"run\", exit = 3, text = 'lost the (\\w+)' }}\n\
         [server.a]\ncommand = {}\nera = \"legacy\"\nenv = {{ KEY_OF_MINE = \"Zq9-planted-value\" }}\n",
        toml_list(&["sh", "-c", &ends])
    );
    let gate = gate(&table, folder.path()).start().await;
    let host = gate.host().open().await;
    host.call("echo", json!({"message": "up"})).await.result();
    for pid in chillgate_tests::process::descendants(gate.pid()) {
        let line = std::fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        if line.starts_with(MOCK) {
            chillgate_tests::process::send(pid, rustix::process::Signal::KILL);
        }
    }
    let one = until("the incident", seconds(10), async || {
        listed(folder.path()).await.remove("a")
    })
    .await;
    assert_eq!(
        (&one["phase"], &one["remedy"]["id"]),
        (&json!("run"), &json!("ask-kim")),
        "{one}"
    );
    assert_eq!(one["remedy"]["text"], "ask Kim about session");
    let counted = gate.scrape().await.sum(
        "chillgate_incidents_total",
        &[("server", "a"), ("cause", "own")],
    );
    assert!((counted - 1.0).abs() < 1e-9, "{counted}");
    drop(gate.stop().await);
    for entry in std::fs::read_dir(folder.path()).unwrap() {
        let path = entry.unwrap().path();
        if path.is_file() {
            let text = std::fs::read_to_string(path).unwrap();
            assert!(!text.contains("planted"), "{text}");
        }
    }
}

#[tokio::test]
async fn what_a_sandbox_keeps_from_a_server_is_laid_on_the_sandbox() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("own.txt");
    std::fs::write(&file, "for all to read").unwrap();
    let script = format!("open('{}')", file.display());
    let command = toml_list(&["/usr/bin/python3", "-c", &script].map(str::to_owned));
    let table = format!("[server.a]\ncommand = {command}\nsandbox = {{}}\n");
    let gate = gate(&table, folder.path()).start().await;
    let one = until("the incident", seconds(20), async || {
        listed(folder.path()).await.remove("a")
    })
    .await;
    drop(gate.stop().await);
    assert_eq!(one["remedy"]["id"], "sandbox-denied", "{one}");
    let text = one["remedy"]["text"].as_str().unwrap();
    let piece = format!("its sandbox keeps {} from it", file.display());
    assert!(text.contains(&piece) && text.contains("`read`"), "{one}");
}

#[tokio::test]
async fn an_incident_is_forgotten_by_its_id_and_not_by_a_slip() {
    let folder = tempfile::tempdir().unwrap();
    let table = "[server.late]\ncommand = [\"no-such-program-here\"]\n";
    let gate = gate(table, folder.path()).start().await;
    let one = until("the incident", seconds(20), async || {
        listed(folder.path()).await.remove("late")
    })
    .await;
    drop(gate.stop().await);
    let id = one["id"].as_str().unwrap();
    let forget = async |id: &str| {
        let mut command = bare();
        command
            .args(["incidents", "--forget", id])
            .env("CHILLGATE__STATE__FOLDER", folder.path());
        ended(command, 10).await
    };
    for short in ["", &id[..3]] {
        let (code, out, err) = forget(short).await;
        assert_eq!((code, out.as_str()), (Some(2), ""), "{err}");
        assert!(err.contains(id) && err.contains("late"), "{err}");
    }
    assert_eq!(listed(folder.path()).await.len(), 1);
    let (code, out, err) = forget(&id[..4]).await;
    assert_eq!(code, Some(0), "{err}");
    assert!(out.starts_with(&format!("Forgot {id} of late: ")), "{out}");
    assert_eq!(listed(folder.path()).await.len(), 0);
}

#[tokio::test]
async fn a_wrapper_that_cannot_start_remembers_it_too() {
    let folder = tempfile::tempdir().unwrap();
    for round in 1..=2 {
        let mut wrap = bare();
        wrap.args(["wrap", "--name", "a", "--", "no-such-program-here"])
            .env("CHILLGATE__STATE__FOLDER", folder.path())
            .stdin(Stdio::null());
        let output = within("the wrapper", seconds(10), wrap.output())
            .await
            .unwrap();
        assert_eq!(output.status.code(), Some(2));
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        let word = if round == 1 {
            "what to do: install"
        } else {
            "(2 times): install"
        };
        assert!(said.contains(word), "{said}");
    }
}

#[tokio::test]
async fn gates_side_by_side_lose_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let table = |name: &str| {
        let names = [name, "both"];
        let tables = names.map(|it| format!("[server.{it}]\ncommand = [\"no-such-{it}\"]\n"));
        tables.concat()
    };
    let (one, other) = (
        gate(&table("one"), folder.path()).start().await,
        gate(&table("other"), folder.path()).start().await,
    );
    // What the first has written down keeps the second from trying before somebody calls.
    other.host().open().await.call("both__any", json!({})).await;
    until("both gates' memory", seconds(10), async || {
        let listed = listed(folder.path()).await;
        let count = |name: &str| listed.get(name).and_then(|it| it["count"].as_u64());
        let is_all =
            count("one") == Some(1) && count("other") == Some(1) && count("both") == Some(2);
        is_all.then_some(())
    })
    .await;
    drop((one.stop().await, other.stop().await));
    assert_eq!(listed(folder.path()).await.len(), 3);
}

#[tokio::test]
async fn a_kill_at_any_moment_leaves_the_file_whole() {
    let folder = tempfile::tempdir().unwrap();
    let config = folder.path().join("chillgate.toml");
    let (front, health) = (free_port(), free_port());
    let text = format!(
        "[[front]]\nlisten = \"127.0.0.1:{front}\"\n[health]\nlisten = \"127.0.0.1:{health}\"\n\
         [state]\nfolder = \"{}\"\n[server.a]\ncommand = [\"sh\", \"-c\", \"exit 7\"]\nera = \"legacy\"\n",
        folder.path().display()
    );
    std::fs::write(&config, text).unwrap();
    let rounds = if long() { 200 } else { 24 };
    let (file, next) = (
        folder.path().join("incidents.json"),
        folder.path().join("incidents.json.next"),
    );
    let modified = |path: &Path| path.metadata().and_then(|meta| meta.modified()).ok();
    let (mut last, mut grew) = (0, 0);
    for round in 0..rounds {
        let mut child = serve(&config).stderr(Stdio::null()).spawn().unwrap();
        let span = std::time::Duration::from_millis(round % 8);
        if round % 4 == 0 {
            tokio::time::sleep(span * 40).await;
        } else {
            // In the midst of the write, or a moment after it.
            let before = (modified(&file), modified(&next));
            until("a write", seconds(10), async || {
                ((modified(&file), modified(&next)) != before).then_some(())
            })
            .await;
            tokio::time::sleep(span / 2).await;
        }
        child.kill().await.unwrap();
        let Ok(text) = std::fs::read_to_string(&file) else {
            continue;
        };
        let kept: Value = serde_json::from_str(&text).unwrap_or_else(|_| panic!("torn: {text}"));
        let patterns = kept["patterns"].as_object().unwrap();
        let attempts = patterns.values().map(|it| it["attempts"].as_u64().unwrap());
        let attempts: u64 = attempts.sum();
        assert!(
            attempts >= last,
            "it has forgotten: {attempts} after {last}"
        );
        grew += u64::from(attempts > last);
        last = attempts;
    }
    assert!(grew > rounds / 10, "only {grew} of {rounds} wrote anything");
    let strange = std::fs::read_dir(folder.path())
        .unwrap()
        .filter_map(Result::ok);
    let strange = strange.filter(|it| it.file_name().to_string_lossy().contains(".broken-"));
    assert_eq!(strange.count(), 0);
}

#[tokio::test]
async fn a_file_that_is_none_of_ours_is_put_aside_and_nothing_fails() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("incidents.json");
    std::fs::write(&file, "{\"format\":99,\"from\":\"the future\"}").unwrap();
    let table = "[server.a]\ncommand = [\"no-such-program-here\"]\n";
    let gate = gate(table, folder.path()).start().await;
    until("a new memory", seconds(10), async || {
        let text = std::fs::read_to_string(&file).ok()?;
        text.contains("no-such-program-here").then_some(())
    })
    .await;
    assert!(
        gate.log().iter().any(|line| line.contains("later version")),
        "{:#?}",
        gate.log()
    );
    let aside = std::fs::read_dir(folder.path())
        .unwrap()
        .filter_map(Result::ok);
    let aside = aside
        .map(|it| it.path())
        .find(|path| path.to_string_lossy().contains(".broken-"));
    let kept = std::fs::read_to_string(aside.expect("it was put aside")).unwrap();
    assert!(kept.contains("the future"));
    drop(gate.stop().await);
}

#[tokio::test]
async fn a_bad_expression_is_a_mistake_of_the_file() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("chillgate.toml");
    let text = "[server.a]\ncommand = [\"true\"]\n[[remedy]]\nname = \"x\"\nsays = \"y\"\nmatch = { text = 'a(b' }\n";
    std::fs::write(&file, text).unwrap();
    let mut check = bare();
    check.args(["check", "--config"]).arg(&file);
    let output = within("the check", seconds(10), check.output())
        .await
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(
        said.contains(":6:") && said.contains("found open group") && said.contains("help:"),
        "{said}"
    );
}

/// What a server was given in confidence and what looks like a credential, as its script writes them.
const PLANTED: [&str; 3] = [
    "Zq9-planted-value",
    "planted-word-of-a-pair",
    "ghp_PlantedPlantedPlantedPlantedPlanted12",
];

#[tokio::test]
async fn a_remedy_is_told_in_five_places_and_a_secret_in_none() {
    let folder = tempfile::tempdir().unwrap();
    let script = "echo \"banner of $KEY_OF_MINE\"; echo \"key $KEY_OF_MINE, pair $PAIR_OF_MINE\" >&2; \
                  p=Planted; echo \"token ghp_$p$p$p$p${p}12\" >&2; \
                  echo \"KeyError: 'SLACK_BOT_TOKEN'\" >&2; exit 1";
    let command = toml_list(&["sh", "-c", script].map(str::to_owned));
    let table = format!(
        "[server.a]\ncommand = {command}\n\
         env = {{ KEY_OF_MINE = \"{}\", PAIR_OF_MINE = \"{}\" }}\n",
        PLANTED[0], PLANTED[1]
    );
    let gate = gate(&table, folder.path()).audited().start().await;
    let host = gate.host().open().await;
    let error = until("the incident", seconds(20), async || {
        let error = host.call("x", json!({})).await.answer()["error"].clone();
        (!error["data"]["incident"].is_null()).then_some(error)
    })
    .await;
    let text = "the server wants the variable SLACK_BOT_TOKEN; set it in `env`";
    // One: the error.
    let told = error["data"]["incident"]["remedy"]["text"]
        .as_str()
        .unwrap();
    assert!(told.contains(text), "{error}");
    assert!(error["message"].as_str().unwrap().contains(text), "{error}");
    // Two: the log.
    let line = logged(&gate, "The server did not start.", "a").unwrap();
    assert_eq!(found_field(&line, "remedy"), "missing-variable", "{line}");
    assert!(line.to_string().contains(text), "{line}");
    // Three: readiness.
    let entry = ready(&gate, "a").await;
    assert_eq!(entry["remedy"], told, "{entry}");
    // Four: the doctor, who looks for himself.
    let mut doctor = bare();
    doctor
        .args(["doctor", "--config"])
        .arg(gate.config())
        .stdin(Stdio::null());
    let output = within("the doctor", seconds(40), doctor.output())
        .await
        .unwrap();
    let doctor = String::from_utf8_lossy(&output.stdout).into_owned()
        + &String::from_utf8_lossy(&output.stderr);
    assert!(doctor.contains(text), "{doctor}");
    // Five: the list.
    let list = until("the list", seconds(5), async || {
        let list = incidents(folder.path(), &[]).await;
        list.contains(text).then_some(list)
    })
    .await;

    let readyz = get(gate.health(), "/readyz").await.text();
    let log = gate.log().join("\n");
    assert!(log.contains("The server wrote to stderr."), "{log}");
    let audit = std::fs::read_to_string(gate.folder().join("audit.jsonl")).unwrap();
    let json = incidents(folder.path(), &["--json", "--all"]).await;
    drop(gate.stop().await);
    let kept = std::fs::read_to_string(folder.path().join("incidents.json")).unwrap();
    for (place, said) in [
        ("the error", error.to_string()),
        ("the log", log),
        ("/readyz", readyz),
        ("the doctor", doctor),
        ("the list", list),
        ("the list as JSON", json),
        ("the audit log", audit),
        ("the file", kept),
    ] {
        for planted in PLANTED {
            assert!(!said.contains(planted), "{place} has {planted}: {said}");
        }
    }
}

#[tokio::test]
async fn one_file_holds_all_and_stays_within_its_size() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("incidents.json");
    let table = "[server.a]\ncommand = [\"no-such-program-here\"]\n";
    let size = || file.metadata().map_or(0, |meta| meta.len());
    let fail = async |count: u64, most: u64| {
        let gate = gate(table, folder.path()).start().await;
        let host = gate.host().open().await;
        let error = host.call("x", json!({})).await.answer()["error"].clone();
        assert_eq!(error["data"]["incident"]["count"], count, "{error}");
        until("the file to be written", seconds(20), async || {
            (1..=most).contains(&size()).then_some(())
        })
        .await;
        drop(gate.stop().await);
    };
    fail(1, 512 << 10).await;
    // Many older ones, each as large as one can be.
    let mut kept: Value = serde_json::from_str(&std::fs::read_to_string(&file).unwrap()).unwrap();
    let patterns = kept["patterns"].as_object_mut().unwrap();
    let (own, mut like) = patterns
        .iter()
        .next()
        .map(|it| (it.0.clone(), it.1.clone()))
        .unwrap();
    like["lastSeen"] = json!("2026-01-01T00:00:00Z");
    like["firstSeen"] = json!("2026-01-01T00:00:00Z");
    let sample = json!({"at": "2026-01-01T00:00:00Z", "cause": "c".repeat(240),
        "words": vec!["w".repeat(240); 8]});
    like["samples"] = json!([sample, sample, sample]);
    for n in 0..490 {
        let id = format!("{n:08x}");
        like["id"] = json!(id);
        patterns.insert(id, like.clone());
    }
    let text = kept.to_string();
    assert!(text.len() > 2 << 20, "{} bytes", text.len());
    std::fs::write(&file, text).unwrap();
    fail(2, 512 << 10).await;
    let size = size();
    assert!((100_000..=512 << 10).contains(&size), "{size} bytes");
    let kept: Value = serde_json::from_str(&std::fs::read_to_string(&file).unwrap()).unwrap();
    assert_eq!(kept["patterns"][&own]["count"], 2, "the latest has gone");
    let names = std::fs::read_dir(folder.path()).unwrap();
    let names = names.map(|it| it.unwrap().file_name().into_string().unwrap());
    let mut names: Vec<_> = names.filter(|name| name.starts_with("incidents")).collect();
    names.sort();
    assert_eq!(names, ["incidents.json", "incidents.lock"]);
}

#[tokio::test]
async fn a_server_that_has_to_be_killed_is_remembered_for_that() {
    let folder = tempfile::tempdir().unwrap();
    let script = format!("trap '' TERM; {MOCK} --name a; while :; do sleep 0.1; done");
    let command = toml_list(&["sh", "-c", &script].map(str::to_owned));
    let table = format!("[server.a]\ncommand = {command}\nera = \"legacy\"\n");
    let first = gate(
        &(table.clone() + &crate::mock("calm").table("")),
        folder.path(),
    )
    .start()
    .await;
    let host = first.host().open().await;
    host.call("a__echo", json!({"message": "up"}))
        .await
        .result();
    first.edit(&table, "");
    let one = until("the incident", seconds(20), async || {
        listed(folder.path()).await.remove("a")
    })
    .await;
    assert_eq!(
        (&one["phase"], &one["ended"], &one["remedy"]["id"]),
        (
            &json!("stop"),
            &json!("signal 9 (KILL)"),
            &json!("deaf-to-its-end")
        ),
        "{one}"
    );
    drop(first.stop().await);
    // It is no reason not to start it, nor to warn of it.
    let second = gate(&table, folder.path()).start().await;
    until("the server", seconds(20), async || {
        (ready(&second, "a").await["state"] == "up").then_some(())
    })
    .await;
    assert!(logged(&second, "made the server fail before", "a").is_none());
    drop(second.stop().await);
    // Nor did the one that ended as it was told leave anything.
    assert!(!listed(folder.path()).await.contains_key("calm"));
}
