//! Which server a request is for, and under which name that server knows what it names.
//!
//! A session of one server is that server untouched. A merged session names things as
//! `server__thing` where more than one server is configured; the first `__` splits, and a server's
//! name cannot hold one, so every name is read back to exactly one server. Nothing here is a
//! policy: what a host may not do is decided on the route that comes out.

use std::sync::Arc;

use bytes::Bytes;
use chillgate_policies::engine::Call;
use chillgate_wire::{Envelope, Era, code, json};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::backend::{Backend, BackendError};
use crate::config::Prefix;
use crate::drain::Drain;
use crate::era::tasks;
use crate::exchange::Exchange;
use crate::gate::handles::Handles;
use crate::gate::inbound::Inbound;
use crate::gate::{Refusal, label};
use crate::map::Map;
use crate::session::{Scope, Session};

pub mod catalog;
pub mod cursor;
pub mod listen;
pub mod lists;
pub mod merge;

use listen::{LISTEN, Listen};
use merge::Merge;

/// A route, or why there is none.
pub type Selected = Result<Box<Route>, Box<Astray>>;

/// The server of a request, and the request as that server gets it.
#[derive(Debug)]
pub struct Route {
    /// What policies see.
    pub call: Arc<Call>,
    /// The method's label in metrics.
    pub label: &'static str,
    /// The name as the host spells it.
    pub shown: Option<Arc<str>>,
    /// Where it goes.
    pub backend: Arc<dyn Backend>,
    /// What goes there.
    pub request: Envelope,
    /// The built-in ChillMCP answers, so that its levels are worth recording.
    pub is_chill: bool,
}

impl Route {
    /// It goes no further.
    pub fn astray(self, refusal: Refusal) -> Astray {
        Astray {
            call: Call::clone(&self.call),
            label: self.label,
            refusal,
        }
    }
}

/// A request that leads nowhere: it names nothing that exists, or may not go on.
#[derive(Debug)]
pub struct Astray {
    /// What the audit log sees.
    pub call: Call,
    /// The method's label in metrics.
    pub label: &'static str,
    /// Why.
    pub refusal: Refusal,
}

impl Astray {
    /// A request that ends here.
    pub fn new(exchange: &Exchange, inbound: Inbound, refusal: Refusal) -> Self {
        let server = Arc::from("*");
        let target = inbound.target.clone();
        let call = call_of(exchange, inbound, server, target);
        Self {
            label: label(&call.method),
            call,
            refusal,
        }
    }
}

/// All servers of a generation.
#[derive(Debug)]
pub struct Routes {
    servers: Vec<Arc<dyn Backend>>,
    by_name: Map<Arc<str>, usize>,
    chill: Vec<Arc<str>>,
    merge: Arc<dyn Backend>,
    access: lists::Access,
    tasks: TaskTracker,
    drain: Drain,
    superseded: CancellationToken,
}

impl Routes {
    /// The servers in the order in which lists show them; `chill` names the built-in ones.
    pub fn new(
        servers: Vec<Arc<dyn Backend>>,
        chill: Vec<Arc<str>>,
        access: lists::Access,
        tasks: TaskTracker,
        drain: Drain,
    ) -> Self {
        let by_name = servers
            .iter()
            .enumerate()
            .map(|(at, server)| (server.name().clone(), at))
            .collect();
        let merge = Arc::new(Merge::new(servers.clone(), access.clone(), tasks.clone()));
        Self {
            servers,
            by_name,
            chill,
            merge,
            access,
            tasks,
            drain,
            superseded: CancellationToken::new(),
        }
    }

    /// Other servers have taken their place: whoever listens to these is told that it is over.
    pub fn supersede(&self) {
        self.superseded.cancel();
    }

    /// All servers.
    pub fn all(&self) -> &[Arc<dyn Backend>] {
        &self.servers
    }

    /// The server of this name.
    pub fn get(&self, name: &str) -> Option<&Arc<dyn Backend>> {
        self.by_name.get(name).map(|at| &self.servers[*at])
    }

    /// The servers a session's notifications are for.
    pub fn of(&self, session: &Session) -> Result<&[Arc<dyn Backend>], Refusal> {
        match &session.scope {
            Scope::Merged(_) => Ok(&self.servers),
            Scope::One(name) => match self.by_name.get(name) {
                Some(at) => Ok(std::slice::from_ref(&self.servers[*at])),
                None => Err(Refusal::NoServer(name.clone())),
            },
        }
    }

