//! One count of all bytes that are held for hosts and servers at one time.
//!
//! Single caps bound each message; this bounds their sum, so that many hosts together cannot use
//! up the machine. It only counts.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// The bytes there are; cheap to clone.
#[derive(Clone, Debug)]
pub struct Budget(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    most: AtomicUsize,
    held: AtomicUsize,
}

/// The budget is used up.
#[derive(Debug)]
pub struct UsedUp;

/// Bytes that are held; dropped, they are given back.
#[derive(Debug)]
pub struct Held {
    budget: Budget,
    bytes: usize,
}

impl Budget {
    /// So many bytes.
    pub fn new(most: usize) -> Self {
        Self(Arc::new(Shared {
            most: AtomicUsize::new(most),
            held: AtomicUsize::new(0),
        }))
    }

    /// Changes the bound; what is held already stays.
    pub fn set(&self, most: usize) {
        self.0.most.store(most, Ordering::Relaxed);
    }

    /// How many there are.
    pub fn most(&self) -> usize {
        self.0.most.load(Ordering::Relaxed)
    }

    /// Holds so many bytes.
    pub fn hold(&self, bytes: usize) -> Result<Held, UsedUp> {
        let mut held = Held {
            budget: self.clone(),
            bytes: 0,
        };
        held.grow(bytes)?;
        Ok(held)
    }
}

impl Held {
    /// Holds so many bytes more.
    pub fn grow(&mut self, bytes: usize) -> Result<(), UsedUp> {
        let shared = &self.budget.0;
        let before = shared.held.fetch_add(bytes, Ordering::Relaxed);
        if bytes > 0 && before + bytes > shared.most.load(Ordering::Relaxed) {
            shared.held.fetch_sub(bytes, Ordering::Relaxed);
            return Err(UsedUp);
        }
        self.bytes += bytes;
        Ok(())
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.budget.0.held.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_dropped_can_be_held_again() {
        let budget = Budget::new(100);
        let mut held = budget.hold(60).expect("room");
        assert!(budget.hold(41).is_err());
        assert!(held.grow(41).is_err());
        held.grow(40).expect("room");
        drop(held);
        assert!(budget.hold(100).is_ok());
    }
}
