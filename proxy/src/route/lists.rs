//! Lists as a host may see them: what it may not call is not shown, names bear their server's.
//!
//! The same policy function that decides calls decides what is shown. A list that nothing changes
//! stays byte for byte as the server wrote it.

use std::sync::Arc;

use bytes::Bytes;
use chillgate_policies::engine::{Call, Chain};
use chillgate_wire::{Envelope, json, message, method};

use crate::backend::Backend;
use crate::exchange::Exchange;
use crate::route::Route;
use crate::snapshot::Snapshot;

/// Decides what a list may show.
#[derive(Clone, Debug)]
pub struct Access(pub Arc<Chain>);

impl Access {
    /// Whether any list could be cut at all.
    pub fn cuts(&self) -> bool {
        self.0.screens_lists()
    }

    /// Whether the host of this exchange may see `name` in the list of `method` from `server`.
    pub fn shows(&self, exchange: &Exchange, server: &Arc<str>, method: &str, name: &str) -> bool {
        let session = &exchange.session;
        let call = Call {
            agent: session.agent.name.clone(),
            grants: exchange.grants.clone(),
            server: server.clone(),
            method: Arc::from(call_of(method)),
            target: Some(Arc::from(name)),
            arguments: None,
            id: None,
            bytes_in: 0,
            deadline: None,
            context: session.context.clone(),
        };
        self.0.visible(&call)
    }
}

impl Access {
    /// The servers at which the host may read this resource: elsewhere it does not exist for it,
    /// here as in lists.
    pub fn readable(
        &self,
        exchange: &Exchange,
        servers: &[Arc<dyn Backend>],
        uri: &str,
    ) -> Vec<Arc<dyn Backend>> {
        let may_read = |server: &&Arc<dyn Backend>| {
            !self.cuts() || self.shows(exchange, server.name(), "resources/list", uri)
        };
        servers.iter().filter(may_read).cloned().collect()
    }
}

/// The call that an entry of the list offers.
fn call_of(list: &str) -> &'static str {
    match list {
        "tools/list" => "tools/call",
        "prompts/list" => "prompts/get",
        _ => "resources/read",
    }
}

/// The member that names an entry of the list.
pub fn naming_member(list: &str) -> &'static str {
    match list {
        "resources/list" => "uri",
        "resources/templates/list" => "uriTemplate",
        _ => "name",
    }
}

/// The answer of a single server to a list request, as its host may see it.
pub fn screen(
    snapshot: &Snapshot,
    exchange: &Exchange,
    route: &Route,
    answer: Envelope,
) -> Envelope {
    let name = route.call.method.as_ref();
    // The merged list has been put together from entries that may be shown.
    let is_own = &*route.call.server != "*";
    let list = method::is_list(name).filter(|_| is_own);
    if list.is_some() {
        super::catalog::note(&exchange.session, &route.call.server, &answer);
    }
    if !snapshot.access.cuts() {
        return answer;
    }
    let shown = match list {
        Some(member) => cut(snapshot, exchange, route, member, answer),
        None => answer,
    };
    // What one agent may see is not what all may keep (R-089).
    if shown.text(&["result", "cacheScope"]).as_deref() != Some("public") {
        return shown;
    }
    let mut edit = shown.edit();
    edit.set(&["result", "cacheScope"], br#""private""#);
    edit.finish()
}

/// A list without what its host may not use.
fn cut(
    snapshot: &Snapshot,
    exchange: &Exchange,
    route: &Route,
    member: &str,
    answer: Envelope,
) -> Envelope {
    let name = route.call.method.as_ref();
    let Some(result) = answer.result() else {
        return answer;
    };
    let Some(at) = json::member(result, member) else {
        return answer;
    };
    let entries = &result[at.clone()];
    let mut kept = Vec::with_capacity(entries.len());
    let mut cut = false;
    for entry in each(entries, naming_member(name)) {
        if entry.name.as_deref().is_some_and(|shown| {
            !snapshot
                .access
                .shows(exchange, &route.call.server, name, shown)
        }) {
            cut = true;
            continue;
        }
        push_entry(&mut kept, entry.bytes, None);
    }
    if !cut {
        return answer;
    }
    let mut whole = Vec::with_capacity(result.len());
    whole.extend_from_slice(&result[..at.start]);
    whole.push(b'[');
    whole.extend_from_slice(&kept);
    whole.push(b']');
    whole.extend_from_slice(&result[at.end..]);
    let raw: Bytes = message::result(exchange.id.as_bytes(), &whole);
    super::own(raw).unwrap_or(answer)
}

/// One entry of a list.
pub struct Entry<'a> {
    /// As the server wrote it.
    pub bytes: &'a [u8],
    /// Its name, when it has one that is a string.
    pub name: Option<std::borrow::Cow<'a, str>>,
    /// Where the name stands in `bytes`.
    pub at: Option<std::ops::Range<usize>>,
}

/// The entries of a JSON array, named by `member`.
pub fn each<'a>(entries: &'a [u8], member: &'a str) -> impl Iterator<Item = Entry<'a>> + 'a {
    json::items(entries).map(move |at| {
        let bytes = &entries[at];
        let at = json::member(bytes, member);
        let name = at.clone().and_then(|at| json::text(&bytes[at]));
        Entry { bytes, name, at }
    })
}

/// Adds an entry to a list under construction, under another name if one is given.
pub fn push_entry(
    list: &mut Vec<u8>,
    bytes: &[u8],
    rename: Option<(std::ops::Range<usize>, &str)>,
) {
    if !list.is_empty() {
        list.push(b',');
    }
    match rename {
        None => list.extend_from_slice(bytes),
        Some((at, name)) => {
            list.extend_from_slice(&bytes[..at.start]);
            list.extend_from_slice(json::quote(name).as_bytes());
            list.extend_from_slice(&bytes[at.end..]);
        }
    }
}
