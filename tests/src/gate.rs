//! The real chillgate, started with a config of the test's own and stopped without a trace.
//!
//! It stands apart so that each test names only the tables it is about: addresses, the temporary
//! directory and the log are the harness's. It never reuses a process between tests.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rustix::process::Signal;
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt as _, AsyncRead, BufReader};
use tokio::process::{Child, Command};

use crate::audit::Records;
use crate::host::Host;
use crate::http;
use crate::net::Place;
use crate::process::{chillgate, command, free_port, instead, signal};
use crate::scrape::Scrape;
use crate::server::Heard;
use crate::wait::{until, within};

/// How long a start may take; the children behind it may take longer.
const START: Duration = Duration::from_secs(20);
/// How long a drain may take when nothing runs.
const STOP: Duration = Duration::from_secs(20);

/// What a chillgate shall be started with.
#[derive(Debug, Default)]
pub struct Builder {
    top: String,
    front: String,
    tables: String,
    environment: BTreeMap<String, String>,
    files: Vec<(String, String)>,
    /// Another program than the one under test.
    program: Option<PathBuf>,
}

/// A running chillgate.
#[derive(Debug)]
pub struct Gate {
    child: Child,
    front: SocketAddr,
    health: SocketAddr,
    folder: TempDir,
    environment: BTreeMap<String, String>,
    log: Arc<Mutex<Vec<String>>>,
    out: Arc<Mutex<Vec<String>>>,
}

impl Builder {
    /// Keys above all tables, e.g. `extends = "team"`.
    #[must_use]
    pub fn top(mut self, toml: &str) -> Self {
        self.top.push_str(toml);
        self.top.push('\n');
        self
    }

    /// Keys of the HTTP front, e.g. `prefix = "never"`.
    #[must_use]
    pub fn front(mut self, toml: &str) -> Self {
        self.front.push_str(toml);
        self.front.push('\n');
        self
    }

    /// A variable of chillgate's own environment.
    #[must_use]
    pub fn env(mut self, name: &str, value: &str) -> Self {
        self.environment.insert(name.to_owned(), value.to_owned());
        self
    }

    /// A file that lies beside the config when chillgate starts.
    #[must_use]
    pub fn file(mut self, name: &str, text: &str) -> Self {
        self.files.push((name.to_owned(), text.to_owned()));
        self
    }

    /// Writes the audit log to `audit.jsonl` beside the config.
    #[must_use]
    pub fn audited(mut self) -> Self {
        self.tables
            .push_str("\n[audit]\nfile = \"@DIR@/audit.jsonl\"\n");
        self
    }

    /// Another chillgate than the one under test, such as the version before.
    #[must_use]
    pub fn program(mut self, program: &Path) -> Self {
        self.program = Some(program.to_owned());
        self
    }

    /// Starts `chillgate serve` on a machine of its own, at port 8800, and waits until it is ready.
    ///
    /// # Panics
    /// As [`Builder::start`].
    pub async fn start_at(self, place: &Place) -> Gate {
        let (front, health) = (8800, 9901);
        let at = |port: u16| SocketAddr::from((place.address(), port));
        self.start_on(at(front), at(health), |serve| place.inside(&serve))
            .await
    }

    /// Starts `chillgate serve` and waits until it is ready.
    ///
    /// # Panics
    /// When it ends or is not ready in time; the message holds its log.
    pub async fn start(self) -> Gate {
        let front = SocketAddr::from(([127, 0, 0, 1], free_port()));
        let health = SocketAddr::from(([127, 0, 0, 1], free_port()));
        self.start_on(front, health, |serve| serve).await
    }

    async fn start_on(
        self,
        front: SocketAddr,
        health: SocketAddr,
        placed: impl FnOnce(Command) -> Command,
    ) -> Gate {
        let folder = tempfile::tempdir().expect("the temporary directory can be written");
        for (name, text) in &self.files {
            std::fs::write(folder.path().join(name), text).expect("the file can be written");
        }
        let config = folder.path().join("chillgate.toml");
        let text = self.config(front, health, folder.path());
        std::fs::write(&config, &text).expect("the config can be written");

        let mut serve = serve(&config);
        serve.envs(&self.environment);
        if let Some(program) = &self.program {
            serve = instead(program, &[], &serve);
        }
        let (child, log, out) = spawn(placed(serve));
        let mut gate = Gate {
            child,
            front,
            health,
            folder,
            environment: self.environment,
            log,
            out,
        };
        gate.ready().await;
        gate
    }

