//! The tools, under the names that the suite calls.
//!
//! A tool is an entry of a table: what it is called, what it takes and what it does. The table
//! stands apart from the tools so that their order is in one place. It never runs a tool by itself.

mod asking;
mod headers;
mod jobs;
mod noisy;
mod plain;

use futures_util::future::BoxFuture;
use rmcp::model::{CallToolResponse, CallToolResult, ContentBlock, Tool};
use serde_json::{Map, Value, json};

use crate::{
    call::{Call, Stop},
    house::{Change, House},
};

pub(crate) type Outcome = Result<CallToolResponse, Stop>;

pub(crate) struct Entry {
    name: &'static str,
    about: &'static str,
    takes: fn() -> Value,
    does: fn(Call) -> BoxFuture<'static, Outcome>,
}

impl Entry {
    pub(crate) fn listed(&self) -> Tool {
        let Value::Object(schema) = (self.takes)() else {
            unreachable!("the schema of {} is no object", self.name);
        };
        Tool::new(self.name, self.about, schema)
    }

    pub(crate) fn run(&self, call: Call) -> BoxFuture<'static, Outcome> {
        (self.does)(call)
    }
}

// The plain ones come first: the suite calls the first tool of the list without arguments.
const TABLES: [&[Entry]; 5] = [
    plain::TOOLS,
    noisy::TOOLS,
    asking::TOOLS,
    jobs::TOOLS,
    headers::TOOLS,
];

const EXTRA: Entry = Entry {
    name: "test_extra_tool",
    about: "Comes and goes",
    takes: nothing,
    does: |_| Box::pin(async { Ok(said("Here for now.")) }),
};

fn all() -> impl Iterator<Item = &'static Entry> {
    TABLES.into_iter().flatten()
}

/// The list. What comes and goes is last, so that the order of the others never depends on it.
pub(crate) fn listed(house: &House) -> Vec<Tool> {
    let extra = house.has_extra(Change::Tools).then_some(&EXTRA);
    all().chain(extra).map(Entry::listed).collect()
}

pub(crate) fn find(house: &House, name: &str) -> Option<&'static Entry> {
    let extra = house.has_extra(Change::Tools).then_some(&EXTRA);
    all().chain(extra).find(|entry| entry.name == name)
}

/// The schema of a tool without arguments.
fn nothing() -> Value {
    json!({ "type": "object", "properties": {} })
}

/// The schema of an object with these properties, all of them required.
fn object(properties: &Value) -> Value {
    let required: Vec<_> = properties
        .as_object()
        .map(Map::keys)
        .into_iter()
        .flatten()
        .collect();
    json!({ "type": "object", "required": required, "properties": properties })
}

fn said(words: impl Into<String>) -> CallToolResponse {
    shown(vec![ContentBlock::text(words)])
}

fn shown(content: Vec<ContentBlock>) -> CallToolResponse {
    CallToolResult::success(content).into()
}
