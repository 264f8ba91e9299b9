//! ChillMCP, the built-in server: breaks for agents, suspicion for the boss.
//!
//! A break lowers an agent's stress and may raise the boss alert; at alert 5 the answer is held.
//! Written on rmcp, as built-in servers are, it stands behind the gate as a server like any other, spoken to
//! in lines over an in-memory stream. It never opens a socket, reads a file or writes a log.
//!
//! # Where things are
//! | file | what |
//! |---|---|
//! | `server.rs` | [`Chill`]: one ChillMCP, serving any number of connections |
//! | `office.rs` | everybody's levels, and how a break changes them |
//! | `mood.rs` | stress, a level that rises with the minutes |
//! | `effects.rs` | what each break does, by chance |
//! | `hold.rs` | waiting while the boss looks |
//! | `tools.rs` | the twelve tools, as a model sees them |
//! | `answer.rs` | the answer's form |
//! | `lines.rs`, `lines/` | the words, in English and Korean |
//! | `settings.rs`, `report.rs`, `error.rs` | what goes in, what is told, what can go wrong |
//!
//! The boss alert itself is `chillgate_policies::engine::boss`, shared with the boss-alert policy.

mod answer;
mod effects;
mod error;
mod hold;
mod lines;
mod mood;
mod office;
mod report;
mod server;
mod settings;
mod tools;

pub use error::ChillError;
pub use report::{BreakReport, Levels, Observer, Silent};
pub use server::Chill;
pub use settings::{Effects, Lang, Scope, Settings};

/// The `_meta` key of a request that names the agent it comes from: a string of at most
/// [`MAX_AGENT_BYTES`]. Whoever stands in front is trusted to have set or removed it.
pub const AGENT_KEY: &str = "dev.chillgate/agent";

/// The `_meta` key of a request that a policy has held already: `true` means not to hold it again.
pub const HELD_KEY: &str = "dev.chillgate/held";

/// The agent of a request that names none.
pub const ANONYMOUS: &str = "anonymous";

/// The name under which shared levels are listed.
pub const SHARED: &str = "*";

/// The longest agent name taken, in bytes; a longer one is refused with -32602.
pub const MAX_AGENT_BYTES: usize = 256;