    /// The whole config file: the harness's tables, then the test's.
    fn config(&self, front: SocketAddr, health: SocketAddr, folder: &Path) -> String {
        let mut text = self.top.clone();
        write!(
            text,
            "\n[[front]]\ntransport = \"streamable-http\"\nlisten = \"{front}\"\n{}\n\
             [health]\nlisten = \"{health}\"\n\n{}",
            self.front, self.tables,
        )
        .expect("writing to a string cannot fail");
        text.replace("@DIR@", &folder.display().to_string())
    }
}

impl Gate {
    /// A gate with these tables; `@DIR@` in them is the config's own directory.
    pub fn with(tables: &str) -> Builder {
        Builder {
            tables: tables.to_owned(),
            ..Builder::default()
        }
    }

    /// The address of the MCP front.
    pub fn front(&self) -> SocketAddr {
        self.front
    }

    /// The address of probes and metrics.
    pub fn health(&self) -> SocketAddr {
        self.health
    }

    /// The URL of a path on the front.
    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.front)
    }

    /// A host that has not spoken yet.
    pub fn host(&self) -> Host {
        Host::new(self.front)
    }

    /// The directory of the config.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// The config file.
    pub fn config(&self) -> PathBuf {
        self.folder.path().join("chillgate.toml")
    }

    /// The process id.
    ///
    /// # Panics
    /// When it has ended.
    pub fn pid(&self) -> u32 {
        self.child.id().expect("chillgate has ended")
    }

    /// What it logged so far, one line each.
    pub fn log(&self) -> Vec<String> {
        self.log
            .lock()
            .expect("no test panics while it holds this")
            .clone()
    }

    /// What it wrote to standard output so far, one line each.
    pub fn output(&self) -> Vec<String> {
        self.out
            .lock()
            .expect("no test panics while it holds this")
            .clone()
    }

    /// Changes the config file by replacing `from` with `to`.
    ///
    /// # Panics
    /// When `from` is not in it: a test that changes nothing proves nothing.
    pub fn edit(&self, from: &str, to: &str) {
        let old = std::fs::read_to_string(self.config()).expect("the config can be read");
        assert!(old.contains(from), "`{from}` is not in the config:\n{old}");
        std::fs::write(self.config(), old.replacen(from, to, 1))
            .expect("the config can be written");
    }

    /// How many reloads ended this way: `applied` or `rejected` (any label value that is given).
    pub async fn reloads(&self, result: &str) -> f64 {
        let scrape = self.scrape().await;
        scrape.sum("chillgate_config_reloads_total", &[("result", result)])
    }

    /// Sends a signal.
    pub fn signal(&self, which: Signal) {
        signal(&self.child, which);
    }

    /// Reads `/metrics`.
    pub async fn scrape(&self) -> Scrape {
        let answer = http::get(self.health, "/metrics").await;
        assert_eq!(answer.status, 200, "/metrics: {}", answer.text());
        Scrape::parse(&answer.text())
    }

    /// What the mock server of this name has heard so far; see [`crate::Mock::ledger`].
    pub fn heard(&self, server: &str) -> Heard {
        Heard::read(&self.folder.path().join(format!("{server}.ledger")))
    }

    /// The audit records so far, once at least `count` are there.
    pub async fn records(&self, count: usize) -> Records {
        self.records_when(&format!("{count} audit records"), |records| {
            records.len() >= count
        })
        .await
    }

    /// The audit records once `fit` holds for them.
    pub async fn records_when(&self, what: &str, fit: impl Fn(&Records) -> bool) -> Records {
        let path = self.folder.path().join("audit.jsonl");
        until(what, Duration::from_secs(10), async || {
            let records = Records::read(&path);
            fit(&records).then_some(records)
        })
        .await
    }

    /// Ends it with SIGTERM; the status and the directory with what it wrote.
    ///
    /// # Panics
    /// When it does not end in time.
    pub async fn stop(mut self) -> (ExitStatus, TempDir) {
        signal(&self.child, Signal::TERM);
        let status = within("the drain", STOP, self.child.wait()).await;
        (status.expect("a child can be waited for"), self.folder)
    }

    /// Ends it with SIGKILL, as an out-of-memory killer would.
    ///
    /// # Panics
    /// When it cannot be waited for.
    pub async fn kill(mut self) -> TempDir {
        signal(&self.child, Signal::KILL);
        within("the end after SIGKILL", STOP, self.child.wait())
            .await
            .expect("a child can be waited for");
        self.folder
    }

    /// Ends it with SIGKILL and starts it again in the same folder.
    ///
    /// # Panics
    /// When it does not end, or is not ready in time.
    pub async fn killed_and_started(&mut self) {
        signal(&self.child, Signal::KILL);
        within("the end after SIGKILL", STOP, self.child.wait())
            .await
            .expect("a child can be waited for");
        let mut serve = serve(&self.config());
        serve.envs(&self.environment);
        (self.child, self.log, self.out) = spawn(serve);
        self.ready().await;
    }

    /// Waits for its end without a signal.
    ///
    /// # Panics
    /// When it does not end in time.
    pub async fn ended(&mut self, limit: Duration) -> ExitStatus {
        within("the end", limit, self.child.wait())
            .await
            .expect("a child can be waited for")
    }

    async fn ready(&mut self) {
        let health = self.health;
        let log = Arc::clone(&self.log);
        let child = &mut self.child;
        until("readiness", START, async || {
            if let Ok(Some(status)) = child.try_wait() {
                let log = log
                    .lock()
                    .expect("no test panics while it holds this")
                    .join("\n");
                panic!("chillgate ended with {status} instead of serving:\n{log}");
            }
            let mut connection = http::Connection::try_open(health).await.ok()?;
            let response = connection
                .try_send("GET", "/readyz", &[], bytes::Bytes::new())
                .await;
            (response.ok()?.status() == 200).then_some(())
        })
        .await;
    }
}

