//! Signed tokens: who is let in with one, who is not, and what whoever is turned away hears.
//!
//! The tokens are made by another library than the one that judges them. Each table runs against
//! one gate and says which row failed.

use std::net::SocketAddr;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use chillgate_tests::http::{self, Answer};
use chillgate_tests::issuer::now;
use chillgate_tests::{Gate, Host, Issuer, until};
use serde_json::{Value, json};
use tokio::time::Instant;

const HELLO: &str = r#"{"jsonrpc":"2.0","id":1,"method":"initialize","params":{"protocolVersion":"2025-11-25","capabilities":{},"clientInfo":{"name":"t","version":"1"}}}"#;

/// One `initialize` with this `Authorization`.
async fn ask(front: SocketAddr, authorization: Option<&str>) -> Answer {
    let mut headers = vec![
        ("content-type", "application/json"),
        ("accept", "application/json, text/event-stream"),
    ];
    headers.extend(authorization.map(|value| ("authorization", value)));
    http::request(front, "POST", "/mcp", &headers, HELLO).await
}

async fn status(gate: &Gate, token: &str) -> u16 {
    ask(gate.front(), Some(&format!("Bearer {token}")))
        .await
        .status
}

async fn gate_of(issuer: &Issuer, more: &str) -> Gate {
    let tables = format!(
        "[server.chill]\nbuiltin = \"chill\"\n[identity.jwt]\nissuer = \"{name}\"\n\
         audience = \"chillgate\"\njwks = \"{name}/jwks\"\n{more}",
        name = issuer.name()
    );
    Gate::with(&tables).audited().start().await
}

#[tokio::test]
async fn a_token_names_its_agent_and_a_bad_one_nobody() {
    let issuer = Issuer::start().await;
    let gate = gate_of(&issuer, "").await;
    let day = 86_400;
    let rows = [
        (json!({}), 200),
        (json!({ "key": "ec" }), 200),
        (json!({ "key": "ed" }), 200),
        (json!({ "key": "pss" }), 200),
        (json!({ "key": "p384" }), 200),
        (json!({ "header": { "typ": "at+jwt" } }), 200),
        (json!({ "header": { "typ": null } }), 200),
        // Without the name of a key, each key is tried with the algorithm that is its own.
        (json!({ "header": { "kid": null } }), 200),
        (json!({ "header": { "kid": null }, "key": "ec" }), 200),
        (json!({ "header": { "kid": null }, "key": "stranger" }), 401),
        // Its time: half a minute of grace either way.
        (json!({ "claims": { "exp": now() + 5 } }), 200),
        (json!({ "claims": { "exp": now() - 15 } }), 200),
        (json!({ "claims": { "exp": now() - 45 } }), 401),
        (json!({ "claims": { "exp": now() - day } }), 401),
        (json!({ "claims": { "exp": null } }), 401),
        (json!({ "claims": { "exp": "soon" } }), 401),
        (json!({ "claims": { "exp": -1 } }), 401),
        (json!({ "claims": { "exp": 0 } }), 401),
        (json!({ "claims": { "exp": 1e300 } }), 200),
        (json!({ "claims": { "nbf": now() + 15 } }), 200),
        (json!({ "claims": { "nbf": now() + 45 } }), 401),
        (json!({ "claims": { "nbf": now() + day } }), 401),
        (json!({ "claims": { "nbf": "now" } }), 401),
        (json!({ "claims": { "nbf": now() - day } }), 200),
        (
            json!({ "claims": { "nbf": now() - 1, "exp": now() + 1 } }),
            200,
        ),
        // For whom.
        (json!({ "claims": { "aud": ["other", "chillgate"] } }), 200),
        (json!({ "claims": { "aud": ["other"] } }), 401),
        (json!({ "claims": { "aud": [] } }), 401),
        (json!({ "claims": { "aud": null } }), 401),
        (json!({ "claims": { "aud": "" } }), 401),
        (json!({ "claims": { "aud": "Chillgate" } }), 401),
        (json!({ "claims": { "aud": "chillgate " } }), 401),
        (json!({ "claims": { "aud": { "0": "chillgate" } } }), 401),
        (json!({ "claims": { "aud": [["chillgate"]] } }), 401),
        // By whom.
        (json!({ "claims": { "iss": "https://other.example" } }), 401),
        (
            json!({ "claims": { "iss": format!("{}/", issuer.name()) } }),
            401,
        ),
        (json!({ "claims": { "iss": null } }), 401),
        (json!({ "claims": { "iss": [issuer.name()] } }), 401),
        (
            json!({ "claims": { "iss": issuer.name().to_uppercase() } }),
            401,
        ),
        // About whom.
        (json!({ "claims": { "sub": null } }), 401),
        (json!({ "claims": { "sub": "" } }), 401),
        (json!({ "claims": { "sub": "a\nb" } }), 401),
        (json!({ "claims": { "sub": "x".repeat(129) } }), 401),
        (json!({ "claims": { "sub": { "name": "a" } } }), 401),
        (
            json!({ "claims": { "sub": "system:serviceaccount:ns:bot" } }),
            200,
        ),
    ];
    for (what, expected) in rows {
        let token = issuer.forge(what.clone()).await;
        assert_eq!(status(&gate, &token).await, expected, "{what}");
    }
    gate.records_when("a record of each agent", |records| {
        ["agent-a", "system:serviceaccount:ns:bot"]
            .iter()
            .all(|agent| !records.of("agent", agent).is_empty())
    })
    .await;
}

