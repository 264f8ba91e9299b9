//! Calls that wait for a start: what they are told when it comes to nothing, and where they go when
//! the configuration changes meanwhile.
//!
//! It stands apart because nobody here has done anything wrong with a request: none has reached a
//! server yet, so each may go wherever its server is by then.

use std::time::Duration;

use chillgate_tests::process::marked;
use chillgate_tests::server::toml_list;
use chillgate_tests::wait::{seconds, within};
use chillgate_tests::{Gate, Host, until};
use serde_json::json;
use tokio::time::Instant;

use crate::MOCK;

/// A server that never says anything, and notes each of its starts.
fn silent(name: &str, mark: &str, more: &str) -> String {
    let script = format!("echo start >> @DIR@/{name}.starts; exec sleep 600 # {mark}");
    let command = toml_list(&["sh", "-c", &script]);
    format!("[server.{name}]\ncommand = {command}\n{more}\n")
}

fn starts(gate: &Gate, name: &str) -> usize {
    let path = gate.folder().join(format!("{name}.starts"));
    std::fs::read_to_string(path)
        .unwrap_or_default()
        .lines()
        .count()
}

async fn until_it_starts(gate: &Gate, name: &str) {
    until("the start", seconds(20), async || {
        (starts(gate, name) > 0).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_call_that_waits_goes_to_whatever_takes_its_servers_place() {
    let mark = chillgate_tests::process::mark();
    let tables = silent("s", &mark, "start-timeout = \"50s\"");
    let gate = Gate::with(&tables).start().await;
    let (merged, own) = (gate.host().open().await, gate.host().path("/server/s/mcp"));
    until_it_starts(&gate, "s").await;
    // One that calls, and one that only says hello.
    let calling = tokio::spawn(async move { merged.call("echo", json!({ "message": "x" })).await });
    let greeting = tokio::spawn(async move { own.open().await.tools().await });
    tokio::time::sleep(Duration::from_secs(1)).await;
    let began = Instant::now();
    let command = toml_list(&[
        "sh",
        "-c",
        &format!(
            "echo start >> {}/s.starts; exec sleep 600 # {mark}",
            gate.folder().display()
        ),
    ]);
    gate.edit(&command, &toml_list(&[MOCK, "--name", "s"]));
    let answer = within("the answer", seconds(20), calling).await.unwrap();
    assert_eq!(answer.tool_text(), "x");
    let tools = within("the greeting", seconds(20), greeting).await.unwrap();
    assert!(tools.contains(&"echo".to_owned()), "{tools:?}");
    assert!(began.elapsed() < seconds(15), "{:?}", began.elapsed());
    until("the old process to be gone", seconds(10), async || {
        marked(&mark).is_empty().then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_call_that_waits_for_a_server_that_is_taken_out_hears_that_at_once() {
    let mark = chillgate_tests::process::mark();
    let good = format!(
        "[server.g]\ncommand = {}\n",
        toml_list(&[MOCK, "--name", "g"])
    );
    let gate = Gate::with(&(silent("s", &mark, "start-timeout = \"50s\"") + &good))
        .start()
        .await;
    let host = gate.host().open().await;
    until_it_starts(&gate, "s").await;
    let calling = tokio::spawn(async move { host.call("s__echo", json!({})).await });
    tokio::time::sleep(Duration::from_secs(1)).await;
    let began = Instant::now();
    let text = std::fs::read_to_string(gate.config()).unwrap();
    let (before, _) = text.split_once("[server.s]").unwrap();
    std::fs::write(gate.config(), format!("{before}{good}")).unwrap();
    let answer = within("the answer", seconds(20), calling).await.unwrap();
    assert!(began.elapsed() < seconds(5), "{:?}", began.elapsed());
    let error = &answer.answer()["error"];
    assert_eq!(error["data"]["type"], "chillgate/no-server", "{error}");
    until("its process to be gone", seconds(10), async || {
        marked(&mark).is_empty().then_some(())
    })
    .await;
}

#[tokio::test]
async fn whoever_waits_for_a_start_hears_what_comes_of_it_and_of_no_other() {
    let mark = chillgate_tests::process::mark();
    let tables = silent("s", &mark, "isolation = \"shared\"\nstart-timeout = \"3s\"");
    let gate = Gate::with(&tables).start().await;
    until_it_starts(&gate, "s").await;
    let calls = (0..6).map(|number| {
        let host = gate.host();
        tokio::spawn(async move {
            let host: Host = host.open().await;
            tokio::time::sleep(Duration::from_millis(100 * number)).await;
            let began = Instant::now();
            let answer = host.call("echo", json!({})).await;
            (began.elapsed(), answer)
        })
    });
    for call in calls.collect::<Vec<_>>() {
        let (after, answer) = within("the answer", seconds(60), call).await.unwrap();
        // One start in each era, and the pause before them.
        assert!(after < seconds(11), "{after:?}");
        let error = &answer.answer()["error"];
        assert_eq!(error["data"]["type"], "chillgate/server-down", "{error}");
        assert_eq!(
            error["data"]["incident"]["remedy"]["id"], "silent",
            "{error}"
        );
    }
    assert!(starts(&gate, "s") <= 5, "{} starts", starts(&gate, "s"));
}
