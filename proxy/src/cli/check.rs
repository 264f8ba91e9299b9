//! `chillgate check`: every mistake of a configuration at once, or what it would do.
//!
//! Reads and compiles as `serve` would, but starts, opens and binds nothing.

use std::fmt::Write as _;
use std::process::ExitCode;

use super::answer::{Answer, CANNOT, FINE, FOUND, lines};
use super::{CheckArgs, Global, compile};
use crate::config::load::{Loaded, Sources, attempt};
use crate::config::report::Report;
use crate::config::{Listen, Server, Transport, userinfo};
use crate::standing::{Standing, server_target};

/// Checks the configuration and prints what was found.
pub fn run(_: &CheckArgs, global: &Global) -> ExitCode {
    let (answer, report) = check(&global.sources());
    report.print();
    answer.print()
}

/// The answer, and the mistakes for standard error.
fn check(sources: &Sources) -> (Answer, Report) {
    let unreadable = sources
        .file
        .as_ref()
        .is_some_and(|path| std::fs::read(path).is_err());
    let attempt = attempt(sources);
    let loaded = attempt.loaded;
    let chain = compile::now(&loaded);
    let report = match &chain {
        Ok(_) => attempt.report,
        Err(mistakes) => attempt.report.and(mistakes.clone()),
    };
    let Ok((chain, standings)) = chain else {
        return (found(&report, unreadable), report);
    };
    if !report.is_empty() {
        return (found(&report, unreadable), report);
    }
    let policies = chain.policies();
    let mut out = String::new();
    // Writing to a `String` cannot fail.
    let _ = summary(&mut out, &loaded, &policies, &standings);
    let mut err = lines(&loaded.notes);
    if loaded.config.server.is_empty() {
        err.push_str(
            "No server is configured: fine for `chillgate wrap`, not for `chillgate serve`.\n",
        );
    }
    (
        Answer {
            out,
            err,
            code: FINE,
        },
        Report::default(),
    )
}

fn found(report: &Report, unreadable: bool) -> Answer {
    let code = if unreadable { CANNOT } else { FOUND };
    let count = report.mistakes().len();
    let noun = if count == 1 { "mistake" } else { "mistakes" };
    Answer {
        out: String::new(),
        err: format!("\n{count} {noun}\n"),
        code,
    }
}

