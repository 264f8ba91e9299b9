//! How a server is held on Unix: below a keeper ([`keep`]), which outlives nothing and leaves nothing
//! behind.
//!
//! Starts the keeper, tells it to end, and steps in should it fail to. The spine of the supervisor
//! knows this file and its sibling for Windows under one name.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{ExitCode, ExitStatus, Stdio};
use std::sync::{Mutex, OnceLock};
use std::time::Duration;

use rustix::process::{Pid, Signal, WaitOptions, getpid, kill_process, waitpid};
use tokio::process::{Child, ChildStderr, ChildStdin, ChildStdout, Command};
use tracing::warn;

use super::cgroup::Groups;
pub(super) use super::prepare::Prepared;
use super::register::{self, Entry, Register};
use super::scratch::{self, Scratch};
use super::usage::Family;
use super::{Launch, Leftovers, SpawnError, Status, descriptors, exec, keep, life, native, tree};
use crate::lock::locked;

/// How long the keeper may take beyond its own grace.
const MARGIN: Duration = Duration::from_millis(300);

/// How long a tree has to end once it is told to.
pub(super) const PATIENCE: Duration = keep::GRACE.saturating_add(MARGIN);

/// How often, and with which pause, a family without a keeper is looked for.
const SWEEPS: usize = 20;
const SWEEP_PAUSE: Duration = Duration::from_millis(5);

/// Which program stands above servers: this very one, unless it was said otherwise.
static KEEPER: OnceLock<PathBuf> = OnceLock::new();

/// Names the chillgate binary, for programs that use this library without being it (tests). The
/// first call counts; without one the running program is used, which must then hand
/// [`keep::VERB`] to [`keep::run`].
pub fn keep_with(binary: impl Into<PathBuf>) {
    let _ = KEEPER.set(binary.into());
}

pub(super) fn own_binary() -> &'static PathBuf {
    KEEPER.get_or_init(native::own_binary)
}

/// The register of running trees, if there is a folder for it.
static REGISTER: OnceLock<Register> = OnceLock::new();

/// The keepers that run: this process's other children were kept by one that was killed.
static KEEPERS: Mutex<BTreeSet<u32>> = Mutex::new(BTreeSet::new());

/// Whether this process becomes the parent of what a killed keeper leaves behind.
static ADOPTS: OnceLock<()> = OnceLock::new();

pub(super) fn remember_in(state: &Path) -> io::Result<Leftovers> {
    let (register, leftovers) = Register::open(state)?;
    // After the trees that used them.
    scratch::settle(state)?;
    let _ = REGISTER.set(register);
    Ok(leftovers)
}

pub(super) fn take_descriptors() {
    descriptors::raise();
}

pub(super) fn own_verb(mut args: impl Iterator<Item = OsString>) -> Option<ExitCode> {
    match args.next()?.to_str()? {
        keep::VERB => Some(keep::run(args)),
        exec::VERB => Some(exec::run(args)),
        _ => None,
    }
}

/// A server's tree.
#[derive(Debug)]
pub(super) struct Hold {
    /// The keeper's process id; the server is its child.
    pid: u32,
    child: Child,
    /// `limits.memory`, for the words when it is used up.
    memory: Option<usize>,
    groups: Option<Groups>,
    entry: Option<Entry>,
    /// When the keeper started.
    since: u64,
    scratch: Option<Scratch>,
    /// It was said that it was killed; whoever waits again need not hear it again.
    is_mourned: bool,
    ended: bool,
}

