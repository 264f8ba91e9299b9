//! The server's side of a Streamable HTTP event stream, decoded and bounded.
//!
//! Decoding is `sse-stream`'s; this adds what it leaves open: no event may outgrow the message
//! cap, and the last event id and retry time are kept for resumption.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt;
use http::HeaderValue;
use hyper::body::{Body, Frame, Incoming};
use sse_stream::SseStream;

use crate::client::Reply;

/// The pause before a stream is resumed when the server names none.
const RETRY: Duration = Duration::from_secs(1);
/// The longest pause a server can ask for.
const LONGEST_RETRY: Duration = Duration::from_mins(1);

/// Messages of one event stream.
pub struct Events {
    stream: SseStream<Capped>,
    taken: Arc<AtomicUsize>,
    last_id: Option<HeaderValue>,
    retry: Duration,
}

/// Why a stream could not be read on.
#[derive(Debug, thiserror::Error)]
pub enum EventError {
    /// The connection or the framing broke.
    #[error("the event stream broke: {0}")]
    Broken(String),
}

impl Events {
    /// The stream of a reply; an event may have `cap` bytes.
    pub fn new(reply: Reply, cap: usize) -> Self {
        let taken = Arc::new(AtomicUsize::new(0));
        let body = Capped {
            body: reply.into_body(),
            taken: taken.clone(),
            cap,
        };
        Self {
            stream: SseStream::new(body),
            taken,
            last_id: None,
            retry: RETRY,
        }
    }

    /// The stream that goes on where `before` broke off.
    pub fn resumed(reply: Reply, cap: usize, before: &Self) -> Self {
        let mut events = Self::new(reply, cap);
        events.last_id.clone_from(&before.last_id);
        events.retry = before.retry;
        events
    }

    /// The next message; empty for an event without data (priming, retry).
    pub async fn next(&mut self) -> Option<Result<Bytes, EventError>> {
        let event = match self.stream.next().await? {
            Ok(event) => event,
            Err(error) => return Some(Err(EventError::Broken(error.to_string()))),
        };
        self.taken.store(0, Ordering::Relaxed);
        if let Some(id) = event
            .id
            .as_deref()
            .and_then(|id| HeaderValue::from_str(id).ok())
        {
            self.last_id = Some(id);
        }
        if let Some(retry) = event.retry {
            self.retry = Duration::from_millis(retry).min(LONGEST_RETRY);
        }
        let is_message = event
            .event
            .as_deref()
            .is_none_or(|name| name == "message" || name.is_empty());
        let data = event.data.filter(|_| is_message).unwrap_or_default();
        Some(Ok(Bytes::from(data)))
    }

    /// Where to post, which an HTTP+SSE server says first. `None`: the stream has ended before.
    pub async fn endpoint(&mut self) -> Option<String> {
        while let Some(Ok(event)) = self.stream.next().await {
            self.taken.store(0, Ordering::Relaxed);
            if event.event.as_deref() == Some("endpoint") {
                return event.data;
            }
        }
        None
    }

    /// The id of the last event that had one.
    pub fn last_id(&self) -> Option<&HeaderValue> {
        self.last_id.as_ref()
    }

    /// How long to wait before the stream is resumed.
    pub fn retry(&self) -> Duration {
        self.retry
    }
}

/// A body that fails once more than `cap` bytes came since the last event.
struct Capped {
    body: Incoming,
    taken: Arc<AtomicUsize>,
    cap: usize,
}

impl Body for Capped {
    type Data = Bytes;
    type Error = EventError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        let frame = match std::task::ready!(Pin::new(&mut self.body).poll_frame(cx)) {
            None => return Poll::Ready(None),
            Some(Err(error)) => {
                return Poll::Ready(Some(Err(EventError::Broken(error.to_string()))));
            }
            Some(Ok(frame)) => frame,
        };
        let size = frame.data_ref().map_or(0, Bytes::len);
        if self.taken.fetch_add(size, Ordering::Relaxed) + size > self.cap + (64 << 10) {
            let error = format!("an event has more than {} bytes", self.cap);
            return Poll::Ready(Some(Err(EventError::Broken(error))));
        }
        Poll::Ready(Some(Ok(frame)))
    }
}
