//! The doctor, seen by somebody whose server does not work: what is said, and with which exit code.
//!
//! It stands apart because it is the verb for broken things: each test breaks another one.

use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::process::Stdio;

use chillgate_tests::gate::bare;
use chillgate_tests::process::{free_port, mark, marked};
use chillgate_tests::wait::{seconds, until, within};
use chillgate_tests::{Gate, Mock};
use serde_json::Value;

use crate::mock;

/// Addresses that are free, for a configuration that is otherwise the test's.
fn free() -> String {
    let (front, health) = (free_port(), free_port());
    format!(
        "[[front]]\ntransport = \"streamable-http\"\nlisten = \"127.0.0.1:{front}\"\n\
         [health]\nlisten = \"127.0.0.1:{health}\"\n"
    )
}

/// Runs the doctor over a configuration: code, output, errors.
async fn doctor(config: &str, more: &[&str]) -> (Option<i32>, String, String) {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("chillgate.toml");
    let config = config.replace("@DIR@", folder.path().to_str().unwrap());
    std::fs::write(&file, config).unwrap();
    at(&file, more, folder.path()).await
}

async fn at(file: &Path, more: &[&str], state: &Path) -> (Option<i32>, String, String) {
    let mut command = bare();
    command
        .args(["doctor", "--config"])
        .arg(file)
        .args(more)
        .env("XDG_STATE_HOME", state)
        .stdin(Stdio::null());
    let output = within("the doctor", seconds(40), command.output())
        .await
        .unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    (
        output.status.code(),
        text(output.stdout),
        text(output.stderr),
    )
}

/// The same for programs.
async fn seen(config: &str) -> (Option<i32>, Value) {
    let (code, out, err) = doctor(config, &["--json"]).await;
    assert_eq!(err, "", "{out}");
    let all = serde_json::from_str(&out).unwrap_or_else(|error| panic!("{error}: {out}"));
    (code, all)
}

fn server<'a>(all: &'a Value, name: &str) -> &'a Value {
    let mut servers = all["servers"].as_array().unwrap().iter();
    let found = servers.find(|server| server["server"] == name);
    found.unwrap_or_else(|| panic!("no {name} in {all}"))
}

/// All that is said of a server in this tone.
fn said(server: &Value, level: &str) -> String {
    let findings = server["findings"].as_array().unwrap().iter();
    let of_level = findings.filter(|finding| finding["level"] == level);
    of_level
        .map(Value::to_string)
        .collect::<Vec<_>>()
        .join("\n")
}

#[tokio::test]
async fn a_good_server_is_said_to_be_good_with_its_figures() {
    let mark = mark();
    let good = mock("good").flags(&["--tools", "30", "--page", "7", "--mark", &mark]);
    let config = free() + &good.table("") + "[server.chill]\nbuiltin = \"chill\"\n";
    let (code, all) = seen(&config).await;
    let good = server(&all, "good");
    assert_eq!(
        (code, &all["level"]),
        (Some(0), &Value::from("ok")),
        "{all}"
    );
    assert_eq!(good["eras"], serde_json::json!(["legacy"]), "{good}");
    assert!(good["tools"].as_u64() > Some(30), "all pages: {good}");
    assert!(good["first_answer_ms"].as_u64() < Some(20_000), "{good}");
    assert!(good["memory_bytes"].as_u64() > Some(500_000), "{good}");
    assert_eq!(good["name"], "good");
    assert_eq!(good["protocol_errors"], serde_json::json!({}));
    assert!(server(&all, "chill")["tools"].as_u64() >= Some(8), "{all}");
    until("the end of all servers", seconds(5), async || {
        marked(&mark).is_empty().then_some(())
    })
    .await;

    let (code, out, err) = doctor(&config, &[]).await;
    assert_eq!((code, err.as_str()), (Some(0), ""), "{out}");
    assert!(out.contains("server good: ok\n  ok    runs "), "{out}");
    assert!(
        out.contains("is free for hosts") && out.contains("the kernel has"),
        "{out}"
    );
}

