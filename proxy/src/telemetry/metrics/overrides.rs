//! How many overrides replace values of each policy, read when somebody scrapes.
//!
//! For an alert on one that was forgotten: a policy without any is 0.

use std::sync::{Arc, PoisonError, RwLock};

use prometheus::{IntGaugeVec, Registry};

use super::families::gauges;
use super::gauge;

type Read = Box<dyn Fn() -> Vec<(Arc<str>, usize)> + Send + Sync>;

pub(super) struct OverrideGauges {
    running: IntGaugeVec,
    read: RwLock<Option<Read>>,
}

impl OverrideGauges {
    pub(super) fn register(registry: &Registry) -> Self {
        Self {
            running: gauges(
                registry,
                "chillgate_policy_overrides",
                "Overrides that replace values of a policy now.",
                &["policy"],
            ),
            read: RwLock::new(None),
        }
    }

    pub(super) fn read_from(&self, read: Read) {
        *self.read.write().unwrap_or_else(PoisonError::into_inner) = Some(read);
    }

    /// Sets the gauges to how it is now; policies that are gone have none.
    pub(super) fn fill(&self) {
        let read = self.read.read().unwrap_or_else(PoisonError::into_inner);
        let all = read.as_ref().map(|read| read()).unwrap_or_default();
        self.running.reset();
        for (policy, running) in all {
            self.running
                .with_label_values(&[&*policy])
                .set(gauge(running));
        }
    }
}
