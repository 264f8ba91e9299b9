//! The harness: a real chillgate, raw hosts, a server that misbehaves, and the oracles.
//!
//! It stands apart so that a test reads as a story. It never links chillgate: what it drives is the
//! binary that a user would run, from outside, over sockets and pipes on loopback. Every wait is
//! bounded and says what it waited for; nothing is skipped when a tool is missing.

pub mod audit;
pub mod gate;
pub mod host;
pub mod http;
pub mod issuer;
pub mod judge;
pub mod ledger;
pub mod lenient;
pub mod modern;
pub mod net;
pub mod pace;
pub mod pipe;
pub mod process;
pub mod recorder;
pub mod redis;
pub mod schema;
pub mod scrape;
pub mod script;
pub mod server;
pub mod sse;
pub mod wait;

pub use gate::Gate;
pub use host::{Host, Reply};
pub use issuer::Issuer;
pub use ledger::Ledger;
pub use pipe::PipeHost;
pub use recorder::Recorder;
pub use redis::Redis;
pub use server::Mock;
pub use wait::until;
