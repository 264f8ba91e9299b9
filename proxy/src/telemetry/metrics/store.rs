//! How the store that replicas share is, read when somebody scrapes.
//!
//! Where no store is configured there are no series. Nothing here asks the store.

use std::sync::{Arc, PoisonError, RwLock};

use prometheus::{IntCounterVec, IntGaugeVec, Registry};

use super::families::{counters, gauges};

/// How the store is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoreHealth {
    /// Policies that count in it.
    pub policies: Vec<Arc<str>>,
    /// Whether they do without it at the moment.
    pub is_away: bool,
    /// Failures so far, by operation.
    pub errors: Vec<(&'static str, u64)>,
    /// How often it had lost what it knew.
    pub emptied: u64,
    /// Where replicas hand requests on to each other.
    pub replicas: Option<ReplicasHealth>,
}

/// What a replica knows of the others.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReplicasHealth {
    /// How many there are, itself included.
    pub count: usize,
    /// What became of requests that were another one's, by outcome.
    pub forwards: [(&'static str, u64); 3],
}

type Read = Box<dyn Fn() -> StoreHealth + Send + Sync>;

pub(super) struct StoreGauges {
    degraded: IntGaugeVec,
    errors: IntCounterVec,
    replicas: IntGaugeVec,
    forwards: IntCounterVec,
    read: RwLock<Option<Read>>,
}

impl StoreGauges {
    pub(super) fn register(registry: &Registry) -> Self {
        Self {
            degraded: gauges(
                registry,
                "chillgate_quota_degraded",
                "Whether a policy does without the shared store, as its on-store-error says: 1 or 0.",
                &["policy"],
            ),
            errors: counters(
                registry,
                "chillgate_quota_store_errors_total",
                "What was asked of the shared store in vain; `emptied`: it had lost what it knew.",
                &["op"],
            ),
            replicas: gauges(
                registry,
                "chillgate_replicas",
                "Replicas of this gateway that this one knows, itself included.",
                &[],
            ),
            forwards: counters(
                registry,
                "chillgate_replica_forwards_total",
                "Requests that were another replica's: answered by it, unreachable, or gone with it.",
                &["outcome"],
            ),
            read: RwLock::new(None),
        }
    }

    pub(super) fn read_from(&self, read: Read) {
        *self.read.write().unwrap_or_else(PoisonError::into_inner) = Some(read);
    }

    /// Sets the series to how it is now.
    pub(super) fn fill(&self) {
        let read = self.read.read().unwrap_or_else(PoisonError::into_inner);
        let Some(health) = read.as_ref().map(|read| read()) else {
            return;
        };
        self.degraded.reset();
        for policy in &health.policies {
            let series = self.degraded.with_label_values(&[&**policy]);
            series.set(i64::from(health.is_away));
        }
        self.errors.reset();
        let emptied = [("emptied", health.emptied)];
        for (op, count) in health.errors.iter().chain(&emptied) {
            self.errors.with_label_values(&[*op]).inc_by(*count);
        }
        let Some(replicas) = health.replicas else {
            return;
        };
        let count = i64::try_from(replicas.count).unwrap_or(i64::MAX);
        self.replicas.with_label_values::<&str>(&[]).set(count);
        self.forwards.reset();
        for (outcome, count) in replicas.forwards {
            self.forwards.with_label_values(&[outcome]).inc_by(count);
        }
    }
}
