//! Which root a path names, before anything is opened: words only.
//!
//! What is refused here is refused early and in words; what is let through is still held back by
//! the kernel.

use std::os::fd::OwnedFd;
use std::path::{Component, Path, PathBuf};

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;

/// The longest path that is looked at, in bytes.
const LONGEST: usize = 4096;

/// A path below one of the roots, as it will be opened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) root: PathBuf,
    pub(super) below: PathBuf,
}

impl Place {
    /// As a person reads it.
    pub(super) fn shown(&self) -> String {
        self.root.join(&self.below).display().to_string()
    }
}

impl Place {
    /// The folder that holds it back.
    pub(super) fn open_root(&self) -> Result<OwnedFd, String> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        rustix::fs::open(&self.root, flags, Mode::empty()).map_err(|error| {
            format!(
                "the folder {} cannot be opened: {error}",
                self.root.display()
            )
        })
    }

    /// An error of the kernel, in words.
    pub(super) fn said(&self, error: Errno) -> String {
        let shown = self.shown();
        match error {
            Errno::XDEV => format!("{shown} leads out of {}", self.root.display()),
            Errno::LOOP => format!("{shown} goes through a link that is not followed"),
            Errno::NOENT => format!("{shown} is not there"),
            Errno::NOTDIR => format!("{shown} is or goes through something that is no folder"),
            Errno::ACCESS | Errno::PERM => format!("{shown}: chillgate has no right to do this"),
            Errno::AGAIN => format!("{shown}: folders on the way to it keep changing; try again"),
            Errno::NOSYS => {
                "this kernel cannot hold paths back (openat2 needs Linux 5.6)".to_owned()
            }
            error => format!("{shown}: {error}"),
        }
    }
}

/// The root that a path names and the way below it. Words only: nothing is opened here, and what
/// is let through is still held back by the kernel.
pub(super) fn place(roots: &[PathBuf], path: &str) -> Result<Place, String> {
    if path.is_empty() {
        return Err("`path` is empty".to_owned());
    }
    if path.len() > LONGEST {
        return Err(format!("`path` is longer than {LONGEST} bytes"));
    }
    if path.chars().any(char::is_control) {
        return Err("`path` holds a control character".to_owned());
    }
    if path.split('/').any(|part| part == "..") {
        return Err("`path` holds `..`; write the path that is meant".to_owned());
    }
    if path.contains("//") {
        return Err("`path` holds `//`; write it with single slashes".to_owned());
    }
    let path = Path::new(path);
    let outside = || {
        let roots: Vec<_> = roots
            .iter()
            .map(|root| root.display().to_string())
            .collect();
        format!("`path` is not below {}", roots.join(", "))
    };
    let (root, below) = if path.is_absolute() {
        // Whole names are compared: /data-evil is not below /data.
        let found = roots.iter().find_map(|root| {
            let below = path.strip_prefix(root).ok()?;
            Some((root, below))
        });
        found.ok_or_else(outside)?
    } else {
        match roots {
            [root] => (root, path),
            _ => {
                return Err(format!(
                    "there is more than one folder: {}; write the whole path",
                    outside().trim_start_matches("`path` is not below ")
                ));
            }
        }
    };
    let parts: PathBuf = below
        .components()
        .filter(|part| !matches!(part, Component::CurDir))
        .collect();
    let below = if parts.as_os_str().is_empty() {
        PathBuf::from(".")
    } else {
        parts
    };
    Ok(Place {
        root: root.clone(),
        below,
    })
}

#[cfg(test)]
mod tests;
