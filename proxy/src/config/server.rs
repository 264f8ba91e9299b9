//! A `[server.NAME]` table as typed, and the server it means.
//!
//! The three kinds share one table in TOML and nothing in the program; this file is where a key
//! of one kind on a server of another is found. It knows neither files nor layers.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use chillgate_chill::{Effects, Lang, Scope, Settings};
use chillgate_policies::engine::schedule::Schedule;
use http::{HeaderName, Uri};
use serde::Deserialize;

use super::child::{Probing, probe_mistakes, probe_opt};
use super::secret::{AGENT, AGENT_VARIABLE, SecretText};
use super::units::{span_opt, word_opt};
use super::{
    CommandServer, Isolation, Office, Probe, RemoteServer, Sandbox, Server, ServerEra,
    ServerLimits, ServerToken, confine, hint,
};

const START_TIMEOUT: Duration = Duration::from_mins(1);

/// Every key a server may have, each where some kind wants it.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub(super) struct RawServer {
    builtin: Option<String>,
    boss_alertness: Option<i64>,
    #[serde(deserialize_with = "span_opt")]
    boss_alertness_cooldown: Option<Duration>,
    #[serde(deserialize_with = "span_opt")]
    hold: Option<Duration>,
    #[serde(deserialize_with = "word_opt")]
    effects: Option<Effects>,
    #[serde(deserialize_with = "word_opt")]
    scope: Option<Scope>,
    #[serde(deserialize_with = "word_opt")]
    lang: Option<Lang>,
    stress: Option<i64>,
    schedule: Option<serde_json::Value>,
    command: Option<Vec<String>>,
    isolation: Option<Isolation>,
    agent_env: Option<BTreeMap<String, String>>,
    #[serde(deserialize_with = "probe_opt")]
    probe: Option<Probing>,
    #[serde(deserialize_with = "span_opt")]
    idle: Option<Duration>,
    env: Option<BTreeMap<String, SecretText>>,
    inherit: Option<Vec<String>>,
    cwd: Option<PathBuf>,
    url: Option<String>,
    headers: Option<BTreeMap<String, SecretText>>,
    token: Option<ServerToken>,
    ca: Option<PathBuf>,
    #[serde(deserialize_with = "word_opt")]
    era: Option<ServerEra>,
    transport: Option<String>,
    #[serde(deserialize_with = "span_opt")]
    start_timeout: Option<Duration>,
    limits: Option<ServerLimits>,
    sandbox: Option<Sandbox>,
}

/// A mistake in one server's table.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Wrong {
    /// The way from the server's table; empty for the table itself.
    pub(super) path: Vec<String>,
    /// Whether the key is wrong rather than its value.
    pub(super) key: bool,
    pub(crate) message: String,
    pub(crate) help: String,
}

/// What a key belongs to.
const KINDS: [(&str, &[&str]); 3] = [
    (
        "builtin",
        &[
            "boss-alertness",
            "boss-alertness-cooldown",
            "hold",
            "effects",
            "scope",
            "lang",
            "stress",
            "schedule",
        ],
    ),
    (
        "command",
        &[
            "isolation",
            "env",
            "agent-env",
            "inherit",
            "cwd",
            "start-timeout",
            "era",
            "probe",
            "idle",
            "limits",
            "sandbox",
        ],
    ),
    (
        "url",
        &[
            "headers",
            "token",
            "ca",
            "transport",
            "start-timeout",
            "era",
        ],
    ),
];

/// What is wrong with the choice of keys: no kind, two kinds, keys of another kind.
pub(super) fn kind_mistakes(keys: &[&str]) -> Vec<Wrong> {
    let given: Vec<_> = KINDS
        .iter()
        .filter(|(kind, _)| keys.contains(kind))
        .collect();
    match given.as_slice() {
        [] => vec![wrong(
            &[],
            false,
            "the server has none of `builtin`, `command` and `url`",
            "add one, such as command = [\"npx\", \"-y\", \"some-server\"] or url = \"https://mcp.example/mcp\"",
        )],
        [(kind, own)] => keys
            .iter()
            .filter(|key| !own.contains(key))
            .filter_map(|key| Some((key, owners(key)?)))
            .map(|(key, owners)| {
                wrong(
                    &[key],
                    true,
                    format!("`{key}` has no meaning for a server with `{kind}`"),
                    format!("remove it; it belongs to a server with {owners}"),
                )
            })
            .collect(),
        [(first, _), more @ ..] => more
            .iter()
            .map(|(kind, _)| {
                wrong(
                    &[kind],
                    true,
                    format!("a server cannot have both `{first}` and `{kind}`"),
                    "keep one of the two; the other can be a [server.NAME] of its own",
                )
            })
            .collect(),
    }
}

