//! Streamable HTTP towards hosts, revisions 2025-03-26 to 2025-11-25.
//!
//! POST brings one message (or a 2025-03-26 batch), answered as JSON or as an event stream; GET
//! opens the session's own stream; DELETE ends the session. A host that goes away has not
//! cancelled anything: its call runs on. The order of checks is: path, `Host` and `Origin`,
//! identity, headers, size, JSON, era, session. Listening and TLS are in `streamable_http/listen`; what
//! is another replica's is handed on in `streamable_http/elsewhere`.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use chillgate_wire::{
    Envelope, Era, FaultKind, Id, Kind, Revision, batch as batches, classify, code,
};
use http::request::Parts;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode, header};
use hyper::body::Incoming;

use crate::config::{Eras, Front, Prefix};
use crate::exchange::{Ended, Exchange};
use crate::front::batch as together;
use crate::front::origin::Origins;
use crate::front::running::Running;
use crate::gate::Gate;
use crate::identity::{Denied, Found, Identities, Peer, Principal, WELL_KNOWN};
use crate::replicas::digest;
use crate::route::listen::LISTEN;
use crate::session::{Opening, Scope, Session};
use crate::snapshot::Snapshot;

pub mod body;
mod elsewhere;
pub mod flow;
mod http_sse;
pub mod listen;
mod modern;
pub mod read;
mod reply;
mod resumable;

use body::Body;
use elsewhere::Handed;
pub use http_sse::Streams;
use listen::OneRequest;
use modern::Begun;
use read::Rather;
use reply::{
    dressed, events, faulty, for_origin, not_allowed, not_modern, plain, preflight, refuse,
    refuse_id, unauthorized, worded,
};

const SESSION_ID: HeaderName = HeaderName::from_static("mcp-session-id");
const PROTOCOL_VERSION: HeaderName = HeaderName::from_static("mcp-protocol-version");

/// How often a quiet event stream carries a comment, so that nothing between the host and
/// chillgate takes the silence for its end.
const KEEP_ALIVE: Duration = crate::exchange::QUIET;

/// What all connections of one front share.
#[derive(Debug)]
pub struct Endpoint {
    gate: Gate,
    origins: Origins,
    prefix: Prefix,
    eras: Eras,
    /// It is served over TLS.
    is_secure: bool,
    /// None: HTTP+SSE is not served.
    streams: Option<Streams>,
    /// It serves other replicas, which say who their hosts are.
    is_inner: bool,
}

/// Who is at the other end of the connection.
struct Caller<'c> {
    peer: Peer,
    place: &'c OneRequest,
    /// The digest of the body that another replica hands on.
    body: Option<[u8; 32]>,
}

impl Caller<'_> {
    /// A body is the one that was handed on.
    fn check(&self, raw: &[u8]) -> Result<(), Box<Reply>> {
        if self.body.is_none_or(|body| body == digest(raw)) {
            return Ok(());
        }
        let text = "this body is not the one that the other replica has handed on";
        let status = StatusCode::MISDIRECTED_REQUEST;
        Err(Box::new(refuse(status, code::INVALID_REQUEST, text)))
    }
}

/// A reply that says why there is no better one.
type Reply = Response<Body>;

impl Endpoint {
    /// An endpoint that checks `Host` and `Origin` against `origins`; `streams` are those of all fronts.
    pub fn new(gate: Gate, origins: Origins, front: &Front, streams: Streams) -> Self {
        Self {
            gate,
            origins,
            prefix: front.prefix,
            eras: front.eras,
            is_secure: front.tls.is_some(),
            streams: front.http_sse.then_some(streams),
            is_inner: false,
        }
    }

    /// An endpoint for the other replicas alone.
    #[must_use]
    pub fn inner(mut self) -> Self {
        self.is_inner = true;
        self
    }

    /// One HTTP request. An event stream is in use until its body ends.
    pub fn serve(
        self: Arc<Self>,
        request: Request<Incoming>,
        peer: Peer,
        place: OneRequest,
    ) -> impl Future<Output = Result<Reply, Infallible>> + Send {
        // Apart from here on: the head is looked at in place, and only the body goes further. And
        // outside of the future, which would hold the whole request beside its parts.
        let (head, body) = request.into_parts();
        // A host that closes a stream has cancelled what is modern; and nobody hears a session's
        // stream that it has closed.
        let is_cut = head.method == Method::GET || self.serves_modern(&head.headers);
        async move {
            let mut reply = match self.check(&head) {
                Ok(origin) => {
                    let caller = Caller {
                        peer,
                        place: &place,
                        body: None,
                    };
                    let routed = self.route(&head, body, caller).await;
                    for_origin(routed.unwrap_or_else(|refused| *refused), origin)
                }
                Err(refused) => *refused,
            };
            reply.body_mut().keep(place, is_cut);
            Ok(dressed(reply, head.headers))
        }
    }

