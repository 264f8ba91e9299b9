//! Systems without a kernel's sandbox: there is nothing to be had, and nothing to be bound by.
//!
//! What follows from that for who asked for one is decided by [`super::build`], as it is for an old
//! Linux.

use std::io;

use super::{Kernel, Rules};

/// What there is: nothing.
pub fn kernel() -> Kernel {
    Kernel::default()
}

/// In the child: the same.
#[cfg(unix)]
pub(in crate::supervisor) fn try_out() -> Kernel {
    kernel()
}

/// Refused: a server that was to be bound must not run free.
#[cfg(unix)]
pub(super) fn bind(_: &Rules) -> io::Result<()> {
    Err(io::ErrorKind::Unsupported.into())
}
