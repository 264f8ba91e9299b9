//! Linux: `/proc`, pidfds, `prctl` and `unshare`.
//!
//! Reads the process table and asks the kernel for what only Linux has. Nothing is decided here.

use std::fs;
use std::io;
use std::path::PathBuf;
use std::time::Duration;

use nix::sched::{CloneFlags, unshare};
use rustix::param::{clock_ticks_per_second, page_size};
use rustix::process::{
    Pid, PidfdFlags, Signal, getgid, getpid, getuid, kill_process, pidfd_open, pidfd_send_signal,
    set_child_subreaper, set_parent_process_death_signal,
};

use super::super::given::Bound;
use super::super::tree::Kin;

/// Whether the kernel tells a process that its parent has died.
pub(in crate::supervisor) const HAS_DEATH_SIGNAL: bool = true;
/// Whether a keeper becomes the parent of what a server leaves behind.
pub(in crate::supervisor) const ADOPTS: bool = true;
/// How memory is bounded without a control group.
pub(in crate::supervisor) const MEMORY: Bound = Bound::Process("RLIMIT_DATA");

/// The running program, even where its file was replaced by an upgrade.
pub(in crate::supervisor) fn own_binary() -> PathBuf {
    PathBuf::from("/proc/self/exe")
}

/// Whatever loses its parent below this process becomes its child.
pub(in crate::supervisor) fn adopt() -> io::Result<()> {
    Ok(set_child_subreaper(Some(getpid()))?)
}

/// This process gets the signal when its parent dies, also when only the thread does that made it.
pub(in crate::supervisor) fn when_parent_dies(signal: Signal) -> io::Result<()> {
    Ok(set_parent_process_death_signal(Some(signal))?)
}

/// The parent as `/proc` numbers it, which is not the namespace of this process.
pub(in crate::supervisor) fn parent() -> Option<i32> {
    let stat = fs::read("/proc/self/stat").ok()?;
    parse(&stat).map(|kin| kin.parent)
}

/// Children of this process will be in a new process namespace, beginning with the next. Only for
/// a process without threads.
pub(in crate::supervisor) fn enter_namespace() -> io::Result<()> {
    match unshare(CloneFlags::CLONE_NEWPID) {
        Ok(()) => return Ok(()),
        Err(nix::errno::Errno::EPERM) => {}
        Err(error) => return Err(error.into()),
    }
    let (user, group) = (getuid().as_raw(), getgid().as_raw());
    unshare(CloneFlags::CLONE_NEWUSER | CloneFlags::CLONE_NEWPID)?;
    // Without this the kernel lets nobody without rights map a group.
    fs::write("/proc/self/setgroups", "deny")?;
    fs::write("/proc/self/uid_map", format!("{user} {user} 1"))?;
    fs::write("/proc/self/gid_map", format!("{group} {group} 1"))
}

/// Signals a process that is still the one that was meant, and never another that got its number
/// meanwhile.
pub(in crate::supervisor) fn signal(pid: Pid, signal: Signal, is_still_itself: impl Fn() -> bool) {
    let Ok(pidfd) = pidfd_open(pid, PidfdFlags::empty()) else {
        // Gone, or a kernel without pidfds (before 5.3): then the check below is all there is.
        if is_still_itself() {
            let _ = kill_process(pid, signal);
        }
        return;
    };
    if is_still_itself() {
        let _ = pidfd_send_signal(&pidfd, signal);
    }
}

/// The name a process gave itself.
pub(in crate::supervisor) fn name(pid: Pid) -> String {
    fs::read_to_string(format!("/proc/{}/comm", pid.as_raw_nonzero())).unwrap_or_default()
}

/// A variable in the environment that a process began with.
pub(in crate::supervisor) fn variable(pid: Pid, name: &str) -> Option<String> {
    let environ = fs::read(format!("/proc/{}/environ", pid.as_raw_nonzero())).ok()?;
    let value = environ.split(|byte| *byte == 0).find_map(|variable| {
        let value = variable.strip_prefix(name.as_bytes())?;
        value.strip_prefix(b"=")
    })?;
    String::from_utf8(value.to_vec()).ok()
}

/// Which boot, and which process namespace: elsewhere the numbers mean other processes.
pub(in crate::supervisor) fn here() -> String {
    let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    let space = fs::read_link("/proc/self/ns/pid").unwrap_or_default();
    let digits = |text: &str| -> String { text.chars().filter(char::is_ascii_digit).collect() };
    let boot: String = boot.chars().filter(char::is_ascii_hexdigit).collect();
    format!("{boot}-{}", digits(&space.to_string_lossy()))
}

/// The process with this id, unless there is none or it is a zombie.
pub(in crate::supervisor) fn find(pid: Pid) -> Option<Kin> {
    let stat = fs::read(format!("/proc/{}/stat", pid.as_raw_nonzero())).ok()?;
    parse(&stat)
}

