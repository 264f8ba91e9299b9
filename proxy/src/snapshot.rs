//! One generation of the configuration, compiled; and the one place where the current one hangs.
//!
//! A snapshot never changes. An exchange pins one and keeps it to its end, so that no request is
//! half old and half new. Servers whose definition is equal are carried over with their children
//! and sessions; counters live in the ledger and are not part of it.

use std::collections::BTreeMap;
use std::sync::Arc;

use arc_swap::ArcSwap;
use chillgate_policies::engine::{Chain, Mistake, Services};
use chillgate_wire::{Era, Limits as WireLimits};
use tokio_util::task::TaskTracker;

use crate::backend::Backend;
use crate::backend::builtin::{Builtin, BuiltinOps};
use crate::backend::either::{Either, Sort};
use crate::backend::exchanged::Exchanged;
use crate::backend::http_sse::HttpSse;
use crate::backend::modern_http::ModernHttp;
use crate::backend::pipe::Terms;
use crate::backend::pipes::{Care, Opener, Pipes};
use crate::backend::stdio::Child;
use crate::backend::streamable_http::Remote;
use crate::backend::tasking::Tasking;
use crate::breaks::Breaks;
use crate::client::Http;
use crate::config::{Config, Isolation, Server, ServerEra, ServerName};
use crate::drain::Drain;
use crate::identity::Identities;
use crate::incidents::Incidents;
use crate::ops::Operations;
use crate::overrides::Overrides;
use crate::route::Routes;
use crate::route::lists::Access;
use crate::standing::{Now, Standing, server_target};
use crate::telemetry::metrics::Metrics;

/// Everything that a configuration says, ready to use.
#[derive(Debug)]
pub struct Snapshot {
    /// Counts up from 1.
    pub generation: u64,
    /// What was configured, with the values that hold now.
    pub config: Arc<Config>,
    /// Who has the say on each policy's values.
    pub standings: Vec<Standing>,
    /// The policies in their order.
    pub chain: Arc<Chain>,
    /// What lists may show.
    pub access: Access,
    /// The servers.
    pub routes: Arc<Routes>,
    /// Who is who.
    pub identities: Arc<Identities>,
    /// Caps on what hosts may send.
    pub wire: WireLimits,
    backends: BTreeMap<ServerName, Built>,
}

#[derive(Clone, Debug)]
struct Built {
    definition: Server,
    terms: (usize, usize, usize),
    backend: Arc<dyn Backend>,
    breaks: Option<Breaks>,
}

/// What outlives every generation.
#[derive(Clone, Debug)]
pub struct Fixtures {
    /// Clock, ledger, audit sink and meters for the policies.
    pub services: Arc<Services>,
    /// Where everything is counted.
    pub metrics: Arc<Metrics>,
    /// Owns the tasks of servers.
    pub tasks: TaskTracker,
    /// Whether chillgate is stopping.
    pub drain: Drain,
    /// What the built-in server for operators tells and does.
    pub operations: Operations,
    /// Where failures of servers are remembered.
    pub incidents: Incidents,
    /// What replaces values of policies for a while.
    pub overrides: Overrides,
    /// The one era that a server which may speak either is asked in: for a look at each alone.
    pub only: Option<Era>,
}

/// Why a configuration cannot be used.
#[derive(Debug)]
pub enum Unfit {
    /// Policies that do not compile.
    Policies(Vec<Mistake>),
    /// Something else: the key it is about, and what is wrong.
    Other(Vec<String>, String),
}

impl Snapshot {
    /// Compiles a configuration beside the current one; nothing that runs is touched.
    pub fn build(
        config: &Config,
        previous: Option<&Self>,
        fixtures: &Fixtures,
    ) -> Result<Self, Unfit> {
        // The whole of it first: also the hours of a schedule that are not now.
        Chain::build(&config.policy, &fixtures.services).map_err(Unfit::Policies)?;
        let identities = Identities::new(
            &config.identity,
            previous.map(|previous| &*previous.identities),
        )
        .map_err(|cause| Unfit::Other(vec!["identity".into()], cause))?
        .keeping(config.server.values().any(Server::is_by_caller));
        let wall = fixtures.services.clock.wall();
        let now = Now::of(config, &fixtures.overrides, &fixtures.services, wall);
        Self::assemble(now, Arc::new(identities), previous, fixtures)
    }

    /// The same configuration with the values of another moment. What runs stays as it is, lists too
    /// where they show the same.
    pub fn at_another_time(now: Now, previous: &Self, fixtures: &Fixtures) -> Result<Self, Unfit> {
        Self::assemble(now, previous.identities.clone(), Some(previous), fixtures)
    }

    /// Puts the generation's values into what runs already. To be called when it has become the
    /// current one.
    pub fn take_effect(&self) {
        for built in self.backends.values() {
            if let (Some(breaks), Server::Builtin(office)) = (&built.breaks, &built.definition) {
                breaks.chill().update(office.settings.clone());
            }
        }
    }

