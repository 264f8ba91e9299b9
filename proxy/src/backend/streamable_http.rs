//! Remote servers over Streamable HTTP (revisions 2025-03-26 to 2025-11-25, client role).
//!
//! Each host session has a session of its own at the server, so ids, tokens and questions need no
//! mapping and have one owner. Credentials are chillgate's own: nothing a host sends as a header
//! ever leaves here. Connections are pooled per server by the HTTP client.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use chillgate_wire::{Envelope, Id, Kind, json, message};
use http::{HeaderValue, StatusCode, header};
use tokio::sync::{Notify, Semaphore};
use tokio_util::task::TaskTracker;
use tracing::{debug, info, warn};

use crate::backend::greeting::{self, Greeting};
use crate::backend::pipe::{Terms, severity};
use crate::backend::{Backend, BackendError, Passage, State};
use crate::config::RemoteServer;
use crate::exchange::Exchange;
use crate::session::{Asker, Scope, Session};

pub mod connect;
pub mod events;

use connect::{Http, HttpError, Reply};
use events::Events;

/// `Mcp-Session-Id`, as HTTP/1.1 and HTTP/2 both accept it.
const SESSION_ID: http::HeaderName = http::HeaderName::from_static("mcp-session-id");
/// `MCP-Protocol-Version`.
const PROTOCOL_VERSION: http::HeaderName = http::HeaderName::from_static("mcp-protocol-version");
/// `Last-Event-ID`.
const LAST_EVENT_ID: http::HeaderName = http::HeaderName::from_static("last-event-id");

/// How often a broken answer stream is resumed before the answer counts as lost.
const RESUMES: u32 = 20;

/// A server somewhere else.
#[derive(Clone, Debug)]
pub struct Remote(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    http: Http,
    start_timeout: Duration,
    terms: Terms,
    tasks: TaskTracker,
    links: Mutex<HashMap<Arc<str>, Arc<Link>>>,
    state: Mutex<State>,
    stopped: AtomicBool,
    stopping: Notify,
}

/// One host session's session at the server.
#[derive(Debug)]
struct Link {
    remote: Weak<Inner>,
    session: Weak<Session>,
    id: Mutex<Option<HeaderValue>>,
    revision: Mutex<Option<HeaderValue>>,
    greeted: tokio::sync::Mutex<bool>,
    generation: AtomicU64,
    listening: AtomicBool,
    over: Notify,
    slots: Semaphore,
}

/// What became of one POST.
enum Sent {
    Answer(Envelope),
    /// The server does not know the session (any more); the message was not carried out.
    NoSession,
}

impl Remote {
    /// A server that nobody has called yet.
    pub fn new(server: &RemoteServer, terms: Terms, tasks: TaskTracker) -> Result<Self, String> {
        Ok(Self(Arc::new(Inner {
            http: Http::new(server)?,
            start_timeout: server.start_timeout,
            terms,
            tasks,
            links: Mutex::default(),
            state: Mutex::new(State::OnDemand),
            stopped: AtomicBool::new(false),
            stopping: Notify::new(),
        })))
    }

    /// One handshake in a session that nobody uses.
    async fn greet_and_leave(&self) -> Result<(), BackendError> {
        let params = greeting::params_of_the_gate();
        let hello = message::request(b"\"chillgate-0\"", "initialize", Some(&params));
        let reply = tokio::time::timeout(self.0.start_timeout, self.0.http.post(hello, &[])).await;
        let reply = reply
            .map_err(|_| self.0.down("it did not answer `initialize` in time"))?
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
        Err(self
            .0
            .down(format!("it answered `initialize` with HTTP {status}")))
    }

    fn link(&self, session: &Arc<Session>) -> Arc<Link> {
        let mut links = locked(&self.0.links);
        let link = links.entry(session.id.clone()).or_insert_with(|| {
            Arc::new(Link {
                remote: Arc::downgrade(&self.0),
                session: Arc::downgrade(session),
                id: Mutex::default(),
                revision: Mutex::default(),
                greeted: tokio::sync::Mutex::new(false),
                generation: AtomicU64::new(0),
                listening: AtomicBool::new(false),
                over: Notify::new(),
                slots: Semaphore::new(self.0.terms.in_flight),
            })
        });
        link.clone()
    }
}

