//! A host's session: who it is, what it declared, and what waits for it.
//!
//! Sessions belong to a subject; anybody else's session is as unknown as none. This file keeps
//! state and finds the stream for a message; it never reads a transport and never asks a policy.

use std::borrow::Cow;
use std::collections::HashSet;
use std::collections::hash_map::Entry;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock};

use bytes::Bytes;
use chillgate_policies::engine::{Call, Context};
use chillgate_wire::{Envelope, Era, Id, Revision, json};
use data_encoding::HEXLOWER;

use crate::client::Caller;
use crate::config::{Limits, Prefix};
use crate::era::server;
use crate::exchange::{Ended, Exchange, Mailbox, Refused};
use crate::identity::Principal;
use crate::line::Line;
use crate::lock::locked;
use crate::map::Map;
use crate::replicas::{Replicas, Ring};
use crate::route::catalog::Learned;

mod asking;
mod finished;
mod heeds;
mod listening;
mod questions;
mod register;
pub mod replay;
mod tasks;

use finished::Finished;
pub use heeds::Heeded;
use heeds::Heeds;
pub use listening::Listening;
pub use questions::Asker;
use questions::Questions;
pub use register::{Agent, Aside, Full, Place, Sessions};
use replay::{Memory, Replays};
pub use tasks::Task;
use tasks::Tasks;

/// The host has not said which log messages it wants.
const UNSAID: u8 = u8::MAX;

/// What a session talks to: all servers merged, or one untouched.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
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

/// One host's session.
#[derive(Debug)]
pub struct Session {
    /// Unguessable; never used as proof of who somebody is.
    pub id: Arc<str>,
    /// The agent that policies and counters know.
    pub agent: Arc<Agent>,
    /// Whose session it is: nobody else's, not even one of that name.
    pub subject: Arc<str>,
    /// What its host has shown last, for issuers that exchange it.
    pub caller: Caller,
    /// What it talks to.
    pub scope: Scope,
    /// The era the host speaks.
    era: Era,
    /// The legacy revision spoken on its behalf: the one it asked for, or the newest.
    pub revision: Revision,
    /// The `params` of the host's own `initialize`, to the letter; for a modern host, those that
    /// say the same.
    pub greeting: Bytes,
    /// Where the capabilities stand in it.
    capabilities: Option<Range<usize>>,
    /// What the host declared there.
    pub declared: Declared,
    /// What policies and the audit log see of it.
    pub context: Arc<Context>,
    /// Messages that belong to no request, until a stream takes them.
    pub outbox: Mailbox,
    /// What its event streams have carried.
    pub replays: Replays,
    line: Option<Line>,
    /// As RFC 5424 counts, or [`UNSAID`].
    log_level: AtomicU8,
    /// Tasks of its that have ended before they began.
    pub finished: Finished,
    /// Tasks of older servers that its modern hosts have.
    pub tasks: Tasks,
    /// What a modern server may hear of its capabilities.
    modern_capabilities: OnceLock<Bytes>,
    exchanges: Mutex<Map<Id, Arc<Exchange>>>,
    questions: Questions,
    /// What modern hosts listen to.
    heeds: Heeds,
    listeners: AtomicU64,
    listening: AtomicBool,
    /// How many times in a row it was looked at and found unused.
    unused: AtomicU32,
    learned: Mutex<Learned>,
    missed: Mutex<HashSet<Arc<str>>>,
    over: AtomicBool,
    /// Numbers the requests of a session that several hosts share.
    numbers: AtomicU64,
    /// What it is found by, where nobody opened it.
    standing: Option<Arc<Standing>>,
    replicas: Replicas,
}

/// Requests of the modern era belong to no session of their host's. chillgate keeps one for all
/// that look alike to a server: same subject, same endpoint, same capabilities, same claim; and the
/// same said by their tokens, where those are exchanged.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Standing {
    /// Who asks.
    pub subject: Arc<str>,
    /// What stands for what its token says, where that is kept.
    pub says: Option<Arc<[u8; 32]>>,
    /// What it talks to.
    pub scope: Scope,
    /// How it comes in: what is told on a line is not told elsewhere.
    pub transport: &'static str,
    /// The `params` of the `initialize` that say what each of its requests says.
    pub greeting: Bytes,
}

impl Standing {
    fn of(opening: &Opening) -> Self {
        Self {
            subject: opening.who.subject.clone(),
            says: opening.who.kept(),
            scope: opening.scope.clone(),
            transport: opening.transport,
            greeting: opening.greeting.clone(),
        }
    }
}

