//! Where a command's program is, before anything is started: so that a missing one is a sentence
//! and not an exit code.
//!
//! Looks with the server's PATH and working directory, which are not chillgate's. It looks only.

use std::path::{Path, PathBuf};

use super::{Launch, SpawnError};
use crate::platform;

/// The program's absolute path, checked to be there and executable.
pub(super) fn locate(launch: &Launch) -> Result<PathBuf, SpawnError> {
    let name = launch
        .command
        .first()
        .filter(|name| !name.is_empty())
        .ok_or(SpawnError::Empty)?;
    let here = launch.cwd.as_deref().unwrap_or(Path::new("."));
    let here = std::path::absolute(here).map_err(SpawnError::Keeper)?;
    if !here.is_dir() {
        return Err(SpawnError::Directory(here));
    }
    let path = launch
        .env
        .iter()
        .find(|(key, _)| platform::same_variable(key, "PATH"));
    let path = path.map_or(platform::DEFAULT_PATH, |(_, value)| value);
    look(name, &here, path, platform::endings(&launch.env))
}

/// `endings` are those that a name may be written without, as `PATHEXT` has them.
fn look(name: &str, here: &Path, path: &str, endings: Option<&str>) -> Result<PathBuf, SpawnError> {
    let names = spellings(name, endings);
    let mut plain = None;
    if name.contains(std::path::is_separator) {
        let mut is_directory = false;
        for candidate in names.iter().map(|name| here.join(name)) {
            match judge(&candidate) {
                Found::Program => return Ok(candidate),
                Found::Plain => plain = plain.or(Some(candidate)),
                Found::Directory => is_directory = true,
                Found::Nothing => {}
            }
        }
        let as_written = here.join(name);
        return Err(match plain {
            Some(path) => SpawnError::NotExecutable(path),
            None if is_directory || as_written.is_dir() => SpawnError::IsDirectory(as_written),
            None => SpawnError::Missing(as_written),
        });
    }
    // An empty part means the working directory, as it does for a shell.
    for folder in std::env::split_paths(path).map(|part| here.join(part)) {
        for candidate in names.iter().map(|name| folder.join(name)) {
            match judge(&candidate) {
                Found::Program => return Ok(candidate),
                Found::Plain => plain = plain.or(Some(candidate)),
                Found::Directory | Found::Nothing => {}
            }
        }
    }
    match plain {
        Some(path) => Err(SpawnError::NotExecutable(path)),
        None => Err(SpawnError::NotFound {
            program: name.to_owned(),
            path: path.to_owned(),
        }),
    }
}

/// The names of files that are meant by a name. Where programs have endings, one without is never a
/// program: beside `npx.cmd` lies an `npx` for other systems.
fn spellings(name: &str, endings: Option<&str>) -> Vec<String> {
    let Some(endings) = endings else {
        return vec![name.to_owned()];
    };
    let endings: Vec<&str> = endings.split(';').filter(|it| it.len() > 1).collect();
    let has_one = endings.iter().any(|ending| {
        let start = name.len().checked_sub(ending.len());
        let last = start.and_then(|start| name.get(start..));
        last.is_some_and(|last| last.eq_ignore_ascii_case(ending))
    });
    if has_one {
        return vec![name.to_owned()];
    }
    let written = endings
        .iter()
        .map(|ending| format!("{name}{}", ending.to_ascii_lowercase()));
    written.collect()
}

enum Found {
    Program,
    Plain,
    Directory,
    Nothing,
}

