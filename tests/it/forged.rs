//! What a client says of who it is and where it comes from, in words that are not its to say.
//!
//! It stands apart because nothing here is refused for its form: the words are simply not heard,
//! and go no further. The server is a bare socket, so that every byte that reached it can be
//! searched for them; a child's ledger is searched as well.

use serde_json::{Value, json};

use chillgate_tests::gate::bare;
use chillgate_tests::http::request;
use chillgate_tests::modern::{body, fields, message};
use chillgate_tests::wait::{seconds, within};
use chillgate_tests::{Gate, Recorder};

use crate::headers_agree::{reached, servers};

/// Stands in everything that must not arrive.
const CANARY: &str = "canary-7d1f";

/// Fields by which some gateways believe their clients, each saying that this is somebody else.
fn spoofed() -> Vec<(&'static str, String)> {
    let names = [
        "x-chillgate-agent",
        "x-chillgate-identity",
        "x-chillgate-held",
        "x-chillgate-session",
        "x-chillgate-key",
        "x-agent",
        "x-agent-name",
        "x-user",
        "x-user-id",
        "x-remote-user",
        "remote-user",
        "x-auth-request-user",
        "x-forwarded-user",
        "x-forwarded-email",
        "x-forwarded-for",
        "x-forwarded-host",
        "x-forwarded-proto",
        "x-forwarded-port",
        "x-forwarded-prefix",
        "x-forwarded-uri",
        "x-forwarded-client-cert",
        "x-real-ip",
        "x-original-url",
        "x-rewrite-url",
        "x-http-method-override",
        "x-envoy-peer-metadata",
        "via",
        "true-client-ip",
        "x-authenticated-userid",
        "tracestate",
        "x-mcp-agent",
        "mcp-agent-id",
        "proxy-authorization",
        "cookie",
    ];
    let mut all: Vec<_> = names.map(|name| (name, format!("boss-{CANARY}"))).to_vec();
    all.push(("forwarded", format!("for=boss-{CANARY};host=boss-{CANARY}")));
    all.push((
        "baggage",
        format!("agent=boss-{CANARY},user.id=boss-{CANARY}"),
    ));
    all.push(("last-event-id", format!("boss-{CANARY}")));
    all
}

/// Only the boss may; and who is the boss is said by one field alone.
fn policies() -> String {
    format!(
        "[identity]\nheader = \"x-agent-id\"\n[[policy]]\ntype = \"access\"\nmatch = {{ agent = \"intern\" }}\n\
         deny = [\"*__delete_all\"]\n[[policy]]\ntype = \"access\"\nmatch = {{ agent = \"*{CANARY}*\" }}\nallow = [\"*\"]\n"
    )
}

fn legacy(name: &str, meta: &Value) -> Value {
    let params = json!({"name": name, "arguments": {"message": "m"}, "_meta": meta});
    json!({"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": params})
}

fn modern(name: &str, meta: &Value) -> Value {
    let params = json!({"name": name, "arguments": {"message": "m"}, "_meta": meta});
    message(&json!(1), "tools/call", params)
}

/// R-303, R-404: before servers of both eras and a remote one, with all of the fields at once and
/// with each alone.
#[tokio::test]
async fn nobody_is_believed_for_a_field_that_is_not_the_configured_one() {
    let remote = Recorder::start().await;
    remote.offer(json!([{"name": "echo", "inputSchema": {"type": "object"}}, {"name": "delete_all", "inputSchema": {"type": "object"}}]));
    let mut tables: Vec<_> = servers()
        .map(|(era, server, keys)| (era, server.table(keys)))
        .to_vec();
    tables.push(("remote", remote.table("a")));
    for (era, table) in tables {
        let gate = Gate::with(&(table + &policies())).audited().start().await;
        let host = gate.host().header("x-agent-id", "intern").open().await;
        let session = host.session().unwrap();
        let all = spoofed();
        let mut sets: Vec<_> = all.chunks(1).collect();
        sets.push(&all);
        let mut calls = 0;
        for set in sets {
            for (name, is_hidden) in [("delete_all", true), ("echo", false)] {
                let none = json!({});
                for sent in [legacy(name, &none), modern(name, &none)] {
                    let mut head = fields(&sent);
                    if sent["params"]["_meta"] == none {
                        head.retain(|(name, _)| !name.starts_with("mcp-"));
                        head.push(("mcp-session-id", session));
                    }
                    head.push(("x-agent-id", "intern"));
                    head.extend(set.iter().map(|(name, value)| (*name, value.as_str())));
                    let answer =
                        request(gate.front(), "POST", "/mcp", &head, sent.to_string()).await;
                    let said = body(&answer);
                    assert_eq!(
                        said["error"].is_object(),
                        is_hidden,
                        "{era} {set:?}: {said}"
                    );
                    if is_hidden {
                        assert_eq!(
                            said["error"]["message"], "Unknown tool: delete_all",
                            "{era}"
                        );
                    }
                    calls += 1;
                }
            }
        }
        let records = gate.records_when("all of them", |records| {
            let sums = records.of("method", "tools/call").sums();
            sums.admitted + sums.refused == calls
        });
        let records = records.await;
        let own = records
            .of("method", "tools/call")
            .of("agent", "intern")
            .sums();
        assert_eq!((own.admitted, own.refused), (calls / 2, calls / 2), "{era}");
        for heard in remote.all() {
            let whole = [heard.head, heard.body].concat();
            let text = String::from_utf8_lossy(&whole).to_lowercase();
            assert!(
                !text.contains(CANARY) && !text.contains("intern"),
                "{era}: {text}"
            );
        }
        let ledger = gate.heard("a").lines().join("\n");
        assert!(
            !ledger.contains(CANARY) && !ledger.contains("intern"),
            "{era}: {ledger}"
        );
    }
}

