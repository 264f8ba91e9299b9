//! Places for pipes: one that all share, or the lanes of one host.
//!
//! A slot holds one pipe after another and remembers what became of them. A host that a server may
//! ask in the midst of a call has as many lanes as it has such calls at a time, so that each
//! question has one call it can belong to. Nothing here opens or closes a pipe.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::sync::{Notify, OwnedSemaphorePermit};
use tokio::time::Instant;

use super::backoff::Backoff;
use super::sleep::Asleep;
use crate::backend::pipe::Pipe;
use crate::backend::{BackendError, State};
use crate::client::Caller;
use crate::lock::locked;
use crate::map::Map;

/// A place for one pipe after another.
#[derive(Debug)]
pub(super) struct Slot {
    /// Whose processes these are, where they are one agent's.
    pub(super) agent: Option<Arc<str>>,
    /// What the host has shown whose alone it is.
    pub(super) caller: Option<Caller>,
    pub(super) pipe: Mutex<Option<Arc<Pipe>>>,
    pub(super) opening: tokio::sync::Mutex<Tries>,
    pub(super) trouble: Mutex<Option<String>>,
    /// What it said before it was put to sleep, if it has been.
    pub(super) asleep: Mutex<Option<Arc<Asleep>>>,
    /// Failed starts, also those of other slots that start the same.
    luck: Luck,
    /// Another process is here than before.
    changed: Notify,
    is_looping: AtomicBool,
    /// Nothing is opened here any more. Set while `pipe` is locked.
    is_over: AtomicBool,
    is_leased: AtomicBool,
    /// A place among those that may be there for one request each, until its process is gone.
    _place: Option<OwnedSemaphorePermit>,
    /// How often it has been leased.
    leases: AtomicU64,
}

/// What became of the processes that were here.
#[derive(Debug, Default)]
pub(super) struct Tries {
    /// When the last one was opened, until it is known how long it lived.
    opened: Option<Instant>,
    has_opened: bool,
    /// Those that ended soon after they had been opened.
    crashes: Backoff,
    /// Those that answered in another era.
    unspoken: Backoff,
    /// When the last one that came to nothing did, and as what it was told.
    failed: Option<(Instant, BackendError)>,
}

/// Starts of a server that failed, in whichever slot and era.
#[derive(Debug, Default)]
pub struct Starts(Mutex<Map<Option<Arc<str>>, Luck>>);

/// Starts that failed; clones are the same.
#[derive(Clone, Debug, Default)]
pub(super) struct Luck(Arc<Mutex<Failed>>);

#[derive(Debug, Default)]
struct Failed {
    backoff: Backoff,
    /// Why the last one did.
    trouble: String,
}

/// Agents whose failed starts are remembered before those that are over are forgotten.
const REMEMBERED: usize = 1000;

impl Starts {
    /// Those of one agent, where its processes are started with something of its own.
    pub(super) fn of(&self, agent: Option<&Arc<str>>) -> Luck {
        let mut all = locked(&self.0);
        if all.len() > REMEMBERED {
            all.retain(|_, luck| Arc::strong_count(&luck.0) > 1);
        }
        all.entry(agent.cloned()).or_default().clone()
    }
}

/// Why the next try has to wait.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Wait {
    /// It need not.
    Not,
    /// For so long: the last one failed for this reason.
    Down(Duration, String),
    /// For so long: it has answered that it does not speak this era.
    Unspoken(Duration, String),
}

/// A process that has lived for so long counts as having worked.
const WORKED: Duration = Duration::from_secs(10);

impl Slot {
    pub(super) fn new(agent: Option<Arc<str>>, luck: Luck) -> Self {
        Self {
            agent,
            caller: None,
            pipe: Mutex::default(),
            opening: tokio::sync::Mutex::default(),
            trouble: Mutex::default(),
            asleep: Mutex::default(),
            luck,
            changed: Notify::new(),
            is_looping: AtomicBool::new(false),
            is_over: AtomicBool::new(false),
            _place: None,
            is_leased: AtomicBool::new(false),
            leases: AtomicU64::new(0),
        }
    }

