//! How many descriptors chillgate may have open: as many as the system lets it take.
//!
//! Systems start programs with a low bound that each may raise by itself, kept low for those that
//! cannot count further (`select(2)` ends at 1024). chillgate can, and holds a descriptor for each
//! host; its servers may be such programs and get back what chillgate was given. It never asks for
//! more than it was allowed.

use std::io;
use std::sync::OnceLock;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// What the process was given, once it was raised.
static BEFORE: OnceLock<u64> = OnceLock::new();

/// Takes as many as it may have. Done once, before anything is started; a system that says no is
/// left as it is.
pub(super) fn raise() {
    let given = getrlimit(Resource::Nofile);
    let Some(current) = given.current else {
        return;
    };
    if given.maximum.is_some_and(|most| most <= current) {
        return;
    }
    let all = Rlimit {
        current: given.maximum,
        maximum: given.maximum,
    };
    if setrlimit(Resource::Nofile, all).is_ok() {
        let _ = BEFORE.set(current);
    }
}

/// What servers get; `None` where nothing was raised.
pub(super) fn before() -> Option<u64> {
    BEFORE.get().copied()
}

/// Bounds this process and what it becomes, which may raise it again as far as it is allowed.
pub(super) fn lower(soft: u64) -> io::Result<()> {
    let maximum = getrlimit(Resource::Nofile).maximum;
    let current = Some(maximum.map_or(soft, |most| most.min(soft)));
    Ok(setrlimit(Resource::Nofile, Rlimit { current, maximum })?)
}