    fn assemble(
        now: Now,
        identities: Arc<Identities>,
        previous: Option<&Self>,
        fixtures: &Fixtures,
    ) -> Result<Self, Unfit> {
        let Now { config, standings } = now;
        let chain = Chain::build(&config.policy, &fixtures.services).map_err(Unfit::Policies)?;
        let chain = Arc::new(chain);
        let wire = WireLimits {
            message: config.limits.message,
            depth: config.limits.depth,
            batch: config.limits.batch,
            ..WireLimits::default()
        };
        let mut backends = BTreeMap::new();
        for (name, server) in &config.server {
            let terms = (wire.message, wire.depth, config.limits.in_flight_per_server);
            let kept = previous
                .and_then(|previous| previous.backends.get(name))
                .filter(|built| goes_on(&built.definition, server) && built.terms == terms);
            let built = if let Some(built) = kept {
                Built {
                    definition: server.clone(),
                    ..built.clone()
                }
            } else {
                let terms_of = Terms {
                    server: Arc::from(name.as_str()),
                    era: Era::Legacy,
                    limits: wire,
                    in_flight: terms.2,
                    metrics: fixtures.metrics.clone(),
                    incidents: fixtures.incidents.clone(),
                };
                let (backend, breaks) =
                    backend_of(server, terms_of, fixtures).map_err(|cause| {
                        Unfit::Other(vec!["server".into(), name.to_string()], cause)
                    })?;
                Built {
                    definition: server.clone(),
                    terms,
                    backend,
                    breaks,
                }
            };
            backends.insert(name.clone(), built);
        }
        let chill = backends
            .values()
            .filter(|built| built.breaks.is_some())
            .map(|built| built.backend.name().clone())
            .collect();
        let servers: Vec<_> = backends
            .values()
            .map(|built| built.backend.clone())
            .collect();
        // Routes that lead to the same servers and show the same go on, and whoever listens to them.
        let kept = previous.filter(|previous| {
            let older = previous.routes.all();
            let same = |(a, b): (&Arc<dyn Backend>, &Arc<dyn Backend>)| Arc::ptr_eq(a, b);
            older.len() == servers.len()
                && older.iter().zip(&servers).all(same)
                && deciding_lists(&previous.config).eq(deciding_lists(&config))
        });
        let (access, routes) = if let Some(previous) = kept {
            (previous.access.clone(), previous.routes.clone())
        } else {
            let access = Access(chain.clone());
            let (tasks, drain) = (fixtures.tasks.clone(), fixtures.drain.clone());
            let routes = Routes::new(servers, chill, access.clone(), tasks, drain);
            (access, Arc::new(routes))
        };
        Ok(Self {
            generation: previous.map_or(1, |previous| previous.generation + 1),
            config: Arc::new(config),
            standings,
            routes,
            chain,
            access,
            identities,
            wire,
            backends,
        })
    }

    /// The servers of `older` that this generation no longer has.
    pub fn dropped(&self, older: &Self) -> Vec<Arc<dyn Backend>> {
        let kept = |built: &Built| {
            self.backends
                .values()
                .any(|now| Arc::ptr_eq(&now.backend, &built.backend))
        };
        older
            .backends
            .values()
            .filter(|built| !kept(built))
            .map(|built| built.backend.clone())
            .collect()
    }

    /// The ChillMCP that overrides call so.
    pub fn office(&self, target: &str) -> Option<&Breaks> {
        let named = |name: &ServerName| server_target(name.as_str()) == target;
        let mut all = self.backends.iter();
        all.find(|(name, _)| named(name))?.1.breaks.as_ref()
    }

    /// The levels of every agent at every ChillMCP.
    pub fn levels(&self) -> Vec<(Arc<str>, u8, u8)> {
        self.backends
            .values()
            .filter_map(|built| built.breaks.as_ref())
            .flat_map(Breaks::levels)
            .collect()
    }
}

/// The policies that decide what lists show.
pub fn deciding_lists(config: &Config) -> impl Iterator<Item = &serde_json::Value> {
    let decides = |table: &&serde_json::Value| {
        let kind = table.get("type").and_then(serde_json::Value::as_str);
        matches!(kind, Some("access" | "scope"))
    };
    config.policy.iter().filter(decides)
}

/// Whether what runs by one definition can go on by another: as it is, or under other settings.
fn goes_on(old: &Server, new: &Server) -> bool {
    match (old, new) {
        (Server::Builtin(old), Server::Builtin(new)) => {
            let (old, new) = (&old.settings, &new.settings);
            (old.effects, old.scope, old.lang) == (new.effects, new.scope, new.lang)
        }
        (old, new) => old == new,
    }
}

