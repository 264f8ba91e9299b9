//! The official SDKs' clients as scripts, and what they report.
//!
//! It stands apart because a test names a suite and an endpoint, not an interpreter. It fails when
//! an interpreter or a package is missing: `tests/run` installs them.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use serde_json::Value;
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::{Child, Command};

use crate::process::{command, root};
use crate::wait::within;

/// How long one suite may take, cold starts included.
const PATIENCE: Duration = Duration::from_secs(170);

/// Which SDK drives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sdk {
    /// PyPI `mcp` in its default mode: the modern era first, then the handshake.
    Python,
    /// PyPI `mcp` with the handshake only.
    PythonLegacy,
    /// npm `@modelcontextprotocol/sdk`.
    TypeScript,
}

/// All of them.
pub const SDKS: [Sdk; 3] = [Sdk::Python, Sdk::PythonLegacy, Sdk::TypeScript];

/// Where the client connects.
#[derive(Clone, Debug)]
pub enum Endpoint {
    /// Streamable HTTP.
    Url(String),
    /// A command that speaks stdio.
    Command(Vec<String>),
}

/// One run of a suite.
#[derive(Debug)]
pub struct Script {
    command: Command,
    what: String,
}

impl Script {
    /// A suite of checks by one SDK.
    pub fn new(sdk: Sdk, suite: &str) -> Self {
        let mut command = match sdk {
            Sdk::Python | Sdk::PythonLegacy => {
                let mut command = command(python());
                command.arg(interop().join("python/peer.py"));
                command
            }
            Sdk::TypeScript => {
                let mut command = command("node");
                command.arg(interop().join("ts/peer.mjs"));
                command
            }
        };
        command.args(["--suite", suite]);
        if sdk == Sdk::PythonLegacy {
            command.args(["--mode", "legacy"]);
        }
        Self {
            command,
            what: format!("{sdk:?} {suite}"),
        }
    }

    /// Further options of the script, e.g. `--prefix everything__`.
    #[must_use]
    pub fn with(mut self, options: &[&str]) -> Self {
        self.command.args(options);
        self
    }

    /// Runs it against an endpoint; every check must pass. The checks' names.
    ///
    /// # Panics
    /// When a check failed or nothing was checked.
    pub async fn run(mut self, endpoint: &Endpoint) -> Vec<String> {
        match endpoint {
            Endpoint::Url(url) => self.command.args(["--url", url]),
            Endpoint::Command(words) => self.command.arg("--").args(words),
        };
        let piped = self
            .command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let output = within(&self.what, PATIENCE, piped.output()).await;
        let output = output.unwrap_or_else(|error| panic!("{}: {error}", self.what));
        let stdout = String::from_utf8_lossy(&output.stdout);
        let stderr = String::from_utf8_lossy(&output.stderr);
        let checks: Vec<Value> = stdout
            .lines()
            .filter_map(|l| serde_json::from_str(l).ok())
            .collect();
        let failed: Vec<&Value> = checks.iter().filter(|check| check["ok"] != true).collect();
        let tail: Vec<&str> = stderr.lines().rev().take(15).collect();
        let tail = tail.into_iter().rev().collect::<Vec<_>>().join("\n");
        assert!(
            output.status.success() && failed.is_empty() && checks.len() > 1,
            "{} over {endpoint:?}: {}\n{failed:#?}\nstdout: {stdout}\nstderr ends: {tail}",
            self.what,
            output.status,
        );
        checks
            .iter()
            .filter_map(|check| check["check"].as_str().map(str::to_owned))
            .collect()
    }
}

/// Starts a script of ours that serves on loopback, and ends with its standard input; where it is.
///
/// # Panics
/// When Node or its packages are not there: `tests/run` installs them.
pub async fn serving(script: &str) -> (Child, SocketAddr) {
    let mut process = command("node")
        .arg(interop().join(script))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("node is installed");
    let out = process.stdout.take().expect("stdout is piped");
    let mut line = String::new();
    let read = BufReader::new(out).read_line(&mut line).await;
    read.unwrap_or_else(|error| panic!("{script}: {error}"));
    let address = line.trim().strip_prefix("http://").unwrap_or_default();
    let address = address.parse();
    (
        process,
        address.unwrap_or_else(|_| panic!("{script} does not listen: run tests/run")),
    )
}

/// The folder with scripts and packages.
pub fn interop() -> PathBuf {
    root().join("tests/interop")
}

/// The interpreter with the pinned packages.
///
/// # Panics
/// When `tests/run` has not made it.
pub fn python() -> PathBuf {
    tool("python")
}

/// `uvx` of the pinned packages.
///
/// # Panics
/// When `tests/run` has not installed it.
pub fn uvx() -> PathBuf {
    tool("uvx")
}

/// The package and version that the `uvx` test runs.
///
/// # Panics
/// When the file is gone.
pub fn uvx_server() -> String {
    let text = std::fs::read_to_string(interop().join("python/uvx-server.txt"));
    text.expect("tests/interop/python/uvx-server.txt can be read")
        .trim()
        .to_owned()
}

/// The entry point of a pinned npm server: `everything`, `filesystem`, `memory`.
///
/// # Panics
/// When `tests/run` has not installed it.
pub fn npm_server(name: &str) -> PathBuf {
    let package = format!("ts/node_modules/@modelcontextprotocol/server-{name}/dist/index.js");
    let path = interop().join(package);
    assert!(
        path.is_file(),
        "{} is missing: run tests/run",
        path.display()
    );
    path
}

/// The fastmcp server.
pub fn fast_server() -> PathBuf {
    interop().join("python/fast_server.py")
}

/// Keeps a Node server on loopback when named in `NODE_OPTIONS`.
pub fn loopback() -> PathBuf {
    interop().join("ts/loopback.cjs")
}

fn tool(name: &str) -> PathBuf {
    let path = interop().join(".tools/venv/bin").join(name);
    assert!(
        path.is_file(),
        "{} is missing: run tests/run",
        path.display()
    );
    path
}
