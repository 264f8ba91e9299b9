//! Control groups: a bound for a server's whole tree, where chillgate may make one.
//!
//! Each server's tree gets groups of its own below the group chillgate is in, so that what bounds
//! chillgate bounds its servers too. Of version 2 only a subtree that was handed over (delegated) is
//! touched; of version 1 whatever can be written. Where there is nothing of either, limits are set
//! on each process instead; that is not decided here.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::fs::{Access, access};
use rustix::process::{Pid, Signal};

use super::{native, tree};

mod mounts;

use mounts::{Mount, Version};

/// Where chillgate itself goes when its own group is to have groups below it.
const LEAF: &str = "chillgate-self";
/// How a server's group begins.
const PREFIX: &str = "chillgate-";

/// What a group can bound.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Controller {
    Memory,
    Pids,
    Cpu,
}

impl Controller {
    const ALL: [Self; 3] = [Self::Memory, Self::Pids, Self::Cpu];

    fn name(self) -> &'static str {
        match self {
            Self::Memory => "memory",
            Self::Pids => "pids",
            Self::Cpu => "cpu",
        }
    }
}

/// Where groups for servers can be made.
#[derive(Clone, Debug, Default)]
pub(super) struct Parents(Vec<(Controller, Version, PathBuf)>);

/// Found once; chillgate may have moved into a leaf of its own group afterwards, and groups of
/// chillgates that are dead have been cleared.
pub(super) fn parents() -> &'static Parents {
    static FOUND: OnceLock<Parents> = OnceLock::new();
    FOUND.get_or_init(|| {
        let parents = Parents::find();
        parents.clear_stale();
        parents
    })
}

impl Parents {
    fn find() -> Self {
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
        let own = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
        let mut found = Vec::new();
        for controller in Controller::ALL {
            let mount = mounts::of(controller.name(), &mounts, &own);
            if let Some(Mount { version, folder }) = mount
                && let Some(folder) = usable(version, &folder, controller)
            {
                found.push((controller, version, folder));
            }
        }
        Self(found)
    }

    fn of(&self, controller: Controller) -> Option<(Version, &Path)> {
        let found = self.0.iter().find(|(it, _, _)| *it == controller);
        found.map(|(_, version, folder)| (*version, folder.as_path()))
    }

    /// Groups whose chillgate is dead, with whatever still runs in them.
    fn clear_stale(&self) {
        for (_, _, folder) in &self.0 {
            for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
                let name = entry.file_name();
                let owner = name.to_str().and_then(owner_of);
                if owner.is_some_and(|(pid, started)| !tree::is_running(pid, started)) {
                    end(&entry.path());
                }
            }
        }
    }
}

/// `chillgate-PID-START-…`.
fn owner_of(name: &str) -> Option<(Pid, u64)> {
    let mut parts = name.strip_prefix(PREFIX)?.split('-');
    let pid = Pid::from_raw(parts.next()?.parse().ok()?)?;
    Some((pid, parts.next()?.parse().ok()?))
}

/// The folder in which groups with this controller can be made, made ready where that is needed.
fn usable(version: Version, folder: &Path, controller: Controller) -> Option<PathBuf> {
    access(folder, Access::WRITE_OK | Access::EXEC_OK).ok()?;
    match version {
        Version::One => Some(folder.to_owned()),
        Version::Two => hand_down(folder, controller),
    }
}

/// Version 2 wants processes in leaves only: chillgate goes into one and hands the controller down,
/// if the group is its own to arrange.
fn hand_down(own: &Path, controller: Controller) -> Option<PathBuf> {
    let has = |folder: &Path, file: &str| {
        let words = fs::read_to_string(folder.join(file)).unwrap_or_default();
        words.split_whitespace().any(|it| it == controller.name())
    };
    // For a second controller chillgate is in the leaf already.
    let own = match own.parent() {
        Some(above) if own.ends_with(LEAF) => above,
        _ => own,
    };
    if !is_delegated(own) || !has(own, "cgroup.controllers") {
        return None;
    }
    if has(own, "cgroup.subtree_control") {
        return Some(own.to_owned());
    }
    let here = fs::read_to_string(own.join("cgroup.procs")).ok()?;
    let me = std::process::id().to_string();
    let alone = here.lines().all(|pid| pid == me);
    if !alone {
        return None;
    }
    let leaf = own.join(LEAF);
    let hand = || -> io::Result<()> {
        if !leaf.is_dir() {
            fs::create_dir(&leaf)?;
        }
        fs::write(leaf.join("cgroup.procs"), "0")?;
        let words = format!("+{}", controller.name());
        fs::write(own.join("cgroup.subtree_control"), words)
    };
    hand().ok().map(|()| own.to_owned())
}

