//! The audit log: records in, lines out, nothing lost in silence.
//!
//! The data path only adds bytes to a buffer; a thread of its own writes them in batches, so that
//! a slow disk slows nobody down. What cannot be written stays in the buffer and is tried again,
//! and meanwhile no further record is taken: the calls they would admit are refused. It neither
//! decides what is recorded nor reads what it wrote.

use std::fmt;
use std::path::PathBuf;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use chillgate_policies::engine::clock::Clock;
use chillgate_policies::engine::record::{AuditDown, AuditSink, Event, Record};

use super::metrics::Metrics;
use crate::lock::locked;

mod line;
mod target;
mod writer;

pub use target::{Destination, OpenError};

use line::Stamp;

/// The most that waits to be written, in bytes.
const CAP: usize = 8 << 20;

/// From here on the writer is woken before its time.
const PLENTY: usize = 192 << 10;

/// The audit log, to be handed to policies as their sink. Dropped, it ends its thread once all is
/// written; [`Audit::flush`] waits for that.
pub struct Audit {
    shared: Arc<Shared>,
    clock: Arc<dyn Clock>,
}

/// What the data path and the writer share.
struct Shared {
    state: Mutex<State>,
    /// Wakes the writer.
    work: Condvar,
    /// Wakes those who wait for the writer.
    written: Condvar,
}

/// Held while one line is written into it, and to take all lines. One thread adds them, so nobody
/// but the writer waits for that.
#[derive(Default)]
struct State {
    lines: Vec<u8>,
    /// Number of the last record taken; the first is 1.
    seq: u64,
    stamp: Stamp,
    /// Bytes the writer took and has not written yet.
    writing: usize,
    /// Number of the last record written.
    done: u64,
    /// Why nothing can be written now.
    down: Option<String>,
    flush: bool,
    reopen: bool,
    closing: bool,
}

impl Audit {
    /// Opens the destination and starts the writer.
    pub fn open(
        to: Destination,
        clock: Arc<dyn Clock>,
        metrics: &Metrics,
    ) -> Result<Arc<Self>, OpenError> {
        let file = to.open()?;
        let counters = metrics.audit(to.label());
        let shared = Arc::new(Shared {
            state: Mutex::default(),
            work: Condvar::new(),
            written: Condvar::new(),
        });
        writer::start(Arc::clone(&shared), to, file, counters)?;
        Ok(Arc::new(Self { shared, clock }))
    }

    /// Opens the file anew by its name, as after logrotate has moved it. Done by the writer; what
    /// was taken before may still go to the old file.
    pub fn reopen(&self) {
        self.shared.lock().reopen = true;
        self.shared.work.notify_one();
    }

    /// Blocks until all records taken so far are written.
    ///
    /// # Errors
    /// When that did not happen in time.
    pub fn flush(&self, within: Duration) -> Result<(), AuditDown> {
        let mut state = self.shared.lock();
        let last = state.seq;
        state.flush = true;
        self.shared.work.notify_one();
        let (state, _) = self
            .shared
            .written
            .wait_timeout_while(state, within, |state| state.done < last)
            .unwrap_or_else(PoisonError::into_inner);
        if state.done >= last {
            return Ok(());
        }
        let left = last - state.done;
        let why = state
            .down
            .as_deref()
            .unwrap_or("the destination does not keep up");
        Err(AuditDown(format!(
            "{left} records are not written yet: {why}"
        )))
    }

    /// Why nothing can be written now, if so: for readiness.
    pub fn trouble(&self) -> Option<String> {
        self.shared.lock().down.clone()
    }
}

impl AuditSink for Audit {
    fn append(&self, record: &Record<'_>) -> Result<(), AuditDown> {
        self.take(|lines| record.write(lines))
    }

    fn note(&self, event: &Event<'_>) -> Result<(), AuditDown> {
        self.take(|lines| event.write(lines))
    }
}

impl Audit {
    /// Takes one line; `write` adds its members.
    fn take(&self, write: impl FnOnce(&mut Vec<u8>)) -> Result<(), AuditDown> {
        let wall = self.clock.wall();
        let mut state = self.shared.lock();
        if let Some(why) = &state.down {
            return Err(AuditDown(why.clone()));
        }
        let before = state.lines.len();
        if before + state.writing >= CAP {
            return Err(AuditDown("8 MiB of records wait to be written".to_owned()));
        }
        state.seq += 1;
        let State {
            lines, stamp, seq, ..
        } = &mut *state;
        stamp.write(lines, *seq, wall);
        line::finish(lines, before, write);
        let after = lines.len();
        drop(state);
        // Once for each batch, not for each record.
        if before == 0 || (before < PLENTY && after >= PLENTY) {
            self.shared.work.notify_one();
        }
        Ok(())
    }
}

impl Drop for Audit {
    fn drop(&mut self) {
        self.shared.lock().closing = true;
        self.shared.work.notify_one();
    }
}

impl fmt::Debug for Audit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Audit").finish_non_exhaustive()
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        locked(&self.state)
    }
}

/// Where the audit log goes, as a person spells it: a path, or `-` for standard output.
impl From<PathBuf> for Destination {
    fn from(path: PathBuf) -> Self {
        if path.as_os_str() == "-" {
            Self::Stdout
        } else {
            Self::File(path)
        }
    }
}

#[cfg(test)]
mod tests;
