//! Callers that a connection vouches for: certificates, users of this machine; and tokens that a
//! Kubernetes API server is asked about.
//!
//! Certificates are made by openssl and shown by curl; the other user is the kernel's word.

use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::time::Duration;

use chillgate_tests::process::command;
use chillgate_tests::{Gate, Issuer};
use serde_json::{Value, json};

const HELLO: &str = r#"{"jsonrpc":"2.0","id":1,"method":"initialize","params":{"protocolVersion":"2025-11-25","capabilities":{},"clientInfo":{"name":"curl","version":"1"}}}"#;

/// An authority, a certificate of the gate's, and one for each of these alternative names.
async fn certificates(folder: &Path, hosts: &[(&str, &str, i32)]) {
    let shell = |script: String| async move {
        let made = command("sh")
            .args(["-ec", &script])
            .current_dir(folder)
            .output()
            .await
            .expect("sh is there");
        assert!(
            made.status.success(),
            "{script}: {}",
            String::from_utf8_lossy(&made.stderr)
        );
    };
    let key = "-newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes";
    for authority in ["ca", "other-ca"] {
        shell(format!(
            "openssl req -x509 {key} -days 2 -subj /CN={authority} -keyout {authority}.key -out {authority}.pem"
        ))
        .await;
    }
    let all = [("gate", "IP:127.0.0.1", 1)];
    for (name, alternative, days) in all.iter().chain(hosts) {
        let authority = if name.starts_with("foreign") {
            "other-ca"
        } else {
            "ca"
        };
        // A day in the past has ended before it began.
        let validity = if *days > 0 {
            format!("-days {days}")
        } else {
            "-not_before 20200101000000Z -not_after 20200102000000Z".to_owned()
        };
        let extension = if alternative.is_empty() {
            "basicConstraints=CA:FALSE".to_owned()
        } else {
            format!("subjectAltName={alternative}")
        };
        let sign = if *days > 0 {
            format!(
                "openssl x509 -req -in {name}.csr -CA {authority}.pem -CAkey {authority}.key -CAcreateserial {validity} -extfile {name}.ext -out {name}.pem"
            )
        } else {
            format!(
                "rm -rf db && mkdir db && touch db/index && echo 01 > db/serial && \
                 printf '[ca]\\ndefault_ca=a\\n[a]\\nnew_certs_dir=db\\ndatabase=db/index\\nserial=db/serial\\ndefault_md=sha256\\npolicy=p\\n[p]\\ncommonName=optional\\n' > db/conf && \
                 openssl ca -batch -config db/conf -in {name}.csr -cert {authority}.pem -keyfile {authority}.key -startdate 20200101000000Z -enddate 20200102000000Z -extfile {name}.ext -out {name}.pem"
            )
        };
        shell(format!(
            "printf '{extension}' > {name}.ext && \
             openssl req -new {key} -subj /CN={name} -keyout {name}.key -out {name}.csr && {sign}"
        ))
        .await;
    }
}

/// curl's `initialize`: status, or none where there was no HTTP at all.
async fn curl(folder: &Path, args: &[&str]) -> Option<u16> {
    let asked = command("curl")
        .args([
            "-s",
            "--max-time",
            "20",
            "-o",
            "answer",
            "-w",
            "%{http_code}",
        ])
        .args(["-H", "content-type: application/json"])
        .args(["-H", "accept: application/json, text/event-stream"])
        .args(["-d", HELLO])
        .args(args)
        .current_dir(folder)
        .output()
        .await
        .expect("curl is installed");
    let status = String::from_utf8_lossy(&asked.stdout).parse().unwrap_or(0);
    (status != 0).then_some(status)
}

#[tokio::test]
async fn a_certificate_names_its_agent_and_a_foreign_one_gets_no_connection() {
    let folder = tempfile::tempdir().unwrap();
    certificates(
        folder.path(),
        &[
            ("bot", "URI:spiffe://example.org/ns/a/sa/bot", 1),
            (
                "two",
                "URI:spiffe://example.org/a,URI:spiffe://example.org/b",
                1,
            ),
            ("domain", "URI:spiffe://other.example/a", 1),
            ("bare", "URI:spiffe://example.org", 1),
            ("web", "URI:https://example.org/a", 1),
            ("dns", "DNS:bot.example.org", 1),
            ("none", "", 1),
            ("old", "URI:spiffe://example.org/old", 0),
            ("foreign", "URI:spiffe://example.org/ns/a/sa/bot", 1),
        ],
    )
    .await;
    let at = folder.path().display();
    let start = |more: &str, identity: &str| {
        let tables = format!("[server.chill]\nbuiltin = \"chill\"\n[identity]\n{identity}");
        let tls = format!(
            "tls = {{ certificate = \"{at}/gate.pem\", key = \"{at}/gate.key\", client-ca = \"{at}/ca.pem\"{more} }}"
        );
        Gate::with(&tables).front(&tls).audited().start()
    };
    let spiffe = "certificate = { name = \"spiffe\", trust-domain = \"example.org\" }";
    let gate = start("", spiffe).await;
    let show = async |gate: &Gate, name: &str| {
        let (certificate, key) = (format!("{name}.pem"), format!("{name}.key"));
        let url = format!("https://{}/mcp", gate.front());
        let mut args = vec!["--cacert", "ca.pem", &url];
        if name != "nothing" {
            args.extend(["--cert", &certificate, "--key", &key]);
        }
        curl(folder.path(), &args).await
    };
    for (name, expected) in [
        ("bot", Some(200)),
        ("two", Some(401)),
        ("domain", Some(401)),
        ("bare", Some(401)),
        ("web", Some(401)),
        ("dns", Some(401)),
        ("none", Some(401)),
        ("old", None),
        ("foreign", None),
        ("nothing", None),
    ] {
        assert_eq!(show(&gate, name).await, expected, "{name}");
    }
    gate.records_when("the agent by its SPIFFE id", |records| {
        !records
            .of("agent", "spiffe://example.org/ns/a/sa/bot")
            .is_empty()
    })
    .await;

    let named = "certificate = { name = \"dns\" }\n\
                 api-keys = { bot = \"sha256:9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08\" }";
    let gate = start(", client-optional = true", named).await;
    assert_eq!(show(&gate, "dns").await, Some(200));
    assert_eq!(show(&gate, "bot").await, Some(401));
    assert_eq!(show(&gate, "nothing").await, Some(401));
    let url = format!("https://{}/mcp", gate.front());
    let keyed = [
        "--cacert",
        "ca.pem",
        "-H",
        "authorization: Bearer test",
        &url,
    ];
    assert_eq!(curl(folder.path(), &keyed).await, Some(200));
    assert_eq!(show(&gate, "foreign").await, None);
}