    /// The route of a request.
    pub async fn select(
        &self,
        exchange: &Arc<Exchange>,
        inbound: Box<Inbound>,
        handles: &Handles,
    ) -> Selected {
        let session = &exchange.session;
        let prefix = match &session.scope {
            Scope::One(name) => {
                let server = self.get(name).cloned();
                return match server {
                    Some(server) if &*inbound.method == LISTEN => {
                        let followed = self.followed(exchange, &inbound, handles);
                        let servers = vec![server.clone()];
                        let listen = self.listen(server.name(), servers, followed);
                        Ok(self.to(exchange, *inbound, listen, None))
                    }
                    Some(server) => self.known(exchange, inbound, server, None).await,
                    None => astray(exchange, *inbound, Refusal::NoServer(name.clone())),
                };
            }
            Scope::Merged(prefix) => *prefix,
        };
        match &*inbound.method {
            "tools/call" | "prompts/get" => self.by_thing(exchange, inbound, prefix).await,
            // What may have to ask servers first is boxed, so that a call stays small.
            "completion/complete" => Box::pin(self.by_reference(exchange, inbound, prefix)).await,
            "resources/read" | "resources/subscribe" | "resources/unsubscribe" => {
                let Some(uri) = inbound.target.clone() else {
                    return astray(exchange, *inbound, missing("uri"));
                };
                match Box::pin(self.by_uri(exchange, &uri)).await {
                    Ok(server) => Ok(self.to(exchange, *inbound, server, None)),
                    Err(refusal) => astray(exchange, *inbound, refusal),
                }
            }
            LISTEN => {
                let followed = self.followed(exchange, &inbound, handles);
                let servers = self.servers.clone();
                let listen = self.listen(self.merge.name(), servers, followed);
                Ok(self.to(exchange, *inbound, listen, None))
            }
            method if Merge::answers(method) => {
                Ok(self.to(exchange, *inbound, self.merge.clone(), None))
            }
            method => {
                // A task is where it was made; no other is known here.
                let is_about_task = method.starts_with("tasks/");
                let task = inbound.target.as_deref().filter(|_| is_about_task);
                let maker = task.and_then(|task| handles.maker(&session.subject, task));
                let maker = match (maker, self.servers.as_slice()) {
                    (Some(maker), _) => self.get(&maker).cloned(),
                    (None, [only]) if task.is_some() && session.era() == Era::Modern => {
                        Some(only.clone())
                    }
                    (None, _) => None,
                };
                if let Some(maker) = maker {
                    return Ok(self.to(exchange, *inbound, maker, None));
                }
                let (code, message) = if is_about_task && session.era() == Era::Modern {
                    let text = "Invalid params: there is no such task".to_owned();
                    (code::INVALID_PARAMS, text)
                } else {
                    let text = format!("Method not found: {}", inbound.method);
                    (code::METHOD_NOT_FOUND, text)
                };
                let refusal = Refusal::Answered {
                    code,
                    message,
                    data: None,
                };
                astray(exchange, *inbound, refusal)
            }
        }
    }

    /// The tasks that a request to listen names, as far as they are its agent's own: of others there
    /// is nothing to hear.
    fn followed(
        &self,
        exchange: &Exchange,
        inbound: &Inbound,
        handles: &Handles,
    ) -> Vec<(String, Arc<dyn Backend>)> {
        let session = &exchange.session;
        if !tasks::are_declared(session.capabilities()) {
            return Vec::new();
        }
        let Ok(filter) = listen::Filter::read(&inbound.request) else {
            return Vec::new();
        };
        let reachable = self.of(session).unwrap_or_default();
        let maker = |task: &str| {
            let maker = handles.maker(&session.subject, task)?;
            reachable.iter().find(|server| *server.name() == maker)
        };
        let tasks = filter.tasks.into_iter();
        tasks
            .filter_map(|task| maker(&task).cloned().map(|server| (task, server)))
            .collect()
    }

    fn listen(
        &self,
        name: &Arc<str>,
        servers: Vec<Arc<dyn Backend>>,
        followed: Vec<(String, Arc<dyn Backend>)>,
    ) -> Arc<dyn Backend> {
        let (access, tasks) = (self.access.clone(), self.tasks.clone());
        let ends = (self.drain.clone(), self.superseded.clone());
        Arc::new(Listen::new(
            name.clone(),
            servers,
            followed,
            access,
            tasks,
            ends,
        ))
    }

