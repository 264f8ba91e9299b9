//! Servers of revision 2026-07-28, for hosts of both eras.
//!
//! It stands apart because such a server remembers nothing and asks in its answers. What it heard
//! stands in its ledger and is judged by the schema of its revision, what the host heard by that of
//! the host's.

use std::time::Duration;

use serde_json::{Value, json};
use tokio::time::timeout;

use chillgate_tests::http::request;
use chillgate_tests::modern::{
    self, CAPABILITIES, CLIENT, LOG_LEVEL, VERSION, body, events, message,
};
use chillgate_tests::schema::Schema;
use chillgate_tests::sse::Events;
use chillgate_tests::wait::{all, seconds, within};
use chillgate_tests::{Gate, Host, Mock, until};

use crate::mock;

pub(crate) fn server() -> Mock {
    mock("a").ledger().flags(&["--eras", "modern"])
}

pub(crate) async fn gate() -> Gate {
    let tables = server().table("era = \"modern\"") + "[identity]\nheader = \"x-agent-id\"\n";
    Gate::with(&tables).audited().start().await
}

/// A legacy host that can be asked for everything.
pub(crate) async fn able(gate: &Gate) -> Host {
    let capabilities = json!({
        "sampling": {},
        "elicitation": {"form": {}, "url": {}},
        "roots": {"listChanged": true},
        "tasks": {"list": {}},
        "experimental": {"x": {"kept": true}},
    });
    gate.host().open_with(capabilities).await.0
}

/// Each of these is a whole request of the newest revision.
fn judged(gate: &Gate, method: &str, definition: &str) -> Vec<Value> {
    let heard = gate.heard("a").of(method);
    for one in &heard {
        Schema::of("2026-07-28").check(definition, one);
    }
    heard
}

pub(crate) async fn next(events: &mut Events, what: &str) -> Value {
    let said = within(what, seconds(10), events.message()).await;
    said.unwrap_or_else(|| panic!("the stream ended before {what}"))
}

/// the handshake is chillgate's, in each revision that a host may speak.
#[tokio::test]
async fn a_legacy_host_opens_and_pings_a_server_that_knows_neither() {
    let gate = gate().await;
    for revision in ["2024-11-05", "2025-03-26", "2025-06-18", "2025-11-25"] {
        let host = gate.host().path("/server/a/mcp").revision(revision);
        let (host, result) = host.open_with(json!({})).await;
        Schema::of(revision).check("InitializeResult", &result);
        assert_eq!(result["protocolVersion"], revision);
        assert_eq!(result["serverInfo"]["name"], "a", "{result}");
        assert_eq!(result["instructions"], "I am a.");
        assert_eq!(result["capabilities"]["resources"]["subscribe"], true);
        assert_eq!(
            result["capabilities"]["experimental"]["x-mock"]["kept"],
            true
        );
        for gone in ["extensions", "tasks"] {
            assert!(result["capabilities"][gone].is_null(), "{result}");
        }
        for gone in ["supportedVersions", "resultType", "ttlMs", "_meta"] {
            assert!(
                result[gone].is_null() || gone == "_meta",
                "{gone} in {result}"
            );
        }
        assert_eq!(host.request("ping", json!({})).await.result(), &json!({}));
    }
    let heard = gate.heard("a");
    for unknown in ["initialize", "notifications/initialized", "ping"] {
        assert!(heard.of(unknown).is_empty(), "the server heard {unknown}");
    }
    assert_eq!(judged(&gate, "server/discover", "DiscoverRequest").len(), 1);
}

