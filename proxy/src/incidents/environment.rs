//! What a server was started with, as a fingerprint: enough to see that something has changed.
//!
//! Values of variables are there as short keyed hashes, never as themselves. It looks at one file
//! and starts nothing; what a change means is decided by its caller.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::time::UNIX_EPOCH;

use data_encoding::HEXLOWER;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use crate::supervisor::{Launch, find};

/// The most variables that are told apart.
const VARIABLES: usize = 64;

/// The surroundings of one start.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Environment {
    /// The program's path, size and time of change; empty where there is none.
    pub program: String,
    /// A hash of program and arguments as configured.
    pub command: String,
    /// Names of variables, each with a short keyed hash of its value.
    pub variables: BTreeMap<String, String>,
    /// The working directory, where one is configured.
    pub folder: String,
    /// A hash of its sandbox, where it has one.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub sandbox: String,
    /// A hash of the address of a server somewhere else.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub address: String,
    /// Names of headers sent to it, each with a short keyed hash of its value.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub headers: BTreeMap<String, String>,
    /// chillgate's version.
    pub chillgate: String,
    /// The kernel's.
    pub kernel: String,
}

impl Environment {
    /// Of a server that is, or would be, started like this.
    pub fn of(launch: &Launch, salt: &str) -> Self {
        let program = find(launch).map(|path| file(&path)).unwrap_or_default();
        let mut variables: BTreeMap<String, String> = launch
            .env
            .iter()
            .map(|(name, value)| (name.clone(), short(&[salt, name, value])))
            .collect();
        while variables.len() > VARIABLES {
            variables.pop_last();
        }
        let words = launch.command.iter().map(String::as_str);
        let words: Vec<&str> = [salt].into_iter().chain(words).collect();
        let folder = launch.cwd.as_deref().map(Path::display);
        let sandbox = launch.sandbox.as_ref();
        let sandbox = sandbox.map(|sandbox| short(&[salt, &format!("{sandbox:?}")]));
        Self {
            program,
            command: short(&words),
            variables,
            folder: folder.map(|folder| folder.to_string()).unwrap_or_default(),
            sandbox: sandbox.unwrap_or_default(),
            chillgate: env!("CARGO_PKG_VERSION").to_owned(),
            kernel: kernel(),
            ..Self::default()
        }
    }

    /// Of a server somewhere else that is spoken to like this.
    pub fn of_remote(address: &str, headers: &[(String, String)], salt: &str) -> Self {
        let headers = headers.iter();
        Self {
            address: short(&[salt, address]),
            headers: headers
                .map(|(name, value)| (name.clone(), short(&[salt, name, value])))
                .collect(),
            chillgate: env!("CARGO_PKG_VERSION").to_owned(),
            kernel: kernel(),
            ..Self::default()
        }
    }

    /// What is different since `earlier`, each in a word or two. Of one that knows nothing nobody can
    /// say what has changed since.
    pub fn changes_since(&self, earlier: &Self) -> Vec<String> {
        let mut changed = Vec::new();
        let nothing = Self::default();
        if *self == nothing || *earlier == nothing {
            return changed;
        }
        for (what, now, then) in [
            ("the program", &self.program, &earlier.program),
            ("the command", &self.command, &earlier.command),
            ("the working directory", &self.folder, &earlier.folder),
            ("the sandbox", &self.sandbox, &earlier.sandbox),
            ("the address", &self.address, &earlier.address),
            ("chillgate's version", &self.chillgate, &earlier.chillgate),
            ("the kernel", &self.kernel, &earlier.kernel),
        ] {
            if now != then {
                changed.push(what.to_owned());
            }
        }
        for (kind, now, then) in [
            ("variable", &self.variables, &earlier.variables),
            ("header", &self.headers, &earlier.headers),
        ] {
            let names: BTreeSet<&String> = now.keys().chain(then.keys()).collect();
            for name in names {
                if now.get(name) != then.get(name) {
                    changed.push(format!("the {kind} {name}"));
                }
            }
        }
        changed
    }
}