/// The kinds a key belongs to; `None` for the kinds themselves and unknown keys.
fn owners(key: &str) -> Option<String> {
    let owners: Vec<_> = KINDS
        .iter()
        .filter(|(_, keys)| keys.contains(&key))
        .map(|(kind, _)| *kind)
        .collect();
    if owners.is_empty() {
        None
    } else {
        Some(hint::list(owners))
    }
}

impl RawServer {
    /// Whether some server may have this key.
    pub(super) fn knows(key: &str) -> bool {
        KINDS
            .iter()
            .any(|(kind, keys)| *kind == key || keys.contains(&key))
    }

    /// Whether a kind is left after wrong values were taken out.
    pub(super) fn has_kind(&self) -> bool {
        self.builtin.is_some() || self.command.is_some() || self.url.is_some()
    }

    /// The server it means, or everything that is wrong with its values.
    pub(super) fn into_server(self) -> Result<Server, Vec<Wrong>> {
        let mut found = Vec::new();
        if self.start_timeout == Some(Duration::ZERO) {
            found.push(wrong(
                &["start-timeout"],
                false,
                "`start-timeout` of zero leaves no time to start",
                "write start-timeout = \"60s\"",
            ));
        }
        let server = if self.builtin.as_deref() == Some("ops") {
            self.only_chill(&mut found);
            Server::Ops
        } else if self.builtin.is_some() {
            Server::Builtin(self.office(&mut found))
        } else if self.command.is_some() {
            Server::Command(self.child(&mut found))
        } else {
            Server::Remote(self.remote(&mut found))
        };
        if found.is_empty() {
            Ok(server)
        } else {
            Err(found)
        }
    }

    /// The keys of ChillMCP, on a built-in server that is another.
    fn only_chill(&self, found: &mut Vec<Wrong>) {
        let given = [
            ("boss-alertness", self.boss_alertness.is_some()),
            (
                "boss-alertness-cooldown",
                self.boss_alertness_cooldown.is_some(),
            ),
            ("hold", self.hold.is_some()),
            ("effects", self.effects.is_some()),
            ("scope", self.scope.is_some()),
            ("lang", self.lang.is_some()),
            ("stress", self.stress.is_some()),
            ("schedule", self.schedule.is_some()),
        ];
        for (key, _) in given.into_iter().filter(|(_, given)| *given) {
            found.push(wrong(
                &[key],
                true,
                format!("`{key}` has no meaning for the server `ops`"),
                "remove it; it belongs to a server with builtin = \"chill\"",
            ));
        }
    }

    fn office(mut self, found: &mut Vec<Wrong>) -> Office {
        let schedule = self.schedule.take();
        let settings = self.settings(found);
        let schedule = match schedule.as_ref().map(Schedule::read) {
            None => Schedule::default(),
            Some(Ok(schedule)) => schedule,
            Some(Err(all)) => {
                found.extend(all.into_iter().map(|(way, it)| Wrong {
                    path: way,
                    key: false,
                    message: it.message,
                    help: it.help.unwrap_or_default(),
                }));
                Schedule::default()
            }
        };
        if found.is_empty() {
            for (index, entry) in schedule.entries().iter().enumerate() {
                let wrong = Office::with(&settings, &entry.values).err();
                found.extend(wrong.into_iter().flatten().map(|it| Wrong {
                    path: [vec!["schedule".to_owned(), index.to_string()], it.path].concat(),
                    ..it
                }));
            }
        }
        Office { settings, schedule }
    }

