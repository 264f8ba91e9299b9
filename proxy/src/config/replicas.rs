//! `[replicas]`: how replicas of one gateway reach each other.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use serde::Deserialize;

use super::Tls;
use super::secret::{SecretText, expand};
use super::units::span;

/// How replicas of one gateway reach each other. They find each other in the store of `[state]`.
#[derive(Clone, Debug, Deserialize, PartialEq)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Replicas {
    /// Where the other replicas reach this one: an address of its own, for them alone.
    pub listen: SocketAddr,
    /// How they find it there, `HOST` or `HOST:PORT`; `${POD_IP}` is replaced by the variable.
    /// Absent: `listen`.
    #[serde(default)]
    pub advertise: Option<String>,
    /// What only the replicas know, beside the keys that they keep in the store: the same for all.
    /// Absent: whoever can read the store could pass for a replica.
    #[serde(default)]
    pub secret: Option<SecretText>,
    /// The certificate and key to listen with. Absent: plain HTTP.
    #[serde(default)]
    pub tls: Option<Tls>,
    /// A PEM file with the authorities of the other replicas' certificates, besides the system's.
    #[serde(default)]
    pub ca: Option<PathBuf>,
    /// How long one key seals session ids and states; it opens them for thirty times as long.
    #[serde(default = "a_day", deserialize_with = "span")]
    pub rotate: Duration,
}

fn a_day() -> Duration {
    Duration::from_hours(24)
}

impl Replicas {
    /// Where the others reach a replica that is bound to this address.
    ///
    /// # Errors
    /// What is to be advertised is no host with or without a port.
    pub fn address(&self, bound: SocketAddr) -> Result<String, String> {
        let scheme = if self.tls.is_some() { "https" } else { "http" };
        let Some(advertise) = &self.advertise else {
            return Ok(format!("{scheme}://{bound}"));
        };
        let host = expand(advertise).map_err(|error| error.to_string())?;
        let place = match (host.parse::<std::net::IpAddr>(), host.rsplit_once(':')) {
            (Ok(ip), _) => SocketAddr::new(ip, bound.port()).to_string(),
            (Err(_), Some((_, port))) if port.parse::<u16>().is_ok() => host.clone(),
            (Err(_), _) => format!("{host}:{}", bound.port()),
        };
        let address = format!("{scheme}://{place}");
        match address.parse::<http::Uri>() {
            Ok(uri) if uri.host().is_some_and(|host| !host.is_empty()) && uri.path() == "/" => {
                Ok(address)
            }
            _ => Err(format!("`{host}` is no host with or without a port")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn others_are_told_what_is_advertised_or_else_bound() {
        let bound = "10.0.0.7:8801".parse().expect("an address");
        let of = |advertise: Option<&str>| {
            let replicas = Replicas {
                listen: bound,
                advertise: advertise.map(str::to_owned),
                secret: None,
                tls: None,
                ca: None,
                rotate: a_day(),
            };
            replicas.address(bound)
        };
        for (advertise, address) in [
            (None, "http://10.0.0.7:8801"),
            (Some("10.1.2.3"), "http://10.1.2.3:8801"),
            (Some("10.1.2.3:99"), "http://10.1.2.3:99"),
            (Some("fd00::7"), "http://[fd00::7]:8801"),
            (Some("[fd00::7]:99"), "http://[fd00::7]:99"),
            (Some("gate-0.gate"), "http://gate-0.gate:8801"),
            (Some("gate-0.gate:99"), "http://gate-0.gate:99"),
        ] {
            assert_eq!(of(advertise).as_deref(), Ok(address), "{advertise:?}");
        }
        for wrong in ["", "a b", "http://a", "a/b"] {
            assert!(of(Some(wrong)).is_err(), "{wrong}");
        }
    }
}
