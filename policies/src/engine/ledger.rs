//! Where counters live: under a policy's name and a key, longer than any configuration.
//!
//! A port, so that one process and many replicas count by the same policies. Policies only choose
//! the bucket; a reload makes new policies that find the old counters by name, so it never refills.
//! `local.rs` counts in this process; a shared store is one more implementation.

use std::fmt::Debug;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;

use super::boss::{Reading, Settings};
use super::call::Call;
use super::span::{LONGEST, Rate, Span};

pub use local::{LocalLedger, Usage};

mod local;

/// What a counter is kept for: any mix of agent, server and tool; none of them is one for all.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Key {
    /// The agent, where the policy counts per agent.
    pub agent: Option<Arc<str>>,
    /// The server, where it counts per server.
    pub server: Option<Arc<str>>,
    /// What is named in the server's spelling, where it counts per tool.
    pub tool: Option<Arc<str>>,
}

impl Key {
    /// One text per key and one key per text, for stores that know only texts.
    pub fn to_text(&self) -> String {
        let parts = [('a', &self.agent), ('s', &self.server), ('t', &self.tool)];
        let texts = parts.into_iter().filter_map(|(mark, part)| {
            // The length in front makes it injective whatever the part contains.
            part.as_ref()
                .map(|part| format!("{mark}{}:{part}", part.len()))
        });
        texts.collect()
    }
}

/// Which parts of a call make the key.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Per {
    /// One counter for each agent.
    pub agent: bool,
    /// One counter for each server.
    pub server: bool,
    /// One counter for each tool of each server.
    pub tool: bool,
}

impl Per {
    /// The key of this call. A tool belongs to its server, so `tool` brings the server along.
    pub fn key(self, call: &Call) -> Key {
        Key {
            agent: self.agent.then(|| Arc::clone(&call.agent)),
            server: (self.server || self.tool).then(|| Arc::clone(&call.server)),
            tool: if self.tool { call.target.clone() } else { None },
        }
    }

    /// `agent`, `agent+tool`, …, or `all`.
    pub fn scope(self) -> String {
        let parts: Vec<&str> = [
            ("agent", self.agent),
            ("server", self.server),
            ("tool", self.tool),
        ]
        .into_iter()
        .filter_map(|(name, set)| set.then_some(name))
        .collect();
        if parts.is_empty() {
            "all".into()
        } else {
            parts.join("+")
        }
    }
}

/// One counter: the policy's name and the key.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Bucket {
    /// Name of the policy.
    pub name: Arc<str>,
    /// Whose it is.
    pub key: Key,
}

/// A legal quota: a rate and how many may come at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Quota {
    rate: Rate,
    burst: u32,
    share: Duration,
}

impl Quota {
    /// A quota, unless filling an empty budget would take longer than 400 days or a share would
    /// take less than a nanosecond.
    pub fn new(rate: Rate, burst: u32) -> Option<Self> {
        // The span divided by the count, rounded up: rounding never admits more than was written.
        let nanos = rate.per.as_nanos().div_ceil(u128::from(rate.count.max(1)));
        let share = Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX));
        let quota = Self { rate, burst, share };
        let legal = burst >= 1
            && rate.count >= 1
            && u128::from(rate.count) <= rate.per.as_nanos()
            && share.as_nanos() * u128::from(burst) <= LONGEST.as_nanos();
        legal.then_some(quota)
    }

    /// The rate.
    pub fn rate(self) -> Rate {
        self.rate
    }

    /// How many may come at once, at least 1.
    pub fn burst(self) -> u32 {
        self.burst
    }

    /// Time after which one more is admitted, at least a nanosecond.
    pub fn share(self) -> Duration {
        self.share
    }
}

impl std::fmt::Display for Quota {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Rate { count, per } = self.rate;
        write!(f, "{count} per {}", Span(per))
    }
}

/// What taking from a budget gave.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Take {
    /// Whether the share was granted (and is spent).
    pub admitted: bool,
    /// When it was granted: how long the caller must wait before using it, at most its patience.
    pub wait: Duration,
    /// How many more would be granted at once.
    pub remaining: u32,
    /// When it was not granted: the earliest moment another try can succeed. `None`: never, more
    /// was asked than the budget holds.
    pub retry_after: Option<Duration>,
    /// Until the budget is full.
    pub reset: Duration,
}

/// The store cannot be reached.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the counters' store does not answer: {0}; check `state.store`")]
pub struct LedgerDown(pub String);

/// An answer that is there at once, or one that has to travel.
pub enum Reply<T> {
    /// It is here: nothing was allocated or awaited.
    Now(T),
    /// It comes.
    Later(BoxFuture<'static, Result<T, LedgerDown>>),
}

/// Counts for all policies. Every operation is atomic per bucket, over all replicas that share it.
pub trait Ledger: Debug + Send + Sync {
    /// Takes `n` shares of a budget, or none. Where fewer are left but enough would be there within
    /// `patience`, they are granted ahead and `wait` says when; earlier callers come first. A grant
    /// is never given back, also not when the caller leaves while it waits: a budget may come out
    /// short by that, never over.
    fn take(&self, bucket: &Bucket, quota: Quota, n: u32, patience: Duration) -> Reply<Take>;

    /// Raises a boss alert; `roll` is uniform in 0..100 (see [`super::boss::Boss::raise`]).
    fn raise(&self, bucket: &Bucket, settings: Settings, roll: u8) -> Reply<Reading>;
}
