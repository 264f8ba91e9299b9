//! One event, one line: what would break a line or steer a terminal is spelled out on the way.
//!
//! Done on the finished text, so that no field, message or span can be forgotten.

use std::borrow::Cow;
use std::fmt::Write as _;
use std::io::{self, Write};

use tracing_subscriber::fmt::MakeWriter;

use super::Look;

/// The longest line; what is beyond is left out.
const LONGEST: usize = 16 << 10;

/// Wraps the destination.
pub(super) struct Lines<M> {
    to: M,
    look: Look,
}

impl<M> Lines<M> {
    pub(super) fn new(to: M, look: Look) -> Self {
        Self { to, look }
    }
}

impl<'a, M: MakeWriter<'a>> MakeWriter<'a> for Lines<M> {
    type Writer = Line<M::Writer>;

    fn make_writer(&'a self) -> Self::Writer {
        Line {
            to: self.to.make_writer(),
            look: self.look,
        }
    }
}

/// Takes one event a write, as the formatter gives it.
pub(super) struct Line<W> {
    to: W,
    look: Look,
}

impl<W: Write> Write for Line<W> {
    fn write(&mut self, event: &[u8]) -> io::Result<usize> {
        let text = String::from_utf8_lossy(event);
        self.to.write_all(one_line(&text, self.look).as_bytes())?;
        Ok(event.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.to.flush()
    }
}

fn one_line(event: &str, look: Look) -> Cow<'_, str> {
    let body = event.strip_suffix('\n').unwrap_or(event);
    let is_short = body.len() < LONGEST;
    if is_short && !body.chars().any(|c| is_sly(c, look)) {
        return Cow::Borrowed(event);
    }
    // A JSON line cut short would be no JSON; the formatter's fields are bounded where they are made.
    let kept = match look {
        Look::Json => body,
        Look::Human { .. } => body
            .get(..body.floor_char_boundary(LONGEST))
            .unwrap_or(body),
    };
    let mut line = String::with_capacity(kept.len() + 64);
    for c in kept.chars() {
        match look {
            _ if !is_sly(c, look) => line.push(c),
            // Within JSON such a character can only stand in a string.
            Look::Json => {
                for unit in c.encode_utf16(&mut [0; 2]) {
                    let _ = write!(line, "\\u{unit:04x}");
                }
            }
            Look::Human { .. } => line.extend(c.escape_unicode()),
        }
    }
    if kept.len() < body.len() {
        let _ = write!(line, "…[{} bytes]", body.len());
    }
    line.push('\n');
    Cow::Owned(line)
}

/// A value for people, with nothing in it that a terminal obeys.
pub(super) fn spelled(value: &str) -> Cow<'_, str> {
    let look = Look::Human { colours: false };
    if !value.chars().any(|c| is_sly(c, look)) {
        return Cow::Borrowed(value);
    }
    let mut text = String::with_capacity(value.len() + 16);
    for c in value.chars() {
        if is_sly(c, look) {
            text.extend(c.escape_unicode());
        } else {
            text.push(c);
        }
    }
    Cow::Owned(text)
}

fn is_sly(c: char, look: Look) -> bool {
    match c {
        '\t' => false,
        // The formatter's own colours; those of values are spelled out before.
        '\u{1b}' => look != Look::Human { colours: true },
        '\u{200e}'
        | '\u{200f}'
        | '\u{2028}'..='\u{202e}'
        | '\u{2066}'..='\u{2069}'
        | '\u{feff}' => true,
        c => c.is_control(),
    }
}
