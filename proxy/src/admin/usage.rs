//! Usage: what is spent, and how it is given back, where it is counted.
//!
//! Counters are asked, never kept. A reset is recorded before it is done.

use chillgate_policies::engine::Event;
use http::StatusCode;
use serde_json::json;

use super::Sources;
use super::answer::{Answer, Query};
use crate::config::hint;
use crate::spent::Spent;
use crate::store::list::{Kept, Listing};
use crate::store::{StoreError, Target};

/// What is spent.
pub(super) async fn show(sources: &Sources, query: &Query<'_>) -> Answer {
    let names = match names(sources, query) {
        Ok(names) => names,
        Err(answer) => return answer,
    };
    match all(sources, &names, query).await {
        Ok(all) => Answer::ok(json!({ "usage": all })),
        Err(error) => away(&error),
    }
}

/// Gives back what `query` asks for.
pub(super) async fn reset(sources: &Sources, query: &Query<'_>, who: &str) -> Answer {
    let Some(policy) = &query.policy else {
        let help = "DELETE /api/v1/quota?policy=NAME, and &agent=NAME for one alone";
        let error = "what shall be given back is to be named";
        return Answer::refusal(StatusCode::BAD_REQUEST, error, Some(help));
    };
    let names = match names(sources, query) {
        Ok(names) => names,
        Err(answer) => return answer,
    };
    let given_back = match all(sources, &names, query).await {
        Ok(all) => all,
        Err(error) => return away(&error),
    };
    if let Some(audit) = &sources.services.audit {
        let event = Event {
            instance: &sources.services.instance,
            action: "quota-reset",
            by: who,
            policy: Some(policy),
            agent: query.agent.as_deref(),
            count: Some(given_back.len() as u64),
            ..Event::default()
        };
        if let Err(down) = audit.note(&event) {
            let status = StatusCode::SERVICE_UNAVAILABLE;
            return Answer::refusal(status, &down.to_string(), None);
        }
    }
    if let Err(error) = forget(sources, policy, query).await {
        return away(&error);
    }
    tracing::info!(%policy, agent = query.agent.as_deref(), by = who, count = given_back.len(), "Usage was given back.");
    Answer::ok(json!({ "reset": given_back }))
}

/// The policies that count, those that are meant.
fn names(sources: &Sources, query: &Query<'_>) -> Result<Vec<String>, Answer> {
    let snapshot = sources.live.pin();
    let all = snapshot.standings.iter();
    let counting = all.filter(|one| matches!(&*one.kind, "quota" | "boss-alert" | "chill"));
    let names: Vec<String> = counting.map(|one| one.name.to_string()).collect();
    let Some(wanted) = &query.policy else {
        return Ok(names);
    };
    if names.iter().any(|name| name == wanted) {
        return Ok(vec![wanted.to_string()]);
    }
    let known = || names.iter().map(String::as_str);
    let help = match hint::nearest(wanted, known()) {
        Some(near) => format!("did you mean `{near}`?"),
        None => format!("those that count are {}", hint::list(known())),
    };
    let error = format!("there is no policy {wanted:?} that counts");
    Err(Answer::refusal(StatusCode::NOT_FOUND, &error, Some(&help)))
}

async fn all(
    sources: &Sources,
    names: &[String],
    query: &Query<'_>,
) -> Result<Vec<Spent>, StoreError> {
    let agent = query.agent.as_deref();
    let mut found = offices(sources, names);
    let mut store = open(sources).await?;
    if let Some(store) = &mut store {
        for name in names {
            found.extend(store.of(name).await?.iter().map(Spent::of_kept));
        }
    } else {
        let ledger = &sources.services.local;
        let usage = ledger.usage();
        let usage = usage
            .iter()
            .filter(|it| names.iter().any(|name| name == it.bucket.policy()));
        found.extend(usage.map(Spent::of_usage));
        let alerts = ledger.alerts();
        let alerts = alerts
            .iter()
            .filter(|(it, _)| names.iter().any(|name| name == it.policy()));
        found.extend(alerts.map(|(bucket, level)| Spent::of_alert(bucket, *level)));
    }
    found.retain(|it| agent.is_none() || it.agent.as_deref() == agent);
    let key = |it: &Spent| {
        (
            it.policy.clone(),
            it.agent.clone(),
            it.server.clone(),
            it.tool.clone(),
        )
    };
    found.sort_by_cached_key(key);
    Ok(found)
}

/// Those who have been at ChillMCP.
fn offices(sources: &Sources, names: &[String]) -> Vec<Spent> {
    let snapshot = sources.live.pin();
    let offices = names
        .iter()
        .filter_map(|name| Some((name, snapshot.office(name)?)));
    let levels = offices.flat_map(|(name, office)| {
        let all = office.levels().into_iter();
        all.map(move |(agent, stress, alert)| Spent {
            policy: name.clone(),
            agent: Some(agent.to_string()),
            stress: Some(stress),
            alert: Some(alert),
            ..Spent::default()
        })
    });
    levels.collect()
}

async fn forget(sources: &Sources, policy: &str, query: &Query<'_>) -> Result<(), StoreError> {
    let agent = query.agent.as_deref();
    if let Some(office) = sources.live.pin().office(policy) {
        office.chill().reset(agent);
    }
    if let Some(mut store) = open(sources).await? {
        let fits = |kept: &Kept| agent.is_none() || kept.key.agent.as_deref() == agent;
        for kept in store.of(policy).await?.iter().filter(|kept| fits(kept)) {
            store.forget(policy, kept).await?;
        }
    }
    // Where a policy counts here while the store is away, too.
    let ledger = &sources.services.local;
    match agent {
        Some(agent) => ledger.forget_agent(policy, agent),
        None => ledger.forget(policy),
    };
    Ok(())
}

async fn open(sources: &Sources) -> Result<Option<Listing>, StoreError> {
    match Target::of(&sources.state) {
        None => Ok(None),
        Some(target) => Listing::open(&target, &sources.state.prefix)
            .await
            .map(Some),
    }
}

fn away(error: &StoreError) -> Answer {
    let error = format!("the store cannot be used: {error}");
    Answer::refusal(
        StatusCode::SERVICE_UNAVAILABLE,
        &error,
        Some("look at [state]"),
    )
}
