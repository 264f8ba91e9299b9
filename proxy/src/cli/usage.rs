//! Mistyped command lines, answered with the line to type.
//!
//! Only looks at what was typed and at clap's complaint about it. It never guesses so far as to
//! run something.

use std::ffi::OsString;

use clap::CommandFactory as _;
use clap::error::{ContextKind, ContextValue, Error, ErrorKind};

use super::Cli;
use super::answer::{Answer, CANNOT, FINE};
use crate::config::hint;

/// What to print instead of doing anything.
pub(super) fn answer(error: &Error, args: &[OsString]) -> Answer {
    let text = error.render().to_string();
    match error.kind() {
        ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => {
            return Answer {
                out: text,
                err: String::new(),
                code: FINE,
            };
        }
        ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand => {
            return Answer {
                out: String::new(),
                err: text,
                code: CANNOT,
            };
        }
        _ => {}
    }
    let words: Vec<String> = args
        .iter()
        .skip(1)
        .map(|w| w.to_string_lossy().into())
        .collect();
    if let Some(answer) = value(error) {
        return answer;
    }
    if let Some(line) = wrapped(&words) {
        return Answer::cannot("the server's command stands after `--`", Some(&line));
    }
    if error.kind() == ErrorKind::InvalidSubcommand
        && let Some(word) = context(error, ContextKind::InvalidSubcommand)
    {
        return verb(&word, &words);
    }
    Answer {
        out: String::new(),
        err: text,
        code: CANNOT,
    }
}

fn context(error: &Error, kind: ContextKind) -> Option<String> {
    match error.get(kind)? {
        ContextValue::String(text) => Some(text.clone()),
        _ => None,
    }
}

/// A flag's value out of range, on one line: hosts show the first line of what a server says.
fn value(error: &Error) -> Option<Answer> {
    if !matches!(
        error.kind(),
        ErrorKind::ValueValidation | ErrorKind::InvalidValue
    ) {
        return None;
    }
    let flag = context(error, ContextKind::InvalidArg)?;
    let flag = flag.split_whitespace().next()?;
    let given = context(error, ContextKind::InvalidValue).unwrap_or_default();
    let choice = match error.get(ContextKind::ValidValue) {
        Some(ContextValue::Strings(words)) if !words.is_empty() => {
            Some(format!("one of {}", words.join(", ")))
        }
        _ => None,
    };
    let range = std::error::Error::source(error)
        .map(ToString::to_string)
        .or(choice)?;
    let message = if given.is_empty() {
        format!("{flag} needs a value: {range}")
    } else {
        format!("{flag} must be {range}, not {given:?}")
    };
    Some(Answer::cannot(&message, None))
}

/// `wrap npx foo`: the right line, if `wrap` was given a command without `--`.
fn wrapped(words: &[String]) -> Option<String> {
    let verb = words.iter().position(|word| word == "wrap")?;
    let rest = words.get(verb + 1..)?;
    if words.iter().any(|word| word == "--") {
        return None;
    }
    let takes_value = ["--config", "--name", "--log", "--log-format"];
    let mut at = 0;
    while let Some(word) = rest.get(at) {
        if takes_value.contains(&word.as_str()) {
            at += 2;
        } else if word.starts_with("--") && word.contains('=') {
            at += 1;
        } else {
            break;
        }
    }
    let command = rest.get(at..).filter(|rest| !rest.is_empty());
    let (flags, command) = match command {
        Some(command) if command.first().is_some_and(|word| word.starts_with('-')) => return None,
        Some(command) => (rest.get(..at)?, command.to_vec()),
        None => (
            rest,
            ["npx", "-y", "some-server"].map(str::to_owned).to_vec(),
        ),
    };
    let before = words.get(..=verb)?.iter().chain(flags);
    let line: Vec<_> = ["chillgate".to_owned()]
        .into_iter()
        .chain(before.map(|word| quoted(word)))
        .chain(["--".to_owned()])
        .chain(command.iter().map(|word| quoted(word)))
        .collect();
    Some(line.join(" "))
}

/// An unknown verb: a file, a URL, a slip of the fingers or a server's command.
fn verb(word: &str, words: &[String]) -> Answer {
    let message = format!("there is no command {word:?}");
    let file = std::path::Path::new(word)
        .extension()
        .is_some_and(|end| end == "toml");
    let at = words.iter().position(|w| w == word).unwrap_or_default();
    let rest = words.get(at..).unwrap_or_default();
    let command = Cli::command();
    let verbs = command.get_subcommands().filter(|verb| !verb.is_hide_set());
    let verbs: Vec<&str> = verbs.map(clap::Command::get_name).collect();
    let help = if file {
        format!("chillgate serve --config {}", quoted(word))
    } else if ["http://", "https://", "unix:"]
        .iter()
        .any(|scheme| word.starts_with(scheme))
    {
        format!("chillgate connect {}", quoted(word))
    } else if let Some(near) = hint::nearest(word, verbs.iter().copied()) {
        let rest = rest.iter().skip(1).map(|word| format!(" {}", quoted(word)));
        format!("chillgate {near}{}", rest.collect::<String>())
    } else if rest.len() > 1 {
        let rest: Vec<_> = rest.iter().map(|word| quoted(word)).collect();
        format!("chillgate wrap -- {}", rest.join(" "))
    } else {
        format!(
            "the commands are {}; chillgate --help tells more",
            hint::list(verbs)
        )
    };
    Answer::cannot(&message, Some(&help))
}

/// A word as a shell takes it.
fn quoted(word: &str) -> String {
    let plain = |c: char| c.is_alphanumeric() || "-_./:@=,+%".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        word.to_owned()
    } else if word.chars().any(char::is_control) {
        format!("{word:?}")
    } else {
        format!("'{}'", word.replace('\'', r"'\''"))
    }
}