fn file(path: &Path) -> String {
    let Ok(meta) = path.metadata() else {
        return path.display().to_string();
    };
    let changed = meta.modified().ok();
    let changed = changed.and_then(|at| at.duration_since(UNIX_EPOCH).ok());
    format!(
        "{} {} {}",
        path.display(),
        meta.len(),
        changed.unwrap_or_default().as_secs()
    )
}

fn kernel() -> String {
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease");
    release.unwrap_or_default().trim().to_owned()
}

/// 32 bits of a hash: enough to see a change, too little to tell what it was made of.
fn short(parts: &[&str]) -> String {
    let mut hash = Sha256::new();
    for part in parts {
        hash.update(part.len().to_le_bytes());
        hash.update(part.as_bytes());
    }
    HEXLOWER.encode(&hash.finalize()[..4])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn launch(env: &[(&str, &str)], command: &[&str]) -> Launch {
        Launch {
            name: "a".to_owned(),
            command: command.iter().map(|word| (*word).to_owned()).collect(),
            env: env
                .iter()
                .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
                .collect(),
            cwd: None,
            ..Launch::default()
        }
    }

    #[test]
    fn a_change_is_seen_and_named_and_no_value_is_kept() {
        let before = Environment::of(
            &launch(&[("TOKEN", "planted-1"), ("A", "1")], &["sh", "-c", "x"]),
            "s",
        );
        let same = Environment::of(
            &launch(&[("TOKEN", "planted-1"), ("A", "1")], &["sh", "-c", "x"]),
            "s",
        );
        assert_eq!(same.changes_since(&before), Vec::<String>::new());
        let now = Environment::of(&launch(&[("TOKEN", "planted-2")], &["sh", "-c", "y"]), "s");
        assert_eq!(
            now.changes_since(&before),
            ["the command", "the variable A", "the variable TOKEN"]
        );
        let kept = serde_json::to_string(&now).expect("it can be written");
        assert!(!kept.contains("planted"), "{kept}");
    }

    #[test]
    fn another_sandbox_is_a_change() {
        let of = |write: Option<&str>| {
            let sandbox = write.map(|path| crate::config::Sandbox {
                write: Some(vec![path.into()]),
                ..Default::default()
            });
            let launch = Launch {
                sandbox,
                ..launch(&[], &["sh"])
            };
            Environment::of(&launch, "s")
        };
        let changes = |now, then| of(now).changes_since(&of(then));
        assert_eq!(changes(Some("/a"), Some("/a")), Vec::<String>::new());
        assert_eq!(changes(Some("/b"), Some("/a")), ["the sandbox"]);
        assert_eq!(changes(None, Some("/a")), ["the sandbox"]);
    }

    #[test]
    fn where_nothing_is_known_nothing_has_changed() {
        let known = Environment::of(&launch(&[("A", "1")], &["sh"]), "s");
        let nothing = Environment::default();
        assert_eq!(known.changes_since(&nothing), Vec::<String>::new());
        assert_eq!(nothing.changes_since(&known), Vec::<String>::new());
    }

    #[test]
    fn another_salt_gives_other_hashes() {
        let of = |salt| Environment::of(&launch(&[("A", "1")], &["sh"]), salt).variables;
        assert_ne!(of("s"), of("t"));
    }

    #[test]
    fn a_program_that_was_replaced_is_another() {
        use std::os::unix::fs::PermissionsExt as _;
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("server");
        let spelled = path.to_str().expect("UTF-8").to_owned();
        let absent = Environment::of(&launch(&[], &[&spelled]), "s");
        std::fs::write(&path, "#!/bin/sh\n").expect("written");
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).expect("set");
        let there = Environment::of(&launch(&[], &[&spelled]), "s");
        assert_eq!(there.changes_since(&absent), ["the program"]);
        std::fs::write(&path, "#!/bin/sh\ntrue\n").expect("written");
        let other = Environment::of(&launch(&[], &[&spelled]), "s");
        assert_eq!(other.changes_since(&there), ["the program"]);
    }
}
