//! Replicas that hand on to each other what is theirs: sessions, streams, calls that wait.
//!
//! It stands apart from replicas that only count together: here a host says one thing to one replica
//! and the next to another. Who did the work is read from each replica's own server.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use chillgate_tests::gate::{bare, ended};
use chillgate_tests::http::{Connection, get, raw, request, statuses};
use chillgate_tests::modern::{self, answered, body, fields, message};
use chillgate_tests::process::free_port;
use chillgate_tests::server::toml_list;
use chillgate_tests::sse::Events;
use chillgate_tests::wait::{all, seconds, within};
use chillgate_tests::{Gate, Host, Redis, until};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

use crate::mock;
use crate::peers::legacy_server;

/// A machine that is busy with other things must not look like a store that is away.
const STATE: &str = "[identity]\nheader = \"x-agent-id\"\n[state]\ntimeout = \"5s\"\n";
const REPLICAS: &str = "[replicas]\nlisten = \"127.0.0.1:0\"\n";

async fn replica(redis: &Redis, more: &str) -> Gate {
    replica_at(redis, REPLICAS, more).await
}

async fn replica_at(redis: &Redis, at: &str, more: &str) -> Gate {
    let store = format!("store = \"{}\"\n", redis.url());
    let tables = mock("a").ledger().table("") + STATE + &store + at + more;
    Gate::with(&tables).audited().start().await
}

/// Replicas that know each other.
async fn replicas(redis: &Redis, count: usize, more: &str) -> Vec<Gate> {
    let gates = all((0..count).map(|_| replica(redis, more))).await;
    for gate in &gates {
        until_known(gate, count).await;
    }
    gates
}

async fn until_known(gate: &Gate, count: usize) {
    until("the replicas to meet", seconds(10), async || {
        let known = gate.scrape().await.count("chillgate_replicas", &[]);
        (known == count as u64).then_some(())
    })
    .await;
}

async fn forwards(gate: &Gate, outcome: &str) -> u64 {
    let scrape = gate.scrape().await;
    scrape.count("chillgate_replica_forwards_total", &[("outcome", outcome)])
}

fn ann(gate: &Gate) -> Host {
    gate.host().header("x-agent-id", "ann")
}

async fn pid(host: &Host) -> String {
    host.call("pid", json!({})).await.tool_text().to_owned()
}

/// A session is one, whichever replica its host reaches: calls, what comes before an answer, questions of the
/// server, the session's own stream, coming back to a stream, and its end.
#[tokio::test]
async fn a_session_is_served_through_every_replica() {
    let redis = Redis::start().await;
    let gates = replicas(&redis, 3, "").await;
    let able = json!({"sampling": {}, "elicitation": {}});
    let (host, _) = ann(&gates[0]).open_with(able).await;
    let own = pid(&host).await;
    let mut host = host.at(gates[1].front());
    assert_eq!(pid(&host).await, own, "another server answered");
    assert_eq!(
        host.tools().await,
        ann(&gates[0]).open().await.tools().await
    );

    let mut stream = host.listen().await;
    let params = json!({"name": "progress", "arguments": {}, "_meta": {"progressToken": "p"}});
    let call = host.message("tools/call", Some(params));
    let mut events = host.stream(&call).await;
    let first = within("progress", seconds(10), events.message())
        .await
        .unwrap();
    assert_eq!(first["method"], "notifications/progress", "{first}");
    let answer = events
        .find("the answer", |said| said["id"] == call["id"])
        .await;
    assert!(answer["result"].is_object(), "{answer}");

    host = host.at(gates[2].front());
    let call = host.message(
        "tools/call",
        Some(json!({"name": "elicit", "arguments": {}})),
    );
    let mut events = host.stream(&call).await;
    let asked = events
        .find("a question", |said| said["method"] == "elicitation/create")
        .await;
    let elsewhere = host.at(gates[1].front());
    let said = json!({"action": "accept", "content": {"name": "Ada"}});
    assert_eq!(elsewhere.respond(&asked["id"], said).await, 202);
    let answer = events
        .find("the answer", |said| said["id"] == call["id"])
        .await;
    assert!(answer["result"].to_string().contains("Ada"), "{answer}");

    assert_eq!(elsewhere.call("changed", json!({})).await.code(), None);
    let changed = stream.find("a change", |said| {
        said["method"] == "notifications/tools/list_changed"
    });
    changed.await;
    let host = elsewhere.at(gates[2].front());
    assert_eq!(host.leave().await, 200);
    assert_eq!(host.call("pid", json!({})).await.status, 404);
    let host = host.at(gates[0].front());
    assert_eq!(host.call("pid", json!({})).await.status, 404);
    assert!(forwards(&gates[1], "answered").await >= 6);
    assert_eq!(forwards(&gates[0], "answered").await, 0);
    let records = gates[0]
        .records_when("the calls", |all| all.sums().done >= 5)
        .await;
    assert!(records.iter().all(|it| it["agent"] == "ann"), "{records:?}");
}

