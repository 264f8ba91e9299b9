//! Which failures are the same one: by the server, the phase, the way it ended, and the line that
//! tells most, without what differs from time to time.
//!
//! Only texts. It knows how Node, Python, npm, uv, the JVM, Go and docker say that they fail, and
//! judges nothing.

use std::sync::LazyLock;

use data_encoding::HEXLOWER;
use regex_lite::Regex;
use sha2::{Digest as _, Sha256};

use super::Phase;

/// The longest line that is kept, in bytes.
const LONGEST: usize = 240;

fn regex(pattern: &str) -> Regex {
    Regex::new(pattern).expect("the patterns of this file are legal")
}

/// Lines that never tell anything: frames, carets, what npm and Node add at the end.
static NOISE: LazyLock<Regex> = LazyLock::new(|| {
    regex(concat!(
        r"^\s*$|^\s+at\s|^\s*\^+\s*$|^\s*[~^]+\s*$|^Node\.js v\d|^node:internal|^\s*File \x22|^Traceback ",
        r"|^goroutine \d|^exit status \d+$|^\s*Require stack:|^\s*- /|^npm (?:notice|warn|WARN)",
        r"|^npm (?:ERR!|error)\s*$|^npm (?:ERR!|error) A complete log|debug-\d+\.log|^\s*\.\.\. \d+ more",
        r"|^See 'docker|^Run 'docker|^\s*[{}\]\[(),;]+\s*$|^\s*[\w$]+: .*,$|^During handling of|^The above exception",
        r"|^\s+hint:|^Usage: |^usage: |^For more information|^Thrown at:|^\[end of output\]",
    ))
});

/// Lines that name a failure in the manner of their language.
static STRONG: LazyLock<Regex> = LazyLock::new(|| {
    regex(concat!(
        r"^(?:Uncaught )?(?:[\w$]+[.:])*[\w$]*(?:Error|Exception|Exit|Interrupt)\b(?: \[[A-Z_]+\])?(?:: |$)",
        r"|^Exception in thread|^Caused by: |^panic: |^fatal error: |^FATAL ERROR: |^\s*(?:error|fatal|FATAL|ERROR|Error)(?:\[\w+\])?: ",
        r"|^docker: |^npm (?:ERR!|error) (?:code|404) |^<--- JS stacktrace|^thread '.*' panicked at",
        r"|^chillgate: |^\S+: error while loading|^\s*[×╰]",
    ))
});

/// Words that go with failures.
static WEAK: LazyLock<Regex> = LazyLock::new(|| {
    regex(
        r"(?i)error|fail|cannot|can't|could not|couldn't|unable|denied|refused|not found|no such|invalid|missing|required|fatal|panic|killed|abort|unauthori[sz]ed|timed? ?out|not set|unknown|unsupported",
    )
});

/// Compiles the expressions ahead of their first use.
pub(super) fn prepare() {
    telling_line(&["ready".to_owned()]);
    normalised("");
}

/// The line that tells most about a failure; of several the last, as in a chain of causes.
pub fn telling_line(words: &[String]) -> Option<&str> {
    let lines = || {
        let lines = words.iter().map(String::as_str);
        lines.filter(|line| !NOISE.is_match(line)).rev()
    };
    // npm says the code first and then a page about it.
    let npm = lines().find(|line| line.contains(" code E") && STRONG.is_match(line));
    npm.or_else(|| lines().find(|line| STRONG.is_match(line)))
        .or_else(|| lines().find(|line| WEAK.is_match(line)))
        .or_else(|| lines().next())
        .map(str::trim)
}

