//! Turns at a budget: one agent's flood slows no other, through a real gateway.
//!
//! Apart from `budgets` and `policies`, where it is about how much passes; here it is about who does.
//! Times are compared within one run only.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use chillgate_tests::gate::bare;
use chillgate_tests::pace::quantile;
use chillgate_tests::process::resident;
use chillgate_tests::wait::{all, long, seconds, within};
use chillgate_tests::{Gate, Host, PipeHost, Redis, Reply, until};
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

use crate::mock;

const HEADER: &str = "[identity]\nheader = \"x-agent-id\"\n";
const ROOM: &str = "[limits]\nin-flight-per-agent = 10000\nin-flight-per-server = 10000\n";

/// A gate with one policy for calls of tools.
async fn gate(policy: &str) -> Gate {
    let tables = mock("a").ledger().table("")
        + HEADER
        + &format!(
            "[[policy]]\nname = \"turns\"\nmatch = {{ method = \"tools/call\" }}\n{policy}\n"
        );
    Gate::with(&tables).top(ROOM).audited().start().await
}

async fn agent(gate: &Gate, name: &str) -> Host {
    gate.host().header("x-agent-id", name).open().await
}

fn reason(reply: &Reply) -> Option<&str> {
    reply.answer().pointer("/error/data/reason")?.as_str()
}

/// Calls from so many connections, each again a moment after it has its answer, until `stop`; how many
/// were answered by the server. Without the moment the refused would be as many as the machine can
/// ask, and it is no longer chillgate that others wait for.
async fn flood(host: &Host, connections: usize, stop: &AtomicBool, answered: &AtomicUsize) {
    all((0..connections).map(async |_| {
        while !stop.load(Ordering::Relaxed) {
            let reply = host.call("echo", json!({"message": "x"})).await;
            if reply.code().is_none() {
                answered.fetch_add(1, Ordering::Relaxed);
            } else {
                sleep(Duration::from_millis(10)).await;
            }
        }
    }))
    .await;
}

/// One call after the other, at a pace; how long each took. A tool takes 50 ms, as a quick one does.
async fn calmly(host: &Host, calls: usize, pace: Duration) -> Vec<Duration> {
    let mut taken = Vec::new();
    for _ in 0..calls {
        let began = Instant::now();
        let reply = host.call("wait", json!({"ms": 50, "nonce": "n"})).await;
        assert_eq!(reply.tool_text(), "n");
        taken.push(began.elapsed());
        sleep(pace.saturating_sub(began.elapsed())).await;
    }
    taken
}

