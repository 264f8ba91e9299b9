//! Looking inside values that a scan has already accepted.
//!
//! These walk by bracket and quote and check nothing again, which makes them cheap; the first match
//! is the only one because the scan refused duplicates. On bytes that were never scanned they may
//! answer nonsense or `None`, but they never panic, never recurse and always end.
//!
//! Ranges are relative to the slice given, and a value's range has no whitespace around it.

use std::borrow::Cow;
use std::ops::Range;

use memchr::memchr2;

/// The value of member `key` of `object`.
pub fn member(object: &[u8], key: &str) -> Option<Range<usize>> {
    pairs(object)
        .find(|pair| is_key(object, &pair.0, key))
        .map(|pair| pair.1)
}

/// The value at the end of `path`, one member name per level. An empty path is the value itself.
pub fn path(value: &[u8], path: &[&str]) -> Option<Range<usize>> {
    let start = skip_blank(value, 0);
    let mut found = start..end(value, start)?;
    for key in path {
        let inner = member(value.get(found.clone())?, key)?;
        found = found.start + inner.start..found.start + inner.end;
    }
    Some(found)
}

/// Every member of `object`: its name decoded, the range of the name with its quotes, the range of
/// the value. Ends at the first thing that is no member.
pub fn members(
    object: &[u8],
) -> impl Iterator<Item = (Cow<'_, str>, Range<usize>, Range<usize>)> + '_ {
    pairs(object).map_while(|(key, value)| {
        let name = text(object.get(key.clone())?)?;
        Some((name, key, value))
    })
}

/// Every item of `array`.
pub fn items(array: &[u8]) -> impl Iterator<Item = Range<usize>> + '_ {
    let mut walk = Walk::enter(array, b'[');
    std::iter::from_fn(move || {
        let start = walk.next_start()?;
        walk.at = end(array, start)?;
        Some(start..walk.at)
    })
}

/// The text of a string value; borrowed unless it holds escapes.
pub fn text(value: &[u8]) -> Option<Cow<'_, str>> {
    let inner = value.strip_prefix(b"\"")?.strip_suffix(b"\"")?;
    match memchr2(b'\\', b'"', inner) {
        None => std::str::from_utf8(inner).ok().map(Cow::Borrowed),
        Some(_) => serde_json::from_slice(value).ok().map(Cow::Owned),
    }
}

/// The value of an integer written without fraction or exponent, if it fits.
pub fn integer(value: &[u8]) -> Option<i64> {
    match value.first()? {
        b'-' | b'0'..=b'9' => std::str::from_utf8(value).ok()?.parse().ok(),
        _ => None,
    }
}

/// `text` as a JSON string, quotes included, on one line.
pub fn quote(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

/// The object without its member `key`; all else stays as it was written, but for what stands
/// between members.
pub fn without(object: &[u8], key: &str) -> Vec<u8> {
    let mut kept = vec![b'{'];
    for (name, value) in pairs(object).filter(|(name, _)| !is_key(object, name, key)) {
        if kept.len() > 1 {
            kept.push(b',');
        }
        kept.extend_from_slice(&object[name]);
        kept.push(b':');
        kept.extend_from_slice(&object[value]);
    }
    kept.push(b'}');
    kept
}

/// Whether the value is an object.
pub fn is_object(value: &[u8]) -> bool {
    value.first() == Some(&b'{')
}

/// Whether the value is an array.
pub fn is_array(value: &[u8]) -> bool {
    value.first() == Some(&b'[')
}

/// Whether the value is a string.
pub fn is_string(value: &[u8]) -> bool {
    value.first() == Some(&b'"')
}

/// Names and values of an object, nothing decoded.
pub(crate) fn pairs(object: &[u8]) -> impl Iterator<Item = (Range<usize>, Range<usize>)> + '_ {
    let mut walk = Walk::enter(object, b'{');
    std::iter::from_fn(move || {
        let start = walk.next_start()?;
        if object.get(start) != Some(&b'"') {
            return None;
        }
        let key = start..string_end(object, start)?;
        let colon = skip_blank(object, key.end);
        if object.get(colon) != Some(&b':') {
            return None;
        }
        let value = skip_blank(object, colon + 1);
        walk.at = end(object, value)?;
        Some((key, value..walk.at))
    })
}

/// Whether the name at `lexeme` of `object` reads `key`.
pub(crate) fn is_key(object: &[u8], lexeme: &Range<usize>, key: &str) -> bool {
    let Some(lexeme) = object.get(lexeme.clone()) else {
        return false;
    };
    let Some(inner) = lexeme.get(1..lexeme.len().saturating_sub(1)) else {
        return false;
    };
    match memchr::memchr(b'\\', inner) {
        None => inner == key.as_bytes(),
        Some(_) => text(lexeme).is_some_and(|name| name == key),
    }
}

/// The first offset from `at` that is not JSON whitespace.
pub(crate) fn skip_blank(bytes: &[u8], at: usize) -> usize {
    let rest = bytes.get(at..).unwrap_or_default();
    let blank = rest
        .iter()
        .take_while(|b| matches!(b, b' ' | b'\t' | b'\n' | b'\r'))
        .count();
    at + blank
}

