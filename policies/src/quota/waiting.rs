//! A call that waits for its turn at a budget, and takes when it has it.
//!
//! Apart from the policy because it lives for as long as the call waits. A call passes its rooms from
//! its own budget to the widest: in each it waits for its turn, and keeps that turn while it waits in the
//! next. With the turn in all of them that somebody waits in it takes from all budgets at once, or goes
//! to the room of the one that refuses. It never polls: it sleeps until it is woken, until the moment
//! at which there is enough, or until its end.

use std::ops::ControlFlow;
use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::future::{Either, select};

use super::{Inner, OnStoreError};
use crate::engine::exceed::End;
use crate::engine::ledger::{Bucket, Draw, Key, Ledger, LedgerDown, Reply, Take};
use crate::engine::line::{Full, Wants};
use crate::engine::rooms::{Called, Place, Ready};
use crate::engine::{Call, Rejection, Verdict};

/// A turn is taken so long before there is enough, and the rest of it slept: timers wake late, and
/// a budget must not stand idle for that.
const AHEAD: Duration = Duration::from_millis(2);
/// So many times as long at most, by those who were told a moment and found it taken by somebody at
/// another replica: who has lost a race begins the next one earlier.
const MOST_AHEAD: u32 = 8;
/// Nobody tries again sooner.
const PAUSE: Duration = Duration::from_millis(1);

/// A call and what it wants, before and while it waits.
struct Waiter {
    inner: Arc<Inner>,
    wants: Wants,
    /// One for each level.
    keys: Box<[Key]>,
    since: Instant,
    end: End,
}

/// Takes at once, unless somebody waits already; else waits.
pub(super) fn ask(inner: &Arc<Inner>, call: &Call, n: u64) -> Verdict {
    if !inner.rooms.are_empty() {
        let waiter = Waiter::of(inner, call, n);
        if let Some(level) = waiter.open_from(0) {
            return waiter.wait(level, None);
        }
    }
    match inner.draw(call, n, |draws| inner.ledger.take(draws, AHEAD)) {
        Reply::Now(take) if take.admitted => inner.verdict(take),
        Reply::Now(take) => Waiter::of(inner, call, n).refused(take),
        Reply::Later(answer) => {
            let waiter = Waiter::of(inner, call, n);
            Verdict::Later(Box::pin(async move {
                match waiter.instead(answer.await) {
                    ControlFlow::Continue(take) if take.admitted => waiter.inner.verdict(take),
                    ControlFlow::Continue(take) => waiter.refused(take),
                    ControlFlow::Break(verdict) => verdict,
                }
            }))
        }
    }
}

impl Waiter {
    fn of(inner: &Arc<Inner>, call: &Call, n: u64) -> Self {
        let since = inner.clock.now();
        Self {
            wants: inner.exceed.wants(call, n),
            keys: inner
                .levels
                .iter()
                .map(|level| level.per.key(call))
                .collect(),
            end: inner.exceed.end(call, since),
            since,
            inner: Arc::clone(inner),
        }
    }

    fn bucket(&self, level: usize) -> Bucket {
        Bucket {
            name: Arc::clone(&self.inner.levels[level].name),
            key: self.keys[level].clone(),
        }
    }

    /// The first level from this one on that somebody waits for.
    fn open_from(&self, level: usize) -> Option<usize> {
        let mut levels = level..self.keys.len();
        levels.find(|level| self.inner.rooms.is_open(&self.bucket(*level)))
    }

    /// What an agent that has had its share leaves alone of a budget that it is not alone in.
    fn kept(&self, level: usize) -> u64 {
        let limit = &self.inner.levels[level].limit;
        let is_own = self.keys[level].agent.is_some();
        if is_own || limit.share().is_none() {
            return 0;
        }
        let spare = limit.burst().saturating_sub(self.wants.cost);
        self.inner.keep.min(spare)
    }

