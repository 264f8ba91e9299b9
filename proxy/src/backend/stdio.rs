//! Children that speak stdio: a process behind a pipe.
//!
//! Starting, watching and killing processes is the supervisor's; this file joins a process's
//! standard streams to a [`Pipe`] and says in words how it ended.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use async_trait::async_trait;
use tokio_util::task::TaskTracker;
use tracing::{debug, warn};

use crate::backend::pipe::{Audience, Origin, Pipe, Terms};
use crate::backend::pipes::{Opener, Unopened, Whose};
use crate::config::CommandServer;
use crate::incidents::{Candidate, Incidents, Phase, Refusal};
use crate::line::Line;
use crate::supervisor::{self, Status};
use crate::telemetry::metrics::Metrics;

mod failing;
mod launch;
mod starts;

use failing::{Failure, KILLED, fact, had_to_be_killed, is_of_gate, strange};
use starts::{Start, Starts};

/// Starts a process for each pipe.
#[derive(Clone, Debug)]
pub struct Child {
    server: Arc<CommandServer>,
    starts: Arc<Starts>,
}

impl Child {
    /// A child as configured.
    pub fn new(server: CommandServer) -> Self {
        Self {
            server: Arc::new(server),
            starts: Arc::default(),
        }
    }

    /// Whether its program is there to be started.
    ///
    /// # Errors
    /// Why not, and what is known about that.
    pub fn look(&self, name: &str, incidents: &Incidents, metrics: &Metrics) -> Result<(), String> {
        let launch = self.launch(name, None);
        let known = launch.as_ref().ok().cloned();
        let known = known.or_else(|| self.launch_as_known(name, None));
        let facts = known.map(|launch| Arc::new(incidents.facts(launch)));
        let found =
            launch.and_then(|launch| supervisor::look_for(&launch).map_err(|error| fact(&error)));
        found.map_err(|cause| {
            let agent = None;
            let failure = Failure {
                origin: Origin { agent, facts },
                ..Failure::of(cause)
            };
            failure
                .note(&Arc::from(name), Phase::Spawn, incidents, metrics)
                .0
        })
    }

    /// What is looked at before it is started, as far as that is known.
    pub fn candidate(&self, name: &str, incidents: &Incidents) -> Option<Candidate> {
        let launch = self.launch(name, None).ok();
        let launch = launch.or_else(|| self.launch_as_known(name, None));
        Some(incidents.candidate(launch?))
    }
}

/// How long a server may take to end by itself once it has closed its output.
const OWN_END: Duration = Duration::from_millis(400);

/// How long the end of a server's output is waited for once its input has failed.
const BOTH: Duration = Duration::from_millis(100);

/// How long a server may take to end by itself once its input is closed (MCP stdio shutdown).
const FAREWELL: Duration = Duration::from_secs(2);

/// Carries bytes both ways until the server ends (`false`) or was asked to (`true`).
async fn carry(
    pipe: &Pipe,
    reading: impl Future<Output = String>,
    writing: impl Future<Output = std::io::Result<()>>,
    gone: impl Future<Output = Status>,
) -> (String, bool) {
    let mut reading = std::pin::pin!(reading);
    let mut gone = std::pin::pin!(gone);
    let mut writing = std::pin::pin!(writing);
    let (mut written, mut closing) = (false, false);
    let mut farewell = std::pin::pin!(tokio::time::sleep(Duration::MAX));
    loop {
        tokio::select! {
            biased;
            why = &mut reading => return (why, closing),
            // What is left of its output is soon read; who holds it open besides is none of it.
            _ = &mut gone => {
                let ended = tokio::time::timeout(FAREWELL, &mut reading).await;
                return (ended.unwrap_or_else(|_| "it ended".to_owned()), closing);
            }
            // Written out and closed: the server sees the end of its input.
            done = &mut writing, if !written => match done {
                Ok(()) => written = true,
                Err(error) => {
                    // One that is gone has closed both, and says so in the same words each time.
                    let ended = tokio::time::timeout(BOTH, &mut reading).await;
                    let why = ended.unwrap_or_else(|_| format!("its input failed: {error}"));
                    return (why, closing);
                }
            },
            () = pipe.until_closed(), if !closing => {
                closing = true;
                farewell.as_mut().reset(tokio::time::Instant::now() + FAREWELL);
            }
            () = &mut farewell, if closing => return ("it was stopped".to_owned(), true),
        }
    }
}

