//! What a server was really given of its limits and its sandbox, for the log and for whoever asks.
//!
//! Words about facts that were found where the server was started; nothing is decided here.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Mutex, PoisonError};

/// How one limit holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bound {
    /// Nobody asked for it.
    Unasked,
    /// For the whole tree, by a control group.
    Group,
    /// For each process, by its own limit of this name.
    Process(&'static str),
    /// Not at all, and why.
    Nothing(&'static str),
}

/// The limits and the sandbox of one server as they are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Given {
    /// `limits.memory`.
    pub memory: Bound,
    /// `limits.processes`.
    pub processes: Bound,
    /// `limits.cpu-weight`.
    pub cpu: Bound,
    /// Its sandbox, if one is configured.
    pub sandbox: Option<Sandboxed>,
}

/// A sandbox as it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sandboxed {
    /// Landlock's revision; 0 where files are not guarded.
    pub landlock: u8,
    /// Whether system calls are filtered.
    pub seccomp: bool,
    /// Whether the tree has process ids of its own.
    pub pid_namespace: bool,
    /// Whether it has a temporary folder of its own.
    pub own_temporary: bool,
    /// What was asked for and is not there.
    pub missing: Vec<&'static str>,
}

impl Given {
    /// Whether there is anything to tell.
    pub fn is_plain(&self) -> bool {
        let bounds = [self.memory, self.processes, self.cpu];
        self.sandbox.is_none() && bounds.iter().all(|it| *it == Bound::Unasked)
    }

    /// Whether something that was asked for is not there.
    pub fn is_short(&self) -> bool {
        let bounds = [self.memory, self.processes, self.cpu];
        bounds.iter().any(|it| matches!(it, Bound::Nothing(_)))
            || self
                .sandbox
                .as_ref()
                .is_some_and(|it| !it.missing.is_empty())
    }
}

impl fmt::Display for Bound {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unasked => f.write_str("unbounded"),
            Self::Group => f.write_str("control group"),
            Self::Process(name) => write!(f, "each process ({name})"),
            Self::Nothing(why) => write!(f, "not bounded: {why}"),
        }
    }
}

impl fmt::Display for Given {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut comma = "";
        let bounds = [
            ("memory", self.memory),
            ("processes", self.processes),
            ("cpu-weight", self.cpu),
        ];
        for (name, bound) in bounds.iter().filter(|(_, it)| *it != Bound::Unasked) {
            write!(f, "{comma}{name} by {bound}")?;
            comma = ", ";
        }
        if let Some(sandbox) = &self.sandbox {
            write!(f, "{comma}sandbox: {sandbox}")?;
        }
        Ok(())
    }
}

impl fmt::Display for Sandboxed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "landlock {}", self.landlock)?;
        if self.seccomp {
            f.write_str(", seccomp")?;
        }
        if self.pid_namespace {
            f.write_str(", process namespace")?;
        }
        if self.own_temporary {
            f.write_str(", own temporary folder")?;
        }
        for missing in &self.missing {
            write!(f, "; missing: {missing}")?;
        }
        Ok(())
    }
}

static LAST: Mutex<BTreeMap<String, Given>> = Mutex::new(BTreeMap::new());

/// What the last process of a server was given; `None` before its first start, and where nothing
/// was asked for.
pub fn given_to(server: &str) -> Option<Given> {
    let last = LAST.lock().unwrap_or_else(PoisonError::into_inner);
    last.get(server).cloned()
}

/// Remembers it; whether that is news.
pub(super) fn remember(server: &str, given: &Given) -> bool {
    let mut last = LAST.lock().unwrap_or_else(PoisonError::into_inner);
    last.insert(server.to_owned(), given.clone()).as_ref() != Some(given)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_given_is_one_line() {
        let mut given = Given {
            memory: Bound::Group,
            processes: Bound::Process("RLIMIT_NPROC"),
            cpu: Bound::Unasked,
            sandbox: None,
        };
        let line = "memory by control group, processes by each process (RLIMIT_NPROC)";
        assert_eq!(given.to_string(), line);
        assert!(!given.is_plain() && !given.is_short());
        given.sandbox = Some(Sandboxed {
            landlock: 2,
            seccomp: true,
            pid_namespace: false,
            own_temporary: true,
            missing: vec!["ports"],
        });
        assert!(given.is_short());
        let line = given.to_string();
        assert!(
            line.ends_with("sandbox: landlock 2, seccomp, own temporary folder; missing: ports"),
            "{line}"
        );
        assert!(remember("given-test", &given) && !remember("given-test", &given));
        assert_eq!(given_to("given-test"), Some(given));
    }
}
