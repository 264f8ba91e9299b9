//! Remedies: which rule fits a failure, and what it says.
//!
//! The user's own come first, then those shipped in `remedies.toml`, each in the order of its file.
//! It compares and words; nothing is looked at and nothing is kept here.

use std::sync::{Arc, LazyLock};

use regex_lite::{Captures, Regex};
use serde::{Deserialize, Serialize};

use super::Phase;
use crate::config::remedy::{Check, Remedy};
use crate::supervisor::Status;

/// What is shipped.
const SHIPPED: &str = include_str!("remedies.toml");
/// The longest piece of a server's words that is put into a remedy, in bytes.
const PIECE: usize = 160;

#[derive(Deserialize)]
struct File {
    remedy: Vec<Remedy>,
}

static RULES: LazyLock<Vec<Remedy>> = LazyLock::new(|| {
    let file: File = toml_edit::de::from_str(SHIPPED).expect("remedies.toml is as its tests say");
    file.remedy
});

/// Reads what is shipped, ahead of its first use.
pub(super) fn prepare() {
    LazyLock::force(&RULES);
}

/// All rules in their order.
#[derive(Clone, Debug, Default)]
pub struct Rules {
    own: Arc<[Remedy]>,
}

/// A failure as rules see it.
#[derive(Clone, Copy, Debug)]
pub struct Seen<'a> {
    /// The server's name.
    pub server: &'a str,
    /// When it failed.
    pub phase: Phase,
    /// How it ended, if it did.
    pub status: Option<Status>,
    /// The cause, and below it the last lines of stderr.
    pub text: &'a str,
    /// Whether it has a sandbox.
    pub sandboxed: bool,
    /// The port that it was given, for words that name none.
    pub port: Option<&'a str>,
}

/// A remedy for one failure.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Advice {
    /// The rule's name.
    pub id: String,
    /// Whether it is the user's own.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub own: bool,
    /// What to do.
    pub text: String,
    /// What to look at before servers are started.
    #[serde(skip)]
    pub check: Option<Check>,
}

impl Rules {
    /// These before the shipped ones.
    pub fn new(own: &[Remedy]) -> Self {
        Self { own: own.into() }
    }

    /// The first rule that fits.
    pub fn find(&self, seen: Seen<'_>) -> Option<Advice> {
        let own = self.own.iter().map(|rule| (rule, true));
        let mut all = own.chain(RULES.iter().map(|rule| (rule, false)));
        all.find_map(|(rule, own)| {
            let mut found = fits(rule, seen)?;
            let check = rule.check.as_ref();
            if check.is_some_and(|check| check.port.as_deref() == Some("{1}")) {
                name_port(&mut found, seen.port);
            }
            Some(Advice {
                id: rule.name.clone(),
                own,
                text: filled(&rule.says, &found, Missing::Dots).unwrap_or_default(),
                check: rule.check.as_ref().and_then(|check| of(check, &found)),
            })
        })
    }
}

/// The groups of a match, the whole first; empty where the rule has no text.
type Found = Vec<Option<String>>;

/// The first group is a port: where the words did not name it, the one that the server was given.
fn name_port(found: &mut Found, given: Option<&str>) {
    if let Some(port) = given
        && found.get(1).is_none_or(Option::is_none)
    {
        found.resize(found.len().max(2), None);
        found[1] = Some(port.to_owned());
    }
}

fn fits(rule: &Remedy, seen: Seen<'_>) -> Option<Found> {
    let wanted = &rule.matches;
    let (code, signal) = match seen.status {
        Some(Status::Code(code)) => (Some(code), None),
        Some(Status::Signal(signal)) => (None, Some(signal)),
        _ => (None, None),
    };
    let is = |list: &[i32], number: Option<i32>| {
        list.is_empty() || number.is_some_and(|number| list.contains(&number))
    };
    let fits = (wanted.server.is_empty() || wanted.server.iter().any(|name| name == seen.server))
        && (wanted.phase.is_empty() || wanted.phase.contains(&seen.phase))
        && wanted
            .sandboxed
            .is_none_or(|wanted| wanted == seen.sandboxed)
        && is(&wanted.exit, code)
        && is(&wanted.signal, signal);
    if !fits {
        return None;
    }
    if wanted.text.is_empty() {
        return Some(Vec::new());
    }
    let mut expressions = wanted.text.iter();
    expressions.find_map(|pattern| pattern.regex().captures(seen.text).map(|it| pieces(&it)))
}

fn pieces(captures: &Captures<'_>) -> Found {
    captures
        .iter()
        .map(|group| {
            let text = group?.as_str().trim();
            let end = text.floor_char_boundary(PIECE);
            text.get(..end)
                .filter(|text| !text.is_empty())
                .map(str::to_owned)
        })
        .collect()
}

/// What becomes of a `{1}` without a group.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Missing {
    Dots,
    Nothing,
}

/// `{1}` and `{1|otherwise}` replaced by what was found.
fn filled(template: &str, found: &Found, missing: Missing) -> Option<String> {
    static PLACE: LazyLock<Regex> =
        LazyLock::new(|| Regex::new(r"\{(\d)(?:\|([^}]*))?\}").expect("the pattern is legal"));
    let mut whole = true;
    let text = PLACE.replace_all(template, |place: &Captures<'_>| {
        let number = place
            .get(1)
            .and_then(|number| number.as_str().parse::<usize>().ok());
        let piece = number.and_then(|number| found.get(number).cloned().flatten());
        let otherwise = || place.get(2).map(|text| text.as_str().to_owned());
        piece.or_else(otherwise).unwrap_or_else(|| {
            whole = false;
            "…".to_owned()
        })
    });
    (whole || missing == Missing::Dots).then(|| text.into_owned())
}

/// The check for one failure; none where the failure does not say what to look at.
fn of(check: &Check, found: &Found) -> Option<Check> {
    let text = |template: &Option<String>| match template {
        None => Some(None),
        Some(template) => filled(template, found, Missing::Nothing).map(Some),
    };
    Some(Check {
        program: text(&check.program)?,
        variable: text(&check.variable)?,
        port: text(&check.port)?,
        disk: check.disk,
        parses: text(&check.parses)?,
        readable: text(&check.readable)?,
        log: text(&check.log)?,
        text: check.text.clone(),
    })
}

#[cfg(test)]
mod tests;
