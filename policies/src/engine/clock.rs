//! The one clock: where every policy, counter and hold gets its time from.
//!
//! A port and not a call to the standard library, so that quotas, cooldowns, holds and timeouts
//! move together and a test moves them all by hand. This file never reads a real clock: the proxy
//! brings the one it runs on, tests take `ManualClock` (feature `test-util`).

use std::fmt::Debug;
use std::time::{Duration, Instant, SystemTime};

use futures_util::future::BoxFuture;

#[cfg(any(test, feature = "test-util"))]
pub use manual::ManualClock;

/// Tells the time and lets it pass.
pub trait Clock: Debug + Send + Sync {
    /// Monotonic time: for quotas, cooldowns, holds and durations.
    fn now(&self) -> Instant;

    /// Calendar time: for what people read, never for measuring.
    fn wall(&self) -> SystemTime;

    /// Ends once `span` has passed on this clock. Dropping the future forgets the wait; a hold is
    /// a timer, never a thread.
    fn sleep(&self, span: Duration) -> BoxFuture<'static, ()>;
}

#[cfg(any(test, feature = "test-util"))]
mod manual {
    //! A clock that stands still until a test moves it.

    use std::future::poll_fn;
    use std::sync::{Arc, Mutex, PoisonError};
    use std::task::{Poll, Waker};
    use std::time::{Duration, Instant, SystemTime};

    use futures_util::future::BoxFuture;

    use super::Clock;

    /// A clock that tests move with [`ManualClock::advance`]; clones show the same time.
    #[derive(Clone, Debug)]
    pub struct ManualClock {
        origin: Instant,
        hands: Arc<Mutex<Hands>>,
    }

    #[derive(Debug, Default)]
    struct Hands {
        passed: Duration,
        sleepers: Vec<(Duration, Waker)>,
    }

    impl Default for ManualClock {
        fn default() -> Self {
            Self::new()
        }
    }

    impl ManualClock {
        /// A clock that stands at its start.
        #[expect(
            clippy::disallowed_methods,
            reason = "an `Instant` has no other constructor; only differences to it are ever seen"
        )]
        pub fn new() -> Self {
            Self {
                origin: Instant::now(),
                hands: Arc::default(),
            }
        }

        /// Moves time forward and wakes those whose time has come, and nobody else.
        pub fn advance(&self, span: Duration) {
            let woken = {
                let mut hands = self.hands.lock().unwrap_or_else(PoisonError::into_inner);
                hands.passed += span;
                let now = hands.passed;
                let due = hands.sleepers.extract_if(.., |(until, _)| *until <= now);
                due.collect::<Vec<_>>()
            };
            for (_, sleeper) in woken {
                sleeper.wake();
            }
        }

        /// Time passed since the clock was made.
        pub fn passed(&self) -> Duration {
            self.hands
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .passed
        }
    }

    impl Clock for ManualClock {
        fn now(&self) -> Instant {
            self.origin + self.passed()
        }

        fn wall(&self) -> SystemTime {
            SystemTime::UNIX_EPOCH + self.passed()
        }

        fn sleep(&self, span: Duration) -> BoxFuture<'static, ()> {
            let hands = Arc::clone(&self.hands);
            let until = self.passed() + span;
            Box::pin(poll_fn(move |cx| {
                let mut hands = hands.lock().unwrap_or_else(PoisonError::into_inner);
                if hands.passed >= until {
                    return Poll::Ready(());
                }
                hands.sleepers.push((until, cx.waker().clone()));
                Poll::Pending
            }))
        }
    }
}
