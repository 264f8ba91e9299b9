//! Systems without a kernel's sandbox: there is nothing to be had, and nothing to be bound by.
//!
//! What follows from that for who asked for one is decided by [`super::build`], as it is for an old
//! Linux.

use super::Kernel;

/// What there is: nothing.
pub fn kernel() -> Kernel {
    Kernel::default()
}

#[cfg(unix)]
pub(in crate::supervisor) use shim::{bind, try_out};

/// What the shim asks for.
#[cfg(unix)]
mod shim {
    use std::io;

    use super::super::{Kernel, Rules};

    /// The same, found out in the child.
    pub(in crate::supervisor) fn try_out() -> Kernel {
        super::kernel()
    }

    /// Who may run without a sandbox does; rules that name one are refused.
    pub(in crate::supervisor) fn bind(rules: &Rules) -> io::Result<()> {
        if rules.landlock > 0 || rules.seccomp {
            return Err(io::ErrorKind::Unsupported.into());
        }
        Ok(())
    }
}
