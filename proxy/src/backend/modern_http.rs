//! Remote servers over Streamable HTTP of 2026-07-28: each request is a POST, and its reply is all
//! that comes of it.
//!
//! There is no session at such a server, so it stands behind one [`Pipe`], as a child does, and this
//! is only the way there: lines become POSTs with the fields that repeat them, what comes in reply
//! goes to the request it came for, and a request that is cancelled closes its stream. It changes no
//! message but a list of tools, which must not show what cannot be called (R-220).

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use bytes::Bytes;
use chillgate_wire::mirror::{self, BadAnnotation, Param};
use chillgate_wire::{Envelope, Id, Kind, Limits, Lines, code, json, message};
use http::{HeaderName, HeaderValue, StatusCode};
use tokio::io::{AsyncReadExt, DuplexStream};
use tokio::task::AbortHandle;
use tokio_util::task::TaskTracker;
use tracing::{debug, warn};

use crate::backend::BackendError;
use crate::backend::greeting::META_OF_THE_GATE;
use crate::backend::pipe::{Audience, Pipe, Terms};
use crate::backend::pipes::{Opener, Unopened, Whose};
use crate::backend::reach::Reach;
use crate::backend::streamable_http::events::Events;
use crate::backend::streamable_http::{
    PROTOCOL_VERSION, is_refusal_to_speak, refusal, unwanted, unwelcome,
};
use crate::client::{Http, HttpError, Reply};
use crate::config::RemoteServer;
use crate::line::Line;
use crate::lock::locked;

/// What may be on its way to the server before the writer waits.
const ON_ITS_WAY: usize = 64 << 10;
/// Tools whose fields are known.
const TOOLS: usize = 10_000;
/// Pages read of a list of tools.
const PAGES: usize = 100;

const METHOD: HeaderName = HeaderName::from_static(mirror::METHOD);
const NAME: HeaderName = HeaderName::from_static(mirror::NAME);
const SPOKEN: HeaderValue = HeaderValue::from_static("2026-07-28");

/// POSTs to one server.
#[derive(Debug)]
pub struct ModernHttp {
    http: Http,
    reach: Arc<Reach>,
}

impl ModernHttp {
    /// A server as configured; nothing is connected yet.
    pub fn new(server: &RemoteServer, http: Http) -> Self {
        Self {
            http,
            reach: Arc::new(Reach::of_probe(server)),
        }
    }
}

#[async_trait]
impl Opener for ModernHttp {
    async fn open(
        &self,
        terms: &Terms,
        audience: Arc<Audience>,
        whose: Whose<'_>,
        tasks: &TaskTracker,
    ) -> Result<Arc<Pipe>, Unopened> {
        let (ours, theirs) = tokio::io::duplex(ON_ITS_WAY);
        let (line, writing) = Line::new(ours);
        let pipe = Pipe::new(terms, line, audience);
        pipe.note_origin(self.reach.origin(terms));
        let posts = Arc::new(Posts {
            http: whose
                .caller
                .map_or_else(|| self.http.clone(), |it| self.http.of(it)),
            reach: self.reach.clone(),
            terms: terms.clone(),
            pipe: pipe.clone(),
            server: terms.server.clone(),
            limits: terms.limits,
            tools: Mutex::default(),
            running: Mutex::default(),
        });
        let (owned, tracker) = (pipe.clone(), tasks.clone());
        tasks.spawn(async move {
            tokio::select! {
                () = owned.until_closed() => {}
                () = posts.speak(theirs, &tracker) => {}
                _ = writing => {}
            }
            for (_, running) in locked(&posts.running).drain() {
                running.abort();
            }
            owned.finish("it was stopped".to_owned());
        });
        Ok(pipe)
    }

    fn silent(&self, terms: &Terms, _audience: &Arc<Audience>, cause: String) -> String {
        let cause = format!("{cause}; `start-timeout` allows more");
        self.reach.failed(terms, &cause).0
    }

    fn ready(&self, terms: &Terms, _audience: &Arc<Audience>) {
        self.reach.answered(terms);
    }
}

