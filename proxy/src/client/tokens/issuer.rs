//! One question to a token endpoint, and what it answers (RFC 6749, RFC 8693).
//!
//! Apart from what is kept of the answers. It asks once and remembers nothing.

use std::collections::BTreeMap;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use form_urlencoded::{Serializer, byte_serialize};
use http::{HeaderValue, header};
use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;
use subtle::ConstantTimeEq as _;
use tokio::time::timeout;

use crate::client::{Destination, Http, JSON};
use crate::config::ServerToken;

/// How long an issuer may take.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long a token is kept whose issuer does not say how long it is good.
const UNSAID: Duration = Duration::from_mins(5);
/// The largest answer that is read.
const LARGEST: usize = 64 << 10;

const FORM: HeaderValue = HeaderValue::from_static("application/x-www-form-urlencoded");

/// What an access token is called where one is exchanged for another (RFC 8693, section 3).
const ACCESS_TOKEN: &str = "urn:ietf:params:oauth:token-type:access_token";
const JWT: &str = "urn:ietf:params:oauth:token-type:jwt";

/// The token endpoint of one server.
#[derive(Debug)]
pub(super) struct Issuer {
    http: Box<Http>,
    config: ServerToken,
    resource: String,
}

/// A token, and how long it is good.
pub(super) type Granted = (SecretString, Duration);

/// What an issuer answers (RFC 6749, sections 5.1 and 5.2; RFC 8693, section 2.2).
#[derive(Deserialize)]
struct Answer {
    access_token: Option<String>,
    token_type: Option<String>,
    issued_token_type: Option<String>,
    expires_in: Option<f64>,
    error: Option<String>,
    error_description: Option<String>,
}

impl Issuer {
    /// Prepares to ask for tokens for the server at `url`.
    ///
    /// # Errors
    /// In words, when the endpoint's address cannot be used.
    pub(super) fn new(config: &ServerToken, url: &str) -> Result<Self, String> {
        let http = Http::new(Destination {
            url: &config.endpoint,
            headers: &BTreeMap::new(),
            bearer: None,
            token: None,
            ca: config.ca.as_deref(),
            is_named: false,
        })?;
        Ok(Self {
            http: Box::new(http),
            resource: config.resource.clone().unwrap_or_else(|| url.to_owned()),
            config: config.clone(),
        })
    }

    /// Where it is asked.
    pub(super) fn endpoint(&self) -> &str {
        &self.config.endpoint
    }

    /// A token of chillgate's own for the server, or the one that `subject` is exchanged for.
    ///
    /// # Errors
    /// In words, without a secret.
    pub(super) async fn ask(&self, subject: Option<&SecretString>) -> Result<Granted, String> {
        let asked = timeout(PATIENCE, self.ask_now(subject)).await;
        asked.unwrap_or_else(|_| Err("no answer within 10 s".to_owned()))
    }

    async fn ask_now(&self, subject: Option<&SecretString>) -> Result<Granted, String> {
        let config = &self.config;
        let secret = config.client_secret.resolve();
        let secret = secret.map_err(|error| error.to_string())?;
        let scopes = config.scopes.join(" ");
        let mut form = vec![("resource", self.resource.as_str())];
        match subject {
            None => form.push(("grant_type", "client_credentials")),
            Some(subject) => form.extend([
                (
                    "grant_type",
                    "urn:ietf:params:oauth:grant-type:token-exchange",
                ),
                ("subject_token", subject.expose_secret()),
                ("subject_token_type", ACCESS_TOKEN),
                ("requested_token_type", ACCESS_TOKEN),
            ]),
        }
        form.extend((!scopes.is_empty()).then_some(("scope", scopes.as_str())));
        form.extend(
            config
                .audience
                .as_deref()
                .map(|audience| ("audience", audience)),
        );
        // RFC 6749, section 2.3.1: both halves are form-encoded before they become one.
        let id = encoded(&config.client_id);
        let basic = STANDARD.encode(format!("{id}:{}", encoded(secret.expose_secret())));
        let basic = HeaderValue::from_str(&format!("Basic {basic}"));
        let mut basic = basic.map_err(|error| error.to_string())?;
        basic.set_sensitive(true);
        let form = Serializer::new(String::new()).extend_pairs(form).finish();
        let headers = [
            (header::CONTENT_TYPE, FORM),
            (header::ACCEPT, JSON),
            (header::AUTHORIZATION, basic),
        ];
        // Boxed: sending may itself take a token, though not here.
        let sent = Box::pin(self.http.post(form.into(), &headers)).await;
        let reply = sent.map_err(|error| error.to_string())?;
        let status = reply.status();
        let body = reply
            .body(LARGEST)
            .await
            .map_err(|error| error.to_string())?;
        let answer: Answer = serde_json::from_slice(&body)
            .map_err(|_| format!("HTTP {status}, and no answer of an issuer"))?;
        granted(answer, subject).map_err(|cause| match subject {
            // Whatever an issuer quotes, nobody reads a host's token in an error.
            Some(subject) => cause.replace(subject.expose_secret(), "…"),
            None => cause,
        })
    }
}

fn granted(answer: Answer, subject: Option<&SecretString>) -> Result<Granted, String> {
    if let Some(error) = answer.error {
        let more = answer.error_description.unwrap_or_default();
        return Err(format!("{error} {more}").trim_end().to_owned());
    }
    let kind = answer.token_type.unwrap_or_default();
    if !kind.eq_ignore_ascii_case("bearer") {
        return Err(format!("its tokens are of the kind {kind:?}, not `Bearer`"));
    }
    let issued = answer.issued_token_type.as_deref();
    if let Some(issued) = issued.filter(|issued| ![ACCESS_TOKEN, JWT].contains(issued)) {
        return Err(format!("it gave {issued:?}, not an access token"));
    }
    let token = answer.access_token.filter(|token| !token.is_empty());
    let token = token.ok_or_else(|| "an answer without `access_token`".to_owned())?;
    let token = SecretString::from(token);
    let is_same = |subject: &SecretString| {
        let (ours, theirs) = (token.expose_secret(), subject.expose_secret());
        bool::from(ours.as_bytes().ct_eq(theirs.as_bytes()))
    };
    if subject.is_some_and(is_same) {
        return Err("it handed back the host's own token, which is for no server".to_owned());
    }
    let lasts = answer.expires_in.filter(|seconds| *seconds >= 0.0);
    let lasts = lasts.map_or(UNSAID, |seconds| Duration::from_secs_f64(seconds.min(1e6)));
    Ok((token, lasts))
}

/// A text as forms have it.
fn encoded(text: &str) -> String {
    byte_serialize(text.as_bytes()).collect()
}
