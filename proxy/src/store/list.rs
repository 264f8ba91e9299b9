//! What stands in the store, for an operator: budgets that are not full, and boss alerts.
//!
//! Apart from the ledger, which never looks around: this reads all keys of a policy, which is slow
//! where there are many. It changes nothing but to forget.

use std::time::Duration;

use chillgate_policies::engine::ledger::Key;
use redis::cluster_routing::{Route, RoutingInfo, SingleNodeRoutingInfo, SlotAddr};
use redis::{Cmd, FromRedisValue, RedisError, cmd, from_redis_value};
use tokio::time::timeout;

use super::VERSION;
use super::target::{Connection, StoreError, Target};

/// How long the store may take for one command.
const PATIENCE: Duration = Duration::from_secs(5);
/// Keys that are asked for at a time.
const BATCH: usize = 1000;

/// One budget or boss alert as it stands in the store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Kept {
    /// The name of the policy, or that and the number of one of its levels.
    pub name: String,
    /// Whose it is.
    pub key: Key,
    /// What is known of it.
    pub what: What,
    raw: String,
}

/// What is kept under a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum What {
    /// So much is spent of a budget.
    Spent {
        /// How much, of what it counts.
        spent: u64,
        /// Until none of it is.
        full_in: Duration,
    },
    /// A boss alert.
    Alert {
        /// Its level, without the falls that are due since the last call.
        level: u8,
    },
}

/// The store, open to be looked at.
pub struct Listing {
    connection: Connection,
    prefix: String,
}

impl Listing {
    /// Connects.
    pub async fn open(target: &Target, prefix: &str) -> Result<Self, StoreError> {
        // The library's own words for it are fewer.
        let connecting = timeout(PATIENCE, target.connect(PATIENCE * 2)).await;
        let late = |_| StoreError::Unusable("no connection within 5 seconds".to_owned());
        Ok(Self {
            connection: connecting.map_err(late)??,
            prefix: prefix.to_owned(),
        })
    }

    /// All that is kept for a policy, in the order of its keys.
    pub async fn of(&mut self, policy: &str) -> Result<Vec<Kept>, StoreError> {
        let (micros, all) = (self.time(policy).await?, self.keys(policy).await?);
        let mut kept = Vec::new();
        let begin = self.begin(policy);
        for raw in all {
            // A policy may be called as replicas call the place where they meet.
            let rest = raw.strip_prefix(&begin).unwrap_or_default();
            if !["q:", "b:"].iter().any(|sort| rest.starts_with(sort)) {
                continue;
            }
            let value: Option<String> = self.run(cmd("GET").arg(&raw), policy).await?;
            let read = value.and_then(|value| self.read(policy, &raw, &value, micros));
            kept.extend(read);
        }
        kept.sort_by(|a, b| a.raw.cmp(&b.raw));
        Ok(kept)
    }

    /// Forgets one of them: a budget is full again, an alert over.
    pub async fn forget(&mut self, policy: &str, kept: &Kept) -> Result<(), StoreError> {
        self.run(cmd("DEL").arg(&kept.raw), policy).await
    }

    async fn keys(&mut self, policy: &str) -> Result<Vec<String>, StoreError> {
        let pattern = format!("{}*", escaped(&self.begin(policy)));
        let mut all = Vec::new();
        let mut cursor = "0".to_owned();
        loop {
            let mut scan = cmd("SCAN");
            scan.arg(&cursor).arg("MATCH").arg(&pattern);
            scan.arg("COUNT").arg(BATCH);
            let (next, keys): (String, Vec<String>) = self.run(&scan, policy).await?;
            all.extend(keys);
            if next == "0" {
                // The same key may come twice while the store grows.
                all.sort_unstable();
                all.dedup();
                return Ok(all);
            }
            cursor = next;
        }
    }

    pub(super) async fn time(&mut self, policy: &str) -> Result<u64, StoreError> {
        let (seconds, micros): (u64, u64) = self.run(&cmd("TIME"), policy).await?;
        Ok(seconds * 1_000_000 + micros)
    }

