//! Towards hosts: from a host's era to the hub, and back.

use std::sync::{Arc, LazyLock};

use bytes::Bytes;
use chillgate_wire::meta::Hop;
use chillgate_wire::{Envelope, Era, Revision, code, json, meta, method};
use http::StatusCode;
use memchr::memmem::Finder;
use serde_json::json as value;

use crate::backend::said::{no_level, severity};
use crate::era::rounds;
use crate::exchange::Exchange;
use crate::gate::{Answer, Refusal};

/// Takes a request in: what a modern host may not ask is refused, and what it says of this one
/// request is kept. The message stays as it came.
pub fn understand(exchange: &Arc<Exchange>, request: Envelope) -> Result<Envelope, Refusal> {
    if exchange.session.era() == Era::Legacy {
        return Ok(request);
    }
    let name = request.method().unwrap_or_default();
    if !is_modern(name) {
        return Err(Refusal::Answered {
            code: code::METHOD_NOT_FOUND,
            message: format!("Method not found: {name}"),
            data: None,
        });
    }
    exchange.set_log_level(log_level(&request)?);
    rounds::check_responses(&request)?;
    Ok(request)
}

/// A call goes on in the name of another request of its host: what this one says holds from now on.
pub fn take_up(exchange: &Exchange, request: &Envelope) -> Result<(), Refusal> {
    exchange.set_log_level(log_level(request)?);
    let token = request.get(&["params", "_meta", "progressToken"]);
    exchange.set_token(token.map(Bytes::copy_from_slice));
    Ok(())
}

fn log_level(request: &Envelope) -> Result<Option<u8>, Refusal> {
    let Some(name) = request.text(&["params", "_meta", meta::LOG_LEVEL]) else {
        return Ok(None);
    };
    severity(&name).map(Some).ok_or_else(|| Refusal::Answered {
        code: code::INVALID_PARAMS,
        message: no_level(meta::LOG_LEVEL),
        data: None,
    })
}

/// Whether the revision that a modern request names is spoken here.
pub fn is_spoken(hop: &Hop<'_>) -> bool {
    Revision::known(&hop.version).is_some_and(|revision| revision.era() == Era::Modern)
}

/// The `params` of an `initialize` that say what each modern request says of its host.
///
/// # Errors
/// The revision is not spoken here.
pub fn greeting(hop: &Hop<'_>) -> Result<Bytes, Refusal> {
    if !is_spoken(hop) {
        return Err(unsupported(&hop.version, &Revision::ALL));
    }
    let client = hop.client.unwrap_or(br#"{"name":"unknown","version":"0"}"#);
    let version = json::quote(&hop.version);
    let parts: [&[u8]; 7] = [
        br#"{"protocolVersion":"#,
        version.as_bytes(),
        br#","capabilities":"#,
        hop.capabilities,
        br#","clientInfo":"#,
        client,
        b"}",
    ];
    Ok(parts.concat().into())
}

/// Whether a modern host may send it: what the revision took away is as unknown as what never was,
/// and what chillgate does not know is for the server to judge.
pub fn is_modern(name: &str) -> bool {
    !matches!(
        name,
        "initialize"
            | "ping"
            | "logging/setLevel"
            | "resources/subscribe"
            | "resources/unsubscribe"
            | "tasks/list"
            | "tasks/result"
    )
}

/// What of a request is still needed when its answer is put into words.
pub fn remember(exchange: &Exchange, request: &Envelope) -> Option<&'static str> {
    match exchange.session.era() {
        Era::Legacy => None,
        Era::Modern => method::known(request.method()?),
    }
}

