//! Standard input and output: one client, one line for each message.
//!
//! It stands apart because what a server of one era refuses has to be refused before the SDK sees
//! it: the first message decides there how the whole connection is run, and a refused handshake
//! would end it. It never writes anything but messages.

use std::sync::Arc;

use anyhow::Context as _;
use rmcp::{
    RoleServer,
    model::ServerJsonRpcMessage,
    serve_server,
    service::{RxJsonRpcMessage, ServerInitializeError, TxJsonRpcMessage},
    transport::{Transport, async_rw::AsyncRwTransport, stdio_pipes},
};

use crate::{house::House, server::Dual};

/// Serves until standard input is closed.
pub(crate) async fn serve(house: Arc<House>) -> anyhow::Result<()> {
    let (input, output) = stdio_pipes();
    let wire = AsyncRwTransport::<RoleServer, _, _>::new(input, output);
    let gate = Gate {
        house: Arc::clone(&house),
        wire,
    };
    match serve_server(Dual::new(house), gate).await {
        Ok(running) => running.waiting().await.map(drop).context("serving stdio"),
        // A client that leaves without a word has done nothing wrong.
        Err(ServerInitializeError::ConnectionClosed(_)) => Ok(()),
        Err(error) => Err(error).context("serving stdio"),
    }
}

/// A transport that answers what belongs to the other era itself.
struct Gate<T> {
    house: Arc<House>,
    wire: T,
}

impl<T: Transport<RoleServer>> Transport<RoleServer> for Gate<T> {
    type Error = T::Error;

    fn send(
        &mut self,
        message: TxJsonRpcMessage<RoleServer>,
    ) -> impl Future<Output = Result<(), Self::Error>> + Send + 'static {
        self.wire.send(message)
    }

    async fn receive(&mut self) -> Option<RxJsonRpcMessage<RoleServer>> {
        loop {
            let Some(message) = self.wire.receive().await else {
                // The SDK would wait for what listens, and that waits for the SDK.
                self.house.close();
                return None;
            };
            let RxJsonRpcMessage::<RoleServer>::Request(request) = &message else {
                return Some(message);
            };
            let Some(error) = self.house.eras.refusal(&request.request) else {
                return Some(message);
            };
            let refusal = ServerJsonRpcMessage::error(error, Some(request.id.clone()));
            // On its own: this future may be dropped at any await, and the refusal with it.
            tokio::spawn(self.wire.send(refusal));
        }
    }

    fn close(&mut self) -> impl Future<Output = Result<(), Self::Error>> + Send {
        self.wire.close()
    }
}
