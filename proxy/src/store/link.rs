//! The one connection to the store, and what happens while there is none.
//!
//! A call waits for `state.timeout` and no longer. When the store is away, or several calls in a row
//! have waited in vain, the connection is given up and every call is told so at once, while a task
//! of its own looks for another. Nothing is asked twice: what may have been granted is not asked for
//! again.

use std::sync::atomic::{AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use arc_swap::ArcSwapOption;
use chillgate_policies::engine::ledger::LedgerDown;
use data_encoding::HEXLOWER;
use redis::{FromRedisValue, RedisError, ScriptInvocation, cmd};
use tokio::sync::Notify;
use tokio::time::{sleep, timeout};
use tracing::{info, warn};

use super::target::{Connection, StoreError, Target};
use crate::lock::locked;
use crate::random;

/// Calls in a row that wait in vain before the connection is given up.
const STRIKES: u32 = 3;
/// How long a new connection may take.
const CONNECT: Duration = Duration::from_secs(1);
/// How soon after a failure another connection is tried.
const AGAIN: Duration = Duration::from_millis(250);
/// How often a connection that nobody uses is looked at, and whether the store has kept what it had.
const LOOK: Duration = Duration::from_secs(1);

/// A link to the store; clones are the same.
#[derive(Clone)]
pub struct Link(Arc<Inner>);

/// Why the store is away, for people.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoreDown(pub String);

struct Inner {
    target: Target,
    timeout: Duration,
    prefix: String,
    /// The key that says the store is the one it was.
    mark: String,
    connection: ArcSwapOption<Connection>,
    down: Mutex<Option<StoreDown>>,
    strikes: AtomicU32,
    /// How many replicas share the store, as far as is known.
    sharers: AtomicUsize,
    /// There is no connection any more.
    lost: Notify,
    counts: Counts,
}

/// What has gone wrong so far.
#[derive(Debug, Default)]
struct Counts {
    take: AtomicU64,
    charge: AtomicU64,
    raise: AtomicU64,
    meet: AtomicU64,
    handle: AtomicU64,
    /// How often the store had lost what it knew.
    emptied: AtomicU64,
}

impl std::fmt::Debug for Link {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Link").finish_non_exhaustive()
    }
}

impl Link {
    /// A link that is not connected yet; calls wait so long for an answer.
    pub fn new(target: Target, prefix: &str, timeout: Duration) -> Self {
        Self(Arc::new(Inner {
            target,
            timeout,
            prefix: prefix.to_owned(),
            mark: format!("{prefix}:{}:mark", super::VERSION),
            connection: ArcSwapOption::empty(),
            down: Mutex::new(Some(StoreDown("it has not been reached yet".to_owned()))),
            strikes: AtomicU32::new(0),
            sharers: AtomicUsize::new(1),
            lost: Notify::new(),
            counts: Counts::default(),
        }))
    }

    /// Why the store is away; none while it is there.
    pub fn down(&self) -> Option<StoreDown> {
        locked(&self.0.down).clone()
    }

    /// How many replicas share the store, as of when they last met.
    pub fn sharers(&self) -> usize {
        self.0.sharers.load(Ordering::Relaxed)
    }

    pub(super) fn note_sharers(&self, count: usize) {
        self.0.sharers.store(count.max(1), Ordering::Relaxed);
    }

    /// What all keys begin with.
    pub(super) fn prefix(&self) -> &str {
        &self.0.prefix
    }

