//! Standard output and standard error, written from a thread of its own.
//!
//! It stands apart because a 100 MB line must not keep the server from reading. It writes what it
//! is given: nothing here knows whether that is JSON.

use std::io::Write as _;
use std::sync::mpsc::{Receiver, Sender, channel};

use serde_json::Value;

/// The way to standard output.
#[derive(Clone, Debug)]
pub(crate) struct Voice(Sender<Vec<u8>>);

impl Voice {
    pub(crate) fn start() -> Self {
        let (tx, rx) = channel();
        std::thread::spawn(move || write(&rx));
        Self(tx)
    }

    /// One message, one line.
    pub(crate) fn say(&self, message: &Value) {
        self.raw(format!("{message}\n").into_bytes());
    }

    /// Bytes as they are.
    pub(crate) fn raw(&self, bytes: Vec<u8>) {
        // The reader of our output is gone: there is nobody left to tell.
        drop(self.0.send(bytes));
    }
}

/// Merges what is waiting into one write, as a busy server's buffer would.
fn write(rx: &Receiver<Vec<u8>>) {
    let mut out = std::io::stdout().lock();
    while let Ok(mut bytes) = rx.recv() {
        while bytes.len() < 64 << 10 {
            let Ok(more) = rx.try_recv() else { break };
            bytes.extend_from_slice(&more);
        }
        if out.write_all(&bytes).and_then(|()| out.flush()).is_err() {
            return;
        }
    }
}

/// So many bytes of chatter on standard error.
pub(crate) fn flood(bytes: usize) {
    let line = format!("{}\n", "e".repeat(1023));
    let mut err = std::io::stderr().lock();
    for _ in 0..bytes.div_ceil(line.len()) {
        if err.write_all(line.as_bytes()).is_err() {
            return;
        }
    }
}