impl Hold {
    pub(super) fn start(
        launch: &Launch,
        mut prepared: Prepared,
        input: Stdio,
    ) -> Result<Self, SpawnError> {
        let register = REGISTER.get().map(|register| (register, register::mark()));
        let mark = register.as_ref().map(|(_, mark)| mark.as_str());
        ADOPTS.get_or_init(|| {
            if let Err(error) = native::adopt() {
                warn!(%error, "What a killed keeper leaves behind is found by its session alone.");
            }
        });
        let (child, pid) = {
            // Held, so that nobody takes it for what a killed one has left.
            let mut keepers = locked(&KEEPERS);
            let child = keeper(launch, &prepared, mark)
                .stdin(input)
                .spawn()
                .map_err(SpawnError::Keeper)?;
            let pid = child.id().ok_or_else(SpawnError::without_pipes)?;
            keepers.insert(pid);
            (child, pid)
        };
        if let Some(scratch) = &mut prepared.scratch {
            scratch.keep();
        }
        let since = pid_of(pid)
            .and_then(native::find)
            .map_or(0, |it| it.started);
        let entry = register.and_then(|(register, mark)| enter(register, pid, &mark, &launch.name));
        Ok(Self {
            pid,
            child,
            memory: launch.limits.memory,
            groups: Some(prepared.groups),
            entry,
            since,
            scratch: prepared.scratch,
            is_mourned: false,
            ended: false,
        })
    }

    pub(super) fn pid(&self) -> u32 {
        self.pid
    }

    pub(super) fn take_input(&mut self) -> Option<ChildStdin> {
        self.child.stdin.take()
    }

    pub(super) fn take_output(&mut self) -> Option<ChildStdout> {
        self.child.stdout.take()
    }

    pub(super) fn take_errors(&mut self) -> Option<ChildStderr> {
        self.child.stderr.take()
    }

    /// Waits until nothing of the tree is left. Can be cancelled and called again.
    pub(super) async fn wait(&mut self, server: &str) -> Status {
        let ended = self.child.wait().await;
        let is_killed = ended
            .as_ref()
            .map_or(true, |status| status.code().is_none());
        if is_killed {
            // Somebody killed the keeper itself; what it kept is this process's to end.
            if !std::mem::replace(&mut self.is_mourned, true) {
                warn!(%server, pid = self.pid, "The keeper was killed; ending what it kept.");
            }
            self.end_session().await;
            self.clear_up().await;
        }
        let status = match ended.map_or(Status::Unknown, Status::from) {
            Status::Signal(signal) if is_killed => Status::Keeper(signal),
            status => status,
        };
        let status = self.judge(status);
        self.entry = None;
        locked(&KEEPERS).remove(&self.pid);
        self.ended = true;
        status
    }

    /// Tells the tree to end: SIGTERM for all of it, SIGKILL 3 s later.
    pub(super) fn tell(&self) {
        if let Some(keeper) = self.keeper_id() {
            let _ = kill_process(keeper, Signal::TERM);
        }
    }

    /// The tree first: while the keeper is there, everything below it can be found.
    pub(super) async fn end_by_force(&mut self, server: &str) {
        warn!(%server, pid = self.pid, "The keeper did not end in time; killing it and what it kept.");
        let Some(keeper) = self.keeper_id() else {
            return;
        };
        end_all(|| tree::kept(keeper)).await;
        let _ = kill_process(keeper, Signal::KILL);
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
        self.child.id().and_then(pid_of)
    }

    /// What a keeper that was killed no longer removes.
    async fn clear_up(&mut self) {
        if let Some(scratch) = self.scratch.take() {
            let removing = tokio::task::spawn_blocking(move || scratch::remove(scratch.path()));
            let _ = removing.await;
        }
    }

    /// What is left of a keeper's family is known by its session, by its mark if it has one, and, where
    /// the system gives orphans to who is above, by being this process's child.
    async fn end_session(&self) {
        let Some(leader) = pid_of(self.pid) else {
            return;
        };
        let marked = || self.entry.as_ref().map(Entry::marked).unwrap_or_default();
        let adopted = || {
            let keepers = locked(&KEEPERS);
            tree::adopted(|pid| is_in(&keepers, pid), self.since)
        };
        end_all(|| [tree::of_session(leader), marked(), adopted()].concat()).await;
        let keepers = locked(&KEEPERS);
        for dead in native::dead_below(getpid()) {
            if !is_in(&keepers, dead.pid) {
                let _ = waitpid(Some(dead.pid), WaitOptions::NOHANG);
            }
        }
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        if !self.ended {
            locked(&KEEPERS).remove(&self.pid);
            self.tell();
        }
    }
}

