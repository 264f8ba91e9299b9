//! `[identity]`: how an agent is recognised.
//!
//! Plain data; what a credential is worth is judged in `identity`, and mistakes that one key alone
//! does not show are found in `cross`.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use data_encoding::HEXLOWER_PERMISSIVE;
use serde::Deserialize;
use serde::de::value::MapAccessDeserializer;
use serde::de::{self, Deserializer, MapAccess, Visitor};

use super::secret::SecretText;
use super::units::{one_or_many, span, word};

/// Who the agent is: token or key, certificate, header, user, static, else `anonymous`, in this order.
#[derive(Clone, Debug, Default, Deserialize, PartialEq)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub struct Identity {
    /// Issuers whose signed tokens name the agent: one table, or a list of them.
    #[serde(deserialize_with = "one_or_many")]
    pub jwt: Vec<Jwt>,
    /// A Kubernetes API server that says whose a token is.
    pub token_review: Option<TokenReview>,
    /// The certificate that a host shows names the agent, on fronts with `tls.client-ca`.
    pub certificate: Option<Certificate>,
    /// Agent to the number of its user on this machine, on fronts that are Unix sockets.
    pub users: BTreeMap<String, Users>,
    /// A header that names the agent. Only behind something that sets it itself.
    pub header: Option<String>,
    /// Agent to `sha256:…` of its key, or `"file:PATH"` of a TOML file with such lines.
    pub api_keys: Option<ApiKeys>,
    /// Everybody is this agent. `${NAME}` takes an environment variable.
    #[serde(rename = "static")]
    pub fixed: Option<String>,
    /// Where hosts reach chillgate, such as `https://gate.example`: the beginning of the resource
    /// that tokens are for (RFC 8707), and of its metadata (RFC 9728). Absent: as the host says.
    pub resource: Option<String>,
    /// The scopes that a host asks its issuer for at first.
    #[serde(deserialize_with = "one_or_many")]
    pub scopes: Vec<String>,
}

impl Identity {
    /// Whether a credential has to be shown.
    pub fn asks(&self) -> bool {
        let has_bearer = self.api_keys.is_some() || !self.jwt.is_empty();
        has_bearer || self.token_review.is_some() || self.certificate.is_some()
    }
}

/// An issuer of signed tokens (RFC 7519).
#[derive(Clone, Debug, Deserialize, PartialEq)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Jwt {
    /// What a token's `iss` has to be, to the letter.
    pub issuer: String,
    /// What a token's `aud` has to be or to hold. Absent: the address that is asked, which begins
    /// with `identity.resource`.
    #[serde(default, deserialize_with = "one_or_many")]
    pub audience: Vec<String>,
    /// Its keys: `file:PATH` or a URL. Absent: the URL that the issuer's own metadata names.
    #[serde(default)]
    pub jwks: Option<String>,
    /// A PEM file with certificate authorities to trust besides the system's when asking for keys.
    #[serde(default)]
    pub ca: Option<PathBuf>,
    /// What chillgate shows when it asks for keys, as Kubernetes wants it.
    #[serde(default)]
    pub token: Option<SecretText>,
    /// The claim that names the agent.
    #[serde(default = "sub")]
    pub agent: String,
    /// What is put in front of that name, so that two issuers never name one agent.
    #[serde(default)]
    pub prefix: String,
    /// The claim that lists the agent's groups.
    #[serde(default = "groups")]
    pub groups: String,
    /// The claim that lists its scopes.
    #[serde(default = "scope")]
    pub scopes: String,
    /// Scopes that a broader one brings along: `{ "files:write" = ["files:read"] }`.
    #[serde(default)]
    pub implies: BTreeMap<String, Vec<String>>,
    /// The signatures that are taken, of those that the issuer's keys are for. Absent: all but those
    /// with a shared secret.
    #[serde(default)]
    pub algorithms: Vec<Signature>,
    /// How far its clock may be off, at most `60s`.
    #[serde(default = "leeway", deserialize_with = "span")]
    pub leeway: Duration,
    /// How long keys are used while their issuer cannot be asked.
    #[serde(default = "keep_keys", deserialize_with = "span")]
    pub keep_keys: Duration,
}

