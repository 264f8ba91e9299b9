//! What running servers take of the machine, as `/proc` shows it.
//!
//! Reads the process table once for all that are asked about. It keeps nothing, and never waits.

use std::fs;
use std::time::Duration;

use rustix::param::{clock_ticks_per_second, page_size};
use rustix::process::Pid;

use super::tree;

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
    let roots: Vec<Option<Pid>> = keepers
        .iter()
        .map(|pid| Pid::from_raw(i32::try_from(*pid).ok()?))
        .collect();
    let families = tree::families(&roots);
    let sum = |family: Vec<tree::Kin>| {
        let mut usage = Usage::default();
        for stat in family.iter().filter_map(|kin| read(kin.pid())) {
            usage.processes += 1;
            usage.resident += stat.resident;
            usage.cpu += stat.cpu;
        }
        usage
    };
    families.into_iter().map(sum).collect()
}

struct Stat {
    resident: u64,
    cpu: Duration,
}

fn read(pid: Pid) -> Option<Stat> {
    let stat = fs::read_to_string(format!("/proc/{}/stat", pid.as_raw_nonzero())).ok()?;
    parse(&stat)
}

/// Fields 14 to 17 (time) and 24 (pages) of proc(5); the name before them may hold anything.
fn parse(stat: &str) -> Option<Stat> {
    let (_, rest) = stat.rsplit_once(')')?;
    let fields: Vec<&str> = rest.split_ascii_whitespace().collect();
    // The first field after the name is the third.
    let number = |field: usize| fields.get(field - 3)?.parse::<u64>().ok();
    let ticks: u64 = (14..=17).filter_map(number).sum();
    let milliseconds = ticks.saturating_mul(1000) / clock_ticks_per_second().max(1);
    Some(Stat {
        resident: number(24)?.saturating_mul(page_size() as u64),
        cpu: Duration::from_millis(milliseconds),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_fields_are_those_of_the_manual() {
        let stat = "42 (a) b) R 4 5 6 0 -1 4194560 96 0 0 0 100 20 3 4 20 0 1 0 777 3000 7 5";
        let stat = parse(stat).expect("it parses");
        assert_eq!(stat.resident, 7 * page_size() as u64);
        let ticks = clock_ticks_per_second();
        assert_eq!(stat.cpu, Duration::from_millis(127 * 1000 / ticks));
        for nonsense in ["", "42 (a", "42 (a) R 1 2"] {
            assert!(parse(nonsense).is_none(), "{nonsense}");
        }
    }
}
