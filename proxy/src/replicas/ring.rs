//! The keys that replicas seal with: the present one, the next, and those of before.
//!
//! A key is known to all replicas before the first of them seals with it, and opens what it sealed
//! for thirty of its times. Alone, a replica has one key that nobody else knows. It keeps secrets,
//! makes tags and locks texts; what they are is its users' matter.

use std::collections::BTreeMap;

use aws_lc_rs::aead::{AES_256_GCM, Aad, NONCE_LEN, Nonce, RandomizedNonceKey};
use hmac::{Hmac, KeyInit, Mac};
use secrecy::{ExposeSecret, SecretString};
use sha2::Sha256;
use subtle::ConstantTimeEq;

type Key = [u8; 32];

/// Keys by their number.
#[derive(Clone, Default)]
pub struct Ring {
    current: u64,
    /// As the store has them.
    raw: BTreeMap<u64, Key>,
    /// As they are used: mixed with what the replicas alone know, where they have such a secret.
    keys: BTreeMap<u64, Key>,
}

impl std::fmt::Debug for Ring {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Ring")
            .field("current", &self.current)
            .finish_non_exhaustive()
    }
}

impl Ring {
    /// One key, of this process. Its number is that of no other.
    pub fn own() -> Self {
        Self {
            current: 0,
            raw: BTreeMap::new(),
            keys: BTreeMap::from([(0, crate::random::bytes())]),
        }
    }

    /// The number of the key that seals now.
    pub fn current(&self) -> u64 {
        self.current
    }

    /// The keys as the store has them.
    pub fn raw(&self) -> &BTreeMap<u64, Key> {
        &self.raw
    }

    /// A ring with these keys too, of which `current` seals; none, where nothing is new.
    pub fn with(
        &self,
        met: BTreeMap<u64, Key>,
        current: u64,
        kept: u64,
        secret: Option<&SecretString>,
    ) -> Option<Self> {
        let mut next = self.clone();
        for (number, raw) in met {
            // What was sealed here before the store was heard stays good.
            next.raw.insert(number, raw);
        }
        let first = current.saturating_sub(kept);
        next.raw.retain(|number, _| *number >= first);
        let own = self.keys.get(&0).copied();
        next.keys = next
            .raw
            .iter()
            .map(|(n, raw)| (*n, mixed(raw, secret)))
            .collect();
        next.keys.extend(own.map(|own| (0, own)));
        next.current = current;
        let is_new = next.current != self.current || next.keys != self.keys;
        (is_new && next.keys.contains_key(&current)).then_some(next)
    }

    /// The tag of these parts for this purpose, by the present key.
    pub fn tag(&self, purpose: &str, parts: &[&[u8]]) -> Key {
        let key = self.keys.get(&self.current);
        tag(key.expect("the present key is kept"), purpose, parts)
    }

    /// Whether a tag, whole or its first half, was made by this key for the same.
    pub fn verifies(&self, purpose: &str, key: u64, parts: &[&[u8]], shown: &[u8]) -> bool {
        let Some(key) = self.keys.get(&key) else {
            return false;
        };
        let right = tag(key, purpose, parts);
        let whole = [16, 32]
            .contains(&shown.len())
            .then(|| &right[..shown.len()]);
        whole.is_some_and(|right| bool::from(right.ct_eq(shown)))
    }

    /// A text that only who has the ring can read, or make: the number of its key, a nonce, and the
    /// rest (AES-256-GCM).
    pub fn lock(&self, purpose: &str, text: &[u8]) -> Vec<u8> {
        let key = self.tag(purpose, &[]);
        let key = RandomizedNonceKey::new(&AES_256_GCM, &key).expect("a key of 32 bytes");
        let mut rest = text.to_vec();
        let nonce = key.seal_in_place_append_tag(Aad::empty(), &mut rest);
        let nonce = nonce.expect("a text of less than 64 GiB");
        [&self.current.to_be_bytes(), &nonce.as_ref()[..], &rest].concat()
    }

