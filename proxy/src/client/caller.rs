//! What a host has shown chillgate, for the issuer of a server that exchanges it.
//!
//! Apart because a host's token has one way and no other: from whoever has judged it to the token
//! endpoint of a server with `token.exchange`, by way of the replica that asks there. It is never shown
//! to a server, written or logged.

use std::sync::Arc;

use arc_swap::ArcSwapOption;
use secrecy::{ExposeSecret, SecretString};
use sha2::{Digest, Sha256};

/// A host's token that was found good.
#[derive(Debug)]
pub struct Credential {
    pub(super) token: SecretString,
    /// The same for tokens that say the same.
    pub(super) says: [u8; 32],
    /// This one token's.
    pub(super) mark: [u8; 32],
}

impl Credential {
    /// A token, and what stands for all that it says.
    pub fn new(token: &str, says: &[u8; 32]) -> Self {
        Self {
            token: token.into(),
            says: *says,
            mark: Sha256::digest(token).into(),
        }
    }

    /// The token, for the replica of this gateway that is to have it exchanged, and nobody else.
    pub fn for_a_replica(&self) -> &str {
        self.token.expose_secret()
    }
}

/// Whoever a request to a server is made for: what its host has shown last. Clones are the same.
#[derive(Clone, Debug, Default)]
pub struct Caller(Arc<ArcSwapOption<Credential>>);

impl Caller {
    /// Somebody who has shown this, or nothing.
    pub fn new(credential: Option<Arc<Credential>>) -> Self {
        Self(Arc::new(ArcSwapOption::new(credential)))
    }

    /// The host has shown something else, which counts from here on.
    pub fn shows(&self, credential: Option<Arc<Credential>>) {
        // Hosts without a token are many, and there is nothing to write down of them.
        if credential.is_some() || self.0.load().is_some() {
            self.0.store(credential);
        }
    }

    /// What its host has shown last.
    pub(super) fn now(&self) -> Option<Arc<Credential>> {
        self.0.load_full()
    }
}
