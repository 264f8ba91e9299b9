//! `chillgate incidents`: what is remembered of servers' failures, for eyes and for programs.
//!
//! Reads the file that running chillgates write, and changes it only to forget. It asks no server.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::process::ExitCode;

use serde_json::Value;

use super::answer::{Answer, CANNOT, FINE};
use super::{Global, IncidentsArgs};
use crate::config::load::load;
use crate::config::{Config, ServerName};
use crate::incidents::file::{Found, Kept, Place};
use crate::incidents::{Moment, Pattern};
use crate::state::{self, Folder};

/// Prints the list, or forgets one.
pub fn run(args: &IncidentsArgs, global: &Global) -> ExitCode {
    // Which folder it is stands in the configuration: half of one would show another's incidents.
    let config = match load(&global.sources()) {
        Ok(loaded) => loaded.config,
        Err(report) => {
            report.print();
            return ExitCode::from(CANNOT);
        }
    };
    let answer = match state::folder(&config.state) {
        Err(error) => Answer::cannot(&error, None),
        Ok(Folder::At(folder)) => answer(args, &config, &Place::new(folder)),
        // To look, it need not be writable.
        Ok(Folder::Unusable(folder, _)) if args.forget.is_none() && folder.is_dir() => {
            answer(args, &config, &Place::new(folder))
        }
        Ok(none) => {
            let (cause, help) = none.trouble().unwrap_or_default();
            Answer::cannot(&cause, Some(help))
        }
    };
    answer.print()
}

fn answer(args: &IncidentsArgs, config: &Config, place: &Place) -> Answer {
    let shown = place.folder().display();
    let kept = match place.read() {
        Ok(Found::Kept(kept)) => *kept,
        Ok(Found::Nothing) => Kept::default(),
        Ok(Found::Strange(why)) => {
            let message = format!("{shown}/incidents.json cannot be used: {why}");
            return Answer::cannot(
                &message,
                Some("the next failure puts it aside and begins anew"),
            );
        }
        Err(error) => return Answer::cannot(&format!("{shown}/incidents.json: {error}"), None),
    };
    if let Some(id) = &args.forget {
        return forget(id, &kept, place);
    }
    if let Some(answer) = unknown(args, config, &kept) {
        return answer;
    }
    let now = Moment::now();
    let of_server =
        |pattern: &&Pattern| args.server.as_ref().is_none_or(|it| *it == pattern.server);
    let all: Vec<&Pattern> = kept
        .book
        .in_order(now)
        .into_iter()
        .filter(of_server)
        .collect();
    let count = all.len();
    let listed = |pattern: &&Pattern| args.all || !pattern.is_resolved(now);
    let list: Vec<&Pattern> = all.into_iter().filter(listed).collect();
    let behind = count - list.len();
    let out = if args.json {
        let list: Vec<Value> = list
            .iter()
            .map(|pattern| as_json(pattern, &kept, now))
            .collect();
        format!("{:#}\n", Value::from(list))
    } else {
        list.iter()
            .map(|pattern| as_text(pattern, &kept, now))
            .collect::<Vec<_>>()
            .join("\n")
    };
    let err = match (list.is_empty(), behind) {
        _ if args.json => String::new(),
        (true, 0) => format!("Nothing is known to have failed ({shown}).\n"),
        (_, 0) => String::new(),
        (_, behind) => format!("{behind} more behind us; --all shows them.\n"),
    };
    Answer {
        out,
        err,
        code: FINE,
    }
}

/// Refuses a server that is neither configured nor remembered.
fn unknown(args: &IncidentsArgs, config: &Config, kept: &Kept) -> Option<Answer> {
    let wanted = args.server.as_deref()?;
    let configured = config.server.keys().map(ServerName::as_str);
    let remembered = kept.book.patterns.values().map(|it| it.server.as_str());
    let names: BTreeSet<&str> = configured.chain(remembered).collect();
    let names: Vec<&str> = names.into_iter().collect();
    (!names.contains(&wanted)).then(|| Answer::no_server(wanted, &names))
}

