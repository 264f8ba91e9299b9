//! Whose tasks and states are whose, and which replica has them: what one replica has handed out is
//! known to all for a day.
//!
//! Apart from where replicas meet: this is one key for each handle. What becomes of a request that
//! names one is the gate's and the front's matter.

use std::sync::LazyLock;

use chillgate_policies::engine::ledger::LedgerDown;
use data_encoding::HEXLOWER;
use redis::Script;
use sha2::{Digest, Sha256};

use super::{Link, VERSION};

/// How long it is known, in seconds.
const KNOWN: u64 = 24 * 60 * 60;

static KEEP: LazyLock<Script> = LazyLock::new(|| {
    Script::new(
        "redis.call('HSET', KEYS[1], ARGV[1], ARGV[2]) redis.call('EXPIRE', KEYS[1], ARGV[3])",
    )
});
static FIND: LazyLock<Script> = LazyLock::new(|| {
    Script::new(
        "return { redis.call('HGET', KEYS[1], ARGV[1]) or '', redis.call('HLEN', KEYS[1]) }",
    )
});

/// What is known of a handle.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Handed {
    /// The replica from which this subject has it.
    pub own: Option<u64>,
    /// Whether anybody has it.
    pub is_known: bool,
}

impl Link {
    /// A subject has this handle from that replica.
    pub async fn hand_out(
        &self,
        kind: &str,
        handle: &str,
        subject: &str,
        replica: u64,
    ) -> Result<(), LedgerDown> {
        let mut asking = KEEP.prepare_invoke();
        asking.key(self.handle_key(kind, handle));
        asking
            .arg(digest(&[subject]))
            .arg(format!("{replica:016x}"));
        asking.arg(KNOWN);
        self.ask("handle", &asking).await
    }

    /// Who has this handle, as far as it is this subject's business.
    pub async fn handed_out(
        &self,
        kind: &str,
        handle: &str,
        subject: &str,
    ) -> Result<Handed, LedgerDown> {
        let mut asking = FIND.prepare_invoke();
        asking.key(self.handle_key(kind, handle));
        asking.arg(digest(&[subject]));
        let (own, count): (String, u64) = self.ask("handle", &asking).await?;
        Ok(Handed {
            own: u64::from_str_radix(&own, 16).ok(),
            is_known: count > 0,
        })
    }

    fn handle_key(&self, kind: &str, handle: &str) -> String {
        let digest = digest(&[kind, handle]);
        format!("{}:{VERSION}:{{{digest}}}:handle", self.prefix())
    }
}

/// Handles may be long, and subjects are nobody's business.
fn digest(parts: &[&str]) -> String {
    let mut digest = Sha256::new();
    for part in parts {
        digest.update((part.len() as u64).to_be_bytes());
        digest.update(part);
    }
    HEXLOWER.encode(&digest.finalize()[..16])
}