#[tokio::test]
async fn neither_the_algorithm_nor_the_key_is_the_tokens_choice() {
    let issuer = Issuer::start().await;
    let gate = gate_of(&issuer, "").await;
    let mut rows = Vec::new();
    for alg in ["none", "None", "NONE", "nOnE", "", "RS256", "HS256"] {
        rows.push(json!({ "header": { "alg": alg }, "how": "none" }));
    }
    for how in ["pem", "pem-trimmed", "jwk", "n", "n-raw", "empty"] {
        for key in ["rsa", "ec", "ed"] {
            rows.push(json!({ "key": key, "header": { "alg": "HS256" }, "how": how }));
        }
    }
    // A good signature under another name, and one of a key that is not the issuer's.
    for (key, alg) in [
        ("rsa", "PS256"),
        ("rsa", "ES256"),
        ("rsa", "RS384"),
        ("rsa", "EdDSA"),
        ("ec", "RS256"),
        ("ec", "EdDSA"),
        ("pss", "RS256"),
        ("ed", "ES256"),
        ("stranger", "RS256"),
    ] {
        rows.push(json!({ "key": key, "header": { "alg": alg }, "how": "as-is" }));
    }
    let own = issuer.forge(json!({})).await;
    let kid = {
        let head = own.split('.').next().unwrap();
        let head = URL_SAFE_NO_PAD.decode(head).unwrap();
        serde_json::from_slice::<Value>(&head).unwrap()["kid"].clone()
    };
    let evil = format!("{}/evil", issuer.name());
    for header in [
        json!({ "kid": kid }),
        json!({ "kid": kid, "jku": evil }),
        json!({ "kid": "../../../../dev/null" }),
        json!({ "kid": "/etc/passwd" }),
        json!({ "kid": format!("file:{}", "/etc/hostname") }),
        json!({ "kid": evil }),
        json!({ "kid": "' OR '1'='1" }),
        json!({ "kid": "k".repeat(513) }),
        json!({ "kid": "" }),
        json!({ "x5u": evil, "kid": null }),
        json!({ "jku": evil, "kid": null }),
        json!({ "crit": ["exp"], "kid": kid }),
        json!({ "typ": "logout+jwt", "kid": kid }),
    ] {
        let mut header = header;
        header["alg"] = "RS256".into();
        rows.push(json!({ "key": "stranger", "header": header, "how": "as-is" }));
    }
    assert!(rows.len() >= 40, "{}", rows.len());
    for what in &rows {
        let token = issuer.forge(what.clone()).await;
        assert_eq!(status(&gate, &token).await, 401, "{what}");
    }
    // What is no token at all.
    let (head, rest) = own.split_once('.').unwrap();
    let (claims, signature) = rest.split_once('.').unwrap();
    for text in [
        "..".to_owned(),
        format!("{head}.{claims}."),
        format!("{head}..{signature}"),
        format!(".{claims}.{signature}"),
        format!("{head}=.{claims}.{signature}"),
        format!("{head}.{claims}.{signature}="),
        format!("{head}.{claims}.{signature}.{signature}"),
        format!("{own}A"),
        own[..own.len() - 2].to_owned(),
        "a".repeat(20_000),
        format!("{head}.{claims}.{}", "A".repeat(1_000_000 / 30)),
    ] {
        let status = status(&gate, &text).await;
        assert_eq!(status, 401, "{} bytes", text.len());
    }
    assert_eq!(status(&gate, &own).await, 200);
    assert_eq!(
        issuer.count("/evil").await,
        0,
        "an address in a token was asked"
    );
}

