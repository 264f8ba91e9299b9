//! The way to stderr: a bounded buffer and a thread that empties it.
//!
//! Some hosts start chillgate with a pipe for stderr and never read it. Then a log written where it
//! arises would stop every call once the pipe is full; here it costs log lines, and those are
//! counted.

use std::io::{self, Write};
use std::mem;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use tracing_subscriber::fmt::MakeWriter;

use crate::lock::locked;

/// The most that waits to be written, in bytes.
const CAP: usize = 1 << 20;

/// How long the end waits for the last lines.
const FAREWELL: Duration = Duration::from_secs(1);

/// Where log lines are put.
#[derive(Clone)]
pub(super) struct Sink(Arc<Shared>);

/// Keeps the log going; dropping it writes out what is left, for at most a second.
#[must_use = "the log ends when this is dropped"]
pub struct LogGuard(Arc<Shared>);

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    work: Condvar,
    written: Condvar,
}

#[derive(Default)]
struct State {
    lines: Vec<u8>,
    lost: u64,
    is_writing: bool,
    closing: bool,
}

impl Sink {
    pub(super) fn start(
        to: impl Write + Send + 'static,
        dropped: impl Fn(u64) + Send + 'static,
    ) -> io::Result<(Self, LogGuard)> {
        let shared = Arc::<Shared>::default();
        let own = Arc::clone(&shared);
        thread::Builder::new()
            .name("log".to_owned())
            .spawn(move || own.write_out(to, dropped))?;
        Ok((Self(Arc::clone(&shared)), LogGuard(shared)))
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        locked(&self.state)
    }

    fn write_out(&self, mut to: impl Write, dropped: impl Fn(u64)) {
        let mut lines = Vec::new();
        loop {
            let mut state = self.lock();
            state.is_writing = false;
            self.written.notify_all();
            while state.lines.is_empty() && !state.closing {
                state = self
                    .work
                    .wait(state)
                    .unwrap_or_else(PoisonError::into_inner);
            }
            if state.lines.is_empty() {
                return;
            }
            mem::swap(&mut lines, &mut state.lines);
            let lost = mem::take(&mut state.lost);
            state.is_writing = true;
            drop(state);
            // A closed stderr has no reader to miss anything.
            let _ = to.write_all(&lines).and_then(|()| to.flush());
            lines.clear();
            if lost > 0 {
                dropped(lost);
            }
        }
    }
}

impl<'a> MakeWriter<'a> for Sink {
    type Writer = Self;

    fn make_writer(&'a self) -> Self {
        self.clone()
    }
}

impl Write for Sink {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        let mut state = self.0.lock();
        if state.lines.len() + line.len() > CAP {
            state.lost += 1;
            return Ok(line.len());
        }
        let was_empty = state.lines.is_empty();
        state.lines.extend_from_slice(line);
        drop(state);
        if was_empty {
            self.0.work.notify_one();
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Drop for LogGuard {
    fn drop(&mut self) {
        let mut state = self.0.lock();
        state.closing = true;
        self.0.work.notify_one();
        let waited = self.0.written.wait_timeout_while(state, FAREWELL, |state| {
            state.is_writing || !state.lines.is_empty()
        });
        drop(waited);
    }
}

impl std::fmt::Debug for LogGuard {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("LogGuard")
    }
}