/// What a front knows when a session begins.
#[derive(Debug)]
pub struct Opening {
    /// Who asks.
    pub who: Principal,
    /// What it wants to talk to.
    pub scope: Scope,
    /// The `params` of its `initialize`.
    pub greeting: Bytes,
    /// `stdio`, `streamable-http` or `sse`.
    pub transport: &'static str,
    /// The address it comes from, when there is one.
    pub peer: Option<String>,
    /// The host's only line, on stdio.
    pub line: Option<Line>,
    /// The era the host speaks.
    pub era: Era,
}

impl Opening {
    /// Its `initialize` as policies see it, for the record of one that is refused.
    pub(crate) fn call(&self) -> Call {
        Call {
            agent: self.who.agent.clone(),
            grants: self.who.grants.clone(),
            server: Arc::from("*"),
            method: Arc::from("initialize"),
            target: None,
            arguments: None,
            id: None,
            bytes_in: self.greeting.len() as u64,
            deadline: None,
            context: Arc::new(Context {
                transport: self.transport,
                era: self.era.as_str(),
                session: None,
                client: None,
                peer: self.peer.clone(),
            }),
        }
    }
}

impl Session {
    fn new(
        opening: Opening,
        agent: Arc<Agent>,
        limits: &Limits,
        replays: &Memory,
        replicas: &Replicas,
        standing: Option<Arc<Standing>>,
    ) -> Arc<Self> {
        // A copy: a slice would keep the whole read buffer of the connection alive.
        let greeting = Bytes::copy_from_slice(&opening.greeting);
        let text = |path: &[&str]| {
            let value = &greeting[json::path(&greeting, path)?];
            json::text(value).map(Cow::into_owned)
        };
        let revision = Self::asked_revision(&greeting)
            .and_then(|asked| Revision::known(&asked))
            .filter(|revision| revision.era() == Era::Legacy)
            .unwrap_or(Revision::V2025_11_25);
        let id: Arc<str> = match opening.era {
            Era::Legacy => replicas.session_id(&opening.who.subject),
            Era::Modern => random_id(),
        }
        .into();
        let client = text(&["clientInfo", "name"])
            .map(|name| (name, text(&["clientInfo", "version"]).unwrap_or_default()));
        let context = Arc::new(Context {
            transport: opening.transport,
            era: opening.era.as_str(),
            session: (opening.era == Era::Legacy).then(|| id.clone()),
            client,
            peer: opening.peer,
        });
        Arc::new(Self {
            id,
            agent,
            subject: opening.who.subject,
            caller: Caller::new(opening.who.token),
            scope: opening.scope,
            era: opening.era,
            revision,
            capabilities: json::member(&greeting, "capabilities"),
            declared: Declared::read(&greeting),
            greeting,
            context,
            outbox: Mailbox::new(limits.outbox),
            replays: Replays::new(replays.clone()),
            line: opening.line,
            log_level: AtomicU8::new(UNSAID),
            finished: Finished::default(),
            tasks: Tasks::default(),
            modern_capabilities: OnceLock::new(),
            exchanges: Mutex::default(),
            questions: Questions::default(),
            heeds: Heeds::default(),
            listeners: AtomicU64::new(0),
            listening: AtomicBool::new(false),
            unused: AtomicU32::new(0),
            learned: Mutex::default(),
            missed: Mutex::default(),
            over: AtomicBool::new(false),
            numbers: AtomicU64::new(0),
            standing,
            replicas: replicas.clone(),
        })
    }

    /// Whether it is this host's, as it comes now.
    pub fn is_of(&self, who: &Principal) -> bool {
        let says = self.standing.as_ref().map(|standing| &standing.says);
        *self.subject == *who.subject && says.is_none_or(|says| *says == who.kept())
    }

    /// The id that a request travels under in this session.
    pub fn number(&self, host_id: &Id) -> Id {
        match self.era {
            Era::Legacy => host_id.clone(),
            Era::Modern => Id::number(self.numbers.fetch_add(1, Ordering::Relaxed) + 1),
        }
    }

    /// What is sealed for it.
    pub fn ring(&self) -> Arc<Ring> {
        self.replicas.ring()
    }

