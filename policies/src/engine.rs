//! The machinery behind the policies: what a policy author imports.
//!
//! The policies themselves stand one folder up, one file each; here are the words they are
//! written in. Nothing in here acts: no I/O, no runtime, no clock of its own.

pub mod allow;
pub mod boss;
pub mod call;
pub mod chain;
pub mod clock;
pub mod exceed;
pub mod fields;
pub mod hours;
pub mod kind;
pub mod ledger;
pub mod line;
pub mod pass;
pub mod policy;
pub mod record;
pub mod rooms;
pub mod rule;
pub mod schedule;
pub mod services;
pub mod slots;
pub mod span;
pub mod standing;

#[cfg(test)]
pub(crate) mod testing;

pub use call::{Call, Completion, Context, Grants, Levels, Outcome};
pub use chain::{Chain, ExplainLine, Waiting};
pub use clock::Clock;
pub use fields::{Fields, Mistake, Wrong};
pub use kind::{KeyDoc, Kind, Mode};
pub use pass::Pass;
pub use policy::{Admitted, Answer, Deadline, Metered, Policy, Rejection, Stage, Verdict};
pub use record::{AuditDown, AuditSink, Event, Record};
pub use services::{Meter, Services, Tally};
pub use standing::Standing;
