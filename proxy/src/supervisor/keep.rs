//! The keeper: chillgate, started again by itself, standing above one server.
//!
//! A death signal reaches only a direct child, and a server is often a chain (`npx`, `sh`, `node`)
//! with helpers that leave their group. So one small process adopts whatever a server leaves behind
//! and ends with nothing below it: when the server ends, when chillgate says so, when chillgate
//! dies however it dies. It has no runtime, no thread and no configuration, is never in the data
//! path, and decides nothing but how to end.

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, ErrorKind, Read};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Command, ExitCode};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::process::{Pid, Signal, WaitOptions, WaitStatus, getpid, getppid, setsid, wait};
use signal_hook::consts::{SIGCHLD, SIGHUP, SIGINT, SIGTERM, SIGUSR1};
use signal_hook::{flag, low_level::pipe};

use super::namespace::Null;
use super::order::Order;
use super::{cgroup, exec, native, scratch, tree};
use crate::clock;

/// The hidden verb: `chillgate __keep PARENT[:LIFE] same|apart ORDER -- COMMAND…`; `LIFE` is the
/// descriptor that ends when chillgate does ([`super::life`]), where no signal tells of it; `apart`
/// is a process namespace for the server, and the order is the shim's to read.
pub const VERB: &str = "__keep";

/// From SIGTERM to SIGKILL when chillgate asks for the end.
pub(super) const GRACE: Duration = Duration::from_secs(3);

/// The same when chillgate is dead: its servers must be gone within 2 s.
const ORPHANED: Duration = Duration::from_secs(1);

/// The same for what a server that ended by itself left behind. Short: until then nobody hears
/// that it ended.
const LEFTOVERS: Duration = Duration::from_millis(50);

/// How often in a row everybody is killed before the dead are buried.
const SWEEPS: usize = 5;

/// Exit code of a shell for a command that cannot run.
const CANNOT_RUN: u8 = 126;

/// Keeps one server until it is gone, and ends as it did (128 + signal for a signal). `args` are
/// those after [`VERB`]. To be called before `main` does anything else.
pub fn run(args: impl IntoIterator<Item = OsString>) -> ExitCode {
    let kept = Charge::parse(args).and_then(|charge| {
        let kept = Keeper::start(&charge).and_then(Keeper::keep);
        // Nothing is left below that could use it.
        if let Some(folder) = charge.order().scratch {
            scratch::remove(&folder);
        }
        kept
    });
    kept.unwrap_or_else(|fault| {
        eprintln!("chillgate: {fault}");
        ExitCode::from(fault.code())
    })
}

#[derive(Debug, thiserror::Error)]
enum Fault {
    #[error(
        "{VERB} is for chillgate's own use; servers are started by `chillgate serve` or `wrap`"
    )]
    Usage,
    #[error("the keeper cannot prepare itself: {0}")]
    Prepare(#[from] io::Error),
    #[error("the server's process cannot be made: {0}; see the limits on processes and memory")]
    Launch(io::Error),
    #[error("no process namespace can be made: {0}; set `pid-namespace = false`")]
    Namespace(io::Error),
}

impl Fault {
    fn code(&self) -> u8 {
        match self {
            Self::Usage => 2,
            Self::Prepare(_) | Self::Launch(_) | Self::Namespace(_) => CANNOT_RUN,
        }
    }
}

/// What the command line asks for.
struct Charge {
    parent: Pid,
    life: Option<u32>,
    apart: bool,
    /// The shim's: its order, `--`, the program, the arguments.
    rest: Vec<OsString>,
}

impl Charge {
    fn parse(args: impl IntoIterator<Item = OsString>) -> Result<Self, Fault> {
        let mut args = args.into_iter();
        let watched = args.next().and_then(|word| {
            let word = word.to_str()?;
            let (pid, life) = word.split_once(':').unwrap_or((word, ""));
            let life = match life {
                "" => None,
                life => Some(life.parse().ok()?),
            };
            Some((Pid::from_raw(pid.parse().ok()?)?, life))
        });
        let apart = args.next().and_then(|word| match word.to_str() {
            Some("same") => Some(false),
            Some("apart") => Some(true),
            _ => None,
        });
        match (watched, apart) {
            (Some((parent, life)), Some(apart)) => Ok(Self {
                parent,
                life,
                apart,
                rest: args.collect(),
            }),
            _ => Err(Fault::Usage),
        }
    }

