//! A `[[remedy]]` table: how a failure of a server is recognised, and what to do about it.
//!
//! The same words serve the user's own remedies and those shipped with chillgate. A pattern that
//! cannot be compiled is a mistake of the file, found when it is read. Nothing is matched here.

use std::fmt;

use regex_lite::{Regex, RegexBuilder};
use serde::de::{self, Deserializer, SeqAccess, Visitor};
use serde::{Deserialize, Serialize};

/// What to do about a failure that looks like this.
#[derive(Clone, Debug, Deserialize, PartialEq)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Remedy {
    /// Its name in answers, logs and lists.
    pub name: String,
    /// Which failures it is about.
    #[serde(rename = "match")]
    pub matches: Match,
    /// What to do, in plain words; `{1}` is what the first group of `text` found.
    pub says: String,
    /// What is looked at before servers are started, while such a failure is not behind us.
    #[serde(default)]
    pub check: Option<Check>,
}

/// Which failures a remedy is about: all that is given must fit.
#[derive(Clone, Debug, Default, Deserialize, PartialEq)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub struct Match {
    /// Servers, by name.
    #[serde(deserialize_with = "one_or_more")]
    pub server: Vec<String>,
    /// When it failed: `spawn`, `start`, `run`, `stop`, `remote`.
    #[serde(deserialize_with = "one_or_more")]
    pub phase: Vec<Phase>,
    /// Exit codes.
    #[serde(deserialize_with = "one_or_more")]
    pub exit: Vec<i32>,
    /// Signals, by number.
    #[serde(deserialize_with = "one_or_more")]
    pub signal: Vec<i32>,
    /// Whether the server has a sandbox.
    pub sandboxed: Option<bool>,
    /// Regular expressions over the cause and the last lines of stderr; one must be found.
    #[serde(deserialize_with = "one_or_more")]
    pub text: Vec<Pattern>,
}

/// When a server failed.
#[derive(Clone, Copy, Debug, Deserialize, Serialize, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[serde(rename_all = "kebab-case")]
pub enum Phase {
    /// The process could not be made.
    Spawn,
    /// It ended, or was silent, before it had answered the first words.
    Start,
    /// It ended or hung in service.
    Run,
    /// It did not end as it should.
    Stop,
    /// A server somewhere else could not be reached.
    Remote,
}

impl Phase {
    /// As in the configuration.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Spawn => "spawn",
            Self::Start => "start",
            Self::Run => "run",
            Self::Stop => "stop",
            Self::Remote => "remote",
        }
    }
}

/// One thing to look at without a side effect. Texts may hold `{1}`, as in `says`.
#[derive(Clone, Debug, Default, Deserialize, Serialize, PartialEq, Eq)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub struct Check {
    /// This program is there and may be run; looked for as the server would be.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub program: Option<String>,
    /// The server is given this variable.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub variable: Option<String>,
    /// Nobody listens on this port of the machine.
    #[serde(
        deserialize_with = "number_or_text",
        skip_serializing_if = "Option::is_none"
    )]
    pub port: Option<String>,
    /// The disk of the server's folder has room.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub disk: bool,
    /// This file can be read; JSON and TOML are parsed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub parses: Option<String>,
    /// This file or folder is there and can be read.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub readable: Option<String>,
    /// The last lines of this file do not have `text` in them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub log: Option<String>,
    /// The regular expression for `log`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub text: Option<Pattern>,
}

/// What is wrong with a remedy: the way to the key, the message, the help.
pub(crate) type Wrong = (&'static [&'static str], String, &'static str);

impl Remedy {
    /// What single values cannot show.
    pub(crate) fn mistakes(&self) -> Vec<Wrong> {
        let mut found: Vec<Wrong> = Vec::new();
        let legal = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
        if self.name.is_empty() || self.name.len() > 64 || !self.name.chars().all(legal) {
            found.push((
                &["name"],
                "a remedy's name is 1 to 64 letters, digits, `-`, `_` and `.`".to_owned(),
                "write name = \"vpn-is-down\"",
            ));
        }
        if self.says.trim().is_empty() {
            found.push((
                &["says"],
                "the remedy says nothing".to_owned(),
                "write says = \"connect to the VPN and call again\"",
            ));
        }
        if self.matches == Match::default() {
            found.push((
                &["match"],
                "the remedy would be for every failure of every server".to_owned(),
                "write match = { server = \"files\", text = \"no route to host\" }",
            ));
        }
        if let Some(check) = &self.check
            && let Err((message, help)) = check.sound()
        {
            found.push((&["check"], message, help));
        }
        found
    }
}

impl Check {
    /// Whether it is exactly one check.
    fn sound(&self) -> Result<(), (String, &'static str)> {
        let given = [
            self.program.is_some(),
            self.variable.is_some(),
            self.port.is_some(),
            self.disk,
            self.parses.is_some(),
            self.readable.is_some(),
            self.log.is_some(),
        ];
        let count = given.into_iter().filter(|given| *given).count();
        let help = "write check = { port = 8080 } or check = { log = \"/var/log/app.log\", text = \"fatal\" }";
        if count != 1 {
            return Err((format!("a check looks at one thing, not {count}"), help));
        }
        if self.log.is_some() != self.text.is_some() {
            return Err(("`log` and `text` belong together".to_owned(), help));
        }
        let port = self.port.as_deref().filter(|port| !port.contains('{'));
        if port.is_some_and(|port| port.parse::<u16>().map_or(true, |port| port == 0)) {
            return Err(("a port is from 1 to 65535".to_owned(), help));
        }
        Ok(())
    }
}

