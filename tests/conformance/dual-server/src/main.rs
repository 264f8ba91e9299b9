//! An MCP server of both eras for the conformance tests, on the official Rust SDK.
//!
//! It stands apart from the mock servers of the tests because the official suite calls it by its
//! own names and judges every message: what fails through chillgate and not straight at this
//! server is then chillgate's fault. It knows 2026-07-28 and the revisions with a handshake, and
//! can be told to know one era only, as most real servers do.
//! It never listens beyond loopback, never reads a file and never keeps anything when it ends.
//!
//!     dual-server                       stdio
//!     dual-server --http PORT           Streamable HTTP, on http://127.0.0.1:PORT/mcp
//!     dual-server --eras modern|legacy  one era only, on either transport
//!
//! # Where things are
//! | file | what |
//! |---|---|
//! | `server.rs` | what the SDK asks of a server |
//! | `eras.rs` | which revisions are spoken, and what is refused for its era |
//! | `stdio.rs`, `http.rs`, `sessions.rs` | the transports |
//! | `house.rs` | what all connections share |
//! | `call.rs`, `question.rs` | what a handler says to its client, and asks of it in either era |
//! | `tools.rs`, `tools/` | the tools |
//! | `prompts.rs`, `resources.rs`, `samples.rs` | the rest of what is offered |

mod call;
mod eras;
mod house;
mod http;
mod prompts;
mod question;
mod resources;
mod samples;
mod server;
mod sessions;
mod stdio;
mod tools;

use std::{pin::pin, sync::Arc, time::Duration};

use anyhow::Context as _;
use clap::Parser;
use tokio::{
    runtime::Runtime,
    signal::unix::{SignalKind, signal},
    time::timeout,
};

use crate::{eras::Eras, house::House};

const PARTING: Duration = Duration::from_millis(200);

/// An MCP server of both eras for the conformance tests.
#[derive(Parser)]
struct Options {
    /// Serve Streamable HTTP on this port of 127.0.0.1 instead of stdio.
    #[arg(long, value_name = "PORT")]
    http: Option<u16>,

    /// Which revisions of the protocol to speak.
    #[arg(long, value_enum, default_value_t)]
    eras: Eras,
}

fn main() -> anyhow::Result<()> {
    let options = Options::parse();
    let runtime = Runtime::new().context("cannot start")?;
    let outcome = runtime.block_on(until_told(options));
    // One thread may still wait for a line of standard input that nobody will write.
    runtime.shutdown_background();
    outcome
}

async fn until_told(options: Options) -> anyhow::Result<()> {
    let mut told = signal(SignalKind::terminate()).context("cannot listen for SIGTERM")?;
    let house = House::open(options.eras);
    let mut serving = pin!(serve(Arc::clone(&house), options.http));
    tokio::select! {
        outcome = &mut serving => outcome,
        _ = told.recv() => {
            house.close();
            // Time for those who listen to be told; nobody else is waited for.
            timeout(PARTING, serving).await.unwrap_or(Ok(()))
        }
    }
}

async fn serve(house: Arc<House>, http: Option<u16>) -> anyhow::Result<()> {
    match http {
        Some(port) => http::serve(house, port).await,
        None => stdio::serve(house).await,
    }
}
