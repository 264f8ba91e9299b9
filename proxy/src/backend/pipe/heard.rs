//! What a server writes: every line goes to whom it belongs to, or is counted as dropped.
//!
//! Nothing here waits: a host that does not read must not stop the reader that all share.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::Bytes;
use chillgate_wire::{Envelope, Era, Id, Kind, code, json, message, meta};
use tracing::debug;

use super::{Audience, Pending, Pipe};
use crate::backend::BackendError;
use crate::backend::said::hand_on;
use crate::exchange::{Exchange, Refused};
use crate::lock::locked;
use crate::session::Asker;

/// So much of a line that is no message is kept, in bytes.
pub(super) const STRANGE: usize = 120;

impl Pipe {
    /// Takes in one message of the server.
    pub(in crate::backend) fn hear(self: &Arc<Self>, line: Bytes) {
        let Some(said) = self.understand(line) else {
            return;
        };
        if said.kind() == Kind::Notification {
            self.notes.fetch_add(1, Ordering::Relaxed);
        }
        match said.kind() {
            Kind::Response | Kind::Error => self.hear_answer(said),
            Kind::Notification if self.era == Era::Modern => self.hear_modern(said, None),
            Kind::Notification => self.hear_note(said),
            Kind::Request if self.is_echo(&said) => {}
            Kind::Request if self.era == Era::Modern => self.hear_forbidden(),
            Kind::Request => self.hear_question(&said),
        }
    }

    /// Chillgate's own first words come back: what is there repeats what it reads.
    fn is_echo(&self, said: &Envelope) -> bool {
        matches!(said.method(), Some("initialize" | "server/discover"))
            && said
                .id()
                .and_then(|id| id.as_number())
                .is_some_and(|number| {
                    self.fail_own(number, "it repeats what it is sent".to_owned())
                })
    }

    /// An own request gets no answer, for this reason; false where there is none of that number.
    fn fail_own(&self, number: u64, cause: String) -> bool {
        let mut pending = locked(&self.pending);
        let is_own = |one: &Pending| one.exchange.is_none() && one.ear.is_none();
        if !pending.get(&number).is_some_and(is_own) {
            return false;
        }
        let Some(pending) = pending.remove(&number) else {
            return false;
        };
        let _ = pending.answer.send(Err(BackendError::Invalid {
            server: self.server.clone(),
            cause,
        }));
        true
    }

    /// Takes in one message that came in reply to the request of this number; whether it is the
    /// answer.
    pub(in crate::backend) fn hear_in_reply(self: &Arc<Self>, number: u64, raw: Bytes) -> bool {
        let Some(said) = self.understand(raw) else {
            return false;
        };
        match said.kind() {
            Kind::Response if said.id().and_then(|id| id.as_number()) != Some(number) => {
                debug!(server = %self.server, "Dropped an answer to something else.");
                self.metrics
                    .child_protocol_error(&self.server, "unknown_id");
            }
            Kind::Response | Kind::Error => {
                // An error may have been written before the id was read.
                self.hear_answer(said.with_id(Id::number(number).as_bytes()));
                return true;
            }
            Kind::Notification => self.hear_modern(said, Some(number)),
            Kind::Request => self.hear_forbidden(),
        }
        false
    }

    /// There will be no answer to the request of this number.
    pub(in crate::backend) fn fail(&self, number: u64, error: BackendError) {
        if let Some(pending) = locked(&self.pending).remove(&number) {
            let _ = pending.answer.send(Err(error));
        }
    }

    fn understand(&self, line: Bytes) -> Option<Envelope> {
        let kept = line.clone();
        match Envelope::parse(line, &self.limits) {
            Ok(said) => Some(said),
            Err(fault) => {
                // Kept for whoever has to say why nothing else came.
                self.strange
                    .get_or_init(|| self.origin().masked_head(&kept, STRANGE));
                debug!(server = %self.server, %fault, "Dropped a line that is no message.");
                self.metrics
                    .child_protocol_error(&self.server, fault.kind.as_str());
                // An answer to chillgate's own question is one, however wrong: more will not come.
                let answered = fault.id.as_ref().and_then(Id::as_number);
                if let Some(number) = answered
                    && json::member(&kept, "method").is_none()
                {
                    let shown = self.origin().masked_head(&kept, STRANGE);
                    let cause =
                        format!("it answered with what is no answer of MCP ({fault}): {shown}");
                    self.fail_own(number, cause);
                }
                self.note_stray(&kept);
                None
            }
        }
    }

    /// A modern server asks nothing in this way, and is not answered.
    fn hear_forbidden(&self) {
        debug!(server = %self.server, "Dropped a request of a server of 2026-07-28.");
        self.metrics
            .child_protocol_error(&self.server, "server_request");
    }

