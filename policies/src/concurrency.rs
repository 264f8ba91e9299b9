//! Concurrency: at most so many calls at a time, for each key.
//!
//! Last of the stages, so that a call that is refused or held elsewhere never occupies a slot. The
//! slots come back by themselves when the exchange ends, however it ends.

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::{Either, select};

use crate::engine::exceed::{EXCEED, End, Exceed, WEIGHTS};
use crate::engine::ledger::{Bucket, Per};
use crate::engine::line::Full;
use crate::engine::policy::code;
use crate::engine::slots::{Seat, Slots, Turn};
use crate::engine::{
    Call, Clock, Fields, KeyDoc, Kind, Policy, Rejection, Services, Stage, Verdict,
};
use crate::quota::{PER, jittered, per};

/// `type = "concurrency"`.
pub const KIND: Kind = Kind {
    name: "concurrency",
    stage: Stage::Limit,
    about: "admits so many calls at a time for each key",
    keys: &[
        PER,
        KeyDoc::new("at-most", "8", "how many at a time, 1 to 1000000"),
        EXCEED,
        WEIGHTS,
    ],
    once: false,
    build,
};

#[derive(Debug)]
struct Concurrency(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    name: Arc<str>,
    per: Per,
    at_most: u32,
    exceed: Exceed,
    slots: Slots,
    clock: Arc<dyn Clock>,
}

fn build(fields: &mut Fields<'_>, name: &Arc<str>, services: &Services) -> Option<Arc<dyn Policy>> {
    let per = per(fields);
    fields.missing("at-most", "write at-most = 8");
    let at_most = fields.integer("at-most", 1..=1_000_000);
    let exceed = Exceed::read(fields, per.agent);
    let inner = Inner {
        name: Arc::clone(name),
        per,
        at_most: at_most?,
        exceed,
        slots: services.slots.clone(),
        clock: Arc::clone(&services.clock),
    };
    fields
        .clean()
        .then(|| Arc::new(Concurrency(Arc::new(inner))) as Arc<dyn Policy>)
}

impl Policy for Concurrency {
    fn stage(&self) -> Stage {
        KIND.stage
    }

    fn on_request(&self, call: &Call) -> Verdict {
        let inner = &self.0;
        let bucket = Bucket {
            name: Arc::clone(&inner.name),
            key: inner.per.key(call),
        };
        let exceed = &inner.exceed;
        let wants = exceed.waits().then(|| exceed.wants(call, 1));
        let wants = wants.as_ref().map(|wants| (wants, exceed.bounds));
        match inner.slots.ask(&bucket, inner.at_most, wants) {
            Seat::Taken(slot) => Verdict::Slot(Box::new(slot)),
            Seat::None => inner.refuse("concurrency", ""),
            Seat::Full(full) => inner.refuse("queue_full", words(full)),
            Seat::Line(turn) => {
                let now = inner.clock.now();
                let end = exceed.end(call, now);
                let left = end.at.saturating_duration_since(now);
                let turn = Box::pin(Arc::clone(inner).queue(turn, left, end));
                Verdict::Wait {
                    at_most: left,
                    turn,
                }
            }
        }
    }

    fn summary(&self) -> String {
        let Inner {
            per,
            at_most,
            exceed,
            ..
        } = &*self.0;
        let wait = if exceed.waits() {
            format!("the rest waits in line{}", exceed.summary())
        } else {
            "refuses the rest".to_owned()
        };
        format!(
            "at most {at_most} at a time for each {}; {wait}",
            per.words()
        )
    }
}

impl Inner {
    async fn queue(self: Arc<Self>, turn: Turn, left: Duration, end: End) -> Verdict {
        match select(turn, self.clock.sleep(left)).await {
            Either::Left((Some(slot), _)) => Verdict::Slot(Box::new(slot)),
            Either::Left((None, _)) => self.refuse("queue_full", words(Full::All)),
            Either::Right(_) if end.is_callers => {
                self.refuse("deadline", ", and the caller's own deadline has come")
            }
            Either::Right(_) => self.refuse("concurrency", ", also after waiting"),
        }
    }

