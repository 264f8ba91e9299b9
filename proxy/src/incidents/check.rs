//! The checks of remedies: one look at the machine each, without a side effect.
//!
//! What is looked at may come from what a server wrote, so that nothing of a file's content is ever
//! told, and nothing but plain files and folders is opened. No process is started.

use std::fs::File;
use std::io::{ErrorKind, Read as _, Seek as _, SeekFrom};
use std::net::{Ipv4Addr, TcpListener};
use std::path::{Path, PathBuf};

use crate::config::remedy::Check;
use crate::platform;
use crate::supervisor::{Launch, look_for};

/// The largest file that is parsed.
const LARGEST: u64 = 1 << 20;
/// So much of a log file's end is read.
const TAIL: u64 = 64 << 10;
/// The last lines of a log file that count.
const LINES: usize = 20;
/// With less room than this a disk is full.
const ROOM: u64 = 1 << 20;

impl Check {
    /// What it is about, in one word of a closed set.
    pub fn kind(&self) -> &'static str {
        match self {
            Self {
                program: Some(_), ..
            } => "program",
            Self {
                variable: Some(_), ..
            } => "variable",
            Self { port: Some(_), .. } => "port",
            Self { disk: true, .. } => "disk",
            Self {
                parses: Some(_), ..
            } => "parses",
            Self {
                readable: Some(_), ..
            } => "readable",
            _ => "log",
        }
    }

    /// Looks, for a server that would be started like this.
    ///
    /// # Errors
    /// What is wrong, in words.
    pub fn run(&self, launch: &Launch) -> Result<(), String> {
        if let Some(name) = &self.program {
            program(name, launch)?;
        }
        if let Some(name) = &self.variable {
            let value = launch.env.iter().find(|(known, _)| known == name);
            if value.is_none_or(|(_, value)| value.is_empty()) {
                return Err(format!("the server is not given the variable {name}"));
            }
        }
        if let Some(text) = &self.port
            && let Ok(number) = text.parse()
        {
            port(number)?;
        }
        if self.disk {
            disk(launch)?;
        }
        if let Some(path) = &self.parses {
            parses(&at(path, launch))?;
        }
        if let Some(path) = &self.readable {
            readable(&at(path, launch))?;
        }
        if let (Some(path), Some(text)) = (&self.log, &self.text) {
            let path = at(path, launch);
            if last_lines(&path)
                .iter()
                .any(|line| text.regex().is_match(line))
            {
                return Err(format!(
                    "the last lines of {} have it again",
                    path.display()
                ));
            }
        }
        Ok(())
    }

    /// The same once the server runs, which may itself have the port by now.
    ///
    /// # Errors
    /// What is wrong, in words.
    pub fn run_beside(&self, launch: &Launch) -> Result<(), String> {
        let rest = Self {
            port: None,
            ..self.clone()
        };
        rest.run(launch)
    }
}

/// A path as the server would take it.
fn at(path: &str, launch: &Launch) -> PathBuf {
    match &launch.cwd {
        Some(folder) => folder.join(path),
        None => PathBuf::from(path),
    }
}

fn program(name: &str, launch: &Launch) -> Result<(), String> {
    let wanted = Launch {
        command: vec![name.to_owned()],
        ..launch.clone()
    };
    look_for(&wanted).map_err(|error| error.to_string())
}

fn port(number: u16) -> Result<(), String> {
    for address in [Ipv4Addr::LOCALHOST, Ipv4Addr::UNSPECIFIED] {
        // Bound and let go; what else can go wrong says nothing about the port.
        if let Err(error) = TcpListener::bind((address, number))
            && error.kind() == ErrorKind::AddrInUse
        {
            return Err(format!("port {number} is in use"));
        }
    }
    Ok(())
}

fn disk(launch: &Launch) -> Result<(), String> {
    let temporary = platform::temporary(&launch.env);
    let here = launch.cwd.as_deref().unwrap_or(Path::new("."));
    for folder in [here, Path::new(temporary)] {
        let Some(disk) = platform::disk(folder) else {
            continue;
        };
        if disk.no_more_files || disk.available.is_some_and(|bytes| bytes < ROOM) {
            return Err(format!("the disk of {} is full", folder.display()));
        }
    }
    Ok(())
}

fn readable(path: &Path) -> Result<(), String> {
    let told = |error: std::io::Error| format!("{}: {error}", path.display());
    let meta = path.metadata().map_err(told)?;
    if meta.is_dir() {
        std::fs::read_dir(path).map(drop).map_err(told)
    } else if meta.is_file() {
        File::open(path).map(drop).map_err(told)
    } else {
        Ok(())
    }
}

