//! What servers write to stderr: read always, kept within bounds, never trusted.
//!
//! A server whose stderr nobody reads stops at 64 KiB, so reading never stops; what is beyond the
//! bounds is counted and dropped. Lines go to chillgate's own log under the server's name, and the
//! last of them are kept for the error that may follow, both without the server's secrets. Nothing
//! here understands a line.

use std::collections::VecDeque;
use std::fmt::Write;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use chillgate_policies::engine::clock::Clock;
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::task::JoinHandle;
use tracing::{info, warn};

use crate::clock::TokioClock;
use crate::incidents::Secrets;
use crate::lock::locked;
use crate::telemetry::metrics::Metrics;

/// The longest line kept, in bytes; the rest of a longer one is dropped.
const LINE: usize = 8 << 10;

/// How much is logged a second, in bytes, for each server process.
const PER_SECOND: usize = 64 << 10;

/// How many last lines are kept, and how much of each.
const LAST_LINES: usize = 32;
const LAST_BYTES: usize = 512;

/// Reads one server's stderr until it ends or this is dropped.
#[derive(Debug)]
pub(super) struct Stderr {
    secrets: Secrets,
    last: Arc<Mutex<VecDeque<Vec<u8>>>>,
    reader: JoinHandle<()>,
}

impl Stderr {
    /// Starts reading.
    pub(super) fn drain(
        server: Arc<str>,
        from: impl AsyncRead + Send + Unpin + 'static,
        metrics: Arc<Metrics>,
        secrets: Secrets,
    ) -> Self {
        let last = Arc::<Mutex<VecDeque<_>>>::default();
        let lines = Lines::new(server, Arc::clone(&last), metrics, secrets.clone());
        Self {
            secrets,
            last,
            reader: tokio::spawn(read(from, lines)),
        }
    }

    /// Waits until all is read, or so long.
    pub(super) async fn finish(&mut self, at_most: Duration) {
        if !self.reader.is_finished() {
            let _ = tokio::time::timeout(at_most, &mut self.reader).await;
        }
    }

    /// The last lines, oldest first, control characters spelled out.
    pub(super) fn last_words(&self) -> Vec<String> {
        self.words().lines()
    }

    pub(super) fn words(&self) -> Words {
        Words {
            last: Arc::clone(&self.last),
            secrets: self.secrets.clone(),
        }
    }
}

/// The last lines of a server's stderr, as they come.
#[derive(Clone, Debug)]
pub struct Words {
    last: Arc<Mutex<VecDeque<Vec<u8>>>>,
    secrets: Secrets,
}

impl Words {
    /// The last lines until now, oldest first, control characters spelled out.
    pub fn lines(&self) -> Vec<String> {
        let last = locked(&self.last);
        let lines: Vec<String> = last.iter().map(|line| printable(line)).collect();
        self.secrets.mask_lines(&lines)
    }
}

impl Drop for Stderr {
    fn drop(&mut self) {
        self.reader.abort();
    }
}

async fn read(mut from: impl AsyncRead + Unpin, mut lines: Lines) {
    let mut chunk = vec![0; 16 << 10];
    while let Ok(count @ 1..) = from.read(&mut chunk).await {
        lines.feed(chunk.get(..count).unwrap_or_default(), TokioClock.now());
        // A flood must not keep the others from their turn.
        tokio::task::yield_now().await;
    }
    lines.end_of_line(TokioClock.now());
    lines.report();
}

/// Chunks to lines within bounds.
struct Lines {
    server: Arc<str>,
    metrics: Arc<Metrics>,
    secrets: Secrets,
    last: Arc<Mutex<VecDeque<Vec<u8>>>>,
    line: Vec<u8>,
    /// Bytes of this line beyond [`LINE`].
    excess: usize,
    second: Option<Instant>,
    logged: usize,
    dropped: u64,
}

impl Lines {
    fn new(
        server: Arc<str>,
        last: Arc<Mutex<VecDeque<Vec<u8>>>>,
        metrics: Arc<Metrics>,
        secrets: Secrets,
    ) -> Self {
        Self {
            server,
            metrics,
            secrets,
            last,
            line: Vec::new(),
            excess: 0,
            second: None,
            logged: 0,
            dropped: 0,
        }
    }

    fn feed(&mut self, mut chunk: &[u8], now: Instant) {
        while let Some((part, rest)) = memchr::memchr(b'\n', chunk)
            .and_then(|at| Some((chunk.get(..at)?, chunk.get(at + 1..)?)))
        {
            self.extend(part);
            self.end_of_line(now);
            chunk = rest;
        }
        self.extend(chunk);
    }

    fn extend(&mut self, part: &[u8]) {
        let (kept, excess) = part.split_at(part.len().min(LINE - self.line.len()));
        self.line.extend_from_slice(kept);
        self.excess += excess.len();
    }

