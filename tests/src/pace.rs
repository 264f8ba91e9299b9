//! How long calls take, as a tail: what one in a hundred waits for.
//!
//! It stands apart so that every test compares the same figure, and only within one run: absolute
//! times say nothing on a machine that others use as well.

use std::time::Duration;

use serde_json::json;
use tokio::time::Instant;

use crate::Host;

/// The slowest of a hundredth of these.
///
/// # Panics
/// When there are none.
pub fn p99(taken: Vec<Duration>) -> Duration {
    quantile(taken, 99)
}

/// What so many of a hundred of these do not exceed.
///
/// # Panics
/// When there are none.
pub fn quantile(mut taken: Vec<Duration>, percent: usize) -> Duration {
    assert!(!taken.is_empty(), "nothing was measured");
    taken.sort();
    taken[(taken.len() * percent / 100).min(taken.len() - 1)]
}

/// The tail of so many calls of a tool, one after the other.
pub async fn tail(host: &Host, tool: &str, count: usize) -> Duration {
    let mut taken = Vec::new();
    for _ in 0..count {
        let start = Instant::now();
        host.call(tool, json!({"message": "x"})).await.tool_text();
        taken.push(start.elapsed());
    }
    p99(taken)
}
