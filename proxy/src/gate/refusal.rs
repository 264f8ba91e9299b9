//! The one table from "it did not happen" to JSON-RPC and HTTP.
//!
//! Codes of chillgate's own lie outside -32768..-32000, which JSON-RPC and MCP reserve. Every
//! text says what happened, where, and what to do next; nothing here decides anything.

use std::sync::Arc;
use std::time::Duration;

use chillgate_policies::engine::{self, Rejection};
use chillgate_wire::{Envelope, Limits, code, json, message};
use http::StatusCode;
use serde_json::{Value, json as value};

use crate::backend::{BackendError, State};
use crate::exchange::{Ended, Exchange};
use crate::incidents::Recognised;
use crate::replicas::Place;
use crate::session::Full;

/// Why a request was not carried out.
#[derive(Debug)]
pub enum Refusal {
    /// A policy says no.
    Policy {
        /// What it says.
        rejection: Box<Rejection>,
        /// The name as the host spells it.
        tool: Option<Arc<str>>,
    },
    /// The server gave no answer.
    Server(BackendError),
    /// Somebody ended it.
    Ended(Ended),
    /// It took too long.
    Overdue {
        /// The server that did not answer.
        server: Arc<str>,
        /// For how long.
        after: Duration,
        /// How the server is by then.
        state: State,
        /// What is known of its failure.
        known: Option<Arc<Recognised>>,
    },
    /// There is no room.
    Full(Full),
    /// chillgate is stopping.
    Draining,
    /// The session already has a request with this id in flight.
    IdInUse,
    /// No such server is configured (any more).
    NoServer(Arc<str>),
    /// The call that the request goes on with is another replica's.
    Elsewhere(Place),
    /// A mistake in chillgate itself.
    Panic,
    /// chillgate itself has the answer: the protocol fixes it.
    Answered {
        /// The JSON-RPC code the protocol asks for.
        code: i64,
        /// What it is.
        message: String,
        /// Its `data`.
        data: Option<Value>,
    },
}

/// What a front sends: a message, or nothing for a request that was cancelled.
#[derive(Debug)]
pub struct Answer {
    /// The JSON-RPC answer.
    pub message: Option<Envelope>,
    /// The HTTP status, where nothing was streamed before.
    pub status: StatusCode,
    /// For `Retry-After`.
    pub retry_after: Option<Duration>,
    /// For `WWW-Authenticate`: all scopes that the call needs, where it lacks one.
    pub lacking: Option<Box<str>>,
    /// For `RateLimit`: the budget that had too little left.
    pub spent: Option<Box<Spent>>,
}

/// A budget that had too little left for a call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Spent {
    /// The policy's name.
    pub policy: Arc<str>,
    /// What it allows.
    pub quota: u64,
    /// Per how many seconds.
    pub window: u64,
    /// What is left of it.
    pub remaining: u64,
    /// Whether bytes are counted, and not calls.
    pub is_bytes: bool,
}

impl Spent {
    fn of(rejection: &Rejection) -> Option<Box<Self>> {
        let number = |name| {
            let (_, value) = rejection.data.iter().find(|(key, _)| *key == name)?;
            value.as_u64()
        };
        Some(Box::new(Self {
            policy: rejection.policy.clone(),
            quota: number("limit")?,
            // A window of less than a second is one that the field cannot say.
            window: number("windowS")?,
            remaining: number("remaining")?,
            is_bytes: rejection.data.iter().any(|(key, _)| *key == "unit"),
        }))
    }
}

impl Answer {
    /// A server's answer.
    pub fn of(answer: Envelope) -> Self {
        Self {
            message: Some(answer),
            status: StatusCode::OK,
            retry_after: None,
            lacking: None,
            spent: None,
        }
    }

    /// No answer, as JSON-RPC asks for a cancelled request.
    pub fn none() -> Self {
        Self {
            message: None,
            status: StatusCode::OK,
            retry_after: None,
            lacking: None,
            spent: None,
        }
    }

    /// Whether it says all that it says in its message, and nothing in its status.
    pub fn is_plain(&self) -> bool {
        self.message.is_some() && self.status == StatusCode::OK
    }
}

impl Refusal {
    /// The HTTP status it travels with, where nothing was streamed before.
    pub fn status(&self) -> StatusCode {
        match self {
            Self::Policy { rejection, .. } if rejection.answer == engine::Answer::Http429 => {
                StatusCode::TOO_MANY_REQUESTS
            }
            Self::Policy { rejection, .. }
                if rejection.scopes().is_some() && rejection.answer == engine::Answer::Error =>
            {
                StatusCode::FORBIDDEN
            }
            Self::Elsewhere(Place::Gone(_)) => StatusCode::OK,
            Self::Draining | Self::Full(_) | Self::Elsewhere(_) => StatusCode::SERVICE_UNAVAILABLE,
            _ => StatusCode::OK,
        }
    }

