//! What a host that is turned away is told of how to come back: RFC 9728's metadata, and the
//! challenges that lead there.

use http::HeaderValue;
use serde_json::json;

use super::{Denied, Identities};

/// Where the metadata of a resource are: this before its path (RFC 9728, section 3.1).
pub const WELL_KNOWN: &str = "/.well-known/oauth-protected-resource";

impl Identities {
    /// The address of the resource at `path`, where the host says that it talks to `origin`.
    pub fn resource(&self, origin: &str, path: &str) -> String {
        let base = self.resource.as_deref().unwrap_or(origin);
        format!("{}{path}", base.trim_end_matches('/'))
    }

    /// Where that resource's metadata are.
    fn metadata_of(&self, origin: &str, path: &str) -> String {
        self.resource(origin, &format!("{WELL_KNOWN}{path}"))
    }

    /// The metadata of the resource at `path`; none where no issuer is named.
    pub fn metadata(&self, origin: &str, path: &str) -> Option<String> {
        if self.issuers.is_empty() {
            return None;
        }
        let issuers: Vec<&str> = self.issuers.names().collect();
        let mut metadata = json!({
            "resource": self.resource(origin, path),
            "resource_name": "chillgate",
            "authorization_servers": issuers,
            "bearer_methods_supported": ["header"],
        });
        if !self.scopes.is_empty() {
            metadata["scopes_supported"] = json!(self.scopes);
        }
        Some(metadata.to_string())
    }

    /// The `WWW-Authenticate` of a host that has not said who it is, or not well enough.
    pub fn challenge(&self, denied: &Denied, origin: &str, path: &str) -> HeaderValue {
        let mut words = Vec::new();
        if let Some(text) = denied.is_invalid().then(|| denied.to_string()) {
            words.push(("error", "invalid_token".to_owned()));
            words.push(("error_description", text));
        }
        if !self.scopes.is_empty() {
            words.push(("scope", self.scopes.join(" ")));
        }
        self.worded(words, origin, path)
    }

    /// The same for a host whose token lacks something of `scope`, which is all that it takes.
    pub fn step_up(&self, scope: &str, origin: &str, path: &str) -> HeaderValue {
        let text = "the token lacks a scope that this call needs".to_owned();
        let words = vec![
            ("error", "insufficient_scope".to_owned()),
            ("error_description", text),
            ("scope", scope.to_owned()),
        ];
        self.worded(words, origin, path)
    }

    fn worded(&self, mut words: Vec<(&str, String)>, origin: &str, path: &str) -> HeaderValue {
        if !self.issuers.is_empty() {
            words.push(("resource_metadata", self.metadata_of(origin, path)));
        }
        let said = words.into_iter().map(|(name, value)| {
            // RFC 6750, section 3: neither quotes nor backslashes, and none are ours.
            let value = value.replace(['"', '\\'], "'");
            format!(", {name}=\"{value}\"")
        });
        let text = format!("Bearer realm=\"chillgate\"{}", said.collect::<String>());
        HeaderValue::from_str(&text)
            .unwrap_or_else(|_| HeaderValue::from_static("Bearer realm=\"chillgate\""))
    }
}
