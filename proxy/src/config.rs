//! What the user configures, as plain data: one struct per TOML table.
//!
//! The doc comments here are the user's documentation of each key. Reading, layering and the
//! wording of mistakes live in `config/`; nothing here opens a file or knows another module of ours.

use std::collections::BTreeMap;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use serde::Deserialize;

mod admin;
mod child;
mod confine;
mod cross;
mod doubts;
pub mod endpoint;
pub(crate) mod hint;
pub mod identity;
pub mod load;
pub mod office;
pub mod remedy;
mod replicas;
pub mod report;
pub mod runbook;
pub mod secret;
mod server;
pub mod source;
pub mod state;
mod system;
mod token;
pub mod units;
pub(crate) mod userinfo;

pub use admin::{Admin, SHORTEST};
pub use child::{CommandServer, Isolation, POOL, Probe};
pub use confine::{Network, Sandbox, ServerLimits, SystemCalls};
use endpoint::Endpoint;
pub use identity::{ApiKeys, Identity, agent_name, key_hash};
pub use office::Office;
use remedy::Remedy;
pub use replicas::Replicas;
use runbook::Runbook;
use secret::SecretText;
pub use state::State;
pub use token::ServerToken;
use units::{bytes, span, span_opt, word};

/// Where hosts find chillgate when nothing else is configured.
pub const DEFAULT_LISTEN: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 8800);
/// Where probes find it then.
pub const DEFAULT_HEALTH: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 9901);
/// How long what runs may go on after SIGTERM.
pub const DRAIN: Duration = Duration::from_secs(30);
/// The whole configuration of one chillgate process.
#[derive(Clone, Debug, Default, Deserialize, PartialEq)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub struct Config {
    /// A preset to start from: `chill`, `dev`, `team` or `strict`.
    pub extends: Option<String>,
    /// Where hosts connect. Empty: one Streamable HTTP front on `127.0.0.1:8800`.
    #[serde(skip)] // read one by one in `load`, so that each mistake has its place
    pub front: Vec<Front>,
    /// Probes and metrics. Absent: `127.0.0.1:9901` for `serve`, nothing for `wrap`.
    pub health: Option<Health>,
    /// The admin API. Absent: there is none.
    pub admin: Option<Admin>,
    /// How an agent is recognised.
    pub identity: Identity,
    /// The servers behind the gate, by name.
    #[serde(skip)] // as `front`
    pub server: BTreeMap<ServerName, Server>,
    /// Policies in file order, those of a preset first; `chillgate-policies` compiles them.
    #[serde(skip)] // joined from all layers in `load`
    pub policy: Vec<serde_json::Value>,
    /// What agents may have done on this machine, through a server with `builtin = "ops"`.
    #[serde(skip)] // as `front`
    pub runbook: Vec<Runbook>,
    /// Model endpoints to watch.
    #[serde(skip)] // as `front`
    pub endpoint: Vec<Endpoint>,
    /// Where the audit log goes. Absent: no audit log.
    pub audit: Option<Audit>,
    /// Where counters live, and where what outlives the process is kept.
    pub state: State,
    /// How replicas of this gateway reach each other. Absent: what is another replica's is not handed on.
    pub replicas: Option<Replicas>,
    /// When all servers sleep because nobody calls.
    pub rest: Rest,
    /// Bounds on everything that could grow.
    pub limits: Limits,
    /// The operational log on stderr.
    pub log: Log,
    /// What to do about failures of servers, before what chillgate itself knows.
    #[serde(skip)] // as `front`
    pub remedy: Vec<Remedy>,
}

/// A server's name: `[a-z0-9-]+`, at most 64 characters, no `__` by construction.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Deserialize)]
#[serde(try_from = "String")]
pub struct ServerName(String);

impl ServerName {
    /// The name as written.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for ServerName {
    type Error = String;
    fn try_from(name: String) -> Result<Self, String> {
        let legal = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
        if name.is_empty() || name.len() > 64 || !name.chars().all(legal) {
            return Err(format!(
                "`{name}` cannot be a server's name\nuse 1 to 64 of the characters a-z, 0-9 and `-`"
            ));
        }
        if name.starts_with('-') {
            // `--server -x` is read as an option that nobody knows.
            let rest = name.trim_start_matches('-');
            let right = if rest.is_empty() { "NAME" } else { rest };
            return Err(format!(
                "`{name}` cannot be a server's name: it begins with `-`, as options do\nwrite [server.{right}]"
            ));
        }
        Ok(Self(name))
    }
}

