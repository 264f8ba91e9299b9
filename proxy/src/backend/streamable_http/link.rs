//! One host's session at a remote server: its id there, its handshake, its streams.
//!
//! Answers come back through the POST that asked; what the server says besides goes to the one
//! host behind the link. It decides nothing about the server as a whole: that is the remote's.

use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, Weak};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use chillgate_wire::{Envelope, Id, Kind, json, message};
use http::{HeaderValue, StatusCode};
use tokio::sync::{Notify, Semaphore};
use tracing::debug;

use super::events::Events;
use super::{
    Inner, PROTOCOL_VERSION, SESSION_ID, is_refusal_to_speak, late, refusal, unwanted, unwelcome,
};
use crate::backend::greeting::{self, Greeting};
use crate::backend::said::{hand_on, level_params};
use crate::backend::{BackendError, State};
use crate::client::{Http, Reply};
use crate::exchange::Exchange;
use crate::lock::locked;
use crate::session::{Asker, Session};

/// `Last-Event-ID`.
const LAST_EVENT_ID: http::HeaderName = http::HeaderName::from_static("last-event-id");

/// How often a broken answer stream is resumed before the answer counts as lost.
const RESUMES: u32 = 20;

/// One host session's session at the server.
#[derive(Debug)]
pub(super) struct Link {
    remote: Weak<Inner>,
    /// The way there, as the host behind the link is let in.
    pub(super) http: Http,
    session: Weak<Session>,
    id: Mutex<Option<HeaderValue>>,
    revision: Mutex<Option<HeaderValue>>,
    /// The server's own `initialize` result.
    said: Mutex<Option<Bytes>>,
    pub(super) greeted: tokio::sync::Mutex<bool>,
    pub(super) generation: AtomicU64,
    listening: AtomicBool,
    forgotten: Notify,
    /// The least severe level that the server was told to log from.
    level: AtomicU8,
    pub(super) over: Notify,
    pub(super) slots: Semaphore,
    /// Calls that the server may ask its host about.
    running: Mutex<Vec<Arc<Exchange>>>,
}

/// What became of one POST.
pub(super) enum Sent {
    Answer(Envelope),
    /// The server does not know the session (any more); the message was not carried out.
    NoSession,
}

impl Link {
    /// A session that has not shaken hands yet.
    pub(super) fn new(remote: &Arc<Inner>, session: &Arc<Session>) -> Arc<Self> {
        Arc::new(Self {
            remote: Arc::downgrade(remote),
            http: remote.http.of(&session.caller),
            session: Arc::downgrade(session),
            id: Mutex::default(),
            revision: Mutex::default(),
            said: Mutex::default(),
            greeted: tokio::sync::Mutex::new(false),
            generation: AtomicU64::new(0),
            listening: AtomicBool::new(false),
            forgotten: Notify::new(),
            level: AtomicU8::new(u8::MAX),
            over: Notify::new(),
            slots: Semaphore::new(remote.terms.in_flight),
            running: Mutex::default(),
        })
    }

    pub(super) fn headers(&self) -> Vec<(http::HeaderName, HeaderValue)> {
        let mut headers = Vec::with_capacity(2);
        if let Some(id) = locked(&self.id).clone() {
            headers.push((SESSION_ID, id));
        }
        if let Some(revision) = locked(&self.revision).clone() {
            headers.push((PROTOCOL_VERSION, revision));
        }
        headers
    }

    /// What the server said in its `initialize` result.
    pub(super) fn said(&self) -> Option<Bytes> {
        locked(&self.said).clone()
    }

