//! Children that speak stdio: a process behind a pipe.
//!
//! Starting, watching and killing processes is the supervisor's; this file joins a process's
//! standard streams to a [`Pipe`] and says in words how it ended.

use std::fs::DirBuilder;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, Weak};
use std::time::Duration;

use async_trait::async_trait;
use chillgate_wire::Era;
use tokio_util::task::TaskTracker;
use tracing::{debug, warn};

use crate::backend::pipe::{Audience, Pipe, Terms};
use crate::backend::pipes::Opener;
use crate::config::secret::{AGENT, SecretText, for_agent};
use crate::config::{CommandServer, ServerEra};
use crate::incidents::{Candidate, Facts, Incident, Incidents, Moment, Phase, Recognised, Secrets};
use crate::line::Line;
use crate::lock::locked;
use crate::platform::DirBuilderExt as _;
use crate::supervisor::{self, Launch, Status, Words, environment};
use crate::telemetry::metrics::Metrics;

/// Starts a process for each pipe.
#[derive(Clone, Debug)]
pub struct Child {
    server: Arc<CommandServer>,
    starts: Arc<Starts>,
}

/// What is known of the processes that were started.
#[derive(Debug, Default)]
struct Starts {
    /// One of them has got ready.
    has_worked: AtomicBool,
    /// Those that are not ready yet.
    starting: Mutex<Vec<Start>>,
}

#[derive(Debug)]
struct Start {
    /// Whom it is for: two that are started at the same time are told apart by that.
    audience: Weak<Audience>,
    pipe: Weak<Pipe>,
    words: Words,
    origin: Origin,
}

/// Whose process it is, where each agent's gets something of its own, and what it was started with.
#[derive(Clone, Debug, Default)]
struct Origin {
    agent: Option<Arc<str>>,
    facts: Option<Arc<Facts>>,
}

/// A failure in the words of this file.
#[derive(Default)]
struct Failure {
    cause: String,
    status: Option<Status>,
    words: Vec<String>,
    origin: Origin,
}

impl Failure {
    fn of(cause: String) -> Self {
        Self {
            cause,
            ..Self::default()
        }
    }

    /// What is said of it: without the server's secrets.
    fn told(&self) -> String {
        match &self.origin.facts {
            Some(facts) => facts.secrets().mask(&self.cause),
            None => self.cause.clone(),
        }
    }

    /// Puts it down; the cause with what is known about it.
    fn note(
        self,
        server: &Arc<str>,
        phase: Phase,
        incidents: &Incidents,
        metrics: &Metrics,
    ) -> (String, Recognised) {
        let cause = self.told();
        let known = incidents.note(Incident {
            server: server.clone(),
            agent: self.origin.agent,
            phase,
            cause: self.cause,
            status: self.status,
            words: self.words,
            facts: self.origin.facts,
            at: Moment::now(),
        });
        metrics.incident(server, known.label());
        (cause + &known.sentence(), known)
    }
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
        let facts = launch
            .as_ref()
            .ok()
            .map(|launch| Arc::new(incidents.facts(launch.clone())));
        let found = launch
            .and_then(|launch| supervisor::look_for(&launch).map_err(|error| error.to_string()));
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

    /// What is looked at before it is started; none where that could not be made.
    pub fn candidate(&self, name: &str, incidents: &Incidents) -> Option<Candidate> {
        Some(incidents.candidate(self.launch(name, None).ok()?))
    }

    /// What is started; for an agent with what is that agent's alone.
    fn launch(&self, name: &str, agent: Option<&str>) -> Result<Launch, String> {
        let server = &self.server;
        let mut set = server.env.clone();
        let (mut command, mut cwd) = (server.command.clone(), server.cwd.clone());
        if let Some(agent) = agent {
            for (name, text) in &server.agent_env {
                let text = SecretText::of_agent(text, agent)
                    .map_err(|cause| format!("`agent-env` {name}: {cause}"))?;
                set.insert(name.clone(), text);
            }
            for word in command.iter_mut().filter(|word| word.contains(AGENT)) {
                *word = for_agent(word, agent).map_err(|cause| format!("`command`: {cause}"))?;
            }
            if let Some(folder) = server.agent_folder() {
                let folder = for_agent(folder, agent).map_err(|cause| format!("`cwd`: {cause}"))?;
                make_private(&folder).map_err(|error| format!("`cwd` {folder}: {error}"))?;
                cwd = Some(folder.into());
            }
        }
        let env = environment::of(&server.inherit, &set)?;
        let is_given = |name: &String| set.contains_key(name) || server.inherit.contains(name);
        let given = env.iter().filter(|(name, _)| is_given(name));
        Ok(Launch {
            name: name.to_owned(),
            command,
            secrets: Secrets::new(given.map(|(_, value)| value.as_str())),
            env,
            cwd,
            limits: server.limits.clone(),
            sandbox: server.sandbox.clone(),
            is_temporary_named: is_given(&"TMPDIR".to_owned()),
        })
    }

