//! Policies hold by count: what an agent may, it gets; what it may not, never reaches a server.
//!
//! It stands apart from the policies' own tests, which need no process: here two agents share one
//! real gateway, and the server's ledger and the audit log are the judges.

use std::time::Duration;

use serde_json::{Value, json};

use chillgate_tests::gate::bare;
use chillgate_tests::http::get;
use chillgate_tests::wait::{all, seconds, within};
use chillgate_tests::{Gate, Host, PipeHost, until};
use rustix::process::Signal;

use crate::mock;

const HEADER: &str = "[identity]\nheader = \"x-agent-id\"\n";

fn quota(allow: &str, burst: u32, more: &str) -> String {
    format!(
        "[[policy]]\ntype = \"quota\"\nname = \"calls\"\nmatch = {{ method = \"tools/call\" }}\n\
         per = \"agent\"\nallow = \"{allow}\"\nburst = {burst}\n{more}\n"
    )
}

async fn agent(gate: &Gate, name: &str) -> Host {
    gate.host().header("x-agent-id", name).open().await
}

/// So many calls at once; how many were answered, how many refused with 42900.
async fn burst(host: &Host, calls: usize) -> (usize, usize) {
    let replies = all((0..calls).map(|_| host.call("echo", json!({"message": "x"})))).await;
    let refused = replies
        .iter()
        .filter(|reply| reply.code() == Some(42900))
        .count();
    let answered = replies
        .iter()
        .filter(|reply| reply.code().is_none())
        .count();
    assert_eq!(
        answered + refused,
        calls,
        "something else was answered: {replies:?}"
    );
    (answered, refused)
}

#[tokio::test]
async fn two_agents_at_once_get_exactly_their_own_quota() {
    // An hour's refill is far beyond the test, so that the counts are exact.
    let tables = mock("a").ledger().table("") + HEADER + &quota("30/h", 30, "");
    let gate = Gate::with(&tables).audited().start().await;
    let (one, two) = (agent(&gate, "one").await, agent(&gate, "two").await);
    let counts = tokio::join!(burst(&one, 50), burst(&two, 41));
    assert_eq!(counts, ((30, 20), (30, 11)));
    assert_eq!(
        gate.heard("a").calls(),
        60,
        "a refused call reached the server"
    );
    let records = gate.records_when("91 calls in the audit log", |records| {
        let sums = records.of("method", "tools/call").sums();
        sums.admitted + sums.refused == 91 && sums.done == 60
    });
    let records = records.await;
    for (name, refused) in [("one", 20), ("two", 11)] {
        let sums = records.of("agent", name).of("method", "tools/call").sums();
        assert_eq!(
            (sums.admitted, sums.refused, sums.done),
            (30, refused, 30),
            "{name}"
        );
    }
    records.assert_unbroken();
}

#[tokio::test]
async fn a_refusal_says_when_to_come_back() {
    let tables = mock("a").table("") + HEADER + &quota("60/min", 1, "");
    let gate = Gate::with(&tables).start().await;
    let host = agent(&gate, "one").await;
    host.call("echo", json!({})).await;
    let refused = host.call("echo", json!({})).await;
    assert_eq!(
        (refused.status, refused.code()),
        (200, Some(42900)),
        "{refused:?}"
    );
    let data = &refused.answer()["error"]["data"];
    let wait = data["retryAfterMs"].as_u64().unwrap();
    assert!((1..=1500).contains(&wait), "{data}");
    assert_eq!(data["policy"], "calls");
    tokio::time::sleep(Duration::from_millis(wait + 20)).await;
    let again = host.call("echo", json!({"message": "y"})).await;
    assert_eq!(again.tool_text(), "y", "the promised time was wrong");
}

