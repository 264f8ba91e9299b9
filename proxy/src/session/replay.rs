//! What the event streams of a session carry, kept so that a host whose connection broke can come
//! back for the rest (MCP transports until 2025-11-25, "Resumability and Redelivery").
//!
//! Event ids are `STREAM-NUMBER`, unique in the session, and one stream is never answered with what
//! another one carried. What no host has read yet is kept until the session ends or
//! `limits.replay` is over; what one has read may go earlier. It knows no HTTP and runs no call.

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

/// What a stream may hold that nobody has read yet before it takes no more notifications.
const UNREAD: usize = 1 << 20;
/// What a stream keeps of what has been read, at most.
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
    /// Nothing: it is no id of this session, or of too long ago.
    Nothing,
}

impl Replays {
    /// Keeps what has ended for `keep`.
    pub fn new(keep: Duration) -> Self {
        Self {
            own: Arc::new(Carried::new(OWN, Weak::new())),
            streams: Mutex::default(),
            numbers: AtomicU64::new(OWN),
            keep,
        }
    }

    /// What the session's own stream has carried.
    pub fn own(&self) -> &Arc<Carried> {
        &self.own
    }

    /// The stream of this request begins.
    pub fn open(&self, exchange: &Arc<Exchange>) -> Arc<Carried> {
        self.forget();
        let number = self.numbers.fetch_add(1, Ordering::Relaxed) + 1;
        let stream = Arc::new(Carried::new(number, Arc::downgrade(exchange)));
        locked(&self.streams).push_back(stream.clone());
        stream
    }

    /// What the host of this `Last-Event-ID` has missed.
    pub fn find(&self, last: &str) -> Found {
        let parts = last.split_once('-');
        let parts =
            parts.and_then(|(stream, event)| Some((stream.parse().ok()?, event.parse().ok()?)));
        let Some((stream, event)): Option<(u64, u64)> = parts else {
            return Found::Nothing;
        };
        if stream == OWN {
            return Found::Own(event);
        }
        self.forget();
        let streams = locked(&self.streams);
        let Some(stream) = streams.iter().find(|kept| kept.number == stream) else {
            return Found::Nothing;
        };
        if stream.kept().is_over_after(event) {
            return Found::Over;
        }
        Found::Answering(stream.read(event))
    }

    /// Drops what has ended too long ago.
    pub fn forget(&self) {
        let mut streams = locked(&self.streams);
        let ended = streams
            .iter()
            .filter(|stream| stream.kept().ended.is_some());
        let mut too_many = ended.count().saturating_sub(ENDED);
        streams.retain(|stream| {
            let Some(since) = stream.kept().ended else {
                return true;
            };
            let is_one_too_many = too_many > 0;
            too_many = too_many.saturating_sub(1);
            !is_one_too_many && since.elapsed() < self.keep
        });
    }

    /// The session has ended.
    pub fn clear(&self) {
        for stream in locked(&self.streams).drain(..) {
            stream.end();
        }
    }
}

/// What one stream has carried and is to carry.
#[derive(Debug)]
pub struct Carried {
    number: u64,
    /// The request that it is of, which notes whether its host is there.
    exchange: Weak<Exchange>,
    kept: Mutex<Kept>,
    /// There is something for its reader.
    wake: Notify,
    /// There is room for more.
    room: Notify,
}

#[derive(Debug, Default)]
struct Kept {
    events: VecDeque<Event>,
    /// The number of the last event, which begin at 1.
    last: u64,
    /// The number of the last event that somebody has read.
    read: u64,
    bytes_read: usize,
    bytes_unread: usize,
    /// How many have begun to read; the last of them is the one who does.
    readers: u64,
    ended: Option<Instant>,
    /// Who reads is to go and come back after so long.
    cut: Option<Duration>,
}

#[derive(Debug)]
struct Event {
    frame: Bytes,
    /// None: there was no room to keep it in once it is read.
    held: Option<Held>,
}

