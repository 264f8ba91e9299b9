//! Processes: the only place that starts them, and the one that sees them gone.
//!
//! A server runs under a keeper ([`keep`]) that outlives nothing and leaves nothing behind. This
//! file starts the keeper, tells it to end, and steps in should it fail to. What travels over a
//! server's pipes is none of its business; when to restart one is decided by its caller.

use std::io;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};
use tokio::time::timeout;
use tracing::{info, warn};

use crate::config::{Sandbox, ServerLimits};
use crate::incidents::Secrets;
use crate::telemetry::metrics::Metrics;

mod cgroup;
pub mod descriptors;
pub mod environment;
pub mod exec;
pub mod given;
pub mod keep;
mod namespace;
mod order;
mod prepare;
mod program;
mod register;
pub mod runbook;
mod sandbox;
mod status;
mod stderr;
pub mod tool;
mod tree;
pub mod usage;

pub use register::Leftovers;
pub use sandbox::kernel::{Kernel, kernel};
pub use status::Status;
pub use stderr::Words;

use cgroup::Groups;
use prepare::Prepared;
use register::{Entry, Register};
use stderr::Stderr;

/// From closing a server's stdin to SIGTERM (MCP's stdio shutdown).
const FAREWELL: Duration = Duration::from_secs(2);

/// How long a server that closed its own pipes gets to be gone by itself, so that its own status
/// is told and not the one of our signal.
const SETTLE: Duration = Duration::from_millis(100);

/// How long the keeper may take beyond its own grace.
const MARGIN: Duration = Duration::from_millis(300);

/// How long the rest of stderr is waited for once the server is gone.
const LAST_WORDS: Duration = Duration::from_millis(100);

/// How often, and with which pause, a family without a keeper is looked for.
const SWEEPS: usize = 20;
const SWEEP_PAUSE: Duration = Duration::from_millis(5);

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

/// Which program stands above servers: this very one, unless it was said otherwise.
static KEEPER: OnceLock<PathBuf> = OnceLock::new();

/// Names the chillgate binary, for programs that use this library without being it (tests). The
/// first call counts; without one the running program is used, which must then hand
/// [`keep::VERB`] to [`keep::run`].
pub fn keep_with(binary: impl Into<PathBuf>) {
    let _ = KEEPER.set(binary.into());
}

fn own_binary() -> &'static PathBuf {
    // The running program even where its file was replaced by an upgrade.
    KEEPER.get_or_init(|| PathBuf::from("/proc/self/exe"))
}

/// The register of running trees, if there is a folder for it.
static REGISTER: OnceLock<Register> = OnceLock::new();

/// Ends what chillgates that are dead left behind, and notes from now on what runs, so that the
/// next can do the same for this one. `state` is the folder of what outlives the process. Looks
/// through the process table; once, before the first server is started.
///
/// # Errors
/// When the folder cannot be written: then nothing is noted.
pub fn remember_in(state: &Path) -> io::Result<Leftovers> {
    let (register, leftovers) = Register::open(state)?;
    let _ = REGISTER.set(register);
    Ok(leftovers)
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
    let (stdin, stdout) = (started.child.stdin.take(), started.child.stdout.take());
    let (Some(stdin), Some(stdout)) = (stdin, stdout) else {
        return Err(SpawnError::without_pipes());
    };
    let mut process = started.watched(metrics)?;
    process.stdin = Some(stdin);
    process.stdout = Some(stdout);
    Ok(process)
}

/// A keeper at work, in nobody's hands yet.
struct Started {
    name: Arc<str>,
    pid: u32,
    child: Child,
    memory: Option<usize>,
    secrets: Secrets,
    groups: Groups,
    entry: Option<Entry>,
}

impl Started {
    /// With its stderr read into chillgate's log.
    fn watched(mut self, metrics: &Arc<Metrics>) -> Result<Process, SpawnError> {
        let stderr = self.child.stderr.take();
        let stderr = stderr.ok_or_else(SpawnError::without_pipes)?;
        let secrets = std::mem::take(&mut self.secrets);
        let stderr = Stderr::drain(self.name.clone(), stderr, metrics.clone(), secrets);
        Ok(self.with(stderr))
    }