/// Everything that is on its way to one server.
struct Posts {
    http: Http,
    reach: Arc<Reach>,
    terms: Terms,
    pipe: Arc<Pipe>,
    server: Arc<str>,
    limits: Limits,
    /// The arguments of tools that fields repeat, as far as their lists have been seen.
    tools: Mutex<HashMap<String, Arc<[Param]>>>,
    running: Mutex<HashMap<u64, AbortHandle>>,
}

impl Posts {
    /// Makes a POST of each line, all at a time.
    async fn speak(self: &Arc<Self>, mut lines_in: DuplexStream, tasks: &TaskTracker) {
        // What chillgate writes has been measured already; its own keys may make it longer.
        let limits = Limits {
            message: self.limits.message.saturating_mul(2),
            depth: self.limits.depth + 8,
            ..self.limits
        };
        let mut lines = Lines::new(limits.message);
        loop {
            for line in lines.by_ref() {
                match line.map(|line| Envelope::parse(line, &limits)) {
                    Ok(Ok(said)) => self.take(said, tasks),
                    Ok(Err(fault)) => debug!(server = %self.server, %fault, "Nothing to send."),
                    Err(oversized) => {
                        let number = oversized.id.as_ref().and_then(Id::as_number);
                        let cause = format!("the request is too large: {oversized}");
                        if let Some(number) = number {
                            self.pipe.fail(number, self.down(cause));
                        }
                    }
                }
            }
            match lines_in.read_buf(lines.space()).await {
                Ok(0) | Err(_) => return,
                Ok(_) => {}
            }
        }
    }

    fn take(self: &Arc<Self>, said: Envelope, tasks: &TaskTracker) {
        if said.kind() == Kind::Notification {
            // Cancelling is closing the stream (R-069); such a server hears no other.
            let id = said.get(&["params", "requestId"]).and_then(Id::from_lexeme);
            let number = id.and_then(|id| id.as_number());
            if let Some(running) = number.and_then(|of| locked(&self.running).remove(&of)) {
                running.abort();
            }
            return;
        }
        let Some(number) = said.id().and_then(|id| id.as_number()) else {
            return;
        };
        let posts = self.clone();
        // Held until the handle is where a cancellation looks for it.
        let mut running = locked(&self.running);
        let task = tasks.spawn(async move {
            match posts.ask(number, &said).await {
                Ok(()) => posts.reach.answered_again(&posts.terms),
                Err(error) => posts.pipe.fail(number, posts.judged(error)),
            }
            locked(&posts.running).remove(&number);
            posts.pipe.close_if_worn();
        });
        running.insert(number, task.abort_handle());
    }

    /// One request and all that comes in reply.
    async fn ask(&self, number: u64, request: &Envelope) -> Result<(), BackendError> {
        let Some((status, body)) = self.post_whole(number, request).await? else {
            return Ok(());
        };
        if request.method() != Some("tools/call") || !is_mismatch(&body, &self.limits) {
            return self.answer(number, request, status, body);
        }
        // The tool's schema is another one than was last seen; nothing was carried out (R-223).
        self.learn(request).await;
        match self.post_whole(number, request).await? {
            Some((status, body)) => self.answer(number, request, status, body),
            None => Ok(()),
        }
    }

    /// One POST: what it came to, unless a stream has told it.
    async fn post_whole(
        &self,
        number: u64,
        request: &Envelope,
    ) -> Result<Option<(StatusCode, Bytes)>, BackendError> {
        let reply = self.post(request).await?;
        let status = reply.status();
        if status.is_success() && reply.is_events() {
            return self.follow(number, request, reply).await.map(|()| None);
        }
        let body = reply.body(self.limits.message).await;
        let body = body.map_err(|error| self.explain(&error))?;
        Ok(Some((status, body)))
    }