#[tokio::test]
async fn a_refusal_can_be_a_429_or_a_tool_error() {
    for (answer, status) in [("http-429", 429), ("tool-error", 200)] {
        let tables =
            mock("a").table("") + HEADER + &quota("1/h", 1, &format!("answer = \"{answer}\""));
        let gate = Gate::with(&tables).start().await;
        let host = agent(&gate, "one").await;
        host.call("echo", json!({})).await;
        let refused = host.call("echo", json!({})).await;
        assert_eq!(refused.status, status, "{refused:?}");
        if answer == "http-429" {
            let after = refused
                .headers
                .get("retry-after")
                .expect("Retry-After")
                .to_str()
                .unwrap();
            assert!(after.parse::<u64>().unwrap() >= 1, "{after}");
            let field = |name: &str| refused.headers[name].to_str().unwrap();
            assert_eq!(field("ratelimit-policy"), "\"calls\";q=1;w=3600");
            assert_eq!(field("ratelimit"), format!("\"calls\";r=0;t={after}"));
        } else {
            assert_eq!(refused.result()["isError"], true, "{refused:?}");
        }
    }
}

#[tokio::test]
async fn no_identity_means_anonymous_and_never_somebody_else() {
    let tables = mock("a").table("") + HEADER + &quota("2/h", 2, "");
    let gate = Gate::with(&tables).audited().start().await;
    let named = agent(&gate, "one").await;
    assert_eq!(burst(&named, 3).await, (2, 1));
    let nameless = gate.host().open().await;
    assert_eq!(burst(&nameless, 3).await, (2, 1));
    let records = gate.records_when("six calls", |records| {
        let sums = records.of("method", "tools/call").sums();
        sums.admitted + sums.refused == 6
    });
    let sums = records
        .await
        .of("agent", "anonymous")
        .of("method", "tools/call")
        .sums();
    assert_eq!((sums.admitted, sums.refused), (2, 1));
}

#[tokio::test]
async fn a_key_lets_its_agent_in_and_a_wrong_one_nobody() {
    let made = bare().args(["key", "agent-a"]).output().await.unwrap();
    assert!(made.status.success());
    let text = String::from_utf8(made.stdout).unwrap();
    let key = text.lines().next().unwrap().trim().to_owned();
    let hash = text
        .lines()
        .find(|line| line.contains("sha256:"))
        .unwrap()
        .trim()
        .to_owned();
    let tables = mock("a").ledger().table("") + &format!("[identity.api-keys]\n{hash}\n");
    let gate = Gate::with(&tables).audited().start().await;

    let host = gate
        .host()
        .header("authorization", &format!("Bearer {key}"))
        .open()
        .await;
    host.call("echo", json!({})).await;
    let records = gate.records_when("the call", |records| {
        !records.of("method", "tools/call").is_empty()
    });
    assert!(!records.await.of("agent", "agent-a").is_empty());

    let calls = gate.heard("a").calls();
    for wrong in [
        Some(format!("Bearer {key}x")),
        Some("Bearer ".to_owned()),
        Some("Basic eA==".to_owned()),
        Some(format!("Bearing{key}")),
        None,
    ] {
        let mut stranger = gate.host();
        if let Some(credential) = &wrong {
            stranger = stranger.header("authorization", credential);
        }
        let hello = stranger.hello(&json!({}));
        assert_eq!(stranger.post(&hello).await.status, 401, "{wrong:?}");
    }
    // A session is bound to its agent: knowing its id is not enough.
    let mut thief = gate.host();
    thief.steal(host.session().unwrap());
    let stolen = thief.call("echo", json!({})).await;
    assert!([401, 404].contains(&stolen.status), "{stolen:?}");
    assert_eq!(
        gate.heard("a").calls(),
        calls,
        "a stranger's call reached the server"
    );
}

