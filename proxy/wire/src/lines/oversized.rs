//! What is remembered of a line that is being thrown away: its length, its two ends.
//!
//! Most servers write a response's id first or last, so the ends are enough to fail the one call
//! that the lost line answers. It never keeps more than a few kilobytes.

use super::Oversized;
use crate::id::{Id, LONGEST_ID};
use crate::json;

/// Bytes kept of the start: the head of a message whose id comes first.
const HEAD: usize = 4096;
/// Bytes kept of the end: the id and what closes the message.
const TAIL: usize = LONGEST_ID + 64;

#[derive(Debug, Default)]
pub(super) struct Discarded {
    bytes: u64,
    head: Vec<u8>,
    tail: Vec<u8>,
}

impl Discarded {
    pub(super) fn add(&mut self, bytes: &[u8]) {
        self.bytes += bytes.len() as u64;
        let room = HEAD.saturating_sub(self.head.len()).min(bytes.len());
        self.head
            .extend_from_slice(bytes.get(..room).unwrap_or_default());
        let last = bytes
            .get(bytes.len().saturating_sub(TAIL)..)
            .unwrap_or_default();
        self.tail.extend_from_slice(last);
        let excess = self.tail.len().saturating_sub(TAIL);
        self.tail.drain(..excess);
    }

    pub(super) fn finish(self) -> Oversized {
        let line = self.tail.strip_suffix(b"\r");
        let bytes = self.bytes - u64::from(line.is_some());
        let id = first_id(&self.head).or_else(|| last_id(line.unwrap_or(&self.tail)));
        Oversized { bytes, id }
    }
}

/// The id among the whole members that the head of a message begins with.
fn first_id(head: &[u8]) -> Option<Id> {
    // A number cut off by the end of the head is not a whole one.
    let whole = json::member(head, "id").filter(|value| value.end < head.len())?;
    Id::from_lexeme(head.get(whole)?)
}

/// The id as the last member of a message that ends here. In JSON `,"id":7}` at the very end can
/// only be the outermost object's: deeper ones are followed by another bracket, and in a string the
/// quotes would be escaped.
fn last_id(tail: &[u8]) -> Option<Id> {
    let inside = tail.trim_ascii_end().strip_suffix(b"}")?.trim_ascii_end();
    let start = memchr::memmem::rfind(inside, b"\"id\"")?;
    if inside.get(..start)?.trim_ascii_end().last() != Some(&b',') {
        return None;
    }
    let value = inside
        .get(start + 4..)?
        .trim_ascii_start()
        .strip_prefix(b":")?;
    Id::from_lexeme(value.trim_ascii_start())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id_of(line: &str) -> Option<Id> {
        let mut discarded = Discarded::default();
        line.as_bytes()
            .chunks(1000)
            .for_each(|chunk| discarded.add(chunk));
        let gone = discarded.finish();
        assert_eq!(gone.bytes, line.trim_end_matches('\r').len() as u64);
        gone.id
    }

    #[test]
    fn an_id_at_either_end_is_found() {
        let big = "x,}".repeat(9000);
        assert_eq!(
            id_of(&format!(r#"{{"id":7,"result":{{"a":"{big}"}}}}"#)),
            Some(Id::number(7))
        );
        let last = format!(r#"{{"result":{{"id":1,"a":"{big}"}},"jsonrpc":"2.0", "id" : "b" }}"#);
        assert_eq!(id_of(&last), Some(Id::text("b")));
        assert_eq!(id_of(&format!("{last}\r")), Some(Id::text("b")));
    }

    #[test]
    fn an_id_that_is_another_objects_is_not() {
        let big = "x".repeat(9000);
        for line in [
            format!(r#"{{"result":{{"a":"{big}","id":7}}}}"#),
            format!(r#"{{"result":{{"a":"{big}\",\"id\":7}}"#),
            format!(r#"{{"params":{{"id":7}},"b":"{big}"}}"#),
            format!(r#"{{"id":null,"a":"{big}","b":{{"c":1,"id":7}}}}"#),
            big.clone(),
            String::new(),
        ] {
            assert_eq!(id_of(&line), None, "{}", &line[..line.len().min(40)]);
        }
    }
}
