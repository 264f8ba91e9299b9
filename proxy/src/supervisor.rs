//! Processes: the only place that starts them, and the one that sees them gone.
//!
//! A server is held together with all it starts ([`held`]), so that it outlives nothing and leaves
//! nothing behind; how that is done is the system's. This file starts it, watches it, and has it
//! ended. What travels over a server's pipes is none of its business; when to restart one is decided
//! by its caller.

use std::ffi::OsString;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{ExitCode, Stdio};
use std::sync::Arc;
use std::time::Duration;

use tokio::process::{ChildStdin, ChildStdout};
use tokio::time::timeout;
use tracing::{info, warn};

use crate::config::{Sandbox, ServerLimits};
use crate::incidents::Secrets;
use crate::telemetry::metrics::Metrics;

pub mod environment;
pub mod given;
mod program;
pub mod runbook;
mod sandbox;
mod status;
mod stderr;
pub mod tool;
pub mod usage;

// What holds a server's tree together: a keeper on Unix, a job on Windows.
#[cfg_attr(unix, path = "supervisor/held/keeper.rs")]
#[cfg_attr(windows, path = "supervisor/held/job.rs")]
mod held;
#[cfg_attr(windows, path = "supervisor/held/verbs.rs")]
pub mod keep;

// What a keeper is made of.
#[cfg(unix)]
mod cgroup;
#[cfg(unix)]
mod descriptors;
#[cfg(unix)]
pub mod exec;
#[cfg(unix)]
mod life;
#[cfg(unix)]
mod namespace;
#[cfg(unix)]
mod native;
#[cfg(unix)]
mod order;
#[cfg(unix)]
mod prepare;
#[cfg(unix)]
mod register;
#[cfg(unix)]
mod scratch;
#[cfg(unix)]
mod tree;

#[cfg(unix)]
pub use held::keep_with;
pub use sandbox::Kernel;
pub use sandbox::kernel::kernel;
pub use status::Status;
pub use stderr::Words;

use held::{Hold, Prepared};
use stderr::Stderr;

/// From closing a server's stdin to SIGTERM (MCP's stdio shutdown).
const FAREWELL: Duration = Duration::from_secs(2);

/// How long a server that closed its own pipes gets to be gone by itself, so that its own status
/// is told and not the one of our signal.
const SETTLE: Duration = Duration::from_millis(100);

/// How long a tree may still be there after it was ended by force.
const MARGIN: Duration = Duration::from_millis(300);

/// How long the rest of stderr is waited for once the server is gone.
const LAST_WORDS: Duration = Duration::from_millis(100);

/// A server to start.
#[derive(Clone, Debug, Default)]
pub struct Launch {
    /// The server's name, for logs and metrics.
    pub name: String,
    /// Program and arguments; never a shell line.
    pub command: Vec<String>,
    /// The complete environment, see [`environment::of`].
    pub env: Vec<(String, String)>,
    /// The working directory; chillgate's own if absent.
    pub cwd: Option<PathBuf>,
    /// What it may use up.
    pub limits: ServerLimits,
    /// What it may touch; everything if absent.
    pub sandbox: Option<Sandbox>,
    /// Whether the user has named its temporary folder; else a sandbox has one of its own.
    pub is_temporary_named: bool,
    /// What is taken out of everything that it writes to stderr.
    pub secrets: Secrets,
}

/// Why a server did not start.
#[derive(Debug, thiserror::Error)]
pub enum SpawnError {
    /// No program named.
    #[error("the command is empty; write command = [\"program\", \"argument\"]")]
    Empty,
    /// Not in any directory of PATH.
    #[error("\"{program}\" was not found in PATH={path}; install it or write its full path")]
    NotFound {
        /// As written.
        program: String,
        /// The server's PATH.
        path: String,
    },
    /// Named by a path where there is nothing.
    #[error("{} does not exist; check the path in `command`", .0.display())]
    Missing(PathBuf),
    /// A file without the right to execute it.
    #[error("{} is not executable; make it so with chmod +x, or name its interpreter first", .0.display())]
    NotExecutable(PathBuf),
    /// A directory.
    #[error("{} is a directory; name the program in it", .0.display())]
    IsDirectory(PathBuf),
    /// The working directory.
    #[error("{} is no directory to start in; create it or change `cwd`", .0.display())]
    Directory(PathBuf),
    /// What its sandbox wants is not to be had.
    #[error("{0}")]
    Sandbox(String),
    /// The system refused another process.
    #[error("the process could not be made: {0}; see the limits on processes and memory")]
    Keeper(io::Error),
}

impl SpawnError {
    fn without_pipes() -> Self {
        Self::Keeper(io::Error::other("it has no pipes"))
    }
}

/// What a start found of those before.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Leftovers {
    /// The command names and ids of processes that were ended.
    pub ended: Vec<String>,
}

/// What a program must do that was started by chillgate itself, to stand above or before a server;
/// `None` for all others. `args` are those after the program's name. To be called before `main` does
/// anything else.
pub fn own_verb(args: impl IntoIterator<Item = OsString>) -> Option<ExitCode> {
    held::own_verb(args.into_iter())
}

/// As many descriptors as the system gives are chillgate's from now on; its servers get what it was
/// given. Once, before anything is started.
pub fn take_descriptors() {
    held::take_descriptors();
}

