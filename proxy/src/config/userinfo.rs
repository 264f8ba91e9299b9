//! Passwords in URLs, and the values of their queries, which no text of chillgate's shows.
//!
//! A URL with a password is refused where chillgate itself would use it, and may stand in a server's
//! command all the same; a key in a query is how some servers want it. This is the one place that
//! knows where in a text they are; it decides nothing.

use std::ops::Range;

/// A text with as many dots in place of each of them.
pub(crate) fn masked(text: &str) -> String {
    let hidden = hidden(text);
    let masked = text.char_indices().map(|(at, c)| {
        if hidden.iter().any(|range| range.contains(&at)) {
            '•'
        } else {
            c
        }
    });
    masked.collect()
}

/// Where they are: what stands between `user:` and `@`, or all before `@` where that is one word; and
/// the values of a query, or all of one that is no `name=value`.
pub(super) fn hidden(text: &str) -> Vec<Range<usize>> {
    let urls = urls(text);
    urls.flat_map(|from| password(text, from).into_iter().chain(values(text, from)))
        .collect()
}

/// The passwords alone that stand behind a `user:`, as they are written.
pub(crate) fn passwords(text: &str) -> impl Iterator<Item = &str> {
    urls(text).filter_map(|from| {
        let found = password(text, from)?;
        // A single word before `@` may as well be the user's name.
        let is_behind_user = text.get(..found.start)?.ends_with(':');
        text.get(found).filter(|_| is_behind_user)
    })
}

/// The values alone of queries, as they are written.
pub(crate) fn query_values(text: &str) -> impl Iterator<Item = &str> {
    urls(text).flat_map(|from| values(text, from).filter_map(|range| text.get(range)))
}

/// Where URLs begin, behind their scheme.
fn urls(text: &str) -> impl Iterator<Item = usize> {
    text.match_indices("://")
        .map(|(at, slashes)| at + slashes.len())
}

/// The URL of which this is the place behind the scheme, up to where it cannot go on.
fn rest(text: &str, from: usize) -> &str {
    let url = text.get(from..).unwrap_or_default();
    let is_end = |c: char| c.is_whitespace() || c.is_control() || "\"'<>".contains(c);
    &url[..url.find(is_end).unwrap_or(url.len())]
}

fn values(text: &str, from: usize) -> impl Iterator<Item = Range<usize>> {
    let url = rest(text, from);
    let url = &url[..url.find('#').unwrap_or(url.len())];
    let begin = url.find('?').map_or(url.len(), |at| at + 1);
    let mut at = from + begin;
    url[begin..].split('&').filter_map(move |part| {
        let end = at + part.len();
        let value = at + part.find('=').map_or(0, |at| at + 1);
        at = end + 1;
        (value < end).then_some(value..end)
    })
}

fn password(text: &str, from: usize) -> Option<Range<usize>> {
    let url = rest(text, from);
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
            (
                "at http://h/mcp?api_key=SECRET&x=&team=a=b#top now?a=b",
                "at http://h/mcp?api_key=••••••&x=&team=•••#top now?a=b",
            ),
            ("http://h/mcp?SECRET", "http://h/mcp?••••••"),
            ("'http://u:p@h?k=v&' y", "'http://u:•@h?k=•&' y"),
            ("http://é:ü@h", "http://é:•@h"),
            ("://", "://"),
        ] {
            assert_eq!(masked(text), wanted);
        }
    }

    #[test]
    fn what_is_a_secret_by_itself_is_no_name_of_a_user() {
        let of = |text| passwords(text).collect::<Vec<_>>();
        assert_eq!(of("postgres://bob:pass:word@h/db?x=y"), ["pass:word"]);
        assert_eq!(of("a://postgres@h b://bob:@h c://h:80/"), [""]);
        let of = |text| query_values(text).collect::<Vec<_>>();
        assert_eq!(of("http://h/?a=1&b&c=2#d=3 e://h/f=4"), ["1", "b", "2"]);
    }
}
