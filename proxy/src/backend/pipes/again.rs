//! Calls that may be made a second time, after the process that had them has ended.
//!
//! Whether the first was carried out is not known then. So only what changes nothing is tried
//! again, and tools that say of themselves that they are read-only or that a second call adds
//! nothing; all others are the host's to judge.

use std::collections::HashSet;
use std::sync::{Arc, LazyLock, Mutex};

use chillgate_wire::{Envelope, json};
use memchr::memmem::Finder;
use tracing::info;

use super::Pipes;
use crate::backend::{BackendError, Passage};
use crate::exchange::Exchange;
use crate::lock::locked;
use crate::route::lists::each;

/// Names kept of one server.
const NAMES: usize = 10_000;

/// Tools of one server that may be called again.
#[derive(Debug, Default)]
pub(super) struct Repeatable(Mutex<HashSet<String>>);

static HINT: LazyLock<Finder<'static>> = LazyLock::new(|| Finder::new(b"Hint\""));

impl Repeatable {
    /// Notes what a page of the list of tools says.
    pub(super) fn note(&self, answer: &Envelope) {
        let Some(tools) = answer.get(&["result", "tools"]) else {
            return;
        };
        if HINT.find(tools).is_none() && locked(&self.0).is_empty() {
            return;
        }
        for tool in each(tools, "name") {
            let Some(name) = tool.name else { continue };
            let says = |hint| {
                let at = json::path(tool.bytes, &["annotations", hint]);
                at.is_some_and(|at| &tool.bytes[at] == b"true")
            };
            let mut known = locked(&self.0);
            if !(says("readOnlyHint") || says("idempotentHint")) {
                known.remove(&*name);
            } else if known.len() < NAMES {
                known.insert(name.into_owned());
            }
        }
    }

    /// Whether a request may be tried again.
    pub(super) fn has(&self, request: &Envelope) -> bool {
        match request.method().unwrap_or_default() {
            "tools/call" => {
                let name = request.text(&["params", "name"]);
                name.is_some_and(|name| locked(&self.0).contains(&*name))
                    && request.find(&["params", "task"]).is_none()
            }
            "ping"
            | "completion/complete"
            | "logging/setLevel"
            | "prompts/get"
            | "prompts/list"
            | "resources/list"
            | "resources/read"
            | "resources/subscribe"
            | "resources/templates/list"
            | "resources/unsubscribe"
            | "tools/list" => true,
            _ => false,
        }
    }
}

impl Pipes {
    /// The process that had the call is gone. What does no harm is asked once more; for all else
    /// this is the answer.
    pub(super) async fn call_again(
        &self,
        exchange: &Arc<Exchange>,
        request: &Envelope,
        passage: Passage,
        lost: BackendError,
    ) -> Result<Envelope, BackendError> {
        let BackendError::Lost {
            cause, retryable, ..
        } = &lost
        else {
            return Err(lost);
        };
        if !retryable || self.0.stopping.is_cancelled() || exchange.session.is_over() {
            return Err(lost);
        }
        let server = &self.0.terms.server;
        info!(%server, %cause, method = request.method(), "Asking again what does no harm.");
        self.0.terms.metrics.call_retried(server);
        exchange.touch();
        match self.call_once(exchange, request, passage).await {
            Err(BackendError::Lost {
                server,
                cause,
                ended,
                known,
                ..
            }) => Err(BackendError::Lost {
                server,
                cause,
                ended,
                known,
                retryable: true,
            }),
            // It may have been carried out the first time.
            Err(BackendError::Down { .. }) => Err(lost),
            answer => answer,
        }
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use chillgate_wire::Limits;

    use super::*;

    fn message(text: &str) -> Envelope {
        Envelope::parse(Bytes::from(text.to_owned()), &Limits::default()).expect("a message")
    }

    fn call(tool: &str) -> Envelope {
        message(&format!(
            r#"{{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{{"name":"{tool}"}}}}"#
        ))
    }

    #[test]
    fn a_tool_is_repeatable_only_while_it_says_so() {
        let known = Repeatable::default();
        let list = |a: &str| {
            message(&format!(
                r#"{{"jsonrpc":"2.0","id":1,"result":{{"tools":[
                    {{"name":"a","inputSchema":{{}},"annotations":{{{a}}}}},
                    {{"name":"b","inputSchema":{{}},"annotations":{{"readOnlyHint":true}}}},
                    {{"name":"c","inputSchema":{{}},"description":"readOnlyHint\": true"}}]}}}}"#
            ))
        };
        assert!(!known.has(&call("a")));
        known.note(&list(r#""idempotentHint":true"#));
        assert!(known.has(&call("a")) && known.has(&call("b")) && !known.has(&call("c")));
        known.note(&list(r#""idempotentHint":false"#));
        assert!(!known.has(&call("a")) && known.has(&call("b")));
        let task =
            r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"b","task":{}}}"#;
        assert!(!known.has(&message(task)), "it may have become a task");
    }

    #[test]
    fn what_reads_is_repeatable_and_what_may_change_something_is_not() {
        let known = Repeatable::default();
        for (method, may) in [
            ("tools/list", true),
            ("resources/read", true),
            ("tasks/cancel", false),
            ("initialize", false),
            ("vendor/thing", false),
        ] {
            let request = format!(r#"{{"jsonrpc":"2.0","id":1,"method":"{method}"}}"#);
            assert_eq!(known.has(&message(&request)), may, "{method}");
        }
    }
}
