//! A host at the other end of standard input and output: JSON lines, one session at most.
//!
//! Each request runs in a task of its own, so that a slow one never holds up the next. The end of
//! the input is the host's good-bye: what runs is finished, then chillgate ends.

use std::os::fd::{AsFd, OwnedFd};
use std::pin::Pin;
use std::sync::Arc;

use bytes::Bytes;
use chillgate_wire::{Envelope, Era, Id, Kind, Lines, batch, classify, code, message};
use rustix::fs::FileType;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite};
use tokio::net::UnixStream;
use tokio::net::unix::pipe;
use tracing::debug;

use crate::config::Eras;
use crate::era::host::not_spoken;
use crate::exchange::{Ended, Exchange};
use crate::gate::{Gate, Refusal};
use crate::line::{Line, Pace};
use crate::session::{Opening, Scope, Session};

mod modern;

use modern::Modern;

const NOT_OPEN: &str = "the session is not open: send `initialize` first";

/// A readable end.
pub type Input = Pin<Box<dyn AsyncRead + Send>>;
/// A writable end.
pub type Output = Pin<Box<dyn AsyncWrite + Send>>;

/// The host's only session, from its `initialize` on.
struct Host {
    gate: Gate,
    scope: Scope,
    line: Line,
    session: Option<Arc<Session>>,
    eras: Eras,
    modern: Modern,
}

/// Serves the host on standard input and output until it closes its end.
pub async fn serve(gate: Gate, scope: Scope, eras: Eras) -> std::io::Result<()> {
    let (mut input, output) = (input()?, output()?);
    let (line, writing) = Line::new(output);
    let writer = tokio::spawn(writing);
    let snapshot = gate.snapshot();
    let mut lines = Lines::new(snapshot.wire.message);
    let mut host = Host {
        gate,
        scope,
        line,
        session: None,
        eras,
        modern: Modern::new(),
    };
    loop {
        for found in lines.by_ref() {
            match found {
                Ok(raw) => host.take(raw).await,
                Err(oversized) => {
                    let text = format!(
                        "a message may have {} bytes (`limits.message`); this one had {}",
                        snapshot.wire.message, oversized.bytes
                    );
                    let id = oversized.id.as_ref().map(chillgate_wire::Id::as_bytes);
                    host.refuse(id, code::INVALID_REQUEST, &text, None).await;
                }
            }
        }
        tokio::select! {
            read = input.read_buf(lines.space()) => match read {
                Ok(0) | Err(_) => break,
                Ok(_) => {}
            },
            () = host.gate.drain().until_refusing() => break,
        }
    }
    if let Some(Ok(raw)) = lines.finish() {
        host.take(raw).await;
    }
    host.leave().await;
    host.line.close();
    writer.await.map_err(std::io::Error::other)?
}

impl Host {
    async fn take(&mut self, raw: Bytes) {
        let limits = self.gate.snapshot().wire;
        if batch::is_batch(&raw) && self.batches() {
            return self.take_batch(raw, &limits).await;
        }
        match Envelope::parse(raw, &limits) {
            Ok(message) => self.hear(message).await,
            Err(fault) => {
                let id = fault.id.as_ref().map(chillgate_wire::Id::as_bytes);
                self.refuse(id, fault.code, &fault.to_string(), None).await;
            }
        }
    }

    /// Whether a batch is read as one: not where the session's revision has none.
    fn batches(&self) -> bool {
        self.session
            .as_ref()
            .is_none_or(|session| session.batches())
    }

