//! The one file of the memory: whole or not at all, whoever dies when, and never too large.
//!
//! Processes that share a folder take turns at a lock of its own; each reads, adds what it has
//! seen, and puts a new file in the old one's place. What is not understood is put aside, never
//! overwritten. It decides nothing about what is remembered.

use std::fs::File;
use std::io::{self, ErrorKind, Read as _, Write as _};
use std::path::{Path, PathBuf};

use data_encoding::HEXLOWER;
use serde::{Deserialize, Serialize};
use tracing::warn;

use super::book::Book;
use super::moment::Moment;
use crate::platform::{OpenOptionsExt as _, give_to_owner, sync_folder};

/// The file's name, and the names beside it.
const NAME: &str = "incidents.json";
const LOCK: &str = "incidents.lock";
const NEXT: &str = "incidents.json.next";
/// The largest file that is written.
pub const LARGEST: usize = 512 << 10;
/// The largest that is read: a later version may allow itself more.
const READ: u64 = 8 << 20;
/// What this version writes.
const FORMAT: u32 = 1;

/// What is in the file.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Kept {
    format: u32,
    /// What short hashes of values are made with.
    pub salt: String,
    /// The memory.
    #[serde(flatten)]
    pub book: Book,
}

/// As much of it as every version writes.
#[derive(Deserialize)]
struct Head {
    format: u32,
}

impl Default for Kept {
    /// Nothing yet.
    fn default() -> Self {
        Self {
            format: FORMAT,
            salt: HEXLOWER.encode(&crate::random::bytes::<16>()),
            book: Book::default(),
        }
    }
}

/// What was found.
#[derive(Debug)]
pub enum Found {
    /// The memory.
    Kept(Box<Kept>),
    /// There is no file.
    Nothing,
    /// A file that is none of ours, and why.
    Strange(String),
}

/// The memory's place.
#[derive(Clone, Debug)]
pub struct Place(PathBuf);

impl Place {
    /// In this folder, which is there.
    pub fn new(folder: PathBuf) -> Self {
        Self(folder)
    }

    /// The folder.
    pub fn folder(&self) -> &Path {
        &self.0
    }

    /// What is kept there now. Needs no turn: a file is replaced whole.
    ///
    /// # Errors
    /// When it is there and cannot be read.
    pub fn read(&self) -> io::Result<Found> {
        let file = match File::open(self.0.join(NAME)) {
            Ok(file) => file,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Found::Nothing),
            Err(error) => return Err(error),
        };
        let mut bytes = Vec::new();
        file.take(READ + 1).read_to_end(&mut bytes)?;
        if bytes.len() as u64 > READ {
            return Ok(Found::Strange("it is too large".to_owned()));
        }
        Ok(match serde_json::from_slice::<Head>(&bytes) {
            Ok(Head { format }) if format > FORMAT => {
                Found::Strange(format!("its format {format} is of a later version"))
            }
            Ok(_) => match serde_json::from_slice(&bytes) {
                Ok(kept) => Found::Kept(Box::new(kept)),
                Err(error) => Found::Strange(told(&error)),
            },
            Err(error) => Found::Strange(told(&error)),
        })
    }

    /// Changes what is kept, alone among all processes, and hands it back as it is now. `fresh` is
    /// what to begin with where there is nothing.
    ///
    /// # Errors
    /// When it cannot be read or written; then nothing has changed.
    pub fn change(&self, fresh: &Kept, change: impl FnOnce(&mut Book)) -> io::Result<Kept> {
        let lock = File::options()
            .create(true)
            .truncate(false)
            .write(true)
            .mode(0o600)
            .open(self.0.join(LOCK))?;
        // A look at a service's memory as root must not take it from the service.
        give_to_owner(&lock, &self.0)?;
        // Let go when the file is closed, also by a process that is killed.
        lock.lock()?;
        let mut kept = match self.read()? {
            Found::Kept(kept) => *kept,
            Found::Nothing => Kept {
                book: Book::default(),
                ..fresh.clone()
            },
            Found::Strange(why) => {
                self.put_aside(&why)?;
                Kept {
                    book: Book::default(),
                    ..fresh.clone()
                }
            }
        };
        change(&mut kept.book);
        kept.book.fit(LARGEST, Moment::now());
        self.write(&serde_json::to_vec(&kept)?)?;
        Ok(kept)
    }

    fn write(&self, text: &[u8]) -> io::Result<()> {
        let next = self.0.join(NEXT);
        let mut file = File::options()
            .create(true)
            .write(true)
            .truncate(true)
            .mode(0o600)
            .open(&next)?;
        give_to_owner(&file, &self.0)?;
        file.write_all(text)?;
        file.sync_all()?;
        std::fs::rename(&next, self.0.join(NAME))?;
        sync_folder(&self.0)
    }

    fn put_aside(&self, why: &str) -> io::Result<()> {
        let at = Moment::now().to_string().replace(':', "");
        let mut aside = self.0.join(format!("{NAME}.broken-{at}"));
        let mut count = 1;
        while aside.exists() && count < 100 {
            aside = self.0.join(format!("{NAME}.broken-{at}-{count}"));
            count += 1;
        }
        std::fs::rename(self.0.join(NAME), &aside)?;
        warn!(file = %self.0.join(NAME).display(), aside = %aside.display(), cause = %why,
            "Put the memory of incidents aside, which cannot be read, and began anew.");
        Ok(())
    }
}

