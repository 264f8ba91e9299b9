//! Probes and metrics over plain HTTP, on a thread of their own.
//!
//! A data path that hangs must not take the answer to "does it hang" with it, and a scrape must
//! not slow a call down. So this listener has its own thread and runtime, reads what others left
//! for it, and changes nothing.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use tokio::sync::oneshot;

use crate::clock;

mod answer;
pub mod ask;
mod connections;
pub mod endpoint;

pub use answer::{Readiness, ServerState, State};

/// A data path that did not tick for so long does not live.
const STALE: Duration = Duration::from_secs(10);

/// How often a data path should tick.
pub const TICK: Duration = Duration::from_millis(500);

/// The pulse of one data path; clones are the same pulse.
#[derive(Clone, Debug)]
pub struct Heartbeat {
    origin: Instant,
    millis: Arc<AtomicU64>,
}

impl Default for Heartbeat {
    fn default() -> Self {
        Self {
            origin: clock::real(),
            millis: Arc::default(),
        }
    }
}

impl Heartbeat {
    /// Says that the data path runs. The making of a pulse counts as its first beat.
    pub fn beat(&self) {
        let since = clock::real()
            .saturating_duration_since(self.origin)
            .as_millis();
        self.millis
            .store(u64::try_from(since).unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    /// Beats until dropped, every [`TICK`], on the runtime of the data path.
    pub async fn keep_beating(self) {
        loop {
            self.beat();
            tokio::time::sleep(TICK).await;
        }
    }

    /// Whether the last beat, seen from `now`, is no older than `span`.
    pub fn is_beating(&self, now: Instant, span: Duration) -> bool {
        self.age(now) <= span
    }

    /// Time since the last beat, seen from `now`.
    fn age(&self, now: Instant) -> Duration {
        let last = Duration::from_millis(self.millis.load(Ordering::Relaxed));
        now.saturating_duration_since(self.origin)
            .saturating_sub(last)
    }
}

/// What is asked when somebody probes. Called on the health thread: must not wait for anything.
pub struct Sources {
    /// One pulse for each data path; all must beat.
    pub pulses: Vec<Heartbeat>,
    /// Whether the start is over: fronts listen, built-in servers answer.
    pub started: Box<dyn Fn() -> bool + Send + Sync>,
    /// Whether calls should come here, and how each server is.
    pub readiness: Box<dyn Fn() -> Readiness + Send + Sync>,
    /// The metrics in Prometheus' text format.
    pub metrics: Box<dyn Fn() -> String + Send + Sync>,
}

impl Sources {
    fn is_alive(&self, now: Instant) -> bool {
        self.pulses.iter().all(|pulse| pulse.age(now) < STALE)
    }
}

/// Something to bind.
#[derive(Debug)]
pub struct Health;

/// An address that is bound and not served yet: connections wait.
#[derive(Debug)]
pub struct Bound {
    listener: TcpListener,
    address: SocketAddr,
}

/// A listener at work; dropping it ends the thread.
#[derive(Debug)]
pub struct Serving {
    address: SocketAddr,
    _stop: oneshot::Sender<()>,
}

impl Health {
    /// Takes the address, so that a port in use is told before anything starts.
    pub fn bind(address: SocketAddr) -> io::Result<Bound> {
        let listener = TcpListener::bind(address)?;
        listener.set_nonblocking(true)?;
        let address = listener.local_addr()?;
        Ok(Bound { listener, address })
    }
}

impl Bound {
    /// Where it listens; the real port where 0 was asked for.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Answers from now on, on a thread of its own.
    pub fn serve(self, sources: Sources) -> io::Result<Serving> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        let (stop, stopped) = oneshot::channel();
        let Self { listener, address } = self;
        thread::Builder::new()
            .name("health".to_owned())
            .spawn(move || {
                let serving = connections::serve(listener, Arc::new(sources), stopped);
                if let Err(cause) = runtime.block_on(serving) {
                    tracing::error!(%address, %cause, "The health listener ended.");
                }
            })?;
        Ok(Serving {
            address,
            _stop: stop,
        })
    }
}

impl Serving {
    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }
}

#[cfg(test)]
mod tests;
