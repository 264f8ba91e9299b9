//! Servers that die are there again, and their hosts need do nothing about it.
//!
//! It stands apart because processes are killed from outside, and what the next one is told is read
//! from the ledger that all of them write.

use std::time::Duration;

use tokio::time::Instant;

use serde_json::{Value, json};

use chillgate_tests::http::get;
use chillgate_tests::process::{mark, marked, send};
use chillgate_tests::wait::{all, long, seconds};
use chillgate_tests::{Gate, Host, until};
use rustix::process::Signal;

use crate::{MOCK, mock};

async fn pid(host: &Host) -> u32 {
    let reply = host.call("pid", json!({})).await;
    reply.tool_text().parse().expect("a process id")
}

async fn readiness(gate: &Gate) -> Value {
    serde_json::from_str(&get(gate.health(), "/readyz").await.text()).expect("JSON")
}

#[tokio::test]
async fn an_idle_server_that_is_killed_is_back_before_the_next_call() {
    let mark = mark();
    let gate = Gate::with(&mock("a").flags(&["--mark", &mark]).table(""))
        .start()
        .await;
    let host = gate.host().open().await;
    let first = pid(&host).await;
    send(first, Signal::KILL);
    // Nobody calls; it comes back all the same.
    let restarts = async || {
        let labels = [("server", "a"), ("reason", "ended")];
        let scrape = gate.scrape().await;
        scrape.count("chillgate_child_restarts_total", &labels)
    };
    until("another process", seconds(5), async || {
        let pids: Vec<u32> = marked(&mark).iter().map(|found| found.pid).collect();
        (restarts().await == 1 && !pids.contains(&first)).then_some(())
    })
    .await;
    assert_ne!(pid(&host).await, first);
    assert_eq!(restarts().await, 1);
}

#[tokio::test]
async fn a_call_after_a_kill_succeeds_and_the_new_server_knows_the_host() {
    let gate = Gate::with(&mock("a").ledger().table("")).start().await;
    let declared = json!({"roots": {"listChanged": true}, "elicitation": {}});
    let (host, _) = gate.host().open_with(declared).await;
    assert!(
        host.request("logging/setLevel", json!({"level": "warning"}))
            .await
            .result()
            .is_object()
    );
    for uri in ["mock://a", "mock://b"] {
        host.request("resources/subscribe", json!({"uri": uri}))
            .await
            .result();
    }
    host.request("resources/unsubscribe", json!({"uri": "mock://b"}))
        .await
        .result();
    let mut events = host.listen().await;
    let first = pid(&host).await;
    let hello = |heard: &chillgate_tests::server::Heard| {
        let hellos = heard.of("initialize");
        hellos
            .into_iter()
            .map(|hello| hello["params"].clone())
            .collect::<Vec<_>>()
    };
    let own: Vec<_> = hello(&gate.heard("a"))
        .into_iter()
        .filter(|params| params["capabilities"]["roots"].is_object())
        .collect();
    assert_eq!(own.len(), 1);
    send(first, Signal::KILL);
    // A subscription is missed without any call.
    until("the subscription made again", seconds(5), async || {
        let heard = gate.heard("a");
        (heard.of("resources/subscribe").len() == 3).then_some(())
    })
    .await;
    let heard = gate.heard("a");
    let again: Vec<_> = hello(&heard)
        .into_iter()
        .filter(|params| params["capabilities"]["roots"].is_object())
        .collect();
    assert_eq!(
        again,
        [own[0].clone(), own[0].clone()],
        "it met another host"
    );
    let levels = heard.of("logging/setLevel");
    assert_eq!(levels.last().expect("told")["params"]["level"], "warning");
    assert_eq!(levels.len(), 2);
    assert_eq!(
        heard.of("resources/subscribe")[2]["params"]["uri"],
        "mock://a"
    );
    host.call("updated", json!({"uri": "mock://a"})).await;
    let said = events.find("the update", |said| {
        said["method"] == "notifications/resources/updated"
    });
    assert_eq!(said.await["params"]["uri"], "mock://a");
    assert_ne!(pid(&host).await, first);
}

