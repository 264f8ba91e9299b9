//! A modern server's questions, put to a host that hears them as requests (eras, b.4).
//!
//! The server has ended its call in `input_required`; here each of its questions becomes a request
//! on the stream of the host's own call, and the answers are gathered. It never calls the server.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use chillgate_wire::{Envelope, Id, Kind, Revision, json, message};
use tokio::sync::oneshot;

use crate::era::{rounds, tasks};
use crate::exchange::Exchange;
use crate::lock::locked;
use crate::route::own;
use crate::session::{Asker, Session, random_id};

/// What can be done with an `input_required`.
#[derive(Debug)]
pub enum Put {
    /// It asks nothing.
    Nothing,
    /// The host has been asked.
    Questions(Questions),
    /// The host cannot be asked this; why.
    Unanswerable(String),
}

/// Questions whose answers are on their way; dropped, the host hears that nobody waits for them.
#[derive(Debug)]
pub struct Questions {
    session: Arc<Session>,
    open: VecDeque<Open>,
}

#[derive(Debug)]
struct Open {
    key: String,
    /// Under which the session knows the question.
    id: Id,
    method: String,
    answered: oneshot::Receiver<Envelope>,
}

/// The member of results that holds a server's questions.
const REQUESTS: &str = "inputRequests";

/// The questions in the outcome of a call, an object, where it is `input_required`.
pub fn asked_in(answer: &Envelope) -> Option<&[u8]> {
    let kind = answer.text(&["result", "resultType"])?;
    match &*kind {
        "input_required" => answer.get(&["result", REQUESTS]),
        _ => None,
    }
}

/// A question of an `input_required` as the request that it once was.
pub fn question(id: &[u8], said: &[u8]) -> Option<Envelope> {
    let method = json::member(said, "method").and_then(|at| json::text(&said[at]))?;
    let params = json::member(said, "params").map(|at| &said[at]);
    own(message::request(id, &method, params)).ok()
}

/// Puts what the server asks to the host of this exchange, for a task if one is named.
///
/// # Errors
/// It asks something that is no question.
pub fn put(
    exchange: &Arc<Exchange>,
    required: &Envelope,
    task: Option<&str>,
) -> Result<Put, String> {
    let session = &exchange.session;
    let said = required.get(&["result", REQUESTS]).unwrap_or(b"{}");
    let mut questions = Vec::new();
    for (key, _, at) in json::members(said) {
        // Not the key, which other questions of this host may have.
        let id = Id::text(&random_id());
        let asked = question(id.as_bytes(), &said[at])
            .ok_or_else(|| format!("its question {key:?} has no method"))?;
        let asked = in_legacy_words(session, &asked);
        let asked = match task {
            Some(task) => tasks::relate(&asked, "params", task),
            None => asked,
        };
        match rounds::lacking(&asked, session.capabilities()) {
            Ok(None) => questions.push((key.into_owned(), id, asked)),
            Ok(Some(lacking)) => {
                return Ok(Put::Unanswerable(format!(
                    "the server wants to ask for something that this client has not declared: \
                     {lacking}"
                )));
            }
            Err(rounds::Unaskable) => {
                let method = asked.method().unwrap_or_default();
                return Err(format!("it asks its host for {method}"));
            }
        }
    }
    if questions.is_empty() {
        return Ok(Put::Nothing);
    }
    // Only now: of questions that cannot all be answered none is asked.
    let mut waiting = Questions {
        session: session.clone(),
        open: VecDeque::with_capacity(questions.len()),
    };
    for (key, id, asked) in questions {
        let (answer, answered) = oneshot::channel();
        let asker = Arc::new(Waiter(Mutex::new(Some(answer))));
        if session.ask(asker, &asked, Some(exchange), None).is_err() {
            return Ok(Put::Unanswerable(session.why_unasked().to_owned()));
        }
        let method = asked.method().unwrap_or_default().to_owned();
        waiting.open.push_back(Open {
            key,
            id,
            method,
            answered,
        });
    }
    Ok(Put::Questions(waiting))
}

impl Questions {
    /// Waits for all of them: the `inputResponses` of the next call.
    ///
    /// # Errors
    /// One cannot be answered, and there is no way to tell the server so; why.
    pub async fn answers(mut self) -> Result<Vec<u8>, String> {
        let mut members = Vec::with_capacity(self.open.len());
        while let Some(next) = self.open.front_mut() {
            let answer = (&mut next.answered)
                .await
                .map_err(|_| "the client left before it answered".to_owned())?;
            let Some(Open { key, method, .. }) = self.open.pop_front() else {
                break;
            };
            let key = json::quote(&key);
            match answer.result() {
                Some(said) => members.push([key.as_bytes(), b":", said].concat()),
                // A form may be declined by leaving it alone; nothing else may.
                None if method == "elicitation/create" => {
                    members.push([key.as_bytes(), br#":{"action":"cancel"}"#].concat());
                }
                None => {
                    let why = answer.text(&["error", "message"]).unwrap_or_default();
                    return Err(format!("the client refused {method}: {why}"));
                }
            }
        }
        Ok([b"{", members.join(&b","[..]).as_slice(), b"}"].concat())
    }
}

impl Drop for Questions {
    fn drop(&mut self) {
        for Open { id, .. } in &self.open {
            let params = [br#"{"requestId":"#, id.as_bytes(), b"}"].concat();
            let note = message::notification("notifications/cancelled", Some(&params));
            if let Ok(note) = own(note) {
                self.session.withdraw(id, &note);
            }
        }
    }
}

/// One question in the words of the host's revision.
fn in_legacy_words(session: &Session, question: &Envelope) -> Envelope {
    let mut edit = question.edit();
    let has = |member: &str| question.find(&["params", member]).is_some();
    let is_newest = session.revision >= Revision::V2025_11_25;
    match question.method() {
        Some("elicitation/create") => {
            let is_url = question.text(&["params", "mode"]).as_deref() == Some("url");
            if is_url && !has("elicitationId") {
                let id = json::quote(&random_id()).into_bytes();
                edit.set(&["params", "elicitationId"], id);
            }
            // Forms had no name before there was anything else.
            if !is_url && !is_newest && has("mode") {
                edit.remove(&["params", "mode"]);
            }
        }
        Some("sampling/createMessage") => {
            let capabilities = session.capabilities();
            if json::path(capabilities, &["sampling", "tools"]).is_none() {
                for member in ["tools", "toolChoice"] {
                    if has(member) {
                        edit.remove(&["params", member]);
                    }
                }
            }
        }
        _ => {}
    }
    edit.finish()
}

/// Waits for one answer; what the host says of its progress is of no use to anybody.
#[derive(Debug)]
struct Waiter(Mutex<Option<oneshot::Sender<Envelope>>>);

#[async_trait]
impl Asker for Waiter {
    async fn answer(&self, message: Envelope) {
        if matches!(message.kind(), Kind::Response | Kind::Error)
            && let Some(answer) = locked(&self.0).take()
        {
            let _ = answer.send(message);
        }
    }
}
