//! Runs of runbooks: a program that is to end, with what it wrote.
//!
//! Under a keeper like a server, so that a run that takes too long or that nobody waits for any more
//! ends with everything below it. What is run was decided before; this file judges no argument and
//! knows no shell.

use std::collections::VecDeque;
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::process::{ChildStderr, ChildStdout};
use tokio::runtime::Handle;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, timeout};
use tokio_util::task::TaskTracker;
use tracing::{info, warn};

use super::stderr::Stderr;
use super::{Launch, Process, SpawnError, Status, start};
use crate::telemetry::metrics::Metrics;

/// How many run at a time.
pub const MOST: usize = 4;

/// A program to run once.
#[derive(Clone, Debug)]
pub struct Order {
    /// What is started; its name is the runbook's.
    pub launch: Launch,
    /// How long it may take.
    pub timeout: Duration,
    /// How much is kept of what it writes, of output and errors each.
    pub output: usize,
    /// Who asked for it, for the log.
    pub agent: String,
    /// The names of the arguments that were given, for the log; their values stay out of it.
    pub arguments: Vec<String>,
}

/// What a run came to.
#[derive(Clone, Debug)]
pub struct Ran {
    /// How it ended; `None`: it was ended because its time was used up.
    pub status: Option<Status>,
    /// What it wrote.
    pub stdout: Kept,
    /// What it wrote to stderr.
    pub stderr: Kept,
    /// How long it took.
    pub took: Duration,
}

/// Why nothing was run.
#[derive(Debug, thiserror::Error)]
pub enum NotRun {
    /// As many run as may.
    #[error("{MOST} runbooks are at work already; try again when one of them has ended")]
    Busy,
    /// The program could not be started.
    #[error(transparent)]
    Spawn(#[from] SpawnError),
}

/// Runs programs, a few at a time; clones share the places.
#[derive(Clone, Debug)]
pub struct Runner {
    places: Arc<Semaphore>,
    tasks: TaskTracker,
    metrics: Arc<Metrics>,
}

impl Runner {
    /// A runner whose last steps are owned by `tasks`.
    pub fn new(tasks: TaskTracker, metrics: Arc<Metrics>) -> Self {
        Self {
            places: Arc::new(Semaphore::new(MOST)),
            tasks,
            metrics,
        }
    }

    /// Runs it to its end. Dropping the future ends it with everything below it; its place is free
    /// once that is gone.
    pub async fn run(&self, order: Order) -> Result<Ran, NotRun> {
        let permit = self.places.clone().try_acquire_owned();
        let permit = permit.map_err(|_| NotRun::Busy)?;
        let (limit, output) = (order.timeout, order.output);
        let began = Instant::now();
        let (process, stdout, stderr) = self.spawn(&order.launch).await?;
        let mut run = Run {
            process: Some(process),
            permit: Some(permit),
            tasks: self.tasks.clone(),
            order,
            began,
        };
        let (mut out, mut err) = (Capture::new(output), Capture::new(output));
        let status = {
            // Present until the end of this function: only a drop takes it out.
            let Some(process) = run.process.as_mut() else {
                return Err(SpawnError::without_pipes().into());
            };
            let work = async {
                let reading = async { tokio::join!(out.drain(stdout), err.drain(stderr)) };
                tokio::join!(process.wait(), reading).0
            };
            let ended = timeout(limit, work).await.ok();
            if ended.is_none() {
                process.stop().await;
            }
            ended
        };
        run.process = None;
        run.tell(status);
        Ok(Ran {
            status,
            stdout: out.finish(),
            stderr: err.finish(),
            took: began.elapsed(),
        })
    }

