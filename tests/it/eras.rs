//! Hosts of revision 2026-07-28 in front of servers that only know `initialize`.
//!
//! It stands apart because every row has two sides of different eras. What chillgate says to the
//! host is judged by that revision's own schema, and a refused request must not reach the server.

use serde_json::{Value, json};

use chillgate_tests::gate::bare;
use chillgate_tests::http::{Connection, collect, request};
use chillgate_tests::modern::{
    CAPABILITIES, LOG_LEVEL, VERSION, answered, body, events, fields, message, send,
};
use chillgate_tests::schema::Schema;
use chillgate_tests::script::{Endpoint, Script, Sdk, npm_server};
use chillgate_tests::server::toml_list;
use chillgate_tests::wait::{all, seconds};
use chillgate_tests::{Gate, PipeHost, until};

use crate::mock;

async fn gate() -> Gate {
    let tables = mock("a").ledger().table("");
    let gate = Gate::with(&tables);
    gate.audited().start().await
}

async fn result(gate: &Gate, method: &str, params: Value) -> Value {
    let answer = send(gate.front(), &message(&json!(1), method, params)).await;
    assert_eq!(answer.status, 200, "{method}: {}", answer.text());
    body(&answer)["result"].clone()
}

/// What a tool said.
async fn tool(gate: &Gate, name: &str, arguments: Value) -> String {
    let params = json!({"name": name, "arguments": arguments});
    let result = result(gate, "tools/call", params).await;
    result["content"][0]["text"].as_str().unwrap().to_owned()
}

/// R-005, R-080, R-088.
#[tokio::test]
async fn a_legacy_servers_answers_are_of_the_hosts_revision() {
    let gate = gate().await;
    let schema = Schema::of("2026-07-28");
    let said = result(&gate, "server/discover", json!({})).await;
    schema.check("DiscoverResult", &said);
    assert_eq!(said["supportedVersions"][0], "2026-07-28");
    assert_eq!(
        said.get("protocolVersion").or(said.get("serverInfo")),
        None,
        "words of the other era: {said}"
    );
    // What cannot be asked for through chillgate is not offered, all else is.
    let offered = said["capabilities"].to_string();
    assert!(
        ["tools", "listChanged", "subscribe"]
            .iter()
            .all(|word| offered.contains(word))
            && !offered.contains("tasks"),
        "{offered}"
    );
    for (method, params, definition) in [
        ("tools/list", json!({}), "ListToolsResult"),
        ("prompts/list", json!({}), "ListPromptsResult"),
        ("resources/list", json!({}), "ListResourcesResult"),
        (
            "tools/call",
            json!({"name": "echo", "arguments": {"message": "hi"}}),
            "CallToolResult",
        ),
    ] {
        let said = result(&gate, method, params).await;
        schema.check(definition, &said);
        assert_eq!(said["resultType"], "complete", "{method}");
        let is_list = method.ends_with("/list");
        assert_eq!(said.get("ttlMs").is_some(), is_list, "{method}: {said}");
    }
}

/// What only 2025-11-25 has: tasks of its kind are neither shown nor reached.
#[tokio::test]
async fn tasks_of_the_older_kind_are_not_offered() {
    let gate = gate().await;
    let tools = result(&gate, "tools/list", json!({})).await["tools"].clone();
    let tools = tools.as_array().unwrap();
    let named = |name: &str| tools.iter().find(|tool| tool["name"] == name);
    assert!(named("only-as-task").is_none(), "it cannot be called");
    let slowly = named("slowly").unwrap();
    assert_eq!(slowly.get("execution"), None, "{slowly}");
    assert_eq!(slowly["x-mock"], "slowly", "all else is there");
    assert!(slowly["description"].is_string());
    for method in [
        "tasks/get",
        "tasks/update",
        "tasks/cancel",
        "tasks/list",
        "tasks/result",
    ] {
        let request = message(&json!(1), method, json!({"taskId": "t"}));
        let mut fields = fields(&request);
        fields.push(("mcp-name", "t"));
        for path in ["/mcp", "/server/a/mcp"] {
            let at = gate.front();
            let text = request.to_string();
            let answer = chillgate_tests::http::request(at, "POST", path, &fields, text).await;
            assert_eq!(
                (answer.status, body(&answer)["error"]["code"].clone()),
                (404, json!(-32601)),
                "{method} at {path}"
            );
        }
        assert!(gate.heard("a").of(method).is_empty(), "{method}");
    }
    // A host of the older era has all of it.
    let host = gate.host().open().await;
    let listed = host.request("tools/list", json!({})).await;
    assert!(
        listed.answer()["result"]
            .to_string()
            .contains("only-as-task")
    );
}

