//! A modern host on standard input and output: no session, requests that may overlap at will.
//!
//! Apart because it shares with the handshake only the lines. A request is cancelled by a
//! notification here, which is why the requests in flight are kept by the ids that the host gave
//! them. It reads no line and writes none but answers.

use std::sync::{Arc, Mutex};

use bytes::Bytes;
use chillgate_wire::{Envelope, Era, Id, Kind, code, meta};

use crate::era::host;
use crate::exchange::{Ended, Exchange};
use crate::front::running::Running;
use crate::gate::{Gate, Refusal};
use crate::identity::Principal;
use crate::line::{Line, Pace};
use crate::lock::locked;
use crate::map::Map;
use crate::route::listen::LISTEN;
use crate::session::{Opening, Scope, Session};

/// The modern side of a host on stdio.
pub(super) struct Modern {
    running: Arc<Mutex<Map<Id, InFlight>>>,
    sessions: Vec<Arc<Session>>,
}

struct InFlight {
    exchange: Arc<Exchange>,
    /// It ends only when somebody ends it.
    listens: bool,
}

impl Modern {
    pub(super) fn new() -> Self {
        Self {
            running: Arc::default(),
            sessions: Vec::new(),
        }
    }

    /// Takes a request in and answers it in its own time. An error is the answer.
    pub(super) async fn take(
        &mut self,
        gate: &Gate,
        scope: &Scope,
        line: &Line,
        request: Envelope,
    ) -> Result<(), Refusal> {
        let Some(id) = request.id() else {
            return Ok(());
        };
        let hop = meta::read(&request).map_err(|lacking| Refusal::Answered {
            code: code::INVALID_PARAMS,
            message: format!("Invalid params: {lacking}"),
            data: None,
        })?;
        let greeting = host::greeting(&hop)?;
        let who = gate.snapshot().identities.of_stdio();
        let grants = who.grants.clone();
        let session = self.session(gate, who, scope, line, greeting)?;
        let outbox = gate.snapshot().config.limits.outbox;
        if locked(&self.running).contains_key(&id) {
            return Err(Refusal::IdInUse);
        }
        let listens = request.method() == Some(LISTEN);
        let begun = Running::begin(gate, &session, &grants, request, outbox).await?;
        let (running, line) = (self.running.clone(), line.clone());
        let call = match begun {
            Ok(call) => call,
            Err(answer) => {
                if let Some(said) = answer.message {
                    let _ = line.send(&said, &said.edit(), Pace::Gather).await;
                }
                return Ok(());
            }
        };
        let exchange = call.exchange().clone();
        locked(&running).insert(id.clone(), InFlight { exchange, listens });
        let mut answering = Box::pin(async move {
            let answer = call.await;
            locked(&running).remove(&id);
            if let Some(said) = answer.message {
                // A host that is gone needs no answer.
                let _ = line.send(&said, &said.edit(), Pace::Gather).await;
            }
        });
        // Begun before the next line is read, so that a cancellation right behind finds it.
        if futures_util::poll!(&mut answering).is_pending() {
            gate.tasks().spawn(answering);
        }
        Ok(())
    }

    /// The host no longer wants an answer. `false`: it was not a modern request.
    pub(super) fn cancel(&self, note: &Envelope) -> bool {
        let is_cancellation =
            note.kind() == Kind::Notification && note.method() == Some("notifications/cancelled");
        if !is_cancellation {
            return false;
        }
        let id = note.get(&["params", "requestId"]).and_then(Id::from_lexeme);
        let running = locked(&self.running);
        let Some(found) = id.and_then(|id| running.get(&id)) else {
            return false;
        };
        found.exchange.end(Ended::ByHost);
        true
    }

    /// The host has closed its end: nobody listens any more, and nobody answers questions.
    pub(super) async fn hang_up(&self, gate: &Gate) {
        for in_flight in locked(&self.running).values() {
            if in_flight.listens {
                in_flight.exchange.end(Ended::ByHost);
            }
        }
        for session in &self.sessions {
            gate.give_up_all(session).await;
        }
    }

    /// Nothing runs any more.
    pub(super) async fn close(&mut self, gate: &Gate) {
        for session in self.sessions.drain(..) {
            gate.close(&session, Ended::Session).await;
        }
    }

    fn session(
        &mut self,
        gate: &Gate,
        who: Principal,
        scope: &Scope,
        line: &Line,
        greeting: Bytes,
    ) -> Result<Arc<Session>, Refusal> {
        let known = self
            .sessions
            .iter()
            .find(|session| session.greeting == greeting && !session.is_over());
        if let Some(session) = known {
            return Ok(session.clone());
        }
        let session = gate.standing(Opening {
            who,
            scope: scope.clone(),
            greeting,
            transport: "stdio",
            peer: None,
            line: Some(line.clone()),
            era: Era::Modern,
        })?;
        self.sessions.retain(|session| !session.is_over());
        self.sessions.push(session.clone());
        Ok(session)
    }
}