    /// The answer to the request of this exchange.
    pub fn answer(self, exchange: &Exchange) -> Answer {
        let id = exchange.id.as_bytes();
        let status = self.status();
        let (mut retry_after, mut lacking, mut spent) = (None, None, None);
        let (code, text, data) = match self {
            Self::Ended(Ended::ByHost) => return Answer::none(),
            Self::Policy { rejection, tool } => {
                retry_after = rejection.retry_after;
                lacking = rejection.scopes().map(Box::from);
                spent = Spent::of(&rejection);
                if rejection.answer == engine::Answer::ToolError {
                    return tool_error(id, &rejection);
                }
                let text = if rejection.hidden {
                    hidden_text(&rejection, tool.as_deref())
                } else {
                    rejection.message.to_string()
                };
                (rejection.code, text, rejection.to_data())
            }
            Self::Draining => {
                retry_after = Some(Duration::from_secs(5));
                self.words()
            }
            Self::Full(_) => {
                retry_after = Some(Duration::from_secs(1));
                self.words()
            }
            other => other.words(),
        };
        let data = data.map(|data| data.to_string());
        let raw = message::error(Some(id), code, &text, data.as_deref().map(str::as_bytes));
        Answer {
            message: own(raw),
            status,
            retry_after,
            lacking,
            spent,
        }
    }

    /// Code, text and data, for requests and for what has no id.
    pub fn words(&self) -> (i64, String, Option<Value>) {
        let kind = |name: &str| value!({ "type": format!("chillgate/{name}") });
        match self {
            Self::Policy { rejection, .. } => (
                rejection.code,
                rejection.message.to_string(),
                rejection.to_data(),
            ),
            Self::Server(error) => {
                let (code, name, server, retryable) = match error {
                    BackendError::Down { server, .. } => {
                        (code::SERVER_DOWN, "server-down", server, true)
                    }
                    BackendError::Unspoken { server, .. } => {
                        (code::SERVER_DOWN, "server-era", server, false)
                    }
                    BackendError::Lost {
                        server, retryable, ..
                    } => (code::SERVER_DOWN, "server-lost", server, *retryable),
                    BackendError::Invalid { server, .. } => {
                        (code::INTERNAL_ERROR, "server-invalid", server, false)
                    }
                    BackendError::Busy { server, .. } => (code::BUSY, "server-busy", server, true),
                    BackendError::Caller { server, .. } => {
                        (code::TOKEN, "server-token", server, false)
                    }
                    BackendError::Superseded { server } => {
                        (code::SERVER_DOWN, "server-superseded", server, true)
                    }
                };
                let mut data = kind(name);
                data["server"] = (**server).into();
                data["retryable"] = retryable.into();
                if let BackendError::Down { known, .. }
                | BackendError::Lost { known, .. }
                | BackendError::Unspoken { known, .. } = error
                    && let Some(known) = known
                {
                    data["incident"] = serde_json::to_value(known).unwrap_or_default();
                }
                (code, error.to_string(), Some(data))
            }
            Self::Ended(Ended::ByHost) => (
                engine::policy::code::CANCELLED,
                "cancelled".to_owned(),
                None,
            ),
            Self::Ended(Ended::Session) => (
                engine::policy::code::CANCELLED,
                "the session was ended".to_owned(),
                Some(kind("session-ended")),
            ),
            Self::Ended(Ended::Drain) | Self::Draining => (
                code::DRAINING,
                "chillgate is stopping; try again in a few seconds".to_owned(),
                Some(kind("draining")),
            ),
            Self::Elsewhere(place) => {
                let (text, retryable) = match place {
                    Place::Gone(_) => (
                        "the replica of chillgate that held this call has gone, and the call with it; \
                         whether to call again is for you to decide",
                        false,
                    ),
                    Place::Here | Place::At(_) => (
                        "another replica of chillgate holds this call; send it there",
                        false,
                    ),
                    Place::Unsure(_) => (
                        "another replica of chillgate has it, and the store that says where is away; \
                         try again in a few seconds",
                        true,
                    ),
                };
                let mut data = kind("replica-down");
                data["retryable"] = retryable.into();
                (code::REPLICA_DOWN, text.to_owned(), Some(data))
            }
            Self::Overdue {
                server,
                after,
                state,
                known,
            } => {
                let mut data = kind("timeout");
                data["server"] = (**server).into();
                // What still starts has not seen the request.
                data["retryable"] = (*state == State::Starting).into();
                if let Some(known) = known {
                    data["incident"] = serde_json::to_value(known).unwrap_or_default();
                }
                let after = after.as_secs_f64();
                let text = match state {
                    State::Starting => {
                        let known = known.as_ref().map(|known| known.sentence());
                        format!(
                            "server `{server}` did not get ready within {after:.1} s and is still being \
                             started; try again in a while, or see what `chillgate doctor` finds{}",
                            known.unwrap_or_default()
                        )
                    }
                    State::Broken(cause) | State::Looping(cause) => {
                        format!("server `{server}` did not answer within {after:.1} s: {cause}")
                    }
                    State::OnDemand | State::Ready | State::Asleep => format!(
                        "server `{server}` did not answer within {after:.1} s; the call was cancelled \
                         there. A timeout policy can allow more"
                    ),
                };
                (code::TIMEOUT, text, Some(data))
            }
            Self::Full(full) => {
                let text = match full {
                    Full::Sessions => "chillgate has as many sessions as `limits.sessions` allows",
                    Full::AgentSessions => {
                        "this agent has as many sessions as `limits.sessions-per-agent` allows; end one"
                    }
                    Full::InFlight => {
                        "this agent has as many requests in flight as \
                         `limits.in-flight-per-agent` allows; wait for one to end"
                    }
                };
                let mut data = kind("full");
                data["retryable"] = true.into();
                data["retryAfterMs"] = 1000.into();
                (code::BUSY, text.to_owned(), Some(data))
            }
            Self::IdInUse => (
                code::INVALID_REQUEST,
                "a request with this id is in flight in this session; use a new id".to_owned(),
                None,
            ),
            Self::NoServer(name) => {
                let mut data = kind("no-server");
                data["server"] = (**name).into();
                (
                    code::SERVER_DOWN,
                    format!("no server `{name}` is configured here"),
                    Some(data),
                )
            }
            Self::Panic => (
                code::INTERNAL_ERROR,
                "chillgate failed inside; its log says where. Whether the server carried the \
                 request out is unknown"
                    .to_owned(),
                Some(kind("panic")),
            ),
            Self::Answered {
                code,
                message,
                data,
            } => (*code, message.clone(), data.clone()),
        }
    }
}

