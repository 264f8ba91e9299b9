//! Process ids of their own for a server's tree: when the first process of a namespace ends, the
//! kernel ends all others in it, wherever they have gone.
//!
//! Entered by the keeper (`native`) before it starts the first process, and kept by the shim, which
//! is that process. Where root may not make one, a user namespace that maps the user to itself may.

use std::fs::File;
use std::io;
use std::process::{Child, ExitCode};

use rustix::io::Errno;
use rustix::process::{Pid, WaitOptions, wait};

use super::keep;

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
