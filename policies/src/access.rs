//! Access: which tools, prompts and resources an agent may see and use.
//!
//! One function decides lists and calls, so what is hidden is also refused and the other way
//! round; a refusal reads exactly like the answer to a name that does not exist. Who the agent is
//! was settled before.

use std::sync::Arc;

use serde_json::Value;

use crate::engine::policy::code;
use crate::engine::rule::Names;
use crate::engine::{
    Call, Fields, KeyDoc, Kind, Policy, Rejection, Services, Stage, Verdict, Wrong,
};

/// `type = "access"`.
pub const KIND: Kind = Kind {
    name: "access",
    stage: Stage::Access,
    about: "lets agents see and use only what they may",
    keys: &[
        KeyDoc::new(
            "allow",
            "[\"files__read_*\"]",
            "names that may be used; once given, within `match` nothing else may",
        ),
        KeyDoc::new(
            "deny",
            "[\"files__write_*\"]",
            "names that may not be used; wins over `allow`",
        ),
    ],
    once: false,
    build,
};

#[derive(Debug)]
struct Access {
    name: Arc<str>,
    allow: Option<Names>,
    deny: Names,
}

fn build(fields: &mut Fields<'_>, name: &Arc<str>, _: &Services) -> Option<Arc<dyn Policy>> {
    let allow = fields.patterns("allow").map(Names::new);
    let deny = fields.patterns("deny").map(Names::new);
    if allow.is_none() && deny.is_none() && fields.clean() {
        let help = "write deny = [\"files__write_*\"], or allow = [\"…\"]: then nothing else";
        fields.wrong(
            None,
            Wrong::new("an access policy needs `allow` or `deny`", help),
        );
    }
    let access = Access {
        name: Arc::clone(name),
        allow,
        deny: deny.unwrap_or_default(),
    };
    fields.clean().then(|| Arc::new(access) as Arc<dyn Policy>)
}

impl Policy for Access {
    fn stage(&self) -> Stage {
        KIND.stage
    }

    fn on_request(&self, call: &Call) -> Verdict {
        if self.visible(call) {
            return Verdict::Admit;
        }
        let Unknown {
            code,
            message,
            data,
        } = unknown(call);
        let mut rejection = Rejection::new(&self.name, KIND.name, "denied", code, message);
        rejection.hidden = true;
        rejection.data = data;
        Verdict::Reject(rejection)
    }

    fn visible(&self, call: &Call) -> bool {
        let Some(target) = call.target.as_deref() else {
            return true;
        };
        // Refusing reads patterns generously, allowing strictly: see `Names`.
        !self.deny.may_mean(&call.server, target)
            && self
                .allow
                .as_ref()
                .is_none_or(|allow| allow.means(&call.server, target))
    }

    fn summary(&self) -> String {
        let mut parts = Vec::new();
        if let Some(allow) = &self.allow {
            parts.push(format!("allows only {}", allow.to_text()));
        }
        let deny = self.deny.to_text();
        if !deny.is_empty() {
            parts.push(format!("denies {deny}"));
        }
        parts.join(", ")
    }
}

