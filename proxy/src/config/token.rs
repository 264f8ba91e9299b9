//! `[server.NAME.token]`: how chillgate gets a token of its own for a server.

use std::path::PathBuf;

use serde::Deserialize;

use super::secret::SecretText;
use super::units::one_or_many;

/// Client credentials of OAuth 2.1 at an issuer.
#[derive(Clone, Debug, Deserialize, PartialEq)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct ServerToken {
    /// The issuer's token endpoint.
    pub endpoint: String,
    /// What chillgate is called there.
    pub client_id: String,
    /// What proves it.
    pub client_secret: SecretText,
    /// The scopes that are asked for.
    #[serde(default, deserialize_with = "one_or_many")]
    pub scopes: Vec<String>,
    /// The server that the token is for (RFC 8707). Absent: its `url`.
    #[serde(default)]
    pub resource: Option<String>,
    /// The same in the words of issuers that do not know `resource`.
    #[serde(default)]
    pub audience: Option<String>,
    /// A PEM file with certificate authorities to trust besides the system's.
    #[serde(default)]
    pub ca: Option<PathBuf>,
}
