//! The official SDKs' clients and real servers, with the gate between them, and without as control.
//!
//! It stands apart because nothing here is ours but the gate. Each row first has its control: the
//! same client, the same suite, straight at the same server; a red control is not chillgate's fault.

use std::process::Stdio;

use chillgate_tests::http::get;
use chillgate_tests::process::{command, dual_server, free_port, root};
use chillgate_tests::script::{
    Endpoint, SDKS, Script, Sdk, fast_server, interop, loopback, npm_server, python, uvx,
    uvx_server,
};
use chillgate_tests::server::toml_list;
use chillgate_tests::wait::seconds;
use chillgate_tests::{Gate, until};
use serde_json::Value;
use tokio::process::{Child, Command};

/// server-everything over stdio, as a command.
fn everything() -> Vec<String> {
    vec![
        "node".to_owned(),
        npm_server("everything").display().to_string(),
        "stdio".to_owned(),
    ]
}

fn table(name: &str, words: &[String], more: &str) -> String {
    format!("[server.{name}]\ncommand = {}\n{more}\n", toml_list(words))
}

/// The four stdio servers behind one gate. `@DIR@` is the filesystem server's directory.
fn four() -> String {
    let files = [
        "node".to_owned(),
        npm_server("filesystem").display().to_string(),
        "@DIR@".to_owned(),
    ];
    let memory = [
        "node".to_owned(),
        npm_server("memory").display().to_string(),
    ];
    let fast = [
        python().display().to_string(),
        fast_server().display().to_string(),
    ];
    table("everything", &everything(), "")
        + &table("files", &files, "")
        + &table(
            "memory",
            &memory,
            "env = { MEMORY_FILE_PATH = \"@DIR@/memory.jsonl\" }",
        )
        + &table("fast", &fast, "")
}

/// server-everything over Streamable HTTP on loopback; ends with the value.
pub(crate) async fn remote() -> (Child, String) {
    remote_over("streamableHttp", "/mcp").await
}

async fn remote_over(transport: &str, path: &str) -> (Child, String) {
    let port = free_port();
    let mut node = command("node");
    node.arg(npm_server("everything")).arg(transport);
    node.env("PORT", port.to_string());
    node.env(
        "NODE_OPTIONS",
        format!("--require {}", loopback().display()),
    );
    let child = started(node, port).await;
    (child, format!("http://127.0.0.1:{port}{path}"))
}

/// What the merged endpoint offers: all but 2025-11-25 tasks, whose ids name no server.
const MERGED: &str = "initialize,ping,tools,tool_errors,resources,prompts,completion,sampling,elicitation,roots,\
    progress,logging,subscriptions,cancellation,concurrency";

/// Runs the whole suite of server-everything; every part of MCP must have been checked.
async fn all_of_mcp(sdk: Sdk, endpoint: &Endpoint, options: &[&str]) {
    let checks = Script::new(sdk, "everything")
        .with(options)
        .run(endpoint)
        .await;
    for part in [
        "tools",
        "resources",
        "prompts",
        "completion",
        "sampling",
        "elicitation",
        "roots",
        "progress",
        "logging",
        "subscriptions",
        "cancellation",
    ] {
        assert!(
            checks.iter().any(|check| check == part),
            "{part} was not checked: {checks:?}"
        );
    }
}

async fn control_stdio(sdk: Sdk) {
    all_of_mcp(sdk, &Endpoint::Command(everything()), &[]).await;
}

async fn control_http(sdk: Sdk) {
    let (_server, url) = remote().await;
    all_of_mcp(sdk, &Endpoint::Url(url), &[]).await;
}

async fn wrapped(sdk: Sdk) {
    let mut words = vec![chillgate_tests::process::chillgate().display().to_string()];
    words.extend(["wrap".to_owned(), "--".to_owned()]);
    words.extend(everything());
    all_of_mcp(sdk, &Endpoint::Command(words), &[]).await;
}