    pub(super) fn settings(self, found: &mut Vec<Wrong>) -> Settings {
        if let Some(name) = self.builtin.filter(|name| name != "chill") {
            found.push(wrong(
                &["builtin"],
                false,
                format!("there is no built-in server `{name}`"),
                "write builtin = \"chill\" or builtin = \"ops\"",
            ));
        }
        let mut percent = |key: &str, value: Option<i64>, default: u8| match value {
            None => default,
            Some(value) => u8::try_from(value)
                .ok()
                .filter(|v| *v <= 100)
                .unwrap_or_else(|| {
                    found.push(wrong(
                        &[key],
                        false,
                        format!("`{key}` must be from 0 to 100, not {value}"),
                        format!("write {key} = {default}"),
                    ));
                    default
                }),
        };
        let default = Settings::default();
        Settings {
            alertness: percent("boss-alertness", self.boss_alertness, default.alertness),
            stress: percent("stress", self.stress, default.stress),
            cooldown: self.boss_alertness_cooldown.unwrap_or(default.cooldown),
            hold: self.hold.unwrap_or(default.hold),
            effects: self.effects.unwrap_or(default.effects),
            scope: self.scope.unwrap_or(default.scope),
            lang: self.lang.unwrap_or(default.lang),
            ..default
        }
    }

    fn child(self, found: &mut Vec<Wrong>) -> CommandServer {
        let command = self.command.unwrap_or_default();
        match command.first() {
            None => found.push(wrong(
                &["command"],
                false,
                "`command` names no program",
                "write command = [\"npx\", \"-y\", \"some-server\"]",
            )),
            Some(program) if program.trim().is_empty() => found.push(wrong(
                &["command"],
                false,
                "the program of `command` is empty",
                "write command = [\"npx\", \"-y\", \"some-server\"]",
            )),
            Some(program) if command.len() == 1 && program.contains(' ') => {
                let words: Vec<_> = program
                    .split_whitespace()
                    .map(|word| format!("{word:?}"))
                    .collect();
                found.push(wrong(
                    &["command"],
                    false,
                    "`command` is a program and its arguments, each a string of its own",
                    format!("write command = [{}]", words.join(", ")),
                ));
            }
            Some(_) if command.iter().any(|word| word.contains('\0')) => found.push(wrong(
                &["command"],
                false,
                "an argument of a program cannot hold a NUL character",
                "remove it",
            )),
            Some(_) => {}
        }
        let env = self.env.unwrap_or_default();
        let legal = |name: &str| !name.is_empty() && !name.contains(['=', '\0']);
        for name in env.keys().filter(|name| !legal(name)) {
            found.push(wrong(
                &["env", name],
                true,
                "an environment variable cannot have this name",
                "write a name of letters, digits and `_`",
            ));
        }
        secrets("env", &env, found);
        let inherit = self.inherit.unwrap_or_default();
        if inherit.iter().any(|name| !legal(name)) {
            found.push(wrong(
                &["inherit"],
                false,
                "`inherit` takes names of environment variables, without values",
                "write inherit = [\"HTTPS_PROXY\"]; values belong into `env`",
            ));
        }
        let isolation = self.isolation.unwrap_or_default();
        let agent_env = self.agent_env.unwrap_or_default();
        for name in agent_env.keys().filter(|name| !legal(name)) {
            found.push(wrong(
                &["agent-env", name],
                true,
                "an environment variable cannot have this name",
                "write a name of letters, digits and `_`",
            ));
        }
        for (name, value) in &agent_env {
            if !value.contains(AGENT) && !value.contains(AGENT_VARIABLE) {
                found.push(wrong(
                    &["agent-env", name],
                    false,
                    "this value is the same for every agent",
                    "write \"file:/run/secrets/{agent}/token\" or \"${TOKEN_{AGENT}}\"; \
                     what is the same for all belongs into `env`",
                ));
            }
        }
        let is_one_agents = matches!(
            isolation,
            Isolation::Agent | Isolation::Session | Isolation::Request
        );
        if !agent_env.is_empty() && !is_one_agents {
            found.push(wrong(
                &["agent-env"],
                true,
                "agents that share a process cannot have secrets of their own in it",
                "add isolation = \"agent\"",
            ));
        }
        let names_agent = |text: &str| text.contains(AGENT);
        if !is_one_agents && command.iter().any(|word| names_agent(word)) {
            found.push(wrong(
                &["command"],
                false,
                "`{agent}` has no meaning where agents share a process",
                "add isolation = \"agent\"",
            ));
        }
        if !is_one_agents
            && self
                .cwd
                .as_deref()
                .and_then(Path::to_str)
                .is_some_and(names_agent)
        {
            found.push(wrong(
                &["cwd"],
                false,
                "`{agent}` has no meaning where agents share a process",
                "add isolation = \"agent\"",
            ));
        }
        let probe = match self.probe {
            None => Some(Probe::default()),
            Some(Probing::Off) => None,
            Some(Probing::With(probe)) => Some(probe),
        };
        if let Some(probe) = &probe {
            probe_mistakes(probe, found);
        }
        if self.idle.is_some_and(|idle| idle < LEAST_IDLE) {
            found.push(wrong(
                &["idle"],
                false,
                "a server cannot rest after less than a second without calls",
                "write idle = \"30m\"",
            ));
        }
        let limits = self.limits.unwrap_or_default();
        confine::mistakes(&limits, self.sandbox.as_ref(), found);
        CommandServer {
            command,
            isolation,
            env,
            inherit,
            cwd: self.cwd,
            start_timeout: self.start_timeout.unwrap_or(START_TIMEOUT),
            era: self.era.unwrap_or_default(),
            agent_env,
            probe,
            idle: self.idle,
            limits,
            sandbox: self.sandbox,
        }
    }