fn backend_of(
    server: &Server,
    terms: Terms,
    fixtures: &Fixtures,
) -> Result<(Arc<dyn Backend>, Option<Breaks>), String> {
    let tasks = fixtures.tasks.clone();
    let path = match server {
        Server::Builtin(_) | Server::Ops => "builtin",
        Server::Command(_) => "stdio",
        Server::Remote(_) => "http",
    };
    fixtures.metrics.path(&terms.server, path);
    match server {
        Server::Builtin(office) => {
            let breaks = Breaks::new(&terms.server, office.settings.clone());
            let opener = Box::new(Builtin::new(breaks.chill().clone()));
            let start = std::time::Duration::from_secs(10);
            let care = Care::default();
            let pipes = Pipes::new(opener, Isolation::Shared, start, terms, care, tasks);
            return Ok((Arc::new(pipes), Some(breaks)));
        }
        Server::Ops => {
            let opener = Box::new(BuiltinOps::new(fixtures.operations.clone()));
            let start = std::time::Duration::from_secs(10);
            // What asks before it runs needs hosts that can be told apart.
            let care = Care::default();
            let pipes = Pipes::new(opener, Isolation::Auto, start, terms, care, tasks);
            Ok(Arc::new(pipes) as _)
        }
        Server::Command(command) => {
            let care = Care {
                probe: command.probe.clone(),
                idle: command.idle,
                by_agent: command.is_by_agent(),
                ..Care::default()
            };
            let pipes = |era| {
                let opener = Box::new(Child::new(command.clone()));
                let (isolation, start) = (command.isolation, command.start_timeout);
                let (terms, care) = (terms.in_era(era), care.clone());
                let pipes = Pipes::new(opener, isolation, start, terms, care, tasks.clone());
                Ok(Arc::new(pipes) as _)
            };
            let sort = match command.isolation {
                Isolation::Shared => Sort::One,
                _ => Sort::Children,
            };
            in_eras(command.era, fixtures.only, pipes, sort, &tasks)
        }
        Server::Remote(remote) => {
            let start = remote.start_timeout;
            // One for both eras: its connections and its tokens are the server's.
            let http = Http::new(remote.into())?;
            let pipes = |era| {
                let http = http.clone();
                let opener: Box<dyn Opener> = match era {
                    Era::Legacy => Box::new(HttpSse::new(remote, http)),
                    Era::Modern => Box::new(ModernHttp::new(remote, http)),
                };
                let (by_agent, terms) = (remote.is_by_caller(), terms.in_era(era));
                // What is reached with one host's token is no other's.
                let isolation = if by_agent {
                    Isolation::Session
                } else {
                    Isolation::Auto
                };
                let care = Care {
                    by_agent,
                    ..Care::default()
                };
                let pipes = Pipes::new(opener, isolation, start, terms, care, tasks.clone());
                Ok(Arc::new(pipes) as _)
            };
            let reached = |era| match era {
                Era::Legacy if !remote.http_sse => {
                    let terms = terms.in_era(era);
                    Ok(Arc::new(Remote::new(remote, http.clone(), terms, tasks.clone())) as _)
                }
                era => pipes(era),
            };
            let era = match remote.era {
                ServerEra::Auto if remote.http_sse => ServerEra::Legacy,
                era => era,
            };
            let server = in_eras(era, fixtures.only, reached, Sort::Remote, &tasks)?;
            if !remote.is_by_caller() {
                return Ok((server, None));
            }
            Ok(Arc::new(Exchanged::new(server, http)) as _)
        }
    }
    .map(|backend| (backend, None))
}

/// A server in the era it is configured for, or in both.
fn in_eras(
    era: ServerEra,
    only: Option<Era>,
    reach: impl Fn(Era) -> Result<Arc<dyn Backend>, String>,
    sort: Sort,
    tasks: &TaskTracker,
) -> Result<Arc<dyn Backend>, String> {
    let make = |era| {
        let server = reach(era)?;
        Ok::<Arc<dyn Backend>, String>(match era {
            Era::Legacy => Arc::new(Tasking::new(server, tasks.clone())),
            Era::Modern => server,
        })
    };
    match (era, only) {
        (ServerEra::Legacy, _) => make(Era::Legacy),
        (ServerEra::Modern, _) => make(Era::Modern),
        (ServerEra::Auto, Some(era)) => make(era),
        (ServerEra::Auto, None) => {
            let (legacy, modern) = (make(Era::Legacy)?, make(Era::Modern)?);
            let either = Either::new(legacy, modern, sort, tasks.clone());
            Ok(Arc::new(either))
        }
    }
}

/// Where the current snapshot hangs; cheap to clone.
#[derive(Clone, Debug)]
pub struct Live(Arc<ArcSwap<Snapshot>>);

impl Live {
    /// With a first snapshot.
    pub fn new(first: Snapshot) -> Self {
        Self(Arc::new(ArcSwap::from_pointee(first)))
    }

    /// The current snapshot, to be kept for one exchange.
    pub fn pin(&self) -> Arc<Snapshot> {
        self.0.load_full()
    }

    /// Makes a snapshot the current one and returns the one before. Only `reload` calls it.
    pub fn publish(&self, next: Snapshot) -> Arc<Snapshot> {
        self.0.swap(Arc::new(next))
    }
}
