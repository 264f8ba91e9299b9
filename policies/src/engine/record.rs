//! Audit records and the port they leave through.
//!
//! Separate from the audit policy because sinks need the shape without the deciding. A record is
//! borrowed data: the sink numbers it, stamps it and writes it, as one line whatever it contains.

use std::fmt::Debug;
use std::io;

use serde::Serialize;
use serde_json::Value;
use serde_json::ser::{CharEscape, Formatter};

use super::call::Levels;

/// Takes audit records.
pub trait AuditSink: Debug + Send + Sync {
    /// Takes one record over; the sink adds `seq`, `ts` and the newline. Returning is the promise
    /// the sink's durability mode makes. Must not block: a full buffer is [`AuditDown`].
    ///
    /// # Errors
    /// When the record is not taken; the call it admits is then refused.
    fn append(&self, record: &Record<'_>) -> Result<(), AuditDown>;
}

/// The sink cannot take records.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the audit log takes no records: {0}; make room or fix `[audit]`")]
pub struct AuditDown(pub String);

/// Where in its life the call was.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Phase {
    /// Every policy let it pass; it goes to the server next.
    Admit,
    /// It was refused, or the host left while a policy held it (`reason` is then `cancelled`).
    Refuse,
    /// An admitted call ended. Exactly one for each admit record.
    Done,
}

/// One record: who did what when, and what became of it. Texts are cut to bounds, see
/// [`clipped`].
#[derive(Clone, Debug, Serialize)]
pub struct Record<'a> {
    /// Version of the format.
    pub v: u8,
    /// Which chillgate wrote it.
    pub instance: &'a str,
    /// Admit, refuse or done.
    pub phase: Phase,
    /// The host's era; not in done records.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub era: Option<&'a str>,
    /// Front transport; not in done records.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub transport: Option<&'a str>,
    /// Session, where there is one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub session: Option<&'a str>,
    /// Who asked.
    pub agent: &'a str,
    /// What the host says it is: in the record of its `initialize`, and where there is no session
    /// that leads to that one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub client: Option<Client<'a>>,
    /// The server, or `*`.
    pub server: &'a str,
    /// MCP method.
    pub method: &'a str,
    /// Tool, prompt or resource, secrets in URIs masked.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tool: Option<&'a str>,
    /// JSON-RPC id as written.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub id: Option<&'a str>,
    /// SHA-256 of the argument bytes in hex.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub args_sha256: Option<&'a str>,
    /// Arguments with secrets masked, where the policy asks for them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub args: Option<&'a Value>,
    /// Set when the arguments were too large to keep.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub args_dropped: bool,
    /// Who refused and why; only in refuse records.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub decision: Option<Decision<'a>>,
    /// The tightest budget it was counted against; only in admit records.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub quota: Option<Budget<'a>>,
    /// How long policies held it, if they did.
    #[serde(skip_serializing_if = "is_zero")]
    pub delay_ms: u64,
    /// Whether a boss alert held it.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub held: bool,
    /// How it ended; only in done records.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub outcome: Option<&'static str>,
    /// Code of the server's JSON-RPC error.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rpc_code: Option<i64>,
    /// From the final verdict to the end, with microseconds; only in done records.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dur_ms: Option<f64>,
    /// Sizes of request and answer.
    pub bytes: Sizes,
    /// Mood levels, where something looked at them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub levels: Option<Levels>,
}

/// What a host says of itself.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Client<'a> {
    /// Its name.
    pub name: &'a str,
    /// Its version.
    pub version: &'a str,
    /// Where it came from.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub addr: Option<&'a str>,
}

/// A refusal in a record.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Decision<'a> {
    /// Name of the policy.
    pub policy: &'a str,
    /// Its kind.
    pub kind: &'a str,
    /// Always `refuse`.
    pub effect: &'a str,
    /// Why.
    pub reason: &'a str,
    /// Code sent to the host.
    pub code: i64,
}

/// A budget in a record.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Budget<'a> {
    /// Name of the policy.
    pub policy: &'a str,
    /// How many per window.
    pub limit: u32,
    /// How many were left.
    pub remaining: u32,
    /// Seconds until it is full.
    pub reset_s: u64,
}

