//! Where chillgate keeps what outlives its process: one folder, for its own user alone.
//!
//! Found and made here, written by others, each in a file of its own. Without a folder everything
//! works and is forgotten at the end.

use std::fs::DirBuilder;
use std::io;
use std::path::{Path, PathBuf};

use crate::config;
use crate::platform::{self, DirBuilderExt as _};

/// Where things are kept.
#[derive(Debug)]
pub enum Folder {
    /// Here; it is there and can be written.
    At(PathBuf),
    /// This is the usual place, and it cannot be used.
    Unusable(PathBuf, io::Error),
    /// Nothing says where the usual place is.
    Unnamed,
}

impl Folder {
    /// The folder, where there is one.
    pub fn found(self) -> Option<PathBuf> {
        match self {
            Self::At(folder) => Some(folder),
            Self::Unusable(..) | Self::Unnamed => None,
        }
    }

    /// Why there is none, and what to do.
    pub fn trouble(&self) -> Option<(String, &'static str)> {
        match self {
            Self::At(_) => None,
            Self::Unusable(folder, error) => Some((
                format!(
                    "the state folder {} cannot be used: {error}",
                    folder.display()
                ),
                "make it writable for chillgate, or write [state] folder = \"/var/lib/chillgate\"",
            )),
            Self::Unnamed => Some((
                "there is no folder for what is remembered".to_owned(),
                "write [state] folder = \"/var/lib/chillgate\", or set HOME",
            )),
        }
    }
}

/// The folder: the one configured, else what systemd made (`STATE_DIRECTORY`), else the user's
/// (`$XDG_STATE_HOME/chillgate`, else where this system keeps such things). Made where it is missing.
///
/// # Errors
/// In words, when the one configured cannot be used.
pub fn folder(configured: &config::State) -> Result<Folder, String> {
    if let Some(folder) = &configured.folder {
        return match make(folder) {
            Ok(()) => Ok(Folder::At(folder.clone())),
            Err(error) => Err(format!(
                "state.folder: {} cannot be used: {error}",
                folder.display()
            )),
        };
    }
    let usual = usual(|name| std::env::var_os(name).map(PathBuf::from));
    Ok(match usual.map(|folder| (make(&folder), folder)) {
        Some((Ok(()), folder)) => Folder::At(folder),
        Some((Err(error), folder)) => Folder::Unusable(folder, error),
        None => Folder::Unnamed,
    })
}

/// Where [`folder`] looks, without making anything.
pub fn place(configured: &config::State) -> Option<PathBuf> {
    let configured = configured.folder.clone();
    configured.or_else(|| usual(|name| std::env::var_os(name).map(PathBuf::from)))
}

fn usual(variable: impl Fn(&str) -> Option<PathBuf>) -> Option<PathBuf> {
    let absolute = |name: &str| variable(name).filter(|path| path.is_absolute());
    absolute("STATE_DIRECTORY")
        .or_else(|| absolute("XDG_STATE_HOME").map(|home| home.join("chillgate")))
        .or_else(|| platform::STATE.find(&variable))
}

/// There is such a folder, and files can be made in it.
fn make(folder: &Path) -> io::Result<()> {
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(folder)?;
    platform::may_fill(folder)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_usual_place_is_the_first_that_the_environment_names() {
        let of = |set: &[(&str, &str)]| {
            let set: Vec<(String, PathBuf)> = set
                .iter()
                .map(|(name, value)| ((*name).to_owned(), PathBuf::from(value)))
                .collect();
            usual(|name| {
                let found = set.iter().find(|(known, _)| known == name);
                found.map(|(_, value)| value.clone())
            })
        };
        let home = ("HOME", "/home/me");
        assert_eq!(of(&[]), None);
        assert_eq!(of(&[("HOME", "relative")]), None);
        assert_eq!(of(&[home]), Some("/home/me/.local/state/chillgate".into()));
        let state = ("XDG_STATE_HOME", "/state");
        assert_eq!(of(&[home, state]), Some("/state/chillgate".into()));
        let systemd = ("STATE_DIRECTORY", "/var/lib/chillgate");
        assert_eq!(
            of(&[home, state, systemd]),
            Some("/var/lib/chillgate".into())
        );
    }

    #[test]
    fn the_folder_is_made_for_its_user_alone() {
        use std::os::unix::fs::PermissionsExt as _;
        let base = tempfile::tempdir().expect("a temporary folder");
        let wanted = base.path().join("a/b");
        let configured = config::State {
            folder: Some(wanted.clone()),
            ..config::State::default()
        };
        let found = folder(&configured).expect("it can be used").found();
        assert_eq!(found, Some(wanted.clone()));
        let mode = wanted.metadata().expect("it is there").permissions().mode();
        assert_eq!(mode & 0o777, 0o700);
        let file = base.path().join("file");
        std::fs::write(&file, "").expect("written");
        let configured = config::State {
            folder: Some(file.join("c")),
            ..config::State::default()
        };
        let error = folder(&configured).expect_err("a file is no folder");
        assert!(
            error.contains("state.folder") && error.contains("/c"),
            "{error}"
        );
    }
}
