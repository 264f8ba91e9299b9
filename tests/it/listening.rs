//! `subscriptions/listen`: what a host of revision 2026-07-28 hears of servers of the old eras.
//!
//! It stands apart from calls because here nothing is asked and the server begins. A stream may
//! carry what its host has asked for and nothing else; the ledger says what the server was told.

use std::time::Duration;

use bytes::Bytes;
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use rustix::process::Signal;
use serde_json::{Value, json};

use chillgate_tests::http::Connection;
use chillgate_tests::modern::{body, fields, message, send};
use chillgate_tests::process::descendants;
use chillgate_tests::schema::Schema;
use chillgate_tests::sse::Events;
use chillgate_tests::wait::{seconds, within};
use chillgate_tests::{Gate, until};

use crate::mock;

const SUBSCRIPTION: &str = "io.modelcontextprotocol/subscriptionId";

async fn gate(tables: &str) -> Gate {
    Gate::with(tables).audited().start().await
}

/// A stream that has been acknowledged, what was agreed, and the connection that keeps it open.
async fn listen(gate: &Gate, id: Value, wanted: Value) -> (Connection, Events, Value) {
    let request = message(
        &id,
        "subscriptions/listen",
        json!({"notifications": wanted}),
    );
    let mut connection = Connection::open(gate.front()).await;
    let raw = request.to_string().into();
    let response = connection
        .send("POST", "/mcp", &fields(&request), raw)
        .await;
    assert_eq!(response.status(), 200);
    assert_eq!(response.headers()["x-accel-buffering"], "no");
    let mut events = Events::new(response.into_body());
    events = events.judged("2026-07-28", "subscriptions/listen");
    let first = heard(&mut events).await;
    assert_eq!(first["method"], "notifications/subscriptions/acknowledged");
    Schema::of("2026-07-28").check("SubscriptionsAcknowledgedNotification", &first);
    assert_eq!(first["params"]["_meta"][SUBSCRIPTION], id);
    let agreed = first["params"]["notifications"].clone();
    (connection, events, agreed)
}

async fn heard(events: &mut Events) -> Value {
    let message = within("a message", seconds(10), events.message()).await;
    message.expect("the stream goes on")
}

async fn silent(events: &mut Events) {
    let more = tokio::time::timeout(Duration::from_millis(300), events.message()).await;
    assert!(more.is_err(), "{more:?}");
}

async fn call(gate: &Gate, tool: &str, arguments: Value) {
    let params = json!({"name": tool, "arguments": arguments});
    let answer = send(gate.front(), &message(&json!(1), "tools/call", params)).await;
    assert_eq!(answer.status, 200, "{}", answer.text());
}

/// two hosts of one agent, each with its own wishes.
#[tokio::test]
async fn a_host_hears_what_it_has_asked_for_and_nothing_else() {
    let gate = gate(&mock("a").ledger().table("")).await;
    let wanted = json!({"toolsListChanged": true, "resourceSubscriptions": ["mock://a/1"]});
    let (_one, mut first, agreed) = listen(&gate, json!("listen-1"), wanted.clone()).await;
    assert_eq!(agreed, wanted);
    let wanted = json!({"promptsListChanged": true, "resourcesListChanged": true});
    let (_two, mut second, agreed) = listen(&gate, json!(1), wanted.clone()).await;
    assert_eq!(agreed, wanted);
    call(&gate, "changed", json!({})).await;
    call(&gate, "updated", json!({"uri": "mock://a/1"})).await;
    call(&gate, "updated", json!({"uri": "mock://a/2"})).await;
    call(&gate, "log", json!({"level": "error", "data": "d"})).await;
    let schema = Schema::of("2026-07-28");
    for (events, id, expected) in [
        (
            &mut first,
            json!("listen-1"),
            [
                (
                    "notifications/tools/list_changed",
                    "ToolListChangedNotification",
                ),
                (
                    "notifications/resources/updated",
                    "ResourceUpdatedNotification",
                ),
            ],
        ),
        (
            &mut second,
            json!(1),
            [
                (
                    "notifications/prompts/list_changed",
                    "PromptListChangedNotification",
                ),
                (
                    "notifications/resources/list_changed",
                    "ResourceListChangedNotification",
                ),
            ],
        ),
    ] {
        for (method, definition) in expected {
            let note = heard(events).await;
            assert_eq!(note["method"], method);
            assert_eq!(note["params"]["_meta"][SUBSCRIPTION], id);
            schema.check(definition, &note);
        }
        silent(events).await;
    }
    assert_eq!(gate.heard("a").of("resources/subscribe").len(), 1);
}

