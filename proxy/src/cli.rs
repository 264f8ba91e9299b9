//! The command line: which verbs there are, what each takes, and what `--help` teaches.
//!
//! Types only; what a verb does is in `cli/` or, for those that run servers, in the application.
//! Standard output belongs to the protocol or to a verb's answer, so that nothing here prints but
//! through [`answer::Answer`].

use std::ffi::OsString;
use std::path::PathBuf;

use clap::builder::styling::Styles;
use clap::{Args, CommandFactory as _, FromArgMatches as _, Parser, Subcommand, ValueEnum};

use crate::config::ServerName;

mod admin;
pub mod answer;
pub mod check;
pub mod compile;
pub mod doctor;
pub mod explain;
pub mod incidents;
pub mod key;
pub mod overrides;
pub mod quota;
pub mod revoke;
pub mod run;
pub mod service;
mod sources;
mod usage;

use answer::Answer;

const EXAMPLES: &str = "\
Examples:
  chillgate serve
      ChillMCP on http://127.0.0.1:8800/mcp with the default policies
  chillgate serve --config chillgate.toml
      the fronts, servers and policies of a file
  chillgate wrap --config policies.toml -- npx -y some-server
      one stdio server with policies, as the command of a host's mcpServers entry
  chillgate connect https://mcp.example/mcp
      a remote server for a host that only speaks stdio
  chillgate check --config chillgate.toml
      every mistake of a file, with its line and what to write instead

Variables named CHILLGATE__TABLE__KEY set a key of the configuration; flags come after them.
Exit codes: 0 fine, 1 a check found something, 2 cannot run.";

/// A sidecar proxy and policy gateway for the Model Context Protocol.
#[derive(Clone, Debug, Parser)]
#[command(
    name = "chillgate",
    version,
    after_long_help = EXAMPLES,
    disable_help_subcommand = true,
    styles = Styles::plain(),
    max_term_width = 100
)]
pub struct Cli {
    #[command(flatten)]
    #[expect(
        missing_docs,
        reason = "a doc comment here would replace the program's own help"
    )]
    pub global: Global,
    /// What to do.
    #[command(subcommand)]
    pub verb: Verb,
}

/// Flags that every verb takes.
#[derive(Args, Clone, Debug, Default)]
pub struct Global {
    /// Read this file instead of the user's or the system's chillgate.toml.
    #[arg(long, value_name = "FILE", global = true)]
    pub config: Option<PathBuf>,
    /// How log lines on standard error look.
    #[arg(long, value_name = "FORMAT", global = true)]
    pub log_format: Option<LogFormat>,
    /// Which log lines are written, such as `info` or `warn,chillgate=debug`.
    #[arg(long, value_name = "FILTER", global = true)]
    pub log: Option<String>,
}

/// How log lines look.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// `human` on a terminal, `json` elsewhere.
    Auto,
    /// One JSON object per line.
    Json,
    /// For eyes.
    Human,
}

