//! Reply bodies: nothing, one message, or an event stream.
//!
//! One message needs no boxed stream; that is the path nearly every call takes.

use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::SystemTime;

use bytes::Bytes;
use chillgate_policies::engine::clock::Clock as _;
use chillgate_wire::{Envelope, sse};
use futures_util::Stream;
use futures_util::stream;
use hyper::body::{Frame, SizeHint};
use tokio::time::Sleep;

use super::KEEP_ALIVE;
use super::listen::OneRequest;
use crate::clock::TokioClock;
use crate::front::running::Running;
use crate::gate::Answer;

/// A reply's body.
pub struct Body {
    kind: Kind,
    /// Held until the body is done with.
    request: Option<OneRequest>,
    /// Whether it ends when its host has closed its half.
    is_cut: bool,
    /// When it ends at the latest.
    end: Option<Pin<Box<Sleep>>>,
}

/// What a body is to be taken for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Media {
    /// There is none.
    None,
    /// One message or several.
    Json,
    /// `text/event-stream`.
    Events,
}

enum Kind {
    Full(Option<Bytes>),
    Stream(Pin<Box<dyn Stream<Item = Bytes> + Send>>),
}

impl Body {
    fn of(kind: Kind) -> Self {
        Self {
            kind,
            request: None,
            is_cut: false,
            end: None,
        }
    }

    /// Keeps the request's place until the body is done with. If `is_cut`, a stream ends with the
    /// half of the connection that its host writes to.
    pub(super) fn keep(&mut self, request: OneRequest, is_cut: bool) {
        self.request = Some(request);
        self.is_cut = is_cut;
    }

    /// Ends a stream at this time, if it has not ended before.
    pub(super) fn end_at(&mut self, until: SystemTime) {
        let left = until.duration_since(TokioClock.wall()).unwrap_or_default();
        if matches!(self.kind, Kind::Stream(_)) {
            self.end = Some(Box::pin(tokio::time::sleep(left)));
        }
    }

    /// No body.
    pub fn empty() -> Self {
        Self::of(Kind::Full(None))
    }

    /// These bytes.
    pub fn full(bytes: Bytes) -> Self {
        Self::of(Kind::Full(Some(bytes)))
    }

    pub(super) fn stream(stream: impl Stream<Item = Bytes> + Send + 'static) -> Self {
        Self::of(Kind::Stream(Box::pin(stream)))
    }

    /// What it is to be taken for.
    pub(super) fn media(&self) -> Media {
        match self.kind {
            Kind::Full(None) => Media::None,
            Kind::Full(Some(_)) => Media::Json,
            Kind::Stream(_) => Media::Events,
        }
    }
}

impl hyper::body::Body for Body {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        if self.is_cut && self.request.as_ref().is_some_and(OneRequest::is_ended) {
            self.kind = Kind::Full(None);
        }
        if let Some(end) = &mut self.end
            && end.as_mut().poll(cx).is_ready()
        {
            self.kind = Kind::Full(None);
            self.end = None;
        }
        match &mut self.kind {
            Kind::Full(bytes) => Poll::Ready(bytes.take().map(|bytes| Ok(Frame::data(bytes)))),
            Kind::Stream(stream) => stream
                .as_mut()
                .poll_next(cx)
                .map(|bytes| bytes.map(|bytes| Ok(Frame::data(bytes)))),
        }
    }

    fn is_end_stream(&self) -> bool {
        matches!(self.kind, Kind::Full(None))
    }

    fn size_hint(&self) -> SizeHint {
        match &self.kind {
            Kind::Full(bytes) => SizeHint::with_exact(bytes.as_ref().map_or(0, Bytes::len) as u64),
            Kind::Stream(_) => SizeHint::default(),
        }
    }
}

fn event(message: &Envelope) -> Bytes {
    let mut out = Vec::with_capacity(message.raw().len() + 16);
    sse::event(message.raw(), None, &mut out);
    out.into()
}

pub(super) fn comment() -> Bytes {
    let mut out = Vec::new();
    sse::comment(&mut out);
    out.into()
}

struct Answering {
    running: Running,
    first: Option<Envelope>,
    answer: Option<Answer>,
    done: bool,
}

/// What belongs to a modern request, then its answer, then the end.
pub fn answer_stream(running: Running, first: Option<Envelope>, answer: Option<Answer>) -> Body {
    let state = Answering {
        running,
        first,
        answer,
        done: false,
    };
    Body::stream(stream::unfold(state, |mut state| async move {
        if let Some(first) = state.first.take() {
            return Some((event(&first), state));
        }
        if state.done {
            return None;
        }
        let exchange = state.running.exchange().clone();
        let quiet = tokio::time::sleep(KEEP_ALIVE);
        let answer = if let Some(answer) = state.answer.take() {
            answer
        } else {
            tokio::select! {
                biased;
                Some(message) = exchange.mailbox.next() => return Some((event(&message), state)),
                answer = &mut state.running => answer,
                () = quiet => return Some((comment(), state)),
            }
        };
        // What was said before the answer goes out before it.
        if let Some(message) = exchange.mailbox.take() {
            state.answer = Some(answer);
            return Some((event(&message), state));
        }
        state.done = true;
        answer.message.map(|message| (event(&message), state))
    }))
}
