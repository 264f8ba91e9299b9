//! Processes of one server that are asked in different eras, and do not get into each other's way.
//!
//! A port, a lock or a profile that a server takes for itself would fail the second of two that
//! start at the same time, and that would be told of a server that is well. It stands apart because
//! it is the one thing that both eras of a server share while it starts. It starts and ends nothing.

use std::sync::{Arc, Mutex, Weak};

use chillgate_wire::Era;
use tokio::sync::Notify;
use tokio::time::Instant;

use super::opening::FAREWELL;
use crate::backend::SILENCE;
use crate::backend::pipe::Pipe;
use crate::lock::locked;

/// Who starts, in each era.
#[derive(Debug, Default)]
pub struct Turns {
    eras: Mutex<[Starting; 2]>,
    changed: Notify,
}

/// What starts in one era.
#[derive(Debug, Default)]
struct Starting {
    /// One has got ready: from then on it waits for nobody.
    has_worked: bool,
    /// How many start, and since when one does.
    count: usize,
    since: Option<Instant>,
    /// Processes that are not ready yet, or on their way out.
    unready: Vec<Weak<Pipe>>,
}

/// Leave to start one, until it is dropped.
#[derive(Debug)]
pub(super) struct Turn<'a> {
    turns: &'a Turns,
    era: Era,
}

fn both(era: Era) -> (usize, usize) {
    match era {
        Era::Legacy => (0, 1),
        Era::Modern => (1, 0),
    }
}

impl Turns {
    /// Waits while one starts in the other era, but not for one that has been silent for long; and
    /// until what was asked there and is of no use has gone.
    pub(super) async fn take(&self, era: Era) -> Turn<'_> {
        let (own, other) = both(era);
        loop {
            let mut changed = std::pin::pin!(self.changed.notified());
            changed.as_mut().enable();
            let until = {
                let mut eras = locked(&self.eras);
                let is_free = eras[own].has_worked || eras[other].count == 0;
                let until = eras[other].since.map(|since| since + SILENCE);
                let until = until.filter(|until| !is_free && *until > Instant::now());
                let Some(until) = until else {
                    eras[own].begin();
                    break;
                };
                until
            };
            let _ = tokio::time::timeout_at(until, changed).await;
        }
        let turn = Turn { turns: self, era };
        let leaving = {
            let mut eras = locked(&self.eras);
            eras[other].unready.retain(|pipe| pipe.strong_count() > 0);
            if eras[own].has_worked {
                Vec::new()
            } else {
                eras[other].unready.clone()
            }
        };
        let all_gone = async {
            for pipe in leaving.iter().filter_map(Weak::upgrade) {
                pipe.until_gone().await;
            }
        };
        let _ = tokio::time::timeout(FAREWELL, all_gone).await;
        turn
    }

    /// A process has got ready.
    pub(super) fn ready(&self, era: Era, pipe: &Arc<Pipe>) {
        let starting = &mut locked(&self.eras)[both(era).0];
        starting.has_worked = true;
        starting
            .unready
            .retain(|other| other.as_ptr() != Arc::as_ptr(pipe));
    }
}

impl Starting {
    fn begin(&mut self) {
        self.count += 1;
        self.since.get_or_insert_with(Instant::now);
    }

    fn end(&mut self) {
        self.count -= 1;
        if self.count == 0 {
            self.since = None;
        }
    }
}

impl Turn<'_> {
    /// This is the process.
    pub(super) fn is_for(&self, pipe: &Arc<Pipe>) {
        let unready = &mut locked(&self.turns.eras)[both(self.era).0].unready;
        unready.retain(|other| other.strong_count() > 0);
        unready.push(Arc::downgrade(pipe));
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        locked(&self.turns.eras)[both(self.era).0].end();
        self.turns.changed.notify_waiters();
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn who_starts_in_one_era_is_waited_for_in_the_other_unless_it_is_silent() {
        let turns = Turns::default();
        let began = Instant::now();
        let (one, same) = (turns.take(Era::Legacy).await, turns.take(Era::Legacy).await);
        assert_eq!(began.elapsed(), Duration::ZERO, "one era waits for itself");
        let ending = async {
            tokio::time::sleep(Duration::from_secs(2)).await;
            drop((one, same));
        };
        let (other, ()) = tokio::join!(turns.take(Era::Modern), ending);
        assert_eq!(began.elapsed(), Duration::from_secs(2));
        let late = turns.take(Era::Legacy).await;
        assert_eq!(began.elapsed(), Duration::from_secs(2) + SILENCE);
        drop((other, late));
        drop(turns.take(Era::Modern).await);
        assert_eq!(began.elapsed(), Duration::from_secs(2) + SILENCE);
    }
}
