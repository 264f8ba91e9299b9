//! The official JSON Schemas, to judge what chillgate itself says.
//!
//! It stands apart because each revision has its own file and its own spelling of the definitions.
//! It never fetches anything: the files lie in `tests/schemas`.

use std::path::Path;

use jsonschema::Validator;
use serde_json::{Value, json};

/// The revisions with an `initialize` handshake.
pub const HANDSHAKE: [&str; 4] = ["2024-11-05", "2025-03-26", "2025-06-18", "2025-11-25"];

/// One revision's schema.
#[derive(Debug)]
pub struct Schema {
    revision: String,
    document: Value,
}

impl Schema {
    /// Reads `tests/schemas/mcp-REVISION.schema.json`.
    ///
    /// # Panics
    /// When there is none.
    pub fn of(revision: &str) -> Self {
        let name = format!("schemas/mcp-{revision}.schema.json");
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(name);
        let text = std::fs::read_to_string(&path)
            .unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        let document = serde_json::from_str(&text).expect("the schema is JSON");
        Self {
            revision: revision.to_owned(),
            document,
        }
    }

    /// Whether the revision defines this.
    pub fn has(&self, definition: &str) -> bool {
        self.definitions().1.get(definition).is_some()
    }

    fn definitions(&self) -> (&'static str, &Value) {
        let key = if self.document.get("$defs").is_some() {
            "$defs"
        } else {
            "definitions"
        };
        (key, &self.document[key])
    }

    /// Checks a value against one definition, e.g. `JSONRPCMessage` or `InitializeResult`.
    ///
    /// # Panics
    /// When it does not fit; the message holds every violation.
    pub fn check(&self, definition: &str, value: &Value) {
        let violations = self.violations(definition, value);
        assert!(
            violations.is_empty(),
            "not a {definition} of {}: {}\n{value}",
            self.revision,
            violations.join("\n")
        );
    }

    /// What judges values by one definition; none where the revision has no such.
    ///
    /// # Panics
    /// When the schema is none.
    pub fn validator(&self, definition: &str) -> Option<Validator> {
        let (key, definitions) = self.definitions();
        definitions.get(definition)?;
        let mut schema = json!({ "$ref": format!("#/{key}/{definition}") });
        schema[key] = definitions.clone();
        if let Some(dialect) = self.document.get("$schema") {
            schema["$schema"] = dialect.clone();
        }
        Some(jsonschema::validator_for(&schema).expect("the schema compiles"))
    }

    /// What is wrong with a value, nothing when it fits.
    ///
    /// # Panics
    /// When the revision has no such definition.
    pub fn violations(&self, definition: &str, value: &Value) -> Vec<String> {
        let validator = self.validator(definition);
        let validator =
            validator.unwrap_or_else(|| panic!("{} has no {definition}", self.revision));
        validator
            .iter_errors(value)
            .map(|error| format!("{} at {}", error, error.instance_path()))
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_revision_tells_a_message_from_what_is_none() {
        for revision in HANDSHAKE.into_iter().chain(["2026-07-28"]) {
            let schema = Schema::of(revision);
            let good = json!({"jsonrpc": "2.0", "id": 1, "result": {"tools": [], "resultType": "complete", "ttlMs": 0, "cacheScope": "private"}});
            schema.check("JSONRPCMessage", &good);
            schema.check("ListToolsResult", &good["result"]);
            let bad = json!({"jsonrpc": "2.0", "id": 1, "result": {"tools": [{"description": 7}]}});
            assert!(
                !schema
                    .violations("ListToolsResult", &bad["result"])
                    .is_empty(),
                "{revision}"
            );
        }
    }
}
