//! A host's own stream of a session: who reads it now, and what comes next.
//!
//! Apart because it is one reader's, of whom the last counts.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use chillgate_wire::Envelope;

use super::Session;

/// The right to read a session's outbox, until a newer stream takes over.
#[derive(Debug)]
pub struct Listening {
    session: Arc<Session>,
    turn: u64,
}

impl Session {
    /// A stream for messages that belong to no request opens. The newest takes over.
    pub fn listen(self: &Arc<Self>) -> Listening {
        self.listening.store(true, Ordering::Relaxed);
        let turn = self.listeners.fetch_add(1, Ordering::Relaxed) + 1;
        self.outbox.nudge();
        Listening {
            session: self.clone(),
            turn,
        }
    }
}

impl Listening {
    /// The next message; `None` when the session is over or a newer stream has taken over.
    pub async fn next(&self) -> Option<Envelope> {
        loop {
            if self.session.listeners.load(Ordering::Relaxed) != self.turn {
                return None;
            }
            match self.session.outbox.next_or_nudge().await {
                Some(Some(message)) => {
                    self.session.use_now();
                    return Some(message);
                }
                Some(None) => {}
                None => return None,
            }
        }
    }
}

impl Drop for Listening {
    fn drop(&mut self) {
        if self.session.listeners.load(Ordering::Relaxed) == self.turn {
            self.session.listening.store(false, Ordering::Relaxed);
        }
    }
}
