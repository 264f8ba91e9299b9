//! Which `Host` and `Origin` a front answers: the guard against DNS rebinding and foreign pages.
//!
//! On by default, before anybody's identity is looked at (MCP transports, security warning). A
//! front on loopback answers loopback names only; a page's origin must be the front's own or one
//! that is configured.

use std::borrow::Cow;
use std::net::{IpAddr, SocketAddr};

use http::{HeaderMap, HeaderValue, header};

use crate::config::{Front, Listen};

/// The names and origins of one front.
#[derive(Debug)]
pub struct Origins {
    hosts: Option<Vec<String>>,
    pages: Vec<String>,
    port: Option<u16>,
    scheme: &'static str,
}

/// What is wrong with a request's `Host` or `Origin`.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum Foreign {
    /// The name is not this front's.
    #[error("`Host: {0}` is not served here; `allowed-hosts` of the front can name it")]
    Host(String),
    /// The page is not this front's.
    #[error("`Origin: {0}` may not call this endpoint; `allowed-origins` of the front can name it")]
    Origin(String),
}

impl Origins {
    /// For a front that listens on `bound`.
    pub fn new(front: &Front, bound: Option<SocketAddr>) -> Self {
        let is_loopback = bound.is_some_and(|address| address.ip().is_loopback());
        let is_tcp = !matches!(front.listen, Some(Listen::Unix(_)));
        let lower = |names: &[String]| names.iter().map(|name| name.to_ascii_lowercase()).collect();
        let mut hosts: Vec<String> = lower(&front.allowed_hosts);
        let guards = is_tcp && (is_loopback || !hosts.is_empty());
        if is_loopback {
            hosts.extend(["localhost", "127.0.0.1", "[::1]"].map(str::to_owned));
        }
        if let Some(address) = bound {
            hosts.push(match address.ip() {
                IpAddr::V4(ip) => ip.to_string(),
                IpAddr::V6(ip) => format!("[{ip}]"),
            });
        }
        Self {
            hosts: guards.then_some(hosts),
            pages: lower(&front.allowed_origins),
            port: bound.map(|address| address.port()),
            scheme: if front.tls.is_some() { "https" } else { "http" },
        }
    }

    /// Checks a request; the allowed origin comes back for the reply's CORS header.
    pub fn check(
        &self,
        headers: &HeaderMap,
        authority: Option<&str>,
    ) -> Result<Option<HeaderValue>, Foreign> {
        let host = self.check_host(headers, authority)?;
        let mut origins = headers.get_all(header::ORIGIN).iter();
        let Some(origin) = origins.next() else {
            return Ok(None);
        };
        let text = || String::from_utf8_lossy(origin.as_bytes()).into_owned();
        if origins.next().is_some() {
            return Err(Foreign::Origin("two of them".to_owned()));
        }
        let lower = text().to_ascii_lowercase();
        let own = self.is_own(&lower, &host.to_ascii_lowercase());
        if own || self.pages.contains(&lower) {
            Ok(Some(origin.clone()))
        } else {
            Err(Foreign::Origin(text()))
        }
    }

