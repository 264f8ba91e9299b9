//! Before servers are started: what went wrong the last times is looked at first.
//!
//! Each look is cheap and changes nothing. What is found is told; whether a server is started all
//! the same is its caller's.

use serde::Serialize;

use super::Phase;
use super::book::Pattern;
use super::environment::Environment;
use super::moment::Moment;
use crate::supervisor::Launch;

/// A server that is about to be started.
#[derive(Clone, Debug)]
pub struct Candidate {
    /// How it would be.
    pub launch: Launch,
    /// The fingerprint of that.
    pub environment: Environment,
}

/// Something that stands in a server's way, or stood in it the last time.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Finding {
    /// The server.
    #[serde(skip)]
    pub server: String,
    /// The pattern it comes from.
    pub incident: String,
    /// What was looked at: a check's kind, or `unchanged`.
    pub check: &'static str,
    /// Whether the start would fail: a check does. Else nothing has changed since it last failed.
    pub failing: bool,
    /// What was found.
    pub says: String,
    /// The remedy's name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub remedy: Option<String>,
    /// What to do.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub advice: Option<String>,
}

/// What is found of this pattern, which is not behind us.
pub(super) fn look(pattern: &Pattern, candidate: &Candidate, now: Moment) -> Option<Finding> {
    // What went wrong at its end, or far away, keeps no process from starting.
    let is_elsewhere = matches!(pattern.phase, Phase::Stop | Phase::Remote);
    if is_elsewhere || pattern.server != candidate.launch.name || pattern.is_resolved(now) {
        return None;
    }
    let found = match &pattern.check {
        Some(check) => match check.run(&candidate.launch) {
            Err(says) => Some((check.kind(), true, says)),
            // What broke it then is gone.
            Ok(()) if pattern.check_failed => return None,
            Ok(()) => None,
        },
        None => None,
    };
    let is_changed = || {
        let changes = candidate.environment.changes_since(&pattern.environment);
        !changes.is_empty()
    };
    let (check, failing, says) = match found {
        Some(found) => found,
        None if is_changed() => return None,
        None => {
            let last = pattern.last_seen.day();
            let says = format!(
                "nothing has changed since it failed on {last}: {}",
                pattern.what
            );
            ("unchanged", false, says)
        }
    };
    Some(Finding {
        server: pattern.server.clone(),
        incident: pattern.id.clone(),
        check,
        failing,
        says,
        remedy: pattern.remedy.as_ref().map(|advice| advice.id.clone()),
        advice: pattern.remedy.as_ref().map(|advice| advice.text.clone()),
    })
}
