//! Taking a POST in: its headers, then its body, bounded while it is read.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::Poll;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use chillgate_wire::code;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use http_body_util::BodyExt;
use hyper::body::{Body as _, Incoming};
use tokio::time::Instant;

use super::Reply;
use super::listen::OneRequest;
use super::reply::refuse;
use crate::budget::{Budget, Held};

/// What nearly every host says it accepts.
const USUAL: &str = "application/json, text/event-stream";
/// How long a body that is refused is still read.
const LINGER: Duration = Duration::from_millis(500);
/// How long a body may take to arrive, and so many bytes for each second more. Whoever sends a byte
/// now and then to keep a place is not waited for; a long message over a slow line is.
const BODY: Duration = Duration::from_secs(10);
const PACE: usize = 4 << 10;

/// A body whose length two readers could read differently (request smuggling) ends the connection:
/// any transfer coding but plain `chunked` (RFC 9112, section 6.3), and a switch of protocols.
pub fn check_framing(headers: &HeaderMap) -> Option<Box<Reply>> {
    let mut codings = headers.get_all(header::TRANSFER_ENCODING).iter();
    let is_plain = match (codings.next(), codings.next()) {
        (None, _) => true,
        (Some(coding), None) => {
            coding.as_bytes().eq_ignore_ascii_case(b"chunked")
                && !headers.contains_key(header::CONTENT_LENGTH)
        }
        (Some(_), Some(_)) => false,
    };
    let text = if !is_plain {
        "send the body with `Content-Length` or as plain `Transfer-Encoding: chunked`"
    } else if headers.contains_key(header::UPGRADE) {
        "this endpoint speaks HTTP only; `Upgrade` is not taken"
    } else {
        return None;
    };
    let mut reply = refuse(StatusCode::BAD_REQUEST, code::INVALID_REQUEST, text);
    reply
        .headers_mut()
        .insert(header::CONNECTION, HeaderValue::from_static("close"));
    Some(Box::new(reply))
}

/// A header that may stand once: two readers could take two of them for different ones.
pub fn single<'h>(
    headers: &'h HeaderMap,
    name: &HeaderName,
) -> Result<Option<&'h HeaderValue>, Box<Reply>> {
    let mut values = headers.get_all(name).iter();
    let first = values.next();
    if values.next().is_none() {
        return Ok(first);
    }
    let text = format!("send one header `{name}`, not several");
    Err(Box::new(refuse(
        StatusCode::BAD_REQUEST,
        code::INVALID_REQUEST,
        &text,
    )))
}

/// The media type of what is posted.
pub fn check_content(headers: &HeaderMap) -> Result<(), Box<Reply>> {
    let wrong = |status, text: &str| Err(Box::new(refuse(status, code::INVALID_REQUEST, text)));
    let mut kinds = headers.get_all(header::CONTENT_TYPE).iter();
    let is_json = match (kinds.next(), kinds.next()) {
        (Some(kind), None) => media_type(kind).eq_ignore_ascii_case("application/json"),
        _ => false,
    };
    if !is_json {
        return wrong(
            StatusCode::UNSUPPORTED_MEDIA_TYPE,
            "send `Content-Type: application/json`",
        );
    }
    let encoded = headers.get(header::CONTENT_ENCODING);
    if encoded.is_some_and(|encoding| !encoding.as_bytes().eq_ignore_ascii_case(b"identity")) {
        return wrong(
            StatusCode::UNSUPPORTED_MEDIA_TYPE,
            "compressed bodies are not taken",
        );
    }
    Ok(())
}

/// What a host would rather have where it can have either: it has to take both.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rather {
    /// One message, unless something comes before it.
    Json,
    /// A stream, which a host of the older revisions can come back to.
    Events,
}

