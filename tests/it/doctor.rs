//! The doctor, seen by somebody whose server does not work: what is said, and with which exit code.
//!
//! It stands apart because it is the verb for broken things: each test breaks another one.

use std::collections::BTreeSet;
use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::process::Stdio;

use chillgate_tests::gate::{bare, ended};
use chillgate_tests::process::{command, free_port, mark, marked};
use chillgate_tests::wait::{seconds, until, within};
use chillgate_tests::{Gate, Mock};
use serde_json::Value;
use tokio::io::{AsyncBufReadExt as _, BufReader};

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
        .env("XDG_STATE_HOME", state);
    ended(command, 40).await
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
async fn the_query_of_an_address_is_shown_nowhere() {
    let url = "http://127.0.0.1:1/mcp?api_key=Zq9planted";
    let config = free() + &format!("[server.far]\nurl = \"{url}\"\n");
    for more in [&[][..], &["--json"]] {
        let (_, out, err) = doctor(&config, more).await;
        assert!(out.contains("/mcp?api_key=•"), "{out}{err}");
        assert!(!(out.clone() + &err).contains("planted"), "{out}{err}");
    }
}

#[tokio::test]
async fn what_a_remote_server_says_ends_without_a_line_break() {
    let gate = Gate::with("[server.chill]\nbuiltin = \"chill\"\n")
        .start()
        .await;
    // There is no MCP at this address, and what answers says so in a line of text.
    let remote = format!("[server.far]\nurl = \"http://{}/mcp\"\n", gate.health());
    let (code, all) = seen(&(free() + &remote)).await;
    assert_eq!(code, Some(1), "{all}");
    let findings = server(&all, "far")["findings"].as_array().unwrap();
    let texts: Vec<_> = findings
        .iter()
        .map(|it| it["text"].as_str().unwrap())
        .collect();
    let texts = texts.join("\n");
    assert!(texts.contains("only GET and HEAD"), "{texts}");
    assert!(!texts.contains('\\'), "{texts}");
    gate.stop().await;
}

