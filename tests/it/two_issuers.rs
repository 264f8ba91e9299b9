//! Whose is what, where several go by one name: users of one issuer that one claim names alike, an
//! issuer's user and an API server's, the holder of a key.
//!
//! It stands apart from the rows in which thief and owner are different agents: here policies take
//! them for one, and only what was handed out can tell. Everybody tries everything of everybody
//! else's; none of it reaches the server, and the owner goes on.

use serde_json::{Value, json};

use chillgate_tests::http::{Connection, request};
use chillgate_tests::modern::{CAPABILITIES, body, fields, message};
use chillgate_tests::server::toml_list;
use chillgate_tests::sse::Events;
use chillgate_tests::wait::{seconds, within};
use chillgate_tests::{Gate, Host, Issuer};

use crate::egress::Dice;
use crate::headers_agree::reached;
use crate::mock;
use crate::peers::legacy_server;

/// Ids that nobody was given.
const GUESSES: usize = 10_000;

/// Somebody, and what proves it.
struct Person {
    what: &'static str,
    bearer: String,
}

/// Those who come to a gate, all by the name `bot` but for the last two.
struct Meeting {
    gate: Gate,
    people: Vec<Person>,
    issuers: [Issuer; 3],
}

async fn meeting(server: &str) -> Meeting {
    let (corp, partner, cluster) = tokio::join!(Issuer::start(), Issuer::start(), Issuer::start());
    let folder = tempfile::tempdir().unwrap();
    let own = folder.path().join("token");
    std::fs::write(&own, "own-token\n").unwrap();
    let jwt = |issuer: &Issuer, prefix: &str| {
        format!(
            "[[identity.jwt]]\nissuer = \"{name}\"\njwks = \"{name}/jwks\"\naudience = \"chillgate\"\n\
             agent = \"team\"\nprefix = \"{prefix}\"\n",
            name = issuer.name()
        )
    };
    let tables = format!(
        "{}[identity]\napi-keys = {{ bot = \"sha256:9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08\" }}\n\
         [identity.token-review]\nurl = \"{}/apis/authentication.k8s.io/v1/tokenreviews\"\naudience = \"chillgate\"\n\
         token = \"own-token\"\nca = \"{}\"\n{}{}",
        server,
        cluster.name(),
        ca(folder.path()).await,
        jwt(&corp, ""),
        jwt(&partner, "partner:"),
    );
    let gate = Gate::with(&tables).start().await;
    let bearer =
        async |issuer: &Issuer, claims: Value| format!("Bearer {}", issuer.token(claims).await);
    let people = vec![
        Person {
            what: "a user",
            bearer: bearer(&corp, json!({ "sub": "1", "team": "bot" })).await,
        },
        Person {
            what: "another user of the same team",
            bearer: bearer(&corp, json!({ "sub": "2", "team": "bot" })).await,
        },
        Person {
            what: "a service account",
            bearer: bearer(&cluster, json!({ "sub": "bot" })).await,
        },
        Person {
            what: "the holder of a key",
            bearer: "Bearer test".to_owned(),
        },
        Person {
            what: "a partner's user of the same number and team",
            bearer: bearer(&partner, json!({ "sub": "1", "team": "bot" })).await,
        },
        Person {
            what: "a user of another team",
            bearer: bearer(&corp, json!({ "sub": "1", "team": "bat" })).await,
        },
    ];
    Meeting {
        gate,
        people,
        issuers: [corp, partner, cluster],
    }
}

/// Some authority: a review is asked for with one.
async fn ca(folder: &std::path::Path) -> String {
    let made = chillgate_tests::process::command("openssl")
        .args([
            "req",
            "-x509",
            "-newkey",
            "ec",
            "-pkeyopt",
            "ec_paramgen_curve:prime256v1",
        ])
        .args([
            "-nodes", "-days", "2", "-subj", "/CN=ca", "-keyout", "ca.key", "-out", "ca.pem",
        ])
        .current_dir(folder)
        .output()
        .await
        .expect("openssl is installed");
    assert!(made.status.success());
    let file = folder.join("ca.pem");
    let kept = std::env::temp_dir().join(format!("chillgate-ca-{}.pem", std::process::id()));
    std::fs::copy(file, &kept).unwrap();
    kept.display().to_string()
}

