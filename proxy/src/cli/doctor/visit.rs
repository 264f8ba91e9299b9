//! One visit to one server: started, greeted, asked what it has, stopped.
//!
//! Through the same snapshot, gate and backends that serve hosts, without policies and without
//! anybody else. What is seen is kept as it is; what to think of it is the examiner's.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use chillgate_policies::engine::{Clock as _, Services};
use chillgate_wire::{Envelope, Era, Id, json, message};
use serde_json::Value;
use tokio_util::task::TaskTracker;

use super::overheard::Overheard;
use crate::backend::greeting::params_of_the_gate;
use crate::budget::Budget;
use crate::clock::TokioClock;
use crate::config::{Config, Server, ServerName};
use crate::drain::Drain;
use crate::exchange::Exchange;
use crate::gate::Gate;
use crate::identity::{Principal, nothing};
use crate::incidents::Incidents;
use crate::ops::Operations;
use crate::overrides::Overrides;
use crate::replicas::Replicas;
use crate::session::{Opening, Scope, Session};
use crate::snapshot::{Fixtures, Live, Snapshot, Unfit};
use crate::supervisor;
use crate::telemetry::metrics::Metrics;

/// How long one list may take, all its pages.
const LIST: Duration = Duration::from_secs(10);
/// How many pages of a list are asked for.
const PAGES: usize = 200;
/// A server that is deaf to everything takes 6 s to end.
const END: Duration = Duration::from_secs(8);

/// What a visit saw.
#[derive(Debug)]
pub(super) struct Seen {
    /// The result of `initialize`, or why there is none.
    pub(super) greeting: Result<Value, String>,
    /// How long that took.
    pub(super) after: Duration,
    /// How many of each list, or why it was not given.
    pub(super) lists: BTreeMap<&'static str, Result<usize, String>>,
    /// Memory of its processes with all that asked, in bytes.
    pub(super) memory: Option<u64>,
    /// Lines on its standard output that are no messages, by kind.
    pub(super) errors: BTreeMap<String, u64>,
    /// How long it took to end.
    pub(super) end: Duration,
}

/// Visits `server` for a first answer within `limit`, in one era if it may speak either.
pub(super) async fn visit(
    config: &Config,
    name: &ServerName,
    server: Server,
    era: Era,
    limit: Duration,
    overheard: &Overheard,
    incidents: &Incidents,
) -> Seen {
    let (metrics, tasks) = (Metrics::new(), TaskTracker::new());
    let fixtures = Fixtures {
        services: Arc::new(Services::new(Arc::new(TokioClock))),
        operations: Operations::new(metrics.clone(), tasks.clone(), incidents.clone()),
        incidents: incidents.clone(),
        metrics,
        tasks,
        drain: Drain::default(),
        overrides: Overrides::default(),
        only: Some(era),
    };
    let alone = Config {
        limits: config.limits.clone(),
        server: BTreeMap::from([(name.clone(), server)]),
        ..Config::default()
    };
    let live = match Snapshot::build(&alone, None, &fixtures) {
        Ok(snapshot) => Live::new(snapshot),
        Err(Unfit::Other(_, cause)) => return Seen::without(cause),
        // There are none.
        Err(Unfit::Policies(_)) => return Seen::without("it cannot be configured".to_owned()),
    };
    let gate = Gate::new(
        live.clone(),
        fixtures.metrics.clone(),
        fixtures.drain.clone(),
        fixtures.tasks.clone(),
        Budget::new(config.limits.memory),
        Replicas::alone(),
    );
    let visitor = Visitor {
        gate,
        limits: live.pin().wire,
    };
    let began = TokioClock.now();
    let asking = visitor.ask_all(name.as_str(), began);
    let mut seen = match tokio::time::timeout(limit + 2 * LIST, asking).await {
        Ok(seen) => seen,
        Err(_) => Seen::without(format!(
            "it did not answer within {} s",
            (limit + 2 * LIST).as_secs()
        )),
    };
    if seen.greeting.is_ok() {
        let pid = overheard.of(name.as_str()).pid;
        let usage = pid.and_then(|pid| supervisor::usage::of(&[pid]).pop());
        seen.memory = usage
            .filter(|usage| usage.processes > 0)
            .map(|usage| usage.resident);
    }
    let ending = TokioClock.now();
    let servers = live.pin();
    for backend in servers.routes.all() {
        backend.stop().await;
    }
    fixtures.tasks.close();
    let _ = tokio::time::timeout(END, fixtures.tasks.wait()).await;
    seen.end = TokioClock.now().saturating_duration_since(ending);
    seen.errors = protocol_errors(&fixtures.metrics.render());
    seen
}