/// R-001, R-208.
#[tokio::test]
async fn what_held_for_one_hop_stays_there_and_all_else_arrives() {
    let gate = gate().await;
    let meta = json!({"com.example/k": [1], "traceparent": "00-a", LOG_LEVEL: "info"});
    let call = json!({"name": "meta", "_meta": meta});
    let said = result(&gate, "tools/call", call).await;
    let heard: Value = serde_json::from_str(said["content"][0]["text"].as_str().unwrap()).unwrap();
    assert_eq!(heard, json!({"com.example/k": [1], "traceparent": "00-a"}));
    let other = json!({"name": "params", "task": {"ttl": 1}, "inputResponses": {}});
    let said = result(&gate, "tools/call", other).await;
    let heard: Value = serde_json::from_str(said["content"][0]["text"].as_str().unwrap()).unwrap();
    assert_eq!(
        heard,
        json!({"name": "params"}),
        "what means nothing to the server"
    );
    for id in ["1.0", "\"x\"", "9007199254740993"] {
        let call = message(&json!("ID"), "tools/call", json!({"name": "echo"}));
        let raw = call.to_string().replace("\"ID\"", id);
        let answer = request(gate.front(), "POST", "/mcp", &fields(&call), raw).await;
        let wanted = format!("\"id\":{id},");
        assert!(answer.text().contains(&wanted), "{}", answer.text());
    }
}

/// R-060, R-061, R-062, R-063, R-064, R-065, R-066, R-073: in each row the status, the code, and nothing that reached the server.
#[tokio::test]
async fn a_request_that_breaks_a_rule_is_refused_in_the_words_of_the_revision() {
    let gate = gate().await;
    tool(&gate, "echo", json!({})).await;
    let before = gate.heard("a").lines().len();
    let list = message(&json!("m"), "tools/list", json!({}));
    let call = message(&json!("m"), "tools/call", json!({"name": "echo"}));
    let without = |key: &str| {
        let mut list = list.clone();
        list["params"]["_meta"].as_object_mut().unwrap().remove(key);
        list
    };
    let future = |version: &str| {
        let mut list = list.clone();
        list["params"]["_meta"][VERSION] = json!(version);
        list
    };
    let gone = |method: &str| message(&json!("m"), method, json!({}));
    // What its name says needs no second look at what it names.
    let subscribe = message(&json!("m"), "resources/subscribe", json!({"uri": "a:b"}));
    let none = ("", "");
    let rows = [
        (&list, ("mcp-method", ""), 400, -32020),
        (&list, ("mcp-method", "tools/call"), 400, -32020),
        (&list, ("mcp-method", "Tools/List"), 400, -32020),
        (&list, ("mcp-protocol-version", ""), 400, -32020),
        (&list, ("mcp-protocol-version", "2099-01-01"), 400, -32020),
        (&call, ("mcp-name", ""), 400, -32020),
        (&call, ("mcp-name", "meta"), 400, -32020),
        (&call, ("mcp-name", "=?base64?not base64?="), 400, -32020),
        (&without(VERSION), none, 400, -32602),
        (&without(CAPABILITIES), none, 400, -32602),
        (
            &future("2099-01-01"),
            ("mcp-protocol-version", "2099-01-01"),
            400,
            -32022,
        ),
        (
            &future("2025-11-25"),
            ("mcp-protocol-version", "2026-07-28"),
            400,
            -32020,
        ),
        (&gone("initialize"), none, 404, -32601),
        (&gone("ping"), none, 404, -32601),
        (&gone("logging/setLevel"), none, 404, -32601),
        (&gone("resources/subscribe"), none, 404, -32601),
        (&subscribe, ("mcp-name", ""), 404, -32601),
        (&gone("no/such"), none, 404, -32601),
    ];
    for (sent, (name, value), status, code) in rows {
        let mut fields = fields(sent);
        fields.retain(|(field, _)| *field != name);
        if !value.is_empty() {
            fields.push((name, value));
        }
        let answer = request(gate.front(), "POST", "/mcp", &fields, sent.to_string()).await;
        let said = body(&answer);
        let what = format!("{sent} with {name}: {value:?} got {said}");
        assert_eq!(answer.status, status, "{what}");
        assert_eq!(said["error"]["code"], code, "{what}");
        assert_eq!(said["id"], "m", "{what}");
        assert_eq!(answer.header("mcp-session-id"), "", "{what}");
        if code == -32022 {
            assert_eq!(said["error"]["data"]["requested"], "2099-01-01", "{what}");
            assert_eq!(
                said["error"]["data"]["supported"][0], "2026-07-28",
                "{what}"
            );
        }
    }
    assert_eq!(
        gate.heard("a").lines().len(),
        before,
        "it reached the server"
    );
    for method in ["GET", "DELETE"] {
        let head = [
            ("accept", "text/event-stream"),
            ("mcp-protocol-version", "2026-07-28"),
        ];
        let answer = request(gate.front(), method, "/mcp", &head, "").await;
        assert_eq!((answer.status, answer.header("allow")), (405, "POST"));
    }
}

