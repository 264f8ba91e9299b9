//! What a server asks its host, and what the host says to it: the way there, the way back, and the
//! end of a question that nobody wants answered any more.
//!
//! Apart because a question travels against the stream. Which are open is kept in `questions`.

use std::sync::Arc;

use chillgate_wire::{Envelope, Era, Id};
use tokio::time::Instant;

use super::{Asker, Session};
use crate::era::rounds;
use crate::exchange::{Exchange, Refused};

impl Session {
    /// A server asks the host something. The question travels under an id of chillgate's own.
    /// Until `not_before` it may be about another call, which is over: a call that ends by then has
    /// not asked it.
    pub fn ask(
        &self,
        asker: Arc<dyn Asker>,
        question: &Envelope,
        related: Option<&Arc<Exchange>>,
        not_before: Option<Instant>,
    ) -> Result<(), Refused> {
        if self.era == Era::Modern {
            return self.ask_in_the_outcome(asker, question, related, not_before);
        }
        let (number, message) = self.questions.open(asker, question, related)?;
        let sent = self.tell_about(related, message);
        if sent.is_err() {
            self.questions.close(number);
        }
        sent
    }

    /// A modern host hears a question as the outcome of the call that it was asked for. One that
    /// may belong to no call, or to another, ends none.
    fn ask_in_the_outcome(
        &self,
        asker: Arc<dyn Asker>,
        question: &Envelope,
        related: Option<&Arc<Exchange>>,
        not_before: Option<Instant>,
    ) -> Result<(), Refused> {
        let exchange = related.filter(|exchange| exchange.is_askable());
        let exchange = exchange.ok_or(Refused)?;
        if self.is_lacking(question, exchange)? {
            return Err(Refused);
        }
        let (number, _) = self.questions.open(asker, question, Some(exchange))?;
        let added = exchange
            .inputs
            .add(rounds::input(number, question), not_before);
        if added.is_err() {
            self.questions.close(number);
        }
        added
    }

    /// Whether the host has not declared what it takes to be asked this; then its call has come to
    /// that. An error: no modern host can be asked it.
    pub fn is_lacking(&self, question: &Envelope, exchange: &Exchange) -> Result<bool, Refused> {
        let lacking = rounds::lacking(question, self.capabilities()).map_err(|_| Refused)?;
        let is_lacking = lacking.is_some();
        if let Some(lacking) = lacking {
            exchange.inputs.lacks(lacking);
        }
        Ok(is_lacking)
    }

    /// Why a question was not put to the host, for the server that asked.
    pub fn why_unasked(&self) -> &'static str {
        match self.era {
            Era::Legacy => "the host has too many open questions or does not read them",
            Era::Modern => {
                "the host cannot be asked this: it has not declared the capability, or it is not \
                 clear which of its calls the question belongs to"
            }
        }
    }

    /// The server no longer wants to know: `notifications/cancelled` goes on to the host under
    /// the id that the host knows.
    pub fn withdraw(&self, id: &Id, note: &Envelope) {
        let Some(number) = self.questions.number_of(id) else {
            return;
        };
        let question = self.questions.close(number);
        if self.era == Era::Modern {
            if let Some(exchange) = question.and_then(|question| question.exchange) {
                exchange.inputs.withdraw(number);
            }
            return;
        }
        let related = question.and_then(|question| question.exchange);
        let lexeme = Id::number(number);
        let mut edit = note.edit();
        edit.set(&["params", "requestId"], lexeme.as_bytes());
        let _ = self.tell_about(related.as_ref(), edit.finish());
    }

    /// The host answers a question. `false`: nobody asked.
    pub async fn answer(&self, answer: &Envelope) -> bool {
        self.use_now();
        let number = answer.id().and_then(|id| id.as_number());
        let Some(question) = number.and_then(|number| self.questions.close(number)) else {
            return false;
        };
        let answer = answer.with_id(question.id.as_bytes());
        question.asker.answer(answer).await;
        true
    }

    /// The host reports progress on a question. `false`: nobody asked for it.
    pub async fn progress(&self, note: &Envelope) -> bool {
        let number = note
            .get(&["params", "progressToken"])
            .and_then(|token| Id::from_lexeme(token)?.as_number());
        let found = number.and_then(|number| self.questions.progress(number));
        let Some((asker, token)) = found else {
            return false;
        };
        let mut edit = note.edit();
        edit.set(&["params", "progressToken"], token.to_vec());
        asker.answer(edit.finish()).await;
        true
    }
}
