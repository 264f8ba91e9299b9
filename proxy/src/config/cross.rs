//! Rules between keys, and ranges of numbers: what single values cannot show.
//!
//! Runs once every value has been read. A rule is left out while one of the tables it looks at has
//! a mistake, so that one slip is not reported twice. It opens no file.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::Path;
use std::time::Duration;

use super::load::Said;
use super::source::Step;
use super::{Config, Front, Listen, Transport, hint};

mod admin;
mod identity;
mod replicas;
mod state;

/// Where a front listens that says nothing about it.
const DEFAULT_FRONT: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 8800);

/// Everything that is wrong between keys; `wrong` are the tables with mistakes of their own.
pub(super) fn mistakes(config: &Config, wrong: &BTreeSet<String>) -> Vec<Said> {
    let sound = |tables: &[&str]| !tables.iter().any(|table| wrong.contains(*table));
    let mut found = Vec::new();
    if sound(&["front"]) {
        fronts(config, &mut found);
    }
    if sound(&["front", "identity"]) {
        strangers(config, &mut found);
    }
    if sound(&["front", "audit"]) {
        audit(config, &mut found);
    }
    if sound(&["front", "health"]) {
        health(config, &mut found);
    }
    if sound(&["front", "health", "admin"]) {
        admin::mistakes(config, &mut found);
    }
    if sound(&["identity"]) {
        identity::mistakes(&config.identity, &mut found);
    }
    if sound(&["server", "identity"]) {
        exchanges(config, &mut found);
    }
    if sound(&["state"]) {
        state::mistakes(&config.state, &mut found);
    }
    if sound(&["state", "replicas", "front", "health"]) {
        replicas::mistakes(config, &mut found);
    }
    if sound(&["runbook"]) {
        runbooks(config, &mut found);
    }
    if sound(&["endpoint"]) {
        endpoints(config, &mut found);
    }
    limits(config, sound(&["limits"]), &mut found);
    if sound(&["rest"])
        && config
            .rest
            .after
            .is_some_and(|after| after < Duration::from_secs(1))
    {
        let text = "nobody rests after less than a second";
        found.push(Said::at(&["rest", "after"], text, "write after = \"30m\""));
    }
    if sound(&["remedy"]) {
        remedies(config, &mut found);
    }
    if sound(&["log"]) && tracing_subscriber::EnvFilter::try_new(&config.log.filter).is_err() {
        let help = "write filter = \"info\" or filter = \"warn,chillgate=debug\"";
        found.push(Said::at(
            &["log", "filter"],
            "`filter` is no log filter",
            help,
        ));
    }
    found
}

fn of(index: usize, key: &str) -> Vec<Step> {
    vec![Step::from("front"), Step::Index(index), Step::from(key)]
}

/// The address of an HTTP front.
fn address(front: &Front) -> Option<Listen> {
    match front.transport {
        Transport::Stdio => None,
        Transport::StreamableHttp => {
            Some(front.listen.clone().unwrap_or(Listen::Tcp(DEFAULT_FRONT)))
        }
    }
}

/// Whether two listeners cannot both be opened. Port 0 is any free port.
fn clash(a: &Listen, b: &Listen) -> bool {
    match (a, b) {
        (Listen::Unix(a), Listen::Unix(b)) => a == b,
        (Listen::Tcp(a), Listen::Tcp(b)) => {
            a.port() != 0
                && a.port() == b.port()
                && (a.ip() == b.ip() || covers(a.ip(), b.ip()) || covers(b.ip(), a.ip()))
        }
        _ => false,
    }
}

/// Whether `all` is every address of `one`'s kind. `::` also takes IPv4.
fn covers(all: IpAddr, one: IpAddr) -> bool {
    all.is_unspecified() && (all.is_ipv6() || one.is_ipv4())
}

