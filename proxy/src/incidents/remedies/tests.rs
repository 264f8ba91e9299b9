//! Real last words of real programs, and the remedy each must meet.

use std::collections::BTreeSet;

use super::*;

fn seen(phase: Phase, status: Option<Status>, text: &str) -> Seen<'_> {
    Seen {
        server: "a",
        phase,
        status,
        text,
        sandboxed: false,
        port: None,
    }
}

fn find(rules: &Rules, phase: Phase, status: Option<Status>, text: &str) -> Option<Advice> {
    rules.find(seen(phase, status, text))
}

fn shipped(phase: Phase, text: &str) -> Advice {
    let found = find(&Rules::default(), phase, Some(Status::Code(1)), text);
    found.unwrap_or_else(|| panic!("no remedy for: {text}"))
}

#[test]
fn what_programs_say_meets_its_remedy() {
    use Phase::{Remote, Run, Spawn, Start, Stop};
    for (phase, text, id, piece) in [
        (
            Spawn,
            "\"npx\" was not found in PATH=/bin; install it or write its full path",
            "missing-binary",
            "npx",
        ),
        (
            Spawn,
            "/opt/x does not exist; check the path in `command`",
            "missing-file",
            "/opt/x",
        ),
        (
            Spawn,
            "/opt/x is not executable; make it so with chmod +x, or name its interpreter first",
            "not-executable",
            "/opt/x",
        ),
        (
            Spawn,
            "/data is no directory to start in; create it or change `cwd`",
            "missing-folder",
            "/data",
        ),
        (
            Spawn,
            "`env` TOKEN: cannot read the secret file /run/secrets/t: No such file or directory",
            "missing-secret",
            "/run/secrets/t",
        ),
        (
            Start,
            "chillgate: cannot start \"/opt/x\": No such file or directory (os error 2)",
            "missing-interpreter",
            "/opt/x",
        ),
        (
            Start,
            "chillgate: cannot start \"/opt/x\": Exec format error (os error 8)",
            "wrong-architecture",
            "",
        ),
        (
            Start,
            "/opt/x: error while loading shared libraries: libfoo.so.1: cannot open shared object file: No such file or directory",
            "missing-library",
            "libfoo.so.1",
        ),
        (
            Start,
            "docker: Cannot connect to the Docker daemon at unix:///var/run/docker.sock. Is the docker daemon running?.",
            "docker-unreachable",
            "",
        ),
        (
            Start,
            "Unable to find image 'acme/mcp:1' locally\ndocker: Error response from daemon: pull access denied for acme/mcp, repository does not exist",
            "docker-image",
            "acme/mcp",
        ),
        (
            Run,
            "Error: EMFILE: too many open files, open '/data/a'",
            "too-many-files",
            "",
        ),
        (
            Run,
            "Error: ENOSPC: System limit for number of file watchers reached, watch '/data'",
            "too-many-files",
            "",
        ),
        (
            Run,
            "Error: ENOSPC: no space left on device, write",
            "disk-full",
            "",
        ),
        (
            Run,
            "OSError: [Errno 28] No space left on device",
            "disk-full",
            "",
        ),
        (
            Run,
            "OSError: [Errno 30] Read-only file system: '/x'",
            "read-only",
            "",
        ),
        (
            Run,
            "FATAL ERROR: Reached heap limit Allocation failed - JavaScript heap out of memory",
            "out-of-memory",
            "",
        ),
        (
            Run,
            "Traceback (most recent call last):\nMemoryError",
            "out-of-memory",
            "",
        ),
        (
            Run,
            "Exception in thread \"main\" java.lang.OutOfMemoryError: Java heap space",
            "out-of-memory",
            "",
        ),
        (
            Start,
            "npm error code EINTEGRITY\nnpm error sha512-AAA integrity checksum failed",
            "package-cache",
            "",
        ),
        (
            Start,
            "npm ERR! code ENOTEMPTY\nnpm ERR! syscall rename",
            "package-cache",
            "",
        ),
        (
            Start,
            "npm error code E404\nnpm error 404 Not Found - GET https://registry.example/nope\nnpm error 404  'nope@*' is not in this registry.",
            "package-not-found",
            "nope",
        ),
        (
            Start,
            "npm error code ETARGET\nnpm error notarget No matching version found for x@9.9.9.",
            "package-not-found",
            "",
        ),
        (
            Start,
            "ERROR: No matching distribution found for nope",
            "package-not-found",
            "nope",
        ),
        (
            Start,
            "  × No solution found when resolving tool dependencies:\n  ╰─▶ Because nope was not found in the package registry and you require nope",
            "package-not-found",
            "nope",
        ),
        (
            Start,
            "npm error code ENOTFOUND\nnpm error network request to https://registry.example/x failed",
            "registry-unreachable",
            "",
        ),
        (
            Start,
            "error: Failed to fetch: `https://index.example/simple/x/`\n  Caused by: dns error",
            "registry-unreachable",
            "HTTPS_PROXY",
        ),
        (
            Start,
            "Error [ERR_REQUIRE_ESM]: require() of ES Module /a/b.js from /a/c.js not supported.",
            "node-version",
            "",
        ),
        (
            Start,
            "npm warn EBADENGINE Unsupported engine {",
            "node-version",
            "",
        ),
        (
            Start,
            "ReferenceError: crypto is not defined",
            "node-version",
            "node --version",
        ),
        (
            Start,
            "Error: No such built-in module: node:sqlite",
            "node-version",
            "",
        ),
        (
            Start,
            "SyntaxError: Unexpected token '?'",
            "node-version",
            "",
        ),
        (
            Start,
            "Error: Cannot find module '/srv/dist/index.js'",
            "missing-script",
            "/srv/dist/index.js",
        ),
        (
            Start,
            "python3: can't open file '/srv/a.py': [Errno 2] No such file or directory",
            "missing-script",
            "/srv/a.py",
        ),
        (
            Start,
            "Error: Cannot find module 'express'",
            "node-package",
            "express",
        ),
        (
            Start,
            "Error [ERR_MODULE_NOT_FOUND]: Cannot find package 'zod' imported from /srv/a.mjs",
            "node-package",
            "zod",
        ),
        (
            Start,
            "ModuleNotFoundError: No module named 'mcp'",
            "python-module",
            "mcp",
        ),
        (
            Start,
            "/usr/bin/python3: No module named mcp_server",
            "python-module",
            "mcp_server",
        ),
        (
            Start,
            "ERROR: Package 'x' requires a different Python: 3.8.1 not in '>=3.10'",
            "python-version",
            "",
        ),
        (
            Start,
            "error: No interpreter found for Python 3.13 in managed installations or search path",
            "python-version",
            "",
        ),
        (
            Start,
            "java.lang.UnsupportedClassVersionError: com/a/Main has been compiled by a more recent version",
            "java-version",
            "",
        ),
        (
            Start,
            "Error: GITHUB_TOKEN environment variable is not set",
            "missing-variable",
            "GITHUB_TOKEN",
        ),
        (
            Start,
            "Error: Missing required environment variable: BRAVE_API_KEY",
            "missing-variable",
            "BRAVE_API_KEY",
        ),
        (
            Start,
            "KeyError: 'SLACK_BOT_TOKEN'",
            "missing-variable",
            "SLACK_BOT_TOKEN",
        ),
        (
            Start,
            "Error: BRAVE_API_KEY is required",
            "missing-variable",
            "BRAVE_API_KEY",
        ),
        (
            Start,
            "Please provide a DATABASE_URL",
            "missing-variable",
            "DATABASE_URL",
        ),
        (
            Start,
            "Request failed with status code 401",
            "authentication",
            "",
        ),
        (
            Run,
            "openai.AuthenticationError: Error code: 401 - {'error': {'code': 'invalid_api_key'}}",
            "authentication",
            "",
        ),
        (
            Start,
            "Error: listen EADDRINUSE: address already in use 127.0.0.1:8931",
            "port-in-use",
            "8931",
        ),
        (
            Start,
            "Error: listen EADDRINUSE: address already in use :::3000\n  port: 3000",
            "port-in-use",
            "3000",
        ),
        (
            Start,
            "listen tcp 127.0.0.1:8080: bind: address already in use",
            "port-in-use",
            "8080",
        ),
        (
            Start,
            "OSError: [Errno 98] Address already in use",
            "port-in-use",
            "",
        ),
        (
            Start,
            "Error parsing /etc/app/config.json: Unexpected token } in JSON at position 12",
            "config-broken",
            "/etc/app/config.json",
        ),
        (
            Start,
            "json.decoder.JSONDecodeError: Expecting value: line 1 column 1 (char 0)",
            "config-broken",
            "",
        ),
        (
            Start,
            "Error: EACCES: permission denied, open '/srv/secret'",
            "permission-denied",
            "/srv/secret",
        ),
        (
            Start,
            "PermissionError: [Errno 13] Permission denied: '/srv/secret'",
            "permission-denied",
            "/srv/secret",
        ),
        (
            Start,
            "Error: ENOENT: no such file or directory, open '/etc/app.json'",
            "missing-path",
            "/etc/app.json",
        ),
        (
            Start,
            "FileNotFoundError: [Errno 2] No such file or directory: '/etc/app.toml'",
            "missing-path",
            "/etc/app.toml",
        ),
        (
            Start,
            "panic: open /etc/app.toml: no such file or directory",
            "missing-path",
            "/etc/app.toml",
        ),
        (
            Run,
            "ssl.SSLCertVerificationError: [SSL: CERTIFICATE_VERIFY_FAILED] certificate verify failed",
            "tls-certificate",
            "",
        ),
        (
            Run,
            "Error: self-signed certificate in certificate chain",
            "tls-certificate",
            "",
        ),
        (
            Run,
            "requests.exceptions.ProxyError: HTTPSConnectionPool",
            "proxy",
            "",
        ),
        (
            Run,
            "Error: getaddrinfo ENOTFOUND db.internal",
            "name-not-found",
            "db.internal",
        ),
        (
            Run,
            "dial tcp: lookup db.internal on 10.0.0.2:53: no such host",
            "name-not-found",
            "db.internal",
        ),
        (
            Run,
            "Error: connect ECONNREFUSED 127.0.0.1:5432",
            "network-refused",
            "127.0.0.1:5432",
        ),
        (
            Run,
            "Error: connect ECONNREFUSED 127.0.0.1:25562\n  address: '127.0.0.1',\n  port: 25562\n}",
            "network-refused",
            "127.0.0.1:25562",
        ),
        (
            Run,
            "ConnectionRefusedError: [Errno 111] Connection refused",
            "network-refused",
            "",
        ),
        (
            Run,
            "OSError: [Errno 113] No route to host",
            "network-unreachable",
            "",
        ),
        (
            Start,
            "usage: server [-h] --root ROOT\nserver: error: the following arguments are required: --root",
            "bad-arguments",
            "",
        ),
        (
            Start,
            "it closed its output; it wrote \"Listening on http://…\" on its standard output, which is no message of MCP",
            "not-mcp",
            "",
        ),
        (
            Run,
            "it hung: it did not answer 3 probes in a row, each within 5.0 s (signal 15 (TERM))",
            "hung",
            "`probe`",
        ),
        (
            Run,
            "it closed its output and did not end, so that chillgate ended it (exit code 0)",
            "closed-output",
            "foreground",
        ),
        (
            Run,
            "it closed its output (its keeper was ended by signal 9 (KILL))",
            "keeper-killed",
            "pkill",
        ),
        (
            Start,
            "it refused to initialize: {\"code\":-32000,\"message\":\"the plan is over\"}",
            "refuses-to-start",
            "its words",
        ),
        (Start, "it speaks 2025-11-25 only", "other-era", "`era`"),
        (
            Run,
            "it wrote more than 100 lines a minute on its standard output that are no messages of MCP, such as \"tick\"",
            "babble",
            "console.error",
        ),
        (
            Start,
            "it did not answer within 60 s; is it an MCP server that speaks stdio?",
            "silent",
            "",
        ),
        (
            Remote,
            "no connection: client error (Connect): tcp connect error: Connection refused (os error 111)",
            "remote-refused",
            "url",
        ),
        (
            Remote,
            "no connection: client error (Connect): /run/x.sock: No such file or directory (os error 2)",
            "remote-unix",
            "/run/x.sock",
        ),
        (
            Remote,
            "no connection: client error (Connect): dns error: no records found for Query { name: Name(\"gone.invalid.\") }",
            "remote-name",
            "DNS",
        ),
        (
            Remote,
            "no connection: client error (Connect): invalid peer certificate: UnknownIssuer",
            "remote-certificate",
            "`ca`",
        ),
        (
            Remote,
            "it refused chillgate's own credentials (HTTP 401 Unauthorized); set them under `headers` of this server",
            "remote-credentials",
            "headers",
        ),
        (
            Remote,
            "the environment variable TOKEN_OF_MINE is not set",
            "remote-secret",
            "TOKEN_OF_MINE",
        ),
        (
            Remote,
            "it did not answer `initialize` within 1.0 s; `start-timeout` allows more",
            "remote-slow",
            "firewalls",
        ),
        (
            Remote,
            "it answered GET with HTTP 404 Not Found and no event stream; is it an HTTP+SSE server?",
            "remote-not-mcp",
            "/mcp",
        ),
        (
            Remote,
            "HTTP 503 Service Unavailable later",
            "remote-in-trouble",
            "log",
        ),
        (
            Stop,
            "it ended neither with its input nor on SIGTERM within 3 s, and was killed",
            "deaf-to-its-end",
            "SIGTERM",
        ),
    ] {
        let advice = shipped(phase, text);
        assert_eq!(advice.id, id, "{text}");
        assert!(advice.text.contains(piece), "{text}: {}", advice.text);
        assert!(!advice.text.contains("{1"), "{}", advice.text);
    }
}

