//! The ledger of one process: budgets by governor, boss alerts by [`Boss`], both in bounded maps.
//!
//! Each counter carries the quota it was counted under, so changed settings are translated when
//! the counter is next used and nobody has to tell the ledger of a reload. Never blocks: a lock is
//! held for one calculation and never across an await.

use std::cell::Cell;
use std::collections::HashMap;
use std::hash::BuildHasher;
use std::num::NonZeroU32;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use governor::RateLimiter;
use governor::middleware::NoOpMiddleware;
use governor::nanos::Nanos;
use governor::state::{NotKeyed, StateStore};

use super::super::boss::{Boss, Reading, Settings};
use super::super::clock::Clock;
use super::{Bucket, Ledger, Quota, Reply, Take};

/// Most counters of each sort kept by default.
const MOST_KEYS: usize = 100_000;
const SHARDS: usize = 16;

/// Counters in this process's memory; gone with it.
#[derive(Debug)]
pub struct LocalLedger {
    clock: Arc<dyn Clock>,
    epoch: Instant,
    budgets: Shelf<Budget>,
    bosses: Shelf<Boss>,
}

/// One budget as an operator sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Usage {
    /// Whose and of which policy.
    pub bucket: Bucket,
    /// The quota it is counted under.
    pub quota: Quota,
    /// How many would be granted now.
    pub remaining: u32,
}

impl LocalLedger {
    /// An empty ledger for at most 100 000 budgets and as many boss alerts; beyond that the ones
    /// unused for longest are forgotten, full ones first.
    pub fn new(clock: Arc<dyn Clock>) -> Self {
        Self::bounded(clock, MOST_KEYS)
    }

    /// The same with another bound (at least one counter for each of 16 shards).
    pub fn bounded(clock: Arc<dyn Clock>, keys: usize) -> Self {
        let epoch = clock.now();
        Self {
            clock,
            epoch,
            budgets: Shelf::new(keys),
            bosses: Shelf::new(keys),
        }
    }

