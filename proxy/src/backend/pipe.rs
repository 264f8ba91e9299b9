//! One full-duplex connection of JSON lines to a server: a child's pipes or a built-in's duplex.
//!
//! Requests of many hosts travel under ids and progress tokens of the pipe's own, so that two
//! hosts that both count from 0 never meet. Reader and writer are separate; neither waits for a
//! host. It never starts, stops or judges the process behind it.

use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock, Weak};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use chillgate_wire::{Edit, Envelope, Era, Id, Limits as WireLimits, Lines, json, message};
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::sync::{Notify, Semaphore, SemaphorePermit, TryAcquireError, oneshot};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::debug;

use crate::backend::BackendError;
use crate::backend::greeting::Greeting;
use crate::backend::pipes::Ears;
use crate::exchange::Exchange;
use crate::incidents::Incidents;
use crate::line::{Line, Pace};
use crate::lock::locked;
use crate::map::Map;
use crate::session::Asker;
use crate::telemetry::metrics::Metrics;

mod audience;
mod babble;
pub mod cache;
mod ear;
mod ending;
mod guards;
mod heard;
mod origin;
pub mod seen;
mod work;

pub use audience::Audience;
use babble::Babble;
use cache::Cache;
use ear::Ear;
pub use ear::{Listening, Unheard};
use ending::End;
use guards::{Awaited, Waits};
pub use guards::{Beside, Taken};
pub use origin::Origin;
use seen::Seen;

/// A connection to one running server.
#[derive(Debug)]
pub struct Pipe {
    server: Arc<str>,
    era: Era,
    line: Line,
    pending: Mutex<Map<u64, Pending>>,
    next: AtomicU64,
    slots: Semaphore,
    waiting: AtomicUsize,
    process: OnceLock<u32>,
    origin: OnceLock<Origin>,
    audience: Arc<Audience>,
    /// The only call that the server may ask its host about, where there is such a one.
    holder: Mutex<Weak<Exchange>>,
    /// Calls that run beside the one that holds the pipe, and that the server may ask about as well.
    beside: AtomicUsize,
    /// Until when a question may be about a call that has ended without its answer.
    doubt: Mutex<Option<Instant>>,
    greeting: OnceLock<Greeting>,
    ears: OnceLock<Ears>,
    cache: Cache,
    seen: Seen,
    /// The subscription of a modern server that counts: the one acknowledged last.
    ear: AtomicU64,
    /// The least severe level that the server was told to log from.
    level: AtomicU8,
    /// The server seems to be another one than was greeted.
    worn: AtomicBool,
    /// Requests of hosts so far, those who may make one at the moment, and lines heard.
    calls: AtomicU64,
    users: AtomicUsize,
    heard: AtomicU64,
    /// Notifications of the server among them, and requests that ran out of time.
    notes: AtomicU64,
    given_up: AtomicU64,
    /// It works on something that no call waits for.
    has_tasks: AtomicBool,
    /// It was chillgate that ended it.
    was_told: AtomicBool,
    end: OnceLock<End>,
    ended: Notify,
    /// Nothing is left of what was behind it.
    gone: CancellationToken,
    closing: Notify,
    /// It has answered a request of a host.
    has_served: AtomicBool,
    /// The first line of its output that was no message.
    strange: OnceLock<String>,
    /// The first answer to what nobody asked, while its first words were waited for.
    unasked: OnceLock<String>,
    babble: Babble,
    limits: WireLimits,
    metrics: Arc<Metrics>,
    incidents: Incidents,
}

#[derive(Debug)]
struct Pending {
    answer: oneshot::Sender<Result<Envelope, BackendError>>,
    exchange: Option<Arc<Exchange>>,
    ear: Option<Ear>,
}

/// So many bytes of one server are heard in one go.
const TURN: usize = 16 << 10;

/// So long may a server go on with a call that it was told to end.
const DOUBT: Duration = Duration::from_secs(2);

/// What a pipe needs to know of its surroundings.
#[derive(Clone, Debug)]
pub struct Terms {
    /// The server's name.
    pub server: Arc<str>,
    /// Caps on what the server may write.
    pub limits: WireLimits,
    /// The era in which it is spoken to.
    pub era: Era,
    /// Requests in flight at one time; more wait.
    pub in_flight: usize,
    /// Where mishaps are counted.
    pub metrics: Arc<Metrics>,
    /// Where failures are remembered.
    pub incidents: Incidents,
}

impl Terms {
    /// The same for a server that is spoken to in this era.
    #[must_use]
    pub fn in_era(&self, era: Era) -> Self {
        Self {
            era,
            ..self.clone()
        }
    }
}