    /// Runs a command where the keys of this policy are.
    pub(super) async fn run<T: FromRedisValue>(
        &mut self,
        command: &Cmd,
        policy: &str,
    ) -> Result<T, StoreError> {
        let begin = self.begin(policy);
        let running = async {
            match &mut self.connection {
                Connection::One(one) => command.query_async(one).await,
                Connection::Cluster(cluster) => {
                    let mut asking = cmd("CLUSTER");
                    asking.arg("KEYSLOT").arg(&begin);
                    let slot: u16 = asking.query_async(cluster).await?;
                    let route = Route::new(slot, SlotAddr::Master);
                    let node = SingleNodeRoutingInfo::SpecificNode(route);
                    let there = RoutingInfo::SingleNode(node);
                    let value = cluster.route_command(command.clone(), there).await?;
                    from_redis_value(value).map_err(RedisError::from)
                }
            }
        };
        match timeout(PATIENCE, running).await {
            Ok(answer) => Ok(answer?),
            Err(_) => Err(StoreError::Unusable(
                "no answer within 5 seconds".to_owned(),
            )),
        }
    }

    pub(super) fn begin(&self, policy: &str) -> String {
        format!("{}:{VERSION}:{{{policy}}}:", self.prefix)
    }

    fn read(&self, policy: &str, raw: &str, value: &str, now: u64) -> Option<Kept> {
        let (sort, rest) = raw.strip_prefix(&self.begin(policy))?.split_once(':')?;
        // A level's name is the policy's and a number behind it.
        let level = rest.strip_prefix(policy)?;
        let (level, key) = level.split_once(':')?;
        let what = match sort {
            "q" => spent(value, now)?,
            "b" => What::Alert {
                level: value.split(' ').next()?.parse().ok()?,
            },
            _ => return None,
        };
        Some(Kept {
            name: format!("{policy}{level}"),
            key: Key::from_text(key)?,
            what,
            raw: raw.to_owned(),
        })
    }
}

/// What a value of `take.lua` means at a moment.
fn spent(value: &str, now: u64) -> Option<What> {
    let words: Vec<&str> = value.split(' ').collect();
    let number = |at: usize| words.get(at)?.parse::<u64>().ok();
    let (spent, micros) = match *words.first()? {
        "e" => {
            let (at, debt, share, scale) = (number(1)?, number(2)?, number(3)?, number(4)?);
            let passed = now.saturating_sub(at).saturating_mul(scale);
            let debt = debt.saturating_sub(passed);
            (debt.div_ceil(share.max(1)), debt / scale.max(1))
        }
        "w" => {
            let (ends, spent, ahead) = (number(1)?, number(2)?, number(3)?);
            let left = ends.saturating_sub(now);
            (if left == 0 { ahead } else { spent }, left)
        }
        _ => return None,
    };
    Some(What::Spent {
        spent,
        full_in: Duration::from_micros(micros),
    })
}

/// A text that means itself in a pattern of the store.
fn escaped(text: &str) -> String {
    let mut out = String::new();
    for c in text.chars() {
        if "*?[]^-\\".contains(c) {
            out.push('\\');
        }
        out.push(c);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_mean_what_is_left_of_them_now() {
        let of = |value: &str, now| match spent(value, now) {
            Some(What::Spent { spent, full_in }) => Some((spent, full_in.as_micros())),
            _ => None,
        };
        // Three shares of a second each, half a second ago.
        assert_eq!(
            of("e 1000000 3000000 1000000 1", 1_500_000),
            Some((3, 2_500_000))
        );
        assert_eq!(of("e 1000000 3000 1000 1000", 1_000_001), Some((2, 2)));
        assert_eq!(of("e 1000000 3000 1000 1000", 9_000_000), Some((0, 0)));
        assert_eq!(of("w 5000000 7 2", 1_000_000), Some((7, 4_000_000)));
        assert_eq!(of("w 5000000 7 2", 5_000_000), Some((2, 0)));
        for strange in ["", "x 1 2", "e 1 2 3", "e 1 2 3 z"] {
            assert_eq!(of(strange, 0), None, "{strange}");
        }
    }

    #[test]
    fn a_pattern_means_no_more_than_its_text() {
        assert_eq!(escaped("a*b[c]?-\\"), "a\\*b\\[c\\]\\?\\-\\\\");
    }
}
