//! Towards servers: from the words of a host to those of a server's era, and back.
//!
//! Where both speak one era nothing is changed. It asks nobody: what a server wants to know first
//! is handed to who carries the call.

use std::borrow::Cow;
use std::sync::LazyLock;

use bytes::Bytes;
use chillgate_wire::meta::Hop;
use chillgate_wire::{Envelope, Era, Revision, code, json, message, meta};
use memchr::memmem::Finder;

use crate::backend::said::level_name;
use crate::era::{rounds, tasks};
use crate::exchange::Exchange;
use crate::route::own;
use crate::session::Session;

/// A legacy server's answer to `initialize` as the answer to `server/discover` (eras, b.3): what it
/// says of itself stays to the letter, and the revisions are those that chillgate speaks.
pub fn discovered(greeting: &Envelope) -> Envelope {
    let mut edit = greeting.edit();
    edit.set(&["result", "supportedVersions"], spoken());
    edit.remove(&["result", "protocolVersion"]);
    if let Some(server) = greeting.get(&["result", "serverInfo"]) {
        edit.set(&["result", "_meta", meta::SERVER_INFO], server);
        edit.remove(&["result", "serverInfo"]);
    }
    // Calls alone can be tasks there, and their list is nobody's (eras, b.6).
    let tasks = ["result", "capabilities", "tasks"];
    if greeting.find(&tasks).is_some() {
        edit.remove(&tasks);
        if greeting.result().is_some_and(tasks::are_had) {
            edit.set(
                &["result", "capabilities", "extensions", tasks::EXTENSION],
                b"{}",
            );
        }
    }
    edit.finish()
}

/// A modern server's answer to `server/discover` for a modern host.
pub fn rediscovered(answer: &Envelope) -> Envelope {
    let mut edit = answer.edit();
    edit.set(&["result", "supportedVersions"], spoken());
    edit.finish()
}

/// The revisions that chillgate speaks.
fn spoken() -> Vec<u8> {
    let names: Vec<String> = Revision::ALL
        .iter()
        .map(|revision| json::quote(revision.as_str()))
        .collect();
    format!("[{}]", names.join(",")).into_bytes()
}

/// A host's request as a legacy server hears it.
///
/// # Errors
/// The server must not see it; this is the answer.
pub fn to_legacy<'r>(
    exchange: &Exchange,
    request: &'r Envelope,
) -> Result<Cow<'r, Envelope>, Box<Envelope>> {
    if exchange.session.era() == Era::Legacy {
        return Ok(Cow::Borrowed(request));
    }
    let refused = |code, text: &str| {
        let id = Some(exchange.host_id.as_bytes());
        own(message::error(id, code, text, None)).map(Box::new)
    };
    // Whatever chillgate has sealed never comes as far as this.
    if request.find(&["params", rounds::STATE]).is_some()
        && let text = format!("Invalid params: {}", rounds::Broken)
        && let Ok(answer) = refused(code::INVALID_PARAMS, &text)
    {
        return Err(answer);
    }
    let stripped = meta::strip(request);
    // Without a state the answers belong to nothing that was asked here: this is a call of its own.
    let unknown: Vec<_> = [rounds::RESPONSES, rounds::STATE]
        .into_iter()
        .filter(|member| stripped.find(&["params", member]).is_some())
        .collect();
    if unknown.is_empty() {
        return Ok(Cow::Owned(stripped));
    }
    let mut edit = stripped.edit();
    for member in unknown {
        edit.remove(&["params", member]);
    }
    Ok(Cow::Owned(edit.finish()))
}

/// A host's request as a server of 2026-07-28 hears it: it says what a legacy host has said once.
pub fn to_modern<'r>(session: &Session, request: &'r Envelope) -> Cow<'r, Envelope> {
    let says_all = session.era() == Era::Modern && chillgate_wire::meta_version(request).is_some();
    if says_all {
        return Cow::Borrowed(request);
    }
    Cow::Owned(to_modern_as(
        session,
        request,
        session.modern_capabilities(),
    ))
}

/// The same for a host that declares these capabilities.
pub fn to_modern_as(session: &Session, request: &Envelope, capabilities: &[u8]) -> Envelope {
    // What a legacy host writes under the protocol's keys means nothing.
    let bare = meta::strip(request);
    let hop = Hop {
        version: Cow::Borrowed(Revision::V2026_07_28.as_str()),
        capabilities,
        client: session.client_info(),
        log_level: (session.era() == Era::Legacy)
            .then(|| Cow::Borrowed(level_name(session.log_level_to_ask()))),
    };
    let mut edit = bare.edit();
    meta::mint(&mut edit, Revision::V2026_07_28, &hop);
    edit.finish()
}

/// What a server of 2026-07-28 came to, for a host of an older revision.
#[derive(Debug)]
pub enum Came {
    /// An answer, in the host's words.
    Answer(Envelope),
    /// It wants to know something first.
    Required(Envelope),
    /// It has become a task.
    Task(Envelope),
    /// No answer that a host could be given.
    Invalid(String),
}

