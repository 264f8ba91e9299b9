//! A bounded line writer: many tasks add JSON lines, one task writes them, merged.
//!
//! Children, built-in servers and stdio hosts all read lines, so this is the one way out to them.
//! Lines that queue up while a write is under way go out together in the next one, and where
//! several came at once the writer looks for more before it begins. It never
//! reads, never parses and never blocks the caller's thread.

use std::sync::{Arc, Mutex};

use chillgate_wire::{Edit, Envelope};
use tokio::io::{AsyncWrite, AsyncWriteExt};
use tokio::sync::Notify;

use crate::exchange::Refused;
use crate::lock::locked;

/// How many bytes may wait besides the message that fills it up.
const BACKLOG: usize = 1 << 20;

/// What a burst may leave allocated afterwards.
const KEEP: usize = 64 << 10;

/// The sending side; cheap to share.
#[derive(Clone, Debug)]
pub struct Line(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    state: Mutex<State>,
    filled: Notify,
    emptied: Notify,
}

#[derive(Debug, Default)]
struct State {
    buffer: Vec<u8>,
    /// How many additions are in it.
    added: usize,
    writing: bool,
    closed: bool,
}

impl State {
    /// Several lines came at once, and there is room for those that follow.
    fn has_company(&self) -> bool {
        self.added > 1 && self.buffer.len() < KEEP
    }
}

/// The other end no longer reads.
#[derive(Debug, thiserror::Error)]
#[error("the reader is gone")]
pub struct Closed;

impl Line {
    /// A line and the task that must be run to write it.
    pub fn new<W: AsyncWrite + Send + Unpin>(
        writer: W,
    ) -> (Self, impl Future<Output = std::io::Result<()>> + Send) {
        let shared = Arc::new(Shared {
            state: Mutex::new(State::default()),
            filled: Notify::new(),
            emptied: Notify::new(),
        });
        (Self(shared.clone()), run(shared, writer))
    }

    /// Adds a message if there is room now.
    pub fn offer(&self, message: &Envelope) -> Result<(), Refused> {
        self.add(|buffer| message.write_line(&message.edit(), buffer))
            .map_err(|_| Refused)?
    }

    /// Adds a message with edits, waiting for room. Safe to cancel: the line is added whole or not.
    pub async fn send(&self, message: &Envelope, edits: &Edit<'_>) -> Result<(), Closed> {
        loop {
            let emptied = self.0.emptied.notified();
            match self.add(|buffer| message.write_line(edits, buffer)) {
                Ok(Ok(())) => return Ok(()),
                Ok(Err(Refused)) => emptied.await,
                Err(closed) => return Err(closed),
            }
        }
    }

    /// Adds bytes that already are whole lines, if there is room now.
    pub fn offer_raw(&self, lines: &[u8]) -> Result<(), Refused> {
        self.add(|buffer| buffer.extend_from_slice(lines))
            .map_err(|_| Refused)?
    }

    fn add(&self, write: impl FnOnce(&mut Vec<u8>)) -> Result<Result<(), Refused>, Closed> {
        let mut state = locked(&self.0.state);
        if state.closed {
            return Err(Closed);
        }
        if state.buffer.len() >= BACKLOG {
            return Ok(Err(Refused));
        }
        let idle = state.buffer.is_empty() && !state.writing;
        write(&mut state.buffer);
        state.added += 1;
        drop(state);
        if idle {
            self.0.filled.notify_one();
        }
        Ok(Ok(()))
    }

    /// Takes no more lines; what is there is still written, then the writer is shut down.
    pub fn close(&self) {
        locked(&self.0.state).closed = true;
        self.0.filled.notify_one();
        self.0.emptied.notify_waiters();
    }

    /// Whether lines can still be added.
    pub fn is_closed(&self) -> bool {
        locked(&self.0.state).closed
    }
}

async fn run<W: AsyncWrite + Send + Unpin>(
    shared: Arc<Shared>,
    mut writer: W,
) -> std::io::Result<()> {
    let mut spare = Vec::new();
    loop {
        let filled = shared.filled.notified();
        // Where several have come at once, others are on their way: a look at all that is ready
        // costs less than the next write, and waking a reader costs the most of all. A line alone
        // goes out at once.
        if locked(&shared.state).has_company() {
            tokio::task::yield_now().await;
        }
        let closed = {
            let mut state = locked(&shared.state);
            std::mem::swap(&mut state.buffer, &mut spare);
            state.added = 0;
            state.writing = !spare.is_empty();
            state.closed
        };
        if spare.is_empty() {
            if closed {
                let _ = writer.shutdown().await;
                return Ok(());
            }
            filled.await;
            continue;
        }
        shared.emptied.notify_waiters();
        let written = async {
            writer.write_all(&spare).await?;
            writer.flush().await
        };
        if let Err(error) = written.await {
            locked(&shared.state).closed = true;
            shared.emptied.notify_waiters();
            return Err(error);
        }
        spare.clear();
        spare.shrink_to(KEEP);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use chillgate_wire::Limits;
    use tokio::io::AsyncReadExt;

    fn note(text: &str) -> Envelope {
        let raw = format!(r#"{{"jsonrpc":"2.0","method":"m","params":{{"t":"{text}"}}}}"#);
        Envelope::parse(raw.into(), &Limits::default()).expect("a good message")
    }

    #[tokio::test]
    async fn lines_arrive_whole_and_in_order() {
        let (ours, mut theirs) = tokio::io::duplex(64);
        let (line, task) = Line::new(ours);
        let writer = tokio::spawn(task);
        for n in 0..100 {
            let message = note(&n.to_string());
            line.send(&message, &message.edit()).await.expect("open");
        }
        line.close();
        let mut text = String::new();
        theirs.read_to_string(&mut text).await.expect("readable");
        let expected: String = (0..100)
            .flat_map(|n| {
                [
                    String::from_utf8_lossy(note(&n.to_string()).raw()).into_owned(),
                    "\n".to_owned(),
                ]
            })
            .collect();
        assert_eq!(text, expected);
        writer.await.expect("no panic").expect("written");
    }

    #[tokio::test]
    async fn a_reader_that_stops_fills_one_backlog_and_no_more() {
        let (ours, _theirs) = tokio::io::duplex(64);
        let (line, task) = Line::new(ours);
        let writer = tokio::spawn(task);
        let big = note(&"x".repeat(100_000));
        let mut taken = 0;
        for _ in 0..100 {
            tokio::task::yield_now().await;
            taken += usize::from(line.offer(&big).is_ok());
        }
        assert!(
            (11..=23).contains(&taken),
            "{taken} lines of 100 kB were taken"
        );
        writer.abort();
    }
}