#[tokio::test]
async fn who_is_turned_away_hears_how_to_come_back() {
    let issuer = Issuer::start().await;
    let gate = gate_of(
        &issuer,
        "[identity]\nresource = \"https://gate.example\"\nscopes = [\"mcp\", \"files:read\"]\n\
         api-keys = { bot = \"sha256:9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08\" }",
    )
    .await;
    let metadata = "https://gate.example/.well-known/oauth-protected-resource/mcp";
    let challenge = |answer: &Answer| answer.header("www-authenticate").to_owned();

    let nobody = ask(gate.front(), None).await;
    assert_eq!(nobody.status, 401);
    let said = challenge(&nobody);
    assert!(said.starts_with("Bearer "), "{said}");
    assert!(
        said.contains(&format!("resource_metadata=\"{metadata}\"")),
        "{said}"
    );
    assert!(
        said.contains("scope=\"mcp files:read\"") && !said.contains("error"),
        "{said}"
    );

    let expired = issuer.token(json!({ "exp": now() - 100 })).await;
    let refused = ask(gate.front(), Some(&format!("Bearer {expired}"))).await;
    assert_eq!(refused.status, 401);
    let said = challenge(&refused);
    assert!(
        said.contains("error=\"invalid_token\"") && said.contains("expired"),
        "{said}"
    );
    assert!(!format!("{said}{}", refused.text()).contains(&expired[..40]));
    for wrong in ["Basic YTpi", "Bearer", "Bearer nokey", "bearer a.b.c"] {
        assert_eq!(ask(gate.front(), Some(wrong)).await.status, 401, "{wrong}");
    }
    assert_eq!(ask(gate.front(), Some("Bearer test")).await.status, 200);
    // Two good ones are no better than one that is not: which of them counts would be anybody's guess.
    let twice = [
        ("content-type", "application/json"),
        ("accept", "application/json, text/event-stream"),
        ("authorization", "Bearer test"),
        ("authorization", "Bearer test"),
    ];
    let answer = http::request(gate.front(), "POST", "/mcp", &twice, HELLO).await;
    assert_eq!(answer.status, 401, "{}", answer.text());
    // Never from the address (R-306).
    let good = issuer.token(json!({})).await;
    let path = format!("/mcp?access_token={good}");
    let headers = [
        ("content-type", "application/json"),
        ("accept", "application/json, text/event-stream"),
    ];
    let answer = http::request(gate.front(), "POST", &path, &headers, HELLO).await;
    assert_eq!(answer.status, 401);

    for (path, resource) in [
        ("/mcp", "https://gate.example/mcp"),
        ("/server/chill/mcp", "https://gate.example/server/chill/mcp"),
    ] {
        let found = http::get(
            gate.front(),
            &format!("/.well-known/oauth-protected-resource{path}"),
        )
        .await;
        assert_eq!(
            (found.status, found.header("content-type")),
            (200, "application/json")
        );
        let found: Value = serde_json::from_str(&found.text()).unwrap();
        assert_eq!(found["resource"], resource);
        assert_eq!(found["authorization_servers"], json!([issuer.name()]));
        assert_eq!(found["bearer_methods_supported"], json!(["header"]));
        assert_eq!(found["scopes_supported"], json!(["mcp", "files:read"]));
    }
    let nowhere = http::get(gate.front(), "/.well-known/oauth-protected-resource/etc").await;
    assert_eq!(nowhere.status, 404);
}

