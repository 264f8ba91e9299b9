//! Values replaced for a while: at once, over reloads and kills, and back by themselves.
//!
//! It stands apart from the admin API, through which they are ordered: here agents and the audit log
//! say what held when.

use std::time::Duration;

use chillgate_tests::http::Connection;
use chillgate_tests::modern::{fields, message};
use chillgate_tests::sse::Events;
use chillgate_tests::wait::seconds;
use chillgate_tests::{Host, until};
use rustix::process::Signal;
use serde_json::{Value, json};
use tokio::time::{Instant, timeout};

use crate::admin::{BOSS, CALLS, DRILL, Ruled, acts, answered, verb};

/// How long one call takes.
async fn took(host: &Host) -> Duration {
    let began = Instant::now();
    let reply = host.call("echo", json!({ "message": "x" })).await;
    assert_eq!(reply.code(), None, "{reply:?}");
    began.elapsed()
}

/// The incident drill: alertness to 100 for a while, and back; over a reload and a kill; audited.
#[tokio::test]
async fn alertness_is_raised_for_a_while_and_falls_back_by_itself() {
    let mut ruled = Ruled::start(BOSS).await;
    let host = ruled.agent("one").await;
    assert_eq!(answered(&host, "echo", 9).await, 9);
    assert!(took(&host).await < seconds(1), "held without a boss");

    let began = Instant::now();
    let words = [
        "override",
        "set",
        "boss",
        "alertness=100",
        "hold=1s",
        "--for",
        "14s",
    ];
    let words = [&words[..], &["--reason", "incident drill"]].concat();
    let (code, out, err) = verb(&ruled.gate, &words).await;
    assert_eq!((code, err.as_str()), (Some(0), ""), "{out}");
    assert!(
        out.contains("boss alertness=100 hold=\"1s\" until 20"),
        "{out}"
    );
    assert_eq!(answered(&host, "echo", 4).await, 4);
    assert!(took(&host).await >= seconds(1), "the fifth is held");
    let scrape = ruled.gate.scrape().await;
    assert_eq!(
        scrape.count("chillgate_policy_overrides", &[("policy", "boss")]),
        1
    );

    // The file is read again, and changed: the override still holds.
    let before = ruled.gate.reloads("applied").await;
    ruled.gate.edit("alertness = 0", "alertness = 1");
    ruled.gate.signal(Signal::HUP);
    until("the reload", seconds(10), async || {
        (ruled.gate.reloads("applied").await > before).then_some(())
    })
    .await;
    let (_, shown) = ruled.ask("GET", "/api/v1/policies", "").await;
    let held = &shown["policies"][0]["values"];
    assert_eq!(
        (&held["alertness"], &held["hold"]),
        (&json!(100), &json!("1s")),
        "a reload ended it"
    );
    assert!(took(&host).await >= seconds(1));

    ruled.gate.edit("alertness = 1", "alertness = 0");
    ruled.gate.killed_and_started().await;
    let (status, listed) = ruled.ask("GET", "/api/v1/overrides", "").await;
    assert_eq!(
        (status, &listed["overrides"][0]["values"]["alertness"]),
        (200, &json!(100))
    );
    let host = ruled.agent("two").await;
    assert_eq!(answered(&host, "echo", 4).await, 4);
    assert!(took(&host).await >= seconds(1), "a restart ended it");

    let acts = acts(&ruled.gate, 2).await;
    let span = began.elapsed();
    assert!(
        span >= seconds(13) && span < seconds(20),
        "it ended after {span:?}"
    );
    // The boss is as alert as he was left, until he is told to forget; and then nothing raises him.
    let (status, reset) = ruled.ask("DELETE", "/api/v1/quota?policy=boss", "").await;
    assert_eq!((status, &reset["reset"][0]["alert"]), (200, &json!(5)));
    assert_eq!(answered(&host, "echo", 9).await, 9);
    assert!(
        took(&host).await < seconds(1),
        "the values are not back as they were"
    );
    let told: Vec<_> = acts
        .iter()
        .map(|act| (act["action"].as_str(), act["by"].as_str()))
        .collect();
    let by = acts[0]["by"].as_str().unwrap();
    assert!(by.starts_with("token, from 127.0.0.1:"), "{by}");
    assert_eq!(
        told,
        [
            (Some("override-set"), Some(by)),
            (Some("override-end"), Some("chillgate"))
        ]
    );
    assert_eq!(acts[0]["reason"], "incident drill");
    assert_eq!(acts[0]["values"], json!({ "alertness": 100, "hold": "1s" }));
    assert_eq!(acts[1]["reason"], "its time was up");
    assert_eq!(
        (&acts[0]["policy"], &acts[0]["id"]),
        (&json!("boss"), &acts[1]["id"])
    );
    let scrape = ruled.gate.scrape().await;
    assert_eq!(scrape.count("chillgate_policy_overrides", &[]), 0);
    let (_, listed) = ruled.ask("GET", "/api/v1/overrides", "").await;
    assert_eq!(listed, json!({ "overrides": [] }));
}

