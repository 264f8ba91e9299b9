//! A raw MCP host over Streamable HTTP: it counts its ids from 0 and keeps what it hears.
//!
//! It stands apart from the official clients because a test must see statuses, headers and single
//! events. It never hides an error: what the server answered is in the [`Reply`].

use std::net::SocketAddr;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use hyper::header::HeaderMap;
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;

use crate::http::{self, Answer, Connection, collect};
use crate::judge;
use crate::sse::Events;
use crate::wait::within;

/// The newest handshake revision.
pub const LATEST: &str = "2025-11-25";
/// How long a whole exchange may take.
const PATIENCE: Duration = Duration::from_secs(90);

/// All that came back for one POST.
#[derive(Clone, Debug)]
pub struct Reply {
    /// The status code.
    pub status: u16,
    /// The headers.
    pub headers: HeaderMap,
    /// Every message, in order; the last one is the answer.
    pub messages: Vec<Value>,
    /// The body as it was when it was neither JSON nor events.
    pub text: String,
}

impl Reply {
    /// The answer: the last message.
    ///
    /// # Panics
    /// When there was none.
    pub fn answer(&self) -> &Value {
        self.messages
            .last()
            .unwrap_or_else(|| panic!("no message: {} {}", self.status, self.text))
    }

    /// The JSON-RPC error code of the answer.
    pub fn code(&self) -> Option<i64> {
        self.messages.last()?.pointer("/error/code")?.as_i64()
    }

    /// The answer's result.
    ///
    /// # Panics
    /// When the answer was an error.
    pub fn result(&self) -> &Value {
        self.answer()
            .get("result")
            .unwrap_or_else(|| panic!("no result: {}", self.answer()))
    }

    /// The text of the first content item of a tool's result.
    ///
    /// # Panics
    /// When there is none.
    pub fn tool_text(&self) -> &str {
        let text = self
            .result()
            .pointer("/content/0/text")
            .and_then(Value::as_str);
        text.unwrap_or_else(|| panic!("no text content: {}", self.answer()))
    }

    /// Everything before the answer: notifications and the server's requests.
    pub fn before(&self) -> &[Value] {
        self.messages.split_last().map_or(&[], |(_, before)| before)
    }
}

/// A host with one session.
#[derive(Debug)]
pub struct Host {
    address: SocketAddr,
    path: String,
    session: Option<String>,
    revision: &'static str,
    extra: Vec<(String, String)>,
    next: AtomicU64,
    idle: Mutex<Vec<Connection>>,
}

impl Host {
    /// A host that has not spoken yet, at `http://ADDRESS/mcp`.
    pub fn new(address: SocketAddr) -> Self {
        Self {
            address,
            path: "/mcp".to_owned(),
            session: None,
            revision: LATEST,
            extra: Vec::new(),
            next: AtomicU64::new(0),
            idle: Mutex::new(Vec::new()),
        }
    }

    /// Another path, e.g. `/server/files/mcp`.
    #[must_use]
    pub fn path(mut self, path: &str) -> Self {
        path.clone_into(&mut self.path);
        self
    }

