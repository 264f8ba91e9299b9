//! The memory of failures: what went wrong with a server, whether it has before, and what helped.
//!
//! A failure becomes an [`Incident`]; those that look alike are one pattern, which meets a remedy
//! and is kept from start to start. Everything here answers at once: looking at the machine and
//! writing are done by a thread of its own (`writer`). It starts no process, restarts nothing, and
//! keeps no secret.

use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::path::PathBuf;
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use chillgate_wire::Era;
use serde::Serialize;
use tracing::warn;

pub mod book;
mod check;
pub mod environment;
pub mod file;
pub mod fingerprint;
pub mod moment;
mod note;
pub mod preflight;
pub mod remedies;
pub mod secrets;
mod writer;

pub use crate::config::remedy::Phase;
pub use book::Pattern;
pub use moment::Moment;
pub use preflight::{Candidate, Finding};
pub use secrets::Secrets;

use book::{Book, Event};
use environment::Environment;
use file::{Found, Kept, Place};
use remedies::Rules;
use writer::{Job, Recovered};

use crate::config::remedy::Remedy;
use crate::lock::locked;
use crate::supervisor::{Launch, Status};

/// Events that wait to be written; while they cannot be, the oldest go.
const PENDING: usize = 1000;
/// The most findings of one server.
const FINDINGS: usize = 8;
/// How long the end waits for the last write.
const PATIENCE: Duration = Duration::from_secs(2);

/// A failure of a server.
#[derive(Clone, Debug)]
pub struct Incident {
    /// The server.
    pub server: Arc<str>,
    /// Whose process it was, where each agent's gets something of its own.
    pub agent: Option<Arc<str>>,
    /// When it failed.
    pub phase: Phase,
    /// What chillgate says about it.
    pub cause: String,
    /// How the process ended, if it did.
    pub status: Option<Status>,
    /// It was chillgate that ended it: then the way it ended says nothing.
    pub by_gate: bool,
    /// The process had answered a host's request.
    pub has_served: bool,
    /// The last lines of stderr.
    pub words: Vec<String>,
    /// What it was started with, where it is a process.
    pub facts: Option<Arc<Facts>>,
    /// When that was.
    pub at: Moment,
}

/// How a server has refused the first words of an era.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// What it said, without secrets.
    pub cause: String,
    /// It refused the era alone, as a server of another one does; else something is wrong.
    pub is_of_era: bool,
}

/// What is known of one start of a server.
#[derive(Debug)]
pub struct Facts {
    launch: Launch,
    environment: Environment,
}

impl Facts {
    /// What must not be told of it.
    pub fn secrets(&self) -> &Secrets {
        &self.launch.secrets
    }
}

/// What is known about a failure, for whoever is told of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Recognised {
    /// The pattern.
    pub id: String,
    /// Outages so far, this one included.
    pub count: u64,
    /// The first failure.
    pub first_seen: Moment,
    /// The last one, which is this.
    pub last_seen: Moment,
    /// What to do.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub remedy: Option<Known>,
    /// Whether it was never seen before.
    #[serde(skip)]
    pub is_new: bool,
}

/// A remedy and what it came to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Known {
    /// Its name.
    pub id: String,
    /// What to do.
    pub text: String,
    /// How often a server went again after something had been changed.
    pub worked: u64,
    /// How often one went again by itself.
    pub passed: u64,
    /// Whether it is the user's own.
    #[serde(skip)]
    pub own: bool,
}

impl Recognised {
    /// What follows the cause where a person reads it; empty for what is new and without remedy.
    pub fn sentence(&self) -> String {
        let remedy = self.remedy.as_ref().map(|remedy| remedy.text.as_str());
        match (self.count, remedy) {
            (0 | 1, None) => String::new(),
            (0 | 1, Some(text)) => format!("; what to do: {text}"),
            (count, remedy) => {
                let since = self.first_seen.day();
                let remedy = remedy.map(|text| format!(": {text}")).unwrap_or_default();
                format!("; known since {since} ({count} times){remedy}")
            }
        }
    }

    /// The label of metrics: a shipped remedy's name, `own` or `unknown`.
    pub fn label(&self) -> &str {
        match &self.remedy {
            None => "unknown",
            Some(remedy) if remedy.own => "own",
            Some(remedy) => &remedy.id,
        }
    }
}

/// The memory; cheap to clone.
#[derive(Clone)]
pub struct Incidents(Arc<Inner>);

struct Inner {
    shared: Arc<Shared>,
    jobs: Sender<Job>,
    salt: String,
}

/// What the thread sees as well.
struct Shared {
    state: Mutex<State>,
    is_kept: bool,
}

#[derive(Default)]
struct State {
    book: Book,
    /// What is in the book and not yet in the file, numbered.
    pending: VecDeque<(u64, Event)>,
    number: u64,
    rules: Rules,
    servers: BTreeMap<String, Local>,
}

