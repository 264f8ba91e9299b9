//! Runbooks as tools: schemas, hints and what a model is told of their bounds.
//!
//! Only words; what a call may say is judged where it is carried out.

use chillgate_ops::{Hints, Runbook as Listed};
use serde_json::{Map, Value, json};

use crate::config::runbook::{
    CommandRunbook, FILE_TOOLS, FileRunbook, LONGEST_VALUE, Runbook, Work,
};

/// The tools of a runbook.
pub(super) fn of(runbook: &Runbook) -> Vec<Listed> {
    match &runbook.work {
        Work::Command(work) => vec![command(runbook, work)],
        Work::Files(work) => files(runbook, work),
    }
}

fn command(runbook: &Runbook, work: &CommandRunbook) -> Listed {
    let mut properties = Map::new();
    let mut required = Vec::new();
    for (name, argument) in &work.arguments {
        let words = argument.description.as_deref().unwrap_or_default();
        let gap = if words.is_empty() { "" } else { ". " };
        let mut property = json!({
            "type": "string",
            "maxLength": LONGEST_VALUE,
            "description": format!("{words}{gap}Must match as a whole: {}", argument.pattern),
        });
        if let Some(default) = &argument.default {
            property["default"] = json!(default);
        } else {
            required.push(name.clone());
        }
        properties.insert(name.clone(), property);
    }
    let words = work.words.iter().map(|word| format!(" {word}"));
    let line = format!("{}{}", work.program, words.collect::<String>());
    let ask = if runbook.confirm {
        " A person is asked before it runs."
    } else {
        ""
    };
    Listed {
        name: runbook.name.clone(),
        description: format!("{} Runs: {line}.{ask}", sentence(&runbook.description)),
        input: input(properties, &required),
        output: object(json!({
            "type": "object",
            "properties": {
                "exit_code": {"type": ["integer", "null"], "description": "0 is fine"},
                "ended": {"type": "string", "description": "How it ended, in words"},
                "timed_out": {"type": "boolean"},
                "seconds": {"type": "number", "minimum": 0},
                "stdout": {"type": "string"},
                "stderr": {"type": "string"},
                "left_out_bytes": {"type": "integer", "minimum": 0,
                    "description": "What was left out in the middle of stdout and stderr"}
            },
            "required": ["exit_code", "ended", "timed_out", "seconds", "stdout", "stderr", "left_out_bytes"]
        })),
        hints: Hints {
            read_only: work.read_only,
            destructive: !work.read_only,
            idempotent: work.read_only,
        },
        details: json!({
            "type": "command",
            "runs": line,
            "timeout_seconds": work.timeout.as_secs_f64(),
            "confirm": runbook.confirm,
        }),
    }
}

fn files(runbook: &Runbook, work: &FileRunbook) -> Vec<Listed> {
    let roots: Vec<String> = work
        .roots
        .iter()
        .map(|root| root.display().to_string())
        .collect();
    let below = roots.join(", ");
    let path = json!({
        "type": "string",
        "minLength": 1,
        "maxLength": 4096,
        "description": format!("A whole path below {below}, or a path relative to it where there is one folder"),
    });
    let details = json!({
        "type": "file",
        "roots": roots,
        "max_size_bytes": work.max_size,
        "confirm": runbook.confirm,
    });
    let words = sentence(&runbook.description);
    let mut tools = Vec::new();
    for (suffix, name) in FILE_TOOLS.iter().zip(runbook.tools()) {
        let mut properties = Map::from_iter([("path".to_owned(), path.clone())]);
        let mut required = vec!["path".to_owned()];
        let (does, output) = match *suffix {
            "_read" => (
                "Reads one text file, with its sha256.",
                json!({
                    "type": "object",
                    "properties": {
                        "path": {"type": "string"},
                        "size": {"type": "integer", "minimum": 0},
                        "sha256": {"type": "string"},
                        "text": {"type": "string"}
                    },
                    "required": ["path", "size", "sha256", "text"]
                }),
            ),
            "_list" => {
                required.clear();
                (
                    "Lists a folder; without a path, the only folder itself.",
                    json!({
                        "type": "object",
                        "properties": {
                            "path": {"type": "string"},
                            "entries": {"type": "array", "items": {
                                "type": "object",
                                "properties": {
                                    "name": {"type": "string"},
                                    "kind": {"type": "string", "enum": ["file", "folder", "link", "other"]},
                                    "size": {"type": "integer", "minimum": 0}
                                },
                                "required": ["name", "kind", "size"]
                            }},
                            "more": {"type": "boolean", "description": "There are more than are listed"}
                        },
                        "required": ["path", "entries", "more"]
                    }),
                )
            }
            _ => {
                properties.insert(
                    "content".to_owned(),
                    json!({"type": "string", "description": "The whole new text of the file"}),
                );
                properties.insert(
                    "expect".to_owned(),
                    json!({"type": "string", "description":
                        "The sha256 that the file must have now, as read before, or `absent` where there \
                         must be none. Give it, so that nothing is overwritten that you have not seen."}),
                );
                required.push("content".to_owned());
                (
                    "Writes one text file, whole or not at all, and tells its sha256 before and after.",
                    json!({
                        "type": "object",
                        "properties": {
                            "path": {"type": "string"},
                            "size": {"type": "integer", "minimum": 0},
                            "before_sha256": {"type": ["string", "null"], "description": "null: it is new"},
                            "sha256": {"type": "string"}
                        },
                        "required": ["path", "size", "before_sha256", "sha256"]
                    }),
                )
            }
        };
        let writes = *suffix == "_write";
        let ask = if writes && runbook.confirm {
            " A person is asked before."
        } else {
            ""
        };
        tools.push(Listed {
            name,
            description: format!("{words} {does}{ask} Files below {below} only."),
            input: input(properties, &required),
            output: object(output),
            hints: Hints {
                read_only: !writes,
                destructive: writes,
                idempotent: true,
            },
            details: details.clone(),
        });
    }
    tools
}

/// A description that ends as a sentence does.
fn sentence(text: &str) -> String {
    let text = text.trim();
    if text.ends_with(['.', '!', '?']) {
        text.to_owned()
    } else {
        format!("{text}.")
    }
}

fn input(properties: Map<String, Value>, required: &[String]) -> Map<String, Value> {
    let mut schema = object(json!({"type": "object", "additionalProperties": false}));
    schema.insert("properties".to_owned(), Value::Object(properties));
    if !required.is_empty() {
        schema.insert("required".to_owned(), json!(required));
    }
    schema
}

fn object(value: Value) -> Map<String, Value> {
    match value {
        Value::Object(map) => map,
        _ => Map::new(),
    }
}