/// What chillgate can do.
#[derive(Clone, Debug, Subcommand)]
pub enum Verb {
    /// Serve the configured servers to hosts; without a configuration: ChillMCP.
    #[command(after_long_help = "\
Without --config the file is looked for in $XDG_CONFIG_HOME/chillgate or ~/.config/chillgate and
then in /etc/chillgate, never in the working directory. With no file at all ChillMCP is served on
http://127.0.0.1:8800/mcp with the preset `chill`.

Examples:
  chillgate serve
  chillgate serve --config chillgate.toml --listen 127.0.0.1:9000 --health 127.0.0.1:9901
  chillgate serve --listen unix:/run/chillgate/mcp.sock")]
    Serve(ServeArgs),
    /// Run one stdio server between a host's standard input and output.
    #[command(after_long_help = "\
In a host's configuration:
  \"files\": { \"command\": \"chillgate\",
             \"args\": [\"wrap\", \"--\", \"npx\", \"-y\", \"some-server\", \"/data\"] }

Examples:
  chillgate wrap -- npx -y some-server
  chillgate wrap --config policies.toml --name files -- uvx mcp-server-files /data")]
    Wrap(WrapArgs),
    /// Give a stdio host a remote server.
    #[command(after_long_help = "\
Examples:
  chillgate connect https://mcp.example/mcp
  chillgate connect unix:/run/chillgate/mcp.sock")]
    Connect(ConnectArgs),
    /// Be ChillMCP on standard input and output.
    #[command(after_long_help = "\
Examples:
  chillgate chill
  chillgate chill --boss_alertness 80 --boss_alertness_cooldown 60")]
    Chill(ChillArgs),
    /// Read the configuration as `serve` would and report every mistake.
    #[command(after_long_help = "\
Exits 0 if there is no mistake, 1 if there is one, 2 if the file cannot be read.

Examples:
  chillgate check
  chillgate check --config chillgate.toml")]
    Check(CheckArgs),
    /// Show which policies a call meets, in order.
    #[command(after_long_help = "\
Examples:
  chillgate explain tools/call --server files --tool delete_file --agent intern-1
  chillgate explain tools/call --tool files__delete_file
  chillgate explain tools/list")]
    Explain(ExplainArgs),
    /// Start each server once and say how it is, and what else `serve` would meet.
    #[command(after_long_help = "\
Reads the configuration as `serve` would. Each server is started, asked what it has, and stopped
again. Exits 0 if all is well, 1 if something was found, 2 if the configuration cannot be used.

Examples:
  chillgate doctor
  chillgate doctor --config chillgate.toml --server files
  chillgate doctor --json")]
    Doctor(doctor::DoctorArgs),
    /// List what went wrong with servers, how often, and what to do about it.
    #[command(after_long_help = "\
Reads the folder that `serve` and `wrap` write to ([state] folder, else the user's). What is not
behind us comes first; --all shows what is, too.

Examples:
  chillgate incidents
  chillgate incidents --server files --all
  chillgate incidents --json
  chillgate incidents --forget 3f9a1c07")]
    Incidents(IncidentsArgs),
    /// Show what is spent of quotas, or give it back.
    #[command(after_long_help = "\
Asks the store of [state] itself, where there is one; no chillgate need run then. Else it asks the
running chillgate through its [admin]. --reset forgets what is shown: budgets are full again, boss
alerts over.

Examples:
  chillgate quota
  chillgate quota --policy calls --agent alice
  chillgate quota --policy calls --agent alice --reset
  chillgate quota --json")]
    Quota(QuotaArgs),
    /// Let an agent in no more, at every replica and within a second; or list who is not let in.
    #[command(after_long_help = "\
Writes to the store of [state]; each chillgate that shares it hears within a second. Requests of a
revoked agent over HTTP are answered with 401, and its sessions and streams end.

Examples:
  chillgate revoke
  chillgate revoke alice
  chillgate revoke alice --for 1h
  chillgate revoke alice --undo")]
    Revoke(RevokeArgs),
    /// Put other values in the place of a policy's for a while, or end that.
    #[command(after_long_help = "\
Asks the running chillgate through its [admin]. What is set holds at once, over the file and its
schedules, over reloads and restarts, and ends by itself. Each begin and end is in the audit log.

Examples:
  chillgate override set boss alertness=95 --for 30m --reason \"incident drill\"
  chillgate override set server.chill boss-alertness=95 --for 30m
  chillgate override set calls allow=10/min burst=2 --for 2h
  chillgate override list
  chillgate override end 3f9a1c07")]
    Override(overrides::OverrideArgs),
    /// Make an API key for an agent and the line that lets it in.
    #[command(after_long_help = "\
The key is printed once, on the first line; the second line belongs under [identity.api-keys].
chillgate keeps neither.

Example:
  chillgate key agent-a")]
    Key(KeyArgs),
    /// Install, update, look at or remove chillgate as a systemd service.
    #[command(after_long_help = "\
The service runs as a user that exists only while it runs, under a hardened unit; its configuration
is /etc/chillgate/chillgate.toml. Nothing is left after `uninstall --purge`.

Examples:
  sudo chillgate service install
  sudo ./chillgate-new service update
  chillgate service status
  chillgate service install --user --dry-run
  chillgate service install --root /mnt/image")]
    Service(service::ServiceArgs),
    /// Stand above a server's processes (chillgate starts this itself).
    #[command(name = "__keep", hide = true)]
    Keep(KeepArgs),
}

/// `chillgate serve`.
#[derive(Args, Clone, Debug, Default)]
pub struct ServeArgs {
    /// Where hosts connect: an address such as 127.0.0.1:8800, or unix:/path.sock.
    #[arg(long, value_name = "ADDRESS")]
    pub listen: Option<String>,
    /// Where probes and metrics are: an address such as 127.0.0.1:9901.
    #[arg(long, value_name = "ADDRESS")]
    pub health: Option<String>,
}

/// `chillgate wrap -- CMD…`.
#[derive(Args, Clone, Debug, Default)]
pub struct WrapArgs {
    /// The server's name in policies and logs [default: made from the command].
    #[arg(long, value_name = "NAME", value_parser = server_name)]
    pub name: Option<String>,
    /// The server's program and its arguments, after `--`.
    #[arg(last = true, required = true, value_name = "CMD")]
    pub command: Vec<String>,
}

/// `chillgate connect URL`.
#[derive(Args, Clone, Debug, Default)]
pub struct ConnectArgs {
    /// The server's name in policies and logs [default: made from the URL].
    #[arg(long, value_name = "NAME", value_parser = server_name)]
    pub name: Option<String>,
    /// `https://…`, `http://…` or `unix:/path.sock`.
    #[arg(value_name = "URL")]
    pub url: String,
}

/// `chillgate chill`.
#[derive(Args, Clone, Debug, Default)]
pub struct ChillArgs {
    /// Chance in percent, 0 to 100, that a break raises the boss alert [default: 50].
    #[arg(
        long = "boss_alertness",
        visible_alias = "boss-alertness",
        value_name = "PERCENT",
        value_parser = percent,
        allow_hyphen_values = true
    )]
    pub boss_alertness: Option<u8>,
    /// Seconds after which the boss alert falls by 1, 0 or more [default: 300].
    #[arg(
        long = "boss_alertness_cooldown",
        visible_alias = "boss-alertness-cooldown",
        value_name = "SECONDS",
        value_parser = seconds,
        allow_hyphen_values = true
    )]
    pub boss_alertness_cooldown: Option<u64>,
}