impl Pipe {
    /// A pipe over a line that somebody else writes out.
    pub fn new(terms: &Terms, line: Line, audience: Arc<Audience>) -> Arc<Self> {
        Arc::new(Self {
            server: terms.server.clone(),
            era: terms.era,
            line,
            pending: Mutex::default(),
            next: AtomicU64::new(1),
            slots: Semaphore::new(terms.in_flight),
            waiting: AtomicUsize::new(0),
            process: OnceLock::new(),
            origin: OnceLock::new(),
            audience,
            holder: Mutex::default(),
            beside: AtomicUsize::new(0),
            doubt: Mutex::default(),
            greeting: OnceLock::new(),
            ears: OnceLock::new(),
            cache: Cache::default(),
            seen: Seen::default(),
            ear: AtomicU64::new(0),
            level: AtomicU8::new(u8::MAX),
            worn: AtomicBool::new(false),
            calls: AtomicU64::new(0),
            users: AtomicUsize::new(0),
            heard: AtomicU64::new(0),
            notes: AtomicU64::new(0),
            given_up: AtomicU64::new(0),
            has_tasks: AtomicBool::new(false),
            was_told: AtomicBool::new(false),
            end: OnceLock::new(),
            ended: Notify::new(),
            gone: CancellationToken::new(),
            closing: Notify::new(),
            has_served: AtomicBool::new(false),
            strange: OnceLock::new(),
            unasked: OnceLock::new(),
            babble: Babble::default(),
            limits: terms.limits,
            metrics: terms.metrics.clone(),
            incidents: terms.incidents.clone(),
        })
    }

    /// Carries a host's request and waits for its answer under the host's own id.
    pub async fn request(
        self: &Arc<Self>,
        exchange: &Arc<Exchange>,
        request: &Envelope,
        edits: Edit<'_>,
    ) -> Result<Envelope, BackendError> {
        let _slot = if waits_for_its_host(request) {
            None
        } else {
            Some(self.place().await?)
        };
        self.calls.fetch_add(1, Ordering::Relaxed);
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let lexeme = Id::number(number);
        let mut edits = edits;
        edits.id(lexeme.as_bytes());
        if exchange.token().is_some() && has_token(request) {
            edits.set(&["params", "_meta", "progressToken"], lexeme.as_bytes());
        }
        let waiting = self.expect(number, Some(exchange.clone()), None)?;
        // A subscription waits as well, and writes nothing.
        let is_listening = self.ear.load(Ordering::Relaxed) != 0;
        let pace = if self.in_flight() <= 1 + usize::from(is_listening) {
            Pace::Now
        } else {
            Pace::Gather
        };
        self.line
            .send(request, &edits, pace)
            .await
            .map_err(|_| self.unsent())?;
        let answer = waiting.answer().await?;
        Ok(answer.with_id(exchange.host_id.as_bytes()))
    }

