//! ChillMCP as a host meets it: through a stream of lines, on a paused clock.

use std::time::Duration;

use serde_json::json;
use tokio::time::{advance, sleep, timeout};

use super::*;
use crate::{Effects, Lang, Scope, Silent};
use host::{Ears, Host};

mod host;

fn settings(alertness: u8) -> Settings {
    Settings {
        alertness,
        ..Settings::default()
    }
}

fn chill(settings: Settings) -> Chill {
    Chill::with_seed(settings, Arc::new(Silent), 42)
}

fn by(agent: &str) -> Value {
    json!({ AGENT_KEY: agent })
}

async fn raise_to_5(host: &mut Host, agent: &str) {
    for level in 1..=4 {
        let result = host.call("take_a_break", by(agent)).await;
        assert_eq!(result["structuredContent"]["boss_alert_level"], level);
    }
    host.call("take_a_break", json!({ AGENT_KEY: agent, HELD_KEY: true }))
        .await;
}

#[tokio::test(start_paused = true)]
async fn initialize_is_answered_with_the_version_asked_for() {
    for version in ["2024-11-05", "2025-03-26", "2025-06-18", "2025-11-25"] {
        let mut host = Host::silent(&chill(settings(50)));
        let answer = host.initialize(version).await;
        let result = &answer["result"];
        assert_eq!(result["protocolVersion"], version);
        assert_eq!(result["serverInfo"]["name"], "ChillMCP");
        assert!(result["capabilities"]["tools"].is_object());
        assert!(
            result["instructions"]
                .as_str()
                .is_some_and(|text| text.contains("stress"))
        );
        host.close().await.expect("a closed stream is no error");
    }
}

#[tokio::test(start_paused = true)]
async fn a_version_without_initialize_or_unknown_is_answered_with_the_newest_that_has_it() {
    for version in ["2026-07-28", "1999-01-01"] {
        let mut host = Host::silent(&chill(settings(50)));
        let answer = host.initialize(version).await;
        assert_eq!(answer["result"]["protocolVersion"], "2025-11-25");
    }
}

#[tokio::test(start_paused = true)]
async fn the_instructions_speak_the_language_of_the_answers() {
    let mut host = Host::silent(&chill(Settings {
        lang: Lang::Ko,
        ..settings(50)
    }));
    let answer = host.initialize("2025-11-25").await;
    assert!(
        answer["result"]["instructions"]
            .as_str()
            .is_some_and(|text| text.contains("스트레스"))
    );
}

