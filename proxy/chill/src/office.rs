//! The office: everybody's levels, and the one place where they change.
//!
//! One lock around everything, held for a handful of arithmetic and never across an await, so
//! concurrent breaks queue for nanoseconds and none is lost. Levels move with time only when
//! somebody looks, which gives the same numbers as ticking would. Waiting is `hold.rs`; nothing
//! here sleeps.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use chillgate_policies::engine::boss::{Boss, Settings as BossSettings};
use fastrand::Rng;
use tokio::time::Instant;

use crate::{
    ANONYMOUS, Lang, Levels, SHARED, Scope, Settings,
    effects::{self, Alert},
    lines::{self, Line},
    mood::Mood,
    tools::{Break, Tool},
};

/// How many agents are remembered; one more makes the longest idle forgotten.
pub(crate) const MAX_AGENTS: usize = 10_000;

/// Another urgent call within this span counts as repeated.
const URGENT_MEMORY: Duration = Duration::from_mins(10);

/// The state of all agents.
#[derive(Debug)]
pub(crate) struct Office {
    inner: Mutex<Inner>,
}

/// What one call did or saw, in words and numbers.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Event {
    pub(crate) before: Levels,
    pub(crate) after: Levels,
    /// How long the boss wants the answer held, if at all.
    pub(crate) held: Option<Duration>,
    pub(crate) line: Line,
    /// What the boss says when the call is held.
    pub(crate) caught: &'static str,
    pub(crate) lang: Lang,
}

impl Office {
    /// Opens at `now`, with every roll of the dice following from `rng`.
    pub(crate) fn new(settings: Settings, rng: Rng, now: Instant) -> Self {
        Self {
            inner: Mutex::new(Inner::new(settings.clamped(), rng, now)),
        }
    }

    /// A break: changes the levels of `agent` and says how.
    pub(crate) fn take_break(&self, agent: &str, chosen: Break, now: Instant) -> Event {
        self.lock().take_break(agent, chosen, now)
    }

    /// A look at the levels of `agent`; changes nothing.
    pub(crate) fn look(&self, agent: &str, now: Instant) -> Event {
        self.lock().look(agent, now)
    }

    /// Everybody's levels as of `now`, at most [`MAX_AGENTS`] of them, longest idle first.
    pub(crate) fn levels(&self, now: Instant) -> Vec<(Arc<str>, Levels)> {
        self.lock().levels(now)
    }

    pub(crate) fn settings(&self) -> Settings {
        self.lock().settings.clone()
    }

    /// Goes on under other settings; see [`Chill::update`](crate::Chill::update).
    pub(crate) fn update(&self, settings: Settings, now: Instant) {
        self.lock().update(settings.clamped(), now);
    }