    /// What a place in a list is sealed for. The next request of a modern host may come to another
    /// replica, which keeps another session for it.
    pub fn reader(&self) -> Cow<'_, str> {
        match self.era {
            Era::Legacy => Cow::Borrowed(&*self.id),
            Era::Modern => Cow::Owned(format!("{} {:?}", self.subject, self.scope)),
        }
    }

    /// The revision that the `params` of an `initialize` name.
    pub fn asked_revision(params: &[u8]) -> Option<Cow<'_, str>> {
        json::text(&params[json::member(params, "protocolVersion")?])
    }

    /// The capabilities that the host declared, as it wrote them.
    pub fn capabilities(&self) -> &[u8] {
        let declared = self.capabilities.clone();
        declared.map_or(b"{}", |at| &self.greeting[at])
    }

    /// The era the host speaks.
    pub fn era(&self) -> Era {
        self.era
    }

    /// Whether its event streams begin with an event that carries nothing, so that the host can come
    /// back before anything was said, and can be sent away to do so. Hosts of older revisions take
    /// such an event for a broken message: theirs can be resumed from their first message on.
    pub fn is_primed(&self) -> bool {
        self.era == Era::Legacy
            && self.revision == Revision::V2025_11_25
            && self.context.transport == "streamable-http"
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
        match locked(&self.exchanges).entry(exchange.id.clone()) {
            Entry::Occupied(_) => Err(Refused),
            Entry::Vacant(free) => {
                free.insert(exchange.clone());
                Ok(())
            }
        }
    }

    /// The request has its answer; its id is free again.
    pub fn finish(&self, exchange: &Exchange) {
        self.use_now();
        locked(&self.exchanges).remove(&exchange.id);
        self.questions.end_of(exchange, self.era);
    }

    /// The request in flight under this id.
    pub fn exchange(&self, id: &Id) -> Option<Arc<Exchange>> {
        locked(&self.exchanges).get(id).cloned()
    }

    /// How many requests are in flight.
    pub fn in_flight(&self) -> usize {
        locked(&self.exchanges).len()
    }

    /// The capabilities that a modern server may hear of.
    pub fn modern_capabilities(&self) -> &[u8] {
        match self.era {
            Era::Modern => self.capabilities(),
            Era::Legacy => self
                .modern_capabilities
                .get_or_init(|| server::capabilities(self.capabilities())),
        }
    }

    /// What the host calls itself, as it wrote it.
    pub fn client_info(&self) -> Option<&[u8]> {
        let said = &self.greeting[json::member(&self.greeting, "clientInfo")?];
        Some(said).filter(|said| json::is_object(said))
    }

    /// The least severe log level the host wants, as RFC 5424 counts: 0 debug to 7 emergency. One
    /// that has not said hears all that its servers say unasked.
    pub fn log_level(&self) -> u8 {
        match self.log_level.load(Ordering::Relaxed) {
            UNSAID => 0,
            level => level,
        }
    }

    /// The level that a server is to log from which only logs where it is asked to: `info` until
    /// the host says otherwise, as servers mostly do.
    pub fn log_level_to_ask(&self) -> u8 {
        match self.log_level.load(Ordering::Relaxed) {
            UNSAID => 1,
            level => level,
        }
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
        if self.era == Era::Modern {
            return self.heeds.tell(&message);
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
        if self.line.is_none() && self.era == Era::Legacy {
            let any = locked(&self.exchanges)
                .values()
                .find(|running| !running.is_unheard())
                .cloned();
            if let Some(exchange) = any {
                return exchange.send(message);
            }
        }
        self.tell(message)
    }

    /// Whether anything goes on in it, or might at any moment.
    fn is_used(&self) -> bool {
        // A line stays as long as its host, which may speak for many modern sessions in turn.
        let has_line = self.line.is_some() && self.era == Era::Legacy;
        has_line || self.in_flight() > 0 || self.listening.load(Ordering::Relaxed)
    }

    /// A host of the session wants to hear of these resources.
    pub fn wants(&self, uris: &HashSet<String>) {
        self.heeds.want(uris);
    }

    /// One host less does.
    pub fn wants_no_more(&self, uris: &HashSet<String>) {
        self.heeds.want_no_more(uris);
    }

    /// Whether a host of the session wants to hear of this resource.
    pub fn is_wanted(&self, uri: &str) -> bool {
        self.heeds.is_wanted(uri)
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
        self.tasks.clear();
        self.questions.clear();
        self.replays.clear();
        self.outbox.close();
    }
}

/// 128 random bits as 32 hexadecimal digits: visible ASCII, unguessable (MCP transports).
pub(crate) fn random_id() -> String {
    HEXLOWER.encode(&crate::random::bytes::<16>())
}
