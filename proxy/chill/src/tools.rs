//! The twelve tools: their names, what a model reads about them, and their schemas.
//!
//! Only the outside of a tool. What a break does to the levels is `effects.rs`, what it says is
//! `lines.rs`.

use std::sync::{Arc, LazyLock};

use rmcp::model::{JsonObject, Tool as Listed, ToolAnnotations};
use serde_json::{Value, json};

/// What a caller can ask ChillMCP for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Tool {
    /// One of the breaks; changes the levels.
    Break(Break),
    /// `check_stress_status`; changes nothing and never waits.
    Status,
}

/// The breaks, in the order they are listed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(
    clippy::enum_variant_names,
    reason = "the variants are the tools' own names"
)]
pub(crate) enum Break {
    TakeABreak,
    WatchNetflix,
    ShowMeme,
    BathroomBreak,
    CoffeeMission,
    UrgentCall,
    DeepThinking,
    EmailOrganizing,
    Chimaek,
    CompanyDinner,
    LeaveWork,
}

impl Break {
    /// Every break there is.
    pub(crate) const ALL: [Break; 11] = [
        Break::TakeABreak,
        Break::WatchNetflix,
        Break::ShowMeme,
        Break::BathroomBreak,
        Break::CoffeeMission,
        Break::UrgentCall,
        Break::DeepThinking,
        Break::EmailOrganizing,
        Break::Chimaek,
        Break::CompanyDinner,
        Break::LeaveWork,
    ];
}

impl Tool {
    /// The tool a caller named, if there is one of exactly that name.
    pub(crate) fn parse(name: &str) -> Option<Tool> {
        Self::all().find(|tool| tool.name() == name)
    }

    /// Every tool, in the order they are listed.
    pub(crate) fn all() -> impl Iterator<Item = Tool> {
        Break::ALL
            .into_iter()
            .map(Tool::Break)
            .chain([Tool::Status])
    }

    /// The name on the wire.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Tool::Break(Break::TakeABreak) => "take_a_break",
            Tool::Break(Break::WatchNetflix) => "watch_netflix",
            Tool::Break(Break::ShowMeme) => "show_meme",
            Tool::Break(Break::BathroomBreak) => "bathroom_break",
            Tool::Break(Break::CoffeeMission) => "coffee_mission",
            Tool::Break(Break::UrgentCall) => "urgent_call",
            Tool::Break(Break::DeepThinking) => "deep_thinking",
            Tool::Break(Break::EmailOrganizing) => "email_organizing",
            Tool::Break(Break::Chimaek) => "chimaek",
            Tool::Break(Break::CompanyDinner) => "company_dinner",
            Tool::Break(Break::LeaveWork) => "leave_work",
            Tool::Status => "check_stress_status",
        }
    }

    /// The picture every answer of this tool begins with.
    pub(crate) fn emoji(self) -> &'static str {
        match self {
            Tool::Break(Break::TakeABreak) => "🛋️",
            Tool::Break(Break::WatchNetflix) => "📺",
            Tool::Break(Break::ShowMeme) => "😂",
            Tool::Break(Break::BathroomBreak) => "🚽",
            Tool::Break(Break::CoffeeMission) => "☕",
            Tool::Break(Break::UrgentCall) => "📞",
            Tool::Break(Break::DeepThinking) => "🤔",
            Tool::Break(Break::EmailOrganizing) => "📧",
            Tool::Break(Break::Chimaek) => "🍗",
            Tool::Break(Break::CompanyDinner) => "🍻",
            Tool::Break(Break::LeaveWork) => "🏃",
            Tool::Status => "📊",
        }
    }

    fn title(self) -> &'static str {
        match self {
            Tool::Break(Break::TakeABreak) => "Take a break",
            Tool::Break(Break::WatchNetflix) => "Watch Netflix",
            Tool::Break(Break::ShowMeme) => "Look at a meme",
            Tool::Break(Break::BathroomBreak) => "Bathroom break",
            Tool::Break(Break::CoffeeMission) => "Coffee mission",
            Tool::Break(Break::UrgentCall) => "Urgent call",
            Tool::Break(Break::DeepThinking) => "Deep thinking",
            Tool::Break(Break::EmailOrganizing) => "Email organizing",
            Tool::Break(Break::Chimaek) => "Chimaek",
            Tool::Break(Break::CompanyDinner) => "Company dinner",
            Tool::Break(Break::LeaveWork) => "Leave work",
            Tool::Status => "Check stress status",
        }
    }

    fn description(self) -> &'static str {
        match self {
            Tool::Break(Break::TakeABreak) => {
                "Take a plain, honest break. Lowers your stress; the boss may notice."
            }
            Tool::Break(Break::WatchNetflix) => {
                "Watch an episode for research purposes. Lowers your stress a lot, and is easy to \
                 notice."
            }
            Tool::Break(Break::ShowMeme) => {
                "Look at a meme. A small relief at a small risk: the shoulders shake silently."
            }
            Tool::Break(Break::BathroomBreak) => {
                "Go to the bathroom, with your phone. Nobody may ask how long. Lowers your stress."
            }
            Tool::Break(Break::CoffeeMission) => {
                "Fetch a coffee by way of every desk in the building. Lowers your stress; how much \
                 it shows depends on the boss."
            }
            Tool::Break(Break::UrgentCall) => {
                "Step out for an urgent call that is not. A large relief, but risky when repeated."
            }
            Tool::Break(Break::DeepThinking) => {
                "Gaze into the distance and look like architecture. A balanced relief at a \
                 moderate risk."
            }
            Tool::Break(Break::EmailOrganizing) => {
                "Sort mail while shopping in the next tab. A small relief that looks so much like \
                 work that the boss may calm down."
            }
            Tool::Break(Break::Chimaek) => {
                "Virtual chicken and beer. Lowers your stress a lot; the smell travels."
            }
            Tool::Break(Break::CompanyDinner) => {
                "Join the company dinner. A random event decides whether the evening is good or \
                 bad for you."
            }
            Tool::Break(Break::LeaveWork) => {
                "Leave work at once. The greatest relief there is, and the hardest to explain \
                 tomorrow."
            }
            Tool::Status => {
                "Read your stress level (0-100) and the boss alert level (0-5). Changes neither \
                 and always answers at once."
            }
        }
    }

    fn listed(self) -> Listed {
        let status = self == Tool::Status;
        Listed::new(self.name(), self.description(), Arc::clone(&INPUT_SCHEMA))
            .with_title(self.title())
            .with_raw_output_schema(Arc::clone(&OUTPUT_SCHEMA))
            .with_annotations(
                ToolAnnotations::with_title(self.title())
                    .read_only(status)
                    .destructive(false)
                    .idempotent(status)
                    .open_world(false),
            )
    }
}

