//! `match = { agent, group, scope, server, method, tool }`: which calls a policy is about.
//!
//! Globs are compiled once; the common ones (a literal, `*`, `name_*`) are plain comparisons. Names
//! are compared byte by byte: no case folding, no normalisation, since servers do none either.

use std::sync::Arc;

use globset::{GlobBuilder, GlobMatcher};

use super::call::Call;
use super::fields::{Fields, Wrong};

/// Longest pattern in bytes.
const LONGEST: usize = 512;

/// One glob: `*` any text, `?` one character, `[a-z]`, `{a,b}`; `\` takes the next one literally.
#[derive(Clone, Debug)]
pub struct Pattern {
    text: Box<str>,
    form: Form,
}

#[derive(Clone, Debug)]
enum Form {
    Any,
    Literal,
    /// The text but its last byte, a `*`.
    Prefix,
    Glob(Box<GlobMatcher>),
}

impl Pattern {
    /// Compiles a pattern.
    ///
    /// # Errors
    /// When it is empty, longer than 512 bytes, or not a glob.
    pub fn parse(text: &str) -> Result<Self, Wrong> {
        const HELP: &str = "write a name or a glob such as \"files__write_*\"; `*` is any text";
        if text.is_empty() || text.len() > LONGEST {
            return Err(Wrong::new("a pattern has 1 to 512 bytes", HELP));
        }
        let meta = |c: char| matches!(c, '*' | '?' | '[' | ']' | '{' | '}' | '\\');
        let form = match text.find(meta) {
            None => Form::Literal,
            Some(0) if text == "*" => Form::Any,
            Some(at) if at + 1 == text.len() && text.ends_with('*') => Form::Prefix,
            Some(_) => {
                let glob = GlobBuilder::new(text)
                    .literal_separator(false)
                    .backslash_escape(true)
                    .build()
                    .map_err(|error| {
                        Wrong::new(format!("{text:?} is not a glob: {}", error.kind()), HELP)
                    })?;
                Form::Glob(Box::new(glob.compile_matcher()))
            }
        };
        Ok(Self {
            text: text.into(),
            form,
        })
    }

    /// The pattern as it was written.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// Whether it covers a name.
    pub fn matches(&self, name: &str) -> bool {
        match &self.form {
            Form::Any => true,
            Form::Literal => *self.text == *name,
            Form::Prefix => name.as_bytes().starts_with(self.prefix()),
            Form::Glob(glob) => glob.is_match(name),
        }
    }

    /// Whether it covers `server__target`, without building that text where it can be helped.
    fn matches_canonical(&self, server: &str, target: &str) -> bool {
        match &self.form {
            Form::Any => true,
            Form::Literal => {
                self.text
                    .strip_prefix(server)
                    .and_then(|rest| rest.strip_prefix("__"))
                    == Some(target)
            }
            Form::Prefix => {
                let name = server.bytes().chain(*b"__").chain(target.bytes());
                let prefix = self.prefix();
                name.take(prefix.len()).eq(prefix.iter().copied())
            }
            Form::Glob(glob) => glob.is_match(format!("{server}__{target}")),
        }
    }

    /// Whether it is written for a canonical name: what stands before its first `__` could be a
    /// server's name (`a-z`, `0-9`, `-`) or a glob over such names.
    fn is_canonical(&self) -> bool {
        self.text.split_once("__").is_some_and(|(server, _)| {
            let of_a_name = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
            let of_a_glob = |c: char| matches!(c, '*' | '?' | '[' | ']' | '{' | '}' | ',' | '!');
            !server.is_empty() && server.chars().all(|c| of_a_name(c) || of_a_glob(c))
        })
    }

    fn prefix(&self) -> &[u8] {
        self.text.strip_suffix('*').unwrap_or(&self.text).as_bytes()
    }
}

/// How patterns for tools, prompts and resources meet a call's target.
///
/// A pattern with a server's name before `__` means the canonical name (`files__write_*`); any
/// other means the name the server gave (`write_*`, `file:///etc/*`).
#[derive(Clone, Debug, Default)]
pub struct Names(Vec<Pattern>);

impl Names {
    /// Patterns for names.
    pub fn new(patterns: Vec<Pattern>) -> Self {
        Self(patterns)
    }

