//! From what is configured to what is started: the program, its groups, its order, and what of it
//! all could be had.
//!
//! Looks at files, makes control groups and a temporary folder, so it is for a thread that may wait. It starts no
//! server.

use std::io;
use std::path::PathBuf;

use super::cgroup::{self, Controller, Groups, Wanted};
use super::given::{Bound, Given, Sandboxed};
use super::order::{Bounds, Order};
use super::sandbox::{self, Temporary, kernel};
use super::scratch::Scratch;
use super::{Launch, SpawnError, descriptors, native, program};
use crate::platform;

/// A server that only wants starting.
pub(super) struct Prepared {
    pub(super) program: PathBuf,
    pub(super) order: Order,
    /// Whether in a process namespace.
    pub(super) apart: bool,
    pub(super) groups: Groups,
    pub(super) given: Given,
    /// Its own temporary folder, if it has one.
    pub(super) scratch: Option<Scratch>,
}

impl Prepared {
    pub(super) fn of(launch: &Launch) -> Result<Self, SpawnError> {
        let program = program::locate(launch)?;
        let scratch = match &launch.sandbox {
            Some(_) if !launch.is_temporary_named => {
                Some(Scratch::make().map_err(|error| no_scratch(&error))?)
            }
            _ => None,
        };
        let temporary = || Temporary {
            folder: match &scratch {
                Some(scratch) => scratch.path().to_owned(),
                None => PathBuf::from(platform::temporary(&launch.env)),
            },
            is_private: scratch.is_some(),
        };
        let built = launch.sandbox.as_ref().map(|wanted| {
            sandbox::build(
                wanted,
                kernel::kernel(),
                program.clone(),
                launch.cwd.clone(),
                temporary(),
            )
        });
        let built = built.transpose().map_err(SpawnError::Sandbox)?;
        let limits = &launch.limits;
        let wanted = Wanted {
            memory: limits.memory.map(|bytes| bytes as u64),
            processes: limits.processes,
            cpu_weight: limits.cpu_weight,
        };
        let is_asked = wanted.memory.or(wanted.processes).or(wanted.cpu_weight);
        let groups = match is_asked {
            Some(_) => Groups::make(cgroup::parents(), &launch.name, wanted),
            None => Groups::default(),
        };
        let unless = |controller, value: Option<u64>| value.filter(|_| !groups.bounds(controller));
        let bounds = Bounds {
            data: unless(Controller::Memory, wanted.memory),
            processes: unless(Controller::Pids, wanted.processes),
            file_size: limits.file_size.map(|bytes| bytes as u64),
            open_files: limits.open_files,
            soft_files: descriptors::before(),
            no_core: limits.core == Some(false),
            nice: limits.nice,
        };
        let given = given(&groups, wanted, built.as_ref(), scratch.is_some());
        Ok(Self {
            program,
            apart: built.as_ref().is_some_and(|built| built.pid_namespace),
            order: Order {
                groups: groups.doors(),
                bounds,
                rules: built.map(|built| built.rules),
                scratch: scratch.as_ref().map(|it| it.path().to_owned()),
            },
            groups,
            given,
            scratch,
        })
    }
}

fn no_scratch(error: &io::Error) -> SpawnError {
    SpawnError::Sandbox(format!(
        "the sandbox's temporary folder cannot be made: {error}; see that the state folder can be \
         written, or name one with env = {{ TMPDIR = \"/path\" }}"
    ))
}

fn given(
    groups: &Groups,
    wanted: Wanted,
    built: Option<&sandbox::Built>,
    own_temporary: bool,
) -> Given {
    let bound = |controller, value: Option<u64>, otherwise| match value {
        None => Bound::Unasked,
        Some(_) if groups.bounds(controller) => Bound::Group,
        Some(_) => otherwise,
    };
    let processes = if rustix::process::getuid().is_root() {
        Bound::Nothing("root is bound by a control group only, and none can be made here")
    } else {
        Bound::Process("RLIMIT_NPROC")
    };
    let no_group = Bound::Nothing("no control group can be made here");
    Given {
        memory: bound(Controller::Memory, wanted.memory, native::MEMORY),
        processes: bound(Controller::Pids, wanted.processes, processes),
        cpu: bound(Controller::Cpu, wanted.cpu_weight, no_group),
        sandbox: built.map(|built| Sandboxed {
            landlock: built.rules.landlock,
            seccomp: built.rules.seccomp,
            pid_namespace: built.pid_namespace,
            own_temporary,
            missing: built.missing.clone(),
        }),
    }
}
