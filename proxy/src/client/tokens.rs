//! Tokens of chillgate's own for a server: OAuth 2.1 client credentials (RFC 6749, section 4.4), made
//! out for that server alone (RFC 8707).
//!
//! Asked for when the first request needs one, kept until shortly before its end, asked for once
//! more where the server refuses it. What hosts show chillgate never gets here.

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use form_urlencoded::{Serializer, byte_serialize};
use http::{HeaderMap, HeaderValue, header};
use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;
use tokio::sync::Mutex;
use tokio::time::{Instant, timeout};

use super::{Destination, Http, HttpError, JSON};
use crate::config::ServerToken;

/// How long an issuer may take.
const PATIENCE: Duration = Duration::from_secs(10);
/// So long before its end a token is no longer used.
const EARLY: Duration = Duration::from_secs(30);
/// How long a token is kept whose issuer does not say how long it is good.
const UNSAID: Duration = Duration::from_mins(5);
/// How long after a refusal the issuer is asked again.
const AGAIN: Duration = Duration::from_secs(2);
/// The largest answer that is read.
const LARGEST: usize = 64 << 10;

const FORM: HeaderValue = HeaderValue::from_static("application/x-www-form-urlencoded");

/// One server's tokens, one after another.
#[derive(Debug)]
pub(super) struct Tokens {
    issuer: Box<Http>,
    config: ServerToken,
    resource: String,
    /// Held while one is asked for, so that it is asked for once.
    held: Mutex<Held>,
}

#[derive(Debug, Default)]
enum Held {
    #[default]
    Nothing,
    Good(SecretString, Instant),
    Refused(String, Instant),
}

/// What an issuer answers (RFC 6749, sections 5.1 and 5.2).
#[derive(Deserialize)]
struct Answer {
    access_token: Option<String>,
    token_type: Option<String>,
    expires_in: Option<f64>,
    error: Option<String>,
    error_description: Option<String>,
}

impl Tokens {
    /// Prepares to ask for tokens for the server at `url`.
    ///
    /// # Errors
    /// In words, when the issuer's address cannot be used.
    pub(super) fn new(config: &ServerToken, url: &str) -> Result<Self, String> {
        let issuer = Http::new(Destination {
            url: &config.endpoint,
            headers: &std::collections::BTreeMap::new(),
            bearer: None,
            token: None,
            ca: config.ca.as_deref(),
        })?;
        Ok(Self {
            issuer: Box::new(issuer),
            resource: config.resource.clone().unwrap_or_else(|| url.to_owned()),
            config: config.clone(),
            held: Mutex::default(),
        })
    }

    /// Shows a token with these headers.
    pub(super) async fn show(&self, headers: &mut HeaderMap) -> Result<(), HttpError> {
        let token = self.get().await.map_err(HttpError::Secret)?;
        let value = HeaderValue::from_str(&format!("Bearer {}", token.expose_secret()));
        let mut value =
            value.map_err(|_| HttpError::Secret("the token is no header value".to_owned()))?;
        value.set_sensitive(true);
        headers.insert(header::AUTHORIZATION, value);
        Ok(())
    }

    /// The server does not take the token that it was shown.
    pub(super) async fn forget(&self) {
        let mut held = self.held.lock().await;
        if matches!(*held, Held::Good(..)) {
            *held = Held::Nothing;
        }
    }

    async fn get(&self) -> Result<SecretString, String> {
        let mut held = self.held.lock().await;
        match &*held {
            Held::Good(token, until) if Instant::now() < *until => return Ok(token.clone()),
            Held::Refused(cause, until) if Instant::now() < *until => return Err(cause.clone()),
            _ => {}
        }
        let asked = timeout(PATIENCE, self.ask()).await;
        let asked = asked.unwrap_or_else(|_| Err("no answer within 10 s".to_owned()));
        match asked {
            Ok((token, lasts)) => {
                let lasts = lasts.saturating_sub(EARLY).max(lasts / 2);
                *held = Held::Good(token.clone(), Instant::now() + lasts);
                Ok(token)
            }
            Err(cause) => {
                let issuer = &self.config.endpoint;
                let cause = format!(
                    "no token could be had from {issuer} ({cause}); correct `token` of the server, or see to its issuer"
                );
                *held = Held::Refused(cause.clone(), Instant::now() + AGAIN);
                Err(cause)
            }
        }
    }

    async fn ask(&self) -> Result<(SecretString, Duration), String> {
        let config = &self.config;
        let secret = config.client_secret.resolve();
        let secret = secret.map_err(|error| error.to_string())?;
        let scopes = config.scopes.join(" ");
        let mut form = vec![
            ("grant_type", "client_credentials"),
            ("resource", self.resource.as_str()),
        ];
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
        let sent = Box::pin(self.issuer.post(form.into(), &headers)).await;
        let reply = sent.map_err(|error| error.to_string())?;
        let status = reply.status();
        let body = reply
            .body(LARGEST)
            .await
            .map_err(|error| error.to_string())?;
        let answer: Answer = serde_json::from_slice(&body)
            .map_err(|_| format!("HTTP {status}, and no answer of an issuer"))?;
        if let Some(error) = answer.error {
            let more = answer.error_description.unwrap_or_default();
            return Err(format!("{error} {more}").trim_end().to_owned());
        }
        let kind = answer.token_type.unwrap_or_default();
        if !kind.eq_ignore_ascii_case("bearer") {
            return Err(format!("its tokens are of the kind {kind:?}, not `Bearer`"));
        }
        let token = answer.access_token.filter(|token| !token.is_empty());
        let token = token.ok_or_else(|| format!("HTTP {status} without `access_token`"))?;
        let lasts = answer.expires_in.filter(|seconds| *seconds >= 0.0);
        let lasts = lasts.map_or(UNSAID, |seconds| Duration::from_secs_f64(seconds.min(1e6)));
        Ok((token.into(), lasts))
    }
}

/// A text as forms have it.
fn encoded(text: &str) -> String {
    byte_serialize(text.as_bytes()).collect()
}