/// Faults, row 54, and R-312: a session's id is good for its agent alone, at every replica, and one
/// that nobody made costs no replica a request.
#[tokio::test]
async fn a_session_of_another_agent_is_as_unknown_elsewhere_as_none() {
    let redis = Redis::start().await;
    let gates = replicas(&redis, 2, "").await;
    let host = ann(&gates[0]).open().await;
    let id = host.session().unwrap().to_owned();
    let mut eve = gates[1].host().header("x-agent-id", "eve").open().await;
    eve.steal(&id);
    let foreign = eve.call("pid", json!({})).await;
    eve.steal("no-such-session");
    let unknown = eve.call("pid", json!({})).await;
    assert_eq!((foreign.status, unknown.status), (404, 404));
    assert_eq!(foreign.answer()["error"], unknown.answer()["error"]);
    let mut ann = ann(&gates[1]);
    for at in 0..id.len() {
        let mut changed = id.clone().into_bytes();
        changed[at] = if changed[at] == b'A' { b'B' } else { b'A' };
        ann.steal(std::str::from_utf8(&changed).unwrap());
        assert_eq!(ann.call("pid", json!({})).await.status, 404, "{at}");
    }
    for outcome in ["answered", "unreachable", "gone"] {
        assert_eq!(forwards(&gates[1], outcome).await, 0, "{outcome}");
    }
    ann.steal(&id);
    assert_eq!(ann.call("echo", json!({"message": "x"})).await.status, 200);
}

/// HTTP+SSE: what is posted to any replica comes to the stream.
#[tokio::test]
async fn an_http_sse_stream_hears_what_is_posted_elsewhere() {
    let redis = Redis::start().await;
    let gates = replicas(&redis, 2, "").await;
    let who = ("x-agent-id", "ann");
    let mut connection = Connection::open(gates[0].front()).await;
    let headers = [("accept", "text/event-stream"), who];
    let opened = connection.send("GET", "/sse", &headers, bytes::Bytes::new());
    let mut events = Events::new(opened.await.into_body());
    let to = events.next().await.unwrap().data;
    let post = async |at: &Gate, name: &str, message: Value| {
        let headers = [("content-type", "application/json"), ("x-agent-id", name)];
        request(at.front(), "POST", &to, &headers, message.to_string())
            .await
            .status
    };
    let client = json!({"name": "old", "version": "1"});
    let params = json!({"protocolVersion": "2024-11-05", "capabilities": {}, "clientInfo": client});
    let hello = json!({"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": params});
    assert_eq!(post(&gates[1], "eve", hello.clone()).await, 404);
    assert_eq!(post(&gates[1], "ann", hello).await, 202);
    let said = within("initialize", seconds(10), events.message())
        .await
        .unwrap();
    assert_eq!(said["result"]["protocolVersion"], "2024-11-05", "{said}");
    let params = json!({"name": "name", "arguments": {}});
    let call = json!({"jsonrpc": "2.0", "id": 2, "method": "tools/call", "params": params});
    assert_eq!(post(&gates[1], "ann", call).await, 202);
    let said = within("the answer", seconds(10), events.message())
        .await
        .unwrap();
    assert_eq!(said["id"], 2, "{said}");
    assert!(forwards(&gates[1], "answered").await >= 2);
}

/// A modern request of an agent to one replica.
async fn modern(at: &Gate, agent: &str, id: u64, params: &Value) -> Value {
    let call = message(&json!(id), "tools/call", params.clone());
    let mut headers = fields(&call);
    headers.push(("x-agent-id", agent));
    let answer = request(at.front(), "POST", "/mcp", &headers, call.to_string()).await;
    let all = modern::messages(&answer);
    all.last().cloned().unwrap_or_else(|| panic!("{answer:?}"))
}

