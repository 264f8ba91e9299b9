//! Layers, names of variables, goldens of reports, and configurations of any shape.
//!
//! Texts in, values or reports out; the process's own environment is never looked at or changed.

use std::fs;
use std::path::Path;
use std::time::Duration;

use chillgate_policies::presets;
use proptest::prelude::*;

use super::super::{Isolation, Listen, LogFormat, Transport};
use super::*;
use crate::cli::compile;

/// A configuration read from a text, variables and flags; its mistakes include those of the
/// policies.
fn attempted(text: &str, environment: &[(&str, &str)], set: &[(&str, &str)]) -> Attempt {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let path = dir.path().join("chillgate.toml");
    fs::write(&path, text).expect("writing");
    let pair = |(a, b): &(&str, &str)| ((*a).to_owned(), (*b).to_owned());
    let set = set.iter().map(pair).collect();
    let sources = Sources {
        file: Some(path),
        preset: None,
        set,
    };
    let environment = environment
        .iter()
        .map(pair)
        .map(|(name, value)| (name, Some(value)));
    let attempt = attempt_with(&sources, environment);
    let policies = compile::chain(&attempt.loaded).err().unwrap_or_default();
    Attempt {
        report: attempt.report.and(policies),
        ..attempt
    }
}

fn good(text: &str, environment: &[(&str, &str)], set: &[(&str, &str)]) -> Config {
    let attempt = attempted(text, environment, set);
    assert!(attempt.report.is_empty(), "{text}\n{}", attempt.report);
    attempt.loaded.config
}

const SERVER: &str = "[server.a]\ncommand = [\"a\"]\n";

/// `reports/*.txt`: a configuration, `----`, and what is said about it. `UPDATE=1` rewrites them.
#[test]
fn reports_read_as_their_goldens() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/config/reports");
    let mut count = 0;
    for entry in fs::read_dir(folder).expect("the folder of goldens") {
        let path = entry.expect("an entry").path();
        let golden = fs::read_to_string(&path).expect("readable");
        let (toml, expected) = golden.split_once("----\n").expect("a line of dashes");
        let lines = |mark: &'static str| {
            toml.lines()
                .filter_map(move |line| line.strip_prefix(mark)?.split_once('='))
        };
        let environment: Vec<_> = lines("# env: ").collect();
        let set: Vec<_> = lines("# set: ").collect();
        let report = attempted(toml, &environment, &set).report;
        let said = report.to_string();
        let said: Vec<_> = said.lines().map(without_folder).collect();
        let said = format!("{}\n", said.join("\n"));
        assert!(!report.is_empty(), "{} has no mistake", path.display());
        if std::env::var_os("UPDATE").is_some() {
            fs::write(&path, format!("{toml}----\n{said}")).expect("writing");
        } else {
            assert_eq!(said, expected, "{}", path.display());
        }
        count += 1;
    }
    assert!(count >= 15, "only {count} goldens");
}

/// `┌─ /tmp/x/chillgate.toml:1:1` without the folder, which differs from run to run.
fn without_folder(line: &str) -> String {
    match line.split_once("┌─ /") {
        Some((lead, rest)) => {
            let at = rest.find("chillgate.toml").unwrap_or_default();
            format!("{lead}┌─ {}", &rest[at..])
        }
        None => line.to_owned(),
    }
}

#[test]
fn a_later_layer_overrides_key_by_key() {
    let text = format!("{SERVER}[limits]\ndepth = 10\nbatch = 10\nsessions = 10\n");
    let environment = [
        ("CHILLGATE__LIMITS__BATCH", "20"),
        ("CHILLGATE__LIMITS__SESSIONS", "20"),
    ];
    let limits = good(&text, &environment, &[("limits.sessions", "30")]).limits;
    assert_eq!((limits.depth, limits.batch, limits.sessions), (10, 20, 30));
    assert_eq!(limits.outbox, 256);
}

