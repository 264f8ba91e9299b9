//! A request id as it was written.
//!
//! `1`, `1.0` and `"1"` are three ids: some peer keeps each of them apart, so the lexeme is the
//! identity. An id is a copy, never a slice of its message: a call waiting for its answer must not
//! keep sixteen megabytes of arguments alive. It never interprets the number.

use std::fmt;
use std::hash::{Hash, Hasher};

use bytes::Bytes;

use crate::json;

/// Bytes of the longest id accepted, quotes included. Ids are kept per call and echoed in answers,
/// so they need a bound of their own; MCP names none.
pub const LONGEST_ID: usize = 1024;

/// Room for a quoted UUID without an allocation.
const INLINE: usize = 38;

/// The raw JSON lexeme of a string or number id. Equality and hash are by lexeme.
#[derive(Clone)]
pub struct Id(Repr);

#[derive(Clone)]
enum Repr {
    Inline { len: u8, bytes: [u8; INLINE] },
    Shared(Bytes),
}

impl Id {
    /// The id `number`.
    pub fn number(number: u64) -> Self {
        let mut bytes = [0; INLINE];
        let mut len = 0;
        let mut rest = number;
        loop {
            if let Some(digit) = bytes.get_mut(len) {
                *digit = b'0' + (rest % 10) as u8;
            }
            len += 1;
            rest /= 10;
            if rest == 0 {
                break;
            }
        }
        if let Some(digits) = bytes.get_mut(..len) {
            digits.reverse();
        }
        Self(Repr::Inline {
            len: len as u8,
            bytes,
        })
    }

    /// The id `"text"`, quoted and escaped here.
    pub fn text(text: &str) -> Self {
        Self::copy(json::quote(text).as_bytes())
    }

    /// An id from one JSON value: a whole string or number, at most [`LONGEST_ID`] bytes. The value
    /// must come from a scanned message or from the gateway itself.
    pub fn from_lexeme(lexeme: &[u8]) -> Option<Self> {
        let first = lexeme.first()?;
        let kind = matches!(first, b'"' | b'-' | b'0'..=b'9');
        (kind && lexeme.len() <= LONGEST_ID && json::end(lexeme, 0) == Some(lexeme.len()))
            .then(|| Self::copy(lexeme))
    }

    /// Copies a lexeme already known to be an id.
    pub(crate) fn copy(lexeme: &[u8]) -> Self {
        let mut bytes = [0; INLINE];
        match bytes.get_mut(..lexeme.len()) {
            Some(room) => {
                room.copy_from_slice(lexeme);
                Self(Repr::Inline {
                    len: lexeme.len() as u8,
                    bytes,
                })
            }
            None => Self(Repr::Shared(Bytes::copy_from_slice(lexeme))),
        }
    }

    /// The lexeme: valid JSON, ready to be spliced.
    pub fn as_bytes(&self) -> &[u8] {
        match &self.0 {
            Repr::Inline { len, bytes } => bytes.get(..usize::from(*len)).unwrap_or_default(),
            Repr::Shared(bytes) => bytes,
        }
    }

    /// The number, if the lexeme is a plain decimal `u64` as [`Id::number`] writes it.
    pub fn as_number(&self) -> Option<u64> {
        match self.as_bytes() {
            b"0" => Some(0),
            // `+7` and `007` cannot come from a scan, yet must not alias 7 if handed in.
            digits @ [b'1'..=b'9', ..] => digits.iter().try_fold(0_u64, |number, digit| {
                let digit = digit.is_ascii_digit().then(|| u64::from(digit - b'0'))?;
                number.checked_mul(10)?.checked_add(digit)
            }),
            _ => None,
        }
    }
}

impl PartialEq for Id {
    fn eq(&self, other: &Self) -> bool {
        self.as_bytes() == other.as_bytes()
    }
}

impl Eq for Id {}

impl Hash for Id {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.as_bytes().hash(state);
    }
}

/// For logs: one line, whatever the id holds.
impl fmt::Display for Id {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for c in String::from_utf8_lossy(self.as_bytes()).chars() {
            if c.is_control() || matches!(c, '\u{2028}' | '\u{2029}') {
                write!(f, "{}", c.escape_unicode())?;
            } else {
                write!(f, "{c}")?;
            }
        }
        Ok(())
    }
}

impl fmt::Debug for Id {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Id({self})")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn three_spellings_are_three_ids() {
        let [a, b, c] = [&b"1"[..], b"1.0", b"\"1\""].map(|l| Id::from_lexeme(l).unwrap());
        assert_ne!(a, b);
        assert_ne!(a, c);
        assert_eq!(a, Id::number(1));
        assert_eq!(c, Id::text("1"));
        assert_eq!(b.as_number(), None);
        assert_eq!(c.as_number(), None);
        for odd in ["007", "00", "-7", "18446744073709551616"] {
            assert_eq!(Id::copy(odd.as_bytes()).as_number(), None, "{odd}");
        }
    }

    #[test]
    fn every_number_is_written_in_full() {
        for number in [0, 7, 10, 1 << 53, u64::MAX] {
            assert_eq!(Id::number(number).as_bytes(), number.to_string().as_bytes());
            assert_eq!(Id::number(number).as_number(), Some(number));
        }
    }

    #[test]
    fn a_lexeme_that_is_no_id_is_refused() {
        for bad in ["", "null", "true", "{}", "[1]", "\"open", "1 ", "\"a\"b"] {
            assert_eq!(Id::from_lexeme(bad.as_bytes()), None, "{bad}");
        }
        let long = format!("\"{}\"", "x".repeat(LONGEST_ID));
        assert_eq!(Id::from_lexeme(long.as_bytes()), None);
    }

    #[test]
    fn a_long_id_keeps_its_bytes() {
        let lexeme = format!("\"{}\"", "x".repeat(500));
        assert_eq!(
            Id::from_lexeme(lexeme.as_bytes()).unwrap().as_bytes(),
            lexeme.as_bytes()
        );
    }

    #[test]
    fn a_logged_id_is_one_line() {
        assert_eq!(Id::text("a\nb").to_string(), "\"a\\nb\"");
        assert_eq!(
            Id::text("a\u{85}\u{2028}b").to_string(),
            "\"a\\u{85}\\u{2028}b\""
        );
    }
}
