//! A server whose era nobody has named: each host is spoken for in its own era where the server
//! speaks it, else in the other.
//!
//! What a server speaks is found out with the first host of each era and kept (eras, b.1): not by
//! one error code, not by a short silence, and each try with a server of its own, because some
//! servers stay in the era of the first message they hear. It carries nothing itself.

use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use chillgate_wire::{Envelope, Era, Kind};
use tokio::time::Instant;
use tracing::info;

use crate::backend::{Attended, Backend, BackendError, Passage, State};
use crate::exchange::Exchange;
use crate::lock::locked;
use crate::session::Session;

/// A server in both eras.
#[derive(Debug)]
pub struct Either {
    legacy: Arc<dyn Backend>,
    modern: Arc<dyn Backend>,
    sort: Sort,
    legacy_known: Known,
    modern_known: Known,
    /// Whoever finds out first does it for all.
    finding: tokio::sync::Mutex<()>,
}

/// Whether the server speaks an era: not known, yes, no.
#[derive(Debug, Default)]
struct Known {
    said: AtomicU8,
    since: Mutex<Option<Instant>>,
}

const UNKNOWN: u8 = 0;
const YES: u8 = 1;
const NO: u8 = 2;

impl Known {
    fn get(&self) -> u8 {
        self.said.load(Ordering::Relaxed)
    }

    fn note(&self, speaks: bool) {
        let said = if speaks { YES } else { NO };
        self.said.store(said, Ordering::Relaxed);
        *locked(&self.since) = Some(Instant::now());
    }

    /// Whether it was found long ago that the server does not.
    fn is_stale(&self) -> bool {
        self.get() == NO && locked(&self.since).is_some_and(|since| since.elapsed() > AGAIN)
    }
}

/// A server somewhere else may be another one after a while.
const AGAIN: Duration = Duration::from_mins(10);
/// How long a server that is asked whether it is modern may be silent before it is tried in the
/// other era as well. It is still listened to: slow starters take longer.
const SILENCE: Duration = Duration::from_secs(5);

/// What is behind it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sort {
    /// Processes, as many as it takes.
    Children,
    /// One process for all hosts, so it is spoken to in one era: the older, if it can.
    One,
    /// A server somewhere else.
    Remote,
}

impl Either {
    /// The server in both eras.
    pub fn new(legacy: Arc<dyn Backend>, modern: Arc<dyn Backend>, sort: Sort) -> Self {
        Self {
            legacy,
            modern,
            sort,
            legacy_known: Known::default(),
            modern_known: Known::default(),
            finding: tokio::sync::Mutex::default(),
        }
    }

    fn of(&self, era: Era) -> (&Arc<dyn Backend>, &Known) {
        match era {
            Era::Legacy => (&self.legacy, &self.legacy_known),
            Era::Modern => (&self.modern, &self.modern_known),
        }
    }

    /// The eras in the order in which they suit the host.
    fn order(&self, host: Era) -> [Era; 2] {
        let wanted = match self.sort {
            Sort::One => Era::Legacy,
            Sort::Children | Sort::Remote => host,
        };
        let other = match wanted {
            Era::Legacy => Era::Modern,
            Era::Modern => Era::Legacy,
        };
        if self.of(wanted).1.get() == NO {
            [other, wanted]
        } else {
            [wanted, other]
        }
    }

    /// Whether the modern era is to be tried before anything else can be said.
    fn must_find(&self, host: Era) -> bool {
        if self.sort == Sort::Remote && host == Era::Modern && self.modern_known.is_stale() {
            self.modern_known.said.store(UNKNOWN, Ordering::Relaxed);
        }
        self.order(host)[0] == Era::Modern && self.modern_known.get() == UNKNOWN
    }

    /// Finds out whether the server is modern.
    async fn find(&self, session: &Arc<Session>) {
        let _turn = self.finding.lock().await;
        if self.modern_known.get() != UNKNOWN {
            return;
        }
        let mut asking = self.modern.attend(session);
        let said = tokio::time::timeout(SILENCE, &mut asking).await;
        let is_modern = if let Ok(said) = said {
            said.is_ok()
        } else {
            // Whichever speaks first: a late answer is an answer.
            let mut other = self.legacy.attend(session);
            tokio::select! {
                biased;
                said = &mut asking => said.is_ok(),
                said = &mut other => said.is_err() && asking.await.is_ok(),
            }
        };
        if is_modern {
            self.settle(Era::Modern, true);
        } else if self.legacy.attend(session).await.is_ok() {
            self.settle(Era::Modern, false);
            self.settle(Era::Legacy, true);
        }
        // Where neither answers nothing is known: it may only be down.
    }

