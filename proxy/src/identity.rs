//! Who the agent is: key, header, static, else anonymous, in this order.
//!
//! A credential that is presented but wrong is refused, never passed over for the next source.
//! No identity means the agent `anonymous`, never somebody else. Only this file reads credentials;
//! they travel no further.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use data_encoding::HEXLOWER_PERMISSIVE;
use http::{HeaderMap, HeaderName, header};
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

use crate::config::secret::expand;
use crate::config::{ApiKeys, Identity};

/// The agent that nobody has named.
pub const ANONYMOUS: &str = "anonymous";

/// The longest name an agent may have.
const NAME: usize = 128;

/// Tells agents apart.
#[derive(Debug)]
pub struct Identities {
    keys: Vec<Key>,
    header: Option<HeaderName>,
    fixed: Option<Arc<str>>,
    anonymous: Arc<str>,
}

#[derive(Debug)]
struct Key {
    agent: Arc<str>,
    hash: [u8; 32],
}

/// Why a request has no identity.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Denied {
    /// A key that nobody has.
    #[error("the key in `Authorization` is not known; make one with `chillgate key AGENT`")]
    UnknownKey,
    /// `Authorization` holds something else, or is there twice.
    #[error("send the key as one header `Authorization: Bearer KEY`")]
    Malformed,
    /// Keys are configured and none was presented.
    #[error("this endpoint needs a key: send `Authorization: Bearer KEY`")]
    Missing,
    /// The identity header is there twice, empty, too long or no visible ASCII.
    #[error("the identity header must be there once, with 1 to 128 visible ASCII characters")]
    Header,
}

impl Identities {
    /// Reads what is configured; keys in a file are read now.
    pub fn new(config: &Identity) -> Result<Self, String> {
        let keys = match &config.api_keys {
            None => Vec::new(),
            Some(ApiKeys::Inline(keys)) => parse_keys(keys)?,
            Some(ApiKeys::File(source)) => {
                let path = source.strip_prefix("file:").unwrap_or(source);
                parse_keys(&read_keys(Path::new(path))?)?
            }
        };
        let header = match &config.header {
            None => None,
            Some(name) => Some(
                name.parse()
                    .map_err(|_| format!("identity.header: `{name}` is no header name"))?,
            ),
        };
        let fixed = match &config.fixed {
            None => None,
            Some(text) => {
                let name = expand(text).map_err(|error| format!("identity.static: {error}"))?;
                Some(Arc::from(name))
            }
        };
        Ok(Self {
            keys,
            header,
            fixed,
            anonymous: Arc::from(ANONYMOUS),
        })
    }

    /// Who sends these headers.
    pub fn of(&self, headers: &HeaderMap) -> Result<Arc<str>, Denied> {
        if !self.keys.is_empty()
            && let Some(key) = bearer(headers)?
        {
            return self.owner(key).ok_or(Denied::UnknownKey);
        }
        if let Some(name) = &self.header
            && headers.contains_key(name)
        {
            return named(headers, name).ok_or(Denied::Header);
        }
        if let Some(fixed) = &self.fixed {
            return Ok(fixed.clone());
        }
        if self.keys.is_empty() {
            Ok(self.anonymous.clone())
        } else {
            Err(Denied::Missing)
        }
    }

    /// Who is at the other end of standard input.
    pub fn of_stdio(&self) -> Arc<str> {
        self.fixed.clone().unwrap_or_else(|| self.anonymous.clone())
    }

    /// Compares with every key, so that the time taken says nothing about any.
    fn owner(&self, presented: &[u8]) -> Option<Arc<str>> {
        let presented: [u8; 32] = Sha256::digest(presented).into();
        let mut owner = None;
        for key in &self.keys {
            if bool::from(key.hash.ct_eq(&presented)) {
                owner = Some(&key.agent);
            }
        }
        owner.cloned()
    }
}

fn bearer(headers: &HeaderMap) -> Result<Option<&[u8]>, Denied> {
    let mut values = headers.get_all(header::AUTHORIZATION).iter();
    let Some(value) = values.next() else {
        return Ok(None);
    };
    if values.next().is_some() {
        return Err(Denied::Malformed);
    }
    let (scheme, key) = value
        .as_bytes()
        .split_at_checked(7)
        .ok_or(Denied::Malformed)?;
    let key = key.trim_ascii();
    if !scheme.eq_ignore_ascii_case(b"bearer ") || key.is_empty() {
        return Err(Denied::Malformed);
    }
    Ok(Some(key))
}

