//! From a configuration to a running chillgate, and to its end: the only module that knows all
//! others.
//!
//! Everything that can fail is tried before the first host is served: addresses, certificates,
//! the audit file. The data path is one runtime on the main thread; probes and the audit writer
//! have threads of their own, so that neither can be held up by the other.

use std::net::SocketAddr;
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use chillgate_policies::engine::{Clock, Services};
use tokio::sync::oneshot;
use tokio::task::JoinSet;
use tokio_util::task::TaskTracker;
use tracing::{info, warn};

use crate::admin;
use crate::ahead::Ahead;
use crate::backend::stdio::Child;
use crate::clock::TokioClock;
use crate::config::load::{Loaded, Sources};
use crate::config::{
    self, Config, DEFAULT_HEALTH, DEFAULT_LISTEN, Front, Health as HealthConfig, Listen, Log,
    LogFormat, Server, Transport,
};
use crate::drain::Drain;
use crate::front::stdio;
use crate::front::streamable_http::Streams;
use crate::front::streamable_http::listen::Bound;
use crate::gate::Gate;
use crate::health::{self, Health, Heartbeat, Readiness};
use crate::incidents::Incidents;
use crate::ops::Operations;
use crate::overrides::{Moment, Overrides};
use crate::reload::{self, Desk, Reloader};
use crate::replicas::Replicas;
use crate::rest;
use crate::service::Notices;
use crate::session::Scope;
use crate::snapshot::{Fixtures, Live, Snapshot};
use crate::store::{Link, SharedLedger, StoreDown, Target};
use crate::telemetry;
use crate::telemetry::audit::{Audit, Destination};
use crate::telemetry::logs::{self, LogGuard};
use crate::telemetry::metrics::{ChillLevels, Metrics, Reload};
use crate::{state, supervisor};

mod stop;
mod told;

use told::{
    budgets_last_seen, budgets_left, children, endpoint_health, overrides_running, server_state,
    store_health,
};

/// How long the end may take once what runs has finished: the last answers, servers, the audit log.
const AFTER_DRAIN: Duration = Duration::from_secs(12);

/// What to run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Mode {
    /// All fronts of the configuration.
    Serve,
    /// One server behind standard input and output, untouched.
    Wrap(String),
}

/// How long threads may take that still do something once everything is stopped.
const LAST: Duration = Duration::from_secs(1);

/// Runs until it is told to stop.
pub fn run(loaded: Loaded, sources: Sources, mode: Mode) -> ExitCode {
    let metrics = Metrics::new();
    // Kept to the end: what is logged after it is gone is lost.
    let _log = match start_log(&loaded.config.log, &metrics) {
        Ok(log) => log,
        Err(error) => {
            eprintln!("error: log: {error}");
            return ExitCode::from(2);
        }
    };
    for note in &loaded.notes {
        info!("{note}");
    }
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    let outcome = match runtime {
        Ok(runtime) => {
            let outcome = runtime.block_on(App::start(loaded, sources, mode, metrics));
            // A thread that reads a terminal, or any standard input of Windows, never comes back.
            runtime.shutdown_timeout(LAST);
            outcome
        }
        Err(error) => Err(format!("the runtime could not be made: {error}")),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(text) => {
            eprintln!("{}", text.trim_end());
            ExitCode::from(2)
        }
    }
}

/// The store that replicas share, where one is configured. That it is away keeps nobody from starting.
async fn open_store(state: &config::State, tasks: &TaskTracker) -> Option<Arc<SharedLedger>> {
    let target = Target::of(state)?;
    let link = Link::new(target, &state.prefix, state.timeout);
    match link.open().await {
        Ok(()) => info!("Budgets and boss alerts are the store's."),
        Err(StoreDown(cause)) => {
            warn!(%cause, "The store is away: policies do what `on-store-error` says.");
        }
    }
    let clock = Arc::new(TokioClock);
    let shared = SharedLedger::new(link, &state.prefix, clock, tasks.clone());
    Some(Arc::new(shared))
}

struct App {
    gate: Gate,
    live: Live,
    fixtures: Fixtures,
    audit: Option<Arc<Audit>>,
    mode: Mode,
    shared: Option<Arc<SharedLedger>>,
}

