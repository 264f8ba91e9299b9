//! A server that is reached through pipes: which host gets which pipe, and when one is opened.
//!
//! The one place that knows isolation. What is behind a pipe (a child, a
//! built-in) is the [`Opener`]'s; what travels through it is the [`Pipe`]'s.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use chillgate_wire::{Edit, Envelope, Era, Limits as WireLimits, json, message};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::backend::greeting::Greeting;
use crate::backend::pipe::{Audience, Pipe, Terms};
use crate::backend::{Attended, Backend, BackendError, Passage, State};
use crate::config::Isolation;
use crate::era::rounds;
use crate::era::server::{discovered, rediscovered, to_legacy};
use crate::exchange::Exchange;
use crate::lock::locked;
use crate::map::Map;
use crate::session::{Scope, Session};

mod ears;
mod modern;
mod opening;
mod slot;
mod tasks;
mod told;

pub use ears::Ears;
use opening::Trouble;
use slot::{Lanes, Slot};

/// Makes the far end of a pipe exist.
#[async_trait]
pub trait Opener: Send + Sync + std::fmt::Debug {
    /// Starts or connects the server; a task of the opener's carries the bytes until the pipe is
    /// closed or the server ends, and then calls [`Pipe::finish`].
    async fn open(
        &self,
        terms: &Terms,
        audience: Audience,
        tasks: &TaskTracker,
    ) -> Result<Arc<Pipe>, String>;

    /// Changes a request for this server alone, e.g. to say who asks.
    fn stamp(&self, _edit: &mut Edit<'_>, _session: &Session, _passage: Passage) {}
}

/// A server behind pipes.
#[derive(Clone, Debug)]
pub struct Pipes(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    opener: Box<dyn Opener>,
    isolation: Isolation,
    start_timeout: Duration,
    terms: Terms,
    tasks: TaskTracker,
    shared: Arc<Slot>,
    own: Mutex<Map<Arc<str>, Lanes>>,
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
        tasks: TaskTracker,
    ) -> Self {
        Self(Arc::new(Inner {
            opener,
            isolation,
            start_timeout,
            terms,
            tasks,
            shared: Arc::default(),
            own: Mutex::default(),
            stopping: CancellationToken::new(),
        }))
    }

    /// Hosts that a server may ask something get a pipe of their own, so that its questions
    /// always have one owner.
    fn is_own(&self, session: &Session) -> bool {
        match self.0.isolation {
            Isolation::Shared => false,
            Isolation::Session => true,
            // A modern server asks in its answers, and hears with each request who asks.
            Isolation::Auto => self.0.terms.era == Era::Legacy && session.declared.any(),
        }
    }

    fn slot(&self, session: &Session) -> Arc<Slot> {
        if !self.is_own(session) {
            return self.0.shared.clone();
        }
        locked(&self.0.own)
            .entry(session.id.clone())
            .or_default()
            .first()
    }

    /// A modern host hears questions as the outcome of a call, so a call that may lead to some has
    /// a pipe for itself until it is over, however long it waits for its host.
    fn lease(&self, session: &Session, request: &Envelope) -> Result<Option<Lease>, BackendError> {
        let is_asked = session.era() == Era::Modern
            && self.0.terms.era == Era::Legacy
            && self.is_own(session)
            && session.declared.any()
            && request.method().is_some_and(rounds::may_ask)
            // What it asks about a task names the task, which outlives the call.
            && request.find(&["params", "task"]).is_none();
        if !is_asked {
            return Ok(None);
        }
        let lease = locked(&self.0.own)
            .entry(session.id.clone())
            .or_default()
            .lease();
        let Some((slot, is_spare)) = lease else {
            return Err(BackendError::Busy {
                server: self.0.terms.server.clone(),
                cause: "too many calls of this host run or wait for its answers; answer some first"
                    .to_owned(),
            });
        };
        let pipes = self.clone();
        Ok(Some(Lease {
            pipes,
            slot,
            is_spare,
            is_answered: false,
        }))
    }

    /// The session's pipe, opened and greeted if there is none.
    async fn pipe(&self, session: &Arc<Session>) -> Result<Arc<Pipe>, BackendError> {
        self.pipe_in(self.slot(session), session).await
    }

