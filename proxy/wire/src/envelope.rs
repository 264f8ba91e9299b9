//! One message: its head understood, its bytes kept.
//!
//! [`Envelope::parse`] is the only way from outside bytes to a message; what it hands out are slices
//! of those bytes. It decides what is a request, a notification, a response or an error, and refuses
//! the rest. It never looks at what a method means, and never re-serialises.

use std::borrow::Cow;
use std::ops::Range;

use bytes::Bytes;

use crate::edit::Edit;
use crate::fault::{Fault, FaultKind};
use crate::id::Id;
use crate::json;
use crate::limits::Limits;
use crate::scan::{self, Shape};

pub(crate) mod head;

use head::kept_method;
pub(crate) use head::{Head, SLOTS, Span};

/// What a message is, by the members it has (JSON-RPC 2.0 sections 4 and 5).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// `method` and `id`: wants an answer.
    Request,
    /// `method` alone.
    Notification,
    /// `id` and `result`.
    Response,
    /// `error`, with the `id` of the request where that was readable.
    Error,
}

/// One checked message and where its parts are. Cloning shares the bytes.
#[derive(Clone, Debug)]
pub struct Envelope {
    raw: Bytes,
    head: Head,
    /// The method's text where it is MCP's own, or where its lexeme holds escapes.
    method: Option<Cow<'static, str>>,
    /// A raw CR or LF may stand between tokens.
    multiline: bool,
}

impl Envelope {
    /// Checks `raw` as exactly one message. Whitespace around it is kept; an array is
    /// [`FaultKind::Batch`], to be tried with [`crate::batch::split`] where batches are allowed.
    pub fn parse(raw: Bytes, limits: &Limits) -> Result<Self, Fault> {
        let first = json::skip_blank(&raw, 0);
        if raw.len() <= limits.message && raw.get(first) == Some(&b'[') {
            return Err(Fault::new(FaultKind::Batch, first));
        }
        let mut head = Head::default();
        let scanned = scan::scan(&raw, limits, &mut head)?;
        head.root = Span::new(scanned.start, scanned.end);
        let refused = scanned.flaw.or_else(|| {
            if scanned.shape == Shape::Object {
                head.misshapen()
            } else {
                Some(Fault::new(FaultKind::NotObject, scanned.start))
            }
        });
        if let Some(mut fault) = refused {
            fault.id = head.lone_id(&raw);
            return Err(fault);
        }
        head.inside.complete();
        let method = kept_method(head.method.of(&raw));
        Ok(Self {
            raw,
            head,
            method,
            multiline: scanned.multiline,
        })
    }

    /// What it is.
    pub fn kind(&self) -> Kind {
        match (self.head.method.exists(), self.head.id.exists()) {
            (true, true) => Kind::Request,
            (true, false) => Kind::Notification,
            (false, _) if self.head.error.exists() => Kind::Error,
            (false, _) => Kind::Response,
        }
    }

    /// The whole message as it came.
    pub fn raw(&self) -> &Bytes {
        &self.raw
    }

    /// The id; `None` for a notification, and for an error whose sender could not read one.
    pub fn id(&self) -> Option<Id> {
        self.id_bytes().map(Id::copy)
    }

    /// The id's lexeme: see [`Envelope::id`].
    pub fn id_bytes(&self) -> Option<&[u8]> {
        self.head
            .id
            .of(&self.raw)
            .filter(|lexeme| *lexeme != b"null")
    }

    /// The method's text.
    pub fn method(&self) -> Option<&str> {
        if let Some(decoded) = &self.method {
            return Some(decoded);
        }
        let lexeme = self.head.method.of(&self.raw)?;
        std::str::from_utf8(lexeme.get(1..lexeme.len() - 1)?).ok()
    }

    /// The value of `params`: an object.
    pub fn params(&self) -> Option<&[u8]> {
        self.head.params.of(&self.raw)
    }

