//! What one replica tells another of the host whose request it hands on.
//!
//! A host's credential stays where it was judged: what goes on is who it is, locked, for one request
//! to one replica. Only a token that a server's issuer is to exchange goes along, for the replica that
//! asks that issuer. A pass is good once, and for a minute. Nothing here travels to a host or a server.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use chillgate_policies::engine::Grants;
use chillgate_policies::engine::clock::Clock as _;
use data_encoding::HEXLOWER;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use tokio::time::Instant;

use super::{ReplicaId, Replicas};
use crate::client::Credential;
use crate::clock::TokioClock;
use crate::config::Prefix;
use crate::identity::Principal;
use crate::lock::locked;
use crate::random;

/// How far the clocks of two replicas may be apart, with the request's way between them.
const SKEW: Duration = Duration::from_mins(1);
/// How many passes are remembered.
const SEEN: usize = 200_000;

/// A request that another replica hands on.
#[derive(Debug)]
pub struct Pass {
    /// Who asks.
    pub who: Principal,
    /// How names are shown at the front that it came to.
    pub prefix: Prefix,
    /// Where its host says that chillgate is.
    pub origin: String,
    /// Where it comes from.
    pub peer: Option<Arc<str>>,
    /// The digest of its body.
    pub body: [u8; 32],
}

/// Why a pass is none.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PassError {
    /// Nobody who has the replicas' key has made it.
    #[error("only the other replicas of this gateway are served here")]
    Forged,
    /// It is too old, or too new.
    #[error(
        "what another replica hands on is more than a minute old: are its clock and this one's right?"
    )]
    Late,
    /// Its agent is let in no more.
    #[error("the agent is revoked")]
    Revoked,
    /// It has been used.
    #[error("this request has been handed on already")]
    Again,
}

#[derive(Serialize, Deserialize)]
struct Written {
    /// The replica it is for.
    to: u64,
    nonce: u64,
    /// Milliseconds since 1970.
    at: u64,
    request: [String; 2],
    body: String,
    agent: Arc<str>,
    subject: Arc<str>,
    groups: Vec<Arc<str>>,
    scopes: Vec<Arc<str>>,
    until: Option<u64>,
    says: Option<String>,
    token: Option<String>,
    prefix: u8,
    origin: String,
    peer: Option<Arc<str>>,
}

/// Passes that were used, for as long as they would be good.
#[derive(Debug, Default)]
pub(super) struct Seen {
    used: HashMap<u64, Instant>,
}

impl Seen {
    /// Whether this one is new; it is not any more then.
    fn use_up(&mut self, nonce: u64) -> bool {
        let now = Instant::now();
        if self.used.len() >= SEEN {
            self.used
                .retain(|_, used| now.duration_since(*used) < 2 * SKEW);
        }
        // With so many that are still good, better none is let in than one twice.
        self.used.len() < SEEN && self.used.insert(nonce, now).is_none()
    }
}

impl Replicas {
    /// The pass for a request with this method and this path and query to that replica.
    pub fn pass(&self, to: ReplicaId, method: &str, path: &str, pass: &Pass) -> String {
        let grants = &pass.who.grants;
        let written = Written {
            to: to.0,
            nonce: u64::from_be_bytes(random::bytes()),
            at: millis(TokioClock.wall()),
            request: [method.to_owned(), path.to_owned()],
            body: HEXLOWER.encode(&pass.body),
            agent: pass.who.agent.clone(),
            subject: pass.who.subject.clone(),
            groups: grants.groups.clone(),
            scopes: grants.scopes.clone(),
            until: pass.who.until.map(millis),
            says: pass.who.says.as_deref().map(|says| HEXLOWER.encode(says)),
            token: pass
                .who
                .token
                .as_ref()
                .map(|token| token.for_a_replica().to_owned()),
            prefix: match pass.prefix {
                Prefix::Auto => 0,
                Prefix::Always => 1,
                Prefix::Never => 2,
            },
            origin: pass.origin.clone(),
            peer: pass.peer.clone(),
        };
        let text = serde_json::to_vec(&written).unwrap_or_default();
        URL_SAFE_NO_PAD.encode(self.ring().lock("pass", &text))
    }

    /// Reads the pass of a request with this method and this path and query.
    ///
    /// # Errors
    /// It is none, or not for this request.
    pub fn accept(&self, shown: &str, method: &str, path: &str) -> Result<Pass, PassError> {
        // One that is alone has a key that others cannot have; nobody passes anything to it.
        let bytes = URL_SAFE_NO_PAD.decode(shown).ok();
        let bytes = bytes.filter(|_| self.is_shared());
        let text = bytes.and_then(|bytes| self.ring().unlock("pass", &bytes));
        let text = text.ok_or(PassError::Forged)?;
        let written: Written = serde_json::from_slice(&text).map_err(|_| PassError::Forged)?;
        if written.to != self.own().0 || written.request != [method, path] {
            return Err(PassError::Forged);
        }
        let now = millis(TokioClock.wall());
        if u128::from(now.abs_diff(written.at)) > SKEW.as_millis() {
            return Err(PassError::Late);
        }
        if !locked(&self.0.seen).use_up(written.nonce) {
            return Err(PassError::Again);
        }
        let digest = |hex: &str| HEXLOWER.decode(hex.as_bytes()).ok()?.try_into().ok();
        let says: Option<[u8; 32]> = written.says.as_deref().and_then(digest);
        let token = written.token.as_deref().zip(says);
        Ok(Pass {
            who: Principal {
                agent: written.agent,
                subject: written.subject,
                grants: Arc::new(Grants {
                    groups: written.groups,
                    scopes: written.scopes,
                }),
                until: written
                    .until
                    .map(|at| UNIX_EPOCH + Duration::from_millis(at)),
                says: says.map(Arc::new),
                token: token.map(|(token, says)| Arc::new(Credential::new(token, &says))),
            },
            prefix: match written.prefix {
                1 => Prefix::Always,
                2 => Prefix::Never,
                _ => Prefix::Auto,
            },
            origin: written.origin,
            peer: written.peer,
            body: digest(&written.body).ok_or(PassError::Forged)?,
        })
    }
}

/// What a body is known by.
pub fn digest(body: &[u8]) -> [u8; 32] {
    Sha256::digest(body).into()
}

fn millis(at: SystemTime) -> u64 {
    let since = at.duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}
