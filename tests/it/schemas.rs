//! Every message that chillgate itself writes fits the official schema of its revision.
//!
//! It stands apart because relayed messages are the server's words; here are only chillgate's own:
//! `initialize`, merged lists, refusals, errors, notifications, requests towards servers.

use std::time::Duration;

use serde_json::{Value, json};

use chillgate_tests::schema::{HANDSHAKE, Schema};
use chillgate_tests::wait::{seconds, within};
use chillgate_tests::{Gate, Host};

use crate::mock;

/// Two servers, so that lists and names are chillgate's own, and one policy of each kind.
fn tables() -> String {
    mock("a").ledger().table("")
        + &mock("b").flags(&["--tools", "40", "--page", "9"]).table("")
        + "[server.chill]\nbuiltin = \"chill\"\nboss-alertness = 100\nhold = \"2s\"\n\
           [server.broken]\ncommand = [\"no-such-program-here\"]\n\
           [identity]\nheader = \"x-agent-id\"\n\
           [[policy]]\ntype = \"access\"\ndeny = [\"a__env\"]\n\
           [[policy]]\ntype = \"quota\"\nmatch = { tool = \"name\" }\nper = \"agent\"\nallow = \"1/h\"\nburst = 1\n\
           [[policy]]\ntype = \"quota\"\nmatch = { tool = \"pid\" }\nper = \"agent\"\nallow = \"1/h\"\nburst = 1\nanswer = \"tool-error\"\n\
           [[policy]]\ntype = \"timeout\"\nmatch = { tool = \"never\" }\nafter = \"300ms\"\nmax = \"1s\"\n"
}

/// Judges whole messages and results by one revision.
struct Judge {
    schema: Schema,
    judged: usize,
}

impl Judge {
    fn message(&mut self, message: &Value) {
        // 2025-03-26 counts batches among its messages; the single ones are the same everywhere.
        let kind = match (
            message.get("method"),
            message.get("id"),
            message.get("error"),
        ) {
            (Some(_), Some(_), _) => "JSONRPCRequest",
            (Some(_), None, _) => "JSONRPCNotification",
            (None, _, Some(_)) => "JSONRPCError",
            (None, ..) => "JSONRPCResponse",
        };
        // Since 2025-11-25 the error and the result have their own names.
        let kind = match (kind, self.schema.has("JSONRPCErrorResponse")) {
            ("JSONRPCError", true) => "JSONRPCErrorResponse",
            ("JSONRPCResponse", true) => "JSONRPCResultResponse",
            (kind, _) => kind,
        };
        self.judged += 1;
        // Where no id could be read there is none to give. Before 2025-11-25 the schema had no form
        // for that although the transport's text allows it: the newest schema is the judge.
        if kind == "JSONRPCError" && message.get("id").is_none() {
            return Schema::of("2025-11-25").check("JSONRPCErrorResponse", message);
        }
        self.schema.check(kind, message);
    }

    async fn asked(&mut self, host: &Host, method: &str, params: Value, result: &str) -> Value {
        let reply = host.request(method, params).await;
        for message in &reply.messages {
            self.message(message);
        }
        self.schema.check(result, reply.result());
        reply.result().clone()
    }

    async fn refused(&mut self, host: &Host, message: &Value) {
        let reply = within("the refusal", seconds(20), host.post(message)).await;
        assert!(reply.code().is_some(), "it was not refused: {reply:?}");
        reply
            .messages
            .iter()
            .for_each(|message| self.message(message));
    }
}

