//! How servers are and what their processes take, read when somebody scrapes.
//!
//! Summed over the processes of a server, because a process is no label. Nothing here knows how they
//! are found.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Duration;

use prometheus::{CounterVec, IntGaugeVec, Registry};

use super::families::{counters, gauges};
use crate::lock::locked;

/// One server.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ServerHealth {
    /// The server's name.
    pub server: Arc<str>,
    /// Whether it works; nothing is said of one that nobody has called yet.
    pub up: Option<bool>,
    /// It fails time and again.
    pub looping: bool,
    /// How many of its processes sleep.
    pub asleep: usize,
    /// Those that run.
    pub children: Vec<ChildUsage>,
}

/// One process of a server, with everything below it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChildUsage {
    /// Its process id.
    pub pid: u32,
    /// How many processes it is by now.
    pub processes: usize,
    /// Resident memory in bytes.
    pub resident: u64,
    /// Time on processors so far.
    pub cpu: Duration,
    /// Requests that wait for a place with it.
    pub waiting: usize,
}

type Read = Box<dyn Fn() -> Vec<ServerHealth> + Send + Sync>;

pub(super) struct ChildGauges {
    up: IntGaugeVec,
    looping: IntGaugeVec,
    asleep: IntGaugeVec,
    processes: IntGaugeVec,
    resident: IntGaugeVec,
    waiting: IntGaugeVec,
    cpu: CounterVec,
    /// What each had taken when it was last seen.
    seen: Mutex<HashMap<(Arc<str>, u32), Duration>>,
    read: RwLock<Option<Read>>,
}

impl ChildGauges {
    pub(super) fn register(registry: &Registry) -> Self {
        let server = &["server"][..];
        Self {
            up: gauges(
                registry,
                "chillgate_child_up",
                "Whether a server works: 1, or 0.",
                server,
            ),
            looping: gauges(
                registry,
                "chillgate_child_crash_loop",
                "Whether a server fails time and again and is tried ever more seldom: 1, or 0.",
                server,
            ),
            asleep: gauges(
                registry,
                "chillgate_children_asleep",
                "Processes of a server that sleep until the next call.",
                server,
            ),
            processes: gauges(
                registry,
                "chillgate_child_processes",
                "Processes of a server, those that it started included.",
                server,
            ),
            resident: gauges(
                registry,
                "chillgate_child_rss_bytes",
                "Resident memory of a server's processes.",
                server,
            ),
            waiting: gauges(
                registry,
                "chillgate_child_queue_depth",
                "Requests that wait because a server works on as many as it may.",
                server,
            ),
            cpu: counters(
                registry,
                "chillgate_child_cpu_seconds_total",
                "Time on processors that a server's processes took, as far as scrapes saw it.",
                server,
            ),
            seen: Mutex::default(),
            read: RwLock::new(None),
        }
    }

    pub(super) fn read_from(&self, read: Read) {
        *self.read.write().unwrap_or_else(PoisonError::into_inner) = Some(read);
    }

    /// Sets everything to what is now.
    pub(super) fn fill(&self) {
        let read = self.read.read().unwrap_or_else(PoisonError::into_inner);
        let all = read.as_ref().map(|read| read()).unwrap_or_default();
        for family in [
            &self.up,
            &self.looping,
            &self.asleep,
            &self.processes,
            &self.resident,
            &self.waiting,
        ] {
            family.reset();
        }
        let gauge = |count: u64| i64::try_from(count).unwrap_or(i64::MAX);
        let mut seen = locked(&self.seen);
        let mut now = HashMap::new();
        for server in all {
            let label = [&*server.server];
            let add = |to: &IntGaugeVec, count| to.with_label_values(&label).add(gauge(count));
            if let Some(up) = server.up {
                add(&self.up, u64::from(up));
                add(&self.looping, u64::from(server.looping));
                add(&self.asleep, server.asleep as u64);
            }
            for one in server.children {
                add(&self.processes, one.processes as u64);
                add(&self.resident, one.resident);
                add(&self.waiting, one.waiting as u64);
                let key = (server.server.clone(), one.pid);
                let before = seen.remove(&key).unwrap_or_default();
                let more = one.cpu.saturating_sub(before);
                self.cpu
                    .with_label_values(&label)
                    .inc_by(more.as_secs_f64());
                now.insert(key, one.cpu.max(before));
            }
        }
        *seen = now;
    }
}
