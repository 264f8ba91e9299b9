//! What the configuration asks for and this system does not have at all.
//!
//! Apart from the other rules because it is right elsewhere: the same file may be read on several
//! machines. Limits and sandboxes are none of it: what there is of them is found out where a server
//! starts, and told there.

use super::load::Said;
use super::runbook::Work;
use super::source::Step;
use super::{Config, Listen, Server};
use crate::platform::System;

/// Everything that is asked for in vain.
pub(super) fn mistakes(config: &Config, system: System) -> Vec<Said> {
    let mut found = Vec::new();
    if !system.unix_sockets {
        sockets(config, system.name, &mut found);
    }
    if !system.holds_paths {
        for (index, runbook) in config.runbook.iter().enumerate() {
            if matches!(runbook.work, Work::Files(_)) {
                found.push(Said::new(
                    vec!["runbook".into(), Step::Index(index), "type".into()],
                    format!(
                        "{} cannot hold a path back beneath its folder: file runbooks need Linux",
                        system.name
                    ),
                    "remove this [[runbook]], or write one with a `command`",
                ));
            }
        }
    }
    found
}

fn sockets(config: &Config, system: &str, found: &mut Vec<Said>) {
    let message = format!("chillgate has no Unix sockets on {system}");
    for (index, front) in config.front.iter().enumerate() {
        if matches!(front.listen, Some(Listen::Unix(_))) {
            found.push(Said::new(
                vec!["front".into(), Step::Index(index), "listen".into()],
                message.clone(),
                "write listen = \"127.0.0.1:8800\"",
            ));
        }
    }
    if let Some(Listen::Unix(_)) = config.admin.as_ref().map(|admin| &admin.listen) {
        let help = "write listen = \"127.0.0.1:9902\" and a `token`";
        found.push(Said::at(&["admin", "listen"], message.clone(), help));
    }
    let help = "let it listen on 127.0.0.1 and write url = \"http://127.0.0.1:PORT/…\"";
    for (name, server) in &config.server {
        if let Server::Remote(remote) = server
            && remote.url.starts_with("unix:")
        {
            found.push(Said::at(
                &["server", name.as_str(), "url"],
                message.clone(),
                help,
            ));
        }
    }
    for (index, endpoint) in config.endpoint.iter().enumerate() {
        if endpoint.url.starts_with("unix:") {
            found.push(Said::new(
                vec!["endpoint".into(), Step::Index(index), "url".into()],
                message.clone(),
                help,
            ));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::load::{Sources, load};

    #[test]
    fn what_another_system_lacks_is_told_by_its_key() {
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("chillgate.toml");
        let text = r#"
[[front]]
listen = "unix:/run/chillgate.sock"
[admin]
listen = "unix:/run/admin.sock"
[server.near]
url = "unix:/run/near.sock"
[server.far]
url = "https://mcp.example/mcp"
[[endpoint]]
name = "ollama"
kind = "ollama"
url = "unix:/run/ollama.sock"
[[runbook]]
name = "notes"
type = "file"
description = "Read notes"
roots = ["/tmp"]
[[runbook]]
name = "uptime"
description = "How long it runs"
command = ["uptime"]
"#;
        std::fs::write(&file, text).expect("written");
        let sources = Sources {
            file: Some(file),
            ..Sources::default()
        };
        let config = load(&sources)
            .map_err(|it| it.to_string())
            .expect("loads")
            .config;
        let of = |unix_sockets, holds_paths| {
            let system = System {
                name: "Plan 9",
                unix_sockets,
                holds_paths,
            };
            let said = mistakes(&config, system).into_iter();
            let told = said.map(|said| {
                let path = said.path.iter().map(ToString::to_string);
                assert!(said.message.contains("Plan 9") && said.help.is_some());
                path.collect::<Vec<_>>().join(".")
            });
            told.collect::<Vec<_>>()
        };
        assert_eq!(of(true, true), [""; 0]);
        assert_eq!(
            of(false, true),
            [
                "front.0.listen",
                "admin.listen",
                "server.near.url",
                "endpoint.0.url"
            ]
        );
        assert_eq!(of(true, false), ["runbook.0.type"]);
    }
}
