//! What is seen from outside: probes, metrics that promtool approves, logs that are JSON.
//!
//! It stands apart because the judge of the text format is promtool, not a test of ours.

use std::process::Stdio;

use serde_json::{Value, json};
use tokio::io::AsyncWriteExt as _;

use chillgate_tests::Gate;
use chillgate_tests::http::{get, request};
use chillgate_tests::process::command;
use chillgate_tests::wait::{all, seconds, within};

use crate::mock;

fn tables() -> String {
    mock("a").table("")
        + "[server.chill]\nbuiltin = \"chill\"\n[identity]\nheader = \"x-agent-id\"\n\
           [[policy]]\ntype = \"quota\"\nname = \"calls\"\nper = \"agent\"\nmatch = { tool = \"echo\" }\nallow = \"3/h\"\nburst = 3\n"
}

/// Some calls of every kind; returns when all are answered.
async fn traffic(gate: &Gate) {
    let host = gate.host().header("x-agent-id", "one").open().await;
    for _ in 0..5 {
        host.call("a__echo", json!({})).await;
    }
    host.call("a__fail", json!({})).await;
    host.call("a__rpc-error", json!({})).await;
    host.call("a__garbage", json!({})).await;
    host.call("chill__take_a_break", json!({})).await;
    host.request("tools/list", json!({})).await;
    host.request("no/such/method", json!({})).await;
}

#[tokio::test]
async fn promtool_finds_nothing_wrong_with_the_metrics() {
    let gate = Gate::with(&tables()).audited().start().await;
    traffic(&gate).await;
    let answer = get(gate.health(), "/metrics").await;
    assert!(
        answer
            .header("content-type")
            .starts_with("text/plain; version=0.0.4"),
        "{:?}",
        answer.headers
    );
    let mut promtool = command("promtool");
    promtool
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut promtool = promtool
        .spawn()
        .expect("promtool is installed by tests/run");
    let mut stdin = promtool.stdin.take().unwrap();
    stdin.write_all(&answer.body).await.unwrap();
    drop(stdin);
    let output = within("promtool", seconds(20), promtool.wait_with_output())
        .await
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned()
        + &String::from_utf8_lossy(&output.stderr);
    assert!(
        output.status.success() && said.trim().is_empty(),
        "{}: {said}",
        output.status
    );
}

#[tokio::test]
async fn the_counters_add_up_to_what_was_done() {
    let gate = Gate::with(&tables()).audited().start().await;
    traffic(&gate).await;
    let scrape = gate.scrape().await;
    let requests = |labels: &[(&str, &str)]| scrape.sum("chillgate_requests_total", labels);
    let near = |found: f64, expected: f64, what: &str| {
        assert!((found - expected).abs() < 0.01, "{what}: {found}");
    };
    near(
        requests(&[
            ("server", "a"),
            ("method", "tools/call"),
            ("outcome", "quota"),
        ]),
        2.0,
        "refused",
    );
    near(
        requests(&[
            ("server", "a"),
            ("method", "tools/call"),
            ("outcome", "tool_error"),
        ]),
        1.0,
        "tool errors",
    );
    near(
        requests(&[
            ("server", "a"),
            ("method", "tools/call"),
            ("outcome", "rpc_error"),
        ]),
        1.0,
        "errors",
    );
    near(
        requests(&[("server", "a"), ("method", "tools/call"), ("outcome", "ok")]),
        4.0,
        "answered",
    );
    near(
        requests(&[("server", "chill"), ("method", "tools/call")]),
        1.0,
        "ChillMCP",
    );
    assert!(
        requests(&[("method", "_OTHER")]) >= 1.0,
        "an unknown method has no label of its own"
    );
    near(
        scrape.sum(
            "chillgate_policy_decisions_total",
            &[("policy", "calls"), ("decision", "reject")],
        ),
        2.0,
        "decisions",
    );
    near(
        scrape.sum("chillgate_quota_remaining_ratio", &[("policy", "calls")]),
        0.0,
        "what is left of the quota",
    );
    near(
        scrape.sum("chillgate_child_up", &[("server", "a")]),
        1.0,
        "child up",
    );
    near(
        scrape.sum("chillgate_inflight_requests", &[]),
        0.0,
        "in flight",
    );
    for name in [
        "chillgate_build_info",
        "chillgate_request_duration_seconds_bucket",
        "chillgate_sessions",
        "chillgate_audit_records_total",
        "chillgate_config_last_reload_successful",
        "process_resident_memory_bytes",
        "chillgate_chill_boss_alert_level",
        "chillgate_chill_stress_level",
        "chillgate_quota_remaining_ratio",
    ] {
        assert!(scrape.has(name), "{name} is missing");
    }
    for sample in scrape.iter() {
        for (key, value) in &sample.labels {
            let forbidden = ["session", "request_id", "id", "arguments"].contains(&key.as_str());
            assert!(
                !forbidden && value.len() < 100,
                "{}: {key}={value}",
                sample.name
            );
        }
    }
}

