//! What to type instead: the nearest known word, and a correct line for each key.
//!
//! Shared by the configuration's reports and the command line. Only texts: nothing here decides
//! whether something is a mistake.

/// The known word nearest to `word`, if it is near enough to be a slip of the fingers.
pub(crate) fn nearest<'a>(word: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    if word.len() > 64 {
        return None;
    }
    let plain = |text: &str| text.to_ascii_lowercase().replace('_', "-");
    let word = plain(word);
    let reach = match word.chars().count() {
        0..=3 => 1,
        4..=5 => 2,
        _ => 3,
    };
    known
        .into_iter()
        .map(|candidate| (distance(&word, &plain(candidate)), candidate))
        .filter(|(distance, candidate)| *distance <= reach && *distance < candidate.len())
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate)
}

/// Insertions, deletions, replacements and swaps of neighbours from one word to the other.
fn distance(a: &str, b: &str) -> usize {
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().collect(), b.chars().collect());
    let mut older: Vec<usize> = Vec::new();
    let mut last: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.iter().enumerate() {
        let mut row = vec![i + 1];
        for (j, y) in b.iter().enumerate() {
            // Every row has `b.len() + 1` entries; `j` and `j + 1` are always within.
            let change = last[j] + usize::from(x != y);
            let mut best = change.min(last[j + 1] + 1).min(row[j] + 1);
            if i > 0 && j > 0 && a[i - 1] == *y && *x == b[j - 1] {
                best = best.min(older[j - 1] + 1);
            }
            row.push(best);
        }
        older = std::mem::replace(&mut last, row);
    }
    last.last().copied().unwrap_or(usize::MAX)
}

/// The most words that a list names.
const NAMED: usize = 16;

/// `a, b or c`, each in backticks; of more than sixteen how many more there are.
pub(crate) fn list<'a>(words: impl IntoIterator<Item = &'a str>) -> String {
    let mut words = words.into_iter().map(|word| format!("`{word}`"));
    let mut named: Vec<String> = words.by_ref().take(NAMED).collect();
    let more = words.count();
    if more > 0 {
        named.push(format!("{more} more"));
    }
    match named.as_slice() {
        [] => String::new(),
        [one] => one.clone(),
        [some @ .., last] => format!("{} or {last}", some.join(", ")),
    }
}

/// A correct line for the key at `path` (`*` stands for a server's name or a list's element).
pub(super) fn line(path: &str) -> Option<&'static str> {
    LINES
        .iter()
        .find(|(known, _)| *known == path)
        .map(|(_, line)| *line)
}