    /// A place among the requests that the server may work on at one time.
    async fn place(&self) -> Result<SemaphorePermit<'_>, BackendError> {
        match self.slots.try_acquire() {
            Ok(place) => Ok(place),
            Err(TryAcquireError::Closed) => Err(self.unsent()),
            Err(TryAcquireError::NoPermits) => {
                let _waits = Waits::new(&self.waiting);
                self.slots.acquire().await.map_err(|_| self.unsent())
            }
        }
    }

    /// How many requests wait for such a place.
    pub fn waiting(&self) -> usize {
        self.waiting.load(Ordering::Relaxed)
    }

    /// The process behind it is this one.
    pub fn note_process(&self, pid: u32) {
        let _ = self.process.set(pid);
    }

    /// The process behind it, if there is one.
    pub fn process(&self) -> Option<u32> {
        self.process.get().copied()
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
        let waiting = self.expect(number, None, None)?;
        self.line
            .send(&request, &request.edit(), Pace::Gather)
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
            .send(note, &note.edit(), Pace::Gather)
            .await
            .map_err(|_| self.lost())
    }

    fn own(&self, raw: Bytes) -> Result<Envelope, BackendError> {
        Envelope::parse(raw, &self.limits).map_err(|fault| BackendError::Invalid {
            server: self.server.clone(),
            cause: fault.to_string(),
        })
    }

    /// From now on the server's questions are about this call.
    pub fn hold_for(&self, exchange: &Arc<Exchange>) {
        *locked(&self.holder) = Arc::downgrade(exchange);
    }

    /// A call that the server may ask about goes in beside the one that holds the pipe: while it
    /// lasts, what says not which of them it is about is about neither.
    pub fn go_beside(self: &Arc<Self>) -> Beside {
        self.beside.fetch_add(1, Ordering::Relaxed);
        Beside(self.clone())
    }

    /// The call has ended, and the server has not answered it: what it asks in the next moments may
    /// still be about it.
    pub fn doubt(&self) {
        self.hold_for_nobody();
        *locked(&self.doubt) = Some(Instant::now() + DOUBT);
    }

    /// Until when a question may be about a call that is over.
    fn doubtful_until(&self) -> Option<Instant> {
        locked(&self.doubt).filter(|until| Instant::now() < *until)
    }

    /// The call is over.
    pub fn hold_for_nobody(&self) {
        *locked(&self.holder) = Weak::new();
    }

    /// Whether the server must be told to log from this level on, because nobody wanted as much.
    pub fn lower_level(&self, level: u8) -> bool {
        level < self.level.fetch_min(level, Ordering::Relaxed)
    }

    /// Keeps what the server said of itself when it was opened.
    pub fn greet(&self, greeting: Greeting) {
        let _ = self.greeting.set(greeting);
        self.tell_babble();
    }

    /// The era in which the server is spoken to.
    pub fn era(&self) -> Era {
        self.era
    }

    /// The server's name.
    pub fn server(&self) -> &Arc<str> {
        &self.server
    }

    /// Somebody listens to the server, a modern one, in this way.
    pub fn hear_with(&self, ears: Ears) {
        let _ = self.ears.set(ears);
    }

    /// What a modern server said may be kept.
    pub fn cache(&self) -> &Cache {
        &self.cache
    }

    /// The lists that the server has shown, or the one before it.
    pub fn seen(&self) -> &Seen {
        &self.seen
    }

    /// How the server is listened to, where it is a modern one.
    pub fn ears(&self) -> Option<&Ears> {
        self.ears.get()
    }

    /// What the server said of itself when it was opened, once it has.
    pub fn greeting(&self) -> Option<&Greeting> {
        self.greeting.get()
    }

    /// The pipe in the hands of somebody who is about to ask the server something.
    pub fn take(self: &Arc<Self>) -> Taken {
        self.users.fetch_add(1, Ordering::Relaxed);
        Taken(self.clone())
    }

    /// The least severe level that the server was told to log from, if it was told one.
    pub fn level(&self) -> Option<u8> {
        Some(self.level.load(Ordering::Relaxed)).filter(|level| *level != u8::MAX)
    }

    /// The only host behind it wants another level.
    pub fn note_level(&self, level: u8) {
        self.level.store(level, Ordering::Relaxed);
    }

    /// Who hears what the server says on its own.
    pub fn audience(&self) -> &Arc<Audience> {
        &self.audience
    }

    /// Reads what the server writes until it stops; returns why.
    pub async fn read<R: AsyncRead + Unpin>(self: &Arc<Self>, mut reader: R) -> String {
        let mut lines = Lines::new(self.limits.message);
        let mut taken = 0;
        let why = loop {
            for line in lines.by_ref() {
                self.heard.fetch_add(1, Ordering::Relaxed);
                match line {
                    Ok(line) => self.hear(line),
                    Err(oversized) => {
                        debug!(server = %self.server, %oversized, "Dropped a line of the server.");
                        self.metrics.child_protocol_error(&self.server, "oversized");
                        self.fail_oversized(oversized.id.as_ref());
                    }
                }
            }
            // A server that never pauses must not keep the others from their turn.
            if taken >= TURN {
                taken = 0;
                tokio::task::yield_now().await;
            }
            match reader.read_buf(lines.space()).await {
                Ok(0) => break "it closed its output".to_owned(),
                Ok(count) => taken += count,
                Err(error) => break format!("its output failed: {error}"),
            }
        };
        if let Some(Ok(line)) = lines.finish() {
            self.hear(line);
        }
        why
    }

    /// The first line of its output that was no message, if there was one.
    pub fn strange(&self) -> Option<&str> {
        self.strange.get().map(String::as_str)
    }

    /// The first answer to what nobody asked, while its first words were waited for.
    pub fn unasked(&self) -> Option<&str> {
        self.unasked.get().map(String::as_str)
    }

    /// Whether it has answered a request of a host.
    pub fn has_served(&self) -> bool {
        self.has_served.load(Ordering::Relaxed)
    }

    fn expect(
        self: &Arc<Self>,
        number: u64,
        exchange: Option<Arc<Exchange>>,
        ear: Option<Ear>,
    ) -> Result<Awaited, BackendError> {
        let (answer, receiver) = oneshot::channel();
        let pending = Pending {
            answer,
            exchange,
            ear,
        };
        locked(&self.pending).insert(number, pending);
        // Registered first, looked at second: a pipe that ends in between has cleared the entry.
        if !self.is_open() {
            locked(&self.pending).remove(&number);
            return Err(self.unsent());
        }
        Ok(Awaited {
            pipe: self.clone(),
            number,
            receiver: Some(receiver),
        })
    }
}

#[async_trait]
impl Asker for Pipe {
    async fn answer(&self, message: Envelope) {
        // A server that is gone needs no answer.
        let _ = self
            .line
            .send(&message, &message.edit(), Pace::Gather)
            .await;
    }

    fn refuse(&self, refusal: &Envelope) {
        if self.line.offer(refusal).is_err() {
            self.metrics.dropped(&self.server, "server_not_reading");
        }
    }
}

/// The result of a task of 2025-11-25 may be as long in coming as its host is in answering; whatever
/// else there is to ask meanwhile needs a place.
pub(super) fn waits_for_its_host(request: &Envelope) -> bool {
    request.method() == Some("tasks/result")
}

fn has_token(request: &Envelope) -> bool {
    request
        .params()
        .is_some_and(|params| json::path(params, &["_meta", "progressToken"]).is_some())
}
