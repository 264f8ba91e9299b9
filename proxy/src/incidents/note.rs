//! A failure put down: without secrets, under the pattern it belongs to, with what is known about it.
//!
//! Apart from the memory because here alone a failure is read; what is kept, and how long, is the
//! book's. It looks at nothing on the machine and waits for nobody.

use std::sync::Arc;

use super::book::{Event, Failure, Pattern, SETTLED, Sample};
use super::moment::Moment;
use super::remedies::Seen;
use super::writer::Job;
use super::{Incident, Incidents, Known, Phase, Recognised, Secrets, fingerprint};
use crate::lock::locked;
use crate::supervisor::Launch;

/// Patterns of one server that go on at one time.
const ONGOING: usize = 64;
/// The last lines that a sample keeps.
pub(super) const WORDS: usize = 8;

/// A failure as it is kept.
struct Read {
    incident: Incident,
    cause: String,
    words: Vec<String>,
    /// The line that tells most.
    what: String,
    ended: String,
    id: String,
}

impl Read {
    fn of(incident: Incident) -> Self {
        let none = Secrets::default();
        let secrets = incident.facts.as_ref().map_or(&none, |it| it.secrets());
        let cause = secrets.mask(&incident.cause);
        let words = secrets.mask_lines(&incident.words);
        let telling = fingerprint::telling_line(&words).unwrap_or(&cause);
        let what = fingerprint::shown(telling);
        let ended = incident.status.map(|status| status.to_string());
        let ended = ended.unwrap_or_default();
        let line = fingerprint::normalised(fingerprint::clipped(telling));
        let agent = incident.agent.as_deref();
        let id = fingerprint::id(&incident.server, agent, incident.phase, &ended, &line);
        Self {
            incident,
            cause,
            words,
            what,
            ended,
            id,
        }
    }
}

/// The port that a server was given: `PORT`, else the one variable `…_PORT`. Where there are several
/// nobody knows on which of them it listens.
fn given_port(launch: &Launch) -> Option<&str> {
    let number = |value: &str| value.parse::<u16>().is_ok_and(|port| port != 0);
    let given = launch.env.iter().filter(|(_, value)| number(value));
    let mut all = given.clone().filter(|(name, _)| name.ends_with("_PORT"));
    let mut own = given.filter(|(name, _)| name == "PORT");
    let found = own
        .next()
        .or_else(|| all.next().filter(|_| all.next().is_none()));
    found.map(|(_, value)| value.as_str())
}

impl Incidents {
    /// Puts a failure down and says what is known about it.
    pub fn note(&self, incident: Incident) -> Recognised {
        self.put(Read::of(incident))
    }

    /// The same of what is seen with every call: only where it is another failure than the last
    /// one, or the server has been well since. Whether it was put down.
    pub fn note_change(&self, incident: Incident) -> (Arc<Recognised>, bool) {
        let read = Read::of(incident);
        match self.current(&read.incident.server, read.incident.agent.as_deref()) {
            Some(current) if current.id == read.id => (current, false),
            _ => (Arc::new(self.put(read)), true),
        }
    }

