//! The harness itself: what it says about chillgate is worth only what it can see.
//!
//! It stands apart because these tests have no chillgate in them: raw hosts talk straight to the
//! mock server, and each misbehaviour is seen to happen.

use std::time::Duration;

use serde_json::json;

use chillgate_tests::process::{command, mark, marked, send};
use chillgate_tests::server::Heard;
use chillgate_tests::wait::seconds;
use chillgate_tests::{PipeHost, until};
use rustix::process::Signal;

use crate::MOCK;

fn mock(flags: &[&str]) -> PipeHost {
    let mut server = command(MOCK);
    server.args(flags);
    PipeHost::start(server)
}

#[tokio::test]
async fn the_mock_server_answers_and_its_ledger_has_every_line() {
    let folder = tempfile::tempdir().unwrap();
    let ledger = folder.path().join("ledger");
    let mut host = mock(&["--name", "a", "--ledger", ledger.to_str().unwrap()]);
    let hello = host.open(json!({})).await;
    assert_eq!(hello["serverInfo"]["name"], "a");
    let answer = host.call("echo", json!({"message": "hi"})).await;
    assert_eq!(answer["result"]["content"][0]["text"], "hi");
    host.write_bytes(b"this is no json\n").await;
    assert_eq!(
        host.call("count", json!({})).await["result"]["content"][0]["text"],
        "2"
    );
    let heard = Heard::read(&ledger);
    assert_eq!(heard.lines().len(), 5, "{heard:?}");
    assert_eq!(heard.lines()[3], "this is no json");
    let (status, _) = host.finish(seconds(5)).await;
    assert!(status.success());
}

#[tokio::test]
async fn the_mock_server_misbehaves_as_it_is_told() {
    let mut host = mock(&[]);
    host.open(json!({})).await;
    let id = host.send("tools/call", json!({"name": "twice"})).await;
    let first = host.answer(&json!(id)).await;
    let second = host.answer(&json!(id)).await;
    assert_eq!(first["result"]["content"][0]["text"], "first");
    assert_eq!(second["result"]["content"][0]["text"], "second");

    host.send("tools/call", json!({"name": "never"})).await;
    host.send("tools/call", json!({"name": "unknown-id"})).await;
    let heard = host.quiet(Duration::from_millis(500)).await;
    assert_eq!(heard.len(), 6, "five strangers and one answer: {heard:?}");

    let answer = host.call("blob", json!({"bytes": 3_000_000})).await;
    assert_eq!(
        answer["result"]["content"][0]["text"]
            .as_str()
            .unwrap()
            .len(),
        3_000_000
    );

    host.send("tools/call", json!({"name": "crash"})).await;
    let (status, _) = host.ended(seconds(5)).await;
    assert!(!status.success(), "a crash is no success");
}

#[tokio::test]
async fn the_mock_server_asks_its_host_and_reports_progress() {
    let mut host = mock(&[]);
    host.open(json!({"sampling": {}})).await;
    let params =
        json!({"name": "progress", "arguments": {"steps": 2}, "_meta": {"progressToken": "t"}});
    let id = host.send("tools/call", params).await;
    assert_eq!(
        host.heard("notifications/progress").await["params"]["progress"],
        1
    );
    assert_eq!(
        host.heard("notifications/progress").await["params"]["progress"],
        2
    );
    host.answer(&json!(id)).await;

    let id = host.send("tools/call", json!({"name": "sample"})).await;
    let asked = host.heard("sampling/createMessage").await;
    host.write(&json!({"jsonrpc": "2.0", "id": asked["id"], "result": {"model": "m"}}))
        .await;
    let answer = host.answer(&json!(id)).await;
    assert!(
        answer["result"]["content"][0]["text"]
            .as_str()
            .unwrap()
            .contains("\"model\":\"m\"")
    );
}

#[tokio::test]
async fn a_grandchild_in_a_session_of_its_own_is_found_by_its_mark() {
    let mark = mark();
    let host = mock(&["--grandchild", &mark]);
    let found = until("the grandchild", seconds(5), async || {
        let found: Vec<_> = marked(&mark)
            .into_iter()
            .filter(|p| p.line.starts_with(&format!("{MOCK} --silent")))
            .collect();
        (found.len() == 1).then(|| found[0].clone())
    })
    .await;
    let (_, _) = host.finish(seconds(5)).await;
    let left = marked(&mark);
    // First the end of what was started, then the judgement: a red test leaves nothing behind.
    send(found.pid, Signal::KILL);
    until("its end", seconds(5), async || {
        marked(&mark).is_empty().then_some(())
    })
    .await;
    assert_eq!(
        left,
        [found],
        "it outlives a server that nobody looks after"
    );
}
