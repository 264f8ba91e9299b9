//! Many names: metrics and memory stay bounded whatever agents and tools call themselves.
//!
//! It stands apart because it is about what chillgate keeps after calls, not about their answers.

use chillgate_tests::Gate;
use chillgate_tests::http::{Connection, collect};
use chillgate_tests::modern::{fields, message};
use chillgate_tests::process::resident;
use chillgate_tests::wait::{all, long};
use serde_json::json;

use crate::mock;

/// Faults, row 76: a million agents, each with a tool of a name of its own.
#[tokio::test]
async fn names_without_number_make_no_series_without_number() {
    const AT_ONCE: usize = 16;
    let names: usize = if long() { 1_000_000 } else { 20_000 };
    let tables = mock("a").table("")
        + "[identity]\nheader = \"x-agent-id\"\n\
           [[policy]]\ntype = \"quota\"\nname = \"calls\"\nper = [\"agent\", \"tool\"]\nallow = \"60/min\"\n\
           [[policy]]\ntype = \"boss-alert\"\nname = \"boss\"\nalertness = 1\n\
           [[policy]]\ntype = \"concurrency\"\nname = \"slots\"\nper = \"agent\"\nat-most = 4\n";
    let gate = Gate::with(&tables).start().await;
    let good = gate.host().header("x-agent-id", "good").open().await;
    assert_eq!(good.call("name", json!({})).await.code(), None);
    let before = resident(gate.pid());
    let calling = (0..AT_ONCE).map(|at| {
        let front = gate.front();
        async move {
            let mut connection = Connection::open(front).await;
            let mut statuses = std::collections::BTreeMap::new();
            for number in (at..names).step_by(AT_ONCE) {
                let params = json!({"name": format!("tool-{number}"), "arguments": {}});
                let call = message(&json!(number), "tools/call", params);
                let (agent, mut headers) = (format!("agent-{number}"), fields(&call));
                headers.push(("x-agent-id", &agent));
                let sent = connection.send("POST", "/mcp", &headers, call.to_string().into());
                let answer = collect(sent.await).await;
                *statuses.entry(answer.status).or_insert(0_usize) += 1;
            }
            statuses
        }
    });
    let statuses = all(calling).await;
    let series = gate.scrape().await.iter().count();
    let grown = resident(gate.pid()).saturating_sub(before) >> 20;
    eprintln!(
        "{names} names: {series} series, {grown} MiB more; {:?}",
        statuses[0]
    );
    assert!(series <= 5_000, "{series}");
    assert!(grown <= 200, "{grown} MiB");
    assert_eq!(
        good.call("name", json!({})).await.code(),
        None,
        "somebody else"
    );
    let fresh = gate.host().header("x-agent-id", "fresh").open().await;
    assert_eq!(
        fresh.call("name", json!({})).await.code(),
        None,
        "a newcomer"
    );
}
