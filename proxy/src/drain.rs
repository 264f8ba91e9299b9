//! Stopping in order: first no new work, then what runs may finish, then the rest is told.
//!
//! One value that everybody looks at; it never stops anything itself.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicUsize, Ordering};

use tokio::sync::Notify;

/// Whether and how chillgate is stopping; cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Drain(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    phase: AtomicU8,
    running: AtomicUsize,
    refused: Notify,
    /// Apart from `refused`: many wait for that one, and work ends many times a second.
    idled: Notify,
}

/// What is still let in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Phase {
    Open,
    /// Not ready any more, but what comes is still served: load balancers take a while to hear.
    Lingering,
    /// New work is refused.
    Refusing,
}

/// One piece of work; dropped, it is done.
#[derive(Debug)]
pub struct Work(Drain);

impl Drain {
    /// Announces the end: readiness goes, work is still taken.
    pub fn linger(&self) {
        self.enter(Phase::Lingering);
    }

    /// Takes no more work.
    pub fn refuse(&self) {
        self.enter(Phase::Refusing);
    }

    fn enter(&self, phase: Phase) {
        self.0.phase.fetch_max(phase as u8, Ordering::Relaxed);
        self.0.refused.notify_waiters();
    }

    /// Whether chillgate is stopping at all.
    pub fn is_stopping(&self) -> bool {
        self.0.phase.load(Ordering::Relaxed) > Phase::Open as u8
    }

    /// Whether new work is refused.
    pub fn refuses(&self) -> bool {
        self.0.phase.load(Ordering::Relaxed) >= Phase::Refusing as u8
    }

    /// Resolves when new work is refused. Safe to cancel.
    pub async fn until_refusing(&self) {
        loop {
            let refused = self.0.refused.notified();
            if self.refuses() {
                return;
            }
            refused.await;
        }
    }

    /// A piece of work begins.
    pub fn work(&self) -> Work {
        self.0.running.fetch_add(1, Ordering::Relaxed);
        Work(self.clone())
    }

    /// How much work there is.
    pub fn running(&self) -> usize {
        self.0.running.load(Ordering::Relaxed)
    }

    /// Resolves when no work is left. Safe to cancel.
    pub async fn until_idle(&self) {
        loop {
            let idled = self.0.idled.notified();
            if self.running() == 0 {
                return;
            }
            idled.await;
        }
    }
}

impl Drop for Work {
    fn drop(&mut self) {
        if self.0.0.running.fetch_sub(1, Ordering::Relaxed) == 1 {
            self.0.0.idled.notify_waiters();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn it_waits_for_the_last_piece_of_work() {
        let drain = Drain::default();
        let (one, two) = (drain.work(), drain.work());
        drain.linger();
        assert!(drain.is_stopping() && !drain.refuses());
        drain.refuse();
        drain.until_refusing().await;
        let idle = tokio::spawn({
            let drain = drain.clone();
            async move { drain.until_idle().await }
        });
        tokio::task::yield_now().await;
        drop(one);
        tokio::task::yield_now().await;
        assert!(!idle.is_finished());
        drop(two);
        idle.await.expect("idle");
    }
}
