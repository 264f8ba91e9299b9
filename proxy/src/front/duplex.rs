//! A host at the other end of one line that goes both ways: stdio, or HTTP+SSE of 2024-11-05.
//!
//! It sends messages one after another and hears everything on the one way back. Each request runs
//! in a task of its own, so that a slow one never holds up the next. How bytes come and go is its
//! transport's; nothing here reads or frames.

use std::sync::Arc;

use bytes::Bytes;
use chillgate_wire::{Envelope, Era, Id, Kind, Oversized, batch, classify, code, message};
use tracing::debug;

use crate::config::Eras;
use crate::era::host::not_spoken;
use crate::exchange::{Ended, Exchange};
use crate::gate::{Gate, Refusal};
use crate::identity::Principal;
use crate::line::{Line, Pace};
use crate::session::{Opening, Scope, Session};

mod modern;

use modern::Modern;

const NOT_OPEN: &str = "the session is not open: send `initialize` first";

/// What a transport knows of its host.
#[derive(Clone, Debug)]
pub struct Caller {
    /// Who it is; none: whoever is configured for stdio.
    pub who: Option<Principal>,
    /// What it talks to.
    pub scope: Scope,
    /// The transport's name in records.
    pub transport: &'static str,
    /// The address it comes from, when there is one.
    pub peer: Option<String>,
}

/// A host, and its only session from its `initialize` on.
pub struct Host {
    gate: Gate,
    caller: Caller,
    line: Line,
    session: Option<Arc<Session>>,
    eras: Eras,
    modern: Modern,
}

impl Host {
    /// A host that is written to on `line`.
    pub fn new(gate: Gate, caller: Caller, line: Line, eras: Eras) -> Self {
        Self {
            gate,
            caller,
            line,
            session: None,
            eras,
            modern: Modern::new(),
        }
    }

    /// Says that a message was too large to be read.
    pub async fn refuse_oversized(&self, oversized: &Oversized) {
        let most = self.gate.snapshot().wire.message;
        let text = format!(
            "a message may have {most} bytes (`limits.message`); this one had {}",
            oversized.bytes
        );
        let id = oversized.id.as_ref().map(Id::as_bytes);
        self.refuse(id, code::INVALID_REQUEST, &text, None).await;
    }

    /// The same agent with another credential, which counts from here on.
    pub fn shows(&mut self, who: Principal) {
        if let Some(session) = &self.session {
            session.caller.shows(who.token.clone());
        }
        self.caller.who = Some(who);
    }

    /// Who it is: on stdio whoever is configured.
    fn who(&self) -> Principal {
        let who = self.caller.who.clone();
        who.unwrap_or_else(|| self.gate.snapshot().identities.of_stdio())
    }

    /// Takes in one message, or a batch of them.
    pub async fn take(&mut self, raw: Bytes) {
        let limits = self.gate.snapshot().wire;
        if batch::is_batch(&raw) && self.batches() {
            return self.take_batch(raw, &limits).await;
        }
        match Envelope::parse(raw, &limits) {
            Ok(message) => self.hear(message).await,
            Err(fault) => {
                let id = fault.id.as_ref().map(chillgate_wire::Id::as_bytes);
                self.refuse(id, fault.code, &fault.to_string(), None).await;
            }
        }
    }

    /// Whether a batch is read as one: not where the session's revision has none.
    fn batches(&self) -> bool {
        self.session
            .as_ref()
            .is_none_or(|session| session.batches())
    }

