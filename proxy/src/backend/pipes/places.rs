//! Which host gets which slot: isolation, and nothing else.
//!
//! A slot is common to several sessions or one session's own. Nothing here opens a pipe.

use std::sync::{Arc, Mutex, Weak};

use chillgate_wire::Era;
use tokio::sync::OwnedSemaphorePermit;

use super::Care;
use super::slot::{Lanes, Luck, Slot, Starts};
use crate::config::Isolation;
use crate::lock::locked;
use crate::map::Map;
use crate::session::Session;

/// What a slot is common to.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Common {
    /// Everybody.
    All,
    /// The sessions of one agent.
    Agent(Arc<str>),
    /// The sessions that found this one of a pool.
    Nth(usize),
}

/// All slots of one server.
#[derive(Debug)]
pub(super) struct Places {
    isolation: Isolation,
    era: Era,
    /// Each agent's processes get something of its own, so that one may fail where others start.
    by_agent: bool,
    common: Mutex<Map<Common, Arc<Slot>>>,
    own: Mutex<Map<Arc<str>, Lanes>>,
    /// Sessions to their places in a pool.
    seated: Mutex<Map<Arc<str>, usize>>,
    /// Those for one request each, as long as there is anything in them.
    singles: Mutex<Vec<Weak<Slot>>>,
    starts: Arc<Starts>,
}

impl Places {
    pub(super) fn new(isolation: Isolation, era: Era, care: &Care) -> Self {
        Self {
            isolation,
            era,
            by_agent: care.by_agent,
            common: Mutex::default(),
            own: Mutex::default(),
            seated: Mutex::default(),
            singles: Mutex::default(),
            starts: care.starts.clone(),
        }
    }

    /// Whether each request has a process of its own.
    pub(super) fn is_per_request(&self) -> bool {
        self.isolation == Isolation::Request
    }

    /// Whether several agents may meet the same process.
    pub(super) fn is_shared(&self) -> bool {
        matches!(
            self.isolation,
            Isolation::Auto | Isolation::Shared | Isolation::Pool(_)
        )
    }

    /// Hosts that a server may ask something get a pipe of their own, so that its questions
    /// always have one owner.
    pub(super) fn is_own(&self, session: &Session) -> bool {
        match self.isolation {
            Isolation::Shared | Isolation::Pool(_) => false,
            Isolation::Session | Isolation::Request => true,
            // A modern server asks in its answers, and hears with each request who asks.
            Isolation::Auto | Isolation::Agent => self.era == Era::Legacy && session.declared.any(),
        }
    }

    /// The slot of this session.
    pub(super) fn slot(&self, session: &Session) -> Arc<Slot> {
        if self.is_own(session) {
            return self.lanes(session, Lanes::first);
        }
        let agent = &session.agent.name;
        match self.isolation {
            Isolation::Agent => self.common(Common::Agent(agent.clone()), Some(agent)),
            Isolation::Pool(size) => self.common(Common::Nth(self.seat(session, size)), None),
            _ => self.common(Common::All, None),
        }
    }

    /// A lane for one call of this session, and whether it is a spare one; none where there are as
    /// many as may be.
    pub(super) fn lease(&self, session: &Session) -> Option<(Arc<Slot>, bool)> {
        self.lanes(session, Lanes::lease)
    }

    /// A slot for one request alone.
    pub(super) fn single(&self, session: &Session, place: OwnedSemaphorePermit) -> Arc<Slot> {
        let agent = &session.agent.name;
        let slot = Arc::new(Slot::single(agent.clone(), self.luck(agent), place));
        let mut singles = locked(&self.singles);
        singles.retain(|single| single.strong_count() > 0);
        singles.push(Arc::downgrade(&slot));
        slot
    }

    /// The slot that can be opened before anybody calls, if there is one.
    pub(super) fn ahead(&self) -> Option<Arc<Slot>> {
        match self.isolation {
            Isolation::Auto | Isolation::Shared => Some(self.common(Common::All, None)),
            Isolation::Pool(_) => Some(self.common(Common::Nth(0), None)),
            Isolation::Session | Isolation::Agent | Isolation::Request => None,
        }
    }