/// what a legacy host has said once is said with each request, in its own words.
#[tokio::test]
async fn a_request_says_who_asks_and_nothing_that_a_host_forged() {
    let gate = gate().await;
    let host = able(&gate).await;
    let forged = json!({
        VERSION: "2099-01-01",
        CAPABILITIES: {"everything": {}},
        LOG_LEVEL: "debug",
        "io.modelcontextprotocol/subscriptionId": 1,
        "progressToken": "mine",
        "traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
        "com.example/k": [1],
    });
    let reply = host
        .request("tools/call", json!({"name": "params", "_meta": forged}))
        .await;
    let params: Value = serde_json::from_str(reply.tool_text()).unwrap();
    assert!(
        params.get("arguments").is_none(),
        "arguments were made up: {params}"
    );
    let meta = &params["_meta"];
    assert_eq!(meta[VERSION], "2026-07-28");
    let able = json!({"sampling": {}, "elicitation": {"form": {}, "url": {}}, "roots": {}, "experimental": {"x": {"kept": true}}});
    assert_eq!(
        meta[CAPABILITIES], able,
        "what the revision took away is gone"
    );
    assert!(meta[CLIENT]["name"].is_string(), "{meta}");
    assert_eq!(meta[LOG_LEVEL], "info");
    let keys: Vec<_> = meta.as_object().unwrap().keys().collect();
    let own = keys
        .iter()
        .filter(|key| key.starts_with("io.modelcontextprotocol/"));
    assert_eq!(own.count(), 4, "{keys:?}");
    assert!(meta["progressToken"].is_number(), "{meta}");
    assert_eq!(meta["com.example/k"], json!([1]));
    assert!(meta["traceparent"].is_string());
    let refused = host
        .request("logging/setLevel", json!({"level": "loud"}))
        .await;
    assert_eq!(refused.code(), Some(-32602));
    let alone = gate.host().path("/server/a/mcp").open().await;
    for host in [&host, &alone] {
        host.request("logging/setLevel", json!({"level": "error"}))
            .await
            .result();
        let reply = host.request("tools/call", json!({"name": "meta"})).await;
        let meta: Value = serde_json::from_str(reply.tool_text()).unwrap();
        assert_eq!(meta[LOG_LEVEL], "error");
    }
    judged(&gate, "tools/call", "CallToolRequest");
    assert!(gate.heard("a").of("logging/setLevel").is_empty());
}

/// answers in the words of each older revision.
#[tokio::test]
async fn answers_lose_what_older_revisions_do_not_know() {
    let gate = gate().await;
    for revision in ["2024-11-05", "2025-06-18", "2025-11-25"] {
        let host = gate.host().path("/server/a/mcp").revision(revision);
        let host = host.open().await;
        for (method, params, definition) in [
            ("tools/list", json!({}), "ListToolsResult"),
            ("prompts/list", json!({}), "ListPromptsResult"),
            ("resources/list", json!({}), "ListResourcesResult"),
            (
                "resources/templates/list",
                json!({}),
                "ListResourceTemplatesResult",
            ),
            (
                "resources/read",
                json!({"uri": "mock://a/doc"}),
                "ReadResourceResult",
            ),
            (
                "prompts/get",
                json!({"name": "greet", "arguments": {"who": "me"}}),
                "GetPromptResult",
            ),
            (
                "tools/call",
                json!({"name": "echo", "arguments": {"message": "hi"}}),
                "CallToolResult",
            ),
        ] {
            let reply = host.request(method, params).await;
            let result = reply.result();
            Schema::of(revision).check(definition, result);
            for gone in ["resultType", "ttlMs", "cacheScope"] {
                assert!(result[gone].is_null(), "{method} still says {gone}");
            }
            assert_eq!(
                result["_meta"],
                json!({"com.example/kept": true}),
                "{method}"
            );
        }
        let reply = host.call("numbers", json!({})).await;
        Schema::of(revision).check("CallToolResult", reply.result());
        assert_eq!(reply.tool_text(), "[1,2,3]");
        let missing = host
            .request("resources/read", json!({"uri": "mock://b/none"}))
            .await;
        assert_eq!(
            missing.code(),
            Some(-32002),
            "the server named the resource"
        );
        let unknown = host.request("tasks/list", json!({})).await;
        assert_eq!(unknown.code(), Some(-32601));
        let tools = host.request("tools/list", json!({})).await;
        let tools = tools.result()["tools"].as_array().unwrap();
        let numbers = tools.iter().find(|tool| tool["name"] == "numbers").unwrap();
        assert!(numbers["outputSchema"].is_null(), "R-207: {numbers}");
        assert_eq!(numbers["x-mock"], "numbers");
        // What only a modern host could mend is an error inside, for this one.
        for code in [-32020, -32021, -32022] {
            let reply = host.call("rpc-error", json!({"code": code})).await;
            assert_eq!(reply.code(), Some(-32603), "{code}");
        }
        let odd = host.call("odd-type", json!({})).await;
        assert_eq!(odd.code(), Some(-32603), "R-005: {odd:?}");
    }
    assert!(gate.heard("a").of("tasks/list").is_empty());
}

