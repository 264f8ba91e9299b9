//! What holds now: the file's values, those of the hour, and overrides above both.
//!
//! From a configuration as it was read to the same one as it is at a moment, with who has the say on
//! each policy. Nothing runs here: a snapshot is built of what comes out. An override that no longer
//! goes with the file is set aside and told, never a reason to refuse a configuration.

use std::sync::Arc;
use std::time::SystemTime;

use chillgate_policies::engine::services::Unmetered;
use chillgate_policies::engine::{Chain, Services, Standing as Own, standing};
use serde_json::{Map, Value};
use tracing::warn;

use crate::config::{Config, Office, Server};
use crate::overrides::Overrides;

/// A policy, or a ChillMCP, and what holds of it.
#[derive(Clone, Debug, PartialEq)]
pub struct Standing {
    /// The policy's name, or `server.NAME`.
    pub name: Arc<str>,
    /// What kind of policy, or `chill`.
    pub kind: String,
    /// Its values, without its kind and name.
    pub values: Map<String, Value>,
    /// The hours of its schedule that it is in.
    pub hours: Option<String>,
    /// When its schedule says something else.
    pub until: Option<SystemTime>,
    /// The override that has a say.
    pub overridden: bool,
}

/// A configuration at a moment.
#[derive(Clone, Debug)]
pub struct Now {
    /// Its values as they hold.
    pub config: Config,
    /// Who has the say on each.
    pub standings: Vec<Standing>,
}

impl Now {
    /// Of a configuration whose policies compile.
    pub fn of(raw: &Config, overrides: &Overrides, services: &Services, at: SystemTime) -> Self {
        let mut config = raw.clone();
        let mut standings = Vec::new();
        for table in &mut config.policy {
            let name = standing::name(table);
            let values = overrides.of(&name);
            let mut overridden = !values.is_empty();
            if overridden {
                let replaced = standing::replaced(table, &values);
                let trouble = trouble_with(&replaced, services);
                overridden = trouble.is_none();
                judge(overrides, &name, trouble.as_deref());
                if overridden {
                    *table = replaced;
                }
            }
            let own = Own::of(table, at);
            standings.push(Standing {
                name,
                kind: kind(&own.table),
                values: values_of(&own.table),
                hours: own.hours.as_ref().map(ToString::to_string),
                until: own.until,
                overridden,
            });
            *table = own.table;
        }
        for (name, server) in &mut config.server {
            let Server::Builtin(office) = server else {
                continue;
            };
            let name: Arc<str> = server_target(name.as_str()).into();
            if !standings.iter().any(|policy| policy.name == name) {
                standings.push(of_office(name, office, overrides, at));
            }
        }
        for one in overrides.running() {
            if !standings.iter().any(|known| known.name == one.policy) {
                let trouble = "the configuration has nothing of this name any more";
                judge(overrides, &one.policy, Some(trouble));
            }
        }
        Self { config, standings }
    }

    /// The next moment at which a schedule says something else.
    pub fn change(standings: &[Standing]) -> Option<SystemTime> {
        standings.iter().filter_map(|one| one.until).min()
    }
}

/// What overrides call the ChillMCP of this name.
pub fn server_target(name: &str) -> String {
    format!("server.{name}")
}

/// What is wrong with a table that somebody's values have changed.
pub fn mistakes(table: &Value, services: &Services) -> Vec<chillgate_policies::engine::Mistake> {
    // Only tried: no series of metrics begins with it.
    let services = Services {
        meter: Arc::new(Unmetered),
        ..services.clone()
    };
    let built = Chain::build(std::slice::from_ref(table), &services);
    built.err().unwrap_or_default()
}

fn trouble_with(table: &Value, services: &Services) -> Option<String> {
    let mistakes = mistakes(table, services);
    let texts: Vec<String> = mistakes.into_iter().map(|it| it.message).collect();
    (!texts.is_empty()).then(|| texts.join("; "))
}