    fn remote(self, found: &mut Vec<Wrong>) -> RemoteServer {
        let url = self.url.unwrap_or_default();
        if let Err((message, help)) = url_mistake(&url) {
            found.push(wrong(&["url"], false, message, help));
        }
        let headers = self.headers.unwrap_or_default();
        for name in headers.keys() {
            if let Err((message, help)) = header_mistake(name) {
                found.push(wrong(&["headers", name], true, message, help));
            }
        }
        secrets("headers", &headers, found);
        if let Some(token) = &self.token {
            token_mistakes(token, &headers, found);
        }
        let http_sse = match self.transport.as_deref() {
            None | Some("streamable-http") => false,
            Some("http-sse") => true,
            Some(_) => {
                found.push(wrong(
                    &["transport"],
                    false,
                    "`transport` must be \"streamable-http\" or \"http-sse\"",
                    "write transport = \"http-sse\" for a server of 2024-11-05, else remove it",
                ));
                false
            }
        };
        if http_sse && self.era == Some(ServerEra::Modern) {
            found.push(wrong(
                &["era"],
                false,
                "a server over HTTP+SSE speaks no modern revision",
                "remove `era`, or `transport` for a server of 2026-07-28",
            ));
        }
        RemoteServer {
            url,
            http_sse,
            headers,
            token: self.token,
            ca: self.ca,
            start_timeout: self.start_timeout.unwrap_or(START_TIMEOUT),
            era: self.era.unwrap_or_default(),
        }
    }
}

fn token_mistakes(
    token: &ServerToken,
    headers: &BTreeMap<String, SecretText>,
    found: &mut Vec<Wrong>,
) {
    let mut refuse = |key: &str, message: &str, help: &str| {
        found.push(wrong(&["token", key], false, message, help));
    };
    if let Err((message, _)) = url_mistake(&token.endpoint) {
        let help = "write endpoint = \"https://issuer.example/token\"";
        refuse("endpoint", &message, help);
    }
    if token.client_id.is_empty() {
        let help = "write client-id = \"chillgate\"";
        refuse("client-id", "an issuer knows nobody without a name", help);
    }
    if let Err(error) = token.client_secret.check() {
        let help = "set the variable, or write \"file:/run/secrets/NAME\" to read a file";
        refuse("client-secret", &error.to_string(), help);
    }
    if headers
        .keys()
        .any(|name| name.eq_ignore_ascii_case("authorization"))
    {
        let help = "take `Authorization` out of `headers`, or remove `token`";
        let message = "`token` and `headers` would both say who chillgate is";
        refuse("endpoint", message, help);
    }
}

/// The shortest time without calls after which a server may rest.
const LEAST_IDLE: Duration = Duration::from_secs(1);

