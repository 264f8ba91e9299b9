//! Tasks of the extension of 2026-07-28 in the words of 2025-11-25, and the other way (eras, b.6).
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

/// Whether a server of 2025-11-25 has tools that can be called as tasks, by its `initialize` result.
pub fn are_had(said: &[u8]) -> bool {
    let path = ["capabilities", "tasks", "requests", "tools", "call"];
    json::path(said, &path).is_some()
}

/// Whether a modern host knows what to do with a task, by its capabilities.
pub fn are_declared(capabilities: &[u8]) -> bool {
    json::path(capabilities, &["extensions", EXTENSION]).is_some()
}

/// What a host would have to declare to have tasks.
pub fn lacking() -> Value {
    value!({"extensions": {(EXTENSION): {}}})
}

/// The task that a message of 2025-11-25 is about.
pub fn related(message: &Envelope) -> Option<String> {
    let id = message.text(&["params", "_meta", RELATED, "taskId"])?;
    Some(id.into_owned())
}

/// The tools of a list that can be called where there are no tasks. `None`: all of them.
pub fn callable(list: &[u8]) -> Option<Vec<u8>> {
    let all = || json::items(list).map(|at| &list[at]);
    let is_callable = |tool: &&[u8]| support(tool) != Support::Required;
    if all().all(|tool| is_callable(&tool)) {
        return None;
    }
    let kept: Vec<&[u8]> = all().filter(is_callable).collect();
    Some([b"[", kept.join(&b","[..]).as_slice(), b"]"].concat())
}

/// How a tool of 2025-11-25 may be called.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Support {
    /// In the usual way only.
    Forbidden,
    /// As a task as well.
    Optional,
    /// As a task only.
    Required,
}

/// The tools of a list, and how each may be called.
pub fn supports(list: &[u8]) -> impl Iterator<Item = (String, Support)> + '_ {
    json::items(list).filter_map(|at| {
        let tool = &list[at];
        let name = json::text(&tool[json::member(tool, "name")?])?.into_owned();
        Some((name, support(tool)))
    })
}

fn support(tool: &[u8]) -> Support {
    let said = json::path(tool, &["execution", "taskSupport"]).map(|at| &tool[at]);
    match said.and_then(json::text).as_deref() {
        Some("required") => Support::Required,
        Some("optional") => Support::Optional,
        _ => Support::Forbidden,
    }
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

/// What a task says of itself: in 2025-11-25, and in the extension.
const MEMBERS: [(&str, &str); 7] = [
    ("taskId", "taskId"),
    ("status", "status"),
    ("statusMessage", "statusMessage"),
    ("createdAt", "createdAt"),
    ("lastUpdatedAt", "lastUpdatedAt"),
    ("ttl", "ttlMs"),
    ("pollInterval", "pollIntervalMs"),
];

/// A task of 2025-11-25 in the words of the extension, without what it has come to.
pub fn flat(task: &Map<String, Value>) -> Map<String, Value> {
    let mut said = Map::new();
    for (from, to) in MEMBERS {
        if let Some(value) = task.get(from) {
            said.insert(to.to_owned(), value.clone());
        }
    }
    said.entry("ttlMs").or_insert(Value::Null);
    said
}

/// What a task has come to, by the answer to `tasks/result`, added to what it says of itself. A tool
/// that says that it failed has failed there, and completed here.
pub fn conclude(task: &mut Map<String, Value>, outcome: &Envelope) {
    if let Some(result) = outcome.result() {
        let mut result: Value = serde_json::from_slice(result).unwrap_or_default();
        if let Some(result) = result.as_object_mut()
            && let Some(meta) = result.get_mut("_meta").and_then(Value::as_object_mut)
        {
            meta.remove(RELATED);
            if meta.is_empty() {
                result.remove("_meta");
            }
        }
        task.insert("status".to_owned(), value!("completed"));
        task.insert("result".to_owned(), result);
    } else if let Some(error) = outcome.error() {
        let error: Value = serde_json::from_slice(error).unwrap_or_default();
        task.insert("status".to_owned(), value!("failed"));
        task.insert("error".to_owned(), error);
    }
}

/// An answer without the word on which task it is about.
pub fn unrelate(answer: &Envelope) -> Envelope {
    let Some(meta) = answer.get(&["result", "_meta"]) else {
        return answer.clone();
    };
    let mut edit = answer.edit();
    if json::members(meta).any(|(key, _, _)| key != RELATED) {
        edit.remove(&["result", "_meta", RELATED]);
    } else {
        edit.remove(&["result", "_meta"]);
    }
    edit.finish()
}

/// A task of the extension in the words of 2025-11-25.
pub fn express(task: &Map<String, Value>) -> Value {
    let mut said = Map::new();
    for (to, from) in MEMBERS {
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

#[cfg(test)]
mod tests {
    use chillgate_wire::message;

    use super::*;
    use crate::route::own;

    #[test]
    fn an_outcome_is_told_as_it_was_but_for_the_task_it_is_about() {
        for (outcome, told) in [
            (r#"{"content":[]}"#, value!({"content": []})),
            (
                r#"{"content":[],"_meta":{"io.modelcontextprotocol/related-task":{"taskId":"t"}}}"#,
                value!({"content": []}),
            ),
            (
                r#"{"_meta":{"io.modelcontextprotocol/related-task":{"taskId":"t"},"x":1}}"#,
                value!({"_meta": {"x": 1}}),
            ),
            (r#"{"_meta":null}"#, value!({"_meta": null})),
        ] {
            let outcome = own(message::result(b"1", outcome.as_bytes())).expect("an answer");
            let mut task = Map::new();
            conclude(&mut task, &outcome);
            assert_eq!(task["result"], told);
            assert_eq!(task["status"], "completed");
        }
        let failed = message::error(Some(b"1"), -32_603, "no", None);
        let mut task = Map::new();
        conclude(&mut task, &own(failed).expect("an answer"));
        assert_eq!(task["status"], "failed");
        assert_eq!(task["error"], value!({"code": -32603, "message": "no"}));
    }
}
