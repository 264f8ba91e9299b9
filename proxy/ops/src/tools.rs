//! The tools as a model sees them: four that are always there, and one for each runbook.
//!
//! Names, words and schemas only; what they answer is the site's.

use std::sync::{Arc, LazyLock};

use rmcp::model::{JsonObject, Tool as Listed, ToolAnnotations};
use serde_json::{Value, json};

use crate::site::Runbook;

/// The names that no runbook may have.
pub const OWN: [&str; 4] = ["situation", "servers", "incidents", "endpoints"];

/// A tool that is always there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Tool {
    Situation,
    Servers,
    Incidents,
    Endpoints,
}

impl Tool {
    pub(crate) const ALL: [Self; 4] = [
        Self::Situation,
        Self::Servers,
        Self::Incidents,
        Self::Endpoints,
    ];

    pub(crate) fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|tool| tool.name() == name)
    }

    pub(crate) fn name(self) -> &'static str {
        let [situation, servers, incidents, endpoints] = OWN;
        match self {
            Self::Situation => situation,
            Self::Servers => servers,
            Self::Incidents => incidents,
            Self::Endpoints => endpoints,
        }
    }

    fn title(self) -> &'static str {
        match self {
            Self::Situation => "Situation",
            Self::Servers => "Servers",
            Self::Incidents => "Incidents",
            Self::Endpoints => "Model endpoints",
        }
    }

    fn description(self) -> &'static str {
        match self {
            Self::Situation => {
                "How this chillgate and its machine are right now: every server with its state and \
                 what to do about it, calls in flight, open incidents, memory, load, disk, model \
                 endpoints. Look here first, before you act and again after."
            }
            Self::Servers => {
                "Each MCP server behind this chillgate: how it is reached, its state, its last \
                 error and what to do about it. With `name`, that one only."
            }
            Self::Incidents => {
                "What went wrong and is not resolved, with what helps. With `server`, of that one \
                 only."
            }
            Self::Endpoints => {
                "The model endpoints (such as Ollama) and whether they answer, as of the last \
                 check. With `check`, each is checked now."
            }
        }
    }

    fn input(self) -> Value {
        match self {
            Self::Situation => json!({"type": "object", "properties": {}}),
            Self::Servers => json!({"type": "object", "properties": {
                "name": {"type": "string", "description": "The name of one server"}
            }}),
            Self::Incidents => json!({"type": "object", "properties": {
                "server": {"type": "string", "description": "The name of one server"}
            }}),
            Self::Endpoints => json!({"type": "object", "properties": {
                "check": {"type": "boolean", "description": "Check them now", "default": false}
            }}),
        }
    }

    fn output(self) -> Value {
        match self {
            Self::Situation => situation(),
            Self::Servers => list_of("servers", &server()),
            Self::Incidents => list_of("incidents", &json!({"type": "object"})),
            Self::Endpoints => list_of("endpoints", &endpoint()),
        }
    }

    fn listed(self) -> Listed {
        Listed::new(self.name(), self.description(), object(self.input()))
            .with_title(self.title())
            .with_raw_output_schema(object(self.output()))
            .with_annotations(
                ToolAnnotations::with_title(self.title())
                    .read_only(true)
                    .destructive(false)
                    .idempotent(true)
                    .open_world(false),
            )
    }
}

fn list_of(member: &str, item: &Value) -> Value {
    json!({
        "type": "object",
        "properties": {member: {"type": "array", "items": item}},
        "required": [member]
    })
}

fn server() -> Value {
    json!({
        "type": "object",
        "properties": {
            "name": {"type": "string"},
            "kind": {"type": "string", "description": "How it is reached: builtin, command or url"},
            "state": {"type": "string", "enum": ["idle", "held-back", "starting", "up", "asleep", "down", "crash-loop"],
                "description": "idle: nobody has asked for it yet; it starts with the first call. held-back: it would only fail; it is started once `error` is gone"},
            "error": {"type": "string", "description": "Why it is down"},
            "remedy": {"type": "string", "description": "What to do about it"},
            "bounds": {"type": "string", "description": "What it was given of its limits and sandbox"},
            "processes": {"type": "array", "description": "The process trees behind it, and what each takes", "items": {
                "type": "object",
                "properties": {
                    "pid": {"type": ["integer", "null"], "description": "The server's own"},
                    "keeper": {"type": ["integer", "null"], "description": "chillgate's process above it, which ends all that is below"},
                    "agent": {"type": ["string", "null"], "description": "Whose alone it is"},
                    "running": {"type": "integer", "description": "Requests that it works on"},
                    "waiting": {"type": "integer"},
                    "processes": {"type": "integer"},
                    "resident_bytes": {"type": "integer"},
                    "cpu_seconds": {"type": "number"}
                },
                "required": ["pid", "processes", "resident_bytes", "cpu_seconds"]
            }}
        },
        "required": ["name", "kind", "state"]
    })
}

