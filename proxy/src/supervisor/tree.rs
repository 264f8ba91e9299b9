//! Who descends from whom, and signals that hit the right one.
//!
//! Used by the keeper, which kills what it kept, and by chillgate when a keeper itself is gone. The
//! table is read by [`native`]; when and why somebody is signalled is decided elsewhere.

use std::collections::HashMap;
use std::fmt;

use rustix::process::{Pid, Signal, getpid};

use super::native::{self, find, table};

/// A process as it was when the table was read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Kin {
    pub(super) pid: Pid,
    pub(super) parent: i32,
    pub(super) session: i32,
    /// When it started, in what the system counts that in: with the pid it names one process for
    /// ever.
    pub(super) started: u64,
}

/// Everything below `root`, parents before their children; zombies, which nothing can hurt, are
/// left out. Empty as well when the table cannot be read.
pub(crate) fn descendants(root: Pid) -> Vec<Kin> {
    families(&[Some(root)]).pop().unwrap_or_default()
}

/// What a keeper keeps: everything below it, and where the system gives it no orphans, everything
/// in its session.
pub(crate) fn kept(keeper: Pid) -> Vec<Kin> {
    let mut found = descendants(keeper);
    if !native::ADOPTS {
        let mut session = of_session(keeper);
        session.retain(|kin| kin.pid != keeper && !found.contains(kin));
        found.extend(session);
    }
    found
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

/// Children of this process that are none of its keepers, with all below them: who began before
/// `since` is left out.
pub(crate) fn adopted(is_keeper: impl Fn(Pid) -> bool, since: u64) -> Vec<Kin> {
    let me = getpid().as_raw_nonzero().get();
    let mut strangers = table();
    strangers.retain(|kin| kin.parent == me && kin.started >= since && !is_keeper(kin.pid));
    let roots: Vec<_> = strangers.iter().map(|kin| Some(kin.pid)).collect();
    strangers.extend(families(&roots).into_iter().flatten());
    strangers
}

/// Everything in the session `leader` once made, even when the leader is gone.
pub(crate) fn of_session(leader: Pid) -> Vec<Kin> {
    let mut found = table();
    found.retain(|kin| kin.session == leader.as_raw_nonzero().get());
    found
}

impl Kin {
    /// Signals this process and never another that got its number meanwhile. A process that is
    /// gone already is no failure.
    pub(crate) fn signal(&self, signal: Signal) {
        native::signal(self.pid, signal, || self.is_still_itself());
    }

    fn is_still_itself(&self) -> bool {
        is_running(self.pid, self.started)
    }
}

/// `node (4711)`, by the name the process gave itself.
impl fmt::Display for Kin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let pid = self.pid.as_raw_nonzero();
        let name = native::name(self.pid);
        write!(f, "{} ({pid})", name.trim_end().escape_debug())
    }
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

#[cfg(test)]
mod tests {
    use super::*;

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
