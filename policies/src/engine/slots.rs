//! Slots: at most so many calls at a time per bucket, the rest in line, first come first served.
//!
//! Beside the ledger because a slot is held by a running call of this process and comes back by
//! itself, whatever happens to the call. Lives longer than any configuration: a reload changes the
//! bound, never who holds a slot. No runtime and no clock: waiting is a future, its bound is the
//! caller's.

use std::collections::{HashMap, VecDeque};
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Waker};

use super::ledger::Bucket;

/// Most calls in line per bucket.
pub const LONGEST_LINE: usize = 1_024;

/// All slots of this process; clones are the same slots.
#[derive(Clone, Debug, Default)]
pub struct Slots(Arc<Mutex<HashMap<Bucket, Desk>>>);

/// Slots in use and calls in line for one bucket. Gone as soon as both are none.
#[derive(Debug, Default)]
struct Desk {
    at_most: usize,
    taken: usize,
    next: u64,
    line: VecDeque<Waiting>,
}

#[derive(Debug)]
struct Waiting {
    ticket: u64,
    called: bool,
    waker: Option<Waker>,
}

/// What asking for a slot gave.
#[derive(Debug)]
pub enum Seat {
    /// A slot, given back when dropped.
    Taken(Slot),
    /// A place in line.
    Line(Turn),
    /// No slot; the line is full, or the caller would not wait.
    Full,
}

/// A slot in use; dropping it gives it to the first in line.
#[derive(Debug)]
pub struct Slot {
    slots: Slots,
    bucket: Bucket,
}

/// A place in line; ends with a slot. Dropping it leaves the line.
#[derive(Debug)]
pub struct Turn {
    slots: Slots,
    bucket: Bucket,
    ticket: u64,
    over: bool,
}

impl Slots {
    /// Asks for one of `at_most` slots; who comes later never overtakes the line. Without `wait`
    /// there is no line. The latest `at_most` holds for all that follows; slots beyond a lowered
    /// bound run out by themselves.
    pub fn ask(&self, bucket: &Bucket, at_most: u32, wait: bool) -> Seat {
        let mut woken = Vec::new();
        let seat = self.with(|desks| {
            if !desks.contains_key(bucket) {
                desks.insert(bucket.clone(), Desk::default());
            }
            let desk = desks.get_mut(bucket)?;
            desk.at_most = at_most as usize;
            woken = desk.call_next();
            // Whoever could be called was called just now: a slot left over is nobody's.
            if desk.taken < desk.at_most {
                desk.taken += 1;
                return Some(Seat::Taken(Slot {
                    slots: self.clone(),
                    bucket: bucket.clone(),
                }));
            }
            if !wait || desk.line.len() >= LONGEST_LINE {
                return None;
            }
            let ticket = desk.next;
            desk.next += 1;
            desk.line.push_back(Waiting {
                ticket,
                called: false,
                waker: None,
            });
            let (slots, bucket) = (self.clone(), bucket.clone());
            Some(Seat::Line(Turn {
                slots,
                bucket,
                ticket,
                over: false,
            }))
        });
        woken.into_iter().for_each(Waker::wake);
        seat.unwrap_or(Seat::Full)
    }

    /// How many slots of a bucket are in use.
    pub fn taken(&self, bucket: &Bucket) -> usize {
        self.with(|desks| desks.get(bucket).map_or(0, |desk| desk.taken))
    }

