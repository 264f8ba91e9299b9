//! Servers whose era nobody has named: what they speak is found out, whatever they do about it.
//!
//! It stands apart because it is about the first words with a server. The ledger says what it heard,
//! and how many servers were started shows in it: each begins with its own first words.

use serde_json::json;

use chillgate_tests::modern::{body, message, send};
use chillgate_tests::wait::seconds;
use chillgate_tests::{Gate, Host, Mock};

use crate::mock;

fn server(flags: &[&str]) -> Mock {
    mock("a").ledger().flags(flags)
}

async fn gate(flags: &[&str], keys: &str) -> Gate {
    Gate::with(&server(flags).table(keys)).start().await
}

async fn echo(host: &Host) -> String {
    let reply = host.call("echo", json!({"message": "hi"})).await;
    reply.tool_text().to_owned()
}

async fn modern_echo(gate: &Gate) -> String {
    let call = message(
        &json!(1),
        "tools/call",
        json!({"name": "echo", "arguments": {"message": "hi"}}),
    );
    let answer = body(&send(gate.front(), &call).await);
    let text = answer["result"]["content"][0]["text"].as_str();
    text.unwrap_or_else(|| panic!("{answer}")).to_owned()
}

/// each way in which servers were seen to take the first words of the other era.
#[tokio::test]
async fn hosts_of_both_eras_work_with_every_sort_of_server() {
    for flags in [
        &["--eras", "legacy"][..],
        &["--eras", "modern"],
        // It stays in the era of the first message that it hears.
        &["--eras", "first"],
        // It leaves when it hears what it does not know.
        &["--touchy"],
        &["--eras", "modern", "--garbage"],
    ] {
        for modern_first in [true, false] {
            let gate = gate(flags, "").await;
            if modern_first {
                assert_eq!(modern_echo(&gate).await, "hi", "{flags:?}");
            }
            let host = gate.host().open().await;
            assert_eq!(echo(&host).await, "hi", "{flags:?}");
            let able = json!({"sampling": {}, "roots": {}});
            let alone = gate.host().path("/server/a/mcp").open_with(able).await.0;
            assert_eq!(echo(&alone).await, "hi", "{flags:?}");
            assert_eq!(modern_echo(&gate).await, "hi", "{flags:?}");
            let before = gate.heard("a").of("server/discover").len();
            for _ in 0..5 {
                modern_echo(&gate).await;
                echo(&host).await;
            }
            let after = gate.heard("a").of("server/discover").len();
            assert_eq!(
                before, after,
                "what was found out is asked again: {flags:?}"
            );
            assert!(after <= 2, "{flags:?}: {after} times");
        }
    }
}

/// slow starters, and those that say nothing about what they do not know.
#[tokio::test]
async fn silence_is_no_verdict() {
    for (flags, at_most) in [
        (&["--deaf"][..], 12),
        (&["--eras", "modern", "--slow-start", "7000"], 16),
        (&["--slow-start", "7000"], 20),
    ] {
        let gate = gate(flags, "isolation = \"session\"").await;
        let began = tokio::time::Instant::now();
        assert_eq!(modern_echo(&gate).await, "hi", "{flags:?}");
        let took = began.elapsed();
        assert!(took < seconds(at_most), "{flags:?} took {took:?}");
    }
}

/// Where one process must serve everybody, there is one.
#[tokio::test]
async fn a_shared_server_is_one_server_in_one_era() {
    let gate = gate(&["--eras", "first"], "isolation = \"shared\"").await;
    modern_echo(&gate).await;
    let host = gate.host().open().await;
    echo(&host).await;
    modern_echo(&gate).await;
    let heard = gate.heard("a");
    assert_eq!(heard.of("initialize").len(), 1);
    assert_eq!(heard.of("server/discover").len(), 0);
    assert_eq!(heard.calls(), 3);
}

/// A server that is said to speak one era hears nothing of the other.
#[tokio::test]
async fn an_era_that_is_named_is_not_asked_for() {
    let legacy = gate(&["--eras", "first"], "era = \"legacy\"").await;
    modern_echo(&legacy).await;
    assert!(legacy.heard("a").of("server/discover").is_empty());
    let modern = gate(&["--eras", "first"], "era = \"modern\"").await;
    echo(&modern.host().open().await).await;
    assert!(modern.heard("a").of("initialize").is_empty());
    // Named wrongly: an error that says so, and no more.
    let wrong = gate(&["--eras", "legacy"], "era = \"modern\"").await;
    let call = message(&json!(1), "tools/call", json!({"name": "echo"}));
    let answer = body(&send(wrong.front(), &call).await);
    let text = answer["error"]["message"].as_str().unwrap();
    assert!(text.contains("era of MCP"), "{text}");
}
