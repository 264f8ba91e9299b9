//! Replicas on machines of their own: one is cut off, one is drained, all are upgraded in turn.
//!
//! It stands apart because it needs a network: each test runs in a namespace, with addresses for each
//! replica, a real load balancer and links that go down. What hosts were told is all that counts.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use chillgate_tests::http::{Connection, collect};
use chillgate_tests::modern::{self, answered, fields, message};
use chillgate_tests::net::{Net, Place, apart};
use chillgate_tests::process::command;
use chillgate_tests::wait::{all, long, seconds, within};
use chillgate_tests::{Gate, Host, Redis, until};
use rustix::process::Signal;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::process::Child;
use tokio::time::{Instant, interval, sleep};

use crate::mock;

/// Calls that run as a replica is told to stop.
const CALLS: u64 = 200;
/// Hosts that call while replicas are upgraded.
const HOSTS: usize = 20;
/// Where the load balancer listens.
const BALANCED: u16 = 8080;

async fn store() -> Redis {
    Redis::with(&["--bind", "0.0.0.0", "--protected-mode", "no"]).await
}

/// What a replica is configured with; `more` are policies.
fn tables(redis: &Redis, place: &Place, more: &str) -> String {
    let (here, port) = (Net::HERE, redis.port());
    mock("a").ledger().table("")
        + "[identity]\nheader = \"x-agent-id\"\n[limits]\nin-flight-per-agent = 1000\n"
        + &format!("[state]\nstore = \"redis://{here}:{port}\"\ntimeout = \"1s\"\n")
        + &format!("[replicas]\nlisten = \"{}:8801\"\n{more}", place.address())
}

async fn replica(redis: &Redis, place: &Place, more: &str) -> Gate {
    let gate = Gate::with(&tables(redis, place, more)).audited();
    gate.env("TERMINATION_GRACE_PERIOD_SECONDS", "10")
        .start_at(place)
        .await
}

/// Three machines with a replica each, which know each other.
async fn three(net: &Net, redis: &Redis, more: &str) -> (Vec<Place>, Vec<Gate>) {
    let mut places = Vec::new();
    for number in 11..14 {
        places.push(net.place(number).await);
    }
    let gates = all(places.iter().map(|place| replica(redis, place, more))).await;
    for gate in &gates {
        until_known(gate, 3).await;
    }
    (places, gates)
}

async fn until_known(gate: &Gate, count: u64) {
    until("the replicas to meet", seconds(15), async || {
        let known = gate.scrape().await.count("chillgate_replicas", &[]);
        (known == count).then_some(())
    })
    .await;
}

fn ann(gate: &Gate) -> Host {
    gate.host().header("x-agent-id", "ann")
}

async fn modern_call(at: std::net::SocketAddr, params: &Value) -> (u16, Value) {
    let call = message(&json!(1), "tools/call", params.clone());
    let mut headers = fields(&call);
    headers.push(("x-agent-id", "ann"));
    let mut connection = Connection::open(at).await;
    let sent = connection.send("POST", "/mcp", &headers, call.to_string().into());
    let answer = collect(sent.await).await;
    let last = modern::messages(&answer).pop();
    (answer.status, last.unwrap_or_default())
}