    fn hear_answer(&self, answer: Envelope) {
        let number = answer.id().and_then(|id| id.as_number());
        let pending = number.and_then(|number| locked(&self.pending).remove(&number));
        if let Some(pending) = pending {
            if pending.exchange.is_some() {
                self.has_served.store(true, Ordering::Relaxed);
            }
            // A receiver that is gone has been cancelled: the answer is late and of no use.
            let _ = pending.answer.send(Ok(answer));
        } else {
            debug!(server = %self.server, id = ?answer.id(), "Dropped an answer nobody waits for.");
            self.note_unasked(answer.id().as_ref());
            self.metrics
                .child_protocol_error(&self.server, "unknown_id");
        }
    }

    /// Kept for whoever has to say why no answer came to the first words.
    fn note_unasked(&self, id: Option<&Id>) {
        let asked = locked(&self.pending).keys().min().copied();
        let (Some(asked), None) = (asked, self.greeting()) else {
            return;
        };
        self.unasked.get_or_init(|| {
            let id = id.map_or(b"null".as_slice(), |id| id.as_bytes());
            let id = self.origin().masked_head(id, STRANGE);
            format!(
                "it answered with the id {id}, with which nobody asked ({asked} was asked with)"
            )
        });
    }

    /// The answer was too large to be read, so its host hears that instead of nothing.
    pub(super) fn fail_oversized(&self, id: Option<&Id>) {
        let number = id.and_then(Id::as_number);
        let Some(number) = number else { return };
        let text = format!(
            "the server's answer is larger than {} bytes; `limits.message` allows more",
            self.limits.message
        );
        if self.fail_own(number, text.clone()) {
            return;
        }
        let raw = message::error(
            Some(Id::number(number).as_bytes()),
            code::INTERNAL_ERROR,
            &text,
            None,
        );
        if let Ok(answer) = self.own(raw) {
            self.hear_answer(answer);
        }
    }

    fn hear_note(&self, note: Envelope) {
        if note.method() == Some("notifications/progress") {
            return self.hear_progress(&note);
        }
        match &*self.audience {
            Audience::One(session) => {
                if let Some(session) = session.upgrade() {
                    let related = self.only_exchange();
                    self.count(&hand_on(&self.server, &session, related.as_ref(), note));
                }
            }
            Audience::Many(_) => self.hear_shared(&note),
        }
    }

    fn hear_progress(&self, note: &Envelope) {
        let number = note
            .get(&["params", "progressToken"])
            .and_then(|token| Id::from_lexeme(token)?.as_number());
        let exchange =
            number.and_then(|number| locked(&self.pending).get(&number)?.exchange.clone());
        let token = exchange.as_ref().and_then(|exchange| exchange.token());
        let (Some(exchange), Some(token)) = (exchange, token) else {
            self.metrics.dropped(&self.server, "progress_for_nobody");
            return;
        };
        let mut edit = note.edit();
        edit.set(&["params", "progressToken"], token.to_vec());
        self.count(&exchange.send(edit.finish()));
    }

    /// A list may have changed while nobody heard.
    pub fn tell_changed(&self, list: &str) {
        let method = format!("notifications/{list}/list_changed");
        if let Ok(note) = self.own(message::notification(&method, None)) {
            self.hear_shared(&note);
        }
    }

    /// A modern server tells of one request, or of what was subscribed to, and of nothing else.
    /// `about` is the request that the way it came by names.
    fn hear_modern(&self, note: Envelope, about: Option<u64>) {
        match note.method().unwrap_or_default() {
            "notifications/progress" => self.hear_progress(&note),
            "notifications/message" => {
                let about = match about {
                    Some(number) => self.exchange(number),
                    None => self.only_logged(),
                };
                let Some(exchange) = about else {
                    return self.metrics.dropped(&self.server, "log_for_nobody");
                };
                let session = exchange.session.clone();
                self.count(&hand_on(&self.server, &session, Some(&exchange), note));
            }
            // The reply itself ends where there is one for each request.
            "notifications/cancelled" if about.is_some() => {}
            "notifications/cancelled" => {
                // It ends a subscription; who listens hears it as the answer that never came.
                let id = note.get(&["params", "requestId"]).and_then(Id::from_lexeme);
                if let Some(number) = id.and_then(|id| id.as_number()) {
                    let mut pending = locked(&self.pending);
                    if pending.get(&number).is_some_and(|one| one.ear.is_some()) {
                        pending.remove(&number);
                    }
                }
            }
            method => {
                let Some(number) = self.ear_of(&note) else {
                    return self.metrics.dropped(&self.server, "told_unasked");
                };
                if method == "notifications/subscriptions/acknowledged" {
                    return self.hear_acknowledged(number, note);
                }
                if is_subscribed(method) {
                    self.cache.change(&note);
                    self.hear_shared(&meta::strip(&note));
                }
            }
        }
    }

