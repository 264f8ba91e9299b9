//! Servers are started before anybody calls them, but for those that would only fail again.
//!
//! What made a server fail before is looked at first. Where it is still there the server is held
//! back, and looked at again by itself until it is gone. Looking is the memory's, starting the
//! backend's; a call that comes meanwhile starts the server all the same.

use std::sync::{Arc, Weak};
use std::time::Duration;

use tracing::{info, warn};

use crate::backend::stdio::Child;
use crate::backend::{Backend, State};
use crate::config::Server;
use crate::incidents::Finding;
use crate::snapshot::{Fixtures, Snapshot};

/// How long a look may take: a disk that does not answer must not keep the others from starting.
const PATIENCE: Duration = Duration::from_secs(5);
/// From one look at a server that is held back to the next: twice as long each time, at most
/// [`SELDOM`].
const SOON: Duration = Duration::from_millis(500);
const SELDOM: Duration = Duration::from_secs(30);

/// What a generation has to start.
pub struct Ahead {
    /// Servers that the generation before did not have, or not like this.
    fresh: Vec<One>,
    /// Those that it had.
    kept: Vec<One>,
    /// Names of those that only it had.
    gone: Vec<Arc<str>>,
}

struct One {
    name: Arc<str>,
    server: Weak<dyn Backend>,
    /// How its process would be started, where it is one.
    child: Option<Arc<Child>>,
}

impl Ahead {
    /// Of the servers of `now`, when there was `before`.
    pub fn of(now: &Snapshot, before: Option<&Snapshot>) -> Self {
        let gone = before.map(|before| now.dropped(before));
        let is_kept = |server: &Arc<dyn Backend>| {
            let mut all = before.iter().flat_map(|before| before.routes.all());
            all.any(|other| Arc::ptr_eq(other, server))
        };
        let one = |server: &Arc<dyn Backend>| {
            let mut all = now.config.server.iter();
            let found = all.find(|(name, _)| name.as_str() == &**server.name());
            One {
                name: server.name().clone(),
                server: Arc::downgrade(server),
                child: match found {
                    Some((_, Server::Command(command))) => {
                        Some(Arc::new(Child::new(command.clone())))
                    }
                    _ => None,
                },
            }
        };
        let (kept, fresh): (Vec<_>, Vec<_>) = now.routes.all().iter().partition(|it| is_kept(it));
        let gone = gone.unwrap_or_default();
        Self {
            fresh: fresh.into_iter().map(one).collect(),
            kept: kept.into_iter().map(one).collect(),
            gone: gone.iter().map(|server| server.name().clone()).collect(),
        }
    }

    /// Looks, and starts what would not fail. Comes back once all has been looked at.
    pub async fn start(self, fixtures: &Fixtures) {
        for name in &self.gone {
            for check in fixtures.incidents.void(name) {
                fixtures.metrics.preflight(name, check, 0);
            }
        }
        let children: Vec<_> = self.fresh.iter().filter_map(One::child).collect();
        let found = look(children, fixtures).await.unwrap_or_else(|| {
            warn!("What went wrong before could not be looked at in time.");
            Vec::new()
        });
        found.iter().for_each(tell);
        for one in self.kept {
            // One that is held back has somebody who looks at it.
            if fixtures.incidents.held_back(&one.name).is_none() {
                fixtures.tasks.spawn(one.start(fixtures.clone(), false));
            }
        }
        for one in self.fresh {
            let is_held = fixtures.incidents.held_back(&one.name).is_some();
            fixtures.tasks.spawn(one.start(fixtures.clone(), is_held));
        }
    }
}

impl One {
    fn child(&self) -> Option<(Arc<str>, Arc<Child>)> {
        Some((self.name.clone(), self.child.clone()?))
    }

