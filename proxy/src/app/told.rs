//! What probes and metrics are told, put together at the moment they ask.
//!
//! Everything here reads what others keep; it changes nothing and waits for nothing.

use std::sync::Arc;

use chillgate_policies::engine::ledger::LocalLedger;

use crate::backend::{Backend, State};
use crate::health::endpoint::{EndpointState, Endpoints};
use crate::health::{self, ServerState};
use crate::incidents::Incidents;
use crate::overrides::Overrides;
use crate::replicas::Replicas;
use crate::snapshot::Live;
use crate::store::SharedLedger;
use crate::supervisor::usage;
use crate::telemetry::metrics::{
    BudgetLeft, ChildUsage, EndpointHealth, ReplicasHealth, ServerHealth, StoreHealth,
};

/// How all servers are, and what their processes take.
pub(super) fn children(live: &Live, incidents: &Incidents) -> Vec<ServerHealth> {
    let all: Vec<_> = live
        .pin()
        .routes
        .all()
        .iter()
        .map(|server| (server.clone(), server.children()))
        .collect();
    // One look at the processes for all of them.
    let keepers: Vec<u32> = all
        .iter()
        .flat_map(|(_, all)| all)
        .map(|it| it.pid)
        .collect();
    let mut usage = usage::of(&keepers).into_iter();
    all.into_iter()
        .map(|(server, children)| {
            let state = server.state();
            let is_held = incidents.held_back(server.name()).is_some();
            ServerHealth {
                server: server.name().clone(),
                up: match state {
                    State::Ready | State::Asleep => Some(true),
                    State::Looping(_) | State::Broken(_) => Some(false),
                    State::OnDemand if is_held => Some(false),
                    State::OnDemand | State::Starting => None,
                },
                looping: matches!(state, State::Looping(_)) && !is_held,
                asleep: server.asleep(),
                children: children
                    .into_iter()
                    .zip(usage.by_ref())
                    .map(|(child, usage)| ChildUsage {
                        pid: child.pid,
                        processes: usage.processes,
                        resident: usage.resident,
                        cpu: usage.cpu,
                        waiting: child.waiting,
                    })
                    .collect(),
            }
        })
        .collect()
}

/// The model endpoints that have been asked.
pub(super) fn endpoint_health(endpoints: &Endpoints) -> Vec<EndpointHealth> {
    let asked = endpoints.report().into_iter();
    asked
        .filter(|report| report.state != EndpointState::Unchecked)
        .map(|report| EndpointHealth {
            endpoint: report.name.into(),
            up: report.state == EndpointState::Up,
            latency: report.latency_ms.map(|ms| ms as f64 / 1000.0),
        })
        .collect()
}

/// Every quota policy there is, and each budget of theirs that is not full.
pub(super) fn budgets_left(live: &Live, ledger: &LocalLedger) -> Vec<BudgetLeft> {
    let policies = live.pin().chain.policies();
    let mut all: Vec<BudgetLeft> = policies
        .into_iter()
        .filter(|policy| policy.kind == "quota")
        .map(|policy| BudgetLeft {
            policy: policy.name.into(),
            share: 1.0,
        })
        .collect();
    let spent: Vec<BudgetLeft> = ledger
        .usage()
        .into_iter()
        .filter(|usage| {
            all.iter()
                .any(|known| *known.policy == *usage.bucket.policy())
        })
        .map(|usage| BudgetLeft {
            share: usage.remaining as f64 / usage.limit.burst().max(1) as f64,
            policy: usage.bucket.policy().into(),
        })
        .collect();
    all.extend(spent);
    all
}

/// Every quota policy that this replica has used, and what was left of it then: the budgets are the
/// store's.
pub(super) fn budgets_last_seen(live: &Live, store: &SharedLedger) -> Vec<BudgetLeft> {
    let policies = live.pin().chain.policies().into_iter();
    let quotas = policies.filter(|policy| policy.kind == "quota");
    let seen = quotas.filter_map(|policy| {
        let share = store.left(&policy.name)?;
        Some(BudgetLeft {
            policy: policy.name.into(),
            share,
        })
    });
    seen.collect()
}

/// How many overrides each policy has.
pub(super) fn overrides_running(live: &Live, overrides: &Overrides) -> Vec<(Arc<str>, usize)> {
    let running = overrides.running();
    let count = |name: &Arc<str>| running.iter().filter(|one| one.policy == *name).count();
    let snapshot = live.pin();
    let names = snapshot.standings.iter().map(|one| one.name.clone());
    names.map(|name| (name.clone(), count(&name))).collect()
}

/// How the store is that replicas share.
pub(super) fn store_health(live: &Live, store: &SharedLedger, replicas: &Replicas) -> StoreHealth {
    let policies = live.pin().chain.policies().into_iter();
    let counting = policies.filter(|policy| matches!(policy.kind, "quota" | "boss-alert"));
    let link = store.link();
    StoreHealth {
        policies: counting.map(|policy| policy.name.into()).collect(),
        is_away: link.down().is_some(),
        errors: link.errors().to_vec(),
        emptied: link.emptied(),
        replicas: replicas.is_shared().then(|| ReplicasHealth {
            count: replicas.count(),
            forwards: replicas.forwards().counts(),
        }),
    }
}

/// How a server is, and what is known of its failures.
pub(super) fn server_state(server: &Arc<dyn Backend>, incidents: &Incidents) -> ServerState {
    let held = incidents.held_back(server.name());
    let now = server.state();
    let (state, error) = match now.clone() {
        // It has failed by what it is held back for now.
        State::OnDemand | State::Looping(_) | State::Broken(_) if held.is_some() => {
            (health::State::HeldBack, None)
        }
        State::OnDemand => (health::State::Idle, None),
        State::Starting => (health::State::Starting, None),
        State::Ready => (health::State::Up, None),
        State::Asleep => (health::State::Asleep, None),
        State::Looping(cause) => (health::State::CrashLoop, Some(cause)),
        State::Broken(cause) => (health::State::Down, Some(cause)),
    };
    let has_failed = matches!(now, State::Looping(_) | State::Broken(_));
    let incident = has_failed
        .then(|| incidents.latest(server.name()))
        .flatten();
    let remedy = incident.as_ref().and_then(|known| known.remedy.as_ref());
    let remedy = remedy.map(|remedy| remedy.text.clone());
    let (error, remedy) = match held.filter(|_| state == health::State::HeldBack) {
        Some(finding) => (Some(finding.says), finding.advice),
        None => (error, remedy),
    };
    ServerState {
        name: server.name().to_string(),
        state,
        error,
        remedy,
        incident,
        preflight: incidents.findings(server.name()),
    }
}