    async fn hear(&mut self, message: Envelope) {
        let id = message.id();
        // Nobody but a modern host asks that, whatever it forgot to say.
        let is_discovery = self.session.is_none()
            && self.eras == Eras::Both
            && message.method() == Some("server/discover");
        if is_discovery || classify(&message, None) == Era::Modern {
            let (Kind::Request, Some(id)) = (message.kind(), id) else {
                return;
            };
            let taken = if self.eras == Eras::Both {
                let (gate, scope) = (&self.gate, &self.caller.scope);
                self.modern.take(gate, scope, &self.line, message).await
            } else {
                Err(not_spoken(&message))
            };
            if let Err(refusal) = taken {
                self.refuse_with(&id, &refusal).await;
            }
            return;
        }
        if self.modern.cancel(&message) {
            return;
        }
        if message.kind() != Kind::Request {
            if let Some(session) = &self.session
                && let Err(refusal) = self.gate.hear(session, message).await
            {
                debug!(?refusal, "A notification was not taken.");
            }
            return;
        }
        let Some(id) = id else { return };
        if message.method() == Some("initialize")
            && let Err(refusal) = self.open(&message).await
        {
            return self.refuse_with(&id, &refusal).await;
        }
        let Some(session) = self.session.clone() else {
            return self
                .refuse(Some(id.as_bytes()), code::INVALID_REQUEST, NOT_OPEN, None)
                .await;
        };
        let exchange = Exchange::new(id, session, self.who().grants, 1);
        let (gate, line) = (self.gate.clone(), self.line.clone());
        let is_opening = message.method() == Some("initialize");
        let running = async move {
            if let Some(answer) = gate.handle(exchange, message).await.message {
                // A host that is gone needs no answer.
                let _ = line.send(&answer, &answer.edit(), Pace::Gather).await;
            }
        };
        if is_opening {
            // What follows may rest on it.
            return running.await;
        }
        // Begun before the next line is read, so that a cancellation right behind finds it.
        let mut running = Box::pin(running);
        if futures_util::poll!(&mut running).is_pending() {
            self.gate.tasks().spawn(running);
        }
    }

    /// A second `initialize` begins anew: the session before it ends.
    async fn open(&mut self, message: &Envelope) -> Result<(), Refusal> {
        let params = message.params().unwrap_or(b"{}");
        // One that cannot begin anything ends nothing either.
        if self.session.is_some() {
            Gate::check_greeting(params)?;
        }
        if let Some(before) = self.session.take() {
            self.gate.close(&before, Ended::Session).await;
        }
        let session = self.gate.open(Opening {
            who: self.who(),
            scope: self.caller.scope.clone(),
            greeting: Bytes::copy_from_slice(params),
            transport: self.caller.transport,
            peer: self.caller.peer.clone(),
            line: Some(self.line.clone()),
            era: Era::Legacy,
        })?;
        self.session = Some(session);
        Ok(())
    }

    async fn take_batch(&mut self, raw: Bytes, limits: &chillgate_wire::Limits) {
        let messages = match batch::split(raw, limits) {
            Ok(messages) => messages,
            Err(fault) => {
                return self
                    .refuse(None, fault.code, &fault.to_string(), None)
                    .await;
            }
        };
        let Some(session) = self.session.clone() else {
            return self
                .refuse(None, code::INVALID_REQUEST, NOT_OPEN, None)
                .await;
        };
        let (gate, line) = (self.gate.clone(), self.line.clone());
        let grants = self.who().grants;
        self.gate.tasks().spawn(async move {
            let answers = crate::front::batch::all(&gate, &session, &grants, messages).await;
            if let Some(mut whole) = answers {
                whole.push(b'\n');
                let _ = line.offer_raw(&whole);
            }
        });
    }

    async fn refuse_with(&self, id: &Id, refusal: &Refusal) {
        let (code, text, data) = refusal.words();
        let data = data.map(|data| data.to_string());
        self.refuse(Some(id.as_bytes()), code, &text, data.as_deref())
            .await;
    }

    async fn refuse(&self, id: Option<&[u8]>, code: i64, text: &str, data: Option<&str>) {
        let raw = message::error(id, code, text, data.map(str::as_bytes));
        if let Ok(answer) = crate::route::own(raw) {
            let _ = self.line.send(&answer, &answer.edit(), Pace::Gather).await;
        }
    }

    /// The host has gone: nothing of its runs on.
    pub async fn drop_all(&mut self) {
        if let Some(session) = self.session.take() {
            self.gate.close(&session, Ended::Session).await;
        }
        self.modern.close(&self.gate).await;
    }

    /// The host has closed its end: what runs may finish, then the session ends.
    pub async fn leave(&mut self) {
        self.modern.hang_up(&self.gate).await;
        let deadline = self
            .gate
            .snapshot()
            .config
            .limits
            .drain
            .unwrap_or(crate::config::DRAIN);
        let _ = tokio::time::timeout(deadline, self.gate.drain().until_idle()).await;
        self.drop_all().await;
    }
}