/// A Kubernetes API server that reviews tokens.
#[derive(Clone, Debug, Deserialize, PartialEq)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct TokenReview {
    /// Where reviews are asked for.
    #[serde(default = "reviews")]
    pub url: String,
    /// For whom a token has to be.
    #[serde(deserialize_with = "one_or_many")]
    pub audience: Vec<String>,
    /// A PEM file with certificate authorities to trust besides the system's.
    #[serde(default = "cluster_ca")]
    pub ca: Option<PathBuf>,
    /// chillgate's own token, which may create reviews.
    #[serde(default = "own_token")]
    pub token: SecretText,
    /// What is put in front of the user's name.
    #[serde(default)]
    pub prefix: String,
    /// How long a good token is taken for good, at most `60s`.
    #[serde(default = "keep_reviews", deserialize_with = "span")]
    pub keep: Duration,
}

/// What names an agent in its certificate.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Certificate {
    /// `spiffe` or `dns`.
    #[serde(deserialize_with = "word")]
    pub name: CertificateName,
    /// The trust domain of SPIFFE ids. Absent: any that `tls.client-ca` vouches for.
    #[serde(default)]
    pub trust_domain: Option<String>,
}

/// A name in a certificate.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "kebab-case")]
pub enum CertificateName {
    /// Its SPIFFE id, whole.
    Spiffe,
    /// Its first DNS name.
    Dns,
}

/// One user's number, or several.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq)]
#[serde(transparent)]
pub struct Users(#[serde(deserialize_with = "one_or_many")] pub Vec<u32>);

fn reviews() -> String {
    "https://kubernetes.default.svc/apis/authentication.k8s.io/v1/tokenreviews".to_owned()
}

#[expect(clippy::unnecessary_wraps, reason = "serde wants the field's own type")]
fn cluster_ca() -> Option<PathBuf> {
    Some("/var/run/secrets/kubernetes.io/serviceaccount/ca.crt".into())
}

fn own_token() -> SecretText {
    "file:/var/run/secrets/kubernetes.io/serviceaccount/token".into()
}

fn keep_reviews() -> Duration {
    Duration::from_secs(30)
}

fn sub() -> String {
    "sub".to_owned()
}

fn groups() -> String {
    "groups".to_owned()
}

fn scope() -> String {
    "scope".to_owned()
}

fn leeway() -> Duration {
    Duration::from_secs(30)
}

fn keep_keys() -> Duration {
    Duration::from_hours(24)
}

/// A way to sign a token (RFC 7518, section 3.1) with a key whose other half nobody else has.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq, Hash)]
pub enum Signature {
    /// RSASSA-PKCS1-v1_5 with SHA-256.
    RS256,
    /// RSASSA-PKCS1-v1_5 with SHA-384.
    RS384,
    /// RSASSA-PKCS1-v1_5 with SHA-512.
    RS512,
    /// RSASSA-PSS with SHA-256.
    PS256,
    /// RSASSA-PSS with SHA-384.
    PS384,
    /// RSASSA-PSS with SHA-512.
    PS512,
    /// ECDSA on P-256 with SHA-256.
    ES256,
    /// ECDSA on P-384 with SHA-384.
    ES384,
    /// Ed25519.
    EdDSA,
}

/// API keys in the config or in a file of their own.
#[derive(Clone, Debug, PartialEq)]
pub enum ApiKeys {
    /// `{ agent-a = "sha256:…" }`.
    Inline(BTreeMap<String, String>),
    /// `"file:/etc/chillgate/keys.toml"`.
    File(String),
}

/// Whether a text can be an agent's name, which appears in logs, metrics and headers: 1 to 128
/// bytes, no control character, no space at either end.
pub fn agent_name(name: &str) -> bool {
    (1..=128).contains(&name.len())
        && name.trim() == name
        && !name
            .chars()
            .any(|c| c.is_control() || c == '\u{2028}' || c == '\u{2029}')
}

/// The 32 bytes of `sha256:` and 64 hexadecimal digits.
pub fn key_hash(text: &str) -> Option<[u8; 32]> {
    let digits = text.strip_prefix("sha256:")?;
    let hash = HEXLOWER_PERMISSIVE.decode(digits.as_bytes()).ok()?;
    hash.try_into().ok()
}

impl<'de> Deserialize<'de> for ApiKeys {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct Keys;
        impl<'de> Visitor<'de> for Keys {
            type Value = ApiKeys;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a table of agents or a \"file:…\"")
            }
            fn visit_str<E: de::Error>(self, text: &str) -> Result<ApiKeys, E> {
                Ok(ApiKeys::File(text.to_owned()))
            }
            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<ApiKeys, A::Error> {
                BTreeMap::deserialize(MapAccessDeserializer::new(map)).map(ApiKeys::Inline)
            }
        }
        from.deserialize_any(Keys)
    }
}
