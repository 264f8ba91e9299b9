//! Process ids of their own for a server's tree: when the first process of a namespace ends, the
//! kernel ends all others in it, wherever they have gone.
//!
//! Entered by the keeper before it starts the first process, and kept by the shim, which is that
//! process. Where root may not make one, a user namespace that maps the user to itself may.

use std::fs::{self, File};
use std::io;
use std::process::{Child, ExitCode};

use nix::sched::{CloneFlags, unshare};
use rustix::io::Errno;
use rustix::process::{Pid, WaitOptions, getgid, getuid, wait};

use super::keep;

/// Children of this process will be in a new process namespace, beginning with the next. Only for
/// a process without threads.
pub(super) fn enter() -> io::Result<()> {
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

/// `/dev/null`, opened while the sandbox does not yet hold.
pub(super) struct Null(File);

impl Null {
    pub(super) fn open() -> io::Result<Self> {
        let null = File::options().read(true).write(true).open("/dev/null")?;
        Ok(Self(null))
    }

    /// In the place of this process's pipes, so that they end when the server does.
    pub(super) fn replace_pipes(&self) -> io::Result<()> {
        rustix::stdio::dup2_stdin(&self.0)?;
        rustix::stdio::dup2_stdout(&self.0)?;
        rustix::stdio::dup2_stderr(&self.0)?;
        Ok(())
    }
}

/// Buries whoever ends in the namespace until the server does; ends as it did, and with it all
/// that is left.
pub(super) fn stand_first(server: &Child, null: Null) -> io::Result<ExitCode> {
    null.replace_pipes()?;
    drop(null);
    let server = i32::try_from(server.id()).ok().and_then(Pid::from_raw);
    loop {
        match wait(WaitOptions::empty()) {
            Ok(Some((pid, status))) if Some(pid) == server => {
                return Ok(ExitCode::from(keep::code_of(status)));
            }
            Ok(_) | Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}
