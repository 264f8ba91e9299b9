//! JSON as `serde_json` reads it, but for numbers that no float holds: those are read as `null`.
//!
//! It stands apart because servers of tests must understand what is around such a number: they give
//! back the bytes, and are asked by name. It never changes a byte of what it reads.

use std::collections::BTreeMap;

use serde_json::Value;
use serde_json::value::RawValue;

/// The message in these bytes; `None`: they are no JSON.
pub fn read(text: &[u8]) -> Option<Value> {
    if let Ok(value) = serde_json::from_slice(text) {
        return Some(value);
    }
    if let Ok(members) = serde_json::from_slice::<BTreeMap<String, &RawValue>>(text) {
        let read = |(name, value): (String, &RawValue)| Some((name, read(value.get().as_bytes())?));
        return members.into_iter().map(read).collect();
    }
    if let Ok(items) = serde_json::from_slice::<Vec<&RawValue>>(text) {
        let read = |item: &RawValue| read(item.get().as_bytes());
        return items.into_iter().map(read).collect();
    }
    let leaf = serde_json::from_slice::<&RawValue>(text);
    leaf.is_ok().then_some(Value::Null)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn only_numbers_beyond_a_float_are_lost() {
        let text = br#"{"id":7,"params":{"a":[1e400,2],"b":"1e400"}}"#;
        let expected = json!({"id": 7, "params": {"a": [null, 2], "b": "1e400"}});
        assert_eq!(read(text), Some(expected));
        for broken in [&b"{"[..], b"", b"{\"a\":1e400", b"1e400 x"] {
            assert_eq!(read(broken), None);
        }
    }
}
