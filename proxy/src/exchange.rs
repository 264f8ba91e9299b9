//! One request on its way, and everything that travels beside it until its answer.
//!
//! An exchange is made by a front before any policy sees the request, so that a held call can
//! already speak (progress) and be cancelled. It knows no transport: a front reads the mailbox or
//! hands in a line sink. It never decides anything.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::task::Poll;
use std::time::Duration;

use bytes::Bytes;
use chillgate_policies::engine::{Deadline, Grants, Waiting};
use chillgate_wire::{Envelope, Era, Id, json, message};
use futures_util::task::AtomicWaker;
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::lock::locked;
use crate::session::Session;

pub mod inputs;

use inputs::Inputs;

/// Messages that wait for one reader, bounded in number and bytes.
#[derive(Debug)]
pub struct Mailbox {
    queue: Mutex<Queue>,
    wake: Notify,
}

#[derive(Debug, Default)]
struct Queue {
    messages: VecDeque<Envelope>,
    bytes: usize,
    most: usize,
    closed: bool,
}

/// The mailbox cannot take the message: it is full, or nobody will ever read it.
#[derive(Debug)]
pub struct Refused;

/// How many bytes may wait for a reader before further messages are refused.
const MAILBOX_BYTES: usize = 1 << 20;

impl Mailbox {
    /// A mailbox for at most `most` messages.
    pub fn new(most: usize) -> Self {
        let queue = Queue {
            most,
            ..Queue::default()
        };
        Self {
            queue: Mutex::new(queue),
            wake: Notify::new(),
        }
    }

    /// Adds a message; one larger than the byte bound is taken when nothing else waits.
    pub fn push(&self, message: Envelope) -> Result<(), Refused> {
        let mut queue = locked(&self.queue);
        let size = message.raw().len();
        let full = queue.messages.len() >= queue.most
            || (!queue.messages.is_empty() && queue.bytes + size > MAILBOX_BYTES);
        if queue.closed || full {
            return Err(Refused);
        }
        queue.bytes += size;
        queue.messages.push_back(message);
        drop(queue);
        self.wake.notify_one();
        Ok(())
    }

    /// Whether an equal notification already waits, so that list changes coalesce.
    pub fn holds(&self, method: &str) -> bool {
        locked(&self.queue)
            .messages
            .iter()
            .any(|waiting| waiting.method() == Some(method))
    }

    /// The next message without waiting.
    pub fn take(&self) -> Option<Envelope> {
        let mut queue = locked(&self.queue);
        let message = queue.messages.pop_front()?;
        queue.bytes -= message.raw().len();
        Some(message)
    }

    /// Waits for the next message; `None` once closed and empty. Safe to cancel.
    pub async fn next(&self) -> Option<Envelope> {
        loop {
            let woken = self.wake.notified();
            if let Some(message) = self.take() {
                return Some(message);
            }
            if locked(&self.queue).closed {
                return None;
            }
            woken.await;
        }
    }

    /// Like [`Mailbox::next`], but returns `Some(None)` whenever it was woken, so that a reader
    /// can look whether it still is the one before it takes a message.
    pub async fn next_or_nudge(&self) -> Option<Option<Envelope>> {
        let woken = self.wake.notified();
        if let Some(message) = self.take() {
            return Some(Some(message));
        }
        if locked(&self.queue).closed {
            return None;
        }
        woken.await;
        Some(None)
    }

    /// Wakes every reader, so that each sees whether it is still the one.
    pub fn nudge(&self) {
        self.wake.notify_waiters();
        // And who is about to wait.
        self.wake.notify_one();
    }

    /// Takes no more messages; the reader gets what is left, then the end.
    pub fn close(&self) {
        locked(&self.queue).closed = true;
        self.wake.notify_waiters();
        self.wake.notify_one();
    }
}

/// An answer that takes longer shows signs of life: so long do hosts and proxies in between wait
/// for a first byte without doubt.
pub const QUIET: Duration = Duration::from_secs(15);

/// The same where the host can come back to a stream from its very beginning: what breaks before
/// there is one is lost.
const PRIMED: Duration = Duration::from_secs(1);

