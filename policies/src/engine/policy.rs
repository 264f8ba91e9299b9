//! What a policy is: one trait, and the verdicts it may give.
//!
//! A verdict is data. A policy never sleeps, answers or records by itself; the chain carries the
//! verdict out, so that shadow mode, cancellation and measuring are written once.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use serde_json::{Map, Value};

use super::boss::Reading;
use super::call::{Call, Completion, Levels};

/// One rule object. Its methods are called only for calls its `match` covers.
///
/// For each call a policy hears `on_request`; if it let the call pass it then hears exactly one
/// ending: `on_refuse`, or `on_admit` and later `on_complete`.
pub trait Policy: fmt::Debug + Send + Sync {
    /// Its place in the order.
    fn stage(&self) -> Stage;

    /// Decides. Called in chain order, first to last.
    fn on_request(&self, _call: &Call) -> Verdict {
        Verdict::Admit
    }

    /// Whether a list may show what `call` would call. Asked of the stages until [`Stage::Scope`]
    /// only; it must agree with `on_request`, so that what is hidden is also refused.
    fn visible(&self, _call: &Call) -> bool {
        true
    }

    /// The scopes that its calls need. Asked of [`Stage::Scope`] only.
    fn scopes(&self) -> &[Arc<str>] {
        &[]
    }

    /// The whole chain let the call pass. Called in chain order, before anything reaches a server.
    ///
    /// # Errors
    /// Only a [`Stage::Record`] policy refuses here: what cannot be recorded must not happen.
    fn on_admit(&self, _call: &Call, _admitted: &Admitted) -> Result<(), Rejection> {
        Ok(())
    }

    /// Another policy refused the call, or the host left while it was held. Last to first.
    fn on_refuse(&self, _call: &Call, _rejection: &Rejection) {}

    /// The admitted call ended. Last to first.
    fn on_complete(&self, _call: &Call, _completion: &Completion) {}

    /// One line for `explain`: what it does to a call, in words and numbers.
    fn summary(&self) -> String;
}

/// The fixed order classes, outermost first. Within a stage, file order decides.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Stage {
    /// Sees everything, refusals too.
    Record,
    /// Who may do what; what it hides must cost nothing and reveal nothing.
    Access,
    /// Whether the credential goes far enough; a better one may be had.
    Scope,
    /// Is the request well-formed.
    Validate,
    /// Counting against a budget.
    Meter,
    /// Delaying on purpose.
    Shape,
    /// Scarce things, taken only when the call really goes: slots and deadlines.
    Limit,
}

impl Stage {
    /// The stage in one word.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Record => "record",
            Self::Access => "access",
            Self::Scope => "scope",
            Self::Validate => "validate",
            Self::Meter => "meter",
            Self::Shape => "shape",
            Self::Limit => "limit",
        }
    }
}

/// A policy's answer to a call.
#[must_use]
pub enum Verdict {
    /// Nothing against it.
    Admit,
    /// Counted against a budget; a `wait` in it is a delay whose end is already paid for.
    Metered(Metered),
    /// Hold it so long, then ask the next policy.
    Delay(Duration),
    /// Hold it so much longer: the end of a wait that is counted already.
    Rest(Duration),
    /// The boss alert was raised; a hold in it is waited for, at most once a call.
    Boss(Reading),
    /// Let it through with a deadline.
    Deadline(Deadline),
    /// Let it through; the value is dropped when the call ends, however it ends.
    Slot(Box<dyn Send + Sync>),
    /// It has to queue; `turn` gives the verdict after at most `at_most`.
    Wait {
        /// Bound of the wait, for whoever tells the host about it.
        at_most: Duration,
        /// Ends with the verdict. Dropping it gives the place in the queue up.
        turn: BoxFuture<'static, Verdict>,
    },
    /// The answer is in a store somewhere else. Not a delay: shadow mode waits for it too.
    Later(BoxFuture<'static, Verdict>),
    /// Answer the host now; nothing reaches the server.
    Reject(Rejection),
}

impl fmt::Debug for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Admit => f.write_str("Admit"),
            Self::Metered(metered) => f.debug_tuple("Metered").field(metered).finish(),
            Self::Delay(span) => f.debug_tuple("Delay").field(span).finish(),
            Self::Rest(span) => f.debug_tuple("Rest").field(span).finish(),
            Self::Boss(reading) => f.debug_tuple("Boss").field(reading).finish(),
            Self::Deadline(deadline) => f.debug_tuple("Deadline").field(deadline).finish(),
            Self::Slot(_) => f.write_str("Slot"),
            Self::Wait { at_most, .. } => f.debug_tuple("Wait").field(at_most).finish(),
            Self::Later(_) => f.write_str("Later"),
            Self::Reject(rejection) => f.debug_tuple("Reject").field(rejection).finish(),
        }
    }
}

/// State of a budget after a call was counted against it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Metered {
    /// How much the budget allows per `window`.
    pub limit: u64,
    /// The span of `limit`.
    pub window: Duration,
    /// How much more would be admitted at once.
    pub remaining: u64,
    /// Until the budget is full again.
    pub reset: Duration,
    /// How long this call has to wait for its share; zero when there was one left.
    pub wait: Duration,
}

/// Bounds on an exchange; the gate keeps the time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Deadline {
    /// Longest silence: renewed by progress, paused while the server waits for the host.
    pub idle: Option<Duration>,
    /// Longest in all.
    pub max: Option<Duration>,
}

impl Deadline {
    /// The tighter of two, bound by bound.
    #[must_use]
    pub fn tightest(self, other: Self) -> Self {
        fn less(a: Option<Duration>, b: Option<Duration>) -> Option<Duration> {
            a.into_iter().chain(b).min()
        }
        Self {
            idle: less(self.idle, other.idle),
            max: less(self.max, other.max),
        }
    }
}

