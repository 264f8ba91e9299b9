//! The wording of replies: one JSON message, an event stream, or why there is none.
//!
//! Apart so that what a request leads to reads without how it is put into HTTP. Nothing here
//! decides which reply it is.

use chillgate_wire::{Envelope, Fault, Id, code, message};
use http::{HeaderMap, HeaderName, HeaderValue, Response, StatusCode, header};

use super::Reply;
use super::body::{Body, Media};
use crate::era::host::not_spoken;
use crate::gate::{Answer, Refusal, Spent};
use crate::identity::Denied;

const EVENT_STREAM: HeaderValue = HeaderValue::from_static("text/event-stream");
const UNCHANGED: HeaderValue = HeaderValue::from_static("no-cache, no-transform");
/// What keeps nginx from holding a stream back.
const UNBUFFERED: HeaderName = HeaderName::from_static("x-accel-buffering");
const RATE_LIMIT: HeaderName = HeaderName::from_static("ratelimit");
const RATE_LIMIT_POLICY: HeaderName = HeaderName::from_static("ratelimit-policy");
const JSON: HeaderValue = HeaderValue::from_static("application/json");

/// The scopes that a refused call needs, on their way to where the challenge is worded.
#[derive(Clone, Debug)]
pub(super) struct Lacking(pub Box<str>);

/// A call's answer as the one message of a reply.
pub(super) fn of(answer: Answer) -> Reply {
    let Some(message) = answer.message else {
        // Cancelled: JSON-RPC gives no answer, so the stream just ends.
        return events(Body::stream(futures_util::stream::empty()));
    };
    let mut reply = plain(answer.status, Body::full(message.raw().clone()));
    if let Some(scope) = answer.lacking {
        reply.extensions_mut().insert(Lacking(scope));
    }
    if answer.status != StatusCode::OK
        && let Some(after) = answer.retry_after
    {
        let seconds = after.as_secs() + u64::from(after.subsec_nanos() > 0);
        reply
            .headers_mut()
            .insert(header::RETRY_AFTER, HeaderValue::from(seconds.max(1)));
    }
    if answer.status == StatusCode::TOO_MANY_REQUESTS
        && let Some(spent) = answer.spent
    {
        let after = reply.headers().get(header::RETRY_AFTER).cloned();
        rate_limit(reply.headers_mut(), &spent, after.as_ref());
    }
    reply
}

/// What is allowed and what is left of it (draft-ietf-httpapi-ratelimit-headers-11). It agrees with
/// `Retry-After`.
fn rate_limit(headers: &mut HeaderMap, spent: &Spent, after: Option<&HeaderValue>) {
    let Spent {
        quota,
        window,
        remaining,
        ..
    } = spent;
    let name = structured(&spent.policy);
    let unit = if spent.is_bytes {
        ";qu=\"content-bytes\""
    } else {
        ""
    };
    let policy = format!("{name};q={quota};w={window}{unit}");
    let until = after.and_then(|after| after.to_str().ok());
    let until = until.map(|seconds| format!(";t={seconds}"));
    let left = format!("{name};r={remaining}{}", until.unwrap_or_default());
    for (field, value) in [(RATE_LIMIT_POLICY, policy), (RATE_LIMIT, left)] {
        if let Ok(value) = HeaderValue::try_from(value) {
            headers.insert(field, value);
        }
    }
}

/// A string of RFC 9651, which knows visible ASCII only.
fn structured(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 2);
    out.push('"');
    for c in text.chars() {
        match c {
            '"' | '\\' => out.extend(['\\', c]),
            ' '..='~' => out.push(c),
            _ => out.push('?'),
        }
    }
    out.push('"');
    out
}

/// A web page may read it only if it is told so.
pub(super) fn for_origin(mut reply: Reply, origin: Option<HeaderValue>) -> Reply {
    if let Some(origin) = origin {
        let headers = reply.headers_mut();
        headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, origin);
        headers.insert(
            header::ACCESS_CONTROL_EXPOSE_HEADERS,
            HeaderValue::from_static("mcp-session-id"),
        );
        headers.append(header::VARY, HeaderValue::from_static("origin"));
    }
    reply
}

