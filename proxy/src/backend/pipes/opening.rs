//! Opening a pipe: once however many wait, in time, and not again at once where it did not work.
//!
//! The one place that starts servers and says the first words to them, and the one that knows about
//! backoff. Who gets the pipe, and what travels through it, it does not know.

use std::sync::Arc;
use std::time::Duration;

use chillgate_wire::{Era, json};
use tokio::time::Instant;
use tracing::{debug, info, warn};

use super::slot::{Slot, Tries, Wait};
use super::turns::Turn;
use super::watch::HUNG;
use super::{Pipes, Unopened, Whose};
use crate::backend::BackendError;
use crate::backend::greeting::{self, Greeting};
use crate::backend::pipe::{Audience, Pipe};
use crate::backend::said::level_params;
use crate::incidents::Refusal;
use crate::lock::locked;
use crate::session::Session;

/// Why there is no pipe.
pub(super) enum Trouble {
    /// Another server has its place.
    Superseded,
    /// The server could not be started, or did not answer.
    Down(String),
    /// It answered that it does not speak this era, or does not want to.
    Unspoken(Refusal),
    /// It answered with what is no answer.
    Wrong(String),
    /// It can be had, but not by this host.
    Caller(String),
}

impl From<Unopened> for Trouble {
    fn from(unopened: Unopened) -> Self {
        match unopened {
            Unopened::Server(cause) => Self::Down(cause),
            Unopened::Caller(cause) => Self::Caller(cause),
        }
    }
}

