//! Scope: which OAuth scopes a call needs.
//!
//! Apart from access, which hides: who lacks a scope is told all that the call needs, and may come
//! back with a better token. Lists show only what the token is good for. Where credentials have no
//! scopes, as on stdio, what needs one cannot be called.

use std::sync::Arc;

use crate::engine::policy::code;
use crate::engine::{
    Call, Fields, KeyDoc, Kind, Policy, Rejection, Services, Stage, Verdict, Wrong,
};

/// `type = "scope"`.
pub const KIND: Kind = Kind {
    name: "scope",
    stage: Stage::Scope,
    about: "asks for OAuth scopes",
    keys: &[KeyDoc::new(
        "require",
        "[\"files:write\"]",
        "scopes that the caller's token must all have, itself or by `implies`",
    )],
    once: false,
    build,
};

#[derive(Debug)]
struct Scope {
    name: Arc<str>,
    require: Vec<Arc<str>>,
}

fn build(fields: &mut Fields<'_>, name: &Arc<str>, _: &Services) -> Option<Arc<dyn Policy>> {
    const HELP: &str = "write require = [\"files:write\"]";
    fields.missing("require", HELP);
    let words = fields.texts("require").unwrap_or_default();
    // RFC 6749, section 3.3.
    let is_scope = |word: &str| {
        let legal = |byte: u8| byte.is_ascii_graphic() && byte != b'"' && byte != b'\\';
        !word.is_empty() && word.bytes().all(legal)
    };
    if fields.clean() && (words.is_empty() || !words.iter().all(|word| is_scope(word))) {
        let message = "a scope is one word of visible ASCII without quotes and backslashes";
        fields.wrong(Some("require"), Wrong::new(message, HELP));
    }
    let scope = Scope {
        name: Arc::clone(name),
        require: words.into_iter().map(Arc::from).collect(),
    };
    fields.clean().then(|| Arc::new(scope) as Arc<dyn Policy>)
}

impl Policy for Scope {
    fn stage(&self) -> Stage {
        KIND.stage
    }

    fn on_request(&self, call: &Call) -> Verdict {
        if self.visible(call) {
            return Verdict::Admit;
        }
        // The chain adds what other policies of this kind ask for, and says it.
        let rejection = Rejection::new(
            &self.name,
            KIND.name,
            "insufficient_scope",
            code::SCOPE,
            "insufficient scope",
        );
        Verdict::Reject(rejection)
    }

    fn visible(&self, call: &Call) -> bool {
        let scopes = &call.grants.scopes;
        self.require.iter().all(|scope| scopes.contains(scope))
    }

    fn scopes(&self) -> &[Arc<str>] {
        &self.require
    }

    fn summary(&self) -> String {
        format!("requires {}", self.require.join(" "))
    }
}

#[cfg(test)]
mod tests {
    use crate::engine::testing::{admit, chain, granted, services};
    use serde_json::{Value, json};

    fn tables() -> [Value; 3] {
        [
            json!({"type": "scope", "match": {"server": "files"}, "require": "files"}),
            json!({"type": "scope", "match": {"tool": "write_*"}, "require": ["write", "files"]}),
            json!({"type": "scope", "match": {"tool": "delete_*"}, "require": "delete"}),
        ]
    }

    #[test]
    fn who_lacks_a_scope_is_told_all_that_the_call_needs() {
        let (_, services) = services();
        let chain = chain(&tables(), &services);
        for (scopes, passes) in [
            (&["files", "write"][..], true),
            (&["write", "other", "files"], true),
            (&["files"], false),
            (&["write"], false),
            (&["files:write"], false),
            (&[], false),
        ] {
            let call = granted(&[], scopes);
            assert_eq!(chain.visible(&call), passes, "{scopes:?}");
            match admit(&chain, call) {
                Ok(_) => assert!(passes, "{scopes:?}"),
                Err(rejection) => {
                    assert!(!passes, "{scopes:?}");
                    assert_eq!(rejection.scopes(), Some("files write"));
                    assert_eq!((rejection.code, rejection.hidden), (40_302, false));
                    let data = rejection.to_data().expect("data");
                    assert_eq!(data["scopes"], "files write");
                }
            }
        }
        assert!(chain.screens_lists());
    }

    #[test]
    fn what_is_hidden_asks_for_no_scope() {
        let (_, services) = services();
        let mut tables = tables().to_vec();
        tables.push(json!({"type": "access", "deny": "write_*"}));
        let rejection = admit(&chain(&tables, &services), granted(&[], &[])).expect_err("denied");
        assert!(rejection.hidden && rejection.scopes().is_none());
    }

    #[test]
    fn in_shadow_nothing_is_asked_for() {
        let (_, services) = services();
        let table = json!({"type": "scope", "mode": "shadow", "require": "x"});
        let chain = chain(&[table], &services);
        let call = granted(&[], &[]);
        assert!(chain.visible(&call) && !chain.screens_lists() && admit(&chain, call).is_ok());
    }
}
