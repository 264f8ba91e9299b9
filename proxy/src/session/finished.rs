//! Calls that have ended although their host wanted a task, until it fetches what came of them.
//!
//! A few for each session; the oldest go first. It never looks into a result.

use std::collections::VecDeque;
use std::sync::Mutex;

use serde_json::{Map, Value};

use crate::lock::locked;

/// So many are kept.
const MOST: usize = 64;

/// Tasks that have ended, as the extension of 2026-07-28 writes them.
#[derive(Debug, Default)]
pub struct Finished(Mutex<VecDeque<Map<String, Value>>>);

impl Finished {
    /// Keeps one.
    pub fn keep(&self, task: Map<String, Value>) {
        let mut tasks = locked(&self.0);
        if tasks.len() >= MOST {
            tasks.pop_front();
        }
        tasks.push_back(task);
    }

    /// The one of this id.
    pub fn get(&self, id: &str) -> Option<Map<String, Value>> {
        let tasks = locked(&self.0);
        let found = tasks
            .iter()
            .find(|task| task.get("taskId").is_some_and(|it| it == id));
        found.cloned()
    }
}