/// What differs from time to time, and what stands in its place.
static VARYING: LazyLock<Vec<(Regex, &'static str)>> = LazyLock::new(|| {
    [
        (r"\\u\{1b\}\[[0-9;]*m", ""),
        (r"(?i)\b[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}\b", "<id>"),
        (
            r"\b\d{4}[-/]\d\d[-/]\d\d(?:[T _]\d\d[:_]\d\d(?:[:_]\d\d(?:[.,_]\d+)?)?(?:Z|[+-]\d\d:?\d\d)?)?",
            "<time>",
        ),
        (r"\b\d\d:\d\d:\d\d(?:[.,]\d+)?\b", "<time>"),
        (r"(?:/private)?(?:/tmp|/var/tmp|/var/folders|/dev/shm|/run/user/\d+)/[^\s'\x22:,;)]+", "<tmp>"),
        (r"\b\d{1,3}(?:\.\d{1,3}){3}(?::\d+)?\b", "<address>"),
        (r"\b0x[0-9a-fA-F]+\b", "<hex>"),
        (r"\b(?:[0-9]+[a-f]|[a-f]+[0-9])[0-9a-f]{6,}\b", "<hex>"),
        (r"/proc/\d+", "/proc/<n>"),
        (r"\b\d+(?:\.\d+)*(?:ms|s|m|h|KB|MB|GB|KiB|MiB|GiB)?\b", "<n>"),
    ]
    .map(|(pattern, place)| (regex(pattern), place))
    .into()
});

/// The line without numbers, times, addresses, ids and temporary paths.
pub fn normalised(line: &str) -> String {
    let mut line = line.trim().to_owned();
    for (varying, place) in VARYING.iter() {
        if varying.is_match(&line) {
            line = varying.replace_all(&line, *place).into_owned();
        }
    }
    clipped(&line).to_owned()
}

/// The beginning of a text, whole characters.
pub fn clipped(text: &str) -> &str {
    text.get(..text.floor_char_boundary(LONGEST))
        .unwrap_or(text)
}

/// A text as it is shown: cut behind a word where it is too long, and it is said that it is cut.
pub fn shown(text: &str) -> String {
    let head = clipped(text);
    if head.len() == text.len() {
        return head.to_owned();
    }
    let room = head.floor_char_boundary(LONGEST - '…'.len_utf8());
    let head = head.get(..room).unwrap_or(head);
    // What has no spaces is cut where it must be.
    let word = head.rfind(char::is_whitespace);
    let word = word.filter(|end| *end > LONGEST / 2);
    let head = word.and_then(|end| head.get(..end)).unwrap_or(head);
    format!("{}…", head.trim_end())
}

