//! Why a request has no identity, and what its host hears.
//!
//! The words never repeat a credential. What is wrong with a token is said, since only who holds it
//! hears it; which issuers, agents or keys there are is not.

use std::time::Duration;

/// Why a request has no identity.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Denied {
    /// A key that nobody has.
    #[error("the key in `Authorization` is not known; make one with `chillgate key AGENT`")]
    UnknownKey,
    /// A token that is not good here.
    #[error("the token in `Authorization` is not good here: {0}")]
    Token(&'static str),
    /// `Authorization` holds something else, or is there twice.
    #[error("send the credential as one header `Authorization: Bearer …`")]
    Malformed,
    /// An agent that nobody lets in any more.
    #[error("this agent is revoked; whoever runs this gateway can undo that")]
    Revoked,
    /// A certificate that names nobody here.
    #[error("the certificate that this connection has shown is not good here: {0}")]
    Certificate(&'static str),
    /// A user of this machine who is no agent.
    #[error("the user at the other end of this socket is no agent here")]
    UnknownUser,
    /// Credentials are configured and none was presented.
    #[error("this endpoint needs a credential: send `Authorization: Bearer …`")]
    Missing,
    /// The identity header is there twice, empty, too long or no visible ASCII.
    #[error("the identity header must be there once, with 1 to 128 visible ASCII characters")]
    Header,
    /// The keys to judge the token by cannot be had now.
    #[error("the keys of the token's issuer cannot be had now; try again in a few seconds")]
    NoKeys,
}

impl Denied {
    /// Whether a credential was presented that is no good: OAuth's `invalid_token`.
    pub fn is_invalid(&self) -> bool {
        matches!(self, Self::UnknownKey | Self::Token(_) | Self::Revoked)
    }

    /// When to come back, where the fault is not the host's.
    pub fn retry_after(&self) -> Option<Duration> {
        matches!(self, Self::NoKeys).then_some(Duration::from_secs(2))
    }
}
