//! Hosts whose event streams break, or are ended to be asked again, and that come back for the rest.
//!
//! It stands apart because here a connection ends and its call does not. Nothing may be missing,
//! nothing may come twice, and nobody hears what another stream carried.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rustix::process::Signal;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::process::Child;

use chillgate_tests::audit::Records;
use chillgate_tests::host::LATEST;
use chillgate_tests::http::request;
use chillgate_tests::judge::host_heard;
use chillgate_tests::modern::{fields, message};
use chillgate_tests::process::free_port;
use chillgate_tests::script::{Endpoint, Script, Sdk};
use chillgate_tests::server::toml_list;
use chillgate_tests::sse::{Event, Events};
use chillgate_tests::wait::{all, seconds, within};
use chillgate_tests::{Gate, Host, until};

use crate::mock;
use crate::peers::{legacy_remote, legacy_server};

const HEADER: &str = "[identity]\nheader = \"x-agent-id\"\n";

async fn gate(more: &str) -> Gate {
    let tables = mock("a").ledger().table("") + more;
    Gate::with(&tables).audited().start().await
}

fn steps(host: &Host, token: &str, steps: u64) -> Value {
    let params = json!({"name": "progress", "arguments": {"steps": steps, "ms": 60},
        "_meta": {"progressToken": token}});
    host.message("tools/call", Some(params))
}

async fn next(events: &mut Events) -> Option<Event> {
    within("an event", seconds(10), events.next()).await
}

/// The events that carry something, to the end of the stream.
async fn rest(events: &mut Events) -> Vec<Event> {
    let mut all = Vec::new();
    while let Some(event) = next(events).await {
        if !event.data.is_empty() {
            all.push(event);
        }
    }
    all
}

fn messages(events: &[Event]) -> Vec<Value> {
    let messages: Vec<Value> = events.iter().filter_map(Event::message).collect();
    for message in &messages {
        host_heard(LATEST, "tools/call", message);
    }
    messages
}

fn reached(messages: &[Value], token: &str) -> Vec<u64> {
    let mine = messages
        .iter()
        .filter(|message| message["params"]["progressToken"] == token);
    mine.filter_map(|message| message["params"]["progress"].as_u64())
        .collect()
}

fn text(message: &Value) -> &str {
    message["result"]["content"][0]["text"].as_str().unwrap()
}

///
#[tokio::test]
async fn a_host_whose_connection_breaks_comes_back_for_the_rest_of_that_stream() {
    let gate = gate("").await;
    let host = gate.host().open().await;
    let mut own = host.listen().await;
    let (one, other) = (steps(&host, "one", 10), steps(&host, "other", 10));
    let (mut broken, mut whole) = tokio::join!(host.stream(&one), host.stream(&other));
    // It knows where it stands before anything is said.
    let primed = next(&mut broken).await.unwrap();
    assert!(
        primed.data.is_empty() && primed.retry == Some(1000),
        "{primed:?}"
    );
    let mut heard = vec![
        next(&mut broken).await.unwrap(),
        next(&mut broken).await.unwrap(),
    ];
    drop(broken);
    let last = heard[1].id.clone().unwrap();
    assert_ne!(primed.id, heard[0].id);
    tokio::time::sleep(Duration::from_millis(200)).await;

    let mut back = host.resume(&last).await.unwrap();
    let primed = next(&mut back).await.unwrap();
    assert_eq!(
        (primed.id.as_ref(), primed.data.as_str()),
        (Some(&last), "")
    );
    heard.extend(rest(&mut back).await);
    let told = messages(&heard);
    assert_eq!(reached(&told, "one"), (1..=10).collect::<Vec<_>>());
    assert_eq!(told.len(), 11, "{told:?}");
    assert_eq!((&told[10]["id"], text(&told[10])), (&one["id"], "done"));
    // The other stream has carried its own, and ids of its own.
    let others = rest(&mut whole).await;
    assert_eq!(
        reached(&messages(&others), "other"),
        (1..=10).collect::<Vec<_>>()
    );
    assert_eq!(others.len(), 11);
    let ids = heard
        .iter()
        .chain(&others)
        .filter_map(|event| event.id.clone());
    assert_eq!(ids.collect::<std::collections::HashSet<_>>().len(), 22);
    // And the session's own has carried none of it.
    assert!(next(&mut own).await.unwrap().data.is_empty());
    let more = tokio::time::timeout(Duration::from_millis(100), own.next()).await;
    assert!(more.is_err(), "{more:?}");
    gate.stop().await;
}

