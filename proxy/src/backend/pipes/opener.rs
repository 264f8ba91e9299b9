//! What makes the far end of a pipe exist, and hears how that went: the seam between pipes and what
//! is behind them.
//!
//! Apart because each kind of server is one implementation of it. Nothing is decided here.

use std::sync::Arc;

use async_trait::async_trait;
use chillgate_wire::Edit;
use tokio_util::task::TaskTracker;

use crate::backend::Passage;
use crate::backend::pipe::{Audience, Pipe, Terms};
use crate::client::Caller;
use crate::incidents::Refusal;
use crate::session::Session;

/// Whom a pipe is for, where it is not for all.
#[derive(Clone, Copy, Debug, Default)]
pub struct Whose<'w> {
    /// The agent's name.
    pub agent: Option<&'w str>,
    /// What the one host has shown that it is for.
    pub caller: Option<&'w Caller>,
}

/// Why there is no pipe.
#[derive(Debug)]
pub enum Unopened {
    /// The server cannot be had, whoever asks.
    Server(String),
    /// This one host cannot have it.
    Caller(String),
}

impl From<String> for Unopened {
    fn from(cause: String) -> Self {
        Self::Server(cause)
    }
}

/// Makes the far end of a pipe exist.
#[async_trait]
pub trait Opener: Send + Sync + std::fmt::Debug {
    /// Starts or connects the server; a task of the opener's carries the bytes until the pipe is
    /// closed or the server ends, and then calls [`Pipe::finish`].
    async fn open(
        &self,
        terms: &Terms,
        audience: Arc<Audience>,
        whose: Whose<'_>,
        tasks: &TaskTracker,
    ) -> Result<Arc<Pipe>, Unopened>;

    /// Whether its calls end within bounds of the server's own: then silence ends none of them.
    fn keeps_time(&self) -> bool {
        false
    }

    /// Whether an agent of this name can have a process with something of its own.
    ///
    /// # Errors
    /// Why not, in words.
    fn may_be_for(&self, _agent: &str) -> Result<(), String> {
        Ok(())
    }

    /// A server that was opened did not get ready: what to say of it, given what is known.
    fn silent(&self, _terms: &Terms, _audience: &Arc<Audience>, cause: String) -> String {
        cause
    }

    /// A server that was opened answered with what is no answer: what to say of it.
    fn wrong(&self, _terms: &Terms, _audience: &Arc<Audience>, cause: String) -> String {
        cause
    }

    /// A server that was opened refused the first words: what to say of it.
    fn refused(&self, _terms: &Terms, _audience: &Arc<Audience>, refusal: &Refusal) -> String {
        refusal.cause.clone()
    }

    /// A server that was opened is ready.
    fn ready(&self, _terms: &Terms, _audience: &Arc<Audience>) {}

    /// Changes a request for this server alone, e.g. to say who asks.
    fn stamp(&self, _edit: &mut Edit<'_>, _session: &Session, _passage: Passage) {}
}
