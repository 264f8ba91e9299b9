//! ChillMCP's levels as gauges, read when somebody scrapes.
//!
//! An agent is an identity, and identities are no labels; a small office is the exception, for
//! there the point is to see who is stressed. Beyond 50 agents only the highest level is left.

use std::sync::{Arc, PoisonError, RwLock};

use prometheus::{IntGauge, IntGaugeVec, Registry};

use super::families::{gauge, gauges};

/// The most agents that get series of their own.
const MOST_AGENTS: usize = 50;

/// The longest agent name in a label, in bytes.
const LONGEST_NAME: usize = 128;

/// One agent's levels.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChillLevels {
    /// Whose.
    pub agent: Arc<str>,
    /// Stress, 0 to 100.
    pub stress: u8,
    /// Boss alert, 0 to 5.
    pub alert: u8,
}

type Read = Box<dyn Fn() -> Vec<ChillLevels> + Send + Sync>;

pub(super) struct ChillGauges {
    stress: IntGaugeVec,
    alert: IntGaugeVec,
    highest_stress: IntGauge,
    highest_alert: IntGauge,
    read: RwLock<Option<Read>>,
}

impl ChillGauges {
    pub(super) fn register(registry: &Registry) -> Self {
        let stress = "ChillMCP's stress level, 0 to 100";
        let alert = "ChillMCP's boss alert level, 0 to 5";
        let each = "by agent while at most 50 are known.";
        Self {
            stress: gauges(
                registry,
                "chillgate_chill_stress_level",
                &format!("{stress}, {each}"),
                &["agent"],
            ),
            alert: gauges(
                registry,
                "chillgate_chill_boss_alert_level",
                &format!("{alert}, {each}"),
                &["agent"],
            ),
            highest_stress: gauge(
                registry,
                "chillgate_chill_stress_level_max",
                &format!("{stress}: the highest of any agent."),
            ),
            highest_alert: gauge(
                registry,
                "chillgate_chill_boss_alert_level_max",
                &format!("{alert}: the highest of any agent."),
            ),
            read: RwLock::new(None),
        }
    }

    pub(super) fn read_from(&self, read: Read) {
        *self.read.write().unwrap_or_else(PoisonError::into_inner) = Some(read);
    }

    /// Sets the gauges to the levels of now.
    pub(super) fn fill(&self) {
        let read = self.read.read().unwrap_or_else(PoisonError::into_inner);
        let levels = read.as_ref().map(|read| read()).unwrap_or_default();
        self.stress.reset();
        self.alert.reset();
        if levels.len() <= MOST_AGENTS {
            for one in &levels {
                let agent = one.agent.get(..one.agent.floor_char_boundary(LONGEST_NAME));
                let label = [agent.unwrap_or_default()];
                self.stress.with_label_values(&label).set(one.stress.into());
                self.alert.with_label_values(&label).set(one.alert.into());
            }
        }
        let highest = |of: fn(&ChillLevels) -> u8| levels.iter().map(of).max().unwrap_or_default();
        self.highest_stress.set(highest(|one| one.stress).into());
        self.highest_alert.set(highest(|one| one.alert).into());
    }
}