#[tokio::test]
async fn each_broken_server_is_told_with_its_own_cause() {
    let silent = mock("silent").flags(&["--silent"]);
    let early = mock("early").flags(&["--exit", "3", "--stderr-flood", "200"]);
    let rude = mock("rude").flags(&["--garbage", "--banner"]);
    let deaf = mock("stays").flags(&["--ignore-eof"]);
    let config = free()
        + &silent.table("start-timeout = \"1s\"")
        + &early.table("")
        + &rude.table("")
        + &deaf.table("era = \"legacy\"")
        + "[server.missing]\ncommand = [\"no-such-program-here\"]\n"
        + &format!(
            "[server.down]\nurl = \"http://127.0.0.1:{}/mcp\"\n",
            free_port()
        );
    let (code, all) = seen(&config).await;
    assert_eq!(
        (code, &all["level"]),
        (Some(1), &Value::from("fail")),
        "{all}"
    );
    for (name, cause) in [
        ("silent", "did not answer within 1 s"),
        ("early", "exit code 3"),
        ("missing", "was not found in PATH"),
        ("down", "not available"),
    ] {
        let server = server(&all, name);
        assert_eq!(server["level"], "fail", "{server}");
        let text = said(server, "fail");
        assert!(text.contains(cause), "{name}: `{cause}` is not in {text}");
        assert_eq!(server["eras"], serde_json::json!([]), "{server}");
    }
    assert!(said(server(&all, "silent"), "fail").contains("start it by hand"));
    let early = server(&all, "early");
    assert!(early["stderr"]["lines"].as_u64() >= Some(1), "{early}");
    let rude = server(&all, "rude");
    assert_eq!(rude["level"], "warn", "{rude}");
    assert!(said(rude, "warn").contains("standard error"), "{rude}");
    assert!(rude["tools"].as_u64() > Some(1), "{rude}");
    assert!(
        said(server(&all, "stays"), "warn").contains("to end"),
        "{all}"
    );
}

#[tokio::test]
async fn what_a_server_speaks_is_found_out_in_both_eras() {
    let modern = mock("modern").flags(&["--eras", "modern"]);
    let both = mock("both").flags(&["--eras", "first"]);
    let config = free() + &modern.table("") + &both.table("");
    let (code, all) = seen(&config).await;
    assert_eq!(code, Some(0), "{all}");
    assert_eq!(
        server(&all, "modern")["eras"],
        serde_json::json!(["modern"])
    );
    let both = &server(&all, "both")["eras"];
    assert_eq!(both, &serde_json::json!(["legacy", "modern"]));
    assert!(server(&all, "modern")["tools"].as_u64() > Some(1), "{all}");
}

#[tokio::test]
async fn a_remote_server_is_reached_as_serve_would() {
    let gate = Gate::with("[server.chill]\nbuiltin = \"chill\"\n")
        .start()
        .await;
    let remote = format!("[server.far]\nurl = \"{}\"\n", gate.url("/mcp"));
    let (code, all) = seen(&(free() + &remote)).await;
    let far = server(&all, "far");
    assert_eq!(code, Some(0), "{all}");
    assert_eq!(
        far["eras"],
        serde_json::json!(["legacy", "modern"]),
        "{far}"
    );
    assert!(far["tools"].as_u64() >= Some(8), "{far}");

    // Its own configuration, while it runs.
    let (code, out, _) = at(&gate.config(), &[], gate.folder()).await;
    assert!(code == Some(0) && out.contains("a chillgate runs"), "{out}");
    gate.stop().await;
}

