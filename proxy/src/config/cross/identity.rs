//! Rules between the keys of `[identity]`.
//!
//! Apart for its size. It opens no file and asks nobody: whether an issuer answers is seen later.

use std::collections::BTreeMap;
use std::time::Duration;

use http::Uri;

use crate::config::identity::{ApiKeys, Identity, Jwt, agent_name, key_hash};
use crate::config::load::Said;
use crate::config::secret::expand;

/// The longest that a review counts.
const LONGEST_REVIEW: Duration = Duration::from_mins(1);
/// The furthest a clock may be off.
const LEEWAY: Duration = Duration::from_mins(1);

/// What is wrong between the keys of `[identity]`.
pub(super) fn mistakes(identity: &Identity, found: &mut Vec<Said>) {
    issuers(identity, found);
    reviews(identity, found);
    users(identity, found);
    resource(identity, found);
    if let Some(name) = &identity.header {
        let legal = http::HeaderName::from_bytes(name.as_bytes());
        let reserved = ["authorization", "cookie", "host", "origin"];
        match legal {
            Ok(name) if !reserved.contains(&name.as_str()) => {}
            Ok(_) => found.push(Said::at(
                &["identity", "header"],
                format!("`{name}` is not a header that names an agent"),
                "write header = \"x-agent-id\"; keys are [identity] api-keys",
            )),
            Err(_) => found.push(Said::at(
                &["identity", "header"],
                "this is no HTTP header name",
                "write header = \"x-agent-id\"",
            )),
        }
    }
    if let Some(text) = &identity.fixed {
        match expand(text) {
            Ok(agent) if agent_name(&agent) => {}
            Ok(_) => found.push(Said::at(
                &["identity", "static"],
                "an agent's name is 1 to 128 characters without spaces at its ends",
                "write static = \"agent-a\"",
            )),
            Err(error) => found.push(Said::at(
                &["identity", "static"],
                error.to_string(),
                "set the variable or write the agent's name",
            )),
        }
    }
    match &identity.api_keys {
        Some(ApiKeys::File(text)) if text.strip_prefix("file:").is_none_or(str::is_empty) => {
            found.push(Said::at(
                &["identity", "api-keys"],
                "`api-keys` is neither a table nor a file",
                "write api-keys = \"file:/etc/chillgate/keys.toml\"",
            ));
        }
        None | Some(ApiKeys::File(_)) => {}
        Some(ApiKeys::Inline(keys)) => {
            for (agent, hash) in keys {
                let twin = keys.iter().find(|(_, other)| *other == hash);
                if let Some((twin, _)) = twin.filter(|(twin, _)| *twin != agent) {
                    found.push(Said::at(
                        &["identity", "api-keys", agent],
                        format!("this is the key of `{twin}` too: a key names one agent"),
                        format!("`chillgate key {agent}` makes another"),
                    ));
                }
                if key_hash(hash).is_none() {
                    found.push(Said::at(
                        &["identity", "api-keys", agent],
                        "a key is given by its hash: \"sha256:\" and 64 hexadecimal digits",
                        format!("`chillgate key {agent}` makes a key and prints this line"),
                    ));
                }
                if !agent_name(agent) {
                    found.push(
                        Said::at(
                            &["identity", "api-keys", agent],
                            "an agent's name is 1 to 128 characters without spaces at its ends",
                            "write a name such as agent-a",
                        )
                        .of_key(),
                    );
                }
            }
        }
    }
}

