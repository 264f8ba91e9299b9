//! The thread of the memory: it looks and writes, so that nobody on the data path has to.
//!
//! At most one write a second, and one at the end. It alone touches the disk; what it writes is
//! what others have put down in [`Shared`].

use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender};
use std::time::{Duration, Instant};

use tracing::warn;

use super::Shared;
use super::book::Event;
use super::environment::Environment;
use super::file::{Kept, Place};
use super::moment::Moment;
use crate::clock;
use crate::config::remedy::Check;
use crate::lock::locked;
use crate::supervisor::Launch;

/// The least time between two writes.
const PAUSE: Duration = Duration::from_secs(1);
/// The same where the last one failed.
const TROUBLE: Duration = Duration::from_secs(30);

/// What the thread is asked to do.
pub(super) enum Job {
    /// Something was put down.
    Write,
    /// Look at what failed.
    Look {
        id: String,
        check: Check,
        launch: Launch,
    },
    /// A server is well again.
    Recovered(Recovered),
    /// Write now, and say so.
    Flush(Sender<()>),
}

/// A good start, and the patterns it puts an end to, each with its count of failures then.
pub(super) struct Recovered {
    pub(super) at: Moment,
    pub(super) launch: Launch,
    pub(super) environment: Environment,
    pub(super) patterns: Vec<(String, u64)>,
}

/// Works until everybody who could ask has gone.
pub(super) fn work(
    shared: &Arc<Shared>,
    place: Option<&Place>,
    fresh: &Kept,
    jobs: &Receiver<Job>,
) {
    // Compiled here, so that the first failure does not keep anybody waiting.
    super::remedies::prepare();
    super::fingerprint::prepare();
    let mut due: Option<Instant> = None;
    let mut next = clock::real();
    loop {
        let job = match due {
            None => jobs.recv().map_err(|_| RecvTimeoutError::Disconnected),
            Some(at) => jobs.recv_timeout(at.saturating_duration_since(clock::real())),
        };
        let mut store = || match write(shared, place, fresh) {
            Ok(()) => {
                next = clock::real() + PAUSE;
                None
            }
            Err(error) => {
                let folder = place.map(|place| place.folder().display().to_string());
                warn!(folder, %error, "The memory of incidents cannot be written; it is tried again.");
                next = clock::real() + TROUBLE;
                Some(next)
            }
        };
        match job {
            Ok(Job::Write) => due = due.or(Some(next)),
            Ok(Job::Look { id, check, launch }) => {
                let failed = check.run(&launch).is_err();
                shared.put_down(vec![Event::Checked { id, failed }]);
                due = due.or(Some(next));
            }
            Ok(Job::Recovered(recovered)) => {
                recover(shared, recovered);
                due = due.or(Some(next));
            }
            Ok(Job::Flush(done)) => {
                if due.is_some() {
                    due = store();
                }
                let _ = done.send(());
            }
            Err(RecvTimeoutError::Timeout) => due = store(),
            Err(RecvTimeoutError::Disconnected) => {
                if due.is_some() {
                    store();
                }
                return;
            }
        }
    }
}

/// What has changed since each failure decides whether its remedy has worked.
fn recover(shared: &Shared, recovered: Recovered) {
    let known = |id: &str| locked(&shared.state).book.patterns.get(id).cloned();
    let mut events = Vec::new();
    for (id, attempts) in recovered.patterns {
        let Some(pattern) = known(&id).filter(|pattern| pattern.attempts == attempts) else {
            continue;
        };
        let mut changed = recovered.environment.changes_since(&pattern.environment);
        if let Some(check) = pattern.check.filter(|_| pattern.check_failed)
            && check.run_beside(&recovered.launch).is_ok()
        {
            changed.push(format!("what `{}` looks at", check.kind()));
        }
        let at = recovered.at;
        events.push(Event::Recovered { id, at, changed });
    }
    shared.put_down(events);
}

fn write(shared: &Shared, place: Option<&Place>, fresh: &Kept) -> std::io::Result<()> {
    let Some(place) = place else { return Ok(()) };
    let (events, last) = {
        let state = locked(&shared.state);
        let events: Vec<Event> = state
            .pending
            .iter()
            .map(|(_, event)| event.clone())
            .collect();
        (events, state.pending.back().map(|(number, _)| *number))
    };
    let kept = place.change(fresh, |book| {
        for event in &events {
            book.apply(event);
        }
    })?;
    let mut state = locked(&shared.state);
    if let Some(last) = last {
        state.pending.retain(|(number, _)| *number > last);
    }
    // What others have seen is known here from now on.
    let mut book = kept.book;
    for (_, event) in &state.pending {
        book.apply(event);
    }
    state.book = book;
    Ok(())
}
