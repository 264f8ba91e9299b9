//! What a budget allows, as people write it: `"60/min"`, `"10MiB/min"`, `"1000/day in Asia/Seoul"`.
//!
//! A rate comes back evenly spread; a calendar window comes back whole when its day, week or month
//! begins where its zone is. Zones are those of the IANA database as of this build: no file of
//! the machine is read.

use std::fmt;
use std::str::FromStr;
use std::time::{Duration, SystemTime};

use jiff::civil::{Date, Weekday};
use jiff::tz::{TimeZone, TimeZoneDatabase};
use jiff::{Timestamp, ToSpan};

use super::span::{LONGEST, MOST, Rate, Size, Span, UnitError};

/// What is counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Counted {
    /// Calls, each as many as it costs.
    #[default]
    Calls,
    /// Bytes of requests and answers.
    Bytes,
}

impl Counted {
    /// So many of it, for people.
    pub fn say(self, count: u64) -> String {
        match self {
            Self::Calls => count.to_string(),
            Self::Bytes => Size(count).to_string(),
        }
    }
}

/// So many of something per span or per window of the calendar.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Allow {
    /// What is counted.
    pub of: Counted,
    /// How many, at least 1.
    pub count: u64,
    /// Per what.
    pub per: Period,
}

/// How long an allowance is for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Period {
    /// Any span of this length.
    Span(Duration),
    /// A window of the calendar.
    Calendar(Calendar),
}

/// Windows of the calendar, one after another without a gap.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Calendar {
    /// How long one is.
    pub window: Window,
    zone: TimeZone,
}

/// The length of a window.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Window {
    /// From midnight to midnight: 23 or 25 hours where clocks change.
    Day,
    /// From Monday's midnight on (ISO 8601).
    Week,
    /// From the first of a month on.
    Month,
}

const HELP: &str = "write \"60/min\", \"1000/day\", \"10MiB/min\", or \"1000/day in Asia/Seoul\" for days of the calendar";

const WINDOWS: [(&str, Window); 3] = [
    ("day", Window::Day),
    ("week", Window::Week),
    ("month", Window::Month),
];

impl FromStr for Allow {
    type Err = UnitError;

    fn from_str(text: &str) -> Result<Self, UnitError> {
        let (amount, zone) = match text.split_once(" in ") {
            Some((amount, zone)) => (amount, Some(zone.trim())),
            None => (text, None),
        };
        let (count, per) = amount
            .split_once('/')
            .ok_or_else(|| UnitError::new("an allowance is a number per span", HELP))?;
        let (count, per) = (count.trim(), per.trim());
        let (of, count) = match count.parse::<Size>() {
            Ok(Size(bytes)) => (Counted::Bytes, bytes),
            Err(_) => (Counted::Calls, whole(count)?),
        };
        let ours = |error: UnitError| UnitError::new(error.message, HELP);
        let Some(zone) = zone else {
            if of == Counted::Calls {
                let rate: Rate = amount.parse().map_err(ours)?;
                return Ok(Self {
                    of,
                    count: rate.count.into(),
                    per: Period::Span(rate.per),
                });
            }
            // The span is read as that of a rate is.
            let Rate { per, .. } = format!("1/{per}").parse().map_err(ours)?;
            if !(1..=u64::from(u32::MAX)).contains(&count) {
                return Err(UnitError::new("a span allows 1B to 4095MiB", HELP));
            }
            return Ok(Self {
                of,
                count,
                per: Period::Span(per),
            });
        };
        let window = WINDOWS.iter().find(|(name, _)| *name == per);
        let (_, window) = window.ok_or_else(|| {
            let why = "a window of the calendar is a day, week or month";
            UnitError::new(why, HELP)
        })?;
        let zone = TimeZoneDatabase::bundled().get(zone).map_err(|_| {
            UnitError::new(
                "no time zone has this name",
                "write a name such as \"UTC\" or \"Asia/Seoul\"",
            )
        })?;
        if count == 0 {
            return Err(UnitError::new("an allowance is at least 1", HELP));
        }
        let window = *window;
        Ok(Self {
            of,
            count,
            per: Period::Calendar(Calendar { window, zone }),
        })
    }
}

fn whole(text: &str) -> Result<u64, UnitError> {
    let digits = text.bytes().all(|byte| byte.is_ascii_digit());
    let count = text.parse().ok().filter(|_| digits);
    count
        .filter(|count| (1..=u64::from(MOST)).contains(count))
        .ok_or_else(|| UnitError::new("a rate allows 1 to 1000000000", HELP))
}

impl fmt::Display for Allow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let count = self.of.say(self.count);
        match &self.per {
            Period::Span(span) => write!(f, "{count} per {}", Span(*span)),
            Period::Calendar(calendar) => write!(f, "{count} per {calendar}"),
        }
    }
}

impl fmt::Display for Calendar {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let window = match self.window {
            Window::Day => "day",
            Window::Week => "week",
            Window::Month => "month",
        };
        write!(f, "{window} in {}", self.zone.iana_name().unwrap_or("UTC"))
    }
}

impl Calendar {
    /// The window that a moment is in: its begin and its end, which is the next one's begin.
    pub fn around(&self, at: SystemTime) -> (SystemTime, SystemTime) {
        let window = self.bounds(at);
        // Only dates thousands of years from now are none.
        window.unwrap_or((at, at + LONGEST))
    }

