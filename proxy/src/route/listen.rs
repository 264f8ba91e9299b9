//! `subscriptions/listen`: what a modern host hears of its servers, for as long as it listens.
//!
//! One long request in place of a session's own stream (2026-07-28, basic/patterns/subscriptions).
//! Servers of the old eras are opened for it, told which resources count, and opened again when
//! they end; what they say reaches it through the host's session. It sends only what was asked for
//! and acknowledged.

use std::borrow::Cow;
use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use chillgate_wire::{Envelope, Id, code, json, message, meta};
use futures_util::FutureExt;
use futures_util::future::join_all;
use serde_json::{Map, Value, json as value};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::debug;

use super::lists::Access;
use super::{catalog, own};
use crate::backend::{Backend, BackendError, Passage};
use crate::drain::Drain;
use crate::era::{rounds, tasks};
use crate::exchange::Exchange;
use crate::session::Heeded;

/// The method.
pub const LISTEN: &str = "subscriptions/listen";

/// Resources that one request may name.
const RESOURCES: usize = 100;
/// Tasks that one request may name.
const TASKS: usize = 100;
/// How often a task is looked at, where its server does not say; at least and at most.
const LOOK: Duration = Duration::from_secs(1);
const OFTEN: Duration = Duration::from_millis(250);
const SELDOM: Duration = Duration::from_secs(10);
/// How long a server that has ended is left alone, at most.
const PAUSE: Duration = Duration::from_secs(30);

/// How long at least.
const SOON: Duration = Duration::from_millis(100);
/// A server that has been there for so long counts as having worked.
const WORKED: Duration = Duration::from_secs(10);

/// What a host wants to hear of.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Filter {
    /// Lists whose changes it wants: `tools`, `prompts`, `resources`.
    pub lists: Vec<&'static str>,
    /// Resources whose updates it wants.
    pub resources: HashSet<String>,
    /// Tasks that it wants to follow: of the tasks extension.
    pub tasks: HashSet<String>,
}

/// Lists, and the members of a filter that stand for their changes.
pub const LISTS: [(&str, &str); 3] = [
    ("tools", "toolsListChanged"),
    ("prompts", "promptsListChanged"),
    ("resources", "resourcesListChanged"),
];

impl Filter {
    /// What a request, or the acknowledgement of one, names.
    ///
    /// # Errors
    /// It is none; in which way.
    pub fn read(request: &Envelope) -> Result<Self, String> {
        let filter = request.get(&["params", "notifications"]);
        let filter = filter.filter(|filter| json::is_object(filter));
        let filter = filter.ok_or("`notifications` is missing or no object")?;
        let mut wanted = Self::default();
        for (list, member) in LISTS {
            match json::member(filter, member).map(|at| &filter[at]) {
                None | Some(b"false") => {}
                Some(b"true") => wanted.lists.push(list),
                Some(_) => return Err(format!("`notifications.{member}` is no boolean")),
            }
        }
        wanted.resources = strings(filter, "resourceSubscriptions")?;
        wanted.tasks = strings(filter, "taskIds")?;
        Ok(wanted)
    }

