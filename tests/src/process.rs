//! Starting, signalling and finding processes: the one place of the harness that does.
//!
//! It stands apart because a test may end only what it started: processes are found by a mark on
//! their own command line, and signalled by id, never by a broad name.

use std::path::{Path, PathBuf};

use rustix::process::{Pid, Signal, kill_process};
use tokio::process::{Child, Command};

/// A command that dies with the test and inherits nothing but what is named.
pub fn command(program: impl AsRef<Path>) -> Command {
    #[expect(
        clippy::disallowed_methods,
        reason = "the harness's one home for starting processes"
    )]
    let mut command = Command::new(program.as_ref());
    command.kill_on_drop(true);
    command
}

/// This program with these words first, then as `there`: its arguments and environment.
pub fn instead(program: impl AsRef<Path>, words: &[&str], there: &Command) -> Command {
    let there = there.as_std();
    let mut command = command(program);
    command.args(words).args(there.get_args());
    for (name, value) in there.get_envs() {
        match value {
            Some(value) => command.env(name, value),
            None => command.env_remove(name),
        };
    }
    command
}

/// Sends a signal to a process that this test started.
///
/// # Panics
/// When the process is already reaped.
pub fn signal(child: &Child, signal: Signal) {
    let id = child.id().expect("the process was already waited for");
    send(id, signal);
}

/// Sends a signal by id; a process that is gone is no error.
pub fn send(id: u32, signal: Signal) {
    if let Some(pid) = i32::try_from(id).ok().and_then(Pid::from_raw) {
        // ESRCH: it is gone, which is what most callers want.
        let _gone = kill_process(pid, signal);
    }
}

/// One process that is still there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// Its id.
    pub pid: u32,
    /// Its command line, arguments joined by spaces.
    pub line: String,
}

/// Every living process (zombies do not count) whose command line has `mark` in it.
pub fn marked(mark: &str) -> Vec<Found> {
    let own = std::process::id();
    let mut found = Vec::new();
    for pid in pids() {
        let Ok(raw) = std::fs::read(format!("/proc/{pid}/cmdline")) else {
            continue;
        };
        let line = String::from_utf8_lossy(&raw)
            .replace('\0', " ")
            .trim()
            .to_owned();
        if pid != own && line.contains(mark) {
            found.push(Found { pid, line });
        }
    }
    found
}

/// The living descendants of a process, nearest first.
pub fn descendants(root: u32) -> Vec<u32> {
    let parents: Vec<(u32, u32)> = pids()
        .filter_map(|pid| parent(pid).map(|parent| (pid, parent)))
        .collect();
    let mut family = vec![root];
    let mut next = 0;
    while next < family.len() {
        let at = family[next];
        family.extend(
            parents
                .iter()
                .filter(|(_, parent)| *parent == at)
                .map(|(pid, _)| *pid),
        );
        next += 1;
    }
    family.split_off(1)
}

/// How many file descriptors a process has open.
pub fn descriptors(pid: u32) -> usize {
    std::fs::read_dir(format!("/proc/{pid}/fd")).map_or(0, Iterator::count)
}

/// Resident memory of a process in bytes.
pub fn resident(pid: u32) -> u64 {
    memory(pid, "VmRSS:")
}

/// The most resident memory a process has had so far, in bytes.
pub fn peak(pid: u32) -> u64 {
    memory(pid, "VmHWM:")
}

fn memory(pid: u32, label: &str) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix(label))
        .unwrap_or("0 kB");
    let kib: u64 = line
        .split_whitespace()
        .next()
        .and_then(|n| n.parse().ok())
        .unwrap_or(0);
    kib * 1024
}

fn pids() -> impl Iterator<Item = u32> {
    std::fs::read_dir("/proc")
        .expect("/proc is there on Linux")
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
}

/// The parent's id, read past the command name, which may hold anything.
fn parent(pid: u32) -> Option<u32> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    stat.rsplit_once(')')?
        .1
        .split_whitespace()
        .nth(1)?
        .parse()
        .ok()
}

/// The repository's root.
pub fn root() -> PathBuf {
    let tests = Path::new(env!("CARGO_MANIFEST_DIR"));
    tests
        .parent()
        .expect("tests/ lies in the repository")
        .to_owned()
}

/// The chillgate binary: `CHILLGATE_BIN`, else the one built beside this test, else `target/`.
///
/// # Panics
/// When there is none: a test without the binary is a failure, not a skip.
pub fn chillgate() -> PathBuf {
    if let Some(named) = std::env::var_os("CHILLGATE_BIN") {
        return PathBuf::from(named);
    }
    built("chillgate")
}

/// The server of both eras that the conformance suite is run at.
///
/// # Panics
/// When there is none.
pub fn dual_server() -> PathBuf {
    built("dual-server")
}

fn built(name: &str) -> PathBuf {
    let test = std::env::current_exe().expect("a test knows its own path");
    let beside = test
        .ancestors()
        .skip(1)
        .take(2)
        .map(|folder| folder.join(name));
    let target = root().join("target");
    let built = [
        target.join("release").join(name),
        target.join("debug").join(name),
    ];
    beside
        .chain(built)
        .find(|path| path.is_file())
        .unwrap_or_else(|| panic!("there is no binary {name}: see what tests/run builds"))
}

/// A word that no other test has on a command line.
pub fn mark() -> String {
    let mut random = [0_u8; 8];
    std::fs::File::open("/dev/urandom")
        .and_then(|mut file| std::io::Read::read_exact(&mut file, &mut random))
        .expect("/dev/urandom can be read");
    format!("mark-{:016x}", u64::from_ne_bytes(random))
}

/// A TCP port that nothing listens on, outside the range the kernel gives to clients.
///
/// # Panics
/// When a thousand tries found none.
pub fn free_port() -> u16 {
    for _ in 0..1000 {
        let digits = mark();
        let random = u64::from_str_radix(&digits["mark-".len()..], 16).unwrap_or_default();
        let port = 10_000 + (random % 20_000) as u16;
        if std::net::TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
    panic!("no free port between 10000 and 30000");
}