    /// What any request must keep to; the web page that asks, if one does.
    fn check(&self, head: &Parts) -> Result<Option<HeaderValue>, Box<Reply>> {
        if let Some(refused) = read::check_framing(&head.headers) {
            return Err(refused);
        }
        // It is checked where the host has come to.
        if self.is_inner {
            return Ok(None);
        }
        let authority = head.uri.authority().map(http::uri::Authority::as_str);
        self.origins
            .check(&head.headers, authority)
            .map_err(|foreign| {
                let text = foreign.to_string();
                Box::new(refuse(StatusCode::FORBIDDEN, code::INVALID_REQUEST, &text))
            })
    }

    async fn route(
        self: &Arc<Self>,
        head: &Parts,
        body: Incoming,
        mut caller: Caller<'_>,
    ) -> Result<Reply, Box<Reply>> {
        let snapshot = self.gate.snapshot();
        let passed = self.is_inner.then(|| self.passed(head)).transpose()?;
        let prefix = passed.as_ref().map_or(self.prefix, |passed| passed.prefix);
        let path = head.uri.path();
        let described = path.strip_prefix(WELL_KNOWN);
        let path = described.unwrap_or(path);
        let (scope, is_sse) = self.scope(path, prefix, &snapshot)?;
        if head.method == Method::OPTIONS {
            return Ok(preflight(&head.headers));
        }
        if described.is_some() {
            return self.describe(head, path, &snapshot.identities);
        }
        let (who, origin) = if let Some(passed) = passed {
            (caller.peer.address, caller.body) = (passed.peer, Some(passed.body));
            (passed.who, passed.origin)
        } else {
            let who = self.who(head, &caller.peer, &snapshot.identities).await?;
            (who, self.origin(&head.headers))
        };
        let until = who.until;
        let routed = if is_sse {
            let on_stream = self.route_sse(head, body, scope, who, caller, &snapshot);
            Box::pin(on_stream).await
        } else {
            self.route_in(head, body, scope, who, caller, &snapshot)
                .await
        };
        let mut reply = routed?;
        if reply.status() == StatusCode::FORBIDDEN
            && let Some(scope) = reply.extensions_mut().remove::<reply::Lacking>()
        {
            let challenge = snapshot.identities.step_up(&scope.0, &origin, path);
            reply
                .headers_mut()
                .insert(header::WWW_AUTHENTICATE, challenge);
        }
        // What lasts does not outlast the credential that it was opened with.
        if let Some(until) = until
            && self.lasts(head)
        {
            reply.body_mut().end_at(until);
        }
        Ok(reply)
    }

    /// Who asks; an issuer may have to be asked first.
    async fn who(
        &self,
        head: &Parts,
        peer: &Peer,
        identities: &Identities,
    ) -> Result<Principal, Box<Reply>> {
        let path = head.uri.path();
        let resource = || identities.resource(&self.origin(&head.headers), path);
        let who = match identities.of(&head.headers, peer, resource) {
            Found::Now(who) => who,
            Found::Later(asking) => asking.await,
        };
        let replicas = self.gate.replicas();
        let who = match who {
            Ok(who) if replicas.is_revoked(&who.agent) => Err(Denied::Revoked),
            other => other,
        };
        who.map_err(|denied| {
            let origin = self.origin(&head.headers);
            let challenge = identities.challenge(&denied, &origin, path);
            Box::new(unauthorized(&denied, challenge))
        })
    }

    /// What a resource is, for whoever has to find out who could let it in.
    fn describe(
        &self,
        head: &Parts,
        path: &str,
        identities: &Identities,
    ) -> Result<Reply, Box<Reply>> {
        if head.method != Method::GET && head.method != Method::HEAD {
            return Err(not_allowed(
                "GET, HEAD, OPTIONS",
                "metadata can be read only",
            ));
        }
        let origin = self.origin(&head.headers);
        let metadata = identities.metadata(&origin, path).ok_or_else(|| {
            let text = "no issuer of tokens is configured here";
            Box::new(refuse(StatusCode::NOT_FOUND, code::INVALID_REQUEST, text))
        })?;
        Ok(plain(StatusCode::OK, Body::full(metadata.into())))
    }