    /// Takes from all levels; `keep` is for the one whose turn it is.
    async fn take(&self, level: usize, keep: u64, ahead: Duration) -> ControlFlow<Verdict, Take> {
        let reply = self.draw(level, keep, |draws| self.inner.ledger.take(draws, ahead));
        match reply {
            Reply::Now(take) => ControlFlow::Continue(take),
            Reply::Later(answer) => self.instead(answer.await),
        }
    }

    fn draw<R>(&self, level: usize, keep: u64, with: impl FnOnce(&[Draw<'_>]) -> R) -> R {
        let draw = |at: usize| Draw {
            bucket: self.bucket(at),
            limit: &self.inner.levels[at].limit,
            n: self.wants.cost,
            keep: if at == level { keep } else { 0 },
            exact: self.inner.exact,
        };
        match self.keys.len() {
            1 => with(&[draw(0)]),
            levels => with(&(0..levels).map(draw).collect::<Vec<_>>()),
        }
    }

    /// What the policy does where the store is away.
    fn instead(&self, answer: Result<Take, LedgerDown>) -> ControlFlow<Verdict, Take> {
        let down = match answer {
            Ok(take) => return ControlFlow::Continue(take),
            Err(down) => down,
        };
        match self.inner.on_store_error {
            OnStoreError::Allow => ControlFlow::Break(Verdict::Admit),
            OnStoreError::Deny => ControlFlow::Break(Verdict::Reject(self.inner.uncounted(&down))),
            OnStoreError::Local => {
                match self.draw(0, 0, |draws| self.inner.local.take(draws, AHEAD)) {
                    Reply::Now(take) => ControlFlow::Continue(take),
                    Reply::Later(_) => ControlFlow::Break(Verdict::Admit),
                }
            }
        }
    }

    /// There is not enough: waits, where that can be long enough.
    fn refused(self, take: Take) -> Verdict {
        let now = self.inner.clock.now();
        let Some(retry) = take.retry_after else {
            return self.inner.verdict(take);
        };
        if now + retry > self.end.at {
            return self.too_long(take.tightest, Some(take), "");
        }
        let ready = Ready {
            at: now + retry,
            n: self.wants.cost,
        };
        self.wait(take.tightest, Some(ready))
    }

    /// Waits at this level, where the turn can come in time.
    fn wait(self, level: usize, ready: Option<Ready>) -> Verdict {
        if self.earliest(level).is_some_and(|at| at > self.end.at) {
            let waiting = self.inner.rooms.waiting(&self.bucket(level));
            let more = format!(", and {waiting} calls wait for their turn");
            return self.too_long(level, None, &more);
        }
        match self.enter(level, ready) {
            Err(full) => Verdict::Reject(self.full(level, full)),
            Ok(place) => {
                let now = self.inner.clock.now();
                Verdict::Wait {
                    at_most: self.end.at.saturating_duration_since(now),
                    turn: Box::pin(self.turn(level, place)),
                }
            }
        }
    }

    fn enter(&self, level: usize, ready: Option<Ready>) -> Result<Place, Full> {
        let bounds = self.inner.exceed.bounds;
        let bucket = self.bucket(level);
        self.inner.rooms.join(&bucket, &self.wants, bounds, ready)
    }

    fn earliest(&self, level: usize) -> Option<Instant> {
        let (bucket, limit) = (self.bucket(level), &self.inner.levels[level].limit);
        let keep = self.kept(level);
        self.inner.rooms.earliest(&bucket, &self.wants, limit, keep)
    }

    async fn turn(self, mut level: usize, mut place: Place) -> Verdict {
        // Turns that it has at narrower budgets, and keeps while it waits for a wider one.
        let mut kept: Vec<(usize, Place)> = Vec::new();
        let (clock, mut tries) = (&self.inner.clock, 0);
        loop {
            let left = self.end.at.saturating_duration_since(clock.now());
            let called = match select(pin!(place.called()), clock.sleep(left)).await {
                Either::Left((called, _)) => Some(called),
                Either::Right(_) => None,
            };
            let fresh = match called {
                Some(Called::Turn { fresh }) => fresh,
                Some(Called::Out) => return Verdict::Reject(self.full(level, Full::All)),
                None => {
                    drop(place);
                    return self.in_vain(level, None);
                }
            };
            let mut next = self.open_from(level + 1);
            if next.is_none() {
                let keep = if fresh { 0 } else { self.kept(level) };
                let ahead = AHEAD * MOST_AHEAD.min(tries.max(1));
                // Boxed, so that a call that waits takes no room for it.
                let take = match Box::pin(self.take(level, keep, ahead)).await {
                    ControlFlow::Continue(take) => take,
                    ControlFlow::Break(verdict) => return verdict,
                };
                if take.admitted {
                    kept.push((level, place));
                    for (level, place) in kept {
                        place.serve(self.wants.cost, &self.inner.levels[level].limit);
                    }
                    return self.inner.verdict(take);
                }
                let Some(retry) = take.retry_after else {
                    return self.inner.verdict(take);
                };
                let now = clock.now();
                if now + retry > self.end.at {
                    drop(place);
                    return self.in_vain(take.tightest, Some(take));
                }
                if take.tightest == level {
                    let n = self.wants.cost.saturating_add(keep);
                    let at = now + retry;
                    place.put_off(Ready { at, n });
                    tries += 1;
                    let ahead = AHEAD * MOST_AHEAD.min(tries);
                    clock.sleep(retry.saturating_sub(ahead).max(PAUSE)).await;
                    continue;
                }
                next = Some(take.tightest);
            }
            // To another room: wider ones keep this turn, narrower ones give up what is wider.
            let Some(next) = next else { continue };
            if next > level {
                match self.enter(next, None) {
                    Ok(further) => kept.push((level, std::mem::replace(&mut place, further))),
                    Err(full) => return Verdict::Reject(self.full(next, full)),
                }
            } else {
                kept.retain(|(level, _)| *level <= next);
                let back = kept.pop_if(|(level, _)| *level == next);
                let entered = back.map_or_else(|| self.enter(next, None), |(_, place)| Ok(place));
                match entered {
                    Ok(entered) => place = entered,
                    Err(full) => return Verdict::Reject(self.full(next, full)),
                }
            }
            level = next;
        }
    }

    /// Nothing was taken; when a call that comes then could have its turn.
    fn nothing(&self, level: usize) -> Take {
        let now = self.inner.clock.now();
        let at = self.earliest(level).unwrap_or(now);
        Take {
            admitted: false,
            wait: Duration::ZERO,
            tightest: level,
            remaining: 0,
            retry_after: Some(at.saturating_duration_since(now)),
            reset: Duration::ZERO,
        }
    }

    fn too_long(&self, level: usize, take: Option<Take>, more: &str) -> Verdict {
        let take = take.unwrap_or_else(|| self.nothing(level));
        let level = &self.inner.levels[level];
        let refusal = if self.end.is_callers {
            let more = format!("{more}, later than the caller's own deadline");
            self.inner.refusal(level, take, "deadline", &more)
        } else {
            self.inner.refusal(level, take, "quota", more)
        };
        Verdict::Reject(refusal)
    }

    /// It has waited, or would have to, until its end.
    fn in_vain(&self, level: usize, take: Option<Take>) -> Verdict {
        let waited = self.inner.clock.now().saturating_duration_since(self.since);
        let more = format!("; waited {:.1} s for a turn", waited.as_secs_f64());
        // Whoever comes back finds those who wait before it.
        let queued = self.nothing(level);
        let take = take.map(|take| Take {
            retry_after: take.retry_after.max(queued.retry_after),
            ..take
        });
        self.too_long(level, Some(take.unwrap_or(queued)), &more)
    }

    fn full(&self, level: usize, full: Full) -> Rejection {
        let more = match full {
            Full::Own => ", and this agent has as many calls waiting as it may",
            Full::All => ", and as many calls wait as may",
        };
        let (level, take) = (&self.inner.levels[level], self.nothing(level));
        self.inner.refusal(level, take, "queue_full", more)
    }
}

#[cfg(test)]
mod tests;
