//! Multi round-trip requests: a legacy server's questions as a modern host hears them.
//!
//! A modern call that needs something of its host ends in `input_required` and is sent again with
//! the answers (2026-07-28, basic/patterns/mrtr). The state that travels in between is sealed: it
//! names a waiting call and the replica that has it, holds for one agent, one request, one round and a
//! limited time, and says nothing else. It keeps no call itself.

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bytes::Bytes;
use chillgate_wire::{Envelope, code, json, message};
use serde_json::{Value, json as value};
use sha2::{Digest, Sha256};

use crate::exchange::Exchange;
use crate::exchange::inputs::Input;
use crate::gate::suspended::refused;
use crate::gate::{Answer, Refusal};
use crate::replicas::{ReplicaId, Ring};
use crate::session::Scope;

/// The member of `params` that holds the host's answers.
pub const RESPONSES: &str = "inputResponses";
/// The member of `params` and of results that holds the sealed state.
pub const STATE: &str = "requestState";

/// What an unsealed state says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ticket {
    /// The replica that has the call.
    pub owner: ReplicaId,
    /// The waiting call.
    pub call: u64,
    /// How many times its host has been asked.
    pub round: u32,
    /// Until when it waits, in seconds since that replica began.
    pub until: u64,
}

/// A state that is no good.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`requestState` was not made here for this agent and this request")]
pub struct Broken;

/// The key of `params._meta` under which an older server may give its question a name.
const NAME: &str = "dev.chillgate/key";
/// The longest such name.
const NAME_BYTES: usize = 64;

const TICKET: usize = 8 + 8 + 8 + 4 + 8;

impl Ticket {
    /// The state for this ticket, good for what `bound` stands for alone.
    pub fn seal(self, ring: &Ring, bound: &[u8; 32]) -> String {
        let ticket = self;
        let mut plain = Vec::with_capacity(TICKET + 32);
        plain.extend_from_slice(&ring.current().to_be_bytes());
        plain.extend_from_slice(&ticket.owner.0.to_be_bytes());
        plain.extend_from_slice(&ticket.call.to_be_bytes());
        plain.extend_from_slice(&ticket.round.to_be_bytes());
        plain.extend_from_slice(&ticket.until.to_be_bytes());
        let tag = ring.tag("state", &[&plain, bound]);
        plain.extend_from_slice(&tag);
        URL_SAFE_NO_PAD.encode(plain)
    }

    /// Reads a state, however old.
    ///
    /// # Errors
    /// It was made by somebody else, for something else, or has been changed.
    pub fn open(ring: &Ring, state: &str, bound: &[u8; 32]) -> Result<Self, Broken> {
        let whole = URL_SAFE_NO_PAD.decode(state).map_err(|_| Broken)?;
        let (plain, tag) = whole.split_at_checked(TICKET).ok_or(Broken)?;
        let number = |at: std::ops::Range<usize>| {
            plain[at]
                .iter()
                .fold(0, |sum, byte| sum << 8 | u64::from(*byte))
        };
        let is_whole = tag.len() == 32;
        if !is_whole || !ring.verifies("state", number(0..8), &[plain, bound], tag) {
            return Err(Broken);
        }
        Ok(Self {
            owner: ReplicaId(number(8..16)),
            call: number(16..24),
            round: number(24..28) as u32,
            until: number(28..36),
        })
    }
}

/// What a state is bound to: who asks, where, and what for, however it is spelt.
pub fn bound(subject: &str, scope: &Scope, request: &Envelope) -> [u8; 32] {
    let params = request.params().unwrap_or(b"{}");
    let said = serde_json::from_slice::<BTreeMap<String, Value>>(params).map_or_else(
        |_| String::from_utf8_lossy(params).into_owned(),
        |mut params| {
            params.retain(|key, _| !["_meta", RESPONSES, STATE].contains(&key.as_str()));
            value!(params).to_string()
        },
    );
    let mut digest = Sha256::new();
    let scope = format!("{scope:?}");
    for part in [subject, &scope, request.method().unwrap_or_default(), &said] {
        digest.update((part.len() as u64).to_be_bytes());
        digest.update(part);
    }
    digest.finalize().into()
}

/// The methods whose calls may ask their host something (R-100).
pub fn may_ask(method: &str) -> bool {
    matches!(method, "tools/call" | "prompts/get" | "resources/read")
}

/// No host of the modern era can be asked this.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Unaskable;