/// The answer in the host's words. `name` is the request's method, where it is a known one.
pub fn express(exchange: &Exchange, name: Option<&'static str>, answer: Answer) -> Answer {
    let Some(message) = answer.message.as_ref() else {
        return answer;
    };
    if exchange.session.era() == Era::Legacy {
        return answer;
    }
    if let Some(asked) = rounds::of_url_error(exchange, message) {
        return asked;
    }
    let mut edit = message.edit();
    if message.id_bytes() != Some(exchange.host_id.as_bytes()) {
        edit.id(exchange.host_id.as_bytes());
    }
    let mut status = answer.status;
    if let Some(result) = message.result() {
        if name == Some("tools/list")
            && let Some(tools) = without_execution(result)
        {
            edit.set(&["result", "tools"], tools);
        }
        let mut add = |member: &'static str, text: &'static [u8]| {
            if message.find(&["result", member]).is_none() {
                edit.set(&["result", member], text);
            }
        };
        add("resultType", br#""complete""#);
        if name.is_some_and(is_cacheable) {
            add("ttlMs", b"0");
            add("cacheScope", br#""private""#);
        }
    } else if let Some(code) = message.get(&["error", "code"]).and_then(json::integer) {
        let (code, of_code) = in_modern_words(code);
        if let Some(code) = code {
            edit.set(&["error", "code"], code.to_string().into_bytes());
        }
        if status == StatusCode::OK {
            status = of_code;
        }
    }
    Answer {
        message: Some(edit.finish()),
        status,
        retry_after: answer.retry_after,
        lacking: answer.lacking,
        spent: answer.spent,
    }
}

static EXECUTION: LazyLock<Finder<'static>> = LazyLock::new(|| Finder::new(b"\"execution\""));

/// The tools of a list without what 2025-11-25 says of running them as tasks (eras, b.6). `None`:
/// none says it.
fn without_execution(result: &[u8]) -> Option<Vec<u8>> {
    EXECUTION.find(result)?;
    let tools = &result[json::member(result, "tools")?];
    let kept: Vec<_> = json::items(tools)
        .map(|at| json::without(&tools[at], "execution"))
        .collect();
    Some([b"[", kept.join(&b","[..]).as_slice(), b"]"].concat())
}

/// The results that say for how long they hold (R-088).
fn is_cacheable(name: &str) -> bool {
    method::is_list(name).is_some() || matches!(name, "resources/read" | "server/discover")
}

/// The code that a modern host reads, where it is another one, and the HTTP status it comes with
/// (R-006, R-007, R-065).
fn in_modern_words(code: i64) -> (Option<i64>, StatusCode) {
    match code {
        code::RESOURCE_NOT_FOUND => (Some(code::INVALID_PARAMS), StatusCode::OK),
        code::METHOD_NOT_FOUND => (None, StatusCode::NOT_FOUND),
        code::HEADER_MISMATCH
        | code::MISSING_CLIENT_CAPABILITY
        | code::UNSUPPORTED_PROTOCOL_VERSION => (None, StatusCode::BAD_REQUEST),
        // A server that writes other codes of the reserved range means something else by them.
        -32_099..=-32_020 => (Some(code::INTERNAL_ERROR), StatusCode::OK),
        _ => (None, StatusCode::OK),
    }
}

/// The answer to a modern request of a revision that is not spoken here.
pub fn unsupported(requested: &str, supported: &[Revision]) -> Refusal {
    let names: Vec<&str> = supported.iter().map(|revision| revision.as_str()).collect();
    Refusal::Answered {
        code: code::UNSUPPORTED_PROTOCOL_VERSION,
        message: format!(
            "Unsupported protocol version: {requested}. This endpoint speaks {}",
            names.join(", ")
        ),
        data: Some(value!({ "supported": names, "requested": requested })),
    }
}

/// A dual-era client falls back to `initialize` on either of these answers: an unknown
/// `server/discover`, and an unsupported version that names the supported ones (2026-07-28,
/// basic/versioning).
pub fn not_spoken(request: &Envelope) -> Refusal {
    if request.method() == Some("server/discover") {
        return Refusal::Answered {
            code: code::METHOD_NOT_FOUND,
            message: "Method not found: server/discover (this endpoint speaks revisions up to \
                      2025-11-25; open with `initialize`)"
                .to_owned(),
            data: None,
        };
    }
    let requested = chillgate_wire::meta_version(request).map_or_else(
        || Revision::V2026_07_28.as_str().to_owned(),
        std::borrow::Cow::into_owned,
    );
    unsupported(&requested, &Revision::LEGACY)
}
