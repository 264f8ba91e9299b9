//! A server somewhere else that cannot be reached is remembered like any other: once for each change,
//! however many calls meet it.
//!
//! It stands apart because such a failure is on the network: closed ports, names that nobody has,
//! a stranger's certificate, refused credentials and silence, each on the way of each transport.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

use chillgate_tests::process::free_port;
use chillgate_tests::wait::seconds;
use chillgate_tests::{Gate, until};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use crate::incidents::{found_field, gate, listed, logged, ready};

/// What the server of these tests does with a request.
const REFUSES: u8 = 0;
const SERVES: u8 = 1;
const SILENT: u8 = 2;
const BUSY: u8 = 3;
/// Answers with what it was sent in confidence.
const INDISCREET: u8 = 4;
/// Serves, and takes a method that it does not know for a mishap of its own.
const CLUMSY: u8 = 5;

/// An MCP server of one session as small as can be; `Authorization: Bearer good-key` lets in.
async fn remote(listener: TcpListener, mode: Arc<AtomicU8>) {
    while let Ok((stream, _)) = listener.accept().await {
        tokio::spawn(converse(stream, mode.clone()));
    }
}

async fn converse(mut stream: TcpStream, mode: Arc<AtomicU8>) {
    let mut heard = Vec::new();
    loop {
        let body_at = loop {
            if let Some(end) = heard.windows(4).position(|it| it == b"\r\n\r\n") {
                break end + 4;
            }
            if stream.read_buf(&mut heard).await.unwrap_or(0) == 0 {
                return;
            }
            if heard.first() == Some(&0x16) {
                // The first byte of TLS.
                let _ = stream.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").await;
                return;
            }
        };
        let text = String::from_utf8_lossy(&heard[..body_at]).to_lowercase();
        let length = text
            .lines()
            .find_map(|it| it.strip_prefix("content-length: "));
        let length: usize = length.map_or(0, |it| it.trim().parse().unwrap());
        while heard.len() < body_at + length {
            if stream.read_buf(&mut heard).await.unwrap_or(0) == 0 {
                return;
            }
        }
        let body: Vec<u8> = heard.drain(..body_at + length).skip(body_at).collect();
        let said: Value = serde_json::from_slice(&body).unwrap_or_default();
        let is_let_in = text.contains("authorization: bearer good-key");
        let (status, answer) = match mode.load(Ordering::Relaxed) {
            SILENT => return std::future::pending().await,
            REFUSES if !is_let_in => ("401 Unauthorized", String::new()),
            BUSY => ("503 Service Unavailable", String::new()),
            INDISCREET => ("500 Internal Server Error", text.clone()),
            _ => match said["method"].as_str() {
                Some("initialize") => (
                    "200 OK",
                    json!({"protocolVersion": "2025-11-25",
                    "capabilities": {"tools": {}}, "serverInfo": {"name": "r", "version": "1"}})
                    .to_string(),
                ),
                Some("server/discover") if mode.load(Ordering::Relaxed) == SERVES => (
                    "200 OK",
                    json!({"supportedVersions": ["2026-07-28"], "capabilities": {"tools": {}},
                        "serverInfo": {"name": "r", "version": "1"}, "resultType": "complete",
                        "ttlMs": 0, "cacheScope": "private"})
                    .to_string(),
                ),
                Some("tools/list") => (
                    "200 OK",
                    json!({"tools": [{"name": "x",
                    "inputSchema": {"type": "object"}}]})
                    .to_string(),
                ),
                Some("tools/call") => ("200 OK", json!({"content": []}).to_string()),
                Some("server/discover") if mode.load(Ordering::Relaxed) == CLUMSY => {
                    ("500 Internal Server Error", "{}".to_owned())
                }
                Some(_) if said["id"].is_null() => ("202 Accepted", String::new()),
                _ => ("405 Method Not Allowed", String::new()),
            },
        };
        let answer = if answer.is_empty() || status.starts_with('5') {
            answer
        } else {
            format!(
                "{{\"jsonrpc\":\"2.0\",\"id\":{},\"result\":{answer}}}",
                said["id"]
            )
        };
        let reply = format!(
            "HTTP/1.1 {status}\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{answer}",
            answer.len()
        );
        if stream.write_all(reply.as_bytes()).await.is_err() {
            return;
        }
    }
}

async fn started(mode: u8) -> (u16, Arc<AtomicU8>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let mode = Arc::new(AtomicU8::new(mode));
    tokio::spawn(remote(listener, mode.clone()));
    (port, mode)
}

/// How many incidents of this server were counted, by cause.
async fn counted(gate: &Gate, server: &str) -> BTreeMap<String, u64> {
    let scrape = gate.scrape().await;
    let of_server = scrape.iter().filter(|sample| {
        sample.name == "chillgate_incidents_total"
            && sample.labels.get("server").map(String::as_str) == Some(server)
    });
    of_server
        .map(|sample| (sample.labels["cause"].clone(), sample.value as u64))
        .collect()
}

