//! The end: when it comes, and in which order things end.
//!
//! Not ready any more; then nothing new; then what runs may finish and every host gets its answer; then
//! servers end, and last what was written is flushed. Who is told how is each part's own matter.

use std::time::Duration;

use tokio::sync::oneshot;
use tokio::task::JoinSet;
use tracing::{error, info, warn};

use super::App;
use crate::config::DRAIN;
use crate::exchange::Ended;
use crate::platform::Stops;

/// How long load balancers take to hear that chillgate is not ready any more.
const LINGER: Duration = Duration::from_secs(5);

/// So long may the end of all sessions take, once what ran is over.
const FAREWELL: Duration = Duration::from_secs(3);

impl App {
    /// A signal (on Windows a key), or the end of the only host's input.
    pub(super) async fn until_told(&self, host: Option<oneshot::Receiver<std::io::Result<()>>>) {
        let Ok(mut stops) = Stops::listen() else {
            return;
        };
        let host = async {
            match host {
                Some(host) => host.await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            how = stops.next() => info!("Told to stop ({how})."),
            ended = host => match ended {
                Ok(Ok(())) => info!("The host has closed its end."),
                Ok(Err(error)) => warn!(%error, "The host's pipe broke."),
                Err(_) => error!("What serves the host has failed."),
            },
        }
    }

    /// Not ready; then nothing new; then what runs may finish and every host gets its answer; then
    /// servers end.
    ///
    /// # Errors
    /// When audit records are lost with this process.
    pub(super) async fn stop(
        self,
        mut running: JoinSet<()>,
        mut serving: JoinSet<()>,
    ) -> Result<(), String> {
        let drain = self.gate.drain().clone();
        let (linger, deadline) = self.patience();
        let second = async {
            match Stops::listen() {
                Ok(mut stops) => stops.next().await,
                Err(_) => std::future::pending().await,
            }
        };
        drain.linger();
        let waiting = async {
            tokio::time::sleep(linger).await;
            // Hosts of its sessions that reach another replica hear there that this one is no more,
            // and not that it cannot be reached.
            self.gate.replicas().leave().await;
            drain.refuse();
            drain.until_idle().await;
            while serving.join_next().await.is_some() {}
        };
        tokio::select! {
            () = waiting => {}
            () = tokio::time::sleep(deadline) => {
                warn!(running = drain.running(), "The time to finish is used up; the rest is told.");
            }
            _ = second => warn!(running = drain.running(), "Told to stop twice; the rest is told."),
        }
        drain.refuse();
        let sessions = self.gate.sessions().all();
        let closing = sessions.iter().map(|it| self.gate.close(it, Ended::Drain));
        // One whose server is just being started waits for that; the servers' own end does not.
        let closed = tokio::time::timeout(FAREWELL, futures_util::future::join_all(closing));
        if closed.await.is_err() {
            warn!(
                "Some sessions could not be closed in time; their servers are ended with the rest."
            );
        }
        // The last answers are still to be written.
        let written = async { while serving.join_next().await.is_some() {} };
        let _ = tokio::time::timeout(Duration::from_secs(1), written).await;
        serving.shutdown().await;
        running.shutdown().await;
        let servers = self.live.pin();
        let stopping = servers.routes.all().iter().map(|server| server.stop());
        futures_util::future::join_all(stopping).await;
        self.fixtures.tasks.close();
        // A server that is deaf to everything takes 6 s to end.
        if tokio::time::timeout(Duration::from_secs(8), self.fixtures.tasks.wait())
            .await
            .is_err()
        {
            error!("Some tasks did not end.");
        }
        self.fixtures.incidents.flush();
        if let Some(audit) = &self.audit
            && let Err(error) = audit.flush(Duration::from_secs(2))
        {
            error!(%error, "The audit log is not complete.");
            return Err(format!("error: the audit log is not complete: {error}"));
        }
        info!("Stopped.");
        Ok(())
    }

    /// Where an orchestrator says how long it waits, its time less 5 s (less 1 s if it is short).
    pub(super) fn patience(&self) -> (Duration, Duration) {
        let grace = std::env::var("TERMINATION_GRACE_PERIOD_SECONDS").ok();
        let grace = grace.and_then(|text| text.parse::<u64>().ok());
        let configured = self.live.pin().config.limits.drain;
        match grace {
            None => (Duration::ZERO, configured.unwrap_or(DRAIN)),
            Some(grace) => {
                let margin = if grace <= 10 { 1 } else { 5 };
                let deadline = Duration::from_secs(grace.saturating_sub(margin).max(1));
                let deadline = configured.unwrap_or(deadline);
                (LINGER.min(deadline / 2), deadline)
            }
        }
    }
}