    async fn by_thing(
        &self,
        exchange: &Arc<Exchange>,
        inbound: Box<Inbound>,
        prefix: Prefix,
    ) -> Selected {
        let Some(shown) = inbound.target.clone() else {
            return astray(exchange, *inbound, missing("name"));
        };
        if let Some((server, name)) = self.find(exchange, &inbound.method, &shown, prefix).await {
            let rename =
                (name != &*shown).then(|| (["params", "name"].as_slice(), name.to_owned()));
            self.known(exchange, inbound, server, rename).await
        } else {
            let refusal = unknown(&inbound.method, &shown);
            astray(exchange, *inbound, refusal)
        }
    }

    /// The server of a shown name, and the name it knows.
    async fn find<'s>(
        &self,
        exchange: &Arc<Exchange>,
        method: &str,
        shown: &'s str,
        prefix: Prefix,
    ) -> Option<(Arc<dyn Backend>, &'s str)> {
        if prefixed(prefix, self.servers.len()) {
            let (server, name) = shown.split_once("__")?;
            return Some((self.get(server)?.clone(), name));
        }
        if let [only] = self.servers.as_slice() {
            return Some((only.clone(), shown));
        }
        let kind = if method == "tools/call" {
            "tools/list"
        } else {
            "prompts/list"
        };
        let server = Box::pin(catalog::owner(exchange, &self.servers, kind, shown)).await?;
        Some((server, shown))
    }

    /// Where access is restricted, a name that the server does not list gets chillgate's own
    /// answer, so that it cannot be told from one that is denied.
    async fn known(
        &self,
        exchange: &Arc<Exchange>,
        inbound: Box<Inbound>,
        server: Arc<dyn Backend>,
        rename: Option<(&[&str], String)>,
    ) -> Selected {
        let list = match &*inbound.method {
            "tools/call" => "tools/list",
            "prompts/get" => "prompts/list",
            "completion/complete" if self.access.cuts() => {
                return Box::pin(self.referred(exchange, inbound, server, rename)).await;
            }
            _ => return Ok(self.to(exchange, *inbound, server, rename)),
        };
        if let (true, Some(shown)) = (self.access.cuts(), inbound.target.clone()) {
            let name = rename.as_ref().map_or(&*shown, |(_, name)| name.as_str());
            if !Box::pin(catalog::has(exchange, &server, list, name)).await {
                let refusal = unknown(&inbound.method, &shown);
                return astray(exchange, *inbound, refusal);
            }
        }
        Ok(self.to(exchange, *inbound, server, rename))
    }

    /// What completion refers to is hidden like anything else, and then as unknown.
    async fn referred(
        &self,
        exchange: &Arc<Exchange>,
        inbound: Box<Inbound>,
        server: Arc<dyn Backend>,
        rename: Option<(&[&str], String)>,
    ) -> Selected {
        let text = |member| {
            let text = inbound.request.text(&["params", "ref", member]);
            text.map(std::borrow::Cow::into_owned)
        };
        let shows = |list, name: &str| self.access.shows(exchange, server.name(), list, name);
        let refusal = if let Some(shown) = text("name") {
            let name = rename.as_ref().map_or(&*shown, |(_, name)| name.as_str());
            let list = "prompts/list";
            let is_there = shows(list, name) && catalog::has(exchange, &server, list, name).await;
            (!is_there).then(|| unknown("prompts/get", &shown))
        } else {
            let hidden = text("uri").filter(|uri| !shows("resources/list", uri));
            hidden.map(|uri| not_found(&uri))
        };
        match refusal {
            Some(refusal) => astray(exchange, *inbound, refusal),
            None => Ok(self.to(exchange, *inbound, server, rename)),
        }
    }

    async fn by_reference(
        &self,
        exchange: &Arc<Exchange>,
        inbound: Box<Inbound>,
        prefix: Prefix,
    ) -> Selected {
        let text = |member| {
            inbound
                .request
                .text(&["params", "ref", member])
                .map(std::borrow::Cow::into_owned)
        };
        let (name, uri) = (text("name"), text("uri"));
        if let Some(name) = name {
            return match self.find(exchange, "prompts/get", &name, prefix).await {
                Some((server, bare)) => {
                    let rename = (bare != name)
                        .then(|| (["params", "ref", "name"].as_slice(), bare.to_owned()));
                    self.known(exchange, inbound, server, rename).await
                }
                None => astray(exchange, *inbound, unknown("prompts/get", &name)),
            };
        }
        let Some(uri) = uri else {
            return astray(exchange, *inbound, missing("ref"));
        };
        match self.by_uri(exchange, &uri).await {
            Ok(server) => self.known(exchange, inbound, server, None).await,
            Err(refusal) => astray(exchange, *inbound, refusal),
        }
    }

    /// Resource URIs stay as they are, so their server is the one that lists them, or the only
    /// one whose templates they fit.
    async fn by_uri(
        &self,
        exchange: &Arc<Exchange>,
        uri: &str,
    ) -> Result<Arc<dyn Backend>, Refusal> {
        if let [only] = self.servers.as_slice() {
            return Ok(only.clone());
        }
        let servers = self.access.readable(exchange, &self.servers, uri);
        let owner = catalog::owner_of_uri(exchange, &servers, uri).await;
        owner.map_err(|owners| {
            if owners.is_empty() {
                return not_found(uri);
            }
            let paths: Vec<String> = owners
                .iter()
                .map(|name| format!("/server/{name}/mcp"))
                .collect();
            Refusal::Answered {
                code: code::INVALID_PARAMS,
                message: format!(
                    "Several servers have {uri}; ask one of them at {}",
                    paths.join(" or ")
                ),
                data: None,
            }
        })
    }

    fn to(
        &self,
        exchange: &Exchange,
        inbound: Inbound,
        backend: Arc<dyn Backend>,
        rename: Option<(&[&str], String)>,
    ) -> Box<Route> {
        let request = match &rename {
            None => inbound.request.clone(),
            Some((path, name)) => {
                let mut edit = inbound.request.edit();
                edit.set(path, json::quote(name).into_bytes());
                edit.finish()
            }
        };
        let target = match rename {
            Some((_, name)) => Some(Arc::from(name)),
            None => inbound.target.clone(),
        };
        let is_chill = self.chill.iter().any(|name| *name == *backend.name());
        let shown = inbound.target.clone();
        let call = Arc::new(call_of(exchange, inbound, backend.name().clone(), target));
        Box::new(Route {
            label: label(&call.method),
            call,
            shown,
            backend,
            request,
            is_chill,
        })
    }
}

