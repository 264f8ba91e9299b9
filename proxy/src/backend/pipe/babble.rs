//! Servers that write on their standard output what belongs on their standard error.
//!
//! A banner is usual and harmless. A hundred such lines a minute are a logger in the wrong place, or
//! a server that has lost its way: that is remembered and said once. The lines are dropped in any
//! case; nothing is stopped for them, because the calls are answered (ADR 21). Of a server that has
//! not answered its first words it is said once it has: until then they are what is wrong with it.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, OnceLock};
use std::time::Duration;

use tokio::time::Instant;
use tracing::warn;

use super::Pipe;
use super::heard::STRANGE;
use crate::incidents::{Incident, Moment, Phase};
use crate::lock::locked;

/// So many such lines in this time are too many.
const MANY: u32 = 100;
const WINDOW: Duration = Duration::from_mins(1);

/// The lines of a server that were no messages.
#[derive(Debug, Default)]
pub(super) struct Babble {
    lately: Mutex<Option<Lately>>,
    /// A line of the flood, without secrets.
    line: OnceLock<String>,
    is_told: AtomicBool,
}

#[derive(Debug)]
struct Lately {
    since: Instant,
    lines: u32,
    is_over: bool,
}

impl Babble {
    /// One more. Whether it is the one that makes them too many, for the first time.
    fn goes_on(&self) -> bool {
        let now = Instant::now();
        let mut lately = locked(&self.lately);
        let lately = lately.get_or_insert(Lately {
            since: now,
            lines: 0,
            is_over: false,
        });
        if now.duration_since(lately.since) >= WINDOW {
            (lately.since, lately.lines) = (now, 0);
        }
        lately.lines += 1;
        if lately.lines <= MANY || lately.is_over {
            return false;
        }
        lately.is_over = true;
        true
    }
}

impl Pipe {
    /// The server has written a line that is no message.
    pub(super) fn note_stray(&self, line: &[u8]) {
        if self.babble.goes_on() {
            // One of the flood: the first stray line may have been a banner.
            let line = self.origin().masked_head(line, STRANGE);
            let _ = self.babble.line.set(line);
        }
        if self.greeting().is_some() {
            self.tell_babble();
        }
    }

    /// Says it once, where there is something to say. The server has answered its first words.
    pub(super) fn tell_babble(&self) {
        let Some(line) = self.babble.line.get() else {
            return;
        };
        if self.babble.is_told.swap(true, Ordering::Relaxed) {
            return;
        }
        let origin = self.origin();
        let cause = format!(
            "it wrote more than {MANY} lines a minute on its standard output that are no messages of \
             MCP, such as {line:?}"
        );
        let known = self.incidents.note(Incident {
            server: self.server.clone(),
            agent: origin.agent,
            phase: Phase::Run,
            cause: cause.clone(),
            status: None,
            by_gate: false,
            has_served: self.has_served(),
            words: Vec::new(),
            facts: origin.facts,
            at: Moment::now(),
        });
        self.metrics.incident(&self.server, known.label());
        let remedy = known.remedy.as_ref().map(|remedy| remedy.text.as_str());
        warn!(server = %self.server, %cause, incident = known.id, remedy, "The server babbles; its calls go on.");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_hundred_in_a_minute_are_too_many_and_that_is_said_once() {
        let babble = Babble::default();
        assert_eq!((0..MANY).filter(|_| babble.goes_on()).count(), 0);
        tokio::time::advance(WINDOW).await;
        assert_eq!((0..MANY).filter(|_| babble.goes_on()).count(), 0);
        assert!(babble.goes_on());
        tokio::time::advance(WINDOW).await;
        assert_eq!((0..3 * MANY).filter(|_| babble.goes_on()).count(), 0);
    }
}
