//! The temporary folder that a sandboxed server has for itself: `/tmp` is everybody's, and what
//! others keep there is none of its business.
//!
//! It lies in the state folder, for chillgate's user alone. The keeper removes it once nothing of the
//! tree is left; what a killed keeper leaves is removed by chillgate, or by the next one: a folder that
//! is in use is locked, and the kernel lets the lock go with the process. Whether a server gets one is
//! decided elsewhere.

use std::fs::{self, DirBuilder, File};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use data_encoding::HEXLOWER;

use crate::platform::DirBuilderExt as _;

/// Short: sockets are made in temporary folders, and their paths have a little over a hundred bytes.
const FOLDER: &str = "tmp";

/// What programs in all languages look at for a temporary folder.
pub(super) const VARIABLES: [&str; 3] = ["TMPDIR", "TMP", "TEMP"];

/// Where they are made, if there is a state folder.
static BASE: OnceLock<PathBuf> = OnceLock::new();

/// A folder of one tree.
#[derive(Debug)]
pub(super) struct Scratch {
    path: PathBuf,
    /// Says that it is in use.
    _lock: File,
    /// Whether it is a keeper's to remove.
    is_kept: bool,
}

impl Scratch {
    /// A fresh one; beside everybody's where there is no state folder.
    pub(super) fn make() -> io::Result<Self> {
        match BASE.get() {
            Some(base) => {
                // Nobody clears up between its making and its lock.
                let turn = File::open(base)?;
                turn.lock()?;
                Self::at(base.join(name::<4>()))
            }
            None => Self::at(std::env::temp_dir().join(format!("chillgate-{}", name::<16>()))),
        }
    }

    fn at(path: PathBuf) -> io::Result<Self> {
        // It is said in an order, which is text.
        if path.to_str().is_none() {
            let why = format!("{} is no UTF-8", path.display());
            return Err(io::Error::new(io::ErrorKind::InvalidInput, why));
        }
        // Fails where there is something of this name, also somebody's link.
        DirBuilder::new().mode(0o700).create(&path)?;
        let lock = File::open(&path)?;
        lock.lock()?;
        Ok(Self {
            path,
            _lock: lock,
            is_kept: false,
        })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// A keeper was started that removes it.
    pub(super) fn keep(&mut self) {
        self.is_kept = true;
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if !self.is_kept {
            remove(&self.path);
        }
    }
}

/// Removes one with all that is in it, never what a link in it leads to. What cannot be removed stays
/// for the next who clears up.
pub(super) fn remove(folder: &Path) {
    let _ = fs::remove_dir_all(folder);
}

/// Makes them in this state folder from now on, once those that nobody uses are gone.
pub(super) fn settle(state: &Path) -> io::Result<()> {
    let base = state.join(FOLDER);
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(&base)?;
    clear(&base)?;
    let _ = BASE.set(base);
    Ok(())
}

fn clear(base: &Path) -> io::Result<()> {
    let turn = File::open(base)?;
    turn.lock()?;
    for entry in fs::read_dir(base)?.flatten() {
        let is_folder = entry.file_type().is_ok_and(|kind| kind.is_dir());
        let Some(folder) = is_folder.then(|| File::open(entry.path()).ok()).flatten() else {
            continue;
        };
        if folder.try_lock().is_ok() {
            remove(&entry.path());
        }
    }
    Ok(())
}

fn name<const BYTES: usize>() -> String {
    HEXLOWER.encode(&crate::random::bytes::<BYTES>())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_in_use_stays_and_the_rest_goes() {
        let state = tempfile::tempdir().expect("a folder");
        let base = state.path().join(FOLDER);
        fs::create_dir_all(base.join("dead/deep")).expect("made");
        let mut used = Scratch::at(base.join("used")).expect("made");
        used.keep();
        clear(&base).expect("cleared");
        let left = || fs::read_dir(&base).expect("listed").count();
        assert_eq!((left(), used.path().exists()), (1, true));
        drop(used);
        assert_eq!(left(), 1, "a keeper's is the keeper's");
        clear(&base).expect("cleared");
        assert_eq!(left(), 0);
        drop(Scratch::at(base.join("unused")).expect("made"));
        assert_eq!(left(), 0, "one that no keeper has goes by itself");
    }
}
