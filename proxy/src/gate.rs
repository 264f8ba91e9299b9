//! **The spine**: the life of a message, top to bottom.
//!
//! ```text
//! front → Gate::handle → who and which era → which server → chain.admit → backend → back
//! ```
//!
//! Fronts hand in bytes that are a checked [`Envelope`]; backends hand back another. Only this
//! file asks policies. It knows no transport and no protocol revision by name.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use chillgate_policies::engine::{Completion, Deadline, Outcome, Pass};
use chillgate_wire::{Envelope, Kind, json, method};
use futures_util::FutureExt;
use tokio_util::task::TaskTracker;
use tracing::{Instrument, debug_span, warn};

use crate::backend::{Backend, BackendError, Passage, State};
use crate::budget::Budget;
use crate::config::Limits;
use crate::drain::Drain;
use crate::era::{self, mirrored};
use crate::exchange::{Ended, Exchange};
use crate::replicas::Replicas;
use crate::route::listen::LISTEN;
use crate::route::{Astray, Route, lists};
use crate::session::{Aside, Full, Opening, Place, Session, Sessions};
use crate::snapshot::{Live, Snapshot};
use crate::telemetry::metrics::{ExchangeMetrics, Metrics};

pub mod handles;
pub mod inbound;
pub mod refusal;
pub mod suspended;

use handles::Handles;
use inbound::Inbound;
pub use refusal::{Answer, Refusal, Spent};
use suspended::Suspended;

/// So long is waited for what the start of a server comes to that a call waits for, beyond the
/// call's own time: both end at the same moment unless somebody has set one of them.
const VERDICT: Duration = Duration::from_secs(1);

/// Everything a front needs; cheap to clone.
#[derive(Clone, Debug)]
pub struct Gate(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    live: Live,
    sessions: Sessions,
    metrics: Arc<Metrics>,
    drain: Drain,
    tasks: TaskTracker,
    budget: Budget,
    streams: AtomicUsize,
    requests: AtomicU64,
    suspended: Suspended,
    handles: Handles,
    replicas: Replicas,
}

impl Gate {
    /// A gate over what is configured now.
    pub fn new(
        live: Live,
        metrics: Arc<Metrics>,
        drain: Drain,
        tasks: TaskTracker,
        budget: Budget,
        replicas: Replicas,
    ) -> Self {
        let sessions = Sessions::new(budget.most(), replicas.clone());
        Self(Arc::new(Inner {
            live,
            sessions,
            metrics,
            drain,
            tasks,
            budget,
            streams: AtomicUsize::new(0),
            requests: AtomicU64::new(0),
            suspended: Suspended::default(),
            handles: Handles::new(replicas.clone()),
            replicas,
        }))
    }

    /// A request and its answer. Owns what it needs: the call may outlive its connection.
    pub fn handle(
        &self,
        exchange: Arc<Exchange>,
        request: Envelope,
    ) -> impl Future<Output = Answer> + Send + use<> {
        // A panic is this exchange's end and nobody else's; the panic hook counts and logs it.
        let name = era::host::remember(&exchange, &request);
        // Boxed, since what is handed to a future takes room in it to the end.
        let relaying = self.clone().relay(exchange.clone(), Box::new(request));
        let relaying = AssertUnwindSafe(relaying);
        relaying.catch_unwind().map(move |outcome| {
            let answer = match outcome.unwrap_or(Err(Refusal::Panic)) {
                Ok(answer) => Answer::of(answer),
                Err(refusal) => refusal.answer(&exchange), // the one table error → JSON-RPC and HTTP
            };
            era::host::express(&exchange, name, answer)
        })
    }