fn named(headers: &HeaderMap, name: &HeaderName) -> Option<Arc<str>> {
    let mut values = headers.get_all(name).iter();
    let value = values.next()?.to_str().ok()?.trim();
    let visible = value.bytes().all(|byte| byte.is_ascii_graphic());
    let legal = visible && !value.is_empty() && value.len() <= NAME && values.next().is_none();
    legal.then(|| Arc::from(value))
}

fn read_keys(path: &Path) -> Result<BTreeMap<String, String>, String> {
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

fn parse_keys(keys: &BTreeMap<String, String>) -> Result<Vec<Key>, String> {
    let parse = |(agent, text): (&String, &String)| {
        let hash = text
            .strip_prefix("sha256:")
            .and_then(parse_hash)
            .ok_or_else(|| {
                format!(
                    "the key of `{agent}` must be \"sha256:\" and 64 hexadecimal digits; \
                 `chillgate key {agent}` prints one"
                )
            })?;
        Ok(Key {
            agent: Arc::from(agent.as_str()),
            hash,
        })
    };
    let keys = keys
        .iter()
        .map(parse)
        .collect::<Result<Vec<Key>, String>>()?;
    for (at, key) in keys.iter().enumerate() {
        if let Some(twin) = keys[..at].iter().find(|twin| twin.hash == key.hash) {
            let (one, other) = (&twin.agent, &key.agent);
            return Err(format!(
                "`{one}` and `{other}` have the same key: a key names one agent"
            ));
        }
    }
    Ok(keys)
}

fn parse_hash(text: &str) -> Option<[u8; 32]> {
    let hash = HEXLOWER_PERMISSIVE.decode(text.as_bytes()).ok()?;
    hash.try_into().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hash(key: &str) -> String {
        let digest = Sha256::digest(key.as_bytes());
        format!("sha256:{}", HEXLOWER_PERMISSIVE.encode(&digest))
    }

    fn identities(header: Option<&str>, fixed: Option<&str>, keyed: bool) -> Identities {
        let keys = BTreeMap::from([
            ("a".to_owned(), hash("cg_a")),
            ("b".to_owned(), hash("cg_b")),
        ]);
        Identities::new(&Identity {
            header: header.map(str::to_owned),
            api_keys: keyed.then_some(ApiKeys::Inline(keys)),
            fixed: fixed.map(str::to_owned),
        })
        .expect("a good configuration")
    }

    fn headers(pairs: &[(&str, &str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in pairs {
            headers.append(
                name.parse::<HeaderName>().expect("name"),
                value.parse().expect("value"),
            );
        }
        headers
    }

    #[test]
    fn a_key_names_its_agent_and_a_wrong_one_nobody() {
        let who = identities(Some("x-agent-id"), Some("fixed"), true);
        let of = |pairs: &[(&str, &str)]| who.of(&headers(pairs)).map(|name| name.to_string());
        assert_eq!(of(&[("authorization", "Bearer cg_a")]), Ok("a".into()));
        assert_eq!(of(&[("authorization", "bearer  cg_b")]), Ok("b".into()));
        // Presented but wrong never falls through to the header or the static agent.
        let wrong = [("authorization", "Bearer cg_x"), ("x-agent-id", "a")];
        assert_eq!(of(&wrong), Err(Denied::UnknownKey));
        assert_eq!(
            of(&[("authorization", "Basic YTpi")]),
            Err(Denied::Malformed)
        );
        let twice = [
            ("authorization", "Bearer cg_a"),
            ("authorization", "Bearer cg_b"),
        ];
        assert_eq!(of(&twice), Err(Denied::Malformed));
        assert_eq!(of(&[("x-agent-id", "c")]), Ok("c".into()));
        assert_eq!(of(&[]), Ok("fixed".into()));
    }

    #[test]
    fn nobody_is_anonymous_unless_keys_are_asked_for() {
        assert_eq!(
            identities(None, None, false).of(&headers(&[])).as_deref(),
            Ok(ANONYMOUS)
        );
        assert_eq!(
            identities(None, None, true).of(&headers(&[])),
            Err(Denied::Missing)
        );
        // The header counts only where it is configured.
        let spoofed = headers(&[("x-agent-id", "a")]);
        assert_eq!(
            identities(None, None, false).of(&spoofed).as_deref(),
            Ok(ANONYMOUS)
        );
    }

    #[test]
    fn an_identity_header_is_there_once_and_legible() {
        let who = identities(Some("x-agent-id"), None, false);
        for bad in [
            vec![("x-agent-id", "")],
            vec![("x-agent-id", "a"), ("x-agent-id", "b")],
        ] {
            assert_eq!(who.of(&headers(&bad)), Err(Denied::Header), "{bad:?}");
        }
        assert_eq!(
            who.of(&headers(&[("x-agent-id", &"a".repeat(129))])),
            Err(Denied::Header)
        );
    }
}
