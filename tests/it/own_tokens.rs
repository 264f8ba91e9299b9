//! Tokens of chillgate's own towards a server: got from an issuer, made out for that server, renewed in
//! time, and no host's.
//!
//! The server that judges them is a second gateway, by the keys of the issuer; what arrives byte by byte
//! is recorded by a server that judges nothing.

use std::time::Duration;

use chillgate_tests::{Gate, Host, Issuer, Recorder};
use serde_json::{Value, json};

use crate::mock;

const SECRET: &str = "s3cret:%+ü";

fn token(issuer: &Issuer, name: &str) -> String {
    format!(
        "[server.{name}.token]\nendpoint = \"{}/token\"\nclient-id = \"gate way\"\n\
         client-secret = \"file:@DIR@/secret\"\nscopes = [\"mcp\"]\n",
        issuer.name()
    )
}

/// A server that lets nobody in but with a token for its own address.
async fn guarded(issuer: &Issuer) -> Gate {
    let tables = mock("a").table("")
        + &format!(
            "[identity]\n[identity.jwt]\nissuer = \"{name}\"\njwks = \"{name}/jwks\"\naudience = []\n",
            name = issuer.name()
        );
    let port = chillgate_tests::process::free_port();
    let resource = format!("http://127.0.0.1:{port}");
    let tables = tables.replace(
        "[identity]\n",
        &format!("[identity]\nresource = \"{resource}\"\n"),
    );
    Gate::with(&tables).audited().start().await
}

async fn in_front(issuer: &Issuer, url: &str, resource: &str, secret: &str) -> Gate {
    let tables = format!(
        "[server.far]\nurl = \"{url}\"\n{}resource = \"{resource}\"\n",
        token(issuer, "far")
    );
    Gate::with(&tables)
        .file("secret", &format!("{secret}\n"))
        .start()
        .await
}

/// Where the guarded gateway says it is.
async fn resource_of(gate: &Gate) -> String {
    let path = "/.well-known/oauth-protected-resource/mcp";
    let said = chillgate_tests::http::get(gate.front(), path).await.text();
    let said: Value = serde_json::from_str(&said).unwrap();
    said["resource"].as_str().unwrap().to_owned()
}

async fn call(host: &Host) -> Value {
    host.call("echo", json!({ "message": "x" }))
        .await
        .answer()
        .clone()
}

#[tokio::test]
async fn a_server_is_shown_a_token_for_itself_which_is_renewed_and_asked_for_once() {
    let issuer = Issuer::start().await;
    let server = guarded(&issuer).await;
    let resource = resource_of(&server).await;
    let gate = in_front(&issuer, &server.url("/mcp"), &resource, SECRET).await;
    let host = gate.host().open().await;
    for _ in 0..5 {
        let answer = call(&host).await;
        assert_eq!(answer["result"]["content"][0]["text"], "x", "{answer}");
    }
    // Whichever era the server was tried in first.
    let asked = issuer.count("tokens").await;
    assert_eq!(asked, 1);
    server
        .records_when("the agent by its token", |records| {
            !records.of("agent", "gate way").is_empty()
        })
        .await;
    // One that the server does not take is replaced, and the call goes through.
    issuer.set(json!({ "wrong": 1, "lasts": 1 })).await;
    let gate = in_front(&issuer, &server.url("/mcp"), &resource, SECRET).await;
    let host = gate.host().open().await;
    let answer = call(&host).await;
    assert_eq!(answer["result"]["content"][0]["text"], "x", "{answer}");
    assert!(issuer.count("tokens").await > asked + 1);
    let asked = issuer.count("tokens").await;
    // One that ends is renewed before it does.
    tokio::time::sleep(Duration::from_millis(700)).await;
    call(&host).await;
    assert!(issuer.count("tokens").await > asked);
}

#[tokio::test]
async fn an_issuer_that_refuses_is_told_of_without_the_secret() {
    let issuer = Issuer::start().await;
    let server = guarded(&issuer).await;
    let resource = resource_of(&server).await;
    for (secret, mode, said) in [
        ("wrong-secret-Zq9", "ok", "invalid_client"),
        (SECRET, "down", "no answer of an issuer"),
    ] {
        issuer.set(json!({ "mode": mode })).await;
        let gate = in_front(&issuer, &server.url("/mcp"), &resource, secret).await;
        let host = gate.host().open().await;
        let answer = call(&host).await;
        assert_eq!(
            answer["error"]["data"]["type"], "chillgate/server-down",
            "{answer}"
        );
        assert!(answer.to_string().contains(said), "{answer}");
        let all = format!("{answer}{}", gate.log().join("\n"));
        assert!(!all.contains(secret), "{all}");
    }
}

#[tokio::test]
async fn what_a_host_shows_never_travels_on() {
    let issuer = Issuer::start().await;
    let recorder = Recorder::start().await;
    let tables = recorder.table("far")
        + &token(&issuer, "far")
        + &format!(
            "[identity.jwt]\nissuer = \"{name}\"\naudience = \"chillgate\"\njwks = \"{name}/jwks\"\n",
            name = issuer.name()
        );
    let gate = Gate::with(&tables).file("secret", SECRET).start().await;
    let own = issuer.token(json!({ "canary": "Zq9-canary" })).await;
    let host = gate
        .host()
        .header("authorization", &format!("Bearer {own}"))
        .header("cookie", "a=Zq9-cookie")
        .open()
        .await;
    call(&host).await;
    let seen = recorder.take("tools/call");
    assert!(!seen.is_empty());
    for request in seen {
        let shown = request.field("authorization");
        assert_eq!(shown.len(), 1, "one credential");
        let shown = String::from_utf8_lossy(&shown[0]).into_owned();
        assert!(
            shown.starts_with("Bearer ") && !shown.contains(&own),
            "{shown}"
        );
        let text = request.text();
        let signature = own.rsplit('.').next().unwrap();
        assert!(
            !text.contains(signature) && !text.contains("Zq9-cookie"),
            "{text}"
        );
    }
}
