//! ChillMCP end to end: its answers, its flags, its one real hold, and two agents side by side.
//!
//! It stands apart from the crate's own tests, which move a paused clock: here a held break takes
//! its 20 s once, on a real clock, over a real pipe.

use std::sync::Arc;

use serde_json::{Value, json};
use tokio::task::JoinSet;
use tokio::time::Instant;

use chillgate_tests::gate::bare;
use chillgate_tests::wait::{all, seconds, within};
use chillgate_tests::{Gate, Host, PipeHost};

const BREAKS: [&str; 11] = [
    "take_a_break",
    "watch_netflix",
    "show_meme",
    "bathroom_break",
    "coffee_mission",
    "urgent_call",
    "deep_thinking",
    "email_organizing",
    "chimaek",
    "company_dinner",
    "leave_work",
];

/// What the three expressions of the assignment find in an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Levels {
    stress: u8,
    alert: u8,
}

/// Reads an answer as a client with the three expressions would.
fn levels(text: &str) -> Levels {
    let after = |label: &str| {
        let rest = text
            .split_once(label)
            .unwrap_or_else(|| panic!("no {label} in {text}"))
            .1;
        rest.trim_start().to_owned()
    };
    let summary = after("Break Summary:");
    assert!(
        !summary.lines().next().unwrap_or_default().is_empty(),
        "an empty summary: {text}"
    );
    let number = |label: &str| -> u8 {
        let rest = after(label);
        let digits: String = rest.chars().take_while(char::is_ascii_digit).collect();
        digits
            .parse()
            .unwrap_or_else(|_| panic!("no number after {label}: {text}"))
    };
    let found = Levels {
        stress: number("Stress Level:"),
        alert: number("Boss Alert Level:"),
    };
    assert!(found.stress <= 100 && found.alert <= 5, "{text}");
    found
}

fn chill(args: &[&str]) -> PipeHost {
    let mut command = bare();
    command.arg("chill").args(args);
    PipeHost::start(command)
}

fn text(answer: &Value) -> &str {
    answer["result"]["content"][0]["text"]
        .as_str()
        .unwrap_or_else(|| panic!("no text: {answer}"))
}

#[tokio::test]
async fn every_tool_answers_in_the_form_that_clients_read() {
    let mut host = chill(&["--boss_alertness", "0"]);
    host.open(json!({})).await;
    let listed = host.request("tools/list", json!({})).await;
    let mut names: Vec<&str> = listed["result"]["tools"]
        .as_array()
        .unwrap()
        .iter()
        .filter_map(|t| t["name"].as_str())
        .collect();
    names.sort_unstable();
    let mut expected = BREAKS.to_vec();
    expected.push("check_stress_status");
    expected.sort_unstable();
    assert_eq!(names, expected);
    for name in expected {
        for arguments in [None, Some(json!({})), Some(json!({"unknown": [1]}))] {
            let mut params = json!({"name": name});
            if let Some(arguments) = arguments {
                params["arguments"] = arguments;
            }
            let answer = host.request("tools/call", params).await;
            assert_eq!(answer["result"]["content"].as_array().unwrap().len(), 1);
            let read = levels(text(&answer));
            assert_eq!(read.alert, 0, "at 0 % the alert never rises");
            let structured = &answer["result"]["structuredContent"];
            assert_eq!(structured["stress_level"], read.stress);
            assert_eq!(structured["boss_alert_level"], read.alert);
            for member in [
                "summary",
                "stress_change",
                "boss_alert_change",
                "held_seconds",
            ] {
                assert!(!structured[member].is_null(), "{member}: {structured}");
            }
        }
    }
    let (status, stderr) = host.finish(seconds(10)).await;
    assert!(status.success(), "{stderr}");
}

