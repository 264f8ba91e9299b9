//! ChillMCP's values that may differ from hour to hour, or for a while.
//!
//! Read from a table of their own by the rules of `[server.NAME]`, so that the same values get the
//! same complaints wherever they are written.

use std::collections::BTreeMap;

use chillgate_chill::Settings;
use chillgate_policies::engine::schedule::Schedule;
use chillgate_policies::engine::span::Span;
use serde_json::{Map, Value, json};

use super::hint;
use super::server::{RawServer, Wrong};

/// ChillMCP as it is configured.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Office {
    /// Its own values.
    pub settings: Settings,
    /// Others for some hours.
    pub schedule: Schedule,
}

/// The values that can change while it runs: the boss's.
const CHANGING: [&str; 3] = ["boss-alertness", "boss-alertness-cooldown", "hold"];

impl Office {
    /// The same settings with these values in the place of some.
    pub(crate) fn with(
        settings: &Settings,
        values: &Map<String, Value>,
    ) -> Result<Settings, Vec<Wrong>> {
        let mut all = Self::values(settings);
        let mut wrong = Vec::new();
        for (key, value) in values {
            if !CHANGING.contains(&key.as_str()) {
                let help = match hint::nearest(key, CHANGING) {
                    Some(near) => format!("did you mean `{near}`?"),
                    None => format!("values that can change are {}", hint::list(CHANGING)),
                };
                let shown: String = key.chars().take(40).collect();
                let message =
                    format!("unknown key {shown:?}: ChillMCP has no such value that can change");
                wrong.push(said(key, message, help));
                continue;
            }
            // One by one, so that a mistake is that of its key.
            let alone = json!({ "builtin": "chill", key.clone(): value });
            match serde_json::from_value::<RawServer>(alone) {
                Ok(_) => all.extend([(key.clone(), value.clone())]),
                Err(error) => {
                    let text = error.to_string();
                    let (message, help) = text.split_once('\n').unwrap_or((&text, ""));
                    let line = hint::line(&format!("server.*.{key}")).unwrap_or_default();
                    let help = if help.is_empty() { line } else { help };
                    wrong.push(said(key, format!("`{key}`: {message}"), help.to_owned()));
                }
            }
        }
        if !wrong.is_empty() {
            return Err(wrong);
        }
        all.insert("builtin".to_owned(), "chill".into());
        let raw: RawServer = serde_json::from_value(Value::Object(all)).unwrap_or_default();
        let changed = raw.settings(&mut wrong);
        if !wrong.is_empty() {
            return Err(wrong);
        }
        Ok(Settings {
            alertness: changed.alertness,
            cooldown: changed.cooldown,
            hold: changed.hold,
            ..settings.clone()
        })
    }

    /// Those of its values that can change, as they are written.
    pub fn values(settings: &Settings) -> Map<String, Value> {
        let pairs = BTreeMap::from([
            (CHANGING[0], json!(settings.alertness)),
            (CHANGING[1], Span(settings.cooldown).to_string().into()),
            (CHANGING[2], Span(settings.hold).to_string().into()),
        ]);
        let owned = pairs.into_iter();
        owned.map(|(key, value)| (key.to_owned(), value)).collect()
    }
}

fn said(key: &str, message: String, help: String) -> Wrong {
    Wrong {
        path: vec![key.to_owned()],
        key: false,
        message,
        help,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn with(values: &Value) -> Result<Settings, Vec<Wrong>> {
        let values = values.as_object().expect("a table");
        Office::with(&Settings::default(), values)
    }

    #[test]
    fn the_bosss_values_change_and_others_do_not() {
        let changed = with(&json!({ "boss-alertness": 95, "hold": "5s" })).expect("fine");
        let own = Settings::default();
        assert_eq!(changed.alertness, 95);
        assert_eq!(changed.hold, Duration::from_secs(5));
        assert_eq!((changed.cooldown, changed.lang), (own.cooldown, own.lang));
        for (values, said) in [
            (json!({ "boss-alertness": 101 }), "from 0 to 100, not 101"),
            (json!({ "boss-alertness": "x" }), "`boss-alertness`"),
            (json!({ "hold": "20" }), "needs a unit"),
            (json!({ "lang": "ko" }), "no such value"),
            (json!({ "alertness": 5 }), "no such value"),
        ] {
            let wrong = with(&values).expect_err("a mistake");
            assert!(wrong[0].message.contains(said), "{wrong:?}");
            assert!(!wrong[0].help.is_empty(), "{wrong:?}");
        }
    }
}
