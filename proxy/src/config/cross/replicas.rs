//! Rules between the keys of `[replicas]` and other tables.
//!
//! Apart for its size. It binds and reaches nothing.

use std::time::Duration;

use super::{address, clash};
use crate::config::load::Said;
use crate::config::secret::{SecretText, expand};
use crate::config::{Config, Listen};

/// The least that a key seals, so that no replica misses one.
const SHORTEST: Duration = Duration::from_secs(2);

/// What is wrong between `[replicas]` and the rest.
pub(super) fn mistakes(config: &Config, found: &mut Vec<Said>) {
    let Some(replicas) = &config.replicas else {
        return;
    };
    let mut say = |key: &str, text: String, help: &str| {
        found.push(Said::at(&["replicas", key], text, help));
    };
    if config.state.shared().is_none() {
        let text = "replicas find each other in the store that they share, and there is none";
        let help = "write [state] store = \"redis://HOST:6379\", or take [replicas] out";
        say("listen", text.to_owned(), help);
    }
    let own = Listen::Tcp(replicas.listen);
    let fronts = config.front.iter().filter_map(address);
    let health = config
        .health
        .iter()
        .map(|health| Listen::Tcp(health.listen));
    if fronts.chain(health).any(|other| clash(&other, &own)) {
        let text = format!("something else of this configuration listens on {own}");
        say(
            "listen",
            text,
            "give replicas an address of their own, such as listen = \"0.0.0.0:8801\"",
        );
    }
    match &replicas.advertise {
        None if replicas.listen.ip().is_unspecified() => {
            let text = format!("others cannot reach this replica at {}", replicas.listen);
            say(
                "listen",
                text,
                "write advertise = \"${POD_IP}\", or listen on one address",
            );
        }
        None => {}
        Some(advertise) => {
            let unusable = match expand(advertise) {
                Err(error) => Some(error.to_string()),
                Ok(_) => replicas.address(replicas.listen).err(),
            };
            if let Some(text) = unusable {
                say(
                    "advertise",
                    text,
                    "write advertise = \"${POD_IP}\" or advertise = \"HOST:PORT\"",
                );
            }
        }
    }
    if let Some(Err(error)) = replicas.secret.as_ref().map(SecretText::check) {
        let help = "set the variable, or write secret = \"file:/run/secrets/replicas\"";
        say("secret", error.to_string(), help);
    }
    if replicas
        .tls
        .as_ref()
        .is_some_and(|tls| tls.client_ca.is_some())
    {
        let text = "replicas know each other by their seal and show no certificates".to_owned();
        say("tls", text, "take client-ca out");
    }
    if replicas.rotate < SHORTEST {
        let text = "a key seals for at least two seconds".to_owned();
        say("rotate", text, "write rotate = \"24h\"");
    }
}
