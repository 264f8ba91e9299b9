//! Policies of a configuration compiled only to be looked at, and their mistakes as a report.
//!
//! For `check` and `explain`: nothing counts, nothing is written, no call is ever admitted here.

use std::sync::Arc;

use chillgate_policies::engine::record::{AuditDown, AuditSink, Record};
use chillgate_policies::engine::{Chain, Services};

use crate::clock::TokioClock;
use crate::config::load::Loaded;
use crate::config::report::Report;

/// The chain `serve` would build of this configuration.
pub fn chain(loaded: &Loaded) -> Result<Chain, Report> {
    let services = services(loaded);
    Chain::build(&loaded.config.policy, &services)
        .map_err(|mistakes| loaded.policy_mistakes(&mistakes))
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

impl AuditSink for Nowhere {
    fn append(&self, _: &Record<'_>) -> Result<(), AuditDown> {
        Err(AuditDown(
            "nothing is recorded while policies are only looked at".to_owned(),
        ))
    }
}
