//! Model endpoints: what each answer of theirs is taken for, and who hears of it.
//!
//! It stands apart because the far end is no MCP server: a few fixed answers over a real socket.

use std::net::SocketAddr;

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

use chillgate_tests::process::free_port;
use chillgate_tests::wait::seconds;
use chillgate_tests::{Gate, http, until};

/// Answers by path, until dropped.
struct Far {
    address: SocketAddr,
    serving: JoinHandle<()>,
}

impl Drop for Far {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

const MODELS: &str = r#"{"models":[{"name":"llama3:latest"},{"name":"qwen3:8b"}]}"#;

/// The response to a request's head; none: it is left waiting.
fn response(head: &str) -> Option<String> {
    let path = head.split(' ').nth(1).unwrap_or_default();
    let (status, body, more) = match path {
        "/good/api/tags" => ("200 OK", MODELS, ""),
        "/good/v1/models" if head.contains("authorization: Bearer right") => {
            ("200 OK", r#"{"data":[{"id":"gpt"}]}"#, "")
        }
        "/good/v1/models" => ("401 Unauthorized", "", ""),
        "/json/api/tags" => ("200 OK", "{\"models\": 3", ""),
        "/moved/api/tags" => ("302 Found", "", "location: /good/api/tags\r\n"),
        "/broken/api/tags" => ("500 Internal Server Error", MODELS, ""),
        "/slow/api/tags" => return None,
        "/plain" => ("204 No Content", "", ""),
        "/closed" => ("403 Forbidden", "", ""),
        _ => ("404 Not Found", "", ""),
    };
    let length = body.len();
    Some(format!(
        "HTTP/1.1 {status}\r\ncontent-length: {length}\r\n{more}\r\n{body}"
    ))
}

async fn far(address: &str) -> Far {
    let listener = TcpListener::bind(address).await.unwrap();
    let address = listener.local_addr().unwrap();
    let serving = tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut head = Vec::new();
                let mut chunk = [0; 4096];
                while let Ok(count @ 1..) = stream.read(&mut chunk).await {
                    head.extend_from_slice(&chunk[..count]);
                    if head.ends_with(b"\r\n\r\n") {
                        let Some(response) = response(&String::from_utf8_lossy(&head)) else {
                            continue;
                        };
                        drop(stream.write_all(response.as_bytes()).await);
                        head.clear();
                    }
                }
            });
        }
    });
    Far { address, serving }
}

fn table(name: &str, url: &str, more: &str) -> String {
    format!("[[endpoint]]\nname = \"{name}\"\nurl = \"{url}\"\n{more}\n")
}

