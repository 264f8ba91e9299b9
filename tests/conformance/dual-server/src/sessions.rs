//! The SDK's sessions, with a handle on the stream that each request is answered on.
//!
//! They stand apart because a handler of the SDK does not learn its stream, and one tool has to end
//! its own in the middle of a call. Everything else is the SDK's. Nothing here is ever used by a
//! 2026-07-28 client, which has no session.

use std::time::Duration;

use futures_util::{Stream, stream::poll_fn};
use rmcp::{
    model::{ClientJsonRpcMessage, GetExtensions, ServerJsonRpcMessage},
    transport::streamable_http_server::{
        SessionId, SessionManager,
        session::{
            ServerSseMessage,
            local::{LocalSessionHandle, LocalSessionManager, LocalSessionManagerError},
        },
    },
};

/// After how long a client comes back that has lost its stream.
pub(crate) const COMING_BACK: Duration = Duration::from_millis(300);

/// The stream on which one request is answered.
#[derive(Clone)]
pub(crate) struct AnswerStream {
    session: LocalSessionHandle,
    number: u64,
}

impl AnswerStream {
    /// Ends the stream; what is still to come waits for the client's return.
    pub(crate) async fn close(&self) {
        // A session that has ended has no streams left to end.
        let _ = self
            .session
            .close_sse_stream(self.number, Some(COMING_BACK))
            .await;
    }
}

pub(crate) struct Sessions {
    local: LocalSessionManager,
}

impl Sessions {
    pub(crate) fn new() -> Self {
        let mut local = LocalSessionManager::default();
        local.session_config.sse_retry = Some(COMING_BACK);
        Self { local }
    }

    async fn handle(&self, id: &SessionId) -> Result<LocalSessionHandle, LocalSessionManagerError> {
        let known = self.local.sessions.read().await.get(id).cloned();
        known.ok_or_else(|| LocalSessionManagerError::SessionNotFound(id.clone()))
    }
}

impl SessionManager for Sessions {
    type Error = LocalSessionManagerError;
    type Transport = <LocalSessionManager as SessionManager>::Transport;

    async fn create_session(&self) -> Result<(SessionId, Self::Transport), Self::Error> {
        self.local.create_session().await
    }

    async fn initialize_session(
        &self,
        id: &SessionId,
        message: ClientJsonRpcMessage,
    ) -> Result<ServerJsonRpcMessage, Self::Error> {
        self.local.initialize_session(id, message).await
    }

    async fn has_session(&self, id: &SessionId) -> Result<bool, Self::Error> {
        self.local.has_session(id).await
    }

    async fn close_session(&self, id: &SessionId) -> Result<(), Self::Error> {
        self.local.close_session(id).await
    }

    async fn create_stream(
        &self,
        id: &SessionId,
        mut message: ClientJsonRpcMessage,
    ) -> Result<impl Stream<Item = ServerSseMessage> + Send + Sync + 'static, Self::Error> {
        let session = self.handle(id).await?;
        let opened = session.establish_request_wise_channel().await?;
        let number = opened.http_request_id;
        if let (ClientJsonRpcMessage::Request(request), Some(number)) = (&mut message, number) {
            let stream = AnswerStream {
                session: session.clone(),
                number,
            };
            request.request.extensions_mut().insert(stream);
        }
        session.push_message(message, number).await?;
        let mut events = opened.inner;
        Ok(poll_fn(move |context| events.poll_recv(context)))
    }

    async fn accept_message(
        &self,
        id: &SessionId,
        message: ClientJsonRpcMessage,
    ) -> Result<(), Self::Error> {
        self.local.accept_message(id, message).await
    }

    async fn create_standalone_stream(
        &self,
        id: &SessionId,
    ) -> Result<impl Stream<Item = ServerSseMessage> + Send + Sync + 'static, Self::Error> {
        self.local.create_standalone_stream(id).await
    }

    async fn resume(
        &self,
        id: &SessionId,
        last_event_id: String,
    ) -> Result<impl Stream<Item = ServerSseMessage> + Send + Sync + 'static, Self::Error> {
        self.local.resume(id, last_event_id).await
    }
}