    fn bounds(&self, at: SystemTime) -> Option<(SystemTime, SystemTime)> {
        let now = Timestamp::try_from(at).ok()?.to_zoned(self.zone.clone());
        let date = now.date();
        let (first, next) = match self.window {
            Window::Day => (date, date.tomorrow().ok()?),
            Window::Week => {
                let since = now.weekday().since(Weekday::Monday);
                let monday = date.checked_sub(since.days()).ok()?;
                (monday, monday.checked_add(7.days()).ok()?)
            }
            Window::Month => {
                let first = date.first_of_month();
                (first, first.checked_add(1.month()).ok()?)
            }
        };
        // The first moment of a date, also where midnight is skipped.
        let midnight = |date: Date| date.to_zoned(self.zone.clone());
        let (begin, end) = (midnight(first).ok()?, midnight(next).ok()?);
        Some((begin.timestamp().into(), end.timestamp().into()))
    }

    /// The longest that one of its windows can be.
    pub fn longest(&self) -> Duration {
        match self.window {
            Window::Day => Duration::from_hours(49),
            Window::Week => Duration::from_hours(8 * 24),
            Window::Month => Duration::from_hours(32 * 24),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn at(text: &str) -> SystemTime {
        text.parse::<Timestamp>().expect("a time").into()
    }

    fn calendar(text: &str) -> Calendar {
        let allow: Allow = text.parse().expect(text);
        match allow.per {
            Period::Calendar(calendar) => calendar,
            Period::Span(_) => panic!("{text} is no calendar"),
        }
    }

    #[test]
    fn allowances_are_read_as_people_write_them() {
        for (text, of, count, per) in [
            ("60/min", Counted::Calls, 60, Some(60)),
            ("1000/day", Counted::Calls, 1_000, Some(86_400)),
            ("10MiB/min", Counted::Bytes, 10 << 20, Some(60)),
            ("512B/30s", Counted::Bytes, 512, Some(30)),
            ("1000/day in Asia/Seoul", Counted::Calls, 1_000, None),
            ("100GiB/month in UTC", Counted::Bytes, 100 << 30, None),
        ] {
            let allow: Allow = text.parse().expect(text);
            assert_eq!((allow.of, allow.count), (of, count), "{text}");
            match (&allow.per, per) {
                (Period::Span(span), Some(seconds)) => {
                    assert_eq!(span.as_secs(), seconds, "{text}");
                }
                (Period::Calendar(_), None) => {}
                other => panic!("{text}: {other:?}"),
            }
        }
        for (text, said) in [
            ("60/min", "60 per 1m"),
            ("10MiB/min", "10MiB per 1m"),
            ("5/week in Europe/Berlin", "5 per week in Europe/Berlin"),
        ] {
            assert_eq!(text.parse::<Allow>().expect(text).to_string(), said);
        }
        for text in [
            "",
            "60",
            "/min",
            "0/min",
            "-1/min",
            "+1/day in UTC",
            "1.5/min",
            "60/fortnight",
            "0B/min",
            "5GiB/min",
            "0/day in UTC",
            "1/min in UTC",
            "1/h in UTC",
            "1/day in Atlantis",
            "1/day in ",
            "1/day in ../../etc/passwd",
        ] {
            assert!(text.parse::<Allow>().is_err(), "{text}");
        }
    }

    #[test]
    fn windows_begin_where_their_zone_says() {
        for (text, now, begin, end) in [
            (
                "1/day in Asia/Seoul",
                "2026-03-01T14:59:59Z",
                "2026-02-28T15:00:00Z",
                "2026-03-01T15:00:00Z",
            ),
            (
                "1/day in Asia/Seoul",
                "2026-03-01T15:00:00Z",
                "2026-03-01T15:00:00Z",
                "2026-03-02T15:00:00Z",
            ),
            // The day on which clocks go forward has 23 hours, the one on which they go back 25.
            (
                "1/day in Europe/Berlin",
                "2026-03-29T12:00:00Z",
                "2026-03-28T23:00:00Z",
                "2026-03-29T22:00:00Z",
            ),
            (
                "1/day in Europe/Berlin",
                "2026-10-25T12:00:00Z",
                "2026-10-24T22:00:00Z",
                "2026-10-25T23:00:00Z",
            ),
            (
                "1/week in UTC",
                "2026-11-22T10:00:00Z",
                "2026-11-16T00:00:00Z",
                "2026-11-23T00:00:00Z",
            ),
            (
                "1/month in UTC",
                "2026-02-28T23:59:59Z",
                "2026-02-01T00:00:00Z",
                "2026-03-01T00:00:00Z",
            ),
        ] {
            assert_eq!(
                calendar(text).around(at(now)),
                (at(begin), at(end)),
                "{text} at {now}"
            );
        }
    }

    proptest! {
        #[test]
        fn windows_follow_one_another_without_a_gap(
            seconds in 0i64..4_000_000_000,
            unit in prop::sample::select(vec!["day", "week", "month"]),
            zone in prop::sample::select(vec![
                "UTC", "Asia/Seoul", "Europe/Berlin", "America/New_York", "Australia/Lord_Howe", "Asia/Kolkata",
                "Pacific/Apia", "America/Sao_Paulo", "Africa/Cairo", "Antarctica/Troll",
            ]),
        ) {
            let calendar = calendar(&format!("1/{unit} in {zone}"));
            let now: SystemTime = Timestamp::from_second(seconds).expect("in range").into();
            let (begin, end) = calendar.around(now);
            prop_assert!(begin <= now && now < end, "{begin:?} {now:?} {end:?}");
            prop_assert!(end.duration_since(begin).expect("after") <= calendar.longest());
            let (next, after) = calendar.around(end);
            prop_assert!(next == end && after > end);
            let last = end - Duration::from_nanos(1);
            prop_assert_eq!(calendar.around(last), (begin, end));
        }
    }
}
