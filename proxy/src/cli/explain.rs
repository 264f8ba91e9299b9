//! `chillgate explain`: the policies one call would meet, in the order they are asked.
//!
//! Shows each with why it applies or not. Nothing is called, counted or waited for.

use std::fmt::Write as _;
use std::process::ExitCode;
use std::sync::Arc;

use chillgate_policies::KINDS;
use chillgate_policies::engine::{Call, Chain, Context, ExplainLine, Grants};
use chillgate_wire::method;

use super::answer::{Answer, FINE, lines};
use super::{ExplainArgs, Global, compile};
use crate::config::hint;
use crate::config::load::{Loaded, load};
use crate::config::{Config, ServerName};
use crate::standing::Standing;

/// Explains one call and prints it.
pub fn run(args: &ExplainArgs, global: &Global) -> ExitCode {
    let chain = load(&global.sources()).and_then(|loaded| {
        let now = compile::now(&loaded)?;
        Ok((loaded, now))
    });
    match chain {
        Ok((loaded, (chain, standings))) => explain(args, &loaded, &chain, &standings).print(),
        Err(report) => {
            report.print();
            ExitCode::from(super::answer::CANNOT)
        }
    }
}

fn explain(args: &ExplainArgs, loaded: &Loaded, chain: &Chain, standings: &[Standing]) -> Answer {
    let call = match call(args, &loaded.config) {
        Ok(call) => call,
        Err(answer) => return *answer,
    };
    let doubts = doubts(args, &call, &loaded.config);
    let mut out = String::new();
    // Writing to a `String` cannot fail.
    let _ = show(
        &mut out,
        &call,
        &chain.explain(&call),
        &matching(loaded, &call),
        standings,
    );
    let err = lines(&loaded.notes) + &lines(&doubts);
    Answer {
        out,
        err,
        code: FINE,
    }
}

/// The call that is meant. `server__tool` names both where no server is given.
fn call(args: &ExplainArgs, config: &Config) -> Result<Call, Box<Answer>> {
    let names: Vec<&str> = config.server.keys().map(ServerName::as_str).collect();
    if !args.method.contains('/') && !matches!(args.method.as_str(), "initialize" | "ping") {
        let message = format!("{:?} is no MCP method", args.method);
        let known = ["tools/call", "tools/list", "prompts/get", "resources/read"];
        let near = hint::nearest(&args.method, known).unwrap_or("tools/call");
        let help = format!("chillgate explain {near}");
        return Err(Box::new(Answer::cannot(&message, Some(&help))));
    }
    let split = args.tool.as_deref().and_then(|tool| tool.split_once("__"));
    let (server, tool) = match (args.server.as_deref(), split) {
        (None, Some((server, tool))) if names.contains(&server) => (server, Some(tool)),
        (Some(given), Some((server, tool))) if given == server => (server, Some(tool)),
        (None, _) if args.tool.is_some() && names.len() > 1 => {
            let message = "the tool may be on any of several servers";
            let help = format!("add --server and one of {}", hint::list(names));
            return Err(Box::new(Answer::cannot(message, Some(&help))));
        }
        (None, _) => (
            if names.len() == 1 { names[0] } else { "*" },
            args.tool.as_deref(),
        ),
        (Some(server), _) => (server, args.tool.as_deref()),
    };
    if server != "*" && !names.contains(&server) {
        let message = format!("there is no server {server:?}");
        let help = match hint::nearest(server, names.iter().copied()) {
            Some(near) => format!("did you mean `{near}`?"),
            None if names.is_empty() => "add [server.NAME] to the configuration".to_owned(),
            None => format!("the servers are {}", hint::list(names)),
        };
        return Err(Box::new(Answer::cannot(&message, Some(&help))));
    }
    let agent = args.agent.as_deref().or(config.identity.fixed.as_deref());
    Ok(Call {
        agent: agent.unwrap_or("anonymous").into(),
        grants: Arc::new(Grants {
            groups: args.group.iter().map(|name| name.as_str().into()).collect(),
            scopes: args.scope.iter().map(|name| name.as_str().into()).collect(),
        }),
        server: server.into(),
        method: args.method.as_str().into(),
        target: tool.map(Into::into),
        arguments: None,
        id: None,
        bytes_in: 0,
        deadline: None,
        context: Arc::new(Context::default()),
    })
}

/// What is explained all the same, but may not be what was meant.
fn doubts(args: &ExplainArgs, call: &Call, config: &Config) -> Vec<String> {
    let mut doubts = Vec::new();
    if method::sender(&call.method).is_none() {
        let near = hint::nearest(&call.method, method::all())
            .map(|near| format!("; did you mean `{near}`?"))
            .unwrap_or_default();
        doubts.push(format!(
            "MCP defines no method {:?}; it is explained as a server's own{near}",
            call.method
        ));
    }
    if args.server.is_none()
        && let Some((prefix, _)) = call
            .target
            .as_deref()
            .and_then(|tool| tool.split_once("__"))
        && &*call.method == "tools/call"
    {
        let near = hint::nearest(prefix, config.server.keys().map(ServerName::as_str))
            .map(|near| format!("; did you mean `{near}`?"))
            .unwrap_or_default();
        doubts.push(format!(
            "no server is called {prefix:?}, so {:?} is taken as a tool of {}{near}",
            call.target.as_deref().unwrap_or_default(),
            call.server
        ));
    }
    doubts
}

