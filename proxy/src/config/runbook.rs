//! `[[runbook]]` tables: what agents may have done on this machine, and nothing besides.
//!
//! A [`Runbook`] that exists is a sound one: its patterns compile, its placeholders have arguments,
//! its roots are whole paths. Whether a call fits it is judged in `ops/`; nothing here runs or opens
//! anything.

use std::collections::BTreeMap;
use std::path::{Component, PathBuf};
use std::time::Duration;

use globset::{Glob, GlobMatcher};
use serde::Deserialize;

use super::secret::SecretText;
use super::server::{Wrong, secrets, wrong};
use super::units::{bytes, span_opt};

mod argument;

pub use argument::{Argument, LONGEST_VALUE, Word};

const TIMEOUT: Duration = Duration::from_secs(30);
const LONGEST: Duration = Duration::from_mins(10);
const OUTPUT: usize = 64 << 10;
const FILE: usize = 1 << 20;

/// What follows a file runbook's name in the names of its tools.
pub const FILE_TOOLS: [&str; 3] = ["_read", "_list", "_write"];

/// Something that agents may have done.
#[derive(Clone, Debug, PartialEq)]
pub struct Runbook {
    /// The name of its tool: 1 to 64 of `a-z`, `0-9`, `_` and `-`.
    pub name: String,
    /// What it does, for the model that may call it.
    pub description: String,
    /// Who has it, as globs of agents' names. Absent: everybody that policies let through.
    pub agents: Option<Agents>,
    /// Ask the host, and so a person, before each run; for files before each write.
    pub confirm: bool,
    /// What it is.
    pub work: Work,
}

/// What a runbook does.
#[derive(Clone, Debug, PartialEq)]
pub enum Work {
    /// Runs a program.
    Command(CommandRunbook),
    /// Reads, lists and, where it says so, writes files: `type = "file"`.
    Files(FileRunbook),
}

/// A program with arguments, never a shell line.
#[derive(Clone, Debug, PartialEq)]
pub struct CommandRunbook {
    /// The program.
    pub program: String,
    /// What follows it. `{name}` stands for the argument of that name, once in each.
    pub words: Vec<Word>,
    /// The arguments that a call may give, each with the pattern that it must fit.
    pub arguments: BTreeMap<String, Argument>,
    /// How long it may run before it is ended with all that it started; at most 10 minutes.
    pub timeout: Duration,
    /// The working directory.
    pub cwd: Option<PathBuf>,
    /// Variables set for it; values may be `file:PATH` or hold `${NAME}`.
    pub env: BTreeMap<String, SecretText>,
    /// Variables handed on from chillgate's own environment besides the basic ones.
    pub inherit: Vec<String>,
    /// How much of its output and of its errors is told, each: the beginning and the end.
    pub output: usize,
    /// It changes nothing, which hosts are told.
    pub read_only: bool,
}

/// Files below some folders.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileRunbook {
    /// The folders, by their whole paths. Nothing outside them is touched.
    pub roots: Vec<PathBuf>,
    /// Whether files may be written.
    pub write: bool,
    /// The largest file that is read or written.
    pub max_size: usize,
}

/// Globs of agents' names.
#[derive(Clone, Debug)]
pub struct Agents(Vec<GlobMatcher>);

impl Agents {
    /// Whether this agent is among them.
    pub fn has(&self, agent: &str) -> bool {
        self.0.iter().any(|glob| glob.is_match(agent))
    }
}

impl PartialEq for Agents {
    fn eq(&self, other: &Self) -> bool {
        let globs = |agents: &Self| -> Vec<String> {
            let globs = agents.0.iter();
            globs.map(|glob| glob.glob().glob().to_owned()).collect()
        };
        globs(self) == globs(other)
    }
}

impl Runbook {
    /// The names of its tools.
    pub fn tools(&self) -> Vec<String> {
        match &self.work {
            Work::Command(_) => vec![self.name.clone()],
            Work::Files(files) => FILE_TOOLS
                .iter()
                .filter(|suffix| files.write || **suffix != "_write")
                .map(|suffix| format!("{}{suffix}", self.name))
                .collect(),
        }
    }

    /// One line for `chillgate check`.
    pub fn summary(&self) -> String {
        match &self.work {
            Work::Command(command) => {
                let words = command.words.iter().map(|word| format!(" {word}"));
                let line: String = words.collect();
                format!("{}: runs {}{line}", self.name, command.program)
            }
            Work::Files(files) => {
                let verb = if files.write {
                    "reads and writes"
                } else {
                    "reads"
                };
                let roots: Vec<_> = files
                    .roots
                    .iter()
                    .map(|root| root.display().to_string())
                    .collect();
                format!("{}: {verb} files below {}", self.name, roots.join(", "))
            }
        }
    }
}