#[tokio::test(start_paused = true)]
async fn all_twelve_tools_are_listed_and_what_they_answer_fits_what_they_declare() {
    for (lang, effects) in [(Lang::En, Effects::Uniform), (Lang::Ko, Effects::Graded)] {
        let mut host = Host::new(&chill(Settings {
            effects,
            lang,
            ..settings(100)
        }))
        .await;
        let mut listed = host.ask("tools/list", Value::Null).await;
        let tools = listed["result"]["tools"].take();
        let tools = tools.as_array().expect("a list");
        assert_eq!(tools.len(), 12);
        assert_eq!(listed["result"].get("nextCursor"), None);
        for tool in tools {
            let schema = jsonschema::validator_for(&tool["outputSchema"]).expect("a schema");
            jsonschema::validator_for(&tool["inputSchema"]).expect("a schema");
            for _ in 0..6 {
                let name = tool["name"].as_str().expect("a name");
                let answer = host.ask("tools/call", json!({ "name": name })).await;
                let result = &answer["result"];
                let said = &result["structuredContent"];
                schema
                    .validate(said)
                    .unwrap_or_else(|error| panic!("{name}: {error} in {said}"));
                assert_eq!(result["isError"], false);
                assert_eq!(result["content"].as_array().map(Vec::len), Some(1));
                assert_eq!(result["content"][0]["type"], "text");
                let fields = format!(
                    "\n\nBreak Summary: {}\nStress Level: {}\nBoss Alert Level: {}",
                    said["summary"].as_str().expect("a string"),
                    said["stress_level"],
                    said["boss_alert_level"],
                );
                assert!(
                    result["content"][0]["text"]
                        .as_str()
                        .is_some_and(|t| t.ends_with(&fields))
                );
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn arguments_are_neither_needed_nor_read() {
    let mut host = Host::new(&chill(settings(0))).await;
    for params in [
        json!({ "name": "show_meme" }),
        json!({ "name": "show_meme", "arguments": null }),
        json!({ "name": "show_meme", "arguments": {} }),
        json!({ "name": "show_meme", "arguments": { "unknown": [1, { "deep": true }] } }),
    ] {
        let answer = host.ask("tools/call", params.clone()).await;
        assert_eq!(answer["result"]["isError"], false, "{params}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_request_that_makes_no_sense_is_refused_in_its_own_terms_and_changes_nothing() {
    let chill = chill(settings(100));
    let mut host = Host::new(&chill).await;
    let long = "x".repeat(100_000);
    let refused = [
        (
            "tools/call",
            json!({ "name": "nap" }),
            -32602,
            "Unknown tool: nap",
        ),
        (
            "tools/call",
            json!({ "name": long }),
            -32602,
            "Unknown tool: xxx",
        ),
        (
            "tools/call",
            json!({ "name": "show_meme", "arguments": "x" }),
            -32602,
            "tools/call needs",
        ),
        (
            "tools/call",
            json!({ "arguments": {} }),
            -32602,
            "tools/call needs",
        ),
        (
            "tools/call",
            json!({ "name": "show_meme", "_meta": { AGENT_KEY: 7 } }),
            -32602,
            "_meta[",
        ),
        (
            "tools/call",
            json!({ "name": "show_meme", "_meta": by(&long) }),
            -32602,
            "_meta[",
        ),
        (
            "tools/list",
            json!({ "cursor": "page-2" }),
            -32602,
            "Unknown cursor",
        ),
        (
            "tasks/list",
            Value::Null,
            -32601,
            "Method not found: tasks/list",
        ),
    ];
    for (method, params, code, message) in refused {
        let answer = host.ask(method, params).await;
        assert_eq!(answer["error"]["code"], code, "{answer}");
        let said = answer["error"]["message"].as_str().expect("a message");
        assert!(said.starts_with(message), "{said}");
        assert!(said.len() < 300);
    }
    assert!(chill.levels().is_empty());
    host.call("show_meme", Value::Null).await;
}

#[tokio::test(start_paused = true)]
async fn the_fifth_and_sixth_break_are_held_20_seconds_and_the_alert_stays_at_5() {
    let mut host = Host::new(&chill(settings(100))).await;
    for call in 1..=6 {
        let start = Instant::now();
        let result = host.call("chimaek", Value::Null).await;
        let held = if call < 5 { 0 } else { 20 };
        assert_eq!(start.elapsed().as_secs(), held, "call {call}");
        assert!(start.elapsed() < Duration::from_secs(held) + Duration::from_millis(50));
        let said = &result["structuredContent"];
        assert_eq!(said["held_seconds"], held);
        assert_eq!(said["boss_alert_level"], call.min(5));
        assert_eq!(said["boss_alert_change"], i32::from(call <= 5));
    }
}

#[tokio::test(start_paused = true)]
async fn the_answer_shows_the_levels_of_the_break_and_the_cooldown_runs_on_during_the_hold() {
    let chill = chill(Settings {
        cooldown: Duration::from_secs(15),
        level: 5,
        ..settings(0)
    });
    let mut host = Host::new(&chill).await;
    let result = host.call("chimaek", Value::Null).await;
    assert_eq!(result["structuredContent"]["boss_alert_level"], 5);
    assert_eq!(chill.levels()[0].1.alert, 4);
}

#[tokio::test(start_paused = true)]
async fn a_call_that_a_policy_has_held_is_not_held_again() {
    let mut host = Host::new(&chill(Settings {
        level: 5,
        ..settings(100)
    }))
    .await;
    let start = Instant::now();
    let result = host.call("chimaek", json!({ HELD_KEY: true })).await;
    assert_eq!(start.elapsed().as_secs(), 0);
    assert_eq!(result["structuredContent"]["boss_alert_level"], 5);
    assert_eq!(result["structuredContent"]["held_seconds"], 0);
    for not_held in [json!({ HELD_KEY: false }), json!({ HELD_KEY: "true" })] {
        let start = Instant::now();
        host.call("chimaek", not_held).await;
        assert_eq!(start.elapsed().as_secs(), 20);
    }
}

#[tokio::test(start_paused = true)]
async fn while_one_call_is_held_the_others_are_answered_at_once() {
    let chill = chill(settings(100));
    let mut host = Host::new(&chill).await;
    raise_to_5(&mut host, "ada").await;
    let start = Instant::now();
    let held = host
        .start(
            "tools/call",
            json!({ "name": "chimaek", "_meta": by("ada") }),
        )
        .await;
    host.call("chimaek", by("bob")).await;
    let status = host.call("check_stress_status", by("ada")).await;
    assert_eq!(status["structuredContent"]["boss_alert_level"], 5);
    Host::new(&chill).await.call("chimaek", by("carol")).await;
    assert_eq!(start.elapsed().as_secs(), 0);
    host.answer(held).await;
    assert_eq!(start.elapsed().as_secs(), 20);
}

#[tokio::test(start_paused = true)]
async fn the_status_changes_nothing_and_never_waits() {
    let mut host = Host::new(&chill(Settings {
        level: 5,
        ..settings(100)
    }))
    .await;
    let start = Instant::now();
    for _ in 0..20 {
        let said = host.call("check_stress_status", Value::Null).await["structuredContent"].take();
        assert_eq!(
            (&said["stress_level"], &said["stress_change"]),
            (&json!(50), &json!(0))
        );
        assert_eq!(
            (&said["boss_alert_level"], &said["boss_alert_change"]),
            (&json!(5), &json!(0))
        );
        assert_eq!(said["held_seconds"], 0);
    }
    assert_eq!(start.elapsed().as_secs(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_held_caller_hears_progress_at_once_and_each_second() {
    let mut host = Host::new(&chill(Settings {
        level: 5,
        ..settings(100)
    }))
    .await;
    let start = Instant::now();
    let params = json!({ "name": "chimaek", "_meta": { "progressToken": "t-1" } });
    let id = host.start("tools/call", params).await;
    for second in 0..20 {
        let message = host.next().await.expect("progress");
        assert_eq!(message["method"], "notifications/progress");
        let params = &message["params"];
        assert_eq!(params["progressToken"], "t-1");
        assert_eq!(params["progress"], f64::from(second));
        assert_eq!(params["total"], 20.0);
        assert!(
            params["message"]
                .as_str()
                .is_some_and(|text| !text.is_empty())
        );
        assert_eq!(start.elapsed().as_secs(), u64::try_from(second).unwrap());
    }
    let last = host.next().await.expect("the answer");
    assert_eq!(last["id"], id);
    assert_eq!(start.elapsed().as_secs(), 20);
}

#[tokio::test(start_paused = true)]
async fn a_caller_that_is_not_held_or_gave_no_token_hears_no_progress() {
    let with_token = json!({ "name": "chimaek", "_meta": { "progressToken": 1 } });
    let without = json!({ "name": "chimaek" });
    for (level, params) in [(0, with_token), (5, without)] {
        let mut host = Host::new(&chill(Settings {
            level,
            ..settings(100)
        }))
        .await;
        let id = host.start("tools/call", params).await;
        assert_eq!(host.next().await.expect("the answer")["id"], id);
    }
}

#[tokio::test(start_paused = true)]
async fn a_caller_that_reads_no_progress_waits_no_longer_for_it() {
    let chill = chill(Settings {
        level: 5,
        ..settings(100)
    });
    // So narrow that the first progress message does not fit until somebody reads.
    let mut host = Host::through(&chill, 32);
    host.initialize("2025-11-25").await;
    let params = json!({ "name": "chimaek", "_meta": { "progressToken": 1 } });
    let id = host.start("tools/call", params).await;
    sleep(Duration::from_millis(19_900)).await;
    assert_eq!(
        chill.shared.breaks.available_permits(),
        MAX_BREAKS - 1,
        "still held"
    );
    sleep(Duration::from_millis(200)).await;
    assert_eq!(
        chill.shared.breaks.available_permits(),
        MAX_BREAKS,
        "done, unread as it is"
    );
    host.answer(id).await;
}

#[tokio::test(start_paused = true)]
async fn a_cancelled_call_stops_waiting_and_is_not_answered() {
    let chill = chill(Settings {
        level: 5,
        ..settings(100)
    });
    let mut host = Host::new(&chill).await;
    let id = host
        .start(
            "tools/call",
            json!({ "name": "chimaek", "_meta": { "progressToken": 1 } }),
        )
        .await;
    advance(Duration::from_millis(4_500)).await;
    let cancel = json!({ "jsonrpc": "2.0", "method": "notifications/cancelled",
        "params": { "requestId": id, "reason": "lunch" } });
    host.say(&cancel).await;
    host.ask("ping", Value::Null).await;
    tokio::task::yield_now().await;
    assert_eq!(
        chill.shared.breaks.available_permits(),
        MAX_BREAKS,
        "nobody is waiting any more"
    );
    while let Ok(Some(message)) = timeout(Duration::from_mins(1), host.next()).await {
        assert_eq!(message["method"], "notifications/progress");
        assert!(
            message["params"]["progress"]
                .as_f64()
                .is_some_and(|second| second < 5.0)
        );
    }
    assert_eq!(
        chill.levels()[0].1.alert,
        5,
        "the break was taken all the same"
    );
}

#[tokio::test(start_paused = true)]
async fn a_closed_connection_ends_its_holds_and_leaves_the_levels() {
    let chill = chill(Settings {
        level: 5,
        ..settings(100)
    });
    let mut host = Host::new(&chill).await;
    host.start("tools/call", json!({ "name": "chimaek" })).await;
    host.ask("ping", Value::Null).await;
    let start = Instant::now();
    host.close().await.expect("a closed stream is no error");
    assert!(
        start.elapsed() <= Duration::from_secs(6),
        "{:?}",
        start.elapsed()
    );
    sleep(Duration::from_millis(1)).await;
    assert_eq!(chill.shared.breaks.available_permits(), MAX_BREAKS);
    assert_eq!(chill.levels()[0].1.alert, 5);
}

#[tokio::test(start_paused = true)]
async fn more_breaks_than_there_is_room_for_are_refused_before_they_count() {
    let chill = chill(settings(100));
    let _everybody = chill
        .shared
        .breaks
        .try_acquire_many(MAX_BREAKS as u32)
        .expect("room");
    let mut host = Host::new(&chill).await;
    let answer = host.ask("tools/call", json!({ "name": "chimaek" })).await;
    assert_eq!(answer["error"]["code"], -32603);
    let status = host.call("check_stress_status", Value::Null).await;
    assert_eq!(status["structuredContent"]["boss_alert_level"], 0);
}

#[tokio::test(start_paused = true)]
async fn something_before_initialize_ends_the_connection_with_an_error() {
    let mut host = Host::silent(&chill(settings(50)));
    host.say(&json!({ "jsonrpc": "2.0", "method": "notifications/initialized" }))
        .await;
    let ended = host.served.await.expect("no panic");
    assert!(
        matches!(ended, Err(ChillError::NotInitialized)),
        "{ended:?}"
    );
}

#[tokio::test(start_paused = true)]
async fn a_peer_that_says_nothing_and_leaves_is_no_error() {
    Host::silent(&chill(settings(50)))
        .close()
        .await
        .expect("nothing went wrong");
}

#[tokio::test(start_paused = true)]
async fn every_agent_has_its_own_boss_over_one_connection_unless_the_scope_is_shared() {
    for (scope, ada, bob) in [(Scope::Agent, 2, 1), (Scope::Shared, 3, 3)] {
        let mut host = Host::new(&chill(Settings {
            scope,
            ..settings(100)
        }))
        .await;
        for agent in ["ada", "bob", "ada"] {
            host.call("chimaek", by(agent)).await;
        }
        for (agent, level) in [("ada", ada), ("bob", bob)] {
            let status = host.call("check_stress_status", by(agent)).await;
            assert_eq!(
                status["structuredContent"]["boss_alert_level"], level,
                "{scope:?} {agent}"
            );
        }
    }
}

#[tokio::test(start_paused = true)]
async fn an_empty_agent_is_the_nameless_one() {
    let chill = chill(settings(100));
    let mut host = Host::new(&chill).await;
    host.call("chimaek", by("")).await;
    host.call("chimaek", Value::Null).await;
    let levels = chill.levels();
    assert_eq!(levels.len(), 1);
    assert_eq!((&*levels[0].0, levels[0].1.alert), (ANONYMOUS, 2));
}

#[tokio::test(start_paused = true)]
async fn stress_rises_once_a_minute_as_seen_by_a_host() {
    let mut host = Host::new(&chill(settings(0))).await;
    for minute in 0..5 {
        for _ in 0..3 {
            let status = host.call("check_stress_status", Value::Null).await;
            assert_eq!(status["structuredContent"]["stress_level"], 50 + minute);
        }
        advance(Duration::from_mins(1)).await;
    }
}

#[tokio::test(start_paused = true)]
async fn new_settings_reach_open_connections() {
    let chill = chill(settings(0));
    let mut host = Host::new(&chill).await;
    assert_eq!(
        host.call("chimaek", Value::Null).await["structuredContent"]["boss_alert_level"],
        0
    );
    chill.update(Settings {
        level: 3,
        ..settings(100)
    });
    assert_eq!(
        host.call("chimaek", Value::Null).await["structuredContent"]["boss_alert_level"],
        1
    );
    chill.reset(None);
    let status = host.call("check_stress_status", Value::Null).await;
    assert_eq!(status["structuredContent"]["boss_alert_level"], 3);
}

#[tokio::test(start_paused = true)]
async fn the_observer_hears_each_call_once_and_before_the_hold() {
    let ears = Arc::new(Ears::default());
    let chill = Chill::with_seed(
        Settings {
            level: 4,
            ..settings(100)
        },
        ears.clone(),
        1,
    );
    let mut host = Host::new(&chill).await;
    let id = host
        .start(
            "tools/call",
            json!({ "name": "chimaek", "_meta": by("ada") }),
        )
        .await;
    host.ask("ping", Value::Null).await;
    tokio::task::yield_now().await;
    let heard = ears.heard();
    assert_eq!(heard.len(), 1);
    assert_eq!((&*heard[0].agent, heard[0].tool), ("ada", "chimaek"));
    assert_eq!(
        heard[0].before,
        Levels {
            stress: 50,
            alert: 4
        }
    );
    assert_eq!(heard[0].after.alert, 5);
    assert!(heard[0].after.stress < 50);
    assert_eq!(heard[0].held, Some(Duration::from_secs(20)));
    host.answer(id).await;
    host.call("check_stress_status", by("ada")).await;
    let heard = ears.heard();
    assert_eq!(heard.len(), 2);
    assert_eq!(
        (heard[1].tool, heard[1].held),
        ("check_stress_status", None)
    );
    assert_eq!(heard[1].before, heard[1].after);
}

/// On several threads and the real clock: nothing here waits, as nobody is ever held.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn sixty_four_concurrent_callers_lose_no_update() {
    const CALLERS: usize = 64;
    const CALLS: usize = 25;
    let ears = Arc::new(Ears::default());
    let hold = Duration::ZERO;
    let chill = Chill::with_seed(
        Settings {
            hold,
            ..settings(100)
        },
        ears.clone(),
        9,
    );
    let mut callers = tokio::task::JoinSet::new();
    for _ in 0..CALLERS {
        let chill = chill.clone();
        callers.spawn(async move {
            let mut host = Host::new(&chill).await;
            let mut said = Vec::new();
            for _ in 0..CALLS {
                said.push(host.call("show_meme", by("crowd")).await["structuredContent"].take());
            }
            said
        });
    }
    let said: Vec<Value> = callers.join_all().await.into_iter().flatten().collect();
    assert_eq!(said.len(), CALLERS * CALLS);
    assert_eq!(ears.heard().len(), CALLERS * CALLS);

    let total = |key: &str| said.iter().filter_map(|one| one[key].as_i64()).sum::<i64>();
    let levels = chill.levels();
    assert_eq!(
        total("boss_alert_change"),
        5,
        "each of the five rises is in exactly one answer"
    );
    assert_eq!(total("stress_change"), i64::from(levels[0].1.stress) - 50);
    assert_eq!(
        levels[0].1,
        Levels {
            stress: 0,
            alert: 5
        }
    );
}
