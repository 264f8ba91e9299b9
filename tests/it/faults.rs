//! Servers that flood, hang, stop and stall, and what everybody else notices of it.
//!
//! It stands apart because each test compares two tails of one run: what others wait for without
//! the fault, and with it. Rows of the fault table that other files show by what is answered are
//! shown here by what it costs.

use std::time::Duration;

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::Instant;

use chillgate_tests::gate::bare;
use chillgate_tests::http::post;
use chillgate_tests::pace::{p99, tail};
use chillgate_tests::process::{peak, resident, send};
use chillgate_tests::wait::{all, long, seconds, within};
use chillgate_tests::{Gate, Host, PipeHost, modern, until};
use rustix::process::Signal;

use crate::mock;

const MIB: u64 = 1 << 20;

/// Two servers, one of them at fault.
async fn pair(more: &str) -> (Gate, Host) {
    let tables = mock("bad").table(more) + &mock("good").table("");
    let gate = Gate::with(&tables)
        .top("[limits]\nin-flight-per-agent = 2000\n")
        .start()
        .await;
    let host = gate.host().open().await;
    host.call("bad__echo", json!({})).await.tool_text();
    tail(&host, "good__echo", 50).await;
    (gate, host)
}

/// Below this a wait says nothing: the one at fault, its server, chillgate and this test share two
/// cores. The short form only sees that nobody is forgotten.
fn floor() -> Duration {
    Duration::from_millis(if long() { 15 } else { 150 })
}

