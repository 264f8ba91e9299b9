//! What chillgate does by itself as a client of remote servers, and must not do for anybody.
//!
//! It stands apart from `egress.rs`, which looks at the bytes of a head: here a server forgets its
//! sessions, sends its clients elsewhere, or names addresses that nobody has configured.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

use chillgate_tests::modern::{body, message, send};
use chillgate_tests::process::{command, dual_server, free_port};
use chillgate_tests::recorder::Recorder;
use chillgate_tests::wait::{all, seconds};
use chillgate_tests::{Gate, until};

use crate::peers::{legacy_remote, started};

/// An address that counts who comes, and where it is.
async fn trap() -> (Arc<AtomicUsize>, String) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let came = Arc::<AtomicUsize>::default();
    let count = came.clone();
    tokio::spawn(async move {
        while listener.accept().await.is_ok() {
            count.fetch_add(1, Ordering::Relaxed);
        }
    });
    (came, format!("http://{address}"))
}

/// Passes bytes on, and counts how often a client greets.
async fn counting(to: u16) -> (Arc<AtomicUsize>, u16) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let greetings = Arc::<AtomicUsize>::default();
    let count = greetings.clone();
    tokio::spawn(async move {
        while let Ok((client, _)) = listener.accept().await {
            let count = count.clone();
            tokio::spawn(async move {
                let server = TcpStream::connect(("127.0.0.1", to)).await?;
                let (mut from_client, mut to_client) = client.into_split();
                let (mut from_server, mut to_server) = server.into_split();
                let back = tokio::io::copy(&mut from_server, &mut to_client);
                let there = async {
                    let mut buffer = vec![0; 64 << 10];
                    while let size @ 1.. = from_client.read(&mut buffer).await? {
                        let word = b"\"initialize\"";
                        let all = buffer[..size].windows(word.len());
                        count.fetch_add(all.filter(|part| part == word).count(), Ordering::Relaxed);
                        to_server.write_all(&buffer[..size]).await?;
                    }
                    std::io::Result::Ok(())
                };
                tokio::select! {
                    _ = back => {}
                    _ = there => {}
                }
                std::io::Result::Ok(())
            });
        }
    });
    (greetings, port)
}

/// R-213: the server is the official TypeScript SDK, started anew under its hosts.
#[tokio::test]
async fn a_remote_server_that_has_forgotten_its_sessions_is_greeted_again_once() {
    let port = free_port();
    let mut first = legacy_remote(port).await;
    let (greetings, through) = counting(port).await;
    let table = format!("[server.r]\nurl = \"http://127.0.0.1:{through}/mcp\"\nera = \"legacy\"\n");
    let gate = Gate::with(&table).start().await;
    let hosts = [
        gate.host().path("/server/r/mcp").open().await,
        gate.host().open().await,
    ];
    let said = "A sentence and nothing else.";
    for host in &hosts {
        let text = host.call("test_simple_text", json!({})).await;
        assert_eq!(text.tool_text(), said);
    }
    greetings.store(0, Ordering::Relaxed);
    first.kill().await.unwrap();
    let _second = legacy_remote(port).await;
    for host in &hosts {
        let calls = (0..8).map(|_| host.call("test_simple_text", json!({})));
        for text in all(calls).await {
            assert_eq!(text.tool_text(), said);
        }
    }
    assert_eq!(greetings.load(Ordering::Relaxed), 2, "once for each host");
    gate.stop().await;
}

/// A server that is replaced by one of the other era under its address: nobody has said so, and hosts
/// of both eras go on after what may be one failed call.
#[tokio::test]
async fn a_remote_server_that_turns_into_one_of_the_other_era_is_greeted_in_its_own() {
    let port = free_port();
    let modern = || {
        let mut dual = command(dual_server());
        dual.args(["--http", &port.to_string(), "--eras", "modern"]);
        started(dual, port)
    };
    let table = format!("[server.r]\nurl = \"http://127.0.0.1:{port}/mcp\"\n");
    let mut server = modern().await;
    let gate = Gate::with(&table).start().await;
    let host = gate.host().open().await;
    let call = json!({"name": "test_simple_text"});
    let request = message(&json!(1), "tools/call", call.clone());
    for turn in 0..3 {
        until("hosts of both eras are answered", seconds(20), async || {
            let new = body(&send(gate.front(), &request).await);
            let old = host.request("tools/call", call.clone()).await;
            let is_fine = new["result"]["content"][0]["text"].is_string() && old.code().is_none();
            is_fine.then_some(())
        })
        .await;
        server.kill().await.unwrap();
        server = if turn % 2 == 0 {
            legacy_remote(port).await
        } else {
            modern().await
        };
    }
    gate.stop().await;
}

/// R-400: an address that a server names is nobody's configuration.
#[tokio::test]
async fn a_server_cannot_send_chillgate_elsewhere() {
    let (came, elsewhere) = trap().await;
    for status in [
        "301 Moved Permanently",
        "302 Found",
        "307 Temporary Redirect",
        "308 Permanent Redirect",
    ] {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let at = listener.local_addr().unwrap();
        let head =
            format!("HTTP/1.1 {status}\r\nlocation: {elsewhere}/mcp\r\ncontent-length: 0\r\n\r\n");
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let head = head.clone();
                tokio::spawn(async move {
                    let mut buffer = vec![0; 64 << 10];
                    while let Ok(1..) = stream.read(&mut buffer).await {
                        if stream.write_all(head.as_bytes()).await.is_err() {
                            return;
                        }
                    }
                });
            }
        });
        for era in ["auto", "legacy", "modern"] {
            let table = format!("[server.r]\nurl = \"http://{at}/mcp\"\nera = \"{era}\"\n");
            let gate = Gate::with(&table).start().await;
            let call = message(&json!(1), "tools/call", json!({"name": "echo"}));
            let answer = body(&send(gate.front(), &call).await);
            let why = answer["error"]["message"].as_str().unwrap_or_default();
            let code = &status[..3];
            assert!(why.contains(code), "{era}: {answer}");
            gate.stop().await;
        }
    }
    assert_eq!(came.load(Ordering::Relaxed), 0);
}

/// R-403.
#[tokio::test]
async fn no_schema_is_fetched() {
    let (came, elsewhere) = trap().await;
    let server = Recorder::start().await;
    let far = json!({"$ref": format!("{elsewhere}/schema.json")});
    server.offer(json!([{
        "name": "deploy",
        "inputSchema": {"$schema": format!("{elsewhere}/dialect"), "type": "object", "allOf": [far],
            "properties": {"region": {"type": "string", "x-mcp-header": "Region"}, "far": far}},
        "outputSchema": {"type": "object", "properties": {"far": far}},
        "icons": [{"src": format!("{elsewhere}/icon.png")}],
    }]));
    let gate = Gate::with(&server.table("r")).start().await;
    let host = gate.host().open().await;
    let listed = host.request("tools/list", json!({})).await;
    let listed: &Value = &listed.result()["tools"][0];
    assert_eq!(listed["inputSchema"]["properties"]["far"], far);
    let call = json!({"name": "deploy", "arguments": {"far": 1}});
    host.request("tools/call", call.clone()).await.result();
    let answer = send(gate.front(), &message(&json!(1), "tools/call", call)).await;
    assert_eq!(body(&answer)["error"], Value::Null, "{}", answer.text());
    assert_eq!(came.load(Ordering::Relaxed), 0);
    gate.stop().await;
}
