//! However chillgate ends, no process of any server is left.
//!
//! It stands apart because this is looked at from outside, in `/proc`: by marks on command lines,
//! since a grandchild in a session of its own is nobody's child any more.

use std::time::Duration;

use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use chillgate_tests::gate::bare;
use chillgate_tests::process::{Found, descendants, mark, marked, send};
use chillgate_tests::script::interop;
use chillgate_tests::server::toml_list;
use chillgate_tests::wait::{all, long, seconds};
use chillgate_tests::{Gate, PipeHost, until};
use rustix::process::Signal;

use crate::{MOCK, mock};

/// How chillgate is ended.
#[derive(Clone, Copy, Debug)]
enum End {
    Term,
    Kill,
}

async fn end(gate: Gate, how: End) {
    match how {
        End::Term => {
            let (status, _folder) = gate.stop().await;
            assert!(status.success(), "{status}");
        }
        End::Kill => drop(gate.kill().await),
    }
}

/// Waits until nothing with this mark lives; kills what is left so that it harms no other test.
async fn nobody(mark: &str, limit: Duration) {
    let gone = tokio::time::timeout(limit, async {
        while !marked(mark).is_empty() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    });
    if gone.await.is_err() {
        let left: Vec<Found> = marked(mark);
        for found in &left {
            send(found.pid, Signal::KILL);
        }
        panic!("still there after {limit:?}: {left:#?}");
    }
}

#[tokio::test]
async fn a_server_through_npx_and_sh_and_node_is_gone_with_the_gate() {
    for how in [End::Term, End::Kill] {
        let mark = mark();
        let npx = [
            "npx",
            "-y",
            "@modelcontextprotocol/server-everything",
            "stdio",
            &mark,
        ];
        let from = interop().join("ts").display().to_string();
        let table = format!(
            "[server.npx]\ncommand = {}\ncwd = \"{from}\"\n",
            toml_list(&npx)
        );
        let gate = Gate::with(&table).start().await;
        let host = gate.host().open().await;
        host.call("echo", json!({"message": "up"})).await;
        let chain = marked(&mark);
        assert!(
            chain.len() >= 2,
            "no chain of processes was started: {chain:?}"
        );
        let family = descendants(gate.pid());
        end(gate, how).await;
        nobody(&mark, seconds(3)).await;
        let left: Vec<_> = family.iter().filter(|pid| alive(**pid)).collect();
        assert!(left.is_empty(), "{how:?}: descendants are left: {left:?}");
    }
}

#[tokio::test]
async fn a_grandchild_that_left_its_session_is_gone_with_the_gate() {
    for how in [End::Term, End::Kill] {
        let mark = mark();
        let gate = Gate::with(&mock("a").flags(&["--grandchild", &mark]).table(""))
            .start()
            .await;
        let host = gate.host().open().await;
        host.call("echo", json!({})).await;
        until("the grandchild", seconds(5), async || {
            marked(&mark)
                .iter()
                .any(|found| found.line.contains("--silent"))
                .then_some(())
        })
        .await;
        end(gate, how).await;
        nobody(&mark, seconds(3)).await;
    }
}

#[tokio::test]
async fn a_server_that_ignores_sigterm_and_its_closed_input_is_gone_within_six_seconds() {
    for how in [End::Term, End::Kill] {
        let mark = mark();
        let script = format!("trap '' TERM HUP INT; {MOCK} --ignore-eof --mark {mark}; true");
        let table = format!(
            "[server.deaf]\ncommand = {}\n",
            toml_list(&["sh", "-c", &script])
        );
        let gate = Gate::with(&table).start().await;
        let host = gate.host().open().await;
        host.call("echo", json!({})).await;
        end(gate, how).await;
        nobody(&mark, seconds(6)).await;
    }
}

