//! What goes wrong in a call, one tool each; the tool's name says it.
//!
//! It stands apart so that a test reads as `call("crash")`. No tool is safe to offer to anybody.

use std::collections::BTreeMap;
use std::hash::{BuildHasher as _, Hasher as _, RandomState};
use std::sync::atomic::Ordering;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::time::sleep;

use chillgate_tests::process::command;

use crate::flags::Eras;
use crate::methods::respond;
use crate::server::{Server, lock};
use crate::voice::flood;

/// Every tool and what it does.
const TOOLS: &[(&str, &str)] = &[
    ("echo", "answers `message`"),
    ("raw", "answers the line it heard, byte for byte"),
    (
        "verbatim",
        "writes `line`: texts, bytes as numbers, and null for its id",
    ),
    ("meta", "answers `params._meta` as JSON"),
    ("params", "answers `params` as JSON"),
    ("host", "answers what the host declared"),
    ("name", "answers the server's name"),
    (
        "two__words",
        "the same, under a name with the separator in it",
    ),
    ("pid", "answers its process id"),
    ("count", "answers how many calls it heard"),
    (
        "cancelled",
        "answers the request ids of the cancellations it heard",
    ),
    ("env", "answers its environment as JSON"),
    ("fds", "answers its open file descriptors"),
    ("hog", "takes `bytes` of memory and uses them"),
    (
        "run",
        "runs `command` and answers its status and what it wrote",
    ),
    ("wait", "answers `nonce` after `ms`"),
    ("random", "answers `nonce` after up to `ms`"),
    ("blob", "answers with `bytes` letters"),
    ("fail", "answers isError"),
    ("rpc-error", "answers a JSON-RPC error with `code`"),
    ("crash", "aborts the process"),
    (
        "crash-once",
        "aborts the process unless there is a file `path`, which it makes",
    ),
    (
        "crash-once-reading",
        "the same, and says that it is read-only",
    ),
    (
        "crash-once-again",
        "the same, and says that it is idempotent",
    ),
    ("go-deaf", "answers, and never again"),
    ("cwd", "answers its working directory"),
    ("leave", "closes the process after `ms` without an answer"),
    ("never", "never answers"),
    ("twice", "answers twice"),
    (
        "unknown-id",
        "answers ids that nobody asked for, then its own",
    ),
    ("garbage", "writes garbage around its answer"),
    (
        "junk",
        "writes a line of `bytes` that is no JSON, then answers",
    ),
    ("stderr", "writes `bytes` to stderr, then answers"),
    (
        "progress",
        "reports `steps` steps, `ms` apart, and answers with `bytes` letters",
    ),
    ("notes", "writes `count` log messages, then answers"),
    ("log", "logs `data` at `level`, then answers"),
    (
        "changed",
        "says that tools, prompts and resources changed, then answers",
    ),
    ("updated", "says that `uri` was updated, then answers"),
    (
        "sample",
        "asks the host for a completion and answers what it said",
    ),
    (
        "elicit",
        "asks the host's user, after `ms`, and answers what it said; once for each of `keys`, which \
         is what the question is called, or `at-once`",
    ),
    (
        "roots",
        "asks the host for its roots and answers what it said",
    ),
    (
        "survey",
        "asks the host for a colour and its roots at once, then for a completion, reporting steps \
         before each; answers all",
    ),
    (
        "deploy",
        "answers like echo; its `region` and `place.count` have header fields",
    ),
    ("mute", "closes its output and lives on"),
    ("slowly", "may run as a task"),
    ("only-as-task", "runs as a task or not at all"),
    ("sign-in", "wants the host's user to open a page first"),
    // What only a server of 2026-07-28 has; see `modern.rs`.
    ("page", "asks the host's user to open a page"),
    ("sample-able", "asks for a completion with tools"),
    ("pair", "asks for a completion and the host's user at once"),
    ("forever", "asks without end"),
    ("again", "wants to be called twice more"),
    ("as-task", "becomes a task of the extension"),
    ("nothing", "asks, and asks nothing"),
    ("odd-question", "asks something that is no question"),
    ("odd-type", "answers with a result of no known type"),
    ("numbers", "answers with a list as structured content"),
    ("ask-host", "asks in the old way"),
    ("told-unasked", "tells of changes to nobody"),
    ("hang-up", "ends all subscriptions"),
    ("listening", "answers what it is listened to for"),
    ("ping-host", "pings the host and answers what it said"),
    ("delete_all", "a name to forbid; answers like echo"),
];