/// What this process knows of a server.
#[derive(Default)]
struct Local {
    /// The last failure since it was last well, and whose.
    current: Option<(Option<Arc<str>>, Arc<Recognised>)>,
    /// Patterns of the outage that goes on, and when each was last seen.
    ongoing: BTreeMap<String, Moment>,
    findings: Vec<Finding>,
    /// The eras that it has refused since it was last well.
    refused: Vec<(Era, Refusal)>,
}

impl Shared {
    fn put_down(&self, events: Vec<Event>) {
        let mut state = locked(&self.state);
        for event in events {
            state.book.apply(&event);
            if self.is_kept {
                state.number += 1;
                let number = state.number;
                state.pending.push_back((number, event));
                if state.pending.len() > PENDING {
                    state.pending.pop_front();
                }
            }
        }
    }
}

impl Default for Incidents {
    fn default() -> Self {
        Self::open(None, &[])
    }
}

impl Incidents {
    /// The memory kept in this folder; without one it ends with the process. A file that cannot be
    /// read is no failure to start.
    pub fn open(folder: Option<PathBuf>, own: &[Remedy]) -> Self {
        let place = folder.map(Place::new);
        let mut kept = Kept::default();
        let mut is_there = false;
        match place.as_ref().map(Place::read) {
            Some(Ok(Found::Kept(found))) => {
                kept = *found;
                is_there = true;
            }
            Some(Ok(Found::Nothing | Found::Strange(_))) | None => {}
            Some(Err(error)) => {
                warn!(%error, "The memory of incidents cannot be read; it begins anew in this process.");
            }
        }
        let state = State {
            book: kept.book.clone(),
            rules: Rules::new(own),
            ..State::default()
        };
        let shared = Arc::new(Shared {
            state: Mutex::new(state),
            is_kept: place.is_some(),
        });
        let (jobs, asked) = channel();
        let salt = kept.salt.clone();
        let theirs = shared.clone();
        let thread = std::thread::Builder::new().name("incidents".to_owned());
        let is_first = place.is_some() && !is_there;
        let spawned = thread.spawn(move || writer::work(&theirs, place.as_ref(), &kept, &asked));
        if let Err(error) = spawned {
            warn!(%error, "Incidents are remembered by this process alone.");
        }
        let this = Self(Arc::new(Inner { shared, jobs, salt }));
        if is_first {
            // So that all who share the folder make their hashes alike.
            this.ask(Job::Write);
        }
        this
    }

    fn ask(&self, job: Job) {
        // Without its thread the memory is this process's own.
        let _ = self.0.jobs.send(job);
    }

    /// What is known of a start with this; looks at the program's file.
    pub fn facts(&self, launch: Launch) -> Facts {
        Facts {
            environment: Environment::of(&launch, &self.0.salt),
            launch,
        }
    }

    /// The same of a server somewhere else: its address, and what is sent with each request.
    pub fn facts_of_remote(
        &self,
        server: &str,
        address: &str,
        headers: &[(String, String)],
    ) -> Facts {
        let values = headers.iter().map(|(_, value)| value.as_str());
        // `Bearer X` is as secret without its first word.
        let words = values.clone().flat_map(str::split_whitespace);
        Facts {
            environment: Environment::of_remote(address, headers, &self.0.salt),
            launch: Launch {
                name: server.to_owned(),
                secrets: Secrets::new(values.chain(words).chain(Secrets::of_url(address))),
                ..Launch::default()
            },
        }
    }

    /// A server has refused an era. Whether it is the first time since it was last well.
    pub fn refuses(&self, server: &str, era: Era, refusal: &Refusal) -> bool {
        let mut state = locked(&self.0.shared.state);
        let local = state.servers.entry(server.to_owned()).or_default();
        let count = local.refused.len();
        local.refused.retain(|(other, _)| *other != era);
        let is_new = local.refused.len() == count;
        local.refused.push((era, refusal.clone()));
        is_new
    }

    /// How a server has refused this era, if it has and has not been well since: then the other one
    /// is all that is left.
    pub fn refusal(&self, server: &str, era: Era) -> Option<Refusal> {
        let state = locked(&self.0.shared.state);
        let mut refused = state.servers.get(server)?.refused.iter();
        let found = refused.find(|(other, _)| *other == era);
        found.map(|(_, refusal)| refusal.clone())
    }

