//! A server that is reached through pipes: each request finds its pipe, and an open one.
//!
//! Which host shares a pipe with whom is said in `places`. What is behind a pipe (a child, a
//! built-in) is the [`Opener`]'s; what travels through it is the [`Pipe`]'s.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use chillgate_wire::{Edit, Envelope, Era, Limits as WireLimits, json, message};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::backend::greeting::Greeting;
use crate::backend::pipe::{Audience, Pipe, Taken, Terms};
use crate::backend::{Attended, Backend, BackendError, ChildState, Passage, State};
use crate::config::Isolation;
use crate::era::server::{discovered, rediscovered, to_legacy};
use crate::exchange::Exchange;
use crate::incidents::Refusal;
use crate::lock::locked;
use crate::session::{Scope, Session};

mod again;
mod backoff;
mod ears;
mod lease;
mod modern;
mod opening;
mod places;
mod sleep;
mod slot;
mod tasks;
mod told;
mod turns;
mod watch;

use again::Repeatable;
pub use ears::Ears;
use lease::SINGLES;
use opening::Trouble;
use places::Places;
use slot::Slot;
pub use watch::Care;

/// Makes the far end of a pipe exist.
#[async_trait]
pub trait Opener: Send + Sync + std::fmt::Debug {
    /// Starts or connects the server; a task of the opener's carries the bytes until the pipe is
    /// closed or the server ends, and then calls [`Pipe::finish`]. `agent`: whose it will be, where
    /// it is one agent's alone.
    async fn open(
        &self,
        terms: &Terms,
        audience: Arc<Audience>,
        agent: Option<&str>,
        tasks: &TaskTracker,
    ) -> Result<Arc<Pipe>, String>;

    /// Whether its calls end within bounds of the server's own: then silence ends none of them.
    fn keeps_time(&self) -> bool {
        false
    }

    /// A server that was opened did not get ready: what to say of it, given what is known.
    fn silent(&self, _terms: &Terms, _audience: &Arc<Audience>, cause: String) -> String {
        cause
    }

    /// A server that was opened answered with what is no answer: what to say of it.
    fn wrong(&self, _terms: &Terms, _audience: &Arc<Audience>, cause: String) -> String {
        cause
    }

    /// A server that was opened refused the first words: what to say of it.
    fn refused(&self, _terms: &Terms, _audience: &Arc<Audience>, refusal: &Refusal) -> String {
        refusal.cause.clone()
    }

    /// A server that was opened is ready.
    fn ready(&self, _terms: &Terms, _audience: &Arc<Audience>) {}

    /// Changes a request for this server alone, e.g. to say who asks.
    fn stamp(&self, _edit: &mut Edit<'_>, _session: &Session, _passage: Passage) {}
}

/// A server behind pipes.
#[derive(Clone, Debug)]
pub struct Pipes(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    opener: Box<dyn Opener>,
    places: Places,
    start_timeout: Duration,
    terms: Terms,
    care: Care,
    tasks: TaskTracker,
    repeatable: Repeatable,
    /// What all share of it is started again when it falls, without a call.
    is_kept_up: AtomicBool,
    /// Requests that may have a process of their own at one time.
    singles: Arc<Semaphore>,
    stopping: CancellationToken,
}

/// A host's request, and the pipe that it goes through.
#[derive(Clone, Copy)]
struct Asked<'a> {
    pipe: &'a Arc<Pipe>,
    exchange: &'a Arc<Exchange>,
    request: &'a Envelope,
    passage: Passage,
}

impl Pipes {
    /// A server that nobody has called yet.
    pub fn new(
        opener: Box<dyn Opener>,
        isolation: Isolation,
        start_timeout: Duration,
        terms: Terms,
        care: Care,
        tasks: TaskTracker,
    ) -> Self {
        Self(Arc::new(Inner {
            opener,
            places: Places::new(isolation, terms.era, &care),
            start_timeout,
            terms,
            care,
            tasks,
            repeatable: Repeatable::default(),
            is_kept_up: AtomicBool::new(false),
            singles: Arc::new(Semaphore::new(SINGLES)),
            stopping: CancellationToken::new(),
        }))
    }

    /// The pipe of a slot, opened and greeted for this session if there is none.
    async fn pipe_in(
        &self,
        slot: Arc<Slot>,
        session: &Arc<Session>,
    ) -> Result<Taken, BackendError> {
        if let Some(pipe) = slot.current() {
            pipe.audience().join(session);
            return Ok(pipe.take());
        }
        let owner = self.0.places.is_own(session).then(|| session.clone());
        let opening = self.open(slot.clone(), owner.clone(), true);
        let mut opened = Box::pin(opening).await;
        if opened.is_err() && slot.is_over() && !self.0.places.is_per_request() {
            // It was cleared away just then; there is another now.
            opened = Box::pin(self.open(self.0.places.slot(session), owner, true)).await;
        }
        let pipe = opened?.take();
        pipe.audience().join(session);
        Ok(pipe)
    }

