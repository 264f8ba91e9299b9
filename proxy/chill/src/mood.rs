//! Stress: how tired one agent is of working, 0 to 100.
//!
//! It rises by 1 for each whole minute without a break. Nothing runs in the background: the
//! minutes are added when somebody looks, and the clock then moves on by exactly the minutes
//! added, so no minute is counted twice and no fraction of one is lost.

use std::time::Duration;

use tokio::time::Instant;

/// The highest stress there is.
pub(crate) const MAX_STRESS: u8 = 100;

const MINUTE: Duration = Duration::from_mins(1);

/// The stress of one agent and the moment up to which it is accounted for.
#[derive(Clone, Debug)]
pub(crate) struct Mood {
    stress: u8,
    counted: Instant,
}

impl Mood {
    /// Starts at `stress`, with the first minute beginning at `now`.
    pub(crate) fn new(stress: u8, now: Instant) -> Self {
        Self {
            stress: stress.min(MAX_STRESS),
            counted: now,
        }
    }

    /// Adds the whole minutes passed since the last look and returns the stress as of `now`.
    pub(crate) fn advance(&mut self, now: Instant) -> u8 {
        let minutes = now.saturating_duration_since(self.counted).as_secs() / MINUTE.as_secs();
        if minutes > 0 {
            // Cannot overflow: the sum is at most `now`.
            self.counted += Duration::from_secs(minutes * MINUTE.as_secs());
            let rise = u8::try_from(minutes).unwrap_or(MAX_STRESS);
            self.stress = self.stress.saturating_add(rise).min(MAX_STRESS);
        }
        self.stress
    }

    /// A break: lowers the stress by `relief`, not below 0, and restarts the minute.
    pub(crate) fn relieve(&mut self, now: Instant, relief: u8) -> u8 {
        self.advance(now);
        self.counted = self.counted.max(now);
        self.stress = self.stress.saturating_sub(relief);
        self.stress
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn after(start: Instant, seconds: u64) -> Instant {
        start + Duration::from_secs(seconds)
    }

    #[test]
    fn stress_rises_once_a_minute_however_often_somebody_looks() {
        let start = Instant::now();
        let mut mood = Mood::new(50, start);
        for second in 0..=600 {
            let seen = mood.advance(after(start, second));
            assert_eq!(u64::from(seen), 50 + second / 60, "at {second} s");
        }
    }

    #[test]
    fn a_look_between_two_minutes_loses_no_fraction() {
        let start = Instant::now();
        let mut mood = Mood::new(0, start);
        assert_eq!(mood.advance(after(start, 119)), 1);
        assert_eq!(mood.advance(after(start, 120)), 2);
    }

    #[test]
    fn a_break_restarts_the_minute() {
        let start = Instant::now();
        let mut mood = Mood::new(50, start);
        assert_eq!(mood.relieve(after(start, 59), 10), 40);
        assert_eq!(mood.advance(after(start, 118)), 40);
        assert_eq!(mood.advance(after(start, 119)), 41);
    }

    #[test]
    fn stress_stays_between_0_and_100() {
        let start = Instant::now();
        let mut mood = Mood::new(200, start);
        assert_eq!(mood.advance(start), 100);
        assert_eq!(mood.advance(after(start, 10_000_000)), 100);
        assert_eq!(mood.relieve(after(start, 10_000_000), 100), 0);
        assert_eq!(mood.relieve(after(start, 10_000_001), 7), 0);
    }

    #[test]
    fn a_clock_that_steps_back_changes_nothing() {
        let start = Instant::now();
        let mut mood = Mood::new(50, after(start, 600));
        assert_eq!(mood.advance(start), 50);
        mood.relieve(start, 10);
        assert_eq!(mood.advance(after(start, 659)), 40);
        assert_eq!(mood.advance(after(start, 660)), 41);
    }
}