#[tokio::test]
async fn at_100_percent_the_fifth_break_is_held_20_seconds_and_the_status_is_not() {
    let mut host = chill(&[
        "--boss_alertness",
        "100",
        "--boss_alertness_cooldown",
        "600",
    ]);
    host.open(json!({})).await;
    for expected in 1..=4 {
        let began = Instant::now();
        let answer = host.call("take_a_break", json!({})).await;
        assert_eq!(levels(text(&answer)).alert, expected);
        assert!(
            began.elapsed() < seconds(1),
            "a break below 5 was held {:?}",
            began.elapsed()
        );
    }
    let began = Instant::now();
    let params = json!({"name": "take_a_break", "_meta": {"progressToken": "hold"}});
    let held = host.send("tools/call", params).await;
    let status = host.call("check_stress_status", json!({})).await;
    assert_eq!(levels(text(&status)).alert, 5);
    assert!(began.elapsed() < seconds(1), "the status tool was delayed");
    let progress = host.heard("notifications/progress").await;
    assert_eq!(progress["params"]["progressToken"], "hold");
    let answer = host.answer(&json!(held)).await;
    let took = began.elapsed().as_secs_f64();
    assert!((19.5..22.0).contains(&took), "held {took} s");
    assert_eq!(levels(text(&answer)).alert, 5);
    let held_for = answer["result"]["structuredContent"]["held_seconds"]
        .as_f64()
        .unwrap();
    assert!((held_for - 20.0).abs() < 0.5, "{held_for}");
}

#[tokio::test]
async fn a_cooldown_of_one_second_lets_the_alert_fall_without_a_call() {
    let mut host = chill(&["--boss-alertness", "100", "--boss-alertness-cooldown", "1"]);
    host.open(json!({})).await;
    for _ in 0..3 {
        host.call("show_meme", json!({})).await;
    }
    let at = levels(text(&host.call("check_stress_status", json!({})).await)).alert;
    assert!(at >= 2, "{at}");
    tokio::time::sleep(seconds(5)).await;
    let now = levels(text(&host.call("check_stress_status", json!({})).await)).alert;
    assert_eq!(now, 0);
}

#[tokio::test]
async fn a_flag_out_of_range_is_one_line_and_exit_2_before_anything_is_served() {
    for (flag, value) in [
        ("--boss_alertness", "101"),
        ("--boss_alertness", "-1"),
        ("--boss-alertness", "fifty"),
        ("--boss_alertness_cooldown", "-1"),
        ("--boss-alertness-cooldown", "1.5"),
    ] {
        let output = bare().args(["chill", flag, value]).output().await.unwrap();
        assert_eq!(output.status.code(), Some(2), "{flag} {value}");
        assert!(output.stdout.is_empty());
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!(said.trim_end().lines().count(), 1, "{said}");
        let named = said.contains(&flag[2..]) || said.contains(&flag[2..].replace('-', "_"));
        assert!(named, "the flag is not named: {said}");
    }
}

#[tokio::test]
async fn without_a_config_serve_answers_with_the_default_policies() {
    let (front, health) = (
        chillgate_tests::process::free_port(),
        chillgate_tests::process::free_port(),
    );
    let home = tempfile::tempdir().unwrap();
    let mut serve = bare();
    serve.env("HOME", home.path()).current_dir(home.path());
    serve.args([
        "serve",
        "--listen",
        &format!("127.0.0.1:{front}"),
        "--health",
        &format!("127.0.0.1:{health}"),
    ]);
    serve
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::null());
    let child = serve.spawn().unwrap();
    let address = std::net::SocketAddr::from(([127, 0, 0, 1], front));
    chillgate_tests::until("the front", seconds(10), async || {
        tokio::net::TcpStream::connect(address).await.ok().map(drop)
    })
    .await;
    let host = Host::new(address).open().await;
    assert_eq!(host.tools().await.len(), 12);
    let replies = all((0..30).map(|_| host.call("check_stress_status", json!({})))).await;
    let refused = replies
        .iter()
        .filter(|reply| reply.code() == Some(42900))
        .count();
    assert!(
        (8..=10).contains(&refused),
        "a burst of 20 let {} of 30 through",
        30 - refused
    );
    chillgate_tests::process::signal(&child, rustix::process::Signal::TERM);
    let output = within("the drain", seconds(10), child.wait_with_output())
        .await
        .unwrap();
    assert!(output.status.success(), "{}", output.status);
    let records = String::from_utf8(output.stdout).unwrap();
    assert!(
        records
            .lines()
            .any(|line| line.contains("\"check_stress_status\"")),
        "no audit record on stdout"
    );
}

