//! Redaction: what must not reach an audit log, found by the name it stands under or its looks.
//!
//! Pure text work, apart from the policy so that the corpus of its tests stands beside it. It errs
//! towards masking: a harmless word lost is cheaper than a key kept. Only a sentence that follows a
//! name and a colon is left to be read (`TOKEN: cannot read the file`). What has been masked once is
//! left as it is. It promises nothing about secrets that look like ordinary words.

use std::borrow::Cow;
use std::ops::Range;

use serde_json::Value;

/// What stands in a secret's place.
pub const MASK: &str = "[redacted]";
/// Longest text that [`personal`] leaves whole, in bytes.
const LONGEST_TEXT: usize = 256;

/// Masks secrets in a value: everything under a telling name, and telling text anywhere.
pub(super) fn secrets(value: &mut Value) {
    match value {
        Value::Object(table) => {
            let mut renamed = Vec::new();
            for (key, inner) in table.iter_mut() {
                if is_telling(key) && !is_count(key, inner) && !inner.is_null() {
                    *inner = MASK.into();
                } else {
                    secrets(inner);
                }
                if let Cow::Owned(masked) = secrets_in(key) {
                    renamed.push((key.clone(), masked));
                }
            }
            for (key, masked) in renamed {
                if let Some(inner) = table.remove(&key) {
                    table.insert(masked, inner);
                }
            }
        }
        Value::Array(list) => {
            // ["--token", "abc"]: a flag masks what follows it.
            let mut flag = false;
            for inner in list {
                let text = inner.as_str();
                let next = text.is_some_and(|text| {
                    text.starts_with('-') && is_telling(text) && !text.contains('=')
                });
                if flag && text.is_some() && !next {
                    *inner = MASK.into();
                } else {
                    secrets(inner);
                }
                flag = next;
            }
        }
        Value::String(text) => {
            if let Cow::Owned(masked) = secrets_in(text) {
                *text = masked;
            }
        }
        _ => {}
    }
}

/// Masks personal data too (e-mail addresses, runs of 9 and more digits such as cards, phones and
/// registration numbers) and cuts long texts.
pub(super) fn personal(value: &mut Value) {
    match value {
        Value::Object(table) => table.values_mut().for_each(personal),
        Value::Array(list) => list.iter_mut().for_each(personal),
        Value::String(text) => {
            let mails = masked(text, &mail_ranges(text));
            let mut masked = masked(&mails, &number_ranges(&mails)).into_owned();
            if masked.len() > LONGEST_TEXT {
                let whole = masked.len();
                masked.truncate(masked.floor_char_boundary(LONGEST_TEXT));
                masked = format!("{masked}… [{whole} bytes]");
            }
            *text = masked;
        }
        _ => {}
    }
}

/// A text with its secrets masked; borrowed if there are none.
pub fn secrets_in(text: &str) -> Cow<'_, str> {
    masked(text, &secret_ranges(text))
}

fn masked<'t>(text: &'t str, ranges: &[Range<usize>]) -> Cow<'t, str> {
    if ranges.is_empty() {
        return Cow::Borrowed(text);
    }
    let mut out = String::with_capacity(text.len());
    let mut done = 0;
    for range in ranges {
        out.push_str(text.get(done..range.start).unwrap_or_default());
        out.push_str(MASK);
        done = range.end;
    }
    out.push_str(text.get(done..).unwrap_or_default());
    Cow::Owned(out)
}

/// Where secrets stand, in order, not overlapping.
fn secret_ranges(text: &str) -> Vec<Range<usize>> {
    // Most names are one word, and then only its looks can give it away.
    if word_at(text).len() == text.len() {
        return looks_secret(text)
            .then_some(0..text.len())
            .into_iter()
            .collect();
    }
    let bytes = text.as_bytes();
    let mut ranges = Vec::new();
    let mut at = 0;
    while at < bytes.len() {
        let rest = &text[at..];
        if let Some(authority) = rest.strip_prefix("://") {
            let end = authority
                .find(|c: char| matches!(c, '/' | '?' | '#' | '"' | '\'') || c.is_whitespace());
            let authority = &authority[..end.unwrap_or(authority.len())];
            at += 3;
            if let Some(user) = authority.rfind('@') {
                ranges.push(at..at + user);
                at += user;
            }
            continue;
        }
        let word = word_at(rest);
        if word.is_empty() {
            at += rest.chars().next().map_or(1, char::len_utf8);
            continue;
        }
        let end = at + word.len();
        let range = pem(rest, at)
            .or_else(|| looks_secret(word).then_some(at..end))
            .or_else(|| after_scheme(text, word, end))
            .or_else(|| after_name(text, word, end));
        at = range.as_ref().map_or(end, |range| range.end);
        ranges.extend(range);
    }
    ranges
}

