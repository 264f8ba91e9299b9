//! Units as people write them: `"20s"`, `"60/min"`, `"64KiB"`.
//!
//! One place, so that every key of every policy is read and printed the same way and every mistake
//! names what to write instead. Nothing here knows what the numbers are for.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

/// Longest span that may be written: 400 days. Keeps all arithmetic on spans far from overflow.
pub const LONGEST: Duration = Duration::from_hours(400 * 24);
/// Most calls a rate may allow per span.
pub const MOST: u32 = 1_000_000_000;

/// A text that is not the unit it should be.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct UnitError {
    /// What is wrong.
    pub message: String,
    /// What to write instead.
    pub help: &'static str,
}

impl UnitError {
    pub(super) fn new(message: impl Into<String>, help: &'static str) -> Self {
        Self {
            message: message.into(),
            help,
        }
    }
}

/// A length of time, written `"20s"`, `"5m"`, `"1h30m"`, `"500ms"` or `"7d"`; at most [`LONGEST`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Span(pub Duration);

const SPAN_HELP: &str = "write a number with a unit: \"20s\", \"5m\", \"1h30m\" or \"500ms\"";
const UNITS: [(&str, u64); 6] = [
    ("d", 86_400_000_000_000),
    ("h", 3_600_000_000_000),
    ("min", 60_000_000_000),
    ("m", 60_000_000_000),
    ("s", 1_000_000_000),
    ("ms", 1_000_000),
];

impl FromStr for Span {
    type Err = UnitError;

    fn from_str(text: &str) -> Result<Self, UnitError> {
        let refuse = |why: &str| UnitError::new(format!("{why}: {}", shown(text)), SPAN_HELP);
        let mut rest = text.trim();
        if rest.is_empty() {
            return Err(refuse("a span of time is empty"));
        }
        let mut total: u64 = 0;
        while !rest.is_empty() {
            let digits = rest
                .find(|c: char| !c.is_ascii_digit())
                .unwrap_or(rest.len());
            let (number, tail) = rest.split_at(digits);
            let letters = tail
                .find(|c: char| !c.is_ascii_alphabetic())
                .unwrap_or(tail.len());
            let (unit, tail) = tail.split_at(letters);
            if number.is_empty() {
                return Err(refuse("a span of time starts with a number"));
            }
            let Some((_, nanos)) = UNITS.iter().find(|(name, _)| *name == unit) else {
                return Err(refuse("a span of time needs a unit"));
            };
            total = number
                .parse::<u64>()
                .ok()
                .and_then(|count| count.checked_mul(*nanos))
                .and_then(|part| total.checked_add(part))
                .ok_or_else(|| refuse("a span of time is at most 400 days"))?;
            rest = tail;
        }
        let span = Duration::from_nanos(total);
        if span > LONGEST {
            return Err(refuse("a span of time is at most 400 days"));
        }
        Ok(Self(span))
    }
}

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut rest = u64::try_from(self.0.as_nanos()).unwrap_or(u64::MAX);
        if rest < 1_000_000 {
            return f.write_str(if rest == 0 { "0s" } else { "<1ms" });
        }
        for (unit, nanos) in UNITS {
            let count = rest / nanos;
            if count > 0 && unit != "min" {
                write!(f, "{count}{unit}")?;
                rest %= nanos;
            }
        }
        Ok(())
    }
}

/// So many per span, written `"60/min"`, `"5/s"`, `"1000/day"` or `"100/30s"`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Rate {
    /// How many, 1..=[`MOST`].
    pub count: u32,
    /// Per how long, 1 ms..=[`LONGEST`].
    pub per: Duration,
}

const RATE_HELP: &str = "write \"60/min\", \"5/s\" or \"1000/day\"";
const PERIODS: [(&str, &str, u64); 4] = [
    ("s", "sec", 1),
    ("min", "minute", 60),
    ("h", "hour", 3_600),
    ("day", "d", 86_400),
];

impl FromStr for Rate {
    type Err = UnitError;

    fn from_str(text: &str) -> Result<Self, UnitError> {
        let refuse = |why: &str| UnitError::new(format!("{why}: {}", shown(text)), RATE_HELP);
        let (count, per) = text
            .split_once('/')
            .ok_or_else(|| refuse("a rate is a number per span"))?;
        let (count, per) = (count.trim(), per.trim());
        let count = count
            .parse::<u32>()
            .ok()
            .filter(|count| (1..=MOST).contains(count) && !text.trim_start().starts_with('+'))
            .ok_or_else(|| refuse("a rate allows 1 to 1000000000"))?;
        let named = PERIODS.iter().find(|(name, other, _)| {
            [*name, *other].contains(&per) || per == "second" || per == "m" && *name == "min"
        });
        let per = match named {
            Some((_, _, seconds)) => Duration::from_secs(*seconds),
            None => {
                per.parse::<Span>()
                    .map_err(|_| refuse("a rate is a number per span"))?
                    .0
            }
        };
        if per < Duration::from_millis(1) {
            return Err(refuse("the span of a rate is at least 1ms"));
        }
        Ok(Self { count, per })
    }
}

impl fmt::Display for Rate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let named = PERIODS
            .iter()
            .find(|(_, _, seconds)| self.per == Duration::from_secs(*seconds));
        match named {
            Some((name, _, _)) => write!(f, "{}/{name}", self.count),
            None => write!(f, "{}/{}", self.count, Span(self.per)),
        }
    }
}

/// A number of bytes, written `"64KiB"`, `"16MiB"`, `"1GiB"` or `"512B"`; at most 1 TiB.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Size(pub u64);

