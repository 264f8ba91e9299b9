//! Every example is a config that passes `check`, starts, and does what its README says.
//!
//! It stands apart because examples are what users paste: they are picked up by folder, so that a
//! new one cannot be forgotten.

use std::collections::BTreeSet;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use chillgate_tests::gate::bare;
use chillgate_tests::process::{free_port, root};
use chillgate_tests::script::interop;
use chillgate_tests::wait::{seconds, within};
use chillgate_tests::{Host, PipeHost, until};
use serde_json::json;

fn examples() -> Vec<PathBuf> {
    let entries = std::fs::read_dir(root().join("examples")).expect("there is an examples folder");
    let mut found: Vec<PathBuf> = entries
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.is_dir())
        .collect();
    found.sort();
    found
}

#[test]
fn the_examples_that_are_promised_are_there_with_a_readme_each() {
    let names: BTreeSet<String> = examples()
        .iter()
        .map(|path| path.file_name().unwrap().to_string_lossy().into_owned())
        .collect();
    for promised in [
        "01-wrap-a-server",
        "02-share-over-http",
        "03-quota",
        "04-boss-alert",
        "05-audit",
        "07-many-servers",
        "08-operations",
    ] {
        assert!(names.contains(promised), "{promised} is missing: {names:?}");
    }
    for example in examples() {
        for file in ["README.md", "chillgate.toml"] {
            assert!(
                example.join(file).is_file(),
                "{} has no {file}",
                example.display()
            );
        }
    }
}

#[tokio::test]
async fn every_example_passes_check() {
    for example in examples() {
        let mut check = bare();
        check
            .current_dir(&example)
            .args(["check", "--config", "chillgate.toml"]);
        let output = within("check", seconds(10), check.output()).await.unwrap();
        let said = String::from_utf8_lossy(&output.stdout).into_owned()
            + &String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{}: {said}", example.display());
    }
}

#[tokio::test]
async fn every_example_starts_and_offers_tools() {
    for example in examples() {
        let config = std::fs::read_to_string(example.join("chillgate.toml")).unwrap();
        if config.contains("[[front]]") {
            served(&example, &config).await;
        } else {
            wrapped(&example).await;
        }
    }
}

/// A gateway example, on ports of the test's own, in a copy of its folder.
async fn served(example: &Path, config: &str) {
    let folder = tempfile::tempdir().unwrap();
    let (front, health) = (free_port(), free_port());
    let moved = config
        .replace("127.0.0.1:8800", &format!("127.0.0.1:{front}"))
        .replace("127.0.0.1:9901", &format!("127.0.0.1:{health}"));
    assert!(
        moved != config,
        "{} listens somewhere else than its README says",
        example.display()
    );
    let file = folder.path().join("chillgate.toml");
    std::fs::write(&file, moved).unwrap();
    // npx finds the pinned packages here and downloads nothing.
    std::fs::copy(
        interop().join("ts/package.json"),
        folder.path().join("package.json"),
    )
    .unwrap();
    symlink(
        interop().join("ts/node_modules"),
        folder.path().join("node_modules"),
    )
    .unwrap();
    let mut serve = bare();
    serve
        .current_dir(folder.path())
        .arg("serve")
        .arg("--config")
        .arg(&file);
    if !config.contains("[health]") {
        serve.args(["--health", &format!("127.0.0.1:{health}")]);
    }
    serve
        .stdout(std::process::Stdio::null())
        .stderr(std::process::Stdio::null());
    let mut child = serve.spawn().unwrap();
    let address = ([127, 0, 0, 1], front).into();
    until(&format!("{}", example.display()), seconds(20), async || {
        tokio::net::TcpStream::connect(address).await.ok().map(drop)
    })
    .await;
    let host = Host::new(address)
        .header("x-agent-id", "reader")
        .open()
        .await;
    // A list waits for a server that starts, but not for longer than 5 s; npx may take longer.
    until(
        &format!("{}'s tools", example.display()),
        seconds(90),
        async || (!host.tools().await.is_empty()).then_some(()),
    )
    .await;
    chillgate_tests::process::signal(&child, rustix::process::Signal::TERM);
    let status = within("the drain", seconds(20), child.wait())
        .await
        .unwrap();
    assert!(status.success(), "{}: {status}", example.display());
}

/// A wrapper example: its policies around the mock server.
async fn wrapped(example: &Path) {
    let mut wrap = bare();
    wrap.current_dir(example)
        .args(["wrap", "--config", "chillgate.toml", "--"])
        .arg(crate::MOCK);
    let mut host = PipeHost::start(wrap);
    host.open(json!({})).await;
    let listed = host.request("tools/list", json!({})).await;
    assert!(
        listed["result"]["tools"]
            .as_array()
            .is_some_and(|tools| !tools.is_empty()),
        "{listed}"
    );
    let (status, stderr) = host.finish(seconds(10)).await;
    assert!(status.success(), "{}: {stderr}", example.display());
}