    /// The same for one host alone.
    pub(super) fn of(self, caller: &Caller) -> Self {
        Self {
            caller: Some(caller.clone()),
            ..self
        }
    }

    /// One for a single request, which holds its place until its process is gone.
    pub(super) fn single(agent: Arc<str>, luck: Luck, place: OwnedSemaphorePermit) -> Self {
        Self {
            _place: Some(place),
            ..Self::new(Some(agent), luck)
        }
    }

    /// Nothing is to be opened here from now on; the pipe that is here, to be closed.
    pub(super) fn end(&self) -> Option<Arc<Pipe>> {
        let mut pipe = locked(&self.pipe);
        self.is_over.store(true, Ordering::Relaxed);
        pipe.take()
    }

    pub(super) fn is_over(&self) -> bool {
        let _pipe = locked(&self.pipe);
        self.is_over.load(Ordering::Relaxed)
    }

    pub(super) fn current(&self) -> Option<Arc<Pipe>> {
        locked(&self.pipe)
            .as_ref()
            .filter(|pipe| pipe.is_fit())
            .cloned()
    }

    /// What it said before it was put to sleep, while it is.
    pub(super) fn asleep(&self) -> Option<Arc<Asleep>> {
        locked(&self.asleep).clone()
    }

    /// How long the next try has to wait, and why. A process that ended by itself soon after its
    /// start counts as a failure from then on.
    pub(super) fn wait(&self, tries: &mut Tries) -> Wait {
        let now = Instant::now();
        let fallen = locked(&self.pipe).as_ref().and_then(|pipe| pipe.fallen());
        if let Some((at, why)) = fallen
            && let Some(opened) = tries.opened.take()
        {
            if at.saturating_duration_since(opened) < WORKED {
                tries.crashes.fail(at);
            } else {
                tries.crashes.reset();
            }
            *locked(&self.trouble) = Some(why);
        }
        let luck = locked(&self.luck.0);
        let is_looping = tries.crashes.is_loop() || luck.backoff.is_loop();
        self.is_looping.store(is_looping, Ordering::Relaxed);
        let (crashed, failed) = (tries.crashes.wait(now), luck.backoff.wait(now));
        let unspoken = tries.unspoken.wait(now);
        let trouble = || locked(&self.trouble).clone().unwrap_or_default();
        if unspoken > crashed.max(failed) {
            Wait::Unspoken(unspoken, trouble())
        } else if failed > crashed {
            Wait::Down(failed, luck.trouble.clone())
        } else if crashed > Duration::ZERO {
            Wait::Down(crashed, trouble())
        } else {
            Wait::Not
        }
    }

    /// How it is; nothing is opened for it.
    pub(super) fn state(&self) -> State {
        if self.current().is_some() {
            return State::Ready;
        }
        if self.asleep().is_some() {
            return State::Asleep;
        }
        let fallen = locked(&self.pipe).as_ref().and_then(|pipe| pipe.fallen());
        let trouble = fallen.map(|(_, why)| why);
        let trouble = trouble.or_else(|| locked(&self.trouble).clone());
        match trouble {
            Some(trouble) if self.is_looping.load(Ordering::Relaxed) => State::Looping(trouble),
            Some(trouble) => State::Broken(trouble),
            None if self.opening.try_lock().is_err() => State::Starting,
            None => State::OnDemand,
        }
    }

    /// It could not be started.
    pub(super) fn failed(&self, trouble: &str) {
        *locked(&self.trouble) = Some(trouble.to_owned());
        let mut luck = locked(&self.luck.0);
        luck.backoff.fail(Instant::now());
        trouble.clone_into(&mut luck.trouble);
        if luck.backoff.is_loop() {
            self.is_looping.store(true, Ordering::Relaxed);
        }
    }

