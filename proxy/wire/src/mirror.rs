//! The header fields that repeat what is in the body (2026-07-28, Streamable HTTP).
//!
//! `Mcp-Method`, `Mcp-Name` and one `Mcp-Param-{Name}` for each annotated argument of a tool let
//! whoever stands in between route without reading JSON; whoever serves must find both in
//! agreement. Apart because front and backend need the two directions of one rule. It knows no
//! HTTP library: fields come in as bytes and leave as text that is safe to put into one.

use std::borrow::Cow;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use crate::envelope::Envelope;
use crate::json;
use crate::method;

mod schema;

pub use schema::{BadAnnotation, declared};

/// The field that repeats `method`, in lower case.
pub const METHOD: &str = "mcp-method";
/// The field that repeats what the request names.
pub const NAME: &str = "mcp-name";
/// What the fields of arguments begin with.
pub const PARAM: &str = "mcp-param-";

const OPENER: &str = "=?base64?";
const CLOSER: &str = "?=";

/// A field that is no text: not UTF-8, or marked as Base64 without being it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the value is neither plain text nor Base64 of UTF-8 between `=?base64?` and `?=`")]
pub struct Undecodable;

/// The text as a field's value: as it is where that is unambiguous, else Base64 between markers.
/// What comes out is printable ASCII without whitespace at its ends, whatever the text.
pub fn encode(text: &str) -> Cow<'_, str> {
    let is_plain = text.bytes().all(|byte| matches!(byte, b' '..=b'~'))
        && !text.starts_with(' ')
        && !text.ends_with(' ')
        && !is_marked(text.as_bytes());
    if is_plain {
        return Cow::Borrowed(text);
    }
    let mut field = String::from(OPENER);
    STANDARD.encode_string(text, &mut field);
    field.push_str(CLOSER);
    Cow::Owned(field)
}

/// The text that a field's value stands for.
///
/// # Errors
/// When it stands for none.
pub fn decode(field: &[u8]) -> Result<Cow<'_, str>, Undecodable> {
    if !is_marked(field) {
        let text = std::str::from_utf8(field).map_err(|_| Undecodable)?;
        return Ok(Cow::Borrowed(text));
    }
    let inner = field.get(OPENER.len()..field.len() - CLOSER.len());
    let bytes = STANDARD.decode(inner.unwrap_or_default());
    let text = bytes.ok().and_then(|bytes| String::from_utf8(bytes).ok());
    text.map(Cow::Owned).ok_or(Undecodable)
}

/// The markers are lower case and do not overlap.
fn is_marked(field: &[u8]) -> bool {
    field.len() >= OPENER.len() + CLOSER.len()
        && field.starts_with(OPENER.as_bytes())
        && field.ends_with(CLOSER.as_bytes())
}

/// What `Mcp-Name` of this modern message repeats; `None` where its method has no such field or it
/// names nothing. Methods that only the legacy era has are refused before.
pub fn name(message: &Envelope) -> Option<Cow<'_, str>> {
    message.text(&["params", method::target_member(message.method()?)?])
}

/// What an annotated argument may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sort {
    /// Compared as text.
    Text,
    /// Compared as a number: `1`, `1.0` and `1e0` are one.
    Integer,
    /// `true` or `false`.
    Truth,
}

/// One annotated argument of a tool.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Param {
    /// The rest of the field's name, as the schema spells it.
    pub name: String,
    /// Where the argument is, one member name per level.
    pub path: Vec<String>,
    /// What it may be.
    pub sort: Sort,
}

impl Param {
    /// The argument as text, to be [encoded](encode). `None`: the call has it not, as `null`, or as
    /// something else than declared, and then the field is left out.
    pub fn value<'a>(&self, arguments: &'a [u8]) -> Option<Cow<'a, str>> {
        let path: Vec<&str> = self.path.iter().map(String::as_str).collect();
        let lexeme = &arguments[json::path(arguments, &path)?];
        match (self.sort, lexeme) {
            (Sort::Text, [b'"', ..]) => json::text(lexeme),
            (Sort::Truth, b"true" | b"false") | (Sort::Integer, [b'-' | b'0'..=b'9', ..]) => {
                std::str::from_utf8(lexeme).ok().map(Cow::Borrowed)
            }
            _ => None,
        }
    }

    /// Whether a field, already [decoded](decode), says what the arguments say: the same value, or
    /// both nothing.
    pub fn agrees(&self, field: Option<&str>, arguments: &[u8]) -> bool {
        let value = self.value(arguments);
        match (field, value.as_deref()) {
            (None, None) => true,
            (Some(field), Some(value)) => {
                field == value || self.sort == Sort::Integer && same_number(field, value)
            }
            _ => false,
        }
    }
}

/// Whether two spellings are one number. Whole numbers beyond 2^53 are compared digit by digit,
/// because a float would take neighbours for the same.
fn same_number(one: &str, other: &str) -> bool {
    // Written as JSON writes numbers, which `+7` and `07` are not.
    if float(one).is_none() || float(other).is_none() {
        return false;
    }
    match (one.parse::<i128>(), other.parse::<i128>()) {
        (Ok(one), Ok(other)) => one == other,
        _ => match (float(one), float(other)) {
            (Some(one), Some(other)) => one.total_cmp(&other).is_eq() && one.abs() < EXACT,
            _ => false,
        },
    }
}

/// Below this every whole number is a float of its own.
const EXACT: f64 = 9_007_199_254_740_992.0;

/// A number as JSON writes one; not `inf`, `nan` or `+1`. Minus zero is zero.
fn float(text: &str) -> Option<f64> {
    let number: serde_json::Number = serde_json::from_str(text).ok()?;
    number.as_f64().map(|number| number + 0.0)
}

#[cfg(test)]
mod tests;