#[tokio::test]
async fn without_an_audience_a_token_is_for_the_address_that_is_asked() {
    let issuer = Issuer::start().await;
    let tables = format!(
        "[server.chill]\nbuiltin = \"chill\"\n[identity]\nresource = \"https://gate.example\"\n\
         [identity.jwt]\nissuer = \"{}\"",
        issuer.name()
    );
    let gate = Gate::with(&tables).start().await;
    until(
        "its keys to be asked for ahead",
        Duration::from_secs(10),
        async || (issuer.asked().await > 0).then_some(()),
    )
    .await;
    for (audience, path, expected) in [
        ("https://gate.example/mcp", "/mcp", 200),
        ("https://gate.example/mcp", "/server/chill/mcp", 401),
        (
            "https://gate.example/server/chill/mcp",
            "/server/chill/mcp",
            200,
        ),
        ("https://gate.example/server/chill/mcp", "/mcp", 401),
        ("https://gate.example", "/mcp", 401),
        ("chillgate", "/mcp", 401),
    ] {
        let token = issuer.token(json!({ "aud": audience })).await;
        let bearer = format!("Bearer {token}");
        let headers = [
            ("content-type", "application/json"),
            ("accept", "application/json, text/event-stream"),
            ("authorization", &bearer),
        ];
        let answer = http::request(gate.front(), "POST", path, &headers, HELLO).await;
        assert_eq!(
            answer.status,
            expected,
            "{audience} at {path}: {}",
            answer.text()
        );
    }
    assert!(
        issuer.count("metadata").await >= 1,
        "its metadata say where its keys are"
    );
}

#[tokio::test]
async fn scopes_decide_what_is_listed_and_called_and_all_of_them_are_asked_for_at_once() {
    let issuer = Issuer::start().await;
    let gate = gate_of(
        &issuer,
        "implies = { \"chill:write\" = [\"chill:read\"] }\n\
         [[policy]]\ntype = \"scope\"\nmatch = { server = \"chill\", method = \"tools/call\" }\nrequire = \"chill:read\"\n\
         [[policy]]\ntype = \"scope\"\nmatch = { tool = \"take_*\" }\nrequire = [\"chill:write\", \"chill:read\"]\n\
         [[policy]]\ntype = \"access\"\nmatch = { group = \"interns\" }\ndeny = [\"coffee_mission\"]\n\
         [[policy]]\ntype = \"access\"\nmatch = { scope = \"chill:quiet\" }\ndeny = [\"watch_netflix\"]",
    )
    .await;
    let host = async |claims: Value| {
        let token = issuer.token(claims).await;
        Host::new(gate.front())
            .header("authorization", &format!("Bearer {token}"))
            .open()
            .await
    };
    let nobody = host(json!({})).await;
    assert_eq!(nobody.tools().await, Vec::<String>::new());
    let refused = nobody.call("take_a_break", json!({})).await;
    assert_eq!(refused.status, 403);
    let said = refused.headers["www-authenticate"].to_str().unwrap();
    for part in [
        "error=\"insufficient_scope\"",
        "scope=\"chill:read chill:write\"",
        "/.well-known/oauth-protected-resource/mcp\"",
    ] {
        assert!(said.contains(part), "{part} in {said}");
    }
    assert_eq!(refused.answer()["error"]["code"], 40_302);
    assert_eq!(
        refused.answer()["error"]["data"]["scopes"],
        "chill:read chill:write"
    );

    let reader = host(json!({ "scope": "chill:read", "sub": "reader" })).await;
    let tools = reader.tools().await;
    assert!(
        !tools.is_empty() && !tools.iter().any(|tool| tool.starts_with("take_")),
        "{tools:?}"
    );
    assert_eq!(reader.call("take_a_break", json!({})).await.status, 403);

    // The broader scope brings the narrower along (R-305); a new token of the same agent counts at once.
    let writer = host(json!({ "scope": "chill:write", "sub": "reader" })).await;
    assert!(writer.tools().await.contains(&"take_a_break".to_owned()));
    assert_eq!(writer.call("take_a_break", json!({})).await.status, 200);

    let intern = host(json!({ "scope": "chill:write", "sub": "i", "groups": ["interns"] })).await;
    assert!(!intern.tools().await.contains(&"coffee_mission".to_owned()));
    let hidden = intern.call("coffee_mission", json!({})).await;
    assert_eq!((hidden.status, hidden.code()), (200, Some(-32_602)));
    let quiet = host(json!({ "scope": "chill:write chill:quiet", "sub": "q" })).await;
    assert_eq!(
        quiet.call("watch_netflix", json!({})).await.code(),
        Some(-32_602)
    );
    assert!(quiet.tools().await.contains(&"coffee_mission".to_owned()));
}

