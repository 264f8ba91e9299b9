//! How a server ended, in words for logs and errors.
//!
//! The keeper hands a signal on the way a shell does, as 128 + its number; this file reads that
//! back. It judges nothing.

use std::fmt;
use std::process::ExitStatus;

use super::held;

/// `exit code 1`, `signal 9 (KILL)`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    /// It ended by itself with this code; 0 is fine.
    Code(i32),
    /// A signal ended it.
    Signal(i32),
    /// A signal ended the keeper above it, and with it the server.
    Keeper(i32),
    /// It used up this much memory, which is its limit, and the kernel ended it.
    OutOfMemory(usize),
    /// It could not be waited for.
    Unknown,
}

impl From<ExitStatus> for Status {
    fn from(status: ExitStatus) -> Self {
        held::ended(status)
    }
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Code(code) => write!(f, "exit code {code}"),
            Self::Signal(signal) => match name(*signal) {
                Some(name) => write!(f, "signal {signal} ({name})"),
                None => write!(f, "signal {signal}"),
            },
            Self::Keeper(signal) => {
                write!(f, "its keeper was ended by {}", Self::Signal(*signal))
            }
            Self::OutOfMemory(limit) => {
                let mib = limit >> 20;
                write!(f, "out of memory: limit {mib} MiB (limits.memory)")
            }
            Self::Unknown => f.write_str("an unknown end"),
        }
    }
}

fn name(signal: i32) -> Option<&'static str> {
    held::signal_name(signal).map(|name| name.trim_start_matches("SIG"))
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::ExitStatusExt as _;

    use super::*;

    #[test]
    fn an_end_is_told_in_words() {
        let told = |raw| Status::from(ExitStatus::from_raw(raw)).to_string();
        assert_eq!(told(1 << 8), "exit code 1");
        assert_eq!(told(137 << 8), "signal 9 (KILL)");
        assert_eq!(told(15), "signal 15 (TERM)");
        let keeper = Status::Keeper(9).to_string();
        assert_eq!(keeper, "its keeper was ended by signal 9 (KILL)");
        let used_up = Status::OutOfMemory(512 << 20).to_string();
        assert_eq!(used_up, "out of memory: limit 512 MiB (limits.memory)");
        assert_eq!(told((128 + 35) << 8), "signal 35");
    }
}