    /// What it is in this era is only asked: that it fails says nothing while the other is left.
    fn is_probe(server: &CommandServer, starts: &Starts, terms: &Terms) -> bool {
        server.era == ServerEra::Auto
            && terms.era == Era::Modern
            && !starts.has_worked.load(Ordering::Relaxed)
            && !terms.incidents.has_refused(&terms.server, Era::Legacy)
    }

    /// What the process of a start that came to nothing has said and done.
    fn silence(&self, audience: &Arc<Audience>, mut cause: String) -> Failure {
        let Some(start) = self.starts.take(audience) else {
            return Failure::of(cause);
        };
        if let Some(pipe) = start.pipe.upgrade() {
            cause += &strange(&pipe);
        }
        Failure {
            words: start.words.lines(),
            origin: start.origin,
            ..Failure::of(cause)
        }
    }
}

impl Starts {
    fn put(&self, start: Start) {
        let mut starting = locked(&self.starting);
        // Nobody waits for the one before.
        starting.retain(|other| {
            other.audience.strong_count() > 0 && !other.audience.ptr_eq(&start.audience)
        });
        starting.push(start);
    }

    /// The start of a process for these sessions.
    fn take(&self, audience: &Arc<Audience>) -> Option<Start> {
        let mut starting = locked(&self.starting);
        let is_its = |start: &Start| start.audience.as_ptr() == Arc::as_ptr(audience);
        let found = starting.iter().position(is_its)?;
        Some(starting.swap_remove(found))
    }
}

/// A folder of one agent, for chillgate's user alone; one that is there stays as it is.
fn make_private(folder: &str) -> std::io::Result<()> {
    let made = DirBuilder::new().mode(0o700).create(folder);
    match made {
        Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => Ok(()),
        made => made,
    }
}

/// What follows the cause where a server wrote something else than messages.
fn strange(pipe: &Pipe) -> String {
    let line = pipe.strange().map(|line| {
        format!("; it wrote {line:?} on its standard output, which is no message of MCP")
    });
    line.unwrap_or_default()
}

/// How long the end of a server's output is waited for once its input has failed.
const BOTH: Duration = Duration::from_millis(100);

/// How a process ends that heard neither the end of its input nor SIGTERM.
const KILLED: Status = Status::Signal(9);

/// A server was told to end and did not.
fn had_to_be_killed(terms: &Terms, origin: Origin) {
    let cause = "it ended neither with its input nor on SIGTERM within 3 s, and was killed";
    let failure = Failure {
        status: Some(KILLED),
        origin,
        ..Failure::of(cause.to_owned())
    };
    let (cause, known) = failure.note(&terms.server, Phase::Stop, &terms.incidents, &terms.metrics);
    warn!(server = %terms.server, %cause, incident = %known.id, "The server had to be killed.");
}

/// How long a server may take to end by itself once its input is closed (MCP stdio shutdown).
const FAREWELL: Duration = Duration::from_secs(2);