#[tokio::test]
async fn twenty_servers_are_gone_after_sigkill() {
    let mark = mark();
    let tables: String = (0..20)
        .map(|n| mock(&format!("s{n}")).flags(&["--mark", &mark]).table(""))
        .collect();
    let gate = Gate::with(&tables).start().await;
    let host = gate.host().open().await;
    for n in 0..20 {
        host.call(&format!("s{n}__echo"), json!({})).await;
    }
    assert!(marked(&mark).len() >= 20);
    drop(gate.kill().await);
    nobody(&mark, seconds(3)).await;
}

#[tokio::test]
async fn a_wrapped_server_is_gone_when_the_host_or_the_wrapper_dies() {
    for signal in [Some(Signal::KILL), Some(Signal::TERM), None] {
        let mark = mark();
        let mut wrap = bare();
        wrap.args(["wrap", "--"]).args(
            mock("a")
                .flags(&["--grandchild", &mark, "--mark", &mark])
                .command(),
        );
        let mut host = PipeHost::start(wrap);
        host.open(json!({})).await;
        host.call("echo", json!({})).await;
        match signal {
            Some(signal) => {
                chillgate_tests::process::signal(host.child(), signal);
                drop(host.ended(seconds(10)).await);
            }
            None => drop(host.finish(seconds(10)).await),
        }
        nobody(&mark, seconds(6)).await;
    }
}

#[tokio::test]
async fn sessions_that_end_take_their_own_children_with_them() {
    let mark = mark();
    let gate = Gate::with(
        &mock("a")
            .flags(&["--mark", &mark])
            .table("isolation = \"session\""),
    )
    .start()
    .await;
    let (one, two) = (gate.host().open().await, gate.host().open().await);
    let pid = |text: &str| text.parse::<u32>().unwrap();
    let first = pid(one.call("pid", json!({})).await.tool_text());
    let second = pid(two.call("pid", json!({})).await.tool_text());
    assert_ne!(first, second, "two sessions share a child");
    one.leave().await;
    until("the end of the first child", seconds(8), async || {
        (!alive(first)).then_some(())
    })
    .await;
    assert_eq!(pid(two.call("pid", json!({})).await.tool_text()), second);
}

#[tokio::test]
async fn a_drain_loses_none_of_two_hundred_calls() {
    let gate = Gate::with(&mock("a").table(""))
        .top("[limits]\nin-flight-per-agent = 200\nin-flight-per-server = 200\n")
        .start()
        .await;
    let host = gate.host().open().await;
    // All of them have to be there before the first one ends, on a busy machine as well.
    let (least, most) = (4_000, if long() { 20_000 } else { 6_000 });
    let calls = all((0..200_u64).map(|n| {
        let ms = least + n * (most - least) / 200;
        let host = &host;
        async move {
            let nonce = n.to_string();
            let reply = host.call("wait", json!({"ms": ms, "nonce": nonce})).await;
            assert_eq!(reply.tool_text(), nonce);
        }
    }));
    let term = async {
        let running = until("all in flight", seconds(10), async || {
            let scrape = gate.scrape().await;
            let running = scrape.sum("chillgate_inflight_requests", &[("server", "a")]);
            (running > 199.5).then_some(running)
        });
        assert!(running.await < 200.5);
        gate.signal(Signal::TERM);
    };
    tokio::join!(calls, term);
    let mut gate = gate;
    assert_eq!(gate.ended(seconds(10)).await.code(), Some(0));
}

