//! Which era a message is of, where what says so disagrees: one answer for each mixture.
//!
//! It stands apart because each row mixes two eras on purpose. The order is: a known older revision
//! in the header, then `_meta`, then `initialize`, then a newer revision in the header. What is
//! refused reaches no server and opens no session.

use serde_json::{Value, json};

use chillgate_tests::gate::bare;
use chillgate_tests::http::request;
use chillgate_tests::judge;
use chillgate_tests::modern::{CAPABILITIES, CLIENT, VERSION, body, message};
use chillgate_tests::wait::seconds;
use chillgate_tests::{Gate, PipeHost};

use crate::headers_agree::{reached, servers};
use crate::mock;

const FUTURE: &str = "2099-01-01";
const MODERN: &str = "2026-07-28";
const LATEST: &str = "2025-11-25";

/// What a mixture comes to.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Comes {
    /// A result in the words of the older revisions.
    Legacy,
    /// A result in those of 2026-07-28.
    Modern,
    /// A status and a code.
    Refused(u16, i64),
}
use Comes::{Legacy, Modern, Refused};

/// Which session a request names.
#[derive(Clone, Copy, Debug)]
enum Named {
    None,
    Own,
    Unknown,
}
use Named::{None as Nowhere, Own, Unknown};

fn call() -> Value {
    json!({"jsonrpc": "2.0", "id": "v", "method": "tools/call", "params": {"name": "echo"}})
}

/// The call with this under the revision's key of `_meta`.
fn said(version: Value) -> Value {
    let mut call = message(&json!("v"), "tools/call", json!({"name": "echo"}));
    call["params"]["_meta"][VERSION] = version;
    call
}

fn hello(meta: bool) -> Value {
    let params = json!({"protocolVersion": MODERN, "capabilities": {}, "clientInfo": {"name": "h", "version": "1"}});
    if meta {
        return message(&json!("v"), "initialize", params);
    }
    json!({"jsonrpc": "2.0", "id": "v", "method": "initialize", "params": params})
}

/// The modern call with one key of `_meta` as this, or without it.
fn odd(key: &str, value: Option<Value>) -> Value {
    let mut call = said(json!(MODERN));
    match value {
        Some(value) => call["params"]["_meta"][key] = value,
        None => drop(call["params"]["_meta"].as_object_mut().unwrap().remove(key)),
    }
    call
}