    /// The slots that several sessions share.
    pub(super) fn all_common(&self) -> Vec<Arc<Slot>> {
        locked(&self.common).values().cloned().collect()
    }

    /// Every slot there is.
    pub(super) fn all(&self) -> Vec<Arc<Slot>> {
        let mut all = self.all_common();
        all.extend(locked(&self.own).values().flat_map(Lanes::all).cloned());
        all
    }

    /// The same with those for one request each.
    pub(super) fn all_and_singles(&self) -> Vec<Arc<Slot>> {
        let mut all = self.all();
        all.extend(locked(&self.singles).iter().filter_map(Weak::upgrade));
        all
    }

    /// Whether a slot is still one of a session or common to some.
    pub(super) fn has(&self, slot: &Arc<Slot>) -> bool {
        let is_it = |other: &Arc<Slot>| Arc::ptr_eq(slot, other);
        locked(&self.common).values().any(is_it)
            || locked(&self.own).values().flat_map(Lanes::all).any(is_it)
    }

    /// The session is over: the slots that were its own, and the one it shared.
    pub(super) fn leave(&self, session: &Session) -> (Lanes, Option<Arc<Slot>>) {
        let own = locked(&self.own).remove(&session.id).unwrap_or_default();
        let common = match self.isolation {
            Isolation::Agent => Some(Common::Agent(session.agent.name.clone())),
            Isolation::Pool(_) => locked(&self.seated).remove(&session.id).map(Common::Nth),
            _ => Some(Common::All),
        };
        let common = common.and_then(|common| locked(&self.common).get(&common).cloned());
        (own, common)
    }

    /// An agent's slot that nobody needs any more.
    pub(super) fn forget(&self, slot: &Arc<Slot>) {
        if self.isolation == Isolation::Agent {
            locked(&self.common).retain(|_, other| !Arc::ptr_eq(slot, other));
        }
    }

    /// Whether a common slot goes with the last session that uses it.
    pub(super) fn is_passing(&self) -> bool {
        self.isolation == Isolation::Agent
    }

    /// Everything a session has of its own, and what is common; nothing is left.
    pub(super) fn clear(&self) -> Vec<Arc<Slot>> {
        let mut all: Vec<_> = locked(&self.common).drain().map(|(_, slot)| slot).collect();
        let own: Vec<_> = locked(&self.own).drain().collect();
        all.extend(own.iter().flat_map(|(_, lanes)| lanes.all()).cloned());
        all.extend(
            locked(&self.singles)
                .drain(..)
                .filter_map(|it| it.upgrade()),
        );
        all
    }

    fn common(&self, common: Common, agent: Option<&Arc<str>>) -> Arc<Slot> {
        if let Some(slot) = locked(&self.common).get(&common) {
            return slot.clone();
        }
        let luck = match agent {
            Some(agent) => self.luck(agent),
            None => self.starts.of(None),
        };
        let slot = Arc::new(Slot::new(agent.cloned(), luck));
        locked(&self.common).insert(common, slot.clone());
        slot
    }

    fn lanes<T>(
        &self,
        session: &Session,
        take: impl FnOnce(&mut Lanes, &dyn Fn() -> Slot) -> T,
    ) -> T {
        let agent = &session.agent.name;
        let make = || Slot::new(Some(agent.clone()), self.luck(agent)).of(&session.caller);
        let mut own = locked(&self.own);
        take(own.entry(session.id.clone()).or_default(), &make)
    }

    /// Where in a pool the session is: at the place with the fewest, from its first request on.
    fn seat(&self, session: &Session, size: usize) -> usize {
        let mut seated = locked(&self.seated);
        if let Some(place) = seated.get(&session.id) {
            return *place;
        }
        let mut taken = vec![0_usize; size];
        for place in seated.values() {
            if let Some(taken) = taken.get_mut(*place) {
                *taken += 1;
            }
        }
        let fewest = taken.iter().enumerate().min_by_key(|(_, taken)| **taken);
        let place = fewest.map_or(0, |(place, _)| place);
        seated.insert(session.id.clone(), place);
        place
    }

    fn luck(&self, agent: &Arc<str>) -> Luck {
        self.starts.of(self.by_agent.then_some(agent))
    }
}
