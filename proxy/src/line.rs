//! A bounded line writer: many tasks add JSON lines, one task writes them, merged.
//!
//! Children, built-in servers and stdio hosts all read lines, so this is the one way out to them.
//! Lines that queue up while a write is under way go out together in the next one, and where
//! several came at once the writer looks for more before it begins. A line that is known to be
//! alone goes out where it is added. It never reads, never parses and never blocks the caller's
//! thread.

use std::future::poll_fn;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker};

use chillgate_wire::{Edit, Envelope};
use tokio::io::AsyncWrite;
use tokio::sync::Notify;

use crate::exchange::Refused;
use crate::lock::locked;

/// How many bytes may wait besides the message that fills it up.
const BACKLOG: usize = 1 << 20;

/// What a burst may leave allocated afterwards.
const KEEP: usize = 64 << 10;

/// The sending side; cheap to share.
#[derive(Clone)]
pub struct Line(Arc<Shared>);

impl std::fmt::Debug for Line {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Line").field(&self.0.state).finish()
    }
}

struct Shared {
    state: Mutex<State>,
    /// Gone with the task that writes: the other end then sees the end of its input.
    writer: Mutex<Option<Writer>>,
    filled: Notify,
    emptied: Notify,
}

type Writer = Pin<Box<dyn AsyncWrite + Send>>;

#[derive(Debug, Default)]
struct State {
    buffer: Vec<u8>,
    /// How many additions are in it.
    added: usize,
    /// How many went out together last time.
    crowd: usize,
    writing: bool,
    closed: bool,
}

impl State {
    /// Several lines came at once, and there is room for those that follow.
    fn has_company(&self) -> bool {
        self.added > 1 && self.buffer.len() < KEEP
    }
}

/// Whether a line waits for the writer's turn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pace {
    /// Others may be on their way: they go out together.
    Gather,
    /// It is alone: what there is room for goes out at once. Only where the writer holds nothing
    /// back until it is flushed, as pipes do.
    Now,
}

/// The other end no longer reads.
#[derive(Debug, thiserror::Error)]
#[error("the reader is gone")]
pub struct Closed;

