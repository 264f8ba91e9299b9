//! `chillgate quota`: what is spent of budgets, and how to give it back.
//!
//! Asks the store that replicas share, where there is one, else the running chillgate. It counts
//! nothing.

use std::process::ExitCode;

use http::Method;
use serde_json::json;

use super::answer::{Answer, CANNOT, FINE};
use super::{Global, QuotaArgs, admin, compile};
use crate::config::load::load;
use crate::config::{Admin, hint};
use crate::spent::Spent;
use crate::store::list::{Kept, Listing};
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
        if let Some(admin) = &loaded.config.admin {
            return through_admin(args, admin).print();
        }
        let help = "write [admin] listen = \"unix:/run/chillgate/admin.sock\", and the running chillgate is asked; \
                    or name a store that replicas share with [state] store";
        let message = "counters are each process's own, and nobody can be asked for them";
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
    let all: Vec<Spent> = all.iter().map(Spent::of_kept).collect();
    Ok(shown(args, &all))
}

fn shown(args: &QuotaArgs, all: &Vec<Spent>) -> Answer {
    let (out, err) = match (args.json, args.reset) {
        (true, _) => (format!("{:#}\n", json!(all)), String::new()),
        (false, true) => (
            as_text(all),
            format!("{} forgotten: full again.\n", all.len()),
        ),
        (false, false) if all.is_empty() => (String::new(), "Nothing is spent.\n".to_owned()),
        (false, false) => (as_text(all), String::new()),
    };
    Answer {
        out,
        err,
        code: FINE,
    }
}

fn as_text(all: &[Spent]) -> String {
    let lines: Vec<String> = all.iter().map(ToString::to_string).collect();
    super::answer::lines(&lines)
}

/// Asks the running chillgate.
fn through_admin(args: &QuotaArgs, admin: &Admin) -> Answer {
    admin::with(Some(admin), async |running| {
        let mut query = form_urlencoded::Serializer::new(String::new());
        for (key, value) in [("policy", &args.policy), ("agent", &args.agent)] {
            if let Some(value) = value {
                query.append_pair(key, value);
            }
        }
        let path = format!("/api/v1/quota?{}", query.finish());
        let (method, key) = if args.reset {
            (Method::DELETE, "reset")
        } else {
            (Method::GET, "usage")
        };
        let mut answer = running.ask(method, &path, None).await?;
        let all = serde_json::from_value(answer[key].take()).unwrap_or_default();
        Ok(shown(args, &all))
    })
}
