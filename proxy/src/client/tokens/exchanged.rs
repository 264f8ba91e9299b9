//! What hosts' tokens were exchanged for (RFC 8693), for one server: one place for each host that says
//! the same of itself.
//!
//! So many are kept and no more. Nothing here leaves memory, and what one host's token was exchanged
//! for is never another's.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use super::held::Held;
use crate::client::caller::Credential;
use crate::lock::locked;

/// The most places; whoever comes then is asked for anew.
const MOST: usize = 10_000;

/// The places, by what stands for all that a host's token says.
#[derive(Debug, Default)]
pub(super) struct Exchanged(Mutex<HashMap<[u8; 32], Arc<Held>>>);

impl Exchanged {
    /// The place of whoever shows this.
    pub(super) fn of(&self, credential: &Credential) -> Arc<Held> {
        let mut all = locked(&self.0);
        if let Some(held) = all.get(&credential.says) {
            return held.clone();
        }
        if all.len() >= MOST {
            all.retain(|_, held| !held.is_spent());
        }
        if all.len() >= MOST {
            // Whoever is forgotten is asked for once more; which ones go does not matter.
            let mut turn = false;
            all.retain(|_, _| {
                turn = !turn;
                turn
            });
        }
        all.entry(credential.says).or_default().clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn credential(number: usize) -> Credential {
        let mut says = [0; 32];
        says[..8].copy_from_slice(&number.to_be_bytes());
        Credential::new("t", &says)
    }

    #[test]
    fn a_place_is_one_hosts_and_there_are_so_many() {
        let all = Exchanged::default();
        let first = all.of(&credential(0));
        assert!(Arc::ptr_eq(&first, &all.of(&credential(0))));
        assert!(!Arc::ptr_eq(&first, &all.of(&credential(1))));
        for number in 0..3 * MOST {
            all.of(&credential(number));
            assert!(locked(&all.0).len() <= MOST);
        }
    }
}
