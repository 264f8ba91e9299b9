//! `exceed` and `weights`: what becomes of calls that there is nothing left for, and who of those that
//! wait gets how much.
//!
//! One place for every policy that makes calls wait, so that all of them say it in the same words.

use std::time::{Duration, Instant};

use serde_json::Value;

use super::call::Call;
use super::fields::{Fields, Wrong};
use super::kind::KeyDoc;
use super::line::{Bounds, Wants};
use super::rule::Pattern;
use super::span::Span;

/// `exceed`.
pub const EXCEED: KeyDoc = KeyDoc::new(
    "exceed",
    "\"reject\" | { wait = \"5s\", queue = 1000, queue-per-agent = 250 }",
    "refuse, or make the call wait for its turn if that comes soon enough; `queue` bounds how many \
     wait for each budget, `queue-per-agent` how many of one agent (default a quarter of them; all, \
     where the budget is the agent's own); default reject",
);

/// `weights`.
pub const WEIGHTS: KeyDoc = KeyDoc::new(
    "weights",
    "{ \"agent-a\" = 3, \"batch-*\" = 1 }",
    "how much of what there is each agent gets while several wait; of several that fit the highest, \
     and 1 where none does",
);

/// Longest wait that may be configured.
const LONGEST_WAIT: Duration = Duration::from_hours(1);
/// How many may wait where nothing is said of it.
const QUEUE: u32 = 1_000;
/// The most that may be allowed to wait.
const LONGEST_QUEUE: u32 = 100_000;
/// The largest weight.
const HEAVIEST: u32 = 1_000;

/// What becomes of calls that there is nothing left for.
#[derive(Clone, Debug)]
pub struct Exceed {
    /// How long one may wait; zero is a refusal at once.
    pub wait: Duration,
    /// How many may.
    pub bounds: Bounds,
    weights: Vec<(Pattern, u32)>,
}

impl Exceed {
    /// Reads both keys. `is_own`: what is waited for is one agent's alone.
    pub fn read(fields: &mut Fields<'_>, is_own: bool) -> Self {
        let (wait, all, each) = waits(fields);
        let all = all.unwrap_or(QUEUE);
        let part = if is_own { all } else { all.div_ceil(4) };
        let each = each.unwrap_or(part);
        if each > all {
            let message = "`queue-per-agent` is more than `queue`";
            let wrong = Wrong::new(message, "write at most as many");
            fields.wrong(Some("exceed"), wrong);
        }
        let weights = weights(fields);
        if wait.is_zero() && !weights.is_empty() && fields.clean() {
            let message = "weights are for calls that wait, and these do not";
            let wrong = Wrong::new(message, "write exceed = { wait = \"5s\" }");
            fields.wrong(Some("weights"), wrong);
        }
        Self {
            wait,
            bounds: Bounds {
                all: all as usize,
                each: each as usize,
            },
            weights,
        }
    }

    /// Whether calls wait at all.
    pub fn waits(&self) -> bool {
        !self.wait.is_zero()
    }

    /// Who waits with this call, and for how much.
    pub fn wants(&self, call: &Call, cost: u64) -> Wants {
        let fitting = self
            .weights
            .iter()
            .filter(|(pattern, _)| pattern.matches(&call.agent));
        Wants {
            agent: call.agent.clone(),
            weight: fitting.map(|(_, weight)| *weight).max().unwrap_or(1),
            cost,
        }
    }

    /// Until when this call would wait: the caller may have less patience than the policy.
    pub fn end(&self, call: &Call, now: Instant) -> End {
        let own = now + self.wait;
        match call.deadline.filter(|deadline| *deadline < own) {
            Some(at) => End {
                at,
                is_callers: true,
            },
            None => End {
                at: own,
                is_callers: false,
            },
        }
    }

    /// In words: ` up to 5s, 1000 in all and 250 of one agent`.
    pub fn summary(&self) -> String {
        let Bounds { all, each } = self.bounds;
        let mut text = format!(" up to {}, {all} at most", Span(self.wait));
        if each < all {
            text.push_str(" and ");
            text.push_str(&each.to_string());
            text.push_str(" of one agent");
        }
        let weights = self.weights.iter();
        let weights = weights.map(|(pattern, weight)| format!("{} {weight}", pattern.as_str()));
        let weights = weights.collect::<Vec<_>>().join(", ");
        if !weights.is_empty() {
            text.push_str(", by weight: ");
            text.push_str(&weights);
        }
        text
    }
}

/// When a wait ends.
#[derive(Clone, Copy, Debug)]
pub struct End {
    /// The moment.
    pub at: Instant,
    /// It is the caller's own deadline, and not the policy's patience.
    pub is_callers: bool,
}

fn waits(fields: &mut Fields<'_>) -> (Duration, Option<u32>, Option<u32>) {
    const HELP: &str = "write exceed = \"reject\" or exceed = { wait = \"5s\" }, at most 1h";
    const NONE: (Duration, Option<u32>, Option<u32>) = (Duration::ZERO, None, None);
    if fields.value("exceed").is_none_or(|value| value == "reject") {
        return NONE;
    }
    if let Some(Value::String(_)) = fields.value("exceed") {
        let message = "`exceed` is \"reject\" or says how long to wait";
        fields.wrong(Some("exceed"), Wrong::new(message, HELP));
        return NONE;
    }
    let read = fields.table("exceed", |inner| {
        inner.missing("wait", HELP);
        let wait = inner.span("wait").unwrap_or_default();
        let all = inner.integer("queue", 1..=LONGEST_QUEUE);
        let each = inner.integer("queue-per-agent", 1..=LONGEST_QUEUE);
        Some((wait, all, each))
    });
    let read = read.unwrap_or(NONE);
    if fields.clean() && (read.0.is_zero() || read.0 > LONGEST_WAIT) {
        let wrong = Wrong::new(format!("a call cannot wait {}", Span(read.0)), HELP);
        fields.wrong(Some("exceed"), wrong);
    }
    read
}

fn weights(fields: &mut Fields<'_>) -> Vec<(Pattern, u32)> {
    const HELP: &str = "write weights = { \"agent-a\" = 3, \"batch-*\" = 1 }";
    let Some(value) = fields.value("weights") else {
        return Vec::new();
    };
    let Value::Object(table) = value else {
        let wrong = Wrong::new("`weights` is a table of agents", HELP);
        fields.wrong(Some("weights"), wrong);
        return Vec::new();
    };
    let mut weights = Vec::new();
    for (pattern, weight) in table {
        let weight = weight
            .as_u64()
            .and_then(|weight| u32::try_from(weight).ok());
        let weight = weight.filter(|weight| (1..=HEAVIEST).contains(weight));
        match (Pattern::parse(pattern), weight) {
            (Ok(pattern), Some(weight)) => weights.push((pattern, weight)),
            (Err(wrong), _) => fields.wrong(Some("weights"), wrong),
            (_, None) => {
                let message = format!("{pattern:?} cannot have that weight");
                let help = format!("write a whole number from 1 to {HEAVIEST}");
                fields.wrong(Some("weights"), Wrong::new(message, help));
            }
        }
    }
    weights
}
