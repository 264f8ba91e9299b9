//! The port: what the server asks of the proxy around it.
//!
//! Values go through it as JSON, for their shape is the proxy's knowledge; here is only what the
//! protocol needs to know of them. Nothing in it waits for MCP.

use async_trait::async_trait;
use rmcp::model::JsonObject;
use serde_json::Value;
use tokio::sync::watch;

/// What the server tells about, and what it has done there.
#[async_trait]
pub trait Site: Send + Sync + 'static {
    /// Everything at a glance: an object.
    fn situation(&self) -> Value;

    /// Each server, an object with its `name`.
    fn servers(&self) -> Vec<Value>;

    /// What went wrong and is not resolved, of one server or of all: an object each.
    fn incidents(&self, server: Option<&str>) -> Vec<Value>;

    /// The model endpoints with what the last check said, or with `check` a new one says: an object
    /// each.
    async fn endpoints(&self, check: bool) -> Vec<Value>;

    /// The tools that this agent has besides those that are always there.
    fn runbooks(&self, agent: &str) -> Vec<Runbook>;

    /// Judges a call of one of them. Nothing has happened when this returns.
    ///
    /// # Errors
    /// When the call is not to be carried out.
    fn plan(
        &self,
        tool: &str,
        arguments: &JsonObject,
        agent: &str,
    ) -> Result<Box<dyn Plan>, Refused>;

    /// Changes whenever [`Site::runbooks`] does.
    fn changes(&self) -> watch::Receiver<u64>;
}

/// A call that was judged and may be carried out.
#[async_trait]
pub trait Plan: Send {
    /// What the host is asked before it is carried out; `None`: it need not be asked.
    fn question(&self) -> Option<String>;

    /// Carries it out. Dropping the future ends whatever runs for it.
    async fn carry_out(self: Box<Self>) -> Done;
}

/// What a runbook came to.
#[derive(Clone, Debug)]
pub struct Done {
    /// For a program, in the shape of [`Runbook::output`].
    pub structured: Value,
    /// For a model.
    pub text: String,
    /// Whether it failed.
    pub failed: bool,
}

/// Why a call is not carried out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refused {
    /// This agent has no such tool.
    Unknown,
    /// In words for the model that called.
    Because(String),
}

/// A tool of the configuration.
#[derive(Clone, Debug)]
pub struct Runbook {
    /// Its name as a tool.
    pub name: String,
    /// What it does.
    pub description: String,
    /// The schema of its arguments.
    pub input: JsonObject,
    /// The schema of what it answers.
    pub output: JsonObject,
    /// What a host may expect of it.
    pub hints: Hints,
    /// What `chillgate://runbooks` says about it beyond that.
    pub details: Value,
}

/// MCP's tool annotations.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hints {
    /// It changes nothing.
    pub read_only: bool,
    /// It may change what is there rather than only add to it.
    pub destructive: bool,
    /// A second call with the same arguments changes nothing more.
    pub idempotent: bool,
}
