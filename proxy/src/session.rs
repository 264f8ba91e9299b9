//! A host's session: who it is, what it declared, and what waits for it.
//!
//! Sessions belong to an agent; another agent's session is as unknown as none. This file keeps
//! state and finds the stream for a message; it never reads a transport and never asks a policy.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use bytes::Bytes;
use chillgate_policies::engine::Context;
use chillgate_wire::{Envelope, Era, Id, Revision, json};

use crate::config::{Limits, Prefix};
use crate::exchange::{Ended, Exchange, Mailbox, Refused};
use crate::line::Line;
use crate::route::catalog::Learned;

/// What a session talks to: all servers merged, or one untouched.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Scope {
    /// `/mcp`, with names shown as the front says.
    Merged(Prefix),
    /// `/server/NAME/mcp`, or a wrapped server.
    One(Arc<str>),
}

/// The client capabilities that let a server ask its host something.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Declared {
    /// `sampling`.
    pub sampling: bool,
    /// `elicitation`.
    pub elicitation: bool,
    /// `roots`.
    pub roots: bool,
}

impl Declared {
    /// Reads the `capabilities` of an `initialize` request.
    pub fn read(params: &[u8]) -> Self {
        let has = |name| json::path(params, &["capabilities", name]).is_some();
        Self {
            sampling: has("sampling"),
            elicitation: has("elicitation"),
            roots: has("roots"),
        }
    }

    /// Whether a server may ask this host anything at all.
    pub fn any(self) -> bool {
        self.sampling || self.elicitation || self.roots
    }
}

/// An agent's own counters, shared by its sessions.
#[derive(Debug)]
pub struct Agent {
    /// The agent's name.
    pub name: Arc<str>,
    in_flight: AtomicUsize,
    sessions: AtomicUsize,
}

/// Where the host's answer to a server's question goes.
#[async_trait]
pub trait Asker: Send + Sync + std::fmt::Debug {
    /// Hands over the host's answer (or its progress), already under the server's own id.
    async fn answer(&self, message: Envelope);
}

#[derive(Debug)]
struct Question {
    asker: Arc<dyn Asker>,
    id: Id,
    token: Option<Bytes>,
    exchange: Option<Arc<Exchange>>,
}

/// Questions one session may have open at one time.
const QUESTIONS: usize = 256;

/// One host's session.
#[derive(Debug)]
pub struct Session {
    /// Unguessable; never used as proof of who somebody is.
    pub id: Arc<str>,
    /// Whose session it is.
    pub agent: Arc<Agent>,
    /// What it talks to.
    pub scope: Scope,
    /// The protocol revision the host asked for, or the newest legacy one known.
    pub revision: Revision,
    /// The `params` of the host's own `initialize`, to the letter.
    pub greeting: Bytes,
    /// What the host declared there.
    pub declared: Declared,
    /// What policies and the audit log see of it.
    pub context: Arc<Context>,
    /// Messages that belong to no request, until a stream takes them.
    pub outbox: Mailbox,
    line: Option<Line>,
    log_level: AtomicU8,
    exchanges: Mutex<HashMap<Id, Arc<Exchange>>>,
    questions: Mutex<HashMap<u64, Question>>,
    next_question: AtomicU64,
    listeners: AtomicU64,
    listening: AtomicBool,
    /// How many times in a row it was looked at and found unused.
    unused: AtomicU32,
    learned: Mutex<Learned>,
    missed: Mutex<HashSet<Arc<str>>>,
    over: AtomicBool,
}

/// What a front knows when a session begins.
#[derive(Debug)]
pub struct Opening {
    /// Who asks.
    pub agent: Arc<str>,
    /// What it wants to talk to.
    pub scope: Scope,
    /// The `params` of its `initialize`.
    pub greeting: Bytes,
    /// `stdio` or `streamable-http`.
    pub transport: &'static str,
    /// The address it comes from, when there is one.
    pub peer: Option<String>,
    /// The host's only line, on stdio.
    pub line: Option<Line>,
}