#[tokio::test]
async fn all_that_was_in_flight_has_one_error_and_the_next_call_an_answer() {
    let gate = Gate::with(&mock("a").table("")).start().await;
    let host = gate.host().open().await;
    let first = pid(&host).await;
    let (killed, ended) = (
        std::cell::Cell::new(None),
        std::cell::Cell::new(Duration::ZERO),
    );
    let calls = all((0..64).map(|_| async {
        let reply = host.call("never", json!({})).await;
        ended.set(
            killed
                .get()
                .map_or(Duration::MAX, |at: Instant| at.elapsed()),
        );
        reply
    }));
    let kill = async {
        until("all in flight", seconds(10), async || {
            let running = gate
                .scrape()
                .await
                .count("chillgate_inflight_requests", &[("server", "a")]);
            (running == 64).then_some(())
        })
        .await;
        killed.set(Some(Instant::now()));
        send(first, Signal::KILL);
    };
    let (replies, ()) = tokio::join!(calls, kill);
    for reply in &replies {
        let error = &reply.answer()["error"];
        assert_eq!(error["data"]["type"], "chillgate/server-lost", "{error}");
        assert_eq!(error["data"]["retryable"], false, "{error}");
        assert!(
            error["message"]
                .as_str()
                .unwrap_or_default()
                .contains("signal 9"),
            "{error}"
        );
    }
    // 100 ms from the end; the keeper takes up to 50 for what a server leaves behind.
    let limit = Duration::from_millis(if long() { 100 } else { 400 });
    assert!(
        ended.get() <= limit,
        "the last error came after {:?}",
        ended.get()
    );
    let before = Instant::now();
    assert_ne!(pid(&host).await, first);
    assert!(before.elapsed() < seconds(1), "{:?}", before.elapsed());
}

#[tokio::test]
async fn only_tools_that_say_so_are_tried_again_and_only_once() {
    let gate = Gate::with(&mock("a").ledger().table("")).start().await;
    let host = gate.host().open().await;
    let path = |name: &str| gate.folder().join(name).display().to_string();
    // Before its list is known, nothing is known of a tool.
    let unknown = host
        .call("crash-once-reading", json!({"path": path("0")}))
        .await;
    assert_eq!(
        unknown.answer()["error"]["data"]["type"],
        "chillgate/server-lost"
    );
    assert!(host.tools().await.contains(&"crash-once".to_owned()));
    for (tool, file) in [("crash-once-reading", "1"), ("crash-once-again", "2")] {
        let reply = host.call(tool, json!({"path": path(file)})).await;
        assert_eq!(reply.tool_text(), "survived", "{tool}");
    }
    let plain = host.call("crash-once", json!({"path": path("3")})).await;
    assert_eq!(plain.answer()["error"]["data"]["retryable"], false);
    assert_eq!(
        host.call("crash-once", json!({"path": path("3")}))
            .await
            .tool_text(),
        "survived"
    );
    let retries = async |gate: &Gate| {
        let labels = [("server", "a")];
        gate.scrape()
            .await
            .count("chillgate_call_retries_total", &labels)
    };
    assert_eq!(retries(&gate).await, 2);
    // Tried twice in all, and then the host may judge.
    let gate = Gate::with(&mock("a").ledger().table("")).start().await;
    let host = gate.host().open().await;
    host.tools().await;
    let path = |name: &str| gate.folder().join(name).display().to_string();
    let before = gate.heard("a").calls();
    let always = json!({"path": path("4"), "always": true});
    let reply = host.call("crash-once-again", always).await;
    assert_eq!(
        reply.answer()["error"]["data"]["retryable"],
        true,
        "{}",
        reply.answer()
    );
    assert_eq!(gate.heard("a").calls(), before + 2);
    assert_eq!(retries(&gate).await, 1);
}

