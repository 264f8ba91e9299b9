//! What one agent has been handed is of no use to another: tasks, states, sessions, requests in
//! flight and subscriptions.
//!
//! It stands apart from the rows that use such handles as they should be. The thief here knows all
//! of them by heart and tries each on every way in. What is refused never reaches the server, and
//! the owner notices nothing.

use serde_json::{Value, json};

use chillgate_tests::http::request;
use chillgate_tests::modern::{CAPABILITIES, body, fields, message};
use chillgate_tests::wait::{seconds, within};
use chillgate_tests::{Gate, Host, until};

use crate::headers_agree::servers;
use crate::mock;

const HEADER: &str = "[identity]\nheader = \"x-agent-id\"\n";

async fn agent(gate: &Gate, name: &str) -> Host {
    let capabilities = json!({"elicitation": {}});
    let host = gate.host().header("x-agent-id", name);
    host.open_with(capabilities).await.0
}

/// A modern request of this agent, which can be asked and knows tasks.
async fn ask(gate: &Gate, path: &str, agent: &str, method: &str, mut params: Value) -> Value {
    params["_meta"][CAPABILITIES] =
        json!({"elicitation": {}, "extensions": {"io.modelcontextprotocol/tasks": {}}});
    let sent = message(&json!(1), method, params);
    let mut head = fields(&sent);
    head.extend(
        sent["params"]["taskId"]
            .as_str()
            .map(|task| ("mcp-name", task)),
    );
    head.push(("x-agent-id", agent));
    body(&request(gate.front(), "POST", path, &head, sent.to_string()).await)
}

/// each method of tasks, on each endpoint, by 20 other agents, and ids that never were.
#[tokio::test]
async fn a_task_is_its_agents_alone_by_any_method() {
    let server = mock("a").ledger().flags(&["--eras", "modern"]);
    let gate = Gate::with(&(server.table("era = \"modern\"\n") + HEADER))
        .start()
        .await;
    let task = ask(
        &gate,
        "/mcp",
        "mina",
        "tools/call",
        json!({"name": "as-task"}),
    )
    .await;
    let id = task["result"]["taskId"].as_str().unwrap();
    let heard = || {
        let heard = gate.heard("a");
        let methods = [
            "tasks/get",
            "tasks/update",
            "tasks/cancel",
            "tasks/result",
            "tasks/list",
        ];
        methods
            .iter()
            .map(|method| heard.of(method).len())
            .sum::<usize>()
    };
    for thief in 0..20 {
        let thief = format!("eve-{thief}");
        for method in ["tasks/get", "tasks/update", "tasks/cancel", "tasks/result"] {
            for path in ["/mcp", "/server/a/mcp"] {
                let stolen = json!({"taskId": id, "inputResponses": {}});
                let stolen = ask(&gate, path, &thief, method, stolen).await;
                let removed = method == "tasks/result";
                let expected = if removed { -32601 } else { -32602 };
                assert_eq!(
                    stolen["error"]["code"], expected,
                    "{path} {method}: {stolen}"
                );
                assert!(stolen["error"]["data"].is_null(), "{stolen}");
            }
        }
    }
    assert_eq!(heard(), 0, "it reached the server");
    let own = ask(&gate, "/mcp", "mina", "tasks/get", json!({"taskId": id})).await;
    assert_eq!(own["result"]["taskId"], id, "{own}");
    assert_eq!(heard(), 1);
}

