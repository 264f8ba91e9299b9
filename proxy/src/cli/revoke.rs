//! `chillgate revoke`: lets an agent in no more, at every replica and within a second.
//!
//! Says so in the store that replicas share, which is why it needs one. It changes no configuration.

use std::fmt::Write as _;
use std::process::ExitCode;
use std::time::Duration;

use chillgate_policies::engine::span::Span;
use serde_json::{Value, json};

use super::answer::{Answer, CANNOT, FINE};
use super::{Global, RevokeArgs};
use crate::config::agent_name;
use crate::config::load::load;
use crate::store::list::Listing;
use crate::store::{StoreError, Target};

/// Revokes, takes back, or lists.
pub fn run(args: &RevokeArgs, global: &Global) -> ExitCode {
    let loaded = match load(&global.sources()) {
        Ok(loaded) => loaded,
        Err(report) => {
            report.print();
            return ExitCode::from(CANNOT);
        }
    };
    let state = &loaded.config.state;
    let Some(target) = Target::of(state) else {
        let help = "name one with [state] store; without one, take the agent's key out of [identity] and \
                    chillgate reloads";
        let message = "no store is configured in which replicas could hear of it";
        return Answer::cannot(message, Some(help)).print();
    };
    let span = match args.span.as_deref().map(str::parse::<Span>) {
        None => None,
        Some(Ok(Span(span))) if span >= Duration::from_secs(1) => Some(span),
        Some(_) => {
            let message = format!(
                "{:?} is no time of a second or more",
                args.span.as_deref().unwrap_or_default()
            );
            return Answer::cannot(&message, Some("write --for 30m, or leave it out")).print();
        }
    };
    if let Some(agent) = args.agent.as_ref().filter(|agent| !agent_name(agent)) {
        let message = format!("{agent:?} is no name that an agent could have");
        return Answer::cannot(&message, None).print();
    }
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    let answer = match runtime {
        Ok(runtime) => runtime.block_on(answer(args, span, &target, &state.prefix)),
        Err(error) => Answer::cannot(&format!("the runtime could not be made: {error}"), None),
    };
    answer.print()
}

async fn answer(
    args: &RevokeArgs,
    span: Option<Duration>,
    target: &Target,
    prefix: &str,
) -> Answer {
    let done = async {
        let mut listing = Listing::open(target, prefix).await?;
        match &args.agent {
            None => list(&mut listing, args.json).await,
            Some(agent) if args.undo => undo(&mut listing, agent).await,
            Some(agent) => revoke(&mut listing, agent, span).await,
        }
    };
    done.await.unwrap_or_else(|error: StoreError| {
        let help = "look at [state]; `redis-cli` with the same address says more";
        Answer::cannot(&format!("the store cannot be used: {error}"), Some(help))
    })
}

async fn revoke(
    listing: &mut Listing,
    agent: &str,
    span: Option<Duration>,
) -> Result<Answer, StoreError> {
    listing.revoke(agent, span).await?;
    let until = match span {
        None => format!("until `chillgate revoke --undo {agent}`"),
        Some(span) => format!("for {}", Span(span)),
    };
    let err = format!("`{agent}` is let in no more, {until}.\n");
    Ok(said(String::new(), err, FINE))
}

async fn undo(listing: &mut Listing, agent: &str) -> Result<Answer, StoreError> {
    if listing.restore(agent).await? {
        return Ok(said(
            String::new(),
            format!("`{agent}` is let in again.\n"),
            FINE,
        ));
    }
    let help = "`chillgate revoke` lists who is";
    let message = format!("`{agent}` is not revoked");
    Ok(Answer::cannot(&message, Some(help)))
}

async fn list(listing: &mut Listing, as_json: bool) -> Result<Answer, StoreError> {
    let all = listing.revoked().await?;
    if as_json {
        let list = all.iter().map(|it| {
            let left = it.left.map(|left| left.as_secs());
            json!({ "agent": it.agent, "secondsLeft": left })
        });
        let list: Vec<Value> = list.collect();
        return Ok(said(
            format!("{:#}\n", Value::from(list)),
            String::new(),
            FINE,
        ));
    }
    if all.is_empty() {
        return Ok(said(String::new(), "Nobody is revoked.\n".to_owned(), FINE));
    }
    let mut out = String::new();
    for it in all {
        let left = it.left.map(|left| Duration::from_secs(left.as_secs()));
        let until = left.map_or_else(
            || "until undone".to_owned(),
            |left| format!("for {} more", Span(left)),
        );
        let _ = writeln!(out, "{}  {until}", it.agent);
    }
    Ok(said(out, String::new(), FINE))
}

fn said(out: String, err: String, code: u8) -> Answer {
    Answer { out, err, code }
}
