//! Which server has what, learned from the lists a session has seen.
//!
//! Only names and URIs are kept, only for as long as the session lives, and only as many as fit.
//! Asked for something it has not seen, it reads the lists once more before it says no.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use chillgate_wire::mirror::{self, Param};
use chillgate_wire::{Envelope, Era, Id, json, message, method};
use memchr::memmem::Finder;

use crate::backend::{Backend, Passage};
use crate::exchange::Exchange;
use crate::route::lists::{each, naming_member};
use crate::session::Session;

/// How long a server that is still starting, or mute, is waited for.
pub const PATIENCE: Duration = Duration::from_secs(5);
/// Names kept for one list of one server.
const NAMES: usize = 10_000;
/// Pages read of one list.
const PAGES: usize = 100;

/// What a session has learned.
#[derive(Debug, Default)]
pub struct Learned {
    /// List and server to names.
    names: HashMap<(&'static str, Arc<str>), HashSet<String>>,
    /// Server to its tools whose arguments have header fields.
    mirrored: HashMap<Arc<str>, HashMap<String, Arc<[Param]>>>,
}

impl Learned {
    fn known(&self, list: &'static str, server: &Arc<str>) -> Option<&HashSet<String>> {
        self.names.get(&(list, server.clone()))
    }

    /// A server's list has changed: what was learned of it is void.
    pub fn forget(&mut self, server: &str) {
        self.names.retain(|(_, of), _| **of != *server);
        self.mirrored.remove(server);
    }
}

static ANNOTATION: LazyLock<Finder<'static>> = LazyLock::new(|| Finder::new(b"x-mcp-header"));

/// Notes which arguments of a server's tools have header fields, from one page of its list.
pub fn note(session: &Session, server: &Arc<str>, answer: &Envelope) {
    let tools = answer.get(&["result", "tools"]);
    let known = || session.learned().mirrored.contains_key(server);
    let annotated = tools.filter(|tools| {
        session.era() == Era::Modern && (ANNOTATION.find(tools).is_some() || known())
    });
    for entry in annotated.into_iter().flat_map(|tools| each(tools, "name")) {
        let schema = json::member(entry.bytes, "inputSchema").map(|at| &entry.bytes[at]);
        // What is annotated wrongly is not mirrored by any host (R-220).
        let Some(name) = entry.name else { continue };
        let params = schema.and_then(|schema| mirror::declared(schema).ok());
        let params = params.unwrap_or_default();
        let mut learned = session.learned();
        let tools = learned.mirrored.entry(server.clone()).or_default();
        if params.is_empty() {
            tools.remove(&*name);
        } else if tools.len() < NAMES {
            tools.insert(name.into_owned(), params.into());
        }
    }
}

/// The arguments of a tool that have header fields, as far as its list has been seen; if `look`,
/// it is read where it has not.
pub async fn mirrored(
    exchange: &Arc<Exchange>,
    server: &Arc<dyn Backend>,
    tool: &str,
    look: bool,
) -> Arc<[Param]> {
    let name = server.name();
    let noted = || {
        let learned = exchange.session.learned();
        let params = learned.mirrored.get(name).and_then(|tools| tools.get(tool));
        params.cloned()
    };
    if noted().is_none()
        && look
        && exchange
            .session
            .learned()
            .known("tools/list", name)
            .is_none()
    {
        Box::pin(learn(exchange, server, "tools/list")).await;
    }
    noted().unwrap_or_default()
}

/// Reads all pages of a server's list and keeps the names. A server that does not answer has none.
async fn learn(
    exchange: &Arc<Exchange>,
    server: &Arc<dyn Backend>,
    list: &'static str,
) -> HashSet<String> {
    let mut names = HashSet::new();
    let mut cursor: Option<String> = None;
    for page in 0..PAGES {
        let params = match &cursor {
            Some(cursor) => format!(r#"{{"cursor":{}}}"#, json::quote(cursor)),
            None => "{}".to_owned(),
        };
        let Some(answer) = ask(exchange, server, list, params.as_bytes(), page).await else {
            break;
        };
        note(&exchange.session, server.name(), &answer);
        let Some(result) = answer.result() else { break };
        let entries = method::is_list(list).and_then(|member| json::member(result, member));
        for entry in entries
            .iter()
            .flat_map(|at| each(&result[at.clone()], naming_member(list)))
        {
            if let Some(name) = entry.name
                && names.len() < NAMES
            {
                names.insert(name.into_owned());
            }
        }
        cursor = json::member(result, "nextCursor")
            .and_then(|at| json::text(&result[at]).map(std::borrow::Cow::into_owned));
        if cursor.is_none() {
            break;
        }
    }
    let key = (list, server.name().clone());
    exchange.session.learned().names.insert(key, names.clone());
    names
}

/// One request on chillgate's own account, in the session of the exchange.
pub async fn ask(
    exchange: &Arc<Exchange>,
    server: &Arc<dyn Backend>,
    list: &str,
    params: &[u8],
    page: usize,
) -> Option<Envelope> {
    let id = Id::text(&format!("chillgate-{list}-{page}"));
    let own = Exchange::new(id, exchange.session.clone(), exchange.grants.clone(), 1);
    let raw = message::request(own.id.as_bytes(), list, Some(params));
    let request = super::own(raw).ok()?;
    let asking = server.call(&own, &request, Passage::default());
    tokio::time::timeout(PATIENCE, asking).await.ok()?.ok()
}

/// Whether the server answers at all; what had been learned of it is void then.
pub async fn answers(exchange: &Arc<Exchange>, server: &Arc<dyn Backend>) -> bool {
    let answer = ask(exchange, server, "ping", b"{}", 0).await;
    if answer.is_some() {
        exchange.session.learned().forget(server.name());
    }
    answer.is_some()
}

/// Whether the server lists this name; asks it when the session has not seen its list.
pub async fn has(
    exchange: &Arc<Exchange>,
    server: &Arc<dyn Backend>,
    list: &'static str,
    name: &str,
) -> bool {
    let known = exchange
        .session
        .learned()
        .known(list, server.name())
        .map(|names| names.contains(name));
    match known {
        Some(true) => true,
        // It may be new since.
        Some(false) | None => learn(exchange, server, list).await.contains(name),
    }
}

/// The only server that lists this name; two that do are nobody.
pub async fn owner(
    exchange: &Arc<Exchange>,
    servers: &[Arc<dyn Backend>],
    list: &'static str,
    name: &str,
) -> Option<Arc<dyn Backend>> {
    let looking = servers
        .iter()
        .map(|server| has(exchange, server, list, name));
    let found = futures_util::future::join_all(looking).await;
    let mut owners = servers
        .iter()
        .zip(found)
        .filter(|(_, has)| *has)
        .map(|(server, _)| server);
    match (owners.next(), owners.next()) {
        (Some(only), None) => Some(only.clone()),
        _ => None,
    }
}

/// The server of a resource; else the names of those that claim it: none or several.
pub async fn owner_of_uri(
    exchange: &Arc<Exchange>,
    servers: &[Arc<dyn Backend>],
    uri: &str,
) -> Result<Arc<dyn Backend>, Vec<Arc<str>>> {
    let listed: Vec<usize> = {
        let looking = servers
            .iter()
            .map(|server| has(exchange, server, "resources/list", uri));
        let found = futures_util::future::join_all(looking).await;
        found
            .iter()
            .enumerate()
            .filter(|(_, has)| **has)
            .map(|(at, _)| at)
            .collect()
    };
    let owners = if listed.is_empty() {
        let mut fitting = Vec::new();
        for (at, server) in servers.iter().enumerate() {
            let list = "resources/templates/list";
            let seen = exchange
                .session
                .learned()
                .known(list, server.name())
                .cloned();
            let templates = match seen {
                Some(templates) => templates,
                None => learn(exchange, server, list).await,
            };
            // The template itself is what completion refers to.
            if templates
                .iter()
                .any(|template| template == uri || fits(template, uri))
            {
                fitting.push(at);
            }
        }
        fitting
    } else {
        listed
    };
    match owners.as_slice() {
        [only] => Ok(servers[*only].clone()),
        owners => Err(owners
            .iter()
            .map(|at| servers[*at].name().clone())
            .collect()),
    }
}

/// Whether a URI can come from a URI template (RFC 6570): its literal parts occur in order, each
/// expression standing for at least one character.
fn fits(template: &str, uri: &str) -> bool {
    let mut parts = template.split(['{', '}']);
    let Some(mut rest) = parts.next().and_then(|literal| uri.strip_prefix(literal)) else {
        return false;
    };
    let mut open = false;
    // Literals and expressions alternate from here on.
    while let Some(_expression) = parts.next() {
        let literal = parts.next().unwrap_or_default();
        open = literal.is_empty();
        if open {
            if rest.is_empty() {
                return false;
            }
            continue;
        }
        // The last place: an expression takes as much as it can.
        let Some(at) = rest
            .char_indices()
            .skip(1)
            .map(|(at, _)| at)
            .filter(|at| rest[*at..].starts_with(literal))
            .last()
        else {
            return false;
        };
        rest = &rest[at + literal.len()..];
    }
    open || rest.is_empty()
}

#[cfg(test)]
mod tests {
    use super::fits;

    #[test]
    fn a_uri_fits_the_template_it_comes_from() {
        assert!(fits("demo://resource/{id}", "demo://resource/7"));
        assert!(fits("file:///{path}/x.txt", "file:///a/b/x.txt"));
        assert!(fits("a{b}{c}", "axy"));
        assert!(fits("plain", "plain"));
        assert!(!fits("demo://resource/{id}", "demo://resource/"));
        assert!(!fits("demo://resource/{id}", "demo://other/7"));
        assert!(!fits("file:///{path}/x.txt", "file:///a/b/y.txt"));
        assert!(!fits("plain", "plainer"));
    }
}
