//! Which arguments of a tool have a header field: the `x-mcp-header` annotations of its schema.
//!
//! A tool with one bad annotation is refused whole, as R-220 asks of clients over HTTP. It reads
//! the schema's own keywords only: a property that is called `x-mcp-header` is no annotation, nor
//! is anything inside of a default or an example.

use std::collections::HashSet;

use serde_json::{Map, Value};

use super::{Param, Sort};

const ANNOTATION: &str = "x-mcp-header";

/// Keywords whose value is one schema that is not always there, or an array of such.
const SOMETIMES: [&str; 16] = [
    "items",
    "prefixItems",
    "additionalItems",
    "unevaluatedItems",
    "contains",
    "additionalProperties",
    "unevaluatedProperties",
    "propertyNames",
    "allOf",
    "anyOf",
    "oneOf",
    "not",
    "if",
    "then",
    "else",
    "contentSchema",
];

/// Keywords whose value is a table of such schemas.
const SOMETIMES_BY_NAME: [&str; 4] = [
    "patternProperties",
    "dependentSchemas",
    "$defs",
    "definitions",
];

/// Why a tool's annotations cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadAnnotation {
    /// The schema is no JSON object, or is nested too deeply to be read.
    #[error("the schema cannot be read")]
    Schema,
    /// It is no HTTP token.
    #[error("`x-mcp-header` of `{0}` is not the name of a header field")]
    Name(String),
    /// Two properties have the same one; header names have no case.
    #[error("`x-mcp-header: {0}` stands twice")]
    Twice(String),
    /// The property is none of string, integer and boolean.
    #[error("`x-mcp-header` of `{0}` is on something else than a string, an integer or a boolean")]
    Sort(String),
    /// The property is not reached by `properties` alone.
    #[error("`x-mcp-header` of `{0}` is on a property that is not always there")]
    Place(String),
}

/// The annotated arguments of a tool's `inputSchema`, in the order of their paths.
///
/// # Errors
/// When one annotation breaks a rule of 2026-07-28.
pub fn declared(schema: &[u8]) -> Result<Vec<Param>, BadAnnotation> {
    let schema: Map<String, Value> =
        serde_json::from_slice(schema).map_err(|_| BadAnnotation::Schema)?;
    let mut walk = Walk::default();
    walk.schema(&schema, true)?;
    Ok(walk.found)
}

#[derive(Default)]
struct Walk {
    path: Vec<String>,
    names: HashSet<String>,
    found: Vec<Param>,
}

impl Walk {
    /// No deeper than the parser went, which has a bound of its own.
    fn schema(&mut self, schema: &Map<String, Value>, always: bool) -> Result<(), BadAnnotation> {
        if let Some(annotation) = schema.get(ANNOTATION) {
            self.annotation(annotation, schema, always)?;
        }
        for (keyword, value) in schema {
            let keyword = keyword.as_str();
            if keyword == "properties" {
                self.table(value, always)?;
            } else if SOMETIMES_BY_NAME.contains(&keyword) {
                self.table(value, false)?;
            } else if SOMETIMES.contains(&keyword) {
                match value {
                    Value::Object(schema) => self.below(keyword, schema, false)?,
                    Value::Array(schemas) => {
                        for schema in schemas.iter().filter_map(Value::as_object) {
                            self.below(keyword, schema, false)?;
                        }
                    }
                    _ => {}
                }
            }
        }
        Ok(())
    }

    fn table(&mut self, table: &Value, always: bool) -> Result<(), BadAnnotation> {
        for (name, schema) in table.as_object().into_iter().flatten() {
            if let Value::Object(schema) = schema {
                self.below(name, schema, always)?;
            }
        }
        Ok(())
    }

    fn below(
        &mut self,
        name: &str,
        schema: &Map<String, Value>,
        always: bool,
    ) -> Result<(), BadAnnotation> {
        self.path.push(name.to_owned());
        self.schema(schema, always)?;
        self.path.pop();
        Ok(())
    }

    fn annotation(
        &mut self,
        annotation: &Value,
        schema: &Map<String, Value>,
        always: bool,
    ) -> Result<(), BadAnnotation> {
        let place = || self.path.join(".");
        if !always || self.path.is_empty() {
            return Err(BadAnnotation::Place(place()));
        }
        let name = annotation.as_str().filter(|name| is_token(name));
        let name = name.ok_or_else(|| BadAnnotation::Name(place()))?;
        let sort = match schema.get("type").and_then(Value::as_str) {
            Some("string") => Sort::Text,
            Some("integer") => Sort::Integer,
            Some("boolean") => Sort::Truth,
            _ => return Err(BadAnnotation::Sort(place())),
        };
        if !self.names.insert(name.to_ascii_lowercase()) {
            return Err(BadAnnotation::Twice(name.to_owned()));
        }
        self.found.push(Param {
            name: name.to_owned(),
            path: self.path.clone(),
            sort,
        });
        Ok(())
    }
}

/// RFC 9110, section 5.6.2.
fn is_token(name: &str) -> bool {
    let is_tchar = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
    !name.is_empty() && name.bytes().all(is_tchar)
}