/// Carries bytes both ways until the server ends (`false`) or was asked to (`true`).
async fn carry(
    pipe: &Pipe,
    reading: impl Future<Output = String>,
    writing: impl Future<Output = std::io::Result<()>>,
) -> (String, bool) {
    let mut reading = std::pin::pin!(reading);
    let mut writing = std::pin::pin!(writing);
    let (mut written, mut closing) = (false, false);
    let mut farewell = std::pin::pin!(tokio::time::sleep(Duration::MAX));
    loop {
        tokio::select! {
            biased;
            why = &mut reading => return (why, closing),
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
        agent: Option<&str>,
        tasks: &TaskTracker,
    ) -> Result<Arc<Pipe>, String> {
        let spawning = |failure: Failure| {
            if Self::is_probe(&self.server, &self.starts, terms) {
                return failure.told();
            }
            failure
                .note(
                    &terms.server,
                    Phase::Spawn,
                    &terms.incidents,
                    &terms.metrics,
                )
                .0
        };
        // Reads files, which may be somewhere slow.
        let (this, named) = (self.clone(), terms.clone());
        let agent = agent.map(Arc::<str>::from);
        let whose = agent.clone().filter(|_| self.server.is_by_agent());
        let preparing = tokio::task::spawn_blocking(move || {
            let launch = this.launch(&named.server, agent.as_deref())?;
            let facts = named.incidents.facts(launch.clone());
            Ok((launch, Arc::new(facts)))
        });
        let prepared = preparing
            .await
            .unwrap_or_else(|error| Err(error.to_string()));
        let mut origin = Origin {
            agent: whose,
            facts: None,
        };
        let (launch, facts) = prepared.map_err(|cause| {
            spawning(Failure {
                origin: origin.clone(),
                ..Failure::of(cause)
            })
        })?;
        origin.facts = Some(facts);
        let spawned = supervisor::spawn(launch, &terms.metrics).await;
        let mut process = spawned.map_err(|error| {
            spawning(Failure {
                origin: origin.clone(),
                ..Failure::of(error.to_string())
            })
        })?;
        let (stdin, stdout) = process.take_pipes().ok_or("its pipes are missing")?;
        let (line, writing) = Line::new(stdin);
        let pipe = Pipe::new(terms, line, audience);
        pipe.note_process(process.pid());
        debug!(server = %terms.server, pid = process.pid(), "Started the server.");
        self.starts.put(Start {
            audience: Arc::downgrade(pipe.audience()),
            pipe: Arc::downgrade(&pipe),
            words: process.words(),
            origin: origin.clone(),
        });
        let (owned, terms) = (pipe.clone(), terms.clone());
        let (server, starts) = (self.server.clone(), self.starts.clone());
        tasks.spawn(async move {
            let (mut why, asked_to) = carry(&owned, owned.read(stdout), writing).await;
            let status = process.stop().await;
            owned.bury();
            // One that hung has been told to end, and that it hung is what went wrong.
            let hung = owned.fallen().map(|(_, why)| why);
            if let Some(hung) = &hung {
                why.clone_from(hung);
            } else if asked_to {
                if status == KILLED {
                    had_to_be_killed(&terms, origin);
                }
                return owned.finish(why);
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
            };
            let (why, known) = if Self::is_probe(&server, &starts, &terms) {
                (failure.told(), None)
            } else {
                let phase = if is_greeted { Phase::Run } else { Phase::Start };
                let noted = failure.note(&terms.server, phase, &terms.incidents, &terms.metrics);
                (noted.0, Some(noted.1))
            };
            let incident = known.as_ref().map(|known| known.id.as_str());
            let remedy = known.as_ref().and_then(|known| known.remedy.as_ref());
            let remedy = remedy.map(|remedy| remedy.id.as_str());
            warn!(server = %terms.server, cause = %why, incident, remedy, "The server ended.");
            owned.finish_as(why, Some(status.to_string().into()));
        });
        Ok(pipe)
    }

    fn silent(&self, terms: &Terms, audience: &Arc<Audience>, cause: String) -> String {
        let cause =
            format!("{cause}; is it an MCP server that speaks stdio? `start-timeout` allows more");
        let failure = self.silence(audience, cause);
        if Self::is_probe(&self.server, &self.starts, terms) {
            return failure.told();
        }
        let noted = failure.note(
            &terms.server,
            Phase::Start,
            &terms.incidents,
            &terms.metrics,
        );
        noted.0
    }

    fn refused(&self, terms: &Terms, audience: &Arc<Audience>, cause: &str) {
        // One era is enough for a server, where it may choose.
        let other = match terms.era {
            Era::Legacy => Era::Modern,
            Era::Modern => Era::Legacy,
        };
        terms.incidents.refuses(&terms.server, terms.era);
        let start = self.starts.take(audience);
        let is_last = terms.incidents.has_refused(&terms.server, other);
        if self.server.era != ServerEra::Auto || is_last {
            let failure = Failure {
                origin: start.map(|start| start.origin).unwrap_or_default(),
                ..Failure::of(cause.to_owned())
            };
            failure.note(
                &terms.server,
                Phase::Start,
                &terms.incidents,
                &terms.metrics,
            );
        }
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
