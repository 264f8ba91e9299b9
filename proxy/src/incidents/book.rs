//! The memory itself: patterns of failures, what became of them, which remedies worked.
//!
//! It changes by events only, so that what two processes have seen can be put into one file in any
//! order and nothing is counted twice. It is bounded; it knows no file, no clock and no remedy's
//! words.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::Phase;
use super::environment::Environment;
use super::moment::Moment;
use super::remedies::Advice;
use crate::config::remedy::Check;

/// The most patterns kept.
pub const PATTERNS: usize = 500;
/// The most samples of one pattern.
pub const SAMPLES: usize = 3;
/// The most remedies of which is known how often they worked.
const CREDITS: usize = 256;
/// A server that has run again for so long is well; before that a failure in service may come back.
pub const SETTLED: Duration = Duration::from_mins(10);

/// Everything that is remembered.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Book {
    /// By their ids.
    #[serde(default)]
    pub patterns: BTreeMap<String, Pattern>,
    /// How often each remedy was followed by a good start.
    #[serde(default)]
    pub remedies: BTreeMap<String, Credit>,
}

/// Failures that are the same one.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Pattern {
    /// Its short name.
    pub id: String,
    /// The server.
    pub server: String,
    /// Whose process it was the last time, where each agent's gets something of its own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub agent: Option<String>,
    /// When it fails.
    pub phase: Phase,
    /// How it ends, in words; empty if it does not.
    #[serde(default)]
    pub ended: String,
    /// The line that told most, the last time.
    pub what: String,
    /// How many outages: from a failure to the next good start, or to the end of chillgate.
    pub count: u64,
    /// How many failures in all.
    pub attempts: u64,
    /// The first.
    pub first_seen: Moment,
    /// The last.
    pub last_seen: Moment,
    /// What to do.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub remedy: Option<Advice>,
    /// What to look at before the server is started.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub check: Option<Check>,
    /// Whether that looked bad after the last failure.
    #[serde(default)]
    pub check_failed: bool,
    /// What the server was started with the last time.
    #[serde(default)]
    pub environment: Environment,
    /// The last few, newest last.
    #[serde(default)]
    pub samples: Vec<Sample>,
    /// The good start after the last failure.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub recovery: Option<Recovery>,
    /// How often it went after something had been changed.
    #[serde(default)]
    pub worked: u64,
    /// How often it went by itself.
    #[serde(default)]
    pub passed: u64,
}

/// One failure as it was told, without secrets.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sample {
    /// When.
    pub at: Moment,
    /// What chillgate said.
    pub cause: String,
    /// What the server said last.
    #[serde(default)]
    pub words: Vec<String>,
}

/// A good start after a failure.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Recovery {
    /// When.
    pub at: Moment,
    /// What had been changed; empty: it passed by itself.
    #[serde(default)]
    pub changed: Vec<String>,
}

/// What a remedy came to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Credit {
    /// The server went again after something had been changed.
    #[serde(default)]
    pub worked: u64,
    /// It went again and nothing had been changed.
    #[serde(default)]
    pub passed: u64,
}

/// What happened.
#[derive(Clone, Debug)]
pub enum Event {
    /// A failure.
    Failed(Box<Failure>),
    /// What a pattern's check said after a failure.
    Checked {
        /// The pattern.
        id: String,
        /// It looked bad.
        failed: bool,
    },
    /// A good start.
    Recovered {
        /// The pattern.
        id: String,
        /// When.
        at: Moment,
        /// What had been changed.
        changed: Vec<String>,
    },
}

/// A failure, ready to be written down.
#[derive(Clone, Debug)]
pub struct Failure {
    /// Its pattern.
    pub id: String,
    /// The server.
    pub server: String,
    /// Whose process it was.
    pub agent: Option<String>,
    /// When it failed.
    pub phase: Phase,
    /// How it ended.
    pub ended: String,
    /// The line that tells most.
    pub what: String,
    /// Whether a new outage begins with it.
    pub is_new_outage: bool,
    /// What to do.
    pub remedy: Option<Advice>,
    /// What it was started with.
    pub environment: Environment,
    /// What was said.
    pub sample: Sample,
}

