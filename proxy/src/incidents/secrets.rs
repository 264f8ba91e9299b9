//! What a server was given in confidence, taken out of what it said before any of it is kept.
//!
//! Two nets: the values of the server's own environment, to the letter, and whatever looks like a
//! credential. What is masked is gone; nothing here can bring it back, and nothing prints a value.

use std::fmt;

use chillgate_policies::audit::redact::{MASK, secrets_in};

use crate::config::userinfo;

/// Shorter values are found in ordinary words and are no secrets.
const SHORTEST: usize = 4;
/// The same of what is only a part of a value.
const SHORTEST_PART: usize = 6;
/// A line that was cut may end within a secret.
const CUT: usize = 500;

/// Values that must not be kept.
#[derive(Clone, Default)]
pub struct Secrets(Vec<String>);

impl Secrets {
    /// These values, and each longer line of those that have several. A value that is the path of
    /// something here is none, nor is a number of at most five digits, such as a port: what broke is
    /// often named by it. The password of a URL is one by itself as well, and a value that JSON spells
    /// otherwise is there in that spelling too.
    pub fn new<'a>(values: impl IntoIterator<Item = &'a str>) -> Self {
        let mut all: Vec<String> = values
            .into_iter()
            .filter(|value| !(value.starts_with('/') && std::path::Path::new(value).exists()))
            .flat_map(|value| value.lines().chain([value]))
            .map(str::trim)
            .filter(|part| part.len() >= SHORTEST && !is_small_number(part))
            .flat_map(|part| {
                // A client is told a URL and repeats of it what it likes.
                let passwords = userinfo::passwords(part).filter(|it| it.len() >= SHORTEST_PART);
                [part].into_iter().chain(passwords)
            })
            .flat_map(|part| [part.to_owned(), as_json(part)])
            .collect();
        // The longest first, so that no rest of one is left by another.
        all.sort_by(|a, b| b.len().cmp(&a.len()).then_with(|| a.cmp(b)));
        all.dedup();
        Self(all)
    }

    /// What stands in a URL in confidence: its password, and the values of its query.
    pub(super) fn of_url(url: &str) -> impl Iterator<Item = &str> {
        let all = userinfo::passwords(url).chain(userinfo::query_values(url));
        all.filter(|it| it.len() >= SHORTEST_PART)
    }

    /// The text without them.
    pub fn mask(&self, text: &str) -> String {
        let mut masked = text.to_owned();
        for secret in &self.0 {
            if masked.contains(secret.as_str()) {
                masked = masked.replace(secret.as_str(), MASK);
            }
        }
        secrets_in(&masked).into_owned()
    }

    /// The lines without them; several lines of one key may become one.
    pub fn mask_lines(&self, lines: &[String]) -> Vec<String> {
        let whole: Vec<&str> = lines.iter().map(|line| self.without_tail(line)).collect();
        let masked = self.mask(&whole.join("\n"));
        masked.lines().map(str::to_owned).collect()
    }

    /// A cut line without the beginning of a secret at its end.
    fn without_tail<'l>(&self, line: &'l str) -> &'l str {
        if line.len() < CUT {
            return line;
        }
        let begins = |secret: &String| {
            (SHORTEST..secret.len())
                .rev()
                .filter_map(|count| secret.get(..count))
                .find(|head| line.ends_with(*head))
                .map(str::len)
        };
        let cut = self.0.iter().filter_map(begins).max().unwrap_or_default();
        line.get(..line.len() - cut).unwrap_or(line)
    }
}

impl fmt::Debug for Secrets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Secrets({})", self.0.len())
    }
}

/// As it stands within a string of JSON.
fn as_json(text: &str) -> String {
    let quoted = serde_json::Value::from(text).to_string();
    let inner = quoted.strip_prefix('"').and_then(|it| it.strip_suffix('"'));
    inner.unwrap_or_default().to_owned()
}

fn is_small_number(text: &str) -> bool {
    text.len() <= 5 && text.bytes().all(|byte| byte.is_ascii_digit())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_of_the_environment_are_masked_to_the_letter() {
        let secrets = Secrets::new([
            "hunter22",
            "hunter22-and-more",
            "on",
            "/",
            "first line\nsecond line",
            "8080",
        ]);
        assert!(secrets.mask("EADDRINUSE: :::8080").ends_with("8080"));
        let said = "login as me with hunter22-and-more on / then hunter22; first line; second line";
        let masked = secrets.mask(said);
        assert!(
            !masked.contains("hunter22") && !masked.contains("and-more"),
            "{masked}"
        );
        assert!(
            !masked.contains("first line") && !masked.contains("second line"),
            "{masked}"
        );
        assert!(masked.contains(" on / then "), "{masked}");
        assert!(!format!("{secrets:?}").contains("hunter"));
    }

    #[test]
    fn the_password_of_a_url_is_a_secret_by_itself() {
        let secrets = Secrets::new([
            "postgres://postgres:Zq9planted@host/database",
            "https://someone@host/",
            "redis://me:short@host",
        ]);
        let said = "no login of postgres or someone at database with Zq9planted, short";
        assert_eq!(
            secrets.mask(said),
            "no login of postgres or someone at database with [redacted], short"
        );
        let url = "https://h/mcp?api_key=Zq9planted&v=1";
        assert_eq!(Secrets::of_url(url).collect::<Vec<_>>(), ["Zq9planted"]);
    }

    #[test]
    fn what_looks_like_a_credential_is_masked_as_well() {
        let none = Secrets::default();
        for (said, secret) in [
            ("token=abc12345", "abc12345"),
            ("Authorization: Bearer abcdefgh1", "abcdefgh1"),
            ("server --api-key q1w2e3", "q1w2e3"),
            ("password=hunter2", "hunter2"),
            ("GET https://me:pw1@host/x", "pw1"),
        ] {
            assert!(!none.mask(said).contains(secret), "{said}");
        }
        let lines = [
            "-----BEGIN PRIVATE KEY-----",
            "MIIEvQIBADANBg",
            "-----END PRIVATE KEY-----",
            "end",
        ];
        let lines = none.mask_lines(&lines.map(str::to_owned));
        assert!(
            !lines.join("\n").contains("MIIE") && lines.contains(&"end".to_owned()),
            "{lines:?}"
        );
    }

    #[test]
    fn a_value_is_masked_in_the_spelling_of_json_as_well() {
        let secrets = Secrets::new(["pa\"ss\\word-of-mine"]);
        let said = r#"{"message":"no pa\"ss\\word-of-mine"}"#;
        assert_eq!(secrets.mask(said), r#"{"message":"no [redacted]"}"#);
    }

    #[test]
    fn a_cut_line_keeps_no_beginning_of_a_secret() {
        let secrets = Secrets::new(["Zq9-planted-value"]);
        let line = format!("{}Zq9-plan", "x".repeat(CUT));
        let kept = secrets.mask_lines(&[line]).join("\n");
        assert!(kept.ends_with('x'), "{kept}");
    }
}