#[tokio::test]
async fn each_way_not_to_reach_a_server_is_one_incident_with_its_remedy() {
    let folder = tempfile::tempdir().unwrap();
    let (refusing, _) = started(REFUSES).await;
    let (silent, _) = started(SILENT).await;
    let (busy, _) = started(BUSY).await;
    let (plain, _) = started(SERVES).await;
    let url = |port: u16| format!("http://127.0.0.1:{port}/mcp");
    let closed = url(free_port());
    let quick = "start-timeout = \"1s\"\n";
    let legacy = "era = \"legacy\"\n";
    let modern = "era = \"modern\"\n";
    let sse = "transport = \"http-sse\"\n";
    let all: Vec<(&str, String, String, &str)> = vec![
        ("closed", closed.clone(), String::new(), "remote-refused"),
        (
            "closed-legacy",
            closed.clone(),
            legacy.into(),
            "remote-refused",
        ),
        (
            "closed-modern",
            closed.clone(),
            modern.into(),
            "remote-refused",
        ),
        ("closed-sse", closed, sse.into(), "remote-refused"),
        (
            "name",
            "http://no-such-host.invalid/mcp".into(),
            legacy.into(),
            "remote-name",
        ),
        (
            "socket",
            "unix:@DIR@/none.sock".into(),
            legacy.into(),
            "remote-unix",
        ),
        (
            "tls",
            url(plain).replace("http:", "https:"),
            legacy.into(),
            "remote-certificate",
        ),
        ("key", url(refusing), String::new(), "remote-credentials"),
        (
            "key-modern",
            url(refusing),
            modern.into(),
            "remote-credentials",
        ),
        ("key-sse", url(refusing), sse.into(), "remote-credentials"),
        (
            "secret",
            url(plain),
            format!("{legacy}headers = {{ Authorization = \"file:@DIR@/key\" }}\n"),
            "remote-secret",
        ),
        (
            "silent",
            url(silent),
            format!("{legacy}{quick}"),
            "remote-slow",
        ),
        (
            "silent-modern",
            url(silent),
            format!("{modern}{quick}"),
            "remote-slow",
        ),
        (
            "silent-sse",
            url(silent),
            format!("{sse}{quick}"),
            "remote-slow",
        ),
        ("busy", url(busy), legacy.into(), "remote-in-trouble"),
    ];
    let table = |(name, url, more, _): &(&str, String, String, &str)| {
        format!("[server.{name}]\nurl = \"{url}\"\n{more}")
    };
    let tables: String = all.iter().map(table).collect();
    let gate = gate(&tables, folder.path()).file("key", "x").start().await;
    std::fs::remove_file(gate.folder().join("key")).unwrap();
    let host = gate.host().open().await;
    for (name, _, _, remedy) in &all {
        let (known, error) = until(name, seconds(30), async || {
            let reply = host.call(&format!("{name}__x"), json!({})).await;
            let error = reply.answer()["error"].clone();
            let known = error["data"]["incident"].clone();
            (!known.is_null()).then_some((known, error))
        })
        .await;
        assert_eq!(known["remedy"]["id"], *remedy, "{name}: {error}");
        assert_eq!(known["count"], 1, "{name}: {error}");
        let said = error["message"].as_str().unwrap();
        assert!(said.contains("what to do: "), "{name}: {said}");
        for _ in 0..3 {
            host.call(&format!("{name}__x"), json!({})).await;
        }
        let entry = ready(&gate, name).await;
        let state = entry["state"].as_str().unwrap();
        assert!(["down", "crash-loop"].contains(&state), "{name}: {entry}");
        assert_eq!(entry["incident"]["id"], known["id"], "{name}: {entry}");
        assert_eq!(entry["remedy"], known["remedy"]["text"], "{name}: {entry}");
        let line = logged(&gate, "The server cannot be reached.", name).unwrap();
        assert_eq!(found_field(&line, "remedy"), *remedy, "{name}: {line}");
        let one = [((*remedy).to_owned(), 1)].into();
        assert_eq!(
            counted(&gate, name).await,
            one,
            "{name}: not one for each call"
        );
        let one = listed(folder.path()).await.remove(*name);
        let one = until("it to be written", seconds(5), async || match &one {
            Some(one) => Some(one.clone()),
            None => listed(folder.path()).await.remove(*name),
        })
        .await;
        assert_eq!(
            (&one["phase"], &one["attempts"]),
            (&json!("remote"), &json!(1)),
            "{one}"
        );
    }
}

#[tokio::test]
async fn a_remote_server_comes_and_goes_and_each_outage_counts() {
    for era in ["legacy", "modern"] {
        come_and_go(era).await;
    }
}

