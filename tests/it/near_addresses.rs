//! Whom chillgate reaches where a document, a server or a redirect names the address: nobody who is
//! near, however the address is written and whatever its name resolves to, now or a moment later.
//!
//! It stands apart because everything near must really be there to be reached: the gate, names, issuer,
//! servers and all the addresses are in a network namespace of their own, whose only way in or out is
//! a folder.

use std::fmt::Write as _;
use std::fs::read_to_string;
use std::path::Path;
use std::process::Stdio;

use serde_json::{Map, Value, json};

use chillgate_tests::process::{chillgate, command};
use chillgate_tests::script::interop;
use chillgate_tests::until;
use chillgate_tests::wait::seconds;

const OWN: &str = "http://127.0.0.1:7001";
/// An address of the internet, as far as the namespace goes.
const PUBLIC: &str = "93.184.216.34";

/// Near hosts, in all spellings that some resolver or parser takes for one.
const NEAR: [&str; 46] = [
    "127.0.0.1",
    "127.0.0.2",
    "127.255.255.254",
    "localhost",
    "LOCALHOST",
    "localhost.",
    "foo.localhost",
    "0.0.0.0",
    "0",
    "[::1]",
    "[::]",
    "[0:0:0:0:0:0:0:1]",
    "[::ffff:127.0.0.1]",
    "[::ffff:7f00:1]",
    "[::ffff:169.254.169.254]",
    "[::ffff:a9fe:a9fe]",
    "[::127.0.0.1]",
    "127.1",
    "127.0.1",
    "2130706433",
    "0x7f000001",
    "0x7f.0.0.1",
    "0177.0.0.1",
    "017700000001",
    "127.000.000.001",
    "169.254.169.254",
    "0xa9fea9fe",
    "2852039166",
    "0251.0376.0251.0376",
    "10.1.2.3",
    "172.16.3.4",
    "192.168.7.8",
    "100.64.1.2",
    "198.18.0.1",
    "[fd00:ec2::254]",
    "[fe80::1]",
    "[64:ff9b::7f00:1]",
    "[2002:7f00:1::]",
    "user@127.0.0.1",
    "loop.test",
    "meta.test",
    "ten.test",
    "mapped.test",
    "ula.test",
    "rebind.test",
    "mixed.test",
];

/// Where an event stream may say that messages go: elsewhere.
const PLACES: [&str; 12] = [
    "http://127.0.0.1:7002/m",
    "http://localhost:7002/m",
    "http://[::1]:7002/m",
    "http://169.254.169.254:7002/m",
    "//127.0.0.1:7002/m",
    "http://127.0.0.1:7001@127.0.0.1:7002/m",
    "http://2130706433:7002/m",
    "http://127.1:7002/m",
    "https://127.0.0.1:7001/m",
    "HTTP://127.0.0.1:7002/m",
    "http://10.1.2.3:7002/m",
    "http://loop.test:7002/m",
];

/// The namespace: everything near has its address, and names are asked of nobody outside.
const WORLD: &str = r#"
ip link set lo up
for near in 169.254.169.254 10.1.2.3 172.16.3.4 192.168.7.8 100.64.1.2 198.18.0.1 93.184.216.34; do
  ip addr add $near/32 dev lo
done
for near in fd00:ec2::254 fe80::1 64:ff9b::7f00:1 2002:7f00:1::; do
  ip -6 addr add $near/128 dev lo nodad
done
printf 'nameserver 127.0.0.1\n' > "$1/resolv.conf"
mount --bind "$1/resolv.conf" /etc/resolv.conf
node "$2" "$1" &
until ip -o addr show lo | grep -q 93.184 && node -e 'require("net").connect(7001,"127.0.0.1").on("connect",()=>process.exit(0)).on("error",()=>process.exit(1))'; do
  sleep 0.1
done
"$3" serve --config "$1/chillgate.toml" 2> "$1/log"
"#;

/// What each path of the world answers, and the configuration that leads there.
#[derive(Default)]
struct Rows {
    answers: Map<String, Value>,
    issuers: String,
    servers: String,
    /// Paths that must have been asked for a row to have been tried.
    tried: Vec<String>,
}

impl Rows {
    fn issuer(&mut self, metadata: Value) {
        let number = self.tried.len();
        let path = format!("/.well-known/oauth-authorization-server/i/{number}");
        self.answers.insert(path.clone(), metadata);
        self.tried.push(path);
        write!(
            self.issuers,
            "[[identity.jwt]]\nissuer = \"{OWN}/i/{number}\"\naudience = \"a\"\nprefix = \"p{number}:\"\n"
        )
        .unwrap();
    }

    /// An issuer whose metadata say that its keys are there.
    fn keys_at(&mut self, uri: &str) {
        let number = self.tried.len();
        let body = json!({ "issuer": format!("{OWN}/i/{number}"), "jwks_uri": uri });
        self.issuer(json!({ "body": body.to_string() }));
    }

    fn server(&mut self, kind: &str, keys: &str, answer: Value) {
        let number = self.tried.len();
        let path = format!("/{kind}/{number}");
        self.answers.insert(path.clone(), answer);
        let keys = keys.replace("@PATH@", &format!("{OWN}{path}"));
        write!(self.servers, "[server.s{number}]\n{keys}\n").unwrap();
        self.tried.push(path);
    }
}

