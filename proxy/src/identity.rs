//! Who the agent is: token or key, certificate, header, user, static, else anonymous, in this order.
//!
//! A credential that is presented but wrong is refused, never passed over for the next source.
//! No identity means the agent `anonymous`, never somebody else. Only these rooms read credentials;
//! they travel no further, but for a token that the issuer of a server is to exchange: nobody else
//! ever sees it.

use std::collections::BTreeMap;
use std::sync::Arc;

use chillgate_policies::engine::clock::Clock as _;
use futures_util::future::BoxFuture;
use http::{HeaderMap, HeaderName, header};
use secrecy::{ExposeSecret as _, SecretString};

use crate::client::Credential;
use crate::clock::TokioClock;
use crate::config::Identity;
use crate::config::identity::Certificate as CertificateConfig;
use crate::config::secret::expand;

mod denied;
mod jwt;
mod keys;
mod metadata;
mod peer;
mod principal;
mod review;

pub use denied::Denied;
use jwt::{Issuers, Token};
use keys::Keys;
pub use metadata::WELL_KNOWN;
pub use peer::{Certificate, Peer};
pub use principal::{Principal, nothing};
use review::Reviews;

/// The agent that nobody has named.
pub const ANONYMOUS: &str = "anonymous";

/// The longest name an agent may have.
const NAME: usize = 128;

/// Tells agents apart.
#[derive(Debug)]
pub struct Identities {
    issuers: Issuers,
    reviews: Option<Reviews>,
    keys: Keys,
    certificate: Option<CertificateConfig>,
    users: BTreeMap<u32, Principal>,
    header: Option<HeaderName>,
    fixed: Option<Principal>,
    anonymous: Principal,
    /// Where hosts say chillgate is, and what they ask for at first.
    resource: Option<String>,
    scopes: Vec<String>,
    /// Tokens go with whom they are of, for issuers that exchange them.
    keeps: bool,
}

/// Who somebody is: most are known at once.
pub enum Found {
    /// Settled.
    Now(Result<Principal, Denied>),
    /// An issuer has to be asked.
    Later(BoxFuture<'static, Result<Principal, Denied>>),
}

impl Identities {
    /// Reads what is configured; keys in a file are read now. What `previous` knows of issuers is
    /// kept.
    pub fn new(config: &Identity, previous: Option<&Self>) -> Result<Self, String> {
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
                Some(Principal::named(Arc::from(name)))
            }
        };
        let issuers = Issuers::new(config, previous.map(|previous| &previous.issuers));
        let reviews = config.token_review.as_ref().map(|review| {
            let previous = previous.and_then(|previous| previous.reviews.as_ref());
            Reviews::new(review, previous)
        });
        let users = config.users.iter().flat_map(|(agent, users)| {
            let whose = Principal::named(agent.as_str().into());
            users.0.iter().map(move |user| (*user, whose.clone()))
        });
        Ok(Self {
            issuers: issuers.map_err(|cause| format!("identity.jwt: {cause}"))?,
            reviews: reviews
                .transpose()
                .map_err(|cause| format!("identity.token-review: {cause}"))?,
            certificate: config.certificate.clone(),
            users: users.collect(),
            keys: Keys::new(config.api_keys.as_ref())?,
            header,
            fixed,
            anonymous: Principal::named(Arc::from(ANONYMOUS)),
            resource: config.resource.clone(),
            scopes: config.scopes.clone(),
            keeps: false,
        })
    }

    /// Whether tokens go with whom they are of, since a server's issuer is to exchange them.
    #[must_use]
    pub fn keeping(self, keeps: bool) -> Self {
        Self { keeps, ..self }
    }

    /// Asks for whatever else has to be asked for, so that no host waits for it.
    pub fn warm(&self) {
        self.issuers.warm();
    }

    /// Who sends these headers over this connection; `resource` is the address that they were sent
    /// to.
    pub fn of(&self, headers: &HeaderMap, peer: &Peer, resource: impl FnOnce() -> String) -> Found {
        if self.has_bearers() {
            match bearer(headers) {
                Ok(Some(credential)) => return self.judge(credential, resource),
                Ok(None) => {}
                Err(denied) => return Found::Now(Err(denied)),
            }
        }
        Found::Now(self.otherwise(headers, peer))
    }

    /// Who it is where no credential travels with the request.
    fn otherwise(&self, headers: &HeaderMap, peer: &Peer) -> Result<Principal, Denied> {
        if let (Some(config), Some(certificate)) = (&self.certificate, &peer.certificate) {
            return certificate.of(config, TokioClock.wall());
        }
        if let Some(name) = &self.header
            && headers.contains_key(name)
        {
            return named(headers, name)
                .ok_or(Denied::Header)
                .map(Principal::named);
        }
        if let Some(user) = peer.user.filter(|_| !self.users.is_empty()) {
            return self.users.get(&user).cloned().ok_or(Denied::UnknownUser);
        }
        match &self.fixed {
            Some(fixed) => Ok(fixed.clone()),
            None if self.asks() => Err(Denied::Missing),
            None => Ok(self.anonymous.clone()),
        }
    }

    fn has_bearers(&self) -> bool {
        !self.keys.is_empty() || !self.issuers.is_empty() || self.reviews.is_some()
    }

    /// Whether nobody is let in who does not say who it is.
    fn asks(&self) -> bool {
        self.has_bearers() || self.certificate.is_some() || !self.users.is_empty()
    }

    /// Who is at the other end of standard input.
    pub fn of_stdio(&self) -> Principal {
        self.fixed.as_ref().unwrap_or(&self.anonymous).clone()
    }

    /// A key has no dots; a signed token has two (RFC 7515, section 7.1).
    fn judge(&self, credential: &[u8], resource: impl FnOnce() -> String) -> Found {
        let is_token = credential.split(|byte| *byte == b'.').count() == 3;
        if is_token && (self.reviews.is_some() || !self.issuers.is_empty()) {
            let Ok(token) = std::str::from_utf8(credential) else {
                return Found::Now(Err(Denied::Malformed));
            };
            let found = self.judge_token(token, resource);
            return if self.keeps { found.with(token) } else { found };
        }
        Found::Now(self.keys.owner(credential).ok_or(if self.keys.is_empty() {
            Denied::Token("it is no signed token of three parts")
        } else {
            Denied::UnknownKey
        }))
    }
}

