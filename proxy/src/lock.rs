//! Taking a mutex that guards plain state.
//!
//! A panic ends one exchange and nobody else's: what it held is whole, because nothing that can
//! panic runs between two halves of a change. So a poisoned lock is taken like any other.

use std::sync::{Mutex, MutexGuard, PoisonError};

/// The guarded state, whatever happened to who held it before.
pub(crate) fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
