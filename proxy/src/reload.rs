//! A changed configuration, taken over whole or not at all.
//!
//! Triggers are SIGHUP, a change in a directory that holds a configuration file (editors rename,
//! Kubernetes swaps a symlink), an administrator's order, and the hour at which a schedule says
//! something else. What fails changes nothing: the one before goes on. This is the only place that
//! publishes a snapshot.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use chillgate_policies::engine::Clock;
use notify::{RecursiveMode, Watcher};
use tokio::sync::mpsc;
use tracing::{error, info, warn};

use crate::ahead::Ahead;
use crate::clock::TokioClock;
use crate::config::Config;
use crate::config::load::{self, Loaded, Sources};
use crate::config::report::Report;
use crate::config::source::Step;
use crate::gate::Gate;
use crate::platform::Hangups;
use crate::route::merge::tell_changes;
use crate::service::Notices;
use crate::session::Scope;
use crate::snapshot::{Fixtures, Live, Snapshot, Unfit, deciding_lists};
use crate::telemetry::audit::Audit;
use crate::telemetry::metrics::Reload as Outcome;

/// Editors write in several steps; a change is read once it has been quiet for so long.
const QUIET: Duration = Duration::from_millis(150);
/// A file that is replaced is back after so long; one that is not is gone.
const SWAP: Duration = Duration::from_secs(1);
/// What still runs on servers that are gone may go on for so long.
const GRACE: Duration = Duration::from_secs(30);

mod orders;
mod switch;

pub use orders::{Desk, NewOverride, Refused};

use orders::Order;

/// Reads the configuration again whenever there is reason to.
pub struct Reloader {
    sources: Sources,
    live: Live,
    gate: Gate,
    fixtures: Fixtures,
    audit: Option<Arc<Audit>>,
    notices: Notices,
    orders: mpsc::Receiver<Order>,
    /// What was read last, before the hour and overrides have their say.
    raw: Config,
    seen: BTreeMap<PathBuf, Option<Vec<u8>>>,
    /// Files whose absence was told.
    gone: BTreeSet<PathBuf>,
    first: Arc<Config>,
}

impl Reloader {
    /// For what was loaded from `sources`.
    pub fn new(
        sources: Sources,
        loaded: &Loaded,
        live: Live,
        gate: Gate,
        fixtures: Fixtures,
        audit: Option<Arc<Audit>>,
        notices: Notices,
    ) -> (Self, Desk) {
        let seen = loaded
            .watch
            .iter()
            .map(|path| (path.clone(), std::fs::read(path).ok()))
            .collect();
        let first = live.pin().config.clone();
        let (desk, orders) = Desk::open();
        let reloader = Self {
            orders,
            raw: loaded.config.clone(),
            sources,
            live,
            gate,
            fixtures,
            audit,
            notices,
            seen,
            gone: BTreeSet::new(),
            first,
        };
        (reloader, desk)
    }

    /// Watches until the future is dropped.
    pub async fn run(mut self) {
        let (noticed, mut changes) = mpsc::channel(1);
        let watcher = self.watch(noticed);
        let Ok(mut hangups) = Hangups::listen() else {
            return;
        };
        // Whatever ended while nobody ran.
        self.switch();
        loop {
            let waking = self.until_other_values();
            tokio::select! {
                () = waking => self.switch(),
                Some(order) = self.orders.recv() => self.obey(order),
                () = hangups.next() => {
                    if let Some(audit) = &self.audit {
                        // What rotates logs sends this, too.
                        audit.reopen();
                    }
                    let _ = self.reload();
                }
                Some(()) = changes.recv() => {
                    tokio::time::sleep(QUIET).await;
                    while changes.try_recv().is_ok() {}
                    if self.has_changed() {
                        let _ = self.reload();
                    } else if !self.missing().is_empty() {
                        tokio::time::sleep(SWAP).await;
                        self.tell_missing();
                    }
                }
            }
            // The watcher lives as long as this loop.
            let _ = &watcher;
        }
    }

    /// Watches directories, not files: a file that is replaced is another file.
    fn watch(&self, changed: mpsc::Sender<()>) -> Option<notify::RecommendedWatcher> {
        let mut directories: Vec<PathBuf> = Vec::new();
        for path in self.seen.keys() {
            let parent = path
                .parent()
                .filter(|parent| !parent.as_os_str().is_empty());
            let parent = parent.map_or_else(|| PathBuf::from("."), std::path::Path::to_path_buf);
            if !directories.contains(&parent) {
                directories.push(parent);
            }
        }
        if directories.is_empty() {
            return None;
        }
        let names: Vec<OsString> = self
            .seen
            .keys()
            .filter_map(|path| path.file_name())
            .map(OsString::from)
            .collect();
        // Other files of these directories change too, an audit log with every batch. Names with
        // two dots are what Kubernetes swaps.
        let concerns = move |path: &PathBuf| {
            let name = path.file_name().unwrap_or_default();
            names.iter().any(|ours| ours == name) || name.as_encoded_bytes().starts_with(b"..")
        };
        let handler = move |event: notify::Result<notify::Event>| {
            if event.is_ok_and(|event| !event.kind.is_access() && event.paths.iter().any(&concerns))
            {
                let _ = changed.try_send(());
            }
        };
        let watching = notify::recommended_watcher(handler).and_then(|mut watcher| {
            for directory in &directories {
                watcher.watch(directory, RecursiveMode::NonRecursive)?;
            }
            Ok(watcher)
        });
        watching
            .inspect_err(|error| {
                warn!(%error, "Changes of the configuration are not noticed; send SIGHUP instead.");
            })
            .ok()
    }

