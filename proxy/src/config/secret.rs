//! Text that is, or stands for, a secret: `file:/run/secrets/token`, `Bearer ${TOKEN}`.
//!
//! What is written in the configuration is not what is used: files are read when the value is
//! needed, so that a rotated secret is picked up by the next child or connection. Nothing here
//! ever prints a value, nor keeps one.

use std::fmt;
use std::io::Read;
use std::path::{Path, PathBuf};

use secrecy::SecretString;
use serde::Deserialize;

/// The largest secret read from a file.
const LARGEST: u64 = 64 << 10;

/// A value that may be `file:PATH` or hold `${NAME}` of the environment (`$${` is a plain `${`).
#[derive(Clone, Deserialize, PartialEq, Eq)]
#[serde(transparent)]
pub struct SecretText(String);

/// Why a secret could not be had. Never holds the secret.
#[derive(Debug, thiserror::Error)]
pub enum SecretError {
    /// A variable that is not set.
    #[error("the environment variable {0} is not set")]
    Unset(String),
    /// `${` without its `}`, or with a name no variable can have.
    #[error("`${{` without a variable name and `}}`; write `$${{` for a plain `${{`")]
    Spelling,
    /// A file that cannot be read.
    #[error("cannot read the secret file {}", .0.display())]
    File(PathBuf, #[source] std::io::Error),
    /// A file with nothing in it.
    #[error("the secret file {} is empty", .0.display())]
    Empty(PathBuf),
    /// More than a secret can be.
    #[error("the secret file {} is larger than 64 KiB", .0.display())]
    Large(PathBuf),
}

impl SecretText {
    /// The value as of now: the file read, the environment put in, one trailing line break cut
    /// off a file.
    pub fn resolve(&self) -> Result<SecretString, SecretError> {
        match self.file() {
            Some(path) => read(path).map(SecretString::from),
            None => expand(&self.0).map(SecretString::from),
        }
    }

    /// The secret of one agent, see [`for_agent`].
    pub fn of_agent(text: &str, agent: &str) -> Result<Self, String> {
        for_agent(text, agent).map(Self)
    }

    /// The file this value is read from, if it is one.
    pub fn file(&self) -> Option<&Path> {
        self.0.strip_prefix("file:").map(Path::new)
    }

    /// Whether it could be resolved as far as that is known without opening a file.
    pub(super) fn check(&self) -> Result<(), SecretError> {
        match self.file() {
            Some(_) => Ok(()),
            None => expand(&self.0).map(drop),
        }
    }
}

impl From<String> for SecretText {
    fn from(text: String) -> Self {
        Self(text)
    }
}

impl From<&str> for SecretText {
    fn from(text: &str) -> Self {
        Self(text.to_owned())
    }
}

impl fmt::Debug for SecretText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SecretText(…)")
    }
}

/// What stands for an agent's name where something is one agent's alone.
pub const AGENT: &str = "{agent}";
/// The same, as variables are named: `agent-a` is `AGENT_A`.
pub const AGENT_VARIABLE: &str = "{AGENT}";

/// `text` with an agent's name in the place of [`AGENT`] and [`AGENT_VARIABLE`].
///
/// # Errors
/// In words, where the name could mean another file or another agent's variable.
pub fn for_agent(text: &str, agent: &str) -> Result<String, String> {
    let refuse = |allowed: &str| {
        let agent = agent.escape_debug();
        Err(format!(
            "the agent `{agent}` cannot have one of its own: its name is not made of {allowed}"
        ))
    };
    let is_file = |c: char| c.is_ascii_alphanumeric() || "-_.@".contains(c);
    let is_sly = agent.starts_with(['.', '-']) || !agent.chars().all(is_file);
    if text.contains(AGENT) && is_sly {
        return refuse("letters, digits and `-_.@`, with a letter or digit first");
    }
    // Two agents must never be one variable, as `a-b` and `a_b` would.
    let is_variable = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    if text.contains(AGENT_VARIABLE) && !agent.chars().all(is_variable) {
        return refuse("`a-z`, digits and `-`");
    }
    let variable = agent.to_ascii_uppercase().replace('-', "_");
    Ok(text
        .replace(AGENT, agent)
        .replace(AGENT_VARIABLE, &variable))
}

/// `text` with every `${NAME}` replaced by that environment variable.
pub fn expand(text: &str) -> Result<String, SecretError> {
    expand_with(text, |name| std::env::var(name).ok())
}

