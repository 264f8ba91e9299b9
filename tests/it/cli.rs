//! The command line as a person types it, right and wrong.
//!
//! It stands apart from the argument types' own tests because exit codes, and what goes to which
//! stream, are only seen from outside.

use chillgate_tests::gate::{bare, ended};

async fn run(args: &[&str]) -> (Option<i32>, String, String) {
    let mut command = bare();
    command.args(args);
    ended(command, 10).await
}

const SMALL: &str = "[server.a]\ncommand = [\"true\"]\n\
    [[policy]]\ntype = \"quota\"\nname = \"calls\"\nmatch = { method = \"tools/call\" }\nper = \"agent\"\nallow = \"60/min\"\n\
    [[policy]]\ntype = \"access\"\nname = \"interns\"\nmatch = { agent = \"intern-*\" }\ndeny = [\"a__delete_*\"]\n\
    [[policy]]\ntype = \"boss-alert\"\nname = \"boss\"\nmode = \"shadow\"\nmatch = { tool = \"delete_*\" }\n";

#[tokio::test]
async fn help_and_version_teach_on_standard_output() {
    let (code, out, err) = run(&["--help"]).await;
    assert_eq!((code, err.as_str()), (Some(0), ""));
    for verb in [
        "serve", "wrap", "connect", "chill", "check", "explain", "key",
    ] {
        assert!(out.contains(verb), "{verb} is not in --help: {out}");
        let (code, help, _) = run(&[verb, "--help"]).await;
        assert_eq!(code, Some(0), "{verb}");
        assert!(
            help.contains("chillgate ") && help.len() > 200,
            "{verb} --help teaches nothing: {help}"
        );
    }
    assert!(!out.contains("__keep"), "{out}");
    let (code, out, _) = run(&["--version"]).await;
    assert!(
        code == Some(0) && out.starts_with("chillgate ") && out.trim().contains('.'),
        "{out}"
    );
}

#[tokio::test]
async fn a_mistyped_command_is_answered_with_the_line_to_type() {
    for (typed, said) in [
        (vec!["serv"], "serve"),
        (
            vec!["wrap", "npx", "some-server"],
            "chillgate wrap -- npx some-server",
        ),
        (vec!["server.toml"], "chillgate serve --config server.toml"),
        (vec!["wrap"], "--"),
        (vec!["connect"], "URL"),
        (vec!["serve", "--conifg", "x"], "--config"),
    ] {
        let (code, out, err) = run(&typed).await;
        assert_eq!((code, out.as_str()), (Some(2), ""), "{typed:?}: {err}");
        assert!(err.contains(said), "{typed:?}: `{said}` is not in: {err}");
    }
}

#[tokio::test]
async fn a_program_that_is_not_there_is_said_in_plain_words() {
    let (code, _, err) = run(&["wrap", "--", "no-such-program-here"]).await;
    assert!(code.is_some_and(|code| code != 0), "{err}");
    assert!(err.contains("no-such-program-here"), "{err}");
}

#[tokio::test]
async fn explain_prints_the_chain_in_its_order() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("chillgate.toml");
    std::fs::write(&file, SMALL).unwrap();
    let file = file.to_str().unwrap();
    let explain = [
        "explain",
        "tools/call",
        "--config",
        file,
        "--tool",
        "a__delete_all",
        "--agent",
        "intern-1",
    ];
    let (code, out, err) = run(&explain).await;
    assert_eq!(code, Some(0), "{err}");
    let at = |name: &str| {
        out.find(name)
            .unwrap_or_else(|| panic!("{name} is not in: {out}"))
    };
    assert!(
        at("interns") < at("calls") && at("calls") < at("boss"),
        "access, then quota, then holds: {out}"
    );
    assert!(out.contains("shadow"), "{out}");
}

#[tokio::test]
async fn check_of_a_good_file_is_quiet_success() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("chillgate.toml");
    std::fs::write(&file, SMALL).unwrap();
    let (code, out, err) = run(&["check", "--config", file.to_str().unwrap()]).await;
    assert_eq!(code, Some(0), "{out}{err}");
}

#[tokio::test]
async fn a_key_is_printed_once_with_the_line_that_lets_it_in() {
    let (code, out, _) = run(&["key", "agent-a"]).await;
    assert_eq!(code, Some(0));
    let key = out.lines().next().unwrap();
    assert!(key.starts_with("cg_") && key.len() >= 43, "{key}");
    let line = out.lines().find(|line| line.contains("sha256:")).unwrap();
    assert!(line.contains("agent-a") && !line.contains(key), "{line}");
    let (_, again, _) = run(&["key", "agent-a"]).await;
    assert_ne!(again.lines().next().unwrap(), key, "two keys are the same");
}

/// `chillgate incidents` with these arguments, over this state folder: code, output, errors.
async fn incidents(args: &[&str], state: &std::path::Path) -> (Option<i32>, String, String) {
    let mut command = bare();
    command
        .arg("incidents")
        .args(args)
        .env("XDG_STATE_HOME", state);
    ended(command, 10).await
}

#[tokio::test]
async fn incidents_of_a_configuration_that_cannot_be_read_are_nobodys() {
    let folder = tempfile::tempdir().unwrap();
    let broken = folder.path().join("broken.toml");
    std::fs::write(&broken, "[server.a]\ncommand = 7\n").unwrap();
    let absent = folder.path().join("absent.toml");
    for file in [&broken, &absent] {
        let file = file.to_str().unwrap();
        let (code, out, err) = incidents(&["--config", file], folder.path()).await;
        let (other, _, told) = run(&["doctor", "--config", file]).await;
        assert_eq!((code, out.as_str()), (Some(2), ""), "{err}");
        assert_eq!((code, &err), (other, &told), "as the doctor says it");
        assert!(err.contains(file), "{err}");
    }
}

#[tokio::test]
async fn incidents_of_a_server_that_nobody_knows_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("chillgate.toml");
    std::fs::write(&file, SMALL).unwrap();
    let with = ["--config", file.to_str().unwrap(), "--server"];
    let (code, out, err) = incidents(&[&with[..], &["nosuch"]].concat(), folder.path()).await;
    assert_eq!((code, out.as_str()), (Some(2), ""), "{err}");
    assert!(
        err.contains("there is no server \"nosuch\"") && err.contains("`a`"),
        "{err}"
    );
    let (code, _, err) = incidents(&[&with[..], &["a"]].concat(), folder.path()).await;
    assert_eq!(code, Some(0), "one that is configured has none: {err}");
}

#[tokio::test]
async fn a_state_folder_that_cannot_be_used_is_told_as_that() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("file");
    std::fs::write(&file, "").unwrap();
    let (code, _, err) = incidents(&[], &file).await;
    assert_eq!(code, Some(2), "{err}");
    assert!(
        err.contains("file/chillgate cannot be used: Not a directory") && !err.contains("set HOME"),
        "{err}"
    );

    let state = file.to_str().unwrap();
    let gate = chillgate_tests::Gate::with("[server.chill]\nbuiltin = \"chill\"\n");
    let gate = gate.env("XDG_STATE_HOME", state).start().await;
    let lines = gate.log();
    let told: Vec<_> = lines
        .iter()
        .filter(|line| line.contains("remembered by this process only"))
        .collect();
    assert_eq!(told.len(), 1, "{lines:#?}");
    assert!(
        told[0].contains("WARN") && told[0].contains("file/chillgate cannot be used"),
        "{told:?}"
    );
    drop(gate.stop().await);
}