#[tokio::test]
async fn what_serve_needs_besides_servers_is_looked_at() {
    let taken = TcpListener::bind(SocketAddr::from(([127, 0, 0, 1], 0))).unwrap();
    let front = taken.local_addr().unwrap();
    let config = format!(
        "[[front]]\ntransport = \"streamable-http\"\nlisten = \"{front}\"\n\
         [health]\nlisten = \"127.0.0.1:{}\"\n[server.chill]\nbuiltin = \"chill\"\n\
         [audit]\nfile = \"@DIR@/no/such/audit.jsonl\"\n[state]\nfolder = \"/dev/null/state\"\n\
         [[policy]]\ntype = \"access\"\nname = \"slip\"\ndeny = [\"chil__*\"]\n",
        free_port()
    );
    let (code, out, err) = doctor(&config, &[]).await;
    assert_eq!((code, err.as_str()), (Some(1), ""), "{out}");
    for said in [
        &format!("FAIL  cannot listen on {front}"),
        "FAIL  the audit log",
        "FAIL  state.folder",
        "warn  Policy \"slip\" is about the server \"chil\"",
    ] {
        assert!(out.contains(said), "`{said}` is not in {out}");
    }
    let (code, out, _) = doctor(&config, &["--server", "chill"]).await;
    assert!(code == Some(0) && !out.contains("audit"), "{out}");
    let (code, _, err) = doctor(&config, &["--server", "chil"]).await;
    assert!(
        code == Some(2) && err.contains("did you mean `chill`?"),
        "{err}"
    );
    let (code, _, err) = doctor("[limits]\ndepth = 0\n", &[]).await;
    assert!(code == Some(2) && err.contains("depth"), "{err}");
}

#[tokio::test]
async fn at_most_four_are_looked_at_at_once() {
    let mark = mark();
    let servers: Vec<Mock> = (0..9)
        .map(|n| mock(&format!("s{n}")).flags(&["--silent", "--mark", &mark]))
        .collect();
    let tables: String = servers
        .iter()
        .map(|server| server.table("era = \"legacy\"\nstart-timeout = \"300ms\""))
        .collect();
    let config = free() + &tables;
    let running = doctor(&config, &[]);
    let mut most = 0;
    let watching = async {
        loop {
            let servers = marked(&mark);
            let servers = servers
                .iter()
                .filter(|found| !found.line.contains("__keep"));
            most = most.max(servers.count());
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
    };
    let (code, out, _) = tokio::select! {
        done = running => done,
        () = watching => unreachable!("it never ends"),
    };
    assert_eq!(code, Some(1), "{out}");
    assert!((2..=4).contains(&most), "{most} at once");
    assert!(marked(&mark).is_empty(), "{:?}", marked(&mark));
}

/// Slow enough to be asked in the other era as well before it has answered in the first.
#[tokio::test]
async fn a_slow_server_of_one_era_is_well_and_no_incident() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("chillgate.toml");
    let slow = mock("a").flags(&["--eras", "legacy", "--slow-start", "6000"]);
    std::fs::write(&file, slow.table("") + &free()).unwrap();
    let (code, out, err) = at(&file, &[], folder.path()).await;
    assert_eq!(code, Some(0), "{out}{err}");
    let mut list = bare();
    list.args(["incidents", "--json", "--all", "--config"])
        .arg(&file)
        .env("XDG_STATE_HOME", folder.path());
    let listed = within("the list", seconds(10), list.output())
        .await
        .unwrap();
    let listed: Value = serde_json::from_slice(&listed.stdout).unwrap();
    assert_eq!(listed, serde_json::json!([]));
}

#[tokio::test]
async fn a_remedy_is_told_once() {
    let broken = "[server.a]\ncommand = [\"sh\", \"-c\", \
                  \"echo \\\"Error: Cannot find module 'foo'\\\" >&2; exit 1\"]\n";
    let (code, all) = seen(&(broken.to_owned() + &free())).await;
    assert_eq!(code, Some(1), "{all}");
    let findings = all["servers"][0]["findings"].as_array().unwrap();
    let failed = findings
        .iter()
        .find(|finding| finding["level"] == "fail")
        .unwrap();
    let (text, help) = (&failed["text"].as_str(), &failed["help"].as_str());
    assert!(help.unwrap().contains("run `npm install`"), "{failed}");
    assert!(!text.unwrap().contains("npm install"), "{failed}");
    assert!(!text.unwrap().contains("what to do"), "{failed}");
}