    /// What the session's server says of itself, whether it is awake or not.
    async fn greeting(&self, session: &Arc<Session>) -> Result<Greeting, BackendError> {
        let greeted = |pipe: &Arc<Pipe>| {
            let greeting = pipe.greeting().cloned();
            greeting.ok_or_else(|| self.down("it has not been initialized"))
        };
        if self.0.places.is_per_request() {
            let (pipe, _single) = self.single(session).await?;
            return greeted(&pipe);
        }
        let slot = self.0.places.slot(session);
        if let Some(asleep) = slot.asleep() {
            if let Some(pipe) = &*locked(&slot.pipe) {
                pipe.audience().join(session);
            }
            return Ok(asleep.greeting.clone());
        }
        greeted(&*self.pipe_in(slot, session).await?)
    }

    async fn initialize(
        &self,
        exchange: &Arc<Exchange>,
        request: &Envelope,
        passage: Passage,
    ) -> Result<Envelope, BackendError> {
        let session = &exchange.session;
        let is_own = self.0.places.is_own(session) && !self.0.places.is_per_request();
        if !is_own || self.0.terms.era == Era::Modern {
            let greeting = self.greeting(session).await?;
            let result = greeting.for_revision(session.revision.as_str());
            return self.own_result(exchange, &result);
        }
        let slot = self.0.places.slot(session);
        let pipe = self
            .open(slot.clone(), Some(session.clone()), false)
            .await?;
        let asked = Asked {
            pipe: &pipe,
            exchange,
            request,
            passage,
        };
        let answer = match self.ask(asked).await {
            Ok(answer) => answer,
            Err(error) => {
                if let BackendError::Lost { cause, .. } = &error {
                    slot.failed(cause);
                }
                pipe.close();
                return Err(error);
            }
        };
        if let Ok(greeting) = Greeting::read(&answer) {
            pipe.greet(greeting);
            self.got_ready(&slot, &pipe);
        } else {
            // Whoever comes next begins with a server that has refused nobody yet.
            locked(&slot.pipe).take();
            pipe.close();
        }
        Ok(answer)
    }

    /// What the server said in its `initialize` result, in the words of the modern era.
    async fn discover(&self, exchange: &Arc<Exchange>) -> Result<Envelope, BackendError> {
        let greeting = self.greeting(&exchange.session).await?;
        if let Some(own) = &greeting.discovered {
            return self.own_result(exchange, own).map(|own| rediscovered(&own));
        }
        let answer = self.own_result(exchange, &greeting.result)?;
        Ok(discovered(&answer))
    }

    async fn ask(&self, asked: Asked<'_>) -> Result<Envelope, BackendError> {
        if asked.exchange.session.era() == Era::Legacy {
            return self.send(asked, asked.request).await;
        }
        match &to_legacy(asked.exchange, asked.request) {
            Ok(request) => self.send(asked, request).await,
            Err(refusal) => Ok((**refusal).clone()),
        }
    }

    /// Puts a request to the server in these words.
    async fn send(&self, asked: Asked<'_>, request: &Envelope) -> Result<Envelope, BackendError> {
        let mut edit = request.edit();
        let session = &asked.exchange.session;
        self.0.opener.stamp(&mut edit, session, asked.passage);
        let asking = asked.pipe.request(asked.exchange, request, edit);
        if self.0.opener.keeps_time() {
            return Box::pin(at_work(asked.exchange, asking)).await;
        }
        let answer = asking.await?;
        asked.pipe.seen().note_answer(request, &answer);
        if self.0.terms.era == Era::Modern && is_task(&answer) {
            asked.pipe.note_task();
        }
        Ok(answer)
    }