    async fn relay(
        self,
        exchange: Arc<Exchange>,
        request: Box<Envelope>,
    ) -> Result<Envelope, Refusal> {
        let (snapshot, exchange) = (&self.0.live.pin(), &exchange); // one generation, start to end
        let request = era::host::understand(exchange, *request)?;
        let inbound = Inbound::read(exchange, request);
        let (_running, inbound) = self.enter(exchange, inbound, snapshot)?;
        let handles = &self.0.handles;
        let selected = snapshot.routes.select(exchange, inbound, handles).await;
        let route = selected.map_err(|astray| self.turn_away(*astray, snapshot))?;
        if let Err(refusal) = mirrored::check(exchange, &route, &snapshot.access).await {
            return Err(self.turn_away(route.astray(refusal), snapshot));
        }
        if let Err(refusal) = handles.check(exchange, &route) {
            return Err(self.turn_away(route.astray(refusal), snapshot));
        }
        let meter = self.0.metrics.exchange(&route.call.server, route.label);
        let _in_flight = meter.begin();
        let listens = route.label == LISTEN;
        let _aside = match listens.then(|| self.set_aside(exchange)).transpose() {
            Ok(aside) => aside,
            Err(full) => return Err(self.turn_away(route.astray(full), snapshot)),
        };
        let pass = self.admit(exchange, &route, snapshot, &meter).await?;
        let own = exchange.began.elapsed().saturating_sub(pass.delayed());
        // Boxed, so that a call that is held takes no room for it yet.
        let answer = Box::pin(self.carry(exchange, &route, &pass, snapshot)).await;
        let answer = answer.map(|answer| lists::screen(snapshot, exchange, &route, answer));
        let answer = answer.map(|answer| handles.note(exchange, &route, answer));
        let outcome = Self::complete(exchange, &route, pass, &answer);
        meter.done(outcome.as_str(), exchange.began.elapsed(), Some(own));
        answer
    }

    /// Takes the request in: its id is new, the agent has room, chillgate is not stopping.
    fn enter(
        &self,
        exchange: &Arc<Exchange>,
        inbound: Box<Inbound>,
        snapshot: &Arc<Snapshot>,
    ) -> Result<(Running, Box<Inbound>), Refusal> {
        let session = &exchange.session;
        self.0.requests.fetch_add(1, Ordering::Relaxed);
        let entering = || {
            if self.0.drain.refuses() {
                return Err(Refusal::Draining);
            }
            let place = Place::take(&session.agent, snapshot.config.limits.in_flight_per_agent)?;
            session.begin(exchange).map_err(|_| Refusal::IdInUse)?;
            Ok(place)
        };
        match entering() {
            Ok(place) => {
                let work = self.0.drain.work();
                Ok((
                    Running {
                        exchange: exchange.clone(),
                        _place: place,
                        _work: work,
                    },
                    inbound,
                ))
            }
            Err(refusal) => Err(self.turn_away(Astray::new(exchange, *inbound, refusal), snapshot)),
        }
    }

    /// A call that waits, for its host or for news, takes no place among those that run.
    fn set_aside(&self, exchange: &Exchange) -> Result<Aside, Refusal> {
        let most = self.0.live.pin().config.limits.in_flight_per_agent;
        Aside::set(&exchange.session.agent, most).map_err(Refusal::Full)
    }

    /// What no policy is asked about has its record all the same.
    fn turn_away(&self, astray: Astray, snapshot: &Arc<Snapshot>) -> Refusal {
        let Astray {
            call,
            label,
            refusal,
        } = astray;
        self.0
            .metrics
            .refused(&call.server, label, refusal.outcome());
        snapshot.chain.turn_away(call, &refusal.rejection());
        refusal
    }

    /// Asks the policies. Meanwhile the host can cancel, and hears progress while it is held.
    async fn admit(
        &self,
        exchange: &Arc<Exchange>,
        route: &Route,
        snapshot: &Snapshot,
        meter: &ExchangeMetrics,
    ) -> Result<Box<Pass>, Refusal> {
        let mut admission = Box::pin(snapshot.chain.admit(route.call.clone(), &**exchange));
        // Most calls are admitted at the first look, without a timer.
        let verdict = match futures_util::poll!(&mut admission) {
            std::task::Poll::Ready(verdict) => verdict,
            std::task::Poll::Pending => tokio::select! {
                biased;
                verdict = &mut admission => verdict,
                why = exchange.until_ended() => {
                    meter.refused("cancelled");
                    return Err(Refusal::Ended(why));
                }
                () = Box::pin(exchange.report_hold()) => {
                    return Err(Refusal::Ended(Ended::ByHost));
                }
            },
        };
        verdict.map_err(|rejection| {
            meter.refused(refusal::outcome(&rejection));
            Refusal::Policy {
                rejection: Box::new(rejection),
                tool: route.shown.clone(),
            }
        })
    }

