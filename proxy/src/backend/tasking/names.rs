//! The names under which modern hosts know tasks of an older server.
//!
//! They are chillgate's own, because each session may have a server of its own, and two servers may
//! give one id. A name is good for its subject alone, and as long as the session that its task is in.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, Weak};

use crate::lock::locked;
use crate::session::{Session, random_id};

/// So many are known of one server; the oldest go first.
const MOST: usize = 10_000;

#[derive(Debug, Default)]
pub(super) struct Names(Mutex<VecDeque<Named>>);

#[derive(Debug)]
struct Named {
    name: String,
    id: String,
    /// Where it is: hosts that declare other things are in another session.
    session: Weak<Session>,
}

impl Names {
    /// The task is in this session; the name that its host is to know it by.
    pub(super) fn give(&self, id: &str, session: &Arc<Session>) -> String {
        let name = random_id();
        let mut all = locked(&self.0);
        if all.len() >= MOST {
            all.retain(|task| task.session.strong_count() > 0);
            if all.len() >= MOST {
                all.pop_front();
            }
        }
        all.push_back(Named {
            name: name.clone(),
            id: id.to_owned(),
            session: Arc::downgrade(session),
        });
        name
    }

    /// A task of this session's subject: the session that it is in, and the server's own id for it.
    pub(super) fn find(&self, name: &str, session: &Session) -> Option<(Arc<Session>, String)> {
        let all = locked(&self.0);
        let task = all.iter().rev().find(|task| task.name == name)?;
        let owner = task.session.upgrade()?;
        let is_own = owner.subject == session.subject && !owner.is_over();
        is_own.then(|| (owner, task.id.clone()))
    }
}