fn fronts(config: &Config, found: &mut Vec<Said>) {
    let mut stdio = 0;
    for (index, front) in config.front.iter().enumerate() {
        if front.transport == Transport::Stdio {
            stdio += 1;
            if stdio == 2 {
                found.push(Said::new(
                    of(index, "transport"),
                    "there is only one standard input: a second stdio front cannot be",
                    "remove this front or write transport = \"streamable-http\"",
                ));
            }
            let given = [
                ("listen", front.listen.is_some()),
                ("tls", front.tls.is_some()),
                ("http-sse", !front.http_sse),
                ("allow-anonymous", front.allow_anonymous),
                ("allowed-hosts", !front.allowed_hosts.is_empty()),
                ("allowed-origins", !front.allowed_origins.is_empty()),
            ];
            for (key, _) in given.into_iter().filter(|(_, given)| *given) {
                found.push(
                    Said::new(
                        of(index, key),
                        format!("`{key}` has no meaning for a stdio front"),
                        "remove it or write transport = \"streamable-http\"",
                    )
                    .of_key(),
                );
            }
        }
        if matches!(front.listen, Some(Listen::Unix(_))) && front.tls.is_some() {
            found.push(
                Said::new(
                    of(index, "tls"),
                    "a Unix socket does not speak TLS",
                    "remove `tls`; the socket's file permissions decide who may connect",
                )
                .of_key(),
            );
        }
        for origin in &front.allowed_origins {
            let rest = origin
                .strip_prefix("https://")
                .or_else(|| origin.strip_prefix("http://"));
            if rest.is_none_or(|rest| rest.is_empty() || rest.contains(['/', '*', ' '])) {
                found.push(Said::new(
                    of(index, "allowed-origins"),
                    format!("`{origin}` is no origin"),
                    "write scheme and host only: allowed-origins = [\"https://app.example\"]",
                ));
            }
        }
        for host in &front.allowed_hosts {
            if host.is_empty() || host.contains(['/', '*', ' ', '@']) {
                found.push(Said::new(
                    of(index, "allowed-hosts"),
                    format!("`{host}` is no host name"),
                    "write the name alone: allowed-hosts = [\"mcp.example\"]",
                ));
            }
        }
        let Some(listen) = address(front) else {
            continue;
        };
        let earlier = config.front.iter().take(index).filter_map(address);
        if earlier.into_iter().any(|other| clash(&other, &listen)) {
            found.push(Said::new(
                of(index, "listen"),
                format!("two fronts cannot both listen on {listen}"),
                "give this front an address of its own, such as listen = \"127.0.0.1:8801\"",
            ));
        }
    }
}

/// Only a host with a token has something that can be exchanged.
fn exchanges(config: &Config, found: &mut Vec<Said>) {
    let identity = &config.identity;
    if !identity.jwt.is_empty() || identity.token_review.is_some() {
        return;
    }
    for (name, server) in &config.server {
        if server.is_by_caller() {
            found.push(Said::at(
                &["server", name.as_str(), "token", "exchange"],
                "no host has a token that could be exchanged: no issuer is configured",
                "name one under [identity.jwt], or write exchange = false for a token of chillgate's own",
            ));
        }
    }
}

/// A front that the network reaches needs to know who calls.
fn strangers(config: &Config, found: &mut Vec<Said>) {
    let identity = &config.identity;
    if identity.asks() || identity.header.is_some() {
        return;
    }
    for (index, front) in config.front.iter().enumerate() {
        let Some(Listen::Tcp(address)) = address(front) else {
            continue;
        };
        if address.ip().is_loopback() || front.allow_anonymous {
            continue;
        }
        found.push(Said::new(
            of(index, "listen"),
            format!(
                "anybody who reaches {address} could call every server: no identity is configured"
            ),
            "make keys with `chillgate key AGENT` and add them under [identity] api-keys,\n\
             or name an issuer of tokens under [identity.jwt],\n\
             or listen on 127.0.0.1, or write allow-anonymous = true in this [[front]]",
        ));
    }
}

/// The audit log needs a place, and standard output belongs to the protocol on a stdio front.
fn audit(config: &Config, found: &mut Vec<Said>) {
    if let Some(audit) = &config.audit
        && audit.file.as_os_str().is_empty()
    {
        found.push(Said::at(
            &["audit", "file"],
            "the audit log has no name",
            "write file = \"/var/log/chillgate/audit.jsonl\", or \"-\" for standard output",
        ));
    }
    let stdio = config
        .front
        .iter()
        .any(|front| front.transport == Transport::Stdio);
    if stdio
        && config
            .audit
            .as_ref()
            .is_some_and(|audit| audit.file == Path::new("-"))
    {
        found.push(Said::at(
            &["audit", "file"],
            "the audit log cannot go to standard output: the stdio front speaks there",
            "write file = \"/var/log/chillgate/audit.jsonl\" or remove [audit]",
        ));
    }
}

