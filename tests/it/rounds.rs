//! Multi round-trip requests: servers of the old eras ask hosts of revision 2026-07-28.
//!
//! It stands apart because a call here is several requests of its host. The server's ledger says
//! how often the tool ran, which must be once; the schema of the revision judges what is asked.

use std::time::Duration;

use serde_json::{Value, json};

use chillgate_tests::http::{Answer, Connection, request};
use chillgate_tests::modern::{CAPABILITIES, body, events, fields, message, send};
use chillgate_tests::schema::Schema;
use chillgate_tests::wait::{all, seconds};
use chillgate_tests::{Gate, until};
use rustix::process::Signal;

use crate::mock;

async fn gate() -> Gate {
    let tables = mock("a").ledger().table("") + "[identity]\nheader = \"x-agent-id\"\n";
    let gate = Gate::with(&tables);
    gate.audited().start().await
}

/// A call of a host that can be asked for everything.
fn call(id: u64, tool: &str) -> Value {
    let able = json!({"sampling": {}, "elicitation": {}, "roots": {}});
    let params = json!({"name": tool, "_meta": {CAPABILITIES: able}});
    message(&json!(id), "tools/call", params)
}

/// The next request of the call: the same once more, with what the host answers.
fn retry(id: u64, tool: &str, state: &Value, responses: Value) -> Value {
    let mut call = call(id, tool);
    call["params"]["requestState"] = state.clone();
    call["params"]["inputResponses"] = responses;
    call
}

/// What the server asks, by method, and the state to come back with.
fn asked(answer: &Answer) -> (Vec<(String, String)>, Value) {
    let said = body(answer);
    let result = &said["result"];
    assert_eq!(result["resultType"], "input_required", "{said}");
    Schema::of("2026-07-28").check("InputRequiredResult", result);
    let mut asked: Vec<(String, String)> = result["inputRequests"]
        .as_object()
        .unwrap()
        .iter()
        .map(|(key, asked)| (asked["method"].as_str().unwrap().to_owned(), key.clone()))
        .collect();
    asked.sort();
    (asked, result["requestState"].clone())
}

async fn ask(gate: &Gate, message: &Value) -> Answer {
    let answer = send(gate.front(), message).await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    answer
}

fn text(answer: &Answer) -> String {
    let said = body(answer);
    let text = said["result"]["content"][0]["text"].as_str();
    text.unwrap_or_else(|| panic!("no text: {said}")).to_owned()
}

fn code(answer: &Answer) -> i64 {
    body(answer)["error"]["code"].as_i64().unwrap_or_default()
}

/// R-100, R-101, R-104, R-070, R-108: what a server asks in the midst of a call ends the request, not the call.
#[tokio::test]
async fn a_question_is_an_outcome_and_its_answer_goes_on_with_the_call() {
    let gate = gate().await;
    for (at, (tool, method)) in [
        ("sample", "sampling/createMessage"),
        ("elicit", "elicitation/create"),
        ("roots", "roots/list"),
    ]
    .into_iter()
    .enumerate()
    {
        let (questions, state) = asked(&ask(&gate, &call(1, tool)).await);
        let [(asked_for, key)] = questions.as_slice() else {
            panic!("{questions:?}");
        };
        assert_eq!(asked_for, method);
        let nonce = format!("answer to {tool}");
        let answers = json!({key: {"said": nonce}, "unknown": {"said": "ignored"}});
        let answer = ask(&gate, &retry(2, tool, &state, answers)).await;
        assert_eq!(body(&answer)["id"], 2, "the id of the request before");
        assert_eq!(body(&answer)["result"]["resultType"], "complete");
        assert!(text(&answer).contains(&nonce), "{}", answer.text());
        assert_eq!(gate.heard("a").calls(), at + 1, "a tool ran twice");
    }
    let records = gate
        .records_when("three ends", |records| {
            records.outcomes().get("ok") == Some(&3)
        })
        .await;
    assert_eq!(records.sums().admitted, 3, "a call is one call");
}

