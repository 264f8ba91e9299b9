//! Tokens that servers are shown in exchange for those of hosts (RFC 8693): each host's own, for that
//! server alone, and nothing at all where there is none.
//!
//! The issuer is made with a library that chillgate has not got; the server keeps what reaches it. The
//! same tables run over each transport towards servers.

use std::net::SocketAddr;
use std::process::Stdio;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use chillgate_tests::gate::{bare, ended};
use chillgate_tests::http;
use chillgate_tests::issuer::now;
use chillgate_tests::ledger::{Entry, Ledger, Way};
use chillgate_tests::modern::{fields, message};
use chillgate_tests::process::command;
use chillgate_tests::script::{interop, python};
use chillgate_tests::{Gate, Host, Issuer};
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt as _, BufReader};

use crate::mock;

const SECRET: &str = "s3cret:%+ü";
const WAYS: [Way; 3] = [Way::Legacy, Way::Modern, Way::Sse];
const RESOURCE: &str = "https://far.example/mcp";

fn identity(issuer: &Issuer) -> String {
    format!(
        "[identity]\napi-keys = {{ keyed = \"sha256:9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08\" }}\n\
         [identity.jwt]\nissuer = \"{name}\"\naudience = \"chillgate\"\njwks = \"{name}/jwks\"\n",
        name = issuer.name()
    )
}

fn exchange(issuer: &Issuer, resource: &str) -> String {
    format!(
        "[server.far.token]\nendpoint = \"{}/token\"\nclient-id = \"gate way\"\n\
         client-secret = \"file:@DIR@/secret\"\nexchange = true\nscopes = [\"mcp\"]\nresource = \"{resource}\"\n",
        issuer.name()
    )
}

async fn gate(issuer: &Issuer, server: &str) -> Gate {
    let tables = format!("{server}{}{}", exchange(issuer, RESOURCE), identity(issuer));
    Gate::with(&tables)
        .file("secret", &format!("{SECRET}\n"))
        .audited()
        .start()
        .await
}

async fn bearer(issuer: &Issuer, claims: Value) -> String {
    format!("Bearer {}", issuer.token(claims).await)
}

async fn host(gate: &Gate, bearer: &str) -> Host {
    let host = gate.host().header("authorization", bearer);
    host.open().await
}

async fn call(host: &Host, text: &str) -> Value {
    let reply = host.call("echo", json!({ "message": text })).await;
    reply.answer().clone()
}

/// A call of a modern host.
async fn modern(gate: &Gate, bearer: &str, text: &str) -> Value {
    let params = json!({ "name": "echo", "arguments": { "message": text } });
    let message = message(&json!(1), "tools/call", params);
    let mut all = fields(&message);
    all.push(("authorization", bearer));
    let answer = http::request(gate.front(), "POST", "/mcp", &all, message.to_string()).await;
    chillgate_tests::modern::body(&answer)
}

fn text(answer: &Value) -> &str {
    answer["result"]["content"][0]["text"]
        .as_str()
        .unwrap_or_else(|| panic!("no text: {answer}"))
}

/// The calls among what a server has heard, by their text.
fn calls(all: &[Entry]) -> Vec<(String, &Entry)> {
    let calls = all
        .iter()
        .map(|entry| (entry.message(), entry))
        .filter(|(message, _)| message["method"] == "tools/call");
    calls
        .map(|(message, entry)| {
            let text = &message["params"]["arguments"]["message"];
            (text.as_str().unwrap_or_default().to_owned(), entry)
        })
        .collect()
}

/// A refusal for one host: its kind and its words.
fn refused<'a>(answer: &'a Value, says: &str) -> &'a str {
    assert_eq!(answer["error"]["code"], 40_100, "{answer}");
    let data = &answer["error"]["data"];
    assert_eq!(data["type"], "chillgate/server-token", "{answer}");
    assert_eq!(data["retryable"], false, "{answer}");
    let words = answer["error"]["message"].as_str().unwrap_or_default();
    assert!(words.contains(says), "{words}");
    words
}

