//! The audit log, read back and added up.
//!
//! It stands apart because the sum is an oracle of many tests: received = admitted + refused, and
//! one done record per admitted call. It never repairs a line: one that is no JSON is a failure.

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::Value;

/// All records of an audit log, in order.
#[derive(Clone, Debug, Default)]
pub struct Records(Vec<Value>);

/// The sums over a set of records.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sums {
    /// Admit records.
    pub admitted: usize,
    /// Refuse records.
    pub refused: usize,
    /// Done records.
    pub done: usize,
}

impl Records {
    /// Reads what is there; a missing file has no records, a half line at the end is not yet one.
    ///
    /// # Panics
    /// When a whole line is no JSON object.
    pub fn read(path: &Path) -> Self {
        let text = std::fs::read_to_string(path).unwrap_or_default();
        let whole = text.rsplit_once('\n').map_or("", |(whole, _)| whole);
        Self::parse(whole.lines())
    }

    /// Records from lines, e.g. of standard output.
    ///
    /// # Panics
    /// When a line is no JSON object.
    pub fn parse<'a>(lines: impl Iterator<Item = &'a str>) -> Self {
        let parse = |line: &str| {
            let record: Value = serde_json::from_str(line)
                .unwrap_or_else(|error| panic!("an audit line is no JSON ({error}): {line}"));
            assert!(record.is_object(), "an audit line is no object: {line}");
            record
        };
        Self(lines.map(parse).collect())
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Each record.
    pub fn iter(&self) -> impl Iterator<Item = &Value> {
        self.0.iter()
    }

    /// Those that have this value in this member.
    #[must_use]
    pub fn of(&self, member: &str, value: &str) -> Self {
        let fits = |record: &&Value| record[member] == value;
        Self(self.0.iter().filter(fits).cloned().collect())
    }

    /// The sums by phase.
    pub fn sums(&self) -> Sums {
        let count = |phase: &str| {
            self.0
                .iter()
                .filter(|record| record["phase"] == phase)
                .count()
        };
        Sums {
            admitted: count("admit"),
            refused: count("refuse"),
            done: count("done"),
        }
    }

    /// How often each outcome was written in done records.
    pub fn outcomes(&self) -> BTreeMap<String, usize> {
        let mut outcomes = BTreeMap::new();
        for record in self.0.iter().filter(|record| record["phase"] == "done") {
            let outcome = record["outcome"].as_str().unwrap_or("(none)").to_owned();
            *outcomes.entry(outcome).or_default() += 1;
        }
        outcomes
    }

    /// Sequence numbers rise by one without a gap, however many threads wrote.
    ///
    /// # Panics
    /// When they do not.
    pub fn assert_unbroken(&self) {
        let numbers: Vec<u64> = self
            .0
            .iter()
            .filter_map(|record| record["seq"].as_u64())
            .collect();
        assert_eq!(numbers.len(), self.0.len(), "a record has no seq");
        let gap = numbers.windows(2).find(|pair| pair[1] != pair[0] + 1);
        assert_eq!(gap, None, "the sequence has a gap");
    }
}