/// The capabilities that a host must declare to be asked this, where it has not (R-102).
///
/// # Errors
/// It is no question that the era knows.
pub fn lacking(question: &Envelope, capabilities: &[u8]) -> Result<Option<Value>, Unaskable> {
    let has = |path: &[&str]| json::path(capabilities, path).is_some();
    let asks = |member| question.find(&["params", member]).is_some();
    let (needed, declared) = match question.method().unwrap_or_default() {
        "sampling/createMessage" if asks("tools") || asks("toolChoice") => (
            value!({"sampling": {"tools": {}}}),
            has(&["sampling", "tools"]),
        ),
        "sampling/createMessage" => (value!({"sampling": {}}), has(&["sampling"])),
        "roots/list" => (value!({"roots": {}}), has(&["roots"])),
        "elicitation/create" if question.text(&["params", "mode"]).as_deref() == Some("url") => (
            value!({"elicitation": {"url": {}}}),
            has(&["elicitation", "url"]),
        ),
        // An empty object means forms, as it did before there was anything else.
        "elicitation/create" => (
            value!({"elicitation": {"form": {}}}),
            has(&["elicitation", "form"])
                || (has(&["elicitation"]) && !has(&["elicitation", "url"])),
        ),
        _ => return Err(Unaskable),
    };
    Ok((!declared).then_some(needed))
}

/// A legacy server's question as a modern host reads it: what only made sense between the two ends
/// of a request is gone.
pub fn input(number: u64, question: &Envelope) -> Input {
    let mut edit = question.edit();
    for path in [
        &["params", "_meta"][..],
        &["params", "elicitationId"],
        &["params", "task"],
    ] {
        if question.find(path).is_some() {
            edit.remove(path);
        }
    }
    Input {
        number,
        name: question
            .text(&["params", "_meta", NAME])
            .map(std::borrow::Cow::into_owned)
            .filter(|name| is_name(name)),
        method: question.method().unwrap_or_default().to_owned(),
        params: edit.finish().params().map(Bytes::copy_from_slice),
    }
}

/// The key under which the host answers a question. A name holds for one open question of a call,
/// which is seen to where questions are gathered.
pub fn key(input: &Input) -> String {
    let number = || format!("q{}", input.number);
    input.name.clone().unwrap_or_else(number)
}

/// Whether a server may call a question so; `q` and digits are chillgate's own.
fn is_name(name: &str) -> bool {
    let is_own = name
        .strip_prefix('q')
        .is_some_and(|rest| rest.bytes().all(|byte| byte.is_ascii_digit()));
    (1..=NAME_BYTES).contains(&name.len()) && !is_own
}

