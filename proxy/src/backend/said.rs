//! What a server says on its own to one host: a notification finds the stream it belongs on.
//!
//! The same for every transport, so that a host hears the same whichever way its server is
//! reached. Who the host is, is known before; questions and progress go their own ways.

use std::sync::Arc;

use chillgate_wire::{Envelope, Era, Id};

use crate::exchange::{Exchange, Refused};
use crate::session::Session;

/// Hands a notification of `server` on to its host. `related` is the call it most likely belongs
/// to. An error: the host does not read.
pub(super) fn hand_on(
    server: &Arc<str>,
    session: &Session,
    related: Option<&Arc<Exchange>>,
    note: Envelope,
) -> Result<(), Refused> {
    match note.method().unwrap_or_default() {
        "notifications/cancelled" => {
            if let Some(id) = note.get(&["params", "requestId"]).and_then(Id::from_lexeme) {
                session.withdraw(&id, &note);
            }
            Ok(())
        }
        // It told that a question need not be answered any more; a modern host was not asked one.
        "notifications/elicitation/complete" if session.era() == Era::Modern => Ok(()),
        // Whoever listens for the task looks at it.
        "notifications/tasks/status" if session.era() == Era::Modern => {
            session.tasks.changed();
            Ok(())
        }
        "notifications/message" if !wants_log(session, related, &note) => Ok(()),
        "notifications/resources/updated" => session.tell(note),
        method if method.ends_with("list_changed") => {
            session.learned().forget(server);
            session.tell(note)
        }
        // A modern host hears of a call its progress and its log, and else what it listens for (R-084).
        "notifications/message" | "notifications/progress" => session.tell_about(related, note),
        _ if session.era() == Era::Modern => session.tell(note),
        _ => session.tell_about(related, note),
    }
}

/// Whether the host has asked for log messages as severe as this one: for all of its session, or
/// since 2026-07-28 with the very request (R-087).
fn wants_log(session: &Session, related: Option<&Arc<Exchange>>, note: &Envelope) -> bool {
    let least = match session.era() {
        Era::Legacy => Some(session.log_level()),
        Era::Modern => related.and_then(|exchange| exchange.log_level()),
    };
    least.is_some_and(|least| level_of(note) >= least)
}

/// A log message's severity; one without a known level is always told.
fn level_of(note: &Envelope) -> u8 {
    note.text(&["params", "level"])
        .and_then(|name| severity(&name))
        .unwrap_or(u8::MAX)
}

/// RFC 5424 severities as MCP names them, from the least severe.
const LEVELS: [&str; 8] = [
    "debug",
    "info",
    "notice",
    "warning",
    "error",
    "critical",
    "alert",
    "emergency",
];

/// A level's place among them.
pub(crate) fn severity(name: &str) -> Option<u8> {
    let place = LEVELS.iter().position(|level| *level == name)?;
    Some(place as u8)
}

/// A level by its place.
pub(crate) fn level_name(level: u8) -> &'static str {
    LEVELS.get(usize::from(level)).unwrap_or(&LEVELS[0])
}

/// Why the value of this member of `params` is no level.
pub(crate) fn no_level(member: &str) -> String {
    format!("Invalid params: `{member}` is one of {}", LEVELS.join(", "))
}

/// The `params` of the `logging/setLevel` that asks for this one.
pub(super) fn level_params(level: u8) -> Vec<u8> {
    format!(r#"{{"level":"{}"}}"#, level_name(level)).into_bytes()
}