/// Where it breaks, and nothing of what stands there.
fn told(error: &serde_json::Error) -> String {
    format!(
        "it breaks at line {}, column {}",
        error.line(),
        error.column()
    )
}

#[cfg(test)]
mod tests {
    use super::super::book::{Event, Failure, Sample};
    use super::super::{Phase, environment::Environment};
    use super::*;

    fn failed(id: &str) -> Event {
        Event::Failed(Box::new(Failure {
            id: id.to_owned(),
            server: "a".to_owned(),
            agent: None,
            phase: Phase::Start,
            ended: String::new(),
            what: "x".to_owned(),
            is_new_outage: true,
            remedy: None,
            environment: Environment::default(),
            sample: Sample {
                at: Moment::now(),
                cause: String::new(),
                words: Vec::new(),
            },
        }))
    }

    fn kept(place: &Place) -> Kept {
        match place.read().expect("it can be read") {
            Found::Kept(kept) => *kept,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn what_is_written_is_read_and_is_for_its_user_alone() {
        use std::os::unix::fs::PermissionsExt as _;
        let folder = tempfile::tempdir().expect("a folder");
        let place = Place::new(folder.path().to_owned());
        assert!(matches!(place.read(), Ok(Found::Nothing)));
        let fresh = Kept::default();
        let written = place
            .change(&fresh, |book| book.apply(&failed("p")))
            .expect("written");
        let read = kept(&place);
        assert_eq!((read.book, read.salt), (written.book, fresh.salt));
        for name in [NAME, LOCK] {
            let mode = folder
                .path()
                .join(name)
                .metadata()
                .expect("it is there")
                .permissions()
                .mode();
            assert_eq!(mode & 0o777, 0o600, "{name}");
        }
        assert!(!folder.path().join(NEXT).exists());
    }

    /// Only root can do the harm.
    #[test]
    fn what_root_writes_in_a_folder_of_another_user_is_that_users() {
        use std::os::unix::fs::MetadataExt as _;
        let folder = tempfile::tempdir().expect("a folder");
        if crate::platform::is_root() {
            std::os::unix::fs::chown(folder.path(), Some(65532), Some(65532)).expect("root may");
        }
        let owner = folder.path().metadata().expect("it is there");
        let place = Place::new(folder.path().to_owned());
        place
            .change(&Kept::default(), |book| book.apply(&failed("p")))
            .expect("written");
        for name in [NAME, LOCK] {
            let kept = folder.path().join(name).metadata().expect("it is there");
            assert_eq!(
                (kept.uid(), kept.gid()),
                (owner.uid(), owner.gid()),
                "{name}"
            );
        }
    }

    #[test]
    fn what_is_not_understood_is_put_aside_and_not_lost() {
        for text in [
            "{\"format\":1,\"salt\":\"s\",\"patterns\":{\"p\":",
            "not json at all",
            "{\"format\":2,\"salt\":\"s\",\"patterns\":[]}",
            "",
            "[1]",
            "{\"format\":1,\"salt\":\"s\",\"patterns\":{\"p\":{}}}",
        ] {
            let folder = tempfile::tempdir().expect("a folder");
            let place = Place::new(folder.path().to_owned());
            std::fs::write(folder.path().join(NAME), text).expect("written");
            assert!(matches!(place.read(), Ok(Found::Strange(_))), "{text}");
            place
                .change(&Kept::default(), |book| book.apply(&failed("p")))
                .expect("written");
            assert_eq!(kept(&place).book.patterns.len(), 1);
            let aside = std::fs::read_dir(folder.path())
                .expect("listed")
                .filter_map(Result::ok);
            let aside: Vec<_> = aside
                .filter(|entry| entry.file_name().to_string_lossy().contains(".broken-"))
                .map(|entry| std::fs::read_to_string(entry.path()).expect("read"))
                .collect();
            assert_eq!(aside, [text]);
        }
    }

    #[test]
    fn many_writers_lose_nothing() {
        let folder = tempfile::tempdir().expect("a folder");
        let writer = |name: usize| {
            // Of its own, as another process would have.
            let place = Place::new(folder.path().to_owned());
            for n in 0..20 {
                place
                    .change(&Kept::default(), |book| {
                        book.apply(&failed(&format!("p{name}-{n}")));
                    })
                    .expect("written");
            }
        };
        std::thread::scope(|scope| {
            for name in 0..4 {
                scope.spawn(move || writer(name));
            }
        });
        assert_eq!(
            kept(&Place::new(folder.path().to_owned()))
                .book
                .patterns
                .len(),
            80
        );
    }
}