    /// The server has started well: what had failed is behind it, by a remedy or by itself; that of
    /// one agent says nothing of what another's fails by. Returns the checks of findings that are
    /// void by that.
    pub fn worked(
        &self,
        server: &str,
        agent: Option<&str>,
        facts: Option<&Facts>,
    ) -> Vec<&'static str> {
        let now = Moment::now();
        let (void, patterns) = {
            let mut state = locked(&self.0.shared.state);
            let local = state.servers.remove(server).unwrap_or_default();
            let void = local.findings.iter().map(|finding| finding.check).collect();
            let is_behind = |whose: Option<&str>| whose.is_none() || whose == agent;
            if let Some((whose, _)) = &local.current
                && !is_behind(whose.as_deref())
            {
                let left = Local {
                    current: local.current,
                    ongoing: local.ongoing,
                    ..Local::default()
                };
                state.servers.insert(server.to_owned(), left);
            } else {
                // That it starts is no proof of what had failed in service, or another agent.
                let goes_on = |id: &String| {
                    let pattern = state.book.patterns.get(id);
                    pattern
                        .is_some_and(|it| it.phase == Phase::Run || !is_behind(it.agent.as_deref()))
                };
                let mut ongoing = local.ongoing;
                ongoing.retain(|id, _| goes_on(id));
                if !ongoing.is_empty() {
                    let left = Local {
                        ongoing,
                        ..Local::default()
                    };
                    state.servers.insert(server.to_owned(), left);
                }
            }
            let open = state.book.patterns.values();
            let open = open.filter(|it| it.server == server && it.recovery.is_none());
            let open = open.filter(|it| is_behind(it.agent.as_deref()));
            let open: Vec<_> = open.map(|it| (it.id.clone(), it.attempts)).collect();
            (void, open)
        };
        if !patterns.is_empty()
            && let Some(facts) = facts
        {
            self.ask(Job::Recovered(Recovered {
                at: now,
                launch: facts.launch.clone(),
                environment: facts.environment.clone(),
                patterns,
            }));
        }
        void
    }

    /// The last failure of a server that has not been well since, in this process; whosever it is:
    /// for operators.
    pub fn latest(&self, server: &str) -> Option<Arc<Recognised>> {
        let state = locked(&self.0.shared.state);
        let current = state.servers.get(server)?.current.as_ref();
        current.map(|(_, known)| known.clone())
    }

    /// The same, unless it is another agent's.
    pub fn current(&self, server: &str, agent: Option<&str>) -> Option<Arc<Recognised>> {
        let state = locked(&self.0.shared.state);
        let current = state.servers.get(server)?.current.as_ref();
        let own = |whose: &Option<Arc<str>>| whose.is_none() || whose.as_deref() == agent;
        let current = current.filter(|(whose, _)| own(whose));
        current.map(|(_, known)| known.clone())
    }

    /// All patterns: those not behind us first, then the latest first.
    pub fn patterns(&self) -> Vec<Pattern> {
        let state = locked(&self.0.shared.state);
        state
            .book
            .in_order(Moment::now())
            .into_iter()
            .cloned()
            .collect()
    }

    /// Looks at what went wrong before, for servers that are about to be started. Touches the disk;
    /// not for the data path.
    pub fn preflight(&self, candidates: &[Candidate]) -> Vec<Finding> {
        let now = Moment::now();
        let mut all: Vec<Finding> = Vec::new();
        for pattern in self.patterns() {
            for finding in candidates
                .iter()
                .filter_map(|it| preflight::look(&pattern, it, now))
            {
                let of_server = || all.iter().filter(|other| other.server == finding.server);
                let is_told = of_server()
                    .any(|other| other.check == finding.check && other.says == finding.says);
                if !is_told && of_server().count() < FINDINGS {
                    all.push(finding);
                }
            }
        }
        let mut state = locked(&self.0.shared.state);
        for candidate in candidates {
            let name = &candidate.launch.name;
            let of_server = all.iter().filter(|finding| finding.server == *name);
            state.servers.entry(name.clone()).or_default().findings = of_server.cloned().collect();
        }
        all
    }

    /// A server that is about to be started, for [`Self::preflight`]. Looks at the program's file.
    pub fn candidate(&self, launch: Launch) -> Candidate {
        Candidate {
            environment: Environment::of(&launch, &self.0.salt),
            launch,
        }
    }

    /// What was found of a server that is no longer configured, or another one by now, is void.
    /// Returns the checks of that.
    pub fn void(&self, server: &str) -> Vec<&'static str> {
        let mut state = locked(&self.0.shared.state);
        let local = state.servers.get_mut(server);
        let findings = local.map(|local| std::mem::take(&mut local.findings));
        let findings = findings.unwrap_or_default();
        findings.iter().map(|finding| finding.check).collect()
    }

    /// What the last look before a start has found, while the server has not been well since.
    pub fn findings(&self, server: &str) -> Vec<Finding> {
        let state = locked(&self.0.shared.state);
        let local = state.servers.get(server);
        local
            .map(|local| local.findings.clone())
            .unwrap_or_default()
    }

    /// What keeps a server from being started before somebody calls it.
    pub fn held_back(&self, server: &str) -> Option<Finding> {
        let state = locked(&self.0.shared.state);
        let findings = &state.servers.get(server)?.findings;
        findings.iter().find(|finding| finding.failing).cloned()
    }

    /// The user's own remedies from now on.
    pub fn set_own(&self, own: &[Remedy]) {
        locked(&self.0.shared.state).rules = Rules::new(own);
    }

    /// Writes what is not yet written. Waits for it, 2 s at most.
    pub fn flush(&self) {
        let (done, written) = channel();
        self.ask(Job::Flush(done));
        let _ = written.recv_timeout(PATIENCE);
    }
}

impl fmt::Debug for Incidents {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Incidents").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
