//! What is left of quotas, read when somebody scrapes.
//!
//! A policy has one series however many agents it counts: that of the one with the least left,
//! because identities are no labels and the one that runs out first is the one to look at.

use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError, RwLock};

use prometheus::{GaugeVec, Registry};

use super::families::gauges;

/// The least share left of one quota policy's budgets: 1 is full, 0 is spent.
#[derive(Clone, Debug, PartialEq)]
pub struct BudgetLeft {
    /// The policy's name.
    pub policy: Arc<str>,
    /// From 0 to 1.
    pub share: f64,
}

type Read = Box<dyn Fn() -> Vec<BudgetLeft> + Send + Sync>;

pub(super) struct BudgetGauges {
    left: GaugeVec,
    read: RwLock<Option<Read>>,
}

impl BudgetGauges {
    pub(super) fn register(registry: &Registry) -> Self {
        Self {
            left: gauges(
                registry,
                "chillgate_quota_remaining_ratio",
                "Share left of a quota policy's budget, 0 to 1: the least of all it counts.",
                &["policy"],
            ),
            read: RwLock::new(None),
        }
    }

    pub(super) fn read_from(&self, read: Read) {
        *self.read.write().unwrap_or_else(PoisonError::into_inner) = Some(read);
    }

    /// Sets the gauges to what is left now; policies that are gone have none.
    pub(super) fn fill(&self) {
        let read = self.read.read().unwrap_or_else(PoisonError::into_inner);
        let all = read.as_ref().map(|read| read()).unwrap_or_default();
        let mut least: BTreeMap<&str, f64> = BTreeMap::new();
        for one in &all {
            let share = least.entry(&one.policy).or_insert(1.0);
            *share = share.min(one.share);
        }
        self.left.reset();
        for (policy, share) in least {
            self.left.with_label_values(&[policy]).set(share);
        }
    }
}
