//! Opening a pipe: once however many wait, in time, and not again at once where it did not work.
//!
//! The one place that starts servers and says the first words to them, and the one that knows about
//! backoff. Who gets the pipe, and what travels through it, it does not know.

use std::sync::Arc;

use chillgate_wire::Era;
use tokio::time::Instant;
use tracing::{debug, info, warn};

use super::Pipes;
use super::slot::Slot;
use crate::backend::BackendError;
use crate::backend::greeting::{self, Greeting};
use crate::backend::pipe::{Audience, Pipe};
use crate::lock::locked;
use crate::session::Session;

/// Why there is no pipe.
pub(super) enum Trouble {
    /// The server could not be started, or did not answer.
    Down(String),
    /// It answered that it does not speak this era.
    Unspoken(String),
}

impl From<BackendError> for Trouble {
    fn from(error: BackendError) -> Self {
        Self::Down(match error {
            BackendError::Unspoken { cause, .. } => return Self::Unspoken(cause),
            BackendError::Down { cause, .. } | BackendError::Lost { cause, .. } => cause,
            other => other.to_string(),
        })
    }
}

impl Pipes {
    /// Opens a pipe once, however many wait for it; a caller that leaves does not stop it.
    pub(super) async fn open(
        &self,
        slot: Arc<Slot>,
        owner: Option<Arc<Session>>,
        greet: bool,
    ) -> Result<Arc<Pipe>, BackendError> {
        let this = self.clone();
        let opening = self
            .0
            .tasks
            .spawn(async move { this.open_now(&slot, owner, greet).await });
        opening
            .await
            .unwrap_or_else(|_| Err(self.down("starting it failed inside chillgate")))
    }

    async fn open_now(
        &self,
        slot: &Slot,
        owner: Option<Arc<Session>>,
        greet: bool,
    ) -> Result<Arc<Pipe>, BackendError> {
        let mut tries = slot.opening.lock().await;
        if let Some(pipe) = slot.current() {
            return Ok(pipe);
        }
        if self.0.stopping.is_cancelled() {
            return Err(self.down("it was taken out of the configuration"));
        }
        if let Some(wait) = tries
            .not_before
            .and_then(|at| at.checked_duration_since(Instant::now()))
        {
            let trouble = locked(&slot.trouble).clone().unwrap_or_default();
            if tries.is_unspoken {
                return Err(self.unspoken(trouble));
            }
            let again = wait.as_secs_f64();
            return Err(self.down(&format!("{trouble}; next try in {again:.1} s")));
        }
        let restarted = tries.opened.is_some();
        let before = locked(&slot.pipe).clone();
        let audience = match (&owner, &before) {
            (Some(session), _) if self.0.terms.era == Era::Legacy => {
                Audience::One(Arc::downgrade(session))
            }
            // Whoever subscribed to something has not heard that the server is another one.
            (_, Some(before)) => before.audience().heir(),
            _ => Audience::shared(),
        };
        let starting = self.start(audience, owner.as_deref(), greet);
        let opened = tokio::select! {
            opened = tokio::time::timeout(self.0.start_timeout, starting) => match opened {
                Ok(opened) => opened,
                Err(_) => Err(Trouble::Down(format!(
                    "it did not answer within {} s; is it an MCP server that speaks stdio? \
                     `start-timeout` allows more",
                    self.0.start_timeout.as_secs()
                ))),
            },
            () = self.0.stopping.cancelled() => {
                Err(Trouble::Down("it was stopped while it started".to_owned()))
            }
        };
        let now = Instant::now();
        match opened {
            Ok(pipe) => {
                tries.opened = Some(now);
                tries.not_before = None;
                *locked(&slot.pipe) = Some(pipe.clone());
                *locked(&slot.trouble) = None;
                self.0.terms.metrics.child_up(&self.0.terms.server, true);
                if restarted {
                    self.0
                        .terms
                        .metrics
                        .child_restarted(&self.0.terms.server, "ended");
                }
                info!(server = %self.0.terms.server, "The server is ready.");
                Ok(pipe)
            }
            Err(trouble) => {
                tries.not_before = Some(now + tries.backoff());
                tries.is_unspoken = matches!(trouble, Trouble::Unspoken(_));
                let server = self.0.terms.server.clone();
                match trouble {
                    // It runs, and may be spoken to in other words.
                    Trouble::Unspoken(cause) => {
                        *locked(&slot.trouble) = Some(cause.clone());
                        debug!(%server, %cause, "The server speaks another era.");
                        Err(self.unspoken(cause))
                    }
                    Trouble::Down(trouble) => {
                        *locked(&slot.trouble) = Some(trouble.clone());
                        self.0.terms.metrics.child_up(&server, false);
                        warn!(%server, cause = %trouble, "The server did not start.");
                        Err(self.down(&trouble))
                    }
                }
            }
        }
    }

    async fn start(
        &self,
        audience: Audience,
        owner: Option<&Session>,
        greet: bool,
    ) -> Result<Arc<Pipe>, Trouble> {
        let pipe = self
            .0
            .opener
            .open(&self.0.terms, audience, &self.0.tasks)
            .await
            .map_err(Trouble::Down)?;
        let closing = CloseOnDrop(Some(pipe.clone()));
        if self.0.terms.era == Era::Modern {
            self.discover_first(&pipe).await?;
        } else if greet {
            let params = owner.map_or_else(greeting::params_of_the_gate, greeting::params_of);
            let answer = pipe.request_own("initialize", &params).await?;
            pipe.greet(Greeting::read(&answer).map_err(Trouble::Unspoken)?);
            pipe.notify_own("notifications/initialized", b"{}").await?;
        }
        closing.keep();
        Ok(pipe)
    }
}

/// A pipe that could not be put to use is closed again, also when its opening is abandoned.
struct CloseOnDrop(Option<Arc<Pipe>>);

impl CloseOnDrop {
    fn keep(mut self) {
        self.0 = None;
    }
}

impl Drop for CloseOnDrop {
    fn drop(&mut self) {
        if let Some(pipe) = &self.0 {
            pipe.close();
        }
    }
}
