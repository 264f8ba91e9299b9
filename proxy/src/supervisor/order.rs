//! What is done to a process before it becomes a server: from chillgate through the keeper to the
//! shim that carries it out.
//!
//! Decided by chillgate, which knows the configuration and the kernel; the shim ([`super::exec`])
//! only obeys, and fails rather than do half of it. Holds no secret: it stands on a command line.

use std::io;
use std::path::PathBuf;

use rustix::process::{Resource, Rlimit, getrlimit, setpriority_process, setrlimit};
use serde::{Deserialize, Serialize};

use super::sandbox::Rules;

/// Everything to be done, in this order.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct Order {
    /// Control groups to enter, each by its `cgroup.procs`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(super) groups: Vec<PathBuf>,
    #[serde(skip_serializing_if = "is_default")]
    pub(super) bounds: Bounds,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) rules: Option<Rules>,
    /// The keeper's: a folder to remove once nothing is left of the tree.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) scratch: Option<PathBuf>,
}

/// What each process of a server may use, where no control group bounds the whole tree.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct Bounds {
    pub(super) data: Option<u64>,
    pub(super) processes: Option<u64>,
    pub(super) file_size: Option<u64>,
    pub(super) open_files: Option<u64>,
    /// What chillgate was given before it raised its own ([`super::descriptors`]).
    pub(super) soft_files: Option<u64>,
    pub(super) no_core: bool,
    pub(super) nice: Option<i32>,
}

fn is_default(bounds: &Bounds) -> bool {
    *bounds == Bounds::default()
}

impl Order {
    pub(super) fn to_text(&self) -> String {
        serde_json::to_string(self).expect("paths here come from text, and keys are names")
    }

    pub(super) fn parse(text: &str) -> Option<Self> {
        serde_json::from_str(text).ok()
    }
}

impl Bounds {
    /// Bounds this process and what it becomes. One that chillgate itself has already is never
    /// widened.
    pub(super) fn apply(&self) -> io::Result<()> {
        if let Some(nice) = self.nice {
            setpriority_process(None, nice)?;
        }
        let of = [
            (Resource::Data, self.data),
            (Resource::Nproc, self.processes),
            (Resource::Fsize, self.file_size),
            (Resource::Nofile, self.open_files),
            (Resource::Core, self.no_core.then_some(0)),
        ];
        for (resource, bound) in of {
            let Some(bound) = bound else { continue };
            let most = getrlimit(resource).maximum;
            let bound = Some(most.map_or(bound, |most| most.min(bound)));
            setrlimit(
                resource,
                Rlimit {
                    current: bound,
                    maximum: bound,
                },
            )?;
        }
        if let Some(soft) = self.soft_files {
            super::descriptors::lower(soft)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_order_survives_the_command_line() {
        let order = Order {
            groups: vec!["/sys/fs/cgroup/a b/cgroup.procs".into()],
            bounds: Bounds {
                data: Some(1 << 30),
                nice: Some(10),
                ..Bounds::default()
            },
            rules: Some(Rules::default()),
            scratch: Some("/state/tmp/0a".into()),
        };
        assert_eq!(Order::parse(&order.to_text()), Some(order));
        assert_eq!(Order::default().to_text(), "{}");
        assert_eq!(Order::parse("nonsense"), None);
    }
}