/// What the calls of one agent take alone, and while another floods; how much of the flood passed, and
/// in how long.
async fn beside_a_flood(gate: &Gate, connections: usize) -> (Duration, Duration, usize, Duration) {
    let (calm, wild) = (agent(gate, "calm").await, agent(gate, "flood").await);
    let (calls, pace) = (if long() { 400 } else { 80 }, Duration::from_millis(70));
    let alone = calmly(&calm, calls, pace).await;
    let alone = quantile(alone, 95);
    let (stop, answered) = (AtomicBool::new(false), AtomicUsize::new(0));
    let calming = async {
        sleep(seconds(2)).await;
        let (before, began) = (answered.load(Ordering::Relaxed), Instant::now());
        let taken = calmly(&calm, calls, pace).await;
        let passed = answered.load(Ordering::Relaxed) - before;
        let took = began.elapsed();
        stop.store(true, Ordering::Relaxed);
        (taken, passed, took)
    };
    let flooding = flood(&wild, connections, &stop, &answered);
    let (taken, passed, took) = tokio::select! {
        ended = calming => ended,
        () = flooding => unreachable!("it goes on until it is told to stop"),
    };
    (alone, quantile(taken, 95), passed, took)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hundreds_that_wait_for_a_budget_slow_no_other_agent() {
    let gate = gate(
        "type = \"quota\"\nper = \"server\"\nallow = \"50/s\"\n\
         exceed = { wait = \"1m\", queue = 1000, queue-per-agent = 1000 }\n",
    )
    .await;
    let (alone, beside, passed, took) = beside_a_flood(&gate, 400).await;
    let rate = passed as f64 / took.as_secs_f64();
    let ratio = beside.as_secs_f64() / alone.as_secs_f64();
    eprintln!(
        "p95 {alone:?} alone, {beside:?} beside 400 calls that wait: {ratio:.3}; \
         {rate:.1} of the flood a second"
    );
    assert!(ratio <= 1.2, "{alone:?} became {beside:?}");
    // What the calm one leaves of 50 is the flood's.
    assert!((30.0..=38.0).contains(&rate), "{rate} a second");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flood_of_refused_calls_slows_no_other_agent() {
    let gate = gate("type = \"quota\"\nallow = \"50/s\"\n").await;
    let (alone, beside, ..) = beside_a_flood(&gate, 8).await;
    let ratio = beside.as_secs_f64() / alone.as_secs_f64();
    let scrape = gate.scrape().await;
    let refused = [("policy", "turns"), ("decision", "reject")];
    let refused = scrape.count("chillgate_policy_decisions_total", &refused);
    eprintln!("p95 {alone:?} alone, {beside:?} beside {refused} refused calls: {ratio:.3}");
    assert!(refused > 1_000, "{refused} are no flood");
    assert!(ratio <= 1.2, "{alone:?} became {beside:?}");
}

/// How many of each agent's calls are answered in so long, while both have 150 in line.
async fn between_two(gates: [&Gate; 2], span: Duration) -> (usize, usize) {
    let (a, b) = (agent(gates[0], "a").await, agent(gates[1], "batch-7").await);
    let stop = AtomicBool::new(false);
    let counts = [AtomicUsize::new(0), AtomicUsize::new(0)];
    let counting = async {
        sleep(seconds(1)).await;
        let before = counts.each_ref().map(|count| count.load(Ordering::Relaxed));
        sleep(span).await;
        let after = counts.each_ref().map(|count| count.load(Ordering::Relaxed));
        (after[0] - before[0], after[1] - before[1])
    };
    tokio::select! {
        counted = counting => counted,
        ((), ()) = async { tokio::join!(
            flood(&a, 150, &stop, &counts[0]),
            flood(&b, 150, &stop, &counts[1]),
        ) } => unreachable!("they go on"),
    }
}

const WEIGHED: &str = "type = \"quota\"\nper = \"all\"\nallow = \"100/s\"\nburst = 10\n\
     exceed = { wait = \"1m\" }\nweights = { a = 3, \"batch-*\" = 1 }\n";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn agents_get_as_much_as_their_weights_say() {
    let gate = gate(WEIGHED).await;
    let (a, b) = between_two([&gate, &gate], seconds(5)).await;
    let ratio = a as f64 / b as f64;
    eprintln!("{a} and {b} of 500 by weights 3 and 1: {ratio:.2}");
    assert!((475..=512).contains(&(a + b)), "{a} and {b}");
    assert!((2.7..=3.3).contains(&ratio), "{a} and {b}");
}

/// Each replica is fair to its own callers, and all of them together are exact.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn turns_at_a_shared_store_are_fair_within_a_replica() {
    let redis = Redis::start().await;
    let start = async || {
        let tables = mock("a").ledger().table("")
            + HEADER
            + &format!("[state]\nstore = \"{}\"\ntimeout = \"5s\"\n", redis.url())
            + &format!(
                "[[policy]]\nname = \"turns\"\nmatch = {{ method = \"tools/call\" }}\n{WEIGHED}\n"
            );
        Gate::with(&tables).top(ROOM).start().await
    };
    let one = start().await;
    let (a, b) = between_two([&one, &one], seconds(4)).await;
    let ratio = a as f64 / b as f64;
    eprintln!("{a} and {b} of 400 by weights 3 and 1: {ratio:.2}");
    assert!((2.7..=3.3).contains(&ratio), "{a} and {b}");
    assert!((360..=412).contains(&(a + b)), "{a} and {b}");
    // What its callers left behind still waits there.
    one.kill().await;
    let (one, two) = (start().await, start().await);
    let (a, b) = between_two([&one, &two], seconds(4)).await;
    eprintln!("{a} at one replica and {b} at the other, of 400");
    assert!((340..=412).contains(&(a + b)), "{a} and {b}");
    assert!(
        a > 60 && b > 60,
        "{a} and {b}: nobody is starved by the other replica"
    );
}

#[tokio::test]
async fn a_room_is_bounded_and_others_get_in_where_one_agent_has_most() {
    let gate = gate(
        "type = \"quota\"\nper = \"server\"\nallow = \"100/h\"\nburst = 1\nanswer = \"http-429\"\n\
         exceed = { wait = \"59m\", queue = 20, queue-per-agent = 15 }\n",
    )
    .await;
    let (one, two) = (agent(&gate, "one").await, agent(&gate, "two").await);
    one.call("echo", json!({})).await.tool_text();
    let held = async || {
        let scrape = gate.scrape().await;
        scrape.count("chillgate_held_calls", &[("policy", "turns")])
    };
    let refused = AtomicUsize::new(0);
    let many = async |host: &Host, calls: usize| {
        all((0..calls).map(async |_| {
            let reply = host.call("echo", json!({})).await;
            assert_eq!((reply.status, reply.code()), (429, Some(42_900)));
            assert!(reply.headers.contains_key("retry-after"));
            assert_eq!(reason(&reply), Some("queue_full"));
            let after = &reply.answer()["error"]["data"]["retryAfterMs"];
            assert!(after.as_u64() > Some(36_000), "{after}");
            refused.fetch_add(1, Ordering::Relaxed);
        }))
        .await;
    };
    let looking = async {
        until("its bound", seconds(10), async || {
            (held().await == 15 && refused.load(Ordering::Relaxed) == 15).then_some(())
        })
        .await;
        let other = async {
            until("both in it", seconds(10), async || {
                (held().await == 20 && refused.load(Ordering::Relaxed) == 20).then_some(())
            })
            .await;
        };
        tokio::select! {
            () = many(&two, 10) => unreachable!("all of its calls wait"),
            () = other => {}
        }
    };
    tokio::select! {
        () = many(&one, 30) => unreachable!("some of its calls wait"),
        () = looking => {}
    }
    let scrape = gate.scrape().await;
    let full = [
        ("policy", "turns"),
        ("decision", "reject"),
        ("reason", "queue_full"),
    ];
    assert_eq!(scrape.count("chillgate_policy_decisions_total", &full), 20);
}

#[tokio::test]
async fn who_cancels_leaves_at_once_and_costs_nothing() {
    let gate = gate(
        "type = \"quota\"\nper = \"server\"\nallow = \"1/3s\"\nburst = 1\nexceed = { wait = \"1m\" }\n",
    )
    .await;
    let host = agent(&gate, "one").await;
    host.call("echo", json!({})).await.tool_text();
    let began = Instant::now();
    let call = |host: &Host| {
        let params =
            json!({"name": "echo", "arguments": {"message": "x"}, "_meta": {"progressToken": "p"}});
        host.message("tools/call", Some(params))
    };
    let messages: Vec<Value> = (0..6).map(|_| call(&host)).collect();
    let (last, others) = messages.split_last().unwrap();
    let leaving = async {
        let held = async || {
            let scrape = gate.scrape().await;
            scrape.count("chillgate_held_calls", &[("policy", "turns")])
        };
        until("all of them to wait", seconds(2), async || {
            (held().await == 6).then_some(())
        })
        .await;
        for message in others {
            let params = json!({"requestId": message["id"], "reason": "done"});
            host.notify("notifications/cancelled", Some(params)).await;
        }
        until("the last one alone", seconds(1), async || {
            (held().await == 1).then_some(())
        })
        .await;
    };
    let replies = all(others.iter().map(|message| host.post(message)));
    // It comes after the others.
    let waiting = async {
        sleep(Duration::from_millis(200)).await;
        host.post(last).await
    };
    let (_, reply, ()) = tokio::join!(replies, waiting, leaving);
    assert_eq!(reply.tool_text(), "x");
    let took = began.elapsed();
    assert!(
        took >= Duration::from_millis(2_950) && took < seconds(5),
        "{took:?}"
    );
    let heard = reply.before().iter();
    let heard = heard.filter(|heard| heard["method"] == "notifications/progress");
    assert!(heard.count() >= 2, "progress while it waits: {reply:?}");
    assert_eq!(gate.heard("a").calls(), 2);
    let records = gate.records(9).await;
    let cancelled = records.of("phase", "refuse");
    assert_eq!(cancelled.len(), 5, "{cancelled:?}");
    for record in cancelled.iter() {
        assert_eq!(record["decision"]["reason"], "cancelled", "{record}");
        assert!(record["delay_ms"].as_u64() > Some(100), "{record}");
    }
}

#[tokio::test]
async fn a_call_never_waits_for_longer_than_its_caller_says() {
    let gate = gate(
        "type = \"quota\"\nper = \"server\"\nallow = \"1/2s\"\nburst = 1\nexceed = { wait = \"1m\" }\n",
    )
    .await;
    let host = agent(&gate, "one").await;
    let by = async |millis: u64| {
        let meta = json!({"dev.chillgate/timeout-ms": millis, "other/key": 1});
        let params = json!({"name": "echo", "arguments": {"message": "x"}, "_meta": meta});
        let began = Instant::now();
        let reply = host.post(&host.message("tools/call", Some(params))).await;
        (reply, began.elapsed())
    };
    // What is there is there, whatever the caller says.
    by(1).await.0.tool_text();
    let (reply, took) = by(500).await;
    assert_eq!(reason(&reply), Some("deadline"));
    assert!(took < Duration::from_millis(400), "{took:?}: at once");
    let error = &reply.answer()["error"];
    let text = error["message"].as_str().unwrap();
    assert!(
        text.contains("later than the caller's own deadline; retry after"),
        "{text}"
    );
    let after = error["data"]["retryAfterMs"].as_u64();
    assert!(after > Some(1_000) && after < Some(2_300), "{error}");
    let (reply, took) = by(5_000).await;
    assert_eq!(reply.tool_text(), "x");
    assert!(took > seconds(1) && took < seconds(4), "{took:?}");
    // The server hears of the host's own keys only.
    let calls = gate.heard("a").of("tools/call");
    assert_eq!(calls.len(), 2);
    for call in calls {
        let meta = call["params"]["_meta"].to_string();
        assert!(
            meta.contains("other/key") && !meta.contains("chillgate"),
            "{meta}"
        );
    }
}

#[tokio::test]
async fn agents_take_turns_at_slots_as_well() {
    let gate =
        gate("type = \"concurrency\"\nper = \"server\"\nat-most = 1\nexceed = { wait = \"1m\" }\n")
            .await;
    let (flood, calm) = (agent(&gate, "flood").await, agent(&gate, "calm").await);
    let given = json!({"ms": 100, "nonce": "n"});
    let flooding = all((0..60).map(|_| flood.call("wait", given.clone())));
    let calming = async {
        sleep(Duration::from_millis(500)).await;
        let began = Instant::now();
        for _ in 0..5 {
            calm.call("wait", given.clone()).await.tool_text();
        }
        began.elapsed()
    };
    let took = tokio::select! {
        took = calming => took,
        _ = flooding => panic!("the calm one had to wait for all of the flood"),
    };
    // One of the flood between any two of its own.
    assert!(took < seconds(2), "{took:?}");
}

/// One line, so that nothing but the calls is measured.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn calls_that_wait_for_their_turn_are_small_and_poll_nothing() {
    let calls = if long() { 5_000 } else { 1_000 };
    let folder = tempfile::tempdir().unwrap();
    let config = folder.path().join("chillgate.toml");
    let text = format!(
        "[[front]]\ntransport = \"stdio\"\n{ROOM}[[policy]]\ntype = \"quota\"\n\
         match = {{ tool = \"wait\" }}\nallow = \"2/s\"\nburst = 1\n\
         exceed = {{ wait = \"1h\", queue = 10000, queue-per-agent = 10000 }}\n{}",
        mock("a").table("")
    );
    std::fs::write(&config, text).unwrap();
    let mut command = bare();
    command.arg("serve").arg("--config").arg(&config);
    let mut host = PipeHost::start(command);
    host.open(json!({})).await;
    let given = json!({"ms": 0, "nonce": "n"});
    host.call("wait", given.clone()).await;
    let pid = host.child().id().unwrap();
    let before = resident(pid);
    for _ in 0..calls {
        host.send("tools/call", json!({"name": "wait", "arguments": given}))
            .await;
    }
    // Whoever asks now has waited for all of them to be read.
    within(
        "an answer beside them",
        seconds(20),
        host.call("echo", json!({"message": "x"})),
    )
    .await;
    let each = resident(pid).saturating_sub(before) / calls as u64;
    let ticks = || {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
        let fields: Vec<&str> = stat
            .rsplit(')')
            .next()
            .unwrap()
            .split_whitespace()
            .collect();
        fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap()
    };
    let (began, used) = (Instant::now(), ticks());
    sleep(seconds(if long() { 20 } else { 5 })).await;
    let share = (ticks() - used) as f64 / 100.0 / began.elapsed().as_secs_f64();
    eprintln!(
        "{calls} calls wait: {each} bytes each, {:.2} % of a core",
        share * 100.0
    );
    assert!(each <= 8 << 10, "{each} bytes each");
    if long() {
        assert!(each <= 5 << 10, "{each} bytes each");
    }
    assert!(share < 0.02, "{share} of a core for calls that only wait");
}
