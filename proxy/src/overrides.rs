//! Overrides: values that stand in the place of a policy's for a while, and end by themselves.
//!
//! The book of them, kept in the state folder so that a restart forgets none. An end is so long
//! after the beginning by the clock that nobody sets; only a restart goes by the calendar, and then
//! none gets longer than it was. What a value means, and when another snapshot is due, is not known
//! here.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, SystemTime};

use data_encoding::HEXLOWER;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use tracing::warn;

use crate::lock::locked;
use crate::random;

mod file;

/// The most there are at one time.
const MOST: usize = 256;

/// All of them; clones are the same book.
#[derive(Clone, Debug, Default)]
pub struct Overrides(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    book: Mutex<Vec<Override>>,
    place: Option<PathBuf>,
}

/// One of them.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Override {
    /// What it is ended by.
    pub id: String,
    /// The policy's name, or `server.NAME` for ChillMCP.
    pub policy: Arc<str>,
    /// What holds meanwhile.
    pub values: Map<String, Value>,
    /// Who has set it.
    pub by: String,
    /// Why, in their words.
    pub reason: Option<String>,
    /// When it was set, in milliseconds since 1970.
    set: u64,
    /// How long it is for, in milliseconds.
    span: u64,
    /// By what it has ended. It stays in the book until that is in the audit log.
    pub over: Option<Over>,
    /// When it ends, by the clock of this process.
    #[serde(skip)]
    ends: Option<Instant>,
    /// Why it does not hold although it runs.
    #[serde(skip)]
    pub trouble: Option<String>,
}

/// How an override ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Over {
    /// Who ended it; chillgate itself when its time was up.
    pub by: String,
    /// Why.
    pub reason: String,
}

/// A moment by both clocks.
#[derive(Clone, Copy, Debug)]
pub struct Moment {
    /// By the one that nobody sets.
    pub now: Instant,
    /// By the calendar.
    pub wall: SystemTime,
}

impl Override {
    /// A new one.
    pub fn new(policy: Arc<str>, values: Map<String, Value>, span: Duration, at: Moment) -> Self {
        Self {
            id: HEXLOWER.encode(&random::bytes::<4>()),
            policy,
            values,
            by: String::new(),
            reason: None,
            set: millis(at.wall),
            span: u64::try_from(span.as_millis()).unwrap_or(u64::MAX),
            over: None,
            ends: Some(at.now + span),
            trouble: None,
        }
    }

    /// When it was set.
    pub fn set(&self) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_millis(self.set)
    }

    /// How much of it is left.
    pub fn left(&self, at: Moment) -> Duration {
        match (&self.over, self.ends) {
            (Some(_), _) => Duration::ZERO,
            (None, Some(ends)) => ends.saturating_duration_since(at.now),
            (None, None) => self.left_by_calendar(at.wall),
        }
    }

    /// When it ends, as the calendar stands now.
    pub fn until(&self, at: Moment) -> SystemTime {
        at.wall + self.left(at)
    }

    fn left_by_calendar(&self, wall: SystemTime) -> Duration {
        let span = Duration::from_millis(self.span);
        // A calendar that was set back makes it no longer than it was at first.
        let until = Duration::from_millis(self.set).saturating_add(span);
        let since = wall
            .duration_since(SystemTime::UNIX_EPOCH)
            .unwrap_or_default();
        until.saturating_sub(since).min(span)
    }
}

impl Overrides {
    /// Those that are kept in `folder` for the admin API at this address, which no other chillgate
    /// has; what was not read is told.
    pub fn open(folder: Option<&Path>, address: &str, at: Moment) -> Self {
        let place = folder.map(|folder| file::place(folder, address));
        let mut book = match &place {
            None => Vec::new(),
            Some(place) => file::read(place).unwrap_or_else(|error| {
                warn!(file = %place.display(), %error, "The overrides of before cannot be read; none holds.");
                Vec::new()
            }),
        };
        for one in &mut book {
            one.ends = Some(at.now + one.left_by_calendar(at.wall));
        }
        Self(Arc::new(Shared {
            book: Mutex::new(book),
            place,
        }))
    }

