//! Where counters live: under a policy's name and a key, longer than any configuration.
//!
//! A port, so that one process and many replicas count by the same policies. Policies only choose
//! the bucket; a reload makes new policies that find the old counters by name, so it never refills.
//! `local.rs` counts in this process; a shared store is one more implementation.

use std::fmt::Debug;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;

use super::allow::{Allow, Period};
use super::boss::{Reading, Settings};
use super::call::Call;
use super::rule::Pattern;
use super::span::LONGEST;

pub use local::{LocalLedger, Usage};

mod local;

/// What a counter is kept for: any mix of these; none of them is one for all.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Key {
    /// The agent, where the policy counts per agent.
    pub agent: Option<Arc<str>>,
    /// One of its groups, where it counts per group; empty for who has none.
    pub group: Option<Arc<str>>,
    /// One of its scopes, where it counts per scope; likewise.
    pub scope: Option<Arc<str>>,
    /// The server, where it counts per server.
    pub server: Option<Arc<str>>,
    /// What is named in the server's spelling, where it counts per tool.
    pub tool: Option<Arc<str>>,
}

impl Key {
    /// One text per key and one key per text, for stores that know only texts.
    pub fn to_text(&self) -> String {
        let parts = [
            ('a', &self.agent),
            ('g', &self.group),
            ('o', &self.scope),
            ('s', &self.server),
            ('t', &self.tool),
        ];
        let texts = parts.into_iter().filter_map(|(mark, part)| {
            // The length in front makes it injective whatever the part contains.
            part.as_ref()
                .map(|part| format!("{mark}{}:{part}", part.len()))
        });
        texts.collect()
    }

    /// The key that has this text, if one has.
    pub fn from_text(text: &str) -> Option<Self> {
        let mut key = Self::default();
        let mut rest = text;
        while let Some(mark) = rest.chars().next() {
            let (length, behind) = rest.get(mark.len_utf8()..)?.split_once(':')?;
            let length = length.parse::<usize>().ok()?;
            let part = Some(Arc::from(behind.get(..length)?));
            rest = behind.get(length..)?;
            match mark {
                'a' => key.agent = part,
                'g' => key.group = part,
                'o' => key.scope = part,
                's' => key.server = part,
                't' => key.tool = part,
                _ => return None,
            }
        }
        // Parts in another order, or one twice, are no text of ours.
        (key.to_text() == text).then_some(key)
    }
}

/// Which parts of a call make the key.
#[derive(Clone, Debug, Default)]
pub struct Per {
    /// One counter for each agent.
    pub agent: bool,
    /// One counter for each group: of an agent's groups, the first that fits counts.
    pub group: Option<Fitting>,
    /// One counter for each scope, likewise.
    pub scope: Option<Fitting>,
    /// One counter for each server.
    pub server: bool,
    /// One counter for each tool of each server.
    pub tool: bool,
}

/// The names that fit one of these patterns; all, where there are none.
#[derive(Clone, Debug, Default)]
pub struct Fitting(pub Vec<Pattern>);

impl Fitting {
    fn first(&self, names: &[Arc<str>]) -> Arc<str> {
        let fits = |name: &&Arc<str>| {
            self.0.is_empty() || self.0.iter().any(|pattern| pattern.matches(name))
        };
        names.iter().find(fits).cloned().unwrap_or_default()
    }
}

impl Per {
    /// The key of this call. A tool belongs to its server, so `tool` brings the server along.
    pub fn key(&self, call: &Call) -> Key {
        let grants = &call.grants;
        Key {
            agent: self.agent.then(|| Arc::clone(&call.agent)),
            group: self.group.as_ref().map(|fits| fits.first(&grants.groups)),
            scope: self.scope.as_ref().map(|fits| fits.first(&grants.scopes)),
            server: (self.server || self.tool).then(|| Arc::clone(&call.server)),
            tool: if self.tool { call.target.clone() } else { None },
        }
    }

