//! What the modern hosts of one session listen to.
//!
//! What a server says that belongs to no call goes to each host that has asked for it, marked as
//! its own. It sends nothing before the host has heard what was agreed.

use std::collections::hash_map::Entry;
use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex};

use chillgate_wire::{Envelope, meta};

use crate::exchange::{Exchange, Refused};
use crate::lock::locked;
use crate::route::listen::Filter;

/// Everybody who listens.
#[derive(Debug, Default)]
pub(super) struct Heeds {
    listening: Mutex<Vec<(Arc<Exchange>, Filter)>>,
    /// How many want each resource, acknowledged or not.
    wanted: Mutex<HashMap<String, usize>>,
}

impl Heeds {
    /// Hands a notification to all who want it. An error: one of them does not read.
    pub(super) fn tell(&self, note: &Envelope) -> Result<(), Refused> {
        let mut sent = Ok(());
        for (exchange, filter) in locked(&self.listening).iter() {
            if !filter.wants(note) {
                continue;
            }
            let method = note.method().unwrap_or_default();
            // A list that has changed twice has changed.
            if method.ends_with("list_changed") && exchange.mailbox.holds(method) {
                continue;
            }
            let mut edit = note.edit();
            let path = ["params", "_meta", meta::SUBSCRIPTION_ID];
            edit.set(&path, exchange.host_id.as_bytes());
            if exchange.send(edit.finish()).is_err() {
                sent = Err(Refused);
            }
        }
        sent
    }

    /// One more wants these resources.
    pub(super) fn want(&self, uris: &HashSet<String>) {
        let mut wanted = locked(&self.wanted);
        for uri in uris {
            *wanted.entry(uri.clone()).or_default() += 1;
        }
    }

    /// One less does.
    pub(super) fn want_no_more(&self, uris: &HashSet<String>) {
        let mut wanted = locked(&self.wanted);
        for uri in uris {
            if let Entry::Occupied(mut count) = wanted.entry(uri.clone()) {
                *count.get_mut() -= 1;
                if *count.get() == 0 {
                    count.remove();
                }
            }
        }
    }

    /// Whether anybody wants this resource.
    pub(super) fn is_wanted(&self, uri: &str) -> bool {
        locked(&self.wanted).contains_key(uri)
    }
}

/// A request that listens; dropped, it no longer does.
#[derive(Debug)]
pub struct Heeded(Arc<Exchange>);

impl Heeded {
    /// From now on it hears what it was promised.
    pub fn new(exchange: Arc<Exchange>, agreed: Filter) -> Self {
        let heeds = &exchange.session.heeds;
        locked(&heeds.listening).push((exchange.clone(), agreed));
        Self(exchange)
    }
}

impl Drop for Heeded {
    fn drop(&mut self) {
        let heeds = &self.0.session.heeds;
        locked(&heeds.listening).retain(|(exchange, _)| !Arc::ptr_eq(exchange, &self.0));
    }
}
