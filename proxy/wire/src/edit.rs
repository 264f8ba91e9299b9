//! Changing a message by splicing: every byte that is not named stays as it was.
//!
//! A set of changes is gathered first and applied in one pass, so that two changes inside one
//! missing object create it once. Values given are trusted to be valid JSON and are not checked.
//! It never touches a byte outside the named values and the commas that a removal needs.

use std::borrow::Cow;
use std::ops::Range;

use bytes::Bytes;

use crate::envelope::{Envelope, Head, SLOTS, Span, head, join_lines};

mod follow;
mod plan;
mod tree;

use plan::{Plan, Splice};
use tree::Node;

/// Changes to one envelope. Nothing happens before [`Edit::finish`], [`Edit::write`] or
/// [`Envelope::write_line`]; each may be called more than once.
///
/// Paths name one member per level, from the message's own members down. Of two changes to one
/// place the later counts; a change inside a value set before starts from the original again.
#[derive(Clone, Debug)]
pub struct Edit<'a> {
    envelope: &'a Envelope,
    /// Apart from the tree: by far the most common change, and it needs no allocation.
    id: Option<Cow<'a, [u8]>>,
    tree: Node<'a>,
    raw: Vec<Splice<'a>>,
}

impl<'a> Edit<'a> {
    pub(crate) fn new(envelope: &'a Envelope) -> Self {
        Self {
            envelope,
            id: None,
            tree: Node::default(),
            raw: Vec::new(),
        }
    }

    pub(crate) fn envelope(&self) -> &'a Envelope {
        self.envelope
    }

    /// Sets the id to one JSON string or number, as in [`crate::Id::as_bytes`].
    pub fn id(&mut self, id: impl Into<Cow<'a, [u8]>>) -> &mut Self {
        self.id = Some(id.into());
        self
    }

    /// Puts `value` at `path`, in place of what is there. Objects missing on the way are created;
    /// a value on the way that is no object is replaced by one. A new member comes first in its
    /// object. An empty path changes nothing.
    pub fn set(&mut self, path: &[&'a str], value: impl Into<Cow<'a, [u8]>>) -> &mut Self {
        match path {
            ["id"] => self.id = Some(value.into()),
            path => self.tree.set(path, value.into()),
        }
        self
    }

    /// Takes the member at `path` out, with its comma. What is not there stays away. The id of a
    /// message cannot be removed.
    pub fn remove(&mut self, path: &[&'a str]) -> &mut Self {
        if path != ["id"] {
            self.tree.remove(path);
        }
        self
    }

    /// Replaces `range` of [`Envelope::raw`], a whole value. It must not overlap another change;
    /// where it does, the one that starts first wins.
    pub fn replace(&mut self, range: Range<usize>, bytes: impl Into<Cow<'a, [u8]>>) -> &mut Self {
        self.raw.push(Splice {
            range,
            with: bytes.into(),
        });
        self
    }

    /// Whether nothing is to be changed.
    pub fn is_empty(&self) -> bool {
        self.id.is_none() && !self.brings_values()
    }

    /// The changed bytes.
    pub fn write(&self) -> Bytes {
        if self.is_empty() {
            return self.envelope.raw().clone();
        }
        let mut out = Vec::new();
        self.apply(&mut out);
        out.into()
    }

    /// The changed message. Not scanned again: the changes are trusted to leave it a message.
    pub fn finish(&self) -> Envelope {
        if self.is_empty() {
            return self.envelope.clone();
        }
        let mut out = Vec::new();
        let head = self.apply(&mut out);
        // A value brought in may hold line breaks of its own.
        let multiline = self.envelope.multiline()
            || (self.brings_values() && memchr::memchr2(b'\n', b'\r', &out).is_some());
        Envelope::edited(out.into(), head, multiline)
    }

    pub(crate) fn write_line(&self, out: &mut Vec<u8>) {
        if self.is_empty() {
            return self.envelope.write_raw_line(out);
        }
        let start = out.len();
        self.apply(out);
        if self.envelope.multiline() || self.brings_values() {
            join_lines(out, start);
        }
        out.push(b'\n');
    }

    fn brings_values(&self) -> bool {
        !self.tree.is_empty() || !self.raw.is_empty()
    }

    /// Appends the changed message and says where its members are, counted from its own start.
    fn apply(&self, out: &mut Vec<u8>) -> Head {
        let raw = self.envelope.raw();
        let mut head = self.envelope.head().clone();
        if let (Some(id), false, Some(range)) = (&self.id, self.brings_values(), head.id.range()) {
            let splices = [Splice {
                range,
                with: Cow::Borrowed(id),
            }];
            plan::join(raw, &splices, out);
            plan::shift(&mut head, &splices);
            return head;
        }
        if self.raw.is_empty() {
            follow::follow(&mut head, &self.tree);
        } else {
            head.inside = head::inside::Inside::default();
        }
        let mut plan = Plan::new(raw, self.envelope.head(), &self.raw);
        plan.message(self.id.as_deref(), &self.tree);
        let (splices, created) = plan.finish();
        plan::join(raw, &splices, out);
        for slot in SLOTS {
            if self.tree.removes(slot.name()) {
                *head.place(slot) = Span::default();
            }
        }
        plan::shift(&mut head, &splices);
        for (name, range) in created {
            if let Some(slot) = Head::slot(name.as_bytes()) {
                *head.place(slot) = Span::new(range.start, range.end);
            }
        }
        head
    }
}

#[cfg(test)]
mod tests;