    /// Whether a pattern means this target of this server. A server cannot slip under a canonical
    /// pattern by giving its own tool another server's prefix.
    pub fn means(&self, server: &str, target: &str) -> bool {
        self.0.iter().any(|pattern| {
            if pattern.is_canonical() {
                pattern.matches_canonical(server, target)
            } else {
                pattern.matches(target)
            }
        })
    }

    /// The same read generously, either way for every pattern: for refusing, where a doubt must
    /// not let anything through.
    pub fn may_mean(&self, server: &str, target: &str) -> bool {
        self.0
            .iter()
            .any(|pattern| pattern.matches_canonical(server, target) || pattern.matches(target))
    }

    /// The patterns in a row, for `explain`.
    pub fn to_text(&self) -> String {
        joined(&self.0)
    }
}

/// The calls a policy is about. Keys that are absent cover everything.
#[derive(Clone, Debug, Default)]
pub struct Rule {
    agent: Option<Vec<Pattern>>,
    group: Option<Vec<Pattern>>,
    scope: Option<Vec<Pattern>>,
    server: Option<Vec<Pattern>>,
    method: Option<Vec<Pattern>>,
    tool: Option<Names>,
}

impl Rule {
    /// Reads `match`; absent is every call.
    pub fn read(fields: &mut Fields<'_>) -> Self {
        let read = fields.table("match", |inner| {
            Some(Self {
                agent: inner.patterns("agent"),
                group: inner.patterns("group"),
                scope: inner.patterns("scope"),
                server: inner.patterns("server"),
                method: inner.patterns("method"),
                tool: inner.patterns("tool").map(Names::new),
            })
        });
        read.unwrap_or_default()
    }

    /// Whether the call is one of them. `group` and `scope` cover who has any that fits. `tool` covers `tools/call` only; with `server` beside it a
    /// pattern is tried against the canonical name and the tool's own.
    pub fn matches(&self, call: &Call) -> bool {
        let any = |patterns: &Option<Vec<Pattern>>, name: &str| {
            patterns
                .as_ref()
                .is_none_or(|all| all.iter().any(|pattern| pattern.matches(name)))
        };
        let any_of = |patterns: &Option<Vec<Pattern>>, names: &[Arc<str>]| {
            patterns.is_none() || names.iter().any(|name| any(patterns, name))
        };
        any(&self.method, &call.method)
            && any(&self.server, &call.server)
            && any(&self.agent, &call.agent)
            && any_of(&self.group, &call.grants.groups)
            && any_of(&self.scope, &call.grants.scopes)
            && self.tool.as_ref().is_none_or(|names| {
                call.tool().is_some_and(|tool| {
                    if self.server.is_some() {
                        names.may_mean(&call.server, tool)
                    } else {
                        names.means(&call.server, tool)
                    }
                })
            })
    }

    /// The rule in words: `method tools/call, server files`, or `every call`.
    pub fn summary(&self) -> String {
        let mut parts = Vec::new();
        for (name, patterns) in [
            ("agent", &self.agent),
            ("group", &self.group),
            ("scope", &self.scope),
            ("server", &self.server),
            ("method", &self.method),
        ] {
            if let Some(patterns) = patterns {
                parts.push(format!("{name} {}", joined(patterns)));
            }
        }
        if let Some(names) = &self.tool {
            parts.push(format!("tool {}", names.to_text()));
        }
        if parts.is_empty() {
            "every call".into()
        } else {
            parts.join(", ")
        }
    }
}

