//! Calls of modern hosts as tasks of an older server (eras, b.6).
//!
//! There the host asks for a task, here the server decides that a call becomes one: so chillgate asks
//! for it where a tool can be called in this way and its host knows what to do with a task. A tool
//! that is called in no other way is seen through to its end for a host that does not. Stands in
//! front of any server of the older eras and hands on all else as it is.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use chillgate_wire::{Envelope, Era, Id, code, json, message};
use serde_json::{Map, Value, json as value};
use tokio_util::task::TaskTracker;

use super::{Attended, Backend, BackendError, ChildState, Passage, State};
use crate::era::rounds;
use crate::era::tasks::{self, Support};
use crate::exchange::Exchange;
use crate::identity::nothing;
use crate::incidents::Recognised;
use crate::route::own;
use crate::session::{Session, Task};

mod names;
mod tools;

use names::Names;
use tools::Tools;

/// What the server is asked to keep a task for.
const TTL: &str = r#"{"ttl":3600000}"#;
/// How often a task that is seen through is looked at, where its server does not say.
const LOOK: Duration = Duration::from_secs(1);
const OFTEN: Duration = Duration::from_millis(50);
const SELDOM: Duration = Duration::from_secs(10);
/// How long a host that looks at its task waits for what the server wants to know.
const ASKING: Duration = Duration::from_millis(500);
/// Pages read of a list of tools.
const PAGES: usize = 100;

const UNKNOWN: u8 = 0;
const YES: u8 = 1;
const NO: u8 = 2;

/// A server whose tasks modern hosts can have.
#[derive(Clone, Debug)]
pub struct Tasking(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    server: Arc<dyn Backend>,
    /// Whether it has tasks.
    has: AtomicU8,
    tools: Tools,
    names: Names,
    tracker: TaskTracker,
}

impl Tasking {
    /// In front of this server.
    pub fn new(server: Arc<dyn Backend>, tracker: TaskTracker) -> Self {
        Self(Arc::new(Inner {
            server,
            has: AtomicU8::new(UNKNOWN),
            tools: Tools::default(),
            names: Names::default(),
            tracker,
        }))
    }

    async fn call_for_modern(
        &self,
        exchange: &Arc<Exchange>,
        request: &Envelope,
        passage: Passage,
    ) -> Result<Envelope, BackendError> {
        let method = request.method().unwrap_or_default();
        match method {
            "tools/call" => self.call_tool(exchange, request, passage).await,
            "tools/list" => {
                let has = self.0.has_tasks(exchange).await?;
                let answer = self.0.server.call(exchange, request, passage).await?;
                if has {
                    self.0.tools.note(&answer);
                    return Ok(answer);
                }
                let list = answer.get(&["result", "tools"]);
                let Some(callable) = list.and_then(tasks::callable) else {
                    return Ok(answer);
                };
                let mut edit = answer.edit();
                edit.set(&["result", "tools"], callable);
                Ok(edit.finish())
            }
            "server/discover" => {
                let answer = self.0.server.call(exchange, request, passage).await?;
                if let Some(said) = answer.result() {
                    self.0.found(tasks::are_offered(said));
                }
                Ok(answer)
            }
            _ => self.about(exchange, request).await,
        }
    }

    async fn call_tool(
        &self,
        exchange: &Arc<Exchange>,
        request: &Envelope,
        passage: Passage,
    ) -> Result<Envelope, BackendError> {
        // What asks an older server for a task means nothing in the words of the host.
        let mut edit = request.edit();
        if request.find(&["params", "task"]).is_some() {
            edit.remove(&["params", "task"]);
        }
        let name = request.text(&["params", "name"]).unwrap_or_default();
        let support = if self.0.has_tasks(exchange).await? {
            self.0.support(exchange, &name).await
        } else {
            Support::Forbidden
        };
        let is_declared = tasks::are_declared(exchange.session.capabilities());
        match support {
            Support::Forbidden => {}
            Support::Optional if !is_declared => {}
            Support::Optional | Support::Required => {
                edit.set(&["params", "task"], TTL.as_bytes());
                return self
                    .begin(exchange, &edit.finish(), passage, is_declared)
                    .await;
            }
        }
        self.0.server.call(exchange, &edit.finish(), passage).await
    }

