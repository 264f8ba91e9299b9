//! What a break does: how much stress it takes and whether the boss notices.
//!
//! All chance is spent here, once a break; applying the result to somebody's levels is
//! `office.rs`. A relief always lies in 1..=100, and at an alertness of 100 every break but
//! `email_organizing` is noticed, in both modes.

use std::ops::RangeInclusive;

use fastrand::Rng;

use crate::{Effects, tools::Break};

/// What one break will do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Effect {
    /// Stress taken, 1 to 100.
    pub(crate) relief: u8,
    /// What happens to the boss alert.
    pub(crate) alert: Alert,
}

/// What a break does to the boss alert, by at most one step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Alert {
    Rises,
    Stays,
    Falls,
}

/// Rolls the effect of one break. `repeated` says that it comes soon after another of its kind.
pub(crate) fn roll(
    effects: Effects,
    chosen: Break,
    alertness: u8,
    repeated: bool,
    rng: &mut Rng,
) -> Effect {
    let (relief, risk) = match effects {
        Effects::Uniform => (1..=100, Risk::Medium),
        Effects::Graded => graded(chosen, repeated, rng),
    };
    Effect {
        relief: rng.u8(relief),
        alert: risk.roll(alertness, rng),
    }
}

const SMALL: RangeInclusive<u8> = 5..=20;
const MEDIUM: RangeInclusive<u8> = 21..=50;
const LARGE: RangeInclusive<u8> = 51..=80;
const VERY_LARGE: RangeInclusive<u8> = 81..=100;
const MEDIUM_TO_LARGE: RangeInclusive<u8> = 21..=80;
/// Around the middle of all of them: neither wasted nor a windfall.
const BALANCED: RangeInclusive<u8> = 36..=65;

/// The graded table: one line a break.
fn graded(chosen: Break, repeated: bool, rng: &mut Rng) -> (RangeInclusive<u8>, Risk) {
    match chosen {
        Break::TakeABreak | Break::BathroomBreak => (MEDIUM, Risk::Small),
        Break::WatchNetflix => (LARGE, Risk::Large),
        Break::ShowMeme => (SMALL, Risk::Small),
        Break::CoffeeMission => (MEDIUM_TO_LARGE, Risk::Medium),
        Break::UrgentCall if repeated => (LARGE, Risk::Large),
        Break::UrgentCall => (LARGE, Risk::Small),
        Break::DeepThinking => (BALANCED, Risk::Medium),
        Break::EmailOrganizing => (SMALL, Risk::Relaxing),
        Break::Chimaek => (LARGE, Risk::Medium),
        Break::CompanyDinner if rng.bool() => (51..=100, Risk::Small),
        Break::CompanyDinner => (1..=20, Risk::Large),
        Break::LeaveWork => (VERY_LARGE, Risk::Large),
    }
}

/// How easily a break is noticed.
///
/// With p the alertness as a probability: small is p², as if it had to be noticed twice; large is
/// 1 - (1 - p)², as if there were two chances to notice it. So both keep "never" at 0 % and
/// "always" at 100 %, and differ most in between.
#[derive(Clone, Copy, Debug)]
enum Risk {
    Small,
    Medium,
    Large,
    /// Looks like work: never raises the alert, and lowers it every other time.
    Relaxing,
}

