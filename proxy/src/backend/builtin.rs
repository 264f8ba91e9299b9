//! Servers inside chillgate: ChillMCP and operations, behind pipes that never leave the process.
//!
//! A built-in is one more server that speaks lines; what sets it apart is that it is told who
//! asks, under keys of chillgate's own that no host can set and no other server sees.

use std::sync::Arc;

use async_trait::async_trait;
use chillgate_chill::{AGENT_KEY, Chill, HELD_KEY};
use chillgate_ops::Ops;
use chillgate_wire::{Edit, json};
use tokio::io::DuplexStream;
use tokio_util::task::TaskTracker;

use crate::backend::Passage;
use crate::backend::pipe::{Audience, Pipe, Terms};
use crate::backend::pipes::{Opener, Unopened, Whose};
use crate::line::Line;
use crate::ops::Operations;
use crate::session::Session;

/// How much may be on its way inside the process before the writer waits.
const IN_PROCESS: usize = 64 << 10;

/// ChillMCP.
pub struct Builtin {
    chill: Chill,
}

impl std::fmt::Debug for Builtin {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Builtin(chill)")
    }
}

impl Builtin {
    /// ChillMCP with this state.
    pub fn new(chill: Chill) -> Self {
        Self { chill }
    }
}

/// Operations: the server `ops`.
pub struct BuiltinOps {
    ops: Ops,
}

impl std::fmt::Debug for BuiltinOps {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Builtin(ops)")
    }
}

impl BuiltinOps {
    /// The server that tells about this chillgate.
    pub fn new(operations: Operations) -> Self {
        Self {
            ops: Ops::new(Arc::new(operations)),
        }
    }
}

/// A pipe whose far end is served in a task, until either side is done.
fn inside<F, E>(
    terms: &Terms,
    audience: Arc<Audience>,
    tasks: &TaskTracker,
    serve: impl FnOnce(DuplexStream) -> F,
) -> Arc<Pipe>
where
    F: Future<Output = Result<(), E>> + Send + 'static,
    E: std::fmt::Display + Send + 'static,
{
    let (ours, theirs) = tokio::io::duplex(IN_PROCESS);
    let (reader, writer) = tokio::io::split(ours);
    let (line, writing) = Line::new(writer);
    let pipe = Pipe::new(terms, line, audience);
    let (owned, serving) = (pipe.clone(), serve(theirs));
    tasks.spawn(async move {
        let reading = owned.read(reader);
        let (mut serving, mut reading) = (std::pin::pin!(serving), std::pin::pin!(reading));
        let mut writing = std::pin::pin!(writing);
        let mut written = false;
        let why = loop {
            tokio::select! {
                why = &mut reading => break why,
                ended = &mut serving => break match ended {
                    Ok(()) => "it was stopped".to_owned(),
                    Err(error) => error.to_string(),
                },
                _ = &mut writing, if !written => written = true,
                () = owned.until_closed() => break "it was stopped".to_owned(),
            }
        };
        owned.finish(why);
    });
    pipe
}

#[async_trait]
impl Opener for Builtin {
    async fn open(
        &self,
        terms: &Terms,
        audience: Arc<Audience>,
        _whose: Whose<'_>,
        tasks: &TaskTracker,
    ) -> Result<Arc<Pipe>, Unopened> {
        let chill = self.chill.clone();
        let serve = |io| async move { chill.serve(io).await };
        Ok(inside(terms, audience, tasks, serve))
    }

    fn stamp(&self, edit: &mut Edit<'_>, session: &Session, passage: Passage) {
        let agent = json::quote(&session.agent.name);
        edit.set(&["params", "_meta", AGENT_KEY], agent.into_bytes());
        if passage.held {
            edit.set(&["params", "_meta", HELD_KEY], b"true");
        }
    }
}

#[async_trait]
impl Opener for BuiltinOps {
    async fn open(
        &self,
        terms: &Terms,
        audience: Arc<Audience>,
        _whose: Whose<'_>,
        tasks: &TaskTracker,
    ) -> Result<Arc<Pipe>, Unopened> {
        let ops = self.ops.clone();
        let serve = |io| async move { ops.serve(io).await };
        Ok(inside(terms, audience, tasks, serve))
    }

    fn keeps_time(&self) -> bool {
        // Each runbook has its timeout, and each question to a person an end.
        true
    }

    fn stamp(&self, edit: &mut Edit<'_>, session: &Session, _: Passage) {
        let agent = json::quote(&session.agent.name);
        edit.set(
            &["params", "_meta", chillgate_ops::AGENT_KEY],
            agent.into_bytes(),
        );
    }
}
