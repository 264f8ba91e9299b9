//! Calls of a host of 2025-11-25 as tasks of a server of 2026-07-28 (eras, b.6).
//!
//! Such a host asks for a task and fetches what came of it; the server decides whether there is one.
//! Where there is none the call has ended, and chillgate keeps its result until it is fetched. What
//! a task wants to know is put to the host that waits for its result.

use std::collections::HashSet;
use std::time::Duration;

use bytes::Bytes;
use chillgate_wire::{Envelope, Revision, code, json, message};
use serde_json::{Map, Value, json as value};

use super::modern::refused;
use super::{Asked, Pipes};
use crate::backend::BackendError;
use crate::era::asking::{self, Put};
use crate::era::server::{self, Came};
use crate::era::{rounds, tasks};
use crate::route::own;
use crate::session::random_id;

/// How often a task is looked at while its host waits for its result, where its server does not
/// say; at least and at most.
const LOOK: Duration = Duration::from_millis(500);
const OFTEN: Duration = Duration::from_millis(50);
const SELDOM: Duration = Duration::from_secs(10);

impl Pipes {
    /// Whether this host can have tasks of this server.
    pub(super) fn has_tasks(asked: Asked<'_>) -> bool {
        let greeting = asked.pipe.greeting();
        let discovered = greeting.and_then(|greeting| greeting.discovered.as_ref());
        asked.exchange.session.revision == Revision::V2025_11_25
            && discovered.is_some_and(|discovered| tasks::are_offered(discovered))
    }

    /// A call that its host wants as a task.
    pub(super) async fn call_as_task(&self, asked: Asked<'_>) -> Result<Envelope, BackendError> {
        let session = &asked.exchange.session;
        let declared = tasks::declare(session.modern_capabilities());
        let mut edit = asked.request.edit();
        edit.remove(&["params", "task"]);
        let request = server::to_modern_as(session, &edit.finish(), &declared);
        let answer = self.send(asked, &request).await?;
        let task = match self.settle(asked, &request, answer).await? {
            Came::Task(made) => self.task_in(&made)?,
            // It has not become one, or could not even begin.
            Came::Answer(answer) => match answer.result() {
                Some(result) => {
                    let task = finished(result);
                    session.finished.keep(task.clone(), result.len());
                    task
                }
                None => return Ok(answer),
            },
            Came::Required(_) | Came::Invalid(_) => return Err(self.invalid("it made no task")),
        };
        let result = value!({"task": tasks::express(&task)}).to_string();
        self.own_result(asked.exchange, result.as_bytes())
    }

    /// What a host asks about a task.
    pub(super) async fn about_task(&self, asked: Asked<'_>) -> Result<Envelope, BackendError> {
        let (session, method) = (&asked.exchange.session, asked.request.method());
        let Some(id) = asked.request.text(&["params", "taskId"]) else {
            let text = "Invalid params: `taskId` is missing or no string";
            return refused(asked, code::INVALID_PARAMS, text, None);
        };
        let kept = session.finished.get(&id);
        match method.unwrap_or_default() {
            "tasks/get" => {
                let task = match kept {
                    Some(task) => task,
                    None => match self.ask_about(asked, "tasks/get", &id).await? {
                        Ok(task) => task,
                        Err(refusal) => return Ok(*refusal),
                    },
                };
                let result = tasks::express(&task).to_string();
                self.own_result(asked.exchange, result.as_bytes())
            }
            "tasks/cancel" if kept.is_some() => {
                let text = "Invalid params: the task has ended already";
                refused(asked, code::INVALID_PARAMS, text, None)
            }
            "tasks/cancel" => {
                if let Err(refusal) = self.ask_about(asked, "tasks/cancel", &id).await?
                    && refusal.error().is_some()
                {
                    return Ok(*refusal);
                }
                match self.ask_about(asked, "tasks/get", &id).await? {
                    Ok(task) => {
                        let result = tasks::express(&task).to_string();
                        self.own_result(asked.exchange, result.as_bytes())
                    }
                    Err(refusal) => Ok(*refusal),
                }
            }
            "tasks/result" => {
                let came = match kept {
                    Some(task) => outcome(asked, &task)?,
                    None => self.result_of(asked, &id).await?,
                };
                Ok(if came.result().is_some() {
                    tasks::relate(&came, "result", &id)
                } else {
                    came
                })
            }
            method => {
                let text = format!("Method not found: {method}");
                refused(asked, code::METHOD_NOT_FOUND, &text, None)
            }
        }
    }

