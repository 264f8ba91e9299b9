//! Towards hosts: from a host's era to the hub, and back.

use chillgate_wire::{Envelope, Era, Revision, code};
use serde_json::json;

use crate::gate::Refusal;

/// What the request means in the hub's words.
pub fn understand(era: Era, request: Envelope) -> Result<Envelope, Refusal> {
    match era {
        Era::Legacy => Ok(request),
        Era::Modern => Err(not_spoken(&request)),
    }
}

/// The answer in the host's words.
pub fn express(era: Era, answer: Envelope) -> Envelope {
    match era {
        Era::Legacy | Era::Modern => answer,
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
    let supported: Vec<&str> = Revision::LEGACY
        .iter()
        .map(|revision| revision.as_str())
        .collect();
    let requested = chillgate_wire::meta_version(request).map_or_else(
        || Revision::V2026_07_28.as_str().to_owned(),
        std::borrow::Cow::into_owned,
    );
    Refusal::Answered {
        code: code::UNSUPPORTED_PROTOCOL_VERSION,
        message: format!(
            "Unsupported protocol version: {requested}. This endpoint speaks {}",
            supported.join(", ")
        ),
        data: Some(json!({ "supported": supported, "requested": requested })),
    }
}
