//! Between a host and a server of one era nothing changes but the id and the progress token.
//!
//! It stands apart from `relay.rs` because no example is picked: requests and answers are made up,
//! with members nobody knows, odd spaces, escapes, numbers and orders of members, and what comes
//! out is held against what went in, byte for byte. It builds JSON as text: no library that
//! normalises anything has a hand in it.

use proptest::prelude::*;
use proptest::sample::select;
use proptest::test_runner::{Config, TestCaseError, TestRunner};
use serde_json::{Value, json};
use tokio::runtime::Runtime;

use chillgate_tests::http::request;
use chillgate_tests::modern::{CAPABILITIES, VERSION};
use chillgate_tests::{Gate, Host, Recorder};

use crate::mock;

/// Stands for the id and the progress token in what is made up.
const ID: &str = "@ID@";
const TOKEN: &str = "@TOKEN@";

/// Blanks between tokens. Line breaks are tried elsewhere: they become blanks on a line.
fn gap() -> impl Strategy<Value = &'static str> + Clone {
    prop_oneof![4 => Just(""), 1 => select(&[" ", "  ", "\t", " \t "][..])]
}

fn number() -> impl Strategy<Value = String> + Clone {
    let odd = [
        "0",
        "-0",
        "-0.0",
        "0e0",
        "1e400",
        "-1E+400",
        "1E-400",
        "1.0",
        "1.50e2",
        "9007199254740993",
        "18446744073709551617",
        "123456789012345678901234567890",
        "0.1000000000000000055511151231",
    ];
    prop_oneof![
        select(odd.to_vec()).prop_map(str::to_owned),
        "-?(0|[1-9][0-9]{0,24})(\\.[0-9]{1,20})?([eE][+-]?[0-9]{1,3})?",
    ]
}

/// The inside of a string, escapes as they happen to be written.
fn text() -> impl Strategy<Value = String> + Clone {
    let odd = [
        "\\u0000",
        "\\u001f",
        "\\n",
        "\\r\\n",
        "\\t",
        "\\b",
        "\\f",
        "\\/",
        "/",
        "\\\\",
        "\\\"",
        "\\u2028",
        "\\u2029",
        "\u{2028}",
        "\u{2029}",
        "\u{7f}",
        "\u{85}",
        "\u{feff}",
        "\\ud83d\\ude00",
        "\\uD83D\\uDE00",
        "😀",
        "\\u00e9",
        "\\u00E9",
        "é",
        "e\u{301}",
        "\u{202e}",
        "\u{fffe}",
        "\\uffff",
        "<",
        "&",
    ];
    let piece = prop_oneof![
        select(odd.to_vec()).prop_map(str::to_owned),
        "[ !#-\\[\\]-~]{0,12}"
    ];
    prop::collection::vec(piece, 0..4).prop_map(|pieces| pieces.concat())
}

/// Members by name and value; the names are made distinct and look like none that is known.
fn members(
    values: impl Strategy<Value = String> + Clone,
) -> impl Strategy<Value = Vec<String>> + Clone {
    let member = (text(), gap(), gap(), gap(), gap(), values);
    prop::collection::vec(member, 0..4).prop_map(|all| {
        let written = all
            .into_iter()
            .enumerate()
            .map(|(at, (name, a, b, c, d, value))| format!("{a}\"{name}_{at}\"{b}:{c}{value}{d}"));
        written.collect()
    })
}

/// Any JSON value as text.
fn value() -> impl Strategy<Value = String> + Clone {
    let leaf = prop_oneof![
        select(&["null", "true", "false", "[]", "{}", "[ ]", "{\t}"][..]).prop_map(str::to_owned),
        number(),
        text().prop_map(|text| format!("\"{text}\"")),
    ];
    leaf.prop_recursive(4, 24, 4, |inner| {
        let item = (gap(), inner.clone(), gap()).prop_map(|(a, item, b)| format!("{a}{item}{b}"));
        prop_oneof![
            prop::collection::vec(item, 0..4).prop_map(|items| format!("[{}]", items.join(","))),
            members(inner).prop_map(|members| object(&members)),
        ]
    })
}

fn object(members: &[String]) -> String {
    format!("{{{}}}", members.join(","))
}

/// An object with these members and made-up ones, in any order.
fn around(known: Vec<String>) -> impl Strategy<Value = String> + Clone {
    let known = known.into_iter().map(|member| (gap(), gap(), Just(member)));
    let known = known.collect::<Vec<_>>();
    let written = known.prop_map(|all| {
        let all = all
            .into_iter()
            .map(|(a, b, member)| format!("{a}{member}{b}"));
        all.collect::<Vec<_>>()
    });
    (written, members(value()))
        .prop_flat_map(|(known, odd)| Just([known, odd].concat()).prop_shuffle())
        .prop_map(|members| object(&members))
}

