//! The audit policy through a chain: what stands in a record, that one is one line, and that what
//! cannot be recorded does not happen.

use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use proptest::prelude::*;
use serde_json::{Value, json};

use crate::engine::testing::{Memory, admit, call, chain, services, tool};
use crate::engine::{Completion, Context, Levels, Outcome, Services};

fn audited() -> (crate::engine::clock::ManualClock, Arc<Memory>, Services) {
    let (clock, services) = services();
    let sink: Arc<Memory> = Arc::default();
    let services = Services {
        audit: Some(sink.clone()),
        instance: "pod-1".into(),
        ..services
    };
    (clock, sink, services)
}

#[test]
fn a_call_leaves_an_admit_and_a_done_record() {
    let (clock, sink, services) = audited();
    let tables = [
        json!({"type": "quota", "name": "q", "allow": "60/min", "burst": 10}),
        json!({"type": "boss-alert", "name": "boss", "alertness": 100, "hold": "0s"}),
    ];
    let chain = chain(&tables, &services);
    let mut call = tool("read");
    call.arguments = Some(r#"{"path":"/x"}"#.into());
    call.id = Some("\"id-7\"".into());
    call.bytes_in = 120;
    call.context = Arc::new(Context {
        transport: "streamable-http",
        era: "legacy",
        session: Some("s-1".into()),
        client: Some(("claude".into(), "1.0".into())),
        peer: Some("127.0.0.1:4711".into()),
    });
    let pass = admit(&chain, call).expect("nobody refuses");
    clock.advance(Duration::from_micros(12_345));
    let levels = Levels {
        stress_before: Some(50),
        stress_after: Some(20),
        ..Levels::default()
    };
    pass.complete(
        Completion::of(Outcome::RpcError(-32000))
            .bytes_out(99)
            .levels(levels),
    );
    let common = json!({
        "v": 1, "instance": "pod-1", "session": "s-1", "agent": "a",
        "server": "files", "method": "tools/call", "tool": "read", "id": "\"id-7\""
    });
    let with = |more: Value| {
        let mut record = common.as_object().expect("a table").clone();
        record.extend(more.as_object().expect("a table").clone());
        Value::Object(record)
    };
    let expected = [
        with(json!({
            "phase": "admit", "bytes": {"in": 120}, "era": "legacy", "transport": "streamable-http",
            "args_sha256": "3dac3d9396c816b7e4926c7c4b8f17dd0e6c5a306b4362f05218096095062dd2",
            "quota": {"policy": "q", "limit": 60, "remaining": 9, "reset_s": 1},
            "levels": {"boss_before": 0, "boss_after": 1}
        })),
        with(json!({
            "phase": "done", "bytes": {"in": 120, "out": 99}, "outcome": "rpc_error", "rpc_code": -32000,
            "dur_ms": 12.345,
            "levels": {"boss_before": 0, "boss_after": 1, "stress_before": 50, "stress_after": 20}
        })),
    ];
    assert_eq!(sink.records(), expected);
}

#[test]
fn a_host_is_introduced_once_a_session_and_always_without_one() {
    let (_, sink, services) = audited();
    let chain = chain(&[], &services);
    let context = |session: Option<&str>| {
        Arc::new(Context {
            session: session.map(Into::into),
            client: Some(("claude".into(), "1.0".into())),
            ..Context::default()
        })
    };
    for (method, session) in [
        ("initialize", Some("s-1")),
        ("tools/list", Some("s-1")),
        ("tools/list", None),
    ] {
        let mut call = tool("read");
        call.method = method.into();
        call.context = context(session);
        let pass = admit(&chain, call).expect("nobody refuses");
        pass.complete(Completion::of(Outcome::Ok));
    }
    let introduced: Vec<bool> = sink
        .records()
        .iter()
        .map(|record| record["client"]["name"] == "claude")
        .collect();
    assert_eq!(introduced, [true, false, false, false, true, false]);
}

#[test]
fn a_refusal_leaves_one_record_that_says_who_and_why() {
    let (_, sink, services) = audited();
    let chain = chain(
        &[json!({"type": "access", "name": "no-writes", "deny": "files__write"})],
        &services,
    );
    assert!(admit(&chain, tool("write")).is_err());
    let records = sink.records();
    assert_eq!(records.len(), 1);
    assert_eq!(records[0]["phase"], "refuse");
    assert_eq!(
        records[0]["decision"],
        json!({"policy": "no-writes", "kind": "access", "effect": "refuse", "reason": "denied", "code": -32602})
    );
}

#[test]
fn a_host_that_leaves_while_it_is_held_leaves_a_refusal() {
    let (_, sink, services) = audited();
    let chain = chain(
        &[json!({"type": "quota", "allow": "1/s", "exceed": {"wait": "5s"}})],
        &services,
    );
    let pass = admit(&chain, tool("x")).expect("the first share");
    let mut held = Box::pin(chain.admit(tool("x"), &()));
    assert!((&mut held).now_or_never().is_none());
    drop(held);
    drop(pass);
    let seen: Vec<(Value, Value)> = sink
        .records()
        .iter()
        .map(|record| {
            (
                record["phase"].clone(),
                record["decision"]["reason"].clone(),
            )
        })
        .collect();
    assert_eq!(
        seen,
        [
            (json!("admit"), Value::Null),
            (json!("refuse"), json!("cancelled")),
            (json!("done"), Value::Null)
        ]
    );
}

#[test]
fn what_cannot_be_recorded_does_not_happen() {
    let (_, sink, services) = audited();
    let chain = chain(&[], &services);
    sink.set_full(true);
    let rejection = admit(&chain, tool("x")).expect_err("refused");
    assert_eq!((rejection.code, rejection.reason), (50301, "audit_down"));
    assert!(rejection.message.contains("disk full"));
    sink.set_full(false);
    assert!(admit(&chain, tool("x")).is_ok(), "and recovers by itself");
}

#[test]
fn in_shadow_a_full_log_refuses_nobody() {
    let (_, sink, services) = audited();
    let chain = chain(&[json!({"type": "audit", "mode": "shadow"})], &services);
    sink.set_full(true);
    assert!(admit(&chain, tool("x")).is_ok());
}

#[test]
fn arguments_are_kept_as_the_policy_says() {
    let arguments = r#"{"to":"bob@mail.example","password":"hunter2","n":1}"#;
    for (table, expected) in [
        (json!({}), json!([true, null, null])),
        (json!({"arguments": "hash"}), json!([true, null, null])),
        (json!({"arguments": "none"}), json!([false, null, null])),
        (
            json!({"arguments": "full"}),
            json!([true, {"to": "bob@mail.example", "password": "[redacted]", "n": 1}, null]),
        ),
        (
            json!({"arguments": "redacted"}),
            json!([true, {"to": "[redacted]", "password": "[redacted]", "n": 1}, null]),
        ),
        (
            json!({"arguments": "full", "arguments-limit": "10B"}),
            json!([true, null, true]),
        ),
    ] {
        let (_, sink, services) = audited();
        let mut audit = table.as_object().expect("a table").clone();
        audit.insert("type".into(), "audit".into());
        let chain = chain(&[Value::Object(audit)], &services);
        let mut call = tool("x");
        call.arguments = Some(arguments.into());
        drop(admit(&chain, call).expect("nobody refuses"));
        let records = sink.records();
        let admit = &records[0];
        let has_hash = admit.get("args_sha256").is_some();
        assert_eq!(
            json!([has_hash, admit["args"], admit["args_dropped"]]),
            expected,
            "{table}"
        );
        assert!(records[1].get("args_sha256").is_none(), "said once");
    }
}

#[test]
fn only_the_first_audit_policy_that_matches_writes() {
    let (_, sink, services) = audited();
    let tables = [
        json!({"type": "audit", "name": "files", "match": {"server": "files"}, "arguments": "full"}),
        json!({"type": "audit", "name": "rest", "arguments": "none"}),
    ];
    let chain = chain(&tables, &services);
    for server in ["files", "other"] {
        let mut call = call("a", server, "tools/call", Some("x"));
        call.arguments = Some("{}".into());
        drop(admit(&chain, call).expect("nobody refuses"));
    }
    let kept: Vec<Value> = sink
        .records()
        .iter()
        .map(|record| record["args"].clone())
        .collect();
    assert_eq!(kept, [json!({}), Value::Null, Value::Null, Value::Null]);
}

#[test]
fn a_record_stays_small_however_long_its_texts_are() {
    let (_, sink, services) = audited();
    let long = "가".repeat(100_000);
    let chain = chain(&[json!({"type": "audit", "arguments": "full"})], &services);
    let mut call = call(&long, &long, &long, Some(&long));
    call.id = Some(long.clone().into());
    call.arguments = Some(format!("\"{long}\"").into());
    call.context = Arc::new(Context {
        session: Some((&*long).into()),
        client: Some((long.clone(), long.clone())),
        peer: Some(long),
        ..Context::default()
    });
    drop(admit(&chain, call).expect("nobody refuses"));
    assert!(
        sink.lines
            .lock()
            .expect("not poisoned")
            .iter()
            .all(|line| line.len() < 4_096)
    );
}

proptest! {
    #[test]
    fn one_record_is_one_line_whatever_the_fields_contain(
        evil in proptest::collection::vec(
            prop_oneof![
                Just("\r\n".to_owned()), Just("\u{2028}".into()), Just("\u{2029}".into()), Just("\u{85}".into()),
                Just("\u{1b}[2J".into()), Just("\u{9b}31m".into()), Just("\"}\n{".into()), Just("\u{202e}".into()),
                Just("\u{0}".into()), Just("\u{b}\u{c}".into()), any::<String>(),
            ],
            1..6,
        ),
    ) {
        let (_, sink, services) = audited();
        let text = evil.concat();
        let chain = chain(&[json!({"type": "audit", "arguments": "full"})], &services);
        let mut call = call(&text, &text, &text, Some(&text));
        call.id = Some(text.clone().into());
        call.arguments = Some(json!({ text.clone(): [text.clone()] }).to_string().into());
        call.context = Arc::new(Context {
            session: Some((&*text).into()),
            client: Some((text.clone(), text.clone())),
            peer: Some(text),
            ..Context::default()
        });
        drop(admit(&chain, call).expect("nobody refuses"));
        let lines = sink.lines.lock().expect("not poisoned").clone();
        prop_assert_eq!(lines.len(), 2);
        for line in &lines {
            let breaks = |c: char| c.is_control() || ['\u{2028}', '\u{2029}', '\u{202e}'].contains(&c);
            let broken = line.chars().any(breaks);
            prop_assert!(!broken);
            prop_assert!(serde_json::from_str::<Value>(line).is_ok());
        }
    }
}
