//! `[admin]`: where an operator of this machine asks and changes what a running chillgate does.

use serde::Deserialize;

use super::Listen;
use super::secret::SecretText;

/// The least a token may have, in bytes: what can be tried is not one.
pub const SHORTEST: usize = 16;

/// The admin API. Absent: there is none.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Admin {
    /// `unix:/run/chillgate/admin.sock`, for the user that chillgate runs as and root alone, or
    /// `127.0.0.1:9902` with a `token`. No address of a network.
    pub listen: Listen,
    /// What has to be shown there as `Authorization: Bearer`. Not needed on a Unix socket.
    #[serde(default)]
    pub token: Option<SecretText>,
}
