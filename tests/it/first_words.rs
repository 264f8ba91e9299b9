//! Servers that go wrong with their first words, or in ways that only chillgate can tell: what is
//! said of them, and that it is no more than may be told.
//!
//! It stands apart because each server here is a short script that does one thing wrong, and what
//! is judged is every place where chillgate speaks of it.

use std::path::Path;

use chillgate_tests::gate::bare;
use chillgate_tests::http::get;
use chillgate_tests::wait::{seconds, within};
use chillgate_tests::{Gate, Host, until};
use serde_json::{Value, json};

use crate::incidents::{gate, incidents, listed, ready};

/// What `env` gives each of these servers in confidence.
const PLANTED: &str = "Zq9-planted-value";

/// A server in few lines; what `on` does with a request is for each test to say. `ask(m)` answers as
/// a well-behaved one would.
const SERVER: &str = r#"
import sys, json, os, time, signal
KEY = os.environ.get("KEY_OF_MINE", "")
def say(m): sys.stdout.write(json.dumps(m) + "\n"); sys.stdout.flush()
def result(m, r): say({"jsonrpc": "2.0", "id": m["id"], "result": r})
def error(m, code, text): say({"jsonrpc": "2.0", "id": m["id"], "error": {"code": code, "message": text}})
def hello(m, revision="2025-11-25"):
    result(m, {"protocolVersion": revision, "capabilities": {"tools": {}}, "serverInfo": {"name": "x", "version": "1"}})
def ask(m):
    method = m.get("method")
    if "id" not in m: return
    if method == "initialize": return hello(m)
    if method == "tools/list":
        return result(m, {"tools": [{"name": "echo", "inputSchema": {"type": "object"}, "annotations": {"readOnlyHint": True}}]})
    if method == "tools/call": return result(m, {"content": [{"type": "text", "text": "well"}]})
    if method == "ping": return result(m, {})
    error(m, -32601, "Method not found")
@ON@
for line in sys.stdin:
    m = json.loads(line)
    on(m)
"#;

/// The table of such a server.
fn server(folder: &Path, name: &str, on: &str, more: &str) -> String {
    let file = folder.join(format!("{name}.py"));
    std::fs::write(&file, SERVER.replace("@ON@", on)).unwrap();
    format!(
        "[server.{name}]\ncommand = [\"python3\", \"{}\"]\n\
         env = {{ KEY_OF_MINE = \"{PLANTED}\" }}\n{more}\n",
        file.display()
    )
}

/// The error of a call once it names an incident.
async fn failed(host: &Host, tool: &str) -> Value {
    until(tool, seconds(30), async || {
        let error = host.call(tool, json!({})).await.answer()["error"].clone();
        (!error["data"]["incident"].is_null()).then_some(error)
    })
    .await
}

/// Everything that chillgate says of its servers, place by place.
async fn told(gate: Gate, folder: &Path) -> Vec<(&'static str, String)> {
    let readyz = get(gate.health(), "/readyz").await.text();
    let mut doctor = bare();
    doctor
        .args(["doctor", "--config"])
        .arg(gate.config())
        .stdin(std::process::Stdio::null());
    let doctor = within("the doctor", seconds(60), doctor.output())
        .await
        .unwrap();
    let doctor = [doctor.stdout, doctor.stderr].concat();
    let log = gate.log().join("\n");
    let list = incidents(folder, &["--all"]).await;
    let json = incidents(folder, &["--all", "--json"]).await;
    drop(gate.stop().await);
    let kept = std::fs::read_to_string(folder.join("incidents.json")).unwrap();
    vec![
        ("/readyz", readyz),
        ("the doctor", String::from_utf8_lossy(&doctor).into_owned()),
        ("the log", log),
        ("the list", list),
        ("the list as JSON", json),
        ("the file", kept),
    ]
}

#[tokio::test]
async fn no_secret_of_a_server_is_in_what_is_said_of_its_first_words() {
    let folder = tempfile::tempdir().unwrap();
    let scripts = tempfile::tempdir().unwrap();
    // Assembled there, so that the script itself is no leak.
    let error = "def on(m): error(m, -32000, 'token ' + 'sk-live-' + 'planted12345678' + ' of ' + KEY + ' is not valid')";
    let tables = [
        server(
            scripts.path(),
            "legacy",
            &format!("{error} if m.get('method') == 'initialize' else ask(m)"),
            "era = \"legacy\"",
        ),
        server(scripts.path(), "modern", error, "era = \"modern\""),
        server(scripts.path(), "both", error, ""),
        server(
            scripts.path(),
            "banner",
            "print('x' * 110 + KEY, flush=True)\ndef on(m): pass",
            "era = \"legacy\"\nstart-timeout = \"1s\"",
        ),
    ];
    let gate = gate(&tables.concat(), folder.path()).start().await;
    let host = gate.host().open().await;
    let mut all = Vec::new();
    for name in ["legacy", "modern", "both", "banner"] {
        let error = failed(&host, &format!("{name}__echo")).await;
        if name != "banner" {
            assert!(
                error.to_string().contains("is not valid"),
                "{name}: {error}"
            );
        }
        all.push(("the error", error.to_string()));
    }
    all.extend(told(gate, folder.path()).await);
    for (place, said) in all {
        // Also no beginning of it.
        for secret in ["planted", "Zq9-"] {
            assert!(!said.contains(secret), "{place} has {secret}: {said}");
        }
    }
}