    /// Carries the admitted request to its server, within its deadline.
    async fn carry(
        &self,
        exchange: &Arc<Exchange>,
        route: &Route,
        pass: &Pass,
        snapshot: &Snapshot,
    ) -> Result<Envelope, Refusal> {
        let passage = Passage { held: pass.held() };
        let calling = std::pin::pin!(async {
            let mut backend = route.backend.clone();
            loop {
                let mut calling = backend.call(exchange, &route.request, passage);
                let after = tokio::select! {
                    biased;
                    answer = &mut calling => match answer {
                        Err(BackendError::Superseded { .. }) => {
                            drop(calling);
                            // It was never put to that one, and goes to the one configured now.
                            backend = self.successor(&backend)?;
                            continue;
                        }
                        answer => return answer.map_err(Refusal::Server),
                    },
                    why = exchange.until_ended() => return Err(Refusal::Ended(why)),
                    after = exchange.until_overdue(bounds(route, pass, &snapshot.config.limits)) => after,
                };
                // What its start comes to says more than that it took long.
                if backend.state() != State::Ready
                    && let Ok(answer) = tokio::time::timeout(VERDICT, calling).await
                {
                    return answer.map_err(Refusal::Server);
                }
                let (server, state) = (route.call.server.clone(), backend.state());
                let known = (state != State::Ready).then(|| backend.known()).flatten();
                return Err(Refusal::Overdue {
                    server,
                    after,
                    state,
                    known,
                });
            }
        });
        // The conventions of OpenTelemetry for MCP; made only where somebody listens.
        let span = debug_span!(
            "mcp",
            mcp.method.name = &*route.call.method,
            gen_ai.tool.name = route.call.tool(),
            jsonrpc.request.id = %exchange.id,
            mcp.session.id = &*exchange.session.id,
            server = &*route.call.server,
        );
        if span.is_disabled() {
            calling.await
        } else {
            calling.instrument(span).await
        }
    }

    /// The server that has taken the place of this one.
    fn successor(&self, superseded: &Arc<dyn Backend>) -> Result<Arc<dyn Backend>, Refusal> {
        let snapshot = self.0.live.pin();
        let next = snapshot.routes.get(superseded.name());
        let next = next.filter(|next| !Arc::ptr_eq(next, superseded));
        let gone = || Refusal::NoServer(superseded.name().clone());
        next.cloned().ok_or_else(gone)
    }

    /// Every admitted call ends in exactly one outcome, for policies, audit log and metrics alike.
    fn complete(
        exchange: &Exchange,
        route: &Route,
        pass: Box<Pass>,
        answer: &Result<Envelope, Refusal>,
    ) -> Outcome {
        let outcome = match answer {
            _ if exchange.is_unheard() && exchange.session.line().is_none() => Outcome::Undelivered,
            Ok(answer) => outcome_of(answer, route),
            Err(Refusal::Overdue { .. }) => Outcome::Timeout,
            Err(Refusal::Ended(_)) => Outcome::Cancelled,
            Err(Refusal::Server(BackendError::Invalid { .. })) => Outcome::Invalid,
            Err(Refusal::Server(_)) => Outcome::ServerDown,
            Err(_) => Outcome::RpcError(chillgate_wire::code::INTERNAL_ERROR),
        };
        let server = &route.call.server;
        match answer {
            Err(Refusal::Server(error)) => {
                warn!(%server, cause = %error, "A call failed at its server.");
            }
            Err(Refusal::Overdue { after, state, .. }) => {
                let (after, state) = (after.as_secs_f64(), state.word());
                warn!(%server, tool = route.call.tool(), after, state, "A call was not answered in time.");
            }
            _ => {}
        }
        let bytes = answer
            .as_ref()
            .map_or(0, |answer| answer.raw().len() as u64);
        let mut completion = Completion::of(outcome).bytes_out(bytes);
        if let Err(Refusal::Server(error)) = answer {
            completion = completion.cause(error.fate());
        }
        if let (true, Ok(answer)) = (route.is_chill, answer)
            && let Some(levels) = inbound::chill_levels(answer)
        {
            completion = completion.levels(levels);
        }
        pass.complete(completion);
        outcome
    }