    /// Puts one agent, or all, back to the start.
    pub(crate) fn reset(&self, agent: Option<&str>, now: Instant) {
        self.lock().reset(agent, now);
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        // Every change below leaves legal levels at each step, so a panic elsewhere while the lock
        // was held is no reason to refuse everybody else.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[derive(Debug)]
struct Inner {
    settings: Settings,
    rng: Rng,
    /// When the office opened: the caller who needs no introduction has been here since then.
    opened: Instant,
    desks: HashMap<Arc<str>, Desk>,
    /// Whose turn was when, so that the longest idle is found without looking at everybody.
    turns: BTreeMap<u64, Arc<str>>,
    next_turn: u64,
}

/// One agent's levels.
#[derive(Debug)]
struct Desk {
    mood: Mood,
    boss: Boss,
    urgent_call: Option<Instant>,
    turn: u64,
}

impl Inner {
    fn new(settings: Settings, rng: Rng, now: Instant) -> Self {
        Self {
            settings,
            rng,
            opened: now,
            desks: HashMap::new(),
            turns: BTreeMap::new(),
            next_turn: 0,
        }
    }

    fn take_break(&mut self, agent: &str, chosen: Break, now: Instant) -> Event {
        let Settings {
            alertness,
            effects,
            lang,
            ..
        } = self.settings;
        let mut rng = self.rng.fork();
        let desk = self.desk(agent, now);

        let repeated = chosen == Break::UrgentCall
            && desk
                .urgent_call
                .replace(now)
                .is_some_and(|last| now.saturating_duration_since(last) < URGENT_MEMORY);
        let effect = effects::roll(effects, chosen, alertness, repeated, &mut rng);

        let stress_before = desk.mood.advance(now);
        let stress_after = desk.mood.relieve(now, effect.relief);
        let seen = match effect.alert {
            Alert::Rises => desk.boss.raise_by(now.into_std(), 1),
            Alert::Stays => desk.boss.raise_by(now.into_std(), 0),
            Alert::Falls => desk.boss.lower_by(now.into_std(), 1),
        };

        let after = Levels {
            stress: stress_after,
            alert: seen.after,
        };
        Event {
            before: Levels {
                stress: stress_before,
                alert: seen.before,
            },
            after,
            held: seen.held,
            line: lines::pick(lang, Tool::Break(chosen), after, effect.relief, &mut rng),
            caught: lines::caught(lang, &mut rng),
            lang,
        }
    }

    fn look(&mut self, agent: &str, now: Instant) -> Event {
        let lang = self.settings.lang;
        let mut rng = self.rng.fork();
        let levels = self.desk(agent, now).levels(now);
        Event {
            before: levels,
            after: levels,
            held: None,
            line: lines::pick(lang, Tool::Status, levels, 0, &mut rng),
            caught: "",
            lang,
        }
    }

    fn levels(&mut self, now: Instant) -> Vec<(Arc<str>, Levels)> {
        let Self { turns, desks, .. } = self;
        turns
            .values()
            .filter_map(|agent| {
                desks
                    .get_mut(agent)
                    .map(|desk| (Arc::clone(agent), desk.levels(now)))
            })
            .collect()
    }

    fn update(&mut self, settings: Settings, now: Instant) {
        if settings.scope != self.settings.scope {
            // Nobody's level is everybody's level: the desks of one scope mean nothing in another.
            self.desks.clear();
            self.turns.clear();
            self.opened = now;
        }
        let boss = boss_settings(&settings);
        for desk in self.desks.values_mut() {
            desk.boss.set(boss, now.into_std());
        }
        self.settings = settings;
    }

    fn reset(&mut self, agent: Option<&str>, now: Instant) {
        match (agent, self.settings.scope) {
            (Some(agent), Scope::Agent) => {
                let fresh = Desk::new(&self.settings, now);
                if let Some(desk) = self.desks.get_mut(agent) {
                    *desk = Desk {
                        turn: desk.turn,
                        ..fresh
                    };
                } else if agent == ANONYMOUS {
                    self.opened = now;
                }
            }
            (None, _) | (_, Scope::Shared) => {
                self.opened = now;
                for desk in self.desks.values_mut() {
                    *desk = Desk {
                        turn: desk.turn,
                        ..Desk::new(&self.settings, now)
                    };
                }
            }
        }
    }

    /// The desk `agent` works at, moved to the end of the queue of the idle.
    fn desk(&mut self, agent: &str, now: Instant) -> &mut Desk {
        let (name, arrived) = match self.settings.scope {
            Scope::Shared => (SHARED, self.opened),
            // With nobody named there is one caller, who has been working since the start.
            Scope::Agent if agent == ANONYMOUS => (agent, self.opened),
            Scope::Agent => (agent, now),
        };
        let turn = self.next_turn;
        self.next_turn += 1;

        let last_turn = self.desks.get(name).map(|known| known.turn);
        if last_turn.is_none()
            && self.desks.len() >= MAX_AGENTS
            && let Some((_, idle)) = self.turns.pop_first()
        {
            self.desks.remove(&idle);
        }
        let name = last_turn
            .and_then(|last| self.turns.remove(&last))
            .unwrap_or_else(|| Arc::from(name));
        self.turns.insert(turn, Arc::clone(&name));
        let desk = self
            .desks
            .entry(name)
            .or_insert_with(|| Desk::new(&self.settings, arrived));
        desk.turn = turn;
        desk
    }
}

impl Desk {
    fn new(settings: &Settings, now: Instant) -> Self {
        let mut boss = Boss::new(boss_settings(settings), now.into_std());
        boss.raise_by(now.into_std(), settings.level);
        Self {
            mood: Mood::new(settings.stress, now),
            boss,
            urgent_call: None,
            turn: 0,
        }
    }

    fn levels(&mut self, now: Instant) -> Levels {
        Levels {
            stress: self.mood.advance(now),
            alert: self.boss.advance(now.into_std()),
        }
    }
}

fn boss_settings(settings: &Settings) -> BossSettings {
    BossSettings {
        alertness: settings.alertness,
        cooldown: settings.cooldown,
        hold: settings.hold,
    }
}

#[cfg(test)]
mod tests;