#[tokio::test]
async fn what_is_denied_is_neither_listed_nor_callable_on_any_transport() {
    let access = "[[policy]]\ntype = \"access\"\ndeny = [\"a__delete_*\", \"a__env\"]\n";
    let gate = Gate::with(&(mock("a").ledger().table("") + access))
        .start()
        .await;
    let merged = gate.host().open().await;
    let single = gate.host().path("/server/a/mcp").open().await;
    let mut answers = Vec::new();
    for host in [&merged, &single] {
        let names = host.tools().await;
        assert!(names.contains(&"echo".to_owned()), "{names:?}");
        assert!(
            !names
                .iter()
                .any(|name| name.contains("delete_all") || name == "env"),
            "{names:?}"
        );
        for name in ["delete_all", "env", "never_heard_of"] {
            let reply = host.call(name, json!({})).await;
            let error = reply.answer()["error"].clone();
            answers.push((name, error.to_string().replace(name, "NAME")));
        }
    }
    let config = gate.folder().join("stdio.toml");
    std::fs::write(&config, access.replace("a__", "*")).unwrap();
    let mut wrap = bare();
    wrap.arg("wrap")
        .arg("--config")
        .arg(&config)
        .arg("--")
        .args(mock("a").command());
    let mut piped = PipeHost::start(wrap);
    piped.open(json!({})).await;
    let listed = piped.request("tools/list", json!({})).await.to_string();
    assert!(!listed.contains("delete_all"), "{listed}");
    for name in ["delete_all", "env"] {
        let error = piped.call(name, json!({})).await["error"].to_string();
        answers.push((name, error.replace(name, "NAME")));
    }
    let first = &answers[0].1;
    assert!(
        first.contains("-32602") && first.contains("Unknown tool: NAME"),
        "{first}"
    );
    for (name, answer) in &answers {
        if *name != "never_heard_of" {
            assert_eq!(answer, first, "{name} is answered differently");
        }
    }
    let reached: Vec<Value> = gate.heard("a").of("tools/call");
    let forbidden =
        |call: &&Value| ["delete_all", "env"].contains(&call["params"]["name"].as_str().unwrap());
    assert_eq!(
        reached.iter().filter(forbidden).count(),
        0,
        "a denied call reached the server"
    );
}

#[tokio::test]
async fn an_allow_list_allows_nothing_else_and_only_to_whom_it_matches() {
    let access =
        "[[policy]]\ntype = \"access\"\nmatch = { agent = \"intern-*\" }\nallow = [\"a__echo\"]\n";
    let gate = Gate::with(&(mock("a").table("") + HEADER + access))
        .start()
        .await;
    let intern = agent(&gate, "intern-7").await;
    assert_eq!(intern.tools().await, ["echo"]);
    assert_eq!(intern.call("pid", json!({})).await.code(), Some(-32602));
    let senior = agent(&gate, "senior").await;
    assert!(senior.tools().await.len() > 10);
    assert!(senior.call("pid", json!({})).await.code().is_none());
}

#[tokio::test]
async fn a_reload_refills_nothing() {
    let tables = mock("a").table("") + HEADER + &quota("10/h", 10, "");
    let gate = Gate::with(&tables).start().await;
    let host = agent(&gate, "one").await;
    assert_eq!(burst(&host, 7).await, (7, 0));
    let before = gate.reloads("applied").await;
    gate.edit("per = \"agent\"", "per = [\"agent\"] # touched");
    gate.signal(Signal::HUP);
    until("the reload", seconds(10), async || {
        (gate.reloads("applied").await > before).then_some(())
    })
    .await;
    assert_eq!(burst(&host, 10).await, (3, 7), "a spent quota came back");
    let again = agent(&gate, "one").await;
    assert_eq!(
        burst(&again, 2).await,
        (0, 2),
        "a new session of the same agent got a new quota"
    );
}

