//! What differs from one operating system to the next, under names that are the same on each.
//!
//! Apart so that nobody else asks which system this is; processes, which differ most, have a room of
//! their own in the supervisor. Each file here is one system, and what two of them share. Nothing
//! is decided here, and nothing pretends: what a system does not have is an error, or absent.

use std::path::PathBuf;

#[cfg(not(target_os = "linux"))]
mod elsewhere;
#[cfg(target_os = "linux")]
mod linux;
#[cfg(target_os = "macos")]
mod macos;
#[cfg(unix)]
mod unix;
#[cfg(windows)]
mod windows;

#[cfg(target_os = "linux")]
pub(crate) use linux::*;
#[cfg(target_os = "macos")]
pub(crate) use macos::*;
#[cfg(windows)]
pub(crate) use windows::*;

#[cfg(not(any(target_os = "linux", target_os = "macos", windows)))]
compile_error!("chillgate knows Linux, macOS and Windows; a new system is a file in src/platform/");

/// What the configuration may not ask for on every system.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct System {
    /// Its name, for people.
    pub(crate) name: &'static str,
    /// Whether there are Unix sockets to listen on and to connect to.
    pub(crate) unix_sockets: bool,
    /// Whether the kernel can keep a path beneath a folder while others rename things on it.
    pub(crate) holds_paths: bool,
}

/// Where a kind of file is by custom.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Custom {
    /// Names the folder that it is below; without one the path is whole.
    variable: Option<&'static str>,
    path: &'static str,
}

impl Custom {
    /// The place, if the variable is there and names a folder.
    pub(crate) fn find(self, variable: impl Fn(&str) -> Option<PathBuf>) -> Option<PathBuf> {
        let Some(name) = self.variable else {
            return Some(PathBuf::from(self.path));
        };
        let base = variable(name).filter(|path| path.is_absolute())?;
        // Written with slashes; each system's own are put in.
        let parts = self.path.split('/');
        Some(parts.fold(base, |path, part| path.join(part)))
    }
}

/// How full the disk below a folder is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Disk {
    /// All of it, in bytes.
    pub(crate) total: Option<u64>,
    /// What this user may still write.
    pub(crate) available: Option<u64>,
    /// Whether no further file can be made, however much room there is.
    pub(crate) no_more_files: bool,
}
