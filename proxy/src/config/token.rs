//! `[server.NAME.token]`: how chillgate gets a token for a server, its own or one for each host.

use std::path::PathBuf;

use serde::Deserialize;

use super::secret::SecretText;
use super::units::one_or_many;
use super::{RemoteServer, Server};

/// Client credentials of OAuth 2.1 at an issuer, or an exchange of each host's own token there.
#[derive(Clone, Debug, Deserialize, PartialEq)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct ServerToken {
    /// The issuer's token endpoint.
    pub endpoint: String,
    /// What chillgate is called there.
    pub client_id: String,
    /// What proves it.
    pub client_secret: SecretText,
    /// Whether each host's token is exchanged for one of its own (RFC 8693). Absent: all hosts share
    /// one that is chillgate's.
    #[serde(default)]
    pub exchange: bool,
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

impl Server {
    /// Whether each host reaches it with a token of its own.
    pub fn is_by_caller(&self) -> bool {
        matches!(self, Self::Remote(remote) if remote.is_by_caller())
    }
}

impl RemoteServer {
    /// Whether each host reaches it with a token of its own.
    pub fn is_by_caller(&self) -> bool {
        self.token.as_ref().is_some_and(|token| token.exchange)
    }
}