impl Inner {
    fn down(&self, cause: impl Into<String>) -> BackendError {
        BackendError::Down {
            server: self.terms.server.clone(),
            cause: cause.into(),
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
        }
    }

    fn explain(&self, error: &HttpError) -> BackendError {
        match error {
            HttpError::Connect(_) | HttpError::Secret(_) => self.down(error.to_string()),
            HttpError::Broken(_) => self.lost(error.to_string()),
        }
    }

    fn now(&self, state: State) {
        let mut known = locked(&self.state);
        if *known != state {
            self.terms
                .metrics
                .child_up(&self.terms.server, state == State::Ready);
            if let State::Broken(cause) = &state {
                warn!(server = %self.terms.server, %cause, "The server does not answer.");
            }
            if state == State::Ready {
                info!(server = %self.terms.server, "The server answers.");
            }
            *known = state;
        }
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

impl Link {
    fn headers(&self) -> Vec<(http::HeaderName, HeaderValue)> {
        let mut headers = Vec::with_capacity(2);
        if let Some(id) = locked(&self.id).clone() {
            headers.push((SESSION_ID, id));
        }
        if let Some(revision) = locked(&self.revision).clone() {
            headers.push((PROTOCOL_VERSION, revision));
        }
        headers
    }

    /// POSTs a request and waits for its answer, handing on what comes before it.
    async fn ask(
        self: &Arc<Self>,
        remote: &Inner,
        exchange: Option<&Arc<Exchange>>,
        request: &Envelope,
    ) -> Result<Sent, BackendError> {
        let headers = self.headers();
        let with_session = headers.iter().any(|(name, _)| *name == SESSION_ID);
        let reply = remote.http.post(request.raw().clone(), &headers).await;
        let reply = reply.map_err(|error| remote.explain(&error))?;
        let status = reply.status();
        if request.method() == Some("initialize") && status.is_success() {
            *locked(&self.id) = reply.header(&SESSION_ID);
        }
        if reply.is_events() && status.is_success() {
            return self
                .follow(remote, exchange, request, reply)
                .await
                .map(Sent::Answer);
        }
        let body = reply.body(remote.terms.limits.message).await;
        let body = body.map_err(|error| remote.explain(&error))?;
        if with_session && is_session_loss(status, &body) {
            return Ok(Sent::NoSession);
        }
        match status {
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => {
                let cause = format!(
                    "it refused chillgate's own credentials (HTTP {status}); \
                     set them under `headers` of this server"
                );
                remote.now(State::Broken(cause.clone()));
                return Err(remote.down(cause));
            }
            status if status.is_success() => {}
            status => {
                // An error object in a failed reply is still the server's own answer.
                if let Ok(answer) = Envelope::parse(body.clone(), &remote.terms.limits)
                    && answer.kind() == Kind::Error
                {
                    return Self::check(remote, request, answer).map(Sent::Answer);
                }
                let text = String::from_utf8_lossy(&body[..body.len().min(200)]).into_owned();
                return Err(remote.down(format!("HTTP {status} {}", text.escape_debug())));
            }
        }
        let answer = remote.parse(body)?;
        Self::check(remote, request, answer).map(Sent::Answer)
    }

    /// The answer must be to this request; an error without an id is taken for one.
    fn check(
        remote: &Inner,
        request: &Envelope,
        answer: Envelope,
    ) -> Result<Envelope, BackendError> {
        match answer.kind() {
            Kind::Response if answer.id_bytes() == request.id_bytes() => Ok(answer),
            Kind::Error => Ok(answer.with_id(request.id_bytes().unwrap_or(b"null"))),
            _ => Err(remote.invalid("its reply is not an answer to the request")),
        }
    }

    /// Reads an answer stream to the answer. A stream that ends early after an event id is
    /// resumed with GET (revision 2025-11-25: servers may close and be polled).
    async fn follow(
        self: &Arc<Self>,
        remote: &Inner,
        exchange: Option<&Arc<Exchange>>,
        request: &Envelope,
        reply: Reply,
    ) -> Result<Envelope, BackendError> {
        let mut events = Events::new(reply, remote.terms.limits.message);
        let mut resumes = 0;
        loop {
            while let Some(event) = events.next().await {
                let raw = match event {
                    Ok(raw) => raw,
                    Err(error) => {
                        debug!(server = %remote.terms.server, %error, "The stream broke.");
                        break;
                    }
                };
                if raw.is_empty() {
                    continue;
                }
                let Ok(said) = remote.parse(raw) else {
                    continue;
                };
                if let Some(exchange) = exchange {
                    exchange.touch();
                }
                if matches!(said.kind(), Kind::Response | Kind::Error) {
                    return Self::check(remote, request, said);
                }
                self.hear(remote, exchange, said);
            }
            let Some(last) = events.last_id().filter(|_| resumes < RESUMES) else {
                return Err(remote.lost("its stream ended without the answer"));
            };
            resumes += 1;
            tokio::time::sleep(events.retry()).await;
            let mut headers = self.headers();
            headers.push((LAST_EVENT_ID, last.clone()));
            let reply = remote
                .http
                .get(&headers)
                .await
                .map_err(|error| remote.explain(&error))?;
            if !reply.status().is_success() || !reply.is_events() {
                return Err(remote.lost(format!(
                    "its stream ended without the answer and could not be resumed (HTTP {})",
                    reply.status()
                )));
            }
            events = Events::resumed(reply, remote.terms.limits.message, &events);
        }
    }

    /// Hands on what the server says besides answers.
    fn hear(self: &Arc<Self>, remote: &Inner, exchange: Option<&Arc<Exchange>>, said: Envelope) {
        let Some(session) = self.session.upgrade() else {
            return;
        };
        let params = said.params().unwrap_or_default();
        let sent = match (said.kind(), said.method().unwrap_or_default()) {
            (Kind::Request, "ping") => {
                let answer = said.id().map(|id| message::result(id.as_bytes(), b"{}"));
                if let Some(Ok(answer)) = answer.map(|raw| remote.parse(raw)) {
                    self.spawn_post(answer);
                }
                return;
            }
            (Kind::Request, _) => {
                let asked = session.ask(self.clone(), &said, exchange);
                if let (Err(_), Some(id)) = (&asked, said.id()) {
                    let refusal = message::error(
                        Some(id.as_bytes()),
                        chillgate_wire::code::INTERNAL_ERROR,
                        "the host has too many open questions or does not read them",
                        None,
                    );
                    if let Ok(refusal) = remote.parse(refusal) {
                        self.spawn_post(refusal);
                    }
                }
                asked
            }
            (_, "notifications/cancelled") => {
                let id =
                    json::member(params, "requestId").and_then(|at| Id::from_lexeme(&params[at]));
                if let Some(id) = id {
                    session.withdraw(&id, &said);
                }
                return;
            }
            (_, "notifications/message") => {
                let level = json::member(params, "level")
                    .and_then(|at| json::text(&params[at]))
                    .and_then(|name| severity(&name));
                if level.is_some_and(|level| level < session.log_level()) {
                    return;
                }
                session.tell_about(exchange, said)
            }
            (_, method)
                if method.ends_with("list_changed")
                    || method == "notifications/resources/updated" =>
            {
                if method.ends_with("list_changed") {
                    session.learned().forget(&remote.terms.server);
                }
                session.tell(said)
            }
            _ => session.tell_about(exchange, said),
        };
        if sent.is_err() {
            remote
                .terms
                .metrics
                .dropped(&remote.terms.server, "host_not_reading");
        }
    }

    /// Shakes hands on the session's behalf if nobody has: at the first call of a merged session,
    /// and when the server has forgotten a session.
    async fn greet(self: &Arc<Self>, remote: &Inner) -> Result<(), BackendError> {
        let mut greeted = self.greeted.lock().await;
        if *greeted {
            return Ok(());
        }
        let Some(session) = self.session.upgrade() else {
            return Err(remote.down("the session is over"));
        };
        *locked(&self.id) = None;
        *locked(&self.revision) = None;
        let params = greeting::params_of(&session);
        let request = remote.parse(message::request(
            b"\"chillgate-1\"",
            "initialize",
            Some(&params),
        ))?;
        let asking = self.ask(remote, None, &request);
        let answer = match tokio::time::timeout(remote.start_timeout, asking).await {
            Ok(answer) => answer,
            Err(_) => Err(remote.down(format!(
                "it did not answer `initialize` within {} s",
                remote.start_timeout.as_secs()
            ))),
        };
        let answer = match answer {
            Ok(Sent::Answer(answer)) => answer,
            Ok(Sent::NoSession) => return Err(remote.down("it refuses every session")),
            Err(error) => {
                remote.now(State::Broken(error.to_string()));
                return Err(error);
            }
        };
        self.agree(&Greeting::read(&answer).map_err(|cause| remote.down(cause))?);
        let note = remote.parse(message::notification("notifications/initialized", None))?;
        self.post(remote, &note).await?;
        remote.now(State::Ready);
        *greeted = true;
        self.listen();
        Ok(())
    }

    /// Keeps the revision for the header that 2025-06-18 and later ask for.
    fn agree(&self, greeting: &Greeting) {
        self.generation.fetch_add(1, Ordering::Relaxed);
        if greeting.revision.as_str() >= "2025-06-18" {
            *locked(&self.revision) = HeaderValue::from_str(&greeting.revision).ok();
        }
    }

    /// POSTs a notification or an answer.
    async fn post(&self, remote: &Inner, message: &Envelope) -> Result<(), BackendError> {
        let reply = remote
            .http
            .post(message.raw().clone(), &self.headers())
            .await;
        let reply = reply.map_err(|error| remote.explain(&error))?;
        if reply.status().is_success() {
            return Ok(());
        }
        Err(remote.down(format!(
            "HTTP {} to {}",
            reply.status(),
            message.method().unwrap_or("an answer")
        )))
    }

    fn spawn_post(self: &Arc<Self>, message: Envelope) {
        let Some(remote) = self.remote.upgrade() else {
            return;
        };
        let link = self.clone();
        remote.clone().tasks.spawn(async move {
            if let Err(error) = link.post(&remote, &message).await {
                debug!(server = %remote.terms.server, %error, "A message was not taken.");
            }
        });
    }

    /// Keeps the server's own stream open (GET) until the session is over or the server has none.
    fn listen(self: &Arc<Self>) {
        if self.listening.swap(true, Ordering::Relaxed) {
            return;
        }
        let Some(remote) = self.remote.upgrade() else {
            return;
        };
        let link = self.clone();
        remote.clone().tasks.spawn(async move {
            let listening = link.keep_listening(&remote);
            tokio::select! {
                () = listening => {}
                () = link.over.notified() => {}
            }
            link.listening.store(false, Ordering::Relaxed);
        });
    }

    async fn keep_listening(self: &Arc<Self>, remote: &Inner) {
        let mut last: Option<HeaderValue> = None;
        let mut failures = 0u32;
        while self.session.strong_count() > 0 {
            let mut headers = self.headers();
            headers.extend(last.clone().map(|id| (LAST_EVENT_ID, id)));
            let mut pause = Duration::from_secs(1);
            match remote.http.get(&headers).await {
                Ok(reply) if reply.status().is_success() && reply.is_events() => {
                    failures = 0;
                    let mut events = Events::new(reply, remote.terms.limits.message);
                    while let Some(Ok(raw)) = events.next().await {
                        if let Ok(said) = remote.parse(raw)
                            && matches!(said.kind(), Kind::Request | Kind::Notification)
                        {
                            self.hear(remote, None, said);
                        }
                    }
                    last = events.last_id().cloned().or(last);
                    pause = events.retry();
                }
                // 405: it has no such stream (allowed). Other refusals will not heal by asking.
                Ok(reply) if reply.status().is_client_error() => return,
                Ok(_) | Err(_) => failures += 1,
            }
            tokio::time::sleep(pause * (1 << failures.min(5))).await;
        }
    }
}

#[async_trait]
impl Asker for Link {
    async fn answer(&self, message: Envelope) {
        let Some(remote) = self.remote.upgrade() else {
            return;
        };
        if let Err(error) = self.post(&remote, &message).await {
            debug!(server = %remote.terms.server, %error, "An answer was not taken.");
        }
    }
}

/// Dropped before the answer, the server is told that nobody waits any more.
struct CancelOnDrop {
    link: Arc<Link>,
    id: Option<Id>,
}

impl Drop for CancelOnDrop {
    fn drop(&mut self) {
        let Some(id) = &self.id else { return };
        let params = [b"{\"requestId\":".as_slice(), id.as_bytes(), b"}"].concat();
        let note = message::notification("notifications/cancelled", Some(&params));
        if let Some(remote) = self.link.remote.upgrade()
            && let Ok(note) = remote.parse(note)
        {
            self.link.spawn_post(note);
        }
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
        request: Envelope,
        _passage: Passage,
    ) -> Result<Envelope, BackendError> {
        let link = self.link(&exchange.session);
        let _slot = link
            .slots
            .acquire()
            .await
            .map_err(|_| self.0.down("it was stopped"))?;
        if request.method() == Some("initialize") {
            let answer = match link.ask(&self.0, Some(exchange), &request).await {
                Ok(Sent::Answer(answer)) => answer,
                Ok(Sent::NoSession) => return Err(self.0.down("it refuses every session")),
                Err(error) => {
                    self.0.now(State::Broken(error.to_string()));
                    return Err(error);
                }
            };
            if let Ok(greeting) = Greeting::read(&answer) {
                link.agree(&greeting);
                *link.greeted.lock().await = true;
                self.0.now(State::Ready);
            }
            return Ok(answer);
        }
        for retry in [false, true] {
            link.greet(&self.0).await?;
            let generation = link.generation.load(Ordering::Relaxed);
            let mut cancel = CancelOnDrop {
                link: link.clone(),
                id: Some(exchange.id.clone()),
            };
            let sent = link.ask(&self.0, Some(exchange), &request).await;
            cancel.id = None;
            match sent {
                Ok(Sent::Answer(answer)) => {
                    self.0.now(State::Ready);
                    return Ok(answer);
                }
                Ok(Sent::NoSession) if !retry => {
                    // Whoever notices first shakes hands again; the others find it done.
                    let mut greeted = link.greeted.lock().await;
                    if link.generation.load(Ordering::Relaxed) == generation {
                        *greeted = false;
                    }
                }
                Ok(Sent::NoSession) => break,
                Err(error) => {
                    if matches!(error, BackendError::Down { .. }) {
                        self.0.now(State::Broken(error.to_string()));
                    }
                    return Err(error);
                }
            }
        }
        Err(self.0.down("it forgets its sessions at once"))
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
            let remote = self.0.clone();
            // Good manners, not worth waiting for.
            self.0.tasks.spawn(async move {
                let goodbye = remote.http.delete(&headers);
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
                Err(error) => self.0.now(State::Broken(error.to_string())),
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
            let goodbye = self.0.http.delete(&headers);
            let _ = tokio::time::timeout(Duration::from_millis(500), goodbye).await;
        }
    }
}

/// 404, or what servers in the field answer instead: 400 with a text about the session.
fn is_session_loss(status: StatusCode, body: &[u8]) -> bool {
    match status {
        StatusCode::NOT_FOUND => true,
        StatusCode::BAD_REQUEST => {
            let text = String::from_utf8_lossy(&body[..body.len().min(1000)]).to_ascii_lowercase();
            text.contains("session")
        }
        _ => false,
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The `Accept` of every POST (MCP transports: both must be listed).
pub(super) const ACCEPT_BOTH: HeaderValue =
    HeaderValue::from_static("application/json, text/event-stream");
/// The `Accept` of every GET.
pub(super) const ACCEPT_EVENTS: HeaderValue = HeaderValue::from_static("text/event-stream");
/// The `Content-Type` of every POST.
pub(super) const JSON: HeaderValue = HeaderValue::from_static("application/json");
/// For the header map.
pub(super) const CONTENT_TYPE: http::HeaderName = header::CONTENT_TYPE;