/// R-221: a name that no header can carry as it is.
/// R-067, R-068, R-222: arguments that a tool's schema wants in the header as well.
#[tokio::test]
async fn an_argument_that_is_said_twice_is_the_same_twice() {
    for seen in [true, false] {
        let gate = gate().await;
        let answer = async |said: &[(&str, &str)], arguments: &Value| {
            let params = json!({"name": "deploy", "arguments": arguments});
            let call = message(&json!(1), "tools/call", params);
            let fields = [fields(&call), said.to_vec()].concat();
            let answer = request(gate.front(), "POST", "/mcp", &fields, call.to_string()).await;
            (answer.status, body(&answer)["error"]["code"].clone())
        };
        let arguments = json!({"region": "Köln", "place": {"count": 7}});
        if seen {
            result(&gate, "tools/list", json!({})).await;
            assert_eq!(
                answer(&[], &arguments).await,
                (400, json!(-32020)),
                "none at all"
            );
        }
        let count = ("mcp-param-count", "7.0");
        let region = ("Mcp-Param-Region", "=?base64?S8O2bG4=?=");
        let refused = (400, json!(-32020));
        for (said, arguments) in [
            (vec![("mcp-param-region", "Bonn"), count], &arguments),
            (vec![region, ("mcp-param-count", "8")], &arguments),
            (vec![region, count, count], &arguments),
            (
                vec![("mcp-param-region", "=?base64?!?="), count],
                &arguments,
            ),
            (vec![region], &arguments),
            (vec![region], &json!({"region": null})),
        ] {
            assert_eq!(
                answer(&said, arguments).await,
                refused,
                "{said:?} {arguments}"
            );
        }
        assert_eq!(
            gate.heard("a").calls(),
            0,
            "a refused call reached the server"
        );
        let unknown = ("mcp-param-other", "x");
        for (said, arguments) in [
            (vec![region, count], &arguments),
            (vec![region, count, unknown], &arguments),
            (vec![], &json!({})),
        ] {
            let went = answer(&said, arguments).await;
            assert_eq!(went, (200, Value::Null), "{said:?} {arguments}");
        }
    }
}

#[tokio::test]
async fn a_name_in_base64_is_the_name() {
    let gate = gate().await;
    let call = message(&json!(1), "tools/call", json!({"name": "echo"}));
    let mut fields = fields(&call);
    fields.retain(|(name, _)| *name != "mcp-name");
    fields.push(("mcp-name", "=?base64?ZWNobw==?="));
    let answer = request(gate.front(), "POST", "/mcp", &fields, call.to_string()).await;
    assert_eq!(answer.status, 200, "{}", answer.text());
}

