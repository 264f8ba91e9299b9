//! Calls that wait for their host between two of its requests.
//!
//! A call whose server has asked something stays as it is, with its place, its pipe and its pass;
//! only the host's request ends. The next request with the right state takes it up again. One that
//! nobody takes up is given up: its server hears so, and no tool runs a second time.

use std::collections::HashMap;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use chillgate_wire::{Envelope, Id, code, message};
use http::StatusCode;
use tokio::task::AbortHandle;
use tokio::time::Instant;

use super::{Answer, Gate, Refusal};
use crate::era::host;
use crate::era::rounds::{self, Seal, Ticket};
use crate::exchange::Exchange;
use crate::exchange::inputs::Input;
use crate::lock::locked;
use crate::route::own;
use crate::session::{Aside, Session};

/// How often a host may be asked for one call.
const ROUNDS: u32 = 1000;

/// A call on its way.
pub type Calling = Pin<Box<dyn Future<Output = Answer> + Send>>;

/// A call that its host can be asked for, and how often it has been.
pub struct Waiting {
    /// The call itself.
    pub calling: Calling,
    /// What travels beside it.
    pub exchange: Arc<Exchange>,
    /// What its state is good for.
    pub bound: [u8; 32],
    /// How many rounds it has had.
    pub round: u32,
}

/// What the next request of the host has led to.
pub enum Resumed {
    /// The call goes on.
    On(Box<Waiting>),
    /// Answers are missing: it waits on.
    Waits(Answer),
}

struct Parked {
    waiting: Box<Waiting>,
    inputs: Vec<Input>,
    expiry: AbortHandle,
    _aside: Aside,
}

/// All calls that wait.
pub struct Suspended {
    seal: Seal,
    began: Instant,
    calls: Mutex<HashMap<u64, Parked>>,
    last: AtomicU64,
}

impl Default for Suspended {
    fn default() -> Self {
        Self {
            seal: Seal::default(),
            began: Instant::now(),
            calls: Mutex::default(),
            last: AtomicU64::new(0),
        }
    }
}

impl std::fmt::Debug for Suspended {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let calls = locked(&self.calls).len();
        f.debug_struct("Suspended")
            .field("calls", &calls)
            .finish_non_exhaustive()
    }
}

impl Suspended {
    /// Why there is no such call.
    fn gone(&self, ticket: Ticket) -> Refusal {
        if ticket.until <= self.began.elapsed().as_secs() {
            return Refusal::Answered {
                code: code::INTERNAL_ERROR,
                message:
                    "the call has waited too long for this answer and was cancelled; whether to \
                      call again is for you to decide"
                        .to_owned(),
                data: None,
            };
        }
        rounds::unfit(
            "Invalid params: `requestState` has been used already, or its call has ended"
                .to_owned(),
        )
    }
}

impl Gate {
    /// Lets a call wait for its host; the outcome of the request `id` that came so far.
    pub fn suspend(&self, mut waiting: Box<Waiting>, inputs: Vec<Input>, id: &Id) -> Answer {
        let suspended = &self.0.suspended;
        if waiting.round >= ROUNDS {
            let text = "the server asks without end; the call was cancelled".to_owned();
            return refused(&rounds::unfit(text), id);
        }
        let aside = match self.set_aside(&waiting.exchange) {
            Ok(aside) => aside,
            Err(refusal) => return refused(&refusal, id),
        };
        let patience = self.0.live.pin().config.limits.input_wait;
        waiting.round += 1;
        let ticket = Ticket {
            call: suspended.last.fetch_add(1, Ordering::Relaxed) + 1,
            round: waiting.round,
            until: (suspended.began.elapsed() + patience).as_secs(),
        };
        let state = suspended.seal.close(ticket, &waiting.bound);
        let said = rounds::required(id.as_bytes(), &inputs, Some(&state));
        let gate = self.clone();
        let expiring = tokio::spawn(async move {
            tokio::select! {
                () = tokio::time::sleep(patience) => {}
                () = gate.0.drain.until_refusing() => {}
            }
            gate.give_up(ticket.call).await;
        });
        let parked = Parked {
            waiting,
            inputs,
            expiry: expiring.abort_handle(),
            _aside: aside,
        };
        locked(&suspended.calls).insert(ticket.call, parked);
        answer(said)
    }

