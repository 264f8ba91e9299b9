//! The boss alert: a level from 0 to 5 that breaks raise by chance and time lowers again.
//!
//! A pure state machine, shared by the boss-alert policy and the built-in ChillMCP so that both
//! mean the same thing. It holds no clock and rolls no dice: time and the roll are handed in.

use std::time::{Duration, Instant};

/// The highest level; a call that leaves the alert here is held.
pub const TOP: u8 = 5;

/// How the boss behaves. May change while a [`Boss`] runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Chance in percent, 0..=100, that a call raises the alert. Larger values mean 100.
    pub alertness: u8,
    /// How long one level takes to fall. Zero: the alert is back at 0 at the next look.
    pub cooldown: Duration,
    /// How long a call that leaves the alert at [`TOP`] is held.
    pub hold: Duration,
}

impl Default for Settings {
    /// ChillMCP's own: 50 %, a level every 300 s, 20 s of holding.
    fn default() -> Self {
        Self {
            alertness: 50,
            cooldown: Duration::from_mins(5),
            hold: Duration::from_secs(20),
        }
    }
}

/// What one raise did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reading {
    /// The level the call met, 0..=5, after all cooldown that was due.
    pub before: u8,
    /// The level it left behind, 0..=5.
    pub after: u8,
    /// How long the call has to wait: set exactly when `after` is [`TOP`] and the hold is not zero.
    pub held: Option<Duration>,
}

/// One boss's attention.
#[derive(Clone, Debug)]
pub struct Boss {
    settings: Settings,
    level: u8,
    /// Start of the running cooldown period: the last rise, or the last fall that was due.
    since: Instant,
}

impl Boss {
    /// A boss who has noticed nothing yet.
    pub fn new(settings: Settings, now: Instant) -> Self {
        Self {
            settings,
            level: 0,
            since: now,
        }
    }

    /// The settings in force.
    pub fn settings(&self) -> Settings {
        self.settings
    }

    /// Changes the settings. Falls that were due are taken under the old ones first, and a shorter
    /// cooldown makes at most one further fall due at once: the past is not judged by new rules.
    pub fn set(&mut self, settings: Settings, now: Instant) {
        if settings == self.settings {
            return;
        }
        self.advance(now);
        self.settings = settings;
        if let Some(earliest) = now.checked_sub(settings.cooldown) {
            self.since = self.since.max(earliest);
        }
    }

    /// Takes the falls that are due at `now` and returns the level, 0..=5. Time that seems to run
    /// backwards changes nothing.
    pub fn advance(&mut self, now: Instant) -> u8 {
        let passed = now.saturating_duration_since(self.since);
        let cooldown = self.settings.cooldown;
        if self.level == 0 {
            return 0;
        }
        if cooldown.is_zero() {
            self.level = 0;
            return 0;
        }
        let periods = passed.as_nanos() / cooldown.as_nanos();
        if periods >= u128::from(self.level) {
            self.level = 0;
        } else if let Ok(falls) = u8::try_from(periods) {
            self.level -= falls;
            self.since += cooldown * u32::from(falls);
        }
        self.level
    }

    /// A call that may catch the boss's eye. `roll` is uniform in 0..100; the alert rises when it
    /// lies below the alertness, so always at 100 % and never at 0 %. A rise restarts the cooldown
    /// period; at [`TOP`] nothing can rise, so the running period goes on.
    pub fn raise(&mut self, now: Instant, roll: u8) -> Reading {
        let chance = u8::from(roll < self.settings.alertness || self.settings.alertness >= 100);
        self.raise_by(now, chance)
    }

    /// Raises by a given number of levels (0: only a look), capped at [`TOP`].
    pub fn raise_by(&mut self, now: Instant, levels: u8) -> Reading {
        let before = self.advance(now);
        let after = before.saturating_add(levels).min(TOP);
        if after > before {
            self.level = after;
            self.since = now;
        }
        let holds = after == TOP && !self.settings.hold.is_zero();
        Reading {
            before,
            after,
            held: holds.then_some(self.settings.hold),
        }
    }

    /// Lowers the alert by a given number of levels, down to 0. The cooldown period goes on.
    pub fn lower_by(&mut self, now: Instant, levels: u8) -> Reading {
        let before = self.advance(now);
        self.level = before.saturating_sub(levels);
        Reading {
            before,
            after: self.level,
            held: None,
        }
    }

