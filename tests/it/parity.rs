//! One decision on every way in: five fronts, two eras of hosts, two of servers.
//!
//! It stands apart because no row has an expected answer: what one front says all others must say.
//! Only the words that the eras spell differently are evened out, and nothing else.

use serde_json::{Value, json};
use tempfile::TempDir;

use chillgate_tests::gate::bare;
use chillgate_tests::http::{Connection, collect};
use chillgate_tests::modern::{field, fields, message};
use chillgate_tests::server::Heard;
use chillgate_tests::sse::Events;
use chillgate_tests::wait::{seconds, within};
use chillgate_tests::{Gate, Host, Mock, PipeHost};

use crate::egress::Dice;
use crate::headers_agree::{reached, servers};

/// What may not be used; the server is called `a` everywhere.
const ACCESS: &str = "[[policy]]\ntype = \"access\"\n\
    deny = [\"a__delete_*\", \"a__deploy\", \"a__greet\", \"mock://a/secret*\"]\n";

/// A way in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    LegacyHttp,
    ModernHttp,
    Sse,
    LegacyPipe,
    ModernPipe,
}
use Way::{LegacyHttp, LegacyPipe, ModernHttp, ModernPipe, Sse};

const WAYS: [Way; 5] = [LegacyHttp, ModernHttp, Sse, LegacyPipe, ModernPipe];

/// All ways to one server, with the same policies on each.
struct Fronts {
    gate: Gate,
    legacy: Host,
    connection: Connection,
    stream: Events,
    to: String,
    _streaming: Connection,
    old: PipeHost,
    new: PipeHost,
    folder: TempDir,
    next: u64,
}

impl Fronts {
    async fn open(server: &Mock, keys: &str, policies: &str) -> Self {
        let gate = Gate::with(&(server.table(keys) + policies)).start().await;
        let legacy = gate.host().open().await;
        let folder = tempfile::tempdir().unwrap();
        let config = folder.path().join("policies.toml");
        std::fs::write(&config, policies).unwrap();
        let pipe = |ledger: &str| {
            let words = server.command().join("\n");
            let words = words.replace(
                "@DIR@/a.",
                &format!("{}/{ledger}.", folder.path().display()),
            );
            let mut wrap = bare();
            wrap.arg("wrap").arg("--config").arg(&config);
            wrap.args(["--name", "a", "--"]).args(words.lines());
            PipeHost::start(wrap)
        };
        let (mut old, new) = (pipe("old"), pipe("new"));
        old.open(json!({})).await;
        let mut streaming = Connection::open(gate.front()).await;
        let get = [("accept", "text/event-stream")];
        let opened = streaming
            .send("GET", "/sse", &get, bytes::Bytes::new())
            .await;
        let mut stream = Events::new(opened.into_body());
        let to = within("the endpoint", seconds(5), stream.next())
            .await
            .unwrap()
            .data;
        let connection = Connection::open(gate.front()).await;
        let mut all = Self {
            gate,
            legacy,
            connection,
            stream,
            to,
            _streaming: streaming,
            old,
            new,
            folder,
            next: 100,
        };
        let client = json!({"name": "old", "version": "1"});
        let hello =
            json!({"protocolVersion": "2024-11-05", "capabilities": {}, "clientInfo": client});
        let opened = all.ask(Sse, "initialize", hello).await;
        assert!(opened["result"].is_object(), "{opened}");
        all
    }

    /// The answer to a request by this way, with whatever its transport adds, but for the id.
    async fn ask(&mut self, way: Way, method: &str, params: Value) -> Value {
        self.next += 1;
        let id = json!(self.next);
        let legacy = json!({"jsonrpc": "2.0", "id": id, "method": method, "params": params});
        let mut said = match way {
            LegacyHttp => {
                let reply = self.legacy.post(&legacy).await;
                let mut said = reply.answer().clone();
                said["http"] = json!([reply.status, shown(&reply.headers)]);
                said
            }
            ModernHttp => {
                let sent = message(&id, method, params);
                let named = sent["params"]["name"]
                    .as_str()
                    .or(sent["params"]["uri"].as_str());
                let named = named.map(field);
                let mut all = fields(&sent);
                if let Some(named) = &named {
                    all.retain(|(name, _)| *name != "mcp-name");
                    all.push(("mcp-name", named));
                }
                let raw = sent.to_string().into();
                let answer = collect(self.connection.send("POST", "/mcp", &all, raw).await).await;
                let mut said: Value = serde_json::from_slice(&answer.body).unwrap();
                said["http"] = json!([answer.status, shown(&answer.headers)]);
                said
            }
            Sse => {
                let json = [("content-type", "application/json")];
                let raw = legacy.to_string().into();
                let taken = self.connection.send("POST", &self.to, &json, raw).await;
                assert_eq!(collect(taken).await.status, 202);
                loop {
                    let said = within("the answer", seconds(10), self.stream.message()).await;
                    let said = said.expect("the stream is open");
                    if said["id"] == id {
                        break said;
                    }
                }
            }
            LegacyPipe => {
                self.old.write(&legacy).await;
                self.old.answer(&id).await
            }
            ModernPipe => {
                self.new.write(&message(&id, method, params)).await;
                self.new.answer(&id).await
            }
        };
        said.as_object_mut().unwrap().remove("id");
        said
    }

