//! Policies of a configuration compiled only to be looked at, and their mistakes as a report.
//!
//! For `check` and `explain`: nothing counts, nothing is written, no call is ever admitted here.

use std::sync::Arc;

use chillgate_policies::engine::hours::spelled;
use chillgate_policies::engine::record::{AuditDown, AuditSink, Event, Record};
use chillgate_policies::engine::{Chain, Mistake, Services};

use crate::clock::TokioClock;
use crate::config::load::Loaded;
use crate::config::report::Report;
use crate::overrides::Overrides;
use crate::standing::{Now, Standing};

/// The chain `serve` would build of this configuration now, and who has the say on its values.
/// Overrides are a running chillgate's alone.
pub fn now(loaded: &Loaded) -> Result<(Chain, Vec<Standing>), Report> {
    let services = services(loaded);
    let told = |mistakes: Vec<Mistake>| loaded.policy_mistakes(&mistakes);
    Chain::build(&loaded.config.policy, &services).map_err(told)?;
    let wall = services.clock.wall();
    let now = Now::of(&loaded.config, &Overrides::default(), &services, wall);
    let chain = Chain::build(&now.config.policy, &services).map_err(told)?;
    Ok((chain, now.standings))
}

/// The chain alone.
pub fn chain(loaded: &Loaded) -> Result<Chain, Report> {
    now(loaded).map(|(chain, _)| chain)
}

/// What a schedule says of these values, where there is one.
pub(super) fn by_schedule(standings: &[Standing], name: &str) -> Option<String> {
    let one = standings.iter().find(|one| &*one.name == name)?;
    let next = one.until.map(spelled);
    match (&one.hours, next) {
        (None, None) => None,
        (None, Some(next)) => Some(format!(
            "its own values now; by its schedule others from {next}"
        )),
        (Some(hours), None) => Some(format!("by its schedule now: {hours}")),
        (Some(hours), Some(next)) => {
            Some(format!("by its schedule now: {hours}; others from {next}"))
        }
    }
}

/// Ports for looking only; with an audit log where the configuration has one.
pub(super) fn services(loaded: &Loaded) -> Services {
    let mut services = Services::new(Arc::new(TokioClock));
    services.audit = loaded
        .config
        .audit
        .as_ref()
        .map(|_| -> Arc<dyn AuditSink> { Arc::new(Nowhere) });
    services
}

/// An audit log that nothing is ever written to, because no call runs.
#[derive(Debug)]
struct Nowhere;

const ONLY_LOOKED_AT: &str = "nothing is recorded while policies are only looked at";

impl AuditSink for Nowhere {
    fn append(&self, _: &Record<'_>) -> Result<(), AuditDown> {
        Err(AuditDown(ONLY_LOOKED_AT.to_owned()))
    }

    fn note(&self, _: &Event<'_>) -> Result<(), AuditDown> {
        Err(AuditDown(ONLY_LOOKED_AT.to_owned()))
    }
}