/// ChillMCP's own boss: changed while it runs, everybody's levels kept.
#[tokio::test]
async fn chillmcps_boss_is_raised_without_losing_anybodys_level() {
    let chill = "[server.chill]\nbuiltin = \"chill\"\nboss-alertness = 100\nboss-alertness-cooldown = \"1h\"\nhold = \"0s\"\n";
    let ruled = Ruled::start(chill).await;
    let host = ruled.agent("one").await;
    for _ in 0..3 {
        host.call("chill__show_meme", json!({})).await;
    }
    let levels = async || {
        let (status, shown) = ruled
            .ask("GET", "/api/v1/quota?policy=server.chill", "")
            .await;
        assert_eq!(status, 200, "{shown}");
        shown["usage"][0].clone()
    };
    assert_eq!(
        (
            levels().await["alert"].clone(),
            levels().await["agent"].clone()
        ),
        (json!(3), json!("one"))
    );
    let (code, _, err) = verb(
        &ruled.gate,
        &[
            "override",
            "set",
            "server.chill",
            "boss-alertness=0",
            "--for",
            "30m",
        ],
    )
    .await;
    assert_eq!((code, err.as_str()), (Some(0), ""));
    for _ in 0..9 {
        host.call("chill__show_meme", json!({})).await;
    }
    assert_eq!(
        levels().await["alert"],
        3,
        "nothing rises at 0 %, and nothing was lost"
    );
    let (_, out, _) = verb(&ruled.gate, &["override", "list", "--json"]).await;
    let listed: Value = serde_json::from_str(&out).unwrap();
    let id = listed[0]["id"].as_str().unwrap();
    let (code, _, _) = verb(&ruled.gate, &["override", "end", id]).await;
    assert_eq!(code, Some(0));
    host.call("chill__show_meme", json!({})).await;
    assert_eq!(levels().await["alert"], 4, "back at 100 %");
    let (status, _) = ruled
        .ask("DELETE", "/api/v1/quota?policy=server.chill&agent=one", "")
        .await;
    assert_eq!((status, levels().await["alert"].clone()), (200, json!(0)));
    let acts = acts(&ruled.gate, 3).await;
    let done: Vec<_> = acts
        .iter()
        .map(|act| act["action"].as_str().unwrap())
        .collect();
    assert_eq!(done, ["override-set", "override-end", "quota-reset"]);
    assert_eq!(
        acts[1]["by"],
        acts[0]["by"]
            .as_str()
            .map(|_| acts[1]["by"].clone())
            .unwrap()
    );
    assert_eq!(acts[1]["reason"], "it was told to end");
}

/// Values are judged as the file's are, and what cannot be is refused with what to write instead.
#[tokio::test]
async fn an_order_that_makes_no_sense_is_refused_and_changes_nothing() {
    let ruled = Ruled::start(&(CALLS.to_owned() + BOSS)).await;
    let set = |policy: &str, values: Value, span: &str| {
        json!({ "policy": policy, "values": values, "for": span }).to_string()
    };
    for (body, status, said) in [
        (
            set("boss", json!({ "alertness": 101 }), "1m"),
            422,
            "`alertness` cannot be 101",
        ),
        (
            set("boss", json!({ "alertnes": 95 }), "1m"),
            422,
            "did you mean `alertness`?",
        ),
        (
            set("boss", json!({ "name": "x" }), "1m"),
            422,
            "at all times",
        ),
        (
            set("boss", json!({ "schedule": [] }), "1m"),
            422,
            "at all times",
        ),
        (
            set("boss", json!({ "hold": "11m" }), "1m"),
            422,
            "cannot be held",
        ),
        (set("boss", json!({}), "1m"), 422, "a value at least"),
        (
            set("boss", json!({ "alertness": 5 }), "0s"),
            422,
            "cannot be for 0s",
        ),
        (
            set("boss", json!({ "alertness": 5 }), "32d"),
            422,
            "cannot be for 32d",
        ),
        (set("boss", json!({ "alertness": 5 }), "soon"), 400, "`for`"),
        (
            set("bos", json!({ "alertness": 5 }), "1m"),
            404,
            "did you mean `boss`?",
        ),
        (
            set("calls", json!({ "allow": "5 per h" }), "1m"),
            422,
            "so much per span",
        ),
        ("{".to_owned(), 400, "no override"),
        ("[]".to_owned(), 400, "no override"),
        (
            r#"{"policy":"boss","values":{"alertness":5},"for":"1m","until":"x"}"#.to_owned(),
            400,
            "until",
        ),
    ] {
        let (got, answer) = ruled.ask("POST", "/api/v1/overrides", &body).await;
        assert_eq!(got, status, "{body}: {answer}");
        assert!(answer.to_string().contains(said), "{body}: {answer}");
        assert!(answer["help"].is_string(), "{body}: {answer}");
    }
    let (code, _, err) = verb(
        &ruled.gate,
        &["override", "set", "boss", "alertness=101", "--for", "1m"],
    )
    .await;
    assert_eq!(code, Some(2));
    assert!(
        err.contains("`alertness` cannot be 101") && err.contains("help: "),
        "{err}"
    );
    let (_, listed) = ruled.ask("GET", "/api/v1/overrides", "").await;
    assert_eq!(listed, json!({ "overrides": [] }));
    assert!(
        ruled
            .gate
            .records_when("no record", |_| true)
            .await
            .of("phase", "admin")
            .is_empty()
    );

    // A file that is broken meanwhile keeps nobody from an override, and a reload from saying so.
    ruled.gate.edit("alertness = 0", "alertness = -1");
    let (status, answer) = ruled.ask("POST", "/api/v1/reload", "").await;
    assert_eq!(status, 422, "{answer}");
    assert!(
        answer["help"]
            .as_str()
            .unwrap()
            .contains("`alertness` cannot be -1"),
        "{answer}"
    );
    assert_eq!(ruled.ask("POST", "/api/v1/overrides", DRILL).await.0, 201);
    ruled.gate.edit("alertness = -1", "alertness = 0");
    let (status, answer) = ruled.ask("POST", "/api/v1/reload", "").await;
    assert_eq!(status, 200, "{answer}");
    assert!(answer["generation"].as_u64().unwrap() >= 2, "{answer}");
}

