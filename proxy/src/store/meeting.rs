//! Where replicas meet: who is there, what they seal with, and whom nobody lets in any more.
//!
//! Apart from the ledger, which counts: this is one script that each replica runs twice a second.
//! What becomes of what it says is the replicas' own matter.

use std::collections::{BTreeMap, HashMap};
use std::sync::LazyLock;
use std::time::Duration;

use chillgate_policies::engine::ledger::LedgerDown;
use data_encoding::HEXLOWER_PERMISSIVE as HEX;
use redis::Script;

use super::{Link, VERSION};

static MEET: LazyLock<Script> = LazyLock::new(|| Script::new(include_str!("meet.lua")));

/// The address of one that shares the store, and that nobody hands anything on to.
const NOWHERE: &str = "-";

/// What a replica says of itself.
#[derive(Debug)]
pub struct Present<'a> {
    /// Its number.
    pub replica: u64,
    /// Where others reach it; none where they do not.
    pub address: Option<&'a str>,
    /// It leaves.
    pub leaves: bool,
    /// After how long without a word a replica is gone.
    pub gone: Duration,
    /// How long a key seals; nothing where it seals nothing for others.
    pub rotate: Duration,
    /// How many keys are kept.
    pub kept: u64,
    /// The keys it knows.
    pub known: &'a BTreeMap<u64, [u8; 32]>,
    /// The present key and the next, where there are none yet.
    pub fresh: [[u8; 32]; 2],
}

/// What a replica hears.
#[derive(Debug, Default)]
pub struct Meeting {
    /// Milliseconds since 1970, by the server's clock.
    pub now: u64,
    /// The number of the key that seals now.
    pub key: u64,
    /// Who is there to be reached, by number, and where.
    pub here: Vec<(u64, String)>,
    /// All keys, by number.
    pub keys: BTreeMap<u64, [u8; 32]>,
    /// Agents that are let in no more, and until when in milliseconds; 0 is for good.
    pub revoked: HashMap<String, u64>,
}

type Heard = (
    u64,
    u64,
    HashMap<String, String>,
    HashMap<u64, String>,
    HashMap<String, u64>,
);

impl Link {
    /// Meets the others.
    ///
    /// # Errors
    /// The store is away.
    pub async fn meet(&self, present: &Present<'_>) -> Result<Meeting, LedgerDown> {
        let mut asking = MEET.prepare_invoke();
        for sort in ["here", "keys", "revoked"] {
            asking.key(self.replicas_key(sort));
        }
        let millis = |span: Duration| u64::try_from(span.as_millis()).unwrap_or(u64::MAX);
        asking.arg(format!("{:016x}", present.replica));
        let address = match present.address {
            _ if present.leaves => "",
            None => NOWHERE,
            Some(address) => address,
        };
        asking.arg(address).arg(millis(present.gone));
        asking.arg(millis(present.rotate)).arg(present.kept);
        for fresh in &present.fresh {
            asking.arg(HEX.encode(fresh));
        }
        for (number, key) in present.known {
            asking.arg(*number).arg(HEX.encode(key));
        }
        let (now, key, here, keys, revoked): Heard = self.ask("meet", &asking).await?;
        self.note_sharers(here.len());
        let here = here.into_iter().filter(|(_, address)| address != NOWHERE);
        let here = here.filter_map(|(replica, address)| {
            Some((u64::from_str_radix(&replica, 16).ok()?, address))
        });
        let keys = keys.into_iter().filter_map(|(number, key)| {
            let key = HEX.decode(key.as_bytes()).ok()?;
            Some((number, key.try_into().ok()?))
        });
        Ok(Meeting {
            now,
            key,
            here: here.collect(),
            keys: keys.collect(),
            revoked,
        })
    }

    fn replicas_key(&self, sort: &str) -> String {
        format!("{}:{VERSION}:{{replicas}}:{sort}", self.prefix())
    }
}
