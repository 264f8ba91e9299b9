//! What verbs that ask a running chillgate have in common: its `[admin]`, and what is said without it.

use std::process::ExitCode;

use http::Method;
use serde_json::Value;

use super::Global;
use super::answer::{Answer, CANNOT};
use crate::admin::ask::{NoAnswer, ask};
use crate::config::Admin;
use crate::config::load::load;

/// The admin API of the chillgate that this configuration is of.
pub(super) struct Running<'a>(&'a Admin);

impl Running<'_> {
    /// What it answers.
    pub(super) async fn ask(
        &self,
        method: Method,
        path: &str,
        body: Option<&Value>,
    ) -> Result<Value, NoAnswer> {
        ask(self.0, method, path, body).await
    }
}

/// Reads the configuration and does something with the chillgate that runs by it.
pub(super) fn run(
    global: &Global,
    act: impl AsyncFnOnce(Running<'_>) -> Result<Answer, NoAnswer>,
) -> ExitCode {
    let loaded = match load(&global.sources()) {
        Ok(loaded) => loaded,
        Err(report) => {
            report.print();
            return ExitCode::from(CANNOT);
        }
    };
    with(loaded.config.admin.as_ref(), act).print()
}

/// The same for what has been read.
pub(super) fn with(
    admin: Option<&Admin>,
    act: impl AsyncFnOnce(Running<'_>) -> Result<Answer, NoAnswer>,
) -> Answer {
    let Some(admin) = admin else {
        let help = "write [admin] listen = \"unix:/run/chillgate/admin.sock\" into its configuration and restart it";
        let message = "a running chillgate is asked through its admin API, and none is configured";
        return Answer::cannot(message, Some(help));
    };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    let answer = match runtime {
        Ok(runtime) => runtime.block_on(act(Running(admin))),
        Err(error) => {
            return Answer::cannot(&format!("the runtime could not be made: {error}"), None);
        }
    };
    answer.unwrap_or_else(|error| Answer::cannot(&error.says, error.help.as_deref()))
}
