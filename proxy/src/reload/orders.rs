//! What an administrator orders: to read the configuration again, to put other values in the place
//! of a policy's for a while, to take them back.
//!
//! Orders come over a short queue from whatever thread has them and are obeyed one after another,
//! beside what else reloads. Each is recorded before it is done: what cannot be recorded is not done.

use std::sync::Arc;
use std::time::Duration;

use chillgate_policies::engine::span::{LONGEST, Span};
use chillgate_policies::engine::{AuditDown, AuditSink as _, Event, standing};
use serde_json::{Map, Value};
use tokio::sync::{mpsc, oneshot};
use tracing::info;

use super::Reloader;
use crate::config::{Office, Server, hint};
use crate::overrides::{Over, Override};
use crate::standing::{mistakes, server_target};

/// Orders that wait.
const QUEUE: usize = 16;
/// How long the data path may take to obey.
const PATIENCE: Duration = Duration::from_secs(10);
/// The longest that an override may be for: what is for longer belongs into the file.
const MOST: Duration = Duration::from_hours(31 * 24);
/// The longest reason, in bytes.
const LONGEST_REASON: usize = 500;

/// Where orders are given; clones are the same.
#[derive(Clone, Debug)]
pub struct Desk(mpsc::Sender<Order>);

/// Why an order is not obeyed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refused {
    /// It is wrong: what, and what to do instead.
    Wrong(String, String),
    /// What it is about is not there: what, and what to do.
    Unknown(String, String),
    /// It cannot be done now.
    Busy(String),
}

/// An override that somebody wants.
#[derive(Clone, Debug, Default)]
pub struct NewOverride {
    /// The policy's name, or `server.NAME`.
    pub policy: String,
    /// The values.
    pub values: Map<String, Value>,
    /// For how long.
    pub span: Duration,
    /// Why.
    pub reason: Option<String>,
}

type Reply<T> = oneshot::Sender<Result<T, Refused>>;

/// One order, and where its answer goes.
#[derive(Debug)]
pub(super) enum Order {
    Reload(String, Reply<u64>),
    Set(NewOverride, String, Reply<Override>),
    End(String, String, Reply<()>),
}

impl Desk {
    pub(super) fn open() -> (Self, mpsc::Receiver<Order>) {
        let (sender, orders) = mpsc::channel(QUEUE);
        (Self(sender), orders)
    }

    /// Reads the configuration again; the generation that is now.
    pub async fn reload(&self, by: String) -> Result<u64, Refused> {
        self.give(|reply| Order::Reload(by, reply)).await
    }

    /// Begins an override.
    pub async fn set(&self, new: NewOverride, by: String) -> Result<Override, Refused> {
        self.give(|reply| Order::Set(new, by, reply)).await
    }

    /// Ends one before its time.
    pub async fn end(&self, id: String, by: String) -> Result<(), Refused> {
        self.give(|reply| Order::End(id, by, reply)).await
    }

    async fn give<T>(&self, order: impl FnOnce(Reply<T>) -> Order) -> Result<T, Refused> {
        let busy = || Refused::Busy("chillgate is busy or stopping; try again".to_owned());
        let (reply, answer) = oneshot::channel();
        self.0.try_send(order(reply)).map_err(|_| busy())?;
        match tokio::time::timeout(PATIENCE, answer).await {
            Ok(Ok(answer)) => answer,
            Ok(Err(_)) | Err(_) => Err(busy()),
        }
    }
}

impl Reloader {
    pub(super) fn obey(&mut self, order: Order) {
        // Who has given up waiting hears nothing; the order was obeyed all the same.
        match order {
            Order::Reload(by, reply) => {
                let _ = reply.send(self.told_to_reload(&by));
            }
            Order::Set(new, by, reply) => {
                let _ = reply.send(self.set(new, by));
            }
            Order::End(id, by, reply) => {
                let _ = reply.send(self.end(&id, by));
            }
        }
    }

