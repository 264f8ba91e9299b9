//! Counting what policies decide: the policies' `Meter` port on Prometheus.
//!
//! Decisions and reasons are words from closed sets in the policies' own code; each pair is looked
//! up once. Nothing here reads a policy.

use std::fmt;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use chillgate_policies::engine::services::{Meter, Tally};
use prometheus::{Histogram, IntCounter, IntCounterVec, IntGauge};

use super::Metrics;

impl Meter for Metrics {
    fn policy(&self, name: &str, kind: &'static str) -> Arc<dyn Tally> {
        Arc::new(PolicyMetrics {
            name: name.into(),
            kind,
            decisions: self.families.decisions.clone(),
            known: RwLock::default(),
            delay: self.families.delay.with_label_values(&[name]),
            held: self.families.held.with_label_values(&[name]),
        })
    }
}

struct PolicyMetrics {
    name: String,
    kind: &'static str,
    decisions: IntCounterVec,
    /// A handful: searching it is quicker than hashing.
    known: RwLock<Vec<(&'static str, &'static str, IntCounter)>>,
    delay: Histogram,
    held: IntGauge,
}

impl Tally for PolicyMetrics {
    fn decided(&self, decision: &'static str, reason: &'static str) {
        let known = self.known.read().unwrap_or_else(PoisonError::into_inner);
        let mut pairs = known.iter();
        if let Some((.., counter)) = pairs.find(|(d, r, _)| *d == decision && *r == reason) {
            counter.inc();
            return;
        }
        drop(known);
        let labels = [&*self.name, self.kind, decision, reason];
        let counter = self.decisions.with_label_values(&labels);
        counter.inc();
        let mut known = self.known.write().unwrap_or_else(PoisonError::into_inner);
        known.push((decision, reason, counter));
    }

    fn delayed(&self, span: Duration) {
        self.delay.observe(span.as_secs_f64());
    }

    fn holds(&self, one_more: bool) {
        if one_more {
            self.held.inc();
        } else {
            self.held.dec();
        }
    }
}

impl fmt::Debug for PolicyMetrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PolicyMetrics")
            .field("name", &self.name)
            .finish_non_exhaustive()
    }
}
