//! From the tree of values to typed tables, collecting every mistake instead of the first.
//!
//! A value that cannot be read is reported, taken out, and the table is read again without it.
//! What each error says is worded here; nothing here knows which layer a value came from.

use std::collections::BTreeSet;

use figment::error::{Actual, Error, Kind};
use figment::value::{Dict, Value};
use serde::de::DeserializeOwned;

use super::super::hint;
use super::super::report::Report;
use super::super::source::{Source, Step};
use super::Said;

/// The most mistakes of one table.
const MOST: usize = 50;

/// What reading needs to know and to tell.
pub(super) struct Reader<'a> {
    pub(super) source: &'a Source,
    pub(super) report: &'a mut Report,
    /// Top-level tables with a mistake.
    pub(super) wrong: BTreeSet<String>,
}

impl Reader<'_> {
    /// Notes one mistake.
    pub(super) fn say(&mut self, said: Said) {
        if let Some(Step::Key(table)) = said.path.first() {
            self.wrong.insert(table.clone());
        }
        self.report
            .add(self.source, &said.path, said.key, said.message, said.help);
    }

    /// The table at `at`, without what was wrong in it; `None` if it cannot be had at all.
    pub(super) fn read<T: DeserializeOwned>(&mut self, at: &[Step], value: Value) -> Option<T> {
        let mut value = value;
        let mut removed: BTreeSet<Vec<Step>> = BTreeSet::new();
        for _ in 0..MOST {
            let error = match T::deserialize(&value) {
                Ok(table) => return Some(table),
                Err(error) => error,
            };
            let steps = steps(&value, &error.path);
            let full = [at, &steps].concat();
            if self.respell(&mut value, &steps, &full, &error.kind) {
                continue;
            }
            let missing = match &error.kind {
                Kind::MissingField(name) => {
                    Some([&full[..], &[Step::from(name.as_ref())]].concat())
                }
                _ => None,
            };
            if !missing.is_some_and(|path| removed.contains(&path)) {
                self.say(describe(&error, full.clone(), find(&value, &steps)));
            }
            // Lists are taken out whole: removing an element would number the others anew.
            let list = steps.iter().position(|step| matches!(step, Step::Index(_)));
            let cut = steps.get(..list.unwrap_or(steps.len())).unwrap_or_default();
            if !remove(&mut value, cut) {
                return None;
            }
            removed.insert([at, cut].concat());
        }
        None
    }

    /// A number from a variable or flag where text is wanted is the text it was given as.
    fn respell(&self, value: &mut Value, steps: &[Step], full: &[Step], kind: &Kind) -> bool {
        let (Kind::InvalidType(_, expected) | Kind::InvalidValue(_, expected)) = kind else {
            return false;
        };
        let Some(setting) = self
            .source
            .setting(full)
            .filter(|_| expected.contains("string"))
        else {
            return false;
        };
        let Some(value) = find_mut(value, steps) else {
            return false;
        };
        let text = match &*value {
            _ if setting.path == full && !matches!(value, Value::Dict(..) | Value::Array(..)) => {
                if value.as_str().is_some() {
                    return false;
                }
                setting.text.clone()
            }
            Value::Bool(_, value) => value.to_string(),
            Value::Num(_, number) => match number.to_actual() {
                Actual::Unsigned(number) => number.to_string(),
                Actual::Signed(number) => number.to_string(),
                Actual::Float(number) => number.to_string(),
                _ => return false,
            },
            _ => return false,
        };
        *value = Value::from(text);
        true
    }
}

/// The error's path as steps: a number is an index only where the value is a list.
fn steps(root: &Value, path: &[String]) -> Vec<Step> {
    let mut here = Some(root);
    let mut steps = Vec::with_capacity(path.len());
    for part in path {
        match here {
            Some(Value::Array(_, items)) => {
                let index = part.parse().unwrap_or(usize::MAX);
                here = items.get(index);
                steps.push(Step::Index(index));
            }
            other => {
                here = match other {
                    Some(Value::Dict(_, table)) => table.get(part),
                    _ => None,
                };
                steps.push(Step::from(part));
            }
        }
    }
    steps
}

