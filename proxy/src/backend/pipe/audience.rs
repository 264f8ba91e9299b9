//! Who hears what a server says on its own.
//!
//! Keeps account of the sessions behind one pipe and those that take its place: who is there, and who
//! subscribed to what. It sends nothing.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, Weak};

use crate::lock::locked;
use crate::map::Map;
use crate::session::Session;

/// The sessions behind one pipe.
#[derive(Debug)]
pub enum Audience {
    /// One session; the server was initialized with that host's own capabilities.
    One(Only),
    /// Everybody who has called; the server was initialized with no capabilities.
    Many(Mutex<Members>),
}

/// The only session behind a pipe.
#[derive(Debug)]
pub struct Only {
    session: Weak<Session>,
    /// What a server that takes this one's place is to be told.
    subscribed: Mutex<HashSet<String>>,
}

/// Resources whose subscription is remembered for one session.
const REMEMBERED: usize = 1000;

impl Only {
    /// The session, while it is there.
    pub fn upgrade(&self) -> Option<Arc<Session>> {
        self.session.upgrade()
    }
}

/// The sessions that share a pipe.
#[derive(Debug, Default)]
pub struct Members {
    sessions: Map<Arc<str>, Weak<Session>>,
    subscribed: HashMap<String, HashSet<Arc<str>>>,
}

impl Audience {
    /// Nobody yet, and room for all.
    pub fn shared() -> Self {
        Self::Many(Mutex::default())
    }

    /// This session alone.
    pub fn only(session: &Arc<Session>) -> Self {
        Self::One(Only {
            session: Arc::downgrade(session),
            subscribed: Mutex::default(),
        })
    }

    /// Whether everybody shares the pipe.
    pub fn is_shared(&self) -> bool {
        matches!(self, Self::Many(_))
    }

    /// The session wants to hear what the server says on its own.
    pub fn join(&self, session: &Arc<Session>) {
        if let Self::Many(members) = self {
            let mut members = locked(members);
            if !members.sessions.contains_key(&session.id) {
                members
                    .sessions
                    .insert(session.id.clone(), Arc::downgrade(session));
            }
        }
    }

    /// The session no longer does.
    pub fn leave(&self, session: &Session) {
        if let Self::Many(members) = self {
            let mut members = locked(members);
            members.sessions.remove(&session.id);
            members.subscribed.retain(|_, who| {
                who.remove(&session.id);
                !who.is_empty()
            });
        }
    }

    /// The session has subscribed to a resource.
    pub fn subscribe(&self, session: &Session, uri: &str) {
        match self {
            Self::One(only) => {
                let mut subscribed = locked(&only.subscribed);
                if subscribed.len() < REMEMBERED {
                    subscribed.insert(uri.to_owned());
                }
            }
            Self::Many(members) => {
                let mut members = locked(members);
                let who = members.subscribed.entry(uri.to_owned());
                who.or_default().insert(session.id.clone());
            }
        }
    }

    /// The session has unsubscribed; whether nobody else is left.
    pub fn unsubscribe(&self, session: &Session, uri: &str) -> bool {
        let members = match self {
            Self::One(only) => {
                locked(&only.subscribed).remove(uri);
                return true;
            }
            Self::Many(members) => members,
        };
        let mut members = locked(members);
        let Some(who) = members.subscribed.get_mut(uri) else {
            return true;
        };
        who.remove(&session.id);
        let nobody = who.is_empty();
        if nobody {
            members.subscribed.remove(uri);
        }
        nobody
    }

    /// The server does not tell of this resource any more.
    pub fn forget(&self, uri: &str) {
        match self {
            Self::One(only) => drop(locked(&only.subscribed).remove(uri)),
            Self::Many(members) => drop(locked(members).subscribed.remove(uri)),
        }
    }

    /// Whether nobody is there any more.
    pub fn is_empty(&self) -> bool {
        self.all().is_empty()
    }

    /// How many resources this session has subscribed to.
    pub fn subscriptions(&self, session: &Session) -> usize {
        match self {
            Self::One(_) => 0,
            Self::Many(members) => {
                let members = locked(members);
                let has = |who: &&HashSet<Arc<str>>| who.contains(&session.id);
                members.subscribed.values().filter(has).count()
            }
        }
    }

    /// The resources that anybody has subscribed to.
    pub fn wanted(&self) -> HashSet<String> {
        match self {
            Self::One(only) => locked(&only.subscribed).clone(),
            Self::Many(members) => locked(members).subscribed.keys().cloned().collect(),
        }
    }

    /// Another process speaks to it from now on: those who are not there any more are forgotten.
    pub fn prune(&self) {
        let Self::Many(members) = self else { return };
        let mut members = locked(members);
        let Members {
            sessions,
            subscribed,
        } = &mut *members;
        sessions.retain(|_, session| session.strong_count() > 0);
        subscribed.retain(|_, who| {
            who.retain(|id| sessions.contains_key(id));
            !who.is_empty()
        });
    }

    /// Everybody who is there.
    pub(super) fn all(&self) -> Vec<Arc<Session>> {
        match self {
            Self::One(session) => session.upgrade().into_iter().collect(),
            Self::Many(members) => locked(members)
                .sessions
                .values()
                .filter_map(Weak::upgrade)
                .collect(),
        }
    }

    /// Those who subscribed to this resource.
    pub(super) fn subscribed(&self, uri: &str) -> Vec<Arc<Session>> {
        let Self::Many(members) = self else {
            return self.all();
        };
        let members = locked(members);
        let who = members.subscribed.get(uri).into_iter().flatten();
        who.filter_map(|id| members.sessions.get(id)?.upgrade())
            .collect()
    }
}
