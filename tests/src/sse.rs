//! Server-sent events, read as a host reads them.
//!
//! It stands apart from the HTTP client because a test looks at the stream event by event. It
//! never buffers past one event of 64 MiB.

use bytes::Bytes;
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use serde_json::Value;

use crate::wait::{seconds, within};

const LARGEST: usize = 64 << 20;

/// One event of a stream.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Event {
    /// `id:`, if the server gave one.
    pub id: Option<String>,
    /// `event:`, if the server named one.
    pub name: Option<String>,
    /// `data:` lines joined by newlines.
    pub data: String,
    /// `retry:` in milliseconds.
    pub retry: Option<u64>,
}

impl Event {
    /// The JSON-RPC message in `data`; `None` for priming events and keep-alives.
    ///
    /// # Panics
    /// When there is data that is no JSON.
    pub fn message(&self) -> Option<Value> {
        if self.data.is_empty() {
            return None;
        }
        Some(
            serde_json::from_str(&self.data).unwrap_or_else(|error| {
                panic!("an event's data is no JSON ({error}): {}", self.data)
            }),
        )
    }
}

/// A body that is read event by event.
#[derive(Debug)]
pub struct Events {
    body: Incoming,
    buffer: Vec<u8>,
    ended: bool,
    /// The revision of who reads, and what it has asked for, where that is to be judged.
    judged: Option<(&'static str, String)>,
}

impl Events {
    /// Reads events from a response body.
    pub fn new(body: Incoming) -> Self {
        Self {
            body,
            buffer: Vec::new(),
            ended: false,
            judged: None,
        }
    }

    /// Judges each message as what a host of this revision hears in reply to `asked`.
    #[must_use]
    pub fn judged(mut self, revision: &'static str, asked: &str) -> Self {
        self.judged = Some((revision, asked.to_owned()));
        self
    }

    /// The next event, comments skipped; `None` when the stream has ended or broke.
    ///
    /// # Panics
    /// When one event grows past 64 MiB.
    pub async fn next(&mut self) -> Option<Event> {
        loop {
            if let Some(end) = blank_line(&self.buffer) {
                let rest = self.buffer.split_off(end);
                let block = std::mem::replace(&mut self.buffer, rest);
                let text = String::from_utf8(block).expect("an event is UTF-8");
                match parse(&text) {
                    Some(event) => return Some(event),
                    None => continue,
                }
            }
            assert!(self.buffer.len() < LARGEST, "an event larger than 64 MiB");
            let data = self.chunk().await?;
            self.buffer.extend_from_slice(&data);
        }
    }

    /// The next JSON-RPC message, priming events skipped.
    pub async fn message(&mut self) -> Option<Value> {
        loop {
            if let Some(message) = self.next().await?.message() {
                if let Some((revision, asked)) = &self.judged {
                    crate::judge::host_heard(revision, asked, &message);
                }
                return Some(message);
            }
        }
    }

    /// The next message that fits; others before it are passed over.
    ///
    /// # Panics
    /// When the stream ends without one, or none comes within ten seconds.
    pub async fn find(&mut self, what: &str, fits: impl Fn(&Value) -> bool) -> Value {
        within(what, seconds(10), async {
            loop {
                let message = self.message().await;
                let message = message.unwrap_or_else(|| panic!("the stream ended before {what}"));
                if fits(&message) {
                    return message;
                }
            }
        })
        .await
    }

    async fn chunk(&mut self) -> Option<Bytes> {
        while !self.ended {
            match self.body.frame().await {
                Some(Ok(frame)) => {
                    if let Ok(data) = frame.into_data() {
                        return Some(data);
                    }
                }
                _ => self.ended = true,
            }
        }
        None
    }
}

/// Where the first blank line ends, in either line ending.
fn blank_line(buffer: &[u8]) -> Option<usize> {
    let lf = buffer
        .windows(2)
        .position(|pair| pair == b"\n\n")
        .map(|at| at + 2);
    let crlf = buffer
        .windows(4)
        .position(|four| four == b"\r\n\r\n")
        .map(|at| at + 4);
    match (lf, crlf) {
        (Some(a), Some(b)) => Some(a.min(b)),
        (a, b) => a.or(b),
    }
}

/// One block of lines; `None` when it was only a comment.
fn parse(block: &str) -> Option<Event> {
    let mut event = Event::default();
    let mut data: Option<String> = None;
    let mut any = false;
    for line in block.lines() {
        let (field, value) = line.split_once(':').unwrap_or((line, ""));
        let value = value.strip_prefix(' ').unwrap_or(value);
        match field {
            "data" => match &mut data {
                Some(text) => {
                    text.push('\n');
                    text.push_str(value);
                }
                None => data = Some(value.to_owned()),
            },
            "id" => event.id = Some(value.to_owned()),
            "event" => event.name = Some(value.to_owned()),
            "retry" => event.retry = value.parse().ok(),
            _ => continue,
        }
        any = true;
    }
    event.data = data.unwrap_or_default();
    any.then_some(event)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn data_lines_join_and_comments_are_no_event() {
        let event = parse("id: 7\nevent: message\ndata: {\"a\":\ndata: 1}\n\n").unwrap();
        assert_eq!(event.data, "{\"a\":\n1}");
        assert_eq!(event.id.as_deref(), Some("7"));
        assert_eq!(parse(": keep-alive\n\n"), None);
        assert_eq!(parse("id: 9\ndata:\n\n").unwrap().message(), None);
    }

    #[test]
    fn an_event_ends_at_the_first_blank_line_of_either_kind() {
        assert_eq!(blank_line(b"data: 1\n\ndata: 2\n\n"), Some(9));
        assert_eq!(blank_line(b"data: 1\r\n\r\nx\n\n"), Some(11));
        assert_eq!(blank_line(b"data: 1\n"), None);
    }
}