/// what hosts subscribe to is one subscription at the server, and each hears
/// its own part of it.
#[tokio::test]
async fn subscriptions_of_legacy_hosts_are_one_at_the_server() {
    let gate = gate().await;
    let (one, two) = (able(&gate).await, able(&gate).await);
    let (mut ones, mut twos) = (one.listen().await, two.listen().await);
    let subscribe = async |host: &Host, uri: &str| {
        host.request("resources/subscribe", json!({"uri": uri}))
            .await
    };
    subscribe(&one, "mock://a/1").await.result();
    subscribe(&one, "mock://a/both").await.result();
    subscribe(&two, "mock://a/both").await.result();
    let refused = subscribe(&two, "mock://a/refused").await;
    assert_eq!(refused.code(), Some(-32601), "{refused:?}");
    let wanted = until("one subscription", seconds(5), async || {
        let said = one.call("listening", json!({})).await;
        let said: Value = serde_json::from_str(said.tool_text()).unwrap();
        let is_one = said.as_array().is_some_and(|all| all.len() == 1);
        is_one.then_some(said)
    })
    .await;
    assert_eq!(
        wanted[0]["resourceSubscriptions"],
        json!(["mock://a/1", "mock://a/both"])
    );
    assert_eq!(wanted[0]["toolsListChanged"], true);
    judged(&gate, "subscriptions/listen", "SubscriptionsListenRequest");
    for (uri, by_two) in [("mock://a/1", false), ("mock://a/both", true)] {
        one.call("updated", json!({"uri": uri})).await;
        let note = next(&mut ones, uri).await;
        assert_eq!(
            note["params"],
            json!({"uri": uri}),
            "told once, without marks"
        );
        Schema::of("2025-11-25").check("ResourceUpdatedNotification", &note);
        if by_two {
            assert_eq!(next(&mut twos, uri).await["params"]["uri"], uri);
        }
    }
    // Two subscriptions for a moment, and told once.
    subscribe(&one, "mock://a/noisy").await.result();
    assert_eq!(
        next(&mut ones, "the news").await["params"]["uri"],
        "mock://a/1"
    );
    one.request("resources/unsubscribe", json!({"uri": "mock://a/noisy"}))
        .await;
    one.call("updated", json!({"uri": "mock://a/both"})).await;
    assert_eq!(
        next(&mut ones, "not the news again").await["params"]["uri"],
        "mock://a/both"
    );
    next(&mut twos, "both").await;
    // The server ends it; it is made again.
    assert_eq!(
        one.call("hang-up", json!({})).await.tool_text(),
        "1 hung up"
    );
    until("another subscription", seconds(5), async || {
        let said = one.call("listening", json!({})).await;
        (serde_json::from_str::<Value>(said.tool_text()).unwrap() == wanted).then_some(())
    })
    .await;
    // What changed meanwhile nobody heard: the lists may have.
    for _ in 0..3 {
        let change = next(&mut ones, "a change").await;
        assert!(
            change["method"].as_str().unwrap().ends_with("list_changed"),
            "{change}"
        );
    }
    one.call("updated", json!({"uri": "mock://a/1"})).await;
    assert_eq!(
        next(&mut ones, "after the end").await["params"]["uri"],
        "mock://a/1"
    );
    // Told to nobody in particular, or under a number of nobody's: to nobody.
    one.call("told-unasked", json!({})).await;
    one.request("resources/unsubscribe", json!({"uri": "mock://a/1"}))
        .await;
    one.call("updated", json!({"uri": "mock://a/1"})).await;
    one.call("changed", json!({})).await;
    let mut kinds = Vec::new();
    for _ in 0..3 {
        kinds.push(next(&mut ones, "a change").await["method"].clone());
    }
    let lists = ["tools", "prompts", "resources"];
    assert_eq!(
        kinds,
        lists.map(|list| json!(format!("notifications/{list}/list_changed")))
    );
    let rest = timeout(Duration::from_millis(300), ones.message()).await;
    assert!(rest.is_err(), "something more: {rest:?}");
}