impl Session {
    fn new(opening: Opening, agent: Arc<Agent>, outbox: usize) -> Arc<Self> {
        // A copy: a slice would keep the whole read buffer of the connection alive.
        let greeting = Bytes::copy_from_slice(&opening.greeting);
        let text = |path: &[&str]| {
            let value = &greeting[json::path(&greeting, path)?];
            json::text(value).map(std::borrow::Cow::into_owned)
        };
        let asked = text(&["protocolVersion"]).unwrap_or_default();
        let revision = Revision::known(&asked)
            .filter(|revision| revision.era() == Era::Legacy)
            .unwrap_or(Revision::V2025_11_25);
        let id: Arc<str> = random_id().into();
        let client = text(&["clientInfo", "name"])
            .map(|name| (name, text(&["clientInfo", "version"]).unwrap_or_default()));
        let context = Arc::new(Context {
            transport: opening.transport,
            era: "legacy",
            session: Some(id.clone()),
            client,
            peer: opening.peer,
        });
        Arc::new(Self {
            id,
            agent,
            scope: opening.scope,
            revision,
            declared: Declared::read(&greeting),
            greeting,
            context,
            outbox: Mailbox::new(outbox),
            line: opening.line,
            log_level: AtomicU8::new(0),
            exchanges: Mutex::default(),
            questions: Mutex::default(),
            next_question: AtomicU64::new(0),
            listeners: AtomicU64::new(0),
            listening: AtomicBool::new(false),
            unused: AtomicU32::new(0),
            learned: Mutex::default(),
            missed: Mutex::default(),
            over: AtomicBool::new(false),
        })
    }

    /// The era the host speaks.
    pub fn era(&self) -> Era {
        self.revision.era()
    }

    /// Whether it may send batches, which only 2025-03-26 has.
    pub fn batches(&self) -> bool {
        self.revision == Revision::V2025_03_26
    }

