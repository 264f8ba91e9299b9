//! Where each part of a configuration was written: files, presets, variables, flags.
//!
//! Kept beside the [`Config`](super::Config) so that a mistake found later (by a policy, by a
//! listener) is still shown at its line. It only finds places; what is legal there is decided
//! elsewhere.

use std::fmt;
use std::ops::Range;

use super::userinfo;
use toml_edit::{ImDocument, Item, Key, TableLike, Value};

/// One step of the way to a value.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Step {
    /// A key of a table.
    Key(String),
    /// An element of a list, from 0.
    Index(usize),
}

impl From<&str> for Step {
    fn from(key: &str) -> Self {
        Self::Key(key.to_owned())
    }
}

impl From<&String> for Step {
    fn from(key: &String) -> Self {
        Self::Key(key.clone())
    }
}

impl From<usize> for Step {
    fn from(index: usize) -> Self {
        Self::Index(index)
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Key(key) => f.write_str(key),
            Self::Index(index) => write!(f, "{index}"),
        }
    }
}

/// The way of these keys. What follows a list of tables is the number of one.
pub(super) fn way(keys: &[String]) -> impl Iterator<Item = Step> + '_ {
    let lists = ["schedule", "within"];
    keys.iter().enumerate().map(move |(at, key)| {
        let before = at.checked_sub(1).and_then(|before| keys.get(before));
        let in_list = before.is_some_and(|before| lists.contains(&before.as_str()));
        match key.parse() {
            Ok(number) if in_list => Step::Index(number),
            _ => Step::from(key),
        }
    })
}

/// Where a text can be found again: its name for people and the text itself.
#[derive(Clone, Debug)]
pub struct Document {
    /// The path as given, or `preset "team"`.
    pub name: String,
    /// The whole text.
    pub text: String,
    parsed: Option<ImDocument<String>>,
}

/// A text that is not TOML.
#[derive(Debug)]
pub(super) struct SyntaxError {
    pub(super) message: String,
    pub(super) range: Range<usize>,
}

impl Document {
    /// The document, and what is wrong with its syntax if anything is.
    pub(super) fn parse(name: String, text: String) -> (Self, Option<SyntaxError>) {
        let (parsed, error) = match ImDocument::parse(text.clone()) {
            Ok(parsed) => (Some(parsed), None),
            Err(error) => {
                let range = error.span().unwrap_or(text.len()..text.len());
                (
                    None,
                    Some(SyntaxError {
                        message: error.message().to_owned(),
                        range,
                    }),
                )
            }
        };
        (Self { name, text, parsed }, error)
    }

    /// Whether it sets nothing at all.
    pub(super) fn is_empty(&self) -> bool {
        self.parsed
            .as_ref()
            .is_none_or(|parsed| parsed.as_table().is_empty())
    }

    /// The text of a key of the outermost table.
    pub(super) fn text_at(&self, key: &str) -> Option<String> {
        let item = self.parsed.as_ref()?.get(key)?;
        item.as_str().map(str::to_owned)
    }

    /// The range of `path` and how many of its steps were found. `key`: the last key, not its
    /// value.
    fn find(&self, path: &[Step], key: bool) -> (Option<Range<usize>>, usize) {
        let Some(parsed) = &self.parsed else {
            return (None, 0);
        };
        let mut here = Node::Item(parsed.as_item());
        let mut range = None;
        for (depth, step) in path.iter().enumerate() {
            let Some((name, next)) = here.step(step) else {
                return (range, depth);
            };
            let of_key = name.and_then(Key::span);
            let last = depth + 1 == path.len();
            range = if key && last {
                of_key
            } else {
                next.span().or(of_key)
            };
            here = next;
        }
        (range, path.len())
    }

    /// Ranges of literal texts that no report may show: values of `env` and `headers` of servers.
    fn secrets(&self) -> Vec<Range<usize>> {
        let servers = self.parsed.as_ref().and_then(|parsed| parsed.get("server"));
        let Some(servers) = servers.and_then(Item::as_table_like) else {
            return Vec::new();
        };
        let tables = servers
            .iter()
            .filter_map(|(_, server)| server.as_table_like());
        tables
            .flat_map(|server| [server.get("env"), server.get("headers")])
            .flatten()
            .filter_map(Item::as_table_like)
            .flat_map(|table| table.iter().filter_map(|(_, value)| value.span()))
            .collect()
    }
}

