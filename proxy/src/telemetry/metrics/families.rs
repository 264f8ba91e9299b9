//! Every metric family with its name, help and labels: the list that dashboards and alerts stand on.
//!
//! Apart from the rest so that a name is read, and changed, in one place. Base units, `_total` on
//! counters. Nothing here counts.

use prometheus::core::{Atomic, Collector, GenericCounter, GenericCounterVec, GenericGauge};
use prometheus::{
    Gauge, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts,
    Registry,
};

/// From half a millisecond, below OpenTelemetry's buckets, which follow.
const DURATION: [f64; 18] = [
    0.0005, 0.001, 0.0025, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0,
    120.0, 300.0,
];

/// chillgate's own time: microseconds when all is well.
const OVERHEAD: [f64; 14] = [
    0.000_01, 0.000_02, 0.000_05, 0.000_1, 0.000_2, 0.000_5, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05,
    0.1, 1.0,
];

/// Holds are seconds by design.
const DELAY: [f64; 11] = [0.1, 0.25, 0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 30.0, 60.0, 300.0];

pub(super) struct Families {
    pub(super) requests: IntCounterVec,
    pub(super) request_duration: HistogramVec,
    pub(super) overhead: HistogramVec,
    pub(super) inflight: IntGaugeVec,
    pub(super) streams: IntGaugeVec,
    pub(super) sessions: IntGaugeVec,
    pub(super) decisions: IntCounterVec,
    pub(super) delay: HistogramVec,
    pub(super) held: IntGaugeVec,
    pub(super) child_restarts: IntCounterVec,
    pub(super) child_leftovers: IntCounter,
    pub(super) child_slept: IntCounterVec,
    pub(super) child_wake: HistogramVec,
    pub(super) call_retries: IntCounterVec,
    pub(super) resting: IntGauge,
    pub(super) child_protocol_errors: IntCounterVec,
    pub(super) child_stderr_dropped: IntCounterVec,
    pub(super) incidents: IntCounterVec,
    pub(super) preflight: IntGaugeVec,
    pub(super) dropped_messages: IntCounterVec,
    pub(super) audit_records: IntCounterVec,
    pub(super) audit_failures: IntCounterVec,
    pub(super) config_successful: IntGauge,
    pub(super) config_success_time: Gauge,
    pub(super) config_reloads: IntCounterVec,
    pub(super) panics: IntCounter,
    pub(super) telemetry_dropped: IntCounterVec,
    build: IntGaugeVec,
}

