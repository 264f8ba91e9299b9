//! What a server says unasked reaches exactly the host that it belongs to.
//!
//! It stands apart from the relay of calls because here the server begins: sampling, elicitation,
//! roots, progress, log messages, changed lists. Two hosts are always there; one must hear, the
//! other must not.

use std::time::Duration;

use serde_json::{Value, json};
use tokio::time::timeout;

use chillgate_tests::sse::Events;
use chillgate_tests::wait::{seconds, until, within};
use chillgate_tests::{Gate, Host};

use crate::mock;

/// A host that can be asked for everything.
async fn able(gate: &Gate) -> Host {
    let capabilities = json!({"sampling": {}, "elicitation": {}, "roots": {"listChanged": true}});
    gate.host().open_with(capabilities).await.0
}

/// The next message of a stream, or nothing within a short while.
async fn heard(events: &mut Events, limit: Duration) -> Option<Value> {
    timeout(limit, events.message()).await.ok().flatten()
}

///
#[tokio::test]
async fn sampling_elicitation_and_roots_ask_the_host_that_called() {
    let gate = Gate::with(&mock("a").table("")).start().await;
    let (asked, other) = (able(&gate).await, able(&gate).await);
    let mut others = other.listen().await;
    for (tool, method) in [
        ("sample", "sampling/createMessage"),
        ("elicit", "elicitation/create"),
        ("roots", "roots/list"),
    ] {
        let call = asked.message("tools/call", Some(json!({"name": tool})));
        let mut events = asked.stream(&call).await;
        let request = within(method, seconds(10), events.message()).await.unwrap();
        assert_eq!(request["method"], method);
        let nonce = format!("answer to {tool}");
        assert_eq!(
            asked.respond(&request["id"], json!({"said": nonce})).await,
            202
        );
        let answer = within("the tool's answer", seconds(10), events.message())
            .await
            .unwrap();
        let text = answer["result"]["content"][0]["text"].as_str().unwrap();
        assert!(text.contains(&nonce), "{text}");
    }
    assert_eq!(
        heard(&mut others, Duration::from_millis(300)).await,
        None,
        "another host heard it"
    );
}

/// A server that asks beside a call, and has answered that call before its host could answer it.
#[tokio::test]
async fn a_question_beside_a_call_may_be_answered_after_it() {
    let gate = Gate::with(&mock("a").ledger().table("")).start().await;
    let asked = able(&gate).await;
    let question = json!({"jsonrpc": "2.0", "id": "where", "method": "roots/list"});
    let before = format!("{question}\n{{\"jsonrpc\":\"2.0\",\"id\":");
    let line = json!([before, null, ",\"result\":{\"content\":[]}}"]);
    let reply = asked.call("verbatim", json!({"line": line})).await;
    let question = &reply.before()[0];
    assert_eq!(question["method"], "roots/list");
    let roots = json!({"roots": [{"uri": "file:///late"}]});
    assert_eq!(asked.respond(&question["id"], roots.clone()).await, 202);
    let answer = json!({"jsonrpc": "2.0", "id": "where", "result": roots});
    let heard = async || {
        let is_answer = |line: &String| serde_json::from_str(line).ok() == Some(answer.clone());
        gate.heard("a").lines().iter().any(is_answer).then_some(())
    };
    until("the server to hear the answer", seconds(10), heard).await;
}

#[tokio::test]
async fn another_hosts_answer_to_a_servers_request_counts_for_nothing() {
    let gate = Gate::with(&mock("a").table("")).start().await;
    let (asked, thief) = (able(&gate).await, able(&gate).await);
    let call = asked.message("tools/call", Some(json!({"name": "sample"})));
    let mut events = asked.stream(&call).await;
    let request = within("the request", seconds(10), events.message())
        .await
        .unwrap();
    thief
        .respond(&request["id"], json!({"said": "forged"}))
        .await;
    assert_eq!(
        heard(&mut events, Duration::from_millis(300)).await,
        None,
        "the forged answer was taken"
    );
    asked.respond(&request["id"], json!({"said": "mine"})).await;
    let answer = within("the answer", seconds(10), events.message())
        .await
        .unwrap();
    assert!(answer.to_string().contains("mine"), "{answer}");
}

///
#[tokio::test]
async fn a_host_that_declared_nothing_is_asked_for_nothing() {
    let gate = Gate::with(&mock("a").table("")).start().await;
    let host = gate.host().open().await;
    let reply = within("the refusal", seconds(10), host.call("sample", json!({}))).await;
    assert!(reply.before().is_empty(), "the host was asked: {reply:?}");
    let told: Value = serde_json::from_str(reply.tool_text()).unwrap();
    assert!(
        told["error"]["code"].is_i64(),
        "the server was not refused: {told}"
    );
}

