//! 64 hosts that all count their ids from 0 share one child that answers after random delays: no
//! answer ever reaches the wrong host.
//!
//! It stands apart because it is the first of all risks, and because it needs both cores.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use serde_json::json;
use tokio::task::JoinSet;

use chillgate_tests::gate::bare;
use chillgate_tests::process::{mark, marked, send};
use chillgate_tests::wait::{long, seconds, within};
use chillgate_tests::{Gate, PipeHost};

use rustix::process::Signal;

use crate::mock;

const HOSTS: usize = 64;

/// Runs `total` calls over 64 hosts, several in flight on each; how many were wrong.
async fn storm(gate: &Gate, total: usize, isolation: &str) -> usize {
    let wrong = Arc::new(AtomicUsize::new(0));
    let mut hosts = JoinSet::new();
    for host in 0..HOSTS {
        let address = gate.front();
        let wrong = Arc::clone(&wrong);
        let name = format!("{isolation}-{host}");
        hosts.spawn(async move {
            let opened = chillgate_tests::Host::new(address).open().await;
            let opened = Arc::new(opened);
            let mut lanes = JoinSet::new();
            for lane in 0..4 {
                let (opened, wrong, name) = (Arc::clone(&opened), Arc::clone(&wrong), name.clone());
                lanes.spawn(async move {
                    for n in 0..total / HOSTS / 4 {
                        let nonce = format!("{name}-{lane}-{n}");
                        let call =
                            json!({"name": "random", "arguments": {"ms": 5, "nonce": nonce}});
                        let message = opened.message("tools/call", Some(call));
                        let reply = opened.post(&message).await;
                        let right = reply.messages.len() == 1
                            && reply.answer()["id"] == message["id"]
                            && reply.answer()["result"]["content"][0]["text"] == nonce;
                        if !right {
                            wrong.fetch_add(1, Ordering::Relaxed);
                            eprintln!("{nonce}: {reply:?}");
                        }
                    }
                });
            }
            while let Some(lane) = lanes.join_next().await {
                lane.expect("a lane ends without a panic");
            }
        });
    }
    while let Some(host) = hosts.join_next().await {
        host.expect("a host ends without a panic");
    }
    wrong.load(Ordering::Relaxed)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_answer_of_100_000_reaches_the_wrong_host() {
    let total = if long() { 1_000_000 } else { 100_000 };
    let tables =
        mock("a").table("isolation = \"shared\"") + "[limits]\nin-flight-per-agent = 1000\n";
    let gate = Gate::with(&tables).start().await;
    let limit = seconds(if long() { 1500 } else { 150 });
    let wrong = within("the storm", limit, storm(&gate, total, "shared")).await;
    assert_eq!(wrong, 0, "of {total}");
    let host = gate.host().open().await;
    let count: usize = host
        .call("count", json!({}))
        .await
        .tool_text()
        .parse()
        .unwrap();
    assert_eq!(
        count,
        total / (HOSTS * 4) * (HOSTS * 4) + 1,
        "the server heard another number of calls"
    );
}

/// The same while the server dies time and again: what has an answer has its own, what was lost is
/// said to be lost, and nothing is answered twice.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_answer_reaches_the_wrong_host_while_the_server_dies_and_comes_back() {
    let total = if long() { 1_000_000 } else { 40_000 };
    let mark = mark();
    let tables = mock("a")
        .flags(&["--mark", &mark])
        .table("isolation = \"shared\"")
        + "[limits]\nin-flight-per-agent = 1000\n";
    let gate = Gate::with(&tables).start().await;
    let address = gate.front();
    let [right, lost, wrong] = [(); 3].map(|()| Arc::new(AtomicUsize::new(0)));
    let mut hosts = JoinSet::new();
    for host in 0..HOSTS {
        let counters = [right.clone(), lost.clone(), wrong.clone()];
        hosts.spawn(async move {
            let opened = chillgate_tests::Host::new(address).open().await;
            for n in 0..total / HOSTS {
                let nonce = format!("{host}-{n}");
                let call = json!({"name": "random", "arguments": {"ms": 5, "nonce": nonce}});
                let message = opened.message("tools/call", Some(call));
                let reply = opened.post(&message).await;
                let (answer, [right, lost, wrong]) = (reply.answer(), &counters);
                let kind = answer["error"]["data"]["type"].as_str().unwrap_or_default();
                let is_own = reply.messages.len() == 1 && answer["id"] == message["id"];
                if is_own && answer["result"]["content"][0]["text"] == nonce {
                    right.fetch_add(1, Ordering::Relaxed);
                } else if is_own && kind.starts_with("chillgate/server-") {
                    lost.fetch_add(1, Ordering::Relaxed);
                    // It is tried ever more seldom: the host waits as well.
                    tokio::time::sleep(std::time::Duration::from_millis(20)).await;
                } else {
                    wrong.fetch_add(1, Ordering::Relaxed);
                    eprintln!("{nonce}: {reply:?}");
                }
            }
        });
    }
    // Each life is longer than what counts as a crash after the start.
    let killing = async {
        tokio::time::sleep(seconds(2)).await;
        loop {
            let servers = marked(&mark);
            for server in servers
                .iter()
                .filter(|found| !found.line.contains("__keep"))
            {
                send(server.pid, Signal::KILL);
            }
            tokio::time::sleep(seconds(11)).await;
        }
    };
    let running = async {
        while let Some(host) = hosts.join_next().await {
            host.unwrap();
        }
    };
    let limit = seconds(if long() { 1500 } else { 150 });
    within("the storm", limit, async {
        tokio::select! { () = killing => {}, () = running => {} }
    })
    .await;
    let [right, lost, wrong] = [right, lost, wrong].map(|it| it.load(Ordering::Relaxed));
    let restarts = gate.scrape().await;
    let restarts = restarts.count("chillgate_child_restarts_total", &[("server", "a")]);
    eprintln!("{right} right, {lost} lost, {wrong} wrong, {restarts} restarts");
    assert_eq!((wrong, right + lost), (0, total / HOSTS * HOSTS));
    assert!(
        lost > 0 && restarts > 0,
        "the server never died in the midst of it"
    );
    assert!(right > total / 2, "{right} of {total}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_answers_twice_and_for_strangers_confuses_nobody() {
    let gate = Gate::with(&mock("a").table("isolation = \"shared\""))
        .start()
        .await;
    let mut hosts = JoinSet::new();
    for _ in 0..16 {
        let address = gate.front();
        hosts.spawn(async move {
            let host = chillgate_tests::Host::new(address).open().await;
            for n in 0..50 {
                let (tool, expected) = match n % 4 {
                    0 => ("twice", "first"),
                    1 => ("unknown-id", "own"),
                    2 => ("garbage", "after garbage"),
                    _ => ("name", "a"),
                };
                assert_eq!(host.call(tool, json!({})).await.tool_text(), expected);
            }
        });
    }
    while let Some(host) = hosts.join_next().await {
        host.unwrap();
    }
}

#[tokio::test]
async fn a_line_of_100_mb_is_dropped_as_it_streams_by() {
    let gate = Gate::with(&mock("a").table("isolation = \"shared\""))
        .start()
        .await;
    let host = gate.host().open().await;
    host.call("echo", json!({})).await;
    let before = chillgate_tests::process::resident(gate.pid());
    let junk = within(
        "the answer after it",
        seconds(60),
        host.call("junk", json!({"bytes": 100_000_000})),
    );
    let other = async {
        let other = gate.host().open().await;
        other.call("name", json!({})).await
    };
    let (reply, _) = tokio::join!(junk, other);
    assert_eq!(reply.tool_text(), "after junk");
    let most = chillgate_tests::process::peak(gate.pid());
    // At most `limits.message` is held of it.
    assert!(
        most < before + (24 << 20),
        "resident memory went from {before} to {most}"
    );
    assert!(
        gate.scrape()
            .await
            .sum("chillgate_child_protocol_errors_total", &[])
            >= 1.0
    );
}

#[tokio::test]
async fn calls_on_one_pipe_come_back_under_their_own_ids() {
    let mut command = bare();
    command.args(["wrap", "--"]).args(mock("a").command());
    let mut host = PipeHost::start(command);
    host.open(json!({})).await;
    let mut sent = Vec::new();
    for n in 0..60 {
        let arguments = json!({"ms": 30, "nonce": format!("n{n}")});
        sent.push((
            n,
            host.send(
                "tools/call",
                json!({"name": "random", "arguments": arguments}),
            )
            .await,
        ));
    }
    for (n, id) in sent {
        let answer = host.answer(&json!(id)).await;
        assert_eq!(answer["result"]["content"][0]["text"], format!("n{n}"));
    }
}