    /// The request's own host, with its port where it names one.
    fn check_host<'r>(
        &self,
        headers: &'r HeaderMap,
        authority: Option<&'r str>,
    ) -> Result<Cow<'r, str>, Foreign> {
        let mut values = headers.get_all(header::HOST).iter();
        let host = match (values.next(), values.next()) {
            (Some(value), None) => String::from_utf8_lossy(value.as_bytes()),
            (None, _) => authority.unwrap_or_default().into(),
            (Some(_), Some(_)) => return Err(Foreign::Host("two of them".to_owned())),
        };
        if let Some(hosts) = &self.hosts {
            let (name, port) = split_port(&host);
            let has = |wanted: &str| hosts.iter().any(|host| host.eq_ignore_ascii_case(wanted));
            let named = has(name) || has(&host);
            let right_port = port.is_none_or(|port| Some(port) == self.port) || has(&host);
            if !named || !right_port {
                return Err(Foreign::Host(host.into_owned()));
            }
        }
        Ok(host)
    }

    /// A page that this very front has served: same scheme, name and port as the request's own.
    fn is_own(&self, origin: &str, host: &str) -> bool {
        let Some(name) = origin
            .strip_prefix(self.scheme)
            .and_then(|rest| rest.strip_prefix("://"))
        else {
            return false;
        };
        // Without a guarded host name the request's own proves nothing: a rebound name matches.
        let Some(hosts) = &self.hosts else {
            return false;
        };
        let (bare, port) = split_port(name);
        let default = if self.scheme == "https" { 443 } else { 80 };
        hosts.iter().any(|host| host == bare || host == name)
            && Some(port.unwrap_or(default)) == self.port.or_else(|| split_port(host).1)
    }
}

/// `name:port`, `[::1]:port` or a bare name.
fn split_port(host: &str) -> (&str, Option<u16>) {
    match host.rsplit_once(':') {
        Some((name, port))
            if !name.ends_with(':') && (!name.contains(':') || name.ends_with(']')) =>
        {
            match port.parse() {
                Ok(port) => (name, Some(port)),
                Err(_) => (host, None),
            }
        }
        _ => (host, None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(pairs: &[(&str, &str)], allowed: &[&str]) -> Result<bool, Foreign> {
        let text = format!(
            "transport = \"streamable-http\"\nlisten = \"127.0.0.1:8800\"\nallowed-origins = {allowed:?}"
        );
        let front: Front = toml_edit::de::from_str(&text).expect("a front");
        let origins = Origins::new(&front, Some("127.0.0.1:8800".parse().expect("address")));
        let mut headers = HeaderMap::new();
        for (name, value) in pairs {
            headers.append(
                name.parse::<http::HeaderName>().expect("name"),
                value.parse().expect("value"),
            );
        }
        origins.check(&headers, None).map(|origin| origin.is_some())
    }

    #[test]
    fn a_loopback_front_answers_loopback_names_and_its_own_pages() {
        for host in [
            "127.0.0.1:8800",
            "localhost:8800",
            "[::1]:8800",
            "LOCALHOST:8800",
            "localhost",
        ] {
            assert_eq!(check(&[("host", host)], &[]), Ok(false), "{host}");
        }
        for host in [
            "evil.example",
            "evil.example:8800",
            "localhost.evil:8800",
            "127.0.0.1:9",
            "",
        ] {
            assert!(
                matches!(check(&[("host", host)], &[]), Err(Foreign::Host(_))),
                "{host}"
            );
        }
        let own = [
            ("host", "localhost:8800"),
            ("origin", "http://localhost:8800"),
        ];
        assert_eq!(check(&own, &[]), Ok(true));
        for origin in [
            "null",
            "http://evil.example",
            "http://localhost.evil:8800",
            "http://localhost:9",
            "https://localhost:8800",
            "http://localhost",
            "file://",
        ] {
            let asked = [("host", "localhost:8800"), ("origin", origin)];
            assert!(
                matches!(check(&asked, &[]), Err(Foreign::Origin(_))),
                "{origin}"
            );
        }
        let twice = [("host", "localhost:8800"), ("host", "evil.example")];
        assert!(check(&twice, &[]).is_err());
        let twice = [
            ("host", "localhost:8800"),
            ("origin", "http://localhost:8800"),
            ("origin", "http://evil.example"),
        ];
        assert!(check(&twice, &[]).is_err());
    }

    #[test]
    fn a_configured_origin_may_call() {
        let asked = [
            ("host", "localhost:8800"),
            ("origin", "https://app.example"),
        ];
        assert_eq!(check(&asked, &["https://app.example"]), Ok(true));
        assert!(check(&asked, &["https://other.example"]).is_err());
    }
}
