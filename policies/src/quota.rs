//! Quotas: at most so much per span or window, for each key, at several levels at once.
//!
//! The counting is the [`Ledger`]'s; this file only chooses the buckets, says what a call costs and
//! words the refusal. It never sleeps: a wait is part of the verdict, and its end is already paid for.

use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;

use crate::engine::allow::{Allow, Counted, Period};
use crate::engine::ledger::{
    Bucket, Draw, Fitting, Ledger, LedgerDown, Limit, LocalLedger, Per, Reply, Take,
};
use crate::engine::policy::code;
use crate::engine::rule::{Names, Pattern};
use crate::engine::span::{MOST, Span};
use crate::engine::{
    Call, Completion, Fields, KeyDoc, Kind, Metered, Policy, Rejection, Services, Stage, Verdict,
    Wrong,
};

/// `type = "quota"`.
pub const KIND: Kind = Kind {
    name: "quota",
    stage: Stage::Meter,
    about: "admits so many calls, or bytes, per span for each key",
    keys: &[
        PER,
        KeyDoc::new(
            "allow",
            "\"60/min\" | \"10MiB/min\" | \"1000/day in Asia/Seoul\"",
            "how much per span, which comes back evenly spread; with a time zone per day, week or \
             month of the calendar; bytes are those of requests and answers",
        ),
        KeyDoc::new(
            "burst",
            "10",
            "how many at once; default: the number in `allow`",
        ),
        KeyDoc::new(
            "cost",
            "5 | { \"files__write_*\" = 5, \"files__read_*\" = 0 }",
            "how many a call counts for; of several that fit the highest, and 1 where none does",
        ),
        KeyDoc::new(
            "within",
            "[{ per = \"group\", allow = \"300/min\" }, { per = \"all\", allow = \"1000/min\" }]",
            "wider budgets that have to have it as well: a call takes from all of them or from none",
        ),
        EXCEED,
        KeyDoc::new(
            "exact",
            "true | false",
            "whether replicas that share a store count to the last one; where not, each may take a \
             hundredth of the burst ahead, and most calls wait for no store; default true",
        ),
        KeyDoc::new(
            "on-store-error",
            "\"deny\" | \"local\" | \"allow\"",
            "when a shared store is away: refuse, count in this replica, or admit; default deny",
        ),
    ],
    once: false,
    build,
};

pub(crate) const PER: KeyDoc = KeyDoc::new(
    "per",
    "\"agent\" | [\"agent\", \"tool\"] | \"all\"",
    "what is counted apart: agent, group, scope, server, tool, any list of them, or all together; \
     default agent. Of an agent's groups (scopes) the first counts that `match` names",
);

pub(crate) const EXCEED: KeyDoc = KeyDoc::new(
    "exceed",
    "\"reject\" | { wait = \"5s\" }",
    "refuse, or make the call wait if that is long enough; default reject",
);

/// Longest wait that may be configured.
const LONGEST_WAIT: Duration = Duration::from_hours(1);
/// The most levels of a budget, its own among them.
const LEVELS: usize = 4;
/// The most that a call may cost.
const DEAREST: u32 = 1_000_000;

#[derive(Debug)]
struct Quota(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    name: Arc<str>,
    /// Its own first, then those that it is within.
    levels: Vec<Level>,
    of: Counted,
    costs: Costs,
    patience: Duration,
    exact: bool,
    on_store_error: OnStoreError,
    ledger: Arc<dyn Ledger>,
    local: Arc<LocalLedger>,
}

#[derive(Debug)]
struct Level {
    /// The policy's name, or that and the level's number.
    name: Arc<str>,
    per: Per,
    limit: Limit,
}

