//! What chillgate's own process takes, as `/proc` shows it: memory, time, open files.

use prometheus::Registry;
use prometheus::process_collector::ProcessCollector;

/// Adds these families.
pub(super) fn register(registry: &Registry) {
    let process = ProcessCollector::for_self();
    registry
        .register(Box::new(process))
        .expect("the process metrics are registered once");
}