    /// A notification or an answer of the host.
    pub async fn hear(&self, session: &Arc<Session>, message: Envelope) -> Result<(), Refusal> {
        let snapshot = self.0.live.pin();
        session.use_now();
        let message = inbound::without_own_keys(&message);
        if matches!(message.kind(), Kind::Response | Kind::Error) {
            if !session.answer(&message).await {
                self.0.metrics.dropped("*", "answer_to_nobody");
            }
            return Ok(());
        }
        match message.method().unwrap_or_default() {
            "notifications/cancelled" => {
                let id = message
                    .get(&["params", "requestId"])
                    .and_then(chillgate_wire::Id::from_lexeme);
                match id.and_then(|id| session.exchange(&id)) {
                    Some(exchange) => exchange.end(Ended::ByHost),
                    None => self.0.metrics.dropped("*", "cancelled_nothing"),
                }
                Ok(())
            }
            "notifications/progress" => {
                if !session.progress(&message).await {
                    self.0.metrics.dropped("*", "progress_for_nobody");
                }
                Ok(())
            }
            _ => {
                for backend in snapshot.routes.of(session)? {
                    if let Err(error) = backend.post(session, message.clone()).await {
                        warn!(server = %backend.name(), %error, "A notification was not taken.");
                    }
                }
                Ok(())
            }
        }
    }

    /// Whether a session can begin with these `params` of an `initialize`.
    pub fn check_greeting(params: &[u8]) -> Result<(), Refusal> {
        if Session::asked_revision(params).is_some() {
            return Ok(());
        }
        Err(Refusal::Answered {
            code: chillgate_wire::code::INVALID_PARAMS,
            message: "`initialize` needs `params.protocolVersion`, such as \"2025-11-25\""
                .to_owned(),
            data: None,
        })
    }

    /// The session of a modern request, which says itself what others say once; opened with the
    /// first of its kind.
    pub fn standing(&self, opening: Opening) -> Result<Arc<Session>, Refusal> {
        match self.0.sessions.standing(&opening) {
            Some(session) => {
                session.caller.shows(opening.who.token);
                Ok(session)
            }
            None => self.open(opening),
        }
    }

    /// Opens a session for a host that says `initialize`.
    pub fn open(&self, opening: Opening) -> Result<Arc<Session>, Refusal> {
        let snapshot = self.0.live.pin();
        let call = opening.call();
        let opened = match Self::check_greeting(&opening.greeting) {
            Ok(()) if self.0.drain.refuses() => Err(Refusal::Draining),
            Ok(()) => {
                let sessions = &self.0.sessions;
                self.make_room_for_one(&snapshot.config.limits);
                sessions
                    .open(opening, &snapshot.config.limits)
                    .map_err(Refusal::Full)
            }
            Err(refusal) => Err(refusal),
        };
        self.0.metrics.sessions(self.0.sessions.len());
        opened.map_err(|refusal| {
            let label = label(&call.method);
            self.turn_away(
                Astray {
                    call,
                    label,
                    refusal,
                },
                &snapshot,
            )
        })
    }

    /// Ends a session, at its servers too.
    pub async fn close(&self, session: &Arc<Session>, why: Ended) {
        if self.0.sessions.remove(&session.id).is_none() {
            return;
        }
        session.close(why);
        self.0.metrics.sessions(self.0.sessions.len());
        self.detach(session).await;
    }

    async fn detach(&self, session: &Arc<Session>) {
        for backend in self.0.live.pin().routes.all() {
            backend.detach(session).await;
        }
    }

    /// Where there is room for no more sessions, one goes that chillgate keeps for hosts which need
    /// none: agents without number keep nobody out.
    fn make_room_for_one(&self, limits: &Limits) {
        if self.0.sessions.len() < limits.sessions {
            return;
        }
        if let Some(spare) = self.0.sessions.take_spare() {
            spare.close(Ended::Session);
            let gate = self.clone();
            self.0.tasks.spawn(async move { gate.detach(&spare).await });
        }
    }

    /// Ends what nobody uses any more, for as long as it runs.
    pub async fn sweep(&self) {
        tokio::join!(self.sweep_sessions(), self.sweep_replays());
    }

    async fn sweep_replays(&self) {
        loop {
            // As long as it may be late.
            const LATE: Duration = Duration::from_secs(5);
            tokio::time::sleep(self.replay().clamp(Duration::from_millis(100), LATE)).await;
            for session in self.0.sessions.all() {
                session.replays.forget(self.replay());
            }
        }
    }

