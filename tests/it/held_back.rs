//! A server that would only fail again is held back, and started by nobody's call once it would not.
//!
//! It stands apart from `incidents` because nobody calls here: what is seen is what chillgate does by
//! itself, at its start and when its configuration changes.

use std::net::TcpListener;
use std::path::Path;

use chillgate_tests::server::toml_list;
use chillgate_tests::wait::seconds;
use chillgate_tests::{Gate, until};
use serde_json::{Value, json};

use crate::incidents::{gate, listed, logged, ready};
use crate::{MOCK, mock};

/// Until a server is in this state, as `/readyz` says; its entry.
async fn in_state(gate: &Gate, server: &str, state: &str) -> Value {
    until(
        &format!("{server} to be {state}"),
        seconds(40),
        async || {
            let entry = ready(gate, server).await;
            (entry["state"] == state).then_some(entry)
        },
    )
    .await
}

async fn findings(gate: &Gate, server: &str, check: &str) -> f64 {
    let labels = [("server", server), ("check", check)];
    let scrape = gate.scrape().await;
    scrape.sum("chillgate_preflight_findings", &labels)
}

/// Has these servers fail in a gate of their own, so that the folder remembers it.
async fn fail_once(tables: &str, folder: &Path, count: usize) {
    let gate = gate(tables, folder).start().await;
    until("the failures", seconds(40), async || {
        (listed(folder).await.len() == count).then_some(())
    })
    .await;
    drop(gate.stop().await);
}

fn table(name: &str, command: &[&str], more: &str) -> String {
    let command: Vec<String> = command.iter().map(|it| (*it).to_owned()).collect();
    format!(
        "[server.{name}]\ncommand = {}\n{more}\n",
        toml_list(&command)
    )
}

/// A server that takes a port for a moment, as one that listens does, and says what Node says.
fn with_port(port: u16) -> Vec<String> {
    let script = format!(
        "import os, socket, sys\ns = socket.socket()\ntry: s.bind(('127.0.0.1', {port}))\n\
         except OSError: sys.exit('Error: listen EADDRINUSE: address already in use 127.0.0.1:{port}')\n\
         s.close()\nos.execv('{MOCK}', ['{MOCK}', '--name', 'port'])"
    );
    vec!["python3".to_owned(), "-c".to_owned(), script]
}

/// A server that reads a configuration of its own.
fn with_file(path: &str) -> Vec<String> {
    let script = format!(
        "import json, os, sys\ntry: json.load(open('{path}'))\n\
         except ValueError: sys.exit('error: cannot parse {path}')\n\
         os.execv('{MOCK}', ['{MOCK}', '--name', 'file'])"
    );
    vec!["python3".to_owned(), "-c".to_owned(), script]
}

#[tokio::test]
async fn what_is_held_back_starts_by_itself_once_its_cause_is_gone() {
    let folder = tempfile::tempdir().unwrap();
    let (program, file) = (folder.path().join("server"), folder.path().join("own.json"));
    std::fs::write(&file, "{ broken").unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let words = |words: &[String]| toml_list(words);
    let tables = table("program", &[program.to_str().unwrap()], "")
        + &format!("[server.port]\ncommand = {}\n", words(&with_port(port)))
        + &format!(
            "[server.file]\ncommand = {}\n",
            words(&with_file(file.to_str().unwrap()))
        );
    fail_once(&tables, folder.path(), 3).await;

    let second = gate(&(tables + &mock("calm").table("")), folder.path())
        .start()
        .await;
    in_state(&second, "calm", "up").await;
    let all = [
        ("program", "program", "missing-file"),
        ("port", "port", "port-in-use"),
        ("file", "parses", "config-broken"),
    ];
    for (server, check, remedy) in all {
        let entry = in_state(&second, server, "held-back").await;
        assert_eq!(entry["preflight"][0]["remedy"], remedy, "{entry}");
        assert_eq!(entry["error"], entry["preflight"][0]["says"], "{entry}");
        assert_eq!(entry["remedy"], entry["preflight"][0]["advice"], "{entry}");
        let count = findings(&second, server, check).await;
        assert!((count - 1.0).abs() < 1e-9, "{server}: {count}");
        let found = logged(&second, "made the server fail before", server).unwrap();
        assert_eq!(found["held_back"], true, "{found}");
    }
    let before = listed(folder.path()).await;
    tokio::time::sleep(seconds(2)).await;
    for (server, ..) in all {
        let now = &listed(folder.path()).await[server];
        assert_eq!(
            now["attempts"], before[server]["attempts"],
            "it was started: {now}"
        );
        assert_eq!(ready(&second, server).await["state"], "held-back");
    }

    std::os::unix::fs::symlink(MOCK, &program).unwrap();
    drop(listener);
    std::fs::write(&file, "{}").unwrap();
    for (server, check, remedy) in all {
        let entry = in_state(&second, server, "up").await;
        assert_eq!(entry["preflight"], Value::Null, "{entry}");
        assert_eq!(entry["error"], Value::Null, "{entry}");
        let count = findings(&second, server, check).await;
        assert!(count.abs() < 1e-9, "{server}: {count}");
        let said = logged(&second, "kept the server from starting is gone", server);
        assert!(said.is_some(), "{server}");
        let one = until("the credit", seconds(5), async || {
            let one = listed(folder.path()).await.remove(server)?;
            (one["resolved"] == true && one["worked"] == 1).then_some(one)
        })
        .await;
        assert_eq!(one["remedy"]["id"], remedy);
    }
}

