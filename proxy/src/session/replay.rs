//! What the event streams of a session carry, kept so that a host whose connection broke can come
//! back for the rest (MCP transports until 2025-11-25, "Resumability and Redelivery").
//!
//! Event ids are `STREAM-NUMBER`, unique in the session, and one stream is never answered with what
//! another one carried. Streams that have ended are kept for `limits.replay`, the last 64 of
//! a session, as far as there is memory: what has been read takes none from what has not. It knows
//! no HTTP and runs no call.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, Weak};
use std::time::Duration;

use bytes::Bytes;
use chillgate_wire::{Envelope, Kind, sse};
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::budget::{Budget, Held};
use crate::exchange::Exchange;
use crate::lock::locked;

#[cfg(test)]
mod tests;

/// What a stream may hold that nobody has read yet before it takes no more notifications.
const UNREAD: usize = 1 << 20;
/// What a stream keeps of what has been read, at most, beside its questions and its last event, for
/// which hosts come back: what was handed over may never have got there.
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
    memory: Memory,
}

/// What there is room for, of all sessions together.
#[derive(Clone, Debug)]
pub struct Memory {
    unread: Budget,
    read: Budget,
}

impl Memory {
    /// An eighth of `limits.memory`, beside what that bounds: one half for what has been read.
    pub fn new(limit: usize) -> Self {
        Self {
            unread: Budget::new(limit / 16),
            read: Budget::new(limit / 16),
        }
    }

    /// `limits.memory` has changed.
    pub fn set(&self, limit: usize) {
        self.unread.set(limit / 16);
        self.read.set(limit / 16);
    }
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
    /// Keeps what there is `memory` for.
    pub fn new(memory: Memory) -> Self {
        Self {
            own: Arc::new(Carried::new(OWN, Weak::new(), memory.clone())),
            streams: Mutex::default(),
            numbers: AtomicU64::new(OWN),
            memory,
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
        let stream = Arc::new(Carried::new(number, exchange, self.memory.clone()));
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

    /// Drops what has ended for longer than `keep`, and what is too much.
    pub fn forget(&self, keep: Duration) {
        self.own.kept().forget_after(keep);
        let mut streams = locked(&self.streams);
        streams.retain(|stream| stream.kept().is_younger(keep));
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
    memory: Memory,
    kept: Mutex<Kept>,
    /// There is something for its reader.
    wake: Notify,
    /// There is room for more.
    room: Notify,
}

#[derive(Debug, Default)]
struct Kept {
    /// In the order of their numbers, of which some may have gone.
    events: VecDeque<Event>,
    /// The number of the last event; they begin at 1.
    last: u64,
    /// The number of the last event that somebody has read.
    read: u64,
    bytes_unread: usize,
    /// How many have begun to read; the last of them is the one who does.
    readers: u64,
    has_reader: bool,
    /// The host has heard where it stands, and can so come back.
    has_id: bool,
    /// When the last event came.
    carried: Option<Instant>,
    ended: Option<Instant>,
    /// Who reads is to go and come back after so long.
    cut: Option<Duration>,
}

#[derive(Debug)]
struct Event {
    number: u64,
    frame: Bytes,
    is_question: bool,
    /// None: there was no memory to keep it in for nobody.
    held: Option<Held>,
}

impl Kept {
    /// Where in `events` what came after this event begins.
    fn from(&self, event: u64) -> usize {
        self.events.partition_point(|kept| kept.number <= event)
    }

    /// The next event after this one that is still there.
    fn after(&self, event: u64) -> Option<&Event> {
        self.events.get(self.from(event))
    }

    /// Everything up to this event has been read.
    fn read_to(&mut self, event: u64, memory: &Memory) {
        let (from, to) = (self.from(self.read), self.from(event));
        if from >= to {
            return;
        }
        for read in self.events.range_mut(from..to) {
            self.bytes_unread -= read.frame.len();
            read.held = memory.read.hold(read.frame.len()).ok();
        }
        self.read = event;
        self.shrink();
    }

    /// Drops of what has been read what there is no memory for, and the oldest of what is too much.
    fn shrink(&mut self) {
        let (read, last) = (self.read, self.last);
        let may_go =
            |event: &Event| event.number <= read && event.number < last && !event.is_question;
        let events = self.events.iter().filter(|event| may_go(event));
        let mut bytes: usize = events.map(|event| event.frame.len()).sum();
        self.events.retain(|event| {
            let is_too_much = may_go(event) && bytes > READ;
            if is_too_much {
                bytes -= event.frame.len();
            }
            event.number > read || event.held.is_some() && !is_too_much
        });
    }

    /// What there is no memory for is kept for nobody but who reads it now.
    fn release(&mut self) {
        if self.has_reader || self.ended.is_none() {
            return;
        }
        self.events.retain(|event| event.held.is_some());
        let unread = self.events.range(self.from(self.read)..);
        self.bytes_unread = unread.map(|event| event.frame.len()).sum();
    }

    fn is_younger(&self, than: Duration) -> bool {
        self.ended.is_none_or(|since| since.elapsed() < than)
    }

    fn forget_after(&mut self, span: Duration) {
        if self.carried.is_some_and(|since| since.elapsed() >= span) {
            self.events.clear();
        }
    }
}

impl Carried {
    fn new(number: u64, exchange: Weak<Exchange>, memory: Memory) -> Self {
        Self {
            number,
            exchange,
            memory,
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
        let mut out = Vec::new();
        sse::event(message.raw(), Some(&self.id(kept.last)), &mut out);
        let frame = Bytes::from(out);
        kept.bytes_unread += frame.len();
        kept.carried = Some(Instant::now());
        let event = Event {
            number: kept.last,
            frame: frame.clone(),
            is_question: message.kind() == Kind::Request,
            held: self.memory.unread.hold(frame.len()).ok(),
        };
        kept.events.push_back(event);
        drop(kept);
        self.wake.notify_waiters();
        frame
    }

    /// Everything that it carries has been handed to the host.
    pub fn all_read(&self) {
        let mut kept = self.kept();
        let last = kept.last;
        kept.read_to(last, &self.memory);
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
        kept.has_id |= after > 0;
        let at = after.min(kept.last);
        kept.read_to(at, &self.memory);
        let turn = kept.readers;
        drop(kept);
        self.wake.notify_waiters();
        if let Some(exchange) = self.exchange.upgrade() {
            exchange.note_host(true);
        }
        Reader {
            stream: self.clone(),
            turn,
            at,
            is_done: false,
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
        self.stream.kept().has_id = true;
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
                kept.read_to(self.at, &self.stream.memory);
                self.stream.room.notify_one();
                if let Some(event) = kept.after(self.at) {
                    self.at = event.number;
                    let frame = event.frame.clone();
                    kept.has_id = true;
                    return Some(frame);
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
        // A host that was sent away is about to read on.
        kept.has_reader = self.is_done && kept.ended.is_none();
        kept.release();
        let can_come_back = kept.has_id;
        drop(kept);
        match self.stream.exchange.upgrade() {
            Some(exchange) if !self.is_done && can_come_back => exchange.note_host(false),
            Some(exchange) if !self.is_done => exchange.detach(),
            _ => {}
        }
    }
}
