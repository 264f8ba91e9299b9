//! The messages chillgate itself says.
//!
//! Compact JSON on one line, every part given as bytes or text and quoted here. Everything relayed
//! goes through [`crate::Envelope`] instead; nothing here is ever used to rebuild a message.

use bytes::Bytes;

use crate::json;

/// An error. Without an id, for a message whose id could not be read, the member is left out.
///
/// JSON-RPC 2.0 section 5 would write `null` there, but no revision's schema allows a null id:
/// `RequestId` is a string or integer in all five, and since 2025-11-25 an error may lack it. The
/// Streamable HTTP transport asks for "a JSON-RPC error response that has no id" in older ones too.
/// `data` is one JSON value.
pub fn error(id: Option<&[u8]>, code: i64, message: &str, data: Option<&[u8]>) -> Bytes {
    let mut out = open(id, 64 + message.len() + data.map_or(0, <[u8]>::len));
    out.extend_from_slice(b",\"error\":{\"code\":");
    out.extend_from_slice(code.to_string().as_bytes());
    out.extend_from_slice(b",\"message\":");
    out.extend_from_slice(json::quote(message).as_bytes());
    if let Some(data) = data {
        out.extend_from_slice(b",\"data\":");
        out.extend_from_slice(data);
    }
    out.extend_from_slice(b"}}");
    out.into()
}

/// A response. `result` is one JSON object.
pub fn result(id: &[u8], result: &[u8]) -> Bytes {
    let mut out = open(Some(id), result.len() + 16);
    out.extend_from_slice(b",\"result\":");
    out.extend_from_slice(result);
    out.push(b'}');
    out.into()
}

/// A request. `params` is one JSON object.
pub fn request(id: &[u8], method: &str, params: Option<&[u8]>) -> Bytes {
    asking(Some(id), method, params)
}

/// A notification. `params` is one JSON object.
pub fn notification(method: &str, params: Option<&[u8]>) -> Bytes {
    asking(None, method, params)
}

fn asking(id: Option<&[u8]>, method: &str, params: Option<&[u8]>) -> Bytes {
    let mut out = open(id, 32 + method.len() + params.map_or(0, <[u8]>::len));
    out.extend_from_slice(b",\"method\":");
    out.extend_from_slice(json::quote(method).as_bytes());
    if let Some(params) = params {
        out.extend_from_slice(b",\"params\":");
        out.extend_from_slice(params);
    }
    out.push(b'}');
    out.into()
}

/// `{"jsonrpc":"2.0"` and the id.
fn open(id: Option<&[u8]>, more: usize) -> Vec<u8> {
    let mut out = Vec::with_capacity(32 + id.map_or(0, <[u8]>::len) + more);
    out.extend_from_slice(b"{\"jsonrpc\":\"2.0\"");
    if let Some(id) = id {
        out.extend_from_slice(b",\"id\":");
        out.extend_from_slice(id);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Envelope, Id, Kind, Limits, code};

    fn parsed(raw: Bytes) -> Envelope {
        Envelope::parse(raw, &Limits::default()).unwrap()
    }

    #[test]
    fn what_we_say_is_accepted_by_our_own_scan() {
        let id = Id::text("a\"\n");
        let said = parsed(request(
            id.as_bytes(),
            "tools/call",
            Some(br#"{"name":"x"}"#),
        ));
        assert_eq!((said.kind(), said.id()), (Kind::Request, Some(id)));
        assert_eq!(said.params(), Some(&br#"{"name":"x"}"#[..]));
        let said = parsed(notification("notifications/cancelled", None));
        assert_eq!((said.kind(), said.params()), (Kind::Notification, None));
        let said = parsed(result(b"7", b"{}"));
        assert_eq!(
            (said.kind(), said.result()),
            (Kind::Response, Some(&b"{}"[..]))
        );
        let said = parsed(error(Some(b"7"), code::DENIED, "no \"x\"\n", Some(b"[1]")));
        assert_eq!(said.kind(), Kind::Error);
        assert_eq!(said.text(&["error", "message"]).unwrap(), "no \"x\"\n");
        assert_eq!(said.get(&["error", "data"]), Some(&b"[1]"[..]));
    }

    #[test]
    fn an_error_for_nobody_has_no_id_member() {
        let said = error(None, code::PARSE_ERROR, "invalid JSON", None);
        assert_eq!(
            said,
            r#"{"jsonrpc":"2.0","error":{"code":-32700,"message":"invalid JSON"}}"#
        );
        assert_eq!(parsed(said).id(), None);
    }
}