/// A replica that nothing reaches: its hosts hear within seconds that it is gone, others notice
/// nothing, and what it had is there again with it.
#[tokio::test]
async fn a_replica_that_is_cut_off_is_missed_and_found_again() {
    if !apart("apart::a_replica_that_is_cut_off_is_missed_and_found_again").await {
        return;
    }
    let (net, redis) = (Net::new().await, store().await);
    let (places, gates) = three(&net, &redis, "").await;
    let host = ann(&gates[0]).open().await;
    let own = host.call("pid", json!({})).await.tool_text().to_owned();
    let host = host.at(gates[1].front());
    assert_eq!(host.call("pid", json!({})).await.tool_text(), own);
    let params = json!({"name": "elicit", "arguments": {}, "_meta": {modern::CAPABILITIES: {"elicitation": {}}}});
    let (_, required) = modern_call(gates[0].front(), &params).await;
    let said = json!({"action": "accept", "content": {"name": "Ada"}});
    let again = answered(&params, &required["result"], &said);
    let other = ann(&gates[1]).open().await.at(gates[2].front());

    places[0].cut().await;
    let began = Instant::now();
    let (missed, state) = tokio::join!(
        host.call("pid", json!({})),
        modern_call(gates[2].front(), &again)
    );
    let heard = began.elapsed();
    eprintln!("heard of the missing replica after {heard:?}");
    assert!(heard < seconds(7), "{heard:?}");
    assert_eq!(
        (missed.status, missed.code()),
        (503, Some(50_305)),
        "{missed:?}"
    );
    assert_eq!(state.1["error"]["code"], 50_305, "{state:?}");
    for gate in &gates[1..] {
        until_known(gate, 2).await;
    }
    let began = Instant::now();
    let gone = host.call("pid", json!({})).await;
    assert_eq!(gone.status, 404, "{gone:?}");
    assert_eq!(
        modern_call(gates[2].front(), &again).await.1["error"]["data"]["retryable"],
        false
    );
    assert_eq!(other.call("name", json!({})).await.status, 200);
    assert!(began.elapsed() < seconds(1), "{:?}", began.elapsed());

    places[0].heal().await;
    let healed = Instant::now();
    for gate in &gates {
        until_known(gate, 3).await;
    }
    eprintln!("found again after {:?}", healed.elapsed());
    assert_eq!(
        host.call("pid", json!({})).await.tool_text(),
        own,
        "its session"
    );
    let (_, answer) = modern_call(gates[2].front(), &again).await;
    assert!(answer["result"].to_string().contains("Ada"), "{answer}");
}

/// A load balancer before the replicas, which asks them whether they are ready.
async fn balancer(places: &[Place]) -> (Child, TempDir) {
    let folder = tempfile::tempdir().expect("a temporary directory");
    let mut text = format!(
        "global\n  maxconn 4000\ndefaults\n  mode http\n  timeout connect 1s\n  timeout client 60s\n  \
         timeout server 60s\n  timeout queue 10s\n  option redispatch\n  retries 3\n  \
         default-server inter 100ms fall 1 rise 1\n\
         frontend hosts\n  bind {}:{BALANCED}\n  default_backend gates\n\
         backend gates\n  balance roundrobin\n  option httpchk GET /readyz\n  http-check expect status 200\n",
        Net::HERE
    );
    for (number, place) in places.iter().enumerate() {
        let at = place.address();
        let server = format!("  server gate{number} {at}:8800 check port 9901\n");
        text.push_str(&server);
    }
    let file = folder.path().join("haproxy.cfg");
    std::fs::write(&file, text).expect("the file can be written");
    let mut balancer = command("haproxy");
    balancer.arg("-f").arg(&file).stdin(Stdio::null());
    let balancer = balancer.spawn().expect("haproxy can be started");
    let at = (Net::HERE, BALANCED).into();
    until("the load balancer", seconds(10), async || {
        let mut connection = Connection::try_open(at).await.ok()?;
        let asked = connection.try_send("GET", "/mcp", &[], bytes::Bytes::new());
        (asked.await.ok()?.status() != 503).then_some(())
    })
    .await;
    (balancer, folder)
}

/// Faults, row 88: of what runs as a replica is told to stop, all that fits its time is answered.
#[tokio::test]
async fn a_replica_that_stops_finishes_what_fits_its_time() {
    if !apart("apart::a_replica_that_stops_finishes_what_fits_its_time").await {
        return;
    }
    let (net, redis) = (Net::new().await, store().await);
    let (_places, mut gates) = three(&net, &redis, "").await;
    // Hosts of both eras; those of the older one reach another replica than their own.
    let hosts = all((0..4).map(|_| ann(&gates[0]).open())).await;
    let hosts: Vec<Host> = hosts
        .into_iter()
        .map(|host| host.at(gates[1].front()))
        .collect();
    let front = gates[0].front();
    let fits = 3_500;
    let calling = (0..CALLS).map(|number| {
        let ms = 1_000 + number * if long() { 20_000 } else { 8_000 } / CALLS;
        let host = &hosts[number as usize % hosts.len()];
        async move {
            let arguments = json!({"ms": ms});
            let answer = if number % 2 == 0 {
                let params = json!({"name": "wait", "arguments": arguments});
                modern_call(front, &params).await
            } else {
                let reply = host.call("wait", arguments).await;
                (
                    reply.status,
                    reply.messages.last().cloned().unwrap_or_default(),
                )
            };
            (ms, answer)
        }
    });
    let stopped = gates.remove(0);
    let stopping = async {
        sleep(Duration::from_millis(900)).await;
        let began = Instant::now();
        let (status, _) = stopped.stop().await;
        assert!(status.success(), "{status}");
        began.elapsed()
    };
    let (answers, took) = tokio::join!(all(calling), stopping);
    let (mut answered, mut told) = (0, 0);
    for (ms, (status, answer)) in answers {
        assert!(
            answer["result"].is_object() || answer["error"].is_object(),
            "{ms}: {status} {answer}"
        );
        if answer["result"].is_object() {
            answered += 1;
        } else {
            told += 1;
            assert!(ms > fits, "{ms} ms fitted: {status} {answer}");
        }
    }
    eprintln!("{answered} of {CALLS} answered, {told} told; the end took {took:?}");
    assert!(answered + told == CALLS && answered > 0 && told > 0);
    assert!(took < seconds(10), "{took:?}");
}

