//! What chillgate writes into the head of a request to a modern server, byte by byte.
//!
//! It stands apart because the attack is in a name and shows in a head: the server is a bare socket
//! that keeps what came. Whatever a host calls a thing, no field is added, split or changed by it.

use serde_json::{Value, json};

use chillgate_tests::gate::Gate;
use chillgate_tests::http::{Connection, collect, request};
use chillgate_tests::modern::{body, field, fields, message, unsentinel};
use chillgate_tests::recorder::{HELD, Recorded, Recorder};
use chillgate_tests::until;
use chillgate_tests::wait::seconds;

/// Generated names; the row's own number.
const NAMES: usize = 10_000;

/// Pieces that names are made of: what ends a line, a string or a field, what looks like a marker,
/// what no field can carry, and plain letters.
const PIECES: [&str; 32] = [
    "\r\n",
    "\n",
    "\r",
    "\0",
    "\t",
    " ",
    "  ",
    "\u{7f}",
    "\u{85}",
    "\u{2028}",
    "\u{2029}",
    "\u{feff}",
    "=?base64?",
    "?=",
    "=?",
    "DQpYOiBh",
    "=?BASE64?",
    "?",
    "=",
    ":",
    ";",
    ",",
    "\"",
    "\\",
    "X-Injected: 1",
    "Content-Length: 0",
    "é",
    "я",
    "😀",
    "a",
    "echo",
    "%0d%0a",
];

/// A sequence without a pattern, the same in each run.
pub(crate) struct Dice(pub(crate) u64);

impl Dice {
    pub(crate) fn below(&mut self, most: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % most as u64) as usize
    }

    fn name(&mut self) -> String {
        (0..=self.below(5))
            .map(|_| PIECES[self.below(PIECES.len())])
            .collect()
    }
}

/// Whether chillgate takes it for a name: a control character or line separator is in none.
fn is_name(text: &str) -> bool {
    let breaks = |c: char| c.is_control() || matches!(c, '\u{2028}' | '\u{2029}');
    !text.chars().any(breaks)
}

/// Judges one head: these fields once each and no other, and what repeats the body repeats it.
fn judge(request: &Recorded, repeated: &[(&str, &str)]) {
    let mut names: Vec<String> = request.fields().into_iter().map(|(name, _)| name).collect();
    names.sort();
    let mut expected = vec![
        "accept",
        "content-length",
        "content-type",
        "host",
        "mcp-method",
        "mcp-protocol-version",
    ];
    expected.extend(repeated.iter().map(|(name, _)| *name));
    expected.sort_unstable();
    expected.dedup();
    assert_eq!(
        names,
        expected,
        "{:?}",
        String::from_utf8_lossy(&request.head)
    );
    let accepted = String::from_utf8(request.field("accept").remove(0)).unwrap();
    assert!(accepted.contains("application/json") && accepted.contains("text/event-stream"));
    for (name, text) in repeated {
        let value = request.field(name).remove(0);
        let safe = |byte: &u8| (b' '..=b'~').contains(byte);
        assert!(value.iter().all(safe), "{name} {text:?}: {value:?}");
        let value = String::from_utf8(value).unwrap();
        assert_eq!(unsentinel(&value).as_deref(), Some(*text), "{value:?}");
    }
}

fn tool() -> Value {
    let region = json!({"type": "string", "x-mcp-header": "Region"});
    json!([{"name": "deploy", "inputSchema": {"type": "object", "properties": {"region": region}}}])
}

/// R-020, R-066, R-067, R-074, R-221: 10,000 names, half of them from each era's hosts.
#[tokio::test]
async fn no_name_or_argument_adds_a_field() {
    let server = Recorder::start().await;
    server.offer(tool());
    let gate = Gate::with(&server.table("r")).start().await;
    let legacy = gate.host().path("/server/r/mcp").open().await;
    // From its list chillgate knows which argument goes into the head.
    legacy.request("tools/list", json!({})).await.result();
    let mut connection = Connection::open(gate.front()).await;
    let list = message(&json!(0), "tools/list", json!({}));
    let asking = fields(&list);
    let listed = connection.send("POST", "/server/r/mcp", &asking, list.to_string().into());
    assert_eq!(collect(listed.await).await.status, 200);
    server.take("tools/list");

    let mut dice = Dice(0x5eed_5eed_5eed_5eed);
    let (mut refused, mut in_base64) = (0, 0);
    for n in 0..NAMES {
        let text = dice.name();
        let (method, params, repeats) = match dice.below(4) {
            0 => ("tools/call", json!({"name": text}), "mcp-name"),
            1 => ("prompts/get", json!({"name": text}), "mcp-name"),
            2 => ("resources/read", json!({"uri": text}), "mcp-name"),
            _ => {
                let arguments = json!({"region": text});
                let call = json!({"name": "deploy", "arguments": arguments});
                ("tools/call", call, "mcp-param-region")
            }
        };
        let is_refused = params["name"].as_str().is_some_and(|name| !is_name(name));
        let code = if n % 2 == 0 {
            legacy.request(method, params).await.code()
        } else {
            let sent = message(&json!(n), method, params);
            let value = field(&text);
            let mut all = fields(&sent);
            all.retain(|(name, _)| *name != repeats);
            all.push((repeats, &value));
            let raw = sent.to_string().into();
            let answer = connection.send("POST", "/server/r/mcp", &all, raw);
            body(&collect(answer.await).await)["error"]["code"].as_i64()
        };
        let mut heard = server.take(method);
        if is_refused {
            assert_eq!((code, heard.len()), (Some(-32600), 0), "{method} {text:?}");
            refused += 1;
            continue;
        }
        assert_eq!((code, heard.len()), (None, 1), "{method} {text:?}");
        let heard = heard.remove(0);
        let told = heard.message();
        let path = match (method, repeats) {
            ("resources/read", _) => "/params/uri",
            (_, "mcp-name") => "/params/name",
            _ => "/params/arguments/region",
        };
        assert_eq!(told.pointer(path), Some(&json!(text)), "{told}");
        let mut repeated = vec![("mcp-method", method), (repeats, text.as_str())];
        if repeats != "mcp-name" {
            repeated.push(("mcp-name", "deploy"));
        }
        judge(&heard, &repeated);
        in_base64 += usize::from(heard.field(repeats)[0].starts_with(b"=?base64?"));
    }
    // The generator makes all sorts.
    assert!(refused > 1000 && in_base64 > 1000, "{refused} {in_base64}");
    assert!(NAMES - refused - in_base64 > 1000, "{refused} {in_base64}");
}

