//! `chillgate service`: installed under systemd, brought up to date, looked at, and removed without
//! a trace.
//!
//! What is done is a list of steps that is printed as it goes ([`step`]); where things lie is
//! [`place`]'s. Only systemd, and only through `systemctl`.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Args, Subcommand};

use super::answer::{Answer, FOUND};

mod install;
mod place;
mod status;
mod step;
mod systemd;
mod uninstall;
mod update;

use place::Place;
use step::Step;
use systemd::Systemd;

/// `chillgate service VERB`.
#[derive(Args, Clone, Debug)]
pub struct ServiceArgs {
    /// What to do with the service.
    #[command(subcommand)]
    pub verb: ServiceVerb,
}

/// What can be done with the service.
#[derive(Clone, Debug, Subcommand)]
pub enum ServiceVerb {
    /// Put this program, a unit and a first configuration in place, and start it.
    Install(InstallArgs),
    /// Put this program in place of the installed one; back if it does not become ready.
    Update(UpdateArgs),
    /// Say how the service is; exits 1 if something is wrong with it.
    Status(WhereArgs),
    /// Stop the service and remove all that was installed.
    Uninstall(UninstallArgs),
}

/// Which installation is meant.
#[derive(Args, Clone, Debug, Default)]
pub struct WhereArgs {
    /// The calling user's own service, below the home directory.
    #[arg(long)]
    pub user: bool,
    /// An image below this directory: files only, systemctl is not called.
    #[arg(long, value_name = "DIR")]
    pub root: Option<PathBuf>,
}

/// `chillgate service install`.
#[derive(Args, Clone, Debug, Default)]
pub struct InstallArgs {
    /// Which installation is meant.
    #[command(flatten)]
    pub at: WhereArgs,
    /// Where the program goes [default: /usr/local/bin/chillgate or ~/.local/bin/chillgate].
    #[arg(long, value_name = "FILE")]
    pub bin: Option<PathBuf>,
    /// Only say what would be done.
    #[arg(long)]
    pub dry_run: bool,
}

/// `chillgate service update`.
#[derive(Args, Clone, Debug, Default)]
pub struct UpdateArgs {
    /// Which installation is meant.
    #[command(flatten)]
    pub at: WhereArgs,
    /// The new program [default: the one that is running now].
    #[arg(long, value_name = "FILE")]
    pub from: Option<PathBuf>,
    /// Seconds in which the new program must be ready.
    #[arg(long, value_name = "SECONDS", default_value_t = 60)]
    pub ready_within: u64,
    /// Only say what would be done.
    #[arg(long)]
    pub dry_run: bool,
}

/// `chillgate service uninstall`.
#[derive(Args, Clone, Debug, Default)]
pub struct UninstallArgs {
    /// Which installation is meant.
    #[command(flatten)]
    pub at: WhereArgs,
    /// Remove a configuration that was edited, too.
    #[arg(long)]
    pub purge: bool,
    /// Only say what would be done.
    #[arg(long)]
    pub dry_run: bool,
}

/// Does it and says how it went.
pub fn run(args: &ServiceArgs) -> ExitCode {
    if let Some((message, help)) = crate::platform::NO_SERVICE {
        return Answer::cannot(message, Some(help)).print();
    }
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    let Ok(runtime) = runtime else {
        return Answer::cannot("the runtime could not be made", None).print();
    };
    let done = runtime.block_on(async {
        match &args.verb {
            ServiceVerb::Install(args) => install::run(args).await,
            ServiceVerb::Update(args) => update::run(args).await,
            ServiceVerb::Status(args) => status::run(args).await,
            ServiceVerb::Uninstall(args) => uninstall::run(args).await,
        }
    });
    match done {
        Ok(answer) => answer.print(),
        Err(Trouble {
            message,
            help,
            code,
        }) => Answer {
            code,
            ..Answer::cannot(&message, help.as_deref())
        }
        .print(),
    }
}

