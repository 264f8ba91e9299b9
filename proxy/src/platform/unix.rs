//! What Linux and macOS share: permissions, locks, Unix sockets, signals, standard streams as
//! descriptors.
//!
//! Apart from both, whose files take from here what they have alike. It knows nothing of processes.

use std::fs::{File, FileType, Metadata, Permissions, TryLockError};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{FileExt as _, FileTypeExt as _, MetadataExt as _, PermissionsExt as _};
use std::path::Path;
use std::pin::Pin;

use rustix::fs::{Access, access};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::unix::pipe;
use tokio::signal::unix::{Signal, SignalKind, signal};

use super::Disk;

pub(crate) use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, symlink};
pub(crate) use tokio::net::{UnixListener, UnixStream};

/// The number of the user at the other end of a socket, as the kernel knows it.
pub(crate) fn user_of(socket: &UnixStream) -> Option<u32> {
    socket.peer_cred().ok().map(|peer| peer.uid())
}

/// The number of the user that this process is.
#[expect(clippy::unnecessary_wraps, reason = "elsewhere users have no numbers")]
pub(crate) fn own_user() -> Option<u32> {
    Some(rustix::process::geteuid().as_raw())
}

/// Variables that a program of this system needs besides those it needs everywhere.
pub(crate) const ENVIRONMENT: &[&str] = &[];
/// Where programs are looked for without a `PATH`, as `execvp` does.
pub(crate) const DEFAULT_PATH: &str = "/bin:/usr/bin";

/// Whether two names are the same variable.
pub(crate) fn same_variable(a: &str, b: &str) -> bool {
    a == b
}

/// The endings that a program's name may be written without; `None`: a name is a name.
pub(crate) fn endings(_: &[(String, String)]) -> Option<&str> {
    None
}

/// Where a program with this environment puts temporary files.
pub(crate) fn temporary(environment: &[(String, String)]) -> &str {
    let set = environment.iter().find(|(name, _)| name == "TMPDIR");
    set.map_or("/tmp", |(_, value)| value)
}

/// Whether this user may run the file.
pub(crate) fn is_executable(file: &Path) -> bool {
    access(file, Access::EXEC_OK).is_ok()
}

/// Whether this user may write the file.
pub(crate) fn may_write(file: &Path) -> io::Result<()> {
    Ok(access(file, Access::WRITE_OK)?)
}

/// Whether this user may make files in the folder.
pub(crate) fn may_fill(folder: &Path) -> io::Result<()> {
    Ok(access(folder, Access::WRITE_OK | Access::EXEC_OK)?)
}

/// The file becomes that of the folder's owner, where root has made it in somebody else's folder.
pub(crate) fn give_to_owner(file: &File, folder: &Path) -> io::Result<()> {
    let (owner, now) = (folder.metadata()?, file.metadata()?);
    if !is_root() || owner.uid() == now.uid() {
        return Ok(());
    }
    std::os::unix::fs::fchown(file, Some(owner.uid()), Some(owner.gid()))
}

/// Whether this process may do everything.
pub(crate) fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// What others may do with a file or folder of this mode.
#[expect(clippy::unnecessary_wraps, reason = "elsewhere there are no modes")]
pub(crate) fn permissions(mode: u32) -> Option<Permissions> {
    Some(Permissions::from_mode(mode))
}

/// Makes sure that what was renamed in a folder is still so after a power cut.
pub(crate) fn sync_folder(folder: &Path) -> io::Result<()> {
    File::open(folder)?.sync_all()
}

/// Opens a file of this user's to append to, made if it is missing, for this process alone.
/// `None`: another process has it. What is no plain file belongs to whoever opens it.
pub(crate) fn open_alone(path: &Path) -> io::Result<Option<File>> {
    let mut options = File::options();
    options.read(true).append(true).create(true).mode(0o600);
    let file = options.open(path)?;
    if !file.metadata()?.is_file() {
        return Ok(Some(file));
    }
    match file.try_lock() {
        Ok(()) => Ok(Some(file)),
        Err(TryLockError::WouldBlock) => Ok(None),
        // A file system without locks: then care is all there is.
        Err(TryLockError::Error(error)) if error.kind() == io::ErrorKind::Unsupported => {
            Ok(Some(file))
        }
        Err(TryLockError::Error(error)) => Err(error),
    }
}