#[tokio::test]
async fn a_session_is_its_agents_whoever_else_has_a_token() {
    let issuer = Issuer::start().await;
    let gate = gate_of(&issuer, "").await;
    let bearer = async |sub: &str| format!("Bearer {}", issuer.token(json!({ "sub": sub })).await);
    let (ann, eve) = (bearer("ann").await, bearer("eve").await);
    let host = Host::new(gate.front())
        .header("authorization", &ann)
        .open()
        .await;
    let mut thief = Host::new(gate.front())
        .header("authorization", &eve)
        .open()
        .await;
    thief.steal(host.session().unwrap());
    assert_eq!(thief.request("tools/list", json!({})).await.status, 404);
    // Another token of the same agent does.
    let mut again = Host::new(gate.front())
        .header("authorization", &bearer("ann").await)
        .open()
        .await;
    again.steal(host.session().unwrap());
    assert_eq!(again.request("tools/list", json!({})).await.status, 200);
}

#[tokio::test]
async fn a_stream_ends_with_the_token_that_it_was_opened_with() {
    let issuer = Issuer::start().await;
    let gate = gate_of(&issuer, "leeway = \"1s\"").await;
    let token = issuer.token(json!({ "exp": now() + 4 })).await;
    let host = Host::new(gate.front())
        .header("authorization", &format!("Bearer {token}"))
        .open()
        .await;
    let mut stream = host.listen().await;
    let began = Instant::now();
    let ended = tokio::time::timeout(Duration::from_secs(20), async {
        while stream.next().await.is_some() {}
    });
    ended.await.expect("the stream ends by itself");
    let after = began.elapsed();
    assert!(
        after > Duration::from_secs(2) && after < Duration::from_secs(8),
        "{after:?}"
    );
    assert_eq!(host.request("tools/list", json!({})).await.status, 401);
}