/// What calls cost.
#[derive(Debug)]
enum Costs {
    All(u64),
    Each(Vec<(Names, u64)>),
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum OnStoreError {
    #[default]
    Deny,
    Local,
    Allow,
}

fn build(fields: &mut Fields<'_>, name: &Arc<str>, services: &Services) -> Option<Arc<dyn Policy>> {
    let fitting = Fittings::read(fields);
    let own = level(fields, name, &fitting);
    let mut levels: Vec<Level> = own.into_iter().collect();
    let mut number = 1;
    let wider = fields.tables("within", LEVELS - 1, |inner| {
        number += 1;
        level(inner, &Bucket::of_level(name, number), &fitting)
    });
    levels.extend(wider.into_iter().flatten());
    let of = levels
        .first()
        .map_or(Counted::Calls, |own| own.limit.allow().of);
    if levels.iter().any(|level| level.limit.allow().of != of) {
        let message = "a budget of bytes and one of calls cannot be taken from together";
        let help = "write a [[policy]] for each";
        fields.wrong(Some("within"), Wrong::new(message, help));
    }
    let costs = costs(fields);
    if of == Counted::Bytes && fields.value("cost").is_some() {
        let message = "a budget of bytes counts what is sent";
        fields.wrong(Some("cost"), Wrong::new(message, "take `cost` out"));
    }
    let patience = exceed(fields);
    let exact = match fields.value("exact") {
        None => true,
        Some(Value::Bool(exact)) => *exact,
        Some(_) => {
            let wrong = Wrong::new("`exact` is true or false", "write exact = false");
            fields.wrong(Some("exact"), wrong);
            true
        }
    };
    let modes = [
        ("deny", OnStoreError::Deny),
        ("local", OnStoreError::Local),
        ("allow", OnStoreError::Allow),
    ];
    let on_store_error = fields.choice("on-store-error", &modes).unwrap_or_default();
    fields.clean().then(|| {
        Arc::new(Quota(Arc::new(Inner {
            name: Arc::clone(name),
            levels,
            of,
            costs,
            patience,
            exact,
            on_store_error,
            ledger: Arc::clone(&services.ledger),
            local: Arc::clone(&services.local),
        }))) as Arc<dyn Policy>
    })
}

/// The budget that a table describes.
fn level(fields: &mut Fields<'_>, name: &Arc<str>, fitting: &Fittings) -> Option<Level> {
    let per = per_of(fields, fitting);
    fields.missing("allow", "write allow = \"60/min\"");
    let allow: Option<Allow> = fields.allowance("allow");
    let burst = fields.integer("burst", 1..=MOST).map(u64::from);
    let allow = allow?;
    if let (Period::Calendar(_), Some(_)) = (&allow.per, burst) {
        let message = "a window of the calendar has no burst: all of it may come at once";
        fields.wrong(Some("burst"), Wrong::new(message, "take `burst` out"));
        return None;
    }
    let Some(limit) = Limit::new(allow, burst) else {
        let help = "lower `burst`, or write the rate over a shorter span";
        let message = "an empty budget would need more than 400 days to fill";
        fields.wrong(Some("allow"), Wrong::new(message, help));
        return None;
    };
    Some(Level {
        name: Arc::clone(name),
        per,
        limit,
    })
}

fn costs(fields: &mut Fields<'_>) -> Costs {
    match fields.value("cost") {
        None => Costs::All(1),
        Some(Value::Object(table)) => {
            let mut each = Vec::new();
            for (pattern, cost) in table {
                let cost = cost.as_u64().filter(|cost| *cost <= u64::from(DEAREST));
                match (Pattern::parse(pattern), cost) {
                    (Ok(pattern), Some(cost)) => each.push((Names::new(vec![pattern]), cost)),
                    (Err(wrong), _) => fields.wrong(Some("cost"), wrong),
                    (_, None) => {
                        let message = format!("{pattern:?} cannot cost that");
                        let help = format!("write a whole number from 0 to {DEAREST}");
                        fields.wrong(Some("cost"), Wrong::new(message, help));
                    }
                }
            }
            Costs::Each(each)
        }
        Some(_) => Costs::All(fields.integer("cost", 0..=DEAREST).unwrap_or(1).into()),
    }
}

/// The groups and scopes that `match` names: of an agent's many, the first of them counts.
#[derive(Debug, Default)]
pub(crate) struct Fittings {
    group: Fitting,
    scope: Fitting,
}

impl Fittings {
    /// What stands in `match`, whose mistakes are told elsewhere.
    pub(crate) fn read(fields: &Fields<'_>) -> Self {
        let of = |key| Fitting(fields.peek_patterns("match", key));
        Self {
            group: of("group"),
            scope: of("scope"),
        }
    }
}

/// Reads `per`: one word or a list.
pub(crate) fn per(fields: &mut Fields<'_>) -> Per {
    let fitting = Fittings::read(fields);
    per_of(fields, &fitting)
}

fn per_of(fields: &mut Fields<'_>, fitting: &Fittings) -> Per {
    let Some(words) = fields.texts("per") else {
        return Per {
            agent: true,
            ..Per::default()
        };
    };
    let mut per = Per::default();
    for word in &words {
        match *word {
            "agent" => per.agent = true,
            "group" => per.group = Some(fitting.group.clone()),
            "scope" => per.scope = Some(fitting.scope.clone()),
            "server" => per.server = true,
            "tool" => per.tool = true,
            "all" if words.len() == 1 => {}
            _ => {
                let help = "write \"agent\", \"group\", \"scope\", \"server\", \"tool\", a list of them, \
                            or \"all\" alone";
                fields.wrong(
                    Some("per"),
                    Wrong::new("`per` names what is counted apart", help),
                );
            }
        }
    }
    per
}

/// Reads `exceed`: how long a call may wait; zero is a refusal at once.
pub(crate) fn exceed(fields: &mut Fields<'_>) -> Duration {
    const HELP: &str = "write exceed = \"reject\" or exceed = { wait = \"5s\" }, at most 1h";
    if fields.value("exceed").is_none_or(|value| value == "reject") {
        return Duration::ZERO;
    }
    if let Some(Value::String(_)) = fields.value("exceed") {
        let message = "`exceed` is \"reject\" or says how long to wait";
        fields.wrong(Some("exceed"), Wrong::new(message, HELP));
        return Duration::ZERO;
    }
    let wait = fields.table("exceed", |inner| {
        inner.missing("wait", HELP);
        inner.span("wait")
    });
    let wait = wait.unwrap_or_default();
    if fields.clean() && (wait.is_zero() || wait > LONGEST_WAIT) {
        let wrong = Wrong::new(format!("a call cannot wait {}", Span(wait)), HELP);
        fields.wrong(Some("exceed"), wrong);
    }
    wait
}

impl Policy for Quota {
    fn stage(&self) -> Stage {
        KIND.stage
    }

