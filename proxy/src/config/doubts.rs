//! What is no mistake and yet most likely not meant: a policy about something that is not there.
//!
//! Said as notes, because a server may be added later and a method may be a server's own. A deny
//! rule with a slip in it would otherwise deny nothing in silence. It refuses nothing.

use serde_json::Value;

use super::{Config, Server, ServerName, hint};

/// One sentence for each doubt about the policies' tables.
pub(super) fn doubts(config: &Config) -> Vec<String> {
    let servers: Vec<&str> = config.server.keys().map(ServerName::as_str).collect();
    let mut doubts = Vec::new();
    for policy in &config.policy {
        let text = |key| policy[key].as_str();
        let name = text("name").or(text("type")).unwrap_or("?");
        let matching = &policy["match"];
        let tools = words(&matching["tool"])
            .chain(words(&policy["deny"]))
            .chain(words(&policy["allow"]));
        let named = words(&matching["server"]).chain(tools.filter_map(server_of));
        if !servers.is_empty() {
            for server in named.filter(|word| is_literal(word) && !servers.contains(word)) {
                let near = near(server, servers.iter().copied());
                doubts.push(format!(
                    "Policy {name:?} is about the server {server:?}, which is not configured{near}"
                ));
            }
        }
        for method in words(&matching["method"]) {
            if is_literal(method) && chillgate_wire::method::sender(method).is_none() {
                let near = near(method, chillgate_wire::method::all());
                doubts.push(format!(
                    "Policy {name:?} is about the method {method:?}, which MCP does not define{near}"
                ));
            }
        }
    }
    let has_ops = config.server.values().any(|server| *server == Server::Ops);
    if !config.runbook.is_empty() && !has_ops {
        doubts.push(
            "There are runbooks and no server that offers them; add [server.ops] with builtin = \"ops\""
                .to_owned(),
        );
    }
    doubts
}

/// One text or a list of them; what is neither is told elsewhere.
fn words(value: &Value) -> impl Iterator<Item = &str> {
    let list = value.as_array().into_iter().flatten();
    value
        .as_str()
        .into_iter()
        .chain(list.filter_map(Value::as_str))
}

/// The server in `server__tool`; the one word of a quota's `allow` has none.
fn server_of(pattern: &str) -> Option<&str> {
    pattern.split_once("__").map(|(server, _)| server)
}

/// Whether the word stands for itself alone.
fn is_literal(word: &str) -> bool {
    !word.contains(['*', '?', '[', ']', '{', '}', '\\'])
}

fn near<'a>(word: &str, known: impl IntoIterator<Item = &'a str>) -> String {
    hint::nearest(word, known).map_or_else(String::new, |near| format!("; did you mean `{near}`?"))
}
