//! Budgets at several levels, of calls that cost, of bytes and of days: by count, through a real
//! gateway.
//!
//! Apart from `policies`, where a budget is one number for one agent. The arithmetic is judged in the
//! policies' own tests; here it is that all of it is wired to what hosts send and servers answer.

use chillgate_tests::http::get;
use chillgate_tests::process::command;
use chillgate_tests::wait::all;
use chillgate_tests::{Gate, Host, Issuer};
use serde_json::json;

use crate::mock;

const HEADER: &str = "[identity]\nheader = \"x-agent-id\"\n";

async fn agent(gate: &Gate, name: &str) -> Host {
    gate.host().header("x-agent-id", name).open().await
}

/// How many of so many calls of a tool at once were answered.
async fn answered(host: &Host, tool: &str, calls: usize) -> usize {
    let replies = all((0..calls).map(|_| host.call(tool, json!({ "message": "x" })))).await;
    let codes: Vec<_> = replies.iter().map(chillgate_tests::Reply::code).collect();
    assert!(
        codes
            .iter()
            .all(|code| code.is_none_or(|code| code == 42_900)),
        "{codes:?}"
    );
    codes.iter().filter(|code| code.is_none()).count()
}

#[tokio::test]
async fn agents_share_what_their_team_has_and_teams_what_all_have() {
    let issuer = Issuer::start().await;
    let tables = mock("a").ledger().table("")
        + &format!(
            "[identity.jwt]\nissuer = \"{name}\"\naudience = \"chillgate\"\njwks = \"{name}/jwks\"\n\
             [[policy]]\ntype = \"quota\"\nmatch = {{ method = \"tools/call\", group = \"team-*\" }}\n\
             allow = \"10/h\"\nwithin = [{{ per = \"group\", allow = \"15/h\" }}, {{ per = \"all\", allow = \"25/h\" }}]\n",
            name = issuer.name()
        );
    let gate = Gate::with(&tables).start().await;
    let host = async |sub: &str, team: &str| {
        let token = issuer
            .token(json!({ "sub": sub, "groups": ["staff", team] }))
            .await;
        gate.host()
            .header("authorization", &format!("Bearer {token}"))
            .open()
            .await
    };
    let (one, two) = (host("one", "team-a").await, host("two", "team-a").await);
    let counts = tokio::join!(answered(&one, "echo", 30), answered(&two, "echo", 30));
    assert_eq!(
        counts.0 + counts.1,
        15,
        "{counts:?}: a team has 15, however it is shared"
    );
    assert!(counts.0 <= 10 && counts.1 <= 10, "{counts:?}");
    let (three, four) = (host("three", "team-b").await, host("four", "team-c").await);
    let counts = tokio::join!(answered(&three, "echo", 30), answered(&four, "echo", 30));
    assert_eq!(counts.0 + counts.1, 10, "{counts:?}: all have 25");
    assert_eq!(
        gate.heard("a").calls(),
        25,
        "a refused call reached the server"
    );
}

#[tokio::test]
async fn dear_tools_spend_more_and_free_ones_nothing() {
    let tables = mock("a").table("")
        + HEADER
        + "[[policy]]\ntype = \"quota\"\nmatch = { method = \"tools/call\" }\nallow = \"10/h\"\n\
           cost = { \"a__delete_*\" = 4, name = 0 }\n";
    let gate = Gate::with(&tables).start().await;
    let host = agent(&gate, "one").await;
    assert_eq!(answered(&host, "delete_all", 5).await, 2);
    assert_eq!(answered(&host, "name", 20).await, 20);
    assert_eq!(answered(&host, "echo", 5).await, 2);
    assert_eq!(answered(&host, "name", 5).await, 5);
}

#[tokio::test]
async fn what_an_answer_owes_is_paid_before_the_next_call() {
    let tables = mock("a").table("")
        + HEADER
        + "[[policy]]\ntype = \"quota\"\nname = \"bytes\"\nmatch = { method = \"tools/call\" }\nallow = \"20KiB/h\"\n";
    let gate = Gate::with(&tables).start().await;
    let host = agent(&gate, "one").await;
    let long = "x".repeat(12 << 10);
    let first = host.call("echo", json!({ "message": long })).await;
    assert_eq!(first.tool_text(), long, "12 KiB of 20 are there");
    // It has come back as well: 24 KiB are spent, and more than the budget is owed.
    let refused = host.call("echo", json!({ "message": "y" })).await;
    assert_eq!(refused.code(), Some(42_900));
    let text = refused.answer()["error"]["message"].to_string();
    assert!(text.contains("20KiB per 1h"), "{text}");
    let other = agent(&gate, "two").await;
    assert_eq!(answered(&other, "echo", 1).await, 1);
}

#[tokio::test]
async fn a_day_goes_by_its_own_midnight_and_by_no_clock_that_is_set() {
    let tables = mock("a").table("")
        + HEADER
        + "[[policy]]\ntype = \"quota\"\nname = \"daily\"\nmatch = { method = \"tools/call\" }\nallow = \"3/day in Asia/Seoul\"\n";
    let gate = Gate::with(&tables).start().await;
    let host = agent(&gate, "one").await;
    assert_eq!(answered(&host, "echo", 9).await, 3);
    let refused = host.call("echo", json!({})).await;
    let after = refused.answer()["error"]["data"]["retryAfterMs"]
        .as_u64()
        .expect("a day ends")
        / 1_000;
    // How long the day there still has, as the system's own `date` says.
    let date = async |args: &[&str]| -> u64 {
        let mut date = command("date");
        let said = date
            .env("TZ", "Asia/Seoul")
            .args(args)
            .output()
            .await
            .unwrap();
        String::from_utf8_lossy(&said.stdout)
            .trim()
            .parse()
            .unwrap()
    };
    let left = date(&["-d", "tomorrow 00:00", "+%s"]).await - date(&["+%s"]).await;
    // `date` counts whole seconds.
    assert!(
        after + 1 >= left && after <= left + 10,
        "{after} s, the day has {left} s"
    );
    let metrics = get(gate.health(), "/metrics").await.text();
    assert!(
        metrics.contains("chillgate_quota_remaining_ratio{policy=\"daily\"} 0\n"),
        "{metrics}"
    );
}
