//! Who descends from whom: the process table as `/proc` shows it, and signals that hit the right one.
//!
//! Used by the keeper, which kills what it kept, and by chillgate when a keeper itself is gone. It
//! reads and signals; when and why is decided elsewhere.

use std::collections::HashMap;
use std::fmt;
use std::fs;

use rustix::process::{
    Pid, PidfdFlags, Signal, getpid, kill_process, pidfd_open, pidfd_send_signal,
};

/// A process as it was when the table was read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Kin {
    pid: Pid,
    parent: i32,
    session: i32,
    /// Start time in clock ticks since boot: with the pid it names one process for ever.
    started: u64,
}

/// Everything below `root`, parents before their children; zombies, which nothing can hurt, are
/// left out. Empty as well when `/proc` cannot be read.
pub(crate) fn descendants(root: Pid) -> Vec<Kin> {
    families(&[Some(root)]).pop().unwrap_or_default()
}

/// The same for several, from one look at the table.
pub(crate) fn families(roots: &[Option<Pid>]) -> Vec<Vec<Kin>> {
    let mut children: HashMap<i32, Vec<Kin>> = HashMap::new();
    for kin in table() {
        children.entry(kin.parent).or_default().push(kin);
    }
    let mut family = |root: &Option<Pid>| {
        // Each list is taken out once, so that even a table read mid-change cannot loop.
        let mut below = |pid: Pid| children.remove(&pid.as_raw_nonzero().get());
        let mut found = root.and_then(&mut below).unwrap_or_default();
        let mut next = 0;
        while let Some(kin) = found.get(next) {
            let more = below(kin.pid);
            found.extend(more.unwrap_or_default());
            next += 1;
        }
        found
    };
    roots.iter().map(&mut family).collect()
}

/// Everything in the session `leader` once made, even when the leader is gone.
pub(crate) fn of_session(leader: Pid) -> Vec<Kin> {
    let mut found = table();
    found.retain(|kin| kin.session == leader.as_raw_nonzero().get());
    found
}

impl Kin {
    /// Its number, which may be another's by now.
    pub(crate) fn pid(&self) -> Pid {
        self.pid
    }

    pub(super) fn session(&self) -> i32 {
        self.session
    }

    pub(super) fn started(&self) -> u64 {
        self.started
    }

    /// Signals this process and never another that got its number meanwhile. A process that is
    /// gone already is no failure.
    pub(crate) fn signal(&self, signal: Signal) {
        let Ok(pidfd) = pidfd_open(self.pid, PidfdFlags::empty()) else {
            // Gone, or a kernel without pidfds (before 5.3): then the check below is all there is.
            if self.is_still_itself() {
                let _ = kill_process(self.pid, signal);
            }
            return;
        };
        if self.is_still_itself() {
            let _ = pidfd_send_signal(&pidfd, signal);
        }
    }

    fn is_still_itself(&self) -> bool {
        is_running(self.pid, self.started)
    }
}

/// The parent in the text of a `/proc/PID/stat`.
pub(super) fn parent(stat: &[u8]) -> Option<i32> {
    parse(stat).map(|kin| kin.parent)
}

/// `node (4711)`, by the name the process gave itself.
impl fmt::Display for Kin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let pid = self.pid.as_raw_nonzero();
        let name = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
        write!(f, "{} ({pid})", name.trim_end().escape_debug())
    }
}

/// The process with this id, unless there is none or it is a zombie.
pub(super) fn find(pid: Pid) -> Option<Kin> {
    let stat = fs::read(format!("/proc/{}/stat", pid.as_raw_nonzero())).ok()?;
    parse(&stat)
}

/// Whether the process that began then still runs under this id.
pub(super) fn is_running(pid: Pid, started: u64) -> bool {
    find(pid).is_some_and(|kin| kin.started == started)
}

/// This process's id and start.
pub(super) fn this_process() -> (Pid, u64) {
    let pid = getpid();
    (pid, find(pid).map_or(0, |kin| kin.started))
}

/// Every process there is, zombies left out.
pub(super) fn table() -> Vec<Kin> {
    let Ok(entries) = fs::read_dir("/proc") else {
        return Vec::new();
    };
    entries
        .filter_map(Result::ok)
        .filter(|entry| {
            entry
                .file_name()
                .as_encoded_bytes()
                .iter()
                .all(u8::is_ascii_digit)
        })
        .filter_map(|entry| fs::read(entry.path().join("stat")).ok())
        .filter_map(|stat| parse(&stat))
        .collect()
}

/// `pid (comm) state ppid pgrp session …`; `comm` is anything, brackets and spaces included.
fn parse(stat: &[u8]) -> Option<Kin> {
    let close = memchr::memrchr(b')', stat)?;
    let open = memchr::memchr(b'(', stat)?;
    let pid = std::str::from_utf8(stat.get(..open)?)
        .ok()?
        .trim()
        .parse()
        .ok()?;
    let rest = std::str::from_utf8(stat.get(close + 1..)?).ok()?;
    let mut fields = rest.split_ascii_whitespace();
    let state = fields.next()?;
    if matches!(state, "Z" | "X" | "x") {
        return None;
    }
    let parent = fields.next()?.parse().ok()?;
    let session = fields.nth(1)?.parse().ok()?;
    // Field 22 of proc(5): fifteen lie between it and the session, field 6.
    let started = fields.nth(15)?.parse().ok()?;
    Some(Kin {
        pid: Pid::from_raw(pid)?,
        parent,
        session,
        started,
    })
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
    fn the_table_knows_this_process_and_its_start() {
        let me = rustix::process::getpid();
        let kin = table()
            .into_iter()
            .find(|kin| kin.pid == me)
            .expect("this process is listed");
        assert!(kin.is_still_itself());
        assert!(
            !Kin {
                started: kin.started + 1,
                ..kin
            }
            .is_still_itself()
        );
    }
}