/// Lines that are no messages, so many that they are one incident.
const BABBLES: &str = "\
print('welcome to this server', flush=True)
for n in range(150): print('tick', n, 'with', KEY, 'and password=hunter2-' + str(n), flush=True)
def on(m): ask(m)";

#[tokio::test]
async fn babble_is_told_without_secrets_by_a_line_of_the_flood_and_earns_no_credit() {
    let folder = tempfile::tempdir().unwrap();
    let scripts = tempfile::tempdir().unwrap();
    let table = server(scripts.path(), "a", BABBLES, "era = \"legacy\"");
    let first = gate(&table, folder.path()).start().await;
    let host = first.host().open().await;
    host.call("echo", json!({})).await.result();
    until("the incident", seconds(20), async || {
        listed(folder.path()).await.remove("a")
    })
    .await;
    let said = told(first, folder.path()).await;
    for (place, said) in &said {
        for secret in [PLANTED, "hunter2"] {
            assert!(!said.contains(secret), "{place} has {secret}: {said}");
        }
    }
    let one = listed(folder.path()).await.remove("a").unwrap();
    let what = one["what"].as_str().unwrap();
    assert!(
        what.contains("tick") && !what.contains("welcome"),
        "not a line of the flood: {one}"
    );
    let known = one["environment"]["variables"].as_array().unwrap();
    assert!(known.contains(&json!("KEY_OF_MINE")), "{one}");
    // The next good start is no merit of anything: nothing was changed.
    let second = gate(&table, folder.path()).start().await;
    let host = second.host().open().await;
    host.call("echo", json!({})).await.result();
    assert_eq!(ready(&second, "a").await["state"], "up");
    drop(second.stop().await);
    let one = listed(folder.path()).await.remove("a").unwrap();
    assert_eq!(one["worked"], json!(0), "{one}");
}

#[tokio::test]
async fn what_chillgate_ended_itself_is_not_laid_on_others() {
    let folder = tempfile::tempdir().unwrap();
    let scripts = tempfile::tempdir().unwrap();
    let closes = "\
def on(m):
    ask(m)
    if m.get('method') == 'tools/call': os.close(1)
if 'a' not in sys.argv: signal.signal(signal.SIGTERM, signal.SIG_DFL)";
    let probe =
        "era = \"legacy\"\nprobe = { every = \"300ms\", timeout = \"300ms\", failures = 2 }";
    let hangs = "\
def on(m):
    ask(m)
    if m.get('method') == 'tools/call': time.sleep(1000)";
    let tables = [
        server(scripts.path(), "closes", closes, "era = \"legacy\""),
        server(scripts.path(), "hangs", hangs, probe),
        server(
            scripts.path(),
            "kept",
            "def on(m): ask(m)",
            "era = \"legacy\"",
        ),
    ];
    let gate = gate(&tables.concat(), folder.path()).start().await;
    let host = gate.host().open().await;
    for name in ["closes", "hangs", "kept"] {
        host.call(&format!("{name}__echo"), json!({})).await;
    }
    // Above the server stands chillgate's keeper: somebody kills that.
    let pid = gate_child(&gate, "kept.py");
    chillgate_tests::process::send(pid, rustix::process::Signal::KILL);
    for (name, remedy, piece) in [
        ("closes", "closed-output", "chillgate ended it"),
        ("hangs", "hung", "it hung"),
        ("kept", "keeper-killed", "its keeper"),
    ] {
        let one = until(name, seconds(30), async || {
            listed(folder.path()).await.remove(name)
        })
        .await;
        assert_eq!(
            (&one["phase"], &one["remedy"]["id"]),
            (&json!("run"), &json!(remedy)),
            "{one}"
        );
        assert!(
            one["samples"][0]["cause"].to_string().contains(piece),
            "{one}"
        );
    }
    drop(gate.stop().await);
}

/// The keeper whose server was started with this file.
fn gate_child(gate: &Gate, file: &str) -> u32 {
    let line = |pid: &u32| {
        let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        String::from_utf8_lossy(&line).into_owned()
    };
    let all = chillgate_tests::process::descendants(gate.pid());
    let mut all = all
        .into_iter()
        .filter(|pid| line(pid).starts_with("chillgate\0") && line(pid).contains(file));
    all.next().expect("a keeper")
}