async fn merged(sdk: Sdk) {
    let gate = Gate::with(&four()).start().await;
    // A list waits five seconds for a server; four that start at once may take longer.
    until("its servers", seconds(60), async || {
        let answer: Value =
            serde_json::from_str(&get(gate.health(), "/readyz").await.text()).unwrap();
        let servers = answer["servers"].as_array().unwrap();
        servers.iter().all(|it| it["state"] == "up").then_some(())
    })
    .await;
    let url = Endpoint::Url(gate.url("/mcp"));
    let folder = gate.folder().display().to_string();
    all_of_mcp(
        sdk,
        &url,
        &[
            "--prefix",
            "everything__",
            "--dir",
            &folder,
            "--checks",
            MERGED,
        ],
    )
    .await;
    let files = Script::new(sdk, "filesystem").with(&["--prefix", "files__", "--dir", &folder]);
    files.run(&url).await;
    Script::new(sdk, "memory")
        .with(&["--prefix", "memory__"])
        .run(&url)
        .await;
    Script::new(sdk, "fastmcp")
        .with(&["--prefix", "fast__", "--dir", &folder])
        .run(&url)
        .await;
}

async fn one_of_many(sdk: Sdk) {
    let gate = Gate::with(&four()).start().await;
    let folder = gate.folder().display().to_string();
    let at = |name: &str| Endpoint::Url(gate.url(&format!("/server/{name}/mcp")));
    all_of_mcp(sdk, &at("everything"), &["--dir", &folder]).await;
    Script::new(sdk, "filesystem")
        .with(&["--dir", &folder])
        .run(&at("files"))
        .await;
    Script::new(sdk, "memory").run(&at("memory")).await;
    Script::new(sdk, "fastmcp")
        .with(&["--dir", &folder])
        .run(&at("fast"))
        .await;
}

async fn remote_behind(sdk: Sdk) {
    let (_server, url) = remote().await;
    let gate = Gate::with(&format!("[server.everything]\nurl = \"{url}\"\n"))
        .start()
        .await;
    all_of_mcp(sdk, &Endpoint::Url(gate.url("/mcp")), &["--checks", MERGED]).await;
    all_of_mcp(sdk, &Endpoint::Url(gate.url("/server/everything/mcp")), &[]).await;
}

/// The same server over HTTP+SSE of 2024-11-05.
async fn remote_http_sse(sdk: Sdk) {
    let (_server, url) = remote_over("sse", "/sse").await;
    let gate = Gate::with(&format!(
        "[server.everything]\nurl = \"{url}\"\ntransport = \"http-sse\"\n"
    ))
    .start()
    .await;
    all_of_mcp(sdk, &Endpoint::Url(gate.url("/mcp")), &["--checks", MERGED]).await;
    all_of_mcp(sdk, &Endpoint::Url(gate.url("/server/everything/mcp")), &[]).await;
}

async fn connected(sdk: Sdk) {
    let (_server, url) = remote().await;
    let gate = chillgate_tests::process::chillgate().display().to_string();
    all_of_mcp(
        sdk,
        &Endpoint::Command(vec![gate, "connect".to_owned(), url]),
        &[],
    )
    .await;
}

/// HTTP+SSE, which hosts of 2024-11-05 speak.
async fn by_http_sse(sdk: Sdk) {
    let gate = Gate::with(&table("everything", &everything(), ""))
        .start()
        .await;
    let at = |path: &str| Endpoint::Url(gate.url(path));
    all_of_mcp(sdk, &at("/sse"), &["--checks", MERGED]).await;
    all_of_mcp(sdk, &at("/server/everything/sse"), &[]).await;
}

/// Servers of 2026-07-28 over stdio: one that refuses older hosts, one that is only spoken to so.
async fn modern_children(sdk: Sdk) {
    for (made_with, keys) in [(Sdk::TypeScript, ""), (Sdk::Python, "era = \"modern\"")] {
        let gate = Gate::with(&table("new", &newer(made_with), keys))
            .start()
            .await;
        let folder = gate.folder().display().to_string();
        for path in ["/mcp", "/server/new/mcp"] {
            Script::new(sdk, "new")
                .with(&["--dir", &folder])
                .run(&Endpoint::Url(gate.url(path)))
                .await;
        }
    }
}

/// The same over HTTP.
async fn modern_remotes(sdk: Sdk) {
    let (_ts, ts) = newer_remote(Sdk::TypeScript).await;
    let (_py, py) = newer_remote(Sdk::Python).await;
    let gate = Gate::with(&format!(
        "[server.ts]\nurl = \"{ts}\"\n[server.py]\nurl = \"{py}\"\nera = \"modern\"\n"
    ))
    .start()
    .await;
    for server in ["ts", "py"] {
        let alone = Endpoint::Url(gate.url(&format!("/server/{server}/mcp")));
        Script::new(sdk, "new").run(&alone).await;
    }
}

