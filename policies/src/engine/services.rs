//! What the world hands to policies: ports and the state that outlives configurations.
//!
//! One value, made once by the proxy and given to every chain that is built. Policies reach nothing
//! that is not in here, and open nothing themselves.

use std::fmt::Debug;
use std::sync::Arc;
use std::time::Duration;

use super::clock::Clock;
use super::ledger::{Ledger, LocalLedger};
use super::record::AuditSink;
use super::rooms::Rooms;
use super::slots::Slots;

/// The ports.
#[derive(Clone, Debug)]
pub struct Services {
    /// Time.
    pub clock: Arc<dyn Clock>,
    /// Counters; in this process or shared by replicas.
    pub ledger: Arc<dyn Ledger>,
    /// Counters of this process alone, for policies told to count here while the shared store is
    /// away. May be the same as `ledger`.
    pub local: Arc<LocalLedger>,
    /// Where calls wait for their turn at a budget.
    pub rooms: Rooms,
    /// Slots of running calls.
    pub slots: Slots,
    /// Where audit records go; none: nobody asked for them.
    pub audit: Option<Arc<dyn AuditSink>>,
    /// Where decisions are counted.
    pub meter: Arc<dyn Meter>,
    /// Who writes audit records: the pod's or host's name.
    pub instance: Arc<str>,
}

impl Services {
    /// Counting in this process, no audit, no metrics: what `check` and `explain` need, and a base
    /// to set the other ports on.
    pub fn new(clock: Arc<dyn Clock>) -> Self {
        let local = Arc::new(LocalLedger::new(Arc::clone(&clock)));
        Self {
            clock,
            ledger: Arc::<LocalLedger>::clone(&local),
            local,
            rooms: Rooms::default(),
            slots: Slots::default(),
            audit: None,
            meter: Arc::new(Unmetered),
            instance: "chillgate".into(),
        }
    }
}

/// Counts what policies decide.
pub trait Meter: Debug + Send + Sync {
    /// The handle of one policy; asked once, when the chain is built.
    fn policy(&self, name: &str, kind: &'static str) -> Arc<dyn Tally>;
}

/// The counters of one policy. On the path of every call: must not allocate or block.
pub trait Tally: Debug + Send + Sync {
    /// One decision. `decision`: `admit`, `delay`, `reject`, `cancel`, and `shadow_delay`,
    /// `shadow_reject` for what a policy in shadow mode would have done. `reason`: `none`, or a
    /// refusal's reason.
    fn decided(&self, decision: &'static str, reason: &'static str);

    /// How long it held a call, in the end.
    fn delayed(&self, span: Duration);

    /// It holds a call from now on (true), or does not any more.
    fn holds(&self, one_more: bool);
}

/// Counts nothing.
#[derive(Clone, Copy, Debug)]
pub struct Unmetered;

impl Meter for Unmetered {
    fn policy(&self, _: &str, _: &'static str) -> Arc<dyn Tally> {
        Arc::new(Self)
    }
}

impl Tally for Unmetered {
    fn decided(&self, _: &'static str, _: &'static str) {}

    fn delayed(&self, _: Duration) {}

    fn holds(&self, _: bool) {}
}
