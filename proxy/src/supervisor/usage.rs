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
    /// Time on processors so far, of those that run now and those they have waited for.
    pub cpu: Duration,
}

/// What each of these takes; `keepers` are the ids that [`super::Process::pid`] names.
pub fn of(keepers: &[u32]) -> Vec<Usage> {
    held::taken(keepers)
        .into_iter()
        .map(|family| {
            let mut usage = Usage::default();
            for (resident, cpu) in family {
                usage.processes += 1;
                usage.resident += resident;
                usage.cpu += cpu;
            }
            usage
        })
        .collect()
}