#[tokio::test]
async fn the_audit_log_balances_when_hosts_leave_in_the_middle_of_a_hold() {
    let boss = "[[policy]]\ntype = \"boss-alert\"\nmatch = { tool = \"echo\" }\nalertness = 100\ncooldown = \"1h\"\nhold = \"20s\"\n";
    let gate = Gate::with(&(mock("a").ledger().table("") + HEADER + boss))
        .audited()
        .start()
        .await;
    let host = agent(&gate, "one").await;
    for _ in 0..4 {
        within(
            "a call below the alert",
            seconds(5),
            host.call("echo", json!({})),
        )
        .await;
    }
    // From the fifth on every call is held; these hosts cancel, one walks away with its session.
    let held: Vec<Value> = (0..5)
        .map(|_| host.message("tools/call", Some(json!({"name": "echo"}))))
        .collect();
    let cancel = async {
        tokio::time::sleep(Duration::from_millis(700)).await;
        for call in &held {
            host.notify(
                "notifications/cancelled",
                Some(json!({"requestId": call["id"]})),
            )
            .await;
        }
    };
    let posts = all(held.iter().map(|call| host.post(call)));
    within("the cancelled calls", seconds(10), async {
        tokio::join!(posts, cancel)
    })
    .await;

    let leaver = agent(&gate, "one").await;
    let call = leaver.message("tools/call", Some(json!({"name": "echo"})));
    leaver.abandon(&call, Duration::from_millis(500)).await;
    assert_eq!(leaver.leave().await / 100, 2, "DELETE");

    let received = 4 + 5 + 1;
    let records = gate
        .records_when("every call in the audit log", |records| {
            let sums = records.of("method", "tools/call").sums();
            sums.admitted + sums.refused == received && sums.done == sums.admitted
        })
        .await;
    let sums = records.of("method", "tools/call").sums();
    assert_eq!(
        sums.admitted, 4,
        "{sums:?}: a call that was left during its hold went on"
    );
    assert_eq!(gate.heard("a").calls(), 4);
    records.assert_unbroken();
}

#[tokio::test]
async fn every_record_names_who_what_and_how_it_ended() {
    let tables = mock("a").table("") + HEADER;
    let gate = Gate::with(&tables).audited().start().await;
    let host = agent(&gate, "one").await;
    host.call("echo", json!({"message": "hello", "password": "hunter2"}))
        .await;
    host.call("fail", json!({})).await;
    host.call("rpc-error", json!({"code": -32050})).await;
    let records = gate.records_when("three done records", |records| {
        records.of("method", "tools/call").sums().done == 3
    });
    let records = records.await.of("method", "tools/call");
    let done: Vec<&Value> = records
        .iter()
        .filter(|record| record["phase"] == "done")
        .collect();
    let outcomes: Vec<&str> = done
        .iter()
        .filter_map(|record| record["outcome"].as_str())
        .collect();
    assert_eq!(outcomes, ["ok", "tool_error", "rpc_error"]);
    assert_eq!(done[2]["rpc_code"], -32050);
    for record in records.iter() {
        // How the host is connected is said once, when the call is admitted.
        let once: &[&str] = if record["phase"] == "admit" {
            &["transport", "era"]
        } else {
            &["outcome", "dur_ms"]
        };
        for member in ["v", "seq", "ts", "agent", "server", "tool"]
            .iter()
            .chain(once)
        {
            assert!(!record[member].is_null(), "{member} is missing: {record}");
        }
        assert_eq!(
            (&record["agent"], &record["server"]),
            (&json!("one"), &json!("a"))
        );
    }
    let text = std::fs::read_to_string(gate.folder().join("audit.jsonl")).unwrap();
    assert!(
        !text.contains("hunter2") && !text.contains("hello"),
        "arguments are hashed unless asked for"
    );
    assert!(text.contains("args_sha256"));
}

#[tokio::test]
async fn a_shadow_policy_counts_and_refuses_nothing() {
    let tables = mock("a").table("") + HEADER + &quota("1/h", 1, "mode = \"shadow\"");
    let gate = Gate::with(&tables).start().await;
    let host = agent(&gate, "one").await;
    assert_eq!(burst(&host, 5).await, (5, 0));
    let scrape = gate.scrape().await;
    let decisions = |decision: &str| {
        scrape.sum(
            "chillgate_policy_decisions_total",
            &[("policy", "calls"), ("decision", decision)],
        )
    };
    let shadowed: f64 = scrape
        .iter()
        .filter(|sample| sample.name == "chillgate_policy_decisions_total")
        .filter(|sample| {
            sample.labels["policy"] == "calls" && sample.labels["decision"].contains("shadow")
        })
        .map(|sample| sample.value)
        .sum();
    assert!(
        (shadowed - 4.0).abs() < 0.1,
        "{shadowed} shadow refusals, {} admitted",
        decisions("admit")
    );
}

