//! What chillgate decides: policies, their order, and nothing that acts.
//!
//! Each file of this folder is one policy; the machinery they share stands in [`engine`]. Pure by
//! construction: no async runtime, no HTTP, no JSON-RPC framing, no file and no clock of its own;
//! what a policy needs from the world is handed to it as a port ([`engine::services::Services`]).
//!
//! To add a policy: write `src/<name>.rs` with its `KIND`, and its line in [`KINDS`].

pub mod access;
pub mod audit;
pub mod boss_alert;
pub mod concurrency;
pub mod engine;
pub mod presets;
pub mod quota;
pub mod scope;
pub mod timeout;

use engine::kind::Kind;

/// Every kind of policy: the one registration place. Order here is order in documentation; the
/// order of work is each kind's [`engine::policy::Stage`].
pub static KINDS: &[Kind] = &[
    audit::KIND,
    access::KIND,
    scope::KIND,
    quota::KIND,
    boss_alert::KIND,
    concurrency::KIND,
    timeout::KIND,
];