#[tokio::test]
async fn each_answer_is_taken_for_what_it_is_and_everybody_hears_of_it() {
    let far = far("127.0.0.1:0").await;
    let url = |path: &str| format!("http://{}{path}", far.address);
    let free = format!("http://127.0.0.1:{}", free_port());
    let ollama = "kind = \"ollama\"";
    let key =
        |key: &str| format!("kind = \"openai\"\nheaders = {{ Authorization = \"Bearer {key}\" }}");
    let cases = [
        (
            "fine",
            url("/good"),
            format!("{ollama}\nmodel = \"llama3\""),
            "up",
            "",
        ),
        (
            "slash",
            url("/good/"),
            format!("{ollama}\nmodel = \"qwen3:8b\""),
            "up",
            "",
        ),
        (
            "missing",
            url("/good"),
            format!("{ollama}\nmodel = \"mixtral\""),
            "model-missing",
            "ollama pull mixtral",
        ),
        (
            "tag",
            url("/good"),
            format!("{ollama}\nmodel = \"qwen3\""),
            "model-missing",
            "qwen3:8b",
        ),
        (
            "openai",
            url("/good"),
            format!("{}\nmodel = \"gpt\"", key("right")),
            "up",
            "",
        ),
        ("versioned", url("/good/v1"), key("${FAR_KEY}"), "up", ""),
        ("key", url("/good"), key("wrong"), "down", "credentials"),
        ("gone", free, ollama.to_owned(), "down", "start it"),
        (
            "json",
            url("/json"),
            ollama.to_owned(),
            "down",
            "no list of models",
        ),
        (
            "kind",
            url("/good"),
            "kind = \"openai\"".to_owned(),
            "down",
            "credentials",
        ),
        (
            "moved",
            url("/moved"),
            ollama.to_owned(),
            "down",
            "redirects are not followed",
        ),
        ("broken", url("/broken"), ollama.to_owned(), "down", "500"),
        (
            "slow",
            url("/slow"),
            format!("{ollama}\ntimeout = \"300ms\""),
            "down",
            "within 300ms",
        ),
        ("plain", url("/plain"), String::new(), "up", ""),
        ("closed", url("/closed"), String::new(), "up", ""),
        (
            "closed-key",
            url("/closed"),
            "headers = { X-Key = \"a\" }".to_owned(),
            "down",
            "403",
        ),
        ("nothing", url("/nothing"), String::new(), "down", "404"),
    ];
    let mut tables = "[server.ops]\nbuiltin = \"ops\"\n".to_owned();
    for (name, url, more, ..) in &cases {
        tables.push_str(&table(name, url, more));
    }
    let gate = Gate::with(&tables).env("FAR_KEY", "right").start().await;
    let ready = async || {
        let answer = http::get(gate.health(), "/readyz").await;
        // None of them makes chillgate unready.
        assert_eq!(answer.status, 200, "{}", answer.text());
        let body: Value = serde_json::from_slice(&answer.body).unwrap();
        let endpoints = body["endpoints"].as_array().unwrap().clone();
        let all = endpoints
            .iter()
            .all(|endpoint| endpoint["state"] != "unchecked");
        all.then_some(endpoints)
    };
    let probed = until("a check of each", seconds(10), ready).await;
    let host = gate.host().open().await;
    let told = host.call("endpoints", json!({"check": true})).await;
    let told = told.result()["structuredContent"]["endpoints"]
        .as_array()
        .unwrap()
        .clone();
    let situation = host.call("situation", json!({})).await;
    let situation = situation.result()["structuredContent"].clone();
    let looked = situation["endpoints"].as_array().unwrap();
    let scrape = gate.scrape().await;
    for (name, _, _, state, words) in &cases {
        for endpoints in [&probed, &told, looked] {
            let seen = endpoints
                .iter()
                .find(|endpoint| endpoint["name"] == *name)
                .unwrap();
            assert_eq!(seen["state"], *state, "{name}: {seen}");
            let error = seen["error"].as_str().unwrap_or_default();
            assert!(error.contains(words), "{name}: {error}");
            assert_eq!(error.is_empty(), *state == "up", "{name}: {error}");
            assert!(
                !error.contains("wrong") && !error.contains("right"),
                "a key is told: {error}"
            );
        }
        let up = f64::from(u8::from(*state == "up"));
        let labels = [("endpoint", *name)];
        assert!(
            (scrape.sum("chillgate_endpoint_up", &labels) - up).abs() < 0.1,
            "{name}"
        );
    }
    assert!(scrape.has("chillgate_endpoint_latency_seconds"));
    let summary = situation["summary"].as_str().unwrap();
    assert!(
        summary.contains("model endpoints in trouble") && summary.contains("slow"),
        "{summary}"
    );
}

#[tokio::test]
async fn one_that_comes_up_is_noticed_and_one_that_is_removed_is_forgotten() {
    let port = free_port();
    let url = format!("http://127.0.0.1:{port}/good");
    let table = table("late", &url, "kind = \"ollama\"\nevery = \"1s\"");
    let gate = Gate::with(&format!("[server.ops]\nbuiltin = \"ops\"\n{table}"))
        .start()
        .await;
    let state = async || {
        let answer = http::get(gate.health(), "/readyz").await;
        let body: Value = serde_json::from_slice(&answer.body).unwrap();
        let text = |key: &str| body["endpoints"][0][key].as_str().unwrap_or("none");
        format!("{} {}", text("name"), text("state"))
    };
    let is = async |wanted: &str| {
        until(wanted, seconds(10), async || {
            (state().await == wanted).then_some(())
        })
        .await;
    };
    is("late down").await;
    let far = far(&format!("127.0.0.1:{port}")).await;
    is("late up").await;
    gate.edit("name = \"late\"", "name = \"later\"");
    is("later up").await;
    drop(far);
    gate.edit(&table.replace("late\"", "later\""), "");
    is("none none").await;
    assert!(!gate.scrape().await.has("chillgate_endpoint_up"));
}
