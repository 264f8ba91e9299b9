//! macOS: the process table by a library, and no adoption, death signal or namespace.
//!
//! What a server leaves behind is found by its session, which is the keeper's; who leaves that as
//! well is lost sight of. Nothing is decided here.

use std::ffi::OsStr;
use std::io;
use std::path::PathBuf;
use std::time::Duration;

use rustix::process::{Pid, Signal, getppid, kill_process};
use sysinfo::{Process, ProcessRefreshKind, ProcessStatus, ProcessesToUpdate, System, UpdateKind};

use super::super::given::Bound;
use super::super::tree::Kin;

/// Whether the kernel tells a process that its parent has died.
pub(in crate::supervisor) const HAS_DEATH_SIGNAL: bool = false;
/// Whether a keeper becomes the parent of what a server leaves behind.
pub(in crate::supervisor) const ADOPTS: bool = false;
/// How memory is bounded without a control group.
pub(in crate::supervisor) const MEMORY: Bound = Bound::Nothing("macOS bounds no process's memory");

/// The file of the running program.
pub(in crate::supervisor) fn own_binary() -> PathBuf {
    std::env::current_exe().unwrap_or_else(|_| PathBuf::from("chillgate"))
}

/// Whoever loses its parent becomes the child of the first process, whatever is asked.
#[expect(clippy::unnecessary_wraps, reason = "elsewhere the kernel may refuse")]
pub(in crate::supervisor) fn adopt() -> io::Result<()> {
    Ok(())
}

/// No signal comes: the keeper watches a pipe instead, and the server is the keeper's to end.
#[expect(clippy::unnecessary_wraps, reason = "elsewhere the kernel may refuse")]
pub(in crate::supervisor) fn when_parent_dies(_: Signal) -> io::Result<()> {
    Ok(())
}

/// The parent.
pub(in crate::supervisor) fn parent() -> Option<i32> {
    getppid().map(|pid| pid.as_raw_nonzero().get())
}

/// There are no process namespaces.
pub(in crate::supervisor) fn enter_namespace() -> io::Result<()> {
    Err(io::ErrorKind::Unsupported.into())
}

/// Signals a process that is still the one that was meant.
pub(in crate::supervisor) fn signal(pid: Pid, signal: Signal, is_still_itself: impl Fn() -> bool) {
    if is_still_itself() {
        let _ = kill_process(pid, signal);
    }
}

/// The name of its program.
pub(in crate::supervisor) fn name(pid: Pid) -> String {
    let name = |process: &Process| process.name().to_string_lossy().into_owned();
    look(pid, ProcessRefreshKind::nothing(), name).unwrap_or_default()
}

/// A variable in the environment that a process of this user began with.
pub(in crate::supervisor) fn variable(pid: Pid, name: &str) -> Option<String> {
    let wanted = ProcessRefreshKind::nothing().with_environ(UpdateKind::Always);
    look(pid, wanted, |process| {
        process.environ().iter().find_map(|variable| {
            let (found, value) = variable.to_str()?.split_once('=')?;
            (OsStr::new(found) == name).then(|| value.to_owned())
        })
    })?
}

/// Which boot: after another the numbers mean other processes.
pub(in crate::supervisor) fn here() -> String {
    System::boot_time().unwrap_or_default().to_string()
}

/// The process with this id, unless there is none or it is a zombie.
pub(in crate::supervisor) fn find(pid: Pid) -> Option<Kin> {
    look(pid, ProcessRefreshKind::nothing(), kin)?
}

/// Every process there is, zombies left out.
pub(in crate::supervisor) fn table() -> Vec<Kin> {
    let Ok(mut system) = System::new() else {
        return Vec::new();
    };
    let all = ProcessRefreshKind::nothing();
    system.refresh_processes_specifics(ProcessesToUpdate::All, false, all);
    system.processes().values().filter_map(kin).collect()
}

/// Nobody: what loses its parent here becomes a child of the first process.
pub(in crate::supervisor) fn dead_below(_: Pid) -> Vec<Kin> {
    Vec::new()
}

/// What each of these holds in memory, and how long it has run on a processor; who is gone is left
/// out.
pub(in crate::supervisor) fn taken(pids: &[Pid]) -> Vec<(u64, Duration)> {
    let wanted = ProcessRefreshKind::nothing().with_memory().with_cpu();
    let of = |process: &Process| {
        let cpu = Duration::from_millis(process.accumulated_cpu_time());
        (process.memory(), cpu)
    };
    let each = pids.iter().filter_map(|pid| look(*pid, wanted, of));
    each.collect()
}

fn kin(process: &Process) -> Option<Kin> {
    if matches!(
        process.status(),
        ProcessStatus::Zombie | ProcessStatus::Dead
    ) {
        return None;
    }
    let number = |pid: sysinfo::Pid| i32::try_from(pid.as_u32()).ok();
    Some(Kin {
        pid: Pid::from_raw(number(process.pid())?)?,
        parent: process.parent().and_then(number).unwrap_or_default(),
        session: process.session_id().and_then(number).unwrap_or_default(),
        started: process.start_time(),
    })
}

fn look<T>(pid: Pid, wanted: ProcessRefreshKind, tell: impl Fn(&Process) -> T) -> Option<T> {
    let pid = sysinfo::Pid::from_u32(pid.as_raw_nonzero().get().unsigned_abs());
    let mut system = System::new().ok()?;
    system.refresh_processes_specifics(ProcessesToUpdate::Some(&[pid]), false, wanted);
    system.process(pid).map(tell)
}
