//! Servers that run and do not answer are found and started anew; those that work are left alone.
//!
//! It stands apart because nothing but a clock tells the two apart, so that each test has its twin:
//! what must be ended, and what must not be.

use serde_json::{Value, json};

use chillgate_tests::http::get;
use chillgate_tests::process::send;
use chillgate_tests::wait::seconds;
use chillgate_tests::{Gate, Host, until};
use rustix::process::Signal;

use crate::mock;

const OFTEN: &str = r#"probe = { every = "300ms", timeout = "300ms", failures = 2 }"#;

async fn pid(host: &Host) -> u32 {
    let reply = host.call("pid", json!({})).await;
    reply.tool_text().parse().expect("a process id")
}

async fn hung(gate: &Gate) -> u64 {
    let labels = [("server", "a"), ("reason", "hung")];
    gate.scrape()
        .await
        .count("chillgate_child_restarts_total", &labels)
}

#[tokio::test]
async fn a_server_that_has_gone_deaf_is_started_anew() {
    for flags in [&["--eras", "legacy"][..], &["--eras", "modern"]] {
        let gate = Gate::with(&mock("a").flags(flags).table(OFTEN))
            .start()
            .await;
        let host = gate.host().open().await;
        let first = pid(&host).await;
        assert_eq!(
            host.call("go-deaf", json!({})).await.tool_text(),
            "farewell"
        );
        until("its restart", seconds(15), async || {
            (hung(&gate).await == 1).then_some(())
        })
        .await;
        assert_ne!(pid(&host).await, first, "{flags:?}");
        let said = gate
            .log()
            .iter()
            .any(|line| line.contains("it hung: it did not answer 2 probes"));
        assert!(said, "{:#?}", gate.log());
    }
}

#[tokio::test]
async fn a_deaf_server_that_is_called_all_the_time_is_found_as_well() {
    let folder = tempfile::tempdir().expect("a folder");
    let state = format!("[state]\nfolder = \"{}\"\n", folder.path().display());
    let gate = Gate::with(&mock("a").table(OFTEN))
        .top(&(state + "[limits]\ncall-idle = \"500ms\"\n"))
        .start()
        .await;
    let host = gate.host().open().await;
    let first = pid(&host).await;
    host.call("go-deaf", json!({})).await;
    // At every moment a call waits for it.
    let calling = async |pause: u64| {
        tokio::time::sleep(std::time::Duration::from_millis(pause)).await;
        loop {
            let reply = host.call("pid", json!({})).await;
            if reply.answer()["result"].is_object() {
                return reply.tool_text().parse::<u32>().expect("a process id");
            }
        }
    };
    let (one, two) = tokio::time::timeout(seconds(20), async {
        tokio::join!(calling(0), calling(250))
    })
    .await
    .expect("it is started anew although it is called");
    assert_ne!(one, first);
    assert_eq!(one, two);
    assert_eq!(hung(&gate).await, 1);
    // And it is remembered what happened.
    let incidents = gate
        .scrape()
        .await
        .sum("chillgate_incidents_total", &[("server", "a")]);
    assert!((0.9..1.1).contains(&incidents), "{incidents} incidents");
}

#[tokio::test]
async fn a_stopped_server_is_started_anew_and_leaves_nothing() {
    let gate = Gate::with(&mock("a").table(OFTEN)).start().await;
    let host = gate.host().open().await;
    let first = pid(&host).await;
    send(first, Signal::STOP);
    until("its restart", seconds(15), async || {
        (hung(&gate).await == 1).then_some(())
    })
    .await;
    assert_ne!(pid(&host).await, first);
    until("the end of the first", seconds(8), async || {
        (!std::path::Path::new(&format!("/proc/{first}")).exists()).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_server_at_work_is_not_probed_to_death() {
    let gate = Gate::with(&mock("a").table(OFTEN)).start().await;
    let host = gate.host().open().await;
    let first = pid(&host).await;
    // It answers nothing while it works, not even a ping: its call has a deadline of its own.
    let busy = async {
        tokio::time::sleep(std::time::Duration::from_millis(500)).await;
        send(first, Signal::STOP);
        tokio::time::sleep(seconds(3)).await;
        send(first, Signal::CONT);
    };
    let call = host.call("wait", json!({"ms": 4000, "nonce": "done"}));
    let (wait, ()) = tokio::join!(call, busy);
    assert_eq!(wait.tool_text(), "done");
    tokio::time::sleep(seconds(2)).await;
    assert_eq!(pid(&host).await, first);
    assert_eq!(hung(&gate).await, 0);
}

#[tokio::test]
async fn a_tool_can_be_the_probe_and_its_error_is_an_answer() {
    let table = mock("a").ledger().table(
        r#"probe = { every = "200ms", timeout = "1s", tool = "fail", arguments = { deep = 1 } }"#,
    );
    let gate = Gate::with(&table).start().await;
    let host = gate.host().open().await;
    let first = pid(&host).await;
    let probes = until("some probes", seconds(10), async || {
        let calls = gate.heard("a").of("tools/call");
        let probes: Vec<Value> = calls
            .into_iter()
            .filter(|call| call["params"]["name"] == "fail")
            .collect();
        (probes.len() > 5).then_some(probes)
    })
    .await;
    assert_eq!(probes[0]["params"]["arguments"], json!({"deep": 1}));
    assert_eq!(pid(&host).await, first);
}

#[tokio::test]
async fn without_a_probe_nobody_looks() {
    let gate = Gate::with(&mock("a").ledger().table("probe = false"))
        .start()
        .await;
    let host = gate.host().open().await;
    let first = pid(&host).await;
    tokio::time::sleep(seconds(2)).await;
    assert_eq!(pid(&host).await, first);
    assert!(gate.heard("a").of("ping").is_empty());
    let ready = get(gate.health(), "/readyz").await;
    assert_eq!(ready.status, 200);
}

#[tokio::test]
async fn a_server_that_never_gets_ready_is_told_as_that_and_not_as_a_slow_call() {
    let silent = mock("silent").flags(&["--silent"]);
    let slow = mock("slow").flags(&["--slow-start", "20000"]);
    let tables =
        silent.table("era = \"legacy\"\nstart-timeout = \"2s\"") + &slow.table("era = \"legacy\"");
    let gate = Gate::with(&tables)
        .top("[limits]\ncall-idle = \"2s\"\n")
        .start()
        .await;
    let host = gate.host().open().await;
    let told = async |tool: &str| {
        let reply = host.call(tool, json!({})).await;
        let error = &reply.answer()["error"];
        (
            error["message"].to_string(),
            error["data"]["type"].to_string(),
        )
    };
    let (silent, _) = told("silent__echo").await;
    assert!(silent.contains("it runs and says nothing"), "{silent}");
    let (slow, kind) = told("slow__echo").await;
    assert!(
        slow.contains("did not get ready within 2.0 s and is still being started"),
        "{slow}"
    );
    assert!(kind.contains("timeout"), "{kind}");
    let logged = gate.log();
    let words = ["A call was not answered in time.", "slow", "starting"];
    let said = |line: &String| words.iter().all(|word| line.contains(word));
    assert!(logged.iter().any(said), "{logged:?}");
}