    fn settle(&self, era: Era, speaks: bool) {
        let known = self.of(era).1;
        if known.get() != if speaks { YES } else { NO } {
            known.note(speaks);
            info!(server = %self.name(), era = era.as_str(), speaks, "Found out what it speaks.");
        }
    }

    /// The server in the era that suits this host, as far as is known.
    fn suiting(&self, session: &Session) -> &Arc<dyn Backend> {
        self.of(self.order(session.era())[0]).0
    }
}

/// Whether a server has refused to begin in this era.
fn is_unspoken(request: &Envelope, answer: &Result<Envelope, BackendError>) -> bool {
    match answer {
        Err(BackendError::Unspoken { .. }) => true,
        // A host's own `initialize` is answered by the server itself.
        Ok(answer) => request.method() == Some("initialize") && answer.kind() == Kind::Error,
        Err(_) => false,
    }
}

#[async_trait]
impl Backend for Either {
    fn name(&self) -> &Arc<str> {
        self.legacy.name()
    }

    async fn call(
        &self,
        exchange: &Arc<Exchange>,
        request: &Envelope,
        passage: Passage,
    ) -> Result<Envelope, BackendError> {
        let session = &exchange.session;
        if self.must_find(session.era()) {
            self.find(session).await;
        }
        let order = self.order(session.era());
        let (first, known) = self.of(order[0]);
        let answer = first.call(exchange, request, passage).await;
        if !is_unspoken(request, &answer) {
            if known.get() == UNKNOWN && answer.is_ok() {
                self.settle(order[0], true);
            }
            return answer;
        }
        let (second, _) = self.of(order[1]);
        let other = second.call(exchange, request, passage).await;
        if other.is_err() || is_unspoken(request, &other) {
            // The first refusal is the one that suits the host.
            return answer;
        }
        self.settle(order[0], false);
        self.settle(order[1], true);
        other
    }

    async fn attend(&self, session: &Arc<Session>) -> Result<Attended, BackendError> {
        if self.must_find(session.era()) {
            self.find(session).await;
        }
        let order = self.order(session.era());
        match self.of(order[0]).0.attend(session).await {
            Err(BackendError::Unspoken { .. }) => {
                let attended = self.of(order[1]).0.attend(session).await?;
                self.settle(order[0], false);
                self.settle(order[1], true);
                Ok(attended)
            }
            attended => attended,
        }
    }

    async fn post(&self, session: &Arc<Session>, note: Envelope) -> Result<(), BackendError> {
        self.suiting(session).post(session, note).await
    }

    async fn detach(&self, session: &Arc<Session>) {
        self.legacy.detach(session).await;
        self.modern.detach(session).await;
    }

    async fn warm(&self) {
        // Most servers are of the older era, and none of them minds this.
        self.legacy.warm().await;
        if self.legacy.state() == State::OnDemand {
            self.modern.warm().await;
            if self.modern.state() == State::Ready {
                self.settle(Era::Modern, true);
                self.settle(Era::Legacy, false);
            }
        }
    }

    fn state(&self) -> State {
        let (legacy, modern) = (self.legacy.state(), self.modern.state());
        // What it does not speak says nothing about it.
        match (legacy, modern) {
            (legacy, _) if self.modern_known.get() == NO => legacy,
            (_, modern) if self.legacy_known.get() == NO => modern,
            (State::Ready, _) | (_, State::Ready) => State::Ready,
            (State::Starting, _) | (_, State::Starting) => State::Starting,
            (State::OnDemand, modern) => modern,
            (legacy, _) => legacy,
        }
    }

    fn instructions(&self) -> Option<String> {
        self.legacy
            .instructions()
            .or_else(|| self.modern.instructions())
    }

    async fn stop(&self) {
        tokio::join!(self.legacy.stop(), self.modern.stop());
    }
}
