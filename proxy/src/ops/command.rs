//! Command runbooks: from a call's arguments to a program's, or to a sentence that says why not.
//!
//! Everything is judged before anything is started. Which words there are is the configuration's:
//! a call fills places in them and never adds one.

use async_trait::async_trait;
use chillgate_ops::{Done, Plan};
use serde_json::{Map, Value, json};

use crate::config::runbook::{CommandRunbook, Runbook};
use crate::supervisor::Status;
use crate::supervisor::runbook::{Order, Ran, Runner};
use crate::supervisor::{Launch, environment};

/// A call that fits its runbook.
pub(super) struct CommandPlan {
    order: Order,
    runner: Runner,
    question: Option<String>,
}

/// Judges a call.
pub(super) fn plan(
    runbook: &Runbook,
    work: &CommandRunbook,
    arguments: &Map<String, Value>,
    agent: &str,
    runner: Runner,
) -> Result<CommandPlan, String> {
    let command = fill(work, arguments)?;
    let question = runbook.confirm.then(|| {
        let line: Vec<String> = command.iter().map(|word| shown(word)).collect();
        format!(
            "May {agent} run this? {} ({}: {})",
            line.join(" "),
            runbook.name,
            runbook.description
        )
    });
    let env = environment::of(&work.inherit, &work.env)
        .map_err(|cause| format!("the runbook cannot be prepared: {cause}"))?;
    let order = Order {
        launch: Launch {
            name: runbook.name.clone(),
            command,
            env,
            cwd: work.cwd.clone(),
            ..Launch::default()
        },
        timeout: work.timeout,
        output: work.output,
        agent: agent.to_owned(),
        arguments: arguments.keys().cloned().collect(),
    };
    Ok(CommandPlan {
        order,
        runner,
        question,
    })
}

/// The words of the command with the values of a call in their places.
fn fill(work: &CommandRunbook, given: &Map<String, Value>) -> Result<Vec<String>, String> {
    if let Some(stranger) = given
        .keys()
        .find(|name| !work.arguments.contains_key(*name))
    {
        let known: Vec<&str> = work.arguments.keys().map(String::as_str).collect();
        let known = match known.as_slice() {
            [] => "it takes none".to_owned(),
            known => format!("it takes {}", known.join(", ")),
        };
        let stranger: String = stranger.chars().take(64).collect();
        return Err(format!("there is no argument {stranger:?}: {known}"));
    }
    let mut command = vec![work.program.clone()];
    for word in &work.words {
        let filled = match word.argument() {
            None => word.plain().unwrap_or_default().to_owned(),
            Some(name) => {
                let Some(argument) = work.arguments.get(name) else {
                    return Err(format!("the argument `{name}` is not described"));
                };
                let value = match (given.get(name), &argument.default) {
                    (Some(Value::String(value)), _) => value,
                    (Some(_), _) => return Err(format!("`{name}` must be a string")),
                    (None, Some(default)) => default,
                    (None, None) => {
                        return Err(format!(
                            "`{name}` is missing; it must match `{}`",
                            argument.pattern
                        ));
                    }
                };
                let checked = argument.check(value);
                checked
                    .and_then(|()| word.with(value, argument))
                    .map_err(|why| format!("`{name}` {why}"))?
            }
        };
        command.push(filled);
    }
    Ok(command)
}

/// A word as a person reads it.
fn shown(word: &str) -> String {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "-_./=:@,+%".contains(c);
    if !word.is_empty() && word.chars().all(is_plain) {
        word.to_owned()
    } else {
        format!("{word:?}")
    }
}

#[async_trait]
impl Plan for CommandPlan {
    fn question(&self) -> Option<String> {
        self.question.clone()
    }

    async fn carry_out(self: Box<Self>) -> Done {
        let limit = self.order.timeout;
        match self.runner.run(self.order).await {
            Ok(ran) => done(&ran, limit),
            Err(error) => Done {
                structured: json!({
                    "exit_code": null,
                    "ended": format!("not run: {error}"),
                    "timed_out": false,
                    "seconds": 0,
                    "stdout": "",
                    "stderr": "",
                    "left_out_bytes": 0,
                }),
                text: format!("not run: {error}"),
                failed: true,
            },
        }
    }
}

fn done(ran: &Ran, limit: std::time::Duration) -> Done {
    let seconds = (ran.took.as_secs_f64() * 1000.0).round() / 1000.0;
    let ended = match ran.status {
        Some(status) => status.to_string(),
        None => format!("ended after {limit:?}, with everything it had started"),
    };
    let exit_code = match ran.status {
        Some(Status::Code(code)) => Some(code),
        _ => None,
    };
    let mut text = format!("{ended} after {seconds} s");
    if ran.status.is_none() {
        text = format!("it took too long: {ended}");
    }
    for (name, kept) in [("stdout", &ran.stdout), ("stderr", &ran.stderr)] {
        if !kept.text.is_empty() {
            text = format!("{text}\n--- {name}\n{}", kept.text.trim_end_matches('\n'));
        }
    }
    Done {
        structured: json!({
            "exit_code": exit_code,
            "ended": ended,
            "timed_out": ran.status.is_none(),
            "seconds": seconds,
            "stdout": ran.stdout.text,
            "stderr": ran.stderr.text,
            "left_out_bytes": ran.stdout.left_out + ran.stderr.left_out,
        }),
        text,
        failed: exit_code != Some(0),
    }
}