    /// Whether a restart forgets none.
    pub fn are_kept(&self) -> bool {
        self.0.place.is_some()
    }

    /// Those that run, in the order in which they were set.
    pub fn running(&self) -> Vec<Override> {
        let book = locked(&self.0.book);
        book.iter()
            .filter(|one| one.over.is_none())
            .cloned()
            .collect()
    }

    /// Those that are over and not recorded.
    pub fn unrecorded(&self) -> Vec<Override> {
        let book = locked(&self.0.book);
        book.iter()
            .filter(|one| one.over.is_some())
            .cloned()
            .collect()
    }

    /// What holds of a policy now.
    pub fn of(&self, policy: &str) -> Map<String, Value> {
        let running = self.running().into_iter();
        let own = running.filter(|one| &*one.policy == policy);
        own.flat_map(|one| one.values).collect()
    }

    /// Adds one; earlier ones lose the values that it has, and end where they had no others.
    ///
    /// # Errors
    /// When there are too many.
    pub fn add(&self, new: Override) -> Result<(), String> {
        let mut book = locked(&self.0.book);
        if book.len() >= MOST {
            return Err(format!("there are {MOST} overrides already; end some"));
        }
        for one in book.iter_mut() {
            if one.policy != new.policy || one.over.is_some() {
                continue;
            }
            one.values.retain(|key, _| !new.values.contains_key(key));
            if one.values.is_empty() {
                one.over = Some(Over {
                    by: new.by.clone(),
                    reason: format!("{} has taken its place", new.id),
                });
            }
        }
        book.push(new);
        self.write(&book);
        Ok(())
    }

    /// Ends one; whether it ran.
    pub fn end(&self, id: &str, over: Over) -> bool {
        let mut book = locked(&self.0.book);
        let found = book
            .iter_mut()
            .find(|one| one.id == id && one.over.is_none());
        let ran = found.map(|one| one.over = Some(over)).is_some();
        self.write(&book);
        ran
    }

    /// Ends those whose time is up; whether there were any.
    pub fn expire(&self, at: Moment) -> bool {
        let mut book = locked(&self.0.book);
        let mut any = false;
        for one in book.iter_mut().filter(|one| one.over.is_none()) {
            if one.left(at).is_zero() {
                any = true;
                one.over = Some(Over {
                    by: "chillgate".to_owned(),
                    reason: "its time was up".to_owned(),
                });
            }
        }
        if any {
            self.write(&book);
        }
        any
    }

    /// Its end is recorded: it is forgotten.
    pub fn forget(&self, id: &str) {
        let mut book = locked(&self.0.book);
        book.retain(|one| one.id != id);
        self.write(&book);
    }

    /// How long until the next one ends.
    pub fn next(&self, at: Moment) -> Option<Duration> {
        let book = locked(&self.0.book);
        let running = book.iter().filter(|one| one.over.is_none());
        running.map(|one| one.left(at)).min()
    }

    /// Notes for all of a policy why they do not hold, or that they do; true where that is news.
    pub fn judge(&self, policy: &str, trouble: Option<&str>) -> bool {
        let mut book = locked(&self.0.book);
        let mut news = false;
        for one in book.iter_mut().filter(|one| &*one.policy == policy) {
            news |= one.trouble.as_deref() != trouble;
            one.trouble = trouble.map(str::to_owned);
        }
        news
    }

    fn write(&self, book: &[Override]) {
        let Some(place) = &self.0.place else { return };
        if let Err(error) = file::write(place, book) {
            warn!(file = %place.display(), %error, "Overrides cannot be kept: a restart would forget them.");
        }
    }
}

fn millis(at: SystemTime) -> u64 {
    let since = at
        .duration_since(SystemTime::UNIX_EPOCH)
        .unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests;
