//! Agents that no replica lets in: said once in the store, heard by all within a second.
//!
//! Apart from what replicas hear of it (`meeting.rs`): this is the operator's side.

use std::time::Duration;

use redis::cmd;

use super::list::Listing;
use super::target::StoreError;

/// An agent that is not let in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Revoked {
    /// Who.
    pub agent: String,
    /// For how long still; none, until it is taken back.
    pub left: Option<Duration>,
}

/// Where it stands, beside where replicas meet.
const PLACE: &str = "replicas";

impl Listing {
    /// Everybody who is not let in, by name.
    pub async fn revoked(&mut self) -> Result<Vec<Revoked>, StoreError> {
        let now = self.time(PLACE).await? / 1_000;
        let key = format!("{}revoked", self.begin(PLACE));
        let all: Vec<(String, u64)> = self.run(cmd("HGETALL").arg(key), PLACE).await?;
        let left = |until: u64| (until > 0).then(|| Duration::from_millis(until - now));
        let mut all: Vec<Revoked> = all
            .into_iter()
            .filter(|(_, until)| *until == 0 || *until > now)
            .map(|(agent, until)| Revoked {
                agent,
                left: left(until),
            })
            .collect();
        all.sort_by(|a, b| a.agent.cmp(&b.agent));
        Ok(all)
    }

    /// Lets an agent in no more, for so long or until it is taken back.
    pub async fn revoke(&mut self, agent: &str, span: Option<Duration>) -> Result<(), StoreError> {
        let until = match span {
            None => 0,
            Some(span) => {
                let millis = u64::try_from(span.as_millis()).unwrap_or(u64::MAX);
                (self.time(PLACE).await? / 1_000).saturating_add(millis)
            }
        };
        let key = format!("{}revoked", self.begin(PLACE));
        self.run(cmd("HSET").arg(key).arg(agent).arg(until), PLACE)
            .await
    }

    /// Lets an agent in again; whether it was not.
    pub async fn restore(&mut self, agent: &str) -> Result<bool, StoreError> {
        let key = format!("{}revoked", self.begin(PLACE));
        self.run(cmd("HDEL").arg(key).arg(agent), PLACE).await
    }
}
