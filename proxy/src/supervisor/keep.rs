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
use std::process::{Command, ExitCode};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use rustix::io::Errno;
use rustix::process::{
    Pid, Signal, WaitOptions, WaitStatus, getpid, getppid, set_child_subreaper,
    set_parent_process_death_signal, setsid, wait,
};
use signal_hook::consts::{SIGCHLD, SIGHUP, SIGINT, SIGTERM, SIGUSR1};
use signal_hook::{flag, low_level::pipe};

use super::tree;
use crate::clock;

/// The hidden verb: `chillgate __keep PARENT -- COMMAND…`.
pub const VERB: &str = "__keep";

/// From SIGTERM to SIGKILL when chillgate asks for the end.
pub(super) const GRACE: Duration = Duration::from_secs(3);

/// The same when chillgate is dead: its servers must be gone within 2 s.
const ORPHANED: Duration = Duration::from_secs(1);

/// The same for what a server that ended by itself left behind. Short: until then nobody hears
/// that it ended.
const LEFTOVERS: Duration = Duration::from_millis(50);

/// Exit codes of a shell for a command that cannot run, and for one that is not there.
const CANNOT_RUN: u8 = 126;
const NOT_FOUND: u8 = 127;

/// Keeps one server until it is gone, and ends as it did (128 + signal for a signal). `args` are
/// those after [`VERB`]. To be called before `main` does anything else.
pub fn run(args: impl IntoIterator<Item = OsString>) -> ExitCode {
    let kept = Order::parse(args)
        .and_then(Keeper::start)
        .and_then(Keeper::keep);
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
    #[error("cannot start {program:?}: {source}")]
    Start {
        program: OsString,
        source: io::Error,
    },
}

impl Fault {
    fn code(&self) -> u8 {
        match self {
            Self::Usage => 2,
            Self::Start { source, .. } if source.kind() == ErrorKind::NotFound => NOT_FOUND,
            Self::Prepare(_) | Self::Start { .. } => CANNOT_RUN,
        }
    }
}

/// What the command line asks for.
struct Order {
    parent: Pid,
    program: OsString,
    args: Vec<OsString>,
}

impl Order {
    fn parse(args: impl IntoIterator<Item = OsString>) -> Result<Self, Fault> {
        let mut args = args.into_iter();
        let parent = args
            .next()
            .and_then(|pid| Pid::from_raw(pid.to_str()?.parse().ok()?));
        let dashes = args.next();
        match (parent, args.next()) {
            (Some(parent), Some(program)) if dashes.is_some_and(|it| it == "--") => Ok(Self {
                parent,
                program,
                args: args.collect(),
            }),
            _ => Err(Fault::Usage),
        }
    }
}

struct Keeper {
    parent: Pid,
    server: Pid,
    signals: Signals,
}

impl Keeper {
    fn start(order: Order) -> Result<Self, Fault> {
        let signals = Signals::register()?;
        // A session of its own: a terminal's ^C is for chillgate, which then asks for the end.
        // Also the mark by which chillgate finds the rest should this process be killed.
        let _ = setsid();
        set_child_subreaper(Some(getpid())).map_err(io::Error::from)?;
        set_parent_process_death_signal(Some(Signal::USR1)).map_err(io::Error::from)?;
        if getppid() != Some(order.parent) {
            // It died before the line above; no signal will come.
            return Err(io::Error::other("chillgate has died").into());
        }
        // Whatever chillgate itself was handed by its own parent stops here.
        close_fds::set_fds_cloexec(3, &[]);
        let server = launch(&order.program, &order.args).map_err(|source| Fault::Start {
            program: order.program,
            source,
        })?;
        let keeper = Self {
            parent: order.parent,
            server,
            signals,
        };
        if let Err(error) = let_go_of_the_pipes() {
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
        while self.reap(&mut ended) {
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
                    tell_all(Signal::KILL);
                    Some(Duration::from_millis(5))
                }
                at => at.map(|at| at - now),
            };
            self.signals.wait(patience)?;
        }
        Ok(ExitCode::from(ended.map_or(CANNOT_RUN, code_of)))
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

    /// The death signal also comes when only the thread died that started this process.
    fn is_orphaned(&self) -> bool {
        getppid() != Some(self.parent)
    }
}

#[expect(
    clippy::disallowed_methods,
    reason = "the supervisor is where processes are started"
)]
fn launch(program: &OsString, args: &[OsString]) -> io::Result<Pid> {
    let child = Command::new(program).args(args).process_group(0).spawn()?;
    i32::try_from(child.id())
        .ok()
        .and_then(Pid::from_raw)
        .ok_or(ErrorKind::InvalidData.into())
}

/// So that the server's pipes end when the server does.
fn let_go_of_the_pipes() -> io::Result<()> {
    let null = File::options().read(true).write(true).open("/dev/null")?;
    rustix::stdio::dup2_stdin(&null)?;
    rustix::stdio::dup2_stdout(&null)?;
    rustix::stdio::dup2_stderr(&null)?;
    Ok(())
}

fn tell_all(signal: Signal) {
    for kin in tree::descendants(getpid()) {
        kin.signal(signal);
    }
}

fn code_of(status: WaitStatus) -> u8 {
    let signal = status.terminating_signal().map(|signal| 128 + signal);
    let code = signal.or(status.exit_status()).unwrap_or_default();
    u8::try_from(code).unwrap_or(u8::MAX)
}

/// Signals as facts to look at, and a socket that ends the wait for the next.
struct Signals {
    stop: Arc<AtomicBool>,
    orphaned: Arc<AtomicBool>,
    bell: UnixStream,
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
        })
    }

    /// Until the next signal, or so long.
    fn wait(&mut self, at_most: Option<Duration>) -> io::Result<()> {
        let at_most = at_most.map(|span| span.max(Duration::from_millis(1)));
        self.bell.set_read_timeout(at_most)?;
        // However many rang: the flags tell what for.
        let rung = self.bell.read(&mut [0; 64]).map(drop);
        match rung.as_ref().map_err(io::Error::kind) {
            Err(ErrorKind::WouldBlock | ErrorKind::TimedOut | ErrorKind::Interrupted) => Ok(()),
            _ => rung,
        }
    }
}
