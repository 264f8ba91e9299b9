//! Where a controller's groups are mounted, and which of them this process is in: the text of
//! `/proc/self/mountinfo` and `/proc/self/cgroup`, read side by side.
//!
//! Texts in, a path out; whether it can be used is looked at elsewhere.

use std::path::{Path, PathBuf};

/// Of control groups.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Version {
    One,
    Two,
}

/// This process's group of one hierarchy.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Mount {
    pub(super) version: Version,
    pub(super) folder: PathBuf,
}

/// The own group in the hierarchy of version 1 that has this controller, else that of version 2.
/// (A controller is in one of them only; version 2's own files say whether it has it.)
pub(super) fn of(controller: &str, mountinfo: &str, own: &str) -> Option<Mount> {
    let one = own.lines().find_map(|line| {
        let (names, path) = line.split_once(':')?.1.split_once(':')?;
        names.split(',').any(|it| it == controller).then_some(path)
    });
    if let Some(path) = one {
        let folder = mounted("cgroup", Some(controller), mountinfo, path)?;
        return Some(Mount {
            version: Version::One,
            folder,
        });
    }
    let path = own.lines().find_map(|line| line.strip_prefix("0::"))?;
    Some(Mount {
        version: Version::Two,
        folder: mounted("cgroup2", None, mountinfo, path)?,
    })
}

/// `… ROOT POINT … - TYPE SOURCE OPTIONS`, see proc(5).
fn mounted(kind: &str, option: Option<&str>, mountinfo: &str, own: &str) -> Option<PathBuf> {
    mountinfo.lines().find_map(|line| {
        let (place, about) = line.split_once(" - ")?;
        let mut about = about.split(' ');
        if about.next()? != kind {
            return None;
        }
        let options = about.nth(1)?;
        if option.is_some_and(|it| !options.split(',').any(|given| given == it)) {
            return None;
        }
        let mut place = place.split(' ').skip(3);
        let (root, point) = (place.next()?, unescaped(place.next()?));
        // A container may be shown a part of the hierarchy only.
        let below = Path::new(own).strip_prefix(root).unwrap_or(Path::new(""));
        Some(Path::new(&point).join(below))
    })
}

/// Blanks are written in octal.
fn unescaped(path: &str) -> String {
    path.replace("\\040", " ").replace("\\134", "\\")
}

#[cfg(test)]
mod tests {
    use super::*;

    const HYBRID: &str = "\
        25 30 0:23 / /proc rw - proc proc rw\n\
        31 30 0:26 / /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory\n\
        32 30 0:27 / /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct\n\
        33 30 0:28 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n";

    fn is(found: Option<Mount>, version: Version, folder: &str) {
        let wanted = Mount {
            version,
            folder: folder.into(),
        };
        assert!(found.is_some_and(|found| found == wanted), "{wanted:?}");
    }

    #[test]
    fn each_controller_is_found_where_it_is() {
        let own = "4:memory:/a/b\n2:cpu,cpuacct:/\n0::/user.slice\n";
        is(
            of("memory", HYBRID, own),
            Version::One,
            "/sys/fs/cgroup/memory/a/b",
        );
        is(
            of("cpu", HYBRID, own),
            Version::One,
            "/sys/fs/cgroup/cpu,cpuacct",
        );
        is(
            of("pids", HYBRID, own),
            Version::Two,
            "/sys/fs/cgroup/unified/user.slice",
        );
        let pure = "33 30 0:28 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n";
        is(of("pids", pure, "0::/\n"), Version::Two, "/sys/fs/cgroup");
        assert_eq!(of("memory", "", own), None);
        assert_eq!(of("memory", HYBRID, ""), None);
    }

    #[test]
    fn a_part_of_the_hierarchy_is_joined_at_its_root() {
        let part = "31 30 0:26 /docker/x /sys/fs/cgroup/memory ro - cgroup cgroup rw,memory\n";
        let of = |own: &str| of("memory", part, own);
        is(
            of("4:memory:/docker/x\n"),
            Version::One,
            "/sys/fs/cgroup/memory",
        );
        is(
            of("4:memory:/docker/x/y\n"),
            Version::One,
            "/sys/fs/cgroup/memory/y",
        );
        is(
            of("4:memory:/elsewhere\n"),
            Version::One,
            "/sys/fs/cgroup/memory",
        );
    }
}