pub(super) fn not_modern(message: &Envelope) -> Reply {
    worded(
        StatusCode::BAD_REQUEST,
        message.id().as_ref(),
        &not_spoken(message),
    )
}

pub(super) fn worded(status: StatusCode, id: Option<&Id>, refusal: &Refusal) -> Reply {
    let (code, text, data) = refusal.words();
    let data = data.map(|data| data.to_string());
    let raw = message::error(
        id.map(Id::as_bytes),
        code,
        &text,
        data.as_deref().map(str::as_bytes),
    );
    let mut reply = plain(status, Body::full(raw));
    if status == StatusCode::SERVICE_UNAVAILABLE {
        reply
            .headers_mut()
            .insert(header::RETRY_AFTER, HeaderValue::from_static("5"));
    }
    reply
}

pub(super) fn faulty(fault: &Fault) -> Reply {
    refuse_id(
        StatusCode::BAD_REQUEST,
        fault.id.as_ref(),
        fault.code,
        &fault.to_string(),
    )
}

/// Who has no identity here, and how to get one.
pub(super) fn unauthorized(denied: &Denied, challenge: HeaderValue) -> Reply {
    let after = denied.retry_after();
    let status = match after {
        Some(_) => StatusCode::SERVICE_UNAVAILABLE,
        None => StatusCode::UNAUTHORIZED,
    };
    let mut reply = refuse(status, code::INVALID_REQUEST, &denied.to_string());
    let headers = reply.headers_mut();
    match after {
        Some(after) => headers.insert(header::RETRY_AFTER, after.as_secs().into()),
        None => headers.insert(header::WWW_AUTHENTICATE, challenge),
    };
    reply
}

/// A reply with a JSON-RPC error that belongs to no request.
pub(super) fn refuse(status: StatusCode, code: i64, text: &str) -> Reply {
    refuse_id(status, None, code, text)
}

pub(super) fn refuse_id(status: StatusCode, id: Option<&Id>, code: i64, text: &str) -> Reply {
    plain(
        status,
        Body::full(message::error(id.map(Id::as_bytes), code, text, None)),
    )
}

pub(super) fn not_allowed(methods: &'static str, text: &str) -> Box<Reply> {
    let mut reply = refuse(StatusCode::METHOD_NOT_ALLOWED, code::INVALID_REQUEST, text);
    let allow = HeaderValue::from_static(methods);
    reply.headers_mut().insert(header::ALLOW, allow);
    Box::new(reply)
}

pub(super) fn plain(status: StatusCode, body: Body) -> Reply {
    let mut reply = Response::new(body);
    *reply.status_mut() = status;
    reply
}

pub(super) fn events(body: Body) -> Reply {
    Response::new(body)
}

/// Names what the body is, beside the fields that a reply has already. `spare` are the request's own
/// fields, which nobody needs any more: its room goes through hyper to the connection's next request.
pub(super) fn dressed(mut reply: Reply, mut spare: HeaderMap) -> Reply {
    spare.clear();
    match reply.body().media() {
        Media::None => {}
        Media::Json => {
            spare.insert(header::CONTENT_TYPE, JSON);
        }
        Media::Events => {
            spare.insert(header::CONTENT_TYPE, EVENT_STREAM);
            spare.insert(header::CACHE_CONTROL, UNCHANGED);
            spare.insert(UNBUFFERED, HeaderValue::from_static("no"));
        }
    }
    spare.extend(std::mem::take(reply.headers_mut()));
    *reply.headers_mut() = spare;
    reply
}

pub(super) fn preflight(asked: &HeaderMap) -> Reply {
    let mut reply = plain(StatusCode::NO_CONTENT, Body::empty());
    let headers = reply.headers_mut();
    headers.insert(
        header::ACCESS_CONTROL_ALLOW_METHODS,
        HeaderValue::from_static("POST, GET, DELETE"),
    );
    headers.insert(
        header::ACCESS_CONTROL_MAX_AGE,
        HeaderValue::from_static("600"),
    );
    if let Some(names) = asked.get(header::ACCESS_CONTROL_REQUEST_HEADERS) {
        headers.insert(header::ACCESS_CONTROL_ALLOW_HEADERS, names.clone());
    }
    reply
}
