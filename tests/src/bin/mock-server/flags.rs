//! What is wrong with the server from its start.
//!
//! It stands apart so that `--help` is this struct. It knows nothing of MCP.

use std::path::PathBuf;

/// The command line.
#[derive(Clone, Debug)]
pub(crate) struct Flags {
    /// `--name NAME`: what it calls itself in `serverInfo` and in its resources.
    pub(crate) name: String,
    /// `--ledger FILE`: appends every line it hears.
    pub(crate) ledger: Option<PathBuf>,
    /// `--banner`: greets on stdout, with half UTF-8 and JSON that is no JSON-RPC.
    pub(crate) banner: bool,
    /// `--eager`: logs before it answers `initialize`.
    pub(crate) eager: bool,
    /// `--garbage`: a line of garbage before and after each answer.
    pub(crate) garbage: bool,
    /// `--silent`: never answers anything.
    pub(crate) silent: bool,
    /// `--slow-start MS`: reads nothing for so long.
    pub(crate) slow_start: u64,
    /// `--exit CODE`: leaves at once.
    pub(crate) exit: Option<u8>,
    /// `--ignore-eof`: stays when stdin is closed.
    pub(crate) ignore_eof: bool,
    /// `--grandchild MARK`: leaves a process in a session of its own behind, with MARK in its line.
    pub(crate) grandchild: Option<String>,
    /// `--stderr-flood BYTES`: at the start.
    pub(crate) stderr_flood: usize,
    /// `--tools N`: so many further tools, `tool-0000` on.
    pub(crate) tools: usize,
    /// `--page N`: lists come in pages of so many.
    pub(crate) page: usize,
    /// `--eras WORD`: `legacy`, or `modern` for 2026-07-28 only, or `first` for both, but only the
    /// one that it hears first.
    pub(crate) eras: Eras,
    /// `--deaf`: never answers what it does not know.
    pub(crate) deaf: bool,
    /// `--private`: its lists are for whoever asked.
    pub(crate) private: bool,
    /// `--touchy`: leaves when it hears what it does not know.
    pub(crate) touchy: bool,
    /// `--more-if FILE`: one tool more, `extra`, while there is such a file.
    pub(crate) more_if: Option<PathBuf>,
    /// `--random-delay MS`: every call takes up to so long.
    pub(crate) random_delay: u64,
}

/// The eras that it speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Eras {
    Legacy,
    Modern,
    First,
}

impl Flags {
    pub(crate) fn parse(mut words: impl Iterator<Item = String>) -> Result<Self, String> {
        let mut flags = Self {
            name: "mock".to_owned(),
            ledger: None,
            banner: false,
            eager: false,
            garbage: false,
            silent: false,
            slow_start: 0,
            exit: None,
            ignore_eof: false,
            grandchild: None,
            stderr_flood: 0,
            tools: 0,
            page: usize::MAX,
            eras: Eras::Legacy,
            deaf: false,
            private: false,
            touchy: false,
            more_if: None,
            random_delay: 0,
        };
        while let Some(word) = words.next() {
            let mut value = || words.next().ok_or_else(|| format!("{word} needs a value"));
            match word.as_str() {
                "--name" => flags.name = value()?,
                "--ledger" => flags.ledger = Some(value()?.into()),
                "--banner" => flags.banner = true,
                "--eager" => flags.eager = true,
                "--garbage" => flags.garbage = true,
                "--silent" => flags.silent = true,
                "--slow-start" => flags.slow_start = number(&value()?)?,
                "--exit" => flags.exit = Some(number(&value()?)?),
                "--ignore-eof" => flags.ignore_eof = true,
                "--grandchild" => flags.grandchild = Some(value()?),
                "--stderr-flood" => flags.stderr_flood = number(&value()?)?,
                "--tools" => flags.tools = number(&value()?)?,
                "--page" => flags.page = number(&value()?)?,
                "--eras" => {
                    flags.eras = match value()?.as_str() {
                        "legacy" => Eras::Legacy,
                        "modern" => Eras::Modern,
                        "first" => Eras::First,
                        other => return Err(format!("unknown eras {other}")),
                    }
                }
                "--deaf" => flags.deaf = true,
                "--private" => flags.private = true,
                "--touchy" => flags.touchy = true,
                "--more-if" => flags.more_if = Some(value()?.into()),
                "--random-delay" => flags.random_delay = number(&value()?)?,
                // Only there to be found on the command line.
                "--mark" => drop(value()?),
                other => return Err(format!("unknown flag {other}")),
            }
        }
        Ok(flags)
    }
}

fn number<T: std::str::FromStr>(text: &str) -> Result<T, String> {
    text.parse().map_err(|_| format!("{text} is no number"))
}
