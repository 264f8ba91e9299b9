//! What a server may use up: it is held to it, it alone suffers, and the gate says why.
//!
//! It stands apart because limits are the kernel's: which of them can be had depends on the machine,
//! so each test looks at what chillgate says it was given.

use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::time::Instant;

use chillgate_tests::pace::tail;
use chillgate_tests::process::{chillgate, command, descendants, mark, marked, send};
use chillgate_tests::server::toml_list;
use chillgate_tests::wait::{long, seconds, within};
use chillgate_tests::{Gate, Host, until};
use rustix::process::Signal;

use crate::mock;

/// How this server's limit is said to hold, once it runs.
async fn given(gate: &Gate, server: &str) -> String {
    until("the line about limits", seconds(10), async || {
        let wanted = format!("\"server\":\"{server}\"");
        gate.log()
            .into_iter()
            .find(|line| line.contains("The server runs with") && line.contains(&wanted))
    })
    .await
}

async fn run(host: &Host, words: &[&str]) -> Value {
    let reply = host.call("run", json!({"command": words})).await;
    serde_json::from_str(reply.tool_text()).unwrap()
}

/// When this process ended.
async fn end_of(pid: u32) -> Instant {
    until("the end of a process", seconds(20), async || {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"));
        // Behind the name, in brackets, stands the state.
        let lives = stat.is_ok_and(|stat| !stat.contains(") Z ") && !stat.contains(") X "));
        (!lives).then(Instant::now)
    })
    .await
}

/// The record of how a call to this server ended.
async fn done(gate: &Gate, server: &str) -> Value {
    let records = gate
        .records_when("the end of the call", |records| {
            let done = records.of("phase", "done").of("server", server);
            done.of("outcome", "server_down").len() == 1
        })
        .await;
    let done = records.of("phase", "done").of("server", server);
    let done = done.of("outcome", "server_down");
    done.iter().next().unwrap().clone()
}

#[tokio::test]
async fn a_server_that_uses_up_its_memory_dies_alone_and_the_caller_hears_why() {
    let tables = mock("hog").table("limits = { memory = \"256MiB\" }") + &mock("calm").table("");
    let gate = Gate::with(&tables).audited().start().await;
    let host = gate.host().open().await;
    let pid = async |server: &str| {
        let reply = host.call(&format!("{server}__pid"), json!({})).await;
        reply.tool_text().parse::<u32>().unwrap()
    };
    let (hog, calm) = (pid("hog").await, pid("calm").await);
    let line = given(&gate, "hog").await;
    let hogging = within(
        "the end of a hog",
        seconds(20),
        host.call("hog__hog", json!({"bytes": 2_u64 << 30})),
    );
    let heard = async {
        let reply = hogging.await;
        (reply, Instant::now())
    };
    let ((reply, heard), ended) = tokio::join!(heard, end_of(hog));
    // How long the machine takes to find so much memory is not chillgate's to say.
    let took = heard.saturating_duration_since(ended);
    let said = reply.answer().to_string();
    let record = done(&gate, "hog").await;
    let cause = record["cause"].as_str().unwrap();
    if line.contains("memory by control group") {
        assert!(said.contains("out of memory: limit 256 MiB"), "{said}");
        assert_eq!(
            cause, "out of memory: limit 256 MiB (limits.memory)",
            "{record}"
        );
    } else {
        assert!(reply.code().is_some(), "{said}");
    }
    assert!(took < seconds(1), "it took {took:?} until the caller heard");
    eprintln!("hog: the caller heard {took:?} after its end");
    assert_eq!(pid("calm").await, calm, "the other server suffered");
    until("the next start", seconds(20), async || {
        let reply = host.call("hog__echo", json!({"message": "back"})).await;
        reply.code().is_none().then_some(())
    })
    .await;
}

#[tokio::test]
async fn the_record_of_each_call_that_a_server_took_with_it_says_how_it_ended() {
    // What it says last is for the caller, and not for a record that keeps no arguments.
    let shell = |name: &str, how: &str| {
        let script = format!(
            "{} --name {name}; echo planted-words >&2; {how}",
            crate::MOCK
        );
        let command = toml_list(&["sh".to_owned(), "-c".to_owned(), script]);
        format!("[server.{name}]\ncommand = {command}\nera = \"legacy\"\n")
    };
    let tables = shell("exits", "exit 7") + &shell("dies", "kill -SEGV $$");
    let gate = Gate::with(&tables).audited().start().await;
    let host = gate.host().open().await;
    for (name, cause) in [("exits", "exit code 7"), ("dies", "signal 11 (SEGV)")] {
        let reply = host
            .call(&format!("{name}__leave"), json!({"ms": 10}))
            .await;
        let said = reply.answer()["error"]["message"].as_str().unwrap();
        assert!(said.contains("planted-words"), "{said}");
        let record = done(&gate, name).await;
        assert_eq!(record["cause"], cause, "{record}");
    }
    let log = std::fs::read_to_string(gate.folder().join("audit.jsonl")).unwrap();
    assert!(!log.contains("planted-words"), "{log}");
}

