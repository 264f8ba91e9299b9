//! The other replicas of this gateway: who is there, where, and what all of them seal with.
//!
//! What one replica alone can answer — a session of the older revisions, a call that waits for its
//! host — carries its owner, sealed, so that any replica knows where to hand it on. They find each
//! other in the shared store; without one a replica is alone, and all that is sealed is its own. There
//! they hear as well whom nobody lets in any more. Nothing here reads a request, and nothing is handed on.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use arc_swap::ArcSwap;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use data_encoding::HEXLOWER;
use tokio::sync::Notify;
use tokio::time::{Instant, sleep};
use tracing::{debug, info, warn};

use crate::client::{Destination, Http};
use crate::config;
use crate::config::secret::SecretText;
use crate::lock::locked;
use crate::random;
use crate::store::{Handed, Link, Meeting, Present};

mod pass;
mod ring;

pub use pass::{Pass, PassError, digest};
pub use ring::Ring;

/// How often a replica says that it is there, and looks who else is.
const MEET: Duration = Duration::from_millis(500);
/// A replica that has not said so for this long is gone.
const GONE: Duration = Duration::from_secs(5);
/// How long the last word to the store may take when this replica leaves.
const FAREWELL: Duration = Duration::from_secs(1);
/// Keys are kept for so many of their times after the last that was sealed with them.
const KEPT: u64 = 30;

/// What a sealed session id begins with.
const VERSION: u8 = 1;
const RANDOM: usize = 16;
const TAG: usize = 16;

/// One replica, from its start to its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ReplicaId(pub u64);

impl std::fmt::Display for ReplicaId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

/// What is known of all replicas; clones are the same.
#[derive(Clone, Debug)]
pub struct Replicas(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    own: ReplicaId,
    /// The store, if there is one.
    link: Option<Link>,
    /// None: nothing is handed on.
    shared: Option<Shared>,
    ring: ArcSwap<Ring>,
    here: Mutex<Table>,
    /// The table has changed.
    changed: Notify,
    /// Somebody wants to know now who is there.
    asked: Notify,
    forwards: Forwards,
    /// Agents that are let in no more.
    revoked: ArcSwap<HashSet<Arc<str>>>,
    /// There are others than before.
    revoking: Notify,
    /// What was accepted of other replicas lately.
    seen: Mutex<pass::Seen>,
}

#[derive(Debug)]
struct Shared {
    config: config::Replicas,
    /// Where others reach this one; known once its listener is bound.
    address: OnceLock<String>,
    leaving: AtomicBool,
}

/// Who is there.
#[derive(Debug, Default)]
struct Table {
    others: HashMap<ReplicaId, Arc<Other>>,
    /// When the store was last heard.
    met: Option<Instant>,
}

/// Another replica.
#[derive(Debug)]
pub struct Other {
    /// Its name among replicas.
    pub id: ReplicaId,
    /// Where it listens for the others.
    pub address: String,
    /// The way there.
    pub http: Http,
}

/// What became of requests that were another replica's.
#[derive(Debug, Default)]
pub struct Forwards {
    /// It answered.
    pub answered: AtomicU64,
    /// It is there, and could not be reached.
    pub unreachable: AtomicU64,
    /// It is not there any more.
    pub gone: AtomicU64,
}

/// Where something sealed is kept.
#[derive(Clone, Debug)]
pub enum Place {
    /// In this replica.
    Here,
    /// In another one.
    At(Arc<Other>),
    /// In one that is not there any more.
    Gone(ReplicaId),
    /// In one that is not known, at a time at which nobody can be asked.
    Unsure(ReplicaId),
}

impl Default for Replicas {
    fn default() -> Self {
        Self::alone()
    }
}

impl Forwards {
    /// All counts, by outcome.
    pub fn counts(&self) -> [(&'static str, u64); 3] {
        [
            ("answered", &self.answered),
            ("unreachable", &self.unreachable),
            ("gone", &self.gone),
        ]
        .map(|(outcome, count)| (outcome, count.load(Ordering::Relaxed)))
    }
}

impl Replicas {
    /// No other replicas.
    pub fn alone() -> Self {
        Self::of(None, None)
    }

    /// Replicas that share this store, and reach each other where that is configured.
    pub fn sharing(link: Link, config: Option<config::Replicas>) -> Self {
        let shared = config.map(|config| Shared {
            config,
            address: OnceLock::new(),
            leaving: AtomicBool::new(false),
        });
        Self::of(Some(link), shared)
    }

    fn of(link: Option<Link>, shared: Option<Shared>) -> Self {
        Self(Arc::new(Inner {
            link,
            own: ReplicaId(u64::from_be_bytes(random::bytes())),
            shared,
            ring: ArcSwap::from_pointee(Ring::own()),
            here: Mutex::default(),
            changed: Notify::new(),
            asked: Notify::new(),
            forwards: Forwards::default(),
            revoked: ArcSwap::default(),
            revoking: Notify::new(),
            seen: Mutex::default(),
        }))
    }

