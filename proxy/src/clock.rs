//! The one home of time: everything else asks here or through the policies' `Clock` port.
//!
//! Time is taken from tokio, so that a test that pauses tokio's clock moves quotas, holds, cooldowns
//! and timeouts together. The keeper and threads without a runtime take [`real`]. No file but this
//! one reads a clock of the standard library.

use std::time::{Duration, Instant, SystemTime};

use chillgate_policies::engine::clock::Clock;
use futures_util::future::BoxFuture;

/// The clock chillgate runs on: tokio's.
#[derive(Clone, Copy, Debug, Default)]
pub struct TokioClock;

impl Clock for TokioClock {
    fn now(&self) -> Instant {
        tokio::time::Instant::now().into_std()
    }

    #[expect(clippy::disallowed_methods, reason = "the one home of calendar time")]
    fn wall(&self) -> SystemTime {
        SystemTime::now()
    }

    fn sleep(&self, span: Duration) -> BoxFuture<'static, ()> {
        Box::pin(tokio::time::sleep(span))
    }
}

/// Monotonic time of the machine, also where no runtime runs; a paused clock does not stop it.
#[expect(clippy::disallowed_methods, reason = "the one home of monotonic time")]
pub fn real() -> Instant {
    Instant::now()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_paused_clock_moves_at_once() {
        let clock = TokioClock;
        let now = clock.now();
        clock.sleep(Duration::from_hours(1)).await;
        assert_eq!(clock.now() - now, Duration::from_hours(1));
    }

    #[test]
    fn the_clock_tells_the_time_without_a_runtime() {
        let (now, wall) = (TokioClock.now(), TokioClock.wall());
        assert!(TokioClock.now() >= now);
        assert!(wall > SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000));
    }
}
