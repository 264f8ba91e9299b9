//! From a verb's flags to what the configuration is read from.
//!
//! Flags become settings of the last layer, so that their mistakes are reported like any other.
//! Nothing is read here.

use super::{ChillArgs, ConnectArgs, Global, LogFormat, ServeArgs, WrapArgs};
use crate::config::load::{Sources, list, text};

/// Standard input and output, in place of whatever fronts a file has.
const STDIO: &str = r#"[{ transport = "stdio" }]"#;

impl Global {
    fn set(&self) -> Vec<(String, String)> {
        let format = self.log_format.map(|format| match format {
            LogFormat::Auto => "auto",
            LogFormat::Json => "json",
            LogFormat::Human => "human",
        });
        let format = format.map(|format| ("log.format".to_owned(), text(format)));
        let filter = self
            .log
            .as_ref()
            .map(|filter| ("log.filter".to_owned(), text(filter)));
        format.into_iter().chain(filter).collect()
    }

    /// What `check` and `explain` read: the same as `serve`.
    pub fn sources(&self) -> Sources {
        Sources {
            set: self.set(),
            ..Sources::usual(self.config.clone())
        }
    }

    /// Only what was named: a wrapper in a host's configuration is not ruled by a file of the
    /// system.
    fn named(&self, more: Vec<(String, String)>) -> Sources {
        let mut set = self.set();
        set.push(("front".to_owned(), STDIO.to_owned()));
        set.extend(more);
        Sources {
            file: self.config.clone(),
            preset: None,
            set,
        }
    }
}

impl ServeArgs {
    /// What `serve` reads.
    pub fn sources(&self, global: &Global) -> Sources {
        let mut sources = global.sources();
        let flags = [
            ("front.0.listen", &self.listen),
            ("health.listen", &self.health),
        ];
        for (key, value) in flags {
            sources
                .set
                .extend(value.as_ref().map(|value| (key.to_owned(), text(value))));
        }
        sources
    }
}

impl WrapArgs {
    /// The server's name: as given, or made from the command.
    pub fn server_name(&self) -> String {
        self.name
            .clone()
            .unwrap_or_else(|| command_name(&self.command))
    }

    /// What `wrap` reads: the named file, and the command as one more server.
    pub fn sources(&self, global: &Global) -> Sources {
        let key = format!("server.{}.command", self.server_name());
        global.named(vec![(key, list(self.command.iter().map(String::as_str)))])
    }
}

impl ConnectArgs {
    /// The server's name: as given, or made from the URL's host.
    pub fn server_name(&self) -> String {
        self.name.clone().unwrap_or_else(|| {
            let rest = self
                .url
                .split_once(':')
                .map_or(&*self.url, |(_, rest)| rest);
            let rest = rest.trim_start_matches('/');
            let unix = self.url.starts_with("unix:");
            let part = if unix {
                rest.rsplit('/').next()
            } else {
                rest.split(['/', ':']).next()
            };
            legal(part.unwrap_or_default().trim_end_matches(".sock"))
        })
    }

    /// What `connect` reads: the named file, and the URL as one more server.
    pub fn sources(&self, global: &Global) -> Sources {
        let key = format!("server.{}.url", self.server_name());
        global.named(vec![(key, text(&self.url))])
    }
}

impl ChillArgs {
    /// What `chill` reads: the named file, and ChillMCP with these flags.
    pub fn sources(&self, global: &Global) -> Sources {
        let mut set = vec![("server.chill.builtin".to_owned(), text("chill"))];
        if let Some(percent) = self.boss_alertness {
            set.push((
                "server.chill.boss-alertness".to_owned(),
                percent.to_string(),
            ));
        }
        if let Some(seconds) = self.boss_alertness_cooldown {
            let span = text(&format!("{seconds}s"));
            set.push(("server.chill.boss-alertness-cooldown".to_owned(), span));
        }
        global.named(set)
    }
}

/// `npx -y @scope/server-files@1.2 /data` is `server-files`; `./run.py` is `run`.
fn command_name(command: &[String]) -> String {
    let base = |word: &str| {
        let word = word.rsplit(['/', '\\']).next().unwrap_or_default();
        word.split('@').next().unwrap_or_default().to_owned()
    };
    let program = command
        .first()
        .map(|program| base(program))
        .unwrap_or_default();
    let runner = matches!(
        program.as_str(),
        "npx" | "bunx" | "pnpx" | "uvx" | "pipx" | "node" | "deno" | "bun" | "python" | "python3"
    );
    let run = |word: &&String| !matches!(word.as_str(), "run" | "exec" | "dlx" | "tool" | "x");
    let named = command
        .iter()
        .skip(1)
        .filter(|word| !word.starts_with('-'))
        .find(run);
    let word = match named {
        Some(word) if runner => base(word),
        _ => program,
    };
    let plain = word.rsplit_once('.').filter(|(stem, end)| {
        !stem.is_empty() && matches!(*end, "py" | "js" | "mjs" | "ts" | "sh" | "exe")
    });
    legal(plain.map_or(word.as_str(), |(stem, _)| stem))
}

/// The nearest legal server name.
fn legal(text: &str) -> String {
    let lower = text.chars().map(|c| c.to_ascii_lowercase());
    let name: String = lower
        .map(|c| if c.is_ascii_alphanumeric() { c } else { '-' })
        .take(64)
        .collect();
    let name = name.trim_matches('-');
    if name.is_empty() {
        "server".to_owned()
    } else {
        name.to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn named(command: &str) -> String {
        command_name(
            &command
                .split_whitespace()
                .map(str::to_owned)
                .collect::<Vec<_>>(),
        )
    }

    #[test]
    fn a_server_is_named_after_what_is_run_not_after_the_runner() {
        for (command, name) in [
            (
                "npx -y @modelcontextprotocol/server-filesystem /data",
                "server-filesystem",
            ),
            ("npx -y some-server@1.2.3", "some-server"),
            ("uvx mcp_server_git --repository .", "mcp-server-git"),
            ("/usr/bin/python3 /opt/Main.py", "main"),
            (
                "/usr/local/bin/github-mcp-server stdio",
                "github-mcp-server",
            ),
            ("python -m", "python"),
            ("…", "server"),
            ("", "server"),
        ] {
            assert_eq!(named(command), name, "{command}");
        }
    }

    #[test]
    fn a_remote_server_is_named_after_its_host_or_socket() {
        for (url, name) in [
            ("https://mcp.example/mcp", "mcp-example"),
            ("http://localhost:9000", "localhost"),
            ("unix:/run/a/files.sock", "files"),
            ("nonsense", "nonsense"),
        ] {
            let args = ConnectArgs {
                name: None,
                url: url.to_owned(),
            };
            assert_eq!(args.server_name(), name, "{url}");
        }
    }
}
