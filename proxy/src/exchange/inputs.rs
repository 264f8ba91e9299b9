//! What a server wants to know from the host of one call that has no requests of servers.
//!
//! A modern host hears such a question only as the outcome of its call, so questions are gathered
//! here until the server has fallen silent. It neither words the outcome nor knows the answers.

use std::pin::Pin;
use std::sync::Mutex;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use futures_util::task::AtomicWaker;
use serde_json::Value;
use tokio::time::{Instant, Sleep};

use super::Refused;
use crate::lock::locked;

/// A server that asks several things at once asks them in quick succession.
const MORE_TO_COME: Duration = Duration::from_millis(30);

/// One that goes on asking is not waited for any longer.
const LONGEST: Duration = Duration::from_millis(300);
/// Questions and bytes of one round.
const MOST: usize = 64;
const MOST_BYTES: usize = 1 << 20;

/// One question.
#[derive(Debug)]
pub struct Input {
    /// Its number in the session, by which its answer finds the server.
    pub number: u64,
    /// What its server calls it; a host may bring an answer before it is asked.
    pub name: Option<String>,
    /// What is asked for.
    pub method: String,
    /// With which `params`, in the words of the modern era.
    pub params: Option<Bytes>,
}

/// What the call has come to for now.
#[derive(Debug)]
pub enum Wanted {
    /// The server waits for these answers.
    Answers(Vec<Input>),
    /// The server asked for something that this host cannot give: the capabilities that would do.
    Capabilities(Value),
}

/// The questions of one call that its host has not heard yet.
#[derive(Debug, Default)]
pub struct Inputs {
    /// Made with the first question: most calls lead to none, and there are many of them.
    open: Mutex<Option<Box<Open>>>,
    /// Wakes whoever carries the call; there is never more than one.
    asked: AtomicWaker,
}

/// How long a server has left to go on asking; of the one who waits for what it asks.
pub type Silence = Option<Pin<Box<Sleep>>>;

#[derive(Debug, Default)]
struct Open {
    inputs: Vec<Input>,
    /// When the first and the last of them were asked.
    asked: Option<(Instant, Instant)>,
    /// Before then it is not known whether they are this call's.
    not_before: Option<Instant>,
    lacking: Option<Value>,
}

impl Inputs {
    fn change<T>(&self, change: impl FnOnce(&mut Open) -> T) -> T {
        let done = change(locked(&self.open).get_or_insert_default());
        self.asked.wake();
        done
    }

    /// The server asks something more, to be heard no sooner than `not_before`. An error: it has
    /// asked enough for one time.
    pub fn add(&self, mut input: Input, not_before: Option<Instant>) -> Result<(), Refused> {
        self.change(|open| {
            // A name holds for one question at a time.
            let is_taken =
                |name: &String| open.inputs.iter().any(|it| it.name.as_ref() == Some(name));
            input.name = input.name.filter(|name| !is_taken(name));
            let size = |input: &Input| input.params.as_ref().map_or(0, Bytes::len);
            let bytes: usize = open.inputs.iter().map(size).sum();
            let is_full = open.inputs.len() >= MOST || bytes + size(&input) > MOST_BYTES;
            if is_full && !open.inputs.is_empty() {
                return Err(Refused);
            }
            open.inputs.push(input);
            let now = Instant::now();
            open.asked = Some((open.asked.map_or(now, |(first, _)| first), now));
            open.not_before = not_before;
            Ok(())
        })
    }

    /// The server no longer wants to know.
    pub fn withdraw(&self, number: u64) {
        self.change(|open| {
            open.inputs.retain(|input| input.number != number);
            if open.inputs.is_empty() {
                open.asked = None;
            }
        });
    }

    /// The server asked for what this host has not declared.
    pub fn lacks(&self, capabilities: Value) {
        self.change(|open| open.lacking = Some(capabilities));
    }

    /// Shows what has been asked, which stays where it is. `None`: nothing has.
    pub fn peek<T>(&self, look: impl FnOnce(&[Input]) -> T) -> Option<T> {
        let open = locked(&self.open);
        let inputs = open.as_ref().map(|open| &open.inputs);
        inputs
            .filter(|inputs| !inputs.is_empty())
            .map(|inputs| look(inputs))
    }

    /// Ready once the server has asked something and then been silent for a moment. For the one who
    /// carries the call.
    pub fn poll_wanted(&self, silence: &mut Silence, cx: &mut Context<'_>) -> Poll<Wanted> {
        self.asked.register(cx.waker());
        loop {
            let due = {
                let mut open = locked(&self.open);
                let Some(open) = &mut *open else {
                    *silence = None;
                    return Poll::Pending;
                };
                if let Some(lacking) = open.lacking.take() {
                    return Poll::Ready(Wanted::Capabilities(lacking));
                }
                let Some((first, last)) = open.asked else {
                    *silence = None;
                    return Poll::Pending;
                };
                let due = (last + MORE_TO_COME).min(first + LONGEST);
                let due = open.not_before.map_or(due, |then| due.max(then));
                if due <= Instant::now() {
                    open.asked = None;
                    return Poll::Ready(Wanted::Answers(std::mem::take(&mut open.inputs)));
                }
                due
            };
            let left = silence.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(due)));
            if left.deadline() != due {
                left.as_mut().reset(due);
            }
            std::task::ready!(left.as_mut().poll(cx));
        }
    }
}
