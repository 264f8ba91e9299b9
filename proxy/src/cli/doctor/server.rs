//! What is found at one server: whether it starts, what it speaks, what it has, how it behaves.
//!
//! Each era is asked in a visit of its own, one after the other: some servers stay in the era of
//! the first message they hear, and some hold something that two of them cannot.

use std::fmt::Write as _;
use std::time::Duration;

use chillgate_wire::Era;
use serde::Serialize;
use serde_json::{Value, json};

use super::finding::{Finding, Level, worst};
use super::overheard::Overheard;
use super::visit::{Seen, visit};
use crate::backend::stdio::Child;
use crate::config::{Config, Server, ServerEra, ServerName, userinfo};
use crate::incidents::Incidents;
use crate::telemetry::metrics::Metrics;

/// How long a server that has not said anything in one era is waited for in the other.
const SILENCE: Duration = Duration::from_secs(5);
/// The longest end of a server that heeds the end of its input.
const PROMPT_END: Duration = Duration::from_millis(1900);

/// All that was found.
#[derive(Debug, Serialize)]
pub(super) struct Examined {
    pub(super) server: String,
    kind: &'static str,
    pub(super) level: Level,
    #[serde(flatten)]
    facts: Value,
    pub(super) findings: Vec<Finding>,
}

/// Looks at one server.
pub(super) async fn examine(
    config: &Config,
    name: &ServerName,
    server: &Server,
    overheard: &Overheard,
    incidents: &Incidents,
) -> Examined {
    let mut findings = Vec::new();
    let (kind, era, limit) = match server {
        Server::Builtin(_) | Server::Ops => ("builtin", ServerEra::Legacy, Duration::from_secs(10)),
        Server::Command(child) => ("command", child.era, child.start_timeout),
        Server::Remote(remote) if remote.http_sse => {
            ("remote", ServerEra::Legacy, remote.start_timeout)
        }
        Server::Remote(remote) => ("remote", remote.era, remote.start_timeout),
    };
    let mut facts = json!({ "eras": [] });
    if let Server::Command(child) = server {
        let program = child.command.first().map_or("", String::as_str);
        match Child::new(child.clone()).look(name.as_str(), incidents, &Metrics::new()) {
            Ok(()) => findings.push(Finding::ok(format!("runs {program}"))),
            Err(cause) => {
                // What is known of it stands in the cause.
                findings.push(Finding::fail(format!("cannot be started: {cause}"), None));
                return finished(name, kind, facts, findings);
            }
        }
    }
    if let Server::Remote(remote) = server {
        findings.push(Finding::ok(format!(
            "is at {}",
            userinfo::masked(&remote.url)
        )));
        if remote.is_by_caller() {
            let text =
                "is not visited: each host reaches it with a token of its own (`token.exchange`)";
            findings.push(Finding::ok(text.to_owned()));
            return finished(name, kind, facts, findings);
        }
    }
    let asked = match era {
        ServerEra::Auto => vec![Era::Legacy, Era::Modern],
        ServerEra::Legacy => vec![Era::Legacy],
        ServerEra::Modern => vec![Era::Modern],
    };
    let (mut best, mut first_cause, mut eras) = (None::<Seen>, None, Vec::new());
    for era in asked {
        let limit = match (&best, &first_cause) {
            (None, None) => limit,
            (Some(seen), _) => limit.min(SILENCE.max(seen.after * 2)),
            (None, Some(_)) => limit.min(SILENCE),
        };
        let seen = visit(
            config,
            name,
            within(server, limit),
            era,
            limit,
            overheard,
            incidents,
        )
        .await;
        match &seen.greeting {
            Ok(_) => {
                eras.push(match era {
                    Era::Legacy => "legacy",
                    Era::Modern => "modern",
                });
                best = best.or(Some(seen));
            }
            Err(cause) => {
                let is_first = first_cause.is_none();
                // A server that is not there is not there in any era.
                let is_gone = is_first && kind == "remote" && cause.contains("not available");
                first_cause = first_cause.or(Some(cause.clone()));
                if is_gone {
                    break;
                }
            }
        }
    }
    facts["eras"] = json!(eras);
    match (best, first_cause) {
        (Some(seen), _) => judge(name, &seen, &eras, limit, kind, &mut facts, &mut findings),
        (None, cause) => {
            let cause = cause.unwrap_or_default();
            let known = incidents.latest(name.as_str());
            let known = known.map(|known| known.sentence()).unwrap_or_default();
            // The cause ends with it; here it is the help.
            let cause = cause.replacen(&known, "", 1);
            let known = known
                .trim_start_matches("; ")
                .trim_start_matches("what to do: ");
            let known = (!known.is_empty()).then(|| known.to_owned());
            let help: Vec<String> = [known, by_hand(server)].into_iter().flatten().collect();
            let help = (!help.is_empty()).then(|| help.join("; or "));
            findings.push(Finding::fail(cause, help));
        }
    }
    let heard = overheard.of(name.as_str());
    if heard.count > 0 {
        facts["stderr"] = json!({ "lines": heard.count, "last": heard.lines });
        let starts = match heard.starts {
            0 | 1 => String::new(),
            starts => format!(" in {starts} starts"),
        };
        let mut text = format!("wrote {} lines to stderr{starts}; the last:", heard.count);
        for line in &heard.lines {
            let _ = write!(text, "\n{line}");
        }
        findings.push(Finding::ok(text));
    }
    finished(name, kind, facts, findings)
}

