//! Tools that take their time, as tasks of the 2026-07-28 extension where the client has it.
//!
//! They stand apart because each is two things: a task that is asked after, and for everybody else
//! a call like any other, which is then answered without delay. They never make a task for a client
//! that has not declared the extension.

use std::time::Duration;

use rmcp::{
    ErrorData,
    model::{CallToolResponse, CallToolResult, ClientCapabilities, ContentBlock, CreateTaskResult},
    task_manager::{TaskContext, TaskExit, TaskFuture, TaskOptions},
};
use serde_json::{Value, json};
use tokio::time::sleep;

use super::{Entry, Outcome, nothing, object, said};
use crate::{
    call::{Call, Stop},
    question::{Question, agreed, outcome, word},
};

const POLLING_MS: u64 = 200;
const LONGEST_SECONDS: f64 = 3600.0;
const SHORT: Duration = Duration::from_millis(300);

pub(super) const TOOLS: &[Entry] = &[
    Entry {
        name: "greet",
        about: "Greets, always at once",
        takes: || object(&json!({ "name": { "type": "string", "description": "Whom to greet" } })),
        does: |call| Box::pin(async move { Ok(said(format!("Hello, {}!", call.text("name")))) }),
    },
    Entry {
        name: "slow_compute",
        about: "Computes for a while",
        takes: || {
            object(&json!({
                "seconds": { "type": "number", "description": "How long it may take" },
                "label": { "type": "string", "description": "A word for it" },
            }))
        },
        does: |call| Box::pin(async move { Ok(slow_compute(&call)) }),
    },
    Entry {
        name: "failing_job",
        about: "Always fails",
        takes: nothing,
        does: |call| Box::pin(async move { failing_job(&call) }),
    },
    Entry {
        name: "protocol_error_job",
        about: "Always fails, below the tools",
        takes: nothing,
        does: |call| Box::pin(async move { protocol_error_job(&call) }),
    },
    Entry {
        name: "confirm_delete",
        about: "Asks before it deletes nothing",
        takes: || {
            object(&json!({ "filename": { "type": "string", "description": "What to delete" } }))
        },
        does: |call| Box::pin(confirm_delete(call)),
    },
    Entry {
        name: "multi_input",
        about: "Asks two questions at once",
        takes: nothing,
        does: |call| Box::pin(multi_input(call)),
    },
    Entry {
        name: "test_tool_with_task",
        about: "Asks the user's name, then goes on as a task",
        takes: nothing,
        does: |call| Box::pin(ask_then_task(call)),
    },
];

fn slow_compute(call: &Call) -> CallToolResponse {
    let words = format!("Computed {}.", call.text("label"));
    if !call.takes_tasks() {
        return said(words);
    }
    let seconds = call.number("seconds").clamp(0.0, LONGEST_SECONDS);
    task(call, move |task| {
        Box::pin(async move {
            tokio::select! {
                () = task.cancelled() => Err(TaskExit::Cancelled),
                () = sleep(Duration::from_secs_f64(seconds)) => Ok(ended(words)),
            }
        })
    })
}

fn failing_job(call: &Call) -> Outcome {
    let failed = CallToolResult::error(vec![ContentBlock::text("This job always fails.")]);
    if call.takes_tasks() {
        Ok(task(call, move |_| {
            Box::pin(async move {
                sleep(SHORT).await;
                Ok(failed)
            })
        }))
    } else if call.is_modern() {
        Err(tasks_needed())
    } else {
        Ok(failed.into())
    }
}

fn protocol_error_job(call: &Call) -> Outcome {
    let error = ErrorData::internal_error("This job cannot run", None);
    if call.takes_tasks() {
        Ok(task(call, move |_| {
            Box::pin(async move {
                sleep(SHORT).await;
                Err(TaskExit::Error(error))
            })
        }))
    } else {
        Err(Stop::Refused(error))
    }
}

async fn confirm_delete(call: Call) -> Outcome {
    let message = format!("Delete {}?", call.text("filename"));
    let question = Question::elicit_flag(&message, "confirm");
    let end = |answer: &Value| {
        if agreed(answer, "confirm") {
            "Deleted."
        } else {
            "Kept."
        }
    };
    if !call.takes_tasks() {
        return Ok(said(end(&call.ask("confirm", question).await?)));
    }
    call.need(&question)?;
    let question = question.as_input();
    Ok(task(&call, move |task| {
        Box::pin(async move { Ok(ended(end(&task.request_input("confirm", question).await?))) })
    }))
}

async fn multi_input(call: Call) -> Outcome {
    let name = Question::elicit_text("What is your name?", "name");
    let colour = Question::elicit_text("What is your colour?", "color");
    let end = |name: &Value, colour: &Value| format!("{}; {}", outcome(name), outcome(colour));
    if !call.takes_tasks() {
        let [name, colour] = call.ask_all([("name", name), ("colour", colour)]).await?;
        return Ok(said(end(&name, &colour)));
    }
    call.need(&name)?;
    let (name, colour) = (name.as_input(), colour.as_input());
    Ok(task(&call, move |task| {
        Box::pin(async move {
            let first = task.request_input("name", name);
            let second = task.request_input("colour", colour);
            let (first, second) = tokio::try_join!(first, second)?;
            Ok(ended(end(&first, &second)))
        })
    }))
}

async fn ask_then_task(call: Call) -> Outcome {
    if call.is_modern() && !call.takes_tasks() {
        return Err(tasks_needed());
    }
    let question = Question::elicit_text("What is your name?", "name");
    let answer = call.ask("user_name", question).await?;
    let words = format!("Went on for {}.", word(&answer, "name"));
    if !call.is_modern() {
        return Ok(said(words));
    }
    Ok(task(&call, move |_| {
        Box::pin(async move {
            sleep(SHORT).await;
            Ok(ended(words))
        })
    }))
}

fn task(call: &Call, work: impl FnOnce(TaskContext) -> TaskFuture) -> CallToolResponse {
    let options = TaskOptions::new().with_poll_interval_ms(POLLING_MS);
    CreateTaskResult::new(call.house.tasks.spawn(options, work)).into()
}

fn ended(words: impl Into<String>) -> CallToolResult {
    CallToolResult::success(vec![ContentBlock::text(words)])
}

fn tasks_needed() -> Stop {
    let tasks = ClientCapabilities::builder().enable_tasks().build();
    Stop::Refused(ErrorData::missing_required_client_capability(tasks))
}