fn endpoint() -> Value {
    json!({
        "type": "object",
        "properties": {
            "name": {"type": "string"},
            "kind": {"type": "string"},
            "state": {"type": "string", "enum": ["unchecked", "up", "down", "model-missing"]},
            "model": {"type": "string", "description": "The model it should have"},
            "latency_ms": {"type": "number"},
            "error": {"type": "string", "description": "What is wrong, and what to do"}
        },
        "required": ["name", "kind", "state"]
    })
}

fn situation() -> Value {
    let bytes = json!({"type": ["integer", "null"], "minimum": 0});
    json!({
        "type": "object",
        "properties": {
            "summary": {"type": "string", "description": "All of it in one sentence"},
            "version": {"type": "string"},
            "uptime_seconds": {"type": "integer", "minimum": 0},
            "generation": {"type": "integer", "minimum": 1,
                "description": "Counts the configurations in force since the start"},
            "draining": {"type": "boolean", "description": "It is stopping; nothing new is taken"},
            "in_flight": {"type": "integer", "minimum": 0,
                "description": "Requests being worked on, this one included"},
            "sessions": {"type": "integer", "minimum": 0},
            "servers": {"type": "array", "items": server()},
            "incidents": {"type": "array", "items": {"type": "object"}},
            "endpoints": {"type": "array", "items": endpoint()},
            "machine": {
                "type": "object",
                "properties": {
                    "memory_total_bytes": bytes,
                    "memory_available_bytes": bytes,
                    "swap_total_bytes": bytes,
                    "swap_free_bytes": bytes,
                    "load": {"type": "array", "items": {"type": "number"},
                        "description": "Averages over 1, 5 and 15 minutes"},
                    "processors": {"type": "integer", "minimum": 1}
                },
                "required": ["memory_total_bytes", "memory_available_bytes", "swap_total_bytes",
                    "swap_free_bytes", "load", "processors"]
            },
            "state_folder": {
                "type": ["object", "null"],
                "properties": {
                    "path": {"type": "string"},
                    "total_bytes": bytes,
                    "free_bytes": bytes
                },
                "required": ["path", "total_bytes", "free_bytes"]
            },
            "notes": {"type": "array", "items": {"type": "string"},
                "description": "What else is worth knowing before acting"}
        },
        "required": ["summary", "version", "uptime_seconds", "generation", "draining", "in_flight",
            "sessions", "servers", "incidents", "endpoints", "machine", "state_folder", "notes"]
    })
}

static ALWAYS: LazyLock<Vec<Listed>> =
    LazyLock::new(|| Tool::ALL.into_iter().map(Tool::listed).collect());

/// The tools as `tools/list` shows them to somebody with these runbooks.
pub(crate) fn listed(runbooks: Vec<Runbook>) -> Vec<Listed> {
    let mut all = ALWAYS.clone();
    all.extend(runbooks.into_iter().map(runbook));
    all
}

fn runbook(runbook: Runbook) -> Listed {
    let Runbook {
        name,
        description,
        input,
        output,
        hints,
        ..
    } = runbook;
    Listed::new(name, description, Arc::new(input))
        .with_raw_output_schema(Arc::new(output))
        .with_annotations(
            ToolAnnotations::new()
                .read_only(hints.read_only)
                .destructive(hints.destructive)
                .idempotent(hints.idempotent)
                .open_world(false),
        )
}

fn object(schema: Value) -> Arc<JsonObject> {
    match schema {
        Value::Object(map) => Arc::new(map),
        _ => unreachable!("the schemas above are written as objects"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_schema_is_one_and_every_own_tool_only_reads() {
        for listed in listed(Vec::new()) {
            for schema in [Some(&listed.input_schema), listed.output_schema.as_ref()] {
                let schema = Value::Object((**schema.expect("both are there")).clone());
                jsonschema::validator_for(&schema).expect("a schema");
            }
            let hints = listed.annotations.expect("annotated");
            assert_eq!(hints.read_only_hint, Some(true), "{}", listed.name);
            assert_eq!(hints.destructive_hint, Some(false), "{}", listed.name);
        }
    }

    #[test]
    fn a_tool_is_found_by_exactly_its_name() {
        for tool in Tool::ALL {
            assert_eq!(Tool::parse(tool.name()), Some(tool));
        }
        assert_eq!(Tool::parse("Situation"), None);
        assert_eq!(Tool::parse(""), None);
    }
}