/// Ends what chillgates that are dead left behind, and notes from now on what runs, so that the
/// next can do the same for this one. `state` is the folder of what outlives the process. Looks
/// through the process table; once, before the first server is started.
///
/// # Errors
/// When the folder cannot be written: then nothing is noted.
pub fn remember_in(state: &Path) -> io::Result<Leftovers> {
    held::remember_in(state)
}

/// Whether the program is there to be started, without starting it.
pub fn look_for(launch: &Launch) -> Result<(), SpawnError> {
    find(launch).map(drop)
}

/// Where the program is that would be started.
pub fn find(launch: &Launch) -> Result<PathBuf, SpawnError> {
    program::locate(launch)
}

/// Starts a server below a keeper. It runs when this returns, or did and ended: an unusable
/// interpreter, for one, shows as an early end whose cause is in [`Process::last_words`].
pub async fn spawn(launch: Launch, metrics: &Arc<Metrics>) -> Result<Process, SpawnError> {
    let mut started = start(launch, Stdio::piped()).await?;
    let (stdin, stdout) = (started.hold.take_input(), started.hold.take_output());
    let (Some(stdin), Some(stdout)) = (stdin, stdout) else {
        return Err(SpawnError::without_pipes());
    };
    let mut process = started.watched(metrics)?;
    process.stdin = Some(stdin);
    process.stdout = Some(stdout);
    Ok(process)
}

/// A tree that runs, in nobody's hands yet.
struct Started {
    name: Arc<str>,
    hold: Hold,
    secrets: Secrets,
}

impl Started {
    /// With its stderr read into chillgate's log.
    fn watched(mut self, metrics: &Arc<Metrics>) -> Result<Process, SpawnError> {
        let stderr = self.hold.take_errors();
        let stderr = stderr.ok_or_else(SpawnError::without_pipes)?;
        let secrets = std::mem::take(&mut self.secrets);
        let stderr = Stderr::drain(self.name.clone(), stderr, metrics.clone(), secrets);
        Ok(self.with(stderr))
    }

    fn with(self, stderr: Stderr) -> Process {
        Process {
            name: self.name,
            hold: self.hold,
            stdin: None,
            stdout: None,
            stderr,
            status: None,
        }
    }
}

async fn start(launch: Launch, input: Stdio) -> Result<Started, SpawnError> {
    let prepare = move || (Prepared::of(&launch), launch);
    let (prepared, launch) = tokio::task::spawn_blocking(prepare)
        .await
        .map_err(|error| SpawnError::Keeper(io::Error::other(error)))?;
    let prepared = prepared?;
    tell(&launch, &prepared);
    let hold = Hold::start(&launch, prepared, input)?;
    let secrets = launch.secrets;
    Ok(Started {
        name: Arc::from(launch.name),
        hold,
        secrets,
    })
}

/// Once for each server, and again when it changes.
fn tell(launch: &Launch, prepared: &Prepared) {
    let given = &prepared.given;
    if given.is_plain() || !given::remember(&launch.name, given) {
        return;
    }
    if given.is_short() {
        warn!(server = %launch.name, %given, "The server runs without all of its limits.");
    } else {
        info!(server = %launch.name, %given, "The server runs within limits.");
    }
}

/// A running server with everything below it. Dropping it ends the whole tree, without waiting.
#[derive(Debug)]
pub struct Process {
    name: Arc<str>,
    hold: Hold,
    stdin: Option<ChildStdin>,
    stdout: Option<ChildStdout>,
    stderr: Stderr,
    status: Option<Status>,
}

impl Process {
    /// The process id of what the tree hangs from: the keeper's where there is one, else the
    /// server's own.
    pub fn pid(&self) -> u32 {
        self.hold.pid()
    }

    /// The server's stdin and stdout, once.
    pub fn take_pipes(&mut self) -> Option<(ChildStdin, ChildStdout)> {
        Some((self.stdin.take()?, self.stdout.take()?))
    }

    /// What the server last wrote to stderr: at most 32 lines of at most 512 bytes, oldest first.
    pub fn last_words(&self) -> Vec<String> {
        self.stderr.last_words()
    }

    /// The same at any later moment, also for whoever does not own the process.
    pub fn words(&self) -> Words {
        self.stderr.words()
    }

    /// Waits until the server and everything below it is gone. Can be cancelled and called again.
    pub async fn wait(&mut self) -> Status {
        if let Some(status) = self.status {
            return status;
        }
        let status = self.hold.wait(&self.name).await;
        self.status = Some(status);
        self.stderr.finish(LAST_WORDS).await;
        status
    }

    /// Ends the server: stdin is closed, after 2 s SIGTERM, after another 3 s SIGKILL, each for
    /// the whole tree. Where the caller took the pipes it closes stdin itself and grants those 2 s;
    /// this then goes on with SIGTERM. Takes at most 6 s. Given up half-way, the rest is done by
    /// dropping.
    pub async fn stop(&mut self) -> Status {
        let patience = if self.stdin.take().is_some() {
            FAREWELL
        } else {
            SETTLE
        };
        if let Ok(status) = timeout(patience, self.wait()).await {
            return status;
        }
        self.hold.tell();
        if let Ok(status) = timeout(held::PATIENCE, self.wait()).await {
            return status;
        }
        self.hold.end_by_force(&self.name).await;
        timeout(MARGIN, self.wait())
            .await
            .unwrap_or(Status::Unknown)
    }
}