impl Meeting {
    async fn host(&self, person: &Person) -> Host {
        let host = self.gate.host().header("authorization", &person.bearer);
        host.open().await
    }

    async fn ask(&self, person: &Person, method: &str, mut params: Value) -> Value {
        params["_meta"][CAPABILITIES] =
            json!({"elicitation": {}, "extensions": {"io.modelcontextprotocol/tasks": {}}});
        let sent = message(&json!(1), method, params);
        let mut head = fields(&sent);
        let task = sent["params"]["taskId"].as_str();
        head.extend(task.map(|task| ("mcp-name", task)));
        head.push(("authorization", &person.bearer));
        body(&request(self.gate.front(), "POST", "/mcp", &head, sent.to_string()).await)
    }

    /// One with a session that is not this host's; what each way in answers.
    async fn steal(&self, person: &Person, session: &str) -> [u16; 3] {
        let head = |accept| {
            vec![
                ("content-type", "application/json"),
                ("accept", accept),
                ("authorization", person.bearer.as_str()),
                ("mcp-session-id", session),
            ]
        };
        let both = head("application/json, text/event-stream");
        let list = r#"{"jsonrpc":"2.0","id":1,"method":"tools/list"}"#;
        let front = self.gate.front();
        [
            request(front, "POST", "/mcp", &both, list).await.status,
            request(front, "GET", "/mcp", &head("text/event-stream"), "")
                .await
                .status,
            request(front, "DELETE", "/mcp", &both, "").await.status,
        ]
    }

    /// Each pair of two people, thief first.
    fn pairs(&self) -> impl Iterator<Item = (&Person, usize)> {
        let thieves = self.people.iter().enumerate();
        thieves.flat_map(|(at, thief)| {
            let owners = (0..self.people.len()).filter(move |owner| *owner != at);
            owners.map(move |owner| (thief, owner))
        })
    }
}

#[tokio::test]
async fn a_session_is_one_users_of_one_issuer_whatever_name_they_go_by() {
    let meeting = meeting(&mock("a").ledger().table("")).await;
    let mut hosts = Vec::new();
    for person in &meeting.people {
        hosts.push(meeting.host(person).await);
    }
    for (thief, owner) in meeting.pairs() {
        let session = hosts[owner].session().unwrap();
        let whose = meeting.people[owner].what;
        let got = meeting.steal(thief, session).await;
        assert_eq!(got, [404; 3], "{}: the session of {whose}", thief.what);
    }
    // A session of HTTP+SSE is its stream.
    let mut streams = Vec::new();
    for person in &meeting.people {
        let mut connection = Connection::open(meeting.gate.front()).await;
        let head = [
            ("accept", "text/event-stream"),
            ("authorization", person.bearer.as_str()),
        ];
        let response = connection
            .send("GET", "/sse", &head, bytes::Bytes::new())
            .await;
        assert_eq!(response.status(), 200, "{}", person.what);
        let mut events = Events::new(response.into_body());
        let first = within("the endpoint", seconds(5), events.next())
            .await
            .unwrap();
        streams.push((connection, events, first.data));
    }
    for (thief, owner) in meeting.pairs() {
        let head = [
            ("content-type", "application/json"),
            ("authorization", thief.bearer.as_str()),
        ];
        let hello = r#"{"jsonrpc":"2.0","id":1,"method":"ping"}"#;
        let to = &streams[owner].2;
        let got = request(meeting.gate.front(), "POST", to, &head, hello).await;
        let whose = meeting.people[owner].what;
        assert_eq!(got.status, 404, "{}: the stream of {whose}", thief.what);
    }
    for (person, host) in meeting.people.iter().zip(&hosts) {
        let said = host.call("echo", json!({ "message": person.what })).await;
        assert_eq!(said.tool_text(), person.what, "the owner goes on");
    }
    assert_eq!(meeting.gate.heard("a").calls(), hosts.len());
}

