//! What a handler may ask its client, in the form of either era.
//!
//! It stands apart because the same question is a request of the server's own on a wire with a
//! handshake, and part of a result on a 2026-07-28 wire. It never asks anything itself.

#![expect(
    deprecated,
    reason = "the SDK calls sampling and roots deprecated; the suite still asks for both"
)]

use rmcp::model::{
    ClientCapabilities, CreateMessageResult, ElicitResult, InputRequest, ListRootsResult,
    ServerRequest,
};
use serde_json::{Value, json};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Elicit,
    Sample,
    Roots,
}

/// One question to a client.
#[derive(Clone, Debug)]
pub(crate) struct Question {
    kind: Kind,
    request: Value,
}

impl Question {
    /// Asks the user for these properties, all of them required.
    pub(crate) fn elicit(message: &str, properties: &Value) -> Self {
        let required: Vec<_> = properties
            .as_object()
            .into_iter()
            .flat_map(|map| map.keys())
            .collect();
        let schema = json!({ "type": "object", "properties": properties, "required": required });
        let params = json!({ "mode": "form", "message": message, "requestedSchema": schema });
        Self::new(
            Kind::Elicit,
            json!({ "method": "elicitation/create", "params": params }),
        )
    }

    /// Asks the user for one text.
    pub(crate) fn elicit_text(message: &str, property: &str) -> Self {
        Self::elicit(message, &json!({ property: { "type": "string" } }))
    }

    /// Asks the user for a yes or a no.
    pub(crate) fn elicit_flag(message: &str, property: &str) -> Self {
        Self::elicit(message, &json!({ property: { "type": "boolean" } }))
    }

    /// Asks the client's model.
    pub(crate) fn sample(prompt: &str, max_tokens: u32) -> Self {
        let message = json!({ "role": "user", "content": { "type": "text", "text": prompt } });
        let params = json!({ "messages": [message], "maxTokens": max_tokens });
        Self::new(
            Kind::Sample,
            json!({ "method": "sampling/createMessage", "params": params }),
        )
    }

    /// Asks for the client's roots.
    pub(crate) fn roots() -> Self {
        Self::new(Kind::Roots, json!({ "method": "roots/list" }))
    }

    fn new(kind: Kind, request: Value) -> Self {
        Self { kind, request }
    }

    /// The question as part of a result.
    pub(crate) fn as_input(&self) -> InputRequest {
        serde_json::from_value(self.request.clone()).expect("questions are put in the SDK's form")
    }

    /// The question as a request of the server's own.
    pub(crate) fn as_request(&self) -> ServerRequest {
        serde_json::from_value(self.request.clone()).expect("questions are put in the SDK's form")
    }

    /// What a client would have to declare before it may be asked, if it has not.
    pub(crate) fn undeclared(&self, declared: &ClientCapabilities) -> Option<ClientCapabilities> {
        let all = ClientCapabilities::builder();
        match self.kind {
            Kind::Elicit => declared
                .elicitation
                .is_none()
                .then(|| all.enable_elicitation().build()),
            Kind::Sample => declared
                .sampling
                .is_none()
                .then(|| all.enable_sampling().build()),
            Kind::Roots => declared.roots.is_none().then(|| all.enable_roots().build()),
        }
    }

    /// Whether this is an answer to such a question at all.
    pub(crate) fn is_answered_by(&self, answer: &Value) -> bool {
        let answer = answer.clone();
        match self.kind {
            Kind::Elicit => serde_json::from_value::<ElicitResult>(answer).is_ok(),
            Kind::Sample => serde_json::from_value::<CreateMessageResult>(answer).is_ok(),
            Kind::Roots => serde_json::from_value::<ListRootsResult>(answer).is_ok(),
        }
    }
}

/// What the user said, in the words that the suite expects.
pub(crate) fn outcome(answer: &Value) -> String {
    let action = answer["action"].as_str().unwrap_or("none");
    let content = answer.get("content").cloned().unwrap_or_else(|| json!({}));
    format!("action={action}, content={content}")
}

/// One property of what the user said.
pub(crate) fn word(answer: &Value, property: &str) -> String {
    match &answer["content"][property] {
        Value::String(word) => word.clone(),
        Value::Null => "nothing".to_owned(),
        other => other.to_string(),
    }
}

/// Whether the user said yes.
pub(crate) fn agreed(answer: &Value, property: &str) -> bool {
    answer["action"] == "accept" && answer["content"][property] == true
}

/// What the model said. Newer revisions let it say several things; the first will do.
pub(crate) fn reply(answer: &Value) -> String {
    let content = &answer["content"];
    let first = content.get(0).unwrap_or(content);
    first["text"].as_str().unwrap_or("no text").to_owned()
}

/// Where the client's roots are.
pub(crate) fn places(answer: &Value) -> String {
    let roots = answer["roots"].as_array().map_or(&[][..], Vec::as_slice);
    let uris: Vec<_> = roots
        .iter()
        .filter_map(|root| root["uri"].as_str())
        .collect();
    uris.join(", ")
}
