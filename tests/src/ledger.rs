//! A server over HTTP that keeps all that reaches it, in whichever transport.
//!
//! It stands apart from the recorder, which keeps a modern request to the byte and speaks nothing
//! else: here the same question is put to every transport.

use std::net::SocketAddr;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Value, json};
use tokio::process::Child;

use crate::http;
use crate::script::serving;

/// A transport towards the ledger.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// Streamable HTTP of the older eras.
    Legacy,
    /// Streamable HTTP of 2026-07-28.
    Modern,
    /// HTTP+SSE of 2024-11-05.
    Sse,
}

/// A running ledger; it ends with this value.
#[derive(Debug)]
pub struct Ledger {
    _process: Child,
    address: SocketAddr,
}

/// One request as it came.
#[derive(Clone, Debug)]
pub struct Entry(Value);

impl Ledger {
    /// Starts one.
    ///
    /// # Panics
    /// When Node is not there.
    pub async fn start() -> Self {
        let (process, address) = serving("ts/ledger.mjs").await;
        Self {
            _process: process,
            address,
        }
    }

    /// Where it is in one transport.
    pub fn url(&self, way: Way) -> String {
        let path = match way {
            Way::Legacy => "mcp",
            Way::Modern => "modern",
            Way::Sse => "sse",
        };
        format!("http://{}/{path}", self.address)
    }

    /// The `[server.NAME]` table of one transport.
    pub fn table(&self, name: &str, way: Way) -> String {
        let more = match way {
            Way::Legacy => "era = \"legacy\"",
            Way::Modern => "era = \"modern\"",
            Way::Sse => "transport = \"http-sse\"",
        };
        format!("[server.{name}]\nurl = \"{}\"\n{more}\n", self.url(way))
    }

    /// From now on it refuses tokens of these subjects.
    pub async fn refuse(&self, subjects: &[&str]) {
        let body = json!({ "refused": subjects }).to_string();
        let answer = http::request(self.address, "POST", "/set", &[], body).await;
        assert_eq!(answer.status, 200);
    }

    /// Every request so far.
    ///
    /// # Panics
    /// When the ledger gives none.
    pub async fn all(&self) -> Vec<Entry> {
        let kept = http::get(self.address, "/kept").await;
        let kept: Vec<Value> = serde_json::from_str(&kept.text()).expect("what was kept");
        kept.into_iter().map(Entry).collect()
    }
}

impl Entry {
    /// All of it: request line, fields and body.
    pub fn text(&self) -> String {
        let words = self.0["head"].as_array().into_iter().flatten();
        let head: Vec<_> = words.filter_map(Value::as_str).collect();
        let whole = format!("{} {}", self.0["method"], self.0["url"]);
        [&whole, &head.join("\n"), self.body()].join("\n")
    }

    /// Whether it was asked of this path.
    pub fn is_at(&self, path: &str) -> bool {
        self.0["path"] == path
    }

    fn body(&self) -> &str {
        self.0["body"].as_str().unwrap_or_default()
    }

    /// The message that it carries; null if it is none.
    pub fn message(&self) -> Value {
        serde_json::from_str(self.body()).unwrap_or_default()
    }

    /// The values of one field.
    pub fn field(&self, name: &str) -> Vec<String> {
        let words: Vec<_> = self.0["head"].as_array().into_iter().flatten().collect();
        let pairs = words.chunks(2).filter(|pair| {
            let named = pair[0].as_str().unwrap_or_default();
            named.eq_ignore_ascii_case(name)
        });
        pairs
            .filter_map(|pair| pair.get(1)?.as_str().map(str::to_owned))
            .collect()
    }

    /// The claims of the one token that was shown with it.
    ///
    /// # Panics
    /// When there is none, or more than one.
    pub fn claims(&self) -> Value {
        let shown = self.field("authorization");
        let [token] = &shown[..] else {
            panic!("one credential, not {}: {}", shown.len(), self.text());
        };
        let claims = token.split('.').nth(1).expect("a signed token");
        let claims = URL_SAFE_NO_PAD.decode(claims).expect("base64");
        serde_json::from_slice(&claims).expect("claims")
    }
}
