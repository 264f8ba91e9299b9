//! Command lines as people type them, and what they are told.
//!
//! Only reading: no verb is run.

use super::*;

fn read(line: &str) -> Result<Cli, Answer> {
    parse(line.split(' ').map(OsString::from))
}

fn told(line: &str) -> String {
    let answer = read(line).expect_err("a mistake");
    assert_eq!(answer.code, answer::CANNOT, "{line}: {}", answer.err);
    assert_eq!(answer.out, "", "{line}");
    answer.err
}

#[test]
fn a_persons_mistake_is_answered_with_the_line_to_type() {
    for (typed, help) in [
        ("chillgate wrap npx foo", "chillgate wrap -- npx foo"),
        (
            "chillgate wrap npx -y foo --bar",
            "chillgate wrap -- npx -y foo --bar",
        ),
        (
            "chillgate wrap --name a npx foo",
            "chillgate wrap --name a -- npx foo",
        ),
        (
            "chillgate --config p.toml wrap npx",
            "chillgate --config p.toml wrap -- npx",
        ),
        ("chillgate wrap", "chillgate wrap -- npx -y some-server"),
        ("chillgate wrap npx a;b", "chillgate wrap -- npx 'a;b'"),
        (
            "chillgate server.toml",
            "chillgate serve --config server.toml",
        ),
        (
            "chillgate https://mcp.example/mcp",
            "chillgate connect https://mcp.example/mcp",
        ),
        (
            "chillgate srve --listen 1.2.3.4:5",
            "chillgate serve --listen 1.2.3.4:5",
        ),
        ("chillgate chekc", "chillgate check"),
        (
            "chillgate npx -y some-server",
            "chillgate wrap -- npx -y some-server",
        ),
        ("chillgate frobnicate", "the commands are `serve`, `wrap`"),
    ] {
        let text = told(typed);
        assert!(text.contains(&format!("= help: {help}")), "{typed}: {text}");
        assert!(!text.contains("__keep"), "{typed}: {text}");
    }
}

#[test]
fn a_flag_of_chill_out_of_range_is_one_line_with_flag_and_range() {
    for (typed, flag, range) in [
        (
            "--boss_alertness 150",
            "--boss_alertness",
            "from 0 to 100, not \"150\"",
        ),
        (
            "--boss-alertness 101",
            "--boss_alertness",
            "from 0 to 100, not \"101\"",
        ),
        (
            "--boss_alertness -1",
            "--boss_alertness",
            "from 0 to 100, not \"-1\"",
        ),
        (
            "--boss_alertness=x",
            "--boss_alertness",
            "from 0 to 100, not \"x\"",
        ),
        (
            "--boss_alertness_cooldown -5",
            "--boss_alertness_cooldown",
            "0 or more",
        ),
        (
            "--boss-alertness-cooldown 1.5",
            "--boss_alertness_cooldown",
            "0 or more",
        ),
    ] {
        let text = told(&format!("chillgate chill {typed}"));
        assert_eq!(text.lines().count(), 1, "{text}");
        assert!(
            text.starts_with(&format!("error: {flag} must be ")),
            "{text}"
        );
        assert!(text.contains(range), "{text}");
    }
}

#[test]
fn both_spellings_of_the_flags_of_chill_work() {
    for line in [
        "chillgate chill --boss_alertness 80 --boss_alertness_cooldown 0",
        "chillgate chill --boss-alertness=80 --boss-alertness-cooldown=0",
    ] {
        let cli = read(line).expect("legal");
        let Verb::Chill(args) = cli.verb else {
            panic!("another verb")
        };
        assert_eq!(
            (args.boss_alertness, args.boss_alertness_cooldown),
            (Some(80), Some(0))
        );
    }
}

#[test]
fn global_flags_stand_before_and_after_the_verb() {
    for line in [
        "chillgate --config a.toml check",
        "chillgate check --config a.toml",
    ] {
        assert_eq!(
            read(line).expect("legal").global.config,
            Some("a.toml".into())
        );
    }
    let text = told("chillgate serve --log-format jsno");
    assert!(
        text.contains("--log-format must be one of auto, json, human"),
        "{text}"
    );
}

#[test]
fn what_stands_after_the_dashes_belongs_to_the_server() {
    let cli = read("chillgate wrap --name x -- npx --config theirs --help").expect("legal");
    assert_eq!(cli.global.config, None);
    let Verb::Wrap(args) = cli.verb else {
        panic!("another verb")
    };
    assert_eq!(args.command, ["npx", "--config", "theirs", "--help"]);
    let cli = read("chillgate __keep -- sh -c true").expect("legal");
    let Verb::Keep(args) = cli.verb else {
        panic!("another verb")
    };
    assert!(
        args.args
            .ends_with(&["sh".into(), "-c".into(), "true".into()]),
        "{args:?}"
    );
}

#[test]
fn help_teaches_by_example_and_is_no_error() {
    let help = read("chillgate --help").expect_err("help");
    assert_eq!((help.code, help.err.as_str()), (answer::FINE, ""));
    assert!(
        help.out
            .contains("chillgate wrap --config policies.toml -- npx"),
        "{}",
        help.out
    );
    let short = read("chillgate -h").expect_err("help").out;
    assert!(
        !short.contains("Examples:") && short.contains("explain"),
        "{short}"
    );
    let version = read("chillgate --version").expect_err("version").out;
    assert_eq!(
        version,
        format!("chillgate {}\n", env!("CARGO_PKG_VERSION"))
    );
    assert!(told("chillgate").contains("Usage:"));
    for verb in [
        "serve", "wrap", "connect", "chill", "check", "explain", "key",
    ] {
        let help = read(&format!("chillgate {verb} --help"))
            .expect_err("help")
            .out;
        assert!(help.contains("Example"), "{verb}: {help}");
    }
    Cli::command().debug_assert();
}
