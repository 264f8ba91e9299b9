//! What the unit tests of this crate share: calls, a memory for audit records, one-policy chains.
//!
//! Compiled for tests only.

use std::sync::{Arc, Mutex};

use futures_util::FutureExt;
use serde_json::Value;

use super::call::{Call, Context, Grants};
use super::chain::Chain;
use super::clock::ManualClock;
use super::pass::Pass;
use super::policy::Rejection;
use super::record::{AuditDown, AuditSink, Event, Record};
use super::services::Services;

/// A call without arguments.
pub(crate) fn call(agent: &str, server: &str, method: &str, target: Option<&str>) -> Call {
    Call {
        agent: agent.into(),
        grants: Arc::default(),
        server: server.into(),
        method: method.into(),
        target: target.map(Into::into),
        arguments: None,
        id: None,
        bytes_in: 0,
        deadline: None,
        context: Arc::new(Context {
            transport: "stdio",
            era: "modern",
            ..Context::default()
        }),
    }
}

/// A call of a tool by somebody with these groups and scopes.
pub(crate) fn granted(groups: &[&str], scopes: &[&str]) -> Call {
    let shared = |texts: &[&str]| texts.iter().map(|text| Arc::from(*text)).collect();
    let grants = Grants {
        groups: shared(groups),
        scopes: shared(scopes),
    };
    Call {
        grants: Arc::new(grants),
        ..tool("write_file")
    }
}

/// A call of a tool of the server `files` by `a`.
pub(crate) fn tool(name: &str) -> Call {
    call("a", "files", "tools/call", Some(name))
}

/// Services on a clock that stands still.
pub(crate) fn services() -> (ManualClock, Services) {
    let clock = ManualClock::new();
    (clock.clone(), Services::new(Arc::new(clock)))
}

/// A chain of these tables.
pub(crate) fn chain(tables: &[Value], services: &Services) -> Arc<Chain> {
    Arc::new(Chain::build(tables, services).expect("the tables are right"))
}

/// What the chain says at once; panics if it makes the call wait.
pub(crate) fn admit(chain: &Arc<Chain>, call: Call) -> Result<Box<Pass>, Rejection> {
    chain
        .admit(call, &())
        .now_or_never()
        .expect("it must not wait")
}

/// Keeps audit records as lines; can be full.
#[derive(Debug, Default)]
pub(crate) struct Memory {
    pub(crate) lines: Mutex<Vec<String>>,
    pub(crate) full: Mutex<bool>,
}

impl Memory {
    pub(crate) fn records(&self) -> Vec<Value> {
        let lines = self.lines.lock().expect("not poisoned");
        lines
            .iter()
            .map(|line| serde_json::from_str(line).expect("JSON"))
            .collect()
    }

    pub(crate) fn set_full(&self, full: bool) {
        *self.full.lock().expect("not poisoned") = full;
    }
}

impl AuditSink for Memory {
    fn append(&self, record: &Record<'_>) -> Result<(), AuditDown> {
        if *self.full.lock().expect("not poisoned") {
            return Err(AuditDown("disk full".into()));
        }
        let mut line = Vec::new();
        record.write(&mut line);
        line[0] = b'{'; // where another sink has members of its own
        line.push(b'}');
        let line = String::from_utf8(line).expect("UTF-8");
        self.lines.lock().expect("not poisoned").push(line);
        Ok(())
    }

    fn note(&self, _: &Event<'_>) -> Result<(), AuditDown> {
        Ok(())
    }
}
