//! Tasks of older servers that the modern hosts of a session have: what they want to know.
//!
//! Such a server asks about a task as it asks about a call, and says which task it means. The
//! questions are kept here until the host looks at its task. It carries nothing and words nothing.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use chillgate_wire::{Envelope, Era, Id, code, message};
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
const WAITING: usize = 64;
/// How many questions may be ahead of the word that there is a task.
const AHEAD: usize = 64;
/// A server may ask about a task before its making has been heard of, by so much at most.
const EARLY: Duration = Duration::from_secs(2);

/// The tasks of one session.
#[derive(Debug, Default)]
pub struct Tasks {
    known: Mutex<VecDeque<Arc<Task>>>,
    made: Notify,
    changed: Notify,
    ahead: AtomicUsize,
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
    fn is(&self, server: &str, id: &str) -> bool {
        *self.server == *server && self.id == id
    }

    fn is_waited_for(&self) -> bool {
        let waiter = locked(&self.waiter);
        waiter.as_ref().is_some_and(|waiter| !waiter.is_finished())
    }

    fn wait_no_more(&self) {
        if let Some(waiter) = locked(&self.waiter).take() {
            waiter.abort();
        }
    }
}

impl Tasks {
    /// A task has been made, and its questions are kept with this exchange.
    pub fn begin(&self, server: &Arc<str>, id: &str, exchange: Arc<Exchange>) {
        // A server that gives an id again has made another task.
        self.end(server, id);
        self.find_or_begin(server, id, || exchange);
    }

    /// The task of this server with this id, made known where it is not.
    pub fn find_or_begin(
        &self,
        server: &Arc<str>,
        id: &str,
        questions: impl FnOnce() -> Arc<Exchange>,
    ) -> Arc<Task> {
        let mut known = locked(&self.known);
        if let Some(task) = known.iter().find(|task| task.is(server, id)) {
            return task.clone();
        }
        let exchange = questions();
        exchange.hear_inputs();
        let task = Arc::new(Task {
            server: server.clone(),
            id: id.to_owned(),
            exchange,
            waiter: Mutex::default(),
        });
        // Nobody would take it out of one that is over.
        if !task.exchange.session.is_over() {
            known.push_back(task.clone());
        }
        let oldest = (known.len() > MOST).then(|| known.pop_front()).flatten();
        drop(known);
        if let Some(oldest) = oldest {
            over(&oldest);
        }
        self.made.notify_waiters();
        task
    }

    /// The task of this server with this id.
    pub fn find(&self, server: &str, id: &str) -> Option<Arc<Task>> {
        let known = locked(&self.known);
        known.iter().find(|task| task.is(server, id)).cloned()
    }

    /// Nobody needs to know of it any more.
    pub fn end(&self, server: &str, id: &str) {
        let ended = {
            let mut known = locked(&self.known);
            let at = known.iter().position(|task| task.is(server, id));
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

    /// Has somebody wait for the result of a task, where nobody does. Where many are waited for, the
    /// one that has been for longest no longer is, until its host looks again.
    pub fn wait_for(&self, task: &Task, begin: impl FnOnce() -> AbortHandle) {
        let known = locked(&self.known);
        if task.is_waited_for() {
            return;
        }
        let mut waiting = known.iter().filter(|task| task.is_waited_for());
        let longest = waiting.next();
        if waiting.count() + 1 >= WAITING
            && let Some(longest) = longest
        {
            longest.wait_no_more();
        }
        *locked(&task.waiter) = Some(begin());
    }

    /// The session is over.
    pub(super) fn clear(&self) {
        let known = std::mem::take(&mut *locked(&self.known));
        for task in known {
            over(&task);
        }
    }
}

/// What its server still wants to know it is not told.
fn over(task: &Arc<Task>) {
    task.wait_no_more();
    let open = task
        .exchange
        .inputs
        .peek(|inputs| inputs.iter().map(|input| input.number).collect::<Vec<_>>());
    let Some(open) = open else { return };
    let task = task.clone();
    tokio::spawn(async move {
        for number in open {
            let (number, text) = (Id::number(number), "the host no longer follows the task");
            let id = Some(number.as_bytes());
            if let Ok(refusal) = own(message::error(id, code::INTERNAL_ERROR, text, None)) {
                task.exchange.session.answer(&refusal).await;
            }
        }
    });
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
            return Some(self.ask(asker.clone(), question, Some(&task.exchange), None));
        }
        if self.tasks.ahead.fetch_add(1, Ordering::Relaxed) >= AHEAD {
            self.tasks.ahead.fetch_sub(1, Ordering::Relaxed);
            return Some(Err(Refused));
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
        let known = tokio::time::timeout(EARLY, known).await;
        self.tasks.ahead.fetch_sub(1, Ordering::Relaxed);
        let put = match known {
            Ok(task) => self.ask(asker.clone(), &question, Some(&task.exchange), None),
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