/// The media types of a POST: what it brings, and what it takes back, the first of them rather.
pub fn check_headers(headers: &HeaderMap) -> Result<Rather, Box<Reply>> {
    check_content(headers)?;
    let accept = headers.get(header::ACCEPT).map(HeaderValue::as_bytes);
    if accept.is_some_and(|accept| accept == USUAL.as_bytes()) {
        return Ok(Rather::Json);
    }
    let takes_both = accepts(headers, "application/json") && accepts(headers, "text/event-stream");
    if !takes_both {
        let text = "send `Accept: application/json, text/event-stream`";
        let status = StatusCode::NOT_ACCEPTABLE;
        return Err(Box::new(refuse(status, code::INVALID_REQUEST, text)));
    }
    let mut entries = accept.unwrap_or_default().split(|byte| *byte == b',');
    let first = entries.next().unwrap_or_default().trim_ascii();
    Ok(if first.eq_ignore_ascii_case(b"text/event-stream") {
        Rather::Events
    } else {
        Rather::Json
    })
}

/// The media type without its parameters.
fn media_type(value: &HeaderValue) -> &str {
    value
        .to_str()
        .unwrap_or_default()
        .split(';')
        .next()
        .unwrap_or_default()
        .trim()
}

/// Whether `Accept` lists this type (or a wildcard for it) without `q=0`.
pub fn accepts(headers: &HeaderMap, wanted: &str) -> bool {
    let main = wanted.split('/').next().unwrap_or_default();
    headers.get_all(header::ACCEPT).iter().any(|value| {
        value.to_str().unwrap_or_default().split(',').any(|entry| {
            let mut parts = entry.split(';').map(str::trim);
            let kind = parts.next().unwrap_or_default();
            let fits = kind.eq_ignore_ascii_case(wanted)
                || kind == "*/*"
                || kind
                    .strip_suffix("/*")
                    .is_some_and(|kind| kind.eq_ignore_ascii_case(main));
            fits && !parts
                .any(|parameter| matches!(parameter, "q=0" | "q=0.0" | "q=0.00" | "q=0.000"))
        })
    })
}

/// The whole body, at most `cap` bytes, paid for from the budget until the guard is dropped.
pub async fn whole(
    mut body: Incoming,
    headers: &HeaderMap,
    cap: usize,
    budget: &Budget,
    place: &OneRequest,
) -> Result<(Bytes, Held), Box<Reply>> {
    let too_large = || {
        let text = format!("a message may have {cap} bytes (`limits.message`)");
        Box::new(refuse(
            StatusCode::PAYLOAD_TOO_LARGE,
            code::INVALID_REQUEST,
            &text,
        ))
    };
    let length = headers
        .get(header::CONTENT_LENGTH)
        .and_then(|value| value.to_str().ok()?.parse().ok());
    if length.is_some_and(|length: u64| length > cap as u64) {
        discard(&mut body, cap.saturating_mul(4), place).await;
        return Err(too_large());
    }
    let mut held = budget.hold(0).map_err(|_| no_room())?;
    let arrived = AtomicUsize::new(0);
    let reading = async {
        let mut first: Option<Bytes> = None;
        let mut whole = BytesMut::new();
        loop {
            let frame = tokio::select! {
                biased;
                frame = body.frame() => match frame {
                    Some(frame) => frame.ok(),
                    None => break,
                },
                () = place.until_ended() => None,
            };
            let Some(frame) = frame else {
                let text = "the body ended before it was complete";
                return Err(Box::new(refuse(
                    StatusCode::BAD_REQUEST,
                    code::PARSE_ERROR,
                    text,
                )));
            };
            let Ok(data) = frame.into_data() else {
                continue;
            };
            let so_far = first.as_ref().map_or(whole.len(), Bytes::len);
            if so_far + data.len() > cap {
                return Err(too_large());
            }
            held.grow(data.len()).map_err(|_| no_room())?;
            arrived.fetch_add(data.len(), Ordering::Relaxed);
            // Most bodies come in one piece and are not copied.
            if so_far == 0 {
                first = Some(data);
                if body.is_end_stream() {
                    break;
                }
            } else {
                if let Some(first) = first.take() {
                    whole.reserve(length.map_or(0, |length| length as usize).min(cap));
                    whole.extend_from_slice(&first);
                }
                whole.extend_from_slice(&data);
            }
        }
        Ok(first.unwrap_or_else(|| whole.freeze()))
    };
    let read = {
        let mut reading = std::pin::pin!(reading);
        // Most bodies come together with their headers and need no timer.
        match futures_util::poll!(&mut reading) {
            Poll::Ready(read) => Ok(read),
            Poll::Pending => {
                Box::pin(async {
                    tokio::select! {
                        read = reading => Ok(read),
                        () = too_slow(&arrived) => Err(()),
                    }
                })
                .await
            }
        }
    };
    let raw = if let Ok(read) = read {
        match read {
            Ok(raw) => raw,
            Err(refused) => {
                discard(&mut body, cap.saturating_mul(4), place).await;
                return Err(refused);
            }
        }
    } else {
        let text = "the body came too slowly: it may take 10 s, and a second more for each 4 KiB";
        return Err(Box::new(refuse(
            StatusCode::REQUEST_TIMEOUT,
            code::PARSE_ERROR,
            text,
        )));
    };
    Ok((raw, held))
}