#[test]
fn a_preset_lies_under_the_file() {
    let text = "extends = \"chill\"\n[server.chill]\nboss-alertness = 80\n";
    let config = good(text, &[], &[]);
    let chill = config.server.values().next().expect("the preset's server");
    assert!(
        matches!(chill, Server::Builtin(office) if office.settings.alertness == 80),
        "{chill:?}"
    );
    let other = good(
        &format!("extends = \"chill\"\n{SERVER}"),
        &[("CHILLGATE__EXTENDS", "dev")],
        &[],
    );
    assert_eq!(other.extends.as_deref(), Some("dev"));
}

#[test]
fn a_policy_about_what_is_not_there_is_doubted() {
    let policy = "[[policy]]\ntype = \"access\"\nname = \"no\"\n\
                  match = { method = [\"tool/call\", \"tools/list\"], server = \"b\" }\n\
                  deny = [\"c__x\", \"a__y\", \"*__z\", \"plain\"]\n";
    let attempt = attempted(&format!("{SERVER}{policy}"), &[], &[]);
    assert!(attempt.report.is_empty(), "{}", attempt.report);
    let expected = [
        "Policy \"no\" is about the server \"b\", which is not configured",
        "Policy \"no\" is about the server \"c\", which is not configured",
        "Policy \"no\" is about the method \"tool/call\", which MCP does not define; \
         did you mean `tools/call`?",
    ];
    assert_eq!(attempt.loaded.notes, expected);
}

#[test]
fn a_file_without_extends_gets_no_preset_and_no_file_gets_the_given_one() {
    let sources = Sources {
        preset: Some("chill"),
        ..Sources::default()
    };
    let attempt = attempt_with(&sources, std::iter::empty());
    assert!(attempt.report.is_empty(), "{}", attempt.report);
    assert_eq!(attempt.loaded.config.server.len(), 1);
    assert_eq!(attempt.loaded.notes.len(), 1);
    assert_eq!(
        good(SERVER, &[], &[]).policy,
        Vec::<serde_json::Value>::new()
    );
}

#[test]
fn policies_of_a_preset_come_first_and_the_same_name_replaces_one() {
    let layer = |text: &str| {
        let name = text.to_owned();
        let (document, _) = super::super::source::Document::parse(name, text.to_owned());
        document
    };
    let mut layers = layers::Layers::default();
    layers.source.documents = vec![
        layer(
            "[[policy]]\nname = \"a\"\nn = 1\n[[policy]]\nname = \"b\"\nn = 2\n[[policy]]\ntype = \"quota\"\nper = \"agent\"\nn = 3\n",
        ),
        layer(
            "[[policy]]\nname = \"c\"\nn = 4\n[[policy]]\nname = \"b\"\nn = 5\n[[policy]]\ntype = \"quota\"\nper = \"agent\"\nn = 6\n[[policy]]\nname = \"c\"\nn = 7\n",
        ),
    ];
    layers.stack();
    let numbers: Vec<_> = layers
        .policies
        .iter()
        .map(|policy| policy.find_ref("n").and_then(Value::to_i128))
        .collect();
    assert_eq!(numbers, [1, 5, 6, 4, 7].map(Some));
    assert_eq!(
        layers.source.policies,
        [(0, 0), (1, 1), (1, 2), (1, 0), (1, 3)]
    );
}

