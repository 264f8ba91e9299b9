//! A raw MCP host over stdio: it starts a command and speaks lines with it.
//!
//! It stands apart from the HTTP host because on a pipe everything arrives interleaved: what came
//! early is kept until a test asks for it. It never writes anything but what the test says.

use std::collections::VecDeque;
use std::process::{ExitStatus, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};
use tokio::task::JoinHandle;
use tokio::time::Instant;

use crate::host::LATEST;
use crate::wait::within;

/// How long a test waits for a line.
const PATIENCE: Duration = Duration::from_mins(1);
/// How much of the child's stderr is kept.
const STDERR: usize = 1 << 20;

/// A host on the other end of a command's pipes.
#[derive(Debug)]
pub struct PipeHost {
    child: Child,
    stdin: Option<ChildStdin>,
    stdout: BufReader<ChildStdout>,
    stderr: Arc<Mutex<Vec<u8>>>,
    drained: JoinHandle<()>,
    early: VecDeque<Value>,
    partial: Vec<u8>,
    next: u64,
}

impl PipeHost {
    /// Starts the command with its three streams piped.
    ///
    /// # Panics
    /// When it cannot be started.
    pub fn start(mut command: Command) -> Self {
        let piped = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut child = piped
            .spawn()
            .unwrap_or_else(|error| panic!("{command:?}: {error}"));
        let stdin = child.stdin.take();
        let stdout = BufReader::new(child.stdout.take().expect("stdout is piped"));
        let mut from = child.stderr.take().expect("stderr is piped");
        let stderr = Arc::new(Mutex::new(Vec::new()));
        let kept = Arc::clone(&stderr);
        let drained = tokio::spawn(async move {
            let mut chunk = vec![0; 16 << 10];
            while let Ok(n @ 1..) = from.read(&mut chunk).await {
                let mut kept = kept.lock().expect("no test panics while it holds this");
                let room = STDERR.saturating_sub(kept.len()).min(n);
                kept.extend_from_slice(&chunk[..room]);
            }
        });
        let early = VecDeque::new();
        Self {
            child,
            stdin,
            stdout,
            stderr,
            drained,
            early,
            partial: Vec::new(),
            next: 0,
        }
    }

    /// Opens the session with these capabilities; the `initialize` result.
    pub async fn open(&mut self, capabilities: Value) -> Value {
        let params = json!({
            "protocolVersion": LATEST,
            "capabilities": capabilities,
            "clientInfo": {"name": "raw-pipe-host", "version": "1"},
        });
        let answer = self.request("initialize", params).await;
        self.write(&json!({"jsonrpc": "2.0", "method": "notifications/initialized"}))
            .await;
        answer["result"].clone()
    }

    /// Sends a request with the next id, counted from 0; the id.
    pub async fn send(&mut self, method: &str, params: Value) -> u64 {
        let id = self.next;
        self.next += 1;
        let request = json!({"jsonrpc": "2.0", "id": id, "method": method, "params": params});
        self.write(&request).await;
        id
    }

    /// Sends a request and waits for its answer; what comes before is kept.
    pub async fn request(&mut self, method: &str, params: Value) -> Value {
        let id = self.send(method, params).await;
        self.answer(&json!(id)).await
    }

    /// Calls a tool; the answer.
    pub async fn call(&mut self, tool: &str, arguments: Value) -> Value {
        self.request("tools/call", json!({"name": tool, "arguments": arguments}))
            .await
    }

    /// The answer with this id.
    pub async fn answer(&mut self, id: &Value) -> Value {
        let answers = |m: &Value| m.get("id") == Some(id) && m.get("method").is_none();
        self.find(&format!("the answer to {id}"), answers).await
    }

    /// The next message with this method, a request or a notification of the server.
    pub async fn heard(&mut self, method: &str) -> Value {
        self.find(method, |message| message["method"] == method)
            .await
    }

    /// The first message that fits, among those kept and those to come.
    ///
    /// # Panics
    /// When none comes within a minute, or the command closes its output.
    pub async fn find(&mut self, what: &str, fits: impl Fn(&Value) -> bool) -> Value {
        if let Some(at) = self.early.iter().position(&fits) {
            return self.early.remove(at).expect("the position was just found");
        }
        let end = Instant::now() + PATIENCE;
        loop {
            let left = end.saturating_duration_since(Instant::now());
            let message = tokio::time::timeout(left, self.read()).await;
            match message {
                Ok(Some(message)) if fits(&message) => return message,
                Ok(Some(message)) => self.early.push_back(message),
                Ok(None) => panic!("{what}: the output ended; stderr: {}", self.stderr()),
                Err(late) => panic!("{what}: {late}; stderr: {}", self.stderr()),
            }
        }
    }

    /// All messages that come within a span of silence.
    pub async fn quiet(&mut self, silence: Duration) -> Vec<Value> {
        let mut heard: Vec<Value> = self.early.drain(..).collect();
        while let Ok(Some(message)) = tokio::time::timeout(silence, self.read()).await {
            heard.push(message);
        }
        heard
    }

    /// Writes one message as a line.
    pub async fn write(&mut self, message: &Value) {
        self.write_bytes(format!("{message}\n").as_bytes()).await;
    }

    /// Writes bytes as they are.
    ///
    /// # Panics
    /// When the command reads no more.
    pub async fn write_bytes(&mut self, bytes: &[u8]) {
        let stdin = self.stdin.as_mut().expect("stdin is open");
        let written = async {
            stdin.write_all(bytes).await?;
            stdin.flush().await
        };
        within("writing to the command", PATIENCE, written)
            .await
            .expect("the command reads on");
    }

    /// The next line, which must be JSON: standard output belongs to the protocol.
    ///
    /// # Panics
    /// When it is none.
    pub async fn read(&mut self) -> Option<Value> {
        // A wait that runs out in the middle of a line leaves its beginning in `partial`.
        let read = self.stdout.read_until(b'\n', &mut self.partial).await;
        let line = std::mem::take(&mut self.partial);
        if read.expect("stdout can be read") == 0 && line.is_empty() {
            return None;
        }
        Some(serde_json::from_slice(&line).unwrap_or_else(|error| {
            let shown = String::from_utf8_lossy(&line[..line.len().min(400)]).into_owned();
            panic!("stdout holds something else than JSON ({error}): {shown}")
        }))
    }

    /// Closes the command's standard input.
    pub fn close(&mut self) {
        self.stdin = None;
    }

    /// Closes standard input and waits for the end; status and stderr.
    pub async fn finish(mut self, limit: Duration) -> (ExitStatus, String) {
        self.close();
        self.ended(limit).await
    }

    /// Waits for the end with standard input left open; status and stderr.
    ///
    /// # Panics
    /// When the command does not end in time.
    pub async fn ended(mut self, limit: Duration) -> (ExitStatus, String) {
        let status = within("the end of the command", limit, self.child.wait()).await;
        // A grandchild that kept stderr open must not keep the test.
        drop(tokio::time::timeout(Duration::from_secs(2), &mut self.drained).await);
        (status.expect("a child can be waited for"), self.stderr())
    }

    /// What the command wrote to stderr so far.
    pub fn stderr(&self) -> String {
        let kept = self
            .stderr
            .lock()
            .expect("no test panics while it holds this");
        String::from_utf8_lossy(&kept).into_owned()
    }

    /// The command, to signal it.
    pub fn child(&self) -> &Child {
        &self.child
    }
}
