//! Metrics: the only place that knows Prometheus, and every name and label there is.
//!
//! Callers say what happened in their own words; labels come from closed sets (server, method,
//! policy, outcome) and never hold identities, arguments or session ids. The handles of the data
//! path are resolved once and kept, so that a call costs a few atomic additions. Nothing here
//! listens: `health.rs` serves what [`Metrics::render`] writes.

use std::fmt;
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use prometheus::{IntCounter, Registry, TextEncoder};

use crate::lock::locked;

mod budgets;
mod children;
mod chill;
mod endpoints;
mod exchange;
mod families;
mod overrides;
#[cfg_attr(target_os = "linux", path = "metrics/own/linux.rs")]
#[cfg_attr(not(target_os = "linux"), path = "metrics/own/elsewhere.rs")]
mod own;
mod policy;
mod store;

pub use budgets::BudgetLeft;
pub use children::{ChildUsage, ServerHealth};
pub use chill::ChillLevels;
pub use endpoints::EndpointHealth;
pub use exchange::{ExchangeMetrics, InFlight};
pub use store::{ReplicasHealth, StoreHealth};

use budgets::BudgetGauges;
use children::ChildGauges;
use chill::ChillGauges;
use endpoints::EndpointGauges;
use exchange::Exchanges;
use families::Families;
use overrides::OverrideGauges;
use store::StoreGauges;

/// All metrics of one chillgate.
pub struct Metrics {
    registry: Registry,
    families: Families,
    exchanges: Exchanges,
    chill: ChillGauges,
    budgets: BudgetGauges,
    store: StoreGauges,
    children: ChildGauges,
    endpoints: EndpointGauges,
    overrides: OverrideGauges,
    /// One scrape at a time, so that the gauges filled for one are not seen half-filled by another.
    scrape: Mutex<()>,
}

/// How loading a configuration went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reload {
    /// The new one is in force.
    Applied,
    /// It was read and is the same.
    Unchanged,
    /// It has mistakes; the old one goes on.
    Rejected,
}

/// The counters of one audit sink.
#[derive(Clone, Debug)]
pub struct AuditMetrics {
    records: IntCounter,
    failures: IntCounter,
}

impl Metrics {
    /// All at zero.
    pub fn new() -> Arc<Self> {
        let registry = Registry::new();
        let families = Families::register(&registry);
        let chill = ChillGauges::register(&registry);
        let budgets = BudgetGauges::register(&registry);
        let store = StoreGauges::register(&registry);
        let children = ChildGauges::register(&registry);
        let endpoints = EndpointGauges::register(&registry);
        let overrides = OverrideGauges::register(&registry);
        own::register(&registry);
        families.build_info();
        let exchanges = Exchanges::default();
        Arc::new(Self {
            registry,
            families,
            exchanges,
            chill,
            budgets,
            store,
            children,
            endpoints,
            overrides,
            scrape: Mutex::new(()),
        })
    }

    /// Everything in the text format, version 0.0.4.
    pub fn render(&self) -> String {
        let _one = locked(&self.scrape);
        self.chill.fill();
        self.budgets.fill();
        self.store.fill();
        self.children.fill();
        self.endpoints.fill();
        self.overrides.fill();
        let gathered = self.registry.gather();
        TextEncoder::new()
            .encode_to_string(&gathered)
            .unwrap_or_else(|error| {
                // Only a family without name or samples fails, and none such is gathered.
                format!("# metrics cannot be written: {error}\n")
            })
    }

    /// The handles for requests with `method` to `server` (`*`: all of them). Unknown methods
    /// share one handle, and so do servers beyond the first 1,000.
    pub fn exchange(&self, server: &str, method: &str) -> Arc<ExchangeMetrics> {
        self.exchanges.get(&self.families, server, method)
    }

    /// Says how a server is reached (`stdio`, `http`, `builtin`): the label `path` of its overhead.
    /// To be said before its first request; a server nothing is said of has `gate`.
    pub fn path(&self, server: &str, path: &'static str) {
        self.exchanges.set_path(server, path);
    }

    /// An exchange ended so, `total` after it began. The same as [`ExchangeMetrics::done`] for
    /// callers that keep no handle.
    pub fn done(&self, server: &str, method: &str, outcome: &'static str, total: Duration) {
        self.exchange(server, method).done(outcome, total, None);
    }

    /// A request was refused before it reached a server.
    pub fn refused(&self, server: &str, method: &str, outcome: &'static str) {
        self.exchange(server, method).refused(outcome);
    }

    /// Host sessions there are.
    pub fn sessions(&self, open: usize) {
        self.families
            .sessions
            .with_label_values(&["open"])
            .set(gauge(open));
    }

    /// Streams towards hosts of one era.
    pub fn streams(&self, era: &'static str, open: usize) {
        self.families
            .streams
            .with_label_values(&[era])
            .set(gauge(open));
    }

    /// A server was started again. `reason`: from a closed set, e.g. `ended`.
    pub fn child_restarted(&self, server: &str, reason: &'static str) {
        self.families
            .child_restarts
            .with_label_values(&[server, reason])
            .inc();
    }