/// The run of characters of names and tokens at the start of a text.
fn word_at(text: &str) -> &str {
    let mut bytes = text.bytes();
    let end = bytes.position(|b| !(b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-' | b'.')));
    &text[..end.unwrap_or(text.len())]
}

/// A private key in PEM, up to its end or the end of the text.
fn pem(rest: &str, at: usize) -> Option<Range<usize>> {
    let header = rest.strip_prefix("-----BEGIN ")?;
    let (label, _) = header.split_once("-----")?;
    if !label.contains("PRIVATE KEY") {
        return None;
    }
    let footer = format!("-----END {label}-----");
    Some(
        at..at
            + rest
                .find(&footer)
                .map_or(rest.len(), |end| end + footer.len()),
    )
}

/// Tokens that are known by their looks.
fn looks_secret(word: &str) -> bool {
    const PREFIXES: [&str; 21] = [
        "ghp_",
        "gho_",
        "ghu_",
        "ghs_",
        "ghr_",
        "github_pat_",
        "glpat-",
        "sk-",
        "sk_live_",
        "sk_test_",
        "rk_live_",
        "xoxb-",
        "xoxp-",
        "xoxa-",
        "xoxs-",
        "xapp-",
        "npm_",
        "pypi-",
        "hf_",
        "AIza",
        "ya29.",
    ];
    let aws = || {
        ["AKIA", "ASIA", "AROA", "AGPA", "AIDA"]
            .iter()
            .any(|prefix| word.starts_with(prefix))
            && word.len() == 20
            && word
                .bytes()
                .all(|byte| byte.is_ascii_uppercase() || byte.is_ascii_digit())
    };
    let jwt = || {
        let parts: Vec<&str> = word.split('.').collect();
        word.starts_with("eyJ")
            && matches!(parts.len(), 3 | 5)
            && parts.iter().take(2).all(|part| part.len() >= 4)
    };
    word.len() >= 16 && (jwt() || aws() || PREFIXES.iter().any(|prefix| word.starts_with(prefix)))
}

/// What stands between a name and its value.
fn is_sign(c: char) -> bool {
    matches!(c, '=' | ':')
}

/// `Bearer x`, `Basic x`.
fn after_scheme(text: &str, word: &str, end: usize) -> Option<Range<usize>> {
    let bearer = word.eq_ignore_ascii_case("bearer");
    if !bearer && !word.eq_ignore_ascii_case("basic") {
        return None;
    }
    let start = skip(text, end, char::is_whitespace);
    // As a name's value begins behind its sign, so that what was masked there is found again.
    let begin = skip(text, start, is_sign);
    let value = value_at(text, begin, None);
    // What was masked before makes it no longer.
    let telling = value.replace(MASK, "").len() >= 8
        && (bearer
            || value
                .bytes()
                .skip(1)
                .any(|byte| byte.is_ascii_digit() || byte.is_ascii_uppercase() || byte == b'='));
    (start > end && telling).then(|| begin..begin + value.len())
}

/// `password=x`, `"api_key": "x"`, `--token x`.
fn after_name(text: &str, word: &str, end: usize) -> Option<Range<usize>> {
    if !is_telling(word) {
        return None;
    }
    let quoted = |c: char| matches!(c, '"' | '\'' | '\\');
    let sign = skip(text, skip(text, end, quoted), char::is_whitespace);
    let mut start = match text.as_bytes().get(sign) {
        Some(b':') => {
            let start = skip(text, sign + 1, |c| c.is_whitespace() || is_sign(c));
            if begins_sentence(text.get(sign + 1..start)?, text.get(start..)?) {
                return None;
            }
            start
        }
        Some(b'=') => skip(text, sign + 1, |c| c.is_whitespace() || is_sign(c)),
        // `'--token', 'x'`: what separates them is no value.
        Some(b',') if word.starts_with('-') && skip(text, end, quoted) > end => {
            skip(text, sign + 1, char::is_whitespace)
        }
        _ if word.starts_with('-') => skip(text, end, char::is_whitespace),
        _ => return None,
    };
    // `Authorization: Bearer x`: the scheme may stay.
    let scheme = word_at(text.get(start..)?);
    let known = ["bearer", "basic", "token", "digest"];
    if known.iter().any(|known| scheme.eq_ignore_ascii_case(known)) {
        let after = skip(text, start + scheme.len(), char::is_whitespace);
        if after > start + scheme.len() && !value_at(text, after, None).is_empty() {
            start = after;
        }
    }
    let open = skip(text, start, quoted);
    let quote = text
        .get(start..open)
        .and_then(|quotes| quotes.chars().next_back());
    let mut value = value_at(text, open, quote);
    if quote.is_none() && value.contains(['/', '?', '#']) {
        // What may end part of an address goes with all behind it: without it the rest would be
        // read in another way.
        let rest = text.get(open..).unwrap_or_default();
        value = rest.split(char::is_whitespace).next().unwrap_or_default();
    }
    let count = is_count(word, &serde_json::from_str(value).unwrap_or(Value::Null));
    (open > end && !value.is_empty() && !count && value != MASK).then(|| open..open + value.len())
}

/// Whether words follow that only explain, after this gap: an ordinary word with another one behind
/// it that is no name of the next value.
fn begins_sentence(gap: &str, rest: &str) -> bool {
    const LONGEST: usize = 15;
    let ordinary = |word: &str| {
        let word = word.trim_end_matches([',', '.', ':', ';']);
        let small = |tail: &str| tail.bytes().all(|byte| byte.is_ascii_lowercase());
        (1..=LONGEST).contains(&word.len())
            && word.starts_with(|c: char| c.is_ascii_alphabetic())
            && word.get(1..).is_some_and(small)
    };
    let mut words = rest.split_whitespace();
    let (Some(first), Some(second)) = (words.next(), words.next()) else {
        return false;
    };
    // On one line: what stands below is another matter.
    let gap_is_blank = !gap.is_empty() && gap.chars().all(|c| c == ' ');
    let between = rest.get(first.len()..).unwrap_or_default();
    let known = ["bearer", "basic", "token", "digest"];
    gap_is_blank
        && ordinary(first)
        && !known.iter().any(|known| first.eq_ignore_ascii_case(known))
        && between.starts_with(' ')
        && !between.trim_start_matches(' ').starts_with('\n')
        && second.starts_with(|c: char| c.is_ascii_alphabetic())
        && !second.contains(['=', ':', '"', '\''])
}

/// The value that starts at `start`: up to the closing quote, else to what ends a bare value; what
/// was masked before is part of it.
fn value_at(text: &str, start: usize, quote: Option<char>) -> &str {
    let rest = text.get(start..).unwrap_or_default();
    let ends = |c: char| match quote {
        Some(quote) => c == quote || c == '\\' && quote != '\\',
        None => {
            c.is_whitespace()
                || matches!(
                    c,
                    '&' | ',' | ';' | '"' | '\'' | '`' | '}' | ']' | ')' | '<' | '>'
                )
        }
    };
    let mut end = 0;
    while let Some(c) = rest.get(end..).and_then(|rest| rest.chars().next()) {
        if rest[end..].starts_with(MASK) {
            end += MASK.len();
        } else if ends(c) {
            break;
        } else {
            end += c.len_utf8();
        }
    }
    &rest[..end]
}

fn skip(text: &str, from: usize, what: impl Fn(char) -> bool) -> usize {
    let rest = text.get(from..).unwrap_or_default();
    from + rest.find(|c| !what(c)).unwrap_or(rest.len())
}

/// Whether a name says that a secret stands under it, however it is spelled.
fn is_telling(name: &str) -> bool {
    const TELLING: [&str; 16] = [
        "password",
        "passwd",
        "passphrase",
        "passcode",
        "secret",
        "token",
        "authorization",
        "apikey",
        "credential",
        "privatekey",
        "accesskey",
        "signingkey",
        "encryptionkey",
        "cookie",
        "bearer",
        "connectionstring",
    ];
    // Names are short; a long text is not one.
    if name.len() > 128 || !name.is_ascii() {
        return false;
    }
    let plain: String = name
        .chars()
        .filter(char::is_ascii_alphanumeric)
        .map(|c| c.to_ascii_lowercase())
        .collect();
    matches!(&*plain, "pwd" | "pass" | "auth" | "jwt" | "pin" | "otp")
        || TELLING.iter().any(|telling| plain.contains(telling))
}

/// `max_tokens: 100` is a number of tokens and not one.
fn is_count(name: &str, value: &Value) -> bool {
    let name = name.to_ascii_lowercase();
    (value.is_number() || value.is_boolean())
        && name.contains("token")
        && !name.contains("secret")
        && (name.contains("tokens") || name.contains("count") || name.contains("max"))
}

/// Where e-mail addresses stand, in order.
fn mail_ranges(text: &str) -> Vec<Range<usize>> {
    let local = |c: char| c.is_alphanumeric() || matches!(c, '.' | '_' | '%' | '+' | '-');
    let domain = |c: char| c.is_alphanumeric() || matches!(c, '.' | '-');
    let mut ranges: Vec<Range<usize>> = Vec::new();
    for (at, _) in text.match_indices('@') {
        let head = text.get(..at).unwrap_or_default();
        let start = head.trim_end_matches(local).len();
        let end = skip(text, at + 1, domain);
        let host = text.get(at + 1..end).unwrap_or_default();
        let dotted = host.trim_matches('.').contains('.');
        if start < at && dotted && ranges.last().is_none_or(|last| last.end <= start) {
            ranges.push(start..end);
        }
    }
    ranges
}

/// Where 9 and more digits stand, in order; up to two separators in a row do not end a number.
fn number_ranges(text: &str) -> Vec<Range<usize>> {
    let (mut first, mut last, mut digits, mut gap) = (0, 0, 0, 0);
    let mut ranges = Vec::new();
    for (at, c) in text.char_indices().chain([(text.len(), '\0')]) {
        if c.is_ascii_digit() {
            if digits == 0 {
                first = at;
            }
            (digits, last, gap) = (digits + 1, at + 1, 0);
        } else if digits > 0 && gap < 2 && matches!(c, ' ' | '-' | '.' | '(' | ')' | '/') {
            gap += 1;
        } else {
            if digits >= 9 {
                ranges.push(first..last);
            }
            digits = 0;
        }
    }
    ranges
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    #[test]
    fn secrets_are_masked_wherever_they_stand() {
        // Assembled from halves so that no scanner takes this file for a leak.
        let jwt = format!("eyJhbGciOiJIUzI1NiJ9.{}.c2lnbmF0dXJl", "eyJzdWIiOiJhIn0");
        let aws = format!("AKIA{}", "IOSFODNN7EXAMPLE");
        let github = format!("ghp_{}", "0123456789abcdefghijABCDEFGHIJ012345");
        let pem = format!(
            "-----BEGIN RSA {0}-----\nMIIEow\n-----END RSA {0}-----",
            "PRIVATE KEY"
        );
        for (text, expected) in [
            (format!("Bearer {jwt}"), "Bearer [redacted]".to_owned()),
            (format!("x {jwt} y"), "x [redacted] y".to_owned()),
            (format!("id={aws}&n=1"), "id=[redacted]&n=1".to_owned()),
            (
                format!("git clone https://{github}@host.example/r"),
                "git clone https://[redacted]@host.example/r".into(),
            ),
            (format!("key:\n{pem}\nend"), "key:\n[redacted]\nend".into()),
            (
                "-H 'Authorization: Bearer abc.def'".into(),
                "-H 'Authorization: Bearer [redacted]'".into(),
            ),
            (
                "Authorization: Basic dXNlcjpwYXNz".into(),
                "Authorization: Basic [redacted]".into(),
            ),
            (
                "password=hunter2 user=bob".into(),
                "password=[redacted] user=bob".into(),
            ),
            (
                "PGPASSWORD=hunter2 psql".into(),
                "PGPASSWORD=[redacted] psql".into(),
            ),
            (
                r#"{"api_key": "k-1", "n": 2}"#.into(),
                r#"{"api_key": "[redacted]", "n": 2}"#.into(),
            ),
            (
                r#"{\"token\":\"abc\"}"#.into(),
                r#"{\"token\":\"[redacted]\"}"#.into(),
            ),
            (
                "login --password hunter2 -v".into(),
                "login --password [redacted] -v".into(),
            ),
            (
                "postgres://bob:pw@db:5432/x".into(),
                "postgres://[redacted]@db:5432/x".into(),
            ),
            (
                "https://h.example/p?access_token=abc&x=1".into(),
                "https://h.example/p?access_token=[redacted]&x=1".into(),
            ),
            (
                "['run', '--token', 'ArgSecret', \"--api-key\", \"x\"]".into(),
                "['run', '--token', '[redacted]', \"--api-key\", \"[redacted]\"]".into(),
            ),
            (
                r#"[\"--token\",\"abc\"]"#.into(),
                r#"[\"--token\",\"[redacted]\"]"#.into(),
            ),
            (
                "password: hunter user: bob".into(),
                "password: [redacted] user: bob".into(),
            ),
            ("password: hunter".into(), "password: [redacted]".into()),
            (
                "TOKEN: abc123 was refused".into(),
                "TOKEN: [redacted] was refused".into(),
            ),
            (
                "TOKEN: ABCDEF was refused".into(),
                "TOKEN: [redacted] was refused".into(),
            ),
            (
                "token=abc[redacted]def x".into(),
                "token=[redacted] x".into(),
            ),
            (
                "Set-Cookie: a=b; Path=/".into(),
                "Set-Cookie: [redacted]; Path=/".into(),
            ),
            (
                "비밀 password: 치맥!".into(),
                "비밀 password: [redacted]".into(),
            ),
        ] {
            assert_eq!(secrets_in(&text), expected, "{text}");
        }
    }

    #[test]
    fn ordinary_text_is_left_alone() {
        for text in [
            "read /data/report.txt",
            "basic information about tokens",
            "max_tokens=100",
            "the secretary said hello",
            "https://host.example/a@b",
            "eyJ is how a token starts",
            "sk-short",
            "`env` TOKEN: cannot read the secret file /run/secrets/token: No such file or directory",
            "API_KEY: not set",
            "password=[redacted]",
            "Authorization: Bearer [redacted]",
            "--token [redacted] and 'token': '[redacted]'",
            "치맥 먹자",
            "",
        ] {
            assert!(
                matches!(secrets_in(text), Cow::Borrowed(_)),
                "{text}: {}",
                secrets_in(text)
            );
        }
    }

    #[test]
    fn values_under_telling_names_are_masked_whole() {
        let mut value = json!({
            "password": 1234, "dbPassword": "x", "API-KEY": ["a", {"b": 1}], "client_secret": {"k": "v"},
            "nested": [{"accessToken": "x", "ok": "fine"}], "max_tokens": 100, "token": null,
            "args": ["--token", "abc", "--verbose", "x"], "authorization": "none"
        });
        secrets(&mut value);
        assert_eq!(
            value,
            json!({
                "password": MASK, "dbPassword": MASK, "API-KEY": MASK, "client_secret": MASK,
                "nested": [{"accessToken": MASK, "ok": "fine"}], "max_tokens": 100, "token": null,
                "args": ["--token", MASK, "--verbose", "x"], "authorization": MASK
            })
        );
    }

    #[test]
    fn personal_data_is_masked_and_long_text_cut() {
        let mut value = json!({
            "to": "write bob.b+x@mail.example, now", "card": "4111 1111 1111 1111", "phone": "+82 10-1234-5678",
            "id": "900101-1234567", "day": "2026-11-21", "n": 123_456_789_012u64, "long": "가".repeat(200)
        });
        personal(&mut value);
        assert_eq!(value["to"], "write [redacted], now");
        assert_eq!(value["card"], MASK);
        assert_eq!(value["phone"], "+[redacted]");
        assert_eq!(value["id"], MASK);
        assert_eq!(value["day"], "2026-11-21");
        assert_eq!(value["n"], 123_456_789_012u64);
        assert_eq!(value["long"], format!("{}… [600 bytes]", "가".repeat(85)));
    }

    #[test]
    fn a_scheme_above_a_masked_value_masks_nothing_more() {
        let once = secrets_in("Bearer\n=TOKEN");
        assert_eq!(once, "Bearer\n=[redacted]");
        assert_eq!(secrets_in(&once), once);
        assert_eq!(secrets_in("Bearer =abcdefgh1"), "Bearer =[redacted]");
        let once = secrets_in("https://passwordhttps://]@ x");
        assert_eq!(once, "https://passwordhttps:[redacted] x");
        assert_eq!(secrets_in(&once), once);
    }

    proptest! {
        #[test]
        fn a_planted_secret_never_survives(
            before in "[a-z가 ,.;{}\\[\\]\"'=&]{0,20}", after in "[ ,;&\"'}][a-z 가]{0,10}", secret in "[A-Z0-9]{16}",
        ) {
            for text in [
                format!("{before} AKIA{secret}{after}"),
                format!("{before} Bearer x{secret}{after}"),
                format!("{before} password={secret}{after}"),
                format!("{before} \"api_key\": \"{secret}\"{after}"),
                format!("{before} https://u:{secret}@h/{after}"),
            ] {
                prop_assert!(!secrets_in(&text).contains(&secret), "{}", secrets_in(&text));
            }
        }

        #[test]
        fn what_was_masked_stays_as_it_is(
            pieces in prop::collection::vec(prop::sample::select(vec![
                "password", "TOKEN", "Bearer", "basic", "--token", "=", ":", " ", "'", "\"", ",", ";", "[redacted]",
                "abc123", "cannot", "read", "x", "]", "\n", "https://", "@", "/",
            ]), 0..12),
        ) {
            let once = secrets_in(&pieces.concat()).into_owned();
            prop_assert_eq!(&secrets_in(&once), &once);
        }

        #[test]
        fn no_text_makes_it_panic(text in any::<String>()) {
            let mut value = json!({ "a": [text] });
            secrets(&mut value);
            personal(&mut value);
        }
    }
}
