//! Waiting for the world, always with a bound.
//!
//! It stands apart so that no test sleeps a guessed time: a test says what must become true, and a
//! wait that runs out says what did not. It never reads a clock but tokio's.

use std::time::Duration;

use tokio::time::{Instant, sleep};

/// Polls `seen` every few milliseconds until it answers something.
///
/// # Panics
/// When `limit` has passed; the message names `what`.
pub async fn until<T, F>(what: &str, limit: Duration, mut seen: F) -> T
where
    F: AsyncFnMut() -> Option<T>,
{
    let end = Instant::now() + limit;
    loop {
        if let Some(value) = seen().await {
            return value;
        }
        assert!(
            Instant::now() < end,
            "{what} did not happen within {limit:?}"
        );
        sleep(Duration::from_millis(10)).await;
    }
}

/// Awaits `work`, and names it when it takes longer than `limit`.
///
/// # Panics
/// When `limit` has passed.
pub async fn within<T>(what: &str, limit: Duration, work: impl Future<Output = T>) -> T {
    tokio::time::timeout(limit, work)
        .await
        .unwrap_or_else(|_| panic!("{what} took longer than {limit:?}"))
}

/// Seconds, short to write in a test.
pub const fn seconds(n: u64) -> Duration {
    Duration::from_secs(n)
}

/// Whether the longer forms were asked for (`tests/run --long`).
pub fn long() -> bool {
    std::env::var_os("CHILLGATE_TESTS_LONG").is_some()
}
