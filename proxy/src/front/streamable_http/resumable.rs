//! Event streams that a host can come back to, revisions 2025-03-26 to 2025-11-25.
//!
//! The call belongs to a task that writes down what it says; a reply only reads along. So a
//! connection that breaks takes nothing with it, and GET with `Last-Event-ID` reads on. A host of
//! 2025-11-25 is told at once where it stands, and is sent away to come back where its
//! server does the same with chillgate. Modern streams are in `body`: there closing is cancelling.

use std::sync::Arc;

use chillgate_wire::{Envelope, code};
use futures_util::{StreamExt, stream};
use http::{HeaderMap, HeaderName, StatusCode};

use super::body::{Body, comment};
use super::reply::{events, not_allowed, refuse};
use super::{Endpoint, KEEP_ALIVE, Reply};
use crate::exchange::Exchange;
use crate::front::running::Running;
use crate::gate::{Answer, Gate};
use crate::session::Session;
use crate::session::replay::{Carried, Found, Reader};

const LAST_EVENT_ID: HeaderName = HeaderName::from_static("last-event-id");

/// What belongs to a request, then its answer, then the end.
pub(super) fn answer_stream(
    gate: &Gate,
    running: Running,
    first: Option<Envelope>,
    answer: Option<Answer>,
) -> Body {
    let exchange = running.exchange().clone();
    let carried = exchange.session.replays.open(&exchange);
    let reader = carried.read(0);
    if let Some(first) = first {
        carried.carry(&first, gate.replays());
    }
    if let Some(answer) = answer {
        finish(&exchange, &carried, answer, gate);
    } else {
        let carrying = carry(running, carried.clone(), gate.clone());
        gate.tasks().spawn(carrying);
    }
    followed(reader, exchange.session.polls())
}

/// Sees a call through, whoever reads.
async fn carry(mut running: Running, carried: Arc<Carried>, gate: Gate) {
    let exchange = running.exchange().clone();
    loop {
        if exchange.session.polls()
            && let Some(span) = exchange.take_away()
        {
            carried.cut(span);
        }
        tokio::select! {
            biased;
            answer = &mut running => return finish(&exchange, &carried, answer, &gate),
            said = heard(&exchange, &carried) => {
                if let Some(message) = said {
                    carried.carry(&message, gate.replays());
                }
            }
        }
    }
}

/// What the call says next, once the stream has room for it; `None` where there is something else
/// to look at.
async fn heard(exchange: &Exchange, carried: &Carried) -> Option<Envelope> {
    carried.until_room().await;
    exchange.mailbox.next_or_nudge().await.flatten()
}

/// What was said before the answer goes out before it.
fn finish(exchange: &Exchange, carried: &Carried, answer: Answer, gate: &Gate) {
    while let Some(message) = exchange.mailbox.take() {
        carried.carry(&message, gate.replays());
    }
    if let Some(message) = answer.message {
        carried.carry(&message, gate.replays());
    }
    carried.end();
}

/// Reads along until there is no more.
fn followed(reader: Reader, is_to_prime: bool) -> Body {
    Body::stream(stream::unfold(
        (reader, is_to_prime),
        |(mut reader, is_to_prime)| async move {
            if is_to_prime {
                return Some((reader.prime(), (reader, false)));
            }
            let frame = tokio::select! {
                biased;
                next = reader.next() => next?,
                () = tokio::time::sleep(KEEP_ALIVE) => comment(),
            };
            Some((frame, (reader, false)))
        },
    ))
}

impl Endpoint {
    /// The session's own stream, for what belongs to no request, or one that broke.
    pub(super) fn listen(
        &self,
        session: &Arc<Session>,
        headers: &HeaderMap,
    ) -> Result<Reply, Box<Reply>> {
        let last = match super::read::single(headers, &LAST_EVENT_ID)? {
            None => Found::Own(session.replays.own().last()),
            Some(last) => session.replays.find(last.to_str().unwrap_or_default()),
        };
        match last {
            Found::Own(after) => Ok(events(self.own_stream(session, after))),
            Found::Answering(reader) => Ok(events(followed(reader, session.polls()))),
            // The status that ends it for good: what is not found, hosts try again.
            Found::Over => Err(not_allowed(
                "POST, GET, DELETE",
                "all of that stream has been sent; nothing more will come",
            )),
            Found::Nothing => {
                let text = "nothing is kept under this `Last-Event-ID`: it is of another session, \
                            or of longer ago than `limits.replay`; send the request again";
                Err(Box::new(refuse(
                    StatusCode::BAD_REQUEST,
                    code::INVALID_REQUEST,
                    text,
                )))
            }
        }
    }

    /// What belongs to no request, until the session ends or chillgate stops.
    fn own_stream(&self, session: &Arc<Session>, after: u64) -> Body {
        let (gate, open) = (self.gate.clone(), self.gate.stream());
        let listening = session.listen();
        let own = session.replays.own().clone();
        // Something at once: hosts and proxies then know that the stream is there.
        let opening = if session.polls() {
            own.prime(after, None)
        } else {
            comment()
        };
        let missed = own.after(after);
        let messages = stream::unfold(
            (listening, own, gate, open),
            |(listening, own, gate, open)| async move {
                let frame = tokio::select! {
                    biased;
                    message = listening.next() => own.carry(&message?, gate.replays()),
                    () = gate.drain().until_refusing() => return None,
                    () = tokio::time::sleep(KEEP_ALIVE) => comment(),
                };
                own.all_read();
                Some((frame, (listening, own, gate, open)))
            },
        );
        let before = std::iter::once(opening).chain(missed);
        Body::stream(stream::iter(before).chain(messages))
    }
}
