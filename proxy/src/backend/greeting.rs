//! The first words with a server: what chillgate says, and what it keeps of the answer.
//!
//! `initialize` with those of the legacy eras, `server/discover` with those of 2026-07-28. What a
//! server says of itself is kept in the words of the former, which all else here reads.

use bytes::Bytes;
use chillgate_wire::{Envelope, Era, Revision, code, json, meta};

use crate::era::tasks;
use crate::incidents::Refusal;
use crate::session::Session;

/// What a server said of itself.
#[derive(Clone, Debug)]
pub struct Greeting {
    /// The whole `initialize` result, to the letter, or what a server of 2026-07-28 would have said
    /// there.
    pub result: Bytes,
    /// The whole `server/discover` result of a server of 2026-07-28, to the letter.
    pub discovered: Option<Bytes>,
    /// The revision it settled on.
    pub revision: String,
    /// Whether it declared `logging`.
    pub logging: bool,
}

impl Greeting {
    /// Reads the answer to `initialize`.
    ///
    /// # Errors
    /// Why nothing can be begun with it, in the server's own words: to be masked before it is told.
    pub fn read(answer: &Envelope) -> Result<Self, Refusal> {
        let Some(result) = answer.result() else {
            let error = answer.error().unwrap_or_default();
            return Err(Refusal {
                cause: format!("it refused to initialize: {}", plain(error)),
                is_of_era: is_of_era(error),
            });
        };
        let wrong = |cause: String, is_of_era| Refusal { cause, is_of_era };
        let revision = json::member(result, "protocolVersion")
            .and_then(|at| json::text(&result[at]))
            .ok_or_else(|| {
                wrong(
                    "its initialize result names no protocolVersion".to_owned(),
                    false,
                )
            })?
            .into_owned();
        match Revision::known(&revision).map(Revision::era) {
            Some(Era::Legacy) => {}
            Some(Era::Modern) => {
                let cause = format!("it settled on {revision}, which has no handshake");
                return Err(wrong(cause, true));
            }
            None => {
                let known = Revision::LEGACY.map(Revision::as_str).join(", ");
                let shown = revision.get(..revision.floor_char_boundary(SHOWN));
                let cause = format!(
                    "it settled on the revision {:?}, which chillgate does not know; it knows {known}",
                    shown.unwrap_or_default()
                );
                return Err(wrong(cause, false));
            }
        }
        Ok(Self {
            logging: json::path(result, &["capabilities", "logging"]).is_some(),
            result: Bytes::copy_from_slice(result),
            discovered: None,
            revision,
        })
    }

    /// A server that refuses the revision and names it among those that it speaks has only not
    /// been ready to be asked (2026-07-28, versioning).
    pub fn may_ask_again(answer: &Envelope) -> bool {
        let error = answer.error().unwrap_or_default();
        let code = json::member(error, "code").and_then(|at| json::integer(&error[at]));
        let supported = json::path(error, &["data", "supported"]).map(|at| &error[at]);
        code == Some(code::UNSUPPORTED_PROTOCOL_VERSION) && supported.is_some_and(has_modern)
    }

    /// Reads the answer of `server` to `server/discover` (eras, b.1).
    ///
    /// # Errors
    /// The server does not speak the modern era, in whichever words it says so.
    pub fn discovered(server: &str, answer: &Envelope) -> Result<Self, Refusal> {
        let Some(own) = answer.result() else {
            let error = answer.error().unwrap_or_default();
            let supported = json::path(error, &["data", "supported"]).map(|at| &error[at]);
            let code = json::member(error, "code").and_then(|at| json::integer(&error[at]));
            let cause = match (code, supported) {
                (Some(code::UNSUPPORTED_PROTOCOL_VERSION), Some(supported)) => format!(
                    "it speaks {} only",
                    String::from_utf8_lossy(supported).replace('"', "")
                ),
                _ => format!("it refused server/discover: {}", plain(error)),
            };
            return Err(Refusal {
                cause,
                is_of_era: is_of_era(error),
            });
        };
        let versions = json::member(own, "supportedVersions").map(|at| &own[at]);
        if !versions.is_some_and(has_modern) {
            return Err(Refusal {
                cause: "its discover result lists no revision of the modern era".to_owned(),
                is_of_era: true,
            });
        }
        let result = in_legacy_words(server, answer);
        Ok(Self {
            logging: json::path(&result, &["capabilities", "logging"]).is_some(),
            result,
            discovered: Some(Bytes::copy_from_slice(own)),
            revision: Revision::V2025_11_25.as_str().to_owned(),
        })
    }