/// Whether the path stands for another file than the open one.
pub(crate) fn has_moved(open: &File, path: &Path) -> bool {
    let identity = |meta: Metadata| (meta.dev(), meta.ino());
    open.metadata().ok().map(identity) != path.metadata().ok().map(identity)
}

/// Fills the buffer from this place of the file.
pub(crate) fn read_at(file: &File, buffer: &mut [u8], at: u64) -> io::Result<()> {
    file.read_exact_at(buffer, at)
}

/// Whether it is a socket.
pub(crate) fn is_socket(kind: FileType) -> bool {
    kind.is_socket()
}

/// How full the disk is; `None` where the system does not say.
pub(crate) fn disk(folder: &Path) -> Option<Disk> {
    let stat = rustix::fs::statvfs(folder).ok()?;
    let bytes = |blocks: u64| blocks.checked_mul(stat.f_frsize);
    Some(Disk {
        total: bytes(stat.f_blocks),
        available: bytes(stat.f_bavail),
        // Some file systems do not count files at all.
        no_more_files: stat.f_files > 0 && stat.f_favail == 0,
    })
}

/// Standard output as a file of its own.
pub(crate) fn stdout_file() -> io::Result<File> {
    Ok(io::stdout().as_fd().try_clone_to_owned()?.into())
}

/// Standard input without a thread of its own where it is a pipe or socket.
pub(crate) fn input() -> io::Result<Pin<Box<dyn AsyncRead + Send>>> {
    let own = io::stdin().as_fd().try_clone_to_owned()?;
    Ok(match kind(&own)? {
        rustix::fs::FileType::Fifo => Box::pin(pipe::Receiver::from_owned_fd(own)?),
        rustix::fs::FileType::Socket => Box::pin(socket(own)?),
        _ => Box::pin(tokio::io::stdin()),
    })
}

/// Standard output likewise.
pub(crate) fn output() -> io::Result<Pin<Box<dyn AsyncWrite + Send>>> {
    let own = io::stdout().as_fd().try_clone_to_owned()?;
    Ok(match kind(&own)? {
        rustix::fs::FileType::Fifo => Box::pin(pipe::Sender::from_owned_fd(own)?),
        rustix::fs::FileType::Socket => Box::pin(socket(own)?),
        _ => Box::pin(tokio::io::stdout()),
    })
}

fn kind(fd: &OwnedFd) -> io::Result<rustix::fs::FileType> {
    let status = rustix::fs::fstat(fd)?;
    Ok(rustix::fs::FileType::from_raw_mode(status.st_mode))
}

fn socket(fd: OwnedFd) -> io::Result<UnixStream> {
    let socket = std::os::unix::net::UnixStream::from(fd);
    socket.set_nonblocking(true)?;
    UnixStream::from_std(socket)
}

/// The words by which somebody asks chillgate to end.
pub(crate) struct Stops {
    terminate: Signal,
    interrupt: Signal,
}

impl Stops {
    /// Hears them from now on.
    pub(crate) fn listen() -> io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
        })
    }

    /// The next one's name.
    pub(crate) async fn next(&mut self) -> &'static str {
        tokio::select! {
            _ = self.terminate.recv() => "SIGTERM",
            _ = self.interrupt.recv() => "SIGINT",
        }
    }
}

/// The word by which somebody asks for the configuration to be read again.
pub(crate) struct Hangups(Signal);

impl Hangups {
    /// Hears it from now on.
    pub(crate) fn listen() -> io::Result<Self> {
        signal(SignalKind::hangup()).map(Self)
    }

    /// The next one.
    pub(crate) async fn next(&mut self) {
        self.0.recv().await;
    }
}
