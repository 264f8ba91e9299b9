//! What a scrape shows, in the text that Prometheus reads.

use chillgate_policies::engine::services::Meter;

use super::*;

fn levels(count: u8) -> Vec<ChillLevels> {
    (0..count)
        .map(|n| ChillLevels {
            agent: format!("agent-{n}").into(),
            stress: n,
            alert: n % 6,
        })
        .collect()
}

fn shows(metrics: &Metrics, line: &str) {
    let text = metrics.render();
    assert!(
        text.lines().any(|it| it == line),
        "no line `{line}` in:\n{text}"
    );
}

#[test]
fn an_exchange_is_counted_once_under_its_outcome() {
    let metrics = Metrics::new();
    metrics.path("files", "stdio");
    let handle = metrics.exchange("files", "tools/call");
    let running = handle.begin();
    shows(&metrics, r#"chillgate_inflight_requests{server="files"} 1"#);
    handle.done(
        "ok",
        Duration::from_millis(3),
        Some(Duration::from_micros(15)),
    );
    drop(running);
    metrics.done(
        "files",
        "tools/call",
        "tool_error",
        Duration::from_millis(3),
    );
    metrics.refused("files", "tools/call", "quota");
    let request = r#"chillgate_requests_total{method="tools/call",outcome="#;
    for (outcome, count) in [("ok", 1), ("tool_error", 1), ("quota", 1), ("timeout", 0)] {
        shows(
            &metrics,
            &format!("{request}\"{outcome}\",server=\"files\"}} {count}"),
        );
    }
    shows(&metrics, r#"chillgate_inflight_requests{server="files"} 0"#);
    let buckets =
        r#"chillgate_request_duration_seconds_bucket{method="tools/call",server="files",le="#;
    shows(&metrics, &format!("{buckets}\"0.0025\"}} 0"));
    shows(&metrics, &format!("{buckets}\"0.005\"}} 2"));
    shows(
        &metrics,
        r#"chillgate_overhead_seconds_bucket{path="stdio",le="0.00002"} 1"#,
    );
}

#[test]
fn the_handle_of_a_server_and_method_is_made_once() {
    let metrics = Metrics::new();
    let first = metrics.exchange("files", "tools/call");
    assert!(Arc::ptr_eq(
        &first,
        &metrics.exchange("files", "tools/call")
    ));
    assert!(!Arc::ptr_eq(
        &first,
        &metrics.exchange("other", "tools/call")
    ));
}

#[test]
fn words_from_outside_make_no_series() {
    let metrics = Metrics::new();
    for n in 0..5000 {
        metrics.done("*", &format!("made/up-{n}"), "ok", Duration::ZERO);
        metrics.done(&format!("server-{n}"), "ping", "surprise", Duration::ZERO);
    }
    let text = metrics.render();
    assert!(
        !text.contains("made/up"),
        "an unknown method became a label"
    );
    shows(
        &metrics,
        r#"chillgate_requests_total{method="_OTHER",outcome="ok",server="*"} 5000"#,
    );
    shows(
        &metrics,
        r#"chillgate_requests_total{method="ping",outcome="other",server="_OTHER"} 4001"#,
    );
}

#[test]
fn a_policys_decisions_are_counted_by_reason() {
    let metrics = Metrics::new();
    let tally = metrics.policy("per-agent", "quota");
    tally.decided("admit", "none");
    tally.decided("admit", "none");
    tally.decided("reject", "spent");
    tally.delayed(Duration::from_secs(20));
    let decisions = "chillgate_policy_decisions_total{";
    shows(
        &metrics,
        &format!(
            r#"{decisions}decision="admit",kind="quota",policy="per-agent",reason="none"}} 2"#
        ),
    );
    shows(
        &metrics,
        &format!(
            r#"{decisions}decision="reject",kind="quota",policy="per-agent",reason="spent"}} 1"#
        ),
    );
    shows(
        &metrics,
        r#"chillgate_delay_seconds_bucket{policy="per-agent",le="20"} 1"#,
    );
}

#[test]
fn agents_have_series_of_their_own_only_while_they_are_few() {
    let metrics = Metrics::new();
    metrics.chill_from(|| levels(50));
    shows(
        &metrics,
        r#"chillgate_chill_stress_level{agent="agent-49"} 49"#,
    );
    shows(
        &metrics,
        r#"chillgate_chill_boss_alert_level{agent="agent-5"} 5"#,
    );
    metrics.chill_from(|| levels(51));
    let text = metrics.render();
    assert!(!text.contains("agent-"), "51 agents are too many:\n{text}");
    shows(&metrics, "chillgate_chill_stress_level_max 50");
    shows(&metrics, "chillgate_chill_boss_alert_level_max 5");
}

#[test]
fn a_rejected_reload_leaves_the_time_of_the_last_good_one() {
    let metrics = Metrics::new();
    metrics.config_loaded(
        Reload::Applied,
        UNIX_EPOCH + Duration::from_secs(1_800_000_001),
    );
    metrics.config_loaded(
        Reload::Rejected,
        UNIX_EPOCH + Duration::from_secs(1_900_000_001),
    );
    shows(&metrics, "chillgate_config_last_reload_successful 0");
    shows(
        &metrics,
        "chillgate_config_last_reload_success_timestamp_seconds 1800000001",
    );
    shows(
        &metrics,
        r#"chillgate_config_reloads_total{result="rejected"} 1"#,
    );
}

#[test]
fn every_family_has_help_and_a_type() {
    let metrics = Metrics::new();
    metrics.sessions(3);
    metrics.streams("legacy", 2);
    metrics.children_from(|| {
        vec![ServerHealth {
            server: "files".into(),
            up: Some(true),
            ..ServerHealth::default()
        }]
    });
    metrics.child_restarted("files", "ended");
    metrics.child_protocol_error("files", "not_json");
    metrics.child_stderr_dropped("files", 7);
    metrics.dropped("*", "answer_to_nobody");
    metrics.telemetry_dropped("logs", 1);
    metrics.audit("file").written(2);
    metrics.audit("file").failed();
    metrics.panicked();
    metrics.done("files", "ping", "ok", Duration::ZERO);
    let text = metrics.render();
    for line in text.lines().filter(|line| !line.starts_with('#')) {
        let name = line.split(['{', ' ']).next().expect("a name");
        let family = ["_bucket", "_sum", "_count"]
            .iter()
            .find_map(|end| name.strip_suffix(end));
        let family = family
            .filter(|it| text.contains(&format!("# TYPE {it} histogram")))
            .unwrap_or(name);
        assert!(
            text.contains(&format!("# HELP {family} ")),
            "{name} has no help"
        );
        assert!(
            name.starts_with("chillgate_") || name.starts_with("process_"),
            "{name}"
        );
    }
    shows(&metrics, r#"chillgate_sessions{state="open"} 3"#);
    shows(&metrics, "chillgate_panics_total 1");
    assert!(text.contains("process_open_fds"), "{text}");
    assert!(text.contains("chillgate_build_info{"), "{text}");
}

#[test]
fn a_quota_shows_the_least_share_left_of_any_budget() {
    let metrics = Metrics::new();
    let left = |policy: &str, share| BudgetLeft {
        policy: policy.into(),
        share,
    };
    metrics.budgets_from(move || vec![left("calls", 0.75), left("calls", 0.25), left("idle", 1.0)]);
    shows(
        &metrics,
        r#"chillgate_quota_remaining_ratio{policy="calls"} 0.25"#,
    );
    shows(
        &metrics,
        r#"chillgate_quota_remaining_ratio{policy="idle"} 1"#,
    );
    metrics.budgets_from(Vec::new);
    assert!(
        !metrics
            .render()
            .contains("chillgate_quota_remaining_ratio{")
    );
}