impl Pattern {
    /// All of it, as programs are told.
    pub fn told(&self, now: Moment) -> Value {
        let mut value = serde_json::to_value(self).unwrap_or_default();
        value["resolved"] = self.is_resolved(now).into();
        // Without hashes, which tell nobody anything.
        value["environment"] = json!({
            "program": self.environment.program,
            "variables": self.environment.variables.keys().collect::<Vec<_>>(),
            "folder": self.environment.folder,
            "chillgate": self.environment.chillgate,
            "kernel": self.environment.kernel,
        });
        value
    }

    /// Whether the failure is behind us.
    pub fn is_resolved(&self, now: Moment) -> bool {
        self.recovery
            .as_ref()
            .is_some_and(|recovery| match self.phase {
                Phase::Run | Phase::Stop => now >= recovery.at.plus(SETTLED),
                Phase::Spawn | Phase::Start | Phase::Remote => true,
            })
    }
}

impl Book {
    /// Writes down what happened.
    pub fn apply(&mut self, event: &Event) {
        match event {
            Event::Failed(failure) => self.fail(failure),
            Event::Checked { id, failed } => {
                if let Some(pattern) = self.patterns.get_mut(id) {
                    pattern.check_failed = *failed;
                }
            }
            Event::Recovered { id, at, changed } => self.recover(id, *at, changed),
        }
    }

    fn fail(&mut self, failure: &Failure) {
        let at = failure.sample.at;
        if !self.patterns.contains_key(&failure.id) {
            self.make_room(PATTERNS - 1, at);
        }
        let pattern = self.patterns.entry(failure.id.clone());
        let pattern = pattern.or_insert_with(|| Pattern {
            id: failure.id.clone(),
            server: failure.server.clone(),
            agent: None,
            phase: failure.phase,
            ended: failure.ended.clone(),
            what: String::new(),
            count: 0,
            attempts: 0,
            first_seen: at,
            last_seen: at,
            remedy: None,
            check: None,
            check_failed: false,
            environment: Environment::default(),
            samples: Vec::new(),
            recovery: None,
            worked: 0,
            passed: 0,
        });
        // It came back too soon to have been cured.
        let undone = pattern
            .recovery
            .take()
            .filter(|recovery| at < recovery.at.plus(SETTLED));
        if let Some(recovery) = &undone {
            let worked = !recovery.changed.is_empty();
            let mut total = Credit::default();
            let total = match &pattern.remedy {
                Some(advice) => self.remedies.get_mut(&advice.id).unwrap_or(&mut total),
                None => &mut total,
            };
            for count in if worked {
                [&mut pattern.worked, &mut total.worked]
            } else {
                [&mut pattern.passed, &mut total.passed]
            } {
                *count = count.saturating_sub(1);
            }
        }
        pattern.count += u64::from(failure.is_new_outage || pattern.count == 0);
        pattern.attempts += 1;
        pattern.first_seen = pattern.first_seen.min(at);
        pattern.last_seen = pattern.last_seen.max(at);
        pattern.agent.clone_from(&failure.agent);
        pattern.what.clone_from(&failure.what);
        pattern.check = failure
            .remedy
            .as_ref()
            .and_then(|advice| advice.check.clone());
        pattern.remedy.clone_from(&failure.remedy);
        pattern.environment.clone_from(&failure.environment);
        pattern.samples.push(failure.sample.clone());
        let excess = pattern.samples.len().saturating_sub(SAMPLES);
        pattern.samples.drain(..excess);
    }

    fn recover(&mut self, id: &str, at: Moment, changed: &[String]) {
        let Some(pattern) = self.patterns.get_mut(id) else {
            return;
        };
        // Another process has seen it fail since, or has seen this already.
        if pattern.recovery.is_some() || pattern.last_seen > at {
            return;
        }
        pattern.recovery = Some(Recovery {
            at,
            changed: changed.to_vec(),
        });
        let mut none = Credit::default();
        let is_known = |id: &String| self.remedies.contains_key(id);
        let credit = match &pattern.remedy {
            Some(advice) if is_known(&advice.id) || self.remedies.len() < CREDITS => {
                self.remedies.entry(advice.id.clone()).or_default()
            }
            _ => &mut none,
        };
        if changed.is_empty() {
            pattern.passed += 1;
            credit.passed += 1;
        } else {
            pattern.worked += 1;
            credit.worked += 1;
        }
    }

