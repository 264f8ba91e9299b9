//! A host's credentials end at chillgate: not a byte of them reaches a server, by whichever transport
//! the host comes and whichever way the server is reached, nor a process, a log or a record.
//!
//! It stands apart from the rows about what chillgate shows servers itself: here servers are shown
//! nothing, and everything that reached them is searched for what hosts have sent.

use std::fs::read;
use std::path::Path;

use serde_json::{Value, json};

use chillgate_tests::http::{Connection, request};
use chillgate_tests::ledger::{Ledger, Way};
use chillgate_tests::modern::{body, fields, message};
use chillgate_tests::sse::Events;
use chillgate_tests::wait::{seconds, within};
use chillgate_tests::{Gate, Issuer};

use crate::mock;

/// What a host sends besides its token, each with a canary of its own.
const MORE: [(&str, &str); 8] = [
    ("cookie", "session=Zq9-cookie; other=Zq9-other"),
    ("cookie2", "Zq9-cookie2"),
    ("proxy-authorization", "Basic Zq9-proxy"),
    ("x-api-key", "Zq9-api-key"),
    ("x-auth-token", "Zq9-auth-token"),
    ("x-amz-security-token", "Zq9-amz"),
    ("x-forwarded-access-token", "Zq9-forwarded"),
    ("dpop", "Zq9-dpop"),
];

struct Gateway {
    gate: Gate,
    ledger: Ledger,
    issuer: Issuer,
}

const SERVERS: [&str; 6] = ["child", "newer", "legacy", "modern", "sse", "chill"];

async fn gateway() -> Gateway {
    let (issuer, ledger) = (Issuer::start().await, Ledger::start().await);
    let newer = mock("newer").ledger().flags(&["--eras", "modern"]);
    let mut tables = mock("child").ledger().table("") + &newer.table("era = \"modern\"");
    for (name, way) in [
        ("legacy", Way::Legacy),
        ("modern", Way::Modern),
        ("sse", Way::Sse),
    ] {
        tables += &ledger.table(name, way);
    }
    let identity = format!(
        "[server.chill]\nbuiltin = \"chill\"\n[identity]\n\
         api-keys = {{ keyed = \"sha256:010cd608f066f243240a40824e9acb819ac4ea8061a7e06795a93003f82b3895\" }}\n\
         [identity.jwt]\nissuer = \"{name}\"\njwks = \"{name}/jwks\"\naudience = \"chillgate\"\n",
        name = issuer.name()
    );
    let gate = Gate::with(&(tables + &identity))
        .env("RUST_LOG", "trace")
        .audited()
        .start()
        .await;
    Gateway {
        gate,
        ledger,
        issuer,
    }
}

fn tool(server: &str) -> (String, Value) {
    match server {
        "chill" => ("take_a_break".to_owned(), json!({})),
        _ => ("echo".to_owned(), json!({ "message": "m" })),
    }
}

impl Gateway {
    /// One host of each kind calls each server; what came back.
    async fn calls(&self, bearer: &str) -> Vec<String> {
        let mut heard = Vec::new();
        for server in SERVERS {
            let (name, arguments) = tool(server);
            let path = format!("/server/{server}/mcp");
            let mut host = self.gate.host().path(&path).header("authorization", bearer);
            for (name, value) in MORE {
                host = host.header(name, value);
            }
            let host = host.open().await;
            let _stream = host.listen().await;
            let said = host.call(&name, arguments.clone()).await;
            assert!(said.answer()["result"].is_object(), "{server}: {said:?}");
            heard.push(said.answer().to_string());
            heard.push(
                host.request("tools/list", json!({}))
                    .await
                    .answer()
                    .to_string(),
            );
            host.leave().await;

            let call = json!({ "name": name, "arguments": arguments });
            let call = message(&json!(1), "tools/call", call);
            let mut sent = fields(&call);
            sent.push(("authorization", bearer));
            sent.extend(MORE);
            let front = self.gate.front();
            let said = body(&request(front, "POST", &path, &sent, call.to_string()).await);
            assert!(said["result"].is_object(), "{server}: {said}");
            heard.push(said.to_string());
            heard.push(self.by_stream(server, bearer, &call).await.to_string());
        }
        heard
    }