fn expand_with(
    text: &str,
    variable: impl Fn(&str) -> Option<String>,
) -> Result<String, SecretError> {
    let mut whole = String::with_capacity(text.len());
    let mut rest = text;
    while let Some((before, after)) = rest.split_once("${") {
        if let Some(before) = before.strip_suffix('$') {
            whole.push_str(before);
            whole.push_str("${");
            rest = after;
            continue;
        }
        let (name, after) = after.split_once('}').ok_or(SecretError::Spelling)?;
        let legal = |c: char| c.is_ascii_alphanumeric() || c == '_';
        if name.is_empty() || !name.chars().all(legal) {
            return Err(SecretError::Spelling);
        }
        whole.push_str(before);
        whole.push_str(&variable(name).ok_or_else(|| SecretError::Unset(name.to_owned()))?);
        rest = after;
    }
    whole.push_str(rest);
    Ok(whole)
}

fn read(path: &Path) -> Result<String, SecretError> {
    // As it is for chillgate: a server may be started in another folder.
    let whole = || std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    let failed = |error| SecretError::File(whole(), error);
    let mut text = String::new();
    let file = std::fs::File::open(path).map_err(failed)?;
    file.take(LARGEST + 1)
        .read_to_string(&mut text)
        .map_err(failed)?;
    if text.len() as u64 > LARGEST {
        return Err(SecretError::Large(whole()));
    }
    if text.ends_with('\n') {
        text.pop();
        if text.ends_with('\r') {
            text.pop();
        }
    }
    if text.is_empty() {
        return Err(SecretError::Empty(whole()));
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use secrecy::ExposeSecret;

    fn expanded(text: &str) -> Result<String, String> {
        let variable = |name: &str| (name == "TOKEN").then(|| "s3cret".to_owned());
        expand_with(text, variable).map_err(|error| error.to_string())
    }

    #[test]
    fn variables_are_put_in_where_they_stand() {
        assert_eq!(
            expanded("Bearer ${TOKEN}!"),
            Ok("Bearer s3cret!".to_owned())
        );
        assert_eq!(expanded("${TOKEN}${TOKEN}"), Ok("s3crets3cret".to_owned()));
        assert_eq!(
            expanded("$TOKEN and $${TOKEN}"),
            Ok("$TOKEN and ${TOKEN}".to_owned())
        );
        assert_eq!(expanded(""), Ok(String::new()));
    }

    #[test]
    fn an_unset_variable_is_named() {
        assert!(expanded("${NOT_THERE}").is_err_and(|text| text.contains("NOT_THERE")));
        for text in ["${TOKEN", "${}", "${A-B}", "${${TOKEN}}"] {
            assert!(
                expanded(text).is_err_and(|error| error.contains("$${")),
                "{text}"
            );
        }
    }

    #[test]
    fn a_file_is_read_when_used_and_loses_one_line_break() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let path = dir.path().join("token");
        let secret = SecretText(format!("file:{}", path.display()));
        assert!(matches!(secret.resolve(), Err(SecretError::File(..))));
        for (written, read) in [
            ("one\n", "one"),
            ("two\r\n", "two"),
            ("a\n\n", "a\n"),
            ("b", "b"),
        ] {
            std::fs::write(&path, written).expect("writing");
            assert_eq!(secret.resolve().expect("readable").expose_secret(), read);
        }
        std::fs::write(&path, "\n").expect("writing");
        assert!(matches!(secret.resolve(), Err(SecretError::Empty(_))));
        std::fs::write(&path, "x".repeat(70_000)).expect("writing");
        assert!(matches!(secret.resolve(), Err(SecretError::Large(_))));
    }

    #[test]
    fn a_file_that_is_not_there_is_named_whole() {
        let error = read(Path::new("no/such/token")).expect_err("it is not there");
        let here = std::env::current_dir().expect("a working directory");
        let whole = here.join("no/such/token").display().to_string();
        assert!(error.to_string().ends_with(&format!(" {whole}")), "{error}");
    }

    #[test]
    fn an_agents_secret_is_never_anothers() {
        let of = |text: &str, agent: &str| SecretText::of_agent(text, agent).map(|it| it.0);
        let file = "file:/run/secrets/{agent}/token";
        assert_eq!(
            of(file, "a-1"),
            Ok("file:/run/secrets/a-1/token".to_owned())
        );
        assert_eq!(of("${KEY_{AGENT}}", "a-1"), Ok("${KEY_A_1}".to_owned()));
        assert_eq!(of("{agent}@{AGENT}", "a"), Ok("a@A".to_owned()));
        for sly in [
            "..", ".a", "a/b", "../b", "a\\b", "a b", "a\nb", "${HOME}", "{agent}", "ä", "a\0",
        ] {
            assert!(
                of(file, sly).is_err_and(|why| why.contains("agent")),
                "{sly:?}"
            );
            if sly != "-a" {
                assert!(of("${KEY_{AGENT}}", sly).is_err(), "{sly:?}");
            }
        }
        for alike in ["a_b", "A-B", "a.b", "a@b"] {
            assert!(of("${KEY_{AGENT}}", alike).is_err(), "{alike}");
        }
    }

    #[test]
    fn debug_never_shows_it() {
        assert!(!format!("{:?}", SecretText::from("hunter2")).contains("hunter2"));
    }
}
