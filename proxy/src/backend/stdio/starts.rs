//! Processes that were started and are not ready yet.
//!
//! Apart because several start at the same time, for different hosts, and what one of them says
//! must be told to its own. Nothing is started here.

use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, Weak};

use crate::backend::pipe::{Audience, Origin, Pipe};
use crate::lock::locked;
use crate::supervisor::Words;

/// What is known of the processes that were started.
#[derive(Debug, Default)]
pub(super) struct Starts {
    /// One of them has got ready.
    pub(super) has_worked: AtomicBool,
    /// Those that are not ready yet.
    starting: Mutex<Vec<Start>>,
}

#[derive(Debug)]
pub(super) struct Start {
    /// Whom it is for: two that are started at the same time are told apart by that.
    pub(super) audience: Weak<Audience>,
    pub(super) pipe: Weak<Pipe>,
    pub(super) words: Words,
    pub(super) origin: Origin,
}

impl Starts {
    pub(super) fn put(&self, start: Start) {
        let mut starting = locked(&self.starting);
        // Nobody waits for the one before.
        starting.retain(|other| {
            other.audience.strong_count() > 0 && !other.audience.ptr_eq(&start.audience)
        });
        starting.push(start);
    }

    /// The start of a process for these sessions.
    pub(super) fn take(&self, audience: &Arc<Audience>) -> Option<Start> {
        let mut starting = locked(&self.starting);
        let is_its = |start: &Start| start.audience.as_ptr() == Arc::as_ptr(audience);
        let found = starting.iter().position(is_its)?;
        Some(starting.swap_remove(found))
    }
}
