//! Standard input and output: lines in, lines out.
//!
//! The end of the input is the host's good-bye: what runs is finished, then chillgate ends. What a
//! line means is the [`Host`]'s.

use std::os::fd::{AsFd, OwnedFd};
use std::pin::Pin;

use chillgate_wire::Lines;
use rustix::fs::FileType;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite};
use tokio::net::UnixStream;
use tokio::net::unix::pipe;

use crate::config::Eras;
use crate::front::duplex::{Caller, Host};
use crate::gate::Gate;
use crate::line::Line;
use crate::session::Scope;

/// A readable end.
pub type Input = Pin<Box<dyn AsyncRead + Send>>;
/// A writable end.
pub type Output = Pin<Box<dyn AsyncWrite + Send>>;

/// Serves the host on standard input and output until it closes its end.
pub async fn serve(gate: Gate, scope: Scope, eras: Eras) -> std::io::Result<()> {
    let (mut input, output) = (input()?, output()?);
    let (line, writing) = Line::new(output);
    let writer = tokio::spawn(writing);
    let snapshot = gate.snapshot();
    let mut lines = Lines::new(snapshot.wire.message);
    let caller = Caller {
        agent: None,
        scope,
        transport: "stdio",
        peer: None,
    };
    let mut host = Host::new(gate.clone(), caller, line.clone(), eras);
    loop {
        for found in lines.by_ref() {
            match found {
                Ok(raw) => host.take(raw).await,
                Err(oversized) => host.refuse_oversized(&oversized).await,
            }
        }
        tokio::select! {
            read = input.read_buf(lines.space()) => match read {
                Ok(0) | Err(_) => break,
                Ok(_) => {}
            },
            () = gate.drain().until_refusing() => break,
        }
    }
    if let Some(Ok(raw)) = lines.finish() {
        host.take(raw).await;
    }
    host.leave().await;
    line.close();
    writer.await.map_err(std::io::Error::other)?
}

/// Standard input without a thread of its own where it is a pipe or socket.
fn input() -> std::io::Result<Input> {
    let own = std::io::stdin().as_fd().try_clone_to_owned()?;
    Ok(match kind(&own)? {
        FileType::Fifo => Box::pin(pipe::Receiver::from_owned_fd(own)?),
        FileType::Socket => Box::pin(socket(own)?),
        _ => Box::pin(tokio::io::stdin()),
    })
}

/// Standard output likewise.
fn output() -> std::io::Result<Output> {
    let own = std::io::stdout().as_fd().try_clone_to_owned()?;
    Ok(match kind(&own)? {
        FileType::Fifo => Box::pin(pipe::Sender::from_owned_fd(own)?),
        FileType::Socket => Box::pin(socket(own)?),
        _ => Box::pin(tokio::io::stdout()),
    })
}

fn kind(fd: &OwnedFd) -> std::io::Result<FileType> {
    let status = rustix::fs::fstat(fd)?;
    Ok(FileType::from_raw_mode(status.st_mode))
}

fn socket(fd: OwnedFd) -> std::io::Result<UnixStream> {
    let socket = std::os::unix::net::UnixStream::from(fd);
    socket.set_nonblocking(true)?;
    UnixStream::from_std(socket)
}
