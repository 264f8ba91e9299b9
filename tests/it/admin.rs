//! The admin API and its verbs: usage shown and given back, and nobody let in who should not be.
//!
//! It stands apart because an administrator is no host. What is ordered here is judged by what
//! agents get and by the audit log.

use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt as _;

use chillgate_tests::audit::Records;
use chillgate_tests::gate::{Builder, bare, ended};
use chillgate_tests::http::{Connection, collect, raw};
use chillgate_tests::process::{command, free_port};
use chillgate_tests::wait::{all, seconds, within};
use chillgate_tests::{Gate, Host, Redis, until};
use serde_json::{Value, json};

use crate::mock;

pub(crate) const HEADER: &str = "[identity]\nheader = \"x-agent-id\"\n";
pub(crate) const TOKEN: &str = "an-admin-token-of-some-length";
pub(crate) const BOSS: &str = "[[policy]]\ntype = \"boss-alert\"\nname = \"boss\"\nmatch = { tool = \"echo\" }\n\
                    alertness = 0\ncooldown = \"1h\"\nhold = \"2s\"\n";
pub(crate) const CALLS: &str =
    "[[policy]]\ntype = \"quota\"\nname = \"calls\"\nmatch = { tool = \"pid\" }\nallow = \"3/h\"\n";
/// An order as most tests give it.
pub(crate) const DRILL: &str =
    r#"{"policy":"boss","values":{"alertness":100},"for":"1m","reason":"incident drill"}"#;

/// A gate whose admin API is on loopback.
pub(crate) struct Ruled {
    pub(crate) gate: Gate,
    pub(crate) admin: SocketAddr,
}

impl Ruled {
    pub(crate) async fn start(policies: &str) -> Self {
        let admin = SocketAddr::from(([127, 0, 0, 1], free_port()));
        let table = format!("[admin]\nlisten = \"{admin}\"\ntoken = \"file:@DIR@/token\"\n");
        let gate = Self::tables(&(table + policies)).file("token", &format!("{TOKEN}\n"));
        let gate = gate.audited().start().await;
        Self { gate, admin }
    }

    pub(crate) fn tables(more: &str) -> Builder {
        let state = "[state]\nfolder = \"@DIR@/state\"\n";
        Gate::with(&(mock("a").table("") + HEADER + state + more))
    }

    /// Asks with these headers besides the right host.
    pub(crate) async fn ask_as(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: &str,
    ) -> (u16, Value) {
        let mut connection = Connection::open(self.admin).await;
        let sent = connection.send(method, path, headers, body.to_owned().into());
        let answer = collect(sent.await).await;
        let value = serde_json::from_slice(&answer.body);
        (
            answer.status,
            value.unwrap_or_else(|_| panic!("no JSON: {}", answer.text())),
        )
    }

    pub(crate) async fn ask(&self, method: &str, path: &str, body: &str) -> (u16, Value) {
        let bearer = format!("Bearer {TOKEN}");
        let headers = [
            ("authorization", &*bearer),
            ("content-type", "application/json"),
        ];
        self.ask_as(method, path, &headers, body).await
    }

    pub(crate) async fn agent(&self, name: &str) -> Host {
        self.gate.host().header("x-agent-id", name).open().await
    }
}

/// A verb of this gate's configuration: its code, output and errors.
pub(crate) async fn verb(gate: &Gate, words: &[&str]) -> (Option<i32>, String, String) {
    let mut command = bare();
    command.args(words).arg("--config").arg(gate.config());
    ended(command, 30).await
}

/// So many calls; how many are not refused.
pub(crate) async fn answered(host: &Host, tool: &str, calls: usize) -> usize {
    let calling = (0..calls).map(|_| host.call(tool, json!({ "message": "x" })));
    let replies = all(calling).await;
    replies
        .iter()
        .filter(|reply| reply.code().is_none())
        .count()
}

/// The records of what administrators did, once there are so many.
pub(crate) async fn acts(gate: &Gate, count: usize) -> Vec<Value> {
    let file = gate.folder().join("audit.jsonl");
    let what = format!("{count} records of administrators");
    let acts = until(&what, seconds(30), async || {
        let acts = Records::read(&file).of("phase", "admin");
        (acts.len() >= count).then_some(acts)
    });
    acts.await.iter().cloned().collect()
}

