//! The MCP handshake towards a server: what chillgate says, and what it keeps of the answer.

use bytes::Bytes;
use chillgate_wire::{Envelope, Revision, json};

use crate::session::Session;

/// What a server said in its `initialize` result.
#[derive(Clone, Debug)]
pub struct Greeting {
    /// The whole result, to the letter.
    pub result: Bytes,
    /// The revision it settled on.
    pub revision: String,
    /// Whether it declared `logging`.
    pub logging: bool,
}

impl Greeting {
    /// Reads the answer to `initialize`.
    pub fn read(answer: &Envelope) -> Result<Self, String> {
        let Some(result) = answer.result() else {
            let error = answer.error().unwrap_or_default();
            return Err(format!(
                "it refused to initialize: {}",
                String::from_utf8_lossy(error)
            ));
        };
        let revision = json::member(result, "protocolVersion")
            .and_then(|at| json::text(&result[at]))
            .ok_or("its initialize result names no protocolVersion")?
            .into_owned();
        Ok(Self {
            logging: json::path(result, &["capabilities", "logging"]).is_some(),
            result: Bytes::copy_from_slice(result),
            revision,
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
        let Some(at) = json::member(&self.result, "protocolVersion") else {
            return self.result.clone();
        };
        let mut result = Vec::with_capacity(self.result.len());
        result.extend_from_slice(&self.result[..at.start]);
        result.extend_from_slice(json::quote(agreed).as_bytes());
        result.extend_from_slice(&self.result[at.end..]);
        result.into()
    }
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
