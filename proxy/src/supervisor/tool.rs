//! Programs that are run to their end for what they say: `systemctl`, or another chillgate.
//!
//! Apart from servers, which are kept and spoken to: here a program gets no input, a bounded time,
//! and its output is taken whole. Never a shell line.

use std::ffi::OsStr;
use std::io;
use std::process::Stdio;
use std::time::Duration;

use tokio::process::Command;

/// How a program ended and what it wrote.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ran {
    /// Its exit code; `None` where a signal ended it.
    pub code: Option<i32>,
    /// Its standard output.
    pub out: String,
    /// Its standard error.
    pub err: String,
}

impl Ran {
    /// Whether it says that it did what it was asked.
    pub fn is_fine(&self) -> bool {
        self.code == Some(0)
    }
}

/// Runs `program` with chillgate's own environment; one that takes longer than `limit` is killed.
pub async fn run<S: AsRef<OsStr>>(
    program: impl AsRef<OsStr>,
    args: impl IntoIterator<Item = S>,
    limit: Duration,
) -> io::Result<Ran> {
    #[expect(
        clippy::disallowed_methods,
        reason = "the supervisor is where processes are started"
    )]
    let mut command = Command::new(program);
    command.args(args).stdin(Stdio::null()).kill_on_drop(true);
    let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).trim_end().to_owned();
    match tokio::time::timeout(limit, command.output()).await {
        Ok(output) => output.map(|output| Ran {
            code: output.status.code(),
            out: text(output.stdout),
            err: text(output.stderr),
        }),
        Err(_) => Err(io::Error::new(
            io::ErrorKind::TimedOut,
            format!("it did not end within {} s", limit.as_secs()),
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn code_and_both_streams_are_taken() {
        let script = ["-c", "echo out; echo err >&2; exit 3"];
        let ran = run("sh", script, Duration::from_secs(10)).await;
        let ran = ran.expect("sh is there");
        assert_eq!(
            (ran.code, &*ran.out, &*ran.err, ran.is_fine()),
            (Some(3), "out", "err", false)
        );
    }

    #[tokio::test]
    async fn one_that_does_not_end_is_ended() {
        let ran = run("sleep", ["60"], Duration::from_millis(50)).await;
        let error = ran.expect_err("it takes longer");
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
    }
}
