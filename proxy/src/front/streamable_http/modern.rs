//! Streamable HTTP of revision 2026-07-28: every POST says everything, nothing is remembered.
//!
//! Apart because it shares no rule with the handshake revisions but how bytes come in and go out.
//! The order of checks: version header against body, what `_meta` must say, whether the revision is
//! spoken, the fields that repeat the body. It asks no server.

use std::borrow::Cow;
use std::sync::{Arc, Mutex, Weak};

use chillgate_wire::meta::Hop;
use chillgate_wire::{Envelope, Era, Kind, Revision, code, meta, mirror};
use http::request::Parts;
use http::{HeaderMap, HeaderName, StatusCode};

use super::body::Body;
use super::elsewhere::Handed;
use super::listen::OneRequest;
use super::reply::{self, plain, worded};
use super::{Caller, Endpoint, PROTOCOL_VERSION, Reply};
use crate::config::Eras;
use crate::era::host::{self, is_modern};
use crate::exchange::Exchange;
use crate::front::running::Running;
use crate::gate::Refusal;
use crate::identity::Principal;
use crate::lock::locked;
use crate::session::{Opening, Scope, Session};
use crate::snapshot::Snapshot;

pub(super) const METHOD: HeaderName = HeaderName::from_static(mirror::METHOD);
const NAME: HeaderName = HeaderName::from_static(mirror::NAME);

impl Endpoint {
    /// Whether the head alone says that this is a request of the modern era, and it is served here.
    pub(super) fn serves_modern(&self, headers: &HeaderMap) -> bool {
        let version = headers.get(&PROTOCOL_VERSION);
        let known = version
            .and_then(|name| name.to_str().ok())
            .and_then(|name| Revision::known(name.trim()));
        self.eras == Eras::Both && known.is_some_and(|revision| revision.era() == Era::Modern)
    }

    /// One modern message: what is to be waited for, or what its host hears at once.
    pub(super) fn begin_modern(
        &self,
        headers: &HeaderMap,
        message: Envelope,
        scope: Scope,
        who: Principal,
        outbox: usize,
        place: &OneRequest,
    ) -> Result<Begun, Box<Reply>> {
        let refuse = |refusal: Refusal| {
            let status = match refusal.status() {
                StatusCode::OK => StatusCode::BAD_REQUEST,
                status => status,
            };
            Box::new(worded(status, message.id().as_ref(), &refusal))
        };
        let id = match (message.kind(), message.id()) {
            (Kind::Request, Some(id)) => id,
            // Cancelling is closing the stream; of other notifications a server knows none.
            (Kind::Request | Kind::Notification, _) => {
                return Ok(Begun::Reply(plain(StatusCode::ACCEPTED, Body::empty())));
            }
            (Kind::Response | Kind::Error, _) => {
                let text = "revision 2026-07-28 knows no answers of a host; send a request";
                return Err(refuse(answered(code::INVALID_REQUEST, text.to_owned())));
            }
        };
        let hop = check(headers, &message).map_err(refuse)?;
        let grants = who.grants.clone();
        let asks = Running::is_retry(&message).then(|| who.clone());
        let session = match place.last().session(&hop, &who, &scope) {
            Some(session) => {
                session.caller.shows(who.token);
                session
            }
            None => self.standing(&hop, who, scope, place).map_err(refuse)?,
        };
        let fields = match message.method() {
            Some("tools/call") => Some(mirrored(headers).map_err(refuse)?),
            _ => None,
        };
        if let Some(who) = asks {
            return Ok(Begun::Retry(Box::new(Retry {
                message,
                session,
                who,
                fields,
            })));
        }
        let exchange = Exchange::new(id, session, grants, outbox);
        if let Some(fields) = fields {
            exchange.set_mirrored(fields);
        }
        let running = Running::new(self.gate.clone(), exchange, message);
        Ok(Begun::Call(running))
    }

    /// A request that may go on with a call that has waited for its host.
    pub(super) async fn retry_modern(
        &self,
        retry: Retry,
        head: &Parts,
        caller: &Caller<'_>,
        snapshot: &Snapshot,
    ) -> Result<Result<Running, Reply>, Box<Reply>> {
        let Retry {
            message,
            session,
            who,
            fields,
        } = retry;
        let outbox = snapshot.config.limits.outbox;
        let (id, raw) = (message.id(), message.raw().clone());
        match Running::begin(&self.gate, &session, &who.grants, message, outbox).await {
            Ok(Ok(running)) => {
                if let Some(fields) = fields {
                    running.exchange().set_mirrored(fields);
                }
                Ok(Ok(running))
            }
            Ok(Err(answer)) => Ok(Err(reply::of(answer))),
            Err(Refusal::Elsewhere(place)) if !self.is_inner => {
                let handed = Handed {
                    head,
                    scope: &session.scope,
                    who: &who,
                    peer: caller.peer.address.clone(),
                };
                Ok(Err(self.hand_on(place, handed, raw, snapshot).await))
            }
            Err(refusal) => Err(Box::new(worded(refusal.status(), id.as_ref(), &refusal))),
        }
    }
}

/// What a modern message leads to.
pub(super) enum Begun {
    /// A call to be waited for.
    Call(Running),
    /// Nothing more.
    Reply(Reply),
    /// A request that brings a state: whose that is takes some asking.
    Retry(Box<Retry>),
}

