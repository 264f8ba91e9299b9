//! Servers that nobody uses sleep, and nobody can tell until they call.
//!
//! It stands apart because it looks at processes and at bytes at once: a list of a server that
//! sleeps is the list that it gave itself, to the letter, and no process is started for it.

use std::time::Duration;

use tokio::time::Instant;

use bytes::Bytes;
use serde_json::{Value, json};

use chillgate_tests::http::get;
use chillgate_tests::process::{mark, marked};
use chillgate_tests::script::interop;
use chillgate_tests::server::toml_list;
use chillgate_tests::wait::{all, seconds};
use chillgate_tests::{Gate, Host, PipeHost, modern, until};

use crate::mock;

const LISTS: [&str; 4] = [
    "tools/list",
    "prompts/list",
    "resources/list",
    "resources/templates/list",
];

async fn asleep(gate: &Gate, mark: &str) {
    until("the server's sleep", seconds(15), async || {
        marked(mark).is_empty().then_some(())
    })
    .await;
    let ready: Value =
        serde_json::from_str(&get(gate.health(), "/readyz").await.text()).expect("JSON");
    assert_eq!(ready["servers"][0]["state"], "asleep", "{ready}");
}

/// The answer's very bytes; the id is always the same.
async fn bytes(host: &Host, method: &str, cursor: Option<&str>) -> Bytes {
    let params = cursor.map_or_else(|| json!({}), |cursor| json!({"cursor": cursor}));
    let message = json!({"jsonrpc": "2.0", "id": 77, "method": method, "params": params});
    let reply = host.post(&message).await;
    Bytes::from(reply.answer().to_string())
}

#[tokio::test]
async fn a_sleeping_server_lists_what_it_listed_awake_and_stays_asleep() {
    let mark = mark();
    let flags = ["--mark", &mark, "--tools", "30", "--page", "20"];
    let table = mock("a").flags(&flags).ledger().table("idle = \"1s\"");
    let gate = Gate::with(&table).start().await;
    let host = gate.host().path("/server/a/mcp").open().await;
    let mut awake = Vec::new();
    for method in LISTS {
        let mut cursor: Option<String> = None;
        loop {
            let page = bytes(&host, method, cursor.as_deref()).await;
            let read: Value = serde_json::from_slice(&page).expect("JSON");
            awake.push((method, cursor.clone(), page));
            cursor = read["result"]["nextCursor"].as_str().map(str::to_owned);
            if cursor.is_none() {
                break;
            }
        }
    }
    assert!(awake.len() > LISTS.len(), "nothing came in pages");
    asleep(&gate, &mark).await;
    let heard = gate.heard("a").lines().len();
    for (method, cursor, page) in &awake {
        let now = bytes(&host, method, cursor.as_deref()).await;
        assert_eq!(&now, page, "{method} {cursor:?}");
    }
    // Neither does a host that comes anew, nor one of the other era, nor the merged endpoint.
    let anew = gate.host().path("/server/a/mcp").open().await;
    assert_eq!(anew.tools().await.len(), host.tools().await.len());
    assert!(gate.host().open().await.tools().await.len() > 30);
    assert_eq!(anew.request("ping", json!({})).await.result(), &json!({}));
    anew.request("logging/setLevel", json!({"level": "error"}))
        .await
        .result();
    assert!(marked(&mark).is_empty(), "it was woken for a list");
    assert_eq!(gate.heard("a").lines().len(), heard);
    let scrape = gate.scrape().await;
    assert_eq!(
        scrape.count("chillgate_child_hibernations_total", &[("server", "a")]),
        1
    );
    assert_eq!(
        scrape.count("chillgate_children_asleep", &[("server", "a")]),
        1
    );
    assert_eq!(
        scrape.count("chillgate_child_restarts_total", &[("server", "a")]),
        0
    );
}

#[tokio::test]
async fn the_first_call_wakes_it_once_however_many_come() {
    let mark = mark();
    let flags = ["--mark", &mark, "--slow-start", "300"];
    let gate = Gate::with(&mock("a").flags(&flags).table("idle = \"1s\""))
        .start()
        .await;
    let host = gate.host().open().await;
    host.call("echo", json!({})).await.tool_text();
    for round in 1..=2 {
        asleep(&gate, &mark).await;
        let pids = all(
            (0..20).map(|_| async { host.call("pid", json!({})).await.tool_text().to_owned() })
        )
        .await;
        assert!(
            pids.iter().all(|pid| *pid == pids[0]),
            "it was woken more than once: {pids:?}"
        );
        let scrape = gate.scrape().await;
        let woken = scrape.count("chillgate_child_wake_seconds_count", &[("server", "a")]);
        assert_eq!(woken, round);
        assert_eq!(
            scrape.count("chillgate_children_asleep", &[("server", "a")]),
            0
        );
    }
}

