//! Which of the two eras a message belongs to, and the revisions that make them up.
//!
//! Alone because a new revision changes this file and the two adapters, nothing else. It never
//! judges a message: one that claims an era and breaks its rules is still of that era.

use std::borrow::Cow;
use std::fmt;

use crate::envelope::Envelope;

/// The `_meta` key by which a modern message says its revision (2026-07-28, basic).
pub const META_VERSION: &str = "io.modelcontextprotocol/protocolVersion";

/// MCP before and since `initialize` was dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Era {
    /// 2024-11-05 to 2025-11-25: one handshake, then a session.
    Legacy,
    /// 2026-07-28: every request says everything.
    Modern,
}

impl Era {
    /// In one word, as records spell it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Legacy => "legacy",
            Self::Modern => "modern",
        }
    }
}

/// A revision of MCP that chillgate speaks. Newer ones are greater.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Revision(&'static str);

impl Revision {
    /// The first one; HTTP+SSE.
    pub const V2024_11_05: Self = Self("2024-11-05");
    /// Streamable HTTP and batches. Assumed over HTTP where no version is given.
    pub const V2025_03_26: Self = Self("2025-03-26");
    /// The version header; no more batches.
    pub const V2025_06_18: Self = Self("2025-06-18");
    /// The last one with a handshake.
    pub const V2025_11_25: Self = Self("2025-11-25");
    /// The first one without.
    pub const V2026_07_28: Self = Self("2026-07-28");

    /// The legacy ones, newest first.
    pub const LEGACY: [Self; 4] = [
        Self::V2025_11_25,
        Self::V2025_06_18,
        Self::V2025_03_26,
        Self::V2024_11_05,
    ];

    /// All of them, newest first.
    pub const ALL: [Self; 5] = [
        Self::V2026_07_28,
        Self::V2025_11_25,
        Self::V2025_06_18,
        Self::V2025_03_26,
        Self::V2024_11_05,
    ];

    /// The revision of that exact name.
    pub fn known(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|revision| revision.0 == name)
    }

    /// Its name, as on the wire.
    pub fn as_str(self) -> &'static str {
        self.0
    }

    /// Its era.
    pub fn era(self) -> Era {
        if self >= Self::V2026_07_28 {
            Era::Modern
        } else {
            Era::Legacy
        }
    }
}

impl fmt::Display for Revision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)
    }
}

/// The revision a modern message claims, known or not; `None` if it claims none as a string.
pub fn meta_version(message: &Envelope) -> Option<Cow<'_, str>> {
    message.text(&["params", "_meta", META_VERSION])
}

/// The era of a message from a host. `version_header` is `MCP-Protocol-Version`; stdio has none.
///
/// In this order:
/// 1. A legacy revision in the header makes it legacy, whatever `_meta` says: a legacy client that
///    copies unknown `_meta` must not change era on the way.
/// 2. A modern version in `_meta` makes it modern, even `initialize`, and even where the value is
///    unknown or no string: the modern checks word the refusal.
/// 3. `initialize` is legacy, whatever version its params name.
/// 4. A modern revision in the header makes it modern, lacking its `_meta`.
/// 5. The rest is legacy.
pub fn classify(message: &Envelope, version_header: Option<&str>) -> Era {
    let header = version_header
        .and_then(|name| Revision::known(name.trim()))
        .map(Revision::era);
    if header == Some(Era::Legacy) {
        Era::Legacy
    } else if message.find(&["params", "_meta", META_VERSION]).is_some() {
        Era::Modern
    } else if message.method() == Some("initialize") {
        Era::Legacy
    } else {
        header.unwrap_or(Era::Legacy)
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::Limits;

    fn message(method: &str, params: &str) -> Envelope {
        let raw = format!(r#"{{"jsonrpc":"2.0","id":1,"method":"{method}","params":{params}}}"#);
        Envelope::parse(Bytes::from(raw), &Limits::default()).unwrap()
    }

    #[test]
    fn each_rule_of_the_order_holds_over_those_below_it() {
        let modern = r#"{"_meta":{"io.modelcontextprotocol/protocolVersion":"2026-07-28"}}"#;
        let odd = r#"{"_meta":{"io.modelcontextprotocol/protocolVersion":7}}"#;
        let named = r#"{"protocolVersion":"2026-07-28"}"#;
        for (method, params, header, era) in [
            ("tools/list", modern, Some("2025-11-25"), Era::Legacy),
            ("tools/list", modern, None, Era::Modern),
            ("tools/list", modern, Some("2099-01-01"), Era::Modern),
            ("initialize", modern, None, Era::Modern),
            ("ping", odd, None, Era::Modern),
            ("initialize", named, None, Era::Legacy),
            ("initialize", named, Some("2026-07-28"), Era::Legacy),
            ("tools/list", "{}", Some("2026-07-28"), Era::Modern),
            ("tools/list", "{}", Some("2025-06-18"), Era::Legacy),
            ("tools/list", "{}", Some("nonsense"), Era::Legacy),
            ("tools/list", "{}", None, Era::Legacy),
        ] {
            let said = message(method, params);
            assert_eq!(classify(&said, header), era, "{method} {params} {header:?}");
        }
        assert_eq!(
            meta_version(&message("ping", modern)).unwrap(),
            "2026-07-28"
        );
        assert_eq!(meta_version(&message("ping", odd)), None);
    }

    #[test]
    fn revisions_are_ordered_and_known_by_exact_name() {
        assert!(Revision::ALL.windows(2).all(|pair| pair[0] > pair[1]));
        assert_eq!(Revision::LEGACY, Revision::ALL[1..]);
        assert!(
            Revision::LEGACY
                .iter()
                .all(|revision| revision.era() == Era::Legacy)
        );
        assert_eq!(Revision::known("2025-06-18"), Some(Revision::V2025_06_18));
        assert_eq!(Revision::known("2025-6-18"), None);
    }
}