#[test]
fn variables_name_keys_and_everything_else_of_the_same_name_is_ignored() {
    let environment = [
        ("CHILLGATE__IDENTITY__STATIC", "007"),
        ("CHILLGATE__LIMITS__IN_FLIGHT_PER_AGENT", "7"),
        (
            "CHILLGATE__SERVER__MY_FILES__COMMAND",
            "[\"files\", 8080, \"--x=1\"]",
        ),
        ("CHILLGATE__SERVER__MY_FILES__ENV__API__Key", "true"),
        ("CHILLGATE__SERVER__MY_FILES__ISOLATION", "session"),
        ("CHILLGATE__FRONT__0__LISTEN", "127.0.0.1:9000"),
        ("CHILLGATE__LOG__FORMAT", "json"),
        ("CHILLGATE_PORT", "tcp://10.0.0.1:8800"),
        ("CHILLGATE_SERVICE_HOST", "10.0.0.1"),
        ("PATH", "/bin"),
    ];
    let config = good(SERVER, &environment, &[]);
    assert_eq!(config.identity.fixed.as_deref(), Some("007"));
    assert_eq!(config.limits.in_flight_per_agent, 7);
    assert_eq!(config.log.format, LogFormat::Json);
    assert_eq!(
        config.front[0].listen,
        Listen::try_from("127.0.0.1:9000".to_owned()).ok()
    );
    assert_eq!(config.front[0].transport, Transport::StreamableHttp);
    let name = ServerName::try_from("my-files".to_owned()).expect("legal");
    let Some(Server::Command(child)) = config.server.get(&name) else {
        panic!("no such child")
    };
    assert_eq!(child.command, ["files", "8080", "--x=1"]);
    assert_eq!(child.isolation, Isolation::Session);
    assert_eq!(child.env.get("API__Key"), Some(&"true".into()));
}

#[test]
fn flags_made_by_the_helpers_arrive_as_they_were() {
    let words = ["npx", "-y", "a \"b\" \\ 'c'\n", "", "[1]", "한국"];
    let (command, name) = (list(words), text("true"));
    let config = good(
        "[log]\nfilter = \"info\"\n",
        &[],
        &[
            ("front", "[{ transport = \"stdio\" }]"),
            ("server.a.command", &command),
            ("identity.static", &name),
        ],
    );
    let Some(Server::Command(child)) = config.server.values().next() else {
        panic!("no child")
    };
    assert_eq!(child.command, words);
    assert_eq!(config.identity.fixed.as_deref(), Some("true"));
    assert_eq!(config.front[0].transport, Transport::Stdio);
}

#[test]
fn everything_of_the_guide_can_be_written() {
    let hash = format!("sha256:{}", "ab".repeat(32));
    let text = format!(
        r#"
[[front]]
transport = "streamable-http"
listen = "0.0.0.0:8800"
prefix = "never"
tls = {{ certificate = "/etc/tls/tls.crt", key = "/etc/tls/tls.key" }}
allowed-hosts = ["mcp.example"]
allowed-origins = ["https://app.example"]
[[front]]
listen = "unix:/run/chillgate/mcp.sock"
[health]
listen = "127.0.0.1:9901"
[identity]
header = "x-agent-id"
api-keys = {{ agent-a = "{hash}" }}
[server.chill]
builtin = "chill"
boss-alertness = 80
boss-alertness-cooldown = "5m"
hold = "1s"
effects = "graded"
scope = "shared"
lang = "ko"
stress = 0
[server.files]
command = ["npx", "-y", "server"]
isolation = "shared"
env = {{ TOKEN = "file:/run/secrets/token" }}
inherit = ["HTTPS_PROXY"]
cwd = "/data"
start-timeout = "30s"
era = "legacy"
[server.search]
url = "https://mcp.example/mcp"
headers = {{ Authorization = "file:/run/secrets/search" }}
ca = "/etc/tls/ca.crt"
[audit]
file = "-"
[state]
store = ["redis://a:6379", "redis://b:6379"]
username = "chillgate"
password = "file:/run/secrets/redis"
sentinel = "mymaster"
ca = "/etc/tls/redis-ca.crt"
timeout = "10ms"
prefix = "team-a"
[replicas]
listen = "0.0.0.0:8801"
advertise = "10.0.0.7"
secret = "file:/run/secrets/replicas"
ca = "/etc/tls/replicas-ca.crt"
rotate = "1h"
[limits]
message = "1MiB"
memory = 1073741824
drain = "0s"
[log]
format = "human"
filter = "warn,chillgate=debug"
"#
    );
    let config = good(&text, &[], &[]);
    assert_eq!((config.front.len(), config.server.len()), (2, 3));
    assert_eq!(
        (config.limits.memory, config.limits.drain),
        (1 << 30, Some(Duration::ZERO))
    );
}

