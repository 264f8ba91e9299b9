//! `limits` and `sandbox` of a server's table: what a child process may use up and touch.
//!
//! Only what the user writes and whether it can be meant. What the kernel gives of it is found out
//! where processes are started.

use std::fmt;
use std::path::{Path, PathBuf};

use serde::de::{self, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};

use super::server::{Wrong, wrong};
use super::units::{bytes_opt, word};

/// What one child process, with everything it starts, may use up. What is absent is not bounded.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub struct ServerLimits {
    /// Memory. Where chillgate can make a control group it bounds the whole tree; elsewhere it
    /// bounds the data of each process (`RLIMIT_DATA`), which Node.js, Go and Java outlive as they
    /// reserve addresses and not data.
    #[serde(deserialize_with = "bytes_opt")]
    pub memory: Option<usize>,
    /// Processes and threads at a time. In a control group those of the tree; elsewhere
    /// (`RLIMIT_NPROC`) all of the same user, and root is not bound.
    pub processes: Option<u64>,
    /// The longest file that may be written.
    #[serde(deserialize_with = "bytes_opt")]
    pub file_size: Option<usize>,
    /// Open files of each process.
    pub open_files: Option<u64>,
    /// The share of the processor while others want it too: 1 to 10000, where 100 is usual. Needs
    /// a control group.
    pub cpu_weight: Option<u64>,
    /// How far it stands back for other processes: 0 to 19.
    pub nice: Option<i32>,
    /// Whether a crash may leave a core file, which may hold secrets; as chillgate's own if absent.
    pub core: Option<bool>,
}

/// What a child process, with everything it starts, may touch.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub struct Sandbox {
    /// Folders and files that it may read and run, besides the system's programs and libraries,
    /// its own program and its working directory. `["/"]` for all.
    pub read: Vec<PathBuf>,
    /// Folders and files that it may read and change, besides a temporary folder of its own
    /// (`TMPDIR`), which is empty when it starts and gone when it has ended.
    pub write: Option<Vec<PathBuf>>,
    /// Whom it may connect to: `"all"`, `"none"`, or TCP ports such as `[443]`. With ports, UDP is
    /// left open, as names are looked up over it.
    pub network: Network,
    /// Which system calls it may make: `"usual"` are all that programs need, without those that
    /// look into other processes, mount, load into the kernel or make namespaces, and root keeps
    /// of its rights only those about files and users; or `"all"`.
    #[serde(deserialize_with = "word")]
    pub system_calls: SystemCalls,
    /// Whether it has process ids of its own. Then nothing it started can outlive it, however
    /// chillgate ends. Needs root or user namespaces, which many containers forbid.
    pub pid_namespace: bool,
    /// Whether the server is refused where the kernel cannot give all of this. With `false` it runs
    /// with what there is, and the log says what is missing.
    pub require: bool,
}

impl Default for Sandbox {
    fn default() -> Self {
        Self {
            read: Vec::new(),
            write: None,
            network: Network::All,
            system_calls: SystemCalls::Usual,
            pid_namespace: false,
            require: true,
        }
    }
}

/// Whom a sandboxed server may connect to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Network {
    /// Everybody.
    All,
    /// Nobody.
    None,
    /// These TCP ports.
    Ports(Vec<u16>),
}

/// Which system calls a sandboxed server may make.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "kebab-case")]
pub enum SystemCalls {
    /// All that programs need.
    Usual,
    /// All.
    All,
}

impl<'de> Deserialize<'de> for Network {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        from.deserialize_any(Written)
    }
}

struct Written;

