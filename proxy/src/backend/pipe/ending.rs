//! How a pipe ends: told to, by itself, or given up; and what those hear who wait for it.
//!
//! Apart because an end comes from four sides and is the same for everybody. It ends no process.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use tokio::time::Instant;

use super::Pipe;
use crate::backend::BackendError;
use crate::lock::locked;

/// How a pipe ended.
#[derive(Debug)]
pub(super) struct End {
    why: String,
    /// How the process ended.
    status: Option<Arc<str>>,
    at: Instant,
    /// Nobody has asked the server to.
    by_itself: bool,
}

impl Pipe {
    /// Whether the server still reads and writes.
    pub fn is_open(&self) -> bool {
        self.end.get().is_none()
    }

    /// The server seems to be another one than was greeted: whoever comes next greets it anew, and
    /// what runs may finish.
    pub fn wear(&self) {
        self.worn.store(true, Ordering::Relaxed);
    }

    /// Whether new requests may take it.
    pub fn is_fit(&self) -> bool {
        self.is_open() && !self.worn.load(Ordering::Relaxed) && !self.line.is_closed()
    }

    /// Closes it if it is worn and nothing runs on it any more.
    pub fn close_if_worn(&self) {
        if self.worn.load(Ordering::Relaxed) && self.running() == 0 {
            self.close();
        }
    }

    /// The server is gone: everybody who waits hears why.
    pub fn finish(&self, why: String) {
        self.finish_as(why, None);
    }

    /// The same, where it is known how its process ended.
    pub fn finish_as(&self, why: String, status: Option<Arc<str>>) {
        let by_itself = !self.was_told.load(Ordering::Relaxed);
        let at = Instant::now();
        let _ = self.end.set(End {
            why,
            status,
            at,
            by_itself,
        });
        self.line.close();
        self.slots.close();
        locked(&self.pending).clear();
        self.ended.notify_waiters();
        if self.process().is_none() {
            self.gone.cancel();
        }
    }

    /// The process that was behind it is gone, with all below it.
    pub fn bury(&self) {
        self.gone.cancel();
    }

    /// Resolves when what takes its place disturbs nobody: at once, unless the process behind it is
    /// on its way out.
    pub async fn until_gone(&self) {
        if !self.is_open() || self.line.is_closed() {
            self.gone.cancelled().await;
        }
    }

    /// Lets no more requests in and closes the server's input, which asks it to end.
    pub fn close(&self) {
        self.was_told.store(true, Ordering::Relaxed);
        self.line.close();
        self.closing.notify_one();
    }

    /// Lets no more requests in: nothing will come back. Whoever comes finds the next server.
    pub fn shut(&self) {
        self.line.close();
    }

    /// The server is of no use any more: everybody who waits hears why, and it is ended.
    pub fn give_up(&self, why: String) {
        self.finish(why);
        self.close();
    }

    /// Resolves when somebody has closed the pipe. For the one task that owns what is behind it.
    pub async fn until_closed(&self) {
        while !self.line.is_closed() {
            self.closing.notified().await;
        }
    }

    /// Why the server is gone, if it is.
    pub fn end(&self) -> Option<&str> {
        self.end.get().map(|end| end.why.as_str())
    }

    /// When and why the server ended by itself, if it did.
    pub fn fallen(&self) -> Option<(Instant, String)> {
        let end = self.end.get().filter(|end| end.by_itself)?;
        Some((end.at, end.why.clone()))
    }

    /// Resolves when the server is gone.
    pub async fn until_ended(&self) {
        loop {
            let ended = self.ended.notified();
            if self.end.get().is_some() {
                return;
            }
            ended.await;
        }
    }

    /// The server is gone, and has not seen the request: it may be put to the next one.
    pub(super) fn unsent(&self) -> BackendError {
        let mut lost = self.lost();
        if let BackendError::Lost { retryable, .. } = &mut lost {
            *retryable = true;
        }
        lost
    }

    pub(super) fn lost(&self) -> BackendError {
        let cause = self
            .end()
            .unwrap_or("it no longer reads its input")
            .to_owned();
        BackendError::Lost {
            server: self.server.clone(),
            cause,
            ended: self.end.get().and_then(|end| end.status.clone()),
            retryable: false,
            known: self
                .incidents
                .current(&self.server, self.origin().agent.as_deref()),
        }
    }
}