    /// Takes a call up again with the answers that this request of its host brings. An error
    /// leaves it waiting.
    pub async fn resume(
        &self,
        session: &Session,
        state: &str,
        request: &Envelope,
        id: &Id,
    ) -> Result<Resumed, Refusal> {
        if self.0.drain.refuses() {
            return Err(Refusal::Draining);
        }
        let bound = rounds::bound(&session.agent.name, &session.scope, request);
        let suspended = &self.0.suspended;
        let ticket = suspended.seal.open(state, &bound);
        let ticket = ticket.map_err(|broken| rounds::unfit(format!("Invalid params: {broken}")))?;
        let (parked, answers) = {
            let mut calls = locked(&suspended.calls);
            let Some(parked) = calls.get(&ticket.call) else {
                return Err(suspended.gone(ticket));
            };
            let mut answers = Vec::with_capacity(parked.inputs.len());
            for input in &parked.inputs {
                answers.push(rounds::response(request, input)?.map(<[u8]>::to_vec));
            }
            host::take_up(&parked.waiting.exchange, request)?;
            // Only now: a request that is no good leaves it waiting.
            let Some(parked) = calls.remove(&ticket.call) else {
                return Err(suspended.gone(ticket));
            };
            (parked, answers)
        };
        parked.expiry.abort();
        let waiting = parked.waiting;
        let mut missing = Vec::new();
        for (input, said) in parked.inputs.into_iter().zip(answers) {
            match said {
                Some(said) => tell(&waiting.exchange, &input, Ok(&said)).await,
                None => missing.push(input),
            }
        }
        if missing.is_empty() {
            return Ok(Resumed::On(waiting));
        }
        Ok(Resumed::Waits(self.suspend(waiting, missing, id)))
    }

    /// The hosts of a session have gone: nobody comes back for its calls.
    pub async fn give_up_all(&self, session: &Arc<Session>) {
        let calls: Vec<u64> = locked(&self.0.suspended.calls)
            .iter()
            .filter(|(_, parked)| Arc::ptr_eq(&parked.waiting.exchange.session, session))
            .map(|(call, _)| *call)
            .collect();
        for call in calls {
            self.give_up(call).await;
        }
    }

    /// The host has not come back: the server hears it, then its call is cancelled.
    async fn give_up(&self, call: u64) {
        let Some(parked) = locked(&self.0.suspended.calls).remove(&call) else {
            return;
        };
        for input in &parked.inputs {
            tell(&parked.waiting.exchange, input, Err(())).await;
        }
    }
}

/// Hands the server its host's answer to one question, or that there will be none.
async fn tell(exchange: &Exchange, input: &Input, said: Result<&[u8], ()>) {
    let number = Id::number(input.number);
    let raw = match said {
        Ok(said) => message::result(number.as_bytes(), said),
        Err(()) if input.method == "elicitation/create" => {
            message::result(number.as_bytes(), br#"{"action":"cancel"}"#)
        }
        Err(()) => {
            let text = "the host has not answered in time";
            message::error(Some(number.as_bytes()), code::INTERNAL_ERROR, text, None)
        }
    };
    if let Ok(answer) = own(raw) {
        exchange.session.answer(&answer).await;
    }
}

/// The answer to the request `id` where its call cannot go on.
pub fn refused(refusal: &Refusal, id: &Id) -> Answer {
    let (code, text, data) = refusal.words();
    let data = data.map(|data| data.to_string());
    let raw = message::error(
        Some(id.as_bytes()),
        code,
        &text,
        data.as_deref().map(str::as_bytes),
    );
    let mut answer = answer(raw);
    if code == code::MISSING_CLIENT_CAPABILITY {
        answer.status = StatusCode::BAD_REQUEST;
    }
    answer
}

fn answer(raw: bytes::Bytes) -> Answer {
    match own(raw) {
        Ok(said) => Answer::of(said),
        Err(_) => Answer::none(),
    }
}
