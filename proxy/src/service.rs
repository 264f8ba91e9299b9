//! What a service manager hears of chillgate: ready, reloading, stopping, and that it still works.
//!
//! systemd's notification protocol: datagrams of `KEY=value` lines to the socket that
//! `NOTIFY_SOCKET` names. Without that variable everything here is silent. The watchdog is fed from
//! a thread of its own that only looks at the pulse of the data path, so that a stuck data path
//! misses it. Nothing is decided here, and nobody waits for the manager.

use std::io;
use std::sync::Arc;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant};

use tracing::warn;

use crate::clock;
use crate::health::{Heartbeat, Readiness, State, TICK};
use crate::platform::Manager;

/// How often the status line is looked at where no watchdog asks for more.
const LOOK: Duration = Duration::from_secs(5);

/// The way to the service manager; clones are the same way. Without a manager it says nothing.
#[derive(Clone, Debug, Default)]
pub struct Notices(Option<Arc<Manager>>);

/// Reports the state of servers and feeds the watchdog until it is dropped.
#[derive(Debug)]
pub struct Reports {
    _stop: mpsc::Sender<()>,
}

impl Notices {
    /// The manager that this process was started by, as its environment says.
    pub fn of_environment() -> Self {
        let Some(address) = std::env::var_os("NOTIFY_SOCKET") else {
            return Self::default();
        };
        match Manager::reach(&address) {
            Ok(manager) => Self(Some(Arc::new(manager))),
            Err(error) => {
                warn!(%error, ?address, "The service manager cannot be told anything.");
                Self::default()
            }
        }
    }

    /// Hosts are served, probes answered.
    pub fn ready(&self) {
        self.say("READY=1");
    }

    /// The configuration is read again; [`Notices::ready`] says that this is over.
    pub fn reloading(&self) {
        if let Some(manager) = &self.0 {
            manager.say_with_time("RELOADING=1");
        }
    }

    /// No new work is taken; the end comes within `span`, however short the manager's patience is.
    pub fn stopping(&self, span: Duration) {
        let span = span.as_micros();
        self.say(&format!(
            "STOPPING=1\nEXTEND_TIMEOUT_USEC={span}\nSTATUS=Draining"
        ));
    }

    /// Reports from now on. A stuck data path holds what `readiness` wants to look at, or does not
    /// beat: either way the watchdog is not fed.
    pub fn report(
        &self,
        pulse: Heartbeat,
        readiness: impl Fn() -> Readiness + Send + 'static,
    ) -> io::Result<Reports> {
        let (stop, stopped) = mpsc::channel();
        let notices = self.clone();
        let watchdog = watchdog(|name| std::env::var(name).ok(), std::process::id());
        let pause = watchdog.map_or(LOOK, |interval| interval.min(LOOK));
        let mut glance = Glance {
            is_watched: watchdog.is_some(),
            pulse,
            patience: patience(pause),
            last: String::new(),
        };
        if self.0.is_some() {
            thread::Builder::new()
                .name("service".to_owned())
                .spawn(move || {
                    loop {
                        for line in glance.lines(&readiness(), clock::real()) {
                            notices.say(&line);
                        }
                        match stopped.recv_timeout(pause) {
                            Err(RecvTimeoutError::Timeout) => {}
                            Ok(()) | Err(RecvTimeoutError::Disconnected) => return,
                        }
                    }
                })?;
        }
        Ok(Reports { _stop: stop })
    }

    fn say(&self, text: &str) {
        if let Some(manager) = &self.0 {
            manager.say(text);
        }
    }
}

/// What is to be said now and then.
struct Glance {
    is_watched: bool,
    pulse: Heartbeat,
    patience: Duration,
    last: String,
}

impl Glance {
    fn lines(&mut self, readiness: &Readiness, now: Instant) -> Vec<String> {
        let mut lines = Vec::new();
        if self.is_watched && self.pulse.is_beating(now, self.patience) {
            lines.push("WATCHDOG=1".to_owned());
        }
        let status = status(readiness);
        if status != self.last {
            lines.push(format!("STATUS={status}"));
            self.last = status;
        }
        lines
    }
}

/// How often the watchdog is fed: twice in the time after which it bites. `None`: there is none, or
/// it watches another process, whose environment this one has inherited.
fn watchdog(variable: impl Fn(&str) -> Option<String>, own: u32) -> Option<Duration> {
    let micros: u64 = variable("WATCHDOG_USEC")?.parse().ok()?;
    let is_other = variable("WATCHDOG_PID").is_some_and(|pid| pid.parse() != Ok(own));
    (micros > 0 && !is_other).then(|| Duration::from_micros(micros) / 2)
}

/// How old the last beat may be: as long as the watchdog is not fed, but never so short that a busy
/// moment passes for a stuck one.
fn patience(pause: Duration) -> Duration {
    pause.max(TICK * 4)
}

fn word(state: State) -> &'static str {
    match state {
        State::Up => "up",
        State::Asleep => "asleep",
        State::Starting => "starting",
        State::Idle => "idle",
        State::HeldBack => "held back",
        State::Down | State::CrashLoop => "down",
    }
}