/// R-107: several questions at once, answered one by one, and a second round after them.
#[tokio::test]
async fn what_is_not_answered_is_asked_again() {
    let gate = gate().await;
    let (questions, first) = asked(&ask(&gate, &call(1, "survey")).await);
    let [(elicit, colour), (list, roots)] = questions.as_slice() else {
        panic!("{questions:?}");
    };
    assert_eq!(
        (elicit.as_str(), list.as_str()),
        ("elicitation/create", "roots/list")
    );
    let blue = json!({colour: {"action": "accept", "content": {"colour": "blue"}}});
    let (questions, second) = asked(&ask(&gate, &retry(2, "survey", &first, blue)).await);
    assert_eq!(questions, [("roots/list".to_owned(), roots.clone())]);
    assert_ne!(first, second);
    let nothing = retry(3, "survey", &second, json!({}));
    let (questions, third) = asked(&ask(&gate, &nothing).await);
    assert_eq!(questions, [("roots/list".to_owned(), roots.clone())]);
    let here = json!({roots: {"roots": [{"uri": "file:///here"}]}});
    let (questions, fourth) = asked(&ask(&gate, &retry(4, "survey", &third, here)).await);
    let [(sampling, key)] = questions.as_slice() else {
        panic!("{questions:?}");
    };
    assert_eq!(sampling, "sampling/createMessage");
    let said = json!({key: {"said": "that"}});
    let answer = ask(&gate, &retry(5, "survey", &fourth, said)).await;
    let text = text(&answer);
    assert!(
        ["blue", "file:///here", "that"]
            .iter()
            .all(|said| text.contains(said)),
        "{text}"
    );
    assert_eq!(gate.heard("a").calls(), 1);
}

/// R-105, R-106, R-110: a state is good once, for its agent and its request, as it was given.
#[tokio::test]
async fn a_state_that_is_not_the_hosts_own_leads_nowhere() {
    let gate = gate().await;
    let (questions, state) = asked(&ask(&gate, &call(1, "elicit")).await);
    let answers = json!({&questions[0].1: {"said": "mine"}});
    let good = retry(2, "elicit", &state, answers.clone());
    let text_of = state.as_str().unwrap();
    let mut changed = text_of.to_owned();
    let last = changed.pop().unwrap();
    changed.push(if last == 'A' { 'B' } else { 'A' });
    let mut of_other_arguments = good.clone();
    of_other_arguments["params"]["arguments"] = json!({"a": 1});
    for (what, bad) in [
        (
            "changed",
            retry(2, "elicit", &json!(changed), answers.clone()),
        ),
        (
            "made up",
            retry(2, "elicit", &json!("state"), answers.clone()),
        ),
        ("another tool", retry(2, "sample", &state, answers.clone())),
        ("other arguments", of_other_arguments),
        (
            "no object",
            retry(2, "elicit", &state, json!({&questions[0].1: 7})),
        ),
    ] {
        assert_eq!(code(&ask(&gate, &bad).await), -32602, "{what}");
    }
    let mut fields = fields(&good);
    fields.push(("x-agent-id", "somebody-else"));
    let foreign = request(gate.front(), "POST", "/mcp", &fields, good.to_string()).await;
    assert_eq!(code(&foreign), -32602, "{}", foreign.text());
    assert!(
        !foreign.text().contains("used"),
        "it says that there is a call"
    );
    let (first, second) = tokio::join!(ask(&gate, &good), ask(&gate, &good));
    let mut codes = [code(&first), code(&second)];
    codes.sort_unstable();
    assert_eq!(codes, [-32602, 0], "not once");
    let won = if code(&first) == 0 { first } else { second };
    assert!(text(&won).contains("mine"));
    assert_eq!(gate.heard("a").calls(), 1);
}

/// Answers that nobody asked for are ignored where they could be some, and refused where not.
#[tokio::test]
async fn answers_without_a_state_are_a_call_of_its_own() {
    let gate = gate().await;
    for (answers, is_fit) in [
        (json!({}), true),
        (json!({"q1": {"action": "accept"}}), true),
        (json!(42), false),
        (Value::Null, false),
        (json!([]), false),
        (json!({"q1": 12345}), false),
    ] {
        let mut message = call(1, "echo");
        message["params"]["inputResponses"] = answers.clone();
        let answer = ask(&gate, &message).await;
        assert_eq!(code(&answer), if is_fit { 0 } else { -32602 }, "{answers}");
    }
    assert_eq!(gate.heard("a").calls(), 2);
}

