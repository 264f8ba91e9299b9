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
use super::{Endpoint, KEEP_ALIVE, Reply, read};
use crate::exchange::Exchange;
use crate::front::running::Running;
use crate::gate::{Answer, Gate};
use crate::identity::Principal;
use crate::session::replay::{Carried, Found, Reader};
use crate::session::{Scope, Session};

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
        carried.add(&first);
    }
    if let Some(answer) = answer {
        finish(&exchange, &carried, answer, gate);
    } else {
        let seeing = see_through(running, carried, gate.clone());
        gate.tasks().spawn(seeing);
    }
    followed(reader, exchange.session.is_primed())
}

/// Writes down what a call says, whoever reads, until it has its answer.
async fn see_through(mut running: Running, carried: Arc<Carried>, gate: Gate) {
    let exchange = running.exchange().clone();
    loop {
        // Who is sent away from a chillgate that is stopping finds nobody to come back to.
        if let Some(span) = exchange.take_away()
            && !gate.drain().refuses()
        {
            carried.cut(span);
        }
        tokio::select! {
            biased;
            answer = &mut running => return finish(&exchange, &carried, answer, &gate),
            said = heard(&exchange, &carried) => {
                if let Some(message) = said {
                    carried.add(&message);
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
        carried.add(&message);
    }
    if let Some(message) = answer.message {
        carried.add(&message);
    }
    carried.end();
    exchange.session.replays.forget(gate.replay());
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
    /// A stream that broke, where the host says which, else the session's own, for what belongs to
    /// no request.
    pub(super) fn get(
        &self,
        headers: &HeaderMap,
        scope: &Scope,
        who: &Principal,
    ) -> Result<Reply, Box<Reply>> {
        if !read::accepts(headers, "text/event-stream") {
            let text = "GET opens an event stream: send `Accept: text/event-stream`";
            return Err(Box::new(refuse(
                StatusCode::NOT_ACCEPTABLE,
                code::INVALID_REQUEST,
                text,
            )));
        }
        let session = &self.session(headers, scope, who, None)?;
        let last = match read::single(headers, &LAST_EVENT_ID)? {
            None => Found::Own(session.replays.own().last()),
            Some(last) => {
                session.replays.forget(self.gate.replay());
                session.replays.find(last.to_str().unwrap_or_default())
            }
        };
        match last {
            Found::Own(after) => Ok(events(self.own_stream(session, after))),
            Found::Answering(reader) => Ok(events(followed(reader, session.is_primed()))),
            // The status that ends it for good: what is not found, hosts try again.
            Found::Over => Err(not_allowed(
                "POST, GET, DELETE",
                "all of that stream has been sent; nothing more will come",
            )),
            Found::Nothing => {
                let text = "nothing is kept under this `Last-Event-ID`: it is of another session, of \
                            longer ago than `limits.replay`, or there was no memory for what came \
                            after it. The call has run on; send it again if it may run twice";
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
        let opening = if session.is_primed() {
            own.prime(after)
        } else {
            comment()
        };
        let missed = own.after(after);
        let messages = stream::unfold(
            (listening, own, gate, open),
            |(listening, own, gate, open)| async move {
                let frame = tokio::select! {
                    biased;
                    message = listening.next() => own.add(&message?),
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