#[tokio::test]
async fn a_drain_lets_running_calls_finish_and_a_second_signal_ends_at_once() {
    let gate = Gate::with(&mock("a").table("")).start().await;
    let host = gate.host().open().await;
    let term = async {
        tokio::time::sleep(Duration::from_millis(400)).await;
        gate.signal(Signal::TERM);
        tokio::time::sleep(Duration::from_millis(200)).await;
        // The front may have closed already; if it has not, it refuses.
        let ready = chillgate_tests::http::Connection::try_open(gate.health()).await;
        if let Ok(mut ready) = ready
            && let Ok(answer) = ready
                .try_send("GET", "/readyz", &[], bytes::Bytes::new())
                .await
        {
            assert_eq!(answer.status(), 503, "ready while it drains");
        }
    };
    let call = host.call("wait", json!({"ms": 1500, "nonce": "finished"}));
    let (reply, ()) = tokio::join!(call, term);
    assert_eq!(reply.tool_text(), "finished");
    let mut gate = gate;
    let status = gate.ended(seconds(10)).await;
    assert_eq!(status.code(), Some(0), "{status}");

    let mut gate = Gate::with(&mock("a").table("")).start().await;
    let host = gate.host().open().await;
    let long = host.message(
        "tools/call",
        Some(json!({"name": "wait", "arguments": {"ms": 60_000}})),
    );
    host.abandon(&long, Duration::from_millis(300)).await;
    gate.signal(Signal::TERM);
    tokio::time::sleep(Duration::from_millis(500)).await;
    gate.signal(Signal::TERM);
    gate.ended(seconds(8)).await;
}

/// Whether a process is there and no zombie.
fn alive(pid: u32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(')')
        .is_some_and(|(_, rest)| !rest.trim_start().starts_with('Z'))
}

#[tokio::test]
async fn a_slow_reader_gets_its_whole_answer_while_the_gate_stops() {
    let gate = Gate::with(&mock("a").table("")).start().await;
    let host = gate.host().open().await;
    let call = json!({"name": "blob", "arguments": {"bytes": 4_000_000}});
    let mut link = host.unread(&host.message("tools/call", Some(call))).await;
    let mut piece = vec![0; 64 << 10];
    let mut read = 0;
    let mut told = false;
    loop {
        let count = link.read(&mut piece).await.unwrap();
        if count == 0 {
            break;
        }
        read += count;
        tokio::time::sleep(Duration::from_millis(10)).await;
        if read > 500_000 && !told {
            gate.signal(Signal::TERM);
            told = true;
        }
    }
    assert!(told && read > 4_000_000, "{read} bytes of the answer came");
    // Meanwhile nobody else is let in, and it ends when the last byte is gone.
    let mut gate = gate;
    assert_eq!(gate.ended(seconds(5)).await.code(), Some(0));
}

#[tokio::test]
async fn half_a_request_does_not_hold_the_end_up() {
    let gate = Gate::with(&mock("a").table("")).start().await;
    let mut link = tokio::net::TcpStream::connect(gate.front()).await.unwrap();
    link.write_all(b"POST /mcp HTTP/1.1\r\nhost: x")
        .await
        .unwrap();
    let idle = tokio::net::TcpStream::connect(gate.front()).await.unwrap();
    tokio::time::sleep(Duration::from_millis(100)).await;
    gate.signal(Signal::TERM);
    let mut gate = gate;
    assert_eq!(gate.ended(seconds(3)).await.code(), Some(0));
    drop((link, idle));
}

#[tokio::test]
async fn a_host_whose_server_is_mute_hears_why_when_the_wrapper_is_stopped() {
    let mut wrap = bare();
    wrap.args(["wrap", "--"])
        .args(mock("a").flags(&["--silent"]).command());
    let mut host = PipeHost::start(wrap);
    let hello = json!({"protocolVersion": "2025-11-25", "capabilities": {},
                       "clientInfo": {"name": "h", "version": "1"}});
    let id = host.send("initialize", hello).await;
    tokio::time::sleep(Duration::from_millis(500)).await;
    let pid = host.child().id().expect("it runs");
    send(pid, Signal::TERM);
    tokio::time::sleep(Duration::from_millis(300)).await;
    send(pid, Signal::TERM);
    let answer = host.answer(&json!(id)).await;
    assert_eq!(
        answer["error"]["data"]["type"], "chillgate/draining",
        "{answer}"
    );
    let (status, stderr) = host.ended(seconds(10)).await;
    assert!(
        status.success() && !stderr.contains("did not end"),
        "{status}: {stderr}"
    );
}
