//! Hours of the week, as people write them: `"Mon-Fri 09:00-18:00"`, `"Sat,Sun"`, `"22:00-06:00"`.
//!
//! Apart from what holds in them. A day is a day of the zone: it has 23 or 25 hours where clocks
//! change. Of an hour that comes twice the first counts, of one that is skipped the moment after. No
//! clock is read here: the moment is handed in.

use std::fmt;
use std::time::{Duration, SystemTime};

use jiff::civil::{Date, DateTime, Time};
use jiff::tz::{AmbiguousOffset, TimeZone, TimeZoneDatabase};
use jiff::{Timestamp, ToSpan};

use super::span::UnitError;

/// Hours of the week in a time zone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hours {
    text: String,
    /// From Monday on.
    days: [bool; 7],
    /// None: the whole day.
    spans: Vec<(Minute, Minute)>,
    zone: TimeZone,
}

/// A minute of the day; 1440 is the end of it.
type Minute = i16;

const DAY: Minute = 24 * 60;
const WHOLE: &[(Minute, Minute)] = &[(0, DAY)];
const DAYS: [(&str, &str); 7] = [
    ("mon", "monday"),
    ("tue", "tuesday"),
    ("wed", "wednesday"),
    ("thu", "thursday"),
    ("fri", "friday"),
    ("sat", "saturday"),
    ("sun", "sunday"),
];
const HELP: &str = "write \"Mon-Fri 09:00-18:00\", \"Sat,Sun\" or \"22:00-06:00\"";

impl Hours {
    /// Reads `at` in the zone named `zone`.
    ///
    /// # Errors
    /// When either means nothing.
    pub fn parse(at: &str, zone: &str) -> Result<Self, UnitError> {
        let zone = TimeZoneDatabase::bundled().get(zone).map_err(|_| {
            let help = "write a name such as \"UTC\" or \"Asia/Seoul\"";
            UnitError::new("no time zone has this name", help)
        })?;
        let words: Vec<&str> = at.split_whitespace().collect();
        let is_time = |word: &&str| word.starts_with(|c: char| c.is_ascii_digit());
        let (days, times) = match words.as_slice() {
            [times] if is_time(times) => (None, Some(*times)),
            [days] => (Some(*days), None),
            [days, times] if is_time(times) => (Some(*days), Some(*times)),
            _ => return Err(UnitError::new("these are no hours of the week", HELP)),
        };
        Ok(Self {
            days: days.map_or(Ok([true; 7]), days_of)?,
            spans: times.map_or(Ok(Vec::new()), spans_of)?,
            text: words.join(" "),
            zone,
        })
    }

    /// Whether a moment is within them.
    pub fn contain(&self, at: SystemTime) -> bool {
        let Ok(at) = Timestamp::try_from(at) else {
            return false;
        };
        let mut windows = self.windows(at);
        windows.any(|(begin, end)| begin <= at && at < end)
    }

    /// The first moment after this one at which they begin or end.
    pub fn edge(&self, at: SystemTime) -> Option<SystemTime> {
        let at = Timestamp::try_from(at).ok()?;
        let edges = self.windows(at).flat_map(|(begin, end)| [begin, end]);
        edges.filter(|edge| *edge > at).min().map(SystemTime::from)
    }

    /// Those that begin within two days before and two weeks after a moment. One that lies in an hour
    /// that is skipped is no time at all.
    fn windows(&self, at: Timestamp) -> impl Iterator<Item = (Timestamp, Timestamp)> + '_ {
        let today = at.to_zoned(self.zone.clone()).date();
        let dates = (-2..=16).filter_map(move |days: i64| today.checked_add(days.days()).ok());
        let on = move |date: &Date| {
            let weekday = date.weekday().to_monday_zero_offset();
            usize::try_from(weekday).is_ok_and(|day| self.days.get(day) == Some(&true))
        };
        let spans = if self.spans.is_empty() {
            WHOLE
        } else {
            &self.spans
        };
        let windows = dates.filter(on).flat_map(move |date| {
            spans.iter().filter_map(move |(begin, end)| {
                let over = if end <= begin { DAY } else { 0 };
                Some((self.moment(date, *begin)?, self.moment(date, end + over)?))
            })
        });
        windows.filter(|(begin, end)| begin < end)
    }

    /// When it is that minute of that date there; the minute may be one of the next date.
    fn moment(&self, date: Date, minute: Minute) -> Option<Timestamp> {
        let (days, minute) = (minute / DAY, minute % DAY);
        let date = date.checked_add(i64::from(days).days()).ok()?;
        let hour = i8::try_from(minute / 60).ok()?;
        let time = Time::new(hour, i8::try_from(minute % 60).ok()?, 0, 0).ok()?;
        let ambiguous = self
            .zone
            .to_ambiguous_timestamp(DateTime::from_parts(date, time));
        match ambiguous.offset() {
            // The clock jumps over it: what comes next is the jump itself.
            AmbiguousOffset::Gap { .. } => {
                let before = ambiguous.earlier().ok()?;
                let mut jumps = self.zone.following(before);
                jumps.next().map(|jump| jump.timestamp())
            }
            _ => ambiguous.earlier().ok(),
        }
    }
}

