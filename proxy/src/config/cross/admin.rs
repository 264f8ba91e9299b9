//! `[admin]`: who can reach it, and what they have to show.

use super::{Said, address, clash};
use crate::config::{Config, Listen};

const SOCKET: &str = "write listen = \"unix:/run/chillgate/admin.sock\", or listen = \"127.0.0.1:9902\" with a `token`";
const TOKEN: &str = "make one: umask 077; head -c 32 /dev/urandom | base64 > /etc/chillgate/admin.token\n\
     then write token = \"file:/etc/chillgate/admin.token\"";

pub(super) fn mistakes(config: &Config, found: &mut Vec<Said>) {
    let Some(admin) = &config.admin else { return };
    if let Listen::Tcp(address) = &admin.listen {
        if !address.ip().is_loopback() {
            let message = format!(
                "the admin API would be open to the network on {address}: who reaches it can change every policy"
            );
            found.push(Said::at(&["admin", "listen"], message, SOCKET));
        } else if admin.token.is_none() {
            let message =
                "every user of this machine reaches its loopback: a token is needed there";
            found.push(Said::at(&["admin", "listen"], message, TOKEN));
        }
    }
    let fronts = config.front.iter().filter_map(address);
    let health = config
        .health
        .as_ref()
        .map(|health| Listen::Tcp(health.listen));
    if fronts
        .chain(health)
        .any(|other| clash(&other, &admin.listen))
    {
        let message = format!("something else listens on {} already", admin.listen);
        found.push(Said::at(&["admin", "listen"], message, SOCKET));
    }
}