/// a server that has ended is listened to again, and nobody has to say so.
#[tokio::test]
async fn a_subscription_outlives_its_server() {
    let gate = gate().await;
    let host = able(&gate).await;
    let mut stream = host.listen().await;
    host.request("resources/subscribe", json!({"uri": "mock://a/1"}))
        .await
        .result();
    host.call("crash", json!({})).await;
    until("the next server listens as well", seconds(10), async || {
        let reply = host.call("updated", json!({"uri": "mock://a/1"})).await;
        reply.code().is_none().then_some(())?;
        let note = timeout(Duration::from_millis(300), stream.message()).await;
        (note.ok()??["params"]["uri"] == "mock://a/1").then_some(())
    })
    .await;
}

/// what a modern server asks in the old way is answered by nobody, in either era.
#[tokio::test]
async fn a_modern_servers_request_is_no_question() {
    let gate = gate().await;
    let reply = able(&gate).await.call("ask-host", json!({})).await;
    assert!(reply.before().is_empty());
    assert!(
        reply.tool_text().contains("Err"),
        "it was answered: {reply:?}"
    );
    for line in gate.heard("a").lines() {
        let said: Value = serde_json::from_str(line).unwrap();
        assert!(
            said["method"].is_string(),
            "the server heard an answer: {line}"
        );
    }
}

/// Same era: what the host wrote is what the server hears, and the other way round.
#[tokio::test]
async fn between_a_modern_host_and_a_modern_server_nothing_changes_but_the_id() {
    let gate = gate().await;
    let meta = json!({CAPABILITIES: {"odd": {"x": [1.0, 1e3]}}, LOG_LEVEL: "warning", "com.example/k": null});
    let mut call = message(
        &json!("seven"),
        "tools/call",
        json!({"name": "raw", "_meta": meta}),
    );
    call["params"]["inputResponses"] = json!({"x": {"y": 1}});
    call["params"]["requestState"] = json!("its own");
    call["params"]["task"] = json!({"ttl": 1});
    let answer = modern::send(gate.front(), &call).await;
    let answer = body(&answer);
    assert_eq!(answer["id"], "seven");
    let raw = answer["result"]["content"][0]["text"].as_str().unwrap();
    let mut heard: Value = serde_json::from_str(raw).unwrap();
    heard["id"] = call["id"].clone();
    assert_eq!(heard, call);
    let sent = call.to_string().replace("\"seven\"", "");
    let number = serde_json::from_str::<Value>(raw).unwrap()["id"].to_string();
    assert_eq!(
        raw.replacen(&format!("\"id\":{number}"), "\"id\":", 1),
        sent,
        "to the letter"
    );
    assert_eq!(answer["result"]["resultType"], "complete");
    assert_eq!(answer["result"]["_meta"]["com.example/kept"], true);
    let list = message(&json!(1), "resources/read", json!({"uri": "mock://a/doc"}));
    let list = body(&modern::send(gate.front(), &list).await);
    assert_eq!(
        (&list["result"]["ttlMs"], &list["result"]["cacheScope"]),
        (&json!(60_000), &json!("public"))
    );
    let elicit = message(
        &json!(2),
        "tools/call",
        json!({"name": "elicit", "_meta": {CAPABILITIES: {"elicitation": {}}}}),
    );
    let asked = body(&modern::send(gate.front(), &elicit).await);
    assert_eq!(asked["result"]["resultType"], "input_required");
    assert_eq!(
        asked["result"]["requestState"], "the state",
        "its state is its own"
    );
    Schema::of("2026-07-28").check("InputRequiredResult", &asked["result"]);
    // a server that asks for what was not declared.
    let elicit = message(&json!(3), "tools/call", json!({"name": "elicit"}));
    let refused = modern::send(gate.front(), &elicit).await;
    assert_eq!(refused.status, 400);
    assert_eq!(body(&refused)["error"]["code"], -32021);
    assert_eq!(
        body(&refused)["error"]["data"]["requiredCapabilities"],
        json!({"elicitation": {"form": {}}})
    );
}