/// a state of a modern server, brought back by another agent's hosts of both eras,
/// under its own name or another spelling of it.
#[tokio::test]
async fn a_state_is_its_agents_alone_however_it_comes_back() {
    let server = mock("a").ledger().flags(&["--eras", "modern"]);
    let gate = Gate::with(&(server.table("era = \"modern\"\n") + HEADER))
        .start()
        .await;
    let asked = ask(
        &gate,
        "/mcp",
        "mina",
        "tools/call",
        json!({"name": "elicit"}),
    )
    .await;
    let state = asked["result"]["requestState"].clone();
    assert_eq!(state, "the state");
    let eve = agent(&gate, "eve").await;
    let calls = gate.heard("a").calls();
    for spelled in [
        "requestState",
        "RequestState",
        "requeststate",
        "REQUESTSTATE",
        "reque\u{17f}tState",
    ] {
        let mut params = json!({"name": "elicit", "inputResponses": {"e": {"action": "accept"}}});
        params[spelled] = state.clone();
        let code = if spelled == "requestState" {
            -32602
        } else {
            -32600
        };
        for path in ["/mcp", "/server/a/mcp"] {
            let stolen = ask(&gate, path, "eve", "tools/call", params.clone()).await;
            assert_eq!(stolen["error"]["code"], code, "{spelled}: {stolen}");
        }
        let stolen = eve.request("tools/call", params).await;
        assert_eq!(stolen.code(), Some(code), "{spelled}: {stolen:?}");
    }
    assert_eq!(gate.heard("a").calls(), calls, "it reached the server");
    let answers = json!({"e": {"action": "accept"}});
    let own = json!({"name": "elicit", "requestState": state, "inputResponses": answers});
    let own = ask(&gate, "/mcp", "mina", "tools/call", own).await;
    assert!(own["result"]["content"].is_array(), "{own}");
}

/// nobody cancels another agent's request by its id, answers its question or
/// ends its subscription, though one process serves them all.
#[tokio::test]
async fn nobody_ends_answers_or_silences_what_is_another_agents() {
    for (era, server, keys) in servers() {
        let shared = format!("{keys}isolation = \"shared\"\n");
        let gate = Gate::with(&(server.table(&shared) + HEADER)).start().await;
        let (mina, eve) = (agent(&gate, "mina").await, agent(&gate, "eve").await);
        let mut stream = mina.listen().await;
        let uri = json!({"uri": "mock://a/1"});
        mina.request("resources/subscribe", uri.clone())
            .await
            .result();
        // Both count their ids from 0, and eve has no request under this one.
        let call = json!({"jsonrpc": "2.0", "id": 77, "method": "tools/call",
            "params": {"name": "wait", "arguments": {"ms": 600, "nonce": "mine"}}});
        let calls = gate.heard("a").calls();
        let meddling = async {
            until("the call", seconds(10), async || {
                (gate.heard("a").calls() > calls).then_some(())
            })
            .await;
            for id in [
                json!(77),
                json!("77"),
                json!(77.0),
                json!(1),
                json!(2),
                json!(3),
            ] {
                eve.notify("notifications/cancelled", Some(json!({"requestId": id})))
                    .await;
                let stranger = message(
                    &json!(1),
                    "notifications/cancelled",
                    json!({"requestId": id}),
                );
                let mut note = stranger.clone();
                note.as_object_mut().unwrap().remove("id");
                let mut head = fields(&note);
                head.push(("x-agent-id", "eve"));
                let answer = request(gate.front(), "POST", "/mcp", &head, note.to_string()).await;
                assert_eq!(answer.status, 202);
                eve.respond(&id, json!({"content": []})).await;
            }
            eve.request("resources/unsubscribe", uri.clone()).await
        };
        let (reply, _) = tokio::join!(mina.post(&call), meddling);
        assert_eq!(reply.tool_text(), "mine", "{era}");
        let heard = gate.heard("a");
        let call = heard.of("tools/call").pop().unwrap();
        let cancelled = heard.of("notifications/cancelled");
        let is_own = |note: &Value| note["params"]["requestId"] == call["id"];
        assert!(!cancelled.iter().any(is_own), "{era}: it was cancelled");
        assert!(
            gate.heard("a").of("resources/unsubscribe").is_empty(),
            "{era}: it was silenced"
        );
        mina.call("updated", uri.clone()).await;
        let note = within("the update", seconds(10), stream.message())
            .await
            .unwrap();
        assert_eq!(note["params"], uri, "{era}");
    }
}