fn redirect(status: u16) -> Value {
    json!({ "status": status, "headers": { "location": "http://127.0.0.1:7002/jwks" } })
}

fn rows() -> Rows {
    let mut rows = Rows::default();
    for host in NEAR {
        rows.keys_at(&format!("http://{host}:7002/jwks"));
    }
    for status in [301, 302, 307, 308] {
        rows.issuer(redirect(status));
        let path = format!("/moved/{status}");
        rows.answers.insert(path.clone(), redirect(status));
        rows.keys_at(&format!("{OWN}{path}"));
        let remote = "url = \"@PATH@\"\nera = \"legacy\"";
        rows.server("mcp", remote, redirect(status));
        rows.server(
            "modern",
            "url = \"@PATH@\"\nera = \"modern\"",
            redirect(status),
        );
        let stream = "url = \"@PATH@\"\ntransport = \"http-sse\"";
        rows.server("stream", stream, redirect(status));
        let token = "url = \"http://127.0.0.1:7001/judging\"\nera = \"legacy\"\n\
            token = { endpoint = \"@PATH@\", client-id = \"a\", client-secret = \"b\" }";
        rows.server("token", token, redirect(status));
    }
    for place in PLACES {
        let headers = json!({ "content-type": "text/event-stream" });
        let body = format!("event: endpoint\ndata: {place}\n\n");
        let stream = "url = \"@PATH@\"\ntransport = \"http-sse\"";
        rows.server("sse", stream, json!({ "headers": headers, "body": body }));
    }
    let elsewhere =
        "Bearer resource_metadata=\"http://127.0.0.1:7002/m\", as_uri=\"http://127.0.0.1:7002/a\"";
    let challenge = json!({ "status": 401, "headers": { "www-authenticate": elsewhere } });
    rows.server("challenge", "url = \"@PATH@\"\nera = \"legacy\"", challenge);
    // What is public, and what is the issuer's own, is reached.
    rows.keys_at(&format!("http://{PUBLIC}:7002/jwks"));
    rows.keys_at("http://public.test:7002/jwks");
    rows.keys_at(&format!("{OWN}/own"));
    rows.tried.push("/own".to_owned());
    rows
}

fn lines(folder: &Path, file: &str) -> Vec<String> {
    let text = read_to_string(folder.join(file)).unwrap_or_default();
    text.lines().map(str::to_owned).collect()
}

#[tokio::test]
async fn nobody_near_is_reached_because_somebody_else_names_the_address() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    let rows = rows();
    let names = json!({
        "loop.test": [["127.0.0.1"]], "meta.test": [["169.254.169.254"]], "ten.test": [["10.1.2.3"]],
        "mapped.test": [["0000:0000:0000:0000:0000:ffff:7f00:0001"]],
        "ula.test": [["fd00:0ec2:0000:0000:0000:0000:0000:0254"]],
        "rebind.test": [[PUBLIC], ["127.0.0.1"]], "mixed.test": [["127.0.0.1", PUBLIC]],
        "public.test": [[PUBLIC]],
    });
    let world = json!({ "rows": rows.answers, "names": names });
    std::fs::write(at.join("rows.json"), world.to_string()).unwrap();
    let config = format!(
        "[[front]]\nlisten = \"127.0.0.1:7003\"\n[health]\nlisten = \"127.0.0.1:7004\"\n{}{}",
        rows.issuers, rows.servers
    );
    std::fs::write(at.join("chillgate.toml"), config).unwrap();
    let all = [
        "--user",
        "--map-root-user",
        "--net",
        "--mount",
        "--pid",
        "--fork",
    ];
    let mut world = command("unshare");
    world
        .args(all)
        .args(["--kill-child", "--mount-proc", "sh", "-ec", WORLD, "world"])
        .arg(at)
        .arg(interop().join("ts/near.mjs"))
        .arg(chillgate())
        .env("XDG_CONFIG_HOME", "/nonexistent")
        .env("XDG_STATE_HOME", "/dev/null/none")
        .stdin(Stdio::null());
    let mut world = world.spawn().expect("unshare is installed");
    let missing = || {
        let asked = lines(at, "asked");
        let was = |path: &&String| asked.iter().any(|line| line.ends_with(&format!(" {path}")));
        let missing: Vec<_> = rows.tried.iter().filter(|path| !was(path)).collect();
        format!("{missing:?}\n{}", lines(at, "log").join("\n"))
    };
    until("every row to be tried", seconds(60), async || {
        if let Some(status) = world.try_wait().unwrap() {
            panic!("the world has ended with {status}: {}", missing());
        }
        let is_tried = missing().starts_with("[]");
        let public = lines(at, "hits");
        (is_tried && public.len() >= 3).then_some(())
    })
    .await;
    // What could still be under way has time to arrive.
    tokio::time::sleep(seconds(2)).await;
    let hits = lines(at, "hits");
    let near: Vec<_> = hits.iter().filter(|to| !to.ends_with(PUBLIC)).collect();
    assert!(near.is_empty(), "{near:?}");
    assert!(rows.tried.len() >= 60, "{}", rows.tried.len());
    let log = lines(at, "log").join("\n");
    let refused = log.matches("is at no public address").count();
    assert!(refused >= 20, "{refused}: {log}");
    let places = log.matches("which is not at its own address").count();
    assert!(places >= PLACES.len(), "{places}: {log}");
    drop(world);
}
