//! What one server is told on behalf of several hosts: levels and subscriptions.
//!
//! The server hears the least severe level that anybody wants and each subscription once; every host
//! is answered as if it were alone. Who hears what comes of it is the audience's matter.

use std::sync::Arc;

use chillgate_wire::Envelope;

use super::{Asked, Pipes};
use crate::backend::BackendError;
use crate::backend::pipe::Pipe;
use crate::backend::said::{level_params, severity};

impl Pipes {
    /// Every host may set its level; the shared server hears of the lowest.
    pub(super) async fn set_level(&self, asked: Asked<'_>) -> Result<Envelope, BackendError> {
        let level = asked.request.text(&["params", "level"]);
        let Some(level) = level.and_then(|name| severity(&name)) else {
            return self.ask(asked).await;
        };
        if !asked.pipe.audience().is_shared() {
            let answer = self.ask(asked).await?;
            if answer.result().is_some() {
                asked.pipe.note_level(level);
            }
            return Ok(answer);
        }
        asked.exchange.session.set_log_level(level);
        if asked.pipe.lower_level(level) {
            return self.ask(asked).await;
        }
        self.own_result(asked.exchange, b"{}")
    }

    /// A host that wants log messages with one request: the server must write them at all.
    pub(super) async fn log_from(&self, pipe: &Arc<Pipe>, level: u8) {
        let can = pipe.greeting().is_some_and(|greeting| greeting.logging);
        if can && pipe.lower_level(level) {
            let params = level_params(level);
            let telling = pipe.request_own("logging/setLevel", &params);
            // The call matters more than its log.
            let _ = tokio::time::timeout(self.0.start_timeout, telling).await;
        }
    }

    /// The shared server's updates of a resource go to those who subscribed to it.
    pub(super) async fn subscribe(&self, asked: Asked<'_>) -> Result<Envelope, BackendError> {
        let audience = asked.pipe.audience();
        if let Some(uri) = asked.request.text(&["params", "uri"])
            && audience.is_shared()
            && audience.wanted().contains(&*uri)
        {
            // Another host has, or this one with the server before.
            audience.subscribe(&asked.exchange.session, &uri);
            return self.own_result(asked.exchange, b"{}");
        }
        let answer = self.ask(asked).await?;
        if let (Some(uri), Some(_)) = (asked.request.text(&["params", "uri"]), answer.result()) {
            asked
                .pipe
                .audience()
                .subscribe(&asked.exchange.session, &uri);
        }
        Ok(answer)
    }

    /// The shared server hears of it when the last host is gone.
    pub(super) async fn unsubscribe(&self, asked: Asked<'_>) -> Result<Envelope, BackendError> {
        let uri = asked.request.text(&["params", "uri"]);
        if uri.is_none_or(|uri| {
            asked
                .pipe
                .audience()
                .unsubscribe(&asked.exchange.session, &uri)
        }) {
            return self.ask(asked).await;
        }
        self.own_result(asked.exchange, b"{}")
    }
}