#[test]
fn the_way_it_ended_tells_where_nothing_else_does() {
    let of = |status, phase| {
        find(
            &Rules::default(),
            phase,
            Some(status),
            "it closed its output",
        )
        .map(|it| it.id)
    };
    assert_eq!(
        of(Status::Signal(11), Phase::Run).as_deref(),
        Some("crashed")
    );
    assert_eq!(
        of(Status::Signal(6), Phase::Run).as_deref(),
        Some("crashed")
    );
    assert_eq!(of(Status::Signal(9), Phase::Run).as_deref(), Some("killed"));
    assert_eq!(
        of(Status::Signal(15), Phase::Run).as_deref(),
        Some("terminated")
    );
    assert_eq!(
        of(Status::Code(0), Phase::Start).as_deref(),
        Some("ended-at-once")
    );
    assert_eq!(of(Status::Code(0), Phase::Run), None);
    assert_eq!(of(Status::Code(3), Phase::Start), None);
}

#[test]
fn checks_look_at_what_the_failure_named() {
    let check = |phase, text| shipped(phase, text).check;
    let named = check(
        Phase::Start,
        "Error: listen EADDRINUSE: address already in use 127.0.0.1:8931",
    );
    assert_eq!(named.and_then(|it| it.port).as_deref(), Some("8931"));
    assert_eq!(
        check(Phase::Start, "OSError: [Errno 98] Address already in use"),
        None
    );
    let named = check(Phase::Start, "KeyError: 'SLACK_BOT_TOKEN'");
    assert_eq!(
        named.and_then(|it| it.variable).as_deref(),
        Some("SLACK_BOT_TOKEN")
    );
}

