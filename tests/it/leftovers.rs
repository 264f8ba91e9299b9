//! What is left when chillgate and its keepers are killed at once: nothing that a kernel can prevent,
//! and the rest until the next start.
//!
//! It stands apart because nobody is left to clean up: what these tests see is done by the kernel or
//! by another chillgate.

use std::path::Path;

use serde_json::json;

use chillgate_tests::process::{descendants, mark, marked, send};
use chillgate_tests::wait::seconds;
use chillgate_tests::{Gate, until};
use rustix::process::Signal;
use tempfile::TempDir;

use crate::mock;

/// Kills chillgate and every keeper of it in one breath; neither sees the other die.
async fn kill_both(gate: Gate) -> TempDir {
    let keepers: Vec<u32> = descendants(gate.pid())
        .into_iter()
        .filter(|pid| {
            let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            String::from_utf8_lossy(&line).contains("__keep")
        })
        .collect();
    assert!(!keepers.is_empty());
    gate.signal(Signal::STOP);
    for keeper in &keepers {
        send(*keeper, Signal::STOP);
    }
    for keeper in &keepers {
        send(*keeper, Signal::KILL);
    }
    gate.kill().await
}

fn alone(mark: &str) -> Vec<u32> {
    let silent = |line: &str| line.contains("--silent");
    let found = marked(mark).into_iter();
    found
        .filter(|it| silent(&it.line))
        .map(|it| it.pid)
        .collect()
}

async fn grandchild(mark: &str) -> u32 {
    until("the grandchild", seconds(5), async || {
        alone(mark).first().copied()
    })
    .await
}

fn state(folder: &Path) -> String {
    format!("[state]\nfolder = \"{}\"\n", folder.display())
}

#[tokio::test]
async fn a_deaf_server_dies_with_its_keeper_even_when_nobody_ends_it() {
    let mark = mark();
    let gate = Gate::with(
        &mock("a")
            .flags(&["--ignore-eof", "--mark", &mark])
            .table(""),
    )
    .start()
    .await;
    gate.host().open().await.call("echo", json!({})).await;
    drop(kill_both(gate).await);
    until("the server's end", seconds(2), async || {
        marked(&mark).is_empty().then_some(())
    })
    .await;
}

#[tokio::test]
async fn what_outlived_both_is_ended_by_the_next_start() {
    let kept = tempfile::tempdir().unwrap();
    let mark = mark();
    let gate = Gate::with(&mock("a").flags(&["--grandchild", &mark]).table(""))
        .top(&state(kept.path()))
        .start()
        .await;
    gate.host().open().await.call("echo", json!({})).await;
    let pid = grandchild(&mark).await;
    drop(kill_both(gate).await);
    // Without the register nobody knows it: a start elsewhere leaves it alone.
    let elsewhere = tempfile::tempdir().unwrap();
    let other = Gate::with(&mock("b").table(""))
        .top(&state(elsewhere.path()))
        .start()
        .await;
    assert_eq!(
        alone(&mark),
        [pid],
        "this test needs something that is left"
    );
    let next = Gate::with(&mock("a").table(""))
        .top(&state(kept.path()))
        .start()
        .await;
    until("the end of what was left", seconds(3), async || {
        alone(&mark).is_empty().then_some(())
    })
    .await;
    let line = next
        .log()
        .into_iter()
        .find(|line| line.contains("had left running"));
    assert!(line.is_some_and(|line| line.contains(&format!("({pid})"))));
    let counted = next
        .scrape()
        .await
        .sum("chillgate_child_leftovers_ended_total", &[]);
    assert!((counted - 1.0).abs() < 0.1, "{counted}");
    // The living are not touched by a start beside them.
    let host = next.host().open().await;
    let before = host.call("pid", json!({})).await.tool_text().to_owned();
    let beside = Gate::with(&mock("a").table(""))
        .top(&state(kept.path()))
        .start()
        .await;
    beside.host().open().await.call("echo", json!({})).await;
    assert_eq!(host.call("pid", json!({})).await.tool_text(), before);
    drop(other);
}