/// The end of the value that starts at `start`.
pub(crate) fn end(bytes: &[u8], start: usize) -> Option<usize> {
    match bytes.get(start)? {
        b'"' => string_end(bytes, start),
        b'{' | b'[' => container_end(bytes, start),
        b',' | b':' | b'}' | b']' => None,
        _ => {
            let rest = bytes.get(start..)?;
            let stop = |b: &u8| matches!(b, b',' | b'}' | b']' | b' ' | b'\t' | b'\n' | b'\r');
            let len = rest.iter().position(stop).unwrap_or(rest.len());
            (len > 0).then_some(start + len)
        }
    }
}

fn container_end(bytes: &[u8], start: usize) -> Option<usize> {
    let mut open = 0_usize;
    let mut at = start;
    loop {
        match bytes.get(at)? {
            b'"' => {
                at = string_end(bytes, at)?;
                continue;
            }
            b'{' | b'[' => open += 1,
            b'}' | b']' => open -= 1,
            _ => {}
        }
        at += 1;
        if open == 0 {
            return Some(at);
        }
    }
}

fn string_end(bytes: &[u8], start: usize) -> Option<usize> {
    let mut at = start + 1;
    loop {
        let hit = at + memchr2(b'"', b'\\', bytes.get(at..)?)?;
        if bytes.get(hit) == Some(&b'"') {
            return Some(hit + 1);
        }
        at = hit + 2;
    }
}

/// Steps through the inside of one container.
struct Walk<'a> {
    bytes: &'a [u8],
    at: usize,
    first: bool,
}

impl<'a> Walk<'a> {
    fn enter(bytes: &'a [u8], opener: u8) -> Self {
        let start = skip_blank(bytes, 0);
        // Past the end, the walk yields nothing.
        let at = if bytes.get(start) == Some(&opener) {
            start + 1
        } else {
            bytes.len()
        };
        Self {
            bytes,
            at,
            first: true,
        }
    }

    /// The start of the next item, after its comma; `None` at the closing bracket.
    fn next_start(&mut self) -> Option<usize> {
        let at = skip_blank(self.bytes, self.at);
        match (*self.bytes.get(at)?, std::mem::take(&mut self.first)) {
            (b'}' | b']', _) => None,
            (_, true) => Some(at),
            (b',', false) => Some(skip_blank(self.bytes, at + 1)),
            (_, false) => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn at<'a>(value: &'a str, keys: &[&str]) -> Option<&'a str> {
        path(value.as_bytes(), keys).and_then(|found| value.get(found))
    }

    #[test]
    fn a_path_leads_through_spacing_and_strings_that_look_like_structure() {
        let value = r#" { "a" : "}{\"" , "b":[1,{"c":2}], "d" : { "e" : -1.5e3 } , "":null}"#;
        assert_eq!(at(value, &["a"]), Some(r#""}{\"""#));
        assert_eq!(at(value, &["d", "e"]), Some("-1.5e3"));
        assert_eq!(at(value, &[""]), Some("null"));
        assert_eq!(at(value, &["c"]), None);
        assert_eq!(at(value, &["a", "b"]), None);
        assert_eq!(at(value, &[]), Some(value.trim()));
    }

    #[test]
    fn an_escaped_name_is_the_name() {
        assert_eq!(at(r#"{"\u0061b":1}"#, &["ab"]), Some("1"));
        assert_eq!(at(r#"{"\u0061b":1}"#, &["\\u0061b"]), None);
    }

    #[test]
    fn items_and_members_are_listed_in_order() {
        let array = br#"[1, "a,b" ,[], {"x":[2]}]"#;
        let listed: Vec<_> = items(array).map(|r| array.get(r).unwrap()).collect();
        assert_eq!(listed, [&b"1"[..], b"\"a,b\"", b"[]", b"{\"x\":[2]}"]);
        assert_eq!(
            items(b"[]").count() + items(b"{}").count() + items(b"1").count(),
            0
        );
        let object = br#"{"a":1,"\t":{}}"#;
        let names: Vec<_> = members(object)
            .map(|(name, ..)| name.into_owned())
            .collect();
        assert_eq!(names, ["a", "\t"]);
    }

    #[test]
    fn only_a_plain_integer_is_one() {
        assert_eq!(integer(b"-32700"), Some(-32700));
        for bad in [
            &b"1.0"[..],
            b"1e3",
            b"\"1\"",
            b"9223372036854775808",
            b"",
            b"+1",
            b"null",
        ] {
            assert_eq!(integer(bad), None);
        }
    }

    proptest! {
        #[test]
        fn a_quoted_text_reads_back(original in any::<String>()) {
            let quoted = quote(&original);
            prop_assert!(!quoted.contains('\n'));
            prop_assert_eq!(text(quoted.as_bytes()).unwrap(), original);
        }

        #[test]
        fn unscanned_bytes_never_panic(bytes in proptest::collection::vec(
            prop_oneof![Just(b'{'), Just(b'}'), Just(b'['), Just(b'"'), Just(b'\\'), Just(b':'),
                Just(b','), Just(b' '), any::<u8>()], 0..64)) {
            let _ = path(&bytes, &["a", "b"]);
            prop_assert!(members(&bytes).count() <= bytes.len());
            prop_assert!(items(&bytes).count() <= bytes.len());
            let _ = (text(&bytes), integer(&bytes), end(&bytes, 0));
        }
    }
}
