//! macOS, as far as it goes: Unix without control groups, sandboxes and systemd.
//!
//! What it shares with Linux is in `unix.rs`, what it lacks in `elsewhere.rs`.

use super::{Custom, System};

pub(crate) use super::elsewhere::*;
pub(crate) use super::unix::*;

/// What there is.
pub(crate) const SYSTEM: System = System {
    name: "macOS",
    unix_sockets: true,
    holds_paths: false,
};

/// The user's state folder.
pub(crate) const STATE: Custom = Custom {
    variable: Some("HOME"),
    path: "Library/Application Support/chillgate",
};

/// The user's configuration, where programs of the command line have it.
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
pub(crate) const NO_SERVICE: Option<(&str, &str)> = Some((
    "`chillgate service` installs a service of systemd, which macOS does not have",
    "let launchd run `chillgate serve`, with KeepAlive",
));