    fn put(&self, read: Read) -> Recognised {
        let Read {
            incident,
            cause,
            words,
            what,
            ended,
            id,
        } = read;
        let rules = locked(&self.0.shared.state).rules.clone();
        let facts = incident.facts.as_deref();
        let advice = rules.find(Seen {
            server: &incident.server,
            phase: incident.phase,
            status: incident.status.filter(|_| !incident.by_gate),
            text: &format!("{cause}\n{}", words.join("\n")),
            sandboxed: facts.is_some_and(|facts| facts.launch.sandbox.is_some()),
            port: facts.and_then(|facts| given_port(&facts.launch)),
        });
        let check = advice.as_ref().and_then(|advice| advice.check.clone());
        let skipped = words.len().saturating_sub(WORDS);
        let last_words = words.iter().skip(skipped);
        let failure = |is_new_outage| Failure {
            id: id.clone(),
            server: incident.server.to_string(),
            agent: incident.agent.as_ref().map(ToString::to_string),
            phase: incident.phase,
            ended,
            what,
            is_new_outage,
            remedy: advice,
            environment: incident
                .facts
                .as_ref()
                .map(|facts| facts.environment.clone())
                .unwrap_or_default(),
            sample: Sample {
                at: incident.at,
                cause: fingerprint::shown(&cause),
                words: last_words.map(|line| fingerprint::shown(line)).collect(),
            },
        };
        let (is_new_outage, before) = self.begin(&incident, &id);
        self.0
            .shared
            .put_down(vec![Event::Failed(Box::new(failure(is_new_outage)))]);
        let recognised = self.recognised(&incident, &id, before);
        match (check, incident.facts) {
            (Some(check), Some(facts)) => {
                let launch = facts.launch.clone();
                self.ask(Job::Look { id, check, launch });
            }
            _ => self.ask(Job::Write),
        }
        recognised
    }

    /// Whether a new outage begins with it, and when its pattern was last seen.
    fn begin(&self, incident: &Incident, id: &str) -> (bool, Option<Moment>) {
        let mut state = locked(&self.0.shared.state);
        let pattern = state.book.patterns.get(id);
        let before = pattern.map(|pattern| pattern.last_seen);
        let local = state.servers.entry(incident.server.to_string());
        let local = local.or_default();
        let last = local.ongoing.insert(id.to_owned(), incident.at);
        if local.ongoing.len() > ONGOING {
            local.ongoing.pop_first();
        }
        let goes_on = last.is_some_and(|last| incident.at < last.plus(SETTLED));
        // A process that served and then ended, or had to be killed, had been well; one that only
        // started had not.
        let was_well = match incident.phase {
            Phase::Run => incident.has_served,
            Phase::Stop => true,
            Phase::Spawn | Phase::Start | Phase::Remote => false,
        };
        (was_well || !goes_on, before)
    }

    fn recognised(&self, incident: &Incident, id: &str, before: Option<Moment>) -> Recognised {
        let mut state = locked(&self.0.shared.state);
        let pattern = state.book.patterns.get(id);
        let remedy = pattern
            .and_then(|pattern| pattern.remedy.as_ref())
            .map(|advice| {
                let credit = state.book.credit(&advice.id);
                Known {
                    id: advice.id.clone(),
                    text: advice.text.clone(),
                    worked: credit.worked,
                    passed: credit.passed,
                    own: advice.own,
                }
            });
        let moment = |of: fn(&Pattern) -> Moment| pattern.map(of).unwrap_or_default();
        let recognised = Recognised {
            id: id.to_owned(),
            count: pattern.map_or(1, |pattern| pattern.count),
            first_seen: moment(|pattern| pattern.first_seen),
            last_seen: moment(|pattern| pattern.last_seen),
            remedy,
            is_new: before.is_none(),
        };
        if let Some(local) = state.servers.get_mut(&*incident.server) {
            let known = Arc::new(recognised.clone());
            local.current = Some((incident.agent.clone(), known));
        }
        recognised
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_port_that_was_given_is_known_where_there_is_one() {
        let of = |env: &[(&str, &str)]| {
            let env = env.iter();
            let launch = Launch {
                env: env
                    .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
                    .collect(),
                ..Launch::default()
            };
            given_port(&launch).map(str::to_owned)
        };
        let some = |port: &str| Some(port.to_owned());
        assert_eq!(of(&[("PORT", "38999"), ("DB_PORT", "5432")]), some("38999"));
        assert_eq!(of(&[("MCP_PORT", "38999"), ("HOST", "1")]), some("38999"));
        assert_eq!(of(&[("A_PORT", "1"), ("B_PORT", "2")]), None);
        for value in ["", "0", "65536", "tcp://h:1"] {
            assert_eq!(of(&[("PORT", value)]), None);
        }
        assert_eq!(of(&[("SUPPORT", "12345")]), None);
    }
}