fn count() -> usize {
    if long() { 2000 } else { 400 }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flood_on_stderr_stops_neither_its_server_nor_others() {
    let (gate, host) = pair("").await;
    let before = tail(&host, "good__echo", count()).await;
    let held = resident(gate.pid());
    let bytes = if long() {
        1_000_000_000
    } else {
        200_000_000_u64
    };
    let flooding = host.call("bad__stderr", json!({"bytes": bytes}));
    let during = async {
        let during = tail(&host, "good__echo", count()).await;
        (
            during,
            host.call("bad__echo", json!({"message": "still"})).await,
        )
    };
    let (flood, (during, still)) = within("the flood", seconds(120), async {
        tokio::join!(flooding, during)
    })
    .await;
    assert_eq!(
        (flood.tool_text(), still.tool_text()),
        ("after stderr", "still")
    );
    let grown = peak(gate.pid()).saturating_sub(held);
    eprintln!(
        "stderr flood: p99 {before:?} → {during:?}, {} KiB more",
        grown >> 10
    );
    assert!(grown <= 8 * MIB, "{grown} bytes more");
    assert!(
        during < (before * 2).max(floor()),
        "{before:?} became {during:?}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_million_notifications_hold_nobody_up() {
    let (gate, host) = pair("").await;
    let before = tail(&host, "good__echo", count()).await;
    let held = resident(gate.pid());
    let notes = if long() { 1_000_000 } else { 200_000 };
    // Whoever is flooded only throws away what it reads: what reading costs a host is not measured.
    let given = json!({"name": "bad__notes", "arguments": {"count": notes}});
    let mut flooded = host.unread(&host.message("tools/call", Some(given))).await;
    let flooding = async {
        let (mut heard, mut end) = (0, Vec::new());
        let mut chunk = vec![0; 256 << 10];
        while !end.ends_with(b"\r\n0\r\n\r\n") {
            let count = flooded.read(&mut chunk).await.unwrap();
            assert!(count > 0, "the stream broke off");
            heard += count;
            end.extend_from_slice(&chunk[..count]);
            let old = end.len().saturating_sub(1024);
            end.drain(..old);
        }
        (heard, String::from_utf8_lossy(&end).into_owned())
    };
    let during = tail(&host, "good__echo", count());
    let ((heard, end), during) = within("the flood", seconds(120), async {
        tokio::join!(flooding, during)
    })
    .await;
    assert!(end.contains("after the notes"), "{end}");
    eprintln!("{notes} notifications: {heard} bytes to their host");
    let grown = peak(gate.pid()).saturating_sub(held);
    eprintln!(
        "notifications: p99 {before:?} → {during:?}, {} KiB more",
        grown >> 10
    );
    assert!(grown <= 32 * MIB, "{grown} bytes more");
    assert!(
        during < (before * 3 / 2).max(floor()),
        "{before:?} became {during:?}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn calls_that_are_never_answered_end_in_time_and_leave_nothing() {
    let (gate, host) = pair("").await;
    drop((gate, host));
    let tables = mock("bad").ledger().table("probe = false");
    let gate = Gate::with(&tables)
        .top("[limits]\nin-flight-per-agent = 2000\nin-flight-per-server = 2000\ncall-idle = \"1s\"\n")
        .audited()
        .start()
        .await;
    let host = gate.host().open().await;
    host.call("echo", json!({})).await.tool_text();
    let (waves, wide) = if long() { (10, 1000) } else { (2, 200) };
    let mut worst = Duration::ZERO;
    for _ in 0..waves {
        let calls = (0..wide).map(|_| async {
            let start = Instant::now();
            let reply = host.call("never", json!({})).await;
            assert_eq!(reply.answer()["error"]["code"], 50400, "{}", reply.answer());
            start.elapsed()
        });
        for took in all(calls).await {
            assert!(took >= seconds(1), "{took:?}");
            worst = worst.max(took);
        }
    }
    // A thousand at once take their time to be written and read here; what counts is from a call's
    // arrival to its end.
    let records = gate
        .records_when("all ends", |all| {
            all.of("outcome", "timeout").len() == waves * wide
        })
        .await;
    let ended = records.of("outcome", "timeout");
    let took = ended.iter().filter_map(|one| one["dur_ms"].as_f64());
    let took: Vec<f64> = took.collect();
    assert_eq!(took.len(), waves * wide);
    let (least, most) = took.iter().fold((f64::MAX, 0.0_f64), |(least, most), one| {
        (least.min(*one), most.max(*one))
    });
    eprintln!(
        "{} timeouts after {least:.0} to {most:.0} ms; here the last was seen after {worst:?}",
        waves * wide
    );
    assert!(least >= 1000.0, "{least} ms");
    assert!(most <= if long() { 1100.0 } else { 1500.0 }, "{most} ms");
    let cancelled = until("all cancelled at the server", seconds(10), async || {
        let heard = gate.heard("bad").of("notifications/cancelled").len();
        (heard == waves * wide).then_some(heard)
    });
    cancelled.await;
    let scrape = gate.scrape().await;
    assert_eq!(
        scrape.count("chillgate_inflight_requests", &[("server", "bad")]),
        0
    );
    // None of their places is taken any more.
    assert_eq!(
        host.call("echo", json!({"message": "x"})).await.tool_text(),
        "x"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stopped_server_takes_a_bounded_backlog_and_nobody_elses_time() {
    let (gate, host) = pair("probe = false").await;
    let before = tail(&host, "good__echo", count()).await;
    let pid: u32 = host
        .call("bad__pid", json!({}))
        .await
        .tool_text()
        .parse()
        .unwrap();
    let held = resident(gate.pid());
    send(pid, Signal::STOP);
    // Far more than the pipe and the backlog take.
    let text = "x".repeat(256 << 10);
    let stuck: Vec<_> = (0..40)
        .map(|_| json!({"name": "bad__echo", "arguments": {"message": text}}))
        .map(|call| host.message("tools/call", Some(call)))
        .collect();
    let waiting = all(stuck.iter().map(|call| host.abandon(call, seconds(3))));
    let during = tail(&host, "good__echo", count());
    let (_, during) = tokio::join!(waiting, during);
    let grown = resident(gate.pid()).saturating_sub(held);
    eprintln!(
        "stopped server: p99 {before:?} → {during:?}, {} KiB more",
        grown >> 10
    );
    // Forty calls of 256 KiB wait for their turn; the pipe itself keeps one MiB of them.
    assert!(grown <= 32 * MIB, "{grown} bytes more");
    assert!(
        during < (before * 3 / 2).max(floor()),
        "{before:?} became {during:?}"
    );
    send(pid, Signal::CONT);
    let again = within(
        "its next answer",
        seconds(20),
        host.call("bad__echo", json!({"message": "on"})),
    );
    assert_eq!(again.await.tool_text(), "on");
}

/// Posts a call and never reads what comes.
async fn stopped_reader(host: &Host, text: &str) -> TcpStream {
    let call = json!({"name": "good__echo", "arguments": {"message": text}});
    host.unread(&host.message("tools/call", Some(call))).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fifty_large_calls_at_once_do_not_wait_for_one_who_does_not_read() {
    let (_gate, host) = pair("").await;
    let text = "y".repeat(if long() { 4 << 20 } else { 1 << 20 });
    let large = async || {
        let calls = (0..50).map(|_| async {
            let start = Instant::now();
            let reply = host.call("good__echo", json!({"message": text})).await;
            assert_eq!(reply.tool_text().len(), text.len());
            start.elapsed()
        });
        p99(all(calls).await)
    };
    large().await;
    let mut ratios = Vec::new();
    for _ in 0..3 {
        let without = large().await;
        let stopped = stopped_reader(&host, &text).await;
        let with = large().await;
        drop(stopped);
        ratios.push(with.as_secs_f64() / without.as_secs_f64());
    }
    ratios.sort_by(f64::total_cmp);
    eprintln!("with one who does not read, others wait {ratios:.2?} times as long");
    assert!(ratios[1] < if long() { 1.5 } else { 3.0 }, "{ratios:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_host_that_reads_byte_by_byte_holds_nobody_up() {
    let (gate, host) = pair("").await;
    let before = tail(&host, "good__echo", count()).await;
    let held = resident(gate.pid());
    // Fifty messages of a MiB each on its stream.
    let call = json!({"name": "bad__blob", "arguments": {"bytes": 12 << 20}});
    let mut slow = host.unread(&host.message("tools/call", Some(call))).await;
    let reading = async {
        let mut byte = [0];
        loop {
            slow.read_exact(&mut byte).await.unwrap();
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    let during = tokio::select! {
        () = reading => unreachable!(),
        during = tail(&host, "good__echo", count()) => during,
    };
    let grown = resident(gate.pid()).saturating_sub(held);
    eprintln!(
        "slow reader: p99 {before:?} → {during:?}, {} KiB more",
        grown >> 10
    );
    // The one answer of 12 MiB, and what is kept of it for a host that comes back.
    assert!(grown <= 40 * MIB, "{grown} bytes more");
    assert!(
        during < (before * 3 / 2).max(floor()),
        "{before:?} became {during:?}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flood_to_a_host_that_hardly_reads_is_dropped_and_not_kept() {
    let tables = mock("bad").table("era = \"legacy\"") + &mock("good").table("");
    let gate = Gate::with(&tables).start().await;
    // Each has a server to itself: what a server logs is told where one host has it.
    let host = gate.host().path("/server/good/mcp").open().await;
    tail(&host, "echo", 50).await;
    let before = tail(&host, "echo", count()).await;
    let held = resident(gate.pid());
    // Fifty MiB of notifications, to a host of the revision that cannot come back for them.
    let given = json!({"name": "notes", "arguments": {"count": 450_000},
        "_meta": {modern::LOG_LEVEL: "debug"}});
    let call = modern::message(&json!(1), "tools/call", given);
    let request = post(
        gate.front(),
        "/server/bad/mcp",
        &modern::fields(&call),
        &call.to_string(),
    );
    let mut slow = TcpStream::connect(gate.front()).await.unwrap();
    slow.write_all(&request).await.unwrap();
    let reading = async {
        let mut byte = [0];
        loop {
            slow.read_exact(&mut byte).await.unwrap();
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    let flooding = async {
        let during = tail(&host, "echo", count()).await;
        let dropped = until("what is dropped", seconds(60), async || {
            let labels = [("server", "bad"), ("reason", "host_not_reading")];
            let scrape = gate.scrape().await;
            let dropped = scrape.count("chillgate_dropped_messages_total", &labels);
            (dropped > 400_000).then_some(dropped)
        });
        (during, dropped.await)
    };
    let (during, dropped) = tokio::select! {
        () = reading => unreachable!(),
        ended = flooding => ended,
    };
    let grown = peak(gate.pid()).saturating_sub(held);
    eprintln!(
        "a flood to a slow reader: {dropped} dropped, p99 {before:?} → {during:?}, {} KiB more",
        grown >> 10
    );
    assert!(grown <= 4 * MIB, "{grown} bytes more");
    assert!(
        during < (before * 3 / 2).max(floor()),
        "{before:?} became {during:?}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn thousands_of_held_calls_are_timers_and_little_else() {
    let held_calls = if long() { 5000 } else { 1000 };
    let policy = "[[policy]]\ntype = \"boss-alert\"\nmatch = { tool = \"wait\" }\nalertness = 100\nhold = \"6s\"\n";
    let table = mock("a").table("") + policy;
    let gate = Gate::with(&table)
        .top("[limits]\nin-flight-per-agent = 10000\nin-flight-per-server = 10000\n")
        .start()
        .await;
    let host = gate.host().open().await;
    // Until the boss is as alert as can be, nothing is held.
    until("a held call", seconds(60), async || {
        let began = Instant::now();
        host.call("wait", json!({"ms": 0, "nonce": "n"})).await;
        (began.elapsed() >= seconds(6)).then_some(())
    })
    .await;
    let before = resident(gate.pid());
    let calls = all((0..held_calls).map(|_| async {
        let start = Instant::now();
        let call: Value = json!({"name": "wait", "arguments": {"ms": 0, "nonce": "n"}});
        let reply = host.post(&host.message("tools/call", Some(call))).await;
        (reply.tool_text() == "n", start.elapsed())
    }));
    let measuring = async {
        until("all held", seconds(20), async || {
            let running = gate
                .scrape()
                .await
                .count("chillgate_inflight_requests", &[("server", "a")]);
            (running >= held_calls as u64).then_some(())
        })
        .await;
        resident(gate.pid())
    };
    let (ended, during) = tokio::join!(calls, measuring);
    let each = during.saturating_sub(before) / held_calls as u64;
    let late = ended
        .iter()
        .map(|(_, took)| took.saturating_sub(seconds(6)))
        .max()
        .unwrap();
    eprintln!(
        "{held_calls} held calls: {each} bytes each with their connections, the last {late:?} late"
    );
    assert!(
        ended
            .iter()
            .all(|(right, took)| *right && *took >= seconds(6))
    );
    // A connection of its own for each is in it.
    assert!(each <= 32 << 10, "{each} bytes");
}

/// One line, so that nothing but the calls is measured.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn held_calls_on_one_line_are_small_and_in_time() {
    let held_calls = if long() { 5000 } else { 1000 };
    let hold = seconds(8);
    let folder = tempfile::tempdir().unwrap();
    let config = folder.path().join("chillgate.toml");
    let text = format!(
        "[[front]]\ntransport = \"stdio\"\n[limits]\nin-flight-per-agent = 10000\n\
         in-flight-per-server = 10000\n[[policy]]\ntype = \"boss-alert\"\n\
         match = {{ tool = \"wait\" }}\nalertness = 100\nhold = \"{}s\"\n{}",
        hold.as_secs(),
        mock("a").table("")
    );
    std::fs::write(&config, text).unwrap();
    let mut command = bare();
    command.arg("serve").arg("--config").arg(&config);
    let mut host = PipeHost::start(command);
    host.open(json!({})).await;
    let given = json!({"ms": 0, "nonce": "n"});
    // Until the boss is as alert as can be, nothing is held.
    until("a held call", seconds(60), async || {
        let began = Instant::now();
        host.call("wait", given.clone()).await;
        (began.elapsed() >= hold).then_some(())
    })
    .await;
    let pid = host.child().id().unwrap();
    let before = resident(pid);
    let mut sent = Vec::with_capacity(held_calls);
    for _ in 0..held_calls / 10 {
        for _ in 0..10 {
            let call = json!({"name": "wait", "arguments": given});
            let at = Instant::now();
            sent.push((host.send("tools/call", call).await, at));
        }
        tokio::time::sleep(Duration::from_millis(4)).await;
    }
    assert!(sent[0].1.elapsed() < hold, "it took too long to send them");
    let each = resident(pid).saturating_sub(before) / held_calls as u64;
    let mut late = Vec::with_capacity(held_calls);
    for _ in 0..held_calls {
        let answer = host.read().await.unwrap();
        let at = Instant::now();
        let (_, since) = sent.iter().find(|(id, _)| answer["id"] == *id).unwrap();
        let took = at.duration_since(*since);
        assert!(took >= hold, "{took:?}");
        late.push(took.saturating_sub(hold));
    }
    let (typical, worst) = (p99(late.clone()), late.iter().max().unwrap());
    eprintln!(
        "{held_calls} held calls on one line: {each} bytes each, late by {typical:?} (p99), {worst:?} at most"
    );
    assert!(each <= 8 << 10, "{each} bytes each");
    if long() {
        assert!(each <= 4 << 10, "{each} bytes each");
        assert!(typical <= Duration::from_millis(20), "{typical:?}");
    }
}