    /// Whether there can be others.
    pub fn is_shared(&self) -> bool {
        self.0.shared.is_some()
    }

    /// Its own name.
    pub fn own(&self) -> ReplicaId {
        self.0.own
    }

    /// What is sealed with.
    pub fn ring(&self) -> Arc<Ring> {
        self.0.ring.load_full()
    }

    /// How many replicas there are, as far as is known.
    pub fn count(&self) -> usize {
        locked(&self.0.here).others.len() + 1
    }

    /// What became of requests that were another replica's.
    pub fn forwards(&self) -> &Forwards {
        &self.0.forwards
    }

    /// Others reach this one here from now on.
    pub fn listens_at(&self, bound: std::net::SocketAddr) -> Result<(), String> {
        let Some(shared) = &self.0.shared else {
            return Ok(());
        };
        let address = shared.config.address(bound)?;
        info!(%address, replica = %self.0.own, "Other replicas find this one here.");
        let _ = shared.address.set(address);
        Ok(())
    }

    /// A new session id: 128 random bits; where there are other replicas, with its owner, sealed for
    /// this agent.
    pub fn session_id(&self, agent: &str) -> String {
        let bytes = random::bytes::<RANDOM>();
        if !self.is_shared() {
            return HEXLOWER.encode(&bytes);
        }
        let ring = self.ring();
        let mut plain = vec![VERSION];
        plain.extend_from_slice(&ring.current().to_be_bytes());
        plain.extend_from_slice(&self.0.own.0.to_be_bytes());
        plain.extend_from_slice(&bytes);
        let tag = ring.tag("session", &[agent.as_bytes(), &plain]);
        plain.extend_from_slice(&tag[..TAG]);
        URL_SAFE_NO_PAD.encode(plain)
    }

    /// Which replica has a session that is not here; none, where no replica made this id for this
    /// agent.
    pub fn keeps(&self, id: &str, agent: &str) -> Option<Place> {
        const PLAIN: usize = 1 + 8 + 8 + RANDOM;
        if !self.is_shared() {
            return None;
        }
        let whole = URL_SAFE_NO_PAD.decode(id).ok()?;
        let (plain, tag) = whole.split_at_checked(PLAIN)?;
        if plain.first() != Some(&VERSION) || tag.len() != TAG {
            return None;
        }
        let (key, owner) = (number(plain.get(1..9)?), number(plain.get(9..17)?));
        let parts = [agent.as_bytes(), plain];
        let is_ours = self.ring().verifies("session", key, &parts, tag);
        let owner = ReplicaId(owner);
        (is_ours && owner != self.0.own).then(|| self.place(owner))
    }

    /// Where that replica is.
    pub fn place(&self, owner: ReplicaId) -> Place {
        if owner == self.0.own {
            return Place::Here;
        }
        let here = locked(&self.0.here);
        if let Some(other) = here.others.get(&owner) {
            return Place::At(other.clone());
        }
        if here.met.is_some_and(|met| met.elapsed() < GONE) {
            return Place::Gone(owner);
        }
        Place::Unsure(owner)
    }

    /// Where that replica is, by a look of this moment.
    pub async fn look_for(&self, owner: ReplicaId) -> Place {
        let changed = self.0.changed.notified();
        self.0.asked.notify_one();
        let _ = tokio::time::timeout(FAREWELL, changed).await;
        self.place(owner)
    }

    /// This replica has handed a task or a state to this subject: the others hear of it in a moment.
    pub fn hand_out(&self, kind: &'static str, handle: &str, subject: &str) {
        let Some(link) = self.0.link.clone() else {
            return;
        };
        let (own, handle, subject) = (self.0.own.0, handle.to_owned(), subject.to_owned());
        tokio::spawn(async move {
            if let Err(error) = link.hand_out(kind, &handle, &subject, own).await {
                debug!(%error, "Other replicas do not hear what was handed out.");
            }
        });
    }

    /// Whether this task or state is this subject's, and which replica has handed it out; nothing
    /// where nobody can be asked.
    pub async fn handed_out(&self, kind: &str, handle: &str, subject: &str) -> Handed {
        match &self.0.link {
            None => Handed::default(),
            Some(link) => {
                let found = link.handed_out(kind, handle, subject).await;
                found.unwrap_or_default()
            }
        }
    }

    /// Whether there is a store in which replicas know what others have handed out.
    pub fn has_store(&self) -> bool {
        self.0.link.is_some()
    }

    /// Resolves when that replica is not there any more. Safe to cancel.
    pub async fn until_gone(&self, owner: ReplicaId) {
        loop {
            let changed = self.0.changed.notified();
            if !locked(&self.0.here).others.contains_key(&owner) {
                return;
            }
            changed.await;
        }
    }

    /// Whether this agent is let in no more.
    pub fn is_revoked(&self, agent: &str) -> bool {
        let revoked = self.0.revoked.load();
        !revoked.is_empty() && revoked.contains(agent)
    }

