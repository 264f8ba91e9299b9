//! Start and end, again and again: nothing adds up.
//!
//! It stands apart because a leak shows in numbers only: processes, descriptors, memory.

use std::time::Duration;

use tokio::time::Instant;

use serde_json::{Value, json};

use chillgate_tests::process::{descendants, descriptors, mark, marked, peak, resident, send};
use chillgate_tests::script::interop;
use chillgate_tests::server::toml_list;
use chillgate_tests::wait::{all, long, seconds};
use chillgate_tests::{Gate, until};
use rustix::process::Signal;

use crate::{MOCK, mock};

async fn nobody(mark: &str, limit: u64) {
    until(
        "nobody of the tree to be left",
        seconds(limit),
        async || marked(mark).is_empty().then_some(()),
    )
    .await;
}

#[tokio::test]
async fn starts_and_stops_leave_nobody() {
    let mark = mark();
    let table = mock("a")
        .flags(&["--grandchild", &mark, "--mark", &mark])
        .table("");
    for _ in 0..if long() { 500 } else { 20 } {
        let gate = Gate::with(&table).start().await;
        gate.host().open().await.call("echo", json!({})).await;
        let (status, _folder) = gate.stop().await;
        assert!(status.success(), "{status}");
        // What the gate ends with is gone when it is.
        nobody(&mark, 1).await;
    }
}

#[tokio::test]
async fn kills_through_npx_and_sh_and_node_leave_nobody() {
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
    for _ in 0..if long() { 100 } else { 3 } {
        let gate = Gate::with(&table).start().await;
        gate.host()
            .open()
            .await
            .call("echo", json!({"message": "up"}))
            .await;
        assert!(marked(&mark).len() >= 2);
        let family = descendants(gate.pid());
        drop(gate.kill().await);
        nobody(&mark, 3).await;
        until("the whole family to be gone", seconds(3), async || {
            let alive = |pid: &u32| std::path::Path::new(&format!("/proc/{pid}")).exists();
            (!family.iter().any(alive)).then_some(())
        })
        .await;
    }
}

#[tokio::test]
async fn every_way_to_end_leaves_nobody() {
    let mark = mark();
    let flags = ["--grandchild", &mark, "--mark", &mark, "--ignore-eof"];
    let table = mock("a").flags(&flags).table("");
    for how in [Signal::ABORT, Signal::KILL, Signal::TERM, Signal::INT] {
        let mut gate = Gate::with(&table).start().await;
        gate.host().open().await.call("echo", json!({})).await;
        gate.signal(how);
        gate.ended(seconds(9)).await;
        nobody(&mark, 3).await;
    }

    // A server that never answers: it is given up.
    let mute = mock("a")
        .flags(&[&flags[..], &["--silent"]].concat())
        .table("start-timeout = \"300ms\"");
    let gate = Gate::with(&mute).start().await;
    until("the start to be given up", seconds(10), async || {
        let line = gate
            .log()
            .into_iter()
            .find(|line| line.contains("did not start"));
        line.map(drop)
    })
    .await;
    // It is started again and again; what was given up is gone each time.
    let given_up: Vec<u32> = marked(&mark).iter().map(|it| it.pid).collect();
    until(
        "those that were given up to be gone",
        seconds(9),
        async || {
            let left = marked(&mark).into_iter().map(|it| it.pid);
            (!left.into_iter().any(|pid| given_up.contains(&pid))).then_some(())
        },
    )
    .await;
    gate.stop().await;
    nobody(&mark, 9).await;
}

#[tokio::test]
async fn a_reload_that_drops_a_server_ends_its_tree() {
    let mark = mark();
    let flags = ["--grandchild", &mark, "--mark", &mark, "--ignore-eof"];
    let tables = mock("a").table("") + "# begin\n" + &mock("b").flags(&flags).table("");
    let gate = Gate::with(&tables).start().await;
    let host = gate.host().open().await;
    host.call("b__echo", json!({})).await;
    assert!(!marked(&mark).is_empty());
    let whole = std::fs::read_to_string(gate.config()).unwrap();
    let (before, after) = whole.split_once("# begin").unwrap();
    gate.edit(&format!("# begin{after}"), "");
    assert!(before.contains("[server.a]"));
    nobody(&mark, 8).await;
    assert_eq!(host.call("name", json!({})).await.tool_text(), "a");
}

#[tokio::test]
async fn a_killed_keeper_takes_its_server_with_it_and_the_next_call_works() {
    let mark = mark();
    let table = mock("a")
        .flags(&["--grandchild", &mark, "--mark", &mark])
        .table("");
    let gate = Gate::with(&table)
        .top("[state]\nfolder = \"@DIR@/state\"")
        .start()
        .await;
    let host = gate.host().open().await;
    host.call("echo", json!({})).await;
    until("the grandchild", seconds(5), async || {
        let silent = |line: &str| line.contains("--silent");
        marked(&mark)
            .iter()
            .any(|it| silent(&it.line))
            .then_some(())
    })
    .await;
    let before: Vec<u32> = marked(&mark).iter().map(|found| found.pid).collect();
    let keeper = descendants(gate.pid())[0];
    send(keeper, Signal::KILL);
    until("the next server", seconds(10), async || {
        let reply = host.call("echo", json!({"message": "back"})).await;
        reply.code().is_none().then_some(())
    })
    .await;
    // Also the one that had left the session: it has the tree's mark.
    until("the old tree's end", seconds(3), async || {
        let left = marked(&mark).into_iter();
        (!left.map(|it| it.pid).any(|pid| before.contains(&pid))).then_some(())
    })
    .await;
}

