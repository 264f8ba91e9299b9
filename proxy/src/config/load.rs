//! Reading a configuration: layers in, a [`Config`] or a [`Report`] of everything wrong out.
//!
//! Only this file and those below it know the layering library. Nothing is started, opened or
//! bound here: a configuration that loads may still name a program that does not exist.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use figment::value::{Dict, Value};

use super::endpoint::RawEndpoint;
use super::report::{Report, ordinal};
use super::runbook::RawRunbook;
use super::server::{RawServer, Wrong, kind_mistakes};
use super::source::{self, Source, Step};
use super::{ApiKeys, Config, Server, ServerName, cross, doubts, hint, system};
use crate::platform;

mod extract;
mod file;
mod layers;
mod outside;

use extract::Reader;

/// What a configuration is read from.
#[derive(Clone, Debug, Default)]
pub struct Sources {
    /// The file, if there is one.
    pub file: Option<PathBuf>,
    /// A preset to use when there is no file.
    pub preset: Option<&'static str>,
    /// Flags, as `dotted.key` and a TOML value or plain text; they override everything else.
    pub set: Vec<(String, String)>,
}

/// A configuration without a mistake, and where it came from.
#[derive(Clone, Debug)]
pub struct Loaded {
    /// What is configured.
    pub config: Config,
    /// Where each part of it was written.
    pub source: Source,
    /// Files whose change means reading again.
    pub watch: Vec<PathBuf>,
    /// What an operator should see in the log once it runs.
    pub notes: Vec<String>,
}

/// As much of a configuration as could be read, and everything that is wrong with it.
#[derive(Debug)]
pub struct Attempt {
    /// What could be read. Not to be run unless `report` is empty.
    pub loaded: Loaded,
    /// The mistakes; empty if there are none.
    pub report: Report,
}

/// One mistake on its way to the report.
#[derive(Clone, Debug)]
pub(super) struct Said {
    pub(super) path: Vec<Step>,
    /// Whether the key is meant rather than its value.
    pub(super) key: bool,
    pub(super) message: String,
    pub(super) help: Option<String>,
}

impl Said {
    pub(super) fn new(
        path: Vec<Step>,
        message: impl Into<String>,
        help: impl Into<String>,
    ) -> Self {
        Self {
            path,
            key: false,
            message: message.into(),
            help: Some(help.into()),
        }
    }

    pub(super) fn at(path: &[&str], message: impl Into<String>, help: impl Into<String>) -> Self {
        Self::new(
            path.iter().map(|&step| Step::from(step)).collect(),
            message,
            help,
        )
    }

    pub(super) fn of_key(mut self) -> Self {
        self.key = true;
        self
    }
}

impl Sources {
    /// What `serve` and `check` read: `file`, else the user's or the system's, else the preset
    /// `chill`. Never the working directory: a cloned repository must not configure a gateway.
    pub fn usual(file: Option<PathBuf>) -> Self {
        let file = file.or_else(|| usual_places().into_iter().find(|path| path.is_file()));
        let preset = if file.is_none() { Some("chill") } else { None };
        Self {
            file,
            preset,
            set: Vec::new(),
        }
    }
}

/// Where a configuration is looked for, in order.
pub fn usual_places() -> Vec<PathBuf> {
    places(|name| std::env::var_os(name).map(PathBuf::from))
}

fn places(variable: impl Fn(&str) -> Option<PathBuf>) -> Vec<PathBuf> {
    let user = variable("XDG_CONFIG_HOME")
        .filter(|path| path.is_absolute())
        .map(|base| base.join("chillgate").join("chillgate.toml"))
        .or_else(|| platform::CONFIG.find(&variable));
    let machine = platform::MACHINE_CONFIG.find(&variable);
    user.into_iter().chain(machine).collect()
}

/// Reads a configuration, or says everything that is wrong with it.
pub fn load(sources: &Sources) -> Result<Loaded, Report> {
    let attempt = attempt(sources);
    if attempt.report.is_empty() {
        Ok(attempt.loaded)
    } else {
        Err(attempt.report)
    }
}

/// Reads as much as can be read, for checks that want to go on after a mistake.
pub fn attempt(sources: &Sources) -> Attempt {
    let environment = std::env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok())));
    attempt_with(sources, environment)
}

