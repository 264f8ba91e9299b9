//! The register of running trees: what the next chillgate needs to know to end what this one leaves
//! behind, should it be killed together with its keepers.
//!
//! A folder of `trees/` for each chillgate, held by a lock that the kernel lets go when chillgate
//! dies; in it an empty file for each tree, whose name says all. Names appear and vanish whole, so a
//! crash leaves nothing half-written. What a dead chillgate's trees left is known by the mark in its
//! environment ([`MARK`]), and by the session of what has it. It ends processes of trees that were
//! registered and no others.

use std::fs::{self, DirBuilder, File};
use std::io;
use std::path::{Path, PathBuf};

use data_encoding::HEXLOWER;
use rustix::fs::{FlockOperation, flock};
use rustix::process::{Pid, Signal};

use super::Leftovers;
use super::native::{self, here};
use super::tree::{self, Kin};
use crate::platform::{DirBuilderExt as _, OpenOptionsExt as _};

/// The variable that every process of a tree has, with a value of the tree's own.
pub(super) const MARK: &str = "CHILLGATE_TREE";

const FOLDER: &str = "trees";
const LOCK: &str = "lock";

/// How often leftovers are looked for: one may start another while the table is read.
const ROUNDS: usize = 20;

/// This chillgate's part of the register.
#[derive(Debug)]
pub(super) struct Register {
    folder: PathBuf,
    _lock: File,
}

/// One running tree. Dropping it strikes it out.
#[derive(Debug)]
pub(super) struct Entry {
    path: PathBuf,
    mark: String,
}

impl Entry {
    /// Who has the tree's mark, wherever they went.
    pub(super) fn marked(&self) -> Vec<Kin> {
        let mut all = native::table();
        all.retain(|kin| native::variable(kin.pid, MARK).is_some_and(|mark| mark == self.mark));
        all
    }
}

/// A fresh mark.
pub(super) fn mark() -> String {
    HEXLOWER.encode(&crate::random::bytes::<16>())
}

impl Register {
    /// Opens a part of its own below `state`, after those of the dead were settled.
    pub(super) fn open(state: &Path) -> io::Result<(Self, Leftovers)> {
        let all = state.join(FOLDER);
        let private = |folder: &Path| DirBuilder::new().recursive(true).mode(0o700).create(folder);
        private(&all)?;
        let leftovers = settle(&all, &here());
        // Under another name first: what has no lock yet looks dead.
        let name = format!("{}-{}", here(), mark());
        let hidden = all.join(format!(".{name}"));
        private(&hidden)?;
        let lock = create(&hidden.join(LOCK))?;
        flock(&lock, FlockOperation::NonBlockingLockExclusive)?;
        let folder = all.join(name);
        fs::rename(&hidden, &folder)?;
        let register = Self {
            folder,
            _lock: lock,
        };
        Ok((register, leftovers))
    }

    /// Notes a tree: its keeper, which is its session's leader, and its mark.
    pub(super) fn enter(&self, keeper: Pid, mark: &str, server: &str) -> io::Result<Entry> {
        let started = native::find(keeper).map_or(0, |kin| kin.started);
        let server = plain(server);
        let name = format!("{}.{started}.{mark}.{server}", keeper.as_raw_nonzero());
        let path = self.folder.join(name);
        create(&path)?;
        Ok(Entry {
            path,
            mark: mark.to_owned(),
        })
    }
}

/// A file for chillgate's user alone.
fn create(path: &Path) -> io::Result<File> {
    let mut options = File::options();
    options.write(true).create(true).truncate(true).mode(0o600);
    options.open(path)
}

impl Drop for Entry {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.path);
    }
}

