//! Requests that another replica has to answer: handed on to it, and its reply handed back.
//!
//! A session of the older revisions, an HTTP+SSE stream and a call that waits for its host are each
//! one replica's. Whoever reaches another one is answered all the same, or hears precisely why not.
//! The host's credential goes no further: who it is goes on, sealed. What came from another replica
//! is never handed on again.

use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use chillgate_wire::{Envelope, Id, Kind, Limits, code, message, sse};
use futures_util::stream;
use http::request::Parts;
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use tracing::warn;

use super::body::Body;
use super::reply::{events, plain, refuse, refuse_id, worded};
use super::{Caller, Endpoint, KEEP_ALIVE, Reply, SESSION_ID, read};
use crate::client::{HttpError, Reply as Answered};
use crate::drain::Work;
use crate::era::rounds::{self, Ticket};
use crate::gate::handles::{Handles, Named};
use crate::gate::{Gate, Refusal};
use crate::identity::Principal;
use crate::replicas::{Other, Pass, PassError, Place, ReplicaId, digest};
use crate::session::Scope;
use crate::snapshot::Snapshot;

/// What one replica tells another of a host.
const PASS: HeaderName = HeaderName::from_static("x-chillgate-pass");
/// What of a reply is the host's business, beside its body.
const KEPT: [HeaderName; 7] = [
    SESSION_ID,
    header::ALLOW,
    header::RETRY_AFTER,
    header::WWW_AUTHENTICATE,
    header::CONTENT_TYPE,
    HeaderName::from_static("ratelimit"),
    HeaderName::from_static("ratelimit-policy"),
];
/// What of a request stays here: credentials, and what is said between two ends of one connection.
const LEFT: [HeaderName; 13] = [
    header::AUTHORIZATION,
    header::COOKIE,
    header::PROXY_AUTHORIZATION,
    header::CONNECTION,
    header::CONTENT_LENGTH,
    header::TRANSFER_ENCODING,
    header::TE,
    header::TRAILER,
    header::UPGRADE,
    header::EXPECT,
    header::ORIGIN,
    PASS,
    HeaderName::from_static("keep-alive"),
];
/// A stream of another replica says something at least this often.
const SILENCE: Duration = KEEP_ALIVE.saturating_mul(3);
/// When a host may try again whose replica cannot be reached.
const AGAIN: HeaderValue = HeaderValue::from_static("5");

/// What a request says besides its body.
pub(super) struct Handed<'r> {
    pub(super) head: &'r Parts,
    pub(super) scope: &'r Scope,
    pub(super) who: &'r Principal,
    pub(super) peer: Option<std::sync::Arc<str>>,
}

impl Endpoint {
    /// What another replica says of the host whose request it hands on.
    pub(super) fn passed(&self, head: &Parts) -> Result<Pass, Box<Reply>> {
        let shown = head.headers.get(PASS).and_then(|pass| pass.to_str().ok());
        let replicas = self.gate.replicas();
        let accepted = replicas.accept(
            shown.unwrap_or_default(),
            head.method.as_str(),
            target(head),
        );
        // Who is revoked is turned away where it came to, which may not have heard of it yet.
        let accepted = match accepted {
            Ok(pass) if replicas.is_revoked(&pass.who.agent) => Err(PassError::Revoked),
            other => other,
        };
        accepted.map_err(|error| {
            let status = StatusCode::MISDIRECTED_REQUEST;
            Box::new(refuse(status, code::INVALID_REQUEST, &error.to_string()))
        })
    }

    /// Where the session is that a request names, if it is another replica's.
    pub(super) fn elsewhere(&self, headers: &HeaderMap, subject: &str) -> Option<Place> {
        let replicas = self.gate.replicas();
        if self.is_inner || !replicas.is_shared() || self.serves_modern(headers) {
            return None;
        }
        let mut named = headers.get_all(SESSION_ID).iter();
        let (Some(name), None) = (named.next(), named.next()) else {
            return None;
        };
        let name = name.to_str().ok()?;
        match self.gate.sessions().find(name, subject) {
            Some(_) => None,
            None => replicas.keeps(name, subject),
        }
    }

    /// The task or state that a modern request names, where another replica may know it.
    pub(super) fn named(&self, message: &Envelope) -> Option<Named> {
        let asks = !self.is_inner && self.gate.replicas().has_store();
        asks.then(|| Named::of(message)).flatten()
    }

