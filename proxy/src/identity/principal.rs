//! Who asks, once a credential has been found good.
//!
//! A name is what policies, quotas and the audit log go by. What is handed to one caller and must
//! never reach another (sessions, tasks, states, private answers) goes by the subject, which no two
//! issuers share.

use std::sync::Arc;
use std::time::SystemTime;

use chillgate_policies::engine::Grants;
use sha2::{Digest, Sha256};

use crate::client::Credential;

/// Somebody who may ask. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Principal {
    /// The name that policies and the audit log know.
    pub agent: Arc<str>,
    /// Whose sessions, tasks and states are one's own: no other agent's, and no other issuer's or
    /// user's of the same name.
    pub subject: Arc<str>,
    /// What else the credential says.
    pub grants: Arc<Grants>,
    /// When the credential ends, if it does.
    pub until: Option<SystemTime>,
    /// A digest of all that a token says but its times, so that one that is renewed is the same.
    pub says: Option<Arc<[u8; 32]>>,
    /// The token itself, where a server's issuer is to exchange it and nowhere else.
    pub token: Option<Arc<Credential>>,
}

impl Principal {
    /// A name and nothing more.
    pub fn named(agent: Arc<str>) -> Self {
        Self {
            subject: agent.clone(),
            agent,
            grants: nothing(),
            until: None,
            says: None,
            token: None,
        }
    }

    /// What stands for what its token says, where the token itself is kept.
    pub fn kept(&self) -> Option<Arc<[u8; 32]>> {
        self.says.clone().filter(|_| self.token.is_some())
    }

    /// The same with a subject that `parts` make out besides its name.
    pub(super) fn of(agent: Arc<str>, parts: &[&str]) -> Self {
        Self {
            subject: subject(&agent, parts),
            ..Self::named(agent)
        }
    }
}

/// What stands for an agent that is somebody's alone. A digest: issuers and users may have names of
/// any length, and a subject is a key, not something to be read.
fn subject(agent: &str, parts: &[&str]) -> Arc<str> {
    let mut digest = Sha256::new();
    for part in parts {
        digest.update((part.len() as u64).to_be_bytes());
        digest.update(part);
    }
    let digest = data_encoding::BASE64URL_NOPAD.encode(&digest.finalize());
    // A line break is in no name, so that no name is a subject made like this.
    format!("{agent}\n{digest}").into()
}

/// The grants of whoever has none, one for all.
pub fn nothing() -> Arc<Grants> {
    static NOTHING: std::sync::LazyLock<Arc<Grants>> = std::sync::LazyLock::new(Arc::default);
    NOTHING.clone()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_subject_is_one_issuers_one_users_and_one_agents() {
        let parts: [(&str, &[&str]); 7] = [
            ("bot", &["https://a.example", "1"]),
            ("bot", &["https://b.example", "1"]),
            ("bot", &["https://a.example", "2"]),
            ("bot", &["https://a.example1", ""]),
            ("bot", &["https://a.example", "", "1"]),
            ("bat", &["https://a.example", "1"]),
            ("bot", &[]),
        ];
        let all: std::collections::BTreeSet<_> = parts
            .iter()
            .map(|(agent, parts)| Principal::of(Arc::from(*agent), parts).subject)
            .chain([Principal::named(Arc::from("bot")).subject])
            .collect();
        assert_eq!(all.len(), 8);
    }
}
