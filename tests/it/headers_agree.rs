//! What a modern request says in its header and in its body is one thing, or it goes nowhere.
//!
//! It stands apart from the rows of `eras.rs`, which are picked by hand: here every field is bent
//! in every way, for each method, before servers of both eras. The servers' ledgers are the judge,
//! and no row says what a policy decides by anything but the body.

use serde_json::{Value, json};

use chillgate_tests::http::{Answer, request};
use chillgate_tests::modern::{body, field, fields, message, sentinel};
use chillgate_tests::{Gate, Mock};

use crate::mock;

/// Servers of both eras behind the same name.
pub(crate) fn servers() -> [(&'static str, Mock, &'static str); 2] {
    let modern = mock("a").ledger().flags(&["--eras", "modern"]);
    [
        ("legacy", mock("a").ledger(), ""),
        ("modern", modern, "era = \"modern\"\n"),
    ]
}

/// How many requests of hosts the server has heard: not what chillgate asks on its own account.
pub(crate) fn reached(gate: &Gate) -> usize {
    let own = [
        "tools/call",
        "prompts/get",
        "resources/read",
        "completion/complete",
        "tasks/get",
    ];
    let heard = gate.heard("a");
    own.iter().map(|method| heard.of(method).len()).sum()
}

/// The ways in which a field can fail to say `right`: what it is called, and the fields instead.
fn bent(right: &str) -> Vec<(&'static str, Vec<String>)> {
    let one = |text: String| vec![text];
    let shorter = right[..right.len() - 1].to_owned();
    let all = vec![
        ("missing", Vec::new()),
        ("empty", one(String::new())),
        ("another", one("nonsense".to_owned())),
        ("in capitals", one(right.to_uppercase())),
        ("longer", one(format!("{right}x"))),
        ("shorter", one(shorter)),
        ("quoted", one(format!("\"{right}\""))),
        ("in percent", one(right.replace('a', "%61"))),
        ("twice", vec![right.to_owned(), right.to_owned()]),
        ("two", vec![right.to_owned(), "nonsense".to_owned()]),
        (
            "two, the right one last",
            vec!["nonsense".to_owned(), right.to_owned()],
        ),
        ("a list", one(format!("{right}, {right}"))),
        ("another in Base64", one(sentinel("nonsense"))),
        (
            "a line break in Base64",
            one("=?base64?DQpYOiBh?=".to_owned()),
        ),
        ("no Base64", one("=?base64?!!!?=".to_owned())),
        ("no UTF-8 in Base64", one("=?base64?/w==?=".to_owned())),
        (
            "Base64 that is not closed",
            one(sentinel(right).replace("?=", "")),
        ),
        (
            "Base64 behind a letter",
            one(format!("x{}", sentinel(right))),
        ),
        (
            "markers in capitals",
            one(sentinel(right).replace("base64", "BASE64")),
        ),
        ("Base64 of Base64", one(sentinel(sentinel(right)))),
    ];
    let differs = |(_, values): &(&str, Vec<String>)| *values != [right];
    all.into_iter().filter(differs).collect()
}

/// The same fields but for one, which stands as these.
fn with<'f>(
    all: &[(&'f str, &'f str)],
    name: &'f str,
    instead: &'f [String],
) -> Vec<(&'f str, &'f str)> {
    let mut fields = all.to_vec();
    fields.retain(|(field, _)| *field != name);
    fields.extend(instead.iter().map(|value| (name, value.as_str())));
    fields
}

async fn post(gate: &Gate, fields: &[(&str, &str)], message: &Value) -> Answer {
    request(gate.front(), "POST", "/mcp", fields, message.to_string()).await
}

fn refused(answer: &Answer, what: &str) {
    let said = body(answer);
    assert_eq!(
        (answer.status, &said["error"]["code"], &said["id"]),
        (400, &json!(-32020), &json!("m")),
        "{what}: {said}"
    );
}

/// 20 ways for each of 14 fields of five methods, before servers of both
/// eras.
#[tokio::test]
async fn a_field_that_differs_from_the_body_in_any_way_is_refused() {
    for (era, server, keys) in servers() {
        let gate = Gate::with(&server.table(keys)).start().await;
        let echo = message(&json!("m"), "tools/call", json!({"name": "echo"}));
        assert_eq!(post(&gate, &fields(&echo), &echo).await.status, 200);
        let before = reached(&gate);
        let mut rows = 0;
        for (method, params, named) in [
            ("tools/call", json!({"name": "echo"}), "echo"),
            ("prompts/get", json!({"name": "greet"}), "greet"),
            ("resources/read", json!({"uri": "mock://a/d"}), "mock://a/d"),
            ("tasks/get", json!({"taskId": "task-a"}), "task-a"),
            ("tools/list", json!({}), ""),
        ] {
            let sent = message(&json!("m"), method, params);
            let mut all = fields(&sent);
            if method == "tasks/get" {
                all.push(("mcp-name", named));
            }
            let repeated = [
                ("mcp-protocol-version", "2026-07-28"),
                ("mcp-method", method),
                ("mcp-name", named),
            ];
            for (name, right) in repeated.into_iter().filter(|(_, right)| !right.is_empty()) {
                for (way, instead) in bent(right) {
                    let answer = post(&gate, &with(&all, name, &instead), &sent).await;
                    refused(&answer, &format!("{era} {method} {name} {way} {instead:?}"));
                    rows += 1;
                }
            }
        }
        assert!(rows > 250, "{rows} rows");
        assert_eq!(reached(&gate), before, "{era}: it reached the server");
        // The same name in Base64 is the same name.
        let encoded = [sentinel("echo")];
        let same = with(&fields(&echo), "mcp-name", &encoded).clone();
        assert_eq!(post(&gate, &same, &echo).await.status, 200, "{era}");
        assert_eq!(reached(&gate), before + 1, "{era}");
    }
}

