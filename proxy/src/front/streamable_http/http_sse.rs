//! HTTP+SSE of revision 2024-11-05: one GET for all that is heard, POSTs for all that is said.
//!
//! Apart from Streamable HTTP because its session is the stream: the first event says where to
//! post, every answer comes on the stream, and when the stream ends the session has ended. The
//! host behind it is a [`Host`] on a line, as on stdio. Only the older revisions are spoken here.

use std::sync::{Arc, Mutex, MutexGuard};

use bytes::Bytes;
use chillgate_wire::{Lines, code, sse};
use futures_util::stream;
use http::request::Parts;
use http::{HeaderMap, HeaderValue, Method, StatusCode, Uri, header};
use hyper::body::Incoming;
use tokio::io::{AsyncReadExt, DuplexStream};
use tokio::task::AbortHandle;

use super::body::{Body, comment};
use super::elsewhere::Handed;
use super::reply::{events, plain, refuse};
use super::{Caller as Asking, Endpoint, KEEP_ALIVE, Reply, read};
use crate::config::Eras;
use crate::front::duplex::{Caller, Host};
use crate::gate::{Gate, Open};
use crate::identity::Principal;
use crate::line::Line;
use crate::lock::locked;
use crate::map::Map;
use crate::replicas::Place;
use crate::session::Scope;
use crate::snapshot::Snapshot;

/// What may be on its way from the host's line to its stream before the line waits.
const ON_ITS_WAY: usize = 64 << 10;

/// The open streams of all fronts, by the id that their hosts post to; clones are the same.
#[derive(Clone, Default)]
pub struct Streams(Arc<Mutex<Map<Arc<str>, Arc<Stream>>>>);

impl std::fmt::Debug for Streams {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Streams")
            .field(&locked(&self.0).len())
            .finish()
    }
}

struct Stream {
    subject: Arc<str>,
    scope: Scope,
    host: tokio::sync::Mutex<Host>,
}

impl Endpoint {
    /// A request on a path of HTTP+SSE.
    pub(super) async fn route_sse(
        self: &Arc<Self>,
        head: &Parts,
        body: Incoming,
        scope: Scope,
        who: Principal,
        caller: Asking<'_>,
        snapshot: &Snapshot,
    ) -> Result<Reply, Box<Reply>> {
        match head.method {
            Method::GET => self.open_stream(head, scope, who, &caller),
            Method::POST => {
                if let Some(place) = self.stream_elsewhere(&head.uri, &who.subject) {
                    let handed = Handed {
                        head,
                        scope: &scope,
                        who: &who,
                        peer: caller.peer.address.clone(),
                    };
                    return self.hand_over(place, handed, body, &caller, snapshot).await;
                }
                let stream = self.stream(&head.uri, &who.subject, &scope)?;
                self.post_to(&stream, who, &head.headers, body, caller, snapshot)
                    .await
            }
            _ => {
                let text = "HTTP+SSE takes GET and POST";
                let status = StatusCode::METHOD_NOT_ALLOWED;
                let mut reply = refuse(status, code::INVALID_REQUEST, text);
                let allow = HeaderValue::from_static("GET, POST, OPTIONS");
                reply.headers_mut().insert(header::ALLOW, allow);
                Err(Box::new(reply))
            }
        }
    }

