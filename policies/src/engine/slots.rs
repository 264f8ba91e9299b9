//! Slots: at most so many calls at a time per bucket, the rest in line, where agents take turns.
//!
//! Beside the ledger because a slot is held by a running call of this process and comes back by
//! itself, whatever happens to the call. Lives longer than any configuration: a reload changes the
//! bound, never who holds a slot. No runtime and no clock: waiting is a future, its bound is the
//! caller's.

use std::collections::HashMap;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Waker};

use super::ledger::Bucket;
use super::line::{Bounds, Full, Line, Ticket, Wants};

/// All slots of this process; clones are the same slots.
#[derive(Clone, Debug, Default)]
pub struct Slots(Arc<Mutex<HashMap<Bucket, Desk>>>);

/// Slots in use and calls in line for one bucket. Gone as soon as both are none.
#[derive(Debug, Default)]
struct Desk {
    at_most: usize,
    taken: usize,
    line: Line,
    /// Those for whom a slot is set aside: they count as taken.
    called: Vec<Ticket>,
}

/// What asking for a slot gave.
#[derive(Debug)]
pub enum Seat {
    /// A slot, given back when dropped.
    Taken(Slot),
    /// A place in line.
    Line(Turn),
    /// No slot, and the caller would not wait.
    None,
    /// No slot, and no place in line.
    Full(Full),
}

/// A slot in use; dropping it gives it to the first in line.
#[derive(Debug)]
pub struct Slot {
    slots: Slots,
    bucket: Bucket,
}

/// A place in line; ends with a slot, or with none where the line was full and its agent had the most in
/// it. Dropping it leaves the line.
#[derive(Debug)]
pub struct Turn {
    slots: Slots,
    bucket: Bucket,
    ticket: Ticket,
    over: bool,
}

