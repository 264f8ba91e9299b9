//! Audit records and the port they leave through.
//!
//! Separate from the audit policy because sinks need the shape without the deciding. A record is
//! borrowed data: the sink numbers it, stamps it and writes it, as one line whatever it contains.

use std::fmt::{Debug, Write as _};
use std::time::Duration;

use serde::Serialize;
use serde_json::Value;

use super::call::Levels;

mod line;

use line::{Line, name};

/// Takes audit records.
pub trait AuditSink: Debug + Send + Sync {
    /// Takes one record over; the sink adds `seq`, `ts` and the newline. Returning is the promise
    /// the sink's durability mode makes. Must not block: a full buffer is [`AuditDown`].
    ///
    /// # Errors
    /// When the record is not taken; the call it admits is then refused.
    fn append(&self, record: &Record<'_>) -> Result<(), AuditDown>;

    /// Takes a record of what somebody did to the policies themselves, in the same way.
    ///
    /// # Errors
    /// When the record is not taken; what it tells of is then not done.
    fn note(&self, event: &Event<'_>) -> Result<(), AuditDown>;
}

/// The sink cannot take records.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the audit log takes no records: {0}; make room or fix `[audit]`")]
pub struct AuditDown(pub String);

/// Where in its life the call was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Every policy let it pass; it goes to the server next.
    Admit,
    /// It was refused, or the host left while a policy held it (`reason` is then `cancelled`).
    Refuse,
    /// An admitted call ended. Exactly one for each admit record.
    Done,
}

impl Phase {
    /// As records spell it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Admit => "admit",
            Self::Refuse => "refuse",
            Self::Done => "done",
        }
    }
}

/// One record: who did what when, and what became of it. Texts are cut to bounds, see
/// [`clipped`].
#[derive(Clone, Debug)]
pub struct Record<'a> {
    /// Version of the format.
    pub v: u8,
    /// Which chillgate wrote it.
    pub instance: &'a str,
    /// Admit, refuse or done.
    pub phase: Phase,
    /// The host's era; not in done records.
    pub era: Option<&'static str>,
    /// Front transport; not in done records.
    pub transport: Option<&'static str>,
    /// Session, where there is one.
    pub session: Option<&'a str>,
    /// Who asked.
    pub agent: &'a str,
    /// What the host says it is: in the record of its `initialize`, and where there is no session
    /// that leads to that one.
    pub client: Option<Client<'a>>,
    /// The server, or `*`.
    pub server: &'a str,
    /// MCP method.
    pub method: &'a str,
    /// Tool, prompt or resource, secrets in URIs masked.
    pub tool: Option<&'a str>,
    /// JSON-RPC id as written.
    pub id: Option<&'a str>,
    /// SHA-256 of the argument bytes in hex digits.
    pub args_sha256: Option<&'a str>,
    /// Arguments with secrets masked, where the policy asks for them.
    pub args: Option<&'a Value>,
    /// Set when the arguments were too large to keep.
    pub args_dropped: bool,
    /// Who refused and why; only in refuse records.
    pub decision: Option<Decision<'a>>,
    /// The tightest budget it was counted against; only in admit records.
    pub quota: Option<Budget<'a>>,
    /// How long policies held it; written if they did.
    pub delay_ms: u64,
    /// Whether a boss alert held it.
    pub held: bool,
    /// How it ended; only in done records.
    pub outcome: Option<&'static str>,
    /// Why the server went away under it: how its process ended; only in done records.
    pub cause: Option<&'a str>,
    /// Code of the server's JSON-RPC error.
    pub rpc_code: Option<i64>,
    /// From the final verdict to the end, `dur_ms` with microseconds; only in done records.
    pub duration: Option<Duration>,
    /// Sizes of request and answer.
    pub bytes: Sizes,
    /// Mood levels, where something looked at them.
    pub levels: Option<Levels>,
}

/// One act of an administrator, or its end: no call, and in no sum of calls.
#[derive(Clone, Debug, Default)]
pub struct Event<'a> {
    /// Which chillgate wrote it.
    pub instance: &'a str,
    /// What was done, such as `override-set`.
    pub action: &'static str,
    /// Who did it.
    pub by: &'a str,
    /// The policy it is about, if one.
    pub policy: Option<&'a str>,
    /// The agent it is about, if one alone.
    pub agent: Option<&'a str>,
    /// The id of an override.
    pub id: Option<&'a str>,
    /// The values that it puts in the place of others.
    pub values: Option<&'a Value>,
    /// When it ends.
    pub until: Option<&'a str>,
    /// Why, in the words of who did it, or of what ended it.
    pub reason: Option<&'a str>,
    /// How many counters were forgotten.
    pub count: Option<u64>,
}

impl Event<'_> {
    /// Appends its members as [`Record::write`] does; `phase` is `admin`.
    pub fn write(&self, out: &mut Vec<u8>) {
        let mut line = Line::after(out);
        line.number(name!("v"), 1);
        line.text(name!("instance"), self.instance);
        line.word(name!("phase"), "admin");
        line.word(name!("action"), self.action);
        line.text(name!("by"), self.by);
        line.some_text(name!("policy"), self.policy);
        line.some_text(name!("agent"), self.agent);
        line.some_text(name!("id"), self.id);
        if let Some(values) = self.values {
            line.json(name!("values"), values);
        }
        line.some_text(name!("until"), self.until);
        line.some_text(name!("reason"), self.reason);
        if let Some(count) = self.count {
            line.number(name!("count"), count);
        }
    }
}

