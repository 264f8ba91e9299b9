//! Children that speak stdio: a process behind a pipe.
//!
//! Starting, watching and killing processes is the supervisor's; this file joins a process's
//! standard streams to a [`Pipe`] and says in words how it ended.

use std::fs::DirBuilder;
use std::os::unix::fs::DirBuilderExt as _;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use tokio_util::task::TaskTracker;
use tracing::{debug, warn};

use crate::backend::pipe::{Audience, Pipe, Terms};
use crate::backend::pipes::Opener;
use crate::config::CommandServer;
use crate::config::secret::{AGENT, SecretText, for_agent};
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
        supervisor::look_for(&self.launch(name, None)?).map_err(|error| error.to_string())
    }

    /// What is started; for an agent with what is that agent's alone.
    fn launch(&self, name: &str, agent: Option<&str>) -> Result<Launch, String> {
        let server = &self.server;
        let mut set = server.env.clone();
        let (mut command, mut cwd) = (server.command.clone(), server.cwd.clone());
        if let Some(agent) = agent {
            for (name, text) in &server.agent_env {
                let text = SecretText::of_agent(text, agent)
                    .map_err(|cause| format!("`agent-env` {name}: {cause}"))?;
                set.insert(name.clone(), text);
            }
            for word in command.iter_mut().filter(|word| word.contains(AGENT)) {
                *word = for_agent(word, agent).map_err(|cause| format!("`command`: {cause}"))?;
            }
            if let Some(folder) = server.agent_folder() {
                let folder = for_agent(folder, agent).map_err(|cause| format!("`cwd`: {cause}"))?;
                make_private(&folder).map_err(|error| format!("`cwd` {folder}: {error}"))?;
                cwd = Some(folder.into());
            }
        }
        Ok(Launch {
            name: name.to_owned(),
            command,
            env: environment::of(&server.inherit, &set)?,
            cwd,
            limits: server.limits.clone(),
            sandbox: server.sandbox.clone(),
        })
    }
}

/// A folder of one agent, for chillgate's user alone; one that is there stays as it is.
fn make_private(folder: &str) -> std::io::Result<()> {
    let made = DirBuilder::new().mode(0o700).create(folder);
    match made {
        Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => Ok(()),
        made => made,
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
        agent: Option<&str>,
        tasks: &TaskTracker,
    ) -> Result<Arc<Pipe>, String> {
        let launch = self.launch(&terms.server, agent)?;
        let mut process = supervisor::spawn(launch, &terms.metrics)
            .await
            .map_err(|error| error.to_string())?;
        let (stdin, stdout) = process.take_pipes().ok_or("its pipes are missing")?;
        let (line, writing) = Line::new(stdin);
        let pipe = Pipe::new(terms, line, audience);
        pipe.note_process(process.pid());
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
