//! What a modern server is listened to for, on behalf of all hosts behind one pipe.
//!
//! One subscription holds what anybody wants; where somebody wants more or less, a new one takes
//! the old one's place once the server has acknowledged it, so that nothing is missed in between.
//! Where the server ends it, it is made again. Who hears what comes of it is the audience's matter.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use chillgate_wire::{Envelope, code, json};
use tokio::sync::watch;
use tracing::debug;

use super::modern::refused;
use super::{Asked, Pipes};
use crate::backend::BackendError;
use crate::backend::pipe::{Listening, Pipe};
use crate::route::listen::LISTS;

/// The resources that anybody wants, and which version of that it is.
type Wanted = (u64, BTreeSet<String>);
/// What the server tells of, as of which version.
type Told = (u64, BTreeSet<String>);

/// How long a server may take to acknowledge a subscription.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long after its end a subscription is made again, at first and at most.
const SOON: Duration = Duration::from_millis(100);
const LATE: Duration = Duration::from_secs(30);
/// One that has lasted for so long counts as having worked.
const WORKED: Duration = Duration::from_secs(10);

/// The one subscription at a server.
#[derive(Debug)]
pub struct Ears {
    wanted: watch::Sender<Wanted>,
    told: watch::Receiver<Told>,
}

impl Ears {
    /// These resources are wanted from now on; what the server tells of then.
    async fn want(&self, uris: BTreeSet<String>) -> Option<BTreeSet<String>> {
        let version = self.ask(uris);
        let mut told = self.told.clone();
        let told = told.wait_for(|(of, _)| *of >= version).await.ok()?;
        Some(told.1.clone())
    }

    /// The same, without waiting for it.
    pub(super) fn ask(&self, uris: BTreeSet<String>) -> u64 {
        let mut version = 0;
        self.wanted.send_modify(|wanted| {
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
        let changes = |list: &str| {
            let said = capabilities.as_ref()?;
            let at = json::path(said, &["capabilities", list, "listChanged"])?;
            (&said[at] == b"true").then_some(())
        };
        let lists: Vec<String> = LISTS
            .iter()
            .filter(|(list, _)| changes(list).is_some())
            .map(|(_, member)| format!(r#""{member}":true"#))
            .collect();
        let (wanted, asked) = watch::channel((1, pipe.audience().wanted()));
        let (telling, told) = watch::channel((0, BTreeSet::new()));
        pipe.hear_with(Ears { wanted, told });
        self.0
            .tasks
            .spawn(keep(pipe.clone(), lists, asked, telling));
    }

    /// A host wants to hear of a resource.
    pub(super) async fn hear_more(&self, asked: Asked<'_>) -> Result<Envelope, BackendError> {
        let (session, audience) = (&asked.exchange.session, asked.pipe.audience());
        let uri = asked.request.text(&["params", "uri"]);
        let (Some(uri), Some(ears)) = (uri, asked.pipe.ears()) else {
            let text = "Invalid params: `uri` is missing or no string";
            return refused(asked, code::INVALID_PARAMS, text, None);
        };
        audience.subscribe(session, &uri);
        let told = ears.want(audience.wanted()).await;
        let told = told.ok_or_else(|| BackendError::Lost {
            server: self.0.terms.server.clone(),
            cause: "it ended".to_owned(),
        })?;
        if told.contains(&*uri) {
            return self.own_result(asked.exchange, b"{}");
        }
        audience.unsubscribe(session, &uri);
        ears.ask(audience.wanted());
        let text = format!("the server does not tell of changes of {uri}");
        refused(asked, code::METHOD_NOT_FOUND, &text, None)
    }

    /// A host no longer wants to.
    pub(super) fn hear_less(&self, asked: Asked<'_>) -> Result<Envelope, BackendError> {
        let audience = asked.pipe.audience();
        if let Some(uri) = asked.request.text(&["params", "uri"]) {
            audience.unsubscribe(&asked.exchange.session, &uri);
        }
        if let Some(ears) = asked.pipe.ears() {
            ears.ask(audience.wanted());
        }
        self.own_result(asked.exchange, b"{}")
    }
}

/// Listens for as long as the server is there.
async fn keep(
    pipe: Arc<Pipe>,
    lists: Vec<String>,
    mut wanted: watch::Receiver<Wanted>,
    told: watch::Sender<Told>,
) {
    let mut listening: Option<Listening> = None;
    let mut pause = SOON;
    loop {
        let (version, uris) = wanted.borrow_and_update().clone();
        let mut is_final = true;
        if lists.is_empty() && uris.is_empty() {
            listening = None;
            told.send_replace((version, uris));
        } else {
            let filter = filter(&lists, &uris);
            let asking = pipe.listen(filter.as_bytes());
            let heard = tokio::time::timeout(PATIENCE, asking).await;
            match heard {
                Ok(Ok(now)) => {
                    let tells = agreed(&now.acknowledged);
                    // The one before is told only now that it is over.
                    listening = Some(now);
                    told.send_replace((version, tells));
                }
                failed => {
                    // One that says no will say it again.
                    is_final = matches!(&failed, Ok(Err(BackendError::Invalid { .. })));
                    debug!(?failed, "A server does not let itself be listened to.");
                    if is_final || listening.is_none() {
                        told.send_replace((version, BTreeSet::new()));
                    }
                }
            }
        }
        let since = tokio::time::Instant::now();
        let ended = async {
            match &mut listening {
                Some(listening) => listening.until_ended().await,
                None if is_final => std::future::pending().await,
                None => {}
            }
        };
        tokio::select! {
            biased;
            () = pipe.until_ended() => return,
            changed = wanted.changed() => {
                if changed.is_err() {
                    return;
                }
            }
            () = ended => {
                listening = None;
                pipe.cache().clear();
                if since.elapsed() > WORKED {
                    pause = SOON;
                }
                tokio::select! {
                    () = tokio::time::sleep(pause) => {}
                    () = pipe.until_ended() => return,
                }
                pause = (pause * 2).min(LATE);
            }
        }
    }
}

fn filter(lists: &[String], uris: &BTreeSet<String>) -> String {
    let mut members = lists.to_vec();
    if !uris.is_empty() {
        let uris: Vec<_> = uris.iter().map(|uri| json::quote(uri)).collect();
        members.push(format!(r#""resourceSubscriptions":[{}]"#, uris.join(",")));
    }
    format!("{{{}}}", members.join(","))
}

fn agreed(acknowledged: &Envelope) -> BTreeSet<String> {
    let uris = ["params", "notifications", "resourceSubscriptions"];
    let uris = acknowledged.get(&uris).unwrap_or(b"[]");
    json::items(uris)
        .filter_map(|at| json::text(&uris[at]).map(std::borrow::Cow::into_owned))
        .collect()
}