#[tokio::test]
async fn a_server_that_fails_at_each_start_is_tried_ever_more_seldom_and_seen() {
    let table = format!(
        "[server.bad]\ncommand = [\"sh\", \"-c\", \"echo x >> '@DIR@/starts'; exit 1\"]\n{}",
        mock("good").table("")
    );
    let gate = Gate::with(&table).start().await;
    let host = gate.host().open().await;
    let (limit, most) = if long() {
        (seconds(60), 15)
    } else {
        (seconds(8), 11)
    };
    let began = Instant::now();
    let before = gate.scrape().await.sum("process_cpu_seconds_total", &[]);
    let mut calls = 0;
    while began.elapsed() < limit {
        let reply = host.call("bad__any", json!({})).await;
        let error = &reply.answer()["error"];
        assert_eq!(
            error["data"]["type"],
            "chillgate/server-down",
            "{}",
            reply.answer()
        );
        assert_eq!(
            host.call("good__echo", json!({"message": "x"}))
                .await
                .tool_text(),
            "x"
        );
        calls += 1;
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let starts = std::fs::read_to_string(gate.folder().join("starts")).expect("it was started");
    let starts = starts.lines().count();
    assert!(
        (3..=most).contains(&starts),
        "{starts} starts, {calls} calls in {limit:?}"
    );
    let scrape = gate.scrape().await;
    let cpu = scrape.sum("process_cpu_seconds_total", &[]) - before;
    assert!(
        cpu / limit.as_secs_f64() < 0.05,
        "{cpu} s of a core in {limit:?}"
    );
    assert_eq!(
        scrape.count("chillgate_child_crash_loop", &[("server", "bad")]),
        1
    );
    assert_eq!(
        scrape.count("chillgate_child_crash_loop", &[("server", "good")]),
        0
    );
    let readiness = readiness(&gate).await;
    assert_eq!(readiness["ready"], true);
    let servers = readiness["servers"].as_array().expect("a list");
    let bad = servers
        .iter()
        .find(|server| server["name"] == "bad")
        .expect("it is there");
    assert_eq!(bad["state"], "crash-loop", "{bad}");
    assert!(
        bad["error"]
            .as_str()
            .unwrap_or_default()
            .contains("exit code 1"),
        "{bad}"
    );
}

#[tokio::test]
async fn a_server_that_dies_soon_after_each_start_backs_off_and_recovers() {
    // It lives as long as there is no file.
    let script = format!(
        "echo x >> '@DIR@/starts'; if [ -e '@DIR@/broken' ]; then {MOCK} --mark y & sleep 0.2; kill -9 $!; exit 3; fi; exec {MOCK}"
    );
    let table = format!(
        "[server.a]\ncommand = [\"sh\", \"-c\", {}]\n",
        json!(script)
    );
    let gate = Gate::with(&table).start().await;
    let host = gate.host().open().await;
    let first = pid(&host).await;
    std::fs::write(gate.folder().join("broken"), "").expect("written");
    send(first, Signal::KILL);
    tokio::time::sleep(seconds(4)).await;
    let starts = || {
        let text = std::fs::read_to_string(gate.folder().join("starts")).unwrap_or_default();
        text.lines().count()
    };
    let count = starts();
    assert!((3..=9).contains(&count), "{count} starts");
    let scrape = gate.scrape().await;
    assert_eq!(
        scrape.count("chillgate_child_crash_loop", &[("server", "a")]),
        1
    );
    std::fs::remove_file(gate.folder().join("broken")).expect("removed");
    until("its recovery", seconds(15), async || {
        let up = gate
            .scrape()
            .await
            .count("chillgate_child_up", &[("server", "a")]);
        (up == 1).then_some(())
    })
    .await;
    pid(&host).await;
    assert_eq!(
        gate.scrape()
            .await
            .count("chillgate_child_crash_loop", &[("server", "a")]),
        0
    );
}

#[tokio::test]
async fn a_server_whose_output_has_ended_is_replaced_and_calls_find_the_next_one() {
    let mark = mark();
    let flags = ["--mark", &mark, "--ignore-eof"];
    let gate = Gate::with(&mock("a").flags(&flags).table("")).start().await;
    let host = gate.host().open().await;
    let first = pid(&host).await;
    let began = Instant::now();
    let mute = host.call("mute", json!({}));
    // From the end of its output until the process is gone, and after: none of these is told that it
    // is lost, because none of them was ever put to it.
    let others = async {
        tokio::time::sleep(Duration::from_millis(300)).await;
        let mut pids = Vec::new();
        for _ in 0..5 {
            pids.push(pid(&host).await);
        }
        (pids, began.elapsed())
    };
    let (mute, (others, took)) = tokio::join!(mute, others);
    assert_eq!(
        mute.answer()["error"]["data"]["type"],
        "chillgate/server-lost",
        "{}",
        mute.answer()
    );
    assert!(others.iter().all(|pid| *pid != first), "{others:?}");
    assert!(took < Duration::from_millis(5500), "{took:?}");
    until("the end of the first", seconds(6), async || {
        (marked(&mark).iter().all(|found| found.pid != first)).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_host_that_comes_again_and_again_does_not_start_a_broken_server_each_time() {
    let script = "echo x >> '@DIR@/starts'; read line; exit 1";
    let table = format!(
        "[server.a]\nisolation = \"session\"\nera = \"legacy\"\ncommand = [\"sh\", \"-c\", {}]\n",
        json!(script)
    );
    let gate = Gate::with(&table).start().await;
    let began = Instant::now();
    let mut calls = 0;
    while began.elapsed() < seconds(5) {
        let host = gate.host().path("/server/a/mcp");
        let reply = host.post(&host.hello(&json!({"roots": {}}))).await;
        assert!(reply.answer()["error"].is_object(), "{}", reply.answer());
        calls += 1;
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let starts = std::fs::read_to_string(gate.folder().join("starts")).expect("it was started");
    let starts = starts.lines().count();
    assert!((3..=11).contains(&starts), "{starts} starts, {calls} hosts");
    assert_eq!(readiness(&gate).await["ready"], true);
}

#[tokio::test]
async fn a_server_that_comes_back_with_another_list_says_so() {
    let flags = ["--more-if", "@DIR@/more"];
    let gate = Gate::with(&mock("a").flags(&flags).table("")).start().await;
    let host = gate.host().open().await;
    assert!(!host.tools().await.contains(&"extra".to_owned()));
    let mut events = host.listen().await;
    // The same list: nothing is told.
    host.call("crash", json!({})).await;
    pid(&host).await;
    let said = tokio::time::timeout(seconds(2), events.message()).await;
    assert!(said.is_err(), "{said:?}");
    std::fs::write(gate.folder().join("more"), "").expect("written");
    host.call("crash", json!({})).await;
    let told = |said: &Value| said["method"] == "notifications/tools/list_changed";
    events.find("the change", told).await;
    assert!(host.tools().await.contains(&"extra".to_owned()));
}

#[tokio::test]
async fn a_server_that_is_well_and_soon_dies_again_is_started_ever_more_seldom() {
    let script = format!("echo x >> '@DIR@/starts'; (sleep 0.3; kill -9 $$) & exec {MOCK}");
    let table = format!(
        "[server.a]\nera = \"legacy\"\ncommand = [\"sh\", \"-c\", {}]\n",
        json!(script)
    );
    let gate = Gate::with(&table).start().await;
    tokio::time::sleep(seconds(8)).await;
    let starts = std::fs::read_to_string(gate.folder().join("starts")).expect("it was started");
    let starts = starts.lines().count();
    assert!((3..=9).contains(&starts), "{starts} starts");
    // It is none for the moments in which it runs.
    until("the loop to be told", seconds(5), async || {
        let told = gate.scrape().await;
        (told.count("chillgate_child_crash_loop", &[("server", "a")]) == 1).then_some(())
    })
    .await;
}