    /// The open streams; no path leads here where none are served.
    fn streams(&self) -> MutexGuard<'_, Map<Arc<str>, Arc<Stream>>> {
        let streams = self.streams.as_ref();
        locked(
            &streams
                .expect("a path of HTTP+SSE is only known where it is served")
                .0,
        )
    }

    /// Opens a stream; its first event is its own path with the id to post to.
    fn open_stream(
        self: &Arc<Self>,
        head: &Parts,
        scope: Scope,
        who: Principal,
        caller: &Asking<'_>,
    ) -> Result<Reply, Box<Reply>> {
        if !read::accepts(&head.headers, "text/event-stream") {
            let text = "GET opens an event stream: send `Accept: text/event-stream`";
            let status = StatusCode::NOT_ACCEPTABLE;
            return Err(Box::new(refuse(status, code::INVALID_REQUEST, text)));
        }
        let (ours, theirs) = tokio::io::duplex(ON_ITS_WAY);
        let (line, writing) = Line::new(ours);
        let writing = tokio::spawn(writing).abort_handle();
        let subject = who.subject.clone();
        let caller = Caller {
            who: Some(who),
            scope: scope.clone(),
            transport: "sse",
            peer: caller.peer.address.as_deref().map(str::to_owned),
        };
        let host = Host::new(self.gate.clone(), caller, line.clone(), Eras::Legacy);
        let id: Arc<str> = self.gate.replicas().session_id(&subject).into();
        let stream = Arc::new(Stream {
            subject,
            scope,
            host: tokio::sync::Mutex::new(host),
        });
        self.streams().insert(id.clone(), stream);
        let mut first = Vec::new();
        sse::endpoint(&format!("{}?session={id}", head.uri.path()), &mut first);
        // What runs when chillgate stops may still be answered.
        let gate = self.gate.clone();
        let draining = tokio::spawn(async move {
            gate.drain().until_refusing().await;
            gate.drain().until_idle().await;
            line.close();
        });
        let listening = Listening {
            first: Some(first.into()),
            lines: Lines::new(usize::MAX),
            theirs,
            _open: self.gate.stream(),
            _end: End {
                endpoint: self.clone(),
                id,
                tasks: [writing, draining.abort_handle()],
            },
        };
        Ok(events(Body::stream(stream::unfold(
            listening,
            Listening::next,
        ))))
    }

    /// The subject's stream that an address names.
    fn stream(&self, uri: &Uri, subject: &str, scope: &Scope) -> Result<Arc<Stream>, Box<Reply>> {
        let found = stream_id(uri).and_then(|id| self.streams().get(id).cloned());
        // Another's stream is as unknown as none.
        let mine = found.filter(|stream| *stream.subject == *subject && stream.scope == *scope);
        mine.ok_or_else(|| {
            let text = "no such stream is open: GET this path first, and post to the address that \
                        its first event names";
            let status = StatusCode::NOT_FOUND;
            Box::new(refuse(status, code::INVALID_REQUEST, text))
        })
    }

    /// Where the stream is that an address names, if it is another replica's.
    fn stream_elsewhere(&self, uri: &Uri, subject: &str) -> Option<Place> {
        let id = stream_id(uri).filter(|_| !self.is_inner)?;
        let is_here = self.streams().contains_key(id);
        let replicas = self.gate.replicas();
        (!is_here).then(|| replicas.keeps(id, subject)).flatten()
    }

    /// A message of a host whose stream is open.
    async fn post_to(
        &self,
        stream: &Stream,
        who: Principal,
        headers: &HeaderMap,
        body: Incoming,
        caller: Asking<'_>,
        snapshot: &Snapshot,
    ) -> Result<Reply, Box<Reply>> {
        read::check_content(headers)?;
        let cap = snapshot.wire.message;
        let (raw, _held) =
            read::whole(body, headers, cap, self.gate.budget(), caller.place).await?;
        caller.check(&raw)?;
        let mut host = stream.host.lock().await;
        host.shows(who);
        host.take(raw).await;
        drop(host);
        let mut accepted = plain(
            StatusCode::ACCEPTED,
            Body::full(Bytes::from_static(b"Accepted")),
        );
        let text = HeaderValue::from_static("text/plain");
        accepted.headers_mut().insert(header::CONTENT_TYPE, text);
        Ok(accepted)
    }
}

/// The id in an address to post to.
fn stream_id(uri: &Uri) -> Option<&str> {
    let mut pairs = uri
        .query()?
        .split('&')
        .filter_map(|pair| pair.split_once('='));
    pairs.find_map(|(key, value)| (key == "session").then_some(value))
}

/// What a host hears, until it closes its stream or chillgate does.
struct Listening {
    first: Option<Bytes>,
    lines: Lines,
    theirs: DuplexStream,
    _open: Open,
    _end: End,
}

impl Listening {
    async fn next(mut self) -> Option<(Bytes, Self)> {
        if let Some(first) = self.first.take() {
            return Some((first, self));
        }
        let mut out = Vec::new();
        loop {
            while let Some(Ok(line)) = self.lines.next() {
                sse::event(&line, None, &mut out);
            }
            if !out.is_empty() {
                return Some((out.into(), self));
            }
            tokio::select! {
                read = self.theirs.read_buf(self.lines.space()) => match read {
                    Ok(0) | Err(_) => return None,
                    Ok(_) => {}
                },
                () = tokio::time::sleep(KEEP_ALIVE) => return Some((comment(), self)),
            }
        }
    }
}

/// With the stream its session ends.
struct End {
    endpoint: Arc<Endpoint>,
    id: Arc<str>,
    tasks: [AbortHandle; 2],
}

impl Drop for End {
    fn drop(&mut self) {
        for task in &self.tasks {
            task.abort();
        }
        let stream = self.endpoint.streams().remove(&self.id);
        let gate: &Gate = &self.endpoint.gate;
        if let Some(stream) = stream {
            gate.tasks()
                .spawn(async move { stream.host.lock().await.drop_all().await });
        }
    }
}