    fn order(&self) -> Order {
        let order = self.rest.first().and_then(|order| order.to_str());
        order.and_then(Order::parse).unwrap_or_default()
    }
}

struct Keeper {
    parent: Pid,
    /// The doors of the server's control groups, for killing without a race.
    groups: Vec<PathBuf>,
    server: Pid,
    signals: Signals,
}

impl Keeper {
    fn start(charge: &Charge) -> Result<Self, Fault> {
        let mut signals = Signals::register()?;
        // A session of its own: a terminal's ^C is for chillgate, which then asks for the end.
        // Also the mark by which chillgate finds the rest should this process be killed.
        let _ = setsid();
        native::adopt()?;
        match charge.life {
            None => native::when_parent_dies(Signal::USR1)?,
            Some(life) => signals.life = Some(File::open(format!("/dev/fd/{life}"))?),
        }
        if getppid() != Some(charge.parent) {
            // It died before the line above; no signal will come.
            return Err(io::Error::other("chillgate has died").into());
        }
        // Whatever chillgate itself was handed by its own parent stops here.
        close_fds::set_fds_cloexec(3, &[]);
        if charge.apart {
            native::enter_namespace().map_err(Fault::Namespace)?;
        }
        let server = launch(charge).map_err(Fault::Launch)?;
        let keeper = Self {
            parent: charge.parent,
            groups: charge.order().groups,
            server,
            signals,
        };
        // So that the server's pipes end when the server does.
        if let Err(error) = Null::open().and_then(|null| null.replace_pipes()) {
            tell_all(Signal::KILL);
            return Err(error.into());
        }
        Ok(keeper)
    }

    /// Until nothing is left below. Every way round the loop begins with the facts, so that a
    /// signal lost in a burst costs nothing.
    fn keep(mut self) -> Result<ExitCode, Fault> {
        let mut ended = None;
        let mut kill_at: Option<Instant> = None;
        while self.reap(&mut ended) || has_strays() {
            let now = clock::real();
            let asked = self.signals.stop.swap(false, Ordering::Relaxed);
            let grace = if asked && kill_at.is_some() {
                Some(Duration::ZERO)
            } else if self.signals.orphaned.swap(false, Ordering::Relaxed) && self.is_orphaned() {
                Some(ORPHANED)
            } else if asked {
                Some(GRACE)
            } else {
                None
            };
            let grace = if ended.is_some() {
                Some(LEFTOVERS.min(grace.unwrap_or(LEFTOVERS)))
            } else {
                grace
            };
            if let Some(grace) = grace {
                if kill_at.is_none() {
                    tell_all(Signal::TERM);
                }
                kill_at = Some(kill_at.map_or(now + grace, |at| at.min(now + grace)));
            }
            let patience = match kill_at {
                Some(at) if at <= now => {
                    self.kill_all();
                    Some(Duration::from_millis(5))
                }
                at => at.map(|at| at - now),
            };
            self.signals.wait(patience)?;
        }
        Ok(ExitCode::from(ended.map_or(CANNOT_RUN, code_of)))
    }

    /// Looks again at once while there is somebody: what forks without end must not get the time to.
    fn kill_all(&self) {
        for door in &self.groups {
            cgroup::kill_behind(door);
        }
        for _ in 0..SWEEPS {
            if !tell_all(Signal::KILL) {
                return;
            }
        }
    }

    /// Buries the dead; false when nobody is left. Fills in how the server ended.
    fn reap(&self, ended: &mut Option<WaitStatus>) -> bool {
        loop {
            match wait(WaitOptions::NOHANG) {
                Ok(Some((pid, status))) if pid == self.server => *ended = Some(status),
                Ok(Some(_)) | Err(Errno::INTR) => {}
                Ok(None) => return true,
                Err(_) => return false,
            }
        }
    }

