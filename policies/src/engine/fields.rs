//! Reading one policy's table: every mistake found, each with its key and what to write instead.
//!
//! Beside serde on purpose: one pass collects all mistakes of a table, unknown keys are matched to
//! the nearest known one, and the key path leads to the line in the file. It never guesses.

use std::ops::RangeInclusive;
use std::str::FromStr;
use std::time::Duration;

use serde_json::{Map, Value};

use super::allow::Allow;
use super::rule::Pattern;
use super::span::{Size, Span, UnitError};

/// Most entries in any list of a policy's table.
const LONGEST_LIST: usize = 1_000;

/// Something wrong in a `[[policy]]` table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mistake {
    /// Which table, counted from 0.
    pub policy: usize,
    /// Path of the key inside it; empty for the table itself.
    pub key: Vec<String>,
    /// What is wrong: lower-case, one line, any text of the user escaped.
    pub message: String,
    /// What to write instead.
    pub help: Option<String>,
}

/// A value that cannot be used, before it is known which key it stands under.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wrong {
    /// What is wrong.
    pub message: String,
    /// What to write instead.
    pub help: Option<String>,
}

impl Wrong {
    /// A complaint with its remedy.
    pub fn new(message: impl Into<String>, help: impl Into<String>) -> Self {
        Self {
            message: message.into(),
            help: Some(help.into()),
        }
    }
}

impl From<UnitError> for Wrong {
    fn from(error: UnitError) -> Self {
        Self::new(error.message, error.help)
    }
}

/// A table while it is read.
#[derive(Debug)]
pub struct Fields<'a> {
    table: &'a Map<String, Value>,
    policy: usize,
    path: Vec<String>,
    known: Vec<&'static str>,
    mistakes: Vec<Mistake>,
}

impl<'a> Fields<'a> {
    /// Starts reading the table of policy number `policy`.
    pub fn new(table: &'a Map<String, Value>, policy: usize) -> Self {
        Self {
            table,
            policy,
            path: Vec::new(),
            known: Vec::new(),
            mistakes: Vec::new(),
        }
    }

