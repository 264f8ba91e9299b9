//! HTTP+SSE of 2024-11-05: the rules of its own that no later transport has.
//!
//! It stands apart from Streamable HTTP because the session is the stream here. That all of MCP
//! passes is shown with the SDKs' clients; here raw requests try what those never would.

use serde_json::{Value, json};

use chillgate_tests::http::{Connection, request};
use chillgate_tests::sse::Events;
use chillgate_tests::wait::{seconds, within};
use chillgate_tests::{Gate, until};

use crate::mock;

const JSON: (&str, &str) = ("content-type", "application/json");
const EVENTS: (&str, &str) = ("accept", "text/event-stream");

async fn gate() -> Gate {
    let tables = mock("a").ledger().table("") + "[identity]\nheader = \"x-agent-id\"\n";
    Gate::with(&tables).audited().start().await
}

/// An open stream and the address that its first event names.
async fn open(gate: &Gate, path: &str) -> (Connection, Events, String) {
    let mut connection = Connection::open(gate.front()).await;
    let response = connection
        .send("GET", path, &[EVENTS], bytes::Bytes::new())
        .await;
    assert_eq!(response.status(), 200);
    assert_eq!(response.headers()["content-type"], "text/event-stream");
    let mut events = Events::new(response.into_body());
    let first = within("the endpoint", seconds(5), events.next())
        .await
        .unwrap();
    assert_eq!(first.name.as_deref(), Some("endpoint"));
    (connection, events, first.data)
}

async fn post(gate: &Gate, to: &str, message: &Value) -> u16 {
    let answer = request(gate.front(), "POST", to, &[JSON], message.to_string()).await;
    answer.status
}

fn hello(id: u64) -> Value {
    let client = json!({"name": "old", "version": "1"});
    let params = json!({"protocolVersion": "2024-11-05", "capabilities": {}, "clientInfo": client});
    json!({"jsonrpc": "2.0", "id": id, "method": "initialize", "params": params})
}

fn call(id: u64, tool: &str, arguments: &Value) -> Value {
    let params = json!({"name": tool, "arguments": arguments});
    json!({"jsonrpc": "2.0", "id": id, "method": "tools/call", "params": params})
}

async fn heard(events: &mut Events) -> Value {
    within("a message", seconds(10), events.message())
        .await
        .unwrap()
}

#[tokio::test]
async fn all_answers_come_on_the_stream() {
    let gate = gate().await;
    for path in ["/sse", "/server/a/sse"] {
        let (_connection, mut events, to) = open(&gate, path).await;
        assert!(to.starts_with(&format!("{path}?")), "{to}");
        assert_eq!(post(&gate, &to, &hello(1)).await, 202);
        let said = heard(&mut events).await;
        assert_eq!(said["result"]["protocolVersion"], "2024-11-05", "{said}");
        // The quick one is not held up by the slow one.
        let wait = call(2, "wait", &json!({"ms": 700, "nonce": "slow"}));
        assert_eq!(post(&gate, &to, &wait).await, 202);
        assert_eq!(
            post(&gate, &to, &call(3, "echo", &json!({"message": "quick"}))).await,
            202
        );
        assert_eq!(heard(&mut events).await["id"], 3);
        assert_eq!(
            heard(&mut events).await["result"]["content"][0]["text"],
            "slow"
        );
    }
}

#[tokio::test]
async fn what_is_posted_elsewhere_reaches_nobody() {
    let gate = gate().await;
    let (_connection, mut events, to) = open(&gate, "/sse").await;
    assert_eq!(post(&gate, &to, &hello(1)).await, 202);
    heard(&mut events).await;
    let echo = call(2, "echo", &json!({})).to_string();
    let foreign = [JSON, ("x-agent-id", "somebody-else")];
    let other_path = to.replacen("/sse", "/server/a/sse", 1);
    for (path, headers, status) in [
        ("/sse", vec![JSON], 404),
        (
            "/sse?session=0123456789abcdef0123456789abcdef",
            vec![JSON],
            404,
        ),
        (other_path.as_str(), vec![JSON], 404),
        (to.as_str(), foreign.to_vec(), 404),
        (to.as_str(), vec![("content-type", "text/plain")], 415),
        (
            to.as_str(),
            vec![JSON, ("origin", "http://evil.example")],
            403,
        ),
    ] {
        let answer = request(gate.front(), "POST", path, &headers, echo.clone()).await;
        assert_eq!(answer.status, status, "{path} {headers:?}");
    }
    let deleted = request(gate.front(), "DELETE", &to, &[], String::new()).await;
    assert_eq!(deleted.status, 405);
    let answer = request(
        gate.front(),
        "GET",
        "/sse",
        &[("accept", "text/html")],
        String::new(),
    )
    .await;
    assert_eq!(answer.status, 406);
    assert_eq!(
        gate.heard("a").calls(),
        0,
        "a refused call reached the server"
    );
    // What is no message is answered on the stream, as on any other line.
    let broken = request(gate.front(), "POST", &to, &[JSON], "{".to_owned()).await;
    assert_eq!(broken.status, 202);
    assert_eq!(heard(&mut events).await["error"]["code"], -32700);
}

#[tokio::test]
async fn with_the_stream_its_session_ends() {
    let gate = gate().await;
    let (connection, mut events, to) = open(&gate, "/sse").await;
    assert_eq!(post(&gate, &to, &hello(1)).await, 202);
    heard(&mut events).await;
    assert_eq!(
        post(&gate, &to, &call(2, "wait", &json!({"ms": 20_000}))).await,
        202
    );
    until("the call", seconds(5), async || {
        (gate.heard("a").calls() == 1).then_some(())
    })
    .await;
    drop((connection, events));
    let cancelled =
        async || (gate.heard("a").of("notifications/cancelled").len() == 1).then_some(());
    until("the cancellation", seconds(10), cancelled).await;
    assert_eq!(post(&gate, &to, &call(3, "echo", &json!({}))).await, 404);
}