    fn on_request(&self, call: &Call) -> Verdict {
        let inner = &self.0;
        let n = match inner.of {
            Counted::Calls => inner.costs.of(call),
            Counted::Bytes => call.bytes_in,
        };
        let reply = inner.draw(call, n, |draws| inner.ledger.take(draws, inner.patience));
        match reply {
            Reply::Now(take) => inner.verdict(take),
            Reply::Later(answer) => {
                let (inner, call) = (Arc::clone(inner), call.clone());
                Verdict::Later(Box::pin(async move {
                    match answer.await {
                        Ok(take) => inner.verdict(take),
                        Err(down) => inner.without_store(&call, n, &down),
                    }
                }))
            }
        }
    }

    fn on_complete(&self, call: &Call, completion: &Completion) {
        let inner = &self.0;
        if inner.of == Counted::Bytes && completion.bytes_out > 0 {
            inner.draw(call, completion.bytes_out, |draws| {
                inner.ledger.charge(draws);
            });
        }
    }

    fn summary(&self) -> String {
        let Inner {
            levels,
            patience,
            costs,
            ..
        } = &*self.0;
        let budgets: Vec<String> = levels.iter().map(Level::summary).collect();
        let dear = match costs {
            Costs::All(1) => String::new(),
            Costs::All(cost) => format!(", a call counts for {cost}"),
            Costs::Each(each) => {
                let each = each.iter();
                let each = each.map(|(names, cost)| format!("{} for {cost}", names.to_text()));
                format!(", counting {}", each.collect::<Vec<_>>().join(", "))
            }
        };
        let wait = match *patience {
            Duration::ZERO => "refuses what exceeds it".to_owned(),
            wait => format!("makes what exceeds it wait up to {}", Span(wait)),
        };
        format!("{}{dear}; {wait}", budgets.join(", within "))
    }
}

impl Level {
    fn summary(&self) -> String {
        let whose = self.per.words();
        let limit = &self.limit;
        match limit.allow().per {
            Period::Calendar(_) => format!("{limit} for each {whose}"),
            Period::Span(_) => {
                let burst = limit.allow().of.say(limit.burst());
                format!("{limit} for each {whose}, {burst} at once")
            }
        }
    }
}

impl Costs {
    fn of(&self, call: &Call) -> u64 {
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
}

impl Inner {
    /// What this call takes from each level, handed on without a list of its own for the usual one.
    fn draw<R>(&self, call: &Call, n: u64, with: impl FnOnce(&[Draw<'_>]) -> R) -> R {
        let draw = |level| self.drawn(level, call, n);
        match &self.levels[..] {
            [own] => with(&[draw(own)]),
            levels => with(&levels.iter().map(draw).collect::<Vec<_>>()),
        }
    }

    fn drawn<'l>(&self, level: &'l Level, call: &Call, n: u64) -> Draw<'l> {
        Draw {
            bucket: Bucket {
                name: Arc::clone(&level.name),
                key: level.per.key(call),
            },
            limit: &level.limit,
            n,
            exact: self.exact,
        }
    }

