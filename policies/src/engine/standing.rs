//! What a policy's table says now: its own values, its schedule's, and others put in their place.
//!
//! Tables in, tables out, so that everything downstream (the chain, `explain`, a reload) works with
//! plain tables and knows of no schedule. A policy's name never changes with its values: counters
//! live under it.

use std::sync::Arc;
use std::time::SystemTime;

use serde_json::{Map, Value};

use super::fields::{Mistake, Wrong, nearest};
use super::hours::Hours;
use super::kind::{self, COMMON_KEYS};
use super::schedule::{self, Schedule};
use crate::KINDS;

/// Keys that say which policy it is, or when: no schedule and nobody else gives them other values.
const FIXED: [&str; 3] = ["type", "name", schedule::KEY];

/// One policy's table as it is at a moment.
#[derive(Clone, Debug, PartialEq)]
pub struct Standing {
    /// The policy's name.
    pub name: Arc<str>,
    /// The table, without a schedule.
    pub table: Value,
    /// The hours of the schedule's entry that speaks.
    pub hours: Option<Hours>,
    /// When another entry speaks, or none any more.
    pub until: Option<SystemTime>,
}

impl Standing {
    /// Of a table that compiles.
    pub fn of(table: &Value, at: SystemTime) -> Self {
        let schedule = table.get(schedule::KEY).map(Schedule::read);
        let schedule = schedule.and_then(Result::ok).unwrap_or_default();
        let entry = schedule.at(at);
        let name = name(table);
        let nothing = Map::new();
        let mut table = merged(table, entry.map_or(&nothing, |entry| &entry.values));
        if let Some(table) = table.as_object_mut() {
            table.remove(schedule::KEY);
            // A name that is made of `match` and `per` must not change with them.
            table.insert("name".into(), (*name).into());
        }
        Self {
            name,
            table,
            hours: entry.map(|entry| entry.hours.clone()),
            until: schedule.change(at),
        }
    }
}

/// The name of the policy that a table describes, as its counters know it.
pub fn name(table: &Value) -> Arc<str> {
    if let Some(name) = table.get("name").and_then(Value::as_str) {
        return name.into();
    }
    let kind = table.get("type").and_then(Value::as_str);
    let (matched, per) = (table.get("match"), table.get("per"));
    kind::default_name(kind.unwrap_or_default(), matched, per)
}

/// The table with these values in the place of its own, and of those of its schedule.
pub fn replaced(table: &Value, values: &Map<String, Value>) -> Value {
    let name = name(table);
    let mut table = merged(table, values);
    let Some(object) = table.as_object_mut() else {
        return table;
    };
    object.insert("name".into(), (*name).into());
    let entries = object.get_mut(schedule::KEY).and_then(Value::as_array_mut);
    for entry in entries.into_iter().flatten() {
        if let Some(entry) = entry.as_object_mut() {
            entry.extend(values.clone());
        }
    }
    table
}

/// The first of these values that cannot replace one of the policy's, by its name.
pub fn fixed(table: &Value, values: &Map<String, Value>) -> Option<(String, Wrong)> {
    let kind = kind::find(KINDS, table.get("type")?).ok()?;
    let own = kind.keys.iter().chain(COMMON_KEYS).map(|key| key.name);
    let known: Vec<&str> = own.filter(|key| !FIXED.contains(key)).collect();
    for key in values.keys() {
        if FIXED.contains(&key.as_str()) {
            let message = format!("`{key}` is the same at all times");
            let help = format!("values that can change are {}", known.join(", "));
            return Some((key.clone(), Wrong::new(message, help)));
        }
        if !known.contains(&key.as_str()) {
            let shown: String = key.chars().take(40).collect();
            let kind = kind.name;
            let message =
                format!("unknown key {shown:?}: a policy of type \"{kind}\" has no such value");
            let help = match nearest(key, &known) {
                Some(near) => format!("did you mean `{near}`?"),
                None => format!("values that can change are {}", known.join(", ")),
            };
            return Some((key.clone(), Wrong::new(message, help)));
        }
    }
    None
}

fn merged(table: &Value, values: &Map<String, Value>) -> Value {
    let mut table = table.clone();
    if let Some(table) = table.as_object_mut() {
        table.extend(values.clone());
    }
    table
}