impl Refusal {
    /// The metrics label of a refusal of the gate's own.
    pub fn outcome(&self) -> &'static str {
        match self {
            Self::Draining => "draining",
            Self::Full(_) => "concurrency",
            Self::Server(BackendError::Caller { .. }) => "denied",
            Self::Server(_) | Self::NoServer(_) => "server_down",
            _ => "invalid",
        }
    }

    /// The same refusal as the audit log knows refusals.
    pub fn rejection(&self) -> Rejection {
        let (code, text, _) = self.words();
        let reason = match self {
            Self::Draining => "draining",
            Self::Full(_) => "full",
            Self::IdInUse => "id_in_use",
            Self::NoServer(_) => "no_server",
            _ => "unknown",
        };
        Rejection::new(&Arc::from("gate"), "gate", reason, code, text)
    }
}

/// The metrics label of a policy's refusal.
pub fn outcome(rejection: &Rejection) -> &'static str {
    match rejection.kind {
        "access" | "scope" => "denied",
        "quota" => "quota",
        "concurrency" => "concurrency",
        _ => "refused",
    }
}

/// What a server says about a name it does not know.
fn hidden_text(rejection: &Rejection, name: Option<&str>) -> String {
    let Some(name) = name else {
        return rejection.message.to_string();
    };
    match rejection.message.split_once(": ") {
        Some((words, _)) => format!("{words}: {name}"),
        None => format!("{}: {name}", rejection.message),
    }
}

/// A refusal as a tool result, which the model reads.
fn tool_error(id: &[u8], rejection: &Rejection) -> Answer {
    let result = format!(
        r#"{{"content":[{{"type":"text","text":{}}}],"isError":true}}"#,
        json::quote(&rejection.message)
    );
    Answer {
        message: own(message::result(id, result.as_bytes())),
        status: StatusCode::OK,
        retry_after: None,
        lacking: None,
        spent: None,
    }
}

fn own(raw: bytes::Bytes) -> Option<Envelope> {
    // What chillgate itself writes is well-formed; the host's own id was accepted before.
    Envelope::parse(
        raw,
        &Limits {
            depth: 128,
            ..Limits::default()
        },
    )
    .ok()
}
