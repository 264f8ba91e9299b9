//! How long to wait before the next try, the longer the more have failed in a row.
//!
//! Counts and says when; whoever tries waits.

use std::time::Duration;

use tokio::time::Instant;

/// So many failures in a row are no accident any more.
const LOOP: u32 = 3;

/// Failures in a row, and until when the last one is remembered.
#[derive(Debug, Default)]
pub(super) struct Backoff {
    in_a_row: u32,
    not_before: Option<Instant>,
}

impl Backoff {
    /// Another failure, at `at`: 0.1 s until the next try, doubled with each in a row, at most
    /// 30 s; up to a quarter less by chance, so that many servers do not come back in step.
    pub(super) fn fail(&mut self, at: Instant) {
        let doubled = 100u64 << self.in_a_row.min(9);
        self.in_a_row = self.in_a_row.saturating_add(1);
        let [byte] = crate::random::bytes();
        let base = doubled.min(30_000);
        let pause = Duration::from_millis(base - base * u64::from(byte) / 1024);
        self.not_before = Some(at + pause);
    }

    /// It worked.
    pub(super) fn reset(&mut self) {
        *self = Self::default();
    }

    /// How long the next try has to wait, seen from `now`.
    pub(super) fn wait(&self, now: Instant) -> Duration {
        self.not_before
            .map(|at| at.saturating_duration_since(now))
            .unwrap_or_default()
    }

    /// Whether it fails time and again.
    pub(super) fn is_loop(&self) -> bool {
        self.in_a_row >= LOOP
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_up_to_half_a_minute_and_never_meet_exactly() {
        let now = Instant::now();
        let mut waits = Vec::new();
        let mut backoff = Backoff::default();
        assert_eq!(backoff.wait(now), Duration::ZERO);
        for _ in 0..12 {
            backoff.fail(now);
            waits.push(backoff.wait(now).as_millis() as u64);
        }
        for (n, wait) in waits.iter().enumerate() {
            let most = (100u64 << n).min(30_000);
            assert!(
                (most * 3 / 4..=most).contains(wait),
                "{n}: {wait} of {most}"
            );
        }
        let mut others = Backoff::default();
        let same = (0..12).filter(|n| {
            others.fail(now);
            others.wait(now).as_millis() as u64 == waits[*n]
        });
        assert!(same.count() < 12);
    }

    #[test]
    fn fewer_than_fifteen_tries_fit_into_a_minute() {
        let mut now = Instant::now();
        let end = now + Duration::from_mins(1);
        let (mut backoff, mut tries) = (Backoff::default(), 0);
        while now < end {
            tries += 1;
            backoff.fail(now);
            now += backoff.wait(now);
        }
        assert!((8..15).contains(&tries), "{tries}");
        assert!(backoff.is_loop());
        backoff.reset();
        assert!(!backoff.is_loop() && backoff.wait(now) == Duration::ZERO);
    }
}
