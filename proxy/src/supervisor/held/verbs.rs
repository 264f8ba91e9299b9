//! The verbs by which chillgate starts itself above and before a server, on a system where it does
//! not: said in words to who types them.

use std::ffi::OsString;
use std::process::ExitCode;

/// The hidden verb of a keeper.
pub const VERB: &str = "__keep";

/// Does nothing and says so.
pub fn run(_: impl IntoIterator<Item = OsString>) -> ExitCode {
    eprintln!("chillgate: {VERB} is for chillgate's own use, on other systems than this");
    ExitCode::from(2)
}
