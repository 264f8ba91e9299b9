//! Where audit lines go: a file of ours alone, or standard output.
//!
//! Opening and its conditions; writing is the writer's. It never makes a directory: an audit log in
//! a place nobody prepared is a mistake to report, not to paper over.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use crate::platform;

/// Where the audit log goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Destination {
    /// A file, appended to; made with mode 0600 in a directory that exists.
    File(PathBuf),
    /// Standard output, where no protocol uses it.
    Stdout,
}

/// Why the audit log cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The directory is missing.
    #[error("the directory of the audit log {} does not exist; create it or change audit.file", .0.display())]
    NoDirectory(PathBuf),
    /// Two writers would mix their lines.
    #[error("the audit log {} is being written by another process; give each its own audit.file", .0.display())]
    Busy(PathBuf),
    /// Anything else about the file.
    #[error("the audit log {} cannot be opened: {source}", path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// No standard output, or no thread to write with.
    #[error("the audit log cannot be written: {0}")]
    System(#[from] io::Error),
}

impl Destination {
    /// The metrics label.
    pub(super) fn label(&self) -> &'static str {
        match self {
            Self::File(_) => "file",
            Self::Stdout => "stdout",
        }
    }

    /// In words, for errors and logs.
    pub(super) fn name(&self) -> String {
        match self {
            Self::File(path) => path.display().to_string(),
            Self::Stdout => "standard output".to_owned(),
        }
    }

    pub(super) fn open(&self) -> Result<File, OpenError> {
        match self {
            Self::File(path) => open_file(path),
            Self::Stdout => Ok(platform::stdout_file()?),
        }
    }

    /// Whether the name stands for another file than `open`: it was moved away, or removed.
    pub(super) fn has_moved(&self, open: &File) -> bool {
        let Self::File(path) = self else { return false };
        platform::has_moved(open, path)
    }
}

fn open_file(path: &Path) -> Result<File, OpenError> {
    let failed = |source: io::Error| {
        let parent = path
            .parent()
            .filter(|parent| !parent.as_os_str().is_empty());
        match parent {
            Some(parent) if source.kind() == io::ErrorKind::NotFound && !parent.exists() => {
                OpenError::NoDirectory(path.to_owned())
            }
            _ => OpenError::File {
                path: path.to_owned(),
                source,
            },
        }
    };
    let opened = platform::open_alone(path).map_err(failed)?;
    let file = opened.ok_or_else(|| OpenError::Busy(path.to_owned()))?;
    let meta = file.metadata().map_err(failed)?;
    if meta.is_file() {
        end_torn_line(&file, meta.len()).map_err(failed)?;
    }
    Ok(file)
}

/// A process killed in the middle of a write left half a line; the next must not continue it.
fn end_torn_line(mut file: &File, length: u64) -> io::Result<()> {
    let mut last = [b'\n'];
    if let Some(at) = length.checked_sub(1) {
        platform::read_at(file, &mut last, at)?;
    }
    if last == [b'\n'] {
        Ok(())
    } else {
        io::Write::write_all(&mut file, b"\n")
    }
}