/// A second value on the same policy takes the place of the first; different ones stand side by side.
#[tokio::test]
async fn overrides_stand_side_by_side_and_replace_each_other() {
    let ruled = Ruled::start(&(CALLS.to_owned() + BOSS)).await;
    for body in [
        DRILL,
        r#"{"policy":"calls","values":{"allow":"1/h"},"for":"1m"}"#,
        r#"{"policy":"boss","values":{"alertness":7,"hold":"1s"},"for":"1m"}"#,
    ] {
        assert_eq!(ruled.ask("POST", "/api/v1/overrides", body).await.0, 201);
    }
    let (_, listed) = ruled.ask("GET", "/api/v1/overrides", "").await;
    let values: Vec<_> = listed["overrides"]
        .as_array()
        .unwrap()
        .iter()
        .map(|it| it["values"].clone())
        .collect();
    assert_eq!(
        values,
        [
            json!({ "allow": "1/h" }),
            json!({ "alertness": 7, "hold": "1s" })
        ]
    );
    let acts = acts(&ruled.gate, 4).await;
    let end = acts
        .iter()
        .find(|act| act["action"] == "override-end")
        .unwrap();
    assert!(
        end["reason"]
            .as_str()
            .unwrap()
            .contains("has taken its place"),
        "{end}"
    );
    // One whose policy the file has no more is set aside, not lost.
    ruled.gate.edit("name = \"calls\"", "name = \"others\"");
    let (status, _) = ruled.ask("POST", "/api/v1/reload", "").await;
    assert_eq!(status, 200);
    let (_, listed) = ruled.ask("GET", "/api/v1/overrides", "").await;
    assert!(listed["overrides"][0]["setAside"].is_string(), "{listed}");
    ruled.gate.edit("name = \"others\"", "name = \"calls\"");
    ruled.ask("POST", "/api/v1/reload", "").await;
    let (_, listed) = ruled.ask("GET", "/api/v1/overrides", "").await;
    assert!(listed["overrides"][0].get("setAside").is_none(), "{listed}");
    assert_eq!(answered(&ruled.agent("one").await, "pid", 3).await, 1);
}

/// Hosts hear of an override where their lists are others, and of no other.
#[tokio::test]
async fn hosts_hear_of_an_override_that_changes_their_lists_alone() {
    let access = "[[policy]]\ntype = \"access\"\nname = \"doors\"\ndeny = [\"a__env\"]\n";
    let ruled = Ruled::start(&(access.to_owned() + BOSS)).await;
    let host = ruled.agent("one").await;
    assert!(host.tools().await.iter().any(|tool| tool == "pid"));
    let mut stream = host.listen().await;
    // A host of 2026-07-28 listens on a request that stays open.
    let wanted = json!({ "notifications": { "toolsListChanged": true } });
    let request = message(&json!(1), "subscriptions/listen", wanted);
    let mut connection = Connection::open(ruled.gate.front()).await;
    let raw = request.to_string().into();
    let headers = fields(&request);
    let sent = connection.send("POST", "/mcp", &headers, raw).await;
    let mut modern = Events::new(sent.into_body());
    let first = timeout(seconds(5), modern.message()).await.unwrap();
    assert!(first.is_some(), "it is not acknowledged");

    assert_eq!(ruled.ask("POST", "/api/v1/overrides", DRILL).await.0, 201);
    for stream in [&mut stream, &mut modern] {
        let heard = timeout(Duration::from_millis(500), stream.message()).await;
        assert!(heard.is_err(), "what nobody sees was told: {heard:?}");
    }
    let closed = r#"{"policy":"doors","values":{"deny":["a__env","a__pid"]},"for":"1m"}"#;
    assert_eq!(ruled.ask("POST", "/api/v1/overrides", closed).await.0, 201);
    let note = timeout(seconds(5), stream.message())
        .await
        .unwrap()
        .unwrap();
    assert_eq!(note["method"], "notifications/tools/list_changed");
    assert!(!host.tools().await.iter().any(|tool| tool == "pid"));
}
