//! What can end a connection other than its peer closing it.
//!
//! A call that fails is an answer, not an error; it never comes here.

use rmcp::service::ServerInitializeError;
use thiserror::Error;

/// Why [`Chill::serve`](crate::Chill::serve) ended early. The levels are untouched, and another
/// connection can be served at once.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum ChillError {
    /// The first message was not a request that MCP begins with. What it was is not repeated: it
    /// may hold anything.
    #[error("chillmcp heard something else before initialize; send initialize first")]
    NotInitialized,
    /// `initialize` was refused; its sender has been told the same.
    #[error("chillmcp refused initialize: {0}")]
    Refused(String),
    /// The stream failed while the connection was being opened.
    #[error("chillmcp could not answer initialize")]
    Io(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// The connection's task died.
    #[error("chillmcp's connection broke down")]
    Broken(#[source] tokio::task::JoinError),
}

impl From<ServerInitializeError> for ChillError {
    fn from(cause: ServerInitializeError) -> Self {
        match cause {
            ServerInitializeError::ExpectedInitializeRequest(_) => ChillError::NotInitialized,
            ServerInitializeError::InitializeFailed(told) => {
                ChillError::Refused(told.message.into_owned())
            }
            other => ChillError::Io(Box::new(other)),
        }
    }
}