/// R-006: what means "resource not found" and "unknown" is spelled otherwise.
#[tokio::test]
async fn a_servers_error_is_put_into_the_hosts_words() {
    let gate = gate().await;
    for (from, to, status) in [
        (-32002, -32602, 200),
        (-32601, -32601, 404),
        (-32055, -32603, 200),
        (-32000, -32000, 200),
        (7, 7, 200),
    ] {
        let call = json!({"name": "rpc-error", "arguments": {"code": from}});
        let answer = send(gate.front(), &message(&json!(1), "tools/call", call)).await;
        let said = body(&answer);
        assert_eq!(
            (answer.status, said["error"]["code"].as_i64().unwrap()),
            (status, to),
            "{from}: {said}"
        );
        assert_eq!(said["error"]["data"], json!({"kept": true}), "{from}");
    }
}

/// The same agent's hosts share what stands behind them, and every one counts its ids from 1.
#[tokio::test]
async fn hosts_with_the_same_ids_hear_their_own_answers() {
    let gate = gate().await;
    let calls = (0..20).map(|host| {
        let nonce = format!("host {host}");
        let call = json!({"name": "random", "arguments": {"nonce": nonce, "ms": 300}});
        let gate = &gate;
        async move {
            let answer = send(gate.front(), &message(&json!(1), "tools/call", call)).await;
            let said = body(&answer);
            assert_eq!(said["result"]["content"][0]["text"], nonce, "{said}");
        }
    });
    all(calls).await;
}

/// R-211: what stands behind one agent's requests is nobody else's, and is there once.
#[tokio::test]
async fn two_agents_never_share_what_is_kept_for_one() {
    let tables =
        mock("a").table("isolation = \"session\"\n") + "[identity]\nheader = \"x-agent-id\"\n";
    let gate = Gate::with(&tables).start().await;
    let pid = async |agent: &str| {
        let call = message(&json!(1), "tools/call", json!({"name": "pid"}));
        let mut fields = fields(&call);
        fields.push(("x-agent-id", agent));
        let answer = request(gate.front(), "POST", "/mcp", &fields, call.to_string()).await;
        body(&answer)["result"]["content"][0]["text"].clone()
    };
    let (alice, bob) = (pid("alice").await, pid("bob").await);
    assert!(
        alice.is_string() && bob.is_string() && alice != bob,
        "{alice} {bob}"
    );
    assert_eq!((pid("alice").await, pid("bob").await), (alice, bob));
}

/// R-069: closing the stream is cancelling, of this request and of no other with its id.
#[tokio::test]
async fn a_host_that_closes_its_connection_has_cancelled_its_call() {
    let gate = gate().await;
    let wait = |nonce: &str| {
        let arguments = json!({"ms": 1500, "nonce": nonce});
        message(
            &json!(1),
            "tools/call",
            json!({"name": "wait", "arguments": arguments}),
        )
    };
    let (leaves, stays) = (wait("leaves"), wait("stays"));
    // The server is there, so that the next calls are with it at once.
    let first = message(&json!(9), "tools/call", json!({"name": "name"}));
    send(gate.front(), &first).await;
    let staying = send(gate.front(), &stays);
    let leaving = async {
        let mut connection = Connection::open(gate.front()).await;
        let raw = leaves.to_string().into();
        let fields = fields(&leaves);
        let asking = connection.send("POST", "/mcp", &fields, raw);
        assert!(tokio::time::timeout(seconds(1) / 2, asking).await.is_err());
        drop(connection);
        until("the cancellation", seconds(10), async || {
            (gate.heard("a").of("notifications/cancelled").len() == 1).then_some(())
        })
        .await;
    };
    let (stayed, ()) = tokio::join!(staying, leaving);
    assert_eq!(body(&stayed)["result"]["content"][0]["text"], "stays");
    let records = gate
        .records_when("both ends", |records| {
            records.outcomes().values().sum::<usize>() == 2
        })
        .await;
    assert_eq!(records.outcomes().get("cancelled"), Some(&1));
    assert_eq!(records.outcomes().get("ok"), Some(&1));
}