/// A request that brings a state.
pub(super) struct Retry {
    message: Envelope,
    session: Arc<Session>,
    /// Who asks.
    who: Principal,
    fields: Option<Vec<(String, String)>>,
}

impl Endpoint {
    /// The session of a request that says what the last one of its connection did not.
    fn standing(
        &self,
        hop: &Hop<'_>,
        who: Principal,
        scope: Scope,
        place: &OneRequest,
    ) -> Result<Arc<Session>, Refusal> {
        let opening = Opening {
            who,
            scope,
            greeting: host::greeting(hop)?,
            transport: "streamable-http",
            // Whoever says the same shares the session, wherever it calls from.
            peer: None,
            line: None,
            era: Era::Modern,
        };
        let session = self.gate.standing(opening)?;
        place.last().note(hop, &session);
        Ok(session)
    }
}

/// The session that the last modern request of a connection belonged to, and what that said of its
/// host: most say the same with each.
#[derive(Debug, Default)]
pub(super) struct Last(Mutex<Option<Said>>);

#[derive(Debug)]
struct Said {
    version: Box<str>,
    capabilities: Box<[u8]>,
    client: Option<Box<[u8]>>,
    session: Weak<Session>,
}

impl Last {
    fn session(&self, hop: &Hop<'_>, who: &Principal, scope: &Scope) -> Option<Arc<Session>> {
        let last = locked(&self.0);
        let said = last.as_ref()?;
        let says_the_same = *said.version == *hop.version
            && *said.capabilities == *hop.capabilities
            && said.client.as_deref() == hop.client;
        let session = said.session.upgrade().filter(|_| says_the_same)?;
        let is_the_same = session.is_of(who) && session.scope == *scope;
        (is_the_same && !session.is_over()).then_some(session)
    }

    fn note(&self, hop: &Hop<'_>, session: &Arc<Session>) {
        *locked(&self.0) = Some(Said {
            version: (*hop.version).into(),
            capabilities: hop.capabilities.into(),
            client: hop.client.map(Into::into),
            session: Arc::downgrade(session),
        });
    }
}

/// What the request must be before anybody is asked; what it says of its host.
fn check<'m>(headers: &HeaderMap, message: &'m Envelope) -> Result<Hop<'m>, Refusal> {
    let version = field(headers, &PROTOCOL_VERSION)?;
    let hop = match (meta::read(message), &version) {
        (Ok(hop), Some(version)) if *version == hop.version => hop,
        (Ok(hop), None) => return Err(missing(&PROTOCOL_VERSION, &hop.version)),
        (Ok(hop), Some(version)) => {
            return Err(differs(&PROTOCOL_VERSION, version, &hop.version));
        }
        (Err(lacking), _) => {
            let text = format!("Invalid params: {lacking}");
            return Err(answered(code::INVALID_PARAMS, text));
        }
    };
    if !host::is_spoken(&hop) {
        return Err(host::unsupported(&hop.version, &Revision::ALL));
    }
    agrees(headers, &METHOD, message.method())?;
    // A method of the other era is refused by its name alone, whatever it names.
    if let Some(name) = mirror::name(message)
        && message.method().is_some_and(is_modern)
    {
        agrees(headers, &NAME, Some(&name))?;
    }
    Ok(hop)
}

/// A field repeats what the body says.
fn agrees(headers: &HeaderMap, name: &HeaderName, body: Option<&str>) -> Result<(), Refusal> {
    let body = body.unwrap_or_default();
    match field(headers, name)? {
        None => Err(missing(name, body)),
        Some(said) if said == body => Ok(()),
        Some(said) => Err(differs(name, &said, body)),
    }
}

/// The text of a field that may stand once.
fn field<'h>(headers: &'h HeaderMap, name: &HeaderName) -> Result<Option<Cow<'h, str>>, Refusal> {
    let mut values = headers.get_all(name).iter();
    let Some(value) = values.next() else {
        return Ok(None);
    };
    if values.next().is_some() {
        let text = format!("Header mismatch: send one `{name}`, not several");
        return Err(answered(code::HEADER_MISMATCH, text));
    }
    match mirror::decode(value.as_bytes()) {
        Ok(text) => Ok(Some(text)),
        Err(undecodable) => {
            let text = format!("Header mismatch: `{name}`: {undecodable}");
            Err(answered(code::HEADER_MISMATCH, text))
        }
    }
}

/// The fields that repeat arguments.
fn mirrored(headers: &HeaderMap) -> Result<Vec<(String, String)>, Refusal> {
    let mut fields = Vec::new();
    for name in headers.keys() {
        if let Some(rest) = name.as_str().strip_prefix(mirror::PARAM) {
            let text = field(headers, name)?.unwrap_or_default();
            fields.push((rest.to_owned(), text.into_owned()));
        }
    }
    Ok(fields)
}

fn missing(name: &HeaderName, body: &str) -> Refusal {
    let text = format!("Header mismatch: `{name}` is missing; the body says {body:?}");
    answered(code::HEADER_MISMATCH, text)
}

fn differs(name: &HeaderName, said: &str, body: &str) -> Refusal {
    let text = format!("Header mismatch: `{name}` says {said:?}, the body says {body:?}");
    answered(code::HEADER_MISMATCH, text)
}

fn answered(code: i64, message: String) -> Refusal {
    Refusal::Answered {
        code,
        message,
        data: None,
    }
}
