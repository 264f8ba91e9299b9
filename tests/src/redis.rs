//! A real Redis of a test's own, on loopback, with nothing on disk.
//!
//! It can be stopped, killed and started again on its port. Nothing here knows what chillgate keeps.

use std::path::Path;
use std::process::Stdio;

use rustix::process::Signal;
use tempfile::TempDir;
use tokio::process::Child;

use crate::process::{command, free_port, signal};
use crate::until;
use crate::wait::seconds;

/// A running server; it ends with this value.
#[derive(Debug)]
pub struct Redis {
    process: Child,
    port: u16,
    options: Vec<String>,
    /// What it writes all the same, as a replica does.
    folder: TempDir,
}

impl Redis {
    /// Starts one.
    ///
    /// # Panics
    /// When `redis-server` is not there: `tests/run` installs it.
    pub async fn start() -> Self {
        Self::with(&[]).await
    }

    /// Starts one with further options, as on its command line.
    pub async fn with(options: &[&str]) -> Self {
        let options = options.iter().map(|option| (*option).to_owned()).collect();
        Self::on(free_port(), options).await
    }

    /// Starts one on this port.
    pub async fn on(port: u16, options: Vec<String>) -> Self {
        let folder = tempfile::tempdir().expect("a temporary directory");
        let process = run(port, &options, folder.path());
        let redis = Self {
            process,
            port,
            options,
            folder,
        };
        redis.until_there().await;
        redis
    }

    async fn until_there(&self) {
        let answers = async || (self.try_tell(&["PING"]).await.ok()? == "PONG").then_some(());
        until("redis-server to answer", seconds(20), answers).await;
    }

    /// Its port on loopback.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Its address, as `state.store` says it.
    pub fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    /// Sends it a signal.
    pub fn signal(&self, which: Signal) {
        signal(&self.process, which);
    }

    /// Kills it, with all that it knows.
    pub async fn kill(&mut self) {
        self.process.kill().await.expect("it can be killed");
    }

    /// Starts it again, empty, on the same port.
    pub async fn again(&mut self) {
        self.process = run(self.port, &self.options, self.folder.path());
        self.until_there().await;
    }

    /// Runs one command through `redis-cli`; what it answers.
    ///
    /// # Panics
    /// When it is refused.
    pub async fn tell(&self, words: &[&str]) -> String {
        let told = self.try_tell(words).await;
        told.unwrap_or_else(|error| panic!("redis-cli {words:?}: {error}"))
    }

    async fn try_tell(&self, words: &[&str]) -> Result<String, String> {
        let mut cli = command("redis-cli");
        cli.args(["-e", "-p"])
            .arg(self.port.to_string())
            .args(words);
        let told = cli.output().await.map_err(|error| error.to_string())?;
        let said = String::from_utf8_lossy(&told.stdout).trim().to_owned();
        let wrong = String::from_utf8_lossy(&told.stderr).trim().to_owned();
        if told.status.success() {
            Ok(said)
        } else {
            Err(said + &wrong)
        }
    }
}

fn run(port: u16, options: &[String], folder: &Path) -> Child {
    let mut server = command("redis-server");
    server
        .current_dir(folder)
        .args(["--bind", "127.0.0.1", "--port"])
        .arg(port.to_string())
        .args(["--save", "", "--appendonly", "no"])
        .args(options)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .kill_on_drop(true);
    server.spawn().expect("redis-server is installed")
}