    /// What a request comes to on an open pipe.
    async fn carry(
        &self,
        pipe: &Arc<Pipe>,
        exchange: &Arc<Exchange>,
        request: &Envelope,
        passage: Passage,
    ) -> Result<Envelope, BackendError> {
        let asked = Asked {
            pipe,
            exchange,
            request,
            passage,
        };
        if request.method() == Some("tools/call") && request.find(&["params", "task"]).is_some() {
            pipe.note_task();
        }
        if pipe.era() == Era::Modern {
            // What is for older hosts is boxed, so that the usual call stays small.
            return match exchange.session.era() {
                Era::Modern => self.relay_modern(asked).await,
                Era::Legacy => Box::pin(self.ask_modern(asked)).await,
            };
        }
        if let Some(level) = exchange.log_level() {
            Box::pin(self.log_from(pipe, level)).await;
        }
        // What a shared server must not be told by every host on its own is boxed as well.
        match request.method() {
            Some("logging/setLevel") => Box::pin(self.set_level(asked)).await,
            Some("resources/subscribe") => Box::pin(self.subscribe(asked)).await,
            Some("resources/unsubscribe") => Box::pin(self.unsubscribe(asked)).await,
            _ => self.ask(asked).await,
        }
    }

    /// Carries a request once.
    async fn call_once(
        &self,
        exchange: &Arc<Exchange>,
        request: &Envelope,
        passage: Passage,
    ) -> Result<Envelope, BackendError> {
        let session = &exchange.session;
        if self.0.places.is_per_request() {
            return Box::pin(async {
                let (pipe, _single) = self.single(session).await?;
                pipe.hold_for(exchange);
                self.carry(&pipe, exchange, request, passage).await
            })
            .await;
        }
        let lease = self.lease(session, request)?;
        let Some(mut lease) = lease else {
            let slot = self.0.places.slot(session);
            if slot.current().is_none()
                && let Some(answer) = self.recall(&slot, exchange, request)
            {
                return answer;
            }
            let pipe = self.pipe_in(slot, session).await?;
            let makes_task = session.era() == Era::Modern
                && request.method() == Some("tools/call")
                && pipe.era() == Era::Legacy
                && !pipe.audience().is_shared();
            let _beside = makes_task.then(|| pipe.go_beside());
            return self.carry(&pipe, exchange, request, passage).await;
        };
        // Boxed for the same reason.
        Box::pin(async {
            let pipe = self.pipe_in(lease.slot.clone(), session).await?;
            pipe.hold_for(exchange);
            let answer = self.carry(&pipe, exchange, request, passage).await;
            lease.is_answered = true;
            pipe.hold_for_nobody();
            answer
        })
        .await
    }

    fn own_result(&self, exchange: &Exchange, result: &[u8]) -> Result<Envelope, BackendError> {
        let raw = message::result(exchange.host_id.as_bytes(), result);
        Envelope::parse(raw, &WireLimits::default()).map_err(|fault| BackendError::Invalid {
            server: self.0.terms.server.clone(),
            cause: fault.to_string(),
        })
    }

    fn unspoken(&self, cause: String) -> BackendError {
        BackendError::Unspoken {
            server: self.0.terms.server.clone(),
            cause,
            known: self.0.terms.incidents.current(&self.0.terms.server),
        }
    }

    fn down(&self, cause: &str) -> BackendError {
        BackendError::Down {
            server: self.0.terms.server.clone(),
            cause: cause.to_owned(),
            known: self.0.terms.incidents.current(&self.0.terms.server),
        }
    }
}