fn asking(tool: &str) -> Value {
    json!({"name": tool, "arguments": {}, "_meta": {modern::CAPABILITIES: {"elicitation": {}}}})
}

/// a call that waits for its host goes on from any replica; for others, and a second time, it
/// is as unknown as at its own.
#[tokio::test]
async fn a_call_that_waits_goes_on_from_any_replica() {
    let redis = Redis::start().await;
    let gates = replicas(&redis, 3, "").await;
    let said = json!({"action": "accept", "content": {"name": "Ada"}});
    for (first, then) in [(0, 1), (1, 2), (2, 0), (0, 0)] {
        let params = asking("elicit");
        let required = modern(&gates[first], "ann", 1, &params).await;
        let required = &required["result"];
        assert_eq!(required["resultType"], "input_required", "{required}");
        let again = answered(&params, required, &said);
        let stolen = modern(&gates[then], "eve", 2, &again).await;
        assert!(
            stolen["error"].is_object() || stolen["result"]["resultType"] == "input_required",
            "{stolen}"
        );
        assert!(!stolen.to_string().contains("Ada"), "{stolen}");
        let answer = modern(&gates[then], "ann", 3, &again).await;
        assert!(
            answer["result"].to_string().contains("Ada"),
            "{first} {then}: {answer}"
        );
        let replayed = modern(&gates[then], "ann", 4, &again).await;
        assert_eq!(replayed["error"]["code"], -32602, "{replayed}");
    }
    // What needs no state is answered where it comes to.
    let name = json!({"name": "name", "arguments": {}});
    let before = forwards(&gates[1], "answered").await;
    assert!(modern(&gates[1], "ann", 5, &name).await["result"].is_object());
    assert_eq!(forwards(&gates[1], "answered").await, before);
}

/// A list of a modern host goes on at another replica where it stopped at the first.
#[tokio::test]
async fn a_cursor_is_good_at_every_replica() {
    let redis = Redis::start().await;
    let pages = mock("b").flags(&["--page", "2"]).table("");
    let gates = replicas(&redis, 2, &pages).await;
    let list = async |at: &Gate, params: Value| {
        let list = message(&json!(1), "tools/list", params);
        body(&modern::send(at.front(), &list).await)["result"].clone()
    };
    let (mut names, mut params, mut turn) = (Vec::new(), json!({}), 0);
    loop {
        let page = list(&gates[turn % 2], params).await;
        names.extend(
            page["tools"]
                .as_array()
                .unwrap()
                .iter()
                .map(|tool| tool["name"].clone()),
        );
        turn += 1;
        match page["nextCursor"].as_str() {
            Some(cursor) => params = json!({ "cursor": cursor }),
            None => break,
        }
    }
    assert!(turn >= 2, "one page only: {names:?}");
}

/// A replica that ends lets its sessions go at once; of one that is killed the others know within
/// seconds. Either way the host hears what has become of its session.
#[tokio::test]
async fn the_host_hears_when_its_replica_has_gone() {
    let redis = Redis::start().await;
    let mut gates = replicas(&redis, 3, "").await;
    let stopped = ann(&gates[2]).open().await.at(gates[0].front());
    assert_eq!(stopped.call("name", json!({})).await.status, 200);
    gates.pop().unwrap().stop().await;
    let gone = stopped.call("name", json!({})).await;
    assert_eq!(gone.status, 404, "{gone:?}");
    let text = gone.answer()["error"]["message"]
        .as_str()
        .unwrap()
        .to_owned();
    assert!(
        text.contains("has gone") && text.contains("initialize"),
        "{text}"
    );

    let killed = ann(&gates[1]).open().await.at(gates[0].front());
    let params = asking("elicit");
    let required = modern(&gates[1], "ann", 1, &params).await["result"].clone();
    let said = json!({"action": "accept", "content": {"name": "Ada"}});
    let again = answered(&params, &required, &said);
    gates.pop().unwrap().kill().await;
    let lost = killed.call("name", json!({})).await;
    assert_eq!((lost.status, lost.code()), (503, Some(50_305)), "{lost:?}");
    assert!(lost.headers.contains_key("retry-after"));
    let lost = modern(&gates[0], "ann", 2, &again).await;
    assert_eq!(lost["error"]["code"], 50_305, "{lost}");
    until_known(&gates[0], 1).await;
    let gone = killed.call("name", json!({})).await;
    assert_eq!(gone.status, 404, "{gone:?}");
    let gone = modern(&gates[0], "ann", 3, &again).await;
    assert_eq!(gone["error"]["data"]["retryable"], false, "{gone}");
    let fresh = ann(&gates[0]).open().await;
    assert_eq!(fresh.call("name", json!({})).await.status, 200);
}

