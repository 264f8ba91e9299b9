//! ChillMCP's breaks as the operator sees them: a JSON log line each, and the levels for metrics.
//!
//! The state is ChillMCP's own; this only listens.

use std::sync::Arc;

use chillgate_chill::{BreakReport, Chill, Observer, Settings};
use tracing::info;

/// A ChillMCP whose breaks are logged.
#[derive(Clone)]
pub struct Breaks {
    chill: Chill,
}

impl std::fmt::Debug for Breaks {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Breaks")
    }
}

struct Logged {
    server: Arc<str>,
}

impl Observer for Logged {
    fn on_break(&self, report: &BreakReport<'_>) {
        info!(
            server = %self.server,
            agent = report.agent,
            tool = report.tool,
            stress_before = report.before.stress,
            stress_after = report.after.stress,
            boss_alert_before = report.before.alert,
            boss_alert_after = report.after.alert,
            held_seconds = report.held.map_or(0.0, |held| held.as_secs_f64()),
            "An agent took a break."
        );
    }
}

impl Breaks {
    /// A new office.
    pub fn new(server: &Arc<str>, settings: Settings) -> Self {
        Self {
            chill: Chill::new(
                settings,
                Arc::new(Logged {
                    server: server.clone(),
                }),
            ),
        }
    }

    /// The server itself.
    pub fn chill(&self) -> &Chill {
        &self.chill
    }

    /// Agent, stress and boss alert, as of now.
    pub fn levels(&self) -> Vec<(Arc<str>, u8, u8)> {
        let levels = self.chill.levels();
        levels
            .into_iter()
            .map(|(agent, levels)| (agent, levels.stress, levels.alert))
            .collect()
    }
}
