//! Waiting rooms: one for each bucket that calls wait for, in which agents take turns.
//!
//! Beside the ledger, which only counts: a call in a room has taken nothing yet, so leaving costs
//! nothing, and who is next is decided when there is something to take. Rooms are those of this process
//! and outlive configurations; they are there while somebody waits. No clock and no runtime: who has
//! the turn looks after the time, the others sleep until they are woken.

use std::collections::HashMap;
use std::future::poll_fn;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Poll, Waker};
use std::time::{Duration, Instant};

use super::ledger::{Bucket, Limit};
use super::line::{Bounds, Full, Line, Ticket, Wants};
use super::span::LONGEST;

/// All rooms of this process; clones are the same rooms.
#[derive(Clone, Debug, Default)]
pub struct Rooms(Arc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    /// How many there are, for those who only look whether anybody waits at all.
    open: AtomicUsize,
    rooms: Mutex<HashMap<Arc<Bucket>, Room>>,
}

#[derive(Debug, Default)]
struct Room {
    line: Line,
    /// Who has the turn: nobody else has it until this one is served, put off or gone.
    held: Option<Ticket>,
    ready: Option<Ready>,
}

/// So much is there at that moment, as far as is known.
#[derive(Clone, Copy, Debug)]
pub struct Ready {
    /// When.
    pub at: Instant,
    /// How much.
    pub n: u64,
}

/// A place in a room; dropping it gives it up.
#[derive(Debug)]
pub struct Place {
    rooms: Rooms,
    bucket: Arc<Bucket>,
    ticket: Ticket,
}

/// What became of waiting.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Called {
    /// It is this call's turn, until it says what came of it.
    Turn {
        /// Its agent has had less than its share.
        fresh: bool,
    },
    /// The room was full, and its agent had the most in it.
    Out,
}

impl Ready {
    /// When `n` more than `before` are there, for a limit that comes back like this one.
    fn after(self, before: u64, n: u64, limit: &Limit) -> Instant {
        let wanted = before.saturating_add(n);
        let span = |each: Duration, times: u64| {
            let nanos = each.as_nanos().saturating_mul(u128::from(times));
            let nanos = u64::try_from(nanos).unwrap_or(u64::MAX);
            Duration::from_nanos(nanos).min(LONGEST)
        };
        match limit.share() {
            Some(share) if wanted >= self.n => self.at + span(share, wanted - self.n),
            Some(share) => {
                let earlier = self.at.checked_sub(span(share, self.n - wanted));
                earlier.unwrap_or(self.at)
            }
            None => {
                let windows = wanted.saturating_sub(1) / limit.burst().max(1);
                self.at + span(limit.span(), windows)
            }
        }
    }
}

impl Rooms {
    /// Whether nobody waits for any bucket.
    pub fn are_empty(&self) -> bool {
        self.0.open.load(Ordering::Relaxed) == 0
    }

    /// Whether somebody waits for this one.
    pub fn is_open(&self, bucket: &Bucket) -> bool {
        !self.are_empty() && self.with(|rooms| rooms.contains_key(bucket))
    }

    /// Takes a place. What is known of when so much is there may come along.
    ///
    /// # Errors
    /// When there is none.
    pub fn join(
        &self,
        bucket: &Bucket,
        wants: &Wants,
        bounds: Bounds,
        ready: Option<Ready>,
    ) -> Result<Place, Full> {
        let (bucket, ticket, out) = self.with(|rooms| {
            let known = rooms.get_key_value(bucket);
            let bucket = known.map_or_else(|| Arc::new(bucket.clone()), |(it, _)| Arc::clone(it));
            let room = rooms.entry(Arc::clone(&bucket)).or_default();
            room.ready = room.ready.or(ready);
            let joined = room.line.join(wants, bounds);
            self.0.open.store(rooms.len(), Ordering::Relaxed);
            joined.map(|(ticket, out)| (bucket, ticket, out))
        })?;
        out.into_iter().for_each(Waker::wake);
        Ok(Place {
            rooms: self.clone(),
            bucket,
            ticket,
        })
    }

    /// The earliest turn that a newcomer can have: if nobody leaves and nobody comes after it. None
    /// where that is not known. `keep` is left alone by who has had its share.
    pub fn earliest(
        &self,
        bucket: &Bucket,
        wants: &Wants,
        limit: &Limit,
        keep: u64,
    ) -> Option<Instant> {
        self.with(|rooms| {
            let room = rooms.get(bucket)?;
            let (before, fresh) = room.line.ahead(wants);
            let kept = if fresh { 0 } else { keep };
            let n = wants.cost.saturating_add(kept);
            Some(room.ready?.after(before, n, limit))
        })
    }

    /// How many wait for a bucket.
    pub fn waiting(&self, bucket: &Bucket) -> usize {
        self.with(|rooms| rooms.get(bucket).map_or(0, |room| room.line.len()))
    }

    fn with<R>(&self, act: impl FnOnce(&mut HashMap<Arc<Bucket>, Room>) -> R) -> R {
        act(&mut self.0.rooms.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Changes a room, then wakes whose turn it is and closes the room if nobody is left.
    fn change(&self, place: &Place, act: impl FnOnce(&mut Room)) {
        let woken = self.with(|rooms| {
            let room = rooms.get_mut(&place.bucket)?;
            act(room);
            if room.line.is_empty() {
                rooms.remove(&place.bucket);
                self.0.open.store(rooms.len(), Ordering::Relaxed);
                return None;
            }
            if room.held.is_some() {
                return None;
            }
            let (first, _) = room.line.first()?;
            if first == place.ticket {
                return None;
            }
            room.line.wake(&first)
        });
        woken.into_iter().for_each(Waker::wake);
    }
}

impl Place {
    /// Waits for the turn.
    pub async fn called(&mut self) -> Called {
        poll_fn(|context| {
            self.rooms.with(|rooms| {
                let Some(room) = rooms.get_mut(&self.bucket) else {
                    return Poll::Ready(Called::Out);
                };
                let first = room.line.first();
                let is_mine = room.held.as_ref() == Some(&self.ticket);
                match first {
                    Some((first, fresh)) if room.held.is_none() && first == self.ticket => {
                        room.held = Some(first);
                        Poll::Ready(Called::Turn { fresh })
                    }
                    _ if is_mine => Poll::Ready(Called::Turn { fresh: false }),
                    _ if room.line.sleep(&self.ticket, context.waker()) => Poll::Pending,
                    _ => Poll::Ready(Called::Out),
                }
            })
        })
        .await
    }

    /// There is not enough before then: whoever is first meanwhile has the turn.
    pub fn put_off(&mut self, ready: Ready) {
        self.rooms.change(self, |room| {
            room.ready = Some(ready);
            if room.held.as_ref() == Some(&self.ticket) {
                room.held = None;
            }
        });
    }

    /// It has got what it waited for.
    pub fn serve(self, n: u64, limit: &Limit) {
        self.rooms.change(&self, |room| {
            let _awake = room.line.serve(&self.ticket);
            if let (Some(ready), Some(_)) = (&mut room.ready, limit.share()) {
                ready.at = ready.after(ready.n, n, limit);
            }
        });
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.rooms.change(self, |room| {
            room.line.leave(&self.ticket);
            if room.held.as_ref() == Some(&self.ticket) {
                room.held = None;
            }
        });
    }
}