fn summary(
    out: &mut String,
    loaded: &Loaded,
    policies: &[chillgate_policies::engine::ExplainLine],
    standings: &[Standing],
) -> std::fmt::Result {
    let config = &loaded.config;
    writeln!(out, "{}: no mistakes", loaded.source.name())?;
    if config.front.is_empty() {
        writeln!(out, "  front   streamable-http on 127.0.0.1:8800")?;
    }
    for front in &config.front {
        match (front.transport, &front.listen) {
            (Transport::Stdio, _) => writeln!(out, "  front   stdio")?,
            (Transport::StreamableHttp, listen) => {
                let listen = listen
                    .as_ref()
                    .map_or("127.0.0.1:8800".to_owned(), Listen::to_string);
                writeln!(out, "  front   streamable-http on {listen}")?;
            }
        }
    }
    if let Some(admin) = &config.admin {
        writeln!(out, "  admin   on {}", admin.listen)?;
    }
    let by_schedule = |out: &mut String, name: &str| match compile::by_schedule(standings, name) {
        None => Ok(()),
        Some(by) => writeln!(out, "          {by}"),
    };
    for (name, server) in &config.server {
        match server {
            Server::Builtin(_) | Server::Ops => writeln!(out, "  server  {name}: built in")?,
            Server::Command(child) => {
                let program = child.command.first().map_or("", String::as_str);
                writeln!(out, "  server  {name}: runs {program}")?;
            }
            Server::Remote(remote) => {
                let url = userinfo::masked(&remote.url);
                writeln!(out, "  server  {name}: at {url}")?;
            }
        }
        by_schedule(out, &server_target(name.as_str()))?;
    }
    for runbook in &config.runbook {
        writeln!(out, "  runbook {}", runbook.summary())?;
    }
    for endpoint in &config.endpoint {
        let url = userinfo::masked(&endpoint.url);
        writeln!(out, "  model   {}: at {url}", endpoint.name)?;
    }
    for line in policies {
        let shadow = if line.mode.as_str() == "shadow" {
            " (shadow: only counts)"
        } else {
            ""
        };
        writeln!(out, "  policy  {}: {}{shadow}", line.name, line.summary)?;
        by_schedule(out, &line.name)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn checked(text: &str) -> (Answer, Report) {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let path = dir.path().join("chillgate.toml");
        std::fs::write(&path, text).expect("writing");
        check(&Sources {
            file: Some(path),
            ..Sources::default()
        })
    }

    #[test]
    fn a_good_file_is_summed_up_and_fine() {
        let (answer, report) = checked(
            "[server.files]\ncommand = [\"npx\", \"x\"]\n[[policy]]\ntype = \"quota\"\nname = \"calls\"\nallow = \"60/min\"\n",
        );
        assert!(report.is_empty(), "{report}");
        assert_eq!(answer.code, FINE);
        assert!(
            answer.out.contains("server  files: runs npx"),
            "{}",
            answer.out
        );
        assert!(answer.out.contains("policy  calls: "), "{}", answer.out);
    }

    #[test]
    fn what_a_schedule_says_now_and_when_it_changes_is_told() {
        let text = "[server.chill]\nbuiltin = \"chill\"\nschedule = [{ at = \"Mon-Sun\", hold = \"7s\" }]\n\
                    [[policy]]\ntype = \"quota\"\nname = \"calls\"\nallow = \"60/min\"\n\
                    schedule = [{ at = \"00:00-12:00\", allow = \"7/min\" }, { at = \"12:00-24:00\", in = \"UTC\", allow = \"8/min\" }]\n";
        let (answer, report) = checked(text);
        assert!(report.is_empty(), "{report}");
        assert!(
            answer.out.contains("by its schedule now: Mon-Sun in UTC\n"),
            "{}",
            answer.out
        );
        let now = answer.out.contains("7 per 1m") || answer.out.contains("8 per 1m");
        assert!(
            now && answer.out.contains("in UTC; others from 2"),
            "{}",
            answer.out
        );
    }

    #[test]
    fn what_stands_in_the_query_of_a_url_is_not_shown() {
        let (answer, report) = checked(
            "[server.a]\nurl = \"https://h.example/mcp?api_key=planted\"\n[[endpoint]]\nname = \"m\"\nkind = \"ollama\"\nurl = \"http://h.example?planted\"\n",
        );
        assert!(
            !format!("{}{report}", answer.out).contains("planted"),
            "{report}{}",
            answer.out
        );
        assert!(
            answer.out.contains("https://h.example/mcp?api_key=•"),
            "{report}{}",
            answer.out
        );
    }

    #[test]
    fn mistakes_of_tables_and_of_policies_are_reported_together() {
        let (answer, report) = checked(
            "[limits]\ndepth = 0\n[[policy]]\ntype = \"quota\"\nallow = \"60 per minute\"\n[[policy]]\ntype = \"quoat\"\n",
        );
        assert_eq!(answer.code, FOUND);
        assert_eq!(report.mistakes().len(), 3, "{report}");
        assert!(answer.err.contains("3 mistakes"));
    }

    #[test]
    fn a_file_that_cannot_be_read_is_not_a_finding() {
        let gone = Sources {
            file: Some("/nonexistent/chillgate.toml".into()),
            ..Sources::default()
        };
        let (answer, report) = check(&gone);
        assert_eq!(answer.code, CANNOT);
        assert!(
            report.to_string().contains("cannot read the configuration"),
            "{report}"
        );
    }
}
