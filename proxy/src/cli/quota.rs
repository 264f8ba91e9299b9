//! `chillgate quota`: what is spent of budgets in the store that replicas share, and how to give it
//! back.
//!
//! Asks the store itself, not a running chillgate. It counts nothing.

use std::fmt::Write as _;
use std::process::ExitCode;
use std::time::Duration;

use chillgate_policies::engine::ledger::Key;
use chillgate_policies::engine::span::Span;
use serde_json::{Value, json};

use super::answer::{Answer, CANNOT, FINE};
use super::{Global, QuotaArgs, compile};
use crate::config::hint;
use crate::config::load::load;
use crate::store::list::{Kept, Listing, What};
use crate::store::{StoreError, Target};

/// Lists them, or forgets some.
pub fn run(args: &QuotaArgs, global: &Global) -> ExitCode {
    let loaded = match load(&global.sources()) {
        Ok(loaded) => loaded,
        Err(report) => {
            report.print();
            return ExitCode::from(CANNOT);
        }
    };
    let policies = match compile::chain(&loaded) {
        Ok(chain) => chain.policies(),
        Err(report) => {
            report.print();
            return ExitCode::from(CANNOT);
        }
    };
    let counting = policies
        .iter()
        .filter(|policy| matches!(policy.kind, "quota" | "boss-alert"));
    let names: Vec<&str> = counting.map(|policy| &*policy.name).collect();
    let state = &loaded.config.state;
    let Some(target) = Target::of(state) else {
        let help =
            "name one with [state] store, or look at chillgate_quota_remaining_ratio in /metrics";
        let message = "counters are each process's own: there is no store to look into";
        return Answer::cannot(message, Some(help)).print();
    };
    if let Some(wanted) = &args.policy
        && !names.contains(&wanted.as_str())
    {
        let help = match hint::nearest(wanted, names.iter().copied()) {
            Some(near) => format!("did you mean `{near}`?"),
            None => format!("those that count are {}", hint::list(names)),
        };
        let message = format!("there is no policy {wanted:?} that counts");
        return Answer::cannot(&message, Some(&help)).print();
    }
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    let answer = match runtime {
        Ok(runtime) => runtime.block_on(answer(args, &names, &target, &state.prefix)),
        Err(error) => Answer::cannot(&format!("the runtime could not be made: {error}"), None),
    };
    answer.print()
}

async fn answer(args: &QuotaArgs, names: &[&str], target: &Target, prefix: &str) -> Answer {
    match look(args, names, target, prefix).await {
        Ok(answer) => answer,
        Err(error) => {
            let help = "look at [state]; `redis-cli` with the same address says more";
            Answer::cannot(&format!("the store cannot be used: {error}"), Some(help))
        }
    }
}

async fn look(
    args: &QuotaArgs,
    names: &[&str],
    target: &Target,
    prefix: &str,
) -> Result<Answer, StoreError> {
    let mut listing = Listing::open(target, prefix).await?;
    let fits = |kept: &Kept| {
        let agent = args.agent.as_deref();
        agent.is_none_or(|agent| kept.key.agent.as_deref() == Some(agent))
    };
    let wanted = |name: &&&str| args.policy.as_deref().is_none_or(|wanted| wanted == **name);
    let mut all = Vec::new();
    for name in names.iter().filter(wanted) {
        for kept in listing.of(name).await?.into_iter().filter(fits) {
            if args.reset {
                listing.forget(name, &kept).await?;
            }
            all.push(kept);
        }
    }
    let (out, err) = match (args.json, args.reset) {
        (true, _) => {
            let list: Vec<Value> = all.iter().map(as_json).collect();
            (format!("{:#}\n", Value::from(list)), String::new())
        }
        (false, true) => (
            as_text(&all),
            format!("{} forgotten: full again.\n", all.len()),
        ),
        (false, false) if all.is_empty() => (String::new(), "Nothing is spent.\n".to_owned()),
        (false, false) => (as_text(&all), String::new()),
    };
    Ok(Answer {
        out,
        err,
        code: FINE,
    })
}

fn parts(key: &Key) -> [(&'static str, Option<&str>); 5] {
    [
        ("agent", key.agent.as_deref()),
        ("group", key.group.as_deref()),
        ("scope", key.scope.as_deref()),
        ("server", key.server.as_deref()),
        ("tool", key.tool.as_deref()),
    ]
}

fn as_json(kept: &Kept) -> Value {
    let mut value = json!({ "policy": kept.name });
    for (name, part) in parts(&kept.key) {
        if let Some(part) = part {
            value[name] = part.into();
        }
    }
    match kept.what {
        What::Spent { spent, full_in } => {
            value["spent"] = spent.into();
            value["fullInMs"] = u64::try_from(full_in.as_millis())
                .unwrap_or(u64::MAX)
                .into();
        }
        What::Alert { level } => value["alert"] = level.into(),
    }
    value
}

fn as_text(all: &[Kept]) -> String {
    let mut out = String::new();
    for kept in all {
        let whose = parts(&kept.key).into_iter();
        let whose =
            whose.filter_map(|(name, part)| Some(format!(" {name} {}", part?.escape_debug())));
        let whose = match whose.collect::<String>() {
            whose if whose.is_empty() => " all".to_owned(),
            whose => whose,
        };
        // Writing to a `String` cannot fail.
        let _ = match kept.what {
            What::Spent { spent, full_in } => {
                let seconds = Duration::from_secs(
                    full_in
                        .as_millis()
                        .div_ceil(1000)
                        .try_into()
                        .unwrap_or(u64::MAX),
                );
                writeln!(
                    out,
                    "{}{whose}: {spent} spent, full in {}",
                    kept.name,
                    Span(seconds)
                )
            }
            What::Alert { level } => writeln!(out, "{}{whose}: alert {level} of 5", kept.name),
        };
    }
    out
}
