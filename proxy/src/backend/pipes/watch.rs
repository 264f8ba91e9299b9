//! One process from its opening to its end: whether it still answers, whether anybody uses it, and
//! what follows when it is gone.
//!
//! One task for each pipe. A process that hangs is ended, one that nobody uses sleeps, one that ended
//! by itself is started again where somebody would miss it before the next call. It carries no
//! host's message.

use std::sync::atomic::Ordering;
use std::sync::{Arc, Weak};
use std::time::Duration;

use chillgate_wire::{Era, json};
use tokio::time::{Instant, sleep, timeout};
use tracing::{debug, info, warn};

use super::Pipes;
use super::lease::SPARE;
use super::slot::{Slot, Starts, Wait};
use super::turns::Turns;
use crate::backend::State;
use crate::backend::greeting::{self, META_OF_THE_GATE};
use crate::backend::pipe::Pipe;
use crate::config::Probe;
use crate::lock::locked;
use crate::session::Session;

/// What is looked after in a process that stands behind pipes.
#[derive(Clone, Debug, Default)]
pub struct Care {
    /// How it is found out that it hangs.
    pub probe: Option<Probe>,
    /// After how long without calls it sleeps.
    pub idle: Option<Duration>,
    /// Each agent's processes are started with something of its own.
    pub by_agent: bool,
    /// Starts that failed, of this server in all eras.
    pub starts: Arc<Starts>,
    /// Its processes that start, in all eras.
    pub turns: Arc<Turns>,
}

/// Longest and shortest time between two looks.
const SELDOM: Duration = Duration::from_mins(1);
const OFTEN: Duration = Duration::from_millis(250);

/// What is said first of a process that hangs.
pub(super) const HUNG: &str = "it hung";

/// A process that was asked for tasks may work on one that nobody asks about for a while.
const TASKS: Duration = Duration::from_hours(1);

/// A process that is watched.
struct Watch {
    pipes: Pipes,
    slot: Arc<Slot>,
    pipe: Arc<Pipe>,
    owner: Option<Weak<Session>>,
}

impl Pipes {
    /// Watches a process that has just been opened, until it is gone.
    pub(super) fn watch(&self, slot: &Arc<Slot>, pipe: &Arc<Pipe>, owner: Option<&Arc<Session>>) {
        let watch = Watch {
            pipes: self.clone(),
            slot: slot.clone(),
            pipe: pipe.clone(),
            owner: owner.map(Arc::downgrade),
        };
        self.0.tasks.spawn(async move {
            tokio::select! {
                biased;
                () = watch.pipe.until_ended() => {}
                () = watch.look_after() => watch.pipe.until_ended().await,
            }
            watch.follow().await;
        });
    }

    /// How the server is: as the best of its processes, else as the worst trouble.
    pub(super) fn state_now(&self) -> State {
        let states: Vec<State> = self
            .0
            .places
            .all()
            .iter()
            .map(|slot| slot.state())
            .collect();
        let rank = |state: &State| match state {
            State::Ready => 0,
            State::Asleep => 1,
            State::Starting => 2,
            State::Looping(_) => 3,
            State::Broken(_) => 4,
            State::OnDemand => 5,
        };
        states
            .into_iter()
            .min_by_key(rank)
            .unwrap_or(State::OnDemand)
    }

    /// Whether this slot's process is started again without a call.
    pub(super) fn is_kept_up(&self, slot: &Arc<Slot>) -> bool {
        self.0.is_kept_up.load(Ordering::Relaxed)
            && self
                .0
                .places
                .ahead()
                .is_some_and(|ahead| Arc::ptr_eq(&ahead, slot))
    }

    /// Ends a process that its last session has left, unless another comes soon.
    pub(super) fn end_if_unused(&self, slot: Arc<Slot>) {
        let pipes = self.clone();
        self.0.tasks.spawn(async move {
            tokio::select! {
                () = tokio::time::sleep(SPARE) => {}
                () = pipes.0.stopping.cancelled() => return,
            }
            loop {
                {
                    let _tries = slot.opening.lock().await;
                    let pipe = locked(&slot.pipe).clone();
                    let is_used = pipe.as_ref().is_some_and(|it| !it.audience().is_empty());
                    if is_used || slot.is_over() {
                        return;
                    }
                    if pipe.is_none_or(|pipe| pipe.is_at_rest()) {
                        pipes.0.places.forget(&slot);
                        if let Some(pipe) = slot.end() {
                            pipe.close();
                        }
                        return;
                    }
                }
                // It works on something; whoever wanted that is gone, and it will be done some time.
                tokio::select! {
                    () = tokio::time::sleep(SPARE) => {}
                    () = pipes.0.stopping.cancelled() => return,
                }
            }
        });
    }
}

