//! Counting exchanges: handles resolved once for each server and method.
//!
//! Looking a label set up costs more than the addition that follows, so the data path holds these.
//! Nothing here decides what an outcome is.

use std::collections::HashMap;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use prometheus::{Histogram, IntCounter, IntGauge};

use super::families::Families;
use crate::map::Map;

/// How an exchange can end. `other` stands for whatever is not in the list.
const OUTCOMES: [&str; 15] = [
    "ok",
    "tool_error",
    "rpc_error",
    "denied",
    "quota",
    "concurrency",
    "delayed_timeout",
    "timeout",
    "server_down",
    "invalid",
    "cancelled",
    "undelivered",
    "refused",
    "draining",
    "other",
];

/// Methods that get a label of their own: the closed set of both eras.
const METHODS: [&str; 24] = [
    "tools/call",
    "tools/list",
    "resources/read",
    "resources/list",
    "resources/templates/list",
    "resources/subscribe",
    "resources/unsubscribe",
    "prompts/get",
    "prompts/list",
    "completion/complete",
    "logging/setLevel",
    "initialize",
    "ping",
    "server/discover",
    "subscriptions/listen",
    "tasks/get",
    "tasks/list",
    "tasks/result",
    "tasks/cancel",
    "tasks/update",
    "sampling/createMessage",
    "elicitation/create",
    "roots/list",
    OTHER,
];

/// The label of everything outside a closed set.
const OTHER: &str = "_OTHER";

/// Servers come from the configuration, but a bound is a bound.
const MOST_SERVERS: usize = 1000;

/// The handles of one server and method.
#[derive(Debug)]
pub struct ExchangeMetrics {
    outcomes: [IntCounter; OUTCOMES.len()],
    duration: Histogram,
    overhead: Histogram,
    inflight: IntGauge,
}

/// A request a server is working on; ends when dropped.
#[derive(Debug)]
pub struct InFlight(IntGauge);

impl ExchangeMetrics {
    /// It ended so, `total` after it began; `overhead` is what of that was chillgate's own time,
    /// where it is known.
    pub fn done(&self, outcome: &'static str, total: Duration, overhead: Option<Duration>) {
        self.counter(outcome).inc();
        self.duration.observe(total.as_secs_f64());
        if let Some(overhead) = overhead {
            self.overhead.observe(overhead.as_secs_f64());
        }
    }

    /// It was refused: counted, but no duration of an exchange that never was.
    pub fn refused(&self, outcome: &'static str) {
        self.counter(outcome).inc();
    }

    /// A request begins; keep the guard while it runs.
    #[must_use]
    pub fn begin(&self) -> InFlight {
        self.inflight.inc();
        InFlight(self.inflight.clone())
    }

    fn counter(&self, outcome: &str) -> &IntCounter {
        let [.., other] = &self.outcomes;
        let found = OUTCOMES.iter().position(|known| *known == outcome);
        found.and_then(|at| self.outcomes.get(at)).unwrap_or(other)
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.dec();
    }
}

/// One server's handles.
#[derive(Default)]
struct Methods(Map<&'static str, Arc<ExchangeMetrics>>);

/// The handles there are, by server and method.
#[derive(Default)]
pub(super) struct Exchanges {
    servers: RwLock<Map<Arc<str>, Methods>>,
    paths: RwLock<HashMap<Arc<str>, &'static str>>,
}

impl Exchanges {
    pub(super) fn get(
        &self,
        families: &Families,
        server: &str,
        method: &str,
    ) -> Arc<ExchangeMetrics> {
        let method = METHODS
            .iter()
            .find(|known| **known == method)
            .copied()
            .unwrap_or(OTHER);
        let known = self.servers.read().unwrap_or_else(PoisonError::into_inner);
        if let Some(found) = known.get(server).and_then(|methods| methods.0.get(method)) {
            return Arc::clone(found);
        }
        let is_full = known.len() >= MOST_SERVERS && !known.contains_key(server);
        drop(known);
        let server = if is_full { OTHER } else { server };
        let mut known = self.servers.write().unwrap_or_else(PoisonError::into_inner);
        let methods = known.entry(server.into()).or_default();
        Arc::clone(
            methods
                .0
                .entry(method)
                .or_insert_with(|| self.make(families, server, method)),
        )
    }

    pub(super) fn set_path(&self, server: &str, path: &'static str) {
        let mut paths = self.paths.write().unwrap_or_else(PoisonError::into_inner);
        if paths.len() < MOST_SERVERS {
            paths.insert(server.into(), path);
        }
    }

    fn make(&self, families: &Families, server: &str, method: &str) -> Arc<ExchangeMetrics> {
        let paths = self.paths.read().unwrap_or_else(PoisonError::into_inner);
        let path = paths.get(server).copied().unwrap_or("gate");
        Arc::new(ExchangeMetrics {
            outcomes: OUTCOMES.map(|outcome| {
                families
                    .requests
                    .with_label_values(&[server, method, outcome])
            }),
            duration: families
                .request_duration
                .with_label_values(&[server, method]),
            overhead: families.overhead.with_label_values(&[path]),
            inflight: families.inflight.with_label_values(&[server]),
        })
    }
}
