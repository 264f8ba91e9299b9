//! One request on its way from a host to a server, as policies see it, and how it ended.
//!
//! Plain values made by the gate from a message it has already checked. Cloning is cheap (counted
//! pointers); nothing here parses JSON and nothing knows how a message travels.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use serde::Serialize;

/// A request before it reaches a server.
#[derive(Clone, Debug)]
pub struct Call {
    /// Who asks: a verified identity, or `anonymous`.
    pub agent: Arc<str>,
    /// What else the credential of this one request says of the agent.
    pub grants: Arc<Grants>,
    /// The server it is for, or `*` when the gate answers for all of them.
    pub server: Arc<str>,
    /// MCP method, e.g. `tools/call`.
    pub method: Arc<str>,
    /// The tool, prompt or resource URI it names, in the server's own spelling.
    pub target: Option<Arc<str>>,
    /// Raw JSON: `params.arguments` of a tool call or prompt, `params` of any other method.
    pub arguments: Option<Bytes>,
    /// The JSON-RPC id exactly as it was written, quotes included.
    pub id: Option<Bytes>,
    /// Size of the whole message in bytes.
    pub bytes_in: u64,
    /// When its caller stops waiting for an answer, where it has said so.
    pub deadline: Option<Instant>,
    /// Where it came from.
    pub context: Arc<Context>,
}

/// What a credential says besides a name; empty for one that says nothing more.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Grants {
    /// Teams, roles: whatever the issuer calls a group.
    pub groups: Vec<Arc<str>>,
    /// OAuth scopes, with those that the configuration says they imply.
    pub scopes: Vec<Arc<str>>,
}

/// What is known about the connection a call came over; shared by all calls of a session.
#[derive(Clone, Debug, Default)]
pub struct Context {
    /// `stdio`, `streamable-http`, `http-sse`, …
    pub transport: &'static str,
    /// The host's era: `legacy` or `modern`.
    pub era: &'static str,
    /// The session, where the era has one.
    pub session: Option<Arc<str>>,
    /// Name and version the host gave of itself; a claim, never an identity.
    pub client: Option<(String, String)>,
    /// Peer address or socket credentials, for people.
    pub peer: Option<String>,
}

impl Call {
    /// The name policies use: `server__target`, or the server alone when nothing is named.
    pub fn canonical(&self) -> String {
        match &self.target {
            Some(target) => format!("{}__{target}", self.server),
            None => self.server.to_string(),
        }
    }

    /// The tool, if this is a tool call.
    pub fn tool(&self) -> Option<&str> {
        if &*self.method == "tools/call" {
            self.target.as_deref()
        } else {
            None
        }
    }
}

/// How an admitted call ended. A label of metrics and audit records, so the set is closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// A result without `isError`.
    Ok,
    /// A tool result with `isError: true`.
    ToolError,
    /// A JSON-RPC error with this code.
    RpcError(i64),
    /// No answer within the deadline.
    Timeout,
    /// The host left or cancelled.
    Cancelled,
    /// The answer came but could not be handed to the host.
    Undelivered,
    /// The server could not be reached or died.
    ServerDown,
    /// The server's answer was not a valid message.
    Invalid,
}

impl Outcome {
    /// The label.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::ToolError => "tool_error",
            Self::RpcError(_) => "rpc_error",
            Self::Timeout => "timeout",
            Self::Cancelled => "cancelled",
            Self::Undelivered => "undelivered",
            Self::ServerDown => "server_down",
            Self::Invalid => "invalid",
        }
    }
}

/// The end of an admitted call, told to every policy that let it pass.
#[derive(Clone, Debug)]
pub struct Completion {
    /// How it ended.
    pub outcome: Outcome,
    /// Size of the answer in bytes; 0 when there was none.
    pub bytes_out: u64,
    /// Why its server went away under it.
    pub cause: Option<Arc<str>>,
    /// Mood levels, when the built-in server answered.
    pub levels: Option<Levels>,
    /// From the final verdict to the end, measured by the chain (what a caller sets is replaced).
    pub duration: Duration,
    /// How long policies had held it before, measured by the chain (likewise replaced).
    pub delay: Duration,
}

impl Completion {
    /// An end with nothing more to say.
    pub fn of(outcome: Outcome) -> Self {
        Self {
            outcome,
            bytes_out: 0,
            cause: None,
            levels: None,
            duration: Duration::ZERO,
            delay: Duration::ZERO,
        }
    }

    /// The same with the size of the answer.
    #[must_use]
    pub fn bytes_out(mut self, bytes: u64) -> Self {
        self.bytes_out = bytes;
        self
    }

    /// The same with the reason why its server went away, in chillgate's own words.
    #[must_use]
    pub fn cause(mut self, cause: Option<Arc<str>>) -> Self {
        self.cause = cause;
        self
    }

    /// The same with the levels the built-in server reported.
    #[must_use]
    pub fn levels(mut self, levels: Levels) -> Self {
        self.levels = Some(levels);
        self
    }
}

/// Stress (0..=100) and boss alert (0..=5) before and after a call, as far as they are known.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Levels {
    /// Stress the call met.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stress_before: Option<u8>,
    /// Stress it left.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stress_after: Option<u8>,
    /// Boss alert the call met.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub boss_before: Option<u8>,
    /// Boss alert it left.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub boss_after: Option<u8>,
}
