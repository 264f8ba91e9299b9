//! Bytes that are odd but JSON arrive as they are, bytes that are none go nowhere: in requests of
//! 2026-07-28, and in what servers answer.
//!
//! It stands apart from `bad_input.rs`, which asks the same of older hosts, because here both ends
//! may be of another era and a server may be the one that writes badly.

use serde_json::{Value, json};

use chillgate_tests::gate::bare;
use chillgate_tests::http::{Answer, Connection, collect, request};
use chillgate_tests::modern::{body, fields, message, send};
use chillgate_tests::{Gate, PipeHost, Recorder};

use crate::bad_input::{no_json, no_message};
use crate::egress::Dice;
use crate::headers_agree::{reached, servers};

/// A modern call of this tool as text, with `ARGUMENTS` where those go.
fn template(tool: &str) -> String {
    let call = message(
        &json!("ID"),
        "tools/call",
        json!({"name": tool, "arguments": "ARGUMENTS"}),
    );
    call.to_string().replace("\"ARGUMENTS\"", "ARGUMENTS")
}

async fn post(gate: &Gate, tool: &str, raw: Vec<u8>) -> Answer {
    let call = message(&json!("ID"), "tools/call", json!({"name": tool}));
    request(gate.front(), "POST", "/mcp", &fields(&call), raw).await
}

/// R-073: the corpus of the older eras, and each bad piece at each place of a modern request.
#[tokio::test]
async fn what_is_no_json_or_no_message_is_refused_in_a_modern_request_as_well() {
    let bad: [&[u8]; 14] = [
        b"\xff",
        b"\xc0\xaf",
        b"\xed\xa0\x80",
        b"\xf4\x90\x80\x80",
        b"\xe2\x82",
        b"\x80",
        b"\x00",
        b"\x01",
        b"\n",
        b"\x1f",
        b"\\ud800",
        b"\\udc00",
        b"\\ud800x",
        b"\\x41",
    ];
    let places = [
        "tools/call",
        "echo",
        "ID",
        "2026-07-28",
        "modern",
        "message",
        "text",
        "state",
        "odd",
    ];
    let mut whole = message(
        &json!("ID"),
        "tools/call",
        json!({"name": "echo", "arguments": {"message": "text"}}),
    );
    whole["params"]["requestState"] = json!("state");
    whole["params"]["odd"] = json!({});
    let whole = whole.to_string();
    for (era, server, keys) in servers() {
        let gate = Gate::with(&server.table(keys)).start().await;
        assert_eq!(
            post(&gate, "echo", whole.clone().into()).await.status,
            200,
            "{era}"
        );
        let before = reached(&gate);
        let mut rows: Vec<(Vec<u8>, i64)> =
            no_json().into_iter().map(|body| (body, -32700)).collect();
        rows.extend(
            no_message()
                .into_iter()
                .map(|body| (body.into_bytes(), -32600)),
        );
        rows.push(([b"\xef\xbb\xbf", whole.as_bytes()].concat(), -32700));
        for place in places {
            let at = whole.find(&format!("{place}\"")).unwrap();
            for piece in bad {
                let (front, back) = whole.as_bytes().split_at(at);
                rows.push(([front, piece, back].concat(), -32700));
            }
        }
        for (raw, code) in rows {
            let shown = String::from_utf8_lossy(&raw).into_owned();
            let answer = post(&gate, "echo", raw).await;
            let said = body(&answer)["error"]["code"].as_i64();
            // What begins like a batch may be refused as one before it is read.
            let is_batch = shown.starts_with('[') && said == Some(-32600);
            assert_eq!(answer.status, 400, "{era}: {shown:?}");
            assert!(
                said == Some(code) || is_batch,
                "{era}: {shown:?}: {said:?}, not {code}"
            );
        }
        assert_eq!(reached(&gate), before, "{era}: it reached the server");
    }
}

