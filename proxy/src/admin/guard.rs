//! Who may ask the admin API: first the way they came, then what they show.
//!
//! A page in a browser of this machine is a foreigner (DNS rebinding), and so is another user. The
//! token is read each time, so that a rotated one holds at once; it is compared by its digest.

use std::net::SocketAddr;

use http::header::{AUTHORIZATION, HOST, ORIGIN};
use http::{HeaderMap, StatusCode};
use secrecy::ExposeSecret as _;
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq as _;
use tracing::warn;

use crate::config::secret::SecretText;
use crate::config::{Admin, Front, Listen, SHORTEST, Transport};
use crate::front::origin::{Foreign, Origins};
use crate::platform;

/// The gate of one admin API.
pub(super) struct Guard {
    listen: Listen,
    token: Option<SecretText>,
    origins: Origins,
}

/// How somebody came.
#[derive(Clone, Copy, Debug)]
pub(super) enum From {
    /// From this address of loopback.
    Tcp(SocketAddr),
    /// As this user.
    Unix(Option<u32>),
}

/// Nobody who may ask, and how to say it.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Stranger {
    pub(super) status: StatusCode,
    pub(super) says: String,
}

impl Guard {
    pub(super) fn new(admin: &Admin) -> Self {
        let listen = admin.listen.clone();
        Self {
            origins: origins(&listen, None),
            token: admin.token.clone(),
            listen,
        }
    }

    /// The same, now that the address is known.
    pub(super) fn bound(self, address: Option<SocketAddr>) -> Self {
        Self {
            origins: origins(&self.listen, address),
            ..self
        }
    }

    /// Whether there is a token where one is needed.
    pub(super) fn try_token(&self) -> Result<(), String> {
        self.digest().map(drop)
    }

    fn digest(&self) -> Result<Option<[u8; 32]>, String> {
        let Some(token) = &self.token else {
            return Ok(None);
        };
        let token = token.resolve().map_err(|error| error.to_string())?;
        let token = token.expose_secret().trim();
        if token.len() < SHORTEST {
            return Err(format!(
                "a token of fewer than {SHORTEST} characters could be tried"
            ));
        }
        Ok(Some(Sha256::digest(token.as_bytes()).into()))
    }

    /// Who asks.
    ///
    /// # Errors
    /// When they may not.
    pub(super) fn admit(&self, from: From, headers: &HeaderMap) -> Result<String, Stranger> {
        let no = |status, says: &str| {
            let says = says.to_owned();
            Err(Stranger { status, says })
        };
        match self.origins.check(headers, None) {
            Err(Foreign::Host(_)) => {
                return no(StatusCode::FORBIDDEN, "this `Host` is not served here");
            }
            Err(Foreign::Origin(_)) => {
                return no(
                    StatusCode::FORBIDDEN,
                    "no page of this `Origin` may ask here",
                );
            }
            Ok(_) => {}
        }
        // A socket has no name of its own, so none proves anything of a page.
        if matches!(from, From::Unix(_)) && headers.contains_key(ORIGIN) {
            return no(StatusCode::FORBIDDEN, "no page may ask here");
        }
        if headers.get_all(HOST).iter().count() > 1 {
            return no(StatusCode::BAD_REQUEST, "there are two `Host` headers");
        }
        let who = match from {
            From::Tcp(address) => format!("token, from {address}"),
            From::Unix(user) if user == Some(0) || user == platform::own_user() => {
                format!("user {}", user.unwrap_or_default())
            }
            From::Unix(_) => {
                let says = "only root and the user that chillgate runs as may ask here";
                return no(StatusCode::FORBIDDEN, says);
            }
        };
        match self.digest() {
            Ok(None) if matches!(from, From::Unix(_)) => Ok(who),
            Ok(None) => no(StatusCode::UNAUTHORIZED, "no token is configured"),
            Ok(Some(right)) => {
                let shown = headers.get(AUTHORIZATION).map(http::HeaderValue::as_bytes);
                let shown = shown
                    .and_then(bearer)
                    .map(|token| Sha256::digest(token.trim_ascii()));
                match shown {
                    Some(shown) if bool::from(right.ct_eq(shown.as_slice())) => Ok(who),
                    Some(_) => no(StatusCode::UNAUTHORIZED, "this token is not the one"),
                    None => {
                        let says = "show the token of [admin] as `Authorization: Bearer …`";
                        no(StatusCode::UNAUTHORIZED, says)
                    }
                }
            }
            Err(cause) => {
                warn!(%cause, "The token of the admin API cannot be read; nobody is let in.");
                no(
                    StatusCode::SERVICE_UNAVAILABLE,
                    "the token cannot be read; see the log",
                )
            }
        }
    }
}