const SIZE_HELP: &str = "write a number with a unit: \"512B\", \"64KiB\", \"16MiB\" or \"1GiB\"";
const SIZES: [(&str, u64); 4] = [
    ("GiB", 1 << 30),
    ("MiB", 1 << 20),
    ("KiB", 1 << 10),
    ("B", 1),
];

impl FromStr for Size {
    type Err = UnitError;

    fn from_str(text: &str) -> Result<Self, UnitError> {
        let refuse = |why: &str| UnitError::new(format!("{why}: {}", shown(text)), SIZE_HELP);
        let text_ = text.trim();
        let digits = text_
            .find(|c: char| !c.is_ascii_digit())
            .unwrap_or(text_.len());
        let (number, unit) = text_.split_at(digits);
        let Some((_, bytes)) = SIZES.iter().find(|(name, _)| *name == unit.trim()) else {
            return Err(refuse("a size needs a unit"));
        };
        number
            .parse::<u64>()
            .ok()
            .and_then(|count| count.checked_mul(*bytes))
            .filter(|total| *total <= 1 << 40)
            .map(Self)
            .ok_or_else(|| refuse("a size is a number of bytes, at most 1024GiB"))
    }
}

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let fits = SIZES
            .iter()
            .find(|(_, bytes)| self.0 >= *bytes && self.0.is_multiple_of(*bytes));
        match fits {
            Some((unit, bytes)) => write!(f, "{}{unit}", self.0 / bytes),
            None => write!(f, "{}B", self.0),
        }
    }
}

/// The text as an error may show it: escaped and cut, since it comes from a file of any content.
fn shown(text: &str) -> String {
    let cut: String = text.chars().take(40).collect();
    let more = if cut.len() < text.len() { "…" } else { "" };
    format!("{cut:?}{more}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn spans_are_read_as_people_write_them() {
        for (text, millis) in [
            ("20s", 20_000),
            ("5m", 300_000),
            ("5min", 300_000),
            ("300s", 300_000),
            ("1h30m", 5_400_000),
            ("500ms", 500),
            ("1d", 86_400_000),
            ("0s", 0),
            (" 2s ", 2_000),
        ] {
            assert_eq!(
                text.parse(),
                Ok(Span(Duration::from_millis(millis))),
                "{text}"
            );
        }
    }

    #[test]
    fn a_span_without_sense_says_what_to_write() {
        for text in [
            "",
            "20",
            "s",
            "-5s",
            "1.5h",
            "5 weeks",
            "401d",
            "99999999999999999999s",
            "1h-3m",
        ] {
            let error = text.parse::<Span>().expect_err(text);
            assert!(error.help.contains("\"20s\""), "{text}: {error:?}");
        }
    }

    #[test]
    fn rates_are_read_as_people_write_them() {
        for (text, count, secs) in [
            ("60/min", 60, 60),
            ("60/minute", 60, 60),
            ("60/m", 60, 60),
            ("5/s", 5, 1),
            ("5/second", 5, 1),
            ("1000/day", 1000, 86_400),
            ("7/hour", 7, 3_600),
            ("100/30s", 100, 30),
            ("1 / h", 1, 3_600),
        ] {
            let rate = Rate {
                count,
                per: Duration::from_secs(secs),
            };
            assert_eq!(text.parse(), Ok(rate), "{text}");
        }
    }

    #[test]
    fn a_rate_without_sense_says_what_to_write() {
        for text in [
            "60 per minute",
            "60",
            "0/min",
            "-1/s",
            "+1/s",
            "1/0s",
            "1.5/s",
            "/s",
            "5/fortnight",
            "2000000000/s",
        ] {
            let error = text.parse::<Rate>().expect_err(text);
            assert_eq!(error.help, RATE_HELP, "{text}");
        }
    }

    #[test]
    fn sizes_are_read_as_people_write_them() {
        for (text, bytes) in [
            ("64KiB", 65_536),
            ("16MiB", 16 << 20),
            ("1GiB", 1 << 30),
            ("512B", 512),
            ("0B", 0),
        ] {
            assert_eq!(text.parse(), Ok(Size(bytes)), "{text}");
        }
        for text in ["64", "64kb", "KiB", "-1B", "9999999999GiB"] {
            assert_eq!(
                text.parse::<Size>().expect_err(text).help,
                SIZE_HELP,
                "{text}"
            );
        }
    }

    #[test]
    fn an_error_shows_hostile_text_escaped_and_cut() {
        let error = format!("\u{1b}[31m{}", "x".repeat(500))
            .parse::<Span>()
            .expect_err("no unit");
        assert!(
            !error.message.contains('\u{1b}') && error.message.len() < 120,
            "{error}"
        );
    }

    proptest! {
        #[test]
        fn what_is_printed_is_read_back(millis in 0u64..34_560_000_000, count in 1..=MOST, bytes in 0u64..=1 << 40) {
            let span = Span(Duration::from_millis(millis));
            prop_assert_eq!(span.to_string().parse(), Ok(span));
            let rate = Rate { count, per: Duration::from_millis(millis.max(1)) };
            prop_assert_eq!(rate.to_string().parse(), Ok(rate));
            prop_assert_eq!(Size(bytes).to_string().parse(), Ok(Size(bytes)));
        }

        #[test]
        fn no_text_makes_the_parsers_panic(text in "\\PC{0,24}") {
            let _ = (text.parse::<Span>(), text.parse::<Rate>(), text.parse::<Size>());
        }
    }
}
