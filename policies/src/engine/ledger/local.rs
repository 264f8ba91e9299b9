//! The ledger of one process: budgets by governor and by calendar, boss alerts by [`Boss`], all in
//! bounded maps.
//!
//! Each counter carries the limit it was counted under, so changed settings are translated when
//! the counter is next used and nobody has to tell the ledger of a reload. Never blocks: locks are
//! held for one calculation, in one order, and never across an await.

use std::sync::{Arc, MutexGuard};
use std::time::{Duration, Instant, SystemTime};

use super::super::boss::{Boss, Reading, Settings};
use super::super::clock::Clock;
use super::{Bucket, Draw, Ledger, Limit, Reply, Take};
use budget::Budget;
use shelf::{Shard, Shelf};

mod budget;
mod shelf;

/// Most counters of each sort kept by default.
const MOST_KEYS: usize = 100_000;

/// Counters in this process's memory; gone with it.
#[derive(Debug)]
pub struct LocalLedger {
    clock: Arc<dyn Clock>,
    epoch: Instant,
    /// What the calendar said at `epoch`. It goes on with the monotonic clock: a clock that is set
    /// while chillgate runs begins no window early.
    began: SystemTime,
    budgets: Shelf<Budget>,
    bosses: Shelf<Boss>,
}

/// One budget as an operator sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Usage {
    /// Whose and of which policy.
    pub bucket: Bucket,
    /// The limit it is counted under.
    pub limit: Limit,
    /// How much would be granted now.
    pub remaining: u64,
    /// Until it is full.
    pub reset: Duration,
}

/// Does something with the budget that a draw is from.
type Reach<'l> = dyn FnMut(&Draw<'_>, &mut dyn FnMut(&mut Budget)) + 'l;

/// A moment, as counters know it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Moment {
    /// Nanoseconds since the ledger was made; enough for 584 years.
    pub(super) nanos: u64,
    /// What the calendar says then.
    pub(super) wall: SystemTime,
}

impl Moment {
    /// So much later.
    fn after(self, span: Duration) -> Self {
        Self {
            nanos: self.nanos.saturating_add(nanos(span)),
            wall: self.wall + span,
        }
    }
}

/// A span in nanoseconds.
pub(super) fn nanos(span: Duration) -> u64 {
    u64::try_from(span.as_nanos()).unwrap_or(u64::MAX / 2)
}

impl LocalLedger {
    /// An empty ledger for at most 100 000 budgets and as many boss alerts; beyond that the ones
    /// unused for longest are forgotten, full ones first.
    pub fn new(clock: Arc<dyn Clock>) -> Self {
        Self::bounded(clock, MOST_KEYS)
    }

    /// The same with another bound (at least one counter for each of 16 shards).
    pub fn bounded(clock: Arc<dyn Clock>, keys: usize) -> Self {
        Self {
            epoch: clock.now(),
            began: clock.wall(),
            clock,
            budgets: Shelf::new(keys),
            bosses: Shelf::new(keys),
        }
    }

    /// All budgets that are not full, in no order.
    pub fn usage(&self) -> Vec<Usage> {
        let now = self.now();
        let mut all = Vec::new();
        self.budgets.each(|bucket, budget| {
            let remaining = budget.remaining(now);
            if remaining < budget.limit().burst() {
                all.push(Usage {
                    bucket: bucket.clone(),
                    limit: budget.limit().clone(),
                    remaining,
                    reset: budget.reset(now),
                });
            }
        });
        all
    }

    /// All boss alerts above 0 with their levels, in no order.
    pub fn alerts(&self) -> Vec<(Bucket, u8)> {
        let now = self.clock.now();
        let mut all = Vec::new();
        self.bosses.each(|bucket, boss| {
            let level = boss.clone().advance(now);
            if level > 0 {
                all.push((bucket.clone(), level));
            }
        });
        all
    }

    /// Forgets every counter of the policy `name`: an administrator's reset. Returns how many.
    pub fn forget(&self, name: &str) -> usize {
        let fits = |bucket: &Bucket| bucket.policy() == name;
        self.budgets.forget(fits) + self.bosses.forget(fits)
    }

    /// The same for what counts an agent alone.
    pub fn forget_agent(&self, name: &str, agent: &str) -> usize {
        let fits =
            |bucket: &Bucket| bucket.policy() == name && bucket.key.agent.as_deref() == Some(agent);
        self.budgets.forget(fits) + self.bosses.forget(fits)
    }

    fn now(&self) -> Moment {
        let passed = self.clock.now().saturating_duration_since(self.epoch);
        Moment {
            nanos: nanos(passed),
            wall: self.began + passed,
        }
    }