#[tokio::test]
async fn each_host_reaches_a_server_with_a_token_of_its_own_for_that_server() {
    for way in WAYS {
        let (issuer, ledger) = (Issuer::start().await, Ledger::start().await);
        let gate = gate(&issuer, &ledger.table("far", way)).await;
        let (ann, eve) = (
            bearer(&issuer, json!({ "sub": "ann" })).await,
            bearer(&issuer, json!({ "sub": "eve" })).await,
        );
        let hosts = [
            ("ann", host(&gate, &ann).await),
            ("eve", host(&gate, &eve).await),
            ("ann", host(&gate, &ann).await),
        ];
        for round in 0..20 {
            let all = hosts.iter().map(async |(name, host)| {
                let said = format!("{name} {round}");
                assert_eq!(text(&call(host, &said).await), said, "{way:?}");
            });
            futures_util::future::join_all(all).await;
            for (name, bearer) in [("ann", &ann), ("eve", &eve)] {
                let said = format!("{name} modern {round}");
                assert_eq!(text(&modern(&gate, bearer, &said).await), said, "{way:?}");
            }
        }
        let all = ledger.all().await;
        let heard = calls(&all);
        assert_eq!(heard.len(), 100, "{way:?}");
        for (said, entry) in heard {
            let (name, _) = said.split_once(' ').unwrap();
            let claims = entry.claims();
            assert_eq!(claims["sub"], name, "{way:?}: another's token: {said}");
            assert_eq!(claims["aud"], RESOURCE, "{way:?}");
            assert_eq!(claims["act"]["sub"], "gate way", "{way:?}");
            assert_eq!(claims["scope"], "mcp", "{way:?}");
        }
        for entry in &all {
            // Whatever else is said, be it a handshake or a stream, is said for a host.
            assert_eq!(entry.claims()["aud"], RESOURCE, "{}", entry.text());
            for own in [&ann, &eve] {
                let signature = own.rsplit('.').next().unwrap();
                assert!(!entry.text().contains(signature), "{}", entry.text());
            }
        }
        assert_eq!(issuer.count("exchanges").await, 2, "{way:?}: one for each");
        assert_eq!(issuer.count("tokens").await, 2, "{way:?}: and no other");
    }
}

#[tokio::test]
async fn a_server_that_judges_lets_each_host_in_as_itself() {
    let issuer = Issuer::start().await;
    let port = chillgate_tests::process::free_port();
    let resource = format!("http://127.0.0.1:{port}");
    let name = issuer.name();
    let judging = mock("a").table("")
        + &format!(
            "[identity]\nresource = \"{resource}\"\n[identity.jwt]\nissuer = \"{name}\"\njwks = \"{name}/jwks\"\naudience = []\n"
        );
    let server = Gate::with(&judging).audited().start().await;
    let tables = format!(
        "[server.far]\nurl = \"{}\"\n{}{}",
        server.url("/mcp"),
        exchange(&issuer, &format!("{resource}/mcp")),
        identity(&issuer)
    );
    let gate = Gate::with(&tables).file("secret", SECRET).start().await;
    for name in ["ann", "eve"] {
        let bearer = bearer(&issuer, json!({ "sub": name })).await;
        let host = host(&gate, &bearer).await;
        assert_eq!(text(&call(&host, name).await), name);
        server
            .records_when("the call by its own agent", |records| {
                let own = records.of("agent", name);
                !own.of("method", "tools/call").is_empty()
            })
            .await;
    }
    // One that the server does not take is replaced, and the call goes through.
    issuer.set(json!({ "wrong": 1 })).await;
    let late = bearer(&issuer, json!({ "sub": "late" })).await;
    assert_eq!(text(&call(&host(&gate, &late).await, "x").await), "x");
    assert_eq!(issuer.count("exchanges").await, 4);
}

