//! `chillgate key`: makes an API key and the line of the configuration that knows it.
//!
//! The configuration holds only the hash. Neither is stored anywhere: who loses the key makes a
//! new one.

use std::process::ExitCode;

use data_encoding::HEXLOWER;
use sha2::{Digest, Sha256};

use super::KeyArgs;
use super::answer::{Answer, FINE};
use crate::config;

/// Random bytes in a key.
const BYTES: usize = 32;

/// Makes a key and prints it with its line.
pub fn run(args: &KeyArgs) -> ExitCode {
    key(&args.agent, &crate::random::bytes()).print()
}

fn key(agent: &str, random: &[u8; BYTES]) -> Answer {
    if !config::agent_name(agent) || agent == "anonymous" {
        let message = format!("{agent:?} cannot be an agent with a key");
        return Answer::cannot(&message, Some("chillgate key agent-a"));
    }
    let key = format!("cg_{}", HEXLOWER.encode(random));
    let hash = HEXLOWER.encode(&Sha256::digest(key.as_bytes()));
    let name = toml_edit::Key::new(agent);
    Answer {
        out: format!("{key}\n{name} = \"sha256:{hash}\"\n"),
        err: format!(
            "The first line is the key of {agent:?}, shown only now; it is sent as `Authorization: Bearer cg_…`.\n\
             The second line belongs under [identity.api-keys].\n"
        ),
        code: FINE,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_printed_line_knows_the_printed_key() {
        let answer = key("agent-a", &[7; BYTES]);
        let (key, line) = answer.out.trim_end().split_once('\n').expect("two lines");
        assert!(key.starts_with("cg_") && key.len() == 3 + 64, "{key}");
        let hash = line
            .strip_prefix("agent-a = \"")
            .and_then(|rest| rest.strip_suffix('"'));
        let hash = hash.and_then(config::key_hash).expect("a legal hash");
        assert_eq!(hash[..], Sha256::digest(key.as_bytes())[..]);
    }

    #[test]
    fn an_odd_name_is_quoted_so_that_the_line_is_toml() {
        let line = key("team a \"1\"", &[1; BYTES]).out;
        let line = line.lines().nth(1).expect("a second line");
        let table: toml_edit::DocumentMut = line.parse().expect("TOML");
        assert!(table.contains_key("team a \"1\""), "{line}");
        for bad in ["", " a", "a\nb", "anonymous"] {
            assert_eq!(
                key(bad, &[1; BYTES]).code,
                super::super::answer::CANNOT,
                "{bad:?}"
            );
        }
    }
}