    /// It runs, and speaks another era.
    pub(super) fn unspoken(&self, tries: &mut Tries, cause: &str) {
        *locked(&self.trouble) = Some(cause.to_owned());
        tries.unspoken.fail(Instant::now());
        locked(&self.luck.0).backoff.reset();
    }

    /// It is open. Returns false where nobody wants it any more.
    pub(super) fn opened(&self, tries: &mut Tries, pipe: &Arc<Pipe>) -> bool {
        tries.opened = Some(Instant::now());
        tries.has_opened = true;
        {
            let mut here = locked(&self.pipe);
            if self.is_over.load(Ordering::Relaxed) {
                return false;
            }
            *here = Some(pipe.clone());
        }
        *locked(&self.asleep) = None;
        tries.unspoken.reset();
        self.changed.notify_waiters();
        true
    }

    /// It has said what it is.
    pub(super) fn ready(&self) {
        *locked(&self.trouble) = None;
        locked(&self.luck.0).backoff.reset();
    }

    /// Until a process that was here has ended by itself. One that sleeps is there.
    pub(super) async fn until_down(&self) {
        loop {
            let changed = self.changed.notified();
            let pipe = locked(&self.pipe).clone();
            match pipe {
                Some(pipe) if self.asleep().is_none() => {
                    pipe.until_ended().await;
                    if self.asleep().is_none() {
                        return;
                    }
                }
                Some(_) => changed.await,
                None => return,
            }
        }
    }
}

impl Tries {
    /// What the last start has come to, if that was since then.
    pub(super) fn failed_since(&self, then: Instant) -> Option<BackendError> {
        let failed = self.failed.as_ref().filter(|(at, _)| *at > then);
        failed.map(|(_, error)| error.clone())
    }

    /// It has come to nothing.
    pub(super) fn failed(&mut self, error: &BackendError) {
        self.failed = Some((Instant::now(), error.clone()));
    }

    /// Whether there has been a process here before.
    pub(super) fn has_opened(&self) -> bool {
        self.has_opened
    }
}

/// The slots of one session. The first is there for everything; the others for one call each.
#[derive(Debug, Default)]
pub(super) struct Lanes(Vec<Arc<Slot>>);

/// Lanes one session may have, each a running server.
const MOST: usize = 64;

impl Lanes {
    pub(super) fn all(&self) -> &[Arc<Slot>] {
        &self.0
    }

    pub(super) fn first(&mut self, make: &dyn Fn() -> Slot) -> Arc<Slot> {
        if self.0.is_empty() {
            self.0.push(Arc::new(make()));
        }
        self.0[0].clone()
    }

    /// A lane for one call alone, and whether it may go once there are fewer such calls; none where
    /// there are as many as may be.
    pub(super) fn lease(&mut self, make: &dyn Fn() -> Slot) -> Option<(Arc<Slot>, bool)> {
        // In order, so that a host with one call at a time always meets the same server.
        let free = self
            .0
            .iter()
            .find(|slot| !slot.is_leased.swap(true, Ordering::Relaxed));
        let (slot, is_spare) = match free {
            Some(slot) => (slot.clone(), !Arc::ptr_eq(slot, &self.0[0])),
            None if self.0.len() < MOST => {
                let slot = Arc::new(make());
                slot.is_leased.store(true, Ordering::Relaxed);
                self.0.push(slot.clone());
                (slot, self.0.len() > 1)
            }
            None => return None,
        };
        slot.leases.fetch_add(1, Ordering::Relaxed);
        Some((slot, is_spare))
    }
}

impl Slot {
    /// The call is over: the lane is free again. Returns what tells whether it has been in use
    /// since.
    pub(super) fn free(&self) -> u64 {
        self.is_leased.store(false, Ordering::Relaxed);
        self.leases.load(Ordering::Relaxed)
    }

    /// Takes the pipe out if nobody has leased the lane since [`Slot::free`] returned `number`.
    pub(super) fn retire(&self, number: u64) -> Option<Arc<Pipe>> {
        if self.leases.load(Ordering::Relaxed) != number {
            return None;
        }
        locked(&self.pipe).take()
    }
}
