//! The quota policy through a chain: what is admitted, what is refused with which words, what a
//! reload keeps, and that a budget is never exceeded.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use proptest::prelude::*;
use serde_json::{Value, json};

use crate::engine::boss::{Reading, Settings};
use crate::engine::ledger::{
    Bucket, Draw, Key, Ledger, LedgerDown, Limit, LocalLedger, Reply, Take,
};
use crate::engine::testing::{admit, call, chain, services, tool};
use crate::engine::{Call, Chain, Completion, Grants, Outcome, Pass, Rejection, Services};

fn table(more: &Value) -> Value {
    let mut table = json!({"type": "quota", "name": "q"});
    let object = table.as_object_mut().expect("a table");
    object.extend(more.as_object().expect("a table").clone());
    table
}

fn limit(allow: &str, burst: Option<u64>) -> Limit {
    Limit::new(allow.parse().expect("an allowance"), burst).expect("a limit")
}

/// How many of `tries` calls by `agent` are admitted now.
fn admitted(chain: &Arc<Chain>, agent: &str, tries: usize) -> usize {
    (0..tries)
        .filter(|_| admit(chain, call(agent, "files", "tools/call", Some("x"))).is_ok())
        .count()
}

#[test]
fn a_budget_is_spent_refused_and_comes_back_share_by_share() {
    let (clock, services) = services();
    let chain = chain(
        &[table(&json!({"allow": "60/min", "burst": 10}))],
        &services,
    );
    assert_eq!(admitted(&chain, "a", 50), 10);
    clock.advance(Duration::from_millis(999));
    assert_eq!(admitted(&chain, "a", 50), 0);
    clock.advance(Duration::from_millis(1));
    assert_eq!(admitted(&chain, "a", 50), 1);
    clock.advance(Duration::from_secs(5));
    assert_eq!(admitted(&chain, "a", 50), 5);
    clock.advance(Duration::from_hours(1));
    assert_eq!(
        admitted(&chain, "a", 50),
        10,
        "an unused budget never holds more than its burst"
    );
}

#[test]
fn without_a_burst_the_whole_allowance_may_come_at_once() {
    let (_, services) = services();
    assert_eq!(
        admitted(
            &chain(&[table(&json!({"allow": "7/h"}))], &services),
            "a",
            50
        ),
        7
    );
}

#[test]
fn a_refusal_says_which_limit_and_when_to_come_back() {
    let (_, services) = services();
    let chain = chain(
        &[table(&json!({"allow": "2/min", "answer": "http-429"}))],
        &services,
    );
    assert_eq!(admitted(&chain, "a", 2), 2);
    let rejection = admit(&chain, tool("x")).expect_err("spent");
    assert_eq!(
        (rejection.code, rejection.kind, rejection.reason),
        (42900, "quota", "quota")
    );
    assert_eq!(rejection.answer, crate::engine::Answer::Http429);
    assert!(
        rejection
            .message
            .starts_with("quota exceeded: q (2 per 1m); retry after 3")
    );
    let mut data = rejection.to_data().expect("shown");
    let after = data["retryAfterMs"].take().as_u64().expect("a number");
    assert!(
        (30_000..=33_000).contains(&after),
        "{after}: the share plus at most a tenth"
    );
    assert_eq!(
        data,
        json!({
            "type": "chillgate/quota", "policy": "q", "reason": "quota", "limit": 2, "windowS": 60,
            "remaining": 0, "retryAfterMs": null, "scope": "agent", "retryable": true
        })
    );
}

#[test]
fn coming_back_when_told_is_always_in_time() {
    for allow in ["60/min", "7/min", "3/s", "1000/day"] {
        let (clock, services) = services();
        let chain = chain(&[table(&json!({"allow": allow, "burst": 1}))], &services);
        for _ in 0..20 {
            assert_eq!(admitted(&chain, "a", 1), 1, "{allow}");
            let after = admit(&chain, tool("x")).expect_err("spent").retry_after;
            clock.advance(after.expect("a time to come back"));
        }
    }
}

