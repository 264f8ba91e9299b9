//! The cursor of a merged list: which servers have more pages, and each one's own cursor.
//!
//! Sealed with a key of this process, so that a host can neither read nor make one up: a server's
//! cursor is that server's business. It is hexadecimal text of a tag and the sealed list.

use std::sync::OnceLock;

use chillgate_wire::json;
use data_encoding::HEXLOWER;
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

/// Half of a SHA-256 is tag enough for something that opens nothing but a page.
const TAG: usize = 16;

fn key() -> &'static [u8; 32] {
    static KEY: OnceLock<[u8; 32]> = OnceLock::new();
    KEY.get_or_init(crate::random::bytes)
}

fn tag(who: &str, list: &str, text: &[u8]) -> [u8; 32] {
    // Fixed-length digests of each part: no two different inputs run together.
    let mut inner = Sha256::new();
    inner.update(key());
    for part in [who.as_bytes(), list.as_bytes(), text] {
        inner.update(Sha256::digest(part));
    }
    // Hashed twice, so that the tag cannot be extended.
    Sha256::digest(inner.finalize()).into()
}

/// Seals where each server's list goes on, for one session and one list.
pub fn seal(session: &str, list: &str, places: &[(String, String)]) -> String {
    let text = serde_json::to_vec(places).unwrap_or_default();
    let tag = tag(session, list, &text);
    HEXLOWER.encode(&[&tag[..TAG], &text].concat())
}

/// Opens a cursor that this process has sealed for this session and list.
pub fn open(session: &str, list: &str, sealed: &str) -> Option<Vec<(String, String)>> {
    if sealed.len() > 64 << 10 {
        return None;
    }
    let bytes = HEXLOWER.decode(sealed.as_bytes()).ok()?;
    let (seal, text) = bytes.split_at_checked(TAG)?;
    let right = tag(session, list, text);
    if !bool::from(seal.ct_eq(&right[..TAG])) {
        return None;
    }
    serde_json::from_slice(text).ok()
}

/// `nextCursor` as a member to append to a result, or nothing.
pub fn member(session: &str, list: &str, places: &[(String, String)]) -> String {
    if places.is_empty() {
        return String::new();
    }
    format!(
        r#","nextCursor":{}"#,
        json::quote(&seal(session, list, places))
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cursor_opens_only_where_it_was_sealed() {
        let places = vec![("files".to_owned(), "page 2 \u{e4}".to_owned())];
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
