//! A server whose era nobody has named: each host is spoken for in its own era where the server
//! speaks it, else in the other.
//!
//! What a server speaks is found out with the first host of each era and kept (eras, b.1): not by
//! one error code, not by a short silence, and each try with a server of its own, because some
//! servers stay in the era of the first message they hear. A session stays in the era that it began
//! in. It carries nothing itself.

use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use chillgate_wire::{Envelope, Era, Kind, code, json};
use tokio::time::Instant;
use tokio_util::task::TaskTracker;
use tracing::info;

use crate::backend::greeting::Greeting;
use crate::backend::{Attended, Backend, BackendError, ChildState, Passage, SILENCE, State};
use crate::exchange::Exchange;
use crate::incidents::Recognised;
use crate::lock::locked;
use crate::map::Map;
use crate::session::Session;

/// A server in both eras.
#[derive(Clone, Debug)]
pub struct Either(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    legacy: Arc<dyn Backend>,
    modern: Arc<dyn Backend>,
    sort: Sort,
    legacy_known: Known,
    modern_known: Known,
    /// The era that each session began in.
    began: Mutex<Map<Arc<str>, Era>>,
    /// Whoever finds out first does it for all; when that last came to nothing.
    finding: tokio::sync::Mutex<Option<(Instant, BackendError)>>,
    /// Which was tried first the last time it was started ahead.
    last_warmed_legacy: AtomicBool,
    tasks: TaskTracker,
}

/// What is behind it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sort {
    /// Processes, as many as it takes.
    Children,
    /// One process for all hosts, so it is spoken to in one era: the older, if it can.
    One,
    /// A server somewhere else, which may be another one after a while.
    Remote,
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

    fn note(&self, said: u8) {
        self.said.store(said, Ordering::Relaxed);
        *locked(&self.since) = Some(Instant::now());
    }

    /// Whether it was found long ago that the server does not.
    fn is_stale(&self) -> bool {
        self.get() == NO && locked(&self.since).is_some_and(|since| since.elapsed() > AGAIN)
    }
}

/// After so long a remote server is asked again.
const AGAIN: Duration = Duration::from_mins(10);
/// After so long, where finding out came to nothing.
const SOON: Duration = Duration::from_mins(1);

impl Either {
    /// The server in both eras.
    pub fn new(
        legacy: Arc<dyn Backend>,
        modern: Arc<dyn Backend>,
        sort: Sort,
        tasks: TaskTracker,
    ) -> Self {
        Self(Arc::new(Inner {
            legacy,
            modern,
            sort,
            legacy_known: Known::default(),
            modern_known: Known::default(),
            began: Mutex::default(),
            finding: tokio::sync::Mutex::default(),
            last_warmed_legacy: AtomicBool::new(false),
            tasks,
        }))
    }

    /// The eras in the order in which they are tried for this session; found out first if need be.
    async fn order(&self, session: &Arc<Session>) -> Result<[Era; 2], BackendError> {
        if self.0.must_find(session) {
            // Not in the caller's hands: what one gives up on the others still wait for.
            let (inner, own) = (self.0.clone(), session.clone());
            let asked = Instant::now();
            let finding = self
                .0
                .tasks
                .spawn(async move { inner.find(&own, asked).await });
            if let Ok(Err(error)) = finding.await {
                return Err(error);
            }
        }
        Ok(self.0.order(session))
    }
}

impl Inner {
    fn of(&self, era: Era) -> (&Arc<dyn Backend>, &Known) {
        match era {
            Era::Legacy => (&self.legacy, &self.legacy_known),
            Era::Modern => (&self.modern, &self.modern_known),
        }
    }

    fn order(&self, session: &Session) -> [Era; 2] {
        const LEGACY: [Era; 2] = [Era::Legacy, Era::Modern];
        const MODERN: [Era; 2] = [Era::Modern, Era::Legacy];
        let wanted = match (locked(&self.began).get(&session.id), self.sort) {
            (Some(era), _) => *era,
            (None, Sort::One) => Era::Legacy,
            (None, Sort::Children | Sort::Remote) => session.era(),
        };
        match (wanted, self.of(wanted).1.get()) {
            (Era::Legacy, NO) => MODERN,
            (Era::Modern, said) if said != NO => MODERN,
            _ => LEGACY,
        }
    }

    /// Whether the modern era is to be tried before anything else can be said.
    fn must_find(&self, session: &Session) -> bool {
        let is_remote = self.sort == Sort::Remote && session.era() == Era::Modern;
        if is_remote && self.modern_known.is_stale() {
            self.modern_known.note(UNKNOWN);
            locked(&self.began).remove(&session.id);
        }
        self.modern_known.get() == UNKNOWN && self.order(session)[0] == Era::Modern
    }