#[test]
fn a_port_without_a_name_is_the_one_that_was_given() {
    let of = |text, port| {
        let status = Some(Status::Code(1));
        let seen = Seen {
            port,
            ..seen(Phase::Start, status, text)
        };
        let advice = Rules::default().find(seen).expect("a remedy");
        (advice.text, advice.check.and_then(|check| check.port))
    };
    let unnamed = "OSError: [Errno 98] Address already in use";
    let (text, port) = of(unnamed, Some("38999"));
    assert_eq!(port.as_deref(), Some("38999"));
    assert!(text.starts_with("port 38999 is taken"), "{text}");
    let named = "Error: listen EADDRINUSE: address already in use :::3000";
    assert_eq!(of(named, Some("38999")).1.as_deref(), Some("3000"));
    let (text, port) = of(unnamed, None);
    assert!(text.starts_with("port of the server is taken"), "{text}");
    assert_eq!(port, None);
    // Other groups are no ports.
    let (text, _) = of("KeyError: 'A_TOKEN'", Some("38999"));
    assert!(!text.contains("38999"), "{text}");
}

#[test]
fn what_a_sandbox_may_forbid_is_laid_on_the_sandbox() {
    let text = "PermissionError: [Errno 13] Permission denied: '/srv/own'";
    let of = |sandboxed| {
        let seen = Seen {
            sandboxed,
            ..seen(Phase::Start, Some(Status::Code(1)), text)
        };
        Rules::default().find(seen).expect("a remedy")
    };
    let advice = of(true);
    assert_eq!(advice.id, "sandbox-denied");
    for piece in ["/srv/own", "`read`", "`write`", "sandbox"] {
        assert!(advice.text.contains(piece), "{}", advice.text);
    }
    assert_eq!(of(false).id, "permission-denied");
}

