//! Windows, as far as it goes: no modes, no signals, no Unix sockets.
//!
//! Who may read a file is what its folder hands on: in the user's own folders, the user. What is
//! Linux's alone is in `elsewhere.rs`.

#![allow(
    clippy::unnecessary_wraps,
    reason = "what cannot fail here can where the same name means a system call"
)]

use std::convert::Infallible;
use std::fs::{DirBuilder, File, FileType, OpenOptions, Permissions};
use std::io::{self, ErrorKind};
use std::os::windows::fs::{FileExt as _, OpenOptionsExt as _};
use std::os::windows::io::AsHandle as _;
use std::path::Path;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::signal::windows::{CtrlBreak, CtrlC, CtrlClose, CtrlShutdown};

use super::{Custom, Disk, System};

pub(crate) use super::elsewhere::*;

/// What there is.
pub(crate) const SYSTEM: System = System {
    name: "Windows",
    unix_sockets: false,
    holds_paths: false,
};

/// The user's state folder: of this machine, not of those the user roams to.
pub(crate) const STATE: Custom = Custom {
    variable: Some("LOCALAPPDATA"),
    path: "chillgate",
};

/// The user's configuration.
pub(crate) const CONFIG: Custom = Custom {
    variable: Some("APPDATA"),
    path: "chillgate/chillgate.toml",
};

/// The machine's configuration.
pub(crate) const MACHINE_CONFIG: Custom = Custom {
    variable: Some("PROGRAMDATA"),
    path: "chillgate/chillgate.toml",
};

/// Why `chillgate service` can do nothing here, and what to do instead.
pub(crate) const NO_SERVICE: Option<(&str, &str)> = Some((
    "`chillgate service` installs a service of systemd, which Windows does not have",
    "let the Task Scheduler run `chillgate serve` when you log on",
));

/// Variables without which programs do not start, or do not find their own files.
pub(crate) const ENVIRONMENT: &[&str] = &[
    "SYSTEMROOT",
    "SYSTEMDRIVE",
    "WINDIR",
    "COMSPEC",
    "PATHEXT",
    "TEMP",
    "TMP",
    "USERNAME",
    "USERPROFILE",
    "HOMEDRIVE",
    "HOMEPATH",
    "APPDATA",
    "LOCALAPPDATA",
    "PROGRAMDATA",
    "PROGRAMFILES",
    "PROGRAMFILES(X86)",
    "COMMONPROGRAMFILES",
    "PROCESSOR_ARCHITECTURE",
    "NUMBER_OF_PROCESSORS",
    "OS",
];

/// Where programs are looked for without a `PATH`.
pub(crate) const DEFAULT_PATH: &str = "C:\\Windows\\System32;C:\\Windows";

/// Endings of programs where `PATHEXT` does not say.
const ENDINGS: &str = ".COM;.EXE;.BAT;.CMD";

/// Somebody else has the file open in a way that does not go with ours.
const SHARING_VIOLATION: i32 = 32;
/// Others may read it and move it away, but not write.
const FILE_SHARE_READ: u32 = 1;
const FILE_SHARE_DELETE: u32 = 4;

/// Whether two names are the same variable.
pub(crate) fn same_variable(a: &str, b: &str) -> bool {
    a.eq_ignore_ascii_case(b)
}

fn variable<'a>(environment: &'a [(String, String)], wanted: &str) -> Option<&'a str> {
    let found = environment
        .iter()
        .find(|(name, _)| same_variable(name, wanted));
    found.map(|(_, value)| value.as_str())
}

/// The endings that a program's name may be written without.
pub(crate) fn endings(environment: &[(String, String)]) -> Option<&str> {
    Some(variable(environment, "PATHEXT").unwrap_or(ENDINGS))
}

/// Where a program with this environment puts temporary files.
pub(crate) fn temporary(environment: &[(String, String)]) -> &str {
    let named = variable(environment, "TEMP").or_else(|| variable(environment, "TMP"));
    named.unwrap_or("C:\\Windows\\Temp")
}

/// Every file may be run; whether it is a program is said by its ending.
pub(crate) fn is_executable(_: &Path) -> bool {
    true
}

/// Whether this user may write the file.
pub(crate) fn may_write(file: &Path) -> io::Result<()> {
    File::options().append(true).open(file).map(drop)
}

/// Whether files can be made in the folder is known by making one: here only whether it is there.
pub(crate) fn may_fill(folder: &Path) -> io::Result<()> {
    folder.metadata().map(drop)
}

/// A file is its folder's: permissions are inherited.
#[expect(clippy::unnecessary_wraps, reason = "elsewhere it can fail")]
pub(crate) fn give_to_owner(_: &File, _: &Path) -> io::Result<()> {
    Ok(())
}

/// Whether this process may do everything: nobody asks where there are no service verbs.
pub(crate) fn is_root() -> bool {
    false
}

/// There are no modes.
pub(crate) fn permissions(_: u32) -> Option<Permissions> {
    None
}

/// Links take a right that few users have.
pub(crate) fn symlink(_: &Path, _: &Path) -> io::Result<()> {
    Err(ErrorKind::Unsupported.into())
}

/// The file system writes its names down by itself.
pub(crate) fn sync_folder(_: &Path) -> io::Result<()> {
    Ok(())
}

/// The mode of what is made, which is not Windows' way: it does nothing.
pub(crate) trait OpenOptionsExt {
    fn mode(&mut self, mode: u32) -> &mut Self;
}

impl OpenOptionsExt for OpenOptions {
    fn mode(&mut self, _: u32) -> &mut Self {
        self
    }
}

/// The same for folders.
pub(crate) trait DirBuilderExt {
    fn mode(&mut self, mode: u32) -> &mut Self;
}