type Lines = Arc<Mutex<Vec<String>>>;

/// Starts it, and keeps what it logs and writes.
fn spawn(mut serve: Command) -> (Child, Lines, Lines) {
    serve
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut child = serve.spawn().expect("chillgate can be started");
    let log = collect(child.stderr.take().expect("stderr is piped"));
    let out = collect(child.stdout.take().expect("stdout is piped"));
    (child, log, out)
}

/// `chillgate serve --config FILE` with a small environment and its streams piped.
pub fn serve(config: &Path) -> Command {
    let mut serve = bare();
    serve.arg("serve").arg("--config").arg(config);
    serve
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    serve
}

/// The binary with an environment that holds nothing of chillgate's.
pub fn bare() -> Command {
    let mut command = command(chillgate());
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("CHILLGATE") {
            command.env_remove(name);
        }
    }
    // No user or system config may reach a test, and nothing of a test the user's state.
    command
        .env("XDG_CONFIG_HOME", "/nonexistent")
        .env("XDG_STATE_HOME", "/dev/null/none")
        .env_remove("STATE_DIRECTORY")
        .env_remove("RUST_LOG");
    command
}

/// Runs a verb to its end, which takes at most so many seconds: code, output, errors.
///
/// # Panics
/// When it takes longer, or says what is no UTF-8.
pub async fn ended(mut command: Command, limit: u64) -> (Option<i32>, String, String) {
    command.stdin(Stdio::null());
    let output = within(
        "the verb's end",
        Duration::from_secs(limit),
        command.output(),
    );
    let output = output.await.expect("it runs");
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("UTF-8");
    (
        output.status.code(),
        text(output.stdout),
        text(output.stderr),
    )
}

fn collect(from: impl AsyncRead + Send + Unpin + 'static) -> Arc<Mutex<Vec<String>>> {
    let lines = Arc::new(Mutex::new(Vec::new()));
    let kept = Arc::clone(&lines);
    // Ends when the process closes the stream, which is at its end at the latest.
    tokio::spawn(async move {
        let mut reader = BufReader::new(from);
        let mut line = Vec::new();
        while let Ok(1..) = reader.read_until(b'\n', &mut line).await {
            let text = String::from_utf8_lossy(&line).trim_end().to_owned();
            kept.lock()
                .expect("no test panics while it holds this")
                .push(text);
            line.clear();
        }
    });
    lines
}