/// R-108: a server that knows of chillgate gives its question a name, which hosts find again.
#[tokio::test]
async fn a_question_that_has_a_name_is_asked_under_it_and_may_be_answered_before() {
    let gate = gate().await;
    let named = |id, keys: Value| {
        let mut call = call(id, "elicit");
        call["params"]["arguments"] = json!({"keys": keys});
        call
    };
    let brought = |mut call: Value, answers: Value| {
        call["params"]["inputResponses"] = answers;
        call
    };
    let (questions, state) = asked(&ask(&gate, &named(1, json!(["who"]))).await);
    assert_eq!(
        questions,
        [("elicitation/create".to_owned(), "who".to_owned())]
    );
    let mut next = brought(named(2, json!(["who"])), json!({"who": {"said": "me"}}));
    next["params"]["requestState"] = state;
    assert_eq!(text(&ask(&gate, &next).await), r#"[{"said":"me"}]"#);

    // Brought along it is not asked for, whatever else is; and a second time it is.
    let answers = json!({"who": {"said": "me"}, "more": {"said": "no"}});
    let both = brought(named(3, json!(["who", "what"])), answers.clone());
    let (questions, state) = asked(&ask(&gate, &both).await);
    assert_eq!(
        questions,
        [("elicitation/create".to_owned(), "what".to_owned())]
    );
    let mut next = brought(
        named(4, json!(["who", "what"])),
        json!({"what": {"said": "it"}}),
    );
    next["params"]["requestState"] = state;
    assert_eq!(
        text(&ask(&gate, &next).await),
        r#"[{"said":"me"},{"said":"it"}]"#
    );
    let one = ask(&gate, &brought(named(5, json!(["who"])), answers.clone())).await;
    assert_eq!(text(&one), r#"[{"said":"me"}]"#);
    let twice = ask(&gate, &brought(named(6, json!(["who", "who"])), answers)).await;
    assert_eq!(asked(&twice).0[0].1, "who");

    // A name holds for one of those that are open at one time.
    let mut both = named(7, json!(["who", "who"]));
    both["params"]["arguments"]["at-once"] = json!(true);
    let (questions, _) = asked(&ask(&gate, &both).await);
    let keys: Vec<&str> = questions.iter().map(|(_, key)| key.as_str()).collect();
    assert!(
        keys.len() == 2 && keys[1] == "who" && keys[0].starts_with('q'),
        "{keys:?}"
    );

    // What is no name, or could be a number of chillgate's own, is none.
    let bad = [
        json!("q1"),
        json!("q"),
        json!(""),
        json!(7),
        json!("x".repeat(65)),
    ];
    for (at, name) in bad.into_iter().enumerate() {
        let answers = json!({"q1": {"said": "stale"}, "q": {}, "": {}, "7": {}});
        let call = brought(named(10 + at as u64, json!([name])), answers);
        let (questions, _) = asked(&ask(&gate, &call).await);
        let number = questions[0].1.strip_prefix('q').expect("chillgate's own");
        assert!(number.parse::<u64>().is_ok(), "{name}: {questions:?}");
    }
    gate.stop().await;
}

/// R-102, R-109, R-212.
#[tokio::test]
async fn a_host_is_not_asked_for_what_it_has_not_declared() {
    let gate = gate().await;
    for (able, tool, needed) in [
        (json!({}), "elicit", json!({"elicitation": {"form": {}}})),
        (
            json!({"elicitation": {}}),
            "sample",
            json!({"sampling": {}}),
        ),
        (
            json!({"elicitation": {"url": {}}}),
            "elicit",
            json!({"elicitation": {"form": {}}}),
        ),
    ] {
        let params = json!({"name": tool, "_meta": {CAPABILITIES: able}});
        let answer = send(gate.front(), &message(&json!(1), "tools/call", params)).await;
        assert_eq!(
            (answer.status, code(&answer)),
            (400, -32021),
            "{}",
            answer.text()
        );
        let said = body(&answer);
        assert_eq!(said["error"]["data"]["requiredCapabilities"], needed);
        Schema::of("2026-07-28").check("MissingRequiredClientCapabilityError", &said);
    }
    let cancelled =
        async || (gate.heard("a").of("notifications/cancelled").len() == 3).then_some(());
    until("the calls to be cancelled", seconds(10), cancelled).await;
}

/// Each of many calls at once is asked about itself, and waiting ones stand in nobody's way.
#[tokio::test]
async fn twenty_hosts_are_asked_at_once_and_none_hears_anothers_answer() {
    let gate = gate().await;
    let asking = (0..20).map(|host| {
        let gate = &gate;
        async move {
            let (questions, state) = asked(&ask(gate, &call(1, "elicit")).await);
            (host, questions[0].1.clone(), state)
        }
    });
    let waiting = all(asking).await;
    let quick = at_once(&gate).await;
    assert_eq!(quick, "while they wait");
    let answering = waiting.into_iter().map(|(host, key, state)| {
        let gate = &gate;
        async move {
            let nonce = format!("host {host} said so");
            let answers = json!({&key: {"said": nonce}});
            let answer = ask(gate, &retry(2, "elicit", &state, answers)).await;
            assert!(text(&answer).contains(&nonce), "{}", answer.text());
        }
    });
    all(answering).await;
    assert_eq!(gate.heard("a").calls(), 21);
}

async fn at_once(gate: &Gate) -> String {
    let mut quick = call(1, "echo");
    quick["params"]["arguments"] = json!({"message": "while they wait"});
    text(&ask(gate, &quick).await)
}

/// Waiting calls take none of the places that running ones have.
#[tokio::test]
async fn a_waiting_call_takes_no_place_in_flight() {
    let tables = mock("a").table("") + "[limits]\nin-flight-per-agent = 1\n";
    let gate = Gate::with(&tables).start().await;
    let mut states = Vec::new();
    for waiting in 1..=5 {
        let (questions, state) = asked(&ask(&gate, &call(waiting, "elicit")).await);
        states.push((json!({&questions[0].1: {"said": 1}}), state));
        assert_eq!(at_once(&gate).await, "while they wait");
    }
    // There is a bound, and it is the one that has waited longest that does not get past it.
    let mut codes = Vec::new();
    for (answers, state) in states {
        let answer = ask(&gate, &retry(9, "elicit", &state, answers)).await;
        codes.push(code(&answer));
    }
    assert_eq!(codes, [-32602, 0, 0, 0, 0]);
}

/// Hosts that never come back use up nothing that others need.
#[tokio::test]
async fn abandoned_calls_are_given_up_for_new_ones() {
    let gate = gate().await;
    let asking_call = call(1, "elicit");
    for _ in 0..6 {
        // What is asked right after a call was given up may be refused: it could be about that one.
        let asking = (0..10).map(|_| ask(&gate, &asking_call));
        all(asking).await;
    }
    assert_eq!(at_once(&gate).await, "while they wait");
    let gone = async || (gate.heard("a").of("notifications/cancelled").len() > 5).then_some(());
    until("the oldest to be given up", seconds(10), gone).await;
    tokio::time::sleep(Duration::from_millis(2100)).await;
    asked(&ask(&gate, &asking_call).await);
}

/// R-206: the error by which servers of 2025-11-25 ask for a page to be opened.
#[tokio::test]
async fn a_page_to_be_opened_first_is_asked_for() {
    let gate = gate().await;
    let sign_in = |able: Value| {
        let params = json!({"name": "sign-in", "_meta": {CAPABILITIES: able}});
        message(&json!(1), "tools/call", params)
    };
    let answer = ask(&gate, &sign_in(json!({"elicitation": {"url": {}}}))).await;
    let (questions, state) = asked(&answer);
    assert_eq!(questions[0].0, "elicitation/create");
    assert_eq!(state, Value::Null, "there is no call to go on with");
    let asked = &body(&answer)["result"]["inputRequests"][&questions[0].1]["params"];
    let wanted = json!({"mode": "url", "url": "https://example.com/in", "message": "Sign in"});
    assert_eq!(asked, &wanted);
    let cannot = send(gate.front(), &sign_in(json!({"elicitation": {}}))).await;
    assert_eq!((cannot.status, code(&cannot)), (400, -32021));
}

/// R-069 across rounds: an ended request is no cancellation, a stream closed in the next one is.
#[tokio::test]
async fn a_host_that_leaves_in_a_later_round_has_cancelled_the_call() {
    let gate = gate().await;
    let (questions, first) = asked(&ask(&gate, &call(1, "survey")).await);
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert_eq!(gate.heard("a").of("notifications/cancelled").len(), 0);
    let mut answers = json!({});
    for (_, key) in &questions {
        answers[key] = json!({"said": 1});
    }
    let leaving = retry(2, "survey", &first, answers);
    let mut connection = Connection::open(gate.front()).await;
    let fields = fields(&leaving);
    let sending = connection.send("POST", "/mcp", &fields, leaving.to_string().into());
    // The server asks on at once; before chillgate has made sure that nothing more comes, the
    // host is gone.
    let _ = tokio::time::timeout(Duration::from_millis(10), sending).await;
    drop(connection);
    let cancelled =
        async || (gate.heard("a").of("notifications/cancelled").len() == 1).then_some(());
    until("the cancellation", seconds(10), cancelled).await;
}

/// R-111: a call that nobody comes back for is given up, and its server hears it.
#[tokio::test]
async fn a_call_waits_no_longer_than_it_may() {
    let tables = mock("a").ledger().table("") + "[limits]\ninput-wait = \"1s\"\n";
    let gate = Gate::with(&tables);
    let gate = gate.audited().start().await;
    let (questions, state) = asked(&ask(&gate, &call(1, "elicit")).await);
    let cancelled =
        async || (gate.heard("a").of("notifications/cancelled").len() == 1).then_some(());
    until("the cancellation", seconds(10), cancelled).await;
    let heard = gate.heard("a").lines().join("\n");
    assert!(heard.contains(r#"{"action":"cancel"}"#), "{heard}");
    tokio::time::sleep(Duration::from_millis(1100)).await;
    let late = json!({&questions[0].1: {"said": "late"}});
    let answer = ask(&gate, &retry(2, "elicit", &state, late)).await;
    assert_eq!(code(&answer), -32603, "{}", answer.text());
    assert!(
        answer.text().contains("waited too long"),
        "{}",
        answer.text()
    );
    assert_eq!(gate.heard("a").calls(), 1, "it ran again");
    let records = gate
        .records_when("its end", |records| !records.outcomes().is_empty())
        .await;
    assert_eq!(records.outcomes().get("cancelled"), Some(&1));
}

/// chillgate does not wait for hosts when it stops.
#[tokio::test]
async fn a_waiting_call_does_not_hold_up_the_end() {
    let mut gate = gate().await;
    asked(&ask(&gate, &call(1, "elicit")).await);
    gate.signal(Signal::TERM);
    // What runs may take 30 s.
    assert!(gate.ended(seconds(5)).await.success());
}

/// Progress before a question goes to the request of that round, under its own token.
#[tokio::test]
async fn progress_goes_with_the_round_that_it_belongs_to() {
    let gate = gate().await;
    let mut first = call(1, "survey");
    first["params"]["_meta"]["progressToken"] = json!("one");
    let answer = ask(&gate, &first).await;
    let said = events(&answer);
    assert_eq!(said.len(), 4, "{}", answer.text());
    let tokens = |said: &[Value]| -> Vec<Value> {
        said.iter()
            .map(|note| note["params"]["progressToken"].clone())
            .collect()
    };
    assert_eq!(tokens(&said[..3]), vec![json!("one"); 3]);
    let result = &said[3]["result"];
    assert_eq!(result["resultType"], "input_required");
    let mut answers = json!({});
    for key in result["inputRequests"].as_object().unwrap().keys() {
        answers[key] = json!({});
    }
    let mut second = retry(2, "survey", &result["requestState"], answers);
    second["params"]["_meta"]["progressToken"] = json!(2);
    let answer = ask(&gate, &second).await;
    let said = events(&answer);
    assert_eq!(said.len(), 4, "{}", answer.text());
    assert_eq!(tokens(&said[..3]), vec![json!(2); 3]);
    assert_eq!(said[3]["id"], 2);
    assert_eq!(said[3]["result"]["resultType"], "input_required");
}

/// A call that its host gave up while the server was with it, on the lane that the next one takes.
async fn given_up(gate: &Gate, mut late: Value, ms: u64) {
    // The server is there, so that the next call is with it at once.
    ask(gate, &call(9, "name")).await;
    late["params"]["arguments"] = json!({"ms": ms});
    let mut connection = Connection::open(gate.front()).await;
    let late_fields = fields(&late);
    let sending = connection.send("POST", "/mcp", &late_fields, late.to_string().into());
    assert!(
        tokio::time::timeout(Duration::from_millis(100), sending)
            .await
            .is_err()
    );
    drop(connection);
    let cancelled =
        async || (gate.heard("a").of("notifications/cancelled").len() == 1).then_some(());
    until("the cancellation", seconds(10), cancelled).await;
}

/// What a server asks late, about a call that is over, is put to nobody.
#[tokio::test]
async fn a_late_question_of_a_cancelled_call_reaches_no_other_call() {
    let gate = gate().await;
    given_up(&gate, call(1, "elicit"), 400).await;
    let mut slow = call(2, "wait");
    slow["params"]["arguments"] = json!({"ms": 800, "nonce": "undisturbed"});
    assert_eq!(text(&ask(&gate, &slow).await), "undisturbed");
    let refused = async || {
        let heard = gate.heard("a").lines().join("\n");
        heard.contains("-32601").then_some(())
    };
    until("the refusal", seconds(10), refused).await;
}

/// A call soon after one that was given up may be asked about like any other.
#[tokio::test]
async fn a_call_after_a_cancelled_one_asks_its_host() {
    let gate = gate().await;
    given_up(&gate, call(1, "never"), 0).await;
    let (questions, state) = asked(&ask(&gate, &call(2, "elicit")).await);
    let answers = json!({&questions[0].1: {"action": "accept", "content": {"a": 7}}});
    let said = text(&ask(&gate, &retry(3, "elicit", &state, answers)).await);
    assert!(said.contains("accept"), "{said}");
    assert!(!gate.heard("a").lines().join("\n").contains("-32601"));
}
