//! The cursor of a merged list: which servers have more pages, and each one's own cursor.
//!
//! Sealed, so that no host can make one up: a server's cursor is that server's business. It is
//! hexadecimal text of the key's number, a tag and the list, and good at every replica.

use chillgate_wire::json;
use data_encoding::HEXLOWER;

use crate::replicas::Ring;

/// Half of a SHA-256 is tag enough for something that opens nothing but a page.
const TAG: usize = 16;

const KEY: usize = 8;

/// Seals where each server's list goes on, for one reader and one list.
pub fn seal(ring: &Ring, reader: &str, list: &str, places: &[(String, String)]) -> String {
    let text = serde_json::to_vec(places).unwrap_or_default();
    let tag = ring.tag("cursor", &[reader.as_bytes(), list.as_bytes(), &text]);
    HEXLOWER.encode(&[&ring.current().to_be_bytes(), &tag[..TAG], &text].concat())
}

/// Opens a cursor that was sealed for this reader and list.
pub fn open(ring: &Ring, reader: &str, list: &str, sealed: &str) -> Option<Vec<(String, String)>> {
    if sealed.len() > 64 << 10 {
        return None;
    }
    let bytes = HEXLOWER.decode(sealed.as_bytes()).ok()?;
    let (key, rest) = bytes.split_at_checked(KEY)?;
    let (tag, text) = rest.split_at_checked(TAG)?;
    let key = u64::from_be_bytes(key.try_into().ok()?);
    let parts = [reader.as_bytes(), list.as_bytes(), text];
    if !ring.verifies("cursor", key, &parts, tag) {
        return None;
    }
    serde_json::from_slice(text).ok()
}

/// `nextCursor` as a member to append to a result, or nothing.
pub fn member(ring: &Ring, reader: &str, list: &str, places: &[(String, String)]) -> String {
    if places.is_empty() {
        return String::new();
    }
    format!(
        r#","nextCursor":{}"#,
        json::quote(&seal(ring, reader, list, places))
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cursor_opens_only_where_it_was_sealed() {
        let places = vec![("files".to_owned(), "page 2 \u{e4}".to_owned())];
        let ring = Ring::own();
        let seal = |reader, list, places: &[_]| seal(&ring, reader, list, places);
        let open = |reader, list, sealed: &str| open(&ring, reader, list, sealed);
        let sealed = seal("s1", "tools/list", &places);
        assert_eq!(open("s1", "tools/list", &sealed), Some(places));
        assert_eq!(open("s2", "tools/list", &sealed), None);
        assert_eq!(open("s1", "prompts/list", &sealed), None);
        let mut forged = sealed.clone().into_bytes();
        let last = forged.len() - 1;
        forged[last] = if forged[last] == b'0' { b'1' } else { b'0' };
        assert_eq!(
            open("s1", "tools/list", &String::from_utf8(forged).expect("hex")),
            None
        );
        assert_eq!(open("s1", "tools/list", "zz"), None);
        assert_eq!(open("s1", "tools/list", ""), None);
    }
}
