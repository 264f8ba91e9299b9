//! Signed tokens: who made them, for whom, until when, and whose they are.
//!
//! A token is believed once its issuer is one of the configured, its signature that of one of the
//! issuer's keys, its audience the resource that was asked, and its time now (RFC 7519, RFC 8725,
//! Verdicts are remembered by digest, so that a call costs a look-up and no signature.

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use chillgate_policies::engine::Grants;
use chillgate_policies::engine::clock::Clock as _;

use self::keys::Checked;
use self::seen::{Mark, Seen};
use self::source::Source;
use self::token::Claims;
pub(super) use self::token::Token;
use super::{Denied, Found, Principal};
use crate::clock::TokioClock;
use crate::config::agent_name;
use crate::config::identity::{Identity, Jwt};

mod keys;
mod seen;
mod source;
#[cfg(test)]
mod tests;
mod token;

/// The issuers whose tokens are taken.
#[derive(Clone, Debug)]
pub(super) struct Issuers(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    issuers: Vec<Issuer>,
    seen: Seen,
}

#[derive(Debug)]
struct Issuer {
    config: Jwt,
    source: Arc<Source>,
}

impl Issuers {
    /// The issuers of a configuration. One that is in `previous` to the letter goes on with its keys.
    ///
    /// # Errors
    /// In words, when the keys of one are in no file that can be read, or at no address.
    pub(super) fn new(config: &Identity, previous: Option<&Self>) -> Result<Self, String> {
        let before = |jwt: &Jwt| {
            let all = previous
                .into_iter()
                .flat_map(|previous| &previous.0.issuers);
            let mut same = all.filter(|issuer| issuer.config == *jwt);
            same.next().map(|issuer| issuer.source.clone())
        };
        let issuer = |jwt: &Jwt| {
            let source = match before(jwt) {
                Some(source) => source,
                None => Source::new(jwt)
                    .map_err(|cause| format!("the keys of `{}`: {cause}", jwt.issuer))?,
            };
            let config = jwt.clone();
            Ok(Issuer { config, source })
        };
        let issuers = config
            .jwt
            .iter()
            .map(issuer)
            .collect::<Result<_, String>>()?;
        let seen = Seen::default();
        Ok(Self(Arc::new(Inner { issuers, seen })))
    }

    /// Whether there are none.
    pub(super) fn is_empty(&self) -> bool {
        self.0.issuers.is_empty()
    }

    /// Whether the address that a token is shown at matters.
    pub(super) fn by_address(&self) -> bool {
        let mut issuers = self.0.issuers.iter();
        issuers.any(|issuer| issuer.config.audience.is_empty())
    }

    /// Their names, as tokens say them.
    pub(super) fn names(&self) -> impl Iterator<Item = &str> {
        self.0.issuers.iter().map(|issuer| &*issuer.config.issuer)
    }

    /// Whether a token says that one of these issuers has made it.
    pub(super) fn claim(&self, token: &Token<'_>) -> bool {
        self.names().any(|name| name == token.claims.iss)
    }

    /// Asks for keys that are not here yet, so that no host waits for them.
    pub(super) fn warm(&self) {
        for issuer in &self.0.issuers {
            let source = issuer.source.clone();
            if source.keys().is_none() {
                tokio::spawn(async move { source.renew().await });
            }
        }
    }

    /// Whose token this is, shown at `resource`, if that was found out a moment ago.
    pub(super) fn remembered(&self, text: &str, resource: &str) -> Option<Principal> {
        self.0
            .remembered(&seen::mark(text, resource), TokioClock.wall())
    }

    /// Whose token this is, shown at `resource`, of which nothing is remembered.
    pub(super) fn of(&self, text: &str, token: Result<Token<'_>, Denied>, resource: &str) -> Found {
        let (now, mark) = (TokioClock.wall(), seen::mark(text, resource));
        let token = match token {
            Ok(token) => token,
            Err(denied) => return Found::Now(Err(denied)),
        };
        match self.0.judge(&token, resource, mark, now) {
            Judged::Known(verdict) => Found::Now(verdict),
            Judged::Unkeyed(index, otherwise) => {
                let (inner, text, resource) =
                    (self.0.clone(), text.to_owned(), resource.to_owned());
                Found::Later(Box::pin(async move {
                    inner.issuers[index].source.renew().await;
                    let token = Token::read(&text)?;
                    match inner.judge(&token, &resource, mark, TokioClock.wall()) {
                        Judged::Known(verdict) => verdict,
                        Judged::Unkeyed(..) => Err(otherwise),
                    }
                }))
            }
        }
    }
}