    fn with(self, stderr: Stderr) -> Process {
        Process {
            name: self.name,
            pid: self.pid,
            child: self.child,
            stdin: None,
            stdout: None,
            stderr,
            status: None,
            memory: self.memory,
            groups: Some(self.groups),
            entry: self.entry,
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
    let register = REGISTER.get().map(|register| (register, register::mark()));
    let mark = register.as_ref().map(|(_, mark)| mark.as_str());
    let child = keeper(&launch, &prepared, mark)
        .stdin(input)
        .spawn()
        .map_err(SpawnError::Keeper)?;
    let pid = child.id().ok_or_else(SpawnError::without_pipes)?;
    let entry = register.and_then(|(register, mark)| enter(register, pid, &mark, &launch.name));
    Ok(Started {
        name: Arc::from(launch.name),
        pid,
        child,
        memory: launch.limits.memory,
        secrets: launch.secrets,
        groups: prepared.groups,
        entry,
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

fn enter(register: &Register, keeper: u32, mark: &str, server: &str) -> Option<Entry> {
    let keeper = i32::try_from(keeper).ok().and_then(Pid::from_raw)?;
    let entered = register.enter(keeper, mark, server);
    entered
        .inspect_err(|error| warn!(%server, %error, "The running server cannot be registered."))
        .ok()
}

#[expect(
    clippy::disallowed_methods,
    reason = "the supervisor is where processes are started"
)]
fn keeper(launch: &Launch, prepared: &Prepared, mark: Option<&str>) -> Command {
    let place = if prepared.apart { "apart" } else { "same" };
    let mut command = Command::new(own_binary());
    command
        .arg0("chillgate")
        .args([keep::VERB, &std::process::id().to_string(), place])
        .args([&prepared.order.to_text(), "--"])
        .arg(&prepared.program)
        .args(launch.command.iter().skip(1))
        .env_clear()
        .envs(launch.env.iter().map(|(name, value)| (name, value)))
        .envs(mark.map(|mark| (register::MARK, mark)))
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    if let Some(cwd) = &launch.cwd {
        command.current_dir(cwd);
    }
    command
}

/// A running server with everything below it. Dropping it ends the whole tree, without waiting.
#[derive(Debug)]
pub struct Process {
    name: Arc<str>,
    pid: u32,
    child: Child,
    stdin: Option<ChildStdin>,
    stdout: Option<ChildStdout>,
    stderr: Stderr,
    status: Option<Status>,
    /// `limits.memory`, for the words when it is used up.
    memory: Option<usize>,
    groups: Option<Groups>,
    entry: Option<Entry>,
}

impl Process {
    /// The keeper's process id; the server is its child.
    pub fn pid(&self) -> u32 {
        self.pid
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
        let ended = self.child.wait().await;
        if ended
            .as_ref()
            .map_or(true, |status| status.code().is_none())
        {
            // Somebody killed the keeper itself: what it kept is still in its session.
            warn!(server = %self.name, pid = self.pid, "The keeper was killed; ending what it kept.");
            self.end_session().await;
        }
        let status = self.judge(ended.map_or(Status::Unknown, Status::from));
        self.entry = None;
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
        self.tell_keeper(Signal::TERM);
        if let Ok(status) = timeout(keep::GRACE + MARGIN, self.wait()).await {
            return status;
        }
        warn!(server = %self.name, pid = self.pid, "The keeper did not end in time; killing it and what it kept.");
        self.end_by_force().await;
        timeout(MARGIN, self.wait())
            .await
            .unwrap_or(Status::Unknown)
    }

    /// The kernel ends a process that uses up its memory with a signal; the group knows why. With
    /// the groups goes who left the session and is still in them.
    fn judge(&mut self, status: Status) -> Status {
        let Some(groups) = self.groups.take() else {
            return status;
        };
        match self.memory {
            Some(limit) if status != Status::Code(0) && groups.ran_out_of_memory() => {
                Status::OutOfMemory(limit)
            }
            _ => status,
        }
    }

    fn keeper_id(&self) -> Option<Pid> {
        // None once it was waited for: the number may be somebody else's by then.
        self.child
            .id()
            .and_then(|pid| Pid::from_raw(i32::try_from(pid).ok()?))
    }

    fn tell_keeper(&self, signal: Signal) {
        if let Some(keeper) = self.keeper_id() {
            let _ = kill_process(keeper, signal);
        }
    }

    /// The tree first: while the keeper is there, everything below it can be found.
    async fn end_by_force(&self) {
        let Some(keeper) = self.keeper_id() else {
            return;
        };
        end_all(|| tree::descendants(keeper)).await;
        let _ = kill_process(keeper, Signal::KILL);
    }

    /// What is left of a keeper's family is known by its session, and by its mark if it has one.
    async fn end_session(&self) {
        let Some(leader) = i32::try_from(self.pid).ok().and_then(Pid::from_raw) else {
            return;
        };
        let marked = || self.entry.as_ref().map(Entry::marked).unwrap_or_default();
        end_all(|| [tree::of_session(leader), marked()].concat()).await;
    }
}

/// Kills until nobody is found: one may have forked while the table was read.
async fn end_all(find: impl Fn() -> Vec<tree::Kin>) {
    for _ in 0..SWEEPS {
        let found = find();
        if found.is_empty() {
            return;
        }
        for kin in found {
            kin.signal(Signal::KILL);
        }
        tokio::time::sleep(SWEEP_PAUSE).await;
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if self.status.is_none() {
            self.tell_keeper(Signal::TERM);
        }
    }
}