/// a modern host hears log messages of its own call alone, and only where it asked.
#[tokio::test]
async fn log_messages_belong_to_the_call_that_asked_for_them() {
    let gate = gate().await;
    let call = |id: u64, level: Option<&str>| {
        let mut call = message(
            &json!(id),
            "tools/call",
            json!({"name": "log", "arguments": {"data": id}}),
        );
        if let Some(level) = level {
            call["params"]["_meta"][LOG_LEVEL] = json!(level);
        }
        call
    };
    let told = modern::send(gate.front(), &call(1, Some("info"))).await;
    let told = events(&told);
    assert_eq!(told[0]["method"], "notifications/message", "{told:?}");
    assert_eq!(told[0]["params"]["data"], 1);
    // Beside a call that wants none.
    let wait = json!({"name": "wait", "arguments": {"ms": 1500, "nonce": "n"}});
    let wait = message(&json!(3), "tools/call", wait);
    let (waited, told) = tokio::join!(modern::send(gate.front(), &wait), async {
        let one = json!({"name": "wait", "arguments": {"ms": 300}});
        modern::send(gate.front(), &message(&json!(4), "tools/call", one)).await;
        modern::send(gate.front(), &call(5, Some("info"))).await
    });
    assert!(body(&waited)["result"].is_object(), "{}", waited.text());
    assert_eq!(events(&told)[0]["params"]["data"], 5, "{}", told.text());
    for level in [None, Some("error")] {
        let quiet = modern::send(gate.front(), &call(2, level)).await;
        assert!(body(&quiet)["result"].is_object(), "{}", quiet.text());
    }
}

/// What a server hands to one agent is of no use to another, who is told so before the server hears.
#[tokio::test]
async fn states_and_tasks_are_good_for_the_agent_that_got_them() {
    let tables = server().table("era = \"modern\"")
        + &mock("b").ledger().flags(&["--eras", "modern"]).table("")
        + "[identity]\nheader = \"x-agent-id\"\n";
    let gate = Gate::with(&tables).start().await;
    let able = json!({CAPABILITIES: {"elicitation": {}, "extensions": {"io.modelcontextprotocol/tasks": {}}}});
    let send = async |agent: &str, method: &str, mut params: Value| {
        params["_meta"] = able.clone();
        let said = message(&json!(1), method, params);
        let mut fields = modern::fields(&said);
        if let Some(task) = said["params"]["taskId"].as_str() {
            fields.push(("mcp-name", task));
        }
        fields.push(("x-agent-id", agent));
        body(&request(gate.front(), "POST", "/mcp", &fields, said.to_string()).await)
    };
    let asked = send(
        "mina",
        "tools/call",
        json!({"name": "a__elicit", "arguments": {"n": 1}}),
    )
    .await;
    let mut retry = json!({"name": "a__elicit", "arguments": {"n": 1}});
    retry["requestState"] = asked["result"]["requestState"].clone();
    retry["inputResponses"] = json!({"e": {"action": "accept"}});
    let calls = gate.heard("a").calls();
    let stolen = send("eve", "tools/call", retry.clone()).await;
    assert_eq!(stolen["error"]["code"], -32602, "{stolen}");
    assert_eq!(gate.heard("a").calls(), calls, "the server heard it");
    let own = send("mina", "tools/call", retry.clone()).await;
    assert!(own["result"]["content"].is_array(), "{own}");
    // The server gave the other agent the same state: then it is that one's as well.
    send(
        "eve",
        "tools/call",
        json!({"name": "a__elicit", "arguments": {"n": 1}}),
    )
    .await;
    let own = send("eve", "tools/call", retry).await;
    assert!(own["result"]["content"].is_array(), "{own}");
    let task = send("mina", "tools/call", json!({"name": "b__as-task"})).await;
    assert_eq!(task["result"]["resultType"], "task", "{task}");
    let id = json!({"taskId": task["result"]["taskId"]});
    let got = send("mina", "tasks/get", id.clone()).await;
    assert_eq!(got["result"]["status"], "completed", "{got}");
    // As one that never was.
    let heard = gate.heard("b").of("tasks/get").len();
    for path in ["/mcp", "/server/b/mcp"] {
        let said = message(&json!(1), "tasks/get", id.clone());
        let mut fields = modern::fields(&said);
        let task = id["taskId"].as_str().unwrap();
        fields.extend([("mcp-name", task), ("x-agent-id", "eve")]);
        let stolen = request(gate.front(), "POST", path, &fields, said.to_string()).await;
        assert_eq!(body(&stolen)["error"]["code"], -32602, "{}", stolen.text());
    }
    assert_eq!(gate.heard("b").of("tasks/get").len(), heard);
}