fn attempt_with(
    sources: &Sources,
    environment: impl Iterator<Item = (String, Option<String>)>,
) -> Attempt {
    let layers::Layers {
        mut tree,
        policies,
        source,
        mut report,
    } = layers::gather(sources, environment);
    let mut reader = Reader {
        source: &source,
        report: &mut report,
        wrong: BTreeSet::new(),
    };
    let server = servers(&mut reader, tree.remove("server"));
    let front = listed(&mut reader, "front", tree.remove("front"), Ok);
    let remedy = listed(&mut reader, "remedy", tree.remove("remedy"), Ok);
    let runbook = listed(
        &mut reader,
        "runbook",
        tree.remove("runbook"),
        RawRunbook::into_runbook,
    );
    let endpoint = listed(
        &mut reader,
        "endpoint",
        tree.remove("endpoint"),
        RawEndpoint::into_endpoint,
    );
    let mut config: Config = reader.read(&[], Value::from(tree)).unwrap_or_default();
    config.server = server;
    config.front = front;
    config.runbook = runbook;
    config.endpoint = endpoint;
    config.remedy = remedy;
    // A policy is any table to us; what cannot be JSON (a number that is not a number) becomes null
    // and is refused where the policies are compiled.
    config.policy = policies
        .iter()
        .map(|policy| serde_json::to_value(policy).unwrap_or_default())
        .collect();
    for said in cross::mistakes(&config, &reader.wrong) {
        reader.say(said);
    }
    for said in system::mistakes(&config, platform::SYSTEM) {
        reader.say(said);
    }
    report.sort();
    let mut notes = doubts::doubts(&config);
    if let (None, Some(preset)) = (&sources.file, sources.preset) {
        notes.push(format!(
            "No configuration file was given or found; using the preset {preset}."
        ));
    }
    let mut watch: Vec<PathBuf> = sources.file.iter().cloned().collect();
    if let Some(ApiKeys::File(text)) = &config.identity.api_keys {
        watch.extend(text.strip_prefix("file:").map(PathBuf::from));
    }
    Attempt {
        loaded: Loaded {
            config,
            source,
            watch,
            notes,
        },
        report,
    }
}

fn servers(reader: &mut Reader<'_>, value: Option<Value>) -> BTreeMap<ServerName, Server> {
    let mut servers = BTreeMap::new();
    let at = vec![Step::from("server")];
    let Some(all) = value.and_then(|value| extract::table(reader, at.clone(), value)) else {
        return servers;
    };
    for (name, value) in all {
        let at = [&at[..], &[Step::from(&name)]].concat();
        if RawServer::knows(&name) && !matches!(value, Value::Dict(..)) {
            let message = format!("`{name}` stands in [server], which is a table of servers");
            let help = format!("write [server.NAME] above `{name}`, with a name of your choice");
            reader.say(Said::new(at, message, help).of_key());
            continue;
        }
        let Some(mut table) = extract::table(reader, at.clone(), value) else {
            continue;
        };
        let name = ServerName::try_from(name).map_err(|text| {
            let (message, help) = text.split_once('\n').unwrap_or((&text, ""));
            reader.say(Said::new(at.clone(), message, help).of_key());
        });
        let one_kind = kind(reader, &at, &mut table);
        let Some(raw) = reader.read::<RawServer>(&at, Value::from(table)) else {
            continue;
        };
        if !one_kind || !raw.has_kind() {
            continue;
        }
        match (name, raw.into_server()) {
            (Ok(name), Ok(server)) => {
                servers.insert(name, server);
            }
            (Err(()), Ok(_)) => {}
            (_, Err(wrong)) => {
                for wrong in wrong {
                    let path = source::way(&wrong.path);
                    let path = at.iter().cloned().chain(path).collect();
                    let (key, message, help) = (wrong.key, wrong.message, Some(wrong.help));
                    reader.say(Said {
                        path,
                        key,
                        message,
                        help,
                    });
                }
            }
        }
    }
    servers
}

/// Reports a wrong choice of keys and takes out those of another kind; whether one kind is left.
fn kind(reader: &mut Reader<'_>, at: &[Step], table: &mut Dict) -> bool {
    let keys: Vec<&str> = table.keys().map(String::as_str).collect();
    let kinds = ["builtin", "command", "url"];
    let count = keys.iter().filter(|key| kinds.contains(key)).count();
    let typo = |key: &&str| !RawServer::knows(key) && hint::nearest(key, kinds).is_some();
    if count == 0 && keys.iter().any(typo) {
        return false; // the unknown key is reported, with the kind it was meant to be
    }
    let wrong = kind_mistakes(&keys);
    for wrong in wrong {
        let path = at
            .iter()
            .cloned()
            .chain(wrong.path.iter().map(Step::from))
            .collect();
        for key in &wrong.path {
            table.remove(key);
        }
        reader.say(Said {
            path,
            key: wrong.key,
            message: wrong.message,
            help: Some(wrong.help),
        });
    }
    count == 1
}

