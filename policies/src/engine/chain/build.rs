//! From `[[policy]]` tables to a chain: every mistake of every table in one report.
//!
//! Apart from the chain because it runs once per configuration and knows the list of kinds, which
//! nothing on a call's path does.

use std::collections::HashSet;
use std::sync::Arc;

use serde_json::{Map, Value};

use super::super::fields::{Fields, Mistake, Wrong};
use super::super::kind::{self, Common};
use super::super::services::Services;
use super::super::{schedule, standing};
use super::{Chain, Link, MOST_POLICIES};
use crate::KINDS;

pub(super) fn chain(tables: &[Value], services: &Services) -> Result<Chain, Vec<Mistake>> {
    let mut links = Vec::new();
    let mut mistakes = Vec::new();
    let mut names = HashSet::new();
    if tables.len() >= MOST_POLICIES {
        let message = format!("more than {} policies", MOST_POLICIES - 1);
        let help = Some("merge some: every key of `match` takes a list".into());
        return Err(vec![Mistake {
            policy: MOST_POLICIES - 1,
            key: Vec::new(),
            message,
            help,
        }]);
    }
    for (index, table) in tables.iter().enumerate() {
        match at_all_times(index, table, services) {
            Ok(link) if !names.insert(Arc::clone(&link.name)) => mistakes.push(twice(index, &link)),
            Ok(link) => links.push(link),
            Err(mut wrong) => mistakes.append(&mut wrong),
        }
    }
    if services.audit.is_some()
        && !links
            .iter()
            .any(|link| link.kind == crate::audit::KIND.name)
    {
        let table = Value::Object(Map::from_iter([("type".to_owned(), "audit".into())]));
        match link(tables.len(), &table, services) {
            Ok(link) => links.push(link),
            Err(mut wrong) => mistakes.append(&mut wrong),
        }
    }
    if mistakes.is_empty() {
        Ok(Chain::new(links, Arc::clone(&services.clock)))
    } else {
        Err(mistakes)
    }
}

/// The policy of a table's own values; those of its schedule are tried and let go.
fn at_all_times(index: usize, table: &Value, services: &Services) -> Result<Link, Vec<Mistake>> {
    let own = link(index, table, services)?;
    let (tables, mut mistakes) = standing::times(table, index);
    for (entry, whole) in tables {
        let wrong = link(index, &whole, services).err().unwrap_or_default();
        let wrong = wrong.into_iter();
        mistakes.extend(wrong.map(|mistake| at_entry(mistake, entry, table)));
    }
    if mistakes.is_empty() {
        Ok(own)
    } else {
        Err(mistakes)
    }
}

/// A mistake in the table that an entry of its schedule makes it.
fn at_entry(mistake: Mistake, entry: usize, table: &Value) -> Mistake {
    let begin = [schedule::KEY.to_owned(), entry.to_string()].into_iter();
    let values = &table[schedule::KEY][entry];
    // What stands elsewhere is right by itself: it is the entry that does not go with it.
    let is_own = mistake
        .key
        .first()
        .is_some_and(|key| values.get(key).is_some());
    let rest = if is_own {
        mistake.key.clone()
    } else {
        Vec::new()
    };
    Mistake {
        key: begin.chain(rest).collect(),
        ..mistake
    }
}

fn link(index: usize, table: &Value, services: &Services) -> Result<Link, Vec<Mistake>> {
    let whole = |wrong: Wrong| {
        vec![Mistake {
            policy: index,
            key: Vec::new(),
            message: wrong.message,
            help: wrong.help,
        }]
    };
    let Value::Object(table) = table else {
        return Err(whole(Wrong::new("a policy is a table", "write [[policy]]")));
    };
    let Some(name) = table.get("type") else {
        let names: Vec<&str> = KINDS.iter().map(|kind| kind.name).collect();
        let help = format!("write type = \"…\", one of {}", names.join(", "));
        return Err(whole(Wrong::new("`type` is missing", help)));
    };
    let kind = kind::find(KINDS, name).map_err(|wrong| {
        let key = vec!["type".to_owned()];
        vec![Mistake {
            policy: index,
            key,
            message: wrong.message,
            help: wrong.help,
        }]
    })?;
    let mut fields = Fields::new(table, index);
    let Common {
        name,
        mode,
        rule,
        answer,
    } = Common::read(&mut fields, kind.name);
    if !kind.keys.iter().any(|key| key.name == "per") {
        fields.forget("per");
    }
    let policy = (kind.build)(&mut fields, &name, services);
    let mistakes = fields.finish();
    match policy {
        Some(policy) if mistakes.is_empty() => Ok(Link {
            tally: services.meter.policy(&name, kind.name),
            name,
            kind: kind.name,
            stage: kind.stage,
            mode,
            rule,
            answer,
            once: kind.once,
            policy,
        }),
        _ => Err(mistakes),
    }
}

fn twice(index: usize, link: &Link) -> Mistake {
    Mistake {
        policy: index,
        key: vec!["name".into()],
        message: format!("a second policy is named \"{}\"", link.name),
        help: Some("give one of them a `name` of its own: counters live under it".into()),
    }
}
