//! Why some bytes are not an acceptable message.
//!
//! One place for the reasons, their JSON-RPC codes and their metric labels, so that a log line, a
//! counter and the answer to the host agree. It never decides: the scan and the envelope do.

use std::fmt;

use crate::code;
use crate::id::Id;

/// A refused message: what, where, and whom to tell.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}{} at byte {offset}", .kind.sentence(), Named(.member.as_deref()))]
pub struct Fault {
    /// The JSON-RPC code to answer with: `-32700` or `-32600`.
    pub code: i64,
    /// The reason, also a metric label.
    pub kind: FaultKind,
    /// Offset of the offending byte in the message, from zero.
    pub offset: usize,
    /// The id of the refused message, where it was read exactly once and is a legal id.
    pub id: Option<Id>,
    /// The member the fault is about, already escaped and shortened for a log.
    pub(crate) member: Option<Box<str>>,
}

impl Fault {
    pub(crate) fn new(kind: FaultKind, offset: usize) -> Self {
        Self {
            code: kind.code(),
            kind,
            offset,
            id: None,
            member: None,
        }
    }

    /// Names the member, shortened: a hostile key must not become a megabyte of log.
    pub(crate) fn about(mut self, member: &[u8]) -> Self {
        const SHOWN: usize = 48;
        let head = member.get(..SHOWN).unwrap_or(member);
        let mut shown = String::from_utf8_lossy(head).escape_debug().to_string();
        if head.len() < member.len() {
            shown.push('…');
        }
        self.member = Some(shown.into_boxed_str());
        self
    }
}

struct Named<'a>(Option<&'a str>);

impl fmt::Display for Named<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.map_or(Ok(()), |name| write!(f, " \"{name}\""))
    }
}

/// The closed set of reasons.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum FaultKind {
    /// No bytes, or only whitespace.
    Empty,
    /// More bytes than [`crate::Limits::message`].
    TooLarge,
    /// A byte order mark, which RFC 8259 section 8.1 forbids to send.
    ByteOrderMark,
    /// Not UTF-8.
    Utf8,
    /// Not JSON.
    Syntax,
    /// JSON that stops early.
    Truncated,
    /// Something after the one value.
    Trailing,
    /// A raw control character inside a string.
    Control,
    /// Half a surrogate pair in a `\u` escape: such text has no UTF-8 form to relay.
    Surrogate,
    /// Deeper than [`crate::Limits::depth`].
    Depth,
    /// More members than [`crate::Limits::members`] in one object.
    Members,
    /// The same member twice in one object: parsers differ on which one counts.
    Duplicate,
    /// A member that a case-insensitive parser takes for one the gateway reads.
    Folded,
    /// An array where one message was expected.
    Batch,
    /// A batch without messages.
    EmptyBatch,
    /// More messages than [`crate::Limits::batch`].
    BatchSize,
    /// `initialize` inside a batch, which 2025-03-26 forbids.
    BatchedInitialize,
    /// Two requests of one batch have the same id: their answers could not be told apart.
    BatchedTwice,
    /// JSON, but not an object.
    NotObject,
    /// `jsonrpc` is missing or not `"2.0"`.
    Version,
    /// `id` is not a string or number, is too long, or is missing from a response.
    Id,
    /// `method` is not a string, or holds control characters.
    Method,
    /// `params` is not an object.
    Params,
    /// `params.name` holds control characters.
    Name,
    /// `result` is not an object.
    Result,
    /// `error` is not an object with an integer `code` and a string `message`.
    Error,
    /// The members together are no request, notification or response.
    Shape,
}

impl FaultKind {
    /// The metric label.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Empty => "empty",
            Self::TooLarge => "too_large",
            Self::ByteOrderMark => "byte_order_mark",
            Self::Utf8 => "utf8",
            Self::Syntax => "syntax",
            Self::Truncated => "truncated",
            Self::Trailing => "trailing",
            Self::Control => "control",
            Self::Surrogate => "surrogate",
            Self::Depth => "depth",
            Self::Members => "members",
            Self::Duplicate => "duplicate",
            Self::Folded => "folded",
            Self::Batch => "batch",
            Self::EmptyBatch => "empty_batch",
            Self::BatchSize => "batch_size",
            Self::BatchedInitialize => "batched_initialize",
            Self::BatchedTwice => "batched_twice",
            Self::NotObject => "not_object",
            Self::Version => "version",
            Self::Id => "id",
            Self::Method => "method",
            Self::Params => "params",
            Self::Name => "name",
            Self::Result => "result",
            Self::Error => "error",
            Self::Shape => "shape",
        }
    }

    /// `-32700` for bytes that are not JSON text, `-32600` for JSON that is not an acceptable
    /// message (JSON-RPC 2.0 section 5.1).
    pub fn code(self) -> i64 {
        match self {
            Self::Empty
            | Self::ByteOrderMark
            | Self::Utf8
            | Self::Syntax
            | Self::Truncated
            | Self::Trailing
            | Self::Control
            | Self::Surrogate => code::PARSE_ERROR,
            _ => code::INVALID_REQUEST,
        }
    }

    fn sentence(self) -> &'static str {
        match self {
            Self::Empty => "empty message",
            Self::TooLarge => "message larger than the limit",
            Self::ByteOrderMark => "byte order mark, send plain UTF-8",
            Self::Utf8 => "invalid UTF-8",
            Self::Syntax => "invalid JSON",
            Self::Truncated => "unexpected end of JSON",
            Self::Trailing => "unexpected bytes after the message",
            Self::Control => "raw control character in a string",
            Self::Surrogate => "lone surrogate escape",
            Self::Depth => "nesting deeper than the limit",
            Self::Members => "more members in one object than the limit",
            Self::Duplicate => "duplicate member",
            Self::Folded => "member differs only by case from a known one:",
            Self::Batch => "batch where one message was expected",
            Self::EmptyBatch => "empty batch",
            Self::BatchSize => "more messages in the batch than the limit",
            Self::BatchedInitialize => "initialize inside a batch, send it alone",
            Self::BatchedTwice => "two requests of the batch have the same id",
            Self::NotObject => "message is not an object",
            Self::Version => "jsonrpc must be \"2.0\"",
            Self::Id => "id must be valid text or a number, of at most 1024 bytes",
            Self::Method => "method must be a string without control characters",
            Self::Params => "params must be an object",
            Self::Name => "name must not hold control characters",
            Self::Result => "result must be an object",
            Self::Error => "error must be an object with an integer code and a string message",
            Self::Shape => "neither a request, a notification nor a response",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fault_says_what_and_where() {
        let fault = Fault::new(FaultKind::Duplicate, 31).about(b"method");
        assert_eq!(fault.to_string(), "duplicate member \"method\" at byte 31");
        assert_eq!(fault.code, -32600);
        assert_eq!(
            Fault::new(FaultKind::Utf8, 0).to_string(),
            "invalid UTF-8 at byte 0"
        );
    }

    #[test]
    fn a_hostile_key_cannot_flood_or_break_a_log_line() {
        let fault =
            Fault::new(FaultKind::Duplicate, 0).about("a\n\u{1b}[31m".repeat(4000).as_bytes());
        let said = fault.to_string();
        assert!(said.len() < 250, "{said}");
        assert!(!said.contains(['\n', '\u{1b}']), "{said}");
    }
}
