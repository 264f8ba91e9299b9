//! The sandbox of a server: from what the user wrote and what the kernel has to rules, and from
//! rules to a process that is bound by them.
//!
//! A sandbox that silently is not there is worse than none, so what is missing is an error here
//! unless the user said otherwise. Files and ports are Landlock's ([`files`]), system calls are
//! seccomp's ([`calls`]); what there is of either is found out by trying ([`kernel`]).

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::config::{Network, Sandbox, SystemCalls};

#[cfg(target_os = "linux")]
mod calls;
#[cfg(target_os = "linux")]
mod files;
#[cfg_attr(not(target_os = "linux"), path = "sandbox/elsewhere.rs")]
pub(super) mod kernel;
#[cfg(target_os = "linux")]
mod rights;

/// What a sandbox can be made of here.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Kernel {
    /// Landlock's revision; 0 where it is not there.
    pub landlock: u8,
    /// Whether system calls can be filtered.
    pub seccomp: bool,
    /// Whether a process namespace can be made.
    pub pid_namespace: bool,
}

/// What a process is bound by, in words that need no decision any more.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Rules {
    /// Landlock's revision; 0 for none.
    pub(super) landlock: u8,
    pub(super) read: Vec<PathBuf>,
    pub(super) write: Vec<PathBuf>,
    /// TCP ports that may be connected to; all if absent.
    pub(super) ports: Option<Vec<u16>>,
    /// Whether seccomp is there for the two below.
    pub(super) seccomp: bool,
    /// Whether there is a network at all.
    pub(super) sockets: bool,
    pub(super) usual_calls: bool,
}

/// The oldest revisions of Landlock that have what a rule needs.
const TRUNCATE: u8 = 3;
const PORTS: u8 = 4;
const SIGNALS: u8 = 6;

/// A sandbox for one server, and what is not in it.
pub(super) struct Built {
    pub(super) rules: Rules,
    pub(super) pid_namespace: bool,
    pub(super) missing: Vec<&'static str>,
}

/// A server's temporary folder.
pub(super) struct Temporary {
    pub(super) folder: PathBuf,
    /// Made for it alone: it may always write there. Else others use it as well.
    pub(super) is_private: bool,
}

/// The rules for `program`; `home` is its configured working directory.
///
/// # Errors
/// In words: a path that is not there, or what the kernel lacks.
pub(super) fn build(
    wanted: &Sandbox,
    kernel: Kernel,
    program: PathBuf,
    home: Option<PathBuf>,
    temporary: Temporary,
) -> Result<Built, String> {
    let missing = missing(wanted, kernel);
    if wanted.require && !missing.is_empty() {
        return Err(format!(
            "the sandbox cannot be had whole here: {}; write `require = false` to run with the rest",
            missing.join("; ")
        ));
    }
    let mut write = wanted.write.clone().unwrap_or_default();
    if temporary.is_private || wanted.write.is_none() {
        write.push(temporary.folder);
    }
    for (key, paths) in [("read", &wanted.read), ("write", &write)] {
        if let Some(path) = paths.iter().find(|path| !path.exists()) {
            return Err(format!(
                "{} of `sandbox.{key}` does not exist; create it or take it out",
                path.display()
            ));
        }
    }
    let mut read = wanted.read.clone();
    read.push(program);
    read.extend(home);
    Ok(Built {
        rules: Rules {
            landlock: kernel.landlock,
            read,
            write,
            ports: match &wanted.network {
                Network::Ports(ports) if kernel.landlock >= PORTS => Some(ports.clone()),
                _ => None,
            },
            seccomp: kernel.seccomp,
            sockets: wanted.network != Network::None,
            usual_calls: wanted.system_calls == SystemCalls::Usual,
        },
        pid_namespace: wanted.pid_namespace && kernel.pid_namespace,
        missing,
    })
}

fn missing(wanted: &Sandbox, kernel: Kernel) -> Vec<&'static str> {
    let ports = matches!(wanted.network, Network::Ports(_));
    let needs_calls = wanted.network != Network::All || wanted.system_calls == SystemCalls::Usual;
    let of = [
        (
            kernel.landlock < 1,
            "files are not guarded (Landlock is not there)",
        ),
        (
            (1..TRUNCATE).contains(&kernel.landlock),
            "files can be cut to nothing (Landlock of Linux 6.2 is needed)",
        ),
        (
            ports && kernel.landlock < PORTS,
            "ports are not guarded (Landlock of Linux 6.7 is needed)",
        ),
        (
            kernel.landlock < SIGNALS && !(wanted.pid_namespace && kernel.pid_namespace),
            "other processes can be signalled (Landlock of Linux 6.12 or `pid-namespace = true` is needed)",
        ),
        (
            needs_calls && !kernel.seccomp,
            "system calls are not guarded (seccomp is not there)",
        ),
        (
            wanted.pid_namespace && !kernel.pid_namespace,
            "no process namespace may be made (root or user namespaces are needed)",
        ),
    ];
    of.into_iter()
        .filter(|(is_missing, _)| *is_missing)
        .map(|(_, words)| words)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const NEW: Kernel = Kernel {
        landlock: 7,
        seccomp: true,
        pid_namespace: true,
    };

    fn built(wanted: &Sandbox, kernel: Kernel) -> Result<Built, String> {
        let temporary = Temporary {
            folder: "/tmp".into(),
            is_private: false,
        };
        build(wanted, kernel, "/bin/sh".into(), None, temporary)
    }

    #[test]
    fn what_the_kernel_lacks_is_refused_or_told() {
        let plain = Sandbox::default();
        assert_eq!(built(&plain, NEW).expect("all is there").missing.len(), 0);
        let ports = Sandbox {
            network: Network::Ports(vec![443]),
            ..Sandbox::default()
        };
        let apart = Sandbox {
            pid_namespace: true,
            ..Sandbox::default()
        };
        let old = |landlock| Kernel { landlock, ..NEW };
        let cases = [
            (&plain, old(0), "Landlock is not there"),
            (&plain, old(2), "Linux 6.2"),
            (&plain, old(5), "Linux 6.12"),
            (&ports, old(3), "Linux 6.7"),
            (
                &plain,
                Kernel {
                    seccomp: false,
                    ..NEW
                },
                "seccomp",
            ),
            (
                &apart,
                Kernel {
                    pid_namespace: false,
                    ..NEW
                },
                "process namespace",
            ),
        ];
        for (wanted, kernel, words) in cases {
            let error = built(wanted, kernel).err().expect("something is missing");
            assert!(error.contains(words), "{error}");
            let lenient = Sandbox {
                require: false,
                ..wanted.clone()
            };
            let built = built(&lenient, kernel).expect("the rest is taken");
            assert!(built.missing.iter().any(|it| it.contains(words)));
        }
        assert!(built(&apart, old(5)).is_ok(), "a namespace guards as well");
    }

    #[test]
    fn a_path_that_is_not_there_is_told() {
        let wanted = Sandbox {
            write: Some(vec!["/nowhere/at/all".into()]),
            ..Sandbox::default()
        };
        let error = built(&wanted, NEW).err().expect("it is not there");
        assert!(error.contains("sandbox.write"), "{error}");
    }
}