fn astray(exchange: &Exchange, inbound: Inbound, refusal: Refusal) -> Selected {
    Err(Box::new(Astray::new(exchange, inbound, refusal)))
}

/// What policies see of a request.
fn call_of(
    exchange: &Exchange,
    inbound: Inbound,
    server: Arc<str>,
    target: Option<Arc<str>>,
) -> Call {
    let session = &exchange.session;
    Call {
        agent: session.agent.name.clone(),
        grants: exchange.grants.clone(),
        server,
        method: inbound.method,
        target,
        arguments: inbound.arguments,
        id: Some(match session.era() {
            // No copy: the arguments keep the message as long.
            Era::Legacy => inbound
                .request
                .id_bytes()
                .map_or_else(Bytes::new, |id| inbound.request.raw().slice_ref(id)),
            Era::Modern => Bytes::copy_from_slice(exchange.host_id.as_bytes()),
        }),
        bytes_in: inbound.bytes as u64,
        deadline: inbound.deadline,
        context: session.context.clone(),
    }
}

/// Whether so many servers' names are shown with their server's.
pub fn prefixed(prefix: Prefix, servers: usize) -> bool {
    match prefix {
        Prefix::Auto => servers > 1,
        Prefix::Always => true,
        Prefix::Never => false,
    }
}

/// What chillgate itself answers about a name that nobody has.
pub(crate) fn unknown(method: &str, name: &str) -> Refusal {
    let noun = if method == "tools/call" {
        "tool"
    } else {
        "prompt"
    };
    Refusal::Answered {
        code: code::INVALID_PARAMS,
        message: format!("Unknown {noun}: {name}"),
        data: None,
    }
}

/// The same about a resource.
fn not_found(uri: &str) -> Refusal {
    Refusal::Answered {
        code: code::RESOURCE_NOT_FOUND,
        message: format!("Resource not found: {uri}"),
        data: None,
    }
}

fn missing(member: &str) -> Refusal {
    Refusal::Answered {
        code: code::INVALID_PARAMS,
        message: format!("Invalid params: `{member}` is missing or no string"),
        data: None,
    }
}

/// An answer that chillgate writes itself.
pub(crate) fn own(raw: bytes::Bytes) -> Result<Envelope, BackendError> {
    let limits = chillgate_wire::Limits {
        message: usize::MAX,
        depth: 1024,
        ..Default::default()
    };
    Envelope::parse(raw, &limits).map_err(|fault| BackendError::Invalid {
        server: Arc::from("*"),
        cause: fault.to_string(),
    })
}