    /// Reads a locked text; none, where nobody who has the ring has made it for this purpose.
    pub fn unlock(&self, purpose: &str, locked: &[u8]) -> Option<Vec<u8>> {
        let (number, rest) = locked.split_at_checked(8)?;
        let (nonce, rest) = rest.split_at_checked(NONCE_LEN)?;
        let key = self
            .keys
            .get(&u64::from_be_bytes(number.try_into().ok()?))?;
        let key = RandomizedNonceKey::new(&AES_256_GCM, &tag(key, purpose, &[])).ok()?;
        let nonce = Nonce::try_assume_unique_for_key(nonce).ok()?;
        let mut rest = rest.to_vec();
        let text = key.open_in_place(nonce, Aad::empty(), &mut rest).ok()?;
        Some(text.to_vec())
    }
}

fn mixed(raw: &Key, secret: Option<&SecretString>) -> Key {
    match secret {
        None => *raw,
        Some(secret) => tag(raw, "secret", &[secret.expose_secret().as_bytes()]),
    }
}

fn tag(key: &Key, purpose: &str, parts: &[&[u8]]) -> Key {
    let mut mac = Hmac::<Sha256>::new_from_slice(key).expect("a key of any length will do");
    // With their lengths, so that no two different lists of parts run together.
    for part in [&[purpose.as_bytes()], parts].concat() {
        mac.update(&(part.len() as u64).to_be_bytes());
        mac.update(part);
    }
    mac.finalize().into_bytes().into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keys(numbers: std::ops::Range<u64>) -> BTreeMap<u64, Key> {
        numbers.map(|n| (n, [n as u8; 32])).collect()
    }

    #[test]
    fn a_key_opens_what_it_sealed_until_it_is_too_old() {
        let ring = Ring::own()
            .with(keys(100..102), 100, 3, None)
            .expect("new keys");
        let tag = ring.tag("p", &[b"a", b"b"]);
        assert!(ring.verifies("p", 100, &[b"a", b"b"], &tag));
        assert!(ring.verifies("p", 100, &[b"a", b"b"], &tag[..16]));
        for (purpose, key, parts) in [
            ("q", 100, [&b"a"[..], b"b"]),
            ("p", 101, [b"a", b"b"]),
            ("p", 99, [b"a", b"b"]),
            ("p", 100, [b"ab", b""]),
            ("p", 100, [b"b", b"a"]),
        ] {
            assert!(
                !ring.verifies(purpose, key, &parts, &tag),
                "{purpose} {key}"
            );
        }
        for short in [&[][..], &tag[..8], &tag[..31]] {
            assert!(!ring.verifies("p", 100, &[b"a", b"b"], short));
        }
        let later = ring.with(keys(102..104), 103, 3, None).expect("new keys");
        assert!(later.verifies("p", 100, &[b"a", b"b"], &tag));
        let much_later = later.with(keys(104..105), 104, 3, None).expect("new keys");
        assert!(!much_later.verifies("p", 100, &[b"a", b"b"], &tag));
    }

    #[test]
    fn a_locked_text_is_read_with_the_same_ring_alone() {
        let ring = Ring::own();
        let locked = ring.lock("p", b"a text");
        assert_eq!(ring.unlock("p", &locked).as_deref(), Some(&b"a text"[..]));
        assert!(!locked.windows(6).any(|part| part == b"a text"));
        assert_ne!(ring.lock("p", b"a text"), locked);
        assert_eq!(ring.unlock("q", &locked), None);
        assert_eq!(Ring::own().unlock("p", &locked), None);
        for at in 0..locked.len() {
            let mut changed = locked.clone();
            changed[at] ^= 1;
            assert_eq!(ring.unlock("p", &changed), None, "{at}");
            assert_eq!(ring.unlock("p", &locked[..at]), None, "{at}");
        }
    }

    #[test]
    fn what_was_sealed_alone_stays_good_and_a_secret_makes_other_keys() {
        let alone = Ring::own();
        let tag = alone.tag("p", &[b"a"]);
        let together = alone.with(keys(7..9), 7, 30, None).expect("new keys");
        assert!(together.verifies("p", 0, &[b"a"], &tag));
        assert!(
            together.with(keys(7..9), 7, 30, None).is_none(),
            "nothing new"
        );
        let secret = SecretString::from("s3cret");
        let other = Ring::own()
            .with(keys(7..9), 7, 30, Some(&secret))
            .expect("new keys");
        assert_ne!(other.tag("p", &[b"a"]), together.tag("p", &[b"a"]));
        assert!(
            alone.with(keys(7..9), 10, 30, None).is_none(),
            "no key to seal with"
        );
    }
}
