//! What the gate reads of a request: whom it names, its arguments, its progress token.
//!
//! What the scan has kept of it, and nothing else in it. Keys of
//! chillgate's own are taken out here: servers see none, whoever wrote them.

use std::sync::{Arc, LazyLock};
use std::time::{Duration, Instant};

use bytes::Bytes;
use chillgate_policies::engine::Levels;
use chillgate_wire::{Envelope, json, method};

use crate::exchange::Exchange;

/// The prefix of chillgate's own `_meta` keys.
const OWN_KEYS: &str = "dev.chillgate/";
/// The one of them that is a host's to set: how long it waits for the answer, in milliseconds.
const TIMEOUT: &str = "dev.chillgate/timeout-ms";
/// A host that would wait longer has as good as said nothing.
const LONGEST: u64 = 24 * 60 * 60 * 1_000;

/// A request as the gate sees it.
#[derive(Debug)]
pub struct Inbound {
    /// The message.
    pub request: Envelope,
    /// Its method; known ones are not allocated.
    pub method: Arc<str>,
    /// The tool, prompt or resource it names, as the host spells it.
    pub target: Option<Arc<str>>,
    /// `params.arguments` of a tool call or prompt, else all `params`.
    pub arguments: Option<Bytes>,
    /// The size of the message.
    pub bytes: usize,
    /// When its host stops waiting for an answer, where it says so.
    pub deadline: Option<Instant>,
}

impl Inbound {
    /// Reads a request and tells the exchange its progress token. Boxed: it is handed on many
    /// times before its server is known.
    pub fn read(exchange: &Exchange, request: Envelope) -> Box<Self> {
        let bytes = request.raw().len();
        let name = request.method().unwrap_or_default();
        let method = interned(name);
        let wanted = method::target_member(name);
        let slice = |value| request.raw().slice_ref(value);
        let target = wanted.and_then(|member| request.text(&["params", member]));
        let target = target.map(Arc::from);
        let arguments = match name {
            "tools/call" | "prompts/get" => request.get(&["params", "arguments"]).map(slice),
            _ => request.params().map(slice),
        };
        let token = request.get(&["params", "_meta", "progressToken"]);
        if token.is_some() {
            exchange.set_token(token.map(Bytes::copy_from_slice));
        }
        let (mut forged, mut deadline) = (Vec::new(), None);
        if request.may_have_other_meta()
            && let Some(meta) = request.get(&["params", "_meta"])
        {
            let names = json::members(meta).map(|(name, _, _)| name);
            let own = names.filter(|name| name.starts_with(OWN_KEYS));
            forged.extend(own.map(std::borrow::Cow::into_owned));
            if forged.iter().any(|key| key == TIMEOUT) {
                let said = request.get(&["params", "_meta", TIMEOUT]);
                let millis = said.and_then(json::integer);
                let millis = millis.and_then(|millis| u64::try_from(millis).ok());
                let span = millis.filter(|millis| *millis <= LONGEST);
                let span = span.map(Duration::from_millis);
                deadline = span.map(|span| (exchange.began + span).into_std());
            }
        }
        let request = if forged.is_empty() {
            request
        } else {
            let mut edit = request.edit();
            for key in &forged {
                edit.remove(&["params", "_meta", key]);
            }
            edit.finish()
        };
        Box::new(Self {
            request,
            method,
            target,
            arguments,
            bytes,
            deadline,
        })
    }
}

/// A notification or an answer of a host without keys of chillgate's own.
pub fn without_own_keys(message: &Envelope) -> Envelope {
    let forged: Vec<_> = ["params", "result"]
        .into_iter()
        .flat_map(|part| {
            let meta = message.get(&[part, "_meta"]).unwrap_or(b"{}");
            json::members(meta).map(move |(key, _, _)| (part, key))
        })
        .filter(|(_, key)| key.starts_with(OWN_KEYS))
        .collect();
    let mut edit = message.edit();
    for (part, key) in &forged {
        edit.remove(&[part, "_meta", key]);
    }
    edit.finish()
}

/// A known method as a shared string.
fn interned(name: &str) -> Arc<str> {
    static KNOWN: LazyLock<Vec<Arc<str>>> =
        LazyLock::new(|| method::all().map(Arc::from).collect());
    // The usual ones come first: quicker than hashing.
    let known = KNOWN.iter().find(|known| ***known == *name);
    known.cloned().unwrap_or_else(|| Arc::from(name))
}

/// The levels that ChillMCP reports with a break: after it, and by how much they changed.
pub fn chill_levels(answer: &Envelope) -> Option<Levels> {
    let content = answer.get(&["result", "structuredContent"])?;
    let number = |name| json::member(content, name).and_then(|at| json::integer(&content[at]));
    let before_and_after = |level, change| {
        let after = number(level)?;
        let before = after - number(change)?;
        Some((u8::try_from(before).ok()?, u8::try_from(after).ok()?))
    };
    let stress = before_and_after("stress_level", "stress_change");
    let boss = before_and_after("boss_alert_level", "boss_alert_change");
    Some(Levels {
        stress_before: stress.map(|(before, _)| before),
        stress_after: stress.map(|(_, after)| after),
        boss_before: boss.map(|(before, _)| before),
        boss_after: boss.map(|(_, after)| after),
    })
}
