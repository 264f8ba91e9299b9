//! Kubernetes' TokenReview: the API server says whose a service account's token is.
//!
//! For what keys alone do not tell, such as that the pod is gone. A verdict is kept for a minute at
//! most, a refusal for a few seconds, both by digest; the token goes to the API server and nowhere
//! else.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use chillgate_policies::engine::Grants;
use http::header;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use tokio::sync::Semaphore;
use tokio::time::{Instant, timeout};
use tracing::warn;

use super::{Denied, Found, Principal};
use crate::client::{Destination, Http, JSON};
use crate::config::identity::TokenReview as Config;
use crate::config::{agent_name, userinfo};
use crate::lock::locked;

/// How long the API server may take.
const PATIENCE: Duration = Duration::from_secs(5);
/// How long a refusal is remembered.
const REFUSED: Duration = Duration::from_secs(5);
/// The most questions at one time.
const ASKING: usize = 64;
/// The most verdicts remembered.
const MOST: usize = 20_000;
/// The longest token that is sent anywhere.
const LONGEST: usize = 16 << 10;
/// The largest answer that is read.
const LARGEST: usize = 256 << 10;

/// Asks the API server, and remembers what it said.
#[derive(Clone, Debug)]
pub(super) struct Reviews(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    config: Config,
    http: Http,
    asking: Semaphore,
    seen: Mutex<HashMap<[u8; 32], Seen>>,
}

/// A verdict, and until when it counts.
type Seen = (Result<Principal, Denied>, Instant);

impl Reviews {
    /// Prepares to ask; one that was made from the same configuration goes on.
    ///
    /// # Errors
    /// In words, when the address cannot be used.
    pub(super) fn new(config: &Config, previous: Option<&Self>) -> Result<Self, String> {
        if let Some(same) = previous.filter(|previous| previous.0.config == *config) {
            return Ok(same.clone());
        }
        let http = Http::new(Destination {
            url: &config.url,
            headers: &BTreeMap::new(),
            bearer: Some(&config.token),
            token: None,
            ca: config.ca.as_deref(),
            is_named: false,
        })?;
        Ok(Self(Arc::new(Inner {
            config: config.clone(),
            http,
            asking: Semaphore::new(ASKING),
            seen: Mutex::default(),
        })))
    }

    /// What was found out about a token a moment ago.
    pub(super) fn remembered(&self, token: &str) -> Option<Result<Principal, Denied>> {
        let seen = locked(&self.0.seen);
        let (verdict, until) = seen.get(&mark(token))?;
        (Instant::now() < *until).then(|| verdict.clone())
    }

    /// Whose token this is, of which nothing is remembered.
    pub(super) fn of(&self, token: &str) -> Found {
        if token.len() > LONGEST {
            return Found::Now(Err(Denied::Token("it is longer than 16 KiB")));
        }
        let mark = mark(token);
        let (inner, token) = (self.0.clone(), token.to_owned());
        Found::Later(Box::pin(async move {
            let Ok(_place) = inner.asking.try_acquire() else {
                return Err(Denied::NoKeys);
            };
            let asked = timeout(PATIENCE, inner.ask(&token)).await;
            let asked = asked.unwrap_or_else(|_| Err("no answer within 5 s".to_owned()));
            let verdict = match asked {
                Ok(status) => inner.read(&status, mark),
                Err(cause) => {
                    warn!(url = %userinfo::masked(&inner.config.url), %cause, "A token could not be reviewed.");
                    return Err(Denied::NoKeys);
                }
            };
            let lasts = match &verdict {
                Ok(_) => inner.config.keep,
                Err(_) => REFUSED,
            };
            let mut seen = locked(&inner.seen);
            if seen.len() >= MOST {
                let now = Instant::now();
                seen.retain(|_, (_, until)| now < *until);
            }
            if seen.len() < MOST {
                seen.insert(mark, (verdict.clone(), Instant::now() + lasts));
            }
            verdict
        }))
    }
}

impl Inner {
    async fn ask(&self, token: &str) -> Result<Value, String> {
        let review = json!({
            "apiVersion": "authentication.k8s.io/v1",
            "kind": "TokenReview",
            "spec": { "token": token, "audiences": self.config.audience },
        });
        let body = review.to_string().into();
        let reply = self.http.post(body, &[(header::ACCEPT, JSON)]).await;
        let reply = reply.map_err(|error| error.to_string())?;
        if !reply.status().is_success() {
            return Err(format!("HTTP {}", reply.status()));
        }
        let body = reply
            .body(LARGEST)
            .await
            .map_err(|error| error.to_string())?;
        let review: Value =
            serde_json::from_slice(&body).map_err(|error| format!("no JSON: {error}"))?;
        let status = review.get("status").cloned();
        status.ok_or_else(|| "the review has no status".to_owned())
    }

    fn read(&self, status: &Value, mark: [u8; 32]) -> Result<Principal, Denied> {
        if status["authenticated"].as_bool() != Some(true) {
            return Err(Denied::Token("the API server does not know it"));
        }
        // An API server that knows no audiences names none (TokenReviewStatus.audiences).
        let named = status["audiences"].as_array().into_iter().flatten();
        let mut named = named.filter_map(Value::as_str);
        if !named.any(|audience| self.config.audience.iter().any(|own| own == audience)) {
            return Err(Denied::Token("its audience is another"));
        }
        let user = &status["user"];
        let name = user["username"].as_str().unwrap_or_default();
        let agent = format!("{}{name}", self.config.prefix);
        if name.is_empty() || !agent_name(&agent) {
            return Err(Denied::Token("its user's name is no agent's"));
        }
        let groups = user["groups"].as_array().into_iter().flatten();
        // A user who was made anew under an old name is another (UserInfo.uid).
        let uid = user["uid"].as_str().unwrap_or_default();
        let subject = [&*self.config.url, name, uid];
        Ok(Principal {
            // What such a token says, its server alone reads.
            says: Some(Arc::new(mark)),
            grants: Arc::new(Grants {
                groups: groups.filter_map(Value::as_str).map(Arc::from).collect(),
                scopes: Vec::new(),
            }),
            ..Principal::of(agent.into(), &subject)
        })
    }
}

/// What stands for a token.
fn mark(token: &str) -> [u8; 32] {
    Sha256::digest(token).into()
}
