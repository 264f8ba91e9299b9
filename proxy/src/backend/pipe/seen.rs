//! The lists that a server has shown, as marks: enough to see whether another process shows the same.
//!
//! Keeps no list and asks for none.

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::sync::Mutex;

use chillgate_wire::Envelope;

use crate::lock::locked;

/// Every list, the member of its result and the capability that it goes with.
pub const LISTS: [(&str, &str, &str); 4] = [
    ("tools/list", "tools", "tools"),
    ("prompts/list", "prompts", "prompts"),
    ("resources/list", "resources", "resources"),
    ("resources/templates/list", "resources", "resources"),
];

/// Pages that are remembered, and the longest cursor of one.
const MOST: usize = 100;
const CURSOR: usize = 1024;

/// One page of a list: which list, and its cursor.
pub type Page = (&'static str, Option<String>);

/// The pages that somebody was shown.
#[derive(Debug, Default)]
pub struct Seen(Mutex<HashMap<Page, u64>>);

impl Seen {
    /// An answer to `request`, if that asked for a list.
    pub fn note_answer(&self, request: &Envelope, answer: &Envelope) {
        let method = request.method().unwrap_or_default();
        let Some((list, ..)) = LISTS.into_iter().find(|(list, ..)| *list == method) else {
            return;
        };
        let cursor = request.text(&["params", "cursor"]);
        // A host may write anything there; only what the server has pages for is kept.
        let is_long = cursor.as_ref().is_some_and(|cursor| cursor.len() > CURSOR);
        if answer.result().is_some() && !is_long {
            self.note((list, cursor.map(std::borrow::Cow::into_owned)), answer);
        }
    }

    /// A page; returns whether it is another one than before.
    pub fn note(&self, page: Page, answer: &Envelope) -> bool {
        let mut hasher = DefaultHasher::new();
        answer.result().hash(&mut hasher);
        let mark = hasher.finish();
        let mut all = locked(&self.0);
        if all.len() >= MOST && !all.contains_key(&page) {
            return false;
        }
        let before = all.insert(page, mark);
        before.is_some_and(|before| before != mark)
    }

    /// Whatever was shown by this one counts as shown here.
    pub fn take_over(&self, other: &Self) {
        let other = locked(&other.0).clone();
        let mut all = locked(&self.0);
        for (page, mark) in other {
            all.entry(page).or_insert(mark);
        }
    }

    /// All pages.
    pub fn pages(&self) -> Vec<Page> {
        locked(&self.0).keys().cloned().collect()
    }
}
