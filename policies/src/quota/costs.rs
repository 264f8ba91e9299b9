//! What calls cost: one number for all, or by what they are for.
//!
//! Apart from the policy because it is a table of its own. It knows no budget.

use serde_json::Value;

use crate::engine::rule::{Names, Pattern};
use crate::engine::{Call, Fields, Wrong};

/// The most that a call may cost.
const DEAREST: u32 = 1_000_000;

/// What calls cost.
#[derive(Debug)]
pub(super) enum Costs {
    /// All the same.
    All(u64),
    /// The highest that fits, and 1 where none does.
    Each(Vec<(Names, u64)>),
}

impl Costs {
    /// Reads `cost`.
    pub(super) fn read(fields: &mut Fields<'_>) -> Self {
        match fields.value("cost") {
            None => Self::All(1),
            Some(Value::Object(table)) => {
                let mut each = Vec::new();
                for (pattern, cost) in table {
                    let cost = cost.as_u64().filter(|cost| *cost <= u64::from(DEAREST));
                    match (Pattern::parse(pattern), cost) {
                        (Ok(pattern), Some(cost)) => {
                            each.push((Names::new(vec![pattern]), cost));
                        }
                        (Err(wrong), _) => fields.wrong(Some("cost"), wrong),
                        (_, None) => {
                            let message = format!("{pattern:?} cannot cost that");
                            let help = format!("write a whole number from 0 to {DEAREST}");
                            fields.wrong(Some("cost"), Wrong::new(message, help));
                        }
                    }
                }
                Self::Each(each)
            }
            Some(_) => Self::All(fields.integer("cost", 0..=DEAREST).unwrap_or(1).into()),
        }
    }

    /// What this one costs.
    pub(super) fn of(&self, call: &Call) -> u64 {
        match self {
            Self::All(cost) => *cost,
            Self::Each(each) => {
                let target = call.target.as_deref().unwrap_or_default();
                let fits = |names: &Names| names.means(&call.server, target);
                let costs = each.iter().filter(|(names, _)| fits(names));
                costs.map(|(_, cost)| *cost).max().unwrap_or(1)
            }
        }
    }

    /// The most that any costs.
    pub(super) fn dearest(&self) -> u64 {
        match self {
            Self::All(cost) => *cost,
            Self::Each(each) => each.iter().map(|(_, cost)| *cost).max().unwrap_or(1).max(1),
        }
    }

    /// In words, with a comma before them.
    pub(super) fn summary(&self) -> String {
        match self {
            Self::All(1) => String::new(),
            Self::All(cost) => format!(", a call counts for {cost}"),
            Self::Each(each) => {
                let each = each.iter();
                let each = each.map(|(names, cost)| format!("{} for {cost}", names.to_text()));
                format!(", counting {}", each.collect::<Vec<_>>().join(", "))
            }
        }
    }
}
