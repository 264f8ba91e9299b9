//! Units and words in the configuration: `"16MiB"`, `"20s"`, `"auto"`.
//!
//! Only the joint between serde and [`chillgate_policies::engine::span`], which does the reading.
//! An error's text after its first line break is the help that [`super::report`] prints; nothing
//! else here knows about reports.

use std::fmt;
use std::marker::PhantomData;
use std::time::Duration;

use serde::de::value::{MapAccessDeserializer, SeqAccessDeserializer};
use serde::de::{self, Deserialize, Deserializer, IntoDeserializer, MapAccess, SeqAccess, Visitor};

use chillgate_policies::engine::span::{Size, Span, UnitError};

/// Bytes: `"16MiB"` or a whole number of bytes.
pub fn bytes<'de, D: Deserializer<'de>>(from: D) -> Result<usize, D::Error> {
    from.deserialize_any(Unit::<usize>(PhantomData))
}

/// [`bytes`] for a key that may be absent.
pub fn bytes_opt<'de, D: Deserializer<'de>>(from: D) -> Result<Option<usize>, D::Error> {
    bytes(from).map(Some)
}

/// A length of time: `"20s"`, `"5m"`, `"1h30m"`.
pub fn span<'de, D: Deserializer<'de>>(from: D) -> Result<Duration, D::Error> {
    from.deserialize_any(Unit::<Duration>(PhantomData))
}

/// [`span`] for a key that may be absent.
pub fn span_opt<'de, D: Deserializer<'de>>(from: D) -> Result<Option<Duration>, D::Error> {
    span(from).map(Some)
}

/// One of the words of an enum, given as a string and as nothing else (the layering library would
/// also take the variant's number).
pub fn word<'de, D: Deserializer<'de>, T: Deserialize<'de>>(from: D) -> Result<T, D::Error> {
    T::deserialize(String::deserialize(from)?.into_deserializer())
}

/// [`word`] for a key that may be absent.
pub fn word_opt<'de, D: Deserializer<'de>, T: Deserialize<'de>>(
    from: D,
) -> Result<Option<T>, D::Error> {
    word(from).map(Some)
}

/// One value or a list of them: `"a"` or `["a", "b"]`, `{ … }` or `[{ … }, { … }]`.
pub fn one_or_many<'de, D: Deserializer<'de>, T: Deserialize<'de>>(
    from: D,
) -> Result<Vec<T>, D::Error> {
    from.deserialize_any(OneOrMany(PhantomData))
}

struct OneOrMany<T>(PhantomData<T>);

impl<'de, T: Deserialize<'de>> Visitor<'de> for OneOrMany<T> {
    type Value = Vec<T>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("one or a list")
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<Vec<T>, E> {
        T::deserialize(text.into_deserializer()).map(|one| vec![one])
    }

    fn visit_u64<E: de::Error>(self, number: u64) -> Result<Vec<T>, E> {
        T::deserialize(number.into_deserializer()).map(|one| vec![one])
    }

    fn visit_i64<E: de::Error>(self, number: i64) -> Result<Vec<T>, E> {
        T::deserialize(number.into_deserializer()).map(|one| vec![one])
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Vec<T>, A::Error> {
        T::deserialize(MapAccessDeserializer::new(map)).map(|one| vec![one])
    }

    fn visit_seq<A: SeqAccess<'de>>(self, list: A) -> Result<Vec<T>, A::Error> {
        Vec::deserialize(SeqAccessDeserializer::new(list))
    }
}

/// What the two kinds of unit differ in.
trait FromUnit: Sized {
    const WHAT: &'static str;
    fn read(text: &str) -> Result<Self, UnitError>;
    fn count(number: u64) -> Result<Self, String>;
}

impl FromUnit for usize {
    const WHAT: &'static str = "a size";
    fn read(text: &str) -> Result<Self, UnitError> {
        let Size(bytes) = text.parse()?;
        // 1 TiB at most, which a 64-bit `usize` always holds.
        Ok(usize::try_from(bytes).unwrap_or(usize::MAX))
    }
    fn count(number: u64) -> Result<Self, String> {
        usize::try_from(number)
            .ok()
            .filter(|bytes| *bytes <= 1 << 40)
            .ok_or_else(|| "a size is at most 1024GiB\nwrite a size such as \"16MiB\"".to_owned())
    }
}

impl FromUnit for Duration {
    const WHAT: &'static str = "a span of time";
    fn read(text: &str) -> Result<Self, UnitError> {
        let Span(span) = text.parse()?;
        Ok(span)
    }
    fn count(number: u64) -> Result<Self, String> {
        Err(format!(
            "a span of time needs a unit\nwrite \"{number}s\" if seconds are meant"
        ))
    }
}

struct Unit<T>(PhantomData<T>);

impl<T: FromUnit> Visitor<'_> for Unit<T> {
    type Value = T;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(T::WHAT)
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<T, E> {
        T::read(text).map_err(|wrong| E::custom(format!("{}\n{}", wrong.message, wrong.help)))
    }

    fn visit_u64<E: de::Error>(self, number: u64) -> Result<T, E> {
        T::count(number).map_err(E::custom)
    }

    fn visit_i64<E: de::Error>(self, number: i64) -> Result<T, E> {
        match u64::try_from(number) {
            Ok(number) => self.visit_u64(number),
            Err(_) => Err(E::custom(format!("{} cannot be negative", T::WHAT))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn read(value: impl Into<Value>) -> (Result<usize, String>, Result<Duration, String>) {
        let value: Value = value.into();
        (
            bytes(&value).map_err(|e| e.to_string()),
            span(&value).map_err(|e| e.to_string()),
        )
    }

    #[test]
    fn a_size_is_text_with_a_unit_or_a_number_of_bytes() {
        assert_eq!(read("16MiB").0, Ok(16 << 20));
        assert_eq!(read(4096).0, Ok(4096));
        for wrong in [json!("16 megs"), json!(-1), json!(i64::MAX), json!(1.5)] {
            assert!(read(wrong.clone()).0.is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn a_span_without_a_unit_says_what_to_write() {
        assert_eq!(read("1h30m").1, Ok(Duration::from_mins(90)));
        assert!(read(60).1.is_err_and(|text| text.contains("write \"60s\"")));
        assert!(
            read(-60)
                .1
                .is_err_and(|text| text.contains("cannot be negative"))
        );
    }

    #[test]
    fn a_word_is_never_taken_from_a_number() {
        #[derive(serde::Deserialize, Debug, PartialEq)]
        #[serde(rename_all = "kebab-case")]
        enum Two {
            First,
            Second,
        }
        assert_eq!(word::<_, Two>(&json!("second")).ok(), Some(Two::Second));
        assert_eq!(word::<_, Two>(&json!("first")).ok(), Some(Two::First));
        assert!(word::<_, Two>(&json!(1)).is_err());
    }
}
