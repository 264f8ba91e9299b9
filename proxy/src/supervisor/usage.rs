//! What running servers take of the machine, as the process table shows it.
//!
//! Reads the process table once for all that are asked about. It keeps nothing, and never waits.

use std::time::Duration;

use super::held;

/// What one server with everything below it takes; its keeper is not counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Processes.
    pub processes: usize,
    /// Resident memory in bytes; what several of them share counts for each.
    pub resident: u64,
    /// The server's own process; none where it is gone.
    pub server: Option<u32>,
    /// The keeper above it, where servers have one.
    pub keeper: Option<u32>,
    /// Time on processors so far, of those that run now and those they have waited for.
    pub cpu: Duration,
}

/// One server as the process table shows it.
#[derive(Debug, Default)]
pub(super) struct Family {
    /// Its own process.
    pub(super) server: Option<u32>,
    /// For each process: what it holds in memory, and its time on processors.
    pub(super) taken: Vec<(u64, Duration)>,
}

/// What each of these takes; `keepers` are the ids that [`super::Process::pid`] names.
pub fn of(keepers: &[u32]) -> Vec<Usage> {
    held::taken(keepers)
        .into_iter()
        .zip(keepers)
        .map(|(Family { server, taken }, id)| {
            let mut usage = Usage {
                server,
                keeper: (server != Some(*id)).then_some(*id),
                ..Usage::default()
            };
            for (resident, cpu) in taken {
                usage.processes += 1;
                usage.resident += resident;
                usage.cpu += cpu;
            }
            usage
        })
        .collect()
}