static STRUCTURED: LazyLock<Finder<'static>> =
    LazyLock::new(|| Finder::new(b"\"structuredContent\""));
static OUTPUT: LazyLock<Finder<'static>> = LazyLock::new(|| Finder::new(b"\"outputSchema\""));

/// The answer of a server of 2026-07-28 to a request of `method`, for a host of an older revision.
pub fn from_modern(method: &str, answer: Envelope) -> Came {
    let Some(result) = answer.result() else {
        return Came::Answer(in_legacy_codes(method, answer));
    };
    let kind = json::member(result, "resultType").map(|at| &result[at]);
    match kind.map(json::text) {
        None => {}
        Some(Some(kind)) if kind == "complete" => {}
        Some(Some(kind)) if kind == "input_required" => return Came::Required(answer),
        Some(Some(kind)) if kind == "task" => return Came::Task(answer),
        _ => {
            let kind = String::from_utf8_lossy(kind.unwrap_or_default());
            return Came::Invalid(format!("its result is of the unknown type {kind}"));
        }
    }
    let bare = meta::strip(&answer);
    let mut edit = bare.edit();
    for member in ["resultType", "ttlMs", "cacheScope"] {
        if bare.find(&["result", member]).is_some() {
            edit.remove(&["result", member]);
        }
    }
    let result = bare.result().unwrap_or_default();
    if method == "tools/list"
        && let Some(tools) = with_legacy_schemas(result)
    {
        edit.set(&["result", "tools"], tools);
    }
    if method == "tools/call" {
        unstructured(result, &mut edit);
    }
    Came::Answer(edit.finish())
}

/// Older revisions know structured content as an object only; anything else is told as text
/// (R-207).
fn unstructured(result: &[u8], edit: &mut chillgate_wire::Edit<'_>) {
    if STRUCTURED.find(result).is_none() {
        return;
    }
    let Some(at) = json::member(result, "structuredContent") else {
        return;
    };
    let structured = &result[at];
    if json::is_object(structured) {
        return;
    }
    edit.remove(&["result", "structuredContent"]);
    let content = json::member(result, "content").map_or(&b"[]"[..], |at| &result[at]);
    if json::items(content).next().is_none() {
        let text = json::quote(&String::from_utf8_lossy(structured));
        let content = format!(r#"[{{"type":"text","text":{text}}}]"#);
        edit.set(&["result", "content"], content.into_bytes());
    }
}

/// The tools of a list without output schemas of what is no object, which older revisions do not
/// know (R-207). `None`: all are known.
fn with_legacy_schemas(result: &[u8]) -> Option<Vec<u8>> {
    OUTPUT.find(result)?;
    let tools = &result[json::member(result, "tools")?];
    let is_known = |tool: &[u8]| match json::path(tool, &["outputSchema"]) {
        None => true,
        Some(at) => {
            let schema = &tool[at];
            let kind = json::member(schema, "type").map(|at| &schema[at]);
            kind.and_then(json::text).as_deref() == Some("object")
        }
    };
    let all: Vec<&[u8]> = json::items(tools).map(|at| &tools[at]).collect();
    if all.iter().all(|tool| is_known(tool)) {
        return None;
    }
    let kept: Vec<Vec<u8>> = all
        .into_iter()
        .map(|tool| {
            if is_known(tool) {
                tool.to_vec()
            } else {
                json::without(tool, "outputSchema")
            }
        })
        .collect();
    Some([b"[", kept.join(&b","[..]).as_slice(), b"]"].concat())
}

/// Errors that only modern hosts know are worded for others (eras, b.2).
fn in_legacy_codes(method: &str, answer: Envelope) -> Envelope {
    let said = answer.get(&["error", "code"]).and_then(json::integer);
    let code = match said {
        Some(
            code::HEADER_MISMATCH
            | code::MISSING_CLIENT_CAPABILITY
            | code::UNSUPPORTED_PROTOCOL_VERSION,
        ) => code::INTERNAL_ERROR,
        // Where the server names the resource, that is what it has not got (R-205).
        Some(code::INVALID_PARAMS)
            if method == "resources/read" && answer.find(&["error", "data", "uri"]).is_some() =>
        {
            code::RESOURCE_NOT_FOUND
        }
        _ => return answer,
    };
    let mut edit = answer.edit();
    edit.set(&["error", "code"], code.to_string().into_bytes());
    edit.finish()
}

/// The capabilities of a legacy host as a modern server may hear them: without what the revision
/// took away.
pub fn capabilities(declared: &[u8]) -> Bytes {
    let kept = json::without(declared, "tasks");
    // Tasks of the extension are nothing that such a host could be given unasked.
    let kept = match json::path(&kept, &["extensions"]) {
        Some(at) => {
            let rest = json::without(&kept[at.clone()], tasks::EXTENSION);
            [&kept[..at.start], &rest, &kept[at.end..]].concat()
        }
        None => kept,
    };
    let roots = json::member(&kept, "roots");
    let Some(at) = roots else {
        return kept.into();
    };
    let bare = json::without(&kept[at.clone()], "listChanged");
    [&kept[..at.start], &bare, &kept[at.end..]].concat().into()
}