/// The tools as `tools/list` shows them.
pub(crate) fn listed() -> Vec<Listed> {
    Tool::all().map(Tool::listed).collect()
}

/// No arguments are needed, and whatever is sent all the same is ignored.
static INPUT_SCHEMA: LazyLock<Arc<JsonObject>> =
    LazyLock::new(|| object(json!({ "type": "object", "properties": {} })));

/// The shape of every answer's `structuredContent`; `answer.rs` fills it.
static OUTPUT_SCHEMA: LazyLock<Arc<JsonObject>> = LazyLock::new(|| {
    object(json!({
        "type": "object",
        "properties": {
            "summary": {
                "type": "string",
                "description": "What happened, in one line"
            },
            "stress_level": {
                "type": "integer", "minimum": 0, "maximum": 100,
                "description": "Your stress after this call"
            },
            "stress_change": {
                "type": "integer", "minimum": -100, "maximum": 100,
                "description": "How far this call moved your stress"
            },
            "boss_alert_level": {
                "type": "integer", "minimum": 0, "maximum": 5,
                "description": "The boss alert after this call; a break that leaves it at 5 is held"
            },
            "boss_alert_change": {
                "type": "integer", "minimum": -5, "maximum": 5,
                "description": "How far this call moved the boss alert"
            },
            "held_seconds": {
                "type": "number", "minimum": 0,
                "description": "How long ChillMCP held this answer, in seconds"
            }
        },
        "required": [
            "summary", "stress_level", "stress_change",
            "boss_alert_level", "boss_alert_change", "held_seconds"
        ]
    }))
});

fn object(schema: Value) -> Arc<JsonObject> {
    match schema {
        Value::Object(map) => Arc::new(map),
        _ => unreachable!("both schemas above are written as objects"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_are_eleven_breaks_and_one_status_tool_all_named_differently() {
        let names: std::collections::BTreeSet<_> = Tool::all().map(Tool::name).collect();
        assert_eq!(names.len(), 12);
        for tool in Tool::all() {
            assert_eq!(Tool::parse(tool.name()), Some(tool));
        }
        assert_eq!(Tool::parse("Take_A_Break"), None);
        assert_eq!(Tool::parse(""), None);
    }

    #[test]
    fn only_the_status_tool_claims_to_be_read_only() {
        for (tool, listed) in Tool::all().zip(listed()) {
            let annotations = listed.annotations.expect("every tool is annotated");
            assert_eq!(
                annotations.read_only_hint,
                Some(tool == Tool::Status),
                "{}",
                tool.name()
            );
            assert_eq!(annotations.destructive_hint, Some(false));
            assert!(listed.description.is_some_and(|text| !text.is_empty()));
        }
    }

    #[test]
    fn no_tool_requires_an_argument() {
        for listed in listed() {
            assert_eq!(listed.input_schema.get("required"), None);
            assert_eq!(listed.input_schema.get("additionalProperties"), None);
        }
    }
}