#[tokio::test]
async fn a_tree_that_ended_is_not_registered_any_more() {
    let kept = tempfile::tempdir().unwrap();
    let gate = Gate::with(&mock("a").table("isolation = \"session\""))
        .top(&state(kept.path()))
        .start()
        .await;
    let entries = || {
        let parts = std::fs::read_dir(kept.path().join("trees"))
            .unwrap()
            .flatten();
        parts
            .flat_map(|part| std::fs::read_dir(part.path()).unwrap().flatten())
            .filter(|entry| entry.file_name() != "lock")
            .count()
    };
    let host = gate.host().open().await;
    host.call("echo", json!({})).await;
    let running = entries();
    assert!(running >= 1);
    host.leave().await;
    until("the entry to go", seconds(8), async || {
        (entries() < running).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_process_namespace_leaves_nothing_however_both_are_killed() {
    let mark = mark();
    let open = "[server.a.sandbox]\nread = [\"/\"]\nwrite = [\"/\"]\nsystem-calls = \"all\"\n";
    let gate = Gate::with(
        &mock("a")
            .flags(&["--grandchild", &mark, "--mark", &mark])
            .table(&format!("{open}pid-namespace = true")),
    )
    .start()
    .await;
    gate.host().open().await.call("echo", json!({})).await;
    grandchild(&mark).await;
    drop(kill_both(gate).await);
    until("the end of all", seconds(2), async || {
        marked(&mark).is_empty().then_some(())
    })
    .await;
}

#[tokio::test]
async fn all_that_is_kept_is_for_chillgates_user_alone() {
    use std::os::unix::fs::PermissionsExt as _;
    let folder = tempfile::tempdir().unwrap();
    let state_folder = folder.path().join("state");
    let boxed = mock("a").table("sandbox = { read = [\"/\"], require = false }");
    let gate = Gate::with(&(state(&state_folder) + &boxed)).start().await;
    gate.host().open().await.call("echo", json!({})).await;
    let mut open = vec![state_folder];
    let mut seen = 0;
    while let Some(path) = open.pop() {
        let meta = path.symlink_metadata().unwrap();
        let wanted = if meta.is_dir() { 0o700 } else { 0o600 };
        let mode = meta.permissions().mode() & 0o777;
        assert_eq!(mode, wanted, "{mode:o} {}", path.display());
        seen += 1;
        if meta.is_dir() {
            open.extend(
                std::fs::read_dir(&path)
                    .unwrap()
                    .map(|it| it.unwrap().path()),
            );
        }
    }
    assert!(seen >= 6, "trees and tmp with what is in them: {seen}");
}

/// What lies in the folder of temporary folders.
fn scratches(state: &Path) -> usize {
    std::fs::read_dir(state.join("tmp")).map_or(0, Iterator::count)
}

#[tokio::test]
async fn a_temporary_folder_goes_with_its_server_or_with_the_next_start() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    let boxed = state(at) + &mock("a").table("sandbox = { read = [\"/\"], require = false }");
    let start = async || {
        let gate = Gate::with(&boxed).start().await;
        let host = gate.host().open().await;
        let write = [
            "sh",
            "-c",
            "mkdir -p $TMPDIR/deep && echo x > $TMPDIR/deep/file",
        ];
        let reply = host.call("run", json!({"command": write})).await;
        assert!(reply.tool_text().contains("\"code\":0"), "{reply:?}");
        gate
    };
    let gate = start().await;
    assert_eq!(scratches(at), 1);
    drop(gate.stop().await);
    assert_eq!(scratches(at), 0, "stopped");

    drop(start().await.kill().await);
    until("the keeper's last act", seconds(10), async || {
        (scratches(at) == 0).then_some(())
    })
    .await;

    let gate = start().await;
    drop(kill_both(gate).await);
    assert_eq!(scratches(at), 1, "nobody is left to remove it");
    let first = start().await;
    assert_eq!(scratches(at), 1, "the one of now");
    // Another chillgate with the same folder leaves what is in use alone.
    let second = start().await;
    assert_eq!(scratches(at), 2);
    drop(first.stop().await);
    assert_eq!(scratches(at), 1);
    drop(second.stop().await);
    assert_eq!(scratches(at), 0);
}
