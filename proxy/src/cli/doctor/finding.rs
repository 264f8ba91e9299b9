//! What the doctor says: findings in blocks, for eyes or for programs.
//!
//! Words and layout only; what is wrong is decided by those who look.

use std::fmt::Write as _;

use serde::Serialize;

/// How good or bad a finding is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Level {
    /// As it should be.
    Ok,
    /// It works, and somebody should look at it.
    Warn,
    /// It does not work.
    Fail,
}

/// One sentence, and what to do about it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(super) struct Finding {
    pub(super) level: Level,
    pub(super) text: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) help: Option<String>,
}

impl Finding {
    pub(super) fn ok(text: impl Into<String>) -> Self {
        Self {
            level: Level::Ok,
            text: text.into(),
            help: None,
        }
    }

    pub(super) fn warn(text: impl Into<String>, help: impl Into<String>) -> Self {
        Self {
            level: Level::Warn,
            help: Some(help.into()),
            ..Self::ok(text)
        }
    }

    pub(super) fn fail(text: impl Into<String>, help: Option<String>) -> Self {
        Self {
            level: Level::Fail,
            help,
            ..Self::ok(text)
        }
    }
}

/// The worst of these.
pub(super) fn worst(findings: &[Finding]) -> Level {
    let levels = findings.iter().map(|finding| finding.level);
    levels.max().unwrap_or(Level::Ok)
}

/// A block for eyes: its head, a line a finding, what to do below it.
pub(super) fn block(head: &str, findings: &[Finding]) -> String {
    let mut out = format!("{head}: {}\n", word(worst(findings)).trim_end());
    for Finding { level, text, help } in findings {
        // Writing to a `String` cannot fail.
        let text = text.trim_end().replace('\n', "\n        ");
        let _ = writeln!(out, "  {}  {text}", word(*level));
        if let Some(help) = help {
            let _ = writeln!(out, "        -> {}", help.replace('\n', "\n           "));
        }
    }
    out
}

fn word(level: Level) -> &'static str {
    match level {
        Level::Ok => "ok  ",
        Level::Warn => "warn",
        Level::Fail => "FAIL",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_block_is_as_bad_as_its_worst_finding() {
        let findings = [
            Finding::ok("it runs"),
            Finding::fail("it is silent", Some("start it by hand".to_owned())),
            Finding::warn("it is slow", "wait"),
        ];
        assert_eq!(
            block("server a", &findings),
            "server a: FAIL\n  ok    it runs\n  FAIL  it is silent\n        -> start it by hand\n\
             \x20 warn  it is slow\n        -> wait\n"
        );
        assert_eq!(block("rest", &[]), "rest: ok\n");
    }
}