#[tokio::test]
async fn the_probes_answer_and_show_nothing_else() {
    let gate = Gate::with(&tables()).start().await;
    for path in ["/livez", "/readyz", "/startupz", "/metrics"] {
        assert_eq!(get(gate.health(), path).await.status, 200, "{path}");
    }
    for path in ["/", "/mcp", "/admin", "/debug/pprof", "/config"] {
        assert_eq!(get(gate.health(), path).await.status, 404, "{path}");
    }
    assert_eq!(
        request(gate.health(), "POST", "/livez", &[], "")
            .await
            .status,
        405
    );
    assert_eq!(
        get(gate.front(), "/metrics").await.status,
        404,
        "hosts see no metrics"
    );
}

#[tokio::test]
async fn every_log_line_is_json_and_no_secret_is_in_any_output() {
    let canary = "canary-7f3a";
    let table = mock("a").table(&format!("env = {{ TOKEN = \"{canary}-env\" }}"));
    let gate = Gate::with(&(table + "[identity]\nheader = \"x-agent-id\"\n"))
        .audited()
        .start()
        .await;
    let host = gate
        .host()
        .header("cookie", &format!("s={canary}-cookie"))
        .open()
        .await;
    host.call(
        "echo",
        json!({"message": format!("{canary}-arg"), "password": format!("{canary}-pw")}),
    )
    .await;
    host.call("rpc-error", json!({"token": format!("{canary}-token")}))
        .await;
    let metrics = get(gate.health(), "/metrics").await.text();
    let ready = get(gate.health(), "/readyz").await.text();
    let log = gate.log();
    assert!(!log.is_empty());
    for line in &log {
        let record: Value =
            serde_json::from_str(line).unwrap_or_else(|_| panic!("no JSON: {line}"));
        assert!(record.is_object());
    }
    let (_, folder) = gate.stop().await;
    let audit = std::fs::read_to_string(folder.path().join("audit.jsonl")).unwrap();
    for (what, text) in [
        ("log", log.join("\n")),
        ("metrics", metrics),
        ("readyz", ready),
        ("audit", audit),
    ] {
        assert!(!text.contains(canary), "{what} holds a secret: {text}");
    }
}

#[tokio::test]
async fn what_a_servers_processes_take_is_seen() {
    let table = mock("a").table("") + "[limits]\nin-flight-per-server = 2\n";
    let gate = Gate::with(&table).start().await;
    let host = gate.host().open().await;
    host.call("blob", json!({"bytes": 1})).await.tool_text();
    let of = async |name: &str| gate.scrape().await.sum(name, &[("server", "a")]);
    let count = async |name: &str| gate.scrape().await.count(name, &[("server", "a")]);
    assert_eq!(count("chillgate_child_processes").await, 1);
    let pid: u32 = host
        .call("pid", json!({}))
        .await
        .tool_text()
        .parse()
        .unwrap();
    let resident = of("chillgate_child_rss_bytes").await;
    let seen = chillgate_tests::process::resident(pid) as f64;
    assert!((resident / seen - 1.0).abs() < 0.2, "{resident} of {seen}");
    // Something to do, until it shows.
    let worked = chillgate_tests::until("its time", seconds(20), async || {
        host.call("blob", json!({"bytes": 4_000_000}))
            .await
            .tool_text();
        let cpu = of("chillgate_child_cpu_seconds_total").await;
        (cpu > 0.05).then_some(cpu)
    })
    .await;
    assert!(worked < 20.0, "{worked}");
    // Two may run, three wait.
    let calls = all((0..5).map(|_| host.call("wait", json!({"ms": 1500, "nonce": "n"}))));
    let waiting = chillgate_tests::until("the queue", seconds(5), async || {
        (count("chillgate_child_queue_depth").await == 3).then_some(())
    });
    tokio::join!(calls, waiting);
    assert_eq!(count("chillgate_child_queue_depth").await, 0);
}
