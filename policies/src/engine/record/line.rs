//! JSON members on one line, written one by one.
//!
//! Apart from the record because it knows nothing of one. Each call writes two records, and going
//! through serde's general way took a tenth of all that chillgate does for a call; this writes
//! what needs no escaping as it is and leaves the rest to serde. It never reads JSON.

use serde::Serialize;

use super::json_line;

/// A member's name as it stands on the line, with the comma before and the colon behind it. It is
/// a plain word: nothing in it needs escaping.
#[derive(Clone, Copy)]
pub(super) struct Name(pub(super) &'static str);

/// The [`Name`] of a literal.
macro_rules! name {
    ($word:literal) => {
        $crate::engine::record::line::Name(concat!(",\"", $word, "\":"))
    };
}
pub(super) use name;

/// The line so far, which belongs to somebody else.
pub(super) struct Line<'l>(&'l mut Vec<u8>);

impl<'l> Line<'l> {
    /// Goes on at the end of `out`, behind a member.
    pub(super) fn after(out: &'l mut Vec<u8>) -> Self {
        Self(out)
    }

    /// A text, whatever is in it.
    pub(super) fn text(&mut self, name: Name, text: &str) {
        if is_plain(text.as_bytes()) {
            self.word(name, text);
        } else {
            self.json(name, &text);
        }
    }

    /// A text, if there is one.
    pub(super) fn some_text(&mut self, name: Name, text: Option<&str>) {
        if let Some(text) = text {
            self.text(name, text);
        }
    }

    /// A text that is known to need no escaping.
    pub(super) fn word(&mut self, name: Name, word: &str) {
        self.0.reserve(name.0.len() + word.len() + 2);
        self.0.extend_from_slice(name.0.as_bytes());
        self.0.push(b'"');
        self.0.extend_from_slice(word.as_bytes());
        self.0.push(b'"');
    }

    /// Such a text, if there is one.
    pub(super) fn some_word(&mut self, name: Name, word: Option<&str>) {
        if let Some(word) = word {
            self.word(name, word);
        }
    }

    /// A whole number.
    pub(super) fn number(&mut self, name: Name, number: impl itoa::Integer) {
        self.0.extend_from_slice(name.0.as_bytes());
        self.0
            .extend_from_slice(itoa::Buffer::new().format(number).as_bytes());
    }

    /// A time in milliseconds with three decimals.
    pub(super) fn millis(&mut self, name: Name, micros: u64) {
        self.number(name, micros / 1_000);
        let rest = micros % 1_000;
        let digit = |digit: u64| b'0' + digit as u8;
        let decimals = [digit(rest / 100), digit(rest / 10 % 10), digit(rest % 10)];
        self.0.push(b'.');
        self.0.extend_from_slice(&decimals);
    }

    /// `true`, if it is set.
    pub(super) fn flag(&mut self, name: Name, set: bool) {
        if set {
            self.0.extend_from_slice(name.0.as_bytes());
            self.0.extend_from_slice(b"true");
        }
    }

    /// Any value.
    pub(super) fn json(&mut self, name: Name, value: &impl Serialize) {
        self.0.extend_from_slice(name.0.as_bytes());
        // Texts, parsed values and plain structs serialise; a record is better with a gap than lost.
        let json = json_line(value);
        self.0
            .extend_from_slice(json.as_deref().unwrap_or("null").as_bytes());
    }

    /// An object inside, of at least one member.
    pub(super) fn object(&mut self, name: Name, fill: impl FnOnce(&mut Line<'_>)) {
        self.0.extend_from_slice(name.0.as_bytes());
        let start = self.0.len();
        fill(&mut Line(self.0));
        // The comma before its first member.
        if let Some(comma) = self.0.get_mut(start) {
            *comma = b'{';
        }
        self.0.push(b'}');
    }
}

/// Nothing in it needs an escape in JSON or a look from [`json_line`]. Eight bytes at a time.
fn is_plain(text: &[u8]) -> bool {
    let (words, rest) = text.as_chunks::<8>();
    let mut last = [b' '; 8];
    // The rest together with some bytes before it, where there are any.
    match text.last_chunk::<8>() {
        Some(end) => last = *end,
        None => last.iter_mut().zip(rest).for_each(|(to, from)| *to = *from),
    }
    let odd = words
        .iter()
        .fold(odd(last), |found, word| found | odd(*word));
    odd == 0
}

/// Not 0 if any byte is outside of space to `~`, or a quote or backslash.
fn odd(word: [u8; 8]) -> u64 {
    const ONES: u64 = 0x0101_0101_0101_0101;
    const HIGH: u64 = 0x8080_8080_8080_8080;
    let word = u64::from_le_bytes(word);
    let below = |bound: u64, word: u64| word.wrapping_sub(ONES * bound) & !word;
    let is = |byte: u64| below(1, word ^ (ONES * byte));
    (word | below(0x20, word) | is(0x7f) | is(u64::from(b'"')) | is(u64::from(b'\\'))) & HIGH
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_byte_is_judged_wherever_it_stands() {
        for byte in 0..=255_u8 {
            let plain = matches!(byte, b' '..=b'~') && !matches!(byte, b'"' | b'\\');
            for length in 1..20 {
                for at in 0..length {
                    let mut text = vec![b'a'; length];
                    text[at] = byte;
                    assert_eq!(is_plain(&text), plain, "{byte:#x} at {at} of {length}");
                }
            }
        }
        assert!(is_plain(b""));
    }
}
