//! From changes by path to replaced ranges, and from those to bytes.
//!
//! Everything that knows commas and offsets is here; the tree knows names, the edit knows neither.
//! It never reads a value it is not changing, beyond finding its end.

use std::borrow::Cow;
use std::ops::Range;

use super::tree::{Change, Node};
use crate::envelope::Head;
use crate::json;

/// Replace `range` of the original by `with`.
#[derive(Clone, Debug)]
pub(super) struct Splice<'a> {
    pub(super) range: Range<usize>,
    pub(super) with: Cow<'a, [u8]>,
}

/// New members of the message itself, with the place of their value in the result.
pub(super) type Created<'e> = Vec<(&'e str, Range<usize>)>;

/// Gathers the splices of one message.
pub(super) struct Plan<'e> {
    raw: &'e [u8],
    head: &'e Head,
    splices: Vec<Splice<'e>>,
    created: Created<'e>,
}

impl<'e> Plan<'e> {
    pub(super) fn new(raw: &'e [u8], head: &'e Head, given: &'e [Splice<'_>]) -> Self {
        let splices = given
            .iter()
            .map(|given| Splice {
                range: given.range.clone(),
                with: Cow::Borrowed(&given.with),
            })
            .collect();
        Self {
            raw,
            head,
            splices,
            created: Vec::new(),
        }
    }

    /// Plans the changes of the message itself.
    pub(super) fn message(&mut self, id: Option<&'e [u8]>, tree: &'e Node<'_>) {
        let Some(root) = self.head.root.range() else {
            return;
        };
        let mut fresh = Fresh::default();
        if let Some(id) = id {
            match self.head.id.range() {
                Some(range) => self.splices.push(Splice {
                    range,
                    with: Cow::Borrowed(id),
                }),
                None => fresh.add("id", &Change::Set(Cow::Borrowed(id))),
            }
        }
        // The places of the message's own members are known; only others need a walk.
        let known = |(name, change): (&str, &Change<'_>)| {
            Head::slot(name.as_bytes()).is_some() && !matches!(change, Change::Remove)
        };
        let mut filled = true;
        if tree.changes().all(known) {
            for (name, change) in tree.changes() {
                let slot = Head::slot(name.as_bytes());
                match slot.and_then(|slot| self.head.get(slot).range()) {
                    Some(range) => self.value(change, range),
                    None => fresh.add(name, change),
                }
            }
        } else {
            filled = self.object(tree, &root, &mut fresh);
        }
        let at = root.start + 1;
        self.created = fresh
            .values
            .iter()
            .map(|(name, r)| (*name, at + r.start..at + r.end))
            .collect();
        self.insert(at, fresh, filled);
    }

    /// Plans the changes to the members of `object`; the missing ones go to `fresh`. Says whether
    /// any member of the original stays. As deep as the longest path the caller's code spells out.
    fn object(&mut self, node: &'e Node<'_>, object: &Range<usize>, fresh: &mut Fresh<'e>) -> bool {
        let bytes = self.raw.get(object.clone()).unwrap_or_default();
        let absolute = |r: &Range<usize>| object.start + r.start..object.start + r.end;
        let mut found = vec![false; node.changes().count()];
        let mut members = json::pairs(bytes).peekable();
        let mut before = None;
        let mut kept = false;
        while let Some((key, value)) = members.next() {
            let change = node
                .changes()
                .zip(&mut found)
                .find(|((name, _), _)| json::is_key(bytes, &key, name));
            match change {
                Some(((_, Change::Remove), _)) => {
                    // The comma goes too: the one before, or where nothing stays before, the next.
                    let gone = match (kept, before, members.peek()) {
                        (true, Some(before), _) => before..value.end,
                        (_, _, Some((next, _))) => key.start..next.start,
                        _ => key.start..value.end,
                    };
                    let with = Cow::Borrowed(&b""[..]);
                    self.splices.push(Splice {
                        range: absolute(&gone),
                        with,
                    });
                }
                Some(((_, change), found)) => {
                    *found = true;
                    kept = true;
                    self.value(change, absolute(&value));
                }
                None => kept = true,
            }
            before = Some(value.end);
        }
        for ((name, change), found) in node.changes().zip(found) {
            if !found {
                fresh.add(name, change);
            }
        }
        kept
    }

    /// Plans a change to a value that is there.
    fn value(&mut self, change: &'e Change<'_>, range: Range<usize>) {
        match change {
            Change::Within(node) if self.raw.get(range.start) == Some(&b'{') => {
                let mut fresh = Fresh::default();
                let filled = self.object(node, &range, &mut fresh);
                self.insert(range.start + 1, fresh, filled);
            }
            Change::Set(value) => self.splices.push(Splice {
                range,
                with: Cow::Borrowed(value),
            }),
            change if change.creates() => {
                let mut with = Vec::new();
                change.render(&mut with);
                self.splices.push(Splice {
                    range,
                    with: Cow::Owned(with),
                });
            }
            _ => {}
        }
    }

    /// Puts new members at the front of an object; `filled` if others follow.
    fn insert(&mut self, at: usize, mut fresh: Fresh<'e>, filled: bool) {
        if !fresh.text.is_empty() {
            if filled {
                fresh.text.push(b',');
            }
            self.splices.push(Splice {
                range: at..at,
                with: Cow::Owned(fresh.text),
            });
        }
    }

    /// The splices in order and apart, with the new members of the message.
    pub(super) fn finish(mut self) -> (Vec<Splice<'e>>, Created<'e>) {
        self.splices
            .sort_by_key(|splice| (splice.range.start, splice.range.end));
        let (mut done, len) = (0, self.raw.len());
        self.splices.retain(|splice| {
            let range = &splice.range;
            let fits = done <= range.start && range.start <= range.end && range.end <= len;
            if fits {
                done = range.end;
            }
            fits
        });
        (self.splices, self.created)
    }
}

