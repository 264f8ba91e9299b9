//! The server for operators: its situation, its lists, whom it asks and who may have what.
//!
//! It stands apart from what runbooks run and touch, which is looked at from outside in
//! `ops_commands.rs` and `ops_files.rs`. Here the host's side counts, in both eras.

use serde_json::{Value, json};

use chillgate_tests::modern;
use chillgate_tests::script::{Endpoint, Script, Sdk};
use chillgate_tests::wait::{seconds, within};
use chillgate_tests::{Gate, Host, until};

use crate::mock;

/// The server, and a runbook that makes a file.
const OPS: &str = r#"
[server.ops]
builtin = "ops"

[[runbook]]
name = "leave-mark"
description = "Leave a mark"
command = ["touch", "@DIR@/{name}"]
arguments = { name = { pattern = "[a-z]{1,8}", description = "What to call it" } }
confirm = true
"#;

async fn at_ops(gate: &Gate) -> Host {
    gate.host().path("/server/ops/mcp").open().await
}

/// What a tool says must be the same as text, and fit the schema it was listed with.
async fn checked(host: &Host, tool: &str, arguments: Value) -> Value {
    let reply = host.call(tool, arguments).await;
    let result = reply.result();
    let said = result["structuredContent"].clone();
    let text: Value = serde_json::from_str(reply.tool_text()).unwrap();
    assert_eq!(text, said, "{tool}");
    let listed = host.request("tools/list", json!({})).await;
    let tools = listed.result()["tools"].as_array().unwrap().clone();
    let listed = tools.iter().find(|listed| listed["name"] == tool).unwrap();
    let schema = jsonschema::validator_for(&listed["outputSchema"]).unwrap();
    let wrong: Vec<String> = schema.iter_errors(&said).map(|e| e.to_string()).collect();
    assert!(wrong.is_empty(), "{tool}: {wrong:?} {said}");
    assert_eq!(listed["annotations"]["readOnlyHint"], true, "{tool}");
    assert_eq!(listed["annotations"]["destructiveHint"], false, "{tool}");
    assert_eq!(listed["annotations"]["idempotentHint"], true, "{tool}");
    assert_eq!(listed["annotations"]["openWorldHint"], false, "{tool}");
    said
}

