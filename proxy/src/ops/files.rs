//! File runbooks: reading, listing and writing below declared folders, and nowhere else.
//!
//! The kernel does the holding back: every path is opened beneath its folder by `openat2`, which
//! refuses `..`, absolute links and links that lead out, whatever is swapped meanwhile. Only plain
//! files are opened for their bytes. A file is written whole beside the old one and renamed over it.

use std::os::fd::AsFd;
use std::path::Path;
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use chillgate_ops::{Done, Plan};
use rustix::fs::{
    AtFlags, Dir, FileType, Mode, OFlags, fchmod, fchown, fstat, fsync, openat, renameat, statat,
    unlinkat,
};
use rustix::io::Errno;
use rustix::process::{Gid, Uid};
use serde_json::{Map, Value, json};
use tracing::info;

use crate::config::runbook::{FileRunbook, Runbook};
use crate::lock::locked;

mod beneath;
mod bytes;
mod place;

use beneath::{beneath, open_plain};
use bytes::{hash, hash_all, read_all, write_all};
use place::{Place, place};

/// The most entries of a folder that are listed.
const ENTRIES: usize = 1000;

/// One write at a time: what a write expects of a file is still so when it is replaced by another.
#[derive(Clone, Debug, Default)]
pub(super) struct Writing(Arc<Mutex<()>>);

/// A call that fits its runbook.
pub(super) struct FilePlan {
    runbook: String,
    agent: String,
    place: Place,
    work: Job,
    max_size: usize,
    confirm: bool,
    writing: Writing,
}

enum Job {
    Read,
    List,
    Write {
        content: String,
        expect: Option<Expect>,
    },
}

/// What a file must be before it is written.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Expect {
    Absent,
    Sha256(String),
}

/// Judges a call.
pub(super) fn plan(
    runbook: &Runbook,
    work: &FileRunbook,
    tool: &str,
    arguments: &Map<String, Value>,
    agent: &str,
    writing: &Writing,
) -> Result<FilePlan, String> {
    let verb = tool.strip_prefix(runbook.name.as_str()).unwrap_or_default();
    let known: &[&str] = match verb {
        "_write" => &["path", "content", "expect"],
        _ => &["path"],
    };
    if let Some(stranger) = arguments.keys().find(|key| !known.contains(&key.as_str())) {
        let stranger: String = stranger.chars().take(64).collect();
        return Err(format!(
            "there is no argument {stranger:?}: it takes {}",
            known.join(", ")
        ));
    }
    let text = |key: &str| match arguments.get(key) {
        None => Ok(None),
        Some(Value::String(text)) => Ok(Some(text.as_str())),
        Some(_) => Err(format!("`{key}` must be a string")),
    };
    let path = match (text("path")?, verb) {
        (Some(path), _) => path,
        (None, "_list") => ".",
        (None, _) => return Err("`path` is missing".to_owned()),
    };
    let place = place(&work.roots, path)?;
    let job = match verb {
        "_read" => Job::Read,
        "_list" => Job::List,
        "_write" => {
            let content = text("content")?.ok_or("`content` is missing")?.to_owned();
            if content.len() > work.max_size {
                return Err(format!(
                    "`content` has {} bytes, and {} are allowed",
                    content.len(),
                    work.max_size
                ));
            }
            let expect = text("expect")?.map(Expect::parse).transpose()?;
            Job::Write { content, expect }
        }
        _ => return Err("there is no such tool".to_owned()),
    };
    if !matches!(job, Job::List) && place.below == Path::new(".") {
        return Err("`path` is the folder itself; name a file in it".to_owned());
    }
    Ok(FilePlan {
        runbook: runbook.name.clone(),
        agent: agent.to_owned(),
        place,
        work: job,
        max_size: work.max_size,
        confirm: runbook.confirm,
        writing: writing.clone(),
    })
}

impl Expect {
    fn parse(text: &str) -> Result<Self, String> {
        let is_hash = text.len() == 64 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
        match text {
            "absent" => Ok(Self::Absent),
            hash if is_hash => Ok(Self::Sha256(hash.to_ascii_lowercase())),
            _ => Err(
                "`expect` must be the sha256 that reading the file told, or `absent`".to_owned(),
            ),
        }
    }
}

#[async_trait]
impl Plan for FilePlan {
    fn question(&self) -> Option<String> {
        match &self.work {
            Job::Write { content, .. } if self.confirm => Some(format!(
                "May {} write {} bytes to {}? ({})",
                self.agent,
                content.len(),
                self.place.shown(),
                self.runbook
            )),
            _ => None,
        }
    }

    async fn carry_out(self: Box<Self>) -> Done {
        let told = tokio::task::spawn_blocking(move || {
            let done = self.carry_out_here();
            let (verb, path) = (self.verb(), self.place.shown());
            let (runbook, agent, fine) = (&self.runbook, &self.agent, done.is_ok());
            info!(%runbook, %agent, verb, %path, fine, "A file runbook was used.");
            done
        });
        match told.await {
            Ok(Ok((structured, text))) => Done {
                structured,
                text,
                failed: false,
            },
            Ok(Err(why)) => failed(why),
            Err(error) => failed(format!("it broke off: {error}")),
        }
    }
}

fn failed(text: String) -> Done {
    Done {
        structured: json!({"error": text}),
        text,
        failed: true,
    }
}

type Told = (Value, String);