/// What a host says of itself.
#[derive(Clone, Copy, Debug)]
pub struct Client<'a> {
    /// Its name.
    pub name: &'a str,
    /// Its version.
    pub version: &'a str,
    /// Where it came from.
    pub addr: Option<&'a str>,
}

/// A refusal in a record.
#[derive(Clone, Copy, Debug)]
pub struct Decision<'a> {
    /// Name of the policy.
    pub policy: &'a str,
    /// Its kind.
    pub kind: &'static str,
    /// Always `refuse`.
    pub effect: &'static str,
    /// Why.
    pub reason: &'a str,
    /// Code sent to the host.
    pub code: i64,
}

/// A budget in a record.
#[derive(Clone, Copy, Debug)]
pub struct Budget<'a> {
    /// Name of the policy.
    pub policy: &'a str,
    /// How many per window.
    pub limit: u64,
    /// How many were left.
    pub remaining: u64,
    /// Seconds until it is full.
    pub reset_s: u64,
}

/// Sizes in bytes.
#[derive(Clone, Copy, Debug)]
pub struct Sizes {
    /// Of the request: `in`.
    pub inward: u64,
    /// Of the answer: `out`; not written where there is none.
    pub outward: u64,
}

impl Record<'_> {
    /// Appends the members of the record as JSON, as [`json_line`] writes it, a comma before each
    /// of them: the sink has put at least one before.
    pub fn write(&self, out: &mut Vec<u8>) {
        let mut line = Line::after(out);
        line.number(name!("v"), self.v);
        line.text(name!("instance"), self.instance);
        line.word(name!("phase"), self.phase.as_str());
        line.some_word(name!("era"), self.era);
        line.some_word(name!("transport"), self.transport);
        line.some_text(name!("session"), self.session);
        line.text(name!("agent"), self.agent);
        if let Some(client) = &self.client {
            line.object(name!("client"), |line| {
                line.text(name!("name"), client.name);
                line.text(name!("version"), client.version);
                line.some_text(name!("addr"), client.addr);
            });
        }
        line.text(name!("server"), self.server);
        line.text(name!("method"), self.method);
        line.some_text(name!("tool"), self.tool);
        line.some_text(name!("id"), self.id);
        line.some_word(name!("args_sha256"), self.args_sha256);
        if let Some(args) = self.args {
            line.json(name!("args"), args);
        }
        line.flag(name!("args_dropped"), self.args_dropped);
        if let Some(decision) = &self.decision {
            line.object(name!("decision"), |line| {
                line.text(name!("policy"), decision.policy);
                line.word(name!("kind"), decision.kind);
                line.word(name!("effect"), decision.effect);
                line.text(name!("reason"), decision.reason);
                line.number(name!("code"), decision.code);
            });
        }
        if let Some(quota) = &self.quota {
            line.object(name!("quota"), |line| {
                line.text(name!("policy"), quota.policy);
                line.number(name!("limit"), quota.limit);
                line.number(name!("remaining"), quota.remaining);
                line.number(name!("reset_s"), quota.reset_s);
            });
        }
        if self.delay_ms > 0 {
            line.number(name!("delay_ms"), self.delay_ms);
        }
        line.flag(name!("held"), self.held);
        line.some_word(name!("outcome"), self.outcome);
        line.some_text(name!("cause"), self.cause);
        if let Some(code) = self.rpc_code {
            line.number(name!("rpc_code"), code);
        }
        if let Some(duration) = self.duration {
            let micros = u64::try_from(duration.as_micros()).unwrap_or(u64::MAX);
            line.millis(name!("dur_ms"), micros);
        }
        line.object(name!("bytes"), |line| {
            line.number(name!("in"), self.bytes.inward);
            if self.bytes.outward > 0 {
                line.number(name!("out"), self.bytes.outward);
            }
        });
        if let Some(levels) = &self.levels {
            line.json(name!("levels"), levels);
        }
    }
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
/// When the value does not serialise.
pub fn json_line<T: Serialize>(value: &T) -> serde_json::Result<String> {
    let mut bytes = Vec::with_capacity(512);
    serde_json::to_writer(&mut bytes, value)?;
    let line = String::from_utf8(bytes).map_err(serde::ser::Error::custom)?;
    // Nearly all lines are plain ASCII: one look at the greatest byte.
    if line.bytes().fold(0, u8::max) < 0x7f {
        return Ok(line);
    }
    Ok(without_sly(&line))
}

/// JSON's own characters are plain, so whatever is sly stands in a string.
fn without_sly(line: &str) -> String {
    let mut out = String::with_capacity(line.len() + 64);
    for c in line.chars() {
        if is_sly(c) {
            let mut units = [0; 2];
            for unit in c.encode_utf16(&mut units) {
                // Writing to a `String` does not fail.
                let _ = write!(out, "\\u{unit:04x}");
            }
        } else {
            out.push(c);
        }
    }
    out
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
        let line = json_line(&"a\r\nb\u{2028}c\u{85}d\u{1b}[31me\u{9b}f\u{202e}g\u{e0041}")
            .expect("serialises");
        assert_eq!(
            line,
            r#""a\r\nb\u2028c\u0085d\u001b[31me\u009bf\u202eg\udb40\udc41""#
        );
    }

    #[test]
    fn ordinary_text_of_any_language_stays_readable() {
        assert_eq!(
            json_line(&"치맥 🍗 naïve").expect("serialises"),
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
            let line = json_line(&value).expect("serialises");
            prop_assert!(!line.chars().any(|c| c.is_control() || is_sly(c)));
            prop_assert_eq!(serde_json::from_str::<Value>(&line).expect("JSON"), value);
        }
    }
}