impl Line {
    /// A line and the task that must be run to write it.
    pub fn new<W: AsyncWrite + Send + 'static>(
        writer: W,
    ) -> (Self, impl Future<Output = std::io::Result<()>> + Send) {
        let shared = Arc::new(Shared {
            state: Mutex::new(State::default()),
            writer: Mutex::new(Some(Box::pin(writer))),
            filled: Notify::new(),
            emptied: Notify::new(),
        });
        (Self(shared.clone()), run(Owned(shared)))
    }

    /// Adds a message if there is room now.
    pub fn offer(&self, message: &Envelope) -> Result<(), Refused> {
        self.add(Pace::Gather, |buffer| {
            message.write_line(&message.edit(), buffer);
        })
        .map_err(|_| Refused)?
    }

    /// Adds a message with edits, waiting for room. Safe to cancel: the line is added whole or not.
    pub async fn send(
        &self,
        message: &Envelope,
        edits: &Edit<'_>,
        pace: Pace,
    ) -> Result<(), Closed> {
        loop {
            let emptied = self.0.emptied.notified();
            match self.add(pace, |buffer| message.write_line(edits, buffer)) {
                Ok(Ok(())) => return Ok(()),
                Ok(Err(Refused)) => emptied.await,
                Err(closed) => return Err(closed),
            }
        }
    }

    /// Adds bytes that already are whole lines, if there is room now.
    pub fn offer_raw(&self, lines: &[u8]) -> Result<(), Refused> {
        self.add(Pace::Gather, |buffer| buffer.extend_from_slice(lines))
            .map_err(|_| Refused)?
    }

    fn add(
        &self,
        pace: Pace,
        write: impl FnOnce(&mut Vec<u8>),
    ) -> Result<Result<(), Refused>, Closed> {
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
        // After a crowd the next is awaited: the first of many comes alone, too.
        let is_alone = idle && pace == Pace::Now && state.crowd <= 1;
        let is_out = is_alone && self.0.write_now(&mut state);
        drop(state);
        if idle && !is_out {
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

impl Shared {
    /// Writes what there is room for without waiting; true when that was all. What is left, and
    /// what went wrong, is found by the task that writes.
    fn write_now(&self, state: &mut State) -> bool {
        let mut unheard = Context::from_waker(Waker::noop());
        let Poll::Ready(Ok(written)) = self.poll_write(&mut unheard, &state.buffer) else {
            return false;
        };
        state.buffer.drain(..written);
        if !state.buffer.is_empty() {
            return false;
        }
        state.added = 0;
        state.buffer.shrink_to(KEEP);
        true
    }

    fn poll_write(&self, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<std::io::Result<usize>> {
        self.poll(|writer| writer.poll_write(cx, bytes))
    }

    fn poll<T>(
        &self,
        step: impl FnOnce(Pin<&mut (dyn AsyncWrite + Send)>) -> Poll<std::io::Result<T>>,
    ) -> Poll<std::io::Result<T>> {
        match &mut *locked(&self.writer) {
            Some(writer) => step(writer.as_mut()),
            None => Poll::Ready(Err(std::io::ErrorKind::BrokenPipe.into())),
        }
    }

    async fn write_all(&self, bytes: &[u8]) -> std::io::Result<()> {
        let mut rest = bytes;
        while !rest.is_empty() {
            let written = poll_fn(|cx| self.poll_write(cx, rest)).await?;
            if written == 0 {
                return Err(std::io::ErrorKind::WriteZero.into());
            }
            rest = rest.get(written..).unwrap_or_default();
        }
        poll_fn(|cx| self.poll(|writer| writer.poll_flush(cx))).await
    }
}

/// Held by the task that writes: the writer ends with it, however many may still add lines.
struct Owned(Arc<Shared>);

impl Drop for Owned {
    fn drop(&mut self) {
        locked(&self.0.writer).take();
        // Whoever waits for room hears that there will be none.
        locked(&self.0.state).closed = true;
        self.0.emptied.notify_waiters();
    }
}

async fn run(shared: Owned) -> std::io::Result<()> {
    let shared = &shared.0;
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
            state.writing = !spare.is_empty();
            if state.writing {
                state.crowd = std::mem::take(&mut state.added);
            }
            state.closed
        };
        if spare.is_empty() {
            if closed {
                let _ = poll_fn(|cx| shared.poll(|writer| writer.poll_shutdown(cx))).await;
                return Ok(());
            }
            filled.await;
            continue;
        }
        shared.emptied.notify_waiters();
        if let Err(error) = shared.write_all(&spare).await {
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
    use futures_util::FutureExt;
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
            line.send(&message, &message.edit(), Pace::Gather)
                .await
                .expect("open");
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
    async fn a_lone_line_goes_out_where_it_is_added() {
        let (ours, mut theirs) = tokio::io::duplex(1024);
        let (line, _not_run) = Line::new(ours);
        let message = note("alone");
        for _ in 0..2 {
            let sent = line.send(&message, &message.edit(), Pace::Now).await;
            sent.expect("open");
            let mut read = vec![0; message.raw().len() + 1];
            let whole = theirs.read_exact(&mut read).now_or_never();
            assert!(matches!(whole, Some(Ok(_))), "it has not gone out");
            assert_eq!(read.split_last(), Some((&b'\n', &message.raw()[..])));
        }
        let sent = line.send(&message, &message.edit(), Pace::Gather).await;
        sent.expect("open");
        let more = theirs.read_u8().now_or_never();
        assert!(more.is_none(), "one that may have company went out alone");
    }

    #[tokio::test]
    async fn a_lone_line_without_room_is_finished_by_the_task() {
        let (ours, mut theirs) = tokio::io::duplex(16);
        let (line, task) = Line::new(ours);
        let message = note("longer than what the pipe holds");
        for _ in 0..2 {
            let sent = line.send(&message, &message.edit(), Pace::Now).await;
            sent.expect("open");
        }
        line.close();
        let writer = tokio::spawn(task);
        let mut text = String::new();
        theirs.read_to_string(&mut text).await.expect("readable");
        let once = format!("{}\n", String::from_utf8_lossy(message.raw()));
        assert_eq!(text, once.repeat(2));
        writer.await.expect("no panic").expect("written");
    }

    #[tokio::test]
    async fn after_a_crowd_the_next_line_waits_for_company() {
        let (ours, mut theirs) = tokio::io::duplex(1024);
        let (line, task) = Line::new(ours);
        let mut task = std::pin::pin!(task);
        let message = note("x");
        for pace in [Pace::Gather, Pace::Gather, Pace::Now] {
            line.send(&message, &message.edit(), pace)
                .await
                .expect("open");
        }
        while line.0.state.lock().expect("sound").crowd == 0 {
            assert!((&mut task).now_or_never().is_none());
            tokio::task::yield_now().await;
        }
        let mut read = vec![0; 3 * (message.raw().len() + 1)];
        theirs.read_exact(&mut read).await.expect("three lines");
        assert!((&mut task).now_or_never().is_none());
        let sent = line.send(&message, &message.edit(), Pace::Now).await;
        sent.expect("open");
        assert!(theirs.read_u8().now_or_never().is_none(), "it did not wait");
        assert!((&mut task).now_or_never().is_none());
        assert!(theirs.read_u8().now_or_never().is_some(), "it is lost");
    }

    #[tokio::test]
    async fn without_its_task_a_line_has_ended() {
        let (ours, mut theirs) = tokio::io::duplex(1024);
        let (line, task) = Line::new(ours);
        drop(task);
        let mut nothing = Vec::new();
        theirs.read_to_end(&mut nothing).await.expect("its end");
        assert_eq!(nothing, b"");
        drop(line);
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