/// Whether a group of version 2 is ours to arrange: systemd says so by an attribute, and who is not
/// root could not write it else. A container sees its own as the root, which the real one is
/// told from by having a type.
fn is_delegated(folder: &Path) -> bool {
    let mut word = [0; 8];
    let marked = ["user.delegate", "trusted.delegate"].iter().any(|name| {
        let read = rustix::fs::getxattr(folder, *name, &mut word);
        read.is_ok_and(|count| word.get(..count) == Some(b"1"))
    });
    let is_writable = |file: &str| access(folder.join(file), Access::WRITE_OK).is_ok();
    let handed = !rustix::process::geteuid().is_root()
        && is_writable("cgroup.procs")
        && is_writable("cgroup.subtree_control");
    let is_top = folder
        .parent()
        .is_none_or(|above| !above.join("cgroup.procs").exists());
    let contained = is_top && folder.join("cgroup.type").exists();
    marked || handed || contained
}

/// What a server's tree may use.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Wanted {
    pub(super) memory: Option<u64>,
    pub(super) processes: Option<u64>,
    pub(super) cpu_weight: Option<u64>,
}

/// The groups of one server's tree. Dropping it ends what is in them and removes them.
#[derive(Debug, Default)]
pub(super) struct Groups(Vec<Group>);

#[derive(Debug)]
struct Group {
    version: Version,
    folder: PathBuf,
    bounds: Vec<Controller>,
}

impl Groups {
    /// Groups for what can be bounded; [`Self::bounds`] says what that is.
    pub(super) fn make(parents: &Parents, server: &str, wanted: Wanted) -> Self {
        static COUNT: AtomicU64 = AtomicU64::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let me = tree::this_process();
        let server = super::register::plain(server);
        let name = format!(
            "{PREFIX}{}-{}-{count}-{server}",
            me.0.as_raw_nonzero(),
            me.1
        );
        let mut groups = Self::default();
        let of = [
            (Controller::Memory, wanted.memory),
            (Controller::Pids, wanted.processes),
            (Controller::Cpu, wanted.cpu_weight),
        ];
        for (controller, value) in of {
            if let (Some(value), Some((version, parent))) = (value, parents.of(controller)) {
                groups.add(version, parent.join(&name), controller, value);
            }
        }
        groups
    }

    fn add(&mut self, version: Version, folder: PathBuf, controller: Controller, value: u64) {
        let made = self.0.iter().any(|group| group.folder == folder);
        if !made && fs::create_dir(&folder).is_err() {
            return;
        }
        let is_bound = bound(version, &folder, controller, value).is_ok();
        match self.0.iter_mut().find(|group| group.folder == folder) {
            Some(group) if is_bound => group.bounds.push(controller),
            Some(_) => {}
            None if is_bound => self.0.push(Group {
                version,
                folder,
                bounds: vec![controller],
            }),
            None => drop(fs::remove_dir(&folder)),
        }
    }

    /// Whether this is bounded for the whole tree.
    pub(super) fn bounds(&self, controller: Controller) -> bool {
        self.0.iter().any(|it| it.bounds.contains(&controller))
    }

    /// The files by which a process enters them.
    pub(super) fn doors(&self) -> Vec<PathBuf> {
        let doors = self.0.iter().map(|it| it.folder.join("cgroup.procs"));
        doors.collect()
    }

    /// Whether the kernel ended a process in here for want of memory.
    pub(super) fn ran_out_of_memory(&self) -> bool {
        self.0.iter().any(|group| {
            let file = match group.version {
                Version::One => "memory.oom_control",
                Version::Two => "memory.events",
            };
            let text = fs::read_to_string(group.folder.join(file)).unwrap_or_default();
            let kills = text.lines().find_map(|it| it.strip_prefix("oom_kill "));
            kills.is_some_and(|kills| kills.trim() != "0")
        })
    }
}

impl Drop for Groups {
    fn drop(&mut self) {
        for group in &self.0 {
            end(&group.folder);
        }
    }
}

