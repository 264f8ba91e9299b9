//! What a connection itself says of who is at its other end: a certificate, a user of this machine.
//!
//! Read once, when the connection is made. A certificate's chain has been checked by then; here are
//! only its names and its end.

use std::sync::Arc;
use std::time::SystemTime;

use x509_cert::Certificate as Parsed;
use x509_cert::der::Decode as _;
use x509_cert::ext::pkix::SubjectAltName;
use x509_cert::ext::pkix::name::GeneralName;

use super::{Denied, Principal};
use crate::config::identity::{Certificate as Config, CertificateName};

/// Who is at the other end, as far as the connection knows. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Peer {
    /// Its address, for people.
    pub address: Option<Arc<str>>,
    /// The certificate that it has shown.
    pub certificate: Option<Arc<Certificate>>,
    /// Its user on this machine, over a Unix socket.
    pub user: Option<u32>,
}

/// A certificate whose chain is good.
#[derive(Debug)]
pub struct Certificate {
    uris: Vec<String>,
    dns: Vec<String>,
    until: Option<SystemTime>,
}

impl Certificate {
    /// Reads the names of a certificate; one that cannot be read has none.
    pub fn read(der: &[u8]) -> Self {
        let parsed = Parsed::from_der(der).ok();
        let alternative = parsed.as_ref().and_then(|parsed| {
            let found = parsed.tbs_certificate.get::<SubjectAltName>();
            found.ok().flatten().map(|(_, names)| names.0)
        });
        let (mut uris, mut dns) = (Vec::new(), Vec::new());
        for name in alternative.unwrap_or_default() {
            match name {
                GeneralName::UniformResourceIdentifier(uri) => uris.push(uri.to_string()),
                GeneralName::DnsName(name) => dns.push(name.to_string()),
                _ => {}
            }
        }
        let end = |parsed: &Parsed| parsed.tbs_certificate.validity.not_after.to_system_time();
        Self {
            uris,
            dns,
            until: parsed.as_ref().map(end),
        }
    }

    /// Whose it is.
    pub(super) fn of(&self, config: &Config, now: SystemTime) -> Result<Principal, Denied> {
        if self.until.is_none_or(|until| until <= now) {
            return Err(Denied::Certificate("it has expired"));
        }
        let name = match config.name {
            CertificateName::Spiffe => self.spiffe(config.trust_domain.as_deref())?,
            CertificateName::Dns => match &self.dns[..] {
                [] => return Err(Denied::Certificate("it has no DNS name")),
                [name, ..] if name.starts_with('*') => {
                    return Err(Denied::Certificate("its DNS name is a pattern"));
                }
                [name, ..] => name,
            },
        };
        if !crate::config::agent_name(name) {
            return Err(Denied::Certificate("its name cannot be an agent's"));
        }
        Ok(Principal {
            until: self.until,
            ..Principal::named(name.into())
        })
    }

    /// Its SPIFFE id (X509-SVID, section 2): it is the only URI.
    fn spiffe(&self, trust_domain: Option<&str>) -> Result<&str, Denied> {
        let [id] = &self.uris[..] else {
            return Err(Denied::Certificate("it has not exactly one SPIFFE id"));
        };
        let Some((domain, path)) = id
            .strip_prefix("spiffe://")
            .and_then(|rest| rest.split_once('/'))
        else {
            return Err(Denied::Certificate("its URI is no SPIFFE id of a workload"));
        };
        if path.is_empty() || trust_domain.is_some_and(|trusted| trusted != domain) {
            return Err(Denied::Certificate("its trust domain is another"));
        }
        Ok(id)
    }
}