    /// Where the host says that it talks to.
    fn origin(&self, headers: &HeaderMap) -> String {
        let scheme = if self.is_secure { "https" } else { "http" };
        let host = headers
            .get(header::HOST)
            .and_then(|host| host.to_str().ok());
        format!("{scheme}://{}", host.unwrap_or("localhost"))
    }

    /// Whether a request is for a stream that goes on until somebody ends it.
    fn lasts(&self, head: &Parts) -> bool {
        let method = head.headers.get(modern::METHOD);
        head.method == Method::GET
            || self.serves_modern(&head.headers)
                && method.is_some_and(|method| method.as_bytes() == LISTEN.as_bytes())
    }

    async fn route_in(
        self: &Arc<Self>,
        head: &Parts,
        body: Incoming,
        scope: Scope,
        who: Principal,
        caller: Caller<'_>,
        snapshot: &Snapshot,
    ) -> Result<Reply, Box<Reply>> {
        if let Some(place) = self.elsewhere(&head.headers, &who.subject) {
            let handed = Handed {
                head,
                scope: &scope,
                who: &who,
                peer: caller.peer.address.clone(),
            };
            return Box::pin(self.hand_over(place, handed, body, &caller, snapshot)).await;
        }
        match head.method {
            Method::POST => self.post(head, body, scope, who, caller, snapshot).await,
            // The revision has neither of the two.
            Method::GET | Method::DELETE if self.serves_modern(&head.headers) => {
                Err(not_allowed("POST", "revision 2026-07-28 has POST alone"))
            }
            Method::GET => self.get(&head.headers, &scope, &who),
            Method::DELETE => {
                let session = self.session(&head.headers, &scope, &who, None)?;
                Box::pin(self.gate.close(&session, Ended::Session)).await;
                Ok(plain(StatusCode::OK, Body::empty()))
            }
            _ => {
                let text = "this endpoint takes POST, GET and DELETE";
                Err(not_allowed("POST, GET, DELETE, OPTIONS", text))
            }
        }
    }

    /// What a path talks to, and whether over HTTP+SSE.
    fn scope(
        &self,
        asked: &str,
        prefix: Prefix,
        snapshot: &Snapshot,
    ) -> Result<(Scope, bool), Box<Reply>> {
        let path = asked.strip_suffix('/').unwrap_or(asked);
        let (place, is_sse) = match (path.strip_suffix("/mcp"), path.strip_suffix("/sse")) {
            (Some(place), _) => (Some(place), false),
            (None, place) => (place.filter(|_| self.streams.is_some()), true),
        };
        if place == Some("") {
            return Ok((Scope::Merged(prefix), is_sse));
        }
        let name = place.and_then(|place| place.strip_prefix("/server/"));
        if let Some(server) = name.and_then(|name| snapshot.routes.get(name)) {
            return Ok((Scope::One(server.name().clone()), is_sse));
        }
        // Whoever asks has not said who it is yet: no server is named.
        let text = format!(
            "nothing is served at {asked}; there is /mcp and /server/NAME/mcp, and /sse for HTTP+SSE"
        );
        Err(Box::new(refuse(
            StatusCode::NOT_FOUND,
            code::INVALID_REQUEST,
            &text,
        )))
    }

