//! What servers have asked a host that it has not answered yet.
//!
//! Each question travels under an id of chillgate's own, so that an answer finds the server that
//! asked and no other. This keeps account; which stream a question takes is the session's matter.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use bytes::Bytes;
use chillgate_wire::{Envelope, Era, Id, code, json, message};

use crate::exchange::{Exchange, Refused};
use crate::lock::locked;
use crate::map::Map;
use crate::route::own;

/// Where the host's answer to a server's question goes.
#[async_trait]
pub trait Asker: Send + Sync + std::fmt::Debug {
    /// Hands over the host's answer (or its progress), already under the server's own id.
    async fn answer(&self, message: Envelope);

    /// Hands over that there will be no answer, without waiting. Nothing to do for one whose
    /// question ends with the call that it was asked for.
    fn refuse(&self, _refusal: &Envelope) {}
}

/// One question.
#[derive(Debug)]
pub(super) struct Question {
    pub(super) asker: Arc<dyn Asker>,
    /// The server's own id for it.
    pub(super) id: Id,
    token: Option<Bytes>,
    /// The call it was asked for, as far as that is known.
    pub(super) exchange: Option<Arc<Exchange>>,
    /// That call has its answer.
    is_left_over: bool,
}

impl Question {
    fn refuse(&self) {
        let (id, why) = (
            self.id.as_bytes(),
            "the call that this was asked for is over",
        );
        let refusal = message::error(Some(id), code::METHOD_NOT_FOUND, why, None);
        if let Ok(refusal) = own(refusal) {
            self.asker.refuse(&refusal);
        }
    }
}

/// Questions one session may have open at one time.
const MOST: usize = 256;

/// The open questions of one session.
#[derive(Debug, Default)]
pub(super) struct Questions {
    open: Mutex<Map<u64, Question>>,
    last: AtomicU64,
}

impl Questions {
    /// Takes a question in; comes back with its number and as the host shall see it.
    pub(super) fn open(
        &self,
        asker: Arc<dyn Asker>,
        question: &Envelope,
        related: Option<&Arc<Exchange>>,
    ) -> Result<(u64, Envelope), Refused> {
        let id = question.id().ok_or(Refused)?;
        let number = self.last.fetch_add(1, Ordering::Relaxed) + 1;
        let token = question
            .params()
            .and_then(|params| Some(&params[json::path(params, &["_meta", "progressToken"])?]))
            .map(Bytes::copy_from_slice);
        let lexeme = Id::number(number);
        let mut edit = question.edit();
        edit.id(lexeme.as_bytes());
        if token.is_some() {
            edit.set(&["params", "_meta", "progressToken"], lexeme.as_bytes());
        }
        let message = edit.finish();
        let mut open = locked(&self.open);
        if open.len() >= MOST {
            // A host that has heard of the end of a call may take no more interest in what was asked.
            let left_over = open.iter().filter(|(_, question)| question.is_left_over);
            let oldest = left_over.map(|(number, _)| *number).min().ok_or(Refused)?;
            open.remove(&oldest);
        }
        if let Some(exchange) = related {
            exchange.asked();
        }
        let exchange = related.cloned();
        open.insert(
            number,
            Question {
                asker,
                id,
                token,
                exchange,
                is_left_over: false,
            },
        );
        Ok((number, message))
    }

    /// The question is answered, or nobody wants to know any more.
    pub(super) fn close(&self, number: u64) -> Option<Question> {
        let question = locked(&self.open).remove(&number)?;
        if let Some(exchange) = &question.exchange {
            exchange.answered();
        }
        Some(question)
    }

    /// The number of the question that its server calls `id`.
    pub(super) fn number_of(&self, id: &Id) -> Option<u64> {
        locked(&self.open)
            .iter()
            .find(|(_, question)| question.id == *id)
            .map(|(number, _)| *number)
    }

    /// The host works on the question: who asked, and the token that its progress goes under.
    pub(super) fn progress(&self, number: u64) -> Option<(Arc<dyn Asker>, Bytes)> {
        let open = locked(&self.open);
        let question = open.get(&number)?;
        if let Some(exchange) = &question.exchange {
            exchange.touch();
        }
        Some((question.asker.clone(), question.token.clone()?))
    }

    /// The call is over. A modern host can be asked for it no more, and its server hears so; an older
    /// one may answer yet, since it was asked on its own, and what a server asks beside a call looks
    /// as if it was asked for it.
    pub(super) fn end_of(&self, exchange: &Exchange, era: Era) {
        let asked = |question: &Question| {
            let about = question.exchange.as_ref();
            about.is_some_and(|about| std::ptr::eq(&raw const **about, exchange))
        };
        let mut open = locked(&self.open);
        if era == Era::Legacy {
            for question in open.values_mut().filter(|question| asked(question)) {
                question.exchange = None;
                question.is_left_over = true;
            }
            return;
        }
        let over = open.extract_if(|_, question| asked(question));
        let over: Vec<_> = over.map(|(_, question)| question).collect();
        drop(open);
        for question in over {
            question.refuse();
        }
    }

    /// The session is over.
    pub(super) fn clear(&self) {
        locked(&self.open).clear();
    }
}
