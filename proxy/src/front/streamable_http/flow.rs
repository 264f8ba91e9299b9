//! A connection's bytes, watched: whether a host still has something to read or to say.
//!
//! hyper says when a reply has been handed to it, not when the host has got it; at the end of
//! chillgate that is the difference between a whole answer and half of one. And hyper takes the end
//! of a host's bytes for the end of the connection, where a host may only have closed its half:
//! while a request runs, that end is noted and kept back. And it tells whoever waits how long a
//! request's head takes. Short pieces are put together on the way;
//! the bytes stay the same.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::listen::Traffic;

/// Pieces that are so short together cost less as one: the kernel takes one piece faster than two.
const TOGETHER: usize = 2 << 10;

/// A stream that remembers whether its last write had to wait for the reader.
pub struct Flow<S> {
    stream: S,
    traffic: Arc<Traffic>,
}

impl<S> Flow<S> {
    /// Watches a stream for `traffic`.
    pub(super) fn new(stream: S, traffic: Arc<Traffic>) -> Self {
        Self { stream, traffic }
    }

    fn noted(&self, wrote: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        self.traffic.set_waits(wrote.is_pending());
        wrote
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Flow<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let read = Pin::new(&mut self.stream).poll_read(cx, buffer);
        if !self.traffic.is_used() {
            match read {
                // All of a head that comes in one piece is read before anybody waits for more.
                Poll::Pending => self.traffic.wait_for_head(),
                Poll::Ready(_) if buffer.filled().len() > before => self.traffic.begin(),
                Poll::Ready(_) => {}
            }
        }
        let is_end = matches!(read, Poll::Ready(Ok(()))) && buffer.filled().len() == before;
        if is_end && buffer.remaining() > 0 {
            self.traffic.wake_at_rest(cx.waker());
        }
        if is_end && buffer.remaining() > 0 && self.traffic.is_used() {
            // Whoever carries the request looks again, and finds that this was all.
            if self.traffic.end() {
                cx.waker().wake_by_ref();
            }
            return Poll::Pending;
        }
        read
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
