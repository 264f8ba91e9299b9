//! Remote servers over Streamable HTTP (revisions 2025-03-26 to 2025-11-25, client role).
//!
//! Each host session has a session of its own at the server, so ids, tokens and questions need no
//! mapping and have one owner. Credentials are chillgate's own: nothing a host sends as a header
//! ever leaves here. Connections are pooled per server by the HTTP client.

use std::borrow::Cow;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use chillgate_wire::{Envelope, Era, message};
use http::StatusCode;
use tokio::sync::Notify;
use tokio_util::task::TaskTracker;
use tracing::{info, warn};

use crate::backend::greeting::{self, Greeting};
use crate::backend::pipe::{Terms, waits_for_its_host};
use crate::backend::reach::Reach;
use crate::backend::{Attended, Backend, BackendError, Passage, State};
use crate::client::{Http, HttpError};
use crate::config::RemoteServer;
use crate::era::server::{discovered, to_legacy};
use crate::exchange::Exchange;
use crate::lock::locked;
use crate::map::Map;
use crate::session::{Scope, Session};

pub mod events;
mod link;

use link::{CancelOnDrop, Link, Sent};

/// `Mcp-Session-Id`, as HTTP/1.1 and HTTP/2 both accept it.
const SESSION_ID: http::HeaderName = http::HeaderName::from_static("mcp-session-id");
/// `MCP-Protocol-Version`.
pub(super) const PROTOCOL_VERSION: http::HeaderName =
    http::HeaderName::from_static("mcp-protocol-version");
/// A server somewhere else.
#[derive(Clone, Debug)]
pub struct Remote(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    http: Http,
    reach: Reach,
    start_timeout: Duration,
    terms: Terms,
    tasks: TaskTracker,
    links: Mutex<Map<Arc<str>, Arc<Link>>>,
    state: Mutex<State>,
    stopped: AtomicBool,
    stopping: Notify,
}

impl Remote {
    /// A server that nobody has called yet.
    pub fn new(server: &RemoteServer, http: Http, terms: Terms, tasks: TaskTracker) -> Self {
        Self(Arc::new(Inner {
            http,
            reach: Reach::new(server),
            start_timeout: server.start_timeout,
            terms,
            tasks,
            links: Mutex::default(),
            state: Mutex::new(State::OnDemand),
            stopped: AtomicBool::new(false),
            stopping: Notify::new(),
        }))
    }

    /// One handshake in a session that nobody uses.
    async fn greet_and_leave(&self) -> Result<(), BackendError> {
        let params = greeting::params_of_the_gate();
        let hello = message::request(b"\"chillgate-0\"", "initialize", Some(&params));
        let reply = tokio::time::timeout(self.0.start_timeout, self.0.http.post(hello, &[])).await;
        let reply = reply
            .map_err(|_| self.0.down(late(self.0.start_timeout)))?
            .map_err(|error| self.0.explain(&error))?;
        let (status, session) = (reply.status(), reply.header(&SESSION_ID));
        if let Some(id) = session {
            let goodbye = [(SESSION_ID, id)];
            let leaving = self.0.http.delete(&goodbye);
            let _ = tokio::time::timeout(Duration::from_secs(2), leaving).await;
        }
        if status.is_success() {
            return Ok(());
        }
        let body = tokio::time::timeout(self.0.start_timeout, reply.body(LONGEST_CAUSE)).await;
        let cause = refusal(status, &body.ok().and_then(Result::ok).unwrap_or_default());
        Err(
            if matches!(status, StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN) {
                self.0.down(unwanted(status))
            } else if is_refusal_to_speak(status) {
                self.0.unspoken(cause)
            } else {
                self.0.down(cause)
            },
        )
    }

    fn link(&self, session: &Arc<Session>) -> Arc<Link> {
        let mut links = locked(&self.0.links);
        let link = links
            .entry(session.id.clone())
            .or_insert_with(|| Link::new(&self.0, session));
        link.clone()
    }
}

impl Inner {
    fn down(&self, cause: impl Into<String>) -> BackendError {
        BackendError::Down {
            server: self.terms.server.clone(),
            cause: cause.into(),
            known: None,
        }
    }

    fn caller(&self, cause: impl Into<String>) -> BackendError {
        BackendError::Caller {
            server: self.terms.server.clone(),
            cause: cause.into(),
        }
    }