/// Guessed ids, ids that a client chose, and ids that are nearly right: as unknown as each other.
#[tokio::test]
async fn no_id_that_was_not_given_opens_a_session() {
    let meeting = meeting(&mock("a").ledger().table("")).await;
    let (owner, thief) = (&meeting.people[0], &meeting.people[1]);
    let host = meeting.host(owner).await;
    let real = host.session().unwrap().to_owned();
    let mut dice = Dice(0x0515_0515_0515_0515);
    let mut connection = Connection::open(meeting.gate.front()).await;
    let mut unknown = None;
    for number in 0..GUESSES {
        let digit = |dice: &mut Dice| char::from(b"0123456789abcdef"[dice.below(16)]);
        let session: String = match number % 5 {
            // Of its form.
            0 => (0..32).map(|_| digit(&mut dice)).collect(),
            // The owner's but for one digit.
            1 => {
                let (at, mut near) = (dice.below(32), real.clone().into_bytes());
                near[at] = if near[at] == b'0' { b'1' } else { b'0' };
                String::from_utf8(near).unwrap()
            }
            // Chosen by a client beforehand.
            2 => format!("my-session-{number}"),
            // The owner's in another spelling.
            3 => [
                real.to_uppercase(),
                format!("{real}0"),
                format!("0{real}"),
                real[..31].to_owned(),
                format!("{real},{real}"),
                format!("\"{real}\""),
            ][dice.below(6)]
            .clone(),
            // The owner's own.
            _ => real.clone(),
        };
        let head = [
            ("content-type", "application/json"),
            ("accept", "application/json, text/event-stream"),
            ("authorization", thief.bearer.as_str()),
            ("mcp-session-id", session.as_str()),
        ];
        if !connection.usable() {
            connection = Connection::open(meeting.gate.front()).await;
        }
        let call = r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"echo","arguments":{"message":"stolen"}}}"#;
        let answer = connection.send("POST", "/mcp", &head, call.into()).await;
        let answer = chillgate_tests::http::collect(answer).await;
        assert_eq!(answer.status, 404, "{session}: {}", answer.text());
        assert!(answer.header("mcp-session-id").is_empty(), "{session}");
        // Nobody learns whether there is such a session.
        let first = unknown.get_or_insert_with(|| answer.text());
        assert_eq!(*first, answer.text(), "{session}");
    }
    assert_eq!(meeting.gate.heard("a").calls(), 0);
    assert_eq!(
        host.call("echo", json!({ "message": "m" }))
            .await
            .tool_text(),
        "m"
    );
}

impl Meeting {
    fn thieves(&self, owner: usize) -> impl Iterator<Item = &Person> {
        let others = self.people.iter().enumerate();
        others
            .filter(move |(other, _)| *other != owner)
            .map(|(_, thief)| thief)
    }

    /// A task of one person, tried by all others by each method.
    async fn steal_task(&self, at: usize, task: &Value) {
        let owner = &self.people[at];
        let task = self.ask(owner, "tools/call", task.clone()).await;
        let id = task["result"]["taskId"].as_str();
        let id = id.unwrap_or_else(|| panic!("{}: no task: {task}", owner.what));
        let before = reached(&self.gate);
        for thief in self.thieves(at) {
            for method in ["tasks/get", "tasks/update", "tasks/cancel"] {
                let params = json!({ "taskId": id, "inputResponses": {} });
                let stolen = self.ask(thief, method, params).await;
                let who = format!("{}: {method} of {}", thief.what, owner.what);
                assert_eq!(stolen["error"]["code"], -32602, "{who}: {stolen}");
            }
        }
        assert_eq!(reached(&self.gate), before, "it reached the server");
        let own = self.ask(owner, "tasks/get", json!({ "taskId": id })).await;
        assert_eq!(own["result"]["taskId"], id, "{}: {own}", owner.what);
    }

