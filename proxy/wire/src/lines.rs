//! Cutting a byte stream into lines, one message each, as the stdio transport frames them.
//!
//! Bounded whatever the peer sends: a line past the cap is thrown away as it streams in and
//! reported when it ends. It never looks inside a line beyond searching an oversized one for its
//! id, and never reads anything itself.

use bytes::{Bytes, BytesMut};

use crate::id::Id;

mod oversized;

use oversized::Discarded;

/// How much room a read is offered, and what an idle stream holds.
const CHUNK: usize = 16 << 10;
/// With less room than this, a read is not worth its system call.
const ROOM: usize = 4 << 10;

/// The lines of one stream. Fill [`Lines::space`], then take lines until there are none:
///
/// ```
/// # use chillgate_wire::Lines;
/// let mut lines = Lines::new(1 << 20);
/// lines.space().extend_from_slice(b"{}\r\n\n{\"a\":");
/// assert_eq!(lines.next().unwrap().unwrap(), "{}");
/// assert!(lines.next().is_none()); // until there is more
/// ```
#[derive(Debug)]
pub struct Lines {
    buffer: BytesMut,
    cap: usize,
    /// This much of the buffer is known to hold no line feed.
    searched: usize,
    /// The buffer has outgrown a chunk for the line it holds.
    grown: bool,
    discarded: Option<Discarded>,
}

/// A line that was longer than the cap, and is gone.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("line of {bytes} bytes is longer than the limit and was dropped")]
pub struct Oversized {
    /// Its length, line break excluded.
    pub bytes: u64,
    /// The id of the message in it, if one stands near its start or end. Good enough to fail the
    /// one call it answers; the line was never checked.
    pub id: Option<Id>,
}

impl Lines {
    /// Lines of at most `cap` bytes.
    pub fn new(cap: usize) -> Self {
        let buffer = BytesMut::new();
        Self {
            buffer,
            cap,
            searched: 0,
            grown: false,
            discarded: None,
        }
    }

    /// Where to append what was read. The whole buffer is at most one chunk (16 KiB) above the cap,
    /// or two chunks for a small cap, so reading into its free capacity alone, as `read_buf` does,
    /// keeps the stream's memory bounded. Take all lines before asking for space again.
    pub fn space(&mut self) -> &mut BytesMut {
        let len = self.buffer.len();
        // `try_reclaim` takes the old allocation back if no line out of it is alive.
        if self.buffer.capacity() - len < ROOM && !self.buffer.try_reclaim(CHUNK) {
            // Grown by hand, at most doubling: the buffer's own growth knows no bound. From a quarter of
            // the cap on it gets all it may have, so that no more than that is ever there twice.
            let most = self.cap.saturating_add(CHUNK).saturating_sub(len);
            let room = if len < self.cap / 4 { len } else { most };
            let room = room.max(CHUNK);
            let mut larger = BytesMut::with_capacity(len + room);
            larger.extend_from_slice(&self.buffer);
            self.buffer = larger;
            self.grown = len + room > 2 * CHUNK;
        }
        &mut self.buffer
    }

    /// Ends the stream: a last line without line feed, if there is one.
    pub fn finish(&mut self) -> Option<Result<Bytes, Oversized>> {
        if let Some(line) = self.next() {
            return Some(line);
        }
        let rest = self.buffer.split();
        self.searched = 0;
        self.line(rest)
    }

    /// Bytes held for a line that has not ended.
    pub fn buffered(&self) -> usize {
        self.buffer.len()
    }

    /// Judges a line without its line feed; `None` for an empty one.
    fn line(&mut self, mut line: BytesMut) -> Option<Result<Bytes, Oversized>> {
        if let Some(mut discarded) = self.discarded.take() {
            discarded.add(&line);
            return Some(Err(discarded.finish()));
        }
        if line.last() == Some(&b'\r') {
            line.truncate(line.len() - 1);
        }
        if line.is_empty() {
            return None;
        }
        if line.len() > self.cap {
            let mut discarded = Discarded::default();
            discarded.add(&line);
            return Some(Err(discarded.finish()));
        }
        Some(Ok(line.freeze()))
    }

    /// Goes back to a small buffer, so that a large line's memory ends with the line.
    fn give_back(&mut self) {
        if std::mem::take(&mut self.grown) {
            let mut small = BytesMut::with_capacity(CHUNK.max(self.buffer.len()));
            small.extend_from_slice(&self.buffer);
            self.buffer = small;
        }
    }
}

/// The lines that are complete so far: `None` means for now, not for ever. Empty lines are skipped;
/// one CR before the LF belongs to the line break.
impl Iterator for Lines {
    type Item = Result<Bytes, Oversized>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            let fresh = self.buffer.get(self.searched..).unwrap_or_default();
            let Some(feed) = memchr::memchr(b'\n', fresh) else {
                // One more for a CR that belongs to the line break.
                if self.discarded.is_some() || self.buffer.len() > self.cap.saturating_add(1) {
                    self.discarded.get_or_insert_default().add(&self.buffer);
                    self.buffer.clear();
                    self.give_back();
                }
                self.searched = self.buffer.len();
                return None;
            };
            let mut line = self.buffer.split_to(self.searched + feed + 1);
            line.truncate(line.len() - 1);
            self.searched = 0;
            self.give_back();
            if let Some(line) = self.line(line) {
                return Some(line);
            }
        }
    }
}

#[cfg(test)]
mod tests;