    /// Finds out whether the server is modern.
    ///
    /// # Errors
    /// It could not be had in either era, since this was asked: asking once more would come to the
    /// same.
    async fn find(&self, session: &Arc<Session>, asked: Instant) -> Result<(), BackendError> {
        let mut failed = self.finding.lock().await;
        if self.modern_known.get() != UNKNOWN {
            return Ok(());
        }
        if let Some((at, error)) = &*failed {
            if *at > asked {
                return Err(error.clone());
            }
            if at.elapsed() < SOON {
                return Ok(());
            }
        }
        let mut asking = self.modern.attend(session);
        let said = tokio::time::timeout(SILENCE, &mut asking).await;
        let said = if let Ok(said) = said {
            Some(said)
        } else {
            // Whichever speaks first: a late answer is an answer.
            let mut other = self.legacy.attend(session);
            tokio::select! {
                biased;
                said = &mut asking => Some(said),
                said = &mut other => match said {
                    Ok(_) => None,
                    Err(_) => Some(asking.await),
                },
            }
        };
        // Of a process that is silent, or leaves, nothing else is to be expected; what is somewhere
        // else may only be down.
        let is_no = match &said {
            Some(Ok(_)) => {
                self.settle(Era::Modern, YES).await;
                return Ok(());
            }
            Some(Err(BackendError::Unspoken { .. })) => true,
            Some(Err(BackendError::Caller { .. })) => false,
            Some(Err(_)) | None => self.sort != Sort::Remote,
        };
        if let Some(Err(error @ BackendError::Caller { .. })) = said {
            // This host's alone: the next one finds out.
            return Err(error);
        }
        let error = if is_no {
            match self.legacy.attend(session).await {
                Ok(_) => {
                    self.settle(Era::Modern, NO).await;
                    self.settle(Era::Legacy, YES).await;
                    return Ok(());
                }
                Err(error) => error,
            }
        } else {
            match said {
                Some(Err(error)) => error,
                _ => return Ok(()),
            }
        };
        *failed = Some((Instant::now(), error.clone()));
        // What is somewhere else is asked by the call itself, which may find it in the older era.
        if is_no { Err(error) } else { Ok(()) }
    }

    async fn settle(&self, era: Era, said: u8) {
        let (backend, known) = self.of(era);
        if known.get() == said {
            return;
        }
        known.note(said);
        let speaks = said == YES;
        info!(server = %self.legacy.name(), era = era.as_str(), speaks, "Found out what it speaks.");
        if !speaks {
            // What was started to be asked is of no more use.
            backend.rest().await;
        }
    }

    fn state(&self) -> State {
        let (legacy, modern) = (self.legacy.state(), self.modern.state());
        // What it does not speak says nothing about it.
        match (legacy, modern) {
            (legacy, _) if self.modern_known.get() == NO => legacy,
            (_, modern) if self.legacy_known.get() == NO => modern,
            (State::Ready, _) | (_, State::Ready) => State::Ready,
            (State::Asleep, _) | (_, State::Asleep) => State::Asleep,
            (State::Starting, _) | (_, State::Starting) => State::Starting,
            (State::OnDemand, modern) => modern,
            (legacy, _) => legacy,
        }
    }

    fn begin(&self, session: &Session, era: Era) {
        let mut began = locked(&self.began);
        if !began.contains_key(&session.id) {
            began.insert(session.id.clone(), era);
        }
    }
}

/// What a server's answer says about the era that it was asked in.
enum Verdict {
    /// Nothing: it answered, or it is down.
    None,
    /// It cannot be reached in this era, or not now; nothing was carried out.
    Elsewhere,
    /// It does not speak it.
    Unspoken,
}

fn verdict(request: &Envelope, answer: &Result<Envelope, BackendError>) -> Verdict {
    match answer {
        Err(BackendError::Unspoken { .. }) => Verdict::Unspoken,
        Err(BackendError::Down { .. }) => Verdict::Elsewhere,
        // A host's own `initialize` is answered by the server itself.
        Ok(answer) if request.method() == Some("initialize") && answer.kind() == Kind::Error => {
            let said = answer.get(&["error", "code"]).and_then(json::integer);
            if said == Some(code::UNSUPPORTED_PROTOCOL_VERSION) {
                Verdict::Unspoken
            } else {
                Verdict::Elsewhere
            }
        }
        // No handshake can settle on a revision that has none.
        Ok(answer)
            if request.method() == Some("initialize")
                && answer.result().is_some()
                && Greeting::read(answer).is_err() =>
        {
            Verdict::Unspoken
        }
        _ => Verdict::None,
    }
}

