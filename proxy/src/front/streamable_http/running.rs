//! A call that may outlive its connection.
//!
//! Until revision 2025-11-25 a host that disconnects has not cancelled anything (MCP transports:
//! "disconnection SHOULD NOT be interpreted as the client cancelling its request"). So a call
//! whose connection goes is handed to the gate's tasks and runs to its end there. Since 2026-07-28
//! it is the very way to cancel one request.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use chillgate_wire::{Envelope, Era};

use crate::exchange::Exchange;
use crate::gate::{Answer, Gate};

/// A call on its way; dropped early, it goes on without its host.
pub struct Running {
    call: Option<Pin<Box<dyn Future<Output = Answer> + Send>>>,
    exchange: Arc<Exchange>,
    gate: Gate,
}

impl Running {
    /// Begins a call.
    pub fn new(gate: Gate, exchange: Arc<Exchange>, request: Envelope) -> Self {
        let call = Box::pin(gate.handle(exchange.clone(), request));
        Self {
            call: Some(call),
            exchange,
            gate,
        }
    }

    /// What travels beside it.
    pub fn exchange(&self) -> &Arc<Exchange> {
        &self.exchange
    }
}

impl Future for Running {
    type Output = Answer;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Answer> {
        let Some(call) = &mut self.call else {
            return Poll::Pending;
        };
        let answer = std::task::ready!(call.as_mut().poll(cx));
        self.call = None;
        Poll::Ready(answer)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Some(call) = self.call.take()
            && self.exchange.session.era() == Era::Legacy
        {
            self.exchange.detach();
            self.gate.tasks().spawn(call);
        }
    }
}