    /// The same as it is asked for.
    pub fn written(&self) -> String {
        let mut members: Vec<String> = LISTS
            .iter()
            .filter(|(list, _)| self.lists.contains(list))
            .map(|(_, member)| format!(r#""{member}":true"#))
            .collect();
        for (member, named) in [
            ("resourceSubscriptions", &self.resources),
            ("taskIds", &self.tasks),
        ] {
            if !named.is_empty() {
                let mut named: Vec<_> = named.iter().map(|name| json::quote(name)).collect();
                named.sort();
                members.push(format!(r#""{member}":[{}]"#, named.join(",")));
            }
        }
        format!("{{{}}}", members.join(","))
    }

    fn bounded(self) -> Result<Self, String> {
        if self.resources.len() > RESOURCES {
            return Err(format!(
                "more than {RESOURCES} resources in one subscription"
            ));
        }
        if self.tasks.len() > TASKS {
            return Err(format!("more than {TASKS} tasks in one subscription"));
        }
        Ok(self)
    }

    /// Whether the host wants this notification.
    pub fn wants(&self, note: &Envelope) -> bool {
        let method = note.method().unwrap_or_default();
        if method == "notifications/resources/updated" {
            let uri = note.text(&["params", "uri"]);
            // A server may speak of a part of what was subscribed to.
            return uri.is_some_and(|uri| {
                self.resources.iter().any(|wanted| {
                    uri.strip_prefix(wanted.as_str())
                        .is_some_and(|rest| rest.is_empty() || rest.starts_with(['/', '#', '?']))
                })
            });
        }
        self.lists
            .iter()
            .any(|list| method == format!("notifications/{list}/list_changed"))
    }
}

/// The strings that a member of a filter lists; none where it is not there.
fn strings(filter: &[u8], member: &str) -> Result<HashSet<String>, String> {
    let Some(at) = json::member(filter, member) else {
        return Ok(HashSet::new());
    };
    let list = &filter[at];
    let wrong = || format!("`notifications.{member}` is no array of strings");
    if !json::is_array(list) {
        return Err(wrong());
    }
    let texts = json::items(list).map(|at| json::text(&list[at]).map(Cow::into_owned));
    texts.collect::<Option<_>>().ok_or_else(wrong)
}

/// The servers that one request listens to.
#[derive(Debug)]
pub struct Listen {
    name: Arc<str>,
    servers: Vec<Arc<dyn Backend>>,
    /// The tasks of its agent that it names, and where they are.
    followed: Vec<(String, Arc<dyn Backend>)>,
    access: Access,
    tasks: TaskTracker,
    /// What ends it: chillgate stops, or has other servers.
    ends: (Drain, CancellationToken),
}

/// What is known of one server: nothing yet, or what it can tell of.
type Offered = Option<Filter>;

impl Listen {
    /// To these servers, under the name that records give them.
    pub fn new(
        name: Arc<str>,
        servers: Vec<Arc<dyn Backend>>,
        followed: Vec<(String, Arc<dyn Backend>)>,
        access: Access,
        tasks: TaskTracker,
        ends: (Drain, CancellationToken),
    ) -> Self {
        Self {
            name,
            servers,
            followed,
            access,
            tasks,
            ends,
        }
    }

    /// The wanted resources of each server, by its place.
    async fn shares(&self, exchange: &Arc<Exchange>, wanted: &Filter) -> Vec<HashSet<String>> {
        let mut shares = vec![HashSet::new(); self.servers.len()];
        for uri in &wanted.resources {
            let servers = self.access.readable(exchange, &self.servers, uri);
            let owner = match servers.as_slice() {
                [only] if self.servers.len() == 1 => Some(only.clone()),
                servers => catalog::owner_of_uri(exchange, servers, uri).await.ok(),
            };
            let at = owner.and_then(|owner| {
                self.servers
                    .iter()
                    .position(|server| Arc::ptr_eq(server, &owner))
            });
            if let Some(at) = at {
                shares[at].insert(uri.clone());
            }
        }
        shares
    }

    /// Keeps one server open and subscribed to, for as long as it is polled.
    async fn attend(
        &self,
        server: &Arc<dyn Backend>,
        exchange: &Arc<Exchange>,
        uris: HashSet<String>,
        offered: watch::Sender<Offered>,
    ) {
        let held = Held::new(server, exchange, uris, &self.tasks);
        let mut pause = SOON;
        loop {
            match server.attend(&exchange.session).await {
                Ok(attended) => {
                    let mut can = Filter::default();
                    for (list, _) in LISTS {
                        let path = ["capabilities", list, "listChanged"];
                        let can_tell = json::path(&attended.said, &path);
                        if can_tell.is_some_and(|at| &attended.said[at] == b"true") {
                            can.lists.push(list);
                        }
                    }
                    for uri in &held.uris {
                        if subscribe(server, exchange, "resources/subscribe", uri).await {
                            can.resources.insert(uri.clone());
                        }
                    }
                    offered.send_replace(Some(can));
                    let since = tokio::time::Instant::now();
                    attended.ended.await;
                    if since.elapsed() > WORKED {
                        pause = SOON;
                    }
                }
                Err(error) => {
                    debug!(server = %server.name(), %error, "Nobody hears this server.");
                    if offered.borrow().is_none() {
                        offered.send_replace(Some(Filter::default()));
                    }
                }
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(PAUSE);
        }
    }

    /// What the servers can tell of all that is wanted, as far as they say so in time.
    async fn agree(&self, wanted: &Filter, offers: &mut [watch::Receiver<Offered>]) -> Filter {
        let deadline = tokio::time::Instant::now() + catalog::PATIENCE;
        let mut agreed = Filter::default();
        for offer in offers {
            let said = offer.wait_for(Option::is_some);
            if let Ok(Ok(said)) = tokio::time::timeout_at(deadline, said).await
                && let Some(said) = &*said
            {
                agreed.resources.extend(said.resources.iter().cloned());
                for list in &said.lists {
                    if wanted.lists.contains(list) && !agreed.lists.contains(list) {
                        agreed.lists.push(list);
                    }
                }
            }
        }
        agreed
    }

    /// Those of the named tasks that are there.
    async fn tasks_now(&self, exchange: &Arc<Exchange>) -> Vec<Followed> {
        let looks = self.followed.iter().map(|(id, server)| async move {
            let Looked::At(task) = look(server, exchange, id).await else {
                return None;
            };
            let (id, server) = (id.clone(), server.clone());
            Some(Followed { id, server, task })
        });
        join_all(looks).await.into_iter().flatten().collect()
    }

    async fn listen(&self, exchange: &Arc<Exchange>, wanted: &Filter) {
        let shares = self.shares(exchange, wanted).await;
        let (tellers, mut offers): (Vec<_>, Vec<_>) =
            shares.iter().map(|_| watch::channel(None)).unzip();
        let attending = self
            .servers
            .iter()
            .zip(shares)
            .zip(tellers)
            .map(|((server, uris), offered)| self.attend(server, exchange, uris, offered));
        let telling = async {
            let (mut agreed, seen) =
                tokio::join!(self.agree(wanted, &mut offers), self.tasks_now(exchange));
            agreed.tasks = seen.iter().map(|seen| seen.id.clone()).collect();
            let params = format!(
                r#"{{"notifications":{},"_meta":{{"{}":{}}}}}"#,
                agreed.written(),
                meta::SUBSCRIPTION_ID,
                String::from_utf8_lossy(exchange.host_id.as_bytes()),
            );
            let method = "notifications/subscriptions/acknowledged";
            let Ok(first) = own(message::notification(method, Some(params.as_bytes()))) else {
                return;
            };
            // A host that does not even take this hears nothing else either.
            if exchange.send(first).is_err() {
                return;
            }
            let _heeded = Heeded::new(exchange.clone(), agreed);
            let (drain, superseded) = &self.ends;
            let following = join_all(seen.into_iter().map(|seen| seen.follow(exchange)));
            let following = following.then(|_| std::future::pending::<()>());
            tokio::select! {
                () = following => {}
                () = drain.until_refusing() => {}
                () = superseded.cancelled() => {}
            }
        };
        tokio::select! {
            biased;
            () = telling => {}
            _ = join_all(attending) => {}
        }
    }
}

/// A task that a host follows, as it was last seen.
struct Followed {
    id: String,
    server: Arc<dyn Backend>,
    task: Map<String, Value>,
}

impl Followed {
    /// Looks at it until it has ended, and tells the host whenever it is not as it was: servers need
    /// not say so, and those of the older era say less.
    async fn follow(mut self, exchange: &Arc<Exchange>) {
        loop {
            self.tell(exchange);
            let status = self.task.get("status").and_then(Value::as_str);
            if matches!(status, Some("completed" | "failed" | "cancelled") | None) {
                return;
            }
            let every = self.task.get("pollIntervalMs").and_then(Value::as_u64);
            let every = every
                .map_or(LOOK, Duration::from_millis)
                .clamp(OFTEN, SELDOM);
            let was = std::mem::take(&mut self.task);
            while self.task.is_empty() || self.task == was {
                tokio::time::sleep(OFTEN).await;
                let changed = exchange.session.tasks.until_changed();
                let _ = tokio::time::timeout(every.saturating_sub(OFTEN), changed).await;
                match look(&self.server, exchange, &self.id).await {
                    Looked::At(task) => self.task = task,
                    Looked::InVain => {}
                    Looked::Nowhere => return,
                }
            }
        }
    }

    fn tell(&self, exchange: &Exchange) {
        let mut params = self.task.clone();
        let id = serde_json::from_slice(exchange.host_id.as_bytes());
        let id: Value = id.unwrap_or_default();
        params.insert("_meta".to_owned(), value!({(meta::SUBSCRIPTION_ID): id}));
        let params = Value::Object(params).to_string();
        let note = message::notification("notifications/tasks", Some(params.as_bytes()));
        if let Ok(note) = own(note) {
            // A host that does not read misses a state, not the next one.
            let _ = exchange.send(note);
        }
    }
}

/// What came of a look at a task.
enum Looked {
    At(Map<String, Value>),
    /// The server says nothing for now.
    InVain,
    /// The server says that there is none.
    Nowhere,
}

/// A task as its server says it is.
async fn look(server: &Arc<dyn Backend>, exchange: &Arc<Exchange>, id: &str) -> Looked {
    let params = format!(r#"{{"taskId":{}}}"#, json::quote(id));
    let asking = catalog::ask(exchange, server, "tasks/get", params.as_bytes(), 0);
    let Some(answer) = asking.await else {
        return Looked::InVain;
    };
    match tasks::read(&answer) {
        Some(mut task) => {
            // What belongs to the answer and not to the task.
            task.remove("resultType");
            task.remove("_meta");
            Looked::At(task)
        }
        None => Looked::Nowhere,
    }
}

/// One request about a resource, on chillgate's own account in the session of the exchange.
async fn subscribe(
    server: &Arc<dyn Backend>,
    exchange: &Arc<Exchange>,
    method: &str,
    uri: &str,
) -> bool {
    let id = Id::text(&format!("chillgate-{method}"));
    let params = format!(r#"{{"uri":{}}}"#, json::quote(uri));
    let asker = Exchange::new(id, exchange.session.clone(), exchange.grants.clone(), 1);
    // Under its number in the session: several hosts of one may ask the same at a time.
    let raw = message::request(asker.id.as_bytes(), method, Some(params.as_bytes()));
    let Ok(request) = own(raw) else { return false };
    let asking = server.call(&asker, &request, Passage::default());
    let answer = tokio::time::timeout(catalog::PATIENCE, asking).await;
    matches!(answer, Ok(Ok(answer)) if answer.result().is_some())
}

/// What one server was told that counts; dropped, it is told that it no longer does, unless the
/// host still listens elsewhere.
struct Held {
    server: Arc<dyn Backend>,
    exchange: Arc<Exchange>,
    uris: HashSet<String>,
    tasks: TaskTracker,
}

impl Held {
    /// Counted before the server hears of it, so that nobody who leaves takes it away again.
    fn new(
        server: &Arc<dyn Backend>,
        exchange: &Arc<Exchange>,
        uris: HashSet<String>,
        tasks: &TaskTracker,
    ) -> Self {
        exchange.session.wants(&uris);
        Self {
            server: server.clone(),
            exchange: exchange.clone(),
            uris,
            tasks: tasks.clone(),
        }
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        if self.uris.is_empty() {
            return;
        }
        self.exchange.session.wants_no_more(&self.uris);
        let (server, exchange) = (self.server.clone(), self.exchange.clone());
        let uris = std::mem::take(&mut self.uris);
        self.tasks.spawn(async move {
            for uri in uris {
                if !exchange.session.is_wanted(&uri) {
                    subscribe(&server, &exchange, "resources/unsubscribe", &uri).await;
                }
            }
        });
    }
}

#[async_trait]
impl Backend for Listen {
    fn name(&self) -> &Arc<str> {
        &self.name
    }

    async fn call(
        &self,
        exchange: &Arc<Exchange>,
        request: &Envelope,
        _: Passage,
    ) -> Result<Envelope, BackendError> {
        let id = exchange.id.as_bytes();
        match Filter::read(request).and_then(Filter::bounded) {
            Ok(wanted)
                if !wanted.tasks.is_empty()
                    && !tasks::are_declared(exchange.session.capabilities()) =>
            {
                let (code, text, data) = rounds::incapable(&tasks::lacking()).words();
                let data = data.map(|data| data.to_string());
                let data = data.as_deref().map(str::as_bytes);
                own(message::error(Some(id), code, &text, data))
            }
            Ok(wanted) => {
                self.listen(exchange, &wanted).await;
                let result = format!(
                    r#"{{"_meta":{{"{}":{}}}}}"#,
                    meta::SUBSCRIPTION_ID,
                    String::from_utf8_lossy(exchange.host_id.as_bytes()),
                );
                own(message::result(id, result.as_bytes()))
            }
            Err(wrong) => {
                let text = format!("Invalid params: {wrong}");
                own(message::error(Some(id), code::INVALID_PARAMS, &text, None))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(filter: &str) -> Envelope {
        own(message::request(b"1", LISTEN, Some(filter.as_bytes()))).expect("a request")
    }

    #[test]
    fn a_filter_is_read_and_written_alike() {
        let full = r#"{"toolsListChanged":true,"resourcesListChanged":true,"resourceSubscriptions":["a:1","b:2"],"taskIds":["t"]}"#;
        for filter in [full, "{}", r#"{"promptsListChanged":true}"#] {
            let read = Filter::read(&request(&format!(r#"{{"notifications":{filter}}}"#)));
            assert_eq!(read.expect(filter).written(), filter);
        }
        for wrong in [
            "{}",
            r#"{"notifications":[]}"#,
            r#"{"notifications":{"toolsListChanged":1}}"#,
            r#"{"notifications":{"resourceSubscriptions":"a"}}"#,
            r#"{"notifications":{"resourceSubscriptions":[1]}}"#,
            r#"{"notifications":{"taskIds":"a"}}"#,
            r#"{"notifications":{"taskIds":[{}]}}"#,
        ] {
            assert!(Filter::read(&request(wrong)).is_err(), "{wrong}");
        }
    }

    /// R-084.
    #[test]
    fn only_what_was_asked_for_is_wanted() {
        let params = r#"{"notifications":{"toolsListChanged":true,"promptsListChanged":false,"resourceSubscriptions":["file:///a"]}}"#;
        let filter = Filter::read(&request(params)).expect("a filter");
        for (method, params, wanted) in [
            ("notifications/tools/list_changed", "{}", true),
            ("notifications/prompts/list_changed", "{}", false),
            ("notifications/resources/list_changed", "{}", false),
            ("notifications/message", "{}", false),
            (
                "notifications/resources/updated",
                r#"{"uri":"file:///a"}"#,
                true,
            ),
            (
                "notifications/resources/updated",
                r#"{"uri":"file:///a/b"}"#,
                true,
            ),
            (
                "notifications/resources/updated",
                r#"{"uri":"file:///ab"}"#,
                false,
            ),
            (
                "notifications/resources/updated",
                r#"{"uri":"file:///"}"#,
                false,
            ),
            ("notifications/resources/updated", "{}", false),
        ] {
            let note = own(message::notification(method, Some(params.as_bytes())));
            assert_eq!(
                filter.wants(&note.expect("a note")),
                wanted,
                "{method} {params}"
            );
        }
    }
}
