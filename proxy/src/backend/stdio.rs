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

use crate::backend::pipe::{Audience, Origin, Pipe, Terms};
use crate::backend::pipes::Opener;
use crate::config::secret::{AGENT, SecretText, for_agent};
use crate::config::{CommandServer, ServerEra};
use crate::incidents::{
    Candidate, Incident, Incidents, Moment, Phase, Recognised, Refusal, Secrets,
};
use crate::line::Line;
use crate::lock::locked;
use crate::platform::DirBuilderExt as _;
use crate::supervisor::{self, Launch, SpawnError, Status, Words, environment};
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

/// A failure in the words of this file.
#[derive(Default)]
struct Failure {
    cause: String,
    status: Option<Status>,
    words: Vec<String>,
    origin: Origin,
    /// It was chillgate that ended it.
    by_gate: bool,
    /// It had answered a host's request.
    has_served: bool,
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
        self.origin.masked(&self.cause)
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
            by_gate: self.by_gate,
            has_served: self.has_served,
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
            && terms
                .incidents
                .refusal(&terms.server, Era::Legacy)
                .is_none()
    }

    /// What has failed: where the older era was refused for a reason that has nothing to do with
    /// eras, that reason, whatever came of the try in the newer one.
    fn truth(&self, terms: &Terms, failure: Failure) -> Failure {
        let before = match (self.server.era, terms.era) {
            (ServerEra::Auto, Era::Modern) => terms.incidents.refusal(&terms.server, Era::Legacy),
            _ => None,
        };
        match before.filter(|refusal| !refusal.is_of_era) {
            Some(refusal) => Failure {
                origin: failure.origin,
                ..Failure::of(refusal.cause)
            },
            None => failure,
        }
    }

    /// Puts down that a start came to nothing; the cause with what is known about it. A mere try of
    /// an era is not put down.
    fn note(&self, terms: &Terms, phase: Phase, failure: Failure) -> (String, Option<Recognised>) {
        if Self::is_probe(&self.server, &self.starts, terms) {
            return (failure.told(), None);
        }
        let failure = match phase {
            Phase::Run => failure,
            _ => self.truth(terms, failure),
        };
        let (told, known) = failure.note(&terms.server, phase, &terms.incidents, &terms.metrics);
        (told, Some(known))
    }

    /// What the process of a start that came to nothing has said and done.
    fn silence(&self, audience: &Arc<Audience>, mut cause: String) -> Failure {
        let Some(start) = self.starts.take(audience) else {
            return Failure::of(cause);
        };
        if let Some(pipe) = start.pipe.upgrade() {
            if let Some(unasked) = pipe.unasked() {
                cause = format!("{cause}; {unasked}");
            }
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

/// Why there is no process, without the advice where a remedy has the same.
fn fact(error: &SpawnError) -> String {
    let text = error.to_string();
    match (error, text.rsplit_once("; ")) {
        (
            SpawnError::NotFound { .. }
            | SpawnError::Missing(_)
            | SpawnError::NotExecutable(_)
            | SpawnError::Directory(_),
            Some((fact, _)),
        ) => fact.to_owned(),
        _ => text,
    }
}

/// How long a server may take to end by itself once it has closed its output.
const OWN_END: Duration = Duration::from_millis(400);

/// How long the end of a server's output is waited for once its input has failed.
const BOTH: Duration = Duration::from_millis(100);

/// How a process ends that heard neither the end of its input nor SIGTERM.
const KILLED: Status = Status::Signal(9);

/// Whether a process may have ended like this because chillgate told it to.
fn is_of_gate(status: Status) -> bool {
    matches!(
        status,
        Status::Code(0) | Status::Signal(9 | 15) | Status::Keeper(9) | Status::Unknown
    )
}

/// A server was told to end and did not.
fn had_to_be_killed(terms: &Terms, origin: Origin) {
    let cause = "it ended neither with its input nor on SIGTERM within 3 s, and was killed";
    let failure = Failure {
        status: Some(KILLED),
        origin,
        by_gate: true,
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
        agent: Option<&str>,
        tasks: &TaskTracker,
    ) -> Result<Arc<Pipe>, String> {
        let spawning = |failure| self.note(terms, Phase::Spawn, failure).0;
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
                ..Failure::of(fact(&error))
            })
        })?;
        let (stdin, stdout) = process.take_pipes().ok_or("its pipes are missing")?;
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
        for (name, text) in &self.server.agent_env {
            let text = SecretText::of_agent(text, agent);
            text.map_err(|cause| format!("`agent-env` {name}: {cause}"))?;
        }
        let words = self.server.command.iter().map(String::as_str);
        for text in words.chain(self.server.agent_folder()) {
            for_agent(text, agent)?;
        }
        Ok(())
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
        let other = match terms.era {
            Era::Legacy => Era::Modern,
            Era::Modern => Era::Legacy,
        };
        let is_new = terms.incidents.refuses(&terms.server, terms.era, refusal);
        let start = self.starts.take(audience);
        let theirs = match self.server.era {
            ServerEra::Auto => match terms.incidents.refusal(&terms.server, other) {
                Some(theirs) => Some(theirs),
                // One era is enough for a server, where it may choose.
                None => return refusal.cause.clone(),
            },
            _ => None,
        };
        // Of two refusals one tells what is wrong, and that one alone is a failure: the one that
        // speaks of something else than eras, and of two alike the older era's.
        let theirs = theirs.filter(|theirs| match terms.era {
            Era::Legacy => refusal.is_of_era && !theirs.is_of_era,
            Era::Modern => refusal.is_of_era || !theirs.is_of_era,
        });
        if theirs.is_some() && !is_new {
            let cause = theirs.map(|theirs| theirs.cause).unwrap_or_default();
            let known = terms.incidents.current(&terms.server);
            return cause + &known.map(|known| known.sentence()).unwrap_or_default();
        }
        let cause = theirs.map_or_else(|| refusal.cause.clone(), |theirs| theirs.cause);
        let failure = Failure {
            origin: start.map(|start| start.origin).unwrap_or_default(),
            ..Failure::of(cause)
        };
        failure
            .note(
                &terms.server,
                Phase::Start,
                &terms.incidents,
                &terms.metrics,
            )
            .0
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
