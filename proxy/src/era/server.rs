//! Towards servers: from the hub to a server's era, and back.

use chillgate_wire::{Envelope, Revision, json, meta};

/// A legacy server's answer to `initialize` as the answer to `server/discover` (eras, b.3): what it
/// says of itself stays to the letter, and the revisions are those that chillgate speaks.
pub fn discovered(greeting: &Envelope) -> Envelope {
    let mut edit = greeting.edit();
    let names: Vec<String> = Revision::ALL
        .iter()
        .map(|revision| json::quote(revision.as_str()))
        .collect();
    let names = format!("[{}]", names.join(","));
    edit.set(&["result", "supportedVersions"], names.into_bytes());
    edit.remove(&["result", "protocolVersion"]);
    if let Some(server) = greeting.get(&["result", "serverInfo"]) {
        edit.set(&["result", "_meta", meta::SERVER_INFO], server);
        edit.remove(&["result", "serverInfo"]);
    }
    // What cannot be asked for through chillgate is not offered.
    let tasks = ["result", "capabilities", "tasks"];
    if greeting.find(&tasks).is_some() {
        edit.remove(&tasks);
    }
    edit.finish()
}