#[tokio::test]
async fn over_a_unix_socket_the_kernel_says_who_asks() {
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("mcp.sock");
    let own = rustix::process::getuid().as_raw();
    let tables = format!(
        "[server.chill]\nbuiltin = \"chill\"\n[identity]\nusers = {{ me = {own}, other = [4242, 4243] }}\n\
         [[front]]\nlisten = \"unix:{}\"",
        socket.display()
    );
    let gate = Gate::with(&tables).audited().start().await;
    let socket = socket.display().to_string();
    let args = ["--unix-socket", &socket, "http://localhost/mcp"];
    assert_eq!(curl(folder.path(), &args).await, Some(200));
    // A header names nobody here.
    let spoofed = [&args[..], &["-H", "x-agent-id: other"]].concat();
    assert_eq!(curl(folder.path(), &spoofed).await, Some(200));
    // Over TCP nobody vouches.
    let url = gate.url("/mcp");
    assert_eq!(curl(folder.path(), &[&url]).await, Some(401));
    let records = gate
        .records_when("two sessions", |records| {
            records.of("agent", "me").len() >= 2
        })
        .await;
    assert!(records.of("agent", "other").is_empty());
    if own != 0 {
        return;
    }
    std::fs::set_permissions(folder.path(), Permissions::from_mode(0o777)).unwrap();
    std::fs::set_permissions(&socket, Permissions::from_mode(0o777)).unwrap();
    for (user, expected) in [("4243", 200), ("4244", 401)] {
        let asked = command("setpriv")
            .args([
                "--reuid",
                user,
                "--clear-groups",
                "curl",
                "-s",
                "-o",
                "/dev/null",
            ])
            .args(["-w", "%{http_code}", "-H", "content-type: application/json"])
            .args([
                "-H",
                "accept: application/json, text/event-stream",
                "-d",
                HELLO,
            ])
            .args(args)
            .current_dir("/")
            .output()
            .await
            .expect("setpriv is installed");
        let status = String::from_utf8_lossy(&asked.stdout).into_owned();
        let said = String::from_utf8_lossy(&asked.stderr);
        assert_eq!(status, expected.to_string(), "{user}: {said}");
    }
}

#[tokio::test]
async fn an_api_server_says_whose_a_token_is_and_is_not_asked_twice() {
    let issuer = Issuer::start().await;
    let folder = tempfile::tempdir().unwrap();
    let own = folder.path().join("token");
    std::fs::write(&own, "own-token\n").unwrap();
    let ca = folder.path().join("ca.pem");
    certificates(folder.path(), &[]).await;
    let tables = format!(
        "[server.chill]\nbuiltin = \"chill\"\n[identity.token-review]\n\
         url = \"{}/apis/authentication.k8s.io/v1/tokenreviews\"\naudience = \"chillgate\"\n\
         ca = \"{}\"\ntoken = \"file:{}\"\nkeep = \"1s\"\n\
         [[policy]]\ntype = \"access\"\nmatch = {{ group = \"interns\" }}\ndeny = \"*\"",
        issuer.name(),
        ca.display(),
        own.display()
    );
    let gate = Gate::with(&tables).audited().start().await;
    let show = async |token: &str| {
        let bearer = format!("authorization: Bearer {token}");
        let url = gate.url("/mcp");
        curl(folder.path(), &["-H", &bearer, &url]).await
    };
    let reviews = async || issuer.count("reviews").await;
    let of = async |claims: Value| issuer.token(claims).await;
    let sub = "system:serviceaccount:agents:bot";
    let good = of(json!({ "sub": sub, "groups": ["interns"] })).await;
    for _ in 0..5 {
        assert_eq!(show(&good).await, Some(200));
    }
    assert_eq!(reviews().await, 1);
    gate.records_when("the service account", |records| {
        !records.of("agent", sub).is_empty()
    })
    .await;
    let other = of(json!({ "sub": sub, "aud": "other" })).await;
    for _ in 0..5 {
        assert_eq!(show(&other).await, Some(401));
    }
    assert_eq!(reviews().await, 2);
    assert_eq!(show("a.b.c").await, Some(401));
    // The pod is gone: no later than `keep` its token is no good.
    issuer.set(json!({ "gone": [sub] })).await;
    tokio::time::sleep(Duration::from_millis(1_100)).await;
    assert_eq!(show(&good).await, Some(401));
    issuer.set(json!({ "gone": [], "mode": "down" })).await;
    let new = of(json!({ "sub": sub, "exp": chillgate_tests::issuer::now() + 60 })).await;
    assert_eq!(show(&new).await, Some(503));
}