fn as_json(pattern: &Pattern, kept: &Kept, now: Moment) -> Value {
    let mut value = pattern.told(now);
    if let Some(remedy) = &pattern.remedy {
        let credit = kept.book.credit(&remedy.id);
        value["remedy"]["worked"] = credit.worked.into();
        value["remedy"]["passed"] = credit.passed.into();
    }
    value
}

fn as_text(pattern: &Pattern, kept: &Kept, now: Moment) -> String {
    let mut text = String::new();
    // Writing to a `String` cannot fail.
    let _ = write_text(&mut text, pattern, kept, now);
    text
}

fn write_text(out: &mut String, pattern: &Pattern, kept: &Kept, now: Moment) -> std::fmt::Result {
    let Pattern { id, server, .. } = pattern;
    let times = |count: u64| match count {
        1 => "once".to_owned(),
        count => format!("{count} times"),
    };
    let ended = match pattern.ended.as_str() {
        "" => String::new(),
        ended => format!(", {ended}"),
    };
    let agent = pattern.agent.as_deref();
    let whose = agent.map(|agent| format!(" of agent {agent}"));
    let whose = whose.unwrap_or_default();
    writeln!(
        out,
        "{id}  {server}{whose}  {} at {}{ended}",
        times(pattern.count),
        pattern.phase.as_str()
    )?;
    writeln!(out, "  {}", pattern.what)?;
    let tries = match pattern.attempts {
        attempts if attempts > pattern.count => format!(" ({attempts} tries)"),
        _ => String::new(),
    };
    let (first, last) = (pattern.first_seen, pattern.last_seen);
    if first == last {
        writeln!(out, "  {last}{tries}")?;
    } else {
        writeln!(out, "  first {first}, last {last}{tries}")?;
    }
    if let Some(remedy) = &pattern.remedy {
        let credit = kept.book.credit(&remedy.id);
        let told = match (credit.worked, credit.passed) {
            (0, 0) => String::new(),
            (worked, passed) => format!("; worked {worked}, passed by itself {passed}"),
        };
        writeln!(out, "  remedy ({}{told}): {}", remedy.id, remedy.text)?;
    }
    if let Some(recovery) = &pattern.recovery {
        let why = match recovery.changed.as_slice() {
            [] => "by itself".to_owned(),
            changed => format!("after a change of {}", changed.join(", ")),
        };
        let state = if pattern.is_resolved(now) {
            "well"
        } else {
            "well for the moment"
        };
        writeln!(out, "  {state} since {} {why}", recovery.at)?;
    }
    Ok(())
}

/// So much of an id is enough to forget one by, where it is the beginning of no other.
const BEGINNING: usize = 4;

/// Forgets the one of this id, or the only one that begins so.
fn forget(id: &str, kept: &Kept, place: &Place) -> Answer {
    let all = kept.book.patterns.iter();
    let fits: Vec<_> = all.filter(|(known, _)| known.starts_with(id)).collect();
    let [(whole, pattern)] = fits.as_slice() else {
        let message = match fits.len() {
            0 => format!("no incident is called {id:?}"),
            count => format!("{count} incidents begin with {id:?}"),
        };
        return Answer::cannot(&message, Some("chillgate incidents --all lists them"));
    };
    if id.len() < BEGINNING && id != whole.as_str() {
        let message = format!("{id:?} is too little to forget an incident by");
        let help = format!(
            "write {whole}, or at least {BEGINNING} of its characters, if {} is the server that is meant",
            pattern.server
        );
        return Answer::cannot(&message, Some(&help));
    }
    let (server, what) = (&pattern.server, &pattern.what);
    match place.change(kept, |book| drop(book.patterns.remove(*whole))) {
        Ok(_) => Answer {
            out: format!("Forgot {whole} of {server}: {what}\n"),
            err: String::new(),
            code: FINE,
        },
        Err(error) => Answer::cannot(&format!("{whole} could not be forgotten: {error}"), None),
    }
}