/// Neither its session nor its environment says where it came from.
#[tokio::test]
async fn what_a_server_hides_before_it_kills_its_keeper_is_ended_too() {
    let mark = mark();
    let script = format!(
        "setsid -f env -i sh -c 'sleep 300; : {mark}'; sleep 0.2; kill -9 $PPID; sleep 300"
    );
    let table = format!(
        "[server.a]\nera = \"legacy\"\ncommand = {}\n",
        toml_list(&["sh", "-c", &script])
    );
    let gate = Gate::with(&table).start().await;
    let host = gate.host().open().await;
    assert!(host.call("echo", json!({})).await.code().is_some());
    let hidden = || {
        let all = marked(&mark).into_iter();
        all.filter(|it| !it.line.contains("setsid")).count()
    };
    // It is started again and does the same; what the one before has hidden is gone by then.
    for _ in 0..20 {
        assert!(hidden() <= 2, "{:?}", marked(&mark));
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let pid = gate.pid();
    let buried = || {
        let all = std::fs::read_dir("/proc").unwrap().flatten();
        let stats = all.filter_map(|it| std::fs::read_to_string(it.path().join("stat")).ok());
        let own = stats.filter(|stat| stat.contains(&format!(") Z {pid} ")));
        own.collect::<Vec<_>>()
    };
    assert!(
        gate.log()
            .iter()
            .any(|it| it.contains("The keeper was killed")),
        "{:?}",
        gate.log()
    );
    let mut told = Vec::new();
    for line in gate.log() {
        if line.contains("The keeper was killed") {
            let line: Value = serde_json::from_str(&line).unwrap();
            let pid = [&line["pid"], &line["fields"]["pid"]].map(Value::as_u64);
            told.push(pid[0].or(pid[1]).unwrap());
        }
    }
    let count = told.len();
    told.sort_unstable();
    told.dedup();
    assert_eq!(told.len(), count, "said twice of one: {:?}", gate.log());
    until("all are buried", seconds(5), async || {
        buried().is_empty().then_some(())
    })
    .await;
    gate.stop().await;
    nobody(&mark, 5).await;
}

#[tokio::test]
async fn a_server_deaf_to_everything_is_gone_in_five_and_a_half_seconds() {
    let mark = mark();
    let script = format!("trap '' TERM HUP INT; {MOCK} --ignore-eof --mark {mark}; true");
    let table = format!(
        "[server.deaf]\ncommand = {}\n",
        toml_list(&["sh", "-c", &script])
    );
    let mut gate = Gate::with(&table).start().await;
    gate.host().open().await.call("echo", json!({})).await;
    let start = Instant::now();
    gate.signal(Signal::TERM);
    gate.ended(seconds(9)).await;
    let took = start.elapsed();
    eprintln!("the deaf server was gone after {took:?}");
    assert!(took.as_millis() < 5500, "{took:?}");
    nobody(&mark, 1).await;
}

#[tokio::test]
async fn sessions_with_servers_of_their_own_come_and_go_without_a_trace() {
    let mark = mark();
    let table = mock("a")
        .flags(&["--mark", &mark])
        .table("isolation = \"session\"\nlimits = { processes = 32 }");
    let gate = Gate::with(&table).start().await;
    let pid = gate.pid();
    let churn = async |count: usize| {
        for _ in 0..count / 10 {
            all((0..10).map(|_| async {
                let host = gate.host().open().await;
                host.call("echo", json!({})).await;
                host.leave().await;
            }))
            .await;
        }
        until("the servers' end", seconds(20), async || {
            marked(&mark).is_empty().then_some(())
        })
        .await;
    };
    // What it takes once (pools, tables) is no leak.
    churn(100).await;
    let started = (descendants(pid).len(), descriptors(pid), resident(pid));
    let start = Instant::now();
    churn(if long() { 10_000 } else { 200 }).await;
    let took = start.elapsed();
    until("the starting numbers", seconds(10), async || {
        let now = (descendants(pid).len(), descriptors(pid));
        (now.0 <= started.0 && now.1 <= started.1).then_some(())
    })
    .await;
    let (ended, peak) = (resident(pid), peak(pid));
    eprintln!(
        "churn took {took:?}; memory {} KiB, then {} KiB, at most {} KiB; {} processes, {} descriptors",
        started.2 >> 10,
        ended >> 10,
        peak >> 10,
        started.0,
        started.1
    );
    assert!(
        ended < started.2 + (10 << 20),
        "{} became {ended}",
        started.2
    );
}