#[test]
fn what_is_counted_apart_is_what_per_says() {
    let calls = [
        ("a", "s", "x"),
        ("b", "s", "x"),
        ("a", "t", "x"),
        ("a", "s", "y"),
    ];
    for (per, expected) in [
        (json!("agent"), [true, true, false, false]),
        (json!("server"), [true, false, true, false]),
        (json!("tool"), [true, false, true, true]),
        (json!(["agent", "tool"]), [true, true, true, true]),
        (json!(["agent", "server"]), [true, true, true, false]),
        (json!("all"), [true, false, false, false]),
    ] {
        let (_, services) = services();
        let chain = chain(&[table(&json!({"allow": "1/h", "per": per}))], &services);
        let got = calls.map(|(agent, server, tool)| {
            admit(&chain, call(agent, server, "tools/call", Some(tool))).is_ok()
        });
        assert_eq!(got, expected, "per {per}");
    }
}

#[test]
fn one_agents_flood_leaves_the_other_its_whole_budget() {
    let (clock, services) = services();
    let chain = chain(&[table(&json!({"allow": "100/s", "burst": 20}))], &services);
    let (mut flood, mut polite) = (0, 0);
    for _ in 0..1_000 {
        flood += admitted(&chain, "flood", 10);
        clock.advance(Duration::from_millis(10));
        polite += admitted(&chain, "polite", 1);
    }
    assert_eq!(polite, 1_000);
    assert_eq!(flood, 20 + 999, "the burst and one share each 10 ms");
}

#[test]
fn a_call_waits_if_its_share_comes_soon_enough_and_is_refused_at_once_if_not() {
    let (clock, services) = services();
    let table = table(&json!({"allow": "1/s", "burst": 1, "exceed": {"wait": "2s"}}));
    let chain = chain(&[table], &services);
    assert_eq!(admitted(&chain, "a", 1), 1);
    let mut first = Box::pin(chain.admit(tool("x"), &()));
    let mut second = Box::pin(chain.admit(tool("x"), &()));
    assert!((&mut first).now_or_never().is_none());
    assert!((&mut second).now_or_never().is_none());
    let refused = chain
        .admit(tool("x"), &())
        .now_or_never()
        .expect("3 s is too long: at once");
    assert!(refused.expect_err("refused").retry_after >= Some(Duration::from_secs(3)));
    clock.advance(Duration::from_secs(1));
    let pass = first
        .now_or_never()
        .expect("its share is there")
        .expect("admitted");
    assert_eq!(pass.delayed(), Duration::from_secs(1));
    assert!(
        (&mut second).now_or_never().is_none(),
        "the second has its own moment"
    );
    clock.advance(Duration::from_secs(1));
    assert!(second.now_or_never().expect("its share is there").is_ok());
    assert_eq!(admitted(&chain, "b", 1), 1);
}

#[test]
fn in_shadow_a_spent_budget_refuses_nobody() {
    let (_, services) = services();
    let tables = [
        table(&json!({"allow": "1/h", "mode": "shadow"})),
        json!({"type": "quota", "name": "w", "allow": "1/h", "exceed": {"wait": "1h"}, "mode": "shadow"}),
    ];
    assert_eq!(admitted(&chain(&tables, &services), "a", 30), 30);
}

#[test]
fn a_reload_keeps_what_is_spent() {
    let (clock, services) = services();
    let load = |allow: &str, burst: u32| {
        chain(
            &[table(&json!({"allow": allow, "burst": burst}))],
            &services,
        )
    };
    assert_eq!(admitted(&load("60/min", 10), "a", 7), 7);
    assert_eq!(
        admitted(&load("60/min", 10), "a", 50),
        3,
        "the same again refills nothing"
    );
    assert_eq!(
        admitted(&load("60/min", 15), "a", 50),
        5,
        "a larger burst adds only the difference"
    );
    assert_eq!(
        admitted(&load("60/min", 5), "a", 50),
        0,
        "a smaller one is overspent"
    );
    clock.advance(Duration::from_secs(11));
    assert_eq!(
        admitted(&load("60/min", 5), "a", 50),
        1,
        "15 spent, 11 back, 5 allowed"
    );
}