impl App {
    async fn start(
        loaded: Loaded,
        sources: Sources,
        mode: Mode,
        metrics: Arc<Metrics>,
    ) -> Result<(), String> {
        supervisor::take_descriptors();
        let clock = Arc::new(TokioClock);
        let audit = match &loaded.config.audit {
            None => None,
            Some(audit) => {
                let to = if audit.file.as_os_str() == "-" {
                    Destination::Stdout
                } else {
                    Destination::File(audit.file.clone())
                };
                let audit = Audit::open(to, clock.clone(), &metrics);
                Some(audit.map_err(|error| format!("error: audit.file: {error}"))?)
            }
        };
        let folder = state::folder(&loaded.config.state).map_err(|it| format!("error: {it}"))?;
        if let Some((cause, help)) = folder.trouble() {
            warn!(%cause, %help, "Incidents are remembered by this process only.");
        }
        let folder = folder.found();
        if let Some(folder) = &folder {
            settle(folder, &metrics);
        }
        let mut services = Services::new(clock);
        services.meter = metrics.clone();
        services.audit = audit.clone().map(|sink| sink as _);
        let drain = Drain::default();
        let tasks = TaskTracker::new();
        let shared = open_store(&loaded.config.state, &tasks).await;
        if let Some(shared) = &shared {
            services.ledger = shared.clone();
        }
        let overrides = overrides_of(&loaded.config, folder.as_deref());
        let incidents = Incidents::open(folder, &loaded.config.remedy);
        let fixtures = Fixtures {
            services: Arc::new(services),
            metrics: metrics.clone(),
            tasks: tasks.clone(),
            drain: drain.clone(),
            operations: Operations::new(metrics.clone(), tasks, incidents.clone()),
            incidents,
            overrides,
            only: None,
        };
        let first = Snapshot::build(&loaded.config, None, &fixtures)
            .map_err(|unfit| reload::explain(&loaded, unfit).render(false))?;
        let live = Live::new(first);
        metrics.config_loaded(Reload::Applied, TokioClock.wall());
        let levels = live.clone();
        metrics.chill_from(move || {
            let levels = levels.pin().levels();
            levels
                .into_iter()
                .map(|(agent, stress, alert)| ChillLevels {
                    agent,
                    stress,
                    alert,
                })
                .collect()
        });
        let servers = live.clone();
        let known = fixtures.incidents.clone();
        metrics.children_from(move || children(&servers, &known));
        let replicas = match &shared {
            Some(store) => Replicas::sharing(store.link().clone(), loaded.config.replicas.clone()),
            None => Replicas::alone(),
        };
        let (chain, ledger) = (live.clone(), fixtures.services.local.clone());
        match shared.clone() {
            None => metrics.budgets_from(move || budgets_left(&chain, &ledger)),
            Some(store) => {
                let (policies, own) = (live.clone(), store.clone());
                let replicas = replicas.clone();
                metrics.store_from(move || store_health(&policies, &store, &replicas));
                metrics.budgets_from(move || budgets_last_seen(&chain, &own));
            }
        }
        if loaded.config.admin.is_some() {
            let (policies, overrides) = (live.clone(), fixtures.overrides.clone());
            metrics.overrides_from(move || overrides_running(&policies, &overrides));
        }
        let endpoints = fixtures.operations.endpoints().clone();
        metrics.endpoints_from(move || endpoint_health(&endpoints));
        fixtures.operations.take_over(&loaded.config);
        let budget = crate::budget::Budget::new(loaded.config.limits.memory);
        let tasks = fixtures.tasks.clone();
        let gate = Gate::new(live.clone(), metrics, drain, tasks, budget, replicas);
        fixtures.operations.watch(&gate);
        let app = Self {
            gate,
            live,
            fixtures,
            audit,
            mode,
            shared,
        };
        app.serve(&loaded, sources).await
    }

