//! What the kernels of Unix have each in a way of its own: the process table, death signals,
//! adoption, namespaces.
//!
//! One file a system, with the same names in each. They look and ask; what follows from the answer
//! is decided elsewhere.

#[cfg(target_os = "linux")]
mod linux;
#[cfg(target_os = "macos")]
mod macos;

#[cfg(target_os = "linux")]
pub(super) use linux::*;
#[cfg(target_os = "macos")]
pub(super) use macos::*;
