//! Waiting for the world, always with a bound.
//!
//! It stands apart so that no test sleeps a guessed time: a test says what must become true, and a
//! wait that runs out says what did not. It never reads a clock but tokio's.

use std::time::Duration;

use futures_util::StreamExt as _;
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

/// Awaits all of them at once; the outputs in the order of the work.
pub async fn all<T>(work: impl IntoIterator<Item = impl Future<Output = T>>) -> Vec<T> {
    futures_util::future::join_all(work).await
}

/// Awaits all of them, at most `wide` at a time; the outputs in the order of the work.
pub async fn in_turns<T>(
    wide: usize,
    work: impl IntoIterator<Item = impl Future<Output = T>>,
) -> Vec<T> {
    futures_util::stream::iter(work)
        .buffered(wide)
        .collect()
        .await
}

/// Seconds, short to write in a test.
pub const fn seconds(n: u64) -> Duration {
    Duration::from_secs(n)
}

/// Whether the longer forms were asked for (`tests/run --long`).
pub fn long() -> bool {
    std::env::var_os("CHILLGATE_TESTS_LONG").is_some()
}