impl<'de> Visitor<'de> for Written {
    type Value = Network;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("\"all\", \"none\" or a list of TCP ports")
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<Network, E> {
        match text {
            "all" => Ok(Network::All),
            "none" => Ok(Network::None),
            _ => Err(E::custom(
                "`network` is \"all\", \"none\" or a list of TCP ports\nwrite network = [443]",
            )),
        }
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Network, A::Error> {
        let mut ports = Vec::new();
        while let Some(port) = list.next_element::<i64>()? {
            ports.push(
                u16::try_from(port)
                    .ok()
                    .filter(|port| *port > 0)
                    .ok_or_else(|| {
                        de::Error::custom(format!(
                            "a TCP port is from 1 to 65535, not {port}\nwrite network = [443]"
                        ))
                    })?,
            );
        }
        Ok(Network::Ports(ports))
    }
}

/// What cannot be meant.
pub(super) fn mistakes(limits: &ServerLimits, sandbox: Option<&Sandbox>, found: &mut Vec<Wrong>) {
    let mut range = |key: &str, value: Option<u64>, least: u64, most: u64, right: &str| {
        if value.is_some_and(|value| !(least..=most).contains(&value)) {
            let message = format!("`{key}` must be from {least} to {most}");
            found.push(wrong(&["limits", key], false, message, right));
        }
    };
    range(
        "processes",
        limits.processes,
        1,
        1_000_000,
        "write processes = 64",
    );
    range(
        "open-files",
        limits.open_files,
        8,
        1 << 30,
        "write open-files = 1024",
    );
    range(
        "cpu-weight",
        limits.cpu_weight,
        1,
        10_000,
        "write cpu-weight = 50",
    );
    let nice = limits
        .nice
        .map(|nice| u64::try_from(nice).unwrap_or(u64::MAX));
    range("nice", nice, 0, 19, "write nice = 10");
    if limits.memory.is_some_and(|memory| memory < 1 << 20) {
        found.push(wrong(
            &["limits", "memory"],
            false,
            "no program runs in less than 1MiB",
            "write memory = \"512MiB\"",
        ));
    }
    let Some(sandbox) = sandbox else { return };
    let lists = [
        ("read", Some(&sandbox.read)),
        ("write", sandbox.write.as_ref()),
    ];
    for (key, list) in lists {
        if list.is_some_and(|list| list.iter().any(|path| !is_whole(path))) {
            found.push(wrong(
                &["sandbox", key],
                false,
                format!("`{key}` takes whole paths, from `/` on"),
                format!("write {key} = [\"/data\"]"),
            ));
        }
    }
}

fn is_whole(path: &Path) -> bool {
    path.is_absolute() && !path.as_os_str().as_encoded_bytes().contains(&0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sandbox(toml: &str) -> Result<Sandbox, String> {
        toml_edit::de::from_str(toml).map_err(|error| error.to_string())
    }

    #[test]
    fn the_network_is_a_word_or_ports() {
        let network = |text: &str| sandbox(&format!("network = {text}")).map(|it| it.network);
        assert_eq!(network("\"all\""), Ok(Network::All));
        assert_eq!(network("\"none\""), Ok(Network::None));
        assert_eq!(network("[443, 5432]"), Ok(Network::Ports(vec![443, 5432])));
        for wrong in ["\"some\"", "[0]", "[65536]", "[-1]", "443", "[\"443\"]"] {
            assert!(network(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn what_cannot_be_meant_is_told() {
        let limits: ServerLimits = toml_edit::de::from_str(
            "memory = \"1KiB\"\nprocesses = 0\nopen-files = 2\ncpu-weight = 0\nnice = -5",
        )
        .expect("it can be read");
        let sandbox = sandbox("read = [\"data\"]\nwrite = [\"./x\"]").expect("it can be read");
        let mut found = Vec::new();
        mistakes(&limits, Some(&sandbox), &mut found);
        let paths: Vec<String> = found.iter().map(|wrong| wrong.path.join(".")).collect();
        assert_eq!(
            paths,
            [
                "limits.processes",
                "limits.open-files",
                "limits.cpu-weight",
                "limits.nice",
                "limits.memory",
                "sandbox.read",
                "sandbox.write"
            ]
        );
        mistakes(
            &ServerLimits::default(),
            Some(&Sandbox::default()),
            &mut Vec::new(),
        );
    }
}