impl fmt::Display for Hours {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let zone = self.zone.iana_name().unwrap_or("UTC");
        write!(f, "{} in {zone}", self.text)
    }
}

/// A moment as people read it.
pub fn spelled(at: SystemTime) -> String {
    let since = at.duration_since(SystemTime::UNIX_EPOCH);
    let whole = Duration::from_secs(since.unwrap_or_default().as_secs());
    let second = Timestamp::try_from(SystemTime::UNIX_EPOCH + whole);
    second.unwrap_or_default().to_string()
}

fn days_of(text: &str) -> Result<[bool; 7], UnitError> {
    let day = |word: &str| {
        let word = word.to_ascii_lowercase();
        let found = DAYS
            .iter()
            .position(|(short, long)| word == *short || word == *long);
        found.ok_or_else(|| UnitError::new("a day is Mon, Tue, Wed, Thu, Fri, Sat or Sun", HELP))
    };
    let mut days = [false; 7];
    for part in text.split(',') {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (first, last) = (day(first)?, day(last)?);
        // `Fri-Mon` goes over Sunday.
        let length = (last + 7 - first) % 7;
        for (index, on) in days.iter_mut().enumerate() {
            *on |= (index + 7 - first) % 7 <= length;
        }
    }
    Ok(days)
}

fn spans_of(text: &str) -> Result<Vec<(Minute, Minute)>, UnitError> {
    let span = |part: &str| {
        let (begin, end) = part
            .split_once('-')
            .ok_or_else(|| UnitError::new("hours have a begin and an end", HELP))?;
        let (begin, end) = (minute(begin)?, minute(end)?);
        if begin == DAY || begin == end {
            let help = "leave the hours out for whole days, or write \"09:00-18:00\"";
            return Err(UnitError::new(
                "hours end at another time than they begin",
                help,
            ));
        }
        Ok((begin, end))
    };
    text.split(',').map(span).collect()
}

