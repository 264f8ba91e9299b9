//! Listening to a server of the modern era: one long request in place of what it once said unasked.
//!
//! The server says first what it will tell of, and marks all that it tells with the number of the
//! request (R-082, R-083). Who hears it is the audience's matter. It never asks a second time by
//! itself.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use chillgate_wire::{Envelope, Id, json, meta};
use tokio::sync::oneshot;

use super::{Awaited, Pace, Pipe, message};
use crate::backend::BackendError;
use crate::backend::greeting::META_OF_THE_GATE;
use crate::lock::locked;
use crate::route::listen::LISTEN;

/// Whether the server has said what it will tell of.
#[derive(Debug)]
pub(super) enum Ear {
    Unacknowledged(oneshot::Sender<Envelope>),
    Acknowledged,
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
    pub async fn listen(self: &Arc<Self>, filter: &[u8]) -> Result<Listening, BackendError> {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let (heard, acknowledged) = oneshot::channel();
        let ear = Some(Ear::Unacknowledged(heard));
        let mut end = self.expect(number, None, ear)?;
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
        let request = self.own(raw)?;
        self.line
            .send(&request, &request.edit(), Pace::Gather)
            .await
            .map_err(|_| self.lost())?;
        tokio::select! {
            biased;
            Ok(acknowledged) = acknowledged => Ok(Listening { acknowledged, end }),
            answer = end.wait() => {
                let said = answer?;
                let said = said.error().unwrap_or(b"it ended the subscription at once");
                Err(BackendError::Invalid {
                    server: self.server.clone(),
                    cause: String::from_utf8_lossy(said).into_owned(),
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
        if let Some(Ear::Unacknowledged(heard)) = ear {
            self.ear.store(number, Ordering::Relaxed);
            // Nobody waits for it any more when its listener has just gone.
            let _ = heard.send(note);
        }
    }
}
