//! What the server knows, and how it takes in a line.
//!
//! It stands apart from the methods because hearing comes before understanding: the ledger has the
//! line even when nothing in it can be parsed. It never holds a lock across an await.

use std::collections::HashMap;
use std::fs::File;
use std::io::Write as _;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock};

use chillgate_tests::lenient;
use serde_json::{Value, json};
use tokio::sync::oneshot;

use crate::flags::Flags;
use crate::methods;
use crate::voice::Voice;

/// One server with one host on the other end.
#[derive(Debug)]
pub(crate) struct Server {
    pub(crate) flags: Flags,
    pub(crate) voice: Voice,
    /// What the host declared in `initialize`.
    pub(crate) host: Mutex<Value>,
    /// The `requestId` of every `notifications/cancelled` heard.
    pub(crate) cancelled: Mutex<Vec<Value>>,
    /// Who listens, by the id of the request, and to what.
    pub(crate) listening: Mutex<Vec<(Value, Value)>>,
    /// Whether the first message was one of 2026-07-28.
    pub(crate) is_modern: OnceLock<bool>,
    /// It answers nothing any more.
    pub(crate) is_deaf: AtomicBool,
    /// Calls heard so far.
    pub(crate) calls: AtomicU64,
    ledger: Option<Mutex<File>>,
    asked: Mutex<HashMap<String, oneshot::Sender<Value>>>,
    next: AtomicU64,
}

impl Server {
    pub(crate) fn new(flags: Flags, voice: Voice) -> Self {
        let ledger = flags.ledger.as_ref().map(|path| {
            let file = File::options().create(true).append(true).open(path);
            Mutex::new(file.expect("the ledger can be written"))
        });
        Self {
            flags,
            voice,
            host: Mutex::new(Value::Null),
            cancelled: Mutex::default(),
            listening: Mutex::default(),
            is_modern: OnceLock::new(),
            is_deaf: AtomicBool::new(false),
            calls: AtomicU64::new(0),
            ledger,
            asked: Mutex::default(),
            next: AtomicU64::new(0),
        }
    }

    /// Takes in one line; whatever it needs to do about it happens in a task of its own.
    pub(crate) fn hear(self: &Arc<Self>, line: &[u8]) {
        if let Some(ledger) = &self.ledger {
            lock(ledger)
                .write_all(line)
                .expect("the ledger can be written");
        }
        if self.flags.silent || self.is_deaf.load(Ordering::Relaxed) {
            return;
        }
        let Some(message) = lenient::read(line) else {
            return;
        };
        let id = message.get("id").cloned();
        match (message.get("method").and_then(Value::as_str), id) {
            (Some(method), Some(id)) => {
                let (method, server) = (method.to_owned(), Arc::clone(self));
                if method == "tools/call" {
                    self.calls.fetch_add(1, Ordering::Relaxed);
                }
                let line = String::from_utf8_lossy(line).trim_end().to_owned();
                // Owned by the runtime, which ends with the process.
                tokio::spawn(async move {
                    methods::answer(&server, &method, &id, &message, line).await;
                });
            }
            (Some("notifications/cancelled"), None) => {
                let ended = &message["params"]["requestId"];
                lock(&self.listening).retain(|(id, _)| id != ended);
                lock(&self.cancelled).push(message["params"]["requestId"].clone());
            }
            (None, Some(id)) => {
                if let Some(waiting) = lock(&self.asked).remove(&id.to_string()) {
                    drop(waiting.send(message));
                }
            }
            (_, None) => {}
        }
    }

    /// Sends the host a request and waits for its answer, however long that takes.
    pub(crate) async fn ask(&self, method: &str, params: Value) -> Value {
        let id = json!(format!("ask-{}", self.next.fetch_add(1, Ordering::Relaxed)));
        let (tx, rx) = oneshot::channel();
        lock(&self.asked).insert(id.to_string(), tx);
        let mut request = json!({"jsonrpc": "2.0", "id": id, "method": method});
        if !params.is_null() {
            request["params"] = params;
        }
        self.voice.say(&request);
        rx.await.unwrap_or(Value::Null)
    }

    /// Sends the host a notification.
    pub(crate) fn tell(&self, method: &str, params: Value) {
        let mut note = json!({"jsonrpc": "2.0", "method": method});
        if !params.is_null() {
            note["params"] = params;
        }
        self.voice.say(&note);
    }
}

/// The lock's content; no task panics while it holds one.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().expect("no task panics while it holds this")
}