impl Identities {
    /// Whose token this is. It is taken apart once, and not at all where it has just been.
    fn judge_token(&self, text: &str, resource: impl FnOnce() -> String) -> Found {
        let by_address = self.issuers.by_address();
        let resource = by_address.then(resource).unwrap_or_default();
        if let Some(whose) = self.issuers.remembered(text, &resource) {
            return Found::Now(Ok(whose));
        }
        let reviewed = self
            .reviews
            .as_ref()
            .map(|reviews| reviews.remembered(text));
        if let Some(Some(verdict)) = reviewed {
            return Found::Now(verdict);
        }
        let token = Token::read(text);
        match &self.reviews {
            // Whose tokens nobody else judges, the API server may know.
            Some(reviews) if !token.as_ref().is_ok_and(|token| self.issuers.claim(token)) => {
                reviews.of(text)
            }
            _ => self.issuers.of(text, token, &resource),
        }
    }
}

impl Found {
    /// The same with the token itself.
    fn with(self, token: &str) -> Self {
        let keep = |whose: Principal, token: &str| {
            let token = whose.says.clone().map(|says| Credential::new(token, &says));
            Principal {
                token: token.map(Arc::new),
                ..whose
            }
        };
        match self {
            Self::Now(who) => Self::Now(who.map(|whose| keep(whose, token))),
            Self::Later(asking) => {
                let token = SecretString::from(token);
                Self::Later(Box::pin(async move {
                    let who = asking.await;
                    who.map(|whose| keep(whose, token.expose_secret()))
                }))
            }
        }
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

#[cfg(test)]
mod tests {
    use data_encoding::HEXLOWER;
    use sha2::{Digest, Sha256};

    use super::*;
    use crate::config::ApiKeys;

    fn hash(key: &str) -> String {
        let digest = Sha256::digest(key.as_bytes());
        format!("sha256:{}", HEXLOWER.encode(&digest))
    }

    fn identities(header: Option<&str>, fixed: Option<&str>, keyed: bool) -> Identities {
        let keys = BTreeMap::from([
            ("a".to_owned(), hash("cg_a")),
            ("b".to_owned(), hash("cg_b")),
        ]);
        let config = Identity {
            header: header.map(str::to_owned),
            api_keys: keyed.then_some(ApiKeys::Inline(keys)),
            fixed: fixed.map(str::to_owned),
            ..Identity::default()
        };
        Identities::new(&config, None).expect("a good configuration")
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

    fn of(who: &Identities, headers: &HeaderMap) -> Result<String, Denied> {
        match who.of(headers, &Peer::default(), String::new) {
            Found::Now(who) => who.map(|who| who.agent.to_string()),
            Found::Later(_) => panic!("no issuer has to be asked"),
        }
    }

    #[test]
    fn a_key_names_its_agent_and_a_wrong_one_nobody() {
        let who = identities(Some("x-agent-id"), Some("fixed"), true);
        let of = |pairs: &[(&str, &str)]| of(&who, &headers(pairs));
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
            of(&identities(None, None, false), &headers(&[])),
            Ok(ANONYMOUS.into())
        );
        assert_eq!(
            of(&identities(None, None, true), &headers(&[])),
            Err(Denied::Missing)
        );
        // The header counts only where it is configured.
        let spoofed = headers(&[("x-agent-id", "a")]);
        assert_eq!(
            of(&identities(None, None, false), &spoofed),
            Ok(ANONYMOUS.into())
        );
    }

    #[test]
    fn an_identity_header_is_there_once_and_legible() {
        let who = identities(Some("x-agent-id"), None, false);
        for bad in [
            vec![("x-agent-id", "")],
            vec![("x-agent-id", "a"), ("x-agent-id", "b")],
        ] {
            assert_eq!(of(&who, &headers(&bad)), Err(Denied::Header), "{bad:?}");
        }
        assert_eq!(
            of(&who, &headers(&[("x-agent-id", &"a".repeat(129))])),
            Err(Denied::Header)
        );
    }
}
