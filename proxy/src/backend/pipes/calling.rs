//! One request's way to its pipe, through it, and back; a second time where that is harmless.
//!
//! Apart from the pipes' own life, which does not know what is asked. It starts nothing itself.

use std::sync::Arc;
use std::time::Duration;

use chillgate_wire::{Envelope, Era};

use super::slot::Slot;
use super::{Asked, Pipes};
use crate::backend::greeting::Greeting;
use crate::backend::pipe::{Pipe, Taken};
use crate::backend::{BackendError, Passage};
use crate::era::server::{discovered, rediscovered, to_legacy};
use crate::exchange::Exchange;
use crate::lock::locked;
use crate::session::Session;

impl Pipes {
    /// The pipe of a slot, opened and greeted for this session if there is none.
    pub(super) async fn pipe_in(
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
    pub(super) async fn greeting(&self, session: &Arc<Session>) -> Result<Greeting, BackendError> {
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

    pub(super) async fn initialize(
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
    pub(super) async fn discover(
        &self,
        exchange: &Arc<Exchange>,
    ) -> Result<Envelope, BackendError> {
        let greeting = self.greeting(&exchange.session).await?;
        if let Some(own) = &greeting.discovered {
            return self.own_result(exchange, own).map(|own| rediscovered(&own));
        }
        let answer = self.own_result(exchange, &greeting.result)?;
        Ok(discovered(&answer))
    }

    pub(super) async fn ask(&self, asked: Asked<'_>) -> Result<Envelope, BackendError> {
        if asked.exchange.session.era() == Era::Legacy {
            return self.send(asked, asked.request).await;
        }
        match &to_legacy(asked.exchange, asked.request) {
            Ok(request) => self.send(asked, request).await,
            Err(refusal) => Ok((**refusal).clone()),
        }
    }

    /// Puts a request to the server in these words.
    pub(super) async fn send(
        &self,
        asked: Asked<'_>,
        request: &Envelope,
    ) -> Result<Envelope, BackendError> {
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
    pub(super) async fn carry(
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
    pub(super) async fn call_once(
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
