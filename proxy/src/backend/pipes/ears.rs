//! What a modern server is listened to for, on behalf of all hosts behind one pipe.
//!
//! One subscription holds what anybody wants; where somebody wants more or less, a new one takes
//! the old one's place once the server has acknowledged it, so that nothing is missed in between.
//! Where the server ends it, it is made again. Who hears what comes of it is the audience's matter.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use chillgate_wire::{Envelope, code, json};
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};
use tracing::debug;

use super::modern::refused;
use super::{Asked, Pipes};
use crate::backend::BackendError;
use crate::backend::pipe::{Audience, Listening, Pipe, Unheard};
use crate::route::listen::{Filter, LISTS};

/// Which version of what is wanted.
type Wanted = (u64, HashSet<String>);
/// What the server tells of, as of which version.
type Told = (u64, HashSet<String>);

/// How long a server may take to acknowledge a subscription.
const ACKNOWLEDGE: Duration = Duration::from_secs(10);
/// How long after its end a subscription is made again, at first and at most.
const SOON: Duration = Duration::from_millis(100);
const LATE: Duration = Duration::from_secs(30);
/// One that has lasted for so long counts as having worked.
const WORKED: Duration = Duration::from_secs(10);
/// Resources that one session may want to hear of.
const RESOURCES: usize = 1000;

/// The one subscription at a server.
#[derive(Debug)]
pub struct Ears {
    wanted: watch::Sender<Wanted>,
    told: watch::Receiver<Told>,
}

impl Ears {
    /// Listens for what this audience wants from now on; what the server tells of then.
    async fn want(&self, audience: &Audience) -> Option<HashSet<String>> {
        let version = self.ask(audience);
        let mut told = self.told.clone();
        let told = told.wait_for(|(of, _)| *of >= version).await.ok()?;
        Some(told.1.clone())
    }

    /// The same, without waiting for it.
    pub(super) fn ask(&self, audience: &Audience) -> u64 {
        let mut version = 0;
        self.wanted.send_modify(|wanted| {
            // Looked at in here: of two who ask at a time the later sees what both want.
            let uris = audience.wanted();
            *wanted = (wanted.0 + u64::from(wanted.1 != uris), uris);
            version = wanted.0;
        });
        version
    }
}

impl Pipes {
    /// Begins to listen to a server that has just been opened.
    pub(super) fn hear_from(&self, pipe: &Arc<Pipe>) {
        let capabilities = pipe.greeting().map(|greeting| greeting.result.clone());
        let capabilities = capabilities.unwrap_or_default();
        let can_tell = |list: &str| {
            let at = json::path(&capabilities, &["capabilities", list, "listChanged"]);
            at.is_some_and(|at| &capabilities[at] == b"true")
        };
        let lists = LISTS.iter().map(|(list, _)| *list);
        let lists: Vec<&'static str> = lists.filter(|list| can_tell(list)).collect();
        let (wanted, asked) = watch::channel((1, pipe.audience().wanted()));
        let (telling, told) = watch::channel((0, HashSet::new()));
        pipe.hear_with(Ears { wanted, told });
        let keeping = Keeping {
            pipe: pipe.clone(),
            lists,
            told: telling,
        };
        self.0.tasks.spawn(keeping.keep(asked));
    }

    /// A host wants to hear of a resource.
    pub(super) async fn hear_more(&self, asked: Asked<'_>) -> Result<Envelope, BackendError> {
        let (session, audience) = (&asked.exchange.session, asked.pipe.audience());
        let uri = asked.request.text(&["params", "uri"]);
        let (Some(uri), Some(ears)) = (uri, asked.pipe.ears()) else {
            let text = "Invalid params: `uri` is missing or no string";
            return refused(asked, code::INVALID_PARAMS, text, None);
        };
        if audience.subscriptions(session) >= RESOURCES {
            let text = format!("more than {RESOURCES} subscriptions; end some first");
            return refused(asked, code::INVALID_PARAMS, &text, None);
        }
        audience.subscribe(session, &uri);
        // Whoever gives up before it is told has not subscribed.
        let mut trying = Trying(Some((asked, &uri)));
        let told = ears.want(audience).await;
        let told = told.ok_or_else(|| BackendError::Lost {
            server: self.0.terms.server.clone(),
            cause: "it ended".to_owned(),
            ended: None,
            retryable: false,
            known: None,
        })?;
        if told.contains(&*uri) {
            trying.0 = None;
            return self.own_result(asked.exchange, b"{}");
        }
        let text = format!("the server does not tell of changes of {uri}");
        refused(asked, code::METHOD_NOT_FOUND, &text, None)
    }