/// Whether a server of 2026-07-28 has made a task of a call.
fn is_task(answer: &Envelope) -> bool {
    let kind = answer.get(&["result", "resultType"]);
    kind.is_some_and(|kind| kind == br#""task""#)
}

/// How often a call is marked as being worked on.
const MARK: Duration = Duration::from_millis(250);

/// Waits for an answer that is worked on, however silently.
async fn at_work<T>(exchange: &Exchange, asking: impl Future<Output = T>) -> T {
    let mut asking = std::pin::pin!(asking);
    loop {
        match tokio::time::timeout(MARK, &mut asking).await {
            Ok(answer) => return answer,
            Err(_) => exchange.touch(),
        }
    }
}

#[async_trait]
impl Backend for Pipes {
    fn name(&self) -> &Arc<str> {
        &self.0.terms.server
    }

    async fn call(
        &self,
        exchange: &Arc<Exchange>,
        request: &Envelope,
        passage: Passage,
    ) -> Result<Envelope, BackendError> {
        if request.method() == Some("initialize") {
            // Boxed, so that the calls that follow stay small.
            return Box::pin(self.initialize(exchange, request, passage)).await;
        }
        if request.method() == Some("server/discover") {
            return Box::pin(self.discover(exchange)).await;
        }
        let answer = self.call_once(exchange, request, passage).await;
        match answer {
            Ok(answer) => {
                if request.method() == Some("tools/list") {
                    self.0.repeatable.note(&answer);
                }
                Ok(answer)
            }
            Err(BackendError::Lost {
                server,
                cause,
                ended,
                known,
                retryable,
            }) => {
                // Boxed, so that the calls that end well stay small.
                let lost = BackendError::Lost {
                    server,
                    cause,
                    ended,
                    known,
                    retryable: retryable || self.0.repeatable.has(request),
                };
                Box::pin(self.call_again(exchange, request, passage, lost)).await
            }
            other => other,
        }
    }

    async fn attend(&self, session: &Arc<Session>) -> Result<Attended, BackendError> {
        let greeting = self.greeting(session).await?;
        if self.0.places.is_per_request() {
            // Between two requests there is nobody who could say anything.
            return Ok(Attended {
                said: greeting.result,
                ended: Box::pin(std::future::pending()),
            });
        }
        let slot = self.0.places.slot(session);
        Ok(Attended {
            said: greeting.result,
            ended: Box::pin(async move { slot.until_down().await }),
        })
    }

    async fn post(&self, session: &Arc<Session>, note: Envelope) -> Result<(), BackendError> {
        if self.0.places.is_per_request() {
            return Ok(());
        }
        let slot = self.0.places.slot(session);
        let Some(pipe) = slot.current().filter(|pipe| pipe.era() == Era::Legacy) else {
            return Ok(());
        };
        let mine = match note.method().unwrap_or_default() {
            // A merged session's servers, and a shared one, have been told by chillgate itself.
            "notifications/initialized" => {
                !pipe.audience().is_shared() && !matches!(session.scope, Scope::Merged(_))
            }
            "notifications/roots/list_changed" => !pipe.audience().is_shared(),
            _ => true,
        };
        if mine { pipe.post(&note).await } else { Ok(()) }
    }

    async fn detach(&self, session: &Arc<Session>) {
        let (lanes, common) = self.0.places.leave(session);
        for slot in lanes.all() {
            // Whoever opens it right now finishes first, so that nothing is left behind.
            let _tries = slot.opening.lock().await;
            if let Some(pipe) = locked(&slot.pipe).take() {
                pipe.close();
            }
        }
        let Some(slot) = common else { return };
        let pipe = locked(&slot.pipe).clone();
        let mut is_empty = true;
        if let Some(pipe) = pipe {
            pipe.audience().leave(session);
            if let Some(ears) = pipe.ears() {
                ears.ask(pipe.audience());
            }
            is_empty = pipe.audience().is_empty();
        }
        if self.0.places.is_passing() && is_empty {
            self.end_if_unused(slot);
        }
    }

    async fn warm(&self) {
        let Some(slot) = self.0.places.ahead() else {
            return;
        };
        self.0.is_kept_up.store(true, Ordering::Relaxed);
        if slot.current().is_none() && slot.asleep().is_none() {
            // The failure is kept in the slot for `/readyz` and the next caller.
            let _ = self.open(slot, None, true).await;
        }
    }

    async fn rest(&self) {
        self.0.is_kept_up.store(false, Ordering::Relaxed);
        for slot in self.0.places.all_common() {
            let pipe = locked(&slot.pipe).take();
            if let Some(pipe) = pipe {
                pipe.close();
            }
        }
    }

    async fn sleep(&self) {
        for slot in self.0.places.all() {
            if let Some(pipe) = slot.current()
                && pipe.is_at_rest()
                && !pipe.has_tasks()
            {
                self.put_to_sleep(&slot, &pipe).await;
            }
        }
    }

    fn state(&self) -> State {
        self.state_now()
    }

    fn children(&self) -> Vec<ChildState> {
        let child = |slot: Arc<Slot>| {
            let pipe = slot.current()?;
            Some(ChildState {
                pid: pipe.process()?,
                agent: slot.agent.clone(),
                running: pipe.running(),
                waiting: pipe.waiting(),
            })
        };
        let slots = self.0.places.all_and_singles();
        slots.into_iter().filter_map(child).collect()
    }

    fn asleep(&self) -> usize {
        let slots = self.0.places.all();
        slots.iter().filter(|slot| slot.asleep().is_some()).count()
    }

    fn instructions(&self) -> Option<String> {
        let slot = self.0.places.ahead()?;
        let result = match slot.asleep() {
            Some(asleep) => asleep.greeting.result.clone(),
            None => slot.current()?.greeting()?.result.clone(),
        };
        let at = json::member(&result, "instructions")?;
        json::text(&result[at]).map(std::borrow::Cow::into_owned)
    }

    async fn stop(&self) {
        self.0.stopping.cancel();
        let slots = self.0.places.clear();
        let pipes: Vec<_> = slots
            .iter()
            .filter_map(|slot| locked(&slot.pipe).take())
            .collect();
        for pipe in &pipes {
            pipe.close();
        }
        for pipe in &pipes {
            pipe.until_ended().await;
        }
    }
}
