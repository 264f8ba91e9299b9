//! How a server is held on Windows: in a job object, which the kernel empties when its last handle is
//! closed. That is chillgate's, so nothing outlives chillgate, however it ends.
//!
//! The server is put into the job before it runs its first instruction. There is no signal that asks
//! a program to end: after its input was closed and its time is up, it is ended. The spine of the
//! supervisor knows this file and its sibling for Unix under one name.

use std::ffi::OsString;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{ExitCode, ExitStatus, Stdio};
use std::time::Duration;

use process_wrap::tokio::{ChildWrapper, CommandWrap, CreationFlags, JobObject, KillOnDrop};
use sysinfo::{ProcessRefreshKind, ProcessesToUpdate, System};
use tokio::process::{ChildStderr, ChildStdin, ChildStdout, Command};
use tracing::warn;
use windows::Win32::System::Threading::CREATE_NO_WINDOW;

use super::given::{Bound, Given, Sandboxed};
use super::sandbox::{self, kernel};
use super::usage::Family;
use super::{Launch, Leftovers, SpawnError, Status, program};
use crate::platform;

/// How long a tree has to be gone once it was ended.
pub(super) const PATIENCE: Duration = Duration::from_secs(1);

const UNBOUND: Bound = Bound::Nothing("chillgate bounds servers on Linux only");

/// A server that only wants starting.
pub(super) struct Prepared {
    program: PathBuf,
    pub(super) given: Given,
}

impl Prepared {
    pub(super) fn of(launch: &Launch) -> Result<Self, SpawnError> {
        let program = program::locate(launch)?;
        let built = launch.sandbox.as_ref().map(|wanted| {
            let temporary = sandbox::Temporary {
                folder: PathBuf::from(platform::temporary(&launch.env)),
                is_private: false,
            };
            let cwd = launch.cwd.clone();
            sandbox::build(wanted, kernel::kernel(), program.clone(), cwd, temporary)
        });
        let built = built.transpose().map_err(SpawnError::Sandbox)?;
        let limits = &launch.limits;
        let bound = |is_asked| if is_asked { UNBOUND } else { Bound::Unasked };
        let given = Given {
            memory: bound(limits.memory.is_some()),
            processes: bound(limits.processes.is_some()),
            cpu: bound(limits.cpu_weight.is_some()),
            sandbox: built.map(|built| Sandboxed {
                landlock: built.rules.landlock,
                seccomp: built.rules.seccomp,
                pid_namespace: built.pid_namespace,
                own_temporary: false,
                missing: built.missing,
            }),
        };
        Ok(Self { program, given })
    }
}

/// Nothing is left behind, so nothing is noted.
#[expect(clippy::unnecessary_wraps, reason = "elsewhere a folder is written")]
pub(super) fn remember_in(_: &Path) -> io::Result<Leftovers> {
    Ok(Leftovers::default())
}

/// There is no such bound.
pub(super) fn take_descriptors() {}

/// Chillgate does not start itself here.
pub(super) fn own_verb(_: impl Iterator<Item = OsString>) -> Option<ExitCode> {
    None
}

/// A server's tree.
#[derive(Debug)]
pub(super) struct Hold {
    pid: u32,
    child: Box<dyn ChildWrapper>,
}

impl Hold {
    pub(super) fn start(
        launch: &Launch,
        prepared: Prepared,
        input: Stdio,
    ) -> Result<Self, SpawnError> {
        let Prepared { program, .. } = prepared;
        let child = CommandWrap::from(command(launch, program, input))
            // No window pops up, and a Ctrl-C in chillgate's is for chillgate alone.
            .wrap(CreationFlags(CREATE_NO_WINDOW))
            .wrap(KillOnDrop)
            .wrap(JobObject)
            .spawn()
            .map_err(SpawnError::Keeper)?;
        let pid = child.id().ok_or_else(SpawnError::without_pipes)?;
        Ok(Self { pid, child })
    }

    pub(super) fn pid(&self) -> u32 {
        self.pid
    }

    pub(super) fn take_input(&mut self) -> Option<ChildStdin> {
        self.child.stdin().take()
    }

    pub(super) fn take_output(&mut self) -> Option<ChildStdout> {
        self.child.stdout().take()
    }

    pub(super) fn take_errors(&mut self) -> Option<ChildStderr> {
        self.child.stderr().take()
    }

    /// Waits until the server is gone, and ends what it left behind. Can be cancelled and called
    /// again.
    pub(super) async fn wait(&mut self, _: &str) -> Status {
        let ended = self.child.wait().await;
        let _ = self.child.start_kill();
        ended.map_or(Status::Unknown, Status::from)
    }

    /// Ends the whole tree: nothing milder would be understood by all programs.
    pub(super) fn tell(&mut self) {
        let _ = self.child.start_kill();
    }

    /// The same again, said this time.
    #[expect(clippy::unused_async, reason = "a keeper takes its time")]
    pub(super) async fn end_by_force(&mut self, server: &str) {
        warn!(%server, pid = self.pid, "The server did not end in time; ending it again.");
        self.tell();
    }
}

#[expect(
    clippy::disallowed_methods,
    reason = "the supervisor is where processes are started"
)]
fn command(launch: &Launch, program: PathBuf, input: Stdio) -> Command {
    // Arguments of a .cmd or .bat are quoted for its shell by the standard library, or refused.
    let mut command = Command::new(program);
    command
        .args(launch.command.iter().skip(1))
        .env_clear()
        .envs(launch.env.iter().map(|(name, value)| (name, value)))
        .stdin(input)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    if let Some(cwd) = &launch.cwd {
        command.current_dir(cwd);
    }
    command
}

/// For each server: itself, what it and each process below it holds in memory, and its time on processors.
pub(super) fn taken(servers: &[u32]) -> Vec<Family> {
    let Ok(mut system) = System::new() else {
        return servers.iter().map(|_| Family::default()).collect();
    };
    let wanted = ProcessRefreshKind::nothing().with_memory().with_cpu();
    system.refresh_processes_specifics(ProcessesToUpdate::All, false, wanted);
    let family = |server: &u32| {
        let mut ids = vec![sysinfo::Pid::from_u32(*server)];
        let mut next = 0;
        while let Some(parent) = ids.get(next).copied() {
            let below = system.processes().values().filter(|process| {
                process.parent() == Some(parent) && !ids.contains(&process.pid())
            });
            let below: Vec<_> = below.map(sysinfo::Process::pid).collect();
            ids.extend(below);
            next += 1;
        }
        ids.iter()
            .filter_map(|id| system.process(*id))
            .map(|process| {
                let cpu = Duration::from_millis(process.accumulated_cpu_time());
                (process.memory(), cpu)
            })
            .collect()
    };
    servers
        .iter()
        .map(|server| Family {
            server: Some(*server),
            taken: family(server),
        })
        .collect()
}

/// There are codes only.
pub(super) fn ended(status: ExitStatus) -> Status {
    status.code().map_or(Status::Unknown, Status::Code)
}

/// There are no signals.
pub(super) fn signal_name(_: i32) -> Option<&'static str> {
    None
}
