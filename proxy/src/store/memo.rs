//! What this replica knows without asking the store: who has nothing left for now, and what was taken
//! ahead for policies that need not be exact.
//!
//! A refusal holds until the moment that the store has named, since nothing but time gives a budget
//! back; for a second at most, as it may be reset by hand. What was taken ahead is gone once the store
//! has it back, so it is never lost for long. Nothing here asks.

use std::collections::HashSet;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use chillgate_policies::engine::ledger::Take;

use crate::lock::locked;
use crate::map::Map;

/// How long a refusal holds at most.
const REFUSED: Duration = Duration::from_secs(1);
/// Budgets that something is known of; beyond that what has run out is forgotten, and then nothing
/// new is kept.
const MOST: usize = 100_000;

/// What is known, by the keys of the budgets that a call takes from.
#[derive(Debug, Default)]
pub(super) struct Memo {
    known: Mutex<Map<String, Known>>,
    /// What is being asked for ahead.
    asking: Mutex<HashSet<String>>,
}

/// Something is being asked for ahead; dropped, it is not any more.
pub(super) struct Asking<'m>(&'m Memo, String);

impl Drop for Asking<'_> {
    fn drop(&mut self) {
        locked(&self.0.asking).remove(&self.1);
    }
}

#[derive(Debug)]
enum Known {
    /// So much, or more, is not there before then.
    Refused { n: u64, since: Instant, take: Take },
    /// So much was taken ahead, and is good until then.
    Ahead {
        left: u64,
        until: Instant,
        take: Take,
    },
}

impl Known {
    fn ends(&self) -> Instant {
        match self {
            Self::Refused { since, take, .. } => {
                let retry = take.retry_after.unwrap_or(REFUSED);
                *since + retry.min(REFUSED)
            }
            Self::Ahead { until, .. } => *until,
        }
    }
}

impl Memo {
    /// What the store would say to this, if that is known.
    pub(super) fn recall(&self, key: &str, n: u64, now: Instant) -> Option<Take> {
        let mut all = locked(&self.known);
        let known = all.get_mut(key)?;
        if known.ends() <= now {
            all.remove(key);
            return None;
        }
        match known {
            Known::Refused {
                n: least,
                since,
                take,
            } if n >= *least => {
                let passed = now.saturating_duration_since(*since);
                Some(Take {
                    retry_after: take.retry_after.map(|span| span.saturating_sub(passed)),
                    reset: take.reset.saturating_sub(passed),
                    ..*take
                })
            }
            Known::Ahead { left, take, .. } if n <= *left => {
                *left -= n;
                Some(Take {
                    remaining: take.remaining.saturating_add(*left),
                    ..*take
                })
            }
            _ => None,
        }
    }

    /// The store has refused so much.
    pub(super) fn refused(&self, key: String, n: u64, take: Take, now: Instant) {
        // What cheaper calls may still have is not thrown away for it.
        if self.is_left(&key, now) {
            return;
        }
        let since = now;
        self.keep(key, Known::Refused { n, since, take }, now);
    }

    /// Leave to ask for more than a call needs: nobody else does, and nothing is left of what was.
    pub(super) fn ask_ahead(&self, key: &str, now: Instant) -> Option<Asking<'_>> {
        let is_first = !self.is_left(key, now) && locked(&self.asking).insert(key.to_owned());
        is_first.then(|| Asking(self, key.to_owned()))
    }

    /// Whether there is some of what was taken ahead.
    fn is_left(&self, key: &str, now: Instant) -> bool {
        match locked(&self.known).get(key) {
            Some(Known::Ahead { left, until, .. }) => *left > 0 && *until > now,
            _ => false,
        }
    }

    /// So much was taken ahead and is good for so long.
    pub(super) fn ahead(&self, key: String, left: u64, span: Duration, take: Take, now: Instant) {
        let until = now + span;
        self.keep(key, Known::Ahead { left, until, take }, now);
    }

    fn keep(&self, key: String, known: Known, now: Instant) {
        let mut all = locked(&self.known);
        if all.len() >= MOST {
            all.retain(|_, known| known.ends() > now);
        }
        if all.len() < MOST || all.contains_key(&key) {
            all.insert(key, known);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn take(admitted: bool, retry: u64) -> Take {
        Take {
            admitted,
            wait: Duration::ZERO,
            tightest: 0,
            remaining: 3,
            retry_after: (!admitted).then(|| Duration::from_millis(retry)),
            reset: Duration::from_secs(5),
        }
    }

    fn start() -> Instant {
        chillgate_policies::engine::clock::Clock::now(&crate::clock::TokioClock)
    }

    #[test]
    fn a_refusal_holds_for_as_much_or_more_until_its_moment() {
        let (memo, now) = (Memo::default(), start());
        let ms = Duration::from_millis;
        memo.refused("a".to_owned(), 4, take(false, 300), now);
        assert_eq!(memo.recall("a", 3, now), None);
        assert_eq!(memo.recall("b", 4, now), None);
        let told = memo.recall("a", 4, now + ms(100)).expect("known");
        assert_eq!((told.admitted, told.retry_after), (false, Some(ms(200))));
        assert_eq!(memo.recall("a", 4, now + ms(300)), None);
        memo.refused("a".to_owned(), 4, take(false, 90_000), now);
        assert!(memo.recall("a", 9, now + ms(999)).is_some());
        assert_eq!(
            memo.recall("a", 9, now + ms(1000)),
            None,
            "a second at most"
        );
    }

    #[test]
    fn what_was_taken_ahead_is_spent_once_and_in_time() {
        let (memo, now) = (Memo::default(), start());
        let span = Duration::from_secs(2);
        memo.ahead("a".to_owned(), 5, span, take(true, 0), now);
        let told = memo.recall("a", 2, now).expect("known");
        assert_eq!((told.admitted, told.remaining), (true, 6));
        assert_eq!(memo.recall("a", 4, now), None, "only 3 are left");
        assert!(memo.recall("a", 3, now + span / 2).is_some());
        assert_eq!(memo.recall("a", 1, now), None);
        let asking = memo.ask_ahead("a", now);
        assert!(asking.is_some() && memo.ask_ahead("a", now).is_none());
        memo.ahead("a".to_owned(), 5, span, take(true, 0), now);
        drop(asking);
        assert!(memo.ask_ahead("a", now).is_none(), "there is some left");
        memo.refused("a".to_owned(), 9, take(false, 300), now);
        assert!(memo.recall("a", 1, now).is_some_and(|take| take.admitted));
        assert!(memo.ask_ahead("a", now + span).is_some());
        assert_eq!(memo.recall("a", 1, now + span), None);
    }
}