    fn end_of_line(&mut self, now: Instant) {
        let line = self.line.strip_suffix(b"\r").unwrap_or(&self.line);
        if line.is_empty() {
            self.line.clear();
            return;
        }
        self.remember(line);
        if self
            .second
            .is_none_or(|start| now.saturating_duration_since(start).as_secs() >= 1)
        {
            self.report();
            self.second = Some(now);
            self.logged = 0;
        }
        let size = self.line.len();
        let mut dropped = self.excess;
        if self.logged + size <= PER_SECOND {
            self.logged += size;
            let cut = if self.excess > 0 { " …" } else { "" };
            let line = printable(self.line.strip_suffix(b"\r").unwrap_or(&self.line));
            let line = self.secrets.mask_lines(&[line]).concat();
            info!(server = %self.server, line = %format_args!("{line}{cut}"), "The server wrote to stderr.");
        } else {
            dropped += size;
        }
        if dropped > 0 {
            self.dropped += dropped as u64;
            self.metrics
                .child_stderr_dropped(&self.server, dropped as u64);
        }
        self.line.clear();
        self.excess = 0;
    }

    /// One line a second at most about what was dropped.
    fn report(&mut self) {
        if self.dropped > 0 {
            warn!(server = %self.server, bytes = self.dropped,
                "Dropped what the server wrote to stderr beyond 64 KiB/s or 8 KiB a line.");
            self.dropped = 0;
        }
    }

    fn remember(&self, line: &[u8]) {
        let mut last = locked(&self.last);
        let mut slot = if last.len() < LAST_LINES {
            Vec::new()
        } else {
            last.pop_front().unwrap_or_default()
        };
        slot.clear();
        slot.extend_from_slice(line.get(..LAST_BYTES).unwrap_or(line));
        last.push_back(slot);
    }
}

/// Text that no terminal obeys and no reader takes for two lines.
fn printable(line: &[u8]) -> String {
    let text = String::from_utf8_lossy(line);
    let mut shown = String::with_capacity(text.len());
    for c in text.chars() {
        let is_sly = matches!(c, '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{feff}');
        if (c.is_control() && c != '\t') || is_sly {
            let _ = write!(shown, "{}", c.escape_unicode());
        } else {
            shown.push(c);
        }
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines() -> Lines {
        Lines::new(
            "test".into(),
            Arc::default(),
            Metrics::new(),
            Secrets::default(),
        )
    }

    fn last(lines: &Lines) -> Vec<String> {
        let last = lines.last.lock().expect("not poisoned");
        last.iter().map(|line| printable(line)).collect()
    }

    #[test]
    fn lines_are_the_same_however_they_are_cut() {
        let text = b"one\r\n\ntwo\nthree";
        for size in 1..text.len() {
            let mut lines = lines();
            for chunk in text.chunks(size) {
                lines.feed(chunk, TokioClock.now());
            }
            lines.end_of_line(TokioClock.now());
            assert_eq!(last(&lines), ["one", "two", "three"], "in chunks of {size}");
        }
    }

    #[test]
    fn a_flood_is_counted_and_not_kept() {
        let mut lines = lines();
        let now = TokioClock.now();
        let line = [&[b'x'; 1023][..], b"\n"].concat();
        for _ in 0..1000 {
            lines.feed(&line, now);
        }
        // 64 lines of 1023 bytes fit one second's 64 KiB.
        assert_eq!(lines.dropped, (1000 - 64) * 1023);
        let text = lines.metrics.render();
        let counted = r#"chillgate_child_stderr_dropped_bytes_total{server="test"} 957528"#;
        assert!(text.contains(counted), "{text}");
        assert_eq!(last(&lines).len(), LAST_LINES);
        lines.feed(b"later\n", now + Duration::from_secs(1));
        assert_eq!((lines.dropped, lines.logged), (0, 5));
    }

    #[test]
    fn an_endless_line_takes_no_more_than_its_bound() {
        let mut lines = lines();
        for _ in 0..10_000 {
            lines.feed(&[b'x'; 4096], TokioClock.now());
        }
        assert!(lines.line.capacity() <= 2 * LINE);
        lines.feed(b"\n", TokioClock.now());
        assert_eq!(lines.dropped, 10_000 * 4096 - LINE as u64);
        assert_eq!(last(&lines)[0].len(), LAST_BYTES);
    }

    #[test]
    fn what_steers_terminals_is_spelled_out() {
        assert_eq!(printable(b"\x1b[31mred\x07\tok"), r"\u{1b}[31mred\u{7}	ok");
        assert_eq!(
            printable("a\u{202e}b\u{2028}c\u{9b}치".as_bytes()),
            r"a\u{202e}b\u{2028}c\u{9b}치"
        );
        assert_eq!(printable(b"half \xe6\xb9"), "half \u{fffd}");
    }

    #[tokio::test]
    async fn the_last_words_are_there_once_the_stream_has_ended() {
        let text: Vec<u8> = (0..100)
            .flat_map(|n| format!("line {n}\n").into_bytes())
            .collect();
        let text = std::io::Cursor::new(text);
        let none = Secrets::default();
        let mut stderr = Stderr::drain("test".into(), text, Metrics::new(), none);
        stderr.finish(Duration::from_secs(5)).await;
        let words = stderr.last_words();
        assert_eq!(words.len(), LAST_LINES);
        assert_eq!(
            (words[0].as_str(), words[31].as_str()),
            ("line 68", "line 99")
        );
    }
}