/// What a call asks while its host is away stays on its stream, whatever other streams there are.
#[tokio::test]
async fn a_question_of_the_meantime_waits_for_the_host() {
    let (_server, address) = remote().await;
    let gate = gate(&format!(
        "[server.r]\nurl = \"http://{address}/mcp\"\nera = \"legacy\"\n"
    ))
    .await;
    let able = json!({"elicitation": {}, "roots": {}, "sampling": {}});
    let (host, _) = gate.host().open_with(able).await;
    let call = json!({"name": "r__test_input_required_result_multi_round"});
    // Reset, and not only closed, so that chillgate knows. It was asked its first question by then.
    let call = host.message("tools/call", Some(call));
    host.reset(&call, Duration::from_millis(500)).await;
    let wait = json!({"name": "a__wait", "arguments": {"ms": 3000}});
    let waits = [(); 4].map(|()| host.message("tools/call", Some(wait.clone())));
    let mut others = all(waits.iter().map(|wait| host.stream(wait))).await;
    let answer = |content: Value| json!({"action": "accept", "content": content});
    let name = answer(json!({"name": "Ann"}));
    assert_eq!(host.respond(&json!(1), name).await, 202);
    tokio::time::sleep(Duration::from_millis(300)).await;

    let mut back = host.resume("1-0").await.unwrap();
    let mut asked = Vec::new();
    while asked.len() < 2 {
        asked.extend(next(&mut back).await.unwrap().message());
    }
    let colour = answer(json!({"color": "red"}));
    assert_eq!(host.respond(&asked[1]["id"], colour).await, 202);
    let told = messages(&rest(&mut back).await);
    assert_eq!(text(&told[0]), "Ann likes red.");
    for other in &mut others {
        assert_eq!(rest(other).await.len(), 1);
    }
    gate.stop().await;
}

/// What names no call goes where somebody reads.
#[tokio::test]
async fn a_question_that_may_be_of_any_call_is_put_on_a_stream_that_is_read() {
    let gate = gate("").await;
    let able = json!({"elicitation": {}});
    let (host, _) = gate.host().open_with(able).await;
    let call = |tool: &str, ms: u64| {
        let params = json!({"name": tool, "arguments": {"ms": ms}});
        host.message("tools/call", Some(params))
    };
    let broken = [(); 20].map(|()| call("wait", 9000));
    all(broken
        .iter()
        .map(|call| host.reset(call, Duration::from_millis(1500))))
    .await;
    // More than once: which of several is looked at first is nobody's promise.
    for _ in 0..2 {
        let mut stream = host.stream(&call("elicit", 1200)).await;
        let asked = loop {
            if let Some(asked) = next(&mut stream).await.expect("a question").message() {
                break asked;
            }
        };
        assert_eq!(
            host.respond(&asked["id"], json!({"said": "yes"})).await,
            202
        );
        let told = messages(&rest(&mut stream).await);
        assert!(text(&told[0]).contains("yes"));
    }
    gate.stop().await;
}

/// A stream that has carried nothing has no id to come back with.
#[tokio::test]
async fn a_host_that_cannot_come_back_is_asked_on_the_sessions_own_stream() {
    let gate = gate("").await;
    let host = gate.host().revision("2025-06-18");
    let (host, _) = host.open_with(json!({"elicitation": {}})).await;
    let mut own = host.listen().await;
    let call = json!({"name": "elicit", "arguments": {"ms": 17_000}});
    let call = host.message("tools/call", Some(call));
    host.reset(&call, Duration::from_millis(15_700)).await;
    let asked = within("a question", seconds(10), own.message()).await;
    let asked = asked.unwrap();
    assert_eq!(asked["method"], "elicitation/create");
    assert_eq!(
        host.respond(&asked["id"], json!({"said": "yes"})).await,
        202
    );
    gate.stop().await;
}

