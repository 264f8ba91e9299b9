//! The same server in the words of revision 2026-07-28, where it is told to speak them.
//!
//! It stands apart from the legacy methods because a server of that revision answers everything in
//! another form: it says with each result what sort it is, asks in its answers, and tells of changes
//! only to those who listen. Some tools here break those rules on purpose.

use std::time::Duration;

use serde_json::{Value, json};

use crate::methods::{self, respond};
use crate::server::{Server, lock};
use crate::tools;

const VERSION: &str = "io.modelcontextprotocol/protocolVersion";
const SUBSCRIPTION: &str = "io.modelcontextprotocol/subscriptionId";

/// Whether the message is one of that revision.
pub(crate) fn is_modern(message: &Value) -> bool {
    !message["params"]["_meta"][VERSION].is_null()
}

/// What a server that speaks that revision only says to everything else.
pub(crate) fn refusal() -> Value {
    json!({"code": -32022, "message": "Unsupported protocol version", "data": {
        "supported": ["2026-07-28"], "requested": "2025-11-25",
    }})
}

/// Answers one request.
pub(crate) async fn answer(
    server: &Server,
    method: &str,
    id: &Value,
    message: &Value,
    line: String,
) {
    let params = &message["params"];
    let result = match method {
        "server/discover" => Ok(hello(server)),
        "subscriptions/listen" => return listen(server, id, params),
        "tools/call" => match call(server, id, params, line).await {
            Some(result) => result,
            None => return,
        },
        "initialize"
        | "ping"
        | "logging/setLevel"
        | "resources/subscribe"
        | "resources/unsubscribe" => {
            Err(json!({"code": -32601, "message": format!("Method not found: {method}")}))
        }
        "tasks/get" => Ok(task("completed")),
        "resources/read" => methods::read(server, params).map_err(|mut error| {
            error["code"] = json!(-32602);
            error
        }),
        _ => match methods::plain(server, method, params) {
            Some(result) => Ok(result),
            None => Err(json!({"code": -32601, "message": format!("Method not found: {method}")})),
        },
    };
    let result = result.map(|mut result| {
        if result["resultType"].is_null() {
            result["resultType"] = json!("complete");
        }
        if method.ends_with("/list") || method == "resources/read" {
            result["ttlMs"] = json!(60_000);
            let scope = if server.flags.private {
                "private"
            } else {
                "public"
            };
            result["cacheScope"] = json!(scope);
        }
        result["_meta"]["io.modelcontextprotocol/serverInfo"] = info(server);
        result["_meta"]["com.example/kept"] = json!(true);
        result
    });
    respond(server, id, result);
}

fn task(status: &str) -> Value {
    json!({
        "taskId": format!("task-of-{}", std::process::id()), "status": status, "ttlMs": null,
        "createdAt": "2026-11-21T00:00:00Z", "lastUpdatedAt": "2026-11-21T00:00:00Z",
    })
}

fn info(server: &Server) -> Value {
    json!({"name": server.flags.name, "version": "1"})
}

fn hello(server: &Server) -> Value {
    json!({
        "supportedVersions": ["2026-07-28"],
        "capabilities": {
            "tools": {"listChanged": true},
            "resources": {"subscribe": true, "listChanged": true},
            "prompts": {"listChanged": true},
            "completions": {},
            "logging": {},
            "experimental": {"x-mock": {"kept": true}},
            "extensions": {"com.example/x": {}},
        },
        "instructions": format!("I am {}.", server.flags.name),
        "ttlMs": 1000,
        "cacheScope": "public",
    })
}

/// Listens until the host no longer wants to; what it wants counts for what it is told.
fn listen(server: &Server, id: &Value, params: &Value) {
    let mut wanted = params["notifications"].clone();
    if let Some(uris) = wanted["resourceSubscriptions"].as_array_mut() {
        uris.retain(|uri| !uri.as_str().unwrap_or_default().ends_with("/refused"));
    }
    lock(&server.listening).push((id.clone(), wanted.clone()));
    let params = json!({"notifications": wanted, "_meta": {SUBSCRIPTION: id}});
    if !wanted.to_string().contains("/noisy") {
        return server.tell("notifications/subscriptions/acknowledged", params);
    }
    // News in the moment in which one subscription takes the place of another: in one breath, so
    // that nobody comes in between.
    let line = |method: &str, params: &Value| {
        format!(
            "{}\n",
            json!({"jsonrpc": "2.0", "method": method, "params": params})
        )
    };
    let mut breath = line("notifications/subscriptions/acknowledged", &params);
    for (id, _) in &*lock(&server.listening) {
        let news = json!({"uri": "mock://a/1", "_meta": {SUBSCRIPTION: id}});
        breath += &line("notifications/resources/updated", &news);
    }
    server.voice.raw(breath.into_bytes());
}

/// Tells all who listen to this.
pub(crate) fn tell_listeners(server: &Server, method: &str, params: &Value) {
    let wants = |wanted: &Value| match method {
        "notifications/resources/updated" => wanted["resourceSubscriptions"]
            .as_array()
            .is_some_and(|uris| uris.contains(&params["uri"])),
        "notifications/tools/list_changed" => wanted["toolsListChanged"] == true,
        "notifications/prompts/list_changed" => wanted["promptsListChanged"] == true,
        _ => wanted["resourcesListChanged"] == true,
    };
    for (id, wanted) in &*lock(&server.listening) {
        if wants(wanted) {
            let mut params = params.clone();
            params["_meta"][SUBSCRIPTION] = id.clone();
            server.tell(method, params);
        }
    }
}