fn parses(path: &Path) -> Result<(), String> {
    readable(path)?;
    let is_small = path
        .metadata()
        .is_ok_and(|meta| meta.is_file() && meta.len() <= LARGEST);
    let extension = path.extension().and_then(|extension| extension.to_str());
    let Some(kind @ ("json" | "toml")) = extension.filter(|_| is_small) else {
        return Ok(());
    };
    let mut text = String::new();
    let read = File::open(path).and_then(|file| file.take(LARGEST).read_to_string(&mut text));
    read.map_err(|error| format!("{}: {error}", path.display()))?;
    // Where it breaks, and nothing of what stands there.
    let place = match kind {
        "json" => serde_json::from_str::<serde::de::IgnoredAny>(&text)
            .err()
            .map(|error| error.line()),
        _ => text.parse::<toml_edit::DocumentMut>().err().map(|error| {
            let at = error.span().map_or(0, |span| span.start);
            text.get(..at).unwrap_or_default().matches('\n').count() + 1
        }),
    };
    match place {
        Some(line) => Err(format!("{} is not {kind} (line {line})", path.display())),
        None => Ok(()),
    }
}

/// The last lines of a plain file; none where there is none.
fn last_lines(path: &Path) -> Vec<String> {
    let is_plain = path.metadata().is_ok_and(|meta| meta.is_file());
    let Some(mut file) = is_plain.then(|| File::open(path).ok()).flatten() else {
        return Vec::new();
    };
    let size = file.metadata().map_or(0, |meta| meta.len());
    let mut bytes = Vec::new();
    let read = file
        .seek(SeekFrom::Start(size.saturating_sub(TAIL)))
        .and_then(|_| file.take(TAIL).read_to_end(&mut bytes));
    if read.is_err() {
        return Vec::new();
    }
    let text = String::from_utf8_lossy(&bytes);
    let mut lines: Vec<String> = text.lines().rev().take(LINES).map(str::to_owned).collect();
    lines.reverse();
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    fn launch(folder: &Path) -> Launch {
        let env = [("PATH", "/bin:/usr/bin"), ("GIVEN", "x"), ("EMPTY", "")];
        Launch {
            name: "a".to_owned(),
            command: vec!["sh".to_owned()],
            env: env
                .map(|(name, value)| (name.to_owned(), value.to_owned()))
                .into(),
            cwd: Some(folder.to_owned()),
            ..Launch::default()
        }
    }

    fn check(text: &str) -> Check {
        toml_edit::de::from_str(text).expect("a check")
    }

    #[test]
    fn each_check_fails_with_its_reason_and_passes_without() {
        let folder = tempfile::tempdir().expect("a folder");
        let launch = launch(folder.path());
        let fails = |text: &str| check(text).run(&launch).err();
        let write = |name: &str, text: &str| {
            std::fs::write(folder.path().join(name), text).expect("written");
        };
        assert_eq!(fails("program = \"sh\""), None);
        let said = fails("program = \"no-such-thing\"").expect("it is not there");
        assert!(said.contains("was not found in PATH"), "{said}");
        assert_eq!(fails("variable = \"GIVEN\""), None);
        assert!(fails("variable = \"EMPTY\"").is_some());
        let said = fails("variable = \"ABSENT\"").expect("it is not given");
        assert!(said.contains("ABSENT"), "{said}");
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("bound");
        let number = listener.local_addr().expect("an address").port();
        let taken = format!("port = {number}");
        assert_eq!(fails(&taken), Some(format!("port {number} is in use")));
        drop(listener);
        assert_eq!(fails(&taken), None);
        assert_eq!(fails("disk = true"), None);
        assert!(fails("readable = \"gone.txt\"").is_some());
        write("there.txt", "x");
        assert_eq!(fails("readable = \"there.txt\""), None);
        assert_eq!(fails("readable = \".\""), None);
        write("a.json", "{\n\"planted\": }");
        let said = fails("parses = \"a.json\"").expect("it is no JSON");
        assert!(
            said.contains("not json (line 2)") && !said.contains("planted"),
            "{said}"
        );
        write("a.json", "{}");
        assert_eq!(fails("parses = \"a.json\""), None);
        write("a.toml", "a = 1\nb =\n");
        let said = fails("parses = \"a.toml\"").expect("it is no TOML");
        assert!(said.contains("line 2"), "{said}");
        let log = "log = \"a.log\"\ntext = 'fatal: \\w+'";
        assert_eq!(fails(log), None);
        write("a.log", "fine\nfatal: disk\nbye\n");
        assert!(fails(log).is_some());
        write("a.log", &format!("fatal: disk\n{}", "fine\n".repeat(LINES)));
        assert_eq!(fails(log), None);
    }

    #[test]
    fn a_full_disk_is_seen() {
        // Of every Linux file system this one alone is always full.
        let full = launch(Path::new("/proc"));
        let said = check("disk = true").run(&full).expect_err("it has no room");
        assert!(said.contains("/proc"), "{said}");
    }

    #[test]
    fn what_is_no_plain_file_is_not_opened() {
        let folder = tempfile::tempdir().expect("a folder");
        let launch = launch(folder.path());
        let pipe = folder.path().join("pipe.json");
        rustix::fs::mknodat(
            rustix::fs::CWD,
            &pipe,
            rustix::fs::FileType::Fifo,
            rustix::fs::Mode::RWXU,
            0,
        )
        .expect("made");
        // Opening it would wait for ever.
        assert_eq!(check("parses = \"pipe.json\"").run(&launch), Ok(()));
        assert_eq!(
            check("log = \"pipe.json\"\ntext = 'x'").run(&launch),
            Ok(())
        );
    }
}
