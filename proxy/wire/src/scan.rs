//! The one scan: is this exactly one JSON text, within bounds, that every parser reads alike?
//!
//! It stands alone because it is the wall: everything behind it trusts the bytes. RFC 8259 grammar,
//! UTF-8, no lone surrogates, no duplicate member at any level, bounded depth and members, in one
//! pass without recursion and, for ordinary messages, without allocation. It never builds a tree;
//! what it passes on the way it tells a [`Watch`].
//!
//! Two sorts of complaint. Bytes that are not JSON end the scan. JSON that must be refused is noted
//! and the scan goes on, because some hosts write `id` last and deserve an answer that carries it.

use std::borrow::Cow;

use crate::fault::{Fault, FaultKind};
use crate::json;
use crate::limits::Limits;
use crate::stack::Stack;

mod names;

use names::{Held, Names};

/// What a value is, by its first byte.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Shape {
    Object,
    Array,
    Text,
    Number,
    Other,
}

/// A complete value: where it is and what it is.
#[derive(Clone, Copy)]
pub(crate) struct Value<'a> {
    pub(crate) shape: Shape,
    pub(crate) start: usize,
    pub(crate) lexeme: &'a [u8],
}

/// Told of names and of complete values down to level 3, in the order they stand.
/// Level 1 is the inside of the outermost container. A returned reason is noted as a fault.
pub(crate) trait Watch {
    fn key(&mut self, level: usize, name: &[u8]) -> Option<FaultKind>;
    fn value(&mut self, level: usize, value: Value<'_>) -> Option<FaultKind>;
}

/// Levels below which a [`Watch`] hears nothing.
const LEVELS: usize = 3;

/// What was learnt about the whole text.
pub(crate) struct Scanned {
    /// The outermost value, without the whitespace around it.
    pub(crate) start: usize,
    pub(crate) end: usize,
    pub(crate) shape: Shape,
    /// A raw CR or LF stands between tokens.
    pub(crate) multiline: bool,
    /// The first thing refused in what is otherwise JSON.
    pub(crate) flaw: Option<Fault>,
}

/// Scans all of `bytes`.
pub(crate) fn scan<W: Watch>(
    bytes: &[u8],
    limits: &Limits,
    watch: &mut W,
) -> Result<Scanned, Fault> {
    if bytes.len() > limits.message.min(u32::MAX as usize) {
        return Err(Fault::new(FaultKind::TooLarge, limits.message));
    }
    if bytes.starts_with(b"\xef\xbb\xbf") {
        return Err(Fault::new(FaultKind::ByteOrderMark, 0));
    }
    if let Err(bad) = std::str::from_utf8(bytes) {
        return Err(Fault::new(FaultKind::Utf8, bad.valid_up_to()));
    }
    Scan {
        bytes,
        at: 0,
        limits,
        watch,
        frames: Stack::new(),
        names: Names::new(bytes),
        multiline: false,
        flaw: None,
    }
    .run()
}

/// An open object or array.
#[derive(Clone, Copy, Default)]
struct Frame {
    start: u32,
    members: u32,
    object: bool,
    held: Held,
}

struct Scan<'a, W> {
    bytes: &'a [u8],
    at: usize,
    limits: &'a Limits,
    watch: &'a mut W,
    frames: Stack<Frame, 16>,
    names: Names<'a>,
    multiline: bool,
    flaw: Option<Fault>,
}

impl<'a, W: Watch> Scan<'a, W> {
    fn run(mut self) -> Result<Scanned, Fault> {
        self.blank();
        let start = self.at;
        let shape = match self.peek() {
            None => return Err(Fault::new(FaultKind::Empty, start)),
            Some(first) => shape_of(first),
        };
        // A value stands at `at`; then whatever ends with it.
        while self.value()? || self.after()? {}
        if self.at < self.bytes.len() {
            return Err(Fault::new(FaultKind::Trailing, self.at));
        }
        let end = self.bytes.trim_ascii_end().len();
        Ok(Scanned {
            start,
            end,
            shape,
            multiline: self.multiline,
            flaw: self.flaw,
        })
    }

    fn peek(&self) -> Option<u8> {
        self.bytes.get(self.at).copied()
    }

    /// Passes whitespace, noticing line breaks.
    #[inline]
    fn blank(&mut self) {
        while let Some(b @ (b' ' | b'\t' | b'\n' | b'\r')) = self.bytes.get(self.at) {
            self.multiline |= matches!(b, b'\n' | b'\r');
            self.at += 1;
        }
    }

    /// Bytes that are not JSON: the scan ends here.
    #[cold]
    fn unexpected(&self) -> Fault {
        let kind = if self.at < self.bytes.len() {
            FaultKind::Syntax
        } else {
            FaultKind::Truncated
        };
        Fault::new(kind, self.at)
    }

