//! How much of anything one message may hold.
//!
//! Apart from the scan so that a front can keep one set for hosts and another for servers. The
//! values are only bounds; nothing here is measured or enforced.

/// The bounds of one message. [`Limits::default`] is what the configuration defaults to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of one message, framing excluded. Default 16 MiB; values past 4 GiB act as 4 GiB.
    pub message: usize,
    /// Open objects and arrays at once; the message's own braces count as one. Default 64.
    pub depth: usize,
    /// Members of one object, at any level. Default 4096.
    pub members: usize,
    /// Messages in one 2025-03-26 batch. Default 50.
    pub batch: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            message: 16 << 20,
            depth: 64,
            members: 4096,
            batch: 50,
        }
    }
}