/// Every key a runbook may have.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub(super) struct RawRunbook {
    name: Option<String>,
    description: Option<String>,
    #[serde(rename = "type")]
    kind: Option<String>,
    agents: Option<Vec<String>>,
    confirm: Option<bool>,
    command: Option<Vec<String>>,
    arguments: Option<BTreeMap<String, argument::RawArgument>>,
    #[serde(deserialize_with = "span_opt")]
    timeout: Option<Duration>,
    cwd: Option<PathBuf>,
    env: Option<BTreeMap<String, SecretText>>,
    inherit: Option<Vec<String>>,
    output: Option<Size>,
    read_only: Option<bool>,
    roots: Option<Vec<PathBuf>>,
    write: Option<bool>,
    max_size: Option<Size>,
}

/// A size that may be absent.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(transparent)]
struct Size(#[serde(deserialize_with = "bytes")] usize);

impl RawRunbook {
    /// The runbook it means, or everything that is wrong with it.
    pub(super) fn into_runbook(self) -> Result<Runbook, Vec<Wrong>> {
        let mut found = Vec::new();
        let name = self.name.clone().unwrap_or_default();
        let legal = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || "_-".contains(c);
        if !(1..=64).contains(&name.len()) || !name.chars().all(legal) || name.starts_with('-') {
            found.push(wrong(
                &["name"],
                false,
                "a runbook's `name` is 1 to 64 of the characters a-z, 0-9, `_` and `-`, which is never the first",
                "write name = \"restart-unit\"",
            ));
        }
        let description = self.description.clone().unwrap_or_default();
        if description.trim().is_empty() {
            found.push(wrong(
                &["description"],
                false,
                "a runbook needs a `description`: it is all that a model knows of it",
                "write description = \"Restart one of the web services\"",
            ));
        }
        let agents = self.agents.clone().map(|globs| {
            let compiled = globs.iter().filter_map(|glob| {
                let compiled = Glob::new(glob).map(|glob| glob.compile_matcher());
                compiled
                    .map_err(|error| {
                        let message = format!("`{glob}` is no glob: {}", error.kind());
                        found.push(wrong(
                            &["agents"],
                            false,
                            message,
                            "write agents = [\"ops-*\"]",
                        ));
                    })
                    .ok()
            });
            Agents(compiled.collect())
        });
        let confirm = self.confirm.unwrap_or(false);
        let work = match self.kind.as_deref() {
            None | Some("command") => self.command_of(&mut found).map(Work::Command),
            Some("file") => Some(Work::Files(self.files_of(&mut found))),
            Some(_) => {
                found.push(wrong(
                    &["type"],
                    false,
                    "`type` must be \"command\" or \"file\"",
                    "write type = \"file\", or remove it for a runbook with a `command`",
                ));
                None
            }
        };
        match work {
            Some(work) if found.is_empty() => Ok(Runbook {
                name,
                description,
                agents,
                confirm,
                work,
            }),
            _ => Err(found),
        }
    }

    fn misplaced(kind: &str, given: &[(&str, bool)], found: &mut Vec<Wrong>) {
        for (key, _) in given.iter().filter(|(_, given)| *given) {
            let owner = if kind == "file" { "command" } else { "file" };
            found.push(wrong(
                &[key],
                true,
                format!("`{key}` has no meaning for a runbook of the type `{kind}`"),
                format!("remove it; it belongs to a runbook of the type `{owner}`"),
            ));
        }
    }

    fn command_of(self, found: &mut Vec<Wrong>) -> Option<CommandRunbook> {
        let given = [
            ("roots", self.roots.is_some()),
            ("write", self.write.is_some()),
            ("max-size", self.max_size.is_some()),
        ];
        Self::misplaced("command", &given, found);
        let line = "write command = [\"systemctl\", \"restart\", \"{unit}\"]";
        let mut arguments = BTreeMap::new();
        for (name, raw) in self.arguments.unwrap_or_default() {
            match raw.into_argument(&name) {
                Ok(argument) => drop(arguments.insert(name, argument)),
                Err((message, help)) => {
                    found.push(wrong(&["arguments", &name], false, message, help));
                }
            }
        }
        let command = self.command.unwrap_or_default();
        let Some((program, rest)) = command.split_first().filter(|(it, _)| !it.is_empty()) else {
            let message = "the runbook names no program in `command`";
            found.push(wrong(&["command"], false, message, line));
            return None;
        };
        if command.iter().any(|word| word.contains('\0')) {
            let message = "an argument of a program cannot hold a NUL character";
            found.push(wrong(&["command"], false, message, "remove it"));
        }
        if arguments
            .keys()
            .any(|name| program.contains(&format!("{{{name}}}")))
        {
            let message = "the program of a runbook is fixed: a call cannot choose it";
            found.push(wrong(&["command"], false, message, line));
        }
        let mut words = Vec::new();
        for word in rest {
            match Word::parse(word, &arguments) {
                Ok(word) => words.push(word),
                Err((message, help)) => found.push(wrong(&["command"], false, message, help)),
            }
        }
        for name in arguments.keys() {
            if !words.iter().any(|word| word.argument() == Some(name)) {
                found.push(wrong(
                    &["arguments", name],
                    true,
                    format!("the argument `{name}` stands nowhere in `command`"),
                    format!("write {{{name}}} where its value belongs, or remove it"),
                ));
            }
        }
        let timeout = self.timeout.unwrap_or(TIMEOUT);
        if timeout.is_zero() || timeout > LONGEST {
            let message = "`timeout` of a runbook must be from 1 ms to 10 minutes";
            let help = "write timeout = \"30s\"";
            found.push(wrong(&["timeout"], false, message, help));
        }
        let output = self.output.map_or(OUTPUT, |Size(size)| size);
        if !((1 << 10)..=(4 << 20)).contains(&output) {
            let message = "`output` must be from 1KiB to 4MiB";
            found.push(wrong(
                &["output"],
                false,
                message,
                "write output = \"64KiB\"",
            ));
        }
        let env = self.env.unwrap_or_default();
        let legal = |name: &str| !name.is_empty() && !name.contains(['=', '\0']);
        for name in env.keys().filter(|name| !legal(name)) {
            let message = "an environment variable cannot have this name";
            let help = "write a name of letters, digits and `_`";
            found.push(wrong(&["env", name], true, message, help));
        }
        secrets("env", &env, found);
        let inherit = self.inherit.unwrap_or_default();
        if inherit.iter().any(|name| !legal(name)) {
            let message = "`inherit` takes names of environment variables, without values";
            let help = "write inherit = [\"HTTPS_PROXY\"]; values belong into `env`";
            found.push(wrong(&["inherit"], false, message, help));
        }
        Some(CommandRunbook {
            program: program.clone(),
            words,
            arguments,
            timeout,
            cwd: self.cwd,
            env,
            inherit,
            output,
            read_only: self.read_only.unwrap_or(false),
        })
    }

    fn files_of(self, found: &mut Vec<Wrong>) -> FileRunbook {
        let given = [
            ("command", self.command.is_some()),
            ("arguments", self.arguments.is_some()),
            ("timeout", self.timeout.is_some()),
            ("cwd", self.cwd.is_some()),
            ("env", self.env.is_some()),
            ("inherit", self.inherit.is_some()),
            ("output", self.output.is_some()),
            ("read-only", self.read_only.is_some()),
        ];
        Self::misplaced("file", &given, found);
        if self.name.is_some_and(|name| name.len() > 58) {
            let message =
                "the name of a file runbook has at most 58 characters: its tools add theirs";
            found.push(wrong(
                &["name"],
                false,
                message,
                "write name = \"app-config\"",
            ));
        }
        let line = "write roots = [\"/etc/app\"]";
        let roots = self.roots.unwrap_or_default();
        if roots.is_empty() {
            let message = "a file runbook needs `roots`, the folders it may touch";
            found.push(wrong(&["roots"], false, message, line));
        }
        for root in &roots {
            let plain =
                |part: Component<'_>| matches!(part, Component::RootDir | Component::Normal(_));
            if !root.is_absolute() || !root.components().all(plain) {
                let message = format!("{} is not the whole path of a folder", root.display());
                found.push(wrong(&["roots"], false, message, line));
            }
        }
        let max_size = self.max_size.map_or(FILE, |Size(size)| size);
        if !(1..=(16 << 20)).contains(&max_size) {
            let message = "`max-size` must be from 1 byte to 16MiB";
            let help = "write max-size = \"1MiB\"";
            found.push(wrong(&["max-size"], false, message, help));
        }
        FileRunbook {
            roots,
            write: self.write.unwrap_or(false),
            max_size,
        }
    }
}
