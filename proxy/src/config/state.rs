//! `[state]`: where counters live, and what outlives the process.

use std::path::PathBuf;
use std::time::Duration;

use serde::Deserialize;

use super::secret::SecretText;
use super::units::{one_or_many, span};

/// What [`State::store`] says where counters are this process's own.
pub const MEMORY: &str = "memory";

/// Where counters live, and where what outlives the process is kept.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub struct State {
    /// `memory`, or the address of a Redis or Valkey that replicas share: `redis://HOST:PORT/DB`,
    /// `rediss://…` with TLS, `redis+unix:///PATH`. Several are nodes of one cluster, or Sentinels.
    #[serde(deserialize_with = "one_or_many")]
    pub store: Vec<String>,
    /// Who chillgate is there (ACL). Absent: the default user.
    pub username: Option<String>,
    /// What proves it.
    pub password: Option<SecretText>,
    /// The master's name at the Sentinels whose addresses `store` has.
    pub sentinel: Option<String>,
    /// A PEM file with the certificate authorities to trust there. Absent: Mozilla's list.
    pub ca: Option<PathBuf>,
    /// How long a call waits for the store's answer; then each policy does what its
    /// `on-store-error` says.
    #[serde(deserialize_with = "span")]
    pub timeout: Duration,
    /// What all keys in the store begin with: gateways with the same one count together.
    pub prefix: String,
    /// What outlives the process: which servers run, what failed. Absent: systemd's state directory,
    /// else `$XDG_STATE_HOME/chillgate` or `~/.local/state/chillgate`.
    pub folder: Option<PathBuf>,
}

impl Default for State {
    fn default() -> Self {
        Self {
            store: vec![MEMORY.to_owned()],
            username: None,
            password: None,
            sentinel: None,
            ca: None,
            timeout: Duration::from_millis(25),
            prefix: "chillgate".to_owned(),
            folder: None,
        }
    }
}

impl State {
    /// The addresses of the store that replicas share, if there is one.
    pub fn shared(&self) -> Option<&[String]> {
        (self.store != [MEMORY]).then_some(&self.store)
    }
}
