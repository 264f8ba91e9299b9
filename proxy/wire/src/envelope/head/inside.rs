//! The members inside `params` and `result` that are asked for with nearly every message.
//!
//! The scan passes them anyway; kept, they need no walk of their own each time. Apart from the head
//! because they are a convenience: what is not kept here is found by walking, with the same outcome.
//! It never keeps a value, only places.

use super::{Slot, Span};
use crate::era::META_VERSION;
use crate::meta;

/// How many places there are.
const PLACES: usize = 13;
/// Where `params._meta` is kept, and what is in it.
const META: u8 = 0;
const META_PLACES: [u8; 5] = [7, 8, 10, 11, TOKEN];
const TOKEN: u8 = 12;

/// The places, once a whole message has been scanned. Changes move them ([`crate::edit`]); after one
/// that cannot be followed they are void.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Inside {
    is_known: bool,
    /// `params._meta` has members that are not kept here.
    pub(super) has_other_meta: bool,
    spans: [Span; PLACES],
}

/// Where a member of `params` or `result` is kept, if it is.
#[inline]
pub(super) fn place(slot: Slot, name: &[u8]) -> Option<u8> {
    match (slot, name) {
        (Slot::Params, b"_meta") => Some(META),
        (Slot::Params, b"name") => Some(1),
        (Slot::Params, b"arguments") => Some(2),
        (Slot::Params, b"uri") => Some(3),
        (Slot::Params | Slot::Result, b"taskId") => Some(4),
        (Slot::Params | Slot::Result, b"requestState") => Some(5),
        (Slot::Params, b"inputResponses") => Some(6),
        (Slot::Result, b"resultType") => Some(7),
        (Slot::Result, b"isError") => Some(8),
        (Slot::Params | Slot::Result, b"task") => Some(9),
        _ => None,
    }
}

/// Where a member of `params._meta` is kept, if it is. No message has these and `result`.
#[inline]
pub(super) fn of_meta(name: &[u8]) -> Option<u8> {
    const VERSION: &[u8] = META_VERSION.as_bytes();
    const CAPABILITIES: &[u8] = meta::CLIENT_CAPABILITIES.as_bytes();
    const CLIENT: &[u8] = meta::CLIENT_INFO.as_bytes();
    const LEVEL: &[u8] = meta::LOG_LEVEL.as_bytes();
    match name {
        VERSION => Some(7),
        CAPABILITIES => Some(8),
        CLIENT => Some(10),
        LEVEL => Some(11),
        b"progressToken" => Some(TOKEN),
        _ => None,
    }
}

impl Inside {
    pub(super) fn note(&mut self, place: u8, start: usize, length: usize) {
        self.spans[usize::from(place)] = Span::new(start, start + length);
    }

    /// The whole message has been scanned.
    pub(crate) fn complete(&mut self) {
        self.is_known = true;
    }

    /// Whether `params._meta` may have members beside those of a request's own hop and its progress
    /// token.
    pub(crate) fn may_have_other_meta(&self) -> bool {
        !self.is_known || self.has_other_meta
    }

    /// Where the first members of a path below `slot` are kept, and how many those are. `None`:
    /// that takes a walk. A place that is empty says that there is no such member.
    pub(crate) fn find(&self, slot: Slot, path: &[&str]) -> Option<(Span, usize)> {
        if !self.is_known {
            return None;
        }
        let (first, rest) = path.split_first()?;
        let at = place(slot, first.as_bytes())?;
        let (at, length) = match rest.first() {
            Some(name) if at == META => match of_meta(name.as_bytes()) {
                Some(at) => (at, 2),
                None => (META, 1),
            },
            _ => (at, 1),
        };
        Some((self.spans[usize::from(at)], length))
    }

    /// Whether the member at this path is there, as far as it is kept; what is not is in nobody's
    /// way.
    pub(crate) fn has(&self, slot: Slot, path: &[&str]) -> bool {
        self.find(slot, path)
            .is_none_or(|(span, length)| length < path.len() || span.exists())
    }

    /// The member at this path goes, with what is in it.
    pub(crate) fn remove(&mut self, slot: Slot, path: &[&str]) {
        let Some(at) = Self::at(slot, path) else {
            return;
        };
        if at == META {
            for at in META_PLACES {
                self.spans[usize::from(at)] = Span::default();
            }
            self.has_other_meta = false;
        }
        self.spans[usize::from(at)] = Span::default();
    }

    /// Another value takes the place of the member at this path; whether the places hold then. One
    /// that was not there comes to stand nobody knows where.
    pub(crate) fn may_set(&mut self, slot: Slot, path: &[&str]) -> bool {
        match (Self::at(slot, path), path) {
            (Some(META), _) => false,
            (Some(at), _) => self.spans[usize::from(at)].exists(),
            (None, ["_meta", _]) => {
                self.has_other_meta = true;
                true
            }
            (None, _) => true,
        }
    }

    /// Where just this member is kept.
    fn at(slot: Slot, path: &[&str]) -> Option<u8> {
        match path {
            [name] => place(slot, name.as_bytes()),
            [first, name] if place(slot, first.as_bytes()) == Some(META) => {
                of_meta(name.as_bytes())
            }
            _ => None,
        }
    }

    pub(super) fn spans_mut(&mut self) -> impl Iterator<Item = &mut Span> {
        self.spans.iter_mut()
    }
}