    /// Failures so far, by operation.
    pub fn errors(&self) -> [(&'static str, u64); 5] {
        let counts = &self.0.counts;
        [
            ("take", &counts.take),
            ("charge", &counts.charge),
            ("raise", &counts.raise),
            ("meet", &counts.meet),
            ("handle", &counts.handle),
        ]
        .map(|(op, count)| (op, count.load(Ordering::Relaxed)))
    }

    /// How often the store was found to have lost what it knew.
    pub fn emptied(&self) -> u64 {
        self.0.counts.emptied.load(Ordering::Relaxed)
    }

    /// Runs a script once.
    pub(super) async fn ask<T: FromRedisValue>(
        &self,
        op: &'static str,
        asking: &ScriptInvocation<'_>,
    ) -> Result<T, LedgerDown> {
        let answer = self.try_to_ask(asking).await;
        if answer.is_err() {
            let counts = &self.0.counts;
            let count = match op {
                "take" => &counts.take,
                "charge" => &counts.charge,
                "raise" => &counts.raise,
                "meet" => &counts.meet,
                _ => &counts.handle,
            };
            count.fetch_add(1, Ordering::Relaxed);
        }
        answer.map_err(|down| LedgerDown(down.0))
    }

    async fn try_to_ask<T: FromRedisValue>(
        &self,
        asking: &ScriptInvocation<'_>,
    ) -> Result<T, StoreDown> {
        let Some(connection) = self.0.connection.load_full() else {
            return Err(self
                .down()
                .unwrap_or_else(|| StoreDown("it is not connected".to_owned())));
        };
        let mut using = (*connection).clone();
        let waiting = asking.invoke_async(&mut using);
        match timeout(self.0.timeout, waiting).await {
            Ok(Ok(answer)) => {
                self.0.strikes.store(0, Ordering::Relaxed);
                Ok(answer)
            }
            Ok(Err(error)) if is_gone(&error) => {
                let down = StoreDown(error.to_string());
                self.give_up(&connection, &down);
                Err(down)
            }
            // The store is there, and says no.
            Ok(Err(error)) => Err(StoreDown(error.to_string())),
            Err(_) => {
                let waited = self.0.timeout.as_millis();
                let down = StoreDown(format!("no answer within {waited} ms"));
                if self.0.strikes.fetch_add(1, Ordering::Relaxed) + 1 >= STRIKES {
                    self.give_up(&connection, &down);
                }
                Err(down)
            }
        }
    }

    /// This connection is not used any more; one that has taken its place stays.
    fn give_up(&self, connection: &Arc<Connection>, why: &StoreDown) {
        let current = self.0.connection.compare_and_swap(connection, None);
        if !current
            .as_ref()
            .is_some_and(|current| Arc::ptr_eq(current, connection))
        {
            return;
        }
        *locked(&self.0.down) = Some(why.clone());
        warn!(cause = %why.0, "The store is away: policies do what `on-store-error` says.");
        self.0.lost.notify_one();
    }

    /// Connects for the first time, or says why not.
    pub async fn open(&self) -> Result<(), StoreDown> {
        let opened = self.connect().await;
        if let Err(down) = &opened {
            *locked(&self.0.down) = Some(down.clone());
        }
        opened
    }

    async fn connect(&self) -> Result<(), StoreDown> {
        let connecting = async {
            let connection = self.0.target.connect(CONNECT).await?;
            // A server that takes no writes answers a PING as well.
            self.mark(&connection).await?;
            Ok::<_, StoreError>(connection)
        };
        let connection = match timeout(CONNECT, connecting).await {
            Ok(Ok(connection)) => connection,
            Ok(Err(error)) => return Err(StoreDown(error.to_string())),
            Err(_) => return Err(StoreDown("no connection within a second".to_owned())),
        };
        self.0.strikes.store(0, Ordering::Relaxed);
        self.0.connection.store(Some(Arc::new(connection)));
        *locked(&self.0.down) = None;
        Ok(())
    }

    /// Looks for another connection whenever there is none, for as long as it runs.
    pub async fn keep(self) {
        let mut known = None;
        loop {
            if self.0.connection.load().is_none() {
                match self.connect().await {
                    Ok(()) => info!("The store is there again."),
                    Err(down) => {
                        *locked(&self.0.down) = Some(down);
                        sleep(AGAIN).await;
                        continue;
                    }
                }
            }
            known = self.look(known).await;
            tokio::select! {
                () = self.0.lost.notified() => {}
                () = sleep(LOOK) => {}
            }
        }
    }

    /// The mark of this store. Whoever finds none makes one; all see then that it is another.
    async fn mark(&self, connection: &Connection) -> Result<Option<String>, RedisError> {
        let mut using = connection.clone();
        let mark = HEXLOWER.encode(&random::bytes::<8>());
        let mut marking = cmd("SET");
        marking.arg(&self.0.mark).arg(mark).arg("NX");
        marking.query_async::<Option<String>>(&mut using).await?;
        cmd("GET").arg(&self.0.mark).query_async(&mut using).await
    }

    /// Whether the store still has what it had, and answers at all: the mark that was found there.
    async fn look(&self, known: Option<String>) -> Option<String> {
        let Some(connection) = self.0.connection.load_full() else {
            return known;
        };
        let why: StoreDown = match timeout(CONNECT, self.mark(&connection)).await {
            Ok(Ok(found)) => {
                if known.is_some() && known != found {
                    self.0.counts.emptied.fetch_add(1, Ordering::Relaxed);
                    warn!("The store has lost what it knew: all budgets begin full.");
                }
                return found;
            }
            Ok(Err(error)) if !is_gone(&error) => {
                warn!(%error, "The store does not take what it is told.");
                return known;
            }
            Ok(Err(error)) => StoreDown(error.to_string()),
            Err(_) => StoreDown("no answer within a second".to_owned()),
        };
        self.give_up(&connection, &why);
        known
    }
}

/// Whether another connection may do better: this one is broken, or leads to a server that takes no
/// writes (any more).
fn is_gone(error: &RedisError) -> bool {
    const NOT_THE_ONE: [&str; 5] = [
        "READONLY",
        "LOADING",
        "MASTERDOWN",
        "CLUSTERDOWN",
        "NOREPLICAS",
    ];
    error.is_unrecoverable_error()
        || error.is_connection_dropped()
        || error.is_io_error()
        || error.code().is_some_and(|code| NOT_THE_ONE.contains(&code))
}