/// The same for a host that speaks stdio.
async fn modern_wrapped(sdk: Sdk) {
    let gate = chillgate_tests::process::chillgate().display().to_string();
    let mut words = vec![gate, "wrap".to_owned(), "--".to_owned()];
    words.extend(newer(Sdk::TypeScript));
    Script::new(sdk, "new").run(&Endpoint::Command(words)).await;
}

/// A server of 2026-07-28 made with this SDK, as a command.
fn newer(sdk: Sdk) -> Vec<String> {
    let (program, script) = match sdk {
        Sdk::TypeScript => ("node".to_owned(), "ts/new_server.mjs"),
        _ => (python().display().to_string(), "python/new_server.py"),
    };
    vec![program, interop().join(script).display().to_string()]
}

async fn newer_remote(sdk: Sdk) -> (Child, String) {
    let port = free_port();
    let words = newer(sdk);
    let mut server = command(&words[0]);
    server.args(&words[1..]).args(["--http", &port.to_string()]);
    let child = started(server, port).await;
    (child, format!("http://127.0.0.1:{port}/mcp"))
}

/// The server of older revisions that the conformance suite is run on, as a command over stdio.
pub(crate) fn legacy_server() -> Vec<String> {
    let script = root().join("tests/conformance/legacy-server.mjs");
    vec!["node".to_owned(), script.display().to_string()]
}

/// The same over Streamable HTTP at this port of loopback.
pub(crate) async fn legacy_remote(port: u16) -> Child {
    let words = legacy_server();
    let mut node = command(&words[0]);
    node.arg(&words[1]).args(["--http", &port.to_string()]);
    started(node, port).await
}

/// Starts a server and waits until it listens.
pub(crate) async fn started(mut server: Command, port: u16) -> Child {
    let child = server
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    until("the remote server", seconds(30), async || {
        tokio::net::TcpStream::connect(("127.0.0.1", port))
            .await
            .ok()
            .map(drop)
    })
    .await;
    child
}

/// The control of the three above: only a client of the same era can be tried straight.
#[tokio::test]
async fn modern_servers_pass_without_the_gate() {
    for made_with in [Sdk::TypeScript, Sdk::Python] {
        Script::new(Sdk::Python, "new")
            .run(&Endpoint::Command(newer(made_with)))
            .await;
        let (_server, url) = newer_remote(made_with).await;
        Script::new(Sdk::Python, "new")
            .run(&Endpoint::Url(url))
            .await;
    }
}

/// Twenty clients at once, each of which is asked by a person's form and for a model's words: modern
/// ones at an older server, older ones at modern servers, over stdio and HTTP. Nobody gets another's.
#[tokio::test]
async fn twenty_clients_at_once_are_asked_in_both_directions() {
    let (_server, url) = remote().await;
    let (_newer, newer_url) = newer_remote(Sdk::TypeScript).await;
    let tables = table("everything", &everything(), "")
        + &format!("[server.remote]\nurl = \"{url}\"\n")
        + &table("newer", &newer(Sdk::Python), "era = \"modern\"")
        + &format!("[server.newer-remote]\nurl = \"{newer_url}\"\nera = \"modern\"\n")
        + "[limits]\nin-flight-per-agent = 256\n";
    let gate = Gate::with(&tables).start().await;
    for (sdk, suite, server) in [
        (Sdk::Python, "crowd", "everything"),
        (Sdk::Python, "crowd", "remote"),
        (Sdk::PythonLegacy, "new-crowd", "newer"),
        (Sdk::PythonLegacy, "new-crowd", "newer-remote"),
    ] {
        let endpoint = Endpoint::Url(gate.url(&format!("/server/{server}/mcp")));
        let script = Script::new(sdk, suite).with(&["--clients", "20"]);
        let checks = script.run(&endpoint).await;
        let crowds = checks.iter().filter(|check| *check == "crowd").count();
        assert_eq!(crowds, 20, "{server}: {checks:?}");
    }
}