    /// The result as a host that asked for `revision` gets it from a server it shares: the
    /// revision is what this server would have negotiated with it.
    pub fn for_revision(&self, revision: &str) -> Bytes {
        // Revisions are dates: the older of both is what both sides know.
        let agreed = if revision < self.revision.as_str() {
            revision
        } else {
            &self.revision
        };
        if agreed == self.revision {
            return self.result.clone();
        }
        let mut said = self.result.clone();
        if let Some(at) = json::member(&said, "capabilities")
            && self.discovered.is_some()
        {
            // Older revisions have no tasks.
            let bare = json::without(&said[at.clone()], "tasks");
            said = [&said[..at.start], &bare, &said[at.end..]].concat().into();
        }
        let Some(at) = json::member(&said, "protocolVersion") else {
            return said;
        };
        let mut result = Vec::with_capacity(said.len());
        result.extend_from_slice(&said[..at.start]);
        result.extend_from_slice(json::quote(agreed).as_bytes());
        result.extend_from_slice(&said[at.end..]);
        result.into()
    }
}

/// So much of a revision that nobody knows is shown, in bytes.
const SHOWN: usize = 40;

/// An error without the detours of its spelling (`\u0041`), so that what must be masked is found.
fn plain(error: &[u8]) -> String {
    let value = serde_json::from_slice::<serde_json::Value>(error);
    let plain = value.map(|value| value.to_string());
    plain.unwrap_or_else(|_| String::from_utf8_lossy(error).into_owned())
}

/// Whether an error says no more than that a server knows these first words, or this revision, not.
fn is_of_era(error: &[u8]) -> bool {
    let code = json::member(error, "code").and_then(|at| json::integer(&error[at]));
    let text = json::member(error, "message").and_then(|at| json::text(&error[at]));
    let is_told = text.is_some_and(|text| {
        let text = text.to_ascii_lowercase();
        text.contains("protocol version") || text.contains("protocolversion")
    });
    let named = [code::METHOD_NOT_FOUND, code::UNSUPPORTED_PROTOCOL_VERSION];
    code.is_some_and(|code| named.contains(&code)) || is_told
}

/// Whether a list of revisions has one of the modern era.
fn has_modern(versions: &[u8]) -> bool {
    json::items(versions)
        .filter_map(|at| Revision::known(&json::text(&versions[at])?))
        .any(|revision| revision.era() == Era::Modern)
}

/// What a server of 2026-07-28 says of itself, as the result of an `initialize` (eras, b.2).
fn in_legacy_words(server: &str, answer: &Envelope) -> Bytes {
    let bare = meta::strip(answer);
    let mut edit = bare.edit();
    for member in ["supportedVersions", "resultType", "ttlMs", "cacheScope"] {
        if bare.find(&["result", member]).is_some() {
            edit.remove(&["result", member]);
        }
    }
    let extensions = ["result", "capabilities", "extensions"];
    if bare.find(&extensions).is_some() {
        edit.remove(&extensions);
    }
    if answer.result().is_some_and(tasks::are_offered) {
        let offer = tasks::offer().to_string().into_bytes();
        edit.set(&["result", "capabilities", "tasks"], offer);
    }
    let named = answer.get(&["result", "_meta", meta::SERVER_INFO]);
    let unnamed = format!(r#"{{"name":{},"version":"unknown"}}"#, json::quote(server));
    let info = named.unwrap_or(unnamed.as_bytes()).to_vec();
    edit.set(&["result", "serverInfo"], info);
    let revision = json::quote(Revision::V2025_11_25.as_str()).into_bytes();
    edit.set(&["result", "protocolVersion"], revision);
    let said = edit.finish();
    Bytes::copy_from_slice(said.result().unwrap_or(b"{}"))
}

/// What chillgate says of itself in each request of its own to a server of 2026-07-28: no
/// capabilities, as in [`params_of_the_gate`].
pub const META_OF_THE_GATE: &str = concat!(
    r#"{"io.modelcontextprotocol/protocolVersion":"2026-07-28","#,
    r#""io.modelcontextprotocol/clientCapabilities":{},"#,
    r#""io.modelcontextprotocol/clientInfo":{"name":"chillgate","version":""#,
    env!("CARGO_PKG_VERSION"),
    r#""}}"#
);

/// The `server/discover` that opens a server of 2026-07-28.
pub fn discover_params() -> Vec<u8> {
    format!(r#"{{"_meta":{META_OF_THE_GATE}}}"#).into_bytes()
}

/// The `params` that chillgate initializes a shared server with: no capabilities, so that the
/// server has nobody to ask.
pub fn params_of_the_gate() -> Vec<u8> {
    format!(
        r#"{{"protocolVersion":"{}","capabilities":{{}},"clientInfo":{{"name":"chillgate","version":"{}"}}}}"#,
        Revision::V2025_11_25,
        env!("CARGO_PKG_VERSION"),
    )
    .into_bytes()
}

/// The `params` for a server that only this session uses: the host's own, in a revision that the
/// host and chillgate settled on.
pub fn params_of(session: &Session) -> Vec<u8> {
    let params = &session.greeting;
    let Some(at) = json::member(params, "protocolVersion") else {
        return params_of_the_gate();
    };
    let mut own = Vec::with_capacity(params.len() + 16);
    own.extend_from_slice(&params[..at.start]);
    own.extend_from_slice(json::quote(session.revision.as_str()).as_bytes());
    own.extend_from_slice(&params[at.end..]);
    own
}
