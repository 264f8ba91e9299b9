//! One thing that an installation does to the machine: said first, then done.
//!
//! A list of these is all there is to `--dry-run`. Files are replaced by renaming, so that nobody
//! ever sees half of one.

use std::fmt;
use std::fs::{self, OpenOptions};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use super::systemd::Systemd;
use crate::platform::{OpenOptionsExt as _, permissions, symlink};

/// One step; paths are those on this machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// A folder, where there is none.
    Folder(PathBuf),
    /// A program copied, to be run by everybody.
    Program { from: PathBuf, to: PathBuf },
    /// A text that everybody may read.
    Text { to: PathBuf, text: String },
    /// A symbolic link.
    Link { at: PathBuf, to: PathBuf },
    /// A call of `systemctl`.
    Systemctl(Vec<&'static str>),
    /// The same where it may as well fail.
    TrySystemctl(Vec<&'static str>),
    /// A file or link, or a folder with all that is in it.
    Remove(PathBuf),
    /// A folder if nothing is in it.
    RemoveEmpty(PathBuf),
    /// Something stays as it is, and why.
    Keep(PathBuf, &'static str),
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Folder(path) => write!(f, "make the folder {}", path.display()),
            Self::Program { from, to } => {
                write!(f, "copy {} to {}", from.display(), to.display())
            }
            Self::Text { to, .. } => write!(f, "write {}", to.display()),
            Self::Link { at, to } => write!(f, "link {} to {}", at.display(), to.display()),
            Self::Systemctl(words) | Self::TrySystemctl(words) => {
                write!(f, "systemctl {}", words.join(" "))
            }
            Self::Remove(path) => write!(f, "remove {}", path.display()),
            Self::RemoveEmpty(path) => write!(f, "remove {} if it is empty", path.display()),
            Self::Keep(path, why) => write!(f, "keep {}: {why}", path.display()),
        }
    }
}

impl Step {
    /// Does it.
    ///
    /// # Errors
    /// In words, with the step itself.
    pub(super) async fn take(&self, systemd: Systemd) -> Result<(), String> {
        let failed = |error: io::Error| format!("cannot {self}: {error}");
        match self {
            Self::Folder(path) => make_folder(path).map_err(failed),
            Self::Program { from, to } => replace_program(from, to).map_err(failed),
            Self::Text { to, text } => replace(to, text.as_bytes(), 0o644).map_err(failed),
            Self::Link { at, to } => link(at, to).map_err(failed),
            Self::Systemctl(words) => systemd.call(words).await.map(drop),
            Self::TrySystemctl(words) => {
                let _ = systemd.call(words).await;
                Ok(())
            }
            Self::Remove(path) => remove(path).map_err(failed),
            Self::RemoveEmpty(path) => {
                // Somebody else's things may be in it by now.
                let _ = fs::remove_dir(path);
                Ok(())
            }
            Self::Keep(..) => Ok(()),
        }
    }
}

fn make_folder(path: &Path) -> io::Result<()> {
    match fs::create_dir(path) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists && path.is_dir() => Ok(()),
        Ok(()) => match permissions(0o755) {
            Some(permissions) => fs::set_permissions(path, permissions),
            None => Ok(()),
        },
        other => other,
    }
}

/// A copy of a program in place of another one, which may be running.
fn replace_program(from: &Path, to: &Path) -> io::Result<()> {
    replace(to, &fs::read(from)?, 0o755)
}

fn replace(to: &Path, content: &[u8], mode: u32) -> io::Result<()> {
    let beside = beside(to, "new");
    // What an attempt before this one has left.
    let _ = fs::remove_file(&beside);
    let written = (|| {
        let mut file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(mode)
            .open(&beside)?;
        file.write_all(content)?;
        if let Some(permissions) = permissions(mode) {
            file.set_permissions(permissions)?;
        }
        file.sync_all()?;
        drop(file);
        fs::rename(&beside, to)
    })();
    if written.is_err() {
        let _ = fs::remove_file(&beside);
    }
    written
}

/// The name of a file's companion in the same folder.
pub(super) fn beside(path: &Path, what: &str) -> PathBuf {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    path.with_file_name(format!(".{name}.{what}"))
}

fn link(at: &Path, to: &Path) -> io::Result<()> {
    match symlink(to, at) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            let is_same = fs::read_link(at).is_ok_and(|there| there == to);
            if is_same { Ok(()) } else { Err(error) }
        }
        done => done,
    }
}

/// Links are removed, never followed.
fn remove(path: &Path) -> io::Result<()> {
    let removed = match fs::symlink_metadata(path) {
        Ok(meta) if meta.is_dir() => fs::remove_dir_all(path),
        Ok(_) => fs::remove_file(path),
        Err(error) => Err(error),
    };
    match removed {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        done => done,
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn a_program_is_replaced_whole_and_can_be_run() {
        let folder = tempfile::tempdir().expect("a folder");
        let (from, to) = (folder.path().join("from"), folder.path().join("to"));
        fs::write(&from, "new").expect("written");
        fs::write(&to, "old").expect("written");
        replace_program(&from, &to).expect("replaced");
        assert_eq!(fs::read(&to).expect("there"), b"new");
        let mode = to.metadata().expect("there").permissions().mode();
        assert_eq!(mode & 0o777, 0o755);
        let gone = replace_program(&folder.path().join("gone"), &to);
        assert!(gone.is_err());
        assert_eq!(fs::read(&to).expect("there"), b"new");
        assert_eq!(fs::read_dir(&folder).expect("read").count(), 2);
    }

    #[test]
    fn what_a_link_points_to_is_not_removed() {
        let folder = tempfile::tempdir().expect("a folder");
        let (data, at) = (folder.path().join("data"), folder.path().join("link"));
        fs::create_dir(&data).expect("made");
        link(&at, &data).expect("linked");
        link(&at, &data).expect("it is there already");
        assert!(link(&at, folder.path()).is_err());
        remove(&at).expect("removed");
        remove(&at).expect("nothing to remove");
        assert!(data.is_dir() && !at.exists());
    }
}