/// These lines but that of `key`.
fn without(key: &str, lines: &[&str]) -> String {
    let others = lines.iter().filter(|line| !line.starts_with(key));
    others.copied().collect::<Vec<_>>().join("\n")
}

#[test]
fn runbooks_that_no_server_offers_are_noted() {
    let runbook = "[[runbook]]\nname = \"a\"\ndescription = \"b\"\ncommand = [\"c\"]\n";
    let offered = format!("{runbook}[server.ops]\nbuiltin = \"ops\"\n");
    let notes = |text: &str| attempted(text, &[], &[]).loaded.notes;
    let said = notes(&format!("{SERVER}{runbook}"));
    assert!(
        said.iter().any(|note| note.contains("[server.ops]")),
        "{said:?}"
    );
    assert!(notes(&offered).is_empty(), "{:?}", notes(&offered));
}

#[test]
fn every_line_that_help_proposes_is_right() {
    for (path, line) in hint::LINES {
        let Some((key, _)) = line.split_once(" = ") else {
            continue;
        };
        assert!(path.ends_with(key), "{path}: {line}");
        if line.contains('…') || line.contains("${") {
            continue;
        }
        let parts: Vec<&str> = path.split('.').collect();
        let builtin = [
            "boss-alertness",
            "boss-alertness-cooldown",
            "hold",
            "effects",
            "scope",
            "lang",
            "stress",
            "schedule",
        ];
        let text = match parts.as_slice() {
            [_] => format!("{line}\n{SERVER}"),
            ["state", key @ ("username" | "password" | "sentinel" | "ca")] => {
                let password = "password = \"file:/run/secrets/redis\"\n";
                let password = if *key == "password" { "" } else { password };
                format!("{SERVER}[state]\nstore = \"rediss://redis\"\n{password}{line}\n")
            }
            // Both at once stand in the line of `tls`; a type stands with what it takes below.
            ["front", _, "tls", _] | ["replicas", "tls", _] | ["runbook", _, "type"] => continue,
            ["replicas", key] => {
                let listen = "listen = \"10.0.0.7:8801\"\n";
                let listen = if *key == "listen" { "" } else { listen };
                let state = "[state]\nstore = \"redis://redis\"\n";
                format!("{SERVER}{state}[replicas]\n{listen}{line}\n")
            }
            ["admin", "token"] => {
                format!("{SERVER}[admin]\nlisten = \"127.0.0.1:9902\"\n{line}\n")
            }
            [table, _] => format!("{SERVER}[{table}]\n{line}\n"),
            ["front", _, _] => format!("{SERVER}[[front]]\n{line}\n"),
            ["remedy", _, _] => {
                let rest = ["name = \"a\"\n", "match = { exit = 1 }\n", "says = \"b\"\n"];
                let rest = rest.into_iter().filter(|other| !other.starts_with(key));
                let rest: String = rest.collect();
                format!("{SERVER}[[remedy]]\n{line}\n{rest}")
            }
            ["server", _, "builtin" | "command" | "url"] => format!("[server.a]\n{line}\n"),
            ["server", _, "headers" | "token" | "ca" | "era"] => {
                format!("[server.a]\nurl = \"https://mcp.example\"\n{line}\n")
            }
            ["server", _, "agent-env"] => format!("{SERVER}isolation = \"agent\"\n{line}\n"),
            ["server", _, "probe", "arguments"] => {
                format!("{SERVER}[server.a.probe]\ntool = \"status\"\n{line}\n")
            }
            ["server", _, key] if builtin.contains(key) => {
                format!("[server.a]\nbuiltin = \"chill\"\n{line}\n")
            }
            ["server", _, _] => format!("{SERVER}{line}\n"),
            ["server", _, "token", key] => {
                let rest = without(
                    key,
                    &[
                        "endpoint = \"https://issuer.example/token\"",
                        "client-id = \"a\"",
                        "client-secret = \"file:/b\"",
                    ],
                );
                let url = "url = \"https://mcp.example\"";
                let hosts = "[identity.jwt]\nissuer = \"https://i.example\"\naudience = \"a\"\n";
                let hosts = ["", hosts][usize::from(*key == "exchange")];
                format!("{hosts}[server.a]\n{url}\n[server.a.token]\n{rest}\n{line}\n")
            }
            ["server", _, table, _] => {
                format!("[server.a]\ncommand = [\"x\"]\n[server.a.{table}]\n{line}\n")
            }
            ["runbook", _, key @ ("roots" | "write" | "max-size")] => {
                let roots = ["roots = [\"/data\"]\n", ""][usize::from(*key == "roots")];
                let file = "name = \"a\"\ndescription = \"b\"\ntype = \"file\"";
                format!("[[runbook]]\n{file}\n{roots}{line}\n")
            }
            ["runbook", _, key] => {
                let rest = without(
                    key,
                    &["name = \"a\"", "description = \"b\"", "command = [\"c\"]"],
                );
                format!("[[runbook]]\n{rest}\n{line}\n")
            }
            ["endpoint", _, key] => {
                let url = "url = \"http://127.0.0.1:1\"";
                let rest = without(key, &["name = \"a\"", "kind = \"ollama\"", url]);
                format!("[[endpoint]]\n{rest}\n{line}\n")
            }
            ["identity", "jwt", key] => {
                let rest = without(
                    key,
                    &["issuer = \"https://issuer.example\"", "audience = \"a\""],
                );
                format!("{SERVER}[identity.jwt]\n{rest}\n{line}\n")
            }
            ["identity", "token-review", key] => {
                let rest = without(key, &["audience = \"a\""]);
                format!("{SERVER}[identity.token-review]\n{rest}\n{line}\n")
            }
            ["identity", "certificate", key] => {
                let rest = without(key, &["name = \"spiffe\""]);
                format!("{SERVER}[identity.certificate]\n{rest}\n{line}\n")
            }
            other => panic!("{other:?}"),
        };
        good(&text, &[], &[]);
    }
}

