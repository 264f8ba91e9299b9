//! One full-duplex connection of JSON lines to a server: a child's pipes or a built-in's duplex.
//!
//! Requests of many hosts travel under ids and progress tokens of the pipe's own, so that two
//! hosts that both count from 0 never meet. Reader and writer are separate; neither waits for a
//! host. It never starts, stops or judges the process behind it.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};

use async_trait::async_trait;
use bytes::Bytes;
use chillgate_wire::{Edit, Envelope, Id, Kind, Limits as WireLimits, Lines, code, json, message};
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::sync::{Notify, Semaphore, oneshot};
use tracing::debug;

use crate::backend::BackendError;
use crate::backend::greeting::Greeting;
use crate::exchange::Exchange;
use crate::line::Line;
use crate::session::{Asker, Session};
use crate::telemetry::metrics::Metrics;

/// Who hears what the server says on its own.
#[derive(Debug)]
pub enum Audience {
    /// One session; the server was initialized with that host's own capabilities.
    One(Weak<Session>),
    /// Everybody who has called; the server was initialized with no capabilities.
    Many(Mutex<Members>),
}

/// The sessions that share a pipe.
#[derive(Debug, Default)]
pub struct Members {
    sessions: HashMap<Arc<str>, Weak<Session>>,
    subscribed: HashMap<String, HashSet<Arc<str>>>,
    /// What the server was last told to log from; `None`: never told.
    level: Option<u8>,
}

/// A connection to one running server.
#[derive(Debug)]
pub struct Pipe {
    server: Arc<str>,
    line: Line,
    pending: Mutex<HashMap<u64, Pending>>,
    next: AtomicU64,
    slots: Semaphore,
    audience: Audience,
    greeting: OnceLock<Greeting>,
    end: OnceLock<String>,
    ended: Notify,
    closing: Notify,
    limits: WireLimits,
    metrics: Arc<Metrics>,
}

#[derive(Debug)]
struct Pending {
    answer: oneshot::Sender<Envelope>,
    exchange: Option<Arc<Exchange>>,
}

/// What a pipe needs to know of its surroundings.
#[derive(Clone, Debug)]
pub struct Terms {
    /// The server's name.
    pub server: Arc<str>,
    /// Caps on what the server may write.
    pub limits: WireLimits,
    /// Requests in flight at one time; more wait.
    pub in_flight: usize,
    /// Where mishaps are counted.
    pub metrics: Arc<Metrics>,
}

impl Pipe {
    /// A pipe over a line that somebody else writes out.
    pub fn new(terms: &Terms, line: Line, audience: Audience) -> Arc<Self> {
        Arc::new(Self {
            server: terms.server.clone(),
            line,
            pending: Mutex::default(),
            next: AtomicU64::new(1),
            slots: Semaphore::new(terms.in_flight),
            audience,
            greeting: OnceLock::new(),
            end: OnceLock::new(),
            ended: Notify::new(),
            closing: Notify::new(),
            limits: terms.limits,
            metrics: terms.metrics.clone(),
        })
    }

    /// Carries a host's request and waits for its answer under the host's own id.
    pub async fn request(
        self: &Arc<Self>,
        exchange: &Arc<Exchange>,
        request: &Envelope,
        edits: Edit<'_>,
    ) -> Result<Envelope, BackendError> {
        let _slot = self.slots.acquire().await.map_err(|_| self.lost())?;
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let lexeme = Id::number(number);
        let mut edits = edits;
        edits.id(lexeme.as_bytes());
        if exchange.has_token() && has_token(request) {
            edits.set(&["params", "_meta", "progressToken"], lexeme.as_bytes());
        }
        let waiting = self.expect(number, Some(exchange.clone()))?;
        self.line
            .send(request, &edits)
            .await
            .map_err(|_| self.lost())?;
        let answer = waiting.answer().await?;
        Ok(answer.with_id(exchange.id.as_bytes()))
    }

    /// Asks the server something on chillgate's own account.
    pub async fn request_own(
        self: &Arc<Self>,
        method: &str,
        params: &[u8],
    ) -> Result<Envelope, BackendError> {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let raw = message::request(number.to_string().as_bytes(), method, Some(params));
        let request = self.own(raw)?;
        let waiting = self.expect(number, None)?;
        self.line
            .send(&request, &request.edit())
            .await
            .map_err(|_| self.lost())?;
        waiting.answer().await
    }

    /// Says something on chillgate's own account.
    pub async fn notify_own(&self, method: &str, params: &[u8]) -> Result<(), BackendError> {
        self.post(&self.own(message::notification(method, Some(params)))?)
            .await
    }

    /// Hands a notification on as it is.
    pub async fn post(&self, note: &Envelope) -> Result<(), BackendError> {
        self.line
            .send(note, &note.edit())
            .await
            .map_err(|_| self.lost())
    }