fn judge(path: &Path) -> Found {
    match path.metadata() {
        Ok(meta) if meta.is_dir() => Found::Directory,
        Ok(_) if platform::is_executable(path) => Found::Program,
        Ok(_) => Found::Plain,
        Err(_) => Found::Nothing,
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn launch(command: &str, path: &str) -> Launch {
        Launch {
            name: "test".to_owned(),
            command: vec![command.to_owned()],
            env: vec![("PATH".to_owned(), path.to_owned())],
            ..Launch::default()
        }
    }

    #[test]
    fn a_missing_program_is_told_with_the_path_that_was_searched() {
        let error = locate(&launch("no-such-npx", "/nowhere:/bin")).expect_err("it is not there");
        assert_eq!(
            error.to_string(),
            r#""no-such-npx" was not found in PATH=/nowhere:/bin; install it or write its full path"#
        );
        let error = locate(&launch("/nowhere/npx", "/bin")).expect_err("it is not there");
        assert!(
            error.to_string().contains("/nowhere/npx does not exist"),
            "{error}"
        );
    }

    #[test]
    fn a_program_is_found_where_the_servers_own_path_says() {
        assert!(
            locate(&launch("sh", "/nowhere:/bin"))
                .expect("sh is there")
                .ends_with("sh")
        );
        let mut without = launch("sh", "");
        without.env.clear();
        assert!(locate(&without).expect("sh is there").is_absolute());
    }

    #[test]
    fn a_file_that_is_no_program_is_told_as_such() {
        let dir = tempfile::tempdir().expect("a directory");
        let file = dir.path().join("server");
        fs::write(&file, "#!/bin/sh\n").expect("written");
        let spelled = file.to_str().expect("UTF-8").to_owned();
        let by_path = launch("server", dir.path().to_str().expect("UTF-8"));
        for launch in [&launch(&spelled, "/bin"), &by_path] {
            let error = locate(launch).expect_err("no execute bit");
            assert!(error.to_string().contains("is not executable"), "{error}");
        }
        fs::set_permissions(&file, fs::Permissions::from_mode(0o755)).expect("permitted");
        assert_eq!(locate(&by_path).expect("it is a program now"), file);
        let error = locate(&launch("/bin/", "/bin")).expect_err("a directory");
        assert!(error.to_string().contains("is a directory"), "{error}");
    }

    #[test]
    fn a_relative_program_belongs_to_the_working_directory() {
        let dir = tempfile::tempdir().expect("a directory");
        std::os::unix::fs::symlink("/bin/sh", dir.path().join("mine")).expect("linked");
        let mut launch = launch("./mine", "/bin");
        launch.cwd = Some(dir.path().to_owned());
        assert!(
            locate(&launch)
                .expect("it is there")
                .starts_with(dir.path())
        );
        launch.cwd = Some(dir.path().join("gone"));
        assert!(matches!(locate(&launch), Err(SpawnError::Directory(_))));
        launch.command.clear();
        assert!(matches!(locate(&launch), Err(SpawnError::Empty)));
    }

    #[test]
    fn where_programs_have_endings_a_name_is_found_by_them() {
        const ENDINGS: &str = ".COM;.EXE;.BAT;.CMD";
        let dir = tempfile::tempdir().expect("a directory");
        for name in ["npx", "npx.cmd", "npx.ps1", "uvx.exe", "uvx.cmd", "tool.v2"] {
            let file = dir.path().join(name);
            fs::write(&file, "").expect("written");
            fs::set_permissions(&file, fs::Permissions::from_mode(0o755)).expect("permitted");
        }
        let path = dir.path().to_str().expect("UTF-8");
        let find = |name: &str| {
            let found = look(name, dir.path(), path, Some(ENDINGS)).ok()?;
            Some(found.strip_prefix(dir.path()).ok()?.display().to_string())
        };
        assert_eq!(
            find("npx").as_deref(),
            Some("npx.cmd"),
            "not the script for a shell"
        );
        assert_eq!(
            find("uvx").as_deref(),
            Some("uvx.exe"),
            "in the order of PATHEXT"
        );
        assert_eq!(
            find("uvx.CMD"),
            None,
            "as written; this file system tells cases apart"
        );
        assert_eq!(find("uvx.cmd").as_deref(), Some("uvx.cmd"));
        assert_eq!(
            find("./npx").as_deref(),
            Some("./npx.cmd").map(|it| it.trim_start_matches("./"))
        );
        assert_eq!(find("tool.v2"), None, "no ending that PATHEXT knows");
        assert_eq!(find("npx.ps1"), None);
        let missing = look("./gone", dir.path(), path, Some(ENDINGS));
        assert!(matches!(missing, Err(SpawnError::Missing(path)) if path.ends_with("gone")));
    }
}