impl DirBuilderExt for DirBuilder {
    fn mode(&mut self, _: u32) -> &mut Self {
        self
    }
}

/// Opens a file to append to, made if it is missing, for this process alone: others may read it
/// meanwhile. `None`: another process writes it.
pub(crate) fn open_alone(path: &Path) -> io::Result<Option<File>> {
    let mut options = File::options();
    options.read(true).append(true).create(true);
    options.share_mode(FILE_SHARE_READ | FILE_SHARE_DELETE);
    match options.open(path) {
        Ok(file) => Ok(Some(file)),
        Err(error) if error.raw_os_error() == Some(SHARING_VIOLATION) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Whether the path stands for another file than the open one.
pub(crate) fn has_moved(open: &File, path: &Path) -> bool {
    let open = open.try_clone().and_then(same_file::Handle::from_file);
    let there = same_file::Handle::from_path(path);
    open.ok() != there.ok()
}

/// Fills the buffer from this place of the file.
pub(crate) fn read_at(file: &File, mut buffer: &mut [u8], mut at: u64) -> io::Result<()> {
    while !buffer.is_empty() {
        let count = file.seek_read(buffer, at)?;
        if count == 0 {
            return Err(ErrorKind::UnexpectedEof.into());
        }
        buffer = buffer.get_mut(count..).unwrap_or_default();
        at += count as u64;
    }
    Ok(())
}

/// No file is a socket.
pub(crate) fn is_socket(_: FileType) -> bool {
    false
}

/// How full the disk is: the one whose place is the longest beginning of the folder's.
pub(crate) fn disk(folder: &Path) -> Option<Disk> {
    let folder = std::path::absolute(folder).ok()?;
    let disks = sysinfo::Disks::new_with_refreshed_list().ok()?;
    let here = disks
        .iter()
        .filter(|disk| folder.starts_with(disk.mount_point()))
        .max_by_key(|disk| disk.mount_point().as_os_str().len())?;
    Some(Disk {
        total: Some(here.total_space()),
        available: Some(here.available_space()),
        no_more_files: false,
    })
}

/// Standard output as a file of its own.
pub(crate) fn stdout_file() -> io::Result<File> {
    Ok(io::stdout().as_handle().try_clone_to_owned()?.into())
}

/// Standard input, read by a thread of its own.
pub(crate) fn input() -> io::Result<Pin<Box<dyn AsyncRead + Send>>> {
    Ok(Box::pin(tokio::io::stdin()))
}

/// Standard output likewise.
pub(crate) fn output() -> io::Result<Pin<Box<dyn AsyncWrite + Send>>> {
    Ok(Box::pin(tokio::io::stdout()))
}

/// The words by which somebody asks chillgate to end: keys, a closed window, the end of the day.
pub(crate) struct Stops {
    c: CtrlC,
    pause: CtrlBreak,
    close: CtrlClose,
    shutdown: CtrlShutdown,
}

impl Stops {
    /// Hears them from now on.
    pub(crate) fn listen() -> io::Result<Self> {
        use tokio::signal::windows::{ctrl_break, ctrl_c, ctrl_close, ctrl_shutdown};
        Ok(Self {
            c: ctrl_c()?,
            pause: ctrl_break()?,
            close: ctrl_close()?,
            shutdown: ctrl_shutdown()?,
        })
    }

    /// The next one's name.
    pub(crate) async fn next(&mut self) -> &'static str {
        tokio::select! {
            _ = self.c.recv() => "Ctrl-C",
            _ = self.pause.recv() => "Ctrl-Break",
            _ = self.close.recv() => "its window was closed",
            _ = self.shutdown.recv() => "the system ends",
        }
    }
}

/// Nobody asks in words for the configuration to be read again: files are watched.
pub(crate) struct Hangups;

impl Hangups {
    /// There is nothing to hear.
    pub(crate) fn listen() -> io::Result<Self> {
        Ok(Self)
    }

    /// It never comes.
    pub(crate) async fn next(&mut self) {
        std::future::pending::<()>().await;
    }
}

fn no_sockets() -> io::Error {
    io::Error::new(
        ErrorKind::Unsupported,
        "there are no Unix sockets on Windows; use a port of 127.0.0.1",
    )
}

/// A listening Unix socket, of which there is none.
pub(crate) struct UnixListener(Infallible);

impl UnixListener {
    /// Cannot be had.
    pub(crate) fn bind(_: impl AsRef<Path>) -> io::Result<Self> {
        Err(no_sockets())
    }

    /// Nobody has one to call this on.
    #[expect(clippy::unused_async, reason = "it is where there are sockets")]
    pub(crate) async fn accept(&self) -> io::Result<(UnixStream, Infallible)> {
        match self.0 {}
    }
}

/// A connection by a Unix socket, of which there is none.
pub(crate) struct UnixStream(Infallible);

impl UnixStream {
    /// Cannot be had.
    #[expect(clippy::unused_async, reason = "it is where there are sockets")]
    pub(crate) async fn connect(_: impl AsRef<Path>) -> io::Result<Self> {
        Err(no_sockets())
    }
}

/// The number of the user that this process is: users have none here.
pub(crate) fn own_user() -> Option<u32> {
    None
}

/// Nobody is at the other end of what cannot be.
pub(crate) fn user_of(socket: &UnixStream) -> Option<u32> {
    match socket.0 {}
}

impl AsyncRead for UnixStream {
    fn poll_read(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
        _: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self.0 {}
    }
}

impl AsyncWrite for UnixStream {
    fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, _: &[u8]) -> Poll<io::Result<usize>> {
        match self.0 {}
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.0 {}
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.0 {}
    }
}
