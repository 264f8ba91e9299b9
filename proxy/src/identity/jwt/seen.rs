//! Tokens that were found good a moment ago, by their digest: a signature is checked once, not with
//! each call. Holds no token, and none longer than it is good or its keys stand.

use std::collections::HashMap;
use std::sync::Mutex;
use std::time::SystemTime;

use sha2::{Digest, Sha256};

use crate::identity::Principal;
use crate::lock::locked;

/// The most tokens remembered.
const MOST: usize = 20_000;

/// What stands for a token, at one address.
pub(super) type Mark = [u8; 32];

/// What was found out about tokens.
#[derive(Debug, Default)]
pub(super) struct Seen(Mutex<HashMap<Mark, Good>>);

#[derive(Clone, Debug)]
struct Good {
    whose: Principal,
    /// Which issuer's keys said so, and which of its key sets.
    by: (usize, u64),
}

/// The mark of a token that is shown at `resource`.
pub(super) fn mark(token: &str, resource: &str) -> Mark {
    let mut digest = Sha256::new();
    digest.update(token);
    // A line break is in no token.
    digest.update("\n");
    digest.update(resource);
    digest.finalize().into()
}

impl Seen {
    /// Whose token this is, and who said so.
    pub(super) fn get(&self, mark: &Mark, now: SystemTime) -> Option<(Principal, (usize, u64))> {
        let seen = locked(&self.0);
        let good = seen.get(mark)?;
        let is_good = good.whose.until.is_some_and(|until| now < until);
        is_good.then(|| (good.whose.clone(), good.by))
    }

    /// Remembers a token that is good.
    pub(super) fn note(&self, mark: Mark, whose: Principal, by: (usize, u64), now: SystemTime) {
        let mut seen = locked(&self.0);
        if seen.len() >= MOST {
            seen.retain(|_, good| good.whose.until.is_some_and(|until| now < until));
        }
        if seen.len() >= MOST {
            // Whoever is forgotten is checked once more; which ones go does not matter.
            let mut turn = false;
            seen.retain(|_, _| {
                turn = !turn;
                turn
            });
        }
        seen.insert(mark, Good { whose, by });
    }
}
