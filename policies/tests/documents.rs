//! Presets and README are code: every table in them must build, so that what is copied works.
//!
//! Reads the shipped texts only; what a policy does is tested beside it.

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use chillgate_policies::engine::record::{AuditDown, AuditSink, Event, Record};
use chillgate_policies::engine::{Chain, Clock, Services};
use chillgate_policies::{KINDS, presets};
use futures_util::future::BoxFuture;
use serde_json::Value;

/// Time stands still: nothing here waits.
#[derive(Debug)]
struct Still(Instant);

impl Clock for Still {
    fn now(&self) -> Instant {
        self.0
    }

    fn wall(&self) -> SystemTime {
        SystemTime::UNIX_EPOCH
    }

    fn sleep(&self, _: Duration) -> BoxFuture<'static, ()> {
        Box::pin(std::future::pending())
    }
}

#[derive(Debug)]
struct Nowhere;

impl AuditSink for Nowhere {
    fn append(&self, _: &Record<'_>) -> Result<(), AuditDown> {
        Ok(())
    }

    fn note(&self, _: &Event<'_>) -> Result<(), AuditDown> {
        Ok(())
    }
}

/// Builds the policies of a TOML text; returns their names.
fn build(text: &str) -> Vec<String> {
    let file: Value = toml_edit::de::from_str(text).expect("TOML");
    let tables = file["policy"].as_array().cloned().unwrap_or_default();
    #[expect(
        clippy::disallowed_methods,
        reason = "an `Instant` has no other constructor"
    )]
    let clock = Arc::new(Still(Instant::now()));
    let services = Services {
        audit: Some(Arc::new(Nowhere)),
        ..Services::new(clock)
    };
    let chain = Chain::build(&tables, &services)
        .unwrap_or_else(|mistakes| panic!("{mistakes:#?}\nin\n{text}"));
    chain.policies().into_iter().map(|line| line.name).collect()
}

/// The TOML blocks of the README.
fn blocks() -> Vec<&'static str> {
    let text = include_str!("../README.md");
    text.split("```toml\n")
        .skip(1)
        .filter_map(|rest| rest.split("```").next())
        .collect()
}

#[test]
fn every_preset_builds_and_says_for_whom_it_is() {
    assert_eq!(
        presets::names().collect::<Vec<_>>(),
        ["chill", "dev", "team", "strict"]
    );
    for name in presets::names() {
        let text = presets::get(name).expect("it is listed");
        assert!(
            text.lines().take(3).any(|line| line.starts_with("# For: ")),
            "{name}"
        );
        assert!(!build(text).is_empty(), "{name}");
        let file: Value = toml_edit::de::from_str(text).expect("TOML");
        for table in file["policy"].as_array().into_iter().flatten() {
            assert!(
                table["name"].is_string(),
                "{name}: users replace policies by name: {table}"
            );
        }
    }
    assert_eq!(presets::get("loose"), None);
}

#[test]
fn the_chill_preset_is_what_serve_promises_without_a_config() {
    let file: Value =
        toml_edit::de::from_str(presets::get("chill").expect("it is there")).expect("TOML");
    assert_eq!(file["server"]["chill"]["builtin"], "chill");
    assert_eq!(file["front"][0]["listen"], "127.0.0.1:8800");
    assert_eq!(file["audit"]["file"], "-", "standard output");
    let quota = &file["policy"][0];
    assert_eq!(
        (&quota["allow"], &quota["burst"], &quota["per"]),
        (&"120/min".into(), &20.into(), &"agent".into())
    );
}

#[test]
fn every_example_of_the_readme_builds() {
    assert!(blocks().len() >= 7);
    for block in blocks() {
        assert!(!build(block).is_empty());
    }
}

#[test]
fn the_readme_shows_every_kind_with_every_key() {
    let text = blocks().concat();
    for kind in KINDS {
        assert!(
            text.contains(&format!("= \"{}\"", kind.name)),
            "no example of {}",
            kind.name
        );
        for key in kind.keys {
            assert!(
                text.lines().any(|line| line.starts_with(key.name)),
                "{}: no `{}`",
                kind.name,
                key.name
            );
        }
    }
}
