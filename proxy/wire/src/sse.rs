//! Writing an event stream: the frames that carry messages to a host over HTTP.
//!
//! Only the writing side, and only the frames MCP uses (WHATWG HTML section 9.2.6 for the grammar).
//! It never reads a stream and never decides when to send what.

use crate::envelope::join_lines;

/// One message. `id` makes the event resumable (2025-03-26 to 2025-11-25). Line breaks between the
/// message's tokens become spaces: each would need a `data:` line of its own.
pub fn event(message: &[u8], id: Option<&str>, out: &mut Vec<u8>) {
    out.reserve(message.len() + 64);
    // The name is the default one; the first HTTP+SSE clients listened for it by name.
    out.extend_from_slice(b"event: message\n");
    if let Some(id) = id {
        field("id", id, out);
    }
    out.extend_from_slice(b"data: ");
    let start = out.len();
    out.extend_from_slice(message);
    join_lines(out, start);
    out.extend_from_slice(b"\n\n");
}

/// The first event of an HTTP+SSE stream: where to post (2024-11-05).
pub fn endpoint(uri: &str, out: &mut Vec<u8>) {
    out.extend_from_slice(b"event: endpoint\n");
    field("data", uri, out);
    out.push(b'\n');
}

/// Opens a resumable stream (2025-11-25, basic/transports): an id with empty data, and with
/// `retry_ms` how long to wait before coming back.
pub fn priming(id: &str, retry_ms: Option<u64>, out: &mut Vec<u8>) {
    field("id", id, out);
    if let Some(wait) = retry_ms {
        field("retry", &wait.to_string(), out);
    }
    out.extend_from_slice(b"data: \n\n");
}

/// A keep-alive that no client acts on.
pub fn comment(out: &mut Vec<u8>) {
    out.extend_from_slice(b":\n\n");
}

/// One field; bytes that would end the line, or void an id, are left out.
fn field(name: &str, value: &str, out: &mut Vec<u8>) {
    out.extend_from_slice(name.as_bytes());
    out.extend_from_slice(b": ");
    out.extend(
        value
            .bytes()
            .filter(|b| !matches!(b, b'\n' | b'\r' | b'\0')),
    );
    out.push(b'\n');
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(write: impl FnOnce(&mut Vec<u8>)) -> String {
        let mut out = Vec::new();
        write(&mut out);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn a_message_is_one_data_line_however_it_was_spaced() {
        let got = written(|out| event(b"{\r\n \"a\":\n1}", Some("s-7"), out));
        assert_eq!(got, "event: message\nid: s-7\ndata: {   \"a\": 1}\n\n");
        let got = written(|out| event(b"{}", None, out));
        assert_eq!(got, "event: message\ndata: {}\n\n");
    }

    #[test]
    fn a_field_cannot_smuggle_a_line() {
        let got = written(|out| endpoint("/m?s=1\n\ndata: {}\r\0", out));
        assert_eq!(got, "event: endpoint\ndata: /m?s=1data: {}\n\n");
    }

    #[test]
    fn a_stream_is_primed_with_an_id_and_no_message() {
        assert_eq!(
            written(|out| priming("s-0", Some(500), out)),
            "id: s-0\nretry: 500\ndata: \n\n"
        );
        assert_eq!(
            written(|out| priming("s-0", None, out)),
            "id: s-0\ndata: \n\n"
        );
        assert_eq!(written(comment), ":\n\n");
    }
}
