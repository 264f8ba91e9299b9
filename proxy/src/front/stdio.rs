//! Standard input and output: lines in, lines out.
//!
//! The end of the input is the host's good-bye: what runs is finished, then chillgate ends. What a
//! line means is the [`Host`]'s.

use chillgate_wire::Lines;
use tokio::io::AsyncReadExt;

use crate::config::Eras;
use crate::front::duplex::{Caller, Host};
use crate::gate::Gate;
use crate::line::Line;
use crate::platform;
use crate::session::Scope;

/// Serves the host on standard input and output until it closes its end.
pub async fn serve(gate: Gate, scope: Scope, eras: Eras) -> std::io::Result<()> {
    let (mut input, output) = (platform::input()?, platform::output()?);
    let (line, writing) = Line::new(output);
    let writer = tokio::spawn(writing);
    let snapshot = gate.snapshot();
    let mut lines = Lines::new(snapshot.wire.message);
    let caller = Caller {
        who: None,
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