    /// The raw value of a key, which is a known one from now on.
    pub fn value(&mut self, key: &'static str) -> Option<&'a Value> {
        if !self.known.contains(&key) {
            self.known.push(key);
        }
        self.table.get(key)
    }

    /// Takes back that a key is known here.
    pub(crate) fn forget(&mut self, key: &str) {
        self.known.retain(|known| *known != key);
    }

    /// Reads a key with `how`; a complaint is noted and the key counts as absent.
    pub fn read<T>(
        &mut self,
        key: &'static str,
        how: impl FnOnce(&Value) -> Result<T, Wrong>,
    ) -> Option<T> {
        match how(self.value(key)?) {
            Ok(value) => Some(value),
            Err(wrong) => {
                self.wrong(Some(key), wrong);
                None
            }
        }
    }

    /// A text from one of the fixed spellings.
    pub fn choice<T: Copy>(&mut self, key: &'static str, choices: &[(&str, T)]) -> Option<T> {
        self.read(key, |value| {
            let text = text_of(value);
            choices
                .iter()
                .find(|(name, _)| Some(*name) == text)
                .map(|(_, choice)| *choice)
                .ok_or_else(|| {
                    let all: Vec<String> = choices
                        .iter()
                        .map(|(name, _)| format!("{name:?}"))
                        .collect();
                    Wrong::new(
                        format!("`{key}` cannot be {}", shown(value)),
                        format!("write one of {}", all.join(", ")),
                    )
                })
        })
    }

    /// A text of 1 to 256 bytes without control characters.
    pub fn text(&mut self, key: &'static str) -> Option<&'a str> {
        let value = self.value(key)?;
        let text = text_of(value)
            .filter(|text| (1..=256).contains(&text.len()) && !text.chars().any(char::is_control));
        if text.is_none() {
            let wrong = Wrong::new(
                format!("`{key}` must be a text, not {}", shown(value)),
                "write 1 to 256 characters in quotes",
            );
            self.wrong(Some(key), wrong);
        }
        text
    }

    /// A whole number in a range.
    pub fn integer(&mut self, key: &'static str, range: RangeInclusive<u32>) -> Option<u32> {
        self.read(key, |value| {
            value
                .as_u64()
                .and_then(|number| u32::try_from(number).ok())
                .filter(|number| range.contains(number))
                .ok_or_else(|| {
                    Wrong::new(
                        format!("`{key}` cannot be {}", shown(value)),
                        format!(
                            "write a whole number from {} to {}",
                            range.start(),
                            range.end()
                        ),
                    )
                })
        })
    }

    /// A span of time.
    pub fn span(&mut self, key: &'static str) -> Option<Duration> {
        self.unit::<Span>(key, "a span of time", "\"20s\", \"5m\" or \"1h30m\"")
            .map(|span| span.0)
    }

    /// What a budget allows.
    pub fn allowance(&mut self, key: &'static str) -> Option<Allow> {
        self.unit(
            key,
            "so much per span",
            "\"60/min\", \"10MiB/min\" or \"1000/day in Asia/Seoul\"",
        )
    }

    /// A size in bytes.
    pub fn size(&mut self, key: &'static str) -> Option<u64> {
        self.unit::<Size>(key, "a size", "\"64KiB\" or \"16MiB\"")
            .map(|size| size.0)
    }

    /// One text or a list of texts.
    pub fn texts(&mut self, key: &'static str) -> Option<Vec<&'a str>> {
        let value = self.value(key)?;
        let texts: Option<Vec<&str>> = match value {
            Value::String(text) => Some(vec![text]),
            Value::Array(list) if (1..=LONGEST_LIST).contains(&list.len()) => {
                list.iter().map(text_of).collect()
            }
            _ => None,
        };
        if texts.is_none() {
            let wrong = Wrong::new(
                format!(
                    "`{key}` must be a text or a list of texts, not {}",
                    shown(value)
                ),
                format!("write {key} = \"…\" or {key} = [\"…\", \"…\"], at most {LONGEST_LIST}"),
            );
            self.wrong(Some(key), wrong);
        }
        texts
    }

    /// One glob or a list of globs.
    pub fn patterns(&mut self, key: &'static str) -> Option<Vec<Pattern>> {
        let mut patterns = Vec::new();
        for text in self.texts(key)? {
            match Pattern::parse(text) {
                Ok(pattern) => patterns.push(pattern),
                Err(wrong) => self.wrong(Some(key), wrong),
            }
        }
        Some(patterns)
    }

    /// A table inside this one, read by `how`. Its mistakes and unknown keys are noted.
    pub fn table<T>(
        &mut self,
        key: &'static str,
        how: impl FnOnce(&mut Fields<'a>) -> Option<T>,
    ) -> Option<T> {
        let value = self.value(key)?;
        let Value::Object(table) = value else {
            let wrong = Wrong::new(
                format!("`{key}` must be a table, not {}", shown(value)),
                format!("write {key} = {{ … }}"),
            );
            self.wrong(Some(key), wrong);
            return None;
        };
        let mut inner = Fields::new(table, self.policy);
        inner.path.clone_from(&self.path);
        inner.path.push(key.to_owned());
        let read = how(&mut inner);
        self.mistakes.append(&mut inner.finish());
        read
    }

    /// A list of at most `most` tables inside this one, each read by `how`.
    pub fn tables<T>(
        &mut self,
        key: &'static str,
        most: usize,
        mut how: impl FnMut(&mut Fields<'a>) -> Option<T>,
    ) -> Option<Vec<T>> {
        let value = self.value(key)?;
        let list = value
            .as_array()
            .filter(|list| (1..=most).contains(&list.len()));
        let tables = list.and_then(|list| list.iter().map(Value::as_object).collect());
        let Some(tables): Option<Vec<_>> = tables else {
            let wrong = Wrong::new(
                format!("`{key}` must be a list of tables, not {}", shown(value)),
                format!("write {key} = [{{ … }}], at most {most}"),
            );
            self.wrong(Some(key), wrong);
            return None;
        };
        let mut all = Vec::new();
        for (index, table) in tables.into_iter().enumerate() {
            let mut inner = Fields::new(table, self.policy);
            inner.path.clone_from(&self.path);
            inner.path.extend([key.to_owned(), index.to_string()]);
            all.extend(how(&mut inner));
            self.mistakes.append(&mut inner.finish());
        }
        Some(all)
    }

    /// The patterns of a key in a table of this one, as far as they are right: a second look at what
    /// is read, and found fault with, elsewhere.
    pub(crate) fn peek_patterns(&self, table: &str, key: &str) -> Vec<Pattern> {
        let value = self.table.get(table).and_then(|inner| inner.get(key));
        let texts = match value {
            Some(Value::Array(list)) => list.iter().filter_map(text_of).collect(),
            Some(value) => text_of(value).into_iter().collect(),
            None => Vec::new(),
        };
        let parsed = texts.into_iter().map(Pattern::parse);
        parsed.filter_map(Result::ok).collect()
    }

    /// Notes that a key that must be there is not.
    pub fn missing(&mut self, key: &'static str, help: impl Into<String>) {
        if !self.table.contains_key(key) {
            self.wrong(None, Wrong::new(format!("`{key}` is missing"), help));
        }
    }

    /// Notes a mistake under a key, or at the table itself.
    pub fn wrong(&mut self, key: Option<&str>, wrong: Wrong) {
        let mut path = self.path.clone();
        path.extend(key.map(str::to_owned));
        let Wrong { message, help } = wrong;
        self.mistakes.push(Mistake {
            policy: self.policy,
            key: path,
            message,
            help,
        });
    }

    /// Whether nothing was wrong so far.
    pub fn clean(&self) -> bool {
        self.mistakes.is_empty()
    }

    /// Ends the reading: every key that nobody asked for is a mistake too.
    pub fn finish(mut self) -> Vec<Mistake> {
        let table = self.table;
        for key in table
            .keys()
            .filter(|key| !self.known.contains(&key.as_str()))
        {
            let help = match nearest(key, &self.known) {
                Some(known) => format!("did you mean `{known}`?"),
                None => format!("known keys here: {}", self.known.join(", ")),
            };
            let shown: String = key.chars().take(40).collect();
            let message = format!("unknown key {shown:?}");
            let mut path = self.path.clone();
            path.push(key.clone());
            self.mistakes.push(Mistake {
                policy: self.policy,
                key: path,
                message,
                help: Some(help),
            });
        }
        self.mistakes
    }

    fn unit<T: FromStr<Err = UnitError>>(
        &mut self,
        key: &'static str,
        what: &str,
        example: &str,
    ) -> Option<T> {
        self.read(key, |value| match text_of(value) {
            Some(text) => text.parse().map_err(|error: UnitError| {
                Wrong::new(
                    format!("`{key}` must be {what}: {}", error.message),
                    error.help,
                )
            }),
            None => Err(Wrong::new(
                format!("`{key}` must be {what}, not {}", shown(value)),
                format!("write {example}"),
            )),
        })
    }
}

/// A value as a message may show it: its JSON (escaped by nature), cut.
pub(crate) fn shown(value: &Value) -> String {
    match value {
        Value::Object(_) => "a table".into(),
        Value::Array(list) if list.is_empty() => "an empty list".into(),
        Value::Array(_) => "a list".into(),
        Value::String(text) => {
            let cut: String = text.chars().take(40).collect();
            format!("{cut:?}{}", if cut.len() < text.len() { "…" } else { "" })
        }
        other => other.to_string(),
    }
}

/// The known word nearest to a mistyped one, if any is near enough.
pub(crate) fn nearest<'k>(word: &str, known: &[&'k str]) -> Option<&'k str> {
    let word = word
        .get(..word.len().min(64))?
        .to_ascii_lowercase()
        .replace('_', "-");
    known
        .iter()
        .map(|candidate| (distance(&word, candidate), *candidate))
        .filter(|(distance, candidate)| *distance <= 1 + candidate.len() / 4)
        .min()
        .map(|(_, candidate)| candidate)
}

fn text_of(value: &Value) -> Option<&str> {
    value.as_str()
}

/// Edits between two short words: insertions, deletions, replacements.
fn distance(a: &str, b: &str) -> usize {
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, left) in a.bytes().enumerate() {
        let mut diagonal = i;
        let mut last = i + 1;
        for (cell, right) in row.iter_mut().skip(1).zip(b.bytes()) {
            let best = (diagonal + usize::from(left != right))
                .min(last + 1)
                .min(*cell + 1);
            diagonal = *cell;
            *cell = best;
            last = best;
        }
        if let Some(first) = row.first_mut() {
            *first = i + 1;
        }
    }
    row.last().copied().unwrap_or(a.len())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn read(value: &Value, how: impl FnOnce(&mut Fields<'_>)) -> Vec<Mistake> {
        let mut fields = Fields::new(value.as_object().expect("a table"), 3);
        how(&mut fields);
        fields.finish()
    }

    #[test]
    fn an_unknown_key_is_matched_to_the_nearest_known_one() {
        let mistakes = read(&json!({"alow": "60/min", "zzzzzzzz": 1}), |fields| {
            fields.allowance("allow");
            fields.integer("burst", 1..=5);
        });
        assert_eq!(mistakes.len(), 2);
        assert_eq!(mistakes[0].help.as_deref(), Some("did you mean `allow`?"));
        assert_eq!(
            (mistakes[0].policy, mistakes[0].key.as_slice()),
            (3, &["alow".to_owned()][..])
        );
        assert_eq!(
            mistakes[1].help.as_deref(),
            Some("known keys here: allow, burst")
        );
    }

    #[test]
    fn every_mistake_of_a_table_is_found_at_once() {
        let mistakes = read(
            &json!({"allow": 60, "burst": 0, "exceed": {"wait": "5"}}),
            |fields| {
                fields.allowance("allow");
                fields.integer("burst", 1..=5);
                fields.table("exceed", |exceed| exceed.span("wait"));
            },
        );
        let keys: Vec<String> = mistakes
            .iter()
            .map(|mistake| mistake.key.join("."))
            .collect();
        assert_eq!(keys, ["allow", "burst", "exceed.wait"]);
        assert!(mistakes.iter().all(|mistake| mistake.help.is_some()));
    }

    #[test]
    fn an_underscore_for_a_dash_is_understood_as_a_slip() {
        assert_eq!(nearest("at_most", &["at-most", "per"]), Some("at-most"));
        assert_eq!(nearest("é", &["at-most", "per"]), None);
    }

    #[test]
    fn hostile_texts_are_shown_escaped() {
        let mistakes = read(
            &json!({"mode": "\u{1b}[2J\r\nok", "\u{1b}x": 1}),
            |fields| {
                fields.choice("mode", &[("enforce", 1)]);
            },
        );
        for mistake in mistakes {
            assert!(
                !mistake.message.chars().any(char::is_control),
                "{mistake:?}"
            );
        }
    }
}