    /// The value of `result`: an object.
    pub fn result(&self) -> Option<&[u8]> {
        self.head.result.of(&self.raw)
    }

    /// The value of `error`: an object with an integer `code` and a string `message`.
    pub fn error(&self) -> Option<&[u8]> {
        self.head.error.of(&self.raw)
    }

    /// Where the value at `path` is in [`Envelope::raw`], one member name per level.
    pub fn find(&self, path: &[&str]) -> Option<Range<usize>> {
        let (first, rest) = path.split_first()?;
        let span = if let Some(slot) = Head::slot(first.as_bytes()) {
            let span = self.head.get(slot).range()?;
            if let Some((kept, length)) = self.head.inside.find(slot, rest) {
                let (kept, rest) = (kept.range()?, rest.get(length..)?);
                if rest.is_empty() {
                    return Some(kept);
                }
                let found = json::path(self.raw.get(kept.clone())?, rest)?;
                return Some(kept.start + found.start..kept.start + found.end);
            }
            span
        } else {
            let root = self.head.root.range()?;
            let found = json::member(self.raw.get(root.clone())?, first)?;
            root.start + found.start..root.start + found.end
        };
        if rest.is_empty() {
            return Some(span);
        }
        let found = json::path(self.raw.get(span.clone())?, rest)?;
        Some(span.start + found.start..span.start + found.end)
    }

    /// Whether `params._meta` may have members beside those of a request's own hop ([`crate::meta`])
    /// and its progress token.
    pub fn may_have_other_meta(&self) -> bool {
        self.head.inside.may_have_other_meta()
    }

    /// The value at `path`.
    pub fn get(&self, path: &[&str]) -> Option<&[u8]> {
        self.raw.get(self.find(path)?)
    }

    /// The text of the string at `path`; `None` if it is missing or no string.
    pub fn text(&self, path: &[&str]) -> Option<Cow<'_, str>> {
        json::text(self.get(path)?)
    }

    /// The same message under another id, every other byte kept. `id` is one JSON string or number,
    /// as in [`Id::as_bytes`]. A notification becomes a request.
    #[must_use]
    pub fn with_id(&self, id: &[u8]) -> Self {
        self.edit().id(id).finish()
    }

    /// Starts a set of changes, applied together.
    pub fn edit(&self) -> Edit<'_> {
        Edit::new(self)
    }

    /// Appends the message with `edits`, made from this very envelope, as one line: line breaks
    /// between tokens become spaces, and one LF follows. The stdio transport allows no other.
    pub fn write_line(&self, edits: &Edit<'_>, out: &mut Vec<u8>) {
        debug_assert!(
            std::ptr::eq(edits.envelope(), self),
            "edits of another envelope"
        );
        edits.write_line(out);
    }

    /// Appends the message unchanged, as one line: see [`Envelope::write_line`].
    pub fn write_raw_line(&self, out: &mut Vec<u8>) {
        let start = out.len();
        out.reserve(self.raw.len() + 1);
        out.extend_from_slice(&self.raw);
        if self.multiline {
            join_lines(out, start);
        }
        out.push(b'\n');
    }

    pub(crate) fn multiline(&self) -> bool {
        self.multiline
    }

    pub(crate) fn head(&self) -> &Head {
        &self.head
    }

    /// An envelope after trusted edits.
    pub(crate) fn edited(raw: Bytes, head: Head, multiline: bool) -> Self {
        let method = kept_method(head.method.of(&raw));
        Self {
            raw,
            head,
            method,
            multiline,
        }
    }
}

/// Turns the CR and LF after `start` into spaces. In JSON they can only stand between tokens.
pub(crate) fn join_lines(out: &mut [u8], start: usize) {
    for byte in out.get_mut(start..).unwrap_or_default() {
        if matches!(byte, b'\n' | b'\r') {
            *byte = b' ';
        }
    }
}

#[cfg(test)]
mod tests;
