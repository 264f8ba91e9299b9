//! An MCP server over stdio that misbehaves on request: late, twice, never, garbage, dead, deaf.
//!
//! It stands apart because what a gate must survive does not come from a well-made server. It is
//! hand-written on JSON, without an SDK, so that it can say what no SDK would let it say; and it
//! writes every line it hears to a ledger, which is how a test knows that a refused message never
//! reached it. Flags are what is wrong from the start; tools (see `tools.rs`) are what goes wrong in
//! a call.

mod flags;
mod methods;
mod modern;
mod server;
mod tools;
mod voice;

use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncBufReadExt as _, BufReader};

use flags::Flags;
use server::Server;
use voice::Voice;

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let flags = match Flags::parse(std::env::args().skip(1)) {
        Ok(flags) => flags,
        Err(mistake) => {
            eprintln!("mock-server: {mistake}");
            return ExitCode::from(2);
        }
    };
    if let Some(code) = flags.exit {
        eprintln!("mock-server: leaving with {code} as told");
        return ExitCode::from(code);
    }
    if let Some(mark) = &flags.grandchild {
        tools::grandchild(mark).await;
    }
    tokio::time::sleep(Duration::from_millis(flags.slow_start)).await;
    if flags.stderr_flood > 0 {
        voice::flood(flags.stderr_flood);
    }

    let voice = Voice::start();
    if flags.banner {
        voice.raw(b"Starting MCP server v1.0 on stdio...\n\xef\xbb\xbf\n\xff\xfe half\n{\"not\": \"rpc\"}\n[]\n".to_vec());
    }
    let ignore_eof = flags.ignore_eof;
    let server = Arc::new(Server::new(flags, voice));
    let mut input = BufReader::with_capacity(1 << 20, tokio::io::stdin());
    let mut line = Vec::new();
    while let Ok(1..) = input.read_until(b'\n', &mut line).await {
        server.hear(&line);
        line.clear();
    }
    if ignore_eof {
        std::future::pending::<()>().await;
    }
    ExitCode::SUCCESS
}