#[tokio::test]
async fn everything_chillgate_says_fits_the_schema_of_the_revision_it_speaks() {
    let gate = Gate::with(&tables()).start().await;
    for (n, revision) in HANDSHAKE.into_iter().enumerate() {
        let mut judge = Judge {
            schema: Schema::of(revision),
            judged: 0,
        };
        let name = format!("agent-{n}");
        let new = gate.host().header("x-agent-id", &name).revision(revision);
        let (host, hello) = new.open_with(json!({})).await;
        judge.schema.check("InitializeResult", &hello);

        for (method, result) in [
            ("tools/list", "ListToolsResult"),
            ("prompts/list", "ListPromptsResult"),
            ("resources/list", "ListResourcesResult"),
            ("resources/templates/list", "ListResourceTemplatesResult"),
            ("ping", "EmptyResult"),
        ] {
            let mut params = json!({});
            for _ in 0..20 {
                let page = judge.asked(&host, method, params, result).await;
                let Some(cursor) = page.get("nextCursor") else {
                    break;
                };
                params = json!({ "cursor": cursor });
            }
        }
        judge
            .asked(
                &host,
                "logging/setLevel",
                json!({"level": "error"}),
                "EmptyResult",
            )
            .await;
        let status = json!({"name": "chill__check_stress_status"});
        judge
            .asked(&host, "tools/call", status, "CallToolResult")
            .await;
        judge
            .asked(
                &host,
                "tools/call",
                json!({"name": "a__pid"}),
                "CallToolResult",
            )
            .await;
        let told = judge
            .asked(
                &host,
                "tools/call",
                json!({"name": "a__pid"}),
                "CallToolResult",
            )
            .await;
        assert_eq!(told["isError"], true, "the quota's tool error");
        judge
            .asked(
                &host,
                "tools/call",
                json!({"name": "a__name"}),
                "CallToolResult",
            )
            .await;

        let call = |name: &str| json!({"jsonrpc": "2.0", "id": "x", "method": "tools/call", "params": {"name": name}});
        for refused in [
            "a__name",
            "a__env",
            "nobody__x",
            "broken__x",
            "a__never",
            "a__crash",
            "",
        ] {
            judge.refused(&host, &call(refused)).await;
        }
        judge
            .refused(
                &host,
                &json!({"jsonrpc": "2.0", "id": 1, "method": "no/such/method"}),
            )
            .await;
        judge.refused(&host, &json!({"jsonrpc": "2.0", "id": 1, "method": "tools/list", "params": {"cursor": "forged"}})).await;
        judge.refused(&host, &json!({"jsonrpc": "2.0", "id": 1, "method": "resources/read", "params": {"uri": "x://y"}})).await;
        judge.refused(&host, &json!({"jsonrpc": "2.0", "id": 1, "method": "prompts/get", "params": {"name": "no"}})).await;
        for malformed in ["{", "{\"jsonrpc\":\"2.0\",\"id\":3}", "[]", "7"] {
            let reply = host.post_bytes(malformed.into()).await;
            reply
                .messages
                .iter()
                .for_each(|message| judge.message(message));
        }

        // The fifth break is held; what chillgate says meanwhile is progress.
        for _ in 0..4 {
            host.call("chill__show_meme", json!({})).await;
        }
        let held = json!({"name": "chill__show_meme", "_meta": {"progressToken": 5}});
        let reply = host.request("tools/call", held).await;
        for message in &reply.messages {
            judge.message(message);
        }
        assert!(
            !reply.before().is_empty(),
            "no progress during the hold: {reply:?}"
        );
        judge
            .schema
            .check("ProgressNotification", &reply.before()[0]);
        assert!(
            judge.judged > 20,
            "{revision}: only {} messages",
            judge.judged
        );
    }

    // What it says to a server: the handshake and the cancellation of an overdue call.
    let schema = Schema::of("2025-11-25");
    let heard = gate.heard("a");
    let hellos = heard.of("initialize");
    schema.check(
        "InitializeRequest",
        hellos.first().expect("the server was greeted"),
    );
    for ready in heard.of("notifications/initialized") {
        schema.check("InitializedNotification", &ready);
    }
    let cancelled = heard.of("notifications/cancelled");
    schema.check(
        "CancelledNotification",
        cancelled.first().expect("the overdue call was cancelled"),
    );
}

#[tokio::test]
async fn a_changed_list_and_an_error_without_an_id_fit_as_well() {
    let gate = Gate::with(&tables()).start().await;
    for revision in HANDSHAKE {
        let schema = Schema::of(revision);
        let host = gate
            .host()
            .header("x-agent-id", "one")
            .revision(revision)
            .open()
            .await;
        let mut stream = host.listen().await;
        host.call("a__changed", json!({})).await;
        let note = within("list_changed", seconds(5), stream.message())
            .await
            .unwrap();
        schema.check("JSONRPCNotification", &note);
        let foreign = gate.host().header("origin", "http://evil.example");
        let refused = tokio::time::timeout(
            Duration::from_secs(5),
            foreign.post(&foreign.hello(&json!({}))),
        )
        .await
        .unwrap();
        assert_eq!(refused.status, 403);
    }
}