#[tokio::test]
async fn a_list_that_has_changed_while_it_slept_is_told_when_it_wakes() {
    let mark = mark();
    let flags = ["--mark", &mark, "--more-if", "@DIR@/more"];
    let gate = Gate::with(&mock("a").flags(&flags).table("idle = \"1s\""))
        .start()
        .await;
    let host = gate.host().open().await;
    assert!(!host.tools().await.contains(&"extra".to_owned()));
    let mut events = host.listen().await;
    asleep(&gate, &mark).await;
    std::fs::write(gate.folder().join("more"), "").expect("written");
    assert!(
        !host.tools().await.contains(&"extra".to_owned()),
        "it was asked"
    );
    host.call("echo", json!({})).await.tool_text();
    let told = |said: &Value| said["method"] == "notifications/tools/list_changed";
    events.find("the change", told).await;
    assert!(host.tools().await.contains(&"extra".to_owned()));
    // Nothing is told where nothing has changed.
    asleep(&gate, &mark).await;
    host.call("echo", json!({})).await.tool_text();
    let said = tokio::time::timeout(seconds(2), events.message()).await;
    assert!(said.is_err(), "{said:?}");
}

#[tokio::test]
async fn who_waits_for_something_keeps_it_awake() {
    let mark = mark();
    let flags = ["--mark", &mark];
    let gate = Gate::with(&mock("a").flags(&flags).table("idle = \"1s\""))
        .start()
        .await;
    let host = gate.host().open().await;
    // A call that runs.
    let reply = host
        .call("wait", json!({"ms": 4000, "nonce": "done"}))
        .await;
    assert_eq!(reply.tool_text(), "done");
    // A subscription.
    host.request("resources/subscribe", json!({"uri": "mock://a"}))
        .await
        .result();
    let first = host.call("pid", json!({})).await.tool_text().to_owned();
    tokio::time::sleep(seconds(4)).await;
    assert_eq!(host.call("pid", json!({})).await.tool_text(), first);
    host.request("resources/unsubscribe", json!({"uri": "mock://a"}))
        .await
        .result();
    asleep(&gate, &mark).await;
    // A task that nobody asks about.
    host.call("pid", json!({})).await.tool_text();
    let task = json!({"name": "echo", "arguments": {}, "task": {"ttl": 60_000}});
    host.request("tools/call", task).await.result();
    tokio::time::sleep(seconds(4)).await;
    assert!(
        !marked(&mark).is_empty(),
        "a server with a task was put to sleep"
    );
}

#[tokio::test]
async fn each_hosts_own_process_sleeps_for_itself() {
    let mark = mark();
    let flags = ["--mark", &mark];
    let gate = Gate::with(&mock("a").flags(&flags).table("idle = \"1s\""))
        .start()
        .await;
    let (host, _) = gate.host().open_with(json!({"roots": {}})).await;
    assert!(host.tools().await.contains(&"roots".to_owned()));
    host.request("logging/setLevel", json!({"level": "error"}))
        .await
        .result();
    until("both asleep", seconds(15), async || {
        marked(&mark).is_empty().then_some(())
    })
    .await;
    assert!(host.tools().await.contains(&"roots".to_owned()));
    assert!(marked(&mark).is_empty());
    let told: Value =
        serde_json::from_str(host.call("host", json!({})).await.tool_text()).expect("JSON");
    assert_eq!(told["capabilities"], json!({"roots": {}}));
}

#[tokio::test]
async fn a_server_from_npx_sleeps_and_wakes() {
    let mark = mark();
    let npx = [
        "npx",
        "-y",
        "@modelcontextprotocol/server-everything",
        "stdio",
        &mark,
    ];
    let from = interop().join("ts").display().to_string();
    let table = format!(
        "[server.npx]\ncommand = {}\ncwd = \"{from}\"\nidle = \"2s\"\n",
        toml_list(&npx)
    );
    let gate = Gate::with(&table).start().await;
    let host = gate.host().path("/server/npx/mcp").open().await;
    let awake = bytes(&host, "tools/list", None).await;
    assert!(
        marked(&mark).len() >= 2,
        "no chain of processes was started"
    );
    asleep(&gate, &mark).await;
    assert_eq!(bytes(&host, "tools/list", None).await, awake);
    assert!(marked(&mark).is_empty());
    let reply = host.call("echo", json!({"message": "up"})).await;
    assert_eq!(reply.tool_text(), "Echo: up");
    assert_eq!(bytes(&host, "tools/list", None).await, awake);
}