fn find<'a>(root: &'a Value, steps: &[Step]) -> Option<&'a Value> {
    steps
        .iter()
        .try_fold(root, |here, step| match (here, step) {
            (Value::Dict(_, table), Step::Key(key)) => table.get(key),
            (Value::Array(_, items), Step::Index(index)) => items.get(*index),
            _ => None,
        })
}

fn find_mut<'a>(root: &'a mut Value, steps: &[Step]) -> Option<&'a mut Value> {
    steps
        .iter()
        .try_fold(root, |here, step| match (here, step) {
            (Value::Dict(_, table), Step::Key(key)) => table.get_mut(key),
            (Value::Array(_, items), Step::Index(index)) => items.get_mut(*index),
            _ => None,
        })
}

fn remove(root: &mut Value, steps: &[Step]) -> bool {
    let Some((Step::Key(last), parents)) = steps.split_last() else {
        return false;
    };
    match find_mut(root, parents) {
        Some(Value::Dict(_, table)) => table.remove(last).is_some(),
        _ => false,
    }
}

/// `server.*.env` for `server.files.env.TOKEN`: how [`hint`] names keys.
fn pattern(path: &[Step]) -> String {
    let top = path.first().map(ToString::to_string).unwrap_or_default();
    let nested = ["server", "front", "runbook", "endpoint", "remedy"].contains(&top.as_str());
    let parts = path.iter().take(if nested { 4 } else { 3 }).enumerate();
    let parts = parts.map(|(at, step)| match step {
        _ if nested && at == 1 => "*".to_owned(),
        step => step.to_string(),
    });
    parts.collect::<Vec<_>>().join(".")
}

/// The line that would be right at `path`, or at the key around it.
pub(super) fn line_for(path: &[Step]) -> Option<String> {
    let mut pattern = pattern(path);
    loop {
        if let Some(line) = hint::line(&pattern) {
            return Some(format!("write {line}"));
        }
        let cut = pattern.rfind('.')?;
        // Never the help of a whole table for a key of it.
        if pattern.matches('.').count() < 2 {
            return None;
        }
        pattern.truncate(cut);
    }
}

fn name(path: &[Step]) -> String {
    match path {
        [] => "the configuration".to_owned(),
        [.., Step::Key(list), Step::Index(index)] => format!("`{list}` number {}", index + 1),
        [.., last] => format!("`{last}`"),
    }
}

fn describe(error: &Error, path: Vec<Step>, value: Option<&Value>) -> Said {
    let pattern = pattern(&path);
    match &error.kind {
        Kind::UnknownField(key, known) => unknown(key, known, path),
        Kind::MissingField(key) => {
            let whole: Vec<_> = [&path[..], &[Step::from(key.as_ref())]].concat();
            let help = line_for(&whole).map(|line| line.replacen("write", "add", 1));
            Said {
                path,
                key: false,
                message: format!("`{key}` is missing"),
                help,
            }
        }
        _ if pattern == "server.*.isolation" => {
            let help = "write isolation = \"auto\", \"shared\", \"session\", \"agent\", \
                        \"request\" or { pool = 4 }"
                .to_owned();
            let message = match value {
                Some(Value::String(_, text)) => format!("`isolation` cannot be `{text}`"),
                Some(Value::Dict(_, table)) if table.contains_key("pool") => {
                    "a pool has 1 to 64 processes".to_owned()
                }
                Some(Value::Dict(..)) => "`isolation` as a table is a pool".to_owned(),
                _ => "`isolation` must be text in quotes".to_owned(),
            };
            Said {
                path,
                key: false,
                message,
                help: Some(help),
            }
        }
        Kind::UnknownVariant(given, known) => {
            let choice = known
                .iter()
                .map(|word| format!("\"{word}\""))
                .collect::<Vec<_>>();
            let help = match hint::nearest(given, known.iter().copied()) {
                Some(word) => format!(
                    "did you mean \"{word}\"? It is one of {}",
                    choice.join(", ")
                ),
                None => format!("write one of {}", choice.join(", ")),
            };
            let message = format!("{} cannot be `{given}`", name(&path));
            Said {
                path,
                key: false,
                message,
                help: Some(help),
            }
        }
        Kind::InvalidType(actual, expected) | Kind::InvalidValue(actual, expected) => {
            let message = format!(
                "{} must be {}, not {}",
                name(&path),
                wanted(expected),
                said(actual, &pattern)
            );
            let help = line_for(&path);
            Said {
                path,
                key: false,
                message,
                help,
            }
        }
        Kind::Message(text) => {
            let (message, help) = match text.split_once('\n') {
                Some((message, help)) => (message.to_owned(), Some(help.to_owned())),
                None => (text.clone(), None),
            };
            let lead = match path.last() {
                Some(Step::Key(key)) => format!("`{key}`: "),
                _ => String::new(),
            };
            let help = help.or_else(|| line_for(&path));
            Said {
                path,
                key: false,
                message: format!("{lead}{message}"),
                help,
            }
        }
        other => {
            let help = line_for(&path);
            Said {
                message: format!("{}: {other}", name(&path)),
                path,
                key: false,
                help,
            }
        }
    }
}

