//! A kind of policy: its name, its place, its keys, and how a table becomes a policy.
//!
//! What `KINDS` holds. Documentation, schema and `explain` read the same lines that the parser
//! obeys, so they cannot drift apart.

use std::sync::Arc;

use serde_json::Value;
use sha2::{Digest, Sha256};

use super::fields::{Fields, Wrong, nearest};
use super::policy::{Answer, Policy, Stage};
use super::rule::Rule;
use super::schedule;
use super::services::Services;

/// A kind of policy.
#[derive(Debug)]
pub struct Kind {
    /// `type` in TOML, label in metrics.
    pub name: &'static str,
    /// Place of its policies in the order.
    pub stage: Stage,
    /// What it does, in one line.
    pub about: &'static str,
    /// The keys of its own, beside [`COMMON_KEYS`].
    pub keys: &'static [KeyDoc],
    /// Whether only the first of its policies that matches a call is asked.
    pub once: bool,
    /// Makes the policy. Mistakes are noted in the fields; `None` only if there was one.
    #[expect(
        clippy::type_complexity,
        reason = "one signature, spelled where it is documented"
    )]
    pub build: fn(&mut Fields<'_>, &Arc<str>, &Services) -> Option<Arc<dyn Policy>>,
}

/// One key of a policy's table, as documentation shows it.
#[derive(Clone, Copy, Debug)]
pub struct KeyDoc {
    /// Its name.
    pub name: &'static str,
    /// What to write, e.g. `"60/min"`.
    pub shape: &'static str,
    /// What it means, with its default.
    pub about: &'static str,
}

impl KeyDoc {
    /// One line of documentation.
    pub const fn new(name: &'static str, shape: &'static str, about: &'static str) -> Self {
        Self { name, shape, about }
    }
}

/// The keys every policy has.
pub const COMMON_KEYS: &[KeyDoc] = &[
    KeyDoc::new("type", "\"quota\"", "the kind of policy"),
    KeyDoc::new(
        "name",
        "\"per-agent\"",
        "identifies its counters across reloads; default: the type and a hash of match and per",
    ),
    KeyDoc::new(
        "mode",
        "\"enforce\" | \"shadow\"",
        "shadow counts what it would do and lets the call pass; default enforce",
    ),
    KeyDoc::new(
        "match",
        "{ agent, server, method, tool }",
        "which calls it is about, each a glob or a list of globs; default every call",
    ),
    KeyDoc::new(
        "answer",
        "\"error\" | \"http-429\" | \"tool-error\"",
        "how a refusal is shown to the host; default error",
    ),
    KeyDoc::new(
        "schedule",
        "[{ at = \"Mon-Fri 09:00-18:00\", in = \"Asia/Seoul\", … }]",
        "other values in these hours, the first that fits; in: default UTC",
    ),
];

/// Whether a policy acts or only counts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Mode {
    /// Its verdicts hold.
    #[default]
    Enforce,
    /// Its verdicts are counted, every call passes.
    Shadow,
}

impl Mode {
    /// The mode in one word.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Enforce => "enforce",
            Self::Shadow => "shadow",
        }
    }
}

/// The part of a table that is read the same way for every kind.
#[derive(Debug)]
pub(crate) struct Common {
    pub(crate) name: Arc<str>,
    pub(crate) mode: Mode,
    pub(crate) rule: Rule,
    pub(crate) answer: Answer,
}

impl Common {
    /// Reads the common keys of a table of kind `kind`.
    pub(crate) fn read(fields: &mut Fields<'_>, kind: &str) -> Self {
        fields.value("type");
        fields.value(schedule::KEY);
        let matched = fields.value("match");
        let per = fields.value("per");
        let name = fields.read("name", |value| {
            value
                .as_str()
                .filter(|name| is_name(name))
                .map(Arc::from)
                .ok_or_else(|| {
                    Wrong::new(
                        "a policy's name has 1 to 64 letters, digits, `-`, `_` or `.`",
                        "write name = \"per-agent\"",
                    )
                })
        });
        let modes = [("enforce", Mode::Enforce), ("shadow", Mode::Shadow)];
        let answers = [
            ("error", Answer::Error),
            ("http-429", Answer::Http429),
            ("tool-error", Answer::ToolError),
        ];
        Self {
            name: name.unwrap_or_else(|| default_name(kind, matched, per)),
            mode: fields.choice("mode", &modes).unwrap_or_default(),
            rule: Rule::read(fields),
            answer: fields.choice("answer", &answers).unwrap_or_default(),
        }
    }
}

/// Finds a kind by its name.
///
/// # Errors
/// When there is none; the help names the nearest.
pub(crate) fn find(kinds: &'static [Kind], name: &Value) -> Result<&'static Kind, Wrong> {
    let names: Vec<&str> = kinds.iter().map(|kind| kind.name).collect();
    let text = name.as_str().unwrap_or_default();
    kinds.iter().find(|kind| kind.name == text).ok_or_else(|| {
        let help = match nearest(text, &names) {
            Some(known) => format!("did you mean \"{known}\"?"),
            None => format!("types are {}", names.join(", ")),
        };
        Wrong::new(
            format!("there is no policy of type {}", super::fields::shown(name)),
            help,
        )
    })
}

/// `quota-1f3a5c7e`: stable across reloads and machines as long as `match` and `per` say the same.
pub(crate) fn default_name(kind: &str, matched: Option<&Value>, per: Option<&Value>) -> Arc<str> {
    let mut text = String::new();
    for part in [matched, per] {
        spell(part.unwrap_or(&Value::Null), &mut text);
        text.push('\n');
    }
    let digest = Sha256::digest(text.as_bytes());
    let short = digest
        .iter()
        .take(4)
        .fold(0_u32, |short, byte| short << 8 | u32::from(*byte));
    format!("{kind}-{short:08x}").into()
}

/// Spells a value so that order of keys and `"x"` for `["x"]` make no difference.
fn spell(value: &Value, out: &mut String) {
    match value {
        Value::Object(table) => {
            let mut keys: Vec<&String> = table.keys().collect();
            keys.sort();
            for key in keys {
                out.push_str(&key.escape_debug().to_string());
                out.push('=');
                spell(&table[key.as_str()], out);
                out.push(';');
            }
        }
        Value::Array(list) => {
            let mut items: Vec<String> = list.iter().map(ToString::to_string).collect();
            items.sort();
            out.push_str(&items.join(","));
        }
        other => out.push_str(&other.to_string()),
    }
}

fn is_name(name: &str) -> bool {
    let legal = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    (1..=64).contains(&name.len()) && name.chars().all(legal)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_default_name_depends_on_what_is_said_and_not_on_how() {
        let name = |matched: Value, per: Value| default_name("quota", Some(&matched), Some(&per));
        let one = name(
            json!({"method": "tools/call", "server": "files"}),
            json!("agent"),
        );
        let same = name(
            json!({"server": ["files"], "method": "tools/call"}),
            json!(["agent"]),
        );
        let other = name(json!({"server": "files"}), json!("agent"));
        assert_eq!(one, same);
        assert_ne!(one, other);
        let tools = |tools: Value| name(json!({ "tool": tools }), json!(["tool", "agent"]));
        assert_eq!(tools(json!(["x", "y"])), tools(json!(["y", "x"])));
        assert_ne!(tools(json!(["x", "y"])), tools(json!(["x", "z"])));
        assert_eq!(one.len(), "quota-".len() + 8);
    }

    #[test]
    fn a_default_name_is_the_same_on_every_machine() {
        assert_eq!(&*default_name("quota", None, None), "quota-45307ca4");
    }
}