    /// `agent`, `agent+tool`, …, or `all`.
    pub fn words(&self) -> String {
        let parts: Vec<&str> = [
            ("agent", self.agent),
            ("group", self.group.is_some()),
            ("scope", self.scope.is_some()),
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

/// What stands between a policy's name and the number of one of its levels.
const LEVEL: char = '/';

impl Bucket {
    /// The policy that counts in it.
    pub fn policy(&self) -> &str {
        let end = self.name.find(LEVEL).unwrap_or(self.name.len());
        self.name.get(..end).unwrap_or_default()
    }

    /// What the buckets of a policy's level are named: 1 is its own.
    pub fn of_level(policy: &Arc<str>, level: usize) -> Arc<str> {
        match level {
            1 => Arc::clone(policy),
            level => format!("{policy}{LEVEL}{level}").into(),
        }
    }
}

/// A legal budget: what it allows, and how much of that may come at once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limit {
    allow: Allow,
    burst: u64,
    /// The time after which one more is there; none: it comes back with its window.
    share: Option<Duration>,
}

impl Limit {
    /// A budget, unless filling an empty one would take longer than 400 days, a share would take less
    /// than a nanosecond, or a window of the calendar had a burst.
    pub fn new(allow: Allow, burst: Option<u64>) -> Option<Self> {
        let Period::Span(per) = allow.per else {
            let burst = burst.is_none().then_some(allow.count)?;
            return Some(Self {
                allow,
                burst,
                share: None,
            });
        };
        let burst = burst.unwrap_or(allow.count);
        // The span divided by the count, rounded up: rounding never admits more than was written.
        let nanos = per.as_nanos().div_ceil(u128::from(allow.count.max(1)));
        let share = Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX));
        let legal = burst >= 1
            && u32::try_from(burst).is_ok()
            && allow.count >= 1
            && u128::from(allow.count) <= per.as_nanos()
            && share.as_nanos() * u128::from(burst) <= LONGEST.as_nanos();
        legal.then_some(Self {
            allow,
            burst,
            share: Some(share),
        })
    }

    /// What it allows.
    pub fn allow(&self) -> &Allow {
        &self.allow
    }

    /// How much may come at once, at least 1.
    pub fn burst(&self) -> u64 {
        self.burst
    }

    /// The time after which one more is admitted, at least a nanosecond; none for a window.
    pub fn share(&self) -> Option<Duration> {
        self.share
    }

    /// The span that it is for: the longest that a window can be.
    pub fn span(&self) -> Duration {
        match &self.allow.per {
            Period::Span(span) => *span,
            Period::Calendar(calendar) => calendar.longest(),
        }
    }
}

impl std::fmt::Display for Limit {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        std::fmt::Display::fmt(&self.allow, f)
    }
}

/// What one call takes from one budget.
#[derive(Clone, Debug)]
pub struct Draw<'l> {
    /// Whose budget.
    pub bucket: Bucket,
    /// How large it is.
    pub limit: &'l Limit,
    /// How much is taken; nothing is always there.
    pub n: u64,
    /// So much more has to be there, and stays.
    pub keep: u64,
    /// Whether it has to be counted to the last one. Where not, a shared ledger may take some ahead:
    /// up to a hundredth of the burst for each replica, by which a budget may come out short.
    pub exact: bool,
}

/// What taking from budgets gave.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Take {
    /// Whether all that was asked for was granted (and is spent).
    pub admitted: bool,
    /// When it was granted: how long the caller must wait before using it, at most its patience.
    pub wait: Duration,
    /// The budget with the smallest share left; the one that refused, where it was not granted.
    pub tightest: usize,
    /// How much more that one would grant at once.
    pub remaining: u64,
    /// When it was not granted: the earliest moment another try can succeed. `None`: never, more
    /// was asked than the budget holds.
    pub retry_after: Option<Duration>,
    /// Until that one is full.
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
    /// Takes from all of these budgets, or from none. Where too little is left but enough would be
    /// there within `patience`, it is granted ahead and `wait` says when. What has to stay is not in what
    /// a refusal says remains.
    /// A grant is never given back, also not when the caller leaves while it waits: a budget may come
    /// out short by that, never over.
    fn take(&self, draws: &[Draw<'_>], patience: Duration) -> Reply<Take>;

    /// How many count in it, as far as is known: each may have its part while none can.
    fn sharers(&self) -> u64 {
        1
    }

    /// Spends what has been used already, also where nothing is left: it is owed, and paid before the
    /// next take.
    fn charge(&self, draws: &[Draw<'_>]);

    /// Raises a boss alert; `roll` is uniform in 0..100 (see [`super::boss::Boss::raise`]).
    fn raise(&self, bucket: &Bucket, settings: Settings, roll: u8) -> Reply<Reading>;
}