#[tokio::test]
async fn a_token_is_exchanged_once_for_all_calls_until_shortly_before_its_end() {
    let (issuer, ledger) = (Issuer::start().await, Ledger::start().await);
    let gate = gate(&issuer, &ledger.table("far", Way::Modern)).await;
    issuer.set(json!({ "delay": 500 })).await;
    let token = bearer(&issuer, json!({ "sub": "ann", "scope": "a" })).await;
    let at_once = (0..30).map(async |number| modern(&gate, &token, &number.to_string()).await);
    for answer in futures_util::future::join_all(at_once).await {
        text(&answer);
    }
    assert_eq!(issuer.count("exchanges").await, 1, "many at once");
    issuer.set(json!({ "delay": 0 })).await;
    // Renewed, it says the same: its times and its number are nobody's business.
    let times = json!({ "sub": "ann", "scope": "a", "exp": now() + 300, "iat": now(), "jti": "2" });
    text(&modern(&gate, &bearer(&issuer, times).await, "renewed").await);
    assert_eq!(issuer.count("exchanges").await, 1, "a renewed token");
    // One that says less, or something else, is another.
    for (number, claims) in [
        json!({ "sub": "ann", "scope": "b" }),
        json!({ "sub": "ann", "scope": "a", "azp": "other" }),
        json!({ "sub": "ann", "scope": "a", "realm": { "roles": ["x"] } }),
    ]
    .into_iter()
    .enumerate()
    {
        let said = claims.to_string();
        text(&modern(&gate, &bearer(&issuer, claims).await, "other").await);
        let asked = issuer.count("exchanges").await;
        assert_eq!(asked, 2 + number as u64, "{said}");
    }
    // It is used no longer than half of a short life.
    issuer.set(json!({ "lasts": 2 })).await;
    let token = bearer(&issuer, json!({ "sub": "brief" })).await;
    text(&modern(&gate, &token, "1").await);
    text(&modern(&gate, &token, "2").await);
    assert_eq!(issuer.count("exchanges").await, 5);
    tokio::time::sleep(Duration::from_millis(1_300)).await;
    text(&modern(&gate, &token, "3").await);
    assert_eq!(issuer.count("exchanges").await, 6);
}

#[tokio::test]
async fn in_one_session_the_newest_token_counts() {
    for way in WAYS {
        let (issuer, ledger) = (Issuer::start().await, Ledger::start().await);
        let gate = gate(&issuer, &ledger.table("far", way)).await;
        let first = host(&gate, &bearer(&issuer, json!({ "scope": "a" })).await).await;
        text(&call(&first, "1").await);
        let newer = bearer(&issuer, json!({ "scope": "b" })).await;
        let mut second = gate.host().header("authorization", &newer).open().await;
        second.steal(first.session().unwrap());
        let before = issuer.count("exchanges").await;
        text(&call(&second, "2").await);
        assert_eq!(issuer.count("exchanges").await, before.max(2), "{way:?}");
        let all = ledger.all().await;
        let shown: Vec<_> = calls(&all)
            .into_iter()
            .map(|(_, entry)| entry.claims()["jti"].clone())
            .collect();
        assert_ne!(shown[0], shown[1], "{way:?}");
    }
}