    /// What each server has heard: the one of the three HTTP fronts, and one for each pipe.
    fn ledgers(&self) -> [Heard; 3] {
        let own = |name: &str| Heard::read(&self.folder.path().join(format!("{name}.ledger")));
        [self.gate.heard("a"), own("old"), own("new")]
    }

    /// How many requests with these methods they have heard.
    fn heard(&self, methods: &[&str]) -> usize {
        let of = |heard: &Heard| {
            let counts = methods.iter().map(|method| heard.of(method).len());
            counts.sum::<usize>()
        };
        self.ledgers().iter().map(of).sum()
    }
}

/// The header fields of a response, but for the date.
fn shown(headers: &hyper::HeaderMap) -> Vec<String> {
    let mut all: Vec<String> = headers
        .iter()
        .filter(|(name, _)| *name != "date")
        .map(|(name, value)| format!("{name}: {value:?}"))
        .collect();
    all.sort();
    all
}

const NAMED: [&str; 4] = [
    "tools/call",
    "prompts/get",
    "resources/read",
    "completion/complete",
];

/// Evens out what the eras spell differently: the code for what is not there, and what modern
/// results and statuses say beyond it.
fn decision(mut said: Value) -> String {
    if said["result"].is_object() {
        let result = &said["result"];
        let members = ["content", "messages", "contents", "completion"];
        return members.map(|member| result[member].to_string()).join(" ");
    }
    if said["error"]["code"] == -32002 {
        said["error"]["code"] = json!(-32602);
    }
    said["error"].to_string()
}

fn reference(name: &str) -> Value {
    json!({"ref": {"type": "ref/prompt", "name": name}, "argument": {"name": "who", "value": "m"}})
}

/// what may not be used is answered to the byte like what is not there, on every front, in
/// each era, before servers of both, and nothing of it reaches a server.
#[tokio::test]
async fn what_is_hidden_cannot_be_told_from_what_is_not_there() {
    let tool = |name: &str| json!({"name": name, "arguments": {"region": "eu"}});
    for (era, server, keys) in servers() {
        let mut fronts = Fronts::open(&server, keys, ACCESS).await;
        for way in WAYS {
            let before = fronts.heard(&NAMED);
            for (method, hidden, absent) in [
                ("tools/call", tool("delete_all"), tool("delete_alx")),
                // Its arguments have header fields, and none is there.
                ("tools/call", tool("deploy"), tool("deplox")),
                (
                    "prompts/get",
                    json!({"name": "greet"}),
                    json!({"name": "greex"}),
                ),
                (
                    "completion/complete",
                    reference("greet"),
                    reference("greex"),
                ),
            ] {
                let hidden = fronts.ask(way, method, hidden).await.to_string();
                let absent = fronts.ask(way, method, absent).await.to_string();
                let mut renamed = absent;
                for (from, to) in [("_alx", "_all"), ("deplox", "deploy"), ("greex", "greet")] {
                    renamed = renamed.replace(from, to);
                }
                assert!(
                    hidden.contains("-32602"),
                    "{era} {way:?} {method}: {hidden}"
                );
                assert_eq!(hidden, renamed, "{era} {way:?} {method}");
            }
            let reached = fronts.heard(&NAMED) - before;
            assert_eq!(reached, 0, "{era} {way:?}: it reached the server");
            let shown = fronts.ask(way, "tools/list", json!({})).await.to_string();
            assert!(
                shown.contains("echo") && !shown.contains("delete_all"),
                "{shown}"
            );
            let shown = fronts.ask(way, "prompts/list", json!({})).await.to_string();
            assert!(!shown.contains("greet"), "{shown}");
        }
    }
}