    /// Resolves when others are revoked than before. Safe to cancel.
    pub async fn until_revoking(&self) {
        self.0.revoking.notified().await;
    }

    /// Meets the others for as long as it runs.
    pub async fn keep(self) {
        let Some(link) = self.0.link.clone() else {
            return;
        };
        loop {
            match &self.0.shared {
                Some(shared) => self.meet(shared, &link).await,
                None => self.listen(&link, false).await,
            }
            tokio::select! {
                () = sleep(MEET) => {}
                () = self.0.asked.notified() => {}
            }
        }
    }

    /// Is there, and hears what all are to know, but is not to be reached.
    async fn listen(&self, link: &Link, leaves: bool) {
        let present = Present {
            replica: self.0.own.0,
            address: None,
            leaves,
            gone: GONE,
            rotate: Duration::ZERO,
            kept: 0,
            known: &BTreeMap::new(),
            fresh: [[0; 32]; 2],
        };
        if let Ok(meeting) = link.meet(&present).await {
            self.revoke(meeting.revoked);
        }
    }

    fn revoke(&self, revoked: HashMap<String, u64>) {
        let is_same = {
            let known = self.0.revoked.load();
            known.len() == revoked.len() && revoked.keys().all(|agent| known.contains(&**agent))
        };
        if !is_same {
            info!(
                agents = revoked.len(),
                "Other agents are revoked than before."
            );
            let agents = revoked.into_keys().map(Arc::from).collect();
            self.0.revoked.store(Arc::new(agents));
            self.0.revoking.notify_one();
        }
    }

    /// Is not there any more: once this is done, nobody hands anything on to this replica.
    pub async fn leave(&self) {
        let Some(link) = &self.0.link else {
            return;
        };
        let Some(shared) = &self.0.shared else {
            let _ = tokio::time::timeout(FAREWELL, self.listen(link, true)).await;
            return;
        };
        shared.leaving.store(true, Ordering::Relaxed);
        let leaving = self.meet(shared, link);
        let _ = tokio::time::timeout(FAREWELL, leaving).await;
        if self.count() > 1 {
            // Until each of them has met the others once more.
            sleep(2 * MEET).await;
        }
    }

    async fn meet(&self, shared: &Shared, link: &Link) {
        let Some(address) = shared.address.get() else {
            return;
        };
        let secret = match shared.config.secret.as_ref().map(SecretText::resolve) {
            Some(Err(error)) => {
                warn!(%error, "The secret of the replicas cannot be had: they do not meet.");
                return;
            }
            Some(Ok(secret)) => Some(secret),
            None => None,
        };
        let ring = self.ring();
        let is_leaving = shared.leaving.load(Ordering::Relaxed);
        let present = Present {
            replica: self.0.own.0,
            address: Some(address),
            leaves: is_leaving,
            gone: GONE,
            rotate: shared.config.rotate,
            kept: KEPT,
            // What the store has lost is what it was before.
            known: ring.raw(),
            fresh: [random::bytes(), random::bytes()],
        };
        // That the store is away is told by the link.
        let Ok(meeting) = link.meet(&present).await else {
            return;
        };
        self.take(meeting, secret.as_ref());
    }

    fn take(&self, meeting: Meeting, secret: Option<&secrecy::SecretString>) {
        self.revoke(meeting.revoked);
        let ring = self.0.ring.load();
        if let Some(next) = ring.with(meeting.keys, meeting.key, KEPT, secret) {
            self.0.ring.store(Arc::new(next));
        }
        let mut here = locked(&self.0.here);
        here.met = Some(Instant::now());
        let mut others = HashMap::new();
        for (id, address) in meeting.here {
            let id = ReplicaId(id);
            if id == self.0.own {
                continue;
            }
            let known = here.others.get(&id);
            let other = match known.filter(|other| other.address == address) {
                Some(known) => known.clone(),
                None => match self.reach(id, address) {
                    Ok(other) => Arc::new(other),
                    Err(cause) => {
                        warn!(replica = %id, %cause, "Another replica has an address that is none.");
                        continue;
                    }
                },
            };
            others.insert(id, other);
        }
        let is_new = others.len() != here.others.len()
            || others.keys().any(|id| !here.others.contains_key(id));
        here.others = others;
        if is_new {
            info!(
                replicas = here.others.len() + 1,
                "Replicas have come or gone."
            );
        }
        drop(here);
        self.0.changed.notify_waiters();
    }

    fn reach(&self, id: ReplicaId, address: String) -> Result<Other, String> {
        let ca = self
            .0
            .shared
            .as_ref()
            .and_then(|it| it.config.ca.as_deref());
        let http = Http::new(Destination {
            url: &address,
            headers: &BTreeMap::new(),
            bearer: None,
            token: None,
            ca,
            is_named: false,
        })?;
        Ok(Other { id, address, http })
    }
}

/// A number of eight bytes.
fn number(bytes: &[u8]) -> u64 {
    bytes
        .iter()
        .fold(0, |sum, byte| sum << 8 | u64::from(*byte))
}

#[cfg(test)]
mod tests;
