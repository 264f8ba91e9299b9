//! Who asks, once a credential has been found good.

use std::sync::Arc;
use std::time::SystemTime;

use chillgate_policies::engine::Grants;

/// Somebody who may ask. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Principal {
    /// The name that policies, sessions and the audit log know.
    pub agent: Arc<str>,
    /// What else the credential says.
    pub grants: Arc<Grants>,
    /// When the credential ends, if it does.
    pub until: Option<SystemTime>,
}

impl Principal {
    /// A name and nothing more.
    pub fn named(agent: Arc<str>) -> Self {
        Self {
            agent,
            grants: nothing(),
            until: None,
        }
    }
}

/// The grants of whoever has none, one for all.
pub fn nothing() -> Arc<Grants> {
    static NOTHING: std::sync::LazyLock<Arc<Grants>> = std::sync::LazyLock::new(Arc::default);
    NOTHING.clone()
}