fn settle(all: &Path, here: &str) -> Leftovers {
    let mut leftovers = Leftovers::default();
    for part in fs::read_dir(all).into_iter().flatten().flatten() {
        let name = part.file_name().to_string_lossy().into_owned();
        if name.starts_with('.') {
            continue;
        }
        let Ok(lock) = File::open(part.path().join(LOCK)) else {
            continue;
        };
        if flock(&lock, FlockOperation::NonBlockingLockExclusive).is_err() {
            continue; // it lives
        }
        if name.starts_with(here) {
            let trees: Vec<Tree> = fs::read_dir(part.path())
                .into_iter()
                .flatten()
                .flatten()
                .filter_map(|entry| Tree::parse(entry.file_name().to_str()?))
                .collect();
            end(&trees, &mut leftovers);
        }
        let _ = fs::remove_dir_all(part.path());
    }
    leftovers
}

/// A registered tree.
struct Tree {
    keeper: Pid,
    started: u64,
    mark: String,
}

impl Tree {
    /// `KEEPER.START.MARK.SERVER`.
    fn parse(name: &str) -> Option<Self> {
        let mut parts = name.split('.');
        let keeper = Pid::from_raw(parts.next()?.parse().ok()?)?;
        let started = parts.next()?.parse().ok()?;
        let mark = parts.next().filter(|mark| mark.len() == 32)?;
        parts.next()?;
        Some(Self {
            keeper,
            started,
            mark: mark.to_owned(),
        })
    }
}

fn end(trees: &[Tree], leftovers: &mut Leftovers) {
    if trees.is_empty() {
        return;
    }
    for round in 0..ROUNDS {
        let found = remains(trees);
        if found.is_empty() {
            return;
        }
        for kin in found {
            if round == 0 {
                leftovers.ended.push(kin.to_string());
            }
            kin.signal(Signal::KILL);
        }
        std::thread::yield_now();
    }
}

/// What still runs of these trees: whoever has a mark, and whoever is in a session that is surely
/// the tree's. A session's number alone proves nothing, as it may be another's by now; it is the
/// tree's while its keeper is there, or while somebody in it has the mark.
fn remains(trees: &[Tree]) -> Vec<Kin> {
    let all = native::table();
    let marks: Vec<(Kin, String)> = all
        .iter()
        .filter_map(|kin| Some((*kin, native::variable(kin.pid, MARK)?)))
        .collect();
    all.iter()
        .filter(|kin| {
            let own = marks.iter().find(|(it, _)| it == *kin);
            trees.iter().any(|tree| {
                let marked = own.is_some_and(|(_, mark)| *mark == tree.mark);
                let session = tree.keeper.as_raw_nonzero().get();
                let surely = || {
                    tree::is_running(tree.keeper, tree.started)
                        || marks
                            .iter()
                            .any(|(it, mark)| it.session == session && *mark == tree.mark)
                };
                marked || (kin.session == session && surely())
            })
        })
        .copied()
        .collect()
}

/// A server's name for a file's: letters, digits and underscores.
pub(super) fn plain(name: &str) -> String {
    let plain = |c: char| if c.is_ascii_alphanumeric() { c } else { '_' };
    name.chars().map(plain).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_trees_name_says_all() {
        let mark = mark();
        let tree = Tree::parse(&format!("42.777.{mark}.files")).expect("it is one");
        assert_eq!(
            (tree.keeper.as_raw_nonzero().get(), tree.started),
            (42, 777)
        );
        assert_eq!(tree.mark, mark);
        for other in ["lock", "42.777", "42.777.short.files", "0.1..x", "x.y.z.w"] {
            assert!(Tree::parse(other).is_none(), "{other}");
        }
    }

    #[test]
    fn only_parts_of_the_dead_are_settled() {
        let state = tempfile::tempdir().expect("a folder");
        let parts = || {
            fs::read_dir(state.path().join(FOLDER))
                .expect("listed")
                .count()
        };
        let (first, _) = Register::open(state.path()).expect("opened");
        let entry = first
            .enter(tree::this_process().0, &mark(), "a")
            .expect("noted");
        let (second, leftovers) = Register::open(state.path()).expect("opened");
        assert_eq!((parts(), leftovers), (2, Leftovers::default()));
        assert!(entry.path.exists(), "the living keep their part");
        drop(entry);
        drop((first, second));
        let (_third, leftovers) = Register::open(state.path()).expect("opened");
        assert_eq!((parts(), leftovers), (1, Leftovers::default()));
    }
}