/// A place inside a parsed document.
#[derive(Clone, Copy)]
enum Node<'a> {
    Item(&'a Item),
    Value(&'a Value),
    Table(&'a toml_edit::Table),
}

impl<'a> Node<'a> {
    fn step(self, step: &Step) -> Option<(Option<&'a Key>, Self)> {
        match step {
            Step::Key(key) => {
                let table: &dyn TableLike = match self {
                    Self::Item(item) => item.as_table_like()?,
                    Self::Value(value) => value.as_inline_table()?,
                    Self::Table(table) => table,
                };
                let (key, item) = table.get_key_value(key)?;
                Some((Some(key), Self::Item(item)))
            }
            Step::Index(index) => match self {
                Self::Item(Item::ArrayOfTables(tables)) => {
                    Some((None, Self::Table(tables.get(*index)?)))
                }
                Self::Item(Item::Value(Value::Array(array))) | Self::Value(Value::Array(array)) => {
                    Some((None, Self::Value(array.get(*index)?)))
                }
                _ => None,
            },
        }
    }

    fn span(self) -> Option<Range<usize>> {
        match self {
            Self::Item(item) => item.span(),
            Self::Value(value) => value.span(),
            Self::Table(table) => table.span(),
        }
    }
}

/// A value that came from outside every file.
#[derive(Clone, Debug)]
pub(super) struct Setting {
    pub(super) path: Vec<Step>,
    /// The text as given; never printed.
    pub(super) text: String,
    /// `environment variable CHILLGATE__A__B` or `--listen`.
    pub(super) origin: String,
}

/// Everything a configuration was made of.
#[derive(Clone, Debug, Default)]
pub struct Source {
    /// The preset, then the file.
    pub(super) documents: Vec<Document>,
    /// Variables, then flags.
    pub(super) settings: Vec<Setting>,
    /// For each policy of the merged list: its document and its place there.
    pub(super) policies: Vec<(usize, usize)>,
}

/// A place that can be shown.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// A range of a line.
    Line {
        /// The document's name.
        file: String,
        /// From 1.
        line: usize,
        /// From 1, in characters.
        column: usize,
        /// The line, secrets and control characters masked.
        text: String,
        /// How many characters are meant, at least 1.
        length: usize,
    },
    /// A variable, a flag or a whole file.
    Named(String),
}

impl Source {
    /// The configuration file's name as given, or what stands for it.
    pub fn name(&self) -> &str {
        self.documents
            .last()
            .map_or("configuration", |document| &document.name)
    }

    /// The place of the value at `path`, or of the nearest thing around it. `key`: of the key
    /// itself.
    pub(super) fn locate(&self, path: &[Step], key: bool) -> Place {
        if let [Step::Key(first), Step::Index(index), rest @ ..] = path
            && first == "policy"
            && let Some((document, local)) = self.policies.get(*index)
            && let Some(document) = self.documents.get(*document)
        {
            let mut path = vec![Step::from("policy"), Step::Index(*local)];
            path.extend_from_slice(rest);
            if let (Some(range), _) = document.find(&path, key) {
                return line(document, range);
            }
        }
        let setting = |wanted: &dyn Fn(&Setting) -> bool| {
            let found = self.settings.iter().rev().find(|setting| wanted(setting));
            found.map(|setting| Place::Named(setting.origin.clone()))
        };
        if let Some(place) = setting(&|setting| path.starts_with(&setting.path)) {
            return place;
        }
        let found: Vec<_> = self
            .documents
            .iter()
            .rev()
            .filter_map(|document| match document.find(path, key) {
                (Some(range), depth) => Some((document, range, depth)),
                (None, _) => None,
            })
            .collect();
        if let Some((document, range, _)) = found.iter().find(|(_, _, depth)| *depth == path.len())
        {
            return line(document, range.clone());
        }
        if let Some(place) = setting(&|setting| setting.path.starts_with(path)) {
            return place;
        }
        // `rev` put the file first; of equal depths the file's wins.
        match found.iter().rev().max_by_key(|(_, _, depth)| *depth) {
            Some((document, range, _)) => line(document, range.clone()),
            None => Place::Named(self.name().to_owned()),
        }
    }

    /// The text given from outside for exactly this path, and whether anything above it was.
    pub(super) fn setting(&self, path: &[Step]) -> Option<&Setting> {
        self.settings
            .iter()
            .rev()
            .find(|setting| path.starts_with(&setting.path))
    }
}

/// The line that holds the start of `range`, ready to be shown.
pub(super) fn line(document: &Document, range: Range<usize>) -> Place {
    let text = document.text.as_str();
    let floor = |mut at: usize| {
        at = at.min(text.len());
        while !text.is_char_boundary(at) {
            at -= 1;
        }
        at
    };
    let (start, end) = (floor(range.start), floor(range.end.max(range.start)));
    let before = text.get(..start).unwrap_or_default();
    let from = before.rfind('\n').map_or(0, |at| at + 1);
    let to = text
        .get(start..)
        .and_then(|rest| rest.find('\n'))
        .map_or(text.len(), |at| start + at);
    let secrets = document.secrets();
    let shown = text
        .get(from..to)
        .unwrap_or_default()
        .trim_end_matches('\r');
    // In a text that is no TOML nobody knows what a value belongs to.
    let guarded = document.parsed.is_none() && may_hold_secrets(text.get(..from), shown);
    let after = if guarded {
        shown.find('=').map(|at| from + at + 1)
    } else {
        None
    };
    let in_urls = userinfo::hidden(shown);
    let hidden = |at: usize| {
        after.is_some_and(|after| at >= after)
            || secrets.iter().any(|s| s.contains(&at))
            || in_urls.iter().any(|it| it.contains(&(at - from)))
    };
    let masked = shown.char_indices().map(|(at, c)| match c {
        '\t' => '\t',
        c if c.is_control() => '·',
        c if hidden(from + at) && !matches!(c, '\"' | '\'' | ' ') => '•',
        c => c,
    });
    let meant = text.get(start..end.min(to)).unwrap_or_default().trim_end();
    Place::Line {
        file: document.name.clone(),
        line: before.matches('\n').count() + 1,
        column: text
            .get(from..start)
            .map_or(1, |lead| lead.chars().count() + 1),
        text: masked.collect(),
        length: meant.chars().count().max(1),
    }
}

/// Whether a line of a text that could not be read looks like one of `env` or `headers`.
fn may_hold_secrets(before: Option<&str>, shown: &str) -> bool {
    let table = before
        .unwrap_or_default()
        .lines()
        .rev()
        .find(|line| line.starts_with('['));
    [Some(shown), table].into_iter().flatten().any(|line| {
        let mut words = line.split(|c: char| !c.is_ascii_alphanumeric());
        words.any(|word| word == "env" || word == "headers")
    })
}
