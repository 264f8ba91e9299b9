//! JSON texts for the property tests: valid, but written as oddly as the grammar allows.
//!
//! Shared by the tests of the scan, the envelope and the edits. Built as text, never through a
//! serialiser: spacing, escapes and number lexemes are what the tests are about.

use proptest::collection::{btree_map, vec};
use proptest::prelude::*;

use crate::json;

/// Whitespace, mostly none.
pub(crate) fn blank() -> impl Strategy<Value = String> {
    prop_oneof![4 => Just(String::new()), 1 => "[ \t\r\n]{1,3}"]
}

/// A number, some beyond every machine type. None is out of the range of a double.
pub(crate) fn number() -> impl Strategy<Value = String> {
    prop_oneof![
        any::<i64>().prop_map(|n| n.to_string()),
        Just("-0".to_owned()),
        Just("1.0".to_owned()),
        Just("9007199254740993".to_owned()),
        Just("123456789012345678901234567890".to_owned()),
        "-?(0|[1-9][0-9]{0,20})(\\.[0-9]{1,9})?([eE][+-]?[0-9]{1,2})?",
    ]
}

/// A string lexeme for `text`, every character escaped where the flag says so.
pub(crate) fn quoted(text: &str, escaped: bool) -> String {
    if !escaped {
        return json::quote(text);
    }
    let units = text.encode_utf16().map(|unit| format!("\\u{unit:04X}"));
    format!("\"{}\"", units.collect::<String>())
}

fn text() -> impl Strategy<Value = String> {
    prop_oneof![
        "[a-z]{0,12}",
        any::<String>(),
        "[\\\\\"/{}\\[\\],:\u{2028}é😀\u{0}\n]{0,20}"
    ]
}

fn string() -> impl Strategy<Value = String> {
    (text(), proptest::bool::weighted(0.2)).prop_map(|(text, escaped)| quoted(&text, escaped))
}

/// Members with different names.
pub(crate) fn members(
    value: impl Strategy<Value = String>,
) -> impl Strategy<Value = Vec<(String, String)>> {
    btree_map(text(), (value, proptest::bool::weighted(0.1)), 0..5).prop_map(|map| {
        map.into_iter()
            .map(|(name, (value, escaped))| (quoted(&name, escaped), value))
            .collect()
    })
}

/// An object of these members, each piece with its own spacing.
pub(crate) fn object(members: &[(String, String)], spacing: &[String]) -> String {
    let mut spacing = spacing.iter().cycle();
    let mut pad = || spacing.next().map_or("", String::as_str);
    let listed: Vec<_> = members
        .iter()
        .map(|(name, value)| format!("{}{name}{}:{}{value}{}", pad(), pad(), pad(), pad()))
        .collect();
    format!(
        "{{{}{}}}",
        listed.join(","),
        if members.is_empty() { pad() } else { "" }
    )
}

/// Any value, a few levels deep.
pub(crate) fn value() -> impl Strategy<Value = String> {
    let leaf = prop_oneof![
        number(),
        string(),
        prop_oneof![Just("true"), Just("false"), Just("null")].prop_map(str::to_owned),
    ];
    leaf.prop_recursive(4, 40, 5, |inner| {
        prop_oneof![
            (vec(inner.clone(), 0..5), blank())
                .prop_map(|(items, pad)| format!("[{pad}{}]", items.join(&format!("{pad},")))),
            (members(inner), vec(blank(), 1..5)).prop_map(|(members, pad)| object(&members, &pad)),
        ]
    })
}

/// An object of any values.
pub(crate) fn any_object() -> impl Strategy<Value = String> {
    (members(value()), vec(blank(), 1..5)).prop_map(|(members, pad)| object(&members, &pad))
}

/// A message of any kind with unknown members, in any order, with spacing within and around it.
pub(crate) fn message() -> impl Strategy<Value = String> {
    let id = || prop_oneof![number(), "[a-z]{0,9}".prop_map(|s| format!("\"{s}\""))];
    let member = |name: &str, value: String| (format!("\"{name}\""), value);
    let method = || {
        prop_oneof![
            Just("\"tools/call\""),
            Just(r#""tools\/list""#),
            Just("\"é\"")
        ]
        .prop_map(str::to_owned)
    };
    let error = (any::<i32>(), string()).prop_map(|(code, message)| {
        format!(r#"{{ "code" : {code},"message":{message},"data":[1] }}"#)
    });
    let parts = prop_oneof![
        (id(), method(), any_object()).prop_map(move |(id, method, params)| vec![
            member("id", id),
            member("method", method),
            member("params", params)
        ]),
        (id(), method())
            .prop_map(move |(id, method)| vec![member("id", id), member("method", method)]),
        (method(), any_object())
            .prop_map(move |(method, p)| vec![member("method", method), member("params", p)]),
        (id(), any_object()).prop_map(move |(id, r)| vec![member("id", id), member("result", r)]),
        (id(), error).prop_map(move |(id, e)| vec![member("id", id), member("error", e)]),
    ];
    (parts, vec(value(), 0..3), vec(blank(), 1..7))
        .prop_map(|(mut parts, extra, pad)| {
            parts.push(("\"jsonrpc\"".to_owned(), "\"2.0\"".to_owned()));
            let extra = extra
                .into_iter()
                .enumerate()
                .map(|(n, v)| (format!("\"x-{n}\""), v));
            parts.extend(extra);
            (parts, pad)
        })
        .prop_flat_map(|(parts, pad)| (Just(parts).prop_shuffle(), Just(pad)))
        .prop_map(|(parts, pad)| {
            let around = pad.first().cloned().unwrap_or_default();
            format!("{around}{}{around}", object(&parts, &pad))
        })
}
