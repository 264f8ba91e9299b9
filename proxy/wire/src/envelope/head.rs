//! The members of a message that the gateway reads: where they are, and whether they fit together.
//!
//! This is what [`Envelope`](super::Envelope) learns during the scan. Apart from it because these
//! are the JSON-RPC rules, while the envelope is about bytes. It never keeps a value, only places.

use std::borrow::Cow;
use std::ops::Range;

use crate::fault::{Fault, FaultKind};
use crate::fold;
use crate::id::{Id, LONGEST_ID};
use crate::json;
use crate::method;
use crate::scan::{Shape, Value, Watch};

pub(crate) mod inside;

use inside::Inside;

/// A place in the message. Messages are below 4 GiB; the empty place means absent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Span {
    start: u32,
    end: u32,
}

impl Span {
    pub(crate) fn new(start: usize, end: usize) -> Self {
        Self {
            start: start as u32,
            end: end as u32,
        }
    }

    pub(crate) fn exists(self) -> bool {
        self.end > self.start
    }

    pub(crate) fn range(self) -> Option<Range<usize>> {
        self.exists()
            .then_some(self.start as usize..self.end as usize)
    }

    pub(crate) fn of(self, raw: &[u8]) -> Option<&[u8]> {
        raw.get(self.range()?)
    }
}

/// One of the envelope's own members.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Slot {
    Version,
    Id,
    Method,
    Params,
    Result,
    Error,
}

/// All of them.
pub(crate) const SLOTS: [Slot; 6] = [
    Slot::Version,
    Slot::Id,
    Slot::Method,
    Slot::Params,
    Slot::Result,
    Slot::Error,
];

impl Slot {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Version => "jsonrpc",
            Self::Id => "id",
            Self::Method => "method",
            Self::Params => "params",
            Self::Result => "result",
            Self::Error => "error",
        }
    }
}

/// The places of those members, and what was noticed about them on the way.
#[derive(Clone, Debug, Default)]
pub(crate) struct Head {
    pub(crate) root: Span,
    pub(crate) version: Span,
    pub(crate) id: Span,
    pub(crate) method: Span,
    pub(crate) params: Span,
    pub(crate) result: Span,
    pub(crate) error: Span,
    pub(crate) inside: Inside,
    seen: Seen,
}

/// Where the scan stands, and the facts that need more than a place.
#[derive(Clone, Copy, Debug, Default)]
struct Seen {
    slot: Option<Slot>,
    inner: Inner,
    /// Where the next value at level 2, and at level 3, belongs.
    place: Option<u8>,
    deeper: Option<u8>,
    null_id: bool,
    id_unsafe: bool,
    code: bool,
    message: bool,
}

/// The member at level 2 that the scan is in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Inner {
    #[default]
    Other,
    Name,
    Meta,
    Code,
    Message,
}

impl Head {
    pub(crate) fn slot(name: &[u8]) -> Option<Slot> {
        Some(match name {
            b"jsonrpc" => Slot::Version,
            b"id" => Slot::Id,
            b"method" => Slot::Method,
            b"params" => Slot::Params,
            b"result" => Slot::Result,
            b"error" => Slot::Error,
            _ => return None,
        })
    }

    pub(crate) fn get(&self, slot: Slot) -> Span {
        match slot {
            Slot::Version => self.version,
            Slot::Id => self.id,
            Slot::Method => self.method,
            Slot::Params => self.params,
            Slot::Result => self.result,
            Slot::Error => self.error,
        }
    }

    pub(crate) fn place(&mut self, slot: Slot) -> &mut Span {
        match slot {
            Slot::Version => &mut self.version,
            Slot::Id => &mut self.id,
            Slot::Method => &mut self.method,
            Slot::Params => &mut self.params,
            Slot::Result => &mut self.result,
            Slot::Error => &mut self.error,
        }
    }

    /// All places with the root first, for shifting.
    pub(crate) fn spans_mut(&mut self) -> impl Iterator<Item = &mut Span> {
        let own = [
            &mut self.root,
            &mut self.version,
            &mut self.id,
            &mut self.method,
            &mut self.params,
            &mut self.result,
            &mut self.error,
        ];
        own.into_iter().chain(self.inside.spans_mut())
    }

    /// Why the members of a whole object are no message, if they are none.
    pub(crate) fn misshapen(&self) -> Option<Fault> {
        let root = self.root.start as usize;
        let fault = |kind, span: Span| {
            Fault::new(
                kind,
                if span.exists() {
                    span.start as usize
                } else {
                    root
                },
            )
        };
        if !self.version.exists() {
            return Some(fault(FaultKind::Version, self.root));
        }
        let asks = self.method.exists();
        let (answers, fails) = (self.result.exists(), self.error.exists());
        match (asks, answers, fails) {
            (true, false, false) => self.seen.null_id.then(|| fault(FaultKind::Id, self.id)),
            // A result for nobody, or for `null`, can be matched to no request.
            (false, true, false) if self.seen.null_id || !self.id.exists() => {
                Some(fault(FaultKind::Id, self.id))
            }
            (false, true, false) | (false, false, true) if self.params.exists() => {
                Some(fault(FaultKind::Shape, self.params))
            }
            (false, true, false) => None,
            // An error may lack its id, or say `null`: the request was unreadable.
            (false, false, true) => (!(self.seen.code && self.seen.message))
                .then(|| fault(FaultKind::Error, self.error)),
            _ => Some(fault(FaultKind::Shape, self.root)),
        }
    }

