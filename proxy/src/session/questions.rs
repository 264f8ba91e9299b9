//! What servers have asked a host that it has not answered yet.
//!
//! Each question travels under an id of chillgate's own, so that an answer finds the server that
//! asked and no other. This keeps account; which stream a question takes is the session's matter.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use bytes::Bytes;
use chillgate_wire::{Envelope, Id, json};

use crate::exchange::{Exchange, Refused};
use crate::lock::locked;
use crate::map::Map;

/// Where the host's answer to a server's question goes.
#[async_trait]
pub trait Asker: Send + Sync + std::fmt::Debug {
    /// Hands over the host's answer (or its progress), already under the server's own id.
    async fn answer(&self, message: Envelope);
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
            return Err(Refused);
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

    /// The call is over, and with it what was asked for it.
    pub(super) fn end_of(&self, exchange: &Exchange) {
        locked(&self.open).retain(|_, question| {
            !question
                .exchange
                .as_ref()
                .is_some_and(|asked| std::ptr::eq(&raw const **asked, exchange))
        });
    }

    /// The session is over.
    pub(super) fn clear(&self) {
        locked(&self.open).clear();
    }
}