/// Header, session, body, and what comes of it.
fn mixtures() -> Vec<(Option<&'static str>, Named, Value, Comes)> {
    let both = || said(json!(MODERN));
    let mut no_meta = both();
    no_meta["params"]["_meta"] = json!("none");
    let mut rows = vec![
        // A modern body.
        (Some(MODERN), Nowhere, both(), Modern),
        (Some(MODERN), Own, both(), Modern),
        (Some(MODERN), Unknown, both(), Modern),
        (None, Nowhere, both(), Refused(400, -32020)),
        (None, Own, both(), Refused(400, -32020)),
        (Some(FUTURE), Nowhere, both(), Refused(400, -32020)),
        (Some("1999-01-01"), Own, both(), Refused(400, -32020)),
        (Some("latest"), Nowhere, both(), Refused(400, -32020)),
        (Some(""), Nowhere, both(), Refused(400, -32020)),
        (Some("2026-7-28"), Nowhere, both(), Refused(400, -32020)),
        (Some("2026-07-28x"), Nowhere, both(), Refused(400, -32020)),
        (Some("v2026-07-28"), Nowhere, both(), Refused(400, -32020)),
        // A modern body that lacks something, or says another revision.
        (
            Some(MODERN),
            Nowhere,
            said(json!(FUTURE)),
            Refused(400, -32020),
        ),
        (
            Some(FUTURE),
            Nowhere,
            said(json!(FUTURE)),
            Refused(400, -32022),
        ),
        (Some(FUTURE), Own, said(json!(FUTURE)), Refused(400, -32022)),
        (None, Nowhere, said(json!(FUTURE)), Refused(400, -32020)),
        (
            Some("1999-01-01"),
            Nowhere,
            said(json!("1999-01-01")),
            Refused(400, -32022),
        ),
        (
            Some("latest"),
            Nowhere,
            said(json!("latest")),
            Refused(400, -32022),
        ),
        (
            Some(MODERN),
            Nowhere,
            said(json!(LATEST)),
            Refused(400, -32020),
        ),
        (None, Own, said(json!(LATEST)), Refused(400, -32020)),
        (
            Some(MODERN),
            Nowhere,
            said(json!(20_260_728)),
            Refused(400, -32602),
        ),
        (
            Some(MODERN),
            Nowhere,
            said(json!([MODERN])),
            Refused(400, -32602),
        ),
        (
            Some(MODERN),
            Nowhere,
            said(Value::Null),
            Refused(400, -32602),
        ),
        (Some(MODERN), Own, no_meta, Refused(400, -32602)),
        (
            Some(MODERN),
            Nowhere,
            odd(CAPABILITIES, None),
            Refused(400, -32602),
        ),
        (
            Some(MODERN),
            Nowhere,
            odd(CAPABILITIES, Some(json!([]))),
            Refused(400, -32602),
        ),
        (
            Some(MODERN),
            Nowhere,
            odd(CLIENT, Some(json!("me"))),
            Refused(400, -32602),
        ),
        (Some(MODERN), Nowhere, odd(CLIENT, None), Modern),
        // A legacy body.
        (Some(MODERN), Nowhere, call(), Refused(400, -32602)),
        (Some(MODERN), Own, call(), Refused(400, -32602)),
        (None, Own, call(), Legacy),
        (None, Nowhere, call(), Refused(400, -32600)),
        (None, Unknown, call(), Refused(404, -32600)),
        (Some(FUTURE), Own, call(), Refused(400, -32600)),
        (Some(""), Own, call(), Refused(400, -32600)),
        // An answer of a host, which the revision does not know.
        (
            Some(MODERN),
            Own,
            json!({"jsonrpc": "2.0", "id": "v", "result": {}}),
            Refused(400, -32600),
        ),
        // The handshake in the clothes of the other era.
        (Some(MODERN), Nowhere, hello(true), Refused(404, -32601)),
        (Some(MODERN), Own, hello(true), Refused(404, -32601)),
        (None, Nowhere, hello(true), Refused(400, -32020)),
        (Some(MODERN), Nowhere, hello(false), Refused(400, -32600)),
        (Some(FUTURE), Nowhere, hello(false), Refused(400, -32600)),
    ];
    // A known older revision in the header outranks all that `_meta` says.
    for old in ["2024-11-05", "2025-03-26", "2025-06-18", LATEST] {
        for sent in [both(), said(json!(FUTURE)), said(json!(7)), call()] {
            rows.push((Some(old), Own, sent.clone(), Legacy));
            rows.push((Some(old), Unknown, sent.clone(), Refused(404, -32600)));
            rows.push((Some(old), Nowhere, sent, Refused(400, -32600)));
        }
    }
    rows
}