/// A regular expression; `^` and `$` are the ends of lines. It takes linear time, whatever is
/// matched.
#[derive(Clone, Deserialize)]
#[serde(try_from = "String")]
pub struct Pattern(Regex);

/// The largest compiled expression, in bytes.
const LARGEST: usize = 1 << 20;

impl Pattern {
    /// The compiled expression.
    pub fn regex(&self) -> &Regex {
        &self.0
    }
}

impl TryFrom<String> for Pattern {
    type Error = String;
    fn try_from(text: String) -> Result<Self, String> {
        let built = RegexBuilder::new(&text)
            .multi_line(true)
            .size_limit(LARGEST)
            .build();
        built.map(Self).map_err(|error| {
            let said = error.to_string();
            let last = said.lines().last().unwrap_or_default();
            let last = last.trim_start_matches("error: ");
            format!(
                "this is no regular expression: {last}\n\
                 write text = 'no route to host'; a plain `(`, `[`, `.` or `\\` has a `\\` before it"
            )
        })
    }
}

impl Serialize for Pattern {
    fn serialize<S: serde::Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(self.0.as_str())
    }
}

impl PartialEq for Pattern {
    fn eq(&self, other: &Self) -> bool {
        self.0.as_str() == other.0.as_str()
    }
}

impl Eq for Pattern {}

impl fmt::Debug for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.0.as_str())
    }
}

/// `"run"` or `["start", "run"]`.
fn one_or_more<'de, D: Deserializer<'de>, T: Deserialize<'de>>(
    from: D,
) -> Result<Vec<T>, D::Error> {
    struct Some<T>(std::marker::PhantomData<T>);
    impl<'de, T: Deserialize<'de>> Visitor<'de> for Some<T> {
        type Value = Vec<T>;
        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("one value or a list of them")
        }
        fn visit_str<E: de::Error>(self, text: &str) -> Result<Vec<T>, E> {
            T::deserialize(de::value::StrDeserializer::new(text)).map(|one| vec![one])
        }
        fn visit_i64<E: de::Error>(self, number: i64) -> Result<Vec<T>, E> {
            T::deserialize(de::value::I64Deserializer::new(number)).map(|one| vec![one])
        }
        fn visit_u64<E: de::Error>(self, number: u64) -> Result<Vec<T>, E> {
            T::deserialize(de::value::U64Deserializer::new(number)).map(|one| vec![one])
        }
        fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Vec<T>, A::Error> {
            let mut all = Vec::new();
            while let Option::Some(one) = list.next_element()? {
                all.push(one);
            }
            Ok(all)
        }
    }
    from.deserialize_any(Some(std::marker::PhantomData))
}

/// `8080` or `"{1}"`.
fn number_or_text<'de, D: Deserializer<'de>>(from: D) -> Result<Option<String>, D::Error> {
    struct Either;
    impl Visitor<'_> for Either {
        type Value = Option<String>;
        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a whole number from 0")
        }
        fn visit_str<E: de::Error>(self, text: &str) -> Result<Self::Value, E> {
            Ok(Some(text.to_owned()))
        }
        fn visit_i64<E: de::Error>(self, number: i64) -> Result<Self::Value, E> {
            Ok(Some(number.to_string()))
        }
        fn visit_u64<E: de::Error>(self, number: u64) -> Result<Self::Value, E> {
            Ok(Some(number.to_string()))
        }
    }
    from.deserialize_any(Either)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Remedy, String> {
        toml_edit::de::from_str(text).map_err(|error| error.to_string())
    }

    #[test]
    fn one_value_or_a_list_of_them() {
        let remedy = read(
            "name = \"a\"\nsays = \"b\"\nmatch = { phase = \"run\", exit = 3, signal = [9, 15], \
             text = 'x(\\d+)' }\ncheck = { port = 8080 }",
        );
        let remedy = remedy.expect("a remedy");
        assert_eq!(remedy.matches.phase, [Phase::Run]);
        assert_eq!(
            (remedy.matches.exit, remedy.matches.signal),
            (vec![3], vec![9, 15])
        );
        assert_eq!(
            remedy.check.and_then(|check| check.port).as_deref(),
            Some("8080")
        );
    }

    #[test]
    fn a_bad_expression_says_what_is_wrong_with_it() {
        let error =
            read("name = \"a\"\nsays = \"b\"\nmatch = { text = 'a(b' }").expect_err("no regex");
        assert!(
            error.contains("no regular expression: found open group"),
            "{error}"
        );
    }

    #[test]
    fn what_single_values_cannot_show_is_told() {
        let of = |text: &str| {
            let found = read(text).expect("it can be read").mistakes();
            found
                .into_iter()
                .map(|(at, ..)| at.join("."))
                .collect::<Vec<_>>()
        };
        assert_eq!(
            of("name = \"a b\"\nsays = \" \"\nmatch = {}"),
            ["name", "says", "match"]
        );
        for (check, bad) in [
            ("{}", true),
            ("{ disk = true }", false),
            ("{ disk = true, port = 1 }", true),
            ("{ port = 0 }", true),
            ("{ port = \"{1}\" }", false),
            ("{ log = \"/x\" }", true),
            ("{ log = \"/x\", text = 'y' }", false),
        ] {
            let text =
                format!("name = \"a\"\nsays = \"b\"\nmatch = {{ exit = 1 }}\ncheck = {check}");
            assert_eq!(!of(&text).is_empty(), bad, "{check}");
        }
    }
}
