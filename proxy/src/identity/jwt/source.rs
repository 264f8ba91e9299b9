//! Where an issuer's keys come from, how long they are good, and how often they are asked for.
//!
//! Keys that are there serve while newer ones are asked for, and go on serving while the issuer is
//! away, as long as `keep-keys` says. A token with an unknown key leads to one look at most every
//! [`RARELY`], however many come: a flood of bad names is none of requests.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use arc_swap::ArcSwapOption;
use http::Uri;
use serde_json::Value;
use tokio::sync::{Mutex, Semaphore};
use tokio::time::{Instant, timeout};
use tracing::{info, warn};

use super::keys::KeySet;
use crate::client::{Destination, Http, is_same_origin};
use crate::config::identity::{Jwt, Signature};

/// How old keys may be before newer ones are asked for, at an issuer and in a file.
const FRESH: Duration = Duration::from_mins(5);
const FRESH_FILE: Duration = Duration::from_secs(5);
/// How often unknown keys may lead to a look, at an issuer and in a file.
const RARELY: Duration = Duration::from_secs(30);
const RARELY_FILE: Duration = Duration::from_secs(1);
/// How often it is looked where there are no keys at all.
const AGAIN: Duration = Duration::from_secs(1);
/// How long an issuer may take.
const PATIENCE: Duration = Duration::from_secs(5);
/// The largest set of keys, or metadata, that is read.
const LARGEST: usize = 256 << 10;
/// How many callers may wait for a look; the others are told at once.
const WAITING: usize = 256;

/// The keys of one issuer, wherever they are.
#[derive(Debug)]
pub(super) struct Source {
    issuer: String,
    place: Place,
    allowed: Vec<Signature>,
    keep: Duration,
    held: ArcSwapOption<Held>,
    /// Held during a look; when the last one began.
    looking: Mutex<Option<Instant>>,
    waiting: Semaphore,
    is_renewing: AtomicBool,
    generations: AtomicU64,
}

#[derive(Debug)]
enum Place {
    File(PathBuf),
    /// An address, or what the issuer's metadata says it is.
    Net {
        http: Box<Http>,
        jwks: Option<Uri>,
        ca: Option<PathBuf>,
    },
}

#[derive(Debug)]
struct Held {
    keys: Arc<KeySet>,
    /// As they were written, to see whether anything has changed.
    raw: Vec<u8>,
    generation: u64,
    /// When they were last known to be the issuer's.
    at: Instant,
}

impl Source {
    /// Where the configuration says; a file is read now.
    ///
    /// # Errors
    /// In words, when the file is none, or the address cannot be used.
    pub(super) fn new(jwt: &Jwt) -> Result<Arc<Self>, String> {
        let place = match &jwt.jwks {
            Some(source) if source.starts_with("file:") => {
                Place::File(source.trim_start_matches("file:").into())
            }
            jwks => {
                let url = jwks.as_deref().unwrap_or(&jwt.issuer);
                let http = Http::new(Destination {
                    url,
                    headers: &BTreeMap::new(),
                    bearer: jwt.token.as_ref(),
                    token: None,
                    ca: jwt.ca.as_deref(),
                    is_named: false,
                })?;
                let jwks = jwks.is_some().then(|| http.uri().clone());
                let http = Box::new(http);
                let ca = jwt.ca.clone();
                Place::Net { http, jwks, ca }
            }
        };
        let source = Self {
            issuer: jwt.issuer.clone(),
            place,
            allowed: jwt.algorithms.clone(),
            keep: jwt.keep_keys,
            held: ArcSwapOption::empty(),
            looking: Mutex::default(),
            waiting: Semaphore::new(WAITING),
            is_renewing: AtomicBool::new(false),
            generations: AtomicU64::new(0),
        };
        if let Place::File(path) = &source.place {
            let raw =
                std::fs::read(path).map_err(|error| format!("{}: {error}", path.display()))?;
            let keys = KeySet::read(&raw, &source.allowed)
                .map_err(|cause| format!("{}: {cause}", path.display()))?;
            source.hold(keys, raw);
        }
        Ok(Arc::new(source))
    }

    /// The keys and the number of their set, unless there are none that are still good. Asks for
    /// newer ones aside where it is time.
    pub(super) fn keys(self: &Arc<Self>) -> Option<(Arc<KeySet>, u64)> {
        let held = self.held.load();
        let held = held.as_ref()?;
        let age = held.at.elapsed();
        if age >= self.fresh() && !self.is_renewing.swap(true, Ordering::Relaxed) {
            let source = self.clone();
            tokio::spawn(async move {
                if !source.look(source.rarely()).await {
                    tokio::time::sleep(source.rarely()).await;
                }
                source.is_renewing.store(false, Ordering::Relaxed);
            });
        }
        (age < self.keep).then(|| (held.keys.clone(), held.generation))
    }

    /// Looks for keys, since those that are here do not do, unless that was done a moment ago.
    pub(super) async fn renew(&self) {
        if let Ok(_place) = self.waiting.try_acquire() {
            let has_none = self.held.load().is_none();
            self.look(if has_none { AGAIN } else { self.rarely() })
                .await;
        }
    }

