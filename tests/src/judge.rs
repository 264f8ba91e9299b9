//! Every message of a test's hosts and mock servers held against the official schema of its
//! revision, whatever else the test looks at.
//!
//! It stands apart because no test asks for it: a host of the tests hands over what it hears, and
//! the ledger what a server heard. A test whose peers say wrong things on purpose says so with
//! [`spare`]. It never changes a message, and what the schemas do not define it leaves alone.

use std::cell::Cell;
use std::collections::HashMap;
use std::sync::{LazyLock, Mutex, PoisonError};

use jsonschema::Validator;
use serde_json::Value;

use crate::schema::Schema;

thread_local! {
    static SPARED: Cell<bool> = const { Cell::new(false) };
}

/// This test's peers say wrong things on purpose: nothing is judged on its thread from here on.
pub fn spare(_why: &str) {
    SPARED.set(true);
}

/// The definitions of results, by the method that was asked for.
const RESULTS: [(&str, &str); 10] = [
    ("initialize", "InitializeResult"),
    ("server/discover", "DiscoverResult"),
    ("tools/list", "ListToolsResult"),
    ("tools/call", "CallToolResult"),
    ("prompts/list", "ListPromptsResult"),
    ("prompts/get", "GetPromptResult"),
    ("resources/list", "ListResourcesResult"),
    ("resources/templates/list", "ListResourceTemplatesResult"),
    ("resources/read", "ReadResourceResult"),
    ("completion/complete", "CompleteResult"),
];

/// The definitions of requests and notifications, by their method.
const MESSAGES: [(&str, &str); 29] = [
    ("initialize", "InitializeRequest"),
    ("server/discover", "DiscoverRequest"),
    ("subscriptions/listen", "SubscriptionsListenRequest"),
    ("ping", "PingRequest"),
    ("tools/list", "ListToolsRequest"),
    ("tools/call", "CallToolRequest"),
    ("prompts/list", "ListPromptsRequest"),
    ("prompts/get", "GetPromptRequest"),
    ("resources/list", "ListResourcesRequest"),
    ("resources/templates/list", "ListResourceTemplatesRequest"),
    ("resources/read", "ReadResourceRequest"),
    ("resources/subscribe", "SubscribeRequest"),
    ("resources/unsubscribe", "UnsubscribeRequest"),
    ("completion/complete", "CompleteRequest"),
    ("logging/setLevel", "SetLevelRequest"),
    ("sampling/createMessage", "CreateMessageRequest"),
    ("elicitation/create", "ElicitRequest"),
    ("roots/list", "ListRootsRequest"),
    ("notifications/initialized", "InitializedNotification"),
    ("notifications/cancelled", "CancelledNotification"),
    ("notifications/progress", "ProgressNotification"),
    ("notifications/message", "LoggingMessageNotification"),
    (
        "notifications/resources/updated",
        "ResourceUpdatedNotification",
    ),
    (
        "notifications/resources/list_changed",
        "ResourceListChangedNotification",
    ),
    (
        "notifications/tools/list_changed",
        "ToolListChangedNotification",
    ),
    (
        "notifications/prompts/list_changed",
        "PromptListChangedNotification",
    ),
    (
        "notifications/roots/list_changed",
        "RootsListChangedNotification",
    ),
    (
        "notifications/elicitation/complete",
        "ElicitationCompleteNotification",
    ),
    (
        "notifications/subscriptions/acknowledged",
        "SubscriptionsAcknowledgedNotification",
    ),
];

/// A message that a host of this revision heard, the answer to a request of `asked` where it is one.
///
/// # Panics
/// When the revision's schema does not allow it.
pub fn host_heard(revision: &str, asked: &str, message: &Value) {
    let id_lost = message.get("id").is_none_or(Value::is_null);
    let definition = match (message.get("method"), message.get("result")) {
        (Some(_), _) => by_method(message),
        (None, Some(result)) => {
            let kind = match result.get("resultType").and_then(Value::as_str) {
                Some("input_required") => Some("InputRequiredResult"),
                // Of an extension, which has no schema here.
                Some("task") => None,
                _ => find(&RESULTS, asked),
            };
            if let Some(kind) = kind {
                check(revision, kind, result);
            }
            Some("JSONRPCResultResponse")
        }
        // An error whose sender could not read the id has a form in the newest schemas alone.
        (None, None) if id_lost => return,
        (None, None) => Some("JSONRPCErrorResponse"),
    };
    if let Some(definition) = definition {
        check(revision, definition, message);
    }
}

/// A message that a server heard: in the words of 2026-07-28 where it says so, else of the last
/// revision before.
///
/// # Panics
/// When the revision's schema does not allow it.
pub fn server_heard(message: &Value) {
    let version = message.pointer("/params/_meta/io.modelcontextprotocol~1protocolVersion");
    let revision = if version.is_some() {
        "2026-07-28"
    } else {
        "2025-11-25"
    };
    if message.get("method").is_some()
        && let Some(definition) = by_method(message)
    {
        check(revision, definition, message);
    }
}

fn by_method(message: &Value) -> Option<&'static str> {
    find(&MESSAGES, message["method"].as_str().unwrap_or_default())
}

fn find(table: &[(&str, &'static str)], method: &str) -> Option<&'static str> {
    let found = table.iter().find(|(name, _)| *name == method);
    found.map(|(_, definition)| *definition)
}

type Validators = HashMap<(String, &'static str), Option<Validator>>;

fn check(revision: &str, definition: &'static str, value: &Value) {
    static KNOWN: LazyLock<Mutex<Validators>> = LazyLock::new(Mutex::default);
    if SPARED.get() {
        return;
    }
    let mut known = KNOWN.lock().unwrap_or_else(PoisonError::into_inner);
    let validator = known
        .entry((revision.to_owned(), definition))
        .or_insert_with(|| Schema::of(revision).validator(definition));
    let Some(validator) = validator else {
        return;
    };
    let wrong: Vec<String> = validator
        .iter_errors(value)
        .map(|error| format!("{error} at {}", error.instance_path()))
        .collect();
    assert!(
        wrong.is_empty(),
        "no {definition} of {revision}: {}\n{value}",
        wrong.join("\n")
    );
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn is_refused(judging: impl FnOnce() + std::panic::UnwindSafe) -> bool {
        std::panic::catch_unwind(judging).is_err()
    }

    #[test]
    fn what_is_wrong_is_refused() {
        let answer = json!({"jsonrpc": "2.0", "id": 1, "result": {"tools": []}});
        host_heard("2025-11-25", "tools/list", &answer);
        assert!(is_refused(|| {
            let answer = json!({"jsonrpc": "2.0", "id": 1, "result": {"tools": []}});
            host_heard("2026-07-28", "tools/list", &answer);
        }));
        assert!(is_refused(|| {
            let call = json!({"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {}});
            server_heard(&call);
        }));
        spare("this is about to be wrong");
        server_heard(&json!({"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {}}));
    }
}