    /// What a remedy came to so far.
    pub fn credit(&self, remedy: &str) -> Credit {
        self.remedies.get(remedy).copied().unwrap_or_default()
    }

    /// In the order in which they are of use: not behind us first, then the latest first.
    pub fn in_order(&self, now: Moment) -> Vec<&Pattern> {
        let mut all: Vec<&Pattern> = self.patterns.values().collect();
        all.sort_by_key(|pattern| {
            (
                pattern.is_resolved(now),
                std::cmp::Reverse(pattern.last_seen),
            )
        });
        all
    }

    /// Drops patterns until so many are left.
    fn make_room(&mut self, most: usize, now: Moment) {
        while self.patterns.len() > most {
            let Some(last) = self.least_useful(now).into_iter().next() else {
                return;
            };
            self.patterns.remove(&last);
        }
    }

    /// Ids in the order in which they go where there is too much. Each server keeps its first few
    /// before another keeps its many: who can make one fail in a thousand ways must not make all
    /// others forgotten.
    fn least_useful(&self, now: Moment) -> Vec<String> {
        let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
        let ranked = self.in_order(now).into_iter().map(|pattern| {
            let rank = counts.entry(&pattern.server).or_default();
            *rank += 1;
            (*rank, &pattern.id)
        });
        let mut ranked: Vec<(usize, &String)> = ranked.collect();
        // Stable: within a rank the order stays.
        ranked.sort_by_key(|(rank, _)| *rank);
        ranked.into_iter().rev().map(|(_, id)| id.clone()).collect()
    }

