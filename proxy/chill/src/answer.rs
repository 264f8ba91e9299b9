//! The answer of a tool, for people and for programs.
//!
//! The text is read with three regular expressions by clients that were there before this server;
//! its form is a contract, to the blank line. The numbers are those at the break, before any hold.

use std::time::Duration;

use rmcp::model::{CallToolResult, ContentBlock};
use serde_json::{Value, json};

use crate::{Levels, lines::Line, tools::Tool};

/// Everything an answer says.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Answer {
    pub(crate) tool: Tool,
    pub(crate) line: Line,
    /// What the boss adds when the call was held.
    pub(crate) caught: Option<&'static str>,
    pub(crate) before: Levels,
    pub(crate) after: Levels,
    /// How long the answer was held.
    pub(crate) held: Duration,
}

impl Answer {
    /// The text: Markdown, one field a line.
    pub(crate) fn text(&self) -> String {
        let Answer {
            tool, line, after, ..
        } = self;
        let aside = self
            .caught
            .map(|said| format!(" {said}"))
            .unwrap_or_default();
        format!(
            "{} {}{aside}\n\nBreak Summary: {}\nStress Level: {}\nBoss Alert Level: {}",
            tool.emoji(),
            line.message,
            line.summary,
            after.stress,
            after.alert,
        )
    }

    /// The same for a program, in the shape of the tool's `outputSchema`.
    pub(crate) fn structured(&self) -> Value {
        json!({
            "summary": self.line.summary,
            "stress_level": self.after.stress,
            "stress_change": i16::from(self.after.stress) - i16::from(self.before.stress),
            "boss_alert_level": self.after.alert,
            "boss_alert_change": i16::from(self.after.alert) - i16::from(self.before.alert),
            "held_seconds": seconds(self.held),
        })
    }

    /// Both, as MCP carries them.
    pub(crate) fn into_result(self) -> CallToolResult {
        let mut result = CallToolResult::success(vec![ContentBlock::text(self.text())]);
        result.structured_content = Some(self.structured());
        result
    }
}

/// Seconds as a number: whole ones without a fraction, as people write them.
fn seconds(span: Duration) -> Value {
    if span.subsec_nanos() == 0 {
        json!(span.as_secs())
    } else {
        json!(span.as_secs_f64())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tools::Break;

    fn answer(before: Levels, after: Levels, held: Duration) -> Answer {
        let line = Line {
            message: "Ahh.",
            summary: "Sat down",
        };
        let caught = (!held.is_zero()).then_some("Boo.");
        Answer {
            tool: Tool::Break(Break::TakeABreak),
            line,
            caught,
            before,
            after,
            held,
        }
    }

    #[test]
    fn the_text_has_the_agreed_form_to_the_letter() {
        let calm = Levels {
            stress: 50,
            alert: 0,
        };
        let after = Levels {
            stress: 7,
            alert: 1,
        };
        assert_eq!(
            answer(calm, after, Duration::ZERO).text(),
            "🛋️ Ahh.\n\nBreak Summary: Sat down\nStress Level: 7\nBoss Alert Level: 1"
        );
        assert_eq!(
            answer(calm, after, Duration::from_secs(20)).text(),
            "🛋️ Ahh. Boo.\n\nBreak Summary: Sat down\nStress Level: 7\nBoss Alert Level: 1"
        );
    }

    #[test]
    fn the_changes_carry_their_sign() {
        let before = Levels {
            stress: 100,
            alert: 5,
        };
        let after = Levels {
            stress: 0,
            alert: 4,
        };
        let said = answer(before, after, Duration::from_millis(1500)).structured();
        assert_eq!(said["stress_change"], -100);
        assert_eq!(said["boss_alert_change"], -1);
        assert_eq!(said["held_seconds"], 1.5);
        assert_eq!(
            answer(after, before, Duration::from_secs(20)).structured()["held_seconds"],
            20
        );
    }
}