    fn unspoken(&self, cause: impl Into<String>) -> BackendError {
        BackendError::Unspoken {
            server: self.terms.server.clone(),
            cause: cause.into(),
            known: None,
        }
    }

    fn invalid(&self, cause: impl Into<String>) -> BackendError {
        BackendError::Invalid {
            server: self.terms.server.clone(),
            cause: cause.into(),
        }
    }

    fn lost(&self, cause: impl Into<String>) -> BackendError {
        BackendError::Lost {
            server: self.terms.server.clone(),
            cause: cause.into(),
            ended: None,
            retryable: false,
            known: None,
        }
    }

    fn explain(&self, error: &HttpError) -> BackendError {
        match error {
            HttpError::Connect(_) | HttpError::Secret(_) => self.down(error.to_string()),
            HttpError::Caller(cause) => self.caller(cause),
            HttpError::Broken(_) => self.lost(error.to_string()),
        }
    }

    fn now(&self, state: State) {
        let mut known = locked(&self.state);
        if *known == state {
            return;
        }
        *known = state.clone();
        drop(known);
        let server = &self.terms.server;
        match state {
            State::Ready => {
                self.reach.answered(&self.terms);
                info!(%server, "The server answers.");
            }
            State::Broken(cause) => warn!(%server, %cause, "The server does not answer."),
            _ => {}
        }
    }

    /// It does not answer, for this reason: that is its state, and an incident if it is new.
    fn broken(&self, error: BackendError) -> BackendError {
        let error = match error {
            BackendError::Down { server, cause, .. } => {
                let (cause, known) = self.reach.failed(&self.terms, &cause);
                BackendError::Down {
                    server,
                    cause,
                    known,
                }
            }
            other => other,
        };
        self.now(State::Broken(error.to_string()));
        error
    }

    fn parse(&self, raw: Bytes) -> Result<Envelope, BackendError> {
        Envelope::parse(raw, &self.terms.limits).map_err(|fault| {
            self.terms
                .metrics
                .child_protocol_error(&self.terms.server, fault.kind.as_str());
            self.invalid(fault.to_string())
        })
    }
}

#[async_trait]
impl Backend for Remote {
    fn name(&self) -> &Arc<str> {
        &self.0.terms.server
    }

    async fn call(
        &self,
        exchange: &Arc<Exchange>,
        request: &Envelope,
        _passage: Passage,
    ) -> Result<Envelope, BackendError> {
        let link = self.link(&exchange.session);
        let _slot = if waits_for_its_host(request) {
            None
        } else {
            let slot = link.slots.acquire().await;
            Some(slot.map_err(|_| self.0.down("it was stopped"))?)
        };
        if request.method() == Some("initialize") {
            let answer = match link.ask(&self.0, Some(exchange), request).await {
                Ok(Sent::Answer(answer)) => answer,
                Ok(Sent::NoSession) => return Err(self.0.down("it refuses every session")),
                Err(error) => return Err(self.0.broken(error)),
            };
            if let Ok(greeting) = Greeting::read(&answer) {
                link.agree(&greeting);
                *link.greeted.lock().await = true;
                self.0.now(State::Ready);
            }
            return Ok(answer);
        }
        let request = match to_legacy(exchange, request) {
            Ok(request) => request,
            Err(refusal) => return Ok(*refusal),
        };
        let request = &match exchange.session.era() {
            Era::Legacy => request,
            // Under its number in the session: several hosts of one may ask at a time.
            Era::Modern => Cow::Owned(request.with_id(exchange.id.as_bytes())),
        };
        for retry in [false, true] {
            link.greet(&self.0).await?;
            if request.method() == Some("server/discover") {
                let result = link.said().unwrap_or_else(|| Bytes::from_static(b"{}"));
                let greeting = message::result(exchange.id.as_bytes(), &result);
                return self.0.parse(greeting).map(|greeting| discovered(&greeting));
            }
            if let Some(level) = exchange.log_level() {
                Box::pin(link.log_from(&self.0, level)).await;
            }
            let generation = link.generation.load(Ordering::Relaxed);
            let mut cancel = CancelOnDrop {
                link: link.clone(),
                id: Some(exchange.id.clone()),
            };
            let sent = link.ask(&self.0, Some(exchange), request).await;
            cancel.id = None;
            match sent {
                Ok(Sent::Answer(answer)) => {
                    self.0.now(State::Ready);
                    return Ok(answer);
                }
                // Whoever notices first shakes hands again; the others find it done.
                Ok(Sent::NoSession) if !retry => link.forget(generation).await,
                Ok(Sent::NoSession) => break,
                Err(error @ BackendError::Down { .. }) => return Err(self.0.broken(error)),
                Err(error) => return Err(error),
            }
        }
        Err(self.0.down("it forgets its sessions at once"))
    }

