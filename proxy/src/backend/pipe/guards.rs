//! What somebody has of a pipe for a while: a place in the queue, the pipe itself, an answer to come.
//!
//! Each is given back by being dropped, however its owner ends. They decide nothing.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use chillgate_wire::{Envelope, Era, message};
use tokio::sync::oneshot;
use tokio::time::Instant;

use super::{DOUBT, Pipe};
use crate::backend::BackendError;
use crate::lock::locked;

/// A request that waits; dropped, it does not any more.
pub(super) struct Waits<'a>(&'a AtomicUsize);

impl<'a> Waits<'a> {
    pub(super) fn new(waiting: &'a AtomicUsize) -> Self {
        waiting.fetch_add(1, Ordering::Relaxed);
        Self(waiting)
    }
}

impl Drop for Waits<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A pipe in somebody's hands; dropped, it is let go of.
#[derive(Debug)]
pub struct Taken(pub(super) Arc<Pipe>);

impl std::ops::Deref for Taken {
    type Target = Arc<Pipe>;
    fn deref(&self) -> &Arc<Pipe> {
        &self.0
    }
}

impl Drop for Taken {
    fn drop(&mut self) {
        self.0.users.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A call beside the one that holds the pipe; dropped, it is over.
#[derive(Debug)]
pub struct Beside(pub(super) Arc<Pipe>);

impl Drop for Beside {
    fn drop(&mut self) {
        self.0.beside.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A place in the pending map; left without an answer, the server is told to stop.
#[derive(Debug)]
pub(super) struct Awaited {
    pub(super) pipe: Arc<Pipe>,
    pub(super) number: u64,
    pub(super) receiver: Option<oneshot::Receiver<Result<Envelope, BackendError>>>,
}

impl Awaited {
    pub(super) async fn answer(mut self) -> Result<Envelope, BackendError> {
        self.wait().await
    }

    /// Safe to cancel; once only.
    pub(super) async fn wait(&mut self) -> Result<Envelope, BackendError> {
        let Some(receiver) = &mut self.receiver else {
            return Err(self.pipe.lost());
        };
        let answer = receiver.await;
        self.receiver = None;
        answer.unwrap_or_else(|_| Err(self.pipe.lost()))
    }
}

impl Drop for Awaited {
    fn drop(&mut self) {
        if self.receiver.is_none() {
            return;
        }
        if let Some(pending) = locked(&self.pipe.pending).remove(&self.number) {
            // A host that has thought better of it says nothing about the server.
            let exchange = pending.exchange.as_ref();
            if exchange.is_some_and(|exchange| exchange.ended().is_none()) {
                self.pipe.given_up.fetch_add(1, Ordering::Relaxed);
            }
            if self.pipe.era == Era::Modern
                && pending
                    .exchange
                    .is_some_and(|exchange| exchange.wants_log())
            {
                *locked(&self.pipe.doubt) = Some(Instant::now() + DOUBT);
            }
            let params = format!(r#"{{"requestId":{}}}"#, self.number);
            let note = message::notification("notifications/cancelled", Some(params.as_bytes()));
            let mut line = note.to_vec();
            line.push(b'\n');
            if self.pipe.line.offer_raw(&line).is_err() {
                self.pipe.metrics.dropped(&self.pipe.server, "cancellation");
            }
        }
    }
}