    /// The id to answer a refused message with: a legal one that stood there exactly once.
    pub(crate) fn lone_id(&self, raw: &[u8]) -> Option<Id> {
        if self.seen.id_unsafe || self.seen.null_id {
            return None;
        }
        self.id.of(raw).map(Id::copy)
    }

    fn member(&mut self, slot: Slot, value: Value<'_>) -> Option<FaultKind> {
        let known = self.get(slot).exists();
        if slot == Slot::Id {
            let null = value.lexeme == b"null";
            let legal = null
                || (matches!(value.shape, Shape::Text | Shape::Number)
                    && value.lexeme.len() <= LONGEST_ID
                    && (value.shape != Shape::Text || json::text(value.lexeme).is_some()));
            self.seen.null_id |= null;
            self.seen.id_unsafe |= known || !legal;
            if !legal {
                return Some(FaultKind::Id);
            }
        }
        // A duplicate is refused by the scan; the first place stands until then.
        if !known {
            *self.place(slot) = Span::new(value.start, value.start + value.lexeme.len());
        }
        let (fits, otherwise) = match slot {
            Slot::Version => (is_two(value.lexeme), FaultKind::Version),
            Slot::Id => (true, FaultKind::Id),
            Slot::Method => (is_method(value), FaultKind::Method),
            Slot::Params => (value.shape == Shape::Object, FaultKind::Params),
            Slot::Result => (value.shape == Shape::Object, FaultKind::Result),
            Slot::Error => (value.shape == Shape::Object, FaultKind::Error),
        };
        (!fits).then_some(otherwise)
    }
}

impl Watch for Head {
    #[inline]
    fn key(&mut self, level: usize, name: &[u8]) -> Option<FaultKind> {
        let seen = &mut self.seen;
        match level {
            1 => {}
            2 => {
                seen.place = seen.slot.and_then(|slot| inside::place(slot, name));
                seen.deeper = None;
            }
            _ if seen.inner == Inner::Meta => {
                seen.deeper = inside::of_meta(name);
                self.inside.has_other_meta |= seen.deeper.is_none();
            }
            _ => {}
        }
        let lookalike = match level {
            1 => {
                seen.slot = Self::slot(name);
                seen.inner = Inner::Other;
                seen.slot.is_none() && fold::is_lookalike(name, fold::ENVELOPE)
            }
            2 => {
                seen.inner = match (seen.slot, name) {
                    (Some(Slot::Params), b"name") => Inner::Name,
                    (Some(Slot::Params), b"_meta") => Inner::Meta,
                    (Some(Slot::Error), b"code") => Inner::Code,
                    (Some(Slot::Error), b"message") => Inner::Message,
                    _ => Inner::Other,
                };
                seen.slot == Some(Slot::Params)
                    && seen.inner == Inner::Other
                    && fold::is_lookalike(name, fold::PARAMS)
            }
            _ => seen.inner == Inner::Meta && fold::is_lookalike(name, fold::META),
        };
        if lookalike && level == 1 && name.len() <= 5 {
            // It may be an id to somebody: answer with none.
            seen.id_unsafe |= fold::is_lookalike(name, &["id"]);
        }
        lookalike.then_some(FaultKind::Folded)
    }

    #[inline]
    fn value(&mut self, level: usize, value: Value<'_>) -> Option<FaultKind> {
        let place = match level {
            2 => self.seen.place.take(),
            3 => self.seen.deeper.take(),
            _ => None,
        };
        if let Some(place) = place {
            self.inside.note(place, value.start, value.lexeme.len());
        }
        match (level, self.seen.slot) {
            (1, Some(slot)) => self.member(slot, value),
            (2, Some(Slot::Params)) => {
                let bad = self.seen.inner == Inner::Name
                    && value.shape == Shape::Text
                    && !is_clean(value.lexeme);
                bad.then_some(FaultKind::Name)
            }
            (2, Some(Slot::Error)) => {
                match self.seen.inner {
                    Inner::Code => self.seen.code = json::integer(value.lexeme).is_some(),
                    Inner::Message => self.seen.message = value.shape == Shape::Text,
                    _ => {}
                }
                None
            }
            _ => None,
        }
    }
}

/// The method's text where it is MCP's own, which spares reading it again, or where its lexeme
/// cannot be borrowed.
pub(crate) fn kept_method(lexeme: Option<&[u8]>) -> Option<Cow<'static, str>> {
    let lexeme = lexeme?;
    let plain = lexeme.get(1..lexeme.len().saturating_sub(1))?;
    if let Some(known) = method::known(plain) {
        return Some(Cow::Borrowed(known));
    }
    memchr::memchr(b'\\', plain)?;
    json::text(lexeme).map(|text| Cow::Owned(text.into_owned()))
}

fn is_two(lexeme: &[u8]) -> bool {
    lexeme == br#""2.0""# || json::text(lexeme).is_some_and(|text| text == "2.0")
}

fn is_method(value: Value<'_>) -> bool {
    value.shape == Shape::Text && is_clean(value.lexeme)
}

/// Whether a string can stand in a log, a header or a rule as it is: no control character of
/// either range, no Unicode line separator.
fn is_clean(lexeme: &[u8]) -> bool {
    if lexeme
        .iter()
        .all(|b| (0x20..0x7f).contains(b) && *b != b'\\')
    {
        return true;
    }
    json::text(lexeme).is_some_and(|text| {
        !text
            .chars()
            .any(|c| c.is_control() || matches!(c, '\u{2028}' | '\u{2029}'))
    })
}
