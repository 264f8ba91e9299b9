//! A server of 2026-07-28 on a bare socket: it keeps each request to the byte, its head as well.
//!
//! It stands apart from the mock server because what chillgate writes into a head is seen by
//! nobody behind an HTTP library. It answers what a test lays down and judges nothing.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

use crate::lenient;

/// One request as it came.
#[derive(Clone, Debug)]
pub struct Recorded {
    /// Request line and fields, up to the blank line.
    pub head: Vec<u8>,
    /// The body.
    pub body: Vec<u8>,
}

impl Recorded {
    /// The fields in order, names in lower case.
    ///
    /// # Panics
    /// When a line of the head is no field: something was injected.
    pub fn fields(&self) -> Vec<(String, Vec<u8>)> {
        let mut lines = self.head.split_inclusive(|byte| *byte == b'\n');
        let first = lines.next().unwrap_or_default();
        assert!(first.starts_with(b"POST "), "{:?}", self.shown());
        lines
            .map(|line| {
                let line = line.strip_suffix(b"\r\n").expect("a line ends with CR LF");
                let at = line.iter().position(|byte| *byte == b':');
                let at = at.unwrap_or_else(|| panic!("no field: {:?}", self.shown()));
                let name = String::from_utf8_lossy(&line[..at]).to_lowercase();
                (name, line[at + 1..].trim_ascii().to_vec())
            })
            .collect()
    }

    /// The values of one field.
    pub fn field(&self, name: &str) -> Vec<Vec<u8>> {
        let named = self.fields().into_iter().filter(|(field, _)| field == name);
        named.map(|(_, value)| value).collect()
    }

    /// The body as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// The body as JSON; null if it is none.
    pub fn message(&self) -> Value {
        lenient::read(&self.body).unwrap_or_default()
    }

    fn shown(&self) -> String {
        String::from_utf8_lossy(&self.head).into_owned()
    }
}

#[derive(Debug, Default)]
struct Kept {
    requests: Mutex<Vec<Recorded>>,
    next: Mutex<Option<(String, String)>>,
    tools: Mutex<Value>,
    given_up: AtomicUsize,
}

/// A call of the tool of this name is never answered.
pub const HELD: &str = "held";

/// The server; it ends with the test's runtime.
#[derive(Clone, Debug)]
pub struct Recorder {
    address: SocketAddr,
    kept: Arc<Kept>,
}

impl Recorder {
    /// Listens on a free port.
    ///
    /// # Panics
    /// When no port can be bound.
    pub async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("it is bound");
        let kept = Arc::new(Kept::default());
        let (recorder, all) = (Self { address, kept }, listener);
        let own = recorder.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = all.accept().await {
                tokio::spawn(own.clone().serve(stream));
            }
        });
        recorder
    }

    /// Where it is.
    pub fn url(&self) -> String {
        format!("http://{}/mcp", self.address)
    }

    /// The `[server.NAME]` table.
    pub fn table(&self, name: &str) -> String {
        let url = self.url();
        format!("[server.{name}]\nurl = \"{url}\"\nera = \"modern\"\n")
    }

    /// What its list of tools shows from now on.
    ///
    /// # Panics
    /// Never: nobody panics while holding the lock.
    pub fn offer(&self, tools: Value) {
        *self.kept.tools.lock().expect("no panic inside") = tools;
    }

    /// Lays down the answer to the next call, around the id.
    ///
    /// # Panics
    /// Never: nobody panics while holding the lock.
    pub fn lay_down(&self, before: &str, after: &str) {
        let next = Some((before.to_owned(), after.to_owned()));
        *self.kept.next.lock().expect("no panic inside") = next;
    }

    /// Takes all requests out whose method is this one.
    ///
    /// # Panics
    /// Never: nobody panics while holding the lock.
    pub fn take(&self, method: &str) -> Vec<Recorded> {
        let mut all = self.kept.requests.lock().expect("no panic inside");
        let fits = |one: &mut Recorded| one.message()["method"] == method;
        all.extract_if(.., fits).collect()
    }

    /// How many calls of [`HELD`] were given up: their connection was closed.
    pub fn given_up(&self) -> usize {
        self.kept.given_up.load(Ordering::Relaxed)
    }

    /// Every request so far.
    ///
    /// # Panics
    /// Never: nobody panics while holding the lock.
    pub fn all(&self) -> Vec<Recorded> {
        self.kept.requests.lock().expect("no panic inside").clone()
    }

    async fn serve(self, mut stream: TcpStream) {
        let mut buffer = Vec::new();
        loop {
            let Some(end) = find(&buffer, b"\r\n\r\n") else {
                match stream.read_buf(&mut buffer).await {
                    Ok(1..) => continue,
                    _ => return,
                }
            };
            let head = buffer[..end + 2].to_vec();
            let length = length(&head);
            while buffer.len() < end + 4 + length {
                let Ok(1..) = stream.read_buf(&mut buffer).await else {
                    return;
                };
            }
            let rest = buffer.split_off(end + 4 + length);
            let body = std::mem::replace(&mut buffer, rest).split_off(end + 4);
            let request = Recorded { head, body };
            let is_held = request.message()["params"]["name"] == HELD;
            let answer = self.keep(request);
            if is_held {
                while let Ok(1..) = stream.read_buf(&mut buffer).await {}
                self.kept.given_up.fetch_add(1, Ordering::Relaxed);
                return;
            }
            let head = format!(
                "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n",
                answer.len()
            );
            let whole = [head, answer].concat();
            if stream.write_all(whole.as_bytes()).await.is_err() {
                return;
            }
        }
    }

    fn keep(&self, request: Recorded) -> String {
        let message = request.message();
        let id = message["id"].to_string();
        let mut all = self.kept.requests.lock().expect("no panic inside");
        all.push(request);
        drop(all);
        let result = match message["method"].as_str().unwrap_or_default() {
            "server/discover" => json!({
                "supportedVersions": ["2026-07-28"], "ttlMs": 0, "cacheScope": "private",
                "capabilities": {"tools": {}, "prompts": {}, "resources": {}},
            }),
            "tools/list" => {
                let tools = self.kept.tools.lock().expect("no panic inside");
                let tools = tools.as_array().cloned().unwrap_or_default();
                json!({"tools": tools, "ttlMs": 0, "cacheScope": "private"})
            }
            _ => {
                let next = self.kept.next.lock().expect("no panic inside").take();
                if let Some((before, after)) = next {
                    return format!("{before}{id}{after}");
                }
                json!({"content": [], "contents": [], "messages": []})
            }
        };
        let mut result = result;
        result["resultType"] = json!("complete");
        format!(r#"{{"jsonrpc":"2.0","id":{id},"result":{result}}}"#)
    }
}

fn find(text: &[u8], wanted: &[u8]) -> Option<usize> {
    text.windows(wanted.len()).position(|part| part == wanted)
}

/// What `Content-Length` says.
fn length(head: &[u8]) -> usize {
    let text = String::from_utf8_lossy(head).to_lowercase();
    let value = text
        .lines()
        .find_map(|line| line.strip_prefix("content-length:"));
    value
        .and_then(|value| value.trim().parse().ok())
        .unwrap_or_default()
}
