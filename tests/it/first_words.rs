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