impl From<BackendError> for Trouble {
    fn from(error: BackendError) -> Self {
        Self::Down(match error {
            BackendError::Unspoken { cause, .. } => {
                let is_of_era = true;
                return Self::Unspoken(Refusal { cause, is_of_era });
            }
            BackendError::Invalid { cause, .. } => return Self::Wrong(cause),
            BackendError::Superseded { .. } => return Self::Superseded,
            BackendError::Caller { cause, .. } => return Self::Caller(cause),
            BackendError::Down { cause, .. } | BackendError::Lost { cause, .. } => cause,
            busy @ BackendError::Busy { .. } => busy.to_string(),
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
        slot: &Arc<Slot>,
        owner: Option<Arc<Session>>,
        greet: bool,
    ) -> Result<Arc<Pipe>, BackendError> {
        let asked = Instant::now();
        let mut tries = slot.opening.lock().await;
        if let Some(pipe) = slot.current() {
            return Ok(pipe);
        }
        if self.0.superseded.is_cancelled() {
            return Err(self.superseded());
        }
        // Whoever has waited for a start hears what came of it, and not of one more.
        if let Some(failed) = tries.failed_since(asked) {
            return Err(failed);
        }
        if slot.is_over() {
            return Err(self.down("nobody waits for it any more"));
        }
        if let Some(agent) = &slot.agent {
            // Asked for what cannot be: no failure of the server, whoever asks and how often.
            let may = self.0.opener.may_be_for(agent);
            may.map_err(|cause| self.down(&cause))?;
        }
        let before = locked(&slot.pipe).clone();
        if let Some(before) = &before {
            // Two at once would fight for the same port, lock or profile.
            let _ = tokio::time::timeout(FAREWELL, before.until_gone()).await;
        }
        tokio::select! {
            waited = self.bide(slot, &mut tries) => waited?,
            () = self.0.superseded.cancelled() => return Err(self.superseded()),
        }
        let restarted = tries.has_opened();
        let is_asleep = slot.asleep().is_some();
        let audience = match (&owner, &before) {
            (_, Some(before)) => {
                before.audience().prune();
                before.audience().clone()
            }
            (Some(session), None) if self.0.terms.era == Era::Legacy => {
                Arc::new(Audience::only(session))
            }
            _ => Arc::new(Audience::shared()),
        };
        let turn = self.0.care.turns.take(self.0.terms.era).await;
        let starting = self.start(slot, audience.clone(), owner.as_deref(), greet, &turn);
        let opened = tokio::select! {
            opened = tokio::time::timeout(self.0.start_timeout, starting) => {
                opened.unwrap_or_else(|_| {
                    let span = self.0.start_timeout.as_secs();
                    let cause = format!("it did not answer within {span} s");
                    Err(Trouble::Down(self.0.opener.silent(&self.0.terms, &audience, cause)))
                })
            }
            () = self.0.superseded.cancelled() => Err(Trouble::Superseded),
        };
        drop(turn);
        let server = &self.0.terms.server;
        let opened = opened.map_err(|trouble| match trouble {
            Trouble::Wrong(cause) => {
                Trouble::Down(self.0.opener.wrong(&self.0.terms, &audience, cause))
            }
            other => other,
        });
        match opened {
            Ok(pipe) => {
                if !slot.opened(&mut tries, &pipe) {
                    pipe.close();
                    return Err(self.down("nobody waits for it any more"));
                }
                self.watch(slot, &pipe, owner.as_ref());
                if let Some(before) = before.clone() {
                    pipe.seen().take_over(before.seen());
                    let (pipes, now) = (self.clone(), pipe.clone());
                    self.0.tasks.spawn(async move {
                        pipes.tell_again(&before, &now).await;
                        if now.greeting().is_some() {
                            pipes.verify(&before, &now).await;
                        }
                    });
                }
                if pipe.greeting().is_some() {
                    self.got_ready(slot, &pipe);
                }
                if is_asleep {
                    self.0.terms.metrics.child_woke(server, asked.elapsed());
                    info!(%server, "The server is awake.");
                } else if restarted {
                    let fallen = before.and_then(|before| before.fallen());
                    let reason = match fallen {
                        Some((_, why)) if why.starts_with(HUNG) => "hung",
                        _ => "ended",
                    };
                    self.0.terms.metrics.child_restarted(server, reason);
                }
                Ok(pipe)
            }
            Err(trouble) => {
                let error = self.not_opened(slot, &mut tries, &audience, trouble);
                tries.failed(&error);
                Err(error)
            }
        }
    }

    /// What a start that came to nothing is told as.
    fn not_opened(
        &self,
        slot: &Slot,
        tries: &mut Tries,
        audience: &Arc<Audience>,
        trouble: Trouble,
    ) -> BackendError {
        let (terms, server) = (&self.0.terms, &self.0.terms.server);
        match trouble {
            Trouble::Superseded => self.superseded(),
            // Nothing has failed that anybody else would hear of.
            Trouble::Caller(cause) => BackendError::Caller {
                server: server.clone(),
                cause,
            },
            // It runs, and may be spoken to in other words.
            Trouble::Unspoken(refusal) => {
                debug!(%server, cause = %refusal.cause, "The server speaks another era.");
                let cause = self.0.opener.refused(terms, audience, &refusal);
                slot.unspoken(tries, &cause);
                self.unspoken(cause)
            }
            Trouble::Down(mut trouble) | Trouble::Wrong(mut trouble) => {
                let agent = slot.agent.as_deref();
                let known = terms.incidents.current(server, agent);
                // A try in the other era says nothing of what is known.
                let sentence = known.as_ref().map(|known| known.sentence());
                if let Some(sentence) = sentence.filter(|it| !trouble.contains(it.as_str())) {
                    trouble.push_str(&sentence);
                }
                slot.failed(&trouble);
                let incident = known.as_ref().map(|known| known.id.as_str());
                let remedy = known.as_ref().and_then(|known| known.remedy.as_ref());
                let remedy = remedy.map(|remedy| remedy.id.as_str());
                warn!(%server, cause = %trouble, incident, remedy, "The server did not start.");
                self.down_for(agent, &trouble)
            }
        }
    }

    /// A server has said what it is.
    pub(super) fn got_ready(&self, slot: &Slot, pipe: &Arc<Pipe>) {
        slot.ready();
        self.0.care.turns.ready(self.0.terms.era, pipe);
        self.0.opener.ready(&self.0.terms, pipe.audience());
        info!(server = %self.0.terms.server, "The server is ready.");
    }

    /// Lets the time pass that is due after a failure; a longer one is the caller's to spend.
    async fn bide(&self, slot: &Slot, tries: &mut Tries) -> Result<(), BackendError> {
        match slot.wait(tries) {
            Wait::Not => Ok(()),
            Wait::Down(wait, _) if wait <= PATIENCE => {
                tokio::time::sleep(wait).await;
                Ok(())
            }
            Wait::Down(wait, trouble) => {
                let again = wait.as_secs_f64();
                Err(self.down_for(
                    slot.agent.as_deref(),
                    &format!("{trouble}; next try in {again:.1} s"),
                ))
            }
            Wait::Unspoken(_, cause) => Err(self.unspoken(cause)),
        }
    }

    async fn start(
        &self,
        slot: &Slot,
        audience: Arc<Audience>,
        owner: Option<&Session>,
        greet: bool,
        turn: &Turn<'_>,
    ) -> Result<Arc<Pipe>, Trouble> {
        let whose = Whose {
            agent: slot.agent.as_deref(),
            caller: slot.caller.as_ref(),
        };
        let pipe = self
            .0
            .opener
            .open(&self.0.terms, audience, whose, &self.0.tasks)
            .await?;
        turn.is_for(&pipe);
        let closing = CloseOnDrop(Some(pipe.clone()));
        if self.0.terms.era == Era::Modern {
            self.discover_first(&pipe).await?;
        } else if greet {
            let params = owner.map_or_else(greeting::params_of_the_gate, greeting::params_of);
            let answer = pipe.request_own("initialize", &params).await?;
            pipe.greet(Greeting::read(&answer).map_err(|it| refusal(&pipe, &it))?);
            pipe.notify_own("notifications/initialized", b"{}").await?;
        }
        closing.keep();
        Ok(pipe)
    }

    /// What the process before was told by its hosts, the one that takes its place is told again.
    async fn tell_again(&self, before: &Pipe, now: &Arc<Pipe>) {
        if self.0.terms.era == Era::Modern {
            // Its subscription is made from what its audience wants.
            return;
        }
        let telling = async {
            // Unless it has been told something newer already.
            let is_due = |level| {
                if now.audience().is_shared() {
                    now.lower_level(level)
                } else {
                    now.level().is_none()
                }
            };
            if let Some(level) = before.level().filter(|level| is_due(*level)) {
                now.note_level(level);
                let _ = now
                    .request_own("logging/setLevel", &level_params(level))
                    .await;
            }
            for uri in before.audience().wanted() {
                let params = format!(r#"{{"uri":{}}}"#, json::quote(&uri));
                let asking = now.request_own("resources/subscribe", params.as_bytes());
                match asking.await {
                    Ok(answer) if answer.result().is_some() => {}
                    // It no longer has it, so that whoever wants it must ask again.
                    Ok(_) => now.audience().forget(&uri),
                    Err(_) => return,
                }
            }
        };
        // One that does not answer to this is still one that may be called.
        let _ = tokio::time::timeout(self.0.start_timeout, telling).await;
    }
}

/// A refusal in the server's own words, without what it was given in confidence.
pub(super) fn refusal(pipe: &Pipe, refusal: &Refusal) -> Trouble {
    let cause = refusal.cause.as_bytes();
    Trouble::Unspoken(Refusal {
        cause: pipe.origin().masked_head(cause, LONGEST),
        is_of_era: refusal.is_of_era,
    })
}

/// So much of a refusal is told, in bytes.
const LONGEST: usize = 1 << 10;

/// So long is waited for the process before to go; it has been told, or has ended, and is killed
/// before that.
pub(super) const FAREWELL: Duration = Duration::from_secs(6);

/// How long a call waits for the next try by itself.
const PATIENCE: Duration = Duration::from_secs(1);

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