/// One line: how the servers are, and which are down.
fn status(readiness: &Readiness) -> String {
    if readiness.draining {
        return "Draining".to_owned();
    }
    let count = |state| {
        let of_state = |server: &&crate::health::ServerState| word(server.state) == state;
        readiness.servers.iter().filter(of_state).count()
    };
    let counts: Vec<String> = ["up", "asleep", "starting", "idle", "held back", "down"]
        .into_iter()
        .map(|word| (count(word), word))
        .filter(|(count, _)| *count > 0)
        .map(|(count, word)| format!("{count} {word}"))
        .collect();
    let down: Vec<&str> = readiness
        .servers
        .iter()
        .filter(|server| matches!(word(server.state), "down" | "held back"))
        .map(|server| server.name.as_str())
        .collect();
    let head = if readiness.ready {
        "Serving"
    } else {
        "Not ready"
    };
    if counts.is_empty() {
        return format!("{head}; no servers");
    }
    match down.as_slice() {
        [] => format!("{head}; servers: {}", counts.join(", ")),
        down => format!(
            "{head}; servers: {} ({})",
            counts.join(", "),
            down.join(", ")
        ),
    }
}

#[cfg(test)]
mod tests {
    use std::ffi::OsStr;
    use std::os::linux::net::SocketAddrExt as _;
    use std::os::unix::net::{SocketAddr, UnixDatagram};

    use super::*;
    use crate::health::ServerState;

    fn heard(socket: &UnixDatagram) -> String {
        let mut text = [0; 512];
        socket
            .set_read_timeout(Some(Duration::from_secs(10)))
            .expect("a timeout");
        let length = socket.recv(&mut text).expect("something is said");
        String::from_utf8_lossy(&text[..length]).into_owned()
    }

    #[test]
    fn both_kinds_of_address_are_reached() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("notify");
        let by_path = UnixDatagram::bind(&path).expect("bound");
        let name = format!("chillgate-{}", folder.path().display());
        let abstract_name = SocketAddr::from_abstract_name(name.as_bytes()).expect("a name");
        let by_name = UnixDatagram::bind_addr(&abstract_name).expect("bound");
        for (address, socket) in [
            (path.display().to_string(), by_path),
            (format!("@{name}"), by_name),
        ] {
            let manager = Manager::reach(OsStr::new(&address)).expect("reached");
            let notices = Notices(Some(Arc::new(manager)));
            notices.ready();
            assert_eq!(heard(&socket), "READY=1");
            notices.reloading();
            let said = heard(&socket);
            let (head, micros) = said.split_once("\nMONOTONIC_USEC=").expect("the time");
            assert!(
                head == "RELOADING=1" && micros.parse::<u64>().is_ok(),
                "{said}"
            );
        }
        assert!(Manager::reach(OsStr::new("relative")).is_err());
        Notices::default().ready();
    }

    #[test]
    fn the_watchdog_is_fed_twice_in_its_time_and_only_ones_own() {
        let of = |usec: Option<&str>, pid: Option<&str>| {
            watchdog(
                |name| match name {
                    "WATCHDOG_USEC" => usec.map(str::to_owned),
                    _ => pid.map(str::to_owned),
                },
                7,
            )
        };
        assert_eq!(of(Some("30000000"), None), Some(Duration::from_secs(15)));
        assert_eq!(of(Some("2000000"), Some("7")), Some(Duration::from_secs(1)));
        for (usec, pid) in [(None, None), (Some("0"), None), (Some("9"), Some("8"))] {
            assert_eq!(of(usec, pid), None, "{usec:?} {pid:?}");
        }
    }

    #[test]
    fn a_data_path_that_does_not_beat_is_not_said_to_work() {
        let readiness = Readiness {
            endpoints: Vec::new(),
            ready: true,
            draining: false,
            servers: Vec::new(),
        };
        let mut glance = Glance {
            is_watched: true,
            pulse: Heartbeat::default(),
            patience: patience(Duration::from_secs(1)),
            last: String::new(),
        };
        glance.pulse.beat();
        let now = clock::real();
        let said = glance.lines(&readiness, now);
        assert_eq!(said, ["WATCHDOG=1", "STATUS=Serving; no servers"]);
        assert_eq!(glance.lines(&readiness, now), ["WATCHDOG=1"]);
        let late = now + glance.patience + Duration::from_millis(1);
        assert!(glance.lines(&readiness, late).is_empty());
        glance.is_watched = false;
        assert!(glance.lines(&readiness, now).is_empty());
    }

    #[test]
    fn the_status_names_what_is_down_or_held_back() {
        let server = |name: &str, state| ServerState {
            name: name.to_owned(),
            state,
            error: None,
            remedy: None,
            incident: None,
            preflight: Vec::new(),
        };
        let mut readiness = Readiness {
            endpoints: Vec::new(),
            ready: true,
            draining: false,
            servers: vec![
                server("a", State::Up),
                server("b", State::Down),
                server("c", State::Idle),
                server("d", State::HeldBack),
            ],
        };
        assert_eq!(
            status(&readiness),
            "Serving; servers: 1 up, 1 idle, 1 held back, 1 down (b, d)"
        );
        readiness.draining = true;
        assert_eq!(status(&readiness), "Draining");
    }
}