/// The host wants no log messages.
const NO_LEVEL: u8 = u8::MAX;

/// Why an exchange ended before its answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// The host said `notifications/cancelled`.
    ByHost,
    /// The session is over.
    Session,
    /// chillgate is stopping and the time to finish is used up.
    Drain,
}

/// One request of a host, from before admission to its answer.
#[derive(Debug)]
pub struct Exchange {
    /// The request's id in its session: the host's own, or one of chillgate's where several hosts
    /// share a session.
    pub id: Id,
    /// The request's id as the host wrote it.
    pub host_id: Id,
    /// Who asks.
    pub session: Arc<Session>,
    /// What the credential of this one request says of its agent.
    pub grants: Arc<Grants>,
    /// Where its own notifications and server requests wait for the front. Unused on stdio.
    pub mailbox: Mailbox,
    /// What servers have asked that its host hears as its outcome.
    pub inputs: Inputs,
    /// When the request arrived.
    pub began: Instant,
    token: Mutex<Option<Bytes>>,
    log_level: AtomicU8,
    mirrored: OnceLock<Vec<(String, String)>>,
    ended: Mutex<Option<Ended>>,
    /// Wakes whoever carries the call; there is never more than one.
    stop: AtomicWaker,
    detached: AtomicBool,
    askable: AtomicBool,
    aside: AtomicBool,
    quiet: AtomicBool,
    /// Nobody reads its stream.
    absent: AtomicBool,
    /// How many milliseconds its host is to stay away before it comes back for more; 0: it is not to.
    away: AtomicU32,
    activity: AtomicU64,
    questions: AtomicU32,
    hold: Mutex<Option<Hold>>,
    steps: AtomicU64,
}

#[derive(Clone, Debug)]
struct Hold {
    policy: Arc<str>,
    span: Duration,
    since: Instant,
}

impl Exchange {
    /// A request with this id has arrived from somebody with these grants; at most `outbox` messages
    /// may wait for its host.
    pub fn new(
        host_id: Id,
        session: Arc<Session>,
        grants: Arc<Grants>,
        outbox: usize,
    ) -> Arc<Self> {
        let id = session.number(&host_id);
        Arc::new(Self {
            id,
            host_id,
            session,
            grants,
            mailbox: Mailbox::new(outbox),
            inputs: Inputs::default(),
            began: Instant::now(),
            token: Mutex::new(None),
            log_level: AtomicU8::new(NO_LEVEL),
            mirrored: OnceLock::new(),
            ended: Mutex::new(None),
            stop: AtomicWaker::new(),
            detached: AtomicBool::new(false),
            askable: AtomicBool::new(false),
            aside: AtomicBool::new(false),
            quiet: AtomicBool::new(false),
            absent: AtomicBool::new(false),
            away: AtomicU32::new(0),
            activity: AtomicU64::new(0),
            questions: AtomicU32::new(0),
            hold: Mutex::new(None),
            steps: AtomicU64::new(0),
        })
    }

    /// Remembers the host's progress token, to the letter.
    pub fn set_token(&self, token: Option<Bytes>) {
        *locked(&self.token) = token;
    }

    /// The host's progress token, to the letter.
    pub fn token(&self) -> Option<Bytes> {
        locked(&self.token).clone()
    }

    /// The host wants log messages with this request, from this severity on, or none.
    pub fn set_log_level(&self, level: Option<u8>) {
        let level = level.unwrap_or(NO_LEVEL);
        self.log_level.store(level, Ordering::Relaxed);
    }

    /// The request came with these header fields for arguments: the rest of the name, in lower
    /// case, and the text.
    pub fn set_mirrored(&self, fields: Vec<(String, String)>) {
        let _ = self.mirrored.set(fields);
    }

    /// The header fields for arguments, where the request came over a transport that has them.
    pub fn mirrored(&self) -> Option<&[(String, String)]> {
        self.mirrored.get().map(Vec::as_slice)
    }

