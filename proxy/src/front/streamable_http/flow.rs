//! A connection's bytes, watched: whether a host still has something to read.
//!
//! hyper says when a reply has been handed to it, not when the host has got it; at the end of
//! chillgate that is the difference between a whole answer and half of one. Short pieces are put
//! together on the way; the bytes stay the same.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Pieces that are so short together cost less as one: the kernel takes one piece faster than two.
const TOGETHER: usize = 2 << 10;

/// A stream that remembers whether its last write had to wait for the reader.
pub struct Flow<S> {
    stream: S,
    waits: Arc<AtomicBool>,
}

impl<S> Flow<S> {
    /// Watches a stream; `waits` is true while bytes wait for whoever reads it.
    pub fn new(stream: S, waits: Arc<AtomicBool>) -> Self {
        Self { stream, waits }
    }

    fn noted(&self, wrote: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        self.waits.store(wrote.is_pending(), Ordering::Relaxed);
        wrote
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Flow<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buffer)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Flow<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let wrote = Pin::new(&mut self.stream).poll_write(cx, bytes);
        self.noted(wrote)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        pieces: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let all: usize = pieces.iter().map(|piece| piece.len()).sum();
        if pieces.len() > 1 && all <= TOGETHER {
            let mut together = [0; TOGETHER];
            let mut at = 0;
            for piece in pieces {
                together[at..at + piece.len()].copy_from_slice(piece);
                at += piece.len();
            }
            let wrote = Pin::new(&mut self.stream).poll_write(cx, &together[..all]);
            return self.noted(wrote);
        }
        let wrote = Pin::new(&mut self.stream).poll_write_vectored(cx, pieces);
        self.noted(wrote)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
