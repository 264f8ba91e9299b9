//! Streamable HTTP by the letter: statuses, headers and streams of the handshake revisions.
//!
//! It stands apart because each row is a rule of the specification, and because in every refused
//! row the server must have heard nothing.

use std::net::SocketAddr;
use std::time::Duration;

use serde_json::{Value, json};

use chillgate_tests::http::{self, Answer, raw, request, statuses};
use chillgate_tests::schema::HANDSHAKE;
use chillgate_tests::wait::{seconds, within};
use chillgate_tests::{Gate, Host, until};

use crate::mock;

const JSON: (&str, &str) = ("content-type", "application/json");
const BOTH: (&str, &str) = ("accept", "application/json, text/event-stream");

async fn gate() -> Gate {
    Gate::with(&mock("a").ledger().table("")).start().await
}

/// A POST on a connection of its own, with exactly these headers.
async fn post(at: SocketAddr, headers: &[(&str, &str)], body: &Value) -> Answer {
    request(at, "POST", "/mcp", headers, body.to_string()).await
}

fn call() -> Value {
    json!({"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {"name": "echo"}})
}

fn hello(revision: &str) -> Value {
    json!({"jsonrpc": "2.0", "id": 0, "method": "initialize", "params": {
        "protocolVersion": revision, "capabilities": {}, "clientInfo": {"name": "h", "version": "1"}}})
}

///
#[tokio::test]
async fn every_handshake_revision_is_agreed_as_asked_and_an_unknown_one_is_answered() {
    let gate = gate().await;
    for revision in HANDSHAKE {
        let answer = post(gate.front(), &[JSON, BOTH], &hello(revision)).await;
        assert_eq!(answer.status, 200);
        assert!(
            answer
                .text()
                .contains(&format!("\"protocolVersion\":\"{revision}\"")),
            "{}",
            answer.text()
        );
        let id = answer.header("mcp-session-id");
        assert!(
            id.len() >= 22 && id.bytes().all(|b| (0x21..=0x7e).contains(&b)),
            "{id}"
        );
    }
    for revision in ["1999-01-01", "2026-07-28"] {
        let answer = post(gate.front(), &[JSON, BOTH], &hello(revision)).await;
        assert!(
            answer.text().contains("\"protocolVersion\":\"2025-11-25\""),
            "{}",
            answer.text()
        );
    }
}

///
#[tokio::test]
async fn a_session_is_needed_known_and_gone_after_delete() {
    let gate = gate().await;
    let without = post(gate.front(), &[JSON, BOTH], &call()).await;
    assert_eq!(without.status, 400, "without a session");
    let unknown = [
        JSON,
        BOTH,
        ("mcp-session-id", "00000000000000000000000000000000"),
    ];
    assert_eq!(
        post(gate.front(), &unknown, &call()).await.status,
        404,
        "an unknown session"
    );

    let host = gate.host().open().await;
    let session = host.session().unwrap().to_owned();
    assert_eq!(host.leave().await / 100, 2, "DELETE");
    let gone = [JSON, BOTH, ("mcp-session-id", &*session)];
    assert_eq!(
        post(gate.front(), &gone, &call()).await.status,
        404,
        "an ended session"
    );
    assert_eq!(
        request(gate.front(), "GET", "/mcp", &gone, "").await.status,
        404
    );
    assert_eq!(host.leave().await, 404, "a second DELETE");
    assert_eq!(gate.heard("a").calls(), 0);
}

#[tokio::test]
async fn a_header_that_decides_stands_once() {
    let gate = gate().await;
    let (mine, other) = (gate.host().open().await, gate.host().open().await);
    let session = mine.session().unwrap();
    for extra in [
        ("mcp-session-id", other.session().unwrap()),
        ("mcp-session-id", session),
    ] {
        let twice = [JSON, BOTH, ("mcp-session-id", session), extra];
        let refused = post(gate.front(), &twice, &call()).await;
        assert_eq!(refused.status, 400, "{}", refused.text());
        assert!(
            refused.text().contains("mcp-session-id"),
            "{}",
            refused.text()
        );
    }
    let versions = [
        JSON,
        BOTH,
        ("mcp-session-id", session),
        ("mcp-protocol-version", "2025-11-25"),
        ("mcp-protocol-version", "2025-06-18"),
    ];
    assert_eq!(post(gate.front(), &versions, &call()).await.status, 400);
    assert_eq!(gate.heard("a").calls(), 0);
}

///
#[tokio::test]
async fn notifications_and_answers_are_accepted_with_202_and_nothing_else() {
    let gate = gate().await;
    let host = gate.host().open().await;
    for message in [
        json!({"jsonrpc": "2.0", "method": "notifications/roots/list_changed"}),
        json!({"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": 99}}),
        json!({"jsonrpc": "2.0", "id": "nobody-asked", "result": {}}),
        json!({"jsonrpc": "2.0", "id": 5, "error": {"code": -1, "message": "no"}}),
    ] {
        let reply = host.post(&message).await;
        assert_eq!((reply.status, reply.text.as_str()), (202, ""), "{message}");
    }
}

#[tokio::test]
async fn an_error_that_answers_a_request_travels_with_200() {
    let tables = mock("a").table("") + &mock("b").table("");
    for (tables, path) in [
        (&*tables, "/mcp"),
        (&*tables, "/server/a/mcp"),
        (&mock("a").table(""), "/mcp"),
    ] {
        let gate = Gate::with(tables).start().await;
        let host = gate.host().path(path).open().await;
        for (method, params) in [
            ("tools/call", json!({"name": "no-such-tool"})),
            ("tools/call", json!({"arguments": {}})),
            ("prompts/get", json!({"name": "no-such-prompt"})),
            ("resources/read", json!({"uri": "demo://no/such/resource"})),
            ("tools/list", json!({"cursor": "forged"})),
            (
                "completion/complete",
                json!({"ref": {"type": "ref/prompt", "name": "none"}, "argument": {"name": "a", "value": ""}}),
            ),
            ("no/such/method", json!({})),
        ] {
            let reply = host.request(method, params.clone()).await;
            assert_eq!(reply.status, 200, "{path} {method} {params}: {reply:?}");
        }
    }
}

#[tokio::test]
async fn content_types_and_accept_headers_are_what_the_specification_asks() {
    let gate = gate().await;
    let host = gate.host().open().await;
    let session = host.session().unwrap().to_owned();
    let session = ("mcp-session-id", &*session);
    let typed = |kind: &'static str| ("content-type", kind);
    let accepting = |kinds: &'static str| ("accept", kinds);
    for (headers, expected) in [
        (vec![typed("text/plain"), BOTH], 415),
        (vec![typed("application/x-www-form-urlencoded"), BOTH], 415),
        (vec![typed("multipart/form-data; boundary=x"), BOTH], 415),
        (vec![typed("application/jsonx"), BOTH], 415),
        (vec![BOTH], 415),
        (vec![JSON, accepting("application/json")], 406),
        (vec![JSON, accepting("text/event-stream")], 406),
        (vec![JSON, accepting("text/html")], 406),
        (vec![JSON, accepting("image/*")], 406),
    ] {
        let mut headers = headers;
        headers.push(session);
        assert_eq!(
            post(gate.front(), &headers, &call()).await.status,
            expected,
            "{headers:?}"
        );
    }
    assert_eq!(
        gate.heard("a").calls(),
        0,
        "a refused message reached the server"
    );
    for headers in [
        vec![typed("application/json; charset=utf-8"), BOTH],
        vec![
            typed("Application/JSON"),
            accepting("text/event-stream , application/json;q=0.5"),
        ],
        vec![JSON, accepting("*/*")],
    ] {
        let mut headers = headers;
        headers.push(session);
        assert_eq!(
            post(gate.front(), &headers, &call()).await.status,
            200,
            "{headers:?}"
        );
    }
}

///
#[tokio::test]
async fn only_the_methods_of_the_transport_are_allowed() {
    let gate = gate().await;
    for method in ["PUT", "PATCH", "TRACE"] {
        let answer = request(gate.front(), method, "/mcp", &[JSON, BOTH], "{}").await;
        assert_eq!(answer.status, 405, "{method}");
        assert!(
            answer.header("allow").contains("POST"),
            "{method}: {:?}",
            answer.headers
        );
    }
    for path in [
        "/",
        "/mcp/x",
        "/server",
        "/server/none/mcp",
        "/metrics",
        "/readyz",
    ] {
        let answer = request(
            gate.front(),
            "POST",
            path,
            &[JSON, BOTH],
            hello("2025-11-25").to_string(),
        );
        assert_eq!(answer.await.status, 404, "{path}");
    }
    let get = [("accept", "text/event-stream")];
    let status = request(gate.front(), "GET", "/mcp", &get, "").await.status;
    assert_eq!(status, 400, "GET without a session");
}

///
#[tokio::test]
async fn a_protocol_version_header_must_be_one_that_is_spoken() {
    let gate = gate().await;
    let host = gate.host().open().await;
    let session = host.session().unwrap().to_owned();
    for (version, expected) in [
        ("1999-01-01", 400),
        ("latest", 400),
        ("", 400),
        ("2025-11-25", 200),
    ] {
        let headers = [
            JSON,
            BOTH,
            ("mcp-session-id", &*session),
            ("mcp-protocol-version", version),
        ];
        assert_eq!(
            post(gate.front(), &headers, &call()).await.status,
            expected,
            "{version:?}"
        );
    }
    let absent = [JSON, BOTH, ("mcp-session-id", &*session)];
    assert_eq!(
        post(gate.front(), &absent, &call()).await.status,
        200,
        "absent"
    );
}

///
#[tokio::test]
async fn a_foreign_origin_or_host_is_forbidden_before_anything_is_read() {
    let gate = gate().await;
    let port = gate.front().port();
    let own = format!("127.0.0.1:{port}");
    for (name, value) in [
        ("origin", "http://evil.example".to_owned()),
        ("origin", "null".to_owned()),
        ("origin", "http://localhost.evil.example".to_owned()),
        ("origin", format!("http://127.0.0.1.evil.example:{port}")),
        ("origin", format!("https://evil.example:{port}")),
        ("host", "evil.example".to_owned()),
        ("host", format!("evil.example:{port}")),
        ("host", format!("localhost.evil.example:{port}")),
        ("host", format!("127.0.0.1.nip.io:{port}")),
    ] {
        let answer = post(
            gate.front(),
            &[JSON, BOTH, (name, &value)],
            &hello("2025-11-25"),
        )
        .await;
        assert_eq!(answer.status, 403, "{name}: {value}: {}", answer.text());
    }
    for (name, value) in [
        ("origin", format!("http://{own}")),
        ("origin", format!("http://localhost:{port}")),
        ("host", format!("localhost:{port}")),
        ("host", format!("LOCALHOST:{port}")),
    ] {
        let answer = post(
            gate.front(),
            &[JSON, BOTH, (name, &value)],
            &hello("2025-11-25"),
        )
        .await;
        assert_eq!(answer.status, 200, "{name}: {value}: {}", answer.text());
    }
    let body = hello("2025-11-25").to_string();
    let two = format!(
        "POST /mcp HTTP/1.1\r\nHost: {own}\r\nOrigin: http://{own}\r\nOrigin: http://evil.example\r\nContent-Type: application/json\r\n\
         Accept: application/json, text/event-stream\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    );
    let said = raw(gate.front(), two.as_bytes(), Duration::from_secs(2)).await;
    assert!(
        statuses(&said)
            .first()
            .is_some_and(|status| [400, 403].contains(status)),
        "two origins"
    );
}

///
#[tokio::test]
async fn a_batch_is_for_2025_03_26_and_each_item_is_answered() {
    let gate = gate().await;
    let item = |id: u64, name: &str| json!({"jsonrpc": "2.0", "id": id, "method": "tools/call", "params": {"name": name, "arguments": {"message": format!("m{id}")}}});
    let batch = json!([item(1, "echo"), {"jsonrpc": "2.0", "method": "notifications/x"}, item(2, "echo"), item(3, "nope")]);
    let old = gate.host().revision("2025-03-26").open().await;
    let reply = old.post(&batch).await;
    assert_eq!(reply.status, 200, "{reply:?}");
    let mut answers: Vec<Value> = reply.messages.clone();
    if let [Value::Array(one)] = &reply.messages[..] {
        answers.clone_from(one);
    }
    let mut ids: Vec<u64> = answers
        .iter()
        .filter_map(|answer| answer["id"].as_u64())
        .collect();
    ids.sort_unstable();
    assert_eq!(ids, [1, 2, 3], "{answers:?}");
    let second = answers.iter().find(|answer| answer["id"] == 2).unwrap();
    assert_eq!(second["result"]["content"][0]["text"], "m2");

    let calls = gate.heard("a").calls();
    for revision in ["2025-06-18", "2025-11-25"] {
        let new = gate.host().revision(revision).open().await;
        let reply = new.post(&batch).await;
        assert_eq!(
            (reply.status, reply.code()),
            (400, Some(-32600)),
            "{revision}: {reply:?}"
        );
    }
    for refused in [
        json!([]),
        json!([hello("2025-03-26")]),
        json!([1]),
        json!([item(7, "echo"), item(7, "echo")]),
        Value::from(vec![item(1, "echo"); 51]),
    ] {
        let reply = old.post(&refused).await;
        let refused_all =
            reply.status == 400 || reply.messages.iter().all(|m| m.get("error").is_some());
        assert!(refused_all && !reply.messages.is_empty(), "{reply:?}");
    }
    assert_eq!(
        gate.heard("a").calls(),
        calls,
        "a refused batch reached the server"
    );
    let early = post(gate.front(), &[JSON, BOTH], &json!([hello("2025-03-26")])).await;
    assert!(
        early.status == 400
            && early
                .text()
                .contains("initialize inside a batch, send it alone"),
        "{}",
        early.text()
    );
}

#[tokio::test]
async fn an_initialize_that_names_no_revision_opens_nothing() {
    let gate = Gate::with(&mock("a").table("")).audited().start().await;
    for params in [
        json!({}),
        json!({"capabilities": {}}),
        json!({"protocolVersion": 3}),
    ] {
        let hello = json!({"jsonrpc": "2.0", "id": 0, "method": "initialize", "params": params});
        let answer = post(gate.front(), &[JSON, BOTH], &hello).await;
        let said: Value = serde_json::from_slice(&answer.body).unwrap();
        assert_eq!(said["error"]["code"], -32602, "{said}");
        assert!(
            said["error"]["message"]
                .as_str()
                .unwrap()
                .contains("protocolVersion")
        );
        assert_eq!(answer.header("mcp-session-id"), "");
    }
    let refused = gate.records(3).await.of("method", "initialize").sums();
    assert_eq!((refused.refused, refused.admitted), (3, 0));
    let scrape = gate.scrape().await;
    assert!(
        scrape.sum("chillgate_sessions", &[]) < 0.5,
        "a session was opened"
    );
}

///
#[tokio::test]
async fn the_get_stream_opens_carries_and_ends_with_the_session() {
    let gate = gate().await;
    let host = gate.host().open().await;
    let mut stream = host.listen().await;
    host.call("changed", json!({})).await;
    let note = within("a message on the GET stream", seconds(5), stream.message())
        .await
        .unwrap();
    assert!(note["method"].as_str().unwrap().ends_with("list_changed"));
    assert!(note.get("id").is_none());
    host.leave().await;
    let rest = within("the end of the stream", seconds(5), async {
        while stream.message().await.is_some() {}
    });
    rest.await;
}

#[tokio::test]
async fn a_half_closed_connection_still_gets_its_answer() {
    let gate = gate().await;
    let host = gate.host().open().await;
    let session = host.session().unwrap().to_owned();
    for n in 0..50 {
        let body = json!({"jsonrpc": "2.0", "id": n, "method": "ping"}).to_string();
        let fields = [
            ("content-type", "application/json"),
            ("accept", "application/json, text/event-stream"),
            ("mcp-session-id", &session),
            ("connection", "close"),
        ];
        let bytes = http::post(gate.front(), "/mcp", &fields, &body);
        let said = half_closed(gate.front(), &bytes).await;
        assert_eq!(
            statuses(&said),
            [200],
            "{n}: {}",
            String::from_utf8_lossy(&said)
        );
    }
}

#[tokio::test]
async fn the_same_id_twice_in_flight_is_refused_and_the_first_goes_on() {
    let gate = gate().await;
    let host = gate.host().open().await;
    let call = json!({"jsonrpc": "2.0", "id": 7, "method": "tools/call",
        "params": {"name": "wait", "arguments": {"ms": 800, "nonce": "first"}}});
    let second = async {
        tokio::time::sleep(Duration::from_millis(300)).await;
        host.post(&call).await
    };
    let (first, second) = tokio::join!(host.post(&call), second);
    assert_eq!(first.tool_text(), "first");
    assert_eq!(second.code(), Some(-32600), "{second:?}");
    assert_eq!(
        host.post(&call).await.tool_text(),
        "first",
        "an id is free again after its answer"
    );
}

#[tokio::test]
async fn half_a_body_and_no_more_to_come_is_refused_at_once() {
    let gate = gate().await;
    for length in [
        "content-length: 40\r\n\r\n",
        "transfer-encoding: chunked\r\n\r\n28\r\n",
    ] {
        let text = format!(
            "POST /mcp HTTP/1.1\r\nhost: {}\r\ncontent-type: application/json\r\n\
             accept: application/json, text/event-stream\r\n{length}{{\"jsonrpc\":",
            gate.front()
        );
        let said = within(
            "the refusal",
            seconds(10),
            half_closed(gate.front(), text.as_bytes()),
        );
        let said = String::from_utf8_lossy(&said.await).into_owned();
        assert!(said.starts_with("HTTP/1.1 400 "), "{length}: {said:?}");
        assert!(
            said.contains("the body ended before it was complete"),
            "{said}"
        );
    }
}

#[tokio::test]
async fn what_comes_after_a_host_has_closed_its_stream_waits_for_the_next() {
    let gate = gate().await;
    let host = gate.host().open().await;
    drop(host.listen().await);
    let streams = [("era", "legacy")];
    until("the end of the stream", seconds(10), async || {
        let open = gate.scrape().await.sum("chillgate_streams", &streams);
        (open == 0.0).then_some(())
    })
    .await;
    host.call("changed", json!({})).await;
    let mut again = host.listen().await;
    let said = within("what waited", seconds(10), again.message()).await;
    let method = said.as_ref().and_then(|said| said["method"].as_str());
    assert!(
        method.is_some_and(|method| method.ends_with("list_changed")),
        "{said:?}"
    );
}

///
#[tokio::test]
async fn a_modern_request_is_told_which_revisions_are_spoken() {
    let gate = Gate::with(&mock("a").ledger().table(""))
        .front("eras = \"legacy\"")
        .start()
        .await;
    let meta = json!({"io.modelcontextprotocol/protocolVersion": "2026-07-28", "io.modelcontextprotocol/clientCapabilities": {}});
    let modern = |method: &str| json!({"jsonrpc": "2.0", "id": "m-1", "method": method, "params": {"_meta": meta}});
    let header = ("mcp-protocol-version", "2026-07-28");
    for (method, code) in [
        ("server/discover", -32601),
        ("tools/list", -32022),
        ("tools/call", -32022),
    ] {
        let answer = post(
            gate.front(),
            &[JSON, BOTH, header, ("mcp-method", method)],
            &modern(method),
        )
        .await;
        let body: Value = serde_json::from_slice(&answer.body).unwrap();
        assert_eq!(
            (answer.status, &body["error"]["code"]),
            (400, &json!(code)),
            "{method}: {body}"
        );
        assert_eq!(body["id"], "m-1", "the error carries the request's id");
        if code == -32022 {
            let supported = body["error"]["data"]["supported"].as_array().unwrap();
            assert!(supported.contains(&json!("2025-11-25")), "{body}");
            assert_eq!(body["error"]["data"]["requested"], "2026-07-28");
        }
    }
    let heard = gate.heard("a");
    assert_eq!(
        heard.calls() + heard.of("tools/list").len(),
        0,
        "it reached the server"
    );
}

///
#[tokio::test]
async fn another_agents_session_is_as_unknown_as_none() {
    let tables = mock("a").ledger().table("") + "[identity]\nheader = \"x-agent-id\"\n";
    let gate = Gate::with(&tables).start().await;
    let owner = gate.host().header("x-agent-id", "one").open().await;
    let mut thief = gate.host().header("x-agent-id", "two").open().await;
    thief.steal(owner.session().unwrap());
    let reply = thief.call("echo", json!({"message": "stolen"})).await;
    assert_eq!(
        (reply.status, reply.code()),
        (404, Some(-32600)),
        "{reply:?}"
    );
    assert_eq!(thief.notify("notifications/initialized", None).await, 404);
    for method in ["GET", "DELETE"] {
        assert_eq!(thief.plain(method).await.status, 404, "{method}");
    }
    let reply = owner.call("echo", json!({"message": "mine"})).await;
    assert_eq!(reply.tool_text(), "mine");
    assert_eq!(gate.heard("a").calls(), 1);
}

#[tokio::test]
async fn a_session_belongs_to_its_endpoint_as_well() {
    let tables = mock("a").table("") + &mock("b").table("");
    let gate = Gate::with(&tables).start().await;
    let of_a = gate.host().path("/server/a/mcp").open().await;
    let mut other = Host::new(gate.front()).path("/server/b/mcp");
    other.steal(of_a.session().unwrap());
    let reply = other.call("name", json!({})).await;
    assert_eq!(reply.status, 404, "{reply:?}");
}

/// Sends bytes, closes the sending half, and reads to the end.
async fn half_closed(at: SocketAddr, bytes: &[u8]) -> Vec<u8> {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    let mut stream = tokio::net::TcpStream::connect(at)
        .await
        .expect("the front listens");
    stream.write_all(bytes).await.expect("the front reads");
    stream.shutdown().await.expect("the sending half closes");
    let mut said = Vec::new();
    within("the answer", seconds(10), stream.read_to_end(&mut said))
        .await
        .expect("the answer arrives");
    said
}
