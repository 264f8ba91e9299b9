//! Bad input gets a clear error in its sender's own terms, and the server never hears of it.
//!
//! It stands apart because every row has the same three judges: the answer, the server's ledger,
//! and a good call afterwards.

use std::time::Duration;

use serde_json::{Value, json};

use chillgate_tests::gate::bare;
use chillgate_tests::http::{raw, statuses};
use chillgate_tests::process::{descriptors, peak, resident};
use chillgate_tests::wait::{seconds, within};
use chillgate_tests::{Gate, Host, PipeHost, Reply, until};

use crate::mock;

async fn gate() -> (Gate, Host) {
    let gate = Gate::with(&mock("a").ledger().table("")).start().await;
    let host = gate.host().open().await;
    host.call("echo", json!({})).await;
    (gate, host)
}

fn call(params: &str) -> String {
    format!(r#"{{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{params}}}"#)
}

/// Bodies that are no JSON text at all: -32700.
pub(crate) fn no_json() -> Vec<Vec<u8>> {
    let mut bodies: Vec<Vec<u8>> = [
        "",
        " ",
        "{",
        "}",
        "nonsense",
        "{\"jsonrpc\":\"2.0\",",
        "{'a':1}",
        "{\"a\":01}",
        "{\"a\":+1}",
        "{\"a\":.5}",
        "{\"a\":1.}",
        "{\"a\":NaN}",
        "{\"a\":Infinity}",
        "{\"a\":tru}",
        "{\"a\":1,}",
        "[1,]",
        "{\"a\":\"\\x\"}",
        "{\"a\":\"\\ud800\"}",
        "{\"a\":\"\\udc00\\ud800\"}",
        "{\"a\":\"tab\there\"}",
        "\u{feff}{}",
        "{} {}",
        "{\"a\":1}x",
        "// comment\n{}",
    ]
    .iter()
    .map(|text| text.as_bytes().to_vec())
    .collect();
    bodies.push(b"{\"a\":\"\xff\"}".to_vec());
    bodies.push(b"{\"a\":\"\xc0\xaf\"}".to_vec());
    bodies.push(b"{\"a\":\"\xed\xa0\x80\"}".to_vec());
    bodies.push(b"\x00".to_vec());
    bodies
}

/// JSON that is no acceptable message: -32600.
pub(crate) fn no_message() -> Vec<String> {
    let mut bodies: Vec<String> = [
        "1", "null", "\"x\"", "true", "{}",
        r#"{"id":1,"method":"ping"}"#,
        r#"{"jsonrpc":"1.0","id":1,"method":"ping"}"#,
        r#"{"jsonrpc":2.0,"id":1,"method":"ping"}"#,
        r#"{"jsonrpc":"2.0","id":null,"method":"ping"}"#,
        r#"{"jsonrpc":"2.0","id":{},"method":"ping"}"#,
        r#"{"jsonrpc":"2.0","id":[1],"method":"ping"}"#,
        r#"{"jsonrpc":"2.0","id":true,"method":"ping"}"#,
        r#"{"jsonrpc":"2.0","id":1,"method":7}"#,
        r#"{"jsonrpc":"2.0","id":1,"method":"ping","params":[1]}"#,
        r#"{"jsonrpc":"2.0","id":1,"method":"ping","params":"x"}"#,
        r#"{"jsonrpc":"2.0","id":1,"method":"ping","result":{}}"#,
        r#"{"jsonrpc":"2.0","id":1}"#,
        r#"{"jsonrpc":"2.0","id":1,"result":{},"error":{"code":1,"message":""}}"#,
        // Two readings of one message.
        r#"{"jsonrpc":"2.0","id":1,"method":"tools/list","method":"tools/call","params":{"name":"echo"}}"#,
        r#"{"jsonrpc":"2.0","id":1,"id":2,"method":"tools/call","params":{"name":"echo"}}"#,
        r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","m\u0065thod":"tools/list","params":{"name":"echo"}}"#,
        r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","Method":"tools/list","params":{"name":"echo"}}"#,
        r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"echo"},"paramſ":{"name":"env"}}"#,
    ]
    .map(str::to_owned)
    .to_vec();
    bodies.extend([
        call(r#"{"name":"echo","name":"env"}"#),
        call(r#"{"name":"echo","n\u0061me":"env"}"#),
        call(r#"{"name":"echo","Name":"env"}"#),
        call(r#"{"name":"echo","arguments":{"message":"a","message":"b"}}"#),
        call(r#"{"name":"echo","arguments":{"deep":[{"x":1,"x":2}]}}"#),
        call(&format!(
            r#"{{"name":"echo","arguments":{{"d":{}{}}}}}"#,
            "[".repeat(80),
            "]".repeat(80)
        )),
    ]);
    bodies
}

#[tokio::test]
async fn what_is_no_json_is_a_parse_error_and_what_is_no_message_an_invalid_request() {
    let (gate, host) = gate().await;
    let heard = gate.heard("a").lines().len();
    let rows = no_json().into_iter().map(|body| (body, -32700_i64));
    let rows = rows.chain(
        no_message()
            .into_iter()
            .map(|body| (body.into_bytes(), -32600)),
    );
    let mut wrong = Vec::new();
    for (body, code) in rows {
        let shown = String::from_utf8_lossy(&body[..body.len().min(120)]).into_owned();
        let reply = host.post_bytes(body.into()).await;
        let clear = reply
            .messages
            .first()
            .is_some_and(|m| m["error"]["message"].as_str().is_some_and(|t| t.len() > 5));
        // What begins like a batch may be refused as one before it is read.
        let batch = shown.starts_with('[') && reply.code() == Some(-32600);
        if (reply.code() != Some(code) && !batch) || reply.status != 400 || !clear {
            wrong.push(format!(
                "{shown}: expected {code}, got {} {:?} {}",
                reply.status,
                reply.code(),
                reply.text
            ));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    // An id without a UTF-8 form is not said back.
    let reply = host
        .post_bytes(br#"{"jsonrpc":"2.0","id":"\ud800","method":"ping"}"#.to_vec().into())
        .await;
    assert_eq!(reply.code(), Some(-32700), "{}", reply.text);
    assert!(!reply.text.contains("ud800"), "{}", reply.text);
    assert_eq!(
        gate.heard("a").lines().len(),
        heard,
        "a refused message reached the server"
    );
    assert_eq!(
        host.call("echo", json!({"message": "fine"}))
            .await
            .tool_text(),
        "fine"
    );
}

#[tokio::test]
async fn the_same_bad_lines_on_a_pipe_are_answered_and_the_pipe_goes_on() {
    let folder = tempfile::tempdir().unwrap();
    let ledger = folder.path().join("ledger");
    let mut wrap = bare();
    wrap.args(["wrap", "--"]).args(
        mock("a")
            .flags(&["--ledger", ledger.to_str().unwrap()])
            .command(),
    );
    let mut host = PipeHost::start(wrap);
    host.open(json!({})).await;
    host.call("echo", json!({})).await;
    let calls = |ledger: &std::path::Path| chillgate_tests::server::Heard::read(ledger).calls();
    assert_eq!(calls(&ledger), 1);
    for body in no_json()
        .into_iter()
        .chain(no_message().into_iter().map(String::into_bytes))
    {
        // An empty line says nothing, and a line break ends a line.
        if body.iter().all(u8::is_ascii_whitespace) || body.contains(&b'\n') {
            continue;
        }
        let mut line = body.clone();
        line.push(b'\n');
        host.write_bytes(&line).await;
        let answer = host
            .find("an error", |message| message.get("error").is_some())
            .await;
        let code = answer["error"]["code"].as_i64();
        assert!(
            matches!(code, Some(-32700 | -32600)),
            "{}: {answer}",
            String::from_utf8_lossy(&body)
        );
    }
    assert_eq!(
        host.call("echo", json!({"message": "on"})).await["result"]["content"][0]["text"],
        "on"
    );
    assert_eq!(calls(&ledger), 2, "a refused line reached the server");
}

/// R-405.
#[tokio::test]
async fn a_body_over_the_limit_is_refused_while_it_is_read() {
    let tables = mock("a").ledger().table("") + "[limits]\nmessage = \"1MiB\"\n";
    let gate = Gate::with(&tables).start().await;
    let host = gate.host().open().await;
    host.call("echo", json!({})).await;
    let (memory, lines) = (resident(gate.pid()), gate.heard("a").lines().len());
    let session = host.session().unwrap();
    let head = |more: &str| {
        format!(
            "POST /mcp HTTP/1.1\r\nHost: {}\r\nContent-Type: application/json\r\nAccept: application/json, text/event-stream\r\n\
             Mcp-Session-Id: {session}\r\n{more}\r\n\r\n",
            gate.front()
        )
    };
    // Announced: refused at once. Chunked: refused when the limit is passed, whatever comes after.
    let announced = raw(
        gate.front(),
        head("Content-Length: 100000000").as_bytes(),
        Duration::from_secs(3),
    )
    .await;
    assert_eq!(statuses(&announced), [413]);
    let mut chunked = head("Transfer-Encoding: chunked").into_bytes();
    for _ in 0..40 {
        chunked.extend_from_slice(b"10000\r\n");
        chunked.extend(std::iter::repeat_n(b' ', 0x10000));
        chunked.extend_from_slice(b"\r\n");
    }
    let chunked = raw(gate.front(), &chunked, Duration::from_secs(3)).await;
    assert_eq!(statuses(&chunked), [413]);
    let long = host
        .call("echo", json!({"message": "x".repeat(2 << 20)}))
        .await;
    assert_eq!(long.status, 413, "{long:?}");
    let deep = host
        .call("echo", json!({"message": "x".repeat(900 << 10)}))
        .await;
    assert_eq!(deep.tool_text().len(), 900 << 10, "just below the limit");
    assert_eq!(gate.heard("a").lines().len(), lines + 1);
    assert!(
        resident(gate.pid()) < memory + (24 << 20),
        "memory grew with refused bytes"
    );
}

/// R-405.
#[tokio::test]
async fn a_line_over_the_limit_on_a_pipe_is_refused_and_the_next_line_is_read() {
    let folder = tempfile::tempdir().unwrap();
    let config = folder.path().join("small.toml");
    std::fs::write(&config, "[limits]\nmessage = \"1MiB\"\n").unwrap();
    let mut wrap = bare();
    wrap.arg("wrap")
        .arg("--config")
        .arg(&config)
        .arg("--")
        .args(mock("a").command());
    let mut host = PipeHost::start(wrap);
    host.open(json!({})).await;
    let mut line = vec![b'x'; 40 << 20];
    line.push(b'\n');
    host.write_bytes(&line).await;
    let error = host
        .find("the error", |message| message.get("error").is_some())
        .await;
    assert!(
        matches!(error["error"]["code"].as_i64(), Some(-32700 | -32600)),
        "{error}"
    );
    assert_eq!(
        host.call("name", json!({})).await["result"]["content"][0]["text"],
        "a"
    );
    // Refused while it was read: 40 MiB of it were never held.
    let held = peak(host.child().id().expect("it runs"));
    assert!(held < 32 << 20, "{held} bytes");
}

#[tokio::test]
async fn depth_and_batch_and_number_bombs_are_refused_at_once() {
    let (gate, host) = gate().await;
    let heard = gate.heard("a").lines().len();
    for bomb in [
        "[".repeat(100_000),
        "{\"a\":".repeat(100_000),
        call(&format!(
            r#"{{"name":"echo","arguments":{{{}}}}}"#,
            many_members(5000)
        )),
        call(&format!(
            r#"{{"name":"echo","arguments":{}}}"#,
            "{\"a\":".repeat(70) + "1" + &"}".repeat(70)
        )),
    ] {
        let began = tokio::time::Instant::now();
        let reply = host.post_bytes(bomb.into()).await;
        assert_eq!(reply.status, 400, "{reply:?}");
        assert!(
            began.elapsed() < seconds(1),
            "it took {:?}",
            began.elapsed()
        );
    }
    assert_eq!(gate.heard("a").lines().len(), heard);
}

#[tokio::test]
async fn ambiguous_http_is_refused_and_nothing_is_smuggled() {
    let (gate, host) = gate().await;
    let heard = gate.heard("a").lines().len();
    let session = host.session().unwrap();
    let inner = call(r#"{"name":"echo","arguments":{"message":"smuggled"}}"#);
    let good = format!(
        "Host: {}\r\nContent-Type: application/json\r\nAccept: application/json, text/event-stream\r\nMcp-Session-Id: {session}\r\n",
        gate.front()
    );
    let smuggled = format!(
        "POST /mcp HTTP/1.1\r\n{good}Content-Length: {}\r\n\r\n{inner}",
        inner.len()
    );
    for (what, head) in [
        (
            "CL and TE",
            "Content-Length: 5\r\nTransfer-Encoding: chunked\r\n",
        ),
        ("two lengths", "Content-Length: 0\r\nContent-Length: 5\r\n"),
        ("a length list", "Content-Length: 0, 5\r\n"),
        ("a signed length", "Content-Length: +5\r\n"),
        ("xchunked", "Transfer-Encoding: xchunked\r\n"),
        ("chunked twice", "Transfer-Encoding: chunked, chunked\r\n"),
        ("a space before the colon", "Content-Length : 5\r\n"),
        (
            "a folded header",
            "X-A: 1\r\n Content-Length: 5\r\nContent-Length: 0\r\n",
        ),
        ("a NUL in a value", "X-A: a\0b\r\nContent-Length: 0\r\n"),
    ] {
        let bytes = format!("POST /mcp HTTP/1.1\r\n{good}{head}\r\n0\r\n\r\n{smuggled}");
        let said = raw(gate.front(), bytes.as_bytes(), Duration::from_secs(2)).await;
        let text = String::from_utf8_lossy(&said).into_owned();
        assert!(
            statuses(&said).iter().all(|status| *status >= 400),
            "{what}: {text}"
        );
        assert_eq!(
            gate.heard("a").lines().len(),
            heard,
            "{what}: a second request was smuggled"
        );
    }
    let fields = "X-Many: 1\r\n".repeat(2000);
    let long = format!("X-Long: {}\r\n", "a".repeat(1 << 20));
    for head in [fields, long] {
        let bytes = format!("POST /mcp HTTP/1.1\r\n{good}{head}Content-Length: 2\r\n\r\n{{}}");
        let said = raw(gate.front(), bytes.as_bytes(), Duration::from_secs(2)).await;
        assert!(
            statuses(&said).iter().all(|status| *status >= 400),
            "{}",
            String::from_utf8_lossy(&said)
        );
    }
    assert_eq!(
        host.call("echo", json!({"message": "fine"}))
            .await
            .tool_text(),
        "fine"
    );
}

#[tokio::test]
async fn a_pretty_printed_body_reaches_the_child_as_one_line() {
    let (gate, host) = gate().await;
    let body = "{\r\n  \"jsonrpc\": \"2.0\",\n  \"id\": 5,\n  \"method\": \"tools/call\",\n  \"params\": {\n    \"name\": \"raw\",\n    \"arguments\": {\"text\": \"a\\nb\"}\n  }\n}\n";
    let reply = host.post_bytes(body.into()).await;
    let heard = reply.tool_text();
    assert!(
        heard.contains(r#""a\nb""#) && !heard.contains('\n'),
        "{heard}"
    );
    assert_eq!(gate.heard("a").calls(), 2);
}

#[tokio::test]
async fn strange_names_and_arguments_change_nothing_but_their_own_answer() {
    let (gate, host) = gate().await;
    let strange = [
        "",
        "a__",
        "__",
        "a__b__c",
        "\u{0}",
        "no\r\nsuch",
        "\u{202e}ohce",
        "еcho",
        "echo ",
        " echo",
        "ECHO",
        "../echo",
        "echo\u{200d}",
        "%65cho",
        "a__echo",
        "b__echo",
        "x\u{2028}y",
    ];
    for name in strange {
        let reply: Reply = host.call(name, json!({})).await;
        assert!(reply.code().is_some(), "{name:?} was called: {reply:?}");
    }
    let message = "\u{0}\u{1}\u{7f}\u{85}\u{2028}\u{2029}\u{fffe}😀 \\ \" ";
    assert_eq!(
        host.call("echo", json!({"message": message}))
            .await
            .tool_text(),
        message
    );
    let log = gate.log();
    assert!(
        log.iter()
            .all(|line| serde_json::from_str::<Value>(line).is_ok()),
        "a log line is torn: {log:?}"
    );
}

#[tokio::test]
async fn a_storm_of_bad_clients_disturbs_nobody_and_leaks_nothing() {
    let (gate, host) = gate().await;
    let base = descriptors(gate.pid());
    let bad = async {
        for n in 0..300_u32 {
            let bytes: Vec<u8> = (0..200)
                .map(|i| (n.wrapping_mul(31).wrapping_add(i * 7) % 256) as u8)
                .collect();
            drop(raw(gate.front(), &bytes, Duration::from_millis(5)).await);
        }
    };
    let good = async {
        for _ in 0..200 {
            let reply = within(
                "a good call",
                seconds(2),
                host.call("echo", json!({"message": "ok"})),
            )
            .await;
            assert_eq!(reply.tool_text(), "ok");
        }
    };
    tokio::join!(bad, good);
    until(
        "descriptors back to where they were",
        seconds(15),
        async || (descriptors(gate.pid()) <= base + 2).then_some(()),
    )
    .await;
    assert!(
        gate.scrape().await.sum("chillgate_panics_total", &[]) < 0.5,
        "something panicked"
    );
}

#[tokio::test]
async fn a_server_that_floods_stderr_or_babbles_on_stdout_still_answers() {
    let a = mock("a").flags(&["--banner", "--garbage", "--stderr-flood", "5000000"]);
    let gate = Gate::with(&a.table("")).start().await;
    let host = gate.host().open().await;
    for _ in 0..20 {
        assert_eq!(
            host.call("echo", json!({"message": "x"})).await.tool_text(),
            "x"
        );
    }
    let flood = within(
        "the answer beside the flood",
        seconds(20),
        host.call("stderr", json!({"bytes": 50_000_000})),
    );
    assert_eq!(flood.await.tool_text(), "after stderr");
    let scrape = gate.scrape().await;
    assert!(scrape.sum("chillgate_child_protocol_errors_total", &[("server", "a")]) >= 20.0);
    assert!(
        scrape.sum(
            "chillgate_child_stderr_dropped_bytes_total",
            &[("server", "a")]
        ) > 1e6
    );
}

#[tokio::test]
async fn a_server_that_babbles_on_and_on_is_told_of_once_and_keeps_its_calls() {
    let gate = Gate::with(&mock("a").table("")).start().await;
    let host = gate.host().open().await;
    let pid = host.call("pid", json!({})).await.tool_text().to_owned();
    let told = async || {
        gate.scrape()
            .await
            .sum("chillgate_incidents_total", &[("server", "a")])
    };
    let babble = async |lines: usize| {
        for _ in 0..lines {
            let reply = host.call("junk", json!({"bytes": 20})).await;
            assert_eq!(reply.tool_text(), "after junk");
            assert!(reply.before().is_empty(), "{reply:?}");
        }
    };
    babble(100).await;
    assert!(told().await < 0.5, "a few lines are nothing");
    babble(250).await;
    assert!((0.9..1.1).contains(&told().await), "{}", told().await);
    let said: Vec<_> = gate.log();
    let said = said
        .iter()
        .filter(|line| line.contains("The server babbles"));
    let said: Vec<_> = said.collect();
    assert_eq!(said.len(), 1, "{said:?}");
    assert!(
        said[0].contains("console.error") || said[0].contains("babble"),
        "{said:?}"
    );
    assert_eq!(host.call("pid", json!({})).await.tool_text(), pid);
    let kinds = gate.scrape().await;
    let stray = kinds.sum("chillgate_child_protocol_errors_total", &[("server", "a")]);
    assert!(stray > 349.5, "{stray}");
}

fn many_members(count: usize) -> String {
    (0..count)
        .map(|n| format!("\"k{n}\":0"))
        .collect::<Vec<_>>()
        .join(",")
}