/// R-071, R-087, and progress that arrives under the host's own token.
#[tokio::test]
async fn log_messages_come_only_where_they_were_asked_for() {
    let gate = gate().await;
    let logged = async |meta: Value, level: &str| {
        let call =
            json!({"name": "log", "arguments": {"level": level, "data": "d"}, "_meta": meta});
        let answer = send(gate.front(), &message(&json!(1), "tools/call", call)).await;
        let said = events(&answer);
        said.iter()
            .filter(|said| said["method"] == "notifications/message")
            .count()
    };
    assert_eq!(logged(json!({}), "error").await, 0, "nobody asked for it");
    assert_eq!(logged(json!({LOG_LEVEL: "warning"}), "info").await, 0);
    assert_eq!(logged(json!({LOG_LEVEL: "warning"}), "error").await, 1);
    let call = json!({"name": "echo", "_meta": {LOG_LEVEL: "loud"}});
    let answer = send(gate.front(), &message(&json!(1), "tools/call", call)).await;
    assert_eq!(body(&answer)["error"]["code"], -32602);

    let call = json!({"name": "progress", "_meta": {"progressToken": "p"}});
    let call = message(&json!(1), "tools/call", call);
    let mut connection = Connection::open(gate.front()).await;
    let fields = fields(&call);
    let answer = connection.send("POST", "/mcp", &fields, call.to_string().into());
    let answer = collect(answer.await).await;
    assert_eq!(answer.header("x-accel-buffering"), "no");
    let said = events(&answer);
    let steps: Vec<_> = said
        .iter()
        .filter(|said| said["method"] == "notifications/progress")
        .collect();
    assert_eq!(steps.len(), 3, "{said:?}");
    assert!(
        steps
            .iter()
            .all(|step| step["params"]["progressToken"] == "p"),
        "{said:?}"
    );
    assert_eq!(said.last().unwrap()["result"]["resultType"], "complete");
}

/// The audit log says which era it was, and knows no session where the host has none.
#[tokio::test]
async fn a_modern_call_is_recorded_as_one() {
    let gate = gate().await;
    let call = message(&json!("x-1"), "tools/call", json!({"name": "echo"}));
    assert_eq!(send(gate.front(), &call).await.status, 200);
    let records = gate.records(2).await;
    let admitted = records.of("phase", "admit");
    let admitted = admitted.iter().next().unwrap();
    assert_eq!(admitted["era"], "modern");
    assert_eq!(admitted["id"], "\"x-1\"");
    assert_eq!(admitted["client"]["name"], "modern");
    assert_eq!(admitted.get("session"), None);
}

/// Both eras on one endpoint at one time; an explicit legacy header outranks `_meta`.
#[tokio::test]
async fn both_eras_are_served_side_by_side() {
    let gate = gate().await;
    let legacy = gate.host().open().await;
    let said = legacy.call("echo", json!({"message": "old"})).await;
    assert_eq!(said.tool_text(), "old");
    assert_eq!(said.result().get("resultType"), None, "{}", said.result());
    assert_eq!(tool(&gate, "echo", json!({"message": "new"})).await, "new");
    let call = message(&json!(1), "tools/call", json!({"name": "echo"}));
    let mut fields = fields(&call);
    fields.retain(|(name, _)| *name != "mcp-protocol-version");
    fields.push(("mcp-protocol-version", "2025-11-25"));
    fields.push(("mcp-session-id", legacy.session().unwrap()));
    let answer = request(gate.front(), "POST", "/mcp", &fields, call.to_string()).await;
    assert_eq!(body(&answer)["result"].get("resultType"), None);
}

/// R-202.
/// What a level needs of the server is asked of it once, and no more of it than that.
#[tokio::test]
async fn the_server_is_told_from_which_level_to_log() {
    let gate = gate().await;
    for level in ["warning", "error", "info", "info"] {
        let params = json!({"name": "echo", "_meta": {LOG_LEVEL: level}});
        result(&gate, "tools/call", params).await;
    }
    let told = gate.heard("a").of("logging/setLevel");
    let levels: Vec<_> = told.iter().map(|told| &told["params"]["level"]).collect();
    assert_eq!(levels, ["warning", "info"]);
}