    /// A state of one person, tried by all others.
    async fn steal_state(&self, at: usize) {
        let (owner, elicit) = (&self.people[at], json!({ "name": "elicit" }));
        let asked = self.ask(owner, "tools/call", elicit).await;
        let state = &asked["result"]["requestState"];
        assert!(state.is_string(), "{asked}");
        let questions = asked["result"]["inputRequests"].as_object().unwrap();
        let key = questions.keys().next().unwrap();
        let answers = json!({ key: { "action": "accept", "content": {} } });
        let params = json!({ "name": "elicit", "requestState": state, "inputResponses": answers });
        let before = reached(&self.gate);
        for thief in self.thieves(at) {
            let stolen = self.ask(thief, "tools/call", params.clone()).await;
            let who = format!("{}: the state of {}", thief.what, owner.what);
            assert_eq!(stolen["error"]["code"], -32602, "{who}: {stolen}");
        }
        assert_eq!(reached(&self.gate), before, "it reached the server");
        let own = self.ask(owner, "tools/call", params).await;
        assert!(own["result"]["content"].is_array(), "{}: {own}", owner.what);
    }
}

#[tokio::test]
async fn a_task_or_state_is_one_users_of_one_issuer_whatever_name_they_go_by() {
    let modern = mock("a").ledger().flags(&["--eras", "modern"]);
    let modern = meeting(&modern.table("era = \"modern\"\n")).await;
    for owner in 0..modern.people.len() {
        modern
            .steal_task(owner, &json!({ "name": "as-task" }))
            .await;
    }
    // That server gives everybody one state, which is nobody's own once all have it.
    modern.steal_state(0).await;
    // Tasks of an older server have names of chillgate's own, and questions of one are its states.
    let words = toml_list(&legacy_server());
    let tasks = meeting(&format!("[server.a]\ncommand = {words}\n")).await;
    let states = meeting(&mock("a").ledger().table("")).await;
    for owner in 0..tasks.people.len() {
        let slow = json!({ "name": "slow_compute", "arguments": { "seconds": 60 } });
        tasks.steal_task(owner, &slow).await;
        states.steal_state(owner).await;
    }
}

#[tokio::test]
async fn what_a_server_gave_one_user_alone_is_not_served_to_another() {
    let server = mock("a").ledger().flags(&["--eras", "modern", "--private"]);
    let meeting = meeting(&server.table("era = \"modern\"\n")).await;
    let lists = || meeting.gate.heard("a").of("tools/list").len();
    for person in &meeting.people {
        let before = lists();
        meeting.ask(person, "tools/list", json!({})).await;
        assert!(lists() > before, "{}: somebody else's list", person.what);
        let asked = lists();
        meeting.ask(person, "tools/list", json!({})).await;
        assert_eq!(lists(), asked, "{}: its own is kept", person.what);
    }
}

#[tokio::test]
async fn a_name_that_begins_as_another_issuers_do_is_that_issuers_to_give() {
    let meeting = meeting(&mock("a").ledger().table("")).await;
    let [corp, partner, _] = &meeting.issuers;
    for (issuer, team, status) in [
        (corp, "partner:bot", 401),
        (corp, "partner:", 401),
        (corp, "partner", 200),
        (corp, "Partner:bot", 200),
        (partner, "bot", 200),
        (partner, "partner:bot", 200),
    ] {
        let token = issuer.token(json!({ "sub": "1", "team": team })).await;
        let host = meeting
            .gate
            .host()
            .header("authorization", &format!("Bearer {token}"));
        let opened = host.post(&host.hello(&json!({}))).await;
        assert_eq!(opened.status, status, "{team}: {opened:?}");
    }
}
