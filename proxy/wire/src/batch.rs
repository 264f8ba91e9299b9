//! Batches, which only 2025-03-26 has: several messages in one array.
//!
//! Each message is judged like one that came alone, so a policy counts every one of them. Whether a
//! batch is allowed at all is the front's question, never this file's.

use std::collections::HashSet;

use bytes::Bytes;

use crate::envelope::{Envelope, Kind};
use crate::fault::{Fault, FaultKind};
use crate::json;
use crate::limits::Limits;
use crate::scan::{self, Shape, Value, Watch};

/// Whether `raw` begins like a batch.
pub fn is_batch(raw: &[u8]) -> bool {
    raw.get(json::skip_blank(raw, 0)) == Some(&b'[')
}

/// The messages of a batch, in order; a bad one is a fault of its own. The whole is refused when it
/// is no JSON array, empty, longer than [`Limits::batch`], holds an `initialize`
/// (2025-03-26, basic/lifecycle), or two requests with one id.
#[expect(
    clippy::needless_pass_by_value,
    reason = "like `Envelope::parse`, it takes the body over"
)]
pub fn split(raw: Bytes, limits: &Limits) -> Result<Vec<Result<Envelope, Fault>>, Fault> {
    let mut places = Items {
        most: limits.batch,
        places: Vec::new(),
        excess: None,
    };
    // The array is one level more than its messages may have. What is merely refused inside a
    // message is found again, and reported, when that message is parsed.
    let around = Limits {
        depth: limits.depth.saturating_add(1),
        ..*limits
    };
    let scanned = scan::scan(&raw, &around, &mut places)?;
    if scanned.shape != Shape::Array {
        return Err(Fault::new(FaultKind::NotObject, scanned.start));
    }
    if let Some(start) = places.excess {
        return Err(Fault::new(FaultKind::BatchSize, start));
    }
    if places.places.is_empty() {
        return Err(Fault::new(FaultKind::EmptyBatch, scanned.start));
    }
    let mut messages = Vec::with_capacity(places.places.len());
    let mut ids = HashSet::new();
    for (start, end) in places.places {
        let message = Envelope::parse(raw.slice(start..end), limits);
        if let Ok(message) = &message {
            if message.method() == Some("initialize") {
                return Err(Fault::new(FaultKind::BatchedInitialize, start));
            }
            if message.kind() == Kind::Request && !message.id().is_none_or(|id| ids.insert(id)) {
                return Err(Fault::new(FaultKind::BatchedTwice, start));
            }
        }
        messages.push(message.map_err(|mut fault| {
            fault.offset += start;
            fault
        }));
    }
    Ok(messages)
}

/// Where the messages are.
struct Items {
    most: usize,
    places: Vec<(usize, usize)>,
    /// The first message too many.
    excess: Option<usize>,
}

impl Watch for Items {
    fn key(&mut self, _level: usize, _name: &[u8]) -> Option<FaultKind> {
        None
    }

    fn value(&mut self, level: usize, value: Value<'_>) -> Option<FaultKind> {
        if level == 1 {
            if self.places.len() < self.most {
                self.places
                    .push((value.start, value.start + value.lexeme.len()));
            } else {
                self.excess.get_or_insert(value.start);
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn split_text(text: &str) -> Result<Vec<Result<Envelope, Fault>>, Fault> {
        split(Bytes::copy_from_slice(text.as_bytes()), &Limits::default())
    }

    #[test]
    fn every_message_is_judged_alone() {
        let text = r#" [ {"jsonrpc":"2.0","id":1,"method":"ping"} ,1,
            {"jsonrpc":"2.0","method":"a","id":2,"id":2},
            {"jsonrpc":"2.0","method":"notifications/initialized"} ] "#;
        let got = split_text(text).unwrap();
        assert_eq!(
            got[0].as_ref().unwrap().raw(),
            r#"{"jsonrpc":"2.0","id":1,"method":"ping"}"#
        );
        assert_eq!(got[1].as_ref().unwrap_err().kind, FaultKind::NotObject);
        let fault = got[2].as_ref().unwrap_err();
        assert_eq!(
            (fault.kind, fault.offset),
            (FaultKind::Duplicate, text.find(r#""id":2}"#).unwrap())
        );
        assert_eq!(
            got[3].as_ref().unwrap().method(),
            Some("notifications/initialized")
        );
        assert_eq!(got.len(), 4);
    }

    #[test]
    fn a_batch_that_is_none_is_refused_whole() {
        let ping = r#"{"jsonrpc":"2.0","id":1,"method":"ping"}"#;
        let start = r#"{"jsonrpc":"2.0","id":1,"method":"init\u0069alize"}"#;
        let many = |n| {
            let pings =
                (0..n).map(|id| format!(r#"{{"jsonrpc":"2.0","id":{id},"method":"ping"}}"#));
            format!("[{}]", pings.collect::<Vec<_>>().join(","))
        };
        for (text, kind) in [
            ("[]".to_owned(), FaultKind::EmptyBatch),
            (ping.to_owned(), FaultKind::NotObject),
            (format!("[{ping},{start}]"), FaultKind::BatchedInitialize),
            (format!("[{ping},{ping}]"), FaultKind::BatchedTwice),
            (format!("[{ping},]"), FaultKind::Syntax),
            (format!("[{ping}"), FaultKind::Truncated),
            (many(51), FaultKind::BatchSize),
            ("[".repeat(100_000), FaultKind::Depth),
        ] {
            assert_eq!(
                split_text(&text).unwrap_err().kind,
                kind,
                "{}",
                &text[..text.len().min(80)]
            );
        }
        assert_eq!(split_text(&many(50)).unwrap().len(), 50);
    }

    #[test]
    fn a_message_may_be_as_deep_as_alone_and_no_deeper() {
        let nested = |n| {
            let (open, close) = ("[".repeat(n), "]".repeat(n));
            format!(r#"[{{"jsonrpc":"2.0","method":"m","params":{{"a":{open}{close}}}}}]"#)
        };
        assert!(split_text(&nested(62)).unwrap()[0].is_ok());
        let deep = split_text(&nested(63)).unwrap();
        assert_eq!(deep[0].as_ref().unwrap_err().kind, FaultKind::Depth);
    }
}