#[tokio::test]
async fn a_fork_bomb_stays_within_its_count_and_the_gate_goes_on() {
    let mark = mark();
    let bomb = mock("bomb")
        .flags(&["--mark", &mark])
        .table("limits = { processes = 64, cpu-weight = 1, nice = 19 }");
    let gate = Gate::with(&(bomb + &mock("calm").table(""))).start().await;
    let host = gate.host().open().await;
    let server = host.call("bomb__pid", json!({})).await;
    let server: u32 = server.tool_text().parse().unwrap();
    let line = given(&gate, "bomb").await;
    assert!(line.contains("processes by control group"), "{line}");
    host.call("calm__echo", json!({})).await;
    let count = if long() { 2000 } else { 300 };
    let before = tail(&host, "calm__echo", count).await;
    // Two for each, for ever; each says nothing.
    let script = format!("f() {{ f | f & }}; f 2>/dev/null; : {mark}; sleep 60");
    let bomb = host.message(
        "tools/call",
        Some(json!({"name": "bomb__run", "arguments": {"command": ["bash", "-c", script]}})),
    );
    host.abandon(&bomb, Duration::from_millis(500)).await;
    let most = until("the bomb to go off", seconds(20), async || {
        let most = descendants(gate.pid()).len();
        (most > 60).then_some(most)
    })
    .await;
    assert!(most < 64 + 8, "{most} processes are more than it may have");
    let during = tail(&host, "calm__echo", count).await;
    eprintln!("p99 before {before:?}, during {during:?}, {most} processes");
    // A floor for machines on which a call takes no time to speak of.
    let bound = (before * 3).max(Duration::from_millis(10));
    assert!(during < bound, "{before:?} became {during:?}");
    let start = Instant::now();
    send(server, Signal::KILL);
    until("the end of the bomb", seconds(5), async || {
        let reply = host.call("bomb__echo", json!({"message": "again"})).await;
        let left = descendants(gate.pid());
        (reply.code().is_none() && left.len() <= 4 && marked(&mark).len() <= 2).then_some(())
    })
    .await;
    let took = start.elapsed();
    eprintln!("the bomb was over after {took:?}");
}

#[tokio::test]
async fn every_limit_reaches_the_server() {
    let table = mock("a").table(
        "limits = { file-size = \"1MiB\", open-files = 64, nice = 10, core = false, memory = \"512MiB\", processes = 50, cpu-weight = 50 }",
    );
    let gate = Gate::with(&table).start().await;
    let host = gate.host().open().await;
    let script = "ulimit -f; ulimit -n; ulimit -c; nice; cat /proc/self/cgroup";
    let seen = run(&host, &["bash", "-c", script]).await;
    let out = seen["out"].as_str().unwrap();
    let lines: Vec<&str> = out.lines().take(4).collect();
    assert_eq!(lines, ["1024", "64", "0", "10"], "{out}");
    let line = given(&gate, "a").await;
    let groups = groups(gate.pid());
    if line.contains("by control group") {
        assert!(!groups.is_empty(), "{line}");
        assert!(
            out.contains(&format!("/chillgate-{}-", gate.pid())),
            "{out}"
        );
    }
    let big = "head -c 2000000 /dev/zero > \"$0\"";
    let file = gate.folder().join("big");
    run(&host, &["bash", "-c", big, file.to_str().unwrap()]).await;
    assert_eq!(file.metadata().unwrap().len(), 1 << 20);
    let (status, _folder) = gate.stop().await;
    assert!(status.success());
    let left: Vec<_> = groups.iter().filter(|group| group.exists()).collect();
    assert!(left.is_empty(), "groups are left: {left:?}");
}

/// The control groups that a chillgate has made.
fn groups(pid: u32) -> Vec<PathBuf> {
    let script = format!("find /sys/fs/cgroup -type d -name 'chillgate-{pid}-*'");
    #[expect(clippy::disallowed_methods, reason = "a look, not a server")]
    let found = std::process::Command::new("sh")
        .args(["-c", &script])
        .output()
        .unwrap();
    let found = String::from_utf8(found.stdout).unwrap();
    found.lines().map(PathBuf::from).collect()
}

#[tokio::test]
async fn groups_of_a_killed_gate_are_cleared_by_the_next() {
    let table = mock("a").table("limits = { processes = 60 }");
    let gate = Gate::with(&table).start().await;
    gate.host().open().await.call("echo", json!({})).await;
    let groups = groups(gate.pid());
    assert!(!groups.is_empty(), "{}", given(&gate, "a").await);
    drop(gate.kill().await);
    let next = Gate::with(&table).start().await;
    next.host().open().await.call("echo", json!({})).await;
    let left: Vec<_> = groups.iter().filter(|group| group.exists()).collect();
    assert!(left.is_empty(), "groups are left: {left:?}");
}

/// Where no group can be made the data of each process is bounded instead; this is the shim's part
/// of it, asked directly.
#[tokio::test]
async fn node_runs_within_a_bound_on_data_and_a_hog_does_not() {
    let me = std::process::id().to_string();
    let order = json!({"bounds": {"data": 512_u64 << 20}}).to_string();
    let shim = |script: &'static str| {
        let mut shim = command(chillgate());
        shim.args(["__exec", &me, "run", &order, "--", "node", "-e", script])
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        async move { within("node", seconds(30), shim.output()).await.unwrap() }
    };
    let small = shim("console.log([1, 2].map(x => x * 2).join())").await;
    let said = String::from_utf8_lossy(&small.stderr).into_owned();
    assert_eq!(String::from_utf8_lossy(&small.stdout), "2,4\n", "{said}");
    let hog = shim("const all = []; for (;;) all.push(Buffer.alloc(1 << 24, 1))").await;
    assert!(!hog.status.success(), "{hog:?}");
}
