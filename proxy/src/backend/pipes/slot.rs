//! Places for pipes: one that all share, or the lanes of one host.
//!
//! A slot holds one pipe after another and remembers what became of them. A host that a server may
//! ask in the midst of a call has as many lanes as it has such calls at a time, so that each
//! question has one call it can belong to. Nothing here opens or closes a pipe.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::time::Instant;

use crate::backend::pipe::Pipe;
use crate::lock::locked;

/// A place for one pipe after another.
#[derive(Debug, Default)]
pub(super) struct Slot {
    pub(super) pipe: Mutex<Option<Arc<Pipe>>>,
    pub(super) opening: tokio::sync::Mutex<Tries>,
    pub(super) trouble: Mutex<Option<String>>,
    is_leased: AtomicBool,
    /// How often it has been leased.
    leases: AtomicU64,
}

/// What the last attempts to open a pipe came to.
#[derive(Debug, Default)]
pub(super) struct Tries {
    in_a_row: u32,
    pub(super) opened: Option<Instant>,
    pub(super) not_before: Option<Instant>,
    /// The server answered the last attempt, in another era.
    pub(super) is_unspoken: bool,
}

/// A pipe that has lived for so long counts as having worked.
const WORKED: Duration = Duration::from_secs(10);

impl Slot {
    pub(super) fn current(&self) -> Option<Arc<Pipe>> {
        locked(&self.pipe)
            .as_ref()
            .filter(|pipe| pipe.is_fit())
            .cloned()
    }

    /// Why the last pipe ended, if it did so by itself and no other has been opened since.
    pub(super) fn end(&self) -> Option<String> {
        locked(&self.pipe)
            .as_ref()
            .and_then(|pipe| pipe.end().map(str::to_owned))
    }
}

impl Tries {
    /// 0.1 s, doubled with each failure in a row, at most 30 s; up to a quarter is random so that
    /// many servers do not come back in step.
    pub(super) fn backoff(&mut self) -> Duration {
        if self.opened.is_some_and(|at| at.elapsed() > WORKED) {
            self.in_a_row = 0;
        }
        let doubled = 100u64 << self.in_a_row.min(9);
        self.in_a_row = self.in_a_row.saturating_add(1);
        let [byte] = crate::random::bytes();
        let base = doubled.min(30_000);
        Duration::from_millis(base - base * u64::from(byte) / 1024)
    }
}

/// The slots of one session. The first is there for everything; the others for one call each.
#[derive(Debug, Default)]
pub(super) struct Lanes(Vec<Arc<Slot>>);

/// Lanes one session may have, each a running server.
const MOST: usize = 64;

impl Lanes {
    pub(super) fn all(&self) -> &[Arc<Slot>] {
        &self.0
    }

    pub(super) fn first(&mut self) -> Arc<Slot> {
        if self.0.is_empty() {
            self.0.push(Arc::default());
        }
        self.0[0].clone()
    }

    /// A lane for one call alone, and whether it may go once there are fewer such calls; none where
    /// there are as many as may be.
    pub(super) fn lease(&mut self) -> Option<(Arc<Slot>, bool)> {
        // In order, so that a host with one call at a time always meets the same server.
        let free = self
            .0
            .iter()
            .find(|slot| !slot.is_leased.swap(true, Ordering::Relaxed));
        let (slot, is_spare) = match free {
            Some(slot) => (slot.clone(), !Arc::ptr_eq(slot, &self.0[0])),
            None if self.0.len() < MOST => {
                let slot = Arc::new(Slot::default());
                slot.is_leased.store(true, Ordering::Relaxed);
                self.0.push(slot.clone());
                (slot, self.0.len() > 1)
            }
            None => return None,
        };
        slot.leases.fetch_add(1, Ordering::Relaxed);
        Some((slot, is_spare))
    }
}

impl Slot {
    /// The call is over: the lane is free again. Returns what tells whether it has been in use
    /// since.
    pub(super) fn free(&self) -> u64 {
        self.is_leased.store(false, Ordering::Relaxed);
        self.leases.load(Ordering::Relaxed)
    }

    /// Takes the pipe out if nobody has leased the lane since [`Slot::free`] returned `number`.
    pub(super) fn retire(&self, number: u64) -> Option<Arc<Pipe>> {
        if self.leases.load(Ordering::Relaxed) != number {
            return None;
        }
        locked(&self.pipe).take()
    }
}