    /// What it has learned of its servers' lists.
    pub fn learned(&self) -> MutexGuard<'_, Learned> {
        locked(&self.learned)
    }

    /// A list went out without this server; whether that is new, so that one task sees to it.
    pub fn missed(&self, server: &Arc<str>) -> bool {
        locked(&self.missed).insert(server.clone())
    }

    /// Whether its lists go out without this server for now.
    pub fn misses(&self, server: &str) -> bool {
        locked(&self.missed).contains(server)
    }

    /// The server is back.
    pub fn found(&self, server: &str) {
        locked(&self.missed).remove(server);
    }

    /// Whether the session has ended.
    pub fn is_over(&self) -> bool {
        self.over.load(Ordering::Relaxed)
    }

    /// The host's only line, on stdio.
    pub fn line(&self) -> Option<&Line> {
        self.line.as_ref()
    }

    /// Registers a request; a second one with an id in flight is refused.
    pub fn begin(&self, exchange: &Arc<Exchange>) -> Result<(), Refused> {
        let mut exchanges = locked(&self.exchanges);
        if exchanges.contains_key(&exchange.id) {
            return Err(Refused);
        }
        exchanges.insert(exchange.id.clone(), exchange.clone());
        Ok(())
    }

    /// The request has its answer; its id is free again.
    pub fn finish(&self, exchange: &Exchange) {
        self.use_now();
        locked(&self.exchanges).remove(&exchange.id);
        locked(&self.questions).retain(|_, question| {
            !question
                .exchange
                .as_ref()
                .is_some_and(|asked| std::ptr::eq(&raw const **asked, exchange))
        });
    }

    /// The request in flight under this id.
    pub fn exchange(&self, id: &Id) -> Option<Arc<Exchange>> {
        locked(&self.exchanges).get(id).cloned()
    }

    /// How many requests are in flight.
    pub fn in_flight(&self) -> usize {
        locked(&self.exchanges).len()
    }

    /// The least severe log level the host wants, as RFC 5424 counts: 0 debug to 7 emergency.
    pub fn log_level(&self) -> u8 {
        self.log_level.load(Ordering::Relaxed)
    }

    /// Sets it.
    pub fn set_log_level(&self, level: u8) {
        self.log_level.store(level, Ordering::Relaxed);
    }

    /// Sends a message that belongs to no request: to the open stream, or it waits for one.
    /// List changes that already wait are not queued twice.
    pub fn tell(&self, message: Envelope) -> Result<(), Refused> {
        if self.over.load(Ordering::Relaxed) {
            return Err(Refused);
        }
        if let Some(line) = &self.line {
            return line.offer(&message);
        }
        let is_change = message
            .method()
            .is_some_and(|method| method.ends_with("list_changed"));
        if is_change
            && message
                .method()
                .is_some_and(|method| self.outbox.holds(method))
        {
            return Ok(());
        }
        self.outbox.push(message)
    }

    /// Sends a message that most likely belongs to `related`; without one to any request in flight,
    /// whose host is known to be there, and only then to the session's own stream: a host that has
    /// closed that one may not be noticed before something is written to it.
    pub fn tell_about(
        &self,
        related: Option<&Arc<Exchange>>,
        message: Envelope,
    ) -> Result<(), Refused> {
        if let Some(exchange) = related.filter(|exchange| !exchange.is_detached()) {
            return exchange.send(message);
        }
        if self.line.is_none() {
            let any = locked(&self.exchanges)
                .values()
                .find(|running| !running.is_detached())
                .cloned();
            if let Some(exchange) = any {
                return exchange.send(message);
            }
        }
        self.tell(message)
    }

    /// A server asks the host something. The question travels under an id of chillgate's own.
    pub fn ask(
        &self,
        asker: Arc<dyn Asker>,
        question: &Envelope,
        related: Option<&Arc<Exchange>>,
    ) -> Result<(), Refused> {
        let id = question.id().ok_or(Refused)?;
        let number = self.next_question.fetch_add(1, Ordering::Relaxed) + 1;
        let token = question
            .params()
            .and_then(|params| Some(&params[json::path(params, &["_meta", "progressToken"])?]))
            .map(Bytes::copy_from_slice);
        let lexeme = number.to_string();
        let mut edit = question.edit();
        edit.id(lexeme.clone().into_bytes());
        if token.is_some() {
            edit.set(&["params", "_meta", "progressToken"], lexeme.into_bytes());
        }
        let message = edit.finish();
        {
            let mut questions = locked(&self.questions);
            if questions.len() >= QUESTIONS {
                return Err(Refused);
            }
            questions.insert(
                number,
                Question {
                    asker,
                    id,
                    token,
                    exchange: related.cloned(),
                },
            );
        }
        if let Some(exchange) = related {
            exchange.asked();
        }
        let sent = self.tell_about(related, message);
        if sent.is_err() {
            self.forget(number);
        }
        sent
    }

    fn forget(&self, number: u64) -> Option<Question> {
        let question = locked(&self.questions).remove(&number)?;
        if let Some(exchange) = &question.exchange {
            exchange.answered();
        }
        Some(question)
    }

    /// The server no longer wants to know: `notifications/cancelled` goes on to the host under
    /// the id that the host knows.
    pub fn withdraw(&self, id: &Id, note: &Envelope) {
        let number = locked(&self.questions)
            .iter()
            .find(|(_, question)| question.id == *id)
            .map(|(number, _)| *number);
        let Some(number) = number else { return };
        let related = self.forget(number).and_then(|question| question.exchange);
        let mut edit = note.edit();
        edit.set(&["params", "requestId"], number.to_string().into_bytes());
        let _ = self.tell_about(related.as_ref(), edit.finish());
    }

    /// The host answers a question. `false`: nobody asked.
    pub async fn answer(&self, answer: &Envelope) -> bool {
        self.use_now();
        let number = answer.id_bytes().and_then(number_of);
        let Some(question) = number.and_then(|number| self.forget(number)) else {
            return false;
        };
        question
            .asker
            .answer(answer.with_id(question.id.as_bytes()))
            .await;
        true
    }

    /// The host reports progress on a question. `false`: nobody asked for it.
    pub async fn progress(&self, note: &Envelope) -> bool {
        let number = note
            .params()
            .and_then(|params| Some(&params[json::member(params, "progressToken")?]))
            .and_then(number_of);
        let found = number.and_then(|number| {
            let questions = locked(&self.questions);
            let question = questions.get(&number)?;
            if let Some(exchange) = &question.exchange {
                exchange.touch();
            }
            Some((question.asker.clone(), question.token.clone()?))
        });
        let Some((asker, token)) = found else {
            return false;
        };
        let mut edit = note.edit();
        edit.set(&["params", "progressToken"], token.to_vec());
        asker.answer(edit.finish()).await;
        true
    }

    /// A stream for messages that belong to no request opens. The newest takes over.
    pub fn listen(self: &Arc<Self>) -> Listening {
        self.listening.store(true, Ordering::Relaxed);
        let turn = self.listeners.fetch_add(1, Ordering::Relaxed) + 1;
        self.outbox.nudge();
        Listening {
            session: self.clone(),
            turn,
        }
    }

    /// Marks the session as in use.
    pub fn use_now(&self) {
        // Cheaper than a clock: whoever sweeps counts its own rounds.
        self.unused.store(0, Ordering::Relaxed);
    }

    /// Ends the session: every request in flight ends, nothing more is sent.
    pub fn close(&self, why: Ended) {
        self.over.store(true, Ordering::Relaxed);
        for exchange in locked(&self.exchanges).values() {
            exchange.end(why);
        }
        locked(&self.questions).clear();
        self.outbox.close();
    }
}

/// The right to read a session's outbox, until a newer stream takes over.
#[derive(Debug)]
pub struct Listening {
    session: Arc<Session>,
    turn: u64,
}

impl Listening {
    /// The next message; `None` when the session is over or a newer stream has taken over.
    pub async fn next(&self) -> Option<Envelope> {
        loop {
            if self.session.listeners.load(Ordering::Relaxed) != self.turn {
                return None;
            }
            match self.session.outbox.next_or_nudge().await {
                Some(Some(message)) => {
                    self.session.use_now();
                    return Some(message);
                }
                Some(None) => {}
                None => return None,
            }
        }
    }
}