    /// JSON that must be refused: the first such reason is kept, the scan goes on.
    #[cold]
    fn note(&mut self, kind: FaultKind, offset: usize, member: Option<&[u8]>) {
        if self.flaw.is_none() {
            let fault = Fault::new(kind, offset);
            self.flaw = Some(match member {
                Some(name) => fault.about(name),
                None => fault,
            });
        }
    }

    /// Passes a scalar or an empty container, or enters a container: whether a value follows.
    #[inline]
    fn value(&mut self) -> Result<bool, Fault> {
        let start = self.at;
        match self.peek() {
            Some(b'{') => return self.open(true),
            Some(b'[') => return self.open(false),
            Some(b'"') => {
                self.string()?;
            }
            Some(b'-' | b'0'..=b'9') => self.number()?,
            Some(b't') => self.literal(b"true")?,
            Some(b'f') => self.literal(b"false")?,
            Some(b'n') => self.literal(b"null")?,
            _ => return Err(self.unexpected()),
        }
        self.done(start);
        Ok(false)
    }

    /// Behind a complete value: closes what closes there; whether a value follows.
    #[inline]
    fn after(&mut self) -> Result<bool, Fault> {
        loop {
            self.blank();
            let Some(frame) = self.frames.last_mut() else {
                return Ok(false);
            };
            match (self.bytes.get(self.at), frame.object) {
                (Some(b','), object) => {
                    self.at += 1;
                    self.blank();
                    if object {
                        self.member()?;
                    }
                    return Ok(true);
                }
                (Some(b'}'), true) | (Some(b']'), false) => self.close(),
                _ => return Err(self.unexpected()),
            }
        }
    }

    /// A value ends here.
    #[inline]
    fn done(&mut self, start: usize) {
        let level = self.frames.len();
        if level > LEVELS {
            return;
        }
        let lexeme = self.bytes.get(start..self.at).unwrap_or_default();
        let shape = lexeme
            .first()
            .map_or(Shape::Other, |first| shape_of(*first));
        let value = Value {
            shape,
            start,
            lexeme,
        };
        if let Some(kind) = self.watch.value(level, value) {
            self.note(kind, start, None);
        }
    }

    /// Enters a container: whether a value follows, which it does unless it is empty.
    fn open(&mut self, object: bool) -> Result<bool, Fault> {
        let start = self.at;
        if self.frames.len() >= self.limits.depth {
            self.note(FaultKind::Depth, start, None);
            // Too deep to check. Walk past it, still without recursion, in case the id follows.
            self.at = json::end(self.bytes, start).ok_or(Fault::new(FaultKind::Depth, start))?;
            self.done(start);
            return Ok(false);
        }
        self.frames.push(Frame {
            start: start as u32,
            members: 0,
            object,
            held: self.names.open(),
        });
        self.at += 1;
        self.blank();
        match self.peek() {
            Some(b'}') if object => self.close(),
            Some(b']') if !object => self.close(),
            _ if object => {
                self.member()?;
                return Ok(true);
            }
            _ => return Ok(true),
        }
        Ok(false)
    }

    fn close(&mut self) {
        self.at += 1;
        if let Some(frame) = self.frames.pop() {
            self.names.close(frame.held);
            self.done(frame.start as usize);
        }
    }

    /// A name and its colon; the value follows.
    #[inline]
    fn member(&mut self) -> Result<(), Fault> {
        if self.peek() != Some(b'"') {
            return Err(self.unexpected());
        }
        let start = self.at;
        let escaped = self.string()?;
        let lexeme = self.bytes.get(start..self.at).unwrap_or_default();
        let name = if escaped {
            // A lone surrogate has no text; its fault is noted already, the raw bytes will do.
            match json::text(lexeme) {
                Some(text) => Cow::Owned(text.into_owned().into_bytes()),
                None => Cow::Borrowed(lexeme),
            }
        } else {
            Cow::Borrowed(lexeme.get(1..lexeme.len() - 1).unwrap_or_default())
        };
        let level = self.frames.len();
        if level <= LEVELS
            && let Some(kind) = self.watch.key(level, &name)
        {
            self.note(kind, start, Some(&name));
        }
        self.remember(name, start);
        self.blank();
        if self.peek() != Some(b':') {
            return Err(self.unexpected());
        }
        self.at += 1;
        self.blank();
        Ok(())
    }

    /// Notes a name that the object already has, or one too many.
    #[inline]
    fn remember(&mut self, name: Cow<'a, [u8]>, start: usize) {
        let Some(frame) = self.frames.last_mut() else {
            return;
        };
        frame.members += 1;
        if frame.members as usize > self.limits.members {
            self.note(FaultKind::Members, start, None);
        } else if let Err(again) = self.names.add(&mut frame.held, name, start + 1) {
            self.note(FaultKind::Duplicate, start, Some(&again));
        }
    }