#[async_trait]
impl Opener for Child {
    async fn open(
        &self,
        terms: &Terms,
        audience: Arc<Audience>,
        whose: Whose<'_>,
        tasks: &TaskTracker,
    ) -> Result<Arc<Pipe>, Unopened> {
        let spawning = |failure| self.note(terms, Phase::Spawn, failure).0;
        // Reads files, which may be somewhere slow.
        let (this, named) = (self.clone(), terms.clone());
        let agent = whose.agent.map(Arc::<str>::from);
        let whose = agent.clone().filter(|_| self.server.is_by_agent());
        let preparing = tokio::task::spawn_blocking(move || {
            let agent = agent.as_deref();
            let launch = this.launch(&named.server, agent);
            let known = launch.as_ref().ok().cloned();
            let known = known.or_else(|| this.launch_as_known(&named.server, agent));
            let facts = known.map(|launch| Arc::new(named.incidents.facts(launch)));
            (launch, facts)
        });
        let (launch, facts) = preparing
            .await
            .unwrap_or_else(|error| (Err(error.to_string()), None));
        let origin = Origin {
            agent: whose,
            facts,
        };
        let launch = launch.map_err(|cause| {
            spawning(Failure {
                origin: origin.clone(),
                ..Failure::of(cause)
            })
        })?;
        let spawned = supervisor::spawn(launch, &terms.metrics).await;
        let mut process = spawned.map_err(|error| {
            spawning(Failure {
                origin: origin.clone(),
                ..Failure::of(fact(&error))
            })
        })?;
        let (stdin, stdout) = process
            .take_pipes()
            .ok_or_else(|| "its pipes are missing".to_owned())?;
        let (line, writing) = Line::new(stdin);
        let pipe = Pipe::new(terms, line, audience);
        pipe.note_process(process.pid());
        pipe.note_origin(origin.clone());
        debug!(server = %terms.server, pid = process.pid(), "Started the server.");
        self.starts.put(Start {
            audience: Arc::downgrade(pipe.audience()),
            pipe: Arc::downgrade(&pipe),
            words: process.words(),
            origin: origin.clone(),
        });
        let (owned, terms) = (pipe.clone(), terms.clone());
        let this = self.clone();
        tasks.spawn(async move {
            let mut writing = Box::pin(writing);
            let carried = carry(&owned, owned.read(stdout), writing.as_mut(), process.wait());
            let (mut why, asked_to) = carried.await;
            owned.shut();
            // Its input stays open meanwhile: the end of that tells it to end as well.
            let by_gate = asked_to || tokio::time::timeout(OWN_END, process.wait()).await.is_err();
            drop(writing);
            let status = process.stop().await;
            owned.bury();
            // One that hung has been told to end, and that it hung is what went wrong.
            let hung = owned.fallen().map(|(_, why)| why);
            if let Some(hung) = &hung {
                why.clone_from(hung);
            } else if asked_to {
                if matches!(status, KILLED | Status::Keeper(9)) {
                    had_to_be_killed(&terms, origin);
                }
                return owned.finish(why);
            } else if by_gate && is_of_gate(status) {
                why += " and did not end, so that chillgate ended it";
            }
            let words = process.last_words();
            why = format!("{why} ({status})");
            if !words.is_empty() {
                why = format!("{why}; its last words: {}", words.join(" | "));
            }
            let is_greeted = owned.greeting().is_some();
            if !is_greeted {
                why += &strange(&owned);
            }
            let failure = Failure {
                cause: why,
                status: Some(status),
                words,
                origin,
                by_gate: hung.is_some() || by_gate && is_of_gate(status),
                has_served: owned.has_served(),
            };
            let phase = if is_greeted { Phase::Run } else { Phase::Start };
            let (why, known) = this.note(&terms, phase, failure);
            let incident = known.as_ref().map(|known| known.id.as_str());
            let remedy = known.as_ref().and_then(|known| known.remedy.as_ref());
            let remedy = remedy.map(|remedy| remedy.id.as_str());
            warn!(server = %terms.server, cause = %why, incident, remedy, "The server ended.");
            owned.finish_as(why, Some(status.to_string().into()));
        });
        Ok(pipe)
    }

    fn may_be_for(&self, agent: &str) -> Result<(), String> {
        self.may_launch_for(agent)
    }

    fn silent(&self, terms: &Terms, audience: &Arc<Audience>, cause: String) -> String {
        let failure = self.silence(audience, cause);
        self.note(terms, Phase::Start, failure).0
    }

    fn wrong(&self, terms: &Terms, audience: &Arc<Audience>, cause: String) -> String {
        let failure = self.silence(audience, cause);
        self.note(terms, Phase::Start, failure).0
    }

    fn refused(&self, terms: &Terms, audience: &Arc<Audience>, refusal: &Refusal) -> String {
        self.refusal(terms, audience, refusal)
    }

    fn ready(&self, terms: &Terms, audience: &Arc<Audience>) {
        self.starts.has_worked.store(true, Ordering::Relaxed);
        let start = self.starts.take(audience);
        let Origin { agent, facts } = start.map(|start| start.origin).unwrap_or_default();
        let incidents = &terms.incidents;
        for check in incidents.worked(&terms.server, agent.as_deref(), facts.as_deref()) {
            terms.metrics.preflight(&terms.server, check, 0);
        }
    }
}
