//! Tools that ask their client something, once or in rounds.
//!
//! The suite knows two sets of them: one that it calls with a handshake, one without. Here each
//! tool works in both eras, so that a server of either can stand behind a gateway to the other.
//! They stand apart because of that. They never see how their questions travel.

use serde_json::{Value, json};

use super::{Entry, Outcome, nothing, object, said};
use crate::{
    call::Call,
    question::{Question, agreed, outcome, places, reply, word},
};

pub(super) const TOOLS: &[Entry] = &[
    Entry {
        name: "test_sampling",
        about: "Asks the client's model",
        takes: || object(&json!({ "prompt": about("What to ask") })),
        does: |call| Box::pin(sampling(call)),
    },
    Entry {
        name: "test_elicitation",
        about: "Asks the user who they are",
        takes: || object(&json!({ "message": about("What to say to the user") })),
        does: |call| Box::pin(elicitation(call)),
    },
    Entry {
        name: "test_elicitation_sep1034_defaults",
        about: "Asks the user with a default for each primitive type",
        takes: nothing,
        does: |call| Box::pin(form(call, "Check these", defaults())),
    },
    Entry {
        name: "test_elicitation_sep1330_enums",
        about: "Asks the user to choose, in each way that there is",
        takes: nothing,
        does: |call| Box::pin(form(call, "Choose", choices())),
    },
    Entry {
        name: "test_input_required_result_elicitation",
        about: "Asks the user's name",
        takes: nothing,
        does: |call| Box::pin(greeting(call)),
    },
    Entry {
        name: "test_input_required_result_sampling",
        about: "Asks the client's model for a capital",
        takes: nothing,
        does: |call| Box::pin(capital(call)),
    },
    Entry {
        name: "test_input_required_result_list_roots",
        about: "Asks the client for its roots",
        takes: nothing,
        does: |call| Box::pin(roots(call)),
    },
    Entry {
        name: "test_input_required_result_request_state",
        about: "Asks to go on, with a state that has to come back",
        takes: nothing,
        does: |call| Box::pin(go_on(call, "state-ok", "not confirmed")),
    },
    Entry {
        name: "test_input_required_result_multiple_inputs",
        about: "Asks for a name, a greeting and the roots, all at once",
        takes: nothing,
        does: |call| Box::pin(three_at_once(call)),
    },
    Entry {
        name: "test_input_required_result_multi_round",
        about: "Asks for a name, then for a colour",
        takes: nothing,
        does: |call| Box::pin(two_rounds(call)),
    },
    Entry {
        name: "test_input_required_result_tampered_state",
        about: "Asks to go on; a forged state must not get here",
        takes: nothing,
        does: |call| Box::pin(go_on(call, "Went on.", "Stopped.")),
    },
    Entry {
        name: "test_input_required_result_capabilities",
        about: "Asks only for what the client has declared",
        takes: nothing,
        does: |call| Box::pin(what_is_declared(call)),
    },
    Entry {
        name: "test_missing_capability",
        about: "Asks the client's model, whether or not it has one",
        takes: nothing,
        does: |call| Box::pin(are_you_there(call)),
    },
    Entry {
        name: "test_streaming_elicitation",
        about: "Reports progress and asks the user's name",
        takes: nothing,
        does: |call| Box::pin(half_way(call)),
    },
];

fn about(words: &str) -> Value {
    json!({ "type": "string", "description": words })
}

fn name() -> Question {
    Question::elicit_text("What is your name?", "name")
}

async fn sampling(call: Call) -> Outcome {
    let answer = call
        .ask("completion", Question::sample(call.text("prompt"), 100))
        .await?;
    Ok(said(format!("LLM response: {}", reply(&answer))))
}

async fn elicitation(call: Call) -> Outcome {
    let properties = json!({ "username": about("A name"), "email": about("An address") });
    let question = Question::elicit(call.text("message"), &properties);
    let answer = call.ask("user", question).await?;
    Ok(said(format!("User response: {}", outcome(&answer))))
}

