//! The methods of all MCP revisions, as a closed set.
//!
//! For metric labels, which must not grow with what a host sends, and for the few facts a gateway
//! needs about a method. It never says whether a method is allowed, nor in which revision.

/// The label of every method that is not MCP's.
pub const OTHER: &str = "_OTHER";

/// Who may send a method.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Sender {
    /// The host.
    Host,
    /// The server.
    Server,
    /// Either.
    Both,
}

impl Sender {
    /// Whether a host may send it.
    pub fn host(self) -> bool {
        self != Self::Server
    }

    /// Whether a server may send it.
    pub fn server(self) -> bool {
        self != Self::Host
    }
}

use Sender::{Both, Host, Server};

/// Every method and its sender, over all revisions and the tasks extension. The usual ones come
/// first: it is searched from the front with each message.
const METHODS: &[(&str, Sender)] = &[
    ("tools/call", Host),
    ("tools/list", Host),
    ("initialize", Host),
    ("ping", Both),
    ("server/discover", Host),
    ("prompts/get", Host),
    ("prompts/list", Host),
    ("resources/list", Host),
    ("resources/read", Host),
    ("resources/subscribe", Host),
    ("resources/templates/list", Host),
    ("resources/unsubscribe", Host),
    ("subscriptions/listen", Host),
    ("completion/complete", Host),
    ("logging/setLevel", Host),
    ("sampling/createMessage", Server),
    ("roots/list", Server),
    ("elicitation/create", Server),
    ("tasks/get", Both),
    ("tasks/result", Both),
    ("tasks/list", Both),
    ("tasks/cancel", Both),
    ("tasks/update", Host),
    ("notifications/initialized", Host),
    ("notifications/cancelled", Both),
    ("notifications/progress", Both),
    ("notifications/message", Server),
    ("notifications/tools/list_changed", Server),
    ("notifications/prompts/list_changed", Server),
    ("notifications/resources/list_changed", Server),
    ("notifications/resources/updated", Server),
    ("notifications/roots/list_changed", Host),
    ("notifications/elicitation/complete", Server),
    ("notifications/tasks/status", Both),
    ("notifications/tasks", Server),
    ("notifications/subscriptions/acknowledged", Server),
];

/// The method as a constant, if MCP has it.
pub fn known(method: impl AsRef<[u8]>) -> Option<&'static str> {
    find(method.as_ref()).map(|(name, _)| name)
}

/// The method as a metric label: itself, or [`OTHER`].
pub fn label(method: &str) -> &'static str {
    known(method).unwrap_or(OTHER)
}

/// Who may send it, over all revisions.
pub fn sender(method: &str) -> Option<Sender> {
    find(method.as_bytes()).map(|(_, sender)| sender)
}

/// The methods, the usual ones first.
pub fn all() -> impl Iterator<Item = &'static str> {
    METHODS.iter().map(|(name, _)| *name)
}

/// The member of `params` that names what the method acts on: the tool, prompt, resource or task.
pub fn target_member(method: &str) -> Option<&'static str> {
    match method {
        "tools/call" | "prompts/get" => Some("name"),
        "resources/read" | "resources/subscribe" | "resources/unsubscribe" => Some("uri"),
        "tasks/get" | "tasks/result" | "tasks/update" | "tasks/cancel" => Some("taskId"),
        _ => None,
    }
}

/// The array in the result of a listing method whose entries can be merged and filtered.
pub fn is_list(method: &str) -> Option<&'static str> {
    match method {
        "tools/list" => Some("tools"),
        "prompts/list" => Some("prompts"),
        "resources/list" => Some("resources"),
        "resources/templates/list" => Some("resourceTemplates"),
        _ => None,
    }
}

fn find(method: &[u8]) -> Option<(&'static str, Sender)> {
    let mut all = METHODS.iter().copied();
    all.find(|(name, _)| name.as_bytes() == method)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_method_that_is_not_mcps_has_one_label() {
        assert_eq!(label("tools/call"), "tools/call");
        for other in ["tools/Call", "tools/call ", "x/y", "", OTHER] {
            assert_eq!(
                (label(other), known(other), sender(other)),
                (OTHER, None, None)
            );
        }
    }

    #[test]
    fn every_method_is_listed_once() {
        let mut names: Vec<_> = all().collect();
        names.sort_unstable();
        assert!(names.windows(2).all(|pair| pair[0] != pair[1]));
        assert_eq!(names.len(), 36);
    }

    #[test]
    fn what_a_gateway_needs_is_told_only_of_known_methods() {
        assert!(all().filter_map(target_member).count() == 9);
        assert!(all().filter_map(is_list).count() == 4);
        assert!(sender("ping").is_some_and(|s| s.host() && s.server()));
        assert!(sender("sampling/createMessage").is_some_and(|s| !s.host() && s.server()));
        assert!(sender("tools/call").is_some_and(|s| s.host() && !s.server()));
    }
}