/// One failure of the first words, what it must meet, and what the call must be told at once.
const WRONG: [(&str, &str, &str, &str, &str); 8] = [
    (
        "token",
        "",
        "def on(m): error(m, -32000, 'the plan is over') if m.get('method') == 'initialize' else ask(m)",
        "refuses-to-start",
        "the plan is over",
    ),
    (
        "expired",
        "",
        "def on(m): error(m, -32000, 'token of yours is not valid') if m.get('method') == 'initialize' else ask(m)",
        "refuses-to-start",
        "is not valid",
    ),
    (
        "large",
        "era = \"legacy\"",
        "def on(m): 'id' in m and result(m, {'protocolVersion': '2025-11-25', 'capabilities': {}, 'x': 'x' * 100000})",
        "answer-too-large",
        "larger than",
    ),
    (
        "kind",
        "era = \"legacy\"\nstart-timeout = \"5s\"",
        "def on(m): result(m, [1, 2, 3])",
        "wrong-answer",
        "no answer of MCP",
    ),
    (
        "id",
        "era = \"legacy\"\nstart-timeout = \"1s\"",
        "def on(m): m['id'] = 'seven'; hello(m)",
        "wrong-answer",
        "with the id \\\"seven\\\", with which nobody asked (1 was asked with)",
    ),
    (
        "echo",
        "",
        "def on(m): say(m)",
        "repeats",
        "it repeats what it is sent",
    ),
    (
        "old",
        "era = \"legacy\"",
        "def on(m): hello(m, '1999-01-01')",
        "unknown-revision",
        "1999-01-01\\\", which chillgate does not know; it knows 2025-11-25, 2025-06-18",
    ),
    (
        "other",
        "era = \"modern\"",
        "def on(m): ask(m)",
        "other-era",
        "-32601",
    ),
];

#[tokio::test]
async fn first_words_that_go_wrong_are_told_as_what_they_are_once_and_at_once() {
    let folder = tempfile::tempdir().unwrap();
    let scripts = tempfile::tempdir().unwrap();
    let tables = WRONG.map(|(name, more, on, ..)| server(scripts.path(), name, on, more));
    let tables = tables.concat() + "[limits]\nmessage = \"64KiB\"\n";
    let gate = gate(&tables, folder.path()).start().await;
    let host = gate.host().open().await;
    let mut wrong = Vec::new();
    for (name, .., remedy, piece) in WRONG {
        let error = failed(&host, &format!("{name}__echo")).await;
        let met = error["data"]["incident"]["remedy"]["id"] == remedy;
        if !met || !error.to_string().contains(piece) {
            wrong.push(format!("{name}: {error}"));
        }
    }
    drop(gate.stop().await);
    assert!(wrong.is_empty(), "{wrong:#?}");
    let all: Vec<Value> =
        serde_json::from_str(&incidents(folder.path(), &["--json", "--all"]).await).unwrap();
    for (name, ..) in WRONG {
        let of: Vec<_> = all.iter().filter(|it| it["server"] == name).collect();
        assert_eq!(of.len(), 1, "{name}: {of:#?}");
    }
}

#[tokio::test]
async fn why_nothing_could_be_started_is_advised_once() {
    let folder = tempfile::tempdir().unwrap();
    let plain = folder.path().join("plain.sh");
    std::fs::write(&plain, "#!/bin/sh\n").unwrap();
    let tables = format!(
        "[server.absent]\ncommand = [\"no-such-program-here\"]\n\
         [server.plain]\ncommand = [\"{}\"]\n\
         [server.gone]\ncommand = [\"/no/such/server\"]\n\
         [server.place]\ncommand = [\"true\"]\ncwd = \"/no/such/folder\"\n",
        plain.display()
    );
    let gate = gate(&tables, folder.path()).start().await;
    let host = gate.host().open().await;
    for (name, word) in [
        ("absent", "install"),
        ("plain", "chmod"),
        ("gone", "path"),
        ("place", "`cwd`"),
    ] {
        let error = failed(&host, &format!("{name}__x")).await;
        let said = error["message"].as_str().unwrap();
        assert!(said.contains("; what to do: "), "{name}: {said}");
        assert_eq!(said.matches(word).count(), 1, "{name}: {said}");
    }
    drop(gate.stop().await);
}

#[tokio::test]
async fn a_call_that_is_made_again_and_fails_again_is_one_outage() {
    let folder = tempfile::tempdir().unwrap();
    let scripts = tempfile::tempdir().unwrap();
    let falls = "\
def on(m):
    if m.get('method') == 'tools/call': os._exit(3)
    ask(m)";
    let table = server(scripts.path(), "a", falls, "era = \"legacy\"");
    let gate = gate(&table, folder.path()).start().await;
    let host = gate.host().open().await;
    host.request("tools/list", json!({})).await.result();
    let error = host.call("echo", json!({})).await.answer()["error"].clone();
    assert_eq!(error["data"]["incident"]["count"], 1, "{error}");
    assert!(
        !error["message"].as_str().unwrap().contains("known since"),
        "{error}"
    );
    drop(gate.stop().await);
    let one = listed(folder.path()).await.remove("a").unwrap();
    assert_eq!(
        (&one["count"], &one["attempts"]),
        (&json!(1), &json!(2)),
        "{one}"
    );
}
