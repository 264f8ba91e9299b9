//! Calls to a server of 2026-07-28: what it is told, and what becomes of its answer.
//!
//! For a host of its own era the server's answer is the answer. For older hosts the server's
//! questions, which come as the outcome of a call, are put to the host one by one, and the call is
//! made again with what it says (eras, b.4). What such hosts ask of a session is answered here.

use std::time::Duration;

use chillgate_wire::{Envelope, code, json, message};

use super::opening::{Trouble, refusal};
use super::{Asked, Pipes, tasks};
use crate::backend::BackendError;
use crate::backend::greeting::{self, Greeting};
use crate::backend::pipe::{Pipe, cache};
use crate::backend::said::{no_level, severity};
use crate::era;
use crate::era::asking::{self, Put};
use crate::era::rounds;
use crate::era::server::{self, Came};
use crate::route::own;

/// How often a server may ask for one call before it counts as one that asks without end.
const ROUNDS: u32 = 10;

impl Pipes {
    /// The first words with a modern server.
    pub(super) async fn discover_first(&self, pipe: &std::sync::Arc<Pipe>) -> Result<(), Trouble> {
        let params = greeting::discover_params();
        let mut answer = pipe.request_own("server/discover", &params).await?;
        if Greeting::may_ask_again(&answer) {
            answer = pipe.request_own("server/discover", &params).await?;
        }
        let greeting = Greeting::discovered(&self.0.terms.server, &answer);
        pipe.greet(greeting.map_err(|it| refusal(pipe, &it))?);
        self.hear_from(pipe);
        Ok(())
    }

    /// Asks a modern server for a host of its own era.
    pub(super) async fn relay_modern(&self, asked: Asked<'_>) -> Result<Envelope, BackendError> {
        let method = asked.request.method().unwrap_or_default();
        // Of what goes with a session, a host of its era has nothing; chillgate itself listens so.
        if matches!(
            method,
            "ping" | "logging/setLevel" | "resources/subscribe" | "resources/unsubscribe"
        ) {
            return Box::pin(self.ask_modern(asked)).await;
        }
        let request = server::to_modern(&asked.exchange.session, asked.request);
        let answer = if cache::may_be_kept(asked.request) {
            Box::pin(self.send_or_recall(asked, &request)).await?
        } else {
            self.send(asked, &request).await?
        };
        check(asked, answer)
    }

    /// Asks a modern server for an older host.
    pub(super) async fn ask_modern(&self, asked: Asked<'_>) -> Result<Envelope, BackendError> {
        let exchange = asked.exchange;
        let session = &exchange.session;
        let method = asked.request.method().unwrap_or_default();
        match method {
            "ping" => return self.own_result(exchange, b"{}"),
            "logging/setLevel" => {
                let level = asked.request.text(&["params", "level"]);
                let Some(level) = level.and_then(|name| severity(&name)) else {
                    let text = no_level("level");
                    return refused(asked, code::INVALID_PARAMS, &text, None);
                };
                session.set_log_level(level);
                return self.own_result(exchange, b"{}");
            }
            "resources/subscribe" => return self.hear_more(asked).await,
            "resources/unsubscribe" => return self.hear_less(asked),
            method if method.starts_with("tasks/") => {
                if Self::has_tasks(asked) {
                    return self.about_task(asked).await;
                }
                let text = format!("Method not found: {method}");
                return refused(asked, code::METHOD_NOT_FOUND, &text, None);
            }
            _ => {}
        }
        if tasks::is_wanted(asked.request) && Self::has_tasks(asked) {
            return self.call_as_task(asked).await;
        }
        let request = server::to_modern(session, asked.request);
        let answer = self.send_or_recall(asked, &request).await?;
        match self.settle(asked, &request, answer).await? {
            Came::Answer(answer) if method == "tools/list" && Self::has_tasks(asked) => {
                let mut edit = answer.edit();
                if let Some(list) = answer.get(&["result", "tools"]) {
                    edit.set(&["result", "tools"], era::tasks::tools(list));
                }
                Ok(edit.finish())
            }
            Came::Answer(answer) => Ok(answer),
            _ => Err(self.invalid("it made a task that nobody asked for")),
        }
    }

    pub(super) fn invalid(&self, cause: &str) -> BackendError {
        BackendError::Invalid {
            server: self.0.terms.server.clone(),
            cause: cause.to_owned(),
        }
    }