    /// Waits for a task to end, and asks its host what it wants to know meanwhile.
    async fn result_of(&self, asked: Asked<'_>, id: &str) -> Result<Envelope, BackendError> {
        let mut answered: HashSet<String> = HashSet::new();
        loop {
            let task = match self.ask_about(asked, "tasks/get", id).await? {
                Ok(task) => task,
                Err(refusal) => return Ok(*refusal),
            };
            asked.exchange.touch();
            let status = task.get("status").and_then(Value::as_str);
            match status.unwrap_or_default() {
                "completed" | "failed" | "cancelled" => return outcome(asked, &task),
                "input_required" => {
                    let wanted = task.get("inputRequests").and_then(Value::as_object);
                    let mut wanted = wanted.cloned().unwrap_or_default();
                    wanted.retain(|key, _| !answered.contains(key));
                    if !wanted.is_empty() {
                        answered.extend(wanted.keys().cloned());
                        if let Some(end) = self.ask_for(asked, id, wanted).await? {
                            return Ok(end);
                        }
                        continue;
                    }
                }
                _ => {}
            }
            let every = task.get("pollIntervalMs").and_then(Value::as_u64);
            let every = every.map_or(LOOK, Duration::from_millis);
            tokio::time::sleep(every.clamp(OFTEN, SELDOM)).await;
        }
    }

    /// Puts questions of a task to its host and hands the answers over. `Some`: it cannot go on.
    async fn ask_for(
        &self,
        asked: Asked<'_>,
        id: &str,
        wanted: Map<String, Value>,
    ) -> Result<Option<Envelope>, BackendError> {
        let raw = value!({"jsonrpc": "2.0", "id": 0, "result": {"inputRequests": wanted}});
        let required = own(Bytes::from(raw.to_string()))?;
        let put = asking::put(asked.exchange, &required, Some(id));
        let said = match put.map_err(|cause| self.invalid(&cause))? {
            Put::Nothing => return Ok(None),
            Put::Questions(questions) => questions.answers().await,
            Put::Unanswerable(why) => Err(why),
        };
        let said = match said {
            Ok(said) => said,
            Err(why) => return refused(asked, code::INTERNAL_ERROR, &why, None).map(Some),
        };
        let id = json::quote(id);
        let params = [
            br#"{"taskId":"#,
            id.as_bytes(),
            br#","inputResponses":"#,
            &said,
            b"}",
        ]
        .concat();
        let answer = self.ask_in_tasks(asked, "tasks/update", &params).await?;
        Ok(answer.error().is_some().then_some(answer))
    }

    /// What the server says of a task, or its answer if that is none.
    async fn ask_about(
        &self,
        asked: Asked<'_>,
        method: &str,
        id: &str,
    ) -> Result<Result<Map<String, Value>, Box<Envelope>>, BackendError> {
        let params = format!(r#"{{"taskId":{}}}"#, json::quote(id));
        let answer = self.ask_in_tasks(asked, method, params.as_bytes()).await?;
        Ok(match tasks::read(&answer) {
            Some(task) => Ok(task),
            None => Err(Box::new(answer)),
        })
    }

    async fn ask_in_tasks(
        &self,
        asked: Asked<'_>,
        method: &str,
        params: &[u8],
    ) -> Result<Envelope, BackendError> {
        let session = &asked.exchange.session;
        let declared = tasks::declare(session.modern_capabilities());
        let id = asked.exchange.host_id.as_bytes();
        let request = own(message::request(id, method, Some(params)))?;
        let request = server::to_modern_as(session, &request, &declared);
        self.send(asked, &request).await
    }

    fn task_in(&self, answer: &Envelope) -> Result<Map<String, Value>, BackendError> {
        tasks::read(answer).ok_or_else(|| self.invalid("its task has no `taskId`"))
    }
}

/// A call that has ended, as a task that has.
fn finished(result: &[u8]) -> Map<String, Value> {
    let now = jiff::Timestamp::now().to_string();
    let result: Value = serde_json::from_slice(result).unwrap_or_default();
    let task = value!({
        "taskId": random_id(), "status": "completed", "ttlMs": null,
        "createdAt": now, "lastUpdatedAt": now, "result": result,
    });
    match task {
        Value::Object(task) => task,
        _ => Map::new(),
    }
}

/// What a task has come to, as the answer to the host that fetches it.
fn outcome(asked: Asked<'_>, task: &Map<String, Value>) -> Result<Envelope, BackendError> {
    let id = asked.exchange.host_id.as_bytes();
    if let Some(result) = task.get("result") {
        let raw = message::result(id, result.to_string().as_bytes());
        if let Came::Answer(answer) = server::from_modern("tools/call", own(raw)?) {
            return Ok(answer);
        }
    }
    if let Some(error) = task.get("error").filter(|error| error.is_object()) {
        let raw = value!({"jsonrpc": "2.0", "id": 0, "error": error}).to_string();
        return own(Bytes::from(raw)).map(|error| error.with_id(id));
    }
    let said = task.get("statusMessage").and_then(Value::as_str);
    let status = task.get("status").and_then(Value::as_str);
    let text = said.or(status).unwrap_or("the task left no result");
    refused(asked, code::INTERNAL_ERROR, text, None)
}

/// The member of a call's `params` that asks for a task.
pub(super) fn is_wanted(request: &Envelope) -> bool {
    request.method() == Some("tools/call")
        && request.find(&["params", "task"]).is_some()
        && request.find(&["params", rounds::STATE]).is_none()
}