/// Control characters and line separators: none in a name, as they are in an argument, in escapes in
/// what chillgate logs and records.
#[tokio::test]
async fn controls_stay_in_arguments_and_out_of_names_and_logs() {
    let odd: Vec<char> = ('\0'..='\x1f')
        .chain('\x7f'..='\u{9f}')
        .chain("\u{2028}\u{2029}".chars())
        .collect();
    for (era, server, keys) in servers() {
        let gate = Gate::with(&server.table(keys)).audited().start().await;
        let host = gate.host().open().await;
        host.call("echo", json!({})).await;
        let before = reached(&gate);
        for letter in &odd {
            let name = format!("ec{letter}ho");
            let legacy = host.call(&name, json!({})).await;
            assert_eq!(
                (legacy.status, legacy.code()),
                (400, Some(-32600)),
                "{era} {letter:?}"
            );
            let named = message(&json!(1), "tools/call", json!({"name": name}));
            let method = message(&json!(1), &format!("tools/c{letter}all"), json!({}));
            for sent in [named, method] {
                let answer = post(&gate, "echo", sent.to_string().into()).await;
                let code = &body(&answer)["error"]["code"];
                assert_eq!(
                    (answer.status, code),
                    (400, &json!(-32600)),
                    "{era} {letter:?}"
                );
            }
        }
        assert_eq!(reached(&gate), before, "{era}: it reached the server");
        let text: String = odd.iter().collect();
        assert_eq!(
            host.call("echo", json!({"message": text}))
                .await
                .tool_text(),
            text
        );
        let call = message(
            &json!(text),
            "tools/call",
            json!({"name": "echo", "arguments": {"message": text}}),
        );
        let said = body(&send(gate.front(), &call).await);
        assert_eq!(said["result"]["content"][0]["text"], text, "{era}");
        assert_eq!(said["id"], text, "{era}");
        // Each line of the audit log is one record, whatever was refused.
        let records = gate
            .records_when("the last call", |records| records.sums().done >= 3)
            .await;
        records.assert_unbroken();
        for line in gate.log() {
            assert!(
                serde_json::from_str::<Value>(&line).is_ok(),
                "a torn line: {line}"
            );
        }
    }
}

/// R-001, R-010: 10,000 spellings of numbers, from hosts of both eras to servers of both.
#[tokio::test]
async fn numbers_keep_their_spelling_across_eras() {
    let odd = [
        "-0",
        "-0.0",
        "0E0",
        "1e400",
        "-1E-400",
        "1.0",
        "9007199254740993",
        "18446744073709551616",
    ];
    let mut dice = Dice(0x0b16_0b16_0b16_0b16);
    let mut digits = |most: usize| -> String {
        (0..=dice.below(most))
            .map(|_| char::from(b'1' + dice.below(9) as u8))
            .collect()
    };
    let mut all: Vec<String> = odd.iter().map(|number| (*number).to_owned()).collect();
    while all.len() < 2500 {
        let (whole, part, power) = (digits(30), digits(25), digits(3));
        all.push(match all.len() % 5 {
            0 => whole,
            1 => format!("-{whole}.{part}"),
            2 => format!("{whole}e{power}"),
            3 => format!("-{whole}.{part}0E+{power}"),
            _ => format!("0.{part}e-{power}"),
        });
    }
    for (era, server, keys) in servers() {
        let gate = Gate::with(&server.table(keys)).start().await;
        let host = gate.host().open().await;
        for some in all.chunks(250) {
            let arguments = format!("{{\"n\":[{}]}}", some.join(","));
            let legacy = format!(
                r#"{{"jsonrpc":"2.0","id":{},"method":"tools/call","params":{{"name":"raw","arguments":{arguments}}}}}"#,
                some[0]
            );
            let reply = host.post_bytes(legacy.into()).await;
            assert!(
                reply.tool_text().contains(&arguments),
                "{era}: {}",
                reply.tool_text()
            );
            let modern = template("raw")
                .replace("ARGUMENTS", &arguments)
                .replace("\"ID\"", &some[0]);
            let answer = post(&gate, "raw", modern.into()).await;
            let text = body(&answer)["result"]["content"][0]["text"].to_string();
            let heard: String = serde_json::from_str(&text).unwrap();
            assert!(heard.contains(&arguments), "{era}: {heard}");
            assert!(
                answer.text().contains(&format!("\"id\":{},", some[0])),
                "{era}: {}",
                answer.text()
            );
        }
    }
}

