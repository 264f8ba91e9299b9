//! A server that is reached through pipes: each request finds its pipe, and an open one.
//!
//! Which host shares a pipe with whom is said in `places`. What is behind a pipe (a child, a
//! built-in) is the [`Opener`]'s; what travels through it is the [`Pipe`]'s.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use chillgate_wire::{Envelope, Era, Limits as WireLimits, json, message};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::backend::pipe::{Pipe, Terms};
use crate::backend::{Attended, Backend, BackendError, ChildState, Passage, State};
use crate::config::Isolation;
use crate::exchange::Exchange;
use crate::incidents::Recognised;
use crate::lock::locked;
use crate::session::{Scope, Session};

mod again;
mod backoff;
mod calling;
mod ears;
mod lease;
mod modern;
mod opener;
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
pub use opener::{Opener, Unopened, Whose};
use places::Places;
use slot::Slot;
pub use watch::Care;

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
    /// Nothing is started any more.
    superseded: CancellationToken,
    /// And nothing runs either.
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
            superseded: CancellationToken::new(),
            stopping: CancellationToken::new(),
        }))
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
            known: self.known(),
        }
    }

    fn superseded(&self) -> BackendError {
        let server = self.0.terms.server.clone();
        BackendError::Superseded { server }
    }

    fn down(&self, cause: &str) -> BackendError {
        self.down_for(None, cause)
    }

    /// The same, with what is known of this agent's failures.
    fn down_for(&self, agent: Option<&str>, cause: &str) -> BackendError {
        let terms = &self.0.terms;
        BackendError::Down {
            server: terms.server.clone(),
            cause: cause.to_owned(),
            known: terms.incidents.current(&terms.server, agent),
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

    fn supersede(&self) {
        self.0.superseded.cancel();
    }

    fn known(&self) -> Option<Arc<Recognised>> {
        self.0.terms.incidents.current(&self.0.terms.server, None)
    }

    async fn stop(&self) {
        self.0.superseded.cancel();
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
