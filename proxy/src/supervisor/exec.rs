//! The shim: chillgate, started again below the keeper, for the moment in which it turns itself into
//! the server.
//!
//! What a process can only do to itself is done here: a death signal, limits, the sandbox. So that
//! no `unsafe` is needed between fork and exec. With a process namespace it stays as the
//! namespace's first process, and what it ends with is the end of all. It decides nothing.

use std::ffi::OsString;
use std::fs;
use std::io::{self, ErrorKind, Write as _};
use std::os::unix::process::CommandExt as _;
use std::process::{Command, ExitCode};

use rustix::process::Signal;

use super::order::Order;
use super::sandbox::kernel;
use super::{namespace, native};

/// The hidden verb: `chillgate __exec KEEPER run|first ORDER -- COMMAND…`, or `… probe`.
pub const VERB: &str = "__exec";

/// Exit codes of a shell for a command that cannot run, and for one that is not there.
const CANNOT_RUN: u8 = 126;
const NOT_FOUND: u8 = 127;

/// Becomes the server, or stays as the first process of its namespace. `args` are those after
/// [`VERB`]. To be called before `main` does anything else.
pub fn run(args: impl IntoIterator<Item = OsString>) -> ExitCode {
    let done = Task::parse(args).and_then(Task::carry_out);
    done.unwrap_or_else(|fault| {
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
    #[error("the keeper has died")]
    Orphaned,
    #[error("{what} could not be set for the server: {source}")]
    Prepare {
        what: &'static str,
        source: io::Error,
    },
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
            Self::Orphaned | Self::Prepare { .. } | Self::Start { .. } => CANNOT_RUN,
        }
    }
}

enum Task {
    /// Says what the kernel gives.
    Probe,
    /// Does nothing, well: for the probe.
    Nothing,
    Start(Start),
}

struct Start {
    keeper: i32,
    order: Order,
    first: bool,
    program: OsString,
    args: Vec<OsString>,
}

impl Task {
    fn parse(args: impl IntoIterator<Item = OsString>) -> Result<Self, Fault> {
        let mut args = args.into_iter();
        let keeper = args.next().and_then(|pid| pid.to_str()?.parse().ok());
        let keeper = keeper.ok_or(Fault::Usage)?;
        let mode = args.next().ok_or(Fault::Usage)?;
        let first = match mode.to_str() {
            Some("probe") => return Ok(Self::Probe),
            Some("nothing") => return Ok(Self::Nothing),
            Some("run") => false,
            Some("first") => true,
            _ => return Err(Fault::Usage),
        };
        let order = args.next().and_then(|text| Order::parse(text.to_str()?));
        let dashes = args.next();
        match (order, args.next()) {
            (Some(order), Some(program)) if dashes.is_some_and(|it| it == "--") => {
                Ok(Self::Start(Start {
                    keeper,
                    order,
                    first,
                    program,
                    args: args.collect(),
                }))
            }
            _ => Err(Fault::Usage),
        }
    }

    fn carry_out(self) -> Result<ExitCode, Fault> {
        match self {
            Self::Nothing => Ok(ExitCode::SUCCESS),
            Self::Probe => {
                let found = serde_json::to_string(&kernel::try_out());
                let found = found.expect("numbers and truths are JSON");
                let told = io::stdout().write_all(found.as_bytes());
                told.map(|()| ExitCode::SUCCESS)
                    .map_err(of("what was found"))
            }
            Self::Start(start) => start.go(),
        }
    }
}

impl Start {
    fn go(self) -> Result<ExitCode, Fault> {
        // So that the server dies even when keeper and chillgate are killed at once.
        native::when_parent_dies(Signal::KILL).map_err(of("the death signal"))?;
        if native::parent() != Some(self.keeper) {
            return Err(Fault::Orphaned);
        }
        for group in &self.order.groups {
            fs::write(group, "0").map_err(of("its control group (`limits`)"))?;
        }
        self.order
            .bounds
            .apply()
            .map_err(of("one of its `limits`"))?;
        let null = namespace::Null::open().map_err(of("/dev/null"))?;
        if let Some(rules) = &self.order.rules {
            kernel::bind(rules).map_err(of("its sandbox"))?;
        }
        let mut command = program(&self.program);
        command.args(&self.args);
        let fault = |source| Fault::Start {
            program: self.program.clone(),
            source,
        };
        if !self.first {
            return Err(fault(command.exec()));
        }
        let server = command.process_group(0).spawn().map_err(fault)?;
        namespace::stand_first(&server, null).map_err(of("its process namespace"))
    }
}

fn of(what: &'static str) -> impl Fn(io::Error) -> Fault {
    move |source| Fault::Prepare { what, source }
}

#[expect(
    clippy::disallowed_methods,
    reason = "the supervisor is where processes are started"
)]
fn program(name: &OsString) -> Command {
    Command::new(name)
}