    async fn serve(self, loaded: &Loaded, sources: Sources) -> Result<(), String> {
        let config = &loaded.config;
        if let Mode::Wrap(name) = &self.mode {
            look_for_server(config, name, &self.fixtures)?;
        }
        let fronts = fronts_of(config, &self.mode);
        let mut bound = Vec::new();
        for front in fronts
            .iter()
            .filter(|front| front.transport == Transport::StreamableHttp)
        {
            bound.push(
                Bound::new(front.clone())
                    .await
                    .map_err(|error| format!("error: {error}"))?,
            );
        }
        bound.extend(self.for_replicas(config).await?);
        // Who wraps one server for a host is no service of its own.
        let notices = match &self.mode {
            Mode::Serve => Notices::of_environment(),
            Mode::Wrap(_) => Notices::default(),
        };
        let (reloader, desk) = Reloader::new(
            sources,
            loaded,
            self.live.clone(),
            self.gate.clone(),
            self.fixtures.clone(),
            self.audit.clone(),
            notices.clone(),
        );
        let _admin = match &config.admin {
            None => None,
            Some(admin) => Some(self.administration(admin, config, desk).await?),
        };
        let heartbeat = Heartbeat::default();
        let _health = match health_of(config, &self.mode) {
            None => None,
            Some(address) => Some(self.probes(address, &heartbeat)?),
        };
        let (mut running, mut serving) = (JoinSet::new(), JoinSet::new());
        let streams = Streams::default();
        for front in bound {
            serving.spawn(front.serve(self.gate.clone(), streams.clone()));
        }
        running.spawn({
            let gate = self.gate.clone();
            async move { gate.sweep().await }
        });
        running.spawn(heartbeat.clone().keep_beating());
        if let Some(shared) = &self.shared {
            running.spawn(shared.link().clone().keep());
            running.spawn(self.gate.replicas().clone().keep());
            let gate = self.gate.clone();
            running.spawn(async move { gate.turn_out().await });
        }
        running.spawn(rest::watch(self.gate.clone()));
        running.spawn(self.fixtures.operations.endpoints().clone().keep_checking());
        running.spawn(reloader.run());
        if matches!(self.mode, Mode::Serve) {
            let first = self.live.pin();
            first.identities.warm();
            let ahead = Ahead::of(&first, None);
            drop(first);
            ahead.start(&self.fixtures).await;
        }
        let stdio = fronts
            .iter()
            .find(|front| front.transport == Transport::Stdio);
        let host = match stdio {
            None => None,
            Some(front) => {
                let scope = match &self.mode {
                    Mode::Serve => Scope::Merged(front.prefix),
                    Mode::Wrap(server) => Scope::One(Arc::from(server.as_str())),
                };
                let gate = self.gate.clone();
                let eras = front.eras;
                let (told, ended) = oneshot::channel();
                // A task of its own, so that it still answers while chillgate stops.
                serving.spawn(async move {
                    let _ = told.send(stdio::serve(gate, scope, eras).await);
                });
                Some(ended)
            }
        };
        notices.ready();
        let _reports = notices
            .report(heartbeat, self.readiness())
            .map_err(|error| format!("error: the thread for the service manager: {error}"))?;
        self.until_told(host).await;
        let (linger, deadline) = self.patience();
        notices.stopping(linger.max(deadline) + AFTER_DRAIN);
        self.stop(running, serving).await
    }

    /// The listener for the other replicas, where there can be any.
    async fn for_replicas(&self, config: &Config) -> Result<Option<Bound>, String> {
        let replicas = self.gate.replicas();
        let Some(settings) = config.replicas.as_ref().filter(|_| replicas.is_shared()) else {
            return Ok(None);
        };
        let mut front = Front::bare(
            Transport::StreamableHttp,
            Some(Listen::Tcp(settings.listen)),
        );
        front.tls.clone_from(&settings.tls);
        let bound = Bound::new(front).await;
        let bound = bound.map_err(|error| format!("error: replicas.listen: {error}"))?;
        if let Some(address) = bound.taken() {
            let listens = replicas.listens_at(address);
            listens.map_err(|cause| format!("error: replicas.advertise: {cause}"))?;
        }
        Ok(Some(bound.inner()))
    }

    async fn administration(
        &self,
        admin: &config::Admin,
        config: &Config,
        desk: Desk,
    ) -> Result<admin::Serving, String> {
        let sources = admin::Sources {
            live: self.live.clone(),
            desk,
            overrides: self.fixtures.overrides.clone(),
            services: self.fixtures.services.clone(),
            state: config.state.clone(),
        };
        let serving = admin::serve(admin, sources).await;
        serving.map_err(|error| format!("error: {error}"))
    }

