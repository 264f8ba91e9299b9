//! Pipes that one request has for itself: a lane for a call that its server may ask about, and a
//! process for a request where none is shared.
//!
//! Taken before the request goes out and given back when it is over, however it ends. What goes
//! through them is not known here.

use std::sync::Arc;
use std::time::Duration;

use chillgate_wire::{Envelope, Era};

use super::Pipes;
use super::slot::Slot;
use crate::backend::BackendError;
use crate::backend::pipe::Taken;
use crate::era::rounds;
use crate::session::Session;

impl Pipes {
    /// A modern host hears questions as the outcome of a call, so a call that may lead to some has
    /// a pipe for itself until it is over, however long it waits for its host.
    pub(super) fn lease(
        &self,
        session: &Session,
        request: &Envelope,
    ) -> Result<Option<Lease>, BackendError> {
        let is_asked = session.era() == Era::Modern
            && self.0.terms.era == Era::Legacy
            && session.declared.any()
            && self.0.places.is_own(session)
            && request.method().is_some_and(rounds::may_ask)
            // What it asks about a task names the task, which outlives the call.
            && request.find(&["params", "task"]).is_none();
        if !is_asked {
            return Ok(None);
        }
        let Some((slot, is_spare)) = self.0.places.lease(session) else {
            return Err(BackendError::Busy {
                server: self.0.terms.server.clone(),
                cause: "too many calls of this host run or wait for its answers; answer some first"
                    .to_owned(),
            });
        };
        let pipes = self.clone();
        Ok(Some(Lease {
            pipes,
            slot,
            is_spare,
            is_answered: false,
        }))
    }

    /// A pipe for one request, which ends with it.
    pub(super) async fn single(
        &self,
        session: &Arc<Session>,
    ) -> Result<(Taken, Single), BackendError> {
        let place = self.0.singles.clone().acquire_owned().await;
        let place = place.map_err(|_| self.down("it was taken out of the configuration"))?;
        // From here on what is opened is closed again, also where nobody waits for it any more.
        let single = Single(self.0.places.single(session, place));
        let pipe = self.pipe_in(single.0.clone(), session).await?;
        Ok((pipe, single))
    }
}

/// A lane that one call has for itself; dropped, it is free, and a spare one ends once nobody has
/// needed it for a while.
pub(super) struct Lease {
    pipes: Pipes,
    pub(super) slot: Arc<Slot>,
    is_spare: bool,
    /// The server has answered: what it asks from now on is about the next call.
    pub(super) is_answered: bool,
}

/// So long is a spare lane kept, and the process of an agent that has no session.
pub(super) const SPARE: Duration = Duration::from_mins(1);

/// Processes for one request each that a server may have at a time.
pub(super) const SINGLES: usize = 64;

impl Drop for Lease {
    fn drop(&mut self) {
        let number = self.slot.free();
        // The server may still work on a call that has ended early, and ask about it.
        if !self.is_answered
            && let Some(pipe) = self.slot.current()
        {
            pipe.doubt();
        }
        if !self.is_spare {
            return;
        }
        if !self.is_answered
            && let Some(pipe) = self.slot.retire(number)
        {
            return pipe.close();
        }
        let (slot, pipes) = (self.slot.clone(), self.pipes.clone());
        self.pipes.0.tasks.spawn(async move {
            tokio::select! {
                () = tokio::time::sleep(SPARE) => {}
                () = pipes.0.stopping.cancelled() => {}
            }
            if let Some(pipe) = slot.retire(number) {
                pipe.close();
            }
        });
    }
}

/// A slot for one request; dropped, it is over, and its pipe closed.
pub(super) struct Single(Arc<Slot>);

impl Drop for Single {
    fn drop(&mut self) {
        if let Some(pipe) = self.0.end() {
            pipe.close();
        }
    }
}