#[test]
fn a_secrets_file_is_named_without_what_follows_it() {
    for (phase, id, text, path) in [
        (
            Phase::Spawn,
            "missing-secret",
            "`env` TOKEN: cannot read the secret file /run/my secrets/t: No such file or directory (os error 2)",
            "/run/my secrets/t",
        ),
        (
            Phase::Spawn,
            "missing-secret",
            "`env` TOKEN: the secret file /run/t is empty",
            "/run/t",
        ),
        (
            Phase::Remote,
            "remote-secret",
            "cannot read the secret file /run/t",
            "/run/t",
        ),
    ] {
        let advice = shipped(phase, text);
        assert_eq!(advice.id, id, "{text}");
        assert!(advice.text.contains(path), "{}", advice.text);
        assert!(!advice.text.contains("t:"), "{}", advice.text);
        if phase == Phase::Spawn {
            assert_eq!(
                advice.check.and_then(|it| it.readable).as_deref(),
                Some(path)
            );
        }
    }
}

#[test]
fn shipped_remedies_are_sound() {
    let mut names = BTreeSet::new();
    for rule in RULES.iter() {
        // Two rules may share a name; that of a pattern without a match is refused as a user's is.
        assert_eq!(rule.mistakes(), [], "{}", rule.name);
        names.insert(&rule.name);
        assert!(rule.says.len() < 300, "{} says too much", rule.name);
    }
    assert!(names.len() >= 18, "only {}", names.len());
}

#[test]
fn the_users_own_come_first() {
    let own: Remedy = toml_edit::de::from_str(
        "name = \"mine\"\nsays = \"ask {1|somebody} about {2}\"\nmatch = { server = \"a\", text = 'EADDRINUSE.*:(\\d+)' }",
    )
    .expect("a remedy");
    let rules = Rules::new(&[own]);
    let text = "Error: listen EADDRINUSE: address already in use :::3000";
    let advice = find(&rules, Phase::Start, None, text).expect("mine");
    assert_eq!((advice.id.as_str(), advice.own), ("mine", true));
    assert_eq!(advice.text, "ask 3000 about …");
    let other = rules.find(Seen {
        server: "b",
        ..seen(Phase::Start, None, text)
    });
    assert_eq!(other.map(|it| it.id).as_deref(), Some("port-in-use"));
}
