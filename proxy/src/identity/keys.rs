//! API keys: which agent a key names, by its hash.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

use super::principal::Principal;
use crate::config::{ApiKeys, key_hash};

/// The keys of all agents.
#[derive(Debug, Default)]
pub(super) struct Keys(Vec<Key>);

#[derive(Debug)]
struct Key {
    whose: Principal,
    hash: [u8; 32],
}

impl Keys {
    /// Reads what is configured; keys in a file are read now.
    pub(super) fn new(config: Option<&ApiKeys>) -> Result<Self, String> {
        let keys = match config {
            None => return Ok(Self::default()),
            Some(ApiKeys::Inline(keys)) => parse(keys)?,
            Some(ApiKeys::File(source)) => {
                let path = source.strip_prefix("file:").unwrap_or(source);
                parse(&read(Path::new(path))?)?
            }
        };
        Ok(Self(keys))
    }

    /// Whether there are any.
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whose key this is. Compares with every key, so that the time taken says nothing about any.
    pub(super) fn owner(&self, presented: &[u8]) -> Option<Principal> {
        let presented: [u8; 32] = Sha256::digest(presented).into();
        let mut owner = None;
        for key in &self.0 {
            if bool::from(key.hash.ct_eq(&presented)) {
                owner = Some(&key.whose);
            }
        }
        owner.cloned()
    }
}

fn read(path: &Path) -> Result<BTreeMap<String, String>, String> {
    let fail =
        |error: &dyn std::fmt::Display| format!("identity.api-keys: {}: {error}", path.display());
    let text = std::fs::read_to_string(path).map_err(|error| fail(&error))?;
    let document: toml_edit::DocumentMut = text.parse().map_err(|error| fail(&error))?;
    let entries = document.iter().map(|(agent, hash)| match hash.as_str() {
        Some(hash) => Ok((agent.to_owned(), hash.to_owned())),
        None => Err(fail(&format!("`{agent}` must be a string `sha256:…`"))),
    });
    entries.collect()
}

fn parse(keys: &BTreeMap<String, String>) -> Result<Vec<Key>, String> {
    let parse = |(agent, text): (&String, &String)| {
        let hash = key_hash(text).ok_or_else(|| {
            format!(
                "the key of `{agent}` must be \"sha256:\" and 64 hexadecimal digits; \
                 `chillgate key {agent}` prints one"
            )
        })?;
        Ok(Key {
            whose: Principal::named(Arc::from(agent.as_str())),
            hash,
        })
    };
    let keys = keys
        .iter()
        .map(parse)
        .collect::<Result<Vec<Key>, String>>()?;
    for (at, key) in keys.iter().enumerate() {
        if let Some(twin) = keys[..at].iter().find(|twin| twin.hash == key.hash) {
            let (one, other) = (&twin.whose.agent, &key.whose.agent);
            return Err(format!(
                "`{one}` and `{other}` have the same key: a key names one agent"
            ));
        }
    }
    Ok(keys)
}