#[async_trait]
impl Backend for Either {
    fn name(&self) -> &Arc<str> {
        self.0.legacy.name()
    }

    async fn call(
        &self,
        exchange: &Arc<Exchange>,
        request: &Envelope,
        passage: Passage,
    ) -> Result<Envelope, BackendError> {
        let (inner, session) = (&*self.0, &exchange.session);
        let order = self.order(session).await?;
        let (first, known) = inner.of(order[0]);
        let answer = first.call(exchange, request, passage).await;
        let is_unspoken = match verdict(request, &answer) {
            Verdict::None => {
                if answer.is_ok() {
                    inner.begin(session, order[0]);
                    inner.settle(order[0], YES).await;
                }
                return answer;
            }
            Verdict::Elsewhere if known.get() == YES => return answer,
            Verdict::Elsewhere => false,
            Verdict::Unspoken => true,
        };
        let (second, _) = inner.of(order[1]);
        let other = second.call(exchange, request, passage).await;
        if other.is_err() || !matches!(verdict(request, &other), Verdict::None) {
            // The first refusal is the one that suits the host.
            return answer;
        }
        if is_unspoken {
            inner.settle(order[0], NO).await;
        }
        inner.settle(order[1], YES).await;
        inner.begin(session, order[1]);
        other
    }

    async fn attend(&self, session: &Arc<Session>) -> Result<Attended, BackendError> {
        let order = self.order(session).await?;
        let (first, known) = self.0.of(order[0]);
        let refusal = match first.attend(session).await {
            Err(error @ BackendError::Unspoken { .. }) => error,
            Err(error @ BackendError::Down { .. }) if known.get() != YES => error,
            attended => return attended,
        };
        let other = self.0.of(order[1]).0.attend(session).await;
        let Ok(attended) = other else {
            return Err(refusal);
        };
        if matches!(refusal, BackendError::Unspoken { .. }) {
            self.0.settle(order[0], NO).await;
        }
        self.0.settle(order[1], YES).await;
        Ok(attended)
    }

    async fn post(&self, session: &Arc<Session>, note: Envelope) -> Result<(), BackendError> {
        let suiting = self.0.of(self.0.order(session)[0]).0;
        suiting.post(session, note).await
    }

    async fn detach(&self, session: &Arc<Session>) {
        locked(&self.0.began).remove(&session.id);
        self.0.legacy.detach(session).await;
        self.0.modern.detach(session).await;
    }

    async fn warm(&self) {
        // Most servers are of the older era, and none of them minds this.
        let modern = async {
            let mut pause = Duration::from_secs(1);
            loop {
                self.0.modern.warm().await;
                if self.0.sort != Sort::Remote || self.0.modern.state() == State::Ready {
                    return;
                }
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(SOON);
            }
        };
        if self.0.sort == Sort::Remote {
            // Asking costs nothing there, and a modern server hears nothing of the other era.
            self.0.modern.warm().await;
            if self.0.modern.state() == State::Ready {
                return self.0.settle(Era::Modern, YES).await;
            }
            // It goes on until it is answered, which a server of the other era may never do.
            tokio::select! {
                biased;
                () = self.0.legacy.warm() => {}
                () = modern => {}
            }
        } else if self.0.last_warmed_legacy.fetch_xor(true, Ordering::Relaxed) {
            // Each round begins with the other: what one try costs is taken from the next.
            modern.await;
            if self.0.modern.state() != State::Ready {
                self.0.legacy.warm().await;
            }
        } else {
            self.0.legacy.warm().await;
            if self.0.legacy.state() != State::Ready {
                modern.await;
            }
        }
        if self.0.legacy.state() != State::Ready && self.0.modern.state() == State::Ready {
            self.0.settle(Era::Modern, YES).await;
        }
    }

    fn state(&self) -> State {
        self.0.state()
    }

    fn children(&self) -> Vec<ChildState> {
        let mut all = self.0.legacy.children();
        all.extend(self.0.modern.children());
        all
    }

    fn asleep(&self) -> usize {
        self.0.legacy.asleep() + self.0.modern.asleep()
    }

    fn instructions(&self) -> Option<String> {
        let legacy = self.0.legacy.instructions();
        legacy.or_else(|| self.0.modern.instructions())
    }

    async fn sleep(&self) {
        tokio::join!(self.0.legacy.sleep(), self.0.modern.sleep());
    }

    fn supersede(&self) {
        self.0.legacy.supersede();
        self.0.modern.supersede();
    }

    fn known(&self) -> Option<Arc<Recognised>> {
        self.0.legacy.known()
    }

    async fn stop(&self) {
        tokio::join!(self.0.legacy.stop(), self.0.modern.stop());
    }
}
