//! Hibernation: a process that nobody uses is stopped, and what it lists stays.
//!
//! Before it goes, chillgate reads all its lists; while it sleeps, they are answered from there, as
//! the server itself wrote them. The first call of anything else wakes it, and then its lists are
//! read again: hosts hear if they have changed. When to sleep is decided elsewhere.

use std::collections::HashMap;
use std::sync::Arc;

use chillgate_wire::{Envelope, Era, json};
use tracing::{debug, info};

use super::Pipes;
use super::slot::Slot;
use crate::backend::BackendError;
use crate::backend::greeting::{Greeting, META_OF_THE_GATE};
use crate::backend::pipe::Pipe;
use crate::backend::pipe::seen::LISTS;
use crate::backend::said::severity;
use crate::era::server::{self, Came};
use crate::exchange::Exchange;
use crate::lock::locked;

/// Pages and bytes of its lists that are kept of one process; what has more is not put to sleep.
const PAGES: usize = 100;
const BYTES: usize = 4 << 20;

/// What a process said before it was stopped.
#[derive(Debug)]
pub(super) struct Asleep {
    pub(super) greeting: Greeting,
    /// Answers by list and cursor.
    pages: HashMap<(&'static str, Option<String>), Envelope>,
}

impl Pipes {
    /// Reads all that the server lists. `None`: it cannot be read whole, so it is not to sleep.
    async fn read_lists(&self, pipe: &Arc<Pipe>) -> Option<Asleep> {
        let greeting = pipe.greeting()?.clone();
        let mut pages = HashMap::new();
        let mut bytes = 0;
        for (method, _, capability) in LISTS {
            if json::path(&greeting.result, &["capabilities", capability]).is_none() {
                continue;
            }
            let mut cursor: Option<String> = None;
            loop {
                let params = params(pipe.era(), cursor.as_deref());
                let asking = pipe.request_own(method, params.as_bytes());
                let answer = tokio::time::timeout(self.0.start_timeout, asking).await;
                let answer = answer.ok()?.ok()?;
                pipe.seen().note((method, cursor.clone()), &answer);
                let Some(result) = answer.result() else {
                    // It has no such list, whatever it said before.
                    pages.insert((method, cursor), answer);
                    break;
                };
                let next = json::member(result, "nextCursor")
                    .and_then(|at| json::text(&result[at]).map(std::borrow::Cow::into_owned));
                bytes += answer.raw().len();
                if pages.len() >= PAGES || bytes > BYTES {
                    return None;
                }
                let is_new = pages.insert((method, cursor), answer).is_none();
                match next {
                    Some(next) if is_new => cursor = Some(next),
                    Some(_) => return None,
                    None => break,
                }
            }
        }
        Some(Asleep { greeting, pages })
    }

    /// Stops a process that nobody uses, if nobody does until all its lists are read. Returns
    /// whether it sleeps now.
    pub(super) async fn put_to_sleep(&self, slot: &Slot, pipe: &Arc<Pipe>) -> bool {
        // Only processes: a server elsewhere lives on, and chillgate would not hear what it says. And
        // one that has something to say to somebody stays awake.
        let is_wanted = || !pipe.audience().wanted().is_empty();
        if pipe.process().is_none() || is_wanted() {
            return false;
        }
        let (calls, notes) = (pipe.calls(), pipe.notes());
        let Some(asleep) = self.read_lists(pipe).await else {
            debug!(server = %self.0.terms.server, "Its lists cannot be kept, so it stays awake.");
            return false;
        };
        // From here on nothing waits: nobody can come in between.
        let is_current = slot.current().is_some_and(|now| Arc::ptr_eq(&now, pipe));
        let is_as_before = pipe.calls() == calls && pipe.notes() == notes && !is_wanted();
        if !is_as_before || !pipe.is_at_rest() || !is_current {
            return false;
        }
        *locked(&slot.asleep) = Some(Arc::new(asleep));
        pipe.wear();
        pipe.close();
        self.0.terms.metrics.child_slept(&self.0.terms.server);
        info!(server = %self.0.terms.server, "Nobody has used the server for a while; it sleeps.");
        true
    }

    /// The answer of a process that sleeps, where it can be given without it.
    pub(super) fn recall(
        &self,
        slot: &Slot,
        exchange: &Arc<Exchange>,
        request: &Envelope,
    ) -> Option<Result<Envelope, BackendError>> {
        let asleep = slot.asleep()?;
        let session = &exchange.session;
        if let Some(pipe) = &*locked(&slot.pipe) {
            // So that it hears of what has changed meanwhile.
            pipe.audience().join(session);
        }
        let method = request.method()?;
        match method {
            "ping" => return Some(self.own_result(exchange, b"{}")),
            "logging/setLevel" if session.era() == Era::Legacy => {
                // It is told when it wakes: what the process before was told, the next one is.
                let level = request.text(&["params", "level"])?;
                let level = severity(&level)?;
                let pipe = locked(&slot.pipe).clone()?;
                if pipe.audience().is_shared() {
                    session.set_log_level(level);
                    pipe.lower_level(level);
                } else {
                    pipe.note_level(level);
                }
                return Some(self.own_result(exchange, b"{}"));
            }
            _ => {}
        }
        let (method, ..) = LISTS.into_iter().find(|(list, ..)| *list == method)?;
        let cursor = request.text(&["params", "cursor"]);
        let cursor = cursor.map(std::borrow::Cow::into_owned);
        let page = asleep.pages.get(&(method, cursor))?;
        // What a server of 2026-07-28 says to one is not for all, unless it says so.
        let scope = page.get(&["result", "cacheScope"]);
        let is_shared = self.0.terms.era == Era::Modern && self.0.places.is_shared();
        if is_shared && scope.is_none_or(|scope| scope != br#""public""#) {
            return None;
        }
        let answer = page.with_id(exchange.host_id.as_bytes());
        if self.0.terms.era == Era::Modern && session.era() == Era::Legacy {
            return match server::from_modern(method, answer) {
                Came::Answer(answer) => Some(Ok(answer)),
                _ => None,
            };
        }
        Some(Ok(answer))
    }

    /// Another process is there than the one that hosts were shown the lists of: whether it shows
    /// the same.
    pub(super) async fn verify(&self, before: &Pipe, now: &Arc<Pipe>) {
        let mut changed = Vec::new();
        for (method, cursor) in before.seen().pages() {
            let params = params(now.era(), cursor.as_deref());
            let asking = now.request_own(method, params.as_bytes());
            let Ok(Ok(page)) = tokio::time::timeout(self.0.start_timeout, asking).await else {
                return;
            };
            if method == "tools/list" {
                self.0.repeatable.note(&page);
            }
            let told = LISTS.into_iter().find(|(list, ..)| *list == method);
            if now.seen().note((method, cursor), &page)
                && let Some((.., told)) = told
                && !changed.contains(&told)
            {
                changed.push(told);
            }
        }
        for list in changed {
            info!(server = %self.0.terms.server, list, "It lists something else than before.");
            now.tell_changed(list);
        }
    }
}

fn params(era: Era, cursor: Option<&str>) -> String {
    let cursor = cursor.map(|cursor| format!(r#""cursor":{}"#, json::quote(cursor)));
    let meta = (era == Era::Modern).then(|| format!(r#""_meta":{META_OF_THE_GATE}"#));
    let members: Vec<_> = [cursor, meta].into_iter().flatten().collect();
    format!("{{{}}}", members.join(","))
}
