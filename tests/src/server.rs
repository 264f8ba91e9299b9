//! Servers to stand behind the gate: the one that misbehaves, and what it has heard.
//!
//! It stands apart because the ledger of a mock server is the oracle of every refusal: what was
//! refused must not be in it. It never talks MCP itself; `bin/mock-server.rs` does.

use std::path::{Path, PathBuf};

use serde_json::Value;

/// A mock server as a table of the config, with its ledger.
#[derive(Clone, Debug)]
pub struct Mock {
    binary: PathBuf,
    name: String,
    ledger: bool,
    flags: Vec<String>,
}

impl Mock {
    /// A mock server under this name. `binary` is `env!("CARGO_BIN_EXE_mock-server")`.
    pub fn new(binary: &str, name: &str) -> Self {
        Self {
            binary: binary.into(),
            name: name.to_owned(),
            ledger: false,
            flags: Vec::new(),
        }
    }

    /// Writes every line it hears to `NAME.ledger` beside the config; see [`crate::Gate::heard`].
    #[must_use]
    pub fn ledger(mut self) -> Self {
        self.ledger = true;
        self
    }

    /// Further flags of the mock server.
    #[must_use]
    pub fn flags(mut self, flags: &[&str]) -> Self {
        self.flags
            .extend(flags.iter().map(|flag| (*flag).to_owned()));
        self
    }

    /// Program and arguments.
    pub fn command(&self) -> Vec<String> {
        let mut words = vec![self.binary.display().to_string()];
        words.extend(["--name".to_owned(), self.name.clone()]);
        if self.ledger {
            words.extend(["--ledger".to_owned(), format!("@DIR@/{}.ledger", self.name)]);
        }
        words.extend(self.flags.iter().cloned());
        words
    }

    /// The `[server.NAME]` table, with further keys.
    pub fn table(&self, more: &str) -> String {
        format!(
            "[server.{}]\ncommand = {}\n{more}\n",
            self.name,
            toml_list(&self.command())
        )
    }
}

/// The lines that a mock server has heard, exactly as they came.
#[derive(Clone, Debug, Default)]
pub struct Heard(Vec<String>);

impl Heard {
    /// Reads a ledger; a missing file means that nothing was heard.
    pub fn read(path: &Path) -> Self {
        let text = std::fs::read_to_string(path).unwrap_or_default();
        let whole = text.rsplit_once('\n').map_or("", |(whole, _)| whole);
        Self(whole.lines().map(str::to_owned).collect())
    }

    /// Every line.
    pub fn lines(&self) -> &[String] {
        &self.0
    }

    /// Every message with this method.
    ///
    /// # Panics
    /// When a line is no JSON: chillgate must never write such a line.
    pub fn of(&self, method: &str) -> Vec<Value> {
        let parse = |line: &String| -> Value {
            serde_json::from_str(line)
                .unwrap_or_else(|error| panic!("the server heard no JSON ({error}): {line}"))
        };
        self.0
            .iter()
            .map(parse)
            .filter(|message| message["method"] == method)
            .inspect(crate::judge::server_heard)
            .collect()
    }

    /// How many tools were called.
    pub fn calls(&self) -> usize {
        self.of("tools/call").len()
    }
}

/// Strings as a TOML array.
pub fn toml_list<S: AsRef<str>>(words: &[S]) -> String {
    // A JSON string is a TOML basic string.
    let quoted: Vec<String> = words
        .iter()
        .map(|word| Value::from(word.as_ref()).to_string())
        .collect();
    format!("[{}]", quoted.join(", "))
}
