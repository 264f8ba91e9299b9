//! What the event streams of a session carry, kept so that a host whose connection broke can come
//! back for the rest (MCP transports until 2025-11-25, "Resumability and Redelivery").
//!
//! Event ids are `STREAM-NUMBER`, unique in the session, and one stream is never answered with what
//! another one carried. Streams that have ended are kept for `limits.replay`, the last 64 of
//! a session, as far as there is memory for it: what nobody has read goes last. It knows no HTTP and
//! runs no call.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, Weak};
use std::time::Duration;

use bytes::Bytes;
use chillgate_wire::{Envelope, sse};
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::budget::{Budget, Held};
use crate::exchange::Exchange;
use crate::lock::locked;

#[cfg(test)]
mod tests;

/// What a stream may hold that nobody has read yet before it takes no more notifications.
const UNREAD: usize = 1 << 20;
/// What a stream keeps of what has been read, at most, beside its last event.
const READ: usize = 256 << 10;
/// How many streams that have ended a session keeps.
const ENDED: usize = 64;
/// When a host comes back that nobody told otherwise.
const RETRY: Duration = Duration::from_secs(1);
/// The number of the session's own stream.
const OWN: u64 = 0;

/// All event streams of a session that a host can come back to.
#[derive(Debug)]
pub struct Replays {
    own: Arc<Carried>,
    streams: Mutex<VecDeque<Arc<Carried>>>,
    numbers: AtomicU64,
    keep: Duration,
    budget: Budget,
}

/// What a `Last-Event-ID` leads to.
#[derive(Debug)]
pub enum Found {
    /// The session's own stream, after this event.
    Own(u64),
    /// The stream of a request.
    Answering(Reader),
    /// Everything of that stream has been sent, and no more will come.
    Over,
    /// Nothing: it is no id of this session, or what came after it is no longer kept.
    Nothing,
}

impl Replays {
    /// Keeps what has ended for `keep`, as far as `budget` goes.
    pub fn new(keep: Duration, budget: Budget) -> Self {
        Self {
            own: Arc::new(Carried::new(OWN, Weak::new(), budget.clone())),
            streams: Mutex::default(),
            numbers: AtomicU64::new(OWN),
            keep,
            budget,
        }
    }

    /// What the session's own stream has carried.
    pub fn own(&self) -> &Arc<Carried> {
        &self.own
    }

    /// The stream of this request begins.
    pub fn open(&self, exchange: &Arc<Exchange>) -> Arc<Carried> {
        let number = self.numbers.fetch_add(1, Ordering::Relaxed) + 1;
        let exchange = Arc::downgrade(exchange);
        let stream = Arc::new(Carried::new(number, exchange, self.budget.clone()));
        locked(&self.streams).push_back(stream.clone());
        stream
    }

    /// What the host of this `Last-Event-ID` has missed.
    pub fn find(&self, last: &str) -> Found {
        let parts = last.split_once('-');
        let parts = parts.and_then(|(stream, at)| Some((stream.parse().ok()?, at.parse().ok()?)));
        let Some((stream, event)): Option<(u64, u64)> = parts else {
            return Found::Nothing;
        };
        if stream == OWN {
            let is_known = event <= self.own.last();
            return if is_known {
                Found::Own(event)
            } else {
                Found::Nothing
            };
        }
        self.forget();
        let streams = locked(&self.streams);
        let Some(stream) = streams.iter().find(|kept| kept.number == stream) else {
            return Found::Nothing;
        };
        let (last, is_over, has_more) = {
            let kept = stream.kept();
            (kept.last, kept.ended.is_some(), kept.after(event).is_some())
        };
        match event {
            event if event > last => Found::Nothing,
            event if event == last && is_over => Found::Over,
            _ if is_over && !has_more => Found::Nothing,
            event => Found::Answering(stream.read(event)),
        }
    }

    /// Drops what is too old, and what is too much.
    pub fn forget(&self) {
        self.own.kept().forget_after(self.keep);
        let mut streams = locked(&self.streams);
        streams.retain(|stream| stream.kept().is_younger(self.keep));
        let has_ended = |stream: &Arc<Carried>| stream.kept().ended.is_some();
        let mut ended = streams.iter().filter(|stream| has_ended(stream)).count();
        for only_read in [true, false] {
            streams.retain(|stream| {
                let kept = stream.kept();
                let goes =
                    ended > ENDED && kept.ended.is_some() && (!only_read || kept.read == kept.last);
                ended -= usize::from(goes);
                !goes
            });
        }
    }

