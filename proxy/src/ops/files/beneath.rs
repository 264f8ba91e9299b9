//! Opening beneath a folder: the kernel refuses every way out of it, whatever is swapped meanwhile.
//!
//! The only place of file runbooks that turns a path into a descriptor.

use std::os::fd::{AsFd, AsRawFd as _, OwnedFd};
use std::path::Path;

use rustix::fs::{FileType, Mode, OFlags, ResolveFlags, fstat, openat2};
use rustix::io::Errno;

use super::place::Place;

/// How often a path is tried whose folders change under the kernel's eyes.
const TRIES: usize = 64;

/// Why a file was not opened.
pub(super) enum NotOpened {
    Errno(Errno),
    NoPlainFile,
}

impl NotOpened {
    /// In words.
    pub(super) fn said(&self, place: &Place) -> String {
        match self {
            Self::Errno(error) => place.said(*error),
            Self::NoPlainFile => format!(
                "{} is no plain file: folders, devices and pipes are not read",
                place.shown()
            ),
        }
    }
}

/// Opens beneath a folder; the kernel refuses every way out of it.
pub(super) fn beneath(folder: &impl AsFd, path: &Path, flags: OFlags) -> Result<OwnedFd, Errno> {
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS;
    for _ in 0..TRIES {
        match openat2(folder, path, flags, Mode::empty(), resolve) {
            // Something was renamed meanwhile, and the kernel could not be sure.
            Err(Errno::AGAIN | Errno::INTR) => {}
            other => return other,
        }
    }
    Err(Errno::AGAIN)
}

/// Opens a plain file for reading. It is looked at before it is opened: opening a device or a pipe
/// may already do something, or wait.
pub(super) fn open_plain(folder: &impl AsFd, path: &Path) -> Result<OwnedFd, NotOpened> {
    let named = beneath(folder, path, OFlags::PATH | OFlags::CLOEXEC).map_err(NotOpened::Errno)?;
    let stat = fstat(&named).map_err(NotOpened::Errno)?;
    if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
        return Err(NotOpened::NoPlainFile);
    }
    // The same file, whatever its name leads to by now.
    let again = format!("/proc/self/fd/{}", named.as_raw_fd());
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK;
    rustix::fs::open(again, flags, Mode::empty()).map_err(NotOpened::Errno)
}
