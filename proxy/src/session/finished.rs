//! Calls that have ended although their host wanted a task, until it fetches what came of them.
//!
//! A few for each session; the oldest go first. It never looks into a result.

use std::collections::VecDeque;
use std::sync::Mutex;

use serde_json::{Map, Value};

use crate::lock::locked;

/// So many are kept, and bytes of all but the newest.
const MOST: usize = 64;
const MOST_BYTES: usize = 8 << 20;

/// Tasks that have ended, as the extension of 2026-07-28 writes them, and the size of each.
#[derive(Debug, Default)]
pub struct Finished(Mutex<VecDeque<(Map<String, Value>, usize)>>);

impl Finished {
    /// Keeps one, whose result has so many bytes.
    pub fn keep(&self, task: Map<String, Value>, bytes: usize) {
        let mut tasks = locked(&self.0);
        let all =
            |tasks: &VecDeque<(_, usize)>| tasks.iter().map(|(_, bytes)| bytes).sum::<usize>();
        while tasks.len() >= MOST || !tasks.is_empty() && all(&tasks) + bytes > MOST_BYTES {
            tasks.pop_front();
        }
        tasks.push_back((task, bytes));
    }

    /// The one of this id.
    pub fn get(&self, id: &str) -> Option<Map<String, Value>> {
        let tasks = locked(&self.0);
        let mut all = tasks.iter().map(|(task, _)| task);
        let found = all.find(|task| task.get("taskId").is_some_and(|it| it == id));
        found.cloned()
    }
}
