//! Towards servers: the seam every transport to a server stands behind.
//!
//! A backend carries a request to its server and the answer back, and hands everything else that
//! the server says to the session or exchange it belongs to. It never sees a policy and never
//! writes to a host itself.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use chillgate_wire::Envelope;

use crate::exchange::Exchange;
use crate::incidents::Recognised;
use crate::session::Session;

pub mod builtin;
pub mod either;
pub mod exchanged;
pub mod greeting;
pub mod http_sse;
pub mod modern_http;
pub mod pipe;
pub mod pipes;
pub mod reach;
pub(crate) mod said;
pub mod stdio;
pub mod streamable_http;
pub mod tasking;

/// How long a server that is asked whether it is modern may be silent before it is tried in the
/// other era as well. It is still listened to: slow starters take longer.
const SILENCE: Duration = Duration::from_secs(5);

/// What the gate knows about an admitted call besides its bytes.
#[derive(Clone, Copy, Debug, Default)]
pub struct Passage {
    /// A policy has held the call; a built-in server does not hold it again.
    pub held: bool,
}

/// One server, whatever it takes to reach it. What has a body here is for those that only stand for
/// other servers and have nothing of their own.
#[async_trait]
pub trait Backend: Send + Sync + std::fmt::Debug {
    /// The name under which it is configured.
    fn name(&self) -> &Arc<str>;

    /// Carries a request to the server and waits for the answer, which bears the host's own id.
    /// Dropping the future tells the server that the request is cancelled.
    async fn call(
        &self,
        exchange: &Arc<Exchange>,
        request: &Envelope,
        passage: Passage,
    ) -> Result<Envelope, BackendError>;

    /// Opens the server for a session that wants to hear what it says on its own.
    async fn attend(&self, _session: &Arc<Session>) -> Result<Attended, BackendError> {
        Ok(Attended {
            said: Bytes::from_static(b"{}"),
            ended: Box::pin(std::future::pending()),
        })
    }

    /// Carries a notification of the host.
    async fn post(&self, _session: &Arc<Session>, _note: Envelope) -> Result<(), BackendError> {
        Ok(())
    }

    /// The session is over: what exists only for it ends.
    async fn detach(&self, _session: &Arc<Session>) {}

    /// Starts ahead of the first call what can be started then.
    async fn warm(&self) {}

    /// Nobody needs it for now: what all share of it ends, until the next call.
    async fn rest(&self) {}

    /// Nobody has called anything for long: what runs of it sleeps, where nobody would miss it.
    async fn sleep(&self) {}

    /// For `/readyz`.
    fn state(&self) -> State {
        State::Ready
    }

    /// The processes that stand behind it.
    fn children(&self) -> Vec<ChildState> {
        Vec::new()
    }

    /// How many of its processes sleep.
    fn asleep(&self) -> usize {
        0
    }

    /// What it says about itself in its `initialize` result, once it has.
    fn instructions(&self) -> Option<String> {
        None
    }

    /// Another takes its place: what runs on it runs on, and nothing is started for it any more.
    /// Whoever waits for a start hears [`BackendError::Superseded`].
    fn supersede(&self) {}

    /// What is known of the failure that it has now.
    fn known(&self) -> Option<Arc<Recognised>> {
        None
    }

    /// Ends everything, waiting for children to go.
    async fn stop(&self) {}
}

/// A server that has been opened for a session.
pub struct Attended {
    /// What it said in its `initialize` result.
    pub said: Bytes,
    /// Resolves when it has ended and must be opened anew.
    pub ended: Pin<Box<dyn Future<Output = ()> + Send>>,
}

/// A process behind a server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChildState {
    /// Its keeper's process id.
    pub pid: u32,
    /// Whose alone it is, where it is one agent's.
    pub agent: Option<Arc<str>>,
    /// Requests that it works on.
    pub running: usize,
    /// Requests that wait for a place with it.
    pub waiting: usize,
}

/// How a server is, in one word and, when it is broken, in one sentence.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum State {
    /// Nothing runs yet; it starts with the first call.
    OnDemand,
    /// It is being started.
    Starting,
    /// It answers.
    Ready,
    /// Nobody has used it for a while; it wakes with the next call.
    Asleep,
    /// It does not; the sentence says why.
    Broken(String),
    /// Neither, and it fails time and again: it is tried ever more seldom.
    Looping(String),
}

impl State {
    /// The word for it, as in `/readyz`.
    pub fn word(&self) -> &'static str {
        match self {
            Self::OnDemand => "idle",
            Self::Starting => "starting",
            Self::Ready => "up",
            Self::Asleep => "asleep",
            Self::Broken(_) => "down",
            Self::Looping(_) => "crash-loop",
        }
    }

    /// Why it does not answer.
    pub fn trouble(self) -> Option<String> {
        match self {
            Self::Broken(cause) | Self::Looping(cause) => Some(cause),
            _ => None,
        }
    }
}

/// Why a server gave no answer.
#[derive(Clone, Debug, thiserror::Error)]
pub enum BackendError {
    /// It could not be reached or started; the request was not carried out.
    #[error("server `{server}` is not available: {cause}")]
    Down {
        /// Its name.
        server: Arc<str>,
        /// What happened and what to do.
        cause: String,
        /// What is known of such failures.
        known: Option<Arc<Recognised>>,
    },
    /// It went away with the request on its way; whether the request was carried out is unknown.
    #[error("server `{server}` ended before it answered: {cause}")]
    Lost {
        /// Its name.
        server: Arc<str>,
        /// What happened.
        cause: String,
        /// How its process ended, without a word of its own.
        ended: Option<Arc<str>>,
        /// Asking a second time does no harm.
        retryable: bool,
        /// What is known of such failures.
        known: Option<Arc<Recognised>>,
    },
    /// It answered something that is no answer.
    #[error("server `{server}` gave no valid answer: {cause}")]
    Invalid {
        /// Its name.
        server: Arc<str>,
        /// What was wrong.
        cause: String,
    },
    /// It was reached and refused the first words of this era; nothing was carried out.
    #[error("server `{server}` is not available: {cause}")]
    Unspoken {
        /// Its name.
        server: Arc<str>,
        /// What it said instead.
        cause: String,
        /// What is known of such failures, where it is one.
        known: Option<Arc<Recognised>>,
    },
    /// The configuration has changed before it was reached: whatever has its name now is meant.
    #[error(
        "server `{server}` was taken out of the configuration; the request was not carried out"
    )]
    Superseded {
        /// Its name.
        server: Arc<str>,
    },
    /// It can be reached, but not for this host, whose token does not do; that says nothing of
    /// others. Nothing was carried out.
    #[error("server `{server}` is not available to this host: {cause}")]
    Caller {
        /// Its name.
        server: Arc<str>,
        /// What is wrong and what to do.
        cause: String,
    },
    /// It cannot take the message now.
    #[error("server `{server}` is busy: {cause}")]
    Busy {
        /// Its name.
        server: Arc<str>,
        /// What is full.
        cause: String,
    },
}

impl BackendError {
    /// Why the server went away under a request, for those who must not hear what it said last.
    pub fn fate(&self) -> Option<Arc<str>> {
        match self {
            Self::Lost {
                ended: Some(ended), ..
            } => Some(ended.clone()),
            Self::Lost { cause, .. } => Some(cause.as_str().into()),
            _ => None,
        }
    }
}
