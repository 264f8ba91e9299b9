//! Schedules: values that hold in certain hours in the place of a table's own.
//!
//! Entries stand in order, and of those whose hours it is the first speaks. What the values mean is
//! not known here: whoever has the table merges and checks them. No clock is read.

use std::time::SystemTime;

use serde_json::{Map, Value};

use super::fields::{Wrong, shown};
use super::hours::Hours;

/// The key of a table under which its schedule stands.
pub const KEY: &str = "schedule";
/// The most entries of one.
const LONGEST: usize = 100;
const HELP: &str = "write schedule = [{ at = \"Mon-Fri 09:00-18:00\", in = \"Asia/Seoul\", … }]";

/// What holds when, in order.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Schedule {
    entries: Vec<Entry>,
}

/// Values and their hours.
#[derive(Clone, Debug, PartialEq)]
pub struct Entry {
    /// When it speaks.
    pub hours: Hours,
    /// What holds then.
    pub values: Map<String, Value>,
}

/// A mistake, with the way to it from the table that has the schedule.
pub type Astray = (Vec<String>, Wrong);

impl Schedule {
    /// Reads what stands under [`KEY`].
    ///
    /// # Errors
    /// Everything that is wrong with it but its values.
    pub fn read(value: &Value) -> Result<Self, Vec<Astray>> {
        let list = value
            .as_array()
            .filter(|list| (1..=LONGEST).contains(&list.len()));
        let tables = list.and_then(|list| list.iter().map(Value::as_object).collect());
        let Some(tables): Option<Vec<_>> = tables else {
            let message = format!("`schedule` must be a list of tables, not {}", shown(value));
            return Err(vec![(vec![KEY.into()], Wrong::new(message, HELP))]);
        };
        let (mut entries, mut wrong) = (Vec::new(), Vec::new());
        for (index, table) in tables.into_iter().enumerate() {
            match Entry::read(table) {
                Ok(entry) => entries.push(entry),
                Err((key, it)) => {
                    let way = [KEY.to_owned(), index.to_string()].into_iter();
                    wrong.push((way.chain(key.map(str::to_owned)).collect(), it));
                }
            }
        }
        if wrong.is_empty() {
            Ok(Self { entries })
        } else {
            Err(wrong)
        }
    }

    /// The entries in order.
    pub fn entries(&self) -> &[Entry] {
        &self.entries
    }

    /// The number of the entry that speaks.
    fn speaking(&self, at: SystemTime) -> Option<usize> {
        self.entries
            .iter()
            .position(|entry| entry.hours.contain(at))
    }

    /// The entry that speaks at a moment, if one does.
    pub fn at(&self, at: SystemTime) -> Option<&Entry> {
        self.entries.get(self.speaking(at)?)
    }

    /// The next moment at which another one speaks, or none any more; none if that never is.
    pub fn change(&self, now: SystemTime) -> Option<SystemTime> {
        /// Hours repeat with the week; a day of changing clocks puts them off by one more at most.
        const WEEKS: u64 = 15 * 86_400;
        let speaks = self.speaking(now);
        let mut at = now;
        loop {
            at = self
                .entries
                .iter()
                .filter_map(|entry| entry.hours.edge(at))
                .min()?;
            if self.speaking(at) != speaks {
                return Some(at);
            }
            if at
                .duration_since(now)
                .is_ok_and(|passed| passed.as_secs() > WEEKS)
            {
                return None;
            }
        }
    }
}

impl Entry {
    fn read(table: &Map<String, Value>) -> Result<Self, (Option<&'static str>, Wrong)> {
        let text = |key| match table.get(key) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text.as_str())),
            Some(other) => {
                let message = format!("`{key}` must be a text, not {}", shown(other));
                Err((Some(key), Wrong::new(message, HELP)))
            }
        };
        let Some(at) = text("at")? else {
            let wrong = Wrong::new("`at` is missing: it says when these values hold", HELP);
            return Err((None, wrong));
        };
        let zone = text("in")?.unwrap_or("UTC");
        // Which of the two is wrong is found by trying the first alone.
        Hours::parse(at, "UTC").map_err(|wrong| (Some("at"), wrong.into()))?;
        let hours = Hours::parse(at, zone).map_err(|wrong| (Some("in"), wrong.into()))?;
        let mut values = table.clone();
        values.remove("at");
        values.remove("in");
        Ok(Self { hours, values })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;
    use std::time::Duration;

    fn schedule(value: &Value) -> Schedule {
        Schedule::read(value).expect("a schedule")
    }

    /// Seconds after the 1st of January 1970, a Thursday.
    fn at(seconds: u64) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)
    }

    #[test]
    fn the_first_entry_whose_hours_it_is_speaks() {
        let both = schedule(&json!([
            { "at": "Thu 10:00-11:00", "x": 1 },
            { "at": "Thu 09:00-12:00", "x": 2 },
            { "at": "Sat", "x": 3 },
        ]));
        for (hour, x) in [
            (8, None),
            (9, Some(2)),
            (10, Some(1)),
            (11, Some(2)),
            (12, None),
            (50, Some(3)),
        ] {
            let speaks = both
                .at(at(hour * 3600))
                .map(|entry| entry.values["x"].clone());
            assert_eq!(speaks, x.map(Value::from), "{hour}");
        }
        let mut changes = vec![0];
        for _ in 0..6 {
            let next = both.change(at(changes[changes.len() - 1] * 3600));
            let since = next
                .expect("it changes")
                .duration_since(at(0))
                .expect("later");
            changes.push(since.as_secs() / 3600);
        }
        assert_eq!(changes, [0, 9, 10, 11, 12, 48, 72]);
    }

    #[test]
    fn what_always_speaks_never_changes() {
        assert_eq!(schedule(&json!([{ "at": "Mon-Sun" }])).change(at(1)), None);
    }

    #[test]
    fn a_mistake_is_told_where_it_stands() {
        for (value, way) in [
            (json!("Mon"), "schedule"),
            (json!([]), "schedule"),
            (json!(["Mon"]), "schedule"),
            (json!([{ "x": 1 }]), "schedule.0"),
            (json!([{ "at": "Mon" }, { "at": "Mun" }]), "schedule.1.at"),
            (json!([{ "at": 9 }]), "schedule.0.at"),
            (json!([{ "at": "Mon", "in": "Atlantis" }]), "schedule.0.in"),
        ] {
            let wrong = Schedule::read(&value).expect_err("a mistake");
            let ways: Vec<String> = wrong.iter().map(|(way, _)| way.join(".")).collect();
            assert_eq!(ways, [way], "{value}");
            assert!(wrong.iter().all(|(_, wrong)| wrong.help.is_some()));
        }
    }
}
