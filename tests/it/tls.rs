//! A front with a certificate, and a remote server behind a private authority: TLS both ways.
//!
//! The certificates are made here with openssl and judged by curl, which is nobody's of ours.

use std::path::Path;
use std::time::Duration;

use chillgate_tests::process::command;
use chillgate_tests::wait::within;
use chillgate_tests::{Gate, Host};
use serde_json::json;

/// A certificate for 127.0.0.1 that signs itself: `cert.pem` and `key.pem`.
pub(crate) async fn certificate(folder: &Path) -> (String, String) {
    let made = command("openssl")
        .args(
            "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2".split(' '),
        )
        .args(
            "-subj /CN=chillgate -addext subjectAltName=IP:127.0.0.1,DNS:localhost \
                -addext basicConstraints=critical,CA:FALSE"
                .split(' '),
        )
        .args("-keyout key.pem -out cert.pem".split(' '))
        .current_dir(folder)
        .output()
        .await
        .expect("openssl is installed");
    assert!(
        made.status.success(),
        "{}",
        String::from_utf8_lossy(&made.stderr)
    );
    let read = |name: &str| std::fs::read_to_string(folder.join(name)).expect("openssl wrote it");
    (read("cert.pem"), read("key.pem"))
}

async fn over_tls() -> (Gate, tempfile::TempDir) {
    let folder = tempfile::tempdir().expect("the temporary directory can be written");
    let (certificate, key) = certificate(folder.path()).await;
    let gate = Gate::with("[server.chill]\nbuiltin = \"chill\"")
        .front("tls = { certificate = \"@DIR@/cert.pem\", key = \"@DIR@/key.pem\" }")
        .file("cert.pem", &certificate)
        .file("key.pem", &key)
        .start()
        .await;
    (gate, folder)
}

#[tokio::test]
async fn a_front_with_a_certificate_speaks_https_and_nothing_else() {
    let (gate, folder) = over_tls().await;
    let hello = json!({
        "jsonrpc": "2.0", "id": 1, "method": "initialize",
        "params": {"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {"name": "curl", "version": "1"}}
    });
    let ask = |scheme: &str, trust: &[&str]| {
        let mut curl = command("curl");
        curl.args([
            "-sS",
            "--max-time",
            "10",
            "-H",
            "content-type: application/json",
        ])
        .args(["-H", "accept: application/json, text/event-stream"])
        .args(trust)
        .args([
            "-d",
            &hello.to_string(),
            &format!("{scheme}://{}/mcp", gate.front()),
        ])
        .current_dir(folder.path());
        async move { curl.output().await.expect("curl is installed") }
    };
    let answer = ask("https", &["--cacert", "cert.pem"]).await;
    assert!(
        answer.status.success(),
        "{}",
        String::from_utf8_lossy(&answer.stderr)
    );
    let answer: serde_json::Value = serde_json::from_slice(&answer.stdout).expect("JSON");
    assert_eq!(answer["result"]["serverInfo"]["name"], "chillgate");
    // A client that does not know the authority is right to refuse; so is the front to plain HTTP.
    assert!(!ask("https", &[]).await.status.success());
    assert!(!ask("http", &[]).await.status.success());
    gate.stop().await;
}

#[tokio::test]
async fn a_remote_server_behind_a_private_authority_is_trusted_only_by_its_ca() {
    let (far, folder) = over_tls().await;
    let authority = folder.path().join("cert.pem");
    let near = Gate::with(&format!(
        "[server.known]\nurl = \"https://{address}/mcp\"\nca = \"{}\"\n\
         [server.unknown]\nurl = \"https://{address}/mcp\"",
        authority.display(),
        address = far.front(),
    ))
    .start()
    .await;
    let host = Host::new(near.front()).path("/server/known/mcp").open();
    let host = within("the session", Duration::from_secs(20), host).await;
    let answer = host.call("check_stress_status", json!({})).await;
    assert!(
        answer.tool_text().contains("Stress Level:"),
        "{}",
        answer.text
    );
    let stranger = Host::new(near.front()).path("/server/unknown/mcp");
    let refused = stranger.post(&stranger.hello(&json!({}))).await;
    assert_eq!(refused.code(), Some(50300), "{}", refused.text);
    assert!(refused.text.contains("certificate"), "{}", refused.text);
    near.stop().await;
    far.stop().await;
}