/// What the server does not take is not promised.
#[tokio::test]
async fn only_what_the_server_takes_is_acknowledged() {
    let gate = gate(&mock("a").table("")).await;
    let wanted = json!({"resourceSubscriptions": ["mock://a/1", "mock://a/refused"]});
    let (_connection, _, agreed) = listen(&gate, json!(1), wanted).await;
    assert_eq!(agreed, json!({"resourceSubscriptions": ["mock://a/1"]}));
}

/// the server is told when nobody is left, and not before.
#[tokio::test]
async fn a_server_hears_when_the_last_host_has_gone() {
    let gate = gate(&mock("a").ledger().table("")).await;
    let wanted = json!({"resourceSubscriptions": ["mock://a/1"]});
    let (one, first, _) = listen(&gate, json!(1), wanted.clone()).await;
    let (two, mut second, _) = listen(&gate, json!(2), wanted).await;
    drop((one, first));
    let gone = async || {
        let records = gate.records(0).await;
        (records.outcomes().get("cancelled") == Some(&1)).then_some(())
    };
    until("the first to be gone", seconds(10), gone).await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert_eq!(gate.heard("a").of("resources/unsubscribe").len(), 0);
    call(&gate, "updated", json!({"uri": "mock://a/1"})).await;
    assert_eq!(heard(&mut second).await["params"]["uri"], "mock://a/1");
    drop((two, second));
    let told = async || (gate.heard("a").of("resources/unsubscribe").len() == 1).then_some(());
    until("the server to hear it", seconds(10), told).await;
}

///
#[tokio::test]
async fn a_server_that_was_started_again_is_subscribed_to_again() {
    let gate = gate(&mock("a").ledger().table("")).await;
    let wanted = json!({"toolsListChanged": true, "resourceSubscriptions": ["mock://a/1"]});
    let (_connection, mut events, _) = listen(&gate, json!(1), wanted).await;
    let params = json!({"name": "crash"});
    send(gate.front(), &message(&json!(1), "tools/call", params)).await;
    let again = async || (gate.heard("a").of("resources/subscribe").len() == 2).then_some(());
    until("the subscription", seconds(20), again).await;
    call(&gate, "updated", json!({"uri": "mock://a/1"})).await;
    assert_eq!(
        heard(&mut events).await["method"],
        "notifications/resources/updated"
    );
}

///
#[tokio::test]
async fn a_listening_host_is_told_when_chillgate_stops() {
    let mut gate = gate(&mock("a").table("")).await;
    let (_connection, mut events, _) =
        listen(&gate, json!("l"), json!({"toolsListChanged": true})).await;
    gate.signal(Signal::TERM);
    let last = heard(&mut events).await;
    assert_eq!(last["id"], "l");
    Schema::of("2026-07-28").check("SubscriptionsListenResult", &last["result"]);
    assert_eq!(last["result"]["_meta"][SUBSCRIPTION], "l");
    assert_eq!(events.message().await, None);
    assert!(gate.ended(seconds(10)).await.success());
}