/// What a replica does in the midst of a call is told to its host by the one that handed it on.
#[tokio::test]
async fn a_call_whose_replica_is_killed_has_one_clear_error() {
    let redis = Redis::start().await;
    let mut gates = replicas(&redis, 2, "").await;
    let host = ann(&gates[1]).open().await.at(gates[0].front());
    let plain = host.message(
        "tools/call",
        Some(json!({"name": "wait", "arguments": {"ms": 60000}})),
    );
    let params =
        json!({"name": "progress", "arguments": {"ms": 3000}, "_meta": {"progressToken": 1}});
    let streamed = host.message("tools/call", Some(params));
    let mut events = host.stream(&streamed).await;
    within("progress", seconds(10), events.message())
        .await
        .unwrap();
    let killing = async {
        tokio::time::sleep(Duration::from_millis(500)).await;
        gates.pop().unwrap().kill().await;
    };
    let (reply, ()) = tokio::join!(host.post(&plain), killing);
    assert_eq!(
        (reply.status, reply.code()),
        (503, Some(50_305)),
        "{reply:?}"
    );
    assert_eq!(reply.answer()["id"], plain["id"]);
    let told = events
        .find("an error", |said| said["error"].is_object())
        .await;
    assert_eq!(
        (&told["id"], &told["error"]["code"]),
        (&streamed["id"], &json!(50_305))
    );
}

/// Where replicas listen for each other nobody else is served, whatever it says of itself.
#[tokio::test]
async fn only_replicas_are_served_where_replicas_listen() {
    let redis = Redis::start().await;
    let gates = replicas(&redis, 1, "").await;
    let log = gates[0].log().join("\n");
    let address = log
        .split("address=\"http://")
        .nth(1)
        .or_else(|| log.split("\"address\":\"http://").nth(1));
    let address = address
        .and_then(|rest| rest.split('"').next())
        .unwrap_or_else(|| panic!("{log}"));
    let inner: std::net::SocketAddr = address.parse().unwrap();
    let hello = Host::new(inner).header("x-agent-id", "ann");
    assert_eq!(hello.post(&hello.hello(&json!({}))).await.status, 421);
    for pass in ["", "x.y", "e30.e30", &"A".repeat(4000)] {
        let hello = Host::new(inner).header("x-chillgate-pass", pass);
        assert_eq!(
            hello.post(&hello.hello(&json!({}))).await.status,
            421,
            "{pass}"
        );
    }
    for path in ["/mcp", "/sse", "/.well-known/oauth-protected-resource/mcp"] {
        assert_eq!(get(inner, path).await.status, 421, "{path}");
    }
    // What a host says in a replica's name to a front is nothing there.
    let host = ann(&gates[0])
        .header("x-chillgate-pass", "x.y")
        .open()
        .await;
    assert_eq!(host.call("name", json!({})).await.status, 200);
}

/// The keys that ids are sealed with change; what was sealed before stays good.
#[tokio::test]
async fn sessions_outlive_the_keys_that_sealed_them_and_the_store() {
    let mut redis = Redis::start().await;
    let gates = replicas(&redis, 2, "rotate = \"2s\"\nsecret = \"s3cret\"\n").await;
    let host = ann(&gates[0]).open().await.at(gates[1].front());
    tokio::time::sleep(Duration::from_secs(7)).await;
    assert_eq!(host.call("name", json!({})).await.status, 200);
    let keys = redis.tell(&["HLEN", "chillgate:1:{replicas}:keys"]).await;
    assert!(keys.parse::<u64>().unwrap() >= 4, "{keys}");
    redis.tell(&["FLUSHALL"]).await;
    assert_eq!(host.call("name", json!({})).await.status, 200);
    tokio::time::sleep(Duration::from_secs(2)).await;
    redis.kill().await;
    assert_eq!(host.call("name", json!({})).await.status, 200);
    let later = ann(&gates[1]).open().await.at(gates[0].front());
    assert_eq!(later.call("name", json!({})).await.status, 200);
    redis.again().await;
    assert_eq!(later.call("name", json!({})).await.status, 200);
    until_known(&gates[0], 2).await;
}

