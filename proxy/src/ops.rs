//! Operations: what the built-in server `ops` tells about this chillgate, and what it has done.
//!
//! The one implementation of that server's port. It looks at the gate and the machine and changes
//! neither; programs are run by the supervisor and files touched by `ops/files.rs`, only where the
//! configuration lists them.

use std::path::PathBuf;
use std::sync::{Arc, OnceLock};
use std::time::Instant;

use arc_swap::ArcSwap;
use async_trait::async_trait;
use chillgate_ops::{Plan, Refused, Runbook as Listed, Site};
use chillgate_policies::engine::Clock;
use serde_json::{Map, Value};
use tokio::sync::watch;
use tokio_util::task::TaskTracker;

use crate::clock::TokioClock;
use crate::config::Config;
use crate::config::runbook::{Runbook, Work};
use crate::gate::Gate;
use crate::health::endpoint::Endpoints;
use crate::incidents::{Incidents, Moment, Pattern};
use crate::supervisor::runbook::Runner;
use crate::telemetry::metrics::Metrics;

mod command;
#[cfg_attr(not(target_os = "linux"), path = "ops/files/elsewhere.rs")]
mod files;
mod listing;
mod machine;
mod situation;

/// What outlives generations of the configuration; clones are the same.
#[derive(Clone)]
pub struct Operations(Arc<Inner>);

struct Inner {
    began: Instant,
    gate: OnceLock<Gate>,
    folder: OnceLock<Option<PathBuf>>,
    runbooks: ArcSwap<Vec<Arc<Runbook>>>,
    changed: watch::Sender<u64>,
    endpoints: Endpoints,
    incidents: Incidents,
    runner: Runner,
    writing: files::Writing,
}

impl std::fmt::Debug for Operations {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Operations")
    }
}

impl Operations {
    /// Nothing is known or allowed yet.
    pub fn new(metrics: Arc<Metrics>, tasks: TaskTracker, incidents: Incidents) -> Self {
        Self(Arc::new(Inner {
            began: TokioClock.now(),
            gate: OnceLock::new(),
            folder: OnceLock::new(),
            runbooks: ArcSwap::default(),
            changed: watch::Sender::new(0),
            endpoints: Endpoints::default(),
            incidents,
            runner: Runner::new(tasks, metrics),
            writing: files::Writing::default(),
        }))
    }

    /// Names the gate it tells about. The first call counts.
    pub fn watch(&self, gate: &Gate) {
        let _ = self.0.gate.set(gate.clone());
    }

    /// The runbooks and endpoints of a configuration that is in force from now on.
    pub fn take_over(&self, config: &Config) {
        let before = self.0.runbooks.load();
        let same = before.len() == config.runbook.len()
            && before.iter().zip(&config.runbook).all(|(a, b)| **a == *b);
        if !same {
            let next = config.runbook.iter().cloned().map(Arc::new).collect();
            self.0.runbooks.store(Arc::new(next));
            self.0.changed.send_modify(|count| *count += 1);
        }
        self.0.endpoints.take_over(&config.endpoint);
    }

    /// The model endpoints that are watched.
    pub fn endpoints(&self) -> &Endpoints {
        &self.0.endpoints
    }

    /// The runbook that a tool belongs to, as far as this agent may know.
    fn runbook(&self, tool: &str, agent: &str) -> Option<Arc<Runbook>> {
        let runbooks = self.0.runbooks.load();
        runbooks
            .iter()
            .filter(|runbook| has(runbook, agent))
            .find(|runbook| runbook.tools().iter().any(|name| name == tool))
            .cloned()
    }
}

fn has(runbook: &Runbook, agent: &str) -> bool {
    let agents = runbook.agents.as_ref();
    agents.is_none_or(|agents| agents.has(agent))
}

#[async_trait]
impl Site for Operations {
    fn situation(&self) -> Value {
        self.look()
    }

    fn servers(&self) -> Vec<Value> {
        self.server_states()
    }

    fn incidents(&self, server: Option<&str>) -> Vec<Value> {
        let now = Moment::now();
        let patterns = self.0.incidents.patterns();
        let of_server = |pattern: &&Pattern| server.is_none_or(|server| server == pattern.server);
        let patterns = patterns.iter().filter(of_server);
        patterns.map(|pattern| pattern.told(now)).collect()
    }

    async fn endpoints(&self, check: bool) -> Vec<Value> {
        if check {
            self.0.endpoints.check_all().await;
        }
        self.endpoint_states()
    }

    fn runbooks(&self, agent: &str) -> Vec<Listed> {
        let runbooks = self.0.runbooks.load();
        let mine = runbooks.iter().filter(|runbook| has(runbook, agent));
        mine.flat_map(|runbook| listing::of(runbook)).collect()
    }

    fn plan(
        &self,
        tool: &str,
        arguments: &Map<String, Value>,
        agent: &str,
    ) -> Result<Box<dyn Plan>, Refused> {
        let runbook = self.runbook(tool, agent).ok_or(Refused::Unknown)?;
        let planned: Result<Box<dyn Plan>, String> = match &runbook.work {
            Work::Command(work) => {
                command::plan(&runbook, work, arguments, agent, self.0.runner.clone())
                    .map(|plan| Box::new(plan) as _)
            }
            Work::Files(work) => {
                files::plan(&runbook, work, tool, arguments, agent, &self.0.writing)
                    .map(|plan| Box::new(plan) as _)
            }
        };
        planned.map_err(Refused::Because)
    }

    fn changes(&self) -> watch::Receiver<u64> {
        self.0.changed.subscribe()
    }
}
