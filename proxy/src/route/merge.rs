//! All servers as one: `initialize`, `ping`, log levels and lists of a merged session.
//!
//! Never waits for a slow server longer than it must, and leaves a broken one out; what is left
//! out is in the log and in `/readyz`, and comes back with a list change. Calls are not its
//! business: they go straight to their server.

use std::collections::HashMap;
use std::fmt::Write;
use std::sync::Arc;
use std::time::Duration;

use chillgate_wire::{Envelope, code, json, message, method};
use tokio_util::task::TaskTracker;
use tracing::warn;

use crate::backend::said::{no_level, severity};
use crate::backend::{Backend, BackendError, Passage};
use crate::era::server::discovered;
use crate::era::tasks;
use crate::exchange::Exchange;
use crate::route::catalog::{self, PATIENCE};
use crate::route::lists::{self, Access, each, naming_member, push_entry};
use crate::route::{cursor, own, prefixed};
use crate::session::{Scope, Session};

/// How long it is waited for by a session that has missed it before.
const GLANCE: Duration = Duration::from_millis(200);
/// How much of one server's instructions a merged session shows.
const INSTRUCTIONS: usize = 4096;

/// All servers of a generation behind one.
#[derive(Debug)]
pub struct Merge {
    name: Arc<str>,
    servers: Vec<Arc<dyn Backend>>,
    access: Access,
    tasks: TaskTracker,
}

impl Merge {
    /// The servers in the order in which lists show them.
    pub fn new(servers: Vec<Arc<dyn Backend>>, access: Access, tasks: TaskTracker) -> Self {
        Self {
            name: Arc::from("*"),
            servers,
            access,
            tasks,
        }
    }

    /// The methods that it answers for all servers.
    pub fn answers(method: &str) -> bool {
        matches!(
            method,
            "initialize" | "server/discover" | "ping" | "logging/setLevel"
        ) || method::is_list(method).is_some()
    }

