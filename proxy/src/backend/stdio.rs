//! Children that speak stdio: a process behind a pipe.
//!
//! Starting, watching and killing processes is the supervisor's; this file joins a process's
//! standard streams to a [`Pipe`] and says in words how it ended.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use tokio_util::task::TaskTracker;
use tracing::{debug, warn};

use crate::backend::pipe::{Audience, Pipe, Terms};
use crate::backend::pipes::Opener;
use crate::config::CommandServer;
use crate::line::Line;
use crate::supervisor::{self, Launch, environment};

/// Starts a process for each pipe.
#[derive(Debug)]
pub struct Child {
    server: CommandServer,
}

impl Child {
    /// A child as configured.
    pub fn new(server: CommandServer) -> Self {
        Self { server }
    }

    /// Whether its program is there to be started.
    pub fn look(&self, name: &str) -> Result<(), String> {
        supervisor::look_for(&self.launch(name)?).map_err(|error| error.to_string())
    }

    fn launch(&self, name: &str) -> Result<Launch, String> {
        Ok(Launch {
            name: name.to_owned(),
            command: self.server.command.clone(),
            env: environment::of(&self.server.inherit, &self.server.env)?,
            cwd: self.server.cwd.clone(),
        })
    }
}

/// How long a server may take to end by itself once its input is closed (MCP stdio shutdown).
const FAREWELL: Duration = Duration::from_secs(2);

/// Carries bytes both ways until the server ends (`false`) or was asked to (`true`).
async fn carry(
    pipe: &Pipe,
    reading: impl Future<Output = String>,
    writing: impl Future<Output = std::io::Result<()>>,
) -> (String, bool) {
    let mut reading = std::pin::pin!(reading);
    let mut writing = std::pin::pin!(writing);
    let (mut written, mut closing) = (false, false);
    let mut farewell = std::pin::pin!(tokio::time::sleep(Duration::MAX));
    loop {
        tokio::select! {
            biased;
            why = &mut reading => return (why, closing),
            // Written out and closed: the server sees the end of its input.
            done = &mut writing, if !written => match done {
                Ok(()) => written = true,
                Err(error) => return (format!("its input failed: {error}"), closing),
            },
            () = pipe.until_closed(), if !closing => {
                closing = true;
                farewell.as_mut().reset(tokio::time::Instant::now() + FAREWELL);
            }
            () = &mut farewell, if closing => return ("it was stopped".to_owned(), true),
        }
    }
}

#[async_trait]
impl Opener for Child {
    async fn open(
        &self,
        terms: &Terms,
        audience: Audience,
        tasks: &TaskTracker,
    ) -> Result<Arc<Pipe>, String> {
        let launch = self.launch(&terms.server)?;
        let mut process = supervisor::spawn(launch, &terms.metrics)
            .await
            .map_err(|error| error.to_string())?;
        let (stdin, stdout) = process.take_pipes().ok_or("its pipes are missing")?;
        let (line, writing) = Line::new(stdin);
        let pipe = Pipe::new(terms, line, audience);
        debug!(server = %terms.server, pid = process.pid(), "Started the server.");
        let (owned, server) = (pipe.clone(), terms.server.clone());
        let metrics = terms.metrics.clone();
        tasks.spawn(async move {
            let (mut why, asked_to) = carry(&owned, owned.read(stdout), writing).await;
            let status = process.stop().await;
            if !asked_to {
                let words = process.last_words();
                why = format!("{why} ({status})");
                if !words.is_empty() {
                    why = format!("{why}; its last words: {}", words.join(" | "));
                }
                warn!(server = %server, cause = %why, "The server ended.");
                metrics.child_up(&server, false);
            }
            owned.finish(why);
        });
        Ok(pipe)
    }
}