#[tokio::test]
async fn of_a_server_that_floods_and_never_answers_it_is_not_said_that_it_answers() {
    let floods = "i=0; while [ $i -lt 300 ]; do echo tick $i; i=$((i+1)); done; exec sleep 1000";
    let words = chillgate_tests::server::toml_list(&["sh", "-c", floods]);
    let config = free() + &format!("[server.a]\ncommand = {words}\nstart-timeout = \"2s\"\n");
    let (code, out, err) = doctor(&config, &[]).await;
    assert_eq!(code, Some(1), "{out}{err}");
    let told = out + &err;
    assert!(told.contains("does not speak MCP on stdio"), "{told}");
    assert!(!told.contains("answered meanwhile"), "{told}");
    assert!(!told.contains("babbles"), "{told}");
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
async fn at_most_eight_are_looked_at_at_once_and_a_slow_one_keeps_nobody_waiting() {
    let mark = mark();
    let servers: Vec<Mock> = (10..30)
        .map(|n| mock(&format!("s{n}")).flags(&["--silent", "--mark", &mark]))
        .collect();
    let patience = |n: usize| if n == 0 { "15s" } else { "300ms" };
    let tables: String = servers
        .iter()
        .enumerate()
        .map(|(n, server)| {
            let patience = patience(n);
            server.table(&format!("era = \"legacy\"\nstart-timeout = \"{patience}\""))
        })
        .collect();
    let config = free() + &tables;
    let running = doctor(&config, &[]);
    let (mut most, mut beside) = (0, BTreeSet::new());
    let watching = async {
        loop {
            let servers = marked(&mark);
            let servers: Vec<_> = servers
                .iter()
                .filter(|found| !found.line.contains("__"))
                .collect();
            most = most.max(servers.len());
            if servers.iter().any(|found| found.line.contains(" s10 ")) {
                beside.extend(servers.iter().map(|found| found.line.clone()));
            }
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
    };
    let (code, out, _) = tokio::select! {
        done = running => done,
        () = watching => unreachable!("it never ends"),
    };
    assert_eq!(code, Some(1), "{out}");
    assert!((5..=8).contains(&most), "{most} at once");
    assert_eq!(beside.len(), 20, "while the slow one was waited for");
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

/// Two servers, the second of which says nothing for four seconds.
fn quick_and_slow() -> String {
    let slow = mock("b-slow").flags(&["--silent"]);
    let slow = slow.table("era = \"legacy\"\nstart-timeout = \"4s\"");
    free() + "[server.a-quick]\nbuiltin = \"chill\"\n" + &slow
}

#[tokio::test]
async fn what_is_done_is_told_while_another_is_waited_for() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("chillgate.toml");
    std::fs::write(&file, quick_and_slow()).unwrap();
    let mut doctor = bare();
    doctor.args(["doctor", "--config"]).arg(&file);
    let mut doctor = doctor.stdout(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(doctor.stdout.take().unwrap()).lines();
    let first = within("the first block", seconds(20), lines.next_line()).await;
    assert_eq!(first.unwrap().unwrap(), "server a-quick: ok");
    assert!(
        tokio::time::timeout(seconds(1), doctor.wait())
            .await
            .is_err(),
        "the other is not done"
    );
    let mut rest = String::new();
    while let Some(line) = within("the rest", seconds(20), lines.next_line())
        .await
        .unwrap()
    {
        rest += &(line + "\n");
    }
    let at = |text: &str| {
        rest.find(text)
            .unwrap_or_else(|| panic!("no {text}: {rest}"))
    };
    assert!(
        at("\n\nserver b-slow: FAIL\n") < at("\n\naround ("),
        "{rest}"
    );
}

#[tokio::test]
async fn a_terminal_says_who_is_still_waited_for() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("chillgate.toml");
    std::fs::write(&file, quick_and_slow()).unwrap();
    // A terminal of its own, whose bytes come out at standard output.
    let script = "import pty, sys; sys.exit(pty.spawn(sys.argv[1:]) >> 8)";
    let mut doctor = command("python3");
    doctor
        .args([
            "-c",
            script,
            chillgate_tests::process::chillgate().to_str().unwrap(),
        ])
        .args(["doctor", "--config"])
        .arg(&file)
        .env("XDG_STATE_HOME", folder.path())
        .stdin(Stdio::null());
    let output = within("the doctor", seconds(40), doctor.output())
        .await
        .unwrap();
    let out = String::from_utf8(output.stdout).unwrap();
    let waited = out
        .find("Waiting for b-slow …")
        .unwrap_or_else(|| panic!("{out:?}"));
    assert!(out.find("server a-quick: ok").unwrap() < waited, "{out:?}");
    let after = &out[waited..];
    assert!(
        after.contains("…\r\x1b[Kserver b-slow") || after.contains("…\r\x1b[K\r\n"),
        "{out:?}"
    );
}

#[tokio::test]
async fn the_kernel_is_asked_as_the_sandbox_asks_it() {
    let lenient = mock("a").table("sandbox = { read = [\"/\"], require = false }");
    let gate = Gate::with(&lenient).start().await;
    let host = gate.host().open().await;
    host.call("echo", serde_json::json!({})).await;
    let line = gate
        .log()
        .into_iter()
        .find(|line| line.contains("sandbox: "));
    let line = line.expect("what was given is in the log");
    let given = line.split_once("sandbox: ").unwrap().1;
    let given = given.split([',', ';', '"']).next().unwrap();
    assert!(given.starts_with("landlock "), "{line}");
    drop(gate.stop().await);
    let (_, out, _) = doctor(&(free() + "[server.chill]\nbuiltin = \"chill\"\n"), &[]).await;
    let found = match given {
        "landlock 0" => "no Landlock",
        given => given,
    };
    let kernel = out
        .lines()
        .find(|line| line.contains("the kernel has"))
        .unwrap();
    assert!(
        kernel.contains(&format!("; {found}, ")),
        "{given}: {kernel}"
    );
}

#[tokio::test]
async fn a_command_to_try_by_hand_can_be_pasted() {
    let script = "echo \"it's  me\" >&2; exit 3";
    let words = chillgate_tests::server::toml_list(&["sh", "-c", script]);
    let config = free() + &format!("[server.a]\ncommand = {words}\n");
    let (_, all) = seen(&config).await;
    let findings = all["servers"][0]["findings"].as_array().unwrap();
    let help = findings.iter().find_map(|finding| finding["help"].as_str());
    let line = help.unwrap().split_once("what it says: ").unwrap().1;
    let mut shell = command("sh");
    shell.args(["-c", line]);
    let output = within("the shell", seconds(10), shell.output())
        .await
        .unwrap();
    assert_eq!(output.status.code(), Some(3), "{line}");
    assert_eq!(output.stderr, b"it's  me\n", "{line}");
}

#[tokio::test]
async fn last_words_that_two_starts_share_are_told_once() {
    let broken = "[server.a]\ncommand = [\"sh\", \"-c\", \"echo the last words >&2; exit 1\"]\n";
    let (_, all) = seen(&(free() + broken)).await;
    let words = &all["servers"][0]["stderr"];
    assert_eq!(
        words["last"],
        serde_json::json!(["the last words"]),
        "{all}"
    );
    assert!(
        words["lines"].as_u64() > Some(1),
        "it was started twice: {all}"
    );
    let told = said(&all["servers"][0], "ok");
    assert_eq!(told.matches("the last words").count(), 1, "{told}");
    assert!(told.contains("starts; the last:"), "{told}");
}
