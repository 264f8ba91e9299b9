//! Tasks of the extension of 2026-07-28 in the words of 2025-11-25 (eras, b.6).
//!
//! The two have the thing in common and neither names nor places: there the server decides that a
//! call becomes a task, here the host asks for one. It never asks anybody.

use chillgate_wire::{Envelope, json};
use serde_json::{Map, Value, json as value};

/// The extension.
pub const EXTENSION: &str = "io.modelcontextprotocol/tasks";
/// What says in 2025-11-25 that a message is about a task.
const RELATED: &str = "io.modelcontextprotocol/related-task";

/// Whether a server of 2026-07-28 has the extension, by its `server/discover` result.
pub fn are_offered(discovered: &[u8]) -> bool {
    json::path(discovered, &["capabilities", "extensions", EXTENSION]).is_some()
}

/// What such a server offers to a host of 2025-11-25. No list: the extension has none.
pub fn offer() -> Value {
    value!({"cancel": {}, "requests": {"tools": {"call": {}}}})
}

/// A list of tools of such a server: each may be called as a task.
pub fn tools(list: &[u8]) -> Vec<u8> {
    let optional = br#""execution":{"taskSupport":"optional"}"#;
    let mut shown = vec![b'['];
    for at in json::items(list) {
        if shown.len() > 1 {
            shown.push(b',');
        }
        let tool = json::without(&list[at], "execution");
        // An object has its closing bracket last, and a tool has at least a name.
        shown.extend_from_slice(&tool[..tool.len() - 1]);
        shown.push(b',');
        shown.extend_from_slice(optional);
        shown.push(b'}');
    }
    shown.push(b']');
    shown
}

/// Capabilities of a host that knows what to do with a task.
pub fn declare(capabilities: &[u8]) -> Vec<u8> {
    let mut declared: Map<String, Value> = serde_json::from_slice(capabilities).unwrap_or_default();
    let extensions = declared.entry("extensions").or_insert_with(|| value!({}));
    if let Value::Object(extensions) = extensions {
        extensions.insert(EXTENSION.to_owned(), value!({}));
    }
    Value::Object(declared).to_string().into_bytes()
}

/// A task as the extension writes it, in the result of its making or in an answer about it.
pub fn read(answer: &Envelope) -> Option<Map<String, Value>> {
    let result = serde_json::from_slice(answer.result()?).ok()?;
    match result {
        Value::Object(task) if task.contains_key("taskId") => Some(task),
        _ => None,
    }
}

/// The same in the words of 2025-11-25.
pub fn express(task: &Map<String, Value>) -> Value {
    let mut said = Map::new();
    for (from, to) in [
        ("taskId", "taskId"),
        ("status", "status"),
        ("statusMessage", "statusMessage"),
        ("createdAt", "createdAt"),
        ("lastUpdatedAt", "lastUpdatedAt"),
        ("ttlMs", "ttl"),
        ("pollIntervalMs", "pollInterval"),
    ] {
        if let Some(value) = task.get(from) {
            said.insert(to.to_owned(), value.clone());
        }
    }
    said.entry("ttl").or_insert(Value::Null);
    // A tool that says that it failed has completed there, and failed here.
    if task
        .get("result")
        .is_some_and(|result| result["isError"] == true)
    {
        said.insert("status".to_owned(), value!("failed"));
    }
    Value::Object(said)
}

/// Adds to a message, under `part`, which task it is about.
pub fn relate(message: &Envelope, part: &'static str, task: &str) -> Envelope {
    let mut edit = message.edit();
    let about = value!({"taskId": task}).to_string().into_bytes();
    edit.set(&[part, "_meta", RELATED], about);
    edit.finish()
}
