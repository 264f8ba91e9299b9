//! Configuration as it is lived with: bad files, reloads, a ConfigMap's swap, busy ports.
//!
//! It stands apart from the loader's own tests because reloads are signals and file events on a
//! running process with calls in flight.

use std::os::unix::fs::symlink;
use std::process::{Output, Stdio};

use serde_json::json;

use chillgate_tests::gate::{bare, serve};
use chillgate_tests::process::free_port;
use chillgate_tests::wait::{long, seconds, within};
use chillgate_tests::{Gate, Host, until};
use rustix::process::Signal;

use crate::mock;

const DENY: &str = "[[policy]]\ntype = \"access\"\nname = \"gate\"\ndeny = [\"a__env\"]\n";

async fn has_tool(host: &Host, tool: &str) -> bool {
    host.tools().await.iter().any(|name| name == tool)
}

async fn applied(gate: &Gate, more_than: f64) {
    until("the reload", seconds(10), async || {
        (gate.reloads("applied").await > more_than).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_reload_by_signal_or_by_writing_the_file_changes_what_is_allowed() {
    let gate = Gate::with(&(mock("a").table("") + DENY)).start().await;
    let host = gate.host().open().await;
    let child = host.call("pid", json!({})).await.tool_text().to_owned();
    assert!(!has_tool(&host, "env").await && has_tool(&host, "pid").await);
    let mut stream = host.listen().await;

    let before = gate.reloads("applied").await;
    gate.edit("a__env", "a__pid");
    gate.signal(Signal::HUP);
    applied(&gate, before).await;
    assert!(has_tool(&host, "env").await && !has_tool(&host, "pid").await);
    let note = within("list_changed", seconds(5), stream.message())
        .await
        .unwrap();
    assert_eq!(note["method"], "notifications/tools/list_changed");

    let before = gate.reloads("applied").await;
    gate.edit("a__pid", "a__count");
    applied(&gate, before).await;
    assert!(has_tool(&host, "pid").await && !has_tool(&host, "count").await);
    assert_eq!(
        host.call("pid", json!({})).await.tool_text(),
        child,
        "an unchanged server was restarted"
    );
}

#[tokio::test]
async fn a_bad_file_changes_nothing_and_says_where() {
    let gate = Gate::with(&(mock("a").table("") + DENY)).start().await;
    let host = gate.host().open().await;
    let good = std::fs::read_to_string(gate.config()).unwrap();
    for (from, to, said) in [
        (
            "deny = [\"a__env\"]",
            "deny = [\"a__env\"",
            "chillgate.toml:",
        ),
        ("deny = [\"a__env\"]", "denny = [\"a__env\"]", "denny"),
        ("type = \"access\"", "type = \"acess\"", "acess"),
        ("[[policy]]", "[policy]", "policy"),
        ("[server.a]", "[server.A_B]", "A_B"),
    ] {
        let before = gate.reloads("rejected").await;
        std::fs::write(gate.config(), good.replacen(from, to, 1)).unwrap();
        gate.signal(Signal::HUP);
        until(&format!("the refusal of {to}"), seconds(10), async || {
            (gate.reloads("rejected").await > before).then_some(())
        })
        .await;
        // The log is written by a thread of its own.
        until(&format!("{said} in the log"), seconds(5), async || {
            let lines = gate.log();
            let mut last = lines.iter().rev().take(20);
            last.any(|line| line.contains(said)).then_some(())
        })
        .await;
        assert!(
            gate.scrape()
                .await
                .sum("chillgate_config_last_reload_successful", &[])
                < 0.5
        );
        assert!(
            !has_tool(&host, "env").await,
            "a part of a bad file was taken"
        );
    }
    let before = gate.reloads("applied").await;
    std::fs::write(gate.config(), good.replace("a__env", "a__pid")).unwrap();
    gate.signal(Signal::HUP);
    applied(&gate, before).await;
    assert!(
        gate.scrape()
            .await
            .sum("chillgate_config_last_reload_successful", &[])
            > 0.5
    );
    assert!(has_tool(&host, "env").await);
}

#[tokio::test]
async fn a_configmap_swap_is_seen_and_no_call_is_lost_meanwhile() {
    // As the kubelet lays it out: file -> ..data/file, ..data -> ..2026_01, swapped by rename.
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    let (front, health) = (free_port(), free_port());
    let text = |deny: &str| {
        format!(
            "[[front]]\ntransport = \"streamable-http\"\nlisten = \"127.0.0.1:{front}\"\n[health]\nlisten = \"127.0.0.1:{health}\"\n{}{}",
            mock("a").table(""),
            DENY.replace("a__env", deny)
        )
    };
    let lay = |version: &str, deny: &str| {
        std::fs::create_dir(at(version)).unwrap();
        std::fs::write(at(version).join("chillgate.toml"), text(deny)).unwrap();
        symlink(version, at("..data_tmp")).unwrap();
        std::fs::rename(at("..data_tmp"), at("..data")).unwrap();
    };
    lay("..2026_01", "a__env");
    symlink("..data/chillgate.toml", at("chillgate.toml")).unwrap();
    let mut child = serve(&at("chillgate.toml"))
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let address = ([127, 0, 0, 1], front).into();
    until("the front", seconds(15), async || {
        tokio::net::TcpStream::connect(address).await.ok().map(drop)
    })
    .await;
    let host = Host::new(address).open().await;
    assert!(!has_tool(&host, "env").await);

    let swaps = if long() { 1_000 } else { 3 };
    for (n, (denied, allowed)) in [("pid", "env"), ("env", "pid")]
        .into_iter()
        .cycle()
        .take(swaps)
        .enumerate()
    {
        lay(&format!("..2026_1{n}"), &format!("a__{denied}"));
        until("the new file", seconds(2), async || {
            let reply = host.call("echo", json!({"message": "during"})).await;
            assert_eq!(reply.tool_text(), "during", "a call was lost in the swap");
            let names = host.tools().await;
            let whole = names.contains(&allowed.to_owned()) && !names.contains(&denied.to_owned());
            whole.then_some(())
        })
        .await;
    }
    chillgate_tests::process::signal(&child, Signal::TERM);
    within("the end", seconds(15), child.wait()).await.unwrap();
}

async fn output(toml: &str, verb: &str) -> Output {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("chillgate.toml");
    // A file without any server is a mistake of its own.
    std::fs::write(&file, format!("{toml}[server.z]\nbuiltin = \"chill\"\n")).unwrap();
    let mut command = bare();
    command
        .arg(verb)
        .arg("--config")
        .arg(&file)
        .stdin(Stdio::null());
    within("the refusal", seconds(10), command.output())
        .await
        .unwrap()
}

#[tokio::test]
async fn a_bad_file_at_start_is_refused_by_serve_and_check_with_file_line_and_help() {
    for (toml, line, words) in [
        (
            "[[policy]]\ntype = \"quota\"\nallow = \"60 per minute\"\n",
            3,
            "60/min",
        ),
        (
            "[[policy]]\ntype = \"quotta\"\nallow = \"1/s\"\n",
            2,
            "quota",
        ),
        ("[server.x]\ncomand = [\"a\"]\n", 2, "command"),
        (
            "[server.x]\ncommand = [\"a\"]\nurl = \"http://127.0.0.1:1/mcp\"\n",
            3,
            "keep one",
        ),
        (
            "[[front]]\ntransport = \"streamable-http\"\nlisten = \"nowhere\"\n",
            3,
            "127.0.0.1:8800",
        ),
        ("a = 1\na = 2\n", 2, ""),
        ("x = [1,\n", 1, ""),
    ] {
        for verb in ["serve", "check"] {
            let output = output(toml, verb).await;
            let said = String::from_utf8(output.stderr).unwrap()
                + &String::from_utf8(output.stdout).unwrap();
            let expected: &[i32] = if verb == "check" { &[1] } else { &[1, 2] };
            assert!(
                output
                    .status
                    .code()
                    .is_some_and(|code| expected.contains(&code)),
                "{verb}: {said}"
            );
            assert!(
                said.contains("error") && said.contains("chillgate.toml:"),
                "{verb}: {said}"
            );
            let place = said.split("chillgate.toml:").nth(1).unwrap_or_default();
            let found: usize = place
                .chars()
                .take_while(char::is_ascii_digit)
                .collect::<String>()
                .parse()
                .unwrap_or(0);
            assert!(
                found.abs_diff(line) <= 1,
                "{verb}: line {line} expected: {said}"
            );
            assert!(said.contains(words), "{verb}: `{words}` is not in: {said}");
        }
    }
}

#[tokio::test]
async fn a_file_at_the_place_of_a_socket_is_left_alone() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("precious.txt");
    std::fs::write(&file, "precious").unwrap();
    let toml = format!(
        "[[front]]\ntransport = \"streamable-http\"\nlisten = \"unix:{}\"\n[health]\nlisten = \"127.0.0.1:{}\"\n{}",
        file.display(),
        free_port(),
        mock("a").table("")
    );
    let refused = output(&toml, "serve").await;
    let said = String::from_utf8(refused.stderr).unwrap();
    assert_eq!(refused.status.code(), Some(2), "{said}");
    assert!(
        said.contains("no socket") && said.contains("precious.txt"),
        "{said}"
    );
    assert_eq!(std::fs::read_to_string(&file).unwrap(), "precious");
}

#[tokio::test]
async fn one_key_for_two_agents_is_a_mistake() {
    let hash = "sha256:".to_owned() + &"ab".repeat(32);
    let toml = format!(
        "[identity.api-keys]\nalice = \"{hash}\"\nbob = \"{hash}\"\n{}",
        mock("a").table("")
    );
    let found = output(&toml, "check").await;
    let said = String::from_utf8(found.stderr).unwrap();
    assert_eq!(found.status.code(), Some(1), "{said}");
    assert!(said.contains("the key of `alice` too"), "{said}");
}

#[tokio::test]
async fn an_audit_log_without_a_name_is_a_mistake() {
    let found = output(
        &("[audit]\nfile = \"\"\n".to_owned() + &mock("a").table("")),
        "check",
    )
    .await;
    let said = String::from_utf8(found.stderr).unwrap();
    assert_eq!(found.status.code(), Some(1), "{said}");
    assert!(
        said.contains("chillgate.toml:2") && said.contains("has no name"),
        "{said}"
    );
}

#[tokio::test]
async fn a_port_in_use_and_a_missing_file_are_said_within_a_second() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let toml = format!(
        "[[front]]\ntransport = \"streamable-http\"\nlisten = \"{address}\"\n[health]\nlisten = \"127.0.0.1:{}\"\n",
        free_port()
    );
    let refused = output(&toml, "serve").await;
    let said = String::from_utf8(refused.stderr).unwrap();
    assert_eq!(refused.status.code(), Some(2), "{said}");
    assert!(
        said.contains(&address) && said.contains("choose another with `listen` or `--listen`"),
        "{said}"
    );

    let mut command = bare();
    let missing = command
        .args(["serve", "--config", "/no/such/chillgate.toml"])
        .output()
        .await
        .unwrap();
    let said = String::from_utf8(missing.stderr).unwrap();
    assert_eq!(missing.status.code(), Some(2), "{said}");
    assert!(said.contains("/no/such/chillgate.toml"), "{said}");
}

#[tokio::test]
async fn the_environment_sets_keys_and_other_chillgate_variables_are_ignored() {
    let gate = Gate::with(&(mock("a").table("") + "[limits]\ndepth = 64\n"))
        .env("CHILLGATE__LIMITS__DEPTH", "10")
        .env("CHILLGATE_PORT", "tcp://10.0.0.1:8800")
        .env("CHILLGATE_SERVICE_HOST", "10.0.0.1")
        .start()
        .await;
    let host = gate.host().open().await;
    let deep = format!(
        r#"{{"jsonrpc":"2.0","id":9,"method":"tools/call","params":{{"name":"echo","arguments":{{"a":{}{}}}}}}}"#,
        "[".repeat(12),
        "]".repeat(12)
    );
    let reply = host.post_bytes(deep.into()).await;
    assert_eq!(reply.code(), Some(-32600), "{reply:?}");
}

#[tokio::test]
async fn a_front_for_everybody_does_not_start_without_identity() {
    let port = free_port();
    let front =
        format!("[[front]]\ntransport = \"streamable-http\"\nlisten = \"0.0.0.0:{port}\"\n");
    let refused = output(&front, "check").await;
    let said =
        String::from_utf8(refused.stderr).unwrap() + &String::from_utf8(refused.stdout).unwrap();
    assert_eq!(refused.status.code(), Some(1), "{said}");
    assert!(said.contains("allow-anonymous"), "{said}");
    let allowed = output(&format!("{front}allow-anonymous = true\n"), "check").await;
    assert_eq!(allowed.status.code(), Some(0), "{allowed:?}");
}

#[tokio::test]
async fn a_file_that_is_gone_is_told_once_and_what_it_said_goes_on() {
    let gate = Gate::with(&mock("a").table("")).start().await;
    let aside = gate.folder().join("aside");
    let told = || {
        let lines = gate.log().into_iter();
        lines
            .filter(|line| line.contains("is gone; what it said"))
            .count()
    };
    // Replaced, not gone.
    std::fs::rename(gate.config(), &aside).unwrap();
    std::fs::rename(&aside, gate.config()).unwrap();
    tokio::time::sleep(seconds(2)).await;
    assert_eq!(told(), 0, "{:#?}", gate.log());
    for times in 1..=2 {
        std::fs::rename(gate.config(), &aside).unwrap();
        until("the warning", seconds(10), async || {
            (told() == times).then_some(())
        })
        .await;
        // What else happens there is no news.
        std::fs::write(gate.config().with_file_name("..other"), "x").unwrap();
        tokio::time::sleep(seconds(2)).await;
        assert_eq!(told(), times);
        let host = gate.host().open().await;
        host.call("echo", serde_json::json!({"message": "on"}))
            .await
            .result();
        std::fs::rename(&aside, gate.config()).unwrap();
        tokio::time::sleep(seconds(1)).await;
    }
    let line = gate
        .log()
        .into_iter()
        .find(|line| line.contains("is gone; what it said"));
    let line = line.unwrap();
    assert!(
        line.contains("WARN") && line.contains("chillgate.toml"),
        "{line}"
    );
}

#[tokio::test]
async fn a_password_in_a_url_is_never_shown() {
    let url = "http://user:PwSecret99@127.0.0.1:1/mcp";
    for toml in [
        format!("[server.a]\nurl = \"{url}\"\n"),
        format!("[server.a]\ncommand = 7 # {url}\n"),
        format!("[server.a]\ncommand = [\"x\", \"{url}\", 7]\n"),
        format!("[[endpoint]]\nname = \"e\"\nurl = \"{url}\"\n"),
        format!("[server.a]\nurl = \"{url}\n"),
    ] {
        for verb in ["check", "doctor", "serve"] {
            let done = output(&toml, verb).await;
            let said =
                String::from_utf8(done.stderr).unwrap() + &String::from_utf8(done.stdout).unwrap();
            assert_ne!(done.status.code(), Some(0), "{said}");
            assert!(!said.contains("PwSecret99"), "{verb}: {said}");
            assert!(
                said.contains("user:••"),
                "the line is shown: {verb}: {said}"
            );
        }
    }
    let command = format!("[server.a]\ncommand = [\"false\", \"{url}\"]\n");
    let done = output(&command, "doctor").await;
    let said = String::from_utf8(done.stdout).unwrap();
    assert!(said.contains("start it by hand"), "{said}");
    assert!(
        !said.contains("PwSecret99") && said.contains("user:••"),
        "{said}"
    );
}