async fn call(
    server: &Server,
    id: &Value,
    params: &Value,
    line: String,
) -> Option<Result<Value, Value>> {
    let given = &params["arguments"];
    let answers = &params["inputResponses"];
    let asked = |requests: Value, state: Value| {
        let mut result = json!({"resultType": "input_required", "inputRequests": requests});
        if !state.is_null() {
            result["requestState"] = state;
        }
        Some(Ok(result))
    };
    let roots = json!({"method": "roots/list"});
    let form = json!({"method": "elicitation/create", "params": {
        "mode": "form", "message": "Which colour?",
        "requestedSchema": {"type": "object", "properties": {"colour": {"type": "string"}}},
    }});
    let page = json!({"method": "elicitation/create", "params": {
        "mode": "url", "message": "Sign in", "url": "https://example.com/in",
    }});
    let able_model = json!({"method": "sampling/createMessage", "params": {
        "messages": [{"role": "user", "content": {"type": "text", "text": "what is chill?"}}],
        "maxTokens": 7, "tools": [], "toolChoice": {"mode": "auto"},
    }});
    let model = json!({"method": "sampling/createMessage", "params": {
        "messages": [{"role": "user", "content": {"type": "text", "text": "what is chill?"}}],
        "maxTokens": 7,
    }});
    let said = match params["name"].as_str().unwrap_or_default() {
        "roots" if answers.is_null() => return asked(json!({"r": roots}), Value::Null),
        "elicit" if answers.is_null() => return asked(json!({"e": form}), json!("the state")),
        "sample" if answers.is_null() => return asked(json!({"s": model}), json!("s")),
        "sample-able" if answers.is_null() => return asked(json!({"s": able_model}), Value::Null),
        "pair" if answers.is_null() => {
            return asked(json!({"a": model, "b": form}), Value::Null);
        }
        "page" if answers.is_null() => return asked(json!({"p": page}), Value::Null),
        "survey" if answers.is_null() => {
            return asked(json!({"e": form, "r": roots}), json!("one"));
        }
        "survey" if params["requestState"] == "one" => {
            return asked(json!({"s": model}), json!(format!("two {answers}")));
        }
        "forever" => return asked(json!({"e": form}), json!("again")),
        // It only wants to be called again.
        "again" => match params["requestState"].as_str() {
            None => {
                return Some(Ok(
                    json!({"resultType": "input_required", "requestState": "1"}),
                ));
            }
            Some("1") => {
                return Some(Ok(
                    json!({"resultType": "input_required", "requestState": "2"}),
                ));
            }
            state => format!("called with {state:?}"),
        },
        "as-task" => {
            let mut task = task("working");
            task["resultType"] = json!("task");
            return Some(Ok(task));
        }
        "nothing" => return Some(Ok(json!({"resultType": "input_required"}))),
        "odd-question" => return asked(json!({"q": {"method": "tasks/get"}}), Value::Null),
        "odd-type" => return Some(Ok(json!({"resultType": "who-knows", "content": []}))),
        "roots" | "elicit" | "sample" | "sample-able" | "page" | "survey" => {
            json!({"answers": answers, "state": params["requestState"]}).to_string()
        }
        // A list is fine here, and older revisions know objects only.
        "numbers" => {
            return Some(Ok(json!({"content": [], "structuredContent": [1, 2, 3]})));
        }
        // Forbidden since this revision; nobody must answer it.
        "ask-host" => {
            let asking = server.ask("roots/list", Value::Null);
            let said = tokio::time::timeout(Duration::from_millis(500), asking).await;
            format!("{said:?}")
        }
        "told-unasked" => {
            let note = json!({"_meta": {SUBSCRIPTION: 987_654}});
            server.tell("notifications/tools/list_changed", Value::Null);
            server.tell("notifications/tools/list_changed", note);
            "told".to_owned()
        }
        "changed" => {
            for what in ["tools", "prompts", "resources"] {
                let method = format!("notifications/{what}/list_changed");
                tell_listeners(server, &method, &json!({}));
            }
            "changed".to_owned()
        }
        "updated" => {
            let params = json!({"uri": given["uri"]});
            tell_listeners(server, "notifications/resources/updated", &params);
            "updated".to_owned()
        }
        "hang-up" => {
            let ended = std::mem::take(&mut *lock(&server.listening));
            for (id, _) in &ended {
                let result = json!({"resultType": "complete", "_meta": {SUBSCRIPTION: id}});
                respond(server, id, Ok(result));
            }
            format!("{} hung up", ended.len())
        }
        "listening" => Value::from(
            lock(&server.listening)
                .iter()
                .map(|(_, wanted)| wanted.clone())
                .collect::<Vec<_>>(),
        )
        .to_string(),
        _ => return tools::call(server, id, params, line).await,
    };
    Some(Ok(json!({"content": [{"type": "text", "text": said}]})))
}
