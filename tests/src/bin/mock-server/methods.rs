//! The methods of MCP, answered as a plain legacy server would.
//!
//! It stands apart from the tools, where everything goes wrong: here nothing does, unless a flag
//! says so.

use serde_json::{Value, json};

use crate::flags::Eras;
use crate::modern;
use crate::server::{Server, lock};
use crate::tools;

/// Answers one request.
pub(crate) async fn answer(
    server: &Server,
    method: &str,
    id: &Value,
    message: &Value,
    line: String,
) {
    let params = &message["params"];
    let said_modern = modern::is_modern(message);
    let is_modern = match server.flags.eras {
        Eras::Legacy => false,
        Eras::Modern => true,
        Eras::First => *server.is_modern.get_or_init(|| said_modern),
    };
    if is_modern && said_modern {
        return modern::answer(server, method, id, message, line).await;
    }
    if is_modern {
        return respond(server, id, Err(modern::refusal()));
    }
    if server.flags.eras == Eras::First && said_modern {
        let error = json!({"code": -32600, "message": "this connection is of an older revision"});
        return respond(server, id, Err(error));
    }
    let result = match method {
        "initialize" => {
            *lock(&server.host) = params.clone();
            if server.flags.eager {
                let note = json!({"level": "info", "data": "on my way"});
                server.tell("notifications/message", note);
            }
            Ok(hello(server, params))
        }
        "resources/subscribe"
            if params["uri"]
                .as_str()
                .unwrap_or_default()
                .ends_with("/refused") =>
        {
            Err(json!({"code": -32602, "message": "No such resource"}))
        }
        "ping" | "logging/setLevel" | "resources/subscribe" | "resources/unsubscribe" => {
            Ok(json!({}))
        }
        "tools/call" => match tools::call(server, id, params, line).await {
            Some(result) => result,
            None => return,
        },
        "resources/read" => read(server, params),
        _ => match plain(server, method, params) {
            Some(result) => Ok(result),
            None if server.flags.deaf => return,
            None if server.flags.touchy => std::process::abort(),
            None => Err(json!({"code": -32601, "message": format!("Method not found: {method}")})),
        },
    };
    respond(server, id, result);
}

/// What is answered alike in all revisions.
pub(crate) fn plain(server: &Server, method: &str, params: &Value) -> Option<Value> {
    match method {
        "tools/list" => Some(page(server, "tools", &tools::list(server), params)),
        "resources/list" => Some(page(server, "resources", &[resource(server)], params)),
        "resources/templates/list" => {
            let template = json!({"uriTemplate": format!("mock://{}/item/{{id}}", server.flags.name), "name": "item"});
            Some(page(server, "resourceTemplates", &[template], params))
        }
        "prompts/list" => {
            let greet = json!({"name": "greet", "arguments": [{"name": "who", "required": true}]});
            Some(page(server, "prompts", &[greet], params))
        }
        "prompts/get" => Some(json!({"messages": [{"role": "user", "content": {
            "type": "text",
            "text": format!("{} greets {}", server.flags.name, params["arguments"]["who"]),
        }}]})),
        "completion/complete" => {
            let value = params["argument"]["value"].as_str().unwrap_or_default();
            Some(json!({"completion": {"values": [format!("{}-{value}", server.flags.name)]}}))
        }
        _ => None,
    }
}

/// Writes the answer, between garbage if so told.
pub(crate) fn respond(server: &Server, id: &Value, result: Result<Value, Value>) {
    let answer = match result {
        Ok(result) => json!({"jsonrpc": "2.0", "id": id, "result": result}),
        Err(error) => json!({"jsonrpc": "2.0", "id": id, "error": error}),
    };
    if server.flags.garbage {
        server
            .voice
            .raw(b"console.log('hi')\r\n{\"jsonrpc\": \"2.0\", \"id\": \n\xc3\x28\n".to_vec());
    }
    server.voice.say(&answer);
}

fn hello(server: &Server, params: &Value) -> Value {
    let asked = params["protocolVersion"].as_str().unwrap_or_default();
    let known = ["2024-11-05", "2025-03-26", "2025-06-18", "2025-11-25"].contains(&asked);
    json!({
        "protocolVersion": if known { asked } else { "2025-11-25" },
        "capabilities": {
            "tools": {"listChanged": true},
            "resources": {"subscribe": true, "listChanged": true},
            "prompts": {"listChanged": true},
            "completions": {},
            "logging": {},
            "experimental": {"x-mock": {"kept": true}},
        },
        "serverInfo": {"name": server.flags.name, "version": "1"},
        "instructions": format!("I am {}.", server.flags.name),
    })
}

/// One page of a list; the cursor is the offset of the next one.
fn page(server: &Server, member: &str, items: &[Value], params: &Value) -> Value {
    let from: usize = params["cursor"]
        .as_str()
        .and_then(|c| c.strip_prefix("at-")?.parse().ok())
        .unwrap_or(0);
    let end = from.saturating_add(server.flags.page).min(items.len());
    let mut page = json!({});
    page[member] = items.get(from..end).unwrap_or_default().into();
    if end < items.len() {
        page["nextCursor"] = json!(format!("at-{end}"));
    }
    page
}

fn resource(server: &Server) -> Value {
    json!({"uri": format!("mock://{}/doc", server.flags.name), "name": "doc", "mimeType": "text/plain"})
}

pub(crate) fn read(server: &Server, params: &Value) -> Result<Value, Value> {
    let uri = params["uri"].as_str().unwrap_or_default();
    let own = format!("mock://{}/", server.flags.name);
    if !uri.starts_with(&own) {
        return Err(json!({"code": -32002, "message": "Resource not found", "data": {"uri": uri}}));
    }
    Ok(json!({"contents": [{"uri": uri, "text": format!("{} has {uri}", server.flags.name)}]}))
}