/// Faults, row 56: an agent that is revoked is let in by no replica within a second, and loses its
/// sessions and streams; then it is let in again.
#[tokio::test]
async fn a_revoked_agent_is_turned_out_everywhere_within_a_second() {
    let redis = Redis::start().await;
    let gates = replicas(&redis, 2, "").await;
    let here = ann(&gates[0]).open().await;
    let (there, bob) = (
        ann(&gates[0]).open().await.at(gates[1].front()),
        gates[1].host().header("x-agent-id", "bob").open().await,
    );
    let mut stream = there.listen().await;
    let slow = here.message(
        "tools/call",
        Some(json!({"name": "wait", "arguments": {"ms": 30000}})),
    );
    let running = here.post(&slow);
    let revoking = async {
        tokio::time::sleep(Duration::from_millis(300)).await;
        let (code, out) = revoke(&gates[0], &["ann"]).await;
        assert_eq!(code, Some(0), "{out}");
        tokio::time::Instant::now()
    };
    let (cut, revoked) = tokio::join!(running, revoking);
    let ended = within("the stream's end", seconds(5), async {
        while stream.next().await.is_some() {}
    });
    ended.await;
    let took = revoked.elapsed();
    assert!(took < Duration::from_millis(1500), "{took:?}");
    eprintln!("all that it had had ended {took:?} after it was revoked");
    assert!(cut.status != 200 || cut.code().is_some(), "{cut:?}");
    for host in [&here, &there] {
        let denied = host.call("name", json!({})).await;
        assert_eq!(denied.status, 401, "{denied:?}");
        assert!(
            denied.answer()["error"]["message"]
                .as_str()
                .unwrap()
                .contains("revoked")
        );
    }
    let hello = ann(&gates[1]);
    assert_eq!(hello.post(&hello.hello(&json!({}))).await.status, 401);
    assert_eq!(
        bob.call("name", json!({})).await.status,
        200,
        "somebody else"
    );
    let (_, listed) = revoke(&gates[1], &[]).await;
    assert!(
        listed.contains("ann") && !listed.contains("bob"),
        "{listed}"
    );
    assert_eq!(revoke(&gates[1], &["ann", "--undo"]).await.0, Some(0));
    assert_eq!(revoke(&gates[1], &["ann", "--undo"]).await.0, Some(2));
    until("it to be let in", seconds(5), async || {
        let hello = ann(&gates[0]);
        (hello.post(&hello.hello(&json!({}))).await.status == 200).then_some(())
    })
    .await;
    assert_eq!(revoke(&gates[1], &["ann", "--for", "2s"]).await.0, Some(0));
    let hello = async || {
        ann(&gates[1])
            .post(&ann(&gates[1]).hello(&json!({})))
            .await
            .status
    };
    for status in [401, 200] {
        let shut = until("the end of it", seconds(5), async || {
            (hello().await == status).then_some(())
        });
        shut.await;
    }
}

/// `chillgate revoke` with the configuration of this gate: its exit code, and what it says.
async fn revoke(gate: &Gate, words: &[&str]) -> (Option<i32>, String) {
    let mut command = bare();
    command
        .arg("revoke")
        .args(words)
        .arg("--config")
        .arg(gate.config());
    let (code, out, err) = ended(command, 20).await;
    (code, out + &err)
}

