//! Model endpoints: asked now and then whether they answer, and whether they have their model.
//!
//! A model that does not answer looks to its user like a server that does not; this tells the two
//! apart. An endpoint that is down changes nothing else: readiness and calls do not depend on it.
//! Only addresses of the configuration are asked, and redirects are not followed.

use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use arc_swap::ArcSwap;
use http::{StatusCode, Uri};
use serde::Serialize;
use serde_json::Value;
use tokio::sync::Notify;
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout};
use tracing::{info, warn};

use crate::client::{Destination, Http};
use crate::config::endpoint::{Endpoint, EndpointKind};
use crate::lock::locked;

/// The largest list of models that is read.
const LARGEST: usize = 4 << 20;
/// How many models an error names.
const NAMED: usize = 8;

/// What a check found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seen {
    /// In one word.
    pub state: EndpointState,
    /// How long the answer took, where there was one.
    pub latency: Option<Duration>,
    /// What is wrong, and what to do.
    pub error: Option<String>,
}

/// The state of an endpoint.
#[derive(Clone, Copy, Debug, Default, Serialize, PartialEq, Eq)]
#[serde(rename_all = "kebab-case")]
pub enum EndpointState {
    /// Not asked yet.
    #[default]
    Unchecked,
    /// It answers, and has the model it should have.
    Up,
    /// It does not answer, or something else than it should.
    Down,
    /// It answers and does not have the model.
    ModelMissing,
}

/// An endpoint as probes and operators see it.
#[derive(Clone, Debug, Serialize, PartialEq, Eq)]
pub struct EndpointReport {
    /// Its name.
    pub name: String,
    /// What it speaks.
    pub kind: &'static str,
    /// In one word.
    pub state: EndpointState,
    /// The model it should have.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub model: Option<String>,
    /// How long its last answer took.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub latency_ms: Option<u64>,
    /// What is wrong, and what to do.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

/// Asks an endpoint once, within its `timeout`.
pub async fn check(endpoint: &Endpoint) -> Seen {
    match client(endpoint) {
        Ok(http) => ask(&http, endpoint).await,
        Err(cause) => Seen::down(None, cause),
    }
}

impl Seen {
    fn down(latency: Option<Duration>, error: String) -> Self {
        Self {
            state: EndpointState::Down,
            latency,
            error: Some(error),
        }
    }
}

fn client(endpoint: &Endpoint) -> Result<Http, String> {
    Http::new(Destination {
        url: &endpoint.url,
        headers: &endpoint.headers,
        bearer: None,
        token: None,
        ca: endpoint.ca.as_deref(),
        is_named: false,
    })
}

/// The address that is asked.
fn address(endpoint: &Endpoint) -> String {
    let base = match endpoint.url.strip_prefix("unix:") {
        Some(_) => "http://localhost",
        None => endpoint.url.as_str(),
    };
    let root = base.trim_end_matches('/');
    match endpoint.kind {
        EndpointKind::Ollama => format!("{root}/api/tags"),
        EndpointKind::Openai if root.ends_with("/v1") => format!("{root}/models"),
        EndpointKind::Openai => format!("{root}/v1/models"),
        EndpointKind::Http => base.to_owned(),
    }
}

async fn ask(http: &Http, endpoint: &Endpoint) -> Seen {
    let began = Instant::now();
    let asked = async {
        let uri: Uri = address(endpoint)
            .parse()
            .map_err(|error| format!("its address cannot be asked: {error}; correct `url`"))?;
        let reply = http.get_from(&uri).await.map_err(|error| {
            format!("{error}; start it, or correct `url` of the endpoint in the configuration")
        })?;
        let status = reply.status();
        if endpoint.kind == EndpointKind::Http {
            return Ok((status, None));
        }
        let body = reply.body(LARGEST).await;
        let body = body.map_err(|error| format!("its answer could not be read: {error}"))?;
        Ok((status, Some(body)))
    };
    let asked = match timeout(endpoint.timeout, asked).await {
        Ok(asked) => asked,
        Err(_) => Err(format!(
            "it did not answer within {:?}; it may be loading a model or have too much to do",
            endpoint.timeout
        )),
    };
    let latency = began.elapsed();
    match asked {
        Err(cause) => Seen::down(None, cause),
        Ok((status, body)) => {
            let judged = judge(endpoint, status, body.as_deref());
            let (state, error) = match judged {
                Ok(()) => (EndpointState::Up, None),
                Err((state, error)) => (state, Some(error)),
            };
            Seen {
                state,
                latency: Some(latency),
                error,
            }
        }
    }
}

/// What an answer means.
fn judge(
    endpoint: &Endpoint,
    status: StatusCode,
    body: Option<&[u8]>,
) -> Result<(), (EndpointState, String)> {
    let down = |text: String| Err((EndpointState::Down, text));
    let refused = [StatusCode::UNAUTHORIZED, StatusCode::FORBIDDEN].contains(&status);
    let Some(body) = body else {
        let is_closed = refused && endpoint.headers.is_empty();
        if status.is_success() || status.is_redirection() || is_closed {
            return Ok(());
        }
        return down(format!(
            "it answered {status}; correct `url`, or see its own log"
        ));
    };
    if refused {
        return down(format!(
            "it answered {status}; correct the credentials in `headers`"
        ));
    }
    if status.is_redirection() {
        return down(format!(
            "it answered {status}, and redirects are not followed; write the address it is really at"
        ));
    }
    if status != StatusCode::OK {
        return down(format!(
            "it answered {status}; correct `url` or `kind`, or see its own log"
        ));
    }
    let Some(models) = models(endpoint.kind, body) else {
        return down(format!(
            "its answer is no list of models as `{}` has it; correct `url` or `kind`",
            endpoint.kind.as_str()
        ));
    };
    let Some(wanted) = &endpoint.model else {
        return Ok(());
    };
    let latest = format!("{wanted}:latest");
    let is_it = |model: &String| {
        model == wanted || endpoint.kind == EndpointKind::Ollama && *model == latest
    };
    if models.iter().any(is_it) {
        return Ok(());
    }
    let has = match models.as_slice() {
        [] => "it has none".to_owned(),
        all => {
            let named: Vec<&str> = all.iter().take(NAMED).map(String::as_str).collect();
            let more = if all.len() > NAMED { ", …" } else { "" };
            format!("it has {}{more}", named.join(", "))
        }
    };
    let get = match endpoint.kind {
        EndpointKind::Ollama => format!("`ollama pull {wanted}` gets it"),
        _ => "correct `model`, or load it there".to_owned(),
    };
    Err((
        EndpointState::ModelMissing,
        format!("the model {wanted} is not there: {has}; {get}"),
    ))
}

/// The models of a list; `None`: it is no such list.
fn models(kind: EndpointKind, body: &[u8]) -> Option<Vec<String>> {
    let answer: Value = serde_json::from_slice(body).ok()?;
    let (list, key) = match kind {
        EndpointKind::Ollama => ("models", "name"),
        _ => ("data", "id"),
    };
    let models = answer.get(list)?.as_array()?.iter();
    Some(
        models
            .filter_map(|model| model.get(key)?.as_str().map(str::to_owned))
            .collect(),
    )
}

/// The endpoints of the configuration in force, and what was last seen of each. Clones are the same.
#[derive(Clone, Debug, Default)]
pub struct Endpoints(Arc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    watched: ArcSwap<Vec<Arc<Watched>>>,
    changed: Notify,
}

#[derive(Debug)]
struct Watched {
    endpoint: Endpoint,
    http: OnceLock<Result<Http, String>>,
    seen: Mutex<Option<Seen>>,
}

impl Endpoints {
    /// Watches these from now on; what is known of those that stay is kept.
    pub fn take_over(&self, endpoints: &[Endpoint]) {
        let before = self.0.watched.load();
        let same = before.len() == endpoints.len()
            && before.iter().zip(endpoints).all(|(a, b)| a.endpoint == *b);
        if same {
            return;
        }
        let next = endpoints.iter().map(|endpoint| {
            let kept = before.iter().find(|known| known.endpoint == *endpoint);
            kept.cloned().unwrap_or_else(|| {
                Arc::new(Watched {
                    endpoint: endpoint.clone(),
                    http: OnceLock::new(),
                    seen: Mutex::default(),
                })
            })
        });
        self.0.watched.store(Arc::new(next.collect()));
        self.0.changed.notify_one();
    }

