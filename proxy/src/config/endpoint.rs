//! `[[endpoint]]` tables: model endpoints that are watched, for whoever wants to know why a model
//! does not answer.
//!
//! Only what is configured; asking them is `health/endpoint.rs`. Nothing is ever sent through them.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use serde::Deserialize;

use super::secret::SecretText;
use super::server::{Wrong, header_mistake, secrets, url_mistake, wrong};
use super::units::{span_opt, word_opt};

const EVERY: Duration = Duration::from_mins(1);
const TIMEOUT: Duration = Duration::from_secs(5);

/// A model endpoint.
#[derive(Clone, Debug, PartialEq)]
pub struct Endpoint {
    /// Its name: 1 to 64 of `a-z`, `0-9` and `-`.
    pub name: String,
    /// Where it is: `http://…`, `https://…` or `unix:/path.sock`. Redirects are not followed.
    pub url: String,
    /// What is asked: `ollama` for `/api/tags`, `openai` for `/v1/models`, `http` for the URL itself.
    pub kind: EndpointKind,
    /// A model that must be there.
    pub model: Option<String>,
    /// Headers of the request, e.g. `Authorization`; values may be `file:PATH` or hold `${NAME}`.
    pub headers: BTreeMap<String, SecretText>,
    /// A PEM file with certificate authorities to trust besides the system's.
    pub ca: Option<PathBuf>,
    /// How often it is asked.
    pub every: Duration,
    /// How long its answer may take.
    pub timeout: Duration,
}

/// What an endpoint speaks.
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "kebab-case")]
pub enum EndpointKind {
    /// Ollama's own API.
    Ollama,
    /// The API that most others copy.
    Openai,
    /// Anything that answers: 2xx or 3xx, and where no headers are configured also 401 and 403.
    #[default]
    Http,
}

impl EndpointKind {
    /// As it is written.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Ollama => "ollama",
            Self::Openai => "openai",
            Self::Http => "http",
        }
    }
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub(super) struct RawEndpoint {
    name: Option<String>,
    url: Option<String>,
    #[serde(deserialize_with = "word_opt")]
    kind: Option<EndpointKind>,
    model: Option<String>,
    headers: Option<BTreeMap<String, SecretText>>,
    ca: Option<PathBuf>,
    #[serde(deserialize_with = "span_opt")]
    every: Option<Duration>,
    #[serde(deserialize_with = "span_opt")]
    timeout: Option<Duration>,
}

impl RawEndpoint {
    /// The endpoint it means, or everything that is wrong with it.
    pub(super) fn into_endpoint(self) -> Result<Endpoint, Vec<Wrong>> {
        let mut found = Vec::new();
        let name = self.name.unwrap_or_default();
        let legal = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
        if !(1..=64).contains(&name.len()) || !name.chars().all(legal) || name.starts_with('-') {
            let message = "an endpoint's `name` is 1 to 64 of the characters a-z, 0-9 and `-`, which is never the first";
            found.push(wrong(&["name"], false, message, "write name = \"ollama\""));
        }
        let url = self.url.unwrap_or_default();
        if let Err((message, _)) = url_mistake(&url) {
            let help = "write url = \"http://127.0.0.1:11434\"";
            found.push(wrong(&["url"], false, message, help));
        }
        let headers = self.headers.unwrap_or_default();
        for name in headers.keys() {
            if let Err((message, help)) = header_mistake(name) {
                found.push(wrong(&["headers", name], true, message, help));
            }
        }
        secrets("headers", &headers, &mut found);
        let kind = self.kind.unwrap_or_default();
        if self.model.is_some() && kind == EndpointKind::Http {
            found.push(wrong(
                &["model"],
                true,
                "an endpoint of the kind `http` is not asked for models",
                "write kind = \"ollama\" or kind = \"openai\", or remove `model`",
            ));
        }
        let every = self.every.unwrap_or(EVERY);
        if every < Duration::from_secs(1) {
            let message = "`every` must be at least 1 s";
            found.push(wrong(&["every"], false, message, "write every = \"60s\""));
        }
        let timeout = self.timeout.unwrap_or(TIMEOUT);
        if timeout.is_zero() || timeout > Duration::from_mins(1) {
            let message = "`timeout` of an endpoint must be from 1 ms to 1 minute";
            let help = "write timeout = \"5s\"";
            found.push(wrong(&["timeout"], false, message, help));
        }
        if !found.is_empty() {
            return Err(found);
        }
        Ok(Endpoint {
            name,
            url,
            kind,
            model: self.model,
            headers,
            ca: self.ca,
            every,
            timeout,
        })
    }
}
