//! A server that each host reaches with a token of its own, had in exchange for the one that it has
//! shown chillgate.
//!
//! Stands before the server in whatever eras it speaks, so that a host without such a token is told so
//! before anything is opened for it: what is wrong with one host's token is no failure of the server,
//! and nobody else hears of it. It carries nothing itself and sees no token.

use std::sync::Arc;

use async_trait::async_trait;
use chillgate_wire::Envelope;

use crate::backend::{Attended, Backend, BackendError, ChildState, Passage, State};
use crate::client::Http;
use crate::exchange::Exchange;
use crate::incidents::Recognised;
use crate::session::Session;

/// A server behind an exchange of tokens.
#[derive(Debug)]
pub struct Exchanged {
    server: Arc<dyn Backend>,
    http: Http,
}

impl Exchanged {
    /// The server, reached by `http`.
    pub fn new(server: Arc<dyn Backend>, http: Http) -> Self {
        Self { server, http }
    }

    /// Whether there is a token for this host.
    async fn admit(&self, session: &Session) -> Result<(), BackendError> {
        let served = self.http.serves(&session.caller).await;
        served.map_err(|error| BackendError::Caller {
            server: self.server.name().clone(),
            cause: error.to_string(),
        })
    }
}

#[async_trait]
impl Backend for Exchanged {
    fn name(&self) -> &Arc<str> {
        self.server.name()
    }

    async fn call(
        &self,
        exchange: &Arc<Exchange>,
        request: &Envelope,
        passage: Passage,
    ) -> Result<Envelope, BackendError> {
        self.admit(&exchange.session).await?;
        self.server.call(exchange, request, passage).await
    }

    async fn attend(&self, session: &Arc<Session>) -> Result<Attended, BackendError> {
        self.admit(session).await?;
        self.server.attend(session).await
    }

    async fn post(&self, session: &Arc<Session>, note: Envelope) -> Result<(), BackendError> {
        self.admit(session).await?;
        self.server.post(session, note).await
    }

    async fn detach(&self, session: &Arc<Session>) {
        self.server.detach(session).await;
    }

    /// Nobody is there yet in whose name it could be asked.
    async fn warm(&self) {}

    async fn rest(&self) {
        self.server.rest().await;
    }

    async fn sleep(&self) {
        self.server.sleep().await;
    }

    fn state(&self) -> State {
        self.server.state()
    }

    fn children(&self) -> Vec<ChildState> {
        self.server.children()
    }

    fn asleep(&self) -> usize {
        self.server.asleep()
    }

    fn instructions(&self) -> Option<String> {
        self.server.instructions()
    }

    fn supersede(&self) {
        self.server.supersede();
    }

    fn known(&self) -> Option<Arc<Recognised>> {
        self.server.known()
    }

    async fn stop(&self) {
        self.server.stop().await;
    }
}
