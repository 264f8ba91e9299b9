//! Many hosts at once: slow ones, ones that leave in the midst, and more than there is room for.
//!
//! It stands apart because here the count is the test: what holds for one connection elsewhere is
//! shown for thousands, with what they cost in memory and what everybody else waits for meanwhile.

use std::net::SocketAddr;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep, timeout};

use chillgate_tests::http::{Connection, collect, post, statuses};
use chillgate_tests::pace::tail;
use chillgate_tests::process::{chillgate, command, descriptors, peak, resident};
use chillgate_tests::wait::{all, in_turns, long, seconds, within};
use chillgate_tests::{Gate, Host, PipeHost, modern, until};

use crate::mock;

const MIB: u64 = 1 << 20;
/// Heads of each kind that are too large, and ids that are used twice.
const EACH: usize = 10;
const COUNT: usize = 1000;
const JSON: (&str, &str) = ("content-type", "application/json");
const BOTH: (&str, &str) = ("accept", "application/json, text/event-stream");

/// One byte now and then, until the front has had enough; how long that took and what it said.
async fn drip(at: SocketAddr, first: &[u8]) -> (Duration, Vec<u8>) {
    // Where thousands connect at once, some are asked by the kernel to try again after a second.
    let mut stream = TcpStream::connect(at).await.unwrap();
    let began = Instant::now();
    stream.write_all(first).await.unwrap();
    let mut said = Vec::new();
    loop {
        let mut some = [0; 1024];
        match timeout(seconds(4), stream.read(&mut some)).await {
            // A byte that crosses the end of the connection resets it.
            Ok(Ok(0) | Err(_)) => return (began.elapsed(), said),
            Ok(Ok(count)) => said.extend_from_slice(&some[..count]),
            Err(_) => drop(stream.write_all(b"x").await),
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_that_come_byte_by_byte_lose_their_place_and_hold_nobody_up() {
    let gate = Gate::with(&mock("a").table("")).start().await;
    let host = gate.host().open().await;
    host.call("echo", json!({})).await.tool_text();
    let at = gate.front();
    let count = if long() { 2000 } else { 300 };
    let whole = post(at, "/mcp", &[JSON, BOTH], &"x".repeat(100));
    // Half of them stop in the headers, half in the body.
    let (head, body) = (&whole[..40], &whole[..whole.len() - 99]);
    let slow = all((0..count).map(|n| drip(at, if n % 2 == 0 { head } else { body })));
    let clean = async {
        sleep(seconds(1)).await;
        tail(&host, "echo", if long() { 2000 } else { 200 }).await
    };
    let (slow, clean) = within("the end of the slow", seconds(30), async {
        tokio::join!(slow, clean)
    })
    .await;
    let last = slow.iter().map(|(took, _)| *took).max().unwrap();
    eprintln!(
        "{count} slow requests: a clean call took {clean:?} (p99), the last was gone after {last:?}"
    );
    for (n, (took, said)) in slow.iter().enumerate() {
        let expected: &[u16] = if n % 2 == 0 { &[] } else { &[408] };
        assert_eq!(statuses(said), expected, "{n}");
        assert!(*took >= seconds(9), "{took:?}");
    }
    if long() {
        assert!(clean < Duration::from_millis(50), "{clean:?}");
        assert!(last <= seconds(11), "{last:?}");
    }
    until("their descriptors", seconds(2), async || {
        (descriptors(gate.pid()) < 64).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_pause_between_requests_is_no_slow_request() {
    let gate = Gate::with(&mock("a").table("")).start().await;
    let host = gate.host().open().await;
    let ping = json!({"jsonrpc": "2.0", "id": 1, "method": "ping"}).to_string();
    let session = ("mcp-session-id", host.session().unwrap());
    let whole = post(gate.front(), "/mcp", &[JSON, BOTH, session], &ping);
    let mut stream = TcpStream::connect(gate.front()).await.unwrap();
    let mut other = TcpStream::connect(gate.front()).await.unwrap();
    other.write_all(&whole).await.unwrap();
    assert_eq!(answered(&mut other).await, [200]);
    // A head in two pieces, then nothing for longer than a head may take, then the next.
    for pause in [Duration::from_millis(50), seconds(11)] {
        let (first, rest) = whole.split_at(30);
        stream.write_all(first).await.unwrap();
        sleep(Duration::from_millis(200)).await;
        stream.write_all(rest).await.unwrap();
        assert_eq!(answered(&mut stream).await, [200]);
        sleep(pause).await;
    }
    for mut stream in [stream, other] {
        stream.write_all(&whole).await.unwrap();
        assert_eq!(answered(&mut stream).await, [200], "after a pause");
    }
}

async fn answered(stream: &mut TcpStream) -> Vec<u16> {
    let mut said = vec![0; 4096];
    let count = within("the answer", seconds(5), stream.read(&mut said));
    let count = count.await.unwrap();
    statuses(&said[..count])
}

#[tokio::test]
async fn a_head_that_is_too_large_is_refused_for_little_memory() {
    let gate = Gate::with(&mock("a").table("")).start().await;
    let host = gate.host().open().await;
    host.call("echo", json!({})).await.tool_text();
    let at = gate.front();
    let held = resident(gate.pid());
    let large = "y".repeat(1 << 20);
    let many: Vec<String> = (0..10_000).map(|n| format!("x-{n}")).collect();
    let many: Vec<(&str, &str)> = many.iter().map(|name| (name.as_str(), "1")).collect();
    let heads = [
        post(at, "/mcp", &[("x-large", &large)], "{}"),
        post(at, "/mcp", &many, "{}"),
    ];
    let refused = all((0..2 * EACH).map(async |n| {
        let mut stream = TcpStream::connect(at).await.unwrap();
        let (mut reading, mut writing) = stream.split();
        let mut said = Vec::new();
        // The rest of it finds the connection closed, which may cost the refusal its way back.
        let (_, _) = tokio::join!(
            writing.write_all(&heads[n % 2]),
            timeout(seconds(10), reading.read_to_end(&mut said)),
        );
        statuses(&said)
    }))
    .await;
    let told = refused.iter().filter(|said| **said == [431]).count();
    assert!(
        refused.iter().all(|said| said.is_empty() || *said == [431]),
        "{refused:?}"
    );
    assert!(told > 0, "{refused:?}");
    let grown = peak(gate.pid()).saturating_sub(held);
    eprintln!(
        "{} heads of a MiB or of 10,000 fields: {told} were told, {} KiB more",
        refused.len(),
        grown >> 10
    );
    assert!(grown <= 2 * EACH as u64 * MIB, "{grown} bytes more");
    host.call("echo", json!({})).await.tool_text();
}

#[tokio::test]
async fn half_closed_connections_get_their_answers() {
    let gate = Gate::with(&mock("a").table("")).start().await;
    let host = gate.host().open().await;
    let session = ("mcp-session-id", host.session().unwrap());
    let answers = in_turns(
        16,
        (0..1000).map(async |n| {
            let call = json!({"name": "random", "arguments": {"nonce": format!("n{n}")}});
            let call = json!({"jsonrpc": "2.0", "id": n, "method": "tools/call", "params": call});
            let bytes = post(
                gate.front(),
                "/mcp",
                &[JSON, BOTH, session, ("connection", "close")],
                &call.to_string(),
            );
            let mut stream = TcpStream::connect(gate.front()).await.unwrap();
            stream.write_all(&bytes).await.unwrap();
            stream.shutdown().await.unwrap();
            let mut said = Vec::new();
            let read = within("the answer", seconds(20), stream.read_to_end(&mut said));
            read.await.unwrap();
            String::from_utf8_lossy(&said).contains(&format!("\"n{n}\""))
        }),
    )
    .await;
    let right = answers.iter().filter(|is_right| **is_right).count();
    assert_eq!(right, 1000);
}

#[tokio::test]
async fn an_id_in_flight_is_refused_a_thousand_times_and_its_first_call_goes_on() {
    let gate = Gate::with(&mock("a").ledger().table(""))
        .top("[limits]\nin-flight-per-agent = 3000\nin-flight-per-server = 2000\n")
        .start()
        .await;
    let host = gate.host().open().await;
    let call = |id: usize| {
        let given = json!({"ms": 4000, "nonce": format!("n{id}")});
        json!({"jsonrpc": "2.0", "id": id, "method": "tools/call",
            "params": {"name": "wait", "arguments": given}})
    };
    let firsts = all((100..100 + COUNT)
        .map(async |id| host.post(&call(id)).await.tool_text() == format!("n{id}")));
    let seconds_ = async {
        until("all at the server", seconds(20), async || {
            (gate.heard("a").calls() == COUNT).then_some(())
        })
        .await;
        in_turns(
            16,
            (100..100 + COUNT).map(async |id| host.post(&call(id)).await.code()),
        )
        .await
    };
    let (firsts, again) = tokio::join!(firsts, seconds_);
    assert_eq!(firsts.iter().filter(|is_right| **is_right).count(), COUNT);
    assert_eq!(
        again.iter().filter(|code| **code == Some(-32600)).count(),
        COUNT
    );
    assert_eq!(gate.heard("a").calls(), COUNT);
}

/// A host of 2026-07-28 resets its connection at any moment of a call.
#[tokio::test]
async fn a_reset_connection_cancels_its_call_and_pays_for_it() {
    let count = if long() { 500 } else { 60 };
    let quota = format!(
        "\n[[policy]]\ntype = \"quota\"\nmatch = {{ method = \"tools/call\" }}\nallow = \"2/d\"\nburst = {count}\n"
    );
    let gate = Gate::with(&(mock("a").ledger().table("era = \"legacy\"") + &quota))
        .start()
        .await;
    let at = gate.front();
    let mut worst = Duration::ZERO;
    let call = |n: usize| {
        let given = json!({"ms": 30_000, "nonce": format!("n{n}")});
        let params = json!({"name": "wait", "arguments": given, "_meta": {"progressToken": n}});
        modern::message(&json!(n), "tools/call", params)
    };
    for n in 0..count {
        let message = call(n);
        let bytes = post(at, "/mcp", &modern::fields(&message), &message.to_string());
        let mut stream = TcpStream::connect(at).await.unwrap();
        stream.write_all(&bytes).await.unwrap();
        until("the call", seconds(10), async || {
            (gate.heard("a").calls() == n + 1).then_some(())
        })
        .await;
        sleep(Duration::from_micros(n as u64 * 7919 % 9000)).await;
        stream.set_zero_linger().unwrap();
        drop(stream);
        let began = Instant::now();
        until("its cancelling", seconds(5), async || {
            let heard = gate.heard("a").of("notifications/cancelled").len();
            (heard == n + 1).then_some(())
        })
        .await;
        worst = worst.max(began.elapsed());
    }
    eprintln!("{count} resets: cancelled after at most {worst:?}");
    assert!(
        worst <= Duration::from_millis(if long() { 200 } else { 1000 }),
        "{worst:?}"
    );
    let scrape = gate.scrape().await;
    assert_eq!(
        scrape.count("chillgate_inflight_requests", &[("server", "a")]),
        0
    );
    // What was begun is paid for.
    let message = call(count);
    let more = modern::send(at, &message).await;
    assert_eq!(modern::body(&more)["error"]["code"], 42900);
}

/// As many hosts as may be, each with a session and an open stream.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn thousands_of_streams_are_open_at_once_and_one_more_is_told_to_wait() {
    let most = if long() { 9_000 } else { 800 };
    let limits = format!("[limits]\nsessions = {most}\nconnections = 9500\n");
    let gate = Gate::with(&mock("a").table("")).top(&limits).start().await;
    let at = gate.front();
    // What all sessions share is there before they are counted.
    gate.host().open().await.leave().await;
    let (held, began) = (resident(gate.pid()), Instant::now());
    let open = in_turns(
        32,
        (0..most).map(async |_| {
            let host = Host::new(at).open().await;
            let session = host.session().unwrap().to_owned();
            drop(host);
            let mut connection = Connection::open(at).await;
            let fields = [
                ("accept", "text/event-stream"),
                ("mcp-session-id", session.as_str()),
            ];
            let response = connection
                .send("GET", "/mcp", &fields, bytes::Bytes::new())
                .await;
            assert_eq!(response.status(), 200);
            (connection, response)
        }),
    )
    .await;
    let rate = f64::from(most) / began.elapsed().as_secs_f64();
    let scrape = gate.scrape().await;
    assert_eq!(scrape.count("chillgate_streams", &[]), most as u64);
    let each = resident(gate.pid()).saturating_sub(held) / most as u64;
    eprintln!("{most} sessions with a stream: {rate:.0} a second, {each} bytes each");
    // The HTTP library holds two buffers of 8 KiB for each connection; a session is 2 KiB.
    assert!(each <= 24 << 10, "{each} bytes each");
    let more = Host::new(at);
    let refused = more.post(&more.hello(&json!({}))).await;
    assert_eq!(refused.status, 503, "{refused:?}");
    assert!(refused.headers.contains_key("retry-after"), "{refused:?}");
    drop(open);
    until("the end of the streams", seconds(20), async || {
        (gate.scrape().await.count("chillgate_streams", &[]) == 0).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_opens_sessions_for_ever_fills_a_table_of_fixed_size() {
    let opens = if long() { 1_000_000 } else { 20_000 };
    let gate = Gate::with(&mock("a").table(""))
        .top("[limits]\nsessions = 5000\n")
        .start()
        .await;
    let at = gate.front();
    let host = Host::new(at);
    let hello = host.hello(&json!({})).to_string();
    let fill = async |count: usize| {
        let workers = all((0..8).map(async |_| {
            let mut connection = Connection::open(at).await;
            let (mut opened, mut refused) = (0, 0);
            for _ in 0..count / 8 {
                let sent = connection.send("POST", "/mcp", &[JSON, BOTH], hello.clone().into());
                match collect(sent.await).await.status {
                    200 => opened += 1,
                    503 => refused += 1,
                    other => panic!("{other}"),
                }
            }
            (opened, refused)
        }));
        let all = workers.await;
        all.iter()
            .fold((0, 0), |sum, one| (sum.0 + one.0, sum.1 + one.1))
    };
    let first = fill(10_000).await;
    assert_eq!(first, (5000, 5000));
    let held = resident(gate.pid());
    let rest = fill(opens - 10_000).await;
    assert_eq!(rest, (0, opens - 10_000));
    let grown = resident(gate.pid()).saturating_sub(held);
    eprintln!(
        "{opens} opens: {} KiB at the cap, {} KiB more at the end",
        held >> 10,
        grown >> 10
    );
    assert!(grown <= 2 * MIB, "{grown} bytes more");
    let scrape = gate.scrape().await;
    assert_eq!(scrape.count("chillgate_sessions", &[]), 5000);
}

#[tokio::test]
async fn chillgate_takes_all_descriptors_it_may_have_and_its_servers_get_what_it_was_given() {
    let script = r#"ulimit -S -n 300; exec "$0" wrap -- "$@""#;
    let mut command = command("sh");
    command.args(["-c", script]).arg(chillgate());
    command.args(mock("a").command());
    command.env("XDG_CONFIG_HOME", "/nonexistent");
    command.env("XDG_STATE_HOME", "/dev/null/none");
    let mut host = PipeHost::start(command);
    host.open(json!({})).await;
    let asked = json!({"command": ["sh", "-c", "ulimit -S -n; ulimit -H -n"]});
    let answer = host.call("run", asked).await;
    let said = answer["result"]["content"][0]["text"].as_str().unwrap();
    let said: Value = serde_json::from_str(said).unwrap();
    let bounds: Vec<&str> = said["out"].as_str().unwrap().split_whitespace().collect();
    let own = std::fs::read_to_string(format!("/proc/{}/limits", host.child().id().unwrap()));
    let own = own.unwrap();
    let own = own
        .lines()
        .find(|line| line.starts_with("Max open files"))
        .unwrap();
    let own: Vec<&str> = own["Max open files".len()..].split_whitespace().collect();
    assert_eq!(bounds[0], "300", "{said}");
    assert_eq!(own[0], own[1], "its own is raised as far as it goes");
    assert_eq!(bounds[1], own[1], "what servers may ask for stays");
}