    /// A header sent with every request.
    #[must_use]
    pub fn header(mut self, name: &str, value: &str) -> Self {
        self.extra.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Another revision to ask for.
    #[must_use]
    pub fn revision(mut self, revision: &'static str) -> Self {
        self.revision = revision;
        self
    }

    /// Opens the session declaring nothing.
    pub async fn open(self) -> Self {
        self.open_with(json!({})).await.0
    }

    /// Opens the session with these capabilities; also the server's `initialize` result.
    ///
    /// # Panics
    /// When the handshake is refused.
    pub async fn open_with(mut self, capabilities: Value) -> (Self, Value) {
        let hello = self.post(&self.hello(&capabilities)).await;
        assert_eq!(hello.status, 200, "initialize: {hello:?}");
        let session = hello
            .headers
            .get("mcp-session-id")
            .and_then(|id| id.to_str().ok());
        self.session = session.map(str::to_owned);
        let result = hello.result().clone();
        let ready = self.notify("notifications/initialized", None).await;
        assert_eq!(ready, 202, "notifications/initialized");
        (self, result)
    }

    /// An `initialize` request with the host's next id.
    pub fn hello(&self, capabilities: &Value) -> Value {
        let params = json!({
            "protocolVersion": self.revision,
            "capabilities": capabilities,
            "clientInfo": {"name": "raw-host", "version": "1"},
        });
        self.message("initialize", Some(params))
    }

    /// The session's id, when the server gave one.
    pub fn session(&self) -> Option<&str> {
        self.session.as_deref()
    }

    /// Takes over another host's session id, as an attacker would.
    pub fn steal(&mut self, session: &str) {
        self.session = Some(session.to_owned());
    }

    /// Goes on elsewhere, as behind a load balancer that keeps no order.
    #[must_use]
    pub fn at(mut self, address: SocketAddr) -> Self {
        self.address = address;
        self.idle
            .get_mut()
            .expect("no test panics while it holds this")
            .clear();
        self
    }

    /// Where the endpoint is.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// A request with the host's next id.
    pub fn message(&self, method: &str, params: Option<Value>) -> Value {
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        let mut message = json!({"jsonrpc": "2.0", "id": id, "method": method});
        if let Some(params) = params {
            message["params"] = params;
        }
        message
    }

    /// Sends a request and reads the reply to its end.
    pub async fn request(&self, method: &str, params: Value) -> Reply {
        let message = self.message(method, Some(params));
        let reply = self.post(&message).await;
        // An answer is to this request, whatever else it says; some refusals come before it is read.
        if let Some(answer) = reply.messages.last().filter(|_| reply.status == 200) {
            assert_eq!(answer["id"], message["id"], "{}", reply.text);
        }
        reply
    }

    /// Calls a tool.
    pub async fn call(&self, tool: &str, arguments: Value) -> Reply {
        self.request("tools/call", json!({"name": tool, "arguments": arguments}))
            .await
    }

    /// The names in a list, all pages.
    ///
    /// # Panics
    /// When the list does not end within a hundred pages.
    pub async fn names(&self, method: &str, member: &str, name: &str) -> Vec<String> {
        let mut names = Vec::new();
        let mut params = json!({});
        for _ in 0..100 {
            let page = self.request(method, params).await;
            let items = page.result()[member]
                .as_array()
                .cloned()
                .unwrap_or_default();
            names.extend(
                items
                    .iter()
                    .filter_map(|item| item[name].as_str().map(str::to_owned)),
            );
            let Some(cursor) = page.result().get("nextCursor").and_then(Value::as_str) else {
                return names;
            };
            params = json!({ "cursor": cursor });
        }
        panic!("{method} has more than a hundred pages");
    }

    /// The names of the tools.
    pub async fn tools(&self) -> Vec<String> {
        self.names("tools/list", "tools", "name").await
    }

    /// Sends a notification; the status.
    pub async fn notify(&self, method: &str, params: Option<Value>) -> u16 {
        let mut message = json!({"jsonrpc": "2.0", "method": method});
        if let Some(params) = params {
            message["params"] = params;
        }
        self.post(&message).await.status
    }

    /// Answers a request of the server; the status.
    pub async fn respond(&self, id: &Value, result: Value) -> u16 {
        self.post(&json!({"jsonrpc": "2.0", "id": id, "result": result}))
            .await
            .status
    }

    /// Posts one message, or whatever JSON it is.
    pub async fn post(&self, message: &Value) -> Reply {
        let reply = self.post_bytes(message.to_string().into()).await;
        for heard in reply.messages.iter().filter(|heard| heard.is_object()) {
            let asked = message["method"].as_str().unwrap_or_default();
            judge::host_heard(self.revision, asked, heard);
        }
        reply
    }

    /// Posts bytes as they are.
    ///
    /// # Panics
    /// When the exchange breaks off or takes longer than a minute and a half.
    pub async fn post_bytes(&self, body: Bytes) -> Reply {
        within("the exchange", PATIENCE, async {
            let mut connection = self.connection().await;
            let headers = self.headers();
            let headers = borrow(&headers);
            let mut sent = connection
                .try_send("POST", &self.path, &headers, body.clone())
                .await;
            // A kept connection that the front closed meanwhile: nothing was sent on it.
            if sent.as_ref().is_err_and(hyper::Error::is_canceled) {
                connection = Connection::open(self.address).await;
                sent = connection
                    .try_send("POST", &self.path, &headers, body)
                    .await;
            }
            let reply =
                read(sent.unwrap_or_else(|error| panic!("POST {}: {error}", self.path))).await;
            self.give_back(connection);
            reply
        })
        .await
    }

    /// Posts a message and hands over the stream of events while it runs.
    ///
    /// # Panics
    /// When the answer is no event stream.
    pub async fn stream(&self, message: &Value) -> Events {
        let mut connection = self.connection().await;
        let headers = self.headers();
        let body = Bytes::from(message.to_string());
        let response = connection
            .send("POST", &self.path, &borrow(&headers), body)
            .await;
        assert!(
            is_events(response.headers()),
            "no event stream: {response:?}"
        );
        let asked = message["method"].as_str().unwrap_or_default();
        Events::new(response.into_body()).judged(self.revision, asked)
    }

    /// Posts a message and gives up on it at once: the connection is closed under the exchange.
    ///
    /// # Panics
    /// When the front does not take the request.
    pub async fn abandon(&self, message: &Value, after: Duration) {
        let mut connection = Connection::open(self.address).await;
        let headers = self.headers();
        let body = Bytes::from(message.to_string());
        let headers = borrow(&headers);
        let sent = connection.try_send("POST", &self.path, &headers, body);
        // The response may or may not have begun; either way the host walks away.
        drop(tokio::time::timeout(after, sent).await);
        drop(connection);
    }

    /// Posts a message and resets the connection under it: unlike a closed one, which may only be
    /// half closed, nobody can take that for a host that still listens.
    ///
    /// # Panics
    /// When the front does not take the connection.
    pub async fn reset(&self, message: &Value, after: Duration) {
        let stream = self.unread(message).await;
        tokio::time::sleep(after).await;
        stream.set_zero_linger().expect("a TCP socket");
    }

    /// Posts on a connection of its own; what comes is still to be read.
    ///
    /// # Panics
    /// When the front does not take the connection.
    pub async fn unread(&self, message: &Value) -> TcpStream {
        let headers = self.headers();
        let body = message.to_string();
        let bytes = http::post(self.address, &self.path, &borrow(&headers), &body);
        let mut stream = TcpStream::connect(self.address)
            .await
            .expect("a connection");
        stream.write_all(&bytes).await.expect("it reads");
        stream
    }

    /// The GET stream, where messages arrive that answer no request.
    ///
    /// # Panics
    /// When the front does not open it.
    pub async fn listen(&self) -> Events {
        let headers = self.headers();
        let mut connection = Connection::open(self.address).await;
        let response = connection
            .send("GET", &self.path, &borrow(&headers), Bytes::new())
            .await;
        assert_eq!(response.status(), 200, "GET stream: {response:?}");
        Events::new(response.into_body()).judged(self.revision, "")
    }

    /// Comes back for what a stream carried after the event of this id; what it is refused with.
    pub async fn resume(&self, last: &str) -> Result<Events, Answer> {
        let mut headers = self.headers();
        headers.push(("last-event-id".to_owned(), last.to_owned()));
        let mut connection = Connection::open(self.address).await;
        let response = connection
            .send("GET", &self.path, &borrow(&headers), Bytes::new())
            .await;
        if response.status() != 200 {
            return Err(collect(response).await);
        }
        Ok(Events::new(response.into_body()).judged(self.revision, ""))
    }

    /// Ends the session with DELETE; the status.
    pub async fn leave(&self) -> u16 {
        self.plain("DELETE").await.status
    }

    /// A request with an empty body and the host's headers.
    pub async fn plain(&self, method: &str) -> Answer {
        let headers = self.headers();
        let mut connection = Connection::open(self.address).await;
        collect(
            connection
                .send(method, &self.path, &borrow(&headers), Bytes::new())
                .await,
        )
        .await
    }

    fn headers(&self) -> Vec<(String, String)> {
        let mut headers = vec![
            ("content-type".to_owned(), "application/json".to_owned()),
            (
                "accept".to_owned(),
                "application/json, text/event-stream".to_owned(),
            ),
        ];
        if let Some(session) = &self.session {
            headers.push(("mcp-session-id".to_owned(), session.clone()));
            headers.push(("mcp-protocol-version".to_owned(), self.revision.to_owned()));
        }
        headers.extend(self.extra.iter().cloned());
        headers
    }

    async fn connection(&self) -> Connection {
        let kept = self
            .idle
            .lock()
            .expect("no test panics while it holds this")
            .pop();
        match kept {
            Some(connection) if connection.usable() => connection,
            _ => Connection::open(self.address).await,
        }
    }

    fn give_back(&self, connection: Connection) {
        self.idle
            .lock()
            .expect("no test panics while it holds this")
            .push(connection);
    }
}

/// Whether a response is an event stream.
fn is_events(headers: &HeaderMap) -> bool {
    let kind = headers
        .get("content-type")
        .and_then(|value| value.to_str().ok());
    kind.is_some_and(|kind| kind.starts_with("text/event-stream"))
}

/// Reads a reply to its end, whatever form it has.
async fn read(response: hyper::Response<hyper::body::Incoming>) -> Reply {
    let status = response.status().as_u16();
    let headers = response.headers().clone();
    if is_events(&headers) {
        let mut events = Events::new(response.into_body());
        let mut messages = Vec::new();
        while let Some(message) = events.message().await {
            messages.push(message);
        }
        return Reply {
            status,
            headers,
            messages,
            text: String::new(),
        };
    }
    let answer = collect(response).await;
    let messages = match serde_json::from_slice(&answer.body) {
        Ok(Value::Array(batch)) => batch,
        Ok(one) => vec![one],
        Err(_) => Vec::new(),
    };
    Reply {
        status,
        headers,
        messages,
        text: answer.text(),
    }
}

fn borrow(headers: &[(String, String)]) -> Vec<(&str, &str)> {
    headers
        .iter()
        .map(|(name, value)| (name.as_str(), value.as_str()))
        .collect()
}