/// The names of policies whose `match` fits by itself, whatever other policies there are.
fn matching(loaded: &Loaded, call: &Call) -> Vec<String> {
    let services = compile::services(loaded);
    let alone = loaded.config.policy.iter().filter_map(|table| {
        let chain = Chain::build(std::slice::from_ref(table), &services).ok()?;
        Some(chain.explain(call))
    });
    alone
        .flatten()
        .filter(|line| line.applies)
        .map(|line| line.name)
        .collect()
}

fn show(
    out: &mut String,
    call: &Call,
    lines: &[ExplainLine],
    matching: &[String],
    standings: &[Standing],
) -> std::fmt::Result {
    let what = match &call.target {
        Some(_) => format!("{} {}", call.method, call.canonical()),
        None if &*call.server == "*" => format!("{} of all servers", call.method),
        None => format!("{} of {}", call.method, call.server),
    };
    writeln!(out, "{what} by {}", call.agent)?;
    if lines.is_empty() {
        writeln!(out, "\nno policies: every call passes")?;
    }
    for (index, line) in lines.iter().enumerate() {
        let why = if line.applies {
            match line.mode.as_str() {
                "shadow" => "applies, but only counts (shadow)".to_owned(),
                _ => "applies".to_owned(),
            }
        } else if once(line.kind) && matching.contains(&line.name) {
            format!(
                "is not asked: an earlier {} policy applies already",
                line.kind
            )
        } else {
            "does not apply: the call does not match".to_owned()
        };
        writeln!(out, "\n{}. {} {why}", index + 1, line.name)?;
        let (kind, stage, mode) = (line.kind, line.stage, line.mode.as_str());
        let stage = format!("{stage:?}").to_lowercase();
        writeln!(out, "   type {kind}, stage {stage}, mode {mode}")?;
        writeln!(out, "   match {}", line.rule)?;
        writeln!(out, "   {}", line.summary)?;
        if let Some(by) = compile::by_schedule(standings, &line.name) {
            writeln!(out, "   {by}")?;
        }
    }
    Ok(())
}

fn once(kind: &str) -> bool {
    KINDS.iter().any(|known| known.name == kind && known.once)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::load::Sources;

    const FILE: &str = r#"
[server.files]
command = ["files"]
[server.search]
url = "https://mcp.example/mcp"
[[policy]]
type = "quota"
name = "calls"
match = { method = "tools/call", server = "files" }
allow = "60/min"
[[policy]]
type = "audit"
name = "first"
match = { tool = "delete_*" }
[[policy]]
type = "audit"
name = "second"
match = { server = "files" }
[[policy]]
type = "access"
name = "interns"
mode = "shadow"
match = { agent = "intern-*" }
deny = ["files__write_*"]
[audit]
file = "-"
"#;

    fn explained(args: &ExplainArgs) -> Answer {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let path = dir.path().join("chillgate.toml");
        std::fs::write(&path, FILE).expect("writing");
        let loaded = load(&Sources {
            file: Some(path),
            ..Sources::default()
        })
        .expect("loads");
        let (chain, standings) = compile::now(&loaded).expect("compiles");
        explain(args, &loaded, &chain, &standings)
    }

    fn args(tool: &str, agent: &str) -> ExplainArgs {
        ExplainArgs {
            method: "tools/call".to_owned(),
            tool: Some(tool.to_owned()),
            agent: Some(agent.to_owned()),
            ..ExplainArgs::default()
        }
    }

    #[test]
    fn every_policy_is_shown_in_order_with_why_it_applies_or_not() {
        let answer = explained(&args("files__delete_file", "intern-1"));
        let heads: Vec<_> = answer
            .out
            .lines()
            .filter(|line| line.starts_with(|c: char| c.is_ascii_digit()))
            .collect();
        assert_eq!(
            heads,
            [
                "1. first applies",
                "2. second is not asked: an earlier audit policy applies already",
                "3. interns applies, but only counts (shadow)",
                "4. calls applies",
            ],
            "{}",
            answer.out
        );
        let other = explained(&args("search__find", "a")).out;
        assert_eq!(other.matches("does not apply").count(), 4, "{other}");
    }

    #[test]
    fn an_unclear_call_is_answered_with_what_to_add() {
        assert!(
            explained(&args("find", "a"))
                .err
                .contains("--server and one of `files` or `search`")
        );
        let mut wrong = args("find", "a");
        wrong.server = Some("serch".to_owned());
        assert!(explained(&wrong).err.contains("did you mean `search`?"));
        let mut odd = args("files__find", "a");
        odd.method = "tools/cal".to_owned();
        let odd = explained(&odd);
        assert!(
            odd.err.contains("did you mean `tools/call`?"),
            "{}",
            odd.err
        );
        assert_eq!(odd.code, FINE);
        wrong.method = "tool-call".to_owned();
        assert!(
            explained(&wrong)
                .err
                .contains("chillgate explain tools/call")
        );
    }
}