    /// The reply to a request whose task another replica has, or that names what is another's; none
    /// where it is answered here.
    pub(super) async fn named_elsewhere(
        &self,
        named: Named,
        message: &Envelope,
        head: &Parts,
        scope: &Scope,
        who: &Principal,
        caller: &Caller<'_>,
    ) -> Option<Reply> {
        let Named { kind, handle } = named;
        let replicas = self.gate.replicas();
        let is_parked = || {
            let bound = rounds::bound(&who.subject, scope, message);
            Ticket::open(&replicas.ring(), &handle, &bound).is_ok()
        };
        if kind == "state" && is_parked() {
            return None;
        }
        let handed = replicas.handed_out(kind, &handle, &who.subject).await;
        let Some(owner) = handed.own else {
            // Nobody's: such as one that a server has made up itself, which it may judge.
            let refusal = handed.is_known.then(|| Handles::unknown(kind))?;
            return Some(worded(
                StatusCode::BAD_REQUEST,
                message.id().as_ref(),
                &refusal,
            ));
        };
        // What a server says of a state is the same wherever it is asked.
        let owner = Some(ReplicaId(owner)).filter(|_| kind == "task" && replicas.is_shared())?;
        match replicas.place(owner) {
            place @ Place::At(_) => {
                let peer = caller.peer.address.clone();
                let handed = Handed {
                    head,
                    scope,
                    who,
                    peer,
                };
                let snapshot = self.gate.snapshot();
                Some(
                    self.hand_on(place, handed, message.raw().clone(), &snapshot)
                        .await,
                )
            }
            // A task of a server elsewhere goes on without the replica that was asked for it.
            Place::Here | Place::Gone(_) | Place::Unsure(_) => None,
        }
    }

    /// Has another replica answer a request whose body has not been read.
    pub(super) async fn hand_over(
        &self,
        place: Place,
        handed: Handed<'_>,
        body: Incoming,
        caller: &Caller<'_>,
        snapshot: &Snapshot,
    ) -> Result<Reply, Box<Reply>> {
        let head = handed.head;
        if head.method != Method::POST {
            return Ok(self.hand_on(place, handed, Bytes::new(), snapshot).await);
        }
        read::check_content(&head.headers)?;
        let (cap, budget) = (snapshot.wire.message, self.gate.budget());
        let (raw, _held) = read::whole(body, &head.headers, cap, budget, caller.place).await?;
        Ok(self.hand_on(place, handed, raw, snapshot).await)
    }

    /// Has another replica answer a request with this body.
    pub(super) async fn hand_on(
        &self,
        place: Place,
        handed: Handed<'_>,
        raw: Bytes,
        snapshot: &Snapshot,
    ) -> Reply {
        let id = request_id(&raw, &snapshot.wire);
        let modern = self.serves_modern(&handed.head.headers);
        let forwards = self.gate.replicas().forwards();
        let other = match place {
            Place::At(other) => other,
            Place::Here => return no_such_session(id.as_ref()),
            Place::Gone(_) | Place::Unsure(_) => {
                let count = match place {
                    Place::Gone(_) => &forwards.gone,
                    _ => &forwards.unreachable,
                };
                count.fetch_add(1, Ordering::Relaxed);
                return lost(id.as_ref(), &place, modern);
            }
        };
        if self.gate.drain().refuses() {
            let refusal = Refusal::Draining;
            return worded(refusal.status(), id.as_ref(), &refusal);
        }
        // A host's stream is no work that an end would wait for.
        let work = (handed.head.method != Method::GET).then(|| self.gate.drain().work());
        let asked = self.ask(&other, &handed, raw);
        let answered = tokio::select! {
            answered = asked => answered,
            () = self.gate.replicas().until_gone(other.id) => {
                let cause = "it has gone before it answered".to_owned();
                Err(HttpError::Broken(cause))
            }
        };
        let answered = match answered {
            Ok(answered) if answered.status() != StatusCode::MISDIRECTED_REQUEST => answered,
            Ok(denied) => {
                let said = denied.body(4 << 10).await.unwrap_or_default();
                let said = String::from_utf8_lossy(&said).into_owned();
                warn!(replica = %other.id, %said, "Another replica does not take what is handed on.");
                forwards.unreachable.fetch_add(1, Ordering::Relaxed);
                return unreachable(id.as_ref(), &other, false);
            }
            Err(error) => {
                warn!(replica = %other.id, address = %other.address, %error,
                    "Another replica could not be reached.");
                let was_sent = matches!(error, HttpError::Broken(_));
                // One that has ended in order has said so.
                let place = self.gate.replicas().look_for(other.id).await;
                if !was_sent && matches!(place, Place::Gone(_)) {
                    forwards.gone.fetch_add(1, Ordering::Relaxed);
                    return lost(id.as_ref(), &place, modern);
                }
                forwards.unreachable.fetch_add(1, Ordering::Relaxed);
                return unreachable(id.as_ref(), &other, was_sent);
            }
        };
        forwards.answered.fetch_add(1, Ordering::Relaxed);
        self.hand_back(answered, &other, id, work).await
    }

    async fn ask(
        &self,
        other: &Other,
        handed: &Handed<'_>,
        raw: Bytes,
    ) -> Result<Answered, HttpError> {
        let head = handed.head;
        let pass = Pass {
            who: handed.who.clone(),
            prefix: match handed.scope {
                Scope::Merged(prefix) => *prefix,
                Scope::One(_) => self.prefix,
            },
            origin: self.origin(&head.headers),
            peer: handed.peer.clone(),
            body: digest(&raw),
        };
        let replicas = self.gate.replicas();
        let pass = replicas.pass(other.id, head.method.as_str(), target(head), &pass);
        let mut headers = head.headers.clone();
        for name in LEFT {
            headers.remove(name);
        }
        let pass = HeaderValue::try_from(pass).expect("base64 is visible ASCII");
        headers.insert(PASS, pass);
        let method = head.method.clone();
        other.http.hand_on(method, target(head), headers, raw).await
    }

