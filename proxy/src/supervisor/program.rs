//! Where a command's program is, before anything is started: so that a missing one is a sentence
//! and not an exit code.
//!
//! Looks with the server's PATH and working directory, which are not chillgate's. It looks only.

use std::path::{Path, PathBuf};

use rustix::fs::{Access, access};

use super::{Launch, SpawnError};

/// Where `execvp` looks when there is no PATH.
const DEFAULT_PATH: &str = "/bin:/usr/bin";

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
    if name.contains('/') {
        let path = here.join(name);
        return match judge(&path) {
            Found::Program => Ok(path),
            Found::Plain => Err(SpawnError::NotExecutable(path)),
            Found::Directory => Err(SpawnError::IsDirectory(path)),
            Found::Nothing => Err(SpawnError::Missing(path)),
        };
    }
    let path = launch.env.iter().find(|(key, _)| key == "PATH");
    let path = path.map_or(DEFAULT_PATH, |(_, value)| value);
    let mut plain = None;
    // An empty part means the working directory, as it does for a shell.
    for candidate in path.split(':').map(|part| here.join(part).join(name)) {
        match judge(&candidate) {
            Found::Program => return Ok(candidate),
            Found::Plain => plain = plain.or(Some(candidate)),
            Found::Directory | Found::Nothing => {}
        }
    }
    match plain {
        Some(path) => Err(SpawnError::NotExecutable(path)),
        None => Err(SpawnError::NotFound {
            program: name.clone(),
            path: path.to_owned(),
        }),
    }
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
        Ok(_) if access(path, Access::EXEC_OK).is_ok() => Found::Program,
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
}