    /// Written from what is configured, whatever the servers do.
    fn initialize(&self, session: &Session, has_tasks: bool) -> String {
        let mut instructions = String::new();
        for server in &self.servers {
            if let Some(text) = server.instructions() {
                let cut = text
                    .char_indices()
                    .nth(INSTRUCTIONS)
                    .map_or(text.len(), |(at, _)| at);
                let gap = if instructions.is_empty() { "" } else { "\n\n" };
                let _ = write!(instructions, "{gap}## {}\n{}", server.name(), &text[..cut]);
            }
        }
        let instructions = if instructions.is_empty() {
            String::new()
        } else {
            format!(r#","instructions":{}"#, json::quote(&instructions))
        };
        // What can be asked for here alone is offered (R-081).
        let tasks = if has_tasks {
            format!(r#","tasks":{}"#, tasks::offer())
        } else {
            String::new()
        };
        format!(
            r#"{{"protocolVersion":"{}","capabilities":{{"tools":{{"listChanged":true}},"prompts":{{"listChanged":true}},"resources":{{"subscribe":true,"listChanged":true}},"completions":{{}},"logging":{{}}{tasks}}},"serverInfo":{{"name":"chillgate","version":"{}"}}{instructions}}}"#,
            session.revision.as_str(),
            env!("CARGO_PKG_VERSION"),
        )
    }

    /// Whether one of the servers has tasks, for a host that knows what to do with them; a server that
    /// does not say so in time has none.
    async fn has_tasks(&self, exchange: &Arc<Exchange>) -> bool {
        if !tasks::are_declared(exchange.session.capabilities()) {
            return false;
        }
        let asking = self
            .servers
            .iter()
            .map(|server| catalog::ask(exchange, server, "server/discover", b"{}", 0));
        let said = futures_util::future::join_all(asking).await;
        let mut said = said.iter().flatten().filter_map(Envelope::result);
        said.any(tasks::are_offered)
    }

    async fn set_level(&self, exchange: &Arc<Exchange>, request: &Envelope) -> Said {
        let level = request
            .text(&["params", "level"])
            .and_then(|name| severity(&name));
        let Some(level) = level else {
            return Err((code::INVALID_PARAMS, no_level("level")));
        };
        exchange.session.set_log_level(level);
        // Servers without logging refuse, and that is fine.
        let telling = self.servers.iter().map(|server| async {
            let call = server.call(exchange, request, Passage::default());
            let _ = tokio::time::timeout(PATIENCE, call).await;
        });
        futures_util::future::join_all(telling).await;
        Ok("{}".to_owned())
    }

    async fn list(&self, exchange: &Arc<Exchange>, request: &Envelope) -> Said {
        let session = &exchange.session;
        let list = method::known(request.method().unwrap_or_default()).unwrap_or_default();
        let (Some(member), Scope::Merged(prefix)) = (method::is_list(list), &session.scope) else {
            return Err((code::METHOD_NOT_FOUND, format!("Method not found: {list}")));
        };
        let places = match request.text(&["params", "cursor"]) {
            None => None,
            Some(sealed) => match cursor::open(&session.ring(), &session.reader(), list, &sealed) {
                Some(places) => Some(places.into_iter().collect::<HashMap<_, _>>()),
                None => {
                    return Err((
                        code::INVALID_PARAMS,
                        "Invalid params: `cursor` is not one of this list; start again without"
                            .to_owned(),
                    ));
                }
            },
        };
        let asking = self.servers.iter().map(|server| {
            let place = match &places {
                None => Place::Start,
                Some(places) => places
                    .get(&**server.name())
                    .map_or(Place::End, |at| Place::At(at)),
            };
            self.page(exchange, server, request, place)
        });
        let pages = futures_util::future::join_all(asking).await;
        let is_prefixed =
            prefixed(*prefix, self.servers.len()) && matches!(list, "tools/list" | "prompts/list");
        let mut owners: HashMap<String, usize> = HashMap::new();
        if !is_prefixed {
            for page in pages.iter().flatten() {
                for entry in page.entries(member, list) {
                    *owners
                        .entry(entry.name.unwrap_or_default().into_owned())
                        .or_default() += 1;
                }
            }
        }
        let mut entries = Vec::new();
        let mut more = Vec::new();
        for (server, page) in self.servers.iter().zip(&pages) {
            let Some(page) = page else { continue };
            for entry in page.entries(member, list) {
                let Some(name) = entry.name.as_deref() else {
                    continue;
                };
                if self.access.cuts() && !self.access.shows(exchange, server.name(), list, name) {
                    continue;
                }
                if is_prefixed {
                    let shown = format!("{}__{name}", server.name());
                    push_entry(
                        &mut entries,
                        entry.bytes,
                        entry.at.map(|at| (at, shown.as_str())),
                    );
                } else if owners.get(name).is_some_and(|owners| *owners > 1)
                    && list != "resources/list"
                    && list != "resources/templates/list"
                {
                    // Two servers, one name, no prefix: neither is shown, none is called by chance.
                    warn!(server = %server.name(), name, "Two servers offer one name; set `prefix`.");
                } else {
                    push_entry(&mut entries, entry.bytes, None);
                }
            }
            if let Some(next) = &page.next {
                more.push((server.name().to_string(), next.clone()));
            }
        }
        let entries = String::from_utf8_lossy(&entries).into_owned();
        Ok(format!(
            r#"{{"{member}":[{entries}]{}}}"#,
            cursor::member(&session.ring(), &session.reader(), list, &more)
        ))
    }

    /// One page of one server; `None` when it has no more, or does not answer.
    async fn page(
        &self,
        exchange: &Arc<Exchange>,
        server: &Arc<dyn Backend>,
        request: &Envelope,
        place: Place<'_>,
    ) -> Option<Page> {
        let request = match place {
            Place::Start => request.clone(),
            Place::End => return None,
            Place::At(own) => {
                let mut edit = request.edit();
                edit.set(&["params", "cursor"], json::quote(own).into_bytes());
                edit.finish()
            }
        };
        let patience = if exchange.session.misses(server.name()) {
            GLANCE
        } else {
            PATIENCE
        };
        let call = server.call(exchange, &request, Passage::default());
        match tokio::time::timeout(patience, call).await {
            Ok(Ok(answer)) if answer.result().is_some() => {
                catalog::note(&exchange.session, server.name(), &answer);
                Some(Page::of(answer))
            }
            // It has no such list.
            Ok(Ok(_)) => None,
            Ok(Err(error)) => {
                warn!(server = %server.name(), cause = %error, "Left a server out of a list.");
                self.watch(exchange, server);
                None
            }
            Err(_) => {
                warn!(server = %server.name(), "Left a slow server out of a list.");
                self.watch(exchange, server);
                None
            }
        }
    }

    /// Tells the session once the server that was left out is back.
    fn watch(&self, exchange: &Arc<Exchange>, server: &Arc<dyn Backend>) {
        let session = &exchange.session;
        if !session.missed(server.name()) {
            return;
        }
        let (exchange, server) = (exchange.clone(), server.clone());
        self.tasks.spawn(async move {
            let session = &exchange.session;
            let mut pause = Duration::from_secs(1);
            while !session.is_over() {
                if catalog::answers(&exchange, &server).await {
                    session.found(server.name());
                    tell_changes(session);
                    return;
                }
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(Duration::from_mins(1));
            }
        });
    }
}

/// Every list of a merged session may look different now.
pub fn tell_changes(session: &Session) {
    for list in ["tools", "prompts", "resources"] {
        let note = message::notification(&format!("notifications/{list}/list_changed"), None);
        if let Ok(note) = own(note) {
            // A host that reads nothing asks anew when it comes back.
            let _ = session.tell(note);
        }
    }
}

/// A result as text, or a code and a message.
type Said = Result<String, (i64, String)>;

/// Where a server's list goes on.
#[derive(Clone, Copy)]
enum Place<'a> {
    Start,
    At(&'a str),
    End,
}

/// One server's page.
struct Page {
    answer: Envelope,
    next: Option<String>,
}

impl Page {
    fn of(answer: Envelope) -> Self {
        let next = answer
            .text(&["result", "nextCursor"])
            .map(std::borrow::Cow::into_owned);
        Self { answer, next }
    }

    fn entries<'a>(
        &'a self,
        member: &'a str,
        list: &'a str,
    ) -> impl Iterator<Item = lists::Entry<'a>> + 'a {
        let entries = self.answer.get(&["result", member]).unwrap_or(b"[]");
        each(entries, naming_member(list))
    }
}

#[async_trait::async_trait]
impl Backend for Merge {
    fn name(&self) -> &Arc<str> {
        &self.name
    }

    async fn call(
        &self,
        exchange: &Arc<Exchange>,
        request: &Envelope,
        _: Passage,
    ) -> Result<Envelope, BackendError> {
        let result = match request.method().unwrap_or_default() {
            // The ids of tasks name no server, so the hosts of older eras, who share them in lists,
            // have none here.
            "initialize" => Ok(self.initialize(&exchange.session, false)),
            "server/discover" => {
                let has_tasks = self.has_tasks(exchange).await;
                Ok(self.initialize(&exchange.session, has_tasks))
            }
            "ping" => Ok("{}".to_owned()),
            "logging/setLevel" => self.set_level(exchange, request).await,
            _ => self.list(exchange, request).await,
        };
        let id = exchange.id.as_bytes();
        let answer = own(match result {
            Ok(result) => message::result(id, result.as_bytes()),
            Err((code, text)) => message::error(Some(id), code, &text, None),
        });
        match request.method() {
            Some("server/discover") => answer.map(|greeting| discovered(&greeting)),
            _ => answer,
        }
    }
}