/// Sizes in bytes.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Sizes {
    /// Of the request.
    #[serde(rename = "in")]
    pub inward: u64,
    /// Of the answer; absent where there is none.
    #[serde(rename = "out", skip_serializing_if = "is_zero")]
    pub outward: u64,
}

#[expect(
    clippy::trivially_copy_pass_by_ref,
    reason = "serde passes a reference"
)]
fn is_zero(number: &u64) -> bool {
    *number == 0
}

/// The text, at most `bytes` long, cut between characters.
pub fn clipped(text: &str, bytes: usize) -> &str {
    &text[..text.floor_char_boundary(bytes)]
}

/// JSON on one line that no terminal obeys: beside what JSON must escape also DEL, C1 controls,
/// line and paragraph separators, bidirectional and invisible format characters. Without newline.
/// Reading it back gives the same value.
///
/// # Errors
/// When the value does not serialise; the records of this file always do.
pub fn to_line<T: Serialize>(value: &T) -> serde_json::Result<String> {
    let mut bytes = Vec::with_capacity(512);
    value.serialize(&mut serde_json::Serializer::with_formatter(
        &mut bytes, OneLine,
    ))?;
    String::from_utf8(bytes).map_err(serde::ser::Error::custom)
}

struct OneLine;

impl Formatter for OneLine {
    fn write_string_fragment<W: ?Sized + io::Write>(
        &mut self,
        writer: &mut W,
        fragment: &str,
    ) -> io::Result<()> {
        // Nearly all text is plain ASCII: one look and one write.
        if fragment.bytes().all(|byte| byte < 0x7f) {
            return writer.write_all(fragment.as_bytes());
        }
        let mut plain = 0;
        for (at, c) in fragment.char_indices().filter(|(_, c)| is_sly(*c)) {
            writer.write_all(&fragment.as_bytes()[plain..at])?;
            let mut units = [0; 2];
            for unit in c.encode_utf16(&mut units) {
                write!(writer, "\\u{unit:04x}")?;
            }
            plain = at + c.len_utf8();
        }
        writer.write_all(&fragment.as_bytes()[plain..])
    }

    fn write_char_escape<W: ?Sized + io::Write>(
        &mut self,
        writer: &mut W,
        escape: CharEscape,
    ) -> io::Result<()> {
        serde_json::ser::CompactFormatter.write_char_escape(writer, escape)
    }
}

/// Characters that break lines, steer terminals or hide text.
fn is_sly(c: char) -> bool {
    matches!(c,
        '\u{7f}'..='\u{9f}' | '\u{ad}' | '\u{61c}' | '\u{180e}' | '\u{200b}'..='\u{200f}'
        | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{fff9}'..='\u{fffb}'
        | '\u{e0000}'..='\u{e007f}')
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_line_breaker_in_any_text_stays_on_one_line() {
        let line = to_line(&"a\r\nb\u{2028}c\u{85}d\u{1b}[31me\u{9b}f\u{202e}g\u{e0041}")
            .expect("serialises");
        assert_eq!(
            line,
            r#""a\r\nb\u2028c\u0085d\u001b[31me\u009bf\u202eg\udb40\udc41""#
        );
    }

    #[test]
    fn ordinary_text_of_any_language_stays_readable() {
        assert_eq!(
            to_line(&"치맥 🍗 naïve").expect("serialises"),
            "\"치맥 🍗 naïve\""
        );
    }

    #[test]
    fn texts_are_cut_between_characters() {
        assert_eq!(clipped("치맥", 4), "치");
        assert_eq!(clipped("ab", 9), "ab");
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_back(text in any::<String>(), key in any::<String>()) {
            let value = serde_json::json!({ key: [text, 1, null] });
            let line = to_line(&value).expect("serialises");
            prop_assert!(!line.chars().any(|c| c.is_control() || is_sly(c)));
            prop_assert_eq!(serde_json::from_str::<Value>(&line).expect("JSON"), value);
        }
    }
}