pub(super) fn secrets(table: &str, values: &BTreeMap<String, SecretText>, found: &mut Vec<Wrong>) {
    for (name, value) in values {
        if let Err(error) = value.check() {
            found.push(wrong(
                &[table, name],
                false,
                error.to_string(),
                "set the variable, or write \"file:/run/secrets/NAME\" to read a file",
            ));
        }
    }
}

type Said = (String, &'static str);

pub(super) fn url_mistake(url: &str) -> Result<(), Said> {
    const LINE: &str = "write url = \"https://mcp.example/mcp\" or url = \"unix:/run/server.sock\"";
    if let Some(path) = url.strip_prefix("unix:") {
        if path.starts_with('/') && !path.contains('\0') {
            return Ok(());
        }
        return Err(("a Unix socket is named by its whole path".to_owned(), LINE));
    }
    let parsed: Uri = url
        .parse()
        .map_err(|_| ("`url` is not a URL".to_owned(), LINE))?;
    match parsed.scheme_str() {
        Some("http" | "https") => {}
        Some(_) => {
            return Err((
                "`url` must begin with http://, https:// or unix:".to_owned(),
                LINE,
            ));
        }
        None => return Err(("`url` has no scheme".to_owned(), LINE)),
    }
    match parsed.authority().map(http::uri::Authority::as_str) {
        Some(authority) if authority.contains('@') => Err((
            "`url` holds a user or a password".to_owned(),
            "take it out and write headers = { Authorization = \"file:/run/secrets/NAME\" }",
        )),
        Some(_) if parsed.host().is_some_and(|host| !host.is_empty()) => Ok(()),
        _ => Err(("`url` names no host".to_owned(), LINE)),
    }
}

/// Whether a header may be set towards a server.
pub(super) fn header_mistake(name: &str) -> Result<(), Said> {
    const OWN: [&str; 11] = [
        "accept",
        "connection",
        "content-length",
        "content-type",
        "host",
        "last-event-id",
        "mcp-protocol-version",
        "mcp-session-id",
        "te",
        "transfer-encoding",
        "upgrade",
    ];
    let parsed = HeaderName::from_bytes(name.as_bytes()).map_err(|_| {
        (
            format!("`{name}` is no HTTP header name"),
            "write a name such as Authorization",
        )
    })?;
    if OWN.contains(&parsed.as_str()) {
        return Err((
            format!("chillgate sets the header `{parsed}` itself"),
            "remove the line",
        ));
    }
    Ok(())
}

pub(super) fn wrong(
    path: &[&str],
    key: bool,
    message: impl Into<String>,
    help: impl Into<String>,
) -> Wrong {
    Wrong {
        path: path.iter().map(|&step| step.to_owned()).collect(),
        key,
        message: message.into(),
        help: help.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_are_http_https_or_a_socket_and_hold_no_password() {
        for good in [
            "http://127.0.0.1:9000/mcp",
            "https://mcp.example",
            "unix:/run/a.sock",
            "http://[::1]:1/",
        ] {
            assert!(url_mistake(good).is_ok(), "{good}");
        }
        for bad in [
            "",
            "mcp.example/mcp",
            "ftp://a/",
            "file:///etc/passwd",
            "unix:run.sock",
            "https://",
            "http://me:pw@a/",
            "http://a b/",
        ] {
            assert!(url_mistake(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn headers_of_the_transport_are_not_the_users() {
        assert!(header_mistake("Authorization").is_ok());
        assert!(header_mistake("X-Api-Key").is_ok());
        for bad in ["", "a b", "Mcp-Session-Id", "Host", "x\r\ny"] {
            assert!(header_mistake(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_key_of_another_kind_is_named_with_its_owner() {
        let found = kind_mistakes(&["command", "boss-alertness", "headers", "start-timeout"]);
        let said: Vec<_> = found
            .iter()
            .map(|w| (w.path.join("."), w.help.as_str()))
            .collect();
        assert_eq!(said[0].0, "boss-alertness");
        assert!(said[0].1.ends_with("a server with `builtin`"));
        assert_eq!(said[1].0, "headers");
        assert_eq!(said.len(), 2);
        assert_eq!(kind_mistakes(&["url", "start-timeout", "era"]), []);
        assert_eq!(kind_mistakes(&[]).len(), 1);
        assert_eq!(kind_mistakes(&["url", "command", "builtin"]).len(), 2);
    }
}