/// R-020, R-022: the same over lines, where a notification cancels and nothing is in a header.
#[tokio::test]
async fn a_modern_host_on_stdio_is_served_like_one_over_http() {
    let mut command = bare();
    command.args(["wrap", "--"]).args(mock("a").command());
    let mut host = PipeHost::start(command);
    let schema = Schema::of("2026-07-28");
    host.write(&message(&json!("d"), "server/discover", json!({})))
        .await;
    let said = host.answer(&json!("d")).await;
    schema.check("DiscoverResult", &said["result"]);
    // Requests overlap; the quick one is not held up.
    let slow = json!({"name": "wait", "arguments": {"ms": 20_000}});
    host.write(&message(&json!(1), "tools/call", slow.clone()))
        .await;
    host.write(&message(&json!(1), "tools/call", slow)).await;
    assert_eq!(
        host.answer(&json!(1)).await["error"]["code"],
        -32600,
        "an id in flight"
    );
    let meta = json!({"progressToken": "p"});
    let steps = json!({"name": "progress", "arguments": {"steps": 2}, "_meta": meta});
    host.write(&message(&json!(2), "tools/call", steps)).await;
    assert_eq!(
        host.heard("notifications/progress").await["params"]["progressToken"],
        "p"
    );
    assert_eq!(
        host.answer(&json!(2)).await["result"]["resultType"],
        "complete"
    );
    let cancel =
        json!({"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": 1}});
    host.write(&cancel).await;
    // The id is free again once nothing more can come for it.
    host.write(&message(&json!(3), "tools/call", json!({"name": "echo"})))
        .await;
    host.answer(&json!(3)).await;
    host.write(&message(&json!(1), "tools/call", json!({"name": "echo"})))
        .await;
    assert_eq!(
        host.answer(&json!(1)).await["result"]["resultType"],
        "complete"
    );
    // What is asked is an outcome here as well.
    let able = json!({"name": "elicit", "_meta": {CAPABILITIES: {"elicitation": {}}}});
    host.write(&message(&json!(4), "tools/call", able.clone()))
        .await;
    let asked = host.answer(&json!(4)).await["result"].clone();
    schema.check("InputRequiredResult", &asked);
    let again = answered(&able, &asked, &json!({"said": "blue"}));
    host.write(&message(&json!(5), "tools/call", again)).await;
    let text = host.answer(&json!(5)).await["result"]["content"][0]["text"].to_string();
    assert!(text.contains("blue"), "{text}");
    // What cannot be one is refused.
    let mut bare = message(&json!(6), "tools/list", json!({}));
    bare["params"]["_meta"]
        .as_object_mut()
        .unwrap()
        .remove(CAPABILITIES);
    host.write(&bare).await;
    assert_eq!(host.answer(&json!(6)).await["error"]["code"], -32602);
    let mut future = message(&json!(7), "tools/list", json!({}));
    future["params"]["_meta"][VERSION] = json!("2099-01-01");
    host.write(&future).await;
    assert_eq!(host.answer(&json!(7)).await["error"]["code"], -32022);
    host.write(&message(&json!(8), "ping", json!({}))).await;
    assert_eq!(host.answer(&json!(8)).await["error"]["code"], -32601);
    // Neither a host that listens nor a call that waits for it keeps chillgate from ending.
    let wanted = json!({"notifications": {"toolsListChanged": true}});
    host.write(&message(&json!("l"), "subscriptions/listen", wanted))
        .await;
    let first = host.heard("notifications/subscriptions/acknowledged").await;
    assert_eq!(
        first["params"]["_meta"]["io.modelcontextprotocol/subscriptionId"],
        "l"
    );
    host.write(&message(
        &json!(9),
        "tools/call",
        json!({"name": "changed"}),
    ))
    .await;
    let note = host.heard("notifications/tools/list_changed").await;
    assert_eq!(
        note["params"]["_meta"]["io.modelcontextprotocol/subscriptionId"],
        "l"
    );
    host.write(&message(&json!(10), "tools/call", able)).await;
    host.answer(&json!(10)).await;
    let (status, stderr) = host.finish(seconds(10)).await;
    assert!(status.success(), "{status}: {stderr}");
}

/// A client that we did not write, of the new era, in front of a server of the old one.
#[tokio::test]
async fn the_python_client_uses_a_legacy_server_as_a_modern_one() {
    let everything = npm_server("everything").display().to_string();
    let words = ["node".to_owned(), everything, "stdio".to_owned()];
    let table = format!("[server.everything]\ncommand = {}\n", toml_list(&words));
    let gate = Gate::with(&table).start().await;
    for path in ["/mcp", "/server/everything/mcp"] {
        what_is_bridged(&gate.url(path)).await;
    }
}