impl FilePlan {
    fn verb(&self) -> &'static str {
        match self.work {
            Job::Read => "read",
            Job::List => "list",
            Job::Write { .. } => "write",
        }
    }

    fn carry_out_here(&self) -> Result<Told, String> {
        let said = |error: Errno| self.place.said(error);
        let root = self.place.open_root()?;
        match &self.work {
            Job::Read => {
                let file =
                    open_plain(&root, &self.place.below).map_err(|why| why.said(&self.place))?;
                let bytes = read_all(&file, self.max_size)
                    .map_err(|why| format!("{} {why}", self.place.shown()))?;
                let sha256 = hash(&bytes);
                let size = bytes.len();
                let text = String::from_utf8(bytes).map_err(|_| {
                    format!(
                        "{} is no UTF-8 text ({size} bytes, sha256 {sha256})",
                        self.place.shown()
                    )
                })?;
                let told = json!({
                    "path": self.place.shown(), "size": size, "sha256": sha256, "text": text,
                });
                Ok((told, text))
            }
            Job::List => self.list(&root).map_err(said),
            Job::Write { content, expect } => {
                let _one = locked(&self.writing.0);
                self.write(&root, content, expect.as_ref())
            }
        }
    }

    fn list(&self, root: &impl AsFd) -> Result<Told, Errno> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC | OFlags::NONBLOCK;
        let folder = beneath(root, &self.place.below, flags)?;
        let mut entries = Vec::new();
        let mut more = false;
        for entry in Dir::read_from(&folder)? {
            let entry = entry?;
            let name = entry.file_name();
            if name == c"." || name == c".." {
                continue;
            }
            if entries.len() == ENTRIES {
                more = true;
                break;
            }
            // What vanished meanwhile is not listed.
            let Ok(stat) = statat(&folder, name, AtFlags::SYMLINK_NOFOLLOW) else {
                continue;
            };
            let kind = match FileType::from_raw_mode(stat.st_mode) {
                FileType::RegularFile => "file",
                FileType::Directory => "folder",
                FileType::Symlink => "link",
                _ => "other",
            };
            let name = name.to_string_lossy().into_owned();
            entries.push((name, kind, u64::try_from(stat.st_size).unwrap_or_default()));
        }
        entries.sort();
        let text: Vec<String> = entries
            .iter()
            .map(|(name, kind, size)| format!("{kind:6} {size:>10} {name}"))
            .collect();
        let listed: Vec<Value> = entries
            .iter()
            .map(|(name, kind, size)| json!({"name": name, "kind": kind, "size": size}))
            .collect();
        let told = json!({"path": self.place.shown(), "entries": listed, "more": more});
        Ok((told, text.join("\n")))
    }

    fn write(
        &self,
        root: &impl AsFd,
        content: &str,
        expect: Option<&Expect>,
    ) -> Result<Told, String> {
        let shown = self.place.shown();
        let said = |error: Errno| self.place.said(error);
        let name = self.place.below.file_name();
        let name = name.ok_or_else(|| format!("{shown} names no file"))?;
        let folder = match self.place.below.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent,
            _ => Path::new("."),
        };
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let folder = beneath(root, folder, flags).map_err(said)?;
        let old = match statat(&folder, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => Some(stat),
            Err(Errno::NOENT) => None,
            Err(error) => return Err(said(error)),
        };
        if let Some(stat) = &old
            && FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile
        {
            return Err(format!(
                "{shown} is no plain file: links, folders and devices are not written"
            ));
        }
        let before = if old.is_some() {
            let file = open_plain(&folder, Path::new(name)).map_err(|why| why.said(&self.place))?;
            Some(hash_all(&file).map_err(|why| format!("{shown} {why}"))?)
        } else {
            None
        };
        match (expect, &before) {
            (Some(Expect::Absent), Some(now)) => {
                return Err(format!(
                    "{shown} is there already (sha256 {now}); read it first"
                ));
            }
            (Some(Expect::Sha256(_)), None) => {
                return Err(format!("{shown} is not there any more"));
            }
            (Some(Expect::Sha256(wanted)), Some(now)) if wanted != now => {
                return Err(format!(
                    "{shown} has changed since you read it: it has the sha256 {now} now; read it again"
                ));
            }
            _ => {}
        }
        let temporary = format!(".chillgate-{}", crate::session::random_id());
        let flags =
            OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        // A new file is everybody's as far as chillgate's umask says; one that is replaced keeps what it
        // allowed, but for setuid and setgid, which are not for a content that an agent chose.
        let mode = if old.is_some() { 0o600 } else { 0o666 };
        let new = openat(&folder, &temporary, flags, Mode::from_raw_mode(mode)).map_err(said)?;
        let written = (|| {
            write_all(&new, content.as_bytes()).map_err(|error| format!("{shown}: {error}"))?;
            match &old {
                None => {}
                Some(old) => {
                    let own = fstat(&new).map_err(said)?;
                    if (own.st_uid, own.st_gid) != (old.st_uid, old.st_gid) {
                        let (user, group) = (Uid::from_raw(old.st_uid), Gid::from_raw(old.st_gid));
                        fchown(&new, Some(user), Some(group)).map_err(|_| {
                            format!(
                                "{shown} belongs to another user or group, which could not be kept"
                            )
                        })?;
                    }
                    fchmod(&new, Mode::from_raw_mode(old.st_mode & 0o777)).map_err(said)?;
                }
            }
            fsync(&new).map_err(said)?;
            renameat(&folder, &temporary, &folder, name).map_err(said)
        })();
        if let Err(why) = written {
            let _ = unlinkat(&folder, &temporary, AtFlags::empty());
            return Err(why);
        }
        let _ = fsync(&folder);
        let sha256 = hash(content.as_bytes());
        let text = match &before {
            None => format!(
                "wrote {shown}, which is new: {} bytes, sha256 {sha256}",
                content.len()
            ),
            Some(before) => format!(
                "wrote {shown}: {} bytes, sha256 {sha256}, before {before}",
                content.len()
            ),
        };
        let told = json!({
            "path": shown, "size": content.len(), "before_sha256": before, "sha256": sha256,
        });
        Ok((told, text))
    }
}