    fn answer(
        &self,
        number: u64,
        request: &Envelope,
        status: StatusCode,
        body: Bytes,
    ) -> Result<(), BackendError> {
        if matches!(status, StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN) {
            return Err(if self.http.is_by_caller() {
                self.caller(unwelcome(status))
            } else {
                self.down(unwanted(status))
            });
        }
        let said = Envelope::parse(body.clone(), &self.limits).ok();
        let said = said.filter(|said| matches!(said.kind(), Kind::Response | Kind::Error));
        // An older server wants a session first, and says so in one of these ways (eras, b.1).
        let code = said
            .as_ref()
            .and_then(|said| said.get(&["error", "code"]).and_then(json::integer));
        let wants_session = matches!(code, Some(code::INVALID_REQUEST | -32_000));
        if status == StatusCode::BAD_REQUEST && wants_session {
            self.pipe.wear();
        }
        if said.is_some() {
            self.hear(number, request, body);
            return Ok(());
        }
        if is_refusal_to_speak(status) {
            self.pipe.wear();
        }
        let cause = refusal(status, &body);
        // To the first words only: of any other request nobody knows what became of it.
        if request.method() == Some("server/discover") && is_refusal_to_speak(status) {
            return Err(BackendError::Unspoken {
                server: self.server.clone(),
                cause,
                known: None,
            });
        }
        Err(self.down(cause))
    }

    /// Reads a stream to the answer.
    async fn follow(
        &self,
        number: u64,
        request: &Envelope,
        reply: Reply,
    ) -> Result<(), BackendError> {
        let mut events = Events::new(reply, self.limits.message);
        while let Some(event) = events.next().await {
            let raw = event.map_err(|error| self.lost(error.to_string()))?;
            if !raw.is_empty() && self.hear(number, request, raw) {
                return Ok(());
            }
        }
        Err(self.lost("its stream ended without the answer".to_owned()))
    }

    /// Hands one message of a reply on; whether it was the answer.
    fn hear(&self, number: u64, request: &Envelope, raw: Bytes) -> bool {
        let is_list = request.method() == Some("tools/list");
        let cut = is_list.then(|| self.note(&raw)).flatten();
        self.pipe.hear_in_reply(number, cut.unwrap_or(raw))
    }

    async fn post(&self, request: &Envelope) -> Result<Reply, BackendError> {
        let headers = self.headers(request);
        let reply = self.http.post(request.raw().clone(), &headers).await;
        reply.map_err(|error| self.explain(&error))
    }

    /// The fields that repeat the message (2026-07-28, transports).
    fn headers(&self, request: &Envelope) -> Vec<(HeaderName, HeaderValue)> {
        let value = |text: &str| HeaderValue::from_str(&mirror::encode(text)).ok();
        let mut headers = vec![(PROTOCOL_VERSION, SPOKEN)];
        let method = request.method().unwrap_or_default();
        headers.extend(value(method).map(|value| (METHOD, value)));
        let name = mirror::name(request);
        headers.extend(name.as_deref().and_then(value).map(|value| (NAME, value)));
        let (Some(tool), "tools/call") = (name, method) else {
            return headers;
        };
        let params = locked(&self.tools).get(&*tool).cloned();
        let arguments = request.get(&["params", "arguments"]).unwrap_or(b"{}");
        for param in params.iter().flat_map(|params| params.iter()) {
            let field = format!("{}{}", mirror::PARAM, param.name.to_ascii_lowercase());
            let text = param.value(arguments);
            if let (Ok(field), Some(text)) = (HeaderName::try_from(field), text)
                && let Some(value) = value(&text)
            {
                headers.push((field, value));
            }
        }
        headers
    }

