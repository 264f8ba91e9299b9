//! What is spent of a budget, or raised of an alert, as an operator sees it, wherever it is counted.
//!
//! One form for the admin API, `chillgate quota` and the store. It counts nothing.

use std::fmt;
use std::time::Duration;

use chillgate_policies::engine::ledger::{Bucket, Key, Usage};
use chillgate_policies::engine::span::Span;
use serde::{Deserialize, Serialize};

use crate::store::list::{Kept, What};

/// One counter.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Spent {
    /// The policy's name, or that and the number of one of its levels; `server.NAME` for ChillMCP.
    pub policy: String,
    #[expect(missing_docs, reason = "the parts of a key are the ledger's words")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub agent: Option<String>,
    #[expect(missing_docs, reason = "as above")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub group: Option<String>,
    #[expect(missing_docs, reason = "as above")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub scope: Option<String>,
    #[expect(missing_docs, reason = "as above")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub server: Option<String>,
    #[expect(missing_docs, reason = "as above")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tool: Option<String>,
    /// How much of a budget, of what it counts.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub spent: Option<u64>,
    /// How much of it would be granted now; not known of a store.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub remaining: Option<u64>,
    /// Until none of it is spent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub full_in_ms: Option<u64>,
    /// The level of a boss alert.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub alert: Option<u8>,
    /// The stress of an agent at ChillMCP.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stress: Option<u8>,
}

impl Spent {
    fn of(policy: &str, key: &Key) -> Self {
        let text = |part: &Option<std::sync::Arc<str>>| part.as_deref().map(str::to_owned);
        Self {
            policy: policy.to_owned(),
            agent: text(&key.agent),
            group: text(&key.group),
            scope: text(&key.scope),
            server: text(&key.server),
            tool: text(&key.tool),
            ..Self::default()
        }
    }

    /// A budget of this process.
    pub fn of_usage(usage: &Usage) -> Self {
        Self {
            spent: Some(usage.limit.burst().saturating_sub(usage.remaining)),
            remaining: Some(usage.remaining),
            full_in_ms: Some(millis(usage.reset)),
            ..Self::of(&usage.bucket.name, &usage.bucket.key)
        }
    }

    /// An alert of this process.
    pub fn of_alert(bucket: &Bucket, level: u8) -> Self {
        Self {
            alert: Some(level),
            ..Self::of(&bucket.name, &bucket.key)
        }
    }

    /// What stands in the store.
    pub fn of_kept(kept: &Kept) -> Self {
        let own = Self::of(&kept.name, &kept.key);
        match kept.what {
            What::Spent { spent, full_in } => Self {
                spent: Some(spent),
                full_in_ms: Some(millis(full_in)),
                ..own
            },
            What::Alert { level } => Self {
                alert: Some(level),
                ..own
            },
        }
    }
}

impl fmt::Display for Spent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.policy)?;
        let parts = [
            ("agent", &self.agent),
            ("group", &self.group),
            ("scope", &self.scope),
            ("server", &self.server),
            ("tool", &self.tool),
        ];
        let mut is_one_for_all = true;
        for (name, part) in parts {
            if let Some(part) = part {
                is_one_for_all = false;
                write!(f, " {name} {}", part.escape_debug())?;
            }
        }
        if is_one_for_all {
            f.write_str(" all")?;
        }
        if let Some(stress) = self.stress {
            return write!(
                f,
                ": stress {stress}, alert {} of 5",
                self.alert.unwrap_or(0)
            );
        }
        if let Some(level) = self.alert {
            return write!(f, ": alert {level} of 5");
        }
        let full_in = Duration::from_secs(self.full_in_ms.unwrap_or(0).div_ceil(1000));
        write!(f, ": {} spent, ", self.spent.unwrap_or(0))?;
        if let Some(remaining) = self.remaining {
            write!(f, "{remaining} left, ")?;
        }
        write!(f, "full in {}", Span(full_in))
    }
}

fn millis(span: Duration) -> u64 {
    u64::try_from(span.as_millis()).unwrap_or(u64::MAX)
}