async fn form(call: Call, message: &str, properties: Value) -> Outcome {
    let answer = call
        .ask("form", Question::elicit(message, &properties))
        .await?;
    Ok(said(format!("Elicitation completed: {}", outcome(&answer))))
}

fn defaults() -> Value {
    json!({
        "name": { "type": "string", "default": "John Doe" },
        "age": { "type": "integer", "default": 30 },
        "score": { "type": "number", "default": 95.5 },
        "status": {
            "type": "string",
            "enum": ["active", "inactive", "pending"],
            "default": "active",
        },
        "verified": { "type": "boolean", "default": true },
    })
}

fn choices() -> Value {
    let plain = json!({ "type": "string", "enum": ["option1", "option2", "option3"] });
    let titled = json!([
        { "const": "value1", "title": "One" },
        { "const": "value2", "title": "Two" },
        { "const": "value3", "title": "Three" },
    ]);
    json!({
        "untitledSingle": plain,
        "titledSingle": { "type": "string", "oneOf": titled },
        "legacyEnum": {
            "type": "string",
            "enum": ["opt1", "opt2", "opt3"],
            "enumNames": ["One", "Two", "Three"],
        },
        "untitledMulti": { "type": "array", "items": plain },
        "titledMulti": { "type": "array", "items": { "anyOf": titled } },
    })
}

async fn greeting(call: Call) -> Outcome {
    let answer = call.ask("user_name", name()).await?;
    Ok(said(format!("Hello, {}!", word(&answer, "name"))))
}

async fn capital(call: Call) -> Outcome {
    let question = Question::sample("What is the capital of France?", 100);
    Ok(said(reply(&call.ask("capital_question", question).await?)))
}

async fn roots(call: Call) -> Outcome {
    let answer = call.ask("client_roots", Question::roots()).await?;
    Ok(said(format!("Roots: {}", places(&answer))))
}

async fn go_on(call: Call, yes: &str, no: &str) -> Outcome {
    let answer = call
        .ask("confirm", Question::elicit_flag("Go on?", "ok"))
        .await?;
    Ok(said(if agreed(&answer, "ok") { yes } else { no }))
}

async fn three_at_once(call: Call) -> Outcome {
    let [user, greeting, roots] = call
        .ask_all([
            ("user_name", name()),
            ("greeting", Question::sample("Greet somebody", 50)),
            ("client_roots", Question::roots()),
        ])
        .await?;
    let (greeting, user, roots) = (reply(&greeting), word(&user, "name"), places(&roots));
    Ok(said(format!("{greeting} {user}: {roots}")))
}

async fn two_rounds(call: Call) -> Outcome {
    let first = Question::elicit_text("Step 1: your name?", "name");
    let first = call.ask("step1", first).await?;
    let second = Question::elicit_text("Step 2: your colour?", "color");
    let second = call.ask("step2", second).await?;
    Ok(said(format!(
        "{} likes {}.",
        word(&first, "name"),
        word(&second, "color")
    )))
}

async fn what_is_declared(call: Call) -> Outcome {
    let declared = call.declared();
    let all = [
        ("something", Question::sample("Say something", 100)),
        ("user_name", name()),
    ];
    let questions = all
        .into_iter()
        .filter(|(_, question)| question.undeclared(&declared).is_none());
    let answers = call.ask_each(&questions.collect::<Vec<_>>()).await?;
    Ok(said(Value::from(answers).to_string()))
}

async fn are_you_there(call: Call) -> Outcome {
    Ok(said(reply(
        &call
            .ask("presence", Question::sample("Are you there?", 100))
            .await?,
    )))
}

async fn half_way(call: Call) -> Outcome {
    call.progress(1.0, 2.0).await;
    let answer = call.ask("user_name", name()).await?;
    call.progress(2.0, 2.0).await;
    Ok(said(outcome(&answer)))
}