fn issuers(identity: &Identity, found: &mut Vec<Said>) {
    for (index, jwt) in identity.jwt.iter().enumerate() {
        let mut wrong = |key: &str, text: String, help: &str| {
            found.push(Said::at(&["identity", "jwt", key], text, help));
        };
        if jwt.issuer.is_empty() || jwt.jwks.is_none() && !is_web(&jwt.issuer) {
            let text = format!("`{}` is no https URL, and no `jwks` is there", jwt.issuer);
            let help = "write issuer = \"https://issuer.example\", or say where its keys are: \
                        jwks = \"file:/etc/chillgate/jwks.json\"";
            wrong("issuer", text, help);
        }
        if jwt.audience.is_empty() && identity.resource.is_none() {
            let help = "write audience = \"chillgate\", or under [identity] resource = \
                        \"https://gate.example\"";
            let text = "nothing says for whom a token has to be made out".to_owned();
            wrong("audience", text, help);
        }
        if let Some(source) = &jwt.jwks
            && source.strip_prefix("file:").is_none_or(str::is_empty)
            && !is_web(source)
        {
            let help = "write jwks = \"file:/etc/chillgate/jwks.json\" or an https URL";
            wrong(
                "jwks",
                format!("`{source}` is neither a file nor a URL"),
                help,
            );
        }
        if jwt.leeway > LEEWAY {
            let text = "a clock may be off by a minute at most".to_owned();
            wrong("leeway", text, "write leeway = \"30s\"");
        }
        let same = |other: &Jwt| other.issuer == jwt.issuer;
        if identity.jwt.iter().take(index).any(same) {
            let text = format!("the issuer `{}` is there twice", jwt.issuer);
            wrong("issuer", text, "put what both accept into one table");
        }
        let alike = |other: &Jwt| other.prefix == jwt.prefix && other.issuer != jwt.issuer;
        if identity.jwt.iter().take(index).any(alike) {
            let text = "two issuers could name the same agent".to_owned();
            let help = "give each issuer a prefix of its own, such as prefix = \"corp:\"";
            wrong("prefix", text, help);
        }
    }
}

fn reviews(identity: &Identity, found: &mut Vec<Said>) {
    let Some(review) = &identity.token_review else {
        return;
    };
    let mut wrong = |key: &str, text: &str, help: &str| {
        found.push(Said::at(&["identity", "token-review", key], text, help));
    };
    if !is_web(&review.url) {
        let help = "write url = \"https://…/apis/authentication.k8s.io/v1/tokenreviews\"";
        wrong("url", "a token can only be sent to an https URL", help);
    }
    if review.audience.is_empty() {
        let text = "nothing says for whom a token has to be made out";
        wrong("audience", text, "write audience = \"chillgate\"");
    }
    if review.keep > LONGEST_REVIEW {
        let text = "a token is taken for good for a minute at most";
        wrong("keep", text, "write keep = \"30s\"");
    }
}

fn users(identity: &Identity, found: &mut Vec<Said>) {
    let mut seen = BTreeMap::new();
    for (agent, users) in &identity.users {
        for user in &users.0 {
            if let Some(other) = seen.insert(user, agent) {
                found.push(Said::at(
                    &["identity", "users", agent],
                    format!("the user {user} is `{other}` too: a user is one agent"),
                    "take it out of one of the two",
                ));
            }
        }
        if !agent_name(agent) {
            let text = "an agent's name is 1 to 128 characters without spaces at its ends";
            let help = "write a name such as agent-a";
            found.push(Said::at(&["identity", "users", agent], text, help).of_key());
        }
    }
}

fn resource(identity: &Identity, found: &mut Vec<Said>) {
    let Some(resource) = &identity.resource else {
        return;
    };
    let is_bare = resource
        .parse::<Uri>()
        .is_ok_and(|uri| uri.path() == "/" && uri.query().is_none());
    if !is_web(resource) || !is_bare || resource.contains('#') {
        found.push(Said::at(
            &["identity", "resource"],
            format!("`{resource}` is not where hosts could reach chillgate"),
            "write scheme, name and port alone: resource = \"https://gate.example\"",
        ));
    }
}

/// Whether this is an https URL, or an http one to this machine.
fn is_web(text: &str) -> bool {
    let Ok(uri) = text.parse::<Uri>() else {
        return false;
    };
    match (uri.scheme_str(), uri.host()) {
        (Some("https"), Some(_)) => true,
        (Some("http"), Some(host)) => {
            let address = host.trim_matches(['[', ']']).parse();
            host == "localhost" || address.is_ok_and(|ip: std::net::IpAddr| ip.is_loopback())
        }
        _ => false,
    }
}