/// Tables of a list that are read as typed first and then made into what they mean.
fn listed<R: serde::de::DeserializeOwned, T>(
    reader: &mut Reader<'_>,
    list: &str,
    value: Option<Value>,
    mean: impl Fn(R) -> Result<T, Vec<Wrong>>,
) -> Vec<T> {
    let tables = match value {
        None => return Vec::new(),
        Some(Value::Array(_, tables)) => tables,
        Some(_) => {
            let help = format!("write [[{list}]] with two brackets on each side");
            let message = format!("`{list}` is a list of tables");
            reader.say(Said::new(vec![Step::from(list)], message, help).of_key());
            return Vec::new();
        }
    };
    let mut found = Vec::new();
    for (index, table) in tables.into_iter().enumerate() {
        let at = vec![Step::from(list), Step::Index(index)];
        let Some(table) = extract::table(reader, at.clone(), table) else {
            continue;
        };
        // What was taken out as wrong must not be told a second time as missing.
        let told = reader.report.mistakes().len();
        let Some(raw) = reader.read::<R>(&at, Value::from(table)) else {
            continue;
        };
        if reader.report.mistakes().len() > told {
            continue;
        }
        match mean(raw) {
            Ok(one) => found.push(one),
            Err(wrong) => {
                for wrong in wrong {
                    let path = at.iter().cloned();
                    let path = path.chain(wrong.path.iter().map(Step::from)).collect();
                    let said = Said::new(path, wrong.message, wrong.help);
                    reader.say(if wrong.key { said.of_key() } else { said });
                }
            }
        }
    }
    found
}

impl Loaded {
    /// A report of one mistake that was found later, e.g. an address that is taken.
    pub fn mistake(&self, path: &[Step], message: &str, help: Option<&str>) -> Report {
        let mut report = Report::default();
        report.add(&self.source, path, false, message, help.map(str::to_owned));
        report
    }

    /// A report of one mistake in policy number `index` of `config.policy`, at the key of that way.
    pub fn policy_mistake(
        &self,
        index: usize,
        key: &[String],
        message: &str,
        help: Option<&str>,
    ) -> Report {
        let mut path = vec![Step::from("policy"), Step::Index(index)];
        path.extend(source::way(key));
        let of_key = message.starts_with("unknown key");
        let mut report = Report::default();
        report.add(
            &self.source,
            &path,
            of_key,
            message,
            help.map(str::to_owned),
        );
        let local = self
            .source
            .policies
            .get(index)
            .map_or(index, |(_, local)| *local);
        let policy = self.config.policy.get(index);
        let text = |key| policy.and_then(|policy| policy.get(key)?.as_str());
        let label = match text("name").or_else(|| text("type")) {
            Some(name) => format!("in policy \"{name}\" (the {})", ordinal(local)),
            None => format!("in the {} policy", ordinal(local)),
        };
        report.relabel_last(label);
        report
    }

    /// The same for everything that compiling the policies found.
    pub fn policy_mistakes(&self, mistakes: &[chillgate_policies::engine::Mistake]) -> Report {
        mistakes.iter().fold(Report::default(), |report, mistake| {
            let help = mistake.help.as_deref();
            report.and(self.policy_mistake(mistake.policy, &mistake.key, &mistake.message, help))
        })
    }

    /// An error unless some server is configured: what `serve` needs and a file for `wrap` does
    /// not.
    pub fn require_server(&self) -> Result<(), Report> {
        if self.config.server.is_empty() {
            let help = "add [server.NAME] with command = [\"npx\", \"-y\", \"some-server\"], url = \"https://mcp.example/mcp\" or builtin = \"chill\"";
            return Err(Report::plain(
                self.source.name(),
                "no server is configured",
                Some(help.to_owned()),
            ));
        }
        Ok(())
    }
}

/// Texts as a value for [`Sources::set`]: `["npx", "-y"]`.
pub fn list<'a>(items: impl IntoIterator<Item = &'a str>) -> String {
    items.into_iter().collect::<toml_edit::Array>().to_string()
}

/// One text as a value for [`Sources::set`], whatever it looks like.
pub fn text(text: &str) -> String {
    toml_edit::Value::from(text).to_string()
}

#[cfg(test)]
mod tests;