/// Questions as a modern host reads them, each under its key.
pub fn requests(inputs: &[Input]) -> Vec<u8> {
    let mut requests = vec![b'{'];
    for (at, input) in inputs.iter().enumerate() {
        let comma = if at == 0 { "" } else { "," };
        let key = json::quote(&key(input));
        let head = format!(r#"{comma}{key}:{{"method":"{}""#, input.method);
        requests.extend_from_slice(head.as_bytes());
        if let Some(params) = &input.params {
            requests.extend_from_slice(br#","params":"#);
            requests.extend_from_slice(params);
        }
        requests.push(b'}');
    }
    requests.push(b'}');
    requests
}

/// The outcome of a call that waits for its host, as the answer to the request `id`.
pub fn required(id: &[u8], inputs: &[Input], state: Option<&str>) -> Bytes {
    let mut result = br#"{"resultType":"input_required","inputRequests":"#.to_vec();
    result.extend_from_slice(&requests(inputs));
    if let Some(state) = state {
        result.extend_from_slice(format!(r#","requestState":"{state}""#).as_bytes());
    }
    result.push(b'}');
    message::result(id, &result)
}

/// The host's answer to a question, where the request has one.
///
/// # Errors
/// There is one, and it is no object.
pub fn response<'r>(request: &'r Envelope, input: &Input) -> Result<Option<&'r [u8]>, Refusal> {
    let key = key(input);
    match request.get(&["params", RESPONSES, &key]) {
        Some(said) if !json::is_object(said) => Err(unfit(format!(
            "Invalid params: `inputResponses.{key}` is no object"
        ))),
        said => Ok(said),
    }
}

/// The answer to a question that a host has not heard yet, but knows the name of. Each holds once:
/// a server that asks again wants another one.
pub fn brought(request: &Envelope, input: &Input, used: &mut Vec<String>) -> Option<Vec<u8>> {
    let name = input.name.as_ref().filter(|name| !used.contains(*name))?;
    let said = response(request, input).ok()??.to_vec();
    used.push(name.clone());
    Some(said)
}

/// A server that wants its user to open pages first says so with an error (2025-11-25, URL
/// elicitation): the same as the outcome of the call. There is no call to go on with, so the
/// host's retry is a new one (R-206).
pub fn of_url_error(exchange: &Exchange, message: &Envelope) -> Option<Answer> {
    let said = message.get(&["error", "code"]).and_then(json::integer)?;
    if said != code::URL_ELICITATION_REQUIRED {
        return None;
    }
    let pages = message.get(&["error", "data", "elicitations"])?;
    let mut inputs = Vec::new();
    for (at, number) in json::items(pages).zip(1..) {
        let raw = message::request(b"0", "elicitation/create", Some(&pages[at]));
        let question = crate::route::own(raw).ok()?;
        let capabilities = exchange.session.capabilities();
        if let Ok(Some(lacking)) = lacking(&question, capabilities) {
            return Some(refused(&incapable(&lacking), &exchange.host_id));
        }
        // There is no call whose questions could be told apart by their names.
        let name = None;
        inputs.push(Input {
            name,
            ..input(number, &question)
        });
    }
    if inputs.is_empty() {
        return None;
    }
    let said = required(exchange.host_id.as_bytes(), &inputs, None);
    crate::route::own(said).ok().map(Answer::of)
}

/// Whether what stands as answers could be some, asked for or not.
///
/// # Errors
/// It is no object of objects.
pub fn check_responses(request: &Envelope) -> Result<(), Refusal> {
    let Some(said) = request.get(&["params", RESPONSES]) else {
        return Ok(());
    };
    let are_objects = || json::members(said).all(|(_, _, at)| json::is_object(&said[at]));
    if json::is_object(said) && are_objects() {
        return Ok(());
    }
    Err(unfit(format!(
        "Invalid params: `{RESPONSES}` is no object of objects"
    )))
}

/// A retry that cannot be one.
pub fn unfit(message: String) -> Refusal {
    Refusal::Answered {
        code: code::INVALID_PARAMS,
        message,
        data: None,
    }
}

/// The server cannot go on with a host that lacks these (R-109).
pub fn incapable(capabilities: &Value) -> Refusal {
    Refusal::Answered {
        code: code::MISSING_CLIENT_CAPABILITY,
        message: format!("The server asks for what this client has not declared: {capabilities}"),
        data: Some(value!({ "requiredCapabilities": capabilities })),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use chillgate_wire::Limits;

    use super::*;

    fn message(raw: &str) -> Envelope {
        Envelope::parse(Bytes::copy_from_slice(raw.as_bytes()), &Limits::default())
            .expect("a message")
    }

    fn call(params: &str) -> Envelope {
        message(&format!(
            r#"{{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{params}}}"#
        ))
    }

    const TICKET: Ticket = Ticket {
        owner: ReplicaId(5),
        call: 7,
        round: 2,
        until: 1 << 40,
    };

    /// R-105, R-106.
    #[test]
    fn a_state_is_good_for_its_agent_its_place_and_its_request_alone() {
        let ring = Ring::own();
        let one = Scope::One(Arc::from("a"));
        let request = call(r#"{"name":"t","arguments":{"a":1,"b":[2]}}"#);
        let bound_to = |agent, scope, request: &Envelope| bound(agent, scope, request);
        let state = TICKET.seal(&ring, &bound_to("me", &one, &request));
        for alike in [
            r#"{"name":"t","arguments":{"a":1,"b":[2]}}"#,
            r#"{"arguments": {"b":[ 2 ],"a":1}, "name":"t"}"#,
            r#"{"name":"t","arguments":{"a":1,"b":[2]},"_meta":{"x":1},"inputResponses":{},"requestState":"s"}"#,
        ] {
            let opened = Ticket::open(&ring, &state, &bound_to("me", &one, &call(alike)));
            assert_eq!(opened, Ok(TICKET), "{alike}");
        }
        for other in [
            r#"{"name":"t","arguments":{"a":2,"b":[2]}}"#,
            r#"{"name":"u","arguments":{"a":1,"b":[2]}}"#,
            r#"{"name":"t","arguments":{"a":"1","b":[2]}}"#,
            r#"{"name":"t"}"#,
        ] {
            let opened = Ticket::open(&ring, &state, &bound_to("me", &one, &call(other)));
            assert_eq!(opened, Err(Broken), "{other}");
        }
        let two = Scope::One(Arc::from("b"));
        assert!(Ticket::open(&ring, &state, &bound_to("you", &one, &request)).is_err());
        assert!(Ticket::open(&ring, &state, &bound_to("me", &two, &request)).is_err());
        let mine = bound_to("me", &one, &request);
        assert!(
            Ticket::open(&Ring::own(), &state, &mine).is_err(),
            "another key"
        );
        for at in 0..state.len() {
            let mut changed = state.clone().into_bytes();
            changed[at] = if changed[at] == b'A' { b'B' } else { b'A' };
            let changed = String::from_utf8(changed).expect("ASCII");
            assert!(Ticket::open(&ring, &changed, &mine).is_err(), "{at}");
        }
        for nonsense in ["", "x", "=", &state[1..], &format!("{state}A")] {
            assert!(Ticket::open(&ring, nonsense, &mine).is_err(), "{nonsense}");
        }
    }

    /// R-102.
    #[test]
    fn only_what_is_declared_may_be_asked() {
        let form = r#"{"message":"m","requestedSchema":{"type":"object","properties":{}}}"#;
        let url = r#"{"mode":"url","message":"m","url":"https://x"}"#;
        for (method, params, capabilities, lacks) in [
            ("sampling/createMessage", "{}", r#"{"sampling":{}}"#, None),
            (
                "sampling/createMessage",
                "{}",
                "{}",
                Some(value!({"sampling": {}})),
            ),
            (
                "sampling/createMessage",
                r#"{"tools":[]}"#,
                r#"{"sampling":{}}"#,
                Some(value!({"sampling": {"tools": {}}})),
            ),
            ("roots/list", "{}", r#"{"roots":{}}"#, None),
            (
                "roots/list",
                "{}",
                r#"{"sampling":{}}"#,
                Some(value!({"roots": {}})),
            ),
            ("elicitation/create", form, r#"{"elicitation":{}}"#, None),
            (
                "elicitation/create",
                form,
                r#"{"elicitation":{"form":{}}}"#,
                None,
            ),
            (
                "elicitation/create",
                form,
                r#"{"elicitation":{"url":{}}}"#,
                Some(value!({"elicitation": {"form": {}}})),
            ),
            (
                "elicitation/create",
                url,
                r#"{"elicitation":{"url":{}}}"#,
                None,
            ),
            (
                "elicitation/create",
                url,
                r#"{"elicitation":{}}"#,
                Some(value!({"elicitation": {"url": {}}})),
            ),
        ] {
            let asked = message(&format!(
                r#"{{"jsonrpc":"2.0","id":1,"method":"{method}","params":{params}}}"#
            ));
            let said = lacking(&asked, capabilities.as_bytes());
            assert_eq!(said, Ok(lacks), "{method} {params} {capabilities}");
        }
        let other = message(r#"{"jsonrpc":"2.0","id":1,"method":"tasks/get","params":{}}"#);
        assert_eq!(lacking(&other, b"{}"), Err(Unaskable));
    }

    #[test]
    fn a_question_loses_what_belonged_to_its_request() {
        let asked = message(
            r#"{"jsonrpc":"2.0","id":4,"method":"elicitation/create","params":{"_meta":{"progressToken":1},"mode":"url","elicitationId":"e","message":"m","url":"https://x","task":{}}}"#,
        );
        let inputs = [
            input(3, &asked),
            input(
                4,
                &message(r#"{"jsonrpc":"2.0","id":5,"method":"roots/list"}"#),
            ),
        ];
        let said = required(b"\"r\"", &inputs, Some("s"));
        assert_eq!(
            std::str::from_utf8(&said).expect("UTF-8"),
            r#"{"jsonrpc":"2.0","id":"r","result":{"resultType":"input_required","inputRequests":{"q3":{"method":"elicitation/create","params":{"mode":"url","message":"m","url":"https://x"}},"q4":{"method":"roots/list"}},"requestState":"s"}}"#
        );
        let retry = call(r#"{"inputResponses":{"q3":{"action":"accept"},"q4":7,"other":{}}}"#);
        let first = response(&retry, &inputs[0]).expect("an object");
        assert_eq!(first, Some(&br#"{"action":"accept"}"#[..]));
        assert!(response(&retry, &inputs[1]).is_err());
        assert!(response(&call("{}"), &inputs[0]).expect("none").is_none());
    }
}