impl Watch {
    /// Until it sleeps or is given up.
    async fn look_after(&self) {
        let care = &self.pipes.0.care;
        let every = [
            care.probe.as_ref().map(|probe| probe.every),
            care.idle.map(|idle| idle / 4),
        ];
        let Some(every) = every.into_iter().flatten().min() else {
            return std::future::pending().await;
        };
        let every = every.clamp(OFTEN, SELDOM);
        let (mut calls, mut used) = (self.pipe.calls(), Instant::now());
        let (mut heard, mut probed) = (self.pipe.heard(), Instant::now());
        let (mut failures, mut given_up) = (0, self.pipe.given_up());
        loop {
            sleep(every).await;
            if self.pipe.calls() != calls || !self.pipe.is_at_rest() {
                (calls, used) = (self.pipe.calls(), Instant::now());
            }
            if let Some(idle) = care.idle {
                let idle = if self.pipe.has_tasks() {
                    idle.max(TASKS)
                } else {
                    idle
                };
                if used.elapsed() >= idle {
                    if self.pipes.put_to_sleep(&self.slot, &self.pipe).await {
                        return;
                    }
                    used = Instant::now();
                }
            }
            let Some(probe) = &care.probe else { continue };
            if probed.elapsed() < probe.every {
                continue;
            }
            probed = Instant::now();
            if self.pipe.heard() != heard {
                (heard, given_up, failures) = (self.pipe.heard(), self.pipe.given_up(), 0);
                continue;
            }
            // One that works on a call may have no hand free, and the call has its own deadline. But
            // where one call after the other has come to nothing, it does not work.
            let lost = self.pipe.given_up() - given_up;
            if self.pipe.running() > 0 && lost < u64::from(probe.failures) {
                continue;
            }
            if self.answers(probe).await {
                (heard, given_up, failures) = (self.pipe.heard(), self.pipe.given_up(), 0);
                continue;
            }
            failures += 1;
            debug!(server = %self.pipe.server(), failures, "The server did not answer a probe.");
            if failures >= probe.failures {
                let why = format!(
                    "{HUNG}: it did not answer {failures} probes in a row, each within {:.1} s",
                    probe.timeout.as_secs_f64()
                );
                warn!(server = %self.pipe.server(), cause = %why, "The server hangs; ending it.");
                self.pipe.give_up(why);
                return;
            }
        }
    }

    async fn answers(&self, probe: &Probe) -> bool {
        let is_modern = self.pipe.era() == Era::Modern;
        let meta = is_modern.then(|| format!(r#","_meta":{META_OF_THE_GATE}"#));
        let meta = meta.unwrap_or_default();
        let (method, params) = match &probe.tool {
            Some(tool) => {
                let arguments = probe.arguments.clone().unwrap_or_default();
                let arguments = serde_json::Value::Object(arguments);
                let params = format!(
                    r#"{{"name":{},"arguments":{arguments}{meta}}}"#,
                    json::quote(tool)
                );
                ("tools/call", params.into_bytes())
            }
            None if is_modern => ("server/discover", greeting::discover_params()),
            None => ("ping", b"{}".to_vec()),
        };
        // An error is an answer as well: it lives.
        let asking = self.pipe.request_own(method, &params);
        matches!(timeout(probe.timeout, asking).await, Ok(Ok(_)))
    }

    /// It is gone.
    async fn follow(&self) {
        let Some((_, why)) = self.pipe.fallen() else {
            return;
        };
        let is_current = || {
            let now = locked(&self.slot.pipe).clone();
            now.is_some_and(|now| Arc::ptr_eq(&now, &self.pipe))
        };
        if !is_current() {
            return;
        }
        *locked(&self.slot.trouble) = Some(why);
        while self.is_missed() {
            let wait = {
                let mut tries = self.slot.opening.lock().await;
                match self.slot.wait(&mut tries) {
                    Wait::Not => Duration::ZERO,
                    Wait::Down(wait, _) => wait,
                    Wait::Unspoken(..) => return,
                }
            };
            tokio::select! {
                () = sleep(wait) => {}
                () = self.pipes.0.stopping.cancelled() => return,
            }
            if !is_current() || !self.is_missed() {
                return;
            }
            let owner = self.owner.as_ref().and_then(Weak::upgrade);
            info!(server = %self.pipe.server(), "Starting the server again.");
            match self.pipes.open(self.slot.clone(), owner, true).await {
                Ok(_) => return,
                Err(error) => debug!(%error, "It is tried again later."),
            }
        }
    }

    /// Whether somebody would miss it before the next call.
    fn is_missed(&self) -> bool {
        let pipes = &self.pipes.0;
        if pipes.stopping.is_cancelled() || !pipes.places.has(&self.slot) {
            return false;
        }
        let is_owned = match &self.owner {
            Some(owner) => owner.upgrade().is_some_and(|session| !session.is_over()),
            None => true,
        };
        let is_heard = !self.pipe.audience().wanted().is_empty();
        (is_heard && is_owned) || (self.owner.is_none() && self.pipes.is_kept_up(&self.slot))
    }
}
