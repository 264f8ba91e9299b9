//! A call that may outlive its connection.
//!
//! Until revision 2025-11-25 a host that disconnects has not cancelled anything (MCP transports:
//! "disconnection SHOULD NOT be interpreted as the client cancelling its request"). So a call
//! whose connection goes is handed to the gate's tasks and runs to its end there; once there is an
//! event stream, it runs there anyway (`streamable_http/resumable`). Since 2026-07-28
//! it is the very way to cancel one request, unless the request has ended because its call
//! waits for the host.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use chillgate_policies::engine::Grants;
use chillgate_wire::{Envelope, Era, Id};

use crate::era::rounds;
use crate::exchange::Exchange;
use crate::exchange::inputs::{Silence, Wanted};
use crate::gate::suspended::{Calling, Resumed, Waiting, hand_over, refused};
use crate::gate::{Answer, Gate, Refusal};
use crate::route::own;
use crate::session::Session;

/// A call on its way; dropped early, a legacy one goes on without its host.
pub struct Running {
    call: Option<Calling>,
    exchange: Arc<Exchange>,
    gate: Gate,
    /// For a call that its host can be asked about.
    asking: Option<Asking>,
}

/// What it takes to end the host's request before its call.
struct Asking {
    silence: Silence,
    bound: Bound,
    round: u32,
    /// The request that the host waits with now.
    id: Id,
    /// The names of the questions whose answers it has brought with it, each of which holds once.
    brought: Vec<String>,
}

/// What the state will be good for.
enum Bound {
    /// The request, of which nothing is worked out as long as nothing is asked.
    Request(Bytes),
    To([u8; 32]),
}

impl Asking {
    fn new(exchange: &Arc<Exchange>, bound: Bound, round: u32, id: Id) -> Self {
        exchange.hear_inputs();
        Self {
            silence: None,
            bound,
            round,
            id,
            brought: Vec::new(),
        }
    }
}

impl Running {
    /// Begins a call.
    pub fn new(gate: Gate, exchange: Arc<Exchange>, request: Envelope) -> Self {
        let session = &exchange.session;
        let may_ask = session.era() == Era::Modern && request.method().is_some_and(rounds::may_ask);
        let asking = may_ask.then(|| {
            let bound = Bound::Request(request.raw().clone());
            Asking::new(&exchange, bound, 0, exchange.host_id.clone())
        });
        let call = Box::pin(gate.handle(exchange.clone(), request));
        Self {
            call: Some(call),
            exchange,
            gate,
            asking,
        }
    }

    /// Whether a modern request brings a state, and may so go on with a call that there is.
    pub fn is_retry(request: &Envelope) -> bool {
        request.find(&["params", rounds::STATE]).is_some()
    }

    /// Begins the call of a modern request, or goes on with the one that it brings answers for;
    /// `Err` in the answer is what its host hears at once.
    ///
    /// # Errors
    /// It leads to no call.
    pub async fn begin(
        gate: &Gate,
        session: &Arc<Session>,
        grants: &Arc<Grants>,
        request: Envelope,
        outbox: usize,
    ) -> Result<Result<Self, Answer>, Refusal> {
        let Some(id) = request.id() else {
            return Ok(Err(Answer::none()));
        };
        let state = request.text(&["params", rounds::STATE]);
        if state.is_none() && request.find(&["params", rounds::STATE]).is_some() {
            let text = "Invalid params: `requestState` is no string";
            return Err(rounds::unfit(text.to_owned()));
        }
        let Some(state) = state else {
            let exchange = Exchange::new(id, session.clone(), grants.clone(), outbox);
            return Ok(Ok(Self::new(gate.clone(), exchange, request)));
        };
        Ok(
            match Box::pin(gate.resume(session, &state, &request, &id)).await? {
                Resumed::On(waiting) => Ok(Self::again(gate.clone(), *waiting, id)),
                Resumed::Waits(answer) => Err(answer),
                Resumed::Elsewhere(place) => return Err(Refusal::Elsewhere(place)),
                Resumed::Foreign => {
                    let exchange = Exchange::new(id, session.clone(), grants.clone(), outbox);
                    Ok(Self::new(gate.clone(), exchange, request))
                }
            },
        )
    }

    /// Goes on with a call that has waited for its host, which now waits with the request `id`.
    fn again(gate: Gate, waiting: Waiting, id: Id) -> Self {
        let asking = Asking::new(
            &waiting.exchange,
            Bound::To(waiting.bound),
            waiting.round,
            id,
        );
        Self {
            call: Some(waiting.calling),
            exchange: waiting.exchange,
            gate,
            asking: Some(asking),
        }
    }

    /// What travels beside it.
    pub fn exchange(&self) -> &Arc<Exchange> {
        &self.exchange
    }

    /// What the server wants before it can go on. `None`: it has been told already.
    fn want(&mut self, wanted: Wanted) -> Option<Answer> {
        let inputs = match wanted {
            Wanted::Capabilities(lacking) => {
                // Its server would go on without what it needs.
                drop(self.call.take());
                let asking = self.asking.take()?;
                return Some(refused(&rounds::incapable(&lacking), &asking.id));
            }
            Wanted::Answers(inputs) => inputs,
        };
        let asking = self.asking.as_mut()?;
        let session = &self.exchange.session;
        let (bound, inputs) = match &asking.bound {
            Bound::To(bound) => (*bound, inputs),
            Bound::Request(raw) => {
                let Ok(request) = own(raw.clone()) else {
                    return Some(Answer::none());
                };
                let brought = &mut asking.brought;
                let answers = inputs.into_iter().map(|input| {
                    let said = rounds::brought(&request, &input, brought);
                    (input, said)
                });
                let left = hand_over(&self.exchange, answers);
                if left.is_empty() {
                    return None;
                }
                let bound = rounds::bound(&session.subject, &session.scope, &request);
                (bound, left)
            }
        };
        let (calling, asking) = (self.call.take()?, self.asking.take()?);
        let waiting = Waiting {
            calling,
            exchange: self.exchange.clone(),
            bound,
            round: asking.round,
        };
        Some(self.gate.suspend(waiting, inputs, &asking.id))
    }
}

impl Future for Running {
    type Output = Answer;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Answer> {
        let running = self.get_mut();
        let Some(call) = &mut running.call else {
            return Poll::Pending;
        };
        if let Poll::Ready(mut answer) = call.as_mut().poll(cx) {
            running.call = None;
            // After the first round the host waits with another request than it began with.
            if let (Some(asking), Some(said)) = (&running.asking, &mut answer.message)
                && asking.round > 0
            {
                *said = said.with_id(asking.id.as_bytes());
            }
            return Poll::Ready(answer);
        }
        loop {
            let Some(asking) = &mut running.asking else {
                return Poll::Pending;
            };
            let inputs = &running.exchange.inputs;
            let wanted = std::task::ready!(inputs.poll_wanted(&mut asking.silence, cx));
            if let Some(answer) = running.want(wanted) {
                return Poll::Ready(answer);
            }
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Some(call) = self.call.take()
            && self.exchange.session.era() == Era::Legacy
        {
            self.exchange.detach();
            self.gate.tasks().spawn(call);
        }
    }
}