    /// The reply of another replica as this one's.
    async fn hand_back(
        &self,
        answered: Answered,
        other: &Other,
        id: Option<Id>,
        work: Option<Work>,
    ) -> Reply {
        let status = answered.status();
        let kept = KEPT.map(|name| (answered.header(&name), name));
        let mut reply = if answered.is_events() {
            let relaying = Relaying {
                body: answered.into_body(),
                gate: self.gate.clone(),
                other: other.id,
                id,
                is_stream: work.is_none(),
                is_between: true,
                _work: work,
            };
            events(Body::stream(stream::unfold(
                Some(relaying),
                |state| async move { state?.next().await },
            )))
        } else {
            match answered.body(usize::MAX).await {
                Ok(body) if body.is_empty() => plain(status, Body::empty()),
                Ok(body) => plain(status, Body::full(body)),
                Err(_) => return unreachable(id.as_ref(), other, true),
            }
        };
        *reply.status_mut() = status;
        for (value, name) in kept {
            if let Some(value) = value {
                reply.headers_mut().insert(name, value);
            }
        }
        reply
    }
}

/// An event stream of another replica on its way to the host.
struct Relaying {
    body: Incoming,
    gate: Gate,
    other: crate::replicas::ReplicaId,
    /// The request that it answers.
    id: Option<Id>,
    /// It is a stream that goes on until somebody ends it.
    is_stream: bool,
    /// The last event is whole.
    is_between: bool,
    _work: Option<Work>,
}

impl Relaying {
    async fn next(mut self) -> Option<(Bytes, Option<Self>)> {
        loop {
            let frame = tokio::select! {
                biased;
                frame = self.body.frame() => frame,
                () = self.gate.replicas().until_gone(self.other) => return self.broken(),
                () = tokio::time::sleep(SILENCE) => return self.broken(),
                () = self.gate.drain().until_refusing(), if self.is_stream => return None,
            };
            match frame {
                None => return None,
                Some(Ok(frame)) => {
                    if let Ok(data) = frame.into_data() {
                        self.is_between = data.ends_with(b"\n\n");
                        return Some((data, Some(self)));
                    }
                }
                Some(Err(_)) => return self.broken(),
            }
        }
    }

    /// The host hears that nobody will answer any more.
    fn broken(self) -> Option<(Bytes, Option<Self>)> {
        // What comes after half an event would make it a whole one.
        let id = self.id.filter(|_| self.is_between)?;
        let text = "the replica of chillgate that has this session broke off; whether the call was \
                    carried out is not known";
        let raw = message::error(Some(id.as_bytes()), code::REPLICA_DOWN, text, None);
        let mut out = Vec::new();
        sse::event(&raw, None, &mut out);
        Some((out.into(), None))
    }
}

/// The path with its query.
fn target(head: &Parts) -> &str {
    head.uri
        .path_and_query()
        .map_or("/", |target| target.as_str())
}

fn request_id(raw: &Bytes, limits: &Limits) -> Option<Id> {
    let message = Envelope::parse(raw.clone(), limits).ok()?;
    (message.kind() == Kind::Request).then(|| message.id())?
}

fn no_such_session(id: Option<&Id>) -> Reply {
    let text = "no such session; it has ended or never was: `initialize` again";
    refuse_id(StatusCode::NOT_FOUND, id, code::INVALID_REQUEST, text)
}

/// Its replica is there, as far as is known, and gives no answer.
fn unreachable(id: Option<&Id>, other: &Other, was_sent: bool) -> Reply {
    let what = if was_sent {
        "broke off; whether the request was carried out is not known"
    } else {
        "cannot be reached; nothing was carried out, try again in a few seconds"
    };
    let text = format!(
        "the replica of chillgate that has this session ({}) {what}",
        other.id
    );
    let status = StatusCode::SERVICE_UNAVAILABLE;
    let mut reply = refuse_id(status, id, code::REPLICA_DOWN, &text);
    reply.headers_mut().insert(header::RETRY_AFTER, AGAIN);
    reply
}

/// Its replica is not there any more, or nobody knows.
fn lost(id: Option<&Id>, place: &Place, modern: bool) -> Reply {
    let refusal = Refusal::Elsewhere(place.clone());
    if modern || !matches!(place, Place::Gone(_)) {
        return worded(refusal.status(), id, &refusal);
    }
    let text = "the replica of chillgate that had this session has gone, and the session with it: \
                `initialize` again";
    refuse_id(StatusCode::NOT_FOUND, id, code::INVALID_REQUEST, text)
}
