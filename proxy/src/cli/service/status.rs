//! `chillgate service status`: how the unit, the program, the configuration and the running
//! chillgate are, in one look.
//!
//! Changes nothing.

use std::fmt::Write as _;
use std::net::SocketAddr;
use std::time::Duration;

use super::place::Place;
use super::{Trouble, WhereArgs, installed};
use crate::cli::answer::{Answer, FINE, FOUND};
use crate::config::load::{Sources, attempt};
use crate::config::{DEFAULT_HEALTH, Health};
use crate::health::ask::ask;
use crate::supervisor::tool;

/// How long a program may take to say its version.
const VERSION: Duration = Duration::from_secs(10);

pub(super) async fn run(args: &WhereArgs) -> Result<Answer, Trouble> {
    let (place, systemd) = args.place(None)?;
    installed(&place)?;
    let (mut out, mut code) = (String::new(), FINE);
    let mut say = |is_fine: bool, what: &str, text: &str| {
        if !is_fine {
            code = FOUND;
        }
        // Writing to a `String` cannot fail.
        let _ = writeln!(out, "{what:<14} {text}");
    };
    let binary = place.at(&place.binary);
    let version = match tool::run(&binary, ["--version"], VERSION).await {
        Ok(ran) if ran.is_fine() => Some(ran.out.trim_start_matches("chillgate ").to_owned()),
        Ok(_) | Err(_) => None,
    };
    let shown = version.as_deref().unwrap_or("cannot be run");
    let shown = format!("{} ({shown})", binary.display());
    say(version.is_some(), "program", &shown);
    let report = attempt(&sources(&place)).report;
    let config = place.at(&place.config);
    match report.mistakes().len() {
        0 => say(
            true,
            "configuration",
            &format!("{}: no mistakes", config.display()),
        ),
        count => {
            let text = format!(
                "{}: {count} mistakes; chillgate check --config {0} shows them",
                config.display()
            );
            say(false, "configuration", &text);
        }
    }
    if args.is_live() {
        let properties = "ActiveState,SubState,ActiveEnterTimestamp,NRestarts,StatusText";
        match systemd.show(properties).await {
            Err(cause) => say(false, "unit", &cause),
            Ok(unit) => {
                let of = |key: &str| unit.get(key).map_or("", String::as_str);
                let mut text = format!("{} ({})", of("ActiveState"), of("SubState"));
                for (label, key) in [
                    (" since ", "ActiveEnterTimestamp"),
                    (", restarts: ", "NRestarts"),
                ] {
                    if !of(key).is_empty() {
                        text = text + label + of(key);
                    }
                }
                say(of("ActiveState") == "active", "unit", &text);
                if !of("StatusText").is_empty() {
                    say(true, "it says", of("StatusText"));
                }
            }
        }
        if let Some(health) = health(&place) {
            let is_fine = |answered: &crate::health::ask::Answered| answered.status == 200;
            match ask(health, "/readyz").await {
                Ok(answered) => say(is_fine(&answered), "readyz", answered.body.trim()),
                Err(error) => say(false, "readyz", &format!("{health}: {error}")),
            }
            let metrics = ask(health, "/metrics").await;
            let running = metrics.ok().and_then(|answered| running(&answered.body));
            if let (Some(running), Some(version)) = (running, &version) {
                let is_same = running == *version;
                let more = if is_same {
                    ""
                } else {
                    "; restart it to run the installed one"
                };
                say(is_same, "runs", &format!("{running}{more}"));
            }
        }
    }
    Ok(Answer {
        out,
        code,
        ..Answer::default()
    })
}

/// The version in the metrics of a running chillgate.
fn running(metrics: &str) -> Option<String> {
    let line = metrics
        .lines()
        .find(|line| line.starts_with("chillgate_build_info{"))?;
    let (_, rest) = line.split_once("version=\"")?;
    Some(rest.split_once('"')?.0.to_owned())
}

/// Where the service answers probes.
pub(super) fn health(place: &Place) -> Option<SocketAddr> {
    let config = attempt(&sources(place)).loaded.config;
    let listen = config
        .health
        .map_or(DEFAULT_HEALTH, |Health { listen }| listen);
    // Bound to all addresses, it is asked at its own.
    let mut address = listen;
    if listen.ip().is_unspecified() {
        address.set_ip(match listen {
            SocketAddr::V4(_) => std::net::Ipv4Addr::LOCALHOST.into(),
            SocketAddr::V6(_) => std::net::Ipv6Addr::LOCALHOST.into(),
        });
    }
    (address.port() != 0).then_some(address)
}

fn sources(place: &Place) -> Sources {
    Sources {
        file: Some(place.at(&place.config)),
        ..Sources::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_running_version_is_read_from_the_metrics() {
        let metrics = "# TYPE x gauge\nchillgate_build_info{revision=\"r\",version=\"1.2.3\"} 1\n";
        assert_eq!(running(metrics), Some("1.2.3".to_owned()));
        assert_eq!(running("other 1\n"), None);
    }
}