#[test]
fn a_changed_rate_owes_the_same_number_of_shares() {
    let (clock, services) = services();
    let load = |allow: &str| chain(&[table(&json!({"allow": allow, "burst": 10}))], &services);
    assert_eq!(admitted(&load("60/min"), "a", 10), 10);
    let slow = load("6/min");
    assert_eq!(admitted(&slow, "a", 1), 0);
    clock.advance(Duration::from_secs(9));
    assert_eq!(admitted(&slow, "a", 1), 0);
    clock.advance(Duration::from_secs(1));
    assert_eq!(admitted(&slow, "a", 5), 1);
}

#[test]
fn a_pass_shows_the_tightest_budget_it_was_counted_against() {
    for order in [["wide", "tight"], ["tight", "wide"]] {
        let (_, services) = services();
        let tables = order.map(|name| {
            let allow = if name == "tight" { "3/h" } else { "100/h" };
            json!({"type": "quota", "name": name, "allow": allow})
        });
        let pass = admit(&chain(&tables, &services), tool("x")).expect("admitted");
        let (name, budget) = pass.budget().expect("counted");
        assert_eq!((name, budget.limit, budget.remaining), ("tight", 3, 2));
        assert_eq!(
            (budget.window, budget.wait),
            (Duration::from_hours(1), Duration::ZERO)
        );
        assert_eq!(budget.reset, Duration::from_mins(20));
    }
}

#[test]
fn a_rate_that_does_not_divide_its_span_is_rounded_against_the_caller() {
    for allow in ["7/min", "3/s", "999/h", "1000000000/s", "60/min"] {
        let rate: crate::engine::span::Rate = allow.parse().expect("a rate");
        let share = limit(allow, Some(1)).share().expect("even");
        assert!(share * rate.count >= rate.per, "{allow}: {share:?}");
        let less = share.saturating_sub(Duration::from_nanos(1));
        assert!(less * rate.count < rate.per, "{allow}: {share:?}");
    }
}

#[test]
fn another_name_is_another_budget() {
    let (_, services) = services();
    let named = |name: &str| json!({"type": "quota", "name": name, "allow": "1/h"});
    assert_eq!(admitted(&chain(&[named("q")], &services), "a", 5), 1);
    assert_eq!(admitted(&chain(&[named("r")], &services), "a", 5), 1);
}