    fn verdict(&self, take: Take) -> Verdict {
        let Some(level) = self.levels.get(take.tightest) else {
            return Verdict::Admit;
        };
        let (limit, count) = (&level.limit, level.limit.allow().count);
        if take.admitted {
            return Verdict::Metered(Metered {
                limit: count,
                window: limit.span(),
                remaining: take.remaining,
                reset: take.reset,
                wait: take.wait,
            });
        }
        let after = take.retry_after.map(jittered);
        let when = after.map_or_else(String::new, |after| {
            format!("; retry after {} s", after.as_millis().div_ceil(1_000))
        });
        let message = format!("quota exceeded: {} ({limit}){when}", level.name);
        let mut rejection = Rejection::new(&self.name, KIND.name, "quota", code::QUOTA, message);
        rejection.retry_after = after;
        let per = limit.span();
        let window: Value = match per.subsec_nanos() {
            0 => per.as_secs().into(),
            _ => per.as_secs_f64().into(),
        };
        rejection.data = vec![
            ("limit", count.into()),
            ("windowS", window),
            ("remaining", take.remaining.into()),
            ("scope", level.per.words().into()),
        ];
        if self.of == Counted::Bytes {
            rejection.data.push(("unit", "bytes".into()));
        }
        Verdict::Reject(rejection)
    }

    fn without_store(&self, call: &Call, n: u64, down: &LedgerDown) -> Verdict {
        match self.on_store_error {
            OnStoreError::Allow => Verdict::Admit,
            OnStoreError::Local => {
                let reply = self.draw(call, n, |draws| self.local.take(draws, self.patience));
                match reply {
                    Reply::Now(take) => self.verdict(take),
                    Reply::Later(_) => Verdict::Admit,
                }
            }
            OnStoreError::Deny => {
                let message = format!("quota {} cannot be counted: {down}", self.name);
                let mut rejection = Rejection::new(
                    &self.name,
                    KIND.name,
                    "store_down",
                    code::STORE_DOWN,
                    message,
                );
                rejection.retry_after = Some(jittered(Duration::from_secs(1)));
                Verdict::Reject(rejection)
            }
        }
    }
}

/// Up to a tenth later (at most 5 s), so that those refused together do not come back together.
pub(crate) fn jittered(span: Duration) -> Duration {
    span + (span / 10)
        .min(Duration::from_secs(5))
        .mul_f64(fastrand::f64())
}

#[cfg(test)]
mod tests;
