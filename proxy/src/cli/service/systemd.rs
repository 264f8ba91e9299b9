//! systemd as it is asked through `systemctl`: the system's manager, or the user's.
//!
//! Only calls and the wording of what went wrong.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::place::UNIT;
use crate::supervisor::tool::{self, Ran};

/// How long a call may take: a start waits until the service is ready, a stop until it has drained.
const LIMIT: Duration = Duration::from_secs(150);

/// The manager that an installation belongs to.
#[derive(Clone, Copy, Debug)]
pub(super) struct Systemd {
    pub(super) user: bool,
}

impl Systemd {
    /// Whether it runs: this machine was started by systemd, this user has a manager.
    pub(super) fn runs(self) -> bool {
        if !self.user {
            return Path::new("/run/systemd/system").is_dir();
        }
        let own = std::env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from);
        own.is_some_and(|own| own.join("systemd").is_dir())
    }

    /// Calls `systemctl`.
    ///
    /// # Errors
    /// In words, where it did not do it.
    pub(super) async fn call(self, words: &[&str]) -> Result<Ran, String> {
        let scope = if self.user { &["--user"][..] } else { &[] };
        let args = scope.iter().chain(["--no-pager"].iter()).chain(words);
        let said = tool::run("systemctl", args, LIMIT).await;
        let call = format!("systemctl {}", words.join(" "));
        match said {
            Err(error) => Err(format!("{call} could not be run: {error}")),
            Ok(ran) if !ran.is_fine() => Err(format!("{call} failed: {}", ran.err)),
            Ok(ran) => Ok(ran),
        }
    }

    /// These properties of the unit.
    pub(super) async fn show(self, properties: &str) -> Result<BTreeMap<String, String>, String> {
        let ran = self.call(&["show", UNIT, "-p", properties]).await?;
        let pairs = ran.out.lines().filter_map(|line| line.split_once('='));
        Ok(pairs
            .map(|(key, value)| (key.to_owned(), value.to_owned()))
            .collect())
    }

    /// What to type to read why the service does not start.
    pub(super) fn journal(self) -> String {
        let scope = if self.user { "--user " } else { "" };
        format!("journalctl {scope}-u {UNIT} -n 50")
    }
}