fn unknown(key: &str, known: &[&str], path: Vec<Step>) -> Said {
    let top = ["front", "policy", "server", "runbook", "endpoint", "remedy"];
    let known: Vec<&str> = match path.len() {
        1 => known.iter().copied().chain(top).collect(),
        _ => known.to_vec(),
    };
    let help = match hint::nearest(key, known.iter().copied()) {
        Some(near) => format!("did you mean `{near}`?"),
        None if known.is_empty() => "remove it".to_owned(),
        None => format!("the keys here are {}", hint::list(known)),
    };
    Said {
        path,
        key: true,
        message: format!("unknown key `{key}`"),
        help: Some(help),
    }
}

/// serde's word for what it expected, in the user's.
fn wanted(expected: &str) -> String {
    match expected {
        "a string" | "path string" | "string" => "text in quotes".to_owned(),
        "a boolean" => "true or false".to_owned(),
        "a sequence" => "a list in brackets".to_owned(),
        "a map" => "a table".to_owned(),
        "i32" | "i64" => "a whole number".to_owned(),
        "usize" | "u64" | "u32" | "u16" | "u8" => "a whole number from 0".to_owned(),
        other if other.starts_with("struct ") => "a table".to_owned(),
        other => other.to_owned(),
    }
}

/// What was found, without its text: it may be a secret, which under `env` a number may be, too.
fn said(actual: &Actual, pattern: &str) -> String {
    let secret = pattern.contains(".*.env.") || pattern.contains(".*.headers.");
    match actual {
        Actual::Bool(_) if secret => "true or false".to_owned(),
        Actual::Unsigned(_) | Actual::Signed(_) | Actual::Float(_) if secret => {
            "a number".to_owned()
        }
        Actual::Bool(value) => value.to_string(),
        Actual::Unsigned(number) => number.to_string(),
        Actual::Signed(number) => number.to_string(),
        Actual::Float(number) => number.to_string(),
        Actual::Str(_) | Actual::Char(_) => "text".to_owned(),
        Actual::Seq => "a list".to_owned(),
        Actual::Map => "a table".to_owned(),
        _ => "this".to_owned(),
    }
}

/// The table at a key of another, or `None` with the mistake noted if it is something else.
pub(super) fn table(reader: &mut Reader<'_>, path: Vec<Step>, value: Value) -> Option<Dict> {
    if let Value::Dict(_, table) = value {
        return Some(table);
    }
    let message = format!("{} must be a table", name(&path));
    let header: Vec<_> = path.iter().map(ToString::to_string).collect();
    let help = format!("write [{}] and its keys below", header.join("."));
    reader.say(Said {
        path,
        key: true,
        message,
        help: Some(help),
    });
    None
}
