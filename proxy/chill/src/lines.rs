//! What ChillMCP says: choosing a line. The lines themselves are one file a language.
//!
//! A line is never built from anything a caller sent, so it cannot carry somebody else's newline
//! into an answer that is read line by line.

mod en;
mod ko;

use fastrand::Rng;

use crate::{
    Lang, Levels,
    tools::{Break, Tool},
};

/// One thing to say: the message for a person, the summary for whoever parses the answer.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Line {
    /// The opening sentence or two; one line.
    pub(crate) message: &'static str,
    /// What follows `Break Summary: `; one line.
    pub(crate) summary: &'static str,
}

/// A line for `tool`, given the levels it left behind and how much stress it took.
pub(crate) fn pick(lang: Lang, tool: Tool, levels: Levels, relief: u8, rng: &mut Rng) -> Line {
    choose(candidates(lang, tool, levels, relief), rng)
}

/// What the boss says to somebody who was caught.
pub(crate) fn caught(lang: Lang, rng: &mut Rng) -> &'static str {
    choose(in_lang(lang, en::CAUGHT, ko::CAUGHT), rng)
}

/// What a caller reads in the `step`-th second of being held.
pub(crate) fn waiting(lang: Lang, step: usize) -> &'static str {
    let lines = in_lang(lang, en::WAITING, ko::WAITING);
    lines
        .get(step % lines.len().max(1))
        .copied()
        .unwrap_or_default()
}

/// What the server says about itself at `initialize`.
pub(crate) fn instructions(lang: Lang) -> &'static str {
    in_lang(lang, en::INSTRUCTIONS, ko::INSTRUCTIONS)
}

fn candidates(lang: Lang, tool: Tool, levels: Levels, relief: u8) -> &'static [Line] {
    match tool {
        // The dinner's event shows in the relief, so the words follow the number.
        Tool::Break(Break::CompanyDinner) if relief > 50 => {
            in_lang(lang, en::GOOD_DINNER, ko::GOOD_DINNER)
        }
        Tool::Break(Break::CompanyDinner) => in_lang(lang, en::BAD_DINNER, ko::BAD_DINNER),
        Tool::Break(chosen) => match lang {
            Lang::En => en::of(chosen),
            Lang::Ko => ko::of(chosen),
        },
        Tool::Status => match levels.alert {
            0 | 1 => in_lang(lang, en::CALM, ko::CALM),
            2 | 3 => in_lang(lang, en::WARY, ko::WARY),
            _ => in_lang(lang, en::ALARMED, ko::ALARMED),
        },
    }
}

fn in_lang<T>(lang: Lang, en: T, ko: T) -> T {
    match lang {
        Lang::En => en,
        Lang::Ko => ko,
    }
}

fn choose<T: Copy>(lines: &'static [T], rng: &mut Rng) -> T {
    *rng.choice(lines)
        .expect("every list of lines is written with several")
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    fn everything(lang: Lang) -> Vec<(String, &'static [Line])> {
        let mut lists = Vec::new();
        for tool in Tool::all() {
            for alert in 0..=5 {
                for relief in [1, 100] {
                    let levels = Levels { stress: 50, alert };
                    lists.push((
                        format!("{lang:?} {} alert {alert} relief {relief}", tool.name()),
                        candidates(lang, tool, levels, relief),
                    ));
                }
            }
        }
        lists
    }

    #[test]
    fn every_tool_has_several_different_lines_in_both_languages() {
        for lang in [Lang::En, Lang::Ko] {
            for (name, lines) in everything(lang) {
                let distinct: BTreeSet<_> = lines.iter().map(|line| line.message).collect();
                assert!(distinct.len() >= 3, "{name}: {}", distinct.len());
                assert_eq!(distinct.len(), lines.len(), "{name} says something twice");
            }
            let waiting: BTreeSet<_> = (0..50).map(|step| waiting(lang, step)).collect();
            assert!(waiting.len() >= 5);
        }
    }

    #[test]
    fn no_line_breaks_the_line_or_imitates_a_field() {
        let fields = ["Break Summary:", "Stress Level:", "Boss Alert Level:"];
        for lang in [Lang::En, Lang::Ko] {
            let asides = in_lang(lang, en::CAUGHT, ko::CAUGHT).iter().copied();
            let texts = everything(lang)
                .into_iter()
                .flat_map(|(_, lines)| lines.iter().flat_map(|line| [line.message, line.summary]))
                .chain(asides)
                .collect::<Vec<_>>();
            for text in texts {
                assert!(!text.trim().is_empty());
                assert_eq!(text, text.trim());
                assert!(!text.chars().any(char::is_control), "{text:?}");
                assert!(fields.iter().all(|field| !text.contains(field)), "{text:?}");
            }
        }
    }

    #[test]
    fn the_korean_lines_are_korean() {
        for (name, lines) in everything(Lang::Ko) {
            for line in lines {
                for text in [line.message, line.summary] {
                    assert!(
                        text.chars().any(|c| ('가'..='힣').contains(&c)),
                        "{name}: {text}"
                    );
                }
            }
        }
    }
}