    fn own(&self, raw: Bytes) -> Result<Envelope, BackendError> {
        Envelope::parse(raw, &self.limits).map_err(|fault| BackendError::Invalid {
            server: self.server.clone(),
            cause: fault.to_string(),
        })
    }

    /// Keeps what the server said in its `initialize` result.
    pub fn greet(&self, greeting: Greeting) {
        let _ = self.greeting.set(greeting);
    }

    /// What the server said in its `initialize` result, once it has.
    pub fn greeting(&self) -> Option<&Greeting> {
        self.greeting.get()
    }

    /// Whether the server still reads and writes.
    pub fn is_open(&self) -> bool {
        self.end.get().is_none()
    }

    /// The session wants to hear what the server says on its own.
    pub fn join(&self, session: &Arc<Session>) {
        if let Audience::Many(members) = &self.audience {
            let mut members = locked(members);
            if !members.sessions.contains_key(&session.id) {
                members
                    .sessions
                    .insert(session.id.clone(), Arc::downgrade(session));
            }
        }
    }

    /// The session no longer does.
    pub fn leave(&self, session: &Session) {
        if let Audience::Many(members) = &self.audience {
            let mut members = locked(members);
            members.sessions.remove(&session.id);
            members.subscribed.retain(|_, who| {
                who.remove(&session.id);
                !who.is_empty()
            });
        }
    }

    /// Whether everybody shares this pipe.
    pub fn is_shared(&self) -> bool {
        matches!(self.audience, Audience::Many(_))
    }

    /// The session has subscribed to a resource.
    pub fn subscribe(&self, session: &Session, uri: &str) {
        if let Audience::Many(members) = &self.audience {
            let mut members = locked(members);
            members
                .subscribed
                .entry(uri.to_owned())
                .or_default()
                .insert(session.id.clone());
        }
    }

    /// The session has unsubscribed; whether nobody else is left.
    pub fn unsubscribe(&self, session: &Session, uri: &str) -> bool {
        let Audience::Many(members) = &self.audience else {
            return true;
        };
        let mut members = locked(members);
        let Some(who) = members.subscribed.get_mut(uri) else {
            return true;
        };
        who.remove(&session.id);
        let nobody = who.is_empty();
        if nobody {
            members.subscribed.remove(uri);
        }
        nobody
    }

    /// Whether the server must be told to log from this level on, because nobody wanted as much.
    pub fn lower_level(&self, level: u8) -> bool {
        let Audience::Many(members) = &self.audience else {
            return true;
        };
        let mut members = locked(members);
        let lower = members.level.is_none_or(|now| level < now);
        if lower {
            members.level = Some(level);
        }
        lower
    }

    /// Reads what the server writes until it stops; returns why.
    pub async fn read<R: AsyncRead + Unpin>(self: &Arc<Self>, mut reader: R) -> String {
        let mut lines = Lines::new(self.limits.message);
        let why = loop {
            for line in lines.by_ref() {
                match line {
                    Ok(line) => self.hear(line),
                    Err(oversized) => {
                        debug!(server = %self.server, %oversized, "Dropped a line of the server.");
                        self.metrics.child_protocol_error(&self.server, "oversized");
                        self.fail_oversized(oversized.id.as_ref());
                    }
                }
            }
            match reader.read_buf(lines.space()).await {
                Ok(0) => break "it closed its output".to_owned(),
                Ok(_) => {}
                Err(error) => break format!("its output failed: {error}"),
            }
        };
        if let Some(Ok(line)) = lines.finish() {
            self.hear(line);
        }
        why
    }

    /// The server is gone: everybody who waits hears why.
    pub fn finish(&self, why: String) {
        let _ = self.end.set(why);
        self.line.close();
        self.slots.close();
        locked(&self.pending).clear();
        self.ended.notify_waiters();
    }

    /// Lets no more requests in and closes the server's input, which asks it to end.
    pub fn close(&self) {
        self.line.close();
        self.closing.notify_one();
    }

    /// Resolves when somebody has closed the pipe. For the one task that owns what is behind it.
    pub async fn until_closed(&self) {
        while !self.line.is_closed() {
            self.closing.notified().await;
        }
    }

    /// Why the server is gone, if it is.
    pub fn end(&self) -> Option<&str> {
        self.end.get().map(String::as_str)
    }

    /// Resolves when the server is gone.
    pub async fn until_ended(&self) {
        loop {
            let ended = self.ended.notified();
            if self.end.get().is_some() {
                return;
            }
            ended.await;
        }
    }

    /// How many requests wait for an answer.
    pub fn in_flight(&self) -> usize {
        locked(&self.pending).len()
    }