#[test]
fn a_mistake_says_what_to_write() {
    let (_, services) = services();
    for (more, key, help) in [
        (json!({}), "", "write allow = \"60/min\""),
        (
            json!({"allow": "60 per minute"}),
            "allow",
            "write \"60/min\"",
        ),
        (json!({"allow": 60}), "allow", "write \"60/min\""),
        (json!({"allow": "0/s"}), "allow", "write \"60/min\""),
        (json!({"allow": "5/day in Atlantis"}), "allow", "Asia/Seoul"),
        (json!({"allow": "5/h in UTC"}), "allow", "of the calendar"),
        (
            json!({"allow": "5/day in UTC", "burst": 2}),
            "burst",
            "take `burst` out",
        ),
        (
            json!({"allow": "1B/s", "cost": 2}),
            "cost",
            "take `cost` out",
        ),
        (json!({"allow": "1/s", "cost": -1}), "cost", "0 to 1000000"),
        (
            json!({"allow": "1/s", "cost": {"x": 1.5}}),
            "cost",
            "0 to 1000000",
        ),
        (json!({"allow": "1/s", "within": {}}), "within", "[{ … }]"),
        (
            json!({"allow": "1/s", "within": [{"per": "all"}]}),
            "within.0",
            "write allow",
        ),
        (
            json!({"allow": "1/s", "within": [{"per": "all", "allow": "1MiB/s"}]}),
            "within",
            "a [[policy]] for each",
        ),
        (
            json!({"allow": "1/day", "burst": 1000}),
            "allow",
            "lower `burst`",
        ),
        (json!({"allow": "1/s", "burst": 0}), "burst", "from 1 to"),
        (
            json!({"allow": "1/s", "per": "user"}),
            "per",
            "\"agent\", \"group\", \"scope\", \"server\", \"tool\"",
        ),
        (
            json!({"allow": "1/s", "per": ["all", "agent"]}),
            "per",
            "\"all\" alone",
        ),
        (
            json!({"allow": "1/s", "exceed": "wait"}),
            "exceed",
            "write exceed = \"reject\" or exceed = { wait",
        ),
        (
            json!({"allow": "1/s", "exceed": {}}),
            "exceed",
            "{ wait = \"5s\" }",
        ),
        (
            json!({"allow": "1/s", "exceed": {"wait": "0s"}}),
            "exceed",
            "{ wait = \"5s\" }",
        ),
        (
            json!({"allow": "1/s", "exceed": {"wait": "2d"}}),
            "exceed",
            "at most 1h",
        ),
        (
            json!({"allow": "1/s", "exceed": {"wiat": "2s"}}),
            "exceed.wiat",
            "did you mean `wait`?",
        ),
        (
            json!({"allow": "1/s", "brust": 5}),
            "brust",
            "did you mean `burst`?",
        ),
        (
            json!({"allow": "1/s", "match": {"tol": "x"}}),
            "match.tol",
            "did you mean `tool`?",
        ),
        (
            json!({"allow": "1/s", "mode": "shadwo"}),
            "mode",
            "\"enforce\", \"shadow\"",
        ),
        (json!({"allow": "1/s", "name": "a b"}), "name", "name = "),
        (
            json!({"allow": "1/s", "type": "quotas"}),
            "type",
            "did you mean \"quota\"?",
        ),
    ] {
        let mistakes = Chain::build(&[table(&more)], &services).expect_err("a mistake");
        let found = mistakes.iter().any(|mistake| {
            mistake.key.join(".") == key
                && mistake
                    .help
                    .as_deref()
                    .is_some_and(|text| text.contains(help))
        });
        assert!(found, "{more}: {mistakes:#?}");
    }
}

/// A shared store that is away.
#[derive(Debug)]
struct Away;

