//! Policies and overrides as the admin API shows them.

use chillgate_policies::engine::hours::spelled;
use serde_json::{Value, json};

use super::Sources;
use crate::overrides::{Moment, Override};
use crate::snapshot::Snapshot;
use crate::standing::Standing;

/// Every policy with the values that hold now, and who has the say on them.
pub(super) fn policies(sources: &Sources) -> Value {
    let snapshot = sources.live.pin();
    let running = sources.overrides.running();
    let all = snapshot.standings.iter();
    let all = all.map(|one| policy(sources, &snapshot, one, &running));
    json!({ "generation": snapshot.generation, "policies": all.collect::<Vec<_>>() })
}

fn policy(sources: &Sources, snapshot: &Snapshot, one: &Standing, running: &[Override]) -> Value {
    let mut shown = json!({ "policy": &*one.name, "type": one.kind, "values": one.values });
    let lines = snapshot.chain.policies();
    if let Some(line) = lines.into_iter().find(|line| line.name == *one.name) {
        shown["does"] = line.summary.into();
    }
    if let Some(hours) = &one.hours {
        shown["schedule"] = hours.as_str().into();
    }
    if let Some(until) = one.until {
        shown["scheduleChanges"] = spelled(until).into();
    }
    let own = running.iter().filter(|it| it.policy == one.name);
    let own: Vec<Value> = own.map(|it| self::one(sources, it)).collect();
    if !own.is_empty() {
        shown["overrides"] = own.into();
    }
    shown
}

/// Every override that runs.
pub(super) fn overrides(sources: &Sources) -> Value {
    let running = sources.overrides.running();
    let all: Vec<Value> = running.iter().map(|it| one(sources, it)).collect();
    json!({ "overrides": all })
}

/// One override.
pub(super) fn one(sources: &Sources, one: &Override) -> Value {
    let clock = &sources.services.clock;
    let at = Moment {
        now: clock.now(),
        wall: clock.wall(),
    };
    let mut shown = json!({
        "id": one.id,
        "policy": &*one.policy,
        "values": one.values,
        "by": one.by,
        "set": spelled(one.set()),
        "until": spelled(one.until(at)),
        "survivesRestart": sources.overrides.are_kept(),
    });
    if let Some(reason) = &one.reason {
        shown["reason"] = reason.as_str().into();
    }
    if let Some(trouble) = &one.trouble {
        shown["setAside"] = trouble.as_str().into();
    }
    shown
}
