//! All sessions there are, whose they are, and how many an agent may have.
//!
//! The only place where a session is found by its id, and only by its own subject. It never looks
//! into one.

use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use chillgate_wire::Era;

use super::replay::Memory;
use super::{Opening, Session, Standing};
use crate::config::Limits;
use crate::lock::locked;
use crate::map::Map;
use crate::replicas::Replicas;

/// How many ids of sessions that are gone may be kept.
const STALE: usize = 1024;

/// An agent's own counters, shared by its sessions.
#[derive(Debug)]
pub struct Agent {
    /// The agent's name.
    pub name: Arc<str>,
    in_flight: AtomicUsize,
    /// Those of `in_flight` that wait for their host, which has other things to do meanwhile.
    waiting: AtomicUsize,
    sessions: AtomicUsize,
}

/// All sessions of this process.
#[derive(Debug)]
pub struct Sessions {
    by_id: Mutex<Map<Arc<str>, Arc<Session>>>,
    agents: Mutex<HashMap<Arc<str>, Arc<Agent>>>,
    standing: Mutex<HashMap<Arc<Standing>, Arc<Session>>>,
    /// The ids of those, in the order in which they are looked at when one has to go.
    order: Mutex<VecDeque<Arc<str>>>,
    /// For what hosts may come back for.
    replays: Memory,
    /// Who else may keep sessions.
    replicas: Replicas,
}

/// Why a session or a request was not let in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Full {
    /// As many sessions as `limits.sessions` allows.
    Sessions,
    /// As many sessions of this agent as `limits.sessions-per-agent` allows.
    AgentSessions,
    /// As many requests of this agent as `limits.in-flight-per-agent` allows.
    InFlight,
}

impl Sessions {
    /// No session yet, and so many bytes of memory as `limits.memory` says.
    pub fn new(memory: usize, replicas: Replicas) -> Self {
        Self {
            by_id: Mutex::default(),
            agents: Mutex::default(),
            standing: Mutex::default(),
            order: Mutex::default(),
            replays: Memory::new(memory),
            replicas,
        }
    }

    /// `limits.memory` has changed.
    pub fn set_memory(&self, memory: usize) {
        self.replays.set(memory);
    }

    /// The open session for all modern requests that say the same of themselves.
    pub fn standing(&self, opening: &Opening) -> Option<Arc<Session>> {
        locked(&self.standing).get(&Standing::of(opening)).cloned()
    }

    /// Opens a session; a modern one is found again by what it says.
    pub fn open(&self, opening: Opening, limits: &Limits) -> Result<Arc<Session>, Full> {
        let standing = (opening.era == Era::Modern).then(|| Arc::new(Standing::of(&opening)));
        // Held until it is there, so that two who come at once come together.
        let mut alike = standing.as_ref().map(|_| locked(&self.standing));
        if let (Some(alike), Some(standing)) = (&alike, &standing)
            && let Some(session) = alike.get(standing)
        {
            return Ok(session.clone());
        }
        let agent = self.agent(&opening.who.agent);
        let mut sessions = locked(&self.by_id);
        if sessions.len() >= limits.sessions {
            return Err(Full::Sessions);
        }
        if agent.sessions.load(Ordering::Relaxed) >= limits.sessions_per_agent {
            return Err(Full::AgentSessions);
        }
        agent.sessions.fetch_add(1, Ordering::Relaxed);
        let session = {
            let (replays, replicas) = (&self.replays, &self.replicas);
            Session::new(opening, agent, limits, replays, replicas, standing.clone())
        };
        sessions.insert(session.id.clone(), session.clone());
        drop(sessions);
        if let (Some(alike), Some(standing)) = (&mut alike, standing) {
            alike.insert(standing, session.clone());
            self.note_order(&session.id);
        }
        Ok(session)
    }

    /// An agent's counters; agents without sessions are forgotten as new ones come.
    pub fn agent(&self, name: &Arc<str>) -> Arc<Agent> {
        let mut agents = locked(&self.agents);
        if let Some(agent) = agents.get(name) {
            return agent.clone();
        }
        if agents.len() >= 10_000 {
            agents.retain(|_, agent| Arc::strong_count(agent) > 1);
        }
        let agent = Arc::new(Agent {
            name: name.clone(),
            in_flight: AtomicUsize::new(0),
            waiting: AtomicUsize::new(0),
            sessions: AtomicUsize::new(0),
        });
        agents.insert(name.clone(), agent.clone());
        agent
    }