///
#[tokio::test]
async fn progress_comes_back_under_the_hosts_own_token() {
    let gate = Gate::with(&mock("a").table("")).start().await;
    let (one, two) = (gate.host().open().await, gate.host().open().await);
    let call = |token: Value| json!({"name": "progress", "arguments": {"steps": 5, "ms": 20}, "_meta": {"progressToken": token}});
    // The same number, and the same digits as text: three tokens on one shared child.
    let tokens = [json!(1), json!("1"), json!(1)];
    let replies = tokio::join!(
        one.request("tools/call", call(tokens[0].clone())),
        one.request("tools/call", call(tokens[1].clone())),
        two.request("tools/call", call(tokens[2].clone())),
    );
    for (reply, token) in [&replies.0, &replies.1, &replies.2]
        .into_iter()
        .zip(&tokens)
    {
        let steps: Vec<_> = reply
            .before()
            .iter()
            .map(|note| note["params"]["progress"].clone())
            .collect();
        assert_eq!(steps, [1, 2, 3, 4, 5].map(|n| json!(n)), "{reply:?}");
        assert!(
            reply
                .before()
                .iter()
                .all(|note| note["params"]["progressToken"] == *token),
            "{reply:?}"
        );
    }
}

#[tokio::test]
async fn a_changed_list_is_told_to_every_host_of_a_shared_child() {
    let gate = Gate::with(&mock("a").table("")).start().await;
    let (one, two) = (gate.host().open().await, gate.host().open().await);
    // Who has seen no list has none to forget.
    one.tools().await;
    two.tools().await;
    let (mut of_one, mut of_two) = (one.listen().await, two.listen().await);
    one.call("changed", json!({})).await;
    for events in [&mut of_one, &mut of_two] {
        let mut methods = Vec::new();
        while let Some(note) = heard(events, seconds(2)).await {
            methods.push(note["method"].as_str().unwrap_or_default().to_owned());
            if methods.len() == 3 {
                break;
            }
        }
        methods.sort();
        let expected = ["prompts", "resources", "tools"]
            .map(|what| format!("notifications/{what}/list_changed"));
        assert_eq!(methods, expected);
    }
}

#[tokio::test]
async fn a_log_message_goes_to_the_one_host_and_only_at_its_level() {
    let gate = Gate::with(&mock("a").table("isolation = \"session\""))
        .start()
        .await;
    let (one, two) = (gate.host().open().await, gate.host().open().await);
    let (mut of_one, mut of_two) = (one.listen().await, two.listen().await);
    one.request("logging/setLevel", json!({"level": "warning"}))
        .await;
    let mut told = Vec::new();
    for level in ["debug", "error"] {
        let reply = one
            .call("log", json!({"level": level, "data": level}))
            .await;
        told.extend(reply.before().to_vec());
    }
    while let Some(note) = heard(&mut of_one, Duration::from_millis(500)).await {
        told.push(note);
    }
    let levels: Vec<_> = told
        .iter()
        .map(|note| note["params"]["level"].clone())
        .collect();
    assert_eq!(levels, [json!("error")], "{told:?}");
    assert_eq!(heard(&mut of_two, Duration::from_millis(300)).await, None);
}

#[tokio::test]
async fn what_a_server_says_before_its_first_answer_waits_for_the_sessions_stream() {
    let table = mock("a")
        .flags(&["--eager"])
        .table("isolation = \"session\"");
    let gate = Gate::with(&table).start().await;
    let mut host = gate.host().path("/server/a/mcp");
    let hello = host.post(&host.hello(&json!({}))).await;
    // The answer to `initialize` brings the session's id and nothing else.
    assert_eq!(hello.headers["content-type"], "application/json");
    assert!(hello.before().is_empty(), "{hello:?}");
    host.steal(hello.headers["mcp-session-id"].to_str().unwrap());
    let mut events = host.listen().await;
    let note = heard(&mut events, seconds(5))
        .await
        .expect("the log message");
    assert_eq!(note["params"]["data"], "on my way");
}