#[tokio::test]
async fn nobody_is_sent_away_from_a_chillgate_that_is_stopping() {
    let (_server, address) = remote().await;
    let table = format!("[server.r]\nurl = \"http://{address}/mcp\"\nera = \"legacy\"\n");
    let gate = Gate::with(&table).start().await;
    let host = gate.host().open().await;
    let call = json!({"name": "test_reconnection", "arguments": {"before": 1000}});
    let call = host.message("tools/call", Some(call));
    let (reply, ()) = tokio::join!(host.post(&call), async {
        tokio::time::sleep(Duration::from_millis(400)).await;
        gate.signal(Signal::TERM);
    });
    assert_eq!(reply.tool_text(), "Welcome back.");
}

/// A connection whose host has closed its half, and whose stream somebody newer reads, is over.
#[tokio::test]
async fn a_stream_that_was_taken_over_leaves_no_connection_behind() {
    let gate = gate("").await;
    let host = gate.host().open().await;
    let open = || {
        let folder = format!("/proc/{}/fd", gate.pid());
        std::fs::read_dir(folder).unwrap().count()
    };
    host.call("echo", json!({})).await;
    let before = open();
    let mut left = Vec::new();
    for number in 1..=10 {
        let mut stream = host.unread(&steps(&host, "t", 30)).await;
        let mut came = Vec::new();
        while !came.windows(6).any(|part| part == b"step 1") {
            assert!(stream.read_buf(&mut came).await.unwrap() > 0);
        }
        stream.shutdown().await.unwrap();
        left.push((number, stream));
    }
    for (number, _) in &left {
        let mut back = host.resume(&format!("{number}-1")).await.unwrap();
        let told = messages(&rest(&mut back).await);
        assert_eq!(text(told.last().unwrap()), "done");
    }
    until("their connections are closed", seconds(5), async || {
        (open() <= before + 2).then_some(())
    })
    .await;
    gate.stop().await;
}

///
#[tokio::test]
async fn a_batch_whose_connection_breaks_runs_on() {
    let gate = gate("").await;
    let host = gate.host().revision("2025-03-26").open().await;
    let calls = [(); 3].map(|()| {
        let params = json!({"name": "wait", "arguments": {"ms": 800}});
        host.message("tools/call", Some(params))
    });
    host.reset(&json!(calls), Duration::from_millis(200)).await;
    let calls = |records: &Records| {
        let calls = records.of("method", "tools/call");
        calls.outcomes()
    };
    let ended = |records: &Records| calls(records).values().sum::<usize>() >= 3;
    let outcomes = calls(&gate.records_when("the end of all", ended).await);
    assert_eq!(outcomes.get("cancelled"), None, "{outcomes:?}");
    assert_eq!(host.call("cancelled", json!({})).await.tool_text(), "[]");
    gate.stop().await;
}

#[tokio::test]
async fn a_call_of_a_second_is_one_to_come_back_to() {
    let gate = gate("").await;
    let host = gate.host().open().await;
    let call = json!({"name": "wait", "arguments": {"ms": 4000, "nonce": "late"}});
    let call = host.message("tools/call", Some(call));
    let stream = within("a stream before the answer", seconds(3), host.stream(&call));
    let primed = next(&mut stream.await).await.unwrap().id.unwrap();
    let told = messages(&rest(&mut host.resume(&primed).await.unwrap()).await);
    assert_eq!(text(&told[0]), "late");
    gate.stop().await;
}

/// A server's stream that breaks is chillgate's to resume; its hosts need not hear of it.
#[tokio::test]
async fn a_stream_that_breaks_behind_chillgate_breaks_no_hosts_stream() {
    let (_server, address) = remote().await;
    let relay = Breaking::open().await;
    let table = format!(
        "[server.r]\nurl = \"http://{}/mcp\"\nera = \"legacy\"\n",
        relay.address
    );
    relay.lead(&address);
    let gate = Gate::with(&table).start().await;
    let host = gate.host().open().await;
    let params = json!({"name": "test_tool_with_progress", "_meta": {"progressToken": "t"}});
    let mut stream = host.stream(&host.message("tools/call", Some(params))).await;
    let told = messages(&rest(&mut stream).await);
    assert!(relay.has_broken());
    assert_eq!(reached(&told, "t"), [0, 50, 100]);
    assert_eq!(text(told.last().unwrap()), "Done.");
    gate.stop().await;
}

