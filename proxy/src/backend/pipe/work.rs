//! What runs on a pipe, and what has: for whoever decides whether it hangs, rests or may be ended.
//!
//! Apart because it is looked at from outside and changes nothing that is carried.

use std::sync::atomic::Ordering;

use super::Pipe;
use crate::lock::locked;

impl Pipe {
    /// Requests that wait for their answer; a subscription is none.
    pub fn running(&self) -> usize {
        let pending = locked(&self.pending);
        pending.values().filter(|one| one.ear.is_none()).count()
    }

    /// Whether nothing runs on it, and nobody is about to ask it something.
    pub fn is_at_rest(&self) -> bool {
        self.users.load(Ordering::Relaxed) == 0 && self.running() == 0
    }

    /// How many requests of hosts there have been.
    pub fn calls(&self) -> u64 {
        self.calls.load(Ordering::Relaxed)
    }

    /// How many lines the server has written.
    pub fn heard(&self) -> u64 {
        self.heard.load(Ordering::Relaxed)
    }

    /// How many notifications the server has sent.
    pub fn notes(&self) -> u64 {
        self.notes.load(Ordering::Relaxed)
    }

    /// How many requests of hosts ran out of time before the server answered them.
    pub fn given_up(&self) -> u64 {
        self.given_up.load(Ordering::Relaxed)
    }

    /// It was asked for a task, or made one, which outlives the call.
    pub fn note_task(&self) {
        self.has_tasks.store(true, Ordering::Relaxed);
    }

    /// Whether it may work on something that no call waits for.
    pub fn has_tasks(&self) -> bool {
        self.has_tasks.load(Ordering::Relaxed)
    }

    /// How many requests wait for an answer.
    pub fn in_flight(&self) -> usize {
        locked(&self.pending).len()
    }
}
