//! Towards hosts: the seam every transport from a host stands behind.
//!
//! A front turns bytes into checked envelopes, opens and ends sessions, and writes answers. It
//! never sees a policy or a server; both stand behind the gate.

mod batch;
pub mod duplex;
pub mod origin;
pub(crate) mod running;
pub mod stdio;
pub mod streamable_http;