    /// The session has ended. Who reads a stream still hears how its call did.
    pub fn clear(&self) {
        locked(&self.streams).clear();
    }
}

/// What one stream has carried and is to carry.
#[derive(Debug)]
pub struct Carried {
    number: u64,
    /// The request that it is of, which notes whether its host is there.
    exchange: Weak<Exchange>,
    budget: Budget,
    kept: Mutex<Kept>,
    /// There is something for its reader.
    wake: Notify,
    /// There is room for more.
    room: Notify,
}

#[derive(Debug, Default)]
struct Kept {
    /// Those of the highest numbers, without a gap.
    events: VecDeque<Event>,
    /// The number of the last event; they begin at 1.
    last: u64,
    /// The number of the last event that somebody has read. Events up to it may have gone.
    read: u64,
    bytes_read: usize,
    bytes_unread: usize,
    /// How many have begun to read; the last of them is the one who does.
    readers: u64,
    has_reader: bool,
    /// When the last event came.
    carried: Option<Instant>,
    ended: Option<Instant>,
    /// Who reads is to go and come back after so long.
    cut: Option<Duration>,
}

#[derive(Debug)]
struct Event {
    frame: Bytes,
    /// None: there was no memory to keep it in for nobody.
    held: Option<Held>,
}

impl Kept {
    /// The number of the oldest event there is.
    fn first(&self) -> u64 {
        self.last + 1 - self.events.len() as u64
    }

    /// Where in `events` what came after this event begins.
    fn from(&self, event: u64) -> usize {
        let gone = self.first() - 1;
        let from = event.saturating_sub(gone).min(self.events.len() as u64);
        from as usize
    }

    /// The next event after this one that is still there, with its number.
    fn after(&self, event: u64) -> Option<(u64, &Event)> {
        let from = self.from(event);
        let next = self.events.get(from)?;
        Some((self.first() + from as u64, next))
    }

    /// Everything up to this event has been read.
    fn read_to(&mut self, event: u64) {
        let (from, to) = (self.from(self.read), self.from(event));
        for read in self.events.range(from..to.max(from)) {
            self.bytes_unread -= read.frame.len();
            self.bytes_read += read.frame.len();
        }
        self.read = self.read.max(event);
        // The last one is mostly the answer, for which a host comes back.
        while self.first() <= self.read
            && let Some(oldest) = self.events.front()
            && (oldest.held.is_none() || self.bytes_read > READ && self.events.len() > 1)
        {
            self.drop_oldest(1);
        }
    }

    fn drop_oldest(&mut self, count: usize) {
        let first = self.first();
        for (event, number) in self.events.drain(..count).zip(first..) {
            if number <= self.read {
                self.bytes_read -= event.frame.len();
            } else {
                self.bytes_unread -= event.frame.len();
                self.read = number;
            }
        }
    }

    /// What there is no memory for is kept for nobody but who reads it now.
    fn release(&mut self) {
        if self.has_reader || self.ended.is_none() {
            return;
        }
        let unpaid = self.events.iter().rposition(|event| event.held.is_none());
        self.drop_oldest(unpaid.map_or(0, |at| at + 1));
    }

    fn is_younger(&self, than: Duration) -> bool {
        self.ended.is_none_or(|since| since.elapsed() < than)
    }

    fn forget_after(&mut self, span: Duration) {
        if self.carried.is_some_and(|since| since.elapsed() >= span) {
            self.drop_oldest(self.events.len());
        }
    }
}

impl Carried {
    fn new(number: u64, exchange: Weak<Exchange>, budget: Budget) -> Self {
        Self {
            number,
            exchange,
            budget,
            kept: Mutex::default(),
            wake: Notify::new(),
            room: Notify::new(),
        }
    }

