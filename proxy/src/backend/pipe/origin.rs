//! Whose the process behind a pipe is, what it was started with, and what must not be told of it.
//!
//! Apart from the pipe because the pipe carries and this only knows. Whatever a server says that is
//! neither an answer to a host nor on its standard error is masked here before anybody keeps it.

use std::sync::Arc;

use super::Pipe;
use crate::incidents::{Facts, Secrets};

/// So much of what a server says is looked through, in bytes; far less of it is shown.
const LOOKED_AT: usize = 8 << 10;

/// Whose process it is, where each agent's gets something of its own, and what it was started with.
#[derive(Clone, Debug, Default)]
pub struct Origin {
    /// The agent.
    pub agent: Option<Arc<str>>,
    /// What it was started with, where that is known.
    pub facts: Option<Arc<Facts>>,
}

impl Origin {
    /// A text of the server without what it was given in confidence.
    pub fn masked(&self, text: &str) -> String {
        match &self.facts {
            Some(facts) => facts.secrets().mask(text),
            None => Secrets::default().mask(text),
        }
    }

    /// At most so many bytes of a text of the server, masked before it is cut.
    pub fn masked_head(&self, text: &[u8], most: usize) -> String {
        let whole = text.len() <= LOOKED_AT;
        let text = String::from_utf8_lossy(text.get(..LOOKED_AT).unwrap_or(text));
        let none = Secrets::default();
        let secrets = self.facts.as_ref().map_or(&none, |it| it.secrets());
        let masked = if whole {
            secrets.mask(&text)
        } else {
            // It may have been cut within a secret.
            secrets.mask_lines(&[text.into_owned()]).concat()
        };
        if masked.len() <= most {
            return masked;
        }
        let end = masked.floor_char_boundary(most);
        format!("{}…", masked.get(..end).unwrap_or_default())
    }
}

impl Pipe {
    /// What is behind it was started like this.
    pub fn note_origin(&self, origin: Origin) {
        let _ = self.origin.set(origin);
    }

    /// The same; of a server somewhere else nothing may be known.
    pub fn origin(&self) -> Origin {
        self.origin.get().cloned().unwrap_or_default()
    }
}