fn of_office(
    name: Arc<str>,
    office: &mut Office,
    overrides: &Overrides,
    at: SystemTime,
) -> Standing {
    let entry = office.schedule.at(at);
    let hours = entry.map(|entry| entry.hours.to_string());
    let until = office.schedule.change(at);
    let mut settings = office.settings.clone();
    if let Some(entry) = entry {
        // Tried when the configuration was read.
        settings = Office::with(&settings, &entry.values).unwrap_or(settings);
    }
    let values = overrides.of(&name);
    let mut overridden = !values.is_empty();
    if overridden {
        let changed = Office::with(&settings, &values);
        let trouble = changed.as_ref().err().map(|wrong| {
            let texts: Vec<&str> = wrong.iter().map(|it| it.message.as_str()).collect();
            texts.join("; ")
        });
        overridden = trouble.is_none();
        judge(overrides, &name, trouble.as_deref());
        settings = changed.unwrap_or(settings);
    }
    office.settings = settings;
    Standing {
        kind: "chill".to_owned(),
        values: Office::values(&office.settings),
        name,
        hours,
        until,
        overridden,
    }
}

fn judge(overrides: &Overrides, name: &str, trouble: Option<&str>) {
    if overrides.judge(name, trouble)
        && let Some(cause) = trouble
    {
        warn!(policy = name, %cause, "An override does not go with the configuration and is set aside.");
    }
}

fn kind(table: &Value) -> String {
    let kind = table.get("type").and_then(Value::as_str);
    kind.unwrap_or_default().to_owned()
}

fn values_of(table: &Value) -> Map<String, Value> {
    let all = table.as_object().into_iter().flatten();
    let own = all.filter(|(key, _)| !matches!(key.as_str(), "type" | "name"));
    own.map(|(key, value)| (key.clone(), value.clone()))
        .collect()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use serde_json::json;

    use super::*;
    use crate::clock::TokioClock;
    use crate::overrides::{Moment, Override};

    fn set(all: &Overrides, policy: &str, values: &Value) {
        let at = Moment {
            now: crate::clock::real(),
            wall: SystemTime::UNIX_EPOCH,
        };
        let values = values.as_object().expect("a table").clone();
        let one = Override::new(policy.into(), values, Duration::from_mins(1), at);
        all.add(one).expect("room");
    }

    #[test]
    fn an_override_wins_over_the_hour_and_the_hour_over_the_file() {
        let services = Services::new(Arc::new(TokioClock));
        let hours = json!([{ "at": "01:00-02:00", "alertness": 20, "hold": "2s" }]);
        let raw = Config {
            policy: vec![
                json!({ "type": "boss-alert", "name": "boss", "alertness": 50, "schedule": hours }),
                json!({ "type": "quota", "name": "calls", "allow": "5/h", "burst": 2 }),
            ],
            ..Config::default()
        };
        let overrides = Overrides::default();
        let now = |seconds| {
            let at = SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
            let now = Now::of(&raw, &overrides, &services, at);
            let boss = now.standings[0].clone();
            (
                boss.values["alertness"].clone(),
                boss.values.get("hold").cloned(),
                boss.overridden,
            )
        };
        assert_eq!(now(0), (json!(50), None, false));
        assert_eq!(now(3600), (json!(20), Some(json!("2s")), false));
        set(&overrides, "boss", &json!({ "alertness": 95 }));
        assert_eq!(now(3600), (json!(95), Some(json!("2s")), true));
        assert_eq!(now(0), (json!(95), None, true));
        // What does not go with the file, and what is not in it any more, is set aside.
        set(&overrides, "calls", &json!({ "allow": "5/day in UTC" }));
        set(&overrides, "gone", &json!({ "x": 1 }));
        let now = Now::of(&raw, &overrides, &services, SystemTime::UNIX_EPOCH);
        assert_eq!(now.standings[1].values["allow"], "5/h");
        let troubled: Vec<bool> = overrides
            .running()
            .iter()
            .map(|one| one.trouble.is_some())
            .collect();
        assert_eq!(troubled, [false, true, true]);
        assert!(Chain::build(&now.config.policy, &services).is_ok());
    }
}
