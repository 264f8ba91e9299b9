//! Model endpoints as gauges, read when somebody scrapes.
//!
//! Names are the configuration's, so the label is a closed set. An endpoint that has not been asked
//! yet has no series.

use std::sync::{Arc, PoisonError, RwLock};

use prometheus::{GaugeVec, IntGaugeVec, Opts, Registry};

use super::families::gauges;

/// How one endpoint is.
#[derive(Clone, Debug, PartialEq)]
pub struct EndpointHealth {
    /// Its name.
    pub endpoint: Arc<str>,
    /// Whether it answers and has its model.
    pub up: bool,
    /// How long its last answer took, in seconds.
    pub latency: Option<f64>,
}

type Read = Box<dyn Fn() -> Vec<EndpointHealth> + Send + Sync>;

pub(super) struct EndpointGauges {
    up: IntGaugeVec,
    latency: GaugeVec,
    read: RwLock<Option<Read>>,
}

impl EndpointGauges {
    pub(super) fn register(registry: &Registry) -> Self {
        let latency = GaugeVec::new(
            Opts::new(
                "chillgate_endpoint_latency_seconds",
                "Time the last answer of a model endpoint took.",
            ),
            &["endpoint"],
        )
        .expect("name and label are legal");
        registry
            .register(Box::new(latency.clone()))
            .expect("registered once");
        Self {
            up: gauges(
                registry,
                "chillgate_endpoint_up",
                "Whether a model endpoint answers and has its model: 1, or 0.",
                &["endpoint"],
            ),
            latency,
            read: RwLock::new(None),
        }
    }

    pub(super) fn read_from(&self, read: Read) {
        *self.read.write().unwrap_or_else(PoisonError::into_inner) = Some(read);
    }

    /// Sets the gauges to what was last seen.
    pub(super) fn fill(&self) {
        let read = self.read.read().unwrap_or_else(PoisonError::into_inner);
        let seen = read.as_ref().map(|read| read()).unwrap_or_default();
        self.up.reset();
        self.latency.reset();
        for one in &seen {
            let label = [&*one.endpoint];
            self.up.with_label_values(&label).set(i64::from(one.up));
            if let Some(latency) = one.latency {
                self.latency.with_label_values(&label).set(latency);
            }
        }
    }
}
