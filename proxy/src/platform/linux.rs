//! Linux, for which chillgate is made: everything is there.
//!
//! What it shares with macOS is in `unix.rs`; here is what it has alone.

use std::io;
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::path::Path;
use std::time::Duration;

use rustix::rand::{GetRandomFlags, getrandom};

use super::{Custom, System};

pub(crate) use super::unix::*;

/// What there is.
pub(crate) const SYSTEM: System = System {
    name: "Linux",
    unix_sockets: true,
    holds_paths: true,
};

/// The user's state folder.
pub(crate) const STATE: Custom = Custom {
    variable: Some("HOME"),
    path: ".local/state/chillgate",
};

/// The user's configuration.
pub(crate) const CONFIG: Custom = Custom {
    variable: Some("HOME"),
    path: ".config/chillgate/chillgate.toml",
};

/// The machine's configuration.
pub(crate) const MACHINE_CONFIG: Custom = Custom {
    variable: None,
    path: "/etc/chillgate/chillgate.toml",
};

/// Why `chillgate service` can do nothing here, and what to do instead.
pub(crate) const NO_SERVICE: Option<(&str, &str)> = None;

/// Fills the buffer with unguessable bytes, at most 256. The system call and nothing else, so that
/// it works where there is no `/dev` (a `FROM scratch` image) and needs no second way.
pub(crate) fn random(buffer: &mut [u8]) {
    loop {
        match getrandom(&mut *buffer, GetRandomFlags::empty()) {
            Ok(given) if given == buffer.len() => return,
            // Interrupted before the pool was ready, right after the machine has started.
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => panic!("Linux has had getrandom since 3.17, but: {error}"),
        }
    }
}

/// The way to the service manager: systemd's socket.
#[derive(Debug)]
pub(crate) struct Manager(UnixDatagram);

impl Manager {
    /// A socket towards `address`: an absolute path, or an abstract name behind `@`.
    pub(crate) fn reach(address: &std::ffi::OsStr) -> io::Result<Self> {
        let address = match address.as_encoded_bytes() {
            [b'@', name @ ..] => SocketAddr::from_abstract_name(name)?,
            [b'/', ..] => SocketAddr::from_pathname(Path::new(address))?,
            _ => {
                let cause = "NOTIFY_SOCKET is neither an absolute path nor an abstract name";
                return Err(io::Error::new(io::ErrorKind::InvalidInput, cause));
            }
        };
        let socket = UnixDatagram::unbound()?;
        socket.connect_addr(&address)?;
        socket.set_nonblocking(true)?;
        Ok(Self(socket))
    }

    /// With the machine's monotonic time since its start, as the manager reads it.
    pub(crate) fn say_with_time(&self, text: &str) {
        let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
        let whole = Duration::from_secs(now.tv_sec.unsigned_abs());
        let now = whole + Duration::from_nanos(now.tv_nsec.unsigned_abs());
        self.say(&format!("{text}\nMONOTONIC_USEC={}", now.as_micros()));
    }

    /// One that does not listen, or listens slowly, is its own trouble.
    pub(crate) fn say(&self, text: &str) {
        let _ = self.0.send(text.as_bytes());
    }
}