/// `chillgate check`.
#[derive(Args, Clone, Debug, Default)]
pub struct CheckArgs {}

/// `chillgate explain METHOD`.
#[derive(Args, Clone, Debug, Default)]
pub struct ExplainArgs {
    /// The MCP method, such as tools/call.
    #[arg(value_name = "METHOD")]
    pub method: String,
    /// The tool, alone or as server__tool.
    #[arg(long, value_name = "TOOL")]
    pub tool: Option<String>,
    /// Who calls [default: anonymous].
    #[arg(long, value_name = "AGENT")]
    pub agent: Option<String>,
    /// A group of the agent, as its token would say; more than one may be given.
    #[arg(long, value_name = "GROUP")]
    pub group: Vec<String>,
    /// A scope of its token; more than one may be given.
    #[arg(long, value_name = "SCOPE")]
    pub scope: Vec<String>,
    /// The server that is called [default: the only one, or the tool's].
    #[arg(long, value_name = "SERVER")]
    pub server: Option<String>,
}

/// `chillgate incidents`.
#[derive(Args, Clone, Debug, Default)]
pub struct IncidentsArgs {
    /// Those of this server alone.
    #[arg(long, value_name = "SERVER")]
    pub server: Option<String>,
    /// As JSON, for programs.
    #[arg(long)]
    pub json: bool,
    /// Those that are behind us as well.
    #[arg(long)]
    pub all: bool,
    /// Drop this one from the memory: its id, or at least four characters that no other begins with.
    #[arg(long, value_name = "ID", conflicts_with_all = ["server", "json", "all"])]
    pub forget: Option<String>,
}

/// `chillgate quota`.
#[derive(Args, Clone, Debug, Default)]
pub struct QuotaArgs {
    /// Of this policy alone.
    #[arg(long, value_name = "POLICY")]
    pub policy: Option<String>,
    /// Of this agent alone.
    #[arg(long, value_name = "AGENT")]
    pub agent: Option<String>,
    /// As JSON, for programs.
    #[arg(long)]
    pub json: bool,
    /// Forget what is shown.
    #[arg(long, requires = "policy")]
    pub reset: bool,
}

/// `chillgate revoke [AGENT]`.
#[derive(Args, Clone, Debug, Default)]
pub struct RevokeArgs {
    /// The agent's name in policies and logs. Absent: lists those that are revoked.
    #[arg(value_name = "AGENT")]
    pub agent: Option<String>,
    /// For so long; absent: until it is undone.
    #[arg(long = "for", value_name = "SPAN", requires = "agent")]
    pub span: Option<String>,
    /// Let it in again.
    #[arg(long, requires = "agent", conflicts_with = "span")]
    pub undo: bool,
    /// The list as JSON, for programs.
    #[arg(long, conflicts_with = "agent")]
    pub json: bool,
}

/// `chillgate key AGENT`.
#[derive(Args, Clone, Debug, Default)]
pub struct KeyArgs {
    /// The agent's name in policies and logs.
    #[arg(value_name = "AGENT")]
    pub agent: String,
}

/// `chillgate __keep …`: read before anything else is started, by the supervisor's own code.
#[derive(Args, Clone, Debug, Default)]
pub struct KeepArgs {
    /// Everything after the verb.
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    pub args: Vec<OsString>,
}

/// The command line as typed, or what to answer instead of doing anything.
pub fn parse(args: impl IntoIterator<Item = OsString>) -> Result<Cli, Answer> {
    let args: Vec<OsString> = args.into_iter().collect();
    let read = Cli::command()
        .try_get_matches_from(&args)
        .and_then(|matches| Cli::from_arg_matches(&matches));
    read.map_err(|error| usage::answer(&error, &args))
}

fn server_name(text: &str) -> Result<String, String> {
    match ServerName::try_from(text.to_owned()) {
        Ok(name) => Ok(name.as_str().to_owned()),
        Err(_) => {
            Err("1 to 64 of the characters a-z, 0-9 and `-`, which is never the first".to_owned())
        }
    }
}

fn percent(text: &str) -> Result<u8, String> {
    let number = text
        .parse::<u8>()
        .ok()
        .filter(|number| *number <= 100 && !text.starts_with('+'));
    number.ok_or_else(|| "a whole number from 0 to 100".to_owned())
}

/// The longest cooldown, as long as any span of the configuration: 400 days.
const LONGEST: u64 = 400 * 86_400;

fn seconds(text: &str) -> Result<u64, String> {
    let number = text
        .parse::<u64>()
        .ok()
        .filter(|n| *n <= LONGEST && !text.starts_with('+'));
    number.ok_or_else(|| "a whole number of seconds, 0 or more (at most 34560000)".to_owned())
}

#[cfg(test)]
mod tests;