impl Risk {
    fn roll(self, alertness: u8, rng: &mut Rng) -> Alert {
        let percent = u32::from(alertness.min(100));
        // In hundredths of a percent, where all three are whole numbers.
        let chance = match self {
            Risk::Small => percent * percent,
            Risk::Medium => percent * 100,
            Risk::Large => 10_000 - (100 - percent) * (100 - percent),
            Risk::Relaxing => {
                return if rng.bool() {
                    Alert::Falls
                } else {
                    Alert::Stays
                };
            }
        };
        if rng.u32(0..10_000) < chance {
            Alert::Rises
        } else {
            Alert::Stays
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ROLLS: usize = 4_000;

    fn rolls(effects: Effects, chosen: Break, alertness: u8, repeated: bool) -> Vec<Effect> {
        let mut rng = Rng::with_seed(7);
        (0..ROLLS)
            .map(|_| roll(effects, chosen, alertness, repeated, &mut rng))
            .collect()
    }

    fn rises(effects: &[Effect]) -> usize {
        effects
            .iter()
            .filter(|effect| effect.alert == Alert::Rises)
            .count()
    }

    #[test]
    fn the_uniform_relief_covers_1_to_100_and_nothing_else() {
        let seen: std::collections::BTreeSet<u8> =
            rolls(Effects::Uniform, Break::ShowMeme, 50, false)
                .iter()
                .map(|e| e.relief)
                .collect();
        assert_eq!(seen, (1..=100).collect());
    }

    #[test]
    fn the_graded_relief_stays_in_the_range_of_its_break() {
        let ranges = [
            (Break::TakeABreak, 21, 50),
            (Break::WatchNetflix, 51, 80),
            (Break::ShowMeme, 5, 20),
            (Break::BathroomBreak, 21, 50),
            (Break::CoffeeMission, 21, 80),
            (Break::UrgentCall, 51, 80),
            (Break::DeepThinking, 36, 65),
            (Break::EmailOrganizing, 5, 20),
            (Break::Chimaek, 51, 80),
            (Break::CompanyDinner, 1, 100),
            (Break::LeaveWork, 81, 100),
        ];
        assert_eq!(ranges.map(|(chosen, ..)| chosen), Break::ALL);
        for (chosen, low, high) in ranges {
            let reliefs: Vec<u8> = rolls(Effects::Graded, chosen, 50, false)
                .iter()
                .map(|e| e.relief)
                .collect();
            assert_eq!(reliefs.iter().min(), Some(&low), "{chosen:?}");
            assert_eq!(reliefs.iter().max(), Some(&high), "{chosen:?}");
        }
    }

    #[test]
    fn at_100_every_break_is_noticed_but_email_when_graded() {
        for effects in [Effects::Uniform, Effects::Graded] {
            for chosen in Break::ALL {
                let noticed = rises(&rolls(effects, chosen, 100, false));
                if (effects, chosen) == (Effects::Graded, Break::EmailOrganizing) {
                    assert_eq!(noticed, 0);
                } else {
                    assert_eq!(noticed, ROLLS, "{effects:?} {chosen:?}");
                }
            }
        }
    }

    #[test]
    fn at_0_nothing_is_noticed() {
        for effects in [Effects::Uniform, Effects::Graded] {
            for chosen in Break::ALL {
                assert_eq!(
                    rises(&rolls(effects, chosen, 0, true)),
                    0,
                    "{effects:?} {chosen:?}"
                );
            }
        }
    }

    #[test]
    fn a_small_risk_is_noticed_less_and_a_large_one_more_than_the_alertness() {
        let share = |chosen| rises(&rolls(Effects::Graded, chosen, 50, false)) * 100 / ROLLS;
        assert!(
            (22..=28).contains(&share(Break::ShowMeme)),
            "{}",
            share(Break::ShowMeme)
        );
        assert!(
            (47..=53).contains(&share(Break::Chimaek)),
            "{}",
            share(Break::Chimaek)
        );
        assert!(
            (72..=78).contains(&share(Break::LeaveWork)),
            "{}",
            share(Break::LeaveWork)
        );
    }

    #[test]
    fn a_repeated_urgent_call_is_riskier_than_the_first() {
        let first = rises(&rolls(Effects::Graded, Break::UrgentCall, 50, false));
        let again = rises(&rolls(Effects::Graded, Break::UrgentCall, 50, true));
        assert!(again > first * 2, "{again} against {first}");
    }

    #[test]
    fn a_dinner_is_either_good_or_bad() {
        let dinners = rolls(Effects::Graded, Break::CompanyDinner, 50, false);
        assert!(dinners.iter().all(|e| e.relief <= 20 || e.relief > 50));
        assert!(dinners.iter().any(|e| e.relief <= 20));
        assert!(dinners.iter().any(|e| e.relief > 50));
    }

    #[test]
    fn email_sometimes_calms_the_boss_and_sometimes_does_nothing() {
        let mails = rolls(Effects::Graded, Break::EmailOrganizing, 95, false);
        assert!(mails.iter().any(|e| e.alert == Alert::Falls));
        assert!(mails.iter().any(|e| e.alert == Alert::Stays));
    }
}