    async fn hear(&mut self, message: Envelope) {
        let id = message.id();
        if classify(&message, None) == Era::Modern {
            let (Kind::Request, Some(id)) = (message.kind(), id) else {
                return;
            };
            let taken = if self.eras == Eras::Both {
                let (gate, scope) = (&self.gate, &self.scope);
                self.modern.take(gate, scope, &self.line, message).await
            } else {
                Err(not_spoken(&message))
            };
            if let Err(refusal) = taken {
                self.refuse_with(&id, &refusal).await;
            }
            return;
        }
        if self.modern.cancel(&message) {
            return;
        }
        if message.kind() != Kind::Request {
            if let Some(session) = &self.session
                && let Err(refusal) = self.gate.hear(session, message).await
            {
                debug!(?refusal, "A notification was not taken.");
            }
            return;
        }
        let Some(id) = id else { return };
        if message.method() == Some("initialize")
            && let Err(refusal) = self.open(&message).await
        {
            return self.refuse_with(&id, &refusal).await;
        }
        let Some(session) = self.session.clone() else {
            return self
                .refuse(Some(id.as_bytes()), code::INVALID_REQUEST, NOT_OPEN, None)
                .await;
        };
        let exchange = Exchange::new(id, session, 1);
        let (gate, line) = (self.gate.clone(), self.line.clone());
        let is_opening = message.method() == Some("initialize");
        let running = async move {
            if let Some(answer) = gate.handle(exchange, message).await.message {
                // A host that is gone needs no answer.
                let _ = line.send(&answer, &answer.edit(), Pace::Gather).await;
            }
        };
        if is_opening {
            // What follows may rest on it.
            return running.await;
        }
        // Begun before the next line is read, so that a cancellation right behind finds it.
        let mut running = Box::pin(running);
        if futures_util::poll!(&mut running).is_pending() {
            self.gate.tasks().spawn(running);
        }
    }

    /// A second `initialize` begins anew: the session before it ends.
    async fn open(&mut self, message: &Envelope) -> Result<(), Refusal> {
        let params = message.params().unwrap_or(b"{}");
        // One that cannot begin anything ends nothing either.
        if self.session.is_some() {
            Gate::check_greeting(params)?;
        }
        if let Some(before) = self.session.take() {
            self.gate.close(&before, Ended::Session).await;
        }
        let session = self.gate.open(Opening {
            agent: self.gate.snapshot().identities.of_stdio(),
            scope: self.scope.clone(),
            greeting: Bytes::copy_from_slice(params),
            transport: "stdio",
            peer: None,
            line: Some(self.line.clone()),
            era: Era::Legacy,
        })?;
        self.session = Some(session);
        Ok(())
    }

    async fn take_batch(&mut self, raw: Bytes, limits: &chillgate_wire::Limits) {
        let messages = match batch::split(raw, limits) {
            Ok(messages) => messages,
            Err(fault) => {
                return self
                    .refuse(None, fault.code, &fault.to_string(), None)
                    .await;
            }
        };
        let Some(session) = self.session.clone() else {
            return self
                .refuse(None, code::INVALID_REQUEST, NOT_OPEN, None)
                .await;
        };
        let (gate, line) = (self.gate.clone(), self.line.clone());
        self.gate.tasks().spawn(async move {
            let answers = crate::front::streamable_http::batch(&gate, &session, messages).await;
            if let Some(mut whole) = answers {
                whole.push(b'\n');
                let _ = line.offer_raw(&whole);
            }
        });
    }

    async fn refuse_with(&self, id: &Id, refusal: &Refusal) {
        let (code, text, data) = refusal.words();
        let data = data.map(|data| data.to_string());
        self.refuse(Some(id.as_bytes()), code, &text, data.as_deref())
            .await;
    }

    async fn refuse(&self, id: Option<&[u8]>, code: i64, text: &str, data: Option<&str>) {
        let raw = message::error(id, code, text, data.map(str::as_bytes));
        if let Ok(answer) = crate::route::own(raw) {
            let _ = self.line.send(&answer, &answer.edit(), Pace::Gather).await;
        }
    }

    /// The host has closed its end: what runs may finish, then the session ends.
    async fn leave(&mut self) {
        self.modern.hang_up(&self.gate).await;
        let deadline = self
            .gate
            .snapshot()
            .config
            .limits
            .drain
            .unwrap_or(crate::config::DRAIN);
        let _ = tokio::time::timeout(deadline, self.gate.drain().until_idle()).await;
        if let Some(session) = self.session.take() {
            self.gate.close(&session, Ended::Session).await;
        }
        self.modern.close(&self.gate).await;
    }
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