    fn lost(&self) -> BackendError {
        let cause = self
            .end()
            .unwrap_or("it no longer reads its input")
            .to_owned();
        BackendError::Lost {
            server: self.server.clone(),
            cause,
        }
    }

    fn expect(
        self: &Arc<Self>,
        number: u64,
        exchange: Option<Arc<Exchange>>,
    ) -> Result<Awaited, BackendError> {
        let (answer, receiver) = oneshot::channel();
        locked(&self.pending).insert(number, Pending { answer, exchange });
        // Registered first, looked at second: a pipe that ends in between has cleared the entry.
        if !self.is_open() {
            locked(&self.pending).remove(&number);
            return Err(self.lost());
        }
        Ok(Awaited {
            pipe: self.clone(),
            number,
            receiver: Some(receiver),
        })
    }

    fn hear(self: &Arc<Self>, line: Bytes) {
        let said = match Envelope::parse(line, &self.limits) {
            Ok(said) => said,
            Err(fault) => {
                debug!(server = %self.server, %fault, "Dropped a line that is no message.");
                self.metrics
                    .child_protocol_error(&self.server, fault.kind.as_str());
                return;
            }
        };
        match said.kind() {
            Kind::Response | Kind::Error => self.hear_answer(said),
            Kind::Notification => self.hear_note(said),
            Kind::Request => self.hear_question(&said),
        }
    }

    fn hear_answer(&self, answer: Envelope) {
        let number = answer.id_bytes().and_then(number_of);
        let pending = number.and_then(|number| locked(&self.pending).remove(&number));
        if let Some(pending) = pending {
            // A receiver that is gone has been cancelled: the answer is late and of no use.
            let _ = pending.answer.send(answer);
        } else {
            debug!(server = %self.server, id = ?answer.id(), "Dropped an answer nobody waits for.");
            self.metrics
                .child_protocol_error(&self.server, "unknown_id");
        }
    }

    /// The answer was too large to be read, so its host hears that instead of nothing.
    fn fail_oversized(&self, id: Option<&Id>) {
        let number = id.and_then(|id| number_of(id.as_bytes()));
        let Some(number) = number else { return };
        let text = format!(
            "the server's answer is larger than {} bytes; `limits.message` allows more",
            self.limits.message
        );
        let raw = message::error(
            Some(number.to_string().as_bytes()),
            code::INTERNAL_ERROR,
            &text,
            None,
        );
        if let Ok(answer) = self.own(raw) {
            self.hear_answer(answer);
        }
    }

    fn hear_note(&self, note: Envelope) {
        let params = note.params().unwrap_or_default();
        match note.method().unwrap_or_default() {
            "notifications/progress" => {
                let number =
                    json::member(params, "progressToken").and_then(|at| number_of(&params[at]));
                let exchange =
                    number.and_then(|number| locked(&self.pending).get(&number)?.exchange.clone());
                let token = exchange.as_ref().and_then(|exchange| exchange.token());
                let (Some(exchange), Some(token)) = (exchange, token) else {
                    self.metrics.dropped(&self.server, "progress_for_nobody");
                    return;
                };
                let mut edit = note.edit();
                edit.set(&["params", "progressToken"], token.to_vec());
                self.count_refusal(&exchange.send(edit.finish()));
            }
            "notifications/cancelled" => {
                let Some(at) = json::member(params, "requestId") else {
                    return;
                };
                let id = Id::from_lexeme(&params[at]);
                if let (Audience::One(session), Some(id)) = (&self.audience, id)
                    && let Some(session) = session.upgrade()
                {
                    session.withdraw(&id, &note);
                }
            }
            "notifications/message" => self.hear_log(note),
            "notifications/resources/updated" => {
                let uri = json::member(params, "uri").and_then(|at| json::text(&params[at]));
                for session in self.listeners(uri.as_deref()) {
                    self.count_refusal(&session.tell(note.clone()));
                }
            }
            method if method.ends_with("list_changed") => {
                for session in self.listeners(None) {
                    session.learned().forget(&self.server);
                    self.count_refusal(&session.tell(note.clone()));
                }
            }
            _ => match &self.audience {
                Audience::One(session) => {
                    if let Some(session) = session.upgrade() {
                        let related = self.only_exchange();
                        self.count_refusal(&session.tell_about(related.as_ref(), note));
                    }
                }
                Audience::Many(_) => {
                    for session in self.listeners(None) {
                        self.count_refusal(&session.tell(note.clone()));
                    }
                }
            },
        }
    }