    /// The same over HTTP+SSE.
    async fn by_stream(&self, server: &str, bearer: &str, call: &Value) -> Value {
        let mut connection = Connection::open(self.gate.front()).await;
        let mut head = vec![("accept", "text/event-stream"), ("authorization", bearer)];
        head.extend(MORE);
        let path = format!("/server/{server}/sse");
        let response = connection
            .send("GET", &path, &head, bytes::Bytes::new())
            .await;
        let mut events = Events::new(response.into_body());
        let first = within("the endpoint", seconds(10), events.next()).await;
        let to = first.unwrap().data;
        head.push(("content-type", "application/json"));
        let client = json!({ "name": "old", "version": "1" });
        let hello =
            json!({ "protocolVersion": "2024-11-05", "capabilities": {}, "clientInfo": client });
        let mut call = call.clone();
        call["params"].as_object_mut().unwrap().remove("_meta");
        call["id"] = json!(2);
        let hello = json!({ "jsonrpc": "2.0", "id": 1, "method": "initialize", "params": hello });
        let ready = json!({ "jsonrpc": "2.0", "method": "notifications/initialized" });
        let mut last = Value::Null;
        for said in [hello, ready, call] {
            let sent = request(self.gate.front(), "POST", &to, &head, said.to_string()).await;
            assert_eq!(sent.status, 202, "{server}: {}", sent.text());
            if said["id"].is_number() {
                let own = |answer: &Value| answer["id"] == said["id"];
                last = within("the answer", seconds(20), events.find("the answer", own)).await;
            }
        }
        assert!(last["result"].is_object(), "{server}: {last}");
        last
    }
}

/// The environment and the words of a process and of all that it has started.
fn processes(pid: u32, found: &mut Vec<u8>) {
    let at = Path::new("/proc").join(pid.to_string());
    for file in ["environ", "cmdline"] {
        found.extend(read(at.join(file)).unwrap_or_default());
        found.push(b'\n');
    }
    let tasks = std::fs::read_dir(at.join("task")).into_iter().flatten();
    for task in tasks.flatten() {
        let children = std::fs::read_to_string(task.path().join("children"));
        for child in children.unwrap_or_default().split_ascii_whitespace() {
            processes(child.parse().unwrap(), found);
        }
    }
}

#[tokio::test]
async fn not_a_byte_of_a_hosts_credential_goes_further() {
    let gateway = gateway().await;
    let token = gateway.issuer.token(json!({ "jti": "Zq9-claim" })).await;
    let mut all = Vec::new();
    for bearer in [
        format!("Bearer {token}"),
        "Bearer Zq9-key-of-bot".to_owned(),
    ] {
        for said in gateway.calls(&bearer).await {
            all.push(("an answer", said.into_bytes()));
        }
        let mut found = Vec::new();
        processes(gateway.gate.pid(), &mut found);
        assert!(String::from_utf8_lossy(&found).contains("mock-server"));
        all.push(("a process", found));
    }
    let heard = gateway.ledger.all().await;
    for way in ["/mcp", "/modern", "/messages"] {
        let calls = heard
            .iter()
            .filter(|entry| entry.is_at(way) && entry.message()["method"] == "tools/call");
        // Three kinds of hosts, each with both credentials.
        assert_eq!(calls.count(), 6, "{way}");
    }
    all.extend(
        heard
            .iter()
            .map(|entry| ("a server", entry.text().into_bytes())),
    );
    for child in ["child", "newer"] {
        let heard = gateway.gate.heard(child);
        assert_eq!(heard.calls(), 6, "{child}");
        all.push(("a child", heard.lines().join("\n").into_bytes()));
    }
    all.push(("the log", gateway.gate.log().join("\n").into_bytes()));
    let metrics = chillgate_tests::http::get(gateway.gate.health(), "/metrics").await;
    all.push(("the metrics", metrics.text().into_bytes()));
    let (status, folder) = gateway.gate.stop().await;
    assert!(status.success());
    let records = read(folder.path().join("audit.jsonl")).unwrap();
    assert!(records.len() > 1_000);
    all.push(("a record", records));
    // Each part of the token for itself, and everything that was sent besides.
    let parts = token
        .split('.')
        .map(|part| part[part.len() / 2..].to_owned());
    let canaries: Vec<String> = parts.chain(["Zq9-".to_owned()]).collect();
    for (what, bytes) in all {
        for canary in &canaries {
            let is_there = bytes
                .windows(canary.len())
                .any(|part| part == canary.as_bytes());
            let text = String::from_utf8_lossy(&bytes);
            assert!(!is_there, "{canary} in {what}: {text}");
        }
    }
}
