//! Members that only a case-insensitive parser takes for a known one.
//!
//! Some JSON libraries match member names without regard to case, so `Method` beside `method` is a
//! second message hidden in the first (CVE-2026-27896). Such names are refused, never renamed.

/// The envelope's own members.
pub(crate) const ENVELOPE: &[&str] = &["jsonrpc", "id", "method", "params", "result", "error"];

/// Members of `params` that decide what a message does or where it goes.
pub(crate) const PARAMS: &[&str] = &[
    "name",
    "uri",
    "arguments",
    "_meta",
    "requestId",
    "progressToken",
    "cursor",
    "ref",
    "level",
    "taskId",
    "requestState",
    "inputResponses",
];

/// Members of `params._meta` that do.
pub(crate) const META: &[&str] = &[
    "progressToken",
    "io.modelcontextprotocol/protocolVersion",
    "io.modelcontextprotocol/clientCapabilities",
    "io.modelcontextprotocol/clientInfo",
    "io.modelcontextprotocol/logLevel",
];

/// Whether `key` differs from one of `known` by case alone. An exact match is not a lookalike.
pub(crate) fn is_lookalike(key: &[u8], known: &[&str]) -> bool {
    if key.is_ascii() {
        return known
            .iter()
            .any(|name| key.eq_ignore_ascii_case(name.as_bytes()) && key != name.as_bytes());
    }
    let Ok(key) = std::str::from_utf8(key) else {
        return false;
    };
    known.iter().any(|name| {
        key.chars()
            .map(folded)
            .eq(name.chars().map(|c| c.to_ascii_lowercase()))
    })
}

/// The ASCII letter a case-insensitive comparison may reduce `c` to. Unicode simple folding maps
/// two signs onto ASCII letters; the two Turkish i's follow in the libraries that fold by
/// upper-casing and lower-casing single characters.
fn folded(c: char) -> char {
    match c {
        '\u{17f}' => 's',
        '\u{212a}' => 'k',
        '\u{130}' | '\u{131}' => 'i',
        other => other.to_ascii_lowercase(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_spelt_exactly_or_differently_passes() {
        for key in ["method", "x-method", "methods", "metho", "mé", "", "naïve"] {
            assert!(!is_lookalike(key.as_bytes(), ENVELOPE), "{key}");
        }
    }

    #[test]
    fn a_name_that_folds_to_a_known_one_does_not() {
        for key in [
            "Method",
            "METHOD",
            "Id",
            "param\u{17f}",
            "re\u{17f}ult",
            "\u{131}d",
            "\u{130}d",
        ] {
            assert!(is_lookalike(key.as_bytes(), ENVELOPE), "{key}");
        }
        assert!(is_lookalike("progressTo\u{212a}en".as_bytes(), PARAMS));
        assert!(is_lookalike(b"requestid", PARAMS));
    }
}