/// Why it was not done, and what to type instead.
#[derive(Debug)]
struct Trouble {
    message: String,
    help: Option<String>,
    code: u8,
}

impl Trouble {
    fn new(message: impl Into<String>, help: impl Into<String>) -> Self {
        Self {
            message: message.into(),
            help: Some(help.into()),
            code: super::answer::CANNOT,
        }
    }

    /// It was tried, and the machine is as it was, or says so.
    fn found(message: impl Into<String>, help: impl Into<String>) -> Self {
        Self {
            code: FOUND,
            ..Self::new(message, help)
        }
    }
}

impl From<String> for Trouble {
    fn from(message: String) -> Self {
        Self {
            message,
            help: None,
            code: super::answer::CANNOT,
        }
    }
}

impl WhereArgs {
    /// The place that is meant, and its manager; the place's own notes win where it is installed.
    fn place(&self, bin: Option<PathBuf>) -> Result<(Place, Systemd), String> {
        let variable = |name: &str| std::env::var_os(name).map(PathBuf::from);
        let root = match &self.root {
            None => None,
            Some(root) => Some(std::path::absolute(root).map_err(|error| error.to_string())?),
        };
        let place = Place::new(self.user, root.clone(), bin.clone(), variable)?;
        let noted = std::fs::read_to_string(place.at(&place.unit)).unwrap_or_default();
        let place = match (bin, Place::noted(&noted).0) {
            (None, Some(binary)) => Place::new(self.user, root, Some(binary), variable)?,
            _ => place,
        };
        Ok((place, Systemd { user: self.user }))
    }

    /// Whether there is a manager to talk to.
    fn is_live(&self) -> bool {
        self.root.is_none()
    }

    /// Whether this process may do what it is about to.
    fn require_rights(&self, verb: &str) -> Result<(), Trouble> {
        let is_root = crate::platform::is_root();
        if self.is_live() && !self.user && !is_root {
            let help = format!(
                "sudo chillgate service {verb}, or chillgate service {verb} --user for your own"
            );
            return Err(Trouble::new(
                "a service of the system is root's to install and remove",
                help,
            ));
        }
        Ok(())
    }

    fn require_systemd(&self, systemd: Systemd) -> Result<(), Trouble> {
        if !self.is_live() || systemd.runs() {
            return Ok(());
        }
        Err(if self.user {
            Trouble::new(
                "no systemd runs for this user here (XDG_RUNTIME_DIR has none)",
                "log in as the user itself, or let its systemd run with loginctl enable-linger",
            )
        } else {
            Trouble::new(
                "this machine was not started by systemd",
                "chillgate serve runs under any supervisor; --root DIR only puts the files in place",
            )
        })
    }
}

/// The unit as it is installed.
fn installed(place: &Place) -> Result<String, Trouble> {
    let path = place.at(&place.unit);
    let unit = std::fs::read_to_string(&path).map_err(|error| {
        Trouble::new(
            format!("there is no service here: {}: {error}", path.display()),
            "chillgate service install",
        )
    })?;
    if Place::is_own(&unit) {
        Ok(unit)
    } else {
        Err(foreign(&path))
    }
}

fn foreign(unit: &Path) -> Trouble {
    Trouble::new(
        format!("{} was not written by `chillgate service`", unit.display()),
        "move it away first, or go on managing it by hand",
    )
}

/// Takes the steps, each said before; or only says them.
async fn take(steps: &[Step], dry_run: bool, systemd: Systemd) -> Result<(), Trouble> {
    for step in steps {
        if dry_run {
            say(&format!("would {step}"));
        } else {
            say(&step.to_string());
            step.take(systemd).await?;
        }
    }
    Ok(())
}

/// A line at once, so that a step that takes long is seen before it is over.
fn say(line: &str) {
    let _ = Answer {
        out: format!("{line}\n"),
        ..Answer::default()
    }
    .print();
}