/// Every key that wants more than a word, with a line that is right.
pub(super) const LINES: &[(&str, &str)] = &[
    ("extends", r#"extends = "team""#),
    ("front.*.transport", r#"transport = "streamable-http""#),
    ("front.*.listen", r#"listen = "127.0.0.1:8800""#),
    ("front.*.prefix", r#"prefix = "auto""#),
    ("front.*.http-sse", "http-sse = false"),
    ("front.*.eras", r#"eras = "legacy""#),
    (
        "front.*.tls",
        r#"tls = { certificate = "/etc/tls/tls.crt", key = "/etc/tls/tls.key" }"#,
    ),
    (
        "front.*.tls.certificate",
        r#"certificate = "/etc/tls/tls.crt""#,
    ),
    ("front.*.tls.key", r#"key = "/etc/tls/tls.key""#),
    ("front.*.allow-anonymous", "allow-anonymous = true"),
    (
        "front.*.allowed-hosts",
        r#"allowed-hosts = ["mcp.example"]"#,
    ),
    (
        "front.*.allowed-origins",
        r#"allowed-origins = ["https://app.example"]"#,
    ),
    ("health", "[health]"),
    ("health.listen", r#"listen = "127.0.0.1:9901""#),
    ("admin", "[admin]"),
    (
        "admin.listen",
        r#"listen = "unix:/run/chillgate/admin.sock""#,
    ),
    (
        "admin.token",
        r#"token = "file:/etc/chillgate/admin.token""#,
    ),
    ("identity", "[identity]"),
    ("identity.header", r#"header = "x-agent-id""#),
    (
        "identity.api-keys",
        r#"api-keys = { agent-a = "sha256:…" }, which `chillgate key agent-a` makes"#,
    ),
    ("identity.static", r#"static = "${POD_NAME}""#),
    (
        "front.*.tls.client-ca",
        r#"client-ca = "/etc/tls/clients.pem""#,
    ),
    ("front.*.tls.client-optional", "client-optional = true"),
    (
        "identity.token-review",
        r#"token-review = { audience = "chillgate" }"#,
    ),
    (
        "identity.token-review.url",
        r#"url = "https://kubernetes.default.svc/apis/authentication.k8s.io/v1/tokenreviews""#,
    ),
    (
        "identity.token-review.audience",
        r#"audience = "chillgate""#,
    ),
    (
        "identity.token-review.ca",
        r#"ca = "/etc/chillgate/cluster.pem""#,
    ),
    (
        "identity.token-review.token",
        r#"token = "file:/var/run/secrets/kubernetes.io/serviceaccount/token""#,
    ),
    ("identity.token-review.prefix", r#"prefix = "k8s:""#),
    ("identity.token-review.keep", r#"keep = "30s""#),
    (
        "identity.certificate",
        r#"certificate = { name = "spiffe", trust-domain = "example.org" }"#,
    ),
    ("identity.certificate.name", r#"name = "spiffe""#),
    (
        "identity.certificate.trust-domain",
        r#"trust-domain = "example.org""#,
    ),
    ("identity.users", "users = { agent-a = 1000 }"),
    ("identity.resource", r#"resource = "https://gate.example""#),
    ("identity.scopes", r#"scopes = ["mcp"]"#),
    (
        "identity.jwt",
        r#"jwt = { issuer = "https://issuer.example", audience = "chillgate" }"#,
    ),
    (
        "identity.jwt.issuer",
        r#"issuer = "https://issuer.example""#,
    ),
    ("identity.jwt.audience", r#"audience = "chillgate""#),
    (
        "identity.jwt.jwks",
        r#"jwks = "file:/etc/chillgate/jwks.json""#,
    ),
    ("identity.jwt.ca", r#"ca = "/etc/chillgate/issuer.pem""#),
    (
        "identity.jwt.token",
        r#"token = "file:/var/run/secrets/kubernetes.io/serviceaccount/token""#,
    ),
    ("identity.jwt.agent", r#"agent = "sub""#),
    ("identity.jwt.prefix", r#"prefix = "corp:""#),
    ("identity.jwt.groups", r#"groups = "groups""#),
    ("identity.jwt.scopes", r#"scopes = "scope""#),
    (
        "identity.jwt.implies",
        r#"implies = { "files:write" = ["files:read"] }"#,
    ),
    (
        "identity.jwt.algorithms",
        r#"algorithms = ["RS256", "ES256"]"#,
    ),
    ("identity.jwt.leeway", r#"leeway = "30s""#),
    ("identity.jwt.keep-keys", r#"keep-keys = "24h""#),
    ("server.*.builtin", r#"builtin = "chill""#),
    ("server.*.boss-alertness", "boss-alertness = 50"),
    (
        "server.*.boss-alertness-cooldown",
        r#"boss-alertness-cooldown = "300s""#,
    ),
    ("server.*.hold", r#"hold = "20s""#),
    ("server.*.effects", r#"effects = "uniform""#),
    ("server.*.scope", r#"scope = "agent""#),
    ("server.*.lang", r#"lang = "en""#),
    ("server.*.stress", "stress = 50"),
    (
        "server.*.schedule",
        r#"schedule = [{ at = "22:00-06:00", in = "Asia/Seoul", boss-alertness = 20 }]"#,
    ),
    (
        "server.*.command",
        r#"command = ["npx", "-y", "some-server"]"#,
    ),
    ("server.*.isolation", r#"isolation = "auto""#),
    (
        "server.*.env",
        r#"env = { TOKEN = "file:/run/secrets/token" }"#,
    ),
    (
        "server.*.agent-env",
        r#"agent-env = { TOKEN = "file:/run/secrets/{agent}/token" }"#,
    ),
    (
        "server.*.probe",
        r#"probe = { every = "30s", timeout = "10s", failures = 3 }"#,
    ),
    ("server.*.probe.every", r#"every = "30s""#),
    ("server.*.probe.timeout", r#"timeout = "10s""#),
    ("server.*.probe.failures", "failures = 3"),
    ("server.*.probe.tool", r#"tool = "status""#),
    ("server.*.probe.arguments", "arguments = {}"),
    ("server.*.idle", r#"idle = "30m""#),
    ("server.*.inherit", r#"inherit = ["HTTPS_PROXY"]"#),
    ("server.*.cwd", r#"cwd = "/data""#),
    ("server.*.limits", r#"limits = { memory = "512MiB" }"#),
    ("server.*.limits.memory", r#"memory = "512MiB""#),
    ("server.*.limits.processes", "processes = 64"),
    ("server.*.limits.file-size", r#"file-size = "1GiB""#),
    ("server.*.limits.open-files", "open-files = 1024"),
    ("server.*.limits.cpu-weight", "cpu-weight = 50"),
    ("server.*.limits.nice", "nice = 10"),
    ("server.*.limits.core", "core = false"),
    ("server.*.sandbox", r#"sandbox = { write = ["/data"] }"#),
    ("server.*.sandbox.read", r#"read = ["/srv/files"]"#),
    ("server.*.sandbox.write", r#"write = ["/data"]"#),
    ("server.*.sandbox.network", "network = [443]"),
    ("server.*.sandbox.system-calls", r#"system-calls = "usual""#),
    ("server.*.sandbox.pid-namespace", "pid-namespace = false"),
    ("server.*.sandbox.require", "require = true"),
    ("server.*.url", r#"url = "https://mcp.example/mcp""#),
    (
        "server.*.headers",
        r#"headers = { Authorization = "Bearer ${TOKEN}" }"#,
    ),
    ("server.*.ca", r#"ca = "/etc/tls/ca.crt""#),
    ("server.*.era", r#"era = "auto""#),
    ("server.*.start-timeout", r#"start-timeout = "60s""#),
    ("runbook.*.name", r#"name = "restart-unit""#),
    (
        "runbook.*.description",
        r#"description = "Restart one of the web services""#,
    ),
    ("runbook.*.type", r#"type = "file""#),
    ("runbook.*.agents", r#"agents = ["ops-*"]"#),
    ("runbook.*.confirm", "confirm = true"),
    (
        "runbook.*.command",
        r#"command = ["systemctl", "restart", "nginx.service"]"#,
    ),
    (
        "runbook.*.arguments",
        r#"arguments = { unit = { pattern = "(nginx|redis)[.]service" } }, and {unit} in `command`…"#,
    ),
    ("runbook.*.timeout", r#"timeout = "30s""#),
    ("runbook.*.cwd", r#"cwd = "/data""#),
    (
        "runbook.*.env",
        r#"env = { TOKEN = "file:/run/secrets/token" }"#,
    ),
    ("runbook.*.inherit", r#"inherit = ["HTTPS_PROXY"]"#),
    ("runbook.*.output", r#"output = "64KiB""#),
    ("runbook.*.read-only", "read-only = true"),
    ("runbook.*.roots", r#"roots = ["/etc/app"]"#),
    ("runbook.*.write", "write = true"),
    ("runbook.*.max-size", r#"max-size = "1MiB""#),
    ("endpoint.*.name", r#"name = "ollama""#),
    ("endpoint.*.url", r#"url = "http://127.0.0.1:11434""#),
    ("endpoint.*.kind", r#"kind = "ollama""#),
    ("endpoint.*.model", r#"model = "llama3""#),
    (
        "server.*.token",
        r#"token = { endpoint = "https://issuer.example/token", client-id = "chillgate", client-secret = "file:/run/secrets/issuer" }"#,
    ),
    (
        "server.*.token.endpoint",
        r#"endpoint = "https://issuer.example/token""#,
    ),
    ("server.*.token.client-id", r#"client-id = "chillgate""#),
    (
        "server.*.token.client-secret",
        r#"client-secret = "file:/run/secrets/issuer""#,
    ),
    ("server.*.token.exchange", "exchange = true"),
    ("server.*.token.scopes", r#"scopes = ["search"]"#),
    (
        "server.*.token.resource",
        r#"resource = "https://mcp.example/mcp""#,
    ),
    ("server.*.token.audience", r#"audience = "search""#),
    ("server.*.token.ca", r#"ca = "/etc/chillgate/issuer.pem""#),
    (
        "endpoint.*.headers",
        r#"headers = { Authorization = "Bearer ${KEY}" }"#,
    ),
    ("endpoint.*.ca", r#"ca = "/etc/tls/ca.crt""#),
    ("endpoint.*.every", r#"every = "60s""#),
    ("endpoint.*.timeout", r#"timeout = "5s""#),
    ("audit", "[audit]"),
    ("audit.file", r#"file = "/var/log/chillgate/audit.jsonl""#),
    ("state", "[state]"),
    ("state.store", r#"store = "redis://redis:6379""#),
    ("state.username", r#"username = "chillgate""#),
    ("state.password", r#"password = "file:/run/secrets/redis""#),
    ("state.sentinel", r#"sentinel = "mymaster""#),
    ("state.ca", r#"ca = "/etc/tls/redis-ca.crt""#),
    ("state.timeout", r#"timeout = "25ms""#),
    ("state.prefix", r#"prefix = "chillgate""#),
    ("replicas", "[replicas]"),
    ("replicas.listen", r#"listen = "10.0.0.7:8801""#),
    ("replicas.advertise", r#"advertise = "${POD_IP}""#),
    (
        "replicas.secret",
        r#"secret = "file:/run/secrets/replicas""#,
    ),
    (
        "replicas.tls",
        r#"tls = { certificate = "/etc/tls/tls.crt", key = "/etc/tls/tls.key" }"#,
    ),
    (
        "replicas.tls.certificate",
        r#"certificate = "/etc/tls/tls.crt""#,
    ),
    ("replicas.tls.key", r#"key = "/etc/tls/tls.key""#),
    ("replicas.ca", r#"ca = "/etc/tls/replicas-ca.crt""#),
    ("replicas.rotate", r#"rotate = "24h""#),
    ("state.folder", r#"folder = "/var/lib/chillgate""#),
    ("rest", "[rest]"),
    ("rest.after", r#"after = "30m""#),
    ("limits", "[limits]"),
    ("limits.message", r#"message = "16MiB""#),
    ("limits.depth", "depth = 64"),
    ("limits.batch", "batch = 50"),
    ("limits.memory", r#"memory = "512MiB""#),
    ("limits.in-flight-per-agent", "in-flight-per-agent = 64"),
    ("limits.in-flight-per-server", "in-flight-per-server = 128"),
    ("limits.sessions", "sessions = 10000"),
    ("limits.sessions-per-agent", "sessions-per-agent = 10000"),
    ("limits.session-idle", r#"session-idle = "1h""#),
    ("limits.call-idle", r#"call-idle = "60s""#),
    ("limits.call-max", r#"call-max = "30m""#),
    ("limits.input-wait", r#"input-wait = "10m""#),
    ("limits.replay", r#"replay = "60s""#),
    ("limits.outbox", "outbox = 256"),
    ("limits.connections", "connections = 10000"),
    ("limits.drain", r#"drain = "25s""#),
    ("log", "[log]"),
    ("log.format", r#"format = "auto""#),
    ("log.filter", r#"filter = "info""#),
    ("remedy.*.name", r#"name = "vpn-is-down""#),
    (
        "remedy.*.match",
        r#"match = { server = "files", text = "no route to host" }"#,
    ),
    (
        "remedy.*.says",
        r#"says = "connect to the VPN and call again""#,
    ),
    ("remedy.*.check", "check = { port = 8080 }"),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slip_of_the_fingers_is_recognised() {
        let keys = ["listen", "transport", "allow-anonymous", "prefix", "tls"];
        assert_eq!(nearest("lisen", keys), Some("listen"));
        assert_eq!(nearest("lsiten", keys), Some("listen"));
        assert_eq!(nearest("allow_anonymous", keys), Some("allow-anonymous"));
        assert_eq!(nearest("TLS", keys), Some("tls"));
        assert_eq!(nearest("colour", keys), None);
        assert_eq!(nearest("", keys), None);
        assert_eq!(nearest(&"x".repeat(10_000), keys), None);
    }

    #[test]
    fn a_long_list_says_how_many_more_there_are() {
        assert_eq!(list([]), "");
        assert_eq!(list(["a"]), "`a`");
        assert_eq!(list(["a", "b", "c"]), "`a`, `b` or `c`");
        assert!(list(["a"; NAMED]).ends_with("`a` or `a`"));
        assert!(list(["a"; NAMED + 5]).ends_with("`a` or 5 more"));
    }

    #[test]
    fn the_distance_counts_single_changes() {
        for (a, b, changes) in [
            ("", "", 0),
            ("a", "", 1),
            ("ab", "ba", 1),
            ("kitten", "sitting", 3),
            ("값", "값", 0),
        ] {
            assert_eq!(distance(a, b), changes, "{a} {b}");
            assert_eq!(distance(b, a), changes, "{b} {a}");
        }
    }
}
