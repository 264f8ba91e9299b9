//! One budget: governor's single number where it comes back evenly, a count where it comes back with
//! a window of the calendar.

use std::cell::Cell;
use std::num::NonZeroU32;
use std::time::{Duration, SystemTime};

use governor::RateLimiter;
use governor::middleware::NoOpMiddleware;
use governor::nanos::Nanos;
use governor::state::{NotKeyed, StateStore};

use super::super::super::allow::{Calendar, Period};
use super::super::super::span::LONGEST;
use super::super::Limit;
use super::{Moment, nanos};

/// What is left of a limit.
#[derive(Debug)]
pub(super) struct Budget {
    limit: Limit,
    spent: Spent,
}

#[derive(Debug)]
enum Spent {
    /// The moment at which it will be full again, in nanoseconds; none: it never was touched.
    Evenly(Option<u64>),
    /// In this window, and of the next one already.
    InWindow {
        end: Option<SystemTime>,
        spent: u64,
        ahead: u64,
    },
}

impl Spent {
    fn nothing(limit: &Limit) -> Self {
        match limit.allow().per {
            Period::Span(_) => Self::Evenly(None),
            Period::Calendar(_) => Self::InWindow {
                end: None,
                spent: 0,
                ahead: 0,
            },
        }
    }
}

impl Budget {
    /// A full one.
    pub(super) fn new(limit: Limit) -> Self {
        Self {
            spent: Spent::nothing(&limit),
            limit,
        }
    }

    pub(super) fn limit(&self) -> &Limit {
        &self.limit
    }

    pub(super) fn is_full(&self, now: Moment) -> bool {
        self.remaining(now) == self.limit.burst() && self.reset(now).is_zero()
    }

    /// From here on under another limit: what was spent stays spent.
    pub(super) fn set(&mut self, limit: &Limit, now: Moment) {
        self.turn(now);
        if self.limit == *limit {
            return;
        }
        let owed = self.owed(now);
        self.limit = limit.clone();
        self.spent = Spent::nothing(limit);
        self.turn(now);
        match &mut self.spent {
            Spent::Evenly(full_at) => *full_at = Some(now.nanos),
            Spent::InWindow { .. } => {}
        }
        self.owe(now, owed);
    }

    /// How long until so much is there; none: never, it is more than the whole budget.
    pub(super) fn wait(&self, now: Moment, n: u64) -> Option<Duration> {
        if n == 0 {
            return Some(Duration::ZERO);
        }
        match &self.spent {
            Spent::Evenly(full_at) => {
                // Tried on a copy: nothing is spent yet.
                let cell = OneCell(Cell::new(*full_at));
                self.govern(cell, now, n).0
            }
            Spent::InWindow { end, spent, ahead } => {
                let count = self.limit.burst();
                let left = end.and_then(|end| end.duration_since(now.wall).ok());
                if n > count {
                    None
                } else if spent.saturating_add(n) <= count {
                    Some(Duration::ZERO)
                } else if ahead.saturating_add(n) <= count {
                    left
                } else {
                    // The next window is promised already: nobody waits for the one after it.
                    left.map(|left| left + self.limit.span())
                }
            }
        }
    }

    /// Whether it is there at that moment, which is no earlier than [`Budget::wait`] says: another
    /// budget may make its call wait into the next window.
    pub(super) fn fits(&self, then: Moment, n: u64) -> bool {
        match self.spent {
            Spent::InWindow {
                end: Some(end),
                ahead,
                ..
            } if end <= then.wall => ahead.saturating_add(n) <= self.limit.burst(),
            _ => true,
        }
    }

    /// Spends it at a moment at which it is there.
    pub(super) fn spend(&mut self, then: Moment, n: u64) {
        if n == 0 {
            return;
        }
        match &self.spent {
            Spent::Evenly(full_at) => {
                let cell = OneCell(Cell::new(*full_at));
                let (_, after) = self.govern(cell, then, n);
                self.spent = Spent::Evenly(after);
            }
            Spent::InWindow { .. } => self.add(then, n),
        }
    }

    /// Spends it although it may not be there.
    pub(super) fn owe(&mut self, now: Moment, n: u64) {
        match (&mut self.spent, self.limit.share()) {
            (Spent::Evenly(full_at), Some(share)) => {
                let from = full_at.unwrap_or(0).max(now.nanos);
                let debt = nanos(share).saturating_mul(n).min(nanos(LONGEST));
                *full_at = Some(from.saturating_add(debt));
            }
            _ => self.add(now, n),
        }
    }