impl fmt::Display for ServerName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// One listener towards hosts.
#[derive(Clone, Debug, Deserialize, PartialEq)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Front {
    /// `streamable-http` (also when absent) or `stdio`.
    #[serde(default, deserialize_with = "word")]
    pub transport: Transport,
    /// `127.0.0.1:8800` or `unix:/run/chillgate/mcp.sock`. Streamable HTTP only.
    #[serde(default)]
    pub listen: Option<Listen>,
    /// Whether tools of the merged endpoint are shown as `server__tool`.
    #[serde(default, deserialize_with = "word")]
    pub prefix: Prefix,
    /// Whether HTTP+SSE of 2024-11-05 is served beside it, at `/sse`. Streamable HTTP only.
    #[serde(default = "yes")]
    pub http_sse: bool,
    /// The protocol's eras that hosts may speak here.
    #[serde(default, deserialize_with = "word")]
    pub eras: Eras,
    /// Serve HTTPS with this certificate.
    #[serde(default)]
    pub tls: Option<Tls>,
    /// Start on an address other than loopback although nobody has to say who they are.
    #[serde(default)]
    pub allow_anonymous: bool,
    /// `Host` names accepted besides the listening address and, on loopback, `localhost`.
    #[serde(default)]
    pub allowed_hosts: Vec<String>,
    /// `Origin` values accepted besides the front's own, e.g. `https://app.example`.
    #[serde(default)]
    pub allowed_origins: Vec<String>,
}

impl Front {
    /// One with nothing but an address.
    pub fn bare(transport: Transport, listen: Option<Listen>) -> Self {
        Self {
            transport,
            listen,
            eras: Eras::default(),
            http_sse: true,
            prefix: Prefix::Auto,
            tls: None,
            allow_anonymous: false,
            allowed_hosts: Vec::new(),
            allowed_origins: Vec::new(),
        }
    }
}

fn yes() -> bool {
    true
}

/// A transport towards hosts.
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "kebab-case")]
pub enum Transport {
    /// JSON lines on standard input and output.
    Stdio,
    /// MCP's Streamable HTTP.
    #[default]
    StreamableHttp,
}

/// Which eras of MCP a front serves.
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "kebab-case")]
pub enum Eras {
    /// Revisions up to 2025-11-25, which begin with `initialize`.
    Legacy,
    /// Those and 2026-07-28, told apart message by message.
    #[default]
    Both,
}

/// When the merged endpoint shows `server__tool` instead of `tool`.
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Eq, Hash)]
#[serde(rename_all = "kebab-case")]
pub enum Prefix {
    /// When more than one server is configured.
    #[default]
    Auto,
    /// Always.
    Always,
    /// Never; two servers offering one name make the config a mistake once it is seen.
    Never,
}

/// A TCP address or a Unix socket.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq)]
#[serde(try_from = "String")]
pub enum Listen {
    /// `127.0.0.1:8800`.
    Tcp(SocketAddr),
    /// `unix:/run/chillgate/mcp.sock`.
    Unix(PathBuf),
}

impl TryFrom<String> for Listen {
    type Error = String;
    fn try_from(text: String) -> Result<Self, String> {
        let refuse = |why: &str| {
            let help = "write \"127.0.0.1:8800\" or \"unix:/run/chillgate/mcp.sock\"";
            format!("{why}\n{help}")
        };
        if let Some(path) = text.strip_prefix("unix:") {
            // The kernel's own bound on the path of a socket is 107 bytes.
            return match path.len() {
                1..=107 if path.starts_with('/') && !path.contains('\0') => {
                    Ok(Self::Unix(PathBuf::from(path)))
                }
                0..=107 => Err(refuse("a Unix socket is named by its whole path")),
                _ => Err(refuse("the path of a Unix socket has at most 107 bytes")),
            };
        }
        if let Ok(port) = text.parse::<u16>() {
            return Err(format!(
                "an address needs a host\nwrite \"127.0.0.1:{port}\""
            ));
        }
        let numeric = match text.strip_prefix("localhost:") {
            Some(port) => format!("127.0.0.1:{port}"),
            None => text,
        };
        numeric
            .parse()
            .map(Self::Tcp)
            .map_err(|_| refuse("this is no address and port"))
    }
}

impl fmt::Display for Listen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => write!(f, "{address}"),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

/// A certificate chain and its key, both PEM files.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Tls {
    /// The certificate chain, leaf first.
    pub certificate: PathBuf,
    /// The private key.
    pub key: PathBuf,
    /// Authorities of the certificates that hosts show, a PEM file.
    #[serde(default)]
    pub client_ca: Option<PathBuf>,
    /// Whether a host may do without one, and say who it is in another way.
    #[serde(default)]
    pub client_optional: bool,
}

/// Probes and metrics over plain HTTP.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Health {
    /// `127.0.0.1:9901`; in a pod `0.0.0.0:9901`.
    pub listen: SocketAddr,
}

/// One server behind the gate: exactly one of `builtin`, `command`, `url`.
#[derive(Clone, Debug, PartialEq)]
pub enum Server {
    /// ChillMCP, a server inside chillgate.
    Builtin(Office),
    /// The server for operators inside chillgate.
    Ops,
    /// A child process that speaks stdio.
    Command(CommandServer),
    /// A Streamable HTTP server somewhere else.
    Remote(RemoteServer),
}