    /// Takes from all or from none; every budget is locked by then.
    fn settle(draws: &[Draw<'_>], budget: &mut Reach<'_>, now: Moment, patience: Duration) -> Take {
        let mut taken = Take {
            admitted: true,
            wait: Duration::ZERO,
            tightest: 0,
            remaining: 0,
            retry_after: None,
            reset: Duration::ZERO,
        };
        // The one that takes longest says when another try can succeed; one that never has enough
        // says it for all.
        let mut refused: Option<(usize, Option<Duration>)> = None;
        let mut refuse = |index, wait: Option<Duration>| {
            let longest = match refused {
                None => true,
                Some((_, before)) => {
                    before.is_some() && wait.is_none_or(|wait| Some(wait) > before)
                }
            };
            if longest {
                refused = Some((index, wait));
            }
        };
        for (index, draw) in draws.iter().enumerate() {
            let mut wait = None;
            budget(draw, &mut |budget| {
                budget.set(draw.limit, now);
                wait = budget.wait(now, draw.n.saturating_add(draw.keep));
            });
            match wait {
                Some(wait) if wait <= patience => taken.wait = taken.wait.max(wait),
                wait => refuse(index, wait),
            }
        }
        let then = now.after(taken.wait);
        for (index, draw) in draws.iter().enumerate() {
            budget(draw, &mut |budget| {
                if !budget.fits(then, draw.n) {
                    refuse(index, Some(budget.reset(now)));
                }
            });
        }
        if refused.is_none() {
            for draw in draws {
                budget(draw, &mut |budget| budget.spend(then, draw.n));
            }
        }
        let mut tightest = u128::MAX;
        for (index, draw) in draws.iter().enumerate() {
            let (mut remaining, mut reset) = (0, Duration::ZERO);
            budget(draw, &mut |budget| {
                (remaining, reset) = (budget.remaining(now), budget.reset(now));
            });
            if refused.is_some() {
                remaining = remaining.saturating_sub(draw.keep);
            }
            let share = u128::from(remaining) * 1_000_000 / u128::from(draw.limit.burst());
            let is_it = refused.map_or(share < tightest, |(refused, _)| refused == index);
            if is_it {
                tightest = share;
                (taken.tightest, taken.remaining, taken.reset) = (index, remaining, reset);
            }
        }
        if let Some((_, wait)) = refused {
            taken.admitted = false;
            taken.wait = Duration::ZERO;
            taken.retry_after = wait;
        }
        taken
    }

    /// Works on the budgets of all draws at once.
    fn with<R>(&self, draws: &[Draw<'_>], now: Moment, act: impl FnOnce(&mut Reach<'_>) -> R) -> R {
        let idle = |budget: &Budget| budget.is_full(now);
        let on = |shard: &mut Shard<Budget>, draw: &Draw<'_>, what: &mut dyn FnMut(&mut Budget)| {
            let new = || Budget::new(draw.limit.clone());
            what(shard.entry(&draw.bucket, now.nanos, new, idle));
        };
        if let [one] = draws {
            let mut shard = self.budgets.lock(self.budgets.index(&one.bucket));
            let new = || Budget::new(one.limit.clone());
            let budget = shard.entry(&one.bucket, now.nanos, new, idle);
            return act(&mut |_, what| what(budget));
        }
        // In one order, so that two calls never wait for each other.
        let mut indexes: Vec<usize> = draws
            .iter()
            .map(|draw| self.budgets.index(&draw.bucket))
            .collect();
        indexes.sort_unstable();
        indexes.dedup();
        let mut shards: Vec<(usize, MutexGuard<'_, Shard<Budget>>)> = indexes
            .into_iter()
            .map(|index| (index, self.budgets.lock(index)))
            .collect();
        act(&mut |draw, what| {
            let index = self.budgets.index(&draw.bucket);
            if let Some((_, shard)) = shards.iter_mut().find(|(own, _)| *own == index) {
                on(shard, draw, what);
            }
        })
    }
}

impl Ledger for LocalLedger {
    fn take(&self, draws: &[Draw<'_>], patience: Duration) -> Reply<Take> {
        let now = self.now();
        Reply::Now(self.with(draws, now, |budget| {
            Self::settle(draws, budget, now, patience)
        }))
    }

    fn charge(&self, draws: &[Draw<'_>]) {
        let now = self.now();
        self.with(draws, now, |budget| {
            for draw in draws {
                budget(draw, &mut |budget| {
                    budget.set(draw.limit, now);
                    budget.owe(now, draw.n);
                });
            }
        });
    }

    fn raise(&self, bucket: &Bucket, settings: Settings, roll: u8) -> Reply<Reading> {
        let (now, moment) = (self.clock.now(), self.now());
        let mut shard = self.bosses.lock(self.bosses.index(bucket));
        let new = || Boss::new(settings, now);
        let idle = |boss: &Boss| boss.clone().advance(now) == 0;
        let boss = shard.entry(bucket, moment.nanos, new, idle);
        boss.set(settings, now);
        Reply::Now(boss.raise(now, roll))
    }
}
