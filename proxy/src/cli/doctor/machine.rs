//! What is found around the servers: addresses, folders, files, doubts about the configuration, and
//! what the kernel offers.
//!
//! Looks and tries; what it takes for a try it gives back at once, and it makes no file.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::path::Path;

use super::finding::Finding;
use crate::config::load::Loaded;
use crate::config::{Config, DEFAULT_HEALTH, DEFAULT_LISTEN, Health, Listen, Transport};
use crate::health::ask::ask;
use crate::platform::{may_fill, may_write};
use crate::{state, supervisor};

/// Everything but servers.
pub(super) async fn look(loaded: &Loaded) -> Vec<Finding> {
    let config = &loaded.config;
    let mut findings = addresses(config).await;
    findings.extend(folder(config));
    findings.extend(audit(config));
    findings.extend(loaded.notes.iter().map(|note| {
        if note.starts_with("No configuration file") {
            Finding::ok(note.trim_end_matches('.'))
        } else {
            Finding::warn(note.trim_end_matches('.'), "chillgate check shows it again")
        }
    }));
    findings.push(kernel().await);
    findings
}

/// Whether what `serve` wants to listen on is free, or a running chillgate's.
async fn addresses(config: &Config) -> Vec<Finding> {
    let health = config
        .health
        .as_ref()
        .map_or(DEFAULT_HEALTH, |Health { listen }| *listen);
    let asked = ask(health, "/livez").await;
    let runs = asked.is_ok_and(|answered| answered.body == "alive\n");
    let mut findings = Vec::new();
    if runs {
        findings.push(Finding::ok(format!(
            "a chillgate runs with probes on {health}"
        )));
    } else {
        findings.push(tcp(health, "probes", "[health] listen", false));
    }
    if config.front.is_empty() {
        findings.push(tcp(DEFAULT_LISTEN, "hosts", "`listen`", runs));
    }
    let fronts = config.front.iter();
    for front in fronts.filter(|front| front.transport == Transport::StreamableHttp) {
        findings.push(match &front.listen {
            None => tcp(DEFAULT_LISTEN, "hosts", "`listen`", runs),
            Some(Listen::Tcp(address)) => tcp(*address, "hosts", "`listen`", runs),
            Some(Listen::Unix(path)) => socket(path),
        });
    }
    if let Some(admin) = &config.admin {
        findings.push(match &admin.listen {
            Listen::Tcp(address) => tcp(*address, "administrators", "[admin] listen", runs),
            Listen::Unix(path) => socket(path),
        });
    }
    findings
}

fn tcp(address: SocketAddr, what: &str, key: &str, runs: bool) -> Finding {
    match TcpListener::bind(address) {
        Ok(_) => Finding::ok(format!("{address} is free for {what}")),
        Err(error) if error.kind() == io::ErrorKind::AddrInUse && runs => {
            Finding::ok(format!("{address} is in use, as the running chillgate's"))
        }
        Err(error) => {
            let help = match error.kind() {
                io::ErrorKind::AddrInUse => {
                    format!("something else listens there; end it or choose another with {key}")
                }
                io::ErrorKind::PermissionDenied => {
                    format!("ports below 1024 need privileges; choose another with {key}")
                }
                _ => format!("choose an address of this machine with {key}"),
            };
            let text = format!("cannot listen on {address} for {what}: {error}");
            Finding::fail(text, Some(help))
        }
    }
}

fn socket(path: &Path) -> Finding {
    let folder = path.parent().unwrap_or(Path::new("/"));
    match writable(folder) {
        Ok(()) => Finding::ok(format!("unix:{} can be made", path.display())),
        Err(error) => Finding::fail(
            format!("the socket unix:{} cannot be made: {error}", path.display()),
            Some(format!("make {} writable for chillgate", folder.display())),
        ),
    }
}

fn folder(config: &Config) -> Option<Finding> {
    let folder = state::place(&config.state)?;
    // Made when it is needed; what must be there is somewhere to make it.
    let there = folder.ancestors().find(|part| part.exists())?;
    Some(match writable(there) {
        Ok(()) => Finding::ok(format!("the state folder {} can be used", folder.display())),
        Err(error) if config.state.folder.is_some() => Finding::fail(
            format!("state.folder {} cannot be used: {error}", folder.display()),
            Some(format!("make {} writable for chillgate", there.display())),
        ),
        Err(error) => Finding::warn(
            format!(
                "the state folder {} cannot be used: {error}",
                folder.display()
            ),
            "nothing is remembered over a restart; name a folder with state.folder",
        ),
    })
}

fn audit(config: &Config) -> Option<Finding> {
    let file = &config.audit.as_ref()?.file;
    if file.as_os_str() == "-" {
        return None;
    }
    let folder = match file.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    };
    let looked = if file.exists() {
        may_write(file)
    } else {
        writable(folder)
    };
    Some(match looked {
        Ok(()) => Finding::ok(format!("the audit log {} can be written", file.display())),
        Err(error) => Finding::fail(
            format!(
                "the audit log {} cannot be written: {error}",
                file.display()
            ),
            Some(format!(
                "make it writable for chillgate, or change audit.file; its folder is {}",
                folder.display()
            )),
        ),
    })
}

/// Whether files can be made in a folder.
fn writable(folder: &Path) -> io::Result<()> {
    if !folder.is_dir() {
        return Err(io::Error::from(io::ErrorKind::NotADirectory));
    }
    may_fill(folder)
}

/// What bounds and walls around servers can be made here: to know, not to repair.
async fn kernel() -> Finding {
    // What a sandbox is made of is found out as the sandbox does it: by a process that tries.
    let found = tokio::task::spawn_blocking(supervisor::kernel).await;
    let found = found.unwrap_or_default();
    let groups = std::fs::read_to_string("/sys/fs/cgroup/cgroup.controllers").ok();
    let own = std::fs::read_to_string("/proc/self/cgroup")
        .ok()
        .and_then(|text| {
            let path = text
                .lines()
                .find_map(|line| line.strip_prefix("0::/"))?
                .to_owned();
            Some(Path::new("/sys/fs/cgroup").join(path))
        });
    let is_own = own.is_some_and(|own| writable(&own).is_ok());
    let cgroup = match (groups, is_own) {
        (None, _) => "no cgroup v2".to_owned(),
        (Some(all), true) => format!("cgroup v2, ours to divide ({})", all.trim()),
        (Some(all), false) => format!("cgroup v2, not ours to divide ({})", all.trim()),
    };
    let landlock = match found.landlock {
        0 => "no Landlock".to_owned(),
        revision => format!("landlock {revision}"),
    };
    let seccomp = if found.seccomp {
        "seccomp"
    } else {
        "no seccomp"
    };
    Finding::ok(format!("the kernel has {cgroup}; {landlock}, {seccomp}"))
}

#[cfg(test)]
mod tests {
    use super::super::finding::Level;
    use super::*;

    #[test]
    fn a_port_in_use_is_a_failure_unless_it_is_our_own() {
        let taken = TcpListener::bind("127.0.0.1:0").expect("bound");
        let address = taken.local_addr().expect("an address");
        let of = |runs| tcp(address, "hosts", "`listen`", runs).level;
        assert_eq!((of(false), of(true)), (Level::Fail, Level::Ok));
        drop(taken);
        assert_eq!(of(false), Level::Ok);
    }
}