    /// Drops samples, and then patterns, until the text is at most so long. What is of most use
    /// stays longest.
    pub fn fit(&mut self, most: usize, now: Moment) {
        self.make_room(PATTERNS, now);
        let size = |pattern: &Pattern| {
            // The id and the punctuation around it.
            serde_json::to_vec(pattern).map_or(0, |text| text.len()) + 16
        };
        let rest = serde_json::to_vec(&self.remedies).map_or(0, |text| text.len()) + 256;
        let order = self.least_useful(now);
        let mut total: usize = rest + self.patterns.values().map(size).sum::<usize>();
        for id in &order {
            if total <= most {
                return;
            }
            if let Some(pattern) = self.patterns.get_mut(id) {
                let before = size(pattern);
                let excess = pattern.samples.len().saturating_sub(1);
                pattern.samples.drain(..excess);
                total = total.saturating_sub(before) + size(pattern);
            }
        }
        for id in &order {
            if total <= most {
                return;
            }
            if let Some(pattern) = self.patterns.remove(id) {
                total = total.saturating_sub(size(&pattern));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(minutes: u64) -> Moment {
        Moment::default().plus(Duration::from_mins(minutes))
    }

    fn failed(id: &str, minutes: u64, is_new_outage: bool) -> Event {
        Event::Failed(Box::new(Failure {
            id: id.to_owned(),
            server: "a".to_owned(),
            agent: None,
            phase: Phase::Start,
            ended: "exit code 1".to_owned(),
            what: "Error: x".to_owned(),
            is_new_outage,
            remedy: Some(Advice {
                id: "port-in-use".to_owned(),
                own: false,
                text: "free it".to_owned(),
                check: None,
            }),
            environment: Environment::default(),
            sample: Sample {
                at: at(minutes),
                cause: "it closed its output".to_owned(),
                words: vec!["x".repeat(200); 8],
            },
        }))
    }

    fn recovered(id: &str, minutes: u64, changed: &[&str]) -> Event {
        Event::Recovered {
            id: id.to_owned(),
            at: at(minutes),
            changed: changed.iter().map(|it| (*it).to_owned()).collect(),
        }
    }

    fn book(events: &[Event]) -> Book {
        let mut book = Book::default();
        for event in events {
            book.apply(event);
        }
        book
    }

    #[test]
    fn failures_of_one_outage_are_one_and_each_is_counted_as_a_try() {
        let book = book(&[
            failed("p", 1, true),
            failed("p", 2, false),
            failed("p", 9, true),
        ]);
        let pattern = &book.patterns["p"];
        assert_eq!((pattern.count, pattern.attempts), (2, 3));
        assert_eq!((pattern.first_seen, pattern.last_seen), (at(1), at(9)));
        assert_eq!(pattern.samples.len(), 3);
        assert!(!pattern.is_resolved(at(100)));
    }

    #[test]
    fn who_fails_in_a_thousand_ways_makes_nobody_else_forgotten() {
        let mut book = book(&[failed("others", 1, true)]);
        book.patterns.get_mut("others").expect("it is there").server = "b".to_owned();
        for number in 0..PATTERNS as u64 * 2 {
            book.apply(&failed(&format!("p{number}"), 2 + number, true));
        }
        assert_eq!(book.patterns.len(), PATTERNS);
        assert!(book.patterns.contains_key("others"));
        book.fit(16 << 10, at(5000));
        assert!(book.patterns.len() < 50 && book.patterns.contains_key("others"));
    }

    #[test]
    fn a_remedy_is_credited_where_something_was_changed() {
        let mut book = book(&[failed("p", 1, true), recovered("p", 2, &["the program"])]);
        assert_eq!(
            book.credit("port-in-use"),
            Credit {
                worked: 1,
                passed: 0
            }
        );
        assert!(book.patterns["p"].is_resolved(at(2)));
        // Heard twice, it counts once.
        book.apply(&recovered("p", 3, &[]));
        assert_eq!(
            (book.patterns["p"].worked, book.patterns["p"].passed),
            (1, 0)
        );
        // Long after, it is another outage and the credit stays.
        book.apply(&failed("p", 60, true));
        book.apply(&recovered("p", 61, &[]));
        assert_eq!(
            book.credit("port-in-use"),
            Credit {
                worked: 1,
                passed: 1
            }
        );
    }

    #[test]
    fn what_comes_back_at_once_was_not_cured() {
        let book = book(&[
            failed("p", 1, true),
            recovered("p", 2, &["the program"]),
            failed("p", 3, true),
        ]);
        assert_eq!(book.credit("port-in-use"), Credit::default());
        assert_eq!(
            (book.patterns["p"].worked, book.patterns["p"].count),
            (0, 2)
        );
        assert!(!book.patterns["p"].is_resolved(at(100)));
    }

    #[test]
    fn an_old_good_start_does_not_hide_a_later_failure() {
        let book = book(&[failed("p", 5, true), recovered("p", 4, &[])]);
        assert!(!book.patterns["p"].is_resolved(at(100)));
    }

    #[test]
    fn a_failure_in_service_is_behind_us_after_ten_minutes() {
        let mut book = book(&[failed("p", 1, true), recovered("p", 2, &[])]);
        book.patterns.get_mut("p").expect("it is there").phase = Phase::Run;
        assert!(!book.patterns["p"].is_resolved(at(11)));
        assert!(book.patterns["p"].is_resolved(at(12)));
    }

    #[test]
    fn it_stays_within_its_bounds_and_drops_what_is_behind_us_first() {
        let mut book = Book::default();
        for n in 0..PATTERNS as u64 {
            book.apply(&failed(&format!("p{n}"), 100 + n, true));
        }
        book.apply(&recovered("p400", 1000, &[]));
        book.apply(&failed("one-more", 1001, true));
        assert_eq!(book.patterns.len(), PATTERNS);
        assert!(!book.patterns.contains_key("p400") && book.patterns.contains_key("p0"));
        book.apply(&failed("and-another", 1002, true));
        assert!(!book.patterns.contains_key("p0"));
        for _ in 0..3 {
            book.apply(&failed("p499", 1003, false));
        }
        let most = 300 << 10;
        book.fit(most, at(1004));
        let size = serde_json::to_vec(&book).expect("written").len();
        assert!(size <= most && size > most / 2, "{size}");
        assert!(book.patterns.contains_key("p499"));
    }
}
