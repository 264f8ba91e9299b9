//! `chillgate service update`: another program in place of the installed one, or none.
//!
//! The new program is asked about the configuration first, then takes the old one's place by a
//! rename, and the unit is written anew where this version would write another. If the service is not
//! ready in time, both are put back and it is started again.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use chillgate_policies::engine::Clock as _;

use super::install::is_same;
use super::place::{Place, UNIT};
use super::step::{Step, beside};
use super::systemd::Systemd;
use super::{Trouble, UpdateArgs, installed, say, status, take};
use crate::cli::answer::Answer;
use crate::clock::TokioClock;
use crate::health::ask::ask;
use crate::supervisor::tool;

/// How long the new program may think about the configuration.
const CHECK: Duration = Duration::from_secs(30);
/// How often it is asked whether it is ready.
const PAUSE: Duration = Duration::from_millis(200);

pub(super) async fn run(args: &UpdateArgs) -> Result<Answer, Trouble> {
    let (place, systemd) = args.at.place(None)?;
    let unit = installed(&place)?;
    if !args.dry_run {
        args.at.require_rights("update")?;
        args.at.require_systemd(systemd)?;
    }
    let new = match &args.from {
        Some(from) => from.clone(),
        None => std::env::current_exe().map_err(|error| error.to_string())?,
    };
    let binary = place.at(&place.binary);
    if is_same(&new, &binary) {
        return Err(Trouble::new(
            format!("{} is the installed program itself", new.display()),
            "run `service update` of the new program, or name that with --from",
        ));
    }
    check(&new, &place).await?;
    let renewal = renewal(&place, &unit, &new, args.at.is_live());
    let mut steps = vec![Step::Program {
        from: new,
        to: binary.clone(),
    }];
    steps.extend(renewal.iter().cloned());
    if args.dry_run {
        take(&steps, true, systemd).await?;
        return Ok(Answer::default());
    }
    let previous = keep(&binary)?;
    let placed = take(&steps, false, systemd).await;
    if !args.at.is_live() {
        let _ = fs::remove_file(&previous);
        return placed.map(|()| Answer::default());
    }
    let within = Duration::from_secs(args.ready_within);
    let started = match placed {
        Ok(()) => start(&place, systemd, within).await,
        Err(trouble) => Err(trouble.message),
    };
    let Err(cause) = started else {
        let _ = fs::remove_file(&previous);
        let mut out = "The service is ready with the new program.\n".to_owned();
        if !renewal.is_empty() {
            out += "Its unit was written anew; what you changed in it belongs into a drop-in \
                    (systemctl edit).\n";
        }
        return Ok(Answer {
            out,
            ..Answer::default()
        });
    };
    say(&format!("put the old program back: {cause}"));
    fs::rename(&previous, &binary).map_err(|error| {
        let left = previous.display();
        Trouble::new(
            format!("the old program could not be put back: {error}"),
            format!("mv {left} {}", binary.display()),
        )
    })?;
    if !renewal.is_empty() {
        take(&written(&place, unit, true), false, systemd).await?;
    }
    let help = format!("see {}", systemd.journal());
    Err(match start(&place, systemd, within).await {
        Ok(()) => Trouble::found(
            format!("the new program was not ready in time ({cause}); the old one serves again"),
            help,
        ),
        Err(again) => Trouble::found(
            format!("the new program was not ready in time ({cause}), nor is the old one: {again}"),
            help,
        ),
    })
}

/// The steps that write the unit anew; none where it is as this version writes it. Another program's
/// unit is that program's to write.
fn renewal(place: &Place, unit: &str, new: &Path, is_live: bool) -> Vec<Step> {
    let text = place.unit_text(&Place::noted(unit).1);
    let own = std::env::current_exe().and_then(fs::read);
    let is_this = own.is_ok_and(|own| fs::read(new).is_ok_and(|new| new == own));
    if text == unit || !is_this {
        return Vec::new();
    }
    written(place, text, is_live)
}

fn written(place: &Place, text: String, is_live: bool) -> Vec<Step> {
    let to = place.at(&place.unit);
    let mut steps = vec![Step::Text { to, text }];
    if is_live {
        steps.push(Step::Systemctl(vec!["daemon-reload"]));
    }
    steps
}

/// Whether the new program accepts the configuration that it will run with.
async fn check(new: &Path, place: &Place) -> Result<(), Trouble> {
    let config = place.at(&place.config);
    say(&format!(
        "check {} with {}",
        config.display(),
        new.display()
    ));
    let args = ["check".as_ref(), "--config".as_ref(), config.as_os_str()];
    let said = tool::run(new, args, CHECK).await;
    match said {
        Ok(ran) if ran.is_fine() => Ok(()),
        Ok(ran) => Err(Trouble::found(
            format!(
                "the new program does not accept the configuration\n{}",
                ran.err
            ),
            "nothing was changed; correct the file first",
        )),
        Err(error) => Err(Trouble::new(
            format!("{} cannot be run: {error}", new.display()),
            "nothing was changed; is it a chillgate for this machine?",
        )),
    }
}

/// The installed program under a second name, until the new one has shown itself.
fn keep(binary: &Path) -> Result<PathBuf, String> {
    let previous = beside(binary, "previous");
    let _ = fs::remove_file(&previous);
    // A second name for the same file: nothing is copied, and it stays executable.
    fs::hard_link(binary, &previous)
        .map_err(|error| format!("the installed program cannot be kept: {error}"))?;
    Ok(previous)
}

/// Restarts the service and waits until it is ready.
async fn start(place: &Place, systemd: Systemd, within: Duration) -> Result<(), String> {
    take(&[Step::Systemctl(vec!["restart", UNIT])], false, systemd)
        .await
        .map_err(|trouble| trouble.message)?;
    let Some(health) = status::health(place) else {
        return Ok(());
    };
    say(&format!("wait until {health} says that it is ready"));
    let mut last = String::new();
    let waiting = async {
        loop {
            match ask(health, "/readyz").await {
                Ok(answered) if answered.status == 200 => return,
                Ok(answered) => answered.body.trim().clone_into(&mut last),
                Err(error) => last = error.to_string(),
            }
            TokioClock.sleep(PAUSE).await;
        }
    };
    let in_time = tokio::time::timeout(within, waiting).await;
    in_time.map_err(|_| format!("/readyz after {} s: {last}", within.as_secs()))
}