    /// Back to 0, as an administrator's reset does.
    pub fn reset(&mut self, now: Instant) {
        self.level = 0;
        self.since = now;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::clock::{Clock, ManualClock};
    use proptest::prelude::*;

    const fn secs(n: u64) -> Duration {
        Duration::from_secs(n)
    }

    fn boss(alertness: u8, cooldown: u64) -> (ManualClock, Boss) {
        let clock = ManualClock::new();
        let settings = Settings {
            alertness,
            cooldown: secs(cooldown),
            hold: secs(20),
        };
        let boss = Boss::new(settings, clock.now());
        (clock, boss)
    }

    #[test]
    fn at_full_alertness_the_fifth_break_is_held() {
        let (clock, mut boss) = boss(100, 300);
        for level in 0..4 {
            let reading = boss.raise(clock.now(), 99);
            assert_eq!(
                reading,
                Reading {
                    before: level,
                    after: level + 1,
                    held: None
                }
            );
        }
        let fifth = boss.raise(clock.now(), 99);
        assert_eq!(
            fifth,
            Reading {
                before: 4,
                after: 5,
                held: Some(secs(20))
            }
        );
        let sixth = boss.raise(clock.now(), 99);
        assert_eq!(
            sixth,
            Reading {
                before: 5,
                after: 5,
                held: Some(secs(20))
            }
        );
    }

    #[test]
    fn without_alertness_nothing_rises() {
        let (clock, mut boss) = boss(0, 300);
        assert_eq!(boss.raise(clock.now(), 0).after, 0);
    }

    #[test]
    fn the_roll_decides_below_the_alertness() {
        let (clock, mut boss) = boss(50, 300);
        assert_eq!(boss.raise(clock.now(), 50).after, 0);
        assert_eq!(boss.raise(clock.now(), 49).after, 1);
    }

    #[test]
    fn one_level_falls_per_period_and_a_rise_restarts_it() {
        let (clock, mut boss) = boss(100, 10);
        boss.raise(clock.now(), 0);
        boss.raise(clock.now(), 0);
        clock.advance(secs(9));
        assert_eq!(boss.advance(clock.now()), 2);
        boss.raise(clock.now(), 0);
        clock.advance(secs(9));
        assert_eq!(
            boss.advance(clock.now()),
            3,
            "the rise restarted the period"
        );
        clock.advance(secs(1));
        assert_eq!(boss.advance(clock.now()), 2);
        clock.advance(secs(5));
        assert_eq!(boss.advance(clock.now()), 2);
        clock.advance(secs(5));
        assert_eq!(
            boss.advance(clock.now()),
            1,
            "looking half-way does not restart the period"
        );
        clock.advance(secs(1_000));
        assert_eq!(boss.advance(clock.now()), 0);
    }

    #[test]
    fn a_rise_after_a_long_rest_starts_its_own_period() {
        let (clock, mut boss) = boss(100, 10);
        clock.advance(secs(95));
        boss.raise(clock.now(), 0);
        clock.advance(secs(6));
        assert_eq!(boss.advance(clock.now()), 1);
    }

    #[test]
    fn no_cooldown_means_back_to_zero_at_the_next_look() {
        let (clock, mut boss) = boss(100, 0);
        boss.raise_by(clock.now(), 5);
        assert_eq!(boss.advance(clock.now()), 0);
    }

    #[test]
    fn a_shorter_cooldown_does_not_rewrite_the_past() {
        let (clock, mut boss) = boss(100, 300);
        boss.raise_by(clock.now(), 4);
        clock.advance(secs(290));
        boss.set(
            Settings {
                cooldown: secs(10),
                ..boss.settings()
            },
            clock.now(),
        );
        assert_eq!(boss.advance(clock.now()), 3);
        clock.advance(secs(10));
        assert_eq!(boss.advance(clock.now()), 2);
    }

    #[test]
    fn lowering_stops_at_zero() {
        let (clock, mut boss) = boss(100, 300);
        boss.raise_by(clock.now(), 2);
        assert_eq!(
            boss.lower_by(clock.now(), 9),
            Reading {
                before: 2,
                after: 0,
                held: None
            }
        );
    }

    proptest! {
        #[test]
        fn the_level_never_leaves_its_range(
            steps in proptest::collection::vec((0u64..2_000, 0u8..6, 0u8..100, 0u8..=255, 0u64..500), 0..60),
        ) {
            let (clock, mut boss) = boss(50, 300);
            for (pass, what, roll, levels, cooldown) in steps {
                clock.advance(secs(pass));
                let now = clock.now();
                let reading = match what {
                    0 => boss.raise(now, roll),
                    1 => boss.raise_by(now, levels),
                    2 => boss.lower_by(now, levels),
                    3 => { boss.reset(now); boss.raise_by(now, 0) }
                    4 => {
                        boss.set(Settings { alertness: levels, cooldown: secs(cooldown), hold: secs(20) }, now);
                        boss.raise(now, roll)
                    }
                    _ => { boss.advance(now); boss.raise_by(now, 0) }
                };
                prop_assert!(reading.before <= TOP && reading.after <= TOP);
                prop_assert_eq!(reading.held.is_some(), reading.after == TOP && what != 2);
            }
        }
    }
}