impl Drop for Listening {
    fn drop(&mut self) {
        if self.session.listeners.load(Ordering::Relaxed) == self.turn {
            self.session.listening.store(false, Ordering::Relaxed);
        }
    }
}

/// All sessions of this process.
#[derive(Debug, Default)]
pub struct Sessions {
    by_id: Mutex<HashMap<Arc<str>, Arc<Session>>>,
    agents: Mutex<HashMap<Arc<str>, Arc<Agent>>>,
}

/// Why a session or a request was not let in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Full {
    /// As many sessions as `limits.sessions` allows.
    Sessions,
    /// As many sessions of this agent as `limits.sessions-per-agent` allows.
    AgentSessions,
    /// As many requests of this agent as `limits.in-flight-per-agent` allows.
    InFlight,
}

impl Sessions {
    /// Opens a session.
    pub fn open(&self, opening: Opening, limits: &Limits) -> Result<Arc<Session>, Full> {
        let agent = self.agent(&opening.agent);
        let mut sessions = locked(&self.by_id);
        if sessions.len() >= limits.sessions {
            return Err(Full::Sessions);
        }
        if agent.sessions.load(Ordering::Relaxed) >= limits.sessions_per_agent {
            return Err(Full::AgentSessions);
        }
        agent.sessions.fetch_add(1, Ordering::Relaxed);
        let session = Session::new(opening, agent, limits.outbox);
        sessions.insert(session.id.clone(), session.clone());
        Ok(session)
    }

    /// An agent's counters; agents without sessions are forgotten as new ones come.
    pub fn agent(&self, name: &Arc<str>) -> Arc<Agent> {
        let mut agents = locked(&self.agents);
        if let Some(agent) = agents.get(name) {
            return agent.clone();
        }
        if agents.len() >= 10_000 {
            agents.retain(|_, agent| Arc::strong_count(agent) > 1);
        }
        let agent = Arc::new(Agent {
            name: name.clone(),
            in_flight: AtomicUsize::new(0),
            sessions: AtomicUsize::new(0),
        });
        agents.insert(name.clone(), agent.clone());
        agent
    }

    /// The agent's session with this id; somebody else's does not exist.
    pub fn find(&self, id: &str, agent: &str) -> Option<Arc<Session>> {
        locked(&self.by_id)
            .get(id)
            .filter(|session| *session.agent.name == *agent)
            .cloned()
    }

    /// Takes a session out; whoever gets it detaches it from its servers.
    pub fn remove(&self, id: &str) -> Option<Arc<Session>> {
        let session = locked(&self.by_id).remove(id)?;
        session.agent.sessions.fetch_sub(1, Ordering::Relaxed);
        Some(session)
    }

    /// All sessions, as of now.
    pub fn all(&self) -> Vec<Arc<Session>> {
        locked(&self.by_id).values().cloned().collect()
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        locked(&self.by_id).len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// One more round: the sessions that nobody has used for more than `rounds` of them.
    pub fn unused(&self, rounds: u32) -> Vec<Arc<Session>> {
        let mut sessions = self.all();
        sessions.retain(|session| {
            let is_used = session.line.is_some()
                || session.in_flight() > 0
                || session.listening.load(Ordering::Relaxed);
            if is_used {
                session.use_now();
            }
            !is_used && session.unused.fetch_add(1, Ordering::Relaxed) >= rounds
        });
        sessions
    }
}

/// One request of an agent in flight; dropped, the place is free again.
#[derive(Debug)]
pub struct Place(Arc<Agent>);

impl Place {
    /// Takes a place if fewer than `most` are taken.
    pub fn take(agent: &Arc<Agent>, most: usize) -> Result<Self, Full> {
        if agent.in_flight.fetch_add(1, Ordering::Relaxed) >= most {
            agent.in_flight.fetch_sub(1, Ordering::Relaxed);
            return Err(Full::InFlight);
        }
        Ok(Self(agent.clone()))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.in_flight.fetch_sub(1, Ordering::Relaxed);
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn number_of(lexeme: &[u8]) -> Option<u64> {
    std::str::from_utf8(lexeme).ok()?.parse().ok()
}

/// 128 random bits as 32 hexadecimal digits: visible ASCII, unguessable (MCP transports).
fn random_id() -> String {
    crate::random::bytes::<16>()
        .iter()
        .fold(String::with_capacity(32), |mut id, byte| {
            use std::fmt::Write;
            let _ = write!(id, "{byte:02x}");
            id
        })
}
