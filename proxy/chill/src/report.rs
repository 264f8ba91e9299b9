//! What ChillMCP tells whoever runs it: the levels before and after each call.
//!
//! This crate writes no log line and counts no metric; an [`Observer`] does. It is called after
//! the levels changed and before any hold begins, outside every lock.

use std::time::Duration;

use serde::Serialize;

/// The two levels at one moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Levels {
    /// Stress, 0 to 100.
    pub stress: u8,
    /// Boss alert, 0 to 5.
    pub alert: u8,
}

/// One call, as it happened.
#[derive(Clone, Copy, Debug)]
pub struct BreakReport<'a> {
    /// Who called; [`ANONYMOUS`](crate::ANONYMOUS) when the request named nobody. At most
    /// [`MAX_AGENT_BYTES`](crate::MAX_AGENT_BYTES) bytes, but otherwise as the request had it.
    pub agent: &'a str,
    /// The tool's name.
    pub tool: &'static str,
    /// The levels as the call found them, time passed included.
    pub before: Levels,
    /// The levels as the call left them, and as its answer shows them.
    pub after: Levels,
    /// How long the answer will be held; `None` when it goes out at once.
    pub held: Option<Duration>,
}

/// Hears of every call. Must not block: the caller's answer waits for it.
pub trait Observer: Send + Sync {
    /// A break was taken.
    fn on_break(&self, report: &BreakReport<'_>);

    /// Somebody looked at the levels; `before` and `after` are the same. Does nothing unless
    /// overridden.
    fn on_status(&self, report: &BreakReport<'_>) {
        let _ = report;
    }
}

/// The observer that keeps everything to itself.
#[derive(Clone, Copy, Debug, Default)]
pub struct Silent;

impl Observer for Silent {
    fn on_break(&self, _report: &BreakReport<'_>) {}
}
