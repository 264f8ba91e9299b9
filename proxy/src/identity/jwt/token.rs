//! A signed token taken apart (RFC 7515, RFC 7519), before anything in it is believed.
//!
//! The header is asked for two things alone, the name of a key and the algorithm, and neither is
//! more than a question: which keys there are, and what each is for, the configuration says. What
//! a header says about where keys could be found (`jku`, `x5u`, `jwk`, `x5c`) is never looked at.

use std::sync::Arc;

use data_encoding::BASE64URL_NOPAD;
use serde::Deserialize;
use serde_json::{Map, Value};
use sha2::{Digest, Sha256};

use crate::identity::Denied;

/// The longest token that is looked at, in bytes.
const LONGEST: usize = 16 << 10;
/// The longest name of a key.
const LONGEST_KID: usize = 512;

/// A token nobody has checked.
#[derive(Debug)]
pub(in crate::identity) struct Token<'t> {
    /// What is signed.
    pub(super) signed: &'t str,
    /// The signature, as written.
    pub(super) signature: &'t str,
    /// What is said of both.
    pub(super) header: Header,
    /// The claims.
    pub(super) claims: Claims,
}

/// What a token says of its signature.
#[derive(Debug, Deserialize)]
pub(super) struct Header {
    /// The algorithm's name.
    pub(super) alg: String,
    /// The key's name.
    pub(super) kid: Option<String>,
    typ: Option<String>,
    crit: Option<Value>,
}

/// What a token says of its bearer.
#[derive(Debug, Deserialize)]
pub(super) struct Claims {
    /// Who made it.
    pub(super) iss: String,
    /// For whom.
    pub(super) aud: Option<Value>,
    /// When it ends, in seconds since 1970.
    pub(super) exp: f64,
    /// When it begins.
    pub(super) nbf: Option<f64>,
    /// Everything else.
    #[serde(flatten)]
    pub(super) rest: Map<String, Value>,
}

impl<'t> Token<'t> {
    /// Takes a token apart.
    pub(in crate::identity) fn read(text: &'t str) -> Result<Self, Denied> {
        if text.len() > LONGEST {
            return Err(Denied::Token("it is longer than 16 KiB"));
        }
        let shapeless = Denied::Token("it is no signed token of three parts");
        let (signed, signature) = text.rsplit_once('.').ok_or(shapeless.clone())?;
        let (header, claims) = signed.split_once('.').ok_or(shapeless.clone())?;
        let header: Header = part(header).ok_or(shapeless.clone())?;
        if header.crit.is_some() {
            return Err(Denied::Token("its header has extensions in `crit`"));
        }
        if header
            .kid
            .as_ref()
            .is_some_and(|kid| kid.len() > LONGEST_KID)
        {
            return Err(Denied::Token("its `kid` is too long"));
        }
        // RFC 8725, section 3.11: a token made for something else is none of an access.
        let typ = header.typ.as_deref().map(str::to_ascii_lowercase);
        let typ = typ
            .as_deref()
            .map(|typ| typ.trim_start_matches("application/"));
        if typ.is_some_and(|typ| typ != "jwt" && typ != "at+jwt") {
            return Err(Denied::Token("its `typ` is that of no access token"));
        }
        let claims = part(claims).ok_or(Denied::Token(
            "its claims lack `iss` or `exp`, or are no JSON object",
        ))?;
        Ok(Self {
            signed,
            signature,
            header,
            claims,
        })
    }
}

impl Claims {
    /// The audiences, one or several.
    pub(super) fn audiences(&self) -> Vec<&str> {
        match &self.aud {
            Some(Value::String(one)) => vec![one],
            Some(Value::Array(many)) => many.iter().filter_map(Value::as_str).collect(),
            _ => Vec::new(),
        }
    }

    /// What stands for all that the claims say but their times and the number of the token: a token
    /// that is renewed says the same.
    pub(super) fn digest(&self) -> [u8; 32] {
        let said = self
            .rest
            .iter()
            .filter(|(name, _)| !["iat", "jti", "auth_time"].contains(&name.as_str()));
        let said: std::collections::BTreeMap<_, _> = said.collect();
        // Members in one order, whatever the issuer wrote first.
        let said = serde_json::json!([self.iss, self.aud, said]);
        Sha256::digest(said.to_string()).into()
    }

    /// A claim by its name, or by its JSON pointer where that begins with `/`.
    pub(super) fn get(&self, name: &str) -> Option<&Value> {
        match name.strip_prefix('/') {
            None => self.rest.get(name),
            Some(path) => {
                let plain = |part: &str| part.replace("~1", "/").replace("~0", "~");
                let mut parts = path.split('/').map(plain);
                let first = self.rest.get(&parts.next()?)?;
                parts.try_fold(first, |value, part| value.get(&part))
            }
        }
    }

    /// The words of a claim: a list of texts, or one text with spaces between.
    pub(super) fn words(&self, name: &str) -> Vec<Arc<str>> {
        match self.get(name) {
            Some(Value::String(text)) => text.split_ascii_whitespace().map(Arc::from).collect(),
            Some(Value::Array(list)) => list
                .iter()
                .filter_map(Value::as_str)
                .map(Arc::from)
                .collect(),
            _ => Vec::new(),
        }
    }
}

fn part<T: for<'de> Deserialize<'de>>(text: &str) -> Option<T> {
    let json = BASE64URL_NOPAD.decode(text.as_bytes()).ok()?;
    serde_json::from_slice(&json).ok()
}