/// Members to be put into one object, as text, with the places of their values in it.
#[derive(Default)]
struct Fresh<'e> {
    text: Vec<u8>,
    values: Created<'e>,
}

impl<'e> Fresh<'e> {
    fn add(&mut self, name: &'e str, change: &Change<'_>) {
        if !change.creates() {
            return;
        }
        if !self.text.is_empty() {
            self.text.push(b',');
        }
        self.text.extend_from_slice(json::quote(name).as_bytes());
        self.text.push(b':');
        let start = self.text.len();
        change.render(&mut self.text);
        self.values.push((name, start..self.text.len()));
    }
}

/// Appends `raw` with the splices, which are in order and apart.
pub(super) fn join(raw: &[u8], splices: &[Splice<'_>], out: &mut Vec<u8>) {
    let brought: usize = splices.iter().map(|splice| splice.with.len()).sum();
    // One more for the line feed of a line.
    out.reserve(raw.len() + brought + 1);
    let mut done = 0;
    for splice in splices {
        out.extend_from_slice(raw.get(done..splice.range.start).unwrap_or_default());
        out.extend_from_slice(&splice.with);
        done = splice.range.end;
    }
    out.extend_from_slice(raw.get(done..).unwrap_or_default());
}

/// Moves every place to where the splices put it. A splice covers a place whole, lies inside it or
/// lies outside it; a new member stands after the brace that opens a place.
pub(super) fn shift(head: &mut Head, splices: &[Splice<'_>]) {
    let moved = |offset: usize| {
        let mut to = offset;
        for splice in splices
            .iter()
            .take_while(|splice| splice.range.end <= offset)
        {
            // Lengths below 4 GiB: neither step can overflow, and what is taken was there.
            to = to + splice.with.len() - splice.range.len();
        }
        to
    };
    for span in head.spans_mut() {
        if let Some(range) = span.range() {
            *span = crate::envelope::Span::new(moved(range.start), moved(range.end));
        }
    }
}