impl Seen {
    fn without(cause: String) -> Self {
        Self::of(Err(cause), Duration::ZERO)
    }

    fn of(greeting: Result<Value, String>, after: Duration) -> Self {
        Self {
            greeting,
            after,
            lists: BTreeMap::new(),
            memory: None,
            errors: BTreeMap::new(),
            end: Duration::ZERO,
        }
    }
}

/// A host that nobody is behind.
struct Visitor {
    gate: Gate,
    limits: chillgate_wire::Limits,
}

impl Visitor {
    async fn ask_all(&self, server: &str, began: std::time::Instant) -> Seen {
        let greeting = Bytes::from(params_of_the_gate());
        let opened = self.gate.open(Opening {
            who: Principal::named(Arc::from("doctor")),
            scope: Scope::One(Arc::from(server)),
            greeting: greeting.clone(),
            transport: "stdio",
            peer: None,
            line: None,
            era: Era::Legacy,
        });
        let session = match opened {
            Ok(session) => session,
            Err(refusal) => return Seen::without(refusal.words().1),
        };
        let answer = self.ask(&session, "initialize", &greeting).await;
        let after = TokioClock.now().saturating_duration_since(began);
        let mut seen = Seen::of(answer, after);
        let Ok(said) = &seen.greeting else {
            return seen;
        };
        let has = |name: &str| said["capabilities"].get(name).is_some();
        let lists = [
            ("tools", "tools/list"),
            ("prompts", "prompts/list"),
            ("resources", "resources/list"),
        ];
        let offered: Vec<_> = lists.into_iter().filter(|(name, _)| has(name)).collect();
        if let Ok(note) = self.own(message::notification("notifications/initialized", None)) {
            let _ = self.gate.hear(&session, note).await;
        }
        for (member, method) in offered {
            let listing = self.count(&session, member, method);
            let count = tokio::time::timeout(LIST, listing).await;
            let late = |_| Err(format!("not within {} s", LIST.as_secs()));
            seen.lists.insert(member, count.unwrap_or_else(late));
        }
        seen
    }

    /// How many entries a list has, all pages.
    async fn count(
        &self,
        session: &Arc<Session>,
        member: &str,
        method: &str,
    ) -> Result<usize, String> {
        let (mut count, mut params) = (0, Bytes::from_static(b"{}"));
        for _ in 0..PAGES {
            let page = self.ask(session, method, &params).await?;
            let entries = page[member].as_array().map(Vec::len);
            count += entries.ok_or_else(|| format!("its answer has no `{member}`"))?;
            let Some(cursor) = page["nextCursor"].as_str() else {
                return Ok(count);
            };
            params = format!(r#"{{"cursor":{}}}"#, json::quote(cursor)).into();
        }
        Err(format!("it has more than {PAGES} pages"))
    }

    async fn ask(
        &self,
        session: &Arc<Session>,
        method: &str,
        params: &[u8],
    ) -> Result<Value, String> {
        let id = Id::number(1);
        let request = self.own(message::request(id.as_bytes(), method, Some(params)))?;
        let exchange = Exchange::new(id, session.clone(), nothing(), 64);
        let answer = self.gate.handle(exchange, request).await.message;
        let answer = answer.ok_or("there was no answer")?;
        if let Some(result) = answer.result() {
            return serde_json::from_slice(result).map_err(|error| error.to_string());
        }
        let text = answer.text(&["error", "message"]);
        Err(text.map_or_else(|| "it refused".to_owned(), std::borrow::Cow::into_owned))
    }

    fn own(&self, raw: Bytes) -> Result<Envelope, String> {
        Envelope::parse(raw, &self.limits).map_err(|fault| fault.to_string())
    }
}

/// What the metrics say of lines that are no messages.
fn protocol_errors(metrics: &str) -> BTreeMap<String, u64> {
    metrics
        .lines()
        .filter(|line| line.starts_with("chillgate_child_protocol_errors_total{"))
        .filter_map(|line| {
            let kind = line.split_once("kind=\"")?.1.split_once('"')?.0;
            let count = line.rsplit_once(' ')?.1.parse().ok()?;
            Some((kind.to_owned(), count))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_that_are_no_messages_are_counted_by_kind() {
        let metrics = Metrics::new();
        metrics.child_protocol_error("a", "not_json");
        metrics.child_protocol_error("a", "not_json");
        metrics.child_protocol_error("a", "unknown_id");
        let counted = protocol_errors(&metrics.render());
        let wanted = [("not_json".to_owned(), 2), ("unknown_id".to_owned(), 1)];
        assert_eq!(counted, BTreeMap::from(wanted));
    }
}