    /// What the server has said may be kept is not asked for again.
    async fn send_or_recall(
        &self,
        asked: Asked<'_>,
        request: &Envelope,
    ) -> Result<Envelope, BackendError> {
        let capabilities = asked.exchange.session.capabilities();
        let Some(sought) = cache::Sought::of(request, capabilities) else {
            return self.send(asked, request).await;
        };
        let (cache, subject) = (asked.pipe.cache(), &asked.exchange.session.subject);
        if let Some(answer) = cache.get(&sought, subject) {
            return Ok(answer.with_id(asked.exchange.host_id.as_bytes()));
        }
        let changes = cache.changes();
        let answer = self.send(asked, request).await?;
        cache.keep(sought, subject, changes, &answer);
        Ok(answer)
    }

    /// The answer for an older host, or the task that it has become, however often its server asks
    /// something first.
    pub(super) async fn settle(
        &self,
        asked: Asked<'_>,
        request: &Envelope,
        mut answer: Envelope,
    ) -> Result<Came, BackendError> {
        let method = request.method().unwrap_or_default();
        let invalid = |cause: String| self.invalid(&cause);
        for round in 0..=ROUNDS {
            let required = match server::from_modern(method, answer) {
                Came::Invalid(cause) => return Err(invalid(cause)),
                Came::Required(required) => required,
                came => return Ok(came),
            };
            if round == ROUNDS {
                break;
            }
            let state = required.get(&["result", rounds::STATE]);
            let put = asking::put(asked.exchange, &required, None).map_err(invalid)?;
            let said = match put {
                Put::Nothing if state.is_none() => {
                    return Err(invalid("it wants answers to nothing".to_owned()));
                }
                // It only wants to be called again.
                Put::Nothing => {
                    tokio::time::sleep(Duration::from_millis(50 << round)).await;
                    None
                }
                Put::Questions(questions) => match questions.answers().await {
                    Ok(said) => Some(said),
                    Err(unanswered) => return failed(asked, &unanswered).map(Came::Answer),
                },
                Put::Unanswerable(why) => {
                    let server = &self.0.terms.server;
                    self.0.terms.metrics.dropped(server, "question_refused");
                    return failed(asked, &why).map(Came::Answer);
                }
            };
            let mut edit = request.edit();
            if let Some(said) = said {
                edit.set(&["params", rounds::RESPONSES], said);
            }
            if let Some(state) = state {
                edit.set(&["params", rounds::STATE], state);
            }
            answer = self.send(asked, &edit.finish()).await?;
        }
        Err(invalid("it asks without end".to_owned()))
    }
}

/// What a modern server asks of a modern host must be what the host has declared (R-102).
fn check(asked: Asked<'_>, answer: Envelope) -> Result<Envelope, BackendError> {
    let Some(questions) = asking::asked_in(&answer) else {
        return Ok(answer);
    };
    let capabilities = asked.exchange.session.capabilities();
    for at in json::members(questions).map(|(_, _, at)| at) {
        let lacking = asking::question(b"0", &questions[at])
            .map(|question| rounds::lacking(&question, capabilities));
        match lacking {
            Some(Ok(None)) => {}
            Some(Ok(Some(lacking))) => {
                let (code, text, data) = rounds::incapable(&lacking).words();
                let data = data.map(|data| data.to_string());
                return refused(asked, code, &text, data.as_deref());
            }
            Some(Err(_)) | None => {
                return Err(BackendError::Invalid {
                    server: asked.pipe.server().clone(),
                    cause: "it asks its host for something that the revision does not know"
                        .to_owned(),
                });
            }
        }
    }
    Ok(answer)
}

/// The call cannot go on without an answer of its host: a tool says so itself, so that the model
/// reads it.
fn failed(asked: Asked<'_>, why: &str) -> Result<Envelope, BackendError> {
    if asked.request.method() != Some("tools/call") {
        return refused(asked, code::INTERNAL_ERROR, why, None);
    }
    let text = json::quote(why);
    let result = format!(r#"{{"content":[{{"type":"text","text":{text}}}],"isError":true}}"#);
    own(message::result(
        asked.exchange.host_id.as_bytes(),
        result.as_bytes(),
    ))
}

/// An error of chillgate's own.
pub(super) fn refused(
    asked: Asked<'_>,
    code: i64,
    text: &str,
    data: Option<&str>,
) -> Result<Envelope, BackendError> {
    let id = asked.exchange.host_id.as_bytes();
    own(message::error(
        Some(id),
        code,
        text,
        data.map(str::as_bytes),
    ))
}