/// What is spent is shown and given back without a store, by the API and by the verb; an override of
/// a limit neither refills nor forgets.
#[tokio::test]
async fn what_is_spent_in_memory_is_shown_and_given_back() {
    let ruled = Ruled::start(&(CALLS.to_owned() + BOSS)).await;
    let (one, two) = (ruled.agent("one").await, ruled.agent("two").await);
    assert_eq!(
        (
            answered(&one, "pid", 5).await,
            answered(&two, "pid", 2).await
        ),
        (3, 2)
    );
    let (code, out, err) = verb(&ruled.gate, &["quota"]).await;
    assert_eq!((code, err.as_str()), (Some(0), ""));
    assert!(
        out.contains("calls agent one: 3 spent, 0 left, full in "),
        "{out}"
    );
    assert!(
        out.contains("calls agent two: 2 spent, 1 left, full in "),
        "{out}"
    );

    // Wider for a while: two more, not five; and back: none.
    let wider = r#"{"policy":"calls","values":{"allow":"5/h"},"for":"1h"}"#;
    let (status, set) = ruled.ask("POST", "/api/v1/overrides", wider).await;
    assert_eq!(status, 201, "{set}");
    assert_eq!(answered(&one, "pid", 5).await, 2);
    let (_, shown) = ruled.ask("GET", "/api/v1/policies", "").await;
    let calls = shown["policies"]
        .as_array()
        .unwrap()
        .iter()
        .find(|it| it["policy"] == "calls");
    let calls = calls.unwrap();
    assert_eq!(
        (&calls["values"]["allow"], &calls["type"]),
        (&json!("5/h"), &json!("quota"))
    );
    assert_eq!(calls["overrides"][0]["id"], set["id"]);
    let end = format!("/api/v1/overrides/{}", set["id"].as_str().unwrap());
    assert_eq!(ruled.ask("DELETE", &end, "").await.0, 200);
    assert_eq!(ruled.ask("DELETE", &end, "").await.0, 404);
    assert_eq!(
        (
            answered(&one, "pid", 5).await,
            answered(&two, "pid", 5).await
        ),
        (0, 1)
    );

    let (code, out, err) = verb(
        &ruled.gate,
        &["quota", "--policy", "calls", "--agent", "one", "--reset"],
    )
    .await;
    assert_eq!(
        (code, err.as_str()),
        (Some(0), "1 forgotten: full again.\n"),
        "{out}"
    );
    assert_eq!(
        (
            answered(&one, "pid", 5).await,
            answered(&two, "pid", 5).await
        ),
        (3, 0)
    );
    let (status, reset) = ruled.ask("DELETE", "/api/v1/quota?policy=calls", "").await;
    assert_eq!(
        (status, reset["reset"].as_array().unwrap().len()),
        (200, 2),
        "{reset}"
    );
    assert_eq!(answered(&two, "pid", 5).await, 3);
    let (_, shown) = ruled.ask("GET", "/api/v1/quota?agent=two", "").await;
    assert_eq!(shown["usage"].as_array().unwrap().len(), 1, "{shown}");
    assert_eq!(
        (&shown["usage"][0]["spent"], &shown["usage"][0]["policy"]),
        (&json!(3), &json!("calls"))
    );
    let acts = acts(&ruled.gate, 4).await;
    assert_eq!(
        (&acts[2]["action"], &acts[2]["agent"], &acts[2]["count"]),
        (&json!("quota-reset"), &json!("one"), &json!(1))
    );
    assert_eq!((acts[3].get("agent"), &acts[3]["count"]), (None, &json!(2)));
    ruled.gate.records(1).await.assert_unbroken();
}

