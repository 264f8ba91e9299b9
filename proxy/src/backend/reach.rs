//! A server somewhere else that cannot be reached, or does not want chillgate: put down once, and
//! told with what is known about it.
//!
//! Every call notices the same, so what counts is the change: from well to failing, from one
//! failure to another, and back. It sends nothing and decides nothing about the next try.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use secrecy::ExposeSecret;
use tracing::warn;

use crate::backend::pipe::{Origin, Terms};
use crate::config::secret::SecretText;
use crate::config::{RemoteServer, ServerEra};
use crate::incidents::{Facts, Incident, Moment, Phase, Recognised};

/// How reaching one server went last.
pub struct Reach {
    url: String,
    headers: Vec<(String, SecretText)>,
    /// Its era is still to be found out.
    is_probed: bool,
    has_worked: AtomicBool,
    is_failing: AtomicBool,
}

impl std::fmt::Debug for Reach {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Reach").finish_non_exhaustive()
    }
}

impl Reach {
    /// Of a server that nobody has called yet.
    pub fn new(server: &RemoteServer) -> Self {
        let headers = server.headers.iter();
        Self {
            url: server.url.clone(),
            headers: headers
                .map(|(name, value)| (name.clone(), value.clone()))
                .collect(),
            is_probed: false,
            has_worked: AtomicBool::new(false),
            is_failing: AtomicBool::new(false),
        }
    }

    /// The same where it is only asked whether it speaks an era: that this fails says nothing while
    /// the other is left, until it has worked once.
    pub fn of_probe(server: &RemoteServer) -> Self {
        Self {
            is_probed: server.era == ServerEra::Auto,
            ..Self::new(server)
        }
    }

    /// It could not be reached, or refused chillgate itself. The cause with what is known about it.
    pub fn failed(&self, terms: &Terms, cause: &str) -> (String, Option<Arc<Recognised>>) {
        let facts = self.facts(terms);
        let cause = facts.secrets().mask(cause);
        if self.is_probed && !self.has_worked.load(Ordering::Relaxed) {
            return (cause, None);
        }
        let (known, is_change) = terms.incidents.note_change(Incident {
            server: terms.server.clone(),
            agent: None,
            phase: Phase::Remote,
            cause: cause.clone(),
            status: None,
            by_gate: false,
            has_served: false,
            words: Vec::new(),
            facts: Some(Arc::new(facts)),
            at: Moment::now(),
        });
        self.is_failing.store(true, Ordering::Relaxed);
        if is_change {
            terms.metrics.incident(&terms.server, known.label());
            let remedy = known.remedy.as_ref().map(|remedy| remedy.id.as_str());
            warn!(server = %terms.server, %cause, incident = %known.id, remedy,
                "The server cannot be reached.");
        }
        (cause + &known.sentence(), Some(known))
    }

    /// It has answered: what had failed is behind it.
    pub fn answered(&self, terms: &Terms) {
        let is_first = !self.has_worked.swap(true, Ordering::Relaxed);
        if self.is_failing.swap(false, Ordering::Relaxed) || is_first {
            terms
                .incidents
                .worked(&terms.server, None, Some(&self.facts(terms)));
        }
    }

    /// It has answered one request: that counts where others had failed.
    pub fn answered_again(&self, terms: &Terms) {
        if self.is_failing.load(Ordering::Relaxed) {
            self.answered(terms);
        }
    }

    /// What a pipe to it must know.
    pub fn origin(&self, terms: &Terms) -> Origin {
        Origin {
            agent: None,
            facts: Some(Arc::new(self.facts(terms))),
        }
    }

    fn facts(&self, terms: &Terms) -> Facts {
        let headers = self.headers.iter().map(|(name, secret)| {
            let value = secret.resolve().ok();
            let value = value.map(|value| value.expose_secret().to_owned());
            (name.clone(), value.unwrap_or_default())
        });
        let headers: Vec<_> = headers.collect();
        terms
            .incidents
            .facts_of_remote(&terms.server, &self.url, &headers)
    }
}