/// R-112, faults row 55: a task of one replica's server is asked about through any other, by its own
/// agent alone; a state of a server is as unknown to others at every replica.
#[tokio::test]
async fn a_task_is_asked_about_through_every_replica_by_its_own_agent_alone() {
    const TASKS: &str = "io.modelcontextprotocol/tasks";
    let redis = Redis::start().await;
    let server = format!(
        "[server.tasks]\ncommand = {}\n",
        toml_list(&legacy_server())
    );
    let gates = replicas(&redis, 3, &server).await;
    let ask = async |at: &Gate, agent: &str, method: &str, mut params: Value| {
        params["_meta"][modern::CAPABILITIES] = json!({"extensions": {TASKS: {}}});
        let sent = message(&json!(1), method, params);
        let mut headers = fields(&sent);
        let task = sent["params"]["taskId"].as_str();
        headers.extend(task.map(|task| ("mcp-name", task)));
        headers.push(("x-agent-id", agent));
        let path = "/server/tasks/mcp";
        body(&request(at.front(), "POST", path, &headers, sent.to_string()).await)
    };
    let made = ask(
        &gates[0],
        "ann",
        "tools/call",
        json!({"name": "slow_compute", "arguments": {"seconds": 3}}),
    )
    .await;
    assert_eq!(made["result"]["resultType"], "task", "{made}");
    let task = json!({"taskId": made["result"]["taskId"]});
    for gate in &gates {
        let told = ask(gate, "ann", "tasks/get", task.clone()).await;
        assert_eq!(told["result"]["taskId"], task["taskId"], "{told}");
        let stolen = ask(gate, "eve", "tasks/get", task.clone()).await;
        let unknown = ask(gate, "eve", "tasks/get", json!({"taskId": "no-such-task"})).await;
        assert_eq!(stolen["error"]["code"], -32602, "{stolen}");
        assert_eq!(
            stolen["error"]["code"], unknown["error"]["code"],
            "{unknown}"
        );
    }
    until("the task to be done", seconds(10), async || {
        let told = ask(&gates[2], "ann", "tasks/get", task.clone()).await;
        (told["result"]["status"] == "completed").then_some(())
    })
    .await;
    assert!(forwards(&gates[1], "answered").await >= 1);
}

/// Somebody between two replicas, who changes what they say, and keeps it.
struct Between {
    port: u16,
    heard: Arc<Mutex<Vec<u8>>>,
}

impl Between {
    /// Passes on to this port of loopback, with each `from` become `to`.
    async fn to(port: u16, from: &'static [u8], to: &'static [u8]) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let own = listener.local_addr().unwrap().port();
        let heard = Arc::new(Mutex::new(Vec::new()));
        let keeping = heard.clone();
        tokio::spawn(async move {
            while let Ok((near, _)) = listener.accept().await {
                let far = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
                let ((mut from_near, mut to_near), (mut from_far, mut to_far)) =
                    (near.into_split(), far.into_split());
                tokio::spawn(async move { tokio::io::copy(&mut from_far, &mut to_near).await });
                let keeping = keeping.clone();
                tokio::spawn(async move {
                    let mut bytes = vec![0; 64 << 10];
                    while let Ok(count @ 1..) = from_near.read(&mut bytes).await {
                        let mut said = bytes[..count].to_vec();
                        while let Some(at) = said.windows(from.len()).position(|part| part == from)
                        {
                            said[at..at + to.len()].copy_from_slice(to);
                        }
                        keeping.lock().unwrap().extend_from_slice(&said);
                        if to_far.write_all(&said).await.is_err() {
                            return;
                        }
                    }
                });
            }
        });
        Self { port: own, heard }
    }
}

/// Whoever is between two replicas can neither change what is handed on nor send it again, and reads no
/// credential there.
#[tokio::test]
async fn what_is_handed_on_is_done_as_it_was_said_and_once() {
    let redis = Redis::start().await;
    let listens = free_port();
    let between = Between::to(listens, b"fair", b"foul").await;
    let at = format!(
        "[replicas]\nlisten = \"127.0.0.1:{listens}\"\nadvertise = \"127.0.0.1:{}\"\n",
        between.port
    );
    let owner = replica_at(&redis, &at, "").await;
    let other = replica(&redis, "").await;
    until_known(&other, 2).await;
    let host = ann(&owner)
        .header("authorization", "Bearer s3cret")
        .open()
        .await;
    let host = host.at(other.front());
    let changed = host.call("echo", json!({"message": "fair"})).await;
    assert_eq!(
        (changed.status, changed.code()),
        (503, Some(50_305)),
        "{changed:?}"
    );
    assert_eq!(owner.heard("a").calls(), 0, "what nobody said was done");
    between.heard.lock().unwrap().clear();
    let said = host.call("echo", json!({"message": "plain"})).await;
    assert_eq!(said.tool_text(), "plain");
    let heard = between.heard.lock().unwrap().clone();
    let text = String::from_utf8_lossy(&heard).into_owned();
    assert!(text.contains("plain") && !text.contains("s3cret"), "{text}");
    let inner = ([127, 0, 0, 1], listens).into();
    let again = raw(inner, &heard, Duration::from_secs(1)).await;
    assert_eq!(
        statuses(&again),
        [421],
        "{}",
        String::from_utf8_lossy(&again)
    );
    assert_eq!(owner.heard("a").calls(), 1, "it was done twice");
}
