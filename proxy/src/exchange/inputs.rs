//! What a server wants to know from the host of one call that has no requests of servers.
//!
//! A modern host hears such a question only as the outcome of its call, so questions are gathered
//! here until the server has fallen silent. It neither words the outcome nor knows the answers.

use std::sync::{Mutex, MutexGuard};
use std::time::Duration;

use bytes::Bytes;
use serde_json::Value;
use tokio::sync::Notify;
use tokio::time::Instant;

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
    open: Mutex<Open>,
    asked: Notify,
}

#[derive(Debug, Default)]
struct Open {
    inputs: Vec<Input>,
    /// When the first and the last of them were asked.
    asked: Option<(Instant, Instant)>,
    lacking: Option<Value>,
}

impl Inputs {
    fn change(&self) -> MutexGuard<'_, Open> {
        self.asked.notify_one();
        locked(&self.open)
    }

    /// The server asks something more. An error: it has asked enough for one time.
    pub fn add(&self, input: Input) -> Result<(), Refused> {
        let mut open = self.change();
        let size = |input: &Input| input.params.as_ref().map_or(0, Bytes::len);
        let bytes: usize = open.inputs.iter().map(size).sum();
        let is_full = open.inputs.len() >= MOST || bytes + size(&input) > MOST_BYTES;
        if is_full && !open.inputs.is_empty() {
            return Err(Refused);
        }
        open.inputs.push(input);
        let now = Instant::now();
        open.asked = Some((open.asked.map_or(now, |(first, _)| first), now));
        Ok(())
    }

    /// The server no longer wants to know.
    pub fn withdraw(&self, number: u64) {
        let mut open = self.change();
        open.inputs.retain(|input| input.number != number);
        if open.inputs.is_empty() {
            open.asked = None;
        }
    }

    /// The server asked for what this host has not declared.
    pub fn lacks(&self, capabilities: Value) {
        self.change().lacking = Some(capabilities);
    }

    /// Shows what has been asked, which stays where it is. `None`: nothing has.
    pub fn peek<T>(&self, look: impl FnOnce(&[Input]) -> T) -> Option<T> {
        let open = locked(&self.open);
        (!open.inputs.is_empty()).then(|| look(&open.inputs))
    }

    /// Resolves once the server has asked something and then been silent for a moment. Safe to
    /// cancel; for the one who carries the call.
    pub async fn wanted(&self) -> Wanted {
        loop {
            let asked = self.asked.notified();
            let last = {
                let mut open = locked(&self.open);
                if let Some(lacking) = open.lacking.take() {
                    return Wanted::Capabilities(lacking);
                }
                let due = open
                    .asked
                    .map(|(first, last)| (last + MORE_TO_COME).min(first + LONGEST));
                match due {
                    Some(due) if due <= Instant::now() => {
                        open.asked = None;
                        return Wanted::Answers(std::mem::take(&mut open.inputs));
                    }
                    last => last,
                }
            };
            match last {
                None => asked.await,
                Some(due) => {
                    let _ = tokio::time::timeout_at(due, asked).await;
                }
            }
        }
    }
}