    /// The death signal also comes when only the thread died that started this process; the end of
    /// the pipe comes before this process has another parent.
    fn is_orphaned(&self) -> bool {
        self.signals.life_ended || getppid() != Some(self.parent)
    }
}

#[expect(
    clippy::disallowed_methods,
    reason = "the supervisor is where processes are started"
)]
fn launch(charge: &Charge) -> io::Result<Pid> {
    let mode = if charge.apart { "first" } else { "run" };
    let me = getpid().as_raw_nonzero().to_string();
    let child = Command::new(native::own_binary())
        .arg0("chillgate")
        .args([exec::VERB, &me, mode])
        .args(&charge.rest)
        .process_group(0)
        .spawn()?;
    i32::try_from(child.id())
        .ok()
        .and_then(Pid::from_raw)
        .ok_or(ErrorKind::InvalidData.into())
}

/// Whether there was anybody to tell.
fn tell_all(signal: Signal) -> bool {
    let all = tree::kept(getpid());
    for kin in &all {
        kin.signal(signal);
    }
    !all.is_empty()
}

/// Whether somebody is left who was never this process's child, nor became one.
fn has_strays() -> bool {
    !native::ADOPTS && !tree::kept(getpid()).is_empty()
}

pub(super) fn code_of(status: WaitStatus) -> u8 {
    let signal = status.terminating_signal().map(|signal| 128 + signal);
    let code = signal.or(status.exit_status()).unwrap_or_default();
    u8::try_from(code).unwrap_or(u8::MAX)
}

/// Signals as facts to look at, and a socket that ends the wait for the next.
struct Signals {
    stop: Arc<AtomicBool>,
    orphaned: Arc<AtomicBool>,
    bell: UnixStream,
    /// Ends with chillgate, where no signal tells of that.
    life: Option<File>,
    life_ended: bool,
}

impl Signals {
    fn register() -> io::Result<Self> {
        let (bell, ringer) = UnixStream::pair()?;
        let (stop, orphaned) = (Arc::default(), Arc::default());
        for signal in [SIGTERM, SIGINT, SIGHUP] {
            flag::register(signal, Arc::clone(&stop))?;
        }
        flag::register(SIGUSR1, Arc::clone(&orphaned))?;
        // After the flags: whoever hears the bell finds them set.
        for signal in [SIGTERM, SIGINT, SIGHUP, SIGUSR1, SIGCHLD] {
            pipe::register(signal, ringer.try_clone()?)?;
        }
        Ok(Self {
            stop,
            orphaned,
            bell,
            life: None,
            life_ended: false,
        })
    }

    /// Until the next signal, or so long.
    fn wait(&mut self, at_most: Option<Duration>) -> io::Result<()> {
        let at_most = at_most.map(|span| span.max(Duration::from_millis(1)));
        if !self.watch_life(at_most)? {
            return Ok(());
        }
        self.bell.set_read_timeout(at_most)?;
        // However many rang: the flags tell what for.
        let rung = self.bell.read(&mut [0; 64]).map(drop);
        match rung.as_ref().map_err(io::Error::kind) {
            Err(ErrorKind::WouldBlock | ErrorKind::TimedOut | ErrorKind::Interrupted) => Ok(()),
            _ => rung,
        }
    }

    /// Waits for the bell, or for chillgate's end where that is told by a pipe; false when the bell
    /// has not rung.
    fn watch_life(&mut self, at_most: Option<Duration>) -> io::Result<bool> {
        let Some(life) = &mut self.life else {
            return Ok(true);
        };
        let at_most = at_most.and_then(|span| Timespec::try_from(span).ok());
        let mut both = [
            PollFd::new(&self.bell, PollFlags::IN),
            PollFd::new(life, PollFlags::IN),
        ];
        match poll(&mut both, at_most.as_ref()) {
            Ok(0) | Err(Errno::INTR) => return Ok(false),
            Ok(_) => {}
            Err(error) => return Err(error.into()),
        }
        let [bell, ended] = both.map(|it| !it.revents().is_empty());
        // Nobody writes to it: what can be read is its end.
        if ended {
            self.life = None;
            self.life_ended = true;
            self.orphaned.store(true, Ordering::Relaxed);
        }
        Ok(bell)
    }
}
