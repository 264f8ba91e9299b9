//! One JSON object on one line, written member by member.
//!
//! Apart from the record because it knows nothing of one. Each call writes two records, and going
//! through serde's general way took a tenth of all that chillgate does for a call; this writes
//! what needs no escaping as it is and leaves the rest to serde. It never reads JSON.

use serde::Serialize;

use super::json_line;

/// The line so far.
pub(super) struct Line(String);

impl Line {
    /// An object without members.
    pub(super) fn new() -> Self {
        let mut line = String::with_capacity(512);
        line.push('{');
        Self(line)
    }

    /// The whole object.
    pub(super) fn finish(mut self) -> String {
        self.0.push('}');
        self.0
    }

    /// `name` is a plain word here and below: nothing in it needs escaping.
    fn name(&mut self, name: &'static str) {
        if !self.0.ends_with('{') {
            self.0.push(',');
        }
        self.0.push('"');
        self.0.push_str(name);
        self.0.push_str("\":");
    }

    /// A text, whatever is in it.
    pub(super) fn text(&mut self, name: &'static str, text: &str) {
        self.name(name);
        if text.bytes().all(is_plain) {
            self.0.push('"');
            self.0.push_str(text);
            self.0.push('"');
        } else {
            self.push_json(&text);
        }
    }

    /// A text, if there is one.
    pub(super) fn some_text(&mut self, name: &'static str, text: Option<&str>) {
        if let Some(text) = text {
            self.text(name, text);
        }
    }

    /// A whole number.
    pub(super) fn number(&mut self, name: &'static str, number: impl itoa::Integer) {
        self.name(name);
        self.0.push_str(itoa::Buffer::new().format(number));
    }

    /// A time in milliseconds with three decimals.
    pub(super) fn millis(&mut self, name: &'static str, micros: u64) {
        self.number(name, micros / 1_000);
        let rest = micros % 1_000;
        self.0.push('.');
        for digit in [rest / 100, rest / 10 % 10, rest % 10] {
            self.0.push(char::from(b'0' + digit as u8));
        }
    }

    /// `true`, if it is set.
    pub(super) fn flag(&mut self, name: &'static str, set: bool) {
        if set {
            self.name(name);
            self.0.push_str("true");
        }
    }

    /// Any value.
    pub(super) fn json(&mut self, name: &'static str, value: &impl Serialize) {
        self.name(name);
        self.push_json(value);
    }

    /// An object inside.
    pub(super) fn object(&mut self, name: &'static str, fill: impl FnOnce(&mut Self)) {
        self.name(name);
        self.0.push('{');
        fill(self);
        self.0.push('}');
    }

    fn push_json(&mut self, value: &impl Serialize) {
        // Texts, parsed values and plain structs serialise; a record is better with a gap than lost.
        self.0
            .push_str(json_line(value).as_deref().unwrap_or("null"));
    }
}

/// Needs no escape in JSON and no look from [`json_line`].
fn is_plain(byte: u8) -> bool {
    matches!(byte, b' '..=b'~') && !matches!(byte, b'"' | b'\\')
}