#[tokio::test]
async fn a_wrapped_server_sleeps_too() {
    let mark = mark();
    let folder = tempfile::tempdir().expect("a folder");
    let config = folder.path().join("idle.toml");
    let command = mock("a").flags(&["--mark", &mark]).command();
    let table = format!(
        "[server.a]\ncommand = {}\nidle = \"1s\"\n",
        toml_list(&command)
    );
    std::fs::write(
        &config,
        format!("{table}\n[[front]]\ntransport = \"stdio\"\n[health]\nlisten = \"127.0.0.1:0\"\n"),
    )
    .expect("written");
    let mut host = PipeHost::start(chillgate_tests::gate::serve(&config));
    host.open(json!({})).await;
    host.call("echo", json!({"message": "x"})).await;
    until("the server's sleep", seconds(15), async || {
        marked(&mark).is_empty().then_some(())
    })
    .await;
    let reply = host.call("echo", json!({"message": "again"})).await;
    assert_eq!(reply["result"]["content"][0]["text"], "again", "{reply}");
    drop(host.finish(seconds(10)).await);
}

#[tokio::test]
async fn waking_costs_little_more_than_the_servers_own_start() {
    let mark = mark();
    let flags = ["--mark", &mark, "--slow-start", "200"];
    let gate = Gate::with(&mock("a").flags(&flags).table("idle = \"1s\""))
        .start()
        .await;
    let host = gate.host().open().await;
    let mut added = Vec::new();
    for _ in 0..3 {
        asleep(&gate, &mark).await;
        // The same program, started and greeted by the test itself, right before.
        let words = mock("a").flags(&["--slow-start", "200"]).command();
        let began = Instant::now();
        let mut straight = chillgate_tests::process::command(&words[0]);
        straight.args(&words[1..]);
        let mut direct = PipeHost::start(straight);
        direct.open(json!({})).await;
        direct.call("echo", json!({})).await;
        let own = began.elapsed();
        drop(direct.finish(seconds(5)).await);
        let began = Instant::now();
        host.call("echo", json!({})).await.tool_text();
        added.push(began.elapsed().saturating_sub(own));
    }
    added.sort();
    // The bound is 50 ms; the machine may be busy with other tests.
    assert!(added[0] < Duration::from_millis(50), "{added:?}");
}

#[tokio::test]
async fn a_gateway_that_nobody_calls_rests_with_all_its_servers() {
    let mark = mark();
    let flags = ["--mark", &mark];
    let tables = mock("a").flags(&flags).table("") + &mock("b").flags(&flags).table("");
    let gate = Gate::with(&tables)
        .top("[rest]\nafter = \"2s\"\n")
        .start()
        .await;
    let host = gate.host().open().await;
    let tools = host.tools().await;
    until("the rest", seconds(15), async || {
        marked(&mark).is_empty().then_some(())
    })
    .await;
    let resting = async || gate.scrape().await.count("chillgate_resting", &[]);
    assert_eq!(resting().await, 1);
    // What is listed is listed, and the gateway is awake again.
    assert_eq!(host.tools().await, tools);
    assert_eq!(
        host.call("a__echo", json!({"message": "x"}))
            .await
            .tool_text(),
        "x"
    );
    until("the end of the rest", seconds(5), async || {
        (resting().await == 0).then_some(())
    })
    .await;
    // The other sleeps on.
    assert_eq!(
        marked(&mark)
            .iter()
            .filter(|found| found.line.contains("--name b"))
            .count(),
        0
    );
}

#[tokio::test]
async fn one_that_works_on_a_task_is_not_put_to_rest() {
    for (flags, params) in [
        (
            &["--eras", "modern"][..],
            json!({"name": "as-task", "arguments": {}}),
        ),
        (
            &["--eras", "legacy"],
            json!({"name": "slowly", "arguments": {}, "task": {}}),
        ),
    ] {
        let mark = mark();
        let flags = [flags, &["--mark", &mark]].concat();
        let gate = Gate::with(&mock("a").flags(&flags).table(""))
            .top("[rest]\nafter = \"1s\"\n")
            .start()
            .await;
        let tasks = json!({"extensions": {"io.modelcontextprotocol/tasks": {}}});
        if params["task"].is_null() {
            let mut params = params.clone();
            params["_meta"][modern::CAPABILITIES] = tasks;
            let call = modern::message(&json!(1), "tools/call", params);
            let answer = modern::send(gate.front(), &call).await;
            assert_eq!(modern::body(&answer)["result"]["resultType"], "task");
        } else {
            gate.host().open().await.request("tools/call", params).await;
        }
        until("the rest", seconds(10), async || {
            (gate.scrape().await.count("chillgate_resting", &[]) == 1).then_some(())
        })
        .await;
        tokio::time::sleep(seconds(1)).await;
        assert!(!marked(&mark).is_empty(), "{flags:?}: its task is lost");
    }
}