impl Kept {
    /// The number of the oldest event there is.
    fn first(&self) -> u64 {
        self.last + 1 - self.events.len() as u64
    }

    fn after(&self, event: u64) -> Option<(u64, &Event)> {
        let next = event.saturating_add(1).max(self.first());
        let at = usize::try_from(next - self.first()).ok()?;
        Some((next, self.events.get(at)?))
    }

    fn is_over_after(&self, event: u64) -> bool {
        self.ended.is_some() && self.after(event).is_none()
    }

    /// Everything up to this event has been read.
    fn read_to(&mut self, event: u64) {
        while self.read < event {
            self.read += 1;
            let at = usize::try_from(self.read - self.first()).ok();
            let size = at
                .and_then(|at| self.events.get(at))
                .map_or(0, |event| event.frame.len());
            self.bytes_unread = self.bytes_unread.saturating_sub(size);
            self.bytes_read += size;
        }
        // The last one is mostly the answer, for which a host comes back.
        while self.first() <= self.read
            && let Some(oldest) = self.events.front()
            && (self.bytes_read > READ && self.events.len() > 1 || oldest.held.is_none())
        {
            self.bytes_read -= oldest.frame.len();
            self.events.pop_front();
        }
    }
}

impl Carried {
    fn new(number: u64, exchange: Weak<Exchange>) -> Self {
        Self {
            number,
            exchange,
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

    /// Adds a message; what it takes to keep it once it is read comes from `budget`.
    pub fn carry(&self, message: &Envelope, budget: &Budget) -> Bytes {
        let mut kept = self.kept();
        kept.last += 1;
        let mut out = Vec::with_capacity(message.raw().len() + 48);
        sse::event(message.raw(), Some(&self.id(kept.last)), &mut out);
        let frame = Bytes::from(out);
        kept.bytes_unread += frame.len();
        let held = budget.hold(frame.len()).ok();
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
        let from = event.saturating_add(1).saturating_sub(kept.first());
        let from = usize::try_from(from).unwrap_or(usize::MAX);
        kept.events
            .iter()
            .skip(from)
            .map(|event| event.frame.clone())
            .collect()
    }

    /// Begins a stream that the host can come back to, which it has read up to `event`.
    pub fn prime(&self, event: u64, retry: Option<Duration>) -> Bytes {
        let mut out = Vec::new();
        let millis = retry.unwrap_or(RETRY).as_millis();
        let id = self.id(event);
        sse::priming(
            &id,
            Some(u64::try_from(millis).unwrap_or(u64::MAX)),
            &mut out,
        );
        out.into()
    }

    /// The number of the last event it has carried.
    pub fn last(&self) -> u64 {
        self.kept().last
    }

    /// Resolves when it takes more, however slow the host is.
    pub async fn until_room(&self) {
        loop {
            if self.kept().bytes_unread < UNREAD {
                return;
            }
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
        self.kept().ended.get_or_insert_with(Instant::now);
        self.wake.notify_waiters();
    }

    /// Whether no more will come.
    pub fn is_ended(&self) -> bool {
        self.kept().ended.is_some()
    }

    /// Reads it from after this event on. The newest reader takes over.
    pub fn read(self: &Arc<Self>, after: u64) -> Reader {
        let mut kept = self.kept();
        kept.readers += 1;
        kept.cut = None;
        let after = after.min(kept.last);
        kept.read_to(after);
        let turn = kept.readers;
        drop(kept);
        self.wake.notify_waiters();
        if let Some(exchange) = self.exchange.upgrade() {
            exchange.attach();
        }
        Reader {
            stream: self.clone(),
            turn,
            at: after,
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
        self.stream.prime(self.at, None)
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
                if kept.readers != self.turn {
                    self.is_done = true;
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
                    drop(kept);
                    return Some(self.stream.prime(self.at, Some(retry)));
                }
            }
            woken.await;
        }
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        if self.is_done || self.stream.kept().readers != self.turn {
            return;
        }
        if let Some(exchange) = self.stream.exchange.upgrade() {
            exchange.detach();
        }
    }
}
