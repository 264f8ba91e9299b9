//! What a verb says in the end: the answer, the remarks, the exit code.
//!
//! One place for the rule that answers go to standard output and everything else to standard
//! error, and for what happens when nobody reads them any more.

use std::io::Write as _;
use std::process::ExitCode;

use crate::config::hint;

/// Everything is fine.
pub const FINE: u8 = 0;
/// A check found something.
pub const FOUND: u8 = 1;
/// It cannot run: usage or configuration.
pub const CANNOT: u8 = 2;

/// A verb's last words.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Answer {
    /// For standard output.
    pub out: String,
    /// For standard error.
    pub err: String,
    /// [`FINE`], [`FOUND`] or [`CANNOT`].
    pub code: u8,
}

impl Answer {
    /// A refusal of `error: message` and what to type instead.
    pub fn cannot(message: &str, help: Option<&str>) -> Self {
        let help = help
            .map(|help| format!("  = help: {help}\n"))
            .unwrap_or_default();
        Self {
            out: String::new(),
            err: format!("error: {message}\n{help}"),
            code: CANNOT,
        }
    }

    /// A refusal of a server that is none of those known, with the nearest or all of them.
    pub(super) fn no_server(wanted: &str, known: &[&str]) -> Self {
        let help = match hint::nearest(wanted, known.iter().copied()) {
            Some(near) => format!("did you mean `{near}`?"),
            None if known.is_empty() => "there is none yet".to_owned(),
            None => format!("the servers are {}", hint::list(known.to_vec())),
        };
        Self::cannot(&format!("there is no server {wanted:?}"), Some(&help))
    }

    /// Prints both texts. A reader that has gone away (`chillgate check | head`) is no mistake.
    pub fn print(self) -> ExitCode {
        let _ = std::io::stderr().lock().write_all(self.err.as_bytes());
        let mut out = std::io::stdout().lock();
        let _ = out
            .write_all(self.out.as_bytes())
            .and_then(|()| out.flush());
        ExitCode::from(self.code)
    }
}

/// Each text on a line of its own.
pub(super) fn lines(texts: &[String]) -> String {
    texts
        .iter()
        .flat_map(|text| [text.as_str(), "\n"])
        .collect()
}
