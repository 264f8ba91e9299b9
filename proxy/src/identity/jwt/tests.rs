//! What a token says, judged without its signature; signatures are judged in the process's own tests.

use serde_json::{Value, json};

use super::*;

fn config(extra: &Value) -> Jwt {
    let mut table = json!({ "issuer": "https://issuer.example", "audience": "chillgate" });
    for (key, value) in extra.as_object().expect("a table") {
        table[key] = value.clone();
    }
    serde_json::from_value(table).expect("a good configuration")
}

fn claims(extra: &Value) -> Claims {
    let mut all = json!({
        "iss": "https://issuer.example", "aud": "chillgate", "sub": "agent-a", "exp": 2_000,
    });
    for (name, value) in extra.as_object().expect("claims") {
        all[name] = value.clone();
    }
    serde_json::from_value(all).expect("claims")
}

fn at(seconds: f64) -> SystemTime {
    UNIX_EPOCH + Duration::from_secs_f64(seconds)
}

fn judged(config: &Jwt, claims: &Value, now: f64) -> Result<Principal, Denied> {
    bearer(
        config,
        &super::tests::claims(claims),
        "https://gate.example/mcp",
        at(now),
    )
}

#[test]
fn a_token_is_good_in_its_time_give_or_take_the_leeway() {
    let config = config(&json!({ "leeway": "30s" }));
    for (claims, now, good) in [
        (json!({}), 1_000.0, true),
        (json!({}), 2_029.9, true),
        (json!({}), 2_030.0, false),
        (json!({ "exp": 999.5 }), 1_029.4, true),
        (json!({ "exp": 999.5 }), 1_029.6, false),
        (json!({ "exp": -1 }), 1_000.0, false),
        (json!({ "exp": 1e300 }), 1_000.0, true),
        (json!({ "nbf": 1_030 }), 1_000.0, true),
        (json!({ "nbf": 1_031 }), 1_000.0, false),
    ] {
        let verdict = judged(&config, &claims, now);
        assert_eq!(verdict.is_ok(), good, "{claims} at {now}: {verdict:?}");
    }
    assert!(serde_json::from_value::<Claims>(json!({ "iss": "i", "exp": "2000" })).is_err());
    assert!(serde_json::from_value::<Claims>(json!({ "iss": "i" })).is_err());
}

#[test]
fn a_token_is_for_one_audience() {
    let (named, by_address) = (config(&json!({})), config(&json!({ "audience": [] })));
    for (config, audience, good) in [
        (&named, json!("chillgate"), true),
        (&named, json!(["other", "chillgate"]), true),
        (&named, json!(["other"]), false),
        (&named, json!("Chillgate"), false),
        (&named, json!(""), false),
        (&named, json!(null), false),
        (&named, json!({ "chillgate": true }), false),
        (&named, json!("https://gate.example/mcp"), false),
        (&by_address, json!("https://gate.example/mcp"), true),
        (&by_address, json!("https://gate.example/mcp/"), false),
        (&by_address, json!("https://gate.example"), false),
        (&by_address, json!("chillgate"), false),
    ] {
        let verdict = judged(config, &json!({ "aud": audience }), 1_000.0);
        assert_eq!(verdict.is_ok(), good, "{audience}: {verdict:?}");
    }
}

#[test]
fn the_agent_its_groups_and_its_scopes_are_where_the_configuration_says() {
    let plain = config(&json!({}));
    let whose = judged(
        &plain,
        &json!({ "scope": "files:read  files:write", "groups": ["team-a", 7] }),
        1_000.0,
    )
    .expect("good");
    assert_eq!(&*whose.agent, "agent-a");
    assert_eq!(
        whose.grants.scopes,
        ["files:read", "files:write"].map(Arc::<str>::from)
    );
    assert_eq!(whose.grants.groups, ["team-a"].map(Arc::<str>::from));
    assert_eq!(whose.until, Some(at(2_030.0)));

    let deep = config(&json!({
        "agent": "/kubernetes.io/serviceaccount/name", "prefix": "k8s:", "scopes": "scp",
        "groups": "/realm/roles",
        "implies": { "admin": ["files:write"], "files:write": ["files:read", "admin"] },
    }));
    let whose = judged(
        &deep,
        &json!({
            "kubernetes.io": { "serviceaccount": { "name": "bot" } },
            "scp": ["admin"], "realm": { "roles": ["r"] },
        }),
        1_000.0,
    )
    .expect("good");
    assert_eq!(&*whose.agent, "k8s:bot");
    let scopes: Vec<&str> = whose.grants.scopes.iter().map(|scope| &**scope).collect();
    assert_eq!(scopes, ["admin", "files:write", "files:read"]);
    assert_eq!(whose.grants.groups, ["r"].map(Arc::<str>::from));

    for name in [
        json!(null),
        json!(""),
        json!(7),
        json!("a\nb"),
        json!("x".repeat(129)),
    ] {
        let verdict = judged(&plain, &json!({ "sub": name }), 1_000.0);
        assert!(verdict.is_err(), "{name}: {verdict:?}");
    }
}

#[test]
fn a_header_is_no_more_than_a_question() {
    let part = |value: &Value| data_encoding::BASE64URL_NOPAD.encode(value.to_string().as_bytes());
    let good = part(&json!({ "iss": "i", "exp": 1 }));
    for (header, claims, readable) in [
        (part(&json!({ "alg": "RS256" })), good.clone(), true),
        (
            part(&json!({ "alg": "none", "jku": "https://evil.example" })),
            good.clone(),
            true,
        ),
        (
            part(&json!({ "alg": "RS256", "typ": "at+JWT" })),
            good.clone(),
            true,
        ),
        (
            part(&json!({ "alg": "RS256", "typ": "application/at+jwt" })),
            good.clone(),
            true,
        ),
        (
            part(&json!({ "alg": "RS256", "typ": "logout+jwt" })),
            good.clone(),
            false,
        ),
        (
            part(&json!({ "alg": "RS256", "crit": ["exp"] })),
            good.clone(),
            false,
        ),
        (
            part(&json!({ "alg": "RS256", "kid": "k".repeat(513) })),
            good.clone(),
            false,
        ),
        (part(&json!({ "alg": 7 })), good.clone(), false),
        (part(&json!([])), good.clone(), false),
        (part(&json!({ "alg": "RS256" })), part(&json!([])), false),
        ("e30=".into(), good.clone(), false),
        (String::new(), good.clone(), false),
    ] {
        let text = format!("{header}.{claims}.c2ln");
        assert_eq!(Token::read(&text).is_ok(), readable, "{text}");
    }
    for text in ["", ".", "..", "a.b", "a.b.c.d", &"x".repeat(20_000)] {
        assert!(Token::read(text).is_err(), "{text}");
    }
}