/// The same over HTTP on both sides.
#[tokio::test]
async fn the_python_client_uses_a_remote_legacy_server_as_a_modern_one() {
    let (_server, url) = crate::peers::remote().await;
    let table = format!("[server.there]\nurl = \"{url}\"\n");
    let gate = Gate::with(&table).start().await;
    let schema = Schema::of("2026-07-28");
    schema.check(
        "DiscoverResult",
        &result(&gate, "server/discover", json!({})).await,
    );
    what_is_bridged(&gate.url("/server/there/mcp")).await;
}

/// Every part of MCP that is bridged so far, by a client that speaks revision 2026-07-28.
async fn what_is_bridged(url: &str) {
    let wanted = "tools,tool_errors,resources,prompts,completion,progress,cancellation,concurrency,\
                  sampling,elicitation,subscriptions";
    let checks = Script::new(Sdk::Python, "everything")
        .with(&["--checks", wanted])
        .run(&Endpoint::Url(url.to_owned()))
        .await;
    assert_eq!(checks.len(), wanted.split(',').count() + 1, "{checks:?}");
}

/// R-084: on the stream of its call a host hears of the call's progress and log, and nothing that an
/// older server says besides.
#[tokio::test]
async fn what_nobody_asked_for_is_not_told_on_the_stream_of_a_call() {
    let gate = gate().await;
    let news = r#"{"jsonrpc":"2.0","method":"notifications/x-vendor/news","params":{"a":1}}"#;
    let head = format!("{news}\n{{\"jsonrpc\":\"2.0\",\"id\":");
    let line = json!([head, null, ",\"result\":{\"content\":[]}}"]);
    // Of a server that it shares, and of one of its own.
    for able in [json!({}), json!({"elicitation": {}})] {
        let meta = json!({CAPABILITIES: able});
        let params = json!({"name": "verbatim", "arguments": {"line": line}, "_meta": meta});
        let answer = send(gate.front(), &message(&json!(1), "tools/call", params)).await;
        // Answered as JSON: nothing came before.
        assert_eq!(body(&answer)["result"]["content"], json!([]));
    }
}

/// Each request says everything: what the last one of its connection said holds for none.
#[tokio::test]
async fn requests_of_one_connection_have_nothing_in_common() {
    let tables =
        mock("a").table("") + &mock("b").table("") + "[identity]\nheader = \"x-agent-id\"\n";
    let gate = Gate::with(&tables).audited().start().await;
    let mut connection = Connection::open(gate.front()).await;
    let mut said = Vec::new();
    let roots = json!({"roots": {}});
    for _ in 0..2 {
        for (agent, path, tool, capabilities) in [
            ("mina", "/server/a/mcp", "name", json!({})),
            ("eve", "/server/a/mcp", "name", json!({})),
            ("eve", "/server/b/mcp", "name", json!({})),
            ("eve", "/server/b/mcp", "host", roots.clone()),
            ("eve", "/server/b/mcp", "host", json!({"sampling": {}})),
            ("eve", "/mcp", "a__name", json!({})),
        ] {
            let params = json!({"name": tool, "_meta": {CAPABILITIES: capabilities}});
            let call = message(&json!(1), "tools/call", params);
            let mut head = fields(&call);
            head.push(("x-agent-id", agent));
            let raw = call.to_string().into();
            let answer = collect(connection.send("POST", path, &head, raw).await).await;
            let text = body(&answer)["result"]["content"][0]["text"].clone();
            said.push((agent, text.as_str().unwrap_or_default().to_owned()));
        }
    }
    let (first, again) = said.split_at(6);
    assert_eq!(first, again);
    let texts: Vec<&str> = first.iter().map(|(_, text)| text.as_str()).collect();
    assert_eq!(
        (texts[0], texts[1], texts[2], texts[5]),
        ("a", "a", "b", "a")
    );
    let declared =
        |text: &str| serde_json::from_str::<Value>(text).unwrap()["capabilities"].clone();
    assert_eq!(declared(texts[3]), roots);
    assert_eq!(declared(texts[4]), json!({"sampling": {}}));
    let records = gate
        .records(2 * said.len())
        .await
        .of("method", "tools/call");
    for agent in ["mina", "eve"] {
        let calls = said.iter().filter(|(who, _)| *who == agent).count();
        assert_eq!(records.of("agent", agent).sums().done, calls, "{agent}");
    }
}
