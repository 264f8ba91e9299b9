//! A host for tests: raw JSON lines over an in-memory stream, so that rmcp is met as a peer meets
//! it and not through its own types.

use std::{
    collections::VecDeque,
    sync::{Mutex, PoisonError},
};

use serde_json::json;
use tokio::{
    io::{
        AsyncBufReadExt, AsyncWriteExt, BufReader, DuplexStream, Lines, ReadHalf, WriteHalf,
        duplex, split,
    },
    task::JoinHandle,
};

use super::*;

/// One connection to a [`Chill`], and the task that serves it.
pub(super) struct Host {
    lines: Lines<BufReader<ReadHalf<DuplexStream>>>,
    write: WriteHalf<DuplexStream>,
    /// Messages read while another was looked for.
    kept: VecDeque<Value>,
    next_id: u64,
    pub(super) served: JoinHandle<Result<(), ChillError>>,
}

impl Host {
    /// A stream to `chill` on which nothing has been said yet.
    pub(super) fn silent(chill: &Chill) -> Host {
        Host::through(chill, 64 * 1024)
    }

    /// The same, through a stream that holds `width` bytes each way.
    pub(super) fn through(chill: &Chill, width: usize) -> Host {
        let (near, far) = duplex(width);
        let (read, write) = split(near);
        let chill = chill.clone();
        Host {
            lines: BufReader::new(read).lines(),
            write,
            kept: VecDeque::new(),
            next_id: 1,
            served: tokio::spawn(async move { chill.serve(far).await }),
        }
    }

    /// An initialized connection.
    pub(super) async fn new(chill: &Chill) -> Host {
        let mut host = Host::silent(chill);
        host.initialize("2025-11-25").await;
        host
    }

    /// Initializes with `version` and returns the server's answer.
    pub(super) async fn initialize(&mut self, version: &str) -> Value {
        let params = json!({
            "protocolVersion": version,
            "capabilities": {},
            "clientInfo": { "name": "test", "version": "0" },
        });
        let answer = self.ask("initialize", params).await;
        self.say(&json!({ "jsonrpc": "2.0", "method": "notifications/initialized" }))
            .await;
        answer
    }

    pub(super) async fn say(&mut self, message: &Value) {
        let line = format!("{message}\n");
        self.write
            .write_all(line.as_bytes())
            .await
            .expect("the server is reading");
    }

    /// Sends a request without waiting for its answer; returns its id.
    pub(super) async fn start(&mut self, method: &str, params: Value) -> u64 {
        let id = self.next_id;
        self.next_id += 1;
        let mut message = json!({ "jsonrpc": "2.0", "id": id, "method": method });
        if !params.is_null() {
            message["params"] = params;
        }
        self.say(&message).await;
        id
    }

    /// The next message, whatever it is; `None` once the server has closed.
    pub(super) async fn next(&mut self) -> Option<Value> {
        match self.kept.pop_front() {
            Some(kept) => Some(kept),
            None => self.read().await,
        }
    }

    /// The answer to `id`; what else arrives meanwhile is kept for [`Host::next`].
    pub(super) async fn answer(&mut self, id: u64) -> Value {
        if let Some(at) = self.kept.iter().position(|message| message["id"] == id) {
            return self.kept.remove(at).expect("just found");
        }
        loop {
            let message = self.read().await.expect("an answer before the end");
            if message["id"] == id {
                return message;
            }
            self.kept.push_back(message);
        }
    }

    pub(super) async fn ask(&mut self, method: &str, params: Value) -> Value {
        let id = self.start(method, params).await;
        self.answer(id).await
    }

    /// Calls a tool and returns `result`.
    pub(super) async fn call(&mut self, tool: &str, meta: Value) -> Value {
        let mut answer = self
            .ask("tools/call", json!({ "name": tool, "_meta": meta }))
            .await;
        assert_eq!(answer.get("error"), None);
        answer["result"].take()
    }

    /// Closes the connection from this side and waits until it has been served to the end.
    pub(super) async fn close(mut self) -> Result<(), ChillError> {
        self.write.shutdown().await.expect("the stream is open");
        self.served.await.expect("serving does not panic")
    }

    async fn read(&mut self) -> Option<Value> {
        let line = self.lines.next_line().await.expect("lines of text")?;
        Some(serde_json::from_str(&line).expect("one JSON value a line"))
    }
}

/// What an [`Observer`] heard.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Heard {
    pub(super) agent: String,
    pub(super) tool: &'static str,
    pub(super) before: Levels,
    pub(super) after: Levels,
    pub(super) held: Option<std::time::Duration>,
}

/// An observer that remembers.
#[derive(Debug, Default)]
pub(super) struct Ears {
    heard: Mutex<Vec<Heard>>,
}

impl Ears {
    pub(super) fn heard(&self) -> Vec<Heard> {
        self.heard
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    fn hear(&self, report: &BreakReport<'_>) {
        let BreakReport {
            agent,
            tool,
            before,
            after,
            held,
        } = *report;
        let heard = Heard {
            agent: agent.to_owned(),
            tool,
            before,
            after,
            held,
        };
        self.heard
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(heard);
    }
}

impl Observer for Ears {
    fn on_break(&self, report: &BreakReport<'_>) {
        self.hear(report);
    }

    fn on_status(&self, report: &BreakReport<'_>) {
        self.hear(report);
    }
}