    /// Notes which arguments fields repeat, from a page of the list of tools; the page without the
    /// tools that say so in a wrong way, if there are any.
    fn note(&self, raw: &Bytes) -> Option<Bytes> {
        let answer = Envelope::parse(raw.clone(), &self.limits).ok()?;
        let list = answer.get(&["result", "tools"])?;
        let mut kept: Vec<&[u8]> = Vec::new();
        let mut is_cut = false;
        for tool in json::items(list).map(|at| &list[at]) {
            let name = json::member(tool, "name").and_then(|at| json::text(&tool[at]));
            let schema = json::member(tool, "inputSchema").map(|at| &tool[at]);
            let declared = schema.map_or_else(|| Ok(Vec::new()), mirror::declared);
            let params = match declared {
                Ok(params) => params,
                // What is no schema at all is for the host to judge.
                Err(BadAnnotation::Schema) => Vec::new(),
                Err(wrong) => {
                    let server = &self.server;
                    warn!(%server, ?name, %wrong, "Left out a tool whose `x-mcp-header` is wrong.");
                    is_cut = true;
                    continue;
                }
            };
            kept.push(tool);
            let Some(name) = name else { continue };
            let mut tools = locked(&self.tools);
            if params.is_empty() {
                tools.remove(&*name);
            } else if tools.len() < TOOLS {
                tools.insert(name.into_owned(), params.into());
            }
        }
        if !is_cut {
            return None;
        }
        let mut edit = answer.edit();
        let list = [b"[", kept.join(&b","[..]).as_slice(), b"]"].concat();
        edit.set(&["result", "tools"], list);
        Some(edit.finish().raw().clone())
    }

    /// Reads the server's list of tools in the name of the host of this request.
    async fn learn(&self, request: &Envelope) {
        let meta = request.get(&["params", "_meta"]);
        let meta = json::without(meta.unwrap_or(META_OF_THE_GATE.as_bytes()), "progressToken");
        let mut cursor = Vec::new();
        for _page in 0..PAGES {
            let params = [b"{", cursor.as_slice(), br#""_meta":"#, &meta, b"}"].concat();
            let raw = message::request(b"\"chillgate-tools\"", "tools/list", Some(&params));
            let Ok(list) = Envelope::parse(raw, &self.limits) else {
                return;
            };
            let Ok(reply) = self.post(&list).await else {
                return;
            };
            let raw = if reply.is_events() {
                let mut events = Events::new(reply, self.limits.message);
                let mut answer = Bytes::new();
                while let Some(Ok(raw)) = events.next().await {
                    if !raw.is_empty() {
                        answer = raw;
                    }
                }
                answer
            } else {
                match reply.body(self.limits.message).await {
                    Ok(raw) => raw,
                    Err(_) => return,
                }
            };
            self.note(&raw);
            let next = Envelope::parse(raw, &self.limits).ok();
            let next = next.and_then(|page| Some(page.get(&["result", "nextCursor"])?.to_vec()));
            let Some(next) = next else { return };
            cursor = [br#""cursor":"#, next.as_slice(), b","].concat();
        }
        debug!(server = %self.server, "Its list of tools does not end.");
    }

    /// With what is known about a server that is not there.
    fn judged(&self, error: BackendError) -> BackendError {
        let BackendError::Down { server, cause, .. } = error else {
            return error;
        };
        let (cause, known) = self.reach.failed(&self.terms, &cause);
        BackendError::Down {
            server,
            cause,
            known,
        }
    }

    fn explain(&self, error: &HttpError) -> BackendError {
        match error {
            HttpError::Connect(_) | HttpError::Secret(_) => self.down(error.to_string()),
            HttpError::Caller(cause) => self.caller(cause.clone()),
            HttpError::Broken(_) => self.lost(error.to_string()),
        }
    }

    fn down(&self, cause: String) -> BackendError {
        BackendError::Down {
            server: self.server.clone(),
            cause,
            known: None,
        }
    }

    fn caller(&self, cause: String) -> BackendError {
        BackendError::Caller {
            server: self.server.clone(),
            cause,
        }
    }

    fn lost(&self, cause: String) -> BackendError {
        BackendError::Lost {
            server: self.server.clone(),
            cause,
            ended: None,
            retryable: false,
            known: None,
        }
    }
}

/// Whether the server says that the fields do not repeat the message.
fn is_mismatch(body: &Bytes, limits: &Limits) -> bool {
    let said = Envelope::parse(body.clone(), limits).ok();
    let code = said.and_then(|said| said.get(&["error", "code"]).and_then(json::integer));
    code == Some(code::HEADER_MISMATCH)
}
