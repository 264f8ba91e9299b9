//! The audit log's writer: a thread that takes what has gathered and writes it.
//!
//! A thread, so that a write that blocks blocks nobody else. It tries again for as long as it
//! lives; whoever would add a record meanwhile is told that the log is down.

use std::fs::File;
use std::io::{self, Write};
use std::mem;
use std::sync::{Arc, PoisonError};
use std::thread;
use std::time::Duration;

use tracing::{error, info, warn};

use super::Shared;
use super::target::Destination;
use crate::telemetry::metrics::AuditMetrics;

/// How long records gather before they are written.
const GATHER: Duration = Duration::from_millis(50);

/// The pause between attempts while writing fails.
const RETRY: Duration = Duration::from_millis(200);

/// A buffer that grew beyond this in a burst is given back.
const SPARE: usize = 256 << 10;

pub(super) fn start(
    shared: Arc<Shared>,
    to: Destination,
    file: File,
    metrics: AuditMetrics,
) -> io::Result<()> {
    let writer = Writer {
        shared,
        to,
        file,
        metrics,
    };
    thread::Builder::new()
        .name("audit".to_owned())
        .spawn(move || writer.run())
        .map(drop)
}

struct Writer {
    shared: Arc<Shared>,
    to: Destination,
    file: File,
    metrics: AuditMetrics,
}

/// Lines taken over for writing.
struct Batch {
    lines: Vec<u8>,
    first: u64,
    last: u64,
}

impl Writer {
    fn run(mut self) {
        let mut spare = Vec::new();
        while let Some(mut batch) = self.take(spare) {
            let mut written = 0;
            while let Err(failure) = self.write(&batch.lines, &mut written) {
                if !self.wait_out(&failure) {
                    let left = batch.last + 1 - batch.first;
                    error!(records = left, cause = %failure,
                        "Leaving with audit records unwritten.");
                    return;
                }
            }
            self.finish(&batch);
            batch.lines.clear();
            batch.lines.shrink_to(SPARE);
            spare = batch.lines;
        }
    }

    /// Waits for records and lets some more gather. None: all is written and no more will come.
    fn take(&mut self, spare: Vec<u8>) -> Option<Batch> {
        let mut state = self.shared.lock();
        loop {
            if mem::take(&mut state.reopen) {
                drop(state);
                self.reopen();
                state = self.shared.lock();
            }
            if !state.lines.is_empty() {
                break;
            }
            if state.closing {
                return None;
            }
            state.flush = false;
            state = self
                .shared
                .work
                .wait(state)
                .unwrap_or_else(PoisonError::into_inner);
        }
        let (mut state, _) = self
            .shared
            .work
            .wait_timeout_while(state, GATHER, |state| {
                !state.flush && !state.closing && !state.reopen && state.lines.len() < super::PLENTY
            })
            .unwrap_or_else(PoisonError::into_inner);
        state.flush = false;
        let lines = mem::replace(&mut state.lines, spare);
        state.writing = lines.len();
        Some(Batch {
            lines,
            first: state.done + 1,
            last: state.seq,
        })
    }

    /// Goes on where the last attempt ended, so that a line broken by a full disk is completed.
    fn write(&mut self, lines: &[u8], written: &mut usize) -> io::Result<()> {
        while let Some(rest) = lines.get(*written..).filter(|rest| !rest.is_empty()) {
            match self.file.write(rest) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(count) => *written += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => {
                    // A line begun in a file that is then replaced begins again in the new one.
                    if self.turn_over() {
                        *written = line_start(lines, *written);
                    }
                    return Err(error);
                }
            }
        }
        Ok(())
    }

    /// Takes up a request to reopen; true when another file is open now.
    fn turn_over(&mut self) -> bool {
        let wanted = mem::take(&mut self.shared.lock().reopen);
        wanted && self.reopen()
    }

    fn reopen(&mut self) -> bool {
        if !self.to.has_moved(&self.file) {
            return false;
        }
        match self.to.open() {
            Ok(file) => {
                self.file = file;
                info!(file = self.to.name(), "Opened the audit log anew.");
                true
            }
            Err(cause) => {
                warn!(%cause, "Cannot open the audit log anew; going on with the old file.");
                false
            }
        }
    }

    /// Tells everybody, and waits until the next attempt. False when there shall be none.
    fn wait_out(&self, failure: &io::Error) -> bool {
        self.metrics.failed();
        let mut state = self.shared.lock();
        if state.down.is_none() {
            error!(to = self.to.name(), cause = %failure,
                "The audit log cannot be written; calls that need it are refused until it can.");
        }
        state.down = Some(format!("{}: {failure}", self.to.name()));
        if state.closing {
            return false;
        }
        let (state, _) = self
            .shared
            .work
            .wait_timeout_while(state, RETRY, |state| !state.closing && !state.reopen)
            .unwrap_or_else(PoisonError::into_inner);
        drop(state);
        true
    }

    fn finish(&self, batch: &Batch) {
        self.metrics.written(batch.last + 1 - batch.first);
        let mut state = self.shared.lock();
        if state.down.take().is_some() {
            info!(
                to = self.to.name(),
                "The audit log can be written again; nothing was lost."
            );
        }
        state.writing = 0;
        state.done = batch.last;
        drop(state);
        self.shared.written.notify_all();
    }
}

/// Where the line begins that `at` is in.
fn line_start(lines: &[u8], at: usize) -> usize {
    let before = lines.get(..at).unwrap_or_default();
    memchr::memrchr(b'\n', before).map_or(0, |newline| newline + 1)
}
