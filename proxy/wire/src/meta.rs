//! What a message says of its own hop, under the protocol's keys in `_meta` (2026-07-28, basic).
//!
//! Every modern request carries its revision and its sender's capabilities, every result may carry
//! its server's name. Those hold between two neighbours only: they are read and taken off on one
//! side, and written anew on the other. All other keys belong to the two ends and are left alone.
//! It never decides which revision is spoken, nor what a capability allows.

use std::borrow::Cow;

use crate::edit::Edit;
use crate::envelope::Envelope;
use crate::era::{META_VERSION, Revision};
use crate::json;

/// The sender's capabilities: an object, required in requests.
pub const CLIENT_CAPABILITIES: &str = "io.modelcontextprotocol/clientCapabilities";
/// What the sender calls itself; a claim.
pub const CLIENT_INFO: &str = "io.modelcontextprotocol/clientInfo";
/// The least severe log message that the sender wants with this request.
pub const LOG_LEVEL: &str = "io.modelcontextprotocol/logLevel";
/// What the server calls itself; in results.
pub const SERVER_INFO: &str = "io.modelcontextprotocol/serverInfo";
/// The `subscriptions/listen` that a message belongs to.
pub const SUBSCRIPTION_ID: &str = "io.modelcontextprotocol/subscriptionId";

/// The keys that hold for one hop.
const HOP: [&str; 6] = [
    META_VERSION,
    CLIENT_CAPABILITIES,
    CLIENT_INFO,
    LOG_LEVEL,
    SERVER_INFO,
    SUBSCRIPTION_ID,
];

/// What a modern request says of its hop.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hop<'m> {
    /// The revision it claims, known or not.
    pub version: Cow<'m, str>,
    /// The sender's capabilities, an object as it was written.
    pub capabilities: &'m [u8],
    /// What the sender calls itself, an object as it was written.
    pub client: Option<&'m [u8]>,
    /// The log level it asks for.
    pub log_level: Option<Cow<'m, str>>,
}

/// A modern request lacks what each must say, or says it as something else.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`params._meta` needs `{key}`, {expected}")]
pub struct Missing {
    /// The key.
    pub key: &'static str,
    /// What its value must be.
    pub expected: &'static str,
}

const VERSION: &str = "a string such as \"2026-07-28\"";
const CAPABILITIES: &str = "an object, `{}` for none";

/// Reads what a modern request says of its hop.
///
/// # Errors
/// The first of the required keys that is not there in its form (R-063), or an optional one that
/// is there in another.
pub fn read(request: &Envelope) -> Result<Hop<'_>, Missing> {
    let value = |key: &str| request.get(&["params", "_meta", key]);
    let text = |key, expected| match value(key) {
        None => Ok(None),
        Some(value) => json::text(value).map(Some).ok_or(Missing { key, expected }),
    };
    let object = |key, expected| match value(key) {
        None => Ok(None),
        Some(value) if json::is_object(value) => Ok(Some(value)),
        Some(_) => Err(Missing { key, expected }),
    };
    let required = |key, expected| Missing { key, expected };
    Ok(Hop {
        version: text(META_VERSION, VERSION)?.ok_or(required(META_VERSION, VERSION))?,
        capabilities: object(CLIENT_CAPABILITIES, CAPABILITIES)?
            .ok_or(required(CLIENT_CAPABILITIES, CAPABILITIES))?,
        client: object(CLIENT_INFO, "an object")?,
        log_level: text(LOG_LEVEL, "a string such as \"info\"")?,
    })
}

/// The message without what held for the hop it came over. A `_meta` that held nothing else goes
/// as well. Byte for byte the same where there is nothing to take.
#[must_use]
pub fn strip(message: &Envelope) -> Envelope {
    let mut edit = message.edit();
    for part in ["params", "result"] {
        let Some(meta) = message.get(&[part, "_meta"]) else {
            continue;
        };
        let own = |key: &str| HOP.into_iter().find(|hop| *hop == key);
        let keys: Vec<_> = json::members(meta).map(|(key, _, _)| own(&key)).collect();
        if !keys.is_empty() && keys.iter().all(Option::is_some) {
            edit.remove(&[part, "_meta"]);
            continue;
        }
        for key in keys.into_iter().flatten() {
            edit.remove(&[part, "_meta", key]);
        }
    }
    edit.finish()
}