/// Keys of chillgate's own come from chillgate alone: in requests, batches, notifications and what
/// hosts answer, however they are spelled.
#[tokio::test]
async fn keys_of_chillgates_own_come_from_no_host_in_any_message() {
    let own = format!(
        r#"{{"dev.chillgate/agent":"{CANARY}","dev.chillgate/held":"{CANARY}","dev.chillgate\/a":"{CANARY}","\u0064ev.chillgate/b":"{CANARY}","com.example/kept":"yes"}}"#
    );
    let meta: Value = serde_json::from_str(&own).unwrap();
    for (era, server, keys) in servers() {
        let gate = Gate::with(&server.table(keys)).start().await;
        let host = gate
            .host()
            .revision("2025-03-26")
            .open_with(json!({"roots": {}}))
            .await
            .0;
        let bare = |object: &str| object[1..object.len() - 1].to_owned();
        let spelled = |sent: &Value| {
            // The modern keys stand in the same object.
            let text = sent.to_string();
            let (from, to) = (bare(&meta.to_string()), bare(&own));
            assert!(text.contains(&from), "{text}");
            text.replace(&from, &to)
        };
        host.post_bytes(spelled(&legacy("echo", &meta)).into())
            .await
            .result();
        let sent = modern("echo", &meta);
        let answer = request(gate.front(), "POST", "/mcp", &fields(&sent), spelled(&sent)).await;
        assert_eq!(answer.status, 200, "{era}");
        host.post(&json!([legacy("echo", &meta)])).await;
        for method in ["notifications/roots/list_changed", "notifications/x"] {
            assert_eq!(host.notify(method, Some(json!({"_meta": meta}))).await, 202);
        }
        // So do answers: it asks its host where that can be done.
        let call = host.message("tools/call", Some(json!({"name": "roots"})));
        let mut events = host.stream(&call).await;
        let asked = within("the question", seconds(10), events.message())
            .await
            .unwrap();
        host.respond(&asked["id"], json!({"roots": [], "_meta": meta}))
            .await;
        let answer = within("the answer", seconds(10), events.message())
            .await
            .unwrap();
        assert!(answer["result"].is_object(), "{answer}");
        let ledger = gate.heard("a").lines().join("\n");
        assert!(ledger.contains("com.example/kept"), "{era}: {ledger}");
        assert!(!ledger.contains(CANARY), "{era}: {ledger}");
        assert!(reached(&gate) >= 4, "{era}");
    }
}

/// R-040: 30 addresses and pages, for requests of both eras, before anybody is asked who he is.
#[tokio::test]
async fn a_foreign_page_or_address_is_refused_before_the_key_is_looked_at() {
    let key = bare().args(["key", "agent-a"]).output().await.unwrap();
    let key = String::from_utf8(key.stdout).unwrap();
    let hash = key
        .lines()
        .find(|line| line.contains("sha256:"))
        .unwrap()
        .trim();
    for (era, server, keys) in servers() {
        let gate = Gate::with(&(server.table(keys) + &format!("[identity.api-keys]\n{hash}\n")))
            .start()
            .await;
        let port = gate.front().port();
        let hosts = [
            "evil.example",
            "evil.example:80",
            "localhost.evil.example",
            "127.0.0.1.evil.example",
            "127.0.0.1.nip.io",
            "evil.example:PORT",
            "localhost.evil.example:PORT",
            "evillocalhost:PORT",
            "169.254.169.254:PORT",
            "0.0.0.0.evil.example:PORT",
            "127.0.0.1@evil.example:PORT",
            "[::ffff:7f00:1].evil.example:PORT",
        ];
        let pages = [
            "null",
            "http://evil.example",
            "https://evil.example",
            "http://evil.example:PORT",
            "http://localhost.evil.example",
            "http://localhost.evil.example:PORT",
            "http://127.0.0.1.evil.example:PORT",
            "http://evil.example/127.0.0.1:PORT",
            "http://evil.example#127.0.0.1:PORT",
            "http://127.0.0.1:PORT@evil.example",
            "http://127.0.0.1:PORT.evil.example",
            "file://",
            "chrome-extension://abcdef",
            "data:",
            "http://evillocalhost:PORT",
            "http://127.0.0.1.nip.io:PORT",
            "http://169.254.169.254",
            "evil",
        ];
        let rows = hosts
            .map(|host| ("host", host))
            .into_iter()
            .chain(pages.map(|page| ("origin", page)));
        let rows: Vec<_> = rows
            .map(|(name, value)| (name, value.replace("PORT", &port.to_string())))
            .collect();
        assert_eq!(rows.len(), 30);
        for (name, value) in &rows {
            for sent in [legacy("echo", &json!({})), modern("echo", &json!({}))] {
                let mut head = fields(&sent);
                head.push((name, value));
                // Who would be believed behind a proxy is not here.
                head.push(("x-forwarded-host", "127.0.0.1"));
                let answer = request(gate.front(), "POST", "/mcp", &head, sent.to_string()).await;
                assert_eq!(
                    answer.status,
                    403,
                    "{era} {name}: {value}: {}",
                    answer.text()
                );
            }
        }
        let asked = modern("echo", &json!({}));
        let answer = request(
            gate.front(),
            "POST",
            "/mcp",
            &fields(&asked),
            asked.to_string(),
        )
        .await;
        assert_eq!(answer.status, 401, "a good address, but no key");
        assert_eq!(reached(&gate), 0, "{era}: it reached the server");
    }
}