/// 89 mixtures before servers of both eras.
#[tokio::test]
async fn each_mixture_of_eras_has_one_answer() {
    judge::spare("legacy hosts write nonsense under the keys of the other era, which is relayed");
    for (era, server, keys) in servers() {
        let gate = Gate::with(&server.table(keys)).start().await;
        let host = gate.host().open().await;
        assert_eq!(host.call("echo", json!({})).await.code(), None);
        let sessions = async || gate.scrape().await.sum("chillgate_sessions", &[]);
        let mut modern = 0;
        for (header, named, sent, comes) in mixtures() {
            let what = format!("{era}: {header:?} {named:?} {sent}");
            let mut all = vec![
                ("content-type", "application/json"),
                ("accept", "application/json, text/event-stream"),
            ];
            all.extend(sent["method"].as_str().map(|method| ("mcp-method", method)));
            if sent["params"]["name"].is_string() {
                all.push(("mcp-name", "echo"));
            }
            all.extend(header.map(|version| ("mcp-protocol-version", version)));
            match named {
                Nowhere => {}
                Own => all.push(("mcp-session-id", host.session().unwrap())),
                Unknown => all.push(("mcp-session-id", "00000000000000000000000000000000")),
            }
            let before = reached(&gate);
            let answer = request(gate.front(), "POST", "/mcp", &all, sent.to_string()).await;
            let told = body(&answer);
            assert_eq!(answer.header("mcp-session-id"), "", "{what}");
            assert_eq!(told["id"], "v", "{what}: {told}");
            let (status, code) = match comes {
                Refused(status, code) => (status, json!(code)),
                Legacy | Modern => (200, Value::Null),
            };
            assert_eq!(
                (answer.status, &told["error"]["code"]),
                (status, &code),
                "{what}: {told}"
            );
            let passed = usize::from(status == 200);
            assert_eq!(reached(&gate), before + passed, "{what}");
            if code == -32022 {
                let data = &told["error"]["data"];
                assert_eq!(
                    data["requested"], sent["params"]["_meta"][VERSION],
                    "{what}"
                );
                assert_eq!(data["supported"][0], MODERN, "{what}");
            }
            if status == 200 {
                let kind = &told["result"]["resultType"];
                assert_eq!(kind == "complete", comes == Modern, "{what}: {told}");
                modern += usize::from(comes == Modern);
            }
        }
        assert_eq!(modern, 4, "{era}");
        // The host's own and, for each sort of modern host, the one that chillgate keeps.
        assert!(
            sessions().await < 3.5,
            "{era}: a refused request opened a session"
        );
    }
}

/// GET and DELETE of a modern host end nobody's session.
#[tokio::test]
async fn a_modern_header_ends_no_session() {
    let gate = Gate::with(&mock("a").table("")).start().await;
    let host = gate.host().open().await;
    let session = host.session().unwrap();
    for method in ["GET", "DELETE"] {
        let all = [
            ("accept", "text/event-stream"),
            ("mcp-session-id", session),
            ("mcp-protocol-version", MODERN),
        ];
        let answer = request(gate.front(), method, "/mcp", &all, "").await;
        assert_eq!((answer.status, answer.header("allow")), (405, "POST"));
    }
    assert_eq!(host.call("name", json!({})).await.tool_text(), "a");
    assert_eq!(host.leave().await, 200);
}

/// over lines each message is judged by itself, and the eras may interleave.
#[tokio::test]
async fn on_a_pipe_each_message_is_of_its_own_era() {
    for (_, server, _) in servers() {
        let folder = tempfile::tempdir().unwrap();
        let words = server.command().join("\n");
        let words = words.replace("@DIR@", &folder.path().display().to_string());
        let mut wrap = bare();
        wrap.args(["wrap", "--"]).args(words.lines());
        let mut host = PipeHost::start(wrap);
        let answer = async |host: &mut PipeHost, sent: &Value| {
            host.write(sent).await;
            host.answer(&json!("v")).await
        };
        let refused = [
            (call(), -32600, "nobody has opened a session"),
            (said(json!(FUTURE)), -32022, "a future revision"),
            (said(json!(LATEST)), -32022, "an older one in new clothes"),
            (said(json!(7)), -32602, "a number"),
            (odd(CAPABILITIES, None), -32602, "no capabilities"),
            (hello(true), -32601, "a handshake of the other era"),
        ];
        for opened in [false, true] {
            for (sent, code, what) in &refused[usize::from(opened)..] {
                let told = answer(&mut host, sent).await;
                assert_eq!(told["error"]["code"], *code, "{what}: {told}");
            }
            let told = answer(&mut host, &said(json!(MODERN))).await;
            assert_eq!(told["result"]["resultType"], "complete", "{told}");
            if !opened {
                host.open(json!({})).await;
            }
            let told = answer(&mut host, &call()).await;
            assert!(told["result"].is_object(), "{told}");
            assert!(told["result"]["resultType"].is_null(), "{told}");
        }
        let ledger = chillgate_tests::server::Heard::read(&folder.path().join("a.ledger"));
        assert_eq!(ledger.calls(), 4, "a refused line reached the server");
        let (status, stderr) = host.finish(seconds(10)).await;
        assert!(status.success(), "{stderr}");
    }
}