/// The log says what became of an answer when it was made.
#[tokio::test]
async fn an_answer_that_nobody_was_there_for_is_undelivered_to_the_audit_log() {
    let gate = gate("").await;
    let host = gate.host().open().await;
    let whole = rest(&mut host.stream(&steps(&host, "a", 2)).await).await;
    assert_eq!(whole.len(), 3);
    let mut stream = host.stream(&steps(&host, "b", 10)).await;
    next(&mut stream).await.unwrap();
    drop(stream);
    let ended = |records: &Records| records.outcomes();
    let records = gate.records_when("the end of both", |records| {
        ended(records).values().sum::<usize>() >= 3
    });
    let outcomes = ended(&records.await);
    assert_eq!(
        (outcomes["ok"], outcomes["undelivered"]),
        (2, 1),
        "{outcomes:?}"
    );
    gate.stop().await;
}

#[tokio::test]
async fn an_answer_that_got_lost_is_sent_again_and_the_tool_runs_once() {
    let gate = gate(HEADER).await;
    let host = gate.host().header("x-agent-id", "ann").open().await;
    let request = steps(&host, "t", 2);
    let all = rest(&mut host.stream(&request).await).await;
    let ids: Vec<&str> = all.iter().filter_map(|event| event.id.as_deref()).collect();
    for (at, id) in ids.iter().enumerate().take(2) {
        let again = rest(&mut host.resume(id).await.unwrap()).await;
        assert_eq!(again, all[at + 1..], "after {id}");
    }
    // Told once and for all that nothing follows: this status ends a client's attempts.
    let over = host.resume(ids[2]).await.unwrap_err();
    assert_eq!(
        (over.status, over.header("allow")),
        (405, "POST, GET, DELETE")
    );
    assert!(
        over.text().contains("all of that stream has been sent"),
        "{}",
        over.text()
    );
    for unknown in ["99-1", "x", "1", "-", "1-x", "18446744073709551616-1", ""] {
        let refused = host.resume(unknown).await.unwrap_err();
        assert_eq!(refused.status, 400, "{unknown}: {}", refused.text());
        assert!(
            refused.text().contains("limits.replay"),
            "{}",
            refused.text()
        );
    }
    // Ids hold in their own session, and a session is its agent's.
    let same = gate.host().header("x-agent-id", "ann").open().await;
    assert_eq!(same.resume(ids[0]).await.unwrap_err().status, 400);
    let mut thief = gate.host().header("x-agent-id", "eve").open().await;
    thief.steal(host.session().unwrap());
    assert_eq!(thief.resume(ids[0]).await.unwrap_err().status, 404);
    assert_eq!(host.call("count", json!({})).await.tool_text(), "2");
    gate.stop().await;
}

/// both are said to be fine; what is named first is what the host gets.
#[tokio::test]
async fn a_host_that_names_streams_first_is_answered_with_one() {
    let gate = gate("").await;
    let host = gate.host().open().await;
    let call = host.message("tools/call", Some(json!({"name": "echo"})));
    let refused = host.message("tools/call", Some(json!({"name": "no-such-tool"})));
    for (accept, kind) in [
        ("application/json, text/event-stream", "application/json"),
        ("text/event-stream, application/json", "text/event-stream"),
    ] {
        let headers = [
            ("accept", accept),
            ("content-type", "application/json"),
            ("mcp-session-id", host.session().unwrap()),
        ];
        let answer = request(gate.front(), "POST", "/mcp", &headers, call.to_string()).await;
        assert_eq!(answer.header("content-type"), kind);
        assert!(answer.text().contains("\"result\""), "{}", answer.text());
        // It is as much of a stream as any.
        let id = answer
            .text()
            .lines()
            .rev()
            .find_map(|line| line.strip_prefix("id: ").map(str::to_owned));
        assert_eq!(id.is_some(), kind == "text/event-stream");
        let answer = request(gate.front(), "POST", "/mcp", &headers, refused.to_string()).await;
        assert!(answer.text().contains("\"error\""), "{}", answer.text());

        let call = message(&json!(1), "tools/call", json!({"name": "echo"}));
        let mut headers = fields(&call);
        headers.retain(|(name, _)| *name != "accept");
        headers.push(("accept", accept));
        let answer = request(gate.front(), "POST", "/mcp", &headers, call.to_string()).await;
        assert_eq!(answer.header("content-type"), kind);
        assert!(!answer.text().contains("id: "), "{}", answer.text());
    }
    gate.stop().await;
}