fn finished(
    name: &ServerName,
    kind: &'static str,
    facts: Value,
    findings: Vec<Finding>,
) -> Examined {
    Examined {
        server: name.to_string(),
        kind,
        level: worst(&findings),
        facts,
        findings,
    }
}

/// The server, waited for so long.
fn within(server: &Server, limit: Duration) -> Server {
    let mut server = server.clone();
    match &mut server {
        Server::Builtin(_) | Server::Ops => {}
        Server::Command(child) => child.start_timeout = limit,
        Server::Remote(remote) => remote.start_timeout = limit,
    }
    server
}

/// What to try where a server that can be started gives no answer.
fn by_hand(server: &Server) -> Option<String> {
    match server {
        Server::Command(child) => Some(format!(
            "start it by hand and see what it says: {}",
            userinfo::masked(&for_shell(&child.command))
        )),
        Server::Remote(_) => {
            Some("see whether it runs, and whether `url` and `headers` are right".to_owned())
        }
        Server::Builtin(_) | Server::Ops => None,
    }
}

/// A command as one pastes it into a POSIX shell.
fn for_shell(command: &[String]) -> String {
    // What no shell can be told has a NUL in it, and was never started.
    shlex::try_join(command.iter().map(String::as_str)).unwrap_or_else(|_| command.join(" "))
}

fn judge(
    name: &ServerName,
    seen: &Seen,
    eras: &[&str],
    limit: Duration,
    kind: &str,
    facts: &mut Value,
    findings: &mut Vec<Finding>,
) {
    let Ok(said) = &seen.greeting else { return };
    let of = |key: &str| said["serverInfo"][key].as_str().unwrap_or("?").to_owned();
    let revision = said["protocolVersion"].as_str().unwrap_or("?");
    let seconds = seen.after.as_secs_f64();
    facts["name"] = json!(of("name"));
    facts["version"] = json!(of("version"));
    facts["revision"] = json!(revision);
    facts["first_answer_ms"] = json!(u64::try_from(seen.after.as_millis()).unwrap_or(u64::MAX));
    let speaks = match eras {
        ["legacy"] => format!("speaks {revision}"),
        ["modern"] => "speaks 2026-07-28 only".to_owned(),
        _ => format!("speaks {revision} and 2026-07-28"),
    };
    let text = format!(
        "{} {} answered after {seconds:.2} s; {speaks}",
        of("name"),
        of("version")
    );
    findings.push(if seen.after * 2 > limit {
        let help = format!(
            "`start-timeout` is {} s; give it more in [server.{name}]",
            limit.as_secs_f64()
        );
        Finding::warn(text, help)
    } else {
        Finding::ok(text)
    });
    let mut counts = Vec::new();
    for (list, count) in &seen.lists {
        match count {
            Ok(count) => {
                facts[*list] = json!(count);
                counts.push(format!("{count} {list}"));
            }
            Err(cause) => {
                findings.push(Finding::fail(
                    format!("its {list} cannot be listed: {cause}"),
                    None,
                ));
            }
        }
    }
    if let Some(bytes) = seen.memory {
        facts["memory_bytes"] = json!(bytes);
        counts.push(format!("{:.0} MiB of memory", bytes as f64 / 1_048_576.0));
    }
    if !counts.is_empty() {
        findings.push(Finding::ok(format!("has {}", counts.join(", "))));
    }
    facts["protocol_errors"] = json!(seen.errors);
    let wrong: u64 = seen.errors.values().sum();
    if wrong > 0 {
        let kinds: Vec<String> = seen
            .errors
            .iter()
            .map(|(kind, count)| format!("{kind}: {count}"))
            .collect();
        findings.push(Finding::warn(
            format!(
                "sent {wrong} lines that are no valid messages ({})",
                kinds.join(", ")
            ),
            "they are dropped; what it prints for people belongs on standard error",
        ));
    }
    if kind == "command" && seen.end > PROMPT_END {
        findings.push(Finding::warn(
            format!(
                "took {:.1} s to end once its input was closed",
                seen.end.as_secs_f64()
            ),
            "it is ended by force each time; it should end with its standard input",
        ));
    }
}