fn deploy(about: &str) -> Value {
    let count = json!({"type": "integer", "x-mcp-header": "Count"});
    let properties = json!({
        "region": {"type": "string", "x-mcp-header": "Region"},
        "place": {"type": "object", "properties": {"count": count}},
    });
    json!({"name": "deploy", "description": about, "inputSchema": {"type": "object", "properties": properties}})
}

/// The tools as `tools/list` shows them.
pub(crate) fn list(server: &Server) -> Vec<Value> {
    let tool = |name: &str, about: &str| json!({"name": name, "description": about, "inputSchema": {"type": "object"}, "x-mock": name});
    let more = (0..server.flags.tools).map(|n| tool(&format!("tool-{n:04}"), "one of many"));
    let is_more = server
        .flags
        .more_if
        .as_ref()
        .is_some_and(|path| path.exists());
    let extra = is_more.then(|| tool("extra", "there is a file for it"));
    TOOLS
        .iter()
        .map(|(name, about)| match *name {
            "deploy" => deploy(about),
            "only-as-task" | "slowly" => {
                let mut tool = tool(name, about);
                let support = if *name == "slowly" {
                    "optional"
                } else {
                    "required"
                };
                tool["execution"] = json!({"taskSupport": support});
                tool
            }
            "numbers" if server.flags.eras != Eras::Legacy => {
                let mut tool = tool(name, about);
                tool["outputSchema"] = json!({"type": "array", "items": {"type": "integer"}});
                tool
            }
            "crash-once-reading" | "crash-once-again" => {
                let mut tool = tool(name, about);
                let hint = if *name == "crash-once-again" {
                    "idempotentHint"
                } else {
                    "readOnlyHint"
                };
                tool["annotations"] = json!({ hint: true });
                tool
            }
            name => tool(name, about),
        })
        .chain(more)
        .chain(extra)
        .collect()
}