#[tokio::test]
async fn what_is_wrong_with_one_hosts_token_is_no_others_business() {
    for way in WAYS {
        let (issuer, ledger) = (Issuer::start().await, Ledger::start().await);
        let gate = gate(&issuer, &ledger.table("far", way)).await;
        issuer.set(json!({ "unwilling": ["eve"] })).await;
        let (ann, eve) = (
            bearer(&issuer, json!({ "sub": "ann" })).await,
            bearer(&issuer, json!({ "sub": "eve" })).await,
        );
        let far = |bearer: &str| {
            gate.host()
                .path("/server/far/mcp")
                .header("authorization", bearer)
        };
        let good = host(&gate, &ann).await;
        // A host whose credential is no token, and one whose token the issuer exchanges for none.
        for (bearer, says) in [
            ("Bearer test", "this host has shown none"),
            (&eve, "invalid_grant"),
        ] {
            let merged = gate.host().header("authorization", bearer).open().await;
            assert_eq!(merged.tools().await, Vec::<String>::new(), "{way:?}");
            for answer in [
                call(&merged, "refused").await,
                modern(&gate, bearer, "refused").await,
            ] {
                let words = refused(&answer, says);
                assert!(!words.contains(&eve[20..60]), "{way:?}: {words}");
            }
            let hello = far(bearer).hello(&json!({}));
            let opened = far(bearer).post(&hello).await;
            refused(opened.answer(), says);
            assert_eq!(text(&call(&good, "good").await), "good", "{way:?}");
        }
        let ready = http::get(gate.health(), "/readyz").await;
        assert_eq!(ready.status, 200, "{}", ready.text());
        assert!(!ready.text().contains("down"), "{way:?}: {}", ready.text());
        for entry in ledger.all().await {
            assert_eq!(entry.claims()["sub"], "ann", "{way:?}: {}", entry.text());
        }
        // One whose token the server itself refuses.
        ledger.refuse(&["mal"]).await;
        let mal = bearer(&issuer, json!({ "sub": "mal" })).await;
        refused(
            &modern(&gate, &mal, "refused").await,
            "it refused the token",
        );
        assert_eq!(text(&call(&good, "good").await), "good", "{way:?}");
        assert_eq!(text(&modern(&gate, &ann, "good").await), "good", "{way:?}");
        let ready = http::get(gate.health(), "/readyz").await;
        assert!(!ready.text().contains("down"), "{way:?}: {}", ready.text());
        // Nothing of a token is written anywhere.
        let (status, folder) = gate.stop().await;
        assert!(status.success());
        let audit = std::fs::read_to_string(folder.path().join("audit.jsonl")).unwrap();
        for token in [&ann, &eve, &mal] {
            assert!(!audit.contains(&token[20..60]), "{way:?}");
        }
    }
}

#[tokio::test]
async fn an_issuer_that_fails_or_cheats_leads_to_no_request() {
    for (mode, says) in [
        ("down", "no answer of an issuer"),
        ("echo", "the host's own token"),
        ("saml", "not an access token"),
    ] {
        let (issuer, ledger) = (Issuer::start().await, Ledger::start().await);
        let gate = gate(&issuer, &ledger.table("far", Way::Modern)).await;
        let token = bearer(&issuer, json!({})).await;
        // Its keys stay what they are; only tokens are no longer to be had.
        text(
            &modern(
                &gate,
                &bearer(&issuer, json!({ "sub": "first" })).await,
                "x",
            )
            .await,
        );
        let heard = ledger.all().await.len();
        issuer.set(json!({ "mode": mode })).await;
        for _ in 0..5 {
            refused(&modern(&gate, &token, "x").await, says);
        }
        // Asked once, and not again at once.
        assert_eq!(issuer.count("exchanges").await, 2, "{mode}");
        assert_eq!(ledger.all().await.len(), heard, "{mode}");
        assert!(!gate.log().join("\n").contains(&token[20..60]), "{mode}");
        issuer.set(json!({ "mode": "ok" })).await;
        tokio::time::sleep(Duration::from_millis(2_100)).await;
        text(&modern(&gate, &token, "x").await);
    }
}

#[tokio::test]
async fn a_renewed_token_is_not_answered_with_the_refusal_of_the_one_before() {
    let (issuer, ledger) = (Issuer::start().await, Ledger::start().await);
    let gate = gate(&issuer, &ledger.table("far", Way::Modern)).await;
    issuer.set(json!({ "unwilling": ["agent-a"] })).await;
    let old = bearer(&issuer, json!({ "jti": "1" })).await;
    refused(&modern(&gate, &old, "x").await, "invalid_grant");
    issuer.set(json!({ "unwilling": [] })).await;
    let new = bearer(&issuer, json!({ "jti": "2" })).await;
    text(&modern(&gate, &new, "x").await);
}

