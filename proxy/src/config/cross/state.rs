//! Rules between the keys of `[state]`.
//!
//! Apart for its size. It connects to nothing: whether the store answers is seen later.

use std::time::Duration;

use http::Uri;

use crate::config::State;
use crate::config::load::Said;
use crate::config::secret::SecretText;
use crate::config::state::MEMORY;
use crate::config::userinfo;

const ADDRESS: &str =
    "write store = \"redis://HOST:6379\", \"rediss://…\" with TLS, or \"redis+unix:///PATH\"";
/// The longest that a call may wait for the store.
const LONGEST: Duration = Duration::from_secs(10);
/// The longest prefix of keys, in bytes.
const PREFIX: usize = 64;

/// What is wrong between the keys of `[state]`.
pub(super) fn mistakes(state: &State, found: &mut Vec<Said>) {
    let Some(addresses) = state.shared() else {
        return memory(state, found);
    };
    if addresses.is_empty() {
        found.push(Said::at(
            &["state", "store"],
            "there is no address",
            ADDRESS,
        ));
    }
    for address in addresses {
        if let Some((text, help)) = address_mistake(address) {
            found.push(Said::at(&["state", "store"], text, help));
        }
    }
    let is_unix = |address: &String| address.starts_with("redis+unix:");
    if addresses.len() > 1 && addresses.iter().any(is_unix) {
        let text = "nodes of a cluster and Sentinels have a host and a port";
        found.push(Said::at(&["state", "store"], text, ADDRESS));
    }
    if state.username.is_some() && state.password.is_none() {
        let text = "a user without a password";
        let help = "write password = \"file:/run/secrets/redis\"";
        found.push(Said::at(&["state", "username"], text, help));
    }
    if let Some(Err(error)) = state.password.as_ref().map(SecretText::check) {
        let help = "set the variable, or write password = \"file:/run/secrets/redis\"";
        found.push(Said::at(&["state", "password"], error.to_string(), help));
    }
    if state.timeout < Duration::from_millis(1) || state.timeout > LONGEST {
        let text = "a call waits 1 ms to 10 s for the store";
        found.push(Said::at(
            &["state", "timeout"],
            text,
            "write timeout = \"25ms\"",
        ));
    }
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "-_.:".contains(c);
    if state.prefix.is_empty() || state.prefix.len() > PREFIX || !state.prefix.chars().all(is_plain)
    {
        let text = "a prefix is 1 to 64 of letters, digits and `-_.:`";
        found.push(Said::at(
            &["state", "prefix"],
            text,
            "write prefix = \"chillgate\"",
        ));
    }
}

/// Keys that mean nothing without a store.
fn memory(state: &State, found: &mut Vec<Said>) {
    let said = [
        ("username", state.username.is_some()),
        ("password", state.password.is_some()),
        ("sentinel", state.sentinel.is_some()),
        ("ca", state.ca.is_some()),
    ];
    for (key, _) in said.iter().filter(|(_, is_said)| *is_said) {
        let text = format!("`{key}` is for a store that replicas share");
        let help = format!("{ADDRESS}, or take `{key}` out");
        found.push(Said::at(&["state", key], text, help));
    }
}

fn address_mistake(address: &str) -> Option<(String, String)> {
    if address == MEMORY {
        let text = "`memory` is no address beside others".to_owned();
        return Some((text, ADDRESS.to_owned()));
    }
    let schemes = ["redis://", "rediss://", "redis+unix:///"];
    if !schemes.iter().any(|scheme| address.starts_with(scheme)) {
        let text = format!("`{}` is no address of a store", userinfo::masked(address));
        return Some((text, ADDRESS.to_owned()));
    }
    let is_secret = address
        .split('/')
        .nth(2)
        .is_some_and(|host| host.contains('@'))
        || ["pass=", "password="]
            .iter()
            .any(|key| address.contains(key));
    if is_secret {
        let text = "a password does not stand in an address".to_owned();
        let help = "write username = \"…\" and password = \"file:/run/secrets/redis\"".to_owned();
        return Some((text, help));
    }
    if address.starts_with("redis+unix:") {
        return None;
    }
    let read = address.parse::<Uri>().ok();
    let is_place = |uri: &Uri| {
        let db = uri.path().trim_start_matches('/');
        let is_db = db.is_empty() || db.parse::<u16>().is_ok();
        uri.host().is_some_and(|host| !host.is_empty()) && is_db && uri.query().is_none()
    };
    if read.as_ref().is_some_and(is_place) {
        return None;
    }
    let text = "the address is no host, port and number of a database";
    Some((text.to_owned(), ADDRESS.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_places_without_secrets() {
        for good in [
            "redis://redis:6379",
            "redis://redis",
            "rediss://redis.example:6380/3",
            "redis://[::1]:6379/0",
            "redis+unix:///run/redis.sock",
        ] {
            assert_eq!(address_mistake(good), None, "{good}");
        }
        for (bad, says) in [
            ("memory", "beside others"),
            ("redis:6379", "no address of a store"),
            ("http://redis:6379", "no address of a store"),
            ("redis://:hunter2@redis:6379", "a password"),
            ("redis+unix:///run/redis.sock?pass=hunter2", "a password"),
            ("redis://redis:6379/keys", "no host, port"),
            ("redis://redis:6379/0?protocol=resp3", "no host, port"),
            ("redis://", "no host, port"),
        ] {
            let (text, help) = address_mistake(bad).expect(bad);
            assert!(text.contains(says), "{bad}: {text}");
            assert!(
                !text.contains("hunter2") && !help.contains("hunter2"),
                "{bad}"
            );
        }
    }

    #[test]
    fn what_belongs_to_a_store_needs_one() {
        let said = |state: State| {
            let mut found = Vec::new();
            mistakes(&state, &mut found);
            found.len()
        };
        assert_eq!(said(State::default()), 0);
        let named = State {
            sentinel: Some("mymaster".to_owned()),
            ..State::default()
        };
        assert_eq!(said(named.clone()), 1);
        let store = vec!["redis://a".to_owned(), "redis://b".to_owned()];
        let shared = State { store, ..named };
        assert_eq!(said(shared.clone()), 0);
        for wrong in [
            State {
                store: Vec::new(),
                ..shared.clone()
            },
            State {
                timeout: Duration::ZERO,
                ..shared.clone()
            },
            State {
                prefix: "{a}".to_owned(),
                ..shared.clone()
            },
            State {
                username: Some("a".to_owned()),
                ..shared
            },
        ] {
            assert_eq!(said(wrong.clone()), 1, "{wrong:?}");
        }
    }
}
