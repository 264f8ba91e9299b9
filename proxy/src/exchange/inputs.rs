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

use crate::lock::locked;

/// A server that asks several things at once asks them in quick succession.
const MORE_TO_COME: Duration = Duration::from_millis(30);

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
    last: Option<Instant>,
    lacking: Option<Value>,
}

impl Inputs {
    fn change(&self) -> MutexGuard<'_, Open> {
        self.asked.notify_one();
        locked(&self.open)
    }

    /// The server asks something more.
    pub fn add(&self, input: Input) {
        let mut open = self.change();
        open.inputs.push(input);
        open.last = Some(Instant::now());
    }

    /// The server asked for what this host has not declared.
    pub fn lacks(&self, capabilities: Value) {
        self.change().lacking = Some(capabilities);
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
                match open.last.map(|last| last + MORE_TO_COME) {
                    Some(due) if due <= Instant::now() => {
                        open.last = None;
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