/// The answer to a call of something that does not exist.
#[derive(Clone, Debug, PartialEq)]
pub struct Unknown {
    /// JSON-RPC error code.
    pub code: i64,
    /// JSON-RPC error message.
    pub message: String,
    /// Members of the error's `data`; none: no `data`.
    pub data: Vec<(&'static str, Value)>,
}

/// How MCP answers a name that nobody knows, by method and era. The gate uses it for names that
/// really do not exist, so that denied and unknown cannot be told apart.
pub fn unknown(call: &Call) -> Unknown {
    let target = call.target.as_deref().unwrap_or_default();
    let invalid = |message: String| Unknown {
        code: code::INVALID_PARAMS,
        message,
        data: Vec::new(),
    };
    match &*call.method {
        "tools/call" => invalid(format!("Unknown tool: {target}")),
        "prompts/get" => invalid(format!("Unknown prompt: {target}")),
        method if method.starts_with("resources/") => Unknown {
            // The specification of 2026-07-28 gave the resource code up for invalid params.
            code: match call.context.era {
                "legacy" => code::RESOURCE_NOT_FOUND,
                _ => code::INVALID_PARAMS,
            },
            message: "Resource not found".into(),
            data: vec![("uri", target.into())],
        },
        _ => invalid(format!("Unknown reference: {target}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::testing::{admit, call, chain, services};
    use serde_json::json;

    #[test]
    fn lists_and_calls_are_decided_alike() {
        let deny = json!({"type": "access", "deny": ["files__write_*", "rm"]});
        let allow =
            json!({"type": "access", "allow": ["files__read_*", "greet", "file:///data/*"]});
        let both = json!({"type": "access", "allow": "files__*", "deny": "files__delete_*"});
        for (table, server, method, target, allowed) in [
            (&deny, "files", "tools/call", Some("write_file"), false),
            (&deny, "files", "tools/call", Some("read_file"), true),
            (&deny, "other", "tools/call", Some("write_file"), true),
            (&deny, "other", "tools/call", Some("rm"), false),
            (&deny, "other", "tools/call", Some("files__write_x"), false),
            (&deny, "files", "tools/list", None, true),
            (&deny, "files", "prompts/get", Some("write_poem"), false),
            (&allow, "files", "tools/call", Some("read_file"), true),
            (&allow, "files", "tools/call", Some("write_file"), false),
            (&allow, "evil", "tools/call", Some("files__read_x"), false),
            (&allow, "other", "prompts/get", Some("greet"), true),
            (&allow, "other", "prompts/get", Some("insult"), false),
            (
                &allow,
                "other",
                "resources/read",
                Some("file:///data/a__b"),
                true,
            ),
            (
                &allow,
                "other",
                "resources/read",
                Some("file:///etc/passwd"),
                false,
            ),
            (
                &allow,
                "other",
                "resources/subscribe",
                Some("file:///etc/passwd"),
                false,
            ),
            (
                &allow,
                "other",
                "completion/complete",
                Some("insult"),
                false,
            ),
            (&allow, "other", "ping", None, true),
            (&both, "files", "tools/call", Some("read"), true),
            (&both, "files", "tools/call", Some("delete_all"), false),
        ] {
            let (_, services) = services();
            let chain = chain(std::slice::from_ref(table), &services);
            let call = call("a", server, method, target);
            assert!(chain.screens_lists());
            assert_eq!(chain.visible(&call), allowed, "{table}: list {call:?}");
            assert_eq!(
                admit(&chain, call.clone()).is_ok(),
                allowed,
                "{table}: {call:?}"
            );
        }
    }

    #[test]
    fn a_denied_tool_is_answered_like_an_unknown_one() {
        let (_, services) = services();
        let chain = chain(&[json!({"type": "access", "deny": "*"})], &services);
        let call = call("a", "files", "tools/call", Some("rm"));
        let rejection = admit(&chain, call).expect_err("denied");
        assert_eq!(
            (rejection.code, &*rejection.message),
            (-32602, "Unknown tool: rm")
        );
        assert!(rejection.hidden);
        assert_eq!(rejection.to_data(), None);
    }

    #[test]
    fn a_denied_resource_is_answered_as_its_era_does() {
        let (_, services) = services();
        let chain = chain(&[json!({"type": "access", "deny": "*"})], &services);
        for (era, code) in [("legacy", -32002), ("modern", -32602)] {
            let mut call = call("a", "files", "resources/read", Some("file:///x"));
            call.context = Arc::new(crate::engine::Context {
                era,
                ..crate::engine::Context::default()
            });
            let rejection = admit(&chain, call).expect_err("denied");
            assert_eq!(rejection.code, code);
            assert_eq!(rejection.to_data(), Some(json!({"uri": "file:///x"})));
        }
    }

    #[test]
    fn only_the_agents_it_is_about_are_screened() {
        let (_, services) = services();
        let table = json!({"type": "access", "match": {"agent": "intern-*"}, "deny": "*"});
        let chain = chain(&[table], &services);
        assert!(!chain.visible(&call("intern-1", "s", "tools/call", Some("x"))));
        assert!(chain.visible(&call("boss", "s", "tools/call", Some("x"))));
    }

    #[test]
    fn a_policy_in_shadow_hides_nothing() {
        let (_, services) = services();
        let table = json!({"type": "access", "mode": "shadow", "deny": "*"});
        let chain = chain(&[table], &services);
        let call = call("a", "s", "tools/call", Some("x"));
        assert!(!chain.screens_lists() && chain.visible(&call) && admit(&chain, call).is_ok());
    }
}