/// Resolves when a body should have been here by now, given how much of it has come.
async fn too_slow(arrived: &AtomicUsize) {
    let began = Instant::now();
    loop {
        let more = arrived.load(Ordering::Relaxed) / PACE;
        let until = began + BODY + Duration::from_secs(more as u64);
        if until <= Instant::now() {
            return;
        }
        tokio::time::sleep_until(until).await;
    }
}

/// Reads a little further what will not be taken: a host that is still sending would lose the
/// reply to a connection that is reset under it (RFC 9112, section 9.6).
async fn discard(body: &mut Incoming, most: usize, place: &OneRequest) {
    let discarding = async {
        let mut left = most;
        while let Some(Ok(frame)) = body.frame().await {
            let size = frame.data_ref().map_or(0, Bytes::len);
            match left.checked_sub(size) {
                Some(rest) => left = rest,
                None => return,
            }
        }
    };
    tokio::select! {
        biased;
        () = discarding => {}
        () = place.until_ended() => {}
        () = tokio::time::sleep(LINGER) => {}
    }
}

fn no_room() -> Box<Reply> {
    let text = "chillgate holds as many bytes as `limits.memory` allows; try again in a second";
    let mut reply = refuse(StatusCode::SERVICE_UNAVAILABLE, code::BUSY, text);
    reply
        .headers_mut()
        .insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
    Box::new(reply)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(name: header::HeaderName, value: &'static str) -> HeaderMap {
        HeaderMap::from_iter([(name, HeaderValue::from_static(value))])
    }

    #[test]
    fn accept_is_read_as_http_means_it() {
        for (accept, json, events) in [
            ("application/json, text/event-stream", true, true),
            ("text/event-stream;q=0.5,application/json", true, true),
            ("*/*", true, true),
            ("application/*", true, false),
            ("application/json", true, false),
            ("text/html", false, false),
            ("application/json;q=0, text/event-stream", false, true),
            ("", false, false),
        ] {
            let headers = with(header::ACCEPT, accept);
            assert_eq!(accepts(&headers, "application/json"), json, "{accept}");
            assert_eq!(accepts(&headers, "text/event-stream"), events, "{accept}");
        }
        assert!(!accepts(&HeaderMap::new(), "application/json"));
    }

    #[test]
    fn the_first_that_a_host_lists_is_what_it_would_rather_have() {
        for (accept, rather) in [
            ("application/json, text/event-stream", Rather::Json),
            ("application/json,text/event-stream", Rather::Json),
            ("text/event-stream, application/json", Rather::Events),
            ("Text/Event-Stream,application/json", Rather::Events),
            ("text/event-stream;q=0.5, application/json", Rather::Json),
            ("*/*", Rather::Json),
        ] {
            let mut headers = with(header::ACCEPT, accept);
            headers.insert(
                header::CONTENT_TYPE,
                HeaderValue::from_static("application/json"),
            );
            assert_eq!(check_headers(&headers).ok(), Some(rather), "{accept}");
        }
    }
}
