//! The messages of a 2025-03-26 batch, carried out together.
//!
//! The same for every front; how the answers get home is theirs.

use std::sync::Arc;

use bytes::Bytes;
use chillgate_policies::engine::Grants;
use chillgate_wire::{Envelope, Fault, Id, Kind, message};

use crate::exchange::Exchange;
use crate::gate::Gate;
use crate::session::Session;

/// Carries out the messages of a batch together; the answers as one JSON array, if there are any.
pub(super) async fn all(
    gate: &Gate,
    session: &Arc<Session>,
    grants: &Arc<Grants>,
    messages: Vec<Result<Envelope, Fault>>,
) -> Option<Vec<u8>> {
    let each = messages.into_iter().map(|message| async {
        let message = match message {
            Ok(message) => message,
            Err(fault) => {
                let id = fault.id.as_ref().map(Id::as_bytes);
                return Some(message::error(id, fault.code, &fault.to_string(), None));
            }
        };
        if let (Kind::Request, Some(id)) = (message.kind(), message.id()) {
            let exchange = Exchange::new(id, session.clone(), grants.clone(), 1);
            exchange.speak_aside();
            gate.handle(exchange, message)
                .await
                .message
                .map(|answer| answer.raw().clone())
        } else {
            // What cannot be taken has nobody to tell.
            let _ = gate.hear(session, message).await;
            None
        }
    });
    let answers = futures_util::future::join_all(each).await;
    let answers: Vec<Bytes> = answers.into_iter().flatten().collect();
    if answers.is_empty() {
        return None;
    }
    let mut whole = vec![b'['];
    for (at, answer) in answers.iter().enumerate() {
        if at > 0 {
            whole.push(b',');
        }
        whole.extend_from_slice(answer);
    }
    whole.push(b']');
    Some(whole)
}
