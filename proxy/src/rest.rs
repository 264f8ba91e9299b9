//! The whole gateway at rest: nobody has called for so long that all servers may sleep.
//!
//! Looks whether anybody calls, tells the servers, and says so. What sleep is, and who must not be
//! put to it, is each server's own matter.

use std::time::Duration;

use tokio::time::{Instant, sleep};
use tracing::info;

use crate::gate::Gate;

/// Longest and shortest time between two looks.
const SELDOM: Duration = Duration::from_secs(5);
const OFTEN: Duration = Duration::from_millis(100);

/// Watches for as long as it runs.
pub async fn watch(gate: Gate) {
    let (mut requests, mut since) = (gate.requests(), Instant::now());
    let mut resting = false;
    loop {
        let after = gate.snapshot().config.rest.after;
        let every = after.map_or(SELDOM, |after| (after / 8).clamp(OFTEN, SELDOM));
        sleep(every).await;
        if gate.requests() != requests || gate.drain().running() > 0 {
            (requests, since) = (gate.requests(), Instant::now());
            if std::mem::take(&mut resting) {
                gate.metrics().resting(false);
                info!("Somebody calls; the rest is over.");
            }
            continue;
        }
        if resting || after.is_none_or(|after| since.elapsed() < after) {
            continue;
        }
        resting = true;
        gate.metrics().resting(true);
        info!(
            idle_seconds = since.elapsed().as_secs(),
            "Nobody has called for long; resting."
        );
        let servers = gate.snapshot();
        let going = servers.routes.all().iter().map(|server| server.sleep());
        futures_util::future::join_all(going).await;
    }
}
