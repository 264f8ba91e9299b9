//! What chillgate's own log says about each server while the doctor looks at it.
//!
//! The log knows what no answer tells: the process, and what it wrote to stderr. It is kept here
//! instead of being printed, within bounds.

use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::sync::{Arc, Mutex};

use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::filter::LevelFilter;
use tracing_subscriber::layer::{Context, SubscriberExt as _};

use crate::lock::locked;

/// How many lines of stderr are kept of each server, the last ones.
const LINES: usize = 8;

/// All that is heard, by server; clones hear the same.
#[derive(Clone, Debug, Default)]
pub(super) struct Overheard(Arc<Mutex<BTreeMap<String, Heard>>>);

/// What is heard of one server.
#[derive(Clone, Debug, Default)]
pub(super) struct Heard {
    /// The keeper of its latest process.
    pub(super) pid: Option<u32>,
    /// How many processes of it were started.
    pub(super) starts: u64,
    /// How many lines they wrote to stderr.
    pub(super) count: u64,
    /// The last of them, each once: one that is started twice says the same again.
    pub(super) lines: VecDeque<String>,
}

impl Overheard {
    /// Listens from now on, in place of any log.
    pub(super) fn listen() -> Self {
        let heard = Self::default();
        let subscriber = tracing_subscriber::registry().with(heard.clone());
        // Whoever listens already is a test; then nothing is overheard.
        let _ = tracing::subscriber::set_global_default(subscriber);
        heard
    }

    /// What was heard of a server so far.
    pub(super) fn of(&self, server: &str) -> Heard {
        locked(&self.0).get(server).cloned().unwrap_or_default()
    }

    fn note(&self, said: Said) {
        let Some(server) = said.server else { return };
        let mut all = locked(&self.0);
        let heard = all.entry(server).or_default();
        heard.starts += u64::from(said.pid.is_some());
        heard.pid = said.pid.or(heard.pid);
        if let Some(line) = said.line {
            heard.count += 1;
            if heard.lines.contains(&line) {
                return;
            }
            if heard.lines.len() == LINES {
                heard.lines.pop_front();
            }
            heard.lines.push_back(line);
        }
    }
}

impl<S: Subscriber> Layer<S> for Overheard {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        if event.metadata().target().starts_with("chillgate") {
            let mut said = Said::default();
            event.record(&mut said);
            self.note(said);
        }
    }

    fn enabled(&self, metadata: &tracing::Metadata<'_>, _: Context<'_, S>) -> bool {
        *metadata.level() <= Level::DEBUG
    }

    fn max_level_hint(&self) -> Option<LevelFilter> {
        Some(LevelFilter::DEBUG)
    }
}

/// The fields of one event that are of interest.
#[derive(Default)]
struct Said {
    server: Option<String>,
    line: Option<String>,
    pid: Option<u32>,
}

impl Visit for Said {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        match field.name() {
            "server" => self.server = Some(format!("{value:?}")),
            "line" => self.line = Some(format!("{value:?}")),
            _ => {}
        }
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        if field.name() == "pid" {
            self.pid = u32::try_from(value).ok();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn process_and_last_lines_are_kept_by_server() {
        let heard = Overheard::default();
        let subscriber = tracing_subscriber::registry().with(heard.clone());
        tracing::subscriber::with_default(subscriber, || {
            tracing::debug!(target: "chillgate::x", server = %"a", pid = 7_u32, "Started.");
            for number in 0..20 {
                let line = format!("line {number}");
                tracing::info!(target: "chillgate::x", server = %"a", line = %format_args!("{line}"), "Wrote.");
            }
            tracing::info!(target: "elsewhere", server = %"a", line = %"no", "Wrote.");
        });
        let a = heard.of("a");
        assert_eq!((a.pid, a.count, a.lines.len()), (Some(7), 20, LINES));
        assert_eq!(a.lines.back().map(String::as_str), Some("line 19"));
        assert_eq!(heard.of("b").count, 0);
    }

    #[test]
    fn what_a_second_start_says_again_is_kept_once() {
        let heard = Overheard::default();
        let subscriber = tracing_subscriber::registry().with(heard.clone());
        tracing::subscriber::with_default(subscriber, || {
            for pid in [7_u32, 8] {
                tracing::debug!(target: "chillgate::x", server = %"a", pid, "Started.");
                for line in ["one", "two"] {
                    tracing::info!(target: "chillgate::x", server = %"a", line = %line, "Wrote.");
                }
            }
        });
        let a = heard.of("a");
        assert_eq!((a.starts, a.count), (2, 4));
        assert_eq!(a.lines, ["one", "two"]);
    }
}