    async fn spawn(&self, launch: &Launch) -> Result<(Process, ChildStdout, ChildStderr), NotRun> {
        let mut started = start(launch.clone(), Stdio::null()).await?;
        let taken = (started.hold.take_output(), started.hold.take_errors());
        let (Some(stdout), Some(stderr)) = taken else {
            return Err(SpawnError::without_pipes().into());
        };
        // Its errors are part of the answer, not of chillgate's log.
        let silent = Stderr::drain(
            started.name.clone(),
            tokio::io::empty(),
            self.metrics.clone(),
            launch.secrets.clone(),
        );
        Ok((started.with(silent), stdout, stderr))
    }
}

/// One run; dropped before its end, it is ended.
struct Run {
    process: Option<Process>,
    permit: Option<OwnedSemaphorePermit>,
    tasks: TaskTracker,
    order: Order,
    began: Instant,
}

impl Run {
    /// The line in the operational log.
    fn tell(&self, status: Option<Status>) {
        let Order {
            launch,
            agent,
            arguments,
            ..
        } = &self.order;
        let seconds = self.began.elapsed().as_secs_f64();
        let (runbook, given) = (&launch.name, arguments.join(","));
        match status {
            Some(exit) => {
                info!(%runbook, %agent, arguments = %given, %exit, seconds, "A runbook was run.");
            }
            None => {
                warn!(%runbook, %agent, arguments = %given, seconds, "A runbook took too long and was ended.");
            }
        }
    }
}

impl Drop for Run {
    fn drop(&mut self) {
        let Some(mut process) = self.process.take() else {
            return;
        };
        let (runbook, agent) = (self.order.launch.name.clone(), self.order.agent.clone());
        let permit = self.permit.take();
        // Without a runtime the process's own drop still tells its keeper.
        if Handle::try_current().is_ok() {
            self.tasks.spawn(async move {
                process.stop().await;
                info!(%runbook, %agent, "A runbook that nobody waits for any more was ended.");
                drop(permit);
            });
        }
    }
}

/// What was kept of a stream.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Kept {
    /// The text; what is not UTF-8 in it is replaced.
    pub text: String,
    /// Bytes that were left out of its middle.
    pub left_out: u64,
}

/// The beginning and the end of a stream, within a bound.
struct Capture {
    head: Vec<u8>,
    tail: VecDeque<u8>,
    half: usize,
    left_out: u64,
}

impl Capture {
    fn new(most: usize) -> Self {
        Self {
            head: Vec::new(),
            tail: VecDeque::new(),
            half: most / 2,
            left_out: 0,
        }
    }

    async fn drain(&mut self, mut from: impl AsyncRead + Unpin) {
        let mut chunk = vec![0; 16 << 10];
        while let Ok(count @ 1..) = from.read(&mut chunk).await {
            self.feed(chunk.get(..count).unwrap_or_default());
        }
    }

    fn feed(&mut self, bytes: &[u8]) {
        let room = self.half.saturating_sub(self.head.len()).min(bytes.len());
        let (first, rest) = bytes.split_at(room);
        self.head.extend_from_slice(first);
        self.tail.extend(rest);
        let excess = self.tail.len().saturating_sub(self.half);
        self.tail.drain(..excess);
        self.left_out += excess as u64;
    }

    fn finish(self) -> Kept {
        let tail = Vec::from(self.tail);
        let text = if self.left_out == 0 {
            String::from_utf8_lossy(&[self.head, tail].concat()).into_owned()
        } else {
            format!(
                "{}\n[… {} bytes left out …]\n{}",
                String::from_utf8_lossy(&self.head),
                self.left_out,
                String::from_utf8_lossy(&tail)
            )
        };
        Kept {
            text,
            left_out: self.left_out,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_beginning_and_the_end_are_kept() {
        let mut capture = Capture::new(8);
        for part in ["ab", "cdef", "ghijk", "l"] {
            capture.feed(part.as_bytes());
        }
        let kept = capture.finish();
        assert_eq!(kept.text, "abcd\n[… 4 bytes left out …]\nijkl");
        assert_eq!(kept.left_out, 4);
        let mut capture = Capture::new(8);
        capture.feed("abcdefgh".as_bytes());
        let kept = capture.finish();
        assert_eq!((kept.text.as_str(), kept.left_out), ("abcdefgh", 0));
    }
}
