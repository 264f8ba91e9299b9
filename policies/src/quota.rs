//! Quotas: at most so many calls per span, for each key.
//!
//! The counting is the [`Ledger`]'s; this file only chooses the bucket and words the refusal. It
//! never sleeps: a wait is part of the verdict, and its end is already paid for.

use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;

use crate::engine::ledger::{self, Bucket, Ledger, LedgerDown, LocalLedger, Per, Reply, Take};
use crate::engine::policy::code;
use crate::engine::span::{MOST, Span};
use crate::engine::{
    Call, Fields, KeyDoc, Kind, Metered, Policy, Rejection, Services, Stage, Verdict, Wrong,
};

/// `type = "quota"`.
pub const KIND: Kind = Kind {
    name: "quota",
    stage: Stage::Meter,
    about: "admits so many calls per span for each key",
    keys: &[
        PER,
        KeyDoc::new(
            "allow",
            "\"60/min\"",
            "how many per span; shares come back evenly spread",
        ),
        KeyDoc::new(
            "burst",
            "10",
            "how many at once; default: the number in `allow`",
        ),
        EXCEED,
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
    "what is counted apart: agent, server, tool, any list of them, or all together; default agent",
);

pub(crate) const EXCEED: KeyDoc = KeyDoc::new(
    "exceed",
    "\"reject\" | { wait = \"5s\" }",
    "refuse, or make the call wait if that is long enough; default reject",
);

/// Longest wait that may be configured.
const LONGEST_WAIT: Duration = Duration::from_hours(1);

#[derive(Debug)]
struct Quota(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    name: Arc<str>,
    per: Per,
    quota: ledger::Quota,
    patience: Duration,
    on_store_error: OnStoreError,
    ledger: Arc<dyn Ledger>,
    local: Arc<LocalLedger>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum OnStoreError {
    #[default]
    Deny,
    Local,
    Allow,
}

fn build(fields: &mut Fields<'_>, name: &Arc<str>, services: &Services) -> Option<Arc<dyn Policy>> {
    let per = per(fields);
    fields.missing("allow", "write allow = \"60/min\"");
    let rate = fields.rate("allow");
    let burst = fields.integer("burst", 1..=MOST);
    let patience = exceed(fields);
    let modes = [
        ("deny", OnStoreError::Deny),
        ("local", OnStoreError::Local),
        ("allow", OnStoreError::Allow),
    ];
    let on_store_error = fields.choice("on-store-error", &modes).unwrap_or_default();
    let rate = rate?;
    let Some(quota) = ledger::Quota::new(rate, burst.unwrap_or(rate.count)) else {
        let help = "lower `burst`, or write the rate over a shorter span";
        let message = "an empty budget would need more than 400 days to fill";
        fields.wrong(Some("allow"), Wrong::new(message, help));
        return None;
    };
    fields.clean().then(|| {
        Arc::new(Quota(Arc::new(Inner {
            name: Arc::clone(name),
            per,
            quota,
            patience,
            on_store_error,
            ledger: Arc::clone(&services.ledger),
            local: Arc::clone(&services.local),
        }))) as Arc<dyn Policy>
    })
}

/// Reads `per`: one word or a list.
pub(crate) fn per(fields: &mut Fields<'_>) -> Per {
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
            "server" => per.server = true,
            "tool" => per.tool = true,
            "all" if words.len() == 1 => {}
            _ => {
                let help =
                    "write \"agent\", \"server\", \"tool\", a list of them, or \"all\" alone";
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
        let bucket = Bucket {
            name: Arc::clone(&inner.name),
            key: inner.per.key(call),
        };
        match inner.ledger.take(&bucket, inner.quota, 1, inner.patience) {
            Reply::Now(take) => inner.verdict(take),
            Reply::Later(answer) => {
                let inner = Arc::clone(inner);
                Verdict::Later(Box::pin(async move {
                    match answer.await {
                        Ok(take) => inner.verdict(take),
                        Err(down) => inner.without_store(&bucket, &down),
                    }
                }))
            }
        }
    }

    fn summary(&self) -> String {
        let Inner {
            quota,
            per,
            patience,
            ..
        } = &*self.0;
        let wait = match *patience {
            Duration::ZERO => "refuses what exceeds it".to_owned(),
            wait => format!("makes what exceeds it wait up to {}", Span(wait)),
        };
        format!(
            "{quota} for each {}, {} at once; {wait}",
            per.scope(),
            quota.burst()
        )
    }
}

impl Inner {
    fn verdict(&self, take: Take) -> Verdict {
        if take.admitted {
            return Verdict::Metered(Metered {
                limit: self.quota.rate().count,
                window: self.quota.rate().per,
                remaining: take.remaining,
                reset: take.reset,
                wait: take.wait,
            });
        }
        let after = take.retry_after.map(jittered);
        let when = after.map_or_else(String::new, |after| {
            format!("; retry after {} s", after.as_millis().div_ceil(1_000))
        });
        let message = format!("quota exceeded: {} ({}){when}", self.name, self.quota);
        let mut rejection = Rejection::new(&self.name, KIND.name, "quota", code::QUOTA, message);
        rejection.retry_after = after;
        let per = self.quota.rate().per;
        let window: Value = match per.subsec_nanos() {
            0 => per.as_secs().into(),
            _ => per.as_secs_f64().into(),
        };
        rejection.data = vec![
            ("limit", self.quota.rate().count.into()),
            ("windowS", window),
            ("remaining", 0.into()),
            ("scope", self.per.scope().into()),
        ];
        Verdict::Reject(rejection)
    }

    fn without_store(&self, bucket: &Bucket, down: &LedgerDown) -> Verdict {
        match self.on_store_error {
            OnStoreError::Allow => Verdict::Admit,
            OnStoreError::Local => match self.local.take(bucket, self.quota, 1, self.patience) {
                Reply::Now(take) => self.verdict(take),
                Reply::Later(_) => Verdict::Admit,
            },
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