/// What it is given cannot be had: it is looked at all the same.
#[tokio::test]
async fn a_server_without_its_secret_is_held_back_until_the_file_is_there() {
    let folder = tempfile::tempdir().unwrap();
    let secret = folder.path().join("late");
    let given = format!("env = {{ TOKEN = \"file:{}\" }}", secret.display());
    let gate = gate(&mock("a").table(&given), folder.path()).start().await;
    let entry = in_state(&gate, "a", "held-back").await;
    let found = &entry["preflight"][0];
    assert_eq!(
        (&found["check"], &found["remedy"]),
        (&json!("readable"), &json!("missing-secret")),
        "{entry}"
    );
    let advice = format!("put the secret into {} where", secret.display());
    assert!(entry["remedy"].to_string().contains(&advice), "{entry}");
    std::fs::write(&secret, "Zq9-planted-value\n").unwrap();
    in_state(&gate, "a", "up").await;
    let one = until("the credit", seconds(5), async || {
        let one = listed(folder.path()).await.remove("a")?;
        (one["resolved"] == true).then_some(one)
    })
    .await;
    assert_eq!(
        (&one["worked"], &one["passed"]),
        (&json!(1), &json!(0)),
        "{one}"
    );
    drop(gate.stop().await);
    let kept = std::fs::read_to_string(folder.path().join("incidents.json")).unwrap();
    assert!(!kept.contains("Zq9-planted"), "{kept}");
}

/// Python does not say which port it was.
#[tokio::test]
async fn a_port_that_is_only_named_by_a_variable_is_looked_at() {
    let folder = tempfile::tempdir().unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let script = format!(
        "import os, socket\ns = socket.socket()\ns.bind(('127.0.0.1', int(os.environ['PORT'])))\n\
         s.close()\nos.execv('{MOCK}', ['{MOCK}', '--name', 'a'])"
    );
    let given = format!("env = {{ PORT = \"{port}\" }}");
    let table = table("a", &["python3", "-c", &script], &given);
    let gate = gate(&table, folder.path()).start().await;
    let entry = in_state(&gate, "a", "held-back").await;
    assert_eq!(entry["preflight"][0]["check"], "port", "{entry}");
    let advice = format!("port {port} is taken");
    assert!(entry["remedy"].to_string().contains(&advice), "{entry}");
    drop(listener);
    in_state(&gate, "a", "up").await;
}

/// Nothing is remembered of it: it fails once, and what it failed by is looked at from then on.
#[tokio::test]
async fn a_program_that_a_reload_leaves_missing_is_held_back() {
    let folder = tempfile::tempdir().unwrap();
    let program = folder.path().join("server");
    let gate = gate(&mock("a").table(""), folder.path()).start().await;
    in_state(&gate, "a", "up").await;
    let words = toml_list(&mock("a").command());
    let late = toml_list(&[program.to_str().unwrap().to_owned()]);
    gate.edit(&words, &late);
    let entry = in_state(&gate, "a", "held-back").await;
    assert_eq!(entry["preflight"][0]["check"], "program", "{entry}");
    assert_eq!(entry["error"], entry["preflight"][0]["says"], "{entry}");
    let tried = until("the incident", seconds(10), async || {
        Some(listed(folder.path()).await.get("a")?["attempts"].clone())
    })
    .await;
    tokio::time::sleep(seconds(3)).await;
    let now = listed(folder.path()).await["a"]["attempts"].clone();
    assert_eq!(tried, now, "it is looked at and not tried");
    std::os::unix::fs::symlink(MOCK, &program).unwrap();
    let entry = in_state(&gate, "a", "up").await;
    assert_eq!(entry["preflight"], Value::Null, "{entry}");
    let line = logged(&gate, "as it was configured before", "a");
    assert!(line.is_some(), "{:#?}", gate.log());
}

