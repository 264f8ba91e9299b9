//! Command runbooks, from outside: what runs, what does not, and what is left afterwards.
//!
//! It stands apart because the oracle is the machine: a file that a program makes, a mark on a
//! command line. A refused call must have left neither.

use std::time::Duration;

use serde_json::{Value, json};

use chillgate_tests::process::{mark, marked};
use chillgate_tests::wait::{all, seconds};
use chillgate_tests::{Gate, Host, until};

/// Which runbooks there are, besides the server.
fn with(runbooks: &str) -> String {
    format!("[server.ops]\nbuiltin = \"ops\"\n{runbooks}")
}

async fn gone(mark: &str) {
    until("the end of the whole tree", seconds(6), async || {
        marked(mark).is_empty().then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_runbook_runs_what_is_configured_and_says_how_it_ended() {
    let tables = with(
        r#"
[[runbook]]
name = "say"
description = "Say something"
command = ["sh", "-c", "printf '%s|' \"$@\"; echo oops >&2; exit 3", "sh", "fixed", "{what}", "<{where}>"]
arguments = { what = { pattern = ".*" }, where = { pattern = "[a-z ]*", default = "here" } }

[[runbook]]
name = "environment"
description = "Show the environment"
command = ["env"]
env = { OWN = "from ${PLANTED}" }
inherit = ["LET_THROUGH"]
cwd = "@DIR@"
read-only = true
"#,
    );
    let gate = Gate::with(&tables)
        .audited()
        .env("PLANTED", "secret")
        .env("LET_THROUGH", "yes")
        .start()
        .await;
    let host = gate.host().open().await;
    let nasty = r#"$(touch /tmp/x) `id` ; | & > < * ? ~ {a,b} "q" 'q' \ $HOME %s"#;
    let reply = host.call("say", json!({"what": nasty})).await;
    let said = &reply.result()["structuredContent"];
    // One word stays one word, to the letter.
    assert_eq!(said["stdout"], format!("fixed|{nasty}|<here>|"));
    assert_eq!(said["stderr"], "oops\n");
    assert_eq!(said["exit_code"], 3);
    assert_eq!(reply.result()["isError"], true);
    assert!(
        reply.tool_text().contains("exit code 3"),
        "{}",
        reply.tool_text()
    );

    let reply = host.call("environment", json!({})).await;
    let said = reply.result()["structuredContent"]["stdout"]
        .as_str()
        .unwrap();
    assert!(
        said.contains("OWN=from secret\n") && said.contains("LET_THROUGH=yes\n"),
        "{said}"
    );
    assert!(!said.contains("PLANTED"), "{said}");
    let folder = gate.folder().display().to_string();
    assert!(!said.contains("PWD=") || said.contains(&folder), "{said}");

    let listed = host.request("tools/list", json!({})).await;
    let tools = listed.result()["tools"].as_array().unwrap().clone();
    let of = |name: &str| {
        tools
            .iter()
            .find(|tool| tool["name"] == name)
            .unwrap()
            .clone()
    };
    assert_eq!(of("say")["annotations"]["destructiveHint"], true);
    assert_eq!(of("environment")["annotations"]["readOnlyHint"], true);
    assert_eq!(of("say")["inputSchema"]["required"], json!(["what"]));

    let records = gate.records(2).await;
    let text = format!("{records:?}");
    assert!(text.contains("say"), "{text}");
    let log = gate.log().join("\n");
    let line = log
        .lines()
        .find(|line| line.contains("A runbook was run.") && line.contains("say"));
    let line = line.unwrap_or_else(|| panic!("no line about the run: {log}"));
    assert!(line.contains("anonymous") && line.contains("exit code 3") && line.contains("what"));
    assert!(
        !log.contains("touch /tmp/x"),
        "an argument's value is in the log"
    );
}

#[tokio::test]
async fn what_does_not_fit_is_refused_and_nothing_runs() {
    let tables = with(
        r#"
[[runbook]]
name = "restart"
description = "Restart"
command = ["touch", "@DIR@/ran", "--", "{unit}"]
arguments = { unit = { pattern = "(nginx|redis)\\.service" } }

[[runbook]]
name = "free"
description = "Anything in letters and dashes"
command = ["touch", "@DIR@/ran", "{name}"]
arguments = { name = { pattern = "[^/]*" } }
"#,
    );
    let gate = Gate::with(&tables).start().await;
    let host = gate.host().open().await;
    let long = "nginx.service".repeat(200);
    let values = [
        "",
        " ",
        "nginx",
        "nginx.service ",
        " nginx.service",
        "nginx.service\n",
        "nginx.service\0",
        "nginx.service\r",
        "nginxxservice",
        "nginx.servicee",
        "NGINX.SERVICE",
        "nginx.service;id",
        "nginx.service && id",
        "nginx.service | id",
        "$(touch ran)",
        "`touch ran`",
        "${HOME}",
        "$HOME",
        "nginx.service > ran",
        "*",
        "?",
        "[a-z]*",
        "~",
        "../nginx.service",
        "/etc/passwd",
        "--help",
        "-h",
        "-",
        "--",
        "--unit=nginx.service",
        "nginx.service redis.service",
        "nginx.service\tredis.service",
        "nginx.service\nredis.service",
        "nginx。service",
        "ngіnx.service",
        "nginx\u{200b}.service",
        "\u{202e}nginx.service",
        "nginx.service\u{0}x",
        "%6eginx.service",
        "\\x6eginx.service",
        "nginx.service'",
        "\"nginx.service\"",
        "{unit}",
        "(nginx|redis)\\.service",
        "\u{1b}[31mnginx.service",
        &long,
    ];
    assert!(values.len() >= 40);
    let mut refused = 0;
    for value in values {
        refused += refuses(&gate, &host, "restart", json!({"unit": value})).await;
    }
    for arguments in [
        json!({}),
        json!({"unit": null}),
        json!({"unit": 1}),
        json!({"unit": true}),
        json!({"unit": ["nginx.service"]}),
        json!({"unit": {"$ne": ""}}),
        json!({"UNIT": "nginx.service"}),
        json!({"unit": "nginx.service", "command": ["id"]}),
        json!({"unit": "nginx.service", "env": {"LD_PRELOAD": "x"}}),
        json!({"unit": "nginx.service", "cwd": "/"}),
        json!({"unit": "nginx.service", "": "x"}),
    ] {
        refused += refuses(&gate, &host, "restart", arguments).await;
    }
    // A word of its own never becomes an option, nor holds a line break, whatever its pattern lets in.
    for name in ["-rf", "--help", "-", "a\nb", "a\0b", &"x".repeat(1025)] {
        refused += refuses(&gate, &host, "free", json!({"name": name})).await;
    }
    assert!(refused >= 60, "{refused}");
    for name in [
        "restart.sh",
        "sh",
        "restart ",
        "Restart",
        "../restart",
        "touch",
    ] {
        let reply = host.call(name, json!({})).await;
        assert_eq!(reply.code(), Some(-32602), "{name}: {}", reply.answer());
    }
    let fine = host.call("restart", json!({"unit": "nginx.service"})).await;
    let exit = &fine.result()["structuredContent"]["exit_code"];
    assert_eq!(*exit, 0, "{}", fine.answer());
    assert!(
        gate.folder().join("ran").exists(),
        "the canary does not sing"
    );
}

async fn refuses(gate: &Gate, host: &Host, tool: &str, arguments: Value) -> usize {
    let reply = host.call(tool, arguments.clone()).await;
    let is_error = reply.code().is_some() || reply.result()["isError"] == true;
    assert!(is_error, "{arguments} was let through: {}", reply.answer());
    assert!(
        !gate.folder().join("ran").exists(),
        "{arguments} ran something"
    );
    1
}

/// A tree that is deaf to SIGTERM, of which one half has left the session of the other.
fn forest(mark: &str, timeout: &str) -> String {
    let line = format!("trap '' TERM; setsid sh -c 'sleep 300; : {mark}' & sleep 300; : {mark}");
    let line = Value::from(line);
    with(&format!(
        "[[runbook]]\nname = \"nap\"\ndescription = \"Nap\"\ncommand = [\"sh\", \"-c\", {line}]\n\
         timeout = \"{timeout}\"\n"
    ))
}

#[tokio::test]
async fn a_run_that_takes_too_long_is_ended_with_its_whole_tree() {
    let mark = mark();
    let gate = Gate::with(&forest(&mark, "700ms")).start().await;
    let host = gate.host().open().await;
    let reply = host.call("nap", json!({})).await;
    let said = &reply.result()["structuredContent"];
    assert_eq!(said["timed_out"], true, "{}", reply.answer());
    assert_eq!(said["exit_code"], Value::Null);
    assert_eq!(reply.result()["isError"], true);
    assert!(marked(&mark).is_empty(), "{:?}", marked(&mark));
}

#[tokio::test]
async fn a_run_may_be_silent_for_as_long_as_its_own_timeout_says() {
    let tables = with(
        "[[runbook]]\nname = \"think\"\ndescription = \"Think\"\ncommand = [\"sleep\", \"2\"]\n[limits]\ncall-idle = \"1s\"\n",
    );
    let gate = Gate::with(&tables).start().await;
    let reply = gate.host().open().await.call("think", json!({})).await;
    let said = &reply.result()["structuredContent"];
    assert_eq!(said["exit_code"], 0, "{}", reply.answer());
}

#[tokio::test]
async fn a_cancelled_run_is_ended_with_its_whole_tree() {
    let mark = mark();
    let gate = Gate::with(&forest(&mark, "5m")).start().await;
    let host = gate.host().open().await;
    let call = host.message("tools/call", Some(json!({"name": "nap", "arguments": {}})));
    let running = async {
        until("the whole tree", seconds(10), async || {
            (marked(&mark).len() >= 2).then_some(())
        })
        .await;
        let note = json!({"requestId": call["id"], "reason": "changed my mind"});
        host.notify("notifications/cancelled", Some(note)).await
    };
    let (_, status) = tokio::join!(host.post(&call), running);
    assert_eq!(status, 202);
    gone(&mark).await;
    until("the line in the log", seconds(6), async || {
        let log = gate.log().join("\n");
        log.contains("nobody waits for any more").then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_run_ends_with_chillgate() {
    let mark = mark();
    let gate = Gate::with(&forest(&mark, "5m")).start().await;
    let host = gate.host().open().await;
    let call = host.message("tools/call", Some(json!({"name": "nap", "arguments": {}})));
    host.abandon(&call, Duration::from_millis(500)).await;
    until("the run", seconds(10), async || {
        (!marked(&mark).is_empty()).then_some(())
    })
    .await;
    drop(gate.kill().await);
    gone(&mark).await;
}

#[tokio::test]
async fn of_a_long_output_the_beginning_and_the_end_are_told() {
    let tables = with(
        "[[runbook]]\nname = \"count\"\ndescription = \"Count\"\ncommand = [\"seq\", \"1\", \"100000\"]\noutput = \"1KiB\"\n",
    );
    let gate = Gate::with(&tables).start().await;
    let reply = gate.host().open().await.call("count", json!({})).await;
    let said = &reply.result()["structuredContent"];
    let text = said["stdout"].as_str().unwrap();
    assert!(
        text.starts_with("1\n2\n3\n") && text.ends_with("\n99999\n100000\n"),
        "{text}"
    );
    assert!(text.len() < 1200, "{}", text.len());
    // seq writes 588,895 bytes.
    assert_eq!(said["left_out_bytes"], 588_895 - 1024);
    assert_eq!(said["exit_code"], 0);
}

#[tokio::test]
async fn four_run_at_a_time_and_the_fifth_is_told() {
    let tables = with(
        "[[runbook]]\nname = \"wait\"\ndescription = \"Wait\"\ncommand = [\"sh\", \"-c\", \"echo $$ >> @DIR@/running; until test -e @DIR@/go; do sleep 0.05; done\"]\n",
    );
    let gate = Gate::with(&tables).start().await;
    let host = gate.host().open().await;
    let begun = async || {
        let text = std::fs::read_to_string(gate.folder().join("running")).unwrap_or_default();
        (text.lines().count() >= 4).then_some(())
    };
    let four = all((0..4).map(|_| host.call("wait", json!({}))));
    let fifth = async {
        until("four runs", seconds(10), begun).await;
        let reply = host.call("wait", json!({})).await;
        std::fs::write(gate.folder().join("go"), "").unwrap();
        reply
    };
    let (four, fifth) = tokio::join!(four, fifth);
    assert!(
        fifth.tool_text().contains("at work already"),
        "{}",
        fifth.tool_text()
    );
    for reply in four {
        assert_eq!(
            reply.result()["structuredContent"]["exit_code"],
            0,
            "{}",
            reply.answer()
        );
    }
    let again = host.call("wait", json!({})).await;
    assert_eq!(again.result()["structuredContent"]["exit_code"], 0);
}

#[tokio::test]
async fn a_program_that_is_not_there_is_a_sentence() {
    let tables = with(
        "[[runbook]]\nname = \"lost\"\ndescription = \"Lost\"\ncommand = [\"no-such-program-anywhere\"]\n",
    );
    let gate = Gate::with(&tables).start().await;
    let reply = gate.host().open().await.call("lost", json!({})).await;
    assert_eq!(reply.result()["isError"], true);
    assert!(
        reply.tool_text().contains("was not found in PATH"),
        "{}",
        reply.tool_text()
    );
}
