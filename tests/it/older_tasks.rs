//! Tasks of servers of 2025-11-25, for hosts of revision 2026-07-28.
//!
//! It stands apart because a task here outlives its call, and because its server, the official SDK,
//! asks about it only whoever waits for the result. The official suite judges the single messages;
//! here is what many hosts do at a time, and what hosts do that know no tasks.

use std::time::Duration;

use serde_json::{Value, json};
use tokio::process::Child;

use chillgate_tests::http::{Connection, request};
use chillgate_tests::modern::{CAPABILITIES, answered, body, fields, message};
use chillgate_tests::process::free_port;
use chillgate_tests::schema::Schema;
use chillgate_tests::script::npm_server;
use chillgate_tests::server::toml_list;
use chillgate_tests::sse::Events;
use chillgate_tests::wait::{all, seconds};
use chillgate_tests::{Gate, until};

use crate::mock;
use crate::modern_servers::next;
use crate::peers::{legacy_remote, legacy_server};

const HEADER: &str = "[identity]\nheader = \"x-agent-id\"\n";

/// Behind two names: a process, and Streamable HTTP.
struct House {
    gate: Gate,
    _remote: Child,
}

const WAYS: [&str; 2] = ["stdio", "http"];

impl House {
    async fn open() -> Self {
        let port = free_port();
        let remote = legacy_remote(port).await;
        let tables = format!(
            "[server.stdio]\ncommand = {}\n[server.http]\n\
             url = \"http://127.0.0.1:{port}/mcp\"\n{HEADER}",
            toml_list(&legacy_server())
        );
        Self {
            gate: Gate::with(&tables).start().await,
            _remote: remote,
        }
    }

    fn host(&self, server: &str) -> Host<'_> {
        let path = format!("/server/{server}/mcp");
        Host {
            gate: &self.gate,
            path,
            agent: "mina",
            capabilities: json!({"elicitation": {}, "extensions": {TASKS: {}}}),
        }
    }
}

const SUBSCRIPTION_ID: &str = "io.modelcontextprotocol/subscriptionId";
const TASKS: &str = "io.modelcontextprotocol/tasks";

struct Host<'a> {
    gate: &'a Gate,
    path: String,
    agent: &'a str,
    capabilities: Value,
}