/// Does it. `None`: nothing is answered, or everything was.
pub(crate) async fn call(
    server: &Server,
    id: &Value,
    params: &Value,
    line: String,
) -> Option<Result<Value, Value>> {
    let given = &params["arguments"];
    let ms = |default: u64| Duration::from_millis(given["ms"].as_u64().unwrap_or(default));
    let bytes = given["bytes"].as_u64().unwrap_or(1 << 20) as usize;
    let nonce = || given["nonce"].as_str().unwrap_or_default().to_owned();
    if server.flags.random_delay > 0 {
        sleep(random(Duration::from_millis(server.flags.random_delay))).await;
    }
    let said = match params["name"].as_str().unwrap_or_default() {
        "echo" | "delete_all" | "deploy" => {
            given["message"].as_str().unwrap_or_default().to_owned()
        }
        "raw" => line,
        "verbatim" => {
            server.voice.raw(verbatim(&given["line"], id));
            return None;
        }
        "meta" => params["_meta"].to_string(),
        "params" => params.to_string(),
        "host" => lock(&server.host).to_string(),
        "name" | "two__words" => server.flags.name.clone(),
        "pid" => std::process::id().to_string(),
        "count" => server.calls.load(Ordering::Relaxed).to_string(),
        "cancelled" => Value::from(lock(&server.cancelled).clone()).to_string(),
        "env" => json!(std::env::vars().collect::<BTreeMap<_, _>>()).to_string(),
        "fds" => descriptors(),
        "hog" => hog(bytes),
        "run" => run(&given["command"]).await.to_string(),
        "wait" => {
            sleep(ms(100)).await;
            nonce()
        }
        "random" => {
            sleep(random(ms(20))).await;
            nonce()
        }
        "blob" => "x".repeat(bytes),
        "fail" => {
            return Some(Ok(
                json!({"content": [text("it failed on purpose")], "isError": true}),
            ));
        }
        "rpc-error" => {
            let code = given["code"].as_i64().unwrap_or(-32000);
            return Some(Err(
                json!({"code": code, "message": "on purpose", "data": {"kept": true}}),
            ));
        }
        "crash" => std::process::abort(),
        "crash-once" | "crash-once-reading" | "crash-once-again" => {
            let path = given["path"].as_str().unwrap_or_default();
            let made = std::fs::File::create_new(path);
            if made.is_ok() || given["always"] == true {
                std::process::abort()
            }
            "survived".to_owned()
        }
        "go-deaf" => {
            server.is_deaf.store(true, Ordering::Relaxed);
            "farewell".to_owned()
        }
        "mute" => {
            // Its output ends; it reads on, and lives until it is killed.
            let nowhere = std::fs::OpenOptions::new().write(true).open("/dev/null");
            let nowhere = nowhere.expect("/dev/null is there");
            rustix::stdio::dup2_stdout(&nowhere).expect("one more descriptor");
            return None;
        }
        "cwd" => {
            std::env::current_dir().map_or_else(|e| e.to_string(), |d| d.display().to_string())
        }
        "leave" => {
            sleep(ms(0)).await;
            std::process::abort()
        }
        "never" => return None,
        "twice" => {
            respond(server, id, Ok(json!({"content": [text("first")]})));
            "second".to_owned()
        }
        "unknown-id" => {
            strangers(server, id);
            "own".to_owned()
        }
        "garbage" => {
            server.voice.raw(b"not json\n\xff\xff\xff\n{\"id\":\n{}\n[1]\n\"x\"\n{\"jsonrpc\":\"1.0\",\"id\":1,\"result\":{}}\n".to_vec());
            "after garbage".to_owned()
        }
        "junk" => {
            let mut junk = vec![b'a'; bytes];
            junk.push(b'\n');
            server.voice.raw(junk);
            "after junk".to_owned()
        }
        "stderr" => {
            // On a thread of its own, as a library that logs would.
            drop(tokio::task::spawn_blocking(move || flood(bytes)).await);
            "after stderr".to_owned()
        }
        "progress" => {
            progress(server, params, ms(10)).await;
            match given["bytes"].as_u64() {
                Some(bytes) => "x".repeat(bytes as usize),
                None => "done".to_owned(),
            }
        }
        "notes" => {
            let count = given["count"].as_u64().unwrap_or(1000);
            let note = json!({"jsonrpc": "2.0", "method": "notifications/message",
                "params": {"level": "info", "logger": "flood", "data": "one of many"}});
            let some = format!("{note}\n").repeat(1000).into_bytes();
            for _ in 0..count / 1000 {
                server.voice.raw(some.clone());
                // The pipe is full long before: whoever reads it sets the pace.
                tokio::task::yield_now().await;
            }
            "after the notes".to_owned()
        }
        "log" => {
            let level = given["level"].as_str().unwrap_or("info");
            let note = json!({"level": level, "logger": server.flags.name, "data": given["data"]});
            server.tell("notifications/message", note);
            "logged".to_owned()
        }
        "changed" => {
            for what in ["tools", "prompts", "resources"] {
                server.tell(&format!("notifications/{what}/list_changed"), Value::Null);
            }
            "changed".to_owned()
        }
        "updated" => {
            server.tell(
                "notifications/resources/updated",
                json!({"uri": given["uri"]}),
            );
            "updated".to_owned()
        }
        "sample" => server
            .ask("sampling/createMessage", sampling())
            .await
            .to_string(),
        "elicit" => {
            sleep(ms(0)).await;
            let keys = given["keys"].as_array().cloned().unwrap_or_default();
            if keys.is_empty() {
                let said = server.ask("elicitation/create", elicitation()).await;
                return Some(Ok(json!({"content": [text(&said.to_string())]})));
            }
            let ask = async |key: Value| {
                let mut question = elicitation();
                question["_meta"] = json!({"dev.chillgate/key": key});
                server.ask("elicitation/create", question).await["result"].clone()
            };
            let mut all = Vec::new();
            if given["at-once"] == true {
                all = chillgate_tests::wait::all(keys.into_iter().map(ask)).await;
            } else {
                for key in keys {
                    all.push(ask(key).await);
                }
            }
            Value::from(all).to_string()
        }
        "roots" => server.ask("roots/list", Value::Null).await.to_string(),
        "survey" => {
            progress(server, params, ms(10)).await;
            let (colour, roots) =
                tokio::join!(server.ask("elicitation/create", elicitation()), async {
                    sleep(ms(10)).await;
                    server.ask("roots/list", Value::Null).await
                },);
            progress(server, params, ms(10)).await;
            let said = server.ask("sampling/createMessage", sampling()).await;
            json!([colour, roots, said]).to_string()
        }
        "ping-host" => server.ask("ping", Value::Null).await.to_string(),
        known if known.starts_with("tool-") => known.to_owned(),
        "sign-in" => {
            let page = json!({"mode": "url", "elicitationId": "e1", "url": "https://example.com/in", "message": "Sign in"});
            return Some(Err(
                json!({"code": -32042, "message": "Sign in first", "data": {"elicitations": [page]}}),
            ));
        }
        unknown => {
            return Some(Err(
                json!({"code": -32602, "message": format!("Unknown tool: {unknown}")}),
            ));
        }
    };
    Some(Ok(json!({"content": [text(&said)]})))
}

