//! What a server writes: every line goes to whom it belongs to, or is counted as dropped.
//!
//! Nothing here waits: a host that does not read must not stop the reader that all share.

use std::sync::Arc;

use bytes::Bytes;
use chillgate_wire::{Envelope, Era, Id, Kind, code, message};
use tracing::debug;

use super::{Audience, Pipe};
use crate::backend::said::hand_on;
use crate::exchange::{Exchange, Refused};
use crate::lock::locked;

impl Pipe {
    /// Takes in one message of the server.
    pub(in crate::backend) fn hear(self: &Arc<Self>, line: Bytes) {
        let said = match Envelope::parse(line, &self.limits) {
            Ok(said) => said,
            Err(fault) => {
                debug!(server = %self.server, %fault, "Dropped a line that is no message.");
                self.metrics
                    .child_protocol_error(&self.server, fault.kind.as_str());
                return;
            }
        };
        match said.kind() {
            Kind::Response | Kind::Error => self.hear_answer(said),
            Kind::Notification => self.hear_note(said),
            Kind::Request => self.hear_question(&said),
        }
    }

    fn hear_answer(&self, answer: Envelope) {
        let number = answer.id().and_then(|id| id.as_number());
        let pending = number.and_then(|number| locked(&self.pending).remove(&number));
        if let Some(pending) = pending {
            // A receiver that is gone has been cancelled: the answer is late and of no use.
            let _ = pending.answer.send(answer);
        } else {
            debug!(server = %self.server, id = ?answer.id(), "Dropped an answer nobody waits for.");
            self.metrics
                .child_protocol_error(&self.server, "unknown_id");
        }
    }

    /// The answer was too large to be read, so its host hears that instead of nothing.
    pub(super) fn fail_oversized(&self, id: Option<&Id>) {
        let number = id.and_then(Id::as_number);
        let Some(number) = number else { return };
        let text = format!(
            "the server's answer is larger than {} bytes; `limits.message` allows more",
            self.limits.message
        );
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
        match &self.audience {
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
            let asked = match &self.audience {
                Audience::One(session) => session.upgrade().map(|session| {
                    let is_sure = session.era() == Era::Legacy || !self.is_in_doubt();
                    let related = self.only_exchange().filter(|_| is_sure);
                    session
                        .ask(self.clone(), question, related.as_ref())
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
        if let Some(holder) = locked(&self.holder).upgrade() {
            return Some(holder);
        }
        let pending = locked(&self.pending);
        let mut running = pending
            .values()
            .filter_map(|pending| pending.exchange.as_ref());
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
