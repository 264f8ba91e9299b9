//! Tasks of older servers that the modern hosts of a session have: what they want to know.
//!
//! Such a server asks about a task as it asks about a call, and says which task it means. The
//! questions are kept here until the host looks at its task. It carries nothing and words nothing.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use chillgate_wire::{Envelope, Era, code, message};
use tokio::sync::Notify;
use tokio::task::AbortHandle;

use super::{Asker, Session};
use crate::era::tasks;
use crate::exchange::{Exchange, Refused};
use crate::lock::locked;
use crate::route::own;

/// So many are known of one session; the oldest go first.
const MOST: usize = 256;
/// How many of them may have their server wait for the host at one time.
const WAITING: usize = 16;
/// A server may ask about a task before its making has been heard of, by so much at most.
const EARLY: Duration = Duration::from_secs(2);

/// The tasks of one session.
#[derive(Debug, Default)]
pub struct Tasks {
    known: Mutex<VecDeque<Arc<Task>>>,
    made: Notify,
    changed: Notify,
}

/// One of them.
#[derive(Debug)]
pub struct Task {
    server: Arc<str>,
    id: String,
    /// What its questions are kept with.
    pub exchange: Arc<Exchange>,
    waiter: Mutex<Option<AbortHandle>>,
}

impl Task {
    /// Whether somebody waits for its result, so that its server can ask.
    pub fn is_waited_for(&self) -> bool {
        let waiter = locked(&self.waiter);
        waiter.as_ref().is_some_and(|waiter| !waiter.is_finished())
    }

    /// From now on this one does, until the task is forgotten.
    pub fn wait(&self, waiter: AbortHandle) {
        *locked(&self.waiter) = Some(waiter);
    }
}

impl Tasks {
    /// A task is there, and its questions are kept with this exchange.
    pub fn begin(&self, server: &Arc<str>, id: &str, exchange: Arc<Exchange>) -> Arc<Task> {
        exchange.hear_inputs();
        let task = Arc::new(Task {
            server: server.clone(),
            id: id.to_owned(),
            exchange,
            waiter: Mutex::default(),
        });
        // A server that gives an id again has made another task.
        self.end(server, id);
        let oldest = {
            let mut known = locked(&self.known);
            known.push_back(task.clone());
            (known.len() > MOST).then(|| known.pop_front()).flatten()
        };
        if let Some(oldest) = oldest {
            over(&oldest);
        }
        self.made.notify_waiters();
        task
    }

    /// The task of this server with this id.
    pub fn find(&self, server: &str, id: &str) -> Option<Arc<Task>> {
        let known = locked(&self.known);
        let found = known
            .iter()
            .find(|task| *task.server == *server && task.id == id);
        found.cloned()
    }

    /// Nobody needs to know of it any more.
    pub fn end(&self, server: &str, id: &str) {
        let ended = {
            let mut known = locked(&self.known);
            let at = known
                .iter()
                .position(|task| *task.server == *server && task.id == id);
            at.and_then(|at| known.remove(at))
        };
        if let Some(ended) = ended {
            over(&ended);
        }
    }

    /// A server says that one of its tasks is not as it was.
    pub fn changed(&self) {
        self.changed.notify_waiters();
    }

    /// Resolves when a server says so.
    pub async fn until_changed(&self) {
        self.changed.notified().await;
    }

    /// Whether one more may have its server wait for the host.
    pub fn may_wait(&self) -> bool {
        let known = locked(&self.known);
        known.iter().filter(|task| task.is_waited_for()).count() < WAITING
    }

    /// The session is over.
    pub(super) fn clear(&self) {
        let known = std::mem::take(&mut *locked(&self.known));
        for task in known {
            over(&task);
        }
    }
}

fn over(task: &Task) {
    if let Some(waiter) = locked(&task.waiter).take() {
        waiter.abort();
    }
    task.exchange.session.questions.end_of(&task.exchange);
}

impl Session {
    /// A server asks a modern host something about a task. `None`: it is not about one.
    pub fn ask_about_task(
        self: &Arc<Self>,
        server: &Arc<str>,
        asker: &Arc<dyn Asker>,
        question: &Envelope,
    ) -> Option<Result<(), Refused>> {
        if self.era() != Era::Modern {
            return None;
        }
        let id = tasks::related(question)?;
        if let Some(task) = self.tasks.find(server, &id) {
            return Some(self.ask(asker.clone(), question, Some(&task.exchange)));
        }
        let asking = self.clone().ask_late(
            server.clone(),
            id,
            asker.clone(),
            question.clone(),
            self.why_unasked(),
        );
        tokio::spawn(asking);
        Some(Ok(()))
    }

    /// The task may be one that its host is just being told of.
    async fn ask_late(
        self: Arc<Self>,
        server: Arc<str>,
        id: String,
        asker: Arc<dyn Asker>,
        question: Envelope,
        why_not: &'static str,
    ) {
        let known = async {
            loop {
                let made = self.tasks.made.notified();
                if let Some(task) = self.tasks.find(&server, &id) {
                    return task;
                }
                made.await;
            }
        };
        let put = match tokio::time::timeout(EARLY, known).await {
            Ok(task) => self.ask(asker.clone(), &question, Some(&task.exchange)),
            Err(_) => Err(Refused),
        };
        if put.is_err()
            && let Some(id) = question.id_bytes()
            && let Ok(refusal) = own(message::error(
                Some(id),
                code::METHOD_NOT_FOUND,
                why_not,
                None,
            ))
        {
            asker.answer(refusal).await;
        }
    }
}