    /// A host no longer wants to.
    pub(super) fn hear_less(&self, asked: Asked<'_>) -> Result<Envelope, BackendError> {
        let uri = asked.request.text(&["params", "uri"]);
        drop(Trying(uri.as_deref().map(|uri| (asked, uri))));
        self.own_result(asked.exchange, b"{}")
    }
}

/// A resource that a host wants to hear of; dropped, it does not.
struct Trying<'a>(Option<(Asked<'a>, &'a str)>);

impl Drop for Trying<'_> {
    fn drop(&mut self) {
        let Some((asked, uri)) = self.0 else { return };
        let audience = asked.pipe.audience();
        audience.unsubscribe(&asked.exchange.session, uri);
        if let Some(ears) = asked.pipe.ears() {
            ears.ask(audience);
        }
    }
}

/// Listens for as long as the server is there.
struct Keeping {
    pipe: Arc<Pipe>,
    /// Lists of whose changes it tells.
    lists: Vec<&'static str>,
    told: watch::Sender<Told>,
}

impl Keeping {
    async fn keep(self, mut wanted: watch::Receiver<Wanted>) {
        let mut listening: Option<Listening> = None;
        let mut tells = HashSet::new();
        let mut was_deaf = false;
        let mut pause = SOON;
        loop {
            let (version, uris) = wanted.borrow_and_update().clone();
            let again = match self.listen(&uris).await {
                None => {
                    (listening, tells) = (None, HashSet::new());
                    None
                }
                Some(Ok(now)) => {
                    tells = Filter::read(&now.acknowledged)
                        .map_or_else(|_| HashSet::new(), |said| said.resources);
                    // The one before is told only now that it is over.
                    listening = Some(now);
                    if std::mem::take(&mut was_deaf) {
                        self.catch_up();
                    }
                    None
                }
                Some(Err(unheard)) => {
                    debug!(server = %self.pipe.server(), ?unheard, "Nobody hears the server.");
                    // One that says no will say it again.
                    (unheard != Unheard::Refused).then(|| {
                        let next = Instant::now() + pause;
                        pause = (pause * 2).min(LATE);
                        next
                    })
                }
            };
            self.told.send_replace((version, tells.clone()));
            let since = Instant::now();
            tokio::select! {
                biased;
                () = self.pipe.until_ended() => return,
                changed = wanted.changed() => if changed.is_err() { return },
                () = until(again) => {}
                () = ended(&mut listening) => {
                    (listening, tells) = (None, HashSet::new());
                    was_deaf = true;
                    self.pipe.cache().clear();
                    if since.elapsed() > WORKED {
                        pause = SOON;
                    }
                    // Not at once, but for somebody who wants something more.
                    tokio::select! {
                        () = self.pipe.until_ended() => return,
                        changed = wanted.changed() => if changed.is_err() { return },
                        () = tokio::time::sleep(pause) => {}
                    }
                    pause = (pause * 2).min(LATE);
                }
            }
        }
    }

    /// Listens for the lists and these resources. `None`: there is nothing to listen for.
    async fn listen(&self, uris: &HashSet<String>) -> Option<Result<Listening, Unheard>> {
        if self.lists.is_empty() && uris.is_empty() {
            return None;
        }
        let filter = Filter {
            lists: self.lists.clone(),
            resources: uris.clone(),
            ..Filter::default()
        };
        let filter = filter.written();
        let asking = self.pipe.listen(filter.as_bytes());
        let heard = tokio::time::timeout(ACKNOWLEDGE, asking).await;
        Some(heard.unwrap_or(Err(Unheard::Lost)))
    }

    /// While nobody heard the server, anything may have changed.
    fn catch_up(&self) {
        self.pipe.cache().clear();
        for list in &self.lists {
            self.pipe.tell_changed(list);
        }
    }
}

async fn until(again: Option<Instant>) {
    match again {
        Some(again) => sleep_until(again).await,
        None => std::future::pending().await,
    }
}

async fn ended(listening: &mut Option<Listening>) {
    match listening {
        Some(listening) => listening.until_ended().await,
        None => std::future::pending().await,
    }
}