    async fn attend(&self, session: &Arc<Session>) -> Result<Attended, BackendError> {
        let link = self.link(session);
        link.greet(&self.0).await?;
        let generation = link.generation.load(Ordering::Relaxed);
        Ok(Attended {
            said: link.said().unwrap_or_default(),
            ended: Box::pin(async move { link.until_forgotten(generation).await }),
        })
    }

    async fn post(&self, session: &Arc<Session>, note: Envelope) -> Result<(), BackendError> {
        let link = self.link(session);
        let is_initialized = note.method() == Some("notifications/initialized");
        if matches!(session.scope, Scope::Merged(_))
            && (is_initialized || !*link.greeted.lock().await)
        {
            return Ok(());
        }
        link.post(&self.0, &note).await?;
        if is_initialized {
            link.listen();
        }
        Ok(())
    }

    async fn detach(&self, session: &Arc<Session>) {
        let Some(link) = locked(&self.0.links).remove(&session.id) else {
            return;
        };
        link.over.notify_one();
        let headers = link.headers();
        if headers.iter().any(|(name, _)| *name == SESSION_ID) {
            // Good manners, not worth waiting for.
            self.0.tasks.spawn(async move {
                let goodbye = link.http.delete(&headers);
                let _ = tokio::time::timeout(Duration::from_secs(2), goodbye).await;
            });
        }
    }

    /// Says hello and good-bye until it is answered, so that `/readyz` names a server that is not
    /// there before a host finds out.
    async fn warm(&self) {
        let mut pause = Duration::from_secs(1);
        while !self.0.stopped.load(Ordering::Relaxed) {
            match self.greet_and_leave().await {
                Ok(()) => return self.0.now(State::Ready),
                Err(error) => drop(self.0.broken(error)),
            }
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                () = self.0.stopping.notified() => return,
            }
            pause = (pause * 2).min(Duration::from_mins(1));
        }
    }

    fn state(&self) -> State {
        locked(&self.0.state).clone()
    }

    async fn stop(&self) {
        self.0.stopped.store(true, Ordering::Relaxed);
        self.0.stopping.notify_one();
        let links: Vec<_> = locked(&self.0.links)
            .drain()
            .map(|(_, link)| link)
            .collect();
        for link in links {
            link.over.notify_one();
            let headers = link.headers();
            let goodbye = link.http.delete(&headers);
            let _ = tokio::time::timeout(Duration::from_millis(500), goodbye).await;
        }
    }
}

/// Whether a server that answers the first words so may understand others: it says that it does not
/// know what was sent, not that it has too much to do or does not want chillgate.
pub(super) fn is_refusal_to_speak(status: StatusCode) -> bool {
    matches!(
        status,
        StatusCode::BAD_REQUEST
            | StatusCode::NOT_FOUND
            | StatusCode::METHOD_NOT_ALLOWED
            | StatusCode::NOT_ACCEPTABLE
            | StatusCode::UNSUPPORTED_MEDIA_TYPE
    )
}

/// What is said of a server that is silent.
fn late(span: Duration) -> String {
    format!(
        "it did not answer `initialize` within {:.1} s; `start-timeout` allows more",
        span.as_secs_f64()
    )
}

/// So much of a refusal is read.
const LONGEST_CAUSE: usize = 64 << 10;

/// What is said of a server that refuses a message: the same whatever it was.
pub(super) fn refusal(status: StatusCode, body: &[u8]) -> String {
    let text = String::from_utf8_lossy(&body[..body.len().min(200)]);
    let text = text.trim().escape_debug().to_string();
    format!("HTTP {status} {text}").trim_end().to_owned()
}

/// Why a server does not take the token that a host's was exchanged for: for that host alone.
pub(super) fn unwelcome(status: StatusCode) -> String {
    format!(
        "it refused the token that the host's own was exchanged for (HTTP {status}); see to what \
         `scopes`, `resource` and `audience` under `token` of this server ask for"
    )
}

/// Why a server that wants other credentials gives no answer.
pub(super) fn unwanted(status: StatusCode) -> String {
    format!(
        "it refused chillgate's own credentials (HTTP {status}); set them under `headers` of this \
         server"
    )
}
