//! Who shares a process with whom, and that nothing of one agent's is ever another's.
//!
//! It stands apart because this is looked at from inside the processes: each tells its id, its
//! environment, its working directory and what its host said to it.

use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::fs::PermissionsExt as _;
use std::time::Duration;

use serde_json::{Value, json};

use chillgate_tests::http::request;
use chillgate_tests::process::{mark, marked};
use chillgate_tests::wait::{all, seconds};
use chillgate_tests::{Gate, Host, modern, until};

use crate::{incidents, mock};

async fn agent(gate: &Gate, name: &str) -> Host {
    gate.host().header("x-agent-id", name).open().await
}

async fn pid(host: &Host) -> u32 {
    let reply = host.call("pid", json!({})).await;
    reply.tool_text().parse().expect("a process id")
}

async fn environment(host: &Host) -> BTreeMap<String, String> {
    let reply = host.call("env", json!({})).await;
    serde_json::from_str(reply.tool_text()).expect("an environment")
}

#[tokio::test]
async fn each_agent_has_a_process_with_its_own_secrets_and_folder() {
    let table = mock("a").table(
        r#"isolation = "agent"
cwd = "@DIR@/{agent}"
agent-env = { TOKEN = "file:@DIR@/{agent}.token", KEY = "${KEY_{AGENT}}" }
env = { FOR_ALL = "common" }"#,
    );
    let gate = Gate::with(&table)
        .top("[identity]\nheader = \"x-agent-id\"\n")
        .file("alice.token", "secret-of-alice\n")
        .file("bob-1.token", "secret-of-bob\n")
        .env("KEY_ALICE", "key-of-alice")
        .env("KEY_BOB_1", "key-of-bob")
        .start()
        .await;
    let (alice, again) = (agent(&gate, "alice").await, agent(&gate, "alice").await);
    let bob = agent(&gate, "bob-1").await;
    let (one, two, three) = (pid(&alice).await, pid(&again).await, pid(&bob).await);
    assert_eq!(one, two, "two sessions of one agent do not share a process");
    assert_ne!(one, three, "two agents share a process");
    for (host, own, other) in [(&alice, "alice", "bob"), (&bob, "bob", "alice")] {
        let env = environment(host).await;
        assert_eq!(env["TOKEN"], format!("secret-of-{own}"));
        assert_eq!(env["KEY"], format!("key-of-{own}"));
        assert_eq!(env["FOR_ALL"], "common");
        let text = format!("{env:?}");
        for secret in [format!("secret-of-{other}"), format!("key-of-{other}")] {
            assert!(
                !text.contains(&secret),
                "{own} sees what is {other}'s: {text}"
            );
        }
        let folder = host.call("cwd", json!({})).await.tool_text().to_owned();
        let name = if own == "bob" { "bob-1" } else { own };
        assert!(folder.ends_with(&format!("/{name}")), "{folder}");
        let mode = std::fs::metadata(&folder).expect("the folder is there");
        assert_eq!(mode.permissions().mode() & 0o777, 0o700);
    }
    let everything = gate.log().join("\n");
    assert!(
        !everything.contains("secret-of") && !everything.contains("key-of"),
        "{everything}"
    );
}

#[tokio::test]
async fn an_agent_without_its_secret_hears_why_and_nobody_else_is_disturbed() {
    let table = mock("a")
        .table("isolation = \"agent\"\nagent-env = { TOKEN = \"file:@DIR@/{agent}.token\" }");
    let gate = Gate::with(&table)
        .top("[identity]\nheader = \"x-agent-id\"\n")
        .file("alice.token", "of-alice\n")
        .file("secret.toml", "planted")
        .start()
        .await;
    let alice = agent(&gate, "alice").await;
    let first = pid(&alice).await;
    let mallory = agent(&gate, "mallory").await;
    for _ in 0..5 {
        let reply = mallory.call("pid", json!({})).await;
        let why = reply.answer()["error"]["message"]
            .as_str()
            .unwrap_or_default()
            .to_owned();
        assert!(
            why.contains("mallory.token") && why.contains("TOKEN"),
            "{why}"
        );
    }
    // Names that would lead elsewhere.
    for sly in [
        "..",
        "../alice",
        "alice/../alice",
        ".hidden",
        "-x",
        "${HOME}",
        "alice%2f",
    ] {
        let host = agent(&gate, sly).await;
        let reply = host.call("env", json!({})).await;
        let why = reply.answer()["error"]["message"]
            .as_str()
            .unwrap_or_default()
            .to_owned();
        assert!(
            why.contains("cannot have one of its own"),
            "{sly}: {}",
            reply.answer()
        );
    }
    assert_eq!(pid(&alice).await, first);
    // Once it is there, it is found.
    std::fs::write(gate.folder().join("mallory.token"), "late\n").expect("written");
    let env = until("mallory's process", seconds(10), async || {
        let reply = mallory.call("env", json!({})).await;
        reply.answer()["result"]
            .is_object()
            .then(|| reply.tool_text().to_owned())
    })
    .await;
    assert!(env.contains("late") && !env.contains("of-alice"));
}

