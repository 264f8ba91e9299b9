//! Everything that needs the real binary, real children and real peers: one test binary.
//!
//! It stands apart from the crates' own tests, which show what one part does alone. A module here
//! is one promise of the product; each test starts its own chillgate on ports of its own.

#![expect(
    clippy::unwrap_used,
    reason = "a helper here is part of the tests that call it"
)]
#![expect(
    clippy::large_futures,
    reason = "a test's futures are few and short-lived"
)]

mod admin;
mod apart;
mod architecture;
mod bad_input;
mod budgets;
mod callers;
mod chill;
mod cli;
mod config;
mod counted;
mod crowds;
mod docs;
mod doctor;
mod egress;
mod either;
mod endpoints;
mod eras;
mod examples;
mod exchanged_tokens;
mod fair;
mod faults;
mod first_words;
mod forged;
mod handles;
mod harness;
mod headers_agree;
mod held_back;
mod hibernation;
mod http_rules;
mod http_sse;
mod hung;
mod idle;
mod incidents;
mod isolation;
mod labels;
mod leftovers;
mod limits;
mod listening;
mod metrics;
mod misrouting;
mod modern_questions;
mod modern_servers;
mod near_addresses;
mod odd_bytes;
mod older_tasks;
mod ops;
mod ops_commands;
mod ops_files;
mod outward;
mod overrides;
mod own_credentials;
mod own_tokens;
mod parity;
mod pass_through;
mod peers;
mod policies;
mod relay;
mod remote_incidents;
mod replicas;
mod respawn;
mod resumption;
mod rounds;
mod rules;
mod sandbox;
mod schedule;
mod schemas;
mod server_requests;
mod service;
mod shared;
mod tls;
mod tokens;
mod tree;
mod two_issuers;
mod two_readings;
mod versions;
mod waiting;

use chillgate_tests::Mock;

/// The server that misbehaves.
const MOCK: &str = env!("CARGO_BIN_EXE_mock-server");

/// A mock server under this name.
fn mock(name: &str) -> Mock {
    Mock::new(MOCK, name)
}