    async fn pipe_in(
        &self,
        slot: Arc<Slot>,
        session: &Arc<Session>,
    ) -> Result<Arc<Pipe>, BackendError> {
        if let Some(pipe) = slot.current() {
            pipe.audience().join(session);
            return Ok(pipe);
        }
        let owner = self.is_own(session).then(|| session.clone());
        let pipe = Box::pin(self.open(slot, owner, true)).await?;
        pipe.audience().join(session);
        Ok(pipe)
    }

    async fn initialize(
        &self,
        exchange: &Arc<Exchange>,
        request: &Envelope,
        passage: Passage,
    ) -> Result<Envelope, BackendError> {
        let session = &exchange.session;
        if !self.is_own(session) || self.0.terms.era == Era::Modern {
            let pipe = self.pipe(session).await?;
            let Some(greeting) = pipe.greeting() else {
                return Err(self.down("it has not been initialized"));
            };
            let result = greeting.for_revision(session.revision.as_str());
            return self.own_result(exchange, &result);
        }
        let slot = self.slot(session);
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
                pipe.close();
                return Err(error);
            }
        };
        if let Ok(greeting) = Greeting::read(&answer) {
            pipe.greet(greeting);
        } else {
            // Whoever comes next begins with a server that has refused nobody yet.
            locked(&slot.pipe).take();
            pipe.close();
        }
        Ok(answer)
    }

    /// What the server said in its `initialize` result, in the words of the modern era.
    async fn discover(&self, exchange: &Arc<Exchange>) -> Result<Envelope, BackendError> {
        let pipe = self.pipe(&exchange.session).await?;
        let Some(greeting) = pipe.greeting() else {
            return Err(self.down("it has not been initialized"));
        };
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
        asked.pipe.request(asked.exchange, request, edit).await
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
        if pipe.era() == Era::Modern {
            // What is for older hosts is boxed, so that the usual call stays small.
            let answer = match exchange.session.era() {
                Era::Modern => self.relay_modern(asked).await,
                Era::Legacy => Box::pin(self.ask_modern(asked)).await,
            };
            self.look_at(&exchange.session, &answer);
            return answer;
        }
        if let Some(level) = exchange.log_level() {
            Box::pin(self.log_from(pipe, level)).await;
        }
        // What a shared server must not be told by every host on its own is boxed as well.
        let answer = match request.method().filter(|_| pipe.audience().is_shared()) {
            Some("logging/setLevel") => Box::pin(self.set_level(asked)).await,
            Some("resources/subscribe") => Box::pin(self.subscribe(asked)).await,
            Some("resources/unsubscribe") => Box::pin(self.unsubscribe(asked)).await,
            _ => self.ask(asked).await,
        };
        self.look_at(&exchange.session, &answer);
        answer
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
        }
    }

    fn down(&self, cause: &str) -> BackendError {
        BackendError::Down {
            server: self.0.terms.server.clone(),
            cause: cause.to_owned(),
        }
    }
}

/// A lane that one call has for itself; dropped, it is free, and a spare one ends once nobody has
/// needed it for a while.
struct Lease {
    pipes: Pipes,
    slot: Arc<Slot>,
    is_spare: bool,
    /// The server has answered: what it asks from now on is about the next call.
    is_answered: bool,
}

/// So long is a spare lane kept.
const SPARE: Duration = Duration::from_mins(1);