    async fn post(
        &self,
        head: &Parts,
        body: Incoming,
        scope: Scope,
        who: Principal,
        caller: Caller<'_>,
        snapshot: &Snapshot,
    ) -> Result<Reply, Box<Reply>> {
        let headers = &head.headers;
        let rather = read::check_headers(headers)?;
        let cap = snapshot.wire.message;
        let (raw, _held) =
            read::whole(body, headers, cap, self.gate.budget(), caller.place).await?;
        caller.check(&raw)?;
        if batches::is_batch(&raw) {
            return Box::pin(self.post_batch(headers, raw, &scope, &who, snapshot)).await;
        }
        let message =
            Envelope::parse(raw, &snapshot.wire).map_err(|fault| Box::new(faulty(&fault)))?;
        let single = read::single(headers, &PROTOCOL_VERSION);
        let version = single.as_ref().ok().copied().flatten();
        let version = version.map(|value| value.to_str().unwrap_or("?"));
        // Several headers say nothing of the era, and are refused in the words of the body's.
        if classify(&message, version) == Era::Modern {
            if self.eras == Eras::Legacy {
                return Err(Box::new(not_modern(&message)));
            }
            if let Some(named) = self.named(&message) {
                let elsewhere = self.named_elsewhere(named, &message, head, &scope, &who, &caller);
                if let Some(reply) = Box::pin(elsewhere).await {
                    return Ok(reply);
                }
            }
            let place = caller.place;
            let outbox = snapshot.config.limits.outbox;
            let running = match self.begin_modern(headers, message, scope, who, outbox, place)? {
                Begun::Call(running) => running,
                Begun::Reply(reply) => return Ok(reply),
                // Boxed like everything rare here: the size of this future is paid with each request.
                Begun::Retry(retry) => {
                    let retried = self.retry_modern(*retry, head, &caller, snapshot);
                    match Box::pin(retried).await? {
                        Ok(running) => running,
                        Err(reply) => return Ok(reply),
                    }
                }
            };
            return tokio::select! {
                biased;
                reply = self.run(running, rather) => Ok(reply),
                // Closing is cancelling: the call is dropped, and nobody reads this.
                () = place.until_ended() => Ok(plain(StatusCode::OK, Body::empty())),
            };
        }
        single?;
        check_version(version, message.id().as_ref())?;
        if message.method() == Some("initialize") && message.kind() == Kind::Request {
            return Box::pin(self.initialize(message, scope, who, caller.peer.address, snapshot))
                .await;
        }
        let session = self.session(headers, &scope, &who, message.id().as_ref())?;
        if message.kind() == Kind::Request {
            let exchange = exchange(&message, &session, &who, snapshot)?;
            let running = Running::new(self.gate.clone(), exchange, message);
            return Ok(self.run(running, rather).await);
        }
        match Box::pin(self.gate.hear(&session, message)).await {
            Ok(()) => Ok(plain(StatusCode::ACCEPTED, Body::empty())),
            Err(refusal) => Err(Box::new(worded(StatusCode::BAD_REQUEST, None, &refusal))),
        }
    }

    /// Opens a session; if its `initialize` fails there is none.
    async fn initialize(
        &self,
        message: Envelope,
        scope: Scope,
        who: Principal,
        peer: Option<Arc<str>>,
        snapshot: &Snapshot,
    ) -> Result<Reply, Box<Reply>> {
        let id = message.id();
        let opening = Opening {
            who: who.clone(),
            scope,
            greeting: Bytes::copy_from_slice(message.params().unwrap_or(b"{}")),
            transport: "streamable-http",
            peer: peer.map(|peer| peer.to_string()),
            line: None,
            era: Era::Legacy,
        };
        let session = self
            .gate
            .open(opening)
            .map_err(|refusal| Box::new(worded(refusal.status(), id.as_ref(), &refusal)))?;
        let exchange = exchange(&message, &session, &who, snapshot)?;
        // Its answer is plain JSON: what a server says meanwhile waits for the session's stream.
        exchange.speak_aside();
        let answer = self.gate.handle(exchange.clone(), message).await;
        let is_open = answer
            .message
            .as_ref()
            .is_some_and(|answer| answer.result().is_some());
        let mut reply = reply::of(answer);
        if is_open {
            let id = HeaderValue::from_str(&session.id).expect("a session id is visible ASCII");
            reply.headers_mut().insert(SESSION_ID, id);
        } else {
            self.gate.close(&session, Ended::Session).await;
        }
        Ok(reply)
    }

    /// Runs a request: a plain JSON answer if nothing comes before it and the host would not rather
    /// have a stream, else an event stream.
    async fn run(&self, mut running: Running, rather: Rather) -> Reply {
        let exchange = running.exchange().clone();
        let (first, answer) = loop {
            tokio::select! {
                biased;
                answer = &mut running => match exchange.mailbox.take() {
                    None if rather == Rather::Json || !answer.is_plain() => return reply::of(answer),
                    first => break (first, Some(answer)),
                },
                // One that has been long already, when its host comes back to it.
                () = std::future::ready(()), if exchange.is_to_stream() => break (None, None),
                first = exchange.mailbox.next_or_nudge() => {
                    let first = first.flatten();
                    if first.is_some() || exchange.is_to_stream() {
                        break (first, None);
                    }
                }
            }
        };
        events(match exchange.session.era() {
            Era::Legacy => resumable::answer_stream(&self.gate, running, first, answer),
            Era::Modern => body::answer_stream(running, first, answer),
        })
    }