/// The SDK's own tasks of 2025-11-25, at a server whose tasks are the extension of 2026-07-28.
#[tokio::test]
async fn a_host_of_2025_11_25_has_tasks_of_a_modern_server() {
    let words = [
        dual_server().display().to_string(),
        "--eras".to_owned(),
        "modern".to_owned(),
    ];
    let gate = Gate::with(&table("dual", &words, "")).start().await;
    Script::new(Sdk::TypeScript, "tasks")
        .run(&Endpoint::Url(gate.url("/server/dual/mcp")))
        .await;
}

/// Tools that ask in the old way work for a modern host where their server is spoken to in it.
#[tokio::test]
async fn a_modern_host_is_asked_by_a_fastmcp_tool_of_the_old_way() {
    let fast = [
        python().display().to_string(),
        fast_server().display().to_string(),
    ];
    let gate = Gate::with(&table("fast", &fast, "era = \"legacy\""))
        .start()
        .await;
    Script::new(Sdk::Python, "fastmcp-bridged")
        .run(&Endpoint::Url(gate.url("/mcp")))
        .await;
}

macro_rules! each_sdk {
    ($($way:ident),* $(,)?) => {$(
        mod $way {
            #[tokio::test]
            async fn with_the_python_sdk() {
                super::$way(super::Sdk::Python).await;
            }
            #[tokio::test]
            async fn with_the_python_sdk_and_the_handshake_only() {
                super::$way(super::Sdk::PythonLegacy).await;
            }
            #[tokio::test]
            async fn with_the_typescript_sdk() {
                super::$way(super::Sdk::TypeScript).await;
            }
        }
    )*};
}

each_sdk!(
    control_stdio,
    control_http,
    wrapped,
    merged,
    one_of_many,
    remote_behind,
    connected,
    by_http_sse,
    remote_http_sse,
    modern_children,
    modern_remotes,
    modern_wrapped,
);

#[tokio::test]
async fn the_other_servers_pass_without_the_gate() {
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path().display().to_string();
    for sdk in [Sdk::PythonLegacy, Sdk::TypeScript] {
        let files = [
            "node".to_owned(),
            npm_server("filesystem").display().to_string(),
            dir.clone(),
        ];
        Script::new(sdk, "filesystem")
            .with(&["--dir", &dir])
            .run(&Endpoint::Command(files.to_vec()))
            .await;
        let memory = [
            "env".to_owned(),
            format!("MEMORY_FILE_PATH={dir}/memory.jsonl"),
            "node".to_owned(),
            npm_server("memory").display().to_string(),
        ];
        Script::new(sdk, "memory")
            .run(&Endpoint::Command(memory.to_vec()))
            .await;
        let fast = [
            python().display().to_string(),
            fast_server().display().to_string(),
        ];
        Script::new(sdk, "fastmcp")
            .run(&Endpoint::Command(fast.to_vec()))
            .await;
    }
}

#[tokio::test]
async fn a_host_that_declares_nothing_shares_a_child_and_works() {
    let gate = Gate::with(&table("everything", &everything(), ""))
        .start()
        .await;
    let parts = "initialize,ping,tools,tool_errors,resources,prompts,completion,progress,cancellation,concurrency";
    for sdk in SDKS {
        let script = Script::new(sdk, "everything").with(&["--plain", "--checks", parts]);
        script.run(&Endpoint::Url(gate.url("/mcp"))).await;
    }
}

#[tokio::test]
async fn an_npx_and_a_uvx_server_work_with_the_minimal_environment() {
    let npx = ["npx", "-y", "@modelcontextprotocol/server-everything"].map(str::to_owned);
    // npx finds the pinned package in this directory and downloads nothing.
    let from = format!("cwd = \"{}\"", interop().join("ts").display());
    let uvx = [uvx().display().to_string(), uvx_server()];
    let gate = Gate::with(&(table("npx", &npx, &from) + &table("clock", &uvx, "")))
        .start()
        .await;
    let url = Endpoint::Url(gate.url("/mcp"));
    let tools = Script::new(Sdk::TypeScript, "everything").with(&[
        "--prefix",
        "npx__",
        "--checks",
        "tools,sampling",
    ]);
    tools.run(&url).await;
    Script::new(Sdk::Python, "clock")
        .with(&["--prefix", "clock__"])
        .run(&url)
        .await;
}