impl Ledger for Away {
    fn take(&self, _: &[Draw<'_>], _: Duration) -> Reply<Take> {
        Reply::Later(Box::pin(async {
            Err(LedgerDown("connection refused".into()))
        }))
    }

    fn charge(&self, _: &[Draw<'_>]) {}

    fn raise(&self, _: &Bucket, _: Settings, _: u8) -> Reply<Reading> {
        Reply::Later(Box::pin(async {
            Err(LedgerDown("connection refused".into()))
        }))
    }
}

/// A shared store that works: the local one, a hop away.
#[derive(Debug)]
struct Remote(LocalLedger);

impl Ledger for Remote {
    fn take(&self, draws: &[Draw<'_>], patience: Duration) -> Reply<Take> {
        travel(self.0.take(draws, patience))
    }

    fn charge(&self, draws: &[Draw<'_>]) {
        self.0.charge(draws);
    }

    fn raise(&self, bucket: &Bucket, settings: Settings, roll: u8) -> Reply<Reading> {
        travel(self.0.raise(bucket, settings, roll))
    }
}

fn travel<T: Send + 'static>(reply: Reply<T>) -> Reply<T> {
    let answer: BoxFuture<'static, Result<T, LedgerDown>> = match reply {
        Reply::Now(now) => Box::pin(async { Ok(now) }),
        Reply::Later(later) => later,
    };
    Reply::Later(answer)
}

#[test]
fn a_store_that_answers_later_decides_the_same() {
    let (clock, services) = services();
    let ledger = Arc::new(Remote(LocalLedger::new(Arc::new(clock))));
    let services = Services { ledger, ..services };
    assert_eq!(
        admitted(
            &chain(&[table(&json!({"allow": "5/s"}))], &services),
            "a",
            50
        ),
        5
    );
    assert_eq!(services.local.usage(), []);
}

#[test]
fn without_its_store_a_quota_does_what_it_was_told() {
    for (what, expected) in [("deny", 0), ("local", 5), ("allow", 50)] {
        let (_, services) = services();
        let services = Services {
            ledger: Arc::new(Away),
            ..services
        };
        let chain = chain(
            &[table(&json!({"allow": "5/s", "on-store-error": what}))],
            &services,
        );
        assert_eq!(admitted(&chain, "a", 50), expected, "{what}");
        if what == "deny" {
            let rejection = admit(&chain, tool("x")).expect_err("denied");
            assert_eq!((rejection.code, rejection.reason), (50304, "store_down"));
        }
    }
}

/// Whether an agent's budget has one more.
fn takes(ledger: &LocalLedger, agent: &str, limit: &Limit) -> bool {
    let key = Key {
        agent: Some(agent.into()),
        ..Key::default()
    };
    let bucket = Bucket {
        name: "q".into(),
        key,
    };
    let draw = Draw {
        bucket,
        limit,
        n: 1,
        keep: 0,
        exact: true,
    };
    let reply = ledger.take(&[draw], Duration::ZERO);
    matches!(reply, Reply::Now(take) if take.admitted)
}

#[test]
fn the_ledger_is_bounded_and_forgets_the_longest_unused_first() {
    let (clock, _) = services();
    let ledger = LocalLedger::bounded(Arc::new(clock.clone()), 1_600);
    let once = limit("1/day", Some(1));
    let take = |agent: String| takes(&ledger, &agent, &once);
    for agent in 0..10_000 {
        clock.advance(Duration::from_millis(1));
        assert!(take(format!("agent-{agent}")));
    }
    assert!(ledger.usage().len() <= 1_600);
    assert!(!take("agent-9999".into()), "the youngest is remembered");
    assert!(take("agent-0".into()), "the oldest is forgotten");
    let known = ledger.usage().len();
    assert_eq!(ledger.forget("other"), 0);
    assert_eq!(ledger.forget("q"), known);
    assert!(take("agent-9999".into()), "a reset gives the budget back");
}

#[test]
fn a_budget_that_is_full_again_is_forgotten_before_one_that_is_spent() {
    let (clock, _) = services();
    let ledger = LocalLedger::bounded(Arc::new(clock.clone()), 1_600);
    let take = |agent: &str, rate: &str| takes(&ledger, agent, &limit(rate, Some(1)));
    for agent in 0..10 {
        assert!(take(&format!("spent-{agent}"), "1/day"));
    }
    for agent in 0..10_000 {
        clock.advance(Duration::from_millis(10));
        assert!(take(&format!("passing-{agent}"), "1/s"));
    }
    for agent in 0..10 {
        assert!(
            !take(&format!("spent-{agent}"), "1/day"),
            "the oldest, but it owes a share"
        );
    }
}

/// How much of a budget is there.
fn left(ledger: &LocalLedger, draw: &Draw<'_>) -> u64 {
    let usage = ledger.usage();
    let own = usage.iter().find(|usage| usage.bucket == draw.bucket);
    own.map_or(draw.limit.burst(), |usage| usage.remaining)
}

/// A call of `tool` by an agent of these groups.
fn by(agent: &str, groups: &[&str], target: &str) -> Call {
    let grants = Grants {
        groups: groups.iter().map(|group| Arc::from(*group)).collect(),
        scopes: Vec::new(),
    };
    Call {
        grants: Arc::new(grants),
        ..call(agent, "files", "tools/call", Some(target))
    }
}

#[test]
fn a_call_costs_what_its_tool_does() {
    let (_, services) = services();
    let cost = json!({"files__write_*": 5, "write_big": 7, "files__read_*": 0, "*_huge": 100});
    let chain = chain(&[table(&json!({"allow": "10/h", "cost": cost}))], &services);
    let left = |tool: &str| {
        let pass = admit(&chain, by("a", &[], tool));
        pass.map(|pass| pass.budget().expect("metered").1.remaining)
    };
    assert_eq!(left("other").ok(), Some(9));
    assert_eq!(left("read_all").ok(), Some(9), "free");
    assert_eq!(left("write_x").ok(), Some(4));
    let refused = left("write_big").expect_err("7 of 4");
    assert!(refused.retry_after.is_some(), "it comes back");
    assert_eq!(refused.to_data().expect("data")["remaining"], 4);
    let never = left("write_huge").expect_err("100 of 10");
    assert_eq!(never.retry_after, None, "more than there ever is");
    assert_eq!(
        left("read_all").ok(),
        Some(4),
        "what is free passes an empty budget"
    );
}

#[test]
fn bytes_are_those_of_requests_and_of_answers_which_may_owe() {
    let (clock, services) = services();
    let chain = chain(&[table(&json!({"allow": "1000B/s"}))], &services);
    let send = |bytes: u64| {
        let call = Call {
            bytes_in: bytes,
            ..by("a", &[], "x")
        };
        admit(&chain, call)
    };
    let pass = send(400).expect("400 of 1000");
    pass.complete(Completion::of(Outcome::Ok).bytes_out(2_600));
    let refused = send(1).expect_err("2000 owed");
    assert!(refused.retry_after.expect("later") >= Duration::from_secs(2));
    assert!(
        refused.message.contains("1000B per 1s"),
        "{}",
        refused.message
    );
    clock.advance(Duration::from_millis(2_100));
    assert!(send(100).is_ok() && send(10).is_err());
    assert!(send(1_001).expect_err("too much").retry_after.is_none());
}

#[test]
fn a_day_of_the_calendar_comes_back_whole_at_its_own_midnight() {
    let (clock, services) = services();
    let table = table(&json!({"allow": "3/day in Asia/Seoul"}));
    let chain = chain(&[table], &services);
    assert_eq!(admitted(&chain, "a", 10), 3);
    let refused = admit(&chain, tool("x")).expect_err("spent");
    let left = refused.retry_after.expect("tomorrow");
    assert!(
        left <= Duration::from_hours(24) + Duration::from_secs(5),
        "{left:?}"
    );
    let budget = services.local.usage().pop().expect("one");
    clock.advance(
        budget
            .reset
            .checked_sub(Duration::from_millis(1))
            .expect("some"),
    );
    assert_eq!(admitted(&chain, "a", 10), 0, "a moment before midnight");
    clock.advance(Duration::from_millis(1));
    assert_eq!(admitted(&chain, "a", 10), 3);
    clock.advance(Duration::from_hours(24 * 30));
    assert_eq!(admitted(&chain, "a", 10), 3, "nothing is saved up");
}

#[test]
fn a_call_may_wait_into_the_next_day_and_takes_of_that() {
    let (clock, services) = services();
    let table = table(&json!({"allow": "2/day in UTC", "exceed": {"wait": "30m"}}));
    let chain = chain(&[table], &services);
    assert_eq!(admitted(&chain, "a", 2), 2);
    assert!(admit(&chain, tool("x")).is_err(), "midnight is too far");
    let reset = services.local.usage().pop().expect("one").reset;
    clock.advance(reset.checked_sub(Duration::from_mins(10)).expect("hours"));
    let mut waiting: Vec<BoxFuture<'_, Result<Box<Pass>, Rejection>>> = Vec::new();
    for _ in 0..2 {
        waiting.push(Box::pin(chain.admit(tool("x"), &())));
    }
    for call in &mut waiting {
        assert!(call.now_or_never().is_none());
    }
    assert!(
        admit(&chain, tool("x")).is_err(),
        "tomorrow is promised already"
    );
    clock.advance(Duration::from_mins(10));
    for call in &mut waiting {
        assert!(call.now_or_never().expect("it is tomorrow").is_ok());
    }
    assert_eq!(admitted(&chain, "a", 5), 0, "and spent");
}

#[test]
fn a_budget_within_others_takes_from_all_or_from_none() {
    let (_, services) = services();
    let chain = chain(
        &[table(&json!({
            "match": {"group": "team-*"}, "allow": "4/h",
            "within": [{"per": "group", "allow": "6/h"}, {"per": "all", "allow": "9/h"}],
        }))],
        &services,
    );
    let spend = |agent: &str, groups: &[&str]| {
        (0..20)
            .filter(|_| admit(&chain, by(agent, groups, "x")).is_ok())
            .count()
    };
    assert_eq!(spend("a", &["staff", "team-1"]), 4);
    assert_eq!(spend("b", &["team-1"]), 2, "its team has 6");
    assert_eq!(
        spend("c", &["team-2", "team-1"]),
        3,
        "all have 9, the first team counts"
    );
    assert_eq!(spend("x", &["staff"]), 20, "nobody of a team");
    let refused = admit(&chain, by("d", &["team-3"], "x")).expect_err("9 of 9");
    assert_eq!(refused.to_data().expect("data")["scope"], "all");
    assert_eq!(&*refused.policy, "q");
    let left: Vec<(Option<Arc<str>>, u64)> = services
        .local
        .usage()
        .into_iter()
        .filter(|usage| usage.bucket.key.agent.is_some())
        .map(|usage| (usage.bucket.key.agent, usage.remaining))
        .collect();
    // Who was refused by a wider budget has lost nothing of its own.
    assert!(left.contains(&(Some("b".into()), 2)), "{left:?}");
    assert!(left.contains(&(Some("c".into()), 1)), "{left:?}");
    assert!(
        !left.iter().any(|(agent, _)| agent.as_deref() == Some("d")),
        "{left:?}"
    );
    assert!(services.local.forget("q") >= 6);
    assert_eq!(services.local.usage(), []);
}

proptest! {
    #[test]
    fn of_several_budgets_none_is_exceeded_and_none_wasted(
        counts in proptest::array::uniform3(1u64..12), spans in proptest::array::uniform3(1u64..30),
        calls in proptest::collection::vec((0u64..4_000, 0usize..3, 0usize..2, 0u64..4), 1..120),
    ) {
        let (clock, services) = services();
        let limits: Vec<Limit> = counts
            .iter()
            .zip(spans)
            .map(|(count, span)| limit(&format!("{count}/{span}s"), Some(*count)))
            .collect();
        let part = |name: String| Some(Arc::from(name));
        // What each bucket was granted: when, and how much.
        let mut granted: BTreeMap<String, Vec<(u64, u64)>> = BTreeMap::new();
        for (pass, agent, team, n) in calls {
            clock.advance(Duration::from_millis(pass));
            let now = u64::try_from(clock.passed().as_millis()).expect("small");
            let keys = [
                Key { agent: part(format!("a{agent}")), ..Key::default() },
                Key { group: part(format!("t{team}")), ..Key::default() },
                Key::default(),
            ];
            let draws: Vec<Draw<'_>> = keys
                .iter()
                .zip(&limits)
                .map(|(key, limit)| Draw {
                    bucket: Bucket { name: "q".into(), key: key.clone() },
                    limit,
                    n,
                    keep: 0,
                    exact: true,
                })
                .collect();
            let before: Vec<u64> = draws.iter().map(|draw| left(&services.local, draw)).collect();
            let Reply::Now(take) = services.local.take(&draws, Duration::ZERO) else {
                panic!("it is here");
            };
            let after: Vec<u64> = draws.iter().map(|draw| left(&services.local, draw)).collect();
            // Granted if and only if every one of them had it, and refused costs nothing.
            prop_assert_eq!(take.admitted, before.iter().all(|left| *left >= n), "{:?} {}", before, n);
            if !take.admitted {
                prop_assert_eq!(&before, &after);
                continue;
            }
            for draw in &draws {
                let grants = granted.entry(draw.bucket.key.to_text()).or_default();
                grants.push((now, n));
                for (index, (from, _)) in grants.iter().enumerate() {
                    let window = now - from;
                    let share = draw.limit.share().expect("even").as_nanos();
                    let legal = u128::from(draw.limit.burst()) + u128::from(window) * 1_000_000 / share;
                    let sum: u64 = grants[index..].iter().map(|(_, n)| n).sum();
                    prop_assert!(u128::from(sum) <= legal, "{sum} of {legal} in {window} ms");
                }
            }
        }
    }

    #[test]
    fn two_keys_never_share_a_text(
        one in proptest::array::uniform5(proptest::option::of("[agost0-9:]{0,4}")),
        two in proptest::array::uniform5(proptest::option::of("[agost0-9:]{0,4}")),
    ) {
        let key = |[agent, group, scope, server, tool]: [Option<String>; 5]| Key {
            agent: agent.map(Into::into),
            group: group.map(Into::into),
            scope: scope.map(Into::into),
            server: server.map(Into::into),
            tool: tool.map(Into::into),
        };
        let (one, two) = (key(one), key(two));
        prop_assert_eq!(one == two, one.to_text() == two.to_text());
        prop_assert_eq!(Key::from_text(&one.to_text()), Some(one));
    }

    #[test]
    fn no_pattern_of_calls_exceeds_a_quota(
        count in 1u32..50, secs in 1u64..100, burst in 1u32..20, patience in 0u64..5,
        steps in proptest::collection::vec((0u64..3_000, 1usize..6), 1..80),
    ) {
        let (clock, services) = services();
        let mut more = json!({"allow": format!("{count}/{secs}s"), "burst": burst});
        if patience > 0 {
            more["exceed"] = json!({"wait": format!("{patience}s")});
        }
        let chain = chain(&[table(&more)], &services);
        // Moments in ms at which calls really went to the server.
        let mut went: Vec<u64> = Vec::new();
        let mut waiting = Vec::new();
        for (pass, tries) in steps {
            // Waits end at any moment, so time moves in small steps.
            for _ in 0..pass.div_ceil(10) {
                clock.advance(Duration::from_millis(10));
                let now = u64::try_from(clock.passed().as_millis()).expect("small");
                waiting.retain_mut(|call: &mut BoxFuture<'_, _>| match call.now_or_never() {
                    Some(pass) => { went.extend(Result::<Box<Pass>, _>::ok(pass).map(|_| now)); false }
                    None => true,
                });
            }
            let now = u64::try_from(clock.passed().as_millis()).expect("small");
            for _ in 0..tries {
                let mut call: BoxFuture<'_, _> = Box::pin(chain.admit(tool("x"), &()));
                match (&mut call).now_or_never() {
                    Some(pass) => went.extend(pass.ok().map(|_| now)),
                    None => waiting.push(call),
                }
            }
        }
        // In any window of w there are at most burst + w / share calls (10 ms of looking apart).
        for (index, from) in went.iter().enumerate() {
            for (further, to) in went.iter().enumerate().skip(index) {
                let window = to - from + 10;
                let legal = u64::from(burst) + window * u64::from(count) / (secs * 1_000);
                prop_assert!((further - index + 1) as u64 <= legal, "{} in {window} ms", further - index + 1);
            }
        }
    }
}