#[tokio::test]
async fn what_is_said_to_a_sleeping_server_is_said_to_it_when_it_wakes() {
    let mark = mark();
    let flags = ["--mark", &mark];
    let gate = Gate::with(&mock("a").flags(&flags).ledger().table("idle = \"1s\""))
        .start()
        .await;
    let (shared, own) = (
        gate.host().open().await,
        gate.host().open_with(json!({"roots": {}})).await.0,
    );
    for host in [&shared, &own] {
        host.call("echo", json!({})).await.tool_text();
    }
    asleep(&gate, &mark).await;
    for host in [&shared, &own] {
        let reply = host
            .request("logging/setLevel", json!({"level": "error"}))
            .await;
        assert!(reply.answer()["result"].is_object());
    }
    assert!(gate.heard("a").of("logging/setLevel").is_empty());
    for host in [&shared, &own] {
        host.call("echo", json!({})).await.tool_text();
    }
    until("the level at both", seconds(5), async || {
        (gate.heard("a").of("logging/setLevel").len() == 2).then_some(())
    })
    .await;
    // A host of its own process that wants more again gets it.
    own.request("logging/setLevel", json!({"level": "debug"}))
        .await;
    let reply = own
        .call("log", json!({"level": "info", "data": "again"}))
        .await;
    let told = |said: &Value| said["method"] == "notifications/message";
    assert!(reply.before().iter().any(told), "{reply:?}");
}

#[tokio::test]
async fn one_that_is_no_process_does_not_sleep_and_lists_to_each_agent_its_own() {
    let tables = r#"
[server.ops]
builtin = "ops"

[[runbook]]
name = "for-alice"
description = "Alice's"
command = ["true"]
agents = ["alice"]
"#;
    let gate = Gate::with(tables)
        .top("[rest]\nafter = \"1s\"\n[identity]\nheader = \"x-agent-id\"\n")
        .start()
        .await;
    let alice = gate.host().header("x-agent-id", "alice").open().await;
    let bob = gate.host().header("x-agent-id", "bob").open().await;
    let has = async |host: &Host| host.tools().await.contains(&"for-alice".to_owned());
    assert!(has(&alice).await && !has(&bob).await);
    until("the rest", seconds(10), async || {
        (gate.scrape().await.count("chillgate_resting", &[]) == 1).then_some(())
    })
    .await;
    tokio::time::sleep(seconds(1)).await;
    assert!(has(&alice).await && !has(&bob).await);
}

#[tokio::test]
async fn the_next_process_begins_when_the_one_before_is_gone() {
    let mark = mark();
    let flags = ["--mark", &mark, "--ignore-eof"];
    let gate = Gate::with(&mock("a").flags(&flags).table("idle = \"1s\""))
        .start()
        .await;
    let host = gate.host().open().await;
    let first = host.call("pid", json!({})).await.tool_text().to_owned();
    until("its sleep", seconds(15), async || {
        let asleep = gate
            .scrape()
            .await
            .count("chillgate_children_asleep", &[("server", "a")]);
        (asleep == 1).then_some(())
    })
    .await;
    // It ignores the end of its input, so it is there for two seconds more.
    assert!(!marked(&mark).is_empty());
    let next = host.call("pid", json!({})).await.tool_text().to_owned();
    assert_ne!(next, first);
    let there = std::path::Path::new("/proc").join(&first);
    assert!(!there.exists(), "two at once");
}

#[tokio::test]
async fn a_list_that_is_for_one_is_not_told_to_another_from_sleep() {
    for (scope, wakes) in [(&[][..], false), (&["--private"], true)] {
        let mark = mark();
        let flags = [&["--eras", "modern", "--mark", &mark], scope].concat();
        let gate = Gate::with(&mock("a").flags(&flags).table("idle = \"1s\""))
            .start()
            .await;
        let host = gate.host().open().await;
        let tools = host.tools().await;
        asleep(&gate, &mark).await;
        let other = gate.host().open().await;
        assert_eq!(other.tools().await, tools);
        assert_eq!(!marked(&mark).is_empty(), wakes, "{flags:?}");
    }
}