#[test]
fn every_preset_loads_compiles_and_extends_no_other() {
    for name in presets::names() {
        let sources = Sources {
            preset: Some(name),
            ..Sources::default()
        };
        let attempt = attempt_with(&sources, std::iter::empty());
        assert!(attempt.report.is_empty(), "{name}: {}", attempt.report);
        assert_eq!(attempt.loaded.config.extends, None, "{name}");
        let chain = compile::chain(&attempt.loaded);
        assert!(chain.is_ok(), "{name}: {chain:?}");
    }
}

#[test]
fn files_that_cannot_be_read_say_why() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let said = |bytes: Option<&[u8]>| {
        let path = dir.path().join("a.toml");
        match bytes {
            Some(bytes) => fs::write(&path, bytes).expect("writing"),
            None => fs::remove_file(&path).expect("removing"),
        }
        let sources = Sources {
            file: Some(path),
            ..Sources::default()
        };
        attempt_with(&sources, std::iter::empty())
            .report
            .to_string()
    };
    assert!(said(Some(b"a = 1\n# \xff\n")).contains("line 2 is not valid UTF-8"));
    assert!(said(Some(&vec![b'\n'; 2 << 20])).contains("larger than 1 MiB"));
    assert!(
        said(Some(b"\xef\xbb\xbf[limits]\ndepth = 9\n")).is_empty(),
        "a byte order mark"
    );
    assert!(said(None).contains("No such file"));
    let sources = Sources {
        file: Some(dir.path().to_owned()),
        ..Sources::default()
    };
    assert!(
        !attempt_with(&sources, std::iter::empty()).report.is_empty(),
        "a folder"
    );
}

