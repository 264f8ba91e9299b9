//! Calls that wait for their host between two of its requests.
//!
//! A call whose server has asked something stays as it is, with its place, its pipe and its pass;
//! only the host's request ends. The next request with the right state takes it up again. One that
//! nobody takes up is given up: its server hears so, and no tool runs a second time.

use std::collections::HashMap;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use chillgate_wire::{Envelope, Id, code, message};
use http::StatusCode;
use tokio::sync::oneshot;
use tokio::time::Instant;

use super::{Answer, Gate, Refusal};
use crate::era::host;
use crate::era::rounds::{self, Ticket};
use crate::exchange::Exchange;
use crate::exchange::inputs::Input;
use crate::lock::locked;
use crate::replicas::Place;
use crate::route::own;
use crate::session::{Aside, Session};

/// How often a host may be asked for one call.
const ROUNDS: u32 = 1000;

/// How many calls of one session may wait: fewer than it may have pipes for.
const WAITING: usize = 40;

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
    /// The state is not of chillgate's making: it is the server's own, or nobody's.
    Foreign,
    /// Another replica has the call.
    Elsewhere(Place),
}

struct Parked {
    exchange: Arc<Exchange>,
    bound: [u8; 32],
    round: u32,
    inputs: Vec<Input>,
    /// Takes the call out of the hands of the task that has it meanwhile; dropped, the call ends.
    take: Taker,
    aside: Aside,
}

type Taker = oneshot::Sender<oneshot::Sender<Calling>>;

impl Parked {
    /// The server hears that nobody answers, then that nobody waits.
    fn end(self) -> impl Future<Output = ()> + Send {
        let Self {
            exchange,
            inputs,
            take,
            aside,
            ..
        } = self;
        // At once, for the call that takes its place.
        drop(aside);
        async move {
            tell_all(&exchange, &inputs, |_| Err(())).await;
            drop(take);
        }
    }
}

/// All calls that wait.
pub struct Suspended {
    began: Instant,
    calls: Mutex<HashMap<u64, Parked>>,
    last: AtomicU64,
}