const SHARED: &str = "[identity]\nheader = \"x-agent-id\"\n[server.chill]\nbuiltin = \"chill\"\nboss-alertness = 100\nboss-alertness-cooldown = \"1h\"\nhold = \"1s\"\n";

#[tokio::test]
async fn each_agent_has_its_own_boss_and_a_held_one_slows_nobody() {
    let gate = Gate::with(SHARED).start().await;
    let one = gate.host().header("x-agent-id", "one").open().await;
    let two = gate.host().header("x-agent-id", "two").open().await;
    for _ in 0..4 {
        one.call("chimaek", json!({})).await;
    }
    let held = async {
        let began = Instant::now();
        let reply = one.call("chimaek", json!({})).await;
        (began.elapsed(), levels(reply.tool_text()).alert)
    };
    let free = async {
        let began = Instant::now();
        let reply = two.call("chimaek", json!({})).await;
        (began.elapsed(), levels(reply.tool_text()).alert)
    };
    let (held, free) = tokio::join!(held, free);
    assert!(held.0 >= seconds(1) && held.1 == 5, "{held:?}");
    assert!(free.0 < seconds(1) && free.1 == 1, "{free:?}");
}

#[tokio::test]
async fn sixty_four_callers_at_once_lose_no_update() {
    let gate =
        Gate::with(&SHARED.replace("boss-alertness = 100", "boss-alertness = 0\nstress = 100"))
            .start()
            .await;
    let host = Arc::new(gate.host().header("x-agent-id", "one").open().await);
    let mut callers = JoinSet::new();
    for _ in 0..64 {
        let host = Arc::clone(&host);
        callers.spawn(async move { host.call("email_organizing", json!({})).await });
    }
    let mut changed = 0;
    let mut lowest = 100_i64;
    while let Some(reply) = callers.join_next().await {
        let reply = reply.unwrap();
        let structured = &reply.result()["structuredContent"];
        changed += structured["stress_change"].as_i64().unwrap();
        lowest = lowest.min(structured["stress_level"].as_i64().unwrap());
    }
    let status = host.call("check_stress_status", json!({})).await;
    let now = i64::from(levels(status.tool_text()).stress);
    assert_eq!(100 + changed, now, "the changes do not add up to the level");
    assert_eq!(lowest, now);
}

#[tokio::test]
async fn a_cancelled_hold_frees_the_agents_slot_at_once() {
    let gate = Gate::with(&SHARED.replace("hold = \"1s\"", "hold = \"20s\""))
        .start()
        .await;
    let host = gate.host().header("x-agent-id", "one").open().await;
    for _ in 0..4 {
        host.call("chimaek", json!({})).await;
    }
    let call = host.message("tools/call", Some(json!({"name": "chimaek"})));
    let cancel = async {
        tokio::time::sleep(std::time::Duration::from_millis(500)).await;
        host.notify(
            "notifications/cancelled",
            Some(json!({"requestId": call["id"]})),
        )
        .await
    };
    let (_, status) = within("the cancelled hold", seconds(3), async {
        tokio::join!(host.post(&call), cancel)
    })
    .await;
    assert_eq!(status, 202);
    assert_eq!(
        levels(
            host.call("check_stress_status", json!({}))
                .await
                .tool_text()
        )
        .alert,
        5
    );
}

#[tokio::test]
async fn a_break_that_a_policy_has_held_is_not_held_again() {
    let tables = "[server.chill]\nbuiltin = \"chill\"\nboss-alertness = 100\n\
                  [[policy]]\ntype = \"boss-alert\"\nalertness = 100\nhold = \"1s\"\n\
                  match = { method = \"tools/call\" }\n";
    let gate = Gate::with(tables).start().await;
    let host = gate.host().open().await;
    for _ in 0..4 {
        host.call("take_a_break", json!({})).await;
    }
    // Both the policy and ChillMCP itself are at level 5 now.
    let began = Instant::now();
    let reply = host.call("take_a_break", json!({})).await;
    let took = began.elapsed();
    assert_eq!(levels(reply.tool_text()).alert, 5);
    assert!(took >= seconds(1) && took < seconds(10), "{took:?}");
}