/// A host that listens hears that the servers are others now, and keeps no old one alive.
#[tokio::test]
async fn a_listening_host_is_told_when_the_servers_change() {
    let gate = gate(&mock("a").table("")).await;
    let (_connection, mut events, _) =
        listen(&gate, json!("l"), json!({"toolsListChanged": true})).await;
    let before = descendants(gate.pid());
    assert!(!before.is_empty());
    gate.edit("[server.a]", "[server.b]");
    let mut last = heard(&mut events).await;
    if last["method"] == "notifications/tools/list_changed" {
        last = heard(&mut events).await;
    }
    assert_eq!(last["id"], "l", "{last}");
    Schema::of("2026-07-28").check("SubscriptionsListenResult", &last["result"]);
    let gone = async || {
        descendants(gate.pid())
            .iter()
            .all(|pid| !before.contains(pid))
            .then_some(())
    };
    until("the old server's end", seconds(10), gone).await;
}

/// Of several servers behind one endpoint each is heard, and what none of them has is not agreed.
#[tokio::test]
async fn all_servers_of_an_endpoint_are_heard() {
    let tables = mock("a").table("") + &mock("b").table("");
    let gate = gate(&tables).await;
    let wanted = json!({"resourceSubscriptions": ["mock://b/doc", "mock://nowhere/1"]});
    let (_connection, mut events, agreed) = listen(&gate, json!(1), wanted).await;
    assert_eq!(agreed, json!({"resourceSubscriptions": ["mock://b/doc"]}));
    call(&gate, "b__updated", json!({"uri": "mock://b/doc"})).await;
    assert_eq!(heard(&mut events).await["params"]["uri"], "mock://b/doc");
    call(&gate, "a__updated", json!({"uri": "mock://a/1"})).await;
    silent(&mut events).await;
}

#[tokio::test]
async fn a_wish_that_cannot_be_read_is_refused() {
    let gate = gate(&mock("a").ledger().table("")).await;
    for params in [
        json!({}),
        json!({"notifications": []}),
        json!({"notifications": {"toolsListChanged": "yes"}}),
        json!({"notifications": {"resourceSubscriptions": [7]}}),
    ] {
        let request = message(&json!(1), "subscriptions/listen", params.clone());
        let answer = send(gate.front(), &request).await;
        assert_eq!(body(&answer)["error"]["code"], -32602, "{params}");
    }
    assert_eq!(gate.heard("a").of("resources/subscribe").len(), 0);
}

/// Waits for a comment, which no client acts on, among what else the stream carries.
async fn comment(mut body: Incoming) {
    let mut heard = Vec::new();
    while !heard.windows(4).any(|part| part == b"\n:\n\n") && !heard.starts_with(b":\n\n") {
        let frame = within("a comment", seconds(20), body.frame()).await;
        let frame = frame.expect("the stream goes on").unwrap();
        heard.extend_from_slice(frame.data_ref().map_or(&[], |data| &data[..]));
    }
}

/// whoever is in between must not take the silence for the end.
#[tokio::test]
async fn streams_on_which_nothing_happens_show_signs_of_life() {
    let gate = gate(&mock("a").table("")).await;
    let listening = async {
        let wanted = json!({"notifications": {"toolsListChanged": true}});
        let request = message(&json!(1), "subscriptions/listen", wanted);
        let mut connection = Connection::open(gate.front()).await;
        let raw = request.to_string().into();
        let response = connection
            .send("POST", "/mcp", &fields(&request), raw)
            .await;
        comment(response.into_body()).await;
    };
    let calling = async {
        let request = message(&json!(2), "tools/call", json!({"name": "never"}));
        let mut connection = Connection::open(gate.front()).await;
        let raw = request.to_string().into();
        let response = connection
            .send("POST", "/mcp", &fields(&request), raw)
            .await;
        assert_eq!(response.headers()["content-type"], "text/event-stream");
        comment(response.into_body()).await;
    };
    let of_a_session = async {
        let host = gate.host().open().await;
        let headers = [
            ("accept", "text/event-stream"),
            ("mcp-session-id", host.session().unwrap()),
        ];
        let mut connection = Connection::open(gate.front()).await;
        let response = connection.send("GET", "/mcp", &headers, Bytes::new()).await;
        comment(response.into_body()).await;
    };
    tokio::join!(listening, calling, of_a_session);
}
