//! Tools that are heard of before their answer: they log, report progress, change the lists, or
//! drop their stream.
//!
//! They stand apart because what they say on the way is what matters. They never ask anything.

#![expect(
    deprecated,
    reason = "the SDK calls logging deprecated; the suite still asks for it"
)]

use std::time::Duration;

use rmcp::model::LoggingLevel;
use tokio::time::sleep;

use super::{Entry, Outcome, nothing, said};
use crate::{call::Call, house::Change};

/// Between two messages of one call: they must not all arrive at once.
const STEP: Duration = Duration::from_millis(50);

const LEVELS: [LoggingLevel; 8] = [
    LoggingLevel::Debug,
    LoggingLevel::Info,
    LoggingLevel::Notice,
    LoggingLevel::Warning,
    LoggingLevel::Error,
    LoggingLevel::Critical,
    LoggingLevel::Alert,
    LoggingLevel::Emergency,
];

pub(super) const TOOLS: &[Entry] = &[
    Entry {
        name: "test_tool_with_logging",
        about: "Logs while it works",
        takes: nothing,
        does: |call| Box::pin(log_steps(call)),
    },
    Entry {
        name: "test_logging_tool",
        about: "Logs at each level",
        takes: nothing,
        does: |call| Box::pin(log_levels(call)),
    },
    Entry {
        name: "test_tool_with_progress",
        about: "Reports how far it is",
        takes: nothing,
        does: |call| Box::pin(progress(call)),
    },
    Entry {
        name: "test_reconnection",
        about: "Drops the stream of its answer; the answer waits for the client's return",
        takes: nothing,
        does: |call| Box::pin(reconnect(call)),
    },
    Entry {
        name: "test_trigger_tool_change",
        about: "Adds a tool, or removes it again",
        takes: nothing,
        does: |call| Box::pin(change(call, Change::Tools, "The tools have changed.")),
    },
    Entry {
        name: "test_trigger_prompt_change",
        about: "Adds a prompt, or removes it again",
        takes: nothing,
        does: |call| Box::pin(change(call, Change::Prompts, "The prompts have changed.")),
    },
];

async fn log_steps(call: Call) -> Outcome {
    for words in ["started", "working", "done"] {
        call.log(LoggingLevel::Info, words).await;
        sleep(STEP).await;
    }
    Ok(said("Three lines were logged, where they were asked for."))
}

async fn log_levels(call: Call) -> Outcome {
    for level in LEVELS {
        call.log(level, "a line of this level").await;
    }
    Ok(said("Logged."))
}

async fn progress(call: Call) -> Outcome {
    for percent in [0.0, 50.0, 100.0] {
        call.progress(percent, 100.0).await;
        sleep(STEP).await;
    }
    Ok(said("Done."))
}

async fn reconnect(call: Call) -> Outcome {
    // The stream is there before it is dropped: a client has to have seen its first event.
    sleep(STEP).await;
    call.drop_stream().await;
    sleep(2 * STEP).await;
    Ok(said("Welcome back."))
}

async fn change(call: Call, what: Change, words: &'static str) -> Outcome {
    call.house.toggle(what).await;
    Ok(said(words))
}
