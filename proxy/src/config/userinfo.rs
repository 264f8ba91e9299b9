//! Passwords in URLs, which no text of chillgate's shows.
//!
//! A URL with one is refused where chillgate itself would use it, and may stand in a server's command
//! all the same. This is the one place that knows where in a text they are; it decides nothing.

use std::ops::Range;

/// A text with as many dots in place of each such password.
pub(crate) fn masked(text: &str) -> String {
    let hidden = passwords(text);
    let masked = text.char_indices().map(|(at, c)| {
        if hidden.iter().any(|range| range.contains(&at)) {
            '•'
        } else {
            c
        }
    });
    masked.collect()
}

/// Where they are: what stands between `user:` and `@`, or all before `@` where that is one word.
pub(super) fn passwords(text: &str) -> Vec<Range<usize>> {
    text.match_indices("://")
        .filter_map(|(at, slashes)| password(text, at + slashes.len()))
        .collect()
}

fn password(text: &str, from: usize) -> Option<Range<usize>> {
    let url = text.get(from..)?;
    let is_end = |c: char| c.is_whitespace() || c.is_control() || "\"'<>".contains(c);
    let url = &url[..url.find(is_end).unwrap_or(url.len())];
    let host = url.find(['/', '?', '#']).unwrap_or(url.len());
    if let Some(end) = url[..host].rfind('@') {
        let begin = url[..end].find(':').map_or(0, |colon| colon + 1);
        return Some(from + begin..from + end);
    }
    // One that was not written as URLs want it has `/` in it; a port has not.
    let (begin, end) = (url[..host].find(':')? + 1, url.rfind('@')?);
    let is_port = url[begin..host].chars().all(|c| c.is_ascii_digit());
    (!is_port && begin < end).then_some(from + begin..from + end)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_password_is_dots_and_the_rest_stays() {
        for (text, wanted) in [
            (
                "url = \"http://me:pw@h:1/p\"",
                "url = \"http://me:••@h:1/p\"",
            ),
            ("https://token@h", "https://•••••@h"),
            (
                "a https://m:p@q@h b ftp://x:y@z",
                "a https://m:•••@h b ftp://x:•@z",
            ),
            ("http://me:p/w@h", "http://me:•••@h"),
            ("http://127.0.0.1:8080/a@b", "http://127.0.0.1:8080/a@b"),
            ("http://h/a@b c@d", "http://h/a@b c@d"),
            ("http://[::1]:80/", "http://[::1]:80/"),
            ("http://é:ü@h", "http://é:•@h"),
            ("://", "://"),
        ] {
            assert_eq!(masked(text), wanted);
        }
    }
}