fn minute(text: &str) -> Result<Minute, UnitError> {
    let wrong = || UnitError::new("a time of day is written 09:00", HELP);
    let (hour, minute) = text.split_once(':').ok_or_else(wrong)?;
    let number = |text: &str, length: std::ops::RangeInclusive<usize>| {
        let digits = text.bytes().all(|byte| byte.is_ascii_digit());
        let number = text.parse::<Minute>().ok();
        number.filter(|_| digits && length.contains(&text.len()))
    };
    let (hour, minute) = (number(hour, 1..=2), number(minute, 2..=2));
    match (hour, minute) {
        (Some(24), Some(0)) => Ok(DAY),
        (Some(hour @ 0..24), Some(minute @ 0..60)) => Ok(hour * 60 + minute),
        _ => Err(wrong()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn at(text: &str) -> SystemTime {
        text.parse::<Timestamp>().expect("a time").into()
    }

    /// Whether it holds at each of these moments.
    fn holds(hours: &str, zone: &str, moments: &[(&str, bool)]) {
        let hours = Hours::parse(hours, zone).expect(hours);
        for (moment, expected) in moments {
            assert_eq!(hours.contain(at(moment)), *expected, "{hours} at {moment}");
        }
    }

    #[test]
    fn hours_are_those_of_their_zone() {
        // 09:00 in Seoul is midnight in Greenwich; the 23rd of November 2026 is a Monday.
        holds(
            "Mon-Fri 09:00-18:00",
            "Asia/Seoul",
            &[
                ("2026-11-22T23:59:59Z", false),
                ("2026-11-23T00:00:00Z", true),
                ("2026-11-23T08:59:59Z", true),
                ("2026-11-23T09:00:00Z", false),
                ("2026-11-28T03:00:00Z", false),
            ],
        );
        holds(
            "Sat,Sunday",
            "UTC",
            &[
                ("2026-11-27T23:59:59Z", false),
                ("2026-11-28T00:00:00Z", true),
                ("2026-11-29T23:59:59Z", true),
                ("2026-11-30T00:00:00Z", false),
            ],
        );
        holds(
            "09:00-12:00,13:00-24:00",
            "UTC",
            &[
                ("2026-11-28T12:30:00Z", false),
                ("2026-11-28T13:00:00Z", true),
                ("2026-11-28T23:59:59Z", true),
            ],
        );
    }

    #[test]
    fn hours_over_midnight_are_those_of_the_day_on_which_they_begin() {
        holds(
            "fri 22:00-06:00",
            "UTC",
            &[
                ("2026-11-27T05:00:00Z", false),
                ("2026-11-27T22:00:00Z", true),
                ("2026-11-28T05:59:59Z", true),
                ("2026-11-28T06:00:00Z", false),
                ("2026-11-28T22:00:00Z", false),
            ],
        );
        holds(
            "Sun-Tue",
            "UTC",
            &[
                ("2026-11-25T00:00:00Z", false),
                ("2026-11-29T00:00:00Z", true),
                ("2026-11-24T00:00:00Z", true),
            ],
        );
    }

    #[test]
    fn clocks_that_change_move_the_hours_with_them() {
        holds(
            "09:00-10:00",
            "Europe/Berlin",
            &[
                ("2026-03-28T08:00:00Z", true),
                ("2026-03-29T07:00:00Z", true),
                ("2026-03-29T08:00:00Z", false),
                ("2026-10-25T08:00:00Z", true),
            ],
        );
        // At 02:00 the clock shows 03:00: what lies between never is, what begins there begins then.
        let skipped = Hours::parse("02:10-02:40", "Europe/Berlin").expect("hours");
        let edge = skipped.edge(at("2026-03-28T12:00:00Z"));
        assert_eq!(edge, Some(at("2026-03-30T00:10:00Z")));
        holds(
            "02:30-04:00",
            "Europe/Berlin",
            &[
                ("2026-03-29T00:59:59Z", false),
                ("2026-03-29T01:00:00Z", true),
                ("2026-03-29T02:00:00Z", false),
            ],
        );
        // 02:30 comes twice: the first begins it, and the first ends it.
        holds(
            "01:00-02:30",
            "Europe/Berlin",
            &[
                ("2026-10-24T23:00:00Z", true),
                ("2026-10-25T00:29:59Z", true),
                ("2026-10-25T00:30:00Z", false),
                ("2026-10-25T01:15:00Z", false),
            ],
        );
    }

    #[test]
    fn hours_without_sense_say_what_to_write() {
        for text in [
            "",
            " ",
            "Mon Tue",
            "Mun",
            "Mon-",
            "9-18",
            "09:00",
            "09:00-",
            "25:00-26:00",
            "09:60-10:00",
            "09:00-09:00",
            "24:00-01:00",
            "+9:00-10:00",
            "09:00-18:00 Mon",
            "Mon 09:00-18:00 x",
            "Mon,,Tue",
            "09:0-10:00",
        ] {
            assert!(Hours::parse(text, "UTC").is_err(), "{text:?}");
        }
        for zone in ["Atlantis", "", "../UTC", "KST+9"] {
            assert!(Hours::parse("Mon", zone).is_err(), "{zone:?}");
        }
    }

    proptest! {
        #[test]
        fn between_two_edges_nothing_changes(
            seconds in 0i64..4_000_000_000,
            after in 0.0f64..1.0,
            text in prop::sample::select(vec![
                "Mon-Fri 09:00-18:00", "22:00-06:00", "Sat,Sun", "Fri-Mon 23:30-02:30", "00:00-02:00,02:30-03:30", "Sun",
            ]),
            zone in prop::sample::select(vec![
                "UTC", "Asia/Seoul", "Europe/Berlin", "America/New_York", "Australia/Lord_Howe", "Pacific/Apia", "Africa/Cairo",
            ]),
        ) {
            let hours = Hours::parse(text, zone).expect("hours");
            let now: SystemTime = Timestamp::from_second(seconds).expect("in range").into();
            let edge = hours.edge(now).expect("an edge within a week");
            let span = edge.duration_since(now).expect("later");
            prop_assert!(span > Duration::ZERO && span <= Duration::from_hours(9 * 24), "{span:?}");
            let between = now + span.mul_f64(after * 0.999);
            prop_assert_eq!(hours.contain(between), hours.contain(now));
        }

        #[test]
        fn no_text_makes_the_parser_panic(text in "\\PC{0,24}", zone in "\\PC{0,12}") {
            let _ = Hours::parse(&text, &zone);
        }
    }
}