    /// A log message has no addressee of its own: it is told to the one session there is, and
    /// dropped where several share the server, so that nobody reads another agent's log.
    fn hear_log(&self, note: Envelope) {
        let sessions = self.listeners(None);
        let [session] = sessions.as_slice() else {
            if !sessions.is_empty() {
                self.metrics.dropped(&self.server, "log_for_nobody");
            }
            return;
        };
        let params = note.params().unwrap_or_default();
        let level = json::member(params, "level")
            .and_then(|at| json::text(&params[at]))
            .and_then(|name| severity(&name));
        if level.is_some_and(|level| level < session.log_level()) {
            return;
        }
        let related = self.only_exchange();
        self.count_refusal(&session.tell_about(related.as_ref(), note));
    }

    fn hear_question(self: &Arc<Self>, question: &Envelope) {
        let Some(id) = question.id() else { return };
        let answer = if question.method() == Some("ping") {
            message::result(id.as_bytes(), b"{}")
        } else {
            let asked = match &self.audience {
                Audience::One(session) => session.upgrade().map(|session| {
                    let related = self.only_exchange();
                    session
                        .ask(self.clone(), question, related.as_ref())
                        .map_err(|_| "the host has too many open questions or does not read them")
                }),
                Audience::Many(_) => Some(Err(
                    "this server is shared by several hosts, so its requests belong to nobody",
                )),
            };
            let refusal = match asked {
                Some(Ok(())) => return,
                Some(Err(refusal)) => refusal,
                None => "the host is gone",
            };
            self.metrics.dropped(&self.server, "question_refused");
            message::error(Some(id.as_bytes()), code::METHOD_NOT_FOUND, refusal, None)
        };
        // Never waits: a server that does not read its input must not stop its own reader.
        if let Ok(answer) = self.own(answer)
            && self.line.offer(&answer).is_err()
        {
            self.metrics.dropped(&self.server, "server_not_reading");
        }
    }

    /// The exchange a message without a reference belongs to: the only one there is.
    fn only_exchange(&self) -> Option<Arc<Exchange>> {
        let pending = locked(&self.pending);
        let mut running = pending
            .values()
            .filter_map(|pending| pending.exchange.as_ref());
        match (running.next(), running.next()) {
            (Some(only), None) => Some(only.clone()),
            _ => None,
        }
    }

    fn listeners(&self, subscribed_to: Option<&str>) -> Vec<Arc<Session>> {
        match &self.audience {
            Audience::One(session) => session.upgrade().into_iter().collect(),
            Audience::Many(members) => {
                let members = locked(members);
                let of = subscribed_to.map(|uri| members.subscribed.get(uri));
                members
                    .sessions
                    .iter()
                    .filter(|(id, _)| match &of {
                        None => true,
                        Some(who) => who.is_some_and(|who| who.contains(*id)),
                    })
                    .filter_map(|(_, session)| session.upgrade())
                    .collect()
            }
        }
    }

    fn count_refusal(&self, sent: &Result<(), crate::exchange::Refused>) {
        if sent.is_err() {
            self.metrics.dropped(&self.server, "host_not_reading");
        }
    }
}

#[async_trait]
impl Asker for Pipe {
    async fn answer(&self, message: Envelope) {
        // A server that is gone needs no answer.
        let _ = self.line.send(&message, &message.edit()).await;
    }
}

/// A place in the pending map; left without an answer, the server is told to stop.
struct Awaited {
    pipe: Arc<Pipe>,
    number: u64,
    receiver: Option<oneshot::Receiver<Envelope>>,
}

impl Awaited {
    async fn answer(mut self) -> Result<Envelope, BackendError> {
        let Some(receiver) = &mut self.receiver else {
            return Err(self.pipe.lost());
        };
        let answer = receiver.await;
        self.receiver = None;
        answer.map_err(|_| self.pipe.lost())
    }
}

impl Drop for Awaited {
    fn drop(&mut self) {
        if self.receiver.is_none() {
            return;
        }
        if locked(&self.pipe.pending).remove(&self.number).is_some() {
            let params = format!(r#"{{"requestId":{}}}"#, self.number);
            let note = message::notification("notifications/cancelled", Some(params.as_bytes()));
            let mut line = note.to_vec();
            line.push(b'\n');
            if self.pipe.line.offer_raw(&line).is_err() {
                self.pipe.metrics.dropped(&self.pipe.server, "cancellation");
            }
        }
    }
}

/// RFC 5424 severities as MCP names them, from the least severe.
pub fn severity(name: &str) -> Option<u8> {
    [
        "debug",
        "info",
        "notice",
        "warning",
        "error",
        "critical",
        "alert",
        "emergency",
    ]
    .iter()
    .position(|level| *level == name)
    .map(|place| place as u8)
}

fn has_token(request: &Envelope) -> bool {
    request
        .params()
        .is_some_and(|params| json::path(params, &["_meta", "progressToken"]).is_some())
}

fn number_of(lexeme: &[u8]) -> Option<u64> {
    // A string id with the same digits is another id.
    std::str::from_utf8(lexeme).ok()?.parse().ok()
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
