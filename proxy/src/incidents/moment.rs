//! A moment of calendar time, to the millisecond: what an incident's memory is dated with.
//!
//! In files and answers it is text that people and programs read alike. It knows no clock but the
//! one that is handed to it.

use std::fmt;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use chillgate_policies::engine::Clock as _;
use serde::{Deserialize, Serialize};

use crate::clock::TokioClock;

/// Milliseconds since 1970; `2026-11-01T09:30:00.25Z` as text.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Moment(u64);

impl Moment {
    /// This one.
    pub fn now() -> Self {
        TokioClock.wall().into()
    }

    /// So much later.
    #[must_use]
    pub fn plus(self, span: Duration) -> Self {
        Self(self.0.saturating_add(span.as_millis() as u64))
    }

    /// `2026-11-01`, in UTC.
    pub fn day(self) -> String {
        self.to_string().chars().take(10).collect()
    }
}

impl From<SystemTime> for Moment {
    fn from(at: SystemTime) -> Self {
        Self(
            at.duration_since(UNIX_EPOCH)
                .unwrap_or_default()
                .as_millis() as u64,
        )
    }
}

impl fmt::Display for Moment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let millis = i64::try_from(self.0).unwrap_or(i64::MAX);
        let stamp = jiff::Timestamp::from_millisecond(millis).unwrap_or(jiff::Timestamp::MAX);
        write!(f, "{stamp}")
    }
}

impl From<Moment> for String {
    fn from(moment: Moment) -> Self {
        moment.to_string()
    }
}

impl TryFrom<String> for Moment {
    type Error = String;
    fn try_from(text: String) -> Result<Self, String> {
        let stamp: jiff::Timestamp = text.parse().map_err(|_| format!("{text:?} is no time"))?;
        Ok(Self(
            u64::try_from(stamp.as_millisecond()).unwrap_or_default(),
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_moment_comes_back_from_its_text() {
        let moment = Moment(1_793_525_400_000);
        assert_eq!(moment.to_string(), "2026-11-01T09:30:00Z");
        assert_eq!(moment.day(), "2026-11-01");
        assert_eq!(Moment::try_from(moment.to_string()), Ok(moment));
        assert!(Moment::try_from("yesterday".to_owned()).is_err());
    }
}
