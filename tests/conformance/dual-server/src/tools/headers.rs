//! Tools whose arguments a 2026-07-28 client repeats in header fields.
//!
//! They stand apart because it is their schema that the suite looks at. Whether the fields agree
//! with the arguments is the transport's business, and never theirs.

use rmcp::model::CallToolResponse;
use serde_json::{Value, json};

use super::{Entry, said};
use crate::call::Call;

pub(super) const TOOLS: &[Entry] = &[
    Entry {
        name: "test_custom_headers",
        about: "Has arguments that are also named in header fields",
        takes: || schema(&json!({})),
        does: |call| Box::pin(async move { Ok(look(&call)) }),
    },
    Entry {
        name: "test_custom_headers_null",
        about: "The same with an argument that may be absent",
        takes: || {
            schema(&json!({
                "verbose": {
                    "type": "boolean",
                    "description": "Say more; may be left out",
                    "x-mcp-header": "Verbose",
                },
            }))
        },
        does: |call| Box::pin(async move { Ok(look(&call)) }),
    },
];

fn schema(optional: &Value) -> Value {
    let mut properties = json!({
        "region": { "type": "string", "description": "Where to look", "x-mcp-header": "Region" },
        "priority": { "type": "integer", "description": "How soon", "x-mcp-header": "Priority" },
        "query": { "type": "string", "description": "What to look for" },
    });
    for (name, property) in optional.as_object().into_iter().flatten() {
        properties[name] = property.clone();
    }
    let required = ["region", "priority", "query"];
    json!({ "type": "object", "properties": properties, "required": required })
}

fn look(call: &Call) -> CallToolResponse {
    let everywhere = if call.flag("verbose") {
        ", everywhere"
    } else {
        ""
    };
    said(format!("Looked in {}{everywhere}.", call.text("region")))
}