/// Faults, row 67: nobody gets in without the token, from another name, or with a page.
#[tokio::test]
async fn nobody_gets_in_who_should_not() {
    let ruled = Ruled::start(BOSS).await;
    let right = format!("Bearer {TOKEN}");
    let json = ("content-type", "application/json");
    let good = ("authorization", right.as_str());
    for (headers, status) in [
        (vec![json], 401),
        (vec![json, ("authorization", "Bearer wrong")], 401),
        (
            vec![
                json,
                ("authorization", "Bearer an-admin-token-of-some-lengtH"),
            ],
            401,
        ),
        (vec![json, good, ("host", "evil.example")], 403),
        (vec![json, good, ("host", "localhost.evil.example:80")], 403),
        (vec![json, good, ("origin", "http://evil.example")], 403),
        (vec![json, good, ("origin", "null")], 403),
        (vec![good], 415),
        (vec![("content-type", "text/plain"), good], 415),
        (vec![json, good], 201),
    ] {
        let (got, answer) = ruled
            .ask_as("POST", "/api/v1/overrides", &headers, DRILL)
            .await;
        assert_eq!(got, status, "{headers:?}: {answer}");
        assert!(!answer.to_string().contains(TOKEN));
    }
    for (method, path, status) in [
        ("GET", "/", 404),
        ("GET", "/api/v1/nothing", 404),
        ("GET", "/mcp", 404),
        ("GET", "/metrics", 404),
        ("GET", "/api/v1", 200),
        ("GET", "/api/v1/policies/", 200),
        ("PUT", "/api/v1/overrides", 405),
        ("GET", "/api/v1/overrides/ab", 405),
        ("GET", "/api/v1/reload", 405),
        ("POST", "/api/v1/quota", 405),
        ("DELETE", "/api/v1/quota", 400),
        ("DELETE", "/api/v1/quota?polcy=boss", 400),
        ("DELETE", "/api/v1/quota?policy=bos", 404),
        ("DELETE", "/api/v1/overrides/ab", 404),
    ] {
        let (got, answer) = ruled.ask(method, path, "").await;
        assert_eq!(got, status, "{method} {path}: {answer}");
    }
    let (status, _) = ruled
        .ask("POST", "/api/v1/overrides", &"x".repeat(65 << 10))
        .await;
    assert_eq!(status, 413);
    // Half a head, and half a body: neither holds its place for long.
    let quiet = raw(ruled.admin, b"GET /api/v1 HTTP/1.1\r\nHo", seconds(8));
    within("the end of half a request", seconds(10), quiet).await;
    for port in [ruled.gate.front(), ruled.gate.health()] {
        let mut connection = Connection::open(port).await;
        let sent = connection
            .send("GET", "/api/v1/policies", &[good], bytes::Bytes::new())
            .await;
        assert_eq!(
            collect(sent).await.status,
            404,
            "{port} serves the admin API"
        );
    }
    // Another network namespace has another loopback.
    let mut far = command("unshare");
    let address = ruled.admin.to_string();
    far.args([
        "-rn",
        "sh",
        "-c",
        "ip link set lo up; exec curl -s -m 3 -o /dev/null \"http://$0/api/v1\"",
        &address,
    ]);
    let output = far.output().await.unwrap();
    assert_eq!(
        output.status.code(),
        Some(7),
        "curl says: cannot connect; {output:?}"
    );
    // The token is read each time.
    std::fs::write(
        ruled.gate.folder().join("token"),
        "another-token-of-some-length",
    )
    .unwrap();
    assert_eq!(ruled.ask("GET", "/api/v1/policies", "").await.0, 401);
    let log = ruled.gate.log().join("\n");
    assert!(!log.contains(TOKEN), "the token is in the log");
}

/// On a socket its file is the lock, and what the kernel says of the caller a second one.
#[tokio::test]
async fn a_socket_is_its_users_alone() {
    let folder = tempfile::tempdir().unwrap();
    let open = std::fs::Permissions::from_mode(0o755);
    std::fs::set_permissions(folder.path(), open).unwrap();
    let socket = folder.path().join("admin.sock");
    let table = format!("[admin]\nlisten = \"unix:{}\"\n", socket.display());
    let gate = Ruled::tables(&(table + BOSS)).audited().start().await;
    let mode = std::fs::metadata(&socket).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let (code, out, err) = verb(
        &gate,
        &["override", "set", "boss", "alertness=95", "--for", "1m"],
    )
    .await;
    assert_eq!((code, err.as_str()), (Some(0), ""), "{out}");
    let me = rustix::process::geteuid().as_raw();
    assert_eq!(acts(&gate, 1).await[0]["by"], format!("user {me}"));

    // Another user: first the file keeps it out, then, should somebody open that, its number.
    let ask = "import socket, sys\ns = socket.socket(socket.AF_UNIX)\ntry:\n s.connect(sys.argv[1])\n\
               except PermissionError:\n print('out'); sys.exit()\n\
               s.sendall(b'GET /api/v1/policies HTTP/1.1\\r\\nHost: x\\r\\n\\r\\n')\nprint(s.recv(12).decode())";
    let other = async || {
        let mut command = if me == 0 {
            command("setpriv")
        } else {
            let mut sudo = command("sudo");
            sudo.arg("setpriv");
            sudo
        };
        command.args([
            "--reuid=65534",
            "--regid=65534",
            "--clear-groups",
            "/usr/bin/python3",
            "-c",
            ask,
        ]);
        let output = command.arg(&socket).output().await.unwrap();
        let said = [output.stdout, output.stderr].concat();
        String::from_utf8_lossy(&said).trim().to_owned()
    };
    assert_eq!(other().await, "out");
    std::fs::set_permissions(&socket, std::fs::Permissions::from_mode(0o666)).unwrap();
    assert_eq!(other().await, "HTTP/1.1 403");
    let (status, _) = gate.stop().await;
    assert!(
        status.success() && !socket.exists(),
        "the socket is left behind"
    );
}

