//! The built-in server `ops`: what an operator's model looks at before it acts, and what it may do.
//!
//! It stands behind the gate as a server like any other, spoken to in lines over an in-memory
//! stream, and is written on rmcp as ChillMCP is. It knows no proxy: everything it tells and does
//! goes through [`Site`]. It never starts a process, opens a file or listens anywhere.
//!
//! # Where things are
//! | file | what |
//! |---|---|
//! | `server.rs` | [`Ops`]: one server, any number of connections |
//! | `site.rs` | [`Site`], the port to whatever it tells about |
//! | `tools.rs` | the tools that are always there, and how runbooks are listed beside them |
//! | `resources.rs` | the same answers as resources |
//! | `confirm.rs` | asking the host before a runbook runs |

mod confirm;
mod resources;
mod server;
mod site;
mod tools;

pub use server::{Ops, OpsError};
pub use site::{Done, Hints, Plan, Refused, Runbook, Site};
pub use tools::OWN as OWN_TOOLS;

/// The `_meta` key of a request that names the agent it comes from. Whoever stands in front is
/// trusted to have set or removed it.
pub const AGENT_KEY: &str = "dev.chillgate/agent";

/// The agent of a request that names none.
pub const ANONYMOUS: &str = "anonymous";