    /// Has the server make a task; which its host has then, or which is seen through for it.
    async fn begin(
        &self,
        exchange: &Arc<Exchange>,
        request: &Envelope,
        passage: Passage,
        is_declared: bool,
    ) -> Result<Envelope, BackendError> {
        let answer = self.0.server.call(exchange, request, passage).await?;
        let made = answer.get(&["result", "task"]).and_then(object);
        let Some(made) = made else {
            return Ok(answer);
        };
        let Some(id) = made.get("taskId").and_then(Value::as_str) else {
            return Err(self.0.invalid("its task has no `taskId`"));
        };
        let session = &exchange.session;
        if !is_declared {
            session.tasks.begin(self.name(), id, exchange.clone());
            return self.see_through(exchange, id, &made).await;
        }
        let questions = Exchange::new(Id::text("chillgate-task"), session.clone(), nothing(), 1);
        session.tasks.begin(self.name(), id, questions);
        let mut task = tasks::flat(&made);
        task.insert("taskId".to_owned(), value!(self.0.names.give(id, session)));
        task.insert("resultType".to_owned(), value!("task"));
        result(exchange, &Value::Object(task))
    }

    /// Waits for what a task comes to, which is what the call has come to.
    async fn see_through(
        &self,
        exchange: &Arc<Exchange>,
        id: &str,
        made: &Map<String, Value>,
    ) -> Result<Envelope, BackendError> {
        let (session, params) = (&exchange.session, of_task(id));
        let mut unfinished = Unfinished {
            inner: self.0.clone(),
            session: session.clone(),
            id: id.to_owned(),
            is_over: false,
        };
        let every = made.get("pollInterval").and_then(Value::as_u64);
        let every = every
            .map_or(LOOK, Duration::from_millis)
            .clamp(OFTEN, SELDOM);
        let looking = async {
            loop {
                tokio::time::sleep(every).await;
                if let Ok(look) = self.0.ask(session, "tasks/get", &params).await
                    && look.result().is_some()
                {
                    exchange.touch();
                }
            }
        };
        let outcome = tokio::select! {
            biased;
            outcome = self.0.ask(session, "tasks/result", &params) => outcome?,
            () = looking => return Err(self.0.invalid("it never ends")),
        };
        unfinished.is_over = true;
        Ok(tasks::unrelate(&outcome).with_id(exchange.host_id.as_bytes()))
    }

    /// What a host asks or says about a task.
    async fn about(
        &self,
        exchange: &Arc<Exchange>,
        request: &Envelope,
    ) -> Result<Envelope, BackendError> {
        let method = request.method().unwrap_or_default();
        let host = exchange.host_id.as_bytes();
        let refused = |code, text: &str, data: Option<&str>| {
            own(message::error(
                Some(host),
                code,
                text,
                data.map(str::as_bytes),
            ))
        };
        if !self.0.has_tasks(exchange).await? {
            let text = format!("Method not found: {method}");
            return refused(code::METHOD_NOT_FOUND, &text, None);
        }
        if !tasks::are_declared(exchange.session.capabilities()) {
            let (code, text, data) = rounds::incapable(&tasks::lacking()).words();
            let data = data.map(|data| data.to_string());
            return refused(code, &text, data.as_deref());
        }
        let Some(name) = request.text(&["params", "taskId"]) else {
            let text = "Invalid params: `taskId` is missing or no string";
            return refused(code::INVALID_PARAMS, text, None);
        };
        let Some((session, id)) = self.0.names.find(&name, &exchange.session) else {
            return refused(
                code::INVALID_PARAMS,
                "Invalid params: there is no such task",
                None,
            );
        };
        let answer = match method {
            "tasks/get" => match self.0.look(&session, &id).await? {
                Ok(mut task) => {
                    task.insert("taskId".to_owned(), value!(name));
                    return result(exchange, &Value::Object(task));
                }
                Err(refusal) => *refusal,
            },
            "tasks/update" => match self.0.update(&session, &id, request).await? {
                None => return result(exchange, &value!({})),
                Some(refusal) => refusal,
            },
            "tasks/cancel" => {
                let answer = self.0.ask(&session, "tasks/cancel", &of_task(&id)).await?;
                // There one that has ended cannot be cancelled, here that is no mistake.
                let is_there = answer.result().is_some()
                    || self
                        .0
                        .look(&session, &id)
                        .await?
                        .is_ok_and(|task| has_ended(&task));
                if is_there {
                    session.tasks.end(self.name(), &id);
                    return result(exchange, &value!({}));
                }
                answer
            }
            method => {
                let text = format!("Method not found: {method}");
                return refused(code::METHOD_NOT_FOUND, &text, None);
            }
        };
        Ok(answer.with_id(host))
    }
}

impl Inner {
    fn invalid(&self, cause: &str) -> BackendError {
        BackendError::Invalid {
            server: self.server.name().clone(),
            cause: cause.to_owned(),
        }
    }