impl Default for Suspended {
    fn default() -> Self {
        Self {
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
    pub fn suspend(&self, waiting: Waiting, inputs: Vec<Input>, id: &Id) -> Answer {
        let Waiting {
            calling,
            exchange,
            bound,
            round,
        } = waiting;
        if self.0.drain.refuses() {
            return refused(&Refusal::Draining, id);
        }
        if round >= ROUNDS {
            let text = "the server asks without end; the call was cancelled".to_owned();
            return refused(&rounds::unfit(text), id);
        }
        self.make_room(&exchange.session);
        let aside = match self.set_aside(&exchange) {
            Ok(aside) => aside,
            Err(refusal) => return refused(&refusal, id),
        };
        let (take, taken) = oneshot::channel();
        let parked = Parked {
            exchange,
            bound,
            round: round + 1,
            inputs,
            take,
            aside,
        };
        self.park(parked, calling, taken, id)
    }

    fn park(
        &self,
        parked: Parked,
        calling: Calling,
        taken: oneshot::Receiver<oneshot::Sender<Calling>>,
        id: &Id,
    ) -> Answer {
        let suspended = &self.0.suspended;
        let patience = self.0.live.pin().config.limits.input_wait;
        let ticket = Ticket {
            owner: self.0.replicas.own(),
            call: suspended.last.fetch_add(1, Ordering::Relaxed) + 1,
            round: parked.round,
            until: (suspended.began.elapsed() + patience).as_secs(),
        };
        let state = ticket.seal(&self.0.replicas.ring(), &parked.bound);
        let said = rounds::required(id.as_bytes(), &parked.inputs, Some(&state));
        locked(&suspended.calls).insert(ticket.call, parked);
        tokio::spawn(self.clone().keep(ticket.call, patience, calling, taken));
        answer(said)
    }

    /// Keeps a call going while its host is away, until it is taken up, given up or over.
    async fn keep(
        self,
        call: u64,
        patience: Duration,
        mut calling: Calling,
        mut taken: oneshot::Receiver<oneshot::Sender<Calling>>,
    ) {
        let waiting = async {
            tokio::select! {
                () = tokio::time::sleep(patience) => {}
                () = self.0.drain.until_refusing() => {}
            }
        };
        let mut waiting = std::pin::pin!(waiting);
        let over = tokio::select! {
            biased;
            to = &mut taken => {
                if let Ok(to) = to {
                    let _ = to.send(calling);
                }
                return;
            }
            over = &mut calling => Some(over),
            () = &mut waiting => None,
        };
        // It has ended by itself, such as by its deadline: its host hears it when it comes.
        if let Some(over) = over {
            calling = Box::pin(std::future::ready(over));
            tokio::select! {
                to = taken => {
                    if let Ok(to) = to {
                        let _ = to.send(calling);
                    }
                    return;
                }
                () = waiting => {}
            }
        }
        let parked = locked(&self.0.suspended.calls).remove(&call);
        if let Some(parked) = parked {
            parked.end().await;
        }
    }

    /// Hosts that never come back must not keep others from being asked: where many calls wait, the
    /// one that has waited longest is given up.
    fn make_room(&self, session: &Arc<Session>) {
        let most = self.0.live.pin().config.limits.in_flight_per_agent;
        let longest = {
            let calls = locked(&self.0.suspended.calls);
            let of_agent =
                |parked: &Parked| Arc::ptr_eq(&parked.exchange.session.agent, &session.agent);
            let of_session = |parked: &Parked| Arc::ptr_eq(&parked.exchange.session, session);
            longest_of(&calls, of_session, WAITING)
                .or_else(|| longest_of(&calls, of_agent, Aside::most(most)))
        };
        let parked = longest.and_then(|call| locked(&self.0.suspended.calls).remove(&call));
        if let Some(parked) = parked {
            tokio::spawn(parked.end());
        }
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
        rounds::check_responses(request)?;
        let bound = rounds::bound(&session.subject, &session.scope, request);
        let suspended = &self.0.suspended;
        let Ok(ticket) = Ticket::open(&self.0.replicas.ring(), state, &bound) else {
            return Ok(Resumed::Foreign);
        };
        match self.0.replicas.place(ticket.owner) {
            Place::Here => {}
            elsewhere => return Ok(Resumed::Elsewhere(elsewhere)),
        }
        let (parked, answers) = {
            let mut calls = locked(&suspended.calls);
            let Some(parked) = calls.get(&ticket.call) else {
                return Err(suspended.gone(ticket));
            };
            let mut answers = Vec::with_capacity(parked.inputs.len());
            for input in &parked.inputs {
                answers.push(rounds::response(request, input)?.map(<[u8]>::to_vec));
            }
            host::take_up(&parked.exchange, request)?;
            // Only now: a request that is no good leaves it waiting.
            let Some(parked) = calls.remove(&ticket.call) else {
                return Err(suspended.gone(ticket));
            };
            (parked, answers)
        };
        let Parked {
            exchange,
            bound,
            round,
            inputs,
            take,
            aside,
        } = parked;
        drop(aside);
        let (to, back) = oneshot::channel();
        let _ = take.send(to);
        let calling = back.await.map_err(|_| suspended.gone(ticket))?;
        let missing = hand_over(&exchange, inputs.into_iter().zip(answers));
        let waiting = Waiting {
            calling,
            exchange,
            bound,
            round,
        };
        if missing.is_empty() {
            return Ok(Resumed::On(Box::new(waiting)));
        }
        Ok(Resumed::Waits(self.suspend(waiting, missing, id)))
    }

    /// The hosts of a session have gone: nobody comes back for its calls.
    pub async fn give_up_all(&self, session: &Arc<Session>) {
        let calls: Vec<Parked> = locked(&self.0.suspended.calls)
            .extract_if(|_, parked| Arc::ptr_eq(&parked.exchange.session, session))
            .map(|(_, parked)| parked)
            .collect();
        for parked in calls {
            parked.end().await;
        }
    }
}

/// The longest of so many or more calls.
fn longest_of(
    calls: &HashMap<u64, Parked>,
    fits: impl Fn(&Parked) -> bool,
    most: usize,
) -> Option<u64> {
    let mut numbers = calls
        .iter()
        .filter(|(_, parked)| fits(parked))
        .map(|(number, _)| *number);
    let first = numbers.next()?;
    let (longest, count) = numbers.fold((first, 1), |(longest, count), number| {
        (longest.min(number), count + 1)
    });
    (count >= most).then_some(longest)
}

/// Hands the server what its host has said to its questions; those to which it has said nothing.
pub fn hand_over(
    exchange: &Arc<Exchange>,
    answers: impl Iterator<Item = (Input, Option<Vec<u8>>)>,
) -> Vec<Input> {
    let mut missing = Vec::new();
    let mut said = Vec::new();
    for (input, answer) in answers {
        match answer {
            Some(answer) => said.push((input, answer)),
            None => missing.push(input),
        }
    }
    if !said.is_empty() {
        // Apart from here: a server that does not read must not hold up its host's next line.
        let asked = exchange.clone();
        tokio::spawn(async move {
            let (inputs, answers): (Vec<_>, Vec<_>) = said.into_iter().unzip();
            tell_all(&asked, &inputs, |at| Ok(&*answers[at])).await;
        });
    }
    missing
}

/// How long a server may take to read an answer.
const READING: Duration = Duration::from_secs(5);

/// Hands the server what its host says to each question, or that it says nothing.
async fn tell_all<'a>(
    exchange: &Exchange,
    inputs: &[Input],
    said: impl Fn(usize) -> Result<&'a [u8], ()>,
) {
    for (at, input) in inputs.iter().enumerate() {
        // One that does not read is a server that gives no answer, which has limits of its own.
        let _ = tokio::time::timeout(READING, tell(exchange, input, said(at))).await;
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