impl Families {
    pub(super) fn register(registry: &Registry) -> Self {
        let r = registry;
        Self {
            requests: counters(
                r,
                "chillgate_requests_total",
                "Requests by server, method and how they ended.",
                &["server", "method", "outcome"],
            ),
            request_duration: histograms(
                r,
                "chillgate_request_duration_seconds",
                "Time from a request's arrival to its answer, holds and the server included.",
                &["server", "method"],
                &DURATION,
            ),
            overhead: histograms(
                r,
                "chillgate_overhead_seconds",
                "Time chillgate itself took for a request, without holds and the server.",
                &["path"],
                &OVERHEAD,
            ),
            inflight: gauges(
                r,
                "chillgate_inflight_requests",
                "Requests a server is working on now.",
                &["server"],
            ),
            streams: gauges(
                r,
                "chillgate_streams",
                "Open streams towards hosts.",
                &["era"],
            ),
            sessions: gauges(
                r,
                "chillgate_sessions",
                "Host sessions by state.",
                &["state"],
            ),
            decisions: counters(
                r,
                "chillgate_policy_decisions_total",
                "What policies decided, and why.",
                &["policy", "kind", "decision", "reason"],
            ),
            delay: histograms(
                r,
                "chillgate_delay_seconds",
                "How long policies held requests.",
                &["policy"],
                &DELAY,
            ),
            held: gauges(
                r,
                "chillgate_held_calls",
                "Calls that a policy holds now: those that wait for their turn, and those that are made to.",
                &["policy"],
            ),
            child_restarts: counters(
                r,
                "chillgate_child_restarts_total",
                "Starts of a server after its first, by the reason for them.",
                &["server", "reason"],
            ),
            child_leftovers: counter(
                r,
                "chillgate_child_leftovers_ended_total",
                "Processes of a dead chillgate's servers that were ended at the start.",
            ),
            child_slept: counters(
                r,
                "chillgate_child_hibernations_total",
                "Times a process of a server was put to sleep.",
                &["server"],
            ),
            child_wake: histograms(
                r,
                "chillgate_child_wake_seconds",
                "Time from the call that woke a sleeping server until it could be called.",
                &["server"],
                &DURATION,
            ),
            resting: gauge(
                r,
                "chillgate_resting",
                "Whether nobody has called for so long that everything sleeps: 1, or 0.",
            ),
            call_retries: counters(
                r,
                "chillgate_call_retries_total",
                "Calls made a second time because the process that had them ended.",
                &["server"],
            ),
            child_protocol_errors: counters(
                r,
                "chillgate_child_protocol_errors_total",
                "What servers wrote that is no valid message.",
                &["server", "kind"],
            ),
            child_stderr_dropped: counters(
                r,
                "chillgate_child_stderr_dropped_bytes_total",
                "Bytes of servers' stderr beyond what is kept.",
                &["server"],
            ),
            incidents: counters(
                r,
                "chillgate_incidents_total",
                "Failures of servers, by what chillgate knows to do about them.",
                &["server", "cause"],
            ),
            preflight: gauges(
                r,
                "chillgate_preflight_findings",
                "What the look before a server's start has found, until the server works.",
                &["server", "check"],
            ),
            dropped_messages: counters(
                r,
                "chillgate_dropped_messages_total",
                "Messages that reached nobody, by server and reason.",
                &["server", "reason"],
            ),
            audit_records: counters(
                r,
                "chillgate_audit_records_total",
                "Audit records written.",
                &["sink"],
            ),
            audit_failures: counters(
                r,
                "chillgate_audit_write_failures_total",
                "Failed attempts to write audit records; the records wait and are tried again.",
                &["sink"],
            ),
            config_successful: gauge(
                r,
                "chillgate_config_last_reload_successful",
                "Whether the configuration read last is in force: 1, or 0.",
            ),
            config_success_time: gauge(
                r,
                "chillgate_config_last_reload_success_timestamp_seconds",
                "When the configuration in force was read, in Unix time.",
            ),
            config_reloads: counters(
                r,
                "chillgate_config_reloads_total",
                "Configurations read, by result.",
                &["result"],
            ),
            panics: counter(
                r,
                "chillgate_panics_total",
                "Panics caught; each ended one exchange.",
            ),
            telemetry_dropped: counters(
                r,
                "chillgate_telemetry_dropped_total",
                "Telemetry that could not be handed on, by signal.",
                &["signal"],
            ),
            build: gauges(
                r,
                "chillgate_build_info",
                "What this chillgate was built from; always 1.",
                &["version", "revision", "rustc"],
            ),
        }
    }

    /// Revision and compiler are what the build was told; a plain `cargo build` tells neither.
    pub(super) fn build_info(&self) {
        let revision = option_env!("CHILLGATE_REVISION").unwrap_or("unknown");
        let rustc = option_env!("CHILLGATE_RUSTC").unwrap_or(env!("CARGO_PKG_RUST_VERSION"));
        self.build
            .with_label_values(&[env!("CARGO_PKG_VERSION"), revision, rustc])
            .set(1);
    }
}

const TWICE: &str = "a metric's name and labels are legal and used once";

pub(super) fn gauges<P: Atomic + 'static>(
    registry: &Registry,
    name: &str,
    help: &str,
    labels: &[&str],
) -> prometheus::core::GenericGaugeVec<P> {
    let made = prometheus::core::GenericGaugeVec::new(Opts::new(name, help), labels);
    registered(registry, made.expect(TWICE))
}

pub(super) fn gauge<P: Atomic + 'static>(
    registry: &Registry,
    name: &str,
    help: &str,
) -> GenericGauge<P> {
    registered(registry, GenericGauge::new(name, help).expect(TWICE))
}

pub(super) fn counters<P: Atomic + 'static>(
    registry: &Registry,
    name: &str,
    help: &str,
    labels: &[&str],
) -> GenericCounterVec<P> {
    registered(
        registry,
        GenericCounterVec::new(Opts::new(name, help), labels).expect(TWICE),
    )
}

fn counter<P: Atomic + 'static>(registry: &Registry, name: &str, help: &str) -> GenericCounter<P> {
    registered(registry, GenericCounter::new(name, help).expect(TWICE))
}

fn histograms(
    registry: &Registry,
    name: &str,
    help: &str,
    labels: &[&str],
    buckets: &[f64],
) -> HistogramVec {
    let options = HistogramOpts::new(name, help).buckets(buckets.to_vec());
    registered(registry, HistogramVec::new(options, labels).expect(TWICE))
}

fn registered<C: Collector + Clone + 'static>(registry: &Registry, collector: C) -> C {
    registry.register(Box::new(collector.clone())).expect(TWICE);
    collector
}