    /// Whether the server has tasks; it is opened to find out.
    async fn has_tasks(&self, exchange: &Arc<Exchange>) -> Result<bool, BackendError> {
        if self.has.load(Ordering::Relaxed) == UNKNOWN {
            let attended = self.server.attend(&exchange.session).await?;
            self.found(tasks::are_had(&attended.said));
        }
        Ok(self.has.load(Ordering::Relaxed) == YES)
    }

    fn found(&self, has: bool) {
        self.has
            .store(if has { YES } else { NO }, Ordering::Relaxed);
    }

    /// How a tool may be called; the server's list is read where it has not been seen.
    async fn support(&self, exchange: &Arc<Exchange>, name: &str) -> Support {
        if let Some(support) = self.tools.get(name) {
            return support;
        }
        let mut params = "{}".to_owned();
        for _ in 0..PAGES {
            let page = self.ask(&exchange.session, "tools/list", &params).await;
            let Some(page) = page.ok().filter(|page| page.result().is_some()) else {
                break;
            };
            self.tools.note(&page);
            let Some(cursor) = page.text(&["result", "nextCursor"]) else {
                self.tools.miss(name);
                break;
            };
            params = format!(r#"{{"cursor":{}}}"#, json::quote(&cursor));
        }
        self.tools.get(name).unwrap_or(Support::Forbidden)
    }

    /// One request of chillgate's own in this session.
    async fn ask(
        &self,
        session: &Arc<Session>,
        method: &str,
        params: &str,
    ) -> Result<Envelope, BackendError> {
        let asker = Exchange::new(Id::text("chillgate-task"), session.clone(), nothing(), 1);
        let raw = message::request(asker.id.as_bytes(), method, Some(params.as_bytes()));
        self.server
            .call(&asker, &own(raw)?, Passage::default())
            .await
    }

    /// A task as its host reads it, with what it has come to or what it waits for; or the server's
    /// refusal to say.
    async fn look(
        self: &Arc<Self>,
        session: &Arc<Session>,
        id: &str,
    ) -> Result<Result<Map<String, Value>, Box<Envelope>>, BackendError> {
        session.use_now();
        let answer = self.ask(session, "tasks/get", &of_task(id)).await?;
        let Some(said) = answer.result().and_then(object) else {
            return Ok(Err(Box::new(answer)));
        };
        let mut task = tasks::flat(&said);
        let status = task.get("status").and_then(Value::as_str);
        match status.unwrap_or_default().to_owned().as_str() {
            "completed" | "failed" => {
                let outcome = self.ask(session, "tasks/result", &of_task(id)).await?;
                tasks::conclude(&mut task, &outcome);
                session.tasks.end(self.server.name(), id);
            }
            "cancelled" => session.tasks.end(self.server.name(), id),
            status => {
                let waits = status == "input_required";
                let asked = self.questions(session, id, waits).await;
                let status = if asked.is_some() {
                    "input_required"
                } else {
                    "working"
                };
                task.insert("status".to_owned(), value!(status));
                if let Some(requests) = asked {
                    let requests: Value = serde_json::from_slice(&requests).unwrap_or_default();
                    task.insert("inputRequests".to_owned(), requests);
                }
            }
        }
        Ok(Ok(task))
    }

    /// The task, made known if it has been forgotten.
    fn task(&self, session: &Arc<Session>, id: &str) -> Arc<Task> {
        let questions = || Exchange::new(Id::text("chillgate-task"), session.clone(), nothing(), 1);
        session
            .tasks
            .find_or_begin(self.server.name(), id, questions)
    }

    /// What the server wants to know for a task. One that waits for its host asks only whoever
    /// waits for the result.
    async fn questions(
        self: &Arc<Self>,
        session: &Arc<Session>,
        id: &str,
        waits: bool,
    ) -> Option<Vec<u8>> {
        let task = self.task(session, id);
        let asked = || task.exchange.inputs.peek(rounds::requests);
        if !waits || asked().is_some() {
            return asked();
        }
        session.tasks.wait_for(&task, || {
            // With a request of its own, which nobody can be asked about: its server names the task.
            let (inner, session, params) = (self.clone(), session.clone(), of_task(id));
            let waiter = self.tracker.spawn(async move {
                // What comes of it is fetched when the host looks.
                let _ = inner.ask(&session, "tasks/result", &params).await;
            });
            waiter.abort_handle()
        });
        let deadline = tokio::time::Instant::now() + ASKING;
        while asked().is_none() && tokio::time::Instant::now() < deadline {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        asked()
    }

    /// Hands the host's answers over. `Some`: the server's refusal, where there is no such task.
    async fn update(
        &self,
        session: &Arc<Session>,
        id: &str,
        request: &Envelope,
    ) -> Result<Option<Envelope>, BackendError> {
        session.use_now();
        let Some(task) = session.tasks.find(self.server.name(), id) else {
            let answer = self.ask(session, "tasks/get", &of_task(id)).await?;
            return Ok(answer.error().is_some().then_some(answer));
        };
        let said = task.exchange.inputs.peek(|inputs| {
            let said = inputs.iter().filter_map(|input| {
                // That they are objects has been seen to.
                let said = rounds::response(request, input).ok()??;
                Some((input.number, Bytes::copy_from_slice(said)))
            });
            said.collect::<Vec<_>>()
        });
        for (number, said) in said.unwrap_or_default() {
            task.exchange.inputs.withdraw(number);
            let number = Id::number(number);
            let answer = own(message::result(number.as_bytes(), &said))?;
            session.answer(&answer).await;
        }
        Ok(None)
    }
}

/// A task that is seen through; dropped before its end, its server is told that nobody wants it.
struct Unfinished {
    inner: Arc<Inner>,
    session: Arc<Session>,
    id: String,
    is_over: bool,
}

impl Drop for Unfinished {
    fn drop(&mut self) {
        let (inner, session) = (self.inner.clone(), self.session.clone());
        let id = std::mem::take(&mut self.id);
        session.tasks.end(inner.server.name(), &id);
        // Where the session is over its server is, too, or is told so in another way.
        if !self.is_over && !session.is_over() {
            self.inner.tracker.spawn(async move {
                let _ = inner.ask(&session, "tasks/cancel", &of_task(&id)).await;
            });
        }
    }
}

fn has_ended(task: &Map<String, Value>) -> bool {
    let status = task.get("status").and_then(Value::as_str);
    matches!(status, Some("completed" | "failed" | "cancelled"))
}

fn of_task(id: &str) -> String {
    format!(r#"{{"taskId":{}}}"#, json::quote(id))
}

fn object(raw: &[u8]) -> Option<Map<String, Value>> {
    serde_json::from_slice(raw).ok()
}

fn result(exchange: &Exchange, result: &Value) -> Result<Envelope, BackendError> {
    let (id, result) = (exchange.host_id.as_bytes(), result.to_string());
    own(message::result(id, result.as_bytes()))
}

#[async_trait]
impl Backend for Tasking {
    fn name(&self) -> &Arc<str> {
        self.0.server.name()
    }

    // By hand: most calls have nothing to do with tasks and shall not pay for them.
    fn call<'s, 'e, 'r, 'c>(
        &'s self,
        exchange: &'e Arc<Exchange>,
        request: &'r Envelope,
        passage: Passage,
    ) -> Pin<Box<dyn Future<Output = Result<Envelope, BackendError>> + Send + 'c>>
    where
        's: 'c,
        'e: 'c,
        'r: 'c,
        Self: 'c,
    {
        let may_concern = || {
            let method = request.method().unwrap_or_default();
            let has = self.0.has.load(Ordering::Relaxed);
            // Without tasks, what asks for one is still to be taken out of a call.
            method.starts_with("tasks/")
                || matches!(method, "server/discover" | "tools/list")
                || (has != NO && method == "tools/call")
                || (method == "tools/call" && request.find(&["params", "task"]).is_some())
        };
        if exchange.session.era() == Era::Legacy || !may_concern() {
            return self.0.server.call(exchange, request, passage);
        }
        Box::pin(self.call_for_modern(exchange, request, passage))
    }

    async fn attend(&self, session: &Arc<Session>) -> Result<Attended, BackendError> {
        self.0.server.attend(session).await
    }

    async fn post(&self, session: &Arc<Session>, note: Envelope) -> Result<(), BackendError> {
        self.0.server.post(session, note).await
    }

    async fn detach(&self, session: &Arc<Session>) {
        self.0.server.detach(session).await;
    }

    async fn warm(&self) {
        self.0.server.warm().await;
    }

    async fn rest(&self) {
        self.0.server.rest().await;
    }

    async fn sleep(&self) {
        self.0.server.sleep().await;
    }

    fn state(&self) -> State {
        self.0.server.state()
    }

    fn children(&self) -> Vec<ChildState> {
        self.0.server.children()
    }

    fn asleep(&self) -> usize {
        self.0.server.asleep()
    }

    fn instructions(&self) -> Option<String> {
        self.0.server.instructions()
    }

    fn supersede(&self) {
        self.0.server.supersede();
    }

    fn known(&self) -> Option<Arc<Recognised>> {
        self.0.server.known()
    }

    async fn stop(&self) {
        self.0.server.stop().await;
    }
}