#[tokio::test]
async fn the_situation_is_told_by_tool_and_resource_in_both_eras() {
    let tables = format!(
        "{OPS}\n[server.gone]\ncommand = [\"@DIR@/no-such-program\"]\n{}",
        mock("fine").table("")
    );
    let gate = Gate::with(&tables).start().await;
    let host = at_ops(&gate).await;
    let fits = |said: &Value| {
        let of = |name: &str| {
            let servers = said["servers"].as_array().unwrap();
            let found = servers.iter().find(|server| server["name"] == name);
            found.cloned().unwrap_or_default()
        };
        assert_eq!(said["generation"], 1, "{said}");
        assert_eq!(said["draining"], false);
        assert!(said["machine"]["memory_available_bytes"].as_u64() > Some(1 << 20));
        assert_eq!(of("ops")["state"], "up", "{said}");
        assert_eq!(of("ops")["kind"], "builtin");
        // Once it has failed, what it failed by is looked at instead.
        let is_down = of("gone")["state"] == "held-back";
        (is_down && of("fine")["state"] == "up").then(|| {
            let gone = of("gone");
            let error = gone["error"].as_str().unwrap().to_owned();
            assert!(error.contains("no-such-program"), "{gone}");
            assert!(gone["remedy"].is_string(), "{gone}");
            let summary = said["summary"].as_str().unwrap().to_owned();
            assert!(summary.contains("1 of 3 servers down (gone)"), "{summary}");
        })
    };
    // The servers are started with chillgate; one of them fails at once, the other takes a moment.
    until("both servers' states", seconds(20), async || {
        fits(&checked(&host, "situation", json!({})).await)
    })
    .await;
    let read = host
        .request("resources/read", json!({"uri": "chillgate://situation"}))
        .await;
    let text = read.result()["contents"][0]["text"].as_str().unwrap();
    assert!(fits(&serde_json::from_str(text).unwrap()).is_some());

    let params = json!({"name": "ops__situation", "arguments": {}});
    let sent = modern::message(&json!(1), "tools/call", params);
    let answer = modern::body(&modern::send(gate.front(), &sent).await);
    assert!(fits(&answer["result"]["structuredContent"]).is_some());
    let params = json!({"uri": "chillgate://situation"});
    let sent = modern::message(&json!(2), "resources/read", params);
    let answer = modern::body(&modern::send(gate.front(), &sent).await);
    let text = answer["result"]["contents"][0]["text"].as_str();
    assert!(fits(&serde_json::from_str(text.unwrap()).unwrap()).is_some());

    let one = checked(&host, "servers", json!({"name": "gone"})).await;
    assert_eq!(one["servers"].as_array().unwrap().len(), 1);
    assert_eq!(one["servers"][0]["name"], "gone");
    let none = host.call("servers", json!({"name": "nobody"})).await;
    assert_eq!(none.result()["isError"], true);
    assert!(none.tool_text().contains("nobody"));
    let incidents = checked(&host, "incidents", json!({})).await;
    let incidents = incidents["incidents"].as_array().unwrap();
    assert_eq!(incidents.len(), 1, "{incidents:?}");
    assert_eq!(incidents[0]["server"], "gone");
    assert_eq!(incidents[0]["remedy"]["id"], "missing-file");
    assert_eq!(incidents[0]["resolved"], false);
    let of_fine = checked(&host, "incidents", json!({"server": "fine"})).await;
    assert_eq!(of_fine, json!({"incidents": []}));
    assert_eq!(
        checked(&host, "endpoints", json!({})).await,
        json!({"endpoints": []})
    );
}

#[tokio::test]
async fn the_situation_says_what_runs_and_what_it_was_given() {
    let bounded = mock("bounded").table("limits = { open-files = 64, processes = 40, nice = 5 }");
    let tables = format!("{OPS}\n{bounded}{}", mock("free").table(""));
    let gate = Gate::with(&tables).start().await;
    let host = at_ops(&gate).await;
    let both = until("both servers", seconds(20), async || {
        let said = checked(&host, "situation", json!({})).await;
        let servers = said["servers"].as_array().unwrap().clone();
        let of = |name: &str| {
            servers
                .iter()
                .find(|it| it["name"] == name)
                .unwrap()
                .clone()
        };
        let both = [of("bounded"), of("free"), of("ops")];
        let is_up = |it: &Value| it["state"] == "up";
        both.iter().all(is_up).then_some(both)
    })
    .await;
    let [bounded, free, ops] = both;
    let running = chillgate_tests::process::descendants(gate.pid());
    for server in [&bounded, &free] {
        let trees = server["processes"].as_array().unwrap();
        assert_eq!(trees.len(), 1, "{server}");
        let tree = &trees[0];
        let pid = u32::try_from(tree["pid"].as_u64().unwrap()).unwrap();
        let keeper = u32::try_from(tree["keeper"].as_u64().unwrap()).unwrap();
        assert!(running.contains(&pid), "{tree}: {running:?}");
        let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap();
        let program = line.split(|byte| *byte == 0).next().unwrap();
        assert_eq!(program, crate::MOCK.as_bytes(), "the server itself: {tree}");
        let below = chillgate_tests::process::descendants(keeper).len();
        assert_eq!(tree["processes"], below, "{tree}");
        let resident = tree["resident_bytes"].as_u64().unwrap();
        assert!((100_000..1 << 30).contains(&resident), "{tree}");
        assert!(tree["cpu_seconds"].as_f64().unwrap() < 60.0, "{tree}");
        let none = (&tree["running"], &tree["waiting"], &tree["agent"]);
        assert_eq!(none, (&json!(0), &json!(0), &Value::Null), "{tree}");
    }
    let given = bounded["bounds"].as_str().unwrap();
    assert!(given.contains("processes"), "{given}");
    assert_eq!(free["bounds"], Value::Null);
    assert_eq!(ops["processes"], json!([]));
}