/// The tables that a table with a schedule is at one time or another, each with the number of its
/// entry, and what is wrong with the rest. For a table whose own values are right.
pub(super) fn times(table: &Value, policy: usize) -> (Vec<(usize, Value)>, Vec<Mistake>) {
    let said = |key: Vec<String>, wrong: Wrong| Mistake {
        policy,
        key,
        message: wrong.message,
        help: wrong.help,
    };
    let (mut tables, mut wrong) = (Vec::new(), Vec::new());
    let schedule = match table.get(schedule::KEY).map(Schedule::read) {
        None => return (tables, wrong),
        Some(Ok(schedule)) => schedule,
        Some(Err(all)) => {
            wrong.extend(all.into_iter().map(|(key, it)| said(key, it)));
            return (tables, wrong);
        }
    };
    for (index, entry) in schedule.entries().iter().enumerate() {
        if let Some((key, it)) = fixed(table, &entry.values) {
            let way = [schedule::KEY.to_owned(), index.to_string(), key];
            wrong.push(said(way.into(), it));
            continue;
        }
        let mut whole = merged(table, &entry.values);
        if let Some(whole) = whole.as_object_mut() {
            whole.remove(schedule::KEY);
        }
        tables.push((index, whole));
    }
    (tables, wrong)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::chain::Chain;
    use crate::engine::testing::{admit, services, tool};
    use serde_json::json;
    use std::time::Duration;

    fn at(seconds: u64) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)
    }

    fn scheduled() -> Value {
        json!({
            "type": "quota", "match": { "server": "files" }, "allow": "3/h",
            "schedule": [{ "at": "01:00-02:00", "allow": "5/h" }, { "at": "02:00-03:00", "mode": "shadow" }],
        })
    }

    #[test]
    fn a_table_is_what_its_schedule_says_at_that_hour() {
        for (hour, allow, mode, until) in [
            (0, "3/h", None, 1),
            (1, "5/h", None, 2),
            (2, "3/h", Some("shadow"), 3),
            (3, "3/h", None, 25),
        ] {
            let now = Standing::of(&scheduled(), at(hour * 3600 + 60));
            assert_eq!(now.table["allow"], allow, "{hour}");
            assert_eq!(now.table.get("mode").and_then(Value::as_str), mode);
            assert_eq!(now.until, Some(at(until * 3600)));
            assert_eq!(now.hours.is_some(), (1..3).contains(&hour));
            assert!(now.table.get("schedule").is_none());
            assert_eq!(
                *now.name,
                *name(&scheduled()),
                "the name went with the values"
            );
            assert_eq!(now.table["name"], *now.name);
        }
    }

    #[test]
    fn what_replaces_holds_at_all_hours_and_keeps_the_name() {
        let values = json!({ "allow": "9/h", "match": { "server": "other" } });
        let values = values.as_object().expect("a table");
        let replaced = replaced(&scheduled(), values);
        for hour in [0, 1, 2] {
            let now = Standing::of(&replaced, at(hour * 3600));
            assert_eq!(now.table["allow"], "9/h", "{hour}");
            assert_eq!(*now.name, *name(&scheduled()));
        }
    }

    #[test]
    fn a_limit_that_changes_neither_refills_nor_forgets() {
        let (clock, services) = services();
        let admitted = |table: &Value, most: usize| {
            let chain = Chain::build(std::slice::from_ref(table), &services).expect("compiles");
            let chain = Arc::new(chain);
            (0..most)
                .filter(|_| admit(&chain, tool("x")).is_ok())
                .count()
        };
        for per in ["h", "day in UTC"] {
            let own = json!({ "type": "quota", "name": per.replace(' ', "-"), "allow": format!("3/{per}") });
            let wider = json!({ "allow": format!("5/{per}") });
            let wider = replaced(&own, wider.as_object().expect("a table"));
            assert_eq!(admitted(&own, 9), 3, "{per}");
            assert_eq!(admitted(&wider, 9), 2, "{per}: two more, not five");
            assert_eq!(admitted(&own, 9), 0, "{per}: what was spent stays spent");
            assert_eq!(admitted(&wider, 9), 0, "{per}");
            clock.advance(Duration::from_mins(1));
            assert_eq!(admitted(&own, 9), 0, "{per}");
        }
    }

    #[test]
    fn each_hour_of_a_schedule_is_checked_like_a_table_of_its_own() {
        let (_, services) = services();
        for (entry, way, said) in [
            (
                json!({ "at": "Mon", "allow": "5 per h" }),
                "schedule.1.allow",
                "`allow`",
            ),
            (
                json!({ "at": "Mon", "alow": "5/h" }),
                "schedule.1.alow",
                "no such value",
            ),
            (
                json!({ "at": "Mon", "name": "x" }),
                "schedule.1.name",
                "at all times",
            ),
            (
                json!({ "at": "Mun", "allow": "5/h" }),
                "schedule.1.at",
                "a day is",
            ),
            (
                json!({ "at": "Mon", "burst": 0 }),
                "schedule.1.burst",
                "`burst`",
            ),
            (
                json!({ "at": "Mon", "mode": "shadows" }),
                "schedule.1.mode",
                "`mode`",
            ),
        ] {
            let mut table = scheduled();
            table["schedule"][1] = entry;
            let mistakes = Chain::build(
                &[json!({ "type": "timeout", "after": "1s" }), table],
                &services,
            );
            let mistakes = mistakes.expect_err("a mistake");
            assert_eq!(mistakes.len(), 1, "{mistakes:?}");
            assert_eq!(
                (mistakes[0].policy, mistakes[0].key.join(".").as_str()),
                (1, way)
            );
            assert!(mistakes[0].message.contains(said), "{mistakes:?}");
        }
        // Values that are wrong only together are told at the entry.
        let mut table = scheduled();
        table["burst"] = 2.into();
        table["schedule"][0]["allow"] = "5/day in UTC".into();
        let mistakes = Chain::build(&[table], &services).expect_err("a mistake");
        assert_eq!(mistakes[0].key, ["schedule", "0"], "{mistakes:?}");
    }
}
