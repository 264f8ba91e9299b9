//! What goes through the gate arrives as it was sent, at the right server, and back.
//!
//! It stands apart from the policies: nothing is refused here. The mock server's `raw` tool and its
//! ledger show the very bytes that reached it.

use serde_json::{Value, json};

use chillgate_tests::gate::bare;
use chillgate_tests::process::marked;
use chillgate_tests::wait::{all, seconds, within};
use chillgate_tests::{Gate, PipeHost, until};

use crate::mock;

#[tokio::test]
async fn every_byte_of_a_call_reaches_the_server() {
    let gate = Gate::with(&mock("a").table("")).start().await;
    let host = gate.host().open().await;
    let arguments =
        r#"{"n":12345678901234567890123, "f":-0.0,"e":1.0E+2 ,"u":"\u00e9é\/","list" : [ 1 ,{}]}"#;
    let body = format!(
        r#"{{"x-envelope":[1.50e2],"jsonrpc":"2.0" ,"id":7,"method":"tools/call","params":{{"name":"raw", "arguments":{arguments},"x":null}}}}"#
    );
    let reply = host.post_bytes(body.into()).await;
    let heard = reply.tool_text();
    assert!(
        heard.contains(arguments),
        "the arguments changed on the way: {heard}"
    );
    assert!(
        heard.contains(r#""x-envelope":[1.50e2]"#),
        "an unknown member was lost: {heard}"
    );
    assert_eq!(reply.answer()["id"], 7);
}

#[tokio::test]
async fn meta_keys_of_chillgates_own_come_from_no_host() {
    let tables = mock("a").ledger().table("") + "[server.chill]\nbuiltin = \"chill\"\n";
    let gate = Gate::with(&tables).start().await;
    let host = gate.host().open().await;
    let meta = json!({"dev.chillgate/agent": "somebody-else", "dev.chillgate/held": true,
                      "dev.chillgate/x": 1, "com.example/kept": 2});
    let call = json!({"name": "a__echo", "arguments": {"message": "m"}, "_meta": meta});
    assert_eq!(host.request("tools/call", call).await.tool_text(), "m");
    let heard = gate.heard("a").of("tools/call");
    assert_eq!(heard[0]["params"]["_meta"], json!({"com.example/kept": 2}));

    // ChillMCP believes the agent's name that chillgate gives it: nobody has a break on another's.
    let call = json!({"name": "chill__take_a_break", "arguments": {}, "_meta": meta});
    host.request("tools/call", call).await;
    let levels = gate.scrape().await;
    let of = |agent| {
        levels.iter().any(|sample| {
            sample.name == "chillgate_chill_stress_level"
                && sample
                    .labels
                    .iter()
                    .any(|(key, value)| key == "agent" && value == agent)
        })
    };
    assert!(of("anonymous") && !of("somebody-else"));
}

/// R-010.
#[tokio::test]
async fn an_answer_keeps_members_that_no_sdk_knows() {
    let gate = Gate::with(&mock("a").table("")).start().await;
    let host = gate.host().path("/server/a/mcp").open().await;
    let listed = host.request("tools/list", json!({})).await;
    assert_eq!(listed.result()["tools"][0]["x-mock"], "echo");
    let error = host.call("rpc-error", json!({"code": -31999})).await;
    assert_eq!(error.code(), Some(-31999));
    assert_eq!(error.answer()["error"]["data"]["kept"], true);
}

/// R-001.
#[tokio::test]
async fn an_id_comes_back_with_its_own_spelling() {
    let gate = Gate::with(&mock("a").table("")).start().await;
    let host = gate.host().open().await;
    let big = "9007199254740993";
    for id in ["1", "1.0", "\"1\"", "0", "-7", "\"\"", "\"a\\u0000b\"", big] {
        let body = format!(
            r#"{{"jsonrpc":"2.0","id":{id},"method":"tools/call","params":{{"name":"pid"}}}}"#
        );
        let reply = host.post_bytes(body.into()).await;
        let sent: Value = serde_json::from_str(id).unwrap();
        assert_eq!(reply.answer()["id"], sent, "{id}");
    }
}

#[tokio::test]
async fn three_ids_that_look_alike_are_three_calls() {
    let gate = Gate::with(&mock("a").table("")).start().await;
    let host = gate.host().open().await;
    let call = |id: Value| {
        json!({"jsonrpc": "2.0", "id": id, "method": "tools/call",
               "params": {"name": "wait", "arguments": {"ms": 200, "nonce": format!("{id}")}}})
    };
    let (one, float, text) = (call(json!(1)), call(json!(1.0)), call(json!("1")));
    let replies = tokio::join!(host.post(&one), host.post(&float), host.post(&text));
    assert_eq!(replies.0.tool_text(), "1");
    assert_eq!(replies.1.tool_text(), "1.0");
    assert_eq!(replies.2.tool_text(), "\"1\"");
}

#[tokio::test]
async fn two_servers_stand_behind_one_endpoint_and_each_behind_its_own() {
    let tables =
        mock("a").table("") + &mock("b").flags(&["--tools", "30", "--page", "7"]).table("");
    let gate = Gate::with(&tables).start().await;
    let host = gate.host().open().await;
    let names = host.tools().await;
    assert!(
        names.contains(&"a__echo".to_owned()) && names.contains(&"b__echo".to_owned()),
        "{names:?}"
    );
    assert!(
        names.contains(&"b__tool-0029".to_owned()),
        "the last page is missing: {names:?}"
    );
    assert!(
        names
            .iter()
            .all(|name| name.starts_with("a__") || name.starts_with("b__")),
        "{names:?}"
    );
    assert_eq!(host.call("a__name", json!({})).await.tool_text(), "a");
    assert_eq!(host.call("b__name", json!({})).await.tool_text(), "b");
    // The first separator splits, so a tool's own name may hold it.
    assert_eq!(host.call("b__two__words", json!({})).await.tool_text(), "b");

    let only_b = gate.host().path("/server/b/mcp").open().await;
    assert!(only_b.tools().await.contains(&"echo".to_owned()));
    assert_eq!(only_b.call("name", json!({})).await.tool_text(), "b");

    let unknown = host.call("c__name", json!({})).await;
    assert_eq!(unknown.code(), Some(-32602), "{unknown:?}");
    let no_server = gate.host().path("/server/c/mcp");
    let hello = no_server.hello(&json!({}));
    assert_eq!(no_server.post(&hello).await.status, 404);
}

#[tokio::test]
async fn resources_prompts_and_completions_find_their_server() {
    let tables = mock("a").table("") + &mock("b").table("");
    let gate = Gate::with(&tables).start().await;
    let host = gate.host().open().await;
    let uris = host.names("resources/list", "resources", "uri").await;
    assert_eq!(uris, ["mock://a/doc", "mock://b/doc"]);
    let read = host
        .request("resources/read", json!({"uri": "mock://b/doc"}))
        .await;
    assert_eq!(read.result()["contents"][0]["text"], "b has mock://b/doc");
    let read = host
        .request("resources/read", json!({"uri": "mock://a/item/9"}))
        .await;
    assert_eq!(
        read.result()["contents"][0]["text"],
        "a has mock://a/item/9",
        "by its template"
    );

    let prompts = host.names("prompts/list", "prompts", "name").await;
    assert_eq!(prompts, ["a__greet", "b__greet"]);
    let prompt = json!({"name": "b__greet", "arguments": {"who": "Mina"}});
    let got = host.request("prompts/get", prompt).await;
    assert_eq!(
        got.result()["messages"][0]["content"]["text"],
        "b greets \"Mina\""
    );

    let reference = json!({"type": "ref/prompt", "name": "b__greet"});
    let argument = json!({"name": "who", "value": "M"});
    let completed = host
        .request(
            "completion/complete",
            json!({"ref": reference, "argument": argument}),
        )
        .await;
    assert_eq!(completed.result()["completion"]["values"], json!(["b-M"]));
}

#[tokio::test]
async fn a_broken_server_leaves_the_others_working_and_is_named() {
    let tables = mock("a").table("") + "[server.broken]\ncommand = [\"no-such-program-here\"]\n";
    let gate = Gate::with(&tables).start().await;
    let host = gate.host().open().await;
    assert_eq!(host.call("a__name", json!({})).await.tool_text(), "a");
    let names = within("the list", seconds(10), host.tools()).await;
    assert!(names.contains(&"a__echo".to_owned()), "{names:?}");

    let refused = gate.host().path("/server/broken/mcp");
    let hello = refused.hello(&json!({}));
    let reply = refused.post(&hello).await;
    let shown = format!("{reply:?}");
    let said = reply.answer()["error"]["message"]
        .as_str()
        .unwrap_or_default();
    assert!(
        said.contains("`broken`") && said.contains("no-such-program-here"),
        "{shown}"
    );

    until("the broken server in /readyz", seconds(10), async || {
        let ready = chillgate_tests::http::get(gate.health(), "/readyz").await;
        assert_eq!(
            ready.status, 200,
            "one broken server does not make the gate unready"
        );
        let state: Value = serde_json::from_slice(&ready.body).unwrap();
        let servers = state["servers"].as_array().unwrap().iter();
        let down = servers.filter(|server| server["state"] == "held-back");
        let down: Vec<_> = down.map(|server| server["name"].clone()).collect();
        (down == [json!("broken")]).then_some(())
    })
    .await;
    until("its error in the log", seconds(5), async || {
        gate.log()
            .iter()
            .any(|line| line.contains("no-such-program-here"))
            .then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_crashed_server_answers_all_that_waited_and_comes_back() {
    let gate = Gate::with(&mock("a").ledger().table("")).start().await;
    let host = gate.host().open().await;
    let slow = (0..16).map(|_| host.call("wait", json!({"ms": 30_000, "nonce": "x"})));
    let slow = all(slow);
    let crash = async {
        until("16 calls at the server", seconds(10), async || {
            (gate.heard("a").calls() == 16).then_some(())
        })
        .await;
        host.call("crash", json!({})).await
    };
    let (replies, crashed) = within("the errors", seconds(15), async {
        tokio::join!(slow, crash)
    })
    .await;
    for reply in replies.iter().chain([&crashed]) {
        assert!(reply.code().is_some(), "no error: {reply:?}");
    }
    let again = until("the server's return", seconds(20), async || {
        let reply = host.call("name", json!({})).await;
        reply.code().is_none().then(|| reply.tool_text().to_owned())
    })
    .await;
    assert_eq!(again, "a");
    let heard = gate.heard("a").of("tools/call");
    let waits = heard
        .iter()
        .filter(|call| call["params"]["name"] == "wait")
        .count();
    assert_eq!(waits, 16, "a call was sent twice");
}

#[tokio::test]
async fn a_host_that_does_not_read_stalls_nobody_else() {
    let gate = Gate::with(&mock("a").table("")).start().await;
    let lazy = gate.host().open().await;
    let message = lazy.message(
        "tools/call",
        Some(json!({"name": "blob", "arguments": {"bytes": 12_000_000}})),
    );
    let unread = chillgate_tests::http::Connection::open(gate.front());
    let mut unread = unread.await;
    let session = lazy.session().unwrap().to_owned();
    let headers = [
        ("content-type", "application/json"),
        ("accept", "application/json, text/event-stream"),
        ("mcp-session-id", &*session),
    ];
    let _held = unread
        .send("POST", "/mcp", &headers, message.to_string().into())
        .await;

    let busy = gate.host().open().await;
    for n in 0..50 {
        let reply = within(
            "a call beside a slow host",
            seconds(2),
            busy.call("echo", json!({"message": "x"})),
        )
        .await;
        assert_eq!(reply.tool_text(), "x", "call {n}");
    }
}

/// R-020, R-021.
#[tokio::test]
async fn wrap_puts_the_gate_between_two_pipes_and_leaves_nothing_behind() {
    let mark = chillgate_tests::process::mark();
    let mut command = bare();
    command
        .args(["wrap", "--"])
        .args(mock("a").flags(&["--mark", &mark]).command());
    let mut host = PipeHost::start(command);
    let hello = host.open(json!({})).await;
    assert!(hello["capabilities"]["tools"].is_object(), "{hello}");
    let answer = host.call("name", json!({})).await;
    assert_eq!(answer["result"]["content"][0]["text"], "a");
    assert!(!marked(&mark).is_empty());
    let (status, stderr) = host.finish(seconds(10)).await;
    assert!(status.success(), "{status}: {stderr}");
    until("the server's end", seconds(3), async || {
        marked(&mark).is_empty().then_some(())
    })
    .await;
}

#[tokio::test]
async fn connect_gives_a_stdio_host_a_remote_server_and_a_unix_socket() {
    let tables = mock("a").table("")
        + "[[front]]\ntransport = \"streamable-http\"\nlisten = \"unix:@DIR@/mcp.sock\"\n";
    let gate = Gate::with(&tables).start().await;
    for target in [
        gate.url("/mcp"),
        format!("unix:{}", gate.folder().join("mcp.sock").display()),
    ] {
        let mut command = bare();
        command.args(["connect", &target]);
        let mut host = PipeHost::start(command);
        host.open(json!({})).await;
        let answer = host.call("name", json!({})).await;
        assert_eq!(answer["result"]["content"][0]["text"], "a", "{target}");
        let (status, stderr) = host.finish(seconds(10)).await;
        assert!(status.success(), "{target}: {status}: {stderr}");
    }
    // Whoever comes next finds the place free.
    let (status, folder) = gate.stop().await;
    assert!(status.success() && !folder.path().join("mcp.sock").exists());
}

#[tokio::test]
async fn a_child_sees_a_small_environment_and_three_descriptors() {
    let table = mock("a").table(
        "env = { TOKEN = \"file:@DIR@/token\", PLAIN = \"x-${FROM_GATE}\" }\ninherit = [\"NAMED\"]",
    );
    let gate = Gate::with(&table)
        .file("token", "s3cret\n")
        .env("FROM_GATE", "y")
        .env("NAMED", "handed on")
        .env("AWS_SECRET_ACCESS_KEY", "planted-1")
        .env("CHILLGATE_TOKEN", "planted-2")
        .env("LD_PRELOAD_NOT", "planted-3")
        .start()
        .await;
    let host = gate.host().open().await;
    let text = host.call("env", json!({})).await.tool_text().to_owned();
    assert!(!text.contains("planted"), "{text}");
    let seen: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(seen["TOKEN"], "s3cret");
    assert_eq!(seen["PLAIN"], "x-y");
    assert_eq!(seen["NAMED"], "handed on");
    assert!(seen["PATH"].is_string());
    let open = host.call("fds", json!({})).await.tool_text().to_owned();
    let inherited: Vec<&str> = open
        .lines()
        .filter(|line| line.contains("pipe:") || line.contains("socket:") || line.contains("/tmp/"))
        .filter(|line| !["0 ", "1 ", "2 "].iter().any(|own| line.starts_with(own)))
        // What the mock server's own runtime opened.
        .filter(|line| !line.contains("socket:"))
        .collect();
    assert!(
        inherited.is_empty(),
        "more than 0, 1 and 2 reached the child: {open}"
    );
}

/// R-008.
#[tokio::test]
async fn what_a_slow_server_says_late_finds_nobody() {
    let policy = "[[policy]]\ntype = \"timeout\"\nmatch = { method = \"tools/call\" }\nafter = \"300ms\"\nmax = \"5s\"\n";
    let gate = Gate::with(&(mock("a").table("") + policy)).start().await;
    let host = gate.host().open().await;
    let late = within(
        "the timeout",
        seconds(5),
        host.call("wait", json!({"ms": 1500, "nonce": "late"})),
    )
    .await;
    assert!(late.code().is_some(), "{late:?}");
    for n in 0..40 {
        let nonce = format!("n{n}");
        let reply = host.call("wait", json!({"ms": 50, "nonce": nonce})).await;
        assert_eq!(reply.tool_text(), nonce);
    }
    let cancelled = host
        .call("cancelled", json!({}))
        .await
        .tool_text()
        .to_owned();
    assert_ne!(
        cancelled, "[]",
        "the server was not told that nobody waits any more"
    );
}

#[tokio::test]
async fn progress_renews_a_timeout() {
    let policy = "[[policy]]\ntype = \"timeout\"\nmatch = { method = \"tools/call\" }\nafter = \"600ms\"\nmax = \"20s\"\n";
    let gate = Gate::with(&(mock("a").table("") + policy)).start().await;
    let host = gate.host().open().await;
    let params = json!({"name": "progress", "arguments": {"steps": 8, "ms": 200}, "_meta": {"progressToken": 1}});
    let reply = host.request("tools/call", params).await;
    assert_eq!(reply.tool_text(), "done");
    assert_eq!(reply.before().len(), 8);
}

/// R-009.
#[tokio::test]
async fn progress_does_not_outlast_the_longest_time_allowed() {
    let policy = "[[policy]]\ntype = \"timeout\"\nmatch = { method = \"tools/call\" }\nafter = \"600ms\"\nmax = \"1s\"\n";
    let gate = Gate::with(&(mock("a").table("") + policy)).start().await;
    let host = gate.host().open().await;
    let params = json!({"name": "progress", "arguments": {"steps": 20, "ms": 100}, "_meta": {"progressToken": 1}});
    let reply = host.request("tools/call", params).await;
    assert_eq!(reply.answer()["error"]["data"]["type"], "chillgate/timeout");
    assert!((5..=11).contains(&reply.before().len()), "{reply:?}");
}