    pub(super) fn remaining(&self, now: Moment) -> u64 {
        let spent = match self.spent {
            Spent::InWindow { end, spent, ahead } => match end {
                Some(end) if now.wall < end => spent,
                _ => ahead,
            },
            Spent::Evenly(_) => self.owed(now),
        };
        self.limit.burst().saturating_sub(spent)
    }

    /// Until it is full.
    pub(super) fn reset(&self, now: Moment) -> Duration {
        match self.spent {
            Spent::Evenly(full_at) => {
                Duration::from_nanos(full_at.unwrap_or(0).saturating_sub(now.nanos))
            }
            Spent::InWindow {
                spent: 0, ahead: 0, ..
            } => Duration::ZERO,
            Spent::InWindow { end, .. } => end
                .and_then(|end| end.duration_since(now.wall).ok())
                .unwrap_or_default(),
        }
    }

    /// What has been spent and has not come back.
    fn owed(&self, now: Moment) -> u64 {
        match self.spent {
            Spent::Evenly(full_at) => {
                let debt = full_at.unwrap_or(0).saturating_sub(now.nanos);
                let share = self.limit.share().map_or(1, nanos).max(1);
                debt.div_ceil(share)
            }
            Spent::InWindow { spent, .. } => spent,
        }
    }

    /// Into the window that is now.
    fn turn(&mut self, now: Moment) {
        let Some(calendar) = self.calendar().cloned() else {
            return;
        };
        if let Spent::InWindow { end, spent, ahead } = &mut self.spent
            && end.is_none_or(|end| end <= now.wall)
        {
            let (begin, next) = calendar.around(now.wall);
            // What was promised of the window that followed counts in that one alone.
            let follows = end.is_some_and(|end| end == begin);
            *spent = if follows { *ahead } else { 0 };
            (*end, *ahead) = (Some(next), 0);
        }
    }

    fn add(&mut self, then: Moment, n: u64) {
        if let Spent::InWindow { end, spent, ahead } = &mut self.spent {
            let counter = if end.is_some_and(|end| end <= then.wall) {
                ahead
            } else {
                spent
            };
            *counter = counter.saturating_add(n);
        }
    }

    fn calendar(&self) -> Option<&Calendar> {
        match &self.limit.allow().per {
            Period::Calendar(calendar) => Some(calendar),
            Period::Span(_) => None,
        }
    }

    /// Governor's arithmetic on our number and our time: how long until `n` are there, and the number
    /// after they were taken, where they are there now.
    fn govern(&self, cell: OneCell, now: Moment, n: u64) -> (Option<Duration>, Option<u64>) {
        let n = u32::try_from(n).ok().and_then(NonZeroU32::new);
        let burst = u32::try_from(self.limit.burst())
            .ok()
            .and_then(NonZeroU32::new);
        let period = self.limit.share().and_then(governor::Quota::with_period);
        let (Some(n), Some(burst), Some(period)) = (n, burst, period) else {
            return (None, cell.0.get());
        };
        // Governor counts from when it is made, which is the ledger's own beginning.
        let time = Cell::new(Duration::ZERO);
        let limiter: RateLimiter<_, _, _, NoOpMiddleware<Duration>> =
            RateLimiter::new(period.allow_burst(burst), cell, Fixed(&time));
        let at = Duration::from_nanos(now.nanos);
        time.set(at);
        let wait = match limiter.check_n(n) {
            Err(_) => None,
            Ok(Ok(())) => Some(Duration::ZERO),
            Ok(Err(not_until)) => Some(not_until.wait_time_from(at)),
        };
        (wait, limiter.into_state_store().0.get())
    }
}

/// One number as governor's state.
struct OneCell(Cell<Option<u64>>);

impl StateStore for OneCell {
    type Key = NotKeyed;

    fn measure_and_replace<T, F, E>(&self, _: &NotKeyed, decide: F) -> Result<T, E>
    where
        F: Fn(Option<Nanos>) -> Result<(T, Nanos), E>,
    {
        let (result, next) = decide(self.0.get().map(Nanos::new))?;
        self.0.set(Some(next.as_u64()));
        Ok(result)
    }
}

/// Our time for governor: what the caller read from the one clock.
struct Fixed<'a>(&'a Cell<Duration>);

impl governor::clock::Clock for Fixed<'_> {
    type Instant = Duration;

    fn now(&self) -> Duration {
        self.0.get()
    }
}
