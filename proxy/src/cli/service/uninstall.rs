//! `chillgate service uninstall`: stopped, and nothing left of what was installed.
//!
//! A configuration that somebody has worked on is the one thing that stays, unless it is to be
//! purged.

use std::fs;
use std::path::PathBuf;

use super::place::{Place, START, UNIT};
use super::step::{Step, beside};
use super::{Trouble, UninstallArgs, installed, take};
use crate::cli::answer::Answer;

pub(super) async fn run(args: &UninstallArgs) -> Result<Answer, Trouble> {
    let (place, systemd) = args.at.place(None)?;
    if !args.dry_run {
        args.at.require_rights("uninstall")?;
    }
    let unit = installed(&place)?;
    let mut steps = Vec::new();
    // Where none runs, nothing was started.
    let is_live = args.at.is_live() && systemd.runs();
    if is_live {
        steps.push(Step::Systemctl(vec!["disable", "--now", UNIT]));
    } else {
        steps.extend(present(place.at(&place.wanted)));
    }
    steps.push(Step::Remove(place.at(&place.unit)));
    if is_live {
        steps.push(Step::Systemctl(vec!["daemon-reload"]));
        // A unit that failed is remembered after it is gone.
        steps.push(Step::TrySystemctl(vec!["reset-failed", UNIT]));
    }
    let binary = place.at(&place.binary);
    steps.extend(present(beside(&binary, "previous")));
    steps.extend(present(binary));
    for data in &place.data {
        steps.extend(present(place.at(data)));
    }
    steps.extend(configuration(&place, args.purge));
    // What the service made around its own folders: a user's `.local/state` may not have been there.
    for data in place.data.iter().filter(|_| place.user) {
        steps.extend(
            place
                .at(data)
                .parent()
                .map(|above| Step::RemoveEmpty(above.into())),
        );
    }
    for folder in Place::noted(&unit).1.iter().rev() {
        steps.push(Step::RemoveEmpty(place.at(folder)));
    }
    take(&steps, args.dry_run, systemd).await?;
    Ok(Answer::default())
}

/// The removal of what is there, be it a link to nowhere.
fn present(path: PathBuf) -> Option<Step> {
    let is_there = fs::symlink_metadata(&path).is_ok();
    is_there.then_some(Step::Remove(path))
}

fn configuration(place: &Place, purge: bool) -> Vec<Step> {
    let (config, environment) = (place.at(&place.config), place.at(&place.environment));
    let is_edited = fs::read_to_string(&config).is_ok_and(|text| text != START);
    let keep = |path| Step::Keep(path, "it was edited; --purge removes it");
    let mut steps = Vec::new();
    if config.exists() {
        steps.push(if is_edited && !purge {
            keep(config)
        } else {
            Step::Remove(config)
        });
    }
    if environment.exists() {
        steps.push(if purge {
            Step::Remove(environment)
        } else {
            keep(environment)
        });
    }
    steps
}
