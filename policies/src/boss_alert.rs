//! Boss alert: calls raise the boss's attention, and while it is at its height they are held.
//!
//! The state machine is [`engine::boss`](crate::engine::boss), the level lives in the ledger; this
//! file rolls the dice. It never sleeps: the hold is part of the verdict, and the chain sees to it
//! that a call is held once even when several of these apply.

use std::sync::Arc;
use std::time::Duration;

use crate::engine::boss::Settings;
use crate::engine::ledger::{Bucket, Ledger, LedgerDown, LocalLedger, Per, Reply};
use crate::engine::span::Span;
use crate::engine::{Call, Fields, KeyDoc, Kind, Policy, Services, Stage, Verdict, Wrong};

/// `type = "boss-alert"`.
pub const KIND: Kind = Kind {
    name: "boss-alert",
    stage: Stage::Shape,
    about: "holds calls while the boss is watching",
    keys: &[
        KeyDoc::new(
            "alertness",
            "50",
            "chance in percent that a call raises the alert; default 50",
        ),
        KeyDoc::new(
            "cooldown",
            "\"300s\"",
            "how long one of the 5 levels takes to fall; default 300s",
        ),
        KeyDoc::new(
            "hold",
            "\"20s\"",
            "how long a call that leaves it at 5 is held; default 20s",
        ),
        KeyDoc::new(
            "scope",
            "\"agent\" | \"shared\"",
            "one alert per agent or for all; default agent",
        ),
    ],
    once: false,
    build,
};

/// Longest hold that may be configured: hosts give up long before.
const LONGEST_HOLD: Duration = Duration::from_mins(10);

#[derive(Debug)]
struct BossAlert {
    name: Arc<str>,
    settings: Settings,
    per: Per,
    ledger: Arc<dyn Ledger>,
    local: Arc<LocalLedger>,
}

fn build(fields: &mut Fields<'_>, name: &Arc<str>, services: &Services) -> Option<Arc<dyn Policy>> {
    let usual = Settings::default();
    let alertness = fields
        .integer("alertness", 0..=100)
        .and_then(|percent| u8::try_from(percent).ok());
    let settings = Settings {
        alertness: alertness.unwrap_or(usual.alertness),
        cooldown: fields.span("cooldown").unwrap_or(usual.cooldown),
        hold: fields.span("hold").unwrap_or(usual.hold),
    };
    if settings.hold > LONGEST_HOLD {
        let message = format!("a call cannot be held {}", Span(settings.hold));
        fields.wrong(Some("hold"), Wrong::new(message, "write at most \"10m\""));
    }
    let agent = fields
        .choice("scope", &[("agent", true), ("shared", false)])
        .unwrap_or(true);
    let policy = BossAlert {
        name: Arc::clone(name),
        settings,
        per: Per {
            agent,
            ..Per::default()
        },
        ledger: Arc::clone(&services.ledger),
        local: Arc::clone(&services.local),
    };
    fields.clean().then(|| Arc::new(policy) as Arc<dyn Policy>)
}

impl Policy for BossAlert {
    fn stage(&self) -> Stage {
        KIND.stage
    }

    fn on_request(&self, call: &Call) -> Verdict {
        let bucket = Bucket {
            name: Arc::clone(&self.name),
            key: self.per.key(call),
        };
        let (settings, roll) = (self.settings, fastrand::u8(0..100));
        match self.ledger.raise(&bucket, settings, roll) {
            Reply::Now(reading) => Verdict::Boss(reading),
            Reply::Later(answer) => {
                let local = Arc::clone(&self.local);
                Verdict::Later(Box::pin(async move {
                    match answer.await {
                        Ok(reading) => Verdict::Boss(reading),
                        // A delay guards no budget: without the store each replica watches alone.
                        Err(LedgerDown(_)) => match local.raise(&bucket, settings, roll) {
                            Reply::Now(reading) => Verdict::Boss(reading),
                            Reply::Later(_) => Verdict::Admit,
                        },
                    }
                }))
            }
        }
    }