#[tokio::test]
async fn every_resource_and_the_template_can_be_read_and_others_cannot() {
    let gate = Gate::with(OPS).start().await;
    // A session for all servers shows what those say that have started by then.
    let host = until("instructions", seconds(10), async || {
        let (host, hello) = gate.host().open_with(json!({})).await;
        let told = hello["instructions"].as_str().unwrap_or_default();
        told.contains("Call `situation` first").then_some(host)
    })
    .await;
    let uris = host.names("resources/list", "resources", "uri").await;
    assert_eq!(uris.len(), 4, "{uris:?}");
    let templates = host
        .names(
            "resources/templates/list",
            "resourceTemplates",
            "uriTemplate",
        )
        .await;
    assert_eq!(templates, ["chillgate://servers/{name}"]);
    for uri in uris
        .iter()
        .map(String::as_str)
        .chain(["chillgate://servers/ops"])
    {
        let read = host.request("resources/read", json!({"uri": uri})).await;
        let contents = &read.result()["contents"][0];
        assert_eq!(contents["uri"], uri);
        assert_eq!(contents["mimeType"], "application/json");
        let text = contents["text"].as_str().unwrap();
        let value: Value = serde_json::from_str(text).unwrap();
        assert!(value.is_object(), "{uri}: {text}");
    }
    for uri in [
        "chillgate://servers/nobody",
        "chillgate://servers/",
        "chillgate://secrets",
    ] {
        let read = host.request("resources/read", json!({"uri": uri})).await;
        assert!(read.code().is_some(), "{uri}: {}", read.answer());
    }
}

#[tokio::test]
async fn a_person_says_yes_or_no_and_a_host_that_cannot_ask_is_told_why() {
    let gate = Gate::with(OPS).start().await;
    let made = |name: &str| gate.folder().join(name).exists();

    let mute = gate.host().open().await;
    let refused = mute.call("leave-mark", json!({"name": "mute"})).await;
    assert_eq!(refused.result()["isError"], true, "{}", refused.answer());
    assert!(
        refused.tool_text().contains("elicitation"),
        "{}",
        refused.tool_text()
    );
    assert!(!made("mute"));

    let (able, _) = gate.host().open_with(json!({"elicitation": {}})).await;
    for (name, action, is_made) in [
        ("yes", "accept", true),
        ("no", "decline", false),
        ("cancel", "cancel", false),
    ] {
        let params = json!({"name": "leave-mark", "arguments": {"name": name}});
        let mut events = able.stream(&able.message("tools/call", Some(params))).await;
        let asked = within("the question", seconds(10), events.message())
            .await
            .unwrap();
        assert_eq!(asked["method"], "elicitation/create");
        let question = asked["params"]["message"].as_str().unwrap();
        assert!(
            question.contains("touch") && question.contains(name),
            "{question}"
        );
        assert!(!made(name), "it ran before it was allowed");
        let said = match action {
            "accept" => json!({"action": action, "content": {}}),
            _ => json!({"action": action}),
        };
        assert_eq!(able.respond(&asked["id"], said).await, 202);
        let answer = within("the answer", seconds(10), events.message())
            .await
            .unwrap();
        assert_eq!(answer["result"]["isError"], !is_made, "{answer}");
        assert_eq!(made(name), is_made, "{action}");
    }

    // A modern host hears the question as the outcome of its call, and brings the answer back.
    let capabilities = json!({modern::CAPABILITIES: {"elicitation": {}}});
    let params = json!({
        "name": "leave-mark", "arguments": {"name": "modern"}, "_meta": capabilities,
    });
    let sent = modern::message(&json!(1), "tools/call", params.clone());
    let asked = modern::body(&modern::send(gate.front(), &sent).await);
    assert_eq!(asked["result"]["resultType"], "input_required", "{asked}");
    assert!(!made("modern"));
    let yes = json!({"action": "accept", "content": {}});
    let again = modern::answered(&params, &asked["result"], &yes);
    let sent = modern::message(&json!(2), "tools/call", again);
    let answer = modern::body(&modern::send(gate.front(), &sent).await);
    assert_eq!(answer["result"]["isError"], false, "{answer}");
    assert!(made("modern"));
}