#[tokio::test]
async fn a_call_starts_what_is_held_back_all_the_same() {
    let folder = tempfile::tempdir().unwrap();
    let program = folder.path().join("server");
    let late = table("late", &[program.to_str().unwrap()], "");
    fail_once(&late, folder.path(), 1).await;
    let second = gate(&late, folder.path()).start().await;
    in_state(&second, "late", "held-back").await;
    let host = second.host().open().await;
    let error = host.call("echo", json!({})).await.answer()["error"].clone();
    assert_eq!(error["data"]["incident"]["count"], 2, "{error}");
    // It is still looked after: nobody calls again.
    std::os::unix::fs::symlink(MOCK, &program).unwrap();
    in_state(&second, "late", "up").await;
}

#[tokio::test]
async fn what_was_found_is_void_once_a_call_has_started_the_server() {
    let folder = tempfile::tempdir().unwrap();
    let program = folder.path().join("server");
    let late = table("late", &[program.to_str().unwrap()], "");
    fail_once(&late, folder.path(), 1).await;
    let second = gate(&late, folder.path()).start().await;
    let host = second.host().open().await;
    in_state(&second, "late", "held-back").await;
    std::os::unix::fs::symlink(MOCK, &program).unwrap();
    host.call("echo", json!({"message": "up"})).await.result();
    assert_eq!(ready(&second, "late").await["preflight"], Value::Null);
    let left = findings(&second, "late", "program").await;
    assert!(left.abs() < 1e-9, "{left}");
}

#[tokio::test]
async fn a_reload_looks_at_what_it_adds_or_changes_and_at_nothing_else() {
    let folder = tempfile::tempdir().unwrap();
    let script = format!(
        "import os\nos.environ['NO_SUCH_API_KEY']\nos.execv('{MOCK}', ['{MOCK}', '--name', 'key'])"
    );
    let key = table("key", &["python3", "-c", &script], "");
    let program = folder.path().join("server");
    let late = table("late", &[program.to_str().unwrap()], "");
    let gone = table("gone", &["no-such-program-here"], "");
    fail_once(&(key.clone() + &late + &gone), folder.path(), 3).await;

    let tables = mock("calm").table("") + "# here\n";
    let second = gate(&tables, folder.path()).start().await;
    in_state(&second, "calm", "up").await;
    let host = second.host().open().await;
    let calm = host.call("pid", json!({})).await.tool_text().to_owned();
    second.edit("# here\n", &format!("# here\n{key}{late}{gone}"));
    for (server, remedy) in [
        ("key", "missing-variable"),
        ("late", "missing-file"),
        ("gone", "missing-binary"),
    ] {
        let entry = until("a new server", seconds(20), async || {
            let answer = chillgate_tests::http::get(second.health(), "/readyz").await;
            answer.text().contains(server).then_some(())
        });
        entry.await;
        let entry = in_state(&second, server, "held-back").await;
        assert_eq!(entry["preflight"][0]["remedy"], remedy, "{entry}");
    }
    let attempts = listed(folder.path()).await;

    // Changed: its cause is gone with that. Removed: nothing is left of it.
    second.edit(
        "[server.key]\n",
        "[server.key]\nenv = { NO_SUCH_API_KEY = \"Zq9-planted-value\" }\n",
    );
    in_state(&second, "key", "up").await;
    let left = findings(&second, "key", "variable").await;
    assert!(left.abs() < 1e-9, "{left}");
    second.edit(&gone, "");
    until("no finding of what is gone", seconds(20), async || {
        let left = findings(&second, "gone", "program").await;
        (left.abs() < 1e-9).then_some(())
    })
    .await;
    // Two reloads have not touched the others.
    let now = listed(folder.path()).await;
    for server in ["late", "gone"] {
        assert_eq!(
            now[server]["attempts"], attempts[server]["attempts"],
            "{server}"
        );
    }
    assert_eq!(ready(&second, "late").await["state"], "held-back");
    let lines = second.log();
    let told = lines.iter().filter(|line| {
        line.contains("made the server fail before") && line.contains("\"server\":\"late\"")
    });
    assert_eq!(told.count(), 1, "{lines:#?}");
    let still = host
        .call("calm__pid", json!({}))
        .await
        .tool_text()
        .to_owned();
    assert_eq!(still, calm);
    std::os::unix::fs::symlink(MOCK, &program).unwrap();
    in_state(&second, "late", "up").await;
}