fn joined(patterns: &[Pattern]) -> String {
    patterns
        .iter()
        .map(Pattern::as_str)
        .collect::<Vec<_>>()
        .join(" | ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::testing::{call, granted};
    use proptest::prelude::*;
    use serde_json::{Value, json};

    fn rule(of: &Value) -> Rule {
        let table = json!({ "match": of });
        let mut fields = Fields::new(table.as_object().expect("a table"), 0);
        let rule = Rule::read(&mut fields);
        assert_eq!(fields.finish(), []);
        rule
    }

    #[test]
    fn a_rule_covers_what_it_says() {
        for (of, agent, server, method, target, expected) in [
            (json!({}), "a", "files", "tools/call", "read", true),
            (
                json!({"agent": "a"}),
                "a",
                "files",
                "tools/call",
                "read",
                true,
            ),
            (
                json!({"agent": "a"}),
                "A",
                "files",
                "tools/call",
                "read",
                false,
            ),
            (
                json!({"agent": "intern-*"}),
                "intern-7",
                "files",
                "ping",
                "",
                true,
            ),
            (
                json!({"agent": ["x", "b?"]}),
                "b1",
                "files",
                "ping",
                "",
                true,
            ),
            (
                json!({"server": "files"}),
                "a",
                "files2",
                "tools/call",
                "read",
                false,
            ),
            (
                json!({"server": "files"}),
                "a",
                "*",
                "tools/list",
                "",
                false,
            ),
            (
                json!({"method": "tools/*"}),
                "a",
                "files",
                "tools/list",
                "",
                true,
            ),
            (
                json!({"tool": "read"}),
                "a",
                "files",
                "tools/call",
                "read",
                true,
            ),
            (
                json!({"tool": "files__read"}),
                "a",
                "files",
                "tools/call",
                "read",
                true,
            ),
            (
                json!({"tool": "files__read"}),
                "a",
                "other",
                "tools/call",
                "read",
                false,
            ),
            (
                json!({"tool": "files__read"}),
                "a",
                "other",
                "tools/call",
                "files__read",
                false,
            ),
            (
                json!({"tool": "files__r*"}),
                "a",
                "files",
                "tools/call",
                "read",
                true,
            ),
            (
                json!({"tool": "files__r*"}),
                "a",
                "file",
                "tools/call",
                "s__read",
                false,
            ),
            (
                json!({"tool": "f*s__{read,write}"}),
                "a",
                "files",
                "tools/call",
                "write",
                true,
            ),
            (
                json!({"tool": "read"}),
                "a",
                "files",
                "prompts/get",
                "read",
                false,
            ),
            (
                json!({"tool": "*"}),
                "a",
                "files",
                "prompts/get",
                "read",
                false,
            ),
            (
                json!({"tool": "get__x", "server": "s"}),
                "a",
                "s",
                "tools/call",
                "get__x",
                true,
            ),
            (
                json!({"tool": "my_tool__x"}),
                "a",
                "s",
                "tools/call",
                "my_tool__x",
                true,
            ),
            (
                json!({"tool": "read", "server": "files"}),
                "a",
                "files",
                "tools/call",
                "read",
                true,
            ),
            (
                json!({"tool": "a\\*b"}),
                "a",
                "s",
                "tools/call",
                "a*b",
                true,
            ),
            (
                json!({"tool": "a\\*b"}),
                "a",
                "s",
                "tools/call",
                "axb",
                false,
            ),
        ] {
            let call = call(
                agent,
                server,
                method,
                (!target.is_empty()).then_some(target),
            );
            assert_eq!(rule(&of).matches(&call), expected, "{of} on {call:?}");
        }
    }

    #[test]
    fn groups_and_scopes_cover_who_has_one_that_fits() {
        for (of, groups, scopes, expected) in [
            (
                json!({"group": "team-*"}),
                &["x", "team-a"][..],
                &[][..],
                true,
            ),
            (json!({"group": "team-*"}), &["x"], &["team-a"], false),
            (json!({"group": "*"}), &[], &[], false),
            (json!({"scope": "files:read"}), &[], &["files:read"], true),
            (
                json!({"scope": "files:read"}),
                &[],
                &["files:reader"],
                false,
            ),
            (json!({"scope": ["a", "b"]}), &[], &["b"], true),
            (json!({"scope": "a", "group": "g"}), &["g"], &["b"], false),
        ] {
            let call = granted(groups, scopes);
            assert_eq!(rule(&of).matches(&call), expected, "{of} on {call:?}");
        }
    }

    #[test]
    fn a_broken_glob_is_a_mistake_with_help() {
        for text in ["", "[a", "{a", &"x".repeat(513)] {
            let wrong = Pattern::parse(text).expect_err(text);
            assert!(wrong.help.is_some());
        }
    }

    proptest! {
        #[test]
        fn the_fast_forms_agree_with_the_glob_engine(
            text in "[a-c_]{0,6}\\*?", server in "[a-c]{1,3}", target in "[a-c_]{0,6}",
        ) {
            prop_assume!(!text.is_empty());
            let fast = Pattern::parse(&text).expect("a glob");
            let slow = globset::Glob::new(&text).expect("a glob").compile_matcher();
            prop_assert_eq!(fast.matches(&target), slow.is_match(&target));
            let canonical = format!("{server}__{target}");
            prop_assert_eq!(fast.matches_canonical(&server, &target), slow.is_match(&canonical));
        }
    }
}
