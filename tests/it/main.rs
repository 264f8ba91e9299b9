//! Everything that needs the real binary, real children and real peers: one test binary.
//!
//! It stands apart from the crates' own tests, which show what one part does alone. A module here
//! is one promise of the product; each test starts its own chillgate on ports of its own.

mod harness;

/// The server that misbehaves.
const MOCK: &str = env!("CARGO_BIN_EXE_mock-server");