impl Slots {
    /// Asks for one of `at_most` slots; who comes later never overtakes the line. Without `wants` there
    /// is no line. The latest `at_most` holds for all that follows; slots beyond a lowered bound run out
    /// by themselves.
    pub fn ask(&self, bucket: &Bucket, at_most: u32, wants: Option<(&Wants, Bounds)>) -> Seat {
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
            let (wants, bounds) = wants?;
            let (ticket, out) = match desk.line.join(wants, bounds) {
                Ok(joined) => joined,
                Err(full) => return Some(Seat::Full(full)),
            };
            woken.extend(out);
            let (slots, bucket) = (self.clone(), bucket.clone());
            Some(Seat::Line(Turn {
                slots,
                bucket,
                ticket,
                over: false,
            }))
        });
        woken.into_iter().for_each(Waker::wake);
        seat.unwrap_or(Seat::None)
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
            let Some((first, _)) = self.line.first() else {
                break;
            };
            woken.extend(self.line.serve(&first));
            self.called.push(first);
            self.taken += 1;
        }
        woken
    }

    /// Whether a slot was set aside for it, which it takes over.
    fn take_over(&mut self, ticket: &Ticket) -> bool {
        let at = self.called.iter().position(|called| called == ticket);
        at.map(|at| self.called.swap_remove(at)).is_some()
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
    type Output = Option<Slot>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Slot>> {
        let called = self.slots.with(|desks| {
            let Some(desk) = desks.get_mut(&self.bucket) else {
                return Poll::Ready(false);
            };
            if desk.take_over(&self.ticket) {
                return Poll::Ready(true);
            }
            if desk.line.sleep(&self.ticket, cx.waker()) {
                return Poll::Pending;
            }
            Poll::Ready(false)
        });
        called.map(|called| {
            self.over = true;
            called.then(|| Slot {
                slots: self.slots.clone(),
                bucket: self.bucket.clone(),
            })
        })
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        if self.over {
            return;
        }
        self.slots.change(&self.bucket, |desk| {
            if desk.take_over(&self.ticket) {
                desk.taken = desk.taken.saturating_sub(1);
            } else {
                desk.line.leave(&self.ticket);
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

    const BOUNDS: Bounds = Bounds { all: 64, each: 32 };

    fn ask(slots: &Slots, agent: &str, at_most: u32) -> Seat {
        let agent = agent.into();
        let (weight, cost) = (1, 1);
        let wants = Wants {
            agent,
            weight,
            cost,
        };
        slots.ask(&bucket(), at_most, Some((&wants, BOUNDS)))
    }

    fn line(slots: &Slots, at_most: u32) -> Turn {
        match ask(slots, "a", at_most) {
            Seat::Line(turn) => turn,
            other => panic!("expected a place in line, got {other:?}"),
        }
    }

    fn taken(slots: &Slots, at_most: u32) -> Slot {
        match ask(slots, "a", at_most) {
            Seat::Taken(slot) => slot,
            other => panic!("expected a slot, got {other:?}"),
        }
    }

    #[test]
    fn an_agents_own_calls_are_served_first_come_first_served() {
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
            matches!(slots.ask(&bucket(), 1, None), Seat::None),
            "a newcomer must not overtake"
        );
        drop(slot);
        assert!(second.now_or_never().flatten().is_some());
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
        assert!(second.now_or_never().flatten().is_some());
        assert_eq!(slots.taken(&bucket()), 0);
    }

    #[test]
    fn a_raised_bound_serves_the_line_before_the_newcomer() {
        let slots = Slots::default();
        let _held = taken(&slots, 1);
        let first = line(&slots, 1);
        assert!(matches!(slots.ask(&bucket(), 2, None), Seat::None));
        assert!(first.now_or_never().flatten().is_some());
    }

    #[test]
    fn the_line_is_bounded_and_others_still_get_in() {
        let slots = Slots::default();
        let _held = taken(&slots, 1);
        let mut turns: Vec<Turn> = (0..BOUNDS.each).map(|_| line(&slots, 1)).collect();
        assert!(matches!(ask(&slots, "a", 1), Seat::Full(Full::Own)));
        let others: Vec<Seat> = (0..BOUNDS.each).map(|_| ask(&slots, "b", 1)).collect();
        let last = ask(&slots, "c", 1);
        assert!(matches!(last, Seat::Line(_)), "{last:?}");
        let newest = [
            turns.pop().expect("many"),
            match others.into_iter().last() {
                Some(Seat::Line(turn)) => turn,
                other => panic!("expected a place in line, got {other:?}"),
            },
        ];
        let out = newest.map(|turn| turn.now_or_never().is_some_and(|slot| slot.is_none()));
        assert_eq!(
            out.iter().filter(|out| **out).count(),
            1,
            "one of them made room"
        );
        drop((turns, last));
        assert_eq!(slots.taken(&bucket()), 1);
    }

    #[test]
    fn agents_take_turns_at_a_slot() {
        let slots = Slots::default();
        let mut held = Some(taken(&slots, 1));
        let mut turns: Vec<(&str, Turn)> = Vec::new();
        for agent in ["a", "a", "a", "a", "b", "b"] {
            match ask(&slots, agent, 1) {
                Seat::Line(turn) => turns.push((agent, turn)),
                other => panic!("expected a place in line, got {other:?}"),
            }
        }
        let mut order = String::new();
        while !turns.is_empty() {
            drop(held.take());
            let mut still = Vec::new();
            for (agent, mut turn) in turns {
                match (&mut turn).now_or_never() {
                    Some(slot) => {
                        held = slot;
                        order.push_str(agent);
                    }
                    None => still.push((agent, turn)),
                }
            }
            turns = still;
        }
        assert_eq!(order, "ababaa");
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
                    0 => match ask(&slots, ["a", "b", "c"][which % 3], at_most) {
                        Seat::Taken(slot) => held.push(slot),
                        Seat::Line(turn) => turns.push(turn),
                        Seat::None => prop_assert!(false, "it would wait"),
                        Seat::Full(_) => {}
                    },
                    1 if which < held.len() => drop(held.remove(which)),
                    2 if which < turns.len() => drop(turns.remove(which)),
                    _ => {
                        let mut still = Vec::new();
                        for mut turn in turns {
                            match (&mut turn).now_or_never() {
                                Some(slot) => held.extend(slot),
                                None => still.push(turn),
                            }
                        }
                        turns = still;
                    }
                }
                prop_assert!(held.len() <= at_most as usize);
                prop_assert!(slots.taken(&bucket()) <= at_most as usize);
                let waits = slots.with(|desks| {
                    desks.values().any(|desk| !desk.line.is_empty())
                });
                let full = slots.taken(&bucket()) == at_most as usize;
                prop_assert!(!waits || full, "a slot idles while somebody waits");
            }
            drop((held, turns));
            prop_assert!(slots.0.lock().expect("not poisoned").is_empty());
        }
    }
}
