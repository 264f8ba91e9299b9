//! Timeouts: how long an exchange may be silent, and how long it may take in all.
//!
//! Only the numbers: the gate keeps the time, since progress renews the silence and a server that
//! waits for the host pauses it. The tightest of all policies wins.

use std::sync::Arc;
use std::time::Duration;

use crate::engine::span::Span;
use crate::engine::{
    Call, Deadline, Fields, KeyDoc, Kind, Policy, Services, Stage, Verdict, Wrong,
};

/// `type = "timeout"`.
pub const KIND: Kind = Kind {
    name: "timeout",
    stage: Stage::Limit,
    about: "ends calls that are silent or take too long",
    keys: &[
        KeyDoc::new("after", "\"60s\"", "longest silence; progress renews it"),
        KeyDoc::new("max", "\"30m\"", "longest in all"),
    ],
    once: false,
    build,
};

#[derive(Debug)]
struct Timeout(Deadline);

fn build(fields: &mut Fields<'_>, _: &Arc<str>, _: &Services) -> Option<Arc<dyn Policy>> {
    let (idle, max) = (fields.span("after"), fields.span("max"));
    if idle.is_none() && max.is_none() && fields.clean() {
        let help = "write after = \"60s\", max = \"30m\", or both";
        fields.wrong(None, Wrong::new("a timeout needs `after` or `max`", help));
    }
    for (key, span) in [("after", idle), ("max", max)] {
        if span.is_some_and(|span| span < Duration::from_millis(1)) {
            fields.wrong(
                Some(key),
                Wrong::new("a timeout of nothing ends every call", "write \"60s\""),
            );
        }
    }
    if let (Some(idle), Some(max)) = (idle, max)
        && idle > max
    {
        let help = "write the longest silence in `after` and the longest time in all in `max`";
        fields.wrong(
            Some("max"),
            Wrong::new("`max` is shorter than `after`", help),
        );
    }
    fields
        .clean()
        .then(|| Arc::new(Timeout(Deadline { idle, max })) as Arc<dyn Policy>)
}

impl Policy for Timeout {
    fn stage(&self) -> Stage {
        KIND.stage
    }

    fn on_request(&self, _: &Call) -> Verdict {
        Verdict::Deadline(self.0)
    }

    fn summary(&self) -> String {
        let parts: Vec<String> = [
            self.0
                .idle
                .map(|span| format!("after {} of silence", Span(span))),
            self.0
                .max
                .map(|span| format!("after {} in all", Span(span))),
        ]
        .into_iter()
        .flatten()
        .collect();
        format!("ends the call {}", parts.join(", "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::testing::{admit, chain, services, tool};
    use serde_json::json;

    #[test]
    fn the_tightest_bounds_win_one_by_one() {
        let (_, services) = services();
        let tables = [
            json!({"type": "timeout", "name": "a", "after": "60s", "max": "30m"}),
            json!({"type": "timeout", "name": "b", "match": {"tool": "slow"}, "after": "5m"}),
            json!({"type": "timeout", "name": "c", "match": {"tool": "quick"}, "max": "1s"}),
            json!({"type": "timeout", "name": "d", "mode": "shadow", "after": "1ms"}),
        ];
        let chain = chain(&tables, &services);
        let secs = |secs| Some(Duration::from_secs(secs));
        for (name, idle, max) in [("slow", secs(60), secs(1800)), ("quick", secs(60), secs(1))] {
            let pass = admit(&chain, tool(name)).expect("a timeout refuses nothing");
            assert_eq!(pass.deadline(), Some(Deadline { idle, max }));
        }
    }

    #[test]
    fn without_a_timeout_there_is_no_deadline() {
        let (_, services) = services();
        assert_eq!(
            admit(&chain(&[], &services), tool("x"))
                .expect("nothing refuses")
                .deadline(),
            None
        );
    }
}