fn bearer(header: &[u8]) -> Option<&[u8]> {
    let (scheme, token) = header.split_at_checked(7)?;
    scheme.eq_ignore_ascii_case(b"bearer ").then_some(token)
}

fn origins(listen: &Listen, address: Option<SocketAddr>) -> Origins {
    let front = Front::bare(Transport::StreamableHttp, Some(listen.clone()));
    Origins::new(&front, address)
}

#[cfg(test)]
mod tests {
    use super::*;

    const TOKEN: &str = "0123456789abcdef-this-is-it";

    fn guard(listen: &str, token: Option<&str>) -> Guard {
        let listen: Listen = listen.to_owned().try_into().expect("an address");
        let address = match &listen {
            Listen::Tcp(address) => Some(*address),
            Listen::Unix(_) => None,
        };
        let admin = Admin {
            listen,
            token: token.map(SecretText::from),
        };
        Guard::new(&admin).bound(address)
    }

    fn asked(guard: &Guard, from: From, headers: &[(&'static str, &str)]) -> u16 {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.append(*name, value.parse().expect("a header"));
        }
        match guard.admit(from, &map) {
            Ok(_) => 200,
            Err(stranger) => stranger.status.as_u16(),
        }
    }

    #[test]
    fn on_loopback_the_token_decides_and_pages_never_come_in() {
        let guard = guard("127.0.0.1:9902", Some(TOKEN));
        let from = From::Tcp("127.0.0.1:5".parse().expect("an address"));
        let right = format!("Bearer {TOKEN}");
        let host = ("host", "127.0.0.1:9902");
        for (headers, status) in [
            (vec![host, ("authorization", right.as_str())], 200),
            (
                vec![
                    ("host", "localhost:9902"),
                    ("authorization", "bearer 0123456789abcdef-this-is-it"),
                ],
                200,
            ),
            (vec![host], 401),
            (
                vec![
                    host,
                    ("authorization", "Bearer 0123456789abcdef-this-is-iT"),
                ],
                401,
            ),
            (vec![host, ("authorization", "Bearer ")], 401),
            (
                vec![host, ("authorization", "Basic 0123456789abcdef-this-is-it")],
                401,
            ),
            (vec![host, ("authorization", TOKEN)], 401),
            (
                vec![("host", "evil.example"), ("authorization", right.as_str())],
                403,
            ),
            (
                vec![
                    ("host", "evil.example:9902"),
                    ("authorization", right.as_str()),
                ],
                403,
            ),
            (
                vec![
                    ("host", "127.0.0.1:9901"),
                    ("authorization", right.as_str()),
                ],
                403,
            ),
            (vec![("authorization", right.as_str())], 403),
            (vec![host, host, ("authorization", right.as_str())], 403),
            (
                vec![
                    host,
                    ("origin", "http://evil.example"),
                    ("authorization", right.as_str()),
                ],
                403,
            ),
            (
                vec![host, ("origin", "null"), ("authorization", right.as_str())],
                403,
            ),
        ] {
            assert_eq!(asked(&guard, from, &headers), status, "{headers:?}");
        }
    }

    #[test]
    fn on_a_socket_the_user_decides_and_a_token_as_well_where_there_is_one() {
        let host = ("host", "localhost");
        let own = From::Unix(platform::own_user());
        for (token, from, headers, status) in [
            (None, own, vec![host], 200),
            (None, From::Unix(Some(0)), vec![host], 200),
            (None, From::Unix(Some(54_321)), vec![host], 403),
            (None, From::Unix(None), vec![host], 403),
            (None, own, vec![host, ("origin", "http://localhost")], 403),
            (Some(TOKEN), own, vec![host], 401),
        ] {
            let guard = guard("unix:/run/x.sock", token);
            assert_eq!(
                asked(&guard, from, &headers),
                status,
                "{from:?} {headers:?}"
            );
        }
    }

    #[test]
    fn a_token_that_could_be_tried_is_none() {
        assert!(guard("127.0.0.1:1", Some("secret")).try_token().is_err());
        assert!(guard("127.0.0.1:1", Some(TOKEN)).try_token().is_ok());
        assert!(
            guard("127.0.0.1:1", Some("file:/nonexistent"))
                .try_token()
                .is_err()
        );
    }
}