/// R-020: line breaks between tokens end neither a line towards a child nor one towards a host.
#[tokio::test]
async fn a_message_over_several_lines_is_one_line_where_lines_are_spoken() {
    for (era, server, keys) in servers() {
        let gate = Gate::with(&server.table(keys)).start().await;
        for gap in ["\n", "\r\n", "\r", "\n\n \t"] {
            let arguments = json!({"text": "a\nb"}).to_string();
            let pretty = template("raw").replace("ARGUMENTS", &arguments);
            let pretty = pretty
                .replace(",\"", &format!("{gap},{gap}\""))
                .replace("\":", &format!("\"{gap}:{gap}"));
            let answer = post(&gate, "raw", format!("{gap}{pretty}{gap}").into()).await;
            let said = body(&answer);
            let heard = said["result"]["content"][0]["text"]
                .as_str()
                .unwrap_or_default();
            assert!(heard.contains(r#""a\nb""#), "{era} {gap:?}: {said}");
            assert!(!heard.contains(['\n', '\r']), "{era} {gap:?}: {heard:?}");
        }
        let calls = gate.heard("a").calls();
        assert_eq!(calls, 4, "{era}");
    }
    let server = Recorder::start().await;
    let mut connect = bare();
    connect.args(["connect", &server.url()]);
    let mut host = PipeHost::start(connect);
    for id in 0..4 {
        server.lay_down(
            "{\r\n\"jsonrpc\":\"2.0\",\n\"id\":\n",
            ",\r\"result\":{\n\"resultType\":\"complete\",\"content\":[\r\n]}\n}\n",
        );
        let call = message(&json!(id), "tools/call", json!({"name": "t"}));
        host.write(&call).await;
        let answer = host.answer(&json!(id)).await;
        assert_eq!(
            answer["result"],
            json!({"resultType": "complete", "content": []})
        );
    }
}

/// R-008, R-020: what a server answers in bytes that are no message is dropped, and what it answers
/// after that is its answer, for hosts of both eras.
#[tokio::test]
async fn a_servers_bad_bytes_reach_no_host() {
    let line = |parts: &[Value]| Value::from(parts.to_vec());
    let (head, tail) = (json!("{\"jsonrpc\":\"2.0\",\"id\":"), json!("}}\n"));
    let result = json!(",\"result\":{\"resultType\":\"complete\",\"content\":[],\"x\":");
    let around = |bad: Vec<Value>| {
        [
            vec![head.clone(), Value::Null, result.clone()],
            bad,
            vec![tail.clone()],
        ]
        .concat()
    };
    let quote = json!("\"");
    let bytes = |bytes: &[u8]| {
        let bytes = bytes.iter().map(|byte| json!(byte));
        around(
            std::iter::once(quote.clone())
                .chain(bytes)
                .chain([quote.clone()])
                .collect(),
        )
    };
    let bad = [
        bytes(b"\xff"),
        bytes(b"\xc0\xaf"),
        bytes(b"\xed\xa0\x80"),
        bytes(b"\xe2\x82"),
        bytes(b"\x00"),
        bytes(b"\x1b"),
        bytes(b"\\ud800"),
        bytes(b"\\udfff"),
        bytes(b"\\x"),
        around(vec![json!("1,\"x\":2")]),
        around(vec![json!("{\"a\":1,\"a\":2}")]),
        around(vec![json!("01")]),
        around(vec![json!("[".repeat(200) + &"]".repeat(200))]),
        vec![
            json!("\u{feff}{\"jsonrpc\":\"2.0\",\"id\":"),
            Value::Null,
            result.clone(),
            json!("1"),
            tail.clone(),
        ],
        vec![
            json!("[{\"jsonrpc\":\"2.0\",\"id\":"),
            Value::Null,
            result.clone(),
            json!("1}}]\n"),
        ],
        vec![
            json!("{\"jsonrpc\":\"2.0\",\"id\":"),
            Value::Null,
            json!(",\"id\":"),
            Value::Null,
            result.clone(),
            json!("1"),
            tail.clone(),
        ],
        vec![
            json!("{\"jsonrpc\":\"2.0\",\"Id\":1,\"id\":"),
            Value::Null,
            result.clone(),
            json!("1"),
            tail.clone(),
        ],
        vec![
            json!("{\"jsonrpc\":\"2.0\",\"id\":"),
            Value::Null,
            json!(",\"error\":{\"code\":1,\"message\":\"\"},\"result\":{\"x\":1"),
            tail.clone(),
        ],
    ];
    let good = [
        head.clone(),
        Value::Null,
        json!(",\"result\":{\"resultType\":\"complete\",\"content\":[],\"x\":\"good\"}}"),
    ];
    for (era, server, keys) in servers() {
        let gate = Gate::with(&server.table(keys)).start().await;
        let host = gate.host().open().await;
        for bad in &bad {
            let arguments = json!({"line": line(&[bad.as_slice(), &good].concat())});
            let reply = host.call("verbatim", arguments.clone()).await;
            assert_eq!(reply.result()["x"], "good", "{era}: {bad:?}: {reply:?}");
            let call = message(
                &json!(1),
                "tools/call",
                json!({"name": "verbatim", "arguments": arguments}),
            );
            let said = body(&send(gate.front(), &call).await);
            assert_eq!(said["result"]["x"], "good", "{era}: {bad:?}: {said}");
        }
        let dropped = gate
            .scrape()
            .await
            .sum("chillgate_child_protocol_errors_total", &[("server", "a")]);
        assert!(dropped >= 2.0 * bad.len() as f64, "{era}: {dropped}");
    }
}

/// R-004: no batch is for a modern host, whatever else it says, and none says `initialize`.
#[tokio::test]
async fn a_batch_is_refused_where_the_header_is_modern_or_unknown() {
    for (era, server, keys) in servers() {
        let gate = Gate::with(&server.table(keys)).start().await;
        let old = gate.host().revision("2025-03-26").open().await;
        assert_eq!(old.call("echo", json!({})).await.code(), None, "{era}");
        let before = reached(&gate);
        let session = old.session().unwrap();
        let modern = message(&json!(1), "tools/call", json!({"name": "echo"}));
        let legacy =
            json!({"jsonrpc": "2.0", "id": 2, "method": "tools/call", "params": {"name": "echo"}});
        let hello = json!({"jsonrpc": "2.0", "id": 3, "method": "initialize", "params": {
            "protocolVersion": "2025-03-26", "capabilities": {}, "clientInfo": {"name": "h", "version": "1"}}});
        let mut connection = Connection::open(gate.front()).await;
        for batch in [
            json!([modern]),
            json!([legacy]),
            json!([legacy, modern]),
            json!([modern, hello]),
            json!([hello, legacy]),
            json!([]),
            json!([[modern]]),
        ] {
            for version in ["2026-07-28", "2099-01-01"] {
                for named in [None, Some(session)] {
                    let mut all = fields(&modern);
                    all.retain(|(name, _)| *name != "mcp-protocol-version");
                    all.push(("mcp-protocol-version", version));
                    all.extend(named.map(|session| ("mcp-session-id", session)));
                    let raw = batch.to_string().into();
                    let answer = collect(connection.send("POST", "/mcp", &all, raw).await).await;
                    let code = &body(&answer)["error"]["code"];
                    assert_eq!(
                        (answer.status, code),
                        (400, &json!(-32600)),
                        "{era} {version} {named:?}: {batch}"
                    );
                }
            }
        }
        assert_eq!(reached(&gate), before, "{era}: it reached the server");
        // Where a batch is one, each of its messages counts.
        let reply = old.post(&json!([legacy, legacy.clone()])).await;
        assert!(
            reply
                .messages
                .iter()
                .all(|said| said.get("error").is_some()),
            "one id twice: {reply:?}"
        );
    }
}