    async fn post_batch(
        &self,
        headers: &HeaderMap,
        raw: Bytes,
        scope: &Scope,
        who: &Principal,
        snapshot: &Snapshot,
    ) -> Result<Reply, Box<Reply>> {
        let version = read::single(headers, &PROTOCOL_VERSION)?;
        check_version(version.map(|value| value.to_str().unwrap_or("?")), None)?;
        let session = match self.session(headers, scope, who, None) {
            Ok(session) => session,
            // Who begins with a batch hears what is wrong with that, not that no session is there.
            Err(refused) => {
                return Err(match batches::split(raw, &snapshot.wire) {
                    Err(fault) if fault.kind == FaultKind::BatchedInitialize => {
                        Box::new(faulty(&fault))
                    }
                    _ => refused,
                });
            }
        };
        if !session.batches() {
            let text = "batches exist only in revision 2025-03-26; send one message per POST";
            return Err(Box::new(refuse(
                StatusCode::BAD_REQUEST,
                code::INVALID_REQUEST,
                text,
            )));
        }
        let messages =
            batches::split(raw, &snapshot.wire).map_err(|fault| Box::new(faulty(&fault)))?;
        // Not the connection's own: a host that goes away has cancelled none of it.
        let (gate, grants) = (self.gate.clone(), who.grants.clone());
        let carrying = async move { together::all(&gate, &session, &grants, messages).await };
        let answers = self.gate.tasks().spawn(carrying).await;
        match answers.ok().flatten() {
            Some(answers) => Ok(plain(StatusCode::OK, Body::full(answers.into()))),
            None => Ok(plain(StatusCode::ACCEPTED, Body::empty())),
        }
    }

    /// The host's session, on the path it was opened on.
    fn session(
        &self,
        headers: &HeaderMap,
        scope: &Scope,
        who: &Principal,
        id: Option<&Id>,
    ) -> Result<Arc<Session>, Box<Reply>> {
        let Some(name) = read::single(headers, &SESSION_ID)? else {
            let text = "the header `Mcp-Session-Id` is missing; `initialize` gives one";
            return Err(Box::new(refuse_id(
                StatusCode::BAD_REQUEST,
                id,
                code::INVALID_REQUEST,
                text,
            )));
        };
        let found = name
            .to_str()
            .ok()
            .and_then(|name| self.gate.sessions().find(name, &who.subject));
        if let Some(session) = found.filter(|session| session.scope == *scope) {
            session.caller.shows(who.token.clone());
            Ok(session)
        } else {
            let text = "no such session; it has ended or never was: `initialize` again";
            Err(Box::new(refuse_id(
                StatusCode::NOT_FOUND,
                id,
                code::INVALID_REQUEST,
                text,
            )))
        }
    }
}

fn exchange(
    message: &Envelope,
    session: &Arc<Session>,
    who: &Principal,
    snapshot: &Snapshot,
) -> Result<Arc<Exchange>, Box<Reply>> {
    match message.id() {
        Some(id) => {
            let outbox = snapshot.config.limits.outbox;
            Ok(Exchange::new(
                id,
                session.clone(),
                who.grants.clone(),
                outbox,
            ))
        }
        None => Err(Box::new(refuse(
            StatusCode::BAD_REQUEST,
            code::INVALID_REQUEST,
            "the request has no id",
        ))),
    }
}

fn check_version(version: Option<&str>, id: Option<&Id>) -> Result<(), Box<Reply>> {
    match version {
        None => Ok(()),
        Some(name)
            if Revision::known(name.trim()).is_some_and(|known| known.era() == Era::Legacy) =>
        {
            Ok(())
        }
        Some(name) => {
            let known: Vec<&str> = Revision::LEGACY
                .iter()
                .map(|revision| revision.as_str())
                .collect();
            let text = format!(
                "`MCP-Protocol-Version: {}` is not supported; this endpoint speaks {}",
                name.escape_debug(),
                known.join(", ")
            );
            Err(Box::new(refuse_id(
                StatusCode::BAD_REQUEST,
                id,
                code::INVALID_REQUEST,
                &text,
            )))
        }
    }
}