fn enter(register: &Register, keeper: u32, mark: &str, server: &str) -> Option<Entry> {
    let keeper = pid_of(keeper)?;
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
        .args([keep::VERB, &watched(), place])
        .args([&prepared.order.to_text(), "--"])
        .arg(&prepared.program)
        .args(launch.command.iter().skip(1))
        .env_clear()
        .envs(launch.env.iter().map(|(name, value)| (name, value)))
        .envs(prepared.scratch.iter().flat_map(|scratch| {
            let folder = scratch.path();
            scratch::VARIABLES.map(|variable| (variable, folder))
        }))
        .envs(mark.map(|mark| (register::MARK, mark)))
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    if let Some(cwd) = &launch.cwd {
        command.current_dir(cwd);
    }
    command
}

/// This process, and how a keeper hears of its end.
fn watched() -> String {
    let me = std::process::id();
    let life = if native::HAS_DEATH_SIGNAL {
        None
    } else {
        life::own()
    };
    life.map_or_else(|| me.to_string(), |life| format!("{me}:{}", life.number()))
}

fn is_in(keepers: &BTreeSet<u32>, pid: Pid) -> bool {
    keepers.iter().any(|keeper| pid_of(*keeper) == Some(pid))
}

fn pid_of(number: u32) -> Option<Pid> {
    i32::try_from(number).ok().and_then(Pid::from_raw)
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

/// For each keeper: its server's process, what each process below it holds in memory, and its time on
/// processors.
pub(super) fn taken(keepers: &[u32]) -> Vec<Family> {
    let roots: Vec<Option<Pid>> = keepers.iter().map(|pid| pid_of(*pid)).collect();
    let ids = |family: Vec<tree::Kin>| family.iter().map(|kin| kin.pid).collect::<Vec<_>>();
    let families = tree::families(&roots).into_iter().zip(keepers);
    families
        .map(|(family, keeper)| {
            let server = server_of(&family, *keeper);
            let taken = native::taken(&ids(family));
            Family { server, taken }
        })
        .collect()
}

/// The keeper's first child: whatever else is below it was adopted later. In a process namespace the
/// shim stays in between.
fn server_of(family: &[tree::Kin], keeper: u32) -> Option<u32> {
    let first_below = |pid: u32| {
        let below = family
            .iter()
            .filter(|kin| u32::try_from(kin.parent) == Ok(pid));
        let first = below.min_by_key(|kin| (kin.started, kin.pid.as_raw_nonzero()))?;
        u32::try_from(first.pid.as_raw_nonzero().get()).ok()
    };
    let first = first_below(keeper)?;
    let line = std::fs::read(format!("/proc/{first}/cmdline")).unwrap_or_default();
    let is_shim = line.split(|byte| *byte == 0).nth(1) == Some(exec::VERB.as_bytes());
    Some(first_below(first).filter(|_| is_shim).unwrap_or(first))
}

/// The keeper hands a signal on the way a shell does, as 128 + its number.
pub(super) fn ended(status: ExitStatus) -> Status {
    use std::os::unix::process::ExitStatusExt as _;
    match (status.code(), status.signal()) {
        (Some(code @ 129..=192), _) => Status::Signal(code - 128),
        (Some(code), _) => Status::Code(code),
        (None, Some(signal)) => Status::Signal(signal),
        (None, None) => Status::Unknown,
    }
}

pub(super) fn signal_name(signal: i32) -> Option<&'static str> {
    signal_hook::low_level::signal_name(signal)
}