/// Adds to `edit` what a modern request must say of its new hop. What stood there is replaced.
pub fn mint<'e>(edit: &mut Edit<'e>, version: Revision, hop: &'e Hop<'_>) {
    let quoted = json::quote(version.as_str()).into_bytes();
    edit.set(&["params", "_meta", META_VERSION], quoted);
    edit.set(&["params", "_meta", CLIENT_CAPABILITIES], hop.capabilities);
    if let Some(client) = hop.client {
        edit.set(&["params", "_meta", CLIENT_INFO], client);
    }
    if let Some(level) = &hop.log_level {
        let quoted = json::quote(level).into_bytes();
        edit.set(&["params", "_meta", LOG_LEVEL], quoted);
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::Limits;

    fn message(raw: &str) -> Envelope {
        Envelope::parse(Bytes::copy_from_slice(raw.as_bytes()), &Limits::default())
            .expect("a message")
    }

    fn request(params: &str) -> Envelope {
        message(&format!(
            r#"{{"jsonrpc":"2.0","id":1,"method":"tools/list","params":{params}}}"#
        ))
    }

    const FULL: &str = r#"{"_meta":{"io.modelcontextprotocol/protocolVersion":"2026-07-28","io.modelcontextprotocol/clientCapabilities":{ "x": 1 },"io.modelcontextprotocol/clientInfo":{"name":"h"},"io.modelcontextprotocol/logLevel":"info","progressToken":7,"traceparent":"00-a","com.example/k":[]},"cursor":"c"}"#;

    #[test]
    fn a_request_says_what_it_must() {
        let request = request(FULL);
        let hop = read(&request).expect("complete");
        assert_eq!(hop.version, "2026-07-28");
        assert_eq!(hop.capabilities, br#"{ "x": 1 }"#);
        assert_eq!(hop.client, Some(&br#"{"name":"h"}"#[..]));
        assert_eq!(hop.log_level.as_deref(), Some("info"));
    }

    #[test]
    fn what_is_missing_or_of_another_form_is_named() {
        let version = r#""io.modelcontextprotocol/protocolVersion":"2026-07-28""#;
        let both = format!(r#"{version},"io.modelcontextprotocol/clientCapabilities":{{}}"#);
        for (meta, key) in [
            (String::new(), META_VERSION),
            (format!(r#""{META_VERSION}":7"#), META_VERSION),
            (version.to_owned(), CLIENT_CAPABILITIES),
            (
                format!(r#"{version},"{CLIENT_CAPABILITIES}":[]"#),
                CLIENT_CAPABILITIES,
            ),
            (format!(r#"{both},"{CLIENT_INFO}":"me""#), CLIENT_INFO),
            (format!(r#"{both},"{LOG_LEVEL}":1"#), LOG_LEVEL),
        ] {
            let request = request(&format!(r#"{{"_meta":{{{meta}}}}}"#));
            assert_eq!(read(&request).expect_err(&meta).key, key, "{meta}");
        }
        let nothing = message(r#"{"jsonrpc":"2.0","id":1,"method":"tools/list"}"#);
        assert_eq!(read(&nothing).expect_err("no params").key, META_VERSION);
        assert!(read(&request(&format!(r#"{{"_meta":{{{both}}}}}"#))).is_ok());
    }

    #[test]
    fn only_the_hop_is_taken_off() {
        let stripped = strip(&request(FULL));
        let params = std::str::from_utf8(stripped.params().expect("params")).expect("UTF-8");
        assert_eq!(
            params,
            r#"{"_meta":{"progressToken":7,"traceparent":"00-a","com.example/k":[]},"cursor":"c"}"#
        );
        for (from, to) in [
            (
                r#"{"_meta":{"io.modelcontextprotocol/logLevel":"info"},"a":1}"#,
                r#"{"a":1}"#,
            ),
            (
                r#"{"_meta":{"io.modelcontextprotocol\/logLevel":"info"}}"#,
                "{}",
            ),
            (r#"{"_meta":{},"a":1}"#, r#"{"_meta":{},"a":1}"#),
            (
                r#"{"a":{"_meta":{"io.modelcontextprotocol/logLevel":1}}}"#,
                r#"{"a":{"_meta":{"io.modelcontextprotocol/logLevel":1}}}"#,
            ),
        ] {
            let stripped = strip(&request(from));
            assert_eq!(stripped.params(), Some(to.as_bytes()), "{from}");
        }
        let result = message(
            r#"{"jsonrpc":"2.0","id":1,"result":{"_meta":{"io.modelcontextprotocol/serverInfo":{"name":"s"},"x":1},"tools":[]}}"#,
        );
        assert_eq!(
            strip(&result).result(),
            Some(&br#"{"_meta":{"x":1},"tools":[]}"#[..])
        );
    }

    #[test]
    fn what_is_minted_is_read_back_and_all_else_stays() {
        let said = request(FULL);
        let hop = read(&said).expect("complete");
        for params in [
            r#"{"name":"t"}"#,
            r#"{"_meta":{"progressToken":1},"name":"t"}"#,
        ] {
            let bare = request(params);
            let mut edit = bare.edit();
            mint(&mut edit, Revision::V2026_07_28, &hop);
            let minted = edit.finish();
            assert_eq!(read(&minted).expect("complete"), hop);
            assert_eq!(strip(&minted).raw(), bare.raw());
        }
    }
}