    /// Whether any file says something else than when it was last read.
    fn has_changed(&mut self) -> bool {
        let mut changed = false;
        for (path, seen) in &mut self.seen {
            let now = std::fs::read(path).ok();
            // In the middle of a swap there is no file; the next event comes with it.
            if now.is_some() && now != *seen {
                *seen = now;
                changed = true;
            }
        }
        changed
    }

    /// Files that were there, are not, and nobody was told.
    fn missing(&mut self) -> Vec<PathBuf> {
        self.gone.retain(|path| !path.exists());
        let known = self.seen.iter().filter(|(_, seen)| seen.is_some());
        let missing = known.filter(|(path, _)| !path.exists() && !self.gone.contains(*path));
        missing.map(|(path, _)| path.clone()).collect()
    }

    fn tell_missing(&mut self) {
        for path in self.missing() {
            warn!(file = %path.display(), "A file of the configuration is gone; what it said before goes on until it is back.");
            self.gone.insert(path);
        }
    }

    fn reload(&mut self) -> Result<u64, Report> {
        self.notices.reloading();
        let outcome = self.try_reload();
        match &outcome {
            Ok(generation) => {
                self.fixtures
                    .metrics
                    .config_loaded(Outcome::Applied, TokioClock.wall());
                info!(generation, "Took the new configuration over.");
            }
            Err(report) => {
                self.fixtures
                    .metrics
                    .config_loaded(Outcome::Rejected, TokioClock.wall());
                error!(report = %report.render(false), "The new configuration is wrong; the old one goes on.");
            }
        }
        // With the old configuration, too: the reload is over.
        self.notices.ready();
        outcome
    }

    fn try_reload(&mut self) -> Result<u64, Report> {
        let loaded = load::load(&self.sources)?;
        for note in &loaded.notes {
            info!("{note}");
        }
        for path in &loaded.watch {
            self.seen.insert(path.clone(), std::fs::read(path).ok());
        }
        let previous = self.live.pin();
        let next = Snapshot::build(&loaded.config, Some(&previous), &self.fixtures)
            .map_err(|unfit| explain(&loaded, unfit))?;
        drop(previous);
        self.warn_of_restarts(&next.config);
        self.gate.set_memory(next.config.limits.memory);
        self.fixtures.incidents.set_own(&next.config.remedy);
        self.raw = loaded.config.clone();
        let generation = next.generation;
        let older = self.publish(next);
        self.fixtures.operations.take_over(&loaded.config);
        self.follow_up(older);
        Ok(generation)
    }

    /// Makes a snapshot the current one; hosts hear where their lists are others.
    fn publish(&self, next: Snapshot) -> Arc<Snapshot> {
        let older = self.live.publish(next);
        let now = self.live.pin();
        now.take_effect();
        if Arc::ptr_eq(&now.routes, &older.routes) {
            return older;
        }
        // A host that listens would hold on to what was before, and hear of no server after.
        older.routes.supersede();
        let names = |snapshot: &Snapshot| -> Vec<Arc<str>> {
            let servers = snapshot.routes.all().iter();
            servers.map(|server| server.name().clone()).collect()
        };
        let listed_anew = names(&now) != names(&older)
            || !now.dropped(&older).is_empty()
            || !deciding_lists(&older.config).eq(deciding_lists(&now.config));
        if listed_anew {
            for session in self.gate.sessions().all() {
                *session.learned() = crate::route::catalog::Learned::default();
                if matches!(session.scope, Scope::Merged(_)) {
                    tell_changes(&session);
                }
            }
        }
        older
    }

    /// New servers start, old ones end once nothing runs on them.
    fn follow_up(&self, older: Arc<Snapshot>) {
        let now = self.live.pin();
        let dropped = now.dropped(&older);
        let names = |snapshot: &Snapshot| -> Vec<Arc<str>> {
            snapshot
                .routes
                .all()
                .iter()
                .map(|server| server.name().clone())
                .collect()
        };
        // A call that waits for a start would wait for one that nobody wants.
        for server in &dropped {
            server.supersede();
        }
        // So that no host waits for the keys of an issuer.
        now.identities.warm();
        let configured = names(&now);
        let (ahead, fixtures) = (Ahead::of(&now, Some(&older)), self.fixtures.clone());
        self.fixtures
            .tasks
            .spawn(async move { ahead.start(&fixtures).await });
        self.fixtures.tasks.spawn(async move {
            let waited = async {
                // Exchanges that began before keep their snapshot; the last one lets go of it.
                while Arc::strong_count(&older) > 1 {
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            };
            let _ = tokio::time::timeout(GRACE, waited).await;
            for server in dropped {
                if configured.contains(server.name()) {
                    info!(server = %server.name(), "Ended the server as it was configured before.");
                } else {
                    info!(server = %server.name(), "Ended a server that is no longer configured.");
                }
                server.stop().await;
            }
        });
    }

    fn warn_of_restarts(&self, next: &Config) {
        let changed = [
            ("front", self.first.front != next.front),
            ("health", self.first.health != next.health),
            ("admin", self.first.admin != next.admin),
            ("audit", self.first.audit != next.audit),
            ("log", self.first.log != next.log),
            ("state", self.first.state != next.state),
        ];
        for (key, _) in changed.iter().filter(|(_, changed)| *changed) {
            warn!(
                key,
                "This part of the configuration needs a restart to change."
            );
        }
    }
}

/// The report of a configuration that loads but does not compile.
pub fn explain(loaded: &Loaded, unfit: Unfit) -> Report {
    match unfit {
        Unfit::Policies(mistakes) => loaded.policy_mistakes(&mistakes),
        Unfit::Other(path, message) => {
            let path: Vec<Step> = path.into_iter().map(Step::Key).collect();
            loaded.mistake(&path, &message, None)
        }
    }
}