    fn exchange(&self, number: u64) -> Option<Arc<Exchange>> {
        locked(&self.pending).get(&number)?.exchange.clone()
    }

    /// The only call in flight whose host wants log messages: a modern server writes none for
    /// others.
    fn only_logged(&self) -> Option<Arc<Exchange>> {
        // It may still be about one that has ended without its answer.
        if self.doubtful_until().is_some() {
            return None;
        }
        let pending = locked(&self.pending);
        let mut logged = pending
            .values()
            .filter_map(|pending| pending.exchange.as_ref())
            .filter(|exchange| exchange.wants_log());
        match (logged.next(), logged.next()) {
            (Some(only), None) => Some(only.clone()),
            _ => None,
        }
    }

    /// A shared server speaks to nobody in particular.
    fn hear_shared(&self, note: &Envelope) {
        let (listeners, related) = match note.method().unwrap_or_default() {
            // Its questions are refused, so it has none to withdraw.
            "notifications/cancelled" => return,
            // A log message may be about any call: it is told to the one session there is, and
            // dropped where several share the server, so that nobody reads another agent's log.
            "notifications/message" => {
                let all = self.audience.all();
                if all.len() > 1 {
                    return self.metrics.dropped(&self.server, "log_for_nobody");
                }
                (all, self.only_exchange())
            }
            "notifications/resources/updated" => match note.text(&["params", "uri"]) {
                Some(uri) => (self.audience.subscribed(&uri), None),
                None => return self.metrics.dropped(&self.server, "updated_for_nobody"),
            },
            method if method.ends_with("list_changed") => (self.audience.all(), None),
            // It belongs to no call of any of them.
            _ => {
                for session in self.audience.all() {
                    self.count(&session.tell(note.clone()));
                }
                return;
            }
        };
        for session in listeners {
            self.count(&hand_on(
                &self.server,
                &session,
                related.as_ref(),
                note.clone(),
            ));
        }
    }

    fn hear_question(self: &Arc<Self>, question: &Envelope) {
        let Some(id) = question.id() else { return };
        let answer = if question.method() == Some("ping") {
            message::result(id.as_bytes(), b"{}")
        } else {
            let asked = match &*self.audience {
                Audience::One(session) => session.upgrade().map(|session| {
                    let asker: Arc<dyn Asker> = self.clone();
                    let about = session.ask_about_task(&self.server, &asker, question);
                    if let Some(asked) = about {
                        return asked.map_err(|_| session.why_unasked());
                    }
                    // What chillgate asks itself is about nobody's call.
                    let related = match session.era() {
                        Era::Legacy => self.only_exchange(),
                        Era::Modern => self.only_one(Exchange::is_askable),
                    };
                    session
                        .ask(asker, question, related.as_ref(), self.doubtful_until())
                        .map_err(|_| session.why_unasked())
                }),
                Audience::Many(_) => {
                    // A modern host is told what it would have had to declare for this.
                    if let Some(only) = self.only_exchange()
                        && only.session.era() == Era::Modern
                    {
                        let _ = only.session.is_lacking(question, &only);
                    }
                    Some(Err(
                        "this server is shared by several hosts, so its requests belong to nobody",
                    ))
                }
            };
            let refusal = match asked {
                Some(Ok(())) => return,
                Some(Err(refusal)) => refusal,
                None => "the host is gone",
            };
            self.metrics.dropped(&self.server, "question_refused");
            message::error(Some(id.as_bytes()), code::METHOD_NOT_FOUND, refusal, None)
        };
        // Never waits: a server that does not read its input must not stop its own reader.
        if let Ok(answer) = self.own(answer)
            && self.line.offer(&answer).is_err()
        {
            self.metrics.dropped(&self.server, "server_not_reading");
        }
    }

    /// The exchange a message without a reference belongs to: the one that has the pipe for
    /// itself, or the only one there is.
    fn only_exchange(&self) -> Option<Arc<Exchange>> {
        self.only_one(|_| true)
    }

    /// The same of those that fit.
    fn only_one(&self, fits: impl Fn(&Exchange) -> bool) -> Option<Arc<Exchange>> {
        if let Some(holder) = locked(&self.holder).upgrade()
            && self.beside.load(Ordering::Relaxed) == 0
        {
            return Some(holder);
        }
        let pending = locked(&self.pending);
        let mut running = pending
            .values()
            .filter_map(|pending| pending.exchange.as_ref())
            .filter(|exchange| fits(exchange));
        match (running.next(), running.next()) {
            (Some(only), None) => Some(only.clone()),
            _ => None,
        }
    }

    fn count(&self, sent: &Result<(), Refused>) {
        if sent.is_err() {
            self.metrics.dropped(&self.server, "host_not_reading");
        }
    }
}

/// What one may subscribe to.
fn is_subscribed(method: &str) -> bool {
    method == "notifications/resources/updated" || method.ends_with("/list_changed")
}
