//! The laws of mirrored header fields.

use bytes::Bytes;
use proptest::prelude::*;

use super::*;
use crate::Limits;

fn call(method: &str, params: &str) -> Envelope {
    let raw = format!(r#"{{"jsonrpc":"2.0","id":1,"method":"{method}","params":{params}}}"#);
    Envelope::parse(Bytes::from(raw), &Limits::default()).expect("a message")
}

#[test]
fn what_a_field_could_not_carry_is_encoded() {
    for (text, field) in [
        ("get_weather", "get_weather"),
        ("a b", "a b"),
        ("", ""),
        (" a", "=?base64?IGE=?="),
        ("a ", "=?base64?YSA=?="),
        ("a\tb", "=?base64?YQli?="),
        ("치맥", "=?base64?7LmY66el?="),
        ("\r\nX: a", "=?base64?DQpYOiBh?="),
        ("=?base64?literal?=", "=?base64?PT9iYXNlNjQ/bGl0ZXJhbD89?="),
        ("=?BASE64?a?=", "=?BASE64?a?="),
        ("=?base64?=", "=?base64?="),
    ] {
        assert_eq!(encode(text), field);
        assert_eq!(decode(field.as_bytes()).as_deref(), Ok(text), "{field}");
    }
}

#[test]
fn a_field_that_is_no_text_is_told_from_one_that_is_another() {
    for field in [
        &b"=?base64?a?="[..],
        b"=?base64?Y Q==?=",
        b"=?base64?YQ?=",
        b"=?base64?_w==?=",
        b"=?base64?/w==?=",
        b"\xff",
    ] {
        assert_eq!(decode(field), Err(Undecodable), "{field:?}");
    }
}

#[test]
fn a_request_names_what_its_method_says() {
    for (method, params, expected) in [
        ("tools/call", r#"{"name":"a\u0062"}"#, Some("ab")),
        ("prompts/get", r#"{"name":"p"}"#, Some("p")),
        (
            "resources/read",
            r#"{"uri":"file:///x","name":"y"}"#,
            Some("file:///x"),
        ),
        ("tasks/get", r#"{"taskId":"t"}"#, Some("t")),
        ("tools/call", r#"{"name":7}"#, None),
        ("tools/list", r#"{"name":"x"}"#, None),
    ] {
        assert_eq!(name(&call(method, params)).as_deref(), expected, "{method}");
    }
}

const TOOL: &str = r#"{"type":"object","properties":{
    "region":{"type":"string","x-mcp-header":"Region"},
    "n":{"type":"integer","x-mcp-header":"N"},
    "deep":{"type":"object","properties":{"dry":{"type":"boolean","x-mcp-header":"Dry"}}},
    "x-mcp-header":{"type":"string"},
    "free":{"type":"string","default":{"x-mcp-header":"no"},"examples":[{"x-mcp-header":1}]}}}"#;

#[test]
fn annotations_are_found_along_properties() {
    let found = declared(TOOL.as_bytes()).expect("good annotations");
    let told: Vec<_> = found
        .iter()
        .map(|param| (param.name.as_str(), param.path.join("."), param.sort))
        .collect();
    assert_eq!(
        told,
        [
            ("Dry", "deep.dry".to_owned(), Sort::Truth),
            ("N", "n".to_owned(), Sort::Integer),
            ("Region", "region".to_owned(), Sort::Text),
        ]
    );
}

#[test]
fn a_bad_annotation_is_named() {
    let property = |inner: &str| format!(r#"{{"type":"object","properties":{{"a":{inner}}}}}"#);
    let annotated =
        |sort: &str, name: &str| property(&format!(r#"{{"type":{sort},"x-mcp-header":{name}}}"#));
    let at = |place: &str| place.to_owned();
    for (schema, wrong) in [
        (annotated(r#""string""#, r#""""#), BadAnnotation::Name(at("a"))),
        (annotated(r#""string""#, r#""My Region""#), BadAnnotation::Name(at("a"))),
        (annotated(r#""string""#, r#""R:P""#), BadAnnotation::Name(at("a"))),
        (annotated(r#""string""#, r#""Région""#), BadAnnotation::Name(at("a"))),
        (annotated(r#""string""#, r#""a\r\nb""#), BadAnnotation::Name(at("a"))),
        (annotated(r#""string""#, "7"), BadAnnotation::Name(at("a"))),
        (annotated(r#""number""#, r#""N""#), BadAnnotation::Sort(at("a"))),
        (annotated(r#""object""#, r#""N""#), BadAnnotation::Sort(at("a"))),
        (annotated(r#""null""#, r#""N""#), BadAnnotation::Sort(at("a"))),
        (annotated(r#"["string","null"]"#, r#""N""#), BadAnnotation::Sort(at("a"))),
        (
            property(r#"{"type":"array","items":{"type":"string","x-mcp-header":"I"}}"#),
            BadAnnotation::Place(at("a.items")),
        ),
        (
            property(r#"{"anyOf":[{"type":"string"},{"type":"string","x-mcp-header":"I"}]}"#),
            BadAnnotation::Place(at("a.anyOf")),
        ),
        (
            r#"{"$defs":{"d":{"properties":{"x":{"type":"string","x-mcp-header":"I"}}}}}"#.to_owned(),
            BadAnnotation::Place(at("d.x")),
        ),
        (r#"{"type":"string","x-mcp-header":"R"}"#.to_owned(), BadAnnotation::Place(at(""))),
        (
            r#"{"properties":{"a":{"type":"string","x-mcp-header":"R"},"b":{"type":"string","x-mcp-header":"r"}}}"#
                .to_owned(),
            BadAnnotation::Twice("r".to_owned()),
        ),
        ("[]".to_owned(), BadAnnotation::Schema),
        (format!("{}{}", r#"{"not":"#.repeat(500), "}".repeat(500)), BadAnnotation::Schema),
    ] {
        assert_eq!(declared(schema.as_bytes()), Err(wrong), "{schema}");
    }
}

#[test]
fn field_and_argument_agree_or_do_not() {
    let params = declared(TOOL.as_bytes()).expect("good annotations");
    let [dry, number, region] = params.as_slice() else {
        panic!("three")
    };
    for (param, field, arguments, agree) in [
        (region, Some("eu"), r#"{"region":"eu"}"#, true),
        (region, Some("eu"), r#"{"region":"e\u0075"}"#, true),
        (region, Some("EU"), r#"{"region":"eu"}"#, false),
        (region, Some(""), r#"{"region":""}"#, true),
        (region, None, r#"{"region":""}"#, false),
        (region, None, r#"{"region":null}"#, true),
        (region, Some("null"), r#"{"region":null}"#, false),
        (region, None, "{}", true),
        (region, Some("eu"), "{}", false),
        (number, Some("7"), r#"{"n":7}"#, true),
        (number, Some("7.0"), r#"{"n":7}"#, true),
        (number, Some("7"), r#"{"n":70e-1}"#, true),
        (number, Some("0"), r#"{"n":-0.0}"#, true),
        (number, Some("8"), r#"{"n":7}"#, false),
        (
            number,
            Some("9007199254740993"),
            r#"{"n":9007199254740992}"#,
            false,
        ),
        (
            number,
            Some("9007199254740993.0"),
            r#"{"n":9007199254740992.0}"#,
            false,
        ),
        (number, Some("inf"), r#"{"n":1e999}"#, false),
        (number, Some("7"), r#"{"n":"7"}"#, false),
        (number, Some("+7"), r#"{"n":7}"#, false),
        (number, Some("07"), r#"{"n":7}"#, false),
        (dry, Some("true"), r#"{"deep":{"dry":true}}"#, true),
        (dry, Some("True"), r#"{"deep":{"dry":true}}"#, false),
        (dry, None, r#"{"deep":7}"#, true),
    ] {
        let told = param.agrees(field, arguments.as_bytes());
        assert_eq!(told, agree, "{} {field:?} {arguments}", param.name);
    }
}

proptest! {
    #[test]
    fn every_text_survives_a_field_and_none_breaks_out_of_it(text in any::<String>()) {
        let field = encode(&text);
        prop_assert!(field.bytes().all(|byte| matches!(byte, b' '..=b'~')));
        prop_assert_eq!(field.trim(), &*field);
        let decoded = decode(field.as_bytes()).expect("decodes");
        prop_assert_eq!(&*decoded, &*text);
    }

    #[test]
    fn no_field_makes_it_panic(field in any::<Vec<u8>>(), inner in "[A-Za-z0-9+/=?]{0,12}") {
        let _ = decode(&field);
        let _ = decode(format!("=?base64?{inner}?=").as_bytes());
    }
}