#[test]
fn a_mistake_found_later_is_shown_at_its_line() {
    let loaded = attempted(
        &format!("{SERVER}[health]\nlisten = \"127.0.0.1:9901\"\n"),
        &[],
        &[],
    )
    .loaded;
    let path = ["health".into(), "listen".into()];
    let report = loaded.mistake(&path, "the address is in use", Some("choose another"));
    let headline = report.headline();
    assert!(
        headline.ends_with("chillgate.toml:4:10: the address is in use"),
        "{headline}"
    );
    assert!(loaded.require_server().is_ok());
    let none = attempted("[limits]\ndepth = 9\n", &[], &[]).loaded;
    assert!(
        none.require_server()
            .is_err_and(|r| r.to_string().contains("no server is configured"))
    );
}

#[test]
fn the_working_directory_is_never_looked_at() {
    let home = |name: &str| (name == "HOME").then(|| PathBuf::from("/home/a"));
    let places_of = |variable: &dyn Fn(&str) -> Option<PathBuf>| places(variable);
    assert_eq!(
        places_of(&home),
        [
            PathBuf::from("/home/a/.config/chillgate/chillgate.toml"),
            PathBuf::from("/etc/chillgate/chillgate.toml")
        ]
    );
    let odd = |name: &str| (name == "XDG_CONFIG_HOME").then(|| PathBuf::from("here"));
    assert_eq!(
        places_of(&odd),
        [PathBuf::from("/etc/chillgate/chillgate.toml")]
    );
}

/// Well-formed pieces that mutation takes apart.
const PIECES: &[&str] = &[
    "[server.a]",
    "[[front]]",
    "[[policy]]",
    "[policy]",
    "[limits]",
    "[identity]",
    "extends = \"chill\"",
    "command = [\"npx\", \"x\"]",
    "builtin = \"chill\"",
    "url = \"https://a/\"",
    "listen = \"127.0.0.1:1\"",
    "depth = 5",
    "depth = -5",
    "message = \"1MiB\"",
    "type = \"quota\"",
    "allow = \"5/s\"",
    "match = { tool = \"a*\" }",
    "env = { A = \"${X}\" }",
    "api-keys = { a = 5 }",
    "x = 1979-05-27",
    "x = nan",
    "x = { y = [[1], {}] }",
    "\"한글\" = \"값\"",
    "___figment_value_id = 5",
    "___figment_value_value = 5",
    "= = =",
    "[",
    "\"",
    "\u{0}",
    "\r",
    "server = 5",
    "front = [5]",
    "policy = [1, {}]",
    "static = '''",
    "isolation = { pool = 4 }",
];

proptest! {
    #![proptest_config(ProptestConfig { cases: 500, ..ProptestConfig::default() })]

    #[test]
    fn no_mutated_configuration_makes_it_panic(
        picks in proptest::collection::vec(0..PIECES.len(), 0..12),
        cuts in proptest::collection::vec((any::<prop::sample::Index>(), any::<char>(), 0..3u8), 0..4),
        variable in "[A-Z_]{0,12}",
        value in "\\PC{0,12}",
    ) {
        let mut text: Vec<char> =
            picks.iter().flat_map(|pick| PIECES[*pick].chars().chain(['\n'])).collect();
        for (at, with, how) in cuts {
            if text.is_empty() {
                break;
            }
            let at = at.index(text.len());
            match how {
                0 => drop(text.remove(at)),
                1 => text.insert(at, with),
                _ => text.truncate(at),
            }
        }
        let text: String = text.into_iter().collect();
        let name = format!("CHILLGATE__{variable}");
        let attempt = attempted(&text, &[(&name, &value)], &[(&variable.to_lowercase(), &value)]);
        for mistake in attempt.report.mistakes() {
            prop_assert!(!mistake.message.is_empty());
        }
        let escaped = attempt.report.render(false).contains('\u{1b}');
        prop_assert!(!escaped);
        prop_assert_eq!(attempt.report.render(true).is_empty(), attempt.report.is_empty());
    }
}