/// Leaves a process behind that is in nobody's group or session, through two forks.
pub(crate) async fn grandchild(mark: &str) {
    let own = std::env::current_exe().expect("a program knows its own path");
    let own = own.display();
    let script = format!(
        "setsid sh -c '{own} --silent --ignore-eof --mark {mark} </dev/null >/dev/null 2>&1 &' &"
    );
    let started = command("sh").arg("-c").arg(script).status().await;
    started.expect("a shell can be started");
}

/// Uses memory piece by piece, as a leak would.
fn hog(bytes: usize) -> String {
    let mut pieces = Vec::new();
    for _ in 0..bytes >> 20 {
        pieces.push(vec![b'x'; 1 << 20]);
    }
    let used: usize = pieces.iter().map(Vec::len).sum();
    used.to_string()
}

async fn run(words: &Value) -> Value {
    let words: Vec<&str> = words
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(Value::as_str)
        .collect();
    let Some((program, args)) = words.split_first() else {
        return json!({"error": "no program"});
    };
    let mut program = command(program);
    program.args(args).stdin(std::process::Stdio::null());
    match program.output().await {
        Ok(output) => json!({
            "code": output.status.code(),
            "out": String::from_utf8_lossy(&output.stdout),
            "err": String::from_utf8_lossy(&output.stderr),
        }),
        Err(error) => json!({"error": error.to_string()}),
    }
}

/// Bytes of a test's own, which no JSON library had a say in.
fn verbatim(line: &Value, id: &Value) -> Vec<u8> {
    let mut bytes = Vec::new();
    for part in line.as_array().into_iter().flatten() {
        match part {
            Value::String(text) => bytes.extend_from_slice(text.as_bytes()),
            Value::Null => bytes.extend_from_slice(id.to_string().as_bytes()),
            byte => bytes.extend(byte.as_u64().map(|byte| byte as u8)),
        }
    }
    bytes.push(b'\n');
    bytes
}

fn text(said: &str) -> Value {
    json!({"type": "text", "text": said})
}

fn random(most: Duration) -> Duration {
    let random = RandomState::new().build_hasher().finish();
    most.mul_f64((random % 1024) as f64 / 1024.0)
}

/// Ids that nobody asked for, and this id in another type.
fn strangers(server: &Server, id: &Value) {
    let twin = if id.is_string() {
        json!(0)
    } else {
        json!(id.to_string())
    };
    for stranger in [
        json!(987_654_321),
        json!("nobody"),
        json!(-1),
        Value::Null,
        twin,
    ] {
        let answer = json!({"content": [text("a stranger's")]});
        server
            .voice
            .say(&json!({"jsonrpc": "2.0", "id": stranger, "result": answer}));
    }
}

async fn progress(server: &Server, params: &Value, apart: Duration) {
    let steps = params["arguments"]["steps"].as_u64().unwrap_or(3);
    let token = &params["_meta"]["progressToken"];
    for step in 1..=steps {
        sleep(apart).await;
        if !token.is_null() {
            let note = json!({"progressToken": token, "progress": step, "total": steps, "message": format!("step {step}")});
            server.tell("notifications/progress", note);
        }
    }
}

fn sampling() -> Value {
    json!({
        "messages": [{"role": "user", "content": {"type": "text", "text": "what is chill?"}}],
        "maxTokens": 7,
    })
}

fn elicitation() -> Value {
    json!({
        "message": "Which colour?",
        "requestedSchema": {"type": "object", "properties": {"colour": {"type": "string"}}},
    })
}

fn descriptors() -> String {
    let mut open: Vec<String> = std::fs::read_dir("/proc/self/fd")
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| {
            let target = std::fs::read_link(entry.path()).ok()?.display().to_string();
            Some(format!("{} {target}", entry.file_name().to_string_lossy()))
        })
        .collect();
    open.sort();
    open.join("\n")
}
