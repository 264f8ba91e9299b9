//! What a person may set about ChillMCP, and what it means when left alone.
//!
//! Plain data, so that a reload can compare the old with the new. Parsing flags and TOML is the
//! caller's; a percentage beyond its range is taken as the end of the range here, never trusted.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// The settings of one ChillMCP. [`Default`] is what `chillgate chill` without flags uses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Chance in percent, 0 to 100, that a break raises the boss alert. Default 50.
    pub alertness: u8,
    /// The boss alert falls by 1 each time this much passes without a rise. Default 300 s;
    /// zero means at the next check.
    pub cooldown: Duration,
    /// How long a break that leaves the alert at 5 waits for its answer. Default 20 s; zero means
    /// not at all.
    pub hold: Duration,
    /// Whether all breaks do the same or each its own. Default [`Effects::Uniform`].
    pub effects: Effects,
    /// Whether every agent has its own levels. Default [`Scope::Agent`].
    pub scope: Scope,
    /// The language of the answers. Default [`Lang::En`].
    pub lang: Lang,
    /// The stress an agent starts with, 0 to 100. Default 50.
    pub stress: u8,
    /// The boss alert an agent starts with, 0 to 5. Default 0.
    pub level: u8,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            alertness: 50,
            cooldown: Duration::from_mins(5),
            hold: Duration::from_secs(20),
            effects: Effects::default(),
            scope: Scope::default(),
            lang: Lang::default(),
            stress: 50,
            level: 0,
        }
    }
}

impl Settings {
    /// The same settings with every number inside its range.
    pub(crate) fn clamped(mut self) -> Self {
        self.alertness = self.alertness.min(100);
        self.stress = self.stress.min(100);
        self.level = self.level.min(5);
        self
    }
}

/// What a break does to the two levels.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Effects {
    /// Every break: relief 1 to 100 by chance, alert +1 with the chance `alertness`.
    #[default]
    Uniform,
    /// Each break its own range of relief and its own risk.
    Graded,
}

/// Who shares the levels.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Scope {
    /// Each agent has its own stress and its own boss.
    #[default]
    Agent,
    /// One stress and one boss for all agents.
    Shared,
}

/// The language ChillMCP answers in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Lang {
    /// English.
    #[default]
    En,
    /// Korean.
    Ko,
}