/// Every process there is, zombies left out.
pub(in crate::supervisor) fn table() -> Vec<Kin> {
    stats().filter_map(|stat| parse(&stat)).collect()
}

/// Children of `parent` that are dead, and not buried.
pub(in crate::supervisor) fn dead_below(parent: Pid) -> Vec<Kin> {
    let parent = parent.as_raw_nonzero().get();
    let all = stats().filter_map(|stat| parse_any(&stat));
    let dead = all.filter(|(kin, is_dead)| *is_dead && kin.parent == parent);
    dead.map(|(kin, _)| kin).collect()
}

fn stats() -> impl Iterator<Item = Vec<u8>> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    let is_process = |name: &[u8]| name.iter().all(u8::is_ascii_digit);
    entries
        .filter(move |entry| is_process(entry.file_name().as_encoded_bytes()))
        .filter_map(|entry| fs::read(entry.path().join("stat")).ok())
}

fn parse(stat: &[u8]) -> Option<Kin> {
    let (kin, is_dead) = parse_any(stat)?;
    (!is_dead).then_some(kin)
}

/// `pid (comm) state ppid pgrp session …`; `comm` is anything, brackets and spaces included. Whether
/// it is dead besides.
fn parse_any(stat: &[u8]) -> Option<(Kin, bool)> {
    let close = memchr::memrchr(b')', stat)?;
    let open = memchr::memchr(b'(', stat)?;
    let pid = std::str::from_utf8(stat.get(..open)?)
        .ok()?
        .trim()
        .parse()
        .ok()?;
    let rest = std::str::from_utf8(stat.get(close + 1..)?).ok()?;
    let mut fields = rest.split_ascii_whitespace();
    let is_dead = matches!(fields.next()?, "Z" | "X" | "x");
    let parent = fields.next()?.parse().ok()?;
    let session = fields.nth(1)?.parse().ok()?;
    // Field 22 of proc(5): fifteen lie between it and the session, field 6.
    let started = fields.nth(15)?.parse().ok()?;
    let kin = Kin {
        pid: Pid::from_raw(pid)?,
        parent,
        session,
        started,
    };
    Some((kin, is_dead))
}

/// What each of these holds in memory, and how long it has run on a processor; who is gone is left
/// out.
pub(in crate::supervisor) fn taken(pids: &[Pid]) -> Vec<(u64, Duration)> {
    let read = |pid: &Pid| {
        let stat = fs::read_to_string(format!("/proc/{}/stat", pid.as_raw_nonzero())).ok()?;
        parse_taken(&stat)
    };
    pids.iter().filter_map(read).collect()
}

/// Fields 14 to 17 (time) and 24 (pages) of proc(5); the name before them may hold anything.
fn parse_taken(stat: &str) -> Option<(u64, Duration)> {
    let (_, rest) = stat.rsplit_once(')')?;
    let fields: Vec<&str> = rest.split_ascii_whitespace().collect();
    // The first field after the name is the third.
    let number = |field: usize| fields.get(field - 3)?.parse::<u64>().ok();
    let ticks: u64 = (14..=17).filter_map(number).sum();
    let milliseconds = ticks.saturating_mul(1000) / clock_ticks_per_second().max(1);
    let resident = number(24)?.saturating_mul(page_size() as u64);
    Some((resident, Duration::from_millis(milliseconds)))
}

#[cfg(test)]
mod tests {
    use super::*;

    const REST: &str = "4 5 6 0 -1 4194560 96 0 0 0 1 2 3 4 20 0 1 0 777 3 4 5";

    #[test]
    fn a_name_with_brackets_and_spaces_fools_nobody() {
        let kin = parse(format!("42 (a) b ((c) R {REST}").as_bytes()).expect("it parses");
        assert_eq!(
            (kin.pid.as_raw_nonzero().get(), kin.parent, kin.session),
            (42, 4, 6)
        );
        assert_eq!(kin.started, 777);
    }

    #[test]
    fn zombies_and_nonsense_are_nobody() {
        assert_eq!(parse(format!("42 (sh) Z {REST}").as_bytes()), None);
        for nonsense in [
            "",
            "42",
            "42 (",
            "x (sh) R 1 2 3",
            "42 )sh( R",
            "0 (sh) R 1",
        ] {
            assert_eq!(parse(nonsense.as_bytes()), None, "{nonsense}");
        }
    }

    #[test]
    fn the_fields_are_those_of_the_manual() {
        let stat = "42 (a) b) R 4 5 6 0 -1 4194560 96 0 0 0 100 20 3 4 20 0 1 0 777 3000 7 5";
        let (resident, cpu) = parse_taken(stat).expect("it parses");
        assert_eq!(resident, 7 * page_size() as u64);
        let ticks = clock_ticks_per_second();
        assert_eq!(cpu, Duration::from_millis(127 * 1000 / ticks));
        for nonsense in ["", "42 (a", "42 (a) R 1 2"] {
            assert!(parse_taken(nonsense).is_none(), "{nonsense}");
        }
    }
}