/// fields that repeat arguments, bent in the same ways.
#[tokio::test]
async fn a_field_that_differs_from_its_argument_in_any_way_is_refused() {
    for (era, server, keys) in servers() {
        let gate = Gate::with(&server.table(keys)).start().await;
        let list = message(&json!(1), "tools/list", json!({}));
        assert_eq!(post(&gate, &fields(&list), &list).await.status, 200);
        let before = reached(&gate);
        for region in ["eu-a", "Köln", " eu", "=?base64?ZQ==?="] {
            let arguments = json!({"region": region, "place": {"count": 7}});
            let params = json!({"name": "deploy", "arguments": arguments});
            let sent = message(&json!("m"), "tools/call", params);
            let right = field(region);
            let mut all = fields(&sent);
            all.push(("mcp-param-count", "7"));
            let mut ways = bent("eu-a");
            if region != "eu-a" {
                // As it is no header can carry it, and other texts are other texts.
                ways.retain(|(way, _)| !["twice", "a list"].contains(way));
                ways.push(("twice", vec![right.clone(), right.clone()]));
                ways.push(("in Base64 twice", vec![sentinel(&right)]));
            }
            for (way, instead) in ways {
                let answer = post(&gate, &with(&all, "mcp-param-region", &instead), &sent).await;
                refused(&answer, &format!("{era} {region:?} {way} {instead:?}"));
            }
            all.push(("mcp-param-region", &right));
            for count in [
                "8", "7.5", "-7", "70", "seven", "", "7 7", "0x7", "NaN", "1e1",
            ] {
                let count = [count.to_owned()];
                let answer = post(&gate, &with(&all, "mcp-param-count", &count), &sent).await;
                refused(&answer, &format!("{era} count {count:?}"));
            }
            assert_eq!(reached(&gate), before, "{era}: it reached the server");
        }
        // An argument that is not there, or is null, has no field.
        for arguments in [json!({}), json!({"region": null}), Value::Null] {
            let params = json!({"name": "deploy", "arguments": arguments});
            let mut sent = message(&json!("m"), "tools/call", params);
            if arguments.is_null() {
                let params = sent["params"].as_object_mut();
                params.and_then(|params| params.remove("arguments"));
            }
            for value in ["eu", "", "null"] {
                let mut all = fields(&sent);
                all.push(("mcp-param-region", value));
                let answer = post(&gate, &all, &sent).await;
                refused(&answer, &format!("{era} {arguments} with {value:?}"));
            }
        }
        assert_eq!(reached(&gate), before, "{era}: it reached the server");
    }
}

/// a policy goes by the body, in either era, whatever a header makes of it.
#[tokio::test]
async fn a_policy_decides_on_what_the_body_says() {
    let access = "[[policy]]\ntype = \"access\"\ndeny = [\"a__delete_all\"]\n";
    for (era, server, keys) in servers() {
        let gate = Gate::with(&(server.table(keys) + access)).start().await;
        let host = gate.host().open().await;
        assert_eq!(host.call("echo", json!({})).await.code(), None);
        let before = reached(&gate);
        let session = host.session().unwrap();
        let call = |name: &str| message(&json!("m"), "tools/call", json!({"name": name}));
        let forbidden = call("delete_all");
        let hidden = [sentinel("delete_all")];
        let lie = ["echo".to_owned()];
        let as_it_is = fields(&forbidden);
        refused(
            &post(&gate, &with(&as_it_is, "mcp-name", &lie), &forbidden).await,
            era,
        );
        for all in [as_it_is.clone(), with(&as_it_is, "mcp-name", &hidden)] {
            let said = body(&post(&gate, &all, &forbidden).await);
            assert_eq!(said["error"]["code"], -32602, "{era}: {said}");
            assert_eq!(said["error"]["message"], "Unknown tool: delete_all");
        }
        // Older revisions have no such fields: they say nothing.
        let legacy = |name: &str| json!({"jsonrpc": "2.0", "id": "m", "method": "tools/call", "params": {"name": name}});
        let speaks = [
            ("content-type", "application/json"),
            ("accept", "application/json, text/event-stream"),
            ("mcp-session-id", session),
            ("mcp-protocol-version", "2025-11-25"),
        ];
        for (method, name) in [("tools/call", "echo"), ("tools/list", ""), ("ping", "echo")] {
            let mut all = speaks.to_vec();
            all.extend([("mcp-method", method), ("mcp-name", name)]);
            let said = body(&post(&gate, &all, &legacy("delete_all")).await);
            assert_eq!(said["error"]["code"], -32602, "{era}: {said}");
        }
        assert_eq!(reached(&gate), before, "{era}: it reached the server");
        let mut all = speaks.to_vec();
        all.extend([("mcp-method", "ping"), ("mcp-name", "delete_all")]);
        let said = body(&post(&gate, &all, &legacy("echo")).await);
        assert!(said["result"].is_object(), "{era}: {said}");
        assert_eq!(reached(&gate), before + 1);
    }
}