#[tokio::test]
async fn an_agents_hosts_that_may_be_asked_are_asked_each_for_itself() {
    let gate = Gate::with(&mock("a").table("isolation = \"agent\""))
        .top("[identity]\nheader = \"x-agent-id\"\n")
        .start()
        .await;
    let mut pids = BTreeSet::new();
    for name in ["alice", "alice", "bob"] {
        let host = gate.host().header("x-agent-id", name);
        let (host, _) = host.open_with(json!({"roots": {}})).await;
        pids.insert(pid(&host).await);
        let told: Value = serde_json::from_str(host.call("host", json!({})).await.tool_text())
            .expect("what the host said");
        assert_eq!(told["capabilities"], json!({"roots": {}}), "{told}");
    }
    assert_eq!(pids.len(), 3, "hosts that may be asked share a process");
}

#[tokio::test]
async fn a_pool_is_shared_evenly_and_a_session_stays_where_it_is() {
    let gate = Gate::with(&mock("a").table("isolation = { pool = 3 }"))
        .start()
        .await;
    let hosts = all((0..9).map(|_| gate.host().open())).await;
    let mut seats: BTreeMap<u32, usize> = BTreeMap::new();
    for host in &hosts {
        let first = pid(host).await;
        assert_eq!(pid(host).await, first, "a session has moved");
        *seats.entry(first).or_default() += 1;
    }
    assert_eq!(
        seats.values().copied().collect::<Vec<_>>(),
        [3, 3, 3],
        "{seats:?}"
    );
    // Who leaves makes room.
    let left = pid(&hosts[0]).await;
    hosts[0].leave().await;
    assert_eq!(pid(&gate.host().open().await).await, left);
}

#[tokio::test]
async fn a_request_has_a_process_of_its_own_that_ends_with_it() {
    let mark = mark();
    let table = mock("a")
        .flags(&["--mark", &mark])
        .table("isolation = \"request\"");
    let gate = Gate::with(&table).start().await;
    let host = gate.host().open().await;
    assert!(host.tools().await.contains(&"echo".to_owned()));
    let mut pids = BTreeSet::new();
    for _ in 0..5 {
        pids.insert(pid(&host).await);
        assert_eq!(host.call("count", json!({})).await.tool_text(), "1");
    }
    let many = all((0..10).map(|_| pid(&host))).await;
    pids.extend(many);
    assert_eq!(pids.len(), 15, "requests share processes");
    // One that breaks is nobody else's matter.
    let crashed = host.call("crash", json!({})).await;
    assert_eq!(
        crashed.answer()["error"]["data"]["type"],
        "chillgate/server-lost"
    );
    pid(&host).await;
    until("the end of all processes", seconds(8), async || {
        marked(&mark).is_empty().then_some(())
    })
    .await;
    // And one that is asked for while a host may be asked.
    let (host, _) = gate.host().open_with(json!({"roots": {}})).await;
    let told: Value = serde_json::from_str(host.call("host", json!({})).await.tool_text())
        .expect("what the host said");
    assert_eq!(told["capabilities"], json!({"roots": {}}), "{told}");
}

#[tokio::test]
async fn a_process_for_a_request_that_nobody_waits_for_is_not_left() {
    let mark = mark();
    let table = mock("a")
        .flags(&["--mark", &mark, "--slow-start", "1500"])
        .table("isolation = \"request\"\nera = \"legacy\"");
    let gate = Gate::with(&table).start().await;
    let call = modern::message(
        &json!(1),
        "tools/call",
        json!({"name": "pid", "arguments": {}}),
    );
    for _ in 0..4 {
        let (at, body) = (gate.front(), call.to_string());
        let fields = modern::fields(&call);
        let asking = request(at, "POST", "/mcp", &fields, body);
        // The connection closes while the process starts, which cancels the call.
        let left = tokio::time::timeout(Duration::from_millis(400), asking).await;
        assert!(left.is_err(), "it answered before it had started");
    }
    assert!(!marked(&mark).is_empty());
    until("the end of all processes", seconds(12), async || {
        marked(&mark).is_empty().then_some(())
    })
    .await;
    assert_eq!(
        gate.scrape()
            .await
            .count("chillgate_child_processes", &[("server", "a")]),
        0
    );
}

#[tokio::test]
async fn an_agents_process_ends_with_its_last_session_and_not_before() {
    let mark = mark();
    let table = mock("a")
        .flags(&["--mark", &mark])
        .table("isolation = \"agent\"");
    let gate = Gate::with(&table).start().await;
    let (one, two) = (gate.host().open().await, gate.host().open().await);
    let first = pid(&one).await;
    assert_eq!(pid(&two).await, first);
    one.leave().await;
    assert_eq!(pid(&two).await, first);
    two.leave().await;
    // Another comes soon: it is still there.
    assert_eq!(pid(&gate.host().open().await).await, first);
    assert!(!marked(&mark).is_empty());
}