    /// An event of this chillgate, with nothing in it.
    pub(super) fn event(&self) -> Event<'_> {
        Event {
            instance: &self.fixtures.services.instance,
            ..Event::default()
        }
    }

    /// Takes an event down, where there is an audit log.
    pub(super) fn record(&self, event: &Event<'_>) -> Result<(), AuditDown> {
        self.audit
            .as_ref()
            .map_or(Ok(()), |audit| audit.note(event))
    }

    fn told_to_reload(&mut self, by: &str) -> Result<u64, Refused> {
        let event = Event {
            action: "reload",
            by,
            ..self.event()
        };
        self.record(&event)
            .map_err(|down| Refused::Busy(down.to_string()))?;
        self.reload().map_err(|report| {
            let text = report.render(false);
            Refused::Wrong(
                "the new configuration is wrong; the old one goes on".to_owned(),
                text,
            )
        })
    }

    fn set(&mut self, new: NewOverride, by: String) -> Result<Override, Refused> {
        let NewOverride {
            policy,
            values,
            span,
            reason,
        } = new;
        let wrong = |text: String, help: &str| Err(Refused::Wrong(text, help.to_owned()));
        if span < Duration::from_secs(1) || span > MOST.min(LONGEST) {
            let text = format!("an override cannot be for {}", Span(span));
            return wrong(
                text,
                "write from \"1s\" to \"31d\"; what is for good belongs into the file",
            );
        }
        if values.is_empty() {
            return wrong(
                "an override has a value at least".to_owned(),
                "write alertness=95",
            );
        }
        let is_sly =
            |text: &String| text.len() > LONGEST_REASON || text.chars().any(char::is_control);
        if reason.as_ref().is_some_and(is_sly) {
            return wrong(
                "the reason is too long".to_owned(),
                "write one line of at most 500 bytes",
            );
        }
        let name = self.try_values(&policy, &values)?;
        let at = self.moment();
        let mut new = Override::new(name, values, span, at);
        (new.by, new.reason) = (by, reason);
        let (values, until) = (Value::from(new.values.clone()), new.until(at));
        let until = chillgate_policies::engine::hours::spelled(until);
        let event = Event {
            action: "override-set",
            by: &new.by,
            policy: Some(&new.policy),
            id: Some(&new.id),
            values: Some(&values),
            until: Some(&until),
            reason: new.reason.as_deref(),
            ..self.event()
        };
        self.record(&event)
            .map_err(|down| Refused::Busy(down.to_string()))?;
        let help = || "chillgate override list".to_owned();
        let added = self.fixtures.overrides.add(new.clone());
        added.map_err(|text| Refused::Wrong(text, help()))?;
        let (id, policy, by) = (&new.id, &new.policy, &new.by);
        info!(id, %policy, %values, until, by, "An override holds from now on.");
        self.switch();
        Ok(new)
    }

    fn end(&mut self, id: &str, by: String) -> Result<(), Refused> {
        if let Some(audit) = &self.audit
            && let Some(trouble) = audit.trouble()
        {
            return Err(Refused::Busy(AuditDown(trouble).to_string()));
        }
        let over = Over {
            by,
            reason: "it was told to end".to_owned(),
        };
        if !self.fixtures.overrides.end(id, over) {
            let shown: String = id.chars().take(40).collect();
            let text = format!("no override {shown:?} runs");
            return Err(Refused::Unknown(text, "chillgate override list".to_owned()));
        }
        self.switch();
        Ok(())
    }

    /// The full name of what is meant, unless these values do not go with it.
    fn try_values(&self, policy: &str, values: &Map<String, Value>) -> Result<Arc<str>, Refused> {
        let overrides = &self.fixtures.overrides;
        let with_others = |name: &str| {
            let mut all = overrides.of(name);
            all.extend(values.clone());
            all
        };
        let tables = self.raw.policy.iter();
        let named = tables.map(|table| (standing::name(table), table));
        if let Some((name, table)) = named.clone().find(|(name, _)| &**name == policy) {
            if let Some((_, it)) = standing::fixed(table, values) {
                return Err(Refused::Wrong(it.message, it.help.unwrap_or_default()));
            }
            let table = standing::replaced(table, &with_others(&name));
            return match mistakes(&table, &self.fixtures.services).into_iter().next() {
                None => Ok(name),
                Some(it) => Err(Refused::Wrong(it.message, it.help.unwrap_or_default())),
            };
        }
        let servers = self
            .raw
            .server
            .iter()
            .filter_map(|(name, server)| match server {
                Server::Builtin(office) => Some((server_target(name.as_str()), office)),
                _ => None,
            });
        if let Some((name, office)) = servers.clone().find(|(name, _)| name == policy) {
            return match Office::with(&office.settings, &with_others(&name)) {
                Ok(_) => Ok(name.into()),
                Err(wrong) => {
                    let first = wrong.into_iter().next();
                    let said = first.map(|it| (it.message, it.help)).unwrap_or_default();
                    Err(Refused::Wrong(said.0, said.1))
                }
            };
        }
        let known: Vec<String> = named
            .map(|(name, _)| name.to_string())
            .chain(servers.map(|(name, _)| name))
            .collect();
        let known = || known.iter().map(String::as_str);
        let help = match hint::nearest(policy, known()) {
            Some(near) => format!("did you mean `{near}`?"),
            None => format!("there are {}", hint::list(known())),
        };
        let shown: String = policy.chars().take(64).collect();
        Err(Refused::Unknown(
            format!("there is no policy {shown:?}"),
            help,
        ))
    }
}
