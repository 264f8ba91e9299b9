//! What is started for a server, and for which agent: command, environment, folder.
//!
//! Apart because here alone an agent's name becomes part of what is run. It starts nothing.

use std::collections::BTreeMap;
use std::fs::DirBuilder;

use super::Child;
use crate::config::secret::{AGENT, SecretText, for_agent};
use crate::incidents::Secrets;
use crate::platform::DirBuilderExt as _;
use crate::supervisor::{Launch, environment};

impl Child {
    /// What is started; for an agent with what is that agent's alone.
    pub(super) fn launch(&self, name: &str, agent: Option<&str>) -> Result<Launch, String> {
        self.launch_in(name, agent, environment::of)
    }

    /// The same without the values that cannot be had, where they keep it from being started: what is
    /// known of it all the same, and looked at until it can be.
    pub(super) fn launch_as_known(&self, name: &str, agent: Option<&str>) -> Option<Launch> {
        let known = |inherit: &[String], set: &_| Ok(environment::without_missing(inherit, set));
        self.launch_in(name, agent, known).ok()
    }

    fn launch_in(
        &self,
        name: &str,
        agent: Option<&str>,
        environment: impl FnOnce(
            &[String],
            &BTreeMap<String, SecretText>,
        ) -> Result<Vec<(String, String)>, String>,
    ) -> Result<Launch, String> {
        let server = &self.server;
        let mut set = server.env.clone();
        let (mut command, mut cwd) = (server.command.clone(), server.cwd.clone());
        if let Some(agent) = agent {
            for (name, text) in &server.agent_env {
                let text = SecretText::of_agent(text, agent)
                    .map_err(|cause| format!("`agent-env` {name}: {cause}"))?;
                set.insert(name.clone(), text);
            }
            for word in command.iter_mut().filter(|word| word.contains(AGENT)) {
                *word = for_agent(word, agent).map_err(|cause| format!("`command`: {cause}"))?;
            }
            if let Some(folder) = server.agent_folder() {
                let folder = for_agent(folder, agent).map_err(|cause| format!("`cwd`: {cause}"))?;
                make_private(&folder).map_err(|error| format!("`cwd` {folder}: {error}"))?;
                cwd = Some(folder.into());
            }
        }
        let env = environment(&server.inherit, &set)?;
        let is_given = |name: &String| set.contains_key(name) || server.inherit.contains(name);
        let given = env.iter().filter(|(name, _)| is_given(name));
        Ok(Launch {
            name: name.to_owned(),
            command,
            secrets: Secrets::new(given.map(|(_, value)| value.as_str())),
            env,
            cwd,
            limits: server.limits.clone(),
            sandbox: server.sandbox.clone(),
            is_temporary_named: is_given(&"TMPDIR".to_owned()),
        })
    }

    /// Whether an agent of this name can have a process with something of its own.
    pub(super) fn may_launch_for(&self, agent: &str) -> Result<(), String> {
        for (name, text) in &self.server.agent_env {
            let text = SecretText::of_agent(text, agent);
            text.map_err(|cause| format!("`agent-env` {name}: {cause}"))?;
        }
        let words = self.server.command.iter().map(String::as_str);
        for text in words.chain(self.server.agent_folder()) {
            for_agent(text, agent)?;
        }
        Ok(())
    }
}

/// A folder of one agent, for chillgate's user alone; one that is there stays as it is.
fn make_private(folder: &str) -> std::io::Result<()> {
    let made = DirBuilder::new().mode(0o700).create(folder);
    match made {
        Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => Ok(()),
        made => made,
    }
}