/// A gate that remembers, with a process for each agent that has a token; alice has one.
async fn remembering() -> (Gate, tempfile::TempDir) {
    let state = tempfile::tempdir().unwrap();
    let table = mock("a")
        .table("isolation = \"agent\"\nagent-env = { TOKEN = \"file:@DIR@/{agent}.token\" }");
    let gate = incidents::gate(&table, state.path())
        .top("[identity]\nheader = \"x-agent-id\"\n")
        .file("alice.token", "of-alice\n")
        .start()
        .await;
    (gate, state)
}

#[tokio::test]
async fn what_one_agent_fails_by_is_not_behind_it_when_anothers_process_starts() {
    let (gate, state) = remembering().await;
    let mallory = agent(&gate, "mallory").await;
    mallory.call("pid", json!({})).await.answer();
    let alice = agent(&gate, "alice").await;
    pid(&alice).await;
    let left = async || {
        let known = incidents::listed(state.path()).await;
        let it = known.get("a")?.clone();
        it["agent"].is_string().then_some(it)
    };
    let it = until("the incident", seconds(5), left).await;
    assert_eq!(
        (&it["agent"], &it["resolved"]),
        (&json!("mallory"), &json!(false)),
        "{it}"
    );
    let text = incidents::incidents(state.path(), &[]).await;
    assert!(text.contains("a of agent mallory"), "{text}");
    // It is once mallory's own starts.
    std::fs::write(gate.folder().join("mallory.token"), "late\n").expect("written");
    until("mallory's process", seconds(10), async || {
        let reply = mallory.call("pid", json!({})).await;
        reply.answer()["result"].is_object().then_some(())
    })
    .await;
    until("it is behind", seconds(5), async || {
        let it = left().await?;
        (it["resolved"] == true).then_some(())
    })
    .await;
}

#[tokio::test]
async fn what_two_agents_fail_by_are_two_incidents() {
    let (gate, state) = remembering().await;
    std::fs::remove_file(gate.folder().join("alice.token")).unwrap();
    let (carol, alice) = (agent(&gate, "carol").await, agent(&gate, "alice").await);
    let error = async |host: &Host| host.call("pid", json!({})).await.answer()["error"].clone();
    let (first, second) = (error(&carol).await, error(&alice).await);
    let incident = |error: &Value| error["data"]["incident"].clone();
    assert_ne!(
        incident(&first)["id"],
        incident(&second)["id"],
        "{first} {second}"
    );
    // Neither is told of the other.
    assert_eq!(incident(&second)["count"], 1, "{second}");
    assert!(
        first["message"].as_str().unwrap().contains("carol.token"),
        "{first}"
    );
    assert!(!second.to_string().contains("carol"), "{second}");
    std::fs::write(gate.folder().join("alice.token"), "again\n").unwrap();
    until("alice's process", seconds(10), async || {
        let reply = alice.call("pid", json!({})).await;
        reply.answer()["result"].is_object().then_some(())
    })
    .await;
    // What is not behind carol is still said, and to carol it is the first.
    until("alice's to be behind", seconds(5), async || {
        let text = incidents::incidents(state.path(), &[]).await;
        (text.contains("of agent carol") && !text.contains("of agent alice")).then_some(())
    })
    .await;
    let again = error(&carol).await;
    assert_eq!(incident(&again)["count"], 1, "{again}");
}

#[tokio::test]
async fn a_name_that_is_refused_is_no_failure_of_the_server() {
    let (gate, state) = remembering().await;
    for number in 0..20 {
        let sly = agent(&gate, &format!("../{number}")).await;
        let reply = sly.call("env", json!({})).await;
        let why = reply.answer()["error"]["message"].to_string();
        assert!(why.contains("cannot have one of its own"), "{why}");
    }
    let state_of = incidents::ready(&gate, "a").await["state"].clone();
    assert!(state_of != "down" && state_of != "crash-loop", "{state_of}");
    let alice = agent(&gate, "alice").await;
    pid(&alice).await;
    drop(gate.stop().await);
    assert!(incidents::listed(state.path()).await.is_empty());
}

#[tokio::test]
async fn what_an_agents_process_says_before_it_is_ready_is_told_to_that_agent_alone() {
    // Speaks to its agent, and never answers.
    let table = "[server.a]\ncommand = [\"sh\", \"-c\", \"echo noise of {agent}; exec sleep 60\"]\n\
                 isolation = \"agent\"\nstart-timeout = \"2s\"\nera = \"legacy\"\n";
    let gate = Gate::with(table)
        .top("[identity]\nheader = \"x-agent-id\"\n")
        .start()
        .await;
    let names = ["alice", "bob", "carol"];
    let told = all(names.map(async |name| {
        let host = agent(&gate, name).await;
        let reply = host.call("pid", json!({})).await;
        reply.answer()["error"]["message"]
            .as_str()
            .unwrap_or_default()
            .to_owned()
    }))
    .await;
    for (name, told) in names.iter().zip(&told) {
        assert!(told.contains(&format!("noise of {name}")), "{told}");
        assert_eq!(told.matches("noise of").count(), 1, "{told}");
    }
}