/// An id as hosts write them.
fn id() -> impl Strategy<Value = String> + Clone {
    let odd = [
        "0",
        "-7",
        "1.0",
        "9007199254740993",
        "\"\"",
        "\"1\"",
        "\"\\u0061\"",
        "\"a\\/b\"",
    ];
    prop_oneof![
        select(odd.to_vec()).prop_map(str::to_owned),
        "[1-9][0-9]{0,17}",
        "\"[ -!#-\\[\\]-~]{1,20}\"",
    ]
}

/// One exchange: what the host says and what the server answers.
#[derive(Clone, Debug)]
struct Case {
    id: String,
    token: Option<String>,
    request: String,
    answer: String,
}

/// Exchanges whose request has these members in `params._meta`, and whose result has these.
fn case(hop: Vec<String>, result: Vec<String>) -> impl Strategy<Value = Case> {
    (
        id(),
        prop::option::of(id()),
        value(),
        prop::bool::weighted(0.2),
    )
        .prop_flat_map(move |(id, token, arguments, fails)| {
            let mut hop = hop.clone();
            hop.extend(token.iter().map(|_| format!("\"progressToken\":{TOKEN}")));
            let result = result.clone();
            let answer = if fails {
                let error = vec![
                    "\"code\":-31999".to_owned(),
                    "\"message\":\"no\"".to_owned(),
                ];
                (Just("error"), around(error)).boxed()
            } else {
                (Just("result"), around(result)).boxed()
            };
            let arguments = format!("\"arguments\":{{\"of\":{arguments}}}");
            let params = around(hop).prop_flat_map(move |meta| {
                around(vec![
                    "\"name\":\"TOOL\"".to_owned(),
                    arguments.clone(),
                    format!("\"_meta\":{meta}"),
                ])
            });
            (Just(id), Just(token), params, answer)
        })
        .prop_flat_map(|(id, token, params, (outcome, answer))| {
            let version = "\"jsonrpc\":\"2.0\"".to_owned();
            let number = format!("\"id\":{ID}");
            let request = around(vec![
                version.clone(),
                number.clone(),
                "\"method\":\"tools/call\"".to_owned(),
                format!("\"params\":{params}"),
            ]);
            let answer = around(vec![version, number, format!("\"{outcome}\":{answer}")]);
            (Just(id), Just(token), request, answer)
        })
        .prop_map(|(id, token, request, answer)| Case {
            id,
            token,
            request,
            answer,
        })
}

/// Runs this for many cases, and shrinks the first that fails.
fn check(cases: u32, what: impl Strategy<Value = Case>, test: impl Fn(Case) -> Result<(), String>) {
    // A failure says what it was about; nothing is written beside the sources.
    let config = Config {
        cases,
        failure_persistence: None,
        max_shrink_time: 20_000,
        ..Config::default()
    };
    let outcome =
        TestRunner::new(config).run(&what, |case| test(case).map_err(TestCaseError::fail));
    if let Err(failed) = outcome {
        panic!("{failed}");
    }
}

/// The made-up request as the host writes it.
fn sent(case: &Case, tool: &str) -> String {
    let token = case.token.as_deref().unwrap_or_default();
    let named = case.request.replacen("TOOL", tool, 1);
    named.replacen(ID, &case.id, 1).replacen(TOKEN, token, 1)
}

/// Whether what the server heard is what was sent, with numbers of chillgate's own for the marks.
fn same(heard: &str, case: &Case, tool: &str) -> Result<(), String> {
    let expected = case.request.replacen("TOOL", tool, 1);
    let mut rest = heard;
    let mut wanted = expected.as_str();
    loop {
        let mark = [ID, TOKEN]
            .into_iter()
            .filter_map(|mark| Some((wanted.find(mark)?, mark)));
        let Some((at, mark)) = mark.min() else { break };
        let behind = rest.strip_prefix(&wanted[..at]);
        let Some(behind) = behind else { break };
        rest = behind.trim_start_matches(|c: char| c.is_ascii_digit());
        if rest.len() == behind.len() {
            break;
        }
        wanted = &wanted[at + mark.len()..];
    }
    if rest == wanted {
        return Ok(());
    }
    Err(format!(
        "the server heard\n{heard}\nand the host said\n{expected}"
    ))
}

fn equal(said: &str, case: &Case) -> Result<(), String> {
    let expected = case.answer.replacen(ID, &case.id, 1);
    if said == expected {
        return Ok(());
    }
    Err(format!(
        "the host heard\n{said}\nand the server said\n{expected}"
    ))
}