    /// The session with this id, if it is this subject's; somebody else's does not exist.
    pub fn find(&self, id: &str, subject: &str) -> Option<Arc<Session>> {
        locked(&self.by_id)
            .get(id)
            .filter(|session| *session.subject == *subject)
            .cloned()
    }

    /// Takes a session out; whoever gets it detaches it from its servers.
    pub fn remove(&self, id: &str) -> Option<Arc<Session>> {
        let session = locked(&self.by_id).remove(id)?;
        session.agent.sessions.fetch_sub(1, Ordering::Relaxed);
        if let Some(standing) = &session.standing {
            locked(&self.standing).remove(standing);
        }
        Some(session)
    }

    fn note_order(&self, id: &Arc<str>) {
        let mut order = locked(&self.order);
        order.push_back(id.clone());
        let sessions = locked(&self.by_id);
        // Most go by themselves, and leave their ids here.
        if order.len() > 2 * sessions.len() + STALE {
            order.retain(|id| sessions.contains_key(id));
        }
    }

    /// Takes out a session that no host has opened and that nobody uses at the moment, for another to
    /// have its room: chillgate opens it again for whoever comes back. Not one that was used since it
    /// was last looked at, where there are others.
    pub fn take_spare(&self) -> Option<Arc<Session>> {
        let mut order = locked(&self.order);
        // Twice round: those that were used since the last look are passed over once.
        for _ in 0..2 * order.len() {
            let id = order.pop_front()?;
            let Some(session) = locked(&self.by_id).get(&id).cloned() else {
                continue;
            };
            let was_used = session.unused.fetch_max(1, Ordering::Relaxed) == 0;
            if was_used || session.is_used() {
                order.push_back(id);
                continue;
            }
            drop(order);
            return self.remove(&id);
        }
        None
    }

    /// All sessions, as of now.
    pub fn all(&self) -> Vec<Arc<Session>> {
        locked(&self.by_id).values().cloned().collect()
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        locked(&self.by_id).len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// One more round: the sessions that nobody has used for more than `rounds` of them.
    pub fn unused(&self, rounds: u32) -> Vec<Arc<Session>> {
        let mut sessions = self.all();
        sessions.retain(|session| {
            if session.is_used() {
                session.use_now();
                return false;
            }
            session.unused.fetch_add(1, Ordering::Relaxed) >= rounds
        });
        sessions
    }
}

/// One request of an agent in flight; dropped, the place is free again.
#[derive(Debug)]
pub struct Place(Arc<Agent>);

impl Place {
    /// Takes a place if fewer than `most` are taken.
    pub fn take(agent: &Arc<Agent>, most: usize) -> Result<Self, Full> {
        let taken = agent.in_flight.fetch_add(1, Ordering::Relaxed);
        if taken.saturating_sub(agent.waiting.load(Ordering::Relaxed)) >= most {
            agent.in_flight.fetch_sub(1, Ordering::Relaxed);
            return Err(Full::InFlight);
        }
        Ok(Self(agent.clone()))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.in_flight.fetch_sub(1, Ordering::Relaxed);
    }
}

/// One call of an agent that waits for its host and takes no place meanwhile.
#[derive(Debug)]
pub struct Aside(Arc<Agent>);

/// How many calls of an agent may wait for its hosts, for each that may be in flight.
const WAITING: usize = 4;

impl Aside {
    /// How many may be set aside where `most` may be in flight.
    pub fn most(most: usize) -> usize {
        most.saturating_mul(WAITING)
    }

    /// Sets a call aside if not too many are already, where `most` may be in flight.
    pub fn set(agent: &Arc<Agent>, most: usize) -> Result<Self, Full> {
        if agent.waiting.fetch_add(1, Ordering::Relaxed) >= Self::most(most) {
            agent.waiting.fetch_sub(1, Ordering::Relaxed);
            return Err(Full::InFlight);
        }
        Ok(Self(agent.clone()))
    }
}

impl Drop for Aside {
    fn drop(&mut self) {
        self.0.waiting.fetch_sub(1, Ordering::Relaxed);
    }
}