    fn probes(
        &self,
        address: SocketAddr,
        heartbeat: &Heartbeat,
    ) -> Result<health::Serving, String> {
        let bound = Health::bind(address).map_err(|error| {
            format!(
                "error: cannot listen on {address} for probes: {error}\n  \
                 = help: choose another address with `[health] listen` or `--health`"
            )
        })?;
        let metrics = self.fixtures.metrics.clone();
        let sources = health::Sources {
            pulses: vec![heartbeat.clone()],
            // Probes are answered from the moment on when all fronts are bound.
            started: Box::new(|| true),
            readiness: Box::new(self.readiness()),
            metrics: Box::new(move || metrics.render()),
        };
        info!(address = %bound.address(), "Listening for probes.");
        bound
            .serve(sources)
            .map_err(|error| format!("error: the thread for probes: {error}"))
    }

    /// Whether calls should come here, and how each server is, whenever it is asked.
    fn readiness(&self) -> impl Fn() -> Readiness + Send + Sync + use<> {
        let (gate, audit) = (self.gate.clone(), self.audit.clone());
        let incidents = self.fixtures.incidents.clone();
        let endpoints = self.fixtures.operations.endpoints().clone();
        move || Readiness {
            endpoints: endpoints.report(),
            ready: !gate.drain().is_stopping()
                && audit.as_ref().is_none_or(|audit| audit.trouble().is_none()),
            draining: gate.drain().is_stopping(),
            servers: gate
                .snapshot()
                .routes
                .all()
                .iter()
                .map(|server| server_state(server, &incidents))
                .collect(),
        }
    }
}

/// Overrides of before; without an admin API there are none, for nobody could end them.
fn overrides_of(config: &Config, folder: Option<&Path>) -> Overrides {
    let Some(admin) = &config.admin else {
        return Overrides::default();
    };
    let at = Moment {
        now: TokioClock.now(),
        wall: TokioClock.wall(),
    };
    let overrides = Overrides::open(folder, &admin.listen.to_string(), at);
    // None of those that were over meanwhile holds, not even for a moment.
    overrides.expire(at);
    overrides
}

/// Ends what chillgates before this one left behind, and notes what this one starts.
fn settle(state: &Path, metrics: &Metrics) {
    match supervisor::remember_in(state) {
        Ok(leftovers) if leftovers.ended.is_empty() => {}
        Ok(leftovers) => {
            let ended = &leftovers.ended;
            metrics.child_leftovers_ended(ended.len() as u64);
            warn!(count = ended.len(), processes = %ended.join(", "),
                "Ended what the servers of a killed chillgate had left running.");
        }
        Err(error) => warn!(folder = %state.display(), %error,
            "Running servers cannot be noted: what a kill leaves behind will not be found."),
    }
}

/// The operational log. The library under ChillMCP says at `info` what is nobody's business here.
fn start_log(log: &Log, metrics: &Arc<Metrics>) -> Result<LogGuard, logs::LogError> {
    let format = match log.format {
        LogFormat::Auto => logs::Format::Auto,
        LogFormat::Json => logs::Format::Json,
        LogFormat::Human => logs::Format::Human,
    };
    let filter = if log.filter.contains("rmcp") {
        log.filter.clone()
    } else {
        format!("{},rmcp=error", log.filter)
    };
    telemetry::init(format, &filter, metrics)
}

/// A wrapper without its program is of no use to anybody; a gateway goes on with its other servers.
fn look_for_server(config: &Config, name: &str, fixtures: &Fixtures) -> Result<(), String> {
    let wrapped = config
        .server
        .iter()
        .find(|(server, _)| server.as_str() == name);
    match wrapped {
        Some((_, Server::Command(command))) => Child::new(command.clone())
            .look(name, &fixtures.incidents, &fixtures.metrics)
            .map_err(|cause| {
                fixtures.incidents.flush();
                format!("error: server `{name}` cannot be started: {cause}")
            }),
        _ => Ok(()),
    }
}

fn fronts_of(config: &Config, mode: &Mode) -> Vec<Front> {
    match mode {
        Mode::Wrap(_) => vec![Front::bare(Transport::Stdio, None)],
        Mode::Serve if config.front.is_empty() => {
            vec![Front::bare(
                Transport::StreamableHttp,
                Some(Listen::Tcp(DEFAULT_LISTEN)),
            )]
        }
        Mode::Serve => config.front.clone(),
    }
}

fn health_of(config: &Config, mode: &Mode) -> Option<SocketAddr> {
    match (&config.health, mode) {
        (Some(HealthConfig { listen }), _) => Some(*listen),
        (None, Mode::Serve) => Some(DEFAULT_HEALTH),
        (None, Mode::Wrap(_)) => None,
    }
}
