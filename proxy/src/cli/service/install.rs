//! `chillgate service install`: everything in place, then started.
//!
//! May be repeated: what is there is brought up to date, a configuration is never touched.

use std::fs;
use std::path::{Path, PathBuf};

use super::place::{Place, START, UNIT};
use super::step::Step;
use super::{InstallArgs, Trouble, foreign, take};
use crate::cli::answer::Answer;

pub(super) async fn run(args: &InstallArgs) -> Result<Answer, Trouble> {
    let (place, systemd) = args.at.place(args.bin.clone())?;
    if !args.dry_run {
        args.at.require_rights("install")?;
        args.at.require_systemd(systemd)?;
    }
    let own = std::env::current_exe().map_err(|error| error.to_string())?;
    let mut steps = files(&place, &own)?;
    if args.at.is_live() {
        steps.push(Step::Systemctl(vec!["daemon-reload"]));
        steps.push(Step::Systemctl(vec!["enable", UNIT]));
        // An installation over another one takes its place.
        steps.push(Step::Systemctl(vec!["restart", UNIT]));
    } else {
        steps.push(Step::Link {
            at: place.at(&place.wanted),
            to: place.unit.clone(),
        });
    }
    let taken = take(&steps, args.dry_run, systemd).await;
    taken.map_err(|trouble| match trouble.help {
        None if args.at.is_live() => {
            let help = format!("see {}; then install again", systemd.journal());
            Trouble::new(trouble.message, help)
        }
        _ => trouble,
    })?;
    let out = if args.dry_run || !args.at.is_live() {
        String::new()
    } else {
        format!(
            "The service runs. Its configuration is {}.\n",
            place.config.display()
        )
    };
    Ok(Answer {
        out,
        ..Answer::default()
    })
}

/// The steps that put files in place.
fn files(place: &Place, own: &Path) -> Result<Vec<Step>, Trouble> {
    let unit = place.at(&place.unit);
    let before = fs::read_to_string(&unit).ok();
    if before.as_deref().is_some_and(|text| !Place::is_own(text)) {
        return Err(foreign(&unit));
    }
    let (mut steps, mut made) = (Vec::new(), Vec::new());
    let mut wanted = vec![&place.binary, &place.config, &place.unit];
    if place.root.is_some() {
        wanted.push(&place.wanted);
    }
    for file in wanted {
        for folder in missing(place, file.parent().unwrap_or(Path::new("/"))) {
            if !made.contains(&folder) {
                steps.push(Step::Folder(place.at(&folder)));
                made.push(folder);
            }
        }
    }
    let to = place.at(&place.binary);
    if is_same(own, &to) {
        steps.push(Step::Keep(to, "it is this very program"));
    } else {
        let from = own.to_owned();
        steps.push(Step::Program { from, to });
    }
    let to = place.at(&place.config);
    if to.exists() {
        steps.push(Step::Keep(to, "there is a configuration already"));
    } else {
        let text = START.to_owned();
        steps.push(Step::Text { to, text });
    }
    // What an installation before this one made is still ours.
    let before = before.map(|text| Place::noted(&text).1);
    let mut all = before.unwrap_or_default();
    all.extend(made);
    let text = place.unit_text(&all);
    steps.push(Step::Text { to: unit, text });
    Ok(steps)
}

/// The folders that must be made for this one to be there, outermost first.
fn missing(place: &Place, folder: &Path) -> Vec<PathBuf> {
    let mut missing: Vec<PathBuf> = folder
        .ancestors()
        .take_while(|folder| !place.at(folder).exists())
        .map(Path::to_owned)
        .collect();
    missing.reverse();
    missing
}

pub(super) fn is_same(one: &Path, other: &Path) -> bool {
    let canonical = |path: &Path| fs::canonicalize(path).ok();
    canonical(one).is_some_and(|one| canonical(other) == Some(one))
}