#[tokio::test]
async fn a_log_message_of_a_shared_server_is_told_to_nobody_when_two_share_it() {
    let gate = Gate::with(&mock("a").table("isolation = \"shared\""))
        .start()
        .await;
    let one = gate.host().open().await;
    let reply = one
        .call("log", json!({"level": "error", "data": "alone"}))
        .await;
    let mut of_one = one.listen().await;
    let mut told = reply.before().to_vec();
    while let Some(note) = heard(&mut of_one, Duration::from_millis(300)).await {
        told.push(note);
    }
    assert_eq!(
        told.len(),
        1,
        "who is alone hears its server's log: {told:?}"
    );

    let two = gate.host().open().await;
    two.call("echo", json!({"message": "here"})).await;
    let mut of_two = two.listen().await;
    let reply = one
        .call("log", json!({"level": "error", "data": "secret"}))
        .await;
    assert!(reply.before().is_empty(), "{:?}", reply.before());
    assert_eq!(heard(&mut of_one, Duration::from_millis(300)).await, None);
    assert_eq!(heard(&mut of_two, Duration::from_millis(300)).await, None);
    let dropped = gate.scrape().await.sum(
        "chillgate_dropped_messages_total",
        &[("reason", "log_for_nobody")],
    );
    assert!((dropped - 1.0).abs() < 0.01, "{dropped}");
}

#[tokio::test]
async fn an_updated_resource_is_told_to_those_who_subscribed() {
    let gate = Gate::with(&mock("a").table("")).start().await;
    let (one, two) = (gate.host().open().await, gate.host().open().await);
    let (mut of_one, mut of_two) = (one.listen().await, two.listen().await);
    let uri = json!({"uri": "mock://a/doc"});
    one.request("resources/subscribe", uri.clone()).await;
    let reply = two.call("updated", uri.clone()).await;
    assert!(reply.before().is_empty(), "{reply:?}");
    let note = within("the update", seconds(5), of_one.message())
        .await
        .unwrap();
    assert_eq!(note["method"], "notifications/resources/updated");
    assert_eq!(note["params"]["uri"], uri["uri"]);
    assert_eq!(
        heard(&mut of_two, Duration::from_millis(300)).await,
        None,
        "it had not subscribed"
    );
}

#[tokio::test]
async fn a_cancelled_call_is_cancelled_at_the_server_under_the_servers_id() {
    let gate = Gate::with(&mock("a").ledger().table("")).start().await;
    let host = gate.host().open().await;
    let call = host.message(
        "tools/call",
        Some(json!({"name": "wait", "arguments": {"ms": 20_000}})),
    );
    let cancel = async {
        chillgate_tests::until("the call at the server", seconds(5), async || {
            (gate.heard("a").calls() == 1).then_some(())
        })
        .await;
        let params = json!({"requestId": call["id"], "reason": "enough"});
        assert_eq!(
            host.notify("notifications/cancelled", Some(params)).await,
            202
        );
    };
    let ended = timeout(seconds(10), async {
        tokio::join!(host.post(&call), cancel)
    })
    .await;
    let (reply, ()) = ended.expect("a cancelled call must not hold its POST open");
    assert!(
        reply
            .messages
            .iter()
            .all(|message| message.get("result").is_none()),
        "{reply:?}"
    );
    let heard = gate.heard("a");
    let id_at_server = heard.of("tools/call")[0]["id"].clone();
    let told = chillgate_tests::until("the cancellation at the server", seconds(5), async || {
        gate.heard("a")
            .of("notifications/cancelled")
            .first()
            .cloned()
    })
    .await;
    assert_eq!(told["params"]["requestId"], id_at_server);
}

///
#[tokio::test]
async fn a_lost_connection_is_not_a_cancellation() {
    let gate = Gate::with(&mock("a").ledger().table(""))
        .audited()
        .start()
        .await;
    let host = gate.host().open().await;
    let wait = json!({"name": "wait", "arguments": {"ms": 800, "nonce": "n"}});
    // With a token there is an event stream by then, and writing to it fails.
    let steps = json!({"name": "progress", "arguments": {"steps": 20, "ms": 40},
                       "_meta": {"progressToken": "t"}});
    for (number, (params, resets)) in [(&wait, false), (&wait, true), (&steps, true)]
        .into_iter()
        .enumerate()
    {
        let call = host.message("tools/call", Some(params.clone()));
        let patience = Duration::from_millis(300);
        if resets {
            host.reset(&call, patience).await;
        } else {
            host.abandon(&call, patience).await;
        }
        let records = gate.records_when("the done record", |records| {
            records.of("method", "tools/call").sums().done == number + 1
        });
        let calls = records.await.of("method", "tools/call");
        assert_eq!(calls.sums().admitted, number + 1);
        assert_eq!(calls.outcomes().get("cancelled"), None, "{params}");
    }
    assert!(
        gate.heard("a").of("notifications/cancelled").is_empty(),
        "the server was told to stop"
    );
}