/// What comes of a token.
enum Judged {
    Known(Result<Principal, Denied>),
    /// The keys of this issuer do not settle it; newer ones may. What it is without them.
    Unkeyed(usize, Denied),
}

impl Inner {
    fn remembered(&self, mark: &Mark, now: SystemTime) -> Option<Principal> {
        let (whose, (index, generation)) = self.seen.get(mark, now)?;
        let (_, current) = self.issuers.get(index)?.source.keys()?;
        (current == generation).then_some(whose)
    }

    fn judge(&self, token: &Token<'_>, resource: &str, mark: Mark, now: SystemTime) -> Judged {
        let refuse = |why| Judged::Known(Err(Denied::Token(why)));
        // Only says whose keys are asked; all of it is signed.
        let named = |issuer: &Issuer| issuer.config.issuer == token.claims.iss;
        let Some(index) = self.issuers.iter().position(named) else {
            return refuse("its issuer is not one whose tokens are taken");
        };
        let Issuer { config, source } = &self.issuers[index];
        let Some((keys, generation)) = source.keys() else {
            return Judged::Unkeyed(index, Denied::NoKeys);
        };
        let unknown = "its key is not one of its issuer's";
        match keys.check(token) {
            Checked::Good => {}
            Checked::Bad => return refuse("its signature is not that of its key"),
            Checked::UnknownKey => return Judged::Unkeyed(index, Denied::Token(unknown)),
        }
        let whose = bearer(config, &token.claims, resource, now);
        let whose = whose.and_then(|whose| self.unless_anothers(index, whose));
        if let Ok(whose) = &whose {
            self.seen
                .note(mark, whose.clone(), (index, generation), now);
        }
        Judged::Known(whose)
    }
}

impl Inner {
    /// A name that begins as those of another issuer do is that issuer's to give: two prefixes may
    /// begin alike, and a prefix may be empty.
    fn unless_anothers(&self, index: usize, whose: Principal) -> Result<Principal, Denied> {
        let own = &self.issuers[index].config.prefix;
        let is_anothers = |issuer: &Issuer| {
            let prefix = &issuer.config.prefix;
            prefix.len() > own.len() && whose.agent.starts_with(&**prefix)
        };
        if self.issuers.iter().any(is_anothers) {
            return Err(Denied::Token(
                "the name of its agent is another issuer's to give",
            ));
        }
        Ok(whose)
    }
}

/// Whose the claims are, of a token whose signature is good.
fn bearer(
    config: &Jwt,
    claims: &Claims,
    resource: &str,
    now: SystemTime,
) -> Result<Principal, Denied> {
    let now = now
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default()
        .as_secs_f64();
    let leeway = config.leeway.as_secs_f64();
    let end = claims.exp + leeway;
    if now >= end {
        return Err(Denied::Token("it has expired"));
    }
    if claims.nbf.is_some_and(|begin| begin > now + leeway) {
        return Err(Denied::Token("its time has not come yet"));
    }
    let is_for_us = |audience: &str| match &config.audience[..] {
        [] => audience == resource,
        ours => ours.iter().any(|own| own == audience),
    };
    if !claims.audiences().into_iter().any(is_for_us) {
        return Err(Denied::Token("its audience is another"));
    }
    let name = claims.get(&config.agent).and_then(|name| name.as_str());
    let name = name.map(|name| format!("{}{name}", config.prefix));
    let Some(agent) = name.filter(|name| agent_name(name)) else {
        return Err(Denied::Token("the claim that names the agent is no name"));
    };
    let mut scopes = claims.words(&config.scopes);
    let mut next = 0;
    while let Some(scope) = scopes.get(next) {
        let implied = config.implies.get(&**scope).into_iter().flatten();
        let new: Vec<Arc<str>> = implied
            .map(|scope| Arc::from(scope.as_str()))
            .filter(|scope| !scopes.contains(scope))
            .collect();
        scopes.extend(new);
        next += 1;
    }
    let user = claims.get("sub").and_then(|sub| sub.as_str());
    Ok(Principal {
        grants: Arc::new(Grants {
            groups: claims.words(&config.groups),
            scopes,
        }),
        says: Some(Arc::new(claims.digest())),
        // A year at a time is far enough, and no sum overflows.
        until: UNIX_EPOCH.checked_add(Duration::from_secs_f64(end.clamp(0.0, now + 31_536_000.0))),
        ..Principal::of(agent.into(), &[&claims.iss, user.unwrap_or_default()])
    })
}