    /// POSTs a request and waits for its answer, handing on what comes before it.
    pub(super) async fn ask(
        self: &Arc<Self>,
        remote: &Inner,
        exchange: Option<&Arc<Exchange>>,
        request: &Envelope,
    ) -> Result<Sent, BackendError> {
        let _running = exchange.map(|exchange| Run::new(self.clone(), exchange.clone()));
        let headers = self.headers();
        let with_session = headers.iter().any(|(name, _)| *name == SESSION_ID);
        let reply = self.http.post(request.raw().clone(), &headers).await;
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
                return Err(if self.http.is_by_caller() {
                    remote.caller(unwelcome(status))
                } else {
                    remote.down(unwanted(status))
                });
            }
            status if status.is_success() => {}
            status => {
                // An error object in a failed reply is still the server's own answer.
                if let Ok(answer) = Envelope::parse(body.clone(), &remote.terms.limits)
                    && answer.kind() == Kind::Error
                {
                    return Self::check(remote, request, answer).map(Sent::Answer);
                }
                let cause = refusal(status, &body);
                if request.method() == Some("initialize") && is_refusal_to_speak(status) {
                    return Err(remote.unspoken(cause));
                }
                return Err(remote.down(cause));
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
            let mut is_broken = false;
            while let Some(event) = events.next().await {
                let raw = match event {
                    Ok(raw) => raw,
                    Err(error) => {
                        debug!(server = %remote.terms.server, %error, "The stream broke.");
                        is_broken = true;
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
            if let Some(exchange) = exchange.filter(|_| !is_broken) {
                exchange.send_away(events.retry());
            }
            tokio::time::sleep(events.retry()).await;
            let mut headers = self.headers();
            headers.push((LAST_EVENT_ID, last.clone()));
            let reply = self
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
            exchange.map(|exchange| exchange.take_away());
            events = Events::resumed(reply, remote.terms.limits.message, &events);
        }
    }

    /// Hands on what the server says besides answers.
    fn hear(self: &Arc<Self>, remote: &Inner, exchange: Option<&Arc<Exchange>>, said: Envelope) {
        let Some(session) = self.session.upgrade() else {
            return;
        };
        let sent = match (said.kind(), said.method().unwrap_or_default()) {
            (Kind::Request, "ping") => {
                let answer = said.id().map(|id| message::result(id.as_bytes(), b"{}"));
                if let Some(Ok(answer)) = answer.map(|raw| remote.parse(raw)) {
                    self.spawn_post(answer);
                }
                return;
            }
            (Kind::Request, method) => {
                // Servers ask for roots whenever they have just been greeted.
                let is_of_a_call = method != "roots/list";
                let only = is_of_a_call.then(|| self.only_running()).flatten();
                let exchange = exchange.or(only.as_ref());
                let own: Arc<dyn Asker> = self.clone();
                let about = session.ask_about_task(&remote.terms.server, &own, &said);
                let asked = about.unwrap_or_else(|| session.ask(own, &said, exchange, None));
                if let (Err(_), Some(id)) = (&asked, said.id()) {
                    let refusal = message::error(
                        Some(id.as_bytes()),
                        chillgate_wire::code::INTERNAL_ERROR,
                        session.why_unasked(),
                        None,
                    );
                    if let Ok(refusal) = remote.parse(refusal) {
                        self.spawn_post(refusal);
                    }
                }
                asked
            }
            _ => hand_on(&remote.terms.server, &session, exchange, said),
        };
        if sent.is_err() {
            remote
                .terms
                .metrics
                .dropped(&remote.terms.server, "host_not_reading");
        }
    }

    /// What is asked on the server's own stream says not which call it is about: it is about the
    /// only one there is (eras, b.5).
    fn only_running(&self) -> Option<Arc<Exchange>> {
        let running = locked(&self.running);
        let mut askable = running.iter().filter(|exchange| exchange.is_askable());
        match (askable.next(), askable.next()) {
            (Some(only), None) => Some(only.clone()),
            _ => None,
        }
    }

    /// Shakes hands on the session's behalf if nobody has: at the first call of a merged session,
    /// and when the server has forgotten a session.
    pub(super) async fn greet(self: &Arc<Self>, remote: &Inner) -> Result<(), BackendError> {
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
            Err(_) => Err(remote.down(late(remote.start_timeout))),
        };
        let answer = match answer {
            Ok(Sent::Answer(answer)) => answer,
            Ok(Sent::NoSession) => return Err(remote.down("it refuses every session")),
            Err(error) => return Err(remote.broken(error)),
        };
        let greeting = Greeting::read(&answer);
        let masked = |cause: &str| remote.reach.origin(&remote.terms).masked(cause);
        self.agree(&greeting.map_err(|refusal| remote.unspoken(masked(&refusal.cause)))?);
        let note = remote.parse(message::notification("notifications/initialized", None))?;
        self.post(remote, &note).await?;
        remote.now(State::Ready);
        *greeted = true;
        self.listen();
        Ok(())
    }

    /// Keeps the revision for the header that 2025-06-18 and later ask for.
    pub(super) fn agree(&self, greeting: &Greeting) {
        self.generation.fetch_add(1, Ordering::Relaxed);
        self.level.store(u8::MAX, Ordering::Relaxed);
        *locked(&self.said) = Some(greeting.result.clone());
        if greeting.revision.as_str() >= "2025-06-18" {
            *locked(&self.revision) = HeaderValue::from_str(&greeting.revision).ok();
        }
    }

    /// A host wants log messages with one request: the server must write them at all.
    pub(super) async fn log_from(self: &Arc<Self>, remote: &Inner, level: u8) {
        let said = self.said().unwrap_or_default();
        let can = json::path(&said, &["capabilities", "logging"]).is_some();
        if !can || level >= self.level.fetch_min(level, Ordering::Relaxed) {
            return;
        }
        let params = level_params(level);
        let raw = message::request(b"\"chillgate-2\"", "logging/setLevel", Some(&params));
        if let Ok(request) = remote.parse(raw) {
            // The call matters more than its log.
            let telling = self.ask(remote, None, &request);
            let _ = tokio::time::timeout(remote.start_timeout, telling).await;
        }
    }

    /// The server no longer knows the session: whoever needs it next shakes hands again.
    pub(super) async fn forget(&self, generation: u64) {
        let mut greeted = self.greeted.lock().await;
        if self.generation.load(Ordering::Relaxed) == generation {
            *greeted = false;
            self.forgotten.notify_waiters();
        }
    }

    /// Resolves when the server has forgotten the session.
    pub(super) async fn until_forgotten(&self, generation: u64) {
        loop {
            let forgotten = self.forgotten.notified();
            // Whoever noticed may have shaken hands again already.
            let is_greeted = *self.greeted.lock().await;
            if !is_greeted || self.generation.load(Ordering::Relaxed) != generation {
                return;
            }
            forgotten.await;
        }
    }

    /// POSTs a notification or an answer.
    pub(super) async fn post(
        &self,
        remote: &Inner,
        message: &Envelope,
    ) -> Result<(), BackendError> {
        let reply = self.http.post(message.raw().clone(), &self.headers()).await;
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
    pub(super) fn listen(self: &Arc<Self>) {
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
        let generation = self.generation.load(Ordering::Relaxed);
        let mut was_there = false;
        while self.session.strong_count() > 0 {
            let mut headers = self.headers();
            headers.extend(last.clone().map(|id| (LAST_EVENT_ID, id)));
            let mut pause = Duration::from_secs(1);
            match self.http.get(&headers).await {
                Ok(reply) if reply.status().is_success() && reply.is_events() => {
                    failures = 0;
                    was_there = true;
                    let mut events = Events::new(reply, remote.terms.limits.message);
                    while let Some(Ok(raw)) = events.next().await {
                        if raw.is_empty() {
                            // What only says where to go on from.
                            continue;
                        }
                        if let Ok(said) = remote.parse(raw)
                            && matches!(said.kind(), Kind::Request | Kind::Notification)
                        {
                            self.hear(remote, None, said);
                        }
                    }
                    last = events.last_id().cloned().or(last);
                    pause = events.retry();
                }
                // 405: it has no such stream (allowed). Other refusals will not heal by asking, but
                // where there was a stream the session is gone.
                Ok(reply) if reply.status().is_client_error() => {
                    if was_there {
                        self.forget(generation).await;
                    }
                    return;
                }
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

/// A call on its way; dropped, it is over.
struct Run(Arc<Link>, Arc<Exchange>);

impl Run {
    fn new(link: Arc<Link>, exchange: Arc<Exchange>) -> Self {
        locked(&link.running).push(exchange.clone());
        Self(link, exchange)
    }
}

impl Drop for Run {
    fn drop(&mut self) {
        locked(&self.0.running).retain(|exchange| !Arc::ptr_eq(exchange, &self.1));
    }
}

/// Dropped before the answer, the server is told that nobody waits any more.
pub(super) struct CancelOnDrop {
    pub(super) link: Arc<Link>,
    pub(super) id: Option<Id>,
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