/// Without an admin API a verb says what to write; with one that does not answer, where it looked.
#[tokio::test]
async fn a_verb_that_finds_nobody_says_what_to_do() {
    let gate = Gate::with(&(mock("a").table("") + CALLS)).start().await;
    for words in [
        &["override", "list"][..],
        &["quota"],
        &["override", "end", "3f9a1c07"],
    ] {
        let (code, _, err) = verb(&gate, words).await;
        assert_eq!(code, Some(2), "{words:?}");
        assert!(err.contains("[admin] listen = \"unix:"), "{words:?}: {err}");
    }
    let ruled = Ruled::start(CALLS).await;
    let folder = ruled.gate.kill().await;
    let mut command = bare();
    command
        .args(["quota", "--config"])
        .arg(folder.path().join("chillgate.toml"));
    let (code, _, err) = ended(command, 20).await;
    assert_eq!(code, Some(2));
    assert!(
        err.contains("nobody answers on 127.0.0.1:") && err.contains("is chillgate running"),
        "{err}"
    );
}

/// What cannot be recorded is not done.
#[tokio::test]
async fn what_cannot_be_recorded_is_not_done() {
    let admin = SocketAddr::from(([127, 0, 0, 1], free_port()));
    let table = format!(
        "[admin]\nlisten = \"{admin}\"\ntoken = \"{TOKEN}\"\n[audit]\nfile = \"/dev/full\"\n"
    );
    let gate = Ruled::tables(&(table + CALLS + BOSS)).start().await;
    let ruled = Ruled { gate, admin };
    // The first record shows that nothing can be written.
    let _ = ruled.ask("POST", "/api/v1/overrides", DRILL).await;
    until("the audit log to be down", seconds(10), async || {
        let scrape = ruled.gate.scrape().await;
        (scrape.sum("chillgate_audit_write_failures_total", &[]) > 0.0).then_some(())
    })
    .await;
    let calls = r#"{"policy":"calls","values":{"allow":"1/h"},"for":"1m"}"#;
    let (status, answer) = ruled.ask("POST", "/api/v1/overrides", calls).await;
    assert_eq!(status, 503, "{answer}");
    assert!(
        answer["error"].as_str().unwrap().contains("audit log"),
        "{answer}"
    );
    let (status, _) = ruled.ask("DELETE", "/api/v1/quota?policy=calls", "").await;
    assert_eq!(status, 503);
    let (_, shown) = ruled.ask("GET", "/api/v1/policies", "").await;
    assert!(shown.to_string().contains("\"3/h\""), "{shown}");
}

/// Where replicas count together, the admin API of each shows and gives back what all have spent.
#[tokio::test]
async fn what_is_spent_in_a_store_is_shown_and_given_back() {
    let redis = Redis::start().await;
    let admin = SocketAddr::from(([127, 0, 0, 1], free_port()));
    // A machine that is busy with other things must not look like a store that is away.
    let state = format!("[state]\nstore = \"{}\"\ntimeout = \"5s\"\n", redis.url());
    let table = format!("[admin]\nlisten = \"{admin}\"\ntoken = \"{TOKEN}\"\n");
    let near = Gate::with(&(mock("a").table("") + HEADER + &state + &table + CALLS));
    let far = Gate::with(&(mock("a").table("") + HEADER + &state + CALLS));
    let (gate, far) = tokio::join!(near.audited().start(), far.start());
    let host = far.host().header("x-agent-id", "one").open().await;
    let ruled = Ruled { gate, admin };
    assert_eq!(answered(&host, "pid", 5).await, 3);
    let (_, shown) = ruled.ask("GET", "/api/v1/quota", "").await;
    assert_eq!(shown["usage"][0]["spent"], 3, "{shown}");
    let (status, reset) = ruled
        .ask("DELETE", "/api/v1/quota?policy=calls&agent=one", "")
        .await;
    assert_eq!((status, &reset["reset"][0]["agent"]), (200, &json!("one")));
    let (_, shown) = ruled.ask("GET", "/api/v1/quota", "").await;
    assert_eq!(shown, json!({ "usage": [] }));
    // A refusal is remembered for a second.
    tokio::time::sleep(seconds(1)).await;
    assert_eq!(answered(&host, "pid", 5).await, 3);
    assert_eq!(acts(&ruled.gate, 1).await[0]["count"], 1);
}
