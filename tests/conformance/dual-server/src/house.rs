//! What all connections of one process share: the lists that change, who hears of it, the tasks.
//!
//! It stands apart because on a 2026-07-28 wire every request is a connection of its own, so that
//! nothing of this can live in one. It never waits long for a client that does not listen.

use std::{
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use futures_util::future::join_all;
use rmcp::{Peer, RoleServer, model::RequestStateCodec, task_manager::TaskManager};
use tokio::{sync::broadcast, time::timeout};
use tokio_util::sync::CancellationToken;

use crate::eras::Eras;

// The key is no secret: nobody but the suite talks to this server, and the suite forges states
// only to see them refused.
const KEY: &[u8; 32] = b"a fixture has no secrets to keep";

const CHANGES_KEPT: usize = 64;
const TELLING: Duration = Duration::from_secs(1);

/// What changes while the server runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Change {
    Tools,
    Prompts,
}

pub(crate) struct House {
    pub(crate) eras: Eras,
    pub(crate) tasks: TaskManager,
    pub(crate) states: RequestStateCodec,
    extra_tool: AtomicBool,
    extra_prompt: AtomicBool,
    /// Those who listen on a 2026-07-28 wire.
    changes: broadcast::Sender<Change>,
    /// Those who shook hands.
    peers: Mutex<Vec<Peer<RoleServer>>>,
    closing: CancellationToken,
}

impl House {
    pub(crate) fn open(eras: Eras) -> Arc<Self> {
        Arc::new(Self {
            eras,
            tasks: TaskManager::new(),
            states: RequestStateCodec::try_new(KEY.as_slice()).expect("the key is long enough"),
            extra_tool: AtomicBool::new(false),
            extra_prompt: AtomicBool::new(false),
            changes: broadcast::channel(CHANGES_KEPT).0,
            peers: Mutex::new(Vec::new()),
            closing: CancellationToken::new(),
        })
    }

    /// Lets those who listen know that there will be nothing more to hear.
    pub(crate) fn close(&self) {
        self.closing.cancel();
    }

    pub(crate) async fn closed(&self) {
        self.closing.cancelled().await;
    }

    pub(crate) fn join(&self, peer: Peer<RoleServer>) {
        let mut peers = self.peers();
        peers.retain(|peer| !peer.is_transport_closed());
        peers.push(peer);
    }

    pub(crate) fn listen(&self) -> broadcast::Receiver<Change> {
        self.changes.subscribe()
    }

    /// Whether the tool or prompt that comes and goes is there.
    pub(crate) fn has_extra(&self, of: Change) -> bool {
        self.extra(of).load(Ordering::SeqCst)
    }

    /// Adds the extra tool or prompt, or removes it again, and tells everybody.
    pub(crate) async fn toggle(&self, what: Change) {
        self.extra(what).fetch_xor(true, Ordering::SeqCst);
        // An error says that nobody listens.
        let _ = self.changes.send(what);
        let peers = self.peers().clone();
        join_all(peers.iter().map(|peer| timeout(TELLING, tell(peer, what)))).await;
    }

    fn extra(&self, of: Change) -> &AtomicBool {
        match of {
            Change::Tools => &self.extra_tool,
            Change::Prompts => &self.extra_prompt,
        }
    }

    fn peers(&self) -> MutexGuard<'_, Vec<Peer<RoleServer>>> {
        self.peers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn tell(peer: &Peer<RoleServer>, what: Change) {
    // A client that has gone need not be told.
    let _ = match what {
        Change::Tools => peer.notify_tool_list_changed().await,
        Change::Prompts => peer.notify_prompt_list_changed().await,
    };
}