    /// The least severe log message that the host wants with this request; none: it wants none.
    pub fn log_level(&self) -> Option<u8> {
        Some(self.log_level.load(Ordering::Relaxed)).filter(|level| *level != NO_LEVEL)
    }

    /// Whether its host may want log messages with it: a modern one says so, others always may.
    pub fn wants_log(&self) -> bool {
        self.session.era() == Era::Legacy || self.log_level().is_some()
    }

    /// Sends a message to the host on this request's own stream.
    pub fn send(&self, message: Envelope) -> Result<(), Refused> {
        self.touch();
        match self.session.line() {
            Some(line) => line.offer(&message),
            None if self.aside.load(Ordering::Relaxed) => self.session.tell(message),
            None => self.mailbox.push(message),
        }
    }

    /// The request has no stream of its own (a batch): what belongs to it goes to the session's.
    pub fn speak_aside(&self) {
        self.aside.store(true, Ordering::Relaxed);
    }

    /// The server has shown that it still works on this request.
    pub fn touch(&self) {
        self.activity
            .store(self.began.elapsed().as_millis() as u64, Ordering::Relaxed);
    }

    /// The server asks the host something; until the host has answered, time does not count.
    pub fn asked(&self) {
        self.questions.fetch_add(1, Ordering::Relaxed);
        self.touch();
    }