impl Host<'_> {
    fn unaware(mut self) -> Self {
        self.capabilities = json!({"elicitation": {}});
        self
    }

    async fn ask(&self, method: &str, mut params: Value) -> Value {
        params["_meta"][CAPABILITIES] = self.capabilities.clone();
        let sent = message(&json!(1), method, params);
        let mut head = fields(&sent);
        let task = sent["params"]["taskId"].as_str();
        head.extend(task.map(|task| ("mcp-name", task)));
        head.push(("x-agent-id", self.agent));
        let at = self.gate.front();
        body(&request(at, "POST", &self.path, &head, sent.to_string()).await)
    }

    async fn call(&self, tool: &str, arguments: Value) -> Value {
        self.ask("tools/call", json!({"name": tool, "arguments": arguments}))
            .await["result"]
            .clone()
    }

    /// The id of the task that the call becomes.
    async fn begin(&self, tool: &str, arguments: Value) -> Value {
        let made = self.call(tool, arguments).await;
        assert_eq!(made["resultType"], "task", "{made}");
        assert_eq!(made["ttlMs"], 3_600_000, "{made}");
        assert_eq!(made["pollIntervalMs"], 50, "{made}");
        for gone in ["ttl", "pollInterval", "task"] {
            assert!(made[gone].is_null(), "{made}");
        }
        json!({"taskId": made["taskId"]})
    }

    /// The task once it is neither working nor in doubt.
    async fn settled(&self, task: &Value) -> Value {
        let begun = tokio::time::Instant::now();
        loop {
            let said = self.ask("tasks/get", task.clone()).await["result"].clone();
            if said["status"] != "working" {
                assert_eq!(said["resultType"], "complete", "{said}");
                return said;
            }
            assert!(begun.elapsed() < seconds(20), "{said}");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
}

/// The questions of a task, each with its key.
fn questions(task: &Value) -> Vec<(String, Value)> {
    assert_eq!(task["status"], "input_required", "{task}");
    let asked = task["inputRequests"].as_object().unwrap();
    for one in asked.values() {
        Schema::of("2026-07-28").check("InputRequest", one);
    }
    asked.clone().into_iter().collect()
}

fn text(result: &Value) -> String {
    let text = result["content"][0]["text"].as_str();
    text.unwrap_or_else(|| panic!("no text: {result}"))
        .to_owned()
}

async fn runs(host: &Host<'_>) -> Value {
    serde_json::from_str(&text(&host.call("runs", json!({})).await)).unwrap()
}

/// R-081: what the server says of tasks in its own words, the host reads in its own.
#[tokio::test]
async fn tasks_are_offered_in_the_words_of_the_extension() {
    let house = House::open().await;
    for way in WAYS {
        let host = house.host(way);
        let said = host.ask("server/discover", json!({})).await["result"].clone();
        Schema::of("2026-07-28").check("DiscoverResult", &said);
        assert_eq!(
            said["capabilities"]["extensions"][TASKS],
            json!({}),
            "{said}"
        );
        assert!(said["capabilities"]["tasks"].is_null(), "{said}");
        let list = host.ask("tools/list", json!({})).await["result"].clone();
        Schema::of("2026-07-28").check("ListToolsResult", &list);
        let tools = list["tools"].as_array().unwrap();
        for name in ["report", "slow_compute"] {
            let tool = tools.iter().find(|tool| tool["name"] == name).unwrap();
            assert!(tool["execution"].is_null(), "{tool}");
        }
    }
    // On the endpoint of all servers as well, to who knows what to do with them.
    let mut host = house.host("stdio");
    "/mcp".clone_into(&mut host.path);
    let said = host.ask("server/discover", json!({})).await["result"].clone();
    assert_eq!(
        said["capabilities"]["extensions"][TASKS],
        json!({}),
        "{said}"
    );
    let said = host.unaware().ask("server/discover", json!({})).await["result"].clone();
    assert!(said["capabilities"]["extensions"].is_null(), "{said}");
    // A host that has not declared the extension is told what it would take.
    for method in ["tasks/get", "tasks/update", "tasks/cancel"] {
        let host = house.host("stdio").unaware();
        let refused = host
            .ask(method, json!({"taskId": "t", "inputResponses": {}}))
            .await;
        assert_eq!(refused["error"]["code"], -32021, "{refused}");
        let needed = &refused["error"]["data"]["requiredCapabilities"];
        assert_eq!(*needed, json!({"extensions": {TASKS: {}}}));
    }
}

/// A tool that is called as a task only is seen through for a host that knows no tasks, one that may
/// be is called in the usual way; and each runs once.
#[tokio::test]
async fn a_host_that_knows_no_tasks_gets_the_result() {
    let house = House::open().await;
    for way in WAYS {
        let host = house.host(way).unaware();
        let report = host.call("report", json!({"topic": "rest"})).await;
        Schema::of("2026-07-28").check("CallToolResult", &report);
        assert_eq!(report["resultType"], "complete");
        assert_eq!(report["structuredContent"]["topic"], "rest", "{report}");
        assert!(!report.to_string().contains("related-task"), "{report}");
        let failed = host.call("failing_job", json!({})).await;
        assert_eq!(failed["isError"], true, "{failed}");
        let slow = host.call("slow_compute", json!({"seconds": 0.1})).await;
        assert_eq!(text(&slow), "It took 0.1 s.");
        // It asks in the midst of it, and the answer is the outcome of the same call.
        let ask = json!({"name": "confirm_required", "arguments": {"filename": "a"}});
        let asked = host.ask("tools/call", ask.clone()).await["result"].clone();
        Schema::of("2026-07-28").check("InputRequiredResult", &asked);
        let retry = answered(
            &ask,
            &asked,
            &json!({"action": "accept", "content": {"name": "x", "confirm": true}}),
        );
        let done = host.ask("tools/call", retry).await["result"].clone();
        assert_eq!(text(&done), r#"a: accept {"confirm":true,"name":"x"}"#);
        let counted = json!({"report": 1, "failing_job": 1, "slow_compute": 1, "confirm_required": 1, "cancelled": 0});
        assert_eq!(runs(&host).await, counted, "{way}");
    }
}

/// Whoever gives up on such a tool has its task cancelled.
#[tokio::test]
async fn a_task_that_nobody_waits_for_is_cancelled() {
    let house = House::open().await;
    for way in WAYS {
        let host = house.host(way).unaware();
        let ask = host.call("slow_required", json!({"seconds": 30}));
        assert!(tokio::time::timeout(seconds(2), ask).await.is_err());
        until("the task is cancelled", seconds(10), async || {
            let counted = runs(&host).await;
            assert_eq!(counted["slow_required"], 1);
            (counted["cancelled"] == 1).then_some(())
        })
        .await;
    }
}

/// Attribution: twelve tasks of two hosts at a time, each of which asks, beside calls that ask as
/// well; every answer reaches its own.
#[tokio::test]
async fn each_tasks_questions_are_its_own() {
    let house = House::open().await;
    for way in WAYS {
        // A call that waits for its host all the while.
        let waiting = house.host(way);
        let asked = json!({"name": "test_input_required_result_elicitation", "arguments": {}});
        let first = waiting.ask("tools/call", asked.clone()).await["result"].clone();
        assert_eq!(first["resultType"], "input_required", "{first}");
        let tasks = (0..12).map(|number| {
            let house = &house;
            async move {
                let mut host = house.host(way);
                host.agent = if number % 2 == 0 { "mina" } else { "joe" };
                let file = format!("file-{number}");
                let task = host
                    .begin("confirm_delete", json!({"filename": file}))
                    .await;
                let asked = questions(&host.settled(&task).await);
                let [(key, question)] = asked.as_slice() else {
                    panic!("{asked:?}");
                };
                let wanted = format!("Delete {file}?");
                assert_eq!(question["params"]["message"], wanted, "{asked:?}");
                let content = json!({"name": format!("answer-{number}"), "confirm": true});
                let answer = json!({"action": "accept", "content": content});
                let mut update = task.clone();
                update["inputResponses"] = json!({key: answer, "q999999": {"action": "decline"}});
                let acknowledged = host.ask("tasks/update", update).await["result"].clone();
                assert_eq!(acknowledged, json!({"resultType": "complete"}));
                let done = host.settled(&task).await;
                assert_eq!(done["status"], "completed", "{done}");
                assert_eq!(text(&done["result"]), format!("{file}: accept {content}"));
                assert!(!done.to_string().contains("related-task"), "{done}");
            }
        });
        all(tasks).await;
        let retry = answered(
            &asked,
            &first,
            &json!({"action": "accept", "content": {"name": "w"}}),
        );
        let done = waiting.ask("tools/call", retry).await["result"].clone();
        assert!(text(&done).contains('w'), "{done}");
    }
}

/// A question may come before the word that there is a task; and one that names neither call nor task
/// is nobody's where two calls could be meant.
#[tokio::test]
async fn a_question_is_put_to_its_task_or_to_nobody() {
    let house = House::open().await;
    for way in WAYS {
        let host = house.host(way);
        for _ in 0..5 {
            let task = host.begin("early_question", json!({})).await;
            let asked = questions(&host.settled(&task).await);
            assert_eq!(asked[0].1["params"]["message"], "Early?", "{asked:?}");
            let mut update = task.clone();
            update["inputResponses"] = json!({&asked[0].0: {"action": "decline"}});
            host.ask("tasks/update", update).await;
            let done = host.settled(&task).await;
            assert_eq!(text(&done["result"]), r#"{"action":"decline"}"#);
        }
    }
    // Over stdio nothing says which call a question is about but that there is one.
    let host = house.host("stdio");
    let waiting = json!({"name": "test_input_required_result_elicitation", "arguments": {}});
    let first = host.ask("tools/call", waiting.clone()).await["result"].clone();
    assert_eq!(first["resultType"], "input_required", "{first}");
    let ambiguous = host.ask("tools/call", json!({"name": "test_tool_with_task"}));
    let refused = tokio::time::timeout(seconds(10), ambiguous).await.unwrap();
    let said = refused["error"]["message"].as_str().unwrap_or_default();
    assert!(said.contains("which of its calls"), "{refused}");
    let retry = answered(
        &waiting,
        &first,
        &json!({"action": "accept", "content": {"name": "w"}}),
    );
    let done = host.ask("tools/call", retry).await["result"].clone();
    assert!(text(&done).contains('w'), "{done}");
}

/// A task that waits for its host keeps nothing else waiting: not what other calls ask, and not a
/// place among the requests that a server may have at one time.
#[tokio::test]
async fn a_waiting_task_is_in_nobodys_way() {
    let tables = format!(
        "[server.stdio]\ncommand = {}\n[limits]\nin-flight-per-server = 2\n{HEADER}",
        toml_list(&legacy_server())
    );
    let gate = Gate::with(&tables).start().await;
    let host = Host {
        gate: &gate,
        path: "/server/stdio/mcp".to_owned(),
        agent: "mina",
        capabilities: json!({"elicitation": {}, "extensions": {TASKS: {}}}),
    };
    let mut waiting = Vec::new();
    for file in ["a", "b", "c"] {
        let task = host
            .begin("confirm_delete", json!({"filename": file}))
            .await;
        let asked = questions(&host.settled(&task).await);
        waiting.push((file, task, asked[0].0.clone()));
    }
    let list = tokio::time::timeout(seconds(10), host.ask("tools/list", json!({}))).await;
    assert!(list.unwrap()["result"]["tools"].is_array());
    // It asks before there is a task, and names none.
    let asked = host
        .ask("tools/call", json!({"name": "test_tool_with_task"}))
        .await;
    assert_eq!(asked["result"]["resultType"], "input_required", "{asked}");
    for (file, task, key) in waiting {
        let mut update = task.clone();
        update["inputResponses"] = json!({key: {"action": "decline"}});
        host.ask("tasks/update", update).await;
        let done = host.settled(&task).await;
        assert_eq!(text(&done["result"]), format!("{file}: decline {{}}"));
    }
}

/// A host that declares something else with its next request is still the owner of its task; no
/// other agent is. On the endpoint of all servers as well.
#[tokio::test]
async fn a_task_is_found_by_its_agent_and_nobody_else() {
    let house = House::open().await;
    for (way, path) in WAYS.into_iter().flat_map(|way| [(way, ""), (way, "/mcp")]) {
        let mut host = house.host(way);
        let mut tool = "slow_compute".to_owned();
        if !path.is_empty() {
            path.clone_into(&mut host.path);
            tool = format!("{way}__slow_compute");
        }
        let task = host.begin(&tool, json!({"seconds": 30})).await;
        host.capabilities = json!({"extensions": {TASKS: {}}, "roots": {}});
        let same = host.ask("tasks/get", task.clone()).await["result"].clone();
        assert_eq!(
            (&same["taskId"], &same["status"]),
            (&task["taskId"], &json!("working"))
        );
        let mut thief = house.host(way);
        (thief.agent, thief.path) = ("eve", host.path.clone());
        for method in ["tasks/get", "tasks/update", "tasks/cancel"] {
            let mut params = task.clone();
            params["inputResponses"] = json!({});
            let refused = thief.ask(method, params).await;
            assert_eq!(refused["error"]["code"], -32602, "{method}: {refused}");
            let never = json!({"taskId": "never-was", "inputResponses": {}});
            let unknown = thief.ask(method, never).await;
            assert_eq!(unknown["error"]["code"], -32602, "{method}: {unknown}");
        }
        let still = host.ask("tasks/get", task.clone()).await["result"].clone();
        assert_eq!(still["status"], "working", "{still}");
        let over = host.ask("tasks/cancel", task.clone()).await["result"].clone();
        assert_eq!(over, json!({"resultType": "complete"}));
        assert_eq!(host.settled(&task).await["status"], "cancelled");
        // Once more is no mistake.
        let again = host.ask("tasks/cancel", task).await["result"].clone();
        assert_eq!(again, json!({"resultType": "complete"}));
    }
}

/// A server somebody else made, whose only task asks first: as a task, and seen through.
#[tokio::test]
async fn the_research_of_server_everything_can_be_had_in_both_ways() {
    let words = [
        "node".to_owned(),
        npm_server("everything").display().to_string(),
        "stdio".to_owned(),
    ];
    let table = format!("[server.e]\ncommand = {}\n{HEADER}", toml_list(&words));
    let gate = Gate::with(&table).start().await;
    let host = || Host {
        gate: &gate,
        path: "/server/e/mcp".to_owned(),
        agent: "mina",
        capabilities: json!({"elicitation": {}, "extensions": {TASKS: {}}}),
    };
    let query = json!({"topic": "python", "ambiguous": true});
    let answer = json!({"action": "accept", "content": {"interpretation": "snake"}});
    let as_task = async {
        let host = host();
        let made = host.call("simulate-research-query", query.clone()).await;
        assert_eq!(made["resultType"], "task", "{made}");
        let task = json!({"taskId": made["taskId"]});
        let asked = questions(&host.settled(&task).await);
        let mut update = task.clone();
        update["inputResponses"] = json!({&asked[0].0: answer.clone()});
        host.ask("tasks/update", update).await;
        let done = host.settled(&task).await;
        assert!(text(&done["result"]).contains("python (snake)"), "{done}");
    };
    let seen_through = async {
        let host = host().unaware();
        let ask = json!({"name": "simulate-research-query", "arguments": query.clone()});
        let asked = host.ask("tools/call", ask.clone()).await["result"].clone();
        assert_eq!(asked["resultType"], "input_required", "{asked}");
        let retry = answered(&ask, &asked, &answer);
        let done = host.ask("tools/call", retry).await["result"].clone();
        assert!(text(&done).contains("python (snake)"), "{done}");
    };
    tokio::join!(as_task, seen_through);
}

/// R-084: whoever listens for a task hears what becomes of it, whether its server says so or not.
/// Nobody else does, and no task of another agent is followed.
#[tokio::test]
async fn a_host_can_listen_for_its_tasks() {
    let house = House::open().await;
    for way in WAYS {
        let host = house.host(way);
        let task = host.begin("confirm_delete", json!({"filename": "a"})).await;
        let other = host.begin("slow_compute", json!({"seconds": 0.1})).await;
        let listen = |agent: &'static str| {
            let (host, ids) = (&host, json!([task["taskId"], "never-was"]));
            async move {
                let params = json!({
                    "notifications": {"taskIds": ids},
                    "_meta": {CAPABILITIES: host.capabilities},
                });
                let sent = message(&json!("ear"), "subscriptions/listen", params);
                let mut head = fields(&sent);
                head.push(("x-agent-id", agent));
                let mut connection = Connection::open(host.gate.front()).await;
                let raw = sent.to_string().into();
                let stream = connection.send("POST", &host.path, &head, raw).await;
                let events = Events::new(stream.into_body());
                (
                    connection,
                    events.judged("2026-07-28", "subscriptions/listen"),
                )
            }
        };
        let (_kept, mut ear) = listen("mina").await;
        let (_kept_too, mut deaf) = listen("eve").await;
        let agreed = next(&mut ear, "what was agreed").await;
        assert_eq!(agreed["method"], "notifications/subscriptions/acknowledged");
        let wanted = json!({"taskIds": [task["taskId"]]});
        assert_eq!(agreed["params"]["notifications"], wanted, "{agreed}");
        let nothing = next(&mut deaf, "what was agreed").await;
        assert_eq!(nothing["params"]["notifications"], json!({}), "{nothing}");
        host.settled(&other).await;
        let asked = questions(&host.settled(&task).await);
        let mut update = task.clone();
        update["inputResponses"] = json!({&asked[0].0: {"action": "decline"}});
        host.ask("tasks/update", update).await;
        let over = loop {
            let told = next(&mut ear, "news of the task").await;
            assert_eq!(told["method"], "notifications/tasks", "{told}");
            let told = &told["params"];
            assert_eq!(told["taskId"], task["taskId"]);
            assert_eq!(told["_meta"][SUBSCRIPTION_ID], "ear");
            if told["status"] == "completed" {
                break told.clone();
            }
        };
        assert_eq!(text(&over["result"]), "a: decline {}");
        assert!(
            over.get("resultType").is_none() && over.get("ttl").is_none(),
            "{over}"
        );
        // Who comes late hears how it has ended.
        let (_late, mut late) = listen("mina").await;
        next(&mut late, "what was agreed").await;
        let told = next(&mut late, "how it is").await;
        assert_eq!(told["params"]["status"], "completed", "{told}");
    }
    let host = house.host("http").unaware();
    let params = json!({"notifications": {"taskIds": ["t"]}});
    let refused = host.ask("subscriptions/listen", params).await;
    assert_eq!(refused["error"]["code"], -32021, "{refused}");
}

/// A server without tasks is not asked for one, whatever its tools and its hosts say.
#[tokio::test]
async fn a_server_without_tasks_makes_none() {
    let gate = Gate::with(&(mock("a").ledger().table("") + HEADER))
        .start()
        .await;
    let host = Host {
        gate: &gate,
        path: "/server/a/mcp".to_owned(),
        agent: "mina",
        capabilities: json!({"extensions": {TASKS: {}}}),
    };
    let said = host
        .ask("tools/call", json!({"name": "params", "task": {"ttl": 1}}))
        .await;
    assert_eq!(text(&said["result"]), r#"{"name":"params"}"#);
    let unknown = host.ask("tasks/get", json!({"taskId": "t"})).await;
    assert_eq!(unknown["error"]["code"], -32601, "{unknown}");
    assert!(gate.heard("a").of("tasks/get").is_empty());
}