    fn with<R>(&self, act: impl FnOnce(&mut HashMap<Bucket, Desk>) -> R) -> R {
        act(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Changes one bucket, then calls who is next and forgets the bucket if nothing is left of it.
    fn change(&self, bucket: &Bucket, act: impl FnOnce(&mut Desk)) {
        let woken = self.with(|desks| {
            let Some(desk) = desks.get_mut(bucket) else {
                return Vec::new();
            };
            act(desk);
            let woken = desk.call_next();
            if desk.taken == 0 && desk.line.is_empty() {
                desks.remove(bucket);
            }
            woken
        });
        woken.into_iter().for_each(Waker::wake);
    }
}

impl Desk {
    /// Sets slots aside for the first in line; a called turn's slot counts as taken already.
    fn call_next(&mut self) -> Vec<Waker> {
        let mut woken = Vec::new();
        while self.taken < self.at_most {
            let Some(first) = self.line.iter_mut().find(|waiting| !waiting.called) else {
                break;
            };
            first.called = true;
            self.taken += 1;
            woken.extend(first.waker.take());
        }
        woken
    }

    /// Takes a turn out of the line; true when a slot was set aside for it.
    fn leave(&mut self, ticket: u64) -> bool {
        let at = self
            .line
            .iter()
            .position(|waiting| waiting.ticket == ticket);
        at.and_then(|at| self.line.remove(at))
            .is_some_and(|waiting| waiting.called)
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.slots.change(&self.bucket, |desk| {
            desk.taken = desk.taken.saturating_sub(1);
        });
    }
}

impl Future for Turn {
    type Output = Slot;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Slot> {
        let ticket = self.ticket;
        let called = self.slots.with(|desks| {
            let Some(desk) = desks.get_mut(&self.bucket) else {
                return false;
            };
            let waiting = desk
                .line
                .iter_mut()
                .find(|waiting| waiting.ticket == ticket);
            match waiting {
                Some(waiting) if !waiting.called => {
                    waiting.waker = Some(cx.waker().clone());
                    false
                }
                Some(_) => desk.leave(ticket),
                None => false,
            }
        });
        if !called {
            return Poll::Pending;
        }
        self.over = true;
        Poll::Ready(Slot {
            slots: self.slots.clone(),
            bucket: self.bucket.clone(),
        })
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        if self.over {
            return;
        }
        let ticket = self.ticket;
        self.slots.change(&self.bucket, |desk| {
            if desk.leave(ticket) {
                desk.taken = desk.taken.saturating_sub(1);
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::ledger::Key;
    use futures_util::FutureExt;
    use proptest::prelude::*;

    fn bucket() -> Bucket {
        Bucket {
            name: "c".into(),
            key: Key::default(),
        }
    }

    fn line(slots: &Slots, at_most: u32) -> Turn {
        match slots.ask(&bucket(), at_most, true) {
            Seat::Line(turn) => turn,
            other => panic!("expected a place in line, got {other:?}"),
        }
    }

    fn taken(slots: &Slots, at_most: u32) -> Slot {
        match slots.ask(&bucket(), at_most, true) {
            Seat::Taken(slot) => slot,
            other => panic!("expected a slot, got {other:?}"),
        }
    }

    #[test]
    fn the_line_is_served_first_come_first_served() {
        let slots = Slots::default();
        let held = taken(&slots, 1);
        let (mut first, mut second) = (line(&slots, 1), line(&slots, 1));
        assert!((&mut second).now_or_never().is_none());
        assert!((&mut first).now_or_never().is_none());
        drop(held);
        assert!(
            (&mut second).now_or_never().is_none(),
            "the second must not overtake"
        );
        let slot = (&mut first).now_or_never().expect("the first is called");
        assert!(
            matches!(slots.ask(&bucket(), 1, false), Seat::Full),
            "a newcomer must not overtake"
        );
        drop(slot);
        assert!(second.now_or_never().is_some());
        assert!(
            slots.0.lock().expect("not poisoned").is_empty(),
            "nothing is kept"
        );
    }

    #[test]
    fn who_leaves_the_line_after_being_called_passes_the_slot_on() {
        let slots = Slots::default();
        let held = taken(&slots, 1);
        let (first, second) = (line(&slots, 1), line(&slots, 1));
        drop(held);
        drop(first);
        assert!(second.now_or_never().is_some());
        assert_eq!(slots.taken(&bucket()), 0);
    }

    #[test]
    fn a_raised_bound_serves_the_line_before_the_newcomer() {
        let slots = Slots::default();
        let _held = taken(&slots, 1);
        let first = line(&slots, 1);
        assert!(matches!(slots.ask(&bucket(), 2, false), Seat::Full));
        assert!(first.now_or_never().is_some());
    }

    #[test]
    fn the_line_is_bounded() {
        let slots = Slots::default();
        let _held = taken(&slots, 1);
        let turns: Vec<Turn> = (0..LONGEST_LINE).map(|_| line(&slots, 1)).collect();
        assert!(matches!(slots.ask(&bucket(), 1, true), Seat::Full));
        drop(turns);
        assert_eq!(slots.taken(&bucket()), 1);
    }

    proptest! {
        #[test]
        fn never_more_slots_than_the_bound_and_none_is_lost(
            at_most in 1u32..4, steps in proptest::collection::vec((0u8..4, 0usize..8), 0..80),
        ) {
            let slots = Slots::default();
            let (mut held, mut turns) = (Vec::new(), Vec::new());
            for (what, which) in steps {
                match what {
                    0 => match slots.ask(&bucket(), at_most, true) {
                        Seat::Taken(slot) => held.push(slot),
                        Seat::Line(turn) => turns.push(turn),
                        Seat::Full => prop_assert!(false, "the line is far from full"),
                    },
                    1 if which < held.len() => drop(held.remove(which)),
                    2 if which < turns.len() => drop(turns.remove(which)),
                    _ => {
                        let mut still = Vec::new();
                        for mut turn in turns {
                            match (&mut turn).now_or_never() {
                                Some(slot) => held.push(slot),
                                None => still.push(turn),
                            }
                        }
                        turns = still;
                    }
                }
                prop_assert!(held.len() <= at_most as usize);
                prop_assert!(slots.taken(&bucket()) <= at_most as usize);
                let waits = slots.with(|desks| {
                    desks.values().any(|desk| desk.line.iter().any(|waiting| !waiting.called))
                });
                let full = slots.taken(&bucket()) == at_most as usize;
                prop_assert!(!waits || full, "a slot idles while somebody waits");
            }
            drop((held, turns));
            prop_assert!(slots.0.lock().expect("not poisoned").is_empty());
        }
    }
}
