//! The scan against hand-picked texts, and against an independent reader of the same rules.

use std::collections::BTreeSet;
use std::fmt;

use proptest::prelude::*;
use serde::de::{Deserialize, Deserializer, Error, MapAccess, SeqAccess, Visitor};

use super::*;
use crate::testing;

struct Deaf;

impl Watch for Deaf {
    fn key(&mut self, _: usize, _: &[u8]) -> Option<FaultKind> {
        None
    }
    fn value(&mut self, _: usize, _: Value<'_>) -> Option<FaultKind> {
        None
    }
}

fn verdict(bytes: &[u8], limits: &Limits) -> Result<(), FaultKind> {
    match scan(bytes, limits, &mut Deaf) {
        Err(fault)
        | Ok(Scanned {
            flaw: Some(fault), ..
        }) => Err(fault.kind),
        Ok(_) => Ok(()),
    }
}

fn judged(text: impl AsRef<[u8]>) -> Result<(), FaultKind> {
    verdict(text.as_ref(), &Limits::default())
}

#[test]
fn each_kind_of_bad_bytes_has_its_name() {
    use FaultKind::*;
    for (text, kind) in [
        (&b""[..], Empty),
        (b" \n", Empty),
        (b"\xef\xbb\xbf{}", ByteOrderMark),
        (b"\"\xff\"", Utf8),
        (b"\"\xc0\xaf\"", Utf8),         // overlong slash
        (b"\"\xed\xa0\x80\"", Utf8),     // a surrogate as bytes
        (b"\"\xf4\x90\x80\x80\"", Utf8), // beyond Unicode
        (b"\"\xe2\x82", Utf8),
        (b"{\"a\":1,}", Syntax),
        (b"[1,]", Syntax),
        (b"[,1]", Syntax),
        (b"[1 2]", Syntax),
        (b"{\"a\" 1}", Syntax),
        (b"{a:1}", Syntax),
        (b"{'a':1}", Syntax),
        (b"[1}", Syntax),
        (b"{\"a\":1]", Syntax),
        (b"01", Trailing),
        (b"+1", Syntax),
        (b".5", Syntax),
        (b"1.", Truncated),
        (b"1.e1", Syntax),
        (b"-", Truncated),
        (b"-a", Syntax),
        (b"1e", Truncated),
        (b"NaN", Syntax),
        (b"Infinity", Syntax),
        (b"nul", Truncated),
        (b"nulL", Syntax),
        (b"True", Syntax),
        (b"// a\n1", Syntax),
        (b"\x0c1", Syntax),     // form feed is no JSON whitespace
        (b"\xc2\xa01", Syntax), // nor is a no-break space
        (b"{}{}", Trailing),
        (b"{} x", Trailing),
        (b"{}\0", Trailing),
        (b"\"a", Truncated),
        (b"{\"a\":", Truncated),
        (b"[1", Truncated),
        (b"\"\n\"", Control),
        (b"\"12345678\x1f\"", Control),
        (b"\"\\x41\"", Syntax),
        (b"\"\\u12g4\"", Syntax),
        (b"\"\\u12", Truncated),
        (br#""\ud800""#, Surrogate),
        (br#""\udc00""#, Surrogate),
        (br#""\ud800\n""#, Surrogate),
        (br#""\ud800\u0041""#, Surrogate),
        (br#""\ud800\ud800\udc00""#, Surrogate),
        (br#"{"\ud800":1}"#, Surrogate),
    ] {
        assert_eq!(judged(text), Err(kind), "{}", String::from_utf8_lossy(text));
    }
}

#[test]
fn odd_but_legal_json_passes() {
    for text in [
        "0",
        "-0",
        "-0.0e-0",
        "1e400",
        "1E+2",
        "\"\"",
        "[]",
        "{}",
        " [ ] ",
        "{\"\":{\"\":[]}}",
        r#""\ud83d\ude00""#,
        r#""\"\\\/\b\f\n\r\t\u0000""#,
        "\"\u{7f}\u{2028}\u{feff}\"",
        "null",
        "\r\n\t true \n",
        r#"[[],[{}],{"a":[]}]"#,
        r#"{"a":1,"A":2,"a ":3}"#,
    ] {
        assert_eq!(judged(text), Ok(()), "{text}");
    }
}

#[test]
fn a_duplicate_is_found_however_it_is_spelt_and_wherever_it_stands() {
    for text in [
        r#"{"a":1,"a":1}"#,
        r#"{"a":1,"\u0061":2}"#,
        r#"{"\u0061":1,"b":2,"a":2}"#,
        r#"{"\u0061":1,"\u0061":2}"#,
        r#"[0,{"x":{"y":[{"k":1,"l":2,"k":3}]}}]"#,
        r#"{"":1,"":2}"#,
        r#"{"é":1,"\u00e9":2}"#,
        r#"{"😀":1,"\ud83d\uDE00":2}"#,
        r#"{"a\/b":1,"a/b":2}"#,
    ] {
        assert_eq!(judged(text), Err(FaultKind::Duplicate), "{text}");
    }
    // The same name in another object is another member.
    assert_eq!(
        judged(r#"{"a":{"a":[{"a":1},{"a":2}]},"b":{"a":1}}"#),
        Ok(())
    );
    // Composed and decomposed are two names to every parser.
    assert_eq!(judged("{\"\u{e9}\":1,\"e\u{301}\":2}"), Ok(()));
}

#[test]
fn a_duplicate_among_many_or_long_names_is_found() {
    for count in [15, 16, 17, 18, 100, 4095] {
        let names: Vec<_> = (0..count)
            .map(|n| format!("\"name-{n}\":{{\"x\":1}}"))
            .collect();
        let all = names.join(",");
        assert_eq!(judged(format!("{{{all}}}")), Ok(()), "{count}");
        for again in ["name-0", "name-14", "\\u006eame-7"] {
            let text = format!("{{{all},\"{again}\":1}}");
            assert_eq!(judged(text), Err(FaultKind::Duplicate), "{count} {again}");
        }
        // Inside, after and around an object that needed a set.
        let text = format!("{{\"o\":{{{all}}},\"p\":{{{all}}},\"o\":1}}");
        assert_eq!(judged(text), Err(FaultKind::Duplicate), "{count}");
    }
    let long = "x".repeat(300);
    assert_eq!(judged(format!(r#"{{"{long}":1,"{long}y":2}}"#)), Ok(()));
    assert_eq!(
        judged(format!(r#"{{"{long}":1,"{long}":2}}"#)),
        Err(FaultKind::Duplicate)
    );
}

#[test]
fn names_that_look_alike_to_a_shortcut_are_still_two() {
    // Same length, same first, middle and last byte.
    assert_eq!(judged(r#"{"abcde":1,"axcye":2,"abcye":3}"#), Ok(()));
    assert_eq!(judged(r#"{"a":1,"a\"":2,"a\"b":3}"#), Ok(()));
}

#[test]
fn depth_and_members_have_exact_bounds() {
    let nest = |n: usize| "[".repeat(n) + &"]".repeat(n);
    assert_eq!(judged(nest(64)), Ok(()));
    assert_eq!(judged(nest(65)), Err(FaultKind::Depth));
    let objects = |n: usize| "{\"a\":".repeat(n) + "1" + &"}".repeat(n);
    assert_eq!(judged(objects(64)), Ok(()));
    assert_eq!(judged(objects(65)), Err(FaultKind::Depth));
    // Siblings are no depth.
    assert_eq!(judged(format!("[{}[]]", "[],".repeat(500))), Ok(()));

    let wide = |n: usize| {
        let members: Vec<_> = (0..n).map(|n| format!("\"{n}\":0")).collect();
        format!("{{\"in\":{{{}}}}}", members.join(","))
    };
    assert_eq!(judged(wide(4096)), Ok(()));
    assert_eq!(judged(wide(4097)), Err(FaultKind::Members));
}

#[test]
fn a_hundred_thousand_brackets_overflow_nothing() {
    for opener in ["[", "{\"a\":", "[{\"a\":"] {
        assert_eq!(judged(opener.repeat(100_000)), Err(FaultKind::Depth));
    }
    let closed = "[".repeat(100_000) + &"]".repeat(100_000);
    assert_eq!(judged(closed), Err(FaultKind::Depth));
}

#[test]
fn a_message_may_be_as_large_as_the_limit_and_no_larger() {
    let limits = Limits {
        message: 10,
        ..Limits::default()
    };
    assert_eq!(verdict(b"\"12345678\"", &limits), Ok(()));
    assert_eq!(verdict(b"\"123456789\"", &limits), Err(FaultKind::TooLarge));
}

#[test]
fn a_refused_message_is_read_to_its_end() {
    // Bad bytes after what is merely refused: the graver fault is told.
    assert_eq!(judged(r#"{"a":1,"a":2"#), Err(FaultKind::Truncated));
    // Of two refusals the first.
    let flaw = scan(br#"{"a":"\ud800","a":2}"#, &Limits::default(), &mut Deaf)
        .unwrap()
        .flaw;
    assert_eq!(
        flaw.map(|fault| (fault.kind, fault.offset)),
        Some((FaultKind::Surrogate, 6))
    );
}

#[test]
fn line_breaks_count_only_between_tokens() {
    let multiline = |text: &str| {
        scan(text.as_bytes(), &Limits::default(), &mut Deaf)
            .unwrap()
            .multiline
    };
    for text in ["{}\n", "\r{}", "[1,\n2]", "{\"a\"\n:1}", "{\n}", "1\r\n"] {
        assert!(multiline(text), "{text}");
    }
    for text in ["{}", "[\"\\n\\r\"]", " [ 1 ,\t2 ] "] {
        assert!(!multiline(text), "{text}");
    }
}

#[test]
fn eight_bytes_at_a_time_see_what_one_at_a_time_sees() {
    for at in 0..8 {
        for byte in 0..=255_u8 {
            for around in [b'a', b' ', 0x80, 0xff, b'#', b'!', b'['] {
                let mut word = [around; 8];
                word[at] = byte;
                let first = word
                    .iter()
                    .position(|b| *b < 0x20 || matches!(b, b'"' | b'\\'));
                let found = special(u64::from_le_bytes(word));
                let found = (found != 0).then(|| (found.trailing_zeros() / 8) as usize);
                assert_eq!(found, first, "{word:?}");
            }
        }
    }
}

/// Another reader of the same rules: serde_json's typed side checks UTF-8 and surrogates, and the
/// visitor refuses duplicates.
struct Strict;

impl<'de> Deserialize<'de> for Strict {
    fn deserialize<D: Deserializer<'de>>(reader: D) -> Result<Self, D::Error> {
        reader.deserialize_any(Self)
    }
}

impl<'de> Visitor<'de> for Strict {
    type Value = Self;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("any JSON")
    }
    fn visit_bool<E>(self, _: bool) -> Result<Self, E> {
        Ok(self)
    }
    fn visit_i64<E>(self, _: i64) -> Result<Self, E> {
        Ok(self)
    }
    fn visit_u64<E>(self, _: u64) -> Result<Self, E> {
        Ok(self)
    }
    fn visit_f64<E>(self, _: f64) -> Result<Self, E> {
        Ok(self)
    }
    fn visit_str<E>(self, _: &str) -> Result<Self, E> {
        Ok(self)
    }
    fn visit_unit<E>(self) -> Result<Self, E> {
        Ok(self)
    }
    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Self, A::Error> {
        while seq.next_element::<Self>()?.is_some() {}
        Ok(self)
    }
    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self, A::Error> {
        let mut names = BTreeSet::new();
        while let Some((name, Self)) = map.next_entry::<String, Self>()? {
            if !names.insert(name) {
                return Err(A::Error::custom("duplicate"));
            }
        }
        Ok(self)
    }
}

/// Whether the other reader accepts; `None` where a number is beyond its range, not ours.
fn strictly(bytes: &[u8]) -> Option<bool> {
    match serde_json::from_slice::<Strict>(bytes) {
        Ok(Strict) => Some(true),
        Err(refused) if refused.to_string().contains("number out of range") => None,
        Err(_) => Some(false),
    }
}

/// Pieces that are often JSON when put in a row, and often nearly so.
fn pieces() -> impl Strategy<Value = Vec<u8>> {
    let piece = prop_oneof![
        2 => prop_oneof![
            Just("{"), Just("}"), Just("["), Just("]"), Just(","), Just(":"), Just("\""),
        ].prop_map(|s| s.as_bytes().to_vec()),
        2 => prop_oneof![
            Just(r#""a":"#), Just(r#""\u0061":"#), Just(r#","a":1"#), Just(r#"{"a":1}"#),
            Just("[1]"), Just("1"), Just("-"), Just("0"), Just("1e5"), Just("null"), Just("tru"),
            Just(r#""\ud83d\ude00""#), Just(r#""\ud83d""#), Just("\\"), Just("\n"),
        ].prop_map(|s| s.as_bytes().to_vec()),
        1 => proptest::collection::vec(any::<u8>(), 1..3),
    ];
    proptest::collection::vec(piece, 0..12).prop_map(|pieces| pieces.concat())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn valid_json_passes(text in testing::value()) {
        prop_assert_eq!(strictly(text.as_bytes()), Some(true), "the generator is at fault");
        prop_assert_eq!(judged(&text), Ok(()));
    }

    #[test]
    fn two_readers_agree_on_nearly_valid_json(
        text in testing::value(),
        changes in proptest::collection::vec((any::<proptest::sample::Index>(), any::<u8>(), 0..3), 1..3),
    ) {
        let mut bytes = text.into_bytes();
        for (place, byte, how) in changes {
            let at = place.index(bytes.len());
            match how {
                0 => bytes[at] = byte,
                1 => bytes.insert(at, byte % 0x60 + 0x20),
                _ if bytes.len() > 1 => drop(bytes.remove(at)),
                _ => {}
            }
        }
        if let Some(accepted) = strictly(&bytes) {
            prop_assert_eq!(judged(&bytes).is_ok(), accepted, "{}", String::from_utf8_lossy(&bytes));
        }
    }

    #[test]
    fn two_readers_agree_on_pieces(bytes in pieces()) {
        if let Some(accepted) = strictly(&bytes) {
            prop_assert_eq!(judged(&bytes).is_ok(), accepted, "{}", String::from_utf8_lossy(&bytes));
        }
    }

    #[test]
    fn a_member_repeated_anywhere_is_refused(
        members in testing::members(testing::value()),
        again in any::<proptest::sample::Index>(),
        at in any::<proptest::sample::Index>(),
        value in testing::value(),
        depth in 0..20_usize,
    ) {
        prop_assume!(!members.is_empty());
        let mut members = members;
        let name = json::text(members[again.index(members.len())].0.as_bytes()).unwrap().into_owned();
        let spelt = testing::quoted(&name, depth % 2 == 0);
        members.insert(at.index(members.len() + 1), (spelt, value));
        let inner = testing::object(&members, &[]);
        let text = r#"{"a":["#.repeat(depth) + &inner + &"]}".repeat(depth);
        prop_assert_eq!(judged(text), Err(FaultKind::Duplicate));
    }

    #[test]
    fn garbage_never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        let _ = judged(bytes);
    }
}
