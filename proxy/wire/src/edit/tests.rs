//! Edits against a model: the same changes made to a parsed value.

use bytes::Bytes;
use proptest::prelude::*;
use serde_json::Value;

use super::*;
use crate::{Kind, Limits, testing};

fn parse(text: &str) -> Envelope {
    Envelope::parse(Bytes::copy_from_slice(text.as_bytes()), &Limits::default()).unwrap()
}

const CALL: &str =
    r#"{ "jsonrpc":"2.0", "id":1, "method":"tools/call", "params":{ "name":"a" , "n":1.0 } }"#;

#[test]
fn a_value_is_replaced_in_place() {
    let call = parse(CALL);
    let got = call
        .edit()
        .set(&["params", "name"], b"\"server/a\"")
        .id(b"99")
        .finish();
    assert_eq!(
        got.raw(),
        &CALL
            .replace("\"a\"", "\"server/a\"")
            .replace("\"id\":1", "\"id\":99")
    );
    assert_eq!(got.id_bytes(), Some(&b"99"[..]));
    assert_eq!(got.text(&["params", "name"]).unwrap(), "server/a");
}

#[test]
fn missing_objects_are_created_once() {
    let call = parse(CALL);
    let mut edit = call.edit();
    edit.set(&["params", "_meta", "progressToken"], b"7")
        .set(&["params", "_meta", "a\"b"], b"{}");
    let got = edit.finish();
    let made = r#""params":{"_meta":{"progressToken":7,"a\"b":{}}, "name""#;
    assert_eq!(got.raw(), &CALL.replace(r#""params":{ "name""#, made));
    assert_eq!(
        got.get(&["params", "_meta", "progressToken"]),
        Some(&b"7"[..])
    );
    let ping = parse(r#"{"jsonrpc":"2.0","id":1,"method":"ping"}"#);
    let got = ping.edit().set(&["params", "_meta", "x"], b"1").finish();
    assert_eq!(
        got.raw(),
        r#"{"params":{"_meta":{"x":1}},"jsonrpc":"2.0","id":1,"method":"ping"}"#
    );
    assert_eq!(got.params(), Some(&br#"{"_meta":{"x":1}}"#[..]));
    assert_eq!(got.method(), Some("ping"));
    let empty = parse(r#"{"jsonrpc":"2.0","id":1,"result":{ }}"#);
    let got = empty
        .edit()
        .set(&["result", "resultType"], b"\"complete\"")
        .finish();
    assert_eq!(
        got.raw(),
        r#"{"jsonrpc":"2.0","id":1,"result":{"resultType":"complete" }}"#
    );
}

#[test]
fn a_member_goes_with_its_comma() {
    let with = |members: &str| format!(r#"{{"jsonrpc":"2.0","id":1,"result":{{{members}}}}}"#);
    for (before, gone, after) in [
        (r#""a":1,"b":2"#, &["a"][..], r#""b":2"#),
        (r#""a":1,"b":2"#, &["b"], r#""a":1"#),
        (r#" "a":1 , "b":2 , "c":3 "#, &["b"], r#" "a":1 , "c":3 "#),
        (r#" "a":1 , "b":2 , "c":3 "#, &["a", "b"], r#" "c":3 "#),
        (r#" "a":1 , "b":2 , "c":3 "#, &["b", "c"], r#" "a":1 "#),
        (r#" "a":1 , "b":2 , "c":3 "#, &["a", "c"], r#" "b":2 "#),
        (r#" "a":1 , "b":2 "#, &["a", "b"], "  "),
        (r#""a":1"#, &["x"], r#""a":1"#),
    ] {
        let message = parse(&with(before));
        let mut edit = message.edit();
        for name in gone {
            edit.remove(&["result", name]);
        }
        assert_eq!(edit.write(), with(after), "{before} without {gone:?}");
    }
}

#[test]
fn removing_and_adding_meet_without_a_stray_comma() {
    let message = parse(r#"{"jsonrpc":"2.0","id":1,"result":{"a":1,"b":2}}"#);
    let mut edit = message.edit();
    edit.remove(&["result", "a"])
        .remove(&["result", "b"])
        .set(&["result", "c"], b"3");
    assert_eq!(edit.write(), r#"{"jsonrpc":"2.0","id":1,"result":{"c":3}}"#);
    edit.set(&["result", "b"], b"4");
    assert_eq!(
        edit.write(),
        r#"{"jsonrpc":"2.0","id":1,"result":{"c":3,"b":4}}"#
    );
}

#[test]
fn the_later_of_two_changes_counts() {
    let call = parse(CALL);
    let mut edit = call.edit();
    edit.set(&["params", "name"], b"1")
        .remove(&["params", "name"])
        .set(&["params", "name"], b"2");
    assert_eq!(edit.finish().get(&["params", "name"]), Some(&b"2"[..]));
    edit.set(&["params"], b"{}");
    assert_eq!(edit.finish().params(), Some(&b"{}"[..]));
    edit.set(&["params", "z"], b"1");
    assert_eq!(edit.finish().get(&["params", "z"]), Some(&b"1"[..]));
}

#[test]
fn a_message_can_change_its_kind() {
    let answer = parse(r#"{"jsonrpc":"2.0","id":1,"result":{"a":1}}"#);
    let failure = br#"{"code":1,"message":"m"}"#;
    let got = answer
        .edit()
        .remove(&["result"])
        .set(&["error"], failure)
        .finish();
    assert_eq!(
        (got.kind(), got.result(), got.error()),
        (Kind::Error, None, Some(&failure[..]))
    );
    let note = parse(r#"{"jsonrpc":"2.0","method":"m"}"#);
    assert_eq!(
        note.with_id(b"\"x\"").raw(),
        r#"{"id":"x","jsonrpc":"2.0","method":"m"}"#
    );
    assert_eq!(note.with_id(b"\"x\"").kind(), Kind::Request);
}

#[test]
fn a_range_is_replaced_beside_other_changes() {
    let call = parse(CALL);
    let place = call.find(&["params", "n"]).unwrap();
    let got = call
        .edit()
        .id(b"22")
        .replace(place, b"[2]")
        .remove(&["params", "name"])
        .finish();
    assert_eq!(
        got.raw(),
        r#"{ "jsonrpc":"2.0", "id":22, "method":"tools/call", "params":{ "n":[2] } }"#
    );
    assert_eq!(got.get(&["params", "n"]), Some(&b"[2]"[..]));
}

#[test]
fn changes_that_overlap_or_leave_the_message_do_no_harm() {
    let call = parse(CALL);
    let params = call.find(&["params"]).unwrap();
    let mut edit = call.edit();
    edit.set(&["params", "name"], b"\"b\"")
        .replace(params, b"{}")
        .replace(1000..2000, b"x");
    edit.replace(std::ops::Range { start: 9, end: 3 }, b"x");
    assert_eq!(edit.finish().params(), Some(&b"{}"[..]));
}

#[test]
fn no_change_is_the_same_bytes() {
    let call = parse(CALL);
    assert_eq!(call.edit().finish().raw().as_ptr(), call.raw().as_ptr());
    assert_eq!(
        call.edit().set(&[], b"1").remove(&["id"]).write().as_ptr(),
        call.raw().as_ptr()
    );
}

#[test]
fn a_value_of_many_lines_does_not_break_the_line() {
    let call = parse(CALL);
    let changed = call.edit().set(&["params", "n"], b"[1,\r\n2]").finish();
    let mut direct = Vec::new();
    call.write_line(call.edit().set(&["params", "n"], b"[1,\r\n2]"), &mut direct);
    let mut later = Vec::new();
    changed.write_line(&changed.edit(), &mut later);
    assert_eq!(direct, later);
    assert_eq!(
        direct.iter().filter(|b| matches!(b, b'\n' | b'\r')).count(),
        1
    );
}

/// A change of the model.
#[derive(Clone, Debug)]
enum Op {
    Set(Vec<String>, String),
    Remove(Vec<String>),
}

fn model_set(object: &mut Value, path: &[String], value: &Value) {
    if let [name, rest @ ..] = path {
        if !object.is_object() {
            *object = Value::Object(serde_json::Map::new());
        }
        let members = object.as_object_mut().unwrap();
        match rest {
            [] => drop(members.insert(name.clone(), value.clone())),
            rest => model_set(
                members.entry(name.clone()).or_insert(Value::Null),
                rest,
                value,
            ),
        }
    }
}

fn model_remove(object: &mut Value, path: &[String]) {
    if let ([name, rest @ ..], Some(members)) = (path, object.as_object_mut()) {
        match (rest, members.get_mut(name)) {
            ([], _) => drop(members.remove(name)),
            (rest, Some(inner)) => model_remove(inner, rest),
            (_, None) => {}
        }
    }
}

/// Paths into `params` and beside it, often meeting each other and what is there.
fn op() -> impl Strategy<Value = Op> {
    let name = prop_oneof![Just("_meta"), Just("a"), Just("é\""), Just("b")];
    let inside = proptest::collection::vec(name.prop_map(str::to_owned), 1..4);
    let path = (any::<bool>(), inside).prop_map(|(params, mut path)| {
        path.insert(
            0,
            if params {
                "params".to_owned()
            } else {
                "x-0".to_owned()
            },
        );
        path
    });
    prop_oneof![
        2 => (path.clone(), testing::value()).prop_map(|(path, value)| Op::Set(path, value)),
        1 => path.prop_map(Op::Remove),
    ]
}

/// A message whose params hold what the paths name, some of it.
fn target() -> impl Strategy<Value = String> {
    let inner = || {
        proptest::collection::btree_map(
            prop_oneof![Just("a"), Just("b"), Just("é\""), Just("c")],
            testing::value(),
            0..4,
        )
        .prop_map(|map| {
            map.into_iter()
                .map(|(k, v)| (testing::quoted(k, false), v))
                .collect::<Vec<_>>()
        })
    };
    let pad = proptest::collection::vec(testing::blank(), 1..6);
    (inner(), inner(), any::<u8>(), pad).prop_map(|(meta, mut params, shape, pad)| {
        if shape % 4 != 0 {
            params.insert(
                shape as usize % (params.len() + 1),
                ("\"_meta\"".into(), testing::object(&meta, &pad)),
            );
        }
        let mut parts: Vec<_> = [("jsonrpc", "\"2.0\""), ("id", "1"), ("method", "\"m\\/n\"")]
            .map(|(k, v)| (format!("\"{k}\""), v.to_owned()))
            .into();
        if shape % 8 != 1 {
            parts.insert(
                shape as usize % 4,
                ("\"params\"".into(), testing::object(&params, &pad)),
            );
        }
        testing::object(&parts, &pad)
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1500))]

    #[test]
    fn edits_do_what_the_same_changes_do_to_a_value(
        text in target(),
        ops in proptest::collection::vec(op(), 0..5),
        id in proptest::option::of(testing::number()),
    ) {
        let message = parse(&text);
        let mut model: Value = serde_json::from_str(&text).unwrap();
        let mut edit = message.edit();
        // Where one path leads through another, or is set and removed, the edit lets the later
        // change count whole; the model would keep objects made on the way. The rest is compared.
        let mut used: Vec<(&Vec<String>, bool)> = Vec::new();
        for op in &ops {
            let (path, sets) = match op {
                Op::Set(path, _) => (path, true),
                Op::Remove(path) => (path, false),
            };
            let disputed = |(other, set): &(&Vec<String>, bool)| {
                let within = other.starts_with(path) || path.starts_with(other);
                if *other == path { *set != sets } else { within }
            };
            if used.iter().any(disputed) {
                continue;
            }
            used.push((path, sets));
            let names: Vec<&str> = path.iter().map(String::as_str).collect();
            match op {
                Op::Set(path, value) => {
                    edit.set(&names, value.as_bytes());
                    model_set(&mut model, path, &serde_json::from_str(value).unwrap());
                }
                Op::Remove(path) => {
                    edit.remove(&names);
                    model_remove(&mut model, path);
                }
            }
        }
        if let Some(id) = &id {
            edit.id(id.as_bytes());
            model["id"] = serde_json::from_str(id).unwrap();
        }
        let got = edit.finish();
        let value: Value = serde_json::from_slice(got.raw()).unwrap();
        prop_assert_eq!(value, model);

        // What the edit says of the result is what a scan of it says.
        let limits = Limits { depth: 200, ..Limits::default() };
        let scanned = Envelope::parse(got.raw().clone(), &limits).unwrap();
        prop_assert_eq!(got.kind(), scanned.kind());
        prop_assert_eq!(got.id_bytes(), scanned.id_bytes());
        prop_assert_eq!(got.method(), scanned.method());
        prop_assert_eq!(got.params(), scanned.params());
        // The edit may have taken the only line break out; it must not have missed one.
        prop_assert!(got.multiline() || !scanned.multiline());
        prop_assert_eq!(edit.write(), got.raw());
        let (mut direct, mut later) = (Vec::new(), Vec::new());
        message.write_line(&edit, &mut direct);
        got.write_raw_line(&mut later);
        prop_assert_eq!(direct, later);
    }
}
