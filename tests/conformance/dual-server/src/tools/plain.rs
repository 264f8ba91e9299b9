//! Tools that answer at once, each with another kind of content.
//!
//! They stand apart because neither the wire nor its era is anything to them. They never ask,
//! log or wait.

use rmcp::model::{CallToolResult, ContentBlock, ResourceContents};
use serde_json::{Value, json};

use super::{Entry, nothing, said, shown};
use crate::samples::{RED_DOT_PNG, silence_wav};

pub(super) const TOOLS: &[Entry] = &[
    Entry {
        name: "test_simple_text",
        about: "Says one sentence",
        takes: nothing,
        does: |_| Box::pin(async { Ok(said("A sentence and nothing else.")) }),
    },
    Entry {
        name: "test_image_content",
        about: "Shows an image",
        takes: nothing,
        does: |_| Box::pin(async { Ok(shown(vec![image()])) }),
    },
    Entry {
        name: "test_audio_content",
        about: "Plays silence",
        takes: nothing,
        does: |_| {
            Box::pin(async { Ok(shown(vec![ContentBlock::audio(silence_wav(), "audio/wav")])) })
        },
    },
    Entry {
        name: "test_embedded_resource",
        about: "Carries a resource",
        takes: nothing,
        does: |_| Box::pin(async { Ok(shown(vec![carried()])) }),
    },
    Entry {
        name: "test_multiple_content_types",
        about: "Answers with a text, an image and a resource",
        takes: nothing,
        does: |_| {
            Box::pin(async {
                Ok(shown(vec![
                    ContentBlock::text("Three kinds:"),
                    image(),
                    kinds(),
                ]))
            })
        },
    },
    Entry {
        name: "test_error_handling",
        about: "Always fails",
        takes: nothing,
        does: |_| {
            let words = ContentBlock::text("This tool always fails.");
            Box::pin(async { Ok(CallToolResult::error(vec![words]).into()) })
        },
    },
    Entry {
        name: "json_schema_2020_12_tool",
        about: "Takes an order",
        takes: order,
        does: |_| Box::pin(async { Ok(said("Ordered.")) }),
    },
];

fn image() -> ContentBlock {
    ContentBlock::image(RED_DOT_PNG, "image/png")
}

fn carried() -> ContentBlock {
    ContentBlock::resource(ResourceContents::text(
        "What was carried.",
        "test://carried",
    ))
}

fn kinds() -> ContentBlock {
    let json = ResourceContents::text(r#"{"kinds":3}"#, "test://carried.json");
    ContentBlock::resource(json.with_mime_type("application/json"))
}

/// What JSON Schema 2020-12 has and its predecessors have not.
fn order() -> Value {
    json!({
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "type": "object",
        "$defs": {
            "address": {
                "$anchor": "place",
                "type": "object",
                "properties": { "street": { "type": "string" }, "town": { "type": "string" } },
            },
        },
        "properties": {
            "address": { "$ref": "#/$defs/address" },
            "express": { "type": "boolean" },
            "phone": { "type": "string" },
            "email": { "type": "string" },
        },
        "allOf": [{ "anyOf": [{ "required": ["phone"] }, { "required": ["email"] }] }],
        "if": { "properties": { "express": { "const": true } }, "required": ["express"] },
        "then": { "required": ["phone"] },
        "else": { "required": ["email"] },
        "additionalProperties": false,
    })
}
