//! What servers of revision 2026-07-28 want to know in the midst of a call, asked of older hosts.
//!
//! It stands apart because one call is several at the server and several requests at the host. The
//! ledger says that each call was made again with what was said, and that nobody else was asked.

use std::time::Duration;

use serde_json::{Value, json};
use tokio::time::timeout;

use chillgate_tests::schema::Schema;
use chillgate_tests::wait::{seconds, within};

use crate::modern_servers::{able, gate, next};

/// R-103, R-104, R-209: a question in an answer is a request on the stream of the host's own call.
#[tokio::test]
async fn a_legacy_host_is_asked_on_its_own_stream_and_the_call_goes_on() {
    let gate = gate().await;
    let (host, other) = (able(&gate).await, able(&gate).await);
    let mut others = other.listen().await;
    for (tool, method, key, state) in [
        ("sample", "sampling/createMessage", "s", json!("s")),
        ("elicit", "elicitation/create", "e", json!("the state")),
        ("roots", "roots/list", "r", Value::Null),
        ("page", "elicitation/create", "p", Value::Null),
    ] {
        let call = host.message(
            "tools/call",
            Some(json!({"name": tool, "arguments": {"a": [1]}})),
        );
        let mut events = host.stream(&call).await;
        let asked = next(&mut events, method).await;
        assert_eq!(asked["method"], method);
        let definition = match method {
            "roots/list" => "ListRootsRequest",
            "sampling/createMessage" => "CreateMessageRequest",
            _ => "ElicitRequest",
        };
        Schema::of("2025-11-25").check(definition, &asked);
        if tool == "page" {
            assert!(asked["params"]["elicitationId"].is_string(), "{asked}");
        }
        let nonce = format!("answer to {tool}");
        let said = match method {
            "roots/list" => json!({"roots": [{"uri": "file:///a", "name": nonce}]}),
            "sampling/createMessage" => {
                let content = json!({"type": "text", "text": nonce});
                json!({"role": "assistant", "model": "m", "content": content})
            }
            _ => json!({"action": "accept", "content": {"name": nonce}}),
        };
        assert_eq!(host.respond(&asked["id"], said.clone()).await, 202);
        let answer = next(&mut events, "the answer").await;
        assert_eq!(answer["id"], call["id"]);
        let text = answer["result"]["content"][0]["text"].as_str().unwrap();
        let told: Value = serde_json::from_str(text).unwrap();
        assert_eq!(told["answers"], json!({key: said}), "{tool}");
        assert_eq!(told["state"], state, "{tool}");
    }
    assert!(
        timeout(Duration::from_millis(300), others.message())
            .await
            .is_err(),
        "another host heard it"
    );
    let calls = gate.heard("a").of("tools/call");
    let ids: Vec<_> = calls.iter().map(|call| call["id"].to_string()).collect();
    let mut distinct = ids.clone();
    distinct.sort();
    distinct.dedup();
    assert_eq!(distinct.len(), ids.len(), "an id was used again: {ids:?}");
    for pair in calls.chunks(2) {
        let (mut first, mut second) = (pair[0]["params"].clone(), pair[1]["params"].clone());
        for params in [&mut first, &mut second] {
            let params = params.as_object_mut().unwrap();
            params.remove("inputResponses");
            params.remove("requestState");
        }
        assert_eq!(first, second, "the call was made again with something else");
    }
    let records = gate
        .records_when("six ends", |records| {
            records.outcomes().get("ok") == Some(&6)
        })
        .await;
    let handshakes = 2;
    assert_eq!(
        records.sums().admitted,
        4 + handshakes,
        "a call is one call"
    );
}

/// A question in the words of the host's revision, and of what it declared.
#[tokio::test]
async fn a_question_is_worded_for_its_hosts_revision() {
    let gate = gate().await;
    for (revision, mode) in [("2025-06-18", Value::Null), ("2025-11-25", json!("form"))] {
        let host = gate.host().revision(revision);
        let (host, _) = host
            .open_with(json!({"elicitation": {}, "sampling": {}}))
            .await;
        for (tool, definition) in [
            ("elicit", "ElicitRequest"),
            ("sample-able", "CreateMessageRequest"),
        ] {
            let call = host.message("tools/call", Some(json!({"name": tool})));
            let mut events = host.stream(&call).await;
            let asked = next(&mut events, tool).await;
            Schema::of(revision).check(definition, &asked);
            if tool == "elicit" {
                assert_eq!(asked["params"]["mode"], mode, "{revision}");
            } else {
                assert!(asked["params"]["tools"].is_null(), "{asked}");
                assert!(asked["params"]["toolChoice"].is_null(), "{asked}");
            }
            host.respond(&asked["id"], json!({"action": "accept"}))
                .await;
            next(&mut events, "the answer").await;
        }
    }
}

