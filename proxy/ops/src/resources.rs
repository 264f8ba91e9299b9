//! The same answers as resources, for hosts that attach rather than call.
//!
//! Only addresses and words; what is read comes from the site.

use rmcp::model::{Resource, ResourceContents, ResourceTemplate};
use serde_json::{Value, json};

use crate::site::Site;

const SITUATION: &str = "chillgate://situation";
const SERVERS: &str = "chillgate://servers";
const INCIDENTS: &str = "chillgate://incidents";
const RUNBOOKS: &str = "chillgate://runbooks";
const MEDIA: &str = "application/json";

/// The resources with an address of their own.
pub(crate) fn listed() -> Vec<Resource> {
    [
        (
            SITUATION,
            "situation",
            "How this chillgate and its machine are right now",
        ),
        (SERVERS, "servers", "Each MCP server and its state"),
        (
            INCIDENTS,
            "incidents",
            "What went wrong and is not resolved",
        ),
        (
            RUNBOOKS,
            "runbooks",
            "What may be done here, with its arguments",
        ),
    ]
    .into_iter()
    .map(|(uri, name, words)| {
        Resource::new(uri, name)
            .with_description(words)
            .with_mime_type(MEDIA)
    })
    .collect()
}

/// Those that name something.
pub(crate) fn templates() -> Vec<ResourceTemplate> {
    let one = ResourceTemplate::new("chillgate://servers/{name}", "server")
        .with_description("One MCP server and its state")
        .with_mime_type(MEDIA);
    vec![one]
}

/// What is at an address now; `None`: nothing.
pub(crate) fn read(site: &dyn Site, uri: &str, agent: &str) -> Option<ResourceContents> {
    let value = match uri {
        SITUATION => site.situation(),
        SERVERS => json!({"servers": site.servers()}),
        INCIDENTS => json!({"incidents": site.incidents(None)}),
        RUNBOOKS => {
            let runbooks = site.runbooks(agent).into_iter().map(|runbook| {
                json!({
                    "tool": runbook.name,
                    "description": runbook.description,
                    "arguments": runbook.input,
                    "read_only": runbook.hints.read_only,
                    "details": runbook.details,
                })
            });
            json!({"runbooks": runbooks.collect::<Vec<_>>()})
        }
        _ => {
            let name = uri.strip_prefix(SERVERS)?.strip_prefix('/')?;
            server(site, name)?
        }
    };
    Some(ResourceContents::text(value.to_string(), uri).with_mime_type(MEDIA))
}

/// The server of this name.
pub(crate) fn server(site: &dyn Site, name: &str) -> Option<Value> {
    let mut all = site.servers().into_iter();
    all.find(|server| server.get("name").and_then(Value::as_str) == Some(name))
}