    /// The host has answered one question.
    pub fn answered(&self) {
        let _ = self
            .questions
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |n| n.checked_sub(1));
        self.touch();
    }

    /// Ends the exchange early. The first reason stays.
    pub fn end(&self, why: Ended) {
        locked(&self.ended).get_or_insert(why);
        self.stop.wake();
    }

    /// Why the exchange was ended early, if it was.
    pub fn ended(&self) -> Option<Ended> {
        *locked(&self.ended)
    }

    /// Resolves when the exchange is ended early. Safe to cancel; for the one who carries it.
    pub async fn until_ended(&self) -> Ended {
        poll_fn(|cx| {
            self.stop.register(cx.waker());
            self.ended().map_or(Poll::Pending, Poll::Ready)
        })
        .await
    }

    /// The host's connection is gone, and there is no stream to come back to; in the legacy eras the
    /// call goes on without it.
    pub fn detach(&self) {
        self.detached.store(true, Ordering::Relaxed);
    }

    /// Whether its host is there to read its stream, to which it may come back.
    pub fn note_host(&self, is_there: bool) {
        self.absent.store(!is_there, Ordering::Relaxed);
    }

    /// Whether nobody is there for its answer.
    pub fn is_unheard(&self) -> bool {
        self.is_detached() || self.absent.load(Ordering::Relaxed)
    }

    /// The server has closed its stream and wants to be asked again after so long; the host's own
    /// need not stay open either, where it can come back.
    pub fn send_away(&self, span: Duration) {
        if self.session.is_primed() {
            let millis = u32::try_from(span.as_millis()).unwrap_or(u32::MAX);
            self.away.store(millis.max(1), Ordering::Relaxed);
            self.mailbox.nudge();
        }
    }

    /// How long the host is to stay away, asked once.
    pub fn take_away(&self) -> Option<Duration> {
        let millis = self.away.swap(0, Ordering::Relaxed);
        (millis > 0).then(|| Duration::from_millis(u64::from(millis)))
    }

    /// Whether the host is to be shown that the call goes on, or be sent away meanwhile.
    pub fn is_to_stream(&self) -> bool {
        self.is_quiet() || self.away.load(Ordering::Relaxed) > 0
    }

    /// Somebody hears what the server wants to know from its host.
    pub fn hear_inputs(&self) {
        self.askable.store(true, Ordering::Relaxed);
    }

    /// Whether the server can ask its host something as the outcome of this request.
    pub fn is_askable(&self) -> bool {
        self.askable.load(Ordering::Relaxed)
    }

    /// Whether anybody still waits for the answer on this request's own stream.
    pub fn is_detached(&self) -> bool {
        self.detached.load(Ordering::Relaxed)
    }

    /// Resolves when nothing was heard for `idle`, or `max` has passed since now.
    /// Time in which the server waits for the host does not count towards `idle`.
    pub async fn until_overdue(&self, Deadline { idle, max }: Deadline) -> Duration {
        let begun = self.began.elapsed();
        self.activity
            .store(begun.as_millis() as u64, Ordering::Relaxed);
        let mut now = begun;
        loop {
            let quiet_since = if self.questions.load(Ordering::Relaxed) > 0 {
                now
            } else {
                Duration::from_millis(self.activity.load(Ordering::Relaxed))
            };
            let idle_left = idle.map(|idle| (quiet_since + idle).saturating_sub(now));
            let max_left = max.map(|max| (begun + max).saturating_sub(now));
            let left = idle_left.into_iter().chain(max_left).min();
            if left.is_some_and(|left| left.is_zero()) {
                return now.saturating_sub(begun);
            }
            let is_quiet = self.quiet.load(Ordering::Relaxed);
            let wake = if is_quiet {
                left
            } else {
                let until_quiet = self.quiet_after().saturating_sub(now);
                Some(left.map_or(until_quiet, |left| left.min(until_quiet)))
            };
            let Some(wake) = wake else {
                return std::future::pending().await;
            };
            tokio::time::sleep_until(self.began + now + wake).await;
            now = self.began.elapsed();
            if !is_quiet && now >= self.quiet_after() {
                self.grow_quiet();
            }
        }
    }

    fn quiet_after(&self) -> Duration {
        if self.session.is_primed() {
            PRIMED
        } else {
            QUIET
        }
    }

    /// It has taken long: whoever waits on the mailbox may want to show a sign of life.
    fn grow_quiet(&self) {
        self.quiet.store(true, Ordering::Relaxed);
        self.mailbox.nudge();
    }

    /// Whether the answer has been so long in coming that the host should see a sign of life.
    pub fn is_quiet(&self) -> bool {
        self.quiet.load(Ordering::Relaxed)
    }

    /// While a policy holds the call: tells the host once a second, if it asked for progress.
    pub async fn report_hold(&self) {
        loop {
            let holding = locked(&self.hold).clone();
            if let (Some(hold), Some(token)) = (holding, self.token()) {
                let waited = hold.since.elapsed().as_secs_f64().floor();
                let step = self.steps.fetch_add(1, Ordering::Relaxed);
                let total = hold.span.as_secs_f64();
                let text = format!(
                    "Held by policy {}: {:.0} s of {total:.0} s",
                    hold.policy,
                    waited.min(total)
                );
                // Progress must rise with each notification, whatever the clock says.
                let progress = waited.min(total).max(0.0) + step as f64 * 1e-3;
                let params = format!(
                    r#"{{"progressToken":{},"progress":{progress:.3},"total":{total:.3},"message":{}}}"#,
                    String::from_utf8_lossy(&token),
                    json::quote(&text),
                );
                let note = message::notification("notifications/progress", Some(params.as_bytes()));
                if let Ok(note) = Envelope::parse(note, &chillgate_wire::Limits::default()) {
                    // A host that does not read loses progress, never its answer.
                    let _ = self.send(note);
                }
            }
            // Who asked for no progress is woken for a sign of life only, and then for nothing.
            let pause = if self.token().is_some() {
                Duration::from_secs(1)
            } else if self.is_quiet() {
                Duration::from_hours(24)
            } else {
                self.quiet_after().saturating_sub(self.began.elapsed())
            };
            tokio::time::sleep(pause).await;
            if !self.is_quiet() && self.began.elapsed() >= self.quiet_after() {
                self.grow_quiet();
            }
        }
    }

    /// Whether a policy holds the call right now.
    pub fn is_held(&self) -> bool {
        locked(&self.hold).is_some()
    }
}

impl Waiting for Exchange {
    fn waiting(&self, policy: &Arc<str>, span: Duration) {
        let hold = Hold {
            policy: policy.clone(),
            span,
            since: Instant::now(),
        };
        *locked(&self.hold) = Some(hold);
    }

    fn done_waiting(&self) {
        *locked(&self.hold) = None;
    }
}