    /// One look at a time, and none where the last one began within `pause`. Whether it brought keys.
    async fn look(&self, pause: Duration) -> bool {
        let mut last = self.looking.lock().await;
        if last.is_some_and(|began| began.elapsed() < pause) {
            return false;
        }
        *last = Some(Instant::now());
        let found = match timeout(PATIENCE, self.fetch()).await {
            Ok(found) => found,
            Err(_) => Err(format!("no answer within {} s", PATIENCE.as_secs())),
        };
        let read = found.and_then(|raw| Ok((KeySet::read(&raw, &self.allowed)?, raw)));
        match read {
            Ok((keys, raw)) => {
                self.hold(keys, raw);
                true
            }
            Err(cause) => {
                let issuer = &self.issuer;
                warn!(%issuer, %cause, "The keys of an issuer could not be had.");
                false
            }
        }
    }

    fn hold(&self, keys: KeySet, raw: Vec<u8>) {
        let before = self.held.load();
        let same = before.as_ref().filter(|held| held.raw == raw);
        let (keys, generation) = if let Some(held) = same {
            (held.keys.clone(), held.generation)
        } else {
            let issuer = &self.issuer;
            info!(%issuer, "There are new keys of an issuer.");
            let number = self.generations.fetch_add(1, Ordering::Relaxed) + 1;
            (Arc::new(keys), number)
        };
        self.held.store(Some(Arc::new(Held {
            keys,
            raw,
            generation,
            at: Instant::now(),
        })));
    }

    fn fresh(&self) -> Duration {
        match self.place {
            Place::File(_) => FRESH_FILE,
            Place::Net { .. } => FRESH,
        }
    }

    fn rarely(&self) -> Duration {
        match self.place {
            Place::File(_) => RARELY_FILE,
            Place::Net { .. } => RARELY,
        }
    }

    async fn fetch(&self) -> Result<Vec<u8>, String> {
        match &self.place {
            Place::File(path) => {
                let read = tokio::fs::read(path).await;
                read.map_err(|error| format!("{}: {error}", path.display()))
            }
            Place::Net { http, jwks, ca } => {
                let Some(uri) = jwks else {
                    let named = self.discover(http).await?;
                    if is_same_origin(&named, http.uri()) {
                        return get(http, &named).await;
                    }
                    // Nobody has configured it, and what is shown to the issuer is not shown there.
                    let abroad = Http::new(Destination {
                        url: &named.to_string(),
                        headers: &BTreeMap::new(),
                        bearer: None,
                        token: None,
                        ca: ca.as_deref(),
                        is_named: true,
                    });
                    let abroad = abroad.map_err(|cause| format!("its `jwks_uri`: {cause}"))?;
                    return get(&abroad, &named).await;
                };
                get(http, uri).await
            }
        }
    }

    /// Where the issuer's metadata says its keys are (RFC 8414, OpenID Connect Discovery).
    async fn discover(&self, http: &Http) -> Result<Uri, String> {
        let issuer = self.issuer.trim_end_matches('/');
        let path = http.uri().path().trim_end_matches('/');
        let origin = issuer.strip_suffix(path).unwrap_or(issuer);
        let places = [
            format!("{origin}/.well-known/oauth-authorization-server{path}"),
            format!("{origin}/.well-known/openid-configuration{path}"),
            format!("{issuer}/.well-known/openid-configuration"),
        ];
        let mut last = String::new();
        for place in places {
            let uri: Uri = place.parse().map_err(|error| format!("{place}: {error}"))?;
            match get(http, &uri).await {
                Ok(raw) => return self.named(&raw),
                Err(cause) => last = cause,
            }
        }
        Err(format!("its metadata could not be had: {last}"))
    }

    fn named(&self, metadata: &[u8]) -> Result<Uri, String> {
        let metadata: Value =
            serde_json::from_slice(metadata).map_err(|error| format!("its metadata: {error}"))?;
        if metadata.get("issuer").and_then(Value::as_str) != Some(&*self.issuer) {
            return Err("its metadata are those of another issuer".to_owned());
        }
        let uri = metadata.get("jwks_uri").and_then(Value::as_str);
        let uri = uri.ok_or("its metadata name no `jwks_uri`")?;
        let uri: Uri = uri
            .parse()
            .map_err(|error| format!("its `jwks_uri`: {error}"))?;
        let own = self.issuer.parse::<Uri>().ok();
        let own = own.as_ref().and_then(Uri::scheme);
        if uri.scheme() != own {
            return Err("its `jwks_uri` has another scheme than itself".to_owned());
        }
        Ok(uri)
    }
}

async fn get(http: &Http, uri: &Uri) -> Result<Vec<u8>, String> {
    let reply = http
        .get_from(uri)
        .await
        .map_err(|error| error.to_string())?;
    if !reply.status().is_success() {
        return Err(format!("{uri}: HTTP {}", reply.status()));
    }
    let body = reply
        .body(LARGEST)
        .await
        .map_err(|error| error.to_string())?;
    Ok(body.to_vec())
}
