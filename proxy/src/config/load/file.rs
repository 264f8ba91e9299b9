//! A configuration file's text, and what to say when there is none or it is no TOML.
//!
//! Bounded and read once. Nothing here looks at what the text configures.

use std::io::Read as _;
use std::path::Path;

/// The largest configuration file.
const LARGEST: u64 = 1 << 20;

/// The whole text, or why it cannot be had and what to do.
pub(super) fn read_file(path: &Path) -> Result<String, (String, &'static str)> {
    let failed = |error: std::io::Error| {
        let help = match error.kind() {
            std::io::ErrorKind::NotFound => "write --config and the path of a file that exists",
            std::io::ErrorKind::PermissionDenied => "let the user chillgate runs as read the file",
            _ => "write --config and the path of a TOML file",
        };
        (format!("cannot read the configuration: {error}"), help)
    };
    let file = std::fs::File::open(path).map_err(failed)?;
    let mut bytes = Vec::new();
    file.take(LARGEST + 1)
        .read_to_end(&mut bytes)
        .map_err(failed)?;
    if bytes.len() as u64 > LARGEST {
        return Err((
            "the configuration is larger than 1 MiB".to_owned(),
            "write --config and the path of a TOML file",
        ));
    }
    String::from_utf8(bytes).map_err(|error| {
        let valid = error.utf8_error().valid_up_to();
        let lines = error
            .as_bytes()
            .iter()
            .take(valid)
            .filter(|byte| **byte == b'\n')
            .count();
        (
            format!("line {} is not valid UTF-8", lines + 1),
            "save the file as UTF-8",
        )
    })
}

/// A syntax error in one line of ours, and what to write where that can be told.
pub(super) fn syntax(message: &str, text: &str, at: usize) -> (String, Option<String>) {
    let mut lines = message.lines();
    let first = lines.next().unwrap_or("invalid TOML").trim();
    let expected = lines.find_map(|line| line.trim().strip_prefix("expected "));
    if first.starts_with("duplicate key") {
        let help = "keep one of the two; a list of tables is written [[policy]]";
        return (first.to_owned(), Some(help.to_owned()));
    }
    if first.starts_with("number too") {
        let help = format!("whole numbers go from {} to {}", i64::MIN, i64::MAX);
        return ("this number is out of range".to_owned(), Some(help));
    }
    let here = text.get(..at).map_or("", |before| {
        let from = before.rfind('\n').map_or(0, |line| line + 1);
        text.get(from..).unwrap_or_default()
    });
    let here = here.lines().next().unwrap_or_default();
    let bare = here
        .split_once('=')
        .map(|(key, value)| (key.trim(), value.trim()));
    let help = match bare {
        Some((key, value))
            if !key.is_empty()
                && !value.is_empty()
                && value.starts_with(|c: char| c.is_alphanumeric() || c == '/')
                && !value.contains(['"', '\'']) =>
        {
            Some(format!("write {key} = \"{value}\": text stands in quotes"))
        }
        _ => expected.map(|expected| format!("expected {expected}")),
    };
    (format!("{first}: this is not TOML"), help)
}