/// An older client takes an event without data for a broken message.
#[tokio::test]
async fn hosts_of_older_revisions_come_back_as_well_and_hear_no_empty_event() {
    let gate = gate("").await;
    for revision in ["2025-03-26", "2025-06-18"] {
        let host = gate.host().revision(revision).open().await;
        let mut stream = host.stream(&steps(&host, "t", 5)).await;
        let first = next(&mut stream).await.unwrap();
        assert_eq!(reached(&messages(std::slice::from_ref(&first)), "t"), [1]);
        drop(stream);
        let mut back = host.resume(first.id.as_deref().unwrap()).await.unwrap();
        let mut told = Vec::new();
        while let Some(event) = next(&mut back).await {
            told.extend(Some(event.message().expect("no event without data")));
        }
        assert_eq!(reached(&told, "t"), [2, 3, 4, 5]);
        assert_eq!(text(&told[4]), "done");
    }
    gate.stop().await;
}

#[tokio::test]
async fn the_newest_reader_of_a_stream_takes_over() {
    let gate = gate("").await;
    let host = gate.host().open().await;
    let mut stream = host.stream(&steps(&host, "t", 12)).await;
    let primed = next(&mut stream).await.unwrap().id.unwrap();
    let mut newer = host.resume(&primed).await.unwrap();
    let told = messages(&rest(&mut newer).await);
    assert_eq!(reached(&told, "t"), (1..=12).collect::<Vec<_>>());
    let left = messages(&rest(&mut stream).await);
    assert!(left.len() < 12 && left.iter().all(|told| told.get("result").is_none()));
    gate.stop().await;
}

/// what the session's own stream carried is its own as well.
#[tokio::test]
async fn the_sessions_own_stream_is_read_on_after_a_break() {
    let gate = gate("").await;
    let host = gate.host().open().await;
    host.request("tools/list", json!({})).await;
    let mut own = host.listen().await;
    let primed = next(&mut own).await.unwrap();
    assert!(primed.data.is_empty() && primed.id.is_some(), "{primed:?}");
    host.call("changed", json!({})).await;
    let heard: Vec<Event> = [
        next(&mut own).await,
        next(&mut own).await,
        next(&mut own).await,
    ]
    .into_iter()
    .flatten()
    .collect();
    drop(own);
    // What it may not have got comes again, and then what is new.
    let mut back = host.resume(heard[0].id.as_deref().unwrap()).await.unwrap();
    next(&mut back).await.unwrap();
    assert_eq!(next(&mut back).await.as_ref(), Some(&heard[1]));
    assert_eq!(next(&mut back).await.as_ref(), Some(&heard[2]));
    host.call("changed", json!({})).await;
    let new = next(&mut back).await.unwrap();
    assert!(!heard.contains(&new) && new.message().is_some(), "{new:?}");
    gate.stop().await;
}

#[tokio::test]
async fn what_nobody_comes_back_for_is_forgotten() {
    let gate = gate("[limits]\nreplay = \"2s\"\n").await;
    let host = gate.host().open().await;
    let all = rest(&mut host.stream(&steps(&host, "t", 2)).await).await;
    let first = all[0].id.clone().unwrap();
    assert!(host.resume(&first).await.is_ok());
    until("it is forgotten", seconds(5), async || {
        host.resume(&first).await.is_err().then_some(())
    })
    .await;
    assert_eq!(host.resume(&first).await.unwrap_err().status, 400);
    gate.stop().await;
}

#[tokio::test]
async fn an_answer_of_megabytes_is_kept_for_a_host_that_comes_back() {
    let gate = gate("").await;
    let host = gate.host().open().await;
    let mut request = steps(&host, "t", 3);
    request["params"]["arguments"]["bytes"] = json!(3_000_000);
    let mut stream = host.stream(&request).await;
    let primed = next(&mut stream).await.unwrap().id.unwrap();
    drop(stream);
    let mut back = host.resume(&primed).await.unwrap();
    let told = messages(&rest(&mut back).await);
    assert_eq!(text(told.last().unwrap()).len(), 3_000_000);
    gate.stop().await;
}

async fn remote() -> (Child, String) {
    let port = free_port();
    (legacy_remote(port).await, format!("127.0.0.1:{port}"))
}

/// A relay that breaks one connection for each that it is told to, under the first progress that
/// comes by.
struct Breaking {
    address: SocketAddr,
    to: Arc<Mutex<String>>,
    breaks: Arc<AtomicBool>,
}