fn bound(version: Version, folder: &Path, controller: Controller, value: u64) -> io::Result<()> {
    let write = |file: &str, value: u64| fs::write(folder.join(file), value.to_string());
    match (version, controller) {
        (Version::One, Controller::Memory) => {
            write("memory.limit_in_bytes", value)?;
            // Absent where swap is not counted: then the line above bounds what it can.
            let _ = write("memory.memsw.limit_in_bytes", value);
            Ok(())
        }
        (Version::Two, Controller::Memory) => {
            write("memory.max", value)?;
            let _ = write("memory.swap.max", 0);
            // A server that lost a part of itself is of no use: all of it ends.
            let _ = write("memory.oom.group", 1);
            Ok(())
        }
        (_, Controller::Pids) => write("pids.max", value),
        (Version::One, Controller::Cpu) => write("cpu.shares", (value * 1024 / 100).max(2)),
        (Version::Two, Controller::Cpu) => write("cpu.weight", value),
    }
}

/// How often a group is emptied before it is left to the next start.
const ROUNDS: usize = 50;

/// Ends whoever is in a group, also who left the server's session, and removes it.
fn end(folder: &Path) {
    for _ in 0..ROUNDS {
        match fs::remove_dir(folder) {
            Err(error) if error.kind() == io::ErrorKind::ResourceBusy => kill_all(folder),
            _ => return,
        }
        // The dead stay in their group until they are buried, which is others' to do.
        std::thread::yield_now();
    }
}

/// Kills whoever is in the group of this door (its `cgroup.procs`), and lets nobody fork meanwhile:
/// a server that forks without end would outrun every look at the process table.
pub(super) fn kill_behind(door: &Path) {
    if let Some(folder) = door.parent() {
        kill_all(folder);
    }
}

fn kill_all(folder: &Path) {
    // Each only where there is such a file: an ordinary write would try to make one.
    let write = |file: &str, text: &str| {
        let file = fs::File::options().write(true).open(folder.join(file));
        file.and_then(|mut file| io::Write::write_all(&mut file, text.as_bytes()))
    };
    if write("cgroup.kill", "1").is_ok() {
        return;
    }
    let _ = write("pids.max", "0");
    let inside = fs::read_to_string(folder.join("cgroup.procs")).unwrap_or_default();
    for pid in inside.lines().filter_map(|pid| pid.parse().ok()) {
        if let Some(kin) = Pid::from_raw(pid).and_then(native::find) {
            kin.signal(Signal::KILL);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_groups_name_says_whose_it_is() {
        let owner = owner_of("chillgate-42-777-3-files").expect("it is one of ours");
        assert_eq!((owner.0.as_raw_nonzero().get(), owner.1), (42, 777));
        for other in [
            LEAF,
            "chillgate-x-1",
            "user.slice",
            "chillgate-42",
            "chillgate--1-2",
        ] {
            assert!(owner_of(other).is_none(), "{other}");
        }
    }

    /// The files of version 2 as plain ones: what is written where. (What the kernel makes of it
    /// is for machines that have it.)
    #[test]
    fn version_two_is_written_its_own_words() {
        let base = tempfile::tempdir().expect("a folder");
        let parents = Parents(
            Controller::ALL
                .map(|it| (it, Version::Two, base.path().to_owned()))
                .to_vec(),
        );
        let wanted = Wanted {
            memory: Some(1 << 20),
            processes: Some(64),
            cpu_weight: Some(50),
        };
        let groups = Groups::make(&parents, "files", wanted);
        let doors = groups.doors();
        let [door] = doors.as_slice() else {
            panic!("one group bounds all three: {doors:?}");
        };
        let read = |file: &str| fs::read_to_string(door.with_file_name(file)).expect(file);
        assert_eq!(read("memory.max"), "1048576");
        assert_eq!(read("memory.swap.max"), "0");
        assert_eq!(read("pids.max"), "64");
        assert_eq!(read("cpu.weight"), "50");
        assert!(Controller::ALL.iter().all(|it| groups.bounds(*it)));
        assert!(!groups.ran_out_of_memory());
        fs::write(door.with_file_name("memory.events"), "oom 3\noom_kill 1\n").expect("written");
        assert!(groups.ran_out_of_memory());
    }

    #[test]
    fn nothing_is_bounded_where_no_group_can_be_made() {
        let nowhere = Parents(vec![(Controller::Memory, Version::One, "/nowhere".into())]);
        let wanted = Wanted {
            memory: Some(1 << 20),
            ..Wanted::default()
        };
        let groups = Groups::make(&nowhere, "files", wanted);
        assert!(!groups.bounds(Controller::Memory) && groups.doors().is_empty());
    }
}
