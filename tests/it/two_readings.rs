//! A message that two parsers could read as two is no message, in either era.
//!
//! It stands apart from `bad_input.rs`, whose rows are examples: here each member that decides
//! anything gets a twin, spelled alike, in escapes, or differing in case alone, in front of it and
//! behind it. One of the two would be judged and the other carried out.

use serde_json::json;

use chillgate_tests::Gate;
use chillgate_tests::http::{Connection, collect};
use chillgate_tests::modern::{CAPABILITIES, CLIENT, LOG_LEVEL, VERSION};

use crate::headers_agree::{reached, servers};

/// Members by name and value, in order.
type Members = Vec<(&'static str, String)>;

/// The same name as another parser may read it, too.
fn twins(name: &str) -> Vec<String> {
    let escaped = |letter: char| format!("\\u{:04x}", letter as u32);
    let first = name
        .find(|letter: char| letter.is_ascii_alphabetic())
        .unwrap();
    let (before, letter, rest) = (&name[..first], &name[first..=first], &name[first + 1..]);
    let initial = letter.chars().next().unwrap();
    let mut twins = vec![
        name.to_owned(),
        format!("{before}{}{rest}", escaped(initial)),
        name.chars().map(escaped).collect(),
        // These differ by case alone.
        format!("{before}{}{rest}", letter.to_uppercase()),
        format!("{before}{}{rest}", escaped(initial.to_ascii_uppercase())),
        name.to_uppercase(),
        name.char_indices()
            .map(|(at, c)| {
                if at == name.len() - 1 {
                    c.to_ascii_uppercase()
                } else {
                    c
                }
            })
            .collect(),
    ];
    if name.chars().any(|c| c.is_ascii_uppercase()) {
        twins.push(name.to_lowercase());
    }
    for (from, to) in [
        ('s', '\u{17f}'),
        ('k', '\u{212a}'),
        ('i', '\u{131}'),
        ('i', '\u{130}'),
    ] {
        if name.contains(from) {
            twins.push(name.replacen(from, &to.to_string(), 1));
        }
    }
    twins
}

fn object(members: &[(String, String)]) -> String {
    let written = members
        .iter()
        .map(|(name, value)| format!("\"{name}\":{value}"));
    format!("{{{}}}", written.collect::<Vec<_>>().join(","))
}

/// The object once for each twin of each of these members: in front of all and behind all, with
/// the same value and with another.
fn doubled(members: &Members, known: &[&str]) -> Vec<String> {
    let plain: Vec<(String, String)> = members
        .iter()
        .map(|(name, value)| ((*name).to_owned(), value.clone()))
        .collect();
    let mut all = Vec::new();
    for (name, value) in members.iter().filter(|(name, _)| known.contains(name)) {
        for twin in twins(name) {
            for value in [value.as_str(), "\"x\""] {
                let one = [(twin.clone(), value.to_owned())];
                all.push(object(&[&one, plain.as_slice()].concat()));
                all.push(object(&[plain.as_slice(), &one].concat()));
            }
        }
    }
    all
}

fn written(members: &Members) -> String {
    let own = |(name, value): &(&str, String)| ((*name).to_owned(), value.clone());
    object(&members.iter().map(own).collect::<Vec<_>>())
}

/// What a modern request says of its hop.
fn hop() -> Members {
    vec![
        (VERSION, "\"2026-07-28\"".to_owned()),
        (CAPABILITIES, "{\"elicitation\":{}}".to_owned()),
        (CLIENT, "{\"name\":\"h\",\"version\":\"1\"}".to_owned()),
        (LOG_LEVEL, "\"info\"".to_owned()),
        ("progressToken", "7".to_owned()),
    ]
}

/// Requests by method, with what they name and their members.
fn requests() -> Vec<(&'static str, &'static str, Members)> {
    let quoted = |text: &str| format!("\"{text}\"");
    vec![
        (
            "tools/call",
            "elicit",
            vec![
                ("name", quoted("elicit")),
                ("arguments", "{\"a\":1}".to_owned()),
                ("requestState", quoted("the state")),
                (
                    "inputResponses",
                    "{\"e\":{\"action\":\"accept\"}}".to_owned(),
                ),
            ],
        ),
        (
            "resources/read",
            "mock://a/doc",
            vec![("uri", quoted("mock://a/doc"))],
        ),
        (
            "prompts/get",
            "greet",
            vec![("name", quoted("greet")), ("arguments", "{}".to_owned())],
        ),
        ("tasks/get", "t", vec![("taskId", quoted("t"))]),
        ("tools/list", "", vec![("cursor", quoted("at-1"))]),
        (
            "completion/complete",
            "",
            vec![
                (
                    "ref",
                    "{\"type\":\"ref/prompt\",\"name\":\"greet\"}".to_owned(),
                ),
                ("argument", "{\"name\":\"who\",\"value\":\"m\"}".to_owned()),
            ],
        ),
    ]
}

const KNOWN: [&str; 9] = [
    "name",
    "arguments",
    "requestState",
    "inputResponses",
    "uri",
    "taskId",
    "cursor",
    "ref",
    "_meta",
];

/// All bodies of one request that have two readings.
fn two_readings(method: &str, params: &Members, meta: &Members) -> Vec<String> {
    let envelope = |params: String| -> Members {
        vec![
            ("jsonrpc", "\"2.0\"".to_owned()),
            ("id", "\"two\"".to_owned()),
            ("method", format!("\"{method}\"")),
            ("params", params),
        ]
    };
    let with_meta = |meta: String| [params.clone(), vec![("_meta", meta)]].concat();
    let whole = with_meta(written(meta));
    let mut all = doubled(
        &envelope(written(&whole)),
        &["jsonrpc", "id", "method", "params"],
    );
    let of_params = doubled(&whole, &KNOWN).into_iter();
    all.extend(of_params.map(|params| written(&envelope(params))));
    let keys: Vec<&str> = meta.iter().map(|(key, _)| *key).collect();
    let of_meta = doubled(meta, &keys).into_iter();
    all.extend(of_meta.map(|meta| written(&envelope(written(&with_meta(meta))))));
    all
}

/// R-103, R-404: some 3,000 bodies over one connection, before servers of both eras; no policy and
/// no server has a reading to choose.
#[tokio::test]
async fn a_modern_request_with_two_readings_is_none() {
    for (era, server, keys) in servers() {
        let gate = Gate::with(&server.table(keys)).start().await;
        assert_eq!(
            gate.host()
                .open()
                .await
                .call("echo", json!({}))
                .await
                .code(),
            None
        );
        let before = reached(&gate);
        let mut connection = Connection::open(gate.front()).await;
        let mut rows = 0;
        for (method, named, params) in requests() {
            let fields = [
                ("content-type", "application/json"),
                ("accept", "application/json, text/event-stream"),
                ("mcp-protocol-version", "2026-07-28"),
                ("mcp-method", method),
                ("mcp-name", named),
            ];
            for sent in two_readings(method, &params, &hop()) {
                let raw = sent.clone().into();
                let answer = collect(connection.send("POST", "/mcp", &fields, raw).await).await;
                let text = answer.text();
                let is_refused = answer.status == 400 && text.contains("\"code\":-32600");
                assert!(is_refused, "{era}: {sent}: {} {text}", answer.status);
                rows += 1;
            }
        }
        assert!(rows > 2500, "{rows}");
        assert_eq!(reached(&gate), before, "{era}: it reached the server");
    }
}

/// The same of an older host, whose messages are carried over into the other era as well.
#[tokio::test]
async fn a_legacy_request_with_two_readings_is_none() {
    for (era, server, keys) in servers() {
        let gate = Gate::with(&server.table(keys)).start().await;
        let host = gate.host().open().await;
        host.call("echo", json!({})).await;
        let before = reached(&gate);
        let meta = vec![("progressToken", "7".to_owned())];
        for (method, _, params) in requests() {
            for sent in two_readings(method, &params, &meta) {
                let reply = host.post_bytes(sent.clone().into()).await;
                let came = (reply.status, reply.code());
                assert_eq!(came, (400, Some(-32600)), "{era}: {sent}: {}", reply.text);
            }
        }
        assert_eq!(reached(&gate), before, "{era}: it reached the server");
    }
}

/// Twins deep inside of arguments and answers of a host, at each of 60 levels, and beyond the number
/// of members that are compared one by one.
#[tokio::test]
async fn a_twin_deep_inside_is_found() {
    let [_, (_, server, keys)] = servers();
    let gate = Gate::with(&server.table(keys)).start().await;
    let host = gate.host().open().await;
    host.call("echo", json!({})).await;
    let before = reached(&gate);
    let many: Vec<String> = (0..40).map(|n| format!("\"m{n}\":{n},")).collect();
    let many = many.concat();
    for depth in 0..60 {
        for (left, right) in [("{\"a\":", "}"), ("[", "]")] {
            for twin in [
                r#"{"x":1,"x":2}"#,
                r#"{"x":1,"\u0078":2}"#,
                &format!(r#"{{"x":1,{many}"x":2}}"#),
            ] {
                let deep = [left.repeat(depth).as_str(), twin, &right.repeat(depth)].concat();
                let call = format!(
                    r#"{{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{{"name":"echo","arguments":{{"a":{deep}}}}}}}"#
                );
                let reply = host.post_bytes(call.into()).await;
                assert_eq!((reply.status, reply.code()), (400, Some(-32600)), "{deep}");
            }
        }
    }
    assert_eq!(reached(&gate), before, "it reached the server");
    assert_eq!(
        host.call("echo", json!({"message": "on"}))
            .await
            .tool_text(),
        "on"
    );
}