#[tokio::test]
async fn a_runbook_is_there_for_the_agents_it_names_alone() {
    let tables = r#"
[identity]
header = "x-agent-id"

[server.ops]
builtin = "ops"

[[runbook]]
name = "greet"
description = "Greet"
command = ["echo", "hello"]
agents = ["ops-*"]
"#;
    let gate = Gate::with(tables).start().await;
    let of = async |agent: &str| gate.host().header("x-agent-id", agent).open().await;
    let (operator, guest) = (of("ops-1").await, of("guest").await);
    assert!(operator.tools().await.contains(&"greet".to_owned()));
    let said = operator.call("greet", json!({})).await;
    assert_eq!(said.result()["structuredContent"]["stdout"], "hello\n");
    assert!(!guest.tools().await.contains(&"greet".to_owned()));
    assert_eq!(guest.call("greet", json!({})).await.code(), Some(-32602));
    let forged = json!({
        "name": "greet", "arguments": {}, "_meta": {"dev.chillgate/agent": "ops-1"},
    });
    let forged = guest.request("tools/call", forged).await;
    assert_eq!(forged.code(), Some(-32602), "{}", forged.answer());
    let read = async |host: &Host| {
        let wanted = json!({"uri": "chillgate://runbooks"});
        let reply = host.request("resources/read", wanted).await;
        reply.result()["contents"][0]["text"]
            .as_str()
            .unwrap()
            .to_owned()
    };
    assert!(read(&operator).await.contains("greet"));
    assert!(!read(&guest).await.contains("greet"));
}

#[tokio::test]
async fn a_reload_brings_other_runbooks_and_hosts_hear_of_it() {
    let gate = Gate::with(OPS).start().await;
    let hosts = [gate.host().open().await, at_ops(&gate).await];
    let mut streams = Vec::new();
    for host in &hosts {
        assert!(host.tools().await.contains(&"leave-mark".to_owned()));
        streams.push(host.listen().await);
    }
    gate.edit("name = \"leave-mark\"", "name = \"leave-sign\"");
    for (host, stream) in hosts.iter().zip(&mut streams) {
        let told = within("the change", seconds(10), async {
            loop {
                let message = stream.message().await.expect("the stream goes on");
                if message["method"] == "notifications/tools/list_changed" {
                    return message;
                }
            }
        });
        told.await;
        let tools = host.tools().await;
        assert!(tools.contains(&"leave-sign".to_owned()), "{tools:?}");
        assert!(!tools.contains(&"leave-mark".to_owned()), "{tools:?}");
        let gone = host.call("leave-mark", json!({"name": "x"})).await;
        assert_eq!(gone.code(), Some(-32602), "{}", gone.answer());
    }
}

#[tokio::test]
async fn the_official_client_looks_and_has_a_runbook_run_in_both_eras() {
    let tables = r#"
[server.ops]
builtin = "ops"

[[runbook]]
name = "greet"
description = "Greet"
command = ["echo", "hello", "{whom}"]
arguments = { whom = { pattern = "[A-Za-z]+" } }
confirm = true
"#;
    let gate = Gate::with(&format!("{tables}{}", mock("other").table("")))
        .start()
        .await;
    for sdk in [Sdk::Python, Sdk::PythonLegacy] {
        let alone = Endpoint::Url(gate.url("/server/ops/mcp"));
        Script::new(sdk, "ops").run(&alone).await;
        let merged = Endpoint::Url(gate.url("/mcp"));
        let script = Script::new(sdk, "ops").with(&["--prefix", "ops__"]);
        script.run(&merged).await;
    }
}
