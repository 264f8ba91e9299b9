//! What breaks and time do to the levels, without a connection and without waiting.

use super::*;
use crate::{Effects, answer::Answer};

const AGENT: &str = "ada";

fn settings(alertness: u8, cooldown: u64) -> Settings {
    Settings {
        alertness,
        cooldown: Duration::from_secs(cooldown),
        ..Settings::default()
    }
}

fn office(settings: Settings) -> (Office, Instant) {
    let now = Instant::now();
    (Office::new(settings, Rng::with_seed(42), now), now)
}

fn secs(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

fn alert(office: &Office, agent: &str, now: Instant) -> u8 {
    office.look(agent, now).after.alert
}

#[test]
fn every_answer_of_every_tool_is_readable_with_the_three_expressions() {
    let summary = regex::Regex::new(r"Break Summary:\s*(.+?)(?:\n|$)").unwrap();
    let stress = regex::Regex::new(r"Stress Level:\s*(\d{1,3})").unwrap();
    let boss = regex::Regex::new(r"Boss Alert Level:\s*([0-5])").unwrap();
    let form = regex::Regex::new(
        r"\A\S+ [^\n]+\n\nBreak Summary: [^\n]+\nStress Level: \d{1,3}\nBoss Alert Level: [0-5]\z",
    )
    .unwrap();

    for lang in [Lang::En, Lang::Ko] {
        for effects in [Effects::Uniform, Effects::Graded] {
            for alertness in [0, 50, 100] {
                let (office, mut now) = office(Settings {
                    effects,
                    lang,
                    ..settings(alertness, 90)
                });
                for tool in Tool::all() {
                    for _ in 0..200 {
                        now += secs(31);
                        let event = match tool {
                            Tool::Break(chosen) => office.take_break(AGENT, chosen, now),
                            Tool::Status => office.look(AGENT, now),
                        };
                        let answer = Answer {
                            tool,
                            line: event.line,
                            caught: event.held.map(|_| event.caught),
                            before: event.before,
                            after: event.after,
                            held: event.held.unwrap_or_default(),
                        };
                        let text = answer.text();
                        assert!(form.is_match(&text), "{text}");
                        assert_eq!(&summary.captures(&text).unwrap()[1], event.line.summary);
                        assert_eq!(
                            stress.captures(&text).unwrap()[1],
                            event.after.stress.to_string()
                        );
                        assert_eq!(
                            boss.captures(&text).unwrap()[1],
                            event.after.alert.to_string()
                        );
                        assert!(event.after.stress <= 100);
                    }
                }
            }
        }
    }
}

#[test]
fn at_100_percent_the_alert_rises_with_each_break_and_the_fifth_is_held() {
    for effects in [Effects::Uniform, Effects::Graded] {
        for chosen in Break::ALL {
            if (effects, chosen) == (Effects::Graded, Break::EmailOrganizing) {
                continue;
            }
            let (office, now) = office(Settings {
                effects,
                ..settings(100, 300)
            });
            for level in 1..=4 {
                let event = office.take_break(AGENT, chosen, now);
                assert_eq!((event.before.alert, event.after.alert), (level - 1, level));
                assert_eq!(event.held, None);
            }
            for from in [4, 5] {
                let event = office.take_break(AGENT, chosen, now);
                assert_eq!(
                    (event.before.alert, event.after.alert),
                    (from, 5),
                    "{chosen:?}"
                );
                assert_eq!(event.held, Some(secs(20)));
            }
        }
    }
}

#[test]
fn graded_email_never_raises_the_alert_and_is_held_only_while_it_stays_at_5() {
    let (office, now) = office(Settings {
        effects: Effects::Graded,
        level: 5,
        ..settings(100, 300)
    });
    for _ in 0..100 {
        let event = office.take_break(AGENT, Break::EmailOrganizing, now);
        assert!(event.after.alert <= event.before.alert);
        assert_eq!(event.held.is_some(), event.after.alert == 5);
    }
    assert_eq!(
        alert(&office, AGENT, now),
        0,
        "half of the mails calm the boss"
    );
}

#[test]
fn at_0_percent_nobody_ever_notices() {
    let (office, now) = office(settings(0, 300));
    for _ in 0..500 {
        assert_eq!(
            office.take_break(AGENT, Break::LeaveWork, now).after.alert,
            0
        );
    }
}

#[test]
fn the_relief_of_a_break_is_1_to_100_and_never_leaves_the_range() {
    let (office, mut now) = office(Settings {
        stress: 100,
        ..settings(50, 1)
    });
    for _ in 0..2_000 {
        let event = office.take_break(AGENT, Break::ShowMeme, now);
        assert!(event.after.stress <= event.before.stress);
        assert!(event.before.stress == 0 || event.after.stress < event.before.stress);
        now += secs(60 * 60);
    }
}

#[test]
fn the_alert_falls_one_level_a_cooldown_without_any_call() {
    let (office, now) = office(settings(100, 10));
    for _ in 0..3 {
        office.take_break(AGENT, Break::Chimaek, now);
    }
    for (passed, level) in [
        (0, 3),
        (9, 3),
        (10, 2),
        (19, 2),
        (20, 1),
        (29, 1),
        (30, 0),
        (99, 0),
    ] {
        let seen = office.levels(now + secs(passed));
        assert_eq!(seen[0].1.alert, level, "after {passed} s");
    }
}

#[test]
fn a_rise_restarts_the_cooldown() {
    let (office, now) = office(settings(100, 10));
    office.take_break(AGENT, Break::Chimaek, now);
    office.take_break(AGENT, Break::Chimaek, now + secs(9));
    assert_eq!(alert(&office, AGENT, now + secs(18)), 2);
    assert_eq!(alert(&office, AGENT, now + secs(19)), 1);
}

#[test]
fn without_a_cooldown_the_boss_has_forgotten_at_the_next_check() {
    let (office, now) = office(settings(100, 0));
    for _ in 0..10 {
        assert_eq!(office.take_break(AGENT, Break::Chimaek, now).after.alert, 1);
    }
    assert_eq!(alert(&office, AGENT, now), 0);
}

#[test]
fn stress_rises_by_1_a_minute_and_a_break_restarts_the_minute() {
    let (office, now) = office(settings(0, 300));
    assert_eq!(office.look(AGENT, now).after.stress, 50);
    assert_eq!(office.look(AGENT, now + secs(59)).after.stress, 50);
    assert_eq!(office.look(AGENT, now + secs(60)).after.stress, 51);
    let broke = office.take_break(AGENT, Break::TakeABreak, now + secs(119));
    assert_eq!(broke.before.stress, 51);
    let rested = broke.after.stress;
    assert_eq!(office.look(AGENT, now + secs(178)).after.stress, rested);
    assert_eq!(office.look(AGENT, now + secs(179)).after.stress, rested + 1);
}

#[test]
fn looking_changes_nothing_and_is_never_held() {
    let (office, now) = office(Settings {
        level: 5,
        ..settings(100, 300)
    });
    for _ in 0..100 {
        let event = office.look(AGENT, now);
        assert_eq!(
            event.before,
            Levels {
                stress: 50,
                alert: 5
            }
        );
        assert_eq!(event.after, event.before);
        assert_eq!(event.held, None);
    }
}

#[test]
fn each_agent_has_its_own_levels_unless_they_are_shared() {
    let (own, now) = office(settings(100, 300));
    own.take_break("ada", Break::Chimaek, now);
    own.take_break("ada", Break::Chimaek, now);
    own.take_break("bob", Break::Chimaek, now);
    assert_eq!((alert(&own, "ada", now), alert(&own, "bob", now)), (2, 1));
    let names: Vec<_> = own
        .levels(now)
        .iter()
        .map(|(name, _)| name.to_string())
        .collect();
    assert_eq!(names, ["ada", "bob"]);

    let (shared, now) = office(Settings {
        scope: Scope::Shared,
        ..settings(100, 300)
    });
    shared.take_break("ada", Break::Chimaek, now);
    shared.take_break("bob", Break::Chimaek, now);
    assert_eq!(
        (alert(&shared, "ada", now), alert(&shared, "carol", now)),
        (2, 2)
    );
    let levels = shared.levels(now);
    assert_eq!(levels.len(), 1);
    assert_eq!((&*levels[0].0, levels[0].1.alert), (SHARED, 2));
}

#[test]
fn the_nameless_agent_works_from_the_start_and_a_named_one_from_its_first_call() {
    let (office, start) = office(settings(50, 300));
    let later = start + secs(600);
    assert_eq!(office.look(ANONYMOUS, later).after.stress, 60);
    assert_eq!(office.look("ada", later).after.stress, 50);
}

#[test]
fn the_longest_idle_agent_is_forgotten_when_there_are_too_many() {
    let (office, now) = office(settings(100, 300));
    for n in 0..MAX_AGENTS {
        office.take_break(&format!("agent-{n}"), Break::ShowMeme, now);
    }
    office.look("agent-0", now);
    office.take_break("one-more", Break::ShowMeme, now);
    assert_eq!(office.levels(now).len(), MAX_AGENTS);
    assert_eq!(alert(&office, "agent-0", now), 1, "it called a moment ago");
    assert_eq!(alert(&office, "one-more", now), 1);
    assert_eq!(
        alert(&office, "agent-1", now),
        0,
        "it was the longest idle and starts anew"
    );
    assert_eq!(office.levels(now).len(), MAX_AGENTS);
}

#[test]
fn new_settings_hold_from_the_next_break_and_keep_the_levels() {
    let (office, now) = office(settings(0, 300));
    office.take_break(AGENT, Break::Chimaek, now);
    office.update(
        Settings {
            lang: Lang::Ko,
            ..settings(100, 10)
        },
        now,
    );
    let event = office.take_break(AGENT, Break::Chimaek, now);
    assert_eq!(event.after.alert, 1);
    assert_eq!(event.lang, Lang::Ko);
    assert_eq!(alert(&office, AGENT, now + secs(10)), 0);
}

#[test]
fn time_before_an_update_is_judged_by_the_settings_of_that_time() {
    let (office, now) = office(Settings {
        level: 4,
        ..settings(100, 300)
    });
    assert_eq!(alert(&office, AGENT, now), 4);
    office.update(settings(100, 3_000), now + secs(601));
    assert_eq!(alert(&office, AGENT, now + secs(601)), 2);
}

#[test]
fn a_change_of_scope_starts_everybody_anew() {
    let (office, now) = office(settings(100, 300));
    office.take_break(AGENT, Break::Chimaek, now);
    office.update(
        Settings {
            scope: Scope::Shared,
            ..settings(100, 300)
        },
        now,
    );
    assert!(office.levels(now).is_empty());
    assert_eq!(alert(&office, AGENT, now), 0);
}

#[test]
fn numbers_out_of_range_are_taken_as_the_end_of_the_range() {
    let wild = Settings {
        alertness: 255,
        stress: 255,
        level: 255,
        ..Settings::default()
    };
    let (office, now) = office(wild);
    assert_eq!(
        office.look(AGENT, now).after,
        Levels {
            stress: 100,
            alert: 5
        }
    );
    assert_eq!(office.settings().alertness, 100);
}

#[test]
fn a_reset_puts_back_the_one_named_or_all() {
    let start = Levels {
        stress: 50,
        alert: 0,
    };
    let (office, now) = office(settings(100, 300));
    for agent in ["ada", "bob", "carol"] {
        office.take_break(agent, Break::Chimaek, now);
    }
    office.reset(Some("ada"), now);
    assert_eq!(office.look("ada", now).after, start);
    assert_eq!(alert(&office, "bob", now), 1);
    office.reset(Some("nobody"), now);
    assert_eq!(office.levels(now).len(), 3);
    office.reset(None, now);
    assert!(
        office
            .levels(now)
            .iter()
            .all(|(_, levels)| *levels == start)
    );
}

#[test]
fn a_reset_before_the_first_call_restarts_the_nameless_agents_clock() {
    for whom in [None, Some(ANONYMOUS)] {
        let (office, start) = office(settings(50, 300));
        office.reset(whom, start + secs(600));
        assert_eq!(office.look(ANONYMOUS, start + secs(659)).after.stress, 50);
        assert_eq!(office.look(ANONYMOUS, start + secs(660)).after.stress, 51);
    }
}

#[test]
fn shared_levels_are_reset_for_all_whoever_is_named() {
    let (office, now) = office(Settings {
        scope: Scope::Shared,
        ..settings(100, 300)
    });
    office.take_break("ada", Break::Chimaek, now);
    office.reset(Some("bob"), now);
    assert_eq!(alert(&office, "ada", now), 0);
}

#[test]
fn equal_seeds_and_equal_calls_give_equal_answers() {
    let now = Instant::now();
    let run = || {
        let office = Office::new(settings(50, 300), Rng::with_seed(3), now);
        Break::ALL
            .map(|chosen| office.take_break(AGENT, chosen, now))
            .map(|event| (event.after, event.line.message))
    };
    assert_eq!(run(), run());
}

#[test]
fn an_urgent_call_is_repeated_only_within_ten_minutes() {
    // With p = 10 %, the first call is noticed once in a hundred, a repeated one about 19 times.
    let noticed = |gap: u64| {
        let graded = Settings {
            effects: Effects::Graded,
            ..settings(10, 1)
        };
        let (office, mut now) = office(graded);
        (0..1_000)
            .filter(|_| {
                now += secs(gap);
                office.take_break(AGENT, Break::UrgentCall, now).after.alert > 0
            })
            .count()
    };
    assert!(noticed(600) < 40, "{}", noticed(600));
    assert!(noticed(599) > 120, "{}", noticed(599));
}