/// The name of a pattern: eight hexadecimal digits that stay the same from run to run. What fails one
/// agent's process alone is a pattern of that agent's.
pub fn id(server: &str, agent: Option<&str>, phase: Phase, ended: &str, line: &str) -> String {
    let mut hash = Sha256::new();
    let parts = [server, phase.as_str(), ended, line];
    for part in parts.into_iter().chain(agent) {
        hash.update(part.len().to_le_bytes());
        hash.update(part.as_bytes());
    }
    HEXLOWER.encode(&hash.finalize()[..4])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(text: &str) -> String {
        let words: Vec<String> = text.lines().map(str::to_owned).collect();
        telling_line(&words).unwrap_or_default().to_owned()
    }

    #[test]
    fn the_line_that_tells_is_found_in_what_languages_say() {
        for (text, line) in [
            (
                "node:internal/modules/cjs/loader:1148\n  throw err;\n  ^\n\nError: Cannot find module 'nope'\nRequire stack:\n- /srv/a.js\n    at Module._resolveFilename (node:internal/modules/cjs/loader:1145:15)\n  code: 'MODULE_NOT_FOUND',\n  requireStack: [ '/srv/a.js' ]\n}\n\nNode.js v20.20.2",
                "Error: Cannot find module 'nope'",
            ),
            (
                "Traceback (most recent call last):\n  File \"<string>\", line 1, in <module>\n    import nope\nModuleNotFoundError: No module named 'nope'",
                "ModuleNotFoundError: No module named 'nope'",
            ),
            (
                "Traceback (most recent call last):\n  File \"a.py\", line 2\nKeyError: 'A'\n\nDuring handling of the above exception, another exception occurred:\n\nTraceback (most recent call last):\n  File \"a.py\", line 4\nRuntimeError: set A",
                "RuntimeError: set A",
            ),
            (
                "npm error code E404\nnpm error 404 Not Found - GET https://registry.example/nope - Not found\nnpm error 404  'nope@*' is not in this registry.\nnpm error A complete log of this run can be found in: /home/me/.npm/_logs/2026-11-22T09_11_02_123Z-debug-0.log",
                "npm error code E404",
            ),
            (
                "  × No solution found when resolving tool dependencies:\n  ╰─▶ Because nope was not found in the package registry, we can conclude that your requirements are unsatisfiable.",
                "╰─▶ Because nope was not found in the package registry, we can conclude that your requirements are unsatisfiable.",
            ),
            (
                "Exception in thread \"main\" java.lang.NoClassDefFoundError: com/acme/Main\n\tat java.base/java.lang.Class.forName0(Native Method)\nCaused by: java.lang.ClassNotFoundException: com.acme.Main\n\t... 2 more",
                "Caused by: java.lang.ClassNotFoundException: com.acme.Main",
            ),
            (
                "panic: open /etc/app.toml: no such file or directory\n\ngoroutine 1 [running]:\nmain.main()\n\t/src/main.go:12 +0x1d\nexit status 2",
                "panic: open /etc/app.toml: no such file or directory",
            ),
            (
                "docker: Cannot connect to the Docker daemon at unix:///var/run/docker.sock. Is the docker daemon running?.\nSee 'docker run --help'.",
                "docker: Cannot connect to the Docker daemon at unix:///var/run/docker.sock. Is the docker daemon running?.",
            ),
            (
                "starting\nlistening for nobody\nconfiguration is missing\nbye",
                "configuration is missing",
            ),
            ("hello\nbye", "bye"),
            ("", ""),
        ] {
            assert_eq!(told(text), line, "{text}");
        }
    }

    #[test]
    fn what_differs_from_time_to_time_makes_no_other_pattern() {
        for (one, other) in [
            ("bind 127.0.0.1:8080 failed", "bind 127.0.0.1:9090 failed"),
            (
                "[2026-11-01 09:30:00,123] lost pid 4711",
                "[2026-12-24T10:00:01Z] lost pid 17",
            ),
            (
                "cannot open /tmp/npx-8f3a/x.json",
                "cannot open /tmp/npx-77/y.json",
            ),
            ("at 0xdeadbeef after 30s", "at 0x1f after 5s"),
            (
                "session 123e4567-e89b-12d3-a456-426614174000",
                "session 99999999-e89b-12d3-a456-426614174abc",
            ),
            ("digest 3f2a9c1b77de", "digest 9a8b7c6d5e4f"),
        ] {
            assert_eq!(normalised(one), normalised(other));
        }
        assert_ne!(
            normalised("No module named 'a'"),
            normalised("No module named 'b'")
        );
        assert_eq!(normalised("npm error code E404"), "npm error code E404");
        assert_eq!(normalised(&"치".repeat(500)).len(), LONGEST);
    }

    #[test]
    fn what_is_too_long_is_cut_behind_a_word_and_says_so() {
        assert_eq!(shown("Error: short"), "Error: short");
        let text = "several words ".repeat(30);
        let cut = shown(&text);
        assert!(cut.len() <= LONGEST && cut.len() > LONGEST / 2, "{cut}");
        let words = cut.strip_suffix('…').expect("it is cut");
        assert!(
            words.ends_with("several") || words.ends_with("words"),
            "{cut}"
        );
        assert!(text.starts_with(words));
        let solid = shown(&"치".repeat(200));
        assert!(solid.len() <= LONGEST && solid.ends_with("치…"), "{solid}");
    }

    #[test]
    fn every_part_counts_and_the_name_is_short() {
        let base = id("a", None, Phase::Start, "exit code 1", "x");
        assert_eq!(base.len(), 8);
        assert_ne!(base, id("b", None, Phase::Start, "exit code 1", "x"));
        assert_ne!(base, id("a", None, Phase::Run, "exit code 1", "x"));
        assert_ne!(base, id("a", None, Phase::Start, "exit code 2", "x"));
        assert_ne!(base, id("a", None, Phase::Start, "exit code 1", "y"));
        assert_eq!(base, id("a", None, Phase::Start, "exit code 1", "x"));
        let of = |agent| id("a", Some(agent), Phase::Start, "exit code 1", "x");
        assert!(of("ann") != base && of("ann") != of("eve"));
    }
}