/// What the chain tells about a call it let through.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Admitted {
    /// How long policies held it, in all.
    pub delayed: Duration,
    /// Whether a boss alert held it.
    pub held: bool,
    /// Boss levels, when a boss-alert policy looked at it.
    pub levels: Option<Levels>,
    /// The tightest budget it was counted against (name of the policy, state).
    pub metered: Option<(Arc<str>, Metered)>,
}

/// Codes of chillgate's own refusals: positive, outside what JSON-RPC and MCP reserve.
pub mod code {
    /// A budget is spent.
    pub const QUOTA: i64 = 42_900;
    /// The credential lacks a scope.
    pub const SCOPE: i64 = 40_302;
    /// Too many calls in flight.
    pub const CONCURRENCY: i64 = 42_901;
    /// The audit record could not be written.
    pub const AUDIT_DOWN: i64 = 50_301;
    /// The counters' store cannot be reached.
    pub const STORE_DOWN: i64 = 50_304;
    /// The host left; never sent, seen in audit records only.
    pub const CANCELLED: i64 = 49_900;
    /// JSON-RPC's invalid params: how MCP answers an unknown tool or prompt.
    pub const INVALID_PARAMS: i64 = -32_602;
    /// How eras up to 2025-11-25 answer an unknown resource.
    pub const RESOURCE_NOT_FOUND: i64 = -32_002;
}

/// How a refusal is shown to the host.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Answer {
    /// A JSON-RPC error.
    #[default]
    Error,
    /// HTTP 429 with `Retry-After`, where the transport is HTTP and nothing was streamed.
    Http429,
    /// A tool result with `isError: true`, which the model can read. For `tools/call` only.
    ToolError,
}

/// A refusal: an answer to the host, not an error of chillgate.
#[derive(Clone, Debug)]
pub struct Rejection {
    /// Name of the policy that refused.
    pub policy: Arc<str>,
    /// Kind of that policy, e.g. `quota`.
    pub kind: &'static str,
    /// Why, as a label from a closed set.
    pub reason: &'static str,
    /// Code of the JSON-RPC error.
    pub code: i64,
    /// For people and models: what happened and what to do.
    pub message: Box<str>,
    /// When trying again may help.
    pub retry_after: Option<Duration>,
    /// For how many milliseconds policies had held the call, set by the chain.
    pub waited_ms: u32,
    /// How to show it.
    pub answer: Answer,
    /// Members of the error's `data` beside the common ones, see [`Rejection::to_data`].
    pub data: Vec<(&'static str, Value)>,
    /// Answer as a server would for a name it does not know; the gate puts the name as the host
    /// spelled it.
    pub hidden: bool,
}

/// The member of a refusal's data that says which scopes are needed, as OAuth writes them.
const SCOPES: &str = "scopes";

impl Rejection {
    /// A refusal with no data, shown as a JSON-RPC error.
    pub fn new(
        policy: &Arc<str>,
        kind: &'static str,
        reason: &'static str,
        code: i64,
        message: impl Into<Box<str>>,
    ) -> Self {
        Self {
            policy: Arc::clone(policy),
            kind,
            reason,
            code,
            message: message.into(),
            retry_after: None,
            waited_ms: 0,
            answer: Answer::Error,
            data: Vec::new(),
            hidden: false,
        }
    }

    /// Says which scopes the call needs, all at once, so that a caller asks its issuer once.
    pub fn ask_for(&mut self, scopes: &[Arc<str>]) {
        let scopes = scopes.join(" ");
        self.message = format!(
            "insufficient scope: this needs {scopes}; come back with a token that has all of it"
        )
        .into();
        self.data.push((SCOPES, scopes.into()));
    }

    /// All scopes that the call needs, with spaces between, where it was refused for lack of one.
    pub fn scopes(&self) -> Option<&str> {
        let found = self.data.iter().find(|(name, _)| *name == SCOPES);
        found.and_then(|(_, scopes)| scopes.as_str())
    }

    /// The host left while `policy` held the call. Seen by policies only, never sent.
    pub fn cancelled(policy: &Arc<str>, kind: &'static str) -> Self {
        Self::new(
            policy,
            kind,
            "cancelled",
            code::CANCELLED,
            "the host left while the call waited",
        )
    }

    /// `data` of the JSON-RPC error: `type`, `policy`, `reason`, `retryable`, `retryAfterMs` (whole
    /// milliseconds, rounded up), `waitedMs` where the call was held, and what the policy added. A hidden refusal must not be told from
    /// an unknown name: only what the policy added, and none if that is nothing.
    pub fn to_data(&self) -> Option<Value> {
        let mut data = Map::new();
        if self.hidden {
            data.extend(
                self.data
                    .iter()
                    .map(|(name, value)| ((*name).into(), value.clone())),
            );
            return (!data.is_empty()).then_some(Value::Object(data));
        }
        data.insert("type".into(), format!("chillgate/{}", self.kind).into());
        data.insert("policy".into(), (*self.policy).into());
        data.insert("reason".into(), self.reason.into());
        data.insert("retryable".into(), self.retry_after.is_some().into());
        if let Some(after) = self.retry_after {
            let millis = after.as_nanos().div_ceil(1_000_000);
            data.insert(
                "retryAfterMs".into(),
                u64::try_from(millis).unwrap_or(u64::MAX).into(),
            );
        }
        if self.waited_ms > 0 {
            data.insert("waitedMs".into(), self.waited_ms.into());
        }
        for (name, value) in &self.data {
            data.insert((*name).into(), value.clone());
        }
        Some(Value::Object(data))
    }
}