    /// A process of a server was put to sleep.
    pub fn child_slept(&self, server: &str) {
        self.families.child_slept.with_label_values(&[server]).inc();
    }

    /// One that slept could be called so long after somebody wanted to.
    pub fn child_woke(&self, server: &str, after: Duration) {
        self.families
            .child_wake
            .with_label_values(&[server])
            .observe(after.as_secs_f64());
    }

    /// A call was made a second time.
    pub fn call_retried(&self, server: &str) {
        self.families
            .call_retries
            .with_label_values(&[server])
            .inc();
    }

    /// Processes that a chillgate before this one left behind were ended.
    pub fn child_leftovers_ended(&self, count: u64) {
        self.families.child_leftovers.inc_by(count);
    }

    /// A server wrote something that is no valid message.
    pub fn child_protocol_error(&self, server: &str, kind: &'static str) {
        self.families
            .child_protocol_errors
            .with_label_values(&[server, kind])
            .inc();
    }

    /// Bytes of a server's stderr that were not kept.
    pub fn child_stderr_dropped(&self, server: &str, bytes: u64) {
        self.families
            .child_stderr_dropped
            .with_label_values(&[server])
            .inc_by(bytes);
    }

    /// A server failed. `cause`: the name of a shipped remedy, `own` or `unknown`.
    pub fn incident(&self, server: &str, cause: &str) {
        self.families
            .incidents
            .with_label_values(&[server, cause])
            .inc();
    }

    /// So much was found before a server's start.
    pub fn preflight(&self, server: &str, check: &'static str, found: usize) {
        self.families
            .preflight
            .with_label_values(&[server, check])
            .set(gauge(found));
    }

    /// A message that reached nobody. `server` is `*` when it came from a host.
    pub fn dropped(&self, server: &str, reason: &'static str) {
        self.families
            .dropped_messages
            .with_label_values(&[server, reason])
            .inc();
    }

    /// A configuration was read, at `at`.
    pub fn config_loaded(&self, result: Reload, at: SystemTime) {
        let label = match result {
            Reload::Applied => "applied",
            Reload::Unchanged => "unchanged",
            Reload::Rejected => "rejected",
        };
        self.families
            .config_reloads
            .with_label_values(&[label])
            .inc();
        self.families
            .config_successful
            .set(i64::from(result != Reload::Rejected));
        if result != Reload::Rejected {
            let since = at.duration_since(UNIX_EPOCH).unwrap_or_default();
            self.families.config_success_time.set(since.as_secs_f64());
        }
    }

    /// A panic was caught at the edge of a task.
    pub fn panicked(&self) {
        self.families.panics.inc();
    }

    /// Telemetry itself lost something. `signal`: `logs`.
    pub fn telemetry_dropped(&self, signal: &'static str, count: u64) {
        self.families
            .telemetry_dropped
            .with_label_values(&[signal])
            .inc_by(count);
    }

    /// The counters of an audit sink: `file` or `stdout`.
    pub fn audit(&self, sink: &'static str) -> AuditMetrics {
        AuditMetrics {
            records: self.families.audit_records.with_label_values(&[sink]),
            failures: self.families.audit_failures.with_label_values(&[sink]),
        }
    }

    /// Where ChillMCP's levels are read at each scrape; replaces what was given before.
    pub fn chill_from(&self, read: impl Fn() -> Vec<ChillLevels> + Send + Sync + 'static) {
        self.chill.read_from(Box::new(read));
    }

    /// Where it is read at each scrape what servers' processes take; replaces what was given before.
    pub fn children_from(&self, read: impl Fn() -> Vec<ServerHealth> + Send + Sync + 'static) {
        self.children.read_from(Box::new(read));
    }

    /// Whether nobody has called anything for long.
    pub fn resting(&self, resting: bool) {
        self.families.resting.set(i64::from(resting));
    }

    /// Where the state of quotas is read at each scrape; replaces what was given before.
    pub fn budgets_from(&self, read: impl Fn() -> Vec<BudgetLeft> + Send + Sync + 'static) {
        self.budgets.read_from(Box::new(read));
    }

    /// Where the health of the shared store is read at each scrape; replaces what was given before.
    pub fn store_from(&self, read: impl Fn() -> StoreHealth + Send + Sync + 'static) {
        self.store.read_from(Box::new(read));
    }

    /// Where it is read at each scrape how many overrides each policy has; replaces what was given before.
    pub fn overrides_from(
        &self,
        read: impl Fn() -> Vec<(Arc<str>, usize)> + Send + Sync + 'static,
    ) {
        self.overrides.read_from(Box::new(read));
    }

    /// Where the health of model endpoints is read at each scrape; replaces what was given before.
    pub fn endpoints_from(&self, read: impl Fn() -> Vec<EndpointHealth> + Send + Sync + 'static) {
        self.endpoints.read_from(Box::new(read));
    }
}

impl AuditMetrics {
    /// So many records were written.
    pub fn written(&self, records: u64) {
        self.records.inc_by(records);
    }

    /// Writing failed once.
    pub fn failed(&self) {
        self.failures.inc();
    }
}

impl fmt::Debug for Metrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Metrics").finish_non_exhaustive()
    }
}

fn gauge(count: usize) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests;