/// what a server says may be kept is asked for once, until it says that it changed.
#[tokio::test]
async fn lists_are_kept_for_as_long_as_their_server_says() {
    let gate = gate().await;
    let list = async |agent: &str| {
        let said = message(&json!(1), "tools/list", json!({}));
        let mut fields = modern::fields(&said);
        fields.push(("x-agent-id", agent));
        let path = "/server/a/mcp";
        body(&request(gate.front(), "POST", path, &fields, said.to_string()).await)
    };
    let first = list("mina").await;
    assert_eq!(first["result"]["cacheScope"], "public");
    let mut second = list("eve").await;
    let left = second["result"]["ttlMs"].take();
    assert!(left.as_u64().is_some_and(|left| left < 60_000), "{left}");
    second["result"]["ttlMs"] = first["result"]["ttlMs"].clone();
    assert_eq!(second, first);
    let host = gate.host().open().await;
    host.request("tools/list", json!({})).await.result();
    let asked = || gate.heard("a").of("tools/list").len();
    assert_eq!(asked(), 1);
    host.call("changed", json!({})).await;
    until("the list is asked for again", seconds(5), async || {
        list("mina").await;
        (asked() == 2).then_some(())
    })
    .await;
    // A server that ends takes what it said with it.
    host.call("crash", json!({})).await;
    // By its hosts, and by chillgate, which sees whether the list is another one now.
    until("another server is asked", seconds(10), async || {
        list("mina").await;
        (asked() >= 3).then_some(())
    })
    .await;
}

/// Where not everybody may see everything, no list is for everybody.
#[tokio::test]
async fn what_policies_cut_is_private() {
    let tables = server().table("era = \"modern\"")
        + "[[policy]]\ntype = \"access\"\ndeny = [\"a__delete_*\"]\n";
    let gate = Gate::with(&tables).start().await;
    for (method, params) in [
        ("tools/list", json!({})),
        ("resources/read", json!({"uri": "mock://a/doc"})),
    ] {
        let said = message(&json!(1), method, params);
        let fields = modern::fields(&said);
        let path = "/server/a/mcp";
        let answer = request(gate.front(), "POST", path, &fields, said.to_string()).await;
        assert_eq!(body(&answer)["result"]["cacheScope"], "private", "{method}");
        assert!(!answer.text().contains("delete_all"));
    }
}

/// Twenty hosts of each era at once, each with its own questions and answers.
#[tokio::test]
async fn forty_hosts_of_both_eras_at_once_get_their_own_answers() {
    let gate = gate().await;
    let legacy = async |n: u64| {
        let host = able(&gate).await;
        for round in 0..5 {
            let call = host.message("tools/call", Some(json!({"name": "elicit"})));
            let mut events = host.stream(&call).await;
            let asked = next(&mut events, "the question").await;
            let nonce = format!("legacy {n} {round}");
            host.respond(&asked["id"], json!({"action": nonce})).await;
            let answer = next(&mut events, "the answer").await;
            assert!(answer.to_string().contains(&nonce), "{answer}");
        }
    };
    let newer = async |n: u64| {
        for round in 0..5 {
            let nonce = format!("modern {n} {round}");
            let able = json!({CAPABILITIES: {"elicitation": {}}});
            let mut call = message(
                &json!(0),
                "tools/call",
                json!({"name": "elicit", "_meta": able}),
            );
            let asked = body(&modern::send(gate.front(), &call).await);
            call["params"]["requestState"] = asked["result"]["requestState"].clone();
            call["params"]["inputResponses"] = json!({"e": {"action": nonce}});
            let answer = body(&modern::send(gate.front(), &call).await);
            assert!(answer.to_string().contains(&nonce), "{answer}");
        }
    };
    tokio::join!(all((0..20).map(&legacy)), all((0..20).map(&newer)));
}
