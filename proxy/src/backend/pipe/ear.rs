//! Listening to a server of the modern era: one long request in place of what it once said unasked.
//!
//! The server says first what it will tell of, and marks all that it tells with the number of the
//! request (R-082, R-083). Who hears it is the audience's matter. It never asks a second time by
//! itself.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use chillgate_wire::{Envelope, Id, code, json, meta};
use tokio::sync::oneshot;

use super::{Awaited, Pace, Pipe, message};
use crate::backend::greeting::META_OF_THE_GATE;
use crate::lock::locked;
use crate::route::listen::LISTEN;

/// Whether the server has said what it will tell of.
#[derive(Debug)]
pub(super) enum Ear {
    Unacknowledged(oneshot::Sender<Envelope>),
    Acknowledged,
}

/// Why a server is not listened to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unheard {
    /// It knows no such thing, or not with these words.
    Refused,
    /// It is gone, or busy, or silent: it may be another time.
    Lost,
}

/// A server that is listened to; dropped, it is told that nobody listens any more.
#[derive(Debug)]
pub struct Listening {
    /// What it said it would tell of: its `notifications/subscriptions/acknowledged`.
    pub acknowledged: Envelope,
    end: Awaited,
}

impl Listening {
    /// Resolves when the server has ended it.
    pub async fn until_ended(&mut self) {
        let _ = self.end.wait().await;
    }
}

impl Pipe {
    /// Listens to what `filter`, an object, names.
    ///
    /// # Errors
    /// The server does not let itself be listened to, or is gone.
    pub async fn listen(self: &Arc<Self>, filter: &[u8]) -> Result<Listening, Unheard> {
        let lost = |_| Unheard::Lost;
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let (heard, acknowledged) = oneshot::channel();
        let ear = Some(Ear::Unacknowledged(heard));
        let mut end = self.expect(number, None, ear).map_err(lost)?;
        let params = [
            br#"{"notifications":"#,
            filter,
            br#","_meta":"#,
            META_OF_THE_GATE.as_bytes(),
            b"}",
        ];
        let raw = message::request(
            number.to_string().as_bytes(),
            LISTEN,
            Some(&params.concat()),
        );
        // Too long to be said at all, it will be no shorter the next time.
        let request = self.own(raw).map_err(|_| Unheard::Refused)?;
        let edits = request.edit();
        let sent = self.line.send(&request, &edits, Pace::Gather).await;
        sent.map_err(|_| Unheard::Lost)?;
        tokio::select! {
            biased;
            Ok(acknowledged) = acknowledged => Ok(Listening { acknowledged, end }),
            answer = end.wait() => {
                let said = answer.map_err(lost)?;
                let said = said.get(&["error", "code"]).and_then(json::integer);
                Err(match said {
                    Some(code::METHOD_NOT_FOUND | code::INVALID_PARAMS) => Unheard::Refused,
                    _ => Unheard::Lost,
                })
            }
        }
    }

    /// The number of the request that a notification of a modern server belongs to, if that
    /// listens and, but for its very first words, has not been followed by another.
    pub(super) fn ear_of(&self, note: &Envelope) -> Option<u64> {
        let id = note.get(&["params", "_meta", meta::SUBSCRIPTION_ID])?;
        // Some servers write each id as a string.
        let number = match Id::from_lexeme(id)?.as_number() {
            Some(number) => number,
            None => json::text(id)?.parse().ok()?,
        };
        let counts = match locked(&self.pending).get(&number)?.ear.as_ref()? {
            Ear::Unacknowledged(_) => true,
            // What both tell while one takes the other's place is told once.
            Ear::Acknowledged => number == self.ear.load(Ordering::Relaxed),
        };
        counts.then_some(number)
    }

    /// The server says what it will tell of.
    pub(super) fn hear_acknowledged(&self, number: u64, note: Envelope) {
        let mut pending = locked(&self.pending);
        let ear = pending
            .get_mut(&number)
            .and_then(|pending| pending.ear.replace(Ear::Acknowledged));
        // Nobody waits for it any more when its listener has just gone: then the one before counts.
        if let Some(Ear::Unacknowledged(heard)) = ear
            && heard.send(note).is_ok()
        {
            self.ear.store(number, Ordering::Relaxed);
        }
    }
}