/// In which era of MCP a server is spoken to.
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "kebab-case")]
pub enum ServerEra {
    /// In that of each host, where the server speaks it, else in the other.
    #[default]
    Auto,
    /// Revision 2026-07-28 only.
    Modern,
    /// Revisions up to 2025-11-25 only.
    Legacy,
}

/// A Streamable HTTP server somewhere else.
#[derive(Clone, Debug, PartialEq)]
pub struct RemoteServer {
    /// `http://…` or `https://…`, or `unix:/path.sock` with the path `/mcp`.
    pub url: String,
    /// It speaks HTTP+SSE of 2024-11-05: `transport = "http-sse"`.
    pub http_sse: bool,
    /// Headers of chillgate's own towards this server, e.g. `Authorization`.
    pub headers: BTreeMap<String, SecretText>,
    /// A token of chillgate's own towards this server.
    pub token: Option<ServerToken>,
    /// A PEM file with certificate authorities to trust besides the system's.
    pub ca: Option<PathBuf>,
    /// How long connecting and the first answer may take.
    pub start_timeout: Duration,
    /// The era in which it is spoken to.
    pub era: ServerEra,
}

/// Where the audit log goes.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Audit {
    /// A file, appended to; `-` is standard output (never with a stdio front).
    pub file: PathBuf,
}

/// When all servers sleep because nobody calls.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub struct Rest {
    /// So long after the last request of any host. Absent: never; each server may have its own
    /// `idle` beside it.
    #[serde(deserialize_with = "span_opt")]
    pub after: Option<Duration>,
}

/// Bounds on everything that could grow.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub struct Limits {
    /// The largest message in either direction.
    #[serde(deserialize_with = "bytes")]
    pub message: usize,
    /// How deep arrays and objects may nest.
    pub depth: usize,
    /// The most messages in one 2025-03-26 batch.
    pub batch: usize,
    /// All bytes held for hosts and servers at one time; more is refused with 503.
    #[serde(deserialize_with = "bytes")]
    pub memory: usize,
    /// Requests one agent may have in flight.
    pub in_flight_per_agent: usize,
    /// Requests one child or remote session may have in flight; more wait.
    pub in_flight_per_server: usize,
    /// Host sessions at one time.
    pub sessions: usize,
    /// Host sessions of one agent at one time.
    pub sessions_per_agent: usize,
    /// A session unused for so long is ended.
    #[serde(deserialize_with = "span")]
    pub session_idle: Duration,
    /// A call without progress for so long is ended, unless a timeout policy says otherwise.
    #[serde(deserialize_with = "span")]
    pub call_idle: Duration,
    /// The longest a call may take in all, unless a timeout policy says otherwise.
    #[serde(deserialize_with = "span")]
    pub call_max: Duration,
    /// How long a call waits for the answers of a 2026-07-28 host that its server has asked.
    #[serde(deserialize_with = "span")]
    pub input_wait: Duration,
    /// How long a host until revision 2025-11-25 can come back for what an event stream has carried:
    /// the last 64 of its session, and in all an eighth of what `memory` says, which is in addition.
    #[serde(deserialize_with = "span")]
    pub replay: Duration,
    /// Messages that wait for a host that is not reading.
    pub outbox: usize,
    /// Connections at one time, on each front.
    pub connections: usize,
    /// The time after SIGTERM until what still runs is ended. Absent: 30 s, or
    /// `TERMINATION_GRACE_PERIOD_SECONDS` less 5 s where that is set.
    #[serde(deserialize_with = "span_opt")]
    pub drain: Option<Duration>,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            message: 16 << 20,
            depth: 64,
            batch: 50,
            memory: 512 << 20,
            in_flight_per_agent: 64,
            in_flight_per_server: 128,
            sessions: 10_000,
            sessions_per_agent: 10_000,
            session_idle: Duration::from_hours(1),
            call_idle: Duration::from_mins(1),
            call_max: Duration::from_mins(30),
            input_wait: Duration::from_mins(10),
            replay: Duration::from_mins(1),
            outbox: 256,
            connections: 10_000,
            drain: None,
        }
    }
}

/// The operational log on stderr.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub struct Log {
    /// `json`, `human`, or `auto`: human on a terminal, JSON elsewhere.
    #[serde(deserialize_with = "word")]
    pub format: LogFormat,
    /// A filter such as `info` or `chillgate=debug`.
    pub filter: String,
}

impl Default for Log {
    fn default() -> Self {
        Self {
            format: LogFormat::Auto,
            filter: "info".to_owned(),
        }
    }
}

/// How a log line looks.
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "kebab-case")]
pub enum LogFormat {
    /// Human on a terminal, JSON elsewhere.
    #[default]
    Auto,
    /// One JSON object per line.
    Json,
    /// For eyes.
    Human,
}