/// Where several servers stand behind one endpoint, a resource that may not be read is as unknown
/// as one that is not there.
#[tokio::test]
async fn a_hidden_resource_is_as_unknown_as_none() {
    let [(_, one, _), (_, _, keys)] = servers();
    let other = crate::mock("b").flags(&["--eras", "modern"]).table(keys);
    // One of them is listed, the other fits a template.
    let policies = ACCESS.replace("mock://a/secret*", "mock://*/doc\", \"mock://*/item/*");
    let gate = Gate::with(&(one.table("") + &other + &policies))
        .start()
        .await;
    let host = gate.host().open().await;
    let before = reached(&gate);
    for (hidden, absent) in [
        ("mock://a/doc", "mock://c/doc"),
        ("mock://b/item/7", "mock://d/item/7"),
    ] {
        let mut said = Vec::new();
        for uri in [hidden, absent] {
            let params = json!({"uri": uri});
            let legacy = host.request("resources/read", params.clone()).await.text;
            let sent = message(&json!(7), "resources/read", params);
            let modern = chillgate_tests::modern::send(gate.front(), &sent).await;
            let modern = format!("{} {}", modern.status, modern.text());
            said.push(modern.replace(uri, "URI"));
            said.push(
                json!(legacy)
                    .to_string()
                    .replace(uri, "URI")
                    .split_once("error")
                    .unwrap()
                    .1
                    .to_owned(),
            );
        }
        assert_eq!(said[..2], said[2..]);
        assert!(said[0].contains("not found"), "{said:?}");
    }
    assert_eq!(reached(&gate), before, "it reached the server");
}

/// 1,000 generated requests, half of them before servers of each era, by five ways each.
#[tokio::test]
async fn a_decision_is_the_same_by_every_way() {
    let names = [
        "echo",
        "name",
        "greet",
        "delete_all",
        "delete_alx",
        "deploy",
        "delete_",
        "delete_*",
        "DELETE_ALL",
        "Delete_all",
        "delete_all ",
        " delete_all",
        "a__delete_all",
        "a__a__delete_all",
        "a__echo",
        "a__greet",
        "d\u{435}lete_all",
        "delete\u{200d}_all",
        "%64elete_all",
        "../delete_all",
        "./echo",
        "delete_all/",
        "",
        "a__",
        "__delete_all",
        "gr\u{435}et",
        "greet\u{301}",
        "no such tool",
        "=?base64?ZGVsZXRlX2FsbA==?=",
    ];
    let uris = [
        "mock://a/doc",
        "mock://a/secret",
        "mock://a/secret/x",
        "mock://a/secretary",
        "mock://a/%73ecret",
        "mock://a//secret",
        "mock://a/./secret",
        "mock://a/x/../secret",
        "MOCK://a/secret",
        "mock://A/secret",
        "mock://a/secret?x",
        "mock://a/secret#x",
        " mock://a/secret",
        "mock://b/secret",
        "",
        "secret",
    ];
    let mut dice = Dice(0x0dd5_0dd5_0dd5_0dd5);
    for (era, server, keys) in servers() {
        let mut fronts = Fronts::open(&server, keys, ACCESS).await;
        let (mut admitted, mut refused) = (0, 0);
        for _ in 0..500 {
            let name = names[dice.below(names.len())];
            let (method, params) = match dice.below(5) {
                0 | 1 => (
                    "tools/call",
                    json!({"name": name, "arguments": {"message": "m"}}),
                ),
                2 => (
                    "prompts/get",
                    json!({"name": name, "arguments": {"who": "m"}}),
                ),
                3 => ("completion/complete", reference(name)),
                _ => (
                    "resources/read",
                    json!({"uri": uris[dice.below(uris.len())]}),
                ),
            };
            let first = decision(fronts.ask(LegacyHttp, method, params.clone()).await);
            for way in &WAYS[1..] {
                let said = decision(fronts.ask(*way, method, params.clone()).await);
                assert_eq!(said, first, "{era} {way:?} {method} {params}");
            }
            if first.contains("\"code\"") {
                refused += 1;
            } else {
                admitted += 1;
            }
        }
        assert!(
            admitted > 30 && refused > 200,
            "{era}: {admitted} {refused}"
        );
        for heard in fronts.ledgers() {
            let forbidden = ["delete_all", "deploy", "greet", "mock://a/secret"];
            let all = NAMED.iter().flat_map(|method| heard.of(method));
            for call in all {
                let params = &call["params"];
                let targets = [&params["name"], &params["uri"], &params["ref"]["name"]];
                let is_forbidden = targets
                    .iter()
                    .any(|name| forbidden.iter().any(|one| **name == *one));
                assert!(!is_forbidden, "{era}: it reached the server: {call}");
            }
        }
    }
}