/// What both eras have in a tool's result.
fn content() -> Vec<String> {
    vec!["\"content\":[ {\"type\" : \"text\",\"text\":\"\\u0074\",\"x\":-0.0} ]".to_owned()]
}

fn modern_content() -> Vec<String> {
    [content(), vec!["\"resultType\":\"complete\"".to_owned()]].concat()
}

fn hop() -> Vec<String> {
    vec![
        format!("\"{VERSION}\":\"2026-07-28\""),
        format!("\"{CAPABILITIES}\": {{ \"odd\":1e400}}"),
        "\"traceparent\":\"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01\"".to_owned(),
    ]
}

/// The fields of a modern call of this tool.
fn fields(tool: &str) -> [(&str, &str); 5] {
    [
        ("content-type", "application/json"),
        ("accept", "application/json, text/event-stream"),
        ("mcp-protocol-version", "2026-07-28"),
        ("mcp-method", "tools/call"),
        ("mcp-name", tool),
    ]
}

async fn modern(gate: &Gate, tool: &str, body: String) -> String {
    request(gate.front(), "POST", "/mcp", &fields(tool), body)
        .await
        .text()
}

async fn legacy(host: &Host, body: String) -> String {
    host.post_bytes(body.into()).await.text
}

/// What the `raw` tool says it heard.
fn raw(answer: &str) -> Result<String, String> {
    let said: Value = serde_json::from_str(answer).map_err(|_| answer.to_owned())?;
    let text = said["result"]["content"][0]["text"].as_str();
    text.map(str::to_owned).ok_or_else(|| answer.to_owned())
}

/// The made-up answer as the argument of the `verbatim` tool.
fn verbatim(case: &Case, meta: &Value) -> String {
    let (before, after) = case.answer.split_once(ID).unwrap_or_default();
    let params =
        json!({"name": "verbatim", "arguments": {"line": [before, null, after]}, "_meta": meta});
    format!(
        r#"{{"jsonrpc":"2.0","id":{},"method":"tools/call","params":{params}}}"#,
        case.id
    )
}

/// R-001, R-010, R-208, R-210: 400 requests and 400 answers, through a child.
#[test]
fn between_a_legacy_host_and_a_legacy_server_every_byte_stays() {
    let runtime = Runtime::new().unwrap();
    let (_gate, host) = runtime.block_on(async {
        let gate = Gate::with(&mock("a").table("")).start().await;
        let host = gate.host().open().await;
        (gate, host)
    });
    check(400, case(Vec::new(), content()), |case| {
        runtime.block_on(async {
            same(
                &raw(&legacy(&host, sent(&case, "raw")).await)?,
                &case,
                "raw",
            )?;
            equal(&legacy(&host, verbatim(&case, &json!({}))).await, &case)
        })
    });
}

/// R-001, R-010, R-208, R-210: the same for the newest revision.
#[test]
fn between_a_modern_host_and_a_modern_child_every_byte_stays() {
    let runtime = Runtime::new().unwrap();
    let server = mock("a").flags(&["--eras", "modern"]);
    let table = server.table("era = \"modern\"");
    let gate = runtime.block_on(Gate::with(&table).start());
    let meta = json!({VERSION: "2026-07-28", CAPABILITIES: {}});
    check(400, case(hop(), modern_content()), |case| {
        runtime.block_on(async {
            same(
                &raw(&modern(&gate, "raw", sent(&case, "raw")).await)?,
                &case,
                "raw",
            )?;
            equal(
                &modern(&gate, "verbatim", verbatim(&case, &meta)).await,
                &case,
            )
        })
    });
}

/// R-001, R-010, R-208, R-210: and where its server is reached over HTTP.
#[test]
fn between_a_modern_host_and_a_modern_remote_server_every_byte_stays() {
    let runtime = Runtime::new().unwrap();
    let (gate, server) = runtime.block_on(async {
        let server = Recorder::start().await;
        let gate = Gate::with(&server.table("r")).start().await;
        (gate, server)
    });
    check(400, case(hop(), modern_content()), |case| {
        runtime.block_on(async {
            let (before, after) = case.answer.split_once(ID).unwrap_or_default();
            server.lay_down(before, after);
            let came = modern(&gate, "t", sent(&case, "t")).await;
            let heard = server.take("tools/call");
            let [heard] = heard.as_slice() else {
                return Err(format!("{} calls reached the server: {came}", heard.len()));
            };
            same(&heard.text(), &case, "t")?;
            equal(&came, &case)
        })
    });
}