    fn kept(&self) -> MutexGuard<'_, Kept> {
        locked(&self.kept)
    }

    fn id(&self, event: u64) -> String {
        format!("{}-{event}", self.number)
    }

    /// Adds a message; comes back with the event that it is.
    pub fn add(&self, message: &Envelope) -> Bytes {
        let mut kept = self.kept();
        kept.last += 1;
        let mut out = Vec::with_capacity(message.raw().len() + 48);
        sse::event(message.raw(), Some(&self.id(kept.last)), &mut out);
        let frame = Bytes::from(out);
        kept.bytes_unread += frame.len();
        kept.carried = Some(Instant::now());
        let held = self.budget.hold(frame.len()).ok();
        kept.events.push_back(Event {
            frame: frame.clone(),
            held,
        });
        drop(kept);
        self.wake.notify_waiters();
        frame
    }

    /// Everything that it carries has been handed to the host.
    pub fn all_read(&self) {
        let mut kept = self.kept();
        let last = kept.last;
        kept.read_to(last);
    }

    /// What came after this event, of what is still there.
    pub fn after(&self, event: u64) -> Vec<Bytes> {
        let kept = self.kept();
        let events = kept.events.range(kept.from(event)..);
        events.map(|event| event.frame.clone()).collect()
    }

    /// Begins a stream that the host can come back to, which it has read up to `event`.
    pub fn prime(&self, event: u64) -> Bytes {
        self.prime_for(event, RETRY)
    }

    fn prime_for(&self, event: u64, retry: Duration) -> Bytes {
        let mut out = Vec::new();
        let millis = u64::try_from(retry.as_millis()).unwrap_or(u64::MAX);
        sse::priming(&self.id(event), Some(millis), &mut out);
        out.into()
    }

    /// The number of the last event it has carried.
    pub fn last(&self) -> u64 {
        self.kept().last
    }

    /// Resolves when it takes more, however slow the host is.
    pub async fn until_room(&self) {
        while self.kept().bytes_unread >= UNREAD {
            self.room.notified().await;
        }
    }

    /// Sends its reader away, to come back after this time.
    pub fn cut(&self, retry: Duration) {
        self.kept().cut = Some(retry);
        self.wake.notify_waiters();
    }

    /// No more will come.
    pub fn end(&self) {
        let mut kept = self.kept();
        kept.ended = Some(Instant::now());
        kept.release();
        drop(kept);
        self.wake.notify_waiters();
    }

    /// Reads it from after this event on. The newest reader takes over.
    pub fn read(self: &Arc<Self>, after: u64) -> Reader {
        let mut kept = self.kept();
        kept.readers += 1;
        kept.has_reader = true;
        kept.cut = None;
        let at = after.min(kept.last);
        kept.read_to(at);
        let turn = kept.readers;
        drop(kept);
        self.wake.notify_waiters();
        self.note_host(true);
        Reader {
            stream: self.clone(),
            turn,
            at,
            is_done: false,
        }
    }

    fn note_host(&self, is_there: bool) {
        if let Some(exchange) = self.exchange.upgrade() {
            exchange.note_host(is_there);
        }
    }
}

/// The right to read a stream, until somebody newer takes over.
#[derive(Debug)]
pub struct Reader {
    stream: Arc<Carried>,
    turn: u64,
    at: u64,
    /// There is nothing more to read, or its host was sent away and comes back.
    is_done: bool,
}

impl Reader {
    /// Where it stands, as the first event of what it reads.
    pub fn prime(&self) -> Bytes {
        self.stream.prime(self.at)
    }

    /// The next event, when it is there; `None` where nothing more is to be read here: it has ended,
    /// somebody newer reads, or the host was told to come back. Safe to cancel.
    pub async fn next(&mut self) -> Option<Bytes> {
        loop {
            if self.is_done {
                return None;
            }
            let woken = self.stream.wake.notified();
            {
                let mut kept = self.stream.kept();
                self.is_done = kept.readers != self.turn;
                if self.is_done {
                    return None;
                }
                // Who asks for the next one has taken those before it.
                kept.read_to(self.at);
                self.stream.room.notify_one();
                if let Some((number, event)) = kept.after(self.at) {
                    self.at = number;
                    return Some(event.frame.clone());
                }
                if kept.ended.is_some() {
                    self.is_done = true;
                    return None;
                }
                if let Some(retry) = kept.cut {
                    self.is_done = true;
                    return Some(self.stream.prime_for(self.at, retry));
                }
            }
            woken.await;
        }
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        let mut kept = self.stream.kept();
        if kept.readers != self.turn {
            return;
        }
        kept.has_reader = false;
        kept.release();
        drop(kept);
        if !self.is_done {
            self.stream.note_host(false);
        }
    }
}