async fn come_and_go(era: &str) {
    let folder = tempfile::tempdir().unwrap();
    let (port, mode) = started(BUSY).await;
    let table = format!("[server.a]\nurl = \"http://127.0.0.1:{port}/mcp\"\nera = \"{era}\"\n");
    let gate = gate(&table, folder.path()).start().await;
    let host = gate.host().open().await;
    for round in 1..=2 {
        mode.store(BUSY, Ordering::Relaxed);
        let error = host.call("x", json!({})).await.answer()["error"].clone();
        assert_eq!(error["data"]["incident"]["count"], round, "{error}");
        assert_eq!(
            error["data"]["incident"]["remedy"]["id"],
            "remote-in-trouble"
        );
        mode.store(SERVES, Ordering::Relaxed);
        until("an answer", seconds(20), async || {
            let reply = host.call("x", json!({})).await;
            reply.code().is_none().then_some(())
        })
        .await;
        let entry = ready(&gate, "a").await;
        assert_eq!(
            (&entry["state"], &entry["incident"]),
            (&json!("up"), &Value::Null)
        );
        let one = until("the recovery", seconds(5), async || {
            let one = listed(folder.path()).await.remove("a")?;
            (one["resolved"] == true && one["count"] == round).then_some(one)
        })
        .await;
        // What came back too soon had not passed.
        assert_eq!(
            (&one["passed"], &one["worked"]),
            (&json!(1), &json!(0)),
            "{one}"
        );
    }
    let counted = counted(&gate, "a").await;
    assert_eq!(counted, [("remote-in-trouble".to_owned(), 2)].into());
}

#[tokio::test]
async fn a_key_that_was_renewed_is_credited_and_its_value_is_kept_nowhere() {
    let folder = tempfile::tempdir().unwrap();
    let (port, _) = started(REFUSES).await;
    let table = format!(
        "[server.a]\nurl = \"http://127.0.0.1:{port}/mcp\"\nera = \"legacy\"\n\
         headers = {{ Authorization = \"Bearer planted-key\" }}\n"
    );
    let gate = gate(&table, folder.path()).start().await;
    let host = gate.host().open().await;
    let error = host.call("x", json!({})).await.answer()["error"].clone();
    assert_eq!(
        error["data"]["incident"]["remedy"]["id"],
        "remote-credentials"
    );
    gate.edit("planted-key", "good-key");
    let one = until("the recovery", seconds(20), async || {
        host.call("x", json!({})).await;
        let one = listed(folder.path()).await.remove("a")?;
        (one["resolved"] == true).then_some(one)
    })
    .await;
    assert_eq!(
        (&one["worked"], &one["remedy"]["worked"]),
        (&json!(1), &json!(1)),
        "{one}"
    );
    assert_eq!(
        one["recovery"]["changed"],
        json!(["the header Authorization"])
    );
    drop(gate.stop().await);
    let kept = std::fs::read_to_string(folder.path().join("incidents.json")).unwrap();
    for value in ["planted-key", "good-key"] {
        assert!(!kept.contains(value), "{kept}");
    }
}

#[tokio::test]
async fn what_a_remote_server_repeats_of_its_key_is_told_nobody() {
    let folder = tempfile::tempdir().unwrap();
    let (port, _) = started(INDISCREET).await;
    let url = format!("url = \"http://127.0.0.1:{port}/mcp\"\n");
    let header = "headers = { X-Aa = \"Word zq9-planted-value\" }\n";
    let tables =
        ["legacy", "modern"].map(|era| format!("[server.{era}]\n{url}{header}era = \"{era}\"\n"));
    let gate = gate(&tables.concat(), folder.path()).start().await;
    let host = gate.host().open().await;
    let mut said = String::new();
    for era in ["legacy", "modern"] {
        let error = host.call(&format!("{era}__x"), json!({})).await.answer()["error"].clone();
        assert!(
            error["message"].as_str().unwrap().contains("[redacted]"),
            "{error}"
        );
        said += &error.to_string();
    }
    said += &gate.log().join("\n");
    said += &ready(&gate, "legacy").await.to_string();
    drop(gate.stop().await);
    said += &std::fs::read_to_string(folder.path().join("incidents.json")).unwrap();
    assert!(!said.contains("planted"), "{said}");
}

#[tokio::test]
async fn that_a_server_does_not_know_the_other_era_is_no_incident() {
    let folder = tempfile::tempdir().unwrap();
    let (port, _) = started(CLUMSY).await;
    let table = format!("[server.a]\nurl = \"http://127.0.0.1:{port}/mcp\"\n");
    let gate = gate(&table, folder.path()).start().await;
    let host = gate.host().open().await;
    host.call("x", json!({})).await.result();
    until("the server", seconds(20), async || {
        (ready(&gate, "a").await["state"] == "up").then_some(())
    })
    .await;
    assert_eq!(counted(&gate, "a").await, BTreeMap::new());
    drop(gate.stop().await);
    assert_eq!(listed(folder.path()).await.len(), 0);
}
