//! Other values at another hour: schedules change over, overrides end, and both are told.
//!
//! One timer, for the next change there is. It is woken once a minute besides, because a calendar
//! that somebody sets wakes nobody; what is found then is compared, and only what differs is built.

use std::time::{Duration, SystemTime};

use chillgate_policies::engine::Event;
use tracing::{error, info, warn};

use super::Reloader;
use crate::config::{Config, Server};
use crate::overrides::Moment;
use crate::snapshot::Snapshot;
use crate::standing::Now;

/// The longest that a changed calendar is not noticed, and an end waits to be recorded.
const LONGEST: Duration = Duration::from_mins(1);
/// How soon it is looked again after what is overdue.
const SHORTEST: Duration = Duration::from_secs(1);

impl Reloader {
    pub(super) fn moment(&self) -> Moment {
        let clock = &self.fixtures.services.clock;
        Moment {
            now: clock.now(),
            wall: clock.wall(),
        }
    }

    /// Resolves when values may be others than those that hold.
    pub(super) fn until_other_values(&self) -> impl Future<Output = ()> + use<> {
        let at = self.moment();
        let overrides = &self.fixtures.overrides;
        let schedule = Now::change(&self.live.pin().standings);
        // What should have changed already and has not is no reason to look at nothing else.
        let wait = |then: SystemTime| then.duration_since(at.wall).unwrap_or(SHORTEST);
        let by_schedule = schedule.map(wait);
        let by_override = overrides.next(at);
        let unrecorded = (!overrides.unrecorded().is_empty()).then_some(LONGEST);
        let waits = [by_schedule, by_override, unrecorded].into_iter().flatten();
        // A timer fires in whole milliseconds; one more is surely past the moment.
        let next = waits
            .min()
            .map(|wait| wait.min(LONGEST) + Duration::from_millis(1));
        async move {
            match next {
                Some(wait) => tokio::time::sleep(wait).await,
                None => std::future::pending().await,
            }
        }
    }

    /// Takes over the values that hold now, where they are others, and records what is over.
    pub(super) fn switch(&mut self) {
        let at = self.moment();
        let overrides = self.fixtures.overrides.clone();
        overrides.expire(at);
        let services = &self.fixtures.services;
        let now = Now::of(&self.raw, &overrides, services, at.wall);
        let previous = self.live.pin();
        if now.standings != previous.standings || !same(&now.config, &previous.config) {
            match Snapshot::at_another_time(now, &previous, &self.fixtures) {
                Ok(next) => {
                    let changed = next.standings.iter().filter(|one| {
                        let was = previous.standings.iter().find(|was| was.name == one.name);
                        was.is_none_or(|was| was.values != one.values)
                    });
                    let names: Vec<&str> = changed.map(|one| &*one.name).collect();
                    if !names.is_empty() {
                        let generation = next.generation;
                        info!(generation, policies = %names.join(", "), "Other values hold from now on.");
                    }
                    drop(self.publish(next));
                }
                // Each of them was tried when it came.
                Err(unfit) => error!(?unfit, "The values of this hour cannot be taken over."),
            }
        }
        self.record_ends();
    }

    /// Writes down which overrides are over; what cannot be written is tried again.
    fn record_ends(&self) {
        let overrides = &self.fixtures.overrides;
        for one in overrides.unrecorded() {
            let Some(over) = &one.over else { continue };
            let values = one.values.into();
            let event = Event {
                action: "override-end",
                by: &over.by,
                policy: Some(&one.policy),
                id: Some(&one.id),
                values: Some(&values),
                reason: Some(&over.reason),
                ..self.event()
            };
            match self.record(&event) {
                Ok(()) => {
                    let (id, policy, by) = (&one.id, &one.policy, &over.by);
                    info!(id, %policy, by, reason = over.reason, "An override is over.");
                    overrides.forget(&one.id);
                }
                Err(error) => warn!(%error, "The end of an override cannot be recorded yet."),
            }
        }
    }
}

/// Whether two configurations of the same file have the same values.
fn same(a: &Config, b: &Config) -> bool {
    let offices = |config: &Config| -> Vec<_> {
        let servers = config.server.values().cloned();
        let offices = servers.filter(|server| matches!(server, Server::Builtin(_)));
        offices.collect()
    };
    a.policy == b.policy && offices(a) == offices(b)
}
