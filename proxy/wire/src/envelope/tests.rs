//! What is a message and what is not, and that the bytes stay.

use bytes::Bytes;
use proptest::prelude::*;

use super::*;
use crate::{code, testing};

fn parse(text: &str) -> Result<Envelope, Fault> {
    Envelope::parse(Bytes::copy_from_slice(text.as_bytes()), &Limits::default())
}

fn kind_of(text: &str) -> Result<Kind, FaultKind> {
    parse(text)
        .map(|message| message.kind())
        .map_err(|fault| fault.kind)
}

#[test]
fn the_four_kinds_are_told_by_their_members() {
    for (text, kind) in [
        (r#"{"jsonrpc":"2.0","id":1,"method":"ping"}"#, Kind::Request),
        (
            r#"{"method":"ping","params":{},"id":"a","jsonrpc":"2.0"}"#,
            Kind::Request,
        ),
        (
            r#"{"jsonrpc":"2.0","method":"notifications/initialized"}"#,
            Kind::Notification,
        ),
        (r#"{"jsonrpc":"2.0","id":1,"result":{}}"#, Kind::Response),
        (
            r#"{"jsonrpc":"2.0","id":1,"error":{"code":-1,"message":""}}"#,
            Kind::Error,
        ),
        (
            r#"{"jsonrpc":"2.0","id":null,"error":{"code":-1,"message":""}}"#,
            Kind::Error,
        ),
        (
            r#"{"jsonrpc":"2.0","error":{"code":-1,"message":"","data":7}}"#,
            Kind::Error,
        ),
        (
            r#" {"jsonrpc":"2\u002e0","id":-1.5e3,"result":{},"x":{}} "#,
            Kind::Response,
        ),
    ] {
        assert_eq!(kind_of(text), Ok(kind), "{text}");
    }
}

#[test]
fn the_parts_are_slices_of_the_message() {
    let text = r#" {"jsonrpc":"2.0","params" : {"name":"a\/b","x":1} ,"method":"tools\/call","id": 1.0 } "#;
    let message = parse(text).unwrap();
    assert_eq!(message.raw(), text);
    assert_eq!(message.id_bytes(), Some(&b"1.0"[..]));
    assert_eq!(message.method(), Some("tools/call"));
    assert_eq!(message.params(), Some(&br#"{"name":"a\/b","x":1}"#[..]));
    assert_eq!((message.result(), message.error()), (None, None));
    assert_eq!(message.text(&["params", "name"]).unwrap(), "a/b");
    assert_eq!(message.get(&["jsonrpc"]), Some(&br#""2.0""#[..]));
    let place = message.find(&["params", "x"]).unwrap();
    assert_eq!(&text[place], "1");
    assert_eq!(message.find(&["params", "y"]), None);
    assert_eq!(message.find(&["result", "y"]), None);
    assert_eq!(message.find(&["other"]), None);
    assert_eq!(message.find(&[]), None);
}

#[test]
fn a_null_id_is_no_id() {
    let message = parse(r#"{"jsonrpc":"2.0","id":null,"error":{"code":1,"message":"m"}}"#).unwrap();
    assert_eq!((message.id(), message.id_bytes()), (None, None));
    assert_eq!(message.with_id(b"7").id(), Some(Id::number(7)));
}

#[test]
fn what_is_no_message_says_why() {
    use FaultKind::*;
    let long = format!(
        r#"{{"jsonrpc":"2.0","method":"m","id":"{}"}}"#,
        "x".repeat(1023)
    );
    for (text, kind) in [
        ("1", NotObject),
        ("null", NotObject),
        ("[]", Batch),
        ("\n[{}", Batch),
        ("{}", Version),
        (r#"{"id":1,"method":"m"}"#, Version),
        (r#"{"jsonrpc":2.0,"id":1,"method":"m"}"#, Version),
        (r#"{"jsonrpc":"2.1","id":1,"method":"m"}"#, Version),
        (r#"{"jsonrpc":"2.0","id":null,"method":"m"}"#, Id),
        (r#"{"jsonrpc":"2.0","id":true,"method":"m"}"#, Id),
        (r#"{"jsonrpc":"2.0","id":{},"method":"m"}"#, Id),
        (r#"{"jsonrpc":"2.0","id":[1],"method":"m"}"#, Id),
        (&long, Id),
        (r#"{"jsonrpc":"2.0","result":{}}"#, Id),
        (r#"{"jsonrpc":"2.0","id":null,"result":{}}"#, Id),
        (r#"{"jsonrpc":"2.0","id":1,"method":1}"#, Method),
        (r#"{"jsonrpc":"2.0","id":1,"method":null}"#, Method),
        (
            r#"{"jsonrpc":"2.0","id":1,"method":"m","params":[]}"#,
            Params,
        ),
        (
            r#"{"jsonrpc":"2.0","id":1,"method":"m","params":null}"#,
            Params,
        ),
        (r#"{"jsonrpc":"2.0","id":1,"result":1}"#, Result),
        (r#"{"jsonrpc":"2.0","id":1,"result":null}"#, Result),
        (r#"{"jsonrpc":"2.0","id":1,"error":"no"}"#, Error),
        (r#"{"jsonrpc":"2.0","id":1,"error":{}}"#, Error),
        (r#"{"jsonrpc":"2.0","id":1,"error":{"code":1}}"#, Error),
        (r#"{"jsonrpc":"2.0","id":1,"error":{"message":"m"}}"#, Error),
        (
            r#"{"jsonrpc":"2.0","id":1,"error":{"code":"1","message":"m"}}"#,
            Error,
        ),
        (
            r#"{"jsonrpc":"2.0","id":1,"error":{"code":1.5,"message":"m"}}"#,
            Error,
        ),
        (
            r#"{"jsonrpc":"2.0","id":1,"error":{"code":1,"message":{"message":"m"}}}"#,
            Error,
        ),
        (
            r#"{"jsonrpc":"2.0","id":1,"error":{"x":{"code":1,"message":"m"}}}"#,
            Error,
        ),
        (r#"{"jsonrpc":"2.0","id":1}"#, Shape),
        (r#"{"jsonrpc":"2.0"}"#, Shape),
        (
            r#"{"jsonrpc":"2.0","id":1,"method":"m","result":{}}"#,
            Shape,
        ),
        (
            r#"{"jsonrpc":"2.0","method":"m","error":{"code":1,"message":"m"}}"#,
            Shape,
        ),
        (
            r#"{"jsonrpc":"2.0","id":1,"result":{},"error":{"code":1,"message":"m"}}"#,
            Shape,
        ),
        (r#"{"jsonrpc":"2.0","id":1,"result":{},"params":{}}"#, Shape),
        (r#"{"jsonrpc":"2.0","id":1,"params":{}}"#, Shape),
    ] {
        let fault = parse(text).unwrap_err();
        assert_eq!(
            (fault.kind, fault.code),
            (kind, code::INVALID_REQUEST),
            "{text}"
        );
        assert!(fault.offset <= text.len(), "{text}");
    }
}

/// Attack 41: the same member twice, at every level a parser may look.
#[test]
fn duplicate_members_are_refused_at_every_level() {
    for (text, member) in [
        (
            r#"{"jsonrpc":"2.0","id":1,"method":"tools/list","method":"tools/call"}"#,
            "method",
        ),
        (
            r#"{"jsonrpc":"2.0","id":1,"method":"tools/list","m\u0065thod":"tools/call"}"#,
            "method",
        ),
        (
            r#"{"jsonrpc":"2.0","id":1,"method":"m","params":{"name":"a","name":"b"}}"#,
            "name",
        ),
        (
            r#"{"jsonrpc":"2.0","id":1,"method":"m","params":{"arguments":{"p":[{"q":1,"q":2}]}}}"#,
            "q",
        ),
        (
            r#"{"jsonrpc":"2.0","id":1,"result":{"a":{"b":1,"b":1}}}"#,
            "b",
        ),
    ] {
        let fault = parse(text).unwrap_err();
        assert_eq!(fault.kind, FaultKind::Duplicate, "{text}");
        assert!(
            fault.to_string().contains(&format!("\"{member}\"")),
            "{fault}"
        );
        assert_eq!(fault.id, Some(Id::number(1)));
    }
}

/// Attack 42: members that some server reads as others.
#[test]
fn members_that_fold_to_known_ones_are_refused_and_others_kept() {
    for member in [
        "Method",
        "METHOD",
        "ID",
        "Params",
        "param\u{17f}",
        "Result",
        "JsonRpc",
        "\\u0049d",
    ] {
        let text = format!(r#"{{"jsonrpc":"2.0","id":1,"method":"m","{member}":{{}}}}"#);
        assert_eq!(kind_of(&text), Err(FaultKind::Folded), "{member}");
    }
    for member in [
        "Name",
        "URI",
        "argument\u{17f}",
        "_Meta",
        "requestid",
        "progressTo\u{212a}en",
        "progresstoken",
        "CURSOR",
        "Ref",
        "LEVEL",
        "taskid",
    ] {
        let text = format!(r#"{{"jsonrpc":"2.0","id":1,"method":"m","params":{{"{member}":1}}}}"#);
        assert_eq!(kind_of(&text), Err(FaultKind::Folded), "{member}");
        // Deeper, or in a result, a member of any name is data.
        let text = format!(
            r#"{{"jsonrpc":"2.0","id":1,"method":"m","params":{{"arguments":{{"{member}":1}}}}}}"#
        );
        assert_eq!(kind_of(&text), Ok(Kind::Request), "{member}");
        let text = format!(r#"{{"jsonrpc":"2.0","id":1,"result":{{"{member}":1}}}}"#);
        assert_eq!(kind_of(&text), Ok(Kind::Response), "{member}");
    }
    for member in ["progresstoken", "io.modelcontextprotocol/protocolversion"] {
        let text =
            format!(r#"{{"jsonrpc":"2.0","method":"m","params":{{"_meta":{{"{member}":1}}}}}}"#);
        assert_eq!(kind_of(&text), Err(FaultKind::Folded), "{member}");
    }
    let kept =
        r#"{"jsonrpc":"2.0","id":1,"method":"m","x-vendor":[1],"params":{"_meta":{"a/b":1}}}"#;
    assert_eq!(parse(kept).unwrap().raw(), kept);
}

/// Attack 43.
#[test]
fn depth_is_bounded_and_the_id_behind_it_still_read() {
    let nest = |n: usize| {
        let (open, close) = ("[".repeat(n), "]".repeat(n));
        format!(r#"{{"jsonrpc":"2.0","method":"m","params":{{"a":{open}{close}}},"id":5}}"#)
    };
    assert_eq!(kind_of(&nest(62)), Ok(Kind::Request));
    let fault = parse(&nest(63)).unwrap_err();
    assert_eq!(
        (fault.kind, fault.id),
        (FaultKind::Depth, Some(Id::number(5)))
    );
    let open = format!(r#"{{"params":{}"#, "[".repeat(100_000));
    assert_eq!(kind_of(&open), Err(FaultKind::Depth));
}

/// Attacks 44 and 46: not UTF-8, a byte order mark, half a character.
#[test]
fn text_that_is_not_unicode_is_a_parse_error() {
    for bytes in [
        &b"{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"\xff\"}"[..],
        b"\xef\xbb\xbf{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"m\"}",
        b"{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"\xc1\xbf\"}",
        br#"{"jsonrpc":"2.0","id":1,"method":"m","params":{"name":"\ud800"}}"#,
        br#"{"jsonrpc":"2.0","id":1,"method":"m","params":{"arguments":{"\udfff":1}}}"#,
    ] {
        let fault = Envelope::parse(Bytes::from_static(bytes), &Limits::default()).unwrap_err();
        assert_eq!(fault.code, code::PARSE_ERROR, "{fault}");
    }
}

/// Attack 45: characters that break logs and headers, refused in names, kept in arguments.
#[test]
fn control_characters_stay_out_of_names() {
    for bad in [
        "\\u0000", "\\n", "\\u001b", "\u{7f}", "\u{85}", "\u{2028}", "\\u2029",
    ] {
        let text = format!(r#"{{"jsonrpc":"2.0","id":1,"method":"a{bad}"}}"#);
        assert_eq!(kind_of(&text), Err(FaultKind::Method), "{bad}");
        let text =
            format!(r#"{{"jsonrpc":"2.0","id":1,"method":"m","params":{{"name":"a{bad}"}}}}"#);
        assert_eq!(kind_of(&text), Err(FaultKind::Name), "{bad}");
        let text = format!(
            r#"{{"jsonrpc":"2.0","id":1,"method":"m","params":{{"arguments":{{"name":"{bad}"}}}}}}"#
        );
        assert_eq!(parse(&text).unwrap().raw(), &text);
    }
}

/// Attack 48: numbers no machine type holds.
#[test]
fn numbers_keep_their_lexeme() {
    for number in [
        "1e400",
        "-0",
        "9007199254740993",
        "123456789012345678901234567890",
        "1.10",
    ] {
        let text = format!(
            r#"{{"jsonrpc":"2.0","id":{number},"method":"m","params":{{"arguments":{{"a":{number}}}}}}}"#
        );
        let message = parse(&text).unwrap();
        assert_eq!(message.id_bytes(), Some(number.as_bytes()));
        let other = message.with_id(b"1");
        assert_eq!(
            other.get(&["params", "arguments", "a"]),
            Some(number.as_bytes())
        );
    }
}

/// Attack 49: a pretty-printed body on its way to a server's stdin.
#[test]
fn a_message_of_many_lines_is_written_as_one() {
    let text = "{\r\n  \"jsonrpc\": \"2.0\",\n  \"id\": 1,\n  \"method\": \"m\\n\"\n}\n";
    let text = text.replace("m\\n", "m");
    let message = parse(&text).unwrap();
    let mut out = b"before\n".to_vec();
    message.write_line(message.edit().id(b"22"), &mut out);
    let line = "{    \"jsonrpc\": \"2.0\",   \"id\": 22,   \"method\": \"m\" } \n";
    assert_eq!(String::from_utf8(out).unwrap(), format!("before\n{line}"));
    let mut out = Vec::new();
    message.write_raw_line(&mut out);
    assert_eq!(
        out.iter().position(|b| matches!(b, b'\n' | b'\r')),
        Some(out.len() - 1)
    );
}

#[test]
fn an_id_is_told_with_a_fault_only_if_it_is_certain() {
    for (text, id) in [
        // Last, as the TypeScript SDK writes it.
        (
            r#"{"method":"m","params":{"a":1,"a":1},"jsonrpc":"2.0","id":"z"}"#,
            Some(super::Id::text("z")),
        ),
        (
            r#"{"jsonrpc":"2.0","params":[],"id":3}"#,
            Some(super::Id::number(3)),
        ),
        (
            r#"{"jsonrpc":"2.0","method":"m\u0000","id":3}"#,
            Some(super::Id::number(3)),
        ),
        (
            r#"{"jsonrpc":"2.0","method":"m","params":{"a":"\ud800"},"id":3}"#,
            Some(super::Id::number(3)),
        ),
        (r#"{"jsonrpc":"2.0","id":1,"method":"m","id":2}"#, None),
        (r#"{"jsonrpc":"2.0","id":1,"method":"m","ID":2}"#, None),
        (r#"{"jsonrpc":"2.0","id":1,"method":"m","\u0130d":2}"#, None),
        (r#"{"jsonrpc":"2.0","id":{},"method":"m"}"#, None),
        (r#"{"jsonrpc":"2.0","id":null,"method":"m"}"#, None),
        (r#"{"jsonrpc":"2.0","method":1,"params":{"id":9}}"#, None),
        (r#"{"jsonrpc":"2.0","id":1,"method":"m""#, None),
        (r#"[{"id":1}]"#, None),
    ] {
        assert_eq!(parse(text).unwrap_err().id, id, "{text}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]

    #[test]
    fn a_message_keeps_its_bytes_and_means_what_serde_json_says(text in testing::message()) {
        let message = parse(&text).unwrap();
        prop_assert_eq!(message.raw(), &text);
        let model: serde_json::Value = serde_json::from_str(&text).unwrap();
        let model_of = |name: &str| model.get(name).cloned();
        let ours = |value: Option<&[u8]>| value.map(|v| serde_json::from_slice::<serde_json::Value>(v).unwrap());
        prop_assert_eq!(ours(message.id_bytes()), model_of("id"));
        prop_assert_eq!(message.method().map(serde_json::Value::from), model_of("method"));
        prop_assert_eq!(ours(message.params()), model_of("params"));
        prop_assert_eq!(ours(message.result()), model_of("result"));
        prop_assert_eq!(ours(message.error()), model_of("error"));
    }

    #[test]
    fn another_id_changes_the_id_and_nothing_else(text in testing::message(), id in testing::number()) {
        let message = parse(&text).unwrap();
        let other = message.with_id(id.as_bytes());
        prop_assert_eq!(other.id_bytes(), Some(id.as_bytes()));
        if let Some(place) = message.find(&["id"]) {
            let expected = format!("{}{id}{}", &text[..place.start], &text[place.end..]);
            prop_assert_eq!(other.raw(), &expected);
        }
        // And back again.
        if let Some(old) = message.id_bytes() {
            let back = other.with_id(old);
            prop_assert_eq!(back.raw(), &text);
        }
    }

    #[test]
    fn a_line_is_one_line_with_the_same_meaning(text in testing::message()) {
        let message = parse(&text).unwrap();
        let mut line = Vec::new();
        message.write_line(&message.edit(), &mut line);
        prop_assert_eq!(line.iter().filter(|b| matches!(b, b'\n' | b'\r')).count(), 1);
        prop_assert_eq!(line.len(), text.len() + 1);
        let line: serde_json::Value = serde_json::from_slice(&line).unwrap();
        prop_assert_eq!(line, serde_json::from_str::<serde_json::Value>(&text).unwrap());
    }

    #[test]
    fn garbage_never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        let _ = Envelope::parse(Bytes::from(bytes), &Limits::default());
    }

    #[test]
    fn a_damaged_message_never_panics_and_never_lies(
        text in testing::message(), at in any::<proptest::sample::Index>(), byte in any::<u8>(),
    ) {
        let mut bytes = text.into_bytes();
        let at = at.index(bytes.len());
        bytes[at] = byte;
        match Envelope::parse(Bytes::from(bytes.clone()), &Limits::default()) {
            Ok(message) => {
                // `1e999` is JSON that serde_json cannot hold; then there is nothing to compare.
                if let Ok(model) = serde_json::from_slice::<serde_json::Value>(&bytes) {
                    prop_assert_eq!(message.method(), model.get("method").and_then(|m| m.as_str()));
                }
            }
            Err(fault) => prop_assert!(fault.offset <= bytes.len(), "{}", fault),
        }
    }
}

#[test]
fn a_member_of_the_envelope_is_known_by_its_name() {
    for slot in head::SLOTS {
        assert_eq!(Head::slot(slot.name().as_bytes()), Some(slot));
    }
    assert_eq!(Head::slot(b"Id"), None);
}

/// The message with something else at this path, without it, with it and something beside it, and
/// some of these one after the other.
fn changes(message: &Envelope, path: &[&'static str]) -> Vec<Envelope> {
    let longer = br#"["something longer than before",{"name":1}]"#;
    let set = message.edit().set(path, &longer[..]).finish();
    let gone = message.edit().remove(path).finish();
    let both = message
        .edit()
        .remove(path)
        .set(&[path[0], "more"], b"1")
        .set(&[path[0], "_meta", "dev.chillgate/x"], b"{}")
        .finish();
    let again = gone.edit().set(path, b"7").id(&b"123456"[..]).finish();
    let last = set.edit().remove(&[path[0], "_meta"]).finish();
    vec![set, gone, both, again, last]
}

/// What the scan keeps is what a walk finds, also where names are escaped, before and after
/// any change.
#[test]
fn what_is_kept_is_what_is_found() {
    let meta = r#""_meta":{"progressToken":{"a":[1]},"x":[{"io.modelcontextprotocol/logLevel":1}],"io.modelcontextprotocol\/protocolVersion" : "v","io.modelcontextprotocol/clientCapabilities":{"name":"no"}}"#;
    let paths: [&[&str]; 16] = [
        &["params", "_meta"],
        &["params", "_meta", "progressToken"],
        &["params", "_meta", "progressToken", "a"],
        &["params", "_meta", "x"],
        &["params", "_meta", "io.modelcontextprotocol/protocolVersion"],
        &[
            "params",
            "_meta",
            "io.modelcontextprotocol/clientCapabilities",
            "name",
        ],
        &["params", "_meta", "io.modelcontextprotocol/logLevel"],
        &["params", "_meta", "io.modelcontextprotocol/clientInfo"],
        &["params", "name"],
        &["params", "arguments"],
        &["params", "arguments", "name"],
        &["params", "arguments", "_meta", "progressToken"],
        &["params", "taskId"],
        &["params", "requestState"],
        &["result", "resultType"],
        &["result", "isError"],
    ];
    for raw in [
        format!(r#"{{"jsonrpc":"2.0","params":{{"arguments":{{"name":"inner","_meta":{{"progressToken":9}},"uri":"u"}}, {meta} ,"n\u0061me":"t","task":null}},"id":"seven","method":"tools/call"}}"#),
        r#"{"id":7,"jsonrpc":"2.0","method":"m","params":{"_meta":[["progressToken",1]],"taskId":"t","requestState":null}}"#.to_owned(),
        r#"{"jsonrpc":"2.0","id":1,"result":{"content":[{"isError":true,"resultType":"no"}],"isError":false,"resultType":"complete"}}"#.to_owned(),
        r#"{"jsonrpc":"2.0","id":1,"result":{"resultType":{"isError":1}}}"#.to_owned(),
    ] {
        let message = parse(&raw).unwrap();
        let longer = message.with_id(br#""a much longer id""#);
        for path in paths {
            let found = json::path(raw.as_bytes(), path).map(|at| &raw.as_bytes()[at]);
            assert_eq!(message.get(path), found, "{path:?} in {raw}");
            assert_eq!(longer.get(path), found, "{path:?} in {raw}");
            // What is set where nothing is makes a message of another kind.
            let changed = message.find(&path[..1]).map(|_| changes(&message, path));
            for changed in changed.into_iter().flatten() {
                let walk = Envelope::parse(changed.raw().clone(), &Limits::default()).unwrap();
                for path in paths {
                    let found = json::path(walk.raw(), path).map(|at| &walk.raw()[at]);
                    assert_eq!(changed.get(path), found, "{path:?} in {:?}", changed.raw());
                }
                assert!(changed.may_have_other_meta() || !walk.may_have_other_meta());
            }
        }
    }
    let plain = |meta: &str| {
        let raw =
            format!(r#"{{"jsonrpc":"2.0","id":1,"method":"m","params":{{"_meta":{{{meta}}}}}}}"#);
        parse(&raw).unwrap()
    };
    let known = plain(r#""progressToken":1,"io.modelcontextprotocol/logLevel":"info""#);
    assert!(!known.may_have_other_meta());
    assert!(plain(r#""progressToken":1,"dev.chillgate/x":{}"#).may_have_other_meta());
}
