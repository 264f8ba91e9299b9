//! Quotas: at most so much per span or window, for each key, at several levels at once.
//!
//! The counting is the [`Ledger`]'s; this file only chooses the buckets and words the refusal. It never
//! sleeps: a call that is to wait gets its turn in `quota/waiting.rs`.

use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;

use crate::engine::allow::{Allow, Counted, Period};
use crate::engine::exceed::{EXCEED, Exceed, WEIGHTS};
use crate::engine::ledger::{
    Bucket, Draw, Fitting, Ledger, LedgerDown, Limit, LocalLedger, Per, Reply, Take,
};
use crate::engine::policy::code;
use crate::engine::rooms::Rooms;
use crate::engine::span::MOST;
use crate::engine::{
    Call, Clock, Completion, Fields, KeyDoc, Kind, Metered, Policy, Rejection, Services, Stage,
    Verdict, Wrong,
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
        WEIGHTS,
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

/// The most levels of a budget, its own among them.
const LEVELS: usize = 4;
#[derive(Debug)]
struct Quota(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    name: Arc<str>,
    /// Its own first, then those that it is within.
    levels: Vec<Level>,
    of: Counted,
    costs: Costs,
    exceed: Exceed,
    /// In shadow nobody can wait: what would have is counted as if it had its turn by then.
    shadow: bool,
    /// What is left alone by agents that have had their share: one call of the dearest.
    keep: u64,
    exact: bool,
    on_store_error: OnStoreError,
    ledger: Arc<dyn Ledger>,
    local: Arc<LocalLedger>,
    rooms: Rooms,
    clock: Arc<dyn Clock>,
}

#[derive(Debug)]
struct Level {
    /// The policy's name, or that and the level's number.
    name: Arc<str>,
    per: Per,
    limit: Limit,
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
    let costs = Costs::read(fields);
    if of == Counted::Bytes && fields.value("cost").is_some() {
        let message = "a budget of bytes counts what is sent";
        fields.wrong(Some("cost"), Wrong::new(message, "take `cost` out"));
    }
    let is_own = levels.len() == 1 && levels.iter().all(|level| level.per.agent);
    let exceed = Exceed::read(fields, is_own);
    let shadow = fields.value("mode").is_some_and(|mode| mode == "shadow");
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
            keep: costs.dearest(),
            costs,
            exceed,
            shadow,
            exact,
            on_store_error,
            ledger: Arc::clone(&services.ledger),
            local: Arc::clone(&services.local),
            rooms: services.rooms.clone(),
            clock: Arc::clone(&services.clock),
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
        if inner.exceed.waits() && !inner.shadow && n > 0 {
            return waiting::ask(inner, call, n);
        }
        let patience = inner.exceed.wait;
        let reply = inner.draw(call, n, |draws| inner.ledger.take(draws, patience));
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
            exceed,
            costs,
            ..
        } = &*self.0;
        let budgets: Vec<String> = levels.iter().map(Level::summary).collect();
        let dear = costs.summary();
        let wait = if exceed.waits() {
            format!("makes what exceeds it wait{}", exceed.summary())
        } else {
            "refuses what exceeds it".to_owned()
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
            keep: 0,
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
        Verdict::Reject(self.refusal(level, take, "quota", ""))
    }

    /// The words of a refusal; `more` says what else there is to say, with a comma before it.
    fn refusal(&self, level: &Level, take: Take, reason: &'static str, more: &str) -> Rejection {
        let (limit, count) = (&level.limit, level.limit.allow().count);
        let after = take.retry_after.map(jittered);
        let when = after.map_or_else(String::new, |after| {
            format!("; retry after {} s", after.as_millis().div_ceil(1_000))
        });
        let message = format!("quota exceeded: {} ({limit}){more}{when}", level.name);
        let mut rejection = Rejection::new(&self.name, KIND.name, reason, code::QUOTA, message);
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
        rejection
    }

    fn without_store(&self, call: &Call, n: u64, down: &LedgerDown) -> Verdict {
        match self.on_store_error {
            OnStoreError::Allow => Verdict::Admit,
            OnStoreError::Local => {
                let patience = self.exceed.wait;
                // Each of those who share the budget has its part of it: what it counts, counts for all.
                let sharers = self.ledger.sharers().max(1);
                let n = n.saturating_mul(sharers);
                let reply = self.draw(call, n, |draws| self.local.take(draws, patience));
                match reply {
                    Reply::Now(take) => self.verdict(Take {
                        remaining: take.remaining / sharers,
                        ..take
                    }),
                    Reply::Later(_) => Verdict::Admit,
                }
            }
            OnStoreError::Deny => Verdict::Reject(self.uncounted(down)),
        }
    }

    fn uncounted(&self, down: &LedgerDown) -> Rejection {
        let message = format!("quota {} cannot be counted: {down}", self.name);
        let (code, reason) = (code::STORE_DOWN, "store_down");
        let mut rejection = Rejection::new(&self.name, KIND.name, reason, code, message);
        rejection.retry_after = Some(jittered(Duration::from_secs(1)));
        rejection
    }
}

/// Up to a tenth later (at most 5 s), so that those refused together do not come back together.
pub(crate) fn jittered(span: Duration) -> Duration {
    span + (span / 10)
        .min(Duration::from_secs(5))
        .mul_f64(fastrand::f64())
}

mod costs;
mod waiting;

use costs::Costs;

#[cfg(test)]
mod tests;
