//! A host of revision 2026-07-28 as plain HTTP: every request says everything.
//!
//! It stands apart from [`crate::Host`], which opens a session and keeps to it. It judges nothing
//! and follows no rule on its own: what a message says beyond the minimum, a test says.

use std::net::SocketAddr;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use crate::http::{Answer, request};

/// The revision's key in `_meta`.
pub const VERSION: &str = "io.modelcontextprotocol/protocolVersion";
/// What the host declares.
pub const CAPABILITIES: &str = "io.modelcontextprotocol/clientCapabilities";
/// What the host calls itself.
pub const CLIENT: &str = "io.modelcontextprotocol/clientInfo";
/// The least severe log message the host wants.
pub const LOG_LEVEL: &str = "io.modelcontextprotocol/logLevel";

/// A request as the revision wants it; a host that can do nothing unless `params` say otherwise.
pub fn message(id: &Value, method: &str, mut params: Value) -> Value {
    let meta = &mut params["_meta"];
    meta[VERSION] = json!("2026-07-28");
    if meta[CAPABILITIES].is_null() {
        meta[CAPABILITIES] = json!({});
    }
    meta[CLIENT] = json!({"name": "modern", "version": "1"});
    json!({"jsonrpc": "2.0", "id": id, "method": method, "params": params})
}

/// The header fields that go with a message.
///
/// # Panics
/// When it has no method.
pub fn fields(message: &Value) -> Vec<(&str, &str)> {
    let mut fields = vec![
        ("content-type", "application/json"),
        ("accept", "application/json, text/event-stream"),
        ("mcp-protocol-version", "2026-07-28"),
    ];
    let method = message["method"].as_str();
    fields.push(("mcp-method", method.expect("a request has a method")));
    let params = &message["params"];
    if let Some(name) = params["name"].as_str().or(params["uri"].as_str()) {
        fields.push(("mcp-name", name));
    }
    fields
}

/// A text as a header field that no header can carry as it is: Base64 between markers, whatever
/// the text. Written here once more, so that chillgate is not its own judge.
pub fn sentinel(text: impl AsRef<[u8]>) -> String {
    format!("=?base64?{}?=", STANDARD.encode(text))
}

/// A text as a field: as it is where that is safe, else as a [`sentinel`].
pub fn field(text: &str) -> String {
    let plain = text.bytes().all(|byte| (b' '..=b'~').contains(&byte)) && text.trim() == text;
    if plain && !text.starts_with("=?base64?") {
        return text.to_owned();
    }
    sentinel(text)
}

/// The text that a field stands for; `None`: for none.
pub fn unsentinel(field: &str) -> Option<String> {
    let inner = field
        .strip_prefix("=?base64?")
        .and_then(|rest| rest.strip_suffix("?="));
    match inner {
        None => Some(field.to_owned()),
        Some(inner) => String::from_utf8(STANDARD.decode(inner).ok()?).ok(),
    }
}

/// Sends a message to the merged endpoint.
pub async fn send(at: SocketAddr, message: &Value) -> Answer {
    request(at, "POST", "/mcp", &fields(message), message.to_string()).await
}

/// The one JSON message of an answer.
///
/// # Panics
/// When it is none.
pub fn body(answer: &Answer) -> Value {
    serde_json::from_slice(&answer.body).unwrap_or_else(|_| panic!("no JSON: {}", answer.text()))
}

/// The `params` of a call once more, with the answer to the one question that it came to.
///
/// # Panics
/// When its result asks nothing.
pub fn answered(params: &Value, required: &Value, answer: &Value) -> Value {
    let asked = required["inputRequests"].as_object();
    let key = asked.and_then(|asked| asked.keys().next());
    let key = key.unwrap_or_else(|| panic!("nothing is asked: {required}"));
    let mut again = params.clone();
    again["requestState"] = required["requestState"].clone();
    again["inputResponses"] = json!({ key: answer });
    again
}

/// The messages of an answer, whether one or a stream of them; none where it holds no JSON.
pub fn messages(answer: &Answer) -> Vec<Value> {
    match serde_json::from_slice(&answer.body) {
        Ok(one) => vec![one],
        Err(_) => events(answer),
    }
}

/// The JSON messages of an event stream, in order.
pub fn events(answer: &Answer) -> Vec<Value> {
    let text = answer.text();
    let data = text.lines().filter_map(|line| line.strip_prefix("data:"));
    data.filter_map(|data| serde_json::from_str(data).ok())
        .collect()
}