#[tokio::test]
async fn at_most_n_calls_run_at_once() {
    let policy = "[[policy]]\ntype = \"concurrency\"\nper = \"agent\"\nat-most = 3\n";
    let gate = Gate::with(&(mock("a").ledger().table("") + HEADER + policy))
        .start()
        .await;
    let host = agent(&gate, "one").await;
    let calls = (0..8).map(|_| host.call("wait", json!({"ms": 600, "nonce": "n"})));
    let replies = all(calls).await;
    let answered = replies
        .iter()
        .filter(|reply| reply.code().is_none())
        .count();
    let refused = replies
        .iter()
        .filter(|reply| reply.code() == Some(42901))
        .count();
    assert_eq!((answered, refused), (3, 5), "{replies:?}");
    assert!(
        host.call("echo", json!({})).await.code().is_none(),
        "the slots were not given back"
    );
}

#[tokio::test]
async fn a_policy_hold_speaks_to_a_host_that_gave_a_token() {
    let boss = "[[policy]]\ntype = \"boss-alert\"\nmatch = { tool = \"echo\" }\nalertness = 100\ncooldown = \"1h\"\nhold = \"3s\"\n";
    let gate = Gate::with(&(mock("a").table("") + HEADER + boss))
        .start()
        .await;
    let host = agent(&gate, "one").await;
    for _ in 0..4 {
        host.call("echo", json!({})).await;
    }
    let params =
        json!({"name": "echo", "arguments": {"message": "held"}, "_meta": {"progressToken": "p"}});
    let held = async {
        let began = tokio::time::Instant::now();
        let reply = host.request("tools/call", params).await;
        (began.elapsed(), reply)
    };
    let other = async {
        tokio::time::sleep(Duration::from_millis(300)).await;
        let free = agent(&gate, "two").await;
        within(
            "another agent's call",
            seconds(1),
            free.call("pid", json!({})),
        )
        .await
    };
    let ((took, reply), _) = tokio::join!(held, other);
    assert!(
        (2.9..4.5).contains(&took.as_secs_f64()),
        "held for {took:?}"
    );
    assert_eq!(reply.tool_text(), "held");
    assert!(!reply.before().is_empty(), "no progress while it was held");
    assert!(
        reply
            .before()
            .iter()
            .all(|note| note["params"]["progressToken"] == "p"),
        "{reply:?}"
    );
}

#[tokio::test]
async fn an_audit_log_that_takes_nothing_refuses_calls_and_is_told_with_the_exit_code() {
    let tables = mock("a").ledger().table("") + "[audit]\nfile = \"/dev/full\"\n";
    let gate = Gate::with(&tables).start().await;
    let host = gate.host().open().await;
    // What comes before the first failed write is admitted; nothing after it.
    let refused = until("a refusal", seconds(5), async || {
        let reply = host.call("echo", json!({"message": "x"})).await;
        reply.code()
    });
    assert_eq!(refused.await, 50_301);
    let before = gate.heard("a").calls();
    for _ in 0..20 {
        assert!(
            host.call("echo", json!({"message": "x"}))
                .await
                .code()
                .is_some()
        );
    }
    assert_eq!(gate.heard("a").calls(), before, "a call went unrecorded");
    let ready = get(gate.health(), "/readyz").await;
    assert_eq!(ready.status, 503, "{}", ready.text());
    let (status, _) = gate.stop().await;
    assert_eq!(status.code(), Some(2));
}
