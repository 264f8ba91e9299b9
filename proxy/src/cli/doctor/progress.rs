//! What is seen of the doctor while it looks: each server's block once it and those before it are
//! done, and on a terminal whom it still waits for.
//!
//! Order and bytes only; what a block says comes from who looked.

use std::collections::BTreeMap;
use std::io::{IsTerminal as _, Write as _};

/// How many names are told of those that are still waited for.
const NAMED: usize = 6;
/// Back to the begin of the line, and nothing on it.
const CLEAR: &str = "\r\x1b[K";

/// The blocks of all servers, on their way out.
pub(super) struct Progress<'a> {
    names: Vec<&'a str>,
    /// Done, and behind one that is not.
    kept: BTreeMap<usize, String>,
    done: Vec<bool>,
    printed: usize,
    on_terminal: bool,
}

impl<'a> Progress<'a> {
    /// For these servers, in this order.
    pub(super) fn of(names: Vec<&'a str>) -> Self {
        let progress = Self {
            done: vec![false; names.len()],
            names,
            kept: BTreeMap::new(),
            printed: 0,
            on_terminal: std::io::stderr().is_terminal(),
        };
        progress.tell();
        progress
    }

    /// The server of this number is done; the block is for eyes, if there is one.
    pub(super) fn done(&mut self, number: usize, block: Option<String>) {
        if let Some(done) = self.done.get_mut(number) {
            *done = true;
        }
        self.clear();
        if let Some(block) = block {
            self.kept.insert(number, block);
            let mut out = std::io::stdout().lock();
            while let Some(block) = self.kept.remove(&self.printed) {
                let gap = if self.printed == 0 { "" } else { "\n" };
                // Nobody may be reading any more: what is left is the exit code.
                let _ = write!(out, "{gap}{block}").and_then(|()| out.flush());
                self.printed += 1;
            }
        }
        self.tell();
    }

    fn clear(&self) {
        if self.on_terminal {
            let _ = std::io::stderr().lock().write_all(CLEAR.as_bytes());
        }
    }

    fn tell(&self) {
        let left = self.names.iter().zip(&self.done);
        let left: Vec<&str> = left.filter(|(_, done)| !**done).map(|it| *it.0).collect();
        if self.on_terminal && !left.is_empty() {
            let _ = write!(std::io::stderr().lock(), "{CLEAR}{}", waiting(&left));
        }
    }
}

/// A line about those that are not done.
fn waiting(left: &[&str]) -> String {
    let named = left.iter().take(NAMED).copied().collect::<Vec<_>>();
    match left.len() - named.len() {
        0 => format!("Waiting for {} …", named.join(", ")),
        more => format!("Waiting for {} and {more} more …", named.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_is_waited_for_is_one_short_line() {
        assert_eq!(waiting(&["a", "b"]), "Waiting for a, b …");
        let many = ["a", "b", "c", "d", "e", "f", "g", "h"];
        assert_eq!(waiting(&many), "Waiting for a, b, c, d, e, f and 2 more …");
    }
}
