//! One request that is being handled: its arguments, and what it may say to its client and ask.
//!
//! It stands apart so that a handler is written once for both eras. On a wire with a handshake it
//! waits in the middle of the call for its client's answers. On a 2026-07-28 wire there is nothing
//! to wait on: the call ends with its questions, and starts again from the beginning when the
//! client comes back with answers, those of former rounds being in the sealed state.
//! It never asks a 2026-07-28 client for what that has not declared, and never logs unless asked.

#![expect(
    deprecated,
    reason = "the SDK calls logging deprecated; the suite still asks for it in both eras"
)]

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use futures_util::future::try_join_all;
use rmcp::{
    ErrorData, RoleServer,
    model::{
        ClientCapabilities, InputRequests, InputRequiredResult, InputResponses, JsonObject,
        LoggingLevel, LoggingMessageNotificationParam, ProgressNotificationParam, SealOptions,
    },
    service::{PeerRequestOptions, RequestContext},
};
use serde_json::Value;

use crate::{eras::came_modern, house::House, question::Question, sessions::AnswerStream};

/// How long a client may take for an answer.
const ANSWERING: Duration = Duration::from_mins(1);

/// Why a handler ends without a result of its own.
#[derive(Debug)]
pub(crate) enum Stop {
    /// It has to know more first.
    Asks(Box<InputRequiredResult>),
    /// A JSON-RPC error.
    Refused(ErrorData),
    /// What it tried did not work, which its caller should read.
    Failed(String),
}

/// What a request brings along: its arguments, and what its client knows from an earlier round.
#[derive(Default)]
pub(crate) struct Brought {
    pub(crate) arguments: Option<JsonObject>,
    pub(crate) responses: Option<InputResponses>,
    pub(crate) state: Option<String>,
}

pub(crate) struct Call {
    pub(crate) house: Arc<House>,
    arguments: JsonObject,
    context: RequestContext<RoleServer>,
    modern: bool,
    /// From which level on to log; never, where nobody has asked.
    level: Option<LoggingLevel>,
    /// What a state is good for.
    place: String,
    given: InputResponses,
    /// The answers that were of use, which the next round will need again.
    used: Mutex<InputResponses>,
}

impl Call {
    /// `session_level` is what a client with a handshake has set.
    pub(crate) fn begin(
        house: Arc<House>,
        place: String,
        brought: Brought,
        context: RequestContext<RoleServer>,
        session_level: LoggingLevel,
    ) -> Result<Self, ErrorData> {
        let modern = came_modern(&context);
        let level = if modern {
            context.meta.log_level()
        } else {
            Some(session_level)
        };
        let mut given = InputResponses::new();
        if modern {
            if let Some(state) = &brought.state {
                given = house
                    .states
                    .open_json_with(state, place.as_bytes())
                    .map_err(|_| {
                        ErrorData::invalid_params("The requestState is not one of this call", None)
                    })?;
            }
            given.extend(brought.responses.unwrap_or_default());
        }
        let arguments = brought.arguments.unwrap_or_default();
        let used = Mutex::default();
        Ok(Self {
            house,
            arguments,
            context,
            modern,
            level,
            place,
            given,
            used,
        })
    }

    pub(crate) fn is_modern(&self) -> bool {
        self.modern
    }

    /// An argument that is a text; empty where it is absent.
    pub(crate) fn text(&self, argument: &str) -> &str {
        self.arguments
            .get(argument)
            .and_then(Value::as_str)
            .unwrap_or_default()
    }

    pub(crate) fn number(&self, argument: &str) -> f64 {
        self.arguments
            .get(argument)
            .and_then(Value::as_f64)
            .unwrap_or_default()
    }

    pub(crate) fn flag(&self, argument: &str) -> bool {
        self.arguments
            .get(argument)
            .and_then(Value::as_bool)
            .unwrap_or_default()
    }

    pub(crate) fn declared(&self) -> ClientCapabilities {
        self.context.client_capabilities().unwrap_or_default()
    }

    /// Whether the client can be answered with a task.
    pub(crate) fn takes_tasks(&self) -> bool {
        self.modern && self.declared().supports_tasks()
    }

