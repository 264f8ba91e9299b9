//! How a child's failure is told and put down: once, by what it was, without its secrets.
//!
//! Apart because of several failures one is the truth: an era that was only tried is none, and what
//! chillgate ended itself was no accident. It ends and starts nothing.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use chillgate_wire::Era;
use tracing::warn;

use super::Child;
use super::starts::Starts;
use crate::backend::pipe::{Audience, Origin, Pipe, Terms};
use crate::config::{CommandServer, ServerEra};
use crate::incidents::{Incident, Incidents, Moment, Phase, Recognised, Refusal};
use crate::supervisor::{SpawnError, Status};
use crate::telemetry::metrics::Metrics;

/// A failure in the words of this file.
#[derive(Default)]
pub(super) struct Failure {
    pub(super) cause: String,
    pub(super) status: Option<Status>,
    pub(super) words: Vec<String>,
    pub(super) origin: Origin,
    /// It was chillgate that ended it.
    pub(super) by_gate: bool,
    /// It had answered a host's request.
    pub(super) has_served: bool,
}

impl Failure {
    pub(super) fn of(cause: String) -> Self {
        Self {
            cause,
            ..Self::default()
        }
    }

    /// What is said of it: without the server's secrets.
    pub(super) fn told(&self) -> String {
        self.origin.masked(&self.cause)
    }

    /// Puts it down; the cause with what is known about it.
    pub(super) fn note(
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
    /// What it is in this era is only asked: that it fails says nothing while the other is left.
    pub(super) fn is_probe(server: &CommandServer, starts: &Starts, terms: &Terms) -> bool {
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
    pub(super) fn truth(&self, terms: &Terms, failure: Failure) -> Failure {
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
    pub(super) fn note(
        &self,
        terms: &Terms,
        phase: Phase,
        failure: Failure,
    ) -> (String, Option<Recognised>) {
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
    pub(super) fn silence(&self, audience: &Arc<Audience>, mut cause: String) -> Failure {
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

    /// What a server's refusal of its first words comes to.
    pub(super) fn refusal(
        &self,
        terms: &Terms,
        audience: &Arc<Audience>,
        refusal: &Refusal,
    ) -> String {
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
            let agent = start
                .as_ref()
                .and_then(|start| start.origin.agent.as_deref());
            let known = terms.incidents.current(&terms.server, agent);
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
}

/// What follows the cause where a server wrote something else than messages.
pub(super) fn strange(pipe: &Pipe) -> String {
    let line = pipe.strange().map(|line| {
        format!("; it wrote {line:?} on its standard output, which is no message of MCP")
    });
    line.unwrap_or_default()
}

/// Why there is no process, without the advice where a remedy has the same.
pub(super) fn fact(error: &SpawnError) -> String {
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

/// How a process ends that heard neither the end of its input nor SIGTERM.
pub(super) const KILLED: Status = Status::Signal(9);

/// Whether a process may have ended like this because chillgate told it to.
pub(super) fn is_of_gate(status: Status) -> bool {
    matches!(
        status,
        Status::Code(0) | Status::Signal(9 | 15) | Status::Keeper(9) | Status::Unknown
    )
}

/// A server was told to end and did not.
pub(super) fn had_to_be_killed(terms: &Terms, origin: Origin) {
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
