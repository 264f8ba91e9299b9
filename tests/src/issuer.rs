//! An issuer of signed tokens in its own process, made with a library that chillgate has not got.
//!
//! It makes honest tokens and forged ones, and can be made to fail. Nothing here judges a token.

use std::net::SocketAddr;

use serde_json::{Value, json};
use tokio::process::Child;

use crate::http;
use crate::script::serving;

/// A running issuer; it ends with this value.
#[derive(Debug)]
pub struct Issuer {
    _process: Child,
    address: SocketAddr,
}

impl Issuer {
    /// Starts one.
    ///
    /// # Panics
    /// When Node or its packages are not there.
    pub async fn start() -> Self {
        let (process, address) = serving("ts/issuer.mjs").await;
        Self {
            _process: process,
            address,
        }
    }

    /// Its name, which is its address.
    pub fn name(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Tells it how to be: `mode` is `ok`, `down`, `slow`, `bare`, `poisoned`, `garbage`, `liar`,
    /// `echo` or `saml`; `published` names the keys that it shows, `unwilling` the subjects whose tokens
    /// it exchanges for none, `delay` how many milliseconds it takes for a token.
    pub async fn set(&self, how: Value) {
        let answer = self.post("/set", &how).await;
        assert_eq!(answer.status, 200, "{}", answer.text());
    }

    /// How often it was asked for its keys.
    pub async fn asked(&self) -> u64 {
        self.count("/jwks").await
    }

    /// How often it was asked: `/jwks`, `/evil`, `metadata`, `tokens`, `exchanges`.
    pub async fn count(&self, what: &str) -> u64 {
        let asked: Value = serde_json::from_str(&http::get(self.address, "/asked").await.text())
            .expect("the issuer counts");
        asked[what].as_u64().expect("a count")
    }

    /// A token with claims that are good for ten minutes, but for those given; `null` takes one out.
    pub async fn token(&self, claims: Value) -> String {
        self.forge(json!({ "claims": claims })).await
    }

    /// A token as described: `key`, `header`, `claims` (as for [`Issuer::token`]), and `how` it is
    /// signed, see the script.
    pub async fn forge(&self, mut what: Value) -> String {
        let mut claims = json!({
            "iss": self.name(), "aud": "chillgate", "sub": "agent-a", "exp": now() + 600,
        });
        if let Some(given) = what["claims"].as_object() {
            for (name, value) in given {
                claims[name] = value.clone();
            }
        }
        let all = claims.as_object_mut().expect("claims");
        all.retain(|_, value| !value.is_null());
        what["claims"] = claims;
        let answer = self.post("/sign", &what).await;
        assert_eq!(answer.status, 200, "{what}: {}", answer.text());
        answer.text()
    }

    async fn post(&self, path: &str, body: &Value) -> http::Answer {
        http::request(self.address, "POST", path, &[], body.to_string()).await
    }
}

/// Seconds since 1970.
///
/// # Panics
/// When the machine's clock is before that.
#[expect(clippy::disallowed_methods, reason = "tokens carry calendar time")]
pub fn now() -> i64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    i64::try_from(since.expect("it is later than 1970").as_secs()).expect("it fits")
}