/// What hosts heard during the upgrade.
#[derive(Default)]
struct Heard {
    statuses: std::sync::Mutex<BTreeMap<String, usize>>,
    sessions: AtomicUsize,
    over: AtomicBool,
}

impl Heard {
    fn note(&self, what: String) {
        let mut all = self.statuses.lock().expect("nobody panics with it");
        *all.entry(what).or_default() += 1;
    }
}

/// Calls at a steady pace, each one's answer noted.
async fn modern_load(heard: Arc<Heard>, agent: usize, apart: Duration) {
    let name = format!("agent-{agent}");
    let mut ticks = interval(apart);
    let mut connection = Connection::open((Net::HERE, BALANCED).into()).await;
    while !heard.over.load(Ordering::Relaxed) {
        ticks.tick().await;
        let params = json!({"name": "echo", "arguments": {"message": "x"}});
        let call = message(&json!(1), "tools/call", params);
        let mut headers = fields(&call);
        headers.push(("x-agent-id", &name));
        if !connection.usable() {
            connection = Connection::open((Net::HERE, BALANCED).into()).await;
        }
        let sent = connection.try_send("POST", "/mcp", &headers, call.to_string().into());
        match sent.await {
            Ok(sent) => {
                let status = sent.status().as_u16();
                let answer = collect(sent).await;
                let said: Value = serde_json::from_slice(&answer.body).unwrap_or_default();
                let code = said["error"]["code"].as_i64();
                heard.note(format!("{status} {code:?}"));
            }
            Err(error) if error.is_canceled() => {}
            Err(error) => heard.note(error.to_string()),
        }
    }
}

/// A host of the older revisions, which opens another session where its own is gone.
async fn legacy_load(heard: Arc<Heard>, apart: Duration) {
    let mut ticks = interval(apart);
    let fresh = || {
        Host::new((Net::HERE, BALANCED).into())
            .header("x-agent-id", "old")
            .open()
    };
    let mut host = fresh().await;
    while !heard.over.load(Ordering::Relaxed) {
        ticks.tick().await;
        let reply = host.call("echo", json!({"message": "x"})).await;
        if reply.status == 404 {
            heard.sessions.fetch_add(1, Ordering::Relaxed);
            host = fresh().await;
        } else {
            heard.note(format!("legacy {} {:?}", reply.status, reply.code()));
        }
    }
}

