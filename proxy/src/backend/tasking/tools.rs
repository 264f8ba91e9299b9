//! How each tool of an older server may be called, as far as its lists have been seen.
//!
//! Names alone, and only so many. It asks nothing.

use std::collections::{HashMap, HashSet};
use std::sync::Mutex;

use chillgate_wire::Envelope;

use crate::era::tasks::{self, Support};
use crate::lock::locked;

/// So many are known of one server.
const MOST: usize = 10_000;
/// Names that were called and are not there.
const ABSENT: usize = 1000;

#[derive(Debug, Default)]
pub(super) struct Tools(Mutex<Seen>);

#[derive(Debug, Default)]
struct Seen {
    known: HashMap<String, Support>,
    /// Names that no list has.
    absent: HashSet<String>,
}

impl Tools {
    /// How this one may be called, where that is known.
    pub(super) fn get(&self, name: &str) -> Option<Support> {
        let seen = locked(&self.0);
        let absent = || seen.absent.contains(name).then_some(Support::Forbidden);
        seen.known.get(name).copied().or_else(absent)
    }

    /// Notes how the tools of a list may be called.
    pub(super) fn note(&self, answer: &Envelope) {
        let Some(list) = answer.get(&["result", "tools"]) else {
            return;
        };
        let mut seen = locked(&self.0);
        seen.absent.clear();
        for (name, support) in tasks::supports(list) {
            if seen.known.len() < MOST || seen.known.contains_key(&name) {
                seen.known.insert(name, support);
            }
        }
    }

    /// The whole list has been read: one that is not in it is not looked for each time.
    pub(super) fn miss(&self, name: &str) {
        let mut seen = locked(&self.0);
        if seen.known.contains_key(name) {
            return;
        }
        if seen.absent.len() >= ABSENT {
            seen.absent.clear();
        }
        seen.absent.insert(name.to_owned());
    }
}