/// Several questions at once, then another round; and what no host can answer.
#[tokio::test]
async fn rounds_go_on_until_the_server_is_satisfied_or_asks_too_much() {
    let gate = gate().await;
    let host = able(&gate).await;
    let call = host.message("tools/call", Some(json!({"name": "survey"})));
    let mut events = host.stream(&call).await;
    for _ in 0..3 {
        let asked = next(&mut events, "a question").await;
        let said = json!({"method": asked["method"]});
        host.respond(&asked["id"], said).await;
    }
    let answer = next(&mut events, "the answer").await;
    let text = answer["result"]["content"][0]["text"].as_str().unwrap();
    assert!(
        text.contains("two ") && text.contains("sampling/createMessage"),
        "{text}"
    );
    // A state alone asks for nothing but another call.
    let again = host.call("again", json!({})).await;
    assert_eq!(again.tool_text(), "called with Some(\"2\")");
    for (tool, code) in [("nothing", -32603), ("odd-question", -32603)] {
        let reply = host.call(tool, json!({})).await;
        assert_eq!(reply.code(), Some(code), "{tool}: {reply:?}");
    }
    // One that asks without end is left after ten rounds.
    let call = host.message("tools/call", Some(json!({"name": "forever"})));
    let mut events = host.stream(&call).await;
    let mut rounds = 0;
    let answer = loop {
        let said = next(&mut events, "a question or the end").await;
        if said["method"].is_null() {
            break said;
        }
        rounds += 1;
        host.respond(&said["id"], json!({"action": "accept", "content": {}}))
            .await;
    };
    assert_eq!(
        (rounds, answer["error"]["code"].as_i64()),
        (10, Some(-32603))
    );
    assert_eq!(
        host.call("echo", json!({"message": "on"}))
            .await
            .tool_text(),
        "on"
    );
}

/// R-102: nobody is asked for what he has not declared; a refusal of the host ends the call.
#[tokio::test]
async fn a_host_is_asked_only_for_what_it_declared_and_may_say_no() {
    let gate = gate().await;
    let plain = gate.host().open().await;
    let reply = within("the refusal", seconds(10), plain.call("survey", json!({}))).await;
    assert!(reply.before().is_empty(), "the host was asked: {reply:?}");
    assert_eq!(reply.result()["isError"], true);
    assert!(reply.tool_text().contains("not declared"), "{reply:?}");
    let host = able(&gate).await;
    for (tool, expected) in [("elicit", "cancel"), ("sample", "refused")] {
        let call = host.message("tools/call", Some(json!({"name": tool})));
        let mut events = host.stream(&call).await;
        let asked = next(&mut events, "the question").await;
        let no = json!({"jsonrpc": "2.0", "id": asked["id"], "error": {"code": -1, "message": "not now"}});
        host.post(&no).await;
        let answer = next(&mut events, "the answer").await;
        let text = answer["result"]["content"][0]["text"].as_str().unwrap();
        assert!(text.contains(expected), "{tool}: {text}");
        assert_eq!(answer["result"]["isError"] == true, tool == "sample");
    }
}

/// A call that cannot go on without one answer wants no other.
#[tokio::test]
async fn what_nobody_waits_for_any_more_is_taken_back() {
    let gate = gate().await;
    let host = able(&gate).await;
    let call = host.message("tools/call", Some(json!({"name": "pair"})));
    let mut events = host.stream(&call).await;
    let asked = [
        next(&mut events, "a question").await,
        next(&mut events, "another").await,
    ];
    let of = |method: &str| {
        asked
            .iter()
            .find(|asked| asked["method"] == method)
            .unwrap()
    };
    let (model, form) = (of("sampling/createMessage"), of("elicitation/create"));
    let no = json!({"jsonrpc": "2.0", "id": model["id"], "error": {"code": -1, "message": "no"}});
    host.post(&no).await;
    let taken_back = next(&mut events, "the withdrawal").await;
    assert_eq!(taken_back["method"], "notifications/cancelled");
    assert_eq!(taken_back["params"]["requestId"], form["id"]);
    let answer = next(&mut events, "the answer").await;
    assert_eq!(answer["result"]["isError"], true, "{answer}");
}