impl Breaking {
    async fn open() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (to, breaks) = (
            Arc::<Mutex<String>>::default(),
            Arc::<AtomicBool>::default(),
        );
        let relay = Self {
            address: listener.local_addr().unwrap(),
            to: to.clone(),
            breaks: breaks.clone(),
        };
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let to = to.lock().unwrap().clone();
                tokio::spawn(carry(client, to, breaks.clone()));
            }
        });
        relay
    }

    /// From now on it leads here, and will break one connection.
    fn lead(&self, to: &str) {
        to.clone_into(&mut self.to.lock().unwrap());
        self.breaks.store(true, Ordering::Relaxed);
    }

    fn has_broken(&self) -> bool {
        !self.breaks.load(Ordering::Relaxed)
    }
}

async fn carry(client: TcpStream, to: String, breaks: Arc<AtomicBool>) {
    let server = TcpStream::connect(to).await.unwrap();
    let (mut from_server, mut to_server) = server.into_split();
    let (mut from_client, mut to_client) = client.into_split();
    let there = tokio::io::copy(&mut from_client, &mut to_server);
    let back = async {
        let mut buffer = vec![0; 64 << 10];
        while let Ok(size @ 1..) = from_server.read(&mut buffer).await {
            let read = &buffer[..size];
            if to_client.write_all(read).await.is_err() {
                break;
            }
            let word = b"notifications/progress";
            let is_progress = read.windows(word.len()).any(|part| part == word);
            if is_progress && breaks.swap(false, Ordering::Relaxed) {
                break;
            }
        }
    };
    tokio::select! {
        _ = there => {}
        () = back => {}
    }
}

/// The control is the same client through the same relay, straight at the server.
#[tokio::test]
async fn the_sdks_clients_come_back_through_the_gate_as_they_do_without_it() {
    let (_server, address) = remote().await;
    let relay = Breaking::open().await;
    let tables = format!(
        "[server.remote]\nurl = \"http://{address}/mcp\"\n[server.child]\ncommand = {}\n",
        toml_list(&legacy_server())
    );
    let named = format!("allowed-hosts = [\"{}\"]", relay.address);
    let gate = Gate::with(&tables).front(&named).start().await;
    let front = gate.front().to_string();
    for sdk in [Sdk::TypeScript, Sdk::PythonLegacy] {
        for (to, path, checks) in [
            (&address, "/mcp", "sent_away,broken"),
            (&front, "/server/remote/mcp", "sent_away,broken"),
            (&front, "/server/child/mcp", "broken"),
        ] {
            relay.lead(to);
            let url = format!("http://{}{path}", relay.address);
            let script = Script::new(sdk, "returning").with(&["--checks", checks]);
            script.run(&Endpoint::Url(url)).await;
            assert!(relay.has_broken(), "{sdk:?} {path}: nothing broke");
        }
    }
    gate.stop().await;
}

/// Only a host that expects it is sent away; another keeps its stream.
#[tokio::test]
async fn a_server_that_wants_to_be_asked_again_passes_that_on_to_hosts_that_can() {
    let (_server, address) = remote().await;
    let tables = format!("[server.remote]\nurl = \"http://{address}/mcp\"\n");
    let gate = Gate::with(&tables).start().await;
    let call = |host: &Host| {
        let params = json!({"name": "test_reconnection", "arguments": {}});
        host.message("tools/call", Some(params))
    };
    let host = gate.host().path("/server/remote/mcp").open().await;
    let mut stream = host.stream(&call(&host)).await;
    let mut told = Vec::new();
    while let Some(event) = next(&mut stream).await {
        told.push(event);
    }
    // The pause is the server's.
    assert!(told.iter().all(|event| event.data.is_empty()), "{told:?}");
    assert_eq!(told.last().unwrap().retry, Some(300));
    let mut back = host.resume(told[0].id.as_deref().unwrap()).await.unwrap();
    assert_eq!(text(&messages(&rest(&mut back).await)[0]), "Welcome back.");

    let older = gate
        .host()
        .path("/server/remote/mcp")
        .revision("2025-06-18");
    let older = older.open().await;
    let reply = older.post(&call(&older)).await;
    assert_eq!(reply.tool_text(), "Welcome back.");
    gate.stop().await;
}
