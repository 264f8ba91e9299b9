//! The situation in one answer: what an operator would look at first.
//!
//! Put together from what others know, at the moment it is asked for. It changes nothing and keeps
//! nothing.

use chillgate_policies::engine::Clock;
use serde_json::{Value, json};

use super::Operations;
use super::machine::{Machine, disk};
use crate::backend::State;
use crate::clock::TokioClock;
use crate::config::Server;
use crate::health::endpoint::EndpointState;
use crate::supervisor::{given, usage};

impl Operations {
    /// Everything at a glance.
    pub(super) fn look(&self) -> Value {
        let servers = self.server_states();
        let endpoints = self.endpoint_states();
        let mut incidents = chillgate_ops::Site::incidents(self, None);
        incidents.retain(|incident| incident["resolved"] == false);
        let machine = Machine::look();
        let (generation, draining, in_flight, sessions) = match self.0.gate.get() {
            None => (1, false, 0, 0),
            Some(gate) => (
                gate.snapshot().generation,
                gate.drain().is_stopping(),
                gate.drain().running(),
                gate.sessions().len(),
            ),
        };
        let mut notes = machine.notes();
        if draining {
            notes.push("chillgate is stopping: nothing new is taken.".to_owned());
        }
        let state_folder = self.state_folder(&mut notes);
        let uptime = TokioClock.now().saturating_duration_since(self.0.began);
        json!({
            "summary": self.summary(&servers, incidents.len(), &notes),
            "version": env!("CARGO_PKG_VERSION"),
            "uptime_seconds": uptime.as_secs(),
            "generation": generation,
            "draining": draining,
            "in_flight": in_flight,
            "sessions": sessions,
            "servers": servers,
            "incidents": incidents,
            "endpoints": endpoints,
            "machine": machine.value(),
            "state_folder": state_folder,
            "notes": notes,
        })
    }

    /// Each server with its state.
    pub(super) fn server_states(&self) -> Vec<Value> {
        let Some(gate) = self.0.gate.get() else {
            return Vec::new();
        };
        let snapshot = gate.snapshot();
        let kind = |name: &str| {
            let mut all = snapshot.config.server.iter();
            let found = all.find(|(known, _)| known.as_str() == name);
            match found.map(|(_, server)| server) {
                Some(Server::Command(_)) => "command",
                Some(Server::Remote(_)) => "url",
                _ => "builtin",
            }
        };
        let servers = snapshot.routes.all().iter();
        let servers: Vec<_> = servers.map(|it| (it, it.children())).collect();
        // One look at the processes for all of them.
        let children = servers.iter().flat_map(|(_, children)| children);
        let keepers: Vec<u32> = children.map(|child| child.pid).collect();
        let mut usage = usage::of(&keepers).into_iter();
        servers
            .into_iter()
            .map(|(server, children)| {
                let name = &**server.name();
                let kind = kind(name);
                let mut value = json!({"name": name, "kind": kind});
                let state = server.state();
                value["state"] = json!(state.word());
                value["processes"] = children
                    .iter()
                    .zip(usage.by_ref())
                    .map(|(child, usage)| {
                        json!({
                            "pid": usage.server,
                            "keeper": usage.keeper,
                            "agent": child.agent,
                            "running": child.running,
                            "waiting": child.waiting,
                            "processes": usage.processes,
                            "resident_bytes": usage.resident,
                            "cpu_seconds": usage.cpu.as_secs_f64(),
                        })
                    })
                    .collect();
                if let Some(given) = given::given_to(name) {
                    value["bounds"] = json!(given.to_string());
                }
                let is_down = !matches!(state, State::Ready | State::Asleep | State::Starting);
                if is_down && let Some(held) = self.0.incidents.held_back(name) {
                    value["state"] = json!("held-back");
                    value["error"] = json!(held.says);
                    let advice = held.advice.unwrap_or_else(|| remedy(kind).to_owned());
                    value["remedy"] = json!(advice);
                } else if let Some(cause) = state.trouble() {
                    value["error"] = json!(cause);
                    let known = self.0.incidents.latest(name);
                    let known = known.and_then(|known| Some(known.remedy.as_ref()?.text.clone()));
                    value["remedy"] = json!(known.unwrap_or_else(|| remedy(kind).to_owned()));
                }
                value
            })
            .collect()
    }

    /// Each model endpoint with what was last seen.
    pub(super) fn endpoint_states(&self) -> Vec<Value> {
        let reports = self.0.endpoints.report().into_iter();
        reports
            .map(|report| serde_json::to_value(report).unwrap_or_default())
            .collect()
    }

    fn state_folder(&self, notes: &mut Vec<String>) -> Value {
        let folder = self.0.folder.get_or_init(|| {
            let gate = self.0.gate.get()?;
            let configured = gate.snapshot().config.state.clone();
            crate::state::folder(&configured).ok()?.found()
        });
        let Some(folder) = folder else {
            return Value::Null;
        };
        let (total, free) = disk(folder);
        if let (Some(total), Some(free)) = (total, free)
            && free < total / 20
        {
            notes.push(format!(
                "The disk of the state folder is nearly full: {} MiB are free.",
                free >> 20
            ));
        }
        json!({
            "path": folder.display().to_string(),
            "total_bytes": total,
            "free_bytes": free,
        })
    }

    fn summary(&self, servers: &[Value], incidents: usize, notes: &[String]) -> String {
        let down: Vec<&str> = servers
            .iter()
            .filter(|server| server.get("error").is_some())
            .filter_map(|server| server["name"].as_str())
            .collect();
        let mut said = vec![match down.as_slice() {
            [] => format!("none of {} servers is down", servers.len()),
            down => format!(
                "{} of {} servers down ({})",
                down.len(),
                servers.len(),
                down.join(", ")
            ),
        }];
        let ailing = self.0.endpoints.report().into_iter().filter(|endpoint| {
            matches!(
                endpoint.state,
                EndpointState::Down | EndpointState::ModelMissing
            )
        });
        let ailing: Vec<String> = ailing.map(|endpoint| endpoint.name).collect();
        if !ailing.is_empty() {
            said.push(format!("model endpoints in trouble: {}", ailing.join(", ")));
        }
        if incidents > 0 {
            said.push(format!("{incidents} open incidents"));
        }
        if !notes.is_empty() {
            said.push(format!("{} things to note", notes.len()));
        }
        said.join("; ")
    }
}

/// What helps where nothing more is known than that it is down.
fn remedy(kind: &str) -> &'static str {
    match kind {
        "command" => {
            "The next call starts it again. If it fails again, the error says why: correct its \
             `command`, `env` or what it needs; an edited configuration is taken over at once."
        }
        "url" => {
            "The next call tries again. If it fails again, see whether the remote server runs and \
             `url`, `ca` and `headers` are right."
        }
        _ => "Restart chillgate; it is a part of it that failed.",
    }
}