    /// Passes a string; says whether it holds escapes.
    fn string(&mut self) -> Result<bool, Fault> {
        let mut escaped = false;
        self.at += 1;
        loop {
            self.plain();
            match self.peek() {
                Some(b'"') => {
                    self.at += 1;
                    return Ok(escaped);
                }
                Some(b'\\') => {
                    escaped = true;
                    self.escape()?;
                }
                Some(0..0x20) => return Err(Fault::new(FaultKind::Control, self.at)),
                // `plain` stops at nothing else.
                _ => return Err(self.unexpected()),
            }
        }
    }

    /// Passes bytes that mean only themselves inside a string, eight at a time.
    #[inline]
    fn plain(&mut self) {
        let rest = self.bytes.get(self.at..).unwrap_or_default();
        let (words, _) = rest.as_chunks::<8>();
        for word in words {
            let found = special(u64::from_le_bytes(*word));
            if found != 0 {
                self.at += (found.trailing_zeros() / 8) as usize;
                return;
            }
            self.at += 8;
        }
        while self
            .peek()
            .is_some_and(|b| b >= 0x20 && b != b'"' && b != b'\\')
        {
            self.at += 1;
        }
    }

    fn escape(&mut self) -> Result<(), Fault> {
        let start = self.at;
        self.at += 1;
        match self.peek() {
            Some(b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't') => self.at += 1,
            Some(b'u') => {
                let unit = self.unit()?;
                let low = 0xdc00..=0xdfff;
                if low.contains(&unit) {
                    self.note(FaultKind::Surrogate, start, None);
                } else if (0xd800..=0xdbff).contains(&unit) {
                    let rest = self.bytes.get(self.at..).unwrap_or_default();
                    // A pair is one character; anything else leaves this half alone, and what
                    // follows is judged in its own turn.
                    let mut paired = false;
                    if rest.starts_with(b"\\u") {
                        let back = self.at;
                        self.at += 1;
                        paired = low.contains(&self.unit()?);
                        if !paired {
                            self.at = back;
                        }
                    }
                    if !paired {
                        self.note(FaultKind::Surrogate, start, None);
                    }
                }
            }
            _ => return Err(self.unexpected()),
        }
        Ok(())
    }

    /// Passes `uXXXX`.
    fn unit(&mut self) -> Result<u32, Fault> {
        let mut unit = 0;
        for _ in 0..4 {
            self.at += 1;
            match self.peek().and_then(|b| char::from(b).to_digit(16)) {
                Some(digit) => unit = unit << 4 | digit,
                None => return Err(self.unexpected()),
            }
        }
        self.at += 1;
        Ok(unit)
    }

    fn number(&mut self) -> Result<(), Fault> {
        if self.peek() == Some(b'-') {
            self.at += 1;
        }
        if self.peek() == Some(b'0') {
            self.at += 1;
        } else {
            self.digits()?;
        }
        if self.peek() == Some(b'.') {
            self.at += 1;
            self.digits()?;
        }
        if let Some(b'e' | b'E') = self.peek() {
            self.at += 1;
            if let Some(b'+' | b'-') = self.peek() {
                self.at += 1;
            }
            self.digits()?;
        }
        Ok(())
    }

    fn digits(&mut self) -> Result<(), Fault> {
        let start = self.at;
        while self.peek().is_some_and(|b| b.is_ascii_digit()) {
            self.at += 1;
        }
        if self.at == start {
            Err(self.unexpected())
        } else {
            Ok(())
        }
    }

    fn literal(&mut self, word: &[u8]) -> Result<(), Fault> {
        for letter in word {
            if self.peek() != Some(*letter) {
                return Err(self.unexpected());
            }
            self.at += 1;
        }
        Ok(())
    }
}

fn shape_of(first: u8) -> Shape {
    match first {
        b'{' => Shape::Object,
        b'[' => Shape::Array,
        b'"' => Shape::Text,
        b'-' | b'0'..=b'9' => Shape::Number,
        _ => Shape::Other,
    }
}

/// Marks, in the high bit of its byte, a quote, backslash or control character. The lowest mark is
/// exact; a borrow can only raise false ones above it.
fn special(word: u64) -> u64 {
    const ONES: u64 = 0x0101_0101_0101_0101;
    const HIGH: u64 = 0x8080_8080_8080_8080;
    let zero = |x: u64| x.wrapping_sub(ONES) & !x & HIGH;
    let control = word.wrapping_sub(ONES * 0x20) & !word & HIGH;
    control | zero(word ^ (ONES * 0x22)) | zero(word ^ (ONES * 0x5c))
}

#[cfg(test)]
mod tests;
