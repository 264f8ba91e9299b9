//! MCP messages as bytes: one checked scan, spans, edits and framing.
//!
//! A message that passes through is never rebuilt from a model of it: typed models drop what they
//! do not know. It is scanned once, kept as the bytes it came in, and changed by splicing. What
//! the scan accepts, every strict JSON parser reads the same way, so a policy and a server cannot
//! be shown two different messages in one.
//!
//! Bytes in, values out. This crate never does I/O, never waits, never knows a policy.
//!
//! | To | Use |
//! |---|---|
//! | cut a byte stream into lines | [`Lines`] |
//! | understand one message | [`Envelope`] |
//! | understand a 2025-03-26 batch | [`batch::split`] |
//! | look inside a value | [`json`] |
//! | change a message | [`Edit`] |
//! | write one of our own | [`message`], with [`code`] |
//! | write an event stream | [`sse`] |
//! | read and write what holds for one hop | [`meta`] |
//! | compare a message with the headers that repeat it | [`mirror`] |
//! | know methods and revisions | [`method`], [`Era`], [`Revision`] |

pub mod batch;
pub mod code;
mod edit;
mod envelope;
mod era;
mod fault;
mod fold;
mod id;
pub mod json;
mod limits;
mod lines;
pub mod message;
pub mod meta;
pub mod method;
pub mod mirror;
mod scan;
pub mod sse;
mod stack;
#[cfg(test)]
mod testing;

pub use edit::Edit;
pub use envelope::{Envelope, Kind};
pub use era::{Era, META_VERSION, Revision, classify, meta_version};
pub use fault::{Fault, FaultKind};
pub use id::{Id, LONGEST_ID};
pub use limits::Limits;
pub use lines::{Lines, Oversized};