/// R-069: at such a server a call is cancelled by closing its request, however its host cancels; no
/// notification says so, and the next call finds the server as it was.
#[tokio::test]
async fn a_cancelled_call_closes_its_request() {
    let server = Recorder::start().await;
    let gate = Gate::with(&server.table("r")).start().await;
    let path = "/server/r/mcp";
    let legacy = gate.host().path(path).open().await;
    legacy.call("first", json!({})).await.result();
    let held = async |count: usize| {
        let what = "the request to be closed";
        until(what, seconds(10), async || {
            (server.given_up() == count).then_some(())
        })
        .await;
    };
    let asked = async |count: usize| {
        let is_held = |one: &Recorded| one.message()["params"]["name"] == HELD;
        let what = "the call to arrive";
        let arrived = || server.all().iter().filter(|one| is_held(one)).count();
        until(what, seconds(10), async || {
            (arrived() == count).then_some(())
        })
        .await;
    };

    let call = legacy.message("tools/call", Some(json!({"name": HELD})));
    let cancelling = async {
        asked(1).await;
        let about = json!({"requestId": call["id"], "reason": "enough"});
        legacy.notify("notifications/cancelled", Some(about)).await;
        held(1).await;
    };
    tokio::join!(cancelling, legacy.post(&call));

    let call = message(&json!(1), "tools/call", json!({"name": HELD}));
    let mut connection = Connection::open(gate.front()).await;
    let raw = call.to_string().into();
    let asking = fields(&call);
    tokio::select! {
        _ = connection.send("POST", path, &asking, raw) => panic!("it is never answered"),
        () = asked(2) => {}
    }
    drop(connection);
    held(2).await;

    legacy.call("last", json!({})).await.result();
    assert!(server.take("notifications/cancelled").is_empty());
    assert_eq!(server.given_up(), 2);
}

/// R-220: a tool whose schema says wrongly which arguments have header fields is shown to no host.
#[tokio::test]
async fn a_tool_with_a_wrong_annotation_is_left_out() {
    let server = Recorder::start().await;
    let wrong = json!({"type": "object", "x-mcp-header": "Region"});
    let schema = json!({"type": "object", "properties": {"region": wrong}});
    let mut tools = tool();
    tools
        .as_array_mut()
        .unwrap()
        .push(json!({"name": "wrong", "inputSchema": schema}));
    server.offer(tools);
    let gate = Gate::with(&server.table("r")).start().await;
    let legacy = gate.host().path("/server/r/mcp").open().await;
    assert_eq!(legacy.tools().await, ["deploy"]);
    let list = message(&json!(1), "tools/list", json!({}));
    let (head, raw) = (fields(&list), list.to_string());
    let shown = request(gate.front(), "POST", "/server/r/mcp", &head, raw).await;
    let shown = body(&shown)["result"]["tools"].clone();
    let names: Vec<_> = shown
        .as_array()
        .unwrap()
        .iter()
        .map(|tool| &tool["name"])
        .collect();
    assert_eq!(names, ["deploy"]);
}

/// R-223: a server that refuses the fields of a call has changed its tools: the list is read again
/// and the call made once more, and no third time.
#[tokio::test]
async fn a_refused_field_makes_the_list_be_read_again() {
    let server = Recorder::start().await;
    server.offer(tool());
    let gate = Gate::with(&server.table("r")).start().await;
    let legacy = gate.host().path("/server/r/mcp").open().await;
    legacy.request("tools/list", json!({})).await.result();
    server.take("tools/list");
    let region = json!({"type": "string", "x-mcp-header": "Area"});
    let schema = json!({"type": "object", "properties": {"region": region}});
    server.offer(json!([{"name": "deploy", "inputSchema": schema}]));
    let refusal = r#","error":{"code":-32020,"message":"Header mismatch"}}"#;
    server.lay_down(r#"{"jsonrpc":"2.0","id":"#, refusal);
    legacy
        .call("deploy", json!({"region": "kr"}))
        .await
        .result();
    let calls = server.take("tools/call");
    assert_eq!(calls.len(), 2);
    assert_eq!(calls[0].field("mcp-param-region"), [b"kr"]);
    assert_eq!(calls[1].field("mcp-param-area"), [b"kr"]);
    assert!(calls[1].field("mcp-param-region").is_empty());
    assert_eq!(server.take("tools/list").len(), 1);
}
