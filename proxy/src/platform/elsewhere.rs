//! What is Linux's alone, and what there is instead on the other systems.
//!
//! systemd speaks to nobody here: its socket is an error for whoever names one.

use std::convert::Infallible;
use std::io;

/// Fills the buffer with unguessable bytes, by the way this system has for it.
pub(crate) fn random(buffer: &mut [u8]) {
    if let Err(error) = getrandom::fill(buffer) {
        panic!("the system has no randomness: {error}");
    }
}

/// The way to the service manager, which no process of this system has.
#[derive(Debug)]
pub(crate) struct Manager(Infallible);

impl Manager {
    /// There is none to be reached.
    pub(crate) fn reach(_: &std::ffi::OsStr) -> io::Result<Self> {
        let cause = "NOTIFY_SOCKET is systemd's, which is Linux's";
        Err(io::Error::new(io::ErrorKind::Unsupported, cause))
    }

    /// There is none to hear it.
    pub(crate) fn say_with_time(&self, _: &str) {
        match self.0 {}
    }

    /// There is none to hear it.
    pub(crate) fn say(&self, _: &str) {
        match self.0 {}
    }
}