    pub(crate) async fn ask(&self, key: &str, question: Question) -> Result<Value, Stop> {
        let [answer] = self.ask_all([(key, question)]).await?;
        Ok(answer)
    }

    /// Asks several questions at once. The keys name them in `input_required`.
    pub(crate) async fn ask_all<const N: usize>(
        &self,
        questions: [(&str, Question); N],
    ) -> Result<[Value; N], Stop> {
        let answers = self.ask_each(&questions).await?;
        Ok(answers.try_into().expect("every question has its answer"))
    }

    pub(crate) async fn ask_each(
        &self,
        questions: &[(&str, Question)],
    ) -> Result<Vec<Value>, Stop> {
        if self.modern {
            self.look_up(questions)
        } else {
            // One task for all of them: the SDK knows the call that asks by the task it runs in.
            try_join_all(questions.iter().map(|(_, question)| self.send(question))).await
        }
    }

    /// Refuses what the client of a 2026-07-28 request has not declared.
    pub(crate) fn need(&self, question: &Question) -> Result<(), Stop> {
        question
            .undeclared(&self.declared())
            .map_or(Ok(()), |missing| {
                Err(Stop::Refused(
                    ErrorData::missing_required_client_capability(missing),
                ))
            })
    }

    fn look_up(&self, questions: &[(&str, Question)]) -> Result<Vec<Value>, Stop> {
        let mut answers = Vec::new();
        let mut open = InputRequests::new();
        {
            let mut used = self.used.lock().unwrap_or_else(PoisonError::into_inner);
            for (key, question) in questions {
                self.need(question)?;
                match self
                    .given
                    .get(*key)
                    .filter(|answer| question.is_answered_by(answer))
                {
                    Some(answer) => {
                        used.insert((*key).to_owned(), answer.clone());
                        answers.push(answer.clone());
                    }
                    None => {
                        open.insert((*key).to_owned(), question.as_input());
                    }
                }
            }
        }
        if open.is_empty() {
            return Ok(answers);
        }
        let result = InputRequiredResult::new(Some(open), Some(self.sealed()?));
        Err(Stop::Asks(Box::new(result)))
    }

    fn sealed(&self) -> Result<String, Stop> {
        let used = self.used.lock().unwrap_or_else(PoisonError::into_inner);
        let options = SealOptions::new().associated_data(self.place.as_bytes());
        let sealed = self.house.states.seal_json_with(&*used, &options);
        sealed.map_err(|error| Stop::Failed(error.to_string()))
    }

    // Asked whether it is declared or not: a server of an older revision that does so is one of
    // the cases that chillgate meets.
    async fn send(&self, question: &Question) -> Result<Value, Stop> {
        let options = PeerRequestOptions::with_timeout(ANSWERING);
        let answer = async {
            let asked = self
                .context
                .peer
                .send_request_with_option(question.as_request(), options);
            asked.await?.await_response().await
        };
        let answer = answer
            .await
            .map_err(|error| Stop::Failed(error.to_string()))?;
        serde_json::to_value(answer).map_err(|error| Stop::Failed(error.to_string()))
    }

    pub(crate) async fn log(&self, level: LoggingLevel, words: &str) {
        if self.level.is_none_or(|least| (level as u8) < (least as u8)) {
            return;
        }
        let message = LoggingMessageNotificationParam::new(level, words.into()).with_logger("dual");
        // A client that has gone misses nothing.
        let _ = self.context.peer.notify_logging_message(message).await;
    }

    pub(crate) async fn progress(&self, progress: f64, total: f64) {
        let Some(token) = self.context.meta.get_progress_token() else {
            return;
        };
        let step = ProgressNotificationParam::new(token, progress).with_total(total);
        let _ = self.context.peer.notify_progress(step).await;
    }

    /// Ends the stream on which the answer would come, where the client can fetch it later.
    pub(crate) async fn drop_stream(&self) {
        if let Some(stream) = self.context.extensions.get::<AnswerStream>() {
            stream.close().await;
        }
    }
}
