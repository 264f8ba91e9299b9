//! The public keys of an issuer (RFC 7517), each good for what it was made for and nothing else.
//!
//! A key that says nothing of its algorithm gets the one of its kind. Keys with a shared secret are
//! left out: whoever can check such a signature can make it.

use jsonwebtoken::jwk::{AlgorithmParameters, EllipticCurve, Jwk, KeyOperations, PublicKeyUse};
use jsonwebtoken::{Algorithm, DecodingKey};
use serde_json::Value;

use super::token::Token;
use crate::config::identity::Signature;

/// The most keys that an issuer may have.
const MOST: usize = 100;

/// The keys of one issuer.
#[derive(Debug)]
pub(super) struct KeySet(Vec<Key>);

#[derive(Debug)]
struct Key {
    kid: Option<String>,
    algorithms: Vec<Algorithm>,
    public: DecodingKey,
}

/// What a token's signature is worth.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Checked {
    /// It is one of these keys'.
    Good,
    /// It is not.
    Bad,
    /// The key that it names is not among these.
    UnknownKey,
}

impl KeySet {
    /// Reads a key set; keys that are of no use here are left out.
    ///
    /// # Errors
    /// In words, when it is none, or has no key at all that could check a signature.
    pub(super) fn read(json: &[u8], allowed: &[Signature]) -> Result<Self, String> {
        let set: Value =
            serde_json::from_slice(json).map_err(|error| format!("no JSON: {error}"))?;
        let keys = set.get("keys").and_then(Value::as_array);
        let keys = keys.ok_or("no key set: it has no list `keys`")?;
        let allowed: Vec<Algorithm> = allowed.iter().copied().map(algorithm).collect();
        let read = |key: &Value| {
            let jwk: Jwk = serde_json::from_value(key.clone()).ok()?;
            Key::read(&jwk, &allowed)
        };
        let keys: Vec<Key> = keys.iter().take(MOST).filter_map(read).collect();
        if keys.is_empty() {
            return Err("no key in it can check a signature that is taken here".to_owned());
        }
        Ok(Self(keys))
    }

    /// Checks a signature. The header chooses neither key nor algorithm: the key that it names has
    /// to be one of these, and the algorithm that of the key.
    pub(super) fn check(&self, token: &Token<'_>) -> Checked {
        let kid = token.header.kid.as_deref();
        let mut named = self
            .0
            .iter()
            .filter(|key| kid.is_none() || key.kid.as_deref() == kid);
        let Some(algorithm) = token.header.alg.parse::<Algorithm>().ok() else {
            return Checked::Bad;
        };
        let mut any = false;
        let good = named.any(|key| {
            any = true;
            let signed = token.signed.as_bytes();
            let verify =
                || jsonwebtoken::crypto::verify(token.signature, signed, &key.public, algorithm);
            key.algorithms.contains(&algorithm) && matches!(verify(), Ok(true))
        });
        match (good, any) {
            (true, _) => Checked::Good,
            (false, true) if kid.is_some() => Checked::Bad,
            // A token that names no key may be of one that is not here yet.
            (false, _) => Checked::UnknownKey,
        }
    }
}

impl Key {
    fn read(jwk: &Jwk, allowed: &[Algorithm]) -> Option<Self> {
        let common = &jwk.common;
        let is_for_signatures = common
            .public_key_use
            .as_ref()
            .is_none_or(|usage| *usage == PublicKeyUse::Signature)
            && common
                .key_operations
                .as_ref()
                .is_none_or(|all| all.contains(&KeyOperations::Verify));
        let of_kind: &[Algorithm] = match &jwk.algorithm {
            AlgorithmParameters::RSA(_) => &[
                Algorithm::RS256,
                Algorithm::RS384,
                Algorithm::RS512,
                Algorithm::PS256,
                Algorithm::PS384,
                Algorithm::PS512,
            ],
            AlgorithmParameters::EllipticCurve(key) => match key.curve {
                EllipticCurve::P256 => &[Algorithm::ES256],
                EllipticCurve::P384 => &[Algorithm::ES384],
                _ => return None,
            },
            AlgorithmParameters::OctetKeyPair(key) if key.curve == EllipticCurve::Ed25519 => {
                &[Algorithm::EdDSA]
            }
            _ => return None,
        };
        let algorithms: Vec<Algorithm> = match common.key_algorithm {
            Some(named) => {
                let named = Algorithm::try_from(named).ok()?;
                of_kind
                    .iter()
                    .copied()
                    .filter(|one| *one == named)
                    .collect()
            }
            // RFC 8725, section 3.1: one key, one algorithm; others only where they were written.
            None if allowed.is_empty() => of_kind.iter().copied().take(1).collect(),
            None => of_kind.to_vec(),
        };
        let is_allowed = |one: &Algorithm| allowed.is_empty() || allowed.contains(one);
        let algorithms: Vec<Algorithm> = algorithms.into_iter().filter(is_allowed).collect();
        if !is_for_signatures || algorithms.is_empty() {
            return None;
        }
        Some(Self {
            kid: common.key_id.clone(),
            algorithms,
            public: DecodingKey::from_jwk(jwk).ok()?,
        })
    }
}

fn algorithm(signature: Signature) -> Algorithm {
    match signature {
        Signature::RS256 => Algorithm::RS256,
        Signature::RS384 => Algorithm::RS384,
        Signature::RS512 => Algorithm::RS512,
        Signature::PS256 => Algorithm::PS256,
        Signature::PS384 => Algorithm::PS384,
        Signature::PS512 => Algorithm::PS512,
        Signature::ES256 => Algorithm::ES256,
        Signature::ES384 => Algorithm::ES384,
        Signature::EdDSA => Algorithm::EdDSA,
    }
}