#[tokio::test]
async fn keys_go_on_while_their_issuer_is_away_and_bad_names_ask_for_none() {
    let issuer = Issuer::start().await;
    let gate = gate_of(&issuer, "").await;
    let good = issuer.token(json!({})).await;
    assert_eq!(status(&gate, &good).await, 200);
    let asked = issuer.asked().await;
    issuer.set(json!({ "mode": "slow" })).await;
    // Ten thousand names of keys that nobody has, over connections that stay open.
    let unknown = issuer
        .forge(json!({ "key": "stranger", "how": "as-is" }))
        .await;
    let rest = unknown.split_once('.').unwrap().1.to_owned();
    let began = Instant::now();
    let flood = (0..8).map(|worker| {
        let (rest, front) = (rest.clone(), gate.front());
        tokio::spawn(async move {
            let mut connection = http::Connection::open(front).await;
            for number in 0..1_250 {
                let head = json!({ "alg": "RS256", "kid": format!("bad-{worker}-{number}") });
                let head = URL_SAFE_NO_PAD.encode(head.to_string());
                let bearer = format!("Bearer {head}.{rest}");
                let headers = [
                    ("content-type", "application/json"),
                    ("accept", "application/json, text/event-stream"),
                    ("authorization", bearer.as_str()),
                ];
                if !connection.usable() {
                    connection = http::Connection::open(front).await;
                }
                let answer = connection
                    .send("POST", "/mcp", &headers, HELLO.into())
                    .await;
                assert_eq!(http::collect(answer).await.status, 401);
            }
        })
    });
    let flood: Vec<_> = flood.collect();
    let mut slowest = Duration::ZERO;
    for _ in 0..100 {
        let one = Instant::now();
        assert_eq!(status(&gate, &good).await, 200);
        slowest = slowest.max(one.elapsed());
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    for worker in flood {
        worker.await.unwrap();
    }
    let asked = issuer.asked().await - asked;
    let most = 1 + began.elapsed().as_secs() / 30;
    eprintln!(
        "10000 bad names in {:?}: {asked} looks, slowest good call {slowest:?}",
        began.elapsed()
    );
    assert!(asked <= most, "{asked} looks in {:?}", began.elapsed());
}

#[tokio::test]
async fn a_rotated_key_is_found_and_one_that_was_taken_back_is_not() {
    let issuer = Issuer::start().await;
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("jwks.json");
    let write = async || {
        let raw = http::get(issuer.name()[7..].parse().unwrap(), "/jwks").await;
        std::fs::write(&file, raw.text()).unwrap();
    };
    write().await;
    let tables = format!(
        "[server.chill]\nbuiltin = \"chill\"\n[identity.jwt]\nissuer = \"{}\"\naudience = \"chillgate\"\njwks = \"file:{}\"",
        issuer.name(),
        file.display()
    );
    let gate = Gate::with(&tables).start().await;
    let old = issuer.token(json!({})).await;
    assert_eq!(status(&gate, &old).await, 200);
    issuer.set(json!({ "published": ["next"] })).await;
    let new = issuer.forge(json!({ "key": "next" })).await;
    assert_eq!(status(&gate, &new).await, 401);
    write().await;
    until(
        "the new key is taken",
        Duration::from_secs(10),
        async || (status(&gate, &new).await == 200).then_some(()),
    )
    .await;
    assert_eq!(status(&gate, &old).await, 401, "its key is gone");
    // A file that is none leaves the keys that there are.
    std::fs::write(&file, "{").unwrap();
    tokio::time::sleep(Duration::from_secs(6)).await;
    assert_eq!(status(&gate, &new).await, 200);
}

#[tokio::test]
async fn an_issuer_that_lies_or_is_away_lets_nobody_in() {
    for mode in ["down", "poisoned", "garbage"] {
        let issuer = Issuer::start().await;
        issuer.set(json!({ "mode": mode })).await;
        let gate = gate_of(&issuer, "").await;
        let token = issuer.token(json!({})).await;
        let answer = ask(gate.front(), Some(&format!("Bearer {token}"))).await;
        assert_eq!(answer.status, 503, "{mode}: {}", answer.text());
        assert_eq!(answer.header("retry-after"), "2", "{mode}");
        issuer.set(json!({ "mode": "ok" })).await;
        tokio::time::sleep(Duration::from_millis(1_100)).await;
        assert_eq!(status(&gate, &token).await, 200, "{mode}: it is back");
    }
    let issuer = Issuer::start().await;
    issuer.set(json!({ "mode": "liar" })).await;
    let tables = format!(
        "[server.chill]\nbuiltin = \"chill\"\n[identity.jwt]\nissuer = \"{}\"\naudience = \"chillgate\"",
        issuer.name()
    );
    let gate = Gate::with(&tables).start().await;
    let token = issuer.token(json!({})).await;
    assert_eq!(status(&gate, &token).await, 503);
    assert_eq!(
        issuer.asked().await,
        0,
        "keys of another issuer were asked for"
    );
}