fn health(config: &Config, found: &mut Vec<Said>) {
    let Some(health) = &config.health else { return };
    let own = Listen::Tcp(health.listen);
    if config
        .front
        .iter()
        .filter_map(address)
        .any(|front| clash(&front, &own))
    {
        found.push(Said::at(
            &["health", "listen"],
            format!("a front and [health] cannot both listen on {own}"),
            "write listen = \"127.0.0.1:9901\"",
        ));
    }
}

/// Each tool has one name, which no other has.
fn runbooks(config: &Config, found: &mut Vec<Said>) {
    let mut taken: BTreeSet<String> = BTreeSet::new();
    for (index, runbook) in config.runbook.iter().enumerate() {
        for tool in runbook.tools() {
            let own = chillgate_ops::OWN_TOOLS.contains(&tool.as_str());
            if own || !taken.insert(tool.clone()) {
                let whose = if own {
                    "of the server itself"
                } else {
                    "already"
                };
                found.push(Said::new(
                    vec![
                        Step::from("runbook"),
                        Step::Index(index),
                        Step::from("name"),
                    ],
                    format!("there is a tool `{tool}` {whose}"),
                    "give the runbook another name",
                ));
                break;
            }
        }
    }
}

fn endpoints(config: &Config, found: &mut Vec<Said>) {
    let mut taken = BTreeSet::new();
    for (index, endpoint) in config.endpoint.iter().enumerate() {
        if !taken.insert(&endpoint.name) {
            found.push(Said::new(
                vec![
                    Step::from("endpoint"),
                    Step::Index(index),
                    Step::from("name"),
                ],
                format!("there is an endpoint `{}` already", endpoint.name),
                "give the endpoint another name",
            ));
        }
    }
}

/// Each remedy is about something, and has a name of its own.
fn remedies(config: &Config, found: &mut Vec<Said>) {
    for (index, remedy) in config.remedy.iter().enumerate() {
        let at = |path: &[&str]| {
            let path = path.iter().map(|&step| Step::from(step));
            let base = [Step::from("remedy"), Step::Index(index)];
            base.into_iter().chain(path).collect()
        };
        for (path, message, help) in remedy.mistakes() {
            found.push(Said::new(at(path), message, help));
        }
        let mut earlier = config.remedy.iter().take(index);
        if earlier.any(|other| other.name == remedy.name) {
            found.push(Said::new(
                at(&["name"]),
                format!("there are two remedies `{}`", remedy.name),
                "give this one another name",
            ));
        }
    }
}

/// The default of a limit, as a line.
fn right(key: &str) -> String {
    format!(
        "write {}",
        hint::line(&format!("limits.{key}")).unwrap_or(key)
    )
}

/// `sound`: whether every limit could be read, so that they may be compared.
fn limits(config: &Config, sound: bool, found: &mut Vec<Said>) {
    let limits = &config.limits;
    let counts = [
        ("depth", limits.depth, 1, 512),
        ("batch", limits.batch, 1, 1000),
        (
            "in-flight-per-agent",
            limits.in_flight_per_agent,
            1,
            1_000_000,
        ),
        (
            "in-flight-per-server",
            limits.in_flight_per_server,
            1,
            1_000_000,
        ),
        ("sessions", limits.sessions, 1, 10_000_000),
        (
            "sessions-per-agent",
            limits.sessions_per_agent,
            1,
            10_000_000,
        ),
        ("outbox", limits.outbox, 1, 1_000_000),
        ("connections", limits.connections, 1, 10_000_000),
    ];
    for (key, value, least, most) in counts {
        if !(least..=most).contains(&value) {
            found.push(Said::at(
                &["limits", key],
                format!("`{key}` must be from {least} to {most}, not {value}"),
                right(key),
            ));
        }
    }
    if !((1 << 10)..=(1 << 30)).contains(&limits.message) {
        found.push(Said::at(
            &["limits", "message"],
            "`message` must be from 1KiB to 1GiB",
            "write message = \"16MiB\"",
        ));
    } else if sound && limits.memory < limits.message {
        found.push(Said::at(
            &["limits", "memory"],
            "`memory` is less than one message may have",
            "write memory = \"512MiB\" or a smaller `message`",
        ));
    }
    let spans = [
        ("session-idle", limits.session_idle),
        ("call-idle", limits.call_idle),
        ("call-max", limits.call_max),
        ("input-wait", limits.input_wait),
        ("replay", limits.replay),
    ];
    for (key, span) in spans {
        if span < Duration::from_millis(1) {
            found.push(Said::at(
                &["limits", key],
                format!("`{key}` of zero would end everything at once"),
                right(key),
            ));
        }
    }
}