    fn summary(&self) -> String {
        let Settings {
            alertness,
            cooldown,
            hold,
        } = self.settings;
        let whose = if self.per.agent {
            "each agent's"
        } else {
            "the shared"
        };
        format!(
            "raises {whose} alert by chance ({alertness} %), a level falls every {}; holds {} at level 5",
            Span(cooldown),
            Span(hold)
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::boss::Reading;
    use crate::engine::ledger::{Draw, Take};
    use crate::engine::testing::{admit, call, chain, services, tool};
    use futures_util::FutureExt;
    use serde_json::{Value, json};

    fn table(more: &Value) -> Value {
        let mut table = json!({"type": "boss-alert", "name": "boss", "alertness": 100});
        let object = table.as_object_mut().expect("a table");
        object.extend(more.as_object().expect("a table").clone());
        table
    }

    #[test]
    fn the_fifth_call_is_held_for_twenty_seconds() {
        let (clock, services) = services();
        let chain = chain(&[table(&json!({}))], &services);
        for _ in 0..4 {
            assert!(!admit(&chain, tool("x")).expect("not refused").held());
        }
        let mut fifth = Box::pin(chain.admit(tool("x"), &()));
        assert!((&mut fifth).now_or_never().is_none());
        clock.advance(Duration::from_millis(19_999));
        assert!((&mut fifth).now_or_never().is_none());
        clock.advance(Duration::from_millis(1));
        let pass = fifth
            .now_or_never()
            .expect("the hold is over")
            .expect("not refused");
        assert!(pass.held());
        assert_eq!(pass.delayed(), Duration::from_secs(20));
    }

    #[test]
    fn each_agent_has_a_boss_of_its_own_unless_shared() {
        for (scope, waits) in [("agent", false), ("shared", true)] {
            let (_, services) = services();
            let chain = chain(&[table(&json!({ "scope": scope }))], &services);
            for _ in 0..4 {
                assert!(admit(&chain, tool("x")).is_ok());
            }
            let other = call("b", "files", "tools/call", Some("x"));
            assert_eq!(
                chain.admit(other, &()).now_or_never().is_none(),
                waits,
                "{scope}"
            );
        }
    }

    #[test]
    fn two_bosses_hold_a_call_once() {
        let (clock, services) = services();
        let tables = [
            table(&json!({"hold": "20s"})),
            table(&json!({"name": "second", "hold": "30s"})),
        ];
        let chain = chain(&tables, &services);
        for _ in 0..4 {
            assert!(admit(&chain, tool("x")).is_ok());
        }
        let mut fifth = Box::pin(chain.admit(tool("x"), &()));
        assert!((&mut fifth).now_or_never().is_none());
        clock.advance(Duration::from_secs(20));
        let pass = fifth
            .now_or_never()
            .expect("held once")
            .expect("not refused");
        assert_eq!(pass.delayed(), Duration::from_secs(20));
        assert!(pass.held(), "the second policy does not make it unheld");
    }

    #[test]
    fn the_alert_cools_down_without_a_call() {
        let (clock, services) = services();
        let chain = chain(&[table(&json!({"cooldown": "60s"}))], &services);
        for _ in 0..4 {
            assert!(admit(&chain, tool("x")).is_ok());
        }
        clock.advance(Duration::from_mins(2));
        assert_eq!(
            services.local.alerts().first().map(|(_, level)| *level),
            Some(2)
        );
        assert!(admit(&chain, tool("x")).is_ok());
        assert!(admit(&chain, tool("x")).is_ok());
        assert!(chain.admit(tool("x"), &()).now_or_never().is_none());
    }

    #[test]
    fn a_reload_keeps_the_level_and_takes_the_new_alertness() {
        let (_, services) = services();
        let first = chain(&[table(&json!({}))], &services);
        for _ in 0..4 {
            assert!(admit(&first, tool("x")).is_ok());
        }
        let calm = chain(&[table(&json!({"alertness": 0}))], &services);
        assert!(admit(&calm, tool("x")).is_ok());
        assert_eq!(
            services.local.alerts().first().map(|(_, level)| *level),
            Some(4)
        );
        let again = chain(&[table(&json!({}))], &services);
        assert!(again.admit(tool("x"), &()).now_or_never().is_none());
    }

    /// A shared store that is away.
    #[derive(Debug)]
    struct Away;

    impl Ledger for Away {
        fn take(&self, _: &[Draw<'_>], _: Duration) -> Reply<Take> {
            Reply::Later(Box::pin(async { Err(LedgerDown("gone".into())) }))
        }

        fn charge(&self, _: &[Draw<'_>]) {}

        fn raise(&self, _: &Bucket, _: Settings, _: u8) -> Reply<Reading> {
            Reply::Later(Box::pin(async { Err(LedgerDown("gone".into())) }))
        }
    }

    #[test]
    fn without_its_store_each_replica_watches_alone() {
        let (_, services) = services();
        let services = Services {
            ledger: Arc::new(Away),
            ..services
        };
        let chain = chain(&[table(&json!({}))], &services);
        for _ in 0..4 {
            assert!(admit(&chain, tool("x")).is_ok());
        }
        assert!(chain.admit(tool("x"), &()).now_or_never().is_none());
    }

    #[test]
    fn in_shadow_nothing_is_held() {
        let (_, services) = services();
        let chain = chain(&[table(&json!({"mode": "shadow"}))], &services);
        for _ in 0..9 {
            assert!(!admit(&chain, tool("x")).expect("not refused").held());
        }
    }
}