    fn refuse(&self, reason: &'static str, more: &str) -> Verdict {
        let message = format!(
            "too many calls at a time: {} (at most {}){more}; try again when one has ended",
            self.name, self.at_most
        );
        let mut rejection =
            Rejection::new(&self.name, KIND.name, reason, code::CONCURRENCY, message);
        // When a slot comes back is unknown; a second keeps a polite host from spinning.
        rejection.retry_after = Some(jittered(Duration::from_secs(1)));
        rejection.data = vec![
            ("limit", self.at_most.into()),
            ("scope", self.per.words().into()),
        ];
        Verdict::Reject(rejection)
    }
}

fn words(full: Full) -> &'static str {
    match full {
        Full::Own => ", and this agent has as many waiting as it may",
        Full::All => ", and as many wait as may",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::testing::{admit, chain, services, tool};
    use crate::engine::{Completion, Outcome};
    use futures_util::FutureExt;
    use serde_json::json;

    #[test]
    fn a_slot_comes_back_when_the_call_ends() {
        let (_, services) = services();
        let chain = chain(&[json!({"type": "concurrency", "at-most": 2})], &services);
        let first = admit(&chain, tool("x")).expect("a slot");
        let second = admit(&chain, tool("y")).expect("a slot");
        let rejection = admit(&chain, tool("z")).expect_err("no slot");
        assert_eq!((rejection.code, rejection.reason), (42901, "concurrency"));
        let data = rejection.to_data().expect("shown");
        assert_eq!(
            (&data["limit"], &data["scope"], &data["retryable"]),
            (&json!(2), &json!("agent"), &json!(true))
        );
        first.complete(Completion::of(Outcome::Ok));
        let third = admit(&chain, tool("z")).expect("the first one's slot");
        drop(second);
        assert!(
            admit(&chain, tool("z")).is_ok(),
            "a dropped pass gives its slot back"
        );
        drop(third);
    }

    #[test]
    fn who_waits_is_served_in_order() {
        let (_, services) = services();
        let table = json!({"type": "concurrency", "at-most": 1, "exceed": {"wait": "5s"}});
        let chain = chain(&[table], &services);
        let running = admit(&chain, tool("x")).expect("a slot");
        let mut first = Box::pin(chain.admit(tool("first"), &()));
        let mut second = Box::pin(chain.admit(tool("second"), &()));
        assert!((&mut first).now_or_never().is_none());
        assert!((&mut second).now_or_never().is_none());
        drop(running);
        assert!((&mut second).now_or_never().is_none(), "no overtaking");
        let first = first.now_or_never().expect("its turn").expect("a slot");
        drop(first);
        assert!(second.now_or_never().expect("its turn").is_ok());
    }

    #[test]
    fn who_has_waited_long_enough_is_refused_and_leaves_the_line() {
        let (clock, services) = services();
        let table =
            json!({"type": "concurrency", "name": "c", "at-most": 1, "exceed": {"wait": "5s"}});
        let chain = chain(&[table], &services);
        let running = admit(&chain, tool("x")).expect("a slot");
        let mut waiting = Box::pin(chain.admit(tool("y"), &()));
        assert!((&mut waiting).now_or_never().is_none());
        clock.advance(Duration::from_secs(5));
        let rejection = waiting
            .now_or_never()
            .expect("time is up")
            .expect_err("refused");
        assert_eq!(rejection.code, 42901);
        drop(running);
        assert!(admit(&chain, tool("z")).is_ok(), "the line is empty again");
    }

    #[test]
    fn a_reload_changes_the_bound_and_frees_nobody() {
        let (_, services) = services();
        let table = |at_most: u32| json!({"type": "concurrency", "name": "c", "at-most": at_most});
        let before = chain(&[table(2)], &services);
        let _running = [
            admit(&before, tool("x")).expect("a slot"),
            admit(&before, tool("y")).expect("a slot"),
        ];
        assert!(admit(&chain(&[table(2)], &services), tool("z")).is_err());
        assert!(admit(&chain(&[table(3)], &services), tool("z")).is_ok());
        assert!(admit(&chain(&[table(1)], &services), tool("z")).is_err());
    }

    #[test]
    fn in_shadow_nobody_waits_or_is_refused() {
        let (_, services) = services();
        let table = json!({"type": "concurrency", "mode": "shadow", "at-most": 1, "exceed": {"wait": "5s"}});
        let chain = chain(&[table], &services);
        let _running = admit(&chain, tool("x")).expect("a slot");
        assert!(admit(&chain, tool("y")).is_ok());
    }
}