    /// Starts the server, as often as it takes; the pauses between two tries are its own matter. Held
    /// back from the beginning, or once it has failed by what a look would find again.
    async fn start(self, fixtures: Fixtures, mut is_held: bool) {
        let mut pause = SOON;
        loop {
            if is_held {
                if !self.hold(&fixtures).await {
                    return;
                }
                pause = SOON;
            }
            let Some(server) = self.server.upgrade() else {
                return self.forget(&fixtures);
            };
            server.warm().await;
            if !matches!(server.state(), State::Broken(_) | State::Looping(_)) {
                return;
            }
            // Whoever drops it in the meantime has the last one.
            drop(server);
            is_held = self.would_fail_again(&fixtures).await;
            if !is_held {
                tokio::select! {
                    () = tokio::time::sleep(pause) => {}
                    () = fixtures.drain.until_refusing() => return,
                }
                pause = (pause * 2).min(SELDOM);
            }
        }
    }

    /// Whether what it has just failed by is still there to be seen.
    async fn would_fail_again(&self, fixtures: &Fixtures) -> bool {
        let is_known = !fixtures.incidents.findings(&self.name).is_empty();
        let found = look(self.child().into_iter().collect(), fixtures).await;
        let found = found.unwrap_or_default();
        if let Some(finding) = found.iter().find(|finding| finding.failing) {
            tell(finding);
            return true;
        }
        // That nothing has changed in this moment says nothing.
        if !is_known {
            self.forget(fixtures);
        }
        false
    }

    /// What was found is void; also what a look found that ended after the server was taken out.
    fn forget(&self, fixtures: &Fixtures) {
        for check in fixtures.incidents.void(&self.name) {
            fixtures.metrics.preflight(&self.name, check, 0);
        }
    }

    /// Looks again until what keeps the server from starting is gone. False where there is nothing to
    /// start any more.
    async fn hold(&self, fixtures: &Fixtures) -> bool {
        let mut pause = SOON;
        loop {
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                () = fixtures.drain.until_refusing() => return false,
            }
            pause = (pause * 2).min(SELDOM);
            let Some(server) = self.server.upgrade() else {
                self.forget(fixtures);
                return false;
            };
            // A call has started it.
            if matches!(server.state(), State::Ready | State::Asleep) {
                return false;
            }
            drop(server);
            let found = look(self.child().into_iter().collect(), fixtures).await;
            if found.is_some_and(|found| !found.iter().any(|finding| finding.failing)) {
                break;
            }
        }
        info!(server = %self.name, "What kept the server from starting is gone; starting it.");
        true
    }
}

fn tell(finding: &Finding) {
    warn!(server = %finding.server, check = finding.check, incident = %finding.incident,
        remedy = finding.remedy.as_deref(), cause = %finding.says, advice = finding.advice.as_deref(),
        held_back = finding.failing, "Found what made the server fail before.");
}

/// What is found of these servers now, which metrics say from now on; nothing where it takes too
/// long.
async fn look(children: Vec<(Arc<str>, Arc<Child>)>, fixtures: &Fixtures) -> Option<Vec<Finding>> {
    let names: Vec<_> = children.iter().map(|(name, _)| name.clone()).collect();
    let before = names
        .iter()
        .flat_map(|name| fixtures.incidents.findings(name));
    let before: Vec<Finding> = before.collect();
    let incidents = fixtures.incidents.clone();
    let looking = tokio::task::spawn_blocking(move || {
        let candidates = children.iter();
        let candidates = candidates.filter_map(|(name, child)| child.candidate(name, &incidents));
        let candidates: Vec<_> = candidates.collect();
        incidents.preflight(&candidates)
    });
    let found = tokio::time::timeout(PATIENCE, looking).await.ok()?.ok()?;
    for finding in before.iter().chain(&found) {
        let of_kind =
            |other: &&Finding| other.server == finding.server && other.check == finding.check;
        let count = found.iter().filter(of_kind).count();
        fixtures
            .metrics
            .preflight(&finding.server, finding.check, count);
    }
    Some(found)
}
