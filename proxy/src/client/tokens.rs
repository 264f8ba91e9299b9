//! Tokens of chillgate's own for a server, made out for that server alone (RFC 8707): by client
//! credentials (RFC 6749, section 4.4), one for all hosts; or in exchange for the token of each host
//! (RFC 8693).
//!
//! Asked for when the first request needs one, kept until shortly before its end, asked for once
//! more where the server refuses it. A host's token goes to the token endpoint that exchanges it and
//! never to the server: where there is nothing in exchange, there is no request.

use http::{HeaderMap, HeaderValue, header};
use secrecy::{ExposeSecret, SecretString};

use super::{Caller, HttpError};
use crate::config::ServerToken;

mod exchanged;
mod held;
mod issuer;

use exchanged::Exchanged;
use held::Held;
use issuer::Issuer;

/// One server's tokens.
#[derive(Debug)]
pub(super) struct Tokens {
    issuer: Issuer,
    kept: Kept,
}

#[derive(Debug)]
enum Kept {
    /// One for all.
    Own(Held),
    /// One for each host.
    Exchanged(Exchanged),
}

impl Tokens {
    /// Prepares to ask for tokens for the server at `url`.
    ///
    /// # Errors
    /// In words, when the issuer's address cannot be used.
    pub(super) fn new(config: &ServerToken, url: &str) -> Result<Self, String> {
        let kept = if config.exchange {
            Kept::Exchanged(Exchanged::default())
        } else {
            Kept::Own(Held::default())
        };
        Ok(Self {
            issuer: Issuer::new(config, url)?,
            kept,
        })
    }

    /// Whether each host has a token of its own.
    pub(super) fn are_exchanged(&self) -> bool {
        matches!(self.kept, Kept::Exchanged(_))
    }

    /// Shows a token with these headers; which one.
    pub(super) async fn show(
        &self,
        headers: &mut HeaderMap,
        caller: Option<&Caller>,
    ) -> Result<SecretString, HttpError> {
        let token = self.get(caller).await?;
        let value = HeaderValue::from_str(&format!("Bearer {}", token.expose_secret()));
        let mut value =
            value.map_err(|_| HttpError::Secret("the token is no header value".to_owned()))?;
        value.set_sensitive(true);
        headers.insert(header::AUTHORIZATION, value);
        Ok(token)
    }

    /// The server does not take the token that it was shown.
    pub(super) async fn forget(&self, shown: &SecretString, caller: Option<&Caller>) {
        match &self.kept {
            Kept::Own(held) => held.forget(shown).await,
            Kept::Exchanged(all) => {
                if let Some(credential) = caller.and_then(Caller::now) {
                    all.of(&credential).forget(shown).await;
                }
            }
        }
    }

    /// The token for whoever calls.
    pub(super) async fn get(&self, caller: Option<&Caller>) -> Result<SecretString, HttpError> {
        let issuer = self.issuer.endpoint();
        match &self.kept {
            Kept::Own(held) => held.get(&self.issuer, None).await.map_err(|cause| {
                HttpError::Secret(format!(
                    "no token could be had from {issuer} ({cause}); correct `token` of the server, or see to its issuer"
                ))
            }),
            Kept::Exchanged(all) => {
                let Some(credential) = caller.and_then(Caller::now) else {
                    return Err(HttpError::Caller(
                        "it is reached with a token that is had in exchange for the host's own, and \
                         this host has shown none; come with a token of an issuer under [identity]"
                            .to_owned(),
                    ));
                };
                let held = all.of(&credential);
                held.get(&self.issuer, Some(&credential)).await.map_err(|cause| {
                    HttpError::Caller(format!(
                        "the host's token could not be exchanged at {issuer} ({cause}); come with \
                         another token, or have the issuer allow the exchange"
                    ))
                })
            }
        }
    }
}