/// Faults, row 89: replicas that are upgraded in turn, and back, fail no request.
#[tokio::test]
async fn replicas_are_upgraded_in_turn_and_no_call_fails() {
    if !apart("apart::replicas_are_upgraded_in_turn_and_no_call_fails").await {
        return;
    }
    let (net, redis) = (Net::new().await, store().await);
    let limit = "[[policy]]\ntype = \"quota\"\nname = \"calls\"\nmatch = { tool = \"a__echo\" }\nper = \"all\"\nallow = \"100000/day\"\n";
    let (places, gates) = three(&net, &redis, limit).await;
    let (_balancer, _folder) = balancer(&places).await;
    let rate = if long() { 500 } else { 200 };
    let apart = Duration::from_secs(1) * HOSTS as u32 / rate;
    let heard = Arc::new(Heard::default());
    let mut load: Vec<_> = (0..HOSTS)
        .map(|agent| tokio::spawn(modern_load(heard.clone(), agent, apart)))
        .collect();
    load.extend((0..4).map(|_| tokio::spawn(legacy_load(heard.clone(), 5 * apart))));
    sleep(seconds(1)).await;
    let began = Instant::now();
    // The version before, where there is one; the configuration is another in any case.
    let before = std::env::var_os("CHILLGATE_BIN_BEFORE").map(PathBuf::from);
    let mut gates: Vec<Option<Gate>> = gates.into_iter().map(Some).collect();
    let rounds = if long() { 2 } else { 1 };
    for round in 0..rounds {
        let limit = limit.replace(
            "100000/day",
            if round == 0 {
                "200000/day"
            } else {
                "100000/day"
            },
        );
        for (place, gate) in places.iter().zip(&mut gates) {
            let (status, _folder) = gate.take().expect("it runs").stop().await;
            assert!(status.success(), "{status}");
            let fresh = Gate::with(&tables(&redis, place, &limit)).audited();
            let fresh = match &before {
                Some(before) if round == 0 => fresh.program(before),
                _ => fresh,
            };
            let fresh = fresh.env("TERMINATION_GRACE_PERIOD_SECONDS", "10");
            *gate = Some(fresh.start_at(place).await);
            sleep(Duration::from_millis(500)).await;
        }
    }
    let took = began.elapsed();
    heard.over.store(true, Ordering::Relaxed);
    for host in load {
        within("the last calls", seconds(20), host)
            .await
            .expect("a host has failed");
    }
    let statuses = heard
        .statuses
        .lock()
        .expect("nobody panics with it")
        .clone();
    let calls: usize = statuses.values().sum();
    let sessions = heard.sessions.load(Ordering::Relaxed);
    eprintln!("{calls} calls in {took:?}: {statuses:?}; {sessions} sessions opened anew");
    let bad: Vec<_> = statuses
        .keys()
        .filter(|it| !it.ends_with("200 None"))
        .collect();
    assert!(bad.is_empty(), "{statuses:?}");
    assert!(
        calls as f64 > 0.5 * f64::from(rate) * took.as_secs_f64(),
        "{calls}"
    );
    let spent: Vec<Gate> = gates.into_iter().flatten().collect();
    let listed = spent[0]
        .scrape()
        .await
        .sum("chillgate_quota_remaining_ratio", &[]);
    assert!(listed < 1.0, "the store forgot what was spent: {listed}");
}

/// Faults, row 72: a replica that cannot reach the store decides by itself and says so, and admits no more
/// than its policy allows for that.
#[tokio::test]
async fn a_replica_without_the_store_does_what_its_policy_says() {
    if !apart("apart::a_replica_without_the_store_does_what_its_policy_says").await {
        return;
    }
    let (net, redis) = (Net::new().await, store().await);
    let policy = |name: &str, tool: &str, how: &str| {
        format!(
            "[[policy]]\ntype = \"quota\"\nname = \"{name}\"\nmatch = {{ tool = \"a__{tool}\" }}\nallow = \"30/day\"\non-store-error = \"{how}\"\n"
        )
    };
    let policies = policy("hard", "echo", "deny") + &policy("soft", "name", "local");
    let (places, gates) = three(&net, &redis, &policies).await;
    let host = ann(&gates[0]).open().await;
    for tool in ["echo", "name"] {
        assert_eq!(host.call(tool, json!({"message": "x"})).await.code(), None);
    }
    places[0].drop_to(redis.port()).await;
    until("the store to be away", seconds(10), async || {
        let degraded = gates[0]
            .scrape()
            .await
            .sum("chillgate_quota_degraded", &[("policy", "hard")]);
        (degraded > 0.0).then_some(())
    })
    .await;
    let mut admitted = 0;
    for _ in 0..40 {
        let began = Instant::now();
        assert_eq!(
            host.call("echo", json!({"message": "x"})).await.code(),
            Some(50_304)
        );
        admitted += usize::from(host.call("name", json!({})).await.code().is_none());
        assert!(
            began.elapsed() < Duration::from_millis(500),
            "{:?}",
            began.elapsed()
        );
    }
    eprintln!("{admitted} of 30 admitted by one of three replicas without the store");
    assert_eq!(admitted, 10, "its part of what three share");
    places[0].pass().await;
    until("the store to be there", seconds(10), async || {
        let answer = host.call("echo", json!({"message": "x"})).await;
        answer.code().is_none().then_some(())
    })
    .await;
    gates[0].signal(Signal::TERM);
}
