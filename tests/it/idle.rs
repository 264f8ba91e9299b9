//! What many servers cost while nobody calls: processor time and memory of chillgate itself.
//!
//! It stands apart because it measures, over a hundred processes at once, what no single one shows.

use serde_json::json;

use chillgate_tests::process::{descendants, resident};
use chillgate_tests::wait::{all, long, seconds};
use chillgate_tests::{Gate, until};

use crate::mock;

const CHILDREN: usize = 100;

#[tokio::test]
async fn a_hundred_idle_servers_cost_next_to_nothing() {
    let tables: String = (0..CHILDREN)
        .map(|n| mock(&format!("s{n}")).table("probe = { every = \"5s\" }"))
        .collect();
    let gate = Gate::with(&tables).start().await;
    until("a hundred servers", seconds(60), async || {
        let scrape = gate.scrape().await;
        let up = (0..CHILDREN)
            .filter(|n| scrape.count("chillgate_child_up", &[("server", &format!("s{n}"))]) == 1);
        (up.count() == CHILDREN).then_some(())
    })
    .await;
    let cpu = async || gate.scrape().await.sum("process_cpu_seconds_total", &[]);
    let span = if long() { 60 } else { 10 };
    let before = cpu().await;
    tokio::time::sleep(seconds(span)).await;
    let share = (cpu().await - before) / span as f64;
    eprintln!(
        "supervision of {CHILDREN} idle servers: {:.3} % of a core",
        share * 100.0
    );
    // Probes six times as often as usual are in it.
    assert!(share < 0.01, "{:.3} % of a core", share * 100.0);
}

#[tokio::test]
async fn a_hundred_agents_with_a_server_each_fit() {
    let gate = Gate::with(&mock("a").table("isolation = \"agent\""))
        .top("[identity]\nheader = \"x-agent-id\"\n")
        .start()
        .await;
    let first = gate.host().header("x-agent-id", "first").open().await;
    first.call("echo", json!({})).await.tool_text();
    let before = resident(gate.pid());
    let hosts = (0..CHILDREN).map(|n| {
        let host = gate.host().header("x-agent-id", &format!("agent-{n}"));
        async move {
            let host = host.open().await;
            host.call("pid", json!({})).await.tool_text().to_owned()
        }
    });
    let mut pids = all(hosts).await;
    pids.sort();
    pids.dedup();
    assert_eq!(pids.len(), CHILDREN);
    let each = (resident(gate.pid()) - before) / CHILDREN as u64;
    let keepers = descendants(gate.pid());
    let keepers = keepers
        .iter()
        .filter(|pid| !pids.contains(&pid.to_string()));
    let private: Vec<u64> = keepers.map(|pid| unshared(*pid)).collect();
    let keeper = private.iter().sum::<u64>() / private.len() as u64;
    eprintln!(
        "an agent's server: {} KiB of chillgate, {} KiB of its keeper",
        each >> 10,
        keeper >> 10
    );
    assert!(
        each <= 100 << 10,
        "{each} bytes of chillgate for each agent"
    );
}

/// What a process has for itself alone, in bytes.
fn unshared(pid: u32) -> u64 {
    let rollup = std::fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap_or_default();
    let lines = rollup.lines().filter(|line| line.starts_with("Private_"));
    let kib = lines.filter_map(|line| line.split_whitespace().nth(1)?.parse::<u64>().ok());
    kib.sum::<u64>() * 1024
}
