//! A server that is a command, as configured: what is started, who shares it, and how it is looked
//! after.
//!
//! Plain data and the reading of it; what bounds it is in `confine`. The doc comments are the user's
//! documentation of each key.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use serde::de::value::MapAccessDeserializer;
use serde::de::{self, MapAccess, Visitor};
use serde::{Deserialize, Deserializer};

use super::secret::{AGENT, SecretText};
use super::server::{Wrong, wrong};
use super::units::span;
use super::{Sandbox, ServerEra, ServerLimits};

/// A child process that speaks MCP on its standard input and output.
#[derive(Clone, Debug, PartialEq)]
pub struct CommandServer {
    /// Program and arguments; never a shell line. `{agent}` in an argument is the agent's name where
    /// a process is one agent's alone.
    pub command: Vec<String>,
    /// Who shares a process with whom.
    pub isolation: Isolation,
    /// Variables set for the process; values may be `file:PATH` or hold `${NAME}`.
    pub env: BTreeMap<String, SecretText>,
    /// Variables handed on from chillgate's own environment besides the basic ones.
    pub inherit: Vec<String>,
    /// The working directory. One with `{agent}` in it is made where it is missing.
    pub cwd: Option<PathBuf>,
    /// How long the first answer may take.
    pub start_timeout: Duration,
    /// The era in which it is spoken to.
    pub era: ServerEra,
    /// Variables that each agent's own process gets besides `env`; `{agent}` in a value is the
    /// agent's name, `{AGENT}` that name as variables are named.
    pub agent_env: BTreeMap<String, String>,
    /// How it is found out that it hangs. Absent with `probe = false`.
    pub probe: Option<Probe>,
    /// A process that nobody has used for so long is stopped until somebody does; its lists stay.
    pub idle: Option<Duration>,
    /// What it may use up.
    pub limits: ServerLimits,
    /// What it may touch; everything its user may if absent.
    pub sandbox: Option<Sandbox>,
}

impl CommandServer {
    /// The working directory where each agent has another.
    pub fn agent_folder(&self) -> Option<&str> {
        let folder = self.cwd.as_deref()?.to_str()?;
        folder.contains(AGENT).then_some(folder)
    }

    /// Whether each agent's processes are started with something of its own.
    pub fn is_by_agent(&self) -> bool {
        let is_one_agents = matches!(
            self.isolation,
            Isolation::Agent | Isolation::Session | Isolation::Request
        );
        let is_named = |word: &String| word.contains(AGENT);
        is_one_agents
            && (!self.agent_env.is_empty()
                || self.agent_folder().is_some()
                || self.command.iter().any(is_named))
    }
}

/// Who shares a child process with whom.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Isolation {
    /// Hosts that declare sampling, elicitation or roots get their own process, others share one.
    #[default]
    Auto,
    /// One process for everybody.
    Shared,
    /// One process per host session.
    Session,
    /// As `auto`, but never with another agent: one process for each of them.
    Agent,
    /// One process per request, which ends with it.
    Request,
    /// So many processes for everybody; a session stays with the one it has found.
    Pool(usize),
}

/// Processes that a pool may have.
pub const POOL: std::ops::RangeInclusive<u64> = 1..=64;

impl<'de> Deserialize<'de> for Isolation {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct Words;
        impl<'de> Visitor<'de> for Words {
            type Value = Isolation;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a word or { pool = 4 }")
            }
            fn visit_str<E: de::Error>(self, word: &str) -> Result<Isolation, E> {
                match word {
                    "auto" => Ok(Isolation::Auto),
                    "shared" => Ok(Isolation::Shared),
                    "session" => Ok(Isolation::Session),
                    "agent" => Ok(Isolation::Agent),
                    "request" => Ok(Isolation::Request),
                    _ => Err(E::custom("no such isolation")),
                }
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Isolation, A::Error> {
                let pool = map.next_entry::<String, u64>()?;
                match (pool, map.next_key::<String>()?) {
                    (Some((key, size)), None) if key == "pool" && POOL.contains(&size) => {
                        Ok(Isolation::Pool(size as usize))
                    }
                    _ => Err(de::Error::custom("no such isolation")),
                }
            }
        }
        from.deserialize_any(Words)
    }
}

/// How it is found out that a child which runs does not answer any more.
#[derive(Clone, Debug, Deserialize, PartialEq)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub struct Probe {
    /// How often it is looked after. Where it has said something meanwhile, or works on a call, it
    /// is not asked.
    #[serde(deserialize_with = "span")]
    pub every: Duration,
    /// How long it may take to answer.
    #[serde(deserialize_with = "span")]
    pub timeout: Duration,
    /// So many times in a row without an answer, and it is started anew.
    pub failures: u32,
    /// A tool to call instead of a ping (`server/discover` with a server of 2026-07-28).
    pub tool: Option<String>,
    /// What the tool is called with.
    pub arguments: Option<serde_json::Map<String, serde_json::Value>>,
}

impl Default for Probe {
    fn default() -> Self {
        Self {
            every: Duration::from_secs(30),
            timeout: Duration::from_secs(10),
            failures: 3,
            tool: None,
            arguments: None,
        }
    }
}

/// `probe = false`, or a table.
#[derive(Clone, Debug)]
pub(super) enum Probing {
    Off,
    With(Probe),
}

pub(super) fn probe_opt<'de, D: Deserializer<'de>>(from: D) -> Result<Option<Probing>, D::Error> {
    struct Words;
    impl<'de> Visitor<'de> for Words {
        type Value = Probing;
        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a table or false")
        }
        fn visit_bool<E: de::Error>(self, is_on: bool) -> Result<Probing, E> {
            Ok(if is_on {
                Probing::With(Probe::default())
            } else {
                Probing::Off
            })
        }
        fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Probing, A::Error> {
            Probe::deserialize(MapAccessDeserializer::new(map)).map(Probing::With)
        }
    }
    from.deserialize_any(Words).map(Some)
}

pub(super) fn probe_mistakes(probe: &Probe, found: &mut Vec<Wrong>) {
    const LEAST: Duration = Duration::from_millis(100);
    for (key, span, help) in [
        ("every", probe.every, "write every = \"30s\""),
        ("timeout", probe.timeout, "write timeout = \"10s\""),
    ] {
        if span < LEAST {
            let message = format!("`{key}` of a probe is at least 100ms");
            found.push(wrong(&["probe", key], false, message, help));
        }
    }
    if probe.failures == 0 {
        found.push(wrong(
            &["probe", "failures"],
            false,
            "a server that has answered each time does not hang",
            "write failures = 3, or probe = false",
        ));
    }
    if probe.arguments.is_some() && probe.tool.is_none() {
        found.push(wrong(
            &["probe", "arguments"],
            true,
            "`arguments` are those of a tool, and none is named",
            "add tool = \"…\", or remove the line",
        ));
    }
}