    async fn sweep_sessions(&self) {
        loop {
            const ROUNDS: u32 = 16;
            let idle = self.0.live.pin().config.limits.session_idle;
            tokio::time::sleep((idle / ROUNDS).max(Duration::from_millis(100))).await;
            for session in self.0.sessions.unused(ROUNDS) {
                self.close(&session, Ended::Session).await;
            }
        }
    }

    /// The sessions there are.
    pub fn sessions(&self) -> &Sessions {
        &self.0.sessions
    }

    /// What is configured now.
    pub fn snapshot(&self) -> Arc<Snapshot> {
        self.0.live.pin()
    }

    /// A session stream opens; dropped, it has closed.
    pub fn stream(&self) -> Open {
        let open = self.0.streams.fetch_add(1, Ordering::Relaxed) + 1;
        self.0.metrics.streams("legacy", open);
        Open(self.clone())
    }

    /// How many requests have come so far.
    pub fn requests(&self) -> u64 {
        self.0.requests.load(Ordering::Relaxed)
    }

    /// Whether and how chillgate is stopping.
    pub fn drain(&self) -> &Drain {
        &self.0.drain
    }

    /// Where fronts count.
    pub fn metrics(&self) -> &Arc<Metrics> {
        &self.0.metrics
    }

    /// Ends all that agents have here who are let in no more, for as long as it runs.
    pub async fn turn_out(&self) {
        loop {
            self.0.replicas.until_revoking().await;
            let mut sessions = self.0.sessions.all();
            sessions.retain(|session| self.0.replicas.is_revoked(&session.agent.name));
            for session in sessions {
                self.close(&session, Ended::Session).await;
            }
        }
    }

    /// How long a host can come back for what a stream has carried.
    pub fn replay(&self) -> Duration {
        self.0.live.pin().config.limits.replay
    }

    /// Whose tasks and states are whose.
    pub fn handles(&self) -> &Handles {
        &self.0.handles
    }

    /// Who else there is.
    pub fn replicas(&self) -> &Replicas {
        &self.0.replicas
    }

    /// The bytes that may be held at one time.
    pub fn budget(&self) -> &Budget {
        &self.0.budget
    }

    /// Changes what may be held at one time.
    pub fn set_memory(&self, bytes: usize) {
        self.0.budget.set(bytes);
        self.0.sessions.set_memory(bytes);
    }

    /// Owns what must go on without its host.
    pub fn tasks(&self) -> &TaskTracker {
        &self.0.tasks
    }
}

/// An open session stream, counted while it lives.
#[derive(Debug)]
pub struct Open(Gate);

impl Drop for Open {
    fn drop(&mut self) {
        let inner = &self.0.0;
        let open = inner.streams.fetch_sub(1, Ordering::Relaxed) - 1;
        inner.metrics.streams("legacy", open);
    }
}

/// A request that has been taken in; dropped, its id and place are free again.
struct Running {
    exchange: Arc<Exchange>,
    _place: Place,
    _work: crate::drain::Work,
}

impl Drop for Running {
    fn drop(&mut self) {
        self.exchange.session.finish(&self.exchange);
    }
}

impl From<Full> for Refusal {
    fn from(full: Full) -> Self {
        Self::Full(full)
    }
}

/// How long the call may take: what a policy says, else the gate's own limits.
fn bounds(route: &Route, pass: &Pass, limits: &Limits) -> Deadline {
    if route.label == LISTEN {
        return Deadline::default();
    }
    let Deadline { idle, max } = pass.deadline().unwrap_or_default();
    Deadline {
        idle: idle.or(Some(limits.call_idle)),
        max: max.or(Some(limits.call_max)),
    }
}

fn outcome_of(answer: &Envelope, route: &Route) -> Outcome {
    if let Some(error) = answer.error() {
        let code = json::member(error, "code").and_then(|at| json::integer(&error[at]));
        return Outcome::RpcError(code.unwrap_or(chillgate_wire::code::INTERNAL_ERROR));
    }
    let failed = route.call.tool().is_some()
        && answer
            .get(&["result", "isError"])
            .is_some_and(|said| said == b"true");
    if failed {
        Outcome::ToolError
    } else {
        Outcome::Ok
    }
}

/// The label of a method in metrics: from a closed set.
pub(crate) fn label(name: &str) -> &'static str {
    method::label(name)
}