    /// All budgets that are not full, in no order.
    pub fn usage(&self) -> Vec<Usage> {
        let now = self.elapsed();
        let mut all = Vec::new();
        self.budgets.each(|bucket, budget| {
            let (remaining, quota) = (budget.remaining(now), budget.quota);
            if remaining < quota.burst() {
                all.push(Usage {
                    bucket: bucket.clone(),
                    quota,
                    remaining,
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
        self.budgets.forget(name) + self.bosses.forget(name)
    }

    /// Nanoseconds since the ledger was made; enough for 584 years.
    fn elapsed(&self) -> u64 {
        let passed = self.clock.now().saturating_duration_since(self.epoch);
        u64::try_from(passed.as_nanos()).unwrap_or(u64::MAX / 2)
    }
}

impl Ledger for LocalLedger {
    fn take(&self, bucket: &Bucket, quota: Quota, n: u32, patience: Duration) -> Reply<Take> {
        let now = self.elapsed();
        Reply::Now(self.budgets.with(
            bucket,
            now,
            || Budget {
                quota,
                full_at: None,
            },
            |budget| budget.full_at.is_none_or(|full| full <= now),
            |budget| budget.take(now, quota, n, patience),
        ))
    }

    fn raise(&self, bucket: &Bucket, settings: Settings, roll: u8) -> Reply<Reading> {
        let now = self.clock.now();
        Reply::Now(self.bosses.with(
            bucket,
            self.elapsed(),
            || Boss::new(settings, now),
            |boss| boss.clone().advance(now) == 0,
            |boss| {
                boss.set(settings, now);
                boss.raise(now, roll)
            },
        ))
    }
}

/// One budget: governor's single number, the moment at which it will be full again.
#[derive(Debug)]
struct Budget {
    quota: Quota,
    full_at: Option<u64>,
}

impl Budget {
    fn take(&mut self, now: u64, quota: Quota, n: u32, patience: Duration) -> Take {
        if quota != self.quota {
            self.translate(now, quota);
        }
        let share = quota.share();
        let (Some(n), Some(period), Some(burst)) = (
            NonZeroU32::new(n),
            governor::Quota::with_period(share),
            NonZeroU32::new(quota.burst()),
        ) else {
            return self.taken(now, true, Duration::ZERO, Some(Duration::ZERO));
        };
        let store = OneCell(Cell::new(self.full_at));
        let time = Cell::new(Duration::ZERO);
        // Made for one decision: governor's arithmetic on our number and our time.
        let limiter: RateLimiter<_, _, _, NoOpMiddleware<Duration>> =
            RateLimiter::new(period.allow_burst(burst), store, Moment(&time));
        let at = Duration::from_nanos(now);
        time.set(at);
        let (admitted, wait, retry) = match limiter.check_n(n) {
            Err(_) => (false, Duration::ZERO, None),
            Ok(Ok(())) => (true, Duration::ZERO, Some(Duration::ZERO)),
            Ok(Err(not_until)) => {
                let wait = not_until.wait_time_from(at);
                // At exactly that moment the share is there, and taking it now reserves it.
                time.set(at + wait);
                let granted = wait <= patience && matches!(limiter.check_n(n), Ok(Ok(())));
                if granted {
                    (true, wait, Some(Duration::ZERO))
                } else {
                    (false, Duration::ZERO, Some(wait))
                }
            }
        };
        self.full_at = limiter.into_state_store().0.get();
        self.taken(now, admitted, wait, retry)
    }

    fn taken(&self, now: u64, admitted: bool, wait: Duration, retry: Option<Duration>) -> Take {
        Take {
            admitted,
            wait,
            remaining: self.remaining(now),
            retry_after: if admitted { None } else { retry },
            reset: Duration::from_nanos(self.full_at.unwrap_or(0).saturating_sub(now)),
        }
    }

    fn remaining(&self, now: u64) -> u32 {
        let debt = self.full_at.unwrap_or(0).saturating_sub(now);
        let share = u64::try_from(self.quota.share().as_nanos())
            .unwrap_or(u64::MAX)
            .max(1);
        let spent = u32::try_from(debt.div_ceil(share)).unwrap_or(u32::MAX);
        self.quota.burst().saturating_sub(spent)
    }

    /// What was spent stays spent: the same number of shares is owed at the new rate.
    fn translate(&mut self, now: u64, quota: Quota) {
        let debt = u128::from(self.full_at.unwrap_or(0).saturating_sub(now));
        let (old, new) = (
            self.quota.share().as_nanos().max(1),
            quota.share().as_nanos(),
        );
        let owed = (debt * new).div_ceil(old);
        self.full_at = u64::try_from(owed)
            .ok()
            .and_then(|owed| now.checked_add(owed))
            .or(self.full_at);
        self.quota = quota;
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
struct Moment<'a>(&'a Cell<Duration>);

impl governor::clock::Clock for Moment<'_> {
    type Instant = Duration;

    fn now(&self) -> Duration {
        self.0.get()
    }
}

/// A bounded map in shards, so that cores rarely meet.
#[derive(Debug)]
struct Shelf<V> {
    shards: Vec<Mutex<HashMap<Bucket, Kept<V>>>>,
    each: usize,
    /// Chooses the shard alone; each shard hashes for itself, safe from chosen keys.
    hasher: foldhash::fast::RandomState,
}

#[derive(Debug)]
struct Kept<V> {
    value: V,
    touched: u64,
}

impl<V> Shelf<V> {
    fn new(keys: usize) -> Self {
        let shards = std::iter::repeat_with(Mutex::default)
            .take(SHARDS)
            .collect();
        Self {
            shards,
            each: keys.div_ceil(SHARDS).max(1),
            hasher: foldhash::fast::RandomState::default(),
        }
    }

    fn with<R>(
        &self,
        bucket: &Bucket,
        now: u64,
        new: impl FnOnce() -> V,
        idle: impl Fn(&V) -> bool,
        act: impl FnOnce(&mut V) -> R,
    ) -> R {
        let index = self.hasher.hash_one(bucket) as usize % SHARDS;
        let mut shard = self.shards[index]
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if let Some(kept) = shard.get_mut(bucket) {
            kept.touched = now;
            return act(&mut kept.value);
        }
        if shard.len() >= self.each {
            make_room(&mut shard, self.each, idle);
        }
        let kept = shard.entry(bucket.clone()).or_insert_with(|| Kept {
            value: new(),
            touched: now,
        });
        act(&mut kept.value)
    }

    fn each(&self, mut see: impl FnMut(&Bucket, &V)) {
        for shard in &self.shards {
            let shard = shard.lock().unwrap_or_else(PoisonError::into_inner);
            shard
                .iter()
                .for_each(|(bucket, kept)| see(bucket, &kept.value));
        }
    }

    fn forget(&self, name: &str) -> usize {
        let mut gone = 0;
        for shard in &self.shards {
            let mut shard = shard.lock().unwrap_or_else(PoisonError::into_inner);
            let before = shard.len();
            shard.retain(|bucket, _| &*bucket.name != name);
            gone += before - shard.len();
        }
        gone
    }
}

/// Drops what says nothing any more; if that is not an eighth, also the longest unused, up to an
/// eighth, so that the search is paid once for many new keys.
fn make_room<V>(shard: &mut HashMap<Bucket, Kept<V>>, bound: usize, idle: impl Fn(&V) -> bool) {
    shard.retain(|_, kept| !idle(&kept.value));
    let keep = bound - bound.div_ceil(8);
    if shard.len() <= keep {
        return;
    }
    let mut ages: Vec<u64> = shard.values().map(|kept| kept.touched).collect();
    let excess = shard.len() - keep;
    let (_, youngest_to_go, _) = ages.select_nth_unstable(excess - 1);
    let (limit, mut left) = (*youngest_to_go, excess);
    shard.retain(|_, kept| {
        let goes = left > 0 && kept.touched <= limit;
        left -= usize::from(goes);
        !goes
    });
}