/// Nobody is there in whose name it could be asked, which is nothing wrong.
#[tokio::test]
async fn the_doctor_does_not_visit_what_needs_a_hosts_token() {
    let (issuer, ledger) = (Issuer::start().await, Ledger::start().await);
    let folder = tempfile::tempdir().unwrap();
    let config = folder.path().join("chillgate.toml");
    let server = ledger.table("far", Way::Modern);
    let tables = format!(
        "{server}{}{}",
        exchange(&issuer, RESOURCE),
        identity(&issuer)
    );
    let tables = tables.replace("@DIR@", &folder.path().display().to_string());
    std::fs::write(&config, tables).unwrap();
    std::fs::write(folder.path().join("secret"), SECRET).unwrap();
    let mut doctor = bare();
    doctor.arg("doctor").arg("--config").arg(&config);
    let (_, said, wrong) = ended(doctor, 60).await;
    assert!(said.contains("is not visited: each host"), "{said}{wrong}");
    assert!(
        !said.contains("40100") && !said.contains("not available"),
        "{said}"
    );
    assert_eq!(ledger.all().await.len(), 0);
}

/// The grant is by a library of others: what it demands and how it answers is its own.
#[tokio::test]
async fn an_issuer_of_others_making_exchanges_what_chillgate_asks_it_to() {
    let mut process = command(python())
        .arg(interop().join("python/exchanger.py"))
        .arg(RESOURCE)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .expect("python is there");
    let out = process.stdout.take().expect("stdout is piped");
    let mut line = String::new();
    BufReader::new(out).read_line(&mut line).await.unwrap();
    let name = line.trim();
    let at: SocketAddr = name.strip_prefix("http://").unwrap().parse().unwrap();
    let ledger = Ledger::start().await;
    let identity = format!(
        "[identity.jwt]\nissuer = \"{name}\"\naudience = \"chillgate\"\njwks = \"{name}/jwks\"\n"
    );
    let token = |client: &str| {
        format!(
            "[server.far.token]\nendpoint = \"{name}/token\"\nclient-id = \"{client}\"\n\
             client-secret = \"the-secret-of-the-{client}\"\nexchange = true\nscopes = \"mcp\"\n\
             resource = \"{RESOURCE}\"\naudience = \"{RESOURCE}\"\n"
        )
    };
    let server = ledger.table("far", Way::Modern);
    let gate = Gate::with(&format!("{server}{}{identity}", token("gateway")))
        .start()
        .await;
    for user in ["ann", "eve"] {
        let own = http::get(at, &format!("/of/{user}")).await.text();
        let answer = modern(&gate, &format!("Bearer {own}"), user).await;
        assert_eq!(text(&answer), user);
        let all = ledger.all().await;
        let (_, entry) = calls(&all).pop().unwrap();
        let (theirs, claims) = (claims_of(&own), entry.claims());
        assert_eq!(claims["sub"], theirs["sub"]);
        assert_eq!(claims["iss"], name);
        // Made for the one that asked, and not the one that came.
        assert_eq!(theirs["client_id"], "host");
        assert_eq!(claims["client_id"], "gateway");
        assert!(!entry.text().contains(own.rsplit('.').next().unwrap()));
    }
    // A client that may not exchange, by its own words.
    let heard = ledger.all().await.len();
    let other = Gate::with(&format!("{server}{}{identity}", token("host")))
        .start()
        .await;
    let own = http::get(at, "/of/ann").await.text();
    refused(
        &modern(&other, &format!("Bearer {own}"), "x").await,
        "could not be exchanged",
    );
    assert_eq!(ledger.all().await.len(), heard);
}

fn claims_of(token: &str) -> Value {
    let claims = token.split('.').nth(1).unwrap();
    serde_json::from_slice(&URL_SAFE_NO_PAD.decode(claims).unwrap()).unwrap()
}