    /// Asks each as often as it says, until dropped.
    pub async fn keep_checking(self) {
        loop {
            let mut checking = JoinSet::new();
            for watched in self.0.watched.load().iter() {
                let watched = watched.clone();
                checking.spawn(async move {
                    loop {
                        watched.check().await;
                        tokio::time::sleep(watched.endpoint.every).await;
                    }
                });
            }
            self.0.changed.notified().await;
        }
    }

    /// Asks all of them now.
    pub async fn check_all(&self) {
        let watched = self.0.watched.load_full();
        let checks = watched.iter().map(|watched| watched.check());
        futures_util::future::join_all(checks).await;
    }

    /// What was last seen of each.
    pub fn report(&self) -> Vec<EndpointReport> {
        let watched = self.0.watched.load();
        watched.iter().map(|watched| watched.report()).collect()
    }
}

impl Watched {
    async fn check(&self) {
        let http = self.http.get_or_init(|| client(&self.endpoint));
        let seen = match http {
            Ok(http) => ask(http, &self.endpoint).await,
            Err(cause) => Seen::down(None, cause.clone()),
        };
        let before = locked(&self.seen).replace(seen.clone());
        let was = before.map(|before| before.state).unwrap_or_default();
        if was != seen.state {
            let endpoint = &self.endpoint.name;
            match &seen.error {
                None => info!(%endpoint, "The model endpoint answers."),
                Some(cause) => warn!(%endpoint, %cause, "The model endpoint does not serve."),
            }
        }
    }

    fn report(&self) -> EndpointReport {
        let seen = locked(&self.seen).clone();
        let (latency, error) = match &seen {
            None => (None, None),
            Some(seen) => (seen.latency, seen.error.clone()),
        };
        EndpointReport {
            name: self.endpoint.name.clone(),
            kind: self.endpoint.kind.as_str(),
            state: seen.map(|seen| seen.state).unwrap_or_default(),
            model: self.endpoint.model.clone(),
            latency_ms: latency.map(|span| u64::try_from(span.as_millis()).unwrap_or(u64::MAX)),
            error,
        }
    }
}