impl Drop for Lease {
    fn drop(&mut self) {
        let number = self.slot.free();
        // The server may still work on a call that has ended early, and ask about it.
        if !self.is_answered
            && let Some(pipe) = self.slot.current()
        {
            pipe.doubt();
        }
        if !self.is_spare {
            return;
        }
        if !self.is_answered
            && let Some(pipe) = self.slot.retire(number)
        {
            return pipe.close();
        }
        let (slot, pipes) = (self.slot.clone(), self.pipes.clone());
        self.pipes.0.tasks.spawn(async move {
            tokio::select! {
                () = tokio::time::sleep(SPARE) => {}
                () = pipes.0.stopping.cancelled() => {}
            }
            if let Some(pipe) = slot.retire(number) {
                pipe.close();
            }
        });
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
        let lease = self.lease(&exchange.session, request)?;
        let Some(mut lease) = lease else {
            let pipe = self.pipe(&exchange.session).await?;
            let makes_task = exchange.session.era() == Era::Modern
                && request.method() == Some("tools/call")
                && pipe.era() == Era::Legacy
                && !pipe.audience().is_shared();
            let _beside = makes_task.then(|| pipe.go_beside());
            return self.carry(&pipe, exchange, request, passage).await;
        };
        // Boxed for the same reason.
        Box::pin(async {
            let pipe = self.pipe_in(lease.slot.clone(), &exchange.session).await?;
            pipe.hold_for(exchange);
            let answer = self.carry(&pipe, exchange, request, passage).await;
            lease.is_answered = true;
            pipe.hold_for_nobody();
            answer
        })
        .await
    }
    async fn attend(&self, session: &Arc<Session>) -> Result<Attended, BackendError> {
        let pipe = self.pipe(session).await?;
        let said = pipe.greeting().map(|greeting| greeting.result.clone());
        Ok(Attended {
            said: said.unwrap_or_default(),
            ended: Box::pin(async move { pipe.until_ended().await }),
        })
    }

    async fn post(&self, session: &Arc<Session>, note: Envelope) -> Result<(), BackendError> {
        let slot = self.slot(session);
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
        let lanes = locked(&self.0.own).remove(&session.id).unwrap_or_default();
        for slot in lanes.all() {
            // Whoever opens it right now finishes first, so that nothing is left behind.
            let _tries = slot.opening.lock().await;
            if let Some(pipe) = locked(&slot.pipe).take() {
                pipe.close();
            }
        }
        if let Some(pipe) = self.0.shared.current() {
            pipe.audience().leave(session);
            if let Some(ears) = pipe.ears() {
                ears.ask(pipe.audience());
            }
        }
    }

    async fn warm(&self) {
        if self.0.isolation != Isolation::Session && self.0.shared.current().is_none() {
            // The failure is kept in the slot for `/readyz` and the next caller.
            let _ = self.open(self.0.shared.clone(), None, true).await;
        }
    }

    async fn rest(&self) {
        let pipe = locked(&self.0.shared.pipe).take();
        if let Some(pipe) = pipe {
            pipe.close();
        }
    }

    fn state(&self) -> State {
        let slot = &self.0.shared;
        if slot.current().is_some() {
            return State::Ready;
        }
        if let Some(end) = slot.end() {
            return State::Broken(end);
        }
        if let Some(trouble) = locked(&slot.trouble).clone() {
            return State::Broken(trouble);
        }
        let own = locked(&self.0.own);
        let slots = || own.values().flat_map(Lanes::all);
        let broken = slots().find_map(|slot| {
            if slot.current().is_some() {
                None
            } else {
                locked(&slot.trouble).clone()
            }
        });
        match broken {
            Some(trouble) => State::Broken(trouble),
            None if slots().any(|slot| slot.current().is_some()) => State::Ready,
            None if slot.opening.try_lock().is_err() => State::Starting,
            None => State::OnDemand,
        }
    }

    fn instructions(&self) -> Option<String> {
        let pipe = self.0.shared.current()?;
        let result = &pipe.greeting()?.result;
        let at = json::member(result, "instructions")?;
        json::text(&result[at]).map(std::borrow::Cow::into_owned)
    }

    async fn stop(&self) {
        self.0.stopping.cancel();
        let own: Vec<_> = locked(&self.0.own).drain().collect();
        let mut slots: Vec<_> = own
            .iter()
            .flat_map(|(_, lanes)| lanes.all())
            .cloned()
            .collect();
        slots.push(self.0.shared.clone());
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

impl Pipes {
    /// A pipe ended by itself: the reason is kept for `/readyz` until the next one is open.
    fn look_at(&self, session: &Session, answer: &Result<Envelope, BackendError>) {
        let Err(BackendError::Lost { cause, .. }) = answer else {
            return;
        };
        let slot = self.slot(session);
        if slot.current().is_none() {
            *locked(&slot.trouble) = Some(cause.clone());
            self.0.terms.metrics.child_up(&self.0.terms.server, false);
        }
    }
}
